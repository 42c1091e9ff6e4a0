//! Whether this process is the one that made a pool: a child that it forks has copies of the pool's objects, but neither the
//! segment nor the threads that they count on.
//!
//! One page, which the kernel zeroes in a forked child, holds which generation of processes this is. So the question costs a
//! load, where `getpid` costs a system call.
//!
//! Source: `madvise(2)` on MADV_WIPEONFORK.

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous};
use std::{
    num::NonZeroUsize,
    sync::{
        Mutex, PoisonError,
        atomic::{
            AtomicU64,
            Ordering::{Relaxed, Release},
        },
    },
};

/// The process that this was made in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Home {
    word: &'static AtomicU64,
    generation: u64,
}

/// The pool was made by another process, of which this one is a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the pool belongs to another process, by a fork of which this one came to be: make a pool of its own here, or submit \
     there"
)]
pub struct AnotherProcess;

/// The page's word, and the last generation of this process and those whose copy it is.
static LAST: Mutex<(Option<&AtomicU64>, u64)> = Mutex::new((None, 0));

impl Home {
    /// This process.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn here() -> nix::Result<Home> {
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        let word = match last.0 {
            Some(word) => word,
            None => {
                let word = wiped_on_fork()?;
                last.0 = Some(word);
                word
            }
        };
        // Relaxed: it changes under the lock only, and by a fork, which has one thread.
        if word.load(Relaxed) == 0 {
            last.1 += 1;
            word.store(last.1, Release);
        }
        Ok(Home { word, generation: last.1 })
    }

    /// # Errors
    /// This process isn't it.
    #[inline]
    pub(super) fn check(&self) -> Result<(), AnotherProcess> {
        // Relaxed: whoever has a `Home` has seen its generation stored, or is in a child where the page is another.
        if self.word.load(Relaxed) == self.generation { Ok(()) } else { Err(AnotherProcess) }
    }
}

/// A word that is 0 now, and in each child that this process forks. It stays for as long as the process lives.
fn wiped_on_fork() -> nix::Result<&'static AtomicU64> {
    let len = NonZeroUsize::MIN; // the kernel rounds up to a page
    // SAFETY: a new mapping, which replaces none.
    let page =
        unsafe { mmap_anonymous(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE) }?;
    // SAFETY: the mapping is ours, and zeroes are what a child is to find in it.
    unsafe { madvise(page, len.get(), MmapAdvise::MADV_WIPEONFORK) }?;
    // SAFETY: page-aligned, zeroed, never unmapped, and used as this word alone.
    Ok(unsafe { page.cast::<AtomicU64>().as_ref() })
}
