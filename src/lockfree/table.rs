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
//! # Ordering
//!
//! SeqCst stands in fences only, in three pairs:
//!
//! - \[remove] Who removes a hint without claiming its task fences and reads the task word again; who looks whether a
//!   lane holds a task's hint reads the word, fences, then looks. Either the look misses the removed hint and stores a new
//!   one, or the remover sees the task and takes it. Without the second read a task is lost: A claims and dies before it
//!   empties the slot, B finds A's hint stale, recovery makes the task READY and the sweep still sees the hint.
//! - \[park] `lockfree/PARK.md`.
//! - \[orphan] [`super::participant`].

use super::{
    blocks::Blocks,
    descriptor::{Descriptor, Payload},
    freemap::FreeMap,
    lane::{Cursor, Entry, Lane, LaneControl},
    participant::{Name, Participant, check_id},
    word::{Hint, Member, Outcome, Phase, Task, is_legal},
};
use crate::{
    error::Corrupted,
    sync::{AcqRel, Acquire, AtomicU64, Ordering, Relaxed, Release, SeqCst, fence, mutant},
};

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
}

/// What became of a cancellation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Cancel {
    /// It will not run.
    Cancelled,
    /// It runs at this participant, or did until just now.
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
    /// Per queue, a bit per participant that is parked, or about to be, before it.
    pub(crate) idle: &'s [AtomicU64],
}

/// Slots per lane, by kind of lane. Powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaneCapacity {
    pub(crate) queue: usize,
    pub(crate) private: usize,
    pub(crate) completion: usize,
}

/// One participant's cursors on all lanes, in private memory.
pub(crate) struct Cursors {
    lanes: Box<[Cursor]>,
    /// After whom to look for somebody to wake: each in turn gets work, and the runs that may stay with it.
    last_woken: std::sync::atomic::AtomicUsize,
}

impl Cursors {
    pub(crate) fn new(table: &Table<'_>) -> Cursors {
        let lanes = (0..table.controls.len()).map(|_| Cursor::default()).collect();
        Cursors { lanes, last_woken: Default::default() }
    }

    fn of(&self, lane: LaneId) -> &Cursor {
        &self.lanes[lane.0 as usize]
    }
}

impl<'s> Table<'s> {
    // ---- geometry ---------------------------------------------------------------------------------------------------

    /// The lane of a queue.
    pub(crate) fn queue(&self, queue: usize) -> LaneId {
        debug_assert!(queue < self.queues);
        LaneId(queue as u32)
    }

    /// The lane for work that only this participant can do.
    pub(crate) fn private(&self, who: u16) -> LaneId {
        LaneId((self.queues + who as usize) as u32)
    }

    /// The lane that carries this participant's finished tasks.
    pub(crate) fn completion(&self, who: u16) -> LaneId {
        LaneId((self.queues + self.participants.len() + who as usize) as u32)
    }

    fn idle_words(&self) -> usize {
        self.participants.len().div_ceil(64)
    }

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

    pub(crate) fn descriptor(&self, index: u16) -> Result<&'s Descriptor, Corrupted> {
        self.descriptors.get(index as usize).ok_or(Corrupted::new("hint at descriptor", index as usize, index.into()))
    }

    pub(crate) fn participant(&self, id: u16) -> Result<&'s Participant, Corrupted> {
        Ok(&self.participants[check_id(id, self.participants.len())?])
    }

    /// # Errors
    /// [`Corrupted`] if the segment has no such id.
    pub(crate) fn check_participant(&self, name: Name) -> Result<u16, Corrupted> {
        check_id(name.id(), self.participants.len()).map(|id| id as u16)
    }

    /// Does the kernel still have this participant's process, as far as the coordinator has heard?
    pub(crate) fn is_live(&self, name: Name) -> Result<bool, Corrupted> {
        let member = self.participant(name.id())?.member(name.id().into())?;
        Ok(member == Member::Live(name.incarnation()))
    }

    /// The lane in which a READY task's hint belongs.
    fn lane_of(&self, index: u16, d: &Descriptor) -> Result<LaneId, Corrupted> {
        let lane = d.lane.load(Relaxed);
        if (lane as usize) < self.queues + self.participants.len() {
            Ok(LaneId(lane))
        } else {
            Err(Corrupted::new("lane of descriptor", index.into(), lane.into()))
        }
    }

    /// The one door through which task words change.
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

    pub(crate) fn load(&self, index: u16) -> Task {
        Task(self.descriptors[index as usize].state.load(Acquire))
    }

    // ---- submitter --------------------------------------------------------------------------------------------------

    /// FREE → RESERVED(me), next generation. `None`: every descriptor is in use.
    pub(crate) fn reserve(&self, me: Name) -> Option<Owned> {
        let all = 0..self.descriptors.len();
        while let Some(i) = self.free.take(all.clone(), me.id().into()) {
            if let Some(owned) = self.try_reserve(i as u16, me) {
                return Some(owned);
            }
        }
        // The map is a hint: before giving up, ask the truth.
        all.into_iter().find_map(|i| self.try_reserve(i as u16, me))
    }

    fn try_reserve(&self, index: u16, me: Name) -> Option<Owned> {
        let word = Task(self.descriptors[index as usize].state.load(Relaxed));
        if !word.is(Phase::Free) {
            return None;
        }
        let word = self.exchange(index, word, word.reborn(me.id()), Acquire).ok()?; // [release]
        Some(Owned { index, word })
    }

    /// RESERVED(me) → READY, hint, wake. The payload and all fields but `lane`, `addressee` and `submitter` are written.
    ///
    /// # Errors
    /// [`Corrupted`] if the word moved under its owner, or a lane is damaged.
    pub(crate) fn publish(
        &self,
        cursors: &Cursors,
        me: Name,
        task: Owned,
        lane: LaneId,
        addressee: Option<Name>,
    ) -> Result<TaskId, Corrupted> {
        let d = &self.descriptors[task.index as usize];
        d.lane.store(lane.0, Relaxed);
        d.addressee.store(addressee.map_or(0, Name::bits), Relaxed);
        d.submitter.store(me.bits(), Relaxed);
        d.claimant.store(0, Relaxed);
        d.exit.store(0, Relaxed);
        let ready = task.word.to(Phase::Ready, me.id());
        self.exchange(task.index, task.word, ready, Release).map_err(|w| moved(task.index, w))?; // [publish]
        self.announce_ready(cursors, task.index, ready, lane, addressee)?;
        Ok(task.id())
    }

    /// Who has made a task READY stores its hint and wakes one who can claim it.
    pub(crate) fn announce_ready(
        &self,
        cursors: &Cursors,
        index: u16,
        ready: Task,
        lane: LaneId,
        addressee: Option<Name>,
    ) -> Result<(), Corrupted> {
        // An overflow needs nothing more: the flag is up, and the wake below makes somebody look.
        let _ = self.lane(lane).push(cursors.of(lane), Hint::of(index, ready))?;
        fence(SeqCst); // [park], [orphan]
        match addressee {
            None => self.wake_one(cursors, lane.0 as usize),
            Some(name) if mutant("no-addressee-check") || self.is_live(name)? => {
                self.participant(name.id())?.wake_if_parked()
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

    /// READY → DONE(cancelled), unless it has started. For the submitter and for the coordinator.
    ///
    /// # Errors
    /// [`Corrupted`] if a word or lane is damaged.
    pub(crate) fn cancel(&self, cursors: &Cursors, task: TaskId) -> Result<Cancel, Corrupted> {
        loop {
            let word = self.load(task.index);
            if word.generation() != task.generation {
                return Ok(Cancel::Over);
            }
            match word.phase() {
                Some(Phase::Ready) => {
                    let done = word.to(Phase::Done(Outcome::Cancelled), word.who());
                    if self.exchange(task.index, word, done, AcqRel).is_ok() {
                        self.announce_done(cursors, task.index, done, None)?;
                        return Ok(Cancel::Cancelled);
                    }
                }
                Some(Phase::Claimed) => {
                    let member = self.participant(word.who())?.member(word.who().into())?;
                    // An id is given again only when no word names it, so while the word stands the member is its owner.
                    if self.load(task.index) == word {
                        return match member {
                            Member::Live(n) | Member::Dead(n) => Ok(Cancel::Running(Name::new(word.who(), n))),
                            Member::Vacant(_) => Err(damaged(task.index, word)),
                        };
                    }
                }
                Some(_) => return Ok(Cancel::Over),
                None => return Err(damaged(task.index, word)),
            }
        }
    }

    /// The next finished task of this submitter: DONE → RESERVED(me). Several threads may take; each task is taken once.
    ///
    /// The outcome stands in the word that was replaced, hence it is returned beside the new one.
    ///
    /// # Errors
    /// [`Corrupted`] if a word or lane is damaged.
    pub(crate) fn take(&self, cursors: &Cursors, me: Name) -> Result<Option<(Owned, Outcome)>, Corrupted> {
        let lane = self.completion(me.id());
        let wanted = |w: Task, _: &Descriptor| matches!(w.phase(), Some(Phase::Done(_))) && w.who() == me.id();
        loop {
            if let Some((index, from, word)) =
                self.take_from(cursors, lane, wanted, |w| w.to(Phase::Reserved, me.id()))?
            {
                let Some(Phase::Done(outcome)) = from.phase() else { return Err(damaged(index, from)) };
                return Ok(Some((Owned { index, word }, outcome)));
            }
            if !self.lane(lane).take_rescan(cursors.of(lane), true) {
                return Ok(None);
            }
            self.rescan(cursors, Some(lane))?;
        }
    }

    /// RESERVED(me) → FREE, blocks first. The end of a taken result, or of a submission that is abandoned.
    ///
    /// # Errors
    /// [`Corrupted`] if the word moved under its owner, or a payload field is damaged.
    pub(crate) fn release(&self, task: Owned) -> Result<(), Corrupted> {
        let d = &self.descriptors[task.index as usize];
        for payload in [&d.input, &d.output] {
            self.blocks.detach(Payload(payload.load(Relaxed)), task.index, task.word)?;
            payload.store(0, Relaxed);
        }
        let free = task.word.to(Phase::Free, 0);
        self.exchange(task.index, task.word, free, Release).map_err(|w| moved(task.index, w))?; // [release]
        self.free.give(task.index as usize);
        Ok(())
    }

    // ---- worker -----------------------------------------------------------------------------------------------------

    /// The next task of this lane: READY → CLAIMED(me).
    ///
    /// # Errors
    /// [`Corrupted`] if a word or lane is damaged.
    pub(crate) fn claim(&self, cursors: &Cursors, me: Name, lane: LaneId) -> Result<Option<Owned>, Corrupted> {
        let ours = lane == self.private(me.id());
        // `lane` and `addressee` are those of this life: the word is the READY of it, or the exchange fails.
        let wanted = |w: Task, d: &Descriptor| {
            w.is(Phase::Ready) && d.lane.load(Relaxed) == lane.0 && (!ours || d.addressee.load(Relaxed) == me.bits())
        };
        let cursor = cursors.of(lane);
        loop {
            let claimed = self.take_from(cursors, lane, wanted, |w| w.to(Phase::Claimed, me.id()))?; // [publish], [claim]
            if self.lane(lane).take_rescan(cursor, claimed.is_none()) {
                self.rescan(cursors, Some(lane))?;
                if claimed.is_none() {
                    continue;
                }
            }
            return Ok(claimed.map(|(index, _, word)| {
                self.descriptors[index as usize].claimant.store(me.bits(), Relaxed);
                Owned { index, word }
            }));
        }
    }

    /// CLAIMED(me) → DONE(completed), hint, wake. Output, status and payload field are written.
    ///
    /// # Errors
    /// [`Corrupted`] if the word moved under its live owner, or a lane is damaged.
    pub(crate) fn complete(&self, cursors: &Cursors, me: Name, task: Owned) -> Result<(), Corrupted> {
        let submitter = Name::of(self.descriptors[task.index as usize].submitter.load(Relaxed));
        self.check_participant(submitter)?;
        let done = task.word.to(Phase::Done(Outcome::Completed), submitter.id());
        self.exchange(task.index, task.word, done, Release).map_err(|w| moved(task.index, w))?; // [complete]
        self.announce_done(cursors, task.index, done, Some((me, submitter)))
    }

    /// Who has made a task DONE stores its hint and wakes the submitter, or releases it if the submitter is dead.
    ///
    /// `of`: who completed it and for which incarnation; `None` for the submitter itself and for the coordinator, who
    /// know that the submitter lives, or sweep later.
    pub(crate) fn announce_done(
        &self,
        cursors: &Cursors,
        index: u16,
        done: Task,
        of: Option<(Name, Name)>,
    ) -> Result<(), Corrupted> {
        let lane = self.completion(check_id(done.who(), self.participants.len())? as u16);
        let _ = self.lane(lane).push(cursors.of(lane), Hint::of(index, done))?; // an overflow raises the flag
        fence(SeqCst); // [park], [orphan]
        if let Some((me, submitter)) = of
            && !mutant("no-orphan-check")
            && !self.is_live(submitter)?
        {
            // Through RESERVED(me), so that a death in here leaves a name.
            if let Ok(word) = self.exchange(index, done, done.to(Phase::Reserved, me.id()), AcqRel) {
                self.release(Owned { index, word })?;
            }
        } else {
            self.participants[done.who() as usize].wake_if_parked();
        }
        Ok(())
    }

    // ---- both -------------------------------------------------------------------------------------------------------

    /// Takes the next hint of `lane` whose task is `wanted`, and moves that task to `to(word)`: index, old word, new word.
    fn take_from(
        &self,
        cursors: &Cursors,
        lane: LaneId,
        wanted: impl Fn(Task, &Descriptor) -> bool,
        to: impl Fn(Task) -> Task,
    ) -> Result<Option<(u16, Task, Task)>, Corrupted> {
        let cursor = cursors.of(lane);
        let lane = self.lane(lane);
        while let Some(entry) = lane.first(cursor)? {
            let Entry { hint, .. } = entry;
            let d = self.descriptor(hint.index)?;
            let ours = |w: Task| hint.names(w) && wanted(w, d);
            let mut word = self.load(hint.index);
            if ours(word) {
                if let Ok(new) = self.exchange(hint.index, word, to(word), AcqRel) {
                    let _ = lane.remove(cursor, &entry); // helped along by another: as good
                    return Ok(Some((hint.index, word, new)));
                }
                continue; // lost: look again at slot and word
            }
            if lane.remove(cursor, &entry) && !mutant("no-recheck") {
                // Stale, and removed by us: we answer for what the task has become since.
                if !mutant("no-remove-fence") {
                    fence(SeqCst); // [remove]
                }
                word = self.load(hint.index);
                while ours(word) {
                    match self.exchange(hint.index, word, to(word), AcqRel) {
                        Ok(new) => return Ok(Some((hint.index, word, new))),
                        Err(_) => word = self.load(hint.index),
                    }
                }
            }
        }
        Ok(None)
    }

    /// Stores a hint for each task that belongs into lane `only` (into any lane, for `None`) and has none there.
    ///
    /// One sleeper of that lane is woken for what was stored, since it may have looked while flag and hints were down. For
    /// `None` that is left to the caller.
    #[cold]
    pub(crate) fn rescan(&self, cursors: &Cursors, only: Option<LaneId>) -> Result<(), Corrupted> {
        let mut has_stored = false;
        for (index, d) in (0..).zip(self.descriptors) {
            let word = self.load(index);
            let lane = match word.phase() {
                Some(Phase::Ready) => self.lane_of(index, d)?,
                Some(Phase::Done(_)) => self.completion(check_id(word.who(), self.participants.len())? as u16),
                Some(_) => continue,
                None => return Err(damaged(index, word)),
            };
            if only.is_none_or(|l| l == lane) {
                fence(SeqCst); // [remove]
                let hint = Hint::of(index, word);
                if !self.lane(lane).holds(cursors.of(lane), hint) {
                    let _ = self.lane(lane).push(cursors.of(lane), hint)?; // an overflow raises the flag again
                    has_stored = true;
                }
            }
        }
        if let Some(lane) = only.filter(|_| has_stored && !mutant("no-rescan-wake")) {
            fence(SeqCst); // [park]
            match (lane.0 as usize).checked_sub(self.queues) {
                None => self.wake_one(cursors, lane.0 as usize),
                Some(own) => self.participants[own % self.participants.len()].wake_if_parked(),
            }
        }
        Ok(())
    }

    // ---- sleeping ---------------------------------------------------------------------------------------------------

    /// Sleeps until there may be something in one of `queues` (lanes of queues), or in this participant's own lanes, or
    /// `timeout` is over. `last_look`: a condition of the caller's own that its wakers change before they call `wake`.
    ///
    /// May return for no reason. The protocol and its proof: `lockfree/PARK.md`.
    pub(crate) fn park(
        &self,
        cursors: &Cursors,
        me: Name,
        queues: &[LaneId],
        timeout: Option<std::time::Duration>,
        last_look: impl FnOnce() -> bool,
    ) {
        let participant = &self.participants[me.id() as usize];
        let (word, bit) = (me.id() as usize / 64, 1 << (me.id() % 64));
        let prepared = participant.prepare_to_park();
        for q in queues {
            self.idle[q.0 as usize * self.idle_words() + word].fetch_or(bit, AcqRel);
        }
        if !mutant("no-park-fence") {
            fence(SeqCst); // [park]
        }
        let own = [self.private(me.id()), self.completion(me.id())];
        if !last_look()
            && !queues.iter().any(|&l| self.lane(l).has_work(cursors.of(l)))
            && !own.into_iter().any(|l| self.has_own_work(cursors, me, l))
        {
            participant.sleep(prepared, timeout);
        }
        for q in queues {
            self.idle[q.0 as usize * self.idle_words() + word].fetch_and(!bit, AcqRel);
        }
        participant.end_park();
    }

    /// Is there anything for `me` in this lane of its own? Hints and a flag of who had the id before are none: a participant
    /// need not look into a lane from which it expects nothing, and would find them there each time it wants to sleep.
    fn has_own_work(&self, cursors: &Cursors, me: Name, lane: LaneId) -> bool {
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

    /// Wakes one who is parked before this queue. The caller has pushed and fenced.
    pub(crate) fn wake_one(&self, cursors: &Cursors, queue: usize) {
        let words = self.idle_words();
        let next = (cursors.last_woken.load(Relaxed) + 1) % (words * 64);
        for k in 0..words {
            let w = (next / 64 + k) % words;
            let mask = &self.idle[queue * words + w];
            let mut seen = mask.load(Relaxed);
            while seen != 0 {
                // In the first word those whose turn it is come first.
                let turn = if k == 0 { seen & (u64::MAX << (next % 64)) } else { seen };
                let bit = if turn != 0 { turn & turn.wrapping_neg() } else { seen & seen.wrapping_neg() };
                // AcqRel: a sleeper that finds its bit gone sees the hint behind it.
                match mask.compare_exchange(seen, seen & !bit, AcqRel, Relaxed) {
                    Ok(_) => {
                        let id = w * 64 + bit.trailing_zeros() as usize;
                        cursors.last_woken.store(id, Relaxed);
                        // A damaged mask can name a participant that is not there: then nobody sleeps there either.
                        if let Some(p) = self.participants.get(id) {
                            p.wake();
                        }
                        return;
                    }
                    Err(now) => seen = now,
                }
            }
        }
    }

    /// After a park, with a task in hand: a wake that was meant for a second task may have come to us, so if something is
    /// left, the next one is woken.
    pub(crate) fn wake_next(&self, cursors: &Cursors, queues: &[LaneId]) {
        for &q in queues {
            if self.lane(q).has_work(cursors.of(q)) && !mutant("no-wake-next") {
                fence(SeqCst); // [park]
                self.wake_one(cursors, q.0 as usize);
            }
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
