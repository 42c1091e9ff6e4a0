//! Random torture: workers and clients under load, one of them killed every few milliseconds, some stopped and continued.
//!
//! The seed fixes the kill schedule (pauses, victims, signals) and the tasks; where a signal falls in its victim's work is
//! the machine's choice. The phases in which the dead were hit are counted from what they left.

use super::{
    PATIENCE, Rng, TortureError, crew,
    ledger::{CLIENTS, Ledger, OUTCOMES, Tag, WORKERS},
    os,
};
use crate::{
    exec::endpoint::Endpoint,
    lockfree::{
        audit::Audit,
        participant::{Name, Participant},
        recovery::Death,
        table::Cursors,
        word::Phase,
    },
    mem::{
        layout::{Geometry, classes},
        segment::Segment,
    },
    process::{
        Mode,
        clock::Clock,
        exit::Exit,
        spawn::{Child, Spawned, spawn},
    },
    sync::{Bell, Relaxed, Release},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        signal::Signal,
    },
};
use std::{
    fmt,
    fs::File,
    io::Read,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

/// What to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) seconds: u64,
    pub(crate) seed: u64,
    /// Goes on after `seconds` until so many results were delivered.
    pub(crate) tasks: u64,
    /// Shows that a fault is found: the dead are left as they are.
    pub(crate) without_recovery: bool,
}

/// With the dead left as they are, it doesn't take long.
const IMPATIENCE: Duration = Duration::from_secs(1);

/// A place that a process fills, and another after its death.
struct Seat {
    role: Role,
    running: Option<Running>,
    life: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Worker(usize),
    Client(usize),
}

struct Running {
    name: Name,
    child: Child,
    output: [OwnedFd; 2],
    was_killed: bool,
}

/// Phases in which the dead were hit, by the most telling word that named them.
#[derive(Clone, Copy, Default)]
struct Hits {
    kills: u64,
    reserved: u64,
    claimed: u64,
    done: u64,
    ready: u64,
}

/// What a run came to.
pub(crate) struct Report {
    options: Options,
    took: Duration,
    ledger: &'static Ledger,
    workers: Hits,
    clients: Hits,
    stops: u64,
    late: u64,
    recoveries: Vec<Duration>,
    missing: Vec<Tag>,
    /// What clients and workers complained of, and other ends that nobody asked for.
    complaints: Vec<String>,
    audit: Audit,
}

struct Torturer {
    options: Options,
    segment: Arc<Segment>,
    me: Name,
    cursors: Cursors,
    ledger: &'static Ledger,
    seats: Vec<Seat>,
    rng: Rng,
    lives: u32,
    workers: Hits,
    clients: Hits,
    stops: u64,
    /// Who was killed because it had run out of time.
    late: u64,
    bell: EventFd,
    clock: Clock,
    is_news: bool,
    recoveries: Vec<Duration>,
    complaints: Vec<String>,
    /// Deliveries when last looked at, and since when there were no more.
    progress: (u64, Instant),
}

/// Tortures for a while. This process must have one thread.
///
/// # Errors
/// What could not be carried out. What was found stands in the report.
pub(crate) fn run(options: Options) -> Result<Report, TortureError> {
    let started = Instant::now();
    let mut torturer = Torturer::new(options)?;
    let is_alive = torturer.strike_for_a_while()? && torturer.end()?;
    if !is_alive && torturer.complaints.is_empty() {
        torturer.complaints.push("nothing is delivered any more though tasks are under way".to_owned());
    }
    torturer.kill_all()?;
    let missing = |seat: &Seat| match seat.role {
        Role::Client(i) => torturer.ledger.books[i].missing(seat.life),
        Role::Worker(_) => Vec::new(),
    };
    Ok(Report {
        options,
        took: started.elapsed(),
        ledger: torturer.ledger,
        workers: torturer.workers,
        clients: torturer.clients,
        stops: torturer.stops,
        late: torturer.late,
        missing: torturer.seats.iter().flat_map(missing).collect(),
        audit: torturer.segment.table().audit(),
        recoveries: torturer.recoveries,
        complaints: torturer.complaints,
    })
}

impl Torturer {
    fn new(options: Options) -> Result<Torturer, TortureError> {
        // Small enough that lanes overflow, and that descriptors and blocks run out now and then.
        let geometry = Geometry {
            descriptors: 256,
            queue_slots: 64,
            private_slots: 16,
            completion_slots: 64,
            classes: classes([96, 0, 48, 0, 12, 0, 0, 0]),
            ..Geometry::new(64, 1)
        };
        let segment = Arc::new(Segment::create(geometry)?);
        let me = segment.table().admit(std::process::id(), 0)?.ok_or(crate::SegmentCreateError::Geometry)?;
        let roles = (0..WORKERS).map(Role::Worker).chain((0..CLIENTS).map(Role::Client));
        Ok(Torturer {
            options,
            cursors: Cursors::new(segment.table()),
            segment,
            me,
            ledger: Ledger::new()?,
            seats: roles.map(|role| Seat { role, running: None, life: 0 }).collect(),
            rng: Rng::new(options.seed),
            lives: 0,
            workers: Hits::default(),
            clients: Hits::default(),
            stops: 0,
            late: 0,
            bell: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(os("make an eventfd"))?,
            clock: Clock::new(),
            is_news: true,
            recoveries: Vec::new(),
            complaints: Vec::new(),
            progress: (0, Instant::now()),
        })
    }

    /// False: something is wrong already.
    fn strike_for_a_while(&mut self) -> Result<bool, TortureError> {
        let end = Instant::now() + Duration::from_secs(self.options.seconds);
        while Instant::now() < end || self.ledger.delivered() < self.options.tasks {
            self.fill_seats()?;
            let next = Instant::now() + Duration::from_micros(500 + self.rng.below(4500));
            while let Some(left) = next.checked_duration_since(Instant::now()) {
                self.wait(left)?;
            }
            self.strike()?;
            self.segment.give_back(self.me);
            if !self.complaints.is_empty() || !self.is_getting_on() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Clients drain, then workers stop. False: they don't.
    fn end(&mut self) -> Result<bool, TortureError> {
        self.fill_seats()?;
        self.all(Signal::SIGCONT);
        for (mode, role) in [(Mode::Draining, "client"), (Mode::Stopping, "worker")] {
            self.segment.header().control.mode.store(mode as u32, Release); // as the coordinator of a pool
            self.segment.table().participants.iter().for_each(Participant::wake);
            while self.seats.iter().any(|s| s.running.is_some() && s.role.name() == role) {
                self.wait(Duration::from_millis(100))?;
                if !self.complaints.is_empty() || !self.is_getting_on() {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn fill_seats(&mut self) -> Result<(), TortureError> {
        for i in 0..self.seats.len() {
            if self.seats[i].running.is_some() {
                continue;
            }
            // `None`: every id is still named by a task that somebody holds.
            let Some(name) = self.segment.table().admit(0, 0)? else { return Ok(()) };
            self.lives += 1;
            let bell = Bell::new(self.bell.as_fd().as_raw_fd());
            let (role, life, seed, ledger) = (self.seats[i].role, self.lives, self.options.seed, self.ledger);
            let Spawned { child, stdout, stderr } = spawn(&[self.segment.as_fd(), self.bell.as_fd()], || {
                let endpoint = Endpoint::new(self.segment.clone(), name).with_bell(bell);
                if self.segment.keep_from_children().is_err() {
                    return 101;
                }
                let result = match role {
                    Role::Worker(_) => crew::work(&endpoint, ledger, seed),
                    Role::Client(i) => {
                        let (book, workers) = (&ledger.books[i], &ledger.workers);
                        crew::Client { endpoint: &endpoint, book, kind: i as u32, workers, seed, life }.run()
                    }
                };
                result.map_or_else(
                    |complaint| {
                        eprintln!("{complaint}");
                        1
                    },
                    |()| 0,
                )
            })
            .map_err(os("fork a process"))?;
            if let Role::Worker(i) = role {
                ledger.workers[i].store(name.bits(), Relaxed);
            }
            self.seats[i].life = life;
            self.seats[i].running = Some(Running { name, child, output: [stdout, stderr], was_killed: false });
        }
        Ok(())
    }

    /// One blow: most often a kill, sometimes a stop, and after a while all who are stopped go on.
    fn strike(&mut self) -> Result<(), TortureError> {
        // Clients live longer, so that some of what they submit comes back.
        let seat = match self.rng.below(10) {
            0 => WORKERS + self.rng.below(CLIENTS as u64) as usize,
            _ => self.rng.below(WORKERS as u64) as usize,
        };
        let blow = self.rng.below(10);
        let Some(victim) = &mut self.seats[seat].running else { return Ok(()) };
        match blow {
            0..7 => self.kill(seat),
            7..9 => {
                self.stops += 1;
                victim.child.signal(Signal::SIGSTOP).map_err(os("stop a process"))
            }
            _ => {
                self.all(Signal::SIGCONT);
                self.segment.give_back(self.me);
                self.segment.table().wake_for_room();
                Ok(())
            }
        }
    }

    fn kill(&mut self, seat: usize) -> Result<(), TortureError> {
        let Some(victim) = &mut self.seats[seat].running else { return Ok(()) };
        victim.was_killed = true;
        victim.child.signal(Signal::SIGKILL).map_err(os("kill a process"))?;
        // Nothing of the dead is touched before the kernel says that it is dead.
        let mut fds = [PollFd::new(victim.child.as_fd(), PollFlags::POLLIN)];
        while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
        self.reap(seat)
    }

    fn all(&self, signal: Signal) {
        for running in self.seats.iter().filter_map(|s| s.running.as_ref()) {
            // Who has ended meanwhile needs no signal.
            let _ = running.child.signal(signal);
        }
    }

    /// Sleeps until somebody ends, at most for `left`, and buries the dead.
    fn wait(&mut self, left: Duration) -> Result<(), TortureError> {
        self.keep_time()?;
        let until = Instant::now() + left;
        let left = self.clock.sleep(self.segment.table(), Some(until)).unwrap_or(left);
        let running = self.seats.iter().filter_map(|s| s.running.as_ref());
        let mut fds: Vec<_> = running.map(|r| PollFd::new(r.child.as_fd(), PollFlags::POLLIN)).collect();
        fds.push(PollFd::new(self.bell.as_fd(), PollFlags::POLLIN));
        // Rounded up, or the last millisecond would be spent spinning.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(os("wait for the processes")(e)),
        }
        drop(fds);
        self.clock.has_slept(self.segment.table());
        self.is_news |= self.bell.read().is_ok();
        (0..self.seats.len()).try_for_each(|seat| self.reap(seat))
    }

    /// What a coordinator does at its times: those who have run out of theirs are killed.
    fn keep_time(&mut self) -> Result<(), TortureError> {
        let late = self.clock.turn(self.segment.table(), &self.cursors, std::mem::take(&mut self.is_news), |_| None)?;
        for (name, _) in late {
            if let Some(seat) = self.seats.iter().position(|s| s.running.as_ref().is_some_and(|r| r.name == name)) {
                self.late += 1;
                self.kill(seat)?;
            }
        }
        Ok(())
    }

    /// If the process in this seat has ended: counts where it was hit, and settles what it owned.
    fn reap(&mut self, seat: usize) -> Result<(), TortureError> {
        let Some(exit) = self.seats[seat].running.as_ref().and_then(|r| r.child.try_reap()) else { return Ok(()) };
        let Some(Running { name, output, was_killed, .. }) = self.seats[seat].running.take() else { return Ok(()) };
        let role = self.seats[seat].role;
        let mut said = String::new();
        for pipe in output {
            // Whatever it wrote before its end is in the pipe by now, and no writer is left.
            let _ = File::from(pipe).read_to_string(&mut said);
        }
        if !said.is_empty() || !was_killed && exit != Exit::Code(0) {
            self.complaints.push(format!("{role} ended with {exit}: {}", said.trim_end()));
        }
        if was_killed {
            let hits = if role.name() == "worker" { &mut self.workers } else { &mut self.clients };
            hits.count(&self.segment, name);
        }
        if let Role::Worker(i) = role {
            self.ledger.workers[i].store(0, Relaxed);
        }
        if self.options.without_recovery {
            return Ok(());
        }
        let before = Instant::now();
        self.segment.table().recover(&self.cursors, self.me, name, Death::of(exit.pack()))?;
        self.recoveries.push(before.elapsed());
        self.is_news = true;
        self.segment.header().control.deaths.fetch_add(1, Release); // as the coordinator of a pool
        Ok(())
    }

    fn kill_all(&mut self) -> Result<(), TortureError> {
        self.all(Signal::SIGKILL);
        for seat in 0..self.seats.len() {
            self.kill(seat)?;
        }
        Ok(())
    }

    /// Does anything come back? Recoveries and stops take their time, so only a long silence counts.
    fn is_getting_on(&mut self) -> bool {
        let patience = if self.options.without_recovery { IMPATIENCE } else { PATIENCE };
        let delivered = self.ledger.delivered();
        if delivered != self.progress.0 {
            self.progress = (delivered, Instant::now());
        }
        self.progress.1.elapsed() < patience
    }
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::Worker(_) => "worker",
            Role::Client(_) => "client",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Role::Worker(i) | Role::Client(i)) = self;
        write!(f, "{}:{i}", self.name())
    }
}

impl Hits {
    /// Counts a death by what it left, before that is settled.
    fn count(&mut self, segment: &Segment, dead: Name) {
        let table = segment.table();
        let words = (0..table.descriptors.len()).map(|i| table.load(i as u16));
        let phases: Vec<_> = words.filter(|w| w.who() == dead.id()).filter_map(|w| w.phase()).collect();
        self.kills += 1;
        let left = |phase| phases.contains(&phase);
        if left(Phase::Claimed) {
            self.claimed += 1;
        } else if left(Phase::Reserved) {
            self.reserved += 1;
        } else if phases.iter().any(|p| matches!(p, Phase::Done(_))) {
            self.done += 1;
        } else if left(Phase::Ready) {
            self.ready += 1;
        }
    }
}

impl Report {
    /// Kills that a run of this length must reach, or it has shown little.
    fn wanted(&self) -> u64 {
        500.min(self.options.seconds * 10)
    }

    /// What is wrong, one line each; empty: every promise was kept.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = self.complaints.clone();
        if !self.missing.is_empty() {
            faults.push(format!(
                "{} accepted tasks never came back, such as {:?}",
                self.missing.len(),
                self.missing[0]
            ));
        }
        if !self.audit.is_clean() {
            faults.push(format!("the segment is not clean at the end: {}", self.audit));
        }
        let kills = self.workers.kills + self.clients.kills;
        if kills < self.wanted() {
            faults.push(format!("only {kills} kills of {} wanted: give it longer with --seconds", self.wanted()));
        }
        if self.workers.claimed == 0 {
            faults.push("no kill hit a claimed task: give it longer with --seconds".to_owned());
        }
        faults
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, ledger) = (self.took.as_secs_f64(), self.ledger);
        let delivered = ledger.delivered();
        write!(f, "tasks     submitted={} accepted={} delivered={delivered}", ledger.submitted(), ledger.accepted())?;
        for (outcome, n) in OUTCOMES.iter().zip(ledger.outcomes()) {
            write!(f, " {outcome:?}={n}")?;
        }
        for (role, h) in [("workers", self.workers), ("clients", self.clients)] {
            let Hits { kills, reserved, claimed, done, ready } = h;
            let idle = kills - reserved - claimed - done - ready;
            write!(
                f,
                "\n{role}   kills={kills}, that left: claimed={claimed} reserved={reserved} done={done} ready={ready} \
                 nothing={idle}"
            )?;
        }
        let mut recoveries = self.recoveries.clone();
        recoveries.sort_unstable();
        let median = recoveries.get(recoveries.len() / 2).copied().unwrap_or_default();
        let max = recoveries.last().copied().unwrap_or_default();
        write!(f, "\nrecovery  median={median:.0?} max={max:.0?}")?;
        let kills = self.workers.kills + self.clients.kills;
        write!(
            f,
            "\nrate      {:.1} s, {:.0} deliveries/s, {:.0} kills/s, {} stops, {} out of time",
            seconds,
            delivered as f64 / seconds,
            kills as f64 / seconds,
            self.stops,
            self.late
        )?;
        let leaked = self.audit.descriptors_in_use + self.audit.blocks_in_use + self.audit.violations.len();
        write!(
            f,
            "\nverdict   kills={kills} lost={} wrong={} leaked={leaked}",
            self.missing.len(),
            self.complaints.len()
        )
    }
}
