//! Which process has which run: what is moved from a process that is overloaded, that leaves, or that doesn't yield, with no
//! workflow task lost to it.
//!
//! This program is its own worker: with `run` as its first argument it serves [`Parcel`].

#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code, reason = "another test uses more of it")]
mod world;

use common::{Pool, Server, distinct, eventually};
use libtest_mimic::{Arguments, Trial};
use nix::sys::signal::Signal;
use shmworker::temporal::{activity::Activities, sample, workflow::Workflows};
use std::{
    fs,
    process::{self, Command, ExitCode, Output},
    sync::Arc,
    time::{Duration, Instant},
};
use temporalio_client::WorkflowStartOptions;
use temporalio_common::protos::temporal::api::enums::v1::EventType;
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{SyncWorkflowContext, WorkflowContext, WorkflowContextView, WorkflowResult};
use world::{Flow, QUEUE, World};

/// A run that rests until it is told to do something, and says where it is, which workflow code must not do in earnest.
#[workflow]
#[derive(Default)]
struct Parcel {
    is_over: bool,
    ballast: Vec<u8>,
}

#[workflow_methods]
impl Parcel {
    /// Hangs in its first activation if it finds the file `fuse`. Returns the process in which it ends.
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, fuse: String) -> WorkflowResult<u32> {
        hang_on(&fuse);
        ctx.wait_condition(|parcel| parcel.is_over).await?;
        Ok(process::id())
    }

    /// Keeps its process busy.
    #[signal]
    fn burn(&mut self, _ctx: &mut SyncWorkflowContext<Self>, millis: u64) {
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(millis) {}
    }

    /// Hangs if it finds the file, which the next attempt doesn't.
    #[signal]
    fn hang(&mut self, _ctx: &mut SyncWorkflowContext<Self>, fuse: String) {
        hang_on(&fuse);
    }

    /// Blocks its thread, which workflow code must not do either, if it finds the file.
    #[signal]
    fn block(&mut self, _ctx: &mut SyncWorkflowContext<Self>, fuse: String) {
        if fs::remove_file(fuse).is_ok() {
            std::thread::sleep(Duration::from_secs(60));
        }
    }

    /// Says that it has begun, by removing the file, and needs a CPU for a while.
    #[signal]
    fn toil(&mut self, _ctx: &mut SyncWorkflowContext<Self>, (fuse, millis): (String, u64)) {
        // A replay finds none.
        let _ = fs::remove_file(fuse);
        let cpu = || nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap();
        let began = cpu();
        while cpu() - began < Duration::from_millis(millis) {}
    }

    #[signal]
    fn grow(&mut self, _ctx: &mut SyncWorkflowContext<Self>, mib: usize) {
        self.ballast = vec![1; mib << 20];
    }

    #[signal]
    fn finish(&mut self, _ctx: &mut SyncWorkflowContext<Self>) {
        self.is_over = true;
    }

    #[query]
    fn pid(&self, _ctx: &WorkflowContextView) -> u32 {
        process::id()
    }
}

fn hang_on(fuse: &str) {
    if fs::remove_file(fuse).is_ok() {
        loop {
            std::hint::spin_loop();
        }
    }
}

type Test = fn(&World<'_>);

macro_rules! tests {
    ($($test:ident)*) => { [$((stringify!($test), $test as Test)),*] };
}

const TESTS: &[(&str, Test)] = &tests![
    parked_runs_of_an_overloaded_process_go_elsewhere
    an_activation_that_its_owner_does_not_begin_in_time_is_taken_back
    a_first_activation_that_nobody_begins_in_time_is_taken_back
    a_pool_is_resized_by_signals_and_hands_its_runs_over
    a_pool_is_resized_by_a_command_and_hands_its_runs_over
    processes_that_have_run_enough_hand_their_runs_over
    a_process_that_holds_too_much_memory_hands_its_runs_over
    a_run_that_does_not_yield_is_reported_killed_and_replayed
    a_run_that_blocks_its_thread_is_reported_too
    a_process_that_is_stopped_over_an_activation_is_not_taken_for_deadlocked
    a_first_activation_that_does_not_yield_is_reported_once
];

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|command| command == "run") {
        return sample::worker().workflows(Workflows::new().register::<Parcel>()).activities(Activities::new()).main();
    }
    let mut args = Arguments::from_args();
    args.test_threads.get_or_insert(1);
    let namespaces: Vec<_> = TESTS.iter().map(|(name, _)| *name).collect();
    // Here, not by the first test that wants it: programs end with the thread that has started them.
    let server = (!args.list).then(|| Arc::new(Server::start(&namespaces)));
    let trials = TESTS.iter().map(|&(name, test)| {
        let server = server.clone();
        Trial::test(name, move || {
            test(&World::new(server.as_ref().expect("a list runs no test"), name));
            Ok(())
        })
    });
    libtest_mimic::run(&args, trials.collect()).exit_code()
}

type ParcelFlow<'w> = Flow<'w, parcel::Run>;

impl Flow<'_, parcel::Run> {
    fn pid(&self) -> i32 {
        self.runtime.block_on(self.handle.query(Parcel::pid, (), Default::default())).unwrap().cast_signed()
    }

    /// Ends the run; returns the process in which it ended.
    #[track_caller]
    fn end(&self) -> i32 {
        self.signal(Parcel::finish, ());
        self.output().cast_signed()
    }
}

/// Starts a parcel whose workflow tasks have time enough when the machine is busy with others too.
fn start<'w>(world: &'w World<'_>, id: &str, fuse: &str) -> ParcelFlow<'w> {
    let options = WorkflowStartOptions::new(QUEUE, id).task_timeout(Duration::from_secs(60)).build();
    world.start_with(options, Parcel::run, fuse.to_owned())
}

/// Starts parcels that are all with the process of this label.
fn all_with<'w>(world: &'w World<'_>, pool: &Pool, label: &str, n: usize) -> Vec<ParcelFlow<'w>> {
    let others: Vec<_> = pool.workers.iter().filter(|l| l.starts_with("workflow") && *l != label).collect();
    others.iter().for_each(|other| pool.signal(other, Signal::SIGSTOP));
    let parcels: Vec<_> = (0..n).map(|i| start(world, &format!("{label}-{i}"), "")).collect();
    assert_eq!(distinct(parcels.iter().map(ParcelFlow::pid)), [pool.pid(label)].into());
    others.iter().for_each(|other| pool.signal(other, Signal::SIGCONT));
    parcels
}

fn parked_runs_of_an_overloaded_process_go_elsewhere(world: &World<'_>) {
    let mut pool = world.pool(2, 0, &[]);
    let parcels = all_with(world, &pool, "workflow-worker:0", 10);
    let (busy, parked) = parcels.split_at(4);
    busy.iter().for_each(|parcel| parcel.signal(Parcel::burn, 1200));
    eventually("one of them has burnt its time", || {
        busy.iter().any(|p| p.count(EventType::WorkflowTaskCompleted) == 2).then_some(())
    });
    // By now another has waited for longer than it may.
    for parcel in parked {
        assert_eq!(parcel.end(), pool.pid("workflow-worker:1"));
    }
    assert!(busy.iter().any(|p| p.count(EventType::WorkflowTaskCompleted) == 1), "nobody had to wait for all of them");
    for parcel in busy {
        parcel.end();
    }
    parcels.iter().for_each(Flow::went_smoothly);
    pool.stop(Signal::SIGTERM);
}

fn an_activation_that_its_owner_does_not_begin_in_time_is_taken_back(world: &World<'_>) {
    let mut pool = world.pool(2, 0, &[]);
    let owner = "workflow-worker:0";
    pool.signal("workflow-worker:1", Signal::SIGSTOP);
    let options = WorkflowStartOptions::new(QUEUE, "parcel").task_timeout(Duration::from_secs(5)).build();
    let parcel = world.start_with(options, Parcel::run, String::new());
    assert_eq!(parcel.pid(), pool.pid(owner));
    pool.signal("workflow-worker:1", Signal::SIGCONT);
    pool.signal(owner, Signal::SIGSTOP);
    assert_eq!(parcel.end(), pool.pid("workflow-worker:1"));
    pool.signal(owner, Signal::SIGCONT);
    let [failure] = &parcel.task_failures()[..] else { panic!("one failure: {:#?}", parcel.events()) };
    let message = &failure.failure.as_ref().unwrap().message;
    assert!(message.contains("busy with others"), "{message}");
    assert_eq!(parcel.count(EventType::WorkflowTaskTimedOut), 0);
    pool.stop(Signal::SIGTERM);
}

fn a_first_activation_that_nobody_begins_in_time_is_taken_back(world: &World<'_>) {
    let mut pool = world.pool(1, 0, &[]);
    let only = "workflow-worker:0";
    pool.signal(only, Signal::SIGSTOP);
    let options = WorkflowStartOptions::new(QUEUE, "parcel").task_timeout(Duration::from_secs(5)).build();
    let parcel = world.start_with(options, Parcel::run, String::new());
    let failure = eventually("it is taken back", || parcel.task_failures().pop());
    pool.signal(only, Signal::SIGCONT);
    let message = &failure.failure.as_ref().unwrap().message;
    assert!(message.starts_with("every workflow process is busy with other runs"), "{message}");
    assert_eq!(parcel.end(), pool.pid(only));
    assert_eq!(parcel.count(EventType::WorkflowTaskTimedOut), 0);
    pool.stop(Signal::SIGTERM);
}

fn a_pool_is_resized_by_signals_and_hands_its_runs_over(world: &World<'_>) {
    let mut pool = world.pool(1, 0, &[]);
    let label = "workflow-worker:1";
    pool.program.signal(Signal::SIGTTIN);
    pool.program.says("a second process", 1, |line| line == format!("{label} starting"));
    pool.learn(label);
    let parcels = all_with(world, &pool, label, 20);
    pool.program.signal(Signal::SIGTTOU);
    // While it leaves.
    parcels[..10].iter().for_each(|parcel| parcel.signal(Parcel::burn, 1));
    pool.forget(label);
    assert!(parcels.iter().all(|parcel| parcel.end() == pool.pid("workflow-worker:0")));
    parcels.iter().for_each(Flow::went_smoothly);
    pool.program.signal(Signal::SIGTTOU);
    pool.program.says("a refusal", 1, |line| line.contains("SIGTTOU changes nothing: a pool needs a worker"));
    pool.stop(Signal::SIGTERM);
}

fn a_pool_is_resized_by_a_command_and_hands_its_runs_over(world: &World<'_>) {
    let mut pool = world.pool(1, 0, &["--max-workflow-workers", "2"]);
    let name = pool.program.pid().to_string();
    let resize = |to: &str| {
        let mut resize = Command::new(env!("CARGO_BIN_EXE_shmworker"));
        let Output { status, stdout, stderr } = resize.args(["resize", &name, "-w", to]).output().unwrap();
        let said = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (status.code(), said.concat())
    };
    assert_eq!(resize("2"), (Some(0), format!("pool '{name}' had 1 worker(s), and is to have 2\n")));
    let label = "workflow-worker:1";
    pool.program.says("a second process", 1, |line| line == format!("{label} starting"));
    pool.learn(label);
    let parcels = all_with(world, &pool, label, 20);
    assert_eq!(resize("1"), (Some(0), format!("pool '{name}' had 2 worker(s), and is to have 1\n")));
    pool.forget(label);
    assert!(parcels.iter().all(|parcel| parcel.end() == pool.pid("workflow-worker:0")));
    parcels.iter().for_each(Flow::went_smoothly);
    let (code, said) = resize("3");
    assert!(
        code == Some(1) && said.starts_with(&format!("error: pool '{name}' refuses: it was made for 1 to 2")),
        "{said}"
    );
    pool.stop(Signal::SIGTERM);
}

fn processes_that_have_run_enough_hand_their_runs_over(world: &World<'_>) {
    let mut pool = world.pool(2, 0, &["--max-tasks-per-process", "25"]);
    let parcels: Vec<_> = (0..20).map(|i| world.start(&format!("{i}"), Parcel::run, String::new())).collect();
    for _ in 0..10 {
        parcels.iter().for_each(|parcel| parcel.signal(Parcel::burn, 1));
    }
    parcels.iter().for_each(|parcel| parcel.signal(Parcel::finish, ()));
    for parcel in &parcels {
        parcel.output();
    }
    let reason = "has left: it has run as many tasks as one worker may";
    pool.program.says(reason, 3, |line| line.ends_with(reason));
    parcels.iter().for_each(Flow::went_smoothly);
    assert_eq!(pool.program.stderr(), [""; 0], "nobody died");
    pool.ends();
}

fn a_process_that_holds_too_much_memory_hands_its_runs_over(world: &World<'_>) {
    let mut pool = world.pool(2, 0, &["--max-memory-per-process", "256M"]);
    let parcels = all_with(world, &pool, "workflow-worker:0", 5);
    parcels[0].signal(Parcel::grow, 300);
    let reason = "has left: it held more memory than one worker may";
    pool.program.says(reason, 1, |line| line.starts_with("workflow-worker:0") && line.ends_with(reason));
    for parcel in &parcels[1..] {
        assert_ne!(parcel.end(), pool.pid("workflow-worker:0"));
    }
    parcels.iter().for_each(Flow::went_smoothly);
    pool.ends();
}

fn a_run_that_does_not_yield_is_reported_killed_and_replayed(world: &World<'_>) {
    let mut pool = world.pool(2, 0, &[]);
    let owner = "workflow-worker:0";
    let parcels = all_with(world, &pool, owner, 5);
    let home = tempfile::tempdir().unwrap();
    let fuse = home.path().join("fuse");
    fs::write(&fuse, "").unwrap();
    parcels[0].signal(Parcel::hang, fuse.to_string_lossy().into_owned());
    let report = format!("{owner} (pid {}) has run a task for longer than that may take: killed", pool.pid(owner));
    pool.program.says(&report, 1, |line| line == report);
    assert!(parcels.iter().all(|parcel| parcel.end() != pool.pid(owner)));
    let [failure] = &parcels[0].task_failures()[..] else { panic!("one failure: {:#?}", parcels[0].events()) };
    let message = &failure.failure.as_ref().unwrap().message;
    let run_id = parcels[0].handle.info().run_id.clone().unwrap_or_default();
    let begins = "[TMPRL1101] potential deadlock: workflow \"Parcel\" (run ";
    assert!(message.starts_with(begins) && message.contains(&run_id), "{message}");
    assert!(message.contains("did not yield within 2000 ms") && message.contains("SignalWorkflow"), "{message}");
    assert_eq!(parcels[0].count(EventType::WorkflowTaskTimedOut), 0);
    parcels[1..].iter().for_each(Flow::went_smoothly);
    pool.program.says("the same in the log", 1, |line| line.contains("[TMPRL1101]"));
    pool.ends();
}

fn a_run_that_blocks_its_thread_is_reported_too(world: &World<'_>) {
    let mut pool = world.pool(2, 0, &[]);
    let parcel = start(world, "parcel", "");
    let owner = parcel.pid();
    let home = tempfile::tempdir().unwrap();
    let fuse = home.path().join("fuse");
    fs::write(&fuse, "").unwrap();
    parcel.signal(Parcel::block, fuse.to_string_lossy().into_owned());
    assert_ne!(parcel.end(), owner);
    let [failure] = &parcel.task_failures()[..] else { panic!("one failure: {:#?}", parcel.events()) };
    let message = &failure.failure.as_ref().unwrap().message;
    assert!(message.starts_with("[TMPRL1101]"), "{message}");
    assert_eq!(parcel.count(EventType::WorkflowTaskTimedOut), 0);
    pool.ends();
}

fn a_process_that_is_stopped_over_an_activation_is_not_taken_for_deadlocked(world: &World<'_>) {
    let mut pool = world.pool(1, 0, &[]);
    let parcel = start(world, "parcel", "");
    let home = tempfile::tempdir().unwrap();
    let fuse = home.path().join("fuse");
    fs::write(&fuse, "").unwrap();
    parcel.signal(Parcel::toil, (fuse.to_string_lossy().into_owned(), 500));
    eventually("the activation has begun", || (!fuse.exists()).then_some(()));
    let owner = "workflow-worker:0";
    pool.signal(owner, Signal::SIGSTOP);
    let stopped = Instant::now();
    eventually("it was stopped for twice its time", || (stopped.elapsed() > Duration::from_secs(4)).then_some(()));
    pool.signal(owner, Signal::SIGCONT);
    assert_eq!(parcel.end(), pool.pid(owner));
    parcel.went_smoothly();
    pool.stop(Signal::SIGTERM);
}

fn a_first_activation_that_does_not_yield_is_reported_once(world: &World<'_>) {
    let mut pool = world.pool(2, 0, &["--deadlock-timeout", "500ms"]);
    let home = tempfile::tempdir().unwrap();
    let fuse = home.path().join("fuse");
    fs::write(&fuse, "").unwrap();
    let parcel = start(world, "parcel", &fuse.to_string_lossy());
    parcel.end();
    let [failure] = &parcel.task_failures()[..] else { panic!("one failure: {:#?}", parcel.events()) };
    let message = &failure.failure.as_ref().unwrap().message;
    assert!(message.contains("did not yield within 500 ms") && message.contains("InitializeWorkflow"), "{message}");
    assert_eq!(parcel.count(EventType::WorkflowTaskTimedOut), 0);
    pool.ends();
}
