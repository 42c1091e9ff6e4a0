//! The pool that serves Temporal: a bridge, workflow processes and activity processes around one segment.

#[cfg(feature = "pool")]
use super::upgrade::State;
use super::{
    UserCode,
    activity::activity_process,
    bridge::{self, Config, replay::NAMESPACE},
    connect::Server,
    dev_server::DevServer,
    history::Recording,
    upgrade::Taken,
    wire,
    workflow::{WorkflowHost, workflow_process},
};
use crate::{
    lanes::{
        Kind, Lanes,
        invitation::{Terms, become_program},
    },
    mem::segment::Options,
    process::{
        coordinator::{Base, Companion, Coordinator, Event, PoolError, Role, Spec, Summary, Unfit, processes_for},
        spawn::pidfd_open,
    },
};
#[cfg(feature = "pool")]
use crate::{pool::launch::Successor, process::handover::Handover};
use nix::unistd::Pid;
use std::{
    collections::HashMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
    time::Duration,
};

/// How long a replay may go on once its user has had enough.
const GRACE: Duration = Duration::from_secs(2);

/// How long a program that is to follow has to say that it can.
#[cfg(feature = "pool")]
const TO_FOLLOW: Duration = Duration::from_secs(30);

/// Why a pool is not upgraded whose version the server goes by: its bridge has told it, and goes on.
const VERSIONED: &str =
    "the server goes by the version of its workers: start the new version beside it, and end this one by SIGTERM";

/// Why the pool of a program is not upgraded.
const NOT_OF_RUN: &str =
    "another program can go on with workers of shmworker run and of Worker::main, not with those of Worker::run";

/// How long a pool that ends, and has nothing to do, may take for each step of that without being killed.
const LEAST_GRACE: Duration = Duration::from_secs(1);

/// The dev server, as the coordinator watches it.
pub(crate) struct Watched {
    pid: Pid,
    pidfd: OwnedFd,
    #[cfg(feature = "pool")]
    port: u16,
}

impl Watched {
    /// # Errors
    /// What the kernel refused.
    pub(crate) fn new(server: &DevServer) -> nix::Result<Watched> {
        Ok(Watched {
            pid: server.pid(),
            pidfd: pidfd_open(server.pid())?,
            #[cfg(feature = "pool")]
            port: server.port(),
        })
    }
}

impl Companion for Watched {
    fn fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    fn pid(&self) -> Pid {
        self.pid
    }
}

/// Where the pool is found, and on what its segment lies.
pub(crate) struct Place {
    /// Under which others attach to it; without one, the process id.
    pub(crate) name: Option<String>,
    /// How the segment is made, but for its queues.
    pub(crate) options: Options,
    /// Whether only what workers print is said, and what goes wrong.
    pub(crate) quiet: bool,
    /// Whether a program that is executed again with the same arguments comes here again.
    pub(crate) is_upgradable: bool,
}

/// Where they stand among the kinds of processes.
#[cfg(feature = "metrics")]
const BRIDGE: usize = 0;
const WORKFLOW_PROCESSES: usize = 1;
const ACTIVITY_PROCESSES: usize = 2;

/// Runs the pool in this process, which becomes its coordinator, until it is told to end. `former`: what a program before has left of
/// it, and what it is made over then.
///
/// # Errors
/// [`PoolError`]. No process is left behind in any case.
pub(crate) fn run(
    server: Server,
    #[cfg_attr(not(feature = "otlp"), expect(unused_mut, reason = "nobody asks for a codec"))] mut config: Config,
    place: Place,
    user: UserCode,
    companion: Option<&Watched>,
    former: Option<(&Taken, Base)>,
    observer: &mut dyn FnMut(Event<'_>),
) -> Result<Summary, PoolError> {
    // Core cancels activities when the grace is over, however short.
    let grace = config.grace.max(LEAST_GRACE);
    #[cfg(feature = "otlp")]
    {
        config.has_codec = user.converter.codec().is_some();
    }
    let user = Rc::new(user);
    let (of_activities, renewed) = (user.clone(), user.clone());
    let (workflow_program, activity_program) = (config.workflow_program.clone(), config.activity_program.clone());
    let terms = |lanes| Terms { lanes, activity_slots: config.activity_slots as u32, grace: config.grace };
    let (of_workflow_program, of_activity_program) = (terms(Lanes::WORKFLOWS), terms(Lanes::ACTIVITIES));
    let (workflow_processes, activity_processes) = (config.workflow_processes, config.activity_processes);
    let (namespace, workflow_task_queue) = (server.namespace().to_owned(), config.workflow_task_queue.clone());
    let (activity_task_queue, slots) = (config.activity_task_queue.clone(), config.activity_slots);
    let (limits, at_most) = (config.limits.clone(), config.most_workflow_processes());
    let is_versioned = config.deployment.as_ref().is_some_and(|deployment| deployment.use_worker_versioning);
    #[cfg(feature = "metrics")]
    let metrics = config.metrics.clone();
    let specs = vec![
        Spec {
            name: "bridge",
            role: Role::Client,
            count: 1,
            main: Box::new(move |seat| bridge::main(&seat, &server, &config)),
        },
        Spec {
            name: "workflow-worker",
            role: Role::Worker,
            count: workflow_processes,
            main: Box::new(move |seat| match seat.limited(&limits) {
                Ok(seat) => match &workflow_program {
                    Some(program) => become_program(&seat, program, of_workflow_program),
                    None => {
                        let host = WorkflowHost::new((*user).clone(), namespace.clone(), workflow_task_queue.clone());
                        workflow_process(&seat, host)
                    }
                },
                // It has said why.
                Err(Unfit) => 1,
            }),
        },
        Spec {
            name: "activity-worker",
            role: Role::Worker,
            count: activity_processes,
            main: Box::new(move |seat| match &activity_program {
                Some(program) => become_program(&seat, program, of_activity_program),
                None => activity_process(&seat, &of_activities, &activity_task_queue, slots),
            }),
        },
    ];
    let Place { name, options, is_upgradable, .. } = place;
    let options = Options { queues: Options::with_queues(wire::QUEUES).queues, ..options };
    // Without them Core was not asked for workflow tasks.
    let is_resizable = workflow_processes > 0;
    let at_most = if is_resizable { at_most.max(workflow_processes) } else { 0 };
    let (taken, base) = match former {
        Some((taken, base)) => (Some(taken), base),
        None => (None, Base::make(&options, 1 + at_most + activity_processes)?),
    };
    // The segment that is there wins.
    let room = processes_for(base.segment.table().participants.len()).saturating_sub(1 + activity_processes);
    #[cfg(feature = "pool")]
    let (segment, me, bell) = (base.segment.clone(), base.me, base.bell.as_fd().try_clone_to_owned());
    let coordinator = Coordinator::over(base, specs, grace, observer)?;
    let coordinator = match is_resizable {
        true => coordinator.resizing(WORKFLOW_PROCESSES, at_most.min(room))?,
        false => coordinator,
    };
    let coordinator = match renewed.activities.has_plugins() {
        true => coordinator.renewing(ACTIVITY_PROCESSES, || renewed.activities.probe_again()),
        false => coordinator,
    };
    #[cfg(feature = "metrics")]
    let coordinator = match metrics {
        Some(listener) => coordinator.handing(BRIDGE, listener),
        None => coordinator,
    };
    #[cfg(feature = "pool")]
    let coordinator = match bell {
        Ok(_) if !is_upgradable => coordinator.succeeded_by(Err(NOT_OF_RUN)),
        Ok(_) if is_versioned => coordinator.succeeded_by(Err(VERSIONED)),
        Ok(ref bell) => {
            let dev_server = companion.map(|companion| (companion.pid, companion.port));
            let of_state = segment.clone();
            let state = move |handover: &Handover| State::of(handover, me, &of_state, dev_server);
            let successor = Successor::of_temporal(segment.as_fd(), bell.as_fd(), TO_FOLLOW, state);
            coordinator.succeeded_by(Ok(Box::new(successor))).rolling_after_upgrade(true)
        }
        Err(_) => coordinator.succeeded_by(Err("its coordinator had no descriptor left for that")),
    };
    #[cfg(not(feature = "pool"))]
    let coordinator = coordinator.succeeded_by(Err(match (is_upgradable, is_versioned) {
        (false, _) => NOT_OF_RUN,
        (true, true) => VERSIONED,
        (true, false) => "this program was built without the feature 'pool', which that takes",
    }));
    let coordinator = match taken {
        Some(taken) => coordinator.succeeding(taken.handover())?,
        None => coordinator.naming(&Kind::NAMES).listen(name.as_deref())?,
    };
    coordinator.run(companion.map(|c| c as &dyn Companion))
}

/// Runs a pool that replays, in this process, which becomes its coordinator. It ends by itself.
///
/// # Errors
/// [`PoolError`]. No process is left behind in any case.
pub(crate) fn replay(
    recordings: Vec<Recording>,
    workflow_processes: usize,
    user: UserCode,
    observer: &mut dyn FnMut(Event<'_>),
) -> Result<Summary, PoolError> {
    let of_a_run = |recording: &Recording| (recording.run_id.clone(), recording.task_queue.clone());
    let task_queues: HashMap<_, _> = recordings.iter().map(of_a_run).collect();
    let specs = vec![
        Spec {
            name: "bridge",
            role: Role::Client,
            count: 1,
            main: Box::new(move |seat| bridge::replay::main(&seat, &recordings, workflow_processes)),
        },
        Spec {
            name: "workflow-worker",
            role: Role::Worker,
            count: workflow_processes,
            main: Box::new(move |seat| {
                let host = WorkflowHost::new(user.clone(), NAMESPACE.to_owned(), String::new());
                workflow_process(&seat, host.recorded_task_queues(task_queues.clone()))
            }),
        },
    ];
    Coordinator::new(&Options::with_queues(wire::QUEUES), specs, GRACE, observer)?.run(None)
}
