//! Spans of activations and of attempts of activities, in the traces of those who asked for them.
//!
//! An SDK's interceptor for OpenTelemetry hands the trace on in a header ([`Carrier`]). What has that header is a child of the span that
//! it names, and what an activation asks for (activities, child workflows, signals, the next run) has the activation's span in its
//! own. A run that nobody traces is a trace by itself, whose id follows from the run's: so its tasks are together, whichever worker they
//! went to.
//!
//! A span is of what is done, so a replay has none: what was replayed had its own when it was done. Headers of runs stay as they
//! are, since a replay has to see the same; those of activities name the span of the attempt.
//!
//! With a payload codec headers are nobody's business here: those that can be read are, and none is changed, since a codec may take
//! only what it has made itself.

use super::{
    super::carrier::{Carrier, Headers},
    Config,
};
use crate::{
    exec::endpoint::{Endpoint, Finished},
    lockfree::{descriptor::TraceParent, word::Outcome},
    traces::{End, Open, PATIENCE, Parent, Tracer},
};
use opentelemetry::{KeyValue, trace::SpanKind};
use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant, SystemTime},
};
use temporalio_common::protos::{
    coresdk::{
        ActivityTaskCompletion,
        activity_result::activity_execution_result::Status as Ended,
        activity_task::{ActivityTask, activity_task::Variant},
        workflow_activation::{WorkflowActivation, workflow_activation_job::Variant as Job},
        workflow_commands::{query_result, workflow_command::Variant as Command},
        workflow_completion::{WorkflowActivationCompletion, workflow_activation_completion::Status},
    },
    temporal::api::{
        enums::v1::ApplicationErrorCategory,
        failure::v1::{Failure, failure::FailureInfo},
    },
};
use uuid::Uuid;

/// The names that the SDKs have for these attributes.
const WORKFLOW_ID: &str = "temporalWorkflowID";
const RUN_ID: &str = "temporalRunID";
const ACTIVITY_ID: &str = "temporalActivityID";
/// Which attempt of an activity it is, from 1.
const ATTEMPT: &str = "temporalAttempt";

/// Makes spans, if they are wanted.
#[derive(Default)]
pub(super) struct Traces(Option<Wanted>);

struct Wanted {
    tracer: Tracer,
    /// No payload codec would have to take what is written here.
    writes_headers: bool,
    /// How long the end of the bridge may wait for the collector.
    patience: Duration,
}

/// Of which trace the tasks of a run are.
pub(super) struct OfRun {
    workflow_id: String,
    workflow_type: String,
    /// What its header says.
    caller: Option<Carrier>,
    /// Its first span here, if nobody else's is the parent.
    first: OnceLock<TraceParent>,
}

/// The span of a task that is under way.
pub(super) struct Span {
    open: Open,
    /// For what this task asks for; `None`: for nothing.
    carrier: Option<Carrier>,
    since: Instant,
    /// Until there was room for it.
    waited: Duration,
}

impl Traces {
    /// Starts a thread, if spans are wanted.
    ///
    /// # Errors
    /// Why they can't be sent, as a text.
    pub(super) fn start(config: &Config) -> Result<Traces, String> {
        let Some(url) = &config.otlp else { return Ok(Traces(None)) };
        let tracer = Tracer::start(url).map_err(|e| format!("cannot send spans to {url} (--otlp): {e}"))?;
        // Who takes longer than the grace is killed.
        let patience = PATIENCE.min(config.grace.max(Duration::from_secs(1)) / 2);
        Ok(Traces(Some(Wanted { tracer, writes_headers: !config.has_codec, patience })))
    }

    /// Sends what is still to be sent. To be called when all has ended that has a span.
    pub(super) fn shut_down(&self) {
        if let Some(wanted) = &self.0 {
            wanted.tracer.shut_down(wanted.patience);
        }
    }

    /// The span of an attempt that has come, which its header names from now on.
    pub(super) fn activity(&self, task: &mut ActivityTask) -> Option<Box<Span>> {
        let (wanted, Some(Variant::Start(start))) = (self.0.as_ref()?, &mut task.variant) else { return None };
        let mut attributes = vec![
            KeyValue::new(ACTIVITY_ID, start.activity_id.clone()),
            KeyValue::new(ATTEMPT, i64::from(start.attempt)),
        ];
        let mut run_id = &start.run_id;
        if let Some(workflow) = &start.workflow_execution {
            attributes.push(KeyValue::new(WORKFLOW_ID, workflow.workflow_id.clone()));
            run_id = &workflow.run_id;
        }
        attributes.push(KeyValue::new(RUN_ID, run_id.clone()));
        let carrier = Carrier::of(&start.header_fields);
        let parent = parent(carrier.as_ref(), run_id);
        let span = wanted.open(&format!("RunActivity:{}", start.activity_type), parent, attributes);
        if wanted.writes_headers {
            carrier.unwrap_or_default().through(span.open.context()).add_to(&mut start.header_fields, true);
        }
        Some(span)
    }

    /// Of which trace the activation's run is; `known`: as which it is known.
    pub(super) fn run(
        &self,
        activation: &WorkflowActivation,
        known: impl FnOnce() -> Option<Arc<OfRun>>,
    ) -> Option<Arc<OfRun>> {
        self.0.as_ref()?;
        let init = activation.jobs.iter().find_map(|job| match &job.variant {
            Some(Job::InitializeWorkflow(init)) => Some(init),
            _ => None,
        });
        let Some(init) = init else { return known() };
        Some(Arc::new(OfRun {
            workflow_id: init.workflow_id.clone(),
            workflow_type: init.workflow_type.clone(),
            caller: Carrier::of(&init.headers),
            first: OnceLock::new(),
        }))
    }

    /// The span of an activation that has come, unless it is a replay.
    pub(super) fn activation(&self, activation: &WorkflowActivation, run: Option<&Arc<OfRun>>) -> Option<Box<Span>> {
        let (wanted, run) = (self.0.as_ref()?, run?);
        let attributes =
            vec![KeyValue::new(WORKFLOW_ID, run.workflow_id.clone()), KeyValue::new(RUN_ID, activation.run_id.clone())];
        let of_run = match run.first.get() {
            Some(&first) => Parent::Span(first),
            None => parent(run.caller.as_ref(), &activation.run_id),
        };
        // Core has queries by themselves, and says that they are replayed.
        let mut queries = activation.jobs.iter().map(|job| match &job.variant {
            Some(Job::QueryWorkflow(query)) => Some(query),
            _ => None,
        });
        if let Some(Some(query)) = queries.next()
            && queries.all(|query| query.is_some())
        {
            let asked = Carrier::of(&query.headers).and_then(|carrier| carrier.parent());
            let parent = asked.map_or(of_run, Parent::Span);
            return Some(wanted.open(&format!("HandleQuery:{}", query.query_type), parent, attributes));
        }
        if activation.is_replaying {
            return None;
        }
        let mut span = wanted.open(&format!("RunWorkflow:{}", run.workflow_type), of_run, attributes);
        let context = span.open.context();
        if matches!(of_run, Parent::Trace(_) | Parent::Nobody) {
            let _ = run.first.set(context);
        }
        span.carrier = wanted.writes_headers.then(|| run.caller.clone().unwrap_or_default().through(context));
        Some(span)
    }
}

impl Wanted {
    fn open(&self, name: &str, parent: Parent, attributes: Vec<KeyValue>) -> Box<Span> {
        let open = self.tracer.open(name, SpanKind::Server, parent, SystemTime::now(), attributes);
        Box::new(Span { open, carrier: None, since: Instant::now(), waited: Duration::ZERO })
    }
}

/// Whose child it is what has this header, or none, in a run.
fn parent(carrier: Option<&Carrier>, run_id: &str) -> Parent {
    if let Some(parent) = carrier.and_then(Carrier::parent) {
        return Parent::Span(parent);
    }
    Uuid::parse_str(run_id).map_or(Parent::Nobody, |id| Parent::Trace(trace_of(id)))
}

/// The lower half turned by two bits: a sampler takes its first bits for random, where a UUID has its variant.
fn trace_of(run: Uuid) -> u128 {
    let (high, low) = run.as_u64_pair();
    u128::from(high) << 64 | u128::from(low.rotate_left(2))
}

impl Span {
    /// There was room for its task, which is about to be submitted with this context.
    pub(super) fn submitted(&mut self) -> TraceParent {
        self.waited = self.since.elapsed();
        self.open.context()
    }

    /// What this activation asks for is its child, unless workflow code has said otherwise.
    pub(super) fn carry_on(&self, completion: &mut WorkflowActivationCompletion) {
        let (Some(carrier), Some(Status::Successful(success))) = (&self.carrier, &mut completion.status) else {
            return;
        };
        for command in &mut success.commands {
            let headers: &mut Headers = match &mut command.variant {
                Some(Command::ScheduleActivity(activity)) => &mut activity.headers,
                Some(Command::ScheduleLocalActivity(activity)) => &mut activity.headers,
                Some(Command::StartChildWorkflowExecution(child)) => &mut child.headers,
                Some(Command::SignalExternalWorkflowExecution(signal)) => &mut signal.headers,
                Some(Command::ContinueAsNewWorkflowExecution(next)) => &mut next.headers,
                _ => continue,
            };
            carrier.add_to(headers, false);
        }
    }

    /// The activation has been answered so, or is not for that reason. `finished`: what came back of it, if it was submitted.
    pub(super) fn end_activation(
        self,
        finished: Option<(&Endpoint, &Finished<'_>)>,
        completion: Result<&WorkflowActivationCompletion, &str>,
    ) {
        let error = match completion {
            Err(why) => return self.end(finished, how_lost(finished).unwrap_or("failed"), Some(why)),
            Ok(completion) => match &completion.status {
                Some(Status::Successful(success)) => success.commands.iter().find_map(|c| failure(c.variant.as_ref()?)),
                Some(Status::Failed(failed)) => Some(failed.failure.as_ref().map_or("", |failure| &failure.message)),
                None => None,
            },
        };
        self.end(finished, if error.is_some() { "failed" } else { "done" }, error);
    }

    /// The attempt is over, and Core is told so.
    pub(super) fn end_activity(
        self,
        finished: Option<(&Endpoint, &Finished<'_>)>,
        completion: &ActivityTaskCompletion,
    ) {
        let message = |failure: &Option<Failure>| failure.as_ref().map_or(String::new(), |f| f.message.clone());
        let ended = completion.result.as_ref().and_then(|result| result.status.as_ref());
        let (status, error) = match ended {
            Some(Ended::Failed(failed)) => {
                let is_benign = failed.failure.as_ref().is_some_and(is_benign);
                (how_lost(finished).unwrap_or("failed"), (!is_benign).then(|| message(&failed.failure)))
            }
            Some(Ended::Cancelled(cancelled)) => ("cancelled", Some(message(&cancelled.failure))),
            Some(Ended::WillCompleteAsync(_)) => ("will_complete_async", None),
            Some(Ended::Completed(_)) | None => ("done", None),
        };
        self.end(finished, status, error.as_deref());
    }

    fn end(self, finished: Option<(&Endpoint, &Finished<'_>)>, status: &'static str, error: Option<&str>) {
        let Some((endpoint, finished)) = finished else {
            return self.open.finish(&End { status, error, ..End::default() });
        };
        let segment = endpoint.segment();
        let worker = finished.claimant().and_then(|name| segment.record(name.id())).map(|record| record.label());
        let (times, clock) = (finished.times(), &segment.table().clock);
        self.open.finish(&End {
            status,
            error,
            attempts: finished.attempts(),
            worker: worker.as_deref().filter(|label| !label.is_empty()),
            pid: finished.ran_by().map(|(pid, _)| pid.into()),
            label: None,
            waited: self.waited + times.waited(clock),
            ran: times.ran(clock),
        });
    }
}

/// What became of a task that its worker did not end.
fn how_lost(finished: Option<(&Endpoint, &Finished<'_>)>) -> Option<&'static str> {
    match finished?.1.outcome() {
        Outcome::WorkerDied | Outcome::AddresseeDied => Some("died"),
        Outcome::TimedOut => Some("timed_out"),
        Outcome::Cancelled => Some("cancelled"),
        _ => None,
    }
}

/// What a command says of a failure.
fn failure(command: &Command) -> Option<&str> {
    let failure = match command {
        Command::FailWorkflowExecution(failed) => failed.failure.as_ref(),
        Command::RespondToQuery(answer) => match &answer.variant {
            Some(query_result::Variant::Failed(failure)) => Some(failure),
            _ => None,
        },
        _ => None,
    };
    failure.map(|failure| &failure.message[..])
}

/// Is it one that its author holds to be no error?
fn is_benign(failure: &Failure) -> bool {
    match &failure.failure_info {
        Some(FailureInfo::ApplicationFailureInfo(info)) => info.category() == ApplicationErrorCategory::Benign,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use temporalio_common::protos::{
        coresdk::{
            activity_task::Start,
            workflow_activation::{FireTimer, InitializeWorkflow, QueryWorkflow, WorkflowActivationJob},
            workflow_commands::{
                ContinueAsNewWorkflowExecution, ScheduleActivity, ScheduleLocalActivity,
                SignalExternalWorkflowExecution, StartChildWorkflowExecution, StartTimer,
            },
            workflow_completion::Success,
        },
        temporal::api::common::v1::WorkflowExecution,
    };

    const RUN: &str = "01a11163-8243-7635-a63d-01ed4aec48e1";
    const CALLER: TraceParent = TraceParent { trace: 0x4bf9, span: 0xf067, is_sampled: true };

    /// Whose spans go nowhere.
    fn traces(writes_headers: bool) -> Traces {
        let tracer = Tracer::start("http://127.0.0.1:1").unwrap();
        Traces(Some(Wanted { tracer, writes_headers, patience: Duration::ZERO }))
    }

    fn header(span: TraceParent) -> Headers {
        let mut headers = Headers::new();
        Carrier::default().through(span).add_to(&mut headers, true);
        headers
    }

    fn named(headers: &Headers) -> Option<TraceParent> {
        Carrier::of(headers)?.parent()
    }

    fn activation(jobs: impl IntoIterator<Item = Job>) -> WorkflowActivation {
        let jobs = jobs.into_iter().map(|job| WorkflowActivationJob { variant: Some(job) }).collect();
        WorkflowActivation { run_id: RUN.into(), jobs, ..Default::default() }
    }

    fn init(headers: Headers) -> WorkflowActivation {
        activation([Job::InitializeWorkflow(InitializeWorkflow {
            workflow_type: "Order".into(),
            headers,
            ..Default::default()
        })])
    }

    fn attempt(header_fields: Headers) -> ActivityTask {
        let workflow_execution = Some(WorkflowExecution { workflow_id: "order".into(), run_id: RUN.into() });
        let start = Start { header_fields, workflow_execution, ..Default::default() };
        ActivityTask { task_token: Vec::new(), variant: Some(Variant::Start(start)) }
    }

    fn headers(task: &ActivityTask) -> &Headers {
        let Some(Variant::Start(start)) = &task.variant else { panic!("{task:?}") };
        &start.header_fields
    }

    fn asked(commands: Vec<Command>) -> WorkflowActivationCompletion {
        let commands = commands.into_iter().map(Into::into).collect();
        let status = Some(Status::Successful(Success { commands, ..Default::default() }));
        WorkflowActivationCompletion { run_id: RUN.into(), status, ..Default::default() }
    }

    #[test]
    fn what_is_not_wanted_changes_nothing() {
        let traces = Traces::default();
        let mut task = attempt(header(CALLER));
        assert!(traces.activity(&mut task).is_none());
        assert_eq!(task, attempt(header(CALLER)));
        assert!(traces.run(&init(header(CALLER)), || panic!("nobody is to be asked")).is_none());
    }

    #[test]
    fn what_an_activation_asks_for_is_its_child() {
        let traces = traces(true);
        let begun = init(header(CALLER));
        let run = traces.run(&begun, || None);
        let span = traces.activation(&begun, run.as_ref()).unwrap();
        let context = span.open.context();
        assert_eq!((context.trace, context.is_sampled), (CALLER.trace, true));
        let mut completion = asked(vec![
            Command::ScheduleActivity(ScheduleActivity::default()),
            Command::ScheduleLocalActivity(ScheduleLocalActivity::default()),
            Command::StartChildWorkflowExecution(StartChildWorkflowExecution::default()),
            Command::SignalExternalWorkflowExecution(SignalExternalWorkflowExecution::default()),
            Command::StartTimer(StartTimer::default()),
            Command::ScheduleActivity(ScheduleActivity { headers: header(CALLER), ..Default::default() }),
            Command::ContinueAsNewWorkflowExecution(ContinueAsNewWorkflowExecution::default()),
        ]);
        span.carry_on(&mut completion);
        let Some(Status::Successful(success)) = &completion.status else { panic!() };
        let named: Vec<_> = success
            .commands
            .iter()
            .map(|command| match command.variant.as_ref().unwrap() {
                Command::ScheduleActivity(command) => named(&command.headers),
                Command::ScheduleLocalActivity(command) => named(&command.headers),
                Command::StartChildWorkflowExecution(command) => named(&command.headers),
                Command::SignalExternalWorkflowExecution(command) => named(&command.headers),
                Command::ContinueAsNewWorkflowExecution(command) => named(&command.headers),
                _ => None,
            })
            .collect();
        let own = Some(context);
        assert_eq!(named, [own, own, own, own, None, Some(CALLER), own], "workflow code's own header stays");
    }

    #[test]
    fn replays_have_no_spans_and_queries_have() {
        let traces = traces(true);
        let mut begun = init(Headers::new());
        begun.is_replaying = true;
        let run = traces.run(&begun, || None);
        assert!(traces.activation(&begun, run.as_ref()).is_none());
        let live = activation([Job::FireTimer(FireTimer::default())]);
        let first = traces.activation(&live, traces.run(&live, || run.clone()).as_ref()).unwrap();
        let trace_of_query = |headers| {
            let query = QueryWorkflow { query_type: "state".into(), headers, ..Default::default() };
            let asked = WorkflowActivation { is_replaying: true, ..activation([Job::QueryWorkflow(query)]) };
            traces.activation(&asked, run.as_ref()).unwrap().open.context().trace
        };
        assert_eq!(trace_of_query(header(CALLER)), CALLER.trace, "that of who asks");
        assert_eq!(trace_of_query(Headers::new()), first.open.context().trace);
    }

    #[test]
    fn tasks_of_a_run_that_nobody_traces_are_together() {
        let traces = traces(true);
        let run = traces.run(&init(Headers::new()), || None);
        let workflow = traces.activation(&init(Headers::new()), run.as_ref()).unwrap().open.context();
        let mut task = attempt(Headers::new());
        let activity = traces.activity(&mut task).unwrap().open.context();
        assert_eq!(activity.trace, workflow.trace);
        assert_eq!(named(headers(&task)), Some(activity));
        assert_ne!(workflow.trace, 0);
    }

    #[test]
    fn with_a_codec_no_header_is_changed() {
        let traces = traces(false);
        let mut task = attempt(header(CALLER));
        assert_eq!(traces.activity(&mut task).unwrap().open.context().trace, CALLER.trace);
        assert_eq!(task, attempt(header(CALLER)));
        let begun = init(header(CALLER));
        let span = traces.activation(&begun, traces.run(&begun, || None).as_ref()).unwrap();
        let mut completion = asked(vec![Command::ScheduleActivity(ScheduleActivity::default())]);
        span.carry_on(&mut completion);
        assert_eq!(completion, asked(vec![Command::ScheduleActivity(ScheduleActivity::default())]));
    }
}
