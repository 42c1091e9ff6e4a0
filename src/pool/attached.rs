//! Processes that attach to a running pool by its name: to submit to it, or to work for it.
//!
//! Tasks of such a worker's are shared out as to the pool's own workers. It is no child of the coordinator's: if it dies its tasks are
//! given to others as ever, but nobody starts it again, and how it ended only its parent knows.

use super::{Pool, PoolError, Tasks, WorkError, client::Client, home::Home, start::Work, submitter::Submitter, worker};
use crate::{
    WorkerLimits,
    exec::endpoint::cpus,
    mem::segment::{Segment, SegmentOpenError},
    process::{
        self,
        attach::{self, AttachError as Refused},
        coordinator::Seat,
    },
};
use std::{ops::Deref, sync::Arc, time::Duration};

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
}

impl From<Refused> for AttachError {
    fn from(e: Refused) -> AttachError {
        let text = e.to_string();
        match e {
            Refused::NotRunning { .. } => AttachError::NotRunning(text),
            Refused::Refused { why: attach::Refusal::AnotherVersion, .. }
            | Refused::Segment {
                source: SegmentOpenError::VersionMismatch { .. } | SegmentOpenError::NotASegment { .. },
                ..
            } => AttachError::Incompatible(text),
            Refused::Refused { .. } => AttachError::Refused(text),
            _ => AttachError::Failed(text),
        }
    }
}

impl From<nix::Error> for AttachError {
    fn from(e: nix::Error) -> AttachError {
        AttachError::Failed(format!("cannot map a page: {e}"))
    }
}

/// A place in a pool that another process has made: what submits to it are the methods of [`Submitter`]. Dropping it waits for
/// all that was submitted here, and leaves the pool to its owner.
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
        let seat = attach::attach(name)?;
        let home = Home::here()?;
        let queues = queues(seat.endpoint().segment());
        let client = Arc::new(Client::new(seat.endpoint().clone(), home, false));
        Ok(Attached { submitter: Submitter::new(client, None, queues.into(), cpus()), seat, has_left: false })
    }
}

impl Attached {
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
