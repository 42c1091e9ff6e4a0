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
pub(crate) mod replay;
mod routes;
mod slots;
mod workflows;

pub(crate) use config::Config;

use self::{
    balance::Crew,
    config::CoreWorkers,
    routes::{Pending, Routes},
};
use super::{
    activity,
    connect::{ConnectError, Server},
    converter::Converter,
    wire::{self, Kind, STATUS_REFUSED},
};
use crate::{
    error::Corrupted,
    exec::endpoint::{Endpoint, Finished, STATUS_OK, SubmitError},
    lockfree::{participant::Name, word::Outcome},
    process::{
        Mode,
        coordinator::Seat,
        exit::{Exit, OVERDUE},
        output::last_word,
    },
    sync::Acquire,
};
use futures_util::future::join_all;
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
    let logs = Logger::Console { filter: "warn".into(), format: None };
    let telemetry = TelemetryOptions::builder().logging(logs).build();
    let options = RuntimeOptions::builder().telemetry_options(telemetry).heartbeat_interval(None).build();
    let runtime = CoreRuntime::new(options.map_err(other)?, TokioRuntimeBuilder::default()).map_err(other)?;
    runtime.tokio_handle().block_on(serve(&runtime, seat, server, config))
}

/// Once the connection stands, Core's own retries do the rest.
async fn connect(server: &Server, config: &Config) -> Result<temporalio_client::Connection, ConnectError> {
    let identity = config.identity.clone().unwrap_or_else(|| format!("{}@{}", std::process::id(), hostname()));
    let connection = server.connect(identity).await?;
    server.check_namespace(&connection).await?;
    Ok(connection)
}

fn hostname() -> String {
    nix::unistd::gethostname().map_or_else(|_| "localhost".into(), |h| h.to_string_lossy().into_owned())
}

async fn serve(runtime: &CoreRuntime, seat: &Seat, server: &Server, config: &Config) -> Result<(), Fault> {
    let endpoint = seat.endpoint;
    // A first signal while we still connect: there is nothing to drain.
    let (drain, mut draining) = watch::channel(false);
    let bridge = Arc::new(Bridge::new(endpoint, Handle::current(), drain, config));
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
        connected = connect(server, config) => connected.map_err(Fault::Connect)?,
        _ = draining.changed() => return Ok(()),
    };
    let workers = config.core_workers(server, &bridge.crew.slots)?;
    let workers = workers.map(|worker| init_worker(runtime, worker, connection.clone()).map_err(other))?;
    let core = Arc::new(Core(workers));
    for worker in core.workers() {
        worker.validate().await.map_err(other)?;
    }
    if bridge.core.set(core.clone()).is_err() {
        return Err(other("the bridge was started twice"));
    }
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
    core: OnceLock<Arc<Core>>,
    handle: Handle,
    routes: Mutex<Routes>,
    crew: Crew,
    /// What an activation may take before its process counts as deadlocked; 0: any time.
    deadlock_ms: u32,
    /// Told whenever a result has been taken: there may be room again.
    room: Notify,
    drain: watch::Sender<bool>,
}

impl Bridge {
    fn new(endpoint: &'static Endpoint, handle: Handle, drain: watch::Sender<bool>, config: &Config) -> Bridge {
        Bridge {
            endpoint,
            core: OnceLock::new(),
            handle,
            routes: Mutex::default(),
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
            while let Some(claimed) = self.endpoint.claim(self.endpoint.private())? {
                busy = true;
                let known = match Kind::of(&claimed) {
                    Some(Kind::Heartbeat) => self.heartbeat(claimed.input()?),
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
                self.endpoint.park(&[], timeout, || is_news() || look_at.is_none() && self.routes().is_watched);
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
            Some(Pending::Activity { token }) => self.finish_activity(finished, token),
            Some(Pending::Note) | None => Ok(()),
        }
    }

    fn is_live(&self, name: Name) -> bool {
        // Damage shows in the lanes as well, and ends the bridge there.
        self.endpoint.segment().table().is_live(name).unwrap_or(false)
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
        exec::{endpoint::To, tests::Pool},
        lockfree::recovery::Death,
        temporal::wire::QUEUES,
    };

    #[test]
    fn room_that_others_give_back_is_found() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let endpoint: &Endpoint = Box::leak(Box::new(Pool::new(QUEUES.len()).endpoint()));
        let config = Config::new("queue".into());
        let bridge = Bridge::new(endpoint, runtime.handle().clone(), watch::channel(false).0, &config);
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
