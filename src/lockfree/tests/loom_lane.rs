//! Lanes that are too small for their tasks, and hints that are removed while somebody looks for them.

use super::{Actor, COORDINATOR, Death, EXIT, Part, QUEUE, Storage, explore, explore_alive, join, play, settle};
use crate::lockfree::{participant::Name, word::Phase};
use std::sync::Arc;

const SUBMIT_THREE: Part = |a| {
    a.submit(1);
    a.submit(2);
    a.submit(3);
};

const WORK_ONE: Part = |a| {
    a.work(QUEUE);
};

const WORK_THREE: Part = |a| {
    a.work(QUEUE);
    a.work(QUEUE);
    a.work(QUEUE);
};

#[test]
fn submitter_to_a_full_lane_dies() {
    explore("submitter_to_a_full_lane_dies", 1, |take| play(take, Storage::new(3, 3), &[SUBMIT_THREE, WORK_THREE]));
}

#[test]
fn worker_at_a_full_lane_dies() {
    explore("worker_at_a_full_lane_dies", 2, |take| play(take, Storage::new(3, 3), &[WORK_THREE, SUBMIT_THREE]));
}

/// Two pushers find the lane full while a worker empties it and looks: the flag must carry both of their tasks.
#[test]
fn one_flag_carries_two_overflows() {
    explore_alive("one_flag_carries_two_overflows", 2, |take| {
        let storage = Arc::new(Storage::new(4, 4));
        let mut first = Actor::new(&storage, COORDINATOR);
        first.submit(1);
        first.submit(2);
        let push: Part = |a| {
            a.submit(10 + u64::from(a.name.id()));
        };
        let [p, q, worker] = [1, 2, 3].map(|id| Actor::new(&storage, id));
        let mut actors = vec![first];
        actors.extend(take.start(vec![(worker, 0, WORK_THREE), (p, 0, push), (q, 0, push)]).into_iter().map(join));
        settle(actors);
    });
}

/// A worker dies over a task. Another meets its hint, which looks stale, and removes it, while the coordinator makes the
/// task READY again and looks whether the lane still holds a hint of it: \[remove].
#[test]
fn remover_of_a_stale_hint_meets_the_sweep() {
    explore("remover_of_a_stale_hint_meets_the_sweep", 3, |take| {
        let storage = Arc::new(Storage::new(4, 1));
        let (coordinator, mut submitter) = (Actor::new(&storage, COORDINATOR), Actor::new(&storage, 1));
        submitter.submit(1);
        let [victim, remover] = [2, 3].map(|id| (Actor::new(&storage, id), WORK_ONE));
        let (victim, remover) = take.play(&coordinator, vec![victim, remover]);
        let died = victim.died;
        let mut actors = vec![coordinator, submitter, victim];
        actors.extend(remover.into_iter().map(join));
        settle(actors);
        died
    });
}

/// The same, where who removes the hint is stopped for good before it looks again. The task has a hint of its own by then.
#[test]
fn who_is_stopped_over_a_stale_hint_hides_no_task() {
    explore("who_is_stopped_over_a_stale_hint_hides_no_task", 3, |take| {
        let storage = Arc::new(Storage::new(4, 1));
        let [coordinator, mut submitter, victim, remover] = std::array::from_fn(|id| Actor::new(&storage, id));
        submitter.submit(1);
        let victim = victim.live(2, WORK_ONE);
        assert!(storage.table().load(0).is(Phase::Claimed), "it died before its second step, the removal");
        let recover: Part = |a| {
            a.table().recover(&a.cursors, a.name, Name::new(2, 1), Death::of(EXIT)).unwrap();
        };
        let threads = take.start(vec![(remover, take.death, WORK_ONE), (coordinator, 0, recover)]);
        let mut actors: Vec<Actor> = threads.into_iter().map(join).collect();
        let (remover, coordinator) = (&actors[0], &actors[1]);
        let is_stopped = remover.died;
        if is_stopped && !storage.table().load(0).is(Phase::Ready) {
            coordinator.recover(remover); // what it has taken it may keep as long as it lives
        }
        actors.extend([submitter, victim]);
        settle(actors);
        is_stopped
    });
}
