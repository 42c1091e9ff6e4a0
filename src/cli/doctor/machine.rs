//! The kernel, the limits of this process, shared memory and CPUs.
//!
//! Sources: `getrlimit(2)`, `core(5)`, `shm_overview(7)`, `futex(2)`, `memfd_create(2)`, `pidfd_open(2)`, `close_range(2)`,
//! `fallocate(2)`, the kernel's `Yama.rst` and `transhuge.rst`.

use super::{Finding, bytes};
use crate::{
    mem::{
        backing::{self, Left},
        layout::Geometry,
        segment::Segment,
    },
    process::{
        names,
        spawn::{pidfd_open, pidfd_send_signal},
    },
    sync::ticks,
};
use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl},
    sched::{CpuSet, sched_getaffinity},
    sys::{
        memfd::{MFdFlags, memfd_create},
        prctl,
        resource::{RLIM_INFINITY, Resource, getrlimit},
        statfs::{TMPFS_MAGIC, statfs},
        statvfs::{FsFlags, statvfs},
        utsname::uname,
    },
    unistd::{AccessFlags, Pid, access, ftruncate, geteuid, getpid},
};
use procfs::{Current, Meminfo, process::all_processes};
use std::{fs::read_to_string, os::fd::AsFd, path::Path};

/// The first with long-term support that has all that is used: `close_range(2)`, of 5.9, came last.
const LEAST_KERNEL: (u32, u32) = (5, 10);
/// A pool of 16 workers asks for 3 for each of its processes; the rest is for the bridge and what handlers open.
const FEW_FILES: u64 = 256;
/// A pool with the usual workers has five processes, and the bridge a thread per CPU.
const FEW_PROCESSES: u64 = 32;
const LITTLE_SHM: u64 = 128 << 20;

pub(super) fn look() -> Vec<Finding> {
    let mut findings = vec![kernel()];
    findings.extend(system_calls());
    findings.extend([seccomp(), ptrace()]);
    findings.extend([files(), processes(), file_size(), locked_memory(), core_dumps()]);
    findings.extend([available(), segment(), huge_pages(), shm(), left_overs(), pools()]);
    findings.extend([cpus(), clock()]);
    findings
}

fn kernel() -> Finding {
    let (topic, name) = ("kernel", "release");
    let Ok(uname) = uname() else {
        return Finding::warning(topic, name, "unknown", "Linux 5.10 or later is needed");
    };
    let (release, machine) = (uname.release().to_string_lossy(), uname.machine().to_string_lossy());
    let found = format!("Linux {release}, {machine}");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < LEAST_KERNEL {
        return Finding::problem(topic, name, found, "Linux 5.10 or later is needed: upgrade the kernel");
    }
    Finding::ok(topic, name, found)
}

/// Each is tried, on nothing that anybody else has.
fn system_calls() -> Vec<Finding> {
    let me = || pidfd_open(getpid());
    let memory = || -> nix::Result<()> {
        let file = memfd_create(c"shmworker-doctor", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        ftruncate(&file, 4096)?;
        fallocate(&file, FallocateFlags::empty(), 0, 4096)?;
        let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&file, punch, 0, 4096)?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW)).map(drop)
    };
    let futex = || -> nix::Result<()> {
        let word = 0_u32;
        // SAFETY: FUTEX_WAKE only uses the address of the word, which is live.
        Errno::result(unsafe { libc::syscall(libc::SYS_futex, &raw const word, libc::FUTEX_WAKE, 1) }).map(drop)
    };
    let close_range = || -> nix::Result<()> {
        // SAFETY: no descriptor has so high a number, so none is closed.
        Errno::result(unsafe { libc::close_range(libc::c_uint::MAX, libc::c_uint::MAX, 0) }).map(drop)
    };
    let tries: [(&'static str, &str, nix::Result<()>); 5] = [
        ("memfd", "memfd_create, fallocate, seals", memory()),
        ("futex", "FUTEX_WAKE across processes", futex()),
        ("pidfd", "pidfd_open, pidfd_send_signal", me().and_then(|fd| pidfd_send_signal(fd.as_fd(), None, 0))),
        ("close_range", "close_range", close_range()),
        ("prctl", "child subreaper, death signal", prctl::get_child_subreaper().and(prctl::get_pdeathsig()).map(drop)),
    ];
    tries
        .into_iter()
        .map(|(name, what, outcome)| match outcome {
            Ok(()) => Finding::ok("kernel", name, what),
            Err(e) => Finding::problem(
                "kernel",
                name,
                format_args!("{what}: {e}"),
                "the kernel is too old, or a seccomp filter refuses it: allow these calls in the container's profile",
            ),
        })
        .collect()
}

fn status(field: &str) -> Option<String> {
    let status = read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| Some(line.strip_prefix(field)?.strip_prefix(':')?.trim().to_owned()))
}

/// What a filter refuses shows above.
fn seccomp() -> Finding {
    let found = match status("Seccomp").as_deref() {
        Some("2") => "a filter is in force; what is needed passes it if the lines above are ok",
        Some("0") => "no filter",
        _ => "unknown",
    };
    Finding::ok("kernel", "seccomp", found)
}

/// Only `shmworker torture --single-step` traces, and only its own children.
fn ptrace() -> Finding {
    let (topic, name) = ("kernel", "ptrace");
    match read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok().as_deref().map(str::trim) {
        Some(scope @ ("2" | "3")) => Finding::warning(
            topic,
            name,
            format_args!("ptrace_scope is {scope}"),
            "'torture --single-step' and debuggers are refused, workers are not: set kernel.yama.ptrace_scope to 1 for these",
        ),
        Some(scope) => Finding::ok(topic, name, format_args!("ptrace_scope is {scope}")),
        None => Finding::ok(topic, name, "not restricted"),
    }
}

/// The whole of what a pool has, as it is made at each start.
fn segment() -> Finding {
    let (topic, name) = ("memory", "segment");
    match Segment::create(Geometry::new(4, 1)) {
        Ok(_) => Finding::ok(topic, name, "one can be made, on a memfd"),
        Err(e) => Finding::problem(topic, name, e, "no pool can start: see to this limit first"),
    }
}

fn amount(limit: u64) -> String {
    if limit == RLIM_INFINITY { "no limit".to_owned() } else { limit.to_string() }
}

fn files() -> Finding {
    let (topic, name) = ("limits", "open files");
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return unknown(topic, name) };
    let found = format!("{}, up to {} (RLIMIT_NOFILE)", amount(soft), amount(hard));
    // A pool raises the soft limit as far as it needs.
    if hard < FEW_FILES {
        let remedy = format!("a pool needs {FEW_FILES} or more: 'ulimit -Hn 4096', or LimitNOFILE= of systemd");
        return Finding::problem(topic, name, found, remedy);
    }
    Finding::ok(topic, name, found)
}

fn processes() -> Finding {
    let (topic, name) = ("limits", "processes");
    let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NPROC) else { return unknown(topic, name) };
    let uid = geteuid();
    if soft == RLIM_INFINITY || uid.is_root() {
        let found = if soft == RLIM_INFINITY { "no limit" } else { "does not count for root" };
        return Finding::ok(topic, name, format_args!("{found} (RLIMIT_NPROC)"));
    }
    // Threads count; others' that are gone meanwhile don't.
    let mine = all_processes().map_or(0, |all| {
        let threads = all.flatten().filter(|p| p.uid().is_ok_and(|owner| owner == uid.as_raw())).map(|p| p.stat());
        threads.flatten().map(|stat| stat.num_threads.unsigned_abs()).sum::<u64>()
    });
    let found = format!("{soft}, of which {mine} are used (RLIMIT_NPROC)");
    if soft.saturating_sub(mine) < FEW_PROCESSES {
        let remedy = format!(
            "a pool needs {FEW_PROCESSES} and one for each worker: raise 'ulimit -u', or LimitNPROC= of systemd"
        );
        return Finding::problem(topic, name, found, remedy);
    }
    Finding::ok(topic, name, found)
}

/// `segment` fails where it is too small.
fn file_size() -> Finding {
    let Ok((soft, _)) = getrlimit(Resource::RLIMIT_FSIZE) else { return unknown("limits", "file size") };
    let found = if soft == RLIM_INFINITY { "no limit".to_owned() } else { bytes(soft) };
    Finding::ok("limits", "file size", format_args!("{found} (RLIMIT_FSIZE)"))
}

fn locked_memory() -> Finding {
    let Ok((soft, _)) = getrlimit(Resource::RLIMIT_MEMLOCK) else { return unknown("limits", "locked memory") };
    let found = if soft == RLIM_INFINITY { "no limit".to_owned() } else { bytes(soft) };
    Finding::ok("limits", "locked memory", format_args!("{found} (RLIMIT_MEMLOCK); none is locked"))
}

fn core_dumps() -> Finding {
    let (topic, name) = ("limits", "core dumps");
    let Ok((soft, _)) = getrlimit(Resource::RLIMIT_CORE) else { return unknown(topic, name) };
    let pattern = read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let pattern = pattern.trim();
    let to = match pattern.strip_prefix('|') {
        Some(handler) => format!("go to {}", handler.split(' ').next().unwrap_or_default()),
        None if soft == 0 => "are not written; 'ulimit -c unlimited' keeps what a crash leaves".to_owned(),
        None => format!(
            "are written as '{pattern}', up to {}",
            if soft == RLIM_INFINITY { "any size".into() } else { bytes(soft) }
        ),
    };
    Finding::ok(topic, name, to)
}

fn unknown(topic: &'static str, name: &'static str) -> Finding {
    Finding::ok(topic, name, "unknown")
}

/// A memfd has no limit of its own; what `--backing named` makes lies here.
fn shm() -> Finding {
    let (topic, name) = ("memory", "/dev/shm");
    let path = Path::new(backing::SHM);
    let remedy = "only '--backing named' needs it: mount a tmpfs there, with mode 1777";
    let (fs, flags) = match (statfs(path), statvfs(path)) {
        (Ok(fs), Ok(vfs)) => (fs, vfs.flags()),
        (Err(e), _) | (_, Err(e)) => return Finding::warning(topic, name, e, remedy),
    };
    if fs.filesystem_type() != TMPFS_MAGIC {
        return Finding::warning(topic, name, "no tmpfs: what lies there is written to a disk", remedy);
    }
    let (all, free) = (fs.blocks() * fs.block_size() as u64, fs.blocks_available() * fs.block_size() as u64);
    let mut options = Vec::new();
    for (flag, option) in [
        (FsFlags::ST_RDONLY, "ro"),
        (FsFlags::ST_NOEXEC, "noexec"),
        (FsFlags::ST_NOSUID, "nosuid"),
        (FsFlags::ST_NODEV, "nodev"),
    ] {
        if flags.contains(flag) {
            options.push(option);
        }
    }
    let options = if options.is_empty() { String::new() } else { format!(" ({})", options.join(",")) };
    let found = format!("{}, of which {} are free{options}", bytes(all), bytes(free));
    if flags.contains(FsFlags::ST_RDONLY) || access(path, AccessFlags::W_OK | AccessFlags::X_OK).is_err() {
        let remedy = "only '--backing named' writes there: mount it writable, with mode 1777";
        return Finding::warning(topic, name, format_args!("{found}, and can't be written to"), remedy);
    }
    if all > 0 && free < LITTLE_SHM {
        let remedy =
            "only '--backing named' needs it: 'docker run --shm-size=1g', or mount -o remount,size=1g /dev/shm";
        return Finding::warning(topic, name, found, remedy);
    }
    Finding::ok(topic, name, found)
}

fn left_overs() -> Finding {
    let (topic, name) = ("memory", "left over");
    // One that can't be looked at is in use, or somebody else's.
    let dead = |path: &Path| matches!(backing::clean(path, true), Ok(Left::Over(_)));
    let shm = backing::named().map_or(0, |named| named.iter().filter(|(_, path)| dead(path)).count());
    let sockets = names::clean(&[], true).map_or(0, |paths| paths.len());
    match (shm, sockets) {
        (0, 0) => Finding::ok(topic, name, "nothing of dead pools"),
        // Nothing is in them to be looked at.
        (0, n) => Finding::warning(
            topic,
            name,
            format_args!("{n} socket(s) of dead pools"),
            "remove them with 'shmworker clean'",
        ),
        (shm, sockets) => Finding::warning(
            topic,
            name,
            format_args!("{shm} file(s) and {sockets} socket(s) of dead pools"),
            "'shmworker clean --dry-run' names them; look at a file with 'shmworker inspect POOL', remove all with 'shmworker clean'",
        ),
    }
}

/// Where pools are found by name.
fn pools() -> Finding {
    let (topic, name) = ("memory", "pools");
    match names::running() {
        Ok(pools) => Finding::ok(topic, name, format_args!("{} of yours run(s)", pools.len())),
        Err(e) => Finding::problem(topic, name, e, "a pool that starts listens there: give the directory to this user"),
    }
}

fn huge_pages() -> Finding {
    let text = read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled").unwrap_or_default();
    let chosen = text.split(['[', ']']).nth(1).unwrap_or("never").to_owned();
    let effect = match &*chosen {
        "never" | "deny" => ": '--huge-pages' does nothing",
        _ => "",
    };
    Finding::ok("memory", "huge pages", format_args!("{chosen} for shared memory{effect}"))
}

fn cpus() -> Finding {
    let (topic, name) = ("cpus", "usable");
    let allowed = sched_getaffinity(Pid::from_raw(0))
        .map_or(0, |set| (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).count());
    let online = read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let usable = crate::exec::endpoint::cpus();
    let found = format!("{usable}; {allowed} by affinity, online are {}", online.trim());
    if usable < 2 {
        let remedy = "workers and who waits for them take turns, and each task costs two switches: give two CPUs";
        return Finding::warning(topic, name, found, remedy);
    }
    Finding::ok(topic, name, found)
}

fn clock() -> Finding {
    let (topic, name) = ("cpus", "clock");
    if ticks::is_trusted() {
        return Finding::ok(topic, name, "the CPU's counter, which the kernel trusts");
    }
    Finding::ok(topic, name, "the kernel's: the first tasks of each tick alone have times")
}

fn available() -> Finding {
    let (topic, name) = ("memory", "available");
    let Some(available) = Meminfo::current().ok().and_then(|m| m.mem_available) else { return unknown(topic, name) };
    if available < LITTLE_SHM {
        let remedy = "payloads beyond that are refused: end something, or give the machine more";
        return Finding::warning(topic, name, bytes(available), remedy);
    }
    Finding::ok(topic, name, bytes(available))
}
