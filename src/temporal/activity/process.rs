//! An activity process: its runtime, and the thread that minds its lanes.

use super::{
    super::{
        UserCode,
        process::{DAMAGED, From, code, is_stopping, origin, refuse},
        wire::{self, ACTIVITY_QUEUE, Kind, once},
    },
    ActivityCancelReason, ActivityHost,
    link::Link,
};
use crate::{
    error::Corrupted,
    exec::endpoint::{Claimed, Endpoint, SubmitError, To},
    lockfree::{descriptor::TraceParent, participant::Name},
    process::{Mode, coordinator::Seat, output::last_word},
};
use prost::Message;
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
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
    ShutDown,
}

/// What the threads of an activity process know.
struct Shared {
    endpoint: &'static Endpoint,
    /// How many attempts there may be at a time; none before the process is ready for them.
    slots: AtomicUsize,
    /// Attempts that hold a slot.
    in_flight: AtomicUsize,
    /// The bridge that is served; 0: none yet.
    bridge: AtomicU64,
}

/// Runs an activity process: up to `slots` attempts at a time. Async handlers run on a current-thread runtime, blocking
/// ones on its threads; another thread minds the lanes.
pub(in super::super) fn activity_process(seat: &Seat, user: &UserCode, task_queue: &str, slots: usize) -> u8 {
    // First, while this process has one thread: who knows what a library does as it is loaded.
    let (activities, plugins) = match user.activities.loaded() {
        Ok(loaded) => loaded,
        Err(why) => {
            last_word(&why);
            return NO_STATE;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(slots.max(1)).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(e) => {
            last_word(&format!("cannot start the activities' runtime: {e}"));
            return DAMAGED;
        }
    };
    let shared = Arc::new(Shared::new(seat.endpoint));
    let (orders, mut inbox) = mpsc::unbounded_channel();
    let lanes = shared.clone();
    let lanes = std::thread::Builder::new().name("lanes".into()).spawn(move || serve_activities(&lanes, &orders));
    let lanes = match lanes {
        Ok(lanes) => lanes,
        Err(e) => {
            last_word(&format!("cannot start the lane thread: {e}"));
            return DAMAGED;
        }
    };
    let served = runtime.block_on(async {
        let states = tokio::select! {
            states = activities.make_states() => states?,
            // The pool ends before this process was ready.
            () = lanes_end(&mut inbox) => return Ok(()),
        };
        let host = ActivityHost::new(UserCode { activities: activities.clone(), ..user.clone() }, states, task_queue);
        shared.open(slots);
        seat.ready();
        // Ends when the lane thread does, which drops its end.
        while let Some(order) = inbox.recv().await {
            match order {
                Order::Start(claimed, task) => host.start(task, Attempt::new(&shared, claimed)),
                Order::Cancel(task) => host.cancel(task),
                Order::CancelAll => host.cancel_all(ActivityCancelReason::WorkerShutdown),
                Order::ShutDown => host.shut_down(),
            }
        }
        Ok(())
    });
    // Whoever still runs is not waited for: the bridge is gone, and its grace with it.
    runtime.shutdown_background();
    if shared.in_flight.load(SeqCst) == 0 {
        plugins.iter().for_each(|plugin| plugin.exit());
    }
    if let Err(why) = served {
        let why: String = why;
        last_word(&why);
        return NO_STATE;
    }
    code(lanes.join().unwrap_or(Ok(())))
}

/// What a process ends with that could not load a plug-in, or not make a state.
const NO_STATE: u8 = 1;

/// Nothing else comes from there before the process is ready.
async fn lanes_end(inbox: &mut mpsc::UnboundedReceiver<Order>) {
    while inbox.recv().await.is_some() {}
}

fn serve_activities(shared: &Shared, orders: &mpsc::UnboundedSender<Order>) -> Result<(), Corrupted> {
    let endpoint = shared.endpoint;
    let (own, queue) = (endpoint.private(), endpoint.queue(ACTIVITY_QUEUE));
    let (mut has_slept, mut was_told) = (false, false);
    loop {
        while endpoint.take()?.is_some() {} // heartbeats that have arrived
        if shared.is_over() {
            return Ok(());
        }
        if shared.is_to_be_told() && !std::mem::replace(&mut was_told, true) {
            let _ = orders.send(Order::ShutDown);
        }
        let full = shared.is_full();
        let claimed = match endpoint.claim(own)? {
            None if !full => endpoint.claim(queue)?,
            claimed => claimed,
        };
        let Some(claimed) = claimed else {
            let queues: &[_] = if full { &[] } else { &[queue] };
            endpoint.park(queues, None, || {
                shared.is_over() || full && !shared.is_full() || !was_told && shared.is_to_be_told()
            });
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
    fn new(endpoint: &'static Endpoint) -> Shared {
        Shared { endpoint, slots: AtomicUsize::new(0), in_flight: AtomicUsize::new(0), bridge: AtomicU64::new(0) }
    }

    /// The lane thread takes attempts from now on.
    fn open(&self, slots: usize) {
        self.slots.store(slots, SeqCst);
        self.endpoint.wake_self();
    }

    fn is_full(&self) -> bool {
        self.is_leaving() || self.in_flight.load(SeqCst) >= self.slots.load(SeqCst)
    }

    /// Has this process been asked to make room for another?
    fn is_leaving(&self) -> bool {
        self.endpoint.participant().leaves() != 0
    }

    fn is_over(&self) -> bool {
        is_stopping(self.endpoint) || self.is_leaving() && self.in_flight.load(SeqCst) == 0
    }

    /// Does the pool take nothing new any more, or this process, and is there somebody to tell?
    fn is_to_be_told(&self) -> bool {
        let is_draining = || Mode::of(&self.endpoint.segment().header().control) >= Mode::Draining;
        self.slots.load(SeqCst) > 0 && (is_draining() || self.is_leaving())
    }

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
                if claimed.trace().is_some() {
                    claimed.note_begin();
                }
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
}

/// An attempt, and its task in the segment.
struct Attempt {
    shared: Arc<Shared>,
    /// `None` once it has ended.
    claimed: Mutex<Option<Claimed<'static>>>,
}

impl Attempt {
    fn new(shared: &Arc<Shared>, claimed: Claimed<'static>) -> Arc<Attempt> {
        Arc::new(Attempt { shared: Arc::clone(shared), claimed: Mutex::new(Some(claimed)) })
    }

    fn claimed(&self) -> MutexGuard<'_, Option<Claimed<'static>>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link for Attempt {
    fn keep(&self, heartbeat: &ActivityHeartbeat) -> Result<(), SubmitError> {
        let Some(claimed) = &*self.claimed() else { return Ok(()) };
        match claimed.checkpoint(&heartbeat.encode_to_vec()) {
            Err(e @ SubmitError::TooLarge { .. }) => Err(e),
            // Damage shows in the lanes as well, and ends the process there.
            Err(e) => {
                tracing::debug!("a heartbeat was not kept: {e}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// A heartbeat on its way is a hint about an attempt that goes on: if the segment is full, the next one does.
    fn send(&self, heartbeat: &ActivityHeartbeat) {
        let bridge = Name::of(self.shared.bridge.load(SeqCst));
        let to = once(To::Participant(bridge), Kind::Heartbeat, 0);
        if let Err(e) = wire::submit(self.shared.endpoint, heartbeat, to) {
            tracing::debug!("a heartbeat was not sent: {e}");
        }
    }

    fn kill_after(&self, grace: Duration) {
        if let Some(claimed) = &*self.claimed() {
            claimed.end_within(grace);
        }
    }

    fn trace(&self) -> Option<TraceParent> {
        self.claimed().as_ref()?.trace()
    }

    fn complete(&self, completion: ActivityTaskCompletion) {
        let Some(claimed) = self.claimed().take() else { return };
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
        self.shared.in_flight.fetch_sub(1, SeqCst);
        // The lane thread may wait for a slot. (Unconditional: its last look comes after its word is set.)
        self.shared.endpoint.wake_self();
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
        let shared = Arc::new(Shared::new(endpoint));
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
            Attempt::new(&shared, claimed).complete(ActivityTaskCompletion::default());
            assert_eq!(shared.in_flight.load(SeqCst), n);
        }
        assert!(new.take().unwrap().is_some());
        pool.assert_clean();
    }

    /// An attempt, as the lane thread takes it.
    fn attempt(shared: &Arc<Shared>, bridge: &Endpoint) -> Arc<Attempt> {
        submit(bridge, &ActivityTask { task_token: vec![1], variant: Some(Variant::Start(Start::default())) });
        let (orders, mut inbox) = mpsc::unbounded_channel();
        let endpoint = shared.endpoint;
        shared.receive(endpoint.claim(endpoint.queue(ACTIVITY_QUEUE)).unwrap().expect("a task"), &orders).unwrap();
        loop {
            if let Order::Start(claimed, _) = inbox.try_recv().unwrap() {
                return Attempt::new(shared, claimed);
            }
        }
    }

    #[test]
    fn the_newest_heartbeat_comes_with_the_end_of_its_attempt() {
        let pool = Pool::new(wire::QUEUES.len());
        let bridge = pool.endpoint();
        let endpoint: &'static Endpoint = Box::leak(Box::new(pool.endpoint()));
        let shared = Arc::new(Shared::new(endpoint));
        let dies = attempt(&shared, &bridge);
        let ends = attempt(&shared, &bridge);
        for n in 1..=3 {
            let details = vec![vec![n].into()];
            dies.keep(&ActivityHeartbeat { task_token: vec![1], details }).unwrap();
        }
        let large = ActivityHeartbeat { task_token: vec![0; endpoint.segment().max_payload() + 1], details: vec![] };
        assert!(matches!(dies.keep(&large), Err(SubmitError::TooLarge { .. })), "that is said, and changes nothing");
        ends.complete(ActivityTaskCompletion::default());
        ends.keep(&ActivityHeartbeat::default()).unwrap(); // by a thread that has outlived its handler
        std::mem::forget(dies);
        pool.bury(endpoint.name());
        let mut newest = Vec::new();
        while let Some(finished) = bridge.take().unwrap() {
            let kept = finished.last_checkpoint().unwrap().map(|bytes| ActivityHeartbeat::decode(bytes).unwrap());
            newest.push(kept.map(|heartbeat| heartbeat.details[0].data.clone()));
        }
        newest.sort();
        assert_eq!(newest, [None, Some(vec![3])]);
        pool.assert_clean();
    }

    #[test]
    fn a_process_that_makes_room_takes_nothing_new_and_ends_with_its_last_attempt() {
        let pool = Pool::new(wire::QUEUES.len());
        let bridge = pool.endpoint();
        let endpoint: &'static Endpoint = Box::leak(Box::new(pool.endpoint()));
        let shared = Arc::new(Shared::new(endpoint));
        assert!(shared.is_full() && !shared.is_over(), "before it is ready");
        shared.open(2);
        assert!(!shared.is_full() && !shared.is_to_be_told());
        let last = attempt(&shared, &bridge);
        endpoint.participant().ask_to_leave(1);
        assert!(shared.is_full() && shared.is_to_be_told() && !shared.is_over());
        last.complete(ActivityTaskCompletion::default());
        assert!(shared.is_over());
        assert!(bridge.take().unwrap().is_some());
        pool.assert_clean();
    }
}
