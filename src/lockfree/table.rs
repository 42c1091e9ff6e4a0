//! The table: descriptors, lanes, blocks and participants of one segment, and the steps by which tasks move through it.
//!
//! It acts on slices, wherever they lie: in a mapped segment, or on the heap of a model. What each structure promises
//! stands in its own module; here are the rules that need two of them.
//!
//! # Lanes
//!
//! Numbered: one per queue, then one private lane per participant (work that only it can do), then one completion lane
//! per participant (its finished tasks).
//!
//! # Words
//!
//! Beside those of the structures that it is made of, each with its own page, the idle masks: a row per queue and one
//! for room, a bit per participant.
//!
//! | word       | written by                     | read by                      | a death leaves                      |
//! |------------|--------------------------------|------------------------------|-------------------------------------|
//! | idle masks | the participant; recovery, for | who has posted work or made  | a bit of one who is not asleep: its |
//! |            | the dead                       | room; the coordinator's look | word says so, and wakers look on    |
//!
//! [`Cursors`] are private to a process, and go with it.
//!
//! # Invariants
//!
//! 1. Task words change in one place, [`Table::exchange`], and by the legal transitions only.
//! 2. A task that is READY or DONE has its hint in its lane, or the lane's `rescan` is up, or somebody is between its
//!    own exchange and the hint: whose death the sweep follows, and whose stop delays that one task.
//! 3. Who removes a hint has claimed its task, or answers for it (\[remove]).
//! 4. What is addressed is claimed by its addressee alone, and not by a later incarnation under that id.
//! 5. Work that is announced wakes one who sleeps before it; if that one does not come, the coordinator's next look
//!    wakes another (`PARK.md`).
//!
//! # Ordering
//!
//! SeqCst stands in fences only, in these pairs:
//!
//! - \[remove] Who removes a hint without claiming its task fences and reads the task word again; who looks whether a
//!   lane holds a task's hint reads the word, fences, then looks. Either the look misses the removed hint and stores a new
//!   one, or the remover sees the task and takes it. Without the second read a task is lost: A claims and dies before it
//!   empties the slot, B finds A's hint stale, recovery makes the task READY and the sweep still sees the hint.
//! - \[park] `lockfree/PARK.md`.
//! - \[orphan] [`super::participant`].
//! - \[timer], \[watch]: [`super::timer`].
//! - \[room] Who frees a descriptor or block exchanges its word, fences, then looks whether somebody waits for room; who waits
//!   sets its bit, fences, then tries once more.
//! - \[cancel] Who asks a running task to end sets `cancel`, fences, then reads the task word again; who claims it or gives it
//!   back exchanges that word, fences, then reads `cancel`. So either the request goes to whoever has it by now, or it ends
//!   here: no attempt begins behind the back of one who was told that the task runs elsewhere.
//!
//! Who makes room, both sides of \[cancel], and who posts (the last step of a push is an exchange, or what raises `rescan`) come
//! from an exchange, which on x86-64 is such a fence by itself (`fence_after_exchange`). In all other pairs the step before the
//! fence may be a load or a store.
//!
//! # Crash
//!
//! | in          | after           | it leaves                             | settled by                            |
//! |-------------|-----------------|---------------------------------------|---------------------------------------|
//! | `reserve`   | the exchange    | RESERVED                              | recovery releases it                  |
//! | `publish`   | the exchange    | READY, no hint, a time unheard        | recovery drops it                     |
//! | `take_from` | the exchange    | CLAIMED or RESERVED, a stale hint     | recovery; the next taker removes that |
//! | `take_from` | removing a hint | perhaps a task without hint           | the sweep                             |
//! | `complete`  | the exchange    | DONE without hint, a submitter asleep | the sweep                             |
//! | `give_back` | the exchange    | READY, no hint, a time unheard        | the sweep; the tick after each death  |
//! | `cancel`    | the request     | a request that nobody was woken for   | its worker sees it, or recovery       |
//! | `release`   | freeing blocks  | RESERVED, without its blocks          | recovery releases it                  |
//! | `take_noted`| the exchange    | RESERVED and noted, of a seat         | recovery makes it DONE again          |
//! | `renew`     | freeing blocks  | the same, until it is published       | recovery releases it                  |
//! | `rescan`    | some hints      | the flag, up still                    | the next rescan                       |
//! | `park`      | any step        | idle bits, PARKED                     | recovery clears them, the sweep wakes |
//!
//! # Progress
//!
//! Lock-free: where an exchange fails, another's has succeeded. `reserve`, `rescan` and a last look walk all
//! descriptors once; `claim` and `take` go on while they meet hints that are stale, each of which somebody has stored.
//! Both first look at the head alone, and take what stands there if it is what mostly does; an empty lane is left unless its flag
//! is up. All else (a hint that is stale, a private task, one that may be over, a flag) is for `search` and `search_done`. Only
//! `park` sleeps.
//!
//! What checks this page: all of `lockfree/tests/` (in `mutants.rs` fences and second looks are left out, which a model
//! must notice), `exec/tests.rs`, `fuzz/fuzz_targets/descriptor_ops.rs` and `live_damage.rs`, `shmworker torture`.

use super::{
    blocks::Blocks,
    checkpoint,
    descriptor::{Backoff, Blame, Descriptor, Limits, Payload, set},
    freemap::FreeMap,
    lane::{Cursor, Entry, Lane, LaneControl, Raised},
    participant::{Found, Name, Participant, check_id},
    task_clock::TaskClock,
    timer::{Alarm, NEVER},
    word::{GENERATION_BITS, Hint, Member, Outcome, Phase, Task, is_legal},
};
use crate::{
    error::Corrupted,
    sync::{
        AcqRel, Acquire, AtomicU64, Bell, Mutex, MutexGuard, Ordering, Relaxed, Release, fence_after_exchange,
        full_fence, monotonic, mutant,
    },
};

use std::mem::ManuallyDrop;

/// How long, in nanoseconds, whoever was woken is taken to be on its way: some times what it takes where a core is free. After
/// that others are woken in its place.
const ON_ITS_WAY: u64 = 100_000;

/// Number of a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(crate) struct LaneId(pub(crate) u32);

/// One life of one descriptor: a task, for whoever submitted it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct TaskId {
    pub(crate) index: u16,
    pub(crate) generation: u64,
}

/// A descriptor that the caller owns, by the word that says so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owned {
    pub(crate) index: u16,
    pub(crate) word: Task,
}

impl Owned {
    pub(crate) fn id(&self) -> TaskId {
        TaskId { index: self.index, generation: self.word.generation() }
    }

    /// The word of the task that it becomes, RESERVED as it is.
    pub(crate) const fn ready(&self) -> Task {
        self.word.to(Phase::Ready, self.word.who())
    }

    /// The same in its next life, for what was [renewed](Table::renew).
    pub(crate) fn ready_anew(&self) -> Task {
        self.word.reborn(self.word.who()).to(Phase::Ready, self.word.who())
    }

    /// A number of this attempt, and of hardly another.
    fn seed(&self) -> u64 {
        u64::from(self.index) << 48 ^ u64::from(self.word.attempt()) << 40 ^ self.word.generation()
    }
}

impl TaskId {
    /// As a word that says of nothing else, and is not 0.
    pub(crate) const fn note(self) -> u64 {
        (self.index as u64 + 1) << GENERATION_BITS | self.generation
    }
}

/// What became of a cancellation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Cancel {
    /// It will not run.
    Cancelled,
    /// It runs at this participant, or did until just now. The request stands: its worker can see it, and no other attempt
    /// begins.
    Running(Name),
    /// It is done, or no such task exists any more.
    Over,
}

/// All shared words of a segment, typed.
#[derive(Clone, Copy)]
pub(crate) struct Table<'s> {
    pub(crate) participants: &'s [Participant],
    pub(crate) descriptors: &'s [Descriptor],
    pub(crate) free: FreeMap<'s>,
    pub(crate) blocks: Blocks<'s>,
    /// Queues; the other lanes follow.
    pub(crate) queues: usize,
    pub(crate) controls: &'s [LaneControl],
    pub(crate) slots: &'s [AtomicU64],
    /// Slots of a queue's or completion lane, and of a private lane: powers of two.
    pub(crate) capacity: LaneCapacity,
    /// Per queue, a bit per participant that is parked, or about to be, before it; a last row for those who wait for room.
    pub(crate) idle: &'s [AtomicU64],
    pub(crate) alarm: &'s Alarm,
    pub(crate) clock: TaskClock<'s>,
}

/// What ends a sleep, beside a wake that is meant for the sleeper.
#[derive(Clone, Copy, Default)]
pub(crate) struct Waits<'q> {
    /// Work in one of these lanes of queues.
    pub(crate) queues: &'q [LaneId],
    /// Work in the own two lanes.
    pub(crate) own: bool,
    /// A descriptor or block that has become free.
    pub(crate) room: bool,
}

/// When a task that its owner gives back is to be attempted again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Again {
    /// At once, and this attempt does not count: it was handed back.
    SameAttempt,
    /// After so many nanoseconds.
    After(u64),
    /// After the pause that its submitter asked for.
    Backoff,
}

/// What became of a task that its owner gave back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Given {
    /// There will be another attempt, unless somebody else ends it.
    Back,
    /// It was ended by its owner: its submitter had asked for that, or is dead.
    Cancelled,
    /// No attempt is left, and it is still its owner's to complete.
    No,
}

/// Slots per lane, by kind of lane. Powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaneCapacity {
    pub(crate) queue: usize,
    pub(crate) private: usize,
    pub(crate) completion: usize,
}

/// What one participant remembers in private memory: its cursors on all lanes, who of its threads sleeps, and the bell.
pub(crate) struct Cursors {
    lanes: Box<[Cursor]>,
    /// After whom to look for somebody to wake: each in turn gets work, and the runs that may stay with it.
    last_woken: std::sync::atomic::AtomicUsize,
    /// When that was.
    woken_at: std::sync::atomic::AtomicU64,
    /// Threads of this process that are parked: in all, and by row of the idle masks. The last to leave takes the bit down.
    parked: Mutex<(usize, Box<[usize]>)>,
    /// For the coordinator: which claim of each descriptor it saw last whose owner had not said when it began, and when.
    seen: std::sync::Mutex<Vec<(Task, u64)>>,
    pub(crate) bell: Bell,
}

impl Cursors {
    /// Without a bell: for a table whose coordinator does not sleep in `poll`.
    pub(crate) fn new(table: &Table<'_>) -> Cursors {
        Cursors {
            lanes: (0..table.controls.len()).map(|_| Cursor::default()).collect(),
            last_woken: Default::default(),
            woken_at: Default::default(),
            parked: Mutex::new((0, vec![0; table.queues + 1].into())),
            seen: Default::default(),
            bell: Bell::default(),
        }
    }

    pub(crate) fn with_bell(self, bell: Bell) -> Cursors {
        Cursors { bell, ..self }
    }

    pub(crate) fn of(&self, lane: LaneId) -> &Cursor {
        &self.lanes[lane.0 as usize]
    }

    /// When this claim was seen first, if it is the one that was seen last; otherwise it is now.
    pub(crate) fn first_seen(&self, index: u16, claimed: Task, now: u64) -> u64 {
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if seen.len() <= index as usize {
            seen.resize(index as usize + 1, (Task(0), 0));
        }
        let entry = &mut seen[index as usize];
        if entry.0 != claimed {
            *entry = (claimed, now);
        }
        entry.1
    }
}

impl<'s> Table<'s> {
    // ---- geometry ---------------------------------------------------------------------------------------------------

    /// The lane of a queue.
    #[inline]
    pub(crate) fn queue(&self, queue: usize) -> LaneId {
        debug_assert!(queue < self.queues);
        LaneId(queue as u32)
    }

    /// The lane for work that only this participant can do.
    #[inline]
    pub(crate) fn private(&self, who: u16) -> LaneId {
        LaneId((self.queues + who as usize) as u32)
    }

    /// The lane that carries this participant's finished tasks.
    #[inline]
    pub(crate) fn completion(&self, who: u16) -> LaneId {
        LaneId((self.queues + self.participants.len() + who as usize) as u32)
    }

    /// Words of a row of the idle masks.
    #[inline]
    pub(crate) fn idle_words(&self) -> usize {
        self.participants.len().div_ceil(64)
    }

    #[inline]
    pub(crate) fn lane(&self, id: LaneId) -> Lane<'s> {
        let (i, n, p) = (id.0 as usize, self.queues, self.participants.len());
        let c = self.capacity;
        let (start, len) = if i < n {
            (i * c.queue, c.queue)
        } else if i < n + p {
            (n * c.queue + (i - n) * c.private, c.private)
        } else {
            (n * c.queue + p * c.private + (i - n - p) * c.completion, c.completion)
        };
        Lane::new(&self.controls[i], &self.slots[start..start + len])
    }

    #[inline]
    pub(crate) fn descriptor(&self, index: u16) -> Result<&'s Descriptor, Corrupted> {
        self.descriptors.get(index as usize).ok_or(Corrupted::new("hint at descriptor", index as usize, index.into()))
    }

    #[inline]
    pub(crate) fn participant(&self, id: u16) -> Result<&'s Participant, Corrupted> {
        Ok(&self.participants[check_id(id, self.participants.len())?])
    }

    /// # Errors
    /// [`Corrupted`] if the segment has no such id.
    pub(crate) fn check_participant(&self, name: Name) -> Result<u16, Corrupted> {
        check_id(name.id(), self.participants.len()).map(|id| id as u16)
    }

    /// Does the kernel still have this participant's process, as far as the coordinator has heard?
    #[inline]
    pub(crate) fn is_live(&self, name: Name) -> Result<bool, Corrupted> {
        let member = self.participant(name.id())?.member(name.id().into())?;
        Ok(member == Member::Live(name.incarnation()))
    }

    /// The lane in which a READY task's hint belongs.
    pub(crate) fn lane_of(&self, index: u16, d: &Descriptor) -> Result<LaneId, Corrupted> {
        let lane = d.lane.load(Relaxed);
        if (lane as usize) < self.queues + self.participants.len() {
            Ok(LaneId(lane))
        } else {
            Err(Corrupted::new("lane of descriptor", index.into(), lane.into()))
        }
    }

    /// The only participant that may claim it, if there is one.
    pub(crate) fn addressee(&self, d: &Descriptor) -> Option<Name> {
        let bits = d.addressee.load(Relaxed);
        (bits != 0).then(|| Name::of(bits))
    }

    /// The one door through which task words change.
    #[inline]
    pub(crate) fn exchange(&self, index: u16, from: Task, to: Task, success: Ordering) -> Result<Task, Task> {
        debug_assert!(is_legal(from, to), "{from:?} -> {to:?}");
        let success = if mutant("relaxed-exchange") { Relaxed } else { success };
        // A failed exchange is only compared again, or read anew with Acquire.
        self.descriptors[index as usize]
            .state
            .compare_exchange(from.0, to.0, success, Relaxed)
            .map(|_| to)
            .map_err(Task)
    }

    #[inline]
    pub(crate) fn load(&self, index: u16) -> Task {
        Task(self.descriptors[index as usize].state.load(Acquire))
    }

    // ---- submitter --------------------------------------------------------------------------------------------------

    /// FREE → RESERVED(me), next generation. `None`: every descriptor is in use.
    #[inline]
    pub(crate) fn reserve(&self, me: Name) -> Option<Owned> {
        let first = self.free.take(0..self.descriptors.len(), me.id().into());
        first.and_then(|i| self.try_reserve(i as u16, me)).or_else(|| self.search_free(me))
    }

    #[cold]
    #[inline(never)]
    fn search_free(&self, me: Name) -> Option<Owned> {
        let all = 0..self.descriptors.len();
        while let Some(i) = self.free.take(all.clone(), me.id().into()) {
            if let Some(owned) = self.try_reserve(i as u16, me) {
                return Some(owned);
            }
        }
        // The map is a hint: before giving up, ask the truth.
        all.into_iter().find_map(|i| self.try_reserve(i as u16, me))
    }

    #[inline]
    fn try_reserve(&self, index: u16, me: Name) -> Option<Owned> {
        let word = Task(self.descriptors[index as usize].state.load(Relaxed)); // compared again by the exchange
        if !word.is(Phase::Free) {
            return None;
        }
        let word = self.exchange(index, word, word.reborn(me.id()), Acquire).ok()?; // [release]
        self.reset(index);
        Some(Owned { index, word })
    }

    /// For who has begun a new life of the descriptor.
    #[inline]
    fn reset(&self, index: u16) {
        let d = &self.descriptors[index as usize];
        for payload in [&d.input, &d.output] {
            payload.store(0, Relaxed);
        }
        if d.checkpoints.load(Relaxed) != checkpoint::NONE {
            d.checkpoints.store(checkpoint::NONE, Relaxed);
        }
    }

    /// RESERVED(me) → `ready`, hint, wake. The payload and all fields but `lane`, `addressee` and `submitter` are written.
    ///
    /// # Errors
    /// [`Corrupted`] if the word moved under its owner, or a lane is damaged.
    #[inline]
    pub(crate) fn publish(
        &self,
        cursors: &Cursors,
        me: Name,
        task: Owned,
        ready: Task,
        lane: LaneId,
        addressee: Option<Name>,
    ) -> Result<TaskId, Corrupted> {
        let d = &self.descriptors[task.index as usize];
        d.lane.store(lane.0, Relaxed);
        d.addressee.store(addressee.map_or(0, Name::bits), Relaxed);
        d.submitter.store(me.bits(), Relaxed);
        set(&d.exit, 0);
        let (expires, limits) = (d.expires.load(Relaxed), Limits::of(d.limits.load(Relaxed)));
        self.exchange(task.index, task.word, ready, Release).map_err(|w| self.refused(me, task.index, w))?; // [publish]
        self.announce_ready(cursors, task.index, ready, lane, addressee)?;
        if expires != 0 || limits != Limits::default() {
            self.arm(cursors, limits.first_look(self.now()).min(if expires == 0 { NEVER } else { expires }));
        }
        Ok(TaskId { index: task.index, generation: ready.generation() })
    }

    /// Who has made a task READY stores its hint and wakes one who can claim it. `lane` and `addressee` are those of this life.
    #[inline(always)]
    pub(crate) fn announce_ready(
        &self,
        cursors: &Cursors,
        index: u16,
        ready: Task,
        lane: LaneId,
        addressee: Option<Name>,
    ) -> Result<(), Corrupted> {
        if addressee.is_none() && lane.0 as usize >= self.queues {
            return Err(Corrupted::new("lane of a descriptor without addressee", index.into(), lane.0.into()));
        }
        // An overflow needs nothing more: the flag is up, and the wake below makes somebody look.
        let _ = self.lane(lane).push(cursors.of(lane), Hint::of(index, ready))?;
        fence_after_exchange("no-post-fence"); // [park], [orphan]
        match addressee {
            None => self.wake_for_task(cursors, lane.0 as usize),
            Some(name) if mutant("no-addressee-check") || self.is_live(name)? => {
                self.participant(name.id())?; // damage is told
                self.wake(cursors, name.id());
            }
            Some(_) => {
                // [orphan] Nobody will look into that lane again, or only a later incarnation, which must not have it.
                let done = ready.to(Phase::Done(Outcome::AddresseeDied), ready.who());
                if self.exchange(index, ready, done, AcqRel).is_ok() {
                    self.announce_done(cursors, index, done, None)?;
                }
            }
        }
        Ok(())
    }

    /// READY or DELAYED → DONE(cancelled); where it has started, a request to its worker. For the submitter and for the
    /// coordinator.
    ///
    /// # Errors
    /// [`Corrupted`] if a word or lane is damaged.
    pub(crate) fn cancel(&self, cursors: &Cursors, task: TaskId) -> Result<Cancel, Corrupted> {
        let d = &self.descriptors[task.index as usize];
        loop {
            // Before the word, hence Acquire: who asked for another life's cancellation since then has changed it, and
            // the exchange fails.
            let asked = d.cancel.load(Acquire);
            let word = self.load(task.index);
            if word.generation() != task.generation {
                return Ok(Cancel::Over);
            }
            match word.phase() {
                Some(Phase::Ready | Phase::Delayed) => {
                    let done = word.to(Phase::Done(Outcome::Cancelled), word.who());
                    if self.exchange(task.index, word, done, AcqRel).is_ok() {
                        self.announce_done(cursors, task.index, done, None)?;
                        return Ok(Cancel::Cancelled);
                    }
                }
                Some(Phase::Claimed) => {
                    let member = || self.participant(word.who())?.member(word.who().into());
                    let owner = member()?;
                    // AcqRel: nothing travels with it, the fence orders it.
                    let _ = d.cancel.compare_exchange(asked, word.generation() + 1, AcqRel, Relaxed);
                    fence_after_exchange("no-cancel-fence"); // [cancel], [park]
                    // An id is given again only when no word names it, so between two equal looks at the member the word
                    // named that one. (The word alone tells nothing: handed back, it may have come to an heir of the id.)
                    let is_same = mutant("no-cancel-recheck") || self.load(task.index) == word;
                    if is_same && self.is_cancel_asked(task.index, word) && member()? == owner {
                        return match owner {
                            Member::Live(n) | Member::Dead(n) => {
                                self.wake(cursors, word.who());
                                Ok(Cancel::Running(Name::new(word.who(), n)))
                            }
                            Member::Vacant(_) => Err(damaged(task.index, word)),
                        };
                    }
                }
                Some(_) => return Ok(Cancel::Over),
                None => return Err(damaged(task.index, word)),
            }
        }
    }

    /// As [`cancel`](Self::cancel), but one that has started is left alone. True: it is cancelled.
    ///
    /// # Errors
    /// [`Corrupted`] if a word or lane is damaged.
    pub(crate) fn cancel_waiting(&self, cursors: &Cursors, task: TaskId) -> Result<bool, Corrupted> {
        loop {
            let word = self.load(task.index);
            if word.generation() != task.generation {
                return Ok(false);
            }
            match word.phase() {
                Some(Phase::Ready | Phase::Delayed) => {
                    let done = word.to(Phase::Done(Outcome::Cancelled), word.who());
                    if self.exchange(task.index, word, done, AcqRel).is_ok() {
                        self.announce_done(cursors, task.index, done, None)?;
                        return Ok(true);
                    }
                }
                Some(_) => return Ok(false),
                None => return Err(damaged(task.index, word)),
            }
        }
    }

    /// Has somebody asked for the end of this life of the descriptor?
    pub(crate) fn is_cancel_asked(&self, index: u16, word: Task) -> bool {
        self.descriptors[index as usize].cancel.load(Acquire) == word.generation() + 1
    }

    /// The next finished task of this submitter: DONE → RESERVED(me). Several threads may take; each task is taken once.
    ///
    /// The outcome stands in the word that was replaced, hence it is returned beside the new one.
    ///
    /// # Errors
    /// [`Corrupted`] if a word or lane is damaged.
    #[inline]
    pub(crate) fn take(&self, cursors: &Cursors, me: Name) -> Result<Option<(Owned, Outcome)>, Corrupted> {
        let id = self.completion(me.id());
        let (lane, cursor) = (self.lane(id), cursors.of(id));
        let wanted = |w: Task, _: &Descriptor| w.is(Phase::Done(Outcome::Completed)) && w.who() == me.id();
        let ahead = |d: &Descriptor| d.prefetch_for_submitter();
        match lane.glance(cursor) {
            Err(false) => Ok(None),
            Ok(entry) => match self.take_first(lane, cursor, &entry, ahead, wanted, |w| w.to(Phase::Reserved, me.id()))
            {
                Some((index, _, word)) => Ok(Some((Owned { index, word }, Outcome::Completed))),
                None => self.search_done(cursors, me, |_, w| w.to(Phase::Reserved, me.id())),
            },
            Err(true) => self.search_done(cursors, me, |_, w| w.to(Phase::Reserved, me.id())),
        }
    }

    /// As [`take`](Self::take), for a durable client, one thread at a time: whoever comes after its death finds the result again,
    /// unless it was [released](Self::release_noted).
    ///
    /// # Errors
    /// [`Corrupted`] if a word or lane is damaged.
    pub(crate) fn take_noted(&self, cursors: &Cursors, me: Name) -> Result<Option<(Owned, Outcome)>, Corrupted> {
        self.search_done(cursors, me, |index, done| {
            self.descriptors[usize::from(index)].note(done);
            done.to(Phase::Reserved, me.id())
        })
    }

    /// As [`release`](Self::release), of what a durable client has in hand.
    ///
    /// # Errors
    /// [`Corrupted`] if the word moved under its owner, or a payload field is damaged.
    pub(crate) fn release_noted(&self, task: Owned) -> Result<(), Corrupted> {
        self.descriptors[usize::from(task.index)].take_note_down();
        self.release(task)
    }

    /// As [`take`](Self::take), whatever stands at the head of the lane.
    #[cold]
    #[inline(never)]
    fn search_done(
        &self,
        cursors: &Cursors,
        me: Name,
        to: impl Fn(u16, Task) -> Task,
    ) -> Result<Option<(Owned, Outcome)>, Corrupted> {
        let lane = self.completion(me.id());
        let wanted = |w: Task, _: &Descriptor| matches!(w.phase(), Some(Phase::Done(_))) && w.who() == me.id();
        loop {
            if let Some((index, from, word)) = self.take_from(cursors, lane, wanted, &to)? {
                let Some(Phase::Done(outcome)) = from.phase() else { return Err(damaged(index, from)) };
                return Ok(Some((Owned { index, word }, outcome)));
            }
            let Some(raised) = self.lane(lane).raised() else { return Ok(None) };
            self.rescan(cursors, Some(lane), wanted)?;
            self.lane(lane).lower_rescan(raised);
        }
    }

    /// RESERVED(me) → FREE, blocks first. The end of a taken result, or of a submission that is abandoned.
    ///
    /// # Errors
    /// [`Corrupted`] if the word moved under its owner, or a payload field is damaged.
    pub(crate) fn release(&self, task: Owned) -> Result<(), Corrupted> {
        self.free_blocks(task)?;
        let free = task.word.to(Phase::Free, 0);
        self.exchange(task.index, task.word, free, Release).map_err(|w| moved(task.index, w))?; // [release]
        self.free.give(task.index as usize);
        self.wake_for_room();
        Ok(())
    }

    /// Frees what a task refers to, and keeps its descriptor for the next one, which takes no blocks: RESERVED(me) it stays until
    /// that is published as its next life ([`Owned::ready_anew`]). So release, reserve and publish are one exchange. Whoever waits for
    /// a descriptor gets none by it.
    ///
    /// # Errors
    /// [`Corrupted`] if the word moved under its owner, or a payload field is damaged.
    #[inline]
    pub(crate) fn renew(&self, task: Owned) -> Result<(), Corrupted> {
        let word = self.load(task.index);
        if word != task.word {
            return Err(moved(task.index, word));
        }
        let had_blocks = self.free_blocks(task)?;
        self.reset(task.index);
        if had_blocks {
            self.wake_for_room();
        }
        Ok(())
    }

    /// The next life of a descriptor that was [renewed](Self::renew), for a task that takes blocks, which are attached to a life:
    /// RESERVED(me) → RESERVED(me).
    ///
    /// # Errors
    /// [`Corrupted`] if the word moved under its owner.
    pub(crate) fn begin_anew(&self, task: Owned) -> Result<Owned, Corrupted> {
        let word = task.word.reborn(task.word.who());
        // Relaxed: it was the owner's and is, and nothing lies in it. [publish] or [release] comes after that.
        let word = self.exchange(task.index, task.word, word, Relaxed).map_err(|w| moved(task.index, w))?;
        Ok(Owned { word, ..task })
    }

    /// Frees what a task refers to. True: that was something.
    #[inline]
    fn free_blocks(&self, task: Owned) -> Result<bool, Corrupted> {
        let d = &self.descriptors[task.index as usize];
        let mut had_blocks = d.checkpoints.load(Relaxed) != checkpoint::NONE;
        for payload in [&d.input, &d.output] {
            let payload = Payload(payload.load(Relaxed));
            had_blocks |= payload.block().is_some();
            self.blocks.detach(payload, task.index, task.word)?;
        }
        self.drop_checkpoints(task)?;
        Ok(had_blocks)
    }

    /// Does somebody sleep for want of room, or is about to? An answer that may be late: for who looks again.
    #[inline]
    pub(crate) fn is_room_wanted(&self) -> bool {
        self.has_idlers(self.queues)
    }

    /// Wakes all who wait for room, after the exchange that has made some. All, since what has become free may be too small for
    /// the first, and room is short anyway.
    pub(crate) fn wake_for_room(&self) {
        fence_after_exchange("no-room-fence"); // [room]
        if !self.has_idlers(self.queues) {
            return;
        }
        // Whoever else wakes them: the room may have come after the look of one that was marked as woken long ago.
        self.idlers(self.queues).filter_map(|id| self.participants.get(id)).for_each(Participant::wake);
    }

    // ---- worker -----------------------------------------------------------------------------------------------------

    /// The next task of this lane: READY → CLAIMED(me). On the way those that were cancelled or whose time is over are ended.
    ///
    /// # Errors
    /// [`Corrupted`] if a word or lane is damaged.
    #[inline]
    pub(crate) fn claim(&self, cursors: &Cursors, me: Name, id: LaneId) -> Result<Option<Owned>, Corrupted> {
        let (lane, cursor) = (self.lane(id), cursors.of(id));
        // The first is a task for anybody, mostly, and of those that never expire.
        let wanted = |w: Task, d: &Descriptor| {
            w.is(Phase::Ready)
                && d.lane.load(Relaxed) == id.0
                && (id.0 as usize) < self.queues
                && d.expires.load(Relaxed) == 0
        };
        let ahead = |d: &Descriptor| d.prefetch_for_worker();
        let first = match lane.glance(cursor) {
            Err(false) => return Ok(None),
            first => first.ok(),
        };
        let raised = lane.raised_long_ago(cursor);
        if raised.is_none()
            && let Some(entry) = first
            && let Some((index, _, word)) =
                self.take_first(lane, cursor, &entry, ahead, wanted, |w| w.to(Phase::Claimed, me.id()))
            && self.begin(cursors, me, Owned { index, word })?
        {
            return Ok(Some(Owned { index, word }));
        }
        self.search(cursors, me, id, raised)
    }

    /// As [`claim`](Self::claim), whatever stands at the head of the lane. `raised`: a look at the descriptors is due even if
    /// there is a hint.
    #[cold]
    #[inline(never)]
    fn search(
        &self,
        cursors: &Cursors,
        me: Name,
        id: LaneId,
        mut raised: Option<Raised>,
    ) -> Result<Option<Owned>, Corrupted> {
        let (lane, ours) = (self.lane(id), id == self.private(me.id()));
        // `lane` and `addressee` are those of this life: the word is the READY of it, or the exchange fails.
        let wanted = |w: Task, d: &Descriptor| {
            w.is(Phase::Ready) && d.lane.load(Relaxed) == id.0 && (!ours || d.addressee.load(Relaxed) == me.bits())
        };
        loop {
            let taken = self.take_from(cursors, id, wanted, |index, w| self.claimed(me, index, w))?; // [publish], [claim]
            let raised = if taken.is_some() { raised.take() } else { lane.raised() };
            if let Some(raised) = raised {
                self.rescan(cursors, Some(id), wanted)?;
                lane.lower_rescan(raised);
                if taken.is_none() {
                    continue;
                }
            }
            let Some((index, _, word)) = taken else { return Ok(None) };
            let owned = Owned { index, word };
            if self.begin(cursors, me, owned)? {
                return Ok(Some(owned));
            }
        }
    }

    /// This task of `me`'s own, if it is READY in a queue: READY → CLAIMED(me). Its hint stays behind, as that of one who was
    /// stopped before removing it would; hints of such tasks at the head of the lane are removed, so that they don't pile up.
    ///
    /// # Errors
    /// [`Corrupted`] if a word or lane is damaged.
    pub(crate) fn claim_this(&self, cursors: &Cursors, me: Name, task: TaskId) -> Result<Option<Owned>, Corrupted> {
        let d = self.descriptor(task.index)?;
        loop {
            let word = self.load(task.index);
            // Its fields are `me`'s own, and those of this life.
            if word.generation() != task.generation || !word.is(Phase::Ready) || self.addressee(d).is_some() {
                return Ok(None);
            }
            let to = self.claimed(me, task.index, word);
            if let Ok(word) = self.exchange(task.index, word, to, AcqRel) {
                let owned = Owned { index: task.index, word };
                let is_ours = self.begin(cursors, me, owned)?;
                self.trim(cursors, self.lane_of(task.index, d)?)?;
                return Ok(is_ours.then_some(owned));
            }
        }
    }

    /// The word of a READY task once `me` has taken it out of its lane.
    #[inline]
    fn claimed(&self, me: Name, index: u16, w: Task) -> Task {
        // Few tasks expire, and the others need not ask for the time.
        let may_be_over = self.descriptors[index as usize].expires.load(Relaxed) != 0;
        match may_be_over.then(|| self.is_over(index, w, self.now())).flatten() {
            Some(outcome) => w.to(Phase::Done(outcome), w.who()),
            None => w.to(Phase::Claimed, me.id()),
        }
    }

    /// What follows the exchange by which `me` has taken a READY task. False: it is ended, not begun.
    #[inline]
    fn begin(&self, cursors: &Cursors, me: Name, task: Owned) -> Result<bool, Corrupted> {
        let Owned { index, word } = task;
        let d = &self.descriptors[index as usize];
        if !word.is(Phase::Claimed) {
            let submitter = Name::of(d.submitter.load(Relaxed));
            self.announce_done(cursors, index, word, Some((me, submitter)))?;
            return Ok(false);
        }
        fence_after_exchange("no-claim-fence"); // [cancel]
        if self.is_cancel_asked(index, word) && !mutant("no-cancel-check") {
            self.complete(cursors, me, task, Outcome::Cancelled)?;
            return Ok(false);
        }
        d.sign(word, me);
        if d.limits.load(Relaxed) != 0 {
            d.run.started.store(self.now(), Relaxed);
        }
        Ok(true)
    }

    /// Removes the hints at the head of a queue's lane whose tasks do not wait there any more.
    fn trim(&self, cursors: &Cursors, id: LaneId) -> Result<(), Corrupted> {
        let (lane, cursor) = (self.lane(id), cursors.of(id));
        while let Some(entry) = lane.first(cursor)? {
            let (index, d) = (entry.hint.index, self.descriptor(entry.hint.index)?);
            let waits = |w: Task| entry.hint.names(w) && w.is(Phase::Ready) && d.lane.load(Relaxed) == id.0;
            if waits(self.load(index)) {
                break;
            }
            if lane.remove(cursor, &entry) && !mutant("no-trim-recheck") {
                // Removed by us: we answer for what the task has become since. It gets another hint.
                full_fence("no-trim-fence"); // [remove]
                let word = self.load(index);
                if waits(word) {
                    self.announce_ready(cursors, index, word, id, None)?;
                }
            }
        }
        Ok(())
    }

    /// CLAIMED(me) → DONE(completed or cancelled), hint, wake. Output, status and payload field are written.
    ///
    /// # Errors
    /// [`Corrupted`] if the word moved under its live owner, or a lane is damaged.
    #[inline]
    pub(crate) fn complete(&self, cursors: &Cursors, me: Name, task: Owned, outcome: Outcome) -> Result<(), Corrupted> {
        self.complete_noting(cursors, me, task, outcome, || ())
    }

    /// As [`complete`](Self::complete). `note` is called once the submitter can take it, and before it is woken.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub(crate) fn complete_noting(
        &self,
        cursors: &Cursors,
        me: Name,
        task: Owned,
        outcome: Outcome,
        note: impl FnOnce(),
    ) -> Result<(), Corrupted> {
        let submitter = self.submitter(task.index)?;
        let done = task.word.to(Phase::Done(outcome), submitter.id());
        self.exchange(task.index, task.word, done, Release).map_err(|w| self.refused(me, task.index, w))?; // [complete]
        self.announce_done_noting(cursors, task.index, done, Some((me, submitter)), note)
    }

    /// CLAIMED(me) → READY or DELAYED: its owner gives it back to be attempted again.
    ///
    /// # Errors
    /// [`Corrupted`] if the word moved under its live owner, or a word or lane is damaged.
    pub(crate) fn give_back(&self, cursors: &Cursors, me: Name, task: Owned, again: Again) -> Result<Given, Corrupted> {
        self.check_owned(me, task)?;
        let Owned { index, word } = task;
        let d = &self.descriptors[index as usize];
        let (lane, addressee, submitter) = (self.lane_of(index, d)?, self.addressee(d), self.submitter(index)?);
        if self.is_cancel_asked(index, word) {
            self.discard_output(task)?;
            self.complete(cursors, me, task, Outcome::Cancelled)?;
            return Ok(Given::Cancelled);
        }
        if again != Again::SameAttempt && !self.has_attempts_left(d, word) {
            return Ok(Given::No);
        }
        self.discard_output(task)?;
        let delay = match again {
            Again::SameAttempt => 0,
            Again::After(ns) => ns,
            Again::Backoff => self.pause(task),
        };
        let blame = Blame::of(d.blame.load(Relaxed));
        if blame.is_suspect && again != Again::SameAttempt {
            // Its attempt has come to an end, and its process lives.
            d.blame.store(Blame { is_suspect: false, ..blame }.bits(), Relaxed);
        }
        let next = self.next_attempt(task, again == Again::SameAttempt, submitter, delay);
        let time = if next.is(Phase::Delayed) {
            d.not_before.load(Relaxed)
        } else {
            // It may have been reported as late, and isn't looked after any more.
            Limits::of(d.limits.load(Relaxed)).first_look(self.now())
        };
        let success = if mutant("relaxed-requeue") { Relaxed } else { AcqRel };
        self.exchange(index, word, next, success).map_err(|w| self.refused(me, index, w))?; // [requeue]
        if next.is(Phase::Ready) {
            self.announce_ready(cursors, index, next, lane, addressee)?;
        }
        self.arm(cursors, time); // its fence serves [orphan] and [cancel] too
        let is_unwanted = self.is_cancel_asked(index, next) || !self.is_live(submitter)?;
        if is_unwanted && !mutant("no-return-check") {
            return self.end_returned(cursors, me, Owned { index, word: next }, submitter);
        }
        Ok(Given::Back)
    }

    /// Ends a task that `me` gave back, since its submitter asked for its end, or was recovered, while it was ours. Whoever has
    /// claimed it by now will see. The coordinator may have moved it meanwhile, and does not look whose it is.
    fn end_returned(&self, cursors: &Cursors, me: Name, task: Owned, submitter: Name) -> Result<Given, Corrupted> {
        let Owned { index, mut word } = task;
        while word.generation() == task.word.generation() {
            match word.phase() {
                Some(Phase::Ready | Phase::Delayed) => {
                    let done = word.to(Phase::Done(Outcome::Cancelled), word.who());
                    if self.exchange(index, word, done, AcqRel).is_ok() {
                        self.announce_done(cursors, index, done, Some((me, submitter)))?;
                        return Ok(Given::Cancelled);
                    }
                }
                Some(Phase::Done(_)) if !mutant("no-second-orphan-check") => {
                    self.drop_orphan(me, Owned { index, word }, submitter)?;
                    break;
                }
                _ => break,
            }
            word = self.load(index);
        }
        Ok(Given::Back)
    }

    /// Releases a task that is DONE if its submitter is dead. False: it lives.
    #[inline]
    fn drop_orphan(&self, me: Name, task: Owned, submitter: Name) -> Result<bool, Corrupted> {
        if self.is_live(submitter)? {
            return Ok(false);
        }
        let Owned { index, word } = task;
        // Through RESERVED(me), so that a death in here leaves a name.
        if let Ok(word) = self.exchange(index, word, word.to(Phase::Reserved, me.id()), AcqRel) {
            self.release(Owned { index, word })?;
        }
        Ok(true)
    }

    #[inline]
    pub(crate) fn submitter(&self, index: u16) -> Result<Name, Corrupted> {
        let name = Name::of(self.descriptors[index as usize].submitter.load(Relaxed));
        self.check_participant(name)?;
        Ok(name)
    }

    pub(crate) fn has_attempts_left(&self, d: &Descriptor, word: Task) -> bool {
        u32::from(word.attempt()) + 1 < d.max_attempts.load(Relaxed) && word.attempt() < u8::MAX
    }

    /// How long the next attempt of a task waits, by what its submitter asked for.
    pub(crate) fn pause(&self, task: Owned) -> u64 {
        let backoff = Backoff::of(self.descriptors[task.index as usize].backoff.load(Relaxed));
        backoff.pause(task.word.attempt(), task.seed())
    }

    /// Frees the output that was written so far. For the owner of the word.
    #[inline]
    pub(crate) fn discard_output(&self, task: Owned) -> Result<(), Corrupted> {
        let d = &self.descriptors[task.index as usize];
        let output = Payload(d.output.load(Relaxed));
        if output == Payload::default() {
            return Ok(());
        }
        self.blocks.detach(output, task.index, task.word)?;
        d.output.store(0, Relaxed);
        if output.block().is_some() {
            self.wake_for_room();
        }
        Ok(())
    }

    /// The word with which a task that the caller owns waits for its next attempt, for which the fields are made ready.
    pub(crate) fn next_attempt(&self, task: Owned, is_same: bool, submitter: Name, delay: u64) -> Task {
        let phase = if delay == 0 { Phase::Ready } else { Phase::Delayed };
        let d = &self.descriptors[task.index as usize];
        d.not_before.store(if delay == 0 { 0 } else { self.now().saturating_add(delay) }, Relaxed);
        if !mutant("no-withdrawal") {
            d.run.withdraw();
        }
        if is_same { task.word.to(phase, submitter.id()) } else { task.word.again(phase, submitter.id()) }
    }

    /// Who has made a task DONE stores its hint and wakes the submitter, or releases it if the submitter is dead.
    ///
    /// `of`: who completed it and for which incarnation; `None` for the submitter itself and for the coordinator, who
    /// know that the submitter lives, or sweep later.
    #[inline(always)]
    pub(crate) fn announce_done(
        &self,
        cursors: &Cursors,
        index: u16,
        done: Task,
        of: Option<(Name, Name)>,
    ) -> Result<(), Corrupted> {
        self.announce_done_noting(cursors, index, done, of, || ())
    }

    #[inline(always)]
    fn announce_done_noting(
        &self,
        cursors: &Cursors,
        index: u16,
        done: Task,
        of: Option<(Name, Name)>,
        note: impl FnOnce(),
    ) -> Result<(), Corrupted> {
        let lane = self.completion(check_id(done.who(), self.participants.len())? as u16);
        let _ = self.lane(lane).push(cursors.of(lane), Hint::of(index, done))?; // an overflow raises the flag
        note();
        fence_after_exchange("no-done-fence"); // [park], [orphan]
        let is_orphan = match of {
            Some((me, submitter)) if !mutant("no-orphan-check") => {
                self.drop_orphan(me, Owned { index, word: done }, submitter)?
            }
            _ => false,
        };
        if !is_orphan {
            self.wake(cursors, done.who());
        }
        Ok(())
    }

    // ---- both -------------------------------------------------------------------------------------------------------

    /// Moves the task of this hint to `to(word)` if it is `wanted`: index, old word, new word. `None`, also where another was
    /// faster: it takes [`take_from`](Self::take_from) to say more. `ahead` is called for one that may come soon.
    #[inline]
    fn take_first(
        &self,
        lane: Lane<'_>,
        cursor: &Cursor,
        entry: &Entry,
        ahead: impl Fn(&Descriptor),
        wanted: impl Fn(Task, &Descriptor) -> bool,
        to: impl Fn(Task) -> Task,
    ) -> Option<(u16, Task, Task)> {
        let index = entry.hint.index;
        let d = self.descriptors.get(usize::from(index))?;
        match lane.behind(entry) {
            Some(next) => self.descriptors.get(usize::from(next.index)).map_or((), ahead),
            // All of its lines at once, rather than one after another.
            None => ahead(d),
        }
        let word = self.load(index);
        if !entry.hint.names(word) || !wanted(word, d) {
            return None;
        }
        let new = self.exchange(index, word, to(word), AcqRel).ok()?;
        let _ = lane.remove(cursor, entry); // helped along by another: as good
        Some((index, word, new))
    }

    /// Takes the next hint of `lane` whose task is `wanted`, and moves that task to `to(index, word)`: index, old word, new word.
    #[inline]
    fn take_from(
        &self,
        cursors: &Cursors,
        lane: LaneId,
        wanted: impl Fn(Task, &Descriptor) -> bool,
        to: impl Fn(u16, Task) -> Task,
    ) -> Result<Option<(u16, Task, Task)>, Corrupted> {
        let (lane, cursor) = (self.lane(lane), cursors.of(lane));
        while let Some(entry) = lane.first(cursor)? {
            let Entry { hint, .. } = entry;
            let d = self.descriptor(hint.index)?;
            let ours = |w: Task| hint.names(w) && wanted(w, d);
            let mut word = self.load(hint.index);
            if ours(word) {
                if let Ok(new) = self.exchange(hint.index, word, to(hint.index, word), AcqRel) {
                    let _ = lane.remove(cursor, &entry); // helped along by another: as good
                    return Ok(Some((hint.index, word, new)));
                }
                continue; // lost: look again at slot and word
            }
            if lane.remove(cursor, &entry) && !mutant("no-recheck") {
                // Stale, and removed by us: we answer for what the task has become since.
                full_fence("no-remove-fence"); // [remove]
                word = self.load(hint.index);
                while ours(word) {
                    match self.exchange(hint.index, word, to(hint.index, word), AcqRel) {
                        Ok(new) => return Ok(Some((hint.index, word, new))),
                        Err(_) => word = self.load(hint.index),
                    }
                }
            }
        }
        Ok(None)
    }

    /// Stores a hint for each `wanted` task that belongs into lane `only` (into any lane, for `None`) and has none there.
    ///
    /// Who takes from the lane wants no other hints than it takes: else it might remove them and store them again for ever.
    ///
    /// Nobody needs to be woken for what is stored: as long as a task had no hint, the lane's flag kept all from sleeping. For
    /// `None`, which stores hints that the dead have taken away, the caller wakes.
    #[cold]
    pub(crate) fn rescan(
        &self,
        cursors: &Cursors,
        only: Option<LaneId>,
        wanted: impl Fn(Task, &Descriptor) -> bool,
    ) -> Result<(), Corrupted> {
        for (index, d) in (0..).zip(self.descriptors) {
            let word = self.load(index);
            let lane = match word.phase() {
                Some(Phase::Ready) => self.lane_of(index, d)?,
                Some(Phase::Done(_)) => self.completion(check_id(word.who(), self.participants.len())? as u16),
                Some(_) => continue,
                None => return Err(damaged(index, word)),
            };
            if only.is_none_or(|l| l == lane) && wanted(word, d) {
                full_fence("no-sweep-fence"); // [remove]
                let hint = Hint::of(index, word);
                if !self.lane(lane).holds(cursors.of(lane), hint) {
                    let _ = self.lane(lane).push(cursors.of(lane), hint)?; // an overflow raises the flag again
                }
            }
        }
        Ok(())
    }

    // ---- sleeping ---------------------------------------------------------------------------------------------------

    /// Sleeps until there may be something of what `waits` says, or `timeout` is over. `last_look`: a condition of the
    /// caller's own that its wakers change before they call `wake`; for room, another try.
    ///
    /// May return for no reason. Threads of one process may sleep at once. The protocol and its proof: `lockfree/PARK.md`.
    pub(crate) fn park(
        &self,
        cursors: &Cursors,
        me: Name,
        waits: Waits<'_>,
        timeout: Option<std::time::Duration>,
        last_look: impl FnOnce() -> bool,
    ) {
        let (parked, prepared) = Parked::begin(self, cursors, me, &waits);
        full_fence("no-park-fence"); // [park]
        let own = [self.private(me.id()), self.completion(me.id())];
        let is_called = last_look()
            || waits.queues.iter().any(|&l| self.lane(l).has_work(cursors.of(l)))
            || waits.own && own.into_iter().any(|l| self.has_own_work(cursors, me, l));
        if !is_called {
            self.participants[me.id() as usize].sleep(prepared, timeout);
        }
        drop(parked);
    }

    /// Is there anything for `me` in this lane of its own? Hints and a flag of who had the id before are none: a participant
    /// need not look into a lane from which it expects nothing, and would find them there each time it wants to sleep.
    pub(crate) fn has_own_work(&self, cursors: &Cursors, me: Name, lane: LaneId) -> bool {
        let is_mine = |index: u16, word: Task| match word.phase() {
            Some(Phase::Ready) => {
                lane == self.private(me.id()) && self.descriptors[index as usize].addressee.load(Relaxed) == me.bits()
            }
            Some(Phase::Done(_)) => lane == self.completion(me.id()) && word.who() == me.id(),
            Some(_) => false,
            None => true, // damage: whoever looks next reports it
        };
        if self.lane(lane).rescan_is_due() {
            return (0..self.descriptors.len()).any(|i| is_mine(i as u16, self.load(i as u16)));
        }
        let found = self.lane(lane).any(cursors.of(lane), |hint| match self.descriptor(hint.index) {
            Ok(_) => {
                let word = self.load(hint.index);
                hint.names(word) && is_mine(hint.index, word)
            }
            Err(_) => true,
        });
        found != Some(false)
    }

    /// Wakes this participant, if it is parked, for what is in its own lanes. The caller has published that and fenced.
    #[inline]
    fn wake(&self, cursors: &Cursors, id: u16) {
        if self.participants[id as usize].wake_if_parked() == Found::Woken {
            self.have_watched(cursors);
        }
    }

    /// The participants with a bit in this row of the idle masks. A damaged mask can name some that aren't there.
    fn idlers(&self, row: usize) -> impl Iterator<Item = usize> + use<'_> {
        let words = self.idle_words();
        self.idle[row * words..][..words].iter().enumerate().flat_map(|(w, mask)| {
            let bits = mask.load(Relaxed); // the caller has fenced: [park], [room], [watch]
            (bits != 0)
                .then(|| (0..64).filter(move |b| bits >> b & 1 == 1).map(move |b| w * 64 + b))
                .into_iter()
                .flatten()
        })
    }

    /// Is there a bit in this row of the idle masks?
    #[inline]
    fn has_idlers(&self, row: usize) -> bool {
        let words = self.idle_words();
        self.idle[row * words..][..words].iter().any(|mask| mask.load(Relaxed) != 0) // as in `idlers`
    }

    fn is_idler(&self, row: usize, id: usize) -> bool {
        let words = self.idle_words();
        id / 64 < words && self.idle[row * words + id / 64].load(Relaxed) >> (id % 64) & 1 == 1 // as in `idlers`
    }

    /// The participants that sleep before this queue, or are about to, and that nobody has woken.
    pub(crate) fn sleepers(&self, queue: usize) -> impl Iterator<Item = usize> + use<'_> {
        self.idlers(queue).filter(|&id| self.participants.get(id).is_some_and(Participant::is_asleep))
    }

    /// Who has pushed a task to this queue, and fenced, wakes one who is parked before it; nobody while the one whom this process
    /// has woken last is on its way there. That one wakes the next if it leaves something ([`wake_next`](Self::wake_next)), so
    /// with many more workers than cores a burst of small tasks is not a system call each.
    #[inline(always)]
    fn wake_for_task(&self, cursors: &Cursors, queue: usize) {
        if self.has_idlers(queue) {
            self.wake_idler(cursors, queue);
        }
    }

    #[inline(never)]
    fn wake_idler(&self, cursors: &Cursors, queue: usize) {
        // Relaxed, and so the looks below: the caller's fence stands before them ([park]; `PARK.md`, of who is on its way). A wrong
        // `last_woken`, another thread's, is one more wake or a look by the coordinator.
        let last = cursors.last_woken.load(Relaxed);
        let is_on_its_way = self.is_idler(queue, last)
            && self.participants.get(last).is_some_and(Participant::is_woken)
            && monotonic().saturating_sub(cursors.woken_at.load(Relaxed)) < ON_ITS_WAY;
        if is_on_its_way {
            self.have_watched(cursors);
        } else {
            self.wake_one(cursors, queue);
        }
    }

    /// Wakes one who is parked before this queue. The caller has pushed and fenced.
    pub(crate) fn wake_one(&self, cursors: &Cursors, queue: usize) {
        let last = cursors.last_woken.load(Relaxed); // a preference
        let wake = |id: usize| match self.participants.get(id).map(Participant::wake_if_parked) {
            Some(Found::Parked) => {
                cursors.last_woken.store(id, Relaxed);
                cursors.woken_at.store(monotonic(), Relaxed);
                Some(true)
            }
            Some(Found::Woken) => Some(false),
            Some(Found::Awake) | None => None,
        };
        // Those after the last one come first. Twice over the mask, since most often it is empty.
        let turns = self.idlers(queue).filter(|&id| id > last).chain(self.idlers(queue).filter(|&id| id <= last));
        let mut is_owed = false;
        for is_woken in turns.filter_map(wake) {
            is_owed = true;
            if is_woken {
                break;
            }
        }
        if is_owed {
            self.have_watched(cursors);
        }
    }

    /// After a park, with a task in hand: who has posted a second task meanwhile may have found us on our way and woken nobody,
    /// so if something is left, the next one is woken.
    pub(crate) fn wake_next(&self, cursors: &Cursors, queues: &[LaneId]) {
        full_fence("no-wake-next-fence"); // [park] Our bits are down before the look.
        for &q in queues {
            if self.lane(q).has_work(cursors.of(q)) && !mutant("no-wake-next") {
                full_fence("no-wake-next-fence"); // [park] The look comes before that for a sleeper.
                self.wake_one(cursors, q.0 as usize);
            }
        }
    }
}

/// A thread that is parked, or about to be, until this is dropped.
struct Parked<'p> {
    table: &'p Table<'p>,
    cursors: &'p Cursors,
    me: Name,
    waits: &'p Waits<'p>,
}

impl<'p> Parked<'p> {
    /// Also returns what the participant's word must still hold for it to sleep.
    fn begin(table: &'p Table<'p>, cursors: &'p Cursors, me: Name, waits: &'p Waits<'p>) -> (Parked<'p>, u32) {
        let parked = ManuallyDrop::new(Parked { table, cursors, me, waits });
        let mut counts = parked.counts();
        counts.0 += 1;
        let prepared = table.participants[me.id() as usize].prepare_to_park();
        for row in parked.rows() {
            counts.1[row] += 1;
            // AcqRel, here and where it is taken down, is more than is needed: the fence that follows orders it
            // ([park], [room]), and who sees an old bit goes by the futex word.
            parked.mask(row).fetch_or(parked.bit(), AcqRel);
        }
        drop(counts);
        (ManuallyDrop::into_inner(parked), prepared)
    }

    fn rows(&self) -> impl Iterator<Item = usize> + use<'p> {
        self.waits.queues.iter().map(|q| q.0 as usize).chain(self.waits.room.then_some(self.table.queues))
    }

    fn mask(&self, row: usize) -> &'p AtomicU64 {
        &self.table.idle[row * self.table.idle_words() + self.me.id() as usize / 64]
    }

    fn bit(&self) -> u64 {
        1 << (self.me.id() % 64)
    }

    fn counts(&self) -> MutexGuard<'p, (usize, Box<[usize]>)> {
        self.cursors.parked.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        let mut counts = self.counts();
        for row in self.rows() {
            counts.1[row] -= 1;
            if counts.1[row] == 0 {
                self.mask(row).fetch_and(!self.bit(), AcqRel);
            }
        }
        counts.0 -= 1;
        if counts.0 == 0 {
            self.table.participants[self.me.id() as usize].end_park();
        }
    }
}

impl Table<'_> {
    /// Is this descriptor still its owner's? Looked at before its fields are written: one that was declared dead while it was
    /// only stopped (which nobody does; the second fence) finds out here, and leaves another's fields alone.
    #[inline]
    pub(crate) fn check_owned(&self, me: Name, task: Owned) -> Result<(), Corrupted> {
        let word = self.load(task.index);
        if word == task.word { Ok(()) } else { Err(self.refused(me, task.index, word)) }
    }

    /// Why an exchange by the word's owner failed: its process was declared dead though it ran on (the second fence), or the
    /// word is damaged.
    #[cold]
    fn refused(&self, me: Name, index: u16, word: Task) -> Corrupted {
        match self.is_live(me) {
            Ok(false) => {
                Corrupted::new("taken from this process, which was declared dead: descriptor", index.into(), word.0)
            }
            _ => moved(index, word),
        }
    }
}

#[cold]
pub(crate) fn moved(index: u16, word: Task) -> Corrupted {
    Corrupted::new("owned descriptor", index as usize, word.0)
}

#[cold]
pub(crate) fn damaged(index: u16, word: Task) -> Corrupted {
    Corrupted::new("descriptor", index as usize, word.0)
}
