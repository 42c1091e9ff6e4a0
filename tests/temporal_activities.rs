//! What activities are promised, on a real Temporal server: heartbeats, cancellation, notices, states, programs.
//!
//! This program is its own worker: with a command as its first argument it has the command line of `shmworker`, and serves one
//! workflow, which runs one activity as its input says. Activities and tests meet in files.

mod common;
#[path = "common/one_activity.rs"]
mod one_activity;

use common::{Pool, Process, Program, Scene, details, distinct, eventually};
use nix::sys::signal::Signal;
use one_activity::Named;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shmworker::{
    cli::exit,
    temporal::{
        activity::{Activities, ActivityContext, ActivityError, RegisterOptions},
        connect::{self, ConnectFlags},
        sample::{self, ACTIVITY_TASK_QUEUE},
        workflow::Workflows,
    },
};
use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};
use temporalio_client::{ActivityIdentifier, Client, ClientOptions, RpcOptions};
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{WorkflowContext, WorkflowResult};

const TESTS: &[(&str, common::Test)] = &common::tests![
    the_newest_heartbeat_before_a_kill_is_where_the_next_attempt_begins
    the_newest_heartbeat_before_a_failure_is_where_the_next_attempt_begins
    heartbeats_go_out_by_themselves_until_the_process_stops
    a_cancelled_attempt_ends_by_itself
    a_cancelled_attempt_that_does_not_end_is_killed_and_the_others_of_its_process_are_retried
    an_outside_client_completes_what_was_left_to_it
    attempts_hear_of_the_end_of_their_worker_before_they_are_cancelled
    a_program_gives_its_output_or_fails_with_it
    a_cancelled_program_is_asked_to_end_and_then_killed_with_what_it_has_started
    a_program_ends_with_its_worker
    a_state_that_cannot_be_made_is_tried_again_and_then_ends_the_pool
    a_million_records_are_summed_with_two_kills_and_a_restart_in_between
    attempts_of_a_process_share_a_pool_of_connections
];

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|arg| ["run", "starter"].contains(&arg.as_str())) {
        return sample::worker().workflows(Workflows::new().register::<Call>()).activities(activities()).main();
    }
    common::run(TESTS)
}

// ---- the worker ---------------------------------------------------------------------------------------------------------

/// Which activity is to be run, and how.
#[derive(Serialize, Deserialize)]
struct Order {
    activity: String,
    input: Value,
    heartbeat_timeout_ms: u64,
    /// 0: as many as it takes.
    maximum_attempts: u32,
}

/// Runs one activity, with a retry each 100 ms, and gives what it gave.
#[workflow]
#[derive(Default)]
struct Call;

#[workflow_methods]
impl Call {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, order: Order) -> WorkflowResult<Value> {
        let Order { activity, input, heartbeat_timeout_ms, maximum_attempts } = order;
        let heartbeat_timeout = Duration::from_millis(heartbeat_timeout_ms);
        let options = one_activity::options(ACTIVITY_TASK_QUEUE, heartbeat_timeout, maximum_attempts);
        Ok(ctx.execute_activity(Named::<Value>::new(activity), input, options).await?)
    }
}

fn activities() -> Activities {
    Activities::new()
        .state(|| match std::env::var_os(NO_STATE) {
            Some(_) => Err(anyhow::anyhow!("the well is dry").into()),
            None => Ok(Bucket(7)),
        })
        .register_blocking("count", count)
        .register("wait", wait)
        .with_options("wait", RegisterOptions::new().auto_heartbeat())
        .register_blocking("spin", spin)
        .with_options("spin", RegisterOptions::new().auto_heartbeat().kill_after(Duration::from_millis(500)))
        .register_blocking("ask", ask)
        .register("until the end", until_the_end)
        .register("dip", |context: ActivityContext, _: Value| async move { Ok(json!(context.state::<Bucket>()?.0)) })
        .with_exec()
}

/// With this variable a process has no [`Bucket`].
const NO_STATE: &str = "SHMWORKER_TEST_NO_STATE";

struct Bucket(u32);

/// Tells the test something, by a file whose directory it has given.
fn note(dir: &Path, name: &str, text: impl ToString) {
    let draft = dir.join(format!("{name}.draft"));
    fs::write(&draft, text.to_string()).unwrap();
    fs::rename(draft, dir.join(name)).unwrap(); // whole, or not there
}

#[derive(Deserialize)]
struct Count {
    dir: PathBuf,
    /// How the first attempt ends: by a failure; otherwise not at all.
    fails: bool,
}

/// The first attempt counts to 1,000, faster than the server is told. The others say where they begin.
fn count(context: ActivityContext, Count { dir, fails }: Count) -> Result<Value, ActivityError> {
    if context.info().attempt > 1 {
        return Ok(json!(context.last_heartbeat::<u64>()?));
    }
    for n in 1..=1000_u64 {
        context.heartbeat(&n)?;
    }
    note(&dir, "counted", "");
    match fails {
        true => Err(anyhow::anyhow!("that was all").into()),
        false => loop {
            std::thread::park();
        },
    }
}

/// Awaits its cancellation, or the file "go on", without a heartbeat of its own. Says where it runs.
async fn wait(context: ActivityContext, dir: PathBuf) -> Result<Value, ActivityError> {
    let attempt = context.info().attempt;
    note(&dir, &format!("waits {attempt}"), std::process::id());
    loop {
        tokio::select! {
            () = context.cancelled() => return Err(ActivityError::cancelled_with_details("tidied up")),
            () = tokio::time::sleep(Duration::from_millis(10)) => {}
        }
        if dir.join("go on").exists() {
            return Ok(json!(format!("attempt {attempt}")));
        }
    }
}

/// Never ends, and looks at nothing.
fn spin(_context: ActivityContext, dir: PathBuf) -> Result<Value, ActivityError> {
    note(&dir, "spins", std::process::id());
    loop {
        std::thread::park();
    }
}

/// Leaves its end to whoever finds the note.
fn ask(context: ActivityContext, dir: PathBuf) -> Result<Value, ActivityError> {
    note(&dir, "token", serde_json::to_string(&context.task_token())?);
    Err(ActivityError::WillCompleteAsync)
}

async fn until_the_end(context: ActivityContext, dir: PathBuf) -> Result<Value, ActivityError> {
    note(&dir, "waits for the end", context.is_worker_shutdown());
    context.worker_shutdown().await;
    Ok(json!(format!("told: {}, cancelled: {}", context.is_worker_shutdown(), context.is_cancelled())))
}

// ---- the tests ----------------------------------------------------------------------------------------------------------

/// A heartbeat timeout of what hears by heartbeats that it is cancelled, in four fifths of it, and must not run out of it: for the fifth
/// that is left the machine may stand still.
const SURE: Duration = Duration::from_secs(5);

/// A pool of this program with so many activity processes.
fn pool(scene: &Scene<'_>, activity_processes: usize) -> Pool {
    Pool::start(scene.own(&["run"]), 1, activity_processes, &[])
}

/// Starts a workflow that runs this activity, as often as it takes.
fn call(scene: &Scene<'_>, activity: &str, input: &Value, heartbeat_timeout: Duration) -> Program {
    start(scene, activity, input, heartbeat_timeout, 0)
}

fn start(scene: &Scene<'_>, activity: &str, input: &Value, heartbeat_timeout: Duration, attempts: u32) -> Program {
    let order = json!({
        "activity": activity,
        "input": input,
        "heartbeat_timeout_ms": heartbeat_timeout.as_millis() as u64,
        "maximum_attempts": attempts,
    });
    Program::start(scene.own(&["starter", "-n", "1", "--workflow", "Call", "--input", &order.to_string()]))
}

/// The workflow completes, with this result.
#[track_caller]
fn gives(mut starter: Program, result: &str) {
    starter.says(result, 1, |line| line == result);
    assert!(starter.end().success());
}

/// The file by which an activity tells something.
#[track_caller]
fn noted(scene: &Scene<'_>, name: &str) -> String {
    eventually(format_args!("the note '{name}'"), || fs::read_to_string(scene.home().join(name)).ok())
}

/// All that has happened to the workflows that is an event of this kind.
fn events(scene: &Scene<'_>, attributes: &str) -> Vec<Value> {
    let histories = scene.server.histories(scene.namespace);
    let events = histories.iter().flat_map(|history| history.events());
    events.filter_map(|e| e.get(attributes)).cloned().collect()
}

/// The attempt of the only activity that is the last one.
fn last_attempt(scene: &Scene<'_>) -> Value {
    events(scene, "activityTaskStartedEventAttributes").pop().expect("a started activity")
}

/// The id of the only workflow.
fn workflow(scene: &Scene<'_>) -> String {
    eventually("a workflow", || scene.server.workflows(scene.namespace).pop())
}

fn cancel(scene: &Scene<'_>, workflow: &str) {
    scene.server.tell(scene.namespace, &["workflow", "cancel", "--workflow-id", workflow]);
}

/// How the server has noted the end of the activity that was cancelled.
#[track_caller]
fn cancelled(scene: &Scene<'_>) -> Value {
    let event = || events(scene, "activityTaskCanceledEventAttributes").pop();
    eventually("an activity that is cancelled", event)
}

/// Waits until nobody has this process id any more, or only a zombie, whose parent has not looked yet.
#[track_caller]
fn is_gone(pid: &str) {
    let pid = pid.trim().parse().unwrap();
    let is_over = || Process::of(pid).is_none_or(|p| p.state == 'Z').then_some(());
    eventually(format_args!("the end of process {pid}"), is_over);
}

fn the_newest_heartbeat_before_a_kill_is_where_the_next_attempt_begins(scene: &Scene<'_>) {
    let mut pool = pool(scene, 1);
    // Of that timeout Core lets four fifths pass between two heartbeats: the server has heard of the first alone.
    let input = json!({ "dir": scene.home(), "fails": false });
    let starter = call(scene, "count", &input, Duration::from_secs(60));
    noted(scene, "counted");
    pool.kill("activity-worker:0");
    gives(starter, "1000");
    let attempt = last_attempt(scene);
    assert_eq!(attempt["attempt"], 2);
    assert_eq!(attempt["lastFailure"]["message"], "the activity process died: signal 9 (SIGKILL)");
    pool.stop(Signal::SIGTERM);
}

fn the_newest_heartbeat_before_a_failure_is_where_the_next_attempt_begins(scene: &Scene<'_>) {
    let mut pool = pool(scene, 1);
    let input = json!({ "dir": scene.home(), "fails": true });
    gives(call(scene, "count", &input, Duration::from_secs(60)), "1000");
    let attempt = last_attempt(scene);
    assert_eq!((&attempt["attempt"], &attempt["lastFailure"]["message"]), (&json!(2), &json!("that was all")));
    pool.stop(Signal::SIGTERM);
}

fn heartbeats_go_out_by_themselves_until_the_process_stops(scene: &Scene<'_>) {
    let mut pool = pool(scene, 2);
    let starter = call(scene, "wait", &json!(scene.home()), Duration::from_secs(1));
    noted(scene, "waits 1");
    // Core sends one in each four fifths of the timeout: there were times enough for that to come true. It does come true where the
    // machine stands still for the fifth that is left; then the next attempt is to send as many.
    let (workflow, mut attempt, mut seen) = (workflow(scene), 1, BTreeSet::new());
    eventually("many heartbeats of one attempt", || {
        let described = scene.server.ask(scene.namespace, &["workflow", "describe", "--workflow-id", &workflow]);
        let activity = &described["pendingActivities"][0];
        let now = activity["attempt"].as_u64().unwrap_or_else(|| panic!("an attempt: {described}"));
        if now != attempt {
            attempt = now;
            seen.clear();
        }
        seen.extend(activity["lastHeartbeatTime"].as_str().map(str::to_owned));
        (seen.len() > 4).then_some(())
    });
    let first: i32 = noted(scene, &format!("waits {attempt}")).parse().unwrap();
    let label = pool.workers.iter().find(|label| pool.pid(label) == first).unwrap().clone();
    pool.signal(&label, Signal::SIGSTOP);
    let next = attempt + 1;
    let second: i32 = noted(scene, &format!("waits {next}")).parse().unwrap();
    assert_ne!(first, second, "the stopped one takes nothing");
    note(scene.home(), "go on", "");
    gives(starter, &format!("attempt {next}"));
    let failure = &last_attempt(scene)["lastFailure"];
    assert_eq!(failure["timeoutFailureInfo"]["timeoutType"], "TIMEOUT_TYPE_HEARTBEAT", "{failure}");
    pool.signal(&label, Signal::SIGCONT);
    pool.stop(Signal::SIGTERM);
}

fn a_cancelled_attempt_ends_by_itself(scene: &Scene<'_>) {
    let mut pool = pool(scene, 1);
    let mut starter = call(scene, "wait", &json!(scene.home()), SURE);
    noted(scene, "waits 1");
    cancel(scene, &workflow(scene));
    assert_eq!(details(&cancelled(scene)), "tidied up");
    assert!(!starter.end().success());
    pool.stop(Signal::SIGTERM);
}

fn a_cancelled_attempt_that_does_not_end_is_killed_and_the_others_of_its_process_are_retried(scene: &Scene<'_>) {
    let mut pool = pool(scene, 1);
    let mut spins = call(scene, "spin", &json!(scene.home()), SURE);
    let victim: i32 = noted(scene, "spins").parse().unwrap();
    let spinning = workflow(scene);
    let waits = call(scene, "wait", &json!(scene.home()), Duration::from_secs(60));
    assert_eq!(noted(scene, "waits 1").parse(), Ok(victim), "there is no other process");
    cancel(scene, &spinning);
    cancelled(scene);
    assert!(!spins.end().success());
    assert_ne!(noted(scene, "waits 2").parse(), Ok(victim));
    note(scene.home(), "go on", "");
    gives(waits, "attempt 2");
    let attempts = events(scene, "activityTaskStartedEventAttributes");
    let failures: Vec<_> = attempts.iter().filter_map(|a| a["lastFailure"]["message"].as_str()).collect();
    assert_eq!(failures, ["the activity process was killed over another that it ran, which did not end in time"]);
    let said = format!("activity-worker:0 (pid {victim}) has run a task for longer than that may take: killed");
    pool.program.says(&said, 1, |line| line == said);
    pool.has_died("activity-worker:0");
    pool.stop(Signal::SIGTERM);
}

fn an_outside_client_completes_what_was_left_to_it(scene: &Scene<'_>) {
    let mut pool = pool(scene, 1);
    let starter = call(scene, "ask", &json!(scene.home()), Duration::from_secs(60));
    let token = serde_json::from_str(&noted(scene, "token")).unwrap();
    let (address, namespace) = (Some(scene.server.address.clone()), Some(scene.namespace.to_owned()));
    let server = connect::Server::resolve(&ConnectFlags { address, namespace, ..Default::default() }).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let connection = server.connect("back office").await.unwrap();
        let client = Client::new(connection, ClientOptions::new(server.namespace()).build()).unwrap();
        let activity = client.get_async_activity_handle(ActivityIdentifier::from_task_token(token));
        activity.complete(Some("granted"), RpcOptions::default()).await.unwrap();
    });
    gives(starter, "granted");
    pool.stop(Signal::SIGTERM);
}

fn attempts_hear_of_the_end_of_their_worker_before_they_are_cancelled(scene: &Scene<'_>) {
    let mut pool = pool(scene, 1);
    let starter = call(scene, "until the end", &json!(scene.home()), Duration::from_secs(60));
    assert_eq!(noted(scene, "waits for the end"), "false");
    pool.stop(Signal::SIGTERM);
    assert_eq!(events(scene, "activityTaskCompletedEventAttributes").len(), 1, "it was heard out");
    let mut next = self::pool(scene, 1);
    gives(starter, "told: true, cancelled: false");
    next.stop(Signal::SIGTERM);
}

fn a_program_gives_its_output_or_fails_with_it(scene: &Scene<'_>) {
    let mut command = scene.own(&["run"]);
    command.env("TEMPORAL_SECRET", "of the worker").env("PATH", "/usr/bin:/bin");
    let mut pool = Pool::start(command, 1, 1, &[]);
    let run = |input: &Value| start(scene, "exec", input, Duration::from_secs(1), 1);
    // Its own three descriptors, and that of the directory: nothing of the pool's.
    let script = "cat; pwd; echo $GREETING ${TEMPORAL_SECRET-none}; ls /proc/self/fd | wc -l; echo told >&2";
    let (home, env) = (scene.home().canonicalize().unwrap(), json!({ "GREETING": "hello" }));
    let input = json!({ "program": "sh", "args": ["-c", script], "cwd": home, "stdin": "read\n", "env": env });
    let output = run(&input).says("the output", 1, |line| line.starts_with('{'));
    let expected = json!({
        "exit_code": 0,
        "signal": null,
        "stdout": format!("read\n{}\nhello none\n4\n", home.display()),
        "stderr": "told\n",
        "stdout_dropped": 0,
        "stderr_dropped": 0,
    });
    assert_eq!(serde_json::from_str::<Value>(&output).unwrap(), expected);
    let sh = |script: &str| json!({ "program": "sh", "args": ["-c", script] });
    for (input, message, kind, stderr) in [
        (sh("echo no >&2; exit 3"), r#""sh" ended with exit code 3: no"#, "ExecFailed", json!("no\n")),
        (sh("kill -9 $$"), r#""sh" ended with signal 9 (SIGKILL)"#, "ExecFailed", json!("")),
        (
            json!({ "program": "no such program" }),
            "cannot start \"no such program\": No such file or directory (os error 2): it must be executable on this \
             worker, and in its PATH unless a path is given",
            "ExecStartFailed",
            Value::Null,
        ),
        (
            json!({ "program": "true", "cwd": "/nowhere" }),
            "cannot start \"true\": No such file or directory (os error 2): /nowhere is no directory on this worker",
            "ExecStartFailed",
            Value::Null,
        ),
    ] {
        assert!(!run(&input).end().success());
        let failures = events(scene, "activityTaskFailedEventAttributes");
        let failure = failures.iter().map(|f| &f["failure"]).find(|f| f["message"] == message);
        let info = &failure.unwrap_or_else(|| panic!("{message}: {failures:?}"))["applicationFailureInfo"];
        assert_eq!(info["type"], kind);
        if !stderr.is_null() {
            assert_eq!(details(info)["stderr"], stderr, "{info}");
        }
    }
    pool.stop(Signal::SIGTERM);
}

fn a_cancelled_program_is_asked_to_end_and_then_killed_with_what_it_has_started(scene: &Scene<'_>) {
    let mut pool = pool(scene, 1);
    // Neither it nor what it has started ends by SIGTERM.
    let script = "trap 'echo asked' TERM; (trap '' TERM; exec sleep 1000) & echo $! > draft; mv draft started; \
                  while :; do wait; done";
    let input = json!({ "program": "/bin/sh", "args": ["-c", script], "cwd": scene.home() });
    let mut starter = call(scene, "exec", &input, SURE);
    let pid = noted(scene, "started");
    cancel(scene, &workflow(scene));
    let output = details(&cancelled(scene));
    assert!(!starter.end().success());
    assert_eq!((&output["stdout"], &output["signal"]), (&json!("asked\n"), &json!(9)), "{output}");
    is_gone(&pid);
    pool.stop(Signal::SIGTERM);
}

fn a_program_ends_with_its_worker(scene: &Scene<'_>) {
    let mut pool = pool(scene, 1);
    // The second attempt finds the first one's process id.
    let script = "test -e first && exec cat first; echo $$ > draft; mv draft first; exec sleep 1000";
    let input = json!({ "program": "/bin/sh", "args": ["-c", script], "cwd": scene.home() });
    let mut starter = call(scene, "exec", &input, Duration::from_secs(1));
    let pid = noted(scene, "first");
    pool.kill("activity-worker:0");
    is_gone(&pid);
    starter.says("the process id", 1, |line| line.contains(pid.trim()));
    assert!(starter.end().success());
    pool.stop(Signal::SIGTERM);
}

fn a_state_that_cannot_be_made_is_tried_again_and_then_ends_the_pool(scene: &Scene<'_>) {
    let mut pool = pool(scene, 1);
    gives(call(scene, "dip", &Value::Null, Duration::from_secs(1)), "7");
    pool.stop(Signal::SIGTERM);
    let mut run = scene.own(&["run", "-w", "1", "-a", "1"]);
    run.env(NO_STATE, "");
    let mut program = Program::start(run);
    assert_eq!(program.end().code(), Some(exit::CRASH_LOOP.into()));
    let said = program.stderr();
    let why = "cannot make the state of type temporal_activities::Bucket: the well is dry";
    assert!(said.iter().any(|line| line == &format!("[activity-worker:0] {why}")), "{said:?}");
    let last = said.last().unwrap();
    assert!(last.starts_with("error: activity-worker:0 died 5 times in a row") && last.contains(why), "{last}");
}

fn a_million_records_are_summed_with_two_kills_and_a_restart_in_between(scene: &Scene<'_>) {
    let run = || scene.example_named("long_activity", &["run"]);
    let input = r#"{"records": 1000000, "chunk": 10000, "fetch_ms": 50}"#;
    let mut pool = Pool::start(run(), 1, 1, &[]);
    let starter = Program::start(
        scene.example_named("long_activity", &["starter", "-n", "1", "--workflow", "SumRecords", "--input", input]),
    );
    let chunk =
        |line: &str| Some(line.strip_prefix("[activity-worker:0] attempt ")?.split_once(": records ")?.1.to_owned());
    for chunks in [25, 50] {
        pool.program.says("so many chunks", chunks, |line| chunk(line).is_some());
        pool.kill("activity-worker:0");
    }
    pool.program.says("further chunks", 75, |line| chunk(line).is_some());
    pool.stop(Signal::SIGTERM);
    let mut next = Pool::start(run(), 1, 1, &[]);
    // 1,000 times 0 + 1 + … + 999, by the fourth attempt.
    gives(starter, r#"{"sum":499500000,"attempts":4}"#);
    let said = [pool.program.stdout(), next.program.stdout()].concat();
    let begun: Vec<String> = said.iter().filter_map(|line| chunk(line)).collect();
    assert_eq!(distinct(&begun).len(), 100);
    assert!(begun.len() <= 102, "a chunk more for each kill, none for the restart: {}", begun.len());
    let failures = events(scene, "activityTaskStartedEventAttributes");
    assert!(failures[0]["lastFailure"]["message"].as_str().unwrap().starts_with("the worker ends: "), "{failures:?}");
    next.stop(Signal::SIGTERM);
}

fn attempts_of_a_process_share_a_pool_of_connections(scene: &Scene<'_>) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let with_atlas = |mut command: Command| {
        command.env("ATLAS", format!("127.0.0.1:{port}"));
        command
    };
    let mut service = Program::start(with_atlas(scene.example_named("activity_state", &["service"])));
    service.says("it serves", 1, |line| line.starts_with("serving "));
    let mut pool = Pool::start(with_atlas(scene.example_named("activity_state", &["run"])), 1, 2, &[]);
    let countries = json!(["France", "Ghana", "Peru", "Atlantis"].repeat(10)).to_string();
    let args = ["starter", "-n", "1", "--workflow", "Capitals", "--input", &countries];
    let starter = Program::start(scene.example_named("activity_state", &args));
    gives(starter, &json!(["Paris", "Accra", "Lima", "terra incognita"].repeat(10)).to_string());
    pool.stop(Signal::SIGTERM);
    let connections = service.stdout().iter().filter(|line| *line == "somebody has connected").count();
    assert!((2..=8).contains(&connections), "{connections} connections");
}
