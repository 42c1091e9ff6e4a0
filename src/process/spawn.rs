//! Forking a child that can't outlive its parent, can't be mistaken for another, and speaks through pipes.
//!
//! Sources: `fork(2)`, `pidfd_open(2)`, `pidfd_send_signal(2)`, `waitid(2)` with P_PIDFD and, of the system call,
//! rusage, `prctl(2)`, `proc_pid_fdinfo(5)`; the kernel's `include/uapi/linux/pidfd.h` and `fs/pidfs.c` on PIDFD_GET_INFO.

use super::{exit::Exit, signal};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl, open},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl::set_pdeathsig,
        signal::{Signal, kill},
        stat::Mode,
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, getpid, getppid, pipe2, setpgid},
};
use std::{
    io::Write,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

/// A forked child, as its parent has it; or the child of another process, which only its own parent could wait for.
pub(crate) struct Child {
    pub(crate) pid: Pid,
    pidfd: OwnedFd,
}

/// A child just forked, with the reading ends of its standard output and error.
pub(crate) struct Spawned {
    pub(crate) child: Child,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// Forks a child that runs `main` and exits with what it returns.
///
/// The child has a process group of its own, /dev/null as standard input, pipes as output, default signals, no other
/// descriptor of this process but `keep`, and is killed when this process dies.
///
/// # Errors
/// What the kernel refused. A caller with threads must not come here: the child would have a copy of their locks.
pub(crate) fn spawn(keep: &[BorrowedFd<'_>], main: impl FnOnce() -> u8) -> nix::Result<Spawned> {
    let (stdout, child_stdout) = pipe2(OFlag::O_CLOEXEC)?;
    let (stderr, child_stderr) = pipe2(OFlag::O_CLOEXEC)?;
    for fd in [&stdout, &stderr] {
        fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    let child = fork_child(keep, Some([child_stdout, child_stderr]), main)?;
    Ok(Spawned { child, stdout, stderr })
}

/// As [`spawn`], for a child that writes to this process's standard output and error.
///
/// # Errors
/// As for [`spawn`].
pub(crate) fn spawn_inheriting(keep: &[BorrowedFd<'_>], main: impl FnOnce() -> u8) -> nix::Result<Child> {
    fork_child(keep, None, main)
}

fn fork_child(keep: &[BorrowedFd<'_>], output: Option<[OwnedFd; 2]>, main: impl FnOnce() -> u8) -> nix::Result<Child> {
    let parent = getpid();
    // What is buffered here must not be written a second time by the child.
    let _ = std::io::stdout().flush();
    // SAFETY: this process has one thread (see `spawn`), so the child may go on as an ordinary process.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let prepared = || -> nix::Result<()> {
                set_pdeathsig(Signal::SIGKILL)?;
                // The parent may have died before the line above.
                if getppid() != parent {
                    return Err(Errno::ESRCH);
                }
                setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
                signal::reset_in_child()?;
                dup2_stdin(open("/dev/null", OFlag::O_RDONLY, Mode::empty())?)?;
                if let Some([stdout, stderr]) = &output {
                    dup2_stdout(stdout)?;
                    dup2_stderr(stderr)?;
                }
                close_all_but(keep)
            };
            live(prepared, main)
        }
        ForkResult::Parent { child: pid } => {
            // The child does the same; whoever is first, the group exists before either goes on. It may be gone already.
            let _ = setpgid(pid, pid);
            Child::of(pid)
        }
    }
}

/// The life of a child that was just forked.
fn live(prepare: impl FnOnce() -> nix::Result<()>, main: impl FnOnce() -> u8) -> ! {
    let code = match prepare() {
        Ok(()) => std::panic::catch_unwind(AssertUnwindSafe(main)).unwrap_or(101),
        Err(_) => 101,
    };
    let _ = std::io::stdout().flush();
    // SAFETY: `_exit` ends the process at once: no destructor of the parent's copies runs, no atexit handler.
    unsafe { libc::_exit(code.into()) }
}

/// Forks a child that goes on apart from this process: with its standard streams, in a process group of its own, with default
/// signals, and with no other descriptor but `keep`. It runs `main` and exits with what that returns.
///
/// # Errors
/// What the kernel refused. A caller with threads must not come here: the child would have a copy of their locks.
pub(crate) fn fork_apart(keep: &[BorrowedFd<'_>], main: impl FnOnce() -> u8) -> nix::Result<Pid> {
    // What is buffered here must not be written a second time by the child.
    let _ = std::io::stdout().flush();
    // SAFETY: this process has one thread (see above), so the child may go on as an ordinary process.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let prepared = || {
                setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
                signal::reset_in_child()?;
                close_all_but(keep)
            };
            live(prepared, main)
        }
        ForkResult::Parent { child } => Ok(child),
    }
}

/// Closes every descriptor from 3 on, except these: a child has no use for its siblings' pipes and pidfds.
///
/// For a forked child that will end by `_exit`: the objects of its parent that own those descriptors are copies in its
/// memory which it never touches or drops.
fn close_all_but(keep: &[BorrowedFd<'_>]) -> nix::Result<()> {
    let mut keep: Vec<libc::c_uint> = keep.iter().map(|fd| fd.as_raw_fd() as libc::c_uint).collect();
    keep.sort_unstable();
    let mut first = 3;
    for last in keep.iter().map(|fd| fd.saturating_sub(1)).chain([libc::c_uint::MAX]) {
        if first <= last {
            // SAFETY: no object that this process will use owns a descriptor in the range (see above).
            Errno::result(unsafe { libc::close_range(first, last, 0) })?;
        }
        first = first.max(last.saturating_add(2));
    }
    Ok(())
}

/// A descriptor for a child of this process that has not been reaped.
pub(crate) fn pidfd_open(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: plain numbers in, a descriptor (close-on-exec) or -1 out.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = Errno::result(fd)? as i32;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The kernel's letter for what a process does; `None`: there is no such process any more. Source: `proc_pid_stat(5)`.
pub(crate) fn state(pid: Pid) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may contain anything.
    stat.rsplit_once(") ")?.1.chars().next()
}

/// When a process began, in the kernel's ticks since the machine was started. `None`: there is none with this number any more.
///
/// Source: `proc_pid_stat(5)`.
pub(crate) fn born(pid: Pid) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // As above; the 22nd field, of which the name is the second.
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

/// The process with this number that began then; `None`: it is gone.
///
/// # Errors
/// The kernel's, where that is not its answer.
pub(crate) fn pidfd_of(pid: Pid, began: u64) -> nix::Result<Option<OwnedFd>> {
    match pidfd_open(pid) {
        // What is read of the number after that is of whom the descriptor names, if that has not ended meanwhile.
        Ok(pidfd) if born(pid) == Some(began) && !has_ended(pidfd.as_fd()) => Ok(Some(pidfd)),
        Ok(_) | Err(Errno::ESRCH | Errno::EINVAL) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Has this process ended?
pub(crate) fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok() && fds[0].any().unwrap_or(false)
}

/// How a process ended that is not ours to wait for: while it is a zombie /proc tells, and from Linux 6.15 on its pidfd after that.
pub(crate) fn exit_of_stranger(pid: Pid, pidfd: BorrowedFd<'_>) -> Exit {
    let exit = exit_of_reaped(pidfd).or_else(|| exit_of_zombie(pid, pidfd));
    // It may have been reaped between the two.
    exit.or_else(|| exit_of_reaped(pidfd)).unwrap_or(Exit::Unknown)
}

fn exit_of_reaped(pidfd: BorrowedFd<'_>) -> Option<Exit> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: a live descriptor, and a live structure of the size that the request names, which the kernel fills.
    let asked = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    (asked >= 0 && info.mask & PIDFD_INFO_EXIT != 0).then(|| exit_of(info.exit_code))
}

fn exit_of_zombie(pid: Pid, pidfd: BorrowedFd<'_>) -> Option<Exit> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields = stat.rsplit_once(") ")?.1;
    let status = fields.starts_with('Z').then(|| fields.split_whitespace().nth(49)?.parse().ok())??;
    // POLLHUP, which need not be asked for, comes when it is reaped: before that the number is its own.
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).ok()?;
    (!fds[0].revents()?.contains(PollFlags::POLLHUP)).then(|| exit_of(status))
}

/// As `wait(2)` has it.
fn exit_of(status: i32) -> Exit {
    match libc::WIFSIGNALED(status) {
        true => Exit::Signal(libc::WTERMSIG(status) as u8),
        false => Exit::Code(libc::WEXITSTATUS(status) as u8),
    }
}

/// `struct pidfd_info`, as it was at first.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    /// Numbers, and ids of users and groups.
    ids: [u32; 11],
    exit_code: i32,
}

const _: () = assert!(size_of::<PidfdInfo>() == 64);
const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// `_IOWR(0xff, 11, struct pidfd_info)`
const PIDFD_GET_INFO: libc::Ioctl = (3 << 30 | (size_of::<PidfdInfo>() as u32) << 16 | 0xff << 8 | 11) as libc::Ioctl;

/// Sends a signal, or asks whether one may be sent, to this process and to no other, ever: the descriptor names it even when its
/// number is reused.
pub(crate) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: impl Into<Option<Signal>>) -> nix::Result<()> {
    let signal = signal.into();
    match pidfd_send_signal(pidfd, signal, 0) {
        Err(Errno::ENOSYS) => signal_by_number(pidfd, signal),
        sent => sent,
    }
}

/// Of `pidfd_send_signal`: to the process group of that number.
const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;

pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: Option<Signal>, flags: libc::c_uint) -> nix::Result<()> {
    /// Valgrind, which has no such call, would complain of each.
    static IS_MISSING: AtomicBool = AtomicBool::new(false);
    if IS_MISSING.load(Relaxed) {
        return Err(Errno::ENOSYS);
    }
    let (signal, info) = (signal.map_or(0, |signal| signal as i32), std::ptr::null::<libc::siginfo_t>());
    // SAFETY: a live descriptor, a valid signal or 0, null for the default siginfo, a flag or 0.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, flags) };
    let sent = Errno::result(sent).map(drop);
    if sent == Err(Errno::ENOSYS) {
        IS_MISSING.store(true, Relaxed); // a hint: who doesn't see it asks once more
    }
    sent
}

/// As [`pidfd_signal`], for valgrind. It may hit another process, if this one is reaped between the two steps and its number is reused
/// at once.
fn signal_by_number(pidfd: BorrowedFd<'_>, signal: Option<Signal>) -> nix::Result<()> {
    let info =
        std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).map_err(|_| Errno::ENOSYS)?;
    // Those there are the numbers of whose /proc this is.
    if std::fs::read_link("/proc/self").ok().is_none_or(|own| own.to_str() != Some(&getpid().to_string())) {
        return Err(Errno::ENOSYS);
    }
    let number = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok()).ok_or(Errno::ENOSYS)?;
    // 0: another PID namespace's; -1: it was reaped.
    if number > 0 { kill(Pid::from_raw(number), signal) } else { Err(Errno::ESRCH) }
}

impl Child {
    /// A child that has not been reaped.
    pub(crate) fn of(pid: Pid) -> nix::Result<Child> {
        Ok(Child { pid, pidfd: pidfd_open(pid)? })
    }

    /// The process with this number that began then, whoever has forked it. `None`: it is gone.
    ///
    /// # Errors
    /// The kernel's, where that is not its answer.
    pub(crate) fn of_anybody(pid: Pid, began: u64) -> nix::Result<Option<Child>> {
        Ok(pidfd_of(pid, began)?.map(|pidfd| Child { pid, pidfd }))
    }

    /// Sends a signal to this process and to no other, ever.
    pub(crate) fn signal(&self, signal: Signal) -> nix::Result<()> {
        pidfd_signal(self.pidfd.as_fd(), signal)
    }

    /// Waits until the child has ended, then as [`try_reap`](Self::try_reap).
    pub(crate) fn reap(&self) -> Exit {
        loop {
            let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
            while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
            if let Some(exit) = self.try_reap() {
                return exit;
            }
        }
    }

    /// If the child has ended: kills what is left of its process group, reaps it, and says how it ended.
    pub(crate) fn try_reap(&self) -> Option<Exit> {
        self.try_reap_with_peak().map(|(exit, _)| exit)
    }

    /// As [`try_reap`](Self::try_reap), with the most memory that it, or a child that it had reaped, had resident: KiB, 0 if that
    /// isn't known.
    pub(crate) fn try_reap_with_peak(&self) -> Option<(Exit, u64)> {
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::PIDFd(self.pidfd.as_fd()), peek) {
            Ok(WaitStatus::StillAlive) => return None,
            Ok(_) => {}
            // It is not ours, or somebody else has reaped it.
            Err(_) if !has_ended(self.pidfd.as_fd()) => return None,
            Err(_) => {
                // By the descriptor: the number may be another's. An older kernel than 6.9 leaves what it has left behind.
                let _ = pidfd_send_signal(self.as_fd(), Some(Signal::SIGKILL), PIDFD_SIGNAL_PROCESS_GROUP);
                return Some((exit_of_stranger(self.pid, self.pidfd.as_fd()), 0));
            }
        }
        // While the zombie stands, its number, which is the group's, can't be another's.
        let _ = nix::sys::signal::killpg(self.pid, Signal::SIGKILL);
        Some(self.bury().unwrap_or((Exit::Unknown, 0)))
    }

    /// Reaps the zombie. The C library's `waitid` lacks the kernel's last argument, which is what it has used.
    fn bury(&self) -> nix::Result<(Exit, u64)> {
        // SAFETY: zeros are a value of this plain structure.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        let (which, fd) = (libc::P_PIDFD, self.pidfd.as_raw_fd());
        // SAFETY: a live descriptor, and two live structures that the kernel fills.
        let reaped =
            unsafe { libc::syscall(libc::SYS_waitid, which, fd, &raw mut info, libc::WEXITED, &raw mut usage) };
        Errno::result(reaped)?;
        // SAFETY: `waitid` has succeeded, so this is what SIGCHLD carries.
        let status = unsafe { info.si_status() } as u8;
        let exit = if info.si_code == libc::CLD_EXITED { Exit::Code(status) } else { Exit::Signal(status) };
        Ok((exit, usage.ru_maxrss as u64))
    }
}

impl AsFd for Child {
    /// Readable once the child has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        os::unix::process::ExitStatusExt,
        process::{Command, Stdio},
    };

    #[test]
    fn a_signal_by_number_reaches_the_process_until_it_is_reaped() {
        let mut process = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let pidfd = pidfd_open(Pid::from_raw(process.id() as i32)).unwrap();
        assert_eq!(signal_by_number(pidfd.as_fd(), None), Ok(()));
        assert_eq!(signal_by_number(pidfd.as_fd(), Some(Signal::SIGTERM)), Ok(()));
        assert_eq!(process.wait().unwrap().signal(), Some(Signal::SIGTERM as i32));
        assert_eq!(signal_by_number(pidfd.as_fd(), Some(Signal::SIGTERM)), Err(Errno::ESRCH));
    }
}
