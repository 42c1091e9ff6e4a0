//! A segment: one mapping, made by the coordinator and shared with all that it forks, or that attach to it.
//!
//! # Words
//!
//! | bytes              | written by                                     | a death leaves                          |
//! |--------------------|------------------------------------------------|-----------------------------------------|
//! | identity           | its maker, before anybody shares it            | no magic: who opens the file is refused |
//! | queue names, free  | its maker; the maps by all from then on        | a file without a living owner, see      |
//! | maps               |                                                | [`super::backing`]                      |
//! | all other words    | as their modules say                           | as their modules say                    |
//! | payloads           | whom the task word, or HELD, names             | bytes that nobody reads                 |
//! | pages of the arena | allocated by who holds a block of the chunk,   | pages that nobody counts on, which who  |
//! |                    | punched by the coordinator that holds them all | commits the chunk next finds there      |
//!
//! # Invariants
//!
//! 1. The geometry is read once, checked, and kept privately: all bounds follow from that copy, whatever others write.
//! 2. The file is as long as the layout says, and a memfd is sealed against being resized (who has a file is trusted
//!    not to), so no access inside the mapping faults for want of file; pages are allocated before they are written, so
//!    none does for want of memory.
//! 3. Of a payload only place and length are given out ([`Segment::locate`]), inside the mapping, and in a block only
//!    if that is attached to this life of the descriptor. A slice of it is made where the task word says that its bytes
//!    are ours.
//!
//! # Ordering
//!
//! None of its own: a segment is handed on by a fork or a socket; from then on its words order themselves.
//!
//! What checks this page: the tests below, `tests/segment.rs` (limits, full file systems, left-overs),
//! `fuzz/fuzz_targets/segment_open.rs` and `live_damage.rs`; that children do not have it, `shmworker torture
//! --fencing`.
//!
//! Sources: `memfd_create(2)`, `fcntl(2)` on seals, `fallocate(2)`, `madvise(2)` on MADV_DONTFORK.

use super::{
    backing::{self, Backing, Holder, LONGEST},
    layout::{Geometry, Header, Identity, Layout, MAGIC, PAGE, QueueName, QueueNames, VERSION},
    mapping::Mapping,
    space::{self, Shortage},
};
use crate::{
    error::Corrupted,
    lockfree::{
        blocks::{Blocks, COMMITTED, NoBlock, chunks},
        descriptor::{INLINE, Payload},
        freemap::FreeMap,
        participant::{Name, Record},
        recovery::{Death, Settled},
        table::{Cursors, Owned, Table},
        task_clock::{Source, TaskClock},
        timer::NEVER,
        trail::Trail,
    },
    sync::{AtomicU64, Inline, Relaxed},
};
use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl},
};
use std::{
    fs::File,
    hash::{BuildHasher, RandomState},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

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
    /// The kernel refused a step.
    #[error("cannot {step} '{}' for a shared-memory segment: {source}", path.display())]
    At {
        /// What was refused.
        step: &'static str,
        /// Where it was to lie.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A limit leaves too little.
    #[error("cannot make a shared-memory segment: {0}")]
    NoSpace(#[from] Shortage),
    /// More participants, descriptors or queues than a segment can name.
    #[error("no segment can hold that many processes or queues")]
    Geometry,
    /// No pool can have this name.
    #[error("invalid pool name '{0}': use 1 to {LONGEST} letters, digits, '.', '_' and '-'")]
    Name(String),
    /// Two queues have one name, or a name is empty or too long.
    #[error("invalid queue name '{0}': use up to 32 bytes, and each name once")]
    QueueName(String),
    /// A living pool has it.
    #[error("'{}' belongs to a pool that is alive{creator}: end that, or choose another name", path.display())]
    InUse {
        /// Where it lies.
        path: PathBuf,
        /// Who made it.
        creator: Holder,
    },
    /// There is something in the file already.
    #[error("'{}' holds {bytes} bytes already: remove it, or choose another file", path.display())]
    NotEmpty {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
}

/// Why something could not be used as a segment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentOpenError {
    /// The kernel refused a step.
    #[error("cannot {step} the segment: {source}")]
    Os {
        /// What was refused.
        step: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// It is a directory, a pipe, a device.
    #[error("not a segment: it is no regular file")]
    NotAFile,
    /// It is too short for a header.
    #[error("not a segment: a file of {found} bytes, where a header alone takes {expected}")]
    TooShort {
        /// Its size.
        found: u64,
        /// The least size.
        expected: u64,
    },
    /// It begins otherwise.
    #[error("not a segment: it begins with {found:#018x}, not with {expected:#018x}")]
    NotASegment {
        /// Its first word.
        found: u64,
        /// The first word of a segment.
        expected: u64,
    },
    /// It was made by another version of this program.
    #[error(
        "a segment of layout version {found}, where this program knows version {expected}: use the program that made it"
    )]
    VersionMismatch {
        /// Its version.
        found: u64,
        /// Ours.
        expected: u64,
    },
    /// Its header describes no segment.
    #[error("a damaged segment: its header describes a geometry that none can have")]
    Geometry,
    /// Its header names a clock that this CPU does not have, or that nobody knows.
    #[error(
        "a damaged segment, or one of another machine: its tasks are stamped by clock {found}, which is not to be had"
    )]
    Clock {
        /// Its clock.
        found: u64,
    },
    /// Its header is not as it was written.
    #[error("a damaged segment: the checksum of its header is {expected:#010x}, and {found:#010x} stands there")]
    Checksum {
        /// What stands there.
        found: u64,
        /// What follows from the rest.
        expected: u64,
    },
    /// It is not as long as its header says, or as its geometry needs.
    #[error("a damaged segment: {found} bytes long, {header} by its header, {expected} by its geometry")]
    SizeMismatch {
        /// The size of the file.
        found: u64,
        /// The size that stands in the header.
        header: u64,
        /// The size that follows from the geometry.
        expected: u64,
    },
    /// A memfd whose size somebody could change under us.
    #[error("the segment's memfd is not sealed against resizing (seals {found:#x}, expected at least {expected:#x})")]
    NotSealed {
        /// Its seals.
        found: i32,
        /// The seals that it needs.
        expected: i32,
    },
    /// A living pool has it.
    #[error("'{}' belongs to a pool that is alive{creator}: end that, or open it read-only", path.display())]
    InUse {
        /// Where it lies.
        path: PathBuf,
        /// Who made it.
        creator: Holder,
    },
}

/// Why there is no block for a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoSpace {
    /// All that are large enough are taken.
    #[error("no block is free for a payload of {wanted} bytes, all {blocks} are taken: take results, then try again")]
    Taken {
        /// Bytes wanted.
        wanted: usize,
        /// How many blocks are large enough.
        blocks: usize,
    },
    /// Some are free, but the memory behind them can't be had.
    #[error("no memory for a payload of {wanted} bytes: {shortage}")]
    NoMemory {
        /// Bytes wanted.
        wanted: usize,
        /// What stands in the way.
        shortage: Shortage,
    },
}

/// How a segment is made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) backing: Backing,
    /// Takes all memory at once, so that none can be missing later.
    pub(crate) reserve: bool,
    /// Asks the kernel for huge pages.
    pub(crate) huge_pages: bool,
    /// Whoever maps it has no faults later, but in blocks whose memory is taken as it is used.
    pub(crate) prefault: bool,
    /// Tasks are not stamped: nobody will know how long they waited and ran.
    pub(crate) no_times: bool,
    /// From what stamps are read, if not from the cheapest that can be trusted.
    pub(crate) clock: Option<Source>,
    /// Names of the queues, in their order; those without one are known by their number alone.
    pub(crate) queues: Vec<String>,
    /// Which state it is to hold, if not a new one.
    pub(crate) id: Option<u64>,
}

impl Options {
    /// The usual segment, with queues of these names.
    pub(crate) fn with_queues(names: impl IntoIterator<Item = impl Into<String>>) -> Options {
        Options { queues: names.into_iter().map(Into::into).collect(), ..Options::default() }
    }
}

/// A mapped segment.
pub(crate) struct Segment {
    // `table` borrows from `map`, which stays where it is for as long as `self` lives.
    table: Table<'static>,
    header: *const Header,
    map: Mapping,
    geometry: Geometry,
    layout: Layout,
    is_reserved: bool,
    wants_huge_pages: bool,
    is_prefaulted: bool,
    // Its name goes before its lock does: behind the lock there may be the name of a successor.
    _name: Option<backing::Name>,
    file: File,
}

// SAFETY: `header` points into `map`, which is shared memory made for concurrent access. What changes behind it is
// atomic, but for the bytes of payloads, of which this type gives out raw pointers only: who makes slices of them
// argues by the task word.
unsafe impl Send for Segment {}
// SAFETY: as for Send.
unsafe impl Sync for Segment {}

impl Segment {
    /// Makes a segment on a memfd, whose arena gets its pages as they are used.
    pub(crate) fn create(geometry: Geometry) -> Result<Segment, SegmentCreateError> {
        Segment::create_with(geometry, &Options::default())
    }

    /// Makes a segment.
    pub(crate) fn create_with(geometry: Geometry, options: &Options) -> Result<Segment, SegmentCreateError> {
        Segment::create_in(None, geometry, options)
    }

    /// As [`create_with`](Self::create_with), in the file of its backing, which was [taken](backing::take_file) and is empty.
    pub(crate) fn create_in(
        taken: Option<File>,
        geometry: Geometry,
        options: &Options,
    ) -> Result<Segment, SegmentCreateError> {
        let layout = Layout::of(&geometry).ok_or(SegmentCreateError::Geometry)?;
        let bytes = layout.total;
        check_names(&options.queues, geometry.queues as usize)?;
        let (file, name) = options.backing.create(bytes, taken)?;
        // A page that can't be had is an error here, and no SIGBUS later.
        space::allocate(&file, 0, if options.reserve { bytes } else { layout.arena })?;
        let map = Mapping::new(&file, bytes, true).map_err(|e| SegmentCreateError::Os {
            step: "map",
            bytes,
            source: e.into(),
        })?;
        let source = options.clock.unwrap_or_else(Source::best);
        let identity = Identity {
            magic: backing::BEGUN,
            version: VERSION,
            total: bytes as u64,
            reserved: options.reserve.into(),
            huge_pages: options.huge_pages.into(),
            prefault: options.prefault.into(),
            creator: std::process::id().into(),
            boot: backing::boot(),
            clock: source as u64,
            times: (!options.no_times).into(),
            origin: source.pair(),
            geometry,
            id: options.id.unwrap_or_else(random),
            checksum: 0,
        };
        let mut names: QueueNames = [0; size_of::<QueueNames>()];
        for (room, name) in names.chunks_mut(size_of::<QueueName>()).zip(&options.queues) {
            room[..name.len()].copy_from_slice(name.as_bytes());
        }
        let identity = identity.sealed(&names);
        // SAFETY: the mapping is page-aligned and at least a page long, the header starts with its identity, and nobody
        // else uses the mapping yet: a memfd is known to us alone, a file locked. The control words after it stay
        // zeroed.
        unsafe { map.as_ptr().cast::<Identity>().write(identity) };
        let name = match (&options.backing, name) {
            (Backing::File(_), Some(name)) => {
                name.keep();
                None
            }
            (_, name) => name,
        };
        let segment = Segment::view(file, map, identity, source, layout, name);
        for (word, bytes) in segment.header().queues.iter().flatten().zip(names.as_chunks().0) {
            word.store(u64::from_le_bytes(*bytes), Relaxed); // the fork or the socket that hands it on orders it
        }
        segment.begin();
        // SAFETY: as for the whole identity: nobody else uses the mapping yet, and no reference to its header is held. Last of all,
        // and not to be moved before what stands above: who is killed on the way leaves a file that is begun anew.
        unsafe {
            std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::Release);
            segment.map.as_ptr().cast::<u64>().write_volatile(MAGIC);
        }
        segment.ask_for_huge_pages();
        Ok(segment)
    }

    /// What a new segment needs beside zeroes.
    fn begin(&self) {
        let table = &self.table;
        for (map, n) in [(table.free, table.descriptors.len()), (table.blocks.free, self.geometry.blocks())] {
            (0..n).for_each(|i| map.give(i));
        }
        table.alarm.armed.store(NEVER, Relaxed);
        if self.is_reserved {
            table.blocks.chunks.iter().for_each(|chunk| chunk.store(COMMITTED, Relaxed)); // nobody shares it yet
        }
    }

    /// All that changes in a segment but its blocks, as bare words: to damage them.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn words(&self) -> &[AtomicU64] {
        let (start, end) = (std::mem::offset_of!(Header, control), self.layout.arena);
        let words = self.map.as_ptr().wrapping_add(start).cast();
        // SAFETY: aligned and inside the mapping, which lives as long as `self`, by the layout; any bits are words. All
        // there is accessed through atomics only, but for payloads in descriptors, of which who damages them holds no
        // slice.
        unsafe { std::slice::from_raw_parts(words, (end - start) / size_of::<AtomicU64>()) }
    }

    /// Makes it as if it had just been made. What of it is in use is the caller's care.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn renew(&self) {
        let words = self.words();
        // SAFETY: as for any store to these words; that it is not one atomic one per word is noticed by nobody, since nobody
        // else has the segment now.
        unsafe { std::ptr::write_bytes(words.as_ptr().cast_mut(), 0, words.len()) };
        self.begin();
    }

    /// Are these bytes inside the mapping?
    #[cfg(any(test, fuzzing))]
    pub(crate) fn contains(&self, bytes: &[u8]) -> bool {
        let (all, part) = (self.map.as_ptr() as usize, bytes.as_ptr() as usize);
        part >= all && part + bytes.len() <= all + self.layout.total
    }

    /// Opens the named or file backing of a segment that others have made. To write to it, it must be nobody's: this
    /// process and its children have it then. To look at it, it may be alive.
    ///
    /// # Errors
    /// [`SegmentOpenError`].
    pub(crate) fn open(path: &Path, writable: bool) -> Result<Segment, SegmentOpenError> {
        let os = |step| move |source| SegmentOpenError::Os { step, source };
        let file = backing::open(path, writable).map_err(os("open"))?;
        if writable && !backing::lock(&file).map_err(os("lock"))? {
            let creator = Holder(backing::creator(&file));
            return Err(SegmentOpenError::InUse { path: path.to_owned(), creator });
        }
        Segment::attach(file.into(), writable)
    }

    /// Maps a segment that others have made, and of which nothing is trusted. Without `writable` only what reads may be done
    /// with it, such as an audit.
    ///
    /// # Errors
    /// [`SegmentOpenError`].
    pub(crate) fn attach(fd: OwnedFd, writable: bool) -> Result<Segment, SegmentOpenError> {
        let os = |step| move |source| SegmentOpenError::Os { step, source };
        let file = File::from(fd);
        let meta = file.metadata().map_err(os("look at"))?;
        if !meta.is_file() {
            return Err(SegmentOpenError::NotAFile);
        }
        if meta.len() < PAGE as u64 {
            return Err(SegmentOpenError::TooShort { found: meta.len(), expected: PAGE as u64 });
        }
        // Of what lies on tmpfs, only a memfd never had a name.
        if let Ok(found) = fcntl(&file, FcntlArg::F_GET_SEALS)
            && meta.nlink() == 0
        {
            let expected = (SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW).bits();
            if found & expected != expected {
                return Err(SegmentOpenError::NotSealed { found, expected });
            }
        }
        // Read once: what is checked here is what is used from here on, whatever others write there.
        let identity = backing::read_identity(&file).map_err(os("read"))?;
        if identity.magic != MAGIC {
            return Err(SegmentOpenError::NotASegment { found: identity.magic, expected: MAGIC });
        }
        if identity.version != VERSION {
            return Err(SegmentOpenError::VersionMismatch { found: identity.version, expected: VERSION });
        }
        let layout = Layout::of(&identity.geometry).ok_or(SegmentOpenError::Geometry)?;
        let source = Source::of(identity.clock).ok_or(SegmentOpenError::Clock { found: identity.clock })?;
        let (found, header, expected) = (meta.len(), identity.total, layout.total as u64);
        if found != expected || header != expected {
            return Err(SegmentOpenError::SizeMismatch { found, header, expected });
        }
        let names = backing::read_queue_names(&file).map_err(os("read"))?;
        let (found, expected) = (identity.checksum, identity.sum(&names));
        if found != expected {
            return Err(SegmentOpenError::Checksum { found, expected });
        }
        let map = Mapping::new(&file, layout.total, writable).map_err(|e| os("map")(e.into()))?;
        Ok(Segment::view(file, map, identity, source, layout, None))
    }

    /// `layout` is that of the identity's geometry, and `map` has its size.
    fn view(
        file: File,
        map: Mapping,
        identity: Identity,
        source: Source,
        layout: Layout,
        name: Option<backing::Name>,
    ) -> Segment {
        let Identity { geometry, reserved, huge_pages, prefault, .. } = identity;
        // SAFETY: `layout` is that of `geometry`, and the mapping has its size and stays until the segment is dropped, which
        // hands out no longer borrow.
        let table = unsafe { table(map.as_ptr(), &identity, source, &layout) };
        let header = map.as_ptr().cast::<Header>().cast_const();
        let (is_reserved, wants_huge_pages, is_prefaulted) = (reserved != 0, huge_pages != 0, prefault != 0);
        Segment {
            table,
            header,
            map,
            geometry,
            layout,
            is_reserved,
            wants_huge_pages,
            is_prefaulted,
            _name: name,
            file,
        }
    }

    /// The path that goes with it, if it has one.
    #[cfg(all(feature = "pool", feature = "temporal"))]
    pub(crate) fn path(&self) -> Option<&Path> {
        self._name.as_ref().map(backing::Name::path)
    }

    /// As its maker, in another program of the same process: this path goes with it.
    #[cfg(all(feature = "pool", feature = "temporal"))]
    pub(crate) fn at(self, path: PathBuf) -> Segment {
        Segment { _name: Some(backing::Name::own(path)), ..self }
    }

    /// Has somebody the file that it lies in?
    #[cfg(all(feature = "cli", feature = "pool"))]
    pub(crate) fn is_in_use(&self) -> bool {
        backing::is_alive(&self.file).unwrap_or(true)
    }

    /// The names of the queues, in their order.
    pub(crate) fn queue_names(&self) -> Vec<String> {
        (0..self.geometry.queues as usize).map(|queue| self.queue_name(queue)).collect()
    }

    /// Notes that this process has taken it over, for people.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn set_creator(&self) -> io::Result<()> {
        // Not through the mapping, in which the identity is read as plain bytes.
        let pid = u64::from(std::process::id());
        std::os::unix::fs::FileExt::write_all_at(
            &self.file,
            &pid.to_ne_bytes(),
            std::mem::offset_of!(Identity, creator) as u64,
        )
    }

    /// The file, opened once more for a worker of this name ([`backing`]).
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn open_for_worker(&self, name: Name) -> io::Result<OwnedFd> {
        backing::open_for_worker(&self.file, name).map(OwnedFd::from)
    }

    /// Does the worker of this name live, whoever has led it? Not for itself.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn has_worker(&self, name: Name) -> io::Result<bool> {
        backing::has_worker(&self.file, name)
    }

    /// Has this process the file from here on by `file`, which is the same opened once more: of what was opened before it, and of its
    /// locks, nothing is left here, where one thread uses the segment.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn reopened_as(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: both are open, and whoever uses the number has the same file behind it.
        let same = unsafe { libc::dup3(file.as_raw_fd(), self.file.as_raw_fd(), libc::O_CLOEXEC) };
        Errno::result(same)?;
        self.map.renew(&self.file)?;
        if self.wants_huge_pages {
            // Who has made the segment has said it, if there are none.
            let _ = self.map.ask_for_huge_pages(0);
        }
        Ok(())
    }

    /// All words of the segment, for as long as it is borrowed.
    pub(crate) fn table(&self) -> &Table<'_> {
        &self.table
    }

    /// What is told about the participant with this id. `None`: there is none.
    #[inline]
    pub(crate) fn record(&self, id: u16) -> Option<&Record> {
        if u32::from(id) >= self.geometry.participants {
            return None;
        }
        let offset = self.layout.records + usize::from(id) * size_of::<Record>();
        // SAFETY: the region of the records lies within the mapping.
        let record = unsafe { self.map.as_ptr().add(offset) };
        // SAFETY: aligned, since regions start at multiples of 128; valid, since every bit pattern is valid for words.
        Some(unsafe { &*record.cast() })
    }

    /// The last things that the participants with this id did. `None`: there is none.
    pub(crate) fn trail(&self, id: u16) -> Option<&Trail> {
        if u32::from(id) >= self.geometry.participants {
            return None;
        }
        let offset = self.layout.trails + usize::from(id) * size_of::<Trail>();
        // SAFETY: the region of the trails lies within the mapping.
        let trail = unsafe { self.map.as_ptr().add(offset) };
        // SAFETY: as in `record`.
        Some(unsafe { &*trail.cast() })
    }

    /// [`Table::recover_noting`], into the trail of the dead one.
    ///
    /// # Errors
    /// [`Corrupted`] if a word is damaged.
    pub(crate) fn recover(
        &self,
        cursors: &Cursors,
        me: Name,
        dead: Name,
        death: Death<'_>,
    ) -> Result<Settled, Corrupted> {
        self.table().recover_noting(cursors, me, dead, death, |dead, task| self.note_unfinished(dead, task))
    }

    /// Leaves in the trail of a participant which is dead that it had not ended this attempt.
    pub(crate) fn note_unfinished(&self, dead: Name, task: Owned) {
        let Some(pen) = self.trail(dead.id()).and_then(|trail| trail.pen_of(dead)) else { return };
        let d = &self.table().descriptors[usize::from(task.index)];
        let began = d.run_of(task.word).map_or(0, |run| run.began.load(Relaxed));
        pen.left(task, d.kind.load(Relaxed), began, d.heartbeat.load(Relaxed));
    }

    /// The words about the whole pool.
    pub(crate) fn header(&self) -> &Header {
        // SAFETY: `header` is the start of `map`, which has a page for it; any bytes are a header. Its identity, which
        // is not atomic, is written no more.
        unsafe { &*self.header }
    }

    /// The name of a queue, as far as it is text; empty if it has none.
    pub(crate) fn queue_name(&self, queue: usize) -> String {
        let words = self.header().queues.get(queue).map_or(&[][..], |name| name);
        // Relaxed: written before it was shared.
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.load(Relaxed).to_le_bytes()).collect();
        String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
    }

    /// The largest payload, in bytes.
    pub(crate) fn max_payload(&self) -> usize {
        let sizes = self.geometry.classes.iter().filter(|c| c.count > 0).map(|c| c.size as usize);
        sizes.max().unwrap_or(INLINE)
    }

    /// Takes a block of at least `len` bytes: FREE → HELD(me). Its pages are there; `has_grown` is called where they had to be
    /// allocated.
    ///
    /// # Errors
    /// [`NoSpace`]: nothing is taken.
    pub(crate) fn alloc(&self, len: usize, me: Name, has_grown: impl Fn()) -> Result<u32, NoSpace> {
        let commit = |chunk| match self.layout.chunk(&self.geometry, chunk) {
            Some((offset, bytes)) => space::allocate(&self.file, offset, bytes).map(|()| has_grown()),
            None => Ok(()), // the blocks know no such chunk either
        };
        self.table.blocks.alloc(len, me, commit).map_err(|e| match e {
            NoBlock::NoPages(shortage) => NoSpace::NoMemory { wanted: len, shortage },
            NoBlock::Taken => self.all_taken(len),
        })
    }

    /// That every block for so many bytes is in use.
    pub(crate) fn all_taken(&self, len: usize) -> NoSpace {
        let fitting = self.geometry.classes.iter().filter(|c| c.size as usize >= len);
        NoSpace::Taken { wanted: len, blocks: fitting.map(|c| c.count as usize).sum() }
    }

    /// Is there memory that [`give_back`](Self::give_back) might give back?
    pub(crate) fn has_grown(&self) -> bool {
        !self.is_reserved && self.table.blocks.has_committed()
    }

    /// Gives the memory of blocks back to the kernel that were free since the last call. Coordinator only, now and then.
    /// False: nothing is left that could be given back.
    pub(crate) fn give_back(&self, me: Name) -> bool {
        !self.is_reserved
            && self.table.blocks.give_back(me, |chunk| {
                if let Some((offset, bytes)) = self.layout.chunk(&self.geometry, chunk) {
                    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                    let punch = || fallocate(&self.file, flags, offset as libc::off_t, bytes as libc::off_t);
                    // A file system that can't do it keeps the pages; the next to commit the chunk finds them.
                    while punch() == Err(Errno::EINTR) {}
                }
            })
    }

    /// Keeps children of this process, which a handler may leave behind, away from the segment.
    pub(crate) fn keep_from_children(&self) -> io::Result<()> {
        Ok(self.map.keep_from_children()?)
    }

    /// As [`keep_from_children`](Self::keep_from_children), for a process that is to work with the segment: faults are had now,
    /// where its maker wants that.
    pub(crate) fn settle(&self) -> io::Result<()> {
        if self.is_prefaulted
            && let Err(e) = self.map.prefault(self.present())
        {
            tracing::warn!("shared memory is not prefaulted, its pages are mapped as they are used: {}", e.desc());
        }
        self.keep_from_children()
    }

    /// So many bytes have their pages from the start to the end.
    fn present(&self) -> usize {
        if self.is_reserved { self.layout.total } else { self.layout.arena }
    }

    /// A kernel that grants none is no reason to stop.
    fn ask_for_huge_pages(&self) {
        if self.wants_huge_pages
            && let Err(e) = self.map.ask_for_huge_pages(self.present())
        {
            tracing::warn!(
                "shared memory has small pages, huge ones were refused ({}): they take Linux 6.1, free memory in pieces of \
                 2 MiB, a memfd or tmpfs, and in /sys/kernel/mm/transparent_hugepage/shmem_enabled anything but 'deny'",
                e.desc()
            );
        }
    }

    /// Where a payload of this task lies: pointer and length. The length is checked against the place; a block must be attached
    /// to this life of the descriptor, so that two tasks never share one.
    ///
    /// Whether the bytes may be touched is for the caller to know, by the task word.
    ///
    /// # Errors
    /// [`Corrupted`] if the payload refers to no block of this task's, or is longer than its place.
    #[inline]
    pub(crate) fn locate<const N: usize>(
        &self,
        task: Owned,
        payload: Payload,
        inline: &Inline<N>,
    ) -> Result<(*mut u8, usize), Corrupted> {
        match payload.block() {
            None if payload.len() <= INLINE => Ok((inline.as_ptr(), payload.len())),
            None => Err(Corrupted::new("payload of descriptor", task.index.into(), payload.0)),
            Some(block) => self.locate_block(task, payload, block),
        }
    }

    /// As [`locate`](Self::locate), for a payload that lies in a block.
    pub(crate) fn locate_block(
        &self,
        task: Owned,
        payload: Payload,
        block: u32,
    ) -> Result<(*mut u8, usize), Corrupted> {
        self.table.blocks.check_attached(block, task.index, task.word)?;
        self.span_of(task, payload, block)
    }

    /// As [`locate`](Self::locate), without a look at the block's word, for the input of a task that this participant runs: its submitter
    /// attached the block before it published the task, and frees it after the end. The word stays with the submitter's CPU, which
    /// spares each such task two cache lines that travel. After damage the bytes may be another's, and are inside the segment.
    ///
    /// # Errors
    /// [`Corrupted`] if there is no such block, or the payload is longer than its place.
    #[inline]
    pub(crate) fn locate_input<const N: usize>(
        &self,
        task: Owned,
        payload: Payload,
        inline: &Inline<N>,
    ) -> Result<(*mut u8, usize), Corrupted> {
        match payload.block() {
            None => self.locate(task, payload, inline),
            Some(block) => self.span_of(task, payload, block),
        }
    }

    fn span_of(&self, task: Owned, payload: Payload, block: u32) -> Result<(*mut u8, usize), Corrupted> {
        let (start, size) = self.place_of(block)?;
        if payload.len() <= size {
            Ok((start, payload.len()))
        } else {
            Err(Corrupted::new("payload of descriptor", task.index.into(), payload.0))
        }
    }

    /// Where a block lies, and its size. Whose its bytes are is for the caller to know.
    ///
    /// # Errors
    /// [`Corrupted`] if there is no such block.
    pub(crate) fn place_of(&self, block: u32) -> Result<(*mut u8, usize), Corrupted> {
        let damaged = Corrupted::new("number of a block", block as usize, block.into());
        let (offset, size) = self.layout.block(&self.geometry, block).ok_or(damaged)?;
        // The layout keeps every block inside the mapping.
        Ok((self.map.as_ptr().wrapping_add(offset), size))
    }
}

impl AsFd for Segment {
    /// What a child must keep open to commit chunks, and what is handed to those that attach.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A number that no two states have, but by an accident in 2⁶⁴.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

fn check_names(names: &[String], queues: usize) -> Result<(), SegmentCreateError> {
    if names.len() > queues {
        return Err(SegmentCreateError::Geometry);
    }
    let is_wrong = |(i, name): &(usize, &String)| {
        name.is_empty() || name.len() > size_of::<QueueName>() || name.contains('\0') || names[..*i].contains(name)
    };
    match names.iter().enumerate().find(is_wrong) {
        Some((_, name)) => Err(SegmentCreateError::QueueName(name.clone())),
        None => Ok(()),
    }
}

/// The typed view of a mapping.
///
/// # Safety
/// - `base` is the start of a mapping of `layout.total` bytes, aligned to a page, which outlives the result.
/// - `layout` is the layout of the identity's geometry.
/// - What lies there is changed only through atomics (payload bytes aside), and not at all if the mapping is read-only.
unsafe fn table(base: *mut u8, identity: &Identity, source: Source, layout: &Layout) -> Table<'static> {
    /// # Safety
    /// As for `table`; `n` values of `T` fit at `offset`.
    unsafe fn slice<T>(base: *mut u8, offset: usize, n: usize) -> &'static [T] {
        // SAFETY: the region lies within the mapping.
        let start = unsafe { base.add(offset) };
        // SAFETY: aligned, since regions start at multiples of 128; valid, since every bit pattern is valid for words.
        unsafe { std::slice::from_raw_parts(start.cast(), n) }
    }
    let g = &identity.geometry;
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
        blocks: Blocks::new(
            g.classes,
            words(layout.block_words, g.blocks()),
            FreeMap(words(layout.block_free, FreeMap::words(g.blocks()))),
            words(layout.chunks, chunks(&g.classes)),
        ),
        queues: g.queues as usize,
        // SAFETY: as for `words`.
        controls: unsafe { slice(base, layout.controls, g.lanes()) },
        slots: words(layout.slots, g.queues as usize * c.queue + p * (c.private + c.completion)),
        capacity: c,
        idle: words(layout.idle, (g.queues as usize + 1) * p.div_ceil(64)),
        // SAFETY: a mapping starts with its header, and lives as long as the result.
        alarm: unsafe { &(*base.cast::<Header>()).control.alarm },
        clock: TaskClock {
            source,
            is_on: identity.times != 0,
            origin: identity.origin,
            // SAFETY: as for `alarm`.
            words: unsafe { &(*base.cast::<Header>()).control.clock },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lockfree::word::{Block, Member},
        mem::layout::classes,
    };
    use nix::{
        sys::memfd::{MFdFlags, memfd_create},
        unistd::ftruncate,
    };
    use std::{
        mem::offset_of,
        os::{fd::AsRawFd, unix::fs::FileExt},
        sync::atomic::AtomicBool,
    };

    #[test]
    fn a_new_segment_is_empty_private_and_sealed() {
        let s = Segment::create(Geometry::new(64, 2)).unwrap();
        assert!(s.table().audit().is_clean(), "{}", s.table().audit());
        assert_eq!((s.header().identity.magic, s.header().identity.version), (MAGIC, VERSION));
        assert_eq!(s.file.metadata().unwrap().mode() & 0o777, 0o600);
        let size = s.layout.total as libc::off_t;
        assert_eq!(ftruncate(&s.file, size - 4096), Err(Errno::EPERM));
        assert_eq!(ftruncate(&s.file, size + 4096), Err(Errno::EPERM));
        let flags = fcntl(&s.file, FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC, "fd {}", s.file.as_raw_fd());
    }

    /// Small enough to be made often.
    fn small() -> Geometry {
        Geometry { descriptors: 8, queue_slots: 16, private_slots: 16, completion_slots: 16, ..Geometry::new(4, 1) }
    }

    fn dup(s: &Segment) -> OwnedFd {
        s.file.try_clone().unwrap().into()
    }

    fn member(s: &Segment, id: usize) -> Member {
        s.table().participants[id].member(id).unwrap()
    }

    /// Pages that the kernel has for it, in bytes.
    fn memory(s: &Segment) -> u64 {
        s.file.metadata().unwrap().blocks() * 512
    }

    #[test]
    fn memory_comes_with_the_first_block_of_a_chunk_and_goes_when_it_has_long_been_free() {
        let s = Segment::create(small()).unwrap();
        let me = s.table().admit(0, 0).unwrap().unwrap();
        let (head, free) = (memory(&s), |b: u32| s.table().blocks.free(b as usize, Block::Held(me)));
        assert_eq!(head, s.layout.arena as u64);
        let (one, two, large) =
            (s.alloc(1, me, || ()).unwrap(), s.alloc(1, me, || ()).unwrap(), s.alloc(3 << 20, me, || ()).unwrap());
        assert_eq!(memory(&s), head + (1 << 20) + (4 << 20));
        assert!(free(one) && free(large));
        assert!(s.give_back(me) && s.give_back(me), "block {two} is in use");
        assert_eq!(memory(&s), head + (1 << 20));
        assert!(free(two) && !s.give_back(me));
        assert_eq!(memory(&s), head);
        assert!(s.table().audit().is_clean(), "{}", s.table().audit());
    }

    #[test]
    fn reserved_memory_is_taken_at_once_and_kept() {
        let geometry = Geometry { classes: classes([256, 0, 0, 0, 2, 0, 0, 0]), ..small() };
        let s = Segment::create_with(geometry, &Options { reserve: true, ..Options::default() }).unwrap();
        let me = s.table().admit(0, 0).unwrap().unwrap();
        assert_eq!((memory(&s), s.max_payload()), (s.layout.total as u64, 1 << 20));
        s.alloc(1, me, || ()).unwrap();
        assert!(!s.give_back(me) && !s.give_back(me));
        assert_eq!(memory(&s), s.layout.total as u64);
        let none = NoSpace::Taken { wanted: 2 << 20, blocks: 0 };
        assert_eq!(s.alloc(2 << 20, me, || ()), Err(none));
    }

    #[test]
    fn who_attaches_sees_the_same_words_and_can_audit_what_it_must_not_write() {
        let s = Segment::create(small()).unwrap();
        s.table().admit(7, 0).unwrap().unwrap();
        let watcher = Segment::attach(dup(&s), false).unwrap();
        let peer = Segment::attach(dup(&s), true).unwrap();
        let second = peer.table().admit(8, 0).unwrap().unwrap();
        for segment in [&s, &watcher] {
            assert_eq!(member(segment, 1), Member::Live(second.incarnation()));
            assert!(segment.table().audit().is_clean());
        }
        let block = peer.alloc(5000, second, || ()).unwrap();
        assert_eq!(watcher.table().audit().blocks_in_use, 1);
        assert!(s.table().blocks.free(block as usize, Block::Held(second)));
    }

    #[test]
    fn what_is_no_segment_is_refused_by_what_was_found() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let backing = Backing::File(path.to_path_buf());
        let total = Segment::create_with(small(), &Options { backing, ..Options::default() }).unwrap().layout.total;
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let refused = |offset: u64, bytes: &[u8]| {
            let mut before = vec![0; bytes.len()];
            file.read_exact_at(&mut before, offset).unwrap();
            file.write_all_at(bytes, offset).unwrap();
            let e = Segment::open(&path, false).err().expect("refused").to_string();
            file.write_all_at(&before, offset).unwrap();
            e
        };
        let geometry = "a damaged segment: its header describes a geometry that none can have";
        let at = |offset, bytes: &[u8], e: &str| assert_eq!(refused(offset as u64, bytes), e);
        at(0, b"x", "not a segment: it begins with 0x726b726f776d6878, not with 0x726b726f776d6873");
        at(
            offset_of!(Identity, version),
            &[9],
            &format!(
                "a segment of layout version 9, where this program knows version {VERSION}: use the program that made it"
            ),
        );
        let clock =
            "a damaged segment, or one of another machine: its tasks are stamped by clock 9, which is not to be had";
        at(offset_of!(Identity, clock), &[9], clock);
        let long =
            format!("a damaged segment: {total} bytes long, {} by its header, {total} by its geometry", total ^ 1);
        at(offset_of!(Identity, total), &[total as u8 ^ 1], &long);
        let participants = offset_of!(Identity, geometry) + offset_of!(Geometry, participants);
        at(participants, &[0; 4], geometry);
        at(participants, &[255; 4], geometry);
        let more = refused(participants as u64, &[64]);
        assert!(more.starts_with(&format!("a damaged segment: {total} bytes long, {total} by its header, ")), "{more}");

        file.set_len(total as u64 - 4096).unwrap();
        assert!(matches!(Segment::open(&path, false), Err(SegmentOpenError::SizeMismatch { .. })));
        file.set_len(100).unwrap();
        let short = "not a segment: a file of 100 bytes, where a header alone takes 4096";
        assert_eq!(Segment::open(&path, false).err().unwrap().to_string(), short);
        assert!(matches!(Segment::open(Path::new("/dev"), false), Err(SegmentOpenError::NotAFile)));
        assert!(matches!(Segment::open(Path::new("/nowhere"), false), Err(SegmentOpenError::Os { step: "open", .. })));
    }

    #[test]
    fn a_memfd_that_can_be_resized_is_refused() {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create(c"test", flags).unwrap());
        file.set_len(1 << 20).unwrap();
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).unwrap();
        let e = Segment::attach(file.into(), false).err().expect("refused");
        let said = "the segment's memfd is not sealed against resizing (seals 0x2, expected at least 0x6)";
        assert_eq!(e.to_string(), said);
    }

    #[test]
    fn a_file_has_one_living_pool_and_keeps_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let options = Options { backing: Backing::File(path.clone()), ..Options::default() };
        let create = || Segment::create_with(small(), &options);
        let s = create().unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        s.table().admit(7, 0).unwrap().unwrap();
        let by = format!(
            "'{}' belongs to a pool that is alive, made by process {}: end that, or",
            path.display(),
            std::process::id()
        );
        assert_eq!(create().err().unwrap().to_string(), format!("{by} choose another name"));
        assert_eq!(Segment::open(&path, true).err().unwrap().to_string(), format!("{by} open it read-only"));
        assert_eq!(member(&Segment::open(&path, false).unwrap(), 0), Member::Live(1));

        drop(s);
        let e = create().err().unwrap().to_string();
        assert!(e.ends_with("bytes already: remove it, or choose another file"), "{e}");
        assert_eq!(member(&Segment::open(&path, true).unwrap(), 0), Member::Live(1));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(Segment::open(&link, false), Err(SegmentOpenError::Os { step: "open", .. })));
    }

    #[test]
    fn who_starts_while_others_clean_gets_the_name_and_keeps_it() {
        let pool = format!("unit-{}-cleaned", std::process::id());
        let path = format!("/dev/shm/shmworker-{}-{pool}", nix::unistd::geteuid());
        let (path, options) = (Path::new(&path), Options { backing: Backing::Named(pool), ..Options::default() });
        let is_over = &AtomicBool::new(false);
        std::thread::scope(|s| {
            for is_rehearsal in [true, false, false] {
                s.spawn(move || {
                    while !is_over.load(Relaxed) {
                        backing::clean(path, is_rehearsal).unwrap();
                    }
                });
            }
            let faults = (0..300).find_map(|_| match Segment::create_with(small(), &options) {
                Ok(_) if path.exists() => None,
                Ok(_) => Some("its name was taken from the living".to_owned()),
                Err(e) => Some(e.to_string()),
            });
            is_over.store(true, Relaxed);
            assert_eq!(faults, None);
        });
        assert!(!path.exists());
    }

    #[test]
    fn a_name_that_no_pool_can_have_is_refused() {
        for name in ["", "a/b", "..\u{e4}", &"x".repeat(LONGEST + 1)] {
            let options = Options { backing: Backing::Named(name.into()), ..Options::default() };
            let e = Segment::create_with(small(), &options).err().expect("refused");
            assert!(matches!(&e, SegmentCreateError::Name(n) if n == name), "{e}");
        }
    }

    #[test]
    fn queues_have_their_names() {
        let with = |names: &[&str]| {
            let options = Options { queues: names.iter().map(|n| n.to_string()).collect(), ..Options::default() };
            Segment::create_with(Geometry::new(4, 2), &options)
        };
        let long = "a".repeat(32);
        let segment = with(&["workflow", &long]).unwrap();
        assert_eq!((segment.queue_name(0), segment.queue_name(1)), ("workflow".to_owned(), long));
        for wrong in [&["a", "a"][..], &[""], &[&"a".repeat(33)], &["a\0b"]] {
            assert!(matches!(with(wrong), Err(SegmentCreateError::QueueName(_))), "{wrong:?}");
        }
        assert!(matches!(with(&["a", "b", "c"]), Err(SegmentCreateError::Geometry)));
    }

    #[test]
    fn a_payload_outside_its_place_is_damage() {
        let s = Segment::create(Geometry::new(64, 1)).unwrap();
        let inline = &s.table().descriptors[0].input_bytes;
        let task = Owned { index: 0, word: s.table().load(0) };
        let locate = |block, len| s.locate(task, Payload::new(block, len), inline);
        assert!(locate(None, INLINE as u32).is_ok());
        assert!(locate(None, INLINE as u32 + 1).is_err());
        let last = s.geometry.blocks() as u32 - 1;
        for block in [0, last] {
            assert!(locate(Some(block), 1).is_err(), "nobody's block");
            s.table().blocks.words[block as usize].store(Block::attached(0, task.word).bits(), Relaxed);
        }
        assert!(locate(Some(0), 1).is_ok());
        assert!(locate(Some(0), 4097).is_err());
        assert!(locate(Some(1 << 20), 1).is_err());
        let (start, len) = locate(Some(last), s.max_payload() as u32).unwrap();
        assert_eq!(start as usize + len, s.map.as_ptr() as usize + s.layout.total);
        s.table().blocks.words[0].store(Block::attached(1, task.word).bits(), Relaxed);
        assert!(locate(Some(0), 1).is_err(), "another's block");
    }
}
