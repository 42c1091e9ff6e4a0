//! Torture: processes are killed at random moments ([`random`]), after each single instruction ([`step`]), in the middle of
//! sleep and wake ([`wakes`]), and while they are attached from outside ([`attach`]), and what was promised in `docs/crash.md` is
//! checked each time.
//!
//! It drives the library's own segment, endpoints and recovery, and adds nothing to them: what is killed here is the code
//! that runs in a pool. It knows three faults. *Lost*: a task that a living client submitted never comes back. *Doubled*: a
//! result comes twice, to the wrong client, or with the wrong content. *Leaked*: the audit finds something in use, or an
//! invariant violated, when nothing is left to do.

pub(crate) mod attach;
mod crew;
pub(crate) mod experiments;
pub(crate) mod fencing;
mod ledger;
pub(crate) mod random;
#[cfg(target_arch = "x86_64")]
pub(crate) mod step;
pub(crate) mod wakes;

use crate::{error::Corrupted, mem::segment::SegmentCreateError, process::names::NameError};
use nix::{
    errno::Errno,
    sys::{
        mman::{MapFlags, ProtFlags, mmap_anonymous},
        prctl::set_pdeathsig,
        signal::Signal,
    },
    unistd::{ForkResult, Pid, fork, getpid, getppid},
};
use std::{
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

/// Why torture could not be carried out; what it finds is no such error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TortureError {
    #[error(transparent)]
    Segment(#[from] SegmentCreateError),
    #[error(transparent)]
    Corrupted(#[from] Corrupted),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("{0}")]
    Pool(String),
    #[error("cannot {step}: {source}")]
    Os { step: &'static str, source: Errno },
    #[error("the path '{path}' takes another way each time ({moment}): it can't be killed at each of its instructions")]
    #[cfg(target_arch = "x86_64")]
    Astray { path: &'static str, moment: String },
    #[error("the path '{path}' can't be run: {why}")]
    #[cfg(target_arch = "x86_64")]
    Path { path: &'static str, why: String },
    #[error("cannot submit the task for which a sleeper is woken: {0}")]
    #[cfg(target_arch = "x86_64")]
    Wake(String),
}

/// When nothing has gone on for so long, something is lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// Zeroed memory that is shared with all children forked from now on, and no part of the segment under test.
///
/// # Safety
/// - All zeroes are a value of `T`, which has no field that isn't atomic.
unsafe fn shared<T>() -> Result<&'static T, TortureError> {
    let len = NonZeroUsize::new(size_of::<T>()).unwrap_or(NonZeroUsize::MIN);
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice touches no other.
    let map = unsafe { mmap_anonymous(None, len, access, MapFlags::MAP_SHARED) }.map_err(os("map shared memory"))?;
    // SAFETY: page-aligned, zeroed (a value, as the caller promises), as long as a `T`, and never unmapped.
    Ok(unsafe { map.cast().as_ref() })
}

/// For `map_err`.
fn os(step: &'static str) -> impl Fn(Errno) -> TortureError {
    move |source| TortureError::Os { step, source }
}

/// Forks a child that runs `main`, exits with what it returns, and does not outlive this process.
fn forked(main: impl FnOnce() -> u8) -> Result<Pid, TortureError> {
    let parent = getpid();
    // SAFETY: this process has one thread, so the child may go on as an ordinary process.
    match unsafe { fork() }.map_err(os("fork a process"))? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            // The parent may have died before it could take the child with it.
            let code = match set_pdeathsig(Signal::SIGKILL) {
                Ok(()) if getppid() == parent => catch_unwind(AssertUnwindSafe(main)).unwrap_or(101),
                _ => 101,
            };
            // SAFETY: `_exit` ends the process at once: no destructor of the parent's copies runs, no atexit handler.
            unsafe { libc::_exit(code.into()) }
        }
    }
}

/// Steele, Lea and Flood's SplitMix64: a seed fixes the whole sequence, and any number is a good seed.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`.
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Bytes that follow from `seed`.
fn fill(bytes: &mut [u8], seed: u64) {
    let mut rng = Rng::new(seed);
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&rng.next().to_le_bytes()[..chunk.len()]);
    }
}

/// Does `bytes` hold what [`fill`] writes?
fn is_filled(bytes: &[u8], seed: u64) -> bool {
    let mut rng = Rng::new(seed);
    bytes.chunks(8).all(|chunk| *chunk == rng.next().to_le_bytes()[..chunk.len()])
}

/// A checksum that depends on every byte, its place, and the length.
fn digest(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(bytes.len() as u64, |sum, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        Rng::new(sum ^ u64::from_le_bytes(word)).next()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_depends_on_every_byte_and_on_the_length() {
        let mut bytes = [0; 20];
        fill(&mut bytes, 7);
        assert!(is_filled(&bytes, 7) && !is_filled(&bytes, 8));
        let whole = digest(&bytes);
        for i in 0..bytes.len() {
            bytes[i] ^= 1;
            assert_ne!(digest(&bytes), whole, "byte {i}");
            bytes[i] ^= 1;
        }
        assert_ne!(digest(&[0; 8]), digest(&[0; 9]));
    }
}
