//! The worker processes: they have no connection, no Core and, for workflows, no runtime; all they have is the segment.
//!
//! A task of a bridge that is dead is refused, and with the first task of another bridge everything that belongs to the
//! former one is dropped: workflow runs are forgotten, activities cancelled.
pub(super) use crate::lanes::{From, done, is_stopping, origin, refuse};
use crate::{error::Corrupted, process::output::last_word};

/// What a worker ends with when the segment is damaged.
pub(super) const DAMAGED: u8 = 1;

pub(super) fn code(result: Result<(), Corrupted>) -> u8 {
    match result {
        Ok(()) => 0,
        Err(damage) => {
            last_word(&damage.to_string());
            DAMAGED
        }
    }
}
