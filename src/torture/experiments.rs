//! Five experiments in which Python's pools fail, on lanes and processes of ours.
//!
//! Each runs in a process of its own, so that limits and signal masks stay in there, and prints one line of figures. One that
//! isn't over after [`PATIENCE`] hangs, which is what most of them are about. What Python does: `docs/crash.md`.

use super::{PATIENCE, TortureError, os, shared};
use crate::{
    error::Corrupted,
    exec::endpoint::{Claimed, Endpoint, STATUS_OK, Submission, SubmitError, To},
    lockfree::{recovery::Death, table::Cursors, word::Outcome},
    mem::{
        backing::Backing,
        layout::{Geometry, Layout},
        segment::{NoSpace, Options, Segment, SegmentCreateError},
        space::{Limit, Shortage},
    },
    process::{
        Mode,
        coordinator::{Coordinator, Event, Role, Seat, Spec},
        exit::Exit,
        spawn::{Spawned, spawn, state},
    },
    sync::{Acquire, AtomicU64, Relaxed, Release},
};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
    },
    unistd::{Pid, getegid, geteuid, getpid, getppid},
};
use std::{collections::HashSet, fmt::Display, fs::File, io::Read, os::fd::AsFd, sync::Arc};

const QUEUE: usize = 0;
const TASKS: u64 = 1_000;
/// The task that kills its worker.
const DEADLY: u64 = 500;
/// Tasks that are submitted once the pool has seen a death.
const LATER: u64 = 100;

/// Kinds of tasks.
const SQUARE: u32 = 0;
const DIE: u32 = 1;
const BEAT: u32 = 2;

type Figures = Result<String, String>;
type Experiment = fn() -> Figures;

/// Runs the experiments one by one, and hands each line to `observer`. True: ours passed them all. This process must have
/// one thread.
///
/// # Errors
/// What could not be carried out.
pub(crate) fn run(observer: &mut dyn FnMut(&str)) -> Result<bool, TortureError> {
    let experiments: [(&str, Experiment); 5] = [
        ("broken-pool", broken_pool),
        ("hanging-pool", hanging_pool),
        ("dead-lock-holder", dead_lock_holder),
        ("too-little-memory", too_little_memory),
        ("sample-shape", sample_shape),
    ];
    let mut passed = true;
    for (name, experiment) in experiments {
        let (line, is_passed) = in_a_process(experiment)?;
        observer(&format!("{name} {line}"));
        passed &= is_passed;
    }
    Ok(passed)
}

fn in_a_process(experiment: Experiment) -> Result<(String, bool), TortureError> {
    let null = File::open("/dev/null").map_err(|e| os("open /dev/null")(errno(&e)))?;
    let Spawned { child, stdout, stderr } = spawn(&[null.as_fd()], || match experiment() {
        Ok(figures) => {
            print!("{figures}");
            0
        }
        Err(why) => {
            print!("FAILED: {why}");
            1
        }
    })
    .map_err(os("fork a process"))?;
    let mut fds = [PollFd::new(child.as_fd(), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
    let hangs = poll(&mut fds, limit).map_err(os("wait for an experiment"))? == 0;
    if hangs {
        child.signal(Signal::SIGKILL).map_err(os("kill a process"))?;
        poll(&mut fds, PollTimeout::NONE).map_err(os("wait for an experiment"))?;
    }
    let exit = child.try_reap().unwrap_or(Exit::Unknown);
    let mut said = String::new();
    for pipe in [stdout, stderr] {
        // It may be empty, and a process that the experiment has left may hold it open.
        let _ = File::from(pipe).read_to_string(&mut said);
    }
    match exit {
        Exit::Code(0 | 1) => {}
        _ if hangs => said += "FAILED: it hangs",
        _ => said += &format!("FAILED: it ended with {exit}"),
    }
    Ok((said, exit == Exit::Code(0)))
}

fn errno(e: &std::io::Error) -> Errno {
    Errno::from_raw(e.raw_os_error().unwrap_or(0))
}

fn text(e: impl Display) -> String {
    e.to_string()
}

// ---- tasks --------------------------------------------------------------------------------------------------------------

fn submit(client: &Endpoint, kind: u32, tag: u64, max_attempts: u8) -> Result<(), String> {
    let mut draft = client.draft(size_of::<u64>()).map_err(text)?;
    draft.payload().map_err(text)?.copy_from_slice(&tag.to_ne_bytes());
    draft.submit(Submission { kind, tag, max_attempts, ..Submission::new(To::Queue(QUEUE)) }).map(drop).map_err(text)
}

/// The next result: its tag, and its value or the end of its worker. Sleeps until there is one.
fn receive(client: &Endpoint) -> Result<(u64, Result<u64, Exit>), String> {
    loop {
        let Some(done) = client.take().map_err(text)? else {
            client.park(&[], None, || false);
            continue;
        };
        let value = match done.outcome() {
            Outcome::Completed => {
                done.output().map_err(text)?.try_into().map(u64::from_ne_bytes).map_err(text).map(Ok)?
            }
            Outcome::WorkerDied => Err(Exit::unpack(done.exit())),
            outcome => return Err(format!("task {} ended as {outcome:?}", done.tag())),
        };
        return Ok((done.tag(), value));
    }
}

/// As `map` of a pool: all results, in the order of the inputs.
fn map(client: &Endpoint, tags: std::ops::Range<u64>) -> Result<Vec<Result<u64, Exit>>, String> {
    for tag in tags.clone() {
        submit(client, if tag == DEADLY { DIE } else { SQUARE }, tag, 1)?;
    }
    let mut results: Vec<_> = tags.clone().map(|_| None).collect();
    for _ in tags.clone() {
        let (tag, value) = receive(client)?;
        let slot =
            results.get_mut((tag - tags.start) as usize).ok_or_else(|| format!("nobody asked for task {tag}"))?;
        if slot.replace(value).is_some() {
            return Err(format!("task {tag} came back twice"));
        }
    }
    Ok(results.into_iter().flatten().collect())
}

/// Of these results, how many are right; and how the workers of the others ended.
fn count(results: &[Result<u64, Exit>], first: u64) -> (usize, Vec<Exit>) {
    let is_right = |(tag, result): (u64, &Result<u64, Exit>)| *result == Ok(tag * tag);
    let right = (first..).zip(results).filter(|pair| is_right(*pair)).count();
    (right, results.iter().filter_map(|r| r.err()).collect())
}

/// One task in a worker.
fn answer(task: Claimed<'_>, tag: u64, beats: &Beats) -> Result<(), String> {
    match task.kind() {
        DIE => {
            let _ = kill(getpid(), Signal::SIGKILL);
        }
        BEAT => beats.run(tag as usize),
        _ => {}
    }
    let value = (tag * tag).to_ne_bytes();
    task.complete(STATUS_OK, value.len(), |output| output.copy_from_slice(&value)).map_err(|(e, _)| text(e))
}

/// A worker with one slot.
fn work(endpoint: &Endpoint, beats: &Beats) -> Result<(), String> {
    let control = &endpoint.segment().header().control;
    while let Some(task) =
        endpoint.next(&[endpoint.queue(QUEUE)], || Mode::of(control) == Mode::Stopping).map_err(text)?
    {
        let tag = task.input().map_err(text)?.try_into().map(u64::from_ne_bytes).map_err(text)?;
        answer(task, tag, beats)?;
    }
    Ok(())
}

fn exit_code(result: Result<(), String>) -> u8 {
    result.map_or_else(
        |why| {
            eprintln!("{why}");
            1
        },
        |()| 0,
    )
}

// ---- a whole pool, with its coordinator -----------------------------------------------------------------------------------

/// Runs `client` on a pool of so many workers; it returns figures, to which those of the pool are added.
fn with_pool(workers: usize, client: fn(&Endpoint, &Beats) -> Figures) -> Figures {
    // SAFETY: beats are atomic words, of which zero is a value.
    let beats: &'static Beats = unsafe { shared() }.map_err(text)?;
    let specs = vec![
        Spec {
            name: "client",
            role: Role::Client,
            count: 1,
            main: Box::new(move |seat| be_client(seat, client, beats)),
        },
        Spec {
            name: "worker",
            role: Role::Worker,
            count: workers,
            main: Box::new(move |seat| exit_code(work(seat.endpoint, beats))),
        },
    ];
    let (mut said, mut complaints, mut respawned) = (String::new(), String::new(), 0);
    let mut observer = |event: Event<'_>| match event {
        Event::Output { is_error: false, line, .. } => said += line,
        Event::Output { is_error: true, label, line } => complaints += &format!("{label}: {line}; "),
        Event::Died { restart_in: Some(_), .. } => respawned += 1,
        _ => {}
    };
    let pool = Coordinator::new(&Options::with_queues(["tasks"]), specs, PATIENCE, &mut observer);
    let summary = pool.and_then(|pool| pool.run(None)).map_err(text)?;
    if !complaints.is_empty() || !summary.audit.is_clean() || summary.unsound + summary.killed > 0 {
        return Err(format!("{complaints}{} killed at the end, {}", summary.killed, summary.audit));
    }
    Ok(format!("{said} respawned={respawned}"))
}

/// Says what came out, and asks the coordinator to end the pool.
fn be_client(seat: Seat, client: fn(&Endpoint, &Beats) -> Figures, beats: &Beats) -> u8 {
    seat.ready();
    let code = exit_code(client(seat.endpoint, beats).map(|figures| println!("{figures}")));
    let is_draining = || Mode::of(&seat.endpoint.segment().header().control) >= Mode::Draining;
    if kill(getppid(), Signal::SIGTERM).is_err() {
        return 1;
    }
    while !is_draining() {
        seat.endpoint.park(&[], None, is_draining);
    }
    code
}

/// 1 of 1,000 tasks kills its worker; what comes back, and does the pool still serve?
fn broken_pool() -> Figures {
    with_pool(4, |client, _| {
        let (ok, reported) = count(&map(client, 0..TASKS)?, 0);
        let (later, _) = count(&map(client, TASKS..TASKS + LATER)?, TASKS);
        let by: Vec<_> = reported.iter().map(Exit::to_string).collect();
        let figures = format!(
            "tasks={TASKS} ok={ok} reported={} by='{}' later={later} of {LATER}",
            reported.len(),
            by.join(", ")
        );
        let killed = [Exit::Signal(Signal::SIGKILL as u8)];
        if ok as u64 == TASKS - 1 && reported == killed && later as u64 == LATER { Ok(figures) } else { Err(figures) }
    })
}

/// The same, ten times in a row without a pause: does each `map` return?
fn hanging_pool() -> Figures {
    with_pool(4, |client, _| {
        let maps = 10;
        let (mut returned, mut ok, mut reported) = (0, 0, 0);
        for _ in 0..maps {
            let results = map(client, 0..TASKS)?;
            let (right, died) = count(&results, 0);
            returned += results.len();
            ok += right;
            reported += died.len();
        }
        let figures = format!("maps={maps} returned={returned} ok={ok} reported={reported}");
        let wanted = maps * TASKS as usize;
        if (returned, ok, reported) == (wanted, wanted - maps, maps) { Ok(figures) } else { Err(figures) }
    })
}

/// A task of a long life in each worker. Relaxed, as each word is a sign by itself, but for the count.
#[repr(C)]
struct Beats {
    is_over: AtomicU64,
    tasks: [Beat; 3],
}

#[repr(C)]
struct Beat {
    pid: AtomicU64,
    count: AtomicU64,
}

impl Beats {
    /// In a worker: beats until all is over.
    fn run(&self, task: usize) {
        let beat = &self.tasks[task];
        beat.pid.store(std::process::id().into(), Relaxed);
        while self.is_over.load(Relaxed) == 0 {
            beat.count.fetch_add(1, Release); // who sees the beat sees whose it is
            std::thread::yield_now();
        }
    }

    /// Waits until a task has gone on, and says in which process.
    fn follow(&self, task: usize) -> u64 {
        let beat = &self.tasks[task];
        let seen = beat.count.load(Acquire);
        while beat.count.load(Acquire) < seen + 100 {
            std::thread::yield_now();
        }
        beat.pid.load(Relaxed)
    }
}

/// Three workers with a long task each, as the sample of Temporal's Python SDK has them; one is killed.
fn sample_shape() -> Figures {
    with_pool(3, |client, beats| {
        (0..3).try_for_each(|tag| submit(client, BEAT, tag, u8::MAX))?;
        let before = [0, 1, 2].map(|task| beats.follow(task));
        // Nobody reaps it but the coordinator, which doesn't until it is dead: the number can't be another's by now.
        kill(Pid::from_raw(before[0] as i32), Signal::SIGKILL).map_err(text)?;
        while beats.tasks[0].pid.load(Relaxed) == before[0] {
            std::thread::yield_now();
        }
        let after = [0, 1, 2].map(|task| beats.follow(task));
        beats.is_over.store(1, Relaxed);
        let results = [(); 3].map(|()| receive(client)).into_iter().collect::<Result<Vec<_>, _>>()?;
        let finished = results.iter().filter(|(_, value)| value.is_ok()).count();
        let survivors = (1..3).filter(|i| before[*i] == after[*i]).count();
        let figures = format!("survivors={survivors} of 2 finished={finished} of 3");
        if (survivors, finished) == (2, 3) { Ok(figures) } else { Err(figures) }
    })
}

// ---- lanes alone ----------------------------------------------------------------------------------------------------------

/// Of four consumers that sleep in a receive one is killed, and no other takes its place.
fn dead_lock_holder() -> Figures {
    let segment = Arc::new(Segment::create(Geometry::new(64, 1)).map_err(text)?);
    let table = segment.table();
    let admit = || table.admit(0, 0).map_err(text)?.ok_or_else(|| "no participant is left".to_owned());
    let (me, client) = (admit()?, Endpoint::new(segment.clone(), admit()?));
    let null = File::open("/dev/null").map_err(text)?;
    // SAFETY: beats are atomic words, of which zero is a value.
    let beats: &'static Beats = unsafe { shared() }.map_err(text)?;
    let mut consumers = Vec::new();
    for _ in 0..4 {
        let name = admit()?;
        let main = || exit_code(work(&Endpoint::new(segment.clone(), name), beats));
        consumers.push((name, spawn(&[null.as_fd()], main).map_err(text)?.child));
    }
    for (name, child) in &consumers {
        while !table.participants[name.id() as usize].is_asleep() || state(child.pid) != Some('S') {
            std::thread::yield_now();
        }
    }
    let (dead, child) = consumers.remove(0);
    child.signal(Signal::SIGKILL).map_err(text)?;
    poll(&mut [PollFd::new(child.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).map_err(text)?;
    let exit = child.try_reap().unwrap_or(Exit::Unknown);
    table.recover(&Cursors::new(table), me, dead, Death::of(exit.pack())).map_err(|e: Corrupted| text(e))?;
    (0..LATER).try_for_each(|tag| submit(&client, SQUARE, tag, 1))?;
    let mut got = HashSet::new();
    for _ in 0..LATER {
        got.insert(receive(&client)?.0);
    }
    let figures = format!("survivors={} got={} of {LATER}", consumers.len(), got.len());
    if got.len() as u64 == LATER && table.audit().is_clean() { Ok(figures) } else { Err(figures) }
}

/// More than may be had, for a segment and for a payload: errors with both numbers, and no SIGBUS over what was accepted.
fn too_little_memory() -> Figures {
    const LIMIT: u64 = 1 << 20;
    let geometry = Geometry::new(64, 1);
    let layout = Layout::of(&geometry).ok_or("no segment has this geometry")?;
    // Room for the head of the segment, and for three chunks of the smallest blocks.
    let submissions = match own_shm(layout.arena + (3 << 20)) {
        Ok(()) => fill_shm(geometry)?,
        Err(e) => format!("submissions='skipped: no file system of its own can be had here ({e})'"),
    };
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).map_err(text)?;
    setrlimit(Resource::RLIMIT_FSIZE, LIMIT.min(hard), hard).map_err(text)?;
    let wanted = layout.total as u64;
    match Segment::create(geometry) {
        Err(SegmentCreateError::NoSpace(s)) if (s.limit, s.wanted, s.free) == (Limit::FileSize, wanted, LIMIT) => {
            Ok(format!("segment='{s}' {submissions}"))
        }
        Err(other) => Err(format!("not the limit on file sizes: {other}")),
        Ok(_) => Err(format!("a segment of {wanted} bytes was made though {LIMIT} are the limit")),
    }
}

/// Gives this process a /dev/shm of this size, which ends with it.
fn own_shm(bytes: usize) -> Result<(), std::io::Error> {
    let (user, group) = (geteuid(), getegid());
    if unshare(CloneFlags::CLONE_NEWNS).is_err() {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
        // Files belong to users that the namespace knows (`user_namespaces(7)`).
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
        std::fs::write("/proc/self/gid_map", format!("{group} {group} 1"))?;
    }
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let (options, none) = (format!("size={bytes}"), MsFlags::empty());
    Ok(mount(Some("shmworker-torture"), "/dev/shm", Some("tmpfs"), none, Some(options.as_str()))?)
}

/// Submits until /dev/shm is full; whatever was accepted comes back whole, and then there is room again.
fn fill_shm(geometry: Geometry) -> Figures {
    let options = Options { backing: Backing::Named("torture".to_owned()), ..Options::with_queues(["tasks"]) };
    let segment = Arc::new(Segment::create_with(geometry, &options).map_err(text)?);
    let table = segment.table();
    let admit = || table.admit(0, 0).map_err(text)?.ok_or_else(|| "no participant is left".to_owned());
    let (client, worker) = (Endpoint::new(segment.clone(), admit()?), Endpoint::new(segment.clone(), admit()?));
    let payload = |tag: u64| [tag as u8; 3000];
    let submit = |tag| client.try_submit(Submission { tag, ..Submission::new(To::Queue(QUEUE)) }, &payload(tag));
    let mut accepted = 0;
    let refused = loop {
        match submit(accepted) {
            Ok(_) => accepted += 1,
            Err(SubmitError::NoSpace(e @ NoSpace::NoMemory { shortage: Shortage { limit, wanted, free, .. }, .. }))
                if limit == Limit::FileSystem && free < wanted =>
            {
                break e;
            }
            Err(other) => return Err(format!("after {accepted} payloads: {other}")),
        }
    };
    let mut delivered = 0;
    while let Some(task) = worker.claim(worker.queue(QUEUE)).map_err(text)? {
        let seen = <[u8; 3000]>::try_from(task.input().map_err(text)?).map_err(text)?;
        task.complete(STATUS_OK, 0, |_| {}).map_err(|(e, _)| text(e))?;
        let done = client.take().map_err(text)?;
        delivered += u64::from(done.is_some_and(|done| payload(done.tag()) == seen));
    }
    submit(0).map_err(|e| format!("there is room again: {e}"))?;
    let figures = format!("accepted={accepted} delivered={delivered} refused='{refused}'");
    if accepted > 0 && delivered == accepted { Ok(figures) } else { Err(figures) }
}
