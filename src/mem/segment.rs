//! A segment: one mapping, made by the coordinator and shared with all that it forks.
//!
//! The backing is a memfd: it has no name that could be left behind, is closed on exec, and goes with its last process.
//! Sources: `memfd_create(2)`, `fcntl(2)` on seals, `madvise(2)` on MADV_DONTFORK.

use super::layout::{Geometry, Header, Identity, Layout, MAGIC, VERSION};
use crate::{
    error::Corrupted,
    lockfree::{
        blocks::Blocks,
        descriptor::{INLINE, Payload},
        freemap::FreeMap,
        table::Table,
    },
    sync::{AtomicU64, Inline},
};
use memmap2::{Advice, MmapRaw};
use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        stat::{Mode, fchmod},
    },
    unistd::ftruncate,
};
use std::{fs::File, io};

/// Why a segment could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentCreateError {
    /// The kernel refused a step.
    #[error("cannot {step} a shared-memory segment of {bytes} bytes: {source}")]
    Os {
        /// What was refused.
        step: &'static str,
        /// Size of the segment.
        bytes: usize,
        /// The kernel's reason.
        source: io::Error,
    },
    /// More participants, descriptors or queues than a segment can name.
    #[error("no segment can hold that many processes or queues")]
    Geometry,
}

/// A mapped segment.
pub(crate) struct Segment {
    // `table` borrows from `map`, which stays where it is for as long as `self` lives.
    table: Table<'static>,
    header: *const Header,
    map: MmapRaw,
    geometry: Geometry,
    layout: Layout,
    _file: File,
}

// SAFETY: `header` points into `map`, which is shared memory made for concurrent access; the words behind it that change
// are atomic.
unsafe impl Send for Segment {}
// SAFETY: as for Send.
unsafe impl Sync for Segment {}

impl Segment {
    /// Makes a sealed memfd of this geometry and maps it.
    pub(crate) fn create(geometry: Geometry) -> Result<Segment, SegmentCreateError> {
        let layout = Layout::of(&geometry).ok_or(SegmentCreateError::Geometry)?;
        let bytes = layout.total;
        let os = |step| move |source: io::Error| SegmentCreateError::Os { step, bytes, source };
        let errno = |step| move |e: Errno| os(step)(e.into());
        let fd =
            memfd_create(c"shmworker", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).map_err(errno("create"))?;
        fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR).map_err(errno("protect"))?;
        ftruncate(&fd, bytes as libc::off_t).map_err(errno("size"))?;
        // A page that cannot be had is an error here, and no SIGBUS later. The arena's pages come with use.
        fallocate(&fd, FallocateFlags::empty(), 0, layout.arena as libc::off_t).map_err(errno("allocate"))?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).map_err(errno("seal"))?;
        let file = File::from(fd);
        let map = MmapRaw::map_raw(&file).map_err(os("map"))?;
        let header = map.as_mut_ptr().cast_const().cast::<Header>();
        let identity = Identity { magic: MAGIC, version: VERSION, total: bytes as u64, geometry };
        // SAFETY: the mapping is page-aligned and at least a page long, the header starts with its identity, and nobody
        // else has the mapping yet. The control words after it stay zeroed.
        unsafe { header.cast::<Identity>().cast_mut().write(identity) };
        // SAFETY: `layout` is that of `geometry`, and the mapping has its size.
        let table = unsafe { table(map.as_mut_ptr(), &geometry, &layout) };
        for (map, n) in [(table.free, table.descriptors.len()), (table.blocks.free, geometry.blocks())] {
            (0..n).for_each(|i| map.give(i));
        }
        Ok(Segment { table, header, map, geometry, layout, _file: file })
    }

    /// All words of the segment, for as long as it is borrowed.
    pub(crate) fn table(&self) -> &Table<'_> {
        &self.table
    }

    /// The words about the whole pool.
    pub(crate) fn header(&self) -> &Header {
        // SAFETY: `header` is the start of `map`, written whole in `create` before anybody shared it.
        unsafe { &*self.header }
    }

    /// Keeps children of this process, which a handler may leave behind, away from the segment.
    pub(crate) fn keep_from_children(&self) -> io::Result<()> {
        self.map.advise(Advice::DontFork)
    }

    /// Where a payload lies: pointer and length. The length is checked against the place.
    ///
    /// Whether the bytes may be touched is for the caller to know, by the task word.
    ///
    /// # Errors
    /// [`Corrupted`] if the payload refers to no block, or is longer than its place.
    pub(crate) fn locate<const N: usize>(
        &self,
        index: u16,
        payload: Payload,
        inline: &Inline<N>,
    ) -> Result<(*mut u8, usize), Corrupted> {
        let damaged = || Corrupted::new("payload of descriptor", index.into(), payload.0);
        let (start, room) = match payload.block() {
            None => (inline.as_ptr(), INLINE),
            Some(block) => {
                let (offset, size) = self.layout.block(&self.geometry, block).ok_or_else(damaged)?;
                // The layout keeps every block inside the mapping.
                (self.map.as_mut_ptr().wrapping_add(offset), size)
            }
        };
        if payload.len() <= room { Ok((start, payload.len())) } else { Err(damaged()) }
    }
}

/// The typed view of a mapping.
///
/// # Safety
/// - `base` is the start of a mapping of `layout.total` bytes, aligned to a page, which outlives the result.
/// - `layout` is the layout of `geometry`.
/// - Zeroed or valid words lie there, and are changed only through atomics (payload bytes aside).
unsafe fn table(base: *mut u8, geometry: &Geometry, layout: &Layout) -> Table<'static> {
    /// # Safety
    /// As for `table`; `n` values of `T` fit at `offset`.
    unsafe fn slice<T>(base: *mut u8, offset: usize, n: usize) -> &'static [T] {
        // SAFETY: the region lies within the mapping.
        let start = unsafe { base.add(offset) };
        // SAFETY: aligned, since regions start at multiples of 128; valid, since every bit pattern is valid for words.
        unsafe { std::slice::from_raw_parts(start.cast(), n) }
    }
    let g = geometry;
    let p = g.participants as usize;
    let c = g.capacity();
    // SAFETY: the offsets and counts are those by which `Layout::of` laid the regions out, for each field below.
    let words = |offset, n| unsafe { slice::<AtomicU64>(base, offset, n) };
    Table {
        // SAFETY: as for `words`.
        participants: unsafe { slice(base, layout.participants, p) },
        // SAFETY: as for `words`.
        descriptors: unsafe { slice(base, layout.descriptors, g.descriptors as usize) },
        free: FreeMap(words(layout.free, FreeMap::words(g.descriptors as usize))),
        blocks: Blocks {
            classes: g.classes,
            words: words(layout.block_words, g.blocks()),
            free: FreeMap(words(layout.block_free, FreeMap::words(g.blocks()))),
        },
        queues: g.queues as usize,
        // SAFETY: as for `words`.
        controls: unsafe { slice(base, layout.controls, g.lanes()) },
        slots: words(layout.slots, g.queues as usize * c.queue + p * (c.private + c.completion)),
        capacity: c,
        idle: words(layout.idle, (g.queues as usize + 1) * p.div_ceil(64)),
        // SAFETY: a mapping starts with its header, and lives as long as the result.
        alarm: unsafe { &(*base.cast::<Header>()).control.alarm },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_new_segment_is_empty_private_and_sealed() {
        let s = Segment::create(Geometry::new(64, 2)).unwrap();
        assert!(s.table().audit().is_clean(), "{}", s.table().audit());
        assert_eq!((s.header().identity.magic, s.header().identity.version), (MAGIC, VERSION));
        let mode = nix::sys::stat::fstat(&s._file).unwrap().st_mode;
        assert_eq!(mode & 0o777, 0o600);
        let size = s.layout.total as libc::off_t;
        assert_eq!(ftruncate(&s._file, size - 4096), Err(Errno::EPERM));
        assert_eq!(ftruncate(&s._file, size + 4096), Err(Errno::EPERM));
        let flags = fcntl(&s._file, FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC, "fd {}", s._file.as_raw_fd());
    }

    #[test]
    fn a_payload_outside_its_place_is_damage() {
        let s = Segment::create(Geometry::new(64, 1)).unwrap();
        let inline = &s.table().descriptors[0].input_bytes;
        assert!(s.locate(0, Payload::new(None, INLINE as u32), inline).is_ok());
        assert!(s.locate(0, Payload::new(None, INLINE as u32 + 1), inline).is_err());
        assert!(s.locate(0, Payload::new(Some(0), 4097), inline).is_err());
        assert!(s.locate(0, Payload::new(Some(1 << 20), 1), inline).is_err());
        let last = s.geometry.blocks() as u32 - 1;
        let (start, len) = s.locate(0, Payload::new(Some(last), 16 << 20), inline).unwrap();
        assert_eq!(start as usize + len, s.map.as_ptr() as usize + s.layout.total);
    }
}
