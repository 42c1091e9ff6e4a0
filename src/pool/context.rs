//! What a task sees of its surroundings while it runs.

use crate::exec::endpoint::Claimed;

/// What a task sees while it runs: which attempt it is, whether somebody has asked for its end.
pub struct Context<'c> {
    pub(crate) claimed: &'c Claimed<'c>,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("attempt", &self.attempt()).finish_non_exhaustive()
    }
}

impl Context<'_> {
    /// Which attempt this is, from 0.
    pub fn attempt(&self) -> u32 {
        self.claimed.attempt().into()
    }

    /// Has its submitter cancelled it? A task that goes on anyway is none the worse for it: its result is kept.
    pub fn is_cancelled(&self) -> bool {
        self.claimed.is_cancelled()
    }

    /// A sign of life, for tasks whose silence is limited.
    pub fn heartbeat(&self) {
        self.claimed.heartbeat();
    }
}
