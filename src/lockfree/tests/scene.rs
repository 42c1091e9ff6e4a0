//! Scenes: how a loom model plays its parts, once for each step before which the victim may die.

use super::{Actor, COORDINATOR, Storage, settle};
use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU64 as Count, Ordering::SeqCst},
    },
    time::Instant,
};

/// A part that a participant plays.
pub(super) type Part = fn(&mut Actor);

/// One way to play a scene.
#[derive(Clone, Copy)]
pub(super) struct Take {
    /// The victim dies before this step; 0: nobody dies.
    pub(super) death: u32,
    /// Threads start in the opposite order.
    reversed: bool,
}

impl Take {
    /// Starts each actor on a thread of its own.
    pub(super) fn start(self, cast: Vec<(Actor, u32, Part)>) -> Vec<Thread> {
        let start = |(actor, death, part): (Actor, u32, Part)| spawn(move || actor.live(death, part));
        if self.reversed {
            let mut threads: Vec<Thread> = cast.into_iter().rev().map(start).collect();
            threads.reverse();
            threads
        } else {
            cast.into_iter().map(start).collect()
        }
    }

    /// Plays the parts, of which the first is the victim's, waits for the victim, and has the coordinator settle its
    /// death while the others go on.
    pub(super) fn play(self, coordinator: &Actor, cast: Vec<(Actor, Part)>) -> (Actor, Vec<Thread>) {
        let mut death = self.death;
        let cast = cast.into_iter().map(|(actor, part)| (actor, std::mem::take(&mut death), part)).collect();
        let mut threads = self.start(cast);
        let victim = join(threads.remove(0));
        if victim.died {
            coordinator.recover(&victim);
        }
        (victim, threads)
    }
}

pub(super) type Thread = loom::thread::JoinHandle<Actor>;

pub(super) fn spawn(life: impl FnOnce() -> Actor + 'static) -> Thread {
    THREADS.set(THREADS.get() + 1);
    loom::thread::spawn(life)
}

pub(super) fn join(thread: Thread) -> Actor {
    thread.join().unwrap()
}

/// Participants 1, 2, … play `parts`; the first is the victim. True: it died.
pub(super) fn play(take: Take, storage: Storage, parts: &[Part]) -> bool {
    let storage = Arc::new(storage);
    let coordinator = Actor::new(&storage, COORDINATOR);
    let cast = (1..).zip(parts).map(|(id, &part)| (Actor::new(&storage, id), part)).collect();
    let (victim, others) = take.play(&coordinator, cast);
    let died = victim.died;
    let mut actors = vec![coordinator, victim];
    actors.extend(others.into_iter().map(join));
    settle(actors);
    died
}

/// Plays a scene without a death, then with one before the victim's first step, its second, and so on, until it comes to
/// its end alive. The scene says whether it died.
pub(super) fn explore(name: &str, bound: usize, scene: impl Fn(Take) -> bool + Send + Sync + 'static) {
    let (start, scene, mut total) = (Instant::now(), Arc::new(scene), 0);
    for death in 0.. {
        let mut deaths = 0;
        for reversed in [false, true] {
            let scene = scene.clone();
            let (executions, died) = check(bound, move || scene(Take { death, reversed }));
            total += executions;
            deaths += died;
        }
        if death > 0 && deaths == 0 {
            report(name, bound, death - 1, total, start);
            return;
        }
    }
}

/// Plays a scene in which nobody dies.
pub(super) fn explore_alive(name: &str, bound: usize, scene: impl Fn(Take) + Send + Sync + 'static) {
    let (start, scene, mut total) = (Instant::now(), Arc::new(scene), 0);
    for reversed in [false, true] {
        let scene = scene.clone();
        total += check(bound, move || {
            scene(Take { death: 0, reversed });
            false
        })
        .0;
    }
    report(name, bound, 0, total, start);
}

/// How often `scene` was played, and how often it said true.
fn check(bound: usize, scene: impl Fn() -> bool + Send + Sync + 'static) -> (u64, u64) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(bound));
    builder.max_branches = 20_000;
    let counts = Arc::new((Count::new(0), Count::new(0)));
    let seen = counts.clone();
    builder.check(move || {
        seen.0.fetch_add(1, SeqCst);
        THREADS.set(1);
        if scene() {
            seen.1.fetch_add(1, SeqCst);
        }
    });
    (counts.0.load(SeqCst), counts.1.load(SeqCst))
}

std::thread_local! {
    /// Threads of the scene that was played last, its main thread among them. (A model is played on one thread.)
    static THREADS: Cell<usize> = const { Cell::new(1) };
}

fn report(name: &str, bound: usize, deaths: u32, executions: u64, start: Instant) {
    let (threads, took) = (THREADS.get(), start.elapsed());
    println!(
        "{name}: {threads} threads, {bound} preemptions, deaths before {deaths} steps, {executions} executions, {took:.1?}"
    );
}
