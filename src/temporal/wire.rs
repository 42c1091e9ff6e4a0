//! What crosses the segment between the bridge and the worker processes: Core's own protobuf messages, each encoded once,
//! straight into the place where the other side decodes it.

use crate::{
    error::Corrupted,
    exec::endpoint::{Claimed, Endpoint, STATUS_OK, Submission, SubmitError, To},
    lockfree::table::TaskId,
};
use prost::Message;
use std::time::Duration;

/// Queue of first activations: whoever claims one owns the run.
pub(crate) const WORKFLOW_QUEUE: usize = 0;
/// Queue of activity tasks.
pub(crate) const ACTIVITY_QUEUE: usize = 1;
/// What they are called in the segment, in their order.
pub(crate) const QUEUES: [&str; 2] = ["workflow", "activity"];

/// What a task's payload is, and what its result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Kind {
    /// `WorkflowActivation` in, `WorkflowActivationCompletion` out. Bridge to workflow process.
    Activation = 1,
    /// `ActivityTask` (start) in, `ActivityTaskCompletion` out. Bridge to activity process.
    Activity = 2,
    /// `ActivityTask` (cancel) in, nothing out. Bridge to the activity process that runs it.
    CancelActivity = 3,
    /// `ActivityHeartbeat` in, nothing out. Activity process to bridge.
    Heartbeat = 4,
    /// A run's id in, nothing out: what began before this task was submitted is forgotten. Bridge to workflow process.
    Forget = 5,
    /// Nothing in, nothing out: its submitter wants to end, and may once this is answered. Workflow process to bridge.
    Leave = 6,
}

impl Kind {
    pub(crate) fn of(claimed: &Claimed<'_>) -> Option<Kind> {
        Some(match claimed.kind() {
            1 => Kind::Activation,
            2 => Kind::Activity,
            3 => Kind::CancelActivity,
            4 => Kind::Heartbeat,
            5 => Kind::Forget,
            6 => Kind::Leave,
            _ => return None,
        })
    }
}

/// Status of a task that came from a bridge which is gone, or that its receiver can't read.
pub(crate) const STATUS_REFUSED: u32 = 1;

/// Writes a message of a known length into exactly that much room.
fn encode(message: &impl Message, mut room: &mut [u8]) {
    message.encode(&mut room).expect("the room was measured by encoded_len");
}

/// Submits a message. Nothing is accepted on an error. One large block is left for answers, each of which may need as much: if
/// messages had them all, none would be answered, and none would go.
pub(crate) fn submit(endpoint: &Endpoint, message: &impl Message, s: Submission) -> Result<TaskId, SubmitError> {
    let mut draft = endpoint.sparing_draft(message.encoded_len())?;
    encode(message, draft.payload()?);
    Ok(draft.submit(s)?)
}

/// A message to one participant or queue with one attempt and no note. After a death of its worker it is never begun again,
/// whoever's fault that was: Temporal decides.
pub(crate) fn once(to: To, kind: Kind, tag: u64) -> Submission {
    Submission { kind: kind as u32, tag, retry_on: 0, ..Submission::new(to) }
}

/// Completes a task with a message; with what `instead` makes of the reason if no segment could take it.
///
/// While the arena is full the calling thread waits: the receiver frees blocks as it takes results.
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
    use crate::exec::tests::Pool;

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
