//! The worker processes: they have no connection, no Core and, for workflows, no runtime; all they have is the segment.
//!
//! A task of a bridge that is dead is refused, and with the first task of another bridge everything that belongs to the
//! former one is dropped: workflow runs are forgotten, activities cancelled. At most one bridge lives at a time, so the
//! submitter's name tells which is which.
use super::wire::STATUS_REFUSED;
use crate::{
    error::Corrupted,
    exec::endpoint::{Claimed, Endpoint, STATUS_OK, SubmitError},
    lockfree::participant::Name,
    process::{Mode, output::last_word},
};

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

pub(super) fn is_stopping(endpoint: &Endpoint) -> bool {
    Mode::of(&endpoint.segment().header().control) == Mode::Stopping
}

/// Whose task this is, in relation to the bridge that was served before.
pub(super) enum From {
    /// The same bridge as before.
    Same,
    /// Another one, and alive.
    Another,
    /// One that is dead: nobody waits for an answer.
    Dead,
}

pub(super) fn origin(endpoint: &Endpoint, claimed: &Claimed<'_>, current: Option<Name>) -> Result<From, Corrupted> {
    let submitter = claimed.submitter();
    Ok(if !endpoint.segment().table().is_live(submitter)? {
        From::Dead
    } else if current == Some(submitter) {
        From::Same
    } else {
        From::Another
    })
}

pub(super) fn refuse(claimed: Claimed<'_>) -> Result<(), Corrupted> {
    answer(claimed, STATUS_REFUSED)
}

/// Answers a task that asks for nothing.
pub(super) fn done(claimed: Claimed<'_>) -> Result<(), Corrupted> {
    answer(claimed, STATUS_OK)
}

fn answer(claimed: Claimed<'_>, status: u32) -> Result<(), Corrupted> {
    match claimed.complete(status, 0, |_| {}) {
        Err((SubmitError::Corrupted(damage), _)) => Err(damage),
        _ => Ok(()),
    }
}
