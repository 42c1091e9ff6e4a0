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
//! | CLAIMED                        | adopted, output discarded; then, by the verdict below, READY or DELAYED; or   |
//! |                                | DONE(worker died, or timed out), DONE(cancelled) if that was asked for, FREE  |
//! |                                | if its submitter is dead too; addressed to it, DONE(timed out, or addressee   |
//! |                                | died)                                                                         |
//! | READY, DELAYED, addressed to it| DONE(addressee died)                                                          |
//! | HELD blocks, idle bits, futex  | FREE, cleared, not parked                                                     |
//!
//! # Seats
//!
//! Of a durable client ([`super::participant`]) there is no mark: it stays `Live`, and what waits for it, runs for it or is DONE
//! stays its own. Only what it had in hand is settled:
//!
//! | the dead one's          | becomes                                                                              |
//! |-------------------------|--------------------------------------------------------------------------------------|
//! | RESERVED, noted         | DONE, with the outcome that it had                                                   |
//! | RESERVED                | adopted, then FREE                                                                   |
//! | CLAIMED, HELD blocks,   | as above                                                                             |
//! | idle bits, futex        |                                                                                      |
//!
//! # The death of all
//!
//! Who finds a segment whose coordinator is dead marks all who are dead as that ([`Table::bury_all`]), which makes room for itself, a new
//! participant, and settles all of them who are not known to be settled, by [`Table::recover_all`]: what one of them was adopting names it,
//! and is met when its own turn comes. A kill of all is nobody's fault: each that had begun, or was claimed, is *spent*. So is what a
//! worker ran that was killed since the time of its pool was over, if that has seats: the task goes on in the next life. Workers that
//! live go on meanwhile, as beside any recovery.
//!
//! A seat that no word names any more is given back, before and after that, and when a client leaves that has attached: it says nothing that
//! the next client of its name would miss.
//!
//! # Blame
//!
//! Which of the tasks that a process ran has ended it? Those that it had CLAIMED are looked at together, before any is
//! settled. In each slot only the deepest ran, the others waited for it; one that had not begun (slot 0) did nothing. The
//! deepest are the *candidates*; if one ran alone, those of its slot only. *Guilty* is
//!
//! 1. what the process was killed over ([`Death::late`]); if nothing,
//! 2. what a fatal signal was noted over (`fault` in its [`super::participant`]); if nothing,
//! 3. the candidate, if there is one only.
//!
//! | verdict      | on                                            | attempt | blame      | settled as                  |
//! |--------------|-----------------------------------------------|---------|------------|-----------------------------|
//! | *guilty*     | see above                                     | + 1     | deaths + 1 | DONE if that is too many;   |
//! |              |                                               |         |            | else by `retry_on` and the  |
//! |              |                                               |         |            | attempts that are left      |
//! | *suspect*    | each candidate, if nobody is guilty           | + 1     | is marked: | by `retry_on` and attempts  |
//! |              |                                               |         | its next   |                             |
//! |              |                                               |         | attempt    |                             |
//! |              |                                               |         | runs alone |                             |
//! | *bystander*  | the others, where the process was killed over | same    | spared + 1 | READY; DONE if it is not to |
//! |              | one, that don't wait for that                 |         |            | be repeated after a death;  |
//! |              |                                               |         |            | as *spent* from then on     |
//! |              |                                               |         |            | when that has been so often |
//! | *spent*      | who waits for what is late; the others, where | + 1     |            | by `retry_on` and attempts  |
//! |              | it died otherwise                             |         |            |                             |
//!
//! What the process was killed over may have come to its end before the signal came, and its slot have begun another: that
//! one, too, is a bystander. Who waits below what is late may have submitted it, and would again, as the same attempt, for
//! ever.
//!
//! A recovery that was begun by another before knows less, since what that one has settled is gone: in what it left
//! nobody is found guilty for being the only one (rule 3), and what it had adopted is suspect. So a death is counted once,
//! or never.
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
    descriptor::{Blame, Payload, Place, Rules, retry_on},
    participant::{Name, Participant},
    table::{Cursors, Owned, Table, TaskId, damaged, moved},
    word::{Block, Hint, Member, Outcome, Phase, Task},
};
use crate::{
    error::Corrupted,
    sync::{AcqRel, Acquire, Relaxed, Release, full_fence, mutant},
};

/// How often a death over another task costs a task nothing. It bounds how often a task begins that always runs beside what
/// is late.
pub(crate) const SPARED: u8 = 100;

/// A task that ended with the death of its worker, after one or several that were its fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GivenUp {
    pub(crate) kind: u32,
    /// Workers that died by its fault.
    pub(crate) deaths: u8,
    /// These are as many as it may kill. Else it had no attempt left.
    pub(crate) is_poison: bool,
}

/// What a death left, for the report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    /// Tasks that will be attempted again.
    pub(crate) requeued: usize,
    /// Tasks whose submitter hears that their worker, or their addressee, died.
    pub(crate) failed: usize,
    /// Tasks that nobody waits for any more.
    pub(crate) dropped: usize,
    /// Of those that failed.
    pub(crate) given_up: Vec<GivenUp>,
}

/// How a participant ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Death<'d> {
    /// `process::exit::Exit`, packed, for those who waited for it.
    pub(crate) exit: u64,
    /// The most memory that it ever had, in KiB; 0: not known.
    pub(crate) peak_kib: u64,
    /// The tasks of its that had run for too long, or were silent for too long: it was killed for that.
    pub(crate) late: &'d [TaskId],
    /// Nobody is to blame: all others have died as well, or it was killed since the pool's time was over.
    pub(crate) is_nobodys: bool,
}

impl Death<'_> {
    /// By itself, as far as is known.
    pub(crate) const fn of(exit: u64) -> Death<'static> {
        Death { exit, peak_kib: 0, late: &[], is_nobodys: false }
    }
}

/// What a task had to do with the death of its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Guilty,
    Suspect,
    Bystander,
    Spent,
}

/// The verdict on each task that the dead one had.
#[derive(Debug)]
struct Judgement {
    verdicts: Vec<(TaskId, Verdict)>,
    /// Nobody is to blame.
    is_none: bool,
}

impl Judgement {
    /// On a task that has or had this place. What the dead one had adopted was another's.
    fn on(&self, task: TaskId, place: Place) -> Verdict {
        if self.is_none {
            return Verdict::Spent;
        }
        let own = self.verdicts.iter().find(|(id, _)| *id == task).map(|(_, verdict)| *verdict);
        own.unwrap_or(if place.slot == 0 { Verdict::Spent } else { Verdict::Suspect })
    }
}

/// A death that is being settled.
struct Case<'d> {
    me: Name,
    dead: Name,
    death: Death<'d>,
    judgement: Judgement,
    /// What waits for it, or is done, stays its own.
    is_seat: bool,
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
            for word in [&p.pid, &p.role, &p.status, &p.leave, &p.seat] {
                word.store(0, Relaxed);
            }
            p.finished.store(0, Relaxed);
            p.fault.store(0, Relaxed);
            #[cfg(not(all(test, any(loom, shuttle))))]
            for word in [&p.born, &p.make] {
                word.store(0, Relaxed);
            }
            p.pid.store(pid, Relaxed);
            p.role.store(role, Relaxed);
            let name = Name::new(id as u16, last + 1);
            // Release: who acquires the new incarnation finds its pid and role.
            p.member.store(Member::Live(name.incarnation()).bits(), Release);
            self.count_the_living();
            return Ok(Some(name));
        }
        Ok(None)
    }

    fn count_the_living(&self) {
        let is_live = |p: &&Participant| matches!(Member::of(p.member.load(Relaxed)), Some(Member::Live(_)));
        let living = self.participants.iter().filter(is_live).count();
        self.alarm.population.store(living as u32, Relaxed); // no other writer
    }

    /// Does a word of the segment name this id? (Then it must not be given to another.)
    fn is_named(&self, id: u16) -> bool {
        // Relaxed: fields are at least as new as the word before them. Who stores the name of a dead one later finds
        // that it is not live, whoever has the id ([orphan]).
        let task = (0..).zip(self.descriptors).any(|(index, d)| {
            let word = self.load(index);
            // In a draft they are yet of the life before.
            let [submitter, addressee] = [&d.submitter, &d.addressee].map(|name| name.load(Relaxed));
            let is_in_fields = || [submitter, addressee].into_iter().any(|name| name != 0 && Name::of(name).id() == id);
            !word.is(Phase::Free) && (word.who() == id || !word.is(Phase::Reserved) && is_in_fields())
        });
        task || self
            .blocks
            .words
            .iter()
            .any(|w| matches!(Block::of(w.load(Acquire)), Some(Block::Held(name)) if name.id() == id))
    }

    /// Settles what `dead` owned, then sweeps. Only after the kernel's word that its process is gone; safe to repeat.
    ///
    /// # Errors
    /// [`Corrupted`] if a word is damaged.
    pub(crate) fn recover(
        &self,
        cursors: &Cursors,
        me: Name,
        dead: Name,
        death: Death<'_>,
    ) -> Result<Settled, Corrupted> {
        self.recover_noting(cursors, me, dead, death, |_, _| ())
    }

    /// As [`recover`](Self::recover). `note` is told what that one ran, by its name, before any of it is settled.
    ///
    /// # Errors
    /// [`Corrupted`] if a word is damaged.
    pub(crate) fn recover_noting(
        &self,
        cursors: &Cursors,
        me: Name,
        dead: Name,
        death: Death<'_>,
        mut note: impl FnMut(Name, Owned),
    ) -> Result<Settled, Corrupted> {
        let mut settled = Settled::default();
        if self.settle_all(cursors, me, dead, death, &mut note, &mut settled)? {
            self.sweep(cursors)?;
        }
        Ok(settled)
    }

    /// Marks all but the living as dead, so that their ids may be given again; of seats those that nothing names, which are seats no more.
    /// Only for who is to be the coordinator; safe to repeat.
    ///
    /// # Errors
    /// [`Corrupted`] if a word is damaged.
    #[cfg(not(all(test, any(loom, shuttle))))]
    pub(crate) fn bury_all(&self, living: &[Name]) -> Result<(), Corrupted> {
        for (id, p) in self.participants.iter().enumerate() {
            let Member::Live(n) = p.member(id)? else { continue };
            if living.contains(&Name::new(id as u16, n)) {
                continue;
            }
            if p.is_seat() {
                if self.is_named(id as u16) {
                    p.leave_seat();
                    continue;
                }
                p.give_back_seat(); // a death before the next store leaves an ordinary participant
            }
            self.end_sleep(id as u16);
            p.member.store(Member::Dead(n).bits(), Release); // as in `settle_all`
        }
        full_fence("no-orphan-fence"); // [orphan] One for all.
        self.count_the_living();
        Ok(())
    }

    /// Leaves the seat of one whose process is dead, and that is settled, to the next of its name; if nothing names it, makes it an ordinary
    /// participant. True: it is that, and to be recovered as others are.
    ///
    /// # Errors
    /// [`Corrupted`] if a word is damaged.
    #[cfg(not(all(test, any(loom, shuttle))))]
    pub(crate) fn leave_seat(&self, name: Name) -> Result<bool, Corrupted> {
        let p = self.participant(name.id())?;
        if !p.is_seat() {
            return Ok(false);
        }
        p.leave_seat();
        // Nobody else makes a word that names it as submitter; who addresses something to it finds out, as ever, that it is dead
        // ([orphan]).
        let is_empty = !self.is_named(name.id());
        if is_empty {
            p.give_back_seat(); // a death before the next step leaves an ordinary participant
        }
        Ok(is_empty)
    }

    /// Are there durable clients, whose tasks outlive the pool?
    pub(crate) fn has_seats(&self) -> bool {
        self.participants.iter().any(Participant::is_seat)
    }

    /// Settles what all who were here before owned, but for `me` and the living, then sweeps. Only for who is to be the coordinator;
    /// safe to repeat, also where it was killed, by another then. `note` as in [`recover_noting`](Self::recover_noting).
    ///
    /// # Errors
    /// [`Corrupted`] if a word is damaged.
    pub(crate) fn recover_all(
        &self,
        cursors: &Cursors,
        me: Name,
        living: &[Name],
        exit: u64,
        mut note: impl FnMut(Name, Owned),
    ) -> Result<Settled, Corrupted> {
        let mut settled = Settled::default();
        for (id, p) in self.participants.iter().enumerate().filter(|(id, _)| *id != usize::from(me.id())) {
            if let Member::Live(n) | Member::Dead(n) = p.member(id)?
                && let name = Name::new(id as u16, n)
                && !living.contains(&name)
            {
                let death = Death { is_nobodys: true, ..Death::of(exit) };
                self.settle_all(cursors, me, name, death, &mut note, &mut settled)?;
            }
        }
        self.sweep(cursors)?;
        Ok(settled)
    }

    /// Settles what `dead` owned. False: that was done long ago, and the id is another's by now.
    fn settle_all(
        &self,
        cursors: &Cursors,
        me: Name,
        dead: Name,
        death: Death<'_>,
        note: &mut impl FnMut(Name, Owned),
        settled: &mut Settled,
    ) -> Result<bool, Corrupted> {
        let participant = self.participant(dead.id())?;
        let was_begun = match participant.member(dead.id().into())? {
            Member::Live(n) if n == dead.incarnation() => false,
            Member::Dead(n) if n == dead.incarnation() => true,
            _ => return Ok(false),
        };
        let is_seat = participant.is_seat();
        if !is_seat {
            // By the only writer, hence no exchange. Release as in `admit`; [orphan] asks for the fence alone.
            participant.member.store(Member::Dead(dead.incarnation()).bits(), Release);
            full_fence("no-orphan-fence"); // [orphan]
            self.count_the_living();
        }
        // One walk over them all, most of which are free. What is free now names the dead one no more: whoever stores its name later
        // finds it dead ([orphan]); a seat has none but those of its own process, which moves no more.
        let in_use: Vec<u16> =
            (0..).take(self.descriptors.len()).filter(|&index| !self.load(index).is(Phase::Free)).collect();
        let judgement = self.judge(&in_use, dead, death, was_begun, note);
        let case = Case { me, dead, death, judgement, is_seat };
        for index in in_use {
            self.settle(cursors, &case, index, settled)?;
        }
        self.blocks.recover(dead)?;
        self.end_sleep(dead.id());
        Ok(true)
    }

    /// Who has this id does not sleep any more: it is dead.
    fn end_sleep(&self, id: u16) {
        let words = self.participants.len().div_ceil(64);
        for row in 0..=self.queues {
            // AcqRel asks for nothing: a bit is a hint, and its owner is gone.
            self.idle[row * words + usize::from(id) / 64].fetch_and(!(1 << (id % 64)), AcqRel);
        }
        self.participants[usize::from(id)].end_park();
    }

    /// Which of its tasks have ended this participant. It moves no more, so its words and fields belong together.
    fn judge(
        &self,
        in_use: &[u16],
        dead: Name,
        death: Death<'_>,
        was_begun: bool,
        note: &mut impl FnMut(Name, Owned),
    ) -> Judgement {
        let mut claimed: Vec<(Place, TaskId)> = Vec::new();
        for &index in in_use {
            let word = self.load(index);
            if !word.is(Phase::Claimed) || word.who() != dead.id() {
                continue;
            }
            note(dead, Owned { index, word });
            let place = match self.descriptors[usize::from(index)].run_of(word) {
                // It had not signed, and so not begun; or it had done with it, and made it ready for another.
                None => Place::default(),
                Some(run) if run.claimant() == dead => Place::of(run.place.load(Relaxed)),
                Some(_) => continue, // adopted
            };
            claimed.push((place, Owned { index, word }.id()));
        }
        let fault = self.participants[dead.id() as usize].fault.load(Relaxed);
        let is_late = |id: &TaskId| death.late.contains(id);
        // Not whether one of these is still claimed: it may have ended in the moment before the signal.
        let was_killed = !death.late.is_empty();
        let waits_for_late = |place: &Place| {
            claimed
                .iter()
                .any(|(p, id)| place.slot != 0 && p.slot == place.slot && p.depth > place.depth && is_late(id))
        };
        let has_fault = claimed.iter().any(|(_, id)| id.note() == fault);

        let alone = claimed.iter().find(|(place, _)| place.is_alone).map(|(place, _)| place.slot);
        let mut candidates: Vec<_> =
            claimed.iter().filter(|(p, _)| p.slot != 0 && alone.is_none_or(|slot| slot == p.slot)).collect();
        candidates.sort_unstable_by_key(|(p, _)| (p.slot, std::cmp::Reverse(p.depth)));
        candidates.dedup_by(|(p, _), (deepest, _)| p.slot == deepest.slot && p.depth < deepest.depth);
        let verdict = |place: &Place, id: &TaskId| match candidates.iter().any(|(_, candidate)| candidate == id) {
            _ if was_killed => {
                if is_late(id) {
                    Verdict::Guilty
                } else if waits_for_late(place) {
                    Verdict::Spent
                } else {
                    Verdict::Bystander
                }
            }
            _ if has_fault => {
                if id.note() == fault {
                    Verdict::Guilty
                } else {
                    Verdict::Spent
                }
            }
            true if candidates.len() == 1 && !was_begun => Verdict::Guilty,
            true => Verdict::Suspect,
            false => Verdict::Spent,
        };
        let verdicts = claimed.iter().map(|(place, id)| (*id, verdict(place, id))).collect();
        Judgement { verdicts, is_none: death.is_nobodys }
    }

    fn settle(&self, cursors: &Cursors, case: &Case<'_>, index: u16, settled: &mut Settled) -> Result<(), Corrupted> {
        let Case { me, dead, .. } = *case;
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
                Phase::Reserved
                    if case.is_seat
                        && owner(word)
                        && let Some(done) = d.noted(word).filter(|_| !mutant("no-note")) =>
                {
                    if self.exchange(index, word, done, AcqRel).is_ok() {
                        return Ok(()); // the sweep gives it a hint
                    }
                }
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
                    if let Ok(word) = self.exchange(index, word, word.to(Phase::Claimed, me.id()), AcqRel) {
                        self.settle_claimed(case, Owned { index, word }, settled)?;
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
    fn settle_claimed(&self, case: &Case<'_>, task: Owned, settled: &mut Settled) -> Result<(), Corrupted> {
        let Case { me, dead, death, .. } = *case;
        let Owned { index, word } = task;
        let d = &self.descriptors[index as usize];
        self.tidy_checkpoints(task)?;
        // It may have died between its claim and its own store of this. (Not otherwise: what a dead coordinator had adopted
        // was another's.)
        if d.run_of(word).is_none() && !mutant("no-sign") {
            d.sign(word, dead);
        }
        d.exit.store(death.exit, Relaxed);
        let began = d.run.began.load(Relaxed);
        if began != 0 {
            d.run.ran.store(self.clock.now().saturating_sub(began), Relaxed);
        }
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
            // No other may have it, so there is nothing to decide.
            let is_late = death.late.contains(&task.id());
            let outcome = if is_late { Outcome::TimedOut } else { Outcome::AddresseeDied };
            word.to(Phase::Done(outcome), submitter.id())
        } else if self.is_cancel_asked(index, word) {
            word.to(Phase::Done(Outcome::Cancelled), submitter.id())
        } else {
            self.sentence(case, task, submitter)
        };
        match next.phase() {
            Some(Phase::Done(_)) => settled.failed += 1,
            _ => settled.requeued += 1,
        }
        let is_reported = matches!(next.phase(), Some(Phase::Done(Outcome::WorkerDied | Outcome::TimedOut)));
        let deaths = Blame::of(d.blame.load(Relaxed)).deaths;
        if is_reported && deaths > 0 {
            let is_poison = Rules::of(d.rules.load(Relaxed)).is_poison(deaths);
            settled.given_up.push(GivenUp { kind: d.kind.load(Relaxed), deaths, is_poison });
        }
        if !(is_reported && self.keeps_output(task)) {
            self.discard_output(task)?;
        }
        // [requeue]; the time is left to the tick after it.
        self.exchange(index, word, next, AcqRel).map(drop).map_err(|w| moved(index, w))
    }

    /// Does its submitter want what the dead one had written, and is that its own? (Between naming a block and attaching it the
    /// dead one held it, which is settled apart.)
    fn keeps_output(&self, Owned { index, word }: Owned) -> bool {
        let d = &self.descriptors[index as usize];
        let block = Payload(d.output.load(Relaxed)).block();
        Rules::of(d.rules.load(Relaxed)).keeps_output
            && block.is_none_or(|block| self.blocks.check_attached(block, index, word).is_ok())
    }

    /// The next word of a claimed task, by the verdict on it; its blame and the fields of its next attempt are made ready.
    fn sentence(&self, case: &Case<'_>, task: Owned, submitter: Name) -> Task {
        let (word, d) = (task.word, &self.descriptors[task.index as usize]);
        let verdict = case.judgement.on(task.id(), Place::of(d.run.place.load(Relaxed)));
        let (rules, mut blame) = (Rules::of(d.rules.load(Relaxed)), Blame::of(d.blame.load(Relaxed)));
        if verdict == Verdict::Bystander && rules.retry_on & retry_on::DIED != 0 {
            blame.spared = blame.spared.saturating_add(1);
            if blame.spared <= SPARED {
                d.blame.store(blame.bits(), Relaxed);
                return self.next_attempt(task, true, submitter, 0);
            }
        }
        blame.peak_kib = u32::try_from(case.death.peak_kib).unwrap_or(u32::MAX);
        match verdict {
            Verdict::Guilty => blame.deaths = blame.deaths.saturating_add(1),
            Verdict::Suspect => blame.is_suspect = true,
            Verdict::Bystander | Verdict::Spent => {}
        }
        d.blame.store(blame.bits(), Relaxed);
        let (outcome, cause) = if case.death.late.contains(&task.id()) {
            (Outcome::TimedOut, retry_on::TIMED_OUT)
        } else {
            (Outcome::WorkerDied, retry_on::DIED)
        };
        let is_poison = verdict == Verdict::Guilty && rules.is_poison(blame.deaths);
        if is_poison || rules.retry_on & cause == 0 || !self.has_attempts_left(d, word) {
            word.to(Phase::Done(outcome), submitter.id())
        } else {
            self.next_attempt(task, false, submitter, self.pause(task))
        }
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
