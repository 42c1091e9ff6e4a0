//! Workflow code without Core: one activation in, one completion out.
//!
//! A workflow process holds suspended runs of ordinary `#[workflow]` types, and neither Core, nor a connection, nor an
//! async runtime. The bridge, which owns Core, sends it one [`WorkflowActivation`] at a time; `WorkflowHost::handle`
//! applies it to the run it names, polls that run until it can't go on and returns the commands that this produced.
//! Everything happens on the calling thread: between two activations a run is memory and nothing else.
//!
//! # What fails a workflow task
//!
//! A failed *task* is tried again by Temporal and leaves the workflow running; only its own code can fail a workflow.
//! These fail the task, each with a message that says what to do: a workflow type that isn't registered, an input that
//! doesn't decode, a panic, a future woken by something other than the SDK (TMPRL1100), an activation for a run that
//! isn't here. After any of them the run is dropped at once, since its state may be half changed; Core evicts it as
//! well and has it replayed from its history.

mod process;
mod run;
#[cfg(test)]
mod tests;

pub(super) use self::process::workflow_process;
use self::run::{Run, TaskFailed};
use super::{
    UserCode,
    converter::{Codec, conceal},
    panics,
    seam::{self, Instantiate, Surroundings, WorkflowInit},
};
use std::collections::{BTreeMap, HashMap};
use temporalio_common::{
    WorkflowDefinition,
    protos::coresdk::{
        workflow_activation::{InitializeWorkflow, WorkflowActivation, workflow_activation_job::Variant},
        workflow_commands::WorkflowCommand,
        workflow_completion::{Success, WorkflowActivationCompletion, workflow_activation_completion::Status},
    },
};
use temporalio_workflow::workflows::WorkflowImplementation;

/// Workflow types by name: the same table in every process of a worker.
///
/// ```
/// use shmworker::temporal::{sample::ParallelizedWorkflow, workflow::Workflows};
///
/// let workflows = Workflows::new().register::<ParallelizedWorkflow>();
/// assert!(workflows.names().eq(["ParallelizedWorkflow"]));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Workflows(BTreeMap<&'static str, Instantiate>);

impl Workflows {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `W` under the name of its `#[run]` method, which is the struct's own unless `#[run(name = "…")]` says
    /// otherwise.
    ///
    /// # Panics
    ///
    /// If a workflow of that name is registered already.
    #[track_caller]
    pub fn register<W>(mut self) -> Self
    where
        W: WorkflowImplementation,
        <W::Run as WorkflowDefinition>::Input: Send,
    {
        let earlier = self.0.insert(W::name(), seam::instantiate::<W>);
        assert!(
            earlier.is_none(),
            "workflow type {:?} is registered twice: rename one with #[run(name = …)]",
            W::name()
        );
        self
    }

    /// The registered names, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().copied()
    }

    /// Whether nothing is registered.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Is there such a type?
    ///
    /// # Errors
    /// What a workflow task of it would fail with.
    pub(crate) fn check(&self, workflow_type: &str) -> Result<(), String> {
        self.find(workflow_type).map(drop).map_err(|failed| failed.failure.message)
    }

    fn find(&self, workflow_type: &str) -> Result<Instantiate, TaskFailed> {
        self.0.get(workflow_type).copied().ok_or_else(|| {
            let known = match self.is_empty() {
                true => "nothing is".into(),
                false => format!("registered are: {}", self.names().collect::<Vec<_>>().join(", ")),
            };
            TaskFailed::new(format!(
                "workflow type {workflow_type:?} is not registered in this worker ({known}); add it with \
                 Workflows::register, or start it on the task queue of a worker that has it"
            ))
        })
    }
}

/// All runs that this process has in its memory.
pub(crate) struct WorkflowHost {
    workflows: Workflows,
    namespace: String,
    task_queue: String,
    recorded_task_queues: HashMap<String, String>,
    surroundings: Surroundings,
    codec: Option<Codec>,
    runs: HashMap<String, Run>,
}

impl WorkflowHost {
    /// A host without runs. `namespace` and `task_queue` are what workflow code sees as its own.
    pub(crate) fn new(code: impl Into<UserCode>, namespace: String, task_queue: String) -> Self {
        let UserCode { workflows, converter, workflow_interceptors, .. } = code.into();
        let surroundings = Surroundings { converter: converter.data().clone(), interceptors: workflow_interceptors };
        Self {
            workflows,
            namespace,
            task_queue,
            recorded_task_queues: HashMap::new(),
            surroundings,
            codec: converter.codec(),
            runs: HashMap::new(),
        }
    }

    /// What the code of these runs sees as its task queue, by the run's id: that on which they were recorded.
    pub(crate) fn recorded_task_queues(mut self, of_runs: HashMap<String, String>) -> Self {
        self.recorded_task_queues = of_runs;
        self
    }

    /// Applies `activation` and returns what Core is to be told. User code that panics or waits for something foreign
    /// fails the workflow task, never the process. An eviction is answered once the run is gone, known or not: a run
    /// that failed on its first activation was never stored.
    pub(crate) fn handle(&mut self, activation: WorkflowActivation) -> WorkflowActivationCompletion {
        let run_id = activation.run_id.clone();
        if activation.is_only_eviction() {
            self.forget(&run_id);
            return WorkflowActivationCompletion::empty(run_id);
        }
        match self.codec.clone() {
            None => self.activate(activation),
            Some(codec) => codec.around(activation, |activation| self.activate(activation)),
        }
    }

    fn activate(&mut self, activation: WorkflowActivation) -> WorkflowActivationCompletion {
        let run_id = activation.run_id.clone();
        match self.apply(activation) {
            Ok(commands) => WorkflowActivationCompletion {
                run_id,
                status: Some(Status::Successful(Success { commands, ..Default::default() })),
                ..Default::default()
            },
            Err(TaskFailed { mut failure, cause }) => {
                tracing::warn!(run_id, failure = %failure.message, "workflow task failed");
                self.forget(&run_id);
                conceal(&mut failure, &self.surroundings.converter);
                WorkflowActivationCompletion::fail(run_id, *failure, Some(cause))
            }
        }
    }

    /// Forgets every run, because the bridge that they belong to is gone. Returns how many there were.
    pub(crate) fn forget_all(&mut self) -> usize {
        self.runs.drain().map(|(run_id, run)| discard(&run_id, run)).count()
    }

    /// How many runs are in memory.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.runs.len()
    }

    fn apply(&mut self, mut activation: WorkflowActivation) -> Result<Vec<WorkflowCommand>, TaskFailed> {
        let run_id = activation.run_id.clone();
        if let Some(init) = take_initialize(&mut activation) {
            // Core starts a run again only if it has given up the earlier one.
            self.forget(&run_id);
            let run = self.start(run_id.clone(), init)?;
            self.runs.insert(run_id.clone(), run);
        }
        let run = self.runs.get_mut(&run_id).ok_or_else(|| {
            TaskFailed::new(format!(
                "run {run_id} is not in this process and its activation doesn't start it; it is to be replayed from \
                 its history"
            ))
        })?;
        run.activate(activation)
    }

    fn start(&self, run_id: String, init: InitializeWorkflow) -> Result<Run, TaskFailed> {
        let instantiate = self.workflows.find(&init.workflow_type)?;
        let namespace = self.namespace.clone();
        let task_queue = self.recorded_task_queues.get(&run_id).unwrap_or(&self.task_queue).clone();
        Run::start(
            instantiate,
            WorkflowInit { namespace, task_queue, run_id, initialize_workflow: init },
            &self.surroundings,
        )
    }

    /// Drops a run, if it is here.
    fn forget(&mut self, run_id: &str) {
        if let Some(run) = self.runs.remove(run_id) {
            discard(run_id, run);
        }
    }
}

impl Drop for WorkflowHost {
    fn drop(&mut self) {
        self.forget_all();
    }
}

/// Drops a run, whose state and futures have destructors that the user wrote.
fn discard(run_id: &str, run: Run) {
    if let Err(failure) = panics::catch("dropping a workflow", || drop(run)) {
        tracing::warn!(run_id, failure = %failure.message, "the run is gone all the same");
    }
}

/// The initialization job itself stays in place, so that jobs and their results still go together, but what it carried
/// is taken: the runtime looks at it once, when the run is made.
fn take_initialize(activation: &mut WorkflowActivation) -> Option<InitializeWorkflow> {
    activation.jobs.iter_mut().find_map(|job| match &mut job.variant {
        Some(Variant::InitializeWorkflow(init)) => Some(std::mem::take(init)),
        _ => None,
    })
}
