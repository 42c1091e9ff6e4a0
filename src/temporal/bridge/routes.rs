//! What is where.

use super::{
    traces::{OfRun, Span},
    wire,
};
use crate::{
    error::Corrupted,
    exec::endpoint::{Claimed, Draft, Endpoint, Submission, SubmitError},
    lockfree::{participant::Name, table::TaskId},
};
use prost::Message;
use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::Arc,
    time::{Duration, Instant},
};
use temporalio_common::protos::coresdk::activity_task::ActivityCancelReason;

/// What a task in the segment is to be answered with.
pub(super) enum Pending {
    Activation(Activation),
    Activity {
        token: Vec<u8>,
        span: Option<Box<Span>>,
    },
    /// Its owner has it still, and is not one that can be told to forget it.
    Eviction {
        run_id: String,
    },
    /// A message that needs no answer.
    Note,
}

/// An activation that is with a process, or on its way there.
pub(super) struct Activation {
    pub(super) run_id: String,
    /// By which it is known what workflow task it is of.
    pub(super) history_length: u32,
    /// Whom it is for; `None`: the first of a run, for whoever is free.
    pub(super) owner: Option<Name>,
    pub(super) since: Instant,
    pub(super) task: Option<TaskId>,
    pub(super) span: Option<Box<Span>>,
}

/// An attempt of an activity.
#[derive(Default)]
pub(super) struct Attempt {
    /// `None`: there was no room for it yet.
    pub(super) task: Option<TaskId>,
    /// Why it was cancelled, if it was.
    pub(super) cancelled: Option<ActivityCancelReason>,
}

/// A run that Core has in its cache.
#[derive(Default)]
pub(super) struct Run {
    /// `None` until its first activation has been answered.
    pub(super) owner: Option<Name>,
    /// An activation is with its owner, or on its way there or back.
    pub(super) is_outstanding: bool,
    pub(super) workflow_type: String,
    /// How long the server lets a workflow task of its take.
    pub(super) task_timeout: Option<Duration>,
    /// The last command that it gave, for people.
    pub(super) last_command: String,
    /// `None`: nobody wants to know.
    pub(super) trace: Option<Arc<OfRun>>,
}

/// What is where. One lock over look-up, note and submission: a death in between would otherwise be noticed by neither.
#[derive(Default)]
pub(super) struct Routes {
    pub(super) runs: HashMap<String, Run>,
    /// By task token.
    pub(super) activities: HashMap<Vec<u8>, Attempt>,
    pub(super) pending: HashMap<u64, Pending>,
    /// Processes that end once they have no run any more, with what they are told then.
    pub(super) leaving: HashMap<Name, Claimed<'static>>,
    /// Processes that keep others' activations waiting: no run is to stay with them.
    pub(super) overloaded: HashSet<Name>,
    /// Activations that have come to an end since the last look.
    pub(super) finished: usize,
    /// Something is under way, so that processes are to be looked at.
    pub(super) is_watched: bool,
    /// How many runs each process owns; none, if it is not among them.
    owned: HashMap<Name, usize>,
    last_tag: u64,
}

impl Routes {
    /// Submits a message, which is short, and notes what it is to be answered with.
    pub(super) fn submit(
        &mut self,
        endpoint: &Endpoint,
        message: &impl Message,
        submission: Submission,
        pending: Pending,
    ) -> Result<TaskId, SubmitError> {
        Ok(self.submit_draft(wire::draft(endpoint, message)?, submission, pending)?)
    }

    /// The same, of a message that was encoded before the lock was taken.
    pub(super) fn submit_draft(
        &mut self,
        draft: Draft<'_>,
        submission: Submission,
        pending: Pending,
    ) -> Result<TaskId, Corrupted> {
        self.last_tag += 1;
        let tag = self.last_tag;
        let task = draft.submit(Submission { tag, ..submission })?;
        // Whoever takes the result has to have the lock first.
        let pending = match pending {
            Pending::Activation(activation) => Pending::Activation(Activation { task: Some(task), ..activation }),
            other => other,
        };
        self.pending.insert(tag, pending);
        Ok(task)
    }

    /// The activations that are with processes or on their way there.
    pub(super) fn activations(&self) -> impl Iterator<Item = &Activation> {
        self.pending.values().filter_map(|p| if let Pending::Activation(a) = p { Some(a) } else { None })
    }

    /// The runs of such owners that have nothing to do, as far as is known here.
    pub(super) fn parked(&self, is_owner: impl Fn(Option<Name>) -> bool) -> Vec<String> {
        let parked = self.runs.iter().filter(|(_, run)| !run.is_outstanding && is_owner(run.owner));
        parked.map(|(id, _)| id.clone()).collect()
    }

    /// A run's first activation was answered by `owner`, unless it has one already. Returns its owner.
    pub(super) fn own(&mut self, run_id: &str, owner: Option<Name>) -> Option<Name> {
        let run = self.runs.get_mut(run_id)?;
        if run.owner.is_none()
            && let Some(owner) = owner
        {
            run.owner = Some(owner);
            *self.owned.entry(owner).or_default() += 1;
        }
        run.owner
    }

    /// Core has no use for the run any more.
    pub(super) fn remove(&mut self, run_id: &str) {
        let Some(Run { owner: Some(owner), .. }) = self.runs.remove(run_id) else { return };
        if let Entry::Occupied(mut owned) = self.owned.entry(owner) {
            *owned.get_mut() -= 1;
            if *owned.get() == 0 {
                owned.remove();
            }
        }
    }

    /// Those who want to leave, and have no run any more.
    pub(super) fn free_to_leave(&mut self) -> Vec<Claimed<'static>> {
        self.leaving.extract_if(|name, _| !self.owned.contains_key(name)).map(|(_, leave)| leave).collect()
    }

    /// Is no run to stay with this process?
    pub(super) fn is_to_be_left(&self, owner: Name) -> bool {
        self.leaving.contains_key(&owner) || self.overloaded.contains(&owner)
    }
}
