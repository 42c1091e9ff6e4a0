//! A span for each task, for an OpenTelemetry collector.
//!
//! The submitter makes it: it begins with the submission and ends with the last attempt, and an event says when that began. Its context
//! goes through the segment, so that it is the parent of what a handler does.

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
    trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider, Span},
};
use reqwest::{Url, blocking::Client};
use std::{
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
        let provider = SdkTracerProvider::builder().with_span_processor(batches).with_resource(resource).build();
        let tracer = provider.tracer("shmworker");
        Ok(Tracer { provider, tracer })
    }

    /// The span of a task that is submitted now.
    pub(crate) fn begin(&self, task: &str, parent: Option<TraceParent>) -> Open {
        self.begin_at(task, parent, SystemTime::now())
    }

    fn begin_at(&self, task: &str, parent: Option<TraceParent>, at: SystemTime) -> Open {
        let context = parent.map_or_else(Context::new, |parent| {
            let flags = if parent.is_sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
            let (trace, span) = (TraceId::from(parent.trace), SpanId::from(parent.span));
            Context::new().with_remote_span_context(SpanContext::new(trace, span, flags, true, TraceState::NONE))
        });
        let builder = SpanBuilder::from_name(cut(task)).with_kind(SpanKind::Consumer).with_start_time(at);
        Open { span: self.tracer.build_with_context(builder, &context), begun: at }
    }

    /// The span of a task that has ended, of which nobody has begun one: it was one of several that went to a worker together.
    pub(crate) fn tell(&self, result: &JobResult, submitted: SystemTime) {
        self.begin_at(&result.task, None, submitted).end(result);
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
fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(LONGEST)].to_owned()
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // It says itself what went wrong.
        let _ = self.provider.shutdown_with_timeout(Duration::from_secs(5));
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
    pub(crate) fn end(mut self, result: &JobResult) {
        let span = &mut self.span;
        span.set_attribute(KeyValue::new("shmworker.attempts", i64::from(result.attempts)));
        let status = match result.status {
            Status::Done => "done",
            Status::Failed => "failed",
            Status::Panicked => "panicked",
            Status::Died => "died",
            Status::TimedOut => "timed_out",
            Status::Cancelled => "cancelled",
            Status::Expired => "expired",
        };
        span.set_attribute(KeyValue::new("shmworker.status", status));
        if let Some(worker) = &result.worker {
            span.set_attribute(KeyValue::new("shmworker.worker", worker.clone()));
        }
        if let Some(pid) = result.pid {
            span.set_attribute(KeyValue::new("process.pid", i64::from(pid)));
        }
        if let Some(label) = &result.label {
            span.set_attribute(KeyValue::new("shmworker.label", cut(label)));
        }
        let us = |us| Duration::from_micros(us);
        let (now, begun) = (SystemTime::now(), self.begun + us(result.waited_us));
        // Not everything is stamped.
        if result.attempts > 0 && (result.waited_us > 0 || result.ran_us > 0) {
            span.add_event_with_timestamp("begun", begun.min(now), Vec::new());
        }
        if result.status != Status::Done {
            span.set_status(SpanStatus::error(cut(result.error.as_deref().unwrap_or_default())));
        }
        // What it waited for to be taken is no part of it; without stamps nothing is known of that.
        let end = if result.ran_us > 0 { (begun + us(result.ran_us)).min(now) } else { now };
        span.end_with_timestamp(end);
    }
}
