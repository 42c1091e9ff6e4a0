//! Workers of Temporal side by side: what feeds them, what runs in them, and what a run has to say.

pub mod server;
pub mod worker;
pub mod workflows;

use serde::{Deserialize, Serialize};

/// What one run of one worker has shown; CPU times in seconds, memory in bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// Workflows that have completed while it was measured.
    pub workflows: u64,
    /// For so long, in seconds.
    pub seconds: f64,
    /// CPU time of all processes of the worker meanwhile.
    pub worker_cpu: f64,
    /// CPU time of the server meanwhile, which is one thread: well below `seconds`, or it has been the bottleneck. Nothing is
    /// known of a server in another process.
    pub server_cpu: Option<f64>,
    /// Processes of the worker.
    pub processes: usize,
    /// Their PSS together, at the end.
    pub pss: u64,
}

impl Figures {
    /// Workflows that have completed, per second.
    pub fn rate(&self) -> f64 {
        self.workflows as f64 / self.seconds
    }

    /// CPU time of the worker for one workflow, in seconds.
    pub fn cpu_per_workflow(&self) -> f64 {
        self.worker_cpu / self.workflows as f64
    }
}
