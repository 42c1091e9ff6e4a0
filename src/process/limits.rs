//! What one worker process may use, and when it makes room for a fresh one.
//!
//! Two kinds. The kernel keeps the first, and ends or starves who passes them: address space, CPU time, niceness, cores. They are
//! set in the child, after the fork and before its main. The second a worker keeps itself, after each task: the number of
//! tasks, memory, and half of the CPU time. Past one it leaves ([`Stay`]), and another takes its place.
//!
//! Sources: `setrlimit(2)`, `setpriority(2)`, `sched_setaffinity(2)`, `proc_pid_statm(5)`, `clock_gettime(2)`.

use crate::sync::monotonic;
use nix::{
    errno::Errno,
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::resource::{Resource, getrlimit, rlim_t, setrlimit},
    time::{ClockId, clock_gettime},
    unistd::{Pid, SysconfVar, sysconf},
};
use std::{
    fmt,
    fs::File,
    os::unix::fs::FileExt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// How often, at most, a worker looks how much memory and CPU time it uses: a look costs a microsecond or two, which is more
/// than a small task.
const LOOK: Duration = Duration::from_millis(10);

/// What each worker process of a pool may use, and after how much it is replaced by a fresh one. By default nothing is limited.
/// `Builder::worker_limits` takes them.
///
/// ```
/// use shmworker::WorkerLimits;
///
/// let limits = WorkerLimits::new()
///     .max_tasks(10_000, 1_000) // a fresh process after 10,000 to 11,000 tasks
///     .max_memory(512 << 20) // or as soon as one has kept 512 MiB after a task
///     .address_space(4 << 30) // a task that wants more gets no memory
///     .cpu_seconds(3600) // a process that has used so much is killed
///     .nice(5)
///     .pin();
/// # let _ = limits;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "pool", derive(serde::Serialize, serde::Deserialize))]
pub struct WorkerLimits {
    max_tasks: Option<u64>,
    jitter: u64,
    max_memory: Option<u64>,
    address_space: Option<u64>,
    cpu_seconds: Option<u64>,
    nice: i32,
    pin: bool,
}

impl WorkerLimits {
    /// No limits.
    pub fn new() -> WorkerLimits {
        WorkerLimits::default()
    }

    /// Is there one past which a worker leaves by itself?
    pub(crate) fn are_watched(&self) -> bool {
        self.max_tasks.is_some() || self.max_memory.is_some() || self.cpu_seconds.is_some()
    }

    /// A worker leaves after `n` to `n + jitter` tasks, and is replaced. Where between, its process id decides, so that not all
    /// leave at once. Tasks that a task runs while it waits for them don't count.
    ///
    /// # Panics
    /// For 0 tasks.
    pub fn max_tasks(mut self, n: u64, jitter: u64) -> WorkerLimits {
        assert!(n > 0, "a worker runs a task before it leaves");
        (self.max_tasks, self.jitter) = (Some(n), jitter);
        self
    }

    /// A worker that holds more bytes of memory of its own after a task leaves, and is replaced. Its own is what is resident and
    /// not shared: neither the pool's shared memory nor the program's files count. It is looked at after a task, a hundred
    /// times a second at most. What a task takes while it runs, [`address_space`](Self::address_space) bounds.
    pub fn max_memory(mut self, bytes: u64) -> WorkerLimits {
        self.max_memory = Some(bytes);
        self
    }

    /// How many bytes of address space a worker may have beyond what it starts with (RLIMIT_AS): past that it gets no memory, of
    /// which a Rust program dies (SIGABRT). In a pool with a [file](crate::pool::Builder::file) 64 MiB of it, or twice that, are the
    /// allocator's, for the thread that watches the coordinator.
    pub fn address_space(mut self, bytes: u64) -> WorkerLimits {
        self.address_space = Some(bytes);
        self
    }

    /// How many seconds of CPU time one worker process may use, however long it lives (RLIMIT_CPU); past that it is killed
    /// (SIGXCPU). One that has used half of them leaves after its task, and is replaced: so what is killed is a task that has
    /// used the other half by itself.
    ///
    /// # Panics
    /// For less than 2 seconds: the kernel counts whole ones.
    pub fn cpu_seconds(mut self, seconds: u64) -> WorkerLimits {
        assert!(seconds >= 2, "CPU time is limited in whole seconds, of which a worker needs two");
        self.cpu_seconds = Some(seconds);
        self
    }

    /// Added to the niceness that workers inherit. Less than 0 needs CAP_SYS_NICE.
    pub fn nice(mut self, by: i32) -> WorkerLimits {
        self.nice = by;
        self
    }

    /// Binds each worker to one core: the first to the first that this process may use, and so on, round and round.
    pub fn pin(mut self) -> WorkerLimits {
        self.pin = true;
        self
    }

    /// Sets, in the worker's process, what the kernel keeps. `index`: which worker of the pool it is.
    ///
    /// # Errors
    /// [`NoLimit`]; then the process must not become a worker.
    pub(crate) fn apply(&self, index: usize) -> Result<(), NoLimit> {
        let unfit = |limit, remedy| move |source| NoLimit { limit, remedy, source };
        if self.nice != 0 {
            let why = unfit(format!("nice({})", self.nice), "give 0 or more, or run with CAP_SYS_NICE");
            renice(self.nice).map_err(why)?;
        }
        if self.pin {
            pin(index).map_err(unfit("pin()".into(), "leave it out, or allow this process a core"))?;
        }
        if let Some(seconds) = self.cpu_seconds {
            // Who ignores SIGXCPU is killed at the hard limit.
            limit(Resource::RLIMIT_CPU, seconds, 1)
                .map_err(unfit(format!("cpu_seconds({seconds})"), "leave it out"))?;
        }
        // Last: what is done here may need memory too.
        if let Some(bytes) = self.address_space {
            let why = || unfit(format!("address_space({bytes})"), "leave it out");
            let [size, ..] = Statm::open().and_then(|s| s.read()).map_err(why())?;
            limit(Resource::RLIMIT_AS, size.saturating_add(bytes), 0).map_err(why())?;
        }
        Ok(())
    }
}

/// A limit could not be set in a worker's process, nor will it be in the next.
#[derive(Debug)]
pub(crate) struct NoLimit {
    limit: String,
    remedy: &'static str,
    source: Errno,
}

impl fmt::Display for NoLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a worker can't be limited by {}: {}; {}", self.limit, self.source.desc(), self.remedy)
    }
}

fn renice(by: i32) -> nix::Result<()> {
    // -1 is a niceness too, so the error tells.
    Errno::clear();
    // SAFETY: plain numbers in, a number out.
    let now = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    if now == -1 && Errno::last_raw() != 0 {
        return Err(Errno::last());
    }
    // SAFETY: as above.
    Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, now.saturating_add(by)) }).map(drop)
}

fn pin(index: usize) -> nix::Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this)?;
    let cores: Vec<usize> = (0..CpuSet::count()).filter(|&core| allowed.is_set(core) == Ok(true)).collect();
    let mut one = CpuSet::new();
    one.set(*cores.get(index % cores.len().max(1)).ok_or(Errno::EINVAL)?)?;
    sched_setaffinity(this, &one)
}

/// Sets the soft limit, and the hard one so much above it. What is stricter already stays so.
fn limit(resource: Resource, wanted: rlim_t, above: rlim_t) -> nix::Result<()> {
    let (soft, hard) = getrlimit(resource)?;
    setrlimit(resource, wanted.min(soft), wanted.saturating_add(above).min(hard))
}

/// `/proc/self/statm`, held open: for a process that doesn't fork any more.
#[derive(Debug)]
struct Statm(File);

impl Statm {
    fn open() -> nix::Result<Statm> {
        File::open("/proc/self/statm").map(Statm).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(0)))
    }

    /// Bytes of address space, resident, and resident but shared.
    fn read(&self) -> nix::Result<[u64; 3]> {
        let mut text = [0; 128];
        let len = self.0.read_at(&mut text, 0).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(0)))?;
        let page = sysconf(SysconfVar::PAGE_SIZE)?.ok_or(Errno::ENOSYS)? as u64;
        let mut pages = text[..len].split(u8::is_ascii_whitespace).filter_map(|n| str::from_utf8(n).ok()?.parse().ok());
        let mut next = || pages.next().map(|n: u64| n * page).ok_or(Errno::EINVAL);
        Ok([next()?, next()?, next()?])
    }
}

/// Why a worker leaves: the words of `Participant::leave`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Leave {
    /// The coordinator has asked it to.
    Asked = 1,
    /// It has run as many tasks as it may.
    Tasks = 2,
    /// It holds more memory than it may.
    Memory = 3,
    /// It has used half of its CPU time.
    Cpu = 4,
    /// Its coordinator is dead: it waits for another, and leaves if none comes.
    Orphaned = 5,
    /// No other has come in time.
    Alone = 6,
    /// The one that has come does not go on with it.
    Stranger = 7,
}

impl Leave {
    /// `None`: it does not leave. A damaged word counts as the coordinator's.
    pub(crate) fn of(bits: u32) -> Option<Leave> {
        match bits {
            0 => None,
            2 => Some(Leave::Tasks),
            3 => Some(Leave::Memory),
            4 => Some(Leave::Cpu),
            5 => Some(Leave::Orphaned),
            6 => Some(Leave::Alone),
            7 => Some(Leave::Stranger),
            _ => Some(Leave::Asked),
        }
    }
}

impl fmt::Display for Leave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Leave::Asked => "it was asked to leave",
            Leave::Tasks => "it has run as many tasks as one worker may",
            Leave::Memory => "it held more memory than one worker may",
            Leave::Cpu => "it has used half of the CPU time that one worker may",
            Leave::Orphaned => "its coordinator is dead",
            Leave::Alone => "its coordinator is dead, and no other came in time",
            Leave::Stranger => "its coordinator is dead, and the next one does not go on with it",
        })
    }
}

/// How long a worker may stay, as it counts itself. Its threads share this. By default for ever.
#[derive(Debug)]
pub(crate) struct Stay {
    /// Bytes of memory, looked at here.
    memory: Option<(Statm, u64)>,
    cpu: Option<Duration>,
    /// Tasks that it may run in all; [`u64::MAX`]: any number.
    quota: u64,
    tasks: AtomicU64,
    /// When memory and CPU time may be looked at next.
    look_at: AtomicU64,
}

impl Default for Stay {
    fn default() -> Stay {
        Stay { memory: None, cpu: None, quota: u64::MAX, tasks: AtomicU64::new(0), look_at: AtomicU64::new(0) }
    }
}

impl Stay {
    /// In the worker's process, which forks no more.
    ///
    /// # Errors
    /// [`NoLimit`]: its memory can't be looked at.
    pub(crate) fn new(limits: &WorkerLimits) -> Result<Stay, NoLimit> {
        let quota = match limits.max_tasks {
            // Fibonacci hashing: neighbouring process ids come to lie far apart.
            Some(n) => {
                let hash = u64::from(std::process::id()).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
                n.saturating_add(hash % limits.jitter.saturating_add(1))
            }
            None => u64::MAX,
        };
        let memory = limits.max_memory.map(|bytes| {
            let (limit, remedy) = (format!("max_memory({bytes})"), "mount /proc, or leave it out");
            Ok((Statm::open().map_err(|source| NoLimit { limit, remedy, source })?, bytes))
        });
        let cpu = limits.cpu_seconds.map(|seconds| Duration::from_secs(seconds) / 2);
        Ok(Stay { memory: memory.transpose()?, cpu, quota, ..Stay::default() })
    }

    /// Another task is done. A reason: it is time to leave.
    pub(crate) fn after_task(&self) -> Option<Leave> {
        if self.quota == u64::MAX && self.memory.is_none() && self.cpu.is_none() {
            return None;
        }
        // Relaxed here and below: figures of this process, from which nothing else follows.
        if self.tasks.fetch_add(1, Relaxed) + 1 >= self.quota {
            return Some(Leave::Tasks);
        }
        if self.memory.is_none() && self.cpu.is_none() {
            return None;
        }
        let now = monotonic();
        if now < self.look_at.load(Relaxed) {
            return None;
        }
        self.look_at.store(now + LOOK.as_nanos() as u64, Relaxed);
        self.look()
    }

    fn look(&self) -> Option<Leave> {
        if let Some((statm, most)) = &self.memory
            && let Ok([_, resident, shared]) = statm.read()
            && resident.saturating_sub(shared) > *most
        {
            return Some(Leave::Memory);
        }
        let used = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).ok()?;
        (Duration::from(used) >= self.cpu?).then_some(Leave::Cpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_stays_for_as_many_tasks_as_it_may_and_a_jitter() {
        let stay = Stay::new(&WorkerLimits::new().max_tasks(3, 0)).unwrap();
        assert_eq!([(); 3].map(|()| stay.after_task()), [None, None, Some(Leave::Tasks)]);
        let stay = Stay::new(&WorkerLimits::new().max_tasks(100, 9)).unwrap();
        let tasks = (1..).find(|_| stay.after_task().is_some()).unwrap();
        assert!((100..=109).contains(&tasks), "{tasks}");
        let stay = Stay::new(&WorkerLimits::new()).unwrap();
        assert!((0..1000).all(|_| stay.after_task().is_none()));
    }

    #[test]
    fn memory_is_counted_after_a_task_and_only_ones_own() {
        let own = |[_, resident, shared]: [u64; 3]| resident - shared;
        let before = own(Statm::open().unwrap().read().unwrap());
        // More than the tests beside this one take meanwhile, or give back.
        let stay = Stay::new(&WorkerLimits::new().max_memory(before + (256 << 20))).unwrap();
        assert_eq!(stay.look(), None);
        let held = std::hint::black_box(vec![1u8; 512 << 20]);
        assert_eq!(stay.look(), Some(Leave::Memory));
        drop(held);
    }
}
