//! Starting a pool: the segment, the coordinator's process, and the client that the caller becomes.

use super::{
    Pool,
    attached::task_names,
    builder::{Builder, Settings},
    client::Client,
    control::{Control, Shutdown},
    home::Home,
    journaled,
    launch::{self, Program},
    submitter::Submitter,
    tasks::Tasks,
    worker,
};
use crate::{
    error::Corrupted,
    exec::endpoint::{Endpoint, cpus},
    lockfree::{participant::Name, table::TaskId},
    mem::{
        layout::Geometry,
        segment::{Options, Segment, SegmentCreateError},
    },
    process::{
        coordinator::{
            Base, Coordinator, Event, Owner, PoolError, Role, Seat, Spec, Unfit, make_bell, name_process,
            participants_for, processes_for,
        },
        handover::Handover,
        limits::WorkerLimits,
        orders,
        orphan::Outliving,
        spawn::{Child, fork_apart, pidfd_open},
    },
    state::{self, StateError, journal},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::EventFd,
        signal::{SigSet, Signal},
    },
    unistd::{Pid, getppid},
};
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsString,
    hash::{DefaultHasher, Hash, Hasher},
    io::ErrorKind,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::MetadataExt, net::UnixStream},
    },
    path::Path,
    sync::{Arc, Barrier},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// The name of the thread that watches the coordinator.
pub(super) use crate::process::orphan::WATCHER;

/// So many processes may attach to a pool that has a name, whatever its workers do.
const GUESTS: usize = 64;

/// Why a pool could not be started.
///
/// ```no_run
/// # use shmworker::{Pool, Tasks, pool::StartError};
/// # let tasks = Tasks::new();
/// match Pool::builder().workers(4).fork(tasks) {
///     Ok(pool) => pool.join()?,
///     Err(e @ StartError::Threads(_)) => println!("{e}"), // make the pool earlier, or use forkserver() or exec()
///     Err(e) => return Err(e.into()),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The caller has threads, of which a fork would copy the locks and not the threads.
    #[error(
        "this process has {0} threads: a fork would copy their locks as they are. Make the pool before any thread is \
         started, or use forkserver() or exec()"
    )]
    Threads(usize),
    /// The program has not said which tasks it has.
    #[error(
        "shmworker::init was not called: make `shmworker::init(tasks)` the first line of `main`, before any runtime, or \
         `shmworker::init!(tasks)` a line of the test's file"
    )]
    NotInitialized,
    /// It has said so when it had threads already.
    #[error(
        "shmworker::init was called when this process had {0} threads: make it the first line of `main`, before any \
         runtime; under `#[tokio::main]` that is a `main` of its own, which then calls the async one; a worker program of its own \
         calls `pool::work`, or in C `shmworker_worker_run`, before it starts a thread"
    )]
    InitTooLate(usize),
    /// What builds the tasks starts threads.
    #[error(
        "the function given to shmworker::init leaves {0} threads in its process, which is to fork workers: start them in a \
         task"
    )]
    ThreadsOfTasks(usize),
    /// Caller and coordinator do not register the same tasks.
    #[error(
        "the pool's processes do not register the tasks of this one: {here} is registered here only, {there} there only; let \
         the function given to shmworker::init depend on nothing that changes"
    )]
    OtherTasks {
        /// The caller's that the coordinator hasn't: name and types; the first of them.
        here: String,
        /// The coordinator's that the caller hasn't.
        there: String,
    },
    /// The coordinator could not begin, for this reason.
    #[error("the pool's coordinator could not start: {0}")]
    Refused(String),
    /// The coordinator's process ended, in this way, before it had said anything.
    #[error(
        "the process that was to be the pool's coordinator ended with {0} before it was that; where it executes this \
         program again, `shmworker::init` must be the first line of `main`; a worker program of its own must call \
         `pool::work`, or in C `shmworker_worker_run`"
    )]
    Ended(String),
    /// The workers were not started in time.
    #[error(
        "the pool's coordinator has not started its workers within {0:?}; where it executes this program again, \
         `shmworker::init` must be the first line of `main`"
    )]
    TimedOut(Duration),
    /// No segment.
    #[error(transparent)]
    Segment(#[from] SegmentCreateError),
    /// The [file](Builder::file) can't be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The segment is damaged.
    #[error(transparent)]
    Corrupted(#[from] Corrupted),
    /// The kernel refused.
    #[error("cannot {step}: {source}")]
    Os {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

fn os<E: Into<std::io::Error>>(step: &'static str) -> impl Fn(E) -> StartError {
    move |source| StartError::Os { step, source: source.into() }
}

fn cannot_watch(source: Errno) -> StartError {
    match source {
        // Whoever else waits for this process's children has reaped it.
        Errno::ESRCH => StartError::Ended("an unknown exit (others wait for this process's children)".to_owned()),
        Errno::ENOSYS => {
            os("watch the coordinator (the call pidfd_open is missing: valgrind has it from 3.21 on)")(source)
        }
        _ => os("watch the coordinator")(source),
    }
}

/// What a coordinator is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    method: Method,
    settings: Settings,
    workers: usize,
    max_workers: usize,
    /// Its participant, and the owner's.
    coordinator: u64,
    owner: u64,
    /// The owner's process, whose child it is.
    owner_pid: i32,
    /// Workers outlive it, and wait for another for so long.
    successor_within: Option<Duration>,
}

impl Plan {
    /// With which arguments another program goes on with this pool, though its coordinator has not executed one.
    pub(super) fn successor(&self) -> Option<&Vec<OsString>> {
        self.settings.successor.as_ref()
    }

    /// How long a program that is to be the coordinator has for that.
    pub(super) fn start_timeout(&self) -> Duration {
        self.settings.start_timeout
    }
}

/// How workers come to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Method {
    Fork,
    Exec,
}

/// What a coordinator says once.
#[derive(Serialize, Deserialize)]
pub(super) enum Answer {
    /// All workers are started.
    Started,
    /// It can't, for this reason.
    Refused(String),
    /// It has these tasks, by their signatures.
    OtherTasks(Vec<String>),
}

impl Builder {
    /// Starts the pool by forking this process, which must have no second thread. Tasks may be closures that capture; workers
    /// share, copy on write, what this process has in memory.
    ///
    /// # Errors
    /// [`StartError`]: [`Threads`](StartError::Threads) if there are any but those of other pools.
    ///
    /// ```no_run
    /// use shmworker::{Pool, Tasks};
    ///
    /// let offset = 100;
    /// let mut tasks = Tasks::new();
    /// let add = tasks.function("add", move |x: u64| x + offset); // it captures
    /// let pool = Pool::builder().workers(4).fork(tasks)?;
    /// assert_eq!(pool.submit(add, &1)?.wait()?, 101);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn fork(self, tasks: Tasks) -> Result<Pool, StartError> {
        let threads = launch::lasting_threads().map_err(os("count this process's threads"))?;
        if threads > 1 {
            return Err(StartError::Threads(threads));
        }
        self.start(Method::Fork, Some(&tasks), |ground, theirs| {
            let seat = ground.seat();
            fork_apart(&[seat.segment.as_fd(), seat.bell.as_fd(), seat.connection.as_fd(), theirs.as_fd()], || {
                seat.serve(&theirs, &tasks)
            })
            .map_err(os("fork the coordinator"))
        })
    }

    /// Starts the pool from a clean process: executes this program again, which becomes the coordinator and forks the
    /// workers. This process may have threads, a runtime, whatever; nothing of it is copied.
    ///
    /// The tasks are those of [`shmworker::init`](crate::init()).
    ///
    /// # Errors
    /// [`StartError`].
    ///
    /// ```no_run
    /// # fn tasks() -> shmworker::Tasks { shmworker::Tasks::new() }
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     shmworker::init(tasks);
    ///     let pool = shmworker::Pool::builder().workers(4).forkserver()?;
    ///     pool.join()?;
    ///     Ok(())
    /// }
    /// ```
    pub fn forkserver(self) -> Result<Pool, StartError> {
        self.execute(Method::Fork)
    }

    /// As [`forkserver`](Self::forkserver), but each worker executes this program again too: it has an address space of its
    /// own, laid out anew, and shares no page with the others but those of the program and the segment. A worker costs a
    /// program start, and the memory that one takes.
    ///
    /// # Errors
    /// [`StartError`].
    ///
    /// ```no_run
    /// # fn tasks() -> shmworker::Tasks { shmworker::Tasks::new() }
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     shmworker::init(tasks);
    ///     let pool = shmworker::Pool::builder().workers(4).exec()?;
    ///     pool.join()?;
    ///     Ok(())
    /// }
    /// ```
    pub fn exec(self) -> Result<Pool, StartError> {
        self.execute(Method::Exec)
    }

    fn execute(mut self, method: Method) -> Result<Pool, StartError> {
        let (program, step, tasks) = match self.program.take() {
            None => (Program::this(), "execute this program again", Some(launch::tasks()?)),
            Some(program) => (program, "execute the worker program", None),
        };
        self.start(method, tasks.as_ref(), |ground, theirs| {
            let Ground { segment, bell, connection, .. } = ground;
            let fds = [segment.as_fd(), bell.as_fd(), connection.as_fd()];
            launch::start_coordinator(&ground.plan, tasks.as_ref(), fds, &ground.answers, theirs, program)
                .map_err(os(step))
        })
    }

    /// Starts the pool, whose coordinator's process `launch` makes. That has the ground laid for it, and says through its end of
    /// a socket pair how it went.
    fn start(
        self,
        method: Method,
        tasks: Option<&Tasks>,
        launch: impl FnOnce(&Ground, UnixStream) -> Result<Pid, StartError>,
    ) -> Result<Pool, StartError> {
        let plugs = launch::plug_standard_streams().map_err(os("open /dev/null"))?;
        let (ground, ours, theirs) = Ground::lay(self.settings, method, tasks)?;
        ground.tell(tasks);
        drop(plugs);
        let process = Process(Child::of(launch(&ground, theirs)?).map_err(cannot_watch)?);
        let Ground { segment, plan, bell, connection, answers, adopted } = ground;
        let (queues, width) = (plan.settings.queues.as_slice().into(), plan.workers * plan.settings.slots);
        segment.settle().map_err(os("keep children away from the segment"))?;
        // Each end is the coordinator's alone now, so that its death closes it.
        drop(connection);
        // While the coordinator starts, which takes longer.
        let endpoint = Endpoint::new(segment, Name::of(plan.owner)).with_own_bell(OwnedFd::from(bell));
        let home = Home::here().map_err(os("map a page"))?;
        process.answer(&answers, plan.settings.start_timeout, &tasks.map(Tasks::signatures).unwrap_or_default())?;
        let client = match adopted {
            None => Client::new(Arc::new(endpoint), home, false),
            Some(adopted) => durable(endpoint, home, adopted, &plan, tasks)?,
        };
        let client = Arc::new(client);
        let crew = Crew::watch(&client, process, ours).map_err(os("start a thread"))?;
        let signatures = tasks.map(|tasks| tasks.signatures.clone());
        let submitter = Submitter::new(client, signatures, queues, width);
        Ok(Pool { submitter, crew, has_guests: plan.settings.name.is_some() })
    }
}

/// The client of a pool that lies in a file.
fn durable(
    endpoint: Endpoint,
    home: Home,
    adopted: Vec<TaskId>,
    plan: &Plan,
    tasks: Option<&Tasks>,
) -> Result<Client, StartError> {
    let Settings { file, client, sync, .. } = &plan.settings;
    let (path, client) = (file.as_deref().unwrap_or(Path::new("")), client.as_deref().unwrap_or(journal::MAIN));
    let told = if tasks.is_none() { task_names(&endpoint) } else { Vec::new() };
    let told = told.iter().map(|(kind, name)| (*kind, &name[..]));
    let names = tasks.into_iter().flat_map(|tasks| tasks.signatures.iter().map(|(kind, s)| (*kind, &*s.name)));
    let (endpoint, durable) = journaled::begin(endpoint, (path, client, *sync), adopted, names.chain(told))?;
    Ok(Client::new(Arc::new(endpoint), home, false).adopting(durable))
}

/// All that is there before the coordinator is.
struct Ground {
    segment: Arc<Segment>,
    plan: Plan,
    bell: EventFd,
    /// The coordinator's end.
    connection: OwnedFd,
    /// The caller's end.
    answers: UnixStream,
    /// The caller is a durable client, with these tasks of former lives.
    adopted: Option<Vec<TaskId>>,
}

impl Ground {
    /// With the caller's end of the connection, and the coordinator's of the answers.
    fn lay(
        settings: Settings,
        method: Method,
        tasks: Option<&Tasks>,
    ) -> Result<(Ground, OwnedFd, UnixStream), StartError> {
        let workers = settings.workers.unwrap_or_else(cpus);
        let options = Options {
            no_times: !settings.times,
            reserve: settings.reserve,
            huge_pages: settings.huge_pages,
            prefault: settings.prefault,
            ..Options::with_queues(settings.queues.iter().cloned())
        };
        let guests = if settings.name.is_some() { GUESTS } else { 0 };
        let (participants, mut max_workers) = room_for(workers, settings.max_workers, guests);
        let (segment, coordinator, owner, adopted);
        match &settings.file {
            None => {
                segment = Segment::create_with(Geometry::new(participants, options.queues.len()), &options)?;
                let admit =
                    |pid| segment.table().admit(pid, 0)?.ok_or(StartError::Segment(SegmentCreateError::Geometry));
                (coordinator, owner, adopted) = (admit(0)?.bits(), admit(std::process::id())?.bits(), None);
            }
            Some(path) => {
                let has_task = tasks.map(|tasks| |kind| tasks.signatures.contains_key(&kind));
                let opened = state::open(state::Wanted {
                    path,
                    client: settings.client.as_deref().unwrap_or("main"),
                    options,
                    participants,
                    workers: settings.max_workers.unwrap_or(workers).max(workers),
                    others: 1 + guests,
                    say: settings.hears.unwrap_or(|line| tracing::warn!("{line}")),
                    has_task: has_task.as_ref().map(|has_task| has_task as &dyn Fn(u32) -> bool),
                })?;
                if let Some(settled) = opened.settled {
                    let (tasks, path) = (opened.client.adopted.len(), path.display());
                    tracing::info!(
                        "{tasks} tasks of '{path}' are gone on with; what became of the others: {settled:?}"
                    );
                }
                segment = opened.segment;
                (coordinator, owner) = (opened.coordinator.bits(), opened.client.name.bits());
                adopted = Some(opened.client.adopted);
                // The table that is there wins.
                let room = processes_for(segment.table().participants.len()) - 1 - guests;
                max_workers = settings.max_workers.unwrap_or(room).max(workers);
            }
        }
        let plan = Plan {
            method,
            workers,
            max_workers,
            coordinator,
            owner,
            owner_pid: std::process::id() as i32,
            successor_within: settings.file.is_some().then_some(settings.successor_within),
            settings,
        };
        let bell = make_bell().map_err(|e| match e {
            PoolError::Os { step, source } => os(step)(source),
            _ => unreachable!("it only asks the kernel"),
        })?;
        let (ours, connection) = orders::pair().map_err(os("make a socket pair"))?;
        let (answers, theirs) = UnixStream::pair().map_err(os("make a socket pair"))?;
        Ok((Ground { segment: Arc::new(segment), plan, bell, connection, answers, adopted }, ours, theirs))
    }

    /// For who looks at the pool: who this process is, and what tasks are called.
    fn tell(&self, tasks: Option<&Tasks>) {
        if let Some(record) = self.segment.record(Name::of(self.plan.owner).id()) {
            record.set_label("program");
        }
        if let Some(tasks) = tasks {
            tell_names(&self.segment, &self.plan, tasks);
        }
    }

    fn seat(&self) -> CoordinatorsSeat<'_> {
        CoordinatorsSeat {
            segment: &self.segment,
            plan: &self.plan,
            bell: &self.bell,
            connection: &self.connection,
            is_a_program: false,
            handover: None,
        }
    }
}

/// In the coordinator's record.
fn tell_names(segment: &Segment, plan: &Plan, tasks: &Tasks) {
    if let Some(record) = segment.record(Name::of(plan.coordinator).id()) {
        record.name_tasks(tasks.signatures.iter().map(|(&kind, signature)| (kind, &signature.name[..])));
    }
}

/// The coordinator's process, which ends with this.
struct Process(Child);

impl Process {
    /// Waits until it has started the workers.
    fn answer(&self, socket: &UnixStream, at_most: Duration, tasks: &[String]) -> Result<(), StartError> {
        let until = Instant::now().checked_add(at_most);
        let step = "hear from the coordinator";
        let mut is_open = true;
        loop {
            // In this order: what one that is found dead had said is there to be read.
            let mut fds = vec![PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            fds.extend(is_open.then(|| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
            let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
            // Rounded up, or the last millisecond would be spent spinning.
            let timeout = left.saturating_add(Duration::from_millis(1));
            let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
            match poll(&mut fds, timeout) {
                Ok(0) if left.is_zero() => return Err(StartError::TimedOut(at_most)),
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(e) => return Err(os(step)(e)),
            }
            let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
            if fds.get(1).is_some_and(is_ready) {
                match launch::receive(socket) {
                    Ok((Answer::Started, _)) => return Ok(()),
                    Ok((Answer::Refused(why), _)) => return Err(StartError::Refused(why)),
                    Ok((Answer::OtherTasks(there), _)) => return Err(other_tasks(tasks, &there)),
                    // It has closed its end, perhaps by dying.
                    Err(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                        is_open = false;
                    }
                    Err(e) => return Err(os(step)(e)),
                }
            } else if is_ready(&fds[0]) {
                return Err(StartError::Ended(self.0.reap().to_string()));
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.signal(Signal::SIGKILL);
        self.0.reap();
    }
}

fn other_tasks(here: &[String], there: &[String]) -> StartError {
    let first = |these: &[String], those: &[String]| {
        these.iter().find(|task| !those.contains(task)).map_or("nothing".to_owned(), String::clone)
    };
    StartError::OtherTasks { here: first(here, there), there: first(there, here) }
}

/// How many participants a segment needs for so many workers and others, and how many workers it then has room for.
fn room_for(workers: usize, at_most: Option<usize>, guests: usize) -> (usize, usize) {
    let participants = participants_for(at_most.unwrap_or(2 * workers).max(workers) + 1 + guests);
    let max_workers = at_most.unwrap_or(processes_for(participants) - 1 - guests);
    (participants, max_workers.max(workers))
}

/// The coordinator's process, as the caller has it.
#[derive(Debug)]
pub(crate) struct Crew {
    control: Arc<Control>,
    watcher: Option<JoinHandle<Result<Shutdown, String>>>,
}

impl Crew {
    fn watch(client: &Arc<Client>, process: Process, connection: OwnedFd) -> std::io::Result<Crew> {
        let control = Arc::new(Control::new(connection, process.0.pid.as_raw() as u32));
        let (client, watched) = (client.clone(), control.clone());
        // No channel: who waits for one makes a `Thread`, which is a leak in the thread of a C program.
        let runs = Arc::new(Barrier::new(2));
        let is_running = runs.clone();
        let watcher = std::thread::Builder::new().name(WATCHER.into()).spawn(move || {
            // Signals are for the threads of the program, which goes on only then.
            let _ = SigSet::all().thread_block();
            runs.wait();
            watched.watch(&client, &process.0)
        })?;
        // Only then it has its name, by which `launch::threads` knows it.
        is_running.wait();
        Ok(Crew { control, watcher: Some(watcher) })
    }

    pub(super) fn control(&self) -> &Control {
        &self.control
    }

    /// Has the workers end, and waits until all have. Says how the pool ended; an error: the coordinator failed.
    pub(super) fn end(&mut self) -> Result<Shutdown, String> {
        self.control.hang_up();
        match self.watcher.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) | None => Ok(Shutdown::default()),
        }
    }
}

/// What the coordinator's process has of the pool.
pub(super) struct CoordinatorsSeat<'a> {
    pub(super) segment: &'a Arc<Segment>,
    pub(super) plan: &'a Plan,
    pub(super) bell: &'a EventFd,
    pub(super) connection: &'a OwnedFd,
    /// It has executed its program, rather than been forked with the caller's memory.
    pub(super) is_a_program: bool,
    /// What the program before has left, of which this one goes on with the pool.
    pub(super) handover: Option<&'a Handover>,
}

impl CoordinatorsSeat<'_> {
    /// The life of the coordinator's process; its exit code. It says on `answers` how its start went. Whatever stops it later it
    /// has said on the connection.
    pub(super) fn serve(&self, answers: &UnixStream, tasks: &Tasks) -> u8 {
        // Nobody waits for the answer of one that goes on.
        let mut has_started = self.handover.is_some();
        let mut started = || {
            has_started = true;
            // To no effect if the owner has died.
            let _ = launch::send(answers, &Answer::Started, &[]);
        };
        match self.run(tasks, &mut started) {
            Ok(()) => 0,
            Err(_) if has_started => 1,
            Err(e) => {
                let _ = launch::send(answers, &Answer::Refused(e.to_string()), &[]);
                1
            }
        }
    }

    fn run(&self, tasks: &Tasks, started: &mut dyn FnMut()) -> Result<(), PoolError> {
        let os = |step| move |source| PoolError::Os { step, source };
        let &Plan { method, workers, max_workers, ref settings, .. } = self.plan;
        name_process("coordinator");
        if self.is_a_program {
            // The owner may be another, which knows none.
            tell_names(self.segment, self.plan, tasks);
        }
        launch::settle_standard_streams().map_err(os("open /dev/null"))?;
        let owner_pid = Pid::from_raw(self.plan.owner_pid);
        let pidfd = pidfd_open(owner_pid).map_err(os("watch the pool's owner"))?;
        if getppid() != owner_pid {
            return Ok(()); // it died before we could look after its pool
        }
        let copy = |fd: std::os::fd::BorrowedFd<'_>| {
            fd.try_clone_to_owned().map_err(|e| os("copy a descriptor")(Errno::from_raw(e.raw_os_error().unwrap_or(0))))
        };
        let (name, connection) = (Name::of(self.plan.owner), copy(self.connection.as_fd())?);
        let owner = Owner { name, pidfd, connection, pid: owner_pid };
        // SAFETY: `bell` is an eventfd, and this is a copy of its descriptor that nobody else has.
        let bell = unsafe { EventFd::from_owned_fd(copy(self.bell.as_fd())?) };
        // SAFETY: the worker's copy of this process's memory, in which the table lives on until that exits.
        let tasks: &'static Tasks = unsafe { &*std::ptr::from_ref(tasks) };
        let Settings { slots, queues, limits, .. } = settings.clone();
        let mut work = Work { slots, queues, workers, limits, outliving: None };
        work.outliving = self.plan.successor_within.map(|within| Outliving { within, make: make_of(&work, tasks) });
        let outliving = work.outliving;
        let main: Box<dyn Fn(Seat) -> u8> = match method {
            Method::Fork => Box::new(move |seat| work.run(seat, tasks)),
            Method::Exec => Box::new(move |seat| launch::become_another_worker(&seat, tasks, &work)),
        };
        let spec = Spec { name: "worker", role: Role::Worker, count: workers, main };
        let mut observer = |event: Event<'_>| match event {
            Event::Started => started(),
            Event::TakenOn { label, pid, stays: true } => {
                tracing::info!(worker = label, pid, "{label} (pid {pid}) has waited for a coordinator, and goes on");
            }
            Event::TakenOn { label, pid, stays: false } => tracing::info!(
                worker = label,
                pid,
                "{label} (pid {pid}) has waited for a coordinator, of another program or with other settings: it is asked to leave"
            ),
            Event::Replaced { label, pid, why } => {
                tracing::debug!(worker = label, pid, "{label} (pid {pid}) has left: {why}");
            }
            Event::Died { label, pid, exit, peak_kib, .. } => {
                let mib = peak_kib.div_ceil(1024);
                tracing::warn!(worker = label, pid, "{label} (pid {pid}) ended with {exit}; memory at most {mib} MiB");
            }
            Event::OutOfTime { label, pid, task } => {
                tracing::warn!(
                    worker = label,
                    pid,
                    "{label} (pid {pid}) is killed: {task:?} has run, or was silent, for too long"
                );
            }
            Event::Upgraded => tracing::info!("another program has taken the pool over"),
            Event::NotUpgraded { why } => tracing::error!("no other program has taken the pool over: {why}"),
            Event::NotRenewed { why } => tracing::error!("{why}; the workers go on with what they have"),
            Event::Unsound { who, audit } => {
                tracing::error!("shared memory is damaged after the end of {who}: {audit}")
            }
            _ => {}
        };
        worker::warm_up();
        let base = Base { segment: self.segment.clone(), me: Name::of(self.plan.coordinator), bell };
        let pool = Coordinator::over(base, vec![spec], settings.grace, &mut observer)?;
        let pool = pool.inheriting_output().owned_by(owner, max_workers)?;
        let pool = match (outliving, self.handover) {
            (Some(terms), None) => pool.outlived_by_workers(terms)?,
            (Some(terms), Some(_)) => pool.outlived_by(terms),
            (None, _) => pool,
        };
        let pool = if tasks.has_plugins() { pool.renewing(0, || tasks.probe_again()) } else { pool };
        let pool = pool.rolling_after_upgrade(settings.successor.is_some());
        let pool = pool.succeeded_by(match self.is_a_program || settings.successor.is_some() {
            true => Ok(Box::new(launch::Successor::of_pool(self, tasks))),
            false => Err(
                "its coordinator is a copy of the program that has made it (Builder::fork), which no other program can go on \
                 with: make it by Builder::forkserver or Builder::exec",
            ),
        });
        let pool = match self.handover {
            Some(handover) => pool.succeeding(handover)?,
            None if settings.name.is_some() => pool.listen(settings.name.as_deref())?,
            None => pool,
        };
        pool.run(None).map(drop)
    }
}

/// What a worker is told of the pool.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Work {
    pub(super) slots: usize,
    pub(super) queues: Vec<String>,
    /// How many there were at first.
    pub(super) workers: usize,
    pub(super) limits: WorkerLimits,
    /// It outlives its coordinator.
    pub(super) outliving: Option<Outliving>,
}

/// What workers are made of that do this: the program, its arguments and the directory that it runs in, its tasks, and how it runs them.
/// Not the environment, nor what the program has read before.
fn make_of(work: &Work, tasks: &Tasks) -> u64 {
    let mut hasher = DefaultHasher::new();
    let file = std::fs::metadata("/proc/self/exe");
    file.map(|file| (file.dev(), file.ino(), file.mtime(), file.mtime_nsec(), file.len())).ok().hash(&mut hasher);
    std::env::args_os().collect::<Vec<_>>().hash(&mut hasher);
    std::env::current_dir().ok().hash(&mut hasher);
    tasks.fingerprint().hash(&mut hasher);
    (work.slots, &work.queues, format!("{:?}", work.limits)).hash(&mut hasher);
    hasher.finish()
}

impl Work {
    /// The life of a worker's process; its exit code.
    pub(super) fn run(&self, seat: Seat, tasks: &'static Tasks) -> u8 {
        let result = match seat.limited(&self.limits) {
            Ok(seat) => worker::work(&seat, tasks, self).map_err(|why| seat.give_up(&why)),
            // It has said why.
            Err(Unfit) => Err(()),
        };
        u8::from(result.is_err())
    }
}
