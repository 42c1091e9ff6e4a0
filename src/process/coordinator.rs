//! The coordinator: makes the segment, forks the rest, sleeps in `poll`, and settles what the dead leave.

use super::{
    ABSENT, Mode, READY, UNFIT,
    attach::{Departed, Door, GUEST, Refusal, answer_resize},
    clock::Clock,
    exit::{Exit, OVERDUE},
    handover::{Handover, OutputState, Sitter, SitterState, Succession, Upgrade, keep_open, number},
    limits::{Leave, Stay, WorkerLimits},
    names::NameError,
    orders::{self, Ended, Heard, News, Order, Outbox},
    orphan::{self, Outliving},
    output::{Lines, as_last_word},
    signal,
    spawn::{Child, exit_of_stranger, spawn, spawn_inheriting, state},
};
use crate::{
    error::Corrupted,
    exec::endpoint::{Endpoint, cpus},
    lockfree::{
        audit::Audit,
        descriptor::MS,
        participant::{Ending, Loss, Name, Participant},
        recovery::{Death, GivenUp, Settled},
        table::{Cancel, Cursors, Table, TaskId},
        word::{Member, Phase},
    },
    mem::{
        layout::Geometry,
        segment::{Options, Segment, SegmentCreateError},
    },
    sync::{ANNOUNCED, Acquire, Bell, Relaxed, Release, monotonic},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        prctl::{set_child_subreaper, set_name},
        signal::Signal,
        signalfd::SignalFd,
        socket::MsgFlags,
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::{Pid, getpid},
};
use std::{
    collections::VecDeque,
    ffi::CString,
    fmt,
    os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

/// Deaths in a row, each before the process had done anything useful, after which a label is a crash loop.
const CRASH_LOOP: u32 = 5;
/// The same, where a program could not be executed, which may be about to be replaced: some seconds more.
const ABSENT_FOR_GOOD: u32 = 8;
/// A process that has lived for so long was no failure at start.
const SETTLED_AFTER: Duration = Duration::from_secs(10);
/// Ended processes that are remembered for the report.
const REMEMBERED: usize = 1000;
/// How long a killed process has to die before it is looked at what keeps it.
const STUCK_AFTER: Duration = Duration::from_secs(1);
/// How long memory has to be unused before the kernel has it back: so long, or twice.
const UNUSED: Duration = Duration::from_secs(30);
/// How long the kernel, which did not let a process be forked, is left alone.
const NO_FORK: Duration = Duration::from_secs(1);
/// How long after a death the segment is audited: one audit is for all deaths of that time.
const AUDIT: Duration = Duration::from_millis(10);
/// How long it is waited before it is looked again whether nothing goes on.
const QUIET: Duration = Duration::from_millis(20);
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

/// What a process of the pool is given. Its threads share it.
pub(crate) struct Seat {
    pub(crate) endpoint: &'static Arc<Endpoint>,
    bell: RawFd,
    stay: Stay,
    /// No process of this kind has begun before.
    is_first: bool,
}

impl Seat {
    /// The seat of the participant `name`, in its own process, which may use so many CPUs, for as long as that lives.
    ///
    /// # Errors
    /// The segment can't be kept from children of this process.
    pub(crate) fn take(segment: Arc<Segment>, name: Name, bell: RawFd, cpus: usize) -> std::io::Result<Seat> {
        segment.settle()?;
        let endpoint = Endpoint::on(cpus, segment, name).with_bell(Bell::new(bell));
        let endpoint = super::keep(Arc::new(endpoint));
        Ok(Seat { endpoint, bell, stay: Stay::default(), is_first: false })
    }

    /// That of a worker which is no child of the coordinator's. `bell` stays open for as long as the process lives.
    pub(crate) fn of_guest(endpoint: &'static Arc<Endpoint>, bell: RawFd) -> Seat {
        Seat { endpoint, bell, stay: Stay::default(), is_first: false }
    }

    /// Limits this process, a worker. If that can't be done it says so in its last word.
    ///
    /// # Errors
    /// [`Unfit`]: it must end, and so does the pool.
    pub(crate) fn limited(mut self, limits: &WorkerLimits) -> Result<Seat, Unfit> {
        let stay = limits.apply(self.number() as usize).and_then(|()| Stay::new(limits));
        self.stay = stay.map_err(|why| {
            self.unfit(&why.to_string());
            Unfit
        })?;
        Ok(self)
    }

    /// Has this process, a worker, outlive its coordinator, if that is wanted.
    ///
    /// # Errors
    /// Why it can't be, as a line for people.
    pub(crate) fn outliving(&self, terms: Option<Outliving>) -> Result<(), String> {
        let Some(terms) = terms else { return Ok(()) };
        orphan::outlive(self.endpoint, self.bell, terms).map_err(|e| format!("cannot watch the coordinator: {e}"))
    }

    /// A worker that [is over](Self::is_over) calls this: if its coordinator is dead, and another may come, sleeps until it has come, or
    /// has not in time. False: it is to end.
    pub(crate) fn waits_for_another(&self) -> bool {
        let waits = || {
            Leave::of(self.me().leaves()) == Some(Leave::Orphaned)
                && Mode::of(&self.endpoint.segment().header().control) != Mode::Stopping
        };
        let has_waited = waits();
        while waits() {
            self.endpoint.park(&[], None, || !waits());
        }
        has_waited
    }

    /// Which of the coordinator's processes it is.
    pub(crate) fn number(&self) -> u32 {
        // Relaxed: the coordinator wrote it before it made this process.
        self.me().role.load(Relaxed)
    }

    fn me(&self) -> &Participant {
        &self.endpoint.segment().table().participants[self.endpoint.name().id() as usize]
    }

    /// What rings the coordinator.
    pub(crate) fn bell(&self) -> BorrowedFd<'static> {
        // SAFETY: `spawn` keeps the bell open in a child, which never closes it.
        unsafe { BorrowedFd::borrow_raw(self.bell) }
    }

    /// Says why this process is about to end: that stands in the coordinator's own word of it.
    pub(crate) fn give_up(&self, why: &str) {
        let name = self.endpoint.name();
        if let Some(record) = self.endpoint.segment().record(name.id()) {
            record.give_up(name, why);
        }
    }

    /// Says why neither this process, which is about to end, nor its successor can be what it is to be: the pool ends.
    pub(crate) fn unfit(&self, why: &str) {
        self.give_up(why);
        // Release, though the coordinator looks once the process is dead: as in `ready`.
        self.me().status.store(UNFIT, Release);
    }

    /// Says why this process can't execute its program. If none could before it is unfit. Else the file is being replaced, perhaps, or
    /// there is no memory just now: there is another attempt.
    pub(crate) fn cannot_execute(&self, why: &str) {
        if self.is_first {
            return self.unfit(why);
        }
        self.give_up(why);
        // As in `unfit`.
        self.me().status.store(ABSENT, Release);
    }

    /// Says that this process is ready to serve.
    pub(crate) fn ready(&self) {
        // Release, for the Acquire in `is_ready`: what a client has set up for the workers comes before them. The bell rouses.
        self.me().status.store(READY, Release);
        Bell::new(self.bell).announce();
    }

    /// Is a worker to end now, or as soon as what it runs is finished? It looks before each task, and as a last look before it
    /// sleeps; whoever changes this wakes it.
    pub(crate) fn is_over(&self) -> bool {
        self.me().leaves() != 0 || Mode::of(&self.endpoint.segment().header().control) == Mode::Stopping
    }

    /// A worker calls this after each task that it took from a queue: past its limits it leaves.
    pub(crate) fn after_task(&self) {
        if let Some(why) = self.stay.after_task() {
            self.me().ask_to_leave(why as u32);
        }
    }
}

/// A worker could not be given its limits, and has said why.
#[derive(Debug)]
pub(crate) struct Unfit;

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
    /// All are forked; in a pool with an owner they are ready too.
    Started,
    /// A line of a child's output.
    Output { label: &'a str, is_error: bool, line: &'a str },
    /// A worker of the coordinator before, which has died, goes on with this one; or is asked to leave, since it is none such as this
    /// one would make.
    TakenOn { label: &'a str, pid: i32, stays: bool },
    /// A process ended that was not asked to.
    Died { label: &'a str, pid: i32, exit: Exit, peak_kib: u64, settled: Settled, restart_in: Option<Duration> },
    /// A worker has left in order while the pool goes on. Another takes its place at once, unless the pool has become smaller.
    Replaced { label: &'a str, pid: i32, why: Leave },
    /// A process that had attached has gone; not in order: it died.
    Left { pid: i32, was_orderly: bool, settled: Settled },
    /// After the death of `who`, one or several, was settled an invariant of the segment is broken.
    Unsound { who: &'a str, audit: &'a Audit },
    /// A signal, or the end of a grace, begins or hastens the end.
    Mode { mode: Mode },
    /// A worker is told to exit.
    ShuttingDown { label: &'a str },
    /// What did not exit in time, or was not to live any longer, is killed.
    Killing { label: &'a str },
    /// A process runs a task for longer than that may take, or has been silent over it: it is killed.
    OutOfTime { label: &'a str, pid: i32, task: TaskId },
    /// What fresh processes would be made of has changed, and is good: those that are there are replaced, one after another.
    Renewing,
    /// It is no good: those that are there go on.
    NotRenewed { why: &'a str },
    /// Another program has taken the pool over.
    Upgraded,
    /// It has not, and the pool goes on as it is.
    NotUpgraded { why: &'a str },
    /// A killed process does not die, in this state (`proc_pid_stat(5)`), and keeps its tasks.
    Stuck { label: &'a str, pid: i32, state: char },
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
    /// How often an invariant was found broken after a death, or several.
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
        "{label} died {times} times in a row before it had done anything (last: {exit}{}); its output above says why, \
         and what it leaves to do stays where it came from",
        Said(why)
    )]
    CrashLoop { label: String, times: u32, exit: Exit, why: Option<String> },
    /// A worker can't be given its limits; `why` is its last word.
    #[error("{label} ended before it had begun: {why}")]
    Unfit { label: String, why: String },
    /// An invariant was broken in the pool of an owner; after whose end that was seen first.
    #[error("its shared memory is damaged (seen after the end of {who}): {audit}; please report this")]
    Unsound { who: String, audit: Audit },
}

struct Said<'a>(&'a Option<String>);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |why| write!(f, ": {why}"))
    }
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
    /// The pool has become smaller: there is no next one.
    is_retired: bool,
}

impl Worker {
    fn new(spec: usize, kind: &Spec, number: usize) -> Worker {
        Worker {
            label: if kind.role == Role::Client { kind.name.into() } else { format!("{}:{number}", kind.name) },
            spec,
            life: Life::Due(Instant::now()),
            restarts: 0,
            failures: 0,
            last_word: None,
            is_retired: false,
        }
    }

    fn name(&self) -> Option<Name> {
        if let Life::Running { name, .. } = self.life { Some(name) } else { None }
    }
}

/// Standard output or error of a child; `None` once it has closed it, or if it has this process's.
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
    /// One end of [`orders::pair`].
    pub(crate) connection: OwnedFd,
    pub(crate) pid: Pid,
}

impl Owner {
    /// Is its end of the connection closed? One that has no more to submit has shut it down, and stays.
    fn is_gone(&self) -> bool {
        let mut fds = [PollFd::new(self.connection.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO).is_ok()
            && fds[0].revents().is_some_and(|flags| flags.contains(PollFlags::POLLHUP))
    }

    /// It is dead: has it, as far as the kernel tells, neither ended by itself nor been asked to end?
    fn was_killed(&self) -> bool {
        let asks = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT].map(|signal| signal as u8);
        matches!(exit_of_stranger(self.pid, self.pidfd.as_fd()), Exit::Signal(signal) if !asks.contains(&signal))
    }
}

/// All workers are replaced, one after another.
#[derive(Default)]
struct Roll {
    /// The orders that wait for it.
    ids: Vec<u32>,
    /// Those that follow.
    next: VecDeque<usize>,
    /// Whose turn it is, and who that was before.
    turn: Option<(usize, Name)>,
}

/// A child that finds out whether fresh processes could begin. It is gone when this is dropped.
pub(crate) trait Looking {
    /// What it has found, once it has ended or its time is over.
    fn look(&mut self) -> Option<Result<(), String>>;
    /// One is readable when there is something to look at.
    fn fds(&self) -> Vec<BorrowedFd<'_>>;
    /// When its time is over.
    fn deadline(&self) -> Instant;
    fn pid(&self) -> Pid;
}

/// What begins such a look; or why there can be none.
type Look<'o> = Box<dyn FnMut() -> Result<Box<dyn Looking>, String> + 'o>;

/// How processes of one kind are replaced by fresh ones while the pool runs.
struct Renewal<'o> {
    spec: usize,
    look: Look<'o>,
    /// A look that goes on, and the orders that wait for it.
    looking: Option<(Box<dyn Looking>, Vec<u32>)>,
}

/// What a sleep brought.
struct Roused {
    /// The bell rang.
    has_rung: bool,
    /// There were signals: one may have been of a child's end.
    was_signalled: bool,
    /// Processes that have written something, or ended.
    stirred: Vec<usize>,
}

/// Participants for so many processes: with room for a second life of each, since an id is given again only when no word names
/// it any more.
pub(crate) const fn participants_for(processes: usize) -> usize {
    (2 * processes + 2).next_multiple_of(64)
}

/// How many processes a table of so many participants has room for; the inverse of [`participants_for`].
pub(crate) const fn processes_for(participants: usize) -> usize {
    participants.saturating_sub(2) / 2
}

/// What rouses a coordinator from its sleep.
pub(crate) fn make_bell() -> Result<EventFd, PoolError> {
    EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map_err(|source| PoolError::Os { step: "make an eventfd", source })
}

/// What a coordinator is made over: a segment, in which it is `me`, and what rouses it.
pub(crate) struct Base {
    pub(crate) segment: Arc<Segment>,
    pub(crate) me: Name,
    pub(crate) bell: EventFd,
}

impl Base {
    /// For so many processes beside it. The queues are those that have a name.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(crate) fn make(options: &Options, processes: usize) -> Result<Base, PoolError> {
        let geometry = Geometry::new(participants_for(processes), options.queues.len());
        let segment = Arc::new(Segment::create_with(geometry, options)?);
        let me = segment.table().admit(std::process::id(), 0)?.ok_or(SegmentCreateError::Geometry)?;
        Ok(Base { segment, me, bell: make_bell()? })
    }
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
    cancelled: usize,
    /// Whose deaths were settled since the last audit, and when the next one is due.
    unaudited: Vec<String>,
    audit_at: Option<Instant>,
    unsound: usize,
    first_unsound: Option<(String, Audit)>,
    door: Option<Door>,
    /// Who has attached and was killed, over which tasks.
    late_guests: Vec<(Name, TaskId)>,
    owner: Option<Owner>,
    /// The owner's participant, also once that has died: nobody else gets it from this coordinator.
    owners: Option<Name>,
    /// The owner may still order something.
    is_owner_heard: bool,
    /// It is about to die; if not by then, it has done with the pool.
    owner_ends_by: Option<Instant>,
    outbox: Outbox,
    /// Which kind of process there may be more or fewer of, and the most that there is room for.
    resizable: usize,
    at_most: usize,
    roll: Option<Roll>,
    renewal: Option<Renewal<'o>>,
    /// By whom another program takes over; or why none can.
    succession: Result<Box<dyn Succession + 'o>, &'static str>,
    /// The workers are replaced by those of the program that takes over.
    rolls_after_upgrade: bool,
    upgrade: Option<Upgrade>,
    /// All were ready once.
    is_announced: bool,
    captures_output: bool,
    /// What processes of this kind have beside the segment and the bell.
    handed: Option<(usize, Arc<dyn AsFd>)>,
    /// Its workers outlive it.
    outliving: Option<Outliving>,
    /// Workers that others have forked.
    taken_on: Vec<Name>,
    /// That children may use, as this process: they need not find out.
    cpus: usize,
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
        let base = Base::make(options, specs.iter().map(|s| s.count).sum())?;
        Coordinator::over(base, specs, grace, observer)
    }

    /// Leaves a descriptor open in the processes of this kind.
    #[cfg(all(feature = "metrics", feature = "temporal"))]
    pub(crate) fn handing(self, spec: usize, fd: Arc<dyn AsFd>) -> Self {
        Coordinator { handed: Some((spec, fd)), ..self }
    }

    /// What tasks are called, for who looks at the pool.
    pub(crate) fn naming(self, tasks: &[(u32, &str)]) -> Self {
        if let Some(record) = self.segment.record(self.me.id()) {
            record.name_tasks(tasks.iter().copied());
        }
        self
    }

    /// The coordinator of a segment that is made already. This process must have one thread, and keep to that.
    pub(crate) fn over(
        Base { segment, me, bell }: Base,
        specs: Vec<Spec>,
        grace: Duration,
        observer: &'o mut dyn FnMut(Event<'_>),
    ) -> Result<Self, PoolError> {
        let os = |step| move |source| PoolError::Os { step, source };
        let processes: usize = specs.iter().map(|s| s.count).sum();
        raise_file_limit(16 + 3 * processes as u64).map_err(os("raise the limit of open files"))?;
        set_child_subreaper(true).map_err(os("become a subreaper"))?;
        let cursors = Cursors::new(segment.table());
        let workers = specs
            .iter()
            .enumerate()
            .flat_map(|(spec, kind)| (0..kind.count).map(move |number| Worker::new(spec, kind, number)))
            .collect();
        let signals = signal::take_over().map_err(os("take signals over"))?;
        segment.header().control.has_grace(grace);
        // For people; whoever made the segment may not have known.
        segment.table().participants[usize::from(me.id())].pid.store(std::process::id(), Relaxed);
        if let Some(record) = segment.record(me.id()) {
            record.set_label("coordinator");
        }
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
            cancelled: 0,
            unaudited: Vec::new(),
            audit_at: None,
            unsound: 0,
            first_unsound: None,
            door: None,
            late_guests: Vec::new(),
            owner: None,
            owners: None,
            is_owner_heard: false,
            owner_ends_by: None,
            outbox: Outbox::default(),
            resizable: 0,
            at_most: 0,
            roll: None,
            renewal: None,
            succession: Err(
                "it is none of those that can be, of run, jobs, Builder::forkserver and Builder::exec; start another beside it, and end this one by SIGTERM",
            ),
            rolls_after_upgrade: false,
            upgrade: None,
            is_announced: false,
            captures_output: true,
            handed: None,
            outliving: None,
            taken_on: Vec::new(),
            cpus: cpus(),
            observer,
        })
    }

    /// The pool, which has workers of one kind, is this process's: it ends with it, and hears it and signals say how many workers
    /// there are, up to `at_most`.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(crate) fn owned_by(mut self, owner: Owner, at_most: usize) -> Result<Self, PoolError> {
        (self.owners, self.owner) = (Some(owner.name), Some(owner));
        self.is_owner_heard = true;
        self.resizing(0, at_most)
    }

    /// Signals say how many processes there are of the kind `specs[spec]`, up to `at_most`.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(crate) fn resizing(mut self, spec: usize, at_most: usize) -> Result<Self, PoolError> {
        let os = |step| move |source| PoolError::Os { step, source };
        raise_file_limit(16 + 3 * (self.workers.len() + at_most) as u64)
            .map_err(os("raise the limit of open files"))?;
        signal::take_over_resizing(&mut self.signals).map_err(os("take signals over"))?;
        (self.resizable, self.at_most) = (spec, at_most);
        Ok(self)
    }

    /// Processes of the kind `specs[spec]` can be replaced by fresh ones while the pool runs: SIGHUP does that, if `look` finds that
    /// these could begin.
    pub(crate) fn renewing(mut self, spec: usize, look: impl FnMut() -> Result<Box<dyn Looking>, String> + 'o) -> Self {
        self.renewal = Some(Renewal { spec, look: Box::new(look), looking: None });
        self
    }

    /// Another program can take over as the pool runs: SIGUSR2 has it do that, if it understands what it is given. `Err`: none can,
    /// for this reason.
    pub(crate) fn succeeded_by(self, succession: Result<Box<dyn Succession + 'o>, &'static str>) -> Self {
        Coordinator { succession, ..self }
    }

    /// Workers are replaced, one after another, once another program has taken over.
    pub(crate) fn rolling_after_upgrade(self, is_wanted: bool) -> Self {
        Coordinator { rolls_after_upgrade: is_wanted, ..self }
    }

    /// Goes on with what the program before has left. This process has children of workers already.
    ///
    /// # Errors
    /// A descriptor is not there.
    pub(crate) fn succeeding(mut self, state: &Handover) -> Result<Self, PoolError> {
        let os = |step| move |source| PoolError::Os { step, source };
        self.is_announced = true;
        self.workers.clear();
        let now = Instant::now();
        for Sitter { spec, label, state, restarts, failures, is_retired } in state.workers.clone() {
            let life = match state {
                SitterState::Due { in_ms } => Life::Due(now + Duration::from_millis(in_ms)),
                SitterState::Over => Life::Over,
                SitterState::Running { pid, name, for_ms, output: [stdout, stderr] } => {
                    let (name, read_on) = (Name::of(name), |state: Option<OutputState>, is_error| {
                        let lines = state.as_ref().map(Lines::of).transpose();
                        lines.map(|lines| Output { lines, is_error }).map_err(os("take up a descriptor"))
                    });
                    let output = [read_on(stdout, false)?, read_on(stderr, true)?];
                    let since = now.checked_sub(Duration::from_millis(for_ms)).unwrap_or(now);
                    match self.still(Pid::from_raw(pid), name).map_err(os("watch a worker again"))? {
                        Some(child) => Life::Running { child, name, since, output, sentence: None },
                        None => {
                            let death = Death::of(Exit::Unknown.pack());
                            self.segment.recover(&self.cursors, self.me, name, death)?;
                            if is_retired { Life::Over } else { Life::Due(now) }
                        }
                    }
                }
            };
            self.workers.push(Worker { label, spec, life, restarts, failures, last_word: None, is_retired });
        }
        self.door = state.door.as_ref().map(Door::of).transpose().map_err(os("take up a descriptor"))?;
        self.has_settled = true; // a look at all times, and whoever waits
        self.is_to_be_audited("the program before".to_owned());
        (self.observer)(Event::Upgraded);
        if self.rolls_after_upgrade {
            self.roll_those(None, |_| true);
            self.roll_on(); // who hears of it may count on that nothing new is begun by the first
        }
        self.answer_upgrade("");
        Ok(self)
    }

    /// The process of a worker that lived a moment ago. `None`: that is no child of this one, and has died and was reaped meanwhile.
    fn still(&self, pid: Pid, name: Name) -> nix::Result<Option<Child>> {
        match self.table().participants.get(usize::from(name.id())).and_then(Participant::process) {
            Some((_, began)) => Child::of_anybody(pid, began),
            None => Child::of(pid).map(Some),
        }
    }

    /// Workers outlive this coordinator, which has taken the place of another program in its process.
    pub(crate) fn outlived_by(self, terms: Outliving) -> Self {
        Coordinator { outliving: Some(terms), ..self }
    }

    /// Workers outlive this coordinator, if it dies, and wait for another. It takes on those that have waited for it.
    ///
    /// # Errors
    /// [`PoolError`].
    pub(crate) fn outlived_by_workers(mut self, terms: Outliving) -> Result<Self, PoolError> {
        self.outliving = Some(terms);
        super::step("leads");
        self.take_on(terms)?;
        super::step("taken on");
        orphan::serve(&self.segment).map_err(|e| PoolError::Os { step: "be known to workers", source: errno(&e) })?;
        Ok(self)
    }

    /// A start that fails leaves those whom it has taken on as it has found them: they finish what they run, and wait for the next.
    fn let_go(&mut self) {
        if self.is_announced {
            return;
        }
        for w in &mut self.workers {
            if w.name().is_some_and(|name| self.taken_on.contains(&name)) {
                w.life = Life::Over;
            }
        }
    }

    /// Takes on workers that live, whoever has forked them. Who does not fit is asked to leave, and has no successor.
    fn take_on(&mut self, terms: Outliving) -> Result<(), PoolError> {
        let segment = self.segment.clone();
        let owner = self.owner.as_ref().map(|owner| owner.name);
        for (id, p) in segment.table().participants.iter().enumerate() {
            let Member::Live(n) = p.member(id)? else { continue };
            let name = Name::new(id as u16, n);
            if name == self.me || Some(name) == owner || p.is_seat() {
                continue;
            }
            let found = p.process().map(|(pid, born)| Child::of_anybody(Pid::from_raw(pid as i32), born));
            let found = found.transpose().map_err(|source| PoolError::Os { step: "watch a worker", source })?;
            let Some(child) = found.flatten() else {
                // It has died since the start looked.
                segment.recover(&self.cursors, self.me, name, Death::of(Exit::Unknown.pack()))?;
                self.has_settled = true;
                continue;
            };
            let number = p.role.load(Relaxed) as usize;
            let is_due = |w: &Worker| matches!(w.life, Life::Due(_));
            let stays = p.make.load(Relaxed) == terms.make && self.workers.get(number).is_some_and(is_due);
            let pid = child.pid.as_raw();
            let output = [false, true].map(|is_error| Output { lines: None, is_error });
            let life = Life::Running { child, name, since: Instant::now(), output, sentence: None };
            let worker = match stays {
                true => &mut self.workers[number],
                false => {
                    let mut worker = Worker::new(0, &self.specs[0], number);
                    worker.is_retired = true;
                    self.workers.push(worker);
                    orphan::send_away(p);
                    self.workers.last_mut().unwrap_or_else(|| unreachable!("it was pushed just now"))
                }
            };
            worker.life = life;
            self.taken_on.push(name);
            (self.observer)(Event::TakenOn { label: &worker.label, pid, stays });
        }
        Ok(())
    }

    /// Children write to this process's standard output and error.
    pub(crate) fn inheriting_output(mut self) -> Self {
        self.captures_output = false;
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
        let mut result = self.serve(companion);
        self.audit_live();
        // Who runs a pool of its own reads the summary.
        if let (Ok(()), true, Some((who, audit))) = (&result, self.owner.is_some(), self.first_unsound.take()) {
            result = Err(PoolError::Unsound { who, audit });
        }
        if result.is_err() {
            self.let_go();
            self.kill_all();
        }
        self.say_goodbye(match &result {
            Ok(()) => News::Over { cancelled: self.cancelled as u64, killed: self.killed as u64 },
            Err(why) => News::Failed(why.to_string()),
        });
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
        // Else it would take a millisecond in which workers begin.
        let mut is_news = self.clock.begins(self.segment.table());
        loop {
            let clients_ready = self.clients_ready();
            self.fork_due(clients_ready)?;
            if !self.is_announced && clients_ready && self.mode == Mode::Running && self.workers_ready() {
                self.is_announced = true;
                (self.observer)(Event::Started);
                self.tell(News::Started);
            }
            // After both: a look at all tasks need not keep a worker waiting, nor who waits for the pool.
            self.keep_time(is_news)?;
            if self.audit_at.is_some_and(|at| at <= Instant::now()) {
                self.audit_live();
            }
            if self.mode >= Mode::Draining && self.killed == 0 && !self.has_clients() {
                self.set_mode(Mode::Stopping)?;
            }
            self.roll_on();
            self.upgrade_if_due();
            if self.workers.iter().all(|w| matches!(w.life, Life::Over)) {
                return Ok(());
            }
            let roused = self.wait(companion)?;
            // SIGCHLD comes too when a child that was stopped goes on.
            is_news = roused.has_rung || roused.was_signalled;
            if roused.was_signalled {
                self.clock.look_again();
            }
            self.reap(companion, &roused)?;
            self.see_what_was_found();
            self.attend()?;
            if self.owner_ends_by.is_some_and(|by| by <= Instant::now()) {
                self.owner_ends_by = None;
                self.set_mode(Mode::Stopping)?;
            }
            if self.hurry.is_some_and(|at| at <= Instant::now()) {
                self.hasten()?;
            }
        }
    }

    /// Does what is due, kills who has run out of time, and says who does not die of it.
    fn keep_time(&mut self, is_news: bool) -> Result<(), PoolError> {
        let is_news = is_news | std::mem::take(&mut self.has_settled);
        let (workers, door) = (&self.workers, &self.door);
        let pid_of = |who| {
            let ours = workers.iter().find_map(|w| match &w.life {
                Life::Running { child, name, .. } if *name == who => Some(child.pid),
                _ => None,
            });
            ours.or_else(|| door.as_ref()?.pid_of(who))
        };
        let late = self.clock.turn(self.segment.table(), &self.cursors, is_news, pid_of)?;
        if self.give_back_at.is_some_and(|at| at <= Instant::now()) {
            let is_more = self.segment.give_back(self.me);
            // The blocks were ours for a moment.
            self.segment.table().wake_for_room();
            self.give_back_at = is_more.then(|| Instant::now() + UNUSED);
        } else if is_news && self.give_back_at.is_none() && self.segment.has_grown() {
            self.give_back_at = Some(Instant::now() + UNUSED);
        }
        // What is signalled below was late a while ago, and has come to its end since, perhaps.
        let table = self.segment.table();
        let is_late = |(who, task): &(Name, TaskId)| table.is_claimed_by(*who, *task);
        for w in &mut self.workers {
            let Life::Running { child, name, sentence, .. } = &mut w.life else { continue };
            let (label, pid) = (w.label.as_str(), child.pid.as_raw());
            match sentence {
                None => {
                    let late = late.iter().filter(|late| late.0 == *name && is_late(late));
                    let late: Vec<_> = late.map(|(_, task)| *task).collect();
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
        for &(name, task) in late.iter().filter(|late| is_late(late)) {
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

    /// Is there somebody who submits, and may want to finish that?
    fn has_clients(&self) -> bool {
        self.owner.is_some() || self.any(|s| s.role == Role::Client)
    }

    fn is_ready(&self, name: Name) -> bool {
        self.table().participants[name.id() as usize].status.load(Acquire) == READY
    }

    /// Are all workers ready, where somebody waits for that? Those of a pool without an owner never say so.
    fn workers_ready(&self) -> bool {
        let is_ready = |w: &Worker| w.is_retired || w.name().is_some_and(|name| self.is_ready(name));
        self.owner.is_none() || self.workers.iter().all(is_ready)
    }

    /// Has every client been ready once?
    fn clients_ready(&self) -> bool {
        self.workers
            .iter()
            .filter(|w| self.specs[w.spec].role == Role::Client)
            .all(|w| w.restarts > 0 || w.name().is_some_and(|name| self.is_ready(name)))
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
        if let Some(record) = self.segment.record(name.id()) {
            record.set_label(&worker.label);
        }
        if self.specs[worker.spec].role == Role::Worker {
            (self.observer)(Event::Starting { label: &worker.label });
        }
        let status = |name: Name| self.table().participants[name.id() as usize].status.load(Acquire);
        let has_begun = |w: &Worker| w.restarts > 0 || w.name().is_some_and(|name| status(name) != 0);
        let is_first = !self.workers.iter().any(|w| w.spec == worker.spec && has_begun(w));
        let bell = std::os::fd::AsRawFd::as_raw_fd(&self.bell.as_fd());
        let handed = self.handed.as_ref().filter(|(spec, _)| *spec == self.workers[i].spec).map(|(_, fd)| fd.as_fd());
        let keep: Vec<BorrowedFd<'_>> = [self.bell.as_fd(), self.segment.as_fd()].into_iter().chain(handed).collect();
        // Made here: from the fork on it says that the child lives.
        let file = self.outliving.map(|_| self.segment.open_for_worker(name)).transpose();
        let keep: Vec<_> = keep.into_iter().chain(file.iter().flatten().map(AsFd::as_fd)).collect();
        let main = || {
            name_process(&self.workers[i].label);
            // What leads the pool is not the child's.
            if file.iter().flatten().any(|file| self.segment.reopened_as(file.as_fd()).is_err()) {
                return 101;
            }
            match Seat::take(self.segment.clone(), name, bell, self.cpus) {
                Ok(seat) => (self.specs[self.workers[i].spec].main)(Seat { is_first, ..seat }),
                Err(_) => 101,
            }
        };
        let spawned = match (&file, self.captures_output) {
            (Err(e), _) => Err(errno(e)),
            (Ok(_), true) => spawn(&keep, main).map(|s| (s.child, [Some(s.stdout), Some(s.stderr)])),
            (Ok(_), false) => spawn_inheriting(&keep, main).map(|child| (child, [None, None])),
        };
        let (child, [stdout, stderr]) = match spawned {
            Ok(spawned) => spawned,
            // Of processes or memory there may be more later, and the others go on.
            Err(source @ (Errno::EAGAIN | Errno::ENOMEM | Errno::ENFILE))
                if self.workers.iter().any(|w| w.name().is_some()) =>
            {
                self.segment.recover(&self.cursors, self.me, name, Death::of(Exit::Unknown.pack()))?;
                tracing::warn!("cannot fork {}: {source}; trying again in {NO_FORK:?}", self.workers[i].label);
                self.workers[i].life = Life::Due(Instant::now() + NO_FORK);
                return Ok(());
            }
            Err(source) => {
                let step = if file.is_err() { "open the pool's file for a worker" } else { "fork a process" };
                return Err(PoolError::Os { step, source });
            }
        };
        // Relaxed: for people; the child may run by now.
        self.table().participants[name.id() as usize].pid.store(child.pid.as_raw() as u32, Relaxed);
        let worker = &mut self.workers[i];
        worker.last_word = None;
        worker.life = Life::Running {
            child,
            name,
            since: Instant::now(),
            output: [(stdout, false), (stderr, true)]
                .map(|(pipe, is_error)| Output { lines: pipe.map(Lines::new), is_error }),
            sentence: None,
        };
        Ok(())
    }

    /// Sleeps until something happens, and deals with signals, orders and output.
    fn wait(&mut self, companion: Option<&dyn Companion>) -> Result<Roused, PoolError> {
        let clients_ready = self.clients_ready();
        let deadline = self
            .workers
            .iter()
            .filter_map(|w| match w.life {
                Life::Due(at) if self.specs[w.spec].role == Role::Client || clients_ready => Some(at),
                Life::Running { sentence: Some(Sentence { at, was_reported: false, .. }), .. } => {
                    Some(at + STUCK_AFTER)
                }
                _ => None,
            })
            .chain(self.hurry)
            .chain(self.owner_ends_by)
            .chain(self.door.as_ref().and_then(Door::deadline))
            .chain(self.give_back_at)
            .chain(self.audit_at)
            .chain(self.looking().map(|looking| looking.deadline()))
            .chain(self.is_upgrade_in_sight().then(|| Instant::now() + QUIET))
            .min();
        // Rounded up, or the last millisecond would be spent spinning.
        let timeout = match self.clock.sleep(self.segment.table(), deadline) {
            Some(left) => PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        // Whose they are; those of processes come last, and only they are looked at again if nothing is new.
        let mut fds = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.bell.as_fd(), PollFlags::POLLIN),
        ];
        let mut add = |fd, flags| {
            fds.push(PollFd::new(fd, flags));
            fds.len() - 1
        };
        let of_companion = companion.map(|c| add(c.fd(), PollFlags::POLLIN));
        let of_owner = self.owner.as_ref().map(|o| add(o.pidfd.as_fd(), PollFlags::POLLIN));
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::POLLIN, self.is_owner_heard);
        interest.set(PollFlags::POLLOUT, !self.outbox.is_empty());
        // Not with no interest: a connection that is closed would be news for ever.
        let connection = self.owner.as_ref().filter(|_| !interest.is_empty());
        let of_connection = connection.map(|o| add(o.connection.as_fd(), interest));
        for fd in self.door.iter().flat_map(Door::fds).chain(self.looking().flat_map(Looking::fds)) {
            add(fd, PollFlags::POLLIN);
        }
        let mut of_processes = Vec::new();
        for (i, w) in self.workers.iter().enumerate() {
            if let Life::Running { child, output, .. } = &w.life {
                let pipes = output.iter().filter_map(|o| o.lines.as_ref()).map(Lines::as_fd);
                of_processes.extend(pipes.chain([child.as_fd()]).map(|fd| (i, add(fd, PollFlags::POLLIN))));
            }
        }
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(source) => return Err(PoolError::Os { step: "wait for the workers", source }),
        }
        let is_new = |of: usize| fds[of].any().unwrap_or(false);
        let [was_signalled, has_rung] = [0, 1].map(is_new);
        let mut stirred: Vec<usize> = of_processes.into_iter().filter(|(_, fd)| is_new(*fd)).map(|(i, _)| i).collect();
        stirred.dedup();
        let [companion_died, owner_died, owner_speaks] =
            [of_companion, of_owner, of_connection].map(|of| of.is_some_and(is_new));
        drop(fds);
        self.clock.has_slept(self.segment.table());
        let has_rung = has_rung && self.bell.read().is_ok_and(|rings| rings % ANNOUNCED != 0);
        for &i in &stirred {
            self.pump(i);
        }
        if owner_died {
            self.bury_owner()?;
        } else if owner_speaks {
            self.hear_owner()?;
        }
        if companion_died {
            return Err(PoolError::CompanionDied);
        }
        while was_signalled && let Ok(Some(info)) = self.signals.read_signal() {
            match Signal::try_from(info.ssi_signo as i32) {
                // Nothing is loaded for a pool that is about to end; nor does who wants that want it to end at once.
                Ok(Signal::SIGHUP) if self.owner.is_none() && self.renewal.is_some() && self.mode != Mode::Running => {}
                Ok(Signal::SIGHUP) if self.owner.is_some() || self.renewal.is_some() => {
                    self.renew(None); // who sent it reads what the observer says
                }
                Ok(Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP) => self.hasten()?,
                Ok(signal @ (Signal::SIGTTIN | Signal::SIGTTOU)) => self.resize_by_signal(signal),
                Ok(Signal::SIGTSTP) => self.suspend(),
                Ok(Signal::SIGUSR2) => self.begin_upgrade(),
                _ => {} // SIGCHLD: `reap` follows; SIGCONT: `suspend` has seen to it, or somebody else stopped us
            }
        }
        Ok(Roused { has_rung, was_signalled, stirred })
    }

    /// Passes on what a process has written.
    fn pump(&mut self, i: usize) {
        let w = &mut self.workers[i];
        let Life::Running { output, .. } = &mut w.life else { return };
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

    fn reap(&mut self, companion: Option<&dyn Companion>, roused: &Roused) -> Result<(), PoolError> {
        for &i in &roused.stirred {
            if let Life::Running { child, .. } = &self.workers[i].life
                && let Some((exit, peak_kib)) = child.try_reap_with_peak()
            {
                self.bury(i, exit, peak_kib)?;
            }
        }
        if !roused.was_signalled && roused.stirred.is_empty() {
            return Ok(());
        }
        // As a subreaper we inherit what dead workers left behind elsewhere; the companion is for its owner to reap. Who waits
        // behind one of ours is met again when that one is reaped.
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        while let Ok(status) = waitid(Id::All, peek) {
            let stranger = |pid: &Pid| {
                companion.is_none_or(|c| c.pid() != *pid)
                    && self.looking().all(|looking| looking.pid() != *pid)
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
    fn bury(&mut self, i: usize, exit: Exit, peak_kib: u64) -> Result<(), PoolError> {
        self.pump(i);
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
        // It is dead: these are the last values.
        let record = &self.segment.table().participants[name.id() as usize];
        let finished = record.finished.load(Relaxed);
        let (status, leave) = (record.status.load(Acquire), Leave::of(record.leaves()));
        if let Some(why) = self.segment.record(name.id()).and_then(|record| record.last_word(name)) {
            worker.last_word = Some(why);
        }
        let late = match &sentence {
            Some(sentence) if exit == Exit::Signal(Signal::SIGKILL as u8) => &sentence.late[..],
            _ => &[], // it was faster
        };
        let overdue = if late.is_empty() { 0 } else { OVERDUE };
        // Its grace was over, and that is no task's fault which goes on in the pool's next life.
        let is_nobodys = self.killed > 0
            && late.is_empty()
            && exit == Exit::Signal(Signal::SIGKILL as u8)
            && self.segment.table().has_seats();
        let death = Death { peak_kib, late, is_nobodys, ..Death::of(exit.pack() | overdue) };
        let settled = self.segment.recover(&self.cursors, self.me, name, death)?;
        self.has_settled = true;
        self.count_death();
        let label = self.workers[i].label.clone();
        if exit != Exit::Code(0) || leave.is_none() && self.mode < Mode::Stopping {
            self.note_ending(pid, i as u32, death.exit, &settled);
            self.is_to_be_audited(label.clone());
        }
        self.note_losses(pid, death.exit, &settled);

        let ended = Ended { label, name, pid, exit, peak_kib, finished };
        self.tell(News::Ended(ended.clone()));
        self.ended.push_back(ended);
        if self.ended.len() > REMEMBERED {
            self.ended.pop_front();
        }
        let worker = &mut self.workers[i];
        let role = self.specs[worker.spec].role;
        let asked = match role {
            _ if self.killed > 0 => true,
            Role::Client => self.mode >= Mode::Draining && exit == Exit::Code(0),
            Role::Worker => self.mode == Mode::Stopping,
        };
        if asked {
            return Ok(());
        }
        worker.restarts += 1;
        let is_orderly = match exit {
            Exit::Code(0) => true,
            // Of one that is not a child an older kernel does not tell how it ended.
            Exit::Unknown => leave != Some(Leave::Orphaned),
            _ => false,
        };
        if let Some(why) = leave.filter(|_| is_orderly) {
            worker.failures = 0;
            if !worker.is_retired {
                worker.life = Life::Due(Instant::now());
            }
            (self.observer)(Event::Replaced { label: &worker.label, pid, why });
            return Ok(());
        }
        if status == UNFIT {
            let why = worker.last_word.take().unwrap_or_else(|| exit.to_string());
            return Err(PoolError::Unfit { label: worker.label.clone(), why });
        }
        // A client that dies while it drains is not started again: what it leaves stays where it came from.
        let over = role == Role::Client && self.mode >= Mode::Draining || worker.is_retired;
        if role == Role::Client && worker.restarts == 1 && status != READY && self.mode == Mode::Running {
            let why = worker
                .last_word
                .take()
                .unwrap_or_else(|| format!("{} ended with {exit} before it was ready", worker.label));
            return Err(PoolError::ClientGaveUp { why, exit });
        }
        // Whoever died over a task, or was killed over one, had begun to work: the task is to blame.
        let has_worked = finished > 0 || sentence.is_some() || settled.requeued + settled.failed > 0;
        let useful = has_worked || since.elapsed() >= SETTLED_AFTER;
        worker.failures = if useful { 0 } else { worker.failures + 1 };
        let most = if status == ABSENT { ABSENT_FOR_GOOD } else { CRASH_LOOP };
        let restart_in = match worker.failures {
            0 | 1 => Duration::ZERO,
            n => FIRST_BACKOFF * 2u32.pow(n.min(most) - 2),
        };
        let restart_in = (!over && worker.failures < most).then_some(restart_in);
        (self.observer)(Event::Died { label: &worker.label, pid, exit, peak_kib, settled, restart_in });
        let why = worker.last_word.take();
        if let Some(line) = &why {
            (self.observer)(Event::Output { label: &worker.label, is_error: true, line });
        }
        match restart_in {
            Some(pause) => worker.life = Life::Due(Instant::now() + pause),
            None if over => {}
            None => {
                let (label, times) = (worker.label.clone(), worker.failures);
                return Err(PoolError::CrashLoop { label, times, exit, why });
            }
        }
        Ok(())
    }

    /// Milliseconds since the pool began.
    fn age_ms(&self) -> u64 {
        let began = self.segment.header().identity.origin.ns;
        monotonic().saturating_sub(began) / MS
    }

    /// For who looks at the pool.
    fn note_losses(&self, pid: i32, exit: u64, settled: &Settled) {
        let Some(record) = self.segment.record(self.me.id()) else { return };
        for &GivenUp { kind, deaths, is_poison } in &settled.given_up {
            record.note_loss(Loss { kind, deaths, is_poison, pid: pid as u32, exit, at_ms: self.age_ms() });
        }
    }

    /// For who looks at the pool.
    fn note_ending(&self, pid: i32, role: u32, exit: u64, settled: &Settled) {
        let at_ms = self.age_ms();
        let told = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
        let (requeued, failed) = (told(settled.requeued), told(settled.failed));
        if let Some(record) = self.segment.record(self.me.id()) {
            let ending = Ending { pid: pid as u32, role, exit, requeued, failed, at_ms };
            record.note_costs([settled.requeued, settled.failed]);
            record.note_ending(ending);
        }
    }

    // ---- the owner --------------------------------------------------------------------------------------------------

    /// The owner has died: nobody wants anything any more, unless it was killed and another may come for what waits in the file.
    fn bury_owner(&mut self) -> Result<(), PoolError> {
        let Some(owner) = self.owner.take() else { return Ok(()) };
        if self.outliving.is_some() && self.mode == Mode::Running && owner.was_killed() {
            // They wait for that one; this process ends, and with it the lock. Who has stirred just now is looked at by number yet.
            self.workers.iter_mut().for_each(|w| w.life = Life::Over);
            return Ok(());
        }
        self.segment.recover(&self.cursors, self.me, owner.name, Death::of(Exit::Unknown.pack()))?;
        self.has_settled = true;
        self.set_mode(Mode::Stopping)
    }

    fn tell(&mut self, news: News) {
        if let Some(owner) = &self.owner {
            self.outbox.push(owner.connection.as_fd(), news);
        }
    }

    /// Tells the owner, which may be stopped, all that is left to tell.
    fn say_goodbye(&mut self, news: News) {
        self.tell(news);
        let Some(owner) = &self.owner else { return };
        while !self.outbox.is_empty() {
            let mut fds = [
                PollFd::new(owner.connection.as_fd(), PollFlags::POLLOUT),
                PollFd::new(owner.pidfd.as_fd(), PollFlags::POLLIN),
            ];
            let polled = poll(&mut fds, PollTimeout::NONE);
            if polled.is_err_and(|e| e != Errno::EINTR) || fds[1].any().unwrap_or(false) {
                return;
            }
            self.outbox.flush(owner.connection.as_fd());
        }
    }

    fn hear_owner(&mut self) -> Result<(), PoolError> {
        loop {
            let Some(owner) = &self.owner else { return Ok(()) };
            self.outbox.flush(owner.connection.as_fd());
            match orders::hear(owner.connection.as_fd(), MsgFlags::MSG_DONTWAIT) {
                Heard::Nothing => return Ok(()),
                Heard::End => {
                    self.is_owner_heard = false;
                    if self.outliving.is_some() && owner.is_gone() {
                        // How it ended is known in a moment.
                        self.owner_ends_by = Some(Instant::now() + STUCK_AFTER);
                        return Ok(());
                    }
                    return self.set_mode(Mode::Stopping);
                }
                Heard::Message(Order::Resize { id, workers }) => {
                    let news = match self.resize(workers as usize) {
                        Ok(from) => News::Done { id, from: from as u32, to: workers },
                        Err(why) => News::Refused { id, why },
                    };
                    self.tell(news);
                }
                Heard::Message(Order::Roll { id }) => {
                    self.renew(Some(id));
                }
                Heard::Message(Order::Shutdown { grace }) => {
                    self.grace = grace;
                    self.segment.header().control.has_grace(grace);
                    // A signal may have begun the end before, with the grace of that time.
                    self.hurry = self.hurry.map(|_| Instant::now() + grace);
                    self.set_mode(Mode::Draining)?;
                }
            }
        }
    }

    /// From now on there are so many workers of the kind that can be resized. Returns how many there were.
    fn resize(&mut self, to: usize) -> Result<usize, String> {
        if self.mode != Mode::Running {
            return Err("the pool is ending".into());
        }
        if to == 0 {
            return Err("a pool needs a worker: end it to be without".into());
        }
        if to > self.at_most {
            let most = self.at_most;
            let remedy = if self.owner.is_some() { "`max_workers`" } else { "'--max-workflow-workers'" };
            return Err(format!(
                "no room for {to} workers: this pool was made for at most {most}; {remedy} makes more"
            ));
        }
        let from = self.resizable_workers();
        let mut number = 0;
        for w in self.workers.iter_mut().filter(|w| w.spec == self.resizable) {
            let stays = number < to;
            number += 1;
            w.is_retired = !stays;
            match w.life {
                Life::Over if stays => {
                    w.failures = 0;
                    w.life = Life::Due(Instant::now());
                }
                Life::Due(_) if !stays => w.life = Life::Over,
                Life::Running { name, .. } if !stays => ask_to_leave(&self.segment, name),
                _ => {}
            }
        }
        for number in number..to {
            self.workers.push(Worker::new(self.resizable, &self.specs[self.resizable], number));
        }
        Ok(from)
    }

    fn resizable_workers(&self) -> usize {
        self.workers.iter().filter(|w| w.spec == self.resizable && !w.is_retired).count()
    }

    fn resize_by_signal(&mut self, signal: Signal) {
        let now = self.resizable_workers();
        let to = if signal == Signal::SIGTTIN { now + 1 } else { now.saturating_sub(1) };
        if let Err(why) = self.resize(to) {
            tracing::warn!("{signal} changes nothing: {why}");
        }
    }

    /// Begins to replace all workers that are there, those too whose turn has been; where only one kind can be renewed, those, and
    /// not before a look at what they would be made of. `id`: who wants to hear when that is done.
    fn renew(&mut self, id: Option<u32>) {
        let Some(renewal) = &mut self.renewal else { return self.begin_roll(id) };
        // One that goes on has seen what was there before, perhaps.
        let mut ids = renewal.looking.take().map_or(Vec::new(), |(_, ids)| ids);
        ids.extend(id);
        match (renewal.look)() {
            Ok(looking) => renewal.looking = Some((looking, ids)),
            Err(why) => self.not_renewed(&why, ids),
        }
    }

    fn looking(&self) -> impl Iterator<Item = &dyn Looking> {
        let renewal = self.renewal.as_ref().and_then(|renewal| renewal.looking.as_ref()).map(|(looking, _)| &**looking);
        let upgrade = match &self.upgrade {
            Some(Upgrade::Checking(looking)) => Some(&**looking),
            _ => None,
        };
        renewal.into_iter().chain(upgrade)
    }

    // ---- another program --------------------------------------------------------------------------------------------

    /// What another program needs to go on; `None`: something goes on that it would not know of.
    fn state(&self) -> Option<Handover> {
        let now = Instant::now();
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let sitter = |w: &Worker| {
            let state = match &w.life {
                Life::Over => SitterState::Over,
                Life::Due(at) => SitterState::Due { in_ms: ms(at.saturating_duration_since(now)) },
                Life::Running { sentence: Some(_), .. } => return None,
                Life::Running { child, name, since, output, .. } => SitterState::Running {
                    pid: child.pid.as_raw(),
                    name: name.bits(),
                    for_ms: ms(since.elapsed()),
                    output: output.each_ref().map(|output| output.lines.as_ref().map(Lines::state)),
                },
            };
            let Worker { spec, restarts, failures, is_retired, .. } = *w;
            Some(Sitter { spec, label: w.label.clone(), state, restarts, failures, is_retired })
        };
        let is_looking = self.renewal.as_ref().is_some_and(|renewal| renewal.looking.is_some());
        // One that the next program begins anew, and nobody waits for, may end here.
        let is_rolling = self.roll.as_ref().is_some_and(|roll| !self.rolls_after_upgrade || !roll.ids.is_empty());
        let is_quiet = self.mode == Mode::Running
            && self.is_announced
            && self.is_owner_heard == self.owner.is_some()
            && !is_rolling
            && !is_looking
            && self.outbox.is_empty()
            && self.late_guests.is_empty()
            && self.unaudited.is_empty();
        if !is_quiet {
            return None;
        }
        let door = match &self.door {
            Some(door) => Some(door.state()?),
            None => None,
        };
        let handed = self.handed.as_ref().map(|(_, fd)| number(&fd.as_fd()));
        Some(Handover { workers: self.workers.iter().map(sitter).collect::<Option<_>>()?, door, handed })
    }

    /// Somebody wants another program to take over.
    fn begin_upgrade(&mut self) {
        if self.upgrade.is_some() {
            return; // who asked for that hears how it went
        }
        if self.mode != Mode::Running || !self.is_announced {
            let why = if self.is_announced { "the pool is ending" } else { "the pool has not started its workers yet" };
            return self.not_upgraded(why);
        }
        // Of what goes on just now nothing is checked.
        let state = self.state().unwrap_or(Handover { workers: Vec::new(), door: None, handed: None });
        let looking = match &mut self.succession {
            Ok(succession) => succession.check(&state),
            Err(why) => Err((*why).to_owned()),
        };
        match looking {
            Ok(looking) => self.upgrade = Some(Upgrade::Checking(looking)),
            Err(why) => self.not_upgraded(&why),
        }
    }

    /// Is one due that waits for others?
    fn is_upgrade_in_sight(&self) -> bool {
        matches!(self.upgrade, Some(Upgrade::Due))
    }

    /// If the program that is to follow has said that it can, and nothing else goes on, becomes that.
    fn upgrade_if_due(&mut self) {
        match &mut self.upgrade {
            None => return,
            Some(Upgrade::Due) => {}
            Some(Upgrade::Checking(looking)) => match looking.look() {
                None => return,
                Some(Ok(())) => self.upgrade = Some(Upgrade::Due),
                Some(Err(why)) => return self.not_upgraded(&why),
            },
        }
        if self.mode != Mode::Running {
            return self.not_upgraded("the pool is ending");
        }
        let Some(state) = self.state() else { return };
        let Ok(succession) = &mut self.succession else { return };
        let why = match keep_open(&state, true) {
            Ok(()) => succession.become_it(&state),
            Err(e) => e.to_string(),
        };
        if let Err(e) = keep_open(&state, false) {
            tracing::warn!("children may have descriptors that are not theirs: {e}");
        }
        self.not_upgraded(&why);
    }

    fn not_upgraded(&mut self, why: &str) {
        self.upgrade = None;
        (self.observer)(Event::NotUpgraded { why });
        self.answer_upgrade(why);
    }

    /// For who has asked: how it went, which is empty if it went well.
    fn answer_upgrade(&self, why: &str) {
        if let Some(record) = self.segment.record(self.me.id()) {
            record.give_up(self.me, why);
        }
        // Release: who sees the count finds the answer. No other writer.
        let status = &self.table().participants[usize::from(self.me.id())].status;
        status.store(status.load(Relaxed).wrapping_add(1), Release);
    }

    /// If a look is over, does what follows from it.
    fn see_what_was_found(&mut self) {
        let Some(renewal) = &mut self.renewal else { return };
        let Some((looking, _)) = &mut renewal.looking else { return };
        let Some(found) = looking.look() else { return };
        let (_, ids) = renewal.looking.take().unwrap_or_else(|| unreachable!("it was looked at above"));
        match found {
            Ok(()) => {
                (self.observer)(Event::Renewing);
                self.begin_roll(ids);
            }
            Err(why) => self.not_renewed(&why, ids),
        }
    }

    /// Fresh ones could not begin: nothing is changed.
    fn not_renewed(&mut self, why: &str, ids: Vec<u32>) {
        (self.observer)(Event::NotRenewed { why });
        for id in ids {
            self.tell(News::Refused { id, why: why.to_owned() });
        }
    }

    fn begin_roll(&mut self, ids: impl IntoIterator<Item = u32>) {
        let spec = self.renewal.as_ref().map(|renewal| renewal.spec);
        self.roll_those(ids, |i| spec.is_none_or(|spec| i == spec));
    }

    fn roll_those(&mut self, ids: impl IntoIterator<Item = u32>, is_meant: impl Fn(usize) -> bool) {
        let is_meant = |w: &Worker| self.specs[w.spec].role == Role::Worker && is_meant(w.spec);
        let next = (0..self.workers.len()).filter(|&i| is_meant(&self.workers[i])).collect();
        let roll = self.roll.get_or_insert_default();
        roll.ids.extend(ids);
        roll.next = next;
    }

    /// The next is asked to leave when the one before is replaced.
    fn roll_on(&mut self) {
        while let Some(roll) = &self.roll {
            if let Some((i, before)) = roll.turn {
                let is_done = match self.workers[i].life {
                    Life::Running { name, .. } => name != before && self.is_ready(name),
                    Life::Due(_) => false,
                    Life::Over => true,
                };
                if !is_done {
                    return;
                }
            }
            let Some(roll) = &mut self.roll else { return };
            let next = roll.next.pop_front().map(|i| (i, self.workers[i].name()));
            roll.turn = next.and_then(|(i, name)| Some((i, name?)));
            match (next, roll.turn) {
                (None, _) => {
                    let workers = self.workers.iter().filter(|w| !w.is_retired).count() as u32;
                    for id in std::mem::take(&mut roll.ids) {
                        self.tell(News::Done { id, from: workers, to: workers });
                    }
                    self.roll = None;
                }
                (Some(_), Some((_, name))) => ask_to_leave(&self.segment, name),
                (Some(_), None) => {} // it is about to be a fresh one anyway
            }
        }
    }

    /// Everything that has not ended is cancelled, or asked to end; but for what a client has submitted that is not there: its next
    /// life wants it.
    fn cancel_all(&mut self) -> Result<(), PoolError> {
        let (table, owner) = (self.segment.table(), self.owner.as_ref().map(|owner| owner.name));
        for index in 0..table.descriptors.len() as u16 {
            let word = table.load(index);
            if word.is(Phase::Ready) || word.is(Phase::Delayed) || word.is(Phase::Claimed) {
                // If this is the submitter of a later life of the descriptor, the generation is that of none below.
                let submitter = table.submitter(index)?;
                if Some(submitter) != owner && table.participant(submitter.id())?.is_seat() {
                    continue;
                }
                match table.cancel(&self.cursors, TaskId { index, generation: word.generation() })? {
                    Cancel::Cancelled | Cancel::Running(_) => self.cancelled += 1,
                    Cancel::Over => {}
                }
            }
        }
        Ok(())
    }

    /// A death is when a broken invariant is most likely, and rare enough to look for one. (Who leaves in order is neither.) But
    /// not before what it left goes on, and its successor runs, which may have to share a CPU with us.
    fn is_to_be_audited(&mut self, who: String) {
        self.unaudited.push(who);
        self.audit_at.get_or_insert_with(|| Instant::now() + AUDIT);
    }

    fn audit_live(&mut self) {
        self.audit_at = None;
        if self.unaudited.is_empty() {
            return;
        }
        let who = std::mem::take(&mut self.unaudited).join(", ");
        let audit = self.table().audit_live();
        if !audit.violations.is_empty() {
            self.unsound += 1;
            (self.observer)(Event::Unsound { who: &who, audit: &audit });
            self.first_unsound.get_or_insert((who, audit));
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
            let death = Death { late: &late, ..Death::of(exit.pack()) };
            let settled = self.segment.recover(&self.cursors, self.me, guest.name, death)?;
            self.has_settled = true;
            // Of whom nothing is left, the place is free.
            if self.segment.table().leave_seat(guest.name)? {
                self.segment.table().recover(&self.cursors, self.me, guest.name, Death::of(death.exit))?;
            }
            if !was_orderly {
                self.note_ending(guest.pid, GUEST, death.exit, &settled);
            }
            self.note_losses(guest.pid, death.exit, &settled);
            self.count_death();
            (self.observer)(Event::Left { pid: guest.pid, was_orderly, settled });
            self.is_to_be_audited("attached".to_owned());
        }
        let Some(door) = &mut self.door else { return Ok(()) };
        for (socket, workers) in door.answer(news, &self.segment, self.bell.as_fd(), self.owners)? {
            let resized = self.resize(workers as usize).map_err(|_| match self.mode {
                Mode::Running => Refusal::Size(self.at_most as u32),
                _ => Refusal::Ending,
            });
            answer_resize(&socket, resized);
        }
        Ok(())
    }

    // ---- the end ----------------------------------------------------------------------------------------------------

    /// One step nearer to the end.
    fn hasten(&mut self) -> Result<(), PoolError> {
        match self.mode {
            Mode::Running if !self.has_clients() => self.set_mode(Mode::Stopping),
            Mode::Running => self.set_mode(Mode::Draining),
            Mode::Draining => self.set_mode(Mode::Cancelling),
            Mode::Cancelling | Mode::Stopping => {
                self.kill_running();
                Ok(())
            }
        }
    }

    fn set_mode(&mut self, mode: Mode) -> Result<(), PoolError> {
        if self.mode >= mode {
            return Ok(());
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
        self.tell(News::Mode(mode));
        // An owner is not among those who cancel what is theirs.
        if mode == Mode::Cancelling && self.owner.is_some() { self.cancel_all() } else { Ok(()) }
    }

    /// Makes everybody look at the control words. Each is woken whether it sleeps or not: who is about to sleep has set its
    /// word before its last look, so either that look sees the news, or the word has changed and it does not sleep.
    fn wake_all(&self) {
        for (id, p) in self.table().participants.iter().enumerate() {
            // Who does not live needs no system call.
            if matches!(p.member(id), Ok(Member::Live(_))) {
                p.wake();
            }
        }
    }

    /// For the clients among the processes here: what they know of who died is void.
    fn count_death(&self) {
        // Release: who sees the count sees what the recovery settled.
        self.segment.header().control.deaths.fetch_add(1, Release);
        // The sweep's wake may have come before.
        for w in self.workers.iter().filter(|w| self.specs[w.spec].role == Role::Client) {
            if let Some(name) = w.name() {
                self.table().participants[name.id() as usize].wake();
            }
        }
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
                child.reap();
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

fn ask_to_leave(segment: &Segment, name: Name) {
    orphan::ask_to_leave(&segment.table().participants[name.id() as usize]);
}

fn errno(e: &std::io::Error) -> Errno {
    Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO))
}

static LABEL: RwLock<String> = RwLock::new(String::new());

/// As whom this process was made by a coordinator; empty: it was not.
pub(crate) fn label() -> String {
    LABEL.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// What `ps` and `top` show, and [`label`]. The kernel keeps 15 bytes, so a long label loses its middle and not its number.
pub(crate) fn name_process(label: &str) {
    // Of a process that has just been forked: its parent's label came with it.
    label.clone_into(&mut LABEL.write().unwrap_or_else(PoisonError::into_inner));
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
