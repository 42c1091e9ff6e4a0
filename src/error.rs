//! Errors that more than one layer reports.

use std::fmt;

/// A word in the segment holds what no correct process can have written there.
///
/// Nothing is read or written through such a word. The segment is of no further use: the pool should be ended.
///
/// ```
/// # use shmworker::Corrupted;
/// fn report(damage: Corrupted) -> String {
///     format!("stopping: {damage}")
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Corrupted {
    place: &'static str,
    index: usize,
    found: u64,
}

impl Corrupted {
    #[cold]
    pub(crate) const fn new(place: &'static str, index: usize, found: u64) -> Corrupted {
        Corrupted { place, index, found }
    }
}

impl fmt::Display for Corrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shared memory is damaged: {} {} holds {:#x}", self.place, self.index, self.found)
    }
}

impl fmt::Debug for Corrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Corrupted {}
