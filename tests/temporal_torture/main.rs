//! Workflows with signals, timers and activities, while a workflow or activity process is killed every second and the server once:
//! every workflow completes with the right result, and their histories say that nobody but the killed had failed.
//!
//! This program is its own worker: with `run` as its first argument it serves [`Errand`] and its activities. 200 workflows;
//! `SHMWORKER_TORTURE_WORKFLOWS=2000` makes it as many.

#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code, reason = "another test uses more of it")]
#[path = "../temporal_balance/world.rs"]
mod world;

use common::{Pool, Server, eventually};
use futures_util::{StreamExt, stream};
use libtest_mimic::{Arguments, Trial};
use nix::sys::signal::Signal;
use shmworker::temporal::{
    activity::{Activities, ActivityError, activity_definitions},
    sample::{self, ACTIVITY_TASK_QUEUE},
    workflow::Workflows,
};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{self, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};
use temporalio_client::{Client, WorkflowHandle, WorkflowStartOptions, errors::WorkflowStartError};
use temporalio_common::{
    RetryPolicy,
    protos::{
        proto_ts_to_system_time,
        temporal::api::{
            enums::v1::EventType,
            history::v1::{HistoryEvent, history_event::Attributes},
        },
    },
};
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{ActivityOptions, SyncWorkflowContext, WorkflowContext, WorkflowContextView, WorkflowResult};
use world::{QUEUE, World};

/// Signals for each workflow.
const SIGNALS: usize = 3;
/// Workflows that are under way at a time.
const AT_A_TIME: usize = 100;
/// How long after the server is back tasks may still be lost that it had given to connections that broke.
const AFTERMATH: Duration = Duration::from_secs(15);

// ---- the user's code ----------------------------------------------------------------------------------------------------

struct Acts;

#[activity_definitions]
impl Acts {
    #[activity(name = "double")]
    fn double(number: u64) -> Result<u64, ActivityError> {
        unimplemented!() // only the signature counts
    }
    /// Says when it starts, in a file, and does not end the first time.
    #[activity(name = "stall_once")]
    fn stall_once(log: String) -> Result<(), ActivityError> {
        unimplemented!()
    }
}

fn activities() -> Activities {
    Activities::new().register_as(Acts::double, |_, number: u64| async move { Ok(2 * number) }).register_as(
        Acts::stall_once,
        |context, log: String| async move {
            say_when(&log, &context.info().attempt.to_string());
            match context.info().attempt {
                1 => std::future::pending().await,
                _ => Ok(()),
            }
        },
    )
}

/// Doubles a number, waits for a timer and for signals, doubles what those brought, and adds up.
#[workflow]
#[derive(Default)]
struct Errand {
    brought: BTreeMap<usize, u64>,
}

#[workflow_methods]
impl Errand {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, number: u64) -> WorkflowResult<u64> {
        let first = ctx.execute_activity(Acts::double, number, patient()).await?;
        ctx.timer(Duration::from_millis(100 + 10 * (number % 50))).await;
        ctx.wait_condition(|errand| errand.brought.len() == SIGNALS).await?;
        let brought = ctx.state(|errand| errand.brought.values().sum::<u64>());
        let second = ctx.execute_activity(Acts::double, brought, patient()).await?;
        Ok(first + second)
    }

    /// One that comes twice is one.
    #[signal]
    fn bring(&mut self, _ctx: &mut SyncWorkflowContext<Self>, (key, value): (usize, u64)) {
        self.brought.insert(key, value);
    }
}

fn result_of(number: u64) -> u64 {
    2 * number + 2 * (0..SIGNALS).map(|key| value(number, key)).sum::<u64>()
}

fn value(number: u64, key: usize) -> u64 {
    1000 * number + key as u64
}

/// Rests until it is told to end, and says when it was, in a file.
#[workflow]
#[derive(Default)]
struct Rest {
    is_over: bool,
}

#[workflow_methods]
impl Rest {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<()> {
        Ok(ctx.wait_condition(|rest| rest.is_over).await?)
    }

    #[signal]
    fn finish(&mut self, _ctx: &mut SyncWorkflowContext<Self>, log: String) {
        say_when(&log, "finish");
        self.is_over = true;
    }

    #[query]
    fn pid(&self, _ctx: &WorkflowContextView) -> u32 {
        process::id()
    }
}

/// Runs an activity whose first attempt does not end.
#[workflow]
#[derive(Default)]
struct Stall;

#[workflow_methods]
impl Stall {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, log: String) -> WorkflowResult<()> {
        let policy = RetryPolicy::builder().initial_interval(INTERVAL).build();
        let options = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(60)).retry_policy(policy);
        Ok(ctx.execute_activity(Acts::stall_once, log, options.task_queue(ACTIVITY_TASK_QUEUE).build()).await?)
    }
}

/// Between a failed attempt and the next.
const INTERVAL: Duration = Duration::from_secs(1);

fn patient() -> ActivityOptions {
    ActivityOptions::with_start_to_close_timeout(Duration::from_secs(20)).task_queue(ACTIVITY_TASK_QUEUE).build()
}

fn say_when(log: &str, what: &str) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    // Whoever reads it sees all or nothing.
    let draft = format!("{log}.{}", process::id());
    fs::write(&draft, now.as_nanos().to_string()).unwrap();
    fs::rename(&draft, format!("{log}.{what}")).unwrap();
}

fn heard_when(log: &Path, what: &str) -> SystemTime {
    let log = format!("{}.{what}", log.display());
    let nanos = eventually(&log, || fs::read_to_string(&log).ok());
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos.parse().unwrap())
}

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|command| command == "run") {
        let workflows = Workflows::new().register::<Errand>().register::<Rest>().register::<Stall>();
        return sample::worker().workflows(workflows).activities(activities()).main();
    }
    let mut args = Arguments::from_args();
    args.test_threads.get_or_insert(1);
    let tests: [(&str, fn()); 3] = [
        ("workflows_complete_whatever_is_killed", workflows_complete_whatever_is_killed),
        ("the_next_attempt_follows_a_death_at_once", the_next_attempt_follows_a_death_at_once),
        (
            "a_signal_after_a_death_reaches_another_process_at_once",
            a_signal_after_a_death_reaches_another_process_at_once,
        ),
    ];
    let trials = tests.map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&args, trials.into()).exit_code()
}

// ---- deaths -------------------------------------------------------------------------------------------------------------

fn workflows_complete_whatever_is_killed() {
    let many = std::env::var("SHMWORKER_TORTURE_WORKFLOWS").map_or(200, |n| n.parse().expect("a number of workflows"));
    // In memory, of which a server that is killed loses as little as of a disk.
    let home = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut server = Server::start_with(&["torture"], Some(home.path().join("temporal.db")));
    let (runtime, client) = world::connect(&server.address, "torture");
    let mut worker = world::worker(&server.address, "torture");
    worker.env("RUST_LOG", "warn,shmworker::temporal::bridge::workflows=debug");
    let mut pool = Pool::start(worker, 7, 4, &[]);
    let done = Arc::new(AtomicUsize::new(0));
    let (handle, counter) = (client.clone(), done.clone());
    let errands = runtime.spawn(async move {
        let errands = (0..many as u64).map(|number| {
            let (client, done) = (handle.clone(), counter.clone());
            async move {
                let result = errand(&client, number).await;
                done.fetch_add(1, Relaxed);
                (number, result)
            }
        });
        stream::iter(errands).buffer_unordered(AT_A_TIME).collect::<Vec<_>>().await
    });

    let labels: Vec<String> = pool.workers.clone();
    let mut restart = None;
    let mut kills = 0;
    let mut next = Instant::now();
    while !errands.is_finished() {
        next += Duration::from_secs(1);
        eventually("a second is over", || (errands.is_finished() || Instant::now() >= next).then_some(()));
        if restart.is_none() && done.load(Relaxed) >= many / 3 {
            let killed = SystemTime::now();
            server.kill_and_restart();
            restart = Some((killed, SystemTime::now() + AFTERMATH));
            next = Instant::now();
        } else {
            // Each of the eleven has its turn, after ten seconds and more: who dies sooner, with nothing done, counts as unable to
            // start. 3 and 11 have no common divisor.
            pool.kill(&labels[(3 * kills) % labels.len()]);
            kills += 1;
        }
    }
    let (killed, back) = restart.expect("the server was killed while there was something to do");
    let results = runtime.block_on(errands).unwrap();
    assert_eq!(results.len(), many);
    for (number, result) in &results {
        assert_eq!(*result, result_of(*number), "errand {number}");
    }
    pool.ends();

    // A busy server may note that it has given a task to somebody and then not do so. What came and was answered, the bridge has said.
    let said = pool.program.stderr();
    let came: Vec<&String> = said.iter().filter(|line| line.contains("activation over")).collect();
    assert!(came.len() > many, "the bridge says what comes");
    let has_come = |run_id: &str, length: i64| {
        let length = format!("history_length={length}");
        came.iter().any(|line| line.contains(run_id) && line.split_whitespace().any(|word| word == length))
    };
    let (mut failures, mut timeouts, mut lost) = (0, 0, 0);
    for number in 0..many as u64 {
        let handle = client.get_workflow_handle::<errand::Run>(id(number));
        let events = runtime.block_on(handle.fetch_history(Default::default()).into_events()).unwrap();
        for event in &events {
            match &event.attributes {
                Some(Attributes::WorkflowTaskFailedEventAttributes(failed)) => {
                    failures += 1;
                    let why = failed.failure.as_ref().map_or("", |f| f.message.as_str());
                    assert!(why.starts_with("the workflow process died"), "errand {number}: {failed:?}");
                }
                Some(Attributes::WorkflowTaskTimedOutEventAttributes(timed_out)) => {
                    timeouts += 1;
                    let scheduled = event_of(&events, timed_out.scheduled_event_id);
                    let Some(Attributes::WorkflowTaskScheduledEventAttributes(task)) = &scheduled.attributes else {
                        panic!("{scheduled:?} schedules a workflow task");
                    };
                    let is_of_restart = when(scheduled) <= back && when(event) >= killed;
                    let is_lost = !has_come(&run_id(&events), timed_out.started_event_id);
                    lost += usize::from(is_lost);
                    assert!(
                        task.attempt > 1 || is_of_restart || is_lost,
                        "errand {number}, restart {killed:?} to {back:?}: {timed_out:?}, {}",
                        events.iter().map(|e| format!("\n{:?} {:?}", when(e), e.event_type())).collect::<String>()
                    );
                }
                _ => {}
            }
        }
    }
    println!(
        "{many} workflows, {kills} processes and 1 server killed: {failures} workflow tasks failed, {timeouts} timed out, of which \
         {lost} had not come"
    );
}

fn id(number: u64) -> String {
    format!("errand-{number}")
}

fn run_id(events: &[HistoryEvent]) -> String {
    match &events[0].attributes {
        Some(Attributes::WorkflowExecutionStartedEventAttributes(started)) => started.original_execution_run_id.clone(),
        _ => panic!("a history begins with a start: {:?}", events[0]),
    }
}

fn event_of(events: &[HistoryEvent], id: i64) -> &HistoryEvent {
    events.iter().find(|event| event.event_id == id).expect("an event that another names")
}

fn when(event: &HistoryEvent) -> SystemTime {
    event.event_time.as_ref().and_then(proto_ts_to_system_time).expect("each event has a time")
}

/// Starts a workflow, signals it, and returns its result, however often the server has to be asked.
async fn errand(client: &Client, number: u64) -> u64 {
    let handle: WorkflowHandle<Client, errand::Run> = loop {
        let options = WorkflowStartOptions::new(QUEUE, id(number)).build();
        match client.start_workflow(Errand::run, number, options).await {
            Ok(handle) => break handle,
            // Our own, of an answer that was lost.
            Err(WorkflowStartError::AlreadyStarted { .. }) => {
                break client.get_workflow_handle::<errand::Run>(id(number));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    for key in 0..SIGNALS {
        while handle.signal(Errand::bring, (key, value(number, key)), Default::default()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    loop {
        match handle.get_result(Default::default()).await {
            Ok(result) => return result,
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

// ---- how soon -----------------------------------------------------------------------------------------------------------

/// What is measured so often; a median is printed of more than a few.
fn rounds() -> usize {
    if std::env::var_os("SHMWORKER_TORTURE_WORKFLOWS").is_some() { 20 } else { 3 }
}

fn print_median(what: &str, mut times: Vec<Duration>) {
    times.sort();
    println!("{what}: median {:?}, worst {:?} of {}", times[times.len() / 2], times[times.len() - 1], times.len());
}

/// A pool of two workflow processes and two activity processes.
fn with_pool(measure: impl Fn(&World<'_>, &mut Pool, &Path) -> Duration, what: &str) {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(&["latency"]);
    let world = World::new(&server, "latency");
    let mut pool = world.pool(2, 2, &[]);
    let times = (0..rounds()).map(|round| measure(&world, &mut pool, &home.path().join(round.to_string())));
    print_median(what, times.collect());
    pool.ends();
}

fn label_of(pool: &Pool, pid: i32) -> String {
    pool.workers.iter().find(|label| pool.pid(label) == pid).expect("one of the pool's").clone()
}

fn the_next_attempt_follows_a_death_at_once() {
    let measure = |world: &World<'_>, pool: &mut Pool, log: &Path| {
        let name = log.to_string_lossy().into_owned();
        let flow = world.start(&name, Stall::run, name.clone());
        heard_when(log, "1");
        let killed = SystemTime::now();
        // One of them has it, and has begun it alone.
        pool.kill("activity-worker:0");
        pool.kill("activity-worker:1");
        let next = heard_when(log, "2").duration_since(killed).expect("the next attempt comes after it");
        flow.output();
        next.checked_sub(INTERVAL).expect("the retry policy's interval lies between")
    };
    with_pool(measure, "from the death of an activity process to the next attempt, beyond the retry interval");
}

fn a_signal_after_a_death_reaches_another_process_at_once() {
    let measure = |world: &World<'_>, pool: &mut Pool, log: &Path| {
        let name = log.to_string_lossy().into_owned();
        let flow = world.start(&name, Rest::run, ());
        let pid = world.runtime.block_on(flow.handle.query(Rest::pid, (), Default::default())).unwrap();
        let label = label_of(pool, pid.cast_signed());
        pool.signal(&label, Signal::SIGKILL);
        let killed = SystemTime::now();
        flow.signal(Rest::finish, name);
        let reached = heard_when(log, "finish").duration_since(killed).expect("the signal comes after it");
        flow.output();
        assert_eq!(flow.count(EventType::WorkflowTaskTimedOut), 0);
        pool.has_died(&label);
        reached
    };
    with_pool(measure, "from the death of a workflow process to a signal in another");
}
