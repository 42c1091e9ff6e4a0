//! Runs the attempts of one activity process: many at a time, each reported once.
//!
//! Async handlers are tasks of the process's current-thread runtime, blocking ones threads of its blocking pool. How many
//! run is the caller's business: the host queues nothing, and whatever it is given it starts. (Past 512 threads tokio's
//! pool queues, unless the runtime was built with a larger `max_blocking_threads`.)

use super::{
    Activities, ActivityCancelReason, ActivityContext, ActivityError, ActivityInterceptor, ApplicationFailure,
    ExecuteActivityInput, ExecuteActivityNext, Payload,
    context::Surroundings,
    convert::{encode_result, execution_result, fail, panicked, typed},
    interceptor::Innermost,
    link::Link,
    registry::{Handler, Outcome, Registered},
    state::States,
};
use crate::{
    process::coordinator::label,
    temporal::{UserCode, converter::Converter},
};
use futures_util::future::FutureExt;
use std::{
    collections::HashMap,
    mem,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, Mutex, MutexGuard},
    thread,
};
use temporalio_common::{
    data_converters::PayloadConversionError,
    protos::coresdk::{
        ActivityTaskCompletion,
        activity_result::ActivityExecutionResult,
        activity_task::{ActivityTask, Start, activity_task::Variant},
    },
};
use tokio::{runtime::Handle, sync::watch};
use tracing::Instrument;

/// The attempts that run in this process, and the table of their handlers.
pub(crate) struct ActivityHost {
    activities: Activities,
    surroundings: Arc<Surroundings>,
    interceptors: Arc<[Arc<dyn ActivityInterceptor>]>,
    running: Arc<Running>,
}

/// By task token.
#[derive(Default)]
struct Running(Mutex<HashMap<Vec<u8>, ActivityContext>>);

impl Running {
    fn lock(&self) -> MutexGuard<'_, HashMap<Vec<u8>, ActivityContext>> {
        self.0.lock().expect("no code of a user's runs under this lock")
    }
}

impl ActivityHost {
    /// `states`: what this process has made of the states of the activities.
    pub(crate) fn new(code: impl Into<UserCode>, states: States, task_queue: impl Into<String>) -> Self {
        let UserCode { activities, activity_interceptors, converter, .. } = code.into();
        let (task_queue, shutdown) = (task_queue.into(), watch::Sender::default());
        let surroundings = Arc::new(Surroundings { task_queue, states, converter, shutdown });
        Self { activities, surroundings, interceptors: activity_interceptors.into(), running: Arc::default() }
    }

    /// Starts the attempt that `task` describes.
    ///
    /// `link` hears of its end once, whatever happens: on the thread where the attempt ended, or before `start` returns if it
    /// could not begin, or by the drop of the runtime if that comes first.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub(crate) fn start(&self, task: ActivityTask, link: Arc<dyn Link>) {
        let ActivityTask { task_token, variant } = task;
        let Some(Variant::Start(mut start)) = variant else {
            let failure = ApplicationFailure::new(format!("the activity task has nothing to start: {variant:?}"));
            return link.complete(completion(task_token, fail(failure, &Converter::default())));
        };
        let Some(Registered { handler, options }) = self.activities.get(&start.activity_type).cloned() else {
            let failure = not_registered(&start.activity_type, &self.activities);
            return link.complete(completion(task_token, fail(failure, &Converter::default())));
        };
        // Of the highest level, so that it is there for whatever is logged.
        let span = tracing::error_span!(
            "activity",
            worker = label(),
            task = start.activity_type,
            attempt = start.attempt,
            workflow_id = start.workflow_execution.as_ref().map(|of| &of.workflow_id[..])
        );
        let received = Start {
            input: mem::take(&mut start.input),
            header_fields: mem::take(&mut start.header_fields),
            // The context has its own, as they came.
            heartbeat_details: start.heartbeat_details.clone(),
            ..Default::default()
        };
        let codec = self.surroundings.converter.codec();
        let (surroundings, runtime) = (Arc::clone(&self.surroundings), Handle::current());
        let context = ActivityContext::new(task_token, start, options, surroundings, Arc::clone(&link), runtime);
        self.running.lock().insert(context.info().task_token.clone(), context.clone());
        let ending = Ending { running: Arc::clone(&self.running), context: context.clone(), link: Some(link) };
        // Errors are turned into failures inside the catch as well: that calls `Display` and `Serialize` of the user's.
        if let (Handler::Blocking(handler), None, []) = (&handler, &codec, &*self.interceptors) {
            let handler = Arc::clone(handler);
            drop(tokio::task::spawn_blocking(move || {
                let _entered = span.enter();
                let input = context.receive(received);
                let end =
                    catch_unwind(AssertUnwindSafe(|| execution_result(handler(context.clone(), input), &context)));
                ending.report(end);
            }));
            return;
        }
        let interceptors = Arc::clone(&self.interceptors);
        let ends = async move {
            let attempt = AssertUnwindSafe(async {
                let decoded = match &codec {
                    None => Ok(received),
                    Some(codec) => codec.decode_for_activity(received).await,
                };
                let outcome = match decoded {
                    Ok(decoded) => {
                        let arguments = context.receive(decoded);
                        run(&interceptors, handler, context.clone(), arguments).await
                    }
                    Err(error) => Err(undecoded(error)),
                };
                execution_result(outcome, &context)
            });
            // What a panic says is the user's as well: it goes out as other failures do.
            let encoded = AssertUnwindSafe(async {
                let end = attempt.catch_unwind().await;
                let result = end.unwrap_or_else(|panic| fail(panicked(panic), context.converter()));
                match &codec {
                    None => result,
                    Some(codec) => encode_result(result, codec).await,
                }
            });
            let end = encoded.catch_unwind().await;
            ending.report(end);
        };
        drop(tokio::spawn(ends.instrument(span)));
    }

    /// Asks the attempt that `task` names to end. One that has ended already, or never started here, is ignored.
    pub(crate) fn cancel(&self, task: ActivityTask) {
        if let Some(Variant::Cancel(cancel)) = task.variant {
            let context = self.running.lock().get(&task.task_token).cloned();
            if let Some(context) = context {
                context.cancel(cancel.reason());
            }
        }
    }

    /// Asks all attempts that run now to end; those that start later are not affected.
    pub(crate) fn cancel_all(&self, reason: ActivityCancelReason) {
        let contexts = self.running.lock().values().cloned().collect::<Vec<_>>();
        contexts.iter().for_each(|context| context.cancel(reason));
    }

    /// Tells all attempts, and those that start later, that this process is about to end.
    pub(crate) fn shut_down(&self) {
        self.surroundings.shutdown.send_replace(true);
    }

    /// How many attempts run now. One has left the count before its end is reported.
    #[cfg(test)]
    pub(crate) fn running(&self) -> usize {
        self.running.lock().len()
    }
}

/// Calls the handler through the interceptors.
async fn run(
    interceptors: &[Arc<dyn ActivityInterceptor>],
    handler: Handler,
    context: ActivityContext,
    arguments: Vec<Payload>,
) -> Outcome {
    let innermost: Innermost<'_> = Box::new(move |context, arguments| match handler {
        Handler::Async(handler) => handler(context, arguments),
        Handler::Blocking(handler) => async move {
            match tokio::task::spawn_blocking(move || handler(context, arguments)).await {
                Ok(outcome) => outcome,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => resume_unwind(panic),
                    Err(_) => Err(ActivityError::cancelled()),
                },
            }
        }
        .boxed(),
    });
    ExecuteActivityNext::new(interceptors, innermost).run(ExecuteActivityInput { context, arguments }).await
}

/// Retryable: a key may be missing only for now.
fn undecoded(error: PayloadConversionError) -> ActivityError {
    ApplicationFailure::new(anyhow::Error::new(error).context("the payload codec cannot decode the activity task"))
        .into()
}

fn completion(task_token: Vec<u8>, result: ActivityExecutionResult) -> ActivityTaskCompletion {
    ActivityTaskCompletion { task_token, result: Some(result) }
}

/// Retryable, as in the other SDKs: another process, or the next deployment, may know the type.
fn not_registered(activity_type: &str, activities: &Activities) -> ApplicationFailure {
    let known = match activities.names().collect::<Vec<_>>() {
        names if names.is_empty() => "no activity is".to_owned(),
        names => format!("registered are {}", names.join(", ")),
    };
    let message =
        format!("activity {activity_type:?} is not registered on this worker, {known}: register a handler for it");
    typed("NotFoundError", message)
}

/// One attempt's report: by `report`, or by the drop if the attempt was dropped unfinished.
struct Ending {
    running: Arc<Running>,
    context: ActivityContext,
    link: Option<Arc<dyn Link>>,
}

impl Ending {
    /// A panic that comes here is told without the user's converter: either there is none, or it is that which panicked.
    fn report(mut self, end: thread::Result<ActivityExecutionResult>) {
        self.settle(|| end.unwrap_or_else(|panic| fail(panicked(panic), &Converter::default())));
    }

    fn settle(&mut self, result: impl FnOnce() -> ActivityExecutionResult) {
        if let Some(link) = self.link.take() {
            let task_token = self.context.info().task_token.clone();
            let mut running = self.running.lock();
            // Local activities of another bridge have the same tokens again.
            if running.get(&task_token).is_some_and(|other| other.is(&self.context)) {
                running.remove(&task_token);
            }
            drop(running);
            self.context.end();
            link.complete(completion(task_token, result()));
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let failure = || typed("WorkerShutdown", "the worker process ended before the attempt did");
        self.settle(|| fail(failure(), &Converter::default()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        exec::endpoint::SubmitError,
        temporal::activity::{ActivityError, RegisterOptions, TemporalSerializable, activity_definitions, convert},
    };
    use futures_util::future::BoxFuture;
    use std::{
        future::pending,
        sync::{Barrier, mpsc},
        time::Duration,
    };
    use temporalio_common::{
        data_converters::{
            DataConverter, DefaultFailureConverter, FailureConverter, MultiArgs2, PayloadCodec, PayloadConverter,
            SerializationContextData,
        },
        error::{IncomingError, OutgoingError},
        protos::{
            coresdk::{
                ActivityHeartbeat,
                activity_result::activity_execution_result::Status,
                activity_task::{Cancel, Start},
            },
            temporal::api::failure::v1::{ApplicationFailureInfo, Failure, failure::FailureInfo},
        },
    };
    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

    struct Sut {
        host: ActivityHost,
        link: Arc<Ear>,
        ends: UnboundedReceiver<ActivityTaskCompletion>,
    }

    /// Hears what attempts tell the rest of the pool.
    struct Ear {
        done: UnboundedSender<ActivityTaskCompletion>,
        kept: Mutex<Vec<ActivityHeartbeat>>,
        sent: Mutex<Vec<ActivityHeartbeat>>,
        to_be_killed: Mutex<Vec<Duration>>,
    }

    impl Link for Ear {
        fn keep(&self, heartbeat: &ActivityHeartbeat) -> Result<(), SubmitError> {
            self.kept.lock().unwrap().push(heartbeat.clone());
            Ok(())
        }

        fn send(&self, heartbeat: &ActivityHeartbeat) {
            self.sent.lock().unwrap().push(heartbeat.clone());
        }

        fn kill_after(&self, grace: Duration) {
            self.to_be_killed.lock().unwrap().push(grace);
        }

        fn complete(&self, completion: ActivityTaskCompletion) {
            self.done.send(completion).unwrap();
        }
    }

    /// Tokens and details.
    fn told(heartbeats: &Mutex<Vec<ActivityHeartbeat>>) -> Vec<(String, String)> {
        let details = |beat: &ActivityHeartbeat| {
            beat.details.iter().map(|payload| String::from_utf8_lossy(&payload.data)).collect::<Vec<_>>().join(" ")
        };
        let heartbeats = heartbeats.lock().unwrap();
        heartbeats.iter().map(|b| (String::from_utf8_lossy(&b.task_token).into_owned(), details(b))).collect()
    }

    impl Sut {
        fn new(activities: Activities) -> Self {
            Self::with(activities, States::default())
        }

        fn with(code: impl Into<UserCode>, states: States) -> Self {
            let (done, ends) = unbounded_channel();
            let (kept, sent, to_be_killed) = Default::default();
            let link = Arc::new(Ear { done, kept, sent, to_be_killed });
            Self { host: ActivityHost::new(code, states, "queue"), link, ends }
        }

        /// The token is the name.
        fn start<T: TemporalSerializable + 'static>(&self, name: &str, input: &T) {
            let input = convert::encode_all(input, &Converter::default()).unwrap();
            self.start_as(name, Start { activity_type: name.into(), input, ..Default::default() });
        }

        fn start_as(&self, token: &str, start: Start) {
            let task = ActivityTask { task_token: token.into(), variant: Some(Variant::Start(start)) };
            self.host.start(task, self.link.clone());
        }

        fn cancel(&self, token: &str, reason: ActivityCancelReason) {
            let cancel = Cancel { reason: reason.into(), details: None };
            self.host.cancel(ActivityTask { task_token: token.into(), variant: Some(Variant::Cancel(cancel)) });
        }

        async fn end(&mut self) -> (String, Status) {
            let completion = self.ends.recv().await.unwrap();
            (String::from_utf8(completion.task_token).unwrap(), completion.result.unwrap().status.unwrap())
        }

        async fn end_of<T: TemporalSerializable + 'static>(&mut self, name: &str, input: &T) -> Status {
            self.start(name, input);
            let (token, status) = self.end().await;
            assert_eq!(token, name);
            status
        }
    }

    fn result_of(status: Status) -> String {
        let Status::Completed(success) = status else { panic!("{status:?}") };
        convert::decode(vec![success.result.unwrap()], &Converter::default(), format_args!("the result")).unwrap()
    }

    fn failure_of(status: Status) -> (Failure, ApplicationFailureInfo) {
        let Status::Failed(failed) = status else { panic!("{status:?}") };
        let failure = failed.failure.unwrap();
        let Some(FailureInfo::ApplicationFailureInfo(info)) = failure.failure_info.clone() else {
            panic!("{failure:?}")
        };
        (failure, info)
    }

    struct Declared;
    #[activity_definitions]
    impl Declared {
        #[activity(name = "greet")]
        fn greet(greeting: String, name: String) -> Result<String, ActivityError> {
            unimplemented!()
        }
        #[activity(name = "count")]
        fn count(text: String) -> Result<usize, ActivityError> {
            unimplemented!()
        }
    }

    #[tokio::test]
    async fn a_handler_runs_under_the_name_and_with_the_types_of_its_definition() {
        let activities = Activities::new()
            .register_as(
                Declared::greet,
                |_, MultiArgs2(greeting, name)| async move { Ok(format!("{greeting} {name}")) },
            )
            .register_blocking_as(Declared::count, |_, text| Ok(text.len()));
        assert_eq!(activities.names().collect::<Vec<_>>(), ["count", "greet"]);
        let mut sut = Sut::new(activities);
        assert_eq!(result_of(sut.end_of("greet", &MultiArgs2("hello", "ann")).await), "hello ann");
        let Status::Completed(success) = sut.end_of("count", &"four").await else { panic!() };
        assert_eq!(success.result.unwrap().data, b"4");
    }

    #[tokio::test]
    async fn async_attempts_run_at_the_same_time() {
        const MANY: usize = 8;
        let barrier = Arc::new(tokio::sync::Barrier::new(MANY));
        let mut sut = Sut::new(Activities::new().register("meet", move |_, ()| {
            let barrier = Arc::clone(&barrier);
            async move {
                barrier.wait().await;
                Ok("met")
            }
        }));
        all_meet(&mut sut, MANY).await;
    }

    #[tokio::test]
    async fn blocking_attempts_run_at_the_same_time() {
        const MANY: usize = 8;
        let barrier = Barrier::new(MANY);
        let mut sut = Sut::new(Activities::new().register_blocking("meet", move |_, ()| {
            barrier.wait();
            Ok("met")
        }));
        all_meet(&mut sut, MANY).await;
    }

    async fn all_meet(sut: &mut Sut, many: usize) {
        let tokens = (0..many).map(|n| n.to_string()).collect::<Vec<_>>();
        for token in &tokens {
            sut.start_as(token, Start { activity_type: "meet".into(), ..Default::default() });
        }
        let mut ended = Vec::new();
        for _ in 0..many {
            let (token, status) = sut.end().await;
            assert_eq!(result_of(status), "met");
            ended.push(token);
        }
        ended.sort();
        assert_eq!(ended, tokens, "each ends once");
        assert_eq!(sut.host.running(), 0);
    }

    #[tokio::test]
    async fn an_ordinary_error_is_a_retryable_failure_with_its_causes() {
        let mut sut = Sut::new(Activities::new().register_blocking("parse", |_, text: String| {
            Ok(text.parse::<u32>().map_err(|e| anyhow::Error::new(e).context("no number"))?)
        }));
        let (failure, info) = failure_of(sut.end_of("parse", &"seven").await);
        assert_eq!((&*failure.message, info.non_retryable), ("no number", false));
        assert_eq!(failure.cause.unwrap().message, "invalid digit found in string");
    }

    #[tokio::test]
    async fn an_application_failure_arrives_with_all_it_says() {
        let mut sut = Sut::new(Activities::new().register("charge", |_, ()| async {
            let failure = ApplicationFailure::builder("card expired")
                .type_name("CardExpired".into())
                .non_retryable(true)
                .next_retry_delay(Duration::from_secs(3))
                .details("4242")
                .build();
            Err::<(), _>(failure.into())
        }));
        let (failure, info) = failure_of(sut.end_of("charge", &()).await);
        assert_eq!((&*failure.message, &*info.r#type, info.non_retryable), ("card expired", "CardExpired", true));
        assert_eq!(info.next_retry_delay.unwrap().seconds, 3);
        assert_eq!(info.details.unwrap().payloads[0].data, br#""4242""#);
    }

    #[tokio::test]
    async fn an_attempt_may_be_left_to_an_outside_client() {
        let mut sut = Sut::new(
            Activities::new().register("ask", |_, ()| async { Err::<(), _>(ActivityError::WillCompleteAsync) }),
        );
        assert!(matches!(sut.end_of("ask", &()).await, Status::WillCompleteAsync(_)));
    }

    /// An error that panics when it is told, which the conversion to a failure does.
    #[derive(Debug)]
    struct Untellable;
    impl std::fmt::Display for Untellable {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("cannot be told")
        }
    }
    impl std::error::Error for Untellable {}

    #[tokio::test]
    async fn a_panic_fails_its_attempt_and_the_process_goes_on() {
        let mut sut = Sut::new(
            Activities::new()
                .register("early", |_, ()| -> std::future::Ready<Result<(), _>> { panic!("before the first await") })
                .register("late", |context, ()| async move {
                    assert!(context.is_cancelled(), "number {}", 7);
                    Ok(())
                })
                .register_blocking("thread", |_, ()| -> Result<(), _> { panic!("on a thread") })
                .register_blocking("error", |_, ()| Err::<(), _>(Untellable.into()))
                .register_blocking("opaque", |_, ()| -> Result<(), _> { std::panic::panic_any(7) })
                .register("fine", |_, ()| async { Ok("fine") }),
        );
        for (name, message) in [
            ("early", "before the first await"),
            ("late", "number 7"),
            ("thread", "on a thread"),
            ("error", "cannot be told"),
            ("opaque", "(the panic carried no text)"),
        ] {
            let (failure, info) = failure_of(sut.end_of(name, &()).await);
            assert_eq!(failure.message, format!("activity panicked: {message}"));
            assert!(!info.non_retryable);
        }
        assert_eq!(result_of(sut.end_of("fine", &()).await), "fine");
    }

    /// Both moves failures to where a codec encodes them, and encodes by a letter at the end; or panics over each failure.
    #[derive(Clone, Copy)]
    struct Own {
        panics: bool,
    }

    impl PayloadCodec for Own {
        fn encode(
            &self,
            _: &SerializationContextData,
            mut payloads: Vec<Payload>,
        ) -> BoxFuture<'static, Result<Vec<Payload>, PayloadConversionError>> {
            payloads.iter_mut().for_each(|payload| payload.data.push(b'x'));
            async move { Ok(payloads) }.boxed()
        }

        fn decode(
            &self,
            _: &SerializationContextData,
            payloads: Vec<Payload>,
        ) -> BoxFuture<'static, Result<Vec<Payload>, PayloadConversionError>> {
            async move { Ok(payloads) }.boxed()
        }
    }

    impl FailureConverter for Own {
        fn to_failure(
            &self,
            error: OutgoingError,
            converter: &PayloadConverter,
            context: &SerializationContextData,
        ) -> Failure {
            assert!(!self.panics, "cannot convert");
            DefaultFailureConverter::new(true).to_failure(error, converter, context)
        }

        fn to_error(
            &self,
            failure: Failure,
            converter: &PayloadConverter,
            context: &SerializationContextData,
        ) -> Result<IncomingError, PayloadConversionError> {
            DefaultFailureConverter::new(true).to_error(failure, converter, context)
        }
    }

    fn with_own(own: Own) -> Sut {
        let activities = Activities::new()
            .register("async", |_, ()| -> std::future::Ready<Result<(), _>> { panic!("a secret") })
            .register_blocking("blocking", |_, ()| -> Result<(), _> { panic!("a secret") });
        let converter = DataConverter::new(PayloadConverter::default(), own, own).into();
        Sut::with(UserCode { activities, converter, ..UserCode::default() }, States::default())
    }

    #[tokio::test]
    async fn what_a_panic_says_passes_the_converter_and_the_codec() {
        let mut sut = with_own(Own { panics: false });
        for name in ["async", "blocking"] {
            let (failure, _) = failure_of(sut.end_of(name, &()).await);
            assert!(!failure.message.contains("secret"), "{}", failure.message);
            let attributes = String::from_utf8(failure.encoded_attributes.unwrap().data).unwrap();
            assert!(attributes.contains("a secret") && attributes.ends_with('x'), "{attributes}");
        }
    }

    #[tokio::test]
    async fn an_attempt_ends_also_if_its_failure_cannot_be_converted() {
        let mut sut = with_own(Own { panics: true });
        for name in ["async", "blocking", "unknown"] {
            let (failure, _) = failure_of(sut.end_of(name, &()).await);
            assert!(!failure.message.contains("secret"), "{}", failure.message);
        }
    }

    #[tokio::test]
    async fn an_attempt_that_ends_does_not_hide_another_with_its_token() {
        let ends = Arc::new(tokio::sync::Notify::new());
        let first_may_end = Arc::clone(&ends);
        let mut sut = Sut::new(
            Activities::new()
                .register("first", move |_, ()| {
                    let end = Arc::clone(&first_may_end);
                    async move {
                        end.notified().await;
                        Ok(())
                    }
                })
                .register("second", |context, ()| async move {
                    context.cancelled().await;
                    Ok(())
                }),
        );
        for name in ["first", "second"] {
            sut.start_as("token", Start { activity_type: name.into(), is_local: true, ..Default::default() });
        }
        ends.notify_one();
        sut.end().await;
        sut.cancel("token", ActivityCancelReason::Cancelled);
        tokio::time::timeout(Duration::from_secs(10), sut.end()).await.expect("the second hears of its cancellation");
    }

    #[tokio::test]
    async fn an_unknown_type_is_a_retryable_failure_that_names_the_known_ones() {
        let mut sut =
            Sut::new(Activities::new().register("b", |_, ()| async { Ok(()) }).register("a", |_, ()| async { Ok(()) }));
        let (failure, info) = failure_of(sut.end_of("c", &()).await);
        assert!(failure.message.contains(r#""c" is not registered"#), "{}", failure.message);
        assert!(failure.message.contains("registered are a, b"), "{}", failure.message);
        assert_eq!((&*info.r#type, info.non_retryable), ("NotFoundError", false));
        let (failure, _) = failure_of(Sut::new(Activities::new()).end_of("c", &()).await);
        assert!(failure.message.contains("no activity is"), "{}", failure.message);
    }

    #[tokio::test]
    async fn an_input_that_does_not_fit_is_a_failure_that_says_what_came() {
        let mut sut = Sut::new(Activities::new().register("echo", |_, text: String| async { Ok(text) }));
        let (failure, info) = failure_of(sut.end_of("echo", &7).await);
        let said = r#"cannot decode the input of activity "echo" as alloc::string::String from [json/plain]: "#;
        assert!(failure.message.starts_with(said), "{}", failure.message);
        assert!(!info.non_retryable);
        let (failure, _) = failure_of(sut.end_of("echo", &MultiArgs2("one", vec![2_u8])).await);
        assert!(failure.message.contains("[json/plain, binary/plain]"), "{}", failure.message);
    }

    #[tokio::test]
    async fn a_task_with_nothing_to_start_is_a_failure() {
        let mut sut = Sut::new(Activities::new());
        sut.host.start(ActivityTask::default(), sut.link.clone());
        let (failure, _) = failure_of(sut.end().await.1);
        assert!(failure.message.contains("nothing to start"), "{}", failure.message);
    }

    #[tokio::test]
    async fn cancellation_wakes_an_async_attempt() {
        let (started, mut running) = unbounded_channel();
        let mut sut = Sut::new(Activities::new().register("wait", move |context, ()| {
            let started = started.clone();
            async move {
                started.send(()).unwrap();
                context.cancelled().await;
                assert_eq!(context.cancel_reason(), Some(ActivityCancelReason::Cancelled));
                Err::<(), _>(ActivityError::cancelled_with_details("tidied up"))
            }
        }));
        sut.start("wait", &());
        running.recv().await.unwrap();
        assert_eq!(sut.host.running(), 1);
        sut.cancel("wait", ActivityCancelReason::Cancelled);
        let (_, Status::Cancelled(cancellation)) = sut.end().await else { panic!() };
        let Some(FailureInfo::CanceledFailureInfo(info)) = cancellation.failure.unwrap().failure_info else { panic!() };
        assert_eq!(info.details.unwrap().payloads[0].data, br#""tidied up""#);
    }

    #[tokio::test]
    async fn cancellation_is_seen_by_a_blocking_attempt() {
        let (started, mut running) = unbounded_channel();
        let (go_on, gone_on) = mpsc::channel();
        let gone_on = Mutex::new(gone_on);
        let mut sut = Sut::new(Activities::new().register_blocking("work", move |context, ()| {
            started.send(context.is_cancelled()).unwrap();
            gone_on.lock().unwrap().recv().unwrap();
            if context.is_cancelled() { Err(ActivityError::cancelled()) } else { Ok(()) }
        }));
        sut.start("work", &());
        assert_eq!(running.recv().await, Some(false));
        sut.cancel("work", ActivityCancelReason::Cancelled);
        go_on.send(()).unwrap();
        assert!(matches!(sut.end().await.1, Status::Cancelled(_)));
    }

    #[tokio::test]
    async fn a_blocking_attempt_can_sleep_until_it_is_cancelled() {
        let mut sut = Sut::new(Activities::new().register_blocking("sleep", |context, ()| {
            tokio::runtime::Handle::current().block_on(context.cancelled());
            Ok("woken")
        }));
        sut.start("sleep", &());
        sut.cancel("sleep", ActivityCancelReason::Cancelled);
        assert_eq!(result_of(sut.end().await.1), "woken", "an attempt may finish all the same");
    }

    #[tokio::test]
    async fn cancelling_an_unknown_or_ended_attempt_is_ignored() {
        let mut sut = Sut::new(Activities::new().register("quick", |_, ()| async { Ok("done") }));
        sut.cancel("quick", ActivityCancelReason::Cancelled);
        assert_eq!(result_of(sut.end_of("quick", &()).await), "done");
        sut.cancel("quick", ActivityCancelReason::Cancelled);
        assert_eq!(sut.host.running(), 0);
    }

    #[tokio::test]
    async fn cancel_all_reaches_every_attempt_and_they_fail_so_that_they_are_tried_again() {
        let mut sut = Sut::new(
            Activities::new()
                .register("async", |context, ()| async move {
                    context.cancelled().await;
                    Err::<(), _>(ActivityError::cancelled())
                })
                .register_blocking("blocking", |context, ()| {
                    tokio::runtime::Handle::current().block_on(context.cancelled());
                    Err::<(), _>(ActivityError::cancelled())
                }),
        );
        sut.start("async", &());
        sut.start("blocking", &());
        assert_eq!(sut.host.running(), 2);
        sut.host.cancel_all(ActivityCancelReason::WorkerShutdown);
        for _ in 0..2 {
            let (_, info) = failure_of(sut.end().await.1);
            assert_eq!((&*info.r#type, info.non_retryable), ("WorkerShutdown", false));
        }
        assert_eq!(sut.host.running(), 0);
    }

    /// See `execution_result`: the server refuses a cancellation that it hasn't asked for.
    #[tokio::test]
    async fn ending_as_cancelled_counts_only_when_a_cancellation_was_asked_for() {
        use ActivityCancelReason::*;
        let cancelled = || {
            Sut::new(Activities::new().register("wait", |context, wait: bool| async move {
                if wait {
                    context.cancelled().await;
                }
                Err::<(), _>(ActivityError::cancelled())
            }))
        };
        let mut sut = cancelled();
        for (reason, type_name) in [(Paused, "ActivityPause"), (Reset, "ActivityReset")] {
            sut.start("wait", &true);
            sut.cancel("wait", reason);
            assert_eq!(failure_of(sut.end().await.1).1.r#type, type_name);
        }
        for reason in [Cancelled, TimedOut, NotFound] {
            sut.start("wait", &true);
            sut.cancel("wait", reason);
            assert!(matches!(sut.end().await.1, Status::Cancelled(_)));
        }
        assert_eq!(failure_of(sut.end_of("wait", &false).await).1.r#type, "CancelledError");
        let input = convert::encode_all(&false, &Converter::default()).unwrap();
        sut.start_as("wait", Start { activity_type: "wait".into(), input, is_local: true, ..Default::default() });
        assert!(matches!(sut.end().await.1, Status::Cancelled(_)), "no server is asked about a local one");
    }

    #[tokio::test]
    async fn heartbeats_go_out_with_their_details_and_in_their_order() {
        let mut sut = Sut::new(
            Activities::new()
                .register("async", |context, ()| async move {
                    context.heartbeat(&1)?;
                    context.heartbeat(&MultiArgs2("half", 2))?;
                    Ok(context.last_heartbeat::<u32>()?.map_or("afresh".into(), |step| format!("from {step}")))
                })
                .register_blocking("blocking", |context, ()| context.heartbeat(&())),
        );
        let heartbeat_details = convert::encode_all(&17_u32, &Converter::default()).unwrap();
        let start = Start { activity_type: "async".into(), attempt: 2, heartbeat_details, ..Default::default() };
        sut.start_as("token", start);
        assert_eq!(result_of(sut.end().await.1), "from 17");
        assert!(matches!(sut.end_of("blocking", &()).await, Status::Completed(_)));
        let expected = [("token", "1"), ("token", "\"half\" 2"), ("blocking", "")];
        let expected = expected.map(|(token, details)| (token.to_owned(), details.to_owned()));
        assert_eq!(told(&sut.link.kept), expected);
        let sent = told(&sut.link.sent);
        assert!(sent.contains(&expected[0]) && sent.contains(&expected[2]), "the first of each at once: {sent:?}");
    }

    /// Lets the attempts run until it is so.
    async fn until(is_so: impl Fn() -> bool) {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn of_many_heartbeats_the_newest_is_sent_now_and_then() {
        let mut sut = Sut::new(Activities::new().register("count", |context, ()| async move {
            for n in 0..1000 {
                context.heartbeat(&n)?;
            }
            context.cancelled().await;
            Ok(())
        }));
        let began = std::time::Instant::now();
        sut.start("count", &());
        let newest = || told(&sut.link.sent).last().is_some_and(|(_, details)| details == "999");
        until(newest).await; // by itself: nobody records another
        let (sent, at_most) = (told(&sut.link.sent).len(), 2 + began.elapsed().as_millis() as usize / 100);
        assert!(sent <= at_most, "{sent} were sent, {at_most} at most");
        assert_eq!(sut.link.kept.lock().unwrap().len(), 1000);
        sut.cancel("count", ActivityCancelReason::Cancelled);
        sut.end().await;
    }

    #[tokio::test]
    async fn heartbeats_go_out_by_themselves_with_the_newest_details() {
        let go_on = Arc::new(tokio::sync::Notify::new());
        let gone_on = go_on.clone();
        let activities = Activities::new()
            .register("wait", move |context, ()| {
                let gone_on = gone_on.clone();
                async move {
                    gone_on.notified().await;
                    context.heartbeat(&"half")?;
                    gone_on.notified().await;
                    Ok("done")
                }
            })
            .with_options("wait", RegisterOptions::new().auto_heartbeat());
        let start = |heartbeat_timeout: Option<Duration>| Start {
            activity_type: "wait".into(),
            heartbeat_details: convert::encode_all(&"earlier", &Converter::default()).unwrap(),
            heartbeat_timeout: heartbeat_timeout.map(|timeout| timeout.try_into().unwrap()),
            ..Default::default()
        };
        let mut sut = Sut::new(activities);
        let timeout = Some(Duration::from_millis(30));
        sut.start_as("token", start(timeout));
        for details in [r#""earlier""#, r#""half""#] {
            let count = || told(&sut.link.sent).iter().filter(|(_, d)| d == details).count();
            until(|| count() >= 3).await;
            go_on.notify_one();
        }
        assert_eq!(result_of(sut.end().await.1), "done");
        assert!(told(&sut.link.sent).is_sorted_by_key(|(_, details)| details == r#""half""#));
        let tasks = || Handle::current().metrics().num_alive_tasks();
        until(|| tasks() == 0).await; // the end of the attempt is that of its heartbeats
        for start in [start(None), Start { is_local: true, ..start(timeout) }] {
            sut.start_as("token", start);
            assert_eq!(tasks(), 1, "the handler's");
            for _ in 0..2 {
                go_on.notify_one();
                tokio::task::yield_now().await;
            }
            sut.end().await;
            until(|| tasks() == 0).await;
        }
    }

    #[tokio::test]
    async fn whoever_is_to_be_killed_is_cancelled_first() {
        let waits = |context: ActivityContext, ()| async move {
            context.cancelled().await;
            Err::<(), _>(ActivityError::cancelled())
        };
        let grace = Duration::from_secs(5);
        let mut sut = Sut::new(
            Activities::new()
                .register("polite", waits)
                .register("stubborn", waits)
                .with_options("stubborn", RegisterOptions::new().kill_after(grace)),
        );
        for name in ["polite", "stubborn"] {
            sut.start(name, &());
            assert!(sut.link.to_be_killed.lock().unwrap().is_empty());
            for _ in 0..2 {
                sut.cancel(name, ActivityCancelReason::Cancelled);
            }
            assert!(matches!(sut.end().await.1, Status::Cancelled(_)));
        }
        assert_eq!(*sut.link.to_be_killed.lock().unwrap(), [grace], "once");
    }

    #[tokio::test]
    async fn the_end_of_the_worker_is_no_cancellation() {
        let mut sut = Sut::new(Activities::new().register("wait", |context, ()| async move {
            context.worker_shutdown().await;
            Ok(format!("{} {}", context.is_worker_shutdown(), context.is_cancelled()))
        }));
        sut.start("wait", &());
        sut.host.shut_down();
        assert_eq!(result_of(sut.end().await.1), "true false");
        assert_eq!(result_of(sut.end_of("wait", &()).await), "true false", "nor for who starts later");
    }

    #[tokio::test]
    async fn attempts_share_what_their_process_has_made() {
        struct Greeting(String);
        let activities = Activities::new()
            .state(|| Ok(7_u32))
            .state_async(|| async { Ok(Greeting("hello".into())) })
            .register("greet", |context, ()| async move {
                Ok(format!("{} {}", context.state::<Greeting>()?.0, context.state::<u32>()?))
            })
            .register("ask", |context, ()| async move { Ok(*context.state::<u64>()?) });
        let states = activities.make_states().await.unwrap();
        let mut sut = Sut::with(activities, states);
        assert_eq!(result_of(sut.end_of("greet", &()).await), "hello 7");
        let (failure, _) = failure_of(sut.end_of("ask", &()).await);
        assert_eq!(failure.message, "no state of type u64 is registered: call Activities::state");
    }

    #[tokio::test]
    async fn a_state_that_cannot_be_made_is_named_with_the_reason() {
        let parse = || Ok("seven".parse::<u32>().map_err(|e| anyhow::Error::new(e).context("no number"))?);
        let activities = Activities::new().state(parse);
        let why = activities.make_states().await.err().unwrap();
        assert_eq!(why, "cannot make the state of type u32: no number: invalid digit found in string");
    }

    #[test]
    fn an_attempt_whose_runtime_goes_away_is_reported_too() {
        let mut sut = Sut::new(Activities::new().register("hang", |_, ()| pending::<Result<(), _>>()));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { sut.start("hang", &()) });
        assert_eq!(sut.host.running(), 1);
        drop(runtime);
        let completion = sut.ends.try_recv().unwrap();
        assert_eq!(failure_of(completion.result.unwrap().status.unwrap()).1.r#type, "WorkerShutdown");
        assert_eq!(sut.host.running(), 0);
        assert!(sut.ends.try_recv().is_err(), "once");
    }
}
