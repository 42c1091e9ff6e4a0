//! The coordinator: makes the segment, forks the rest, sleeps in `poll`, and settles what the dead leave.

use super::{
    Mode, READY,
    attach::{Departed, Door},
    clock::Clock,
    exit::Exit,
    names::NameError,
    output::{Lines, as_last_word},
    signal,
    spawn::{Child, Spawned, spawn, state},
};
use crate::{
    error::Corrupted,
    exec::endpoint::Endpoint,
    lockfree::{
        audit::Audit,
        participant::{Name, Participant},
        recovery::{Death, Settled},
        table::{Cursors, Table, TaskId},
    },
    mem::{
        layout::Geometry,
        segment::{Options, Segment, SegmentCreateError},
    },
    sync::{Acquire, Bell, Relaxed, Release, monotonic},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        prctl::{set_child_subreaper, set_name},
        signal::Signal,
        signalfd::SignalFd,
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::{Pid, getpid},
};
use std::{
    collections::VecDeque,
    ffi::CString,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

/// Deaths in a row, each before the process had done anything useful, after which a label is a crash loop.
const CRASH_LOOP: u32 = 5;
/// A process that has lived for so long was no failure at start.
const SETTLED_AFTER: Duration = Duration::from_secs(10);
/// Ended processes that are remembered for the report.
const REMEMBERED: usize = 1000;
/// How long a killed process has to die before it is looked at what keeps it.
const STUCK_AFTER: Duration = Duration::from_secs(1);
/// How long memory has to be unused before the kernel has it back: so long, or twice.
const UNUSED: Duration = Duration::from_secs(30);
/// The first back-off before a failed process is started again; it doubles with each failure in a row.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// What a process does for the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// Submits tasks from outside; started first, drained first.
    Client,
    /// Claims tasks.
    Worker,
}

/// What a forked process is given.
pub(crate) struct Seat {
    pub(crate) endpoint: &'static Endpoint,
    bell: std::os::fd::RawFd,
}

impl Seat {
    /// A client says that it is ready to serve.
    pub(crate) fn ready(&self) {
        let table = self.endpoint.segment().table();
        // Release, for the Acquire in `clients_ready`: what it has set up for the workers comes before them. The bell
        // rouses.
        table.participants[self.endpoint.name().id() as usize].status.store(READY, Release);
        // SAFETY: `spawn` keeps the bell open in a child, which never closes it.
        let bell = unsafe { BorrowedFd::borrow_raw(self.bell) };
        // A full counter rings as well.
        let _ = nix::unistd::write(bell, &1u64.to_ne_bytes());
    }
}

/// A kind of process: how often it runs, and what it runs.
pub(crate) struct Spec {
    /// Its label is `name`, or `name:i` where there may be several.
    pub(crate) name: &'static str,
    pub(crate) role: Role,
    pub(crate) count: usize,
    /// Runs in the child; returns its exit code.
    pub(crate) main: Box<dyn Fn(Seat) -> u8>,
}

/// What happens in a pool, as it happens.
#[derive(Debug)]
#[non_exhaustive]
pub(crate) enum Event<'a> {
    /// All clients are ready; workers follow.
    ClientsReady,
    /// A process is about to be forked.
    Starting { label: &'a str },
    /// All are forked.
    Started,
    /// A line of a child's output.
    Output { label: &'a str, is_error: bool, line: &'a str },
    /// A process ended that was not asked to.
    Died { label: &'a str, pid: i32, exit: Exit, settled: Settled, restart_in: Option<Duration> },
    /// A process that had attached has gone; not in order: it died.
    Left { pid: i32, was_orderly: bool, settled: Settled },
    /// After the death of `who` was settled an invariant of the segment is broken.
    Unsound { who: &'a str, audit: &'a Audit },
    /// A signal, or the end of a grace, begins or hastens the end.
    Mode { mode: Mode },
    /// A worker is told to exit.
    ShuttingDown { label: &'a str },
    /// What did not exit in time, or was not to live any longer, is killed.
    Killing { label: &'a str },
    /// A process runs a task for longer than that may take, or has been silent over it: it is killed.
    OutOfTime { label: &'a str, pid: i32, task: TaskId },
    /// A killed process does not die, in this state (`proc_pid_stat(5)`), and keeps its tasks.
    Stuck { label: &'a str, pid: i32, state: char },
}

/// One process that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) label: String,
    pub(crate) pid: i32,
    pub(crate) exit: Exit,
    pub(crate) finished: u64,
}

/// How a pool ended.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) ended: Vec<Ended>,
    pub(crate) audit: Audit,
    /// How many did not end in time, and were killed for it.
    pub(crate) killed: usize,
    /// How many that had attached are still there: what is in use is theirs.
    pub(crate) attached: usize,
    /// After how many deaths an invariant was broken.
    pub(crate) unsound: usize,
}

/// Why a pool ended though nobody asked it to, or never began.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PoolError {
    #[error(transparent)]
    Segment(#[from] SegmentCreateError),
    #[error(transparent)]
    Corrupted(#[from] Corrupted),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("cannot {step}: {source}")]
    Os { step: &'static str, source: Errno },
    /// A client gave up before it was ready; `why` is its last word.
    #[error("{why}")]
    ClientGaveUp { why: String, exit: Exit },
    /// The process beside the pool has ended though nobody stopped it.
    #[error("the dev server ended unexpectedly; its state is lost unless it had a database file")]
    CompanionDied,
    #[error(
        "{label} died {times} times in a row before it had done anything (last: {exit}); its output above says why, \
         and what it leaves to do stays where it came from"
    )]
    CrashLoop { label: String, times: u32, exit: Exit },
}

/// A process beside the pool that is watched with it, and stopped by its owner after it.
pub(crate) trait Companion {
    /// Readable once it has ended.
    fn fd(&self) -> BorrowedFd<'_>;
    fn pid(&self) -> Pid;
}

struct Worker {
    label: String,
    spec: usize,
    life: Life,
    restarts: u32,
    /// Deaths in a row that count as failures.
    failures: u32,
    last_word: Option<String>,
}

/// Standard output or error of a child; `None` once it has closed it.
struct Output {
    lines: Option<Lines>,
    is_error: bool,
}

/// A process was killed for a deadline.
struct Sentence {
    at: Instant,
    /// Over these.
    late: Vec<TaskId>,
    was_reported: bool,
}

enum Life {
    /// To be forked at this time.
    Due(Instant),
    Running {
        child: Child,
        name: Name,
        since: Instant,
        output: [Output; 2],
        sentence: Option<Sentence>,
    },
    Over,
}

/// The process whose pool it is, where that is not the coordinator's own: it submits the tasks.
pub(crate) struct Owner {
    pub(crate) name: Name,
    pub(crate) pidfd: OwnedFd,
    /// Closed by the owner, or readable: it has no more to submit.
    pub(crate) connection: OwnedFd,
}

/// Participants for so many processes: with room for a second life of each, since an id is given again only when no word names
/// it any more.
pub(crate) const fn participants_for(processes: usize) -> usize {
    (2 * processes + 2).next_multiple_of(64)
}

/// What rouses a coordinator from its sleep.
pub(crate) fn make_bell() -> Result<EventFd, PoolError> {
    EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map_err(|source| PoolError::Os { step: "make an eventfd", source })
}

/// A pool's coordinator, in the process that is to be it.
pub(crate) struct Coordinator<'o> {
    segment: Arc<Segment>,
    me: Name,
    cursors: Cursors,
    specs: Vec<Spec>,
    workers: Vec<Worker>,
    bell: EventFd,
    signals: SignalFd,
    mode: Mode,
    clock: Clock,
    /// A death was settled since the last look at the times.
    has_settled: bool,
    /// When to give unused memory back.
    give_back_at: Option<Instant>,
    /// When the mode is raised without a further signal.
    hurry: Option<Instant>,
    grace: Duration,
    ended: VecDeque<Ended>,
    /// How many were killed because they did not end in time. From the first on, deaths are what was asked for.
    killed: usize,
    unsound: usize,
    door: Option<Door>,
    /// Who has attached and was killed, over which tasks.
    late_guests: Vec<(Name, TaskId)>,
    owner: Option<Owner>,
    observer: &'o mut dyn FnMut(Event<'_>),
}

impl<'o> Coordinator<'o> {
    /// Makes the segment, whose queues are those that have a name. This process must have one thread, and keep to that.
    pub(crate) fn new(
        options: &Options,
        specs: Vec<Spec>,
        grace: Duration,
        observer: &'o mut dyn FnMut(Event<'_>),
    ) -> Result<Self, PoolError> {
        let processes: usize = specs.iter().map(|s| s.count).sum();
        let geometry = Geometry::new(participants_for(processes), options.queues.len());
        let segment = Arc::new(Segment::create_with(geometry, options)?);
        let me = segment.table().admit(std::process::id(), 0)?.ok_or(SegmentCreateError::Geometry)?;
        let bell = make_bell()?;
        Coordinator::over(segment, me, bell, specs, grace, observer)
    }

    /// The coordinator of a segment that is made already, in which it is `me`. This process must have one thread, and keep to
    /// that.
    pub(crate) fn over(
        segment: Arc<Segment>,
        me: Name,
        bell: EventFd,
        specs: Vec<Spec>,
        grace: Duration,
        observer: &'o mut dyn FnMut(Event<'_>),
    ) -> Result<Self, PoolError> {
        let os = |step| move |source| PoolError::Os { step, source };
        let processes: usize = specs.iter().map(|s| s.count).sum();
        raise_file_limit(16 + 3 * processes as u64).map_err(os("raise the limit of open files"))?;
        set_child_subreaper(true).map_err(os("become a subreaper"))?;
        let cursors = Cursors::new(segment.table());
        let now = Instant::now();
        let workers = specs
            .iter()
            .enumerate()
            .flat_map(|(spec, s)| {
                (0..s.count).map(move |i| Worker {
                    label: if s.role == Role::Client { s.name.into() } else { format!("{}:{i}", s.name) },
                    spec,
                    life: Life::Due(now),
                    restarts: 0,
                    failures: 0,
                    last_word: None,
                })
            })
            .collect();
        let signals = signal::take_over().map_err(os("take signals over"))?;
        Ok(Coordinator {
            segment,
            me,
            cursors,
            specs,
            workers,
            bell,
            signals,
            mode: Mode::Running,
            clock: Clock::new(),
            has_settled: false,
            give_back_at: None,
            hurry: None,
            grace,
            ended: VecDeque::new(),
            killed: 0,
            unsound: 0,
            door: None,
            late_guests: Vec::new(),
            owner: None,
            observer,
        })
    }

    /// The pool is this process's: it ends with it.
    pub(crate) fn owned_by(mut self, owner: Owner) -> Self {
        self.owner = Some(owner);
        self
    }

    /// Lets other processes attach under a name; without one, under this process's id, if that can be had.
    ///
    /// # Errors
    /// [`NameError`].
    pub(crate) fn listen(mut self, name: Option<&str>) -> Result<Self, PoolError> {
        // Two descriptors for each.
        let guests = 2 * self.table().participants.len() as u64;
        raise_file_limit(80 + 3 * self.workers.len() as u64 + guests)
            .map_err(|source| PoolError::Os { step: "raise the limit of open files", source })?;
        self.door = match name {
            Some(name) => Some(Door::open(name)?),
            None => Door::open(&std::process::id().to_string())
                .inspect_err(|e| tracing::warn!("nobody can attach to this pool, or inspect it: {e}"))
                .ok(),
        };
        Ok(self)
    }

    fn table(&self) -> &Table<'_> {
        self.segment.table()
    }

    /// Runs the pool to its end.
    ///
    /// # Errors
    /// [`PoolError`]. All children are gone in any case.
    pub(crate) fn run(mut self, companion: Option<&dyn Companion>) -> Result<Summary, PoolError> {
        let result = self.serve(companion);
        if result.is_err() {
            self.kill_all();
        }
        result?;
        let attached = self.door.as_ref().map_or(0, Door::guests);
        Ok(Summary {
            audit: self.table().audit(),
            ended: self.ended.into(),
            killed: self.killed,
            attached,
            unsound: self.unsound,
        })
    }

    fn serve(&mut self, companion: Option<&dyn Companion>) -> Result<(), PoolError> {
        let mut announced = false;
        let mut is_news = true;
        loop {
            self.keep_time(is_news)?;
            let clients_ready = self.clients_ready();
            self.fork_due(clients_ready)?;
            if !announced && clients_ready && self.mode == Mode::Running {
                announced = true;
                (self.observer)(Event::Started);
            }
            if self.mode >= Mode::Draining && self.killed == 0 && !self.any(|s| s.role == Role::Client) {
                self.set_mode(Mode::Stopping);
            }
            if self.workers.iter().all(|w| matches!(w.life, Life::Over)) {
                return Ok(());
            }
            is_news = self.wait(companion)?;
            self.reap(companion)?;
            self.attend()?;
            if self.hurry.is_some_and(|at| at <= Instant::now()) {
                self.hasten();
            }
        }
    }

    /// Does what is due, kills who has run out of time, and says who does not die of it.
    fn keep_time(&mut self, is_news: bool) -> Result<(), PoolError> {
        let is_news = is_news | std::mem::take(&mut self.has_settled);
        let late = self.clock.turn(self.segment.table(), &self.cursors, is_news)?;
        if self.give_back_at.is_some_and(|at| at <= Instant::now()) {
            let is_more = self.segment.give_back(self.me);
            // The blocks were ours for a moment.
            self.segment.table().wake_for_room();
            self.give_back_at = is_more.then(|| Instant::now() + UNUSED);
        } else if is_news && self.give_back_at.is_none() && self.segment.has_grown() {
            self.give_back_at = Some(Instant::now() + UNUSED);
        }
        for w in &mut self.workers {
            let Life::Running { child, name, sentence, .. } = &mut w.life else { continue };
            let (label, pid) = (w.label.as_str(), child.pid.as_raw());
            match sentence {
                None => {
                    let late: Vec<_> = late.iter().filter(|(who, _)| who == name).map(|(_, task)| *task).collect();
                    if let Some(task) = late.first() {
                        (self.observer)(Event::OutOfTime { label, pid, task: *task });
                        // It may have ended by itself; then `reap` finds it.
                        let _ = child.signal(Signal::SIGKILL);
                        *sentence = Some(Sentence { at: Instant::now(), late, was_reported: false });
                    }
                }
                Some(s) if !s.was_reported && s.at.elapsed() >= STUCK_AFTER => {
                    s.was_reported = true;
                    if let Some(state) = state(child.pid) {
                        (self.observer)(Event::Stuck { label, pid, state });
                    }
                }
                Some(_) => {}
            }
        }
        let mut killed = Vec::new();
        for &(name, task) in &late {
            if let Some(pid) = self.door.as_mut().and_then(|door| door.kill(name)) {
                (self.observer)(Event::OutOfTime { label: "attached", pid, task });
                killed.push(name);
            }
        }
        self.late_guests.extend(late.into_iter().filter(|(name, _)| killed.contains(name)));
        Ok(())
    }

    /// Is a process of such a kind running, or to be started?
    fn any(&self, kind: impl Fn(&Spec) -> bool) -> bool {
        self.workers.iter().any(|w| kind(&self.specs[w.spec]) && !matches!(w.life, Life::Over))
    }

    /// Has every client been ready once?
    fn clients_ready(&self) -> bool {
        self.workers.iter().filter(|w| self.specs[w.spec].role == Role::Client).all(|w| {
            w.restarts > 0
                || matches!(&w.life, Life::Running { name, .. }
                    if self.table().participants[name.id() as usize].status.load(Acquire) == READY)
        })
    }

    fn fork_due(&mut self, clients_ready: bool) -> Result<(), PoolError> {
        let now = Instant::now();
        let mut first = true;
        for i in 0..self.workers.len() {
            let worker = &self.workers[i];
            let role = self.specs[worker.spec].role;
            if !matches!(worker.life, Life::Due(at) if at <= now) || role == Role::Worker && !clients_ready {
                continue;
            }
            if role == Role::Worker && worker.restarts == 0 && std::mem::take(&mut first) {
                (self.observer)(Event::ClientsReady);
            }
            self.fork(i)?;
        }
        Ok(())
    }

    fn fork(&mut self, i: usize) -> Result<(), PoolError> {
        let Some(name) = self.table().admit(0, i as u32)? else {
            // Every id is still named by a task that somebody holds: look again when that has changed.
            self.workers[i].life = Life::Due(Instant::now() + FIRST_BACKOFF);
            return Ok(());
        };
        let worker = &self.workers[i];
        if self.specs[worker.spec].role == Role::Worker {
            (self.observer)(Event::Starting { label: &worker.label });
        }
        let bell = std::os::fd::AsRawFd::as_raw_fd(&self.bell.as_fd());
        let Spawned { child, stdout, stderr } = spawn(&[self.bell.as_fd(), self.segment.as_fd()], || {
            name_process(&self.workers[i].label);
            let endpoint = Endpoint::new(self.segment.clone(), name).with_bell(Bell::new(bell));
            let endpoint = Box::leak(Box::new(endpoint));
            if self.segment.keep_from_children().is_err() {
                return 101;
            }
            (self.specs[self.workers[i].spec].main)(Seat { endpoint, bell })
        })
        .map_err(|source| PoolError::Os { step: "fork a process", source })?;
        // Relaxed: for people; the child may run by now.
        self.table().participants[name.id() as usize].pid.store(child.pid.as_raw() as u32, Relaxed);
        let worker = &mut self.workers[i];
        worker.last_word = None;
        worker.life = Life::Running {
            child,
            name,
            since: Instant::now(),
            output: [(stdout, false), (stderr, true)]
                .map(|(pipe, is_error)| Output { lines: Some(Lines::new(pipe)), is_error }),
            sentence: None,
        };
        Ok(())
    }

    /// Sleeps until something happens, and deals with signals and output.
    ///
    /// True: the bell rang.
    fn wait(&mut self, companion: Option<&dyn Companion>) -> Result<bool, PoolError> {
        let deadline = self
            .workers
            .iter()
            .filter_map(|w| match w.life {
                Life::Due(at) if self.specs[w.spec].role == Role::Client || self.clients_ready() => Some(at),
                Life::Running { sentence: Some(Sentence { at, was_reported: false, .. }), .. } => {
                    Some(at + STUCK_AFTER)
                }
                _ => None,
            })
            .chain(self.hurry)
            .chain(self.door.as_ref().and_then(Door::deadline))
            .chain(self.give_back_at)
            .min();
        // Rounded up, or the last millisecond would be spent spinning.
        let timeout = match self.clock.sleep(self.segment.table(), deadline) {
            Some(left) => PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        let mut fds = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.bell.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(c) = companion {
            fds.push(PollFd::new(c.fd(), PollFlags::POLLIN));
        }
        for w in &self.workers {
            if let Life::Running { child, output, .. } = &w.life {
                let pipes = output.iter().filter_map(|o| o.lines.as_ref()).map(Lines::as_fd);
                fds.extend(pipes.chain([child.as_fd()]).map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            }
        }
        let door = self.door.iter().flat_map(Door::fds);
        fds.extend(door.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let owner = self.owner.iter().flat_map(|o| [&o.pidfd, &o.connection]);
        fds.extend(owner.map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(source) => return Err(PoolError::Os { step: "wait for the workers", source }),
        }
        let companion_died = companion.is_some() && fds[2].any().unwrap_or(false);
        let news_of_owner =
            self.owner.is_some().then(|| fds[fds.len() - 2..].iter().map(|fd| fd.any().unwrap_or(false)));
        let news_of_owner = news_of_owner.map(|mut news| [news.next(), news.next()].map(Option::unwrap_or_default));
        drop(fds);
        self.clock.has_slept(self.segment.table());
        let has_rung = self.bell.read().is_ok();
        self.pump();
        match news_of_owner {
            Some([true, _]) => self.bury_owner()?,
            Some([_, true]) => self.set_mode(Mode::Stopping),
            _ => {}
        }
        if companion_died {
            return Err(PoolError::CompanionDied);
        }
        while let Ok(Some(info)) = self.signals.read_signal() {
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP) => self.hasten(),
                Ok(Signal::SIGTSTP) => self.suspend(),
                _ => {} // SIGCHLD: `reap` follows; SIGCONT: `suspend` has seen to it, or somebody else stopped us
            }
        }
        Ok(has_rung)
    }

    fn pump(&mut self) {
        for w in &mut self.workers {
            if let Life::Running { output, .. } = &mut w.life {
                for Output { lines, is_error } in output {
                    let is_open = lines.as_mut().is_none_or(|lines| {
                        lines.pump(|line| match as_last_word(line) {
                            Some(why) => w.last_word = Some(why.to_owned()),
                            None => (self.observer)(Event::Output { label: &w.label, is_error: *is_error, line }),
                        })
                    });
                    if !is_open {
                        *lines = None;
                    }
                }
            }
        }
    }

    fn reap(&mut self, companion: Option<&dyn Companion>) -> Result<(), PoolError> {
        for i in 0..self.workers.len() {
            if let Life::Running { child, .. } = &self.workers[i].life
                && let Some(exit) = child.try_reap()
            {
                self.bury(i, exit)?;
            }
        }
        // As a subreaper we inherit what dead workers left behind elsewhere; the companion is for its owner to reap.
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        while let Ok(status) = waitid(Id::All, peek) {
            let stranger = |pid: &Pid| {
                companion.is_none_or(|c| c.pid() != *pid)
                    && !self.workers.iter().any(|w| matches!(&w.life, Life::Running { child, .. } if child.pid == *pid))
            };
            match status {
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) if stranger(&pid) => {
                    let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG);
                }
                _ => break,
            }
        }
        Ok(())
    }

    /// A process is gone: what it owned is settled, and what comes next is decided.
    fn bury(&mut self, i: usize, exit: Exit) -> Result<(), PoolError> {
        self.pump();
        let worker = &mut self.workers[i];
        let Life::Running { child, name, since, output, sentence } = std::mem::replace(&mut worker.life, Life::Over)
        else {
            return Ok(());
        };
        for Output { lines, is_error } in output {
            if let Some(mut lines) = lines {
                lines.finish(|line| (self.observer)(Event::Output { label: &worker.label, is_error, line }));
            }
        }
        let pid = child.pid.as_raw();
        let record = &self.segment.table().participants[name.id() as usize];
        let finished = record.finished.load(Relaxed); // it is dead: this is the last value
        let was_ready = record.status.load(Acquire) == READY;
        let late = match &sentence {
            Some(sentence) if exit == Exit::Signal(Signal::SIGKILL as u8) => &sentence.late[..],
            _ => &[], // it was faster
        };
        let death = Death { exit: exit.pack(), peak_kib: 0, late };
        let settled = self.segment.table().recover(&self.cursors, self.me, name, death)?;
        self.has_settled = true;
        // Release: a client that sees the count sees what the recovery settled. The sweep's wake may have come before.
        self.segment.header().control.deaths.fetch_add(1, Release);
        self.wake_all();
        let label = self.workers[i].label.clone();
        self.audit_after(&label);

        let worker = &mut self.workers[i];
        self.ended.push_back(Ended { label: worker.label.clone(), pid, exit, finished });
        if self.ended.len() > REMEMBERED {
            self.ended.pop_front();
        }
        let role = self.specs[worker.spec].role;
        let asked = match role {
            _ if self.killed > 0 => true,
            Role::Client => self.mode >= Mode::Draining && exit == Exit::Code(0),
            Role::Worker => self.mode == Mode::Stopping,
        };
        if asked {
            return Ok(());
        }
        // A client that dies while it drains is not started again: what it leaves stays where it came from.
        let over = role == Role::Client && self.mode >= Mode::Draining;
        if role == Role::Client && worker.restarts == 0 && !was_ready && self.mode == Mode::Running {
            let why = worker
                .last_word
                .take()
                .unwrap_or_else(|| format!("{} ended with {exit} before it was ready", worker.label));
            return Err(PoolError::ClientGaveUp { why, exit });
        }
        // Who was killed over a task had begun to work.
        let useful = finished > 0 || sentence.is_some() || since.elapsed() >= SETTLED_AFTER;
        worker.failures = if useful { 0 } else { worker.failures + 1 };
        worker.restarts += 1;
        let restart_in = match worker.failures {
            0 | 1 => Duration::ZERO,
            n => FIRST_BACKOFF * 2u32.pow(n.min(CRASH_LOOP) - 2),
        };
        let restart_in = (!over && worker.failures < CRASH_LOOP).then_some(restart_in);
        (self.observer)(Event::Died { label: &worker.label, pid, exit, settled, restart_in });
        if let Some(line) = worker.last_word.take() {
            (self.observer)(Event::Output { label: &worker.label, is_error: true, line: &line });
        }
        match restart_in {
            Some(pause) => worker.life = Life::Due(Instant::now() + pause),
            None if over => {}
            None => return Err(PoolError::CrashLoop { label: worker.label.clone(), times: worker.failures, exit }),
        }
        Ok(())
    }

    /// The owner has died: nobody wants anything any more.
    fn bury_owner(&mut self) -> Result<(), PoolError> {
        let Some(owner) = self.owner.take() else { return Ok(()) };
        self.segment.table().recover(&self.cursors, self.me, owner.name, Death::of(Exit::Unknown.pack()))?;
        self.has_settled = true;
        self.set_mode(Mode::Stopping);
        Ok(())
    }

    /// A death is when a broken invariant is most likely, and rare enough to look for one.
    fn audit_after(&mut self, who: &str) {
        let audit = self.table().audit_live();
        if !audit.violations.is_empty() {
            self.unsound += 1;
            (self.observer)(Event::Unsound { who, audit: &audit });
        }
    }

    /// Sees to those who attach: settles what the departed leave, then lets others in.
    fn attend(&mut self) -> Result<(), PoolError> {
        let Some(door) = &mut self.door else { return Ok(()) };
        let mut news = door.look();
        for Departed { guest, was_orderly } in std::mem::take(&mut news.departed) {
            let exit = if was_orderly { Exit::Code(0) } else { Exit::Unknown };
            let (late, others) =
                std::mem::take(&mut self.late_guests).into_iter().partition(|(who, _)| *who == guest.name);
            self.late_guests = others;
            let late: Vec<_> = Vec::into_iter(late).map(|(_, task)| task).collect();
            let death = Death { exit: exit.pack(), peak_kib: 0, late: &late };
            let settled = self.segment.table().recover(&self.cursors, self.me, guest.name, death)?;
            self.has_settled = true;
            self.segment.header().control.deaths.fetch_add(1, Release); // as in `bury`
            self.wake_all();
            (self.observer)(Event::Left { pid: guest.pid, was_orderly, settled });
            self.audit_after("attached");
        }
        if let Some(door) = &mut self.door {
            door.answer(news, &self.segment, self.bell.as_fd())?;
        }
        Ok(())
    }

    // ---- the end ----------------------------------------------------------------------------------------------------

    /// One step nearer to the end.
    fn hasten(&mut self) {
        match self.mode {
            Mode::Running if !self.any(|s| s.role == Role::Client) => self.set_mode(Mode::Stopping),
            Mode::Running => self.set_mode(Mode::Draining),
            Mode::Draining => self.set_mode(Mode::Cancelling),
            Mode::Cancelling | Mode::Stopping => self.kill_running(),
        }
    }

    fn set_mode(&mut self, mode: Mode) {
        if self.mode >= mode {
            return;
        }
        self.mode = mode;
        self.hurry = Some(Instant::now() + self.grace);
        (self.observer)(Event::Mode { mode });
        // Release for those who look by themselves; who sleeps has it by the wake below.
        self.segment.header().control.mode.store(mode as u32, Release);
        for w in &mut self.workers {
            let role = self.specs[w.spec].role;
            if matches!(w.life, Life::Due(_)) && (role == Role::Client || mode == Mode::Stopping) {
                w.life = Life::Over;
            }
            if mode == Mode::Stopping && matches!(w.life, Life::Running { .. }) && role == Role::Worker {
                (self.observer)(Event::ShuttingDown { label: &w.label });
            }
        }
        self.wake_all();
    }

    /// Makes everybody look at the control words. Each is woken whether it sleeps or not: who is about to sleep has set its
    /// word before its last look, so either that look sees the news, or the word has changed and it does not sleep.
    fn wake_all(&self) {
        self.segment.table().participants.iter().for_each(Participant::wake);
    }

    fn kill_running(&mut self) {
        self.hurry = None;
        for w in &mut self.workers {
            match &w.life {
                Life::Running { child, .. } => {
                    (self.observer)(Event::Killing { label: &w.label });
                    let _ = child.signal(Signal::SIGKILL);
                    self.killed += 1;
                }
                Life::Due(_) => w.life = Life::Over,
                Life::Over => {}
            }
        }
    }

    /// After an error: nobody is left behind, however it goes.
    fn kill_all(&mut self) {
        for w in &mut self.workers {
            if let Life::Running { child, .. } = &w.life {
                let _ = child.signal(Signal::SIGKILL);
            }
        }
        for w in &mut self.workers {
            if let Life::Running { child, .. } = &w.life {
                let mut fds = [PollFd::new(child.as_fd(), PollFlags::POLLIN)];
                while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
                child.try_reap();
            }
            w.life = Life::Over;
        }
    }

    /// Ctrl-Z: the terminal stops this process alone, the others have groups of their own; so they are stopped first.
    fn suspend(&self) {
        let all = |s| {
            for w in &self.workers {
                if let Life::Running { child, .. } = &w.life {
                    let _ = child.signal(s);
                }
            }
        };
        all(Signal::SIGSTOP);
        let before = monotonic();
        // Returns when somebody continues us.
        let _ = nix::sys::signal::kill(getpid(), Signal::SIGSTOP);
        self.table().was_stopped(monotonic() - before);
        all(Signal::SIGCONT);
    }
}

/// What `ps` and `top` show. The kernel keeps 15 bytes, so a long label loses its middle and not its number.
fn name_process(label: &str) {
    let name = match label.rsplit_once(':') {
        Some((kind, number)) if label.len() > 15 => format!("{:.*}:{number}", 14 - number.len().min(14), kind),
        _ => label.to_owned(),
    };
    if let Ok(name) = CString::new(name) {
        // A name is for people: nothing depends on it.
        let _ = set_name(&name);
    }
}

/// Three descriptors a child are more than the usual soft limit of 1,024 allows for many workers.
fn raise_file_limit(wanted: u64) -> nix::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= wanted { Ok(()) } else { setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard) }
}
