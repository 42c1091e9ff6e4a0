//! Workers that outlive their coordinator, in a pool that lies in a file.
//!
//! # Steps
//!
//! 1. A worker is killed with its coordinator, as any (`PR_SET_PDEATHSIG`), until it has said who it is ([`Participant::is_of`]) and
//!    watches its coordinator by a thread of its own. From then on whoever finds the segment finds it.
//! 2. The coordinator dies. Each worker finishes what it runs, which it leaves in the segment, and claims nothing more
//!    ([`Leave::Orphaned`]).
//! 3. Another coordinator comes (`state/restart.rs`): it settles what the dead have left, supervises the living by their pidfds, and
//!    counts itself (`served`). Each worker looks who that is, watches it, has it roused by its pidfd in place of the bell, and
//!    goes on. Or none comes in time, or the one that has come is of another program: each worker ends as soon as it has finished what it
//!    runs ([`Leave::Alone`], [`Leave::Stranger`]).
//!
//! Step 2 may follow step 3 as often as it may be.
//!
//! # What a successor trusts
//!
//! That a worker lives is the kernel's word: its lock ([`crate::mem::backing`]). Which process it is it has said itself, by number and
//! time of birth, which are one process for as long as the machine runs; whoever takes it up opens a pidfd first, then looks whether
//! that process is the one that was born then. How it ends only its parent is told by the kernel, and from Linux 6.15 on who has a
//! pidfd of it.
//!
//! # Words
//!
//! `born`, `make`, `leave` ([`crate::lockfree::participant`]), `served` ([`crate::mem::layout`]).
//!
//! # What a death leaves
//!
//! Of a worker in any step: a lock that is free, and words that the next coordinator settles. Of a coordinator in step 3: workers some of
//! which watch it already, and some of which still wait; for all of them step 2 follows.
//!
//! Sources: `prctl(2)` on PR_SET_PDEATHSIG, `pidfd_open(2)`, `pidfd_send_signal(2)`.

use super::{limits::Leave, spawn};
use crate::{
    exec::endpoint::Endpoint,
    lockfree::participant::Participant,
    mem::segment::Segment,
    sync::{Acquire, Bell, Release},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{prctl::set_pdeathsig, signal::SigSet},
    unistd::{Pid, getpid},
};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

/// The name of the thread that watches the coordinator: one of those which a fork need not fear.
pub(crate) const WATCHER: &str = "shmworker-watch";
/// Its stack: it calls the kernel, and little else.
const STACK: usize = 128 << 10;
/// How long it waits at most before it looks again.
const LOOK: Duration = Duration::from_secs(1);

/// How workers outlive their coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "pool", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Outliving {
    /// How long they wait for another.
    pub(crate) within: Duration,
    /// What they are made of: who would make others does not go on with them.
    pub(crate) make: u64,
}

/// This process, the coordinator, serves from here on: workers that wait for one find it.
///
/// # Errors
/// /proc does not tell when it began.
pub(crate) fn serve(segment: &Segment) -> io::Result<()> {
    let coordinator = &segment.table().participants[0];
    coordinator.is_of(std::process::id(), began()?, 0);
    let served = &segment.header().control.served;
    // Release: who sees the count finds whose it is.
    served.word().fetch_add(1, Release);
    served.wake_all();
    Ok(())
}

/// When this process began.
fn began() -> io::Result<u64> {
    spawn::born(getpid()).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "/proc does not tell when it began"))
}

/// The coordinator that serves, if it lives.
fn coordinator(segment: &Segment) -> nix::Result<Option<OwnedFd>> {
    match segment.table().participants[0].process() {
        Some((pid, born)) => spawn::pidfd_of(Pid::from_raw(pid as i32), born),
        None => Ok(None),
    }
}

/// Has this worker outlive its coordinator, whose child it is.
///
/// # Errors
/// The kernel's, or the coordinator is dead: it must end.
pub(super) fn outlive(endpoint: &'static Arc<Endpoint>, bell: RawFd, terms: Outliving) -> io::Result<()> {
    let watched = coordinator(endpoint.segment())?.ok_or(Errno::ESRCH)?;
    let (runs, is_running) = mpsc::sync_channel(1);
    thread::Builder::new().name(WATCHER.into()).stack_size(STACK).spawn(move || {
        // Signals are for the threads that run tasks.
        let _ = SigSet::all().thread_block();
        let _ = runs.send(());
        watch(endpoint, bell, terms.within, watched);
    })?;
    // Only then it has its name.
    let _ = is_running.recv();
    endpoint.participant().is_of(std::process::id(), began()?, terms.make);
    // A coordinator that has died before this line kills us; one that dies after it is noticed above.
    Ok(set_pdeathsig(None)?)
}

/// Waits for the deaths of coordinators, until no other comes in time.
fn watch(endpoint: &Endpoint, bell: RawFd, within: Duration, mut watched: OwnedFd) {
    let (me, segment) = (endpoint.participant(), endpoint.segment());
    loop {
        while !spawn::has_ended(watched.as_fd()) {
            let _ = poll(&mut [PollFd::new(watched.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
        }
        let [stays, orphaned] = [0, Leave::Orphaned as u32];
        me.leave_for(stays, orphaned);
        let Some(next) = successor(segment, within) else {
            me.leave_for(orphaned, Leave::Alone as u32);
            return endpoint.orphan_because("the pool's coordinator has ended, and no other came in time");
        };
        watched = next;
        // SAFETY: two descriptors that are open; whoever uses the number of the bell means the coordinator.
        unsafe { libc::dup3(watched.as_raw_fd(), bell, libc::O_CLOEXEC) };
        me.leave_for(orphaned, stays);
        // Whatever was rung for since the death.
        Bell::new(bell).ring();
    }
}

/// Waits for another coordinator, for so long.
fn successor(segment: &Segment, within: Duration) -> Option<OwnedFd> {
    let served = &segment.header().control.served;
    let until = Instant::now() + within;
    loop {
        // Before the look: who begins to serve after it changes the word, and there is no sleep.
        let seen = served.word().load(Acquire);
        if let Ok(Some(coordinator)) = coordinator(segment) {
            return Some(coordinator);
        }
        let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        served.wait(seen, Some(left.min(LOOK)));
    }
}

/// Has this worker, which need not know of it yet, leave once what it runs is finished.
pub(super) fn ask_to_leave(worker: &Participant) {
    loop {
        worker.ask_to_leave(Leave::Asked as u32);
        // It waits for a coordinator; or is told by another thread of its own, between the two, that there is one.
        let is_orphaned = Leave::of(worker.leaves()) == Some(Leave::Orphaned);
        if !is_orphaned || worker.leave_for(Leave::Orphaned as u32, Leave::Asked as u32) {
            return;
        }
    }
}

/// The same, of one that is of another program, or has lost some of its threads: it begins nothing but what its tasks wait for.
pub(crate) fn send_away(worker: &Participant) {
    while !worker.leave_for(worker.leaves(), Leave::Stranger as u32) {}
}
