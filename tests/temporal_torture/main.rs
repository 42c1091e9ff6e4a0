//! Workflows with signals, timers and activities, while a workflow or activity process is killed every second and the server once:
//! every workflow completes with the right result, and their histories say that nobody but the killed had failed.
//!
//! # What histories may say
//!
//! - A workflow task failed: the bridge has said that between its start and its failure an activation of that run came back from a
//!   process that died.
//! - A workflow task timed out in its first attempt: the server was down for a part of that time, or has just come back; or it
//!   noted that it had given the task to a poll, and the task never came out of it, as happens to a busy server. The bridge says
//!   what comes as soon as Core hands it out, and when it is over. So this is believed only if, between those two events
//!   of the history, Core had nothing of that run to wait for, since the bridge held no activation of it, and the bridge did not
//!   keep Core waiting, since it took others. That no poll came for a task (schedule to start) is excused by nothing
//!   but the restart.
//! - In a later attempt: anything. Core reports only the first failed attempt of a workflow task.
//!
//! This program is its own worker: with `run` as its first argument it serves [`Errand`] and its activities. 200 workflows;
//! `SHMWORKER_TORTURE_WORKFLOWS=2000` makes it as many, which takes three to four minutes on two cores: the server is the
//! slowest.

#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code, reason = "another test uses more of it")]
#[path = "../temporal_balance/world.rs"]
mod world;

use common::{Pool, Server, eventually};
use futures_util::{StreamExt, stream};
use libtest_mimic::{Arguments, Trial};
use shmworker::temporal::{
    activity::{Activities, ActivityError, activity_definitions},
    sample::{self, ACTIVITY_TASK_QUEUE},
    workflow::Workflows,
};
use std::{
    collections::{BTreeMap, HashMap},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};
use temporalio_client::{Client, WorkflowHandle, WorkflowStartOptions, errors::WorkflowStartError};
use temporalio_common::protos::{
    proto_ts_to_system_time,
    temporal::api::history::v1::{HistoryEvent, history_event::Attributes},
};
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{ActivityOptions, SyncWorkflowContext, WorkflowContext, WorkflowResult};
use world::QUEUE;

/// Signals for each workflow.
const SIGNALS: usize = 3;
/// Workflows that are under way at a time.
const AT_A_TIME: usize = 100;
/// How long after the server is back tasks may still be lost that it had given to connections that broke.
const AFTERMATH: Duration = Duration::from_secs(15);
/// No workflow has ended for so long: none will.
const STANDSTILL: Duration = Duration::from_secs(120);

// ---- the user's code ----------------------------------------------------------------------------------------------------

struct Acts;

#[activity_definitions]
impl Acts {
    #[activity(name = "double")]
    fn double(number: u64) -> Result<u64, ActivityError> {
        unimplemented!() // only the signature counts
    }
}

fn activities() -> Activities {
    Activities::new().register_as(Acts::double, |_, number: u64| async move { Ok(2 * number) })
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

fn patient() -> ActivityOptions {
    ActivityOptions::with_start_to_close_timeout(Duration::from_secs(20)).task_queue(ACTIVITY_TASK_QUEUE).build()
}

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|command| command == "run") {
        let workflows = Workflows::new().register::<Errand>();
        return sample::worker().workflows(workflows).activities(activities()).main();
    }
    let mut args = Arguments::from_args();
    args.test_threads.get_or_insert(1);
    let trial = Trial::test("workflows_complete_whatever_is_killed", || {
        workflows_complete_whatever_is_killed();
        Ok(())
    });
    libtest_mimic::run(&args, vec![trial]).exit_code()
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
    let (mut last_done, mut last_end) = (0, next);
    while !errands.is_finished() {
        if last_done != done.load(Relaxed) {
            (last_done, last_end) = (done.load(Relaxed), Instant::now());
        }
        assert!(last_end.elapsed() < STANDSTILL, "{last_done} of {many} have ended, and no other in {STANDSTILL:?}");
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

    let held = held(&pool.program.stderr());
    let (mut failures, mut timeouts, mut lost) = (0, 0, 0);
    for number in 0..many as u64 {
        let handle = client.get_workflow_handle::<errand::Run>(id(number));
        let events = runtime.block_on(handle.fetch_history(Default::default()).into_events()).unwrap();
        let shown = || events.iter().map(|e| format!("\n{:?} {:?}", when(e), e.event_type())).collect::<String>();
        let of_run = held.get(&run_id(&events)).map_or(&[][..], Vec::as_slice);
        for event in &events {
            match &event.attributes {
                Some(Attributes::WorkflowTaskFailedEventAttributes(failed)) => {
                    failures += 1;
                    let why = failed.failure.as_ref().map_or("", |f| f.message.as_str());
                    assert!(why.starts_with("the workflow process died"), "errand {number}: {failed:?}");
                    // It may have been at an earlier place of the history, which it replayed.
                    let given = when(event_of(&events, failed.started_event_id));
                    let is_its_end = |over: SystemTime| (given..=when(event)).contains(&over);
                    let died = |h: &Held| h.outcome.ends_with("Died") && h.over.is_some_and(is_its_end);
                    assert!(of_run.iter().any(died), "errand {number}: {failed:?} of {of_run:?}");
                }
                Some(Attributes::WorkflowTaskTimedOutEventAttributes(timed_out)) => {
                    timeouts += 1;
                    let scheduled = event_of(&events, timed_out.scheduled_event_id);
                    let Some(Attributes::WorkflowTaskScheduledEventAttributes(task)) = &scheduled.attributes else {
                        panic!("{scheduled:?} schedules a workflow task");
                    };
                    let until = when(event);
                    if task.attempt > 1 || when(scheduled) <= back && until >= killed {
                        continue;
                    }
                    assert_ne!(timed_out.started_event_id, 0, "errand {number}: nobody took its task:{}", shown());
                    let given = when(event_of(&events, timed_out.started_event_id));
                    let is_between = |h: &&Held| h.came <= until && h.over.is_none_or(|over| over >= given);
                    let own: Vec<_> = of_run.iter().filter(is_between).collect();
                    assert!(own.is_empty(), "errand {number}: {timed_out:?} while the bridge had {own:?}:{}", shown());
                    let others = held.values().flatten().filter(|h| (given..until).contains(&h.came)).count();
                    assert!(others > 0, "errand {number}: {timed_out:?} while the bridge took nothing:{}", shown());
                    lost += 1;
                }
                _ => {}
            }
        }
    }
    println!(
        "{many} workflows, {kills} processes and 1 server killed: {failures} workflow tasks failed, {timeouts} timed out, of which \
         {lost} of first attempts had not come"
    );
}

/// An activation, as the bridge has said of it.
#[derive(Debug)]
struct Held {
    /// Of which workflow task it was.
    history_length: i64,
    came: SystemTime,
    over: Option<SystemTime>,
    outcome: String,
}

/// What the bridge has held, by run.
fn held(said: &[String]) -> HashMap<String, Vec<Held>> {
    let mut held = HashMap::<String, Vec<Held>>::new();
    for line in said.iter().filter_map(|line| line.strip_prefix("[bridge] ")) {
        let field = |name: &str| {
            let value = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            value.unwrap_or_else(|| panic!("{name} in: {line}")).trim_matches('"').to_owned()
        };
        let at = || {
            let stamp = line.split_whitespace().next().and_then(|stamp| stamp.parse().ok());
            stamp.as_ref().and_then(proto_ts_to_system_time).unwrap_or_else(|| panic!("a stamp first: {line}"))
        };
        let history_length = || field("history_length").parse().expect(line);
        if line.contains(" activation came ") {
            let came = Held { history_length: history_length(), came: at(), over: None, outcome: String::new() };
            held.entry(field("run_id")).or_default().push(came);
        } else if line.contains(" activation over ") {
            let of_run = held.get_mut(&field("run_id")).expect("it has come before");
            let it = of_run.iter_mut().rfind(|h| h.over.is_none() && h.history_length == history_length());
            let it = it.unwrap_or_else(|| panic!("over without a beginning: {line}"));
            (it.over, it.outcome) = (Some(at()), field("outcome"));
        }
    }
    assert!(!held.is_empty(), "the bridge says what comes");
    held
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
