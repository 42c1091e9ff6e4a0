//! Private lanes: a task that is addressed to one participant, and the death of that one.

use super::{Actor, COORDINATOR, Part, QUEUE, Storage, Take, explore, explore_alive, join, play, settle};
use crate::lockfree::{participant::Name, table::Owned, word::Outcome};
use std::sync::Arc;

/// The participant to which tasks are addressed, and who comes after it under the same id.
const ADDRESSEE: Name = Name::new(1, 1);
const SUCCESSOR: Name = Name::new(1, 2);

const WORK_PRIVATE: Part = |a| {
    a.work(a.private());
};

const SUBMIT: Part = |a| {
    a.submit_to(ADDRESSEE, 1);
};

const TAKE: Part = |a| {
    a.take();
};

/// The addressee of a task dies. Its id is given again as soon as no word names it, and whoever has it then must not get
/// the task.
fn addressee_dies(take: Take, submitted: bool) -> bool {
    let storage = Arc::new(Storage::new(3, 1));
    let coordinator = Actor::new(&storage, COORDINATOR);
    let (addressee, mut submitter) = (Actor::new(&storage, 1), Actor::new(&storage, 2));
    if submitted {
        submitter.submit_to(ADDRESSEE, 1);
    }
    let then = if submitted { TAKE } else { SUBMIT };
    let (addressee, submitter) = take.play(&coordinator, vec![(addressee, WORK_PRIVATE), (submitter, then)]);
    let died = addressee.died;
    let mut actors = vec![coordinator, addressee];
    if died && let Some(name) = storage.table().admit(0, 0).unwrap() {
        assert_eq!(name, SUCCESSOR);
        let mut successor = Actor::named(&storage, name);
        WORK_PRIVATE(&mut successor);
        actors.push(successor);
    }
    actors.extend(submitter.into_iter().map(join));
    let actors = settle(actors);
    assert!(actors.iter().all(|a| a.name != SUCCESSOR || a.ran.is_empty()), "another's task was run");
    died
}

#[test]
fn addressee_dies_while_it_is_addressed() {
    explore("addressee_dies_while_it_is_addressed", 3, |take| addressee_dies(take, false));
}

#[test]
fn addressee_dies_over_its_task() {
    explore("addressee_dies_over_its_task", 3, |take| addressee_dies(take, true));
}

#[test]
fn submitter_to_a_private_lane_dies() {
    explore("submitter_to_a_private_lane_dies", 3, |take| {
        let submit: Part = |a| {
            a.submit_to(Name::new(2, 1), 1);
            a.take();
        };
        play(take, Storage::new(3, 1), &[submit, WORK_PRIVATE])
    });
}

/// A submitter dies while its task runs. Its id is not given again until the result is gone, which would be another's.
#[test]
fn the_heir_of_a_submitter_gets_nothing_of_it() {
    explore_alive("the_heir_of_a_submitter_gets_nothing_of_it", 3, |take| {
        let storage = Arc::new(Storage::new(3, 1));
        let [coordinator, mut submitter, mut worker] = std::array::from_fn(|id| Actor::new(&storage, id));
        submitter.submit(1);
        worker.claim(QUEUE).unwrap();
        let submitter = submitter.live(1, TAKE);
        coordinator.recover(&submitter);
        let complete: Part = |a| a.complete(Owned { index: 0, word: a.table().load(0) }, Outcome::Completed);
        // What the coordinator does and what the heir does then, as one thread.
        let inherit: Part = |a| {
            if a.table().admit(0, 0).unwrap().is_some() {
                a.take();
            }
        };
        let heir = Actor::named(&storage, SUCCESSOR);
        let mut actors = vec![coordinator, submitter];
        actors.extend(take.start(vec![(worker, 0, complete), (heir, 0, inherit)]).into_iter().map(join));
        settle(actors);
    });
}

/// The deaths of submitter and addressee are settled one after the other, in either order.
#[test]
fn submitter_and_addressee_die() {
    for addressee_first in [false, true] {
        explore("submitter_and_addressee_die", 2, move |take| {
            let storage = Arc::new(Storage::new(3, 1));
            let coordinator = Actor::new(&storage, COORDINATOR);
            let [addressee, submitter] = [1, 2].map(|id| Actor::new(&storage, id));
            let threads = take.start(vec![(submitter, take.death, SUBMIT), (addressee, 1, WORK_PRIVATE)]);
            let mut actors: Vec<Actor> = threads.into_iter().map(join).collect();
            let died = actors[0].died;
            if addressee_first {
                actors.reverse();
            }
            actors.iter().filter(|a| a.died).for_each(|a| coordinator.recover(a));
            actors.push(coordinator);
            settle(actors);
            died
        });
    }
}
