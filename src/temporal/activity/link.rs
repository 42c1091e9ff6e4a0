//! What ties an attempt to the rest of the pool.

use crate::{exec::endpoint::SubmitError, lockfree::descriptor::TraceParent};
use std::time::Duration;
use temporalio_common::protos::coresdk::{ActivityHeartbeat, ActivityTaskCompletion};

/// One attempt, as the process that runs it is seen from outside. Called on any thread.
pub(crate) trait Link: Send + Sync {
    /// Keeps the newest heartbeat where it outlives this process, in place of the one before. If there is no room for it at
    /// present, the one before stands.
    ///
    /// # Errors
    /// There never is room for so much.
    fn keep(&self, heartbeat: &ActivityHeartbeat) -> Result<(), SubmitError>;

    /// Sends a heartbeat on its way to the server.
    fn send(&self, heartbeat: &ActivityHeartbeat);

    /// This process is to be killed unless the attempt ends in time.
    fn kill_after(&self, grace: Duration);

    /// The span of the attempt, while it runs.
    fn trace(&self) -> Option<TraceParent> {
        None
    }

    /// Reports the end. Called once; nothing that is called after it has an effect.
    fn complete(&self, completion: ActivityTaskCompletion);
}
