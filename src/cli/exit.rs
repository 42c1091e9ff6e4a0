//! How a command ends: its exit codes, which are part of the interface, and the line that goes with them.

use std::fmt;

/// Everything that was asked for was done.
pub const OK: u8 = 0;
/// Some workflow failed, or something failed that has no code of its own.
pub const FAILURE: u8 = 1;
/// The command line is wrong; nothing was done.
pub const USAGE: u8 = 2;
/// No Temporal server answers at the address; or a task source was down at the end of a run, and results could not be published.
pub const SERVER_UNREACHABLE: u8 = 3;
/// The server answers, but has no such namespace.
pub const BAD_NAMESPACE: u8 = 4;
/// The dev server could not be started: no `temporal` command line tool, or it exited.
pub const NO_CLI: u8 = 5;
/// Worker processes died again and again, faster than they are replaced.
pub const CRASH_LOOP: u8 = 6;
/// Nobody polls the task queue; no workflow was started.
pub const NO_WORKER: u8 = 7;
/// The configuration is wrong: `shmworker.toml`; or of the connection a `TEMPORAL_*` variable, the config file, a profile, a
/// certificate, or credentials that the server refuses. Or a task source refuses: its table is not there, the password is wrong.
pub const CONFIG: u8 = 8;
/// A plug-in can't be loaded; nothing was started.
pub const PLUGIN: u8 = 9;
/// Ended by SIGINT, as shells report it: 128 + 2.
pub const INTERRUPTED: u8 = 130;

/// Why a command failed: an exit code, and one line for stderr.
#[derive(Debug)]
pub struct CliError {
    code: u8,
    line: String,
}

impl CliError {
    /// An error, shown as `error: message`.
    #[must_use]
    pub fn new(code: u8, message: impl fmt::Display) -> CliError {
        CliError::summary(code, format_args!("error: {message}"))
    }

    /// A last line that sums up what was reported before it, and is shown as it is.
    #[must_use]
    pub fn summary(code: u8, line: impl fmt::Display) -> CliError {
        CliError { code, line: one_line(&line.to_string()) }
    }

    /// The exit code, one of the constants of this module.
    #[must_use]
    pub fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl std::error::Error for CliError {}

/// What was typed may hold line ends and escape sequences; a message that quotes it stays one harmless line.
fn one_line(text: &str) -> String {
    text.trim_end().chars().fold(String::with_capacity(text.len()), |mut line, c| {
        if c.is_control() {
            line.extend(c.escape_default())
        } else {
            line.push(c)
        }
        line
    })
}

#[cfg(feature = "temporal")]
mod temporal {
    use super::{CRASH_LOOP, CliError, FAILURE, INTERRUPTED, NO_CLI, NO_WORKER, PLUGIN, USAGE};
    use crate::temporal::{RunError, connect::ConnectError, dev_server::DevServerError, starter::StarterError};

    impl From<ConnectError> for CliError {
        fn from(error: ConnectError) -> CliError {
            CliError::new(error.code(), error)
        }
    }

    impl From<RunError> for CliError {
        fn from(error: RunError) -> CliError {
            let code = match &error {
                RunError::Settings(_) => USAGE,
                RunError::Connect(error) => error.code(),
                RunError::Plugin(_) => PLUGIN,
                RunError::Bridge { code, .. } => code.unwrap_or(FAILURE),
                RunError::CrashLoop(_) => CRASH_LOOP,
                RunError::DevServer(_) => NO_CLI,
                RunError::Pool(_) | RunError::Unclean(_) => FAILURE,
            };
            CliError::new(code, error)
        }
    }

    impl From<DevServerError> for CliError {
        fn from(error: DevServerError) -> CliError {
            CliError::new(NO_CLI, error)
        }
    }

    impl From<StarterError> for CliError {
        fn from(error: StarterError) -> CliError {
            match error {
                StarterError::Connect(error) => error.into(),
                StarterError::NoWorker { .. } => CliError::new(NO_WORKER, error),
                StarterError::Failed { .. } => CliError::summary(FAILURE, error),
                StarterError::Interrupted { .. } => CliError::summary(INTERRUPTED, error),
                #[cfg(feature = "otlp")]
                StarterError::Spans { .. } => CliError::new(FAILURE, error),
                StarterError::Io(_) => CliError::new(FAILURE, error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "temporal")]
    #[test]
    fn what_is_wrong_with_the_server_has_the_code_by_which_the_bridge_tells() {
        use crate::temporal::connect::ConnectError::{BadNamespace, Config, Unreachable};
        let text = String::new;
        assert_eq!(Unreachable { address: text(), reason: text() }.code(), SERVER_UNREACHABLE);
        assert_eq!(BadNamespace { address: text(), namespace: text() }.code(), BAD_NAMESPACE);
        assert_eq!(Config(text()).code(), CONFIG);
    }

    #[test]
    fn a_message_is_one_line_whatever_it_quotes() {
        let error = CliError::new(USAGE, "invalid value 'a\nb\x1b[31m'\n");
        assert_eq!(error.to_string(), r"error: invalid value 'a\nb\u{1b}[31m'");
        assert_eq!(error.code(), USAGE);
    }
}
