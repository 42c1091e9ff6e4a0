//! Which runs are to move, and how many activations the processes can take.
//!
//! A run can't be carried from process to process: Core evicts it, and whoever is free replays it when it next has something to do.
//! So runs are moved before they have:
//!
//! - *Overload.* A process that has kept an activation waiting for [`OVERLOADED`] loses its parked runs, and those that
//!   come to rest while that is so.
//! - *Leave.* A process that wants to end takes no new runs and says so. Its parked runs are evicted at once, the others as
//!   their activation is answered; when it has none any more it is told, and ends.
//!
//! An activation that is under way can't be moved, since Core issues no eviction while one is outstanding. If its owner, or anybody
//! in the case of a run's first, has not begun it in most of the time that the server gives, it is taken back and failed, as
//! the server would have done later; another process, here or elsewhere, then replays the run.

use super::{
    super::process::done,
    Bridge,
    routes::Activation,
    slots::{PERIOD, Slots},
};
use crate::{
    error::Corrupted,
    exec::endpoint::Claimed,
    lanes::Lanes,
    lockfree::{participant::Participant, word::Member},
    process::attach::GUEST,
    sync::{Acquire, Relaxed},
};
use std::time::{Duration, Instant};

/// How long a process may keep an activation waiting before its runs are moved.
const OVERLOADED: Duration = Duration::from_secs(1);
/// The server's own default.
const TASK_TIMEOUT: Duration = Duration::from_secs(10);

/// What the bridge knows of the processes that run workflows.
pub(super) struct Crew {
    pub(super) slots: Slots,
    /// How many of them the pool began with, and how many other workers follow those.
    began_with: usize,
    others: usize,
}

impl Crew {
    pub(super) fn new(workflow_processes: usize, activity_processes: usize) -> Crew {
        Crew { slots: Slots::new(workflow_processes), began_with: workflow_processes, others: activity_processes }
    }

    /// The coordinator counts its processes from 0, which is the bridge. What a pool gains later comes last. Guests say themselves
    /// what they serve.
    fn has(&self, participant: &Participant) -> bool {
        // Relaxed: the number was there before the participant was.
        match participant.role.load(Relaxed) {
            // Acquire: as in `is_raw`.
            GUEST => Lanes::of_status(participant.status.load(Acquire)).is_some_and(|l| l.has(Lanes::WORKFLOWS)),
            number => {
                let number = number as usize;
                (1..=self.began_with).contains(&number) || number > self.began_with + self.others
            }
        }
    }
}

impl Bridge {
    /// How many workflow processes live and stay.
    fn workflow_processes(&self) -> usize {
        let participants = self.endpoint.segment().table().participants.iter().enumerate();
        let stays =
            |id, p: &Participant| matches!(p.member(id), Ok(Member::Live(_))) && self.crew.has(p) && p.leaves() == 0;
        participants.filter(|(id, p)| stays(*id, p)).count()
    }

    /// Looks who is overloaded and how much is finished. Returns when to look again: `None` if nothing is under way.
    pub(super) fn balance(&self) -> Option<Instant> {
        let processes = self.workflow_processes();
        let mut routes = self.routes();
        let now = Instant::now();
        let has_waited = |a: &&Activation, at_least| {
            now.duration_since(a.since) >= at_least && a.task.is_some_and(|task| self.endpoint.waits(task))
        };
        let late: Vec<_> = routes.activations().filter(|a| has_waited(a, OVERLOADED)).collect();
        let is_running_out = |a: &Activation| {
            let timeout = routes.runs.get(&a.run_id).and_then(|run| run.task_timeout).unwrap_or(TASK_TIMEOUT);
            now.duration_since(a.since) >= timeout * 6 / 10
        };
        let taken_back = late.iter().filter(|a| is_running_out(a));
        let taken_back: Vec<_> = taken_back.filter_map(|a| Some((a.task?, a.owner, a.run_id.clone()))).collect();
        // One that is alone would have to replay them itself.
        let overloaded = late.into_iter().filter_map(|a| a.owner).filter(|_| processes > 1).collect();
        routes.overloaded = overloaded;
        let parked = match routes.overloaded.is_empty() {
            true => Vec::new(),
            false => routes.parked(|owner| owner.is_some_and(|owner| routes.overloaded.contains(&owner))),
        };
        let is_idle = routes.activations().next().is_none();
        let is_at_rest = self.crew.slots.adapt(processes, std::mem::take(&mut routes.finished));
        routes.is_watched = !(is_idle && is_at_rest);
        let is_watched = routes.is_watched;
        drop(routes);
        for (task, owner, run_id) in taken_back {
            tracing::warn!(run_id, ?owner, "an activation is taken back, since nobody has begun it for too long");
            // Once it is begun it goes on: then this changes nothing.
            if let Err(damage) = self.endpoint.cancel(task) {
                tracing::error!("{damage}");
            }
        }
        if !parked.is_empty() {
            tracing::info!(runs = parked.len(), "parked runs of an overloaded workflow process are moved");
        }
        parked.iter().for_each(|run_id| self.evict(run_id));
        is_watched.then(|| now + PERIOD)
    }

    /// A process wants to end. What it has answered before has been taken.
    pub(super) fn let_go(&self, leave: Claimed<'static>) -> Result<(), Corrupted> {
        let mut routes = self.routes();
        let name = leave.submitter();
        routes.leaving.insert(name, leave);
        let parked = routes.parked(|owner| owner == Some(name));
        drop(routes);
        parked.iter().for_each(|run_id| self.evict(run_id));
        self.release_leavers()
    }

    /// Tells those who want to leave, and have no run any more, that they may.
    pub(super) fn release_leavers(&self) -> Result<(), Corrupted> {
        let free = self.routes().free_to_leave();
        free.into_iter().try_for_each(done)
    }
}
