//! Spans of Temporal's tasks, as a collector gets them.

#[path = "common/collector.rs"]
mod collector;
mod common;

use collector::{Collector, hex, text};
use common::{EVENT_TIMER_STARTED, Scene, eventually, results};
use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use serde_json::Value as Json;
use shmworker::temporal::{
    activity::{Activities, ActivityContext, ApplicationFailure},
    sample::{self, EchoActivities},
};
use std::{collections::BTreeSet, net::TcpListener, process::ExitCode};

const TESTS: &[(&str, common::Test)] = &common::tests![
    a_trace_leads_from_the_starter_to_the_activity
    a_run_that_nobody_traces_is_a_trace_of_its_own
    what_is_replayed_has_no_second_span
    each_attempt_has_a_span_and_its_handler_knows_it
    a_collector_that_is_not_there_costs_no_task
];

/// With a command of `shmworker` as its first argument this program is the sample worker, whose activity fails, then kills its process,
/// then works, and says of which span it is each time.
fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|arg| arg == "run") {
        let echo = |context: ActivityContext, input: String| async move {
            let attempt = context.info().attempt;
            let header = context.headers().get("_tracer-data").map(|header| String::from_utf8_lossy(&header.data));
            let parent = context.traceparent().unwrap_or_default();
            println!("attempt {attempt} of {parent} by {}", header.unwrap_or_default());
            match attempt {
                1 => Err(ApplicationFailure::new("not yet".to_owned()).into()),
                2 => std::process::abort(),
                _ => Ok(format!("{input} | activity-pid:{}", std::process::id())),
            }
        };
        return sample::worker()
            .activities(Activities::new().register_as(EchoActivities::echo_pid_activity, echo))
            .main();
    }
    common::run(TESTS)
}

const RUN: &str = "RunWorkflow:ParallelizedWorkflow";
const ACTIVITY: &str = "RunActivity:echo_pid_activity";

/// In the order in which they began.
fn in_order(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_by_key(|span| span.start_time_unix_nano);
    spans
}

#[track_caller]
fn is_done(span: &Span, worker: &str) {
    assert_eq!(span.kind(), SpanKind::Server);
    assert_eq!((&text(span, "shmworker.status")[..], &text(span, "shmworker.worker")[..]), ("done", worker));
    assert!(span.status.as_ref().is_none_or(|status| status.code() == StatusCode::Unset), "{span:?}");
    let [begun] = &span.events[..] else { panic!("{span:?}") };
    let times = [span.start_time_unix_nano, begun.time_unix_nano, span.end_time_unix_nano];
    assert!(begun.name == "begun" && times.is_sorted() && times[0] > 0, "{times:?}");
}

fn a_trace_leads_from_the_starter_to_the_activity(scene: &Scene<'_>) {
    let collector = Collector::start();
    let mut pool = scene.pool(1, 1, &["--otlp", &collector.url]);
    let echo = results(&mut scene.starter(1, &["--otlp", &collector.url]), 1)[0];
    pool.stop(Signal::SIGTERM);

    let start = collector.one("StartWorkflow:ParallelizedWorkflow");
    assert!(start.parent_span_id.is_empty() && start.kind() == SpanKind::Client, "{start:?}");
    let runs = in_order(collector.named(RUN));
    assert_eq!(runs.len(), 2, "before the activity and after it: {runs:?}");
    let activity = collector.one(ACTIVITY);
    assert_eq!(collector.spans.lock().unwrap().len(), 4);

    for run in &runs {
        assert_eq!((&run.trace_id, &run.parent_span_id), (&start.trace_id, &start.span_id));
        assert_eq!(text(run, "process.pid"), echo.starting.to_string());
        assert_eq!(text(run, "temporalWorkflowID"), text(&start, "temporalWorkflowID"));
        is_done(run, "workflow-worker:0");
    }
    assert_eq!((&activity.trace_id, &activity.parent_span_id), (&start.trace_id, &runs[0].span_id));
    assert_eq!(text(&activity, "process.pid"), echo.activity.to_string());
    assert_eq!(text(&activity, "temporalRunID"), text(&runs[0], "temporalRunID"));
    assert_eq!(text(&activity, "temporalAttempt"), "1");
    is_done(&activity, "activity-worker:0");
}

fn a_run_that_nobody_traces_is_a_trace_of_its_own(scene: &Scene<'_>) {
    let collector = Collector::start();
    let mut pool = scene.pool(2, 1, &["--otlp", &collector.url]);
    results(&mut scene.starter(3, &[]), 3);
    pool.stop(Signal::SIGTERM);
    let (runs, activities) = (in_order(collector.named(RUN)), collector.named(ACTIVITY));
    assert_eq!((runs.len(), activities.len()), (6, 3));
    let traces: BTreeSet<_> = runs.iter().map(|run| run.trace_id.clone()).collect();
    assert_eq!(traces.len(), 3);
    for trace in traces {
        let of_trace: Vec<_> = runs.iter().filter(|run| run.trace_id == trace).collect();
        let [first, second] = of_trace[..] else { panic!("{runs:?}") };
        assert!(first.parent_span_id.is_empty() && second.parent_span_id == first.span_id, "{of_trace:?}");
        assert_eq!(text(first, "temporalRunID"), text(second, "temporalRunID"));
        let [activity] = &activities.iter().filter(|a| a.trace_id == trace).collect::<Vec<_>>()[..] else { panic!() };
        assert_eq!(activity.parent_span_id, first.span_id);
    }
}

fn what_is_replayed_has_no_second_span(scene: &Scene<'_>) {
    let collector = Collector::start();
    let mut pool = scene.pool(1, 1, &["--otlp", &collector.url]);
    let mut starter = scene.starter(1, &["--workflow", "TimerWorkflow", "--input", "3000"]);
    eventually("its run is parked", || {
        scene.server.histories(scene.namespace).iter().any(|h| h.ends_with(EVENT_TIMER_STARTED)).then_some(())
    });
    pool.kill("workflow-worker:0");
    let echo = results(&mut starter, 1)[0];
    assert_ne!(echo.starting, echo.ending, "it was replayed");
    pool.ends();
    let runs = in_order(collector.named("RunWorkflow:TimerWorkflow"));
    assert_eq!(runs.len(), 3, "{runs:?}");
    runs.iter().for_each(|run| is_done(run, "workflow-worker:0"));
    let [first, second, third] = &runs[..] else { unreachable!() };
    assert_eq!((&second.trace_id, &second.parent_span_id), (&first.trace_id, &first.span_id));
    // Where it was replayed nobody knows of its first span.
    assert!(third.trace_id == first.trace_id && third.parent_span_id.is_empty(), "{third:?}");
    let pids = runs.iter().map(|run| text(run, "process.pid")).collect::<Vec<_>>();
    assert_ne!(pids[1], pids[2], "{pids:?}");
    assert_eq!(collector.named(ACTIVITY).len(), 1);
}

fn each_attempt_has_a_span_and_its_handler_knows_it(scene: &Scene<'_>) {
    let collector = Collector::start();
    let mut program = common::Program::start(scene.own(&["run", "-w", "1", "-a", "1", "--otlp", &collector.url]));
    program.says("that it works", 1, |line| line.contains("waiting for keyboard interrupt"));
    results(&mut scene.starter(1, &["--otlp", &collector.url]), 1);
    program.signal(Signal::SIGTERM);
    assert_eq!(program.end().code(), Some(0));

    let attempts = in_order(collector.named(ACTIVITY));
    let told: Vec<_> = attempts.iter().map(|a| (text(a, "temporalAttempt"), text(a, "shmworker.status"))).collect();
    let expected = [("1", "failed"), ("2", "died"), ("3", "done")].map(|(n, status)| (n.to_owned(), status.to_owned()));
    assert_eq!(told, expected);
    let parent = &in_order(collector.named(RUN))[0].span_id;
    for (attempt, error) in attempts.iter().zip(["not yet", "the activity process died: signal 6 (SIGABRT)", ""]) {
        assert_eq!(attempt.parent_span_id, *parent);
        let status = attempt.status.clone().unwrap_or_default();
        assert_eq!(
            (status.message.contains(error), status.code() == StatusCode::Error),
            (true, !error.is_empty()),
            "{status:?}"
        );
        let n = text(attempt, "temporalAttempt");
        let line = program.stdout().into_iter().find_map(|line| {
            Some(line.strip_prefix("[activity-worker:0] ")?.strip_prefix(&format!("attempt {n} of "))?.to_owned())
        });
        let line = line.unwrap_or_else(|| panic!("attempt {n} says nothing: {:?}", program.stdout()));
        let (parent, header) = line.split_once(" by ").unwrap();
        assert_eq!(parent, format!("00-{}-{}-01", hex(&attempt.trace_id), hex(&attempt.span_id)));
        assert_eq!(serde_json::from_str::<Json>(header).unwrap(), serde_json::json!({ "traceparent": parent }));
    }
}

fn a_collector_that_is_not_there_costs_no_task(scene: &Scene<'_>) {
    let nobody = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let mut pool = scene.pool(1, 1, &["--otlp", &nobody]);
    results(&mut scene.starter(2, &[]), 2);
    pool.stop(Signal::SIGTERM);
    let said = pool.program.stderr();
    assert!(said.iter().any(|line| line.starts_with("[bridge] ") && line.contains("HTTP export failed")), "{said:?}");
}
