//! Handing a pool over to another program, which the coordinator's process executes: its number, its children and what others
//! have open of it stay. Workers notice nothing.
//!
//! # Steps
//!
//! 1. SIGUSR2. The program to follow is started as a child, on a copy of the [state](Handover): it says whether it understands that,
//!    the segment's layout, and has all the tasks (of a pool that serves Temporal: whether its flags and files still hold). If not,
//!    or if it says nothing in time, the pool goes on as it is.
//! 2. As soon as nothing else goes on (a roll, somebody who is about to attach), the descriptors that are to stay lose
//!    FD_CLOEXEC, and that program is executed. No signal is lost: they stay blocked, and pending ones pending.
//! 3. It takes up the state, and opens its children anew: as long as it has not reaped them, their numbers are theirs.
//!
//! In all this the segment is as it was. What a worker does meanwhile, a death of its among it, is found in step 3.
//!
//! # Words
//!
//! How it went stands in the segment, for whoever asked: in the coordinator's record why it was refused, or nothing; then its
//! `status` is one higher.
//!
//! Sources: `execve(2)`, `pidfd_open(2)`, `signal(7)`.

use super::coordinator::Looking;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// What a coordinator knows beside what stands in the segment, and what it was started with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "pool", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Handover {
    /// In the order of their numbers.
    pub(crate) workers: Vec<Sitter>,
    pub(crate) door: Option<DoorState>,
    /// What processes of one kind are given beside the segment and the bell.
    pub(crate) handed: Option<RawFd>,
}

/// A worker, or the room for one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "pool", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Sitter {
    /// Which kind of process.
    pub(crate) spec: usize,
    pub(crate) label: String,
    pub(crate) state: SitterState,
    pub(crate) restarts: u32,
    pub(crate) failures: u32,
    pub(crate) is_retired: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "pool", derive(serde::Serialize, serde::Deserialize))]
pub(crate) enum SitterState {
    /// To be forked in so many milliseconds.
    Due {
        in_ms: u64,
    },
    /// A child, which has run for so long.
    Running {
        pid: i32,
        name: u64,
        for_ms: u64,
        /// Its standard output and error, where they are read.
        output: [Option<OutputState>; 2],
    },
    Over,
}

/// A pipe that is read, and what came through it and is no whole line yet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "pool", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct OutputState {
    pub(crate) pipe: RawFd,
    pub(crate) pending: Vec<u8>,
}

/// Who has attached, and where others may. Descriptors are numbers in the process that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "pool", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct DoorState {
    pub(crate) listener: RawFd,
    /// Bytes of the path at which it listens, and the inode there.
    pub(crate) path: Vec<u8>,
    pub(crate) inode: u64,
    pub(crate) guests: Vec<GuestState>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "pool", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct GuestState {
    pub(crate) name: u64,
    pub(crate) pid: i32,
    pub(crate) pidfd: RawFd,
    pub(crate) connection: Option<RawFd>,
    pub(crate) was_killed: bool,
}

impl DoorState {
    fn fds(&self) -> impl Iterator<Item = RawFd> {
        let guests = self.guests.iter().flat_map(|guest| [Some(guest.pidfd), guest.connection]);
        guests.flatten().chain([self.listener])
    }
}

impl Handover {
    fn fds(&self) -> impl Iterator<Item = RawFd> {
        let outputs = self.workers.iter().flat_map(|sitter| match &sitter.state {
            SitterState::Running { output, .. } => &output[..],
            _ => &[],
        });
        let pipes = outputs.flatten().map(|output| output.pipe);
        self.door.iter().flat_map(DoorState::fds).chain(pipes).chain(self.handed)
    }
}

/// Who finds and executes the program that follows.
pub(crate) trait Succession {
    /// Starts it, to find out whether it could take this over.
    ///
    /// # Errors
    /// Why it can't be started.
    fn check(&mut self, state: &Handover) -> Result<Box<dyn Looking>, String>;

    /// Becomes it. Returns why that failed.
    fn become_it(&mut self, state: &Handover) -> String;
}

/// An upgrade on its way.
pub(crate) enum Upgrade {
    Checking(Box<dyn Looking>),
    /// It is done as soon as nothing else goes on.
    Due,
}

/// These stay open when another program is executed; or not.
///
/// # Errors
/// The kernel's.
pub(crate) fn keep_open(state: &Handover, are_kept: bool) -> nix::Result<()> {
    let flag = if are_kept { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
    for fd in state.fds() {
        // SAFETY: the coordinator, whose state this is, has it open.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        fcntl(fd, FcntlArg::F_SETFD(flag))?;
    }
    Ok(())
}

/// What was kept open under this number for this process, which owns it from here on.
///
/// # Errors
/// The kernel's: there is no such descriptor.
pub(crate) fn take_up(fd: RawFd) -> nix::Result<OwnedFd> {
    // SAFETY: only looked at; the kernel says if there is none.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open, and its number came with the state from the program before, which is no more: nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The number under which it is kept.
pub(crate) fn number(fd: &impl AsFd) -> RawFd {
    fd.as_fd().as_raw_fd()
}
