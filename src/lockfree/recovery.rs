//! Recovery: what a dead participant owned is settled, and every hint that its death may have cost is restored.
//!
//! Run by the coordinator alone, once the kernel has reported the death.
//!
//! # States
//!
//! The dead one is marked `Dead`; each of its words is *adopted* (it names the coordinator instead), then settled; its
//! blocks are freed, its idle bits and its two futex bits cleared; the sweep restores all hints.
//!
//! | the dead one's                 | becomes                                                                       |
//! |--------------------------------|-------------------------------------------------------------------------------|
//! | RESERVED                       | adopted, then FREE                                                            |
//! | DONE, READY (as submitter)     | READY → DONE(cancelled); DONE adopted, then FREE. So is that of submitters    |
//! |                                | who died before: the dead one may have owed them the look of \[orphan]        |
//! | CLAIMED                        | adopted, output discarded; then READY or DELAYED with the next attempt; or    |
//! |                                | DONE(worker died, or timed out) if none is left, DONE(cancelled) if that was  |
//! |                                | asked for, FREE if its submitter is dead too                                  |
//! | READY, DELAYED, addressed to it| DONE(addressee died)                                                          |
//! | HELD blocks, idle bits, futex  | FREE, cleared, not parked                                                     |
//!
//! A deadline that has passed is not what ended a process that died for another reason at that very time; the two can't be told
//! apart, and the submitter hears of the deadline.
//!
//! The sweep, which follows a death and nothing else, then gives every READY and DONE task a hint that no lane holds,
//! sets the free bits of free descriptors, and wakes everybody: a wake that the dead one owed is among them. What a
//! process that is only stopped owes is for [`Table::look`].
//!
//! # Words
//!
//! None of its own. It writes `member` (with [`Table::admit`], nobody else does), the words and fields of what it has
//! adopted, HELD words of the dead one, and hints.
//!
//! # Invariants
//!
//! 1. Nothing is taken from the living: what is adopted or freed names one who is dead, and a name has an incarnation
//!    (HELD, `addressee`), or its id is not given again while a word has it (task words).
//! 2. Fields are written only once the word is adopted; an exchange that fails was lost to one who lives, and changes
//!    nothing.
//! 3. Each step may be made again: what is settled names the dead one no more.
//!
//! # Ordering
//!
//! - \[orphan] The mark, a fence, then the scan: [`super::participant`].
//! - \[requeue] AcqRel in each exchange here: Acquire, so that what the owner before wrote comes before what is
//!   written now; Release, so that the next owner has both. All changes of a word are read-modify-writes, so the
//!   release sequence of \[publish] goes on through them.
//! - \[remove] In the sweep, by `rescan`: [`super::table`].
//! - What the dead one itself wrote came before the kernel's word of its death.
//!
//! # Crash
//!
//! Each step is one exchange, so a recovery that is itself killed leaves words that name a dead coordinator, or still
//! the dead one: its successor recovers that coordinator, and again all who are marked dead, in whatever order.
//!
//! # Progress
//!
//! One walk over all words; a word is looked at again only where one who lives has moved it meanwhile. Nobody waits for
//! it but who waits for what the dead one had.
//!
//! What checks this page: `loom_recovery.rs`, every scene with a death, and `mutants.rs` in `lockfree/tests/`;
//! `fuzz/fuzz_targets/descriptor_ops.rs`; `shmworker torture`, at random and by `--single-step` (`recover`: the
//! coordinator killed over it, at each instruction), and `--fencing` (nothing moves before the kernel's word).

use super::{
    descriptor::Backoff,
    participant::Name,
    table::{Cursors, Owned, Table, damaged, moved},
    word::{Block, Hint, Member, Outcome, Phase, Task},
};
use crate::{
    error::Corrupted,
    sync::{AcqRel, Acquire, Relaxed, Release, full_fence, mutant},
};

/// What a death left, for the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    /// Tasks that will be attempted again.
    pub(crate) requeued: usize,
    /// Tasks whose submitter hears that their worker, or their addressee, died.
    pub(crate) failed: usize,
    /// Tasks that nobody waits for any more.
    pub(crate) dropped: usize,
}

impl Table<'_> {
    /// Gives the lowest unused id to a new participant. Coordinator only. `None`: every id is in use or still named.
    ///
    /// # Errors
    /// [`Corrupted`] if a word is damaged.
    pub(crate) fn admit(&self, pid: u32, role: u32) -> Result<Option<Name>, Corrupted> {
        for (id, p) in self.participants.iter().enumerate() {
            let last = match p.member(id)? {
                Member::Vacant(n) => n,
                Member::Dead(n) if mutant("no-name-check") || !self.is_named(id as u16) => n,
                _ => continue,
            };
            for word in [&p.pid, &p.role, &p.status, &p.leave] {
                word.store(0, Relaxed);
            }
            p.finished.store(0, Relaxed);
            p.pid.store(pid, Relaxed);
            p.role.store(role, Relaxed);
            let name = Name::new(id as u16, last + 1);
            // Release: who acquires the new incarnation finds its pid and role.
            p.member.store(Member::Live(name.incarnation()).bits(), Release);
            return Ok(Some(name));
        }
        Ok(None)
    }

    /// Does a word of the segment name this id? (Then it must not be given to another.)
    fn is_named(&self, id: u16) -> bool {
        // Relaxed: fields are at least as new as the word before them. Who stores the name of a dead one later finds
        // that it is not live, whoever has the id ([orphan]).
        let task = (0..).zip(self.descriptors).any(|(index, d)| {
            let word = self.load(index);
            !word.is(Phase::Free)
                && (word.who() == id
                    || Name::of(d.submitter.load(Relaxed)).id() == id
                    || d.addressee.load(Relaxed) != 0 && Name::of(d.addressee.load(Relaxed)).id() == id)
        });
        task || self
            .blocks
            .words
            .iter()
            .any(|w| matches!(Block::of(w.load(Acquire)), Some(Block::Held(name)) if name.id() == id))
    }

    /// Settles what `dead` owned, then sweeps. Only after the kernel's word that its process is gone; safe to repeat.
    ///
    /// `exit`: how it ended, packed, for those who waited for it.
    ///
    /// # Errors
    /// [`Corrupted`] if a word is damaged.
    pub(crate) fn recover(&self, cursors: &Cursors, me: Name, dead: Name, exit: u64) -> Result<Settled, Corrupted> {
        let participant = self.participant(dead.id())?;
        if !matches!(participant.member(dead.id().into())?, Member::Live(n) | Member::Dead(n) if n == dead.incarnation())
        {
            return Ok(Settled::default()); // settled long ago: the id is another's by now
        }
        // By the only writer, hence no exchange. Release as in `admit`; [orphan] asks for the fence alone.
        participant.member.store(Member::Dead(dead.incarnation()).bits(), Release);
        full_fence("no-orphan-fence"); // [orphan]
        let mut settled = Settled::default();
        for index in 0..self.descriptors.len() {
            self.settle(cursors, me, dead, exit, index as u16, &mut settled)?;
        }
        self.blocks.recover(dead)?;
        let words = self.participants.len().div_ceil(64);
        for row in 0..=self.queues {
            // AcqRel asks for nothing: a bit is a hint, and its owner is gone.
            self.idle[row * words + dead.id() as usize / 64].fetch_and(!(1 << (dead.id() % 64)), AcqRel);
        }
        participant.end_park();
        self.sweep(cursors)?;
        Ok(settled)
    }

    fn settle(
        &self,
        cursors: &Cursors,
        me: Name,
        dead: Name,
        exit: u64,
        index: u16,
        settled: &mut Settled,
    ) -> Result<(), Corrupted> {
        let d = &self.descriptors[index as usize];
        let owner = |w: Task| w.who() == dead.id();
        loop {
            let word = self.load(index);
            let phase = word.phase().ok_or_else(|| damaged(index, word))?;
            let has_dead_submitter = match phase {
                Phase::Ready | Phase::Delayed | Phase::Done(_) if !mutant("no-late-orphans") => {
                    matches!(self.participant(word.who())?.member(word.who().into())?, Member::Dead(_))
                }
                _ => owner(word),
            };
            // A failed exchange here means that a living participant was faster: look again.
            match phase {
                // Not only of this one: it may have died between making a task DONE or READY for one that was dead already, and
                // finding that out ([orphan]).
                Phase::Reserved | Phase::Done(_) if has_dead_submitter => {
                    if let Ok(word) = self.exchange(index, word, word.to(Phase::Reserved, me.id()), AcqRel) {
                        settled.dropped += usize::from(phase != Phase::Reserved);
                        return self.release(Owned { index, word });
                    }
                }
                Phase::Ready | Phase::Delayed if has_dead_submitter => {
                    let _ = self.exchange(index, word, word.to(Phase::Done(Outcome::Cancelled), word.who()), AcqRel);
                }
                Phase::Ready | Phase::Delayed if d.addressee.load(Relaxed) == dead.bits() => {
                    let done = word.to(Phase::Done(Outcome::AddresseeDied), word.who());
                    if self.exchange(index, word, done, AcqRel).is_ok() {
                        settled.failed += 1;
                        return Ok(());
                    }
                }
                Phase::Claimed if owner(word) && dead.id() != me.id() => {
                    let now = self.now();
                    let is_late = self.deadline(cursors, index, word, now) <= now;
                    if let Ok(word) = self.exchange(index, word, word.to(Phase::Claimed, me.id()), AcqRel) {
                        self.settle_claimed(me, dead, exit, is_late, Owned { index, word }, settled)?;
                        let next = self.load(index);
                        if next.is(Phase::Ready) && !mutant("no-second-hint") {
                            // Not left to the sweep, for which a hint of the former READY would do: whoever is about to remove
                            // that as stale may be stopped before it looks again.
                            let lane = self.lane_of(index, d)?;
                            let _ = self.lane(lane).push(cursors.of(lane), Hint::of(index, next))?; // or the flag is up
                        }
                        return Ok(());
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    /// The rest for a claimed task, which the coordinator owns by now.
    fn settle_claimed(
        &self,
        me: Name,
        dead: Name,
        exit: u64,
        is_late: bool,
        task: Owned,
        settled: &mut Settled,
    ) -> Result<(), Corrupted> {
        let Owned { index, word } = task;
        let d = &self.descriptors[index as usize];
        self.discard_attempt(task)?;
        // It may have died between its claim and its own store of this. (Not otherwise: what a dead coordinator had adopted
        // was another's.)
        if d.claimant.load(Relaxed) == 0 {
            d.claimant.store(dead.bits(), Relaxed);
        }
        d.exit.store(exit, Relaxed);
        let submitter = Name::of(d.submitter.load(Relaxed));
        if !self.is_live(submitter)? && !mutant("no-dead-submitter") {
            settled.dropped += 1;
            let done = word.to(Phase::Done(Outcome::WorkerDied), submitter.id());
            self.exchange(index, word, done, AcqRel).map_err(|w| moved(index, w))?;
            let word =
                self.exchange(index, done, done.to(Phase::Reserved, me.id()), AcqRel).map_err(|w| moved(index, w))?;
            return self.release(Owned { index, word });
        }
        // Not `== dead`: what a dead coordinator had adopted was another's.
        let has_lost_addressee = match self.addressee(d) {
            Some(addressee) => !self.is_live(addressee)? && !mutant("no-lost-addressee"),
            None => false,
        };
        let next = if has_lost_addressee {
            word.to(Phase::Done(Outcome::AddresseeDied), submitter.id())
        } else if self.is_cancel_asked(index, word) {
            word.to(Phase::Done(Outcome::Cancelled), submitter.id())
        } else if self.has_attempts_left(d, word) {
            let pause = Backoff::of(d.backoff.load(Relaxed)).after(word.attempt());
            self.next_attempt(task, false, submitter, pause)
        } else if is_late {
            word.to(Phase::Done(Outcome::TimedOut), submitter.id())
        } else {
            word.to(Phase::Done(Outcome::WorkerDied), submitter.id())
        };
        match next.phase() {
            Some(Phase::Done(_)) => settled.failed += 1,
            _ => settled.requeued += 1,
        }
        // [requeue]; the time is left to the tick after it.
        self.exchange(index, word, next, AcqRel).map(drop).map_err(|w| moved(index, w))
    }

    /// Restores every hint from the truth, and wakes everybody.
    ///
    /// # Errors
    /// [`Corrupted`] if a word or lane is damaged.
    pub(crate) fn sweep(&self, cursors: &Cursors) -> Result<(), Corrupted> {
        self.rescan(cursors, None, |_, _| true)?;
        for index in 0..self.descriptors.len() {
            if self.load(index as u16).is(Phase::Free) {
                self.free.give(index);
            }
        }
        // [park] needs no fence here: each word is exchanged, whether its owner sleeps or not, and who parks after that sees what
        // came before.
        for (id, p) in self.participants.iter().enumerate() {
            if matches!(p.member(id)?, Member::Live(_)) {
                p.wake();
            }
        }
        Ok(())
    }
}
