//! What goes in and what comes out: one JSON object each.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::time::Duration;

/// A task to run, as JSON: `{"task":"sha256","args":"some text","label":"x","timeout":"2s","retries":3,"key":"…"}`. All but the task may
/// be left out.
///
/// ```
/// use shmworker::jobs::Job;
///
/// let job: Job = serde_json::from_str(r#"{"task":"echo","args":[1,2],"timeout":"1m30s"}"#)?;
/// assert_eq!(job.args.as_deref().map(|args| args.get()), Some("[1,2]"));
/// assert_eq!(job.timeout, Some(std::time::Duration::from_secs(90)));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Job {
    /// The name under which the workers have it.
    pub task: String,
    /// Its input, as it was written; `null` if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Box<RawValue>>,
    /// What its result is to be known by; not looked at otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// How long an attempt may run: `"250ms"`, `"2s"`, `"1m30s"`.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "humantime_serde")]
    pub timeout: Option<Duration>,
    /// How many attempts there may be after the first, at most 254.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u8>,
    /// An idempotency key: a job whose key is that of another which is not over gets the other's result, and is not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The span that is its parent, as W3C's `traceparent`: its task is a part of that trace. A program has it as `TRACEPARENT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

impl Job {
    /// To run this task, of which nothing else is said.
    ///
    /// ```
    /// let job = shmworker::jobs::Job::new("echo");
    /// assert_eq!(serde_json::to_string(&job)?, r#"{"task":"echo"}"#);
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    pub fn new(task: impl Into<String>) -> Job {
        Job { task: task.into(), args: None, label: None, timeout: None, retries: None, key: None, traceparent: None }
    }
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Status {
    /// There is a result.
    Done,
    /// The task's own error, or there is no such task.
    Failed,
    /// The task panicked.
    Panicked,
    /// Its worker died over it.
    Died,
    /// It ran, or was silent, for longer than it may.
    TimedOut,
    /// It was cancelled.
    Cancelled,
    /// Its time was over before it could run.
    Expired,
}

/// How a job went, as JSON: `{"label":"x","task":"sha256","status":"done","result":"ab…","attempts":1,"worker":"worker:0","pid":4711,
/// "waited_us":12,"ran_us":340}`. What is not known is left out.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[non_exhaustive]
pub struct JobResult {
    /// That of the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The name of the task.
    pub task: String,
    /// How it ended.
    pub status: Status,
    /// What it gave. A program that failed has one too: what it wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<RawValue>>,
    /// Why there is no result, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How often it was begun.
    pub attempts: u32,
    /// The label of the worker that ran it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// The process id of that worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The exit code of the program that it ran, or of the worker that died over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended the program that it ran, or the worker that died over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// From its submission to the beginning of its last attempt, in microseconds.
    pub waited_us: u64,
    /// How long its last attempt ran, in microseconds.
    pub ran_us: u64,
}
