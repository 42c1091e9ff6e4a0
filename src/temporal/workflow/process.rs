//! A workflow process: one activation at a time, many suspended runs.

use super::{
    super::{
        process::{From, code, done, is_stopping, origin, refuse},
        wire::{self, Kind, WORKFLOW_QUEUE, once},
    },
    WorkflowHost,
};
use crate::{
    error::Corrupted,
    exec::endpoint::{Claimed, Endpoint, SubmitError, To},
    lockfree::participant::Name,
    process::coordinator::Seat,
};
use prost::Message;
use std::collections::HashMap;
use temporalio_common::protos::{
    coresdk::{
        workflow_activation::{WorkflowActivation, workflow_activation_job::Variant as Job},
        workflow_completion::WorkflowActivationCompletion,
    },
    temporal::api::failure::v1::Failure,
};

/// Runs a workflow process: one activation at a time, many suspended runs.
pub(in super::super) fn workflow_process(seat: &Seat, host: WorkflowHost) -> u8 {
    seat.ready();
    code(serve_workflows(seat, Runs::new(host)))
}

fn serve_workflows(seat: &Seat, mut runs: Runs) -> Result<(), Corrupted> {
    let endpoint = seat.endpoint;
    let queues = [endpoint.queue(WORKFLOW_QUEUE)];
    while !seat.is_over()
        && let Some(claimed) = endpoint.next(&queues, || seat.is_over())?
    {
        runs.receive(endpoint, claimed)?;
        seat.after_task();
    }
    hand_over(endpoint, &mut runs)
}

/// Takes no new runs, and stays until the bridge has none of its runs here any more.
fn hand_over(endpoint: &Endpoint, runs: &mut Runs) -> Result<(), Corrupted> {
    if runs.bridge.is_none() {
        return Ok(());
    }
    let is_free = || is_stopping(endpoint) || endpoint.has_results();
    while let Some(bridge) = runs.bridge
        && !is_stopping(endpoint)
    {
        match wire::submit(endpoint, &(), once(To::Participant(bridge), Kind::Leave, 0)) {
            Err(SubmitError::Corrupted(damage)) => return Err(damage),
            // What takes the room may be what waits for this process.
            Err(e) if e.is_transient() => match endpoint.look(&[])? {
                Some(claimed) => runs.receive(endpoint, claimed)?,
                None => endpoint.wait_for_room(0),
            },
            _ => break,
        }
    }
    while !is_free()
        && let Some(claimed) = endpoint.next(&[], is_free)?
    {
        runs.receive(endpoint, claimed)?;
    }
    // Answered, or the bridge is dead, which makes no difference: nobody has an activation for these runs.
    endpoint.take().map(drop)
}

/// The runs of this process.
struct Runs {
    host: WorkflowHost,
    /// The note of the task by which each began.
    began: HashMap<String, u64>,
    /// Whose they are.
    bridge: Option<Name>,
}

impl Runs {
    fn new(host: WorkflowHost) -> Runs {
        Runs { host, began: HashMap::new(), bridge: None }
    }

    fn receive(&mut self, endpoint: &Endpoint, claimed: Claimed<'_>) -> Result<(), Corrupted> {
        match origin(endpoint, &claimed, self.bridge)? {
            From::Same => {}
            From::Another => {
                self.bridge = Some(claimed.submitter());
                self.began.clear();
                let runs = self.host.forget_all();
                if runs > 0 {
                    tracing::info!(runs, "another bridge: the former one's runs are forgotten");
                }
            }
            From::Dead => return refuse(claimed),
        }
        match Kind::of(&claimed) {
            Some(Kind::Activation) => match WorkflowActivation::decode(claimed.input()?) {
                Ok(activation) => self.activate(claimed, activation),
                Err(_) => refuse(claimed),
            },
            Some(Kind::Forget) => match String::decode(claimed.input()?) {
                Ok(run_id) => {
                    claimed.begin(1, 0, 0, 0);
                    self.forget(&run_id, claimed.tag());
                    done(claimed)
                }
                Err(_) => refuse(claimed),
            },
            _ => refuse(claimed),
        }
    }

    fn activate(&mut self, claimed: Claimed<'_>, activation: WorkflowActivation) -> Result<(), Corrupted> {
        // Its time is counted from here.
        claimed.begin(1, 0, 0, 0);
        let run_id = activation.run_id.clone();
        if activation.jobs.iter().any(|job| matches!(job.variant, Some(Job::InitializeWorkflow(_)))) {
            self.began.insert(run_id.clone(), claimed.tag());
        }
        let completion = self.host.handle(activation);
        wire::complete(claimed, &completion, |why| {
            let failure = Failure { message: why, ..Default::default() };
            WorkflowActivationCompletion::fail(run_id, failure, None)
        })
    }

    /// Forgets a run, unless it began after `told`: it was evicted and has come back, from the queue, before the word of that
    /// came from the private lane.
    fn forget(&mut self, run_id: &str, told: u64) {
        if self.began.get(run_id).is_some_and(|&began| began < told) {
            self.began.remove(run_id);
            self.host.forget(run_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        exec::{endpoint::Submission, tests::Pool},
        process::Mode,
        sync::Release,
        temporal::sample,
    };
    use prost::Message;
    use std::time::{Duration, Instant};
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

    fn runs() -> Runs {
        Runs::new(WorkflowHost::new(sample::workflows(), "default".into(), "queue".into()))
    }

    #[test]
    fn no_run_of_a_dead_bridge_is_answered_for() {
        let pool = Pool::new(wire::QUEUES.len());
        let (old, worker) = (pool.endpoint(), pool.endpoint());
        let mut runs = runs();
        let claim = || worker.claim(worker.queue(WORKFLOW_QUEUE)).unwrap().expect("a task");

        submit(&old, &activation(true));
        runs.receive(&worker, claim()).unwrap();
        assert!(matches!(answer(&old), Some(Status::Successful(_))));
        assert_eq!(runs.host.len(), 1);

        // Claimed before the bridge's death is settled, looked at after it.
        submit(&old, &activation(false));
        let late = claim();
        pool.bury(old.name());
        runs.receive(&worker, late).unwrap();
        pool.assert_clean();

        // The same run by another bridge: what the old one's run would have said is not said.
        let new = pool.endpoint();
        submit(&new, &activation(false));
        runs.receive(&worker, claim()).unwrap();
        assert!(matches!(answer(&new), Some(Status::Failed(_))), "a run of the old bridge went on");
        assert_eq!(runs.host.len(), 0);
        pool.assert_clean();
    }

    #[test]
    fn a_process_that_leaves_makes_room_for_the_word_of_it() {
        let pool = Pool::new(wire::QUEUES.len());
        let (bridge, worker) = (pool.endpoint(), pool.endpoint());
        let mut runs = runs();
        submit(&bridge, &activation(true));
        runs.receive(&worker, worker.claim(worker.queue(WORKFLOW_QUEUE)).unwrap().expect("a task")).unwrap();
        assert!(answer(&bridge).is_some());
        // As many parked runs are evicted at once as there are descriptors.
        let forget = || wire::submit(&bridge, &"run".to_owned(), once(To::Participant(worker.name()), Kind::Forget, 0));
        let full = std::iter::repeat_with(forget).find_map(Result::err).expect("some limit");
        assert!(full.is_transient(), "{full}");
        let was_told = std::thread::scope(|scope| {
            let bridge = scope.spawn(|| {
                let patience = Instant::now() + Duration::from_secs(5);
                while Instant::now() < patience {
                    while bridge.take().unwrap().is_some() {}
                    if let Some(leave) = bridge.claim(bridge.private()).unwrap() {
                        done(leave).unwrap();
                        return true;
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                pool.segment.header().control.mode.store(Mode::Stopping as u32, Release);
                false
            });
            hand_over(&worker, &mut runs).unwrap();
            bridge.join().unwrap()
        });
        assert!(was_told, "nobody made room");
    }

    #[test]
    fn a_run_that_came_back_before_the_word_of_its_eviction_stays() {
        let pool = Pool::new(wire::QUEUES.len());
        let (bridge, worker) = (pool.endpoint(), pool.endpoint());
        let mut runs = runs();
        let to = |to, kind, tag| Submission { tag, ..once(to, kind, 0) };
        let begin = |tag| {
            wire::submit(&bridge, &activation(true), to(To::Queue(WORKFLOW_QUEUE), Kind::Activation, tag)).unwrap();
        };
        let forget = |tag| {
            wire::submit(&bridge, &"run".to_owned(), to(To::Participant(worker.name()), Kind::Forget, tag)).unwrap();
        };
        let mut receive = |lane| {
            runs.receive(&worker, worker.claim(lane).unwrap().expect("a task")).unwrap();
            assert!(bridge.take().unwrap().is_some_and(|done| done.went_well()));
            runs.host.len()
        };
        begin(1);
        assert_eq!(receive(worker.queue(WORKFLOW_QUEUE)), 1);
        forget(2);
        begin(3);
        assert_eq!(receive(worker.queue(WORKFLOW_QUEUE)), 1);
        assert_eq!(receive(worker.private()), 1, "it is the new one that is there");
        forget(4);
        assert_eq!(receive(worker.private()), 0);
        pool.assert_clean();
    }
}
