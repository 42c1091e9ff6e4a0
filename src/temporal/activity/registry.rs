//! The table of activities: names to handlers whose types have been erased.

use super::{
    ActivityContext, ActivityDefinition, ActivityError, Payload, TemporalDeserializable, TemporalSerializable, convert,
};
use futures_util::future::{BoxFuture, FutureExt};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// The payload of a result, or why there is none.
pub(super) type Outcome = Result<Payload, ActivityError>;

/// Takes the payloads of an input to the outcome.
#[derive(Clone)]
pub(super) enum Handler {
    Async(Arc<dyn Fn(ActivityContext, Vec<Payload>) -> BoxFuture<'static, Outcome> + Send + Sync>),
    Blocking(Arc<dyn Fn(ActivityContext, Vec<Payload>) -> Outcome + Send + Sync>),
}

/// The activities that a program offers, by name.
///
/// Build the same table in every process. A handler is called from several attempts at a time, so what it shares lies
/// behind an `Arc` or a lock of its own; memory is not shared between processes.
///
/// An activity declared with several inputs takes them as one value, e.g.
/// [`MultiArgs2`](temporalio_common::data_converters::MultiArgs2):
///
/// ```
/// # use shmworker::temporal::activity::{Activities, ActivityError};
/// use temporalio_common::data_converters::MultiArgs2;
///
/// let activities = Activities::new()
///     .register("add", |_context, MultiArgs2(a, b): MultiArgs2<i64, i64>| async move { Ok(a + b) });
/// ```
#[derive(Clone, Default)]
pub struct Activities {
    handlers: BTreeMap<String, Handler>,
}

impl Activities {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an async handler under the name and with the types of `definition`, for work that mostly waits.
    ///
    /// All async attempts of a process share one thread: a handler that computes for long, or calls what blocks, belongs
    /// to [`register_blocking_as`](Self::register_blocking_as).
    ///
    /// # Panics
    ///
    /// If the name is taken.
    pub fn register_as<D, F, Fut>(self, definition: D, handler: F) -> Self
    where
        D: ActivityDefinition,
        F: Fn(ActivityContext, D::Input) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<D::Output, ActivityError>> + Send + 'static,
    {
        self.register(definition.name(), handler)
    }

    /// Adds a handler that computes or blocks, under the name and with the types of `definition`. Each attempt has a
    /// thread of its own.
    ///
    /// # Panics
    ///
    /// If the name is taken.
    pub fn register_blocking_as<D, F>(self, definition: D, handler: F) -> Self
    where
        D: ActivityDefinition,
        F: Fn(ActivityContext, D::Input) -> Result<D::Output, ActivityError> + Send + Sync + 'static,
    {
        self.register_blocking(definition.name(), handler)
    }

    /// Adds an async handler by name alone, for callers that share no definition with it; otherwise prefer
    /// [`register_as`](Self::register_as).
    ///
    /// # Panics
    ///
    /// If the name is taken.
    pub fn register<I, O, F, Fut>(self, name: impl Into<String>, handler: F) -> Self
    where
        I: TemporalDeserializable + 'static,
        O: TemporalSerializable + 'static,
        F: Fn(ActivityContext, I) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, ActivityError>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let handler = move |context: ActivityContext, input| {
            let handler = Arc::clone(&handler);
            async move {
                let input = decode_input(&context, input)?;
                convert::encode(&handler(context.clone(), input).await?, context.converter())
            }
            .boxed()
        };
        self.insert(name.into(), Handler::Async(Arc::new(handler)))
    }

    /// Adds a handler that computes or blocks, by name alone; otherwise prefer
    /// [`register_blocking_as`](Self::register_blocking_as).
    ///
    /// # Panics
    ///
    /// If the name is taken.
    pub fn register_blocking<I, O, F>(self, name: impl Into<String>, handler: F) -> Self
    where
        I: TemporalDeserializable + 'static,
        O: TemporalSerializable + 'static,
        F: Fn(ActivityContext, I) -> Result<O, ActivityError> + Send + Sync + 'static,
    {
        let handler = move |context: ActivityContext, input| {
            let input = decode_input(&context, input)?;
            convert::encode(&handler(context.clone(), input)?, context.converter())
        };
        self.insert(name.into(), Handler::Blocking(Arc::new(handler)))
    }

    /// The names in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.handlers.keys().map(String::as_str)
    }

    /// Whether there are no activities at all.
    pub fn is_empty(&self) -> bool {
        self.handlers.is_empty()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Handler> {
        self.handlers.get(name)
    }

    fn insert(mut self, name: String, handler: Handler) -> Self {
        assert!(!self.handlers.contains_key(&name), "activity {name:?} is registered twice: give one another name");
        self.handlers.insert(name, handler);
        self
    }
}

fn decode_input<I: TemporalDeserializable + 'static>(
    context: &ActivityContext,
    input: Vec<Payload>,
) -> Result<I, ActivityError> {
    let what = format_args!("the input of activity {:?}", context.info().activity_type);
    convert::decode(input, context.converter(), what)
}

impl fmt::Debug for Activities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic = "activity \"echo\" is registered twice"]
    fn a_name_is_registered_once() {
        let echo = |_: ActivityContext, text: String| Ok(text);
        let _ = Activities::new().register_blocking("echo", echo).register_blocking("echo", echo);
    }
}
