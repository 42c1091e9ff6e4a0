//! A workflow process: one activation at a time, many suspended runs.

use super::{
    super::{
        UserCode,
        process::{From, code, is_stopping, origin, refuse},
        wire::{self, Kind, WORKFLOW_QUEUE},
    },
    WorkflowHost,
};
use crate::{
    error::Corrupted,
    exec::endpoint::{Claimed, Endpoint},
    lockfree::participant::Name,
    process::coordinator::Seat,
};
use prost::Message;
use temporalio_common::protos::{
    coresdk::{workflow_activation::WorkflowActivation, workflow_completion::WorkflowActivationCompletion},
    temporal::api::failure::v1::Failure,
};

/// Runs a workflow process: one activation at a time, many suspended runs.
pub(in super::super) fn workflow_process(seat: &Seat, user: &UserCode, namespace: &str, task_queue: &str) -> u8 {
    let host = WorkflowHost::new(user.clone(), namespace.to_owned(), task_queue.to_owned());
    code(serve_workflows(seat.endpoint, host))
}

fn serve_workflows(endpoint: &Endpoint, mut host: WorkflowHost) -> Result<(), Corrupted> {
    let mut bridge = None;
    let queues = [endpoint.queue(WORKFLOW_QUEUE)];
    while let Some(claimed) = endpoint.next(&queues, || is_stopping(endpoint))? {
        activate(endpoint, claimed, &mut host, &mut bridge)?;
    }
    Ok(())
}

fn activate(
    endpoint: &Endpoint,
    claimed: Claimed<'_>,
    host: &mut WorkflowHost,
    bridge: &mut Option<Name>,
) -> Result<(), Corrupted> {
    match origin(endpoint, &claimed, *bridge)? {
        From::Same => {}
        From::Another => {
            *bridge = Some(claimed.submitter());
            let runs = host.forget_all();
            if runs > 0 {
                tracing::info!(runs, "another bridge: the former one's runs are forgotten");
            }
        }
        From::Dead => return refuse(claimed),
    }
    match (Kind::of(&claimed), WorkflowActivation::decode(claimed.input()?)) {
        (Some(Kind::Activation), Ok(activation)) => {
            let run_id = activation.run_id.clone();
            let completion = host.handle(activation);
            wire::complete(claimed, &completion, |why| {
                let failure = Failure { message: why, ..Default::default() };
                WorkflowActivationCompletion::fail(run_id, failure, None)
            })
        }
        _ => refuse(claimed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        exec::{endpoint::To, tests::Pool},
        temporal::{sample, wire::once},
    };
    use prost::Message;
    use temporalio_common::protos::coresdk::{
        workflow_activation::{InitializeWorkflow, WorkflowActivationJob, workflow_activation_job},
        workflow_completion::workflow_activation_completion::Status,
    };

    /// The first activation of a run, or a later one that holds nothing new.
    fn activation(first: bool) -> WorkflowActivation {
        let init = InitializeWorkflow { workflow_type: "ParallelizedWorkflow".into(), ..Default::default() };
        let variant = Some(workflow_activation_job::Variant::InitializeWorkflow(init));
        let jobs = if first { vec![WorkflowActivationJob { variant }] } else { vec![] };
        WorkflowActivation { run_id: "run".into(), jobs, ..Default::default() }
    }

    fn submit(bridge: &Endpoint, message: &impl Message) {
        wire::submit(bridge, message, once(To::Queue(WORKFLOW_QUEUE), Kind::Activation, 0)).unwrap();
    }

    fn answer(bridge: &Endpoint) -> Option<Status> {
        let done = bridge.take().unwrap().expect("an answer");
        WorkflowActivationCompletion::decode(done.output().unwrap()).unwrap().status
    }

    #[test]
    fn no_run_of_a_dead_bridge_is_answered_for() {
        let pool = Pool::new(wire::QUEUES.len());
        let (old, worker) = (pool.endpoint(), pool.endpoint());
        let mut host = WorkflowHost::new(sample::workflows(), "default".into(), "queue".into());
        let mut bridge = None;
        let claim = || worker.claim(worker.queue(WORKFLOW_QUEUE)).unwrap().expect("a task");

        submit(&old, &activation(true));
        activate(&worker, claim(), &mut host, &mut bridge).unwrap();
        assert!(matches!(answer(&old), Some(Status::Successful(_))));
        assert_eq!(host.len(), 1);

        // Claimed before the bridge's death is settled, looked at after it.
        submit(&old, &activation(false));
        let late = claim();
        pool.bury(old.name());
        activate(&worker, late, &mut host, &mut bridge).unwrap();
        pool.assert_clean();

        // The same run by another bridge: what the old one's run would have said is not said.
        let new = pool.endpoint();
        submit(&new, &activation(false));
        activate(&worker, claim(), &mut host, &mut bridge).unwrap();
        assert!(matches!(answer(&new), Some(Status::Failed(_))), "a run of the old bridge went on");
        assert_eq!(host.len(), 0);
        pool.assert_clean();
    }
}
