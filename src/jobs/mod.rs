//! Jobs: tasks that come as JSON and whose ends go out as JSON, from the shell (`shmworker jobs`) or from a queue
//! (`sources`).

mod exec;
mod job;
mod line;
mod runner;
mod tasks;

#[cfg(any(fuzzing, test))]
pub(crate) use exec::Input as ProgramArgs;
#[cfg(feature = "cli")]
pub(crate) use exec::{Output, Text};
pub use job::{Job, JobResult, Status};
pub use runner::{Alarm, Defaults, Runner};
pub use tasks::builtin;
