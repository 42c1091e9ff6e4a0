//! Fencing: what is taken from a process, and when.
//!
//! A worker sleeps in the middle of a task, past the task's limit. The coordinator kills it; the client has
//! it traced with PTRACE_O_TRACEEXIT (`ptrace(2)`), so it is held between the signal and its death for as long as the client
//! wants: until the coordinator has said that it does not die. In all that time its task must stay its own, and what
//! moves it must come after the death. A second handler leaves a child behind that tries the segment: it has none.

use super::{TortureError, shared};
use crate::{
    exec::endpoint::{Claimed, Endpoint, STATUS_OK, Submission, To},
    lockfree::{
        descriptor::Limits,
        recovery::Death,
        table::{Cursors, TaskId},
        word::{Outcome, Phase},
    },
    mem::segment::Options,
    process::{
        Mode,
        coordinator::{Coordinator, Event, PoolError, Role, Seat, Spec},
        spawn::{pidfd_open, state},
    },
    sync::{AtomicU64, Relaxed, Release},
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::sched_yield,
    sys::{
        ptrace,
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork, getppid, pause},
};
use std::{fmt, os::fd::AsFd, time::Duration};

/// Kinds of tasks.
const SLEEP: u32 = 1;
const LEAVE_A_CHILD: u32 = 2;
/// What an attempt of the first may take.
const LIMIT: Limits = Limits { run_ms: 500, silence_ms: 0 };

/// What coordinator and client saw. Figures and flags, each for itself, and read in the end once the others have gone:
/// Relaxed.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Report {
    /// The coordinator killed a process for its deadline.
    out_of_time: AtomicU64,
    /// The coordinator said that the killed one does not die.
    stuck: AtomicU64,
    /// Looks at the task while its owner was killed and not dead.
    looks: AtomicU64,
    /// Of these and of those after it, looks that saw the task taken from one that lived.
    moved_early: AtomicU64,
    /// The task came back as out of time.
    timed_out: AtomicU64,
    /// Signal by which the child that was left behind ended as it touched the segment.
    child_signal: AtomicU64,
    /// Everything was tried to the end.
    complete: AtomicU64,
}

/// Plays both scenes in a pool of one client and one worker. This process must have one thread.
///
/// `without_fence`: somebody takes the task from the one that lives, which shows that it is noticed.
///
/// # Errors
/// What could not be carried out. What was found stands in the report.
pub(crate) fn run(without_fence: bool) -> Result<&'static Report, TortureError> {
    // SAFETY: a `Report` has atomic words only.
    let report = unsafe { shared::<Report>() }?;
    let client = Spec {
        name: "client",
        role: Role::Client,
        count: 1,
        main: Box::new(move |seat| client(&seat, report, without_fence)),
    };
    let worker = Spec { name: "worker", role: Role::Worker, count: 1, main: Box::new(|seat| worker(&seat)) };
    let mut observer = |event: Event<'_>| match event {
        Event::OutOfTime { .. } => report.out_of_time.store(1, Relaxed),
        Event::Stuck { .. } => report.stuck.store(1, Release),
        Event::Output { label, line, .. } => eprintln!("{label}: {line}"),
        _ => {}
    };
    let pool = |e: PoolError| TortureError::Pool(e.to_string());
    Coordinator::new(&Options::with_queues(["tasks"]), vec![client, worker], Duration::from_secs(10), &mut observer)
        .map_err(pool)?
        .run(None)
        .map_err(pool)?;
    Ok(report)
}

fn worker(seat: &Seat) -> u8 {
    let endpoint = seat.endpoint;
    let control = &endpoint.segment().header().control;
    while let Ok(Some(task)) = endpoint.next(&[endpoint.queue(0)], || Mode::of(control) == Mode::Stopping) {
        let answer = match task.kind() {
            SLEEP => sleep(),
            _ => leave_a_child(&task),
        };
        let Some(answer) = answer else { return 1 };
        if task.complete(STATUS_OK, 1, |output| output[0] = answer).is_err() {
            return 1;
        }
    }
    0
}

/// For ever. Not by a stop: time in which a worker is stopped does not count.
fn sleep() -> ! {
    // The client is no ancestor, which some systems ask of a tracer.
    // SAFETY: plain numbers in.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY) };
    loop {
        pause();
    }
}

/// A child that reads its parent's input: the same address, in a process that has nothing there.
fn leave_a_child(task: &Claimed<'_>) -> Option<u8> {
    let input = task.input().ok()?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }.ok()? {
        ForkResult::Child => {
            // SAFETY: no handler but the default action, which ends the process as it should.
            let _ = unsafe { nix::sys::signal::signal(Signal::SIGSEGV, nix::sys::signal::SigHandler::SigDfl) };
            // SAFETY: one of two. MADV_DONTFORK has left nothing here, so that the read ends this child: what is to be
            // seen. Or, if it failed to, a byte is read that nobody writes while the parent has the task.
            let byte = unsafe { input.as_ptr().read_volatile() };
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(i32::from(byte)) }
        }
        ForkResult::Parent { child } => match waitpid(child, None).ok()? {
            WaitStatus::Signaled(_, signal, _) => Some(signal as u8),
            _ => Some(0),
        },
    }
}

fn client(seat: &Seat, report: &Report, without_fence: bool) -> u8 {
    seat.ready();
    if let Err(why) = play(seat.endpoint, report, without_fence) {
        eprintln!("{why}");
    }
    // The end, in order: the coordinator drains, and this process with it.
    let control = &seat.endpoint.segment().header().control;
    let _ = kill(getppid(), Signal::SIGTERM);
    while Mode::of(control) == Mode::Running {
        seat.endpoint.park(&[], None, || Mode::of(control) != Mode::Running);
    }
    0
}

fn play(endpoint: &Endpoint, report: &Report, without_fence: bool) -> Result<(), String> {
    let text = |e: &dyn fmt::Display| e.to_string();
    let errno = |e: nix::Error| e.to_string();
    let sleep = Submission { kind: SLEEP, limits: LIMIT, ..Submission::new(To::Queue(0)) };
    let task = endpoint.try_submit(sleep, &[]).map_err(|e| text(&e))?;
    let pid = owner(endpoint, task).map_err(errno)?;
    let pidfd = pidfd_open(pid).map_err(errno)?;
    let is_dead = || {
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO) == Ok(1)
    };
    let table = endpoint.segment().table();
    let is_its_own = || table.load(task.index).is(Phase::Claimed);
    while state(pid) != Some('S') {
        sched_yield().map_err(errno)?;
    }
    ptrace::seize(pid, ptrace::Options::PTRACE_O_TRACEEXIT).map_err(errno)?;
    // Held between the signal and the death: nothing moves, whatever the coordinator does meanwhile.
    loop {
        match waitpid(pid, Some(WaitPidFlag::__WALL)).map_err(errno)? {
            WaitStatus::PtraceEvent(_, _, event) if event == libc::PTRACE_EVENT_EXIT => break,
            WaitStatus::Signaled(..) | WaitStatus::Exited(..) => return Err("it was not held before its death".into()),
            _ => {}
        }
    }
    if without_fence {
        let run = table.descriptors[task.index as usize].run_of(table.load(task.index));
        let owner = run.ok_or("it sleeps long after it has signed")?.claimant();
        table.recover(&Cursors::new(table), endpoint.name(), owner, Death::of(0)).map_err(|e| text(&e))?;
    }
    while report.stuck.load(Relaxed) == 0 {
        report.looks.fetch_add(1, Relaxed);
        report.moved_early.fetch_add(u64::from(!is_its_own()), Relaxed);
        sched_yield().map_err(errno)?;
    }
    ptrace::cont(pid, None).map_err(errno)?;
    waitpid(pid, Some(WaitPidFlag::__WALL)).map_err(errno)?;
    // First the task, then the process: if the task has moved, the process was dead before.
    while is_its_own() {}
    report.moved_early.fetch_add(u64::from(!is_dead()), Relaxed);

    let result = || {
        loop {
            match endpoint.take() {
                Ok(None) => endpoint.park(&[], None, || false),
                Ok(Some(done)) => return Ok((done.outcome(), done.output().ok().and_then(|o| o.first().copied()))),
                Err(e) => return Err(text(&e)),
            }
        }
    };
    let (outcome, _) = result()?;
    report.timed_out.store((outcome == Outcome::TimedOut).into(), Relaxed);
    let child = Submission { kind: LEAVE_A_CHILD, ..Submission::new(To::Queue(0)) };
    endpoint.try_submit(child, &[1]).map_err(|e| text(&e))?;
    let (_, signal) = result()?;
    report.child_signal.store(signal.unwrap_or(0).into(), Relaxed);
    report.complete.store(1, Relaxed);
    Ok(())
}

/// The process that runs the task, once one does.
fn owner(endpoint: &Endpoint, task: TaskId) -> nix::Result<Pid> {
    let table = endpoint.segment().table();
    loop {
        let word = table.load(task.index);
        if word.is(Phase::Claimed) {
            // Written by the coordinator once it has forked, which may be later than the claim.
            let pid = table.participants[word.who() as usize].pid.load(Relaxed);
            if pid != 0 {
                return Ok(Pid::from_raw(pid as i32));
            }
        }
        sched_yield()?;
    }
}

impl Report {
    /// What is wrong, one line each; empty: every promise was kept.
    pub(crate) fn faults(&self) -> Vec<String> {
        let is = |word: &AtomicU64, wanted: u64| word.load(Relaxed) == wanted;
        let mut faults = Vec::new();
        for (is_right, fault) in [
            (is(&self.complete, 1), "the scenes did not come to their end: the lines above say why"),
            (is(&self.out_of_time, 1), "nobody was killed for its deadline"),
            (is(&self.stuck, 1), "nobody said that the killed one does not die"),
            (!is(&self.looks, 0), "nobody looked while it was killed and not dead"),
            (is(&self.moved_early, 0), "a task was taken from one that lived"),
            (is(&self.timed_out, 1), "the task did not come back as out of time"),
            (is(&self.child_signal, Signal::SIGSEGV as u64), "a child that was left behind could touch the segment"),
        ] {
            if !is_right {
                faults.push(fault.to_owned());
            }
        }
        faults
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = |word: &AtomicU64| word.load(Relaxed);
        write!(
            f,
            "late      killed={} reported_stuck={} looks_while_not_dead={} moved_before_death={} timed_out={}\n\
             left      child_signal={}",
            n(&self.out_of_time),
            n(&self.stuck),
            n(&self.looks),
            n(&self.moved_early),
            n(&self.timed_out),
            n(&self.child_signal)
        )
    }
}
