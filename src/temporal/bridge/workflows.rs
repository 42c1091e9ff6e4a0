//! Activations out, completions in, and what becomes of the runs of a process that dies.

use super::{
    Bridge, answer, go_on,
    routes::{Activation, Pending},
    why_not,
    wire::{self, Kind, WORKFLOW_QUEUE, once},
};
use crate::{
    error::Corrupted,
    exec::endpoint::{Finished, To},
    lockfree::{descriptor::retry_on, participant::Name, word::Outcome},
};
use prost::Message;
use std::{fmt, sync::Arc, time::Instant};
use temporalio_common::protos::{
    coresdk::{
        workflow_activation::{WorkflowActivation, workflow_activation_job::Variant as Job},
        workflow_completion::{WorkflowActivationCompletion, workflow_activation_completion::Status},
    },
    temporal::api::failure::v1::Failure,
};
use temporalio_sdk_core::PollError;

/// Attempts of a run's first activation: it has no effect outside its process, so a death costs nothing but time. A
/// workflow that kills its process is reported to Temporal after these.
const FIRST_ACTIVATION_ATTEMPTS: u8 = 2;

impl Bridge {
    pub(super) async fn poll_workflows(self: Arc<Self>) -> Result<(), PollError> {
        let Some(worker) = self.core.get().and_then(|core| core.workflows()) else { return Ok(()) };
        loop {
            match worker.poll_workflow_activation().await {
                Ok(activation) => {
                    let bridge = self.clone();
                    go_on(async move { bridge.route(activation).await });
                }
                Err(PollError::ShutDown) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    }

    async fn route(self: &Arc<Self>, activation: WorkflowActivation) {
        let run_id = activation.run_id.clone();
        if activation.is_only_eviction() {
            return self.answer_eviction(activation).await;
        }
        // Before anything here can keep it waiting: what is late and was not said to have come was not kept by us.
        tracing::debug!(run_id, history_length = activation.history_length, "activation came");
        let init = activation.jobs.iter().find_map(|job| match &job.variant {
            Some(Job::InitializeWorkflow(init)) => Some(init),
            _ => None,
        });
        let trace = self.traces.run(&activation, || self.routes().runs.get(&run_id)?.trace.clone());
        let mut span = self.traces.activation(&activation, trace.as_ref());
        let routed = self
            .when_there_is_room(|| {
                let draft = wire::draft(self.endpoint, &activation)?;
                let mut routes = self.routes();
                let owner = routes.runs.get(&run_id).and_then(|run| run.owner);
                let to = owner.map_or(To::Queue(WORKFLOW_QUEUE), To::Participant);
                let mut submission = once(to, Kind::Activation, 0);
                submission.limits.run_ms = self.deadlock_ms;
                if owner.is_none() {
                    submission.max_attempts = FIRST_ACTIVATION_ATTEMPTS;
                    submission.retry_on = retry_on::DIED;
                }
                submission.trace = span.as_mut().map(|span| span.submitted());
                submission.is_timed = submission.trace.is_some();
                let pending = Activation {
                    run_id: run_id.clone(),
                    history_length: activation.history_length,
                    owner,
                    since: Instant::now(),
                    task: None,
                    span: span.take(),
                };
                routes.submit_draft(draft, submission, Pending::Activation(pending))?;
                let run = routes.runs.entry(run_id.clone()).or_default();
                run.is_outstanding = true;
                run.trace.clone_from(&trace);
                if let Some(init) = init {
                    run.workflow_type.clone_from(&init.workflow_type);
                    run.task_timeout = init.workflow_task_timeout.and_then(|t| t.try_into().ok());
                }
                if !std::mem::replace(&mut routes.is_watched, true) {
                    drop(routes);
                    self.endpoint.wake_self();
                }
                Ok(())
            })
            .await;
        if let Err(e) = routed {
            let why = e.to_string();
            if let Some(span) = span {
                span.end_activation(None, Err(&why));
            }
            self.fail_activation(run_id, why);
        }
    }

    /// Answered at once: the run is parked, and its owner, which may be busy with another, forgets it before it begins it anew.
    ///
    /// A raw process can't be told so, since the library there doesn't know when its SDK has torn the run down: it answers by itself.
    async fn answer_eviction(self: &Arc<Self>, activation: WorkflowActivation) {
        let run_id = activation.run_id.clone();
        let told = self
            .when_there_is_room(|| {
                let mut routes = self.routes();
                let owner = routes.runs.get(&run_id).and_then(|run| run.owner);
                if let Some(owner) = owner.filter(|&owner| self.is_live(owner)) {
                    let is_raw = self.is_raw(owner);
                    let kind = if is_raw { Kind::Eviction } else { Kind::Forget };
                    let mut submission = once(To::Participant(owner), kind, 0);
                    // What the run holds has destructors, which are workflow code as well.
                    submission.limits.run_ms = self.deadlock_ms;
                    if is_raw {
                        let pending = Pending::Eviction { run_id: run_id.clone() };
                        routes.submit(self.endpoint, &activation, submission, pending)?;
                        routes.runs.entry(run_id.clone()).and_modify(|run| run.is_outstanding = true);
                        return Ok(true);
                    }
                    routes.submit(self.endpoint, &run_id, submission, Pending::Note)?;
                }
                routes.remove(&run_id);
                Ok(false)
            })
            .await;
        match told {
            Ok(true) => return,
            Ok(false) => {}
            Err(e) => tracing::error!("evict run {run_id}: {e}"),
        }
        if let Err(damage) = self.finish_eviction(run_id) {
            tracing::error!("{damage}");
        }
    }

    /// Nobody has this run any more.
    pub(super) fn finish_eviction(self: &Arc<Self>, run_id: String) -> Result<(), Corrupted> {
        self.routes().remove(&run_id);
        self.complete_workflow(WorkflowActivationCompletion::empty(run_id));
        self.release_leavers()
    }

    /// The owner of a run wants it evicted. False: it is not the owner.
    pub(super) fn evict_for(&self, owner: Name, run_id: &[u8]) -> bool {
        let Ok(run_id) = std::str::from_utf8(run_id) else { return false };
        let is_owner = self.routes().runs.get(run_id).is_some_and(|run| run.owner == Some(owner));
        if is_owner {
            self.evict(run_id);
        }
        is_owner
    }

    /// A workflow process has answered, or will not.
    pub(super) fn finish_activation(
        self: &Arc<Self>,
        finished: &Finished<'_>,
        activation: Activation,
    ) -> Result<(), Corrupted> {
        let Activation { run_id, history_length, owner, since, span, .. } = activation;
        tracing::debug!(run_id, history_length, outcome = ?finished.outcome(), after = ?since.elapsed(), "activation over");
        let (completion, unreadable) = match answer::<WorkflowActivationCompletion>(finished, "workflow")? {
            Ok(completion) => (completion, None),
            Err(why) => (None, Some(why)),
        };
        let last_command = completion.as_ref().and_then(last_command);
        let mut routes = self.routes();
        routes.finished += 1;
        routes.own(&run_id, finished.claimant());
        let mut before = None;
        if let Some(run) = routes.runs.get_mut(&run_id) {
            run.is_outstanding = false;
            if completion.is_none() {
                before = Some((run.workflow_type.clone(), run.last_command.clone()));
            }
            if let Some(last_command) = last_command {
                run.last_command = last_command;
            }
        }
        drop(routes);
        match completion {
            Some(mut completion) => {
                if let Some(span) = span {
                    span.carry_on(&mut completion);
                    span.end_activation(Some((self.endpoint, finished)), Ok(&completion));
                }
                self.complete_workflow(completion);
            }
            None => {
                let why = match unreadable {
                    Some(why) => why,
                    None => why_no_completion(finished, &run_id, owner, before.unwrap_or_default(), self.deadlock_ms)?,
                };
                if let Some(span) = span {
                    span.end_activation(Some((self.endpoint, finished)), Err(&why));
                }
                self.fail_activation(run_id, why);
            }
        }
        Ok(())
    }

    /// Parked runs of dead processes. One with an activation outstanding comes back by itself.
    pub(super) fn evict_orphans(&self) {
        let orphans = self.routes().parked(|owner| !owner.is_some_and(|owner| self.is_live(owner)));
        orphans.iter().for_each(|run_id| self.evict(run_id));
    }

    pub(super) fn evict(&self, run_id: &str) {
        if let Some(worker) = self.core.get().and_then(|core| core.workflows()) {
            let _runtime = self.handle.enter();
            worker.request_workflow_eviction(run_id);
        }
    }

    fn fail_activation(self: &Arc<Self>, run_id: String, why: String) {
        let failure = Failure { message: why, ..Default::default() };
        self.complete_workflow(WorkflowActivationCompletion::fail(run_id, failure, None));
    }

    /// Completions run side by side: Core may wait in one for another.
    fn complete_workflow(self: &Arc<Self>, completion: WorkflowActivationCompletion) {
        let Some(core) = self.core.get().cloned() else { return };
        let run_id = completion.run_id.clone();
        let bridge = self.clone();
        self.handle.spawn(async move {
            let Some(worker) = core.workflows() else { return };
            if let Err(e) = worker.complete_workflow_activation(completion).await {
                tracing::warn!("complete an activation of run {run_id}: {e}");
                // Core has looked at none of it, so the activation is outstanding still.
                let failure = Failure { message: e.to_string(), ..Default::default() };
                let failed = WorkflowActivationCompletion::fail(&run_id, failure, None);
                if let Err(e) = worker.complete_workflow_activation(failed).await {
                    tracing::error!("fail an activation of run {run_id}: {e}");
                }
            }
            // News of its owner that came before this found the activation outstanding in Core, which then evicts
            // nothing; news that comes after it finds the run parked.
            let routes = bridge.routes();
            let owner = routes.runs.get(&run_id).and_then(|run| run.owner);
            let is_to_go = owner.is_some_and(|owner| !bridge.is_live(owner) || routes.is_to_be_left(owner));
            drop(routes);
            if is_to_go {
                worker.request_workflow_eviction(&run_id);
            }
        });
    }
}

/// Why an activation of a run, for this owner, came back without a completion, for people who read histories. `before`: the type of
/// the run, and the last command that it had given.
fn why_no_completion(
    finished: &Finished<'_>,
    run_id: &str,
    owner: Option<Name>,
    (workflow_type, last_command): (String, String),
    deadlock_ms: u32,
) -> Result<String, Corrupted> {
    Ok(match finished.outcome() {
        Outcome::TimedOut => {
            let jobs =
                WorkflowActivation::decode(finished.input()?).map(|activation| activation.jobs).unwrap_or_default();
            let jobs: Vec<String> = jobs.iter().map(ToString::to_string).collect();
            let before = match last_command.as_str() {
                "" => "it had given no command before".to_owned(),
                command => format!("its last command before was {command}"),
            };
            let why = format!(
                "[TMPRL1101] potential deadlock: workflow {workflow_type:?} (run {run_id}) did not yield within {deadlock_ms} ms \
                 while it was given {}; {before}; its process was killed, and its other runs are replayed: let activities do \
                 what blocks or computes for long, or raise --deadlock-timeout",
                jobs.join(", ")
            );
            tracing::error!("{why}");
            why
        }
        Outcome::Cancelled => {
            let who = match owner {
                Some(_) => "the process of this run is busy with others: another is to replay it",
                None => "every workflow process is busy with other runs: this one is to begin later, or elsewhere",
            };
            format!("{who} (workflow {workflow_type:?}), since the time for its workflow task was running out")
        }
        _ => why_not(finished, "workflow"),
    })
}

/// The name of the last command, if there is one.
fn last_command(completion: &WorkflowActivationCompletion) -> Option<String> {
    let Some(Status::Successful(success)) = &completion.status else { return None };
    let command = success.commands.iter().filter_map(|c| c.variant.as_ref()).next_back()?;
    let mut name = String::new();
    // The derived text begins with the name, in one piece; what follows is refused.
    let _ = fmt::write(&mut FirstPiece(&mut name), format_args!("{command:?}"));
    Some(name)
}

struct FirstPiece<'s>(&'s mut String);

impl fmt::Write for FirstPiece<'_> {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        if !self.0.is_empty() {
            return Err(fmt::Error);
        }
        self.0.push_str(piece);
        Ok(())
    }
}
