//! A durable client that dies, who settles that, and its heir.

use super::{Actor, Death, EXIT, Outcome, Part, QUEUE, Storage, Take, explore, join, output, settle};
use crate::{lockfree::participant::Name, sync::Relaxed};
use std::sync::{Arc, atomic::AtomicBool};

/// The seat.
const CLIENT: Name = Name::new(1, 1);

const WORK: Part = |a| {
    a.work(QUEUE);
};

const TAKE_AND_SUBMIT: Part = |a| {
    a.take_kept();
    a.submit(2);
    a.take_kept();
};

const RECOVER: Part = |a| {
    a.table().recover(&a.cursors, a.name, CLIENT, Death::of(EXIT)).unwrap();
};

impl Actor {
    /// Takes the next result, reads it, and lets it go.
    fn take_kept(&mut self) {
        let table = self.storage.table();
        let Some((task, outcome)) = table.take_noted(&self.cursors, self.name).unwrap() else { return };
        let d = &table.descriptors[task.index as usize];
        assert_eq!((outcome, d.output_bytes.get()), (Outcome::Completed, output(d.input_bytes.get(), task.word)));
        let input = d.input_bytes.get();
        self.kept += 1;
        table.release_noted(task).unwrap();
        self.results.push((input, outcome));
    }
}

fn storage() -> Arc<Storage> {
    let storage = Storage::new(4, 1);
    storage.participants[usize::from(CLIENT.id())].seat.store(1, Relaxed);
    Arc::new(storage)
}

/// What the dead one had submitted and not begun to let go is its heir's.
fn inherit(storage: &Arc<Storage>, victim: Actor, mut others: Vec<Actor>) {
    let must_come = victim.accepted.len() as u64 - victim.kept;
    others.iter_mut().filter(|a| !a.died).for_each(Actor::work_off);
    let mut heir = Actor::named(storage, CLIENT);
    while heir.take() {}
    // One that was about to be accepted may have been.
    assert!(heir.results.len() as u64 >= must_come, "{} of {must_come} came", heir.results.len());
    others.extend([victim, heir]);
    settle(others);
}

#[test]
fn durable_client_dies() {
    explore("durable_client_dies", 2, |take: Take| {
        let storage = storage();
        let [mut coordinator, mut client, worker] = std::array::from_fn(|id| Actor::new(&storage, id));
        client.submit(1);
        coordinator.work(QUEUE);
        let (victim, threads) = take.play(&coordinator, vec![(client, TAKE_AND_SUBMIT), (worker, WORK)]);
        let died = victim.died;
        let mut others: Vec<Actor> = threads.into_iter().map(join).collect();
        others.push(coordinator);
        if died {
            inherit(&storage, victim, others);
        } else {
            others.push(victim);
            settle(others);
        }
        died
    });
}

#[test]
fn recoverer_of_a_durable_client_dies() {
    for step in 1.. {
        let survived = Arc::new(AtomicBool::new(false));
        let alive = survived.clone();
        explore(&format!("recoverer_of_a_durable_client_dies, over a death before step {step}"), 1, move |take| {
            let storage = storage();
            let [mut coordinator, mut client, worker, successor] = std::array::from_fn(|id| Actor::new(&storage, id));
            // A result that it has noted, or not, and a second task that is on its way.
            client.submit(1);
            coordinator.work(QUEUE);
            let client = client.live(step, |a| {
                a.take_kept();
                a.submit(2);
            });
            if !client.died {
                alive.store(true, Relaxed);
                return false;
            }
            let mut threads = take.start(vec![(coordinator, take.death, RECOVER), (worker, 0, WORK)]);
            let coordinator = join(threads.remove(0));
            let died = coordinator.died;
            if died {
                [&coordinator, &client].into_iter().for_each(|dead| successor.recover(dead));
            }
            inherit(&storage, client, vec![successor, coordinator, join(threads.remove(0))]);
            died
        });
        if survived.load(Relaxed) {
            break;
        }
    }
}
