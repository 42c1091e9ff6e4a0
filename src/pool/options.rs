//! What is said of a task beside its input: where it waits, how long, how often it is tried.

use super::trace::NoTraceParent;
use crate::{
    exec::endpoint::{Submission, To},
    lockfree::descriptor::{Backoff, Limits, TraceParent, retry_on},
};
use std::time::Duration;

/// How an attempt can go wrong, for [`TaskOptions::retry_on`].
///
/// ```
/// use shmworker::pool::{Retry, TaskOptions};
///
/// // What panics once will panic again.
/// let options = TaskOptions::new().attempts(3).retry_on([Retry::Failed, Retry::Died, Retry::TimedOut]);
/// # let _ = options;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Retry {
    /// The task returned an error of its own.
    Failed,
    /// The task panicked.
    Panicked,
    /// Its worker died.
    Died,
    /// It ran, or was silent, for too long.
    TimedOut,
}

/// What is said of one task beside its input. By default: the first queue, one attempt, no limits of time.
///
/// ```
/// use shmworker::pool::{Retry, TaskOptions};
/// use std::time::Duration;
///
/// let options = TaskOptions::new()
///     .queue("urgent")
///     .attempts(4)
///     .backoff(Duration::from_millis(100), Duration::from_secs(5))
///     .retry_on([Retry::Failed, Retry::Died])
///     .timeout(Duration::from_secs(30));
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
pub struct TaskOptions {
    pub(super) queue: Option<String>,
    pub(super) key: Option<String>,
    pub(super) attempts: u8,
    first_pause: Duration,
    longest_pause: Duration,
    retry_on: u8,
    max_worker_deaths: u8,
    timeout: Option<Duration>,
    grace: Duration,
    silence: Option<Duration>,
    expires_in: Option<Duration>,
    trace: Option<TraceParent>,
}

impl Default for TaskOptions {
    fn default() -> TaskOptions {
        TaskOptions::new()
    }
}

impl TaskOptions {
    /// The first queue, one attempt, no limits of time.
    pub const fn new() -> TaskOptions {
        TaskOptions {
            queue: None,
            key: None,
            attempts: 1,
            first_pause: Duration::ZERO,
            longest_pause: Duration::from_secs(60),
            retry_on: retry_on::FAILED | retry_on::PANICKED | retry_on::DIED | retry_on::TIMED_OUT,
            max_worker_deaths: 3,
            timeout: None,
            grace: Duration::from_secs(5),
            silence: None,
            expires_in: None,
            trace: None,
        }
    }

    /// The queue in which it waits, one of [`Builder::queues`](super::Builder::queues). Workers take from the first of these
    /// before the second.
    pub fn queue(mut self, name: impl Into<String>) -> TaskOptions {
        self.queue = Some(name.into());
        self
    }

    /// An idempotency key: while a task with this key that this process has submitted is not over, a further submission joins it:
    /// nothing is submitted, and its handle gets the same result.
    /// [`submit_with`](super::Submitter::submit_with) looks at it, as do [scopes](super::Scope::submit_with) and
    /// [`submit_json`](super::Submitter::submit_json); nothing else does.
    ///
    /// ```
    /// # use shmworker::pool::TaskOptions;
    /// # use std::time::Duration;
    /// let options = TaskOptions::new().key("report of 2026-11");
    /// # let _ = options;
    /// ```
    pub fn key(mut self, key: impl Into<String>) -> TaskOptions {
        self.key = Some(key.into());
        self
    }

    /// How often it is tried at most, 1 to 255; by default once. A task may be begun more often than it ends: whoever asks for
    /// more than one attempt says that this does no harm.
    ///
    /// # Panics
    /// For 0.
    pub const fn attempts(mut self, n: u8) -> TaskOptions {
        assert!(n > 0, "a task needs an attempt");
        self.attempts = n;
        self
    }

    /// The pause before the second attempt, and the longest pause. Each is twice the one before, less up to a quarter by lot, so
    /// that many that failed together don't all come back together. By default there is none.
    ///
    /// ```
    /// # use shmworker::pool::TaskOptions;
    /// # use std::time::Duration;
    /// // After 1 s, 2 s, 4 s, 8 s, 10 s, each up to a quarter earlier.
    /// let options = TaskOptions::new().attempts(6).backoff(Duration::from_secs(1), Duration::from_secs(10));
    /// # let _ = options;
    /// ```
    pub const fn backoff(mut self, first: Duration, longest: Duration) -> TaskOptions {
        self.first_pause = first;
        self.longest_pause = longest;
        self
    }

    /// After which ends there is another attempt, while some are left; by default after all of these.
    pub fn retry_on(mut self, ends: impl IntoIterator<Item = Retry>) -> TaskOptions {
        self.retry_on = ends.into_iter().fold(0, |bits, end| {
            bits | match end {
                Retry::Failed => retry_on::FAILED,
                Retry::Panicked => retry_on::PANICKED,
                Retry::Died => retry_on::DIED,
                Retry::TimedOut => retry_on::TIMED_OUT,
            }
        });
        self
    }

    /// How many workers it may kill before it is set aside as poison, whatever attempts are left; by default 3.
    ///
    /// # Panics
    /// For 0.
    ///
    /// ```
    /// # use shmworker::pool::TaskOptions;
    /// # use std::time::Duration;
    /// // Any number of failures, but one death.
    /// let options = TaskOptions::new().attempts(100).max_worker_deaths(1);
    /// # let _ = options;
    /// ```
    pub const fn max_worker_deaths(mut self, n: u8) -> TaskOptions {
        assert!(n > 0, "a task that may kill no worker must not run");
        self.max_worker_deaths = n;
        self
    }

    /// How long an attempt may run. Then [`Context::is_cancelled`](super::Context::is_cancelled) says so to the task; if it
    /// still runs after a further [`grace`](Self::grace), its worker is killed. Time in which the worker was stopped (SIGSTOP) or
    /// waited for a CPU does not count.
    ///
    /// ```
    /// # use shmworker::pool::TaskOptions;
    /// # use std::time::Duration;
    /// // After 10 s it is asked to end, after 11 s its worker is killed.
    /// let options = TaskOptions::new().timeout(Duration::from_secs(10)).grace(Duration::from_secs(1));
    /// # let _ = options;
    /// ```
    pub const fn timeout(mut self, at_most: Duration) -> TaskOptions {
        self.timeout = Some(at_most);
        self
    }

    /// How long after its [timeout](Self::timeout) a task has to end by itself; by default 5 s.
    pub const fn grace(mut self, grace: Duration) -> TaskOptions {
        self.grace = grace;
        self
    }

    /// How long an attempt may be silent: between two [heartbeats](super::Context::heartbeat). Then its worker is killed.
    ///
    /// ```
    /// # use shmworker::pool::TaskOptions;
    /// # use std::time::Duration;
    /// let options = TaskOptions::new().heartbeat_timeout(Duration::from_secs(5)).attempts(2);
    /// # let _ = options;
    /// ```
    pub const fn heartbeat_timeout(mut self, at_most: Duration) -> TaskOptions {
        self.silence = Some(at_most);
        self
    }

    /// How long from now it may wait before its last attempt begins.
    ///
    /// ```
    /// # use shmworker::pool::TaskOptions;
    /// # use std::time::Duration;
    /// // Nobody is interested in it any more then.
    /// let options = TaskOptions::new().expires_in(Duration::from_millis(500));
    /// # let _ = options;
    /// ```
    pub const fn expires_in(mut self, at_most: Duration) -> TaskOptions {
        self.expires_in = Some(at_most);
        self
    }

    /// May tasks with these options run many at a time, as one? Not if something is said of the time of each.
    pub(super) fn may_be_chunked(&self) -> bool {
        self.timeout.is_none() && self.silence.is_none() && self.expires_in.is_none() && self.first_pause.is_zero()
    }

    pub(super) fn is_retried_after_a_death(&self) -> bool {
        self.retry_on & retry_on::DIED != 0
    }

    /// Makes the task a part of a trace: W3C's [`traceparent`](https://www.w3.org/TR/trace-context/#traceparent-header) of the span that
    /// is its parent. Its handler finds it by [`Context::traceparent`](super::Context::traceparent). By default there is none.
    ///
    /// # Errors
    /// [`NoTraceParent`]: it is none.
    ///
    /// ```
    /// # use shmworker::pool::TaskOptions;
    /// let of_request = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    /// let options = TaskOptions::new().traceparent(of_request)?;
    /// # let _ = options;
    /// # Ok::<(), shmworker::pool::NoTraceParent>(())
    /// ```
    pub fn traceparent(mut self, parent: &str) -> Result<TaskOptions, NoTraceParent> {
        self.trace = Some(parent.parse()?);
        Ok(self)
    }

    #[cfg(feature = "otlp")]
    pub(crate) fn trace(&self) -> Option<TraceParent> {
        self.trace
    }

    #[cfg(feature = "otlp")]
    pub(crate) fn traced(mut self, parent: Option<TraceParent>) -> TaskOptions {
        self.trace = parent.or(self.trace);
        self
    }

    pub(super) const fn submission(&self, queue: usize, kind: u32) -> Submission {
        let (timeout_ms, run_ms) = match self.timeout {
            Some(t) => (ms(t), ms(t.saturating_add(self.grace))),
            None => (0, 0),
        };
        let silence_ms = match self.silence {
            Some(t) => ms(t),
            None => 0,
        };
        Submission {
            kind,
            max_attempts: self.attempts,
            expires_in: self.expires_in,
            timeout_ms,
            limits: Limits { run_ms, silence_ms },
            backoff: Backoff { first_ms: ms_or_none(self.first_pause), longest_ms: ms_or_none(self.longest_pause) },
            retry_on: self.retry_on,
            max_deaths: self.max_worker_deaths,
            trace: self.trace,
            // A span without times says little.
            is_timed: self.trace.is_some(),
            ..Submission::new(To::Queue(queue))
        }
    }
}

/// Whole milliseconds, at least one: 0 would be no limit.
const fn ms(t: Duration) -> u32 {
    match ms_or_none(t) {
        0 => 1,
        ms => ms,
    }
}

const fn ms_or_none(t: Duration) -> u32 {
    // Not `as_millis`, which divides: each submission comes by here.
    let ms = t.as_secs().saturating_mul(1000).saturating_add(t.subsec_millis() as u64);
    if ms < u32::MAX as u64 { ms as u32 } else { u32::MAX }
}
