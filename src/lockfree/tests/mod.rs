//! Models of the core, under loom and under shuttle.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --profile loom --no-default-features --lib -- --nocapture`: scenes of two or three
//! threads, in all interleavings up to a bound of preemptions, with a death before every step.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test --profile loom --no-default-features --lib -- --nocapture`: whole pools, in
//! interleavings chosen at random ([`shuttle_pool`]).
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

#[cfg(loom)]
mod loom_blocks;
#[cfg(loom)]
mod loom_cancel;
#[cfg(loom)]
mod loom_lane;
#[cfg(loom)]
mod loom_own;
#[cfg(loom)]
mod loom_park;
#[cfg(loom)]
mod loom_private;
#[cfg(loom)]
mod loom_queues;
#[cfg(loom)]
mod loom_recovery;
#[cfg(loom)]
mod loom_retry;
#[cfg(loom)]
mod loom_room;
#[cfg(loom)]
mod loom_seat;
#[cfg(loom)]
mod loom_tasks;
#[cfg(loom)]
mod loom_timer;
mod mutants;
#[cfg(loom)]
mod scene;
#[cfg(shuttle)]
mod shuttle_pool;

#[cfg(loom)]
use scene::{Part, Take, explore, explore_alive, join, play, spawn};

use super::{
    blocks::{Blocks, CLASSES, COMMITTED, Class, chunks},
    descriptor::{Descriptor, MS, Payload},
    freemap::FreeMap,
    lane::LaneControl,
    participant::{Name, Participant},
    recovery::Death,
    table::{Again, Cancel, Cursors, LaneCapacity, LaneId, Owned, Table, TaskId, Waits},
    task_clock::{ClockWords, Source, TaskClock},
    timer::{Alarm, NEVER, Tick},
    word::{GENERATION_BITS, LAP_MASK, Outcome, Phase, Slot, Task},
};
use crate::sync::{AtomicU64, Bell, Futex, Inline, Relaxed, fate, set_monotonic, ticks::Pair};
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool as Flag, AtomicU64 as Count, Ordering::SeqCst},
    },
};

/// Participant 0, which recovers, and which runs what is left.
const COORDINATOR: usize = 0;
const QUEUE: LaneId = LaneId(0);
const SLOTS: usize = 2;
/// How the dead ended, for those who ask.
const EXIT: u64 = 9;
/// When a model begins.
const START: u64 = 1000 * MS;
const HOUR: u64 = 3_600_000 * MS;

/// The words of a table, on the heap.
struct Storage {
    participants: Vec<Participant>,
    descriptors: Vec<Descriptor>,
    free: Vec<AtomicU64>,
    queues: usize,
    controls: Vec<LaneControl>,
    slots: Vec<AtomicU64>,
    idle: Vec<AtomicU64>,
    alarm: Alarm,
    clock: ClockWords,
    blocks: Vec<AtomicU64>,
    free_blocks: Vec<AtomicU64>,
    chunks: Vec<AtomicU64>,
    block_bytes: Vec<Inline<1>>,
    /// Per chunk, whether the kernel has pages there.
    pages: Vec<AtomicU64>,
    /// What rouses the coordinator, where it sleeps.
    bell: Bell,
    /// Whoever sleeps for more work may end, once it is woken.
    is_over: Flag,
    /// Counts what the logs tell, so that they tell the order too.
    moments: Count,
}

impl Storage {
    /// One queue, all participants admitted.
    fn new(participants: usize, descriptors: usize) -> Storage {
        Storage::with_blocks(participants, descriptors, 0)
    }

    fn with_blocks(participants: usize, descriptors: usize, blocks: usize) -> Storage {
        Storage::vacant(1, participants, descriptors, blocks).admitted()
    }

    fn with_queues(queues: usize, participants: usize, descriptors: usize) -> Storage {
        Storage::vacant(queues, participants, descriptors, 0).admitted()
    }

    fn admitted(self) -> Storage {
        for id in 0..self.participants.len() {
            let name = self.table().admit(id as u32, 0).unwrap();
            assert_eq!(name, Some(Name::new(id as u16, 1)));
        }
        self
    }

    /// Nobody is admitted yet.
    fn vacant(queues: usize, participants: usize, descriptors: usize, blocks: usize) -> Storage {
        set_monotonic(START);
        let words = |n: usize, v: u64| (0..n).map(|_| AtomicU64::new(v)).collect();
        let lanes = queues + 2 * participants;
        let last = Task::new(Phase::Free, 0, 0, (1 << GENERATION_BITS) - 1);
        let storage = Storage {
            participants: (0..participants).map(|_| Participant::new()).collect(),
            descriptors: (0..descriptors).map(|_| Descriptor::new(last)).collect(),
            free: words(1, (1 << descriptors) - 1),
            queues,
            controls: (0..lanes).map(|_| LaneControl::new(SLOTS as u64 * LAP_MASK)).collect(),
            slots: words(lanes * SLOTS, Slot::empty(LAP_MASK).0),
            idle: words(queues + 1, 0),
            alarm: Alarm::new(),
            clock: ClockWords::new(),
            blocks: words(blocks, 0),
            free_blocks: words(1, (1 << blocks) - 1),
            chunks: words(chunks(&classes(blocks)), COMMITTED),
            block_bytes: (0..blocks).map(|_| Inline::new()).collect(),
            pages: words(chunks(&classes(blocks)), 1),
            bell: Bell::default(),
            is_over: Flag::new(false),
            moments: Count::new(0),
        };
        storage.each(|d| d.max_attempts.store(u8::MAX.into(), Relaxed));
        storage
    }

    /// Says something of every task to come.
    fn each(&self, say: impl Fn(&Descriptor)) {
        self.descriptors.iter().for_each(say);
    }

    /// With a coordinator that sleeps, and hears of times.
    fn with_bell_for_times(self) -> Storage {
        Storage { bell: Bell(Some(Arc::new(Futex::new()))), ..self }
    }

    /// With a coordinator that sleeps, and hears of every wake.
    fn with_bell(self) -> Storage {
        self.alarm.watched.store(0, Relaxed);
        self.with_bell_for_times()
    }

    fn table(&self) -> Table<'_> {
        Table {
            participants: &self.participants,
            descriptors: &self.descriptors,
            free: FreeMap(&self.free),
            blocks: Blocks::new(classes(self.blocks.len()), &self.blocks, FreeMap(&self.free_blocks), &self.chunks),
            queues: self.queues,
            controls: &self.controls,
            slots: &self.slots,
            capacity: LaneCapacity { queue: SLOTS, private: SLOTS, completion: SLOTS },
            idle: &self.idle,
            alarm: &self.alarm,
            clock: TaskClock { source: Source::Monotonic, is_on: true, origin: Pair::default(), words: &self.clock },
        }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(SeqCst)
    }

    fn moment(&self) -> u64 {
        self.moments.fetch_add(1, SeqCst)
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
    cursors: Arc<Cursors>,
    died: bool,
    accepted: Vec<u64>,
    /// The tasks of these.
    tasks: Vec<TaskId>,
    /// What it set out to cancel.
    tried: Vec<u64>,
    cancelled: Vec<u64>,
    /// What ran when it was cancelled, at whom, and when that was known.
    asked: Vec<(u64, Name, u64)>,
    /// What it began to run, and when.
    ran: Vec<(u64, u64)>,
    /// What it gave back to be attempted again.
    returned: Vec<u64>,
    results: Vec<(u64, Outcome)>,
    /// Whose death was the end of a task.
    blamed: Vec<Name>,
    /// Which checkpoint it left last, from 1.
    kept: u64,
}

impl Actor {
    fn new(storage: &Arc<Storage>, id: usize) -> Actor {
        Actor::named(storage, Name::new(id as u16, 1))
    }

    fn named(storage: &Arc<Storage>, name: Name) -> Actor {
        let cursors = Cursors::new(&storage.table()).with_bell(storage.bell.clone());
        Actor {
            storage: storage.clone(),
            name,
            cursors: Arc::new(cursors),
            died: false,
            accepted: Vec::new(),
            tasks: Vec::new(),
            tried: Vec::new(),
            cancelled: Vec::new(),
            asked: Vec::new(),
            ran: Vec::new(),
            returned: Vec::new(),
            results: Vec::new(),
            blamed: Vec::new(),
            kept: 0,
        }
    }

    /// Another thread of the same process.
    fn thread(&self) -> Actor {
        Actor { cursors: self.cursors.clone(), ..Actor::named(&self.storage, self.name) }
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
        let task = self.table().reserve(self.name)?;
        Some(self.publish_reserved(task, input, lane, addressee))
    }

    /// Takes a block, with its chunk's pages.
    fn alloc(&self) -> Option<usize> {
        let commit = |chunk: usize| -> Result<(), Infallible> {
            self.storage.pages[chunk].store(1, Relaxed);
            Ok(())
        };
        let block = self.table().blocks.alloc(1, self.name, commit).ok()? as usize;
        self.assert_has_pages();
        Some(block)
    }

    /// The kernel knows no stale values, hence the exchange; it orders nothing.
    fn assert_has_pages(&self) {
        assert_eq!(self.storage.pages[0].fetch_or(0, Relaxed), 1, "the chunk of a block in use has no pages");
    }

    /// Attaches a block to what `field` of the task refers to, and fills it.
    fn attach(&self, block: usize, task: Owned, field: &AtomicU64, value: u64) {
        field.store(Payload::new(Some(block as u32), 1).0, Relaxed);
        self.table().blocks.attach(block as u32, self.name, task.index, task.word).unwrap();
        self.storage.block_bytes[block].set(value);
    }

    /// What lies in the block to which `field` refers, if it refers to one.
    fn read(&self, field: &AtomicU64) -> Option<u64> {
        if self.storage.blocks.is_empty() {
            return None; // and no step, where there can be none
        }
        Payload(field.load(Relaxed)).block().map(|block| self.storage.block_bytes[block as usize].get())
    }

    /// What the coordinator does with chunks that are free.
    fn give_back_chunks(&self) {
        self.table().blocks.give_back(self.name, |chunk| self.storage.pages[chunk].store(0, Relaxed));
    }

    fn publish_reserved(&mut self, task: Owned, input: u64, lane: LaneId, addressee: Option<Name>) -> TaskId {
        self.publish_as(task, task.ready(), input, lane, addressee)
    }

    /// As [`publish_reserved`](Self::publish_reserved), of what was renewed.
    fn publish_anew(&mut self, task: Owned, input: u64, lane: LaneId, addressee: Option<Name>) -> TaskId {
        self.publish_as(task, task.ready_anew(), input, lane, addressee)
    }

    fn publish_as(&mut self, task: Owned, ready: Task, input: u64, lane: LaneId, addressee: Option<Name>) -> TaskId {
        let table = self.storage.table();
        table.descriptors[task.index as usize].input_bytes.set(input);
        let id = table.publish(&self.cursors, self.name, task, ready, lane, addressee).unwrap();
        self.accepted.push(input);
        self.tasks.push(id);
        id
    }

    fn cancel(&mut self, input: u64, task: TaskId) {
        self.tried.push(input);
        match self.table().cancel(&self.cursors, task).unwrap() {
            Cancel::Cancelled => self.cancelled.push(input),
            Cancel::Running(name) => self.asked.push((input, name, self.storage.moment())),
            Cancel::Over => {}
        }
    }

    /// Claims the next task of `lane` and writes its output.
    fn claim(&mut self, lane: LaneId) -> Option<(Owned, u64)> {
        let task = self.table().claim(&self.cursors, self.name, lane).unwrap()?;
        Some(self.begin(task))
    }

    fn begin(&mut self, task: Owned) -> (Owned, u64) {
        let table = self.storage.table();
        let d = &table.descriptors[task.index as usize];
        let input = d.input_bytes.get();
        assert!(self.read(&d.input).is_none_or(|block| block == input), "input of {input}");
        self.ran.push((input, self.storage.moment()));
        assert_eq!(d.run.status.swap(told(input, task.word), Relaxed), 0, "{input}: what is told of another attempt");
        d.output_bytes.set(output(input, task.word));
        (task, input)
    }

    /// Runs the last task that it submitted, if nobody has begun that.
    fn work_own(&mut self) {
        let Some(&task) = self.tasks.last() else { return };
        if let Some(task) = self.table().claim_this(&self.cursors, self.name, task).unwrap() {
            let (task, _) = self.begin(task);
            self.complete(task, Outcome::Completed);
        }
    }

    fn complete(&self, task: Owned, outcome: Outcome) {
        self.table().complete(&self.cursors, self.name, task, outcome).unwrap();
    }

    /// Runs the next task of `lane`. False: there is none.
    fn work(&mut self, lane: LaneId) -> bool {
        let Some((task, _)) = self.claim(lane) else { return false };
        self.complete(task, Outcome::Completed);
        true
    }

    /// Claims the next task of `lane` and gives it back, or completes it if no attempt is left.
    fn give_back(&mut self, lane: LaneId, again: Again) {
        if let Some((task, input)) = self.claim(lane) {
            self.give_back_claimed(task, input, again);
        }
    }

    fn give_back_claimed(&mut self, task: Owned, input: u64, again: Again) {
        if self.table().give_back(&self.cursors, self.name, task, again).unwrap() {
            self.returned.push(input);
        } else {
            self.complete(task, Outcome::Completed);
        }
    }

    /// Takes the next result. False: there is none.
    fn take(&mut self) -> bool {
        let taken = self.take_owned();
        taken.map(|task| self.table().release(task).unwrap()).is_some()
    }

    /// Takes the next result and keeps its descriptor.
    fn take_and_renew(&mut self) -> Option<Owned> {
        let task = self.take_owned()?;
        self.table().renew(task).unwrap();
        Some(task)
    }

    fn take_owned(&mut self) -> Option<Owned> {
        let table = self.storage.table();
        let (task, outcome) = table.take(&self.cursors, self.name).unwrap()?;
        let d = &table.descriptors[task.index as usize];
        let input = d.input_bytes.get();
        if outcome == Outcome::Completed {
            let expected = output(input, task.word);
            assert_eq!(d.output_bytes.get(), expected, "output of {input}");
            assert!(self.read(&d.output).is_none_or(|block| block == expected), "output of {input}, in a block");
        }
        let run = d.run_of(task.word);
        let status = run.map_or(0, |run| run.status.load(Relaxed));
        let is_told = outcome == Outcome::Completed || status != 0;
        assert!(!is_told || status == told(input, task.word), "{input}: {status:#x} is told of another attempt");
        if outcome == Outcome::WorkerDied {
            assert_eq!(d.exit.load(Relaxed), EXIT);
            self.blamed.push(run.expect("who died had claimed it").claimant());
        }
        self.results.push((input, outcome));
        Some(task)
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
            self.table().park(&self.cursors, self.name, waits, None, || self.storage.is_over());
            has_slept = true;
        }
        if has_slept {
            self.storage.table().wake_next(&self.cursors, queues);
        }
    }

    /// Sleeps once, unless `find` finds room before. `own`: what comes to its own lanes ends the sleep too.
    fn find_or_sleep<T>(&self, own: bool, find: impl Fn(&Actor) -> Option<T>) -> Option<T> {
        find(self).or_else(|| {
            let mut found = None;
            let waits = Waits { own, room: true, ..Waits::default() };
            self.table().park(&self.cursors, self.name, waits, None, || {
                found = find(self);
                found.is_some()
            });
            found
        })
    }

    /// The lane of what is addressed to it.
    fn private(&self) -> LaneId {
        self.table().private(self.name.id())
    }

    /// Runs all that it can.
    fn work_off(&mut self) {
        let mut lanes: Vec<LaneId> = (0..self.storage.queues).map(|q| self.table().queue(q)).collect();
        lanes.push(self.private());
        while lanes.iter().any(|&lane| self.work(lane)) {}
    }

    /// Settles the death of another.
    fn recover(&self, dead: &Actor) {
        assert!(dead.died);
        self.table().recover(&self.cursors, self.name, dead.name, Death::of(EXIT)).unwrap();
    }

    /// Looks at the times, as the coordinator.
    fn tick(&self) -> Tick {
        self.table().tick(&self.cursors).unwrap()
    }
}

/// What a worker makes of an input, so that a result tells from which task and attempt it comes.
fn output(input: u64, word: Task) -> u64 {
    input << 8 | u64::from(word.attempt())
}

/// What a worker tells of such an attempt: not 0.
fn told(input: u64, word: Task) -> u32 {
    1 << 31 | output(input, word) as u32
}

/// Ends a scene: who lives runs what is left, by fresh cursors and without another sweep, then what must wait, and takes.
/// Then each accepted task must have been delivered once, with an outcome that the logs explain, and the audit must be
/// clean.
fn settle(mut actors: Vec<Actor>) -> Vec<Actor> {
    let storage = actors[0].storage.clone();
    for actor in actors.iter_mut().filter(|a| !a.died) {
        actor.cursors = Arc::new(Cursors::new(&storage.table()));
        actor.work_off();
    }
    let is_delayed = |d: &Descriptor| Task(d.state.load(Relaxed)).is(Phase::Delayed);
    if storage.descriptors.iter().any(is_delayed) {
        set_monotonic(NEVER - 1);
        let mut alive = actors.iter_mut().filter(|a| !a.died);
        alive.next().expect("somebody lives").tick();
        actors.iter_mut().filter(|a| !a.died).for_each(Actor::work_off);
    }
    for actor in actors.iter_mut().filter(|a| !a.died) {
        while actor.take() {}
    }
    let deaths = actors.iter().filter(|a| a.died).count();
    let runs = |input: u64| actors.iter().flat_map(|a| &a.ran).filter(|r| r.0 == input).count();
    let returns = |input: u64| actors.iter().flat_map(|a| &a.returned).filter(|&&i| i == input).count();
    let mut submitters: Vec<Name> = actors.iter().map(|a| a.name).collect();
    submitters.sort_unstable_by_key(|name| name.bits());
    submitters.dedup();
    for name in submitters {
        let threads: Vec<&Actor> = actors.iter().filter(|a| a.name == name).collect();
        let mut accepted: Vec<u64> = threads.iter().flat_map(|a| &a.accepted).copied().collect();
        let mut delivered: Vec<u64> = threads.iter().flat_map(|a| &a.results).map(|r| r.0).collect();
        accepted.sort_unstable();
        delivered.sort_unstable();
        if threads.iter().all(|a| !a.died) {
            assert_eq!(accepted, delivered, "{name:?}: accepted against delivered; {}", storage.table().audit());
        }
        assert!(delivered.is_sorted_by(|a, b| a < b), "{name:?}: delivered twice: {delivered:?}");
        for &(input, outcome) in threads.iter().flat_map(|a| &a.results) {
            let promised = threads.iter().any(|a| a.cancelled.contains(&input));
            let tried = threads.iter().any(|a| a.tried.contains(&input));
            let is_said =
                |word: fn(&Descriptor) -> &AtomicU64| storage.descriptors.iter().any(|d| word(d).load(Relaxed) != 0);
            let explained = match outcome {
                Outcome::Completed => runs(input) > 0,
                Outcome::Cancelled => tried && (!promised || deaths > 0 || runs(input) <= returns(input)),
                Outcome::WorkerDied | Outcome::AddresseeDied => deaths > 0,
                Outcome::Expired => is_said(|d| &d.expires),
                Outcome::TimedOut => deaths > 0 && is_said(|d| &d.limits),
            };
            let is_kept = !promised || outcome == Outcome::Cancelled;
            assert!(explained && is_kept, "{input} ended as {outcome:?}");
        }
    }
    for input in actors.iter().flat_map(|a| &a.ran).map(|r| r.0) {
        assert!(runs(input) <= 1 + deaths + returns(input), "{input} ran {} times", runs(input));
    }
    for &(input, name, when) in actors.iter().flat_map(|a| &a.asked) {
        let others = actors.iter().filter(|a| a.name != name).flat_map(|a| &a.ran);
        let late = others.filter(|r| r.0 == input && r.1 > when).count();
        assert_eq!(late, 0, "{input} was begun anew after its end had been asked of {name:?}");
    }
    for name in actors.iter().flat_map(|a| &a.blamed) {
        assert!(actors.iter().any(|a| a.died && a.name == *name), "{name:?} lives, of whose death a task has ended");
    }
    let audit = storage.table().audit();
    assert!(audit.is_clean(), "{audit}");
    actors
}
