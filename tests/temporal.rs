//! The main job on a real Temporal server: workflows and activities in processes, and what deaths, signals, terminals and
//! wrong input do to them.
//!
//! One dev server serves nearly all tests, each in a namespace of its own, named after it. Tests run one after another
//! unless `--test-threads` says otherwise: each of them is a load for a small machine.

mod common;

use common::{
    EVENT_TASK_FAILED, EVENT_TASK_STARTED, EVENT_TASK_TIMED_OUT, EVENT_TIMER_STARTED, Echo, Pool, Process, Program,
    Scene, distinct, eventually, results,
};
use nix::{
    errno::Errno,
    sys::signal::{Signal, killpg},
    unistd::{Pid, mkfifo},
};
use shmworker::{cli::exit, temporal::sample::WORKFLOW_TASK_QUEUE};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::Write,
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    process::ExitCode,
};

/// The system call in which a thread of ours sleeps.
const SLEEPS: i64 = libc::SYS_clock_nanosleep;

const TESTS: &[(&str, common::Test)] = &common::tests![
    twenty_five_workflows_give_twenty_five_right_lines
    five_hundred_workflows_three_times_leave_nothing_behind
    a_killed_workflow_process_under_parked_runs_costs_no_workflow
    a_killed_workflow_process_under_load_costs_no_workflow
    a_killed_activity_process_costs_no_workflow
    an_attempt_in_hand_of_a_killed_process_fails_at_once_and_is_retried
    a_first_activation_in_hand_of_a_killed_process_goes_to_another
    parked_runs_of_killed_processes_are_replayed
    activations_on_their_way_to_killed_processes_are_failed_and_replayed
    an_eviction_on_its_way_to_a_killed_process_is_answered_for_it
    processes_killed_while_runs_are_evicted_cost_no_workflow
    a_killed_bridge_is_replaced_and_every_workflow_completes
    a_bridge_killed_again_and_again_ends_the_pool
    nobody_outlives_a_killed_coordinator
    a_pool_that_ends_leaves_its_workflows_to_the_next
    a_drain_finishes_the_attempts_in_hand
    an_attempt_that_never_ends_is_killed_once_the_grace_is_over
    an_impatient_user_ends_the_pool_by_the_third_signal
    ctrl_c_in_a_terminal_drains
    ctrl_z_stops_everybody_and_fg_continues
    workers_hold_no_socket_to_anybody
    output_of_user_code_carries_its_label
    a_server_that_cannot_be_reached_is_named
    a_namespace_that_does_not_exist_is_named
    a_task_queue_that_nobody_polls_is_named
    a_workflow_that_the_program_does_not_have_is_named
    a_workflow_task_that_fails_again_and_again_is_told
    a_workflow_ends_when_its_time_is_over
    a_missing_command_line_tool_is_named
    an_embedded_dev_server_serves_and_ends_with_the_pool
    an_embedded_dev_server_dies_with_the_coordinator
];

fn main() -> ExitCode {
    common::run(TESTS)
}

// ---- the main job -------------------------------------------------------------------------------------------------------

fn twenty_five_workflows_give_twenty_five_right_lines(scene: &Scene<'_>) {
    let mut pool = scene.pool(4, 1, &[]);
    assert_eq!(
        pool.program.stdout(),
        [
            "starting 4 workflow worker(s) and 1 activity worker(s)",
            "workflow-worker:0 starting",
            "workflow-worker:1 starting",
            "workflow-worker:2 starting",
            "workflow-worker:3 starting",
            "activity-worker:0 starting",
            "waiting for keyboard interrupt or for all workers to exit",
        ]
    );
    // 25 is what it starts when it isn't told.
    let results = results(&mut Program::start(scene.shmworker(&["starter"])), 25);
    assert!(results.iter().all(|r| r.starting == r.ending), "{results:?}");
    let workers = distinct(results.iter().map(|r| r.starting));
    assert!(workers.len() >= 2, "{workers:?}");
    assert!(workers.is_subset(&distinct(pool.processes("workflow-worker").iter().map(|p| p.pid))));
    assert_eq!(distinct(results.iter().map(|r| r.activity)), [pool.pid("activity-worker:0")].into());
    pool.stop(Signal::SIGINT);
    assert_eq!(pool.program.stderr(), [""; 0]);
}

fn five_hundred_workflows_three_times_leave_nothing_behind(scene: &Scene<'_>) {
    let mut pool = scene.pool(4, 1, &[]);
    for _ in 0..3 {
        let results = results(&mut scene.starter(500, &[]), 500);
        assert!(results.iter().all(|r| r.starting == r.ending));
    }
    pool.stop(Signal::SIGTERM);
    assert_eq!(pool.program.stderr(), [""; 0]);
}

// ---- deaths of workers --------------------------------------------------------------------------------------------------

fn a_killed_workflow_process_under_parked_runs_costs_no_workflow(scene: &Scene<'_>) {
    let mut pool = scene.pool(4, 1, &[]);
    let mut starter = scene.two_hundred_running(3000);
    pool.kill("workflow-worker:0");
    results(&mut starter, 200);
    pool.stop(Signal::SIGTERM);
}

fn a_killed_workflow_process_under_load_costs_no_workflow(scene: &Scene<'_>) {
    let mut pool = scene.pool(4, 1, &[]);
    let mut starter = scene.starter(200, &[]);
    starter.says("a first result", 1, |_| true);
    pool.kill("workflow-worker:0");
    starter.says("50 results", 50, |_| true);
    pool.kill("workflow-worker:1");
    results(&mut starter, 200);
    pool.stop(Signal::SIGTERM);
}

fn a_killed_activity_process_costs_no_workflow(scene: &Scene<'_>) {
    let mut pool = scene.pool(2, 1, &[]);
    let mut starter = scene.starter(200, &[]);
    starter.says("a first result", 1, |_| true);
    let killed = pool.pid("activity-worker:0");
    pool.kill("activity-worker:0");
    let activities = distinct(results(&mut starter, 200).iter().map(|r| r.activity));
    assert_eq!(activities, [killed, pool.pid("activity-worker:0")].into());
    pool.stop(Signal::SIGTERM);
}

/// A file that does not let go of its reader before the test has written it.
struct Fifo(PathBuf);

impl Fifo {
    fn new(dir: &Path) -> Fifo {
        let path = dir.join("text");
        mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        Fifo(path)
    }

    /// Returns once an attempt of the example's activity has it open. The reader waits for text until this is dropped.
    fn await_reader(&self) -> File {
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(libc::O_NONBLOCK);
        eventually("somebody reads", || options.open(&self.0).ok())
    }

    /// A pool of the example program, and a starter of a workflow that counts the words of this file.
    fn start(&self, scene: &Scene<'_>) -> (Pool, Program) {
        let pool = Pool::start(scene.example(&["run"]), 1, 1, &[]);
        (pool, self.starter(scene))
    }

    fn starter(&self, scene: &Scene<'_>) -> Program {
        let input = format!("[{:?}]", self.0);
        let args = ["starter", "-n", "1", "--workflow", "CountWords", "--input", &input];
        Program::start(scene.example(&args))
    }
}

fn an_attempt_in_hand_of_a_killed_process_fails_at_once_and_is_retried(scene: &Scene<'_>) {
    let fifo = Fifo::new(scene.home());
    let (mut pool, mut starter) = fifo.start(scene);
    let first = fifo.await_reader();
    pool.signal("activity-worker:0", Signal::SIGKILL);
    // Before there is a second attempt, for which this would be the end of its text.
    drop(first);
    pool.has_died("activity-worker:0");
    fifo.await_reader().write_all(b"two words").unwrap();
    starter.says("2", 1, |line| line == "2");
    let histories = scene.server.histories(scene.namespace);
    let attempt = histories[0].events().iter().find_map(|e| e.get("activityTaskStartedEventAttributes")).unwrap();
    assert_eq!(attempt["attempt"], 2);
    assert_eq!(attempt["lastFailure"]["message"], "the activity process died: signal 9 (SIGKILL)");
    pool.stop(Signal::SIGTERM);
}

fn a_first_activation_in_hand_of_a_killed_process_goes_to_another(scene: &Scene<'_>) {
    let mut pool = scene.pool(2, 1, &[]);
    let args = ["starter", "-n", "4", "--workflow", "SpinWorkflow", "--input", "1000"];
    let mut starter = Program::start(scene.shmworker(&args));
    let victim = eventually("a process is inside an activation", || {
        let mut workers = pool.processes("workflow-worker").into_iter();
        workers.find(|p| p.system_call() == Some(SLEEPS))
    });
    let label = pool.workers.iter().find(|label| pool.pid(label) == victim.pid).unwrap().clone();
    pool.kill(&label);
    assert!(starter.end().success());
    let results = starter.stdout();
    assert_eq!(results.len(), 4);
    assert!(!results.iter().any(|line| line.contains(&format!("pid:{}", victim.pid))), "{results:?}");
    for history in scene.server.histories(scene.namespace) {
        assert!(!history.has(EVENT_TASK_FAILED) && !history.has(EVENT_TASK_TIMED_OUT));
    }
    pool.stop(Signal::SIGTERM);
}

/// Starts workflows, and returns once each run is parked until its timer fires.
fn parked(scene: &Scene<'_>, workflows: usize, millis: u32) -> Program {
    let starter = scene.starter(workflows, &["--workflow", "TimerWorkflow", "--input", &millis.to_string()]);
    eventually("every run waits for its timer", || {
        let histories = scene.server.histories(scene.namespace);
        (histories.len() == workflows && histories.iter().all(|h| h.ends_with(EVENT_TIMER_STARTED))).then_some(())
    });
    starter
}

fn parked_runs_of_killed_processes_are_replayed(scene: &Scene<'_>) {
    let mut pool = scene.pool(2, 1, &[]);
    // It takes seconds to look at ten histories, and the machine may stand still for one or two.
    let mut starter = parked(scene, 10, 8000);
    // One after the other, so that whoever had a run is dead, and nobody is asked to replay it before its timer fires.
    let dead = distinct(pool.processes("workflow-worker").iter().map(|p| p.pid));
    pool.kill("workflow-worker:0");
    pool.kill("workflow-worker:1");
    replayed_by_others(scene, &mut starter, 10, &dead);
    // They were evicted on the news of the deaths, not when something came for them.
    assert!(!scene.server.histories(scene.namespace).iter().any(|h| h.has(EVENT_TASK_FAILED)));
    pool.stop(Signal::SIGTERM);
}

fn activations_on_their_way_to_killed_processes_are_failed_and_replayed(scene: &Scene<'_>) {
    let mut pool = scene.pool(2, 1, &[]);
    // No more than Core takes for two processes that answer nothing.
    let mut starter = parked(scene, 6, 5000);
    let dead = distinct(pool.processes("workflow-worker").iter().map(|p| p.pid));
    for label in ["workflow-worker:0", "workflow-worker:1"] {
        pool.signal(label, Signal::SIGSTOP);
    }
    scene.every_run_has_a_task();
    pool.kill("workflow-worker:0");
    pool.kill("workflow-worker:1");
    replayed_by_others(scene, &mut starter, 6, &dead);
    // Not all, if their timers fired more than a second apart: those that were still parked then have been taken away from processes
    // that keep others waiting.
    assert!(scene.server.histories(scene.namespace).iter().any(|h| h.has(EVENT_TASK_FAILED)));
    pool.stop(Signal::SIGTERM);
}

/// Every run began in one of the dead processes and ended in another, and none had to wait for the workflow-task timeout.
#[track_caller]
fn replayed_by_others(scene: &Scene<'_>, starter: &mut Program, workflows: usize, dead: &BTreeSet<i32>) {
    for Echo { starting, ending, .. } in results(starter, workflows) {
        assert!(dead.contains(&starting) && !dead.contains(&ending), "{starting} and {ending}; dead: {dead:?}");
    }
    assert!(!scene.server.histories(scene.namespace).iter().any(|h| h.has(EVENT_TASK_TIMED_OUT)));
}

fn an_eviction_on_its_way_to_a_killed_process_is_answered_for_it(scene: &Scene<'_>) {
    let mut pool = scene.pool(1, 1, &["--max-cached-workflows", "1"]);
    let mut first = parked(scene, 1, 3000);
    pool.signal("workflow-worker:0", Signal::SIGSTOP);
    let mut second = scene.starter(1, &["--workflow", "TimerWorkflow", "--input", "0"]);
    eventually("the second run waits for the place of the first", || {
        let histories = scene.server.histories(scene.namespace);
        histories.iter().any(|h| h.ends_with(EVENT_TASK_STARTED)).then_some(())
    });
    pool.kill("workflow-worker:0");
    results(&mut second, 1);
    results(&mut first, 1);
    assert!(!scene.server.histories(scene.namespace).iter().any(|h| h.has(EVENT_TASK_TIMED_OUT)));
    pool.stop(Signal::SIGTERM);
}

fn processes_killed_while_runs_are_evicted_cost_no_workflow(scene: &Scene<'_>) {
    // With room for two, nearly every activation evicts another run.
    let mut pool = scene.pool(3, 1, &["--max-cached-workflows", "2"]);
    let mut starter = scene.starter(20, &["--workflow", "TimerWorkflow", "--input", "500"]);
    for i in 0..6 {
        starter.says("a further result", 1 + 3 * i, |_| true);
        pool.kill(&format!("workflow-worker:{}", i % 3));
    }
    results(&mut starter, 20);
    pool.stop(Signal::SIGTERM);
}

// ---- deaths of the bridge and of the coordinator ------------------------------------------------------------------------

fn a_killed_bridge_is_replaced_and_every_workflow_completes(scene: &Scene<'_>) {
    let mut pool = scene.pool(4, 1, &[]);
    let mut starter = scene.two_hundred_running(3000);
    pool.kill("bridge");
    results(&mut starter, 200);
    pool.stop(Signal::SIGTERM);
}

fn a_bridge_killed_again_and_again_ends_the_pool(scene: &Scene<'_>) {
    let mut pool = scene.pool(2, 1, &[]);
    for _ in 0..4 {
        pool.kill("bridge");
    }
    pool.signal("bridge", Signal::SIGKILL);
    let status = pool.program.end();
    assert_eq!(status.code(), Some(exit::CRASH_LOOP.into()));
    let last = pool.program.stderr().pop().unwrap();
    assert!(last.starts_with("error: bridge died 5 times in a row"), "{last}");
    assert!(last.contains("signal 9 (SIGKILL)"), "{last}");
    pool.leaves_nothing();
}

fn nobody_outlives_a_killed_coordinator(scene: &Scene<'_>) {
    let mut pool = scene.pool(4, 2, &[]);
    assert_eq!(pool.program.family().len(), 8);
    pool.program.signal(Signal::SIGKILL);
    pool.program.end();
    pool.leaves_nothing();
}

// ---- the end, and terminals ---------------------------------------------------------------------------------------------

fn a_pool_that_ends_leaves_its_workflows_to_the_next(scene: &Scene<'_>) {
    let mut starter = {
        let mut pool = scene.pool(4, 1, &[]);
        let starter = scene.two_hundred_running(3000);
        pool.stop(Signal::SIGTERM);
        starter
    };
    assert!(starter.is_running());
    let mut pool = scene.pool(4, 1, &[]);
    results(&mut starter, 200);
    pool.stop(Signal::SIGTERM);
    // The answer may be a moment behind.
    eventually("all have completed", || {
        (scene.server.count(scene.namespace, "ExecutionStatus!='Completed'") == 0).then_some(())
    });
}

fn a_drain_finishes_the_attempts_in_hand(scene: &Scene<'_>) {
    let fifo = Fifo::new(scene.home());
    let (mut pool, mut starter) = fifo.start(scene);
    let mut reader = fifo.await_reader();
    pool.program.signal(Signal::SIGTERM);
    pool.program.says("draining", 1, |line| line.starts_with("draining"));
    reader.write_all(b"three more words").unwrap();
    drop(reader);
    pool.ends_well();
    let mut pool = Pool::start(scene.example(&["run"]), 1, 1, &[]);
    starter.says("3", 1, |line| line == "3");
    pool.stop(Signal::SIGTERM);
    // It is not run again.
    assert_eq!(pool.program.stderr(), [""; 0]);
}

/// The pool was ended by force: it says so in one line, and nobody is reported dead who was meant to die.
fn was_forced(pool: &mut Pool) {
    assert_eq!(pool.program.end().code(), Some(1));
    let said = pool.program.stderr();
    assert!(said.iter().any(|line| line.contains("did not end in time: killed")), "{said:?}");
    assert!(said.iter().any(|line| line.starts_with("error:") && line.contains("--grace")), "{said:?}");
    assert!(!said.iter().any(|line| line.contains("unexpectedly")), "{said:?}");
    pool.leaves_nothing();
}

fn an_attempt_that_never_ends_is_killed_once_the_grace_is_over(scene: &Scene<'_>) {
    let fifo = Fifo::new(scene.home());
    let mut pool = Pool::start(scene.example(&["run"]), 1, 1, &["--grace", "300ms"]);
    let _starter = fifo.starter(scene);
    let _reader = fifo.await_reader();
    pool.program.signal(Signal::SIGTERM);
    was_forced(&mut pool);
}

fn an_impatient_user_ends_the_pool_by_the_third_signal(scene: &Scene<'_>) {
    let fifo = Fifo::new(scene.home());
    let mut pool = Pool::start(scene.example(&["run"]), 1, 1, &["--grace", "10m"]);
    let _starter = fifo.starter(scene);
    let _reader = fifo.await_reader();
    for says in ["draining", "cancelling"] {
        pool.program.signal(Signal::SIGINT);
        pool.program.says(says, 1, |line| line.starts_with(says));
    }
    pool.program.signal(Signal::SIGINT);
    was_forced(&mut pool);
}

fn ctrl_c_in_a_terminal_drains(scene: &Scene<'_>) {
    let (mut pool, mut terminal) = Pool::start_in_terminal(scene.shmworker(&["run"]), 4, 1);
    let mut starter = scene.two_hundred_running(3000);
    terminal.write_all(b"\x03").unwrap();
    // The terminal shows ^C in front of it.
    pool.program.says("draining", 1, |line| line.contains("draining: what runs is finished"));
    pool.ends_well();
    let said = pool.program.stdout();
    assert!(!said.iter().any(|line| line.contains("ERROR")), "nobody dies of it");
    let mut pool = scene.pool(4, 1, &[]);
    results(&mut starter, 200);
    pool.stop(Signal::SIGTERM);
}

fn ctrl_z_stops_everybody_and_fg_continues(scene: &Scene<'_>) {
    let (mut pool, mut terminal) = Pool::start_in_terminal(scene.shmworker(&["run"]), 2, 1);
    let mut starter = scene.two_hundred_running(1000);
    terminal.write_all(b"\x1a").unwrap();
    eventually("everybody is stopped", || pool.program.family().iter().all(|p| p.state == 'T').then_some(()));
    assert_eq!(pool.program.family().len(), 5);
    // As a shell does it.
    killpg(Pid::from_raw(pool.program.pid()), Signal::SIGCONT).unwrap();
    results(&mut starter, 200);
    assert!(!pool.program.stdout().iter().any(|line| line.contains("ERROR")), "nobody dies of it");
    pool.stop(Signal::SIGTERM);
}

// ---- what workers have open ---------------------------------------------------------------------------------------------

fn sockets(process: &Process) -> BTreeMap<i32, String> {
    process.descriptors().into_iter().filter(|(_, target)| target.starts_with("socket:")).collect()
}

/// The inodes of all internet sockets that this process can have, as descriptors show them.
fn internet_sockets(pid: i32) -> BTreeSet<String> {
    let table = |name| fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
    let tables = ["tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6"].map(table);
    let rows = tables.iter().flat_map(|table| table.lines().skip(1));
    rows.filter_map(|row| Some(format!("socket:[{}]", row.split_whitespace().nth(9)?))).collect()
}

/// Who made the pair of connected sockets of which the process has one end under this number.
fn maker_of_pair(pid: i32, fd: i32) -> i32 {
    // SAFETY: plain numbers in, a descriptor or -1 out.
    let pidfd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }).unwrap() as i32;
    // SAFETY: the kernel has just given us this descriptor.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    // SAFETY: as above.
    let socket = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) };
    let socket = Errno::result(socket).unwrap() as i32;
    // SAFETY: the kernel has just given us this descriptor.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of_val(&peer) as libc::socklen_t;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_PEERCRED);
    // SAFETY: room for a `ucred`, and its size.
    let got = unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut peer).cast(), &mut len) };
    Errno::result(got).unwrap();
    peer.pid
}

fn workers_hold_no_socket_to_anybody(scene: &Scene<'_>) {
    let mut pool = scene.pool(2, 2, &[]);
    results(&mut scene.starter(25, &[]), 25);
    // What the check can see: the one connection is the bridge's.
    let bridge = pool.processes("bridge").remove(0);
    assert!(sockets(&bridge).values().any(|socket| internet_sockets(bridge.pid).contains(socket)));
    for worker in pool.processes("workflow-worker") {
        assert_eq!(sockets(&worker), BTreeMap::new());
    }
    let mut holders = pool.processes("");
    holders.push(Process::of(pool.program.pid()).unwrap());
    for worker in pool.processes("activity-worker") {
        let others: BTreeSet<String> =
            holders.iter().filter(|h| h.pid != worker.pid).flat_map(|h| sockets(h).into_values()).collect();
        for (fd, socket) in sockets(&worker) {
            assert!(!internet_sockets(worker.pid).contains(&socket), "{socket} leads to the internet");
            // A runtime talks to itself through a pair of sockets.
            assert_eq!(maker_of_pair(worker.pid, fd), worker.pid, "{socket} is of another's making");
            assert!(!others.contains(&socket), "{socket} is shared with another process");
        }
    }
    pool.stop(Signal::SIGTERM);
}

// ---- the user's own code ------------------------------------------------------------------------------------------------

fn output_of_user_code_carries_its_label(scene: &Scene<'_>) {
    let paths = ["a", "b"].map(|name| scene.home().join(name));
    fs::write(&paths[0], "one two three").unwrap();
    fs::write(&paths[1], "four\nfive").unwrap();
    let mut pool = Pool::start(scene.example(&["run"]), 2, 1, &[]);
    let args = ["starter", "-n", "1", "--workflow", "CountWords", "--input", &format!("{paths:?}")];
    let mut starter = Program::start(scene.example(&args));
    assert!(starter.end().success());
    assert_eq!(starter.stdout(), ["5"]);
    pool.stop(Signal::SIGTERM);
    let (stdout, stderr) = (pool.program.stdout(), pool.program.stderr());
    for (path, words) in paths.iter().zip([3, 2]) {
        assert!(stdout.contains(&format!("[activity-worker:0] {} has {words} words", path.display())));
        assert!(stderr.contains(&format!("[activity-worker:0] reading {}, attempt 1", path.display())));
    }
    assert_eq!(stderr.len(), 2, "{stderr:?}");
}

// ---- wrong input --------------------------------------------------------------------------------------------------------

/// The program ends with this code after one line on stderr, which begins and goes on as said, and leaves nobody behind.
#[track_caller]
fn fails(mut program: Program, code: u8, begins: &str, holds: &str) {
    let status = program.end();
    let [line] = &program.stderr()[..] else { panic!("one line on stderr") };
    assert!(line.starts_with(begins) && line.contains(holds), "{line}");
    assert_eq!(status.code(), Some(code.into()));
    assert_eq!(program.stdout(), [""; 0], "nothing was started");
    program.leaves_nobody();
}

fn a_server_that_cannot_be_reached_is_named(scene: &Scene<'_>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // The port of a client: taken, so that nobody else comes to listen there, and closed to connections.
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let address = client.local_addr().unwrap().to_string();
    let run = Program::start(scene.unconfigured(&["run", "--address", &address]));
    let begins = format!("error: cannot reach the Temporal server at {address}: Connection refused");
    fails(run, exit::SERVER_UNREACHABLE, &begins, "start it, or name another with --address or TEMPORAL_ADDRESS");
}

fn a_namespace_that_does_not_exist_is_named(scene: &Scene<'_>) {
    let address = &scene.server.address;
    let begins = format!("error: no namespace 'nowhere' on the Temporal server at {address}: create it with 'temporal");
    for command in ["run", "starter"] {
        let args = [command, "--address", address, "--namespace", "nowhere"];
        let program = Program::start(scene.unconfigured(&args));
        fails(program, exit::BAD_NAMESPACE, &begins, "or name another with --namespace or TEMPORAL_NAMESPACE");
    }
}

fn a_task_queue_that_nobody_polls_is_named(scene: &Scene<'_>) {
    let starter = Program::start(scene.shmworker(&["starter", "--task-queue", "nobodys"]));
    let begins = "error: nobody polls workflow task queue 'nobodys'";
    fails(starter, exit::NO_WORKER, begins, "start workers with 'shmworker run --workflow-task-queue nobodys'");
}

fn a_workflow_that_the_program_does_not_have_is_named(scene: &Scene<'_>) {
    let starter = Program::start(scene.shmworker(&["starter", "--workflow", "Unheard"]));
    let begins = "error: this program has no workflow 'Unheard' (it has ParallelizedWorkflow, ";
    fails(starter, exit::USAGE, begins, "or with --task-queue the task queue of a worker that has it");
}

/// A starter of workflows that the program has not.
fn unheard(scene: &Scene<'_>, args: &[&str]) -> Program {
    let mut command = scene.shmworker(&["starter", "-n", "3", "--workflow", "Unheard"]);
    command.args(["--task-queue", WORKFLOW_TASK_QUEUE]).args(args);
    Program::start(command)
}

fn a_workflow_task_that_fails_again_and_again_is_told(scene: &Scene<'_>) {
    let mut pool = scene.pool(1, 0, &[]);
    let mut starter = unheard(scene, &[]);
    let warning = starter.says("why there is no result", 1, |line| line.starts_with("warning: workflow Unheard-"));
    assert!(warning.contains("workflow type \"Unheard\" is not registered in this worker"), "{warning}");
    starter.signal(Signal::SIGINT);
    assert_eq!(starter.end().code(), Some(exit::INTERRUPTED.into()));
    assert_eq!(starter.stderr().len(), 2, "it is told once: {:?}", starter.stderr());
    // Core's word of it, as it comes out of a pipe.
    let logged = |line: &str| line.starts_with("[bridge]") && line.contains("WARN");
    pool.program.says("Core logs it", 1, logged);
    assert!(!pool.program.stdout().iter().any(|line| line.contains('\x1b')), "{:?}", pool.program.stdout());
    pool.stop(Signal::SIGTERM);
}

fn a_workflow_ends_when_its_time_is_over(scene: &Scene<'_>) {
    let mut pool = scene.pool(1, 0, &[]);
    let mut starter = unheard(scene, &["--execution-timeout", "1s"]);
    assert_eq!(starter.end().code(), Some(exit::FAILURE.into()));
    let said = starter.stderr();
    assert_eq!(said.iter().filter(|line| line.ends_with(": timed out")).count(), 3, "{said:?}");
    assert_eq!(said.last().unwrap(), "3 of 3 workflows failed");
    pool.stop(Signal::SIGTERM);
}

// ---- the embedded dev server, on Temporal's own port --------------------------------------------------------------------

const DEFAULT_ADDRESS: &str = "127.0.0.1:7233";

fn somebody_listens() -> bool {
    TcpStream::connect(DEFAULT_ADDRESS).is_ok()
}

/// Another checkout's tests may be using it for a while.
fn await_default_port() {
    let what = format!("{DEFAULT_ADDRESS} is free, which this test needs: stop the server that listens there");
    eventually(what, || (!somebody_listens()).then_some(()));
}

fn a_missing_command_line_tool_is_named(scene: &Scene<'_>) {
    await_default_port();
    let mut run = scene.unconfigured(&["run"]);
    run.env("TEMPORAL_CLI", "/nowhere/temporal");
    let begins = "error: TEMPORAL_CLI names '/nowhere/temporal', which is no executable file";
    fails(Program::start(run), exit::NO_CLI, begins, "name the temporal command line tool, or unset it");
    let run = Program::start(scene.unconfigured(&["run", "--no-dev-server"]));
    let begins = "error: cannot reach the Temporal server at localhost:7233: nobody listens there";
    fails(run, exit::SERVER_UNREACHABLE, begins, "--no-dev-server forbids to start one");
}

fn an_embedded_dev_server_serves_and_ends_with_the_pool(scene: &Scene<'_>) {
    await_default_port();
    let mut pool = Pool::start(scene.unconfigured(&["run"]), 2, 1, &[]);
    assert_eq!(
        pool.program.stdout()[0],
        "no server configured: started a dev server on 127.0.0.1:7233; its state ends with it (--dev-server-db FILE keeps \
         it)"
    );
    results(&mut Program::start(scene.unconfigured(&["starter"])), 25);
    // The server outlives a bridge.
    pool.kill("bridge");
    results(&mut Program::start(scene.unconfigured(&["starter"])), 25);
    pool.stop(Signal::SIGINT);
    assert_eq!(pool.program.stdout().last().unwrap(), "dev server stopped");
    assert!(!somebody_listens());
}

fn an_embedded_dev_server_dies_with_the_coordinator(scene: &Scene<'_>) {
    await_default_port();
    let mut pool = Pool::start(scene.unconfigured(&["run"]), 2, 1, &[]);
    // Coordinator, bridge, three workers, server.
    assert_eq!(pool.program.family().len(), 6);
    pool.program.signal(Signal::SIGKILL);
    pool.program.end();
    pool.leaves_nothing();
    // Its memory goes first, by which it is known as one of the pool's, and its sockets a moment later.
    eventually("nobody listens any more", || (!somebody_listens()).then_some(()));
}
