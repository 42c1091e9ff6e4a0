//! The bridge: the one process that speaks to Temporal.
//!
//! Core, its runtime and the connection live in it alone. What Core hands out goes into the segment, and what comes back
//! from there goes to Core:
//!
//! ```text
//!   poll_workflow_activation ──▶ queue (first activation of a run) or the owner's private lane ──▶ workflow process
//!   poll_activity_task       ──▶ queue (start) or the private lane of the process that runs it (cancel)
//!   complete_…               ◀── completion lane
//!   record_heartbeat         ◀── the bridge's private lane
//! ```
//!
//! Core's threads submit; one thread, which parks on the bridge's futex, takes results and heartbeats and looks at the
//! coordinator's words (mode, deaths).
//!
//! # Deaths
//!
//! - Of a workflow process. An activation in its hands comes back as `WorkerDied` (`TimedOut`, if it was killed since it did not
//!   yield), one addressed to it as `AddresseeDied`: they are failed, and Core then evicts the run by itself (it issues no
//!   eviction while an activation is outstanding). A parked run of its is evicted on the news of the death. Evictions are
//!   answered here in any case, and their owners told to forget. The first activation of a run is simply given to another
//!   process: nobody has seen its effects.
//! - Of an activity process. The attempt is failed at once, with the signal in the message; Temporal retries by its policy.
//! - Of the bridge. Another is started; what it had submitted is dropped by the coordinator, and workers forget the runs of
//!   a bridge that is gone ([`super::worker`]). The server's own timeouts bring the tasks back.
mod activities;
mod balance;
mod config;
#[cfg(feature = "metrics")]
mod metrics;
pub(crate) mod replay;
mod routes;
mod slots;
#[cfg_attr(not(feature = "otlp"), path = "no_traces.rs")]
mod traces;
mod workflows;

pub(crate) use config::Config;

use self::{
    balance::Crew,
    config::CoreWorkers,
    routes::{Pending, Routes},
    traces::Traces,
};
use super::{
    activity,
    connect::{ConnectError, Server},
    converter::Converter,
    foreign::Registered,
    wire::{self, BRIDGE_QUEUE, Kind, STATUS_REFUSED},
};
use crate::{
    error::Corrupted,
    exec::endpoint::{Claimed, Endpoint, Finished, STATUS_OK, SubmitError, cpus},
    lanes::Lanes,
    lockfree::{participant::Name, word::Outcome},
    panics,
    process::{
        Mode,
        coordinator::Seat,
        exit::{Exit, OVERDUE},
        output::last_word,
    },
    sync::Acquire,
};
use futures_util::{FutureExt, future::join_all};
use prost::Message;
use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};
use temporalio_common::telemetry::{Logger, TelemetryOptions};
use temporalio_sdk_core::{CoreRuntime, RuntimeOptions, TaskToken, TokioRuntimeBuilder, Worker, init_worker};
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    task::JoinSet,
    time::timeout,
};

/// After this time it is looked whether there is room, told of it or not.
const ROOM: Duration = Duration::from_millis(100);

/// Threads of the bridge's runtime, at most, and no more than half of the CPUs: those of one process per CPU wait for each other
/// and wake each other up, and the CPUs are there for the worker processes.
const MOST_THREADS: usize = 8;

/// Runs the bridge in a process that has been forked for it; returns its exit code.
pub(crate) fn main(seat: &Seat, server: &Server, config: &Config) -> u8 {
    match run(seat, server, config) {
        Ok(()) => 0,
        Err(Fault::Connect(e)) => {
            last_word(&e.to_string());
            e.code()
        }
        Err(Fault::Other(why)) => {
            last_word(&why);
            1
        }
    }
}

enum Fault {
    Connect(ConnectError),
    Other(String),
}

fn other(e: impl std::fmt::Display) -> Fault {
    Fault::Other(e.to_string())
}

fn run(seat: &Seat, server: &Server, config: &Config) -> Result<(), Fault> {
    // What Core logs goes through a pipe to the coordinator, whose own lines are plain too.
    // SAFETY: nobody else reads or writes the environment: this process has been forked from one without threads and has not
    // started any yet.
    unsafe { std::env::set_var("NO_COLOR", "1") };
    // Core has its threads log by themselves. Where the program has set logs up they do as all its threads do.
    let core_logs = || Logger::Console { filter: "warn".into(), format: None };
    let logs = (!tracing::dispatcher::has_been_set()).then(core_logs);
    let telemetry = TelemetryOptions::builder().maybe_logging(logs).build();
    let options = RuntimeOptions::builder().telemetry_options(telemetry).heartbeat_interval(None).build();
    let mut tokio = TokioRuntimeBuilder::default();
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        tokio.inner.worker_threads((cpus() / 2).clamp(1, MOST_THREADS));
    }
    let runtime = CoreRuntime::new(options.map_err(other)?, tokio).map_err(other)?;
    #[cfg(feature = "metrics")]
    let runtime = metrics::serve(runtime, seat, config).map_err(other)?;
    let traces = Arc::new(Traces::start(config).map_err(other)?);
    let served = runtime.tokio_handle().block_on(serve(&runtime, seat, server, config, traces.clone()));
    traces.shut_down();
    served
}

/// Once the connection stands, Core's own retries do the rest.
async fn connect(
    runtime: &CoreRuntime,
    server: &Server,
    config: &Config,
) -> Result<temporalio_client::Connection, ConnectError> {
    let identity = config.identity.clone().unwrap_or_else(|| format!("{}@{}", std::process::id(), hostname()));
    let connection = server.connect_measured(identity, runtime.telemetry().get_temporal_metric_meter()).await?;
    server.check_namespace(&connection).await?;
    Ok(connection)
}

fn hostname() -> String {
    nix::unistd::gethostname().map_or_else(|_| "localhost".into(), |h| h.to_string_lossy().into_owned())
}

async fn serve(
    runtime: &CoreRuntime,
    seat: &Seat,
    server: &Server,
    config: &Config,
    traces: Arc<Traces>,
) -> Result<(), Fault> {
    let endpoint = seat.endpoint;
    // A first signal while we still connect: there is nothing to drain.
    let (drain, mut draining) = watch::channel(false);
    let bridge = Arc::new(Bridge::new(endpoint, Handle::current(), drain, server.namespace(), config, traces));
    let lanes = bridge.clone();
    std::thread::Builder::new()
        .name("lanes".into())
        .spawn(move || {
            if let Some(why) = why_over(|| lanes.serve_lanes()) {
                last_word(&why);
                // SAFETY: nobody takes results any more, perhaps out of a damaged segment: nothing can be finished, and no
                // destructor must run. Another bridge takes over.
                unsafe { libc::_exit(1) }
            }
        })
        .map_err(other)?;
    let connection = tokio::select! {
        connected = connect(runtime, server, config) => connected.map_err(Fault::Connect)?,
        _ = draining.changed() => return Ok(()),
    };
    let workers = config.core_workers(server, &bridge.crew.slots)?;
    let workers = workers.map(|worker| init_worker(runtime, worker, connection.clone()).map_err(other))?;
    let core = Arc::new(Core(workers));
    let mut info = Vec::new();
    for worker in core.workers() {
        // Of one namespace each says the same.
        info = worker.validate().await.map_err(other)?.encode_to_vec();
    }
    if bridge.core.set(core.clone()).is_err() || bridge.info.set(info).is_err() {
        return Err(other("the bridge was started twice"));
    }
    // There may be greetings.
    endpoint.wake_self();
    seat.ready();

    let mut polls = JoinSet::new();
    if core.workflows().is_some() {
        polls.spawn(bridge.clone().poll_workflows());
    }
    if config.activity_processes > 0 {
        // Each worker hands out activities at one place: local ones, others, or both.
        for worker in 0..core.workers().count() {
            polls.spawn(bridge.clone().poll_activities(worker));
        }
    }
    tokio::select! {
        _ = draining.wait_for(|&begun| begun) => {}
        // Core retries what is worth it: a poll that fails for good ends this bridge, and the next one sees why.
        Some(ended) = polls.join_next() => ended.map_err(other)?.map_err(other)?,
    }
    core.workers().for_each(Worker::initiate_shutdown);
    // Each poll ends once what it handed out has been answered and evicted.
    while let Some(ended) = polls.join_next().await {
        ended.map_err(other)?.map_err(other)?;
    }
    join_all(core.workers().map(Worker::shutdown)).await;
    Ok(())
}

/// Core's workers.
struct Core(CoreWorkers<Worker>);

impl Core {
    fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.0.iter()
    }

    fn workflows(&self) -> Option<&Worker> {
        self.0.workflows()
    }

    fn activities(&self) -> Option<&Worker> {
        self.0.activities()
    }

    /// Where the completion of an activity goes: a local one belongs to the workflow worker.
    fn activity_worker(&self, token: &[u8]) -> Option<&Worker> {
        if is_local(token) { self.workflows() } else { self.activities() }
    }
}

fn is_local(token: &[u8]) -> bool {
    TaskToken::from(token.to_vec()).is_local_activity_task()
}

struct Bridge {
    endpoint: &'static Endpoint,
    config: Config,
    namespace: String,
    core: OnceLock<Arc<Core>>,
    /// What the server says of the namespace, encoded. Once it is here, raw processes are greeted.
    info: OnceLock<Vec<u8>>,
    registered: Mutex<Registered>,
    handle: Handle,
    routes: Mutex<Routes>,
    traces: Arc<Traces>,
    crew: Crew,
    /// What an activation may take before its process counts as deadlocked; 0: any time.
    deadlock_ms: u32,
    /// Told whenever a result has been taken: there may be room again.
    room: Notify,
    drain: watch::Sender<bool>,
}

impl Bridge {
    fn new(
        endpoint: &'static Endpoint,
        handle: Handle,
        drain: watch::Sender<bool>,
        namespace: &str,
        config: &Config,
        traces: Arc<Traces>,
    ) -> Bridge {
        Bridge {
            endpoint,
            config: config.clone(),
            namespace: namespace.to_owned(),
            core: OnceLock::new(),
            info: OnceLock::new(),
            registered: Mutex::default(),
            handle,
            routes: Mutex::default(),
            traces,
            crew: Crew::new(config.workflow_processes, config.activity_processes),
            deadlock_ms: u32::try_from(config.deadlock_timeout.as_millis()).unwrap_or(u32::MAX),
            room: Notify::new(),
            drain,
        }
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries again, as results are taken, while the segment is full; and now and then, since others than results take room too
    /// (heartbeats, checkpoints, what the kernel refuses), and nobody says here that they have given it back.
    async fn when_there_is_room<T>(
        &self,
        mut attempt: impl FnMut() -> Result<T, SubmitError>,
    ) -> Result<T, SubmitError> {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            // Registered before the attempt, so that what is freed in between is not missed.
            room.as_mut().enable();
            match attempt() {
                Err(e) if e.is_transient() => drop(timeout(ROOM, room).await),
                result => return result,
            }
        }
    }

    /// The lane thread.
    fn serve_lanes(self: &Arc<Self>) -> Result<(), Corrupted> {
        let control = &self.endpoint.segment().header().control;
        let deaths = || control.deaths.load(Acquire);
        let mut deaths_seen = deaths();
        let mut mode_seen = Mode::Running;
        let mut look_at: Option<Instant> = None;
        loop {
            let mut busy = self.take_results()?;
            let queues: &[_] = if self.info.get().is_some() { &[self.endpoint.queue(BRIDGE_QUEUE)] } else { &[] };
            while let Some(claimed) = self.endpoint.look(queues)? {
                busy = true;
                let known = match Kind::of(&claimed) {
                    Some(Kind::Heartbeat) => self.heartbeat(claimed.input()?),
                    Some(Kind::RequestEviction) => self.evict_for(claimed.submitter(), claimed.input()?),
                    Some(Kind::Hello) => {
                        self.greet(claimed)?;
                        continue;
                    }
                    Some(Kind::Leave) => {
                        // What it has answered before comes first.
                        self.take_results()?;
                        self.let_go(claimed)?;
                        continue;
                    }
                    _ => false,
                };
                let status = if known { STATUS_OK } else { STATUS_REFUSED };
                if let Err((SubmitError::Corrupted(damage), _)) = claimed.complete(status, 0, |_| {}) {
                    return Err(damage);
                }
            }
            let (deaths_now, mode) = (deaths(), Mode::of(control));
            if deaths_now != deaths_seen {
                deaths_seen = deaths_now;
                self.evict_orphans();
            }
            if mode != mode_seen {
                self.drain.send_replace(true);
                if mode >= Mode::Cancelling && mode_seen < Mode::Cancelling {
                    self.cancel_all();
                }
                mode_seen = mode;
            }
            let now = Instant::now();
            if look_at.map_or_else(|| self.routes().is_watched, |at| at <= now) {
                look_at = self.balance();
            }
            if !busy {
                let timeout = look_at.map(|at| at.saturating_duration_since(now));
                let is_news = || deaths() != deaths_seen || Mode::of(control) != mode_seen;
                let is_open = !queues.is_empty();
                self.endpoint.park(queues, timeout, || {
                    is_news() || look_at.is_none() && self.routes().is_watched || is_open != self.info.get().is_some()
                });
            }
        }
    }

    fn take_results(self: &Arc<Self>) -> Result<bool, Corrupted> {
        let mut busy = false;
        while let Some(finished) = self.endpoint.take()? {
            busy = true;
            self.finish(&finished)?;
            self.endpoint.count();
            drop(finished);
            self.room.notify_waiters();
        }
        Ok(busy)
    }

    fn finish(self: &Arc<Self>, finished: &Finished<'_>) -> Result<(), Corrupted> {
        let pending = self.routes().pending.remove(&finished.tag());
        match pending {
            Some(Pending::Activation(activation)) => self.finish_activation(finished, activation),
            Some(Pending::Activity { token, span }) => self.finish_activity(finished, token, span),
            Some(Pending::Eviction { run_id }) => self.finish_eviction(run_id),
            Some(Pending::Note) | None => Ok(()),
        }
    }

    /// Admits a raw process, or says why not.
    fn greet(&self, hello: Claimed<'static>) -> Result<(), Corrupted> {
        let mut registered = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
        registered.retain(|who| self.is_live(who));
        let admitted = registered.admit(hello.submitter(), hello.input()?, &self.namespace, &self.config);
        let (status, answer) = match (&admitted, self.info.get()) {
            (Ok(()), Some(info)) => (STATUS_OK, &info[..]),
            (Ok(()), None) => (STATUS_REFUSED, &b"the pool is not connected yet"[..]),
            (Err(why), _) => (STATUS_REFUSED, why.as_bytes()),
        };
        match hello.complete(status, answer.len(), |room| room.copy_from_slice(answer)) {
            Err((SubmitError::Corrupted(damage), _)) => Err(damage),
            // Without room it is given up, and said again.
            _ => Ok(()),
        }
    }

    /// Does this process take its messages as they are?
    fn is_raw(&self, name: Name) -> bool {
        // Acquire: what it serves was there before.
        let status = self.endpoint.segment().table().participants[name.id() as usize].status.load(Acquire);
        Lanes::of_status(status).is_some()
    }

    fn is_live(&self, name: Name) -> bool {
        // Damage shows in the lanes as well, and ends the bridge there.
        self.endpoint.segment().table().is_live(name).unwrap_or(false)
    }
}

/// Why the lanes are not served any more, if that is over.
fn why_over(serve: impl FnOnce() -> Result<(), Corrupted>) -> Option<String> {
    match panics::catch(serve) {
        Ok(result) => result.err().map(|damage| damage.to_string()),
        Err(panic) => Some(format!("the bridge panicked at {panic}; please report this")),
    }
}

/// Does what can be done at once; what has to wait for room does not keep what comes after it waiting, be that an eviction or a
/// cancellation that makes some. Core's slots bound how much waits.
fn go_on(work: impl Future<Output = ()> + Send + 'static) {
    let mut work = Box::pin(work);
    if (&mut work).now_or_never().is_none() {
        tokio::spawn(work);
    }
}

/// Did it run to its end, so that its output is its answer?
fn is_done(finished: &Finished<'_>) -> bool {
    finished.outcome() == Outcome::Completed && finished.status() == STATUS_OK
}

/// Was it in the hands of a process that was killed over something else?
fn was_killed_over_another(finished: &Finished<'_>) -> bool {
    let has_died = matches!(finished.outcome(), Outcome::WorkerDied | Outcome::AddresseeDied);
    has_died && finished.claimant().is_some() && finished.exit() & OVERDUE != 0
}

/// The message with which a process has answered, if it has; or why nobody can read that, for people who read histories.
fn answer<M: prost::Message + Default>(
    finished: &Finished<'_>,
    kind: &str,
) -> Result<Result<Option<M>, String>, Corrupted> {
    if !is_done(finished) {
        return Ok(Ok(None));
    }
    let bytes = finished.output()?;
    Ok(M::decode(bytes).map(Some).map_err(|e| {
        let what = std::any::type_name::<M>().rsplit("::").next().unwrap_or_default();
        format!("the {kind} process answered with {} bytes that are no {what}: {e}", bytes.len())
    }))
}

/// Why a task came back without a result, for people who read histories.
fn why_not(finished: &Finished<'_>, kind: &str) -> String {
    match finished.outcome() {
        _ if was_killed_over_another(finished) => {
            format!("the {kind} process was killed over another that it ran, which did not end in time")
        }
        // Of those that are addressed to a process some were in its hands.
        Outcome::WorkerDied | Outcome::AddresseeDied if finished.claimant().is_some() => {
            match Exit::unpack(finished.exit()) {
                Exit::Unknown => format!("the {kind} process died"),
                exit => format!("the {kind} process died: {exit}"),
            }
        }
        Outcome::AddresseeDied => format!("the {kind} process died while this was on its way to it"),
        outcome => format!("the {kind} process gave no result: {outcome:?}, status {}", finished.status()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        exec::{
            endpoint::To,
            tests::{Pool, fill},
        },
        lockfree::recovery::Death,
        temporal::wire::QUEUES,
    };
    use temporalio_common::protos::coresdk::activity_task::{
        ActivityCancelReason, ActivityTask, activity_task::Variant,
    };

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
    }

    /// One without Core.
    fn bridge(pool: &Pool, runtime: &tokio::runtime::Runtime) -> Bridge {
        let endpoint = Box::leak(Box::new(pool.endpoint()));
        let config = Config::new("queue".into());
        Bridge::new(endpoint, runtime.handle().clone(), watch::channel(false).0, "default", &config, Arc::default())
    }

    #[test]
    fn room_that_others_give_back_is_found() {
        let runtime = runtime();
        let bridge = bridge(&Pool::new(QUEUES.len()), &runtime);
        let mut attempts = 0;
        // Nothing of the bridge's is under way, so no result comes.
        let there_is_room = bridge.when_there_is_room(|| {
            attempts += 1;
            if attempts > 1 { Ok(()) } else { Err(SubmitError::Full(1)) }
        });
        let found = runtime.block_on(async { timeout(Duration::from_secs(10), there_is_room).await });
        assert!(matches!(found, Ok(Ok(()))), "it waits for ever");
    }

    #[test]
    fn a_bridge_that_panics_says_so_and_does_not_hang() {
        assert_eq!(why_over(|| Ok(())), None);
        let why = why_over(|| panic!("of a bug")).unwrap();
        assert!(why.starts_with("the bridge panicked at ") && why.contains(": of a bug; "), "{why}");
    }

    #[test]
    fn what_waits_for_room_keeps_nothing_waiting_that_comes_after_it() {
        let runtime = runtime();
        let (first, done) = (Arc::new(Notify::new()), Arc::new(Mutex::new(Vec::new())));
        let (waits, does) = (first.clone(), [done.clone(), done.clone()]);
        let [later, at_once] = does.map(|done| move |what| done.lock().unwrap().push(what));
        runtime.block_on(async move {
            go_on(async move {
                waits.notified().await;
                later("a start");
            });
            go_on(async move { at_once("an eviction") });
            assert_eq!(*done.lock().unwrap(), ["an eviction"]);
            first.notify_one();
            while done.lock().unwrap().len() < 2 {
                tokio::task::yield_now().await;
            }
        });
    }

    #[test]
    fn a_start_that_waits_for_room_is_cancelled_without_it() {
        let (pool, runtime) = (Pool::new(QUEUES.len()), runtime());
        let (bridge, other) = (bridge(&pool, &runtime), pool.endpoint());
        fill(&other);
        let (task_token, reason) = (b"token".to_vec(), ActivityCancelReason::Cancelled);
        let task = |variant| ActivityTask { task_token: task_token.clone(), variant: Some(variant) };
        let start = bridge.route_activity(task(Variant::Start(Default::default())));
        let over = runtime.block_on(async {
            tokio::pin!(start);
            assert!((&mut start).now_or_never().is_none(), "there is no room");
            bridge.cancel_activity(task(Variant::Cancel(Default::default())), reason);
            timeout(Duration::from_secs(10), start).await
        });
        assert!(over.is_ok(), "it waits on");
        assert!(bridge.routes().activities.is_empty() && bridge.routes().pending.is_empty());
    }

    #[test]
    fn what_was_begun_in_the_moment_before_a_kill_over_another_is_a_victim() {
        let pool = Pool::new(QUEUES.len());
        let bridge = pool.endpoint();
        for (overdue, is_victim) in [(0, false), (OVERDUE, true)] {
            let worker = pool.endpoint();
            let to = wire::once(To::Participant(worker.name()), Kind::Activation, 0);
            wire::submit(&bridge, &(), to).unwrap();
            std::mem::forget(worker.claim(worker.private()).unwrap().expect("a task"));
            pool.settle(worker.name(), Death::of(Exit::Signal(9).pack() | overdue));
            let finished = bridge.take().unwrap().expect("the report");
            assert_eq!(was_killed_over_another(&finished), is_victim);
            assert_eq!(why_not(&finished, "workflow").contains("over another"), is_victim);
        }
    }
}
