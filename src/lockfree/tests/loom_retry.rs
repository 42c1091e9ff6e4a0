//! Tasks that are given back to be attempted again, at once or later, against the deaths of those whom they concern.

use super::{Actor, COORDINATOR, HOUR, MS, Part, QUEUE, START, Storage, explore, explore_alive, join, play, settle};
use crate::{
    lockfree::{
        participant::Name,
        table::{Again, Owned},
        word::Phase,
    },
    sync::{Relaxed, set_monotonic},
};
use std::sync::Arc;

const WORK: Part = |a| {
    a.work(QUEUE);
};

const HAND_BACK: Part = |a| a.give_back(QUEUE, Again::SameAttempt);

const RETRY_NOW: Part = |a| a.give_back(QUEUE, Again::After(0));

const RETRY_LATER: Part = |a| a.give_back(QUEUE, Again::After(HOUR));

const SUBMIT_AND_TAKE: Part = |a| {
    a.submit(1);
    a.take();
};

const TAKE: Part = |a| {
    a.take();
};

#[test]
fn worker_that_gives_back_dies() {
    for part in [HAND_BACK, RETRY_NOW] {
        explore("worker_that_gives_back_dies", 2, move |take| {
            play(take, Storage::new(4, 1), &[part, WORK, SUBMIT_AND_TAKE])
        });
    }
}

/// What was told of the attempt while another had it is not told of who dies over it.
#[test]
fn who_gets_what_was_handed_back_dies() {
    explore("who_gets_what_was_handed_back_dies", 2, |take| {
        let storage = Arc::new(Storage::new(4, 1));
        storage.each(|d| d.max_attempts.store(1, Relaxed));
        let [coordinator, mut submitter, victim, other] = std::array::from_fn(|id| Actor::new(&storage, id));
        submitter.submit(1);
        let (victim, other) = take.play(&coordinator, vec![(victim, WORK), (other, HAND_BACK)]);
        let died = victim.died;
        let mut actors = vec![coordinator, submitter, victim];
        actors.extend(other.into_iter().map(join));
        settle(actors);
        died
    });
}

#[test]
fn submitter_of_what_is_given_back_dies() {
    for part in [HAND_BACK, RETRY_LATER] {
        explore("submitter_of_what_is_given_back_dies", 2, move |take| {
            play(take, Storage::new(4, 1), &[SUBMIT_AND_TAKE, part, WORK])
        });
    }
}

/// A worker ends its part in a task, in one way or another, while the submitter is found dead: \[orphan]. Then the worker
/// dies as well. Whatever it leaves must not wait for a submitter that is no more.
fn submitter_dies_then_worker(name: &str, part: Part, attempts: u32) {
    explore(name, 3, move |take| {
        let storage = Arc::new(Storage::new(3, 1));
        storage.each(|d| d.max_attempts.store(attempts, Relaxed));
        let [coordinator, mut submitter, worker] = std::array::from_fn(|id| Actor::new(&storage, id));
        submitter.submit(1);
        let mut threads = take.start(vec![(worker, take.death, part), (submitter, 1, TAKE)]);
        let submitter = join(threads.pop().unwrap());
        coordinator.recover(&submitter);
        let worker = join(threads.pop().unwrap());
        let died = worker.died;
        if died {
            coordinator.recover(&worker);
        }
        let word = storage.table().load(0);
        assert!(!word.is(Phase::Delayed), "{word:?} waits, and nobody for it");
        settle(vec![coordinator, submitter, worker]);
        died
    });
}

#[test]
fn submitter_dies_then_the_worker_that_completes() {
    submitter_dies_then_worker("submitter_dies_then_the_worker_that_completes", WORK, 2);
}

#[test]
fn submitter_dies_then_the_worker_over_the_last_attempt() {
    submitter_dies_then_worker("submitter_dies_then_the_worker_over_the_last_attempt", WORK, 1);
}

#[test]
fn submitter_dies_then_the_worker_that_hands_back() {
    submitter_dies_then_worker("submitter_dies_then_the_worker_that_hands_back", HAND_BACK, 2);
}

#[test]
fn submitter_dies_then_the_worker_that_puts_off() {
    submitter_dies_then_worker("submitter_dies_then_the_worker_that_puts_off", RETRY_LATER, 2);
}

/// The coordinator, which does not ask for whom a task is, ends it before the worker that gave it back finds nobody waiting.
#[test]
fn what_is_put_off_for_a_dead_submitter_expires() {
    explore_alive("what_is_put_off_for_a_dead_submitter_expires", 3, |take| {
        let storage = Arc::new(Storage::new(3, 1));
        storage.each(|d| d.expires.store(START + MS, Relaxed));
        let [coordinator, mut submitter, mut worker] = std::array::from_fn(|id| Actor::new(&storage, id));
        submitter.submit(1);
        worker.claim(QUEUE).unwrap();
        let submitter = submitter.live(1, TAKE);
        let put_off: Part = |a| {
            let task = Owned { index: 0, word: a.table().load(0) };
            a.give_back_claimed(task, 1, Again::After(HOUR));
        };
        let threads = take.start(vec![(worker, 0, put_off)]);
        coordinator.recover(&submitter);
        set_monotonic(START + 2 * MS);
        coordinator.tick();
        let mut actors = vec![coordinator, submitter];
        actors.extend(threads.into_iter().map(join));
        settle(actors);
    });
}

/// What was addressed to a worker and is handed back by it waits in its private lane, or dies with it.
#[test]
fn addressee_that_hands_back_dies() {
    explore("addressee_that_hands_back_dies", 3, |take| {
        let storage = Arc::new(Storage::new(3, 1));
        let [coordinator, mut submitter, addressee] = std::array::from_fn(|id| Actor::new(&storage, id));
        submitter.submit_to(Name::new(2, 1), 1);
        let hand_back: Part = |a| a.give_back(a.private(), Again::SameAttempt);
        let (addressee, submitter) = take.play(&coordinator, vec![(addressee, hand_back), (submitter, TAKE)]);
        let died = addressee.died;
        let mut actors = vec![coordinator, addressee];
        actors.extend(submitter.into_iter().map(join));
        settle(actors);
        died
    });
}

/// Two threads of a worker: one hands back what is addressed to it, the other sleeps until there is something.
#[test]
fn what_is_handed_back_to_a_private_lane_wakes_another_thread() {
    explore_alive("what_is_handed_back_to_a_private_lane_wakes_another_thread", 2, |take| {
        let storage = Arc::new(Storage::new(2, 1));
        let [mut submitter, addressee] = std::array::from_fn(|id| Actor::new(&storage, id));
        submitter.submit_to(Name::new(1, 1), 1);
        let hand_back: Part = |a| {
            let again = a.private();
            while a.returned.is_empty() && a.ran.is_empty() && a.table().load(0).is(Phase::Ready) {
                a.give_back(again, Again::SameAttempt);
            }
        };
        let await_private: Part = |a| a.sleep_until(&[], |a| a.work(a.private()));
        let other = addressee.thread();
        let mut actors = vec![submitter];
        actors.extend(take.start(vec![(addressee, 0, hand_back), (other, 0, await_private)]).into_iter().map(join));
        settle(actors);
    });
}

/// The coordinator dies while it moves a task whose time has come; its successor looks again.
#[test]
fn who_moves_a_delayed_task_dies() {
    explore("who_moves_a_delayed_task_dies", 2, |take| {
        let storage = Arc::new(Storage::new(4, 1));
        let [coordinator, mut submitter, mut worker, successor] = std::array::from_fn(|id| Actor::new(&storage, id));
        submitter.submit(1);
        RETRY_LATER(&mut worker);
        set_monotonic(2 * HOUR);
        let tick: Part = |a| {
            a.tick();
        };
        let threads = take.start(vec![(coordinator, take.death, tick), (worker, 0, WORK), (submitter, 0, TAKE)]);
        let mut actors: Vec<Actor> = threads.into_iter().map(join).collect();
        let died = actors[COORDINATOR].died;
        if died {
            successor.recover(&actors[COORDINATOR]);
            successor.tick();
        }
        actors.push(successor);
        let word = storage.table().load(0);
        assert!(!word.is(Phase::Delayed), "{word:?} is forgotten");
        settle(actors);
        died
    });
}
