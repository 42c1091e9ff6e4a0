//! What lies where in a segment: the header, and the table of regions that follows from the geometry.
//!
//! ```text
//!   0  header          magic, version, geometry, control words      1 page
//!      participants    128 B each
//!      records         4 KiB per participant
//!      trails          2688 B per participant
//!      descriptors     896 B each
//!      free map        1 bit per descriptor
//!      lane controls   384 B each: queues, private lanes, completion lanes
//!      lane slots      8 B each
//!      idle masks      1 bit per participant, per queue and for room
//!      block words     8 B each
//!      block map       1 bit per block
//!      chunk words     8 B each
//!      ─────────────── up to here allocated at start
//!      arena           blocks, by class, page-aligned; pages come by chunks, with their first use
//! ```
//!
//! Zeroed memory is a valid empty segment except for the two free maps.
//!
//! # Words
//!
//! Each region's stand with its module. Of the header:
//!
//! | word              | written by                          | read by      | a death leaves                         |
//! |-------------------|-------------------------------------|--------------|----------------------------------------|
//! | identity, queues' | its maker, before anybody shares it | who attaches | a file that is refused: its checksum   |
//! | names             |                                     |              | is of both                             |
//! | `mode`            | the coordinator                     | all          | the last one                           |
//! | `deaths`          | the coordinator                     | clients      | a count that lacks the death that was  |
//! |                   |                                     |              | being settled                          |
//! | `clock`           | who converts stamps, the            | all          | see [`crate::lockfree::task_clock`]    |
//! |                   | coordinator                         |              |                                        |
//! | `grace_ms`        | the coordinator                     | the next    | the last one                           |
//! |                   |                                     | start, that |                                        |
//! |                   |                                     | waits       |                                        |
//! | `armed`, `paused` | the coordinator                     | all          | see [`crate::lockfree::timer`]         |
//! | `watched`         | wakers and the coordinator          | the same     | see [`crate::lockfree::timer`]         |
//! | `served`          | the coordinator, once it stands in  | workers that | a count; who wakes by it looks whether |
//! |                   | its participant's `pid` and `born`  | wait for one | that process lives                     |
//!
//! # Invariants
//!
//! Regions do not overlap, begin on cache lines of their own, and end where the segment does, for each geometry that
//! has a layout. The layout is computed from a geometry that was read once, never from words that others can change.
//!
//! # Ordering
//!
//! `mode` and `deaths` are stored with Release and loaded with Acquire: who sees a death counted sees what its recovery
//! has settled. `served` likewise: who sees it finds whose count it is. Who shares a segment got it by a fork or a socket, after its identity was written.
//!
//! What checks this page: the tests below, `const` assertions at each structure, `fuzz/fuzz_targets/segment_open.rs`.

use crate::{
    lockfree::{
        blocks::{CLASSES, Class, blocks_of, chunks},
        descriptor::Descriptor,
        freemap::FreeMap,
        lane::LaneControl,
        participant::{Participant, Record},
        table::LaneCapacity,
        task_clock::ClockWords,
        timer::Alarm,
        trail::Trail,
        word::{MAX_DESCRIPTORS, MAX_PARTICIPANTS},
    },
    sync::{AtomicU32, AtomicU64, Futex, Relaxed, ticks::Pair},
};
use std::{alloc::Layout as Region, mem::offset_of, time::Duration};

/// `shmworkr`, little-endian.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"shmworkr");
/// Of this layout. Raised by every change of a size, an offset or a meaning.
pub(crate) const VERSION: u64 = 6;
pub(crate) const PAGE: usize = 4096;

/// Everything that decides the size of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Geometry {
    pub(crate) participants: u32,
    pub(crate) descriptors: u32,
    pub(crate) queues: u32,
    /// Slots of a queue's, a private and a completion lane: powers of two.
    pub(crate) queue_slots: u32,
    pub(crate) private_slots: u32,
    pub(crate) completion_slots: u32,
    pub(crate) classes: [Class; CLASSES],
}

impl Geometry {
    /// For so many participants and queues. Roomy enough that a full lane or table is rare.
    pub(crate) fn new(participants: usize, queues: usize) -> Geometry {
        Geometry {
            participants: participants as u32,
            descriptors: 4096,
            queues: queues as u32,
            queue_slots: 4096,
            private_slots: 256,
            // As many as there are tasks: one who only submits must not overflow its lane.
            completion_slots: 4096,
            // 944 MiB of addresses; memory is taken as it is used.
            classes: classes([4096, 2048, 1024, 256, 128, 32, 16, 4]),
        }
    }

    pub(crate) fn capacity(&self) -> LaneCapacity {
        LaneCapacity {
            queue: self.queue_slots as usize,
            private: self.private_slots as usize,
            completion: self.completion_slots as usize,
        }
    }

    pub(crate) fn blocks(&self) -> usize {
        self.classes.iter().map(|c| c.count as usize).sum()
    }

    pub(crate) fn lanes(&self) -> usize {
        self.queues as usize + 2 * self.participants as usize
    }

    fn is_sound(&self) -> bool {
        let slots = [self.queue_slots, self.private_slots, self.completion_slots];
        (1..=MAX_PARTICIPANTS).contains(&(self.participants as usize))
            && (1..=MAX_DESCRIPTORS).contains(&(self.descriptors as usize))
            && (1..=MAX_QUEUES as u32).contains(&self.queues)
            && slots.iter().all(|s| s.is_power_of_two() && (16..=1 << 16).contains(s))
            && self.classes.is_sorted_by_key(|c| c.size)
            && self.classes.iter().all(|c| c.size > 0 && (c.size as usize).is_multiple_of(PAGE) && c.count <= 1 << 16)
    }
}

/// So many blocks of each size: 4 KiB, 16 KiB and so on to 64 MiB.
pub(crate) fn classes(counts: [u32; CLASSES]) -> [Class; CLASSES] {
    std::array::from_fn(|i| Class { size: (PAGE as u32) << (2 * i), count: counts[i] })
}

/// The first page of a segment.
#[repr(C)]
pub(crate) struct Header {
    pub(crate) identity: Identity,
    pub(crate) control: Control,
    /// Names of queues, padded with zeroes. Written as the identity is.
    pub(crate) queues: [QueueName; MAX_QUEUES],
}

/// Bytes of a queue's name, in words.
pub(crate) type QueueName = [AtomicU64; 4];
/// Queues that a segment can have.
pub(crate) const MAX_QUEUES: usize = 64;

/// What tells a segment from other bytes, and its regions from one another. Written once, before anybody shares it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Identity {
    pub(crate) magic: u64,
    pub(crate) version: u64,
    pub(crate) total: u64,
    /// All pages were taken at the start, and none are given back: 1, else 0.
    pub(crate) reserved: u64,
    /// Whoever maps it asks for huge pages, or maps all pages at once that are there from the start: 1, else 0.
    pub(crate) huge_pages: u64,
    pub(crate) prefault: u64,
    /// Who made it, for people: the process id, and the run of the machine in which that counts.
    pub(crate) creator: u64,
    pub(crate) boot: u64,
    /// From what stamps are read: [`Source`](crate::lockfree::task_clock::Source); and whether tasks get any: 1, else 0.
    pub(crate) clock: u64,
    pub(crate) times: u64,
    /// One moment of that clock.
    pub(crate) origin: Pair,
    pub(crate) geometry: Geometry,
    /// Of the state that is in it, by which what lies beside it is known to belong to it: a random number.
    pub(crate) id: u64,
    /// CRC-32 of what stands before it, and of the names of queues: [`sum`](Identity::sum).
    pub(crate) checksum: u64,
}

/// Bytes of the names of all queues.
pub(crate) type QueueNames = [u8; size_of::<[QueueName; MAX_QUEUES]>()];

impl Identity {
    /// The same with its checksum.
    pub(crate) fn sealed(self, names: &QueueNames) -> Identity {
        Identity { checksum: self.sum(names), ..self }
    }

    /// What its checksum is to be. Not of `creator`, which is for people, and another's after a restart; nor of the magic, which is
    /// looked at by itself, and written last.
    pub(crate) fn sum(&self, names: &QueueNames) -> u64 {
        let identity = Identity { magic: MAGIC, creator: 0, ..*self };
        let start = &raw const identity;
        // SAFETY: `Identity` is made of integers alone, without gaps (below), so each of its bytes is initialized; it lives for as
        // long as the slice does.
        let bytes = unsafe { std::slice::from_raw_parts(start.cast::<u8>(), offset_of!(Identity, checksum)) };
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(bytes);
        hasher.update(names);
        hasher.finalize().into()
    }
}

const _: () = assert!(size_of::<Header>() <= PAGE);
const _: () = assert!(size_of::<Identity>() == 12 * 8 + size_of::<Pair>() + size_of::<Geometry>(), "there is a gap");
const _: () = assert!(size_of::<Geometry>() == 6 * 4 + CLASSES * size_of::<Class>(), "there is a gap");

/// Corrects the checksum in a segment's bytes, which somebody has changed.
#[cfg(any(test, fuzzing))]
pub(crate) fn seal(image: &mut [u8]) {
    let at = offset_of!(Header, queues);
    let mut names = [0; size_of::<QueueNames>()];
    names.copy_from_slice(&image[at..at + size_of::<QueueNames>()]);
    // SAFETY: the image has a header; any bytes are an identity.
    let identity = unsafe { image.as_ptr().cast::<Identity>().read_unaligned() };
    let at = offset_of!(Identity, checksum);
    image[at..at + 8].copy_from_slice(&identity.sum(&names).to_le_bytes());
}

/// Words about the whole pool. Written by the coordinator, but for the clock's rate and the [`Alarm`]'s `watched`, which are
/// anybody's.
#[repr(C, align(128))]
pub(crate) struct Control {
    /// How far the pool is in its life, in the terms of `process`.
    pub(crate) mode: AtomicU32,
    /// Deaths settled so far: a client that keeps an account of participants looks at it after each wake.
    pub(crate) deaths: AtomicU32,
    /// Beside what is seldom written: whoever stamps a task reads it.
    pub(crate) clock: ClockWords,
    /// Nanoseconds of 2³² ticks by which metrics are told for good, whoever tells them; 0: not yet. For people.
    pub(crate) told_rate: AtomicU64,
    /// How long the pool has for each step of its end, in milliseconds; 0: not known. For who waits for that.
    pub(crate) grace_ms: AtomicU64,
    /// How often a coordinator has begun to serve in this file, in which workers wait for one.
    pub(crate) served: Futex,
    pub(crate) alarm: Alarm,
}

impl Control {
    /// This is how long the pool has for each step of its end.
    pub(crate) fn has_grace(&self, grace: Duration) {
        // Relaxed: who reads it waits a little longer, or shorter.
        self.grace_ms.store(u64::try_from(grace.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }
}

/// Offsets of the regions, in bytes from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) participants: usize,
    pub(crate) records: usize,
    pub(crate) trails: usize,
    pub(crate) descriptors: usize,
    pub(crate) free: usize,
    pub(crate) controls: usize,
    pub(crate) slots: usize,
    pub(crate) idle: usize,
    pub(crate) block_words: usize,
    pub(crate) block_free: usize,
    pub(crate) chunks: usize,
    pub(crate) arena: usize,
    pub(crate) total: usize,
}

impl Layout {
    /// `None`: no segment has such a geometry.
    pub(crate) fn of(g: &Geometry) -> Option<Layout> {
        if !g.is_sound() {
            return None;
        }
        let mut end = PAGE;
        // Each region on cache lines of its own.
        let mut place = |region: Region| {
            let start = end.next_multiple_of(region.align().max(128));
            end = start + region.size();
            start
        };
        let words = |n: usize| Region::array::<u64>(n).ok();
        let c = g.capacity();
        let slots = g.queues as usize * c.queue + g.participants as usize * (c.private + c.completion);
        let mut layout = Layout {
            participants: place(Region::array::<Participant>(g.participants as usize).ok()?),
            records: place(Region::array::<Record>(g.participants as usize).ok()?),
            trails: place(Region::array::<Trail>(g.participants as usize).ok()?),
            descriptors: place(Region::array::<Descriptor>(g.descriptors as usize).ok()?),
            free: place(words(FreeMap::words(g.descriptors as usize))?),
            controls: place(Region::array::<LaneControl>(g.lanes()).ok()?),
            slots: place(words(slots)?),
            idle: place(words((g.queues as usize + 1) * (g.participants as usize).div_ceil(64))?),
            block_words: place(words(g.blocks())?),
            block_free: place(words(FreeMap::words(g.blocks()))?),
            chunks: place(words(chunks(&g.classes))?),
            arena: 0,
            total: 0,
        };
        layout.arena = end.next_multiple_of(PAGE);
        layout.total = g.classes.iter().map(|c| c.size as usize * c.count as usize).sum::<usize>() + layout.arena;
        Some(layout)
    }

    /// Where a block starts, and its size. `None`: there is no such block.
    pub(crate) fn block(&self, g: &Geometry, block: u32) -> Option<(usize, usize)> {
        let (mut offset, mut first) = (self.arena, 0);
        for class in g.classes {
            if block - first < class.count {
                return Some((offset + (block - first) as usize * class.size as usize, class.size as usize));
            }
            first += class.count;
            offset += class.size as usize * class.count as usize;
        }
        None
    }

    /// Where a chunk starts, and its size. `None`: there is no such chunk.
    pub(crate) fn chunk(&self, g: &Geometry, chunk: usize) -> Option<(usize, usize)> {
        let blocks = blocks_of(&g.classes, chunk)?;
        let (offset, size) = self.block(g, blocks.start as u32)?;
        Some((offset, size * blocks.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_in_order_and_blocks_fill_the_arena() {
        let g = Geometry::new(64, 2);
        let l = Layout::of(&g).unwrap();
        let starts = [
            l.participants,
            l.records,
            l.trails,
            l.descriptors,
            l.free,
            l.controls,
            l.slots,
            l.idle,
            l.block_words,
            l.block_free,
            l.chunks,
            l.arena,
        ];
        assert!(starts.is_sorted_by(|a, b| a < b), "{starts:?}");
        assert_eq!(l.block(&g, 0), Some((l.arena, 4096)));
        let last = l.block(&g, g.blocks() as u32 - 1).unwrap();
        assert_eq!(last.0 + last.1, l.total);
        assert_eq!(l.block(&g, g.blocks() as u32), None);
        // So do chunks.
        let end = (0..chunks(&g.classes)).fold(l.arena, |end, chunk| {
            let (start, size) = l.chunk(&g, chunk).unwrap();
            assert_eq!(start, end);
            start + size
        });
        assert_eq!(end, l.total);
        assert_eq!(g.classes[CLASSES - 1].size, 64 << 20);
    }

    #[test]
    fn an_unsound_geometry_has_no_layout() {
        let good = Geometry::new(64, 2);
        for bad in [
            Geometry { participants: 4097, ..good },
            Geometry { descriptors: 0, ..good },
            Geometry { queue_slots: 100, ..good },
            Geometry { queues: 65, ..good },
            Geometry { classes: [Class { size: 100, count: 1 }; CLASSES], ..good },
            Geometry { classes: [Class { size: 0, count: 1 }; CLASSES], ..good },
        ] {
            assert_eq!(Layout::of(&bad), None, "{bad:?}");
        }
    }
}
