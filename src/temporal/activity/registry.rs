//! The table of activities: names to handlers whose types have been erased.

use super::{
    ActivityContext, ActivityDefinition, ActivityError, Payload, TemporalDeserializable, TemporalSerializable, convert,
    exec::exec,
    plugin::Plugins,
    state::{Init, States},
};
use futures_util::future::{BoxFuture, FutureExt};
use std::{
    any::{Any, TypeId, type_name},
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::Duration,
};

/// The payload of a result, or why there is none.
pub(super) type Outcome = Result<Payload, ActivityError>;

/// Takes the payloads of an input to the outcome.
#[derive(Clone)]
pub(super) enum Handler {
    Async(Arc<dyn Fn(ActivityContext, Vec<Payload>) -> BoxFuture<'static, Outcome> + Send + Sync>),
    Blocking(Arc<dyn Fn(ActivityContext, Vec<Payload>) -> Outcome + Send + Sync>),
}

/// How the attempts of an activity are treated, beside what its handler does: for
/// [`Activities::with_options`].
///
/// ```
/// # use shmworker::temporal::activity::RegisterOptions;
/// use std::time::Duration;
///
/// let options = RegisterOptions::new().auto_heartbeat().kill_after(Duration::from_secs(5));
/// # let _ = options;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegisterOptions {
    pub(super) auto_heartbeat: bool,
    pub(super) kill_after: Option<Duration>,
}

impl RegisterOptions {
    /// No heartbeats but the handler's own, and nobody is killed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Heartbeats go out by themselves, a third of the activity's heartbeat timeout after the last one, with the newest details:
    /// those of the handler, until then those of the earlier attempt. Without a heartbeat timeout, and for a local activity,
    /// there are none.
    ///
    /// They say that the process lives, not that the handler gets on: they stop when the process dies or is stopped, or when an
    /// async handler blocks the thread that all of these share. For a handler that can hang by itself leave this out, and let it
    /// record heartbeats as it gets on. What it is good for: an activity that waits for something else hears of its cancellation,
    /// which the server mentions only in its answer to a heartbeat.
    pub fn auto_heartbeat(mut self) -> Self {
        self.auto_heartbeat = true;
        self
    }

    /// An attempt that still runs so long after it was cancelled is ended by killing its process (SIGKILL). It is then reported
    /// as if it had ended by itself as cancelled.
    ///
    /// All other attempts of that process end with it, as failed; Temporal retries those by their policies. So run such an
    /// activity in processes with one slot, or on a task queue of its own; or its code as a program
    /// ([`Activities::with_exec`]), where only that is killed.
    pub fn kill_after(mut self, grace: Duration) -> Self {
        self.kill_after = Some(grace);
        self
    }
}

#[derive(Clone)]
pub(super) struct Registered {
    pub(super) handler: Handler,
    pub(super) options: RegisterOptions,
}

impl From<Handler> for Registered {
    fn from(handler: Handler) -> Self {
        Self { handler, options: RegisterOptions::default() }
    }
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
    handlers: BTreeMap<String, Registered>,
    states: Vec<Init>,
    pub(super) plugins: Plugins,
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
        self.insert(name.into(), Handler::Async(Arc::new(handler)).into())
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
        self.insert(name.into(), Handler::Blocking(Arc::new(handler)).into())
    }

    /// Adds the activity `exec`, which runs a program ([`ExecInput`](super::ExecInput)) and gives what it wrote
    /// ([`ExecOutput`](super::ExecOutput)); how it ends otherwise says [`exec`](super::exec()). Its heartbeats go out by
    /// themselves: with a heartbeat timeout it hears of its cancellation.
    ///
    /// Whoever may start activities on this worker's task queue then runs any program with the worker's rights. Where that is
    /// more than the server's access control is trusted with, register an activity of your own that runs the one program that
    /// is wanted.
    ///
    /// ```
    /// # use shmworker::temporal::activity::Activities;
    /// let activities = Activities::new().with_exec();
    /// assert!(activities.names().eq(["exec"]));
    /// ```
    ///
    /// # Panics
    ///
    /// If the name is taken.
    pub fn with_exec(self) -> Self {
        self.register("exec", |context, input| async move { exec(&context, input).await })
            .with_options("exec", RegisterOptions::new().auto_heartbeat())
    }

    /// Says how the attempts of an activity are treated that is registered already, in place of what was said before.
    ///
    /// ```
    /// # use shmworker::temporal::activity::{Activities, RegisterOptions};
    /// let activities = Activities::new()
    ///     .register("wait for the courier", |_context, (): ()| async { Ok(()) })
    ///     .with_options("wait for the courier", RegisterOptions::new().auto_heartbeat());
    /// # let _ = activities;
    /// ```
    ///
    /// # Panics
    ///
    /// If no activity has this name.
    pub fn with_options(mut self, name: &str, options: RegisterOptions) -> Self {
        let Some(registered) = self.handlers.get_mut(name) else {
            panic!("no activity {name:?} is registered: give it options after that")
        };
        registered.options = options;
        self
    }

    /// Says how a process makes its own value of type `T`, e.g. a connection or a model: once, before its first attempt. All its
    /// attempts share it, by [`ActivityContext::state`].
    ///
    /// `init` may block. If it fails the process says why and ends, without having taken a task; another takes its place after a
    /// pause that grows. If five in a row fail, the worker ends.
    ///
    /// ```
    /// # use shmworker::temporal::activity::Activities;
    /// struct Stopwords(Vec<String>);
    ///
    /// let activities = Activities::new()
    ///     .state(|| Ok(Stopwords(std::fs::read_to_string("stopwords.txt")?.lines().map(str::to_owned).collect())))
    ///     .register("is common", |context, word: String| async move {
    ///         Ok(context.state::<Stopwords>()?.0.contains(&word))
    ///     });
    /// # let _ = activities;
    /// ```
    ///
    /// # Panics
    ///
    /// If one is registered for this type.
    pub fn state<T, F>(self, init: F) -> Self
    where
        T: Any + Send + Sync,
        F: Fn() -> Result<T, ActivityError> + Send + Sync + 'static,
    {
        let init = Arc::new(init);
        self.state_async(move || {
            let init = Arc::clone(&init);
            async move {
                // Its panic is the process's, whose message has been printed.
                tokio::task::spawn_blocking(move || init())
                    .await
                    .unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
            }
        })
    }

    /// As [`state`](Self::state), for an `init` that awaits; what it starts on the runtime goes on.
    ///
    /// # Panics
    ///
    /// If one is registered for this type.
    pub fn state_async<T, F, Fut>(mut self, init: F) -> Self
    where
        T: Any + Send + Sync,
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, ActivityError>> + Send + 'static,
    {
        let (id, name) = (TypeId::of::<T>(), type_name::<T>());
        assert!(!self.states.iter().any(|state| state.is_of(id)), "a state of type {name} is registered already");
        self.states.push(Init::new(init));
        self
    }

    /// The names in alphabetical order, but for those of plug-ins, which are not loaded yet.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.handlers.keys().map(String::as_str)
    }

    /// Whether there are no activities at all.
    pub fn is_empty(&self) -> bool {
        self.handlers.is_empty() && !self.has_plugins()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Registered> {
        self.handlers.get(name)
    }

    /// Makes the values of this process.
    ///
    /// # Errors
    /// Which one could not be made, and why.
    pub(super) async fn make_states(&self) -> Result<States, String> {
        States::make(&self.states).await
    }

    pub(super) fn insert(mut self, name: String, registered: Registered) -> Self {
        assert!(!self.handlers.contains_key(&name), "activity {name:?} is registered twice: give one another name");
        self.handlers.insert(name, registered);
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

    #[test]
    #[should_panic = "no activity \"ecco\" is registered"]
    fn options_are_for_what_is_registered() {
        let _ = Activities::new()
            .register_blocking("echo", |_: ActivityContext, text: String| Ok(text))
            .with_options("ecco", RegisterOptions::new());
    }

    #[test]
    #[should_panic = "a state of type u32 is registered already"]
    fn a_process_has_one_state_of_a_type() {
        let _ = Activities::new().state(|| Ok(1_u32)).state_async(|| async { Ok(2_u32) });
    }
}
