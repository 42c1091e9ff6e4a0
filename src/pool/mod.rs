//! Pools for Rust programs: worker processes that run your functions.
//!
//! A [`Pool`] is made from a table of [`Tasks`], takes submissions from any thread, and gives a [`Handle`] for each: wait for
//! it, or `.await` it under any executor.
//!
//! ```no_run
//! use shmworker::{Pool, Tasks};
//!
//! let mut tasks = Tasks::new();
//! let square = tasks.function("square", |x: u64| x * x);
//! let pool = Pool::builder().workers(4).fork(tasks)?;
//! let handles: Vec<_> = (0..100).map(|x| pool.submit(square, &x)).collect::<Result<_, _>>()?;
//! let sum: u64 = handles.into_iter().map(|h| h.wait()).sum::<Result<u64, _>>()?;
//! assert_eq!(sum, 328_350);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Processes
//!
//! The caller is a client of its own pool. The coordinator is a process beside it, which never has a second thread, so that its
//! forks are safe; workers are its children. None outlives the caller.
//!
//! | | workers are | it needs |
//! |---|---|---|
//! | [`fork`](Builder::fork) | copies of the caller: tasks may capture what it has | a caller with one thread |
//! | [`forkserver`](Builder::forkserver) | copies of a fresh process of the same program | [`init`] first in `main` |
//! | [`exec`](Builder::exec) | fresh processes of the same program | [`init`] first in `main` |
//!
//! What workers print goes where the caller's output goes, as it is; their standard input is empty. The terminal's signals are
//! for the caller alone. A pool belongs to the process that made it: in a fork of that one each call is an
//! [`AnotherProcess`] error. A task may make a pool of its own, by any method, which ends with its worker.

mod adopted;
mod aligned;
mod attached;
mod builder;
mod chunk;
mod client;
mod codec;
mod context;
mod control;
#[cfg_attr(not(feature = "jobs"), expect(dead_code, reason = "jobs alone are waited for so"))]
pub(crate) mod group;
mod handle;
mod home;
mod journaled;
pub(crate) mod launch;
mod map;
#[cfg(feature = "bench")]
pub(crate) mod one_thread;
mod options;
mod output;
mod plugin;
mod raw;
mod scope;
mod start;
mod submitter;
pub(crate) mod tasks;
mod trace;
mod worker;

pub use crate::{plugin::PluginError, state::journal::SyncWhen};
pub use adopted::Adopted;
pub use attached::{AttachError, AttachOptions, Attached, work_for};
pub use builder::Builder;
pub use codec::{Bytes, CodecError, Pods, Wire};
pub use context::Context;
pub use control::{ControlError, EndedWorker, Shutdown};
pub use handle::{Blame, Finished, Handle, Reply, TaskError, Worker};
pub use home::AnotherProcess;
#[doc(hidden)]
pub use launch::init_before_main;
pub use launch::{WorkError, init, work};
pub use map::{Map, Unordered};
pub use options::{Retry, TaskOptions};
pub use output::Output;
pub use raw::{Canceller, Ended, Reserved};
#[doc(hidden)]
pub use raw::{ForeignHooks, ForeignState, Landed};
pub use scope::{Report, Row, Scope};
pub use start::StartError;
pub use submitter::Submitter;
pub use tasks::{Failure, Task, Tasks, UnknownTask};
pub use trace::NoTraceParent;

use crate::{exec::endpoint::SubmitError, lockfree::descriptor::LONGEST_KEY};
use client::{Client, Lost};
use start::Crew;
use std::{ops::Deref, sync::Arc};

/// Worker processes that run your functions. What submits to it are the methods of [`Submitter`]. Dropping it waits for all
/// that was submitted, then ends the workers.
///
/// ```no_run
/// # use shmworker::{Pool, Tasks};
/// # let mut tasks = Tasks::new();
/// # let square = tasks.function("square", |x: u64| x * x);
/// # let pool = Pool::builder().fork(tasks)?;
/// assert_eq!(pool.submit(square, &12)?.wait()?, 144);
/// pool.join()?; // as dropping it, but says how it ended
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Pool {
    submitter: Submitter,
    crew: Crew,
    /// Other processes may have attached, and be there still when it ends.
    has_guests: bool,
}

impl Pool {
    /// Says what the pool is to be like.
    pub fn builder() -> Builder {
        Builder::default()
    }

    fn client(&self) -> &Arc<Client> {
        self.submitter.client()
    }

    /// The tasks that this pool has found in its [file](Builder::file): what programs of the same [client](Builder::client) had
    /// submitted, and whose results they had not taken when they ended. Each is given out once; one that has a
    /// [key](TaskOptions::key) goes to whoever submits that key first, if that comes before. What nobody asks for runs all the same, and is
    /// there again at the next start, as long as its room is not needed: a submission for which there is none has results let go that
    /// have no key and that nobody has asked for. So a program that never calls this is none the worse for it, and who wants them all
    /// calls it before it submits.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// let mut tasks = Tasks::new();
    /// let square = tasks.function("square", |x: u64| x * x);
    /// let pool = Pool::builder().file("state").fork(tasks)?;
    /// for found in pool.adopted() {
    ///     let key = found.key().map(str::to_owned);
    ///     println!("{key:?}: {:?}", found.into_handle(square)?.wait());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn adopted(&self) -> Vec<Adopted> {
        Adopted::all(&self.submitter)
    }

    /// The keys of what [`adopted`](Self::adopted) would give, without taking it, and which of these were cancelled.
    #[cfg(feature = "jobs")]
    pub(crate) fn adopted_keys(&self) -> Vec<(String, bool)> {
        self.client().adopted_keys()
    }

    /// What was found with this key isn't wanted.
    #[cfg(feature = "jobs")]
    pub(crate) fn forget_adopted(&self, key: &str) {
        self.client().forget_adopted(key);
    }

    /// Ends the pool once all that was submitted has been run.
    ///
    /// # Errors
    /// [`PoolError`] if its coordinator failed, or its shared memory is not in order at the end.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// # let mut tasks = Tasks::new();
    /// # let square = tasks.function("square", |x: u64| x * x);
    /// # let pool = Pool::builder().fork(tasks)?;
    /// let handle = pool.submit(square, &12)?;
    /// pool.join()?;
    /// assert_eq!(handle.wait()?, 144);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn join(mut self) -> Result<(), PoolError> {
        let drained = self.client().drain(None);
        // Why it ended says more than that nothing came back.
        self.end().map_err(PoolError::Ended)?;
        drained.map(drop).map_err(|lost| self.client().why_lost(lost))
    }

    /// Has the workers end, waits until all have, and audits what they leave.
    fn end(&mut self) -> Result<Shutdown, String> {
        let how = self.crew.end()?;
        self.client().audit(!self.has_guests).map(|()| how)
    }
}

impl Deref for Pool {
    type Target = Submitter;

    fn deref(&self) -> &Submitter {
        &self.submitter
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.client().check_home().is_err() {
            return;
        }
        // Who wants to know how it ended calls `join`.
        let _ = self.client().drain(None);
        let _ = self.crew.end();
    }
}

/// Why a pool could not take a task, or ended.
///
/// ```no_run
/// # use shmworker::{Pool, Tasks};
/// # let mut tasks = Tasks::new();
/// # let square = tasks.function("square", |x: u64| x * x);
/// # let pool = Pool::builder().fork(tasks)?;
/// use shmworker::pool::{PoolError, TaskOptions};
///
/// match pool.submit_with(square, &12, &TaskOptions::new().queue("urgnet")) {
///     Err(e @ PoolError::Queue { .. }) => println!("{e}"), // no queue is named "urgnet"; the pool's are: default
///     other => drop(other?),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The input has no encoding.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// No such task is registered.
    #[error(transparent)]
    Task(#[from] UnknownTask),
    /// No queue has this name.
    #[error("no queue is named {name:?}; the pool's are: {queues}")]
    Queue {
        /// The name.
        name: String,
        /// Those that there are.
        queues: String,
    },
    /// The room was reserved in another pool, which has it back.
    #[error(
        "this room was reserved in another pool, which has it back: reserve room in the pool that is to have the task"
    )]
    AnotherPool,
    /// In a pool with a [file](Builder::file) no task can have this key.
    #[error("invalid key {0:?}: in a pool with a file it has 1 to {LONGEST_KEY} bytes, none of them 0")]
    Key(String),
    /// It could not be written down, and is not accepted.
    #[error("the task is not accepted: {0}")]
    Journal(String),
    /// It was not accepted.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// Somebody has asked the pool to end: it finishes what it has.
    #[error("the pool drains: it finishes what was submitted, and takes nothing more")]
    Draining,
    /// This process is a fork of the one whose pool it is.
    #[error(transparent)]
    AnotherProcess(#[from] AnotherProcess),
    /// The coordinator ended for this reason.
    #[error("the pool has ended: {0}")]
    Ended(String),
}

impl Client {
    fn why_lost(&self, lost: Lost) -> PoolError {
        match lost {
            Lost::CoordinatorDied(e) => self
                .endpoint()
                .why_orphaned()
                .map_or(PoolError::Submit(e.into()), |why| PoolError::Ended(why.to_owned())),
            Lost::Corrupted(e) => PoolError::Submit(e.into()),
            Lost::TooDeep(_) => PoolError::Ended(lost.to_string()),
            Lost::AnotherProcess(e) => e.into(),
        }
    }
}
