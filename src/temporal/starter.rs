//! The starter: starts workflows by name and prints their results.
//!
//! It starts nothing unless somebody polls the task queue, since workflows that nobody runs would only wait on the
//! server. Requests are bounded: [`STARTS_AT_A_TIME`] workflows are being started, and [`WAITS_AT_A_TIME`] waited for.

#[cfg(feature = "otlp")]
use super::carrier::Carrier;
use super::{
    connect::{ConnectError, Server},
    converter::in_workflow,
};
#[cfg(feature = "otlp")]
use crate::traces::{Open, Parent, Tracer};
use futures_util::{StreamExt, TryStreamExt, stream};
use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
#[cfg(feature = "otlp")]
use opentelemetry::{KeyValue, trace::SpanKind};
#[cfg(not(feature = "otlp"))]
use std::convert::Infallible;
use std::{
    cell::Cell,
    io::{self, Write},
    os::fd::AsFd,
    pin::pin,
    str::FromStr,
    time::{Duration, SystemTime},
};
use temporalio_client::{
    Client, ClientOptions, Connection, UntypedWorkflow, WorkflowDescribeOptions, WorkflowExecutionStatus,
    WorkflowFetchHistoryOptions, WorkflowGetResultOptions, WorkflowHandle, WorkflowStartOptions,
    errors::{ClientConnectError, WorkflowGetResultError, WorkflowStartError},
    grpc::WorkflowService,
    tonic::IntoRequest,
};
use temporalio_common::{
    data_converters::{DataConverter, RawValue},
    payload_visitor::decode_payloads,
    protos::{
        proto_ts_to_system_time,
        temporal::api::{
            common::v1::Payload,
            enums::v1::{TaskQueueKind, TaskQueueType},
            failure::v1::Failure,
            history::v1::history_event::Attributes,
            taskqueue::v1::{PollerInfo, TaskQueue},
            workflowservice::v1::DescribeTaskQueueRequest,
        },
    },
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc, oneshot},
};

/// Workflows whose start is under way at a time.
pub const STARTS_AT_A_TIME: usize = 100;
/// Workflows whose result is waited for at a time. Each wait is a long poll, of which a server allows some 1200.
pub const WAITS_AT_A_TIME: usize = 500;
/// How long to wait for somebody to poll the task queue: workers may just be starting.
pub const WORKER_PATIENCE: Duration = Duration::from_secs(10);
/// How often to look meanwhile.
const WORKER_LOOK: Duration = Duration::from_millis(200);
/// How often to look whether a workflow that has not ended goes on.
const TASK_LOOK: Duration = Duration::from_secs(1);
/// The server shows pollers for five minutes after their last poll, but one that lives polls anew every minute.
const POLLER_AGE: Duration = Duration::from_secs(120);

/// What to start.
#[derive(Debug, Clone)]
pub struct StarterOptions {
    /// How many workflows.
    pub num_workflows: usize,
    /// The task queue to start them on.
    pub task_queue: String,
    /// The workflow's name.
    pub workflow: String,
    /// The input of each; none if the workflow takes none.
    pub input: Option<Json>,
    /// How long each may take before the server ends it; any time unless it is said.
    pub execution_timeout: Option<Duration>,
    /// How inputs and results are coded: as the workers do it.
    pub data_converter: DataConverter,
    /// Print no results.
    pub quiet: bool,
    /// The OpenTelemetry collector that is sent a span for each start, by OTLP over HTTP: it begins the trace of its workflow.
    #[cfg(feature = "otlp")]
    pub otlp: Option<String>,
}

/// A text that is JSON, kept as it was written.
///
/// ```
/// use shmworker::temporal::starter::Json;
/// assert!(r#"{"n": 3}"#.parse::<Json>().is_ok());
/// assert!("{n: 3}".parse::<Json>().is_err());
/// ```
#[derive(Debug, Clone)]
pub struct Json(String);

impl FromStr for Json {
    type Err = NotJson;

    fn from_str(text: &str) -> Result<Json, NotJson> {
        serde_json::from_str::<serde_json::Value>(text).map(|_| Json(text.to_owned())).map_err(|_| NotJson)
    }
}

/// A text is not JSON.
#[derive(Debug, thiserror::Error)]
#[error(r#"it must be JSON, such as 3, '"text"' or '{{"n": 3}}'"#)]
pub struct NotJson;

/// Why not every workflow completed.
#[derive(Debug, thiserror::Error)]
pub enum StarterError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Nobody polls the task queue. No workflow was started.
    #[error(
        "nobody polls workflow task queue '{task_queue}' in namespace '{namespace}' at {address}: start workers with \
         'shmworker run --workflow-task-queue {task_queue}'; no workflow was started"
    )]
    NoWorker {
        /// The task queue.
        task_queue: String,
        /// Its namespace.
        namespace: String,
        /// The server's address.
        address: String,
    },
    /// Some workflows failed. Each has been reported on stderr.
    #[error("{failed} of {all} workflows failed")]
    Failed {
        /// How many failed.
        failed: usize,
        /// How many there are.
        all: usize,
    },
    /// SIGINT came before all were done.
    #[error("interrupted: {running} of {all} workflows still run on the server")]
    Interrupted {
        /// How many are not done, of those whose start was asked for.
        running: usize,
        /// How many there were to be.
        all: usize,
    },
    /// Spans can't be sent there. No workflow was started.
    #[cfg(feature = "otlp")]
    #[error("cannot send spans to {url} (--otlp): {why}")]
    Spans {
        /// The collector.
        url: String,
        /// Why not.
        why: String,
    },
    /// The machinery failed: a signal, the runtime, or stdout.
    #[error("cannot go on: {0}")]
    Io(#[from] io::Error),
}

/// Starts the workflows, prints each result on stdout as it comes, and each failure on stderr.
///
/// A result that is a JSON string is printed bare, other JSON as it is; each on one line. Whoever closes stdout has seen
/// enough: the rest is not waited for, and that is no error. SIGINT is blocked in the calling thread meanwhile, so there
/// should be no other.
///
/// # Errors
///
/// See [`StarterError`]; those of the connection and [`StarterError::NoWorker`] come before anything is started.
pub fn run(options: &StarterOptions, server: &Server) -> Result<(), StarterError> {
    // Before the runtime: its threads inherit the mask.
    let interrupt = Interrupt::block()?;
    // Outside the runtime, and after the mask, as its thread inherits that too. Its drop sends the rest.
    let spans = Spans::start(options)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let counts = Counts::default();
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = drive(options, server, &counts, &spans) => outcome,
            interrupted = interrupt.wait() => {
                interrupted?;
                let running = counts.sent.get() - counts.done.get();
                Err(StarterError::Interrupted { running, all: options.num_workflows })
            }
        }
    });
    match outcome {
        Err(StarterError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

/// How far it has come.
#[derive(Default)]
struct Counts {
    /// Start requests that have left: their workflows may run.
    sent: Cell<usize>,
    /// Workflows that have ended, or could not be started.
    done: Cell<usize>,
    failed: Cell<usize>,
}

fn count(cell: &Cell<usize>) {
    cell.set(cell.get() + 1);
}

/// SIGINT as something to wait for.
struct Interrupt {
    fd: SignalFd,
    before: SigSet,
}

impl Interrupt {
    fn block() -> io::Result<Interrupt> {
        let mask = SigSet::from(Signal::SIGINT);
        let fd = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let before = SigSet::thread_get_mask()?;
        mask.thread_block()?;
        Ok(Interrupt { fd, before })
    }

    async fn wait(&self) -> io::Result<()> {
        // SAFETY: `self.fd` is open for as long as the borrow of it that is registered here.
        let fd = unsafe { AsyncFd::register_with_interest(self.fd.as_fd(), Interest::READABLE) }?;
        fd.readable().await.map(drop)
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        // What was interrupted is over: the signal must not strike again when it is let through.
        let _ = self.fd.read_signal();
        let _ = self.before.thread_set_mask();
    }
}

async fn drive(options: &StarterOptions, server: &Server, counts: &Counts, spans: &Spans) -> Result<(), StarterError> {
    let connection = server.connect(format!("shmworker-starter:{}", std::process::id())).await?;
    server.check_namespace(&connection).await?;
    await_worker(options, server, &connection).await?;
    let client_options = ClientOptions::new(server.namespace()).data_converter(options.data_converter.clone()).build();
    let client = Client::new(connection, client_options)
        .map_err(|error| ConnectError::Config(ClientConnectError::from(error).to_string()))?;

    let (started, handles) = mpsc::unbounded_channel();
    let (first, the_first) = oneshot::channel();
    let mut first = Some(first);
    let starts = async {
        let mut starts = stream::iter(0..options.num_workflows)
            .map(|_| start(options, &client, counts, spans))
            .buffer_unordered(STARTS_AT_A_TIME);
        while let Some(outcome) = starts.next().await {
            match outcome {
                Ok(handle) => {
                    if let Some(first) = first.take() {
                        let _ = first.send(handle.info().workflow_id.clone());
                    }
                    // The receiver goes only together with this future.
                    drop(started.send(handle));
                }
                Err((id, error)) => fail(&id, &start_reason(&error), counts),
            }
        }
        drop(started);
        Ok(())
    };
    let results = stream::unfold(handles, async |mut handles| handles.recv().await.map(|handle| (handle, handles)))
        .map(|handle: Handle| async move {
            let result = handle.get_result(WorkflowGetResultOptions::default()).await;
            (handle.info().workflow_id.clone(), result)
        })
        .buffer_unordered(WAITS_AT_A_TIME)
        .map(Ok)
        .try_for_each(async |(id, result)| {
            match result {
                Ok(value) => {
                    if !options.quiet {
                        writeln!(io::stdout(), "{}", show(value.payloads.first()))?;
                    }
                    count(&counts.done);
                }
                Err(error) => fail(&id, &result_reason(&error), counts),
            }
            Ok(())
        });
    let ends = async { futures_util::try_join!(starts, results) };
    let mut ends = pin!(ends);
    tokio::select! {
        ended = &mut ends => ended,
        () = tell_why_it_waits(&client, &options.data_converter, the_first) => ends.await,
    }
    .map_err(StarterError::Io)?;
    match counts.failed.get() {
        0 => Ok(()),
        failed => Err(StarterError::Failed { failed, all: options.num_workflows }),
    }
}

/// Returns once somebody polls the workflow task queue.
async fn await_worker(options: &StarterOptions, server: &Server, connection: &Connection) -> Result<(), StarterError> {
    let request = DescribeTaskQueueRequest {
        namespace: server.namespace().to_owned(),
        task_queue: Some(TaskQueue {
            name: options.task_queue.clone(),
            kind: TaskQueueKind::Normal.into(),
            ..Default::default()
        }),
        task_queue_type: TaskQueueType::Workflow.into(),
        ..Default::default()
    };
    let look = async {
        loop {
            let request = request.clone().into_request();
            let answer = WorkflowService::describe_task_queue(&mut connection.clone(), request).await;
            let queue = answer.map_err(|status| server.refusal(&status))?.into_inner();
            if queue.pollers.iter().any(|poller| is_alive(poller, SystemTime::now())) {
                return Ok(());
            }
            tokio::time::sleep(WORKER_LOOK).await;
        }
    };
    tokio::time::timeout(WORKER_PATIENCE, look).await.unwrap_or_else(|_| {
        Err(StarterError::NoWorker {
            task_queue: options.task_queue.clone(),
            namespace: server.namespace().to_owned(),
            address: server.address().to_owned(),
        })
    })
}

/// Whether the poller has polled lately, by a clock that may differ a little from the server's.
fn is_alive(poller: &PollerInfo, now: SystemTime) -> bool {
    let last = poller.last_access_time.as_ref().and_then(proto_ts_to_system_time);
    last.is_none_or(|last| now.duration_since(last).unwrap_or_default() <= POLLER_AGE)
}

/// Returns once it has said why the workflow tasks of the first workflow fail, in which the others are like it: their results
/// may never come. Or once there is nothing to be said.
async fn tell_why_it_waits(client: &Client, converter: &DataConverter, first: oneshot::Receiver<String>) {
    let Ok(id) = first.await else { return };
    let workflow = client.get_workflow_handle::<UntypedWorkflow>(id.as_str());
    loop {
        tokio::time::sleep(TASK_LOOK).await;
        // A server that is gone is found out by those who wait for the results.
        let Ok(seen) = workflow.describe(WorkflowDescribeOptions::default()).await else { continue };
        if seen.status() != WorkflowExecutionStatus::Running {
            return;
        }
        if seen.raw_description.pending_workflow_task.is_some_and(|task| task.attempt > 1) {
            break;
        }
    }
    let events = workflow.fetch_history(WorkflowFetchHistoryOptions::default()).into_events().await.unwrap_or_default();
    let mut failures = events.into_iter().rev().filter_map(|event| match event.attributes {
        Some(Attributes::WorkflowTaskFailedEventAttributes(failed)) => failed.failure,
        Some(Attributes::WorkflowTaskTimedOutEventAttributes(_)) => {
            Some(Failure { message: "no worker answered in time".to_owned(), ..Default::default() })
        }
        _ => None,
    });
    let Some(failure) = failures.next() else { return };
    let why = one_line(chain(&decoded(failure, converter).await));
    let _ = writeln!(
        io::stderr(),
        "warning: workflow {id}: its workflow task fails, and is tried again until it does not: {why}; Ctrl-C ends the \
         waiting, --execution-timeout the workflow"
    );
}

/// As it was before the codec; as it is, if that fails.
async fn decoded(failure: Failure, converter: &DataConverter) -> Failure {
    let mut plain = failure.clone();
    match decode_payloads(&mut plain, converter.codec(), &in_workflow()).await {
        Ok(()) => plain,
        Err(_) => failure,
    }
}

type Handle = WorkflowHandle<Client, UntypedWorkflow>;

async fn start(
    options: &StarterOptions,
    client: &Client,
    counts: &Counts,
    spans: &Spans,
) -> Result<Handle, (String, WorkflowStartError)> {
    let id = format!("{}-{}", options.workflow, uuid::Uuid::new_v4());
    let input = RawValue::new(options.input.iter().map(payload).collect());
    let start = WorkflowStartOptions::new(options.task_queue.as_str(), id.as_str());
    let mut start = start.maybe_execution_timeout(options.execution_timeout).build();
    let span = spans.begin(&options.workflow, &mut start);
    count(&counts.sent);
    let started = client.start_workflow(UntypedWorkflow::new(options.workflow.as_str()), input, start).await;
    Spans::end(span, &started);
    started.map_err(|error| (id, error))
}

/// Makes a span for each start, if that is wanted.
struct Spans {
    #[cfg(feature = "otlp")]
    tracer: Option<Tracer>,
}

#[cfg(feature = "otlp")]
impl Spans {
    fn start(options: &StarterOptions) -> Result<Spans, StarterError> {
        let Some(url) = &options.otlp else { return Ok(Spans { tracer: None }) };
        let tracer = Tracer::start(url).map_err(|why| StarterError::Spans { url: url.clone(), why })?;
        Ok(Spans { tracer: Some(tracer) })
    }

    /// It begins the trace of the workflow.
    fn begin(&self, workflow: &str, start: &mut WorkflowStartOptions) -> Option<Open> {
        let tracer = self.tracer.as_ref()?;
        let attributes = vec![KeyValue::new("temporalWorkflowID", start.workflow_id.clone())];
        let (name, now) = (format!("StartWorkflow:{workflow}"), SystemTime::now());
        let span = tracer.open(&name, SpanKind::Client, Parent::Nobody, now, attributes);
        let headers = &mut start.header.get_or_insert_default().fields;
        Carrier::default().through(span.context()).add_to(headers, false);
        Some(span)
    }

    fn end(span: Option<Open>, started: &Result<Handle, WorkflowStartError>) {
        if let Some(span) = span {
            span.close(started.as_ref().err().map(start_reason).as_deref());
        }
    }
}

#[cfg(not(feature = "otlp"))]
impl Spans {
    fn start(_: &StarterOptions) -> Result<Spans, StarterError> {
        Ok(Spans {})
    }

    fn begin(&self, _: &str, _: &mut WorkflowStartOptions) -> Option<Infallible> {
        None
    }

    fn end(_: Option<Infallible>, _: &Result<Handle, WorkflowStartError>) {}
}

fn payload(json: &Json) -> Payload {
    Payload {
        metadata: [("encoding".to_owned(), b"json/plain".to_vec())].into(),
        data: json.0.clone().into_bytes(),
        ..Default::default()
    }
}

/// Counts and reports a workflow that did not complete.
fn fail(id: &str, reason: &str, counts: &Counts) {
    let reason = one_line(reason.to_owned());
    // Who has closed stderr doesn't want to know.
    let _ = writeln!(io::stderr(), "error: workflow {id}: {reason}");
    count(&counts.failed);
    count(&counts.done);
}

fn one_line(text: String) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

fn start_reason(error: &WorkflowStartError) -> String {
    match error {
        WorkflowStartError::Rpc(status) => format!("not started: {}", status.message()),
        error => format!("not started: {error}"),
    }
}

fn result_reason(error: &WorkflowGetResultError) -> String {
    match error {
        WorkflowGetResultError::Failed(error) => chain(error.failure()),
        WorkflowGetResultError::Cancelled { .. } => "cancelled".to_owned(),
        WorkflowGetResultError::Terminated { .. } => "terminated".to_owned(),
        WorkflowGetResultError::TimedOut => "timed out".to_owned(),
        WorkflowGetResultError::Rpc(status) | WorkflowGetResultError::NotFound(status) => {
            format!("its result is unknown: {}", status.message())
        }
        error => format!("its result is unknown: {error}"),
    }
}

/// A failure's message with those of its causes.
fn chain(failure: &Failure) -> String {
    let causes = std::iter::successors(Some(failure), |failure| failure.cause.as_deref());
    causes.map(message).filter(|message| !message.is_empty()).collect::<Vec<_>>().join(": ")
}

/// A failure converter may have moved the message to where the codec encodes it, and the client has decoded it there.
fn message(failure: &Failure) -> String {
    let encoded = failure.encoded_attributes.as_ref();
    let attributes = encoded.and_then(|payload| serde_json::from_slice::<serde_json::Value>(&payload.data).ok());
    let message = attributes.as_ref().and_then(|attributes| attributes["message"].as_str());
    message.unwrap_or(&failure.message).to_owned()
}

/// A result as one line.
fn show(payload: Option<&Payload>) -> String {
    let Some(payload) = payload.filter(|payload| !payload.metadata.is_empty()) else { return "null".to_owned() };
    let encoding = payload.metadata.get("encoding").map(|bytes| String::from_utf8_lossy(bytes)).unwrap_or_default();
    match (&*encoding, std::str::from_utf8(&payload.data)) {
        ("binary/null", _) => "null".to_owned(),
        ("json/plain" | "json/protobuf", Ok(json)) => match serde_json::from_str::<String>(json) {
            Ok(text) if !text.contains(char::is_control) => text,
            // Outside strings, where they would be escaped, line ends are blanks.
            _ => json.replace(['\n', '\r'], " "),
        },
        _ => format!("({} bytes of {encoding})", payload.data.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(encoding: &str, data: &str) -> String {
        let metadata = [("encoding".to_owned(), encoding.as_bytes().to_vec())].into();
        show(Some(&Payload { metadata, data: data.as_bytes().to_vec(), ..Default::default() }))
    }

    #[test]
    fn a_result_is_one_line() {
        assert_eq!(shown("json/plain", r#""It \"works\"""#), r#"It "works""#);
        assert_eq!(shown("json/plain", r#""two\nlines""#), r#""two\nlines""#);
        assert_eq!(shown("json/plain", "{\"a\":\n[1, 2.50]}"), r#"{"a": [1, 2.50]}"#);
        assert_eq!(shown("binary/null", ""), "null");
        assert_eq!(shown("binary/plain", "abc"), "(3 bytes of binary/plain)");
        assert_eq!(show(Some(&Payload::default())), "null");
        assert_eq!(show(None), "null");
    }

    #[test]
    fn a_failure_is_told_with_its_causes() {
        let cause = Failure { message: "no such file".into(), ..Default::default() };
        let nameless = Failure { cause: Some(Box::new(cause)), ..Default::default() };
        let failure =
            Failure { message: "activity failed".into(), cause: Some(Box::new(nameless)), ..Default::default() };
        assert_eq!(chain(&failure), "activity failed: no such file");
        let attributes = Payload { data: br#"{"message":"what it was"}"#.into(), ..Default::default() };
        let encoded =
            Failure { message: "Encoded failure".into(), encoded_attributes: Some(attributes), ..Default::default() };
        assert_eq!(chain(&encoded), "what it was");
    }

    #[test]
    fn input_is_passed_on_as_it_was_written() {
        let json: Json = "[1.0, 12345678901234567890123]".parse().unwrap();
        assert_eq!(payload(&json).data, b"[1.0, 12345678901234567890123]");
    }

    #[test]
    fn a_poller_is_alive_until_it_has_not_polled_for_a_while() {
        let now = SystemTime::now();
        let poller = |last: SystemTime| PollerInfo { last_access_time: Some(last.into()), ..Default::default() };
        assert!(is_alive(&PollerInfo::default(), now));
        assert!(is_alive(&poller(now - POLLER_AGE), now));
        assert!(is_alive(&poller(now + POLLER_AGE), now), "a clock that is behind the server's");
        assert!(!is_alive(&poller(now - POLLER_AGE * 2), now));
    }
}
