//! A coordinator that dies over a recovery, and its successor.

use super::{Actor, Death, EXIT, Part, QUEUE, Storage, explore, join, settle};
use crate::lockfree::participant::Name;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

/// The participant whose death is settled.
const DEAD: Name = Name::new(2, 1);

const WORK: Part = |a| {
    let _ = a.work(a.private()) || a.work(QUEUE);
};

const RECOVER: Part = |a| {
    a.table().recover(&a.cursors, a.name, DEAD, Death::of(EXIT)).unwrap();
};

/// A worker dies at every step of a task that `submit` submits, then the coordinator at every step of settling that, while
/// another worker runs. A successor settles both deaths, in either order.
fn recoverer_dies(name: &'static str, submit: Part) {
    for worker_first in [false, true] {
        for step in 1.. {
            let survived = Arc::new(AtomicBool::new(false));
            let alive = survived.clone();
            explore(&format!("{name}, over a death before step {step}"), 1, move |take| {
                let storage = Arc::new(Storage::new(5, 1));
                let [coordinator, submitter, victim, worker, successor] =
                    std::array::from_fn(|id| Actor::new(&storage, id));
                let submitter = submitter.live(0, submit);
                let victim = victim.live(step, WORK);
                if !victim.died {
                    alive.store(true, Relaxed);
                    return false;
                }
                let mut threads = take.start(vec![(coordinator, take.death, RECOVER), (worker, 0, WORK)]);
                let coordinator = join(threads.remove(0));
                let died = coordinator.died;
                let mut actors = vec![victim, coordinator];
                if died {
                    if !worker_first {
                        actors.reverse();
                    }
                    actors.iter().for_each(|dead| successor.recover(dead));
                }
                actors.extend([submitter, successor, join(threads.remove(0))]);
                settle(actors);
                died
            });
            if survived.load(Relaxed) {
                break;
            }
        }
    }
}

#[test]
fn recoverer_of_a_worker_dies() {
    recoverer_dies("recoverer_of_a_worker_dies", |a| {
        a.submit(1);
    });
}

#[test]
fn recoverer_of_an_addressee_dies() {
    recoverer_dies("recoverer_of_an_addressee_dies", |a| {
        a.submit_to(DEAD, 1);
    });
}
