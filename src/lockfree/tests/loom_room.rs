//! Waiting for room: \[room]. A lost wake-up is a deadlock.

use super::{Actor, COORDINATOR, Part, QUEUE, Storage, explore, explore_alive, join, settle};
use crate::lockfree::{
    participant::Name,
    table::{Again, Given, Owned},
    word::Block,
};
use std::sync::Arc;

impl Actor {
    /// Sleeps until `find` finds room.
    fn await_room<T>(&self, find: fn(&Actor) -> Option<T>) -> T {
        loop {
            if let Some(room) = self.find_or_sleep(false, find) {
                return room;
            }
        }
    }

    fn await_descriptor(&self) -> Owned {
        self.await_room(|a| a.table().reserve(a.name))
    }
}

const SUBMIT: Part = |a| {
    let task = a.await_descriptor();
    a.publish_reserved(task, u64::from(a.name.id()), QUEUE, None);
};

/// Gives a descriptor up as soon as it has one.
const RESERVE_AND_RELEASE: Part = |a| {
    let task = a.await_descriptor();
    a.table().release(task).unwrap();
};

const TAKE: Part = |a| {
    a.take();
};

/// The only descriptor holds a result of participant 1.
fn full(participants: usize) -> (Arc<Storage>, Actor, Actor) {
    let storage = Arc::new(Storage::new(participants, 1));
    let (mut coordinator, mut owner) = (Actor::new(&storage, COORDINATOR), Actor::new(&storage, 1));
    owner.submit(100);
    coordinator.work(QUEUE);
    (storage, coordinator, owner)
}

#[test]
fn who_makes_room_dies() {
    explore("who_makes_room_dies", 2, |take| {
        let (storage, coordinator, owner) = full(3);
        let waiter = Actor::new(&storage, 2);
        let (owner, waiter) = take.play(&coordinator, vec![(owner, TAKE), (waiter, SUBMIT)]);
        let died = owner.died;
        let mut actors = vec![coordinator, owner];
        actors.extend(waiter.into_iter().map(join));
        settle(actors);
        died
    });
}

#[test]
#[ignore = "large: run by hand"]
fn one_of_two_who_wait_for_room_dies() {
    explore("one_of_two_who_wait_for_room_dies", 1, |take| {
        let (storage, coordinator, owner) = full(4);
        let [first, second] = [2, 3].map(|id| Actor::new(&storage, id));
        let cast = vec![(first, RESERVE_AND_RELEASE), (second, RESERVE_AND_RELEASE), (owner, TAKE)];
        let (first, others) = take.play(&coordinator, cast);
        let died = first.died;
        let mut actors = vec![coordinator, first];
        actors.extend(others.into_iter().map(join));
        settle(actors);
        died
    });
}

/// Two threads of one participant wait, and one bit stands for both.
#[test]
fn room_wakes_each_thread_of_a_participant() {
    explore_alive("room_wakes_each_thread_of_a_participant", 1, |take| {
        let (storage, coordinator, owner) = full(3);
        let first = Actor::new(&storage, 2);
        let second = first.thread();
        let cast = vec![(first, 0, RESERVE_AND_RELEASE), (second, 0, RESERVE_AND_RELEASE), (owner, 0, TAKE)];
        let mut actors = vec![coordinator];
        actors.extend(take.start(cast).into_iter().map(join));
        settle(actors);
    });
}

/// Who keeps the descriptor of a result gives back its block, for which another waits.
#[test]
fn who_renews_dies() {
    explore("who_renews_dies", 2, |take| {
        let storage = Arc::new(Storage::with_blocks(3, 1, 1));
        let [mut coordinator, mut owner, waiter] = std::array::from_fn(|id| Actor::new(&storage, id));
        let task = owner.table().reserve(owner.name).unwrap();
        let block = owner.alloc().unwrap();
        owner.attach(block, task, &storage.descriptors[0].input, 1);
        owner.publish_reserved(task, 1, QUEUE, None);
        coordinator.work(QUEUE);
        let renew: Part = |a| {
            if let Some(task) = a.take_and_renew() {
                a.publish_anew(task, 2, QUEUE, None);
            }
        };
        let borrow: Part = |a| {
            let block = a.await_room(Actor::alloc);
            assert!(a.table().blocks.free(block, Block::Held(a.name)));
        };
        let (owner, waiter) = take.play(&coordinator, vec![(owner, renew), (waiter, borrow)]);
        let died = owner.died;
        let mut actors = vec![coordinator, owner];
        actors.extend(waiter.into_iter().map(join));
        settle(actors);
        died
    });
}

/// A worker gives a task back, and with it the block of its output, for which another waits.
#[test]
fn who_gives_a_block_back_with_its_task_dies() {
    explore("who_gives_a_block_back_with_its_task_dies", 2, |take| {
        let storage = Arc::new(Storage::with_blocks(4, 1, 1));
        let [coordinator, mut submitter, mut worker, waiter] = std::array::from_fn(|id| Actor::new(&storage, id));
        submitter.submit_to(Name::new(2, 1), 1);
        let (task, _) = worker.claim(worker.private()).unwrap();
        let block = worker.alloc().unwrap();
        worker.attach(block, task, &storage.descriptors[0].output, 1);
        let give_back: Part = |a| {
            let task = Owned { index: 0, word: a.table().load(0) };
            let given = a.table().give_back(&a.cursors, a.name, task, Again::SameAttempt).unwrap();
            assert_ne!(given, Given::No);
            a.returned.push(1);
        };
        let borrow: Part = |a| {
            let block = a.await_room(Actor::alloc);
            assert!(a.table().blocks.free(block, Block::Held(a.name)));
        };
        let (worker, waiter) = take.play(&coordinator, vec![(worker, give_back), (waiter, borrow)]);
        let died = worker.died;
        let mut actors = vec![coordinator, submitter, worker];
        actors.extend(waiter.into_iter().map(join));
        settle(actors);
        died
    });
}
