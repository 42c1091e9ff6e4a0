//! Processes: who runs, who died, what is done about it.
//!
//! # Roles
//!
//! - The *coordinator* makes the segment, forks the rest and sleeps in `poll`. It stays single-threaded for life, so that
//!   a fork copies no lock that another thread holds.
//! - *Clients* submit tasks from outside (the bridge to Temporal is one). They are started first and drained first.
//! - *Workers* claim tasks.
//!
//! # Start
//!
//! 1. The segment is made; the coordinator becomes its first participant.
//! 2. Clients are forked, and their word that they are ready is awaited: what is wrong with the server is said before
//!    anything else happens.
//! 3. Workers are forked.
//!
//! # A death
//!
//! 1. The pidfd reports it. What is left of the dead one's process group is killed, then it is reaped.
//! 2. [`recover`](crate::lockfree::recovery) settles what it owned.
//! 3. It is started again under its label, after a back-off that grows with each failure in a row. Five in a row end the
//!    whole: a crash loop.
//!
//! # Workers that leave
//!
//! A worker is asked to leave by a word of its participant (`leave`), which it writes itself when it has run as many tasks, or
//! holds as much memory, as it may ([`limits`]). It finishes what it runs, then exits with 0, and another takes its place at
//! once. So a pool with an owner is made smaller (the highest numbers leave and are not replaced), and rolled: one after
//! another leaves, each once the one before it has a replacement that is ready.
//!
//! # An owner
//!
//! A pool for a Rust program belongs to that: it submits, orders ([`orders`]) and hears what happens. SIGHUP rolls such a pool,
//! SIGTTIN and SIGTTOU make it larger and smaller by one. Its death ends the pool, or, where that lies in a file and the owner was killed,
//! the coordinator alone. (Without an owner SIGHUP is one signal
//! more towards the end, and the others mean something only where one kind of process can be resized.)
//!
//! # Out of time
//!
//! Whoever runs a task past its limits, running, stopped or asleep, is killed: SIGKILL reaches a stopped process. Until its
//! pidfd says that it is dead nothing is taken from it. One that does not die is in an uninterruptible sleep: that is said, and
//! it keeps its tasks.
//!
//! # End
//!
//! 1. First signal: [`Mode::Draining`]. Clients submit nothing new and exit once what runs is finished; an owner closes its end of
//!    the connection then. Workers go on.
//! 2. Second signal, or the grace is over: [`Mode::Cancelling`]. Clients cancel what still runs; for an owner the coordinator does.
//! 3. The clients are gone, or the owner is, or has no more to submit: [`Mode::Stopping`]. Workers exit.
//! 4. Third signal, or a second grace is over: what is left is killed.
//!
//! Whatever ends the coordinator ends the rest: each child has PR_SET_PDEATHSIG (`prctl(2)`). Workers of a pool that lies in a file wait
//! for another coordinator ([`orphan`]).

pub(crate) mod attach;
pub(crate) mod clock;
pub(crate) mod coordinator;
pub(crate) mod exit;
pub(crate) mod fault;
pub(crate) mod handover;
pub(crate) mod leftovers;
pub(crate) mod limits;
pub(crate) mod names;
pub(crate) mod orders;
pub(crate) mod orphan;
pub(crate) mod output;
pub(crate) mod signal;
pub(crate) mod spawn;
mod standstill;

use crate::{mem::layout::Control, sync::Acquire};
use std::sync::{Mutex, PoisonError};

/// How far a pool is in its life: a word that the coordinator writes and all read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u32)]
pub(crate) enum Mode {
    /// Everybody works.
    Running = 0,
    /// Clients finish what runs, and submit nothing new.
    Draining = 1,
    /// Clients cancel what still runs.
    Cancelling = 2,
    /// Workers exit.
    Stopping = 3,
}

impl Mode {
    pub(crate) fn of(control: &Control) -> Mode {
        Mode::from(control.mode.load(Acquire))
    }
}

impl From<u32> for Mode {
    fn from(bits: u32) -> Mode {
        match bits {
            0 => Mode::Running,
            1 => Mode::Draining,
            2 => Mode::Cancelling,
            // A damaged word ends the pool.
            _ => Mode::Stopping,
        }
    }
}

/// `Participant::status` of a process that is ready to serve.
pub(crate) const READY: u32 = 1;
/// `Participant::status` of a worker that can't be one, nor can its successor: its last word says why.
pub(crate) const UNFIT: u32 = 2;
/// … of one that could not execute its program, which others before it have.
pub(crate) const ABSENT: u32 = 3;

/// For tests: this process is killed at the step that this variable names.
const DIES_AT: &str = "SHMWORKER_DIES_AT";

/// A step of a start, which may be its last.
pub(crate) fn step(name: &str) {
    if std::env::var_os(DIES_AT).is_some_and(|at| at == name) {
        let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
    }
}

/// For as long as the process lives; for who looks for leaks it isn't one.
pub(crate) fn keep<T: Send + Sync>(value: T) -> &'static T {
    static KEPT: Mutex<Vec<&(dyn Send + Sync)>> = Mutex::new(Vec::new());
    let kept = Box::leak(Box::new(value));
    KEPT.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
    kept
}
