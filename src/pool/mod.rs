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

mod builder;
mod client;
mod codec;
mod context;
mod handle;
mod home;
mod launch;
mod panics;
mod start;
mod tasks;
mod worker;

pub use builder::Builder;
pub use codec::{Bytes, CodecError, Pods, Wire};
pub use context::Context;
pub use handle::{Handle, TaskError};
pub use home::AnotherProcess;
pub use launch::init;
#[doc(hidden)]
pub use launch::init_before_main;

pub use start::StartError;
pub use tasks::{Failure, Task, Tasks};

use crate::exec::endpoint::{Submission, SubmitError, To};
use client::{Client, Lost};
use start::Crew;
use std::sync::Arc;

/// Worker processes that run your functions. Dropping it waits for all that was submitted, then ends them.
#[derive(Debug)]
pub struct Pool {
    client: Arc<Client>,
    crew: Crew,
}

impl Pool {
    /// Says what the pool is to be like.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Submits a task; sleeps while there is no room for it.
    ///
    /// # Errors
    /// [`PoolError`]: the input has no encoding or is too large, or the pool has ended.
    pub fn submit<I: Wire, O: Wire>(&self, task: Task<I, O>, input: I::Ref<'_>) -> Result<Handle<O>, PoolError> {
        self.client.check_home()?;
        let submission = Submission { kind: task.index, ..Submission::new(To::Queue(0)) };
        let (tag, id) = I::encode(input, |bytes| self.client.submit(submission, bytes))??;
        Ok(Handle::new(self.client.clone(), tag, id))
    }

    /// Ends the pool once all that was submitted has been run.
    ///
    /// # Errors
    /// [`PoolError`] if its coordinator failed.
    pub fn join(mut self) -> Result<(), PoolError> {
        self.client.drain()?;
        self.crew.end().map_err(PoolError::Ended)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.client.check_home().is_err() {
            return;
        }
        // Who wants to know how it ended calls `join`.
        let _ = self.client.drain();
        let _ = self.crew.end();
    }
}

/// Why a pool could not take a task, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The input has no encoding.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// It was not accepted.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// This process is a fork of the one whose pool it is.
    #[error(transparent)]
    AnotherProcess(#[from] AnotherProcess),
    /// The coordinator ended for this reason.
    #[error("the pool has ended: {0}")]
    Ended(String),
}

impl From<Lost> for PoolError {
    fn from(lost: Lost) -> PoolError {
        match lost {
            Lost::CoordinatorDied(e) => PoolError::Submit(e.into()),
            Lost::Corrupted(e) => PoolError::Submit(e.into()),
            Lost::AnotherProcess(e) => e.into(),
        }
    }
}
