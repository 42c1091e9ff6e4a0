//! The worker processes: they have no connection, no Core and, for workflows, no runtime; all they have is the segment.
//!
//! A task of a bridge that is dead is refused, and with the first task of another bridge everything that belongs to the
//! former one is dropped: workflow runs are forgotten, activities cancelled. At most one bridge lives at a time, so the
//! submitter's name tells which is which.

use super::{
    activity::{Activities, ActivityCancelReason, ActivityHost},
    wire::{self, ACTIVITY_QUEUE, Kind, STATUS_REFUSED, WORKFLOW_QUEUE, once},
    workflow::{WorkflowHost, Workflows},
};
use crate::{
    error::Corrupted,
    exec::endpoint::{Claimed, Endpoint, SubmitError, To},
    lockfree::participant::Name,
    process::{Mode, coordinator::Seat, output::last_word},
};
use prost::Message;
use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
};
use temporalio_common::protos::{
    coresdk::{
        ActivityHeartbeat, ActivityTaskCompletion, activity_result::ActivityExecutionResult,
        activity_task::ActivityTask, workflow_activation::WorkflowActivation,
        workflow_completion::WorkflowActivationCompletion,
    },
    temporal::api::failure::v1::Failure,
};
use tokio::sync::mpsc;

/// What a worker ends with when the segment is damaged.
const DAMAGED: u8 = 1;

fn code(result: Result<(), Corrupted>) -> u8 {
    match result {
        Ok(()) => 0,
        Err(damage) => {
            last_word(&damage.to_string());
            DAMAGED
        }
    }
}

fn is_stopping(endpoint: &Endpoint) -> bool {
    Mode::of(&endpoint.segment().header().control) == Mode::Stopping
}

/// Whose task this is, in relation to the bridge that was served before.
enum From {
    /// The same bridge as before.
    Same,
    /// Another one, and alive.
    Another,
    /// One that is dead: nobody waits for an answer.
    Dead,
}

fn origin(endpoint: &Endpoint, claimed: &Claimed<'_>, current: Option<Name>) -> Result<From, Corrupted> {
    let submitter = claimed.submitter();
    Ok(if !endpoint.segment().table().is_live(submitter)? {
        From::Dead
    } else if current == Some(submitter) {
        From::Same
    } else {
        From::Another
    })
}

fn refuse(claimed: Claimed<'_>) -> Result<(), Corrupted> {
    match claimed.complete(STATUS_REFUSED, 0, |_| {}) {
        Err((SubmitError::Corrupted(damage), _)) => Err(damage),
        _ => Ok(()),
    }
}

// ---- workflows ------------------------------------------------------------------------------------------------------

/// Runs a workflow process: one activation at a time, many suspended runs.
pub(crate) fn workflow_process(seat: &Seat, workflows: &Workflows, namespace: &str, task_queue: &str) -> u8 {
    let host = WorkflowHost::new(workflows.clone(), namespace.to_owned(), task_queue.to_owned());
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

// ---- activities -----------------------------------------------------------------------------------------------------

/// From the lane thread to the runtime's.
enum Order {
    Start(Claimed<'static>, ActivityTask),
    Cancel(ActivityTask),
    CancelAll,
}

/// What both threads of an activity process know.
struct Shared {
    endpoint: &'static Endpoint,
    /// Attempts that hold a slot.
    in_flight: AtomicUsize,
    /// The bridge that is served; 0: none yet.
    bridge: AtomicU64,
}

/// Runs an activity process: up to `slots` attempts at a time. Async handlers run on a current-thread runtime, blocking
/// ones on its threads; another thread minds the lanes.
pub(crate) fn activity_process(seat: &Seat, activities: &Activities, task_queue: &str, slots: usize) -> u8 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(slots.max(1)).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(e) => {
            last_word(&format!("cannot start the activities' runtime: {e}"));
            return DAMAGED;
        }
    };
    let shared =
        Arc::new(Shared { endpoint: seat.endpoint, in_flight: AtomicUsize::new(0), bridge: AtomicU64::new(0) });
    let (orders, mut inbox) = mpsc::unbounded_channel();
    let lanes = shared.clone();
    let lanes =
        std::thread::Builder::new().name("lanes".into()).spawn(move || serve_activities(&lanes, &orders, slots));
    let lanes = match lanes {
        Ok(lanes) => lanes,
        Err(e) => {
            last_word(&format!("cannot start the lane thread: {e}"));
            return DAMAGED;
        }
    };
    let beats = shared.clone();
    let host =
        ActivityHost::new(activities.clone(), task_queue, Arc::new(move |heartbeat| beats.heartbeat(&heartbeat)));
    runtime.block_on(async {
        // Ends when the lane thread does, which drops its end.
        while let Some(order) = inbox.recv().await {
            match order {
                Order::Start(claimed, task) => {
                    let shared = shared.clone();
                    host.start(task, move |completion| shared.complete(claimed, completion));
                }
                Order::Cancel(task) => host.cancel(task),
                Order::CancelAll => host.cancel_all(ActivityCancelReason::WorkerShutdown),
            }
        }
    });
    // Whoever still runs is not waited for: the bridge is gone, and its grace with it.
    runtime.shutdown_background();
    code(lanes.join().unwrap_or(Ok(())))
}

fn serve_activities(shared: &Shared, orders: &mpsc::UnboundedSender<Order>, slots: usize) -> Result<(), Corrupted> {
    let endpoint = shared.endpoint;
    let (own, queue) = (endpoint.private(), endpoint.queue(ACTIVITY_QUEUE));
    let mut has_slept = false;
    let is_full = || shared.in_flight.load(SeqCst) >= slots;
    loop {
        while endpoint.take()?.is_some() {} // heartbeats that have arrived
        if is_stopping(endpoint) {
            return Ok(());
        }
        let full = is_full();
        let claimed = match endpoint.claim(own)? {
            None if !full => endpoint.claim(queue)?,
            claimed => claimed,
        };
        let Some(claimed) = claimed else {
            let queues: &[_] = if full { &[] } else { &[queue] };
            endpoint.park(queues, None, || is_stopping(endpoint) || full && !is_full());
            has_slept = true;
            continue;
        };
        shared.receive(claimed, orders)?;
        if std::mem::take(&mut has_slept) {
            endpoint.wake_next(&[queue]);
        }
    }
}

impl Shared {
    fn receive(&self, claimed: Claimed<'static>, orders: &mpsc::UnboundedSender<Order>) -> Result<(), Corrupted> {
        let bridge = self.bridge.load(SeqCst);
        match origin(self.endpoint, &claimed, (bridge != 0).then(|| Name::of(bridge)))? {
            From::Same => {}
            From::Another => {
                self.bridge.store(claimed.submitter().bits(), SeqCst);
                let _ = orders.send(Order::CancelAll);
            }
            From::Dead => return refuse(claimed),
        }
        match (Kind::of(&claimed), ActivityTask::decode(claimed.input()?)) {
            (Some(Kind::Activity), Ok(task)) => {
                self.in_flight.fetch_add(1, SeqCst);
                let _ = orders.send(Order::Start(claimed, task));
            }
            (Some(Kind::CancelActivity), Ok(task)) => {
                let _ = orders.send(Order::Cancel(task));
                if let Err((SubmitError::Corrupted(damage), _)) = claimed.complete(0, 0, |_| {}) {
                    return Err(damage);
                }
            }
            _ => refuse(claimed)?,
        }
        Ok(())
    }

    /// An attempt has ended, on whatever thread.
    fn complete(&self, claimed: Claimed<'_>, completion: ActivityTaskCompletion) {
        let task_token = completion.task_token.clone();
        let written = wire::complete(claimed, &completion, |why| ActivityTaskCompletion {
            task_token,
            result: Some(ActivityExecutionResult::fail(Failure::application_failure(why, true))),
        });
        if let Err(damage) = written {
            last_word(&damage.to_string());
            // SAFETY: the segment is damaged: nothing is to be finished, and no destructor must run.
            unsafe { libc::_exit(DAMAGED.into()) }
        }
        self.in_flight.fetch_sub(1, SeqCst);
        // The lane thread may wait for a slot. (Unconditional: its last look comes after its word is set.)
        self.endpoint.wake_self();
    }

    /// A heartbeat is a hint about an attempt that goes on: if the segment is full, the next one does.
    fn heartbeat(&self, heartbeat: &ActivityHeartbeat) {
        let bridge = Name::of(self.bridge.load(SeqCst));
        if let Err(e) = wire::submit(self.endpoint, heartbeat, once(To::Participant(bridge), Kind::Heartbeat, 0)) {
            tracing::debug!("a heartbeat was not sent: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{exec::tests::Pool, temporal::sample};
    use temporalio_common::protos::coresdk::{
        activity_task::{Start, activity_task::Variant},
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

    fn submit(bridge: &Endpoint, message: &impl Message, queue: usize, kind: Kind) {
        wire::submit(bridge, message, once(To::Queue(queue), kind, 0)).unwrap();
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

        submit(&old, &activation(true), WORKFLOW_QUEUE, Kind::Activation);
        activate(&worker, claim(), &mut host, &mut bridge).unwrap();
        assert!(matches!(answer(&old), Some(Status::Successful(_))));
        assert_eq!(host.len(), 1);

        // Claimed before the bridge's death is settled, looked at after it.
        submit(&old, &activation(false), WORKFLOW_QUEUE, Kind::Activation);
        let late = claim();
        pool.bury(old.name());
        activate(&worker, late, &mut host, &mut bridge).unwrap();
        pool.assert_clean();

        // The same run by another bridge: what the old one's run would have said is not said.
        let new = pool.endpoint();
        submit(&new, &activation(false), WORKFLOW_QUEUE, Kind::Activation);
        activate(&worker, claim(), &mut host, &mut bridge).unwrap();
        assert!(matches!(answer(&new), Some(Status::Failed(_))), "a run of the old bridge went on");
        assert_eq!(host.len(), 0);
        pool.assert_clean();
    }

    #[test]
    fn activities_of_a_dead_bridge_are_cancelled_and_its_late_tasks_refused() {
        let pool = Pool::new(wire::QUEUES.len());
        let old = pool.endpoint();
        let endpoint: &'static Endpoint = Box::leak(Box::new(pool.endpoint()));
        let shared = Shared { endpoint, in_flight: AtomicUsize::new(0), bridge: AtomicU64::new(0) };
        let (orders, mut inbox) = mpsc::unbounded_channel();
        let task = ActivityTask { task_token: vec![1], variant: Some(Variant::Start(Start::default())) };
        let claim = || endpoint.claim(endpoint.queue(ACTIVITY_QUEUE)).unwrap().expect("a task");
        let started = |inbox: &mut mpsc::UnboundedReceiver<Order>| match inbox.try_recv() {
            Ok(Order::Start(claimed, task)) => (claimed, task),
            _ => panic!("no attempt was started"),
        };

        submit(&old, &task, ACTIVITY_QUEUE, Kind::Activity);
        shared.receive(claim(), &orders).unwrap();
        assert!(matches!(inbox.try_recv(), Ok(Order::CancelAll)), "each bridge starts afresh");
        let (running, _) = started(&mut inbox);
        submit(&old, &task, ACTIVITY_QUEUE, Kind::Activity);
        let late = claim();
        pool.bury(old.name());
        shared.receive(late, &orders).unwrap();
        assert!(inbox.try_recv().is_err(), "a dead bridge's task was started");

        let new = pool.endpoint();
        submit(&new, &task, ACTIVITY_QUEUE, Kind::Activity);
        shared.receive(claim(), &orders).unwrap();
        assert!(matches!(inbox.try_recv(), Ok(Order::CancelAll)), "the old bridge's attempts go on");
        let (next, _) = started(&mut inbox);
        for (claimed, n) in [(running, 1), (next, 0)] {
            shared.complete(claimed, ActivityTaskCompletion::default());
            assert_eq!(shared.in_flight.load(SeqCst), n);
        }
        assert!(new.take().unwrap().is_some());
        pool.assert_clean();
    }
}
