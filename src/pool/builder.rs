//! What a pool is to be like, before it is started.

use std::time::Duration;

/// What a pool is to be like; [`fork`](Self::fork) makes it.
#[derive(Clone, Debug)]
pub struct Builder {
    pub(super) workers: Option<usize>,
    pub(super) grace: Duration,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder { workers: None, grace: Duration::from_secs(10) }
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

    /// How long workers have to end once the pool ends; then they are killed.
    pub fn grace(mut self, grace: Duration) -> Builder {
        self.grace = grace;
        self
    }
}
