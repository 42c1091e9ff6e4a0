//! What a task sees of its surroundings while it runs.

use super::{submitter::Submitter, tasks::Failure, worker::Core};
use crate::{
    error::Corrupted,
    exec::endpoint::{Running, SubmitError},
};
use std::{any::Any, time::Duration};

/// What a task sees while it runs, and what it can say meanwhile.
///
/// ```
/// # use shmworker::{Tasks, pool::Failure};
/// let mut tasks = Tasks::new();
/// tasks.handler("count", |context, up_to: u64| {
///     // After a death of its worker it goes on from where it was.
///     let mut n = match context.last_checkpoint()? {
///         Some(bytes) => u64::from_le_bytes(bytes[..].try_into()?),
///         None => 0,
///     };
///     while n < up_to {
///         n += 1;
///         if n.is_multiple_of(1000) {
///             context.checkpoint(&n.to_le_bytes())?;
///             context.progress(n, up_to);
///             context.check()?; // ends here if somebody has asked for it
///         }
///     }
///     Ok(n)
/// });
/// ```
pub struct Context<'c> {
    pub(super) running: &'c Running<'c>,
    pub(super) core: &'c Core,
    /// One of many items that run as one task: what is kept in the segment per task can't be kept for each.
    pub(super) is_item: bool,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("attempt", &self.attempt()).finish_non_exhaustive()
    }
}

impl<'c> Context<'c> {
    /// Which attempt this is, from 1.
    pub fn attempt(&self) -> u32 {
        u32::from(self.running.attempt()) + 1
    }

    /// The trace of which this task is a part, as W3C's `traceparent`, if its submitter
    /// [has said so](super::TaskOptions::traceparent): the parent of the spans of a handler, and of what it asks of others.
    ///
    /// ```
    /// let mut tasks = shmworker::Tasks::new();
    /// tasks.handler("fetch", |context, path: String| {
    ///     let header = context.traceparent().map(|parent| format!("traceparent: {parent}"));
    ///     Ok((path, header)) // … a request with it …
    /// });
    /// ```
    pub fn traceparent(&self) -> Option<String> {
        self.running.trace().map(|parent| parent.to_string())
    }

    /// How long this attempt may go on; `None`: nobody has set a [timeout](super::TaskOptions::timeout).
    ///
    /// ```
    /// # let mut tasks = shmworker::Tasks::new();
    /// tasks.handler("task", |context, input: u64| {
    ///     let mut best = input;
    ///     while context.time_left().is_none_or(|left| left.as_millis() > 100) && best > 1 {
    ///         best /= 2; // … better it while there is time …
    ///     }
    ///     Ok(best)
    /// });
    /// ```
    pub fn time_left(&self) -> Option<Duration> {
        self.running.time_left()
    }

    /// Should it end? Its submitter has cancelled it, or its time is over. A task that goes on anyway is none the worse for it
    /// as long as nobody kills its worker: its result is kept.
    ///
    /// ```
    /// # let mut tasks = shmworker::Tasks::new();
    /// tasks.handler("task", |context, input: u64| {
    ///     let mut done = 0;
    ///     while done < input && !context.is_cancelled() {
    ///         done += 1;
    ///     }
    ///     Ok(done) // what there is so far
    /// });
    /// ```
    pub fn is_cancelled(&self) -> bool {
        self.running.is_cancelled() || self.time_left() == Some(Duration::ZERO)
    }

    /// As [`is_cancelled`](Self::is_cancelled), to be used with `?`.
    ///
    /// # Errors
    /// A [`Failure`] if the task should end.
    ///
    /// ```
    /// # let mut tasks = shmworker::Tasks::new();
    /// tasks.handler("task", |context, input: u64| {
    ///     for _ in 0..input {
    ///         context.check()?;
    ///         // … a step …
    ///     }
    ///     Ok(())
    /// });
    /// ```
    pub fn check(&self) -> Result<(), Failure> {
        if self.is_cancelled() { Err(Failure::permanent("it was asked to end")) } else { Ok(()) }
    }

    /// A sign of life, for tasks whose [silence is limited](super::TaskOptions::heartbeat_timeout). Costs some nanoseconds.
    ///
    /// ```
    /// # let mut tasks = shmworker::Tasks::new();
    /// tasks.handler("task", |context, input: u64| {
    ///     for _ in 0..input {
    ///         // … a step, which may take as long as the heartbeat timeout …
    ///         context.heartbeat();
    ///     }
    ///     Ok(())
    /// });
    /// ```
    pub fn heartbeat(&self) {
        self.running.heartbeat();
    }

    /// How far it has come, in units of its own; a sign of life too. It is told with the blame if the task kills its worker.
    ///
    /// ```
    /// # let mut tasks = shmworker::Tasks::new();
    /// tasks.handler("task", |context, input: u64| {
    ///     for step in 0..input {
    ///         context.progress(step, input);
    ///         // … a step …
    ///     }
    ///     Ok(())
    /// });
    /// ```
    pub fn progress(&self, done: u64, total: u64) {
        self.heartbeat();
        // A chunk's progress says which of its items runs.
        if !self.is_item {
            self.running.progress(done, total);
        }
    }

    /// Keeps these bytes in the segment for the next attempt, in the place of those before. A death at any instruction leaves
    /// either whole.
    ///
    /// An item of [`map`](Submitter::map) that runs together with others keeps none: its next attempt begins anew.
    ///
    /// # Errors
    /// A [`Failure`] if there is no room for them; the checkpoint before stays.
    ///
    /// ```
    /// # let mut tasks = shmworker::Tasks::new();
    /// tasks.handler("task", |context, input: u64| {
    ///     let mut done = context.last_checkpoint()?.map_or(Ok(0), |bytes| bytes[..].try_into().map(u64::from_le_bytes))?;
    ///     while done < input {
    ///         // … a step …
    ///         done += 1;
    ///         context.checkpoint(&done.to_le_bytes())?;
    ///     }
    ///     Ok(done)
    /// });
    /// ```
    pub fn checkpoint(&self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.keep(bytes)?)
    }

    pub(super) fn keep(&self, bytes: &[u8]) -> Result<(), SubmitError> {
        if self.is_item { Ok(()) } else { self.running.checkpoint(bytes) }
    }

    /// What an earlier attempt has kept last.
    ///
    /// # Errors
    /// A [`Failure`] if the segment is damaged.
    pub fn last_checkpoint(&self) -> Result<Option<Vec<u8>>, Failure> {
        Ok(self.kept()?)
    }

    pub(super) fn kept(&self) -> Result<Option<Vec<u8>>, Corrupted> {
        if self.is_item { Ok(None) } else { self.running.last_checkpoint() }
    }

    /// The worker's own value of this type, which [`Tasks::state`](super::Tasks::state) makes: once per process, when a task
    /// first asks for it.
    ///
    /// # Errors
    /// The failure of what makes it, or if nothing was registered for this type.
    ///
    /// ```
    /// # let mut tasks = shmworker::Tasks::new();
    /// tasks.state(|| Ok(std::fs::File::open("/dev/urandom")?));
    /// tasks.handler("random", |context, n: usize| {
    ///     use std::io::Read;
    ///     let mut bytes = vec![0; n];
    ///     let mut file = context.state::<std::fs::File>()?;
    ///     file.read_exact(&mut bytes)?;
    ///     Ok(bytes)
    /// });
    /// ```
    pub fn state<T: Any + Send + Sync>(&self) -> Result<&'c T, Failure> {
        self.core.state()
    }

    /// The id of the state that outlives the pool, if there is such.
    #[cfg(feature = "jobs")]
    pub(crate) fn state_that_lasts(&self) -> Option<u64> {
        let segment = self.core.submitter().client().endpoint().segment();
        segment.table().has_seats().then(|| segment.header().identity.id)
    }

    /// Through this a task submits tasks. One that waits for them has its process run others meanwhile.
    ///
    /// ```
    /// # use shmworker::pool::Task;
    /// const SQUARE: Task<u64, u64> = Task::named("square");
    ///
    /// # let mut tasks = shmworker::Tasks::new();
    /// tasks.function("square", |x: u64| x * x);
    /// tasks.handler("sum of squares", |context, below: u64| Ok(context.pool().map(SQUARE, 0..below).sum::<Result<u64, _>>()?));
    /// ```
    pub fn pool(&self) -> &'c Submitter {
        self.core.submitter()
    }
}
