//! Panics of workflow code, as failures that Temporal understands.

use crate::panics;
use temporalio_common::protos::temporal::api::failure::v1::Failure;

/// Runs `code`, the user's or code that calls the user's, and turns a panic into a failure that says what panicked, where and
/// with which message. As [`panics::catch`] beside that.
pub(super) fn catch<R>(what: &str, code: impl FnOnce() -> R) -> Result<R, Box<Failure>> {
    panics::catch(code).map_err(|panic| {
        let at = panic.place.map_or_else(String::new, |place| format!(" at {place}"));
        let message = format!("{what} panicked{at}: {}", panic.message);
        Box::new(Failure { stack_trace: panic.backtrace, ..Failure::application_failure(message, false) })
    })
}
