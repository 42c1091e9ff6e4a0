//! A mapping of a whole file, which begins where a huge page may.
//!
//! # Huge pages
//!
//! The pages of a memfd or of a file on tmpfs can be huge ones (2 MiB on x86-64): a few entries of the TLB in place of
//! thousands, and a fault in place of 512. Whether the kernel makes them by itself stands in
//! `/sys/kernel/mm/transparent_hugepage/shmem_enabled`, most often `never`. So they are asked for twice: for pages to come
//! (MADV_HUGEPAGE, where that file says `advise`), and for those that are there (MADV_COLLAPSE, from Linux 6.1 on, which only
//! `deny` forbids). Each process maps them as such if its mapping begins at a multiple of their size, which the kernel does
//! not see to where it would not make huge pages itself.
//!
//! # Faults
//!
//! A forked child inherits no page tables of a shared mapping, so each process has a fault for each page that it touches, half
//! a microsecond each. MADV_POPULATE_WRITE (Linux 5.14) has them all at once. It allocates what is not there, so it is only
//! for pages that have been allocated, with the errors of [`super::space`].
//!
//! Both are wishes: a kernel that does not grant them costs time and nothing else.
//!
//! What checks this page: the tests below, by `/proc/self/smaps`.
//!
//! Sources: `madvise(2)`, `mmap(2)`, the kernel's `admin-guide/mm/transhuge.rst`.

use nix::{
    errno::Errno,
    sys::mman::{MapFlags, MmapAdvise, ProtFlags, mmap, mmap_anonymous, munmap},
};
use std::{num::NonZeroUsize, os::fd::AsFd, ptr::NonNull};

/// What a huge page of x86-64 takes, and of others the usual one.
const HUGE: usize = 2 << 20;

/// Pages of a file, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// Maps the first `len` bytes of a file, a multiple of the size of a page.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn new(file: impl AsFd, len: usize, is_writable: bool) -> nix::Result<Mapping> {
        let whole = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        let room = whole.checked_add(HUGE).ok_or(Errno::ENOMEM)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: addresses that nobody has.
        let place = unsafe { mmap_anonymous(None, room, ProtFlags::PROT_NONE, flags) }?.cast::<u8>();
        let before = place.align_offset(HUGE);
        // SAFETY: within `room`, which is longer by a huge page.
        let start = unsafe { place.add(before) };
        // SAFETY: as for `start`.
        let end = unsafe { start.add(len) };
        let mapping = Mapping { start, len };
        for (start, len) in [(place, before), (end, HUGE - before)] {
            if len > 0 {
                // SAFETY: what `room` has before and after the mapping, which nobody uses.
                unsafe { munmap(start.cast(), len) }?;
            }
        }
        mapping.map(file, whole, is_writable)?;
        Ok(mapping)
    }

    /// Maps the same file once more in its place, writable: of `file`, what was opened before is used no more.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn renew(&self, file: impl AsFd) -> nix::Result<()> {
        self.map(file, NonZeroUsize::new(self.len).ok_or(Errno::EINVAL)?, true)
    }

    fn map(&self, file: impl AsFd, whole: NonZeroUsize, is_writable: bool) -> nix::Result<()> {
        let prot = if is_writable { ProtFlags::PROT_READ | ProtFlags::PROT_WRITE } else { ProtFlags::PROT_READ };
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
        // SAFETY: what is replaced by it are addresses that are this mapping's, which have the same bytes after it or were for nothing yet.
        unsafe { mmap(Some(self.start.addr()), whole, prot, flags, file, 0) }.map(drop)
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Children of this process will not have it.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn keep_from_children(&self) -> nix::Result<()> {
        self.advise(self.len, MmapAdvise::MADV_DONTFORK as libc::c_int)
    }

    /// Asks for huge pages, at once for the first `present` bytes, which have been allocated.
    ///
    /// # Errors
    /// The kernel's: `EINVAL`, where it is too old or forbids them; `ENOMEM`, where it finds none.
    pub(crate) fn ask_for_huge_pages(&self, present: usize) -> nix::Result<()> {
        self.advise(self.len, MmapAdvise::MADV_HUGEPAGE as libc::c_int)?;
        // Rounded up: what was begun is worth another huge page, if the file is as long.
        match present.next_multiple_of(HUGE).min(self.len) / HUGE * HUGE {
            0 => Ok(()),
            whole => self.advise(whole, libc::MADV_COLLAPSE),
        }
    }

    /// Maps the first `present` bytes, which have been allocated, so that touching them is no fault.
    ///
    /// # Errors
    /// The kernel's: `EINVAL`, where it is too old.
    pub(crate) fn prefault(&self, present: usize) -> nix::Result<()> {
        self.advise(present, MmapAdvise::MADV_POPULATE_WRITE as libc::c_int)
    }

    /// nix does not know all kinds of advice.
    fn advise(&self, len: usize, advice: libc::c_int) -> nix::Result<()> {
        debug_assert!(len <= self.len);
        loop {
            // SAFETY: a part of the mapping. None of the above changes what is in it.
            match Errno::result(unsafe { libc::madvise(self.as_ptr().cast(), len, advice) }) {
                Err(Errno::EINTR) => {}
                other => return other.map(drop),
            }
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it is ours, and whoever borrowed from it is gone. It can't fail for a mapping that is there.
        let _ = unsafe { munmap(self.start.cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use procfs::process::Process;
    use std::fs::File;

    /// Of the memory that the kernel has for it, in bytes.
    fn figure(mapping: &Mapping, name: &str) -> u64 {
        let maps = Process::myself().unwrap().smaps().unwrap();
        let start = mapping.as_ptr() as u64;
        let map = maps.iter().find(|map| map.address.0 == start).expect("the mapping");
        assert_eq!(map.address.1, start + mapping.len as u64);
        map.extension.map[name]
    }

    fn memory(len: usize) -> File {
        let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
        let file = File::from(nix::sys::memfd::memfd_create(c"test", flags).unwrap());
        file.set_len(len as u64).unwrap();
        super::super::space::allocate(&file, 0, len).unwrap();
        file
    }

    #[test]
    fn prefaulted_pages_are_mapped_before_they_are_touched() {
        let len = 3 << 20;
        let mapping = Mapping::new(memory(len), len, true).unwrap();
        assert_eq!(figure(&mapping, "Rss"), 0);
        match mapping.prefault(1 << 20) {
            Ok(()) => assert_eq!(figure(&mapping, "Rss"), 1 << 20),
            Err(e) => eprintln!("skipped: the kernel is too old: {e}"),
        }
    }

    #[test]
    fn huge_pages_are_for_all_who_map_the_file() {
        let len = 7 << 20;
        let file = memory(len);
        let mapping = Mapping::new(&file, len, true).unwrap();
        // SAFETY: inside the mapping, which nobody else has yet.
        unsafe { mapping.as_ptr().write(7) };
        if let Err(e) = mapping.ask_for_huge_pages((2 << 20) + 1) {
            return eprintln!("skipped: the kernel grants none: {e}");
        }
        let other = Mapping::new(&file, len, false).unwrap();
        for mapping in [&mapping, &other] {
            // SAFETY: inside the mapping, which nobody writes to any more.
            assert_eq!(unsafe { mapping.as_ptr().read_volatile() }, 7);
            assert!(figure(mapping, "ShmemPmdMapped") >= HUGE as u64);
        }
    }

    #[test]
    fn what_can_not_be_mapped_leaves_no_addresses_behind() {
        let (_, pipe) = nix::unistd::pipe().unwrap();
        let before = Process::myself().unwrap().maps().unwrap().len();
        for _ in 0..100 {
            assert!(Mapping::new(&pipe, 4096, true).is_err());
            assert!(Mapping::new(&pipe, 0, true).is_err());
            assert!(Mapping::new(&pipe, usize::MAX, true).is_err());
        }
        // Other tests map as well.
        let after = Process::myself().unwrap().maps().unwrap().len();
        assert!(after < before + 100, "{before} mappings before, {after} after");
    }
}
