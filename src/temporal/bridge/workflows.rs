//! Activations out, completions in, and what becomes of the runs of a process that dies.

use super::{
    Bridge, is_live,
    routes::{Pending, Run},
    why_not,
    wire::{Kind, WORKFLOW_QUEUE, once},
};
use crate::{
    error::Corrupted,
    exec::endpoint::{Finished, To},
    lockfree::descriptor::retry_on,
};
use prost::Message;
use std::sync::Arc;
use temporalio_common::protos::{
    coresdk::{workflow_activation::WorkflowActivation, workflow_completion::WorkflowActivationCompletion},
    temporal::api::failure::v1::Failure,
};
use temporalio_sdk_core::PollError;

/// Attempts of a run's first activation: it has no effect outside its process, so a death costs nothing but time. A
/// workflow that kills its process is reported to Temporal after these.
const FIRST_ACTIVATION_ATTEMPTS: u8 = 2;

impl Bridge {
    pub(super) async fn poll_workflows(self: Arc<Self>) -> Result<(), PollError> {
        let Some(worker) = self.core.get().and_then(|c| c.workflows.as_ref()) else { return Ok(()) };
        loop {
            match worker.poll_workflow_activation().await {
                Ok(activation) => self.route(activation).await,
                Err(PollError::ShutDown) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    }

    async fn route(&self, activation: WorkflowActivation) {
        let run_id = activation.run_id.clone();
        let eviction = activation.is_only_eviction();
        let routed = self
            .when_there_is_room(|| {
                let mut routes = self.routes();
                let owner = routes.runs.get(&run_id).and_then(|run| run.owner);
                if eviction && !owner.is_some_and(|owner| self.is_live(owner)) {
                    // Nobody has the run any more, or ever had.
                    routes.runs.remove(&run_id);
                    return Ok(false);
                }
                let mut submission = match owner {
                    Some(owner) => once(To::Participant(owner), Kind::Activation, 0),
                    None => once(To::Queue(WORKFLOW_QUEUE), Kind::Activation, 0),
                };
                if owner.is_none() {
                    submission.max_attempts = FIRST_ACTIVATION_ATTEMPTS;
                    submission.retry_on = retry_on::DIED | retry_on::TIMED_OUT;
                }
                let pending = Pending::Activation { run_id: run_id.clone(), eviction };
                routes.submit(self.endpoint, &activation, submission, pending)?;
                routes.runs.entry(run_id.clone()).or_insert(Run { owner: None, outstanding: true }).outstanding = true;
                Ok(true)
            })
            .await;
        match routed {
            Ok(true) => {}
            Ok(false) => self.complete_workflow(WorkflowActivationCompletion::empty(run_id)),
            Err(e) => self.fail_activation(run_id, e.to_string()),
        }
    }

    /// A workflow process has answered, or will not.
    pub(super) fn finish_activation(
        &self,
        finished: &Finished<'_>,
        run_id: String,
        eviction: bool,
    ) -> Result<(), Corrupted> {
        let mut routes = self.routes();
        if eviction {
            // Answered by the owner, or by us in its place if it died over it.
            routes.runs.remove(&run_id);
            drop(routes);
            self.complete_workflow(WorkflowActivationCompletion::empty(run_id));
            return Ok(());
        }
        if let Some(run) = routes.runs.get_mut(&run_id) {
            run.outstanding = false;
            run.owner = run.owner.or(finished.claimant());
        }
        drop(routes);
        match WorkflowActivationCompletion::decode(finished.output()?) {
            Ok(completion) if super::is_done(finished) => self.complete_workflow(completion),
            _ => self.fail_activation(run_id, why_not(finished, "workflow")),
        }
        Ok(())
    }

    /// Parked runs of dead processes. One with an activation outstanding comes back by itself.
    pub(super) fn evict_orphans(&self) {
        let routes = self.routes();
        let orphans =
            routes.runs.iter().filter(|(_, run)| !run.outstanding && !run.owner.is_some_and(|o| self.is_live(o)));
        let orphans: Vec<String> = orphans.map(|(id, _)| id.clone()).collect();
        drop(routes);
        orphans.iter().for_each(|run_id| self.evict(run_id));
    }

    fn evict(&self, run_id: &str) {
        if let Some(worker) = self.core.get().and_then(|core| core.workflows.as_ref()) {
            let _runtime = self.handle.enter();
            worker.request_workflow_eviction(run_id);
        }
    }

    fn fail_activation(&self, run_id: String, why: String) {
        let failure = Failure { message: why, ..Default::default() };
        self.complete_workflow(WorkflowActivationCompletion::fail(run_id, failure, None));
    }

    /// Completions run side by side: Core may wait in one for another.
    fn complete_workflow(&self, completion: WorkflowActivationCompletion) {
        let Some(core) = self.core.get().cloned() else { return };
        let run_id = completion.run_id.clone();
        let owner = self.routes().runs.get(&run_id).and_then(|run| run.owner);
        let endpoint = self.endpoint;
        self.handle.spawn(async move {
            let Some(worker) = &core.workflows else { return };
            if let Err(e) = worker.complete_workflow_activation(completion).await {
                tracing::warn!("complete an activation of run {run_id}: {e}");
            }
            // News of its owner's death that came before this found the activation outstanding in Core, which then evicts
            // nothing; news that comes after it finds the run parked.
            if owner.is_some_and(|owner| !is_live(endpoint, owner)) {
                worker.request_workflow_eviction(&run_id);
            }
        });
    }
}
