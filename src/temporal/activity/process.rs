//! An activity process: its runtime, and the thread that minds its lanes.

use super::{
    super::{
        UserCode,
        process::{DAMAGED, From, code, is_stopping, origin, refuse},
        wire::{self, ACTIVITY_QUEUE, Kind, once},
    },
    ActivityCancelReason, ActivityHost,
};
use crate::{
    error::Corrupted,
    exec::endpoint::{Claimed, Endpoint, SubmitError, To},
    lockfree::participant::Name,
    process::{coordinator::Seat, output::last_word},
};
use prost::Message;
use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
};
use temporalio_common::protos::{
    coresdk::{
        ActivityHeartbeat, ActivityTaskCompletion, activity_result::ActivityExecutionResult,
        activity_task::ActivityTask,
    },
    temporal::api::failure::v1::Failure,
};
use tokio::sync::mpsc;

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
pub(in super::super) fn activity_process(seat: &Seat, user: &UserCode, task_queue: &str, slots: usize) -> u8 {
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
    let host = ActivityHost::new(user.clone(), task_queue, Arc::new(move |heartbeat| beats.heartbeat(&heartbeat)));
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
    use crate::exec::tests::Pool;
    use temporalio_common::protos::coresdk::activity_task::{Start, activity_task::Variant};

    fn submit(bridge: &Endpoint, message: &impl Message) {
        wire::submit(bridge, message, once(To::Queue(ACTIVITY_QUEUE), Kind::Activity, 0)).unwrap();
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

        submit(&old, &task);
        shared.receive(claim(), &orders).unwrap();
        assert!(matches!(inbox.try_recv(), Ok(Order::CancelAll)), "each bridge starts afresh");
        let (running, _) = started(&mut inbox);
        submit(&old, &task);
        let late = claim();
        pool.bury(old.name());
        shared.receive(late, &orders).unwrap();
        assert!(inbox.try_recv().is_err(), "a dead bridge's task was started");

        let new = pool.endpoint();
        submit(&new, &task);
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
