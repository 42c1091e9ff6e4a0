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
//! - Of a workflow process. An activation in its hands comes back as `WorkerDied`, one addressed to it as
//!   `AddresseeDied`: both are failed, and Core then evicts the run by itself (it issues no eviction while an activation is
//!   outstanding). A parked run of its is evicted on the news of the death. An eviction whose owner is dead is answered here.
//!   The first activation of a run is simply given to another process: nobody has seen its effects.
//! - Of an activity process. The attempt is failed at once, with the signal in the message; Temporal retries by its policy.
//! - Of the bridge. Another is started; what it had submitted is dropped by the coordinator, and workers forget the runs of
//!   a bridge that is gone ([`super::worker`]). The server's own timeouts bring the tasks back.

use super::{
    activity,
    connect::{ConnectError, Server},
    wire::{self, ACTIVITY_QUEUE, Kind, STATUS_REFUSED, WORKFLOW_QUEUE, once},
};
use crate::{
    error::Corrupted,
    exec::endpoint::{Endpoint, Finished, STATUS_OK, Submission, SubmitError, To},
    lockfree::{
        descriptor::retry_on,
        participant::Name,
        table::{Cancel, TaskId},
        word::Outcome,
    },
    process::{Mode, coordinator::Seat, exit::Exit, output::last_word},
    sync::Acquire,
};
use futures_util::future::join_all;
use prost::Message;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use temporalio_common::{
    protos::{
        coresdk::{
            ActivityHeartbeat, ActivityTaskCompletion,
            activity_result::ActivityExecutionResult,
            activity_task::{ActivityCancelReason, ActivityTask, Cancel as CancelTask, activity_task::Variant},
            workflow_activation::WorkflowActivation,
            workflow_completion::WorkflowActivationCompletion,
        },
        temporal::api::failure::v1::Failure,
    },
    telemetry::{Logger, TelemetryOptions},
    worker::WorkerTaskTypes,
};
use temporalio_sdk_core::{
    CoreRuntime, PollError, PollerBehavior, RuntimeOptions, TaskToken, TokioRuntimeBuilder, Worker, WorkerConfig,
    WorkerVersioningStrategy, init_worker,
};
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    task::JoinSet,
};

/// Attempts of a run's first activation: it has no effect outside its process, so a death costs nothing but time. A
/// workflow that kills its process is reported to Temporal after these.
const FIRST_ACTIVATION_ATTEMPTS: u8 = 2;

/// Activations per workflow process that Core may have outstanding: few, since the workflow-task timeout counts while one
/// waits in our queue.
const ACTIVATIONS_PER_PROCESS: usize = 8;

/// What the bridge is told.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) server: Server,
    pub(crate) workflow_task_queue: String,
    pub(crate) activity_task_queue: String,
    pub(crate) workflow_processes: usize,
    pub(crate) activity_processes: usize,
    /// Attempts at a time, per activity process.
    pub(crate) activity_slots: usize,
    pub(crate) max_cached_workflows: usize,
    /// How long activities may go on once a drain has begun.
    pub(crate) grace: Duration,
}

/// Runs the bridge in a process that has been forked for it; returns its exit code.
pub(crate) fn main(seat: &Seat, config: &Config, code_of: fn(&ConnectError) -> u8) -> u8 {
    match run(seat, config) {
        Ok(()) => 0,
        Err(Fault::Connect(e)) => {
            last_word(&e.to_string());
            code_of(&e)
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

fn run(seat: &Seat, config: &Config) -> Result<(), Fault> {
    let logs = Logger::Console { filter: "warn".into(), format: None };
    let telemetry = TelemetryOptions::builder().logging(logs).build();
    let options = RuntimeOptions::builder().telemetry_options(telemetry).heartbeat_interval(None).build();
    let runtime = CoreRuntime::new(options.map_err(other)?, TokioRuntimeBuilder::default()).map_err(other)?;
    runtime.tokio_handle().block_on(serve(&runtime, seat, config))
}

/// Once the connection stands, Core's own retries do the rest.
async fn connect(server: &Server) -> Result<temporalio_client::Connection, ConnectError> {
    let connection = server.connect(format!("{}@{}", std::process::id(), hostname())).await?;
    server.check_namespace(&connection).await?;
    Ok(connection)
}

fn hostname() -> String {
    nix::unistd::gethostname().map_or_else(|_| "localhost".into(), |h| h.to_string_lossy().into_owned())
}

async fn serve(runtime: &CoreRuntime, seat: &Seat, config: &Config) -> Result<(), Fault> {
    let endpoint = seat.endpoint;
    // A first signal while we still connect: there is nothing to drain.
    let (drain, mut draining) = watch::channel(false);
    let bridge = Arc::new(Bridge::new(endpoint, Handle::current(), drain));
    let lanes = bridge.clone();
    std::thread::Builder::new()
        .name("lanes".into())
        .spawn(move || {
            if let Err(damage) = lanes.serve_lanes() {
                last_word(&damage.to_string());
                // SAFETY: the segment is damaged: nothing is to be finished, and no destructor must run.
                unsafe { libc::_exit(1) }
            }
        })
        .map_err(other)?;
    let connection = tokio::select! {
        connected = connect(&config.server) => connected.map_err(Fault::Connect)?,
        _ = draining.changed() => return Ok(()),
    };
    let core = Arc::new(Core {
        workflows: if config.workflow_processes > 0 {
            Some(init_worker(runtime, workflow_config(config)?, connection.clone()).map_err(other)?)
        } else {
            None
        },
        activities: if config.activity_processes > 0 {
            Some(init_worker(runtime, activity_config(config)?, connection).map_err(other)?)
        } else {
            None
        },
    });
    for worker in core.workers() {
        worker.validate().await.map_err(other)?;
    }
    if bridge.core.set(core.clone()).is_err() {
        return Err(other("the bridge was started twice"));
    }
    seat.ready();

    let mut polls = JoinSet::new();
    if core.workflows.is_some() {
        polls.spawn(bridge.clone().poll_workflows());
        if config.activity_processes > 0 {
            polls.spawn(bridge.clone().poll_activities(true));
        }
    }
    if core.activities.is_some() {
        polls.spawn(bridge.clone().poll_activities(false));
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

fn poller(slots: usize) -> PollerBehavior {
    PollerBehavior::SimpleMaximum(slots.clamp(2, 10))
}

/// A worker of Core with room for so many activations and activities; 0 workflows: for activities alone.
fn worker_config(
    config: &Config,
    task_queue: &str,
    types: WorkerTaskTypes,
    workflows: usize,
    activities: usize,
) -> Result<WorkerConfig, Fault> {
    WorkerConfig::builder()
        .namespace(config.server.namespace().to_owned())
        .task_queue(task_queue.to_owned())
        .versioning_strategy(WorkerVersioningStrategy::None { build_id: env!("CARGO_PKG_VERSION").into() })
        .graceful_shutdown_period(config.grace)
        .maybe_max_cached_workflows((workflows > 0).then_some(config.max_cached_workflows))
        .maybe_max_outstanding_workflow_tasks((workflows > 0).then_some(workflows))
        .maybe_workflow_task_poller_behavior((workflows > 0).then(|| poller(workflows)))
        .maybe_max_outstanding_local_activities(types.enable_local_activities.then_some(activities))
        .maybe_max_outstanding_activities(types.enable_remote_activities.then_some(activities))
        .maybe_activity_task_poller_behavior(types.enable_remote_activities.then(|| poller(activities)))
        .task_types(types)
        .build()
        .map_err(Fault::Other)
}

fn workflow_config(config: &Config) -> Result<WorkerConfig, Fault> {
    let local = config.activity_processes > 0;
    let types = WorkerTaskTypes { enable_local_activities: local, ..WorkerTaskTypes::workflow_only() };
    let activations = (config.workflow_processes * ACTIVATIONS_PER_PROCESS).max(2);
    let slots = (config.activity_processes * config.activity_slots).max(1);
    worker_config(config, &config.workflow_task_queue, types, activations, slots)
}

fn activity_config(config: &Config) -> Result<WorkerConfig, Fault> {
    let slots = config.activity_processes * config.activity_slots;
    worker_config(config, &config.activity_task_queue, WorkerTaskTypes::activity_only(), 0, slots)
}

/// Core's workers: one per task queue.
struct Core {
    workflows: Option<Worker>,
    activities: Option<Worker>,
}

impl Core {
    fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.workflows.iter().chain(&self.activities)
    }

    /// Where the completion of an activity goes: a local one belongs to the workflow worker.
    fn activity_worker(&self, token: &[u8]) -> Option<&Worker> {
        if is_local(token) { self.workflows.as_ref() } else { self.activities.as_ref() }
    }
}

fn is_local(token: &[u8]) -> bool {
    TaskToken::from(token.to_vec()).is_local_activity_task()
}

/// What a task in the segment is to be answered with.
enum Pending {
    Activation {
        run_id: String,
        eviction: bool,
    },
    Activity {
        token: Vec<u8>,
    },
    /// A message that needs no answer.
    Note,
}

/// Who holds a run.
struct Run {
    /// `None` until its first activation has been answered.
    owner: Option<Name>,
    /// An activation is with its owner, or on its way there or back.
    outstanding: bool,
}

/// What is where. One lock over look-up, note and submission: a death in between would otherwise be noticed by neither.
#[derive(Default)]
struct Routes {
    runs: HashMap<String, Run>,
    /// By task token: the task, and why it was cancelled, if it was.
    activities: HashMap<Vec<u8>, (TaskId, Option<ActivityCancelReason>)>,
    pending: HashMap<u64, Pending>,
    last_tag: u64,
}

impl Routes {
    /// Notes what the next task is to be answered with, submits it, and takes the note back if that fails.
    fn submit(
        &mut self,
        endpoint: &Endpoint,
        message: &impl Message,
        submission: Submission,
        pending: Pending,
    ) -> Result<TaskId, SubmitError> {
        self.last_tag += 1;
        let tag = self.last_tag;
        self.pending.insert(tag, pending);
        wire::submit(endpoint, message, Submission { tag, ..submission })
            .inspect_err(|_| drop(self.pending.remove(&tag)))
    }
}

struct Bridge {
    endpoint: &'static Endpoint,
    core: std::sync::OnceLock<Arc<Core>>,
    handle: Handle,
    routes: Mutex<Routes>,
    /// Told whenever a result has been taken: there may be room again.
    room: Notify,
    drain: watch::Sender<bool>,
}

impl Bridge {
    fn new(endpoint: &'static Endpoint, handle: Handle, drain: watch::Sender<bool>) -> Bridge {
        Bridge { endpoint, core: Default::default(), handle, routes: Default::default(), room: Notify::new(), drain }
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- from Core into the segment ---------------------------------------------------------------------------------

    async fn poll_workflows(self: Arc<Self>) -> Result<(), PollError> {
        let Some(worker) = self.core.get().and_then(|c| c.workflows.as_ref()) else { return Ok(()) };
        loop {
            match worker.poll_workflow_activation().await {
                Ok(activation) => self.route(activation).await,
                Err(PollError::ShutDown) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    }

    async fn poll_activities(self: Arc<Self>, local: bool) -> Result<(), PollError> {
        let Some(core) = self.core.get() else { return Ok(()) };
        let worker = if local { &core.workflows } else { &core.activities };
        let Some(worker) = worker else { return Ok(()) };
        loop {
            match worker.poll_activity_task().await {
                Ok(task) => self.route_activity(task).await,
                Err(PollError::ShutDown) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    }

    /// Tries again, as results are taken, while the segment is full.
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
                Err(e) if e.is_transient() => room.await,
                result => return result,
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

    async fn route_activity(&self, task: ActivityTask) {
        let token = task.task_token.clone();
        if let Some(Variant::Cancel(cancel)) = &task.variant {
            let reason = cancel.reason();
            return self.cancel_activity(task, reason);
        }
        let submitted = self
            .when_there_is_room(|| {
                let mut routes = self.routes();
                let pending = Pending::Activity { token: token.clone() };
                let to = once(To::Queue(ACTIVITY_QUEUE), Kind::Activity, 0);
                let id = routes.submit(self.endpoint, &task, to, pending)?;
                routes.activities.insert(token.clone(), (id, None));
                Ok(())
            })
            .await;
        if let Err(e) = submitted {
            self.complete_activity(failed_activity(token, e.to_string()));
        }
    }

    /// Before it starts: by its task word. After: by a message to the process that runs it.
    fn cancel_activity(&self, task: ActivityTask, reason: ActivityCancelReason) {
        let mut routes = self.routes();
        let Some((id, why)) = routes.activities.get_mut(&task.task_token) else { return };
        why.get_or_insert(reason);
        match self.endpoint.cancel(*id) {
            Ok(Cancel::Running(name)) => {
                let to = once(To::Participant(name), Kind::CancelActivity, 0);
                // A cancellation is a wish: if the segment is full or the process dies, the activity's end is news enough.
                if let Err(e) = routes.submit(self.endpoint, &task, to, Pending::Note) {
                    tracing::warn!("an activity's cancellation is lost: {e}");
                }
            }
            Ok(Cancel::Cancelled | Cancel::Over) => {}
            Err(damage) => tracing::error!("{damage}"),
        }
    }

    // ---- from the segment to Core -----------------------------------------------------------------------------------

    /// The lane thread.
    fn serve_lanes(&self) -> Result<(), Corrupted> {
        let control = &self.endpoint.segment().header().control;
        let deaths = || control.deaths.load(Acquire);
        let mut deaths_seen = deaths();
        let mut mode_seen = Mode::Running;
        loop {
            let mut busy = false;
            while let Some(finished) = self.endpoint.take()? {
                busy = true;
                self.finish(&finished)?;
                self.endpoint.count();
                drop(finished);
                self.room.notify_waiters();
            }
            while let Some(claimed) = self.endpoint.claim(self.endpoint.private())? {
                busy = true;
                let known = match Kind::of(&claimed) {
                    Some(Kind::Heartbeat) => self.heartbeat(claimed.input()?),
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
            if !busy {
                self.endpoint.park(&[], None, || deaths() != deaths_seen || Mode::of(control) != mode_seen);
            }
        }
    }

    fn finish(&self, finished: &Finished<'_>) -> Result<(), Corrupted> {
        let mut routes = self.routes();
        let Some(pending) = routes.pending.remove(&finished.tag()) else { return Ok(()) };
        let output = finished.output()?;
        let done = finished.outcome() == Outcome::Completed && finished.status() == STATUS_OK;
        match pending {
            Pending::Activation { run_id, eviction: true } => {
                // Answered by the owner, or by us in its place if it died over it.
                routes.runs.remove(&run_id);
                drop(routes);
                self.complete_workflow(WorkflowActivationCompletion::empty(run_id));
            }
            Pending::Activation { run_id, eviction: false } => {
                if let Some(run) = routes.runs.get_mut(&run_id) {
                    run.outstanding = false;
                    run.owner = run.owner.or(finished.claimant());
                }
                drop(routes);
                match WorkflowActivationCompletion::decode(output) {
                    Ok(completion) if done => self.complete_workflow(completion),
                    _ => self.fail_activation(run_id, why_not(finished, "workflow")),
                }
            }
            Pending::Activity { token } => {
                let reason = routes.activities.remove(&token).and_then(|(_, reason)| reason);
                drop(routes);
                let completion = match (finished.outcome(), ActivityTaskCompletion::decode(output)) {
                    (_, Ok(completion)) if done => completion,
                    (Outcome::Cancelled, _) => {
                        let result = Some(activity::cancelled(reason, is_local(&token), None));
                        ActivityTaskCompletion { task_token: token, result }
                    }
                    _ => failed_activity(token, why_not(finished, "activity")),
                };
                self.complete_activity(completion);
            }
            Pending::Note => {}
        }
        Ok(())
    }

    fn heartbeat(&self, payload: &[u8]) -> bool {
        let worker = self.core.get().and_then(|core| core.activities.as_ref());
        match (worker, ActivityHeartbeat::decode(payload)) {
            (Some(worker), Ok(heartbeat)) => {
                // Core's call may spawn.
                let _runtime = self.handle.enter();
                worker.record_activity_heartbeat(heartbeat);
                true
            }
            _ => false,
        }
    }

    /// Parked runs of dead processes. One with an activation outstanding comes back by itself.
    fn evict_orphans(&self) {
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

    /// The user is in a hurry: every activity is told.
    fn cancel_all(&self) {
        let tokens: Vec<_> = self.routes().activities.keys().cloned().collect();
        for task_token in tokens {
            let reason = ActivityCancelReason::WorkerShutdown;
            let variant = Some(Variant::Cancel(CancelTask { reason: reason.into(), ..Default::default() }));
            self.cancel_activity(ActivityTask { task_token, variant }, reason);
        }
    }

    fn is_live(&self, name: Name) -> bool {
        is_live(self.endpoint, name)
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

    fn complete_activity(&self, completion: ActivityTaskCompletion) {
        let Some(core) = self.core.get().cloned() else { return };
        self.handle.spawn(async move {
            let Some(worker) = core.activity_worker(&completion.task_token) else { return };
            if let Err(e) = worker.complete_activity_task(completion).await {
                tracing::warn!("complete an activity: {e}");
            }
        });
    }
}

fn is_live(endpoint: &Endpoint, name: Name) -> bool {
    // Damage shows in the lanes as well, and ends the bridge there.
    endpoint.segment().table().is_live(name).unwrap_or(false)
}

/// A retryable failure: Temporal's retry policy decides what follows.
fn failed_activity(task_token: Vec<u8>, why: String) -> ActivityTaskCompletion {
    let failure = Failure::application_failure(why, false);
    ActivityTaskCompletion { task_token, result: Some(ActivityExecutionResult::fail(failure)) }
}

/// Why a task came back without a result, for people who read histories.
fn why_not(finished: &Finished<'_>, kind: &str) -> String {
    match finished.outcome() {
        Outcome::WorkerDied => match Exit::unpack(finished.exit()) {
            Exit::Unknown => format!("the {kind} process died"),
            exit => format!("the {kind} process died: {exit}"),
        },
        Outcome::AddresseeDied => format!("the {kind} process died while this was on its way to it"),
        outcome => format!("the {kind} process gave no result: {outcome:?}, status {}", finished.status()),
    }
}
