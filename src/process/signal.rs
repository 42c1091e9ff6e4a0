//! Signals as a file descriptor, and what a forked child undoes of it.
//!
//! Sources: `signalfd(2)`, `signal-safety(7)`.

use nix::sys::{
    signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask},
    signalfd::{SfdFlags, SignalFd},
};

/// The signals that the coordinator reads from its descriptor.
fn handled() -> SigSet {
    let mut set = SigSet::empty();
    use Signal::*;
    for s in [SIGINT, SIGTERM, SIGHUP, SIGUSR2, SIGCHLD, SIGTSTP, SIGCONT] {
        set.add(s);
    }
    set
}

/// Blocks the handled signals and returns the descriptor that reports them.
pub(crate) fn take_over() -> nix::Result<SignalFd> {
    // Whoever has started this process may have it ignored, and then the kernel keeps no exit codes of children.
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler is installed.
    unsafe { sigaction(Signal::SIGCHLD, &default) }?;
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&handled()), None)?;
    SignalFd::with_flags(&handled(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

/// Takes two more over, for a pool that can be resized: one worker more, one less.
pub(crate) fn take_over_resizing(signals: &mut SignalFd) -> nix::Result<()> {
    let mut set = handled();
    set.add(Signal::SIGTTIN);
    set.add(Signal::SIGTTOU);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
    signals.set_mask(&set)
}

/// In a forked child: signals as an ordinary process has them, except that the terminal's are the coordinator's business.
pub(crate) fn reset_in_child() -> nix::Result<()> {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    for s in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP, Signal::SIGHUP] {
        // SAFETY: ignoring a signal installs no handler that could run at a bad moment.
        unsafe { sigaction(s, &ignore) }?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}
