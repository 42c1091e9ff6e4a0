//! The worker: what a program registers and sets, and what serves it.

use super::{
    UserCode,
    activity::{Activities, ActivityInterceptor},
    bridge::Config,
    connect::{ConnectError, ConnectFlags, Server},
    report,
    upgrade::Taken,
    worker_pool::{Place, Watched},
    workflow::Workflows,
};
use crate::{
    WorkerLimits,
    lanes::program::Program,
    mem::segment::Options,
    plugin::{PluginError, library::Manifest},
    process::coordinator::PoolError,
};
use std::{ffi::OsString, fmt, path::PathBuf, sync::Arc, time::Duration};
#[doc(no_inline)]
pub use temporalio_common::{
    data_converters::DataConverter,
    worker::{VersioningBehavior, WorkerDeploymentOptions, WorkerDeploymentVersion},
};
#[doc(no_inline)]
pub use temporalio_sdk_core::{PollerBehavior, WorkflowErrorType};
#[doc(no_inline)]
pub use temporalio_workflow::workflow_interceptors::{WorkflowInterceptor, WorkflowInterceptorConstructor};

/// How many activities a worker takes at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Tuner {
    /// As many as there are slots: [`activity_slots`](Worker::activity_slots) in each process.
    FixedSize,
    /// As many as keep the machine below both targets, and never more than there are slots. Both are shares of the whole machine
    /// (or of the limits of its cgroup), above 0 and at most 1, in which every process counts, not only this worker's.
    ResourceBased {
        /// Share of the memory.
        target_memory_usage: f64,
        /// Share of the CPUs.
        target_cpu_usage: f64,
    },
}

/// A worker: workflows and activities, the task queues from which they are taken, and how they are run.
///
/// Everything but the task queue has a default. [`main`](Self::main) makes a whole program of it, with the command line of
/// `shmworker`, whose flags win over what is set here; [`run`](Self::run) serves from within a program.
///
/// ```no_run
/// use shmworker::temporal::{Worker, activity::Activities};
///
/// fn main() -> std::process::ExitCode {
///     let activities = Activities::new().register("greet", |_ctx, name: String| async move { Ok(format!("hello {name}")) });
///     Worker::new("greetings").activities(activities).activity_processes(4).main()
/// }
/// ```
///
/// How many workflow tasks Core takes at a time isn't set: it follows what the workflow processes get done, since the server's
/// workflow-task timeout also counts while one waits for a process.
#[derive(Clone)]
#[must_use = "a worker does nothing before `main` or `run`"]
pub struct Worker {
    pub(crate) user: UserCode,
    pub(crate) config: Config,
    pub(crate) connection: ConnectFlags,
    pub(crate) name: Option<String>,
}

impl Worker {
    /// A worker for this task queue, without workflows and activities.
    pub fn new(task_queue: impl Into<String>) -> Worker {
        Worker {
            user: UserCode::default(),
            config: Config::new(task_queue.into()),
            connection: ConnectFlags::default(),
            name: None,
        }
    }

    /// The workflows. By default there are none, and no process for them.
    pub fn workflows(mut self, workflows: Workflows) -> Worker {
        self.user.workflows = workflows;
        self
    }

    /// The activities. By default there are none, and no process for them.
    pub fn activities(mut self, activities: Activities) -> Worker {
        self.user.activities = activities;
        self
    }

    /// The task queue of the workflows, where it is not that of the activities. With two queues Core has two workers in the
    /// bridge, and activities that share no queue with their workflow are never started eagerly.
    pub fn workflow_task_queue(mut self, name: impl Into<String>) -> Worker {
        self.config.workflow_task_queue = name.into();
        self
    }

    /// The task queue of the activities, where it is not that of the workflows.
    pub fn activity_task_queue(mut self, name: impl Into<String>) -> Worker {
        self.config.activity_task_queue = name.into();
        self
    }

    /// Workflow processes: 2 by default. Each is one thread, for one activation at a time and many suspended runs.
    pub fn workflow_processes(mut self, n: usize) -> Worker {
        self.config.workflow_processes = n;
        self
    }

    /// Workflow processes that there may become while the worker runs: by default twice as many as at first, and at least 16.
    pub fn max_workflow_processes(mut self, n: usize) -> Worker {
        self.config.max_workflow_processes = Some(n);
        self
    }

    /// What a workflow process may use until another takes its place: no limits by default.
    pub fn workflow_process_limits(mut self, limits: WorkerLimits) -> Worker {
        self.config.limits = limits;
        self
    }

    /// Activity processes: 1 by default.
    pub fn activity_processes(mut self, n: usize) -> Worker {
        self.config.activity_processes = n;
        self
    }

    /// A program that the workflow processes execute, with these arguments, in place of this one's own workflows: one in another
    /// language, under an SDK of its own, that takes activations through the [raw lanes of the C interface][ffi].
    ///
    /// [ffi]: https://github.com/shmworker/shmworker/blob/main/docs/ffi.md#raw-temporal-lanes
    pub fn workflow_program<A: Into<OsString>>(
        mut self,
        path: impl Into<PathBuf>,
        args: impl IntoIterator<Item = A>,
    ) -> Worker {
        self.config.workflow_program = Some(Program::new(path.into(), args.into_iter().map(Into::into).collect()));
        self
    }

    /// The same for the activity processes.
    pub fn activity_program<A: Into<OsString>>(
        mut self,
        path: impl Into<PathBuf>,
        args: impl IntoIterator<Item = A>,
    ) -> Worker {
        self.config.activity_program = Some(Program::new(path.into(), args.into_iter().map(Into::into).collect()));
        self
    }

    /// Attempts that one activity process runs at a time: 100 by default, at least 1.
    pub fn activity_slots(mut self, n: usize) -> Worker {
        self.config.activity_slots = n.max(1);
        self
    }

    /// How many activities are taken at a time: [`Tuner::FixedSize`] by default.
    pub fn tuner(mut self, tuner: Tuner) -> Worker {
        self.config.tuner = tuner;
        self
    }

    /// Workflow runs kept in memory, over all workflow processes: 1000 by default. One that is not kept is replayed from its
    /// history when something comes for it. At least 1.
    pub fn max_cached_workflows(mut self, n: usize) -> Worker {
        self.config.max_cached_workflows = n.max(1);
        self
    }

    /// Local activities at a time: by default as many as there are activity slots. They run in activity processes too. At
    /// least 1.
    pub fn max_concurrent_local_activities(mut self, n: usize) -> Worker {
        self.config.max_concurrent_local_activities = Some(n.max(1));
        self
    }

    /// Activities that this worker starts in a second, at most: no limit by default.
    pub fn max_activities_per_second(mut self, rate: f64) -> Worker {
        self.config.max_activities_per_second = Some(rate);
        self
    }

    /// Activities that the server gives out in a second, at most, over all workers of the task queue: no limit by default. The
    /// server takes the number from whichever worker polled last, so give the same everywhere. It rules out eager activities.
    pub fn max_task_queue_activities_per_second(mut self, rate: f64) -> Worker {
        self.config.max_task_queue_activities_per_second = Some(rate);
        self
    }

    /// Polls for workflow tasks at a time: by default 2 to 10, by the number of processes. At least 2, since there are two
    /// queues, the worker's own for cached runs among them.
    pub fn workflow_task_poller_behavior(mut self, behavior: PollerBehavior) -> Worker {
        self.config.workflow_pollers = Some(behavior);
        self
    }

    /// Polls for activities at a time: by default 2 to 10, by the number of slots.
    pub fn activity_task_poller_behavior(mut self, behavior: PollerBehavior) -> Worker {
        self.config.activity_pollers = Some(behavior);
        self
    }

    /// Which version of a deployment this is, and whether the server goes by that. By default the build id is a checksum of the
    /// program, no deployment is named, and the server doesn't.
    ///
    /// ```
    /// use shmworker::temporal::{VersioningBehavior, Worker, WorkerDeploymentOptions, WorkerDeploymentVersion};
    ///
    /// let version = WorkerDeploymentVersion::builder().deployment_name("billing").build_id("2026-11-22").build();
    /// let options = WorkerDeploymentOptions::new(version)
    ///     .use_worker_versioning(true)
    ///     .default_versioning_behavior(VersioningBehavior::Pinned)
    ///     .build();
    /// let worker = Worker::new("billing").deployment_options(options);
    /// # let _ = worker;
    /// ```
    pub fn deployment_options(mut self, options: WorkerDeploymentOptions) -> Worker {
        self.config.deployment = Some(options);
        self
    }

    /// Adds an interceptor around workflows, inside those that were added before: inbound calls (execution, signals, queries,
    /// updates) and what workflow code asks for (activities, timers, children). It is part of the workflow and must be as
    /// deterministic.
    pub fn workflow_interceptor(mut self, constructor: WorkflowInterceptorConstructor) -> Worker {
        self.user.workflow_interceptors.push(constructor);
        self
    }

    /// Adds an interceptor around activities, inside those that were added before.
    pub fn activity_interceptor(mut self, interceptor: impl ActivityInterceptor) -> Worker {
        self.user.activity_interceptors.push(Arc::new(interceptor));
        self
    }

    /// How values and failures become payloads, and the codec that these pass on their way to the server and back, which may
    /// encrypt or compress them. By default values are JSON, and there is no codec.
    ///
    /// All of it happens in the worker processes: the bridge has payloads only as the server has them. The `starter` uses it
    /// as well. While the codec of a workflow process waits for something, that process waits: its time counts for the
    /// [deadlock timeout](Self::deadlock_timeout).
    pub fn data_converter(mut self, converter: DataConverter) -> Worker {
        self.user.converter = converter.into();
        self
    }

    /// How the server shows this worker: by default `<process id of the bridge>@<host name>`.
    pub fn identity(mut self, identity: impl Into<String>) -> Worker {
        self.config.identity = Some(identity.into());
        self
    }

    /// Where the server is, and how to reach it. What is set here wins over Temporal's environment variables and config file,
    /// and the flags of the command line win over it.
    pub fn connection(mut self, connection: ConnectFlags) -> Worker {
        self.connection = connection;
        self
    }

    /// How long activities may go on once the worker is told to end: 10 s by default. Then they are cancelled, and after as long
    /// again, or after 2 s in all if that is longer, killed.
    pub fn graceful_shutdown_period(mut self, period: Duration) -> Worker {
        self.config.grace = bounded(period);
        self
    }

    /// How long workflow code may run before it yields: 2 s by default. Then its process is killed and replaced, and its runs
    /// are replayed. Counted in whole milliseconds, rounded up. Zero: as long as it likes.
    pub fn deadlock_timeout(mut self, timeout: Duration) -> Worker {
        self.config.deadlock_timeout = Duration::from_millis(bounded(timeout).as_nanos().div_ceil(1_000_000) as u64);
        self
    }

    /// How long a workflow task waits for this worker, which has the run in its cache, before the server gives it to any:
    /// 10 s by default.
    pub fn sticky_queue_schedule_to_start_timeout(mut self, timeout: Duration) -> Worker {
        self.config.sticky_queue_schedule_to_start_timeout = bounded(timeout);
        self
    }

    /// The longest time between two heartbeats of an activity that go to the server: 60 s by default. It is at most 0.8 of the
    /// activity's heartbeat timeout in any case.
    pub fn max_heartbeat_throttle_interval(mut self, interval: Duration) -> Worker {
        self.config.max_heartbeat_throttle_interval = bounded(interval);
        self
    }

    /// The time between two heartbeats that go to the server, of an activity without heartbeat timeout: 30 s by default.
    pub fn default_heartbeat_throttle_interval(mut self, interval: Duration) -> Worker {
        self.config.default_heartbeat_throttle_interval = bounded(interval);
        self
    }

    /// Errors that fail a workflow. By default none do: such an error fails the workflow task, which is tried again, so that a
    /// corrected worker can take over.
    pub fn workflow_failure_errors(mut self, errors: impl IntoIterator<Item = WorkflowErrorType>) -> Worker {
        self.config.workflow_failure_errors.extend(errors);
        self
    }

    /// As [`workflow_failure_errors`](Self::workflow_failure_errors), for the workflows of one type.
    pub fn workflow_type_failure_errors(
        mut self,
        workflow_type: impl Into<String>,
        errors: impl IntoIterator<Item = WorkflowErrorType>,
    ) -> Worker {
        self.config.workflow_types_to_failure_errors.entry(workflow_type.into()).or_default().extend(errors);
        self
    }

    /// The name under which `shmworker inspect` finds the pool: by default the process id.
    pub fn name(mut self, name: impl Into<String>) -> Worker {
        self.name = Some(name.into());
        self
    }

    /// Serves metrics to Prometheus at this socket, under `/metrics`: the pool's own, and Core's beside them. By default nobody does.
    /// The bridge answers; while it is replaced, who asks waits.
    ///
    /// ```no_run
    /// let worker = shmworker::temporal::Worker::new("billing").metrics(std::net::TcpListener::bind("127.0.0.1:9100")?);
    /// # let _ = worker;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[cfg(feature = "metrics")]
    pub fn metrics(mut self, listener: std::net::TcpListener) -> Worker {
        self.config.metrics = Some(Arc::new(listener));
        self
    }

    /// Sends a span for each workflow and activity task to the OpenTelemetry collector at this address, by OTLP over HTTP, in the trace of the
    /// caller: `http://127.0.0.1:4318`. By default nobody does. [What there is][traces], and what variables say of it.
    ///
    /// ```no_run
    /// let worker = shmworker::temporal::Worker::new("billing").otlp("http://127.0.0.1:4318");
    /// # let _ = worker;
    /// ```
    ///
    /// [traces]: https://github.com/shmworker/shmworker/blob/main/docs/operations.md#traces
    #[cfg(feature = "otlp")]
    pub fn otlp(mut self, url: impl Into<String>) -> Worker {
        self.config.otlp = Some(url.into());
        self
    }

    /// Serves until SIGINT or SIGTERM; the first of them drains, the second cancels what still runs, the third kills.
    ///
    /// This process becomes the coordinator: it forks, so call it before it has started a thread. What workers print goes to
    /// stdout and stderr, with their labels.
    ///
    /// # Errors
    ///
    /// [`RunError`]. No process is left behind in any case.
    pub fn run(self) -> Result<(), RunError> {
        let server = Server::resolve(&self.connection)?;
        let place = Place { name: self.name.clone(), options: Options::default(), quiet: false, is_upgradable: false };
        self.serve(server, place, None, None)
    }

    /// Has a child of this process look at the plug-ins, if there are any, and none has before.
    ///
    /// # Errors
    /// [`RunError`]: this process has threads, or one can't be loaded.
    pub(crate) fn probe(&mut self) -> Result<(), RunError> {
        #[cfg(feature = "pool")]
        if let Ok(threads @ 2..) = crate::pool::launch::lasting_threads() {
            return Err(RunError::Settings(format!(
                "this process has {threads} threads: a fork would copy their locks as they are. Run the worker before any \
                 thread, and any runtime, is started"
            )));
        }
        self.user.activities.probe()?;
        Ok(())
    }

    /// Says what the plug-ins bring.
    fn say_plugins(&mut self) -> Result<(), RunError> {
        for Manifest { path, handlers } in self.user.activities.probe()? {
            report::say(format_args!("plug-in {}: {}", path.display(), handlers.join(", ")));
        }
        Ok(())
    }

    pub(crate) fn serve(
        mut self,
        server: Server,
        place: Place,
        companion: Option<&Watched>,
        taken: Option<&Taken>,
    ) -> Result<(), RunError> {
        self.config.check().map_err(RunError::Settings)?;
        self.probe()?;
        if !place.quiet && taken.is_none() {
            self.say_plugins()?;
        }
        (self.config.workflow_processes, self.config.activity_processes) = self.processes();
        for program in [&mut self.config.workflow_program, &mut self.config.activity_program].into_iter().flatten() {
            *program = program.find().map_err(RunError::Settings)?;
        }
        if self.config.workflow_processes + self.config.activity_processes == 0 {
            let why = "there is nothing to run: register workflows or activities, and give them at least one process";
            return Err(RunError::Settings(why.to_owned()));
        }
        let former = match taken {
            Some(taken) if taken.is_check() => return taken.accept().map_err(RunError::Pool),
            Some(taken) => Some((taken, taken.base().map_err(RunError::Pool)?)),
            None => None,
        };
        report::run(server, self.config, place, self.user, companion, former)
    }

    /// How many processes of each kind there are: none for what isn't registered.
    pub(crate) fn processes(&self) -> (usize, usize) {
        let (Config { workflow_program, activity_program, .. }, UserCode { workflows, activities, .. }) =
            (&self.config, &self.user);
        let some = |n, is_empty, program: &Option<Program>| if is_empty && program.is_none() { 0 } else { n };
        (
            some(self.config.workflow_processes, workflows.is_empty(), workflow_program),
            some(self.config.activity_processes, activities.is_empty(), activity_program),
        )
    }

    /// Runs the command that the process arguments name, and returns its exit code: `run`, `starter` and the others of
    /// `shmworker --help`. What was set before are the defaults of the flags.
    ///
    /// To be called before the program has started a thread: `run` forks.
    #[cfg(feature = "cli")]
    #[must_use]
    pub fn main(self) -> std::process::ExitCode {
        crate::cli::main_with(self)
    }
}

/// `Duration::MAX` means as long as it takes, which clocks and protocols have no room for.
fn bounded(duration: Duration) -> Duration {
    duration.min(Duration::from_secs(u32::MAX.into()))
}

impl fmt::Debug for Worker {
    /// Leaves out the connection, which may hold an API key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UserCode { workflows, activities, .. } = &self.user;
        f.debug_struct("Worker")
            .field("workflows", workflows)
            .field("activities", activities)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Why a worker has ended though nobody asked it to, or not as it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A setting can't be used; the text says which, and what to do. Nothing was started.
    #[error("{0}")]
    Settings(String),
    /// Where the server is can't be told from what was given. Nothing was started.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The bridge could not begin to serve.
    #[error("{why}")]
    Bridge {
        /// What it says.
        why: String,
        /// The code with which it ended: 3 without a server, 4 without the namespace, 8 if the connection is configured
        /// wrong.
        code: Option<u8>,
    },
    /// A plug-in can't be loaded. Nothing was started.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// A process died again and again before it had done anything.
    #[error("{0}")]
    CrashLoop(String),
    /// The dev server beside the worker ended.
    #[error("{0}")]
    DevServer(String),
    /// The pool could not be started, or is damaged.
    #[error("{0}")]
    Pool(String),
    /// It has ended, but something had to be killed, or something was left.
    #[error("{0}")]
    Unclean(String),
}

impl From<PoolError> for RunError {
    fn from(error: PoolError) -> RunError {
        use crate::process::exit::Exit;
        let text = error.to_string();
        match error {
            PoolError::ClientGaveUp { exit: Exit::Code(code), .. } => RunError::Bridge { why: text, code: Some(code) },
            PoolError::ClientGaveUp { .. } => RunError::Bridge { why: text, code: None },
            PoolError::CrashLoop { .. } => RunError::CrashLoop(text),
            PoolError::CompanionDied => RunError::DevServer(text),
            _ => RunError::Pool(text),
        }
    }
}
