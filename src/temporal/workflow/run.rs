//! One run: workflow code suspended between two activations.
//!
//! # Order
//!
//! Two orders are part of the contract with Core and with histories written by other workers, since a replay must meet
//! the same commands in the same places:
//!
//! - *Polls.* After the jobs have been applied: the handlers of signals and updates in the order in which they started,
//!   then the main routine, and again from the top until a whole pass changes nothing. A handler may unblock the main
//!   routine and the other way round. The end of the main routine ends the activation, and an activation that holds
//!   only queries polls nothing.
//! - *Commands.* Acceptances and rejections of updates and answers to queries, in the order of their jobs; results of
//!   updates; what workflow code asked for, in the order it asked; the command that ends the run, last.
//!
//! # Wakes
//!
//! Nothing here waits to be woken: Core says by an activation when there is something to poll. The waker is only a
//! witness. The SDK's futures wake inside a scope that it marks; a wake from anywhere else (a thread, a tokio type, a
//! channel) means that the code waits for something that a replay won't reproduce, and fails the task with TMPRL1100.

use crate::process::coordinator::label;
use crate::temporal::{
    panics,
    seam::{
        ActivationJobResult, CommandSink, Instantiate, MAIN_ROUTINE_ID, MainRoutineCompletion, RoutineCompletion,
        RoutineId, RoutineKind, RoutinePollResult, StartedRoutine, Surroundings, TerminalOutcome,
        UpdateRoutineCompletion, WorkflowFailure, WorkflowInit, WorkflowInstance, is_sdk_wake,
    },
};
use std::{
    cell::RefCell,
    mem,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Wake, Waker},
};
use temporalio_common::protos::{
    ENCODING_PAYLOAD_KEY,
    coresdk::{
        workflow_activation::{WorkflowActivation, workflow_activation_job::Variant as Job},
        workflow_commands::{
            CancelWorkflowExecution, CompleteWorkflowExecution, FailWorkflowExecution, QueryResult, QuerySuccess,
            UpdateResponse, WorkflowCommand, query_result, update_response::Response,
            workflow_command::Variant as Command,
        },
    },
    temporal::api::{common::v1::Payload, enums::v1::WorkflowTaskFailedCause as Cause, failure::v1::Failure},
};

/// Why a workflow task failed (the task, not the workflow).
#[derive(Debug)]
pub(super) struct TaskFailed {
    pub(super) failure: Box<Failure>,
    pub(super) cause: Cause,
}

impl TaskFailed {
    pub(super) fn new(message: String) -> Self {
        Box::new(Failure::application_failure(message, false)).into()
    }
}

impl From<WorkflowFailure> for TaskFailed {
    fn from(failure: WorkflowFailure) -> Self {
        Self { failure, cause: Cause::WorkflowWorkerUnhandledFailure }
    }
}

/// One run, its handlers that are still under way, and the commands of the activation at hand.
pub(super) struct Run {
    instance: Box<dyn WorkflowInstance>,
    commands: Rc<Commands>,
    handlers: Vec<StartedRoutine>,
    witness: Arc<Witness>,
    waker: Waker,
    span: tracing::Span,
}

impl Run {
    /// Makes a run; no workflow code but its `#[init]` (or `Default`) has run when this returns.
    pub(super) fn start(
        instantiate: Instantiate,
        init: WorkflowInit,
        surroundings: &Surroundings,
    ) -> Result<Self, TaskFailed> {
        let workflow_type = init.initialize_workflow.workflow_type.clone();
        let span = tracing::error_span!("workflow", task = workflow_type, run_id = init.run_id, worker = label());
        let commands = Rc::<Commands>::default();
        let instance = span
            .in_scope(|| {
                panics::catch("workflow initialization", || instantiate(init, commands.clone(), surroundings))
            })?
            .map_err(|error| {
                TaskFailed::new(format!("the input of workflow type {workflow_type:?} doesn't decode: {error}"))
            })?;
        let witness = Arc::<Witness>::default();
        let waker = Waker::from(witness.clone());
        Ok(Self { instance, commands, handlers: Vec::new(), witness, waker, span })
    }

    /// Applies the jobs, polls what may go on, and returns the commands in the order that the module describes. After
    /// an error the run is of no more use.
    pub(super) fn activate(&mut self, activation: WorkflowActivation) -> Result<Vec<WorkflowCommand>, TaskFailed> {
        let span = self.span.clone();
        let _entered = span.enter();

        let polls = !activation.jobs.iter().all(|job| matches!(job.variant, Some(Job::QueryWorkflow(_))));
        let reply_ids: Vec<String> = activation.jobs.iter().map(|job| reply_id(job.variant.as_ref())).collect();
        let applied = self.call(|instance, waker| instance.activate(activation, waker))?;

        let mut commands = Vec::new();
        for (reply_id, result) in reply_ids.into_iter().zip(applied.job_results) {
            match result {
                ActivationJobResult::None => {}
                ActivationJobResult::StartedRoutine(routine) => {
                    if matches!(routine.kind, RoutineKind::Update(_)) {
                        commands.push(update_response(reply_id, Response::Accepted(())));
                    }
                    self.handlers.push(routine);
                }
                ActivationJobResult::UpdateRejected(failure) => {
                    commands.push(update_response(reply_id, Response::Rejected(*failure)));
                }
                ActivationJobResult::QueryResponse(response) => commands.push(query_answer(reply_id, response.result)),
            }
        }
        if polls {
            self.poll_all(&mut commands)?;
        }
        commands.append(&mut self.commands.0.borrow_mut());
        Ok(commands)
    }

    /// Polls handlers and main routine until they rest; results of updates go to `replies`.
    fn poll_all(&mut self, replies: &mut Vec<WorkflowCommand>) -> Result<(), TaskFailed> {
        loop {
            let mut progress = false;
            for handler in mem::take(&mut self.handlers) {
                let polled = self.poll(handler.routine_id)?;
                progress |= polled.made_progress;
                match polled.completion {
                    None => self.handlers.push(handler),
                    Some(RoutineCompletion::Signal(Ok(()))) => {}
                    Some(RoutineCompletion::Signal(Err(mut failure))) => {
                        failure.message = format!("the handler of {:?} failed: {}", handler.kind, failure.message);
                        return Err(failure.into());
                    }
                    Some(RoutineCompletion::Update(done)) => replies.push(match done {
                        UpdateRoutineCompletion::Completed { protocol_instance_id, result } => {
                            update_response(protocol_instance_id, Response::Completed(result))
                        }
                        UpdateRoutineCompletion::Rejected { protocol_instance_id, failure } => {
                            update_response(protocol_instance_id, Response::Rejected(*failure))
                        }
                    }),
                    Some(RoutineCompletion::Main(_)) => return Err(out_of_contract(handler.routine_id, &polled)),
                }
            }

            let polled = self.poll(MAIN_ROUTINE_ID)?;
            progress |= polled.made_progress;
            match polled.completion {
                Some(RoutineCompletion::Main(MainRoutineCompletion::Blocked)) if progress => {}
                Some(RoutineCompletion::Main(MainRoutineCompletion::Blocked)) => return Ok(()),
                Some(RoutineCompletion::Main(MainRoutineCompletion::Terminal(outcome))) => {
                    self.commands.push_command(ending(*outcome).into());
                    return Ok(());
                }
                Some(RoutineCompletion::Main(MainRoutineCompletion::TaskFailed(failed))) => {
                    let forced = failed.force_cause.and_then(|cause| Cause::try_from(i32::try_from(cause).ok()?).ok());
                    let unforced = TaskFailed::from(failed.failure);
                    return Err(TaskFailed { cause: forced.unwrap_or(unforced.cause), ..unforced });
                }
                Some(RoutineCompletion::Signal(_) | RoutineCompletion::Update(_)) | None => {
                    return Err(out_of_contract(MAIN_ROUTINE_ID, &polled));
                }
            }
        }
    }

    fn poll(&mut self, id: RoutineId) -> Result<RoutinePollResult, TaskFailed> {
        self.call(|instance, waker| instance.poll_routine(id, waker))
    }

    /// The only way into workflow code: a panic or a foreign wake fails the task.
    fn call<R>(
        &mut self,
        step: impl FnOnce(&mut dyn WorkflowInstance, &Waker) -> Result<R, WorkflowFailure>,
    ) -> Result<R, TaskFailed> {
        let done = panics::catch("workflow code", || step(&mut *self.instance, &self.waker))??;
        self.witness.testify()?;
        Ok(done)
    }
}

/// Collects the commands that workflow code issues while it is polled.
#[derive(Default)]
struct Commands(RefCell<Vec<WorkflowCommand>>);

impl CommandSink for Commands {
    /// The run's context keeps the details too, and answers the metadata query from there.
    fn set_current_details(&self, _details: String) {}

    fn push_command(&self, mut command: WorkflowCommand) {
        if let Some(Command::UpsertWorkflowSearchAttributes(upsert)) = &mut command.variant {
            upsert.search_attributes.iter_mut().flat_map(|a| a.indexed_fields.values_mut()).for_each(encode_unset);
        }
        self.0.borrow_mut().push(command);
    }
}

/// Upstream asks for the removal of a search attribute by a payload without encoding, which the server takes for a damaged
/// value and refuses, with the whole workflow task; the null that other SDKs send does what is meant.
fn encode_unset(payload: &mut Payload) {
    if *payload == Payload::default() {
        payload.metadata.insert(ENCODING_PAYLOAD_KEY.into(), b"binary/null".to_vec());
    }
}

/// The waker of a run. It wakes nobody; it remembers for good whether anything but the SDK has called it, be it between
/// two activations.
#[derive(Default)]
struct Witness {
    /// `Relaxed` throughout: the flag says that a wake happened and guards no other memory.
    foreign: AtomicBool,
}

impl Witness {
    fn testify(&self) -> Result<(), TaskFailed> {
        if !self.foreign.load(Relaxed) {
            return Ok(());
        }
        let message = "[TMPRL1100] workflow code waits for something that is not deterministic: its future was woken \
                       by a thread, a channel, a tokio type or another library; use ctx.timer(), ctx.wait_condition() \
                       and activities instead";
        Err(TaskFailed { cause: Cause::NonDeterministicError, ..TaskFailed::new(message.into()) })
    }
}

impl Wake for Witness {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !is_sdk_wake() {
            self.foreign.store(true, Relaxed);
        }
    }
}

/// The id under which the answer to a job goes back; empty for jobs that have none.
fn reply_id(job: Option<&Job>) -> String {
    match job {
        Some(Job::QueryWorkflow(query)) => query.query_id.clone(),
        Some(Job::DoUpdate(update)) => update.protocol_instance_id.clone(),
        _ => String::new(),
    }
}

fn update_response(protocol_instance_id: String, response: Response) -> WorkflowCommand {
    Command::UpdateResponse(UpdateResponse { protocol_instance_id, response: Some(response) }).into()
}

fn query_answer(query_id: String, answer: Result<Payload, Failure>) -> WorkflowCommand {
    let variant = match answer {
        Ok(payload) => query_result::Variant::Succeeded(QuerySuccess { response: Some(payload) }),
        Err(failure) => query_result::Variant::Failed(failure),
    };
    Command::RespondToQuery(QueryResult { query_id, variant: Some(variant) }).into()
}

/// The command that ends a run.
fn ending(outcome: TerminalOutcome) -> Command {
    match outcome {
        TerminalOutcome::Completed(result) => {
            Command::CompleteWorkflowExecution(CompleteWorkflowExecution { result: Some(result) })
        }
        TerminalOutcome::Failed(failure) => {
            Command::FailWorkflowExecution(FailWorkflowExecution { failure: Some(*failure) })
        }
        TerminalOutcome::Cancelled(details) => Command::CancelWorkflowExecution(CancelWorkflowExecution { details }),
        TerminalOutcome::ContinueAsNew(next) => Command::ContinueAsNewWorkflowExecution(*next),
    }
}

fn out_of_contract(id: RoutineId, polled: &RoutinePollResult) -> TaskFailed {
    TaskFailed::new(format!(
        "the workflow runtime returned {polled:?} for routine {id}, which shmworker doesn't know: check the versions \
         of the temporalio crates against those that it pins"
    ))
}
