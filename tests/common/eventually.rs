//! The one place where a test pauses: between two looks at a condition.

use std::{
    fmt, thread,
    time::{Duration, Instant},
};

/// How long anything may take before a test gives up: far longer than it takes on a machine that is busy with more.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(10);

/// Returns what `look` finds, as soon as it finds something.
#[track_caller]
pub(crate) fn eventually<T>(what: impl fmt::Display, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "after {PATIENCE:?} still not: {what}");
        thread::sleep(PAUSE);
    }
}
