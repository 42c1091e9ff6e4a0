//! Where measurements take place: CPUs, a partner process, memory that is shared with it.

use super::{BenchError, os};
use crate::{
    process::spawn::{Child, spawn_inheriting},
    sync::spin_loop,
};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::{
        mman::{MapFlags, ProtFlags, mmap_anonymous},
        signal::Signal,
    },
    unistd::Pid,
};
use std::{fs, num::NonZeroUsize, ptr::NonNull};

/// Looks between two looks whether the partner still lives.
const SPINS_PER_CHECK: u32 = 1 << 20;
const THIS_THREAD: Pid = Pid::from_raw(0);

/// The CPUs of the two sides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpus {
    pub(crate) here: usize,
    pub(crate) there: usize,
    /// They are two threads of one core, as there is no other.
    pub(crate) is_one_core: bool,
}

impl Cpus {
    /// The first that this process may use, and the first beside it on another core.
    ///
    /// # Errors
    /// [`BenchError::Cpus`]: there is only one.
    pub(crate) fn choose() -> Result<Cpus, BenchError> {
        let allowed = sched_getaffinity(THIS_THREAD).map_err(os("read the CPU affinity"))?;
        let cpus: Vec<usize> = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)).collect();
        // Counts the cgroup's quota too.
        let usable = std::thread::available_parallelism().map_or(1, usize::from);
        let [here, ref others @ ..] = cpus[..] else { return Err(BenchError::Cpus(0)) };
        let (false, Some(&next)) = (usable < 2, others.first()) else { return Err(BenchError::Cpus(1)) };
        let siblings = fs::read_to_string(format!("/sys/devices/system/cpu/cpu{here}/topology/thread_siblings_list"));
        let siblings = siblings.unwrap_or_default();
        let another = others.iter().copied().find(|&cpu| !is_listed(&siblings, cpu));
        Ok(Cpus { here, there: another.unwrap_or(next), is_one_core: another.is_none() })
    }
}

/// Is it in a list such as `0-3,8`? Source: `cpuset(7)`, List format.
fn is_listed(list: &str, cpu: usize) -> bool {
    list.trim().split(',').any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        matches!((first.parse::<usize>(), last.parse::<usize>()), (Ok(first), Ok(last)) if (first..=last).contains(&cpu))
    })
}

/// Keeps the calling thread on one CPU.
pub(super) fn pin(cpu: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(THIS_THREAD, &set)
}

/// Keeps the calling thread on one CPU until this is dropped.
pub(super) struct Pinned(CpuSet);

impl Pinned {
    pub(super) fn to(cpu: usize) -> Result<Pinned, BenchError> {
        let before = sched_getaffinity(THIS_THREAD).map_err(os("read the CPU affinity"))?;
        pin(cpu).map_err(os("choose a CPU"))?;
        Ok(Pinned(before))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // It was so a moment ago. If those CPUs are gone since, the kernel has chosen others.
        let _ = sched_setaffinity(THIS_THREAD, &self.0);
    }
}

/// A process on a CPU of its own, which does one thing for as long as this lives.
pub(super) struct Partner(Child);

impl Partner {
    /// The caller has one thread.
    pub(super) fn fork(cpu: usize, life: impl FnOnce()) -> Result<Partner, BenchError> {
        let main = || {
            if pin(cpu).is_ok() {
                life();
            }
            1
        };
        Ok(Partner(spawn_inheriting(&[], main).map_err(os("fork a process"))?))
    }

    /// # Errors
    /// [`BenchError::Ended`].
    pub(super) fn check(&self) -> Result<(), BenchError> {
        self.0.try_reap().map_or(Ok(()), |exit| Err(BenchError::Ended(exit)))
    }

    /// Looks until it is true.
    ///
    /// # Errors
    /// [`BenchError::Ended`]: it never will be.
    pub(super) fn until(&self, look: impl Fn() -> bool) -> Result<(), BenchError> {
        loop {
            for _ in 0..SPINS_PER_CHECK {
                if look() {
                    return Ok(());
                }
                spin_loop();
            }
            self.check()?;
        }
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.signal(Signal::SIGKILL);
        self.0.reap();
    }
}

/// Zeroed memory for `n` values on pages of their own, shared with each child that is forked from now on, and never unmapped.
pub(super) fn shared<T>(n: usize) -> Result<NonNull<T>, BenchError> {
    let len = NonZeroUsize::new(n * size_of::<T>()).unwrap_or(NonZeroUsize::MIN);
    // SAFETY: a new mapping, which replaces none.
    let memory =
        unsafe { mmap_anonymous(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED) };
    Ok(memory.map_err(os("map shared memory"))?.cast())
}

#[cfg(test)]
mod tests {
    use super::is_listed;

    #[test]
    fn a_list_of_cpus_has_ranges() {
        let listed: Vec<usize> = (0..16).filter(|&cpu| is_listed("0-2,8,10-11\n", cpu)).collect();
        assert_eq!(listed, [0, 1, 2, 8, 10, 11]);
        assert!(!is_listed("", 0));
    }
}
