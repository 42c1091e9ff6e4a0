//! A lane against a bounded queue.
//!
//! Who acts may be killed between two operations, or before any write inside one ([`fate`]). Then the hint is in the lane or
//! it isn't, the flag is up or it isn't; the model follows, and from then on both must agree again.

use crate::{
    lockfree::{
        lane::{Cursor, Entry, Lane, LaneControl, Push},
        word::{Hint, LAP_MASK, Slot},
    },
    sync::{AtomicU64, fate},
};
use std::collections::VecDeque;

/// Slots of the lane under test: as few as a segment can have (`mem::layout`).
const SLOTS: usize = 16;
/// Participants, each with a cursor of its own and at most one entry that it has seen and not removed yet.
const PARTICIPANTS: usize = 3;

/// A lane does what a bounded queue does, whichever participants act in whichever order, and wherever they die. `data`: a
/// byte per step, after a first one that says on which lap the lane starts.
///
/// # Panics
/// If lane and queue differ.
pub fn ring_ops(data: &[u8]) {
    let Some((&start, steps)) = data.split_first() else { return };
    // Some laps before the wrap, or from the beginning.
    let lap = if start & 1 == 0 { 0 } else { LAP_MASK - u64::from(start >> 1 & 3) };
    let control = LaneControl::new(lap * SLOTS as u64);
    let slots: Vec<AtomicU64> = (0..SLOTS).map(|_| AtomicU64::new(Slot::empty(lap).0)).collect();
    let mut ring = Ring {
        lane: Lane::new(&control, &slots),
        model: VecDeque::new(),
        removed: 0,
        pushed: 0,
        rescan: false,
        participants: Default::default(),
        death: 0,
    };
    for &step in steps {
        ring.step(step >> 2, usize::from(step & 3) % PARTICIPANTS);
    }
    ring.death = 0;
    while !ring.model.is_empty() {
        ring.look(0);
        ring.remove(0);
    }
    ring.look(0);
}

/// The lane and the queue that it should equal.
struct Ring<'s> {
    lane: Lane<'s>,
    model: VecDeque<Hint>,
    /// Hints that have left the model: the position of its front.
    removed: u64,
    pushed: u32,
    rescan: bool,
    participants: [(Cursor, Option<(Entry, u64)>); PARTICIPANTS],
    /// Before which of its writes whoever acts next dies; 0: it lives.
    death: u32,
}

impl Ring<'_> {
    fn step(&mut self, op: u8, who: usize) {
        match op % 16 {
            0..=3 => self.push(who),
            // A push and a removal have two writes, of which the second comes every 16th time.
            4 => self.death = 1 + who as u32,
            5 | 6 => self.look(who),
            7 => self.glance(who),
            8..=10 => self.remove(who),
            11 => {
                self.look(who);
                self.remove(who);
            }
            12 => self.holds(who),
            13 => self.take_rescan(who),
            14 => {
                assert_eq!(self.lane.has_work(&self.participants[who].0), self.rescan || !self.model.is_empty());
            }
            // Killed, and another comes in its place.
            _ => self.participants[who] = Default::default(),
        }
        assert_eq!(self.lane.rescan_is_due(), self.rescan);
    }

    /// Runs an operation of `who`.
    ///
    /// # Errors
    /// It died before the write of this number, from 1.
    fn act<T>(&mut self, who: usize, op: impl FnOnce(&Lane<'_>, &Cursor) -> T) -> Result<T, u32> {
        let k = std::mem::take(&mut self.death);
        let (lane, cursor) = (self.lane, &self.participants[who].0);
        fate::mortal(k, || op(&lane, cursor)).ok_or_else(|| {
            self.participants[who] = Default::default();
            k
        })
    }

    fn push(&mut self, who: usize) {
        let hint = self.hint(self.pushed);
        self.pushed += 1;
        let is_full = self.model.len() == SLOTS;
        let is_done = match self.act(who, |lane, cursor| lane.push(cursor, hint)) {
            Ok(push) => {
                assert_eq!(push, Ok(if is_full { Push::Overflowed } else { Push::Stored }));
                true
            }
            Err(k) => {
                let is_done = if is_full { self.lane.rescan_is_due() } else { self.is_stored(hint) };
                assert!(k > 1 || is_done == (is_full && self.rescan), "it died before its first write");
                is_done
            }
        };
        match is_full {
            true => self.rescan |= is_done,
            false if is_done => self.model.push_back(hint),
            false => {}
        }
    }

    fn look(&mut self, who: usize) {
        let Ok(first) = self.act(who, |lane, cursor| lane.first(cursor).unwrap()) else { return };
        assert_eq!(first.as_ref().map(|e| e.hint), self.model.front().copied());
        self.participants[who].1 = first.map(|entry| (entry, self.removed));
    }

    fn glance(&mut self, who: usize) {
        match self.lane.glance(&self.participants[who].0) {
            Ok(entry) => {
                assert_eq!(Some(entry.hint), self.model.front().copied());
                self.participants[who].1 = Some((entry, self.removed));
            }
            Err(false) => assert!(self.model.is_empty() && !self.rescan, "it takes a closer look"),
            Err(true) => {}
        }
    }

    /// Removes what `who` saw last, which others may have removed since.
    fn remove(&mut self, who: usize) {
        let Some((entry, position)) = self.participants[who].1.take() else { return };
        let is_front = position == self.removed;
        let is_done = match self.act(who, |lane, cursor| lane.remove(cursor, &entry)) {
            Ok(removed) => {
                assert_eq!(removed, is_front);
                is_front
            }
            Err(k) => {
                let is_done = is_front && !self.is_stored(entry.hint);
                assert!(k > 1 || !is_done, "it died before its first write");
                is_done
            }
        };
        if is_done {
            self.model.pop_front();
            self.removed += 1;
        }
    }

    fn take_rescan(&mut self, who: usize) {
        match self.act(who, |lane, _| lane.raised().is_some_and(|raised| lane.lower_rescan(raised))) {
            Ok(due) => assert_eq!(due, std::mem::take(&mut self.rescan)),
            Err(k) => self.rescan &= k == 1,
        }
    }

    fn holds(&self, who: usize) {
        let cursor = &self.participants[who].0;
        for &hint in &self.model {
            assert!(self.lane.holds(cursor, hint), "{hint:?} is in the lane");
        }
        let never = self.hint(self.pushed);
        assert!(!self.lane.holds(cursor, never), "{never:?} was never pushed");
    }

    /// As a newcomer sees it.
    fn is_stored(&self, hint: Hint) -> bool {
        self.lane.holds(&Cursor::default(), hint)
    }

    /// The hint of the `n`-th push.
    fn hint(&self, n: u32) -> Hint {
        Hint { index: n as u16, generation: (n >> 16) as u16 }
    }
}
