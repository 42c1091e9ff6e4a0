//! Time: delays, expiry and deadlines. The coordinator sees to them all; of what has expired a worker that meets it
//! sooner ends it as well (`claim`). And wakes that nobody answers.
//!
//! # Pool time
//!
//! CLOCK_MONOTONIC less the time in which the whole pool was stopped: what a stop costs is nobody's fault. All times in
//! descriptors are pool times, in nanoseconds.
//!
//! # States
//!
//! `armed`: a time, while the coordinator sleeps until then; NEVER, while it looks or while nothing has a time.
//!
//! `watched`: `0 → RAISED → RAISED, SEEN → 0`: nothing to look for; somebody was woken; the coordinator will look; it
//! looks.
//!
//! # Words
//!
//! | word      | written by            | read by         | a death leaves                                 |
//! |-----------|-----------------------|-----------------|------------------------------------------------|
//! | `armed`   | the coordinator; NEVER| who sets a time | (its successor arms anew before it sleeps)     |
//! |           | by who makes it       |                 |                                                |
//! | `paused`  | the coordinator       | all             | time that counts though the pool stood still   |
//! | `watched` | wakers (RAISED), the  | wakers, the     | a ring that was not rung: the next waker rings |
//! |           | coordinator (SEEN, 0) | coordinator     |                                                |
//! | `popu-`   | the coordinator, each | who asks        | one too many or too few, until its successor   |
//! | `lation`  | time from `member`s   | whether to spin | counts: a spin too long, or a sleep too soon   |
//!
//! # Invariants
//!
//! 1. Whoever gives a task a time tells the coordinator, if that would sleep longer. So a timer needs no process that waits.
//! 2. A task with [`Limits`] is looked at no later than they allow after it became READY; from then on its owner's word
//!    `started` tells. So a claim rings nobody. An owner that has not said yet when it began, since it is stopped or about to,
//!    began when the coordinator first saw it. A worker that limits what it runs already tells the coordinator (invariant 1).
//!
//! # Ordering
//!
//! - \[timer] Who sets a time exchanges the task word, fences (SeqCst), then loads `armed`. The coordinator stores `armed` =
//!   never (everything rings), fences (SeqCst), then reads the task words. Either it sees the word, or its sleep is ended.
//! - \[watch] A waker pushes, marks a sleeper as woken or finds it so, fences (SeqCst), then looks at `watched`. The coordinator
//!   lowers it, fences (SeqCst), then looks at lanes and sleepers. Either it sees hint and mark, or it is rung.
//!
//! # Crash
//!
//! Who dies between setting a time and ringing leaves a death, after which the coordinator looks at all tasks anyway.
//! Who is only stopped there leaves a time of which the coordinator hears when that one goes on, or at its next tick
//! for whatever else.
//!
//! A worker that was woken may be stopped, and so may its waker, before FUTEX_WAKE or before the bell. What of that
//! holds up others [`Table::look`] finishes, some milliseconds after `watched` was raised; until the coordinator has
//! said by SEEN that it knows, each who raises it rings.
//!
//! # Progress
//!
//! Wait-free for all but the coordinator: a store, a load, at most one system call. The coordinator's `tick` looks at
//! each task once, and again only where another has moved it.
//!
//! What checks this page: `loom_timer.rs`, `loom_retry.rs` and `mutants.rs` in `lockfree/tests/`, `exec/tests.rs`,
//! `process/clock.rs`, `shmworker torture --wakes` (stops), and `--single-step` (`tick`, `submit-with-times`, `retry`).

use super::{
    descriptor::{Limits, Span},
    participant::{Name, Participant},
    table::{Cursors, Table, TaskId, damaged},
    word::{Member, Outcome, Phase, Task},
};
use crate::{
    error::Corrupted,
    sync::{AcqRel, Acquire, AtomicU32, AtomicU64, Relaxed, Release, fence, full_fence, monotonic, mutant, told},
};

/// No time.
pub(crate) const NEVER: u64 = u64::MAX;

/// What the coordinator and all who may have to rouse it share.
#[repr(C, align(128))]
pub(crate) struct Alarm {
    /// Pool time until which the coordinator sleeps; [`NEVER`] while it looks.
    pub(crate) armed: AtomicU64,
    /// Nanoseconds in which the pool was stopped, so far.
    pub(crate) paused: AtomicU64,
    /// [`RAISED`], [`SEEN`]: the coordinator is to look, soon, whether wakes were answered.
    pub(crate) watched: AtomicU32,
    /// How many participants live. The coordinator counts them; for who asks whether to spin.
    pub(crate) population: told::AtomicU32,
}

#[cfg(all(test, any(loom, shuttle)))]
impl Alarm {
    pub(crate) fn new() -> Alarm {
        Alarm {
            armed: AtomicU64::new(0),
            paused: AtomicU64::new(0),
            watched: AtomicU32::new(1),
            population: Default::default(),
        }
    }
}

/// Somebody was woken, and may be stopped; or its waker may.
pub(crate) const RAISED: u32 = 1;
/// The coordinator knows. Until then each who has it watch rouses it: the first may be stopped short of that.
pub(crate) const SEEN: u32 = 2;

/// What the coordinator remembers from one [`look`](Table::look) to the next: where each queue's head was.
#[derive(Debug, Default)]
pub(crate) struct Looks(Vec<u64>);

/// What of its time an attempt could not use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Excused {
    /// So much longer it may take.
    pub(crate) ns: u64,
    /// Pool time at which to ask again, however much is left.
    pub(crate) look_at: u64,
}

/// What a look at all times came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tick {
    /// Pool time of the next one; [`NEVER`]: there is none.
    pub(crate) next: u64,
    /// Tasks whose attempt has gone on, or has been silent, for too long, and who runs them.
    pub(crate) late: Vec<(Name, TaskId)>,
}

impl Table<'_> {
    /// Pool time.
    pub(crate) fn now(&self) -> u64 {
        // Relaxed: nothing is concluded from it but the time, which may be that of a moment ago.
        monotonic().saturating_sub(self.alarm.paused.load(Relaxed))
    }

    /// The pool has stood still for so many nanoseconds. Coordinator only.
    pub(crate) fn was_stopped(&self, ns: u64) {
        let word = &self.alarm.paused;
        word.store(word.load(Relaxed).saturating_add(ns), Relaxed); // no other writer
        self.clock.was_stopped(ns);
    }

    /// Who has exchanged the word of a task which has to do with this time tells the coordinator.
    ///
    /// So does the worker that has limited an attempt of its own while that runs.
    pub(crate) fn arm(&self, cursors: &Cursors, time: u64) {
        full_fence("no-timer-fence"); // [timer]; after it any load would do
        if time < self.alarm.armed.load(Acquire) && !mutant("no-timer-ring") {
            cursors.bell.ring();
        }
    }

    /// Moves all tasks whose time has come, and says who has run out of it. Coordinator only: whenever it is rung, when the
    /// time that it got has come, and after each death.
    ///
    /// # Errors
    /// [`Corrupted`] if a word or lane is damaged.
    pub(crate) fn tick(&self, cursors: &Cursors) -> Result<Tick, Corrupted> {
        self.tick_with(cursors, |_, _, _, _| Excused { ns: 0, look_at: NEVER })
    }

    /// As [`tick`](Self::tick). `excuse` says of who runs a task how much of a span of its, until now, does not count.
    ///
    /// # Errors
    /// [`Corrupted`] if a word or lane is damaged.
    pub(crate) fn tick_with(
        &self,
        cursors: &Cursors,
        mut excuse: impl FnMut(Name, TaskId, Span, u64) -> Excused,
    ) -> Result<Tick, Corrupted> {
        self.alarm.armed.store(NEVER, Relaxed);
        full_fence("no-tick-fence"); // [timer]
        let now = self.now();
        let mut tick = Tick { next: NEVER, late: Vec::new() };
        for index in 0..self.descriptors.len() {
            self.tick_one(cursors, index as u16, now, &mut tick, &mut excuse)?;
        }
        // What gets an earlier time from here on rings; what got one during the look rang as well. Release: [timer] needs the
        // fence above alone.
        self.alarm.armed.store(tick.next, Release);
        Ok(tick)
    }

    fn tick_one(
        &self,
        cursors: &Cursors,
        index: u16,
        now: u64,
        tick: &mut Tick,
        excuse: &mut impl FnMut(Name, TaskId, Span, u64) -> Excused,
    ) -> Result<(), Corrupted> {
        let d = &self.descriptors[index as usize];
        'word: loop {
            let word = self.load(index);
            let next = match word.phase() {
                // Relaxed, for what waits: if a time is of a later life or attempt, who has begun that rings.
                Some(Phase::Ready | Phase::Delayed) => {
                    let outcome = self.is_over(index, word, now);
                    if let Some(outcome) = outcome {
                        let done = word.to(Phase::Done(outcome), word.who());
                        if self.exchange(index, word, done, AcqRel).is_ok() {
                            return self.announce_done(cursors, index, done, None);
                        }
                        continue; // claimed, or cancelled by another
                    }
                    let expires = d.expires.load(Relaxed);
                    let next = if expires == 0 { NEVER } else { expires };
                    if word.is(Phase::Delayed) {
                        let not_before = d.not_before.load(Relaxed);
                        if not_before <= now {
                            self.wake_up(cursors, index, word)?;
                            continue; // whoever claims it, its limits are to be looked at
                        }
                        next.min(not_before)
                    } else {
                        // It may be claimed from now on, by one who is stopped before it can say when.
                        next.min(Limits::of(d.limits.load(Relaxed)).first_look(now))
                    }
                }
                Some(Phase::Claimed) => {
                    // Acquire: the worker may have set them just now, and before them when it began.
                    let limits = Limits::of(d.limits.load(Acquire));
                    if limits == Limits::default() {
                        return Ok(());
                    }
                    let (started, heartbeat) = self.times(cursors, index, word, now);
                    let member = self.participant(word.who())?.member(word.who().into())?;
                    // What was read above is of this claim, if the word still is.
                    fence(Acquire);
                    if self.load(index) != word {
                        continue;
                    }
                    match member {
                        Member::Live(n) => {
                            let (who, task) =
                                (Name::new(word.who(), n), TaskId { index, generation: word.generation() });
                            let mut next = NEVER;
                            for span in limits.spans(started, heartbeat) {
                                let excused = excuse(who, task, span, now);
                                let end = span.end().saturating_add(excused.ns);
                                if end <= now {
                                    // Asking took a while, in which it may have ended: its worker is killed for nothing, then.
                                    if self.load(index) != word {
                                        continue 'word;
                                    }
                                    tick.late.push((who, task));
                                    return Ok(());
                                }
                                next = next.min(end).min(excused.look_at);
                            }
                            next
                        }
                        // Recovery settles it; a time that is over would have the coordinator look again and again.
                        Member::Dead(_) => return Ok(()),
                        Member::Vacant(_) => return Err(damaged(index, word)),
                    }
                }
                Some(_) => return Ok(()),
                None => return Err(damaged(index, word)),
            };
            tick.next = tick.next.min(next);
            return Ok(());
        }
    }

    /// Does this life of this task run in this participant's process, as far as its word says?
    pub(crate) fn is_claimed_by(&self, who: Name, id: TaskId) -> bool {
        let word = self.load(id.index);
        word.is(Phase::Claimed) && word.generation() == id.generation && word.who() == who.id()
    }

    /// Pool time at which the attempt of this claim began, and last spoke. For the coordinator.
    ///
    /// Not marked in the descriptor: a mark that came late would count against the next claim.
    fn times(&self, cursors: &Cursors, index: u16, claimed: Task, now: u64) -> (u64, u64) {
        let d = &self.descriptors[index as usize];
        let run = d.run_of(claimed);
        // [sign] The heartbeat first: a worker that hands its task back and claims it again has the word that it had. Who sees
        // the heartbeat of the second claim sees its beginning, and who does not see it takes neither for silent.
        let heartbeat = run.map_or(0, |_| d.heartbeat.load(Acquire));
        let started = match run.map_or(0, |run| run.started.load(Relaxed)) {
            0 => cursors.first_seen(index, claimed, now),
            started => started,
        };
        (started, heartbeat)
    }

    /// How a task that waits has ended already, if it has.
    pub(crate) fn is_over(&self, index: u16, word: Task, now: u64) -> Option<Outcome> {
        let d = &self.descriptors[index as usize];
        let expires = d.expires.load(Relaxed);
        if self.is_cancel_asked(index, word) {
            Some(Outcome::Cancelled)
        } else if expires != 0 && expires <= now {
            Some(Outcome::Expired)
        } else {
            None
        }
    }

    /// DELAYED → READY, unless something else has become of it.
    fn wake_up(&self, cursors: &Cursors, index: u16, word: Task) -> Result<(), Corrupted> {
        let d = &self.descriptors[index as usize];
        let (lane, addressee) = (self.lane_of(index, d)?, self.addressee(d));
        let ready = word.to(Phase::Ready, word.who());
        if self.exchange(index, word, ready, AcqRel).is_ok() {
            self.announce_ready(cursors, index, ready, lane, addressee)?;
        }
        Ok(())
    }

    // ---- wakes that nobody answers ----------------------------------------------------------------------------------

    /// Who has woken a worker, or met one that was woken and has not come yet, has the coordinator look, in a while, whether it
    /// came.
    pub(crate) fn have_watched(&self, cursors: &Cursors) {
        full_fence("no-watch-fence"); // [watch]
        if mutant("no-watch-ring") {
            return;
        }
        let word = &self.alarm.watched;
        // Relaxed: [watch]. Both up, so the look that will lower them comes after the fence above.
        if word.load(Relaxed) != RAISED | SEEN && word.fetch_or(RAISED, AcqRel) & SEEN == 0 {
            cursors.bell.announce();
        }
    }

    /// Is there to be a [`look`](Self::look)? Coordinator only, after each sleep.
    pub(crate) fn is_watched(&self) -> bool {
        let word = &self.alarm.watched;
        // Relaxed: who raises what is not seen here finds SEEN down, and its ring ends the next sleep.
        word.load(Relaxed) != 0 && word.fetch_or(SEEN, AcqRel) != 0
    }

    /// Finishes what a stopped process may have begun: wakes another for each queue that has stood still since the last look
    /// though somebody sleeps before it, and wakes who was marked as woken and sleeps on. Coordinator only, some milliseconds
    /// after it was had to watch, and then for as long as this returns true.
    pub(crate) fn look(&self, cursors: &Cursors, last: &mut Looks) -> bool {
        // First: who raises it from here on is looked after by another look, who raised it before by this one.
        self.alarm.watched.swap(0, AcqRel);
        full_fence("no-look-fence"); // [watch]
        last.0.resize(self.queues, NEVER);
        let mut is_waiting = false;
        for (queue, last) in last.0.iter_mut().enumerate() {
            let lane = self.lane(self.queue(queue));
            let cursor = cursors.of(self.queue(queue));
            if !lane.has_work(cursor) || self.sleepers(queue).next().is_none() {
                *last = NEVER;
                continue;
            }
            is_waiting = true;
            let head = cursor.head();
            if std::mem::replace(last, head) == head {
                self.wake_one(cursors, queue);
            }
        }
        // Last: who was marked before it was looked for above is met here, and who is marked later was found asleep.
        self.participants.iter().for_each(Participant::finish_wake);
        is_waiting
    }
}
