//! What programs of jobs have left behind whose pool was killed, all at once.
//!
//! A program ends with the worker that runs it (PR_SET_PDEATHSIG); what it has started, the rest of a shell's pipe, does not. While a worker
//! lives it kills the program's process group, and after a kill of all nobody is left to. So each program of a pool whose state outlives it
//! has a mark in its environment, which what it starts inherits: the state, and the number of the process group that the program leads. The
//! next start ends who has the mark of its state, and is in that group still. Who has left it, for a group or session of its own, is let
//! alone: somebody wanted that.
//!
//! That number can't be another's: as long as somebody is in the group the kernel gives it to nobody, and who has the mark and is in a later
//! group of the same number was started by a program of the same state. Sources: `setpgid(2)`, `proc_pid_environ(5)`.

use super::spawn::pidfd_open;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use procfs::process::{Process, all_processes};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

/// What has the mark.
pub(crate) const VARIABLE: &str = "SHMWORKER_JOB";
/// How long those who were killed may take to go.
const PATIENCE: Duration = Duration::from_secs(1);

/// The mark of a program of this state: a variable of its environment, of which the last [`DIGITS`] are for its process id.
#[cfg(feature = "jobs")]
pub(crate) fn mark(state: u64) -> String {
    format!("{VARIABLE}={state:016x}-{:0DIGITS$}", 0)
}

/// As many as the largest process id has.
#[cfg(feature = "jobs")]
pub(crate) const DIGITS: usize = 10;

/// Ends what programs of this state have left behind that run no more, since their workers do not: others than these. How many
/// processes that were.
pub(crate) fn end(state: u64, workers: &[i32]) -> usize {
    let Ok(all) = all_processes() else { return 0 };
    let mut groups = BTreeMap::<i32, Vec<OwnedFd>>::new();
    for process in all.flatten() {
        let Some(group) = group_of(&process, state) else { continue };
        // From here on it is this process, or the second look finds none.
        let Ok(pidfd) = pidfd_open(Pid::from_raw(process.pid)) else { continue };
        if Process::new(process.pid).ok().and_then(|again| group_of(&again, state)) == Some(group) {
            groups.entry(group).or_default().push(pidfd);
        }
    }
    let until = Instant::now() + PATIENCE;
    let mut ended = Vec::new();
    for (group, members) in groups {
        // The program dies with its worker. One that goes on has a worker: of a pool that has a copy of the state.
        let leader = pidfd_open(Pid::from_raw(group));
        let parent = Process::new(group).and_then(|leader| leader.stat()).map(|stat| stat.ppid);
        if parent.is_ok_and(|parent| workers.contains(&parent)) {
            continue;
        }
        if leader.is_ok_and(|leader| !has_ended(&leader, until)) {
            continue;
        }
        // All at once: nobody in it forks meanwhile.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        ended.extend(members);
    }
    for member in &ended {
        has_ended(member, until);
    }
    ended.len()
}

/// Waits for the end of a process, until then.
fn has_ended(process: &OwnedFd, until: Instant) -> bool {
    loop {
        let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        // Rounded up, or the last millisecond would be spent spinning.
        let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(n) if n > 0 => return true,
            _ if Instant::now() >= until => return false,
            _ => {}
        }
    }
}

/// The process group in which a program of this state has left this process.
fn group_of(process: &Process, state: u64) -> Option<i32> {
    let environment = process.environ().ok()?;
    let (of, group) = environment.get(OsStr::new(VARIABLE))?.to_str()?.split_once('-')?;
    let group = group.parse().ok().filter(|&group: &i32| group > 1)?;
    let is_in_it = process.stat().ok()?.pgrp == group;
    (is_in_it && u64::from_str_radix(of, 16) == Ok(state)).then_some(group)
}
