//! `shmworker successor`, which help doesn't show: what the coordinator of a pool of `jobs` or `run --source` executes when it is told
//! to [`upgrade`](super::upgrade).
//!
//! Of the command's own arguments it has those that say which tasks there are: it reads no input and no environment, from which
//! secrets are gone by then.

use super::exit::{self, CliError};
use crate::{
    Tasks, jobs,
    logs::{self, Format},
    pool::work,
};
use nix::{
    sys::signal::{SigSet, Signal, kill},
    unistd::Pid,
};
use std::{ffi::OsString, path::PathBuf};

/// What `shmworker successor` was told.
#[derive(clap::Args)]
pub(crate) struct SuccessorArgs {
    /// Shared library with further tasks
    #[arg(long, value_name = "FILE")]
    load: Vec<PathBuf>,
    /// What lines on standard error are; none without
    #[arg(long, value_name = "text|json", value_parser = str::parse::<Format>)]
    log_format: Option<Format>,
}

/// What makes a pool with these libraries.
pub(super) fn args(load: &[PathBuf], format: Option<Format>) -> Vec<OsString> {
    let format = format.map(|format| if format == Format::Json { "json" } else { "text" });
    let format = format.into_iter().flat_map(|format| ["--log-format", format]).map(OsString::from);
    let load = load.iter().flat_map(|library| ["--load".into(), library.clone().into_os_string()]);
    [OsString::from("successor")].into_iter().chain(format).chain(load).collect()
}

/// Goes on with the pool to which this process is invited.
///
/// # Errors
/// It is not invited, or can't go on.
pub(crate) fn run(args: SuccessorArgs) -> Result<(), CliError> {
    if let Some(format) = args.log_format {
        logs::start(format);
    }
    let mut tasks = Tasks::new();
    jobs::builtin(&mut tasks);
    for library in args.load {
        tasks.load(library).map_err(|e| CliError::new(exit::PLUGIN, e))?;
    }
    let code = work(tasks).map_err(|e| CliError::new(exit::FAILURE, e))?;
    std::process::exit(code.into());
}

/// From here on a SIGUSR2 for this process waits for the thread that [passes it on](pass_on). To be called before there is a pool,
/// by whose name somebody may find this process.
///
/// # Errors
/// The kernel's.
pub(super) fn hold_back() -> Result<(), CliError> {
    let signals: SigSet = [Signal::SIGUSR2].into_iter().collect();
    let failed = |e| CliError::new(exit::FAILURE, format_args!("signals cannot be waited for: {e}"));
    signals.thread_block().map_err(failed)
}

/// SIGUSR2 for a command is meant for the coordinator of its pool.
pub(super) fn pass_on(coordinator: u32) {
    // It has not been reaped while its pool is there; if it has ended there is nothing to upgrade.
    let _ = kill(Pid::from_raw(coordinator.cast_signed()), Signal::SIGUSR2);
}
