//! One small pool for one kill: who takes part, and the judgement after it.
//!
//! All parties but the victim live in one process, which is the tracer too. That is enough: what they do here they do one
//! after the other, and it is the victim alone that stops anywhere. Where somebody must really sleep, a process of its
//! own does ([`Stage::start_sleeper`]).

use super::{DOUBLED, LEAKED, LOST, ONCE};
use crate::{
    error::Corrupted,
    exec::endpoint::{Claimed, Draft, Endpoint, Finished, STATUS_OK, Submission, To},
    lockfree::{
        descriptor::Limits,
        participant::{Name, Participant},
        recovery::Death,
        table::{Again, Cancel, Cursors, LaneId, Table, TaskId},
        word::{Outcome, Phase, Task},
    },
    mem::{
        layout::{Geometry, classes},
        segment::Segment,
    },
    process::{Mode, exit::Exit, spawn::state},
    sync::Release,
    torture::{TortureError, fill, forked, os},
};
use nix::{
    sys::{
        signal::Signal,
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};
use std::{
    cell::{Cell, RefCell},
    mem::ManuallyDrop,
    sync::Arc,
    time::Duration,
};

/// A payload inside a descriptor, and one that takes a block.
pub(super) const INLINE: usize = 64;
pub(super) const BLOCK: usize = 300;
/// How victims end.
const KILLED: Exit = Exit::Signal(Signal::SIGKILL as u8);
/// Slots of each lane.
pub(super) const SLOTS: u32 = 16;
const QUEUES: usize = 2;
/// The first operation of a path is the 16th of its kind, and publishes its cursor.
const WARM_UP: u64 = 15;

/// The parties, before the kill.
pub(super) struct Stage {
    segment: Arc<Segment>,
    coordinator: (Name, Cursors),
    successor: (Name, Cursors),
    pub(super) client: Endpoint,
    pub(super) worker: &'static Endpoint,
    /// What the worker holds since before the path; its drop would be an answer.
    held: Cell<Option<ManuallyDrop<Claimed<'static>>>>,
    /// Does what the victim leaves.
    pub(super) spare: Endpoint,
    /// A worker in a process of its own.
    sleeper: Cell<Option<Pid>>,
    payload: [u8; BLOCK],
    /// What must come back to the client.
    expected: RefCell<Vec<Expected>>,
    /// What the client was given before the judgement.
    came: RefCell<Vec<Came>>,
    /// Submitted already, by whoever woke the victim.
    has_submitted: Cell<bool>,
    /// The client's last task, to cancel or to end.
    last: Cell<Option<TaskId>>,
    /// Shows that a fault is found: a next life has the generation of the one before.
    without_generation: bool,
}

struct Expected {
    tag: u64,
    outcomes: &'static [Outcome],
    /// Who must not have run it.
    barred: Option<Name>,
}

/// A result as it came.
#[derive(Debug)]
struct Came {
    tag: u64,
    outcome: Outcome,
    is_right: bool,
    claimant: Option<Name>,
}

/// How a task ends while a worker that was about to claim it is stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Cancelled,
    /// Another worker was faster.
    Ran,
}

/// What a judgement found: bits of the verdict, and words for people.
#[derive(Default)]
pub(super) struct Verdict {
    pub(super) bits: u8,
    pub(super) words: Vec<String>,
}

impl Verdict {
    fn add(&mut self, bit: u8, words: impl Into<String>) {
        self.bits |= bit;
        self.words.push(words.into());
    }
}

/// Who is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Victim {
    Client,
    Worker,
    /// Kills the coordinator while it recovers the dead worker.
    Coordinator,
}

/// In which order a death is settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    Plain,
    /// What the victim left is claimed before its death is settled, and completed after it.
    ClaimedEarly,
    /// The successor of a coordinator settles the worker's death before the coordinator's.
    WorkerFirst,
}

pub(super) fn unfit(e: impl std::fmt::Display) -> String {
    e.to_string()
}

impl Stage {
    pub(super) fn new(descriptors: u32, without_generation: bool) -> Result<Stage, TortureError> {
        let segment = Arc::new(Segment::create(Geometry {
            descriptors,
            queue_slots: SLOTS,
            private_slots: SLOTS,
            completion_slots: SLOTS,
            classes: classes([descriptors * 2, 0, 0, 0, 0, 0, 0, 0]),
            ..Geometry::new(8, QUEUES)
        })?);
        let admit = || segment.table().admit(0, 0)?.ok_or(TortureError::from(crate::SegmentCreateError::Geometry));
        let coordinator = || Ok::<_, TortureError>((admit()?, Cursors::new(segment.table())));
        let endpoint = || Ok::<_, TortureError>(Endpoint::new(segment.clone(), admit()?));
        let mut payload = [0; BLOCK];
        fill(&mut payload, 0);
        Ok(Stage {
            coordinator: coordinator()?,
            successor: coordinator()?,
            client: endpoint()?,
            worker: Box::leak(Box::new(endpoint()?)),
            held: Cell::new(None),
            spare: endpoint()?,
            segment,
            sleeper: Cell::new(None),
            payload,
            expected: RefCell::default(),
            came: RefCell::default(),
            has_submitted: Cell::new(false),
            last: Cell::new(None),
            without_generation,
        })
    }

    fn table(&self) -> &Table<'_> {
        self.segment.table()
    }

    /// Runs tasks through from end to end, so that no path is anybody's first.
    pub(super) fn warm_up(&self) -> Result<(), String> {
        for tag in 0..WARM_UP {
            self.submit(&self.client, if tag % 2 == 0 { INLINE } else { BLOCK }, tag, 1)?;
            self.work(self.worker)?;
            self.take(&self.client)?;
        }
        Ok(())
    }

    // ---- what the parties do: the paths -----------------------------------------------------------------------------

    /// Drafts, fills and submits a task.
    pub(super) fn submit(&self, client: &Endpoint, len: usize, tag: u64, max_attempts: u8) -> Result<bool, String> {
        self.submit_to(client, To::Queue(0), len, tag, max_attempts).map(|_| true)
    }

    fn submit_to(&self, client: &Endpoint, to: To, len: usize, tag: u64, max_attempts: u8) -> Result<TaskId, String> {
        self.send(client.draft(len).map_err(unfit)?, Submission { tag, max_attempts, ..Submission::new(to) })
    }

    fn send(&self, mut draft: Draft<'_>, s: Submission) -> Result<TaskId, String> {
        let place = draft.payload().map_err(unfit)?;
        place.copy_from_slice(&self.payload[..place.len()]);
        draft.submit(s).map_err(unfit)
    }

    /// The client submits a task that only `addressee` can run.
    pub(super) fn address(&self, addressee: &Endpoint) -> Result<bool, String> {
        self.submit_to(&self.client, To::Participant(addressee.name()), INLINE, 1, 3).map(|_| true)
    }

    /// The client cancels its last task.
    pub(super) fn cancel(&self) -> Result<bool, String> {
        let task = self.last.get().ok_or("there is no task to cancel")?;
        self.client.cancel(task).map(|cancel| cancel == Cancel::Cancelled).map_err(unfit)
    }

    /// Drafts a task, and thinks better of it.
    pub(super) fn abandon(&self, client: &Endpoint) -> Result<bool, String> {
        client.draft(BLOCK).map(|_| true).map_err(unfit)
    }

    /// Claims a task, runs it and completes it, if there is one.
    pub(super) fn work(&self, worker: &Endpoint) -> Result<bool, String> {
        self.work_in(worker, worker.queue(0))
    }

    pub(super) fn work_in(&self, worker: &Endpoint, lane: LaneId) -> Result<bool, String> {
        let Some(task) = worker.claim(lane).map_err(unfit)? else { return Ok(false) };
        self.answer(task).map(|()| true)
    }

    /// The answer to every task is its input.
    fn answer(&self, task: Claimed<'_>) -> Result<(), String> {
        let len = task.input().map_err(unfit)?.len();
        if let Some(kept) = task.last_checkpoint().map_err(unfit)?
            && (kept.is_empty() || *kept != self.payload[..kept.len()])
        {
            return Err(format!("a checkpoint of {} bytes is not what was left", kept.len()));
        }
        task.complete(STATUS_OK, len, |output| output.copy_from_slice(&self.payload[..len])).map_err(|(e, _)| unfit(e))
    }

    /// Claims a task, goes on from its last checkpoint, leaves `n` more, and completes it.
    pub(super) fn work_by_checkpoints(&self, n: usize) -> Result<bool, String> {
        let Some(task) = self.worker.claim(self.worker.queue(0)).map_err(unfit)? else { return Ok(false) };
        task.begin(1, 0, 0, 0);
        for len in (1..=BLOCK).rev().take(n) {
            task.checkpoint(&self.payload[..len]).map_err(unfit)?;
        }
        self.answer(task).map(|()| true)
    }

    /// Takes a result, reads it in place and gives its descriptor back.
    pub(super) fn take(&self, client: &Endpoint) -> Result<bool, String> {
        let Some(finished) = client.take().map_err(unfit)? else { return Ok(false) };
        Ok(self.is_right(&finished))
    }

    /// The client takes a result, if there is one, and submits a task in its descriptor, and in the block
    /// of its input if the next one needs a block.
    pub(super) fn take_and_submit(&self, len: usize) -> Result<bool, String> {
        let Some(finished) = self.client.take().map_err(unfit)? else { return Ok(false) };
        let spare = finished.renew().map_err(unfit)?;
        let draft = if len <= INLINE {
            self.client.redraft(spare, len)
        } else {
            let block = self.client.retake_block(len).ok_or("the block is not to be had again")?;
            self.client.redraft_in(block, spare, len).map_err(unfit)?
        };
        self.send(draft, Submission { tag: 2, ..Submission::new(To::Queue(0)) })?;
        Ok(true)
    }

    fn is_right(&self, finished: &Finished<'_>) -> bool {
        finished
            .output()
            .is_ok_and(|output| [INLINE, BLOCK].contains(&output.len()) && *output == self.payload[..output.len()])
    }

    pub(super) fn park(&self) -> Result<bool, String> {
        self.worker.park(&[self.worker.queue(0)], None, || false);
        Ok(true)
    }

    fn is_alive(&self, endpoint: &Endpoint) -> bool {
        self.table().is_live(endpoint.name()) == Ok(true)
    }

    /// The coordinator settles the worker's death.
    pub(super) fn recover(&self) -> Result<bool, String> {
        let (me, cursors) = &self.coordinator;
        self.settle(*me, cursors, self.worker.name()).map(|()| true).map_err(unfit)
    }

    /// The worker claims a task and gives it back for another attempt.
    pub(super) fn retry(&self, again: Again) -> Result<bool, String> {
        let Some(task) = self.worker.claim(self.worker.queue(0)).map_err(unfit)? else { return Ok(false) };
        Ok(task.give_back(again).map_err(unfit)?.is_none())
    }

    /// The worker claims a task, its client asks for its end, and so it does not get another attempt.
    pub(super) fn retry_what_is_cancelled(&self) -> Result<bool, String> {
        let Some(task) = self.worker.claim(self.worker.queue(0)).map_err(unfit)? else { return Ok(false) };
        let is_asked = !self.cancel()?;
        Ok(is_asked && task.is_cancelled() && task.give_back(Again::SameAttempt).map_err(unfit)?.is_none())
    }

    /// The worker meets a task that is too late to start.
    pub(super) fn meet_the_expired(&self) -> Result<bool, String> {
        Ok(self.worker.claim(self.worker.queue(0)).map_err(unfit)?.is_none())
    }

    /// The worker completes what it holds.
    pub(super) fn complete_held(&self) -> Result<bool, String> {
        self.answer(self.held()?).map(|()| true)
    }

    /// The worker gives back what it holds.
    pub(super) fn retry_held(&self) -> Result<bool, String> {
        Ok(self.held()?.give_back(Again::After(1)).map_err(unfit)?.is_none())
    }

    fn held(&self) -> Result<Claimed<'static>, String> {
        self.held.take().map(ManuallyDrop::into_inner).ok_or("the worker holds nothing".to_owned())
    }

    /// The coordinator looks at the times.
    pub(super) fn tick(&self) -> Result<bool, String> {
        self.table().tick(&self.coordinator.1).map(|_| true).map_err(unfit)
    }

    /// The client submits a task with all times that there are.
    pub(super) fn submit_with_times(&self) -> Result<bool, String> {
        let (hour, limits) = (Duration::from_secs(3600), Limits { run_ms: 3_600_000, silence_ms: 3_600_000 });
        let s = Submission { tag: 1, expires_in: Some(hour), limits, ..Submission::new(To::Queue(0)) };
        self.client.try_submit(s, &self.payload[..INLINE]).map(|_| true).map_err(unfit)
    }

    /// The coordinator gives the memory of all blocks back: they were used in the warm-up, and not after its first call.
    pub(super) fn give_back(&self) -> Result<bool, String> {
        let give_back = || self.segment.give_back(self.coordinator.0);
        Ok(give_back() && !give_back())
    }

    fn settle(&self, me: Name, cursors: &Cursors, dead: Name) -> Result<(), Corrupted> {
        self.table().recover(cursors, me, dead, Death::of(KILLED.pack())).map(drop)
    }

    // ---- before the kill --------------------------------------------------------------------------------------------

    /// The client submits a task that must come back, as one of `outcomes`.
    pub(super) fn expect(&mut self, len: usize, max_attempts: u8, outcomes: &'static [Outcome]) -> Result<(), String> {
        self.expect_from(To::Queue(0), len, max_attempts, outcomes)
    }

    /// As [`expect`](Self::expect), for a task that only the worker can run.
    pub(super) fn expect_addressed(&mut self, outcomes: &'static [Outcome]) -> Result<(), String> {
        self.expect_from(To::Participant(self.worker.name()), INLINE, 3, outcomes)
    }

    fn expect_from(
        &mut self,
        to: To,
        len: usize,
        max_attempts: u8,
        outcomes: &'static [Outcome],
    ) -> Result<(), String> {
        let tag = self.next_tag(outcomes, None);
        self.last.set(Some(self.submit_to(&self.client, to, len, tag, max_attempts)?));
        Ok(())
    }

    /// The client submits a task that is too late already.
    pub(super) fn expect_too_late(&mut self) -> Result<(), String> {
        let tag = self.next_tag(&[Outcome::Expired], None);
        let s = Submission { tag, expires_in: Some(Duration::from_nanos(1)), ..Submission::new(To::Queue(0)) };
        self.client.try_submit(s, &self.payload).map(drop).map_err(unfit)
    }

    /// For a tick: a task whose pause is over, and one that is too late.
    pub(super) fn leave_what_is_due(&mut self) -> Result<(), String> {
        self.expect(BLOCK, 3, ONCE)?;
        self.retry(Again::After(1))?;
        self.expect_too_late()
    }

    /// The worker runs a task whose client has died meanwhile.
    pub(super) fn hold_for_the_dead(&mut self) -> Result<(), String> {
        self.submit(&self.client, BLOCK, 1, 3)?;
        self.held.set(self.worker.claim(self.worker.queue(0)).map_err(unfit)?.map(ManuallyDrop::new));
        self.settle(self.coordinator.0, &self.coordinator.1, self.client.name()).map_err(unfit)
    }

    /// A result waits for the client.
    pub(super) fn leave_result(&mut self, len: usize) -> Result<(), String> {
        self.submit(&self.client, len, 1, 1)?;
        self.work(&self.spare).map(drop)
    }

    /// No slot of the queue is empty.
    pub(super) fn fill_queue(&mut self) -> Result<(), String> {
        (0..SLOTS).try_for_each(|_| self.expect(INLINE, 2, ONCE))
    }

    /// A task whose hint found no slot, in a queue that is empty by now.
    pub(super) fn leave_without_hint(&mut self) -> Result<(), String> {
        self.fill_queue()?;
        self.expect(INLINE, 2, ONCE)?;
        (0..SLOTS).try_for_each(|_| self.work(&self.spare).map(drop))?;
        self.receive(&self.client, &mut self.came.borrow_mut())
    }

    /// No slot of the client's completion lane is empty, and a task is to be done.
    pub(super) fn fill_completion_lane(&mut self) -> Result<(), String> {
        self.fill_queue()?;
        (0..SLOTS).try_for_each(|_| self.work(&self.spare).map(drop))?;
        self.expect(INLINE, 2, ONCE)
    }

    fn next_tag(&self, outcomes: &'static [Outcome], barred: Option<Name>) -> u64 {
        let mut expected = self.expected.borrow_mut();
        let tag = 100 + expected.len() as u64;
        expected.push(Expected { tag, outcomes, barred });
        tag
    }

    /// The client's last task ends, and its descriptor has a next life as another task of the client's.
    pub(super) fn next_life(&self, end: End, to: To) -> Result<(), String> {
        let last = self.last.get().ok_or("there is no task to end")?;
        match end {
            End::Cancelled => self.cancel().map(drop)?,
            End::Ran => self.work(&self.spare).map(drop)?,
        }
        self.receive(&self.client, &mut self.came.borrow_mut())?;
        let word = self.table().load(last.index);
        let is_free = word.is(Phase::Free);
        if is_free && self.without_generation {
            let before = Task::new(Phase::Free, 0, 0, word.generation() - 1);
            // The fault that is to be noticed. It is free, and nobody else runs.
            self.table().descriptors[last.index as usize].state.store(before.0, Release);
        }
        let barred = (to != To::Queue(0)).then(|| self.worker.name());
        let next = self.submit_to(&self.client, to, INLINE, self.next_tag(ONCE, barred), 3)?;
        if is_free && next.index != last.index {
            return Err("another descriptor was used than the one that was freed".to_owned());
        }
        Ok(())
    }

    /// As [`next_life`](Self::next_life) of a task that another has run, where the client keeps its descriptor for the next.
    pub(super) fn renewed_life(&self, to: To) -> Result<(), String> {
        self.work(&self.spare)?;
        let draft = match self.client.take().map_err(unfit)? {
            Some(finished) => {
                self.came.borrow_mut().push(self.seen(&finished));
                self.client.redraft(finished.renew().map_err(unfit)?, INLINE)
            }
            None => self.client.draft(INLINE).map_err(unfit)?, // the victim has that task
        };
        let barred = (to != To::Queue(0)).then(|| self.worker.name());
        self.send(draft, Submission { tag: self.next_tag(ONCE, barred), max_attempts: 3, ..Submission::new(to) })
            .map(drop)
    }

    /// One more task of the client's, once: what a sleeper is woken for.
    pub(super) fn submit_once(&self) -> Result<(), String> {
        if self.has_submitted.replace(true) {
            return Ok(());
        }
        self.expected.borrow().iter().try_for_each(|e| self.submit(&self.client, INLINE, e.tag, 3).map(drop))
    }

    /// Will be submitted by [`submit_once`](Self::submit_once).
    pub(super) fn expect_later(&mut self) -> Result<(), String> {
        self.next_tag(ONCE, None);
        Ok(())
    }

    /// A worker that has died with one of everything: a draft with a block, an output half written, a task of its own in
    /// each phase, two tasks that were addressed to it, and one whose attempts are used up.
    pub(super) fn leave_everything(&mut self) -> Result<(), String> {
        self.submit(self.worker, BLOCK, 1, 3)?;
        self.work(&self.spare)?; // DONE
        self.expect(BLOCK, 3, ONCE)?;
        self.expect(INLINE, 1, &[Outcome::WorkerDied])?;
        for _ in 0..2 {
            self.expect_addressed(&[Outcome::AddresseeDied])?;
        }
        let queue = self.worker.queue(0);
        let dying = forked(|| {
            std::mem::forget(self.worker.draft(BLOCK)); // RESERVED
            let mut half_written = self.worker.claim(queue);
            if let Ok(Some(task)) = &mut half_written {
                task.begin(1, 0, 0, 0);
                let _ = task.checkpoint(&self.payload); // its blame and its checkpoint are recovery's to settle
            }
            std::mem::forget(self.worker.claim(queue)); // CLAIMED
            std::mem::forget(self.worker.claim(self.worker.private()));
            if self.submit(self.worker, INLINE, 2, 3).is_ok() // READY
                && let Ok(Some(task)) = half_written
            {
                // SAFETY: `_exit` ends the process at once, in the middle of the output.
                let _ = task.complete(STATUS_OK, BLOCK, |_| unsafe { libc::_exit(0) });
            }
            101
        })
        .map_err(unfit)?;
        match waitpid(dying, None) {
            Ok(WaitStatus::Exited(_, 0)) => Ok(()),
            end => Err(format!("the worker ended otherwise than it should: {end:?}")),
        }
    }

    /// Starts a worker, and waits until it sleeps.
    pub(super) fn start_sleeper(&self) -> Result<(), TortureError> {
        let control = &self.segment.header().control;
        let pid = forked(|| {
            while let Ok(Some(task)) = self.spare.next(&[self.spare.queue(0)], || Mode::of(control) == Mode::Stopping) {
                if self.answer(task).is_err() {
                    return 101;
                }
            }
            0
        })?;
        self.sleeper.set(Some(pid));
        self.await_sleep(pid)
    }

    /// Waits until the sleeper sleeps.
    fn await_sleep(&self, pid: Pid) -> Result<(), TortureError> {
        // With its bit set there is nothing but the futex on which it could sleep.
        while !self.table().participants[self.spare.name().id() as usize].is_asleep() || state(pid) != Some('S') {
            nix::sched::sched_yield().map_err(os("yield"))?;
        }
        Ok(())
    }

    // ---- after the kill ---------------------------------------------------------------------------------------------

    /// Settles the death, has the others finish what is left, and looks whether every promise was kept.
    pub(super) fn judge(&self, victim: Victim, order: Order, without_recovery: bool) -> Result<Verdict, TortureError> {
        let mut verdict = Verdict::default();
        match self.examine(victim, order, without_recovery, &mut verdict) {
            Ok(()) => {}
            Err(why) => verdict.add(LOST, why),
        }
        if let Some(pid) = self.sleeper.take() {
            self.segment.header().control.mode.store(Mode::Stopping as u32, Release);
            self.table().participants.iter().for_each(Participant::wake);
            let end = waitpid(pid, None).map_err(os("wait for the sleeper"))?;
            if end != WaitStatus::Exited(pid, 0) {
                verdict.add(LOST, format!("the sleeper ended otherwise than it should: {end:?}"));
            }
        }
        let audit = self.table().audit();
        if !audit.is_clean() {
            verdict.add(LEAKED, format!("not clean: {audit}"));
        }
        Ok(verdict)
    }

    fn examine(
        &self,
        victim: Victim,
        order: Order,
        without_recovery: bool,
        verdict: &mut Verdict,
    ) -> Result<(), String> {
        let queue = self.spare.queue(0);
        let early = if order == Order::ClaimedEarly { self.spare.claim(queue).map_err(unfit)? } else { None };
        if !without_recovery {
            let (me, cursors) = if victim == Victim::Coordinator { &self.successor } else { &self.coordinator };
            let dead: &[Name] = match victim {
                Victim::Client => &[self.client.name()],
                Victim::Worker => &[self.worker.name()],
                Victim::Coordinator if order == Order::WorkerFirst => &[self.worker.name(), self.coordinator.0],
                Victim::Coordinator => &[self.coordinator.0, self.worker.name()],
            };
            dead.iter().try_for_each(|name| self.settle(*me, cursors, *name)).map_err(unfit)?;
            // As after each death.
            self.table().tick(cursors).map_err(unfit)?;
        }
        if let Some(task) = early {
            self.answer(task)?;
        }
        // A dead client's results are nobody's.
        if victim != Victim::Client && self.is_alive(&self.client) {
            let expected = self.expected.borrow();
            let mut came = self.came.take();
            came.extend(self.collect(&self.client, expected.len())?);
            for Expected { tag, outcomes, barred } in expected.iter() {
                match came.iter().position(|c| c.tag == *tag).map(|i| came.swap_remove(i)) {
                    None => verdict.add(LOST, format!("task {tag} never came back")),
                    Some(c) if barred.is_some() && c.claimant == *barred => {
                        verdict.add(DOUBLED, format!("task {tag} was claimed by one that it was not for: {c:?}"));
                    }
                    Some(c) if outcomes.contains(&c.outcome) && c.is_right => {}
                    Some(c) => verdict.add(DOUBLED, format!("task {tag} came back as {c:?}")),
                }
            }
            if !came.is_empty() {
                verdict.add(DOUBLED, format!("these came back, and nobody asked for them: {came:?}"));
            }
        }
        // The sleeper may still be about what the dead one had submitted, and would keep that descriptor for a moment.
        if let Some(pid) = self.sleeper.get() {
            self.await_sleep(pid).map_err(unfit)?;
        }
        // Whoever comes next, under the same id if that is free again, gets its own tasks back and no others. It uses all
        // descriptors, and a block for each: none of them may be missing.
        let name = self.table().admit(0, 0).map_err(unfit)?.ok_or("no participant is left")?;
        let next = Endpoint::new(self.segment.clone(), name);
        let tags: Vec<u64> = (200..).take(self.table().descriptors.len()).collect();
        for tag in &tags {
            if let Err(why) = self.submit(&next, BLOCK, *tag, 1) {
                verdict.add(LEAKED, format!("not all descriptors and blocks can be used: {why}"));
                break;
            }
        }
        let mut came = self.collect(&next, tags.len())?;
        came.sort_unstable_by_key(|c| c.tag);
        let is_one = |(c, wanted): (&Came, &u64)| c.tag == *wanted && c.outcome == Outcome::Completed && c.is_right;
        if came.len() < tags.len() {
            verdict.add(LOST, format!("the next client gets {came:?} of {tags:?}"));
        } else if came.len() > tags.len() || !came.iter().zip(&tags).all(is_one) {
            verdict.add(DOUBLED, format!("the next client gets {came:?} instead of {tags:?}"));
        }
        Ok(())
    }

    /// Has what is READY run, and takes what comes back to `client`. Waits for `n` results if a sleeper has to run them.
    fn collect(&self, client: &Endpoint, n: usize) -> Result<Vec<Came>, String> {
        let mut came = Vec::new();
        let has_sleeper = self.sleeper.get().is_some();
        let lanes = [self.spare.private(), self.spare.queue(0), self.spare.queue(1)];
        loop {
            for lane in lanes {
                while !has_sleeper && self.work_in(&self.spare, lane)? {}
            }
            self.receive(client, &mut came)?;
            if !has_sleeper || came.len() >= n {
                return Ok(came);
            }
            client.park(&[], None, || false);
        }
    }

    /// Takes what has come back to `client`.
    fn receive(&self, client: &Endpoint, came: &mut Vec<Came>) -> Result<(), String> {
        while let Some(finished) = client.take().map_err(unfit)? {
            came.push(self.seen(&finished));
        }
        Ok(())
    }

    fn seen(&self, finished: &Finished<'_>) -> Came {
        let (outcome, claimant) = (finished.outcome(), finished.claimant());
        let is_right = match outcome {
            Outcome::Completed => self.is_right(finished),
            Outcome::WorkerDied => claimant.is_some() && finished.exit() == KILLED.pack(),
            _ => true,
        };
        Came { tag: finished.tag(), outcome, is_right, claimant }
    }
}
