//! What the targets that play a whole pool share: the segment on which they play, and the reading of an input.

use crate::{
    exec::endpoint::Endpoint,
    lockfree::{participant::Name, table::Table},
    mem::{
        layout::Geometry,
        segment::{Options, Segment},
    },
    sync::NOW,
};
use std::{
    cell::{Cell, OnceCell},
    sync::Arc,
};

/// More tasks than a lane has slots, so that lanes overflow.
pub(super) const DESCRIPTORS: usize = 20;
/// The coordinator, those who play, and room for the dead whom words still name.
const PARTICIPANTS: usize = 32;
pub(super) const QUEUES: usize = 2;
/// Blocks of each size, of which there are two.
const BLOCKS: [u32; 2] = [4, 2];
/// Payloads inside the descriptor, at its limit and just past it, in a block of each size, and larger than any.
pub(super) const LENGTHS: [usize; 8] = [0, 1, 256, 257, 4096, 4097, 16 << 10, (16 << 10) + 1];
/// How many participants may come and go in one play.
const SEATS: usize = 64;

thread_local! {
    /// Made once, since that takes a hundred times as long as a play.
    static SEGMENT: Arc<Segment> = Arc::new(make());
}

fn make() -> Segment {
    let geometry = Geometry {
        descriptors: DESCRIPTORS as u32,
        queue_slots: 16,
        private_slots: 16,
        completion_slots: 16,
        ..Geometry::new(PARTICIPANTS, QUEUES)
    };
    let mut classes = geometry.classes;
    for (i, class) in classes.iter_mut().enumerate() {
        class.count = BLOCKS.get(i).copied().unwrap_or(0);
    }
    let options = Options { reserve: true, ..Options::default() };
    Segment::create_with(Geometry { classes, ..geometry }, &options).expect("memory for a small segment")
}

/// An empty segment, and time that stands still unless somebody moves it.
pub(super) struct Stage {
    pub(super) segment: Arc<Segment>,
    seats: Box<[OnceCell<Endpoint>]>,
    next: Cell<usize>,
}

impl Stage {
    pub(super) fn new() -> Stage {
        let segment = SEGMENT.with(Arc::clone);
        segment.renew();
        NOW.set(Some(1_000_000_000));
        Stage { segment, seats: (0..SEATS).map(|_| OnceCell::new()).collect(), next: Cell::new(0) }
    }

    pub(super) fn table(&self) -> &Table<'_> {
        self.segment.table()
    }

    /// The endpoint of one who was admitted. `None`: enough have come and gone.
    pub(super) fn seat(&self, name: Name) -> Option<&Endpoint> {
        let seat = self.seats.get(self.next.get())?;
        self.next.set(self.next.get() + 1);
        Some(seat.get_or_init(|| Endpoint::hasty(self.segment.clone(), name)))
    }

    pub(super) fn has_seats(&self) -> bool {
        self.next.get() < self.seats.len()
    }

    pub(super) fn pass(&self, ns: u64) {
        NOW.set(NOW.get().map(|now| now.saturating_add(ns)));
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        NOW.set(None);
    }
}

/// An input, read byte by byte.
pub(super) struct Bytes<'d>(pub(super) &'d [u8]);

impl Bytes<'_> {
    pub(super) fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes([self.next()?, self.next()?]))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*bytes))
    }
}

/// Before which of its writes the actor of a step dies, by an arbitrary byte; 0, for half of them: it lives. Most operations
/// have a dozen writes, a recovery some hundred.
pub(super) fn death(byte: u8) -> u32 {
    match u32::from(byte) {
        0..=127 => 0,
        k @ 128..=223 => 1 + (k - 128) / 4,
        k => 24 + (k - 223) * 8,
    }
}

/// One of these, by an arbitrary number.
pub(super) fn pick<T: Copy>(all: &[T], n: u8) -> Option<T> {
    (!all.is_empty()).then(|| all[n as usize % all.len()])
}
