//! How a pool's workers come and go: replaced, resized, limited, drained, killed. Under load nothing may be lost, and nothing
//! done twice.
//!
//! `Pool::builder().fork` wants a process of one thread, so each scene is a process: this program, run with the scene's name.

#[path = "common/eventually.rs"]
mod eventually;

use eventually::eventually;
use libtest_mimic::{Arguments, Trial};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::{
        mman::{MapFlags, ProtFlags, mmap_anonymous},
        signal::{Signal, kill},
    },
    unistd::{ForkResult, Pid, fork, getpid, setsid},
};
use shmworker::{
    Pool, Tasks, WorkerLimits,
    pool::{ControlError, Failure, Handle, PoolError, Task, TaskError},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    num::NonZeroUsize,
    process::{Command, ExitCode},
    sync::{
        Condvar, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

/// Between two looks of a task at its condition.
const PAUSE: Duration = Duration::from_millis(1);
/// Of a pool that may take its time.
const LONG: Duration = Duration::from_secs(600);
/// The argument before the name of a scene.
const SCENE: &str = "scene";

/// An `Err` says why it can't be played here.
type Scene = fn() -> Result<(), String>;

/// What is played, by name.
const SCENES: &[(&str, Scene)] = &[
    ("workers_are_replaced_after_so_many_tasks_under_load", replaced_after_tasks),
    ("a_worker_that_keeps_too_much_memory_is_replaced", replaced_for_memory),
    ("a_worker_that_has_used_half_of_its_cpu_time_is_replaced", replaced_for_cpu_time),
    ("a_task_that_takes_too_much_memory_dies_alone", dies_of_its_address_space),
    ("workers_are_nice_and_pinned", nice_and_pinned),
    ("a_limit_that_cannot_be_set_is_said_at_the_start", a_limit_that_is_refused),
    ("a_pool_is_resized_under_load", resized_under_load),
    ("a_pool_is_resized_by_signals_and_within_bounds", resized_by_signals),
    ("workers_are_replaced_one_by_one_under_load", rolled_under_load),
    ("a_signal_lets_everything_finish", drained_by_a_signal),
    ("a_second_signal_cancels_and_a_third_kills", cancelled_and_killed_by_signals),
    ("a_shutdown_says_what_it_left", shut_down),
    ("a_shutdown_hastens_what_a_signal_began", shut_down_after_a_signal),
    ("workers_that_die_at_once_end_the_pool_with_a_reason", crash_loop),
    ("a_task_that_kills_every_worker_is_no_crash_loop", deaths_over_tasks),
    ("workers_that_die_just_after_a_task_are_no_crash_loop", deaths_after_tasks),
    ("when_the_coordinator_dies_all_is_delivered_or_reported", coordinator_killed),
    ("a_daemon_outlives_its_worker_and_is_reaped", a_daemon_is_reaped),
    ("as_many_workers_as_cores_that_it_may_use", as_many_as_cores),
    ("sixty_four_workers_do_as_well_as_two", sixty_four_workers),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let [_, scene, name] = &args[..]
        && scene == SCENE
    {
        let (_, play) = SCENES.iter().find(|(n, _)| n == name).expect("a scene");
        return match play() {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                println!("skipped: {why}");
                ExitCode::SUCCESS
            }
        };
    }
    let scenes =
        SCENES.iter().map(|&(name, _)| Trial::test(name, move || run(Command::new(this()).args([SCENE, name]))));
    let as_init = Trial::test("it_works_as_the_init_of_a_container", || {
        let unshare = ["--pid", "--fork", "--mount-proc", "--kill-child"];
        if !Command::new("unshare").args(unshare).arg("true").status().is_ok_and(|s| s.success()) {
            println!("skipped: this user may not make a PID namespace");
            return Ok(());
        }
        for name in ["a_signal_lets_everything_finish", "a_daemon_outlives_its_worker_and_is_reaped"] {
            run(Command::new("unshare").args(unshare).arg(this()).args([SCENE, name]))?;
        }
        Ok(())
    });
    libtest_mimic::run(&Arguments::from_args(), scenes.chain([as_init]).collect()).exit_code()
}

fn this() -> std::path::PathBuf {
    std::env::current_exe().expect("this program has a path")
}

fn run(scene: &mut Command) -> Result<(), libtest_mimic::Failed> {
    let output = scene.output()?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    if let Some(why) = stdout.lines().find(|line| line.starts_with("skipped: ")) {
        println!("{why}");
    }
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{}\n{stdout}{stderr}", output.status).into()),
    }
}

// ---- what scenes share ----------------------------------------------------------------------------------------------

/// Words that all processes of a scene share.
#[derive(Clone, Copy)]
struct Board(&'static [AtomicU32]);

impl Board {
    fn new(words: usize) -> Board {
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let size = NonZeroUsize::new(words * size_of::<AtomicU32>()).expect("some words");
        // SAFETY: a new mapping, which replaces none.
        let start = unsafe { mmap_anonymous(None, size, access, MapFlags::MAP_SHARED) }.unwrap();
        // SAFETY: zeroed pages, which stay mapped and are shared memory made for atomic access.
        Board(unsafe { std::slice::from_raw_parts(start.as_ptr().cast(), words) })
    }

    fn add(&self, word: usize) -> u32 {
        self.0[word].fetch_add(1, SeqCst) + 1
    }

    fn set(&self, word: usize, value: u32) {
        self.0[word].store(value, SeqCst);
    }

    fn get(&self, word: usize) -> u32 {
        self.0[word].load(SeqCst)
    }

    /// Waits until a word is at least so much.
    #[track_caller]
    fn wait(&self, word: usize, value: u32) {
        eventually(format!("word {word} is {value}"), || (self.get(word) >= value).then_some(()));
    }
}

fn coordinator(pool: &Pool) -> Pid {
    Pid::from_raw(pool.coordinator_pid() as i32)
}

/// The workers that live.
fn workers(pool: &Pool) -> BTreeSet<i32> {
    let pid = coordinator(pool);
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(|pid| !is_gone(*pid)).collect()
}

/// The field of `/proc/PID/stat` with this number (`proc_pid_stat(5)`), from 3 on.
fn stat(pid: i32, field: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.split_whitespace().nth(field - 3)?.to_owned())
}

/// Dead, and perhaps not reaped yet.
fn is_gone(pid: i32) -> bool {
    stat(pid, 3).is_none_or(|state| state == "Z" || state == "X")
}

/// A load of tasks that each count how often they were run, and give the process that ran them.
struct Load {
    runs: Board,
    tasks: usize,
}

impl Load {
    fn new(tasks: &mut Tasks, n: usize) -> (Load, Task<u32, i32>) {
        let runs = Board::new(n);
        let task = tasks.function("run", move |i: u32| {
            runs.add(i as usize);
            getpid().as_raw()
        });
        (Load { runs, tasks: n }, task)
    }

    /// Runs it, with so many `turns` in another thread meanwhile, and says how many tasks each process has run. The load does not
    /// run ahead of the turns.
    fn run(
        &self,
        pool: &Pool,
        task: Task<u32, i32>,
        turns: usize,
        mut turn: impl FnMut(usize) + Send,
    ) -> BTreeMap<i32, usize> {
        let done = Mutex::new(0);
        let changed = Condvar::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                for i in 0..turns {
                    turn(i);
                    *done.lock().unwrap() = i + 1;
                    changed.notify_one();
                }
            });
            let mut by = BTreeMap::new();
            // So many under way that no worker is ever without.
            let mut handles = VecDeque::new();
            for i in 0..self.tasks as u32 {
                let behind = |done: &mut usize| *done < i as usize * turns / self.tasks;
                drop(changed.wait_while(done.lock().unwrap(), behind).unwrap());
                handles.push_back(pool.submit(task, &i).unwrap());
                if handles.len() > 1000 {
                    *by.entry(handles.pop_front().unwrap().wait().unwrap()).or_default() += 1;
                }
            }
            for handle in handles {
                *by.entry(handle.wait().unwrap()).or_default() += 1;
            }
            let wrong: Vec<usize> = (0..self.tasks).filter(|&i| self.runs.get(i) != 1).collect();
            assert!(wrong.is_empty(), "lost or doubled: {wrong:?}");
            by
        })
    }
}

/// A task that begins, says so in word 0 and is over once word 1 is up. It heeds no cancellation, but notes it in word 2.
fn gated(tasks: &mut Tasks, board: Board, heeds: bool) -> Task<u32, u32> {
    tasks.handler("gated", move |context, i: u32| {
        board.add(0);
        while board.get(1) == 0 {
            if context.is_cancelled() {
                board.set(2, 1);
                if heeds {
                    return Ok(u32::MAX);
                }
            }
            thread::sleep(PAUSE);
        }
        Ok(i)
    })
}

fn submit(pool: &Pool, task: Task<u32, u32>, n: u32) -> Vec<Handle<u32>> {
    (0..n).map(|i| pool.submit(task, &i).unwrap()).collect()
}

// ---- workers that leave ---------------------------------------------------------------------------------------------

fn replaced_after_tasks() -> Result<(), String> {
    let mut tasks = Tasks::new();
    let (load, task) = Load::new(&mut tasks, 20_000);
    let limits = WorkerLimits::new().max_tasks(100, 20);
    let pool = Pool::builder().workers(3).worker_limits(limits).fork(tasks).unwrap();
    let by = load.run(&pool, task, 0, |_| {});
    assert!(by.values().all(|&n| n <= 120), "{by:?}");
    let left: BTreeSet<usize> = by.values().copied().filter(|&n| n >= 100).collect();
    assert!(left.len() > 1, "there is jitter: {left:?}");
    pool.join().unwrap();
    Ok(())
}

fn replaced_for_memory() -> Result<(), String> {
    let mut tasks = Tasks::new();
    let keep = tasks.function("keep", |mib: u64| {
        std::mem::forget(vec![1u8; (mib << 20) as usize]);
        getpid().as_raw()
    });
    let limits = WorkerLimits::new().max_memory(128 << 20);
    let pool = Pool::builder().workers(1).worker_limits(limits).fork(tasks).unwrap();
    let run = |mib| pool.submit(keep, &mib).unwrap().wait().unwrap();
    let first = run(1);
    assert_eq!([run(16), run(200)], [first; 2], "it leaves after the task, not over it");
    let second = run(1);
    assert_ne!(second, first);
    assert_eq!(run(1), second);
    pool.join().unwrap();
    Ok(())
}

fn replaced_for_cpu_time() -> Result<(), String> {
    let mut tasks = Tasks::new();
    let spin = tasks.function("spin", |ms: u64| {
        let used = || Duration::from(nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap());
        let before = used();
        while used() - before < Duration::from_millis(ms) {}
        getpid().as_raw()
    });
    let limits = WorkerLimits::new().cpu_seconds(2);
    let pool = Pool::builder().workers(1).worker_limits(limits).fork(tasks).unwrap();
    let run = |ms| pool.submit(spin, &ms).unwrap().wait();
    let first = run(1100).unwrap();
    let second = run(0).unwrap();
    assert_ne!(first, second);
    let killed = run(u64::from(u32::MAX)).unwrap_err();
    assert!(matches!(&killed, TaskError::Died(blame) if blame.exit.contains("SIGXCPU")), "{killed}");
    assert_ne!(run(0).unwrap(), second);
    pool.join().unwrap();
    Ok(())
}

// ---- what the kernel limits -----------------------------------------------------------------------------------------

fn dies_of_its_address_space() -> Result<(), String> {
    let mut tasks = Tasks::new();
    let take = tasks.function("take", |mib: u64| std::hint::black_box(vec![1u8; (mib << 20) as usize]).len() as u64);
    let limits = WorkerLimits::new().address_space(256 << 20);
    let pool = Pool::builder().workers(1).worker_limits(limits).fork(tasks).unwrap();
    let run = |mib| pool.submit(take, &mib).unwrap().wait();
    assert_eq!(run(64), Ok(64 << 20));
    let killed = run(512).unwrap_err();
    assert!(matches!(&killed, TaskError::Died(blame) if blame.exit.contains("SIGABRT")), "{killed}");
    assert_eq!(run(64), Ok(64 << 20), "the pool goes on");
    pool.join().unwrap();
    Ok(())
}

fn nice_and_pinned() -> Result<(), String> {
    const WORKERS: u32 = 3;
    let allowed = |of: &CpuSet| -> Vec<usize> { (0..CpuSet::count()).filter(|&c| of.is_set(c) == Ok(true)).collect() };
    let all = allowed(&sched_getaffinity(Pid::from_raw(0)).unwrap());
    let niceness = |pid: i32| stat(pid, 19).unwrap().parse::<i32>().unwrap();
    let before = niceness(getpid().as_raw());
    let mut tasks = Tasks::new();
    let board = Board::new(1);
    let look = tasks.function("look", move |_: u32| {
        // One task for each worker.
        board.add(0);
        board.wait(0, WORKERS);
        (allowed(&sched_getaffinity(Pid::from_raw(0)).unwrap()), niceness(getpid().as_raw()))
    });
    let limits = WorkerLimits::new().nice(3).pin();
    let pool = Pool::builder().workers(WORKERS as usize).worker_limits(limits).fork(tasks).unwrap();
    let handles: Vec<_> = (0..WORKERS).map(|i| pool.submit(look, &i).unwrap()).collect();
    let mut seen: Vec<_> = handles.into_iter().map(|h| h.wait().unwrap()).collect();
    seen.sort();
    let mut expected: Vec<_> = (0..WORKERS as usize).map(|i| (vec![all[i % all.len()]], before + 3)).collect();
    expected.sort();
    assert_eq!(seen, expected);
    pool.join().unwrap();
    Ok(())
}

fn a_limit_that_is_refused() -> Result<(), String> {
    if nix::unistd::geteuid().is_root() {
        // Without the capability.
        nix::unistd::setuid(nix::unistd::Uid::from_raw(65_534)).map_err(|e| format!("cannot become nobody: {e}"))?;
    }
    let limits = WorkerLimits::new().nice(-5);
    let refused = Pool::builder().workers(2).worker_limits(limits).fork(Tasks::new()).unwrap_err().to_string();
    assert!(refused.contains("a worker can't be limited by nice(-5): Permission denied; give 0 or more"), "{refused}");
    Ok(())
}

// ---- more and fewer -------------------------------------------------------------------------------------------------

fn resized_under_load() -> Result<(), String> {
    let mut tasks = Tasks::new();
    let (load, task) = Load::new(&mut tasks, 100_000);
    let pool = Pool::builder().workers(2).max_workers(8).fork(tasks).unwrap();
    let sizes = [2, 8, 1, 5, 2, 7, 3];
    let by = load.run(&pool, task, 50, |turn| {
        let [before, n] = [turn, turn + 1].map(|turn| sizes[turn % sizes.len()]);
        assert_eq!(pool.resize(n), Ok(before));
        eventually("as many workers as were asked for", || (workers(&pool).len() == n).then_some(()));
    });
    assert!(by.len() > 8, "{} processes", by.len());
    pool.resize(1).unwrap();
    eventually("one worker", || (workers(&pool).len() == 1).then_some(()));
    pool.join().unwrap();
    Ok(())
}

fn resized_by_signals() -> Result<(), String> {
    let pool = Pool::builder().workers(1).max_workers(3).fork(Tasks::new()).unwrap();
    let becomes = |signal, n: usize| {
        kill(coordinator(&pool), signal).unwrap();
        eventually("so many workers", || (workers(&pool).len() == n).then_some(()));
    };
    becomes(Signal::SIGTTIN, 2);
    becomes(Signal::SIGTTIN, 3);
    becomes(Signal::SIGTTOU, 2);
    let refused = |n| match pool.resize(n) {
        Err(ControlError::Refused(why)) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(4), "no room for 4 workers: this pool was made for at most 3; `max_workers` makes more");
    assert_eq!(refused(0), "a pool needs a worker: end it to be without");
    assert_eq!(pool.resize(3), Ok(2));
    pool.join().unwrap();
    Ok(())
}

fn rolled_under_load() -> Result<(), String> {
    let mut tasks = Tasks::new();
    let (load, task) = Load::new(&mut tasks, 100_000);
    let pool = Pool::builder().workers(3).fork(tasks).unwrap();
    let by = load.run(&pool, task, 10, |turn| {
        let before = workers(&pool);
        assert_eq!(before.len(), 3);
        let all_new = || workers(&pool).len() == 3 && workers(&pool).is_disjoint(&before);
        if turn % 2 == 0 {
            pool.restart_workers().unwrap();
            assert!(all_new());
        } else {
            kill(coordinator(&pool), Signal::SIGHUP).unwrap();
            eventually("all workers are new", || all_new().then_some(()));
        }
    });
    assert!(by.len() > 3, "{} processes", by.len());
    pool.join().unwrap();
    Ok(())
}

// ---- the end --------------------------------------------------------------------------------------------------------

fn drained_by_a_signal() -> Result<(), String> {
    let (mut tasks, board) = (Tasks::new(), Board::new(3));
    let task = gated(&mut tasks, board, false);
    let pool = Pool::builder().workers(2).grace(LONG).fork(tasks).unwrap();
    let handles = submit(&pool, task, 100);
    board.wait(0, 2);
    kill(coordinator(&pool), Signal::SIGTERM).unwrap();
    // The order says the same; its refusal, that the signal has been heard.
    eventually("the pool drains", || pool.resize(2).is_err().then_some(()));
    assert!(matches!(pool.submit(task, &0), Err(PoolError::Draining)));
    board.set(1, 1);
    let results: Vec<u32> = handles.into_iter().map(|h| h.wait().unwrap()).collect();
    assert_eq!(results, (0..100).collect::<Vec<_>>());
    let pid = pool.coordinator_pid() as i32;
    eventually("the coordinator has ended by itself", || is_gone(pid).then_some(()));
    pool.join().unwrap();
    Ok(())
}

fn cancelled_and_killed_by_signals() -> Result<(), String> {
    for heeds in [true, false] {
        let (mut tasks, board) = (Tasks::new(), Board::new(3));
        let task = gated(&mut tasks, board, heeds);
        let pool = Pool::builder().workers(2).grace(LONG).fork(tasks).unwrap();
        let handles = submit(&pool, task, 100);
        board.wait(0, 2);
        // Two kinds, since one that is pending twice comes once.
        kill(coordinator(&pool), Signal::SIGTERM).unwrap();
        kill(coordinator(&pool), Signal::SIGINT).unwrap();
        board.wait(2, 1);
        if !heeds {
            kill(coordinator(&pool), Signal::SIGTERM).unwrap();
        }
        let results: Vec<_> = handles.into_iter().map(Handle::wait).collect();
        // Which two ran is not said: of two workers that begin at once either may take the next.
        let (cancelled, ended): (Vec<_>, Vec<_>) = results.into_iter().partition(|r| *r == Err(TaskError::Cancelled));
        let end = if heeds { vec![Ok(u32::MAX); 2] } else { Vec::new() };
        assert_eq!((cancelled.len(), ended), (100 - end.len(), end));
        pool.join().unwrap();
    }
    Ok(())
}

fn shut_down() -> Result<(), String> {
    let (mut tasks, board) = (Tasks::new(), Board::new(3));
    let task = gated(&mut tasks, board, false);
    let pool = Pool::builder().workers(2).fork(tasks).unwrap();
    let handles = submit(&pool, task, 10);
    board.wait(0, 2);
    let left = pool.shutdown(Duration::ZERO).unwrap();
    assert_eq!((left.cancelled, left.killed), (10, 2));
    assert!(handles.into_iter().all(|h| h.wait() == Err(TaskError::Cancelled)));

    let (mut tasks, board) = (Tasks::new(), Board::new(3));
    let task = gated(&mut tasks, board, false);
    let pool = Pool::builder().workers(2).fork(tasks).unwrap();
    let handles = submit(&pool, task, 10);
    board.set(1, 1);
    let left = pool.shutdown(LONG).unwrap();
    assert_eq!((left.cancelled, left.killed), (0, 0));
    assert!(handles.into_iter().all(|h| h.wait().is_ok()));
    Ok(())
}

fn shut_down_after_a_signal() -> Result<(), String> {
    let (mut tasks, board) = (Tasks::new(), Board::new(3));
    let task = gated(&mut tasks, board, false);
    let pool = Pool::builder().workers(2).grace(LONG).fork(tasks).unwrap();
    let handles = submit(&pool, task, 10);
    board.wait(0, 2);
    kill(coordinator(&pool), Signal::SIGTERM).unwrap();
    eventually("the pool drains", || pool.resize(2).is_err().then_some(()));
    let left = pool.shutdown(Duration::ZERO).unwrap();
    assert_eq!((left.cancelled, left.killed), (10, 2));
    assert!(handles.into_iter().all(|h| h.wait() == Err(TaskError::Cancelled)));
    Ok(())
}

// ---- deaths ---------------------------------------------------------------------------------------------------------

fn crash_loop() -> Result<(), String> {
    let mut tasks = Tasks::new();
    tasks.on_start(|| Err(Failure::new("no licence")));
    let refused = Pool::builder().workers(2).fork(tasks).unwrap_err().to_string();
    let expected = ["died 5 times in a row before it had done anything (last: exit code 1: ", "no licence"];
    assert!(expected.iter().all(|part| refused.contains(part)), "{refused}");

    let (mut tasks, board) = (Tasks::new(), Board::new(2));
    let task = tasks.handler("never", |_, _: u32| Ok::<u32, Failure>(0));
    tasks.on_start(move || {
        // The first ones serve, those after them don't get so far.
        if board.add(0) > 1 {
            std::process::abort();
        }
        Ok(())
    });
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    let first = *workers(&pool).first().expect("a worker");
    kill(Pid::from_raw(first), Signal::SIGSTOP).unwrap();
    let handle = pool.submit(task, &0).unwrap();
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    let lost = handle.wait().unwrap_err();
    assert!(matches!(&lost, TaskError::PoolEnded(why) if why.starts_with("worker:0 died 5 times in a row")), "{lost}");
    assert!(matches!(pool.submit(task, &0), Err(PoolError::Ended(why)) if why.contains("SIGABRT")));

    let pool = Pool::builder().workers(1).fork(Tasks::new()).unwrap();
    let pid = pool.coordinator_pid() as i32;
    eventually("the pool has ended", || {
        for worker in workers(&pool) {
            // It may have ended by itself, with the coordinator.
            let _ = kill(Pid::from_raw(worker), Signal::SIGKILL);
        }
        is_gone(pid).then_some(())
    });
    let why = match pool.join() {
        Err(PoolError::Ended(why)) => why,
        other => panic!("{other:?}"),
    };
    let expected = "worker:0 died 5 times in a row before it had done anything (last: signal 9 (SIGKILL))";
    assert!(why.starts_with(expected), "{why}");
    Ok(())
}

fn deaths_over_tasks() -> Result<(), String> {
    let mut tasks = Tasks::new();
    let task = tasks.function("die", |lives: bool| {
        if !lives {
            kill(getpid(), Signal::SIGKILL).unwrap();
        }
    });
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    let handles: Vec<_> = (0..20).map(|_| pool.submit(task, &false).unwrap()).collect();
    for handle in handles {
        let died = handle.wait().unwrap_err();
        assert!(matches!(&died, TaskError::Died(blame) if blame.exit.contains("SIGKILL")), "{died}");
    }
    pool.submit(task, &true).unwrap().wait().unwrap();
    pool.join().unwrap();
    Ok(())
}

fn deaths_after_tasks() -> Result<(), String> {
    let mut tasks = Tasks::new();
    let task = tasks.function("pid", |(): ()| getpid().as_raw());
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    for _ in 0..30 {
        let pid = pool.submit(task, &()).unwrap().wait().unwrap();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        eventually("the worker is dead", || is_gone(pid).then_some(()));
    }
    pool.join().unwrap();
    Ok(())
}

fn coordinator_killed() -> Result<(), String> {
    const DONE: u32 = 400;
    let (mut tasks, board) = (Tasks::new(), Board::new(2));
    let task = tasks.function("first", move |i: u32| {
        if i >= DONE {
            board.add(1);
            loop {
                thread::sleep(PAUSE);
            }
        }
        board.add(0);
        i
    });
    let pool = Pool::builder().workers(2).fork(tasks).unwrap();
    let handles = submit(&pool, task, 1000);
    board.wait(0, DONE);
    board.wait(1, 2);
    let processes = workers(&pool);
    kill(coordinator(&pool), Signal::SIGKILL).unwrap();
    for (i, handle) in (0..).zip(handles) {
        match handle.wait() {
            Ok(got) => assert!(got == i && i < DONE, "task {i} gave {got}"),
            Err(why) => assert!(i >= DONE, "task {i}: {why}"),
        }
    }
    assert!(pool.submit(task, &0).is_err());
    for pid in processes {
        eventually("no worker outlives the coordinator", || is_gone(pid).then_some(()));
    }
    let why = pool.join().unwrap_err().to_string();
    assert!(why.contains("died without a word: signal 9 (SIGKILL)"), "{why}");
    Ok(())
}

fn a_daemon_is_reaped() -> Result<(), String> {
    let (mut tasks, board) = (Tasks::new(), Board::new(2));
    let task = tasks.function("daemon", move |_: u32| {
        // SAFETY: this worker has one thread.
        if let ForkResult::Parent { .. } = unsafe { fork() }.unwrap() {
            board.wait(0, 1);
            return board.get(0) as i32;
        }
        setsid().unwrap();
        // SAFETY: as above.
        if let ForkResult::Child = unsafe { fork() }.unwrap() {
            board.set(0, getpid().as_raw() as u32);
            // Its parent has ended, and it is the coordinator's.
            while board.get(1) == 0 {
                thread::sleep(PAUSE);
            }
        }
        // SAFETY: nothing of the parent's is to be run at this exit.
        unsafe { nix::libc::_exit(0) }
    });
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    let daemon = pool.submit(task, &0).unwrap().wait().unwrap();
    let worker = workers(&pool).into_iter().find(|pid| *pid != daemon).expect("the worker");
    kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
    eventually("another worker", || workers(&pool).iter().any(|pid| ![worker, daemon].contains(pid)).then_some(()));
    let parent = stat(daemon, 4).and_then(|pid| pid.parse().ok());
    assert_eq!(parent, Some(pool.coordinator_pid()), "it lives, as the coordinator's child");
    board.set(1, 1);
    eventually("it is reaped", || stat(daemon, 3).is_none().then_some(()));
    pool.join().unwrap();
    Ok(())
}

// ---- how many -------------------------------------------------------------------------------------------------------

fn as_many_as_cores() -> Result<(), String> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).unwrap();
    let cores: Vec<usize> = (0..CpuSet::count()).filter(|&c| allowed.is_set(c) == Ok(true)).collect();
    // A quota of the cgroup may be less than the cores.
    let usable = thread::available_parallelism().unwrap().get().min(cores.len());
    for n in BTreeSet::from([usable, 1]).into_iter().rev() {
        let mut some = CpuSet::new();
        cores[..n].iter().for_each(|&core| some.set(core).unwrap());
        sched_setaffinity(this, &some).unwrap();
        let pool = Pool::builder().fork(Tasks::new()).unwrap();
        assert_eq!(workers(&pool).len(), n);
        pool.join().unwrap();
    }
    Ok(())
}

/// That the work is done and spread is tested; how fast it goes is printed.
fn sixty_four_workers() -> Result<(), String> {
    for n in [2, 64] {
        let mut tasks = Tasks::new();
        let (load, task) = Load::new(&mut tasks, 20_000);
        let began = Instant::now();
        let pool = Pool::builder().workers(n).fork(tasks).unwrap();
        let started = began.elapsed();
        assert_eq!(workers(&pool).len(), n);
        let began = Instant::now();
        let by = load.run(&pool, task, 0, |_| {});
        let rate = load.tasks as f64 / began.elapsed().as_secs_f64();
        println!("{n} workers: started in {started:?}, {rate:.0} tasks/s by {} of them", by.len());
        pool.join().unwrap();
    }
    Ok(())
}
