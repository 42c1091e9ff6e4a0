//! Sleeping and waking (`PARK.md`). A lost wake-up is a deadlock, which loom reports.

use super::{Actor, COORDINATOR, Part, QUEUE, Storage, explore, explore_alive, join, settle};
use crate::lockfree::{participant::Name, word::Outcome};
use std::sync::Arc;

/// Runs one task and is then busy for ever.
const AWAIT_WORK: Part = Actor::await_work;

const AWAIT_RESULT: Part = Actor::await_result;

/// Submits a task and sleeps for its result.
const SUBMIT_AND_AWAIT: Part = |a| {
    a.submit(1);
    a.await_result();
};

const SUBMIT_TWO: Part = |a| {
    a.submit(1);
    a.submit(2);
};

#[test]
fn there_and_back() {
    explore_alive("there_and_back", 3, |take| {
        let storage = Arc::new(Storage::new(2, 1));
        let [submitter, worker] = [0, 1].map(|id| Actor::new(&storage, id));
        let threads = take.start(vec![(submitter, 0, SUBMIT_AND_AWAIT), (worker, 0, AWAIT_WORK)]);
        settle(threads.into_iter().map(join).collect());
    });
}

#[test]
fn a_task_wakes_its_addressee() {
    explore_alive("a_task_wakes_its_addressee", 3, |take| {
        let storage = Arc::new(Storage::new(2, 1));
        let submit: Part = |a| {
            a.submit_to(Name::new(1, 1), 1);
            a.await_result();
        };
        let [submitter, worker] = [0, 1].map(|id| Actor::new(&storage, id));
        let threads = take.start(vec![(submitter, 0, submit), (worker, 0, AWAIT_WORK)]);
        settle(threads.into_iter().map(join).collect());
    });
}

/// What is left in the lanes of an id keeps nobody awake who gets it later and never looks there.
#[test]
fn hints_of_a_former_incarnation_let_it_sleep() {
    explore_alive("hints_of_a_former_incarnation_let_it_sleep", 3, |take| {
        let storage = Arc::new(Storage::new(2, 1));
        let mut coordinator = Actor::new(&storage, COORDINATOR);
        let mut former = Actor::new(&storage, 1);
        former.submit(1);
        coordinator.work(QUEUE);
        former.died = true;
        coordinator.recover(&former);
        let next = Actor::named(&storage, storage.table().admit(0, 0).unwrap().unwrap());
        assert_eq!(next.name, Name::new(1, 2));
        let submit: Part = |a| {
            a.submit_to(Name::new(1, 2), 2);
        };
        let mut actors = vec![former];
        actors.extend(take.start(vec![(coordinator, 0, submit), (next, 0, AWAIT_WORK)]).into_iter().map(join));
        settle(actors);
    });
}

#[test]
fn two_tasks_wake_two_sleepers() {
    explore_alive("two_tasks_wake_two_sleepers", 2, |take| {
        let storage = Arc::new(Storage::new(3, 2));
        let [submitter, first, second] = [0, 1, 2].map(|id| Actor::new(&storage, id));
        let cast = vec![(submitter, 0, SUBMIT_TWO), (first, 0, AWAIT_WORK), (second, 0, AWAIT_WORK)];
        settle(take.start(cast).into_iter().map(join).collect());
    });
}

/// A worker that is woken for two tasks, one of which only it can do, passes the wake for the other on.
#[test]
fn a_swallowed_wake_is_passed_on() {
    explore_alive("a_swallowed_wake_is_passed_on", 1, |take| {
        let storage = Arc::new(Storage::new(3, 3));
        let submit: Part = |a| {
            a.submit(2);
            a.submit_to(Name::new(1, 1), 1);
        };
        // If it comes to the queue first, it leaves another task in the place of that one.
        let await_private: Part = |a| {
            a.sleep_until(&[QUEUE], |a| a.work(a.private()) || a.work(QUEUE) && a.submit(3).is_some());
        };
        let [submitter, first, second] = [0, 1, 2].map(|id| Actor::new(&storage, id));
        let cast = vec![(submitter, 0, submit), (first, 0, await_private), (second, 0, AWAIT_WORK)];
        settle(take.start(cast).into_iter().map(join).collect());
    });
}

/// A worker that never sleeps looks for tasks without hints, stores hints of two and takes one: the other wakes a sleeper.
#[test]
fn a_rescan_wakes_for_what_it_leaves() {
    explore_alive("a_rescan_wakes_for_what_it_leaves", 2, |take| {
        let storage = Arc::new(Storage::new(3, 2));
        let mut submitter = Actor::new(&storage, 0);
        // Stale hints fill the lane, so that the next two tasks overflow.
        for input in [1, 2] {
            let task = submitter.submit(input).unwrap();
            submitter.cancel(input, task);
            submitter.take();
        }
        submitter.submit(3);
        submitter.submit(4);
        let work: Part = |a| {
            a.work(QUEUE);
        };
        let [busy, sleeper] = [1, 2].map(|id| Actor::new(&storage, id));
        let mut actors = vec![submitter];
        actors.extend(take.start(vec![(busy, 0, work), (sleeper, 0, AWAIT_WORK)]).into_iter().map(join));
        settle(actors);
    });
}

/// A worker that is never without a task finds one without a hint on the way: others may sleep.
#[test]
fn a_busy_worker_wakes_for_what_it_finds() {
    explore_alive("a_busy_worker_wakes_for_what_it_finds", 2, |take| {
        let storage = Arc::new(Storage::new(3, 3));
        let [mut submitter, mut busy, sleeper] = std::array::from_fn(|id| Actor::new(&storage, id));
        SUBMIT_TWO(&mut submitter);
        submitter.submit(3); // overflows
        busy.work(QUEUE);
        let claim: Part = |a| {
            let (task, _) = a.claim(QUEUE).unwrap();
            a.complete(task, Outcome::Completed);
        };
        let mut actors = vec![submitter];
        actors.extend(take.start(vec![(busy, 0, claim), (sleeper, 0, AWAIT_WORK)]).into_iter().map(join));
        settle(actors);
    });
}

#[test]
fn waker_dies() {
    explore("waker_dies", 2, |take| {
        let storage = Arc::new(Storage::new(3, 2));
        let mut coordinator = Actor::new(&storage, COORDINATOR);
        let submit: Part = |a| {
            a.submit(1);
        };
        let [waker, sleeper] = [1, 2].map(|id| Actor::new(&storage, id));
        let (waker, sleeper) = take.play(&coordinator, vec![(waker, submit), (sleeper, AWAIT_WORK)]);
        let died = waker.died;
        if died {
            // What the dead one submitted is dropped, unless it runs already: the sleeper may need another task.
            coordinator.submit(2);
        }
        let mut actors = vec![coordinator, waker];
        actors.extend(sleeper.into_iter().map(join));
        settle(actors);
        died
    });
}

#[test]
#[ignore = "large: run by hand"]
fn sleeper_dies() {
    explore("sleeper_dies", 1, |take| {
        let storage = Arc::new(Storage::new(4, 2));
        let coordinator = Actor::new(&storage, COORDINATOR);
        let [victim, other, submitter] = [1, 2, 3].map(|id| Actor::new(&storage, id));
        let cast = vec![(victim, AWAIT_WORK), (other, AWAIT_WORK), (submitter, SUBMIT_TWO)];
        let (victim, others) = take.play(&coordinator, cast);
        let died = victim.died;
        let mut actors = vec![coordinator, victim];
        actors.extend(others.into_iter().map(join));
        settle(actors);
        died
    });
}

/// A worker dies over a task whose submitter sleeps for the result.
#[test]
fn completer_dies() {
    explore("completer_dies", 2, |take| {
        let storage = Arc::new(Storage::new(3, 1));
        let (mut coordinator, mut submitter) = (Actor::new(&storage, COORDINATOR), Actor::new(&storage, 1));
        submitter.submit(1);
        let work: Part = |a| {
            a.work(QUEUE);
        };
        let worker = Actor::new(&storage, 2);
        let (worker, submitter) = take.play(&coordinator, vec![(worker, work), (submitter, AWAIT_RESULT)]);
        let died = worker.died;
        coordinator.work(QUEUE);
        let mut actors = vec![coordinator, worker];
        actors.extend(submitter.into_iter().map(join));
        settle(actors);
        died
    });
}
