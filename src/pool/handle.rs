//! Handles: what stands for a task until its result is there.

use super::{
    client::{Client, Done, Lost},
    codec::{CodecError, Wire},
    home::AnotherProcess,
    worker::{STATUS_FAILED, STATUS_PANICKED, STATUS_TOO_LARGE, STATUS_UNKNOWN},
};
use crate::{
    TaskId,
    error::Corrupted,
    exec::endpoint::{CoordinatorDied, STATUS_OK},
    lockfree::{table::Cancel, word::Outcome},
    process::exit::Exit,
};
use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

/// A submitted task. [`wait`](Self::wait) for it, or `.await` it. Dropping the handle does not cancel the task; its result is
/// then dropped too.
#[must_use = "a dropped handle drops the result"]
pub struct Handle<O: Wire> {
    client: Arc<Client>,
    tag: usize,
    task: TaskId,
    is_over: bool,
    output: PhantomData<fn() -> O>,
}

impl<O: Wire> fmt::Debug for Handle<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&self.task).finish()
    }
}

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// The task's own error.
    #[error("the task failed: {0}")]
    Failed(String),
    /// It panicked: where, and with which message.
    #[error("the task panicked at {0}")]
    Panicked(String),
    /// Its worker died over it, and no attempt was left.
    #[error("the task's worker died: {0}")]
    Died(String),
    /// It ran, or was silent, for longer than it may, and no attempt was left.
    #[error("the task ran out of time")]
    TimedOut,
    /// It was cancelled before it ran, or ended when it was asked to.
    #[error("the task was cancelled")]
    Cancelled,
    /// It waited for longer than it may before it ran.
    #[error("the task's time was over before it could run")]
    Expired,
    /// Whom it was addressed to has died.
    #[error("the worker that the task was for has died")]
    AddresseeDied,
    /// The workers' program has no such task.
    #[error("the workers have no task with this number: they are of another program")]
    Unknown,
    /// The output is too large for the segment.
    #[error("{0}")]
    TooLarge(String),
    /// The bytes of the result are no value of the type asked for.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The coordinator died first.
    #[error(transparent)]
    CoordinatorDied(#[from] CoordinatorDied),
    /// The segment is damaged.
    #[error(transparent)]
    Corrupted(#[from] Corrupted),
    /// This process is a fork of the one whose task it is.
    #[error(transparent)]
    AnotherProcess(#[from] AnotherProcess),
}

impl From<Lost> for TaskError {
    fn from(lost: Lost) -> TaskError {
        match lost {
            Lost::CoordinatorDied(e) => e.into(),
            Lost::Corrupted(e) => e.into(),
            Lost::AnotherProcess(e) => e.into(),
        }
    }
}

impl<O: Wire> Handle<O> {
    pub(crate) fn new(client: Arc<Client>, tag: usize, task: TaskId) -> Handle<O> {
        Handle { client, tag, task, is_over: false, output: PhantomData }
    }

    /// Waits for the result.
    ///
    /// # Errors
    /// [`TaskError`] if there is none.
    pub fn wait(mut self) -> Result<O::Owned, TaskError> {
        let done = self.client.wait(self.tag, None);
        self.is_over = true;
        result::<O>(&done?.unwrap_or_else(|| unreachable!("there is no time limit")))
    }

    /// Waits for the result, at most for so long; then the handle comes back.
    ///
    /// # Errors
    /// The handle, if the time is over.
    pub fn wait_timeout(mut self, at_most: Duration) -> Result<Result<O::Owned, TaskError>, Handle<O>> {
        let until = Instant::now().checked_add(at_most);
        match self.client.wait(self.tag, until) {
            Ok(None) => Err(self),
            Ok(Some(done)) => {
                self.is_over = true;
                Ok(result::<O>(&done))
            }
            Err(lost) => Ok(Err(lost.into())),
        }
    }

    /// Cancels the task if it does not run yet, and asks it to end if it does. What becomes of it the wait tells.
    ///
    /// # Errors
    /// [`TaskError::Corrupted`] if the segment is damaged, [`TaskError::AnotherProcess`] in a fork.
    pub fn cancel(&self) -> Result<(), TaskError> {
        self.client.check_home()?;
        self.client.endpoint().cancel(self.task).map(|_: Cancel| ()).map_err(TaskError::from)
    }
}

impl<O: Wire> Future for Handle<O> {
    type Output = Result<O::Owned, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.client.poll(self.tag, context).map(|done| {
            self.is_over = true;
            result::<O>(&*done?)
        })
    }
}

impl<O: Wire> Drop for Handle<O> {
    fn drop(&mut self) {
        if !self.is_over {
            self.client.forget(self.tag);
        }
    }
}

fn result<O: Wire>(done: &Done) -> Result<O::Owned, TaskError> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let bytes = done.output.bytes()?;
    Err(match done.outcome {
        Outcome::Completed => match done.status {
            STATUS_OK => return Ok(O::decode(bytes)?),
            STATUS_FAILED => TaskError::Failed(text(bytes)),
            STATUS_PANICKED => TaskError::Panicked(text(bytes)),
            STATUS_UNKNOWN => TaskError::Unknown,
            STATUS_TOO_LARGE => TaskError::TooLarge(text(bytes)),
            _ => TaskError::Failed("its worker gave it up".to_owned()),
        },
        Outcome::WorkerDied => TaskError::Died(Exit::unpack(done.exit).to_string()),
        Outcome::TimedOut => TaskError::TimedOut,
        Outcome::Cancelled => TaskError::Cancelled,
        Outcome::Expired => TaskError::Expired,
        Outcome::AddresseeDied => TaskError::AddresseeDied,
    })
}
