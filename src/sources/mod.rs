//! Where jobs wait and results go: a table, a stream, a service. [`TaskSource`] is what such a place must offer, [`serve`] the loop that
//! runs its jobs in a pool, and [`connect`] knows those that are there.
//!
//! Jobs are run **at least once**. A job is acknowledged to its source together with its result, so a death of everything before that
//! has it come again; whoever writes tasks for a source writes them so that a second run does no harm. Results are stored exactly
//! once where the source can tell a second one from the first.

mod connect;
#[cfg(feature = "grpc")]
mod grpc;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "postgres")]
mod postgres;
mod pump;
#[cfg(feature = "redis")]
mod redis;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod settings;
mod stop;
mod stub;

#[cfg(feature = "cli")]
pub(crate) use connect::shown;
pub use connect::{ConnectError, Options as ConnectOptions, connect};
#[cfg(feature = "postgres")]
pub use postgres::Postgres;
pub use pump::{Options, ServeError, Summary, serve};
#[cfg(feature = "redis")]
pub use redis::Redis;
pub use stop::Stop;
pub use stub::Stub;

use crate::jobs::{Job, JobResult};
use std::{fmt, time::Duration};

/// A job as its source hands it out.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Lease {
    /// What the source knows it by: of this delivery, not only of this job, so that who comes too late can be told.
    pub id: String,
    /// The job; the error, for people, if what lay there is none. It is published as failed.
    pub job: Result<Job, String>,
}

impl Lease {
    /// A job from its JSON.
    ///
    /// ```
    /// use shmworker::sources::Lease;
    ///
    /// assert_eq!(Lease::from_json("7", r#"{"task":"echo"}"#).job.unwrap().task, "echo");
    /// assert!(Lease::from_json("8", "echo").job.is_err());
    /// ```
    pub fn from_json(id: impl Into<String>, json: &str) -> Lease {
        Lease { id: id.into(), job: serde_json::from_str(json).map_err(|e| format!("this is no job: {e}")) }
    }
}

/// A lease whose job has ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// That of the [`Lease`].
    pub id: String,
    /// How it went.
    pub result: JobResult,
}

impl Outcome {
    /// The end of the job of a lease.
    pub fn new(lease: impl Into<String>, result: JobResult) -> Outcome {
        Outcome { id: lease.into(), result }
    }

    /// The [`result`](Self::result) as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.result).unwrap_or_else(|e| unreachable!("its keys are names: {e}"))
    }
}

/// Why a source could not do what it was asked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SourceError {
    /// It may work later: the server is down, the connection was lost. Tried again, after a while.
    Unavailable(String),
    /// As [`Unavailable`](Self::Unavailable), but not before so long: the server has said so.
    Busy(String, Duration),
    /// It does not take so much at once: results are published in smaller batches, and one that is too large by itself as failed.
    TooLarge(String),
    /// It won't: the table is not there, the password is wrong. Ends the run.
    Fatal(String),
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use SourceError::{Busy, Fatal, TooLarge, Unavailable};
        let (Unavailable(why) | Busy(why, _) | TooLarge(why) | Fatal(why)) = self;
        f.write_str(why)
    }
}

impl std::error::Error for SourceError {}

/// A place where jobs wait.
///
/// Three threads call it at a time, one to a method: one fetches, one publishes, one keeps leases alive. So each method has a
/// connection of its own.
pub trait TaskSource: Send + Sync {
    /// Takes up to `room` jobs, which nobody else gets while their leases last. Waits for the first of them for up to `wait`; none then
    /// is no error. Who says so much sooner is asked again after a pause.
    ///
    /// # Errors
    /// [`SourceError`].
    fn fetch(&self, room: usize, wait: Duration) -> Result<Vec<Lease>, SourceError>;

    /// Stores results and acknowledges their jobs, as one step or so that a repetition does no harm: after an error it is called again
    /// with the same. What is of a lease that was lost meanwhile is dropped.
    ///
    /// # Errors
    /// [`SourceError`].
    fn publish(&self, outcomes: &[Outcome]) -> Result<(), SourceError>;

    /// How often [`heartbeat`](Self::heartbeat) is to be called; `None`: never. Well below the time for which a lease lasts. Asked again
    /// after each fetch, which may have told the source.
    fn heartbeat_every(&self) -> Option<Duration> {
        None
    }

    /// Keeps the leases of jobs that wait or run, or whose results are not published yet. Returns those that are lost, whose jobs are
    /// cancelled: somebody else has them.
    ///
    /// # Errors
    /// [`SourceError`].
    fn heartbeat(&self, _leases: &[&str]) -> Result<Vec<String>, SourceError> {
        Ok(Vec::new())
    }

    /// The end: all that ran was published. `unstarted` are the leases whose jobs were not begun, or were cancelled for the end's sake,
    /// to be given back at once. Called once, and not if the source was unavailable at last.
    ///
    /// # Errors
    /// [`SourceError`]: the leases run out by themselves.
    fn shut_down(&self, unstarted: &[&str]) -> Result<(), SourceError>;
}
