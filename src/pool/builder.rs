//! What a pool is to be like, before it is started.

use super::launch::Program;
use crate::{WorkerLimits, state::journal::SyncWhen};
use serde::{Deserialize, Serialize};
use std::{ffi::OsString, path::PathBuf, time::Duration};

/// What a pool is to be like; [`fork`](Self::fork), [`forkserver`](Self::forkserver) or [`exec`](Self::exec) makes it.
///
/// ```no_run
/// use shmworker::{Pool, Tasks, WorkerLimits};
/// use std::time::Duration;
///
/// let pool = Pool::builder()
///     .workers(4)
///     .max_workers(16)
///     .slots(8)
///     .queues(["urgent", "default"])
///     .worker_limits(WorkerLimits::new().max_tasks(10_000, 1_000))
///     .grace(Duration::from_secs(30))
///     .start_timeout(Duration::from_secs(5))
///     .fork(Tasks::new())?;
/// # drop(pool);
/// # Ok::<(), shmworker::pool::StartError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Builder {
    pub(super) settings: Settings,
    /// In place of this program.
    pub(super) program: Option<Program>,
}

/// How long workers wait for another coordinator, unless it is said.
const SUCCESSOR_WITHIN: Duration = Duration::from_secs(30);

/// What was asked for, as the coordinator is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) name: Option<String>,
    pub(super) workers: Option<usize>,
    pub(super) max_workers: Option<usize>,
    pub(super) slots: usize,
    pub(super) queues: Vec<String>,
    pub(super) limits: WorkerLimits,
    pub(super) times: bool,
    pub(super) reserve: bool,
    pub(super) huge_pages: bool,
    pub(super) prefault: bool,
    pub(super) grace: Duration,
    pub(super) start_timeout: Duration,
    /// The owner alone opens it.
    #[serde(skip)]
    pub(super) file: Option<PathBuf>,
    #[serde(skip)]
    pub(super) client: Option<String>,
    #[serde(skip)]
    pub(super) sync: SyncWhen,
    /// Who hears what a start that goes on with the file waits for; else the log.
    #[serde(skip)]
    pub(super) hears: Option<fn(&str)>,
    /// Of a pool that is forked: another version of this program goes on with it if it is given these arguments, and replaces the
    /// workers.
    pub(super) successor: Option<Vec<OsString>>,
    pub(super) successor_within: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            name: None,
            workers: None,
            max_workers: None,
            slots: 1,
            queues: vec!["default".to_owned()],
            limits: WorkerLimits::new(),
            times: true,
            reserve: false,
            huge_pages: false,
            prefault: false,
            grace: Duration::from_secs(10),
            start_timeout: Duration::from_secs(30),
            file: None,
            client: None,
            sync: SyncWhen::default(),
            hears: None,
            successor: None,
            successor_within: SUCCESSOR_WITHIN,
        }
    }
}

impl Builder {
    /// How many worker processes. By default as many as this process may use cores, affinity and cgroup quota counted.
    ///
    /// # Panics
    /// For 0.
    pub fn workers(mut self, n: usize) -> Builder {
        assert!(n > 0, "a pool needs a worker");
        self.settings.workers = Some(n);
        self
    }

    /// How many there may be once the pool is [resized](super::Pool::resize): each takes some shared memory from the start, about
    /// 30 KiB. By default twice as many as there are at first, and at least 30.
    pub fn max_workers(mut self, n: usize) -> Builder {
        self.settings.max_workers = Some(n);
        self
    }

    /// What each worker may use, and after how much it is replaced by a fresh one.
    pub fn worker_limits(mut self, limits: WorkerLimits) -> Builder {
        self.settings.limits = limits;
        self
    }

    /// How many tasks each worker runs at a time, on threads; by default one. More are for tasks that wait, for disks or other
    /// machines: they share a process, and the death of one is the death of its neighbours' attempts.
    ///
    /// # Panics
    /// For 0, and for more than 1,024.
    pub fn slots(mut self, n: usize) -> Builder {
        assert!((1..=1024).contains(&n), "a worker has 1 to 1,024 slots, not {n}");
        self.settings.slots = n;
        self
    }

    /// The names of the queues. Workers take from the first before the second: their order is that of priority. By default there
    /// is one, `default`. What does not [say its queue](super::TaskOptions::queue) waits in the first.
    ///
    /// # Panics
    /// For none, or if two have the same name.
    ///
    /// ```
    /// let builder = shmworker::Pool::builder().queues(["urgent", "default", "bulk"]);
    /// # let _ = builder;
    /// ```
    pub fn queues(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Builder {
        let queues: Vec<String> = names.into_iter().map(Into::into).collect();
        assert!(!queues.is_empty(), "a pool needs a queue");
        let twice = queues.iter().enumerate().find(|(i, name)| queues[..*i].contains(name));
        assert!(twice.is_none(), "two queues are named {:?}", twice.map_or("", |(_, name)| name));
        self.settings.queues = queues;
        self
    }

    /// Whether it is noted how long tasks waited and ran, as they are by default: two readings of the CPU's counter, some ten
    /// nanoseconds each; a third where the worker had to be woken for the task. Where the kernel does not trust the counter (its
    /// clock source is not `tsc`), the kernel's clock is read instead, for the first 16 tasks that a process submits in each of
    /// the kernel's ticks, of 1 to 10 ms. Without, `waited` and `ran` of [`Finished`](super::Finished) are zero. Time limits hold
    /// in any case, and `map` times the tasks by which it finds the size of its chunks.
    ///
    /// ```
    /// let builder = shmworker::Pool::builder().times(false);
    /// # let _ = builder;
    /// ```
    pub fn times(mut self, are_taken: bool) -> Builder {
        self.settings.times = are_taken;
        self
    }

    /// Whether all shared memory, just under 1 GiB, is taken at the start and kept, so that none can be missing later. By default
    /// it comes with the payloads that need it, and goes when they have gone.
    pub fn reserve(mut self, is_reserved: bool) -> Builder {
        self.settings.reserve = is_reserved;
        self
    }

    /// Whether the kernel is asked for huge pages for what has its memory from the start: tasks and queues, and payloads too with
    /// [`reserve`](Self::reserve). Fewer misses of the TLB, for a start that is longer by 2 to 20 milliseconds for each 2 MiB. A
    /// kernel that has none to give is logged, and the pool runs with small ones.
    pub fn huge_pages(mut self, are_wanted: bool) -> Builder {
        self.settings.huge_pages = are_wanted;
        self
    }

    /// Whether each process maps, as it starts, all pages that have their memory from the start, so that its first tasks do not
    /// pay for that: some half a microsecond for each 4 KiB, once.
    ///
    /// ```
    /// // Nothing is left to the first tasks.
    /// let builder = shmworker::Pool::builder().reserve(true).huge_pages(true).prefault(true);
    /// # let _ = builder;
    /// ```
    pub fn prefault(mut self, is_wanted: bool) -> Builder {
        self.settings.prefault = is_wanted;
        self
    }

    /// A file that the pool lies in, which is made if it isn't there: what was submitted outlives the processes of the pool. When
    /// all of them have been killed, the next pool with this file goes on with it. What was queued is queued still; what ran has
    /// used up an attempt; results that nobody has taken are there: [`Pool::adopted`](super::Pool::adopted).
    ///
    /// One pool at a time has the file: a start waits for one that is ending, as long as that has for it (its [`grace`](Self::grace), and a
    /// second), and fails if there is one that is not. The file is sparse, and takes no more room than is used, from 6 MB on. On a tmpfs (`/dev/shm`) the
    /// pool is as fast as without a file; on a disk the kernel writes changed pages back now and then. What is promised, and that
    /// a restart of the machine is another matter, is told in `docs/crash.md`.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks, pool::TaskOptions};
    /// # let mut tasks = Tasks::new();
    /// # let resize = tasks.function("resize", |name: String| name.len());
    /// let pool = Pool::builder().workers(4).file("/var/lib/thumbs/state").fork(tasks)?;
    /// // Submitted before a crash, it is not submitted again: the key is found, and with it the result.
    /// let options = TaskOptions::new().attempts(3).key("cat.jpg");
    /// let length = pool.submit_with(resize, &"cat.jpg".to_owned(), &options)?.wait()?;
    /// # let _ = length;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn file(mut self, path: impl Into<PathBuf>) -> Builder {
        self.settings.file = Some(path.into());
        self
    }

    /// The name under which this program's tasks are kept in the [file](Self::file), of 1 to 32 letters, digits, `.`, `_` and `-`; by default `main`. A pool with
    /// another name goes on with the file too: its workers run what waits there, whose results stay for the program of the first
    /// name. There is room for some dozens of names that have left something there
    /// ([`StateError::Clients`](crate::StateError::Clients)). Processes that attach have names by
    /// [`AttachOptions::client`](super::AttachOptions::client).
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// # let tasks = Tasks::new();
    /// let pool = Pool::builder().file("state").client("nightly").fork(tasks)?;
    /// # drop(pool);
    /// # Ok::<(), shmworker::pool::StartError>(())
    /// ```
    pub fn client(mut self, name: impl Into<String>) -> Builder {
        self.settings.client = Some(name.into());
        self
    }

    /// When what the pool accepts is on the disk, so that it outlives the machine's end too: by default at most a second later. Without
    /// a [file](Self::file) this says nothing.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// # let tasks = Tasks::new();
    /// use shmworker::pool::SyncWhen;
    ///
    /// // Each submission waits for the disk.
    /// let pool = Pool::builder().file("state").sync(SyncWhen::EveryBatch).fork(tasks)?;
    /// # drop(pool);
    /// # Ok::<(), shmworker::pool::StartError>(())
    /// ```
    pub fn sync(mut self, when: SyncWhen) -> Builder {
        self.settings.sync = when;
        self
    }

    /// Has this hear what a start that goes on with the file waits for, in place of the log.
    #[cfg(all(feature = "cli", feature = "jobs"))]
    pub(crate) fn heard_by(mut self, hears: fn(&str)) -> Builder {
        self.settings.hears = Some(hears);
        self
    }

    /// Has another version of this program go on with the pool, which is to be [forked](Self::fork), when its coordinator is told to: it
    /// calls [`work`](super::work) if it is given these arguments.
    #[cfg(feature = "jobs")]
    pub(crate) fn succeeded_with(mut self, args: Vec<OsString>) -> Builder {
        self.settings.successor = Some(args);
        self
    }

    /// How long workers wait for another coordinator if theirs is killed; by default 30 seconds. They finish what they run, and claim
    /// nothing more. The next pool with the same [file](Self::file) goes on with them; if none comes in time, they end. Without a file
    /// this says nothing: workers end with their coordinator.
    ///
    /// A worker that goes on is the process that it was, with its environment and its open files. One of another program, or of
    /// other arguments, tasks or settings, finishes what it runs, and a fresh one takes its place.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// # let tasks = Tasks::new();
    /// use std::time::Duration;
    ///
    /// let pool = Pool::builder().file("state").successor_within(Duration::from_secs(300)).fork(tasks)?;
    /// # drop(pool);
    /// # Ok::<(), shmworker::pool::StartError>(())
    /// ```
    pub fn successor_within(mut self, time: Duration) -> Builder {
        self.settings.successor_within = time;
        self
    }

    /// A name by which other processes of this user find the pool while it runs: [`Pool::attach`](super::Pool::attach).
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// # let tasks = Tasks::new();
    /// let pool = Pool::builder().name("thumbs").fork(tasks)?; // elsewhere: Pool::attach("thumbs")
    /// # drop(pool);
    /// # Ok::<(), shmworker::pool::StartError>(())
    /// ```
    pub fn name(mut self, name: impl Into<String>) -> Builder {
        self.settings.name = Some(name.into());
        self
    }

    /// A program, in whatever language, that [`forkserver`](Self::forkserver) and [`exec`](Self::exec) are to execute in place of
    /// this one, with these arguments. It hands over to [`work`](super::work), or to the C interface's `shmworker_worker_run`.
    ///
    /// Which tasks it has isn't known here: one that it hasn't is [`TaskError::Unknown`](super::TaskError::Unknown).
    ///
    /// ```no_run
    /// let pool = shmworker::Pool::builder().program("./thumbs", ["--quiet"]).exec()?;
    /// # drop(pool);
    /// # Ok::<(), shmworker::pool::StartError>(())
    /// ```
    pub fn program(mut self, path: impl Into<PathBuf>, args: impl IntoIterator<Item = impl Into<OsString>>) -> Builder {
        self.program = Some(Program { path: path.into(), args: args.into_iter().map(Into::into).collect() });
        self
    }

    /// How long workers have to end once the pool ends; then they are killed. By default 10 seconds.
    pub fn grace(mut self, grace: Duration) -> Builder {
        self.settings.grace = grace;
        self
    }

    /// How long the pool's coordinator may take until it has started all workers; then it is killed, and that is
    /// [`StartError::TimedOut`](super::StartError::TimedOut). By default 30 seconds.
    pub fn start_timeout(mut self, at_most: Duration) -> Builder {
        self.settings.start_timeout = at_most;
        self
    }
}
