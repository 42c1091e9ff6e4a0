//! What a program lays around all its activities.

use super::{ActivityContext, ActivityError, Payload};
use std::{fmt, pin::Pin, sync::Arc};

/// How an attempt ends, some time.
pub type ExecuteActivityOutput<'a> = Pin<Box<dyn Future<Output = Result<Payload, ActivityError>> + Send + 'a>>;

/// Sees every attempt of every activity from outside: to measure, to trace, to check who asks, to replace a result.
///
/// Interceptors are entered in the order in which they were added, each around those after it and the handler. They run on
/// the thread of the process's async handlers, also where the handler itself has a thread of its own: they must not block.
/// A panic in one fails the attempt, as one in the handler does.
///
/// ```
/// use shmworker::temporal::activity::{
///     ActivityInterceptor, ExecuteActivityInput, ExecuteActivityNext, ExecuteActivityOutput,
/// };
///
/// struct Announce;
///
/// impl ActivityInterceptor for Announce {
///     fn execute<'a>(
///         &'a self,
///         input: ExecuteActivityInput,
///         next: ExecuteActivityNext<'a>,
///     ) -> ExecuteActivityOutput<'a> {
///         let name = input.context.info().activity_type.clone();
///         Box::pin(async move {
///             let result = next.run(input).await;
///             println!("{name}: {}", if result.is_ok() { "done" } else { "failed" });
///             result
///         })
///     }
/// }
/// ```
pub trait ActivityInterceptor: Send + Sync + 'static {
    /// Runs an attempt: most call `next` once, before or after which they do what they are for. One that doesn't call it
    /// answers in the handler's place.
    fn execute<'a>(&'a self, input: ExecuteActivityInput, next: ExecuteActivityNext<'a>) -> ExecuteActivityOutput<'a>;
}

/// What an attempt begins with.
#[derive(Debug)]
#[non_exhaustive]
pub struct ExecuteActivityInput {
    /// The attempt: its facts, its headers, whether it has been asked to end.
    pub context: ActivityContext,
    /// What the activity was called with, decoded by the payload codec.
    pub arguments: Vec<Payload>,
}

/// The rest of the chain: further interceptors, and the handler.
pub struct ExecuteActivityNext<'a> {
    interceptors: &'a [Arc<dyn ActivityInterceptor>],
    handler: Innermost<'a>,
}

/// The handler, at the end of the chain.
pub(super) type Innermost<'a> = Box<dyn FnOnce(ActivityContext, Vec<Payload>) -> ExecuteActivityOutput<'a> + Send + 'a>;

impl<'a> ExecuteActivityNext<'a> {
    pub(super) fn new(interceptors: &'a [Arc<dyn ActivityInterceptor>], handler: Innermost<'a>) -> Self {
        Self { interceptors, handler }
    }

    /// Goes on with `input`.
    pub fn run(self, input: ExecuteActivityInput) -> ExecuteActivityOutput<'a> {
        match self.interceptors.split_first() {
            Some((next, interceptors)) => next.execute(input, Self { interceptors, ..self }),
            None => (self.handler)(input.context, input.arguments),
        }
    }
}

impl fmt::Debug for ExecuteActivityNext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecuteActivityNext").field("interceptors", &self.interceptors.len()).finish_non_exhaustive()
    }
}
