//! Several queues, polled by order of priority, and several threads of one participant.

use super::{Actor, LaneId, Part, Storage, explore, explore_alive, join, play, settle};
use std::sync::Arc;

const HIGH: LaneId = LaneId(0);
const LOW: LaneId = LaneId(1);
const BOTH: &[LaneId] = &[HIGH, LOW];

impl Actor {
    /// Runs one task, of the first queue that has any.
    fn work_any(&mut self) -> bool {
        BOTH.iter().any(|&queue| self.work(queue))
    }

    fn submit_to_queue(&mut self, queue: LaneId, input: u64) {
        self.publish(input, queue, None);
    }
}

const SUBMIT_LOW_AND_HIGH: Part = |a| {
    a.submit_to_queue(LOW, 1);
    a.submit_to_queue(HIGH, 2);
};

const WORK_TWO: Part = |a| {
    a.work_any();
    a.work_any();
};

const AWAIT_ANY: Part = |a| a.sleep_until(BOTH, Actor::work_any);

const AWAIT_LOW: Part = |a| a.sleep_until(&[LOW], |a| a.work(LOW));

#[test]
fn worker_of_two_queues_dies() {
    explore("worker_of_two_queues_dies", 2, |take| {
        play(take, Storage::with_queues(2, 3, 2), &[WORK_TWO, SUBMIT_LOW_AND_HIGH])
    });
}

/// What comes to the first queue is run before what had come to the second.
#[test]
fn the_first_queue_comes_first() {
    explore_alive("the_first_queue_comes_first", 3, |take| {
        let storage = Arc::new(Storage::with_queues(2, 3, 3));
        let [mut submitter, worker, other] = std::array::from_fn(|id| Actor::new(&storage, id));
        SUBMIT_LOW_AND_HIGH(&mut submitter);
        let submit_low: Part = |a| a.submit_to_queue(LOW, 3);
        let threads = take.start(vec![(worker, 0, WORK_TWO), (other, 0, submit_low)]);
        let mut actors = vec![submitter];
        actors.extend(threads.into_iter().map(join));
        assert_eq!(actors[1].ran.iter().map(|r| r.0).collect::<Vec<_>>(), [2, 1]);
        settle(actors);
    });
}

/// Both wakes may come to one worker, which passes on what was meant for the second.
#[test]
fn tasks_of_two_queues_wake_two_sleepers() {
    explore_alive("tasks_of_two_queues_wake_two_sleepers", 1, |take| {
        let storage = Arc::new(Storage::with_queues(2, 3, 2));
        let [submitter, first, second] = std::array::from_fn(|id| Actor::new(&storage, id));
        let cast = vec![(submitter, 0, SUBMIT_LOW_AND_HIGH), (first, 0, AWAIT_ANY), (second, 0, AWAIT_ANY)];
        settle(take.start(cast).into_iter().map(join).collect());
    });
}

/// Two threads of one participant sleep before queues of their own, by one word and one set of cursors.
#[test]
fn threads_of_a_participant_sleep_side_by_side() {
    explore_alive("threads_of_a_participant_sleep_side_by_side", 2, |take| {
        let storage = Arc::new(Storage::with_queues(2, 2, 2));
        let [submitter, first] = std::array::from_fn(|id| Actor::new(&storage, id));
        let second = first.thread();
        let await_high: Part = |a| a.sleep_until(&[HIGH], |a| a.work(HIGH));
        let cast = vec![(submitter, 0, SUBMIT_LOW_AND_HIGH), (first, 0, await_high), (second, 0, AWAIT_LOW)];
        settle(take.start(cast).into_iter().map(join).collect());
    });
}

/// The same, before one queue: one bit of the idle mask stands for both.
#[test]
#[ignore = "large: run by hand"]
fn threads_of_a_participant_sleep_before_one_queue() {
    explore_alive("threads_of_a_participant_sleep_before_one_queue", 1, |take| {
        let storage = Arc::new(Storage::with_queues(2, 2, 2));
        let [submitter, first] = std::array::from_fn(|id| Actor::new(&storage, id));
        let second = first.thread();
        let submit_low: Part = |a| {
            a.submit_to_queue(LOW, 1);
            a.submit_to_queue(LOW, 2);
        };
        let cast = vec![(submitter, 0, submit_low), (first, 0, AWAIT_LOW), (second, 0, AWAIT_LOW)];
        settle(take.start(cast).into_iter().map(join).collect());
    });
}
