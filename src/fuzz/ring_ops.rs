//! A lane against a bounded queue.

use crate::{
    lockfree::{
        lane::{Cursor, Entry, Lane, LaneControl, Push},
        word::{Hint, LAP_MASK, Slot},
    },
    sync::AtomicU64,
};
use std::collections::VecDeque;

/// Slots of the lane under test: as few as a segment can have (`mem::layout`).
const SLOTS: usize = 16;
/// Participants, each with a cursor of its own and at most one entry that it has seen and not removed yet.
const PARTICIPANTS: usize = 3;

/// A lane does what a bounded queue does, whichever participants act in whichever order. `data`: a byte per step, after a
/// first one that says on which lap the lane starts.
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
    };
    for &step in steps {
        ring.step(step >> 2, usize::from(step & 3) % PARTICIPANTS);
    }
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
}

impl Ring<'_> {
    fn step(&mut self, op: u8, who: usize) {
        match op % 16 {
            0..=4 => self.push(who),
            5..=7 => self.look(who),
            8..=10 => self.remove(who),
            11 => {
                self.look(who);
                self.remove(who);
            }
            12 => self.holds(who),
            13 => {
                let due = self.lane.wants_rescan(&self.participants[who].0, true) && self.lane.take_rescan();
                assert_eq!(due, std::mem::take(&mut self.rescan));
            }
            14 => {
                assert_eq!(self.lane.has_work(&self.participants[who].0), self.rescan || !self.model.is_empty());
            }
            // Killed, and another comes in its place.
            _ => self.participants[who] = Default::default(),
        }
        assert_eq!(self.lane.rescan_is_due(), self.rescan);
    }

    fn push(&mut self, who: usize) {
        let hint = Hint { index: self.pushed as u16, generation: (self.pushed >> 16) as u16 };
        self.pushed += 1;
        let expected = if self.model.len() < SLOTS {
            self.model.push_back(hint);
            Push::Stored
        } else {
            self.rescan = true;
            Push::Overflowed
        };
        assert_eq!(self.lane.push(&self.participants[who].0, hint), Ok(expected));
    }

    fn look(&mut self, who: usize) {
        let (cursor, seen) = &mut self.participants[who];
        let first = self.lane.first(cursor).unwrap();
        assert_eq!(first.as_ref().map(|e| e.hint), self.model.front().copied());
        *seen = first.map(|entry| (entry, self.removed));
    }

    /// Removes what `who` saw last, which others may have removed since.
    fn remove(&mut self, who: usize) {
        let (cursor, seen) = &mut self.participants[who];
        let Some((entry, position)) = seen.take() else { return };
        let is_front = position == self.removed;
        assert_eq!(self.lane.remove(cursor, &entry), is_front);
        if is_front {
            self.model.pop_front();
            self.removed += 1;
        }
    }

    fn holds(&self, who: usize) {
        let cursor = &self.participants[who].0;
        for &hint in &self.model {
            assert!(self.lane.holds(cursor, hint), "{hint:?} is in the lane");
        }
        let never = Hint { index: self.pushed as u16, generation: (self.pushed >> 16) as u16 };
        assert!(!self.lane.holds(cursor, never), "{never:?} was never pushed");
    }
}
