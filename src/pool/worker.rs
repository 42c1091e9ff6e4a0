//! What a worker process of a pool does: claims tasks, runs their handlers, and leaves what came of them.

use super::{context::Context, panics, tasks::Tasks};
use crate::{
    error::Corrupted,
    exec::endpoint::{Claimed, STATUS_OK, SubmitError},
    process::coordinator::Seat,
};
use std::time::Duration;

/// The handler gave an error: the output is its text.
pub(crate) const STATUS_FAILED: u32 = 1;
/// The handler panicked: the output is where, and what it said.
pub(crate) const STATUS_PANICKED: u32 = 2;
/// There is no such task in this worker's program.
pub(crate) const STATUS_UNKNOWN: u32 = 3;
/// The output is larger than any payload may be: the output is that.
pub(crate) const STATUS_TOO_LARGE: u32 = 4;

/// How long to wait for room for an output before looking again.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs tasks of all queues, the first before the second, until the pool stops or this worker is to leave.
///
/// # Errors
/// [`Corrupted`] if the segment is damaged.
pub(crate) fn work(seat: &Seat, tasks: &Tasks, queues: usize) -> Result<(), Corrupted> {
    let endpoint = seat.endpoint;
    let queues: Vec<_> = (0..queues).map(|q| endpoint.queue(q)).collect();
    seat.ready();
    while !seat.is_over()
        && let Some(claimed) = endpoint.next(&queues, || seat.is_over())?
    {
        run(tasks, claimed)?;
        seat.after_task();
    }
    Ok(())
}

fn run(tasks: &Tasks, claimed: Claimed<'_>) -> Result<(), Corrupted> {
    let Some(handler) = tasks.get(claimed.kind()) else {
        return leave(claimed, STATUS_UNKNOWN, &[]);
    };
    let mut output = Vec::new();
    let input = claimed.input()?;
    let context = Context { claimed: &claimed };
    let result = panics::catch(|| handler(&context, input, &mut |bytes| output.extend_from_slice(bytes)));
    match result {
        Ok(Ok(())) => leave(claimed, STATUS_OK, &output),
        Ok(Err(failure)) => leave(claimed, STATUS_FAILED, failure.into_message().as_bytes()),
        Err(panic) => leave(claimed, STATUS_PANICKED, panic.to_string().as_bytes()),
    }
}

/// Completes a task, waiting for room for its output if there is none.
fn leave(mut claimed: Claimed<'_>, status: u32, output: &[u8]) -> Result<(), Corrupted> {
    let (mut status, mut output) = (status, output);
    let mut text;
    loop {
        match claimed.complete(status, output.len(), |place| place.copy_from_slice(output)) {
            Ok(()) => return Ok(()),
            Err((SubmitError::Corrupted(e), _)) => return Err(e),
            Err((_, None)) => return Ok(()),
            Err((error, Some(back))) if error.is_transient() => {
                back.pause(PAUSE);
                claimed = back;
            }
            Err((error, Some(back))) => {
                text = error.to_string();
                (claimed, status, output) = (back, STATUS_TOO_LARGE, text.as_bytes());
            }
        }
    }
}
