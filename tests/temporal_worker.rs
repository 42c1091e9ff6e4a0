//! What a program sets of its worker, in code and on the command line, on a real Temporal server.
//!
//! This program is also the worker: with a command of `shmworker` as its first argument it is one of the programs below, which
//! one says an environment variable.

mod common;

use common::{EVENT_TASK_FAILED, EVENT_TASK_TIMED_OUT, Pool, Program, Scene, eventually};
use futures_util::future::{BoxFuture, FutureExt};
use nix::sys::signal::Signal;
use prost_reflect::prost_types::Timestamp;
use serde_json::{Value, json};
use shmworker::{
    cli::exit,
    temporal::{
        DataConverter, Worker, WorkflowErrorType, WorkflowInterceptor, WorkflowInterceptorConstructor,
        activity::{
            Activities, ActivityContext, ActivityError, ActivityInterceptor, ExecuteActivityInput, ExecuteActivityNext,
            ExecuteActivityOutput,
        },
        connect::ConnectFlags,
        workflow::Workflows,
    },
};
use std::{
    collections::BTreeSet,
    future::poll_fn,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, ExitCode},
    task::{Context, Poll},
    thread,
    time::{Duration, SystemTime},
};
use temporalio_common::{
    data_converters::{
        DefaultFailureConverter, PayloadCodec, PayloadConversionError, PayloadConverter, SerializationContextData,
    },
    error::ApplicationFailure,
    protos::temporal::api::common::v1::Payload,
};
use temporalio_macros::{activity_definitions, workflow, workflow_methods};
use temporalio_workflow::{
    ActivityOptions, LocalActivityOptions, SyncWorkflowContext, WorkflowContext, WorkflowContextView, WorkflowResult,
    WorkflowTermination, join_all,
    workflow_interceptors::{
        ExecuteWorkflowInput, ExecuteWorkflowResult, WorkflowInterceptorContext, WorkflowInterceptorFuture,
        WorkflowNext, WorkflowOutputValue,
    },
};

const TESTS: &[(&str, common::Test)] = &common::tests![
    one_queue_serves_workflows_and_activities
    the_server_sees_no_plain_payload
    interceptors_lie_around_workflows_and_activities
    what_is_typed_wins_over_what_the_program_sets
    non_determinism_fails_the_workflow_where_the_program_says_so
    activities_start_no_faster_than_the_rates_allow
    no_more_local_activities_run_at_a_time_than_was_said
    heartbeats_go_out_as_often_as_the_throttle_allows
    a_task_leaves_the_sticky_queue_of_a_dead_bridge_when_its_time_is_over
    a_version_of_a_deployment_is_known_to_the_server
    slots_may_follow_the_resources_of_the_machine
    a_program_may_run_its_worker_itself
    a_dev_server_with_its_web_ui_is_started_on_demand
    the_example_tells_its_progress_and_takes_more_files
    the_worker_of_the_readme_greets
];

/// Which program this is.
const PROGRAM: &str = "SHMWORKER_TEST_WORKER";
/// A command of a program that knows the library alone.
const LIBRARY: &str = "library";
const QUEUE: &str = "set-by-the-program";

fn main() -> ExitCode {
    if let Some(command) = std::env::args().nth(1).filter(|arg| ["run", "starter", LIBRARY].contains(&arg.as_str())) {
        let worker = worker(&std::env::var(PROGRAM).unwrap_or_default());
        return if command == LIBRARY { library(worker) } else { worker.main() };
    }
    common::run(TESTS)
}

// ---- the programs -------------------------------------------------------------------------------------------------------

fn worker(program: &str) -> Worker {
    let workflows = Workflows::new()
        .register::<Greet>()
        .register::<Foreign>()
        .register::<Ticks>()
        .register::<Crowd>()
        .register::<Beats>()
        .register::<Parked>();
    let activities = Activities::new()
        .register_as(Calls::greet, |context: ActivityContext, name: String| async move {
            context.heartbeat(&name)?;
            if name == "nobody" {
                return Err(ApplicationFailure::non_retryable(anyhow::anyhow!("{name} to greet")).into());
            }
            Ok(format!("hello {name}"))
        })
        .register_blocking_as(Calls::shout, |_, text: String| Ok(text.to_uppercase()))
        .register_blocking_as(Calls::tick, |_, ()| Ok(SystemTime::now()))
        .register_blocking_as(Calls::attend, |context: ActivityContext, dir: PathBuf| {
            let own = dir.join(&context.info().activity_id);
            std::fs::write(&own, "")?;
            // Long enough that all that may come have come.
            thread::sleep(Duration::from_millis(200));
            let present = std::fs::read_dir(dir)?.count();
            std::fs::remove_file(own)?;
            Ok(present as u64)
        })
        .register_as(Calls::beat, |context: ActivityContext, ()| async move {
            for beat in 0_u64.. {
                context.heartbeat(&beat)?;
                let end = tokio::time::timeout(Duration::from_millis(10), context.worker_shutdown());
                if end.await.is_ok() {
                    break;
                }
            }
            Ok(())
        });
    let worker = Worker::new(QUEUE).workflows(workflows).activities(activities).identity("set-by-the-program");
    match program {
        "coded" => worker.data_converter(DataConverter::new(
            PayloadConverter::default(),
            DefaultFailureConverter::new(true),
            Xor,
        )),
        "intercepted" => worker
            .workflow_interceptor(WorkflowInterceptorConstructor::new(|_: &WorkflowContextView| Around("outer")))
            .workflow_interceptor(WorkflowInterceptorConstructor::new(|_: &WorkflowContextView| Around("inner")))
            .activity_interceptor(Around("first"))
            .activity_interceptor(Around("second")),
        "strict" => worker.workflow_failure_errors([WorkflowErrorType::Nondeterminism]),
        "strict of type" => worker.workflow_type_failure_errors("Foreign", [WorkflowErrorType::Nondeterminism]),
        "slow" => worker.max_activities_per_second(RATE),
        "slow queue" => worker.max_task_queue_activities_per_second(RATE),
        "chatty" => worker
            .max_heartbeat_throttle_interval(Duration::from_millis(50))
            .default_heartbeat_throttle_interval(Duration::from_millis(50)),
        "impatient" => worker.sticky_queue_schedule_to_start_timeout(Duration::from_secs(1)),
        _ => worker.activity_slots(7).workflow_processes(3),
    }
}

/// Knows nothing of the command line of `shmworker`: `library ADDRESS NAMESPACE`.
fn library(worker: Worker) -> ExitCode {
    let [address, namespace] = [2, 3].map(|i| std::env::args().nth(i));
    let worker = worker.connection(ConnectFlags { address, namespace, ..ConnectFlags::default() });
    match worker.workflow_processes(1).run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("it says: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Calls;

#[activity_definitions]
impl Calls {
    #[activity(name = "greet")]
    fn greet(name: String) -> Result<String, ActivityError> {
        unimplemented!()
    }

    #[activity(name = "shout")]
    fn shout(text: String) -> Result<String, ActivityError> {
        unimplemented!()
    }

    /// When it was run.
    #[activity(name = "tick")]
    fn tick() -> Result<SystemTime, ActivityError> {
        unimplemented!()
    }

    /// How many are in this directory while it is there itself.
    #[activity(name = "attend")]
    fn attend(dir: PathBuf) -> Result<u64, ActivityError> {
        unimplemented!()
    }

    /// Counts in its heartbeats, until the worker ends.
    #[activity(name = "beat")]
    fn beat() -> Result<(), ActivityError> {
        unimplemented!()
    }
}

/// Greets by an activity, and shouts by a local one.
#[workflow]
#[derive(Default)]
struct Greet;

#[workflow_methods]
impl Greet {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, name: String) -> WorkflowResult<String> {
        assert_ne!(name, "a ghost", "no ghost is to greet");
        let options = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(60)).build();
        let greeting = ctx.execute_activity(Calls::greet, name, options).await?;
        let options = LocalActivityOptions::builder().start_to_close_timeout(Duration::from_secs(60)).build();
        Ok(ctx.execute_local_activity(Calls::shout, greeting, options).await?)
    }
}

/// Is woken by a thread, which no replay would do again.
#[workflow]
#[derive(Default)]
struct Foreign;

#[workflow_methods]
impl Foreign {
    #[run]
    async fn run(_ctx: &mut WorkflowContext<Self>) -> WorkflowResult<()> {
        let wake_from_afar = |cx: &mut Context<'_>| {
            let waker = cx.waker().clone();
            thread::spawn(move || waker.wake()).join().expect("nothing in it panics");
            Poll::Pending
        };
        poll_fn(wake_from_afar).await
    }
}

/// In a second.
const RATE: f64 = 2.0;

/// Runs so many activities at once; gives the milliseconds between the first and the last.
#[workflow]
#[derive(Default)]
struct Ticks;

#[workflow_methods]
impl Ticks {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, n: usize) -> WorkflowResult<u64> {
        let tick = |_| {
            let options = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(60));
            ctx.execute_activity(Calls::tick, (), options.build())
        };
        let ticks = join_all((0..n).map(tick)).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        let last = ticks.iter().max().expect("some ticks");
        let passed = ticks.iter().filter_map(|tick| last.duration_since(*tick).ok()).max();
        Ok(passed.unwrap_or_default().as_millis() as u64)
    }
}

/// Runs six local activities at once; gives how many were there at the same time.
#[workflow]
#[derive(Default)]
struct Crowd;

#[workflow_methods]
impl Crowd {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, dir: PathBuf) -> WorkflowResult<u64> {
        let attend = |_| {
            let options = LocalActivityOptions::builder().start_to_close_timeout(Duration::from_secs(60)).build();
            ctx.execute_local_activity(Calls::attend, dir.clone(), options)
        };
        let present = join_all((0..6).map(attend)).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(present.into_iter().max().unwrap_or(0))
    }
}

/// Runs an activity that sends heartbeats, with this heartbeat timeout in seconds.
#[workflow]
#[derive(Default)]
struct Beats;

#[workflow_methods]
impl Beats {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, timeout: Option<u64>) -> WorkflowResult<()> {
        let options = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(600))
            .maybe_heartbeat_timeout(timeout.map(Duration::from_secs))
            .build();
        Ok(ctx.execute_activity(Calls::beat, (), options).await?)
    }
}

/// Waits for a signal.
#[workflow]
#[derive(Default)]
struct Parked {
    is_over: bool,
}

#[workflow_methods]
impl Parked {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<()> {
        Ok(ctx.wait_condition(|parked| parked.is_over).await?)
    }

    #[signal]
    fn finish(&mut self, _ctx: &mut SyncWorkflowContext<Self>) {
        self.is_over = true;
    }
}

/// Encrypts, to a certain degree. It waits a moment, as one would that asks a key server.
struct Xor;

impl Xor {
    fn apply(
        payloads: Vec<Payload>,
        code: fn(Payload) -> Result<Payload, PayloadConversionError>,
    ) -> BoxFuture<'static, Result<Vec<Payload>, PayloadConversionError>> {
        async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            payloads.into_iter().map(code).collect()
        }
        .boxed()
    }
}

fn xor(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| byte ^ 0x5a).collect()
}

impl PayloadCodec for Xor {
    fn encode(
        &self,
        _: &SerializationContextData,
        payloads: Vec<Payload>,
    ) -> BoxFuture<'static, Result<Vec<Payload>, PayloadConversionError>> {
        Xor::apply(payloads, |payload| {
            Ok(Payload {
                metadata: [
                    ("encoding".to_owned(), b"binary/xor".to_vec()),
                    ("of".to_owned(), payload.metadata.get("encoding").cloned().unwrap_or_default()),
                ]
                .into(),
                data: xor(&payload.data),
                ..Default::default()
            })
        })
    }

    fn decode(
        &self,
        _: &SerializationContextData,
        payloads: Vec<Payload>,
    ) -> BoxFuture<'static, Result<Vec<Payload>, PayloadConversionError>> {
        Xor::apply(payloads, |payload| {
            let encoding = payload.metadata.get("of").cloned();
            let encoding = encoding.ok_or_else(|| PayloadConversionError::EncodingError("it is not ours".into()))?;
            let metadata = [("encoding".to_owned(), encoding)].into();
            Ok(Payload { metadata, data: xor(&payload.data), ..Default::default() })
        })
    }
}

/// Says its name around every result that is a text.
struct Around(&'static str);

impl WorkflowInterceptor for Around {
    fn execute<'a>(
        &'a self,
        _: WorkflowInterceptorContext,
        input: ExecuteWorkflowInput,
        next: WorkflowNext<'a, ExecuteWorkflowInput, WorkflowInterceptorFuture<'a, ExecuteWorkflowResult>>,
    ) -> WorkflowInterceptorFuture<'a, ExecuteWorkflowResult> {
        WorkflowInterceptorFuture::new(async move {
            let output = next.run(input).await?;
            let text = output.downcast_ref::<String>().ok_or_else(WorkflowTermination::cancelled)?;
            Ok(Box::new(format!("{}({text})", self.0)) as Box<dyn WorkflowOutputValue>)
        })
    }
}

impl ActivityInterceptor for Around {
    fn execute<'a>(&'a self, input: ExecuteActivityInput, next: ExecuteActivityNext<'a>) -> ExecuteActivityOutput<'a> {
        let activity = input.context.info().activity_type.clone();
        Box::pin(async move {
            let mut result = next.run(input).await?;
            let text: String = serde_json::from_slice(&result.data).map_err(anyhow::Error::new)?;
            result.data = serde_json::to_vec(&format!("{}-{activity}({text})", self.0)).map_err(anyhow::Error::new)?;
            Ok(result)
        })
    }
}

// ---- what holds ---------------------------------------------------------------------------------------------------------

fn own(scene: &Scene<'_>, program: &str, args: &[&str]) -> Command {
    let mut command = scene.own(args);
    command.env(PROGRAM, program);
    command
}

fn starter(scene: &Scene<'_>, program: &str, name: &str) -> Program {
    let input = json!(name).to_string();
    Program::start(own(scene, program, &["starter", "-n", "1", "--workflow", "Greet", "--input", &input]))
}

/// One workflow ends with this result.
#[track_caller]
fn gives(scene: &Scene<'_>, program: &str, name: &str, result: &str) {
    let mut starter = starter(scene, program, name);
    let status = starter.end();
    assert_eq!((starter.stdout(), starter.stderr()), (vec![result.to_owned()], vec![]));
    assert!(status.success());
}

fn one_queue_serves_workflows_and_activities(scene: &Scene<'_>) {
    let mut pool = Pool::start(own(scene, "", &["run"]), 2, 1, &[]);
    gives(scene, "", "ann", "HELLO ANN");
    let history = &scene.server.histories(scene.namespace)[0];
    let queue = |attributes: &str| {
        let event = history.events().iter().find_map(|event| event.get(attributes)).unwrap();
        event["taskQueue"]["name"].clone()
    };
    assert_eq!(queue("workflowExecutionStartedEventAttributes"), QUEUE);
    assert_eq!(queue("activityTaskScheduledEventAttributes"), QUEUE);
    pool.stop(Signal::SIGTERM);
    assert_eq!(pool.program.stderr(), [""; 0]);
}

/// Calls `found` with each payload in a history.
fn payloads(value: &Value, found: &mut impl FnMut(&Value)) {
    match value {
        Value::Object(fields) if fields.contains_key("metadata") && fields.contains_key("data") => found(value),
        Value::Object(fields) => fields.values().for_each(|value| payloads(value, found)),
        Value::Array(items) => items.iter().for_each(|value| payloads(value, found)),
        _ => {}
    }
}

fn the_server_sees_no_plain_payload(scene: &Scene<'_>) {
    let mut pool = Pool::start(own(scene, "coded", &["run"]), 1, 1, &[]);
    gives(scene, "coded", "ann", "HELLO ANN");
    let mut failing = starter(scene, "coded", "nobody");
    assert_eq!(failing.end().code(), Some(exit::FAILURE.into()));
    // Not what the activity said: upstream encodes the cause of a failure again when a workflow passes it on.
    assert!(failing.stderr()[0].contains("Activity task failed"), "{:?}", failing.stderr());
    let mut ghost = starter(scene, "coded", "a ghost");
    ghost.says("its task has failed", 1, |line| {
        line.starts_with("warning: workflow ") && line.contains("no ghost is to greet")
    });
    ghost.signal(Signal::SIGINT);
    ghost.end();
    let (mut coded, mut failures) = (0, 0);
    for workflow in scene.server.ask(scene.namespace, &["workflow", "list"]).as_array().unwrap() {
        let id = workflow["execution"]["workflowId"].as_str().unwrap();
        let show = ["workflow", "show", "--no-json-shorthand-payloads", "--workflow-id", id];
        for event in scene.server.ask(scene.namespace, &show)["events"].as_array_mut().unwrap() {
            // Core's own note on a local activity: when it ended, and its number.
            if let Some(marker) = event.get_mut("markerRecordedEventAttributes") {
                marker["details"]["data"].take();
            }
            payloads(event, &mut |payload| {
                // In base64: binary/xor.
                assert_eq!(payload["metadata"]["encoding"], "YmluYXJ5L3hvcg==", "{event}");
                coded += 1;
            });
            let text = event.to_string();
            assert!(!text.contains("to greet"), "a failure's message is encoded too: {text}");
            failures += usize::from(text.contains("Encoded failure"));
        }
    }
    // Inputs and results of two workflows and of their activities, the local one among them, the failure of one, and that of the
    // third one's task.
    assert!(coded >= 9 && failures >= 3, "{coded} payloads, {failures} failures");
    pool.stop(Signal::SIGTERM);
}

fn interceptors_lie_around_workflows_and_activities(scene: &Scene<'_>) {
    let mut pool = Pool::start(own(scene, "intercepted", &["run"]), 1, 1, &[]);
    let result = "outer(inner(first-shout(second-shout(FIRST-GREET(SECOND-GREET(HELLO ANN))))))";
    gives(scene, "intercepted", "ann", result);
    pool.stop(Signal::SIGTERM);
    assert_eq!(pool.program.stderr(), [""; 0]);
}

fn identity(scene: &Scene<'_>) -> Value {
    let history = scene.server.histories(scene.namespace).remove(0);
    let started = history.events().iter().find_map(|event| event.get("workflowTaskStartedEventAttributes")).unwrap();
    started["identity"].clone()
}

fn what_is_typed_wins_over_what_the_program_sets(scene: &Scene<'_>) {
    let mut help = Program::start(own(scene, "", &["run", "--help"]));
    assert!(help.end().success());
    let help = help.stdout().join("\n");
    for default in ["[default: 7]", "[default: 3]", "[default: set-by-the-program]"] {
        assert!(help.contains(default), "'{default}' is not in: {help}");
    }
    let mut pool = Pool::start(own(scene, "", &["run"]), 1, 1, &["--identity", "typed", "--task-queue", "other"]);
    let mut starter = Program::start(own(
        scene,
        "",
        &["starter", "-n1", "--task-queue", "other", "--workflow", "Greet", "--input", "\"bo\""],
    ));
    assert!(starter.end().success());
    assert_eq!(starter.stdout(), ["HELLO BO"]);
    assert_eq!(identity(scene), "typed");
    pool.stop(Signal::SIGTERM);
}

fn non_determinism_fails_the_workflow_where_the_program_says_so(scene: &Scene<'_>) {
    for program in ["strict", "strict of type"] {
        let mut pool = Pool::start(own(scene, program, &["run"]), 1, 0, &[]);
        let mut starter = Program::start(own(scene, program, &["starter", "-n", "1", "--workflow", "Foreign"]));
        assert_eq!(starter.end().code(), Some(exit::FAILURE.into()));
        assert!(starter.stderr()[0].contains("[TMPRL1100]"), "{:?}", starter.stderr());
        pool.stop(Signal::SIGTERM);
    }
    let histories = scene.server.histories(scene.namespace);
    assert_eq!(histories.len(), 2);
    for history in histories {
        assert!(history.ends_with("EVENT_TYPE_WORKFLOW_EXECUTION_FAILED") && !history.has(EVENT_TASK_FAILED));
    }
}

fn activities_start_no_faster_than_the_rates_allow(scene: &Scene<'_>) {
    let rate = RATE.to_string();
    for (program, args) in [
        ("slow", &["--activity-pollers", "1"][..]),
        ("slow queue", &[]),
        ("", &["--max-activities-per-second", &rate, "--activity-pollers", "1"]),
        ("", &["--max-task-queue-activities-per-second", &rate]),
    ] {
        let mut pool = Pool::start(own(scene, program, &["run"]), 1, 1, args);
        let eight = ["starter", "-n", "1", "--workflow", "Ticks", "--input", "8"];
        let mut starter = Program::start(own(scene, program, &eight));
        assert!(starter.end().success());
        let passed: f64 = starter.stdout()[0].parse().unwrap();
        // Some start at once: where Core keeps the rate, it is that of its polls, so those for which one waits already, and two more;
        // where the server does, one in each of the queue's four partitions, which have a quarter of the rate, and may have two of the
        // eight each. Half of the time that the others take, since the first may be run late; without a limit it is milliseconds.
        let least = 1000.0 * (8.0 - 4.0) / RATE / 2.0;
        assert!(passed >= least, "{program} {args:?}: {passed} ms, and not {least}");
        pool.stop(Signal::SIGTERM);
    }
}

fn no_more_local_activities_run_at_a_time_than_was_said(scene: &Scene<'_>) {
    for most in [1, 2] {
        let dir = scene.home().join(most.to_string());
        std::fs::create_dir(&dir).unwrap();
        let args = ["--max-concurrent-local-activities", &most.to_string()];
        let mut pool = Pool::start(own(scene, "", &["run"]), 1, 1, &args);
        let args = ["starter", "-n", "1", "--workflow", "Crowd", "--input", &json!(dir).to_string()];
        let mut starter = Program::start(own(scene, "", &args));
        assert!(starter.end().success(), "{:?}", starter.stderr());
        let present: u64 = starter.stdout()[0].parse().unwrap();
        assert!(present <= most && present > 0, "{present} at a time, where {most} may be");
        pool.stop(Signal::SIGTERM);
    }
}

fn heartbeats_go_out_as_often_as_the_throttle_allows(scene: &Scene<'_>) {
    let mut pool = Pool::start(own(scene, "chatty", &["run"]), 1, 1, &[]);
    // With a timeout the one setting counts, without one the other. By default it would be a heartbeat in 60 or 30 s.
    for timeout in ["null", "100"] {
        let id = format!("timeout-{timeout}");
        let start =
            ["workflow", "start", "--type", "Beats", "--task-queue", QUEUE, "--workflow-id", &id, "--input", timeout];
        scene.server.tell(scene.namespace, &start);
        let mut seen = BTreeSet::new();
        eventually("the server sees several heartbeats", || {
            let described = scene.server.ask(scene.namespace, &["workflow", "describe", "--workflow-id", &id]);
            seen.insert(described["pendingActivities"][0]["heartbeatDetails"].to_string());
            (seen.len() >= 6).then_some(())
        });
    }
    pool.stop(Signal::SIGTERM);
}

fn a_task_leaves_the_sticky_queue_of_a_dead_bridge_when_its_time_is_over(scene: &Scene<'_>) {
    let mut pool = Pool::start(own(scene, "impatient", &["run"]), 1, 0, &[]);
    let mut starter = Program::start(own(scene, "impatient", &["starter", "-n", "1", "--workflow", "Parked"]));
    let has = |event: &str| scene.server.histories(scene.namespace).pop().filter(|history| history.has(event));
    eventually("the run is parked", || has("EVENT_TYPE_WORKFLOW_TASK_COMPLETED"));
    let id = scene.server.workflows(scene.namespace).remove(0);
    pool.kill("bridge");
    scene.server.tell(scene.namespace, &["workflow", "signal", "--workflow-id", &id, "--name", "finish"]);
    assert!(starter.end().success());
    let history = has(EVENT_TASK_TIMED_OUT).expect("nobody polled the sticky queue");
    let events = history.events();
    let late = events.iter().position(|event| event["eventType"] == EVENT_TASK_TIMED_OUT).unwrap();
    let timed_out = &events[late]["workflowTaskTimedOutEventAttributes"];
    assert_eq!(timed_out["timeoutType"], "TIMEOUT_TYPE_SCHEDULE_TO_START", "{timed_out}");
    let when = |event: &Value| {
        SystemTime::try_from(event["eventTime"].as_str().unwrap().parse::<Timestamp>().unwrap()).unwrap()
    };
    let scheduled = events.iter().find(|event| event["eventId"] == timed_out["scheduledEventId"]).unwrap();
    let waited = when(&events[late]).duration_since(when(scheduled)).unwrap();
    assert!(waited < Duration::from_secs(10), "as long as by default: {waited:?}");
    pool.stop(Signal::SIGTERM);
}

fn a_version_of_a_deployment_is_known_to_the_server(scene: &Scene<'_>) {
    let args = ["--deployment-name", "greetings", "--build-id", "b7", "--worker-versioning", "pinned"];
    let mut pool = Pool::start(own(scene, "", &["run"]), 1, 1, &args);
    let version = ["--deployment-name", "greetings", "--build-id", "b7"];
    eventually("the server knows the version", || {
        let mut command = Command::new(&scene.server.cli);
        command.args(["worker", "deployment", "set-current-version", "--yes"]).args(version);
        command.args(["--address", &scene.server.address, "--namespace", scene.namespace]);
        command.output().unwrap().status.success().then_some(())
    });
    gives(scene, "", "ann", "HELLO ANN");
    let list = scene.server.ask(scene.namespace, &["workflow", "list"]);
    let id = list[0]["execution"]["workflowId"].as_str().unwrap();
    let described = scene.server.ask(scene.namespace, &["workflow", "describe", "--workflow-id", id]);
    let info = &described["workflowExecutionInfo"]["versioningInfo"];
    assert_eq!(info["behavior"], "VERSIONING_BEHAVIOR_PINNED", "{info}");
    assert_eq!(info["deploymentVersion"], json!({ "deploymentName": "greetings", "buildId": "b7" }));
    pool.stop(Signal::SIGTERM);
}

fn slots_may_follow_the_resources_of_the_machine(scene: &Scene<'_>) {
    let targets = ["--target-cpu-usage", "1", "--target-memory-usage", "1"];
    let args = [&targets[..], &["--activity-pollers", "1-4", "--workflow-pollers", "2-4"]].concat();
    let mut pool = Pool::start(own(scene, "", &["run"]), 1, 1, &args);
    gives(scene, "", "ann", "HELLO ANN");
    assert_eq!(identity(scene), "set-by-the-program");
    pool.stop(Signal::SIGTERM);
    assert_eq!(pool.program.stderr(), [""; 0]);
}

fn a_program_may_run_its_worker_itself(scene: &Scene<'_>) {
    let library = |address: &str| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([LIBRARY, address, scene.namespace]).env_clear().env("HOME", scene.home());
        Program::start(command)
    };
    let mut program = library(&scene.server.address);
    program.says("it serves", 1, |line| line.starts_with("waiting for keyboard interrupt"));
    gives(scene, "", "ann", "HELLO ANN");
    program.signal(Signal::SIGTERM);
    assert!(program.end().success());
    program.leaves_nobody();

    let mut program = library("localhost");
    assert_eq!(program.end().code(), Some(1));
    let said = program.stderr();
    assert!(said[0].starts_with("it says: invalid address 'localhost'"), "{said:?}");
}

/// A port that is free, as is that of the web UI which goes with it.
fn two_ports() -> u16 {
    eventually("two free ports whose numbers differ by 1000", || {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        TcpListener::bind(("127.0.0.1", port.checked_add(1000)?)).ok().map(|_| port)
    })
}

fn a_dev_server_with_its_web_ui_is_started_on_demand(scene: &Scene<'_>) {
    let port = two_ports();
    let address = format!("127.0.0.1:{port}");
    let ours = ["run", "--dev-server", "--ui", "--address", &address];
    let mut pool = Pool::start(scene.unconfigured(&ours), 1, 1, &[]);
    let said = pool.program.stdout();
    assert!(said[0].starts_with(&format!("started a dev server on {address}; its state ends with it")), "{said:?}");
    assert_eq!(said[1], format!("its web UI is at http://127.0.0.1:{}", port + 1000));
    let page = eventually("the web UI answers", || {
        let mut ui = TcpStream::connect(("127.0.0.1", port + 1000)).ok()?;
        ui.write_all(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut page = String::new();
        ui.read_to_string(&mut page).ok()?;
        page.starts_with("HTTP/1.0 200").then_some(page)
    });
    assert!(page.to_lowercase().contains("<!doctype html>"), "{page}");

    let mut second = Program::start(scene.unconfigured(&ours));
    assert_eq!(second.end().code(), Some(exit::NO_CLI.into()));
    let line = format!(
        "error: cannot start a dev server: somebody listens at {address} already; leave out --dev-server to use that \
         server, or name another port with --address"
    );
    assert_eq!(second.stderr(), [line]);
    second.leaves_nobody();
    pool.stop(Signal::SIGINT);
    assert!(TcpStream::connect(&address).is_err());
}

fn the_worker_of_the_readme_greets(scene: &Scene<'_>) {
    let mut pool = Pool::start(scene.example_named("greetings", &["run"]), 2, 1, &[]);
    let mut starter = Program::start(scene.example_named("greetings", &["starter", "-n", "3", "--input", "\"Ada\""]));
    assert!(starter.end().success(), "{:?}", starter.stderr());
    let greeting = format!("Hello, Ada! This is process {}.", pool.pid("activity-worker:0"));
    assert_eq!(starter.stdout(), vec![greeting; 3]);
    pool.stop(Signal::SIGINT);
}

fn the_example_tells_its_progress_and_takes_more_files(scene: &Scene<'_>) {
    let [one, two] = [("one", "a b c"), ("two", "d e")].map(|(name, text)| {
        let path = scene.home().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    });
    // Nobody serves yet: the signal is there before the workflow begins.
    let id = "words-1";
    let temporal = |args: &[&str]| {
        let mut command = Command::new(&scene.server.cli);
        command.args(args).args(["--workflow-id", id, "--address", &scene.server.address]);
        command.args(["--namespace", scene.namespace, "--output", "json"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let input = json!([one]).to_string();
    temporal(&["workflow", "start", "--type", "CountWords", "--task-queue", "words", "--input", &input]);
    temporal(&["workflow", "signal", "--name", "add", "--input", &json!(two).to_string()]);
    let mut pool = Pool::start(scene.example(&["run"]), 1, 1, &[]);
    let result: Value = serde_json::from_str(&temporal(&["workflow", "result"])).unwrap();
    assert_eq!(result["result"], 5, "{result}");
    let answer: Value = serde_json::from_str(&temporal(&["workflow", "query", "--type", "progress"])).unwrap();
    assert_eq!(answer["queryResult"][0], json!({ "files": 2, "waiting": 0, "words": 5 }), "{answer}");
    pool.stop(Signal::SIGTERM);
}
