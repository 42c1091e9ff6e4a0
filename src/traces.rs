//! A span for each task, for an OpenTelemetry collector.
//!
//! The submitter makes it: it begins with the submission and ends with the last attempt, and an event says when that began. Its context
//! goes through the segment, so that it is the parent of what a handler does. Temporal's tasks have theirs from the bridge
//! (`temporal::bridge::traces`), which is their submitter.

use crate::{
    jobs::{JobResult, Status},
    lockfree::descriptor::TraceParent,
};
use opentelemetry::{
    Context, Key, KeyValue,
    trace::{
        Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status as SpanStatus, TraceContextExt, TraceFlags,
        TraceId, TraceState, Tracer as _, TracerProvider as _,
    },
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, IdGenerator, RandomIdGenerator, SdkTracer, SdkTracerProvider, Span,
    },
};
use reqwest::{Url, blocking::Client};
use std::{
    cell::Cell,
    env,
    net::IpAddr,
    thread,
    time::{Duration, SystemTime},
};

/// Spans that wait to be sent, at most.
const QUEUE: usize = 1 << 16;
/// Bytes of a text of a span, at most: so many spans wait.
const LONGEST: usize = 1 << 10;
/// How long a request may take if no variable says it, as the SDK has it.
const REQUEST: Duration = Duration::from_secs(10);
/// How long the end waits for a collector.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

thread_local! {
    /// The trace that a span is to begin which this thread makes just now.
    static TRACE: Cell<Option<TraceId>> = const { Cell::new(None) };
}

/// Random, but for traces whose id is known.
#[derive(Debug, Default)]
struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        TRACE.get().unwrap_or_else(|| self.0.new_trace_id())
    }

    fn new_span_id(&self) -> SpanId {
        self.0.new_span_id()
    }
}

/// Whose child a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parent {
    /// It begins a trace.
    Nobody,
    /// It is the first, or one of several without a parent, in the trace of this id.
    Trace(u128),
    /// Another's.
    Span(TraceParent),
}

impl From<Option<TraceParent>> for Parent {
    fn from(parent: Option<TraceParent>) -> Parent {
        parent.map_or(Parent::Nobody, Parent::Span)
    }
}

/// Makes spans, and sends them by a thread of its own. What a collector does not take in time is dropped, and said in the log.
#[derive(Debug)]
pub(crate) struct Tracer {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Tracer {
    /// For the collector at this address, to which `/v1/traces` is added. Starts a thread.
    ///
    /// # Errors
    /// Why that can't be asked, as a text.
    pub(crate) fn start(url: &str) -> Result<Tracer, String> {
        let endpoint = format!("{}/v1/traces", url.trim_end_matches('/'));
        let mut exporter = SpanExporter::builder().with_http();
        if is_of_this_machine(&endpoint) {
            exporter = exporter.with_http_client(direct()?);
        }
        let exporter = exporter.with_endpoint(endpoint).build().map_err(|e| e.to_string())?;
        // OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win, as everywhere.
        let mut resource = Resource::builder().build();
        let name = resource.get(&Key::from_static_str("service.name"));
        if name.is_none_or(|name| name.as_str().starts_with("unknown_service")) {
            resource = Resource::builder().with_service_name("shmworker").build();
        }
        // The usual 2,048 and 512 are few for tasks of microseconds. What is set here wins over the variables.
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(number("OTEL_BSP_MAX_QUEUE_SIZE").unwrap_or(QUEUE))
            .with_max_export_batch_size(number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE").unwrap_or(QUEUE / 16));
        let batches = BatchSpanProcessor::builder(exporter).with_batch_config(batches.build()).build();
        let provider = SdkTracerProvider::builder()
            .with_id_generator(Ids::default())
            .with_span_processor(batches)
            .with_resource(resource)
            .build();
        let tracer = provider.tracer("shmworker");
        Ok(Tracer { provider, tracer })
    }

    /// The span of a task that is submitted now.
    pub(crate) fn begin(&self, task: &str, parent: Option<TraceParent>) -> Open {
        self.open(task, SpanKind::Consumer, parent.into(), SystemTime::now(), Vec::new())
    }

    /// A span that begins then.
    pub(crate) fn open(
        &self,
        name: &str,
        kind: SpanKind,
        parent: Parent,
        at: SystemTime,
        attributes: Vec<KeyValue>,
    ) -> Open {
        let mut context = Context::new();
        match parent {
            Parent::Nobody => {}
            Parent::Trace(trace) => TRACE.set(Some(TraceId::from(trace))),
            Parent::Span(parent) => {
                let flags = if parent.is_sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
                let (trace, span) = (TraceId::from(parent.trace), SpanId::from(parent.span));
                context =
                    context.with_remote_span_context(SpanContext::new(trace, span, flags, true, TraceState::NONE));
            }
        }
        let builder = SpanBuilder::from_name(cut(name)).with_kind(kind).with_start_time(at);
        let span = self.tracer.build_with_context(builder.with_attributes(attributes), &context);
        TRACE.set(None);
        Open { span, begun: at }
    }

    /// The span of a task that has ended, of which nobody has begun one: it was one of several that went to a worker together.
    pub(crate) fn tell(&self, result: &JobResult, submitted: SystemTime) {
        self.open(&result.task, SpanKind::Consumer, Parent::Nobody, submitted, Vec::new()).end(result);
    }
}

/// The number that a variable gives.
fn number(variable: &str) -> Option<usize> {
    env::var(variable).ok()?.parse().ok().filter(|&n| n > 0)
}

/// No proxy stands before this machine.
fn is_of_this_machine(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else { return false };
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// A client that asks no proxy, whatever `HTTP_PROXY` says.
fn direct() -> Result<Client, String> {
    let timeout = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"].into_iter().find_map(number);
    let timeout = timeout.map_or(REQUEST, |ms| Duration::from_millis(ms as u64));
    // It panics where a tokio runtime is, as the SDK's own would.
    let build = move || Client::builder().no_proxy().timeout(timeout).build().map_err(|e| e.to_string());
    let built = thread::Builder::new().spawn(build).map_err(|e| format!("cannot start a thread: {e}"))?;
    built.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// As much of a text as a span has.
pub(crate) fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(LONGEST)].to_owned()
}

impl Tracer {
    /// Sends what is still to be sent, for so long at most. What ends later is dropped.
    pub(crate) fn shut_down(&self, patience: Duration) {
        // It says itself what went wrong.
        let _ = self.provider.shutdown_with_timeout(patience);
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.shut_down(PATIENCE);
    }
}

/// The span of a task that is under way.
pub(crate) struct Open {
    span: Span,
    begun: SystemTime,
}

impl Open {
    /// For the task.
    pub(crate) fn context(&self) -> TraceParent {
        let context = self.span.span_context();
        TraceParent {
            trace: u128::from_be_bytes(context.trace_id().to_bytes()),
            span: u64::from_be_bytes(context.span_id().to_bytes()),
            is_sampled: context.is_sampled(),
        }
    }

    /// The task has ended so.
    pub(crate) fn end(self, result: &JobResult) {
        let us = Duration::from_micros;
        self.finish(&End {
            status: match result.status {
                Status::Done => "done",
                Status::Failed => "failed",
                Status::Panicked => "panicked",
                Status::Died => "died",
                Status::TimedOut => "timed_out",
                Status::Cancelled => "cancelled",
                Status::Expired => "expired",
            },
            error: (result.status != Status::Done).then(|| result.error.as_deref().unwrap_or_default()),
            attempts: result.attempts,
            worker: result.worker.as_deref(),
            pid: result.pid.map(i64::from),
            label: result.label.as_deref(),
            waited: us(result.waited_us),
            ran: us(result.ran_us),
        });
    }

    /// The same, in the words of a span.
    pub(crate) fn finish(mut self, end: &End<'_>) {
        let span = &mut self.span;
        span.set_attribute(KeyValue::new("shmworker.attempts", i64::from(end.attempts)));
        span.set_attribute(KeyValue::new("shmworker.status", end.status));
        if let Some(worker) = end.worker {
            span.set_attribute(KeyValue::new("shmworker.worker", worker.to_owned()));
        }
        if let Some(pid) = end.pid {
            span.set_attribute(KeyValue::new("process.pid", pid));
        }
        if let Some(label) = end.label {
            span.set_attribute(KeyValue::new("shmworker.label", cut(label)));
        }
        let (now, begun) = (SystemTime::now(), self.begun + end.waited);
        // Not everything is stamped.
        if end.attempts > 0 && (!end.waited.is_zero() || !end.ran.is_zero()) {
            span.add_event_with_timestamp("begun", begun.min(now), Vec::new());
        }
        if let Some(error) = end.error {
            span.set_status(SpanStatus::error(cut(error)));
        }
        // What it waited for to be taken is no part of it; without stamps nothing is known of that.
        let at = if end.ran.is_zero() { now } else { (begun + end.ran).min(now) };
        span.end_with_timestamp(at);
    }

    /// What is no task of a pool's has ended, with this error if any.
    pub(crate) fn close(mut self, error: Option<&str>) {
        if let Some(error) = error {
            self.span.set_status(SpanStatus::error(cut(error)));
        }
        self.span.end();
    }
}

/// How a task has ended, and who ran it last. What was not stamped took no time.
#[derive(Debug, Default)]
pub(crate) struct End<'r> {
    pub(crate) status: &'static str,
    /// What went wrong, if something has.
    pub(crate) error: Option<&'r str>,
    pub(crate) attempts: u32,
    pub(crate) worker: Option<&'r str>,
    pub(crate) pid: Option<i64>,
    pub(crate) label: Option<&'r str>,
    /// From the submission to the beginning of the last attempt.
    pub(crate) waited: Duration,
    pub(crate) ran: Duration,
}
