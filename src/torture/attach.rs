//! Attaching, with all that may go wrong: each scene is played by processes of its own around a real coordinator.
//!
//! This process has one thread and stays alone in that: whoever attaches, which starts a thread, is forked from it.

use super::{TortureError, forked, os};
use crate::{
    exec::endpoint::{Endpoint, Submission, SubmitError, To, WaitError},
    lockfree::{
        descriptor::Limits,
        participant::Name,
        word::{Outcome as End, Phase},
    },
    mem::segment::{Options, Segment},
    process::{
        Mode,
        attach::{self, AttachError, Refusal},
        coordinator::{Coordinator, Event, Role, Seat, Spec},
        names::{self, Listener, NameError},
    },
};
use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    sys::{
        signal::{Signal, kill},
        socket::{MsgFlags, send},
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, Uid, fork, geteuid, seteuid},
};
use std::{
    fs::read_dir,
    io::{PipeReader, PipeWriter, Read, Write, pipe},
    os::fd::AsRawFd,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

/// The queue of the workers, and one that nobody looks after.
const SERVED: To = To::Queue(0);
const UNSERVED: To = To::Queue(1);
const WORKERS: usize = 2;
const ROUNDS: usize = 1000;
const TASKS: u64 = 1000;
/// More than the coordinator keeps before its door.
const SILENT: usize = 80;

/// What a scene came to: figures, or what is wrong.
type Outcome = Result<String, String>;

fn text(e: impl std::fmt::Display) -> String {
    e.to_string()
}

/// A coordinator in a process of its own.
struct Pool {
    name: String,
    pid: Pid,
}

impl Pool {
    /// Starts one, and waits until it runs.
    fn start(name: &str) -> Result<Pool, TortureError> {
        let (mut ready, writer) = new_pipe()?;
        let pid = forked(|| exit_code(coordinate(name, writer)))?;
        let _ = ready.read(&mut [0]); // at its end, too: the scenes then say what is missing
        Ok(Pool { name: name.to_owned(), pid })
    }

    /// Ends it in order. It looks after its segment itself.
    fn stop(self) -> Outcome {
        kill(self.pid, Signal::SIGTERM).map_err(text)?;
        ended_well(self.pid, "the coordinator")?;
        Ok(String::new())
    }
}

fn new_pipe() -> Result<(PipeReader, PipeWriter), TortureError> {
    pipe().map_err(|e| os("make a pipe")(Errno::from_raw(e.raw_os_error().unwrap_or(0))))
}

fn coordinate(name: &str, mut ready: PipeWriter) -> Outcome {
    let workers = Spec {
        name: "worker",
        role: Role::Worker,
        count: WORKERS,
        main: Box::new(|seat: Seat| exit_code(work(seat.endpoint))),
    };
    let mut observer = |event: Event<'_>| {
        if matches!(event, Event::Started) {
            let _ = ready.write_all(&[0]);
        }
    };
    let options = Options::with_queues(["served", "unserved"]);
    let coordinator =
        Coordinator::new(&options, vec![workers], Duration::from_secs(10), &mut observer).map_err(text)?;
    let summary = coordinator.listen(Some(name)).map_err(text)?.run(None).map_err(text)?;
    if summary.unsound == 0 && summary.audit.is_clean() {
        Ok(String::new())
    } else {
        Err(format!("at the end: {}", summary.audit))
    }
}

/// Answers each task with its input.
fn work(endpoint: &Endpoint) -> Outcome {
    let is_over = || Mode::of(&endpoint.segment().header().control) == Mode::Stopping;
    while let Some(task) = endpoint.next(&[endpoint.queue(0)], is_over).map_err(text)? {
        let input = task.input().map_err(text)?.to_vec();
        task.complete(0, input.len(), |output| output.copy_from_slice(&input)).map_err(|(e, _)| text(e))?;
    }
    Ok(String::new())
}

fn exit_code(outcome: Outcome) -> u8 {
    outcome.map_or_else(
        |fault| {
            eprintln!("{fault}");
            1
        },
        |_| 0,
    )
}

fn ended_well(pid: Pid, who: &str) -> Result<(), String> {
    match waitpid(pid, None) {
        Ok(WaitStatus::Exited(_, 0)) => Ok(()),
        other => Err(format!("{who} ended with {other:?}")),
    }
}

/// What a process of its own has to say at its end.
fn by_another(main: impl FnOnce() -> Outcome) -> Outcome {
    let (mut reader, mut writer) = new_pipe().map_err(text)?;
    let child = forked(|| {
        exit_code(main().inspect(|figures| {
            let _ = writer.write_all(figures.as_bytes());
        }))
    })
    .map_err(text)?;
    drop(writer);
    let mut figures = String::new();
    reader.read_to_string(&mut figures).map_err(text)?;
    ended_well(child, "the process").map(|()| figures)
}

/// A process that says when it is where it should be, and then goes on until its end.
fn in_place(main: impl FnOnce(&mut dyn FnMut(u64)) -> Outcome) -> Result<(Pid, u64), String> {
    let (mut reader, mut writer) = new_pipe().map_err(text)?;
    let child = forked(|| {
        exit_code(main(&mut |word| {
            let _ = writer.write_all(&word.to_ne_bytes());
        }))
    })
    .map_err(text)?;
    drop(writer);
    let mut word = [0; 8];
    reader.read_exact(&mut word).map_err(|_| "a process ended before it was in place".to_owned())?;
    Ok((child, u64::from_ne_bytes(word)))
}

/// Submits tasks of several sizes and takes all results.
fn round_trips(endpoint: &Endpoint, tasks: u64) -> Result<(), String> {
    let payload = |tag: u64| vec![tag as u8; (tag % 3 * 3000) as usize];
    let (mut submitted, mut taken) = (0, 0);
    while taken < tasks {
        while submitted < tasks && submitted < taken + 64 {
            let s = Submission { tag: submitted, ..Submission::new(SERVED) };
            endpoint.try_submit(s, &payload(submitted)).map_err(text)?;
            submitted += 1;
        }
        let result = endpoint.wait(|| false).map_err(text)?.ok_or("nobody stopped it")?;
        if result.output().map_err(text)? != payload(result.tag()) {
            return Err(format!("task {} comes back wrong", result.tag()));
        }
        taken += 1;
    }
    Ok(())
}

fn count_fds(pid: i32) -> Result<usize, String> {
    Ok(read_dir(format!("/proc/{pid}/fd")).map_err(text)?.count())
}

/// Nothing is in use, and no invariant violated.
fn is_clean(pool: &Pool) -> Result<(), String> {
    let audit = attach::observe(&pool.name).map_err(text)?.table().audit();
    if audit.is_clean() { Ok(()) } else { Err(text(audit)) }
}

// ---- scenes ---------------------------------------------------------------------------------------------------------

fn works(pool: &Pool) -> Outcome {
    by_another(|| {
        let attached = attach::attach(&pool.name).map_err(text)?;
        if attached.coordinator() != pool.pid.as_raw() {
            return Err(format!("another coordinator answers: pid {}", attached.coordinator()));
        }
        round_trips(attached.endpoint(), TASKS)?;
        Ok(format!("tasks={TASKS}"))
    })?;
    // By the process id as well, and twice at once in one process.
    by_another(|| {
        let by_pid = pool.pid.to_string();
        let both = [attach::attach(&by_pid).map_err(text)?, attach::attach(&pool.name).map_err(text)?];
        both.iter().try_for_each(|a| round_trips(a.endpoint(), 10)).map(|()| format!("tasks={}", TASKS + 20))
    })
}

/// A client is killed with one of everything in its hands.
fn client_killed(pool: &Pool) -> Outcome {
    let (victim, bits) = in_place(|ready| {
        let attached = attach::attach(&pool.name).map_err(text)?;
        let endpoint = attached.endpoint();
        let _drafts = [endpoint.draft(10).map_err(text)?, endpoint.draft(10_000).map_err(text)?];
        for len in [0, 10, 1000, 100_000] {
            for to in [SERVED, UNSERVED] {
                endpoint.try_submit(Submission::new(to), &vec![1; len]).map_err(text)?;
            }
        }
        let table = endpoint.segment().table();
        let finished = || {
            (0..table.descriptors.len() as u16).filter(|&i| {
                let word = table.load(i);
                matches!(word.phase(), Some(Phase::Done(_))) && word.who() == endpoint.name().id()
            })
        };
        while finished().count() < 4 {
            std::thread::yield_now();
        }
        let _taken = endpoint.take().map_err(text)?;
        ready(endpoint.name().bits());
        loop {
            std::thread::park();
        }
    })?;
    let dead = Name::of(bits);
    kill(victim, Signal::SIGKILL).map_err(text)?;
    let _ = waitpid(victim, None);
    by_another(|| {
        let attached = attach::attach(&pool.name).map_err(text)?;
        let (heir, results) = (attached.endpoint().name(), attached.endpoint().take().map_err(text)?);
        if heir.id() != dead.id() || heir == dead || results.is_some() {
            return Err(format!("{heir:?} follows on {dead:?} and has results: {}", results.is_some()));
        }
        round_trips(attached.endpoint(), 10).map(|()| String::new())
    })?;
    is_clean(pool).map(|()| format!("heir_of={dead:?}"))
}

/// Those who connect and say nothing are in nobody's way.
fn silent_peers(pool: &Pool) -> Outcome {
    let connections = || names::connect_to(&pool.name, 1).map_err(text)?.ok_or_else(|| "nobody listens".to_owned());
    let _held: Vec<_> = (0..SILENT).map(|_| connections()).collect::<Result<_, _>>()?;
    works(pool).map(|_| format!("peers={SILENT}"))
}

fn garbage(pool: &Pool) -> Outcome {
    let messages: [&[u8]; 6] = [&[], &[0], &[0; 32], &[0xff; 32], &[b's'; 33], &[7; 10_000]];
    for bytes in messages {
        let socket = names::connect_to(&pool.name, 10).map_err(text)?.ok_or("nobody listens")?;
        send(socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL).map_err(text)?;
        // Our own request follows, and is not read.
        match attach::observe_over(&pool.name, socket) {
            Err(AttachError::Refused { why: Refusal::AnotherVersion, .. } | AttachError::Unexpected(_)) => {}
            Err(other) => return Err(format!("{} bytes: {other}", bytes.len())),
            Ok(_) => return Err(format!("{} bytes are taken for a request", bytes.len())),
        }
    }
    works(pool).map(|_| format!("messages={}", messages.len()))
}

fn same_name(pool: &Pool) -> Outcome {
    match Listener::open(&pool.name) {
        Err(NameError::InUse { pid: Some(pid), .. }) if pid == pool.pid.as_raw() => Ok(format!("in_use_by={pid}")),
        Err(other) => Err(text(other)),
        Ok(_) => Err("two pools have one name".to_owned()),
    }
}

fn is_refused(result: Result<Segment, AttachError>, wanted: Refusal) -> Outcome {
    match result {
        Err(AttachError::Refused { why, .. }) if why == wanted => Ok(format!("refused={why:?}")),
        Err(other) => Err(text(other)),
        Ok(_) => Err("let in".to_owned()),
    }
}

fn over(path: &Path, name: &str) -> Result<Segment, AttachError> {
    let socket = names::knock(path, 10).map_err(|e| AttachError::Os {
        step: "connect to",
        name: name.to_owned(),
        source: e.into(),
    })?;
    attach::observe_over(name, socket.ok_or_else(|| AttachError::Unexpected(name.to_owned()))?)
}

/// The directory keeps others out; whoever gets past it is refused at the door.
fn another_user(pool: &Pool, path: &Path) -> Outcome {
    if !geteuid().is_root() {
        return Ok("skipped: it takes root to be another user".to_owned());
    }
    const NOBODY: u32 = 65534;
    by_another(|| {
        seteuid(Uid::from_raw(NOBODY)).map_err(text)?;
        match attach::observe(&pool.name) {
            Err(AttachError::NotRunning { .. }) => {}
            Err(other) => return Err(text(other)),
            Ok(_) => return Err("let in".to_owned()),
        }
        nix::unistd::setfsuid(Uid::from_raw(0)); // for the look at the path alone
        is_refused(over(path, &pool.name), Refusal::AnotherUser(0))
    })
}

fn another_pid_namespace(pool: &Pool, path: &Path) -> Outcome {
    by_another(|| {
        let flags = CloneFlags::CLONE_NEWPID;
        if let Err(e) = unshare(flags).or_else(|_| unshare(flags | CloneFlags::CLONE_NEWUSER)) {
            return Ok(format!("skipped: no new namespace can be made ({e})"));
        }
        // The next child is the first process of the new namespace.
        // SAFETY: this process has one thread.
        match unsafe { fork() }.map_err(text)? {
            ForkResult::Child => {
                let code = exit_code(is_refused(over(path, &pool.name), Refusal::AnotherPidNamespace));
                // SAFETY: `_exit` ends the process at once: no destructor of the parent's copies runs.
                unsafe { libc::_exit(code.into()) }
            }
            ForkResult::Parent { child } => ended_well(child, "the process in another PID namespace")
                .map(|()| format!("refused={:?}", Refusal::AnotherPidNamespace)),
        }
    })
}

/// Attached and detached again and again: no id, no descriptor and no thread is left behind.
fn rounds(pool: &Pool) -> Outcome {
    by_another(|| {
        let me = std::process::id() as i32;
        let look = || {
            let attached = attach::attach(&pool.name).map_err(text)?;
            let threads = read_dir("/proc/self/task").map_err(text)?.count();
            Ok::<_, String>((attached.endpoint().name(), [count_fds(pool.pid.as_raw())?, count_fds(me)?, threads]))
        };
        let (first, before) = look()?;
        for round in 1..=ROUNDS {
            let attached = attach::attach(&pool.name).map_err(text)?;
            let name = attached.endpoint().name();
            if name.id() != first.id() || name.incarnation() != first.incarnation() + round as u64 {
                return Err(format!("round {round} has {name:?}, where the first had {first:?}"));
            }
            // Some leave work behind.
            if round % 10 == 0 {
                attached.endpoint().try_submit(Submission::new(UNSERVED), &[1; 1000]).map_err(text)?;
            }
        }
        let (_, after) = look()?;
        if before == after { Ok(format!("rounds={ROUNDS}")) } else { Err(format!("{before:?} became {after:?}")) }
    })
    .and_then(|figures| is_clean(pool).map(|()| figures))
}

/// Another command of this program: whether it ended well, and what it said.
fn command(args: &[&str]) -> Result<(bool, String, String), String> {
    let output = Command::new("/proc/self/exe").args(args).output().map_err(text)?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.success(), text(&output.stdout), text(&output.stderr)))
}

/// `shmworker clean`: it says this, and the socket is there or gone afterwards.
fn cleans(args: &[&str], said: &str, path: &Path, is_there: bool) -> Result<(), String> {
    match command(&[&["clean"], args].concat())? {
        (true, stdout, stderr) if stdout == said && stderr.is_empty() && path.exists() == is_there => Ok(()),
        other => Err(format!("{args:?}: {other:?}, and the socket is there: {}", path.exists())),
    }
}

/// `shmworker inspect` of a pool that runs, by its name and by its process id, and of one that doesn't.
fn inspected(pool: &Pool) -> Outcome {
    by_another(|| {
        let attached = attach::attach(&pool.name).map_err(text)?;
        attached.endpoint().try_submit(Submission::new(UNSERVED), &[1; 1000]).map_err(text)?;
        let row = format!("{}  attached", std::process::id());
        let wanted = [&*row, "coordinator", "worker:1", "1 ready", "1 attached", "no invariant is violated"];
        for what in [&pool.name, &pool.pid.to_string()] {
            let (is_well, stdout, stderr) = command(&["inspect", what])?;
            if !is_well || wanted.iter().any(|w| !stdout.contains(w)) {
                return Err(format!("{wanted:?} are not all in: {stdout}{stderr}"));
            }
        }
        let (is_well, _, stderr) = command(&["inspect", "none-of-ours"])?;
        match !is_well && stderr.contains(&format!("{} (pid {})", pool.name, pool.pid)) {
            true => Ok(String::new()),
            false => Err(format!("those that run are not named in: {stderr}")),
        }
    })
}

/// Who has attached to work, and takes too long, is killed for it like a child.
fn too_late(pool: &Pool) -> Outcome {
    let (worker, _) = in_place(|ready| {
        let attached = attach::attach(&pool.name).map_err(text)?;
        let endpoint = attached.endpoint();
        ready(0);
        let _task = endpoint.next(&[endpoint.queue(1)], || false).map_err(text)?;
        loop {
            std::thread::park();
        }
    })?;
    by_another(|| {
        let attached = attach::attach(&pool.name).map_err(text)?;
        let limits = Limits { run_ms: 1, silence_ms: 0 };
        attached.endpoint().try_submit(Submission { limits, ..Submission::new(UNSERVED) }, b"").map_err(text)?;
        match attached.endpoint().wait(|| false).map_err(text)?.map(|result| result.outcome()) {
            Some(End::TimedOut) => Ok(String::new()),
            other => Err(format!("it ends as {other:?}")),
        }
    })?;
    match waitpid(worker, None) {
        Ok(WaitStatus::Signaled(_, Signal::SIGKILL, _)) => is_clean(pool).map(|()| String::new()),
        other => Err(format!("the worker ended with {other:?}")),
    }
}

/// The coordinator is killed while clients wait for a result, for room, for work, and while one never waits.
fn coordinator_killed(pool: &Pool) -> Outcome {
    let waits_for_result = in_place(|ready| {
        let attached = attach::attach(&pool.name).map_err(text)?;
        attached.endpoint().try_submit(Submission::new(UNSERVED), b"").map_err(text)?;
        ready(0);
        match attached.endpoint().wait(|| false) {
            Err(WaitError::CoordinatorDied(_)) => Ok(String::new()),
            other => Err(format!("the wait for a result: {:?}", other.map(|o| o.is_some()))),
        }
    })?;
    let submits_on = in_place(|ready| {
        let attached = attach::attach(&pool.name).map_err(text)?;
        ready(0);
        loop {
            match attached.endpoint().try_submit(Submission::new(SERVED), b"x") {
                Ok(_) => while attached.endpoint().take().map_err(text)?.is_some() {},
                Err(e) if e.is_transient() => {}
                Err(SubmitError::CoordinatorDied(_)) => return Ok(String::new()),
                Err(other) => return Err(format!("a submission: {other}")),
            }
        }
    })?;
    let waits_for_work = in_place(|ready| {
        let attached = attach::attach(&pool.name).map_err(text)?;
        let endpoint = attached.endpoint();
        ready(0);
        // Tasks of the queue that the next client fills.
        while let Some(task) = endpoint.next(&[], || false).map_err(text)? {
            drop(task);
        }
        Ok(String::new())
    })?;
    let waits_for_room = in_place(|ready| {
        let attached = attach::attach(&pool.name).map_err(text)?;
        while attached.endpoint().try_submit(Submission::new(UNSERVED), b"").is_ok() {}
        ready(0);
        match attached.endpoint().submit(Submission::new(UNSERVED), b"", || false) {
            Err(SubmitError::CoordinatorDied(_)) => Ok(String::new()),
            // The one that never waits makes room now and then.
            Ok(Some(_)) => match attached.endpoint().wait(|| false) {
                Err(WaitError::CoordinatorDied(_)) => Ok(String::new()),
                other => Err(format!("the wait after a submission: {:?}", other.map(|o| o.is_some()))),
            },
            other => Err(format!("the wait for room: {other:?}")),
        }
    })?;
    let killed = Instant::now();
    kill(pool.pid, Signal::SIGKILL).map_err(text)?;
    let _ = waitpid(pool.pid, None);
    let clients = [waits_for_result, submits_on, waits_for_work, waits_for_room];
    clients.into_iter().try_for_each(|(pid, _)| ended_well(pid, "a client"))?;
    Ok(format!("clients={} all_returned_after={:.0?}", clients.len(), killed.elapsed()))
}

/// The living keep their socket; that of a dead coordinator is removed. The pool is over then.
fn cleaned(pool: &Pool, path: &Path) -> Outcome {
    cleans(&[&pool.name], "nothing is left over\n", path, true)?;
    works(pool)?;
    kill(pool.pid, Signal::SIGKILL).map_err(text)?;
    let _ = waitpid(pool.pid, None);
    let line = path.display();
    cleans(&[&pool.name, "--dry-run"], &format!("would remove {line}\n"), path, true)?;
    cleans(&[&pool.name], &format!("removed {line}\n"), path, false)?;
    cleans(&[&pool.name], "nothing is left over\n", path, false)?;
    Ok(String::new())
}

/// Plays all scenes, says what each came to, and returns how many failed.
///
/// # Errors
/// [`TortureError`] where they can't be played.
pub(crate) fn run(say: &mut dyn FnMut(String)) -> Result<usize, TortureError> {
    let name = format!("torture-{}", std::process::id());
    let mut failed = 0;
    let mut play = |scene: &str, outcome: Outcome| match outcome {
        Ok(figures) => say(format!("{scene} {figures}").trim_end().to_owned()),
        Err(fault) => {
            failed += 1;
            say(format!("{scene} FAILED: {fault}"));
        }
    };
    let pool = Pool::start(&name)?;
    let path = names::path_of(&name)?;
    play("work", works(&pool));
    play("client-killed", client_killed(&pool));
    play("silent-peers", silent_peers(&pool));
    play("garbage", garbage(&pool));
    play("same-name", same_name(&pool));
    play("another-user", another_user(&pool, &path));
    play("another-pid-namespace", another_pid_namespace(&pool, &path));
    play("rounds", rounds(&pool));
    play("inspected", inspected(&pool));
    play("too-late", too_late(&pool));
    play("coordinator-killed", coordinator_killed(&pool));
    let stale = if path.exists() { "left" } else { "gone" };
    let pool = Pool::start(&name)?;
    play("stale-socket", works(&pool).map(|_| format!("socket={stale}")));
    play("cleaned", cleaned(&pool, &path));
    let pool = Pool::start(&name)?;
    play(
        "end",
        pool.stop().and_then(|_| match attach::observe(&name) {
            Err(AttachError::NotRunning { .. }) if !path.exists() => Ok(String::new()),
            Err(other) => Err(text(other)),
            Ok(_) => Err("it runs on".to_owned()),
        }),
    );
    Ok(failed)
}
