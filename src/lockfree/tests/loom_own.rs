//! Who runs a task that it has submitted itself, past the lane, in which the hint stays.

use super::{Actor, Part, QUEUE, Storage, explore, join, play, settle};
use std::sync::Arc;

const OWN: Part = |a| {
    a.submit(1);
    a.work_own();
    a.take();
};

const WORK: Part = |a| {
    a.work(QUEUE);
};

#[test]
fn who_runs_its_own_task_dies() {
    explore("who_runs_its_own_task_dies", 2, |take| play(take, Storage::new(3, 1), &[OWN, WORK]));
}

#[test]
fn worker_beside_one_who_runs_its_own_dies() {
    explore("worker_beside_one_who_runs_its_own_dies", 2, |take| play(take, Storage::new(3, 1), &[WORK, OWN]));
}

/// A worker dies over a task. Another runs a task of its own, and removes the hint of the first one, which looks stale, while the
/// coordinator makes that READY again and looks whether the lane still holds a hint of it: \[remove].
#[test]
fn who_trims_meets_the_sweep() {
    explore("who_trims_meets_the_sweep", 2, |take| {
        let storage = Arc::new(Storage::new(4, 2));
        // The first is the coordinator.
        let [coordinator, mut submitter, victim, mut own] = std::array::from_fn(|id| Actor::new(&storage, id));
        submitter.submit(1);
        own.submit(2);
        let (victim, own) = take.play(&coordinator, vec![(victim, WORK), (own, Actor::work_own)]);
        let died = victim.died;
        let mut actors = vec![coordinator, submitter, victim];
        actors.extend(own.into_iter().map(join));
        settle(actors);
        died
    });
}
