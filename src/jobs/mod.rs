//! Jobs: tasks that come as JSON and whose ends go out as JSON, from the shell (`shmworker jobs`) or from a queue
//! ([`sources`](crate::sources)).

mod job;

pub use job::{Job, JobResult, Status};
