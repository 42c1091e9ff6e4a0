//! What a pool is to be like, before it is started.

use crate::WorkerLimits;
use std::time::Duration;

/// What a pool is to be like; [`fork`](Self::fork) makes it.
#[derive(Clone, Debug)]
pub struct Builder {
    pub(super) workers: Option<usize>,
    pub(super) max_workers: Option<usize>,
    pub(super) limits: WorkerLimits,
    pub(super) grace: Duration,
}

impl Default for Builder {
    fn default() -> Builder {
        let limits = WorkerLimits::new();
        Builder { workers: None, max_workers: None, limits, grace: Duration::from_secs(10) }
    }
}

impl Builder {
    /// How many worker processes. By default as many as this process may use cores, affinity and cgroup quota counted.
    ///
    /// # Panics
    /// For 0.
    pub fn workers(mut self, n: usize) -> Builder {
        assert!(n > 0, "a pool needs a worker");
        self.workers = Some(n);
        self
    }

    /// How many there may be once the pool is [resized](super::Pool::resize): each takes some shared memory from the start, about
    /// 30 KiB. By default twice as many as there are at first, and at least 30.
    pub fn max_workers(mut self, n: usize) -> Builder {
        self.max_workers = Some(n);
        self
    }

    /// What each worker may use, and after how much it is replaced by a fresh one.
    pub fn worker_limits(mut self, limits: WorkerLimits) -> Builder {
        self.limits = limits;
        self
    }

    /// How long workers have to end once the pool ends; then they are killed.
    pub fn grace(mut self, grace: Duration) -> Builder {
        self.grace = grace;
        self
    }
}
