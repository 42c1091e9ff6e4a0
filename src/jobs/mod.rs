//! Jobs: tasks that come as JSON and whose ends go out as JSON, from the shell (`shmworker jobs`) or from a queue
//! ([`sources`](crate::sources)).

mod exec;
mod job;
mod runner;
mod tasks;

pub use job::{Job, JobResult, Status};
pub use runner::{Alarm, Defaults, Runner};
pub use tasks::builtin;
