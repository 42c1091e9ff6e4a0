//! Cancellation of what runs: the request against whatever becomes of the task meanwhile (\[cancel]).

use super::{Actor, COORDINATOR, HOUR, Part, QUEUE, Storage, Take, explore, explore_alive, join, settle};
use crate::{
    lockfree::{
        table::{Again, TaskId},
        word::{Outcome, Phase},
    },
    sync::Relaxed,
};
use std::sync::Arc;

const FIRST: TaskId = TaskId { index: 0, generation: 0 };

const CANCEL: Part = |a| a.cancel(1, FIRST);

const WORK: Part = |a| {
    a.work(QUEUE);
};

/// Ends the task as it is asked to, if it sees that.
const WORK_AND_OBEY: Part = |a| {
    if let Some((task, _)) = a.claim(QUEUE) {
        let is_asked = a.table().is_cancel_asked(task.index, task.word);
        a.complete(task, if is_asked { Outcome::Cancelled } else { Outcome::Completed });
    }
};

const HAND_BACK: Part = |a| a.give_back(QUEUE, Again::SameAttempt);

const RETRY_LATER: Part = |a| a.give_back(QUEUE, Again::After(HOUR));

/// A task was submitted; the victim and the others play.
fn submitted(take: Take, cast: fn(Actor, [Actor; 2]) -> Vec<(Actor, Part)>) -> bool {
    let storage = Arc::new(Storage::new(4, 1));
    let [coordinator, mut submitter, first, second] = std::array::from_fn(|id| Actor::new(&storage, id));
    assert_eq!(submitter.submit(1), Some(FIRST));
    let (victim, others) = take.play(&coordinator, cast(submitter, [first, second]));
    let died = victim.died;
    let mut actors = vec![coordinator, victim];
    actors.extend(others.into_iter().map(join));
    if died {
        actors[COORDINATOR].tick();
    }
    // Who was told that it runs expects its end soon, and not when its time has come.
    let is_asked = actors.iter().any(|a| !a.asked.is_empty());
    let word = storage.table().load(0);
    assert!(!(is_asked && word.is(Phase::Delayed)), "{word:?} waits, though its end was asked for");
    settle(actors);
    died
}

#[test]
fn worker_that_is_asked_to_end_dies() {
    explore("worker_that_is_asked_to_end_dies", 3, |take| {
        submitted(take, |submitter, [worker, _]| vec![(worker, WORK_AND_OBEY), (submitter, CANCEL)])
    });
}

#[test]
fn who_asks_for_the_end_dies() {
    explore("who_asks_for_the_end_dies", 3, |take| {
        submitted(take, |submitter, [worker, _]| vec![(submitter, CANCEL), (worker, WORK_AND_OBEY)])
    });
}

/// No attempt begins behind the back of one who was told that the task runs.
#[test]
fn worker_that_hands_back_what_is_cancelled_dies() {
    explore("worker_that_hands_back_what_is_cancelled_dies", 1, |take| {
        submitted(take, |submitter, [first, second]| vec![(first, HAND_BACK), (second, WORK), (submitter, CANCEL)])
    });
}

#[test]
fn who_cancels_what_is_handed_back_dies() {
    explore("who_cancels_what_is_handed_back_dies", 1, |take| {
        submitted(take, |submitter, [first, second]| vec![(submitter, CANCEL), (first, HAND_BACK), (second, WORK)])
    });
}

#[test]
fn worker_that_puts_off_what_is_cancelled_dies() {
    explore("worker_that_puts_off_what_is_cancelled_dies", 3, |take| {
        submitted(take, |submitter, [worker, _]| vec![(worker, RETRY_LATER), (submitter, CANCEL)])
    });
}

/// The coordinator gives the task of a dead worker its next attempt while its submitter cancels, and another worker waits.
#[test]
fn worker_dies_over_what_is_cancelled() {
    explore("worker_dies_over_what_is_cancelled", 1, |take| {
        submitted(take, |submitter, [first, second]| vec![(first, WORK), (second, WORK), (submitter, CANCEL)])
    });
}

/// A request that comes late, for a former life of the descriptor, is no request of the next, and covers none.
#[test]
fn a_late_request_leaves_the_next_life_alone() {
    explore_alive("a_late_request_leaves_the_next_life_alone", 2, |take| {
        let storage = Arc::new(Storage::new(3, 1));
        let [mut worker, mut submitter, second] = std::array::from_fn(|id| Actor::new(&storage, id));
        assert_eq!(submitter.submit(1), Some(FIRST));
        let (task, _) = worker.claim(QUEUE).unwrap();
        let late = submitter.thread();
        let next_life: Part = |a| {
            if a.take()
                && let Some(task) = a.submit(2)
            {
                a.cancel(2, task);
            }
        };
        let threads = take.start(vec![(late, 0, CANCEL), (submitter, 0, next_life), (second, 0, HAND_BACK)]);
        worker.complete(task, Outcome::Completed);
        let mut actors = vec![worker];
        actors.extend(threads.into_iter().map(join));
        settle(actors);
        assert_eq!(storage.descriptors[0].max_attempts.load(Relaxed), u8::MAX.into());
    });
}
