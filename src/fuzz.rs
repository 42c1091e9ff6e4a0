//! The bodies of the fuzz targets (`fuzz/`), here because what they drive is private. The committed corpus runs with the
//! unit tests too.

mod segment;

pub use segment::segment_open;

use crate::{
    lockfree::{
        descriptor::Payload,
        lane::{Cursor, Entry, Lane, LaneControl, Push},
        participant::Name,
        word::{Block, Hint, LAP_BITS, LAP_MASK, Member, Phase, Slot, Task, is_legal},
    },
    sync::AtomicU64,
};
use std::collections::VecDeque;

/// Any 64 bits are decoded without a panic, and what decodes is encoded to the same bits. `data`: little-endian words.
///
/// # Panics
/// If that is not so.
pub fn words(data: &[u8]) {
    let (words, _) = data.as_chunks::<8>();
    let words: Vec<u64> = words.iter().map(|w| u64::from_le_bytes(*w)).collect();
    for &w in &words {
        task(Task(w));
        slot(Slot(w));
        if let Some(block) = Block::of(w) {
            assert_eq!(block.bits(), w, "{block:?}");
        }
        if let Some(member) = Member::of(w) {
            assert_eq!(member.bits(), w, "{member:?}");
        }
        let payload = Payload(w);
        assert!(payload.len() <= u32::MAX as usize);
        assert_eq!(Payload::new(payload.block(), payload.len() as u32), payload);
        let name = Name::of(w);
        assert_eq!(Name::new(name.id(), name.incarnation()).bits(), w & !0xff_0000, "{name:?}");
    }
    for pair in words.windows(2) {
        transition(Task(pair[0]), Task(pair[1]));
        // Laps have no order, only a distance: the shorter way round.
        let lap = pair[1] & LAP_MASK;
        let distance = Slot(pair[0]).laps_ahead_of(lap);
        assert!((-(1 << (LAP_BITS - 1))..1 << (LAP_BITS - 1)).contains(&distance), "{distance}");
        assert_eq!(lap.wrapping_add_signed(distance) & LAP_MASK, pair[0] >> 32 & LAP_MASK);
    }
}

fn task(w: Task) {
    assert!(!format!("{w:?}").is_empty());
    if let Some(phase) = w.phase() {
        assert_eq!(Task::new(phase, w.who(), w.attempt(), w.generation()), w);
        assert!(w.is(phase));
    }
}

fn slot(w: Slot) {
    assert!(!format!("{w:?}").is_empty());
    let lap = w.0 >> 32 & LAP_MASK;
    let again = if w.is_full() { Slot::full(lap, w.hint()) } else { Slot::empty(lap) };
    // An empty slot's low bits mean nothing.
    assert_eq!(again.0, if w.is_full() { w.0 } else { w.0 & !0xffff_ffff });
}

/// Whatever two words hold: a legal transition is one between whole words, and none ends a life except FREE → RESERVED.
fn transition(from: Task, to: Task) {
    let reborn = from.reborn(to.who());
    assert_eq!(is_legal(from, reborn), from.is(Phase::Free), "{from:?} -> {reborn:?}");
    if is_legal(from, to) {
        assert!(from.phase().is_some() && to.phase().is_some(), "{from:?} -> {to:?}");
        assert!(from.is(Phase::Free) || to.generation() == from.generation(), "{from:?} -> {to:?}");
    }
}

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
                let due = self.lane.take_rescan(&self.participants[who].0, true);
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

#[cfg(test)]
mod tests {
    fn replay(target: &str, body: fn(&[u8])) {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let files: Vec<_> = std::fs::read_dir(&corpus).unwrap().map(|f| f.unwrap().path()).collect();
        assert!(!files.is_empty(), "{} has no inputs", corpus.display());
        files.iter().for_each(|f| body(&std::fs::read(f).unwrap()));
    }

    #[test]
    fn the_corpus_of_words_passes() {
        replay("words", super::words);
    }

    #[test]
    fn the_corpus_of_segment_open_passes() {
        replay("segment_open", super::segment_open);
    }

    #[test]
    fn the_corpus_of_ring_ops_passes() {
        replay("ring_ops", super::ring_ops);
    }
}
