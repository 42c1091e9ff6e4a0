//! Lost wake-ups: rounds of sleep and wake, with a waker or a sleeper killed or stopped in the middle of many of them.
//!
//! In each round two clients submit a few tasks to three workers and sleep until all results are there; workers sleep
//! until there is a task. So a submission wakes workers, a worker that leaves tasks behind wakes the next, a completion
//! wakes a client, and each of them may be the victim. Half of the rounds begin when all workers sleep, the others while
//! they are about to.
//!
//! A round is over when each client that lives and runs has all its results. For as long as a process is stopped that
//! cannot be asked of what it has claimed, so there the round is over when nothing but that is left; then it goes on, and
//! everything must come back. A wake that went to a stopped sleeper is answered by the coordinator's ring ([`RING`]): no
//! other round may need one.
//!
//! The seed fixes the victims, the signals and the delays; where a signal from outside falls is the machine's choice. What
//! can be lost hangs on some ten instructions before a system call that takes a thousand times as long, and there such
//! signals fall. So one blow in four comes from a [`fuse`]: the victim ends itself so many instructions after it has begun to
//! submit, to complete or to fall asleep.

mod fuse;

use super::{PATIENCE, Rng, TortureError, os, shared};
use crate::{
    exec::endpoint::{Endpoint, STATUS_OK, Submission, To},
    lockfree::{
        audit::Audit,
        participant::{Name, Participant},
        recovery::Death,
        table::{Cursors, Table},
        word::{Outcome, Phase},
    },
    mem::{
        layout::{Control, Geometry},
        segment::Segment,
    },
    process::{
        Mode,
        clock::Clock,
        exit::Exit,
        spawn::{Child, Spawned, spawn, state},
    },
    sync::{AcqRel, Acquire, AtomicU64, Futex, Relaxed, Release, spin_loop},
};
use fuse::{Act, Blow, Fuse, Order};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::Signal,
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
};
use std::{
    fmt,
    fs::File,
    io::Read,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

/// What to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) rounds: u64,
    pub(crate) seed: u64,
    /// Shows that a lost wake-up is found: in each round a waker has died that had chosen every sleeper and woken none,
    /// and its death is not settled.
    pub(crate) without_recovery: bool,
}

const WORKERS: usize = 3;
const CLIENTS: usize = 2;
/// Tasks of one client in one round, at most.
const BURST: u64 = 3;
const QUEUE: usize = 0;
/// A wake that has had no answer for so long went to somebody who is stopped.
const RING: Duration = Duration::from_millis(10);
/// How often to look at what nobody announces: that only a stopped process holds a round up.
const TICK: Duration = Duration::from_millis(1);
/// The longest delay of a blow, in nanoseconds: about what a round takes.
const DELAY: u64 = 100_000;
/// The longest fuse, in instructions: somewhat more than it takes to submit a task.
const FUSE: u64 = if cfg!(debug_assertions) { 6_000 } else { 600 };

/// What the processes of a run share beside the segment. Release and Acquire: who sees how far one has come sees what
/// that one had done in the segment.
#[repr(C)]
struct Board {
    round: AtomicU64,
    /// Changed and rung whenever a client has finished its round.
    bell: Futex,
    desks: [Desk; CLIENTS],
    /// What the process in each seat is to do to itself.
    fuses: [Fuse; CLIENTS + WORKERS],
}

/// How far a client has come.
#[repr(C)]
struct Desk {
    /// The last round whose tasks are all submitted.
    submitted: AtomicU64,
    /// The last round whose results are all there.
    done: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Client(usize),
    Worker(usize),
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Client(i) => write!(f, "client:{i}"),
            Role::Worker(i) => write!(f, "worker:{i}"),
        }
    }
}

struct Seat {
    role: Role,
    name: Name,
    child: Child,
    output: [OwnedFd; 2],
    /// The round in which it was started: its first is the next.
    born: u64,
}

/// When a blow falls.
#[derive(Clone, Copy)]
enum Moment {
    /// Before the round begins.
    Early,
    /// So long after its begin.
    Delayed(Duration),
    /// As soon as a waker has chosen the victim; for a client, as soon as one has chosen anybody.
    Chosen,
    /// By its own fuse.
    Fused(Act, u32),
}

/// In what the killed were hit, from what they left.
#[derive(Clone, Copy, Debug, Default)]
struct Hits {
    /// Somebody had been chosen, and was not woken.
    owed: u64,
    asleep: u64,
    claimed: u64,
    ready: u64,
    done: u64,
    reserved: u64,
}

/// What a run came to.
pub(crate) struct Report {
    rounds: u64,
    took: Duration,
    kills: u64,
    stops: u64,
    rings: u64,
    hits: Hits,
    faults: Vec<String>,
    lost: u64,
}

struct Run {
    options: Options,
    segment: Arc<Segment>,
    me: Name,
    cursors: Cursors,
    /// What of the coordinator answers for those who are stopped.
    clock: Clock,
    board: &'static Board,
    seats: Vec<Seat>,
    /// The seat whose process is stopped.
    stopped: Option<usize>,
    /// The seat whose process has an order for its fuse.
    fused: Option<(usize, Blow)>,
    keep: File,
    rng: Rng,
    report: Report,
}

/// Plays the rounds. This process must have one thread.
///
/// # Errors
/// What could not be carried out. What was found stands in the report.
pub(crate) fn run(options: Options) -> Result<Report, TortureError> {
    let started = Instant::now();
    let mut run = Run::new(options)?;
    let result = run.play();
    run.end(result.is_ok() && run.report.faults.is_empty())?;
    result?;
    run.report.took = started.elapsed();
    Ok(run.report)
}

impl Run {
    fn new(options: Options) -> Result<Run, TortureError> {
        let geometry = Geometry {
            descriptors: 16,
            queue_slots: 16,
            private_slots: 16,
            completion_slots: 16,
            classes: Geometry::new(16, 1).classes.map(|class| crate::lockfree::blocks::Class { count: 0, ..class }),
            ..Geometry::new(16, 1)
        };
        let segment = Arc::new(Segment::create(geometry)?);
        let me = segment.table().admit(std::process::id(), 0)?.ok_or(crate::SegmentCreateError::Geometry)?;
        let mut run = Run {
            options,
            cursors: Cursors::new(segment.table()),
            clock: Clock::new(),
            segment,
            me,
            // SAFETY: a board is made of atomic words, of which zero is a value.
            board: unsafe { shared() }?,
            seats: Vec::new(),
            stopped: None,
            fused: None,
            keep: File::open("/dev/null")
                .map_err(|e| os("open /dev/null")(Errno::from_raw(e.raw_os_error().unwrap_or(0))))?,
            rng: Rng::new(options.seed),
            report: Report {
                rounds: 0,
                took: Duration::ZERO,
                kills: 0,
                stops: 0,
                rings: 0,
                hits: Hits::default(),
                faults: Vec::new(),
                lost: 0,
            },
        };
        for (i, role) in (0..CLIENTS).map(Role::Client).chain((0..WORKERS).map(Role::Worker)).enumerate() {
            let seat = run.start(i, role)?;
            run.seats.push(seat);
        }
        Ok(run)
    }

    fn table(&self) -> &Table<'_> {
        self.segment.table()
    }

    fn start(&self, seat: usize, role: Role) -> Result<Seat, TortureError> {
        let name = self.table().admit(0, 0)?.ok_or(crate::SegmentCreateError::Geometry)?;
        let (born, seed, board) = (self.report.rounds, self.options.seed, self.board);
        let Spawned { child, stdout, stderr } = spawn(&[self.keep.as_fd(), self.segment.as_fd()], || {
            let endpoint = Endpoint::new(self.segment.clone(), name);
            let control = &self.segment.header().control;
            let fuse = &board.fuses[seat];
            let result = fuse::prepare().map_err(text).and_then(|()| match role {
                Role::Client(i) => submit_rounds(&endpoint, control, fuse, board, i, born, seed),
                Role::Worker(_) => work(&endpoint, control, fuse),
            });
            result.map_or_else(
                |complaint| {
                    eprintln!("{complaint}");
                    1
                },
                |()| 0,
            )
        })
        .map_err(os("fork a process"))?;
        Ok(Seat { role, name, child, output: [stdout, stderr], born })
    }

    fn play(&mut self) -> Result<(), TortureError> {
        for round in 1..=self.options.rounds {
            let begins_asleep = self.rng.below(2) == 0 || self.options.without_recovery;
            if begins_asleep && !self.wait_for_sleepers()? {
                return Ok(());
            }
            let blow = [Some(Blow::Kill), Some(Blow::Kill), Some(Blow::Stop), None, None][self.rng.below(5) as usize];
            let victim = self.rng.below(self.seats.len() as u64) as usize;
            let act = if self.rng.below(4) == 0 { Act::Sleep } else { Act::Work };
            let moment = match self.rng.below(8) {
                0 | 1 => Moment::Early,
                2 | 3 => Moment::Chosen,
                4 | 5 => Moment::Delayed(Duration::from_nanos(self.rng.below(DELAY))),
                _ => Moment::Fused(act, self.rng.below(FUSE) as u32),
            };
            let stays = self.rng.below(4) == 0;
            // One at a time: somebody must be left who gets on.
            let is_free = self.stopped.is_none() && self.fused.is_none() && !self.options.without_recovery;
            let blow = blow.filter(|_| is_free);
            let idle = self.idle();
            match (blow, moment) {
                (Some(blow), Moment::Early) => self.strike(victim, blow)?,
                (Some(blow), Moment::Fused(act, length)) => {
                    self.board.fuses[victim].lay(Order { blow, act, length });
                    self.fused = Some((victim, blow));
                }
                _ => {}
            }
            self.begin(round);
            if let (Some(blow), Moment::Delayed(_) | Moment::Chosen) = (blow, moment) {
                self.await_moment(moment, victim, idle);
                self.strike(victim, blow)?;
            }
            if !self.is_finished(round)? {
                return Ok(());
            }
            // One that burns already is left to burn, into the next round if it must.
            self.fused = self.fused.filter(|(victim, _)| !self.board.fuses[*victim].take_back());
            // Who is held up by the stopped one waits for it, and plays no further rounds until it goes on.
            let is_held_up = (0..CLIENTS).any(|i| !self.is_done(i, round));
            if self.stopped.is_some() && (is_held_up || !stays) {
                self.let_go_on()?;
                if !self.is_finished(round)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Waits until every worker sleeps, or is past its last doubt. Not while somebody is stopped: it may have chosen a
    /// sleeper, who sleeps on as if it hadn't. False: one of them never does.
    fn wait_for_sleepers(&mut self) -> Result<bool, TortureError> {
        let start = Instant::now();
        while self.stopped.is_none() && !self.workers().all(|(_, seat)| self.is_idle(seat.name)) {
            if start.elapsed() > PATIENCE {
                self.report.lost += 1;
                self.report.faults.push("a worker has been chosen, but not woken; or it can't sleep".to_owned());
                return Ok(false);
            }
            self.look_at_fuse()?;
            nix::sched::sched_yield().map_err(os("yield"))?;
        }
        Ok(true)
    }

    fn workers(&self) -> impl Iterator<Item = (usize, &Seat)> {
        self.seats.iter().enumerate().filter(|(_, seat)| matches!(seat.role, Role::Worker(_)))
    }

    /// The bits of those who wait to be chosen.
    fn idle(&self) -> u64 {
        self.table().sleepers(0).fold(0, |bits, id| bits | 1 << id)
    }

    fn is_idle(&self, name: Name) -> bool {
        self.idle() >> name.id() & 1 == 1
    }

    /// `idle`: who waited to be chosen when the round began.
    fn await_moment(&self, moment: Moment, victim: usize, idle: u64) {
        let Seat { role, name, .. } = &self.seats[victim];
        let (delay, watched) = match (moment, role) {
            (Moment::Delayed(delay), _) => (delay, 0),
            (Moment::Early | Moment::Fused(..), _) => return,
            (Moment::Chosen, Role::Worker(_)) => (Duration::from_nanos(DELAY), idle & 1 << name.id()),
            (Moment::Chosen, Role::Client(_)) => (Duration::from_nanos(DELAY), idle),
        };
        let at = Instant::now() + delay;
        while Instant::now() < at && (watched == 0 || self.idle() & watched == watched) {
            spin_loop();
        }
    }

    fn begin(&mut self, round: u64) {
        if self.options.without_recovery {
            // What a waker leaves that has chosen all sleepers, and dies before it wakes one.
            for p in self.table().participants {
                p.mark_woken();
            }
        }
        self.report.rounds = round;
        self.board.round.store(round, Release);
        let clients = self.seats.iter().filter(|seat| matches!(seat.role, Role::Client(_)));
        clients.for_each(|seat| self.table().participants[seat.name.id() as usize].wake());
    }

    /// A blow from outside.
    fn strike(&mut self, victim: usize, blow: Blow) -> Result<(), TortureError> {
        self.seats[victim].child.signal(blow.signal()).map_err(os("signal a process"))?;
        self.await_blow(victim, blow)
    }

    /// The victim was struck: waits until the kernel says that it runs no more, and settles its death.
    fn await_blow(&mut self, victim: usize, blow: Blow) -> Result<(), TortureError> {
        let seat = &self.seats[victim];
        match blow {
            Blow::Stop => {
                let ends = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
                waitid(Id::PIDFd(seat.child.as_fd()), ends).map_err(os("wait for a process to stop"))?;
                self.report.stops += 1;
                self.stopped = Some(victim);
            }
            Blow::Kill => {
                self.report.kills += 1;
                let mut fds = [PollFd::new(seat.child.as_fd(), PollFlags::POLLIN)];
                while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
                let exit = seat.child.try_reap().unwrap_or(Exit::Unknown);
                let (role, name) = (seat.role, seat.name);
                self.count_hit(name);
                self.table().recover(&self.cursors, self.me, name, Death::of(exit.pack()))?;
                self.seats[victim] = self.start(victim, role)?;
            }
        }
        Ok(())
    }

    /// If a fuse has burnt down, its blow is dealt with.
    fn look_at_fuse(&mut self) -> Result<(), TortureError> {
        let Some((victim, blow)) = self.fused else { return Ok(()) };
        let ends = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
        let state = waitid(Id::PIDFd(self.seats[victim].child.as_fd()), ends).map_err(os("look at a process"))?;
        if state == WaitStatus::StillAlive {
            return Ok(());
        }
        self.fused = None;
        self.await_blow(victim, blow)
    }

    fn count_hit(&mut self, dead: Name) {
        let is_owed = self
            .workers()
            .any(|(_, seat)| seat.name != dead && !self.is_idle(seat.name) && state(seat.child.pid) == Some('S'));
        let words = (0..self.table().descriptors.len()).map(|i| self.table().load(i as u16));
        let phases: Vec<_> = words.filter(|w| w.who() == dead.id()).filter_map(|w| w.phase()).collect();
        let (is_idle, hits) = (self.is_idle(dead), &mut self.report.hits);
        let has = |phase| phases.contains(&phase);
        if is_owed {
            hits.owed += 1;
        } else if has(Phase::Claimed) {
            hits.claimed += 1;
        } else if has(Phase::Reserved) {
            hits.reserved += 1;
        } else if phases.iter().any(|p| matches!(p, Phase::Done(_))) {
            hits.done += 1;
        } else if has(Phase::Ready) {
            hits.ready += 1;
        } else if is_idle {
            hits.asleep += 1;
        }
    }

    fn let_go_on(&mut self) -> Result<(), TortureError> {
        let Some(i) = self.stopped.take() else { return Ok(()) };
        self.seats[i].child.signal(Signal::SIGCONT).map_err(os("continue a process"))
    }

    /// Waits until the round is over. False: it never is, or somebody has ended.
    fn is_finished(&mut self, round: u64) -> Result<bool, TortureError> {
        let start = Instant::now();
        let patience = if self.options.without_recovery { Duration::from_secs(1) } else { PATIENCE };
        let mut was_rung = false;
        loop {
            let seen = self.board.bell.word().load(Acquire);
            self.look_at_fuse()?;
            if (0..CLIENTS).all(|i| self.is_served(i, round)) {
                return Ok(true);
            }
            let elapsed = start.elapsed();
            if elapsed > TICK
                && let Some((role, exit)) = self.unexpected_end()
            {
                self.report.faults.push(format!("round {round}: {role} ended with {exit}"));
                return Ok(false);
            }
            if elapsed > patience {
                let words = self.describe(round);
                self.report.lost += 1;
                self.report.faults.push(words);
                return Ok(false);
            }
            if self.stopped.is_some() {
                // As the coordinator of a pool does.
                self.clock.turn(self.segment.table(), &self.cursors, false, |_| None)?;
                self.report.rings += u64::from(elapsed > RING && !std::mem::replace(&mut was_rung, true));
            }
            if self.fused.is_some() && elapsed < TICK {
                // Nobody rings for a death.
                nix::sched::sched_yield().map_err(os("yield"))?;
            } else {
                self.board.bell.wait(seen, Some(TICK));
            }
        }
    }

    fn unexpected_end(&self) -> Option<(Role, Exit)> {
        let victim = self.fused.map(|(victim, _)| victim);
        let others = self.seats.iter().enumerate().filter(|(i, _)| Some(*i) != victim);
        others.into_iter().find_map(|(_, seat)| Some((seat.role, seat.child.try_reap()?)))
    }

    fn is_done(&self, client: usize, round: u64) -> bool {
        let i = self.seat_of(client);
        self.stopped == Some(i) || self.seats[i].born >= round || self.board.desks[client].done.load(Acquire) >= round
    }

    /// Clients have the first seats.
    fn seat_of(&self, client: usize) -> usize {
        debug_assert_eq!(self.seats[client].role, Role::Client(client));
        client
    }

    /// Has this client all that it can have while somebody is stopped?
    fn is_served(&self, client: usize, round: u64) -> bool {
        if self.is_done(client, round) {
            return true;
        }
        let Some(stopped) = self.stopped.map(|i| self.seats[i].name) else { return false };
        let me = self.seats[self.seat_of(client)].name;
        let table = self.table();
        // Nobody goes back from a later phase to an earlier one, so it doesn't matter that this is no snapshot.
        let is_excused = |(index, d): (u16, &crate::lockfree::descriptor::Descriptor)| {
            let word = table.load(index);
            match word.phase() {
                Some(Phase::Free) => true,
                Some(Phase::Claimed) => word.who() == stopped.id() || Name::of(d.submitter.load(Relaxed)) != me,
                // Stopped before it has told the submitter.
                Some(Phase::Done(_)) => {
                    word.who() != me.id() || d.run_of(word).is_some_and(|run| run.claimant() == stopped)
                }
                _ => word.who() != me.id(),
            }
        };
        self.board.desks[client].submitted.load(Acquire) >= round && (0..).zip(table.descriptors).all(is_excused)
    }

    /// Who sleeps over what.
    fn describe(&self, round: u64) -> String {
        let table = self.table();
        let left: Vec<_> =
            (0..table.descriptors.len()).map(|i| table.load(i as u16)).filter(|w| !w.is(Phase::Free)).collect();
        let asleep: Vec<_> =
            self.workers().filter(|(_, s)| self.is_idle(s.name)).map(|(_, s)| s.role.to_string()).collect();
        let stopped = self.stopped.map(|i| self.seats[i].role.to_string()).unwrap_or_else(|| "nobody".to_owned());
        format!(
            "round {round}: nothing goes on, and {left:?} are left; {stopped} is stopped, {asleep:?} wait to be chosen"
        )
    }

    /// Ends all processes: by asking them if everything went well, or else by force.
    fn end(&mut self, went_well: bool) -> Result<(), TortureError> {
        if let Some((victim, _)) = self.fused.take() {
            self.strike(victim, Blow::Kill)?;
        }
        self.let_go_on()?;
        self.segment.header().control.mode.store(Mode::Stopping as u32, Release);
        self.table().participants.iter().for_each(Participant::wake);
        for seat in std::mem::take(&mut self.seats) {
            if !went_well {
                // It may have ended by itself.
                let _ = seat.child.signal(Signal::SIGKILL);
            }
            let mut fds = [PollFd::new(seat.child.as_fd(), PollFlags::POLLIN)];
            let limit = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
            if poll(&mut fds, limit) == Ok(0) {
                self.report.lost += 1;
                self.report.faults.push(format!("{} sleeps on though it was told to exit", seat.role));
                seat.child.signal(Signal::SIGKILL).map_err(os("kill a process"))?;
                poll(&mut fds, PollTimeout::NONE).map_err(os("wait for a process"))?;
            }
            let exit = seat.child.try_reap().unwrap_or(Exit::Unknown);
            let mut said = String::new();
            for pipe in seat.output {
                // No writer is left.
                let _ = File::from(pipe).read_to_string(&mut said);
            }
            if !said.is_empty() || went_well && exit != Exit::Code(0) {
                self.report.faults.push(format!("{} ended with {exit}: {}", seat.role, said.trim_end()));
            }
        }
        let audit: Audit = self.table().audit();
        if went_well && !audit.is_clean() {
            self.report.faults.push(format!("the segment is not clean at the end: {audit}"));
        }
        Ok(())
    }
}

fn text(e: impl fmt::Display) -> String {
    e.to_string()
}

/// A client's life: each round it submits some tasks, and sleeps until all their results are there.
fn submit_rounds(
    endpoint: &Endpoint,
    control: &Control,
    fuse: &Fuse,
    board: &Board,
    number: usize,
    born: u64,
    seed: u64,
) -> Result<(), String> {
    let is_over = || Mode::of(control) == Mode::Stopping;
    let desk = &board.desks[number];
    let mut last = born;
    loop {
        let round = loop {
            match board.round.load(Acquire) {
                _ if is_over() => return Ok(()),
                round if round > last => break round,
                _ => endpoint.park(&[], None, || board.round.load(Acquire) > last || is_over()),
            }
        };
        last = round;
        let tasks = 1 + Rng::new(seed ^ round << 8 ^ number as u64).below(BURST);
        let first = round * BURST;
        for tag in first..first + tasks {
            fuse.light(Act::Work);
            let draft = endpoint.draft(0).map_err(text)?;
            draft
                .submit(Submission { tag, max_attempts: u8::MAX, ..Submission::new(To::Queue(QUEUE)) })
                .map_err(text)?;
        }
        desk.submitted.store(round, Release);
        let mut missing: Vec<u64> = (first..first + tasks).collect();
        while !missing.is_empty() {
            let Some(finished) = endpoint.take().map_err(text)? else {
                endpoint.park(&[], None, || {
                    fuse.light(Act::Sleep);
                    false
                });
                continue;
            };
            let at = missing.iter().position(|tag| *tag == finished.tag());
            match at.filter(|_| finished.outcome() == Outcome::Completed) {
                Some(at) => missing.swap_remove(at),
                None => {
                    let (tag, outcome) = (finished.tag(), finished.outcome());
                    return Err(format!(
                        "round {round}: task {tag} comes back as {outcome:?}, {missing:?} are missing"
                    ));
                }
            };
        }
        desk.done.store(round, Release);
        board.bell.word().fetch_add(1, AcqRel);
        board.bell.wake_all();
    }
}

fn work(endpoint: &Endpoint, control: &Control, fuse: &Fuse) -> Result<(), String> {
    // The last look before sleeping, too.
    let is_over = || {
        fuse.light(Act::Sleep);
        Mode::of(control) == Mode::Stopping
    };
    while let Some(task) = endpoint.next(&[endpoint.queue(QUEUE)], is_over).map_err(text)? {
        fuse.light(Act::Work);
        task.complete(STATUS_OK, 0, |_| {}).map_err(|(e, _)| text(e))?;
    }
    Ok(())
}

impl Report {
    /// What is wrong, one line each; empty: nobody slept while there was work.
    pub(crate) fn faults(&self) -> &[String] {
        &self.faults
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { rounds, took, kills, stops, rings, hits, lost, .. } = self;
        let Hits { owed, asleep, claimed, ready, done, reserved } = hits;
        let other = kills - owed - asleep - claimed - ready - done - reserved;
        writeln!(
            f,
            "killed    owed={owed} asleep={asleep} claimed={claimed} reserved={reserved} ready={ready} done={done} between={other}"
        )?;
        writeln!(
            f,
            "rate      {:.1} s, {:.0} µs a round",
            took.as_secs_f64(),
            took.as_micros() as f64 / *rounds as f64
        )?;
        write!(f, "wakes rounds={rounds} kills={kills} stops={stops} rings={rings} lost={lost}")
    }
}
