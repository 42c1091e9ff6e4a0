//! What crosses the segment between the bridge and the worker processes: Core's own protobuf messages, each encoded once,
//! straight into the place where the other side decodes it.

pub(crate) use crate::lanes::{ACTIVITY_QUEUE, BRIDGE_QUEUE, Kind, QUEUES, STATUS_REFUSED, WORKFLOW_QUEUE, once};
use crate::{
    error::Corrupted,
    exec::endpoint::{Claimed, Draft, Endpoint, STATUS_OK, Submission, SubmitError},
    lockfree::table::TaskId,
};
use prost::Message;
use std::time::Duration;

/// Writes a message of a known length into exactly that much room.
fn encode(message: &impl Message, mut room: &mut [u8]) {
    message.encode(&mut room).expect("the room was measured by encoded_len");
}

/// A message that is ready to be submitted. One large block is left for answers, each of which may need as much: if messages had
/// them all, none would be answered, and none would go.
pub(crate) fn draft<'e>(endpoint: &'e Endpoint, message: &impl Message) -> Result<Draft<'e>, SubmitError> {
    let mut draft = endpoint.sparing_draft(message.encoded_len())?;
    encode(message, draft.payload()?);
    Ok(draft)
}

/// Submits a message. Nothing is accepted on an error.
pub(crate) fn submit(endpoint: &Endpoint, message: &impl Message, s: Submission) -> Result<TaskId, SubmitError> {
    Ok(draft(endpoint, message)?.submit(s)?)
}

/// Completes a task with a message; with what `instead` makes of the reason if no segment could take it.
///
/// While the arena is full the calling thread waits, which counts against no limit: the receiver frees blocks as it takes results.
pub(crate) fn complete<M: Message>(
    mut claimed: Claimed<'_>,
    message: &M,
    instead: impl FnOnce(String) -> M,
) -> Result<(), Corrupted> {
    loop {
        match claimed.complete(STATUS_OK, message.encoded_len(), |room| encode(message, room)) {
            Ok(()) => return Ok(()),
            Err((SubmitError::Corrupted(damage), _)) => return Err(damage),
            Err((e, Some(c))) if e.is_transient() => {
                c.restart_clock();
                c.pause(Duration::from_millis(1));
                claimed = c;
            }
            Err((e, Some(c))) => {
                let message = instead(e.to_string());
                return match c.complete(STATUS_OK, message.encoded_len(), |room| encode(&message, room)) {
                    Err((SubmitError::Corrupted(damage), _)) => Err(damage),
                    // Not even room for that: the task is dropped, which its submitter sees as given up.
                    _ => Ok(()),
                };
            }
            Err((_, None)) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::{endpoint::To, tests::Pool};

    #[test]
    fn messages_leave_room_for_an_answer_of_their_size() {
        let pool = Pool::new(QUEUES.len());
        let (bridge, worker) = (pool.endpoint(), pool.endpoint());
        let message = vec![1u8; 3 << 20];
        let send = || submit(&bridge, &message, once(To::Queue(ACTIVITY_QUEUE), Kind::Activity, 0));
        let full = std::iter::repeat_with(send).find_map(Result::err).expect("some limit");
        assert!(full.is_transient(), "{full}");
        // All of them at work, at a time, as the attempts of an activity process are.
        let claim = || worker.claim(worker.queue(ACTIVITY_QUEUE)).unwrap();
        for claimed in std::iter::from_fn(claim).collect::<Vec<_>>() {
            let done = claimed.complete(STATUS_OK, message.encoded_len(), |room| encode(&message, room));
            assert!(done.is_ok(), "no room for any answer");
            assert!(bridge.take().unwrap().is_some_and(|done| done.went_well()));
        }
        pool.assert_clean();
    }
}
