//! What is where.

use super::wire;
use crate::{
    exec::endpoint::{Endpoint, Submission, SubmitError},
    lockfree::{participant::Name, table::TaskId},
};
use prost::Message;
use std::collections::HashMap;
use temporalio_common::protos::coresdk::activity_task::ActivityCancelReason;

/// What a task in the segment is to be answered with.
pub(super) enum Pending {
    Activation {
        run_id: String,
        eviction: bool,
    },
    Activity {
        token: Vec<u8>,
    },
    /// A message that needs no answer.
    Note,
}

/// Who holds a run.
pub(super) struct Run {
    /// `None` until its first activation has been answered.
    pub(super) owner: Option<Name>,
    /// An activation is with its owner, or on its way there or back.
    pub(super) outstanding: bool,
}

/// What is where. One lock over look-up, note and submission: a death in between would otherwise be noticed by neither.
#[derive(Default)]
pub(super) struct Routes {
    pub(super) runs: HashMap<String, Run>,
    /// By task token: the task, and why it was cancelled, if it was.
    pub(super) activities: HashMap<Vec<u8>, (TaskId, Option<ActivityCancelReason>)>,
    pub(super) pending: HashMap<u64, Pending>,
    last_tag: u64,
}

impl Routes {
    /// Notes what the next task is to be answered with, submits it, and takes the note back if that fails.
    pub(super) fn submit(
        &mut self,
        endpoint: &Endpoint,
        message: &impl Message,
        submission: Submission,
        pending: Pending,
    ) -> Result<TaskId, SubmitError> {
        self.last_tag += 1;
        let tag = self.last_tag;
        self.pending.insert(tag, pending);
        wire::submit(endpoint, message, Submission { tag, ..submission })
            .inspect_err(|_| drop(self.pending.remove(&tag)))
    }
}
