//! Pools that lie in a file whose coordinator alone is killed: workers finish what they run, wait for another, and go on with it.
//!
//! `SHMWORKER_STATE_KILLS=500` kills that often in each scene that kills at random.

#[path = "common/eventually.rs"]
mod eventually;
#[path = "common/program.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod program;
#[path = "common/scene.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod scene;

use eventually::eventually;
use nix::{
    errno::Errno,
    sys::{
        prctl::set_child_subreaper,
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, alarm},
};
use program::Program;
use shmworker::{
    Pool, Tasks,
    pool::{Builder, Failure, Finished, Handle, StartError, Task, TaskOptions},
};
use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::{Duration, Instant, SystemTime},
};

fn main() -> ExitCode {
    shmworker::init(named);
    let args: Vec<String> = std::env::args().collect();
    if let [_, flag, dir, n, attempts] = &args[..]
        && flag == PROGRAM
    {
        squares(Path::new(dir), n.parse().unwrap(), attempts.parse().unwrap());
        return ExitCode::SUCCESS;
    }
    scene::run(scenes![
        workers_finish_what_they_run_and_go_on_with_another_coordinator,
        they_wait_for_another_as_often_as_one_is_killed,
        workers_wait_when_the_client_is_killed_as_well,
        workers_end_in_order_when_no_other_comes_in_time,
        one_that_dies_as_an_orphan_has_used_up_its_attempt,
        how_one_ends_that_was_taken_on_is_told,
        workers_of_other_settings_finish_what_they_run,
        whose_task_waits_begins_nothing_for_others,
        a_start_that_fails_leaves_them_as_they_were,
        it_is_so_however_workers_came_to_be,
        without_a_file_workers_end_with_their_coordinator,
        a_start_may_be_killed_at_each_step,
        a_program_goes_on_however_often_its_coordinator_is_killed,
        a_program_goes_on_whoever_is_killed_of_its_processes,
        jobs_go_on_however_often_their_coordinator_is_killed,
    ])
}

// ---- what scenes share ----------------------------------------------------------------------------------------------

const TASKS: u64 = 60;
/// These wait until [`Words::go`].
const HELD: u64 = 2;
const SQUARE: Task<u64, u64> = Task::named("square");

/// What the processes of a scene tell each other.
#[derive(Clone, Copy)]
struct Words(&'static [AtomicU64]);

impl Words {
    fn new() -> Words {
        let words = Words(scene::words(3 + TASKS as usize));
        words.scene().store(std::process::id().into(), SeqCst);
        words
    }

    /// The coordinator's process, once tasks were submitted.
    fn coordinator(self) -> &'static AtomicU64 {
        &self.0[0]
    }

    /// Tasks that wait may end.
    fn go(self) -> &'static AtomicU64 {
        &self.0[1]
    }

    /// The process that plays the scene.
    fn scene(self) -> &'static AtomicU64 {
        &self.0[2]
    }

    /// How often this task was begun.
    fn begun(self, x: u64) -> &'static AtomicU64 {
        &self.0[3 + x as usize]
    }

    fn tasks(self) -> Tasks {
        let mut tasks = Tasks::new();
        tasks.function("square", move |x: u64| {
            self.begun(x).fetch_add(1, SeqCst);
            if x < HELD {
                // Or the scene has failed: nobody is to outlive it for long.
                let scene = Pid::from_raw(self.scene().load(SeqCst) as i32);
                scene::until(|| self.go().load(SeqCst) > 0 || kill(scene, None).is_err());
            }
            x * x
        });
        tasks
    }
}

fn builder(state: &Path) -> Builder {
    Pool::builder().workers(HELD as usize).file(state)
}

/// Who is killed, when all workers run something.
#[derive(Clone, Copy, PartialEq)]
enum Victim {
    Coordinator,
    Client,
}

/// A pool that another process leads, which submits what it is told to, until that process or its coordinator is killed.
fn killed(words: Words, builder: Builder, victim: Victim, submits: impl FnOnce(&Pool)) {
    let is_begun = || (0..HELD).all(|x| words.begun(x).load(SeqCst) > 0);
    killed_when(is_begun, words, victim, || {
        let pool = builder.fork(words.tasks()).unwrap();
        submits(&pool);
        pool
    });
}

fn killed_when(is_begun: impl Fn() -> bool, words: Words, victim: Victim, leads: impl FnOnce() -> Pool) {
    words.coordinator().store(0, SeqCst);
    // SAFETY: this process has one thread but for those of pools.
    match unsafe { nix::unistd::fork() }.unwrap() {
        ForkResult::Child => {
            let led = || {
                let pool = leads();
                let coordinator = pool.coordinator_pid();
                words.coordinator().store(coordinator.into(), SeqCst);
                // Its results are the next one's to take.
                scene::until(|| kill(Pid::from_raw(coordinator as i32), None) == Err(Errno::ESRCH));
                std::mem::forget(pool);
            };
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(led));
            // SAFETY: nothing of this process is needed any more.
            unsafe { libc::_exit(result.is_err().into()) }
        }
        ForkResult::Parent { child } => {
            scene::at_least(words.coordinator(), 1);
            scene::until(is_begun);
            let coordinator = Pid::from_raw(words.coordinator().load(SeqCst) as i32);
            let (victim, ended) = match victim {
                Victim::Coordinator => (coordinator, WaitStatus::Exited(child, 0)),
                Victim::Client => (child, WaitStatus::Signaled(child, Signal::SIGKILL, false)),
            };
            kill(victim, Signal::SIGKILL).unwrap();
            assert_eq!(waitpid(child, None), Ok(ended));
            if victim == child {
                // It has nobody to lead.
                assert_eq!(waitpid(coordinator, None), Ok(WaitStatus::Exited(coordinator, 0)));
            }
        }
    }
}

/// The children of this process, to which those come whose coordinator has died.
fn orphans() -> BTreeSet<u32> {
    let children = std::fs::read_to_string("/proc/self/task/self/children")
        .or_else(|_| std::fs::read_to_string(format!("/proc/self/task/{}/children", std::process::id())));
    children.unwrap().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// Who waits for the death of the coordinator, in each worker.
const WATCHER: &str = "shmworker-watch";

/// The names of the threads of this process.
fn threads(pid: u32) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    // One may end meanwhile.
    threads
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}

/// Reaps one of them, once it has ended.
fn reaped(pid: u32) -> WaitStatus {
    let pid = Pid::from_raw(pid as i32);
    eventually(format_args!("the end of {pid}"), || match waitpid(pid, Some(WaitPidFlag::WNOHANG)).unwrap() {
        WaitStatus::StillAlive => None,
        status => Some(status),
    })
}

fn submit_all(pool: &Pool) {
    for x in 0..TASKS {
        let options = TaskOptions::new().key(x.to_string());
        std::mem::forget(pool.submit_with(SQUARE, &x, &options).unwrap());
    }
}

/// What came of the tasks of former lives, by their numbers.
fn finished(pool: &Pool) -> Vec<(u64, Finished<u64>)> {
    let found = pool.adopted().into_iter().map(|found| {
        let x = found.key().unwrap().parse().unwrap();
        (x, found.into_handle(SQUARE).unwrap().finish_with(|finished| finished))
    });
    let mut found: Vec<_> = found.collect();
    found.sort_unstable_by_key(|(x, _)| *x);
    found
}

// ---- scenes ---------------------------------------------------------------------------------------------------------

fn workers_finish_what_they_run_and_go_on_with_another_coordinator() {
    set_child_subreaper(true).unwrap();
    let (dir, words) = (tempfile::tempdir().unwrap(), Words::new());
    let state = dir.path().join("state");
    killed(words, builder(&state), Victim::Coordinator, submit_all);
    let workers = orphans();
    assert_eq!(workers.len(), HELD as usize);
    let told = Command::new(env!("CARGO_BIN_EXE_shmworker")).arg("recover").arg(&state).output().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains("  58 wait, and go on waiting\n  2 run: their workers live, and finish them\n"), "{told}");
    let pool = builder(&state).fork(words.tasks()).unwrap();
    words.go().store(1, SeqCst);
    let found = finished(&pool);
    assert_eq!(found.iter().map(|(x, _)| *x).collect::<Vec<_>>(), (0..TASKS).collect::<Vec<_>>());
    for (x, finished) in found {
        assert_eq!((finished.result, finished.attempts, words.begun(x).load(SeqCst)), (Ok(x * x), 1, 1), "task {x}");
        let worker = finished.worker.unwrap();
        assert!(workers.contains(&worker.pid), "task {x} was run by {worker:?}, not by one of {workers:?}");
    }
    pool.join().unwrap();
    for pid in workers {
        assert!(matches!(reaped(pid), WaitStatus::Exited(_, 0)));
    }
    assert!(builder(&state).fork(words.tasks()).unwrap().adopted().is_empty());
}

fn they_wait_for_another_as_often_as_one_is_killed() {
    set_child_subreaper(true).unwrap();
    let (dir, words) = (tempfile::tempdir().unwrap(), Words::new());
    let state = dir.path().join("state");
    killed(words, builder(&state), Victim::Coordinator, submit_all);
    let workers = orphans();
    for _ in 0..3 {
        killed(words, builder(&state), Victim::Coordinator, |_| {});
        assert_eq!(orphans(), workers);
    }
    goes_on(&state, words, &workers);
}

/// A pool takes on these workers; each task is begun once, by one of them.
#[track_caller]
fn goes_on(state: &Path, words: Words, workers: &BTreeSet<u32>) {
    let pool = builder(state).fork(words.tasks()).unwrap();
    words.go().store(1, SeqCst);
    let found = finished(&pool);
    assert_eq!(found.len(), TASKS as usize);
    for (x, finished) in found {
        assert_eq!((finished.result, finished.attempts, words.begun(x).load(SeqCst)), (Ok(x * x), 1, 1), "task {x}");
        assert!(workers.contains(&finished.worker.unwrap().pid), "task {x}");
    }
    pool.join().unwrap();
}

fn workers_wait_when_the_client_is_killed_as_well() {
    set_child_subreaper(true).unwrap();
    let (dir, words) = (tempfile::tempdir().unwrap(), Words::new());
    let state = dir.path().join("state");
    killed(words, builder(&state), Victim::Client, submit_all);
    let workers = orphans();
    assert_eq!(workers.len(), HELD as usize);
    goes_on(&state, words, &workers);
}

fn workers_end_in_order_when_no_other_comes_in_time() {
    set_child_subreaper(true).unwrap();
    let (dir, words) = (tempfile::tempdir().unwrap(), Words::new());
    let state = dir.path().join("state");
    let builder = || builder(&state).successor_within(Duration::from_millis(10));
    killed(words, builder(), Victim::Coordinator, submit_all);
    let workers = orphans();
    // The kernel may tell them a moment later: they have given up waiting once nobody watches.
    for pid in &workers {
        eventually(format_args!("{pid} not to wait"), || (!threads(*pid).contains(&WATCHER.to_owned())).then_some(()));
    }
    words.go().store(1, SeqCst);
    for &pid in &workers {
        assert!(matches!(reaped(pid), WaitStatus::Exited(_, 0)));
    }
    assert!((HELD..TASKS).all(|x| words.begun(x).load(SeqCst) == 0), "nothing more was begun");
    let pool = builder().fork(words.tasks()).unwrap();
    for (x, finished) in finished(&pool) {
        assert_eq!((finished.result, finished.attempts, words.begun(x).load(SeqCst)), (Ok(x * x), 1, 1), "task {x}");
        assert_eq!(workers.contains(&finished.worker.unwrap().pid), x < HELD);
    }
    pool.join().unwrap();
}

fn one_that_dies_as_an_orphan_has_used_up_its_attempt() {
    set_child_subreaper(true).unwrap();
    let (dir, words) = (tempfile::tempdir().unwrap(), Words::new());
    let state = dir.path().join("state");
    killed(words, builder(&state), Victim::Coordinator, |pool| {
        for x in 0..TASKS {
            let options = TaskOptions::new().key(x.to_string()).attempts(2);
            std::mem::forget(pool.submit_with(SQUARE, &x, &options).unwrap());
        }
    });
    let workers = orphans();
    let dead = *workers.first().unwrap();
    kill(Pid::from_raw(dead as i32), Signal::SIGKILL).unwrap();
    assert!(matches!(reaped(dead), WaitStatus::Signaled(_, Signal::SIGKILL, _)));
    let pool = builder(&state).fork(words.tasks()).unwrap();
    words.go().store(1, SeqCst);
    let found = finished(&pool);
    let again: Vec<_> = found.iter().filter(|(_, finished)| finished.attempts == 2).map(|(x, _)| *x).collect();
    assert!(matches!(again[..], [x] if x < HELD), "{again:?} were begun again");
    for (x, finished) in found {
        assert_eq!((finished.result, u64::from(finished.attempts)), (Ok(x * x), words.begun(x).load(SeqCst)));
        assert_ne!(finished.worker.unwrap().pid, dead);
    }
    pool.join().unwrap();
}

fn how_one_ends_that_was_taken_on_is_told() {
    set_child_subreaper(true).unwrap();
    let (dir, words) = (tempfile::tempdir().unwrap(), Words::new());
    let state = dir.path().join("state");
    killed(words, builder(&state), Victim::Coordinator, |pool| {
        for x in 0..HELD {
            let options = TaskOptions::new().key(x.to_string()).attempts(2);
            std::mem::forget(pool.submit_with(SQUARE, &x, &options).unwrap());
        }
    });
    let workers = orphans();
    let pool = builder(&state).fork(words.tasks()).unwrap();
    let dead = *workers.first().unwrap();
    // Not reaped, as by an init that is slow.
    kill(Pid::from_raw(dead as i32), Signal::SIGKILL).unwrap();
    let ended = eventually("its end is told", || pool.ended().into_iter().find(|ended| ended.pid == dead));
    assert_eq!(ended.exit, "signal 9 (SIGKILL)");
    assert!(matches!(reaped(dead), WaitStatus::Signaled(_, Signal::SIGKILL, _)));
    words.go().store(1, SeqCst);
    let found = finished(&pool);
    assert_eq!(found.iter().map(|(_, finished)| finished.attempts).sum::<u32>(), HELD as u32 + 1);
    let others: Vec<_> = found.iter().filter(|(_, f)| !workers.contains(&f.worker.unwrap().pid)).collect();
    assert!(others.len() <= 1, "{others:?}");
    pool.join().unwrap();
}

fn workers_of_other_settings_finish_what_they_run() {
    set_child_subreaper(true).unwrap();
    for builder in [|state: &Path| builder(state).slots(2), |state: &Path| builder(state).workers(1)] {
        let (dir, words) = (tempfile::tempdir().unwrap(), Words::new());
        let state = dir.path().join("state");
        killed(words, crate::builder(&state), Victim::Coordinator, submit_all);
        let workers = orphans();
        let pool = builder(&state).fork(words.tasks()).unwrap();
        words.go().store(1, SeqCst);
        for (x, finished) in finished(&pool) {
            let began = words.begun(x).load(SeqCst);
            assert_eq!((finished.result, finished.attempts, began), (Ok(x * x), 1, 1), "task {x}");
            assert!(x >= HELD || workers.contains(&finished.worker.unwrap().pid));
        }
        pool.join().unwrap();
        for pid in workers {
            assert!(matches!(reaped(pid), WaitStatus::Exited(_, 0)));
        }
    }
}

/// Its task waits for one that another runs. Meanwhile the next program's tasks are none of its business.
fn whose_task_waits_begins_nothing_for_others() {
    const PARENT: Task<u64, u64> = Task::named("parent");
    set_child_subreaper(true).unwrap();
    let (dir, words) = (tempfile::tempdir().unwrap(), Words::new());
    let state = dir.path().join("state");
    let tasks = || {
        let mut tasks = words.tasks();
        tasks.handler("parent", |context, x: u64| Ok(context.pool().submit(SQUARE, &x)?.wait()?));
        tasks
    };
    let is_begun = || words.begun(0).load(SeqCst) > 0;
    killed_when(is_begun, words, Victim::Coordinator, || {
        let pool = builder(&state).fork(tasks()).unwrap();
        std::mem::forget(pool.submit_with(PARENT, &0, &TaskOptions::new().key("parent")).unwrap());
        pool
    });
    let workers = orphans();
    // Of another make.
    let pool = builder(&state).slots(2).fork(tasks()).unwrap();
    let others: Vec<_> = (HELD..TASKS).map(|x| pool.submit(SQUARE, &x).unwrap()).collect();
    for handle in others {
        let worker = handle.finish_with(|finished| finished).worker;
        assert!(!workers.contains(&worker.unwrap().pid));
    }
    words.go().store(1, SeqCst);
    let parent = pool.adopted().into_iter().next().unwrap().into_handle(PARENT).unwrap();
    let parent = parent.finish_with(|finished| finished);
    assert_eq!((parent.result, parent.attempts, words.begun(0).load(SeqCst)), (Ok(0), 1, 1));
    pool.join().unwrap();
}

/// Its third worker can't begin: what the two others run is the next start's.
fn a_start_that_fails_leaves_them_as_they_were() {
    set_child_subreaper(true).unwrap();
    let (dir, words) = (tempfile::tempdir().unwrap(), Words::new());
    let state = dir.path().join("state");
    killed(words, builder(&state), Victim::Coordinator, submit_all);
    let workers = orphans();
    let mut tasks = words.tasks();
    tasks.on_start(|| Err(Failure::new("not today")));
    let refused = builder(&state).workers(HELD as usize + 1).fork(tasks);
    assert!(refused.unwrap_err().to_string().contains("not today"));
    goes_on(&state, words, &workers);
}

const HOLD: Task<PathBuf, ()> = Task::named("hold");

/// What processes have that execute this program again.
fn named() -> Tasks {
    let mut tasks = Tasks::new();
    tasks.function("hold", |path: PathBuf| {
        fs::write(path.with_extension("begun"), "").unwrap();
        // Or the scene has failed, and its directory with it.
        scene::until(|| path.with_extension("go").exists() || !path.with_extension("begun").exists());
    });
    tasks
}

fn it_is_so_however_workers_came_to_be() {
    set_child_subreaper(true).unwrap();
    for start in [Builder::forkserver, Builder::exec] {
        let (dir, words) = (tempfile::tempdir().unwrap(), Words::new());
        let path = |x: u64| dir.path().join(x.to_string());
        let state = dir.path().join("state");
        let is_begun = || (0..HELD).all(|x| path(x).with_extension("begun").exists());
        killed_when(is_begun, words, Victim::Coordinator, || {
            let pool = start(builder(&state)).unwrap();
            (0..HELD).for_each(|x| std::mem::forget(pool.submit(HOLD, &path(x)).unwrap()));
            pool
        });
        let workers = orphans();
        assert_eq!(workers.len(), HELD as usize);
        let pool = start(builder(&state)).unwrap();
        (0..HELD).for_each(|x| fs::write(path(x).with_extension("go"), "").unwrap());
        let found = pool.adopted().into_iter().map(|found| found.into_handle(HOLD).unwrap().finish_with(|f| f));
        let ran: BTreeSet<u32> = found
            .map(|finished| {
                assert_eq!((finished.result, finished.attempts), (Ok(()), 1));
                finished.worker.unwrap().pid
            })
            .collect();
        assert_eq!(ran, workers);
        pool.join().unwrap();
        for pid in workers {
            assert!(matches!(reaped(pid), WaitStatus::Exited(_, 0)));
        }
    }
}

fn without_a_file_workers_end_with_their_coordinator() {
    set_child_subreaper(true).unwrap();
    let words = Words::new();
    killed(words, Pool::builder().workers(HELD as usize), Victim::Coordinator, |pool| {
        (0..TASKS).for_each(|x| std::mem::forget(pool.submit(SQUARE, &x).unwrap()));
    });
    for pid in orphans() {
        assert!(matches!(reaped(pid), WaitStatus::Signaled(_, Signal::SIGKILL, _)));
    }
}

fn a_start_may_be_killed_at_each_step() {
    set_child_subreaper(true).unwrap();
    let (dir, words) = (tempfile::tempdir().unwrap(), Words::new());
    let state = dir.path().join("state");
    killed(words, builder(&state), Victim::Coordinator, submit_all);
    let workers = orphans();
    for step in STEPS {
        // SAFETY: this process has one thread but for those of pools.
        match unsafe { nix::unistd::fork() }.unwrap() {
            ForkResult::Child => {
                // SAFETY: this process has one thread.
                unsafe { std::env::set_var("SHMWORKER_DIES_AT", step) };
                let started = builder(&state).fork(words.tasks());
                // It was the coordinator's step.
                // SAFETY: nothing of this process is needed any more.
                unsafe { libc::_exit(if started.is_err() { 2 } else { 3 }) }
            }
            ForkResult::Parent { child } => {
                let status = waitpid(child, None).unwrap();
                let is_killed = matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _));
                let is_left = matches!(status, WaitStatus::Exited(_, 2));
                assert!(
                    is_killed && !COORDINATORS.contains(step) || is_left && COORDINATORS.contains(step),
                    "{step}: {status:?}"
                );
            }
        }
        eventually("nobody is left but the workers", || {
            while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive) {}
            (orphans() == workers).then_some(())
        });
    }
    goes_on(&state, words, &workers);
}

/// Of a start that finds a former life, in their order.
const STEPS: &[&str] = &[
    "locked",
    "checked",
    "awake",
    "buried",
    "admitted",
    "settled",
    "coordinator admitted",
    "all settled",
    "seat taken",
    "tagged",
    "leads",
    "taken on",
    "led",
    "journaled",
];
/// Those of the coordinator's process.
const COORDINATORS: &[&str] = &["leads", "taken on"];

// ---- at random ------------------------------------------------------------------------------------------------------

/// What a process of its own does for a scene comes behind this.
const PROGRAM: &str = "--program";

/// Writes the squares below `n` into a file, each once, whatever has happened to its coordinator before.
fn squares(dir: &Path, n: u64, attempts: u8) {
    let (mut tasks, out) = (Tasks::new(), dir.join("out"));
    let square = tasks.function("square", |x: u64| x * x);
    let pool = match Pool::builder().workers(2).file(dir.join("state")).fork(tasks) {
        Err(StartError::Ended(_)) => return,
        pool => pool.unwrap_or_else(|e| panic!("{e}")),
    };
    let done: BTreeSet<u64> = lines(&out).into_iter().map(|[x, ..]| x).collect();
    let mut out = OpenOptions::new().append(true).create(true).open(out).unwrap();
    let (mut handles, mut accepted) = (VecDeque::new(), BTreeSet::new());
    let mut keep = |(x, handle): (u64, Handle<u64>)| {
        handle.finish_with(|Finished { result, attempts, .. }| {
            let square = result.unwrap_or_else(|e| orphaned(&e));
            out.write_all(format!("{x} {square} {attempts}\n").as_bytes()).unwrap();
        });
    };
    for found in pool.adopted() {
        let x: u64 = found.key().unwrap().parse().unwrap();
        assert!(accepted.insert(x), "{x} was accepted twice");
        if !done.contains(&x) {
            handles.push_back((x, found.into_handle(square).unwrap()));
        }
    }
    for x in (0..n).filter(|x| !accepted.contains(x) && !done.contains(x)) {
        if handles.len() > 200 {
            handles.pop_front().into_iter().for_each(&mut keep);
        }
        let submitted = pool.submit_with(square, &x, &TaskOptions::new().key(x.to_string()).attempts(attempts));
        handles.push_back((x, submitted.unwrap_or_else(|e| orphaned(&e))));
    }
    handles.into_iter().for_each(keep);
    pool.join().unwrap_or_else(|e| orphaned(&e));
}

/// The end of a program that has no coordinator: what it has not let go of is the next one's.
fn orphaned(why: &dyn fmt::Display) -> ! {
    match why.to_string() {
        why if why.contains("coordinator") => std::process::exit(0),
        why => panic!("{why}"),
    }
}

/// Of each line of a file its three numbers. It loses what is behind the last whole one.
fn lines(path: &Path) -> Vec<[u64; 3]> {
    let mut text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or(0, |at| at + 1);
    if whole < text.len() {
        OpenOptions::new().write(true).open(path).unwrap().set_len(whole as u64).unwrap();
        text.truncate(whole);
    }
    let numbers = |line: &str| line.split(' ').map(|n| n.parse().unwrap()).collect::<Vec<_>>().try_into().unwrap();
    text.lines().map(numbers).collect()
}

fn a_program_goes_on_however_often_its_coordinator_is_killed() {
    // Whoever runs a task is left alone: it is begun once.
    assert!(program_goes_on(1, |coordinator, _, _| kill_one(coordinator)).iter().all(|attempts| *attempts == 1));
}

fn a_program_goes_on_whoever_is_killed_of_its_processes() {
    program_goes_on(255, |coordinator, program, random| {
        // One of those without whom it can't go on, and any others, in any order.
        let mut others = program.family();
        kill_one(if random.below(2) == 0 { coordinator } else { program.pid() });
        while !others.is_empty() {
            let other = others.swap_remove(random.below(others.len() as u64) as usize);
            if random.below(3) == 0 {
                kill_one(other.pid);
            }
        }
    });
}

/// How often each task was begun of a program that is killed at random and goes on.
fn program_goes_on(attempts: u8, strike: impl FnMut(i32, &Program, &mut Random)) -> Vec<u64> {
    const STEP: u64 = 1000;
    let program = |dir: &Path, n: u64| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(PROGRAM).arg(dir).args([n.to_string(), attempts.to_string()]);
        command
    };
    let (trial, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut n, out) = (STEP, dir.path().join("out"));
    let again = || {
        // There is always something to do. What workers are made of changes with it.
        while lines(&out).len() as u64 > n - STEP / 2 {
            n += STEP / 2;
        }
        program(dir.path(), n)
    };
    let said = kill_at_random(program(trial.path(), STEP), again, strike);
    assert_eq!(said, [""; 0]);
    ends_well(program(dir.path(), n));
    let mut found = lines(&out);
    found.sort_unstable();
    let squares: Vec<_> = found.iter().map(|[x, square, _]| (*x, *square)).collect();
    assert_eq!(squares, (0..n).map(|x| (x, x * x)).collect::<Vec<_>>());
    found.into_iter().map(|[.., attempts]| attempts).collect()
}

fn jobs_go_on_however_often_their_coordinator_is_killed() {
    const LINES: u64 = 2000;
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str, batch: u32| dir.path().join(format!("{name}{batch}"));
    let begin = |batch: u32| {
        let lines = (0..LINES).map(|i| format!(r#"{{"task":"echo","args":"{batch}-{i}","label":"{i}"}}"#) + "\n");
        fs::write(path("in", batch), lines.collect::<String>()).unwrap();
    };
    let command = |batch| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shmworker"));
        command.args(["jobs", "-j", "2", "--successor-within", "1m", "--state"]).arg(path("state", batch));
        command.arg("--output").arg(path("out", batch)).arg(path("in", batch));
        command
    };
    (0..2).for_each(begin);
    let mut batch = 1;
    let again = || {
        if results(&path("out", batch)).len() as u64 == LINES {
            batch += 1;
            begin(batch);
        }
        command(batch)
    };
    let said = kill_at_random(command(0), again, |coordinator, _, _| kill_one(coordinator));
    assert!(said.iter().any(|line| line.ends_with("jobs that were accepted are gone on with")), "{said:?}");
    for batch in 0..=batch {
        ends_well(command(batch));
        let mut found = results(&path("out", batch));
        found.sort_unstable();
        assert_eq!(found, (0..LINES).collect::<Vec<_>>());
    }
}

/// The numbers of the jobs that stand in an output, all of which are done, each by its first attempt.
fn results(output: &Path) -> Vec<u64> {
    let text = fs::read_to_string(output).unwrap_or_default();
    let whole = text.rfind('\n').map_or(0, |at| at + 1);
    let number = |line: &str| {
        let result: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!((&result["status"], &result["attempts"]), (&"done".into(), &1.into()), "{line}");
        result["label"].as_str().unwrap().parse().unwrap()
    };
    text[..whole].lines().map(number).collect()
}

/// Starts programs one after another, and strikes each at any moment of the time that `trial` takes, as soon as it has a coordinator;
/// it is to end of that.
///
/// Returns what they had said on standard error by then.
fn kill_at_random(
    trial: Command,
    mut command: impl FnMut() -> Command,
    mut strike: impl FnMut(i32, &Program, &mut Random),
) -> Vec<String> {
    let kills = std::env::var("SHMWORKER_STATE_KILLS").map_or(25, |n| n.parse::<u32>().unwrap());
    alarm::set(120 + 8 * kills);
    let began = Instant::now();
    ends_well(trial);
    let longest = began.elapsed().as_micros() as u64;
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("seed {seed}, {kills} kills within {longest} us");
    // With each go the workers that it has left, and those have who follow.
    let (mut random, mut programs) = (Random(seed), Vec::new());
    let mut killed = 0;
    while killed < kills {
        let mut program = Program::start(command());
        let (began, life) = (Instant::now(), Duration::from_micros(random.below(longest)));
        while began.elapsed() < life {
            std::hint::spin_loop();
        }
        let is_coordinator = |p: &program::Process| {
            fs::read_to_string(format!("/proc/{}/comm", p.pid)).is_ok_and(|name| name.trim_end() == "coordinator")
        };
        if let Some(coordinator) = program.children().into_iter().find(is_coordinator) {
            strike(coordinator.pid, &program, &mut random);
            killed += 1;
        }
        eventually("the end of who led", || (!program.is_running()).then_some(()));
        programs.push(program);
    }
    programs.iter().flat_map(Program::stderr).collect()
}

fn kill_one(pid: i32) {
    // It may be gone.
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

#[track_caller]
fn ends_well(command: Command) {
    let mut program = Program::start(command);
    let status = program.end();
    assert!(status.success(), "{status}");
}

/// Xorshift (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        for (left, by) in [(true, 13), (false, 7), (true, 17)] {
            self.0 ^= if left { self.0 << by } else { self.0 >> by };
        }
        self.0 % n
    }
}
