//! What activities are promised, on a real Temporal server: heartbeats, cancellation, notices, states, programs.
//!
//! This program is its own worker: with a command as its first argument it has the command line of `shmworker`, and serves one
//! workflow, which runs one activity as its input says. Activities and tests meet in files.

mod common;

use common::{Pool, Program, Scene, Server, eventually};
use libtest_mimic::{Arguments, Trial};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shmworker::temporal::{
    activity::{Activities, ActivityContext, ActivityDefinition, ActivityError, RetryPolicy},
    sample::{self, ACTIVITY_TASK_QUEUE},
    workflow::Workflows,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, OnceLock},
    time::Duration,
};
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{ActivityCancellationType, ActivityOptions, WorkflowContext, WorkflowResult};

type Test = fn(&Scene<'_>);

macro_rules! tests {
    ($($test:ident)*) => { [$((stringify!($test), $test as Test)),*] };
}

const TESTS: &[(&str, Test)] = &tests![
    the_newest_heartbeat_before_a_kill_is_where_the_next_attempt_begins
    the_newest_heartbeat_before_a_failure_is_where_the_next_attempt_begins
];

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|arg| ["run", "starter"].contains(&arg.as_str())) {
        return sample::worker().workflows(Workflows::new().register::<Call>()).activities(activities()).main();
    }
    let mut args = Arguments::from_args();
    args.test_threads.get_or_insert(1);
    let server: Arc<OnceLock<Server>> = Arc::default();
    let trials = TESTS.iter().map(|&(name, test)| {
        let server = server.clone();
        Trial::test(name, move || {
            let namespaces = || TESTS.iter().map(|(name, _)| *name).collect::<Vec<_>>();
            test(&Scene::new(server.get_or_init(|| Server::start(&namespaces())), name));
            Ok(())
        })
    });
    libtest_mimic::run(&args, trials.collect()).exit_code()
    // `server` goes here, and with it the process.
}

// ---- the worker ---------------------------------------------------------------------------------------------------------

/// Which activity is to be run, and how.
#[derive(Serialize, Deserialize)]
struct Order {
    activity: String,
    input: Value,
    heartbeat_timeout_ms: u64,
}

/// An activity that is known by its name alone.
struct Named(String);

impl ActivityDefinition for Named {
    type Input = Value;
    type Output = Value;

    fn name(&self) -> &str {
        &self.0
    }
}

/// Runs one activity, with a retry each 100 ms, and gives what it gave.
#[workflow]
#[derive(Default)]
struct Call;

#[workflow_methods]
impl Call {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, order: Order) -> WorkflowResult<Value> {
        let Order { activity, input, heartbeat_timeout_ms } = order;
        let policy =
            RetryPolicy::builder().initial_interval(Duration::from_millis(100)).backoff_coefficient(1.0).build();
        let options = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(120))
            .heartbeat_timeout(Duration::from_millis(heartbeat_timeout_ms))
            .retry_policy(policy)
            .cancellation_type(ActivityCancellationType::WaitCancellationCompleted)
            .task_queue(ACTIVITY_TASK_QUEUE)
            .build();
        Ok(ctx.execute_activity(Named(activity), input, options).await?)
    }
}

fn activities() -> Activities {
    Activities::new().register_blocking("count", count)
}

/// Tells the test something, by a file whose directory it has given.
fn note(dir: &Path, name: &str, text: impl ToString) {
    let draft = dir.join(format!("{name}.draft"));
    fs::write(&draft, text.to_string()).unwrap();
    fs::rename(draft, dir.join(name)).unwrap(); // whole, or not there
}

fn wait_for(file: &Path) {
    while !file.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
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

// ---- the tests ----------------------------------------------------------------------------------------------------------

/// A pool of this program with so many activity processes.
fn pool(scene: &Scene<'_>, activity_processes: usize) -> Pool {
    Pool::start(scene.own(&["run"]), 1, activity_processes, &[])
}

/// Starts a workflow that runs this activity.
fn call(scene: &Scene<'_>, activity: &str, input: &Value, heartbeat_timeout: Duration) -> Program {
    let heartbeat_timeout_ms = heartbeat_timeout.as_millis() as u64;
    let order = json!({ "activity": activity, "input": input, "heartbeat_timeout_ms": heartbeat_timeout_ms });
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

/// The attempt of the only activity that is the last one.
fn last_attempt(scene: &Scene<'_>) -> Value {
    let histories = scene.server.histories(scene.namespace);
    let events = histories.iter().flat_map(|history| history.events());
    events.filter_map(|e| e.get("activityTaskStartedEventAttributes")).next_back().expect("a started activity").clone()
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
