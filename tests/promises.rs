//! What the README promises of pools, at its full size: deaths among a thousand tasks, a million tasks that nobody has waited
//! for, tasks that wait for tasks, and the end of the coordinator.

#[path = "common/scene.rs"]
mod scene;

use nix::{
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill, raise},
    },
    unistd::{Pid, getpid, gettid},
};
use scene::{at_least, until, words};
use shmworker::{
    Pool, Tasks,
    pool::{Bytes, Failure, Handle, PoolError, StartError, Task, TaskError, TaskOptions},
};
use std::{
    collections::BTreeSet,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::Duration,
};

const PLAIN: TaskOptions = TaskOptions::new();
/// Descriptors of a pool: more tasks than this have no room at once.
const TABLE: u64 = 4096;

fn main() -> ExitCode {
    scene::run(scenes![
        one_of_a_thousand_kills_its_worker,
        a_map_with_a_death_returns,
        a_worker_killed_in_its_sleep_takes_nothing_along,
        too_little_shared_memory_is_said,
        long_tasks_live_on_beside_a_death,
        a_million_tasks_before_the_first_wait,
        fibonacci_by_tasks,
        a_chain_of_waits,
        a_chain_of_waits_with_pauses,
        tasks_that_nobody_waits_for,
        tasks_that_fill_the_table,
        results_that_fill_the_memory,
        results_of_a_task_that_fill_the_memory,
        inputs_that_fill_the_memory,
        chunks_whose_results_are_too_large_together,
        the_coordinator_is_killed,
        the_coordinator_is_killed_while_a_map_runs,
        damage_ends_the_worker,
    ])
}

fn load(word: &AtomicU64) -> u64 {
    word.load(SeqCst)
}

/// Squares, but for 500, which kills its worker.
const SQUARE: Task<u64, u64> = Task::named("square");
const PROCESS: Task<(), i32> = Task::named("process");

fn tasks() -> Tasks {
    let mut tasks = Tasks::new();
    tasks.handler("square", |_, x: u64| {
        if x == 500 {
            raise(Signal::SIGKILL)?;
        }
        Ok(x * x)
    });
    tasks.function("process", |()| getpid().as_raw());
    tasks
}

#[track_caller]
fn all_but_one(results: &[Result<u64, TaskError>]) {
    assert_eq!(results.len(), 1000);
    for (x, result) in (0..).zip(results) {
        match result {
            Err(TaskError::Died(blame)) => assert_eq!((x, blame.exit.as_str()), (500, "signal 9 (SIGKILL)")),
            other => assert_eq!(*other, Ok(x * x)),
        }
    }
    assert!(results[500].is_err());
}

// ---- the five experiments -------------------------------------------------------------------------------------------

/// `ProcessPoolExecutor`: 505 done, 495 failed, and the pool is broken for good.
fn one_of_a_thousand_kills_its_worker() {
    let pool = Pool::builder().workers(4).fork(tasks()).unwrap();
    let handles: Vec<_> = (0..1000).map(|x| pool.submit(SQUARE, &x).unwrap()).collect();
    all_but_one(&handles.into_iter().map(Handle::wait).collect::<Vec<_>>());
    let later: Vec<_> = (0..100).map(|x| pool.submit(SQUARE, &x).unwrap()).collect();
    assert!(later.into_iter().zip(0..).all(|(handle, x)| handle.wait() == Ok(x * x)));
    pool.join().unwrap();
}

/// `multiprocessing.Pool.map`: never returns.
fn a_map_with_a_death_returns() {
    for workers in [1, 4] {
        let pool = Pool::builder().workers(workers).fork(tasks()).unwrap();
        for _ in 0..3 {
            all_but_one(&pool.map(SQUARE, 0..1000).collect::<Vec<_>>());
            all_but_one(&pool.map(SQUARE, 0..1000).chunk_size(1000).collect::<Vec<_>>());
        }
        pool.join().unwrap();
    }
}

/// The state of a process's first thread, as `proc_pid_stat(5)` has it.
fn state(pid: i32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
}

/// The processes of all workers of a pool, each of which is busy until all are.
fn processes(pool: &Pool, meet: Task<u64, i32>, workers: u64) -> BTreeSet<i32> {
    let all: Vec<_> = (0..workers).map(|_| pool.submit(meet, &workers).unwrap()).collect();
    let all: BTreeSet<_> = all.into_iter().map(|handle| handle.wait().unwrap()).collect();
    assert_eq!(all.len() as u64, workers);
    all
}

fn meeting(tasks: &mut Tasks) -> Task<u64, i32> {
    let here = words(1);
    tasks.function("meet", move |n: u64| {
        let turn = here[0].fetch_add(1, SeqCst) / n + 1;
        at_least(&here[0], turn * n);
        getpid().as_raw()
    })
}

/// `multiprocessing.Queue`: it holds the read lock, and the survivors get 0 of 100.
fn a_worker_killed_in_its_sleep_takes_nothing_along() {
    let mut tasks = tasks();
    let meet = meeting(&mut tasks);
    let pool = Pool::builder().workers(4).fork(tasks).unwrap();
    for _ in 0..10 {
        let workers = processes(&pool, meet, 4);
        for &pid in &workers {
            until(|| state(pid) == 'S');
        }
        kill(Pid::from_raw(*workers.first().unwrap()), Signal::SIGKILL).unwrap();
        let handles: Vec<_> = (0..100).map(|x| pool.submit(SQUARE, &x).unwrap()).collect();
        assert!(handles.into_iter().zip(0..).all(|(handle, x)| handle.wait() == Ok(x * x)));
    }
    pool.join().unwrap();
}

/// A C program that touches it: SIGBUS.
fn too_little_shared_memory_is_said() {
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, 1 << 20, hard).unwrap();
    let e = Pool::builder().workers(2).fork(tasks()).unwrap_err();
    assert!(matches!(e, StartError::Segment(_)), "{e}");
    let said = e.to_string();
    assert!(
        said.contains(" bytes of shared memory are wanted, the limit on file sizes is 1048576: raise it"),
        "{said}"
    );
    setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
    Pool::builder().workers(2).fork(tasks()).unwrap().join().unwrap();
}

/// An executor of 3 long-running tasks: one is killed, and the executor ends the other two.
fn long_tasks_live_on_beside_a_death() {
    let mut tasks = tasks();
    let shared = words(2);
    let [begun, released] = [&shared[0], &shared[1]];
    let long = tasks.function("long", |()| {
        begun.fetch_add(1, SeqCst);
        at_least(released, 1);
        getpid().as_raw()
    });
    let meet = meeting(&mut tasks);
    let pool = Pool::builder().workers(3).fork(tasks).unwrap();
    let workers = processes(&pool, meet, 3);
    let handles: Vec<_> = (0..3).map(|_| pool.submit_with(long, &(), &PLAIN.attempts(2)).unwrap()).collect();
    at_least(begun, 3);
    let victim = *workers.first().unwrap();
    kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
    at_least(begun, 4); // by the one that was started in its place
    released.store(1, SeqCst);
    let ended: Vec<_> = handles.into_iter().map(Handle::finish).collect();
    let by: BTreeSet<_> = ended.iter().map(|finished| *finished.result.as_ref().unwrap()).collect();
    assert_eq!((by.len(), by.intersection(&workers).count()), (3, 2), "{workers:?} {by:?}");
    assert!(!by.contains(&victim));
    assert_eq!(ended.iter().map(|finished| finished.attempts).sum::<u32>(), 4);
    pool.join().unwrap();
}

// ---- more than there is room for ------------------------------------------------------------------------------------

fn a_million_tasks_before_the_first_wait() {
    const TASKS: u64 = 1_000_000;
    let mut tasks = Tasks::new();
    let next = tasks.function("next", |x: u64| x + 1);
    let pool = Pool::builder().workers(2).fork(tasks).unwrap();
    let handles: Vec<_> = (0..TASKS).map(|x| pool.submit(next, &x).unwrap()).collect();
    for (x, handle) in (0..).zip(handles) {
        assert_eq!(handle.wait(), Ok(x + 1));
    }
    pool.join().unwrap();
}

fn fibonacci_by_tasks() {
    for (workers, slots) in [(1, 1), (4, 1), (1, 4), (2, 3)] {
        println!("{workers} workers, {slots} slots");
        let mut tasks = Tasks::new();
        let fib = tasks.handler("fib", |context, n: u64| {
            if n < 2 {
                return Ok(n);
            }
            let fib = Task::<u64, u64>::named("fib");
            let [a, b] = [context.pool().submit(fib, &(n - 1))?, context.pool().submit(fib, &(n - 2))?];
            Ok(a.wait()? + b.wait()?)
        });
        let pool = Pool::builder().workers(workers).slots(slots).fork(tasks).unwrap();
        assert_eq!(pool.submit(fib, &18).unwrap().wait(), Ok(2584));
        let several: Vec<_> = (0..16).map(|n| pool.submit(fib, &n).unwrap()).collect();
        let several: Result<Vec<_>, _> = several.into_iter().map(Handle::wait).collect();
        assert_eq!(several.unwrap(), [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610]);
        pool.join().unwrap();
    }
}

/// Each waits for the next, on the stack of the one before: with one worker there is no other.
fn a_chain_of_waits() {
    for (workers, slots) in [(1, 1), (1, 2), (3, 1)] {
        for is_keyed in [false, true] {
            println!("{workers} workers, {slots} slots, keyed: {is_keyed}");
            let mut tasks = Tasks::new();
            let deep = tasks.handler("deep", move |context, n: u64| {
                if n == 0 {
                    return Ok(0);
                }
                let options = if is_keyed { PLAIN.key(format!("{n}")) } else { PLAIN };
                let next = context.pool().submit_with(Task::<u64, u64>::named("deep"), &(n - 1), &options)?;
                Ok(1 + next.wait()?)
            });
            let pool = Pool::builder().workers(workers).slots(slots).fork(tasks).unwrap();
            for n in [10, 31, 40, 200, 500] {
                assert_eq!(pool.submit(deep, &n).unwrap().wait(), Ok(n));
            }
            let Err(TaskError::Failed(why)) = pool.submit(deep, &100_000).unwrap().wait() else { panic!("no end") };
            assert!(why.contains("tasks that wait for tasks nest 512 deep"), "{why}");
            assert_eq!(pool.submit(deep, &40).unwrap().wait(), Ok(40));
            pool.join().unwrap();
        }
    }
}

/// The last of the chain fails at first, and comes back to the queue after a pause.
fn a_chain_of_waits_with_pauses() {
    const DEEP: Task<u64, u64> = Task::named("deep");
    let mut tasks = Tasks::new();
    tasks.handler("deep", |context, n: u64| match n {
        0 if context.attempt() == 1 => Err(Failure::new("not yet")),
        0 => Ok(0),
        _ => {
            let pause = Duration::from_millis(1);
            let options = PLAIN.attempts(2).backoff(pause, pause);
            Ok(1 + context.pool().submit_with(DEEP, &(n - 1), &options)?.wait()?)
        }
    });
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    for n in [1, 32, 33, 40, 200] {
        assert_eq!(pool.submit(DEEP, &n).unwrap().wait(), Ok(n));
    }
    pool.join().unwrap();
}

fn tasks_that_nobody_waits_for() {
    for slots in [1, 4] {
        let mut tasks = tasks();
        let runs = words(1);
        tasks.function("count", |()| {
            runs[0].fetch_add(1, SeqCst);
        });
        let scatter = tasks.handler("scatter", |context, n: u64| {
            for _ in 0..n {
                context.pool().submit(Task::<(), ()>::named("count"), &())?;
            }
            Ok(())
        });
        // A worker that is replaced sees them to their end.
        let limits = shmworker::WorkerLimits::new().max_tasks(500, 0);
        let pool = Pool::builder().workers(2).slots(slots).worker_limits(limits).fork(tasks).unwrap();
        let handles: Vec<_> = (0..20).map(|_| pool.submit(scatter, &500).unwrap()).collect();
        handles.into_iter().for_each(|handle| handle.wait().unwrap());
        pool.join().unwrap();
        assert_eq!(load(&runs[0]), 10_000);
    }
}

/// Short of descriptors, a task that submits has its thread run others.
fn tasks_that_fill_the_table() {
    for (workers, slots, is_keyed) in [(1, 1, false), (2, 1, false), (1, 4, false), (1, 1, true), (1, 4, true)] {
        println!("{workers} workers, {slots} slots, keyed: {is_keyed}");
        let mut tasks = Tasks::new();
        tasks.function("square", |x: u64| x * x);
        let sum = tasks.handler("sum", move |context, (first, n): (u64, u64)| {
            let submit = |x: u64| {
                let options = if is_keyed { PLAIN.key(format!("{}", first + x)) } else { PLAIN };
                context.pool().submit_with(SQUARE, &x, &options)
            };
            let squares = (0..n).map(submit).collect::<Result<Vec<_>, _>>()?;
            let mut sum = 0;
            for square in squares {
                sum += square.wait()?;
            }
            Ok(sum)
        });
        let pool = Pool::builder().workers(workers).slots(slots).fork(tasks).unwrap();
        let expected = (0..3 * TABLE).map(|x| x * x).sum::<u64>();
        let sums: Vec<_> = (0..4).map(|i| pool.submit(sum, &(i * 1_000_000, 3 * TABLE)).unwrap()).collect();
        assert!(sums.into_iter().all(|sum| sum.wait() == Ok(expected)));
        pool.join().unwrap();
    }
}

const LARGE: usize = 40 << 20;
/// How many payloads of that size there is room for at a time.
const ROOM: usize = 4;

/// Results that nobody has asked for yet make room for those that somebody waits for.
fn results_that_fill_the_memory() {
    let mut tasks = Tasks::new();
    let fill = tasks.in_place::<u64, Bytes>("fill", |_, n, mut output| {
        output.reserve(LARGE)?.fill(n as u8);
        Ok(())
    });
    let pool = Pool::builder().workers(2).fork(tasks).unwrap();
    let handles: Vec<_> = (0..2 * ROOM as u64).map(|n| pool.submit(fill, &n).unwrap()).collect();
    // The last first.
    for (n, handle) in handles.into_iter().enumerate().rev() {
        let bytes = handle.wait_in_place().unwrap();
        assert!(bytes.len() == LARGE && bytes.iter().all(|&byte| byte == n as u8));
    }
    pool.join().unwrap();
}

/// A task whose children have left their results in all the blocks has another run on top of it, or needs room for its own
/// output: nobody but its own process can make some.
fn results_of_a_task_that_fill_the_memory() {
    const FILL: Task<u64, Bytes> = Task::named("fill");
    const MEANWHILE: Task<u64, ()> = Task::named("meanwhile");
    let mut tasks = Tasks::new();
    let shared = words(2);
    let [filled, has_begun] = [0, 1].map(|i| &shared[i]);
    tasks.in_place::<u64, Bytes>("fill", |_, n, mut output| {
        output.reserve(LARGE)?.fill(n as u8);
        filled.fetch_add(1, SeqCst);
        Ok(())
    });
    tasks.function("meanwhile", |n| {
        has_begun.store(1, SeqCst);
        at_least(filled, n);
    });
    let parent = tasks.in_place::<u64, Bytes>("parent", |context, n, mut output| {
        // While the other worker is busy with this, children run here, on top.
        let meanwhile = context.pool().submit(MEANWHILE, &n)?;
        at_least(has_begun, 1);
        let children: Vec<_> = (0..n).map(|i| context.pool().submit(FILL, &i)).collect::<Result<_, _>>()?;
        meanwhile.wait()?;
        output.reserve(LARGE)?.fill(n as u8);
        for (child, i) in children.into_iter().zip(0..) {
            assert!(child.wait()?.iter().all(|&byte| byte == i));
        }
        Ok(())
    });
    let pool = Pool::builder().workers(2).fork(tasks).unwrap();
    for n in [ROOM as u64, 2 * ROOM as u64] {
        shared.iter().for_each(|word| word.store(0, SeqCst));
        let bytes = pool.submit(parent, &n).unwrap().wait().unwrap();
        assert!(bytes.len() == LARGE && bytes.iter().all(|&byte| byte == n as u8));
    }
    pool.join().unwrap();
}

/// The output of each needs as much room as its input, and as many inputs as there may be are there before the first begins.
fn inputs_that_fill_the_memory() {
    let released = words(1);
    let mut tasks = Tasks::new();
    let copy = tasks.in_place::<Bytes, Bytes>("copy", |_, input, mut output| {
        at_least(&released[0], 1);
        output.reserve(input.len())?.copy_from_slice(input);
        Ok(())
    });
    let pool = Pool::builder().workers(2).fork(tasks).unwrap();
    let submitter = words(1);
    let handles: Vec<_> = std::thread::scope(|s| {
        let submitting = s.spawn(|| {
            submitter[0].store(gettid().as_raw() as u64, SeqCst);
            let fill = |n: usize| pool.submit_in_place(copy, LARGE, &PLAIN, |bytes| bytes.fill(n as u8)).unwrap();
            (0..2 * ROOM).map(fill).collect()
        });
        // It sleeps for want of room.
        at_least(&submitter[0], 1);
        until(|| state(load(&submitter[0]) as i32) == 'S');
        released[0].store(1, SeqCst);
        submitting.join().unwrap()
    });
    for (n, handle) in handles.into_iter().enumerate() {
        let bytes = handle.wait().unwrap();
        assert!(bytes.len() == LARGE && bytes.iter().all(|&byte| byte == n as u8));
    }
    pool.join().unwrap();
}

/// Each result has room by itself.
fn chunks_whose_results_are_too_large_together() {
    const MIB: u64 = 1 << 20;
    let mut tasks = Tasks::new();
    let runs = words(16);
    let fill = tasks.in_place::<(u64, u64), Bytes>("fill", |_, (n, len), mut output| {
        runs[n as usize].fetch_add(1, SeqCst);
        output.reserve(len as usize)?.fill(n as u8);
        Ok(())
    });
    let pool = Pool::builder().workers(2).fork(tasks).unwrap();
    // Each of those of one size runs once; one that is a surprise, twice; and 65 MiB are more than any payload may be.
    for (lens, twice) in [
        (vec![20 * MIB; 8], &[][..]),
        (vec![MIB, 64 * MIB, 40 * MIB, 40 * MIB, 1], &[1]),
        (vec![64 * MIB, 65 * MIB, 1, 40 * MIB, 40 * MIB], &[0]),
    ] {
        println!("{lens:?}");
        runs.iter().for_each(|n| n.store(0, SeqCst));
        let inputs = (0..).zip(lens.clone());
        for (n, result) in pool.map(fill, inputs).chunk_size(4).enumerate() {
            match result {
                Ok(bytes) => assert!(bytes.len() as u64 == lens[n] && bytes.iter().all(|&byte| byte == n as u8)),
                Err(e) => assert!(lens[n] == 65 * MIB && e.to_string().contains("larger than the limit"), "{n}: {e}"),
            }
            assert_eq!(load(&runs[n]), if twice.contains(&n) { 2 } else { 1 }, "{n}");
        }
    }
    pool.join().unwrap();
}

// ---- the end of the coordinator -------------------------------------------------------------------------------------

/// A pool for a thousand tasks, of which the first 400 and no more can be done; and a word that counts the others that have begun.
fn most_are_held() -> (Pool, Task<u64, u64>, &'static AtomicU64) {
    let mut tasks = tasks();
    let begun = &words(1)[0];
    let some = tasks.function("some", move |x: u64| {
        if x < 400 {
            return x * x;
        }
        begun.fetch_add(1, SeqCst);
        loop {
            std::thread::park();
        }
    });
    let pool = Pool::builder().workers(2).fork(tasks).unwrap();
    (pool, some, begun)
}

#[track_caller]
fn lost(error: &TaskError) {
    let TaskError::PoolEnded(why) = error else { panic!("{error}") };
    assert!(
        why.starts_with("its coordinator (pid ") && why.ends_with(" died without a word: signal 9 (SIGKILL)"),
        "{why}"
    );
}

fn the_coordinator_is_killed() {
    let (pool, some, begun) = most_are_held();
    let mut handles: Vec<_> = (0..1000).map(|x| pool.submit(some, &x).unwrap()).collect();
    let futures = handles.split_off(900);
    // The lowest are the first in their queue, and 400 and 401 stop the two workers.
    let at_400 = handles.remove(399).wait();
    assert_eq!(at_400, Ok(399 * 399));
    // While one of them did that, the other may have been kept in the midst of an earlier one.
    at_least(begun, 2);
    std::thread::scope(|s| {
        let waits: Vec<_> = handles.drain(800..).map(|handle| s.spawn(|| handle.wait())).collect();
        let awaits = s.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let mut results = Vec::new();
                for future in futures {
                    results.push(future.await);
                }
                results
            })
        });
        kill(Pid::from_raw(pool.coordinator_pid() as i32), Signal::SIGKILL).unwrap();
        let results: Vec<_> = handles.into_iter().map(Handle::wait).collect();
        for (x, result) in (0..399).chain(400..).zip(results) {
            match result {
                Ok(square) => assert!(x < 400 && square == x * x),
                // Nobody waited for these, so some may not have been told of.
                Err(e) => {
                    assert!(x >= 398, "{x}: {e}");
                    lost(&e);
                }
            }
        }
        waits.into_iter().for_each(|wait| lost(&wait.join().unwrap().unwrap_err()));
        awaits.join().unwrap().into_iter().for_each(|result| lost(&result.unwrap_err()));
    });
    let refused = pool.submit(SQUARE, &1).unwrap_err();
    assert!(matches!(&refused, PoolError::Ended(why) if why.ends_with("signal 9 (SIGKILL)")), "{refused}");
    let ended = pool.join().unwrap_err();
    assert!(matches!(&ended, PoolError::Ended(why) if why.ends_with("signal 9 (SIGKILL)")), "{ended}");
}

fn the_coordinator_is_killed_while_a_map_runs() {
    let pool = Pool::builder().workers(2).fork(tasks()).unwrap();
    let coordinator = Pid::from_raw(pool.coordinator_pid() as i32);
    let mut results = pool.map(SQUARE, (0..).map(|x| x % 400));
    let mut done = 0;
    let why = loop {
        match results.next().expect("it is told") {
            Ok(square) => assert_eq!(square, (done % 400) * (done % 400)),
            Err(e) => break e,
        }
        done += 1;
        if done == 1000 {
            kill(coordinator, Signal::SIGKILL).unwrap();
        }
    };
    match &why {
        TaskError::NotSubmitted(e) => assert!(matches!(**e, PoolError::Ended(_)), "{e}"),
        e => lost(e),
    }
    // What was under way is told of, and then there is an end, though the inputs have none.
    assert!(results.count() < 1_000_000);
    let report = pool.scope(|scope| scope.submit("late", PROCESS, &()).map(drop));
    assert!(matches!(report, Err(PoolError::Ended(_))), "{report:?}");
    assert!(pool.join().is_err());
}

/// A slot that meets damage takes along the others, which sleep or wait for its task: nobody else would know of it.
fn damage_ends_the_worker() {
    const DAMAGE: Task<Bytes, ()> = Task::named("damage");
    for (slots, waits) in [(1, false), (3, false), (1, true), (2, true)] {
        println!("{slots} slots, waits: {waits}");
        let mut tasks = tasks();
        let has_begun = words(1);
        tasks.in_place::<Bytes, ()>("damage", |_, input, _| {
            if has_begun[0].fetch_add(1, SeqCst) > 0 {
                return Ok(());
            }
            // A short input lies in its descriptor. The state is the first word of that, and has the attempt in this bit.
            let state = input.as_ptr().wrapping_sub(256).cast::<AtomicU64>();
            // SAFETY: aligned and inside the segment, which is mapped here.
            unsafe { &*state }.fetch_xor(1 << 40, SeqCst);
            Ok(())
        });
        let waiting = tasks.handler("waiting", move |context, ()| {
            let child = context.pool().submit_with(DAMAGE, b"short", &PLAIN.attempts(3))?;
            if slots > 1 {
                at_least(&has_begun[0], 1); // in the other slot; else it runs on top of this
            }
            Ok(child.wait()?)
        });
        let pool = Pool::builder().workers(1).slots(slots).fork(tasks).unwrap();
        let options = PLAIN.attempts(3);
        let handle =
            if waits { pool.submit_with(waiting, &(), &options) } else { pool.submit_with(DAMAGE, b"short", &options) };
        assert_eq!(handle.unwrap().wait(), Ok(()));
        assert!(load(&has_begun[0]) > 1, "another attempt, since its worker is gone");
        pool.join().unwrap();
    }
}
