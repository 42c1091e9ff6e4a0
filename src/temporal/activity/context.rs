//! What an attempt sees of itself, and the ways in which it is not alone: heartbeats out, cancellation and the end of the
//! worker in, what its process has made for all of them.

use super::{
    ActivityCancelReason, ActivityError, ApplicationFailure, Payload, Priority, RegisterOptions, RetryPolicy,
    TaskToken, TemporalDeserializable, TemporalSerializable, convert, heartbeat::Heartbeats, link::Link, state::States,
};
use crate::{exec::endpoint::SubmitError, temporal::converter::Converter};
use std::{
    any::{Any, type_name},
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};
use temporalio_common::{
    data_converters::PayloadConversionError,
    protos::coresdk::{ActivityHeartbeat, activity_task::Start},
};
use tokio::{runtime::Handle, sync::watch};

/// What the attempts of one process share.
pub(super) struct Surroundings {
    pub(super) task_queue: String,
    pub(super) states: States,
    pub(super) converter: Converter,
    /// True once this process, or the whole worker, is about to end.
    pub(super) shutdown: watch::Sender<bool>,
}

/// What one attempt of an activity knows, and how it talks to the server while it runs.
///
/// A clone is another handle to the same attempt. Every method may be called from async handlers, from blocking ones,
/// and from threads that a handler starts.
#[derive(Clone)]
pub struct ActivityContext {
    attempt: Arc<Attempt>,
}

struct Attempt {
    info: ActivityInfo,
    /// Set before the handler is called, once the codec has decoded them.
    received: OnceLock<Received>,
    heartbeats: Arc<Heartbeats>,
    link: Arc<dyn Link>,
    kill_after: Option<Duration>,
    surroundings: Arc<Surroundings>,
    cancelled: watch::Sender<Option<ActivityCancelReason>>,
}

/// Payloads that came with the task, beside the input.
#[derive(Default)]
struct Received {
    headers: HashMap<String, Payload>,
    last_heartbeat: Vec<Payload>,
}

/// The facts of one attempt, as they stood when it started.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ActivityInfo {
    /// Names this attempt to the server, for a client that completes it from outside
    /// ([`ActivityError::WillCompleteAsync`]).
    pub task_token: Vec<u8>,
    /// The activity's id, the same in all its attempts.
    pub activity_id: String,
    /// The name under which the handler is registered.
    pub activity_type: String,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// The namespace of the activity, and of its workflow.
    pub namespace: String,
    /// The queue from which this process takes its activities.
    pub task_queue: String,
    /// The type of the workflow that asked for this activity; `None` if a client did.
    pub workflow_type: Option<String>,
    /// The id of that workflow.
    pub workflow_id: Option<String>,
    /// The run id of that workflow.
    pub workflow_run_id: Option<String>,
    /// The run id of the activity itself, when a client asked for it and no workflow.
    pub activity_run_id: Option<String>,
    /// Whether this is a local activity, for which heartbeats mean nothing.
    pub is_local: bool,
    /// When the first attempt was scheduled.
    pub scheduled_time: Option<SystemTime>,
    /// When this attempt was scheduled.
    pub current_attempt_scheduled_time: Option<SystemTime>,
    /// When this attempt started.
    pub started_time: Option<SystemTime>,
    /// How long all attempts together may take.
    pub schedule_to_close_timeout: Option<Duration>,
    /// How long this attempt may take.
    pub start_to_close_timeout: Option<Duration>,
    /// How long the attempt may go without a heartbeat.
    pub heartbeat_timeout: Option<Duration>,
    /// When the server gives up on this attempt: the earlier of the two close timeouts.
    pub deadline: Option<SystemTime>,
    /// The policy in force, which may differ from the one that was asked for.
    pub retry_policy: Option<RetryPolicy>,
    /// The priority among the tasks of the queue.
    pub priority: Priority,
}

impl ActivityContext {
    /// The facts of `start`; what it holds for the handler is given by [`receive`](Self::receive). `runtime`: that of the
    /// process.
    pub(super) fn new(
        task_token: Vec<u8>,
        start: Start,
        options: RegisterOptions,
        surroundings: Arc<Surroundings>,
        link: Arc<dyn Link>,
        runtime: Handle,
    ) -> Self {
        let scheduled_time = known(start.scheduled_time);
        let started_time = known(start.started_time);
        let schedule_to_close_timeout = limit(start.schedule_to_close_timeout);
        let start_to_close_timeout = limit(start.start_to_close_timeout);
        let (workflow_id, workflow_run_id) = start.workflow_execution.map(|w| (w.workflow_id, w.run_id)).unzip();
        let info = ActivityInfo {
            task_token,
            activity_id: start.activity_id,
            activity_type: start.activity_type,
            attempt: start.attempt,
            namespace: start.workflow_namespace,
            task_queue: surroundings.task_queue.clone(),
            workflow_type: named(Some(start.workflow_type)),
            workflow_id: named(workflow_id),
            workflow_run_id: named(workflow_run_id),
            activity_run_id: named(Some(start.run_id)),
            is_local: start.is_local,
            scheduled_time,
            current_attempt_scheduled_time: known(start.current_attempt_scheduled_time),
            started_time,
            schedule_to_close_timeout,
            start_to_close_timeout,
            heartbeat_timeout: limit(start.heartbeat_timeout),
            deadline: [(scheduled_time, schedule_to_close_timeout), (started_time, start_to_close_timeout)]
                .into_iter()
                .filter_map(|(from, limit)| from?.checked_add(limit?))
                .min(),
            retry_policy: start.retry_policy.map(Into::into),
            priority: start.priority.map(Into::into).unwrap_or_default(),
        };
        let (token, timeout) = (info.task_token.clone(), info.heartbeat_timeout);
        let heartbeats = Heartbeats::new(token, Arc::clone(&link), runtime, timeout, start.heartbeat_details);
        let heartbeats = Arc::new(heartbeats);
        if let (true, false, Some(timeout)) = (options.auto_heartbeat, info.is_local, timeout) {
            heartbeats.repeat(timeout / 3);
        }
        let attempt = Attempt {
            info,
            received: OnceLock::new(),
            heartbeats,
            link,
            kill_after: options.kill_after,
            surroundings,
            cancelled: watch::Sender::new(None),
        };
        Self { attempt: Arc::new(attempt) }
    }

    /// Keeps the decoded payloads of the task but for the input, which it returns.
    pub(super) fn receive(&self, decoded: Start) -> Vec<Payload> {
        let (headers, last_heartbeat) = (decoded.header_fields, decoded.heartbeat_details);
        let first = self.attempt.received.set(Received { headers, last_heartbeat });
        debug_assert!(first.is_ok(), "an attempt is given its payloads once");
        decoded.input
    }

    fn received(&self) -> &Received {
        self.attempt.received.get_or_init(Received::default)
    }

    /// Whether both are handles to one attempt.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.attempt, &other.attempt)
    }

    pub(super) fn converter(&self) -> &Converter {
        &self.attempt.surroundings.converter
    }

    /// The facts of this attempt.
    pub fn info(&self) -> &ActivityInfo {
        &self.attempt.info
    }

    /// Names this attempt to a client that is to complete it from outside, after [`ActivityError::WillCompleteAsync`].
    ///
    /// It can be written down (`serde`) and handed on; `temporalio_client` takes it as
    /// `ActivityIdentifier::from_task_token(token)`. See [`activity`](super), "Completion from outside".
    pub fn task_token(&self) -> TaskToken {
        self.info().task_token.clone().into()
    }

    /// The value of type `T` that this process has made for all its attempts
    /// ([`Activities::state`](super::Activities::state)).
    ///
    /// # Errors
    ///
    /// If no state of this type is registered.
    pub fn state<T: Any + Send + Sync>(&self) -> Result<&T, ActivityError> {
        self.attempt.surroundings.states.get().ok_or_else(|| {
            let name = type_name::<T>();
            ApplicationFailure::new(format!("no state of type {name} is registered: call Activities::state")).into()
        })
    }

    /// The headers that came with the activity.
    pub fn headers(&self) -> &HashMap<String, Payload> {
        &self.received().headers
    }

    /// The span of this attempt, as W3C's `traceparent`, while it runs: the parent of the spans of a handler, and of what it asks of
    /// others. `None` unless the worker sends spans ([`Worker::otlp`](crate::temporal::Worker::otlp), `--otlp`).
    ///
    /// ```
    /// # use shmworker::temporal::activity::ActivityContext;
    /// fn header(context: &ActivityContext) -> Option<String> {
    ///     context.traceparent().map(|parent| format!("traceparent: {parent}"))
    /// }
    /// ```
    #[cfg(feature = "otlp")]
    pub fn traceparent(&self) -> Option<String> {
        self.attempt.link.trace().map(|parent| parent.to_string())
    }

    /// Tells the server that this attempt is alive, and how far it has come.
    ///
    /// If the attempt fails or its process dies, the next one finds `details` in [`last_heartbeat`]: the newest that were
    /// recorded, also if they had not gone to the server yet. So a checkpoint is a heartbeat. Call it as often as there is
    /// news, for each record if you like: it costs a microsecond or two, and what goes on to the server is throttled. Pass `&()`
    /// if there is nothing to say: that replaces what was said before. A local activity has no heartbeat: the call does nothing.
    ///
    /// ```
    /// # use shmworker::temporal::activity::{ActivityContext, ActivityError};
    /// fn import(context: ActivityContext, files: Vec<String>) -> Result<usize, ActivityError> {
    ///     let done = context.last_heartbeat::<usize>()?.unwrap_or(0);
    ///     for (i, file) in files.iter().enumerate().skip(done) {
    ///         // … import `file` …
    /// #       let _ = file;
    ///         context.heartbeat(&(i + 1))?;
    ///     }
    ///     Ok(files.len())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// If `details` cannot be encoded, or are larger than a message may be. (The server takes less: 2 MiB as a rule.)
    ///
    /// [`last_heartbeat`]: Self::last_heartbeat
    pub fn heartbeat<T: TemporalSerializable + 'static>(&self, details: &T) -> Result<(), ActivityError> {
        if !self.info().is_local {
            let details = convert::encode_all(details, self.converter())?;
            self.record(self.encoded(details)?)?;
        }
        Ok(())
    }

    /// These details as the codec has them.
    pub(super) fn encoded(&self, details: Vec<Payload>) -> Result<Vec<Payload>, PayloadConversionError> {
        match self.converter().codec() {
            None => Ok(details),
            Some(codec) => Ok(codec.encode_now(ActivityHeartbeat { details, ..Default::default() })?.details),
        }
    }

    /// A heartbeat with these details, which the codec has encoded.
    ///
    /// # Errors
    /// They are more than can be kept.
    pub(super) fn record(&self, details: Vec<Payload>) -> Result<(), SubmitError> {
        if self.info().is_local { Ok(()) } else { self.attempt.heartbeats.record(details) }
    }

    /// A heartbeat with the details of the one before.
    pub(super) fn beat(&self) {
        if !self.info().is_local {
            self.attempt.heartbeats.beat();
        }
    }

    /// The details of the last heartbeat of an earlier attempt.
    pub(super) fn last_details(&self) -> &[Payload] {
        &self.received().last_heartbeat
    }

    /// The details of the last heartbeat of an earlier attempt: where to take up the work. `None` if there was none.
    ///
    /// # Errors
    ///
    /// If the details are not a `T`.
    pub fn last_heartbeat<T: TemporalDeserializable + 'static>(&self) -> Result<Option<T>, ActivityError> {
        let details = self.last_details();
        if details.is_empty() {
            return Ok(None);
        }
        let what = format_args!("the last heartbeat of activity {:?}", self.info().activity_type);
        convert::decode(details.to_vec(), self.converter(), what).map(Some)
    }

    /// Whether this attempt has been asked to end.
    pub fn is_cancelled(&self) -> bool {
        self.cancel_reason().is_some()
    }

    /// Returns once this attempt has been asked to end.
    ///
    /// A blocking handler that has to sleep until then can run it with `tokio::runtime::Handle::current().block_on(..)`.
    pub async fn cancelled(&self) {
        // The error says that the sender is gone: it is in `self`.
        let _ = self.attempt.cancelled.subscribe().wait_for(Option::is_some).await;
    }

    /// Whether this process, or the whole worker, is about to end.
    ///
    /// Attempts that run may finish: those that still do after the grace period (`--grace`) are cancelled, with
    /// [`ActivityCancelReason::WorkerShutdown`]. A long one can use the time to record a last heartbeat and fail, so that its
    /// next attempt goes on elsewhere at once.
    pub fn is_worker_shutdown(&self) -> bool {
        *self.attempt.surroundings.shutdown.borrow()
    }

    /// Returns once this process, or the whole worker, is about to end: see [`is_worker_shutdown`](Self::is_worker_shutdown).
    pub async fn worker_shutdown(&self) {
        // As in `cancelled`.
        let _ = self.attempt.surroundings.shutdown.subscribe().wait_for(|&begun| begun).await;
    }

    /// Why this attempt has been asked to end; `None` if it hasn't.
    pub fn cancel_reason(&self) -> Option<ActivityCancelReason> {
        *self.attempt.cancelled.borrow()
    }

    /// The first reason stays.
    pub(super) fn cancel(&self, reason: ActivityCancelReason) {
        let is_first = self.attempt.cancelled.send_if_modified(|current| {
            let is_first = current.is_none();
            current.get_or_insert(reason);
            is_first
        });
        if let (true, Some(grace)) = (is_first, self.attempt.kill_after) {
            self.attempt.link.kill_after(grace);
        }
    }

    /// The attempt has ended: its heartbeats have too.
    pub(super) fn end(&self) {
        self.attempt.heartbeats.end();
    }
}

impl fmt::Debug for ActivityContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActivityContext")
            .field("info", self.info())
            .field("cancelled", &self.cancel_reason())
            .finish_non_exhaustive()
    }
}

/// The messages say "none" with an empty string.
fn named(name: Option<String>) -> Option<String> {
    name.filter(|name| !name.is_empty())
}

/// The messages say "no limit" with zero, too.
fn limit(duration: Option<impl TryInto<Duration>>) -> Option<Duration> {
    duration?.try_into().ok().filter(|limit| !limit.is_zero())
}

fn known(time: Option<impl TryInto<SystemTime>>) -> Option<SystemTime> {
    time?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::endpoint::SubmitError;
    use temporalio_common::protos::{coresdk::ActivityTaskCompletion, temporal::api::common::v1::WorkflowExecution};

    fn context(start: Start) -> ActivityContext {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let surroundings = Surroundings {
            task_queue: "queue".into(),
            states: States::default(),
            converter: Converter::default(),
            shutdown: watch::Sender::default(),
        };
        let (options, link) = (RegisterOptions::default(), Arc::new(Nobody));
        let (handle, surroundings) = (runtime.handle().clone(), Arc::new(surroundings));
        let context = ActivityContext::new(b"token".to_vec(), start.clone(), options, surroundings, link, handle);
        context.receive(start);
        context
    }

    struct Nobody;

    impl Link for Nobody {
        fn keep(&self, heartbeat: &ActivityHeartbeat) -> Result<(), SubmitError> {
            panic!("{heartbeat:?}")
        }
        fn send(&self, heartbeat: &ActivityHeartbeat) {
            panic!("{heartbeat:?}")
        }
        fn kill_after(&self, _: Duration) {}
        fn complete(&self, _: ActivityTaskCompletion) {}
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_facts_of_the_attempt_are_those_of_its_task() {
        let sut = context(Start {
            workflow_namespace: "default".into(),
            workflow_type: "order".into(),
            workflow_execution: Some(WorkflowExecution { workflow_id: "order-7".into(), run_id: "run".into() }),
            activity_id: "1".into(),
            activity_type: "charge".into(),
            header_fields: HashMap::from([("trace".into(), Payload::default())]),
            scheduled_time: Some(at(100).into()),
            started_time: Some(at(130).into()),
            attempt: 3,
            schedule_to_close_timeout: Some(Duration::from_secs(60).try_into().unwrap()),
            start_to_close_timeout: Some(Duration::from_secs(20).try_into().unwrap()),
            heartbeat_timeout: Some(Duration::from_secs(5).try_into().unwrap()),
            ..Default::default()
        });
        let info = sut.info();
        assert_eq!((&*info.task_token, info.attempt, info.is_local), (&b"token"[..], 3, false));
        assert_eq!((&*info.activity_type, &*info.activity_id), ("charge", "1"));
        assert_eq!((&*info.namespace, &*info.task_queue), ("default", "queue"));
        assert_eq!(
            (info.workflow_type.as_deref(), info.workflow_id.as_deref(), info.workflow_run_id.as_deref()),
            (Some("order"), Some("order-7"), Some("run"))
        );
        assert_eq!((info.scheduled_time, info.started_time), (Some(at(100)), Some(at(130))));
        assert_eq!(info.heartbeat_timeout, Some(Duration::from_secs(5)));
        assert_eq!(info.deadline, Some(at(150)), "the attempt's own limit is the earlier one");
        assert!(sut.headers().contains_key("trace"));
    }

    #[test]
    fn empty_names_and_zero_limits_are_none() {
        let sut = context(Start {
            workflow_execution: Some(WorkflowExecution::default()),
            scheduled_time: Some(at(100).into()),
            started_time: Some(at(130).into()),
            schedule_to_close_timeout: Some(Duration::from_secs(40).try_into().unwrap()),
            start_to_close_timeout: Some(Duration::ZERO.try_into().unwrap()),
            ..Default::default()
        });
        let info = sut.info();
        assert_eq!((&info.workflow_type, &info.workflow_id, &info.workflow_run_id), (&None, &None, &None));
        assert_eq!((info.start_to_close_timeout, info.heartbeat_timeout), (None, None));
        assert_eq!(info.deadline, Some(at(140)), "the only limit there is");
        assert_eq!(context(Start::default()).info().deadline, None);
    }

    #[test]
    fn the_last_heartbeat_is_that_of_an_earlier_attempt() {
        let heartbeat_details = convert::encode_all(&17_u32, &Converter::default()).unwrap();
        let sut = context(Start { activity_type: "scan".into(), heartbeat_details, ..Default::default() });
        assert_eq!(sut.last_heartbeat::<u32>().unwrap(), Some(17));
        let error = sut.last_heartbeat::<String>().unwrap_err();
        let ActivityError::Application(failure) = error else { panic!("{error:?}") };
        assert!(failure.to_string().starts_with("cannot decode the last heartbeat of activity \"scan\""), "{failure}");
        assert_eq!(context(Start::default()).last_heartbeat::<u32>().unwrap(), None);
    }

    #[test]
    fn a_local_activity_has_no_heartbeat() {
        let start = Start { is_local: true, ..Default::default() };
        let sut = context(start);
        sut.heartbeat(&1).unwrap();
    }

    #[test]
    fn the_first_reason_to_cancel_stays() {
        let sut = context(Start::default());
        assert_eq!((sut.is_cancelled(), sut.cancel_reason()), (false, None));
        sut.cancel(ActivityCancelReason::TimedOut);
        sut.cancel(ActivityCancelReason::Cancelled);
        assert_eq!((sut.is_cancelled(), sut.cancel_reason()), (true, Some(ActivityCancelReason::TimedOut)));
    }
}
