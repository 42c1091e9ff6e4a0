//! Metrics of a worker of Temporal's: the pool's and Core's, at one address; and its logs.

mod common;

use common::{Program, Scene, eventually, results};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prometheus_parse::{Scrape, Value};
use serde_json::Value as Json;
use shmworker::temporal::{
    activity::Activities,
    sample::{self, EchoActivities},
};
use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::TcpStream,
    process::ExitCode,
};

const TESTS: &[(&str, common::Test)] = &common::tests![
    core_and_the_pool_are_at_one_address
    metrics_outlive_a_bridge
    what_is_logged_says_of_whom_it_is
];

/// With a command of `shmworker` as its first argument this program is the sample worker, whose activity logs.
fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|arg| arg == "run") {
        let activities =
            Activities::new().register_as(EchoActivities::echo_pid_activity, |_, input: String| async move {
                tracing::warn!(length = input.len(), "an echo");
                println!("plain");
                Ok(format!("{input} | activity-pid:{}", std::process::id()))
            });
        return sample::worker().activities(activities).main();
    }
    common::run(TESTS)
}

fn scrape(address: &str) -> (String, Scrape) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let scrape = Scrape::parse(body.lines().map(|line| Ok(line.to_owned()))).unwrap();
    (body.to_owned(), scrape)
}

/// The sum over all series of this name with these labels.
fn sum(scrape: &Scrape, name: &str, labels: &[(&str, &str)]) -> f64 {
    let is_it = |s: &&prometheus_parse::Sample| {
        s.metric == name && labels.iter().all(|(label, is)| s.labels.get(label) == Some(is))
    };
    let value = |s: &prometheus_parse::Sample| match s.value {
        Value::Counter(n) | Value::Gauge(n) | Value::Untyped(n) => n,
        _ => 0.0,
    };
    scrape.samples.iter().filter(is_it).map(value).sum()
}

fn address(pool: &mut common::Pool) -> String {
    let line = pool.program.says("the address of the metrics", 1, |line| line.starts_with("metrics: http://"));
    line["metrics: http://".len()..].trim_end_matches("/metrics").to_owned()
}

fn core_and_the_pool_are_at_one_address(scene: &Scene<'_>) {
    let mut pool = scene.pool(2, 1, &["--metrics", "127.0.0.1:0"]);
    let address = address(&mut pool);
    results(&mut scene.starter(5, &[]), 5);
    // Core counts a workflow once the server has answered it, which may be after its result is known.
    let (text, told) = eventually("Core has counted all workflows", || {
        let (text, told) = scrape(&address);
        (sum(&told, "temporal_workflow_completed_total", &[]) >= 5.0).then_some((text, told))
    });
    // The sample workflow has one activity.
    let activities = [("task", "activity"), ("status", "completed")];
    assert_eq!(sum(&told, "shmworker_tasks_total", &activities), 5.0, "{text}");
    let activations = [("task", "workflow activation"), ("status", "completed")];
    assert!(sum(&told, "shmworker_tasks_total", &activations) >= 10.0, "{text}");
    assert_eq!(sum(&told, "shmworker_processes", &[("kind", "workflow-worker")]), 2.0, "{text}");
    assert_eq!(sum(&told, "shmworker_processes", &[("kind", "bridge")]), 1.0, "{text}");
    assert_eq!(sum(&told, "temporal_workflow_completed_total", &[]), 5.0, "{text}");
    assert!(sum(&told, "temporal_request_total", &[]) > 0.0, "{text}");

    let dashboard = include_str!("../docs/grafana.json");
    let words = dashboard.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let named: BTreeSet<_> = words.filter(|word| word.starts_with("temporal_")).collect();
    assert!(named.len() > 3, "{named:?}");
    for name in named {
        let is_there = |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        assert!(text.lines().any(is_there), "the dashboard asks for {name}, which nobody serves: {text}");
    }
    pool.ends();
}

fn metrics_outlive_a_bridge(scene: &Scene<'_>) {
    let mut pool = scene.pool(1, 1, &["--metrics", "127.0.0.1:0"]);
    let address = address(&mut pool);
    results(&mut scene.starter(1, &[]), 1);
    let activities = [("task", "activity"), ("status", "completed")];
    let (_, before) = scrape(&address);
    assert_eq!(sum(&before, "shmworker_tasks_total", &activities), 1.0);
    assert_eq!(sum(&before, "shmworker_deaths_total", &[]), 0.0);
    pool.kill("bridge");
    // The next one answers, sooner or later: who asks waits for it.
    let (_, after) = scrape(&address);
    assert_eq!(sum(&after, "shmworker_deaths_total", &[]), 1.0);
    assert_eq!(sum(&after, "shmworker_tasks_total", &activities), 1.0, "what was counted stays");
    eventually("Core's metrics are there again", || {
        let (_, told) = scrape(&address);
        (sum(&told, "temporal_num_pollers", &[]) > 0.0).then_some(())
    });
    pool.ends();
}

fn what_is_logged_says_of_whom_it_is(scene: &Scene<'_>) {
    let mut program = Program::start(scene.own(&["run", "-w", "1", "-a", "1", "--log-format", "json"]));
    let parsed = |line: &str| serde_json::from_str::<Json>(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    program.says("that it works", 1, |line| line.contains("waiting for keyboard interrupt"));
    results(&mut scene.starter(1, &[]), 1);
    let logged = parsed(&program.says("what the activity logs", 1, |line| line.contains("an echo")));
    assert_eq!(logged["message"], "an echo");
    assert_eq!((&logged["level"], &logged["worker"]), (&"WARN".into(), &"activity-worker:0".into()), "{logged}");
    assert_eq!((&logged["task"], &logged["attempt"]), (&"echo_pid_activity".into(), &1.into()), "{logged}");
    assert!(logged["workflow_id"].as_str().is_some_and(|id| id.starts_with("ParallelizedWorkflow-")), "{logged}");
    assert!(logged["length"].as_u64() > Some(0) && logged["timestamp"].is_string(), "{logged}");
    let printed = parsed(&program.says("what it prints", 1, |line| line.contains("plain")));
    assert_eq!((&printed["worker"], &printed["stream"]), (&"activity-worker:0".into(), &"stdout".into()), "{printed}");

    let victims = program.children();
    let victim = victims.last().unwrap().pid;
    kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
    let died = parsed(&program.says("a death", 1, |line| line.contains("worker exited unexpectedly")));
    assert_eq!((&died["level"], &died["pid"]), (&"ERROR".into(), &victim.into()), "{died}");
    assert_eq!(died["worker"], "activity-worker:0");
    program.signal(Signal::SIGTERM);
    assert_eq!(program.end().code(), Some(0));
    assert!(program.stdout().is_empty(), "{:?}", program.stdout());
    let lines: Vec<Json> = program.stderr().iter().map(|line| parsed(line)).collect();
    let ended = lines.iter().filter(|line| line["message"] == "ended" && line["pid"].is_u64()).count();
    assert!(ended >= 3, "{lines:?}");
}
