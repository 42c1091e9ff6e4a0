//! Every way for a task to end: what its submitter is told, that the pool goes on, and that the segment is in order at the end.

#[path = "common/scene.rs"]
mod scene;

use nix::{
    libc,
    sys::{
        signal::{Signal, kill, raise},
        wait::waitpid,
    },
    unistd::{ForkResult, Pid, close, fork, getpid},
};
use scene::{at_least, until, words};
use serde::{Deserialize, Serialize};
use shmworker::{
    Pool, SubmitError, Tasks, WorkerLimits,
    pool::{
        Blame, Builder, Bytes, Context, Failure, Pods, PoolError, StartError, Task, TaskError, TaskOptions, UnknownTask,
    },
};
use std::{hint::black_box, process::ExitCode, sync::atomic::Ordering::SeqCst, time::Duration};

/// The ways to end that need nothing but a handler.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Way {
    Returns,
    Fails,
    Panics,
    Aborts,
    Segfaults,
    IsKilled,
    IsAsked,
    Exits,
    Overflows,
    LoopsAndLooks,
    Loops,
}

const END: Task<Way, u64> = Task::named("end");
const SQUARE: Task<u64, u64> = Task::named("square");
const PROCESS: Task<(), i32> = Task::named("process");

fn tasks() -> Tasks {
    let mut tasks = Tasks::new();
    tasks.handler("end", end);
    tasks.function("square", |x: u64| x * x);
    tasks.function("process", |()| getpid().as_raw());
    tasks
}

fn end(context: &Context<'_>, way: Way) -> Result<u64, Failure> {
    context.progress(3, 10);
    match way {
        Way::Returns => return Ok(7),
        Way::Fails => {
            std::fs::read("/no/such/file")?;
        }
        Way::Panics => panic!("{} is odd", context.attempt()),
        Way::Aborts => std::process::abort(),
        Way::Segfaults => {
            // SAFETY: not safe; it is to be the end of this process.
            unsafe { std::ptr::without_provenance_mut::<u8>(64).write_volatile(1) }
        }
        Way::IsKilled => raise(Signal::SIGKILL)?,
        Way::IsAsked => raise(Signal::SIGTERM)?,
        Way::Exits => std::process::exit(3),
        Way::Overflows => return Ok(overflow(0)),
        Way::LoopsAndLooks => loop {
            context.check()?;
            std::thread::yield_now();
        },
        Way::Loops => forever(),
    }
    unreachable!("{way:?}")
}

fn forever() -> ! {
    loop {
        std::thread::park();
    }
}

fn overflow(depth: u64) -> u64 {
    if depth == u64::MAX { 0 } else { black_box(overflow(depth + 1)) + 1 }
}

type Start = fn(Builder) -> Result<Pool, StartError>;

const METHODS: [(&str, Start); 3] =
    [("fork", |b| b.fork(tasks())), ("forkserver", Builder::forkserver), ("exec", Builder::exec)];

fn main() -> ExitCode {
    shmworker::init(tasks);
    scene::run(scenes![
        returns,
        fails,
        panics,
        aborts,
        segfaults,
        is_killed,
        is_asked_by_a_signal,
        exits,
        overflows_its_stack,
        overflows_the_stack_of_a_slot,
        sees_that_its_time_is_over,
        is_killed_when_its_time_is_over,
        is_killed_for_its_silence,
        gets_no_memory,
        keeps_too_much_memory,
        leaves_a_child_behind,
        closes_its_streams,
        closes_every_descriptor,
        is_stopped_and_continued,
        is_stopped_past_its_time,
        gives_too_much,
        gives_what_has_no_encoding,
        is_given_what_it_does_not_take,
        is_unknown,
        a_damaged_segment_is_said_at_the_end,
    ])
}

/// The pool goes on: each of its workers has a next task, and nothing is left at the end.
#[track_caller]
fn goes_on(pool: Pool) {
    let squares: u64 = pool.map(SQUARE, 0..100).sum::<Result<_, _>>().unwrap();
    assert_eq!(squares, 328_350);
    pool.join().unwrap();
}

/// Ends in this way in pools of each kind: one worker of one slot, and one attempt.
#[track_caller]
fn ends(way: Way, options: &TaskOptions, judge: impl Fn(Result<u64, TaskError>)) {
    for (method, start) in METHODS {
        println!("{method}");
        let pool = start(Pool::builder().workers(1)).unwrap();
        judge(pool.submit_with(END, &way, options).unwrap().wait());
        goes_on(pool);
    }
}

/// It died of this, at its first attempt, with what it had said by then.
#[track_caller]
fn died(of: &str, result: Result<u64, TaskError>) {
    let Err(error @ TaskError::Died(_)) = &result else { panic!("{result:?}") };
    let TaskError::Died(Blame { exit, attempts, deaths, is_poison, peak_kib, progress, .. }) = error else { return };
    assert_eq!(
        (exit.as_str(), *attempts, *deaths, *is_poison, *progress),
        (of, 1, 1, false, Some((3, 10))),
        "{result:?}"
    );
    assert!(*peak_kib > 100, "{result:?}");
    let said =
        format!("the task's worker died: {of}; it was at 3 of 10; memory at most {} MiB", peak_kib.div_ceil(1024));
    assert_eq!(error.to_string(), said);
}

const PLAIN: TaskOptions = TaskOptions::new();

// ---- by itself ------------------------------------------------------------------------------------------------------

fn returns() {
    ends(Way::Returns, &PLAIN, |result| assert_eq!(result, Ok(7)));
}

fn fails() {
    ends(Way::Fails, &PLAIN, |result| {
        assert_eq!(result, Err(TaskError::Failed("No such file or directory (os error 2)".into())));
        assert_eq!(result.unwrap_err().to_string(), "the task failed: No such file or directory (os error 2)");
    });
}

fn panics() {
    ends(Way::Panics, &PLAIN, |result| {
        let Err(TaskError::Panicked(said)) = &result else { panic!("{result:?}") };
        assert!(said.starts_with("tests/endings.rs:") && said.ends_with(": 1 is odd"), "{said}");
        let whole = format!("the task panicked at {said}");
        assert_eq!(result.unwrap_err().to_string(), whole);
    });
}

// ---- with its worker ------------------------------------------------------------------------------------------------

fn aborts() {
    ends(Way::Aborts, &PLAIN, |result| died("signal 6 (SIGABRT)", result));
}

fn segfaults() {
    ends(Way::Segfaults, &PLAIN, |result| died("signal 11 (SIGSEGV)", result));
}

fn is_killed() {
    ends(Way::IsKilled, &PLAIN, |result| died("signal 9 (SIGKILL)", result));
}

fn is_asked_by_a_signal() {
    ends(Way::IsAsked, &PLAIN, |result| died("signal 15 (SIGTERM)", result));
}

fn exits() {
    ends(Way::Exits, &PLAIN, |result| died("exit code 3", result));
}

fn overflows_its_stack() {
    ends(Way::Overflows, &PLAIN, |result| died("signal 6 (SIGABRT)", result));
}

/// It runs in a slot's thread, since the process's first thread runs another.
fn overflows_the_stack_of_a_slot() {
    let first = words(1);
    let mut tasks = tasks();
    let hold = tasks.function("hold", |()| {
        first[0].fetch_add(1, SeqCst);
        forever()
    });
    let _: Task<(), u64> = hold;
    let name = tasks.function("thread", |()| std::thread::current().name().map(str::to_owned));
    let pool = Pool::builder().workers(1).slots(2).fork(tasks).unwrap();
    // The first thread may be the one that is left.
    let mut held = pool.submit_with(hold, &(), &PLAIN).unwrap();
    at_least(&first[0], 1);
    while pool.submit(name, &()).unwrap().wait().unwrap().as_deref() != Some("slot 1") {
        kill(Pid::from_raw(pool.submit(PROCESS, &()).unwrap().wait().unwrap()), Signal::SIGKILL).unwrap();
        assert!(matches!(held.wait(), Err(TaskError::Died(_))));
        let begun = first[0].load(SeqCst);
        held = pool.submit(hold, &()).unwrap();
        at_least(&first[0], begun + 1);
    }
    died("signal 6 (SIGABRT)", pool.submit(END, &Way::Overflows).unwrap().wait());
    // Who ran beside it is not to blame.
    let Err(TaskError::Died(blame)) = held.wait() else { panic!("it was in the same process") };
    assert_eq!((blame.exit.as_str(), blame.deaths), ("signal 6 (SIGABRT)", 0));
    goes_on(pool);
}

// ---- for its deadline -----------------------------------------------------------------------------------------------

const SHORT: Duration = Duration::from_millis(20);

fn sees_that_its_time_is_over() {
    ends(Way::LoopsAndLooks, &PLAIN.timeout(SHORT), |result| {
        let Err(TaskError::TimedOut(blame)) = &result else { panic!("{result:?}") };
        assert_eq!((blame.exit.as_str(), blame.attempts, blame.deaths, blame.progress), ("", 1, 0, Some((3, 10))));
        assert_eq!(result.unwrap_err().to_string(), "the task ran out of time; it was at 3 of 10");
    });
}

/// It does not look whether it is to end, so its worker is killed.
fn ran_out_of_time(result: Result<u64, TaskError>) {
    let Err(TaskError::TimedOut(blame)) = &result else { panic!("{result:?}") };
    assert_eq!((blame.exit.as_str(), blame.attempts, blame.progress), ("signal 9 (SIGKILL)", 1, Some((3, 10))));
    let peak = blame.peak_kib.div_ceil(1024);
    let said = format!(
        "the task ran out of time; its worker was killed: signal 9 (SIGKILL); it was at 3 of 10; memory at most {peak} MiB"
    );
    assert_eq!(result.unwrap_err().to_string(), said);
}

fn is_killed_when_its_time_is_over() {
    ends(Way::Loops, &PLAIN.timeout(SHORT).grace(SHORT), ran_out_of_time);
}

fn is_killed_for_its_silence() {
    ends(Way::Loops, &PLAIN.heartbeat_timeout(SHORT), ran_out_of_time);
}

// ---- for what it uses -----------------------------------------------------------------------------------------------

const MIB: u64 = 1 << 20;

fn gets_no_memory() {
    let mut tasks = tasks();
    let take = tasks.function("take", |bytes: u64| black_box(vec![1u8; bytes as usize]).len() as u64);
    let limits = WorkerLimits::new().address_space(256 * MIB);
    let pool = Pool::builder().workers(1).worker_limits(limits).fork(tasks).unwrap();
    assert_eq!(pool.submit(take, &(32 * MIB)).unwrap().wait(), Ok(32 * MIB));
    let Err(TaskError::Died(blame)) = pool.submit(take, &(1024 * MIB)).unwrap().wait() else { panic!("too much") };
    assert_eq!((blame.exit.as_str(), blame.deaths, blame.progress), ("signal 6 (SIGABRT)", 1, None));
    goes_on(pool);
}

fn keeps_too_much_memory() {
    let mut tasks = tasks();
    let keep = tasks.function("keep", |bytes: u64| {
        std::mem::forget(black_box(vec![1u8; bytes as usize]));
        getpid().as_raw()
    });
    let limits = WorkerLimits::new().max_memory(64 * MIB);
    let pool = Pool::builder().workers(1).worker_limits(limits).fork(tasks).unwrap();
    let kept = pool.submit(keep, &(128 * MIB)).unwrap().finish();
    assert_eq!((kept.attempts, kept.worker.unwrap().pid as i32), (1, kept.result.unwrap()));
    // It leaves once it has been looked at, which is not after each task.
    until(|| pool.submit(PROCESS, &()).unwrap().wait().unwrap() as u32 != kept.worker.unwrap().pid);
    goes_on(pool);
}

fn gives_too_much() {
    let mut tasks = tasks();
    let give = tasks.in_place::<u64, Bytes>("give", |_, n, mut output| output.reserve(n as usize).map(drop));
    let sum = tasks.in_place::<Pods<u64>, u64>("sum", |_, values, mut output| output.write(&values.iter().sum()));
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    let Err(TaskError::Failed(said)) = pool.submit(give, &(1 << 40)).unwrap().wait() else { panic!("a terabyte") };
    assert!(said.starts_with("a payload of 1099511627776 bytes is larger than the limit of "), "{said}");
    let limit: usize = said.rsplit_once(' ').unwrap().1.parse().unwrap();
    assert!(limit >= 64 << 20, "{limit}");
    assert_eq!(pool.submit(give, &100).unwrap().wait().map(|bytes| bytes.len()), Ok(100));
    let refused = pool.submit_in_place(sum, usize::MAX, &PLAIN, |_| {}).unwrap_err();
    assert!(matches!(refused, PoolError::Submit(SubmitError::TooLarge { len: usize::MAX, .. })), "{refused}");
    assert_eq!(pool.submit_in_place(sum, 100, &PLAIN, |values| values.fill(7)).unwrap().wait(), Ok(700));
    goes_on(pool);
}

// ---- with what it leaves --------------------------------------------------------------------------------------------

/// Where the segment lies in this process.
fn segment() -> (usize, usize) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.contains("/memfd:shmworker") && line.contains("rw-s")).expect("a segment");
    let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
    [start, end].map(|hex| usize::from_str_radix(hex, 16).unwrap()).into()
}

fn leaves_a_child_behind() {
    let shared = words(2);
    let mut tasks = tasks();
    let leave = tasks.handler("leave", |context, waits: bool| {
        let (start, _) = segment();
        // SAFETY: this worker has one thread.
        match unsafe { fork() }? {
            ForkResult::Parent { child } if waits => {
                Ok(format!("{:?}", waitpid(child, None)?).replace(&child.to_string(), ""))
            }
            ForkResult::Parent { .. } => Ok(String::new()),
            ForkResult::Child => {
                if !waits {
                    // Its worker has ended its task, and others have used the descriptor.
                    at_least(&shared[0], 1);
                    shared[1].store(1, SeqCst);
                }
                context.heartbeat();
                // SAFETY: not safe, if the segment were mapped here.
                unsafe { std::ptr::without_provenance_mut::<u8>(start).write_volatile(1) };
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(0) }
            }
        }
    });
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    let how = pool.submit(leave, &true).unwrap().wait().unwrap();
    assert_eq!(how, "Signaled(Pid(), SIGSEGV, false)");
    assert_eq!(pool.submit(leave, &false).unwrap().wait(), Ok(String::new()));
    let sum: u64 = pool.map(SQUARE, 0..1000).sum::<Result<_, _>>().unwrap();
    assert_eq!(sum, 332_833_500);
    shared[0].store(1, SeqCst);
    at_least(&shared[1], 1);
    goes_on(pool);
}

fn closes_its_streams() {
    let mut tasks = tasks();
    let close_all = tasks.function("close", |()| (0..3).map(|fd| close(fd).is_ok()).collect::<Vec<_>>());
    let read = tasks.function("read", |()| std::io::stdin().lines().count());
    let open = tasks.handler("open", |_, ()| {
        use std::os::fd::AsRawFd;
        Ok(std::fs::File::open("/dev/zero")?.as_raw_fd())
    });
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    assert_eq!(pool.submit(read, &()).unwrap().wait(), Ok(0), "it is empty");
    assert_eq!(pool.submit(close_all, &()).unwrap().wait(), Ok(vec![true; 3]));
    assert_eq!(pool.submit(read, &()).unwrap().wait(), Ok(0), "it is closed");
    assert_eq!(pool.submit(open, &()).unwrap().wait(), Ok(0));
    // What it says goes nowhere, and what is said of it comes all the same.
    let panicked = pool.submit(END, &Way::Panics).unwrap().wait();
    assert!(matches!(&panicked, Err(TaskError::Panicked(said)) if said.ends_with("1 is odd")), "{panicked:?}");
    died("signal 11 (SIGSEGV)", pool.submit(END, &Way::Segfaults).unwrap().wait());
    assert_eq!(pool.submit(open, &()).unwrap().wait().map(|fd| fd > 2), Ok(true), "a fresh worker has streams");
    goes_on(pool);
}

/// Tasks and results pass through none. Only new memory needs one, and the bell by which a worker has its deadlines looked after.
fn closes_every_descriptor() {
    let mut tasks = tasks();
    let close_all = tasks.function("close", |()| (0..1024).filter(|&fd| close(fd).is_ok()).count());
    let large = tasks.function("large", |()| vec![7u8; 1 << 20]);
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    assert!(pool.submit(close_all, &()).unwrap().wait().unwrap() > 3);
    assert_eq!(pool.submit(close_all, &()).unwrap().wait(), Ok(0));
    let Err(TaskError::Failed(why)) = pool.submit(large, &()).unwrap().wait() else { panic!("without the segment's") };
    assert!(
        why.starts_with("no memory for a payload of ") && why.ends_with("Bad file descriptor (os error 9)"),
        "{why}"
    );
    died("signal 6 (SIGABRT)", pool.submit(END, &Way::Aborts).unwrap().wait());
    assert_eq!(pool.submit(large, &()).unwrap().wait(), Ok(vec![7; 1 << 20]), "a fresh worker has its own");
    goes_on(pool);
}

// ---- stopped --------------------------------------------------------------------------------------------------------

fn is_stopped(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.starts_with('T')
}

/// A pool of two workers, of which one stops in the midst of a task; that one's process.
fn one_stopped(options: &TaskOptions) -> (Pool, shmworker::pool::Handle<(i32, u32)>, i32) {
    let who = words(1);
    let mut tasks = tasks();
    let stop = tasks.handler("stop", |context, ()| {
        context.progress(3, 10);
        who[0].store(getpid().as_raw() as u64, SeqCst);
        raise(Signal::SIGSTOP)?;
        Ok((getpid().as_raw(), context.attempt()))
    });
    let pool = Pool::builder().workers(2).fork(tasks).unwrap();
    let handle = pool.submit_with(stop, &(), options).unwrap();
    at_least(&who[0], 1);
    let pid = who[0].load(SeqCst) as i32;
    (pool, handle, pid)
}

/// Nothing is taken from the living: its task waits with it, and only that.
fn is_stopped_and_continued() {
    let (pool, handle, pid) = one_stopped(&PLAIN.attempts(3));
    until(|| is_stopped(pid));
    let sum: u64 = pool.map(SQUARE, 0..10_000).sum::<Result<_, _>>().unwrap();
    assert_eq!(sum, 333_283_335_000);
    assert!(is_stopped(pid));
    let handle = handle.wait_timeout(Duration::ZERO).expect_err("it is stopped");
    kill(Pid::from_raw(pid), Signal::SIGCONT).unwrap();
    let finished = handle.finish();
    assert_eq!((finished.result, finished.attempts), (Ok((pid, 1)), 1));
    goes_on(pool);
}

/// What it is stopped for does not count.
fn is_stopped_past_its_time() {
    let limited = PLAIN.timeout(Duration::from_millis(200)).grace(SHORT);
    let (pool, handle, pid) = one_stopped(&limited);
    until(|| is_stopped(pid));
    // Another, which begins later and has as long, runs out of time.
    ran_out_of_time(pool.submit_with(END, &Way::Loops, &limited).unwrap().wait());
    assert!(is_stopped(pid));
    kill(Pid::from_raw(pid), Signal::SIGCONT).unwrap();
    assert_eq!(handle.finish().result, Ok((pid, 1)));
    goes_on(pool);
}

// ---- before it runs -------------------------------------------------------------------------------------------------

/// A `u32` that must be even: not every number that can be handed in can be read.
#[derive(Debug, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
struct Even(u32);

impl TryFrom<u32> for Even {
    type Error = String;

    fn try_from(n: u32) -> Result<Even, String> {
        if n.is_multiple_of(2) { Ok(Even(n)) } else { Err(format!("{n} is odd")) }
    }
}

impl Clone for Even {
    fn clone(&self) -> Even {
        Even(self.0)
    }
}

impl From<Even> for u32 {
    fn from(even: Even) -> u32 {
        even.0
    }
}

fn is_given_what_it_does_not_take() {
    let runs = words(1);
    let mut tasks = tasks();
    let half = tasks.function("half", |n: Even| {
        runs[0].fetch_add(1, SeqCst);
        n.0 / 2
    });
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    let often = PLAIN.attempts(3);
    let finished = pool.submit_with(half, &Even(3), &often).unwrap().finish();
    let said = "these bytes are no value of the type of this task: ";
    assert!(matches!(&finished.result, Err(TaskError::Failed(why)) if why.starts_with(said)), "{finished:?}");
    assert_eq!(finished.attempts, 1, "another attempt would be given the same");
    for (json, why) in [("[1]", "invalid type"), ("", "EOF while parsing"), ("3", "3 is odd"), ("{", "expected")] {
        let finished = pool.submit_json("half", json, &often).unwrap().finish();
        let Err(TaskError::Failed(said)) = &finished.result else { panic!("{json}: {finished:?}") };
        assert!(said.starts_with("this JSON is not what the task takes: "), "{json}: {said}");
        assert!(said.contains(why) || why == "expected", "{json}: {said}");
        assert_eq!(finished.attempts, 1);
    }
    assert_eq!(runs[0].load(SeqCst), 0);
    assert_eq!(pool.submit_json("half", "8", &often).unwrap().wait(), Ok(b"4".to_vec()));
    assert_eq!(pool.submit(half, &Even(6)).unwrap().wait(), Ok(3));
    goes_on(pool);
}

fn gives_what_has_no_encoding() {
    let mut tasks = tasks();
    let odd = tasks.function("odd", |()| Even(3));
    let nan = tasks.function("keys", |()| std::collections::HashMap::from([((1u8, 2u8), 3u8)]));
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    let read = pool.submit(odd, &()).unwrap().wait().map(|even| even.0);
    let Err(TaskError::Codec(why)) = read else { panic!("{read:?}") };
    assert!(why.to_string().starts_with("these bytes are no value of the type of this task: "), "{why}");
    assert_eq!(pool.submit(nan, &()).unwrap().wait().map(|keys| keys[&(1, 2)]), Ok(3));
    let finished = pool.submit_json("keys", "null", &PLAIN.attempts(3)).unwrap().finish();
    let Err(TaskError::Failed(why)) = &finished.result else { panic!("{finished:?}") };
    assert_eq!(why, "JSON can't say this result: key must be a string");
    goes_on(pool);
}

fn is_unknown() {
    let pool = Pool::builder().workers(1).fork(tasks()).unwrap();
    let e = pool.submit(Task::<u64, u64>::named("cube"), &1).unwrap_err();
    assert!(matches!(e, PoolError::Task(UnknownTask::Token(_))), "{e}");
    let said = e.to_string();
    assert!(said.starts_with("the task of this token is not registered; those that are: "), "{said}");
    assert!(["end", "square", "process"].iter().all(|name| said.contains(name)), "{said}");
    let e = pool.submit(Task::<u64, Bytes>::named("square"), &1).unwrap_err();
    assert!(
        e.to_string().starts_with("the task \"square\" is registered as u64 -> u64, and submitted to as u64 -> "),
        "{e}"
    );
    let e = pool.submit_json("cube", "1", &PLAIN).unwrap_err();
    assert!(matches!(&e, PoolError::Task(UnknownTask::Name(name, _)) if name == "cube"), "{e}");
    let e = pool.submit_with(SQUARE, &1, &PLAIN.queue("fast")).unwrap_err();
    assert_eq!(e.to_string(), "no queue is named \"fast\"; the pool's are: default");
    let mapped: Vec<_> = pool.map(Task::<u64, u64>::named("cube"), 0..3).collect();
    assert!(matches!(mapped[..], [Err(TaskError::NotSubmitted(_)), ..]), "{mapped:?}");
    goes_on(pool);
}

// ---- with damage ----------------------------------------------------------------------------------------------------

/// The last slot of the lane in which the only worker would get results, had it submitted a thousand tasks: nobody meets it but
/// the audit. (`mem/layout.rs`: the slots lie behind the map of free descriptors, of which all have a bit, and the lanes'
/// controls: of the queue, then the private ones, then those of results.)
fn unmet_slot() -> *mut u64 {
    const DESCRIPTORS: usize = 4096;
    const PARTICIPANTS: usize = 64;
    const WORKER: usize = 2; // after the coordinator and its owner
    let (start, end) = segment();
    let word = |at: usize| std::ptr::without_provenance_mut::<u64>(at);
    // SAFETY: in the segment, which is mapped here; others write to it by whole words.
    let read = |at: usize| unsafe { word(at).read_volatile() };
    let half = DESCRIPTORS / 64 / 2; // the bits of what is in use are in the first half
    let map_end = (start..end).step_by(8).scan(0, |full, at| {
        *full = if read(at) == u64::MAX { *full + 1 } else { 0 };
        Some((*full, at + 8))
    });
    let map_end = map_end.skip_while(|(full, _)| *full < half).take_while(|(full, _)| *full >= half).last().unwrap().1;
    word(map_end + 384 * (1 + 2 * PARTICIPANTS) + 8 * (4096 + PARTICIPANTS * 256 + (WORKER + 1) * 4096) - 8)
}

fn a_damaged_segment_is_said_at_the_end() {
    for is_death_between in [false, true] {
        let mut tasks = tasks();
        // SAFETY: not safe: the segment is to be damaged, in a page that is mapped here.
        let damage = tasks.function("damage", |()| unsafe { unmet_slot().write_volatile(0x5555_5555_5555_5555) });
        let pool = Pool::builder().workers(1).fork(tasks).unwrap();
        pool.submit(damage, &()).unwrap().wait().unwrap();
        if is_death_between {
            died("signal 9 (SIGKILL)", pool.submit(END, &Way::IsKilled).unwrap().wait());
        }
        let said = pool.join().unwrap_err().to_string();
        let when = if is_death_between { " (seen after the end of worker:0)" } else { "" };
        let expected = format!("the pool has ended: its shared memory is damaged{when}: ");
        assert!(said.starts_with(&expected) && said.ends_with("; please report this"), "{said}");
        assert!(said.contains("; lane 67: "), "{said}");
    }
}
