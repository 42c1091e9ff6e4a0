//! Tasks through the queue: submitters, workers and a canceller, any of whom dies.

use super::{Actor, COORDINATOR, Part, QUEUE, Storage, Take, explore, explore_alive, join, play, settle, spawn};
use crate::{
    lockfree::{participant::Name, table::Cancel},
    sync::Relaxed,
};
use std::sync::Arc;

const SUBMIT_ONE: Part = |a| {
    a.submit(1);
    a.take();
};

const SUBMIT_TWO: Part = |a| {
    a.submit(1);
    a.submit(2);
    a.take();
};

const WORK_ONE: Part = |a| {
    a.work(QUEUE);
};

const WORK_TWO: Part = |a| {
    a.work(QUEUE);
    a.work(QUEUE);
};

/// Submits a task and cancels it, takes what has become of it, then uses the descriptor again.
const CANCEL: Part = |a| {
    if let Some(task) = a.submit(1) {
        a.cancel(1, task);
    }
    a.take();
    a.submit(2);
};

/// Submits and cancels beside another submitter.
const CANCEL_ANOTHER: Part = |a| {
    if let Some(task) = a.submit(11) {
        a.cancel(11, task);
    }
};

#[test]
fn worker_dies() {
    explore("worker_dies", 2, |take| play(take, Storage::new(3, 2), &[WORK_TWO, SUBMIT_TWO]));
}

#[test]
fn submitter_dies() {
    explore("submitter_dies", 2, |take| play(take, Storage::new(3, 2), &[SUBMIT_TWO, WORK_TWO]));
}

#[test]
fn one_of_two_workers_dies() {
    explore("one_of_two_workers_dies", 2, |take| play(take, Storage::new(4, 1), &[WORK_ONE, WORK_ONE, SUBMIT_ONE]));
}

#[test]
fn submitter_to_two_workers_dies() {
    explore("submitter_to_two_workers_dies", 2, |take| {
        play(take, Storage::new(4, 1), &[SUBMIT_ONE, WORK_ONE, WORK_ONE])
    });
}

#[test]
#[ignore = "large: run by hand"]
fn one_of_two_workers_with_two_tasks_dies() {
    explore("one_of_two_workers_with_two_tasks_dies", 2, |take| {
        play(take, Storage::new(4, 2), &[WORK_ONE, WORK_ONE, SUBMIT_TWO])
    });
}

#[test]
fn worker_dies_over_the_last_attempt() {
    explore("worker_dies_over_the_last_attempt", 3, |take| {
        let storage = Storage::new(3, 1);
        storage.each(|d| d.max_attempts.store(1, Relaxed));
        play(take, storage, &[WORK_ONE, SUBMIT_ONE])
    });
}

/// Its worker, or the recovery, sees that nobody will take the result: \[orphan].
#[test]
fn submitter_dies_while_its_task_runs() {
    explore("submitter_dies_while_its_task_runs", 3, |take| {
        let storage = Arc::new(Storage::new(3, 1));
        let (coordinator, mut submitter) = (Actor::new(&storage, COORDINATOR), Actor::new(&storage, 1));
        submitter.submit(1);
        let take_one: Part = |a| {
            a.take();
        };
        let worker = Actor::new(&storage, 2);
        let (submitter, worker) = take.play(&coordinator, vec![(submitter, take_one), (worker, WORK_ONE)]);
        let died = submitter.died;
        let mut actors = vec![coordinator, submitter];
        actors.extend(worker.into_iter().map(join));
        settle(actors);
        died
    });
}

#[test]
fn canceller_dies() {
    explore("canceller_dies", 2, |take| play(take, Storage::new(3, 2), &[CANCEL, WORK_TWO]));
}

#[test]
fn worker_dies_beside_a_canceller() {
    explore("worker_dies_beside_a_canceller", 1, |take| play(take, Storage::new(3, 2), &[WORK_TWO, CANCEL]));
}

#[test]
#[ignore = "large: run by hand"]
fn worker_dies_between_submitter_and_canceller() {
    explore("worker_dies_between_submitter_and_canceller", 2, |take| {
        play(take, Storage::new(4, 2), &[WORK_ONE, SUBMIT_ONE, CANCEL_ANOTHER])
    });
}

#[test]
#[ignore = "large: run by hand"]
fn canceller_dies_between_submitter_and_worker() {
    explore("canceller_dies_between_submitter_and_worker", 1, |take| {
        play(take, Storage::new(4, 2), &[CANCEL_ANOTHER, SUBMIT_ONE, WORK_ONE])
    });
}

/// One descriptor, used twice, while a worker holds a hint of its former life.
#[test]
#[ignore = "large: run by hand"]
fn worker_with_a_stale_hint_dies() {
    explore("worker_with_a_stale_hint_dies", 1, |take| play(take, Storage::new(4, 1), &[WORK_ONE, WORK_ONE, CANCEL]));
}

#[test]
#[ignore = "large: run by hand"]
fn submitter_of_the_next_life_dies() {
    explore("submitter_of_the_next_life_dies", 1, |take| play(take, Storage::new(4, 1), &[CANCEL, WORK_ONE, WORK_ONE]));
}

/// Cancels a task, takes what has become of it, and uses the descriptor for one that only the coordinator may run.
const CANCEL_THEN_ADDRESS: Part = |a| {
    if let Some(task) = a.submit(1) {
        a.cancel(1, task);
    }
    a.take();
    a.submit_to(Name::new(COORDINATOR as u16, 1), 2);
};

/// The same, where the descriptor is kept.
const CANCEL_THEN_ADDRESS_ANEW: Part = |a| {
    if let Some(task) = a.submit(1) {
        a.cancel(1, task);
    }
    if let Some(task) = a.take_and_renew() {
        a.publish_anew(task, 2, a.table().private(COORDINATOR as u16), Some(Name::new(COORDINATOR as u16, 1)));
    }
};

/// A worker was about to claim a task, and its descriptor carries another's by then. That it can't have that rests on the
/// generation in the word that it exchanges.
fn next_life_is_for_another(take: Take, cancel_then_address: Part) -> bool {
    let storage = Arc::new(Storage::new(3, 1));
    let coordinator = Actor::new(&storage, COORDINATOR);
    let (worker, submitter) = (Actor::new(&storage, 1), Actor::new(&storage, 2));
    let (worker, submitter) = take.play(&coordinator, vec![(worker, WORK_ONE), (submitter, cancel_then_address)]);
    let died = worker.died;
    let mut actors = vec![coordinator, worker];
    actors.extend(submitter.into_iter().map(join));
    // Before `settle`, in which all that live run what they find in their own lanes.
    assert!(actors[1].ran.iter().all(|r| r.0 != 2), "another's task was run");
    settle(actors);
    died
}

#[test]
fn worker_with_a_hint_of_the_life_before_dies() {
    explore("worker_with_a_hint_of_the_life_before_dies", 2, |take| {
        next_life_is_for_another(take, CANCEL_THEN_ADDRESS)
    });
}

#[test]
fn worker_with_a_hint_of_what_was_renewed_dies() {
    explore("worker_with_a_hint_of_what_was_renewed_dies", 2, |take| {
        next_life_is_for_another(take, CANCEL_THEN_ADDRESS_ANEW)
    });
}

/// One submitter reads a result and gives the descriptor back, another takes it and writes an input: \[release].
#[test]
fn a_descriptor_changes_hands() {
    explore_alive("a_descriptor_changes_hands", 3, |take| {
        let storage = Arc::new(Storage::new(3, 1));
        let [mut worker, mut first, second] = std::array::from_fn(|id| Actor::new(&storage, id));
        first.submit(1);
        worker.work(QUEUE);
        let take_one: Part = |a| {
            a.take();
        };
        let submit: Part = |a| {
            a.submit(2);
        };
        let mut actors = vec![worker];
        actors.extend(take.start(vec![(first, 0, take_one), (second, 0, submit)]).into_iter().map(join));
        settle(actors);
    });
}

/// Two threads of one participant take from one completion lane, each with cursors of its own.
#[test]
fn each_result_is_taken_by_one_thread() {
    explore_alive("each_result_is_taken_by_one_thread", 2, |take| {
        let storage = Arc::new(Storage::new(3, 2));
        let (mut submitter, mut worker) = (Actor::new(&storage, 1), Actor::new(&storage, 2));
        submitter.submit(1);
        submitter.submit(2);
        worker.work(QUEUE);
        let take_two: Part = |a| {
            a.take();
            a.take();
        };
        let another = Actor::new(&storage, 1);
        let cast = vec![(submitter, 0, take_two), (another, 0, take_two), (worker, 0, WORK_ONE)];
        settle(take.start(cast).into_iter().map(join).collect());
    });
}
/// Who sees a claim sees whose it is, however late it learned of the claimant's admission.
#[test]
fn a_cancellation_names_the_incarnation_that_runs_the_task() {
    explore_alive("a_cancellation_names_the_incarnation_that_runs_the_task", 3, |_| {
        let storage = Arc::new(Storage::vacant(1, 2, 1, 0));
        storage.table().admit(0, 0).unwrap();
        let mut submitter = Actor::new(&storage, 0);
        let task = submitter.submit(1).unwrap();
        let coordinator = storage.clone();
        let worker = spawn(move || {
            let name = coordinator.table().admit(1, 0).unwrap().unwrap();
            Actor::named(&coordinator, name).live(0, WORK_ONE)
        });
        submitter.tried.push(1);
        match submitter.table().cancel(&submitter.cursors, task).unwrap() {
            Cancel::Cancelled => submitter.cancelled.push(1),
            Cancel::Running(name) => assert_eq!(name, Name::new(1, 1)),
            Cancel::Over => {}
        }
        settle(vec![submitter, join(worker)]);
    });
}
