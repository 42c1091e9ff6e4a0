//! Processes that attach to a running pool by its name: to submit to it, or to work for it.
//!
//! Tasks of such a worker's are shared out as to the pool's own workers. It is no child of the coordinator's: if it dies its tasks are
//! given to others as ever, but nobody starts it again, and how it ended only its parent knows.

use super::{
    Adopted, Pool, PoolError, SyncWhen, Tasks, WorkError, client::Client, home::Home, journaled, start::Work,
    submitter::Submitter, worker,
};
use crate::{
    StateError, WorkerLimits,
    exec::endpoint::{Endpoint, cpus},
    mem::segment::Segment,
    process::{
        self,
        attach::{self, AttachError as Refused},
        coordinator::Seat,
    },
    state,
};
use std::{
    fs, io,
    ops::Deref,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::MetadataExt,
    },
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

/// Why a process could not attach. Each has what to do about it in its text.
///
/// ```no_run
/// use shmworker::{Pool, pool::AttachError};
///
/// match Pool::attach("thumbs") {
///     Err(AttachError::NotRunning(e)) => println!("{e}"), // no pool 'thumbs' runs; these do: …
///     other => drop(other?),
/// }
/// # Ok::<(), AttachError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// No such pool runs.
    #[error("{0}")]
    NotRunning(String),
    /// It lets this process not in.
    #[error("{0}")]
    Refused(String),
    /// It is of a version with another protocol, or another layout of the segment.
    #[error("{0}")]
    Incompatible(String),
    /// Its coordinator does not answer, or the kernel refused a step.
    #[error("{0}")]
    Failed(String),
    /// No client can have [this name](AttachOptions::client).
    #[error("{0}")]
    ClientName(String),
    /// The journal of the client of [this name](AttachOptions::client) can't be used, or not be found.
    #[error("{0}")]
    Journal(String),
}

impl From<Refused> for AttachError {
    fn from(e: Refused) -> AttachError {
        let text = e.to_string();
        match e {
            Refused::NotRunning { .. } => AttachError::NotRunning(text),
            e if e.is_of_another_version() => AttachError::Incompatible(text),
            Refused::Refused { .. } | Refused::RefusedClient { .. } => AttachError::Refused(text),
            Refused::ClientName(_) => AttachError::ClientName(text),
            _ => AttachError::Failed(text),
        }
    }
}

impl From<nix::Error> for AttachError {
    fn from(e: nix::Error) -> AttachError {
        AttachError::Failed(format!("cannot map a page: {e}"))
    }
}

impl From<StateError> for AttachError {
    fn from(e: StateError) -> AttachError {
        AttachError::Journal(e.to_string())
    }
}

/// How a process attaches to a pool, beyond its name.
///
/// A pool that lies in a [file](super::Builder::file) keeps the tasks of a client that says a [name](Self::client) of its own, whatever becomes
/// of its process:
///
/// ```no_run
/// use shmworker::pool::{AttachOptions, Task, TaskOptions};
///
/// const LENGTH: Task<String, u64> = Task::named("length");
/// # fn store(_: &str, _: u64) {}
///
/// let pool = AttachOptions::new().client("nightly").attach("thumbs")?;
/// for name in ["a.jpg", "b.jpg"] {
///     // Submitted before a crash, it is not submitted again: the key is found, and with it the result.
///     let options = TaskOptions::new().attempts(3).key(name);
///     let handle = pool.submit_with(LENGTH, &name.to_owned(), &options)?;
///     handle.finish_with(|finished| finished.result.map(|length| store(name, length)))?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct AttachOptions {
    client: Option<String>,
    sync: SyncWhen,
}

impl AttachOptions {
    /// Those of [`Pool::attach`].
    ///
    /// ```
    /// let options = shmworker::pool::AttachOptions::new();
    /// # let _ = options;
    /// ```
    pub fn new() -> AttachOptions {
        AttachOptions::default()
    }

    /// The name under which this process's tasks are kept in the file that the pool lies in, of 1 to 32 letters, digits, `.`, `_` and `-`. They
    /// go on when the process is killed, or ends without dropping what it has of the pool, and their results wait; so do they when all
    /// processes of the pool are killed. The next that attaches under this name has them: [`Attached::adopted`], or by their
    /// [keys](super::TaskOptions::key).
    ///
    /// One process at a time has a name. That of the program that has made the pool ([`Builder::client`](super::Builder::client), by default
    /// `main`) is that program's while the pool runs. What is promised is told in `docs/crash.md`.
    ///
    /// ```
    /// let options = shmworker::pool::AttachOptions::new().client("nightly");
    /// # let _ = options;
    /// ```
    pub fn client(mut self, name: impl Into<String>) -> AttachOptions {
        self.client = Some(name.into());
        self
    }

    /// When what the pool accepts from this client is on the disk, so that it outlives the machine's end too: by default at most a second later.
    /// Without a [name](Self::client) this says nothing.
    ///
    /// ```
    /// use shmworker::pool::{AttachOptions, SyncWhen};
    ///
    /// // Each submission waits for the disk.
    /// let options = AttachOptions::new().client("nightly").sync(SyncWhen::EveryBatch);
    /// # let _ = options;
    /// ```
    pub fn sync(mut self, when: SyncWhen) -> AttachOptions {
        self.sync = when;
        self
    }

    /// Makes this process a client of the pool that has this [name](super::Builder::name), or whose coordinator has this process id. Starts a
    /// thread, which watches the coordinator, and for a client with a name one that syncs its journal.
    ///
    /// # Errors
    /// [`AttachError`]; for a client with a name also [`Refused`](AttachError::Refused): the pool does not lie in a file, or another process has
    /// the name.
    ///
    /// ```no_run
    /// use shmworker::pool::{AttachOptions, Task};
    ///
    /// const SQUARE: Task<u64, u64> = Task::named("square");
    ///
    /// let pool = AttachOptions::new().client("nightly").attach("thumbs")?;
    /// for found in pool.adopted() {
    ///     println!("{:?}", found.into_handle(SQUARE)?.wait()); // submitted before this process was there
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn attach(&self, name: &str) -> Result<Attached, AttachError> {
        let home = Home::here()?;
        let Some(client) = &self.client else {
            let seat = attach::attach(name)?;
            let client = Client::new(seat.endpoint().clone(), home, false);
            return Ok(Attached::of(client, seat));
        };
        let mut durable = None;
        let seat = attach::attach_as(name, client, |endpoint| {
            let state = file_of(endpoint.segment()).map_err(|e| {
                AttachError::Journal(format!(
                    "cannot find the file that pool '{name}' lies in ({e}), beside which the journal of '{client}' is: it was removed, or \
                     is not to be seen from here; attach where it is"
                ))
            })?;
            // What the coordinator has settled before it let this process in is nobody else's.
            let adopted = state::adopt(endpoint.segment().table(), endpoint.name());
            let names = task_names(&endpoint);
            let names = names.iter().map(|(kind, name)| (*kind, &name[..]));
            let (endpoint, begun) = journaled::begin(endpoint, (&state, client, self.sync), adopted, names)?;
            durable = Some(begun);
            Ok::<_, AttachError>(endpoint)
        })?;
        let client = Client::new(seat.endpoint().clone(), home, false);
        Ok(Attached::of(if let Some(durable) = durable { client.adopting(durable) } else { client }, seat))
    }
}

/// A place in a pool that another process has made: what submits to it are the methods of [`Submitter`]. Dropping it waits for
/// all that was submitted here, and leaves the pool to its owner. What a process that dies had submitted is cancelled, unless it has a
/// [name](AttachOptions::client).
///
/// Which tasks the pool's workers have isn't known here; one that they haven't is
/// [`TaskError::Unknown`](super::TaskError::Unknown). When the pool ends, every wait here does.
///
/// ```no_run
/// use shmworker::{Pool, pool::{Task, TaskOptions}};
///
/// let pool = Pool::attach("thumbs")?;
/// assert_eq!(pool.submit(Task::<u64, u64>::named("square"), &12)?.wait()?, 144);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Attached {
    // In this order: the seat is given up once nothing of the submitter's uses it.
    submitter: Submitter,
    seat: attach::Attached,
    /// It has waited for as long as it was to.
    has_left: bool,
}

impl Pool {
    /// Makes this process a client of the pool that has this [name](super::Builder::name), or whose coordinator has this process id.
    /// Starts a thread, which watches the coordinator.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach(name: &str) -> Result<Attached, AttachError> {
        AttachOptions::new().attach(name)
    }
}

impl Attached {
    fn of(client: Client, seat: attach::Attached) -> Attached {
        let queues = queues(seat.endpoint().segment());
        Attached { submitter: Submitter::new(Arc::new(client), None, queues.into(), cpus()), seat, has_left: false }
    }

    /// The tasks that this process has found under its [name](AttachOptions::client): what processes of that name had submitted, and whose results
    /// they had not taken when they ended. As [`Pool::adopted`]. None, if it has no name.
    ///
    /// ```no_run
    /// # use shmworker::pool::AttachOptions;
    /// let pool = AttachOptions::new().client("nightly").attach("thumbs")?;
    /// for found in pool.adopted() {
    ///     println!("{:?}: {:?}", found.key().map(str::to_owned), found.into_bytes().wait());
    /// }
    /// # Ok::<(), shmworker::pool::AttachError>(())
    /// ```
    pub fn adopted(&self) -> Vec<Adopted> {
        Adopted::all(&self.submitter)
    }

    /// The process id of the pool's coordinator.
    pub fn coordinator_pid(&self) -> u32 {
        self.seat.coordinator() as u32
    }

    /// Waits until all that was submitted here has come back.
    ///
    /// # Errors
    /// [`PoolError`] if it never will.
    pub fn drain(&self) -> Result<(), PoolError> {
        let client = self.submitter.client();
        client.drain(None).map(drop).map_err(|lost| client.why_lost(lost))
    }

    /// As [`drain`](Self::drain), but what has not come back after `grace` is cancelled, and after as long again it is waited for no
    /// longer. Those who wait for results of tasks hear of that. False: something has not come back.
    ///
    /// # Errors
    /// [`PoolError`] if it never will.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, pool::{Task, TaskOptions}};
    /// # use std::time::Duration;
    /// let pool = Pool::attach("thumbs")?;
    /// let handle = pool.submit(Task::<u64, u64>::named("square"), &12)?;
    /// pool.drain_within(Duration::from_secs(1))?;
    /// println!("{:?}", handle.wait()); // Err(Cancelled), if it was still waiting for a worker
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn drain_within(&self, grace: Duration) -> Result<bool, PoolError> {
        let client = self.submitter.client();
        client.drain_within(grace).map_err(|lost| client.why_lost(lost))
    }

    /// Leaves the pool: as dropping it, but waits no longer than [`drain_within`](Self::drain_within), and returns what that does.
    ///
    /// # Errors
    /// As there.
    pub fn leave(mut self, grace: Duration) -> Result<bool, PoolError> {
        let has_drained = self.drain_within(grace);
        self.has_left = true;
        has_drained
    }
}

impl Deref for Attached {
    type Target = Submitter;

    fn deref(&self) -> &Submitter {
        &self.submitter
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if !self.has_left {
            // Who wants to know whether it all came back calls `drain`. In a fork of the process nothing is waited for.
            let _ = self.drain();
        }
    }
}

/// What the tasks of the pool are called, as far as it tells.
pub(super) fn task_names(endpoint: &Endpoint) -> Vec<(u32, String)> {
    endpoint.segment().record(0).map(|record| record.task_names()).unwrap_or_default()
}

/// The file that a segment lies in, as it is called now.
fn file_of(segment: &Segment) -> io::Result<PathBuf> {
    let this = format!("/proc/self/fd/{}", segment.as_fd().as_raw_fd());
    let (path, ours) = (fs::read_link(&this)?, fs::metadata(&this)?);
    let named = fs::symlink_metadata(&path)?;
    match (named.dev(), named.ino()) == (ours.dev(), ours.ino()) {
        true => Ok(path),
        false => Err(io::Error::other(format!("'{}' is another file", path.display()))),
    }
}

fn queues(segment: &Segment) -> Vec<String> {
    (0..segment.header().identity.geometry.queues as usize).map(|queue| segment.queue_name(queue)).collect()
}

/// Works for a running pool of this name, or whose coordinator has this process id: claims tasks of all its queues, and runs as many
/// at a time as it has slots, until the pool ends. Tasks that aren't registered here it refuses, so that it should have all that
/// the pool's own workers have.
///
/// # Errors
/// [`WorkError`].
///
/// # Panics
/// For no slots.
///
/// ```no_run
/// let mut tasks = shmworker::Tasks::new();
/// tasks.function("square", |x: u64| x * x);
/// shmworker::pool::work_for("thumbs", 1, tasks)?;
/// # Ok::<(), shmworker::pool::WorkError>(())
/// ```
pub fn work_for(name: &str, slots: usize, tasks: Tasks) -> Result<(), WorkError> {
    assert!(slots > 0, "a worker needs a slot");
    let attached = attach::attach(name).map_err(AttachError::from)?;
    let queues = queues(attached.endpoint().segment());
    let work = Work { slots, queues, workers: 1, limits: WorkerLimits::new(), outliving: None };
    // Threads that its tasks have left behind may use both until the process ends.
    let (endpoint, tasks) = (process::keep(attached.endpoint().clone()), process::keep(tasks));
    let result = worker::work(&Seat::of_guest(endpoint, attached.bell()), tasks, &work).map_err(WorkError::Failed);
    drop(attached);
    result
}
