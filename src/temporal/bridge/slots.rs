//! How many workflow tasks Core may have taken from the server: as many as the processes can begin soon.
//!
//! The server's workflow-task timeout (10 s) counts while one waits in our queue, and a poll that is under way can't be taken back.
//! So there are few slots for each process: with what one activation may take before it counts as a deadlock (2 s), those of an
//! idle pool come to their end in time even if each takes that long. Where activations are short there are more: as many as
//! have come to their end within the last [`PERIOD`], so that what waits is over after as long again.

use std::{
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use temporalio_sdk_core::{
    SlotMarkUsedContext, SlotReleaseContext, SlotReservationContext, SlotSupplier, SlotSupplierPermit, WorkflowSlotKind,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Slots for each workflow process.
const PER_PROCESS: RangeInclusive<usize> = 4..=32;
/// Core needs one for each of its two kinds of polls.
const LEAST: usize = 2;
/// How often the number is looked at while anything is under way.
pub(super) const PERIOD: Duration = Duration::from_millis(100);

/// The slots of an idle pool of so many workflow processes.
pub(super) fn at_rest(processes: usize) -> usize {
    (processes * PER_PROCESS.start()).max(LEAST)
}

/// Slots for workflow tasks, whose number changes.
#[derive(Clone)]
pub(super) struct Slots(Arc<Inner>);

struct Inner {
    free: Arc<Semaphore>,
    size: Mutex<Size>,
}

struct Size {
    slots: usize,
    /// So many of those that are in use are not to be given out again.
    surplus: usize,
}

impl Slots {
    /// Those of an idle pool of so many processes.
    pub(super) fn new(processes: usize) -> Slots {
        let slots = at_rest(processes);
        Slots(Arc::new(Inner { free: Arc::new(Semaphore::new(slots)), size: Mutex::new(Size { slots, surplus: 0 }) }))
    }

    /// There are so many processes, which have finished so many activations within the last [`PERIOD`]. Returns whether the pool
    /// is at rest, so that nothing is to be looked at again until something happens.
    pub(super) fn adapt(&self, processes: usize, finished: usize) -> bool {
        let (least, most) = (at_rest(processes), processes * PER_PROCESS.end());
        let slots = finished.clamp(least, most.max(least));
        self.0.resize(slots);
        slots == least
    }
}

impl Inner {
    fn size(&self) -> MutexGuard<'_, Size> {
        self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resize(&self, slots: usize) {
        let mut size = self.size();
        if slots >= size.slots {
            let more = slots - size.slots;
            let kept = more.min(size.surplus);
            size.surplus -= kept;
            self.free.add_permits(more - kept);
        } else {
            let less = size.slots - slots;
            size.surplus += less - self.free.forget_permits(less);
        }
        size.slots = slots;
    }
}

/// One slot, until Core drops it.
struct Slot {
    permit: Option<OwnedSemaphorePermit>,
    slots: Arc<Inner>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut size = self.slots.size();
        if size.surplus > 0
            && let Some(permit) = self.permit.take()
        {
            size.surplus -= 1;
            permit.forget();
        }
    }
}

impl Slots {
    fn take(&self, permit: OwnedSemaphorePermit) -> SlotSupplierPermit {
        SlotSupplierPermit::with_user_data(Slot { permit: Some(permit), slots: self.0.clone() })
    }
}

#[async_trait::async_trait]
impl SlotSupplier for Slots {
    type SlotKind = WorkflowSlotKind;

    async fn reserve_slot(&self, _: &dyn SlotReservationContext) -> SlotSupplierPermit {
        let permit = self.0.free.clone().acquire_owned().await;
        self.take(permit.expect("nobody closes the semaphore"))
    }

    fn try_reserve_slot(&self, _: &dyn SlotReservationContext) -> Option<SlotSupplierPermit> {
        self.0.free.clone().try_acquire_owned().ok().map(|permit| self.take(permit))
    }

    fn mark_slot_used(&self, _: &dyn SlotMarkUsedContext<SlotKind = WorkflowSlotKind>) {}

    fn release_slot(&self, _: &dyn SlotReleaseContext<SlotKind = WorkflowSlotKind>) {}

    fn available_slots(&self) -> Option<usize> {
        Some(self.0.free.available_permits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(slots: &Slots) -> usize {
        slots.0.free.available_permits()
    }

    #[test]
    fn slots_follow_what_is_finished_within_the_bounds_of_the_processes() {
        let slots = Slots::new(2);
        assert_eq!(free(&slots), 8);
        assert!(!slots.adapt(2, 1000));
        assert_eq!(free(&slots), 64);
        assert!(!slots.adapt(2, 20));
        assert_eq!(free(&slots), 20);
        assert!(slots.adapt(1, 3), "at rest");
        assert_eq!(free(&slots), 4);
        assert!(slots.adapt(0, 0));
        assert_eq!(free(&slots), LEAST, "Core polls on while every process is being replaced");
    }

    #[test]
    fn slots_in_use_that_are_too_many_are_not_given_out_again() {
        let slots = Slots::new(2);
        let mut used: Vec<_> = (0..8).map(|_| slots.take(slots.0.free.clone().try_acquire_owned().unwrap())).collect();
        slots.adapt(1, 0);
        used.truncate(5);
        assert_eq!(free(&slots), 0, "five of four are in use");
        // Those that are kept after all are not there twice.
        slots.adapt(2, 0);
        assert_eq!(free(&slots), 3);
        slots.adapt(1, 0);
        used.clear();
        assert_eq!(free(&slots), 4);
    }
}
