//! Room: what the limits leave, looked up before pages are taken.
//!
//! A page that can't be had is a signal in the middle of a write: SIGKILL from the OOM killer for the memory of a cgroup or
//! machine, SIGBUS for the space of a file system. So pages are allocated before anybody writes to them, and what is free
//! is compared before they are allocated, with both numbers in the error. Others take memory too, so this is no promise
//! of the kernel's, and an allocation that fails later says the same.
//!
//! - The size of a file, a memfd's too, is bound by RLIMIT_FSIZE where it *grows* (SIGXFSZ, which kills), not where pages
//!   inside it are allocated: [`check_size`], once.
//! - tmpfs pages, a memfd's among them, are memory: the cgroup's, up its hierarchy, and the machine's. Clean file cache
//!   that the kernel would drop first counts as free. Swap doesn't.
//! - A file system, tmpfs or other, has a size of its own. A memfd's has none.
//!
//! # Invariants
//!
//! Where [`allocate`] succeeds every page of its range is there, until somebody punches it; where it fails it has
//! written nothing, and what pages it got nobody counts on. It knows no words: that a chunk has its pages is said in
//! [`crate::lockfree::blocks`] once it has returned, so a death in it leaves pages at most, which whoever holds a block
//! of the chunk next asks for again. A stop in it holds up nobody: others allocate the same range meanwhile, to the
//! same effect.
//!
//! What checks this page: the tests below; `tests/segment.rs` with small limits and full file systems;
//! `fuzz/fuzz_targets/arena_ops.rs` for what follows from a refusal; `shmworker torture --experiments`
//! (`too-little-memory`).
//!
//! Sources: `fallocate(2)`, `setrlimit(2)`, `statfs(2)`, `proc_meminfo(5)`, the kernel's `cgroup-v2.rst` and
//! `cgroup-v1/memory.rst`.

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
    sys::{
        resource::{Resource, getrlimit},
        statfs::{Statfs, TMPFS_MAGIC, fstatfs},
    },
};
use procfs::{Current, Meminfo, process::Process};
use std::{
    fmt,
    fs::read_to_string,
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

/// What stands in the way of more memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// The memory limit of this process's cgroup, or of one above it.
    Cgroup,
    /// The memory of this machine.
    Machine,
    /// The largest file that this process may make (RLIMIT_FSIZE).
    FileSize,
    /// The file system on which the segment lies.
    FileSystem,
    /// The kernel refuses, with this `errno`.
    Kernel(i32),
}

/// Memory that could not be had: which limit, and the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub struct Shortage {
    /// What stands in the way.
    pub limit: Limit,
    /// Bytes wanted.
    pub wanted: u64,
    /// Bytes that were left.
    pub free: u64,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shortage { limit, wanted, free } = self;
        write!(f, "{wanted} bytes of shared memory are wanted, ")?;
        match limit {
            Limit::Cgroup => {
                write!(f, "the cgroup's memory limit leaves {free}: raise it, or end other processes in it")
            }
            Limit::Machine => write!(f, "this machine has {free} available: end other processes, or add memory"),
            Limit::FileSize => write!(f, "the limit on file sizes is {free}: raise it with 'ulimit -f'"),
            Limit::FileSystem => write!(f, "the file system has {free} free: make room there, or enlarge it"),
            Limit::Kernel(errno) => write!(f, "the kernel refuses: {}", io::Error::from_raw_os_error(*errno)),
        }
    }
}

/// May this process make a file of so many bytes?
///
/// # Errors
/// [`Shortage`]; without this look the process would be killed.
pub(super) fn check_size(bytes: usize) -> Result<(), Shortage> {
    let limit = getrlimit(Resource::RLIMIT_FSIZE).map_or(u64::MAX, |(soft, _)| soft);
    compare(Limit::FileSize, bytes as u64, Some(limit))
}

/// Allocates the pages of a range inside the file's size, those that are not there yet.
///
/// # Errors
/// [`Shortage`], before or after the kernel was asked.
pub(super) fn allocate(file: impl AsFd, offset: usize, bytes: usize) -> Result<(), Shortage> {
    let wanted = bytes as u64;
    check(&file, wanted)?;
    loop {
        match fallocate(&file, FallocateFlags::empty(), offset as libc::off_t, bytes as libc::off_t) {
            Ok(()) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(e) => {
                // Others may have been faster: the numbers as they are now, if they explain it.
                check(&file, wanted)?;
                return Err(Shortage { limit: Limit::Kernel(e as i32), wanted, free: 0 });
            }
        }
    }
}

fn check(file: impl AsFd, wanted: u64) -> Result<(), Shortage> {
    let fs = fstatfs(file).ok();
    compare(Limit::FileSystem, wanted, fs.as_ref().and_then(file_system_free))?;
    // Pages of a file on a disk are cache, which the kernel writes back and drops.
    if fs.is_none_or(|fs| fs.filesystem_type() == TMPFS_MAGIC) {
        compare(Limit::Cgroup, wanted, cgroup_free())?;
        compare(Limit::Machine, wanted, Meminfo::current().ok().and_then(|m| m.mem_available))?;
    }
    Ok(())
}

/// `free` is `None`: no limit that we know of.
fn compare(limit: Limit, wanted: u64, free: Option<u64>) -> Result<(), Shortage> {
    match free {
        Some(free) if free < wanted => Err(Shortage { limit, wanted, free }),
        _ => Ok(()),
    }
}

fn file_system_free(fs: &Statfs) -> Option<u64> {
    // A tmpfs without a limit, as the one of all memfds, says that it has no blocks at all.
    (fs.blocks() > 0).then(|| fs.blocks_available().saturating_mul(fs.block_size() as u64))
}

/// The files in which one version of cgroups keeps its figures.
struct Figures {
    limit: &'static str,
    used: &'static str,
    /// The line of `memory.stat` with the file cache that is dropped first.
    cache: &'static str,
}

/// Version 1 has no word for "none", but the most that it can count: all addresses, in whole pages. What follows from such a limit is not
/// looked up: the kernel adds up `memory.stat` for each who reads it.
const NO_LIMIT: u64 = 1 << 62;

const V1: Figures =
    Figures { limit: "memory.limit_in_bytes", used: "memory.usage_in_bytes", cache: "total_inactive_file" };
const V2: Figures = Figures { limit: "memory.max", used: "memory.current", cache: "inactive_file" };

/// What the cgroups above this process leave it.
fn cgroup_free() -> Option<u64> {
    let me = Process::myself().ok()?;
    let mounts = me.mountinfo().ok()?;
    let free = |group: procfs::ProcessCGroup| {
        let is_v2 = group.hierarchy == 0;
        if !is_v2 && !group.controllers.iter().any(|c| c == "memory") {
            return None;
        }
        let mount = mounts.iter().find(|m| match is_v2 {
            true => m.fs_type == "cgroup2",
            false => m.fs_type == "cgroup" && m.super_options.contains_key("memory"),
        })?;
        // In a container the mount may begin further down than the path does.
        let path = Path::new(&group.pathname);
        let path = path.strip_prefix(&mount.root).or_else(|_| path.strip_prefix("/")).ok()?;
        hierarchy_free(&mount.mount_point, path, if is_v2 { &V2 } else { &V1 })
    };
    me.cgroups().ok()?.into_iter().filter_map(free).min()
}

/// The least that a group, or one above it, leaves.
fn hierarchy_free(mount: &Path, group: &Path, figures: &Figures) -> Option<u64> {
    group.ancestors().filter_map(|g| group_free(mount.join(g), figures)).min()
}

fn group_free(group: PathBuf, figures: &Figures) -> Option<u64> {
    let read = |file| read_to_string(group.join(file)).ok();
    let number = |text: String| text.trim().parse::<u64>().ok(); // "max" is none
    let limit = number(read(figures.limit)?).filter(|limit| *limit < NO_LIMIT)?;
    let used = number(read(figures.used)?)?;
    let stat = read("memory.stat").unwrap_or_default();
    let cache = stat.lines().find_map(|line| line.strip_prefix(figures.cache)?.strip_prefix(' ')?.parse().ok());
    Some(limit.saturating_sub(used.saturating_sub(cache.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_tightest_group_of_a_hierarchy_counts_and_its_cache_is_free() {
        let mount = tempfile::tempdir().unwrap();
        let (outer, inner) = (mount.path().join("outer"), mount.path().join("outer/inner"));
        fs::create_dir_all(&inner).unwrap();
        let write = |group: &Path, max: &str, current: &str, stat: &str| {
            for (file, text) in [("memory.max", max), ("memory.current", current), ("memory.stat", stat)] {
                fs::write(group.join(file), text).unwrap();
            }
        };
        let free = |group| hierarchy_free(mount.path(), Path::new(group), &V2);
        assert_eq!(free("outer/inner"), None, "no figures, no limit");
        write(&outer, "1000\n", "600\n", "anon 9\ninactive_file 100\nactive_file 50\n");
        for none in ["max\n", "9223372036854771712\n"] {
            write(&inner, none, "500\n", "");
            assert_eq!(free("outer/inner"), Some(500));
        }
        write(&inner, "700\n", "650\n", "inactive_file_x 1\n");
        assert_eq!(free("outer/inner"), Some(50));
        write(&inner, "600\n", "650\n", "");
        assert_eq!(free("outer/inner"), Some(0), "over the limit");
        assert_eq!(free("outer"), Some(500));
    }

    #[test]
    fn what_no_machine_has_is_refused_with_the_numbers() {
        let file = tempfile::tempfile().unwrap();
        let e = allocate(&file, 0, 1 << 60).unwrap_err();
        assert!(e.wanted == 1 << 60 && e.free < e.wanted && !matches!(e.limit, Limit::Kernel(_)), "{e}");
        assert_eq!(file.metadata().unwrap().len(), 0, "nothing was allocated");
    }
}
