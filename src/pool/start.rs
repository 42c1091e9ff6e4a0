//! Starting a pool: the segment, the coordinator's process, and the client that the caller becomes.

use super::{
    Pool,
    builder::Builder,
    client::Client,
    control::{Control, Shutdown},
    tasks::Tasks,
    worker,
};
use crate::{
    error::Corrupted,
    exec::endpoint::Endpoint,
    lockfree::participant::Name,
    mem::{
        layout::Geometry,
        segment::{Options, Segment, SegmentCreateError},
    },
    process::{
        coordinator::{Coordinator, Event, Owner, PoolError, Role, Spec, make_bell, participants_for, processes_for},
        limits::WorkerLimits,
        orders::{self, News},
        spawn::{fork_apart, pidfd_open},
    },
    sync::Bell,
};
use nix::{
    errno::Errno,
    sys::{eventfd::EventFd, signal::SigSet, socket::MsgFlags},
    unistd::{getpid, getppid},
};
use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

/// Why a pool could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The caller has threads, of which a fork would copy the locks and not the threads.
    #[error(
        "this process has {0} threads: a fork would copy their locks as they are. Make the pool before any thread is \
         started, or start it another way"
    )]
    Threads(usize),
    /// No segment.
    #[error(transparent)]
    Segment(#[from] SegmentCreateError),
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

impl Builder {
    /// Starts the pool by forking this process, which must have no second thread. Tasks may be closures that capture.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn fork(self, tasks: Tasks) -> Result<Pool, StartError> {
        let threads = std::fs::read_dir("/proc/self/task").map_err(os("count this process's threads"))?.count();
        if threads > 1 {
            return Err(StartError::Threads(threads));
        }
        let workers = self.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let options = Options::with_queues(["default"]);
        let queues = options.queues.len();
        let (participants, max_workers) = room_for(workers, self.max_workers);
        let segment = Arc::new(Segment::create_with(Geometry::new(participants, queues), &options)?);
        let admit = |pid| segment.table().admit(pid, 0)?.ok_or(StartError::Segment(SegmentCreateError::Geometry));
        let coordinator = admit(0)?;
        let me = admit(std::process::id())?;
        let bell = make_bell().map_err(|e| match e {
            PoolError::Os { step, source } => os(step)(source),
            _ => unreachable!("it only asks the kernel"),
        })?;
        let (ours, theirs) = orders::pair().map_err(os("make a socket pair"))?;
        let seat = CoordinatorsSeat {
            segment: &segment,
            name: coordinator,
            owner: me,
            workers,
            max_workers,
            limits: &self.limits,
            grace: self.grace,
        };
        let keep = [segment.as_fd(), bell.as_fd(), theirs.as_fd()];
        let owner = getpid();
        let child = fork_apart(&keep, || seat.serve(owner, &bell, &theirs, &tasks, queues))
            .map_err(os("fork the coordinator"))?;
        drop(theirs);
        segment.keep_from_children().map_err(os("keep children away from the segment"))?;
        let endpoint = Endpoint::new(segment.clone(), me).with_bell(Bell::new(bell.as_raw_fd()));
        let client = Arc::new(Client::new(Arc::new(endpoint)));
        let pidfd = pidfd_open(child).map_err(os("watch the coordinator"))?;
        let control = Arc::new(Control::new(ours, child.as_raw() as u32));
        let crew = Crew::watch(&client, pidfd, control, bell).map_err(os("start a thread"))?;
        Ok(Pool { client, crew })
    }
}

/// How many participants a segment needs for so many workers, and how many workers it then has room for.
fn room_for(workers: usize, at_most: Option<usize>) -> (usize, usize) {
    let participants = participants_for(at_most.unwrap_or(2 * workers).max(workers) + 1);
    let max_workers = at_most.unwrap_or(processes_for(participants) - 1);
    (participants, max_workers.max(workers))
}

/// The coordinator's process, as the caller has it.
#[derive(Debug)]
pub(crate) struct Crew {
    control: Arc<Control>,
    watcher: Option<JoinHandle<Result<Shutdown, String>>>,
    /// Whoever submits rings it, by its number.
    _bell: EventFd,
}

impl Crew {
    fn watch(client: &Arc<Client>, pidfd: OwnedFd, control: Arc<Control>, bell: EventFd) -> std::io::Result<Crew> {
        let (client, watched) = (client.clone(), control.clone());
        let watcher = std::thread::Builder::new().name("pool-watch".into()).spawn(move || {
            // Signals are for the threads of the program.
            let _ = SigSet::all().thread_block();
            watched.watch(&client, &pidfd)
        })?;
        Ok(Crew { control, watcher: Some(watcher), _bell: bell })
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

struct CoordinatorsSeat<'a> {
    segment: &'a Arc<Segment>,
    name: Name,
    owner: Name,
    workers: usize,
    max_workers: usize,
    limits: &'a WorkerLimits,
    grace: Duration,
}

impl CoordinatorsSeat<'_> {
    /// The life of the coordinator's process, from the fork on; its exit code.
    fn serve(&self, owner: nix::unistd::Pid, bell: &EventFd, connection: &OwnedFd, tasks: &Tasks, queues: usize) -> u8 {
        match self.run(owner, bell, connection, tasks, queues) {
            Ok(Ok(())) => 0,
            // It has said so itself.
            Ok(Err(_)) => 1,
            Err(e) => {
                let _ = orders::say(connection.as_fd(), &News::Failed(e.to_string()), MsgFlags::empty());
                1
            }
        }
    }

    fn run(
        &self,
        owner: nix::unistd::Pid,
        bell: &EventFd,
        connection: &OwnedFd,
        tasks: &Tasks,
        queues: usize,
    ) -> Result<Result<(), PoolError>, PoolError> {
        let os = |step| move |source| PoolError::Os { step, source };
        let pidfd = pidfd_open(owner).map_err(os("watch the pool's owner"))?;
        if getppid() != owner {
            return Ok(Ok(())); // it died before we could look after its pool
        }
        let copy = |fd: std::os::fd::BorrowedFd<'_>| {
            fd.try_clone_to_owned().map_err(|e| os("copy a descriptor")(Errno::from_raw(e.raw_os_error().unwrap_or(0))))
        };
        let owner = Owner { name: self.owner, pidfd, connection: copy(connection.as_fd())? };
        // SAFETY: `bell` is an eventfd, and this is a copy of its descriptor that nobody else has.
        let bell = unsafe { EventFd::from_owned_fd(copy(bell.as_fd())?) };
        // SAFETY: the worker's copy of this process's memory, in which the table lives on until that exits.
        let tasks: &'static Tasks = unsafe { &*std::ptr::from_ref(tasks) };
        let main = Box::new(move |seat| match worker::work(&seat, tasks, queues) {
            Ok(()) => 0,
            Err(e) => {
                eprintln!("{e}");
                1
            }
        });
        let spec = Spec { name: "worker", role: Role::Worker, count: self.workers, main };
        let mut observer = |event: Event<'_>| match event {
            Event::Output { is_error: false, line, .. } => println!("{line}"),
            Event::Output { is_error: true, line, .. } => eprintln!("{line}"),
            Event::Replaced { label, pid, why } => tracing::debug!("{label} (pid {pid}) has left: {why}"),
            Event::Died { label, pid, exit, .. } => tracing::warn!("{label} (pid {pid}) ended with {exit}"),
            _ => {}
        };
        let pool = Coordinator::over(self.segment.clone(), self.name, bell, vec![spec], self.grace, &mut observer)?;
        Ok(pool.limited(self.limits.clone()).owned_by(owner, self.max_workers)?.run(None).map(drop))
    }
}
