//! What a pool is to be like, before it is started.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a pool is to be like; [`fork`](Self::fork), [`forkserver`](Self::forkserver) or [`exec`](Self::exec) makes it.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    pub(super) settings: Settings,
}

/// What was asked for, as the coordinator is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) workers: Option<usize>,
    pub(super) grace: Duration,
    pub(super) start_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { workers: None, grace: Duration::from_secs(10), start_timeout: Duration::from_secs(30) }
    }
}

impl Builder {
    /// How many worker processes. By default as many as this process may use cores, affinity and cgroup quota counted.
    ///
    /// # Panics
    /// For 0.
    pub fn workers(mut self, n: usize) -> Builder {
        assert!(n > 0, "a pool needs a worker");
        self.settings.workers = Some(n);
        self
    }

    /// How long workers have to end once the pool ends; then they are killed. By default 10 seconds.
    pub fn grace(mut self, grace: Duration) -> Builder {
        self.settings.grace = grace;
        self
    }

    /// How long the pool's coordinator may take until it has started all workers; then it is killed, and that is
    /// [`StartError::TimedOut`](super::StartError::TimedOut). By default 30 seconds.
    pub fn start_timeout(mut self, at_most: Duration) -> Builder {
        self.settings.start_timeout = at_most;
        self
    }
}
