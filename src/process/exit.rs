//! How a process ended.

use std::fmt;

/// How a process ended, as far as the kernel tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(crate) enum Exit {
    /// By itself, with this code.
    Code(u8),
    /// By this signal.
    Signal(u8),
    /// It isn't known: the kernel tells the codes of one's own children only.
    Unknown,
}

/// Beside a packed exit: the coordinator has killed the process, since a task of its ran out of time.
pub(crate) const OVERDUE: u64 = 1 << 16;

impl Exit {
    /// Never 0 for what is known, so that a zeroed word reads as unknown.
    pub(crate) const fn pack(self) -> u64 {
        match self {
            Exit::Code(c) => 1 << 8 | c as u64,
            Exit::Signal(s) => 2 << 8 | s as u64,
            Exit::Unknown => 0,
        }
    }

    /// Of a packed exit, whatever is noted beside it.
    pub(crate) const fn unpack(bits: u64) -> Exit {
        match bits >> 8 & 0xff {
            1 => Exit::Code(bits as u8),
            2 => Exit::Signal(bits as u8),
            _ => Exit::Unknown,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(c) => write!(f, "exit code {c}"),
            Exit::Signal(s) => match nix::sys::signal::Signal::try_from(i32::from(*s)) {
                Ok(name) => write!(f, "signal {s} ({name})"),
                Err(_) => write!(f, "signal {s}"),
            },
            Exit::Unknown => f.write_str("unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_survives_packing_and_reads_well() {
        for exit in [Exit::Code(0), Exit::Code(255), Exit::Signal(9), Exit::Unknown] {
            assert_eq!(Exit::unpack(exit.pack()), exit);
            assert_eq!(Exit::unpack(exit.pack() | OVERDUE), exit);
            assert_eq!(exit.pack() & OVERDUE, 0);
        }
        assert_eq!(Exit::Signal(9).to_string(), "signal 9 (SIGKILL)");
        assert_eq!(Exit::Code(3).to_string(), "exit code 3");
    }
}
