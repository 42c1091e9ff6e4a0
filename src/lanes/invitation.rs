//! How a program that the coordinator has started comes by its seat.
//!
//! The coordinator forks, and the child executes the program. It inherits one end of a socket pair in which an invitation lies
//! already, with the descriptors of the segment and of the bell; [`VARIABLE`] names it. Whoever takes it up, once, is the
//! participant, and it must be the process that was forked: by its pidfd the coordinator knows of its death.

use super::{Lanes, program::Program};
use crate::{
    exec::endpoint::cpus,
    lockfree::participant::Name,
    mem::segment::{Segment, SegmentOpenError},
    process::{
        attach::{Message, hear_with_fds, say},
        coordinator::Seat,
    },
};
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::{
        socket::{AddressFamily, SockFlag, SockType, socketpair},
        stat::fstat,
    },
};
use std::{
    env, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd},
    sync::Arc,
    time::Duration,
};

/// Number and inode of the socket with the invitation.
pub(crate) const VARIABLE: &str = "SHMWORKER_TEMPORAL";
/// First word of an invitation, and its version.
const MAGIC: u64 = u64::from_le_bytes(*b"shmlane1");
/// Exit code of a process that could not execute its program.
const FAILED: u8 = 101;

/// What a process is to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) lanes: Lanes,
    /// Attempts at a time.
    pub(crate) activity_slots: u32,
    /// How long attempts may go on in a process that is asked to leave.
    pub(crate) grace: Duration,
}

impl Terms {
    fn message(self, name: Name) -> Message {
        let grace = u32::try_from(self.grace.as_millis()).unwrap_or(u32::MAX);
        let pair = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        [MAGIC, name.bits(), pair(std::process::id(), self.lanes.bits()), pair(self.activity_slots, grace)]
    }
}

/// In a child that the coordinator has forked: executes the program. Returns if that fails, with the exit code.
pub(crate) fn become_program(seat: &Seat, program: &Program, terms: Terms) -> u8 {
    let result = || -> nix::Result<(OwnedFd, String)> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let fds = [seat.endpoint.segment().as_fd().as_raw_fd(), seat.bell().as_raw_fd()];
        say(&ours, terms.message(seat.endpoint.name()), &fds)?;
        // This process has one thread, and executes nothing but the program.
        fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty()))?;
        let value = format!("{}:{}", theirs.as_raw_fd(), fstat(&theirs)?.st_ino);
        Ok((theirs, value))
    };
    let why = match result() {
        Ok((_theirs, value)) => program.exec(VARIABLE, &value),
        Err(e) => e.into(),
    };
    seat.cannot_execute(&format!("cannot execute '{}': {why}", program.path().display()));
    FAILED
}

/// Why there is no seat for this process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeUpError {
    #[error(
        "{VARIABLE} is not set: let 'shmworker run --workflow-program' or '--activity-program' start this program, or \
         attach to a running pool by its name"
    )]
    NotInvited,
    #[error("{VARIABLE} is '{0}', which is no invitation of this process: start it by 'shmworker run'")]
    NotOurs(String),
    #[error("the invitation in {VARIABLE} was taken up before: attach once in a process")]
    TakenUp,
    #[error(
        "the invitation is of another version of shmworker: use the same version of the library and of the command"
    )]
    AnotherVersion,
    #[error(
        "the invitation is for process {0}, and this is process {1}: let the program itself be started, or have what starts \
         it 'exec' it"
    )]
    AnotherProcess(u32, u32),
    #[error("cannot use the pool's memory: {0}")]
    Segment(#[from] SegmentOpenError),
    #[error("cannot {step}: {source}")]
    Os { step: &'static str, source: io::Error },
}

impl TakeUpError {
    /// Are library and command of different versions?
    pub(crate) fn is_of_another_version(&self) -> bool {
        use SegmentOpenError::{NotASegment, VersionMismatch};
        matches!(self, TakeUpError::AnotherVersion | TakeUpError::Segment(VersionMismatch { .. } | NotASegment { .. }))
    }
}

/// Takes the invitation up that this process's environment names.
///
/// # Errors
/// [`TakeUpError`].
pub(crate) fn take_up() -> Result<(Seat, Terms), TakeUpError> {
    take(env::var(VARIABLE).map_err(|_| TakeUpError::NotInvited)?)
}

fn take(value: String) -> Result<(Seat, Terms), TakeUpError> {
    let socket = socket_of(&value).ok_or(TakeUpError::NotOurs(value))?;
    let os = |step| move |source: nix::Error| TakeUpError::Os { step, source: source.into() };
    let (message, fds) = hear_with_fds(&socket).map_err(os("read the invitation"))?;
    let [magic, name, who, numbers] = message.ok_or(TakeUpError::TakenUp)?;
    let (pid, lanes) = ((who >> 32) as u32, Lanes::of(who as u32));
    let (MAGIC, Some(lanes)) = (magic, lanes) else { return Err(TakeUpError::AnotherVersion) };
    if pid != std::process::id() {
        return Err(TakeUpError::AnotherProcess(pid, std::process::id()));
    }
    let terms =
        Terms { lanes, activity_slots: (numbers >> 32) as u32, grace: Duration::from_millis((numbers as u32).into()) };
    let Ok([segment, bell]) = <[OwnedFd; 2]>::try_from(fds) else { return Err(TakeUpError::AnotherVersion) };
    let segment = Arc::new(Segment::attach(segment, true)?);
    let name = Name::of(name);
    segment.table().check_participant(name).map_err(|_| TakeUpError::AnotherVersion)?;
    let seat = Seat::take(segment, name, bell.into_raw_fd(), cpus())
        .map_err(|source| TakeUpError::Os { step: "keep children away from the pool's memory", source })?;
    seat.ready();
    Ok((seat, terms))
}

/// The socket that the variable names, if it is what this process has inherited under that number. It is not inherited further.
fn socket_of(value: &str) -> Option<OwnedFd> {
    let (fd, inode) = value.split_once(':')?;
    let (fd, inode): (RawFd, u64) = (fd.parse().ok().filter(|&fd| fd > 2)?, inode.parse().ok()?);
    // SAFETY: the number is only asked about, and is open for as long as this process does not close what it inherited; if it
    // is not, the kernel says so.
    let asked = unsafe { BorrowedFd::borrow_raw(fd) };
    if fstat(asked).ok()?.st_ino != inode {
        return None;
    }
    // The number stays taken, so that a second attempt finds the socket empty and not somebody else's file.
    fcntl(asked, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
    let copy = fcntl(asked, FcntlArg::F_DUPFD_CLOEXEC(3)).ok()?;
    // SAFETY: the kernel has just given us this descriptor.
    Some(unsafe { OwnedFd::from_raw_fd(copy) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of an invitation that says this.
    fn taken_up(message: Message) -> TakeUpError {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        say(&ours, message, &[]).unwrap();
        let value = format!("{}:{}", theirs.as_raw_fd(), fstat(&theirs).unwrap().st_ino);
        let refused = take(value.clone()).err().expect("no seat");
        drop(ours);
        assert!(matches!(take(value).err(), Some(TakeUpError::TakenUp)), "it was there once");
        refused
    }

    #[test]
    fn an_invitation_of_another_version_or_for_another_process_is_refused() {
        let terms = Terms { lanes: Lanes::WORKFLOWS, activity_slots: 1, grace: Duration::ZERO };
        let good = terms.message(Name::new(1, 1));
        let [_, name, who, numbers] = good;
        let another_version = u64::from_le_bytes(*b"shmlane2");
        assert!(matches!(taken_up([another_version, name, who, numbers]), TakeUpError::AnotherVersion));
        let no_lanes = who >> 32 << 32;
        assert!(matches!(taken_up([MAGIC, name, no_lanes, numbers]), TakeUpError::AnotherVersion));
        let pid = std::process::id();
        let others = who + (1 << 32);
        assert!(matches!(taken_up([MAGIC, name, others, numbers]), TakeUpError::AnotherProcess(other, this)
            if (other, this) == (pid + 1, pid)));
        assert!(matches!(taken_up(good), TakeUpError::AnotherVersion), "no descriptors came with it");
    }
}
