//! A lane: a bounded ring of hints, with many pushers and many takers, any of whom may die at any step.
//!
//! Built on the idea of Vyukov's bounded MPMC queue (<https://www.1024cores.net/home/lock-free-algorithms/queues/bounded-mpmc-queue>),
//! from which it differs where a death would wedge that one: there a pusher takes a position and publishes its slot in a
//! second store; here filling the slot is the one step, and positions follow from the slots.
//!
//! # States
//!
//! Position `p` lives in slot `p % C` on lap `p / C`. A slot is `Empty(lap)`, awaiting the position of that lap, or
//! `Full(lap, hint)`, holding it. Push: `Empty(lap) → Full(lap, hint)`. Removal: `Full(lap, _) → Empty(lap + 1)`.
//!
//! # Words
//!
//! | word     | written by                         | read by                    | a death leaves           |
//! |----------|------------------------------------|----------------------------|--------------------------|
//! | `slots`  | whoever wins the exchange          | all                        | one of the states above  |
//! | `tail`   | who filled a slot, or saw it full  | pushers                    | a cursor that lags       |
//! | `head`   | who emptied a slot, or saw it so   | takers                     | a cursor that lags       |
//! | `rescan` | a pusher that found the lane full; | takers that find it empty, | a needless look at the   |
//! |          | lowered by who has looked          | and every 1,024 claims     | descriptors              |
//!
//! `rescan` is a flag, bit 0, and above it the count of how often it was raised.
//!
//! # Invariants
//!
//! 1. Positions are filled in order and emptied in order: a pusher (taker) goes on to `p + 1` only after an acquiring
//!    load, or its own exchange, has shown it that `p` was filled (emptied).
//! 2. `head` and `tail` are lower bounds, never more; each participant goes on from the later of the shared cursor and
//!    its own. They are published every [`PUBLISH`] steps: that alone doubled the throughput of the prototype.
//! 3. A hint is no right. It is checked against the task word, which alone says who owns what.
//!
//! # Ordering
//!
//! - \[fill] AcqRel on the slot's exchange: the taker that acquires `Full` sees the task word that the pusher had made.
//! - \[drain] AcqRel on emptying: the next pusher in this slot sees what the taker saw.
//! - \[cursor] Release when publishing, Acquire when starting from it: who starts at `p` sees the slots before `p` as the
//!   publisher did, so it never meets a slot older than its lap.
//! - \[overflow] `rescan` holds a flag, and counts how often it was raised. It is raised by a read-modify-write even when it
//!   is up: a plain store would cut the release sequence of an earlier raiser, and who looks would miss that one's task.
//!   (loom finds it; x86 can't show it.) It is lowered after the look, by an exchange that fails if it was raised again. So
//!   while a task has no hint the flag is up, whoever is stopped or dies on the way, and nobody sleeps.
//!
//! # Crash
//!
//! Every operation is one exchange on one word followed by cursor updates that may be lost. A pusher that slept for
//! exactly one wrap of the lap may leave a hint beyond the tail, where nobody meets it: that is why [`Lane::holds`]
//! walks from the head to the first empty slot, so that the next rescan of the lane, or the sweep after the next death,
//! stores the hint again.
//!
//! # Progress
//!
//! Lock-free: a failed exchange means that another participant's succeeded. Checked by `loom_lane.rs` and `mutants.rs`
//! in `lockfree/tests/`, the tests below (damage, and who slept for laps), `fuzz/fuzz_targets/ring_ops.rs`, which
//! begins at the wrap of the lap too, and `shmworker torture --single-step` (the paths with a full lane).

use super::word::{Hint, LAP_BITS, Slot};
use crate::{
    error::Corrupted,
    sync::{AcqRel, Acquire, AtomicU64, Relaxed, Release, mutant, private},
};

/// Steps that a participant makes before it publishes its cursor.
pub(crate) const PUBLISH: u64 = if cfg!(all(test, any(loom, shuttle))) { 2 } else { 16 };

/// Claims after which a taker looks at `rescan` though the lane is not empty: a busy lane must not starve a task
/// without a hint.
const RESCAN_EVERY: u32 = if cfg!(all(test, any(loom, shuttle))) { 2 } else { 1024 };

/// How far behind the head [`Lane::behind`] looks: so many tasks take longer than a cache line takes from one CPU to another.
const AHEAD: u64 = 4;

/// Logarithms of the pauses of one who has lost an exchange, and of one who has lost some in a row. The longest are a microsecond.
const FIRST: u32 = 4;
const LONGEST: u32 = 6;

/// In `rescan`: a look at the descriptors is due. The rest counts how often that was said.
const UP: u64 = 1;
const ONE_RAISE: u64 = 2;

/// A word on cache lines of its own (two, since adjacent lines are fetched in pairs).
#[repr(C, align(128))]
pub(crate) struct Line<T>(pub(crate) T);

/// A lane's words except its slots.
#[repr(C)]
pub(crate) struct LaneControl {
    head: Line<AtomicU64>,
    tail: Line<AtomicU64>,
    rescan: Line<AtomicU64>,
}

impl LaneControl {
    /// A lane that starts at `position`, a multiple of its capacity.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn new(position: u64) -> LaneControl {
        LaneControl {
            head: Line(AtomicU64::new(position)),
            tail: Line(AtomicU64::new(position)),
            rescan: Line(AtomicU64::new(0)),
        }
    }
}

/// A participant's own cursors on one lane, in private memory. Threads of one process may share it.
///
/// Acquire and Release, so that a thread that goes on from another's cursor has seen what that one saw.
#[derive(Default)]
pub(crate) struct Cursor {
    head: private::AtomicU64,
    tail: private::AtomicU64,
    claims: private::AtomicU32,
}

impl Cursor {
    /// The position at which its owner last looked for a hint.
    pub(crate) fn head(&self) -> u64 {
        self.head.load(Acquire)
    }
}

/// What became of a push.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
#[must_use]
pub(crate) enum Push {
    Stored,
    /// No slot was empty; `rescan` is up, so that the task will be found without a hint.
    Overflowed,
}

/// That a look at the descriptors was due, and how often that had been said.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) struct Raised(u64);

/// A hint seen at the head of a lane. Not ours: others see it too.
pub(crate) struct Entry {
    pub(crate) hint: Hint,
    position: u64,
    slot: Slot,
    seen_head: u64,
}

/// The words of a lane, for who looks on.
pub(crate) struct Words<'s> {
    pub(crate) head: &'s AtomicU64,
    pub(crate) tail: &'s AtomicU64,
    pub(crate) slots: &'s [AtomicU64],
}

/// A lane: control words and slots, wherever they lie.
#[derive(Clone, Copy)]
pub(crate) struct Lane<'s> {
    control: &'s LaneControl,
    slots: &'s [AtomicU64],
}

impl<'s> Lane<'s> {
    /// `slots.len()` is a power of two.
    pub(crate) fn new(control: &'s LaneControl, slots: &'s [AtomicU64]) -> Self {
        debug_assert!(slots.len().is_power_of_two());
        Lane { control, slots }
    }

    pub(crate) fn words(&self) -> Words<'s> {
        let LaneControl { head, tail, .. } = self.control;
        Words { head: &head.0, tail: &tail.0, slots: self.slots }
    }

    #[inline]
    fn slot(&self, position: u64) -> &'s AtomicU64 {
        &self.slots[position as usize & (self.slots.len() - 1)]
    }

    #[inline]
    fn lap(&self, position: u64) -> u64 {
        position >> self.slots.len().trailing_zeros()
    }

    /// The first position after `position` that may be open, where its slot is `laps` ahead: by invariant 1 all before the
    /// slot's last one are done.
    fn skip(&self, position: u64, laps: i64) -> u64 {
        position.wrapping_add((laps as u64 - 1) * self.slots.len() as u64 + 1)
    }

    /// Nobody lags by so many positions: who has come so far follows slots that are damaged, and might for ever.
    fn is_astray(&self, seen: u64, position: u64) -> bool {
        position.wrapping_sub(seen) > (self.slots.len() as u64) << (LAP_BITS - 1)
    }

    /// Stores a hint, or raises `rescan`. Either way the task that it names will be looked at.
    ///
    /// # Errors
    /// [`Corrupted`] if a slot holds what no history of this lane can have left there.
    #[inline(always)]
    pub(crate) fn push(&self, cursor: &Cursor, hint: Hint) -> Result<Push, Corrupted> {
        let seen = self.control.tail.0.load(Acquire); // [cursor]
        let tail = seen.max(cursor.tail.load(Acquire));
        let slot = Slot(self.slot(tail).load(Acquire));
        // Most often it is the next one.
        if slot.laps_ahead_of(self.lap(tail)) == 0 && !slot.is_full() && self.fill(cursor, seen, tail, slot, hint) {
            return Ok(Push::Stored);
        }
        self.push_further(cursor, hint, seen, tail)
    }

    /// `Empty → Full` of the slot at `tail`. False: another was faster.
    #[inline]
    fn fill(&self, cursor: &Cursor, seen: u64, tail: u64, slot: Slot, hint: Hint) -> bool {
        let full = Slot::full(self.lap(tail), hint);
        // [fill]; a loser reads the same slot again.
        let is_ours = self.slot(tail).compare_exchange(slot.0, full.0, AcqRel, Relaxed).is_ok();
        if is_ours {
            let next = tail.wrapping_add(1);
            cursor.tail.store(next, Release);
            publish(&self.control.tail.0, seen, next);
        }
        is_ours
    }

    /// As [`push`](Self::push), from a tail on that was `seen`.
    #[inline(never)]
    fn push_further(&self, cursor: &Cursor, hint: Hint, mut seen: u64, mut tail: u64) -> Result<Push, Corrupted> {
        let mut lost = FIRST;
        loop {
            let slot = Slot(self.slot(tail).load(Acquire));
            match (slot.laps_ahead_of(self.lap(tail)), slot.is_full()) {
                (0, false) => {
                    if self.fill(cursor, seen, tail, slot, hint) {
                        return Ok(Push::Stored);
                    }
                    stand_back(&mut lost);
                }
                (0, true) => tail = tail.wrapping_add(1),
                (laps @ 1.., _) if !self.is_astray(seen, tail) => tail = self.skip(tail, laps),
                (-1, true) => {
                    // Still full of the lap before: no slot is empty. Unless we slept for laps.
                    let again = self.control.tail.0.load(Acquire);
                    if is_past(again, tail) {
                        (seen, tail) = (again, again);
                        continue;
                    }
                    // What fills that slot is met by takers, unless it is gone since: by invariant 1 there is no full slot
                    // behind an empty one. Who believed it would raise a flag that nobody can ever answer.
                    if self.any(cursor, |_| true) == Some(false) && self.slot(tail).load(Acquire) == slot.0 {
                        return Err(Corrupted::new("lane slot at the tail", tail as usize % self.slots.len(), slot.0));
                    }
                    cursor.tail.store(tail, Release);
                    self.raise_rescan();
                    return Ok(Push::Overflowed);
                }
                _ => {
                    let again = self.control.tail.0.load(Acquire);
                    if !is_past(again, tail) {
                        return Err(Corrupted::new("lane slot at the tail", tail as usize % self.slots.len(), slot.0));
                    }
                    (seen, tail) = (again, again);
                }
            }
        }
    }

    fn raise_rescan(&self) {
        let word = &self.control.rescan.0;
        let raised = |seen: u64| (seen | UP).wrapping_add(ONE_RAISE);
        let mut seen = word.load(Relaxed); // compared again
        if mutant("plain-flag") {
            word.store(raised(seen), Release);
        } else if !mutant("no-overflow-flag") {
            while let Err(now) = word.compare_exchange(seen, raised(seen), AcqRel, Relaxed) {
                seen = now; // [overflow]
            }
        }
    }

    /// The hint at the head, if one look finds it: most often it does. `Err(true)`: it takes [`first`](Self::first) to say whether
    /// there is one, or a rescan was asked for; `Err(false)`: there is none. Writes nothing: a head that lags is published by the
    /// next removal.
    #[inline]
    pub(crate) fn glance(&self, cursor: &Cursor) -> Result<Entry, bool> {
        let seen = self.control.head.0.load(Acquire); // [cursor]
        let head = seen.max(cursor.head.load(Acquire));
        let slot = Slot(self.slot(head).load(Acquire));
        match (slot.laps_ahead_of(self.lap(head)), slot.is_full()) {
            (0, true) => Ok(Entry { hint: slot.hint(), position: head, slot, seen_head: seen }),
            (0, false) => Err(self.rescan_is_due() && !mutant("blind-glance")),
            _ => Err(true),
        }
    }

    /// The hint some places behind `entry`, if one is there by now: for who prepares for it.
    #[inline]
    pub(crate) fn behind(&self, entry: &Entry) -> Option<Hint> {
        if cfg!(all(test, any(loom, shuttle))) {
            return None; // no matter for a model
        }
        let position = entry.position.wrapping_add(AHEAD);
        // Relaxed, here and below: nothing is concluded from it. By the cursor first, which is published now and then: whoever
        // looks at a slot that is not filled yet is in the way of who fills it.
        if !is_past(self.control.tail.0.load(Relaxed), position) {
            return None;
        }
        let slot = Slot(self.slot(position).load(Relaxed));
        slot.is_full().then(|| slot.hint())
    }

    /// The hint at the head, if there is one. The head moves over positions that others have emptied.
    ///
    /// # Errors
    /// [`Corrupted`] as for [`push`](Self::push).
    #[inline]
    pub(crate) fn first(&self, cursor: &Cursor) -> Result<Option<Entry>, Corrupted> {
        let mut seen = self.control.head.0.load(Acquire); // [cursor]
        let mut head = seen.max(cursor.head.load(Acquire));
        loop {
            let slot = Slot(self.slot(head).load(Acquire));
            match (slot.laps_ahead_of(self.lap(head)), slot.is_full()) {
                (0, true) => {
                    cursor.head.store(head, Release);
                    return Ok(Some(Entry { hint: slot.hint(), position: head, slot, seen_head: seen }));
                }
                (0, false) => {
                    // Published on the empty path too, or a lane in which all is cancelled never advances.
                    cursor.head.store(head, Release);
                    publish(&self.control.head.0, seen, head);
                    return Ok(None);
                }
                (laps @ 1.., _) if !self.is_astray(seen, head) => head = self.skip(head, laps),
                _ => {
                    let again = self.control.head.0.load(Acquire);
                    if !is_past(again, head) {
                        return Err(Corrupted::new("lane slot at the head", head as usize % self.slots.len(), slot.0));
                    }
                    (seen, head) = (again, again);
                }
            }
        }
    }

    /// Empties the slot of `entry`. False: somebody else did.
    ///
    /// Who removes a hint without having claimed its task answers for it: `fence(SeqCst)`, then another look (\[remove],
    /// see [`super::table`]).
    #[inline]
    pub(crate) fn remove(&self, cursor: &Cursor, entry: &Entry) -> bool {
        let empty = Slot::empty(self.lap(entry.position) + 1);
        // [drain]; Acquire where another was faster: by invariant 1 the next position is reached by an acquiring look.
        let removed = self.slot(entry.position).compare_exchange(entry.slot.0, empty.0, AcqRel, Acquire).is_ok();
        let next = entry.position.wrapping_add(1);
        cursor.head.store(next, Release);
        publish(&self.control.head.0, entry.seen_head, next);
        if !removed {
            stand_back(&mut (FIRST + 1));
        }
        removed
    }

    /// Is a look at the descriptors due, for a taker that finds the lane empty? It then looks, stores hints, and lowers the flag.
    #[inline]
    pub(crate) fn raised(&self) -> Option<Raised> {
        // Acquire: what the raisers had made READY is seen by the look that follows.
        let seen = self.control.rescan.0.load(Acquire);
        (seen & UP != 0).then_some(Raised(seen))
    }

    /// The same for a taker that finds a hint: every 1,024th of them looks. To be asked once for each claim.
    #[inline]
    pub(crate) fn raised_long_ago(&self, cursor: &Cursor) -> Option<Raised> {
        // Relaxed, and no read-modify-write: threads that count at once may lose some.
        let n = cursor.claims.load(Relaxed).wrapping_add(1);
        cursor.claims.store(n, Relaxed);
        if n.is_multiple_of(RESCAN_EVERY) { self.raised() } else { None }
    }

    /// Lowers the flag, unless it was raised again since. Each task for which it was up has a hint by now.
    pub(crate) fn lower_rescan(&self, Raised(seen): Raised) -> bool {
        let word = &self.control.rescan.0;
        if mutant("blind-lower") {
            word.store(seen & !UP, Release);
            return true;
        }
        // Release: who finds it down, and is about to sleep, sees those hints.
        word.compare_exchange(seen, seen & !UP, AcqRel, Relaxed).is_ok()
    }

    /// Is there anything to look at? A stale hint counts. For the last look before sleeping.
    pub(crate) fn has_work(&self, cursor: &Cursor) -> bool {
        // A damaged slot counts as work: the claim that follows reports it.
        self.rescan_is_due() || !matches!(self.first(cursor), Ok(None))
    }

    /// Is there a hint of this kind where a taker will meet it, between the head and the first empty slot? No snapshot: see
    /// \[remove]. `None`: the lane moved on faster than this could look. Writes nothing.
    pub(crate) fn any(&self, cursor: &Cursor, mut kind: impl FnMut(Hint) -> bool) -> Option<bool> {
        let mut head = self.control.head.0.load(Acquire).max(cursor.head.load(Acquire));
        // One turn over what others have emptied, one over what is full, and as much again for what moves meanwhile.
        for _ in 0..4 * self.slots.len() {
            let slot = Slot(self.slot(head).load(Acquire));
            match (slot.laps_ahead_of(self.lap(head)), slot.is_full()) {
                (0, true) if kind(slot.hint()) => return Some(true),
                (0, true) => head = head.wrapping_add(1),
                (laps @ 1.., _) => head = self.skip(head, laps),
                _ => return Some(false),
            }
        }
        None
    }

    /// Is this hint where a taker will meet it? If that cannot be said, one more does no harm.
    pub(crate) fn holds(&self, cursor: &Cursor, hint: Hint) -> bool {
        self.any(cursor, |h| h == hint) == Some(true)
    }

    /// Is a look at the descriptors due?
    pub(crate) fn rescan_is_due(&self) -> bool {
        self.raised().is_some()
    }
}

/// Has `a` come further than `b`? Across the end of all numbers too, where only damage leads: who follows it must not
/// begin anew each time.
fn is_past(a: u64, b: u64) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

/// Whoever was faster has the line, and does best to fill or empty some more slots of it before that travels again.
#[cold]
fn stand_back(lost: &mut u32) {
    if cfg!(not(all(test, any(loom, shuttle)))) {
        (0..1u32 << *lost).for_each(|_| std::hint::spin_loop());
        *lost = LONGEST.min(*lost + 1);
    }
}

/// One try: failing means that somebody else published.
#[inline]
fn publish(shared: &AtomicU64, seen: u64, position: u64) {
    if position >= seen.saturating_add(PUBLISH) {
        let _ = shared.compare_exchange(seen, position, Release, Relaxed); // [cursor]
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn damage_is_reported_or_passed_over_but_never_followed_for_ever() {
        let hint = Hint { index: 1, generation: 1 };
        let mut random = 1u64;
        let mut next = || {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            random ^ random >> 29
        };
        for round in 0..10_000 {
            let words: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(next())).collect();
            // Near the end of all numbers too.
            let control = LaneControl::new([0, next(), u64::MAX << (next() % 64)][round % 3]);
            let (lane, cursor) = (Lane::new(&control, &words), Cursor::default());
            lane.any(&cursor, |h| h == hint);
            let _ = lane.push(&cursor, hint);
            if let Ok(Some(entry)) = lane.first(&cursor) {
                lane.remove(&cursor, &entry);
            }
        }
    }

    #[test]
    fn a_lane_that_is_full_though_nothing_is_in_it_is_damaged() {
        let words: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
        let control = LaneControl::new(0);
        // The tail stands at a slot that is full of the lap before; takers meet an empty one.
        words[2].store(Slot::full(u64::MAX, Hint { index: 1, generation: 1 }).0, Relaxed);
        control.tail.0.store(2, Relaxed);
        let (lane, cursor) = (Lane::new(&control, &words), Cursor::default());
        assert!(lane.push(&cursor, Hint { index: 2, generation: 1 }).is_err());
        assert!(!lane.rescan_is_due(), "no taker could ever lower that flag for good");
    }

    #[test]
    fn who_slept_for_laps_goes_on_from_where_the_others_are() {
        let words: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
        let control = LaneControl::new(0);
        let lane = Lane::new(&control, &words);
        let (busy, late) = (Cursor::default(), Cursor::default());
        for i in 0..1000 {
            let hint = Hint { index: i, generation: 7 };
            assert_eq!(lane.push(&busy, hint).unwrap(), Push::Stored);
            assert_eq!(lane.any(&late, |h| h == hint), Some(true));
            let entry = lane.first(&busy).unwrap().unwrap();
            assert_eq!(entry.hint, hint);
            assert!(lane.remove(&busy, &entry));
        }
        assert!(lane.first(&late).unwrap().is_none());
        // A cursor of long ago, as of one who read it and was stopped: position 0.
        control.head.0.store(0, Relaxed);
        control.tail.0.store(0, Relaxed);
        let hint = Hint { index: 1, generation: 8 };
        assert_eq!(lane.push(&Cursor::default(), hint).unwrap(), Push::Stored);
        assert_eq!(lane.first(&Cursor::default()).unwrap().map(|e| (e.hint, e.position)), Some((hint, 1000)));
    }
}
