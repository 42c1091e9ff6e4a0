//! loom models of the core: interleavings up to a bound of preemptions, with a death before every step.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --profile loom --no-default-features --lib -- --nocapture`
//!
//! A [`Storage`] lays a small table out on the heap, with lanes one lap and descriptors one generation before their wrap.
//! An [`Actor`] is one participant and keeps a log of what it saw. [`explore`] repeats a scene with its victim dying
//! before its first step, its second and so on, until the victim comes to its end alive. [`settle`] ends a scene: the
//! rest is run and taken *without another sweep*, then the logs must agree and the audit must be clean.
//!
//! `LOOM_MAX_PREEMPTIONS` overrides the bounds. `mutants.rs` shows that the models notice what they are for.
//!
//! # What they do not show
//!
//! loom 0.7 remembers one last load of each word. A thread that loads and then exchanges hides by its own load that of
//! another, so whether the exchange can come before that other load is never tried. Hence every scene is played with its
//! threads started in both orders, and none on the main thread, which always comes first.

mod loom_blocks;
mod loom_lane;
mod loom_park;
mod loom_private;
mod loom_recovery;
mod loom_tasks;
mod mutants;

use super::{
    blocks::{Blocks, CLASSES, COMMITTED, Class, chunks},
    descriptor::Descriptor,
    freemap::FreeMap,
    lane::LaneControl,
    participant::{Name, Participant},
    table::{Cancel, Cursors, LaneCapacity, LaneId, Table, TaskId, Waits},
    timer::Alarm,
    word::{GENERATION_BITS, LAP_MASK, Outcome, Phase, Slot, Task},
};
use crate::sync::{AtomicU64, Inline, Relaxed, fate};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64 as Count, Ordering::SeqCst},
    },
    time::Instant,
};

/// Participant 0, which recovers, and which runs what is left.
const COORDINATOR: usize = 0;
const QUEUE: LaneId = LaneId(0);
const SLOTS: usize = 2;
/// How the dead ended, for those who ask.
const EXIT: u64 = 9;

/// The words of a table, on the heap.
struct Storage {
    participants: Vec<Participant>,
    descriptors: Vec<Descriptor>,
    free: Vec<AtomicU64>,
    controls: Vec<LaneControl>,
    slots: Vec<AtomicU64>,
    idle: Vec<AtomicU64>,
    alarm: Alarm,
    blocks: Vec<AtomicU64>,
    free_blocks: Vec<AtomicU64>,
    chunks: Vec<AtomicU64>,
    block_bytes: Vec<Inline<1>>,
    /// Per chunk, whether the kernel has pages there.
    pages: Vec<AtomicU64>,
}

impl Storage {
    /// One queue, all participants admitted.
    fn new(participants: usize, descriptors: usize) -> Storage {
        Storage::with_blocks(participants, descriptors, 0)
    }

    fn with_blocks(participants: usize, descriptors: usize, blocks: usize) -> Storage {
        let storage = Storage::vacant(participants, descriptors, blocks);
        for id in 0..participants {
            let name = storage.table().admit(id as u32, 0).unwrap();
            assert_eq!(name, Some(Name::new(id as u16, 1)));
        }
        storage
    }

    /// Nobody is admitted yet.
    fn vacant(participants: usize, descriptors: usize, blocks: usize) -> Storage {
        let words = |n: usize, v: u64| (0..n).map(|_| AtomicU64::new(v)).collect();
        let lanes = 1 + 2 * participants;
        let last = Task::new(Phase::Free, 0, 0, (1 << GENERATION_BITS) - 1);
        let storage = Storage {
            participants: (0..participants).map(|_| Participant::new()).collect(),
            descriptors: (0..descriptors).map(|_| Descriptor::new(last)).collect(),
            free: words(1, (1 << descriptors) - 1),
            controls: (0..lanes).map(|_| LaneControl::new(SLOTS as u64 * LAP_MASK)).collect(),
            slots: words(lanes * SLOTS, Slot::empty(LAP_MASK).0),
            idle: words(2, 0),
            alarm: Alarm::new(),
            blocks: words(blocks, 0),
            free_blocks: words(1, (1 << blocks) - 1),
            chunks: words(chunks(&classes(blocks)), COMMITTED),
            block_bytes: (0..blocks).map(|_| Inline::new()).collect(),
            pages: words(chunks(&classes(blocks)), 1),
        };
        storage.attempts(u8::MAX.into());
        storage
    }

    /// Sets how often a task may be attempted.
    fn attempts(&self, n: u32) {
        self.descriptors.iter().for_each(|d| d.max_attempts.store(n, Relaxed));
    }

    fn table(&self) -> Table<'_> {
        Table {
            participants: &self.participants,
            descriptors: &self.descriptors,
            free: FreeMap(&self.free),
            blocks: Blocks {
                classes: classes(self.blocks.len()),
                words: &self.blocks,
                free: FreeMap(&self.free_blocks),
                chunks: &self.chunks,
            },
            queues: 1,
            controls: &self.controls,
            slots: &self.slots,
            capacity: LaneCapacity { queue: SLOTS, private: SLOTS, completion: SLOTS },
            idle: &self.idle,
            alarm: &self.alarm,
        }
    }
}

/// Blocks of one size, which make one chunk.
fn classes(blocks: usize) -> [Class; CLASSES] {
    let mut classes = [Class::default(); CLASSES];
    classes[0] = Class { size: 1 << 12, count: blocks as u32 };
    classes
}

/// One participant, or one thread of it, with what it saw. A task is known by its input, a number that is used once.
struct Actor {
    storage: Arc<Storage>,
    name: Name,
    cursors: Cursors,
    died: bool,
    accepted: Vec<u64>,
    cancelled: Vec<u64>,
    ran: Vec<u64>,
    results: Vec<(u64, Outcome)>,
}

impl Actor {
    fn new(storage: &Arc<Storage>, id: usize) -> Actor {
        Actor::named(storage, Name::new(id as u16, 1))
    }

    fn named(storage: &Arc<Storage>, name: Name) -> Actor {
        Actor {
            storage: storage.clone(),
            name,
            cursors: Cursors::new(&storage.table()),
            died: false,
            accepted: Vec::new(),
            cancelled: Vec::new(),
            ran: Vec::new(),
            results: Vec::new(),
        }
    }

    /// Lives through `part`, or dies before its `k`-th step (0: never).
    fn live(mut self, k: u32, part: impl FnOnce(&mut Actor)) -> Actor {
        self.died = fate::mortal(k, || part(&mut self)).is_none();
        self
    }

    fn table(&self) -> Table<'_> {
        self.storage.table()
    }

    fn submit(&mut self, input: u64) -> Option<TaskId> {
        self.publish(input, QUEUE, None)
    }

    fn submit_to(&mut self, addressee: Name, input: u64) -> Option<TaskId> {
        self.publish(input, self.table().private(addressee.id()), Some(addressee))
    }

    fn publish(&mut self, input: u64, lane: LaneId, addressee: Option<Name>) -> Option<TaskId> {
        let table = self.storage.table();
        let task = table.reserve(self.name)?;
        table.descriptors[task.index as usize].input_bytes.set(input);
        let id = table.publish(&self.cursors, self.name, task, lane, addressee).unwrap();
        self.accepted.push(input);
        Some(id)
    }

    fn cancel(&mut self, input: u64, task: TaskId) {
        if self.table().cancel(&self.cursors, task).unwrap() == Cancel::Cancelled {
            self.cancelled.push(input);
        }
    }

    /// Runs the next task of `lane`. False: there is none.
    fn work(&mut self, lane: LaneId) -> bool {
        let table = self.storage.table();
        let Some(task) = table.claim(&self.cursors, self.name, lane).unwrap() else { return false };
        let d = &table.descriptors[task.index as usize];
        let input = d.input_bytes.get();
        self.ran.push(input);
        d.output_bytes.set(output(input, task.word));
        table.complete(&self.cursors, self.name, task, Outcome::Completed).unwrap();
        true
    }

    /// Takes the next result. False: there is none.
    fn take(&mut self) -> bool {
        let table = self.storage.table();
        let Some((task, outcome)) = table.take(&self.cursors, self.name).unwrap() else { return false };
        let d = &table.descriptors[task.index as usize];
        let input = d.input_bytes.get();
        if outcome == Outcome::Completed {
            assert_eq!(d.output_bytes.get(), output(input, task.word), "output of {input}");
        }
        if outcome == Outcome::WorkerDied {
            assert_eq!(d.exit.load(Relaxed), EXIT);
            assert_ne!(d.claimant.load(Relaxed), 0, "nobody claimed {input}, and yet its worker died");
        }
        self.results.push((input, outcome));
        table.release(task).unwrap();
        true
    }

    /// Runs one task, sleeping until there is one.
    fn await_work(&mut self) {
        self.sleep_until(&[QUEUE], |a| a.work(a.private()) || a.work(QUEUE));
    }

    /// Takes one result, sleeping until there is one.
    fn await_result(&mut self) {
        self.sleep_until(&[], Actor::take);
    }

    fn sleep_until(&mut self, queues: &[LaneId], mut done: impl FnMut(&mut Actor) -> bool) {
        let mut has_slept = false;
        while !done(self) {
            let waits = Waits { queues, own: true, room: false };
            self.storage.table().park(&self.cursors, self.name, waits, None, || false);
            has_slept = true;
        }
        if has_slept {
            self.storage.table().wake_next(&self.cursors, queues);
        }
    }

    /// The lane of what is addressed to it.
    fn private(&self) -> LaneId {
        self.table().private(self.name.id())
    }

    /// Settles the death of another.
    fn recover(&self, dead: &Actor) {
        assert!(dead.died);
        self.table().recover(&self.cursors, self.name, dead.name, EXIT).unwrap();
    }
}

/// What a worker makes of an input, so that a result tells from which task and attempt it comes.
fn output(input: u64, word: Task) -> u64 {
    input << 8 | u64::from(word.attempt())
}

/// Ends a scene: who lives runs and takes what is left, by fresh cursors and without another sweep. Then each accepted
/// task must have been delivered once, with an outcome that the logs explain, and the audit must be clean.
fn settle(mut actors: Vec<Actor>) -> Vec<Actor> {
    let storage = actors[0].storage.clone();
    for actor in actors.iter_mut().filter(|a| !a.died) {
        actor.cursors = Cursors::new(&storage.table());
        while actor.work(QUEUE) || actor.work(actor.private()) {}
    }
    for actor in actors.iter_mut().filter(|a| !a.died) {
        while actor.take() {}
    }
    let deaths = actors.iter().filter(|a| a.died).count();
    let runs = |input: u64| actors.iter().flat_map(|a| &a.ran).filter(|&&i| i == input).count();
    let mut submitters: Vec<Name> = actors.iter().map(|a| a.name).collect();
    submitters.dedup();
    for name in submitters {
        let threads: Vec<&Actor> = actors.iter().filter(|a| a.name == name).collect();
        let mut accepted: Vec<u64> = threads.iter().flat_map(|a| &a.accepted).copied().collect();
        let mut delivered: Vec<u64> = threads.iter().flat_map(|a| &a.results).map(|r| r.0).collect();
        accepted.sort_unstable();
        delivered.sort_unstable();
        if threads.iter().all(|a| !a.died) {
            assert_eq!(accepted, delivered, "{name:?}: accepted against delivered");
        }
        assert!(delivered.is_sorted_by(|a, b| a < b), "{name:?}: delivered twice: {delivered:?}");
        for &(input, outcome) in threads.iter().flat_map(|a| &a.results) {
            let explained = match outcome {
                Outcome::Completed => runs(input) > 0,
                Outcome::Cancelled => deaths > 0 || runs(input) == 0,
                Outcome::WorkerDied | Outcome::AddresseeDied => deaths > 0,
                _ => false,
            };
            let promised = threads.iter().any(|a| a.cancelled.contains(&input));
            assert!(explained && (outcome == Outcome::Cancelled) == promised, "{input} ended as {outcome:?}");
            assert!(runs(input) <= 1 + deaths, "{input} ran {} times", runs(input));
        }
    }
    let audit = storage.table().audit();
    assert!(audit.is_clean(), "{audit}");
    actors
}

/// A part that a participant plays.
type Part = fn(&mut Actor);

/// One way to play a scene.
#[derive(Clone, Copy)]
struct Take {
    /// The victim dies before this step; 0: nobody dies.
    death: u32,
    /// Threads start in the opposite order.
    reversed: bool,
}

impl Take {
    /// Starts each actor on a thread of its own.
    fn start(self, cast: Vec<(Actor, u32, Part)>) -> Vec<Thread> {
        let start = |(actor, death, part): (Actor, u32, Part)| loom::thread::spawn(move || actor.live(death, part));
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
    fn play(self, coordinator: &Actor, cast: Vec<(Actor, Part)>) -> (Actor, Vec<Thread>) {
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

type Thread = loom::thread::JoinHandle<Actor>;

fn join(thread: Thread) -> Actor {
    thread.join().unwrap()
}

/// Participants 1, 2, … play `parts`; the first is the victim. True: it died.
fn play(take: Take, storage: Storage, parts: &[Part]) -> bool {
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
fn explore(name: &str, bound: usize, scene: impl Fn(Take) -> bool + Send + Sync + 'static) {
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
            println!("{name}: deaths before {} steps, {total} executions, {:.1?}", death - 1, start.elapsed());
            return;
        }
    }
}

/// Plays a scene in which nobody dies.
fn explore_alive(name: &str, bound: usize, scene: impl Fn(Take) + Send + Sync + 'static) {
    let (start, scene, mut total) = (Instant::now(), Arc::new(scene), 0);
    for reversed in [false, true] {
        let scene = scene.clone();
        total += check(bound, move || {
            scene(Take { death: 0, reversed });
            false
        })
        .0;
    }
    println!("{name}: {total} executions, {:.1?}", start.elapsed());
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
        if scene() {
            seen.1.fetch_add(1, SeqCst);
        }
    });
    (counts.0.load(SeqCst), counts.1.load(SeqCst))
}
