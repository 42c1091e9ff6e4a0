//! Logs: events of `tracing` as lines on standard error, as text or as JSON, and what commands say of themselves.
//!
//! In JSON each line is one object: `timestamp`, `level`, `target`, `message`, what the event has beside it, what the spans around it have,
//! and `worker`, the label of the process. So what a handler logs carries `worker`, `task` and `attempt` by the span in which it runs.

#[cfg(feature = "cli")]
mod json;

#[cfg(all(feature = "cli", any(feature = "jobs", feature = "temporal")))]
pub(crate) use json::{Format, start};

#[cfg(feature = "temporal")]
use serde_json::{Map, Value};
use std::{
    fmt,
    io::{self, Write},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

static IS_JSON: AtomicBool = AtomicBool::new(false);

/// Are lines to be JSON?
pub(crate) fn is_json() -> bool {
    IS_JSON.load(Relaxed) // set before there is a second thread
}

/// Of whom a line tells.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Of<'l> {
    pub(crate) worker: Option<&'l str>,
    pub(crate) pid: Option<i32>,
}

/// Says what goes on: on standard output, or as a log line of level INFO.
pub(crate) fn say(of: Of<'_>, line: impl fmt::Display) {
    match is_json() {
        true => tracing::info!(target: "shmworker::report", worker = of.worker, pid = of.pid, "{line}"),
        // A reader that has gone away has read enough, and `println!` would panic.
        false => drop(writeln!(io::stdout(), "{line}")),
    }
}

/// Says what goes wrong: on standard error, or as a log line of level ERROR.
pub(crate) fn complain(of: Of<'_>, line: impl fmt::Display) {
    match is_json() {
        true => tracing::error!(target: "shmworker::report", worker = of.worker, pid = of.pid, "{line}"),
        // Who has closed it wants to know nothing.
        false => drop(writeln!(io::stderr(), "{line}")),
    }
}

/// Hands on a line that a worker has printed: as it is if it is JSON already.
#[cfg(feature = "temporal")]
pub(crate) fn hand_on(worker: &str, is_error: bool, line: &str) {
    match (is_json(), is_error) {
        (false, false) => drop(writeln!(io::stdout(), "[{worker}] {line}")),
        (false, true) => drop(writeln!(io::stderr(), "[{worker}] {line}")),
        (true, _) if serde_json::from_str::<Map<String, Value>>(line).is_ok() => drop(writeln!(io::stderr(), "{line}")),
        (true, _) => {
            let stream = if is_error { "stderr" } else { "stdout" };
            tracing::info!(target: "shmworker::report", worker, stream, "{line}");
        }
    }
}
