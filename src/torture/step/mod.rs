//! Kill at every instruction: a child runs one path of the library and is killed after its instruction `k`, for each `k`.
//!
//! Each kill has a process of its own, forked from one that never changes: it makes a fresh segment ([`stage`]), forks the
//! victim, brings it to its instruction ([`tracer`]), kills it, settles the death as a coordinator does, has healthy
//! parties finish what is left, and judges. All share one CPU, on which a step costs the least; around a system call the
//! kill falls before and after, and a sleeper is killed asleep as well.
//!
//! Some paths are stopped instead ([`Blow::Stop`]): the others do meanwhile what would mislead a slow one, then it goes on
//! to its end, and no recovery mends what it does there.

mod stage;
mod tracer;

use super::{TortureError, forked, os};
use crate::{
    exec::endpoint::To,
    lockfree::{table::Again, word::Outcome},
};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity},
    sys::wait::{WaitStatus, waitpid},
    unistd::{Pid, alarm},
};
use stage::{BLOCK, End, INLINE, Order, SLOTS, Stage, Victim};
use std::fmt;
use tracer::{Trace, Traced, Wake, be_traced};

/// What to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Kills after each `stride`-th instruction.
    pub(crate) stride: usize,
    /// Shows that a fault is found.
    pub(crate) without: Option<Without>,
}

/// What is left out, so that there is a fault to be found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Without {
    /// The dead are left as they are.
    Recovery,
    /// A descriptor's next life has the generation of the one before.
    Generation,
}

/// Bits of a verdict, as the exit code of the process that judged.
const LOST: u8 = 1;
const DOUBLED: u8 = 2;
const LEAKED: u8 = 4;
/// The victim did not arrive at its instruction.
const ASTRAY: u8 = 8;
const FAULTS: u8 = LOST | DOUBLED | LEAKED;

/// How often a path is recorded, and how often a victim that goes another way is started again.
const RECORDS: usize = 5;
const TRIES: usize = 20;
/// A path with so many faulty kills is bad enough.
const ENOUGH: usize = 10;
const ENOUGH_TO_SHOW: usize = 1;
/// Seconds after which a judgement that waits has lost a wake-up.
const PATIENCE: u32 = 60;
/// The same where that is to be expected.
const IMPATIENCE: u32 = 1;

/// A path, and what stands around it.
struct Path {
    name: &'static str,
    victim: Victim,
    /// What is there before the victim begins.
    prepare: fn(&mut Stage) -> Result<(), String>,
    /// The path itself. An error or `false` is a fault of the set-up.
    act: fn(&Stage) -> Result<bool, String>,
    blow: Blow,
    sleep: Sleep,
    order: Order,
    /// How many descriptors there are. More than a lane has slots, where a lane is to overflow.
    descriptors: u32,
}

/// What happens to the victim at its instruction.
#[derive(Clone, Copy)]
enum Blow {
    Kill,
    /// It is stopped, the others do this, and it goes on to its end.
    Stop(fn(&Stage) -> Result<(), String>),
}

impl Blow {
    /// Is it one of those that show what is lost without this?
    fn shows(self, without: Without) -> bool {
        matches!((self, without), (Blow::Kill, Without::Recovery) | (Blow::Stop(_), Without::Generation))
    }
}

/// Who sleeps while the path runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sleep {
    Nobody,
    /// Another worker.
    Other,
    /// Another worker, and the victim, until a task is submitted.
    Both,
}

const ONCE: &[Outcome] = &[Outcome::Completed];
const ONCE_OR_DIED: &[Outcome] = &[Outcome::Completed, Outcome::WorkerDied];
const ONCE_OR_CANCELLED: &[Outcome] = &[Outcome::Completed, Outcome::Cancelled];
const ONCE_OR_ADDRESSEE_DIED: &[Outcome] = &[Outcome::Completed, Outcome::AddresseeDied];
/// More descriptors than a lane has slots.
const CROWD: u32 = SLOTS + 8;

/// Nobody sleeps, and nobody is faster than the coordinator.
const PLAIN: Path = Path {
    name: "",
    victim: Victim::Worker,
    prepare: |_| Ok(()),
    act: |_| Ok(true),
    blow: Blow::Kill,
    sleep: Sleep::Nobody,
    order: Order::Plain,
    descriptors: 8,
};

/// A worker, or a canceller, looks at a task whose descriptor has another life by the time of its exchange.
const NEXT_LIFE: Path =
    Path { prepare: |s| s.expect(INLINE, 2, ONCE_OR_CANCELLED), act: |s| s.work(s.worker), ..PLAIN };
/// The coordinator has a dead worker's death to settle.
const RECOVER: Path =
    Path { victim: Victim::Coordinator, prepare: Stage::leave_everything, act: Stage::recover, ..PLAIN };

const PATHS: [Path; 41] = [
    Path { name: "submit", victim: Victim::Client, act: |s| s.submit(&s.client, INLINE, 1, 3), ..PLAIN },
    Path { name: "submit-block", victim: Victim::Client, act: |s| s.submit(&s.client, BLOCK, 1, 3), ..PLAIN },
    Path {
        name: "submit-block-claimed-early",
        victim: Victim::Client,
        act: |s| s.submit(&s.client, BLOCK, 1, 3),
        order: Order::ClaimedEarly,
        ..PLAIN
    },
    Path { name: "abandon-block", victim: Victim::Client, act: |s| s.abandon(&s.client), ..PLAIN },
    Path { name: "claim-run-complete", prepare: |s| s.expect(INLINE, 2, ONCE), act: |s| s.work(s.worker), ..PLAIN },
    Path {
        name: "claim-run-complete-block",
        prepare: |s| s.expect(BLOCK, 2, ONCE),
        act: |s| s.work(s.worker),
        ..PLAIN
    },
    Path {
        name: "claim-run-complete-last-attempt",
        prepare: |s| s.expect(BLOCK, 1, ONCE_OR_DIED),
        act: |s| s.work(s.worker),
        ..PLAIN
    },
    Path {
        name: "take",
        victim: Victim::Client,
        prepare: |s| s.leave_result(INLINE),
        act: |s| s.take(&s.client),
        ..PLAIN
    },
    Path {
        name: "take-block",
        victim: Victim::Client,
        prepare: |s| s.leave_result(BLOCK),
        act: |s| s.take(&s.client),
        ..PLAIN
    },
    Path {
        name: "take-renew-submit",
        victim: Victim::Client,
        prepare: |s| s.leave_result(BLOCK),
        act: |s| s.take_and_submit(INLINE),
        ..PLAIN
    },
    Path {
        name: "take-renew-submit-block",
        victim: Victim::Client,
        prepare: |s| s.leave_result(BLOCK),
        act: |s| s.take_and_submit(BLOCK),
        ..PLAIN
    },
    Path { name: "park", prepare: Stage::expect_later, act: Stage::park, sleep: Sleep::Both, ..PLAIN },
    Path {
        name: "wake",
        victim: Victim::Client,
        act: |s| s.submit(&s.client, INLINE, 1, 3),
        sleep: Sleep::Other,
        ..PLAIN
    },
    Path { name: "give-back", victim: Victim::Coordinator, act: Stage::give_back, ..PLAIN },
    Path {
        name: "cancel",
        victim: Victim::Client,
        prepare: |s| s.expect(BLOCK, 1, ONCE_OR_CANCELLED),
        act: Stage::cancel,
        ..PLAIN
    },
    Path {
        name: "cancel-claimed-early",
        victim: Victim::Client,
        prepare: |s| s.expect(BLOCK, 1, ONCE_OR_CANCELLED),
        act: Stage::cancel,
        order: Order::ClaimedEarly,
        ..PLAIN
    },
    Path { name: "submit-addressed", victim: Victim::Client, act: |s| s.address(&s.spare), ..PLAIN },
    Path {
        name: "submit-addressed-to-the-dead",
        victim: Victim::Client,
        prepare: |s| s.recover().map(drop),
        act: |s| s.address(s.worker),
        ..PLAIN
    },
    Path {
        name: "claim-addressed",
        prepare: |s| s.expect_addressed(ONCE_OR_ADDRESSEE_DIED),
        act: |s| s.work_in(s.worker, s.worker.private()),
        ..PLAIN
    },
    Path {
        name: "submit-into-a-full-lane",
        prepare: Stage::fill_queue,
        act: |s| s.submit(s.worker, INLINE, 1, 3),
        descriptors: CROWD,
        ..PLAIN
    },
    Path {
        name: "claim-after-an-overflow",
        prepare: Stage::leave_without_hint,
        act: |s| s.work(s.worker),
        descriptors: CROWD,
        ..PLAIN
    },
    Path {
        name: "complete-into-a-full-lane",
        prepare: Stage::fill_completion_lane,
        act: |s| s.work(s.worker),
        descriptors: CROWD,
        ..PLAIN
    },
    Path { name: "retry", prepare: |s| s.expect(BLOCK, 3, ONCE), act: |s| s.retry(Again::After(1)), ..PLAIN },
    Path { name: "hand-back", prepare: |s| s.expect(BLOCK, 2, ONCE), act: |s| s.retry(Again::SameAttempt), ..PLAIN },
    Path { name: "checkpoint", prepare: |s| s.expect(BLOCK, 2, ONCE), act: |s| s.work_by_checkpoints(1), ..PLAIN },
    Path { name: "next-checkpoint", prepare: |s| s.expect(BLOCK, 2, ONCE), act: |s| s.work_by_checkpoints(2), ..PLAIN },
    Path {
        name: "retry-what-is-cancelled",
        prepare: |s| s.expect(BLOCK, 2, ONCE_OR_CANCELLED),
        act: Stage::retry_what_is_cancelled,
        ..PLAIN
    },
    Path { name: "complete-for-the-dead", prepare: Stage::hold_for_the_dead, act: Stage::complete_held, ..PLAIN },
    Path { name: "retry-for-the-dead", prepare: Stage::hold_for_the_dead, act: Stage::retry_held, ..PLAIN },
    Path { name: "meet-the-expired", prepare: Stage::expect_too_late, act: Stage::meet_the_expired, ..PLAIN },
    Path { name: "tick", victim: Victim::Coordinator, prepare: Stage::leave_what_is_due, act: Stage::tick, ..PLAIN },
    Path { name: "submit-with-times", victim: Victim::Client, act: Stage::submit_with_times, ..PLAIN },
    Path {
        name: "claim-stopped-next-life-same-queue",
        blow: Blow::Stop(|s| s.next_life(End::Cancelled, To::Queue(0))),
        ..NEXT_LIFE
    },
    Path {
        name: "claim-stopped-next-life-other-queue",
        blow: Blow::Stop(|s| s.next_life(End::Cancelled, To::Queue(1))),
        ..NEXT_LIFE
    },
    Path {
        name: "claim-stopped-next-life-addressed",
        blow: Blow::Stop(|s| s.next_life(End::Cancelled, To::Participant(s.spare.name()))),
        ..NEXT_LIFE
    },
    Path {
        name: "claim-stopped-ran-next-life-same-queue",
        blow: Blow::Stop(|s| s.next_life(End::Ran, To::Queue(0))),
        ..NEXT_LIFE
    },
    Path {
        name: "claim-stopped-ran-next-life-addressed",
        blow: Blow::Stop(|s| s.next_life(End::Ran, To::Participant(s.spare.name()))),
        ..NEXT_LIFE
    },
    Path {
        name: "claim-stopped-ran-renewed-life-addressed",
        blow: Blow::Stop(|s| s.renewed_life(To::Participant(s.spare.name()))),
        ..NEXT_LIFE
    },
    Path {
        name: "cancel-stopped-ran-next-life",
        act: Stage::cancel,
        blow: Blow::Stop(|s| s.next_life(End::Ran, To::Queue(0))),
        ..NEXT_LIFE
    },
    Path { name: "recover", ..RECOVER },
    Path { name: "recover-then-worker-first", order: Order::WorkerFirst, ..RECOVER },
];

/// What a path came to.
#[derive(Default)]
pub(crate) struct Row {
    path: &'static str,
    instructions: usize,
    /// What was done at them: `kills` or `stops`.
    blow: &'static str,
    blows: usize,
    lost: usize,
    doubled: usize,
    leaked: usize,
}

impl Row {
    /// Was every promise kept, wherever the victim died?
    pub(crate) fn is_clean(&self) -> bool {
        self.faults() == 0
    }

    fn faults(&self) -> usize {
        self.lost + self.doubled + self.leaked
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { path, instructions, blow, blows, lost, doubled, leaked } = self;
        write!(f, "{path} instructions={instructions} {blow}={blows} lost={lost} doubled={doubled} leaked={leaked}")
    }
}

/// When the victim is killed or stopped.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// After so many instructions.
    After(usize),
    Asleep,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Moment::After(k) => write!(f, "after instruction {k}"),
            Moment::Asleep => f.write_str("asleep"),
        }
    }
}

/// Kills at each instruction of each path, and says of each what it came to. This process must have one thread.
///
/// # Errors
/// What could not be carried out. What was found stands in the rows.
pub(crate) fn run(options: Options, observer: &mut dyn FnMut(&Row)) -> Result<bool, TortureError> {
    pin()?;
    let mut is_clean = true;
    for path in PATHS.iter().filter(|path| options.without.is_none_or(|without| path.blow.shows(without))) {
        let row = path.run(options)?;
        is_clean &= row.is_clean();
        observer(&row);
    }
    Ok(is_clean)
}

/// Keeps this process and all its children to the CPU on which it is.
fn pin() -> Result<(), TortureError> {
    let own = Pid::from_raw(0);
    let allowed = sched_getaffinity(own).map_err(os("read the CPU affinity"))?;
    let here = sched_getcpu().map_err(os("ask for the CPU"))?;
    let cpu = (here..CpuSet::count()).chain(0..here).find(|&cpu| allowed.is_set(cpu).unwrap_or(false)).unwrap_or(here);
    let mut one = CpuSet::new();
    one.set(cpu).and_then(|()| sched_setaffinity(own, &one)).map_err(os("keep to one CPU"))
}

impl Path {
    fn run(&'static self, options: Options) -> Result<Row, TortureError> {
        // The clock is read in a loop that takes another turn when the kernel sets it meanwhile: seldom, except while it is
        // stepped through. So the shortest way is the usual one.
        let traces: Result<Vec<_>, _> = (0..RECORDS).map(|_| self.record()).collect();
        let trace = traces?.into_iter().min_by_key(Trace::len).unwrap_or_default();
        let n = trace.len();
        let blow = if matches!(self.blow, Blow::Kill) { "kills" } else { "stops" };
        let mut row = Row { path: self.name, instructions: n, blow, ..Row::default() };
        let asleep = (self.sleep == Sleep::Both).then_some(Moment::Asleep);
        let mut tries = 0;
        let mut moments = (1..=n).step_by(options.stride).map(Moment::After).chain(asleep).peekable();
        while let Some(&moment) = moments.peek() {
            let trial = forked(|| match self.trial(&trace, moment, options.without) {
                Ok(bits) => bits,
                Err(error) => {
                    eprintln!("{}: {error}", self.name);
                    101
                }
            })?;
            let end = waitpid(trial, None).map_err(os("wait for a trial"))?;
            match end {
                WaitStatus::Exited(_, bits) if bits as u8 == ASTRAY && tries < TRIES => {
                    tries += 1;
                    continue;
                }
                _ => {}
            }
            (tries, _) = (0, moments.next());
            row.blows += 1;
            match end {
                WaitStatus::Exited(_, bits) if bits as u8 & !FAULTS == 0 => {
                    row.lost += usize::from(bits as u8 & LOST != 0);
                    row.doubled += usize::from(bits as u8 & DOUBLED != 0);
                    row.leaked += usize::from(bits as u8 & LEAKED != 0);
                }
                WaitStatus::Exited(_, bits) if bits as u8 == ASTRAY => {
                    return Err(TortureError::Astray { path: self.name, moment: moment.to_string() });
                }
                // By the alarm, or by a panic.
                end => {
                    eprintln!("{}, {moment}: nothing goes on any more: {end:?}", self.name);
                    row.lost += 1;
                }
            }
            if row.faults() >= if options.without.is_some() { ENOUGH_TO_SHOW } else { ENOUGH } {
                break;
            }
        }
        Ok(row)
    }

    /// What stands around the path, and the child that runs it, stopped before its first instruction.
    fn begin<'s>(&'static self, stage: &'s mut Stage) -> Result<(&'s Stage, Traced<'s>), TortureError> {
        let path = |why| TortureError::Path { path: self.name, why };
        stage.warm_up().and_then(|()| (self.prepare)(stage)).map_err(path)?;
        let stage: &Stage = stage;
        if self.sleep != Sleep::Nobody {
            stage.start_sleeper()?;
        }
        let child = forked(|| {
            be_traced(|| match (self.act)(stage) {
                Ok(true) => {}
                // Whoever was stopped may find that others have done everything.
                Ok(false) if !matches!(self.blow, Blow::Kill) => {}
                end => panic!("{}: {end:?}", self.name),
            })
        })?;
        let wake: Option<Wake<'s>> = match self.sleep {
            Sleep::Both => Some(Box::new(|| stage.submit_once())),
            _ => None,
        };
        Ok((stage, Traced::new(child, wake)?))
    }

    fn record(&'static self) -> Result<Trace, TortureError> {
        let mut stage = Stage::new(self.descriptors, false)?;
        let (stage, mut child) = self.begin(&mut stage)?;
        let trace = child.record()?;
        child.kill()?;
        stage.judge(self.victim, self.order, false)?;
        Ok(trace)
    }

    /// In a process of its own: one blow, and the verdict on it.
    fn trial(&'static self, trace: &Trace, moment: Moment, without: Option<Without>) -> Result<u8, TortureError> {
        let path = |why| TortureError::Path { path: self.name, why };
        alarm::set(if without == Some(Without::Recovery) { IMPATIENCE } else { PATIENCE });
        let mut stage = Stage::new(self.descriptors, without == Some(Without::Generation))?;
        let (stage, mut child) = self.begin(&mut stage)?;
        match moment {
            Moment::After(k) if !child.advance(trace, k)? => return Ok(ASTRAY),
            Moment::After(_) => {}
            Moment::Asleep => child.fall_asleep()?,
        }
        let is_dead = match self.blow {
            Blow::Kill => {
                child.kill()?;
                true
            }
            Blow::Stop(meanwhile) => {
                meanwhile(stage).map_err(path)?;
                child.finish()?;
                false
            }
        };
        if self.sleep == Sleep::Both {
            stage.submit_once().map_err(path)?;
        }
        let without_recovery = !is_dead || without == Some(Without::Recovery);
        let verdict = stage.judge(self.victim, self.order, without_recovery)?;
        for words in &verdict.words {
            eprintln!("{}, {moment}: {words}", self.name);
        }
        Ok(verdict.bits)
    }
}
