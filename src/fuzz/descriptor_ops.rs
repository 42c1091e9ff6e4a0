//! Tasks of a whole pool against a plain account of them.
//!
//! Up to four participants and a coordinator act in turns, in whatever order the input says. Each may be killed between two
//! operations, or in the midst of one before any of its writes ([`fate`]), the coordinator too; a death is settled at once or
//! much later, and once more whenever the input likes. Some are declared dead though they live, and go on with what they
//! have.
//!
//! After each operation every task must be where the account has it, or where this very operation may have moved it
//! ([`Play::may_move`]); every answer must be the one that follows from the account. At the end all is drained: each task of
//! a living client was delivered to it once, and the audit is clean. A checkpoint that was left is there, whole, for the next
//! attempt, or the one that was being left; and each death is counted against those whose fault it was.

use super::stage::{Bytes, DESCRIPTORS, LENGTHS, QUEUES, Stage, death, pick};
use crate::{
    TaskId,
    exec::endpoint::{Claimed, Draft, Endpoint, Finished, STATUS_ABANDONED, Spare, Submission, SubmitError, To},
    lockfree::{
        descriptor::{Backoff, Blame, INLINE, Limits, MS, Place, Rules, retry_on},
        participant::Name,
        recovery::{Death, SPARED},
        table::{Again, Cancel, Cursors, LaneId, Table},
        timer::{Looks, NEVER},
        word::{Outcome, Phase},
    },
    mem::segment::NoSpace,
    process::exit::Exit,
    sync::{Relaxed, fate},
};
use std::{collections::HashMap, time::Duration};

const ACTORS: usize = 4;
/// Guards of each kind that an actor has at once.
const GUARDS: usize = 3;
/// Deaths that nobody has settled yet, at most: their ids are not given again.
const UNSETTLED: usize = 6;
const KILLED: Exit = Exit::Signal(9);
const HOUR: u64 = 3_600_000 * MS;

/// `data`: three bytes per step: what, who and how, and before which write the actor dies.
///
/// # Panics
/// If an answer, a word or a payload is not what the account allows.
pub fn descriptor_ops(data: &[u8]) {
    let stage = Stage::new();
    let mut play = Play::new(&stage);
    let mut bytes = Bytes(data);
    while let (Some(op), Some(arg), Some(k)) = (bytes.next(), bytes.next(), bytes.next()) {
        play.step(op, arg, death(k));
    }
    play.drain();
}

/// Number of a participant, in the order of their coming. An id may be used again; this isn't.
type Life = usize;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// Acts; so does, with what it has, who is declared dead and lives.
    Lives,
    Killed,
    /// Its death is settled.
    Settled,
}

struct Participant {
    name: Name,
    fate: Fate,
    /// Killed in the midst of an operation: until that is settled, hints may be missing.
    was_busy: bool,
    is_coordinator: bool,
}

/// Where a task is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    Ready,
    Claimed(Life),
    Delayed,
    Done(Outcome),
    /// Its submitter has the result, or somebody is about to free it.
    Taken(Life),
    Gone,
}

/// What is known of an accepted task. Its tag is its number.
#[derive(Debug)]
struct Account {
    id: TaskId,
    from: Life,
    lane: LaneId,
    addressee: Option<Life>,
    len: usize,
    max_attempts: u8,
    /// Pool time; 0: never.
    expires: u64,
    at: At,
    attempt: u8,
    outcome: Option<Outcome>,
    /// Who ran it last.
    claimant: Option<Life>,
    /// Status and length of the output that its worker has written.
    answer: (u32, usize),
    /// The last checkpoint, and one that its worker died over: number and length.
    kept: Option<(usize, usize)>,
    perhaps_kept: Option<(usize, usize)>,
    checkpoints: usize,
    /// Deaths by its fault, at least and at most: a coordinator may have died as it counted.
    deaths: (u32, u32),
    was_delivered: bool,
}

/// What is to become of a task that a dead one ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Guilty {
        is_late: bool,
    },
    Bystander,
    /// Suspect, or none of all that: the attempt is spent.
    Other,
}

/// What an operation may do to tasks.
#[derive(Clone, Copy, Debug)]
enum Did {
    /// Nothing to any task.
    Nothing,
    Cancel(usize),
    Claim(Life, LaneId),
    Complete(Life, usize, Outcome),
    GiveBack(Life, usize, Again),
    Take(Life),
    Release(Life),
    Tick,
    /// Who settles, and whose death.
    Recover(Life, Life),
}

struct Actor<'e> {
    life: Life,
    endpoint: &'e Endpoint,
    drafts: Vec<(Draft<'e>, usize)>,
    spares: Vec<Spare>,
    claimed: Vec<(Claimed<'e>, usize)>,
    finished: Vec<Finished<'e>>,
}

impl Actor<'_> {
    /// SIGKILL runs no destructor.
    fn die(self) {
        self.drafts.into_iter().for_each(std::mem::forget);
        self.claimed.into_iter().for_each(std::mem::forget);
        self.finished.into_iter().for_each(std::mem::forget);
    }
}

struct Play<'e> {
    stage: &'e Stage,
    lives: Vec<Participant>,
    tasks: Vec<Account>,
    actors: [Option<Actor<'e>>; ACTORS],
    /// Declared dead; they go on with what they have.
    fenced: Vec<Actor<'e>>,
    coordinator: Option<(Life, Cursors)>,
    looks: Looks,
    /// On the tasks of the one whose death is being settled.
    verdicts: HashMap<usize, Verdict>,
}

impl<'e> Play<'e> {
    fn new(stage: &'e Stage) -> Play<'e> {
        let mut play = Play {
            stage,
            lives: Vec::new(),
            tasks: Vec::new(),
            actors: [const { None }; ACTORS],
            fenced: Vec::new(),
            coordinator: None,
            looks: Looks::default(),
            verdicts: HashMap::new(),
        };
        play.succeed(false);
        (0..ACTORS).for_each(|who| play.arrive(who, 0));
        play
    }

    fn table(&self) -> &'e Table<'e> {
        self.stage.table()
    }

    fn step(&mut self, op: u8, arg: u8, k: u32) {
        let (who, arg) = (arg as usize % ACTORS, arg / ACTORS as u8);
        match op % 32 {
            0 | 1 => self.submit(who, arg, plain(arg), k),
            2 => self.submit(who, arg, particular(arg), k),
            3 => (0..DESCRIPTORS).for_each(|_| self.submit(who, arg & 1, plain(arg), 0)),
            4 => self.draft(who, arg, k),
            5 => self.submit_draft(who, arg, k),
            6 => self.drop_draft(who, k),
            7 => self.cancel(who, arg, k),
            8..=10 => {
                self.claim(who, arg, k);
            }
            11 => self.complete(who, arg, k),
            12 => self.checkpoint(who, arg, k),
            13 | 14 => self.give_back(who, arg, k),
            15 => self.abandon(who, arg, k),
            16 => self.agree(who, arg, k),
            17 | 18 => {
                self.take(who, k);
            }
            19 if arg & 1 == 0 => self.release(who, k),
            19 => self.renew(who, k),
            20 => self.park(who, arg, k),
            21 => self.kill(who),
            22 | 23 => self.bury(arg, k),
            24 => self.arrive(who, k),
            25 => self.tick(k),
            26 => self.stage.pass([1, MS, 3 * MS, HOUR][arg as usize % 4]),
            27 => self.sweep(k),
            28 => self.bury_again(arg, k),
            29 => self.fence(who, k),
            30 => self.act_fenced(arg),
            _ => match arg % 3 {
                0 => self.audit(),
                1 => self.lose_coordinator(),
                _ => self.watch(k),
            },
        }
    }

    // ---- participants -----------------------------------------------------------------------------------------------

    /// Runs an operation of an actor, who may die of it. `None`: it did, or is none.
    fn act<T>(&mut self, who: usize, k: u32, did: Did, op: impl FnOnce(&mut Actor<'e>) -> T) -> Option<T> {
        let mut actor = self.actors[who].take()?;
        let answer = fate::mortal(k, || op(&mut actor));
        if answer.is_some() {
            self.actors[who] = Some(actor);
        } else {
            self.dies(actor.life, true);
            actor.die();
        }
        self.reconcile(did);
        answer
    }

    /// The same for the coordinator. `None`: it died.
    fn coordinate<T>(&mut self, k: u32, did: Did, op: impl FnOnce(&Table<'_>, &Cursors, Name) -> T) -> Option<T> {
        let table = self.table();
        if self.coordinator.is_none() {
            self.succeed(k & 1 == 1);
        }
        let (life, cursors) = self.coordinator.take().expect("a coordinator");
        let name = self.lives[life].name;
        let answer = fate::mortal(k, || op(table, &cursors, name));
        if answer.is_some() {
            self.coordinator = Some((life, cursors));
        } else {
            self.dies(life, true);
        }
        let did = if let Did::Recover(_, dead) = did { Did::Recover(life, dead) } else { did };
        self.reconcile(did);
        answer
    }

    fn life(&self, who: usize) -> Option<Life> {
        self.actors[who].as_ref().map(|a| a.life)
    }

    fn dies(&mut self, life: Life, was_busy: bool) {
        let participant = &mut self.lives[life];
        (participant.fate, participant.was_busy) = (Fate::Killed, was_busy);
    }

    fn unsettled(&self) -> Vec<Life> {
        (0..self.lives.len()).filter(|&l| self.lives[l].fate == Fate::Killed).collect()
    }

    /// Is every hint where it belongs?
    fn has_all_hints(&self) -> bool {
        !self.lives.iter().any(|p| p.was_busy && p.fate == Fate::Killed)
    }

    fn is_live(&self, life: Life) -> bool {
        self.table().is_live(self.lives[life].name).expect("undamaged")
    }

    fn came(&mut self, name: Name, is_coordinator: bool) -> Life {
        assert!(self.lives.iter().all(|p| p.name != name), "{name:?} is given a second time");
        self.lives.push(Participant { name, fate: Fate::Lives, was_busy: false, is_coordinator });
        self.lives.len() - 1
    }

    fn arrive(&mut self, who: usize, k: u32) {
        if self.actors[who].is_some() || !self.stage.has_seats() {
            return;
        }
        if let Some(Some(name)) = self.coordinate(k, Did::Nothing, |t, _, _| t.admit(1, 1).expect("undamaged")) {
            let life = self.came(name, false);
            let endpoint = self.stage.seat(name).expect("a seat");
            let (drafts, spares, claimed, finished) = Default::default();
            self.actors[who] = Some(Actor { life, endpoint, drafts, spares, claimed, finished });
        }
    }

    fn kill(&mut self, who: usize) {
        if self.unsettled().len() < UNSETTLED
            && let Some(actor) = self.actors[who].take()
        {
            self.dies(actor.life, false);
            actor.die();
        }
    }

    fn lose_coordinator(&mut self) {
        if let Some((life, _)) = self.coordinator.take() {
            self.dies(life, false);
        }
    }

    /// A new coordinator: settles the death of those before it, and once more all that they had begun.
    fn succeed(&mut self, is_last_first: bool) {
        let name = self.table().admit(1, 1).expect("undamaged").expect("room for a coordinator");
        let life = self.came(name, true);
        self.coordinator = Some((life, Cursors::new(self.table())));
        let mut begun = self.unsettled();
        begun.retain(|&l| self.lives[l].is_coordinator || !self.is_live(l));
        if is_last_first {
            begun.reverse();
        }
        for dead in begun {
            self.recover(dead, 0);
        }
    }

    fn recover(&mut self, dead: Life, k: u32) {
        let name = self.lives[dead].name;
        if self.coordinator.is_none() {
            self.succeed(k & 1 == 1); // before the verdicts: it settles others
        }
        self.verdicts = self.judge(dead);
        let is_late = |task: &usize| self.verdicts[task] == Verdict::Guilty { is_late: true };
        let late: Vec<_> = self.verdicts.keys().filter(|task| is_late(task)).map(|&task| self.tasks[task].id).collect();
        for (&task, verdict) in &self.verdicts {
            self.tasks[task].deaths.1 += u32::from(matches!(verdict, Verdict::Guilty { .. }));
        }
        let settle = |t: &Table<'_>, c: &Cursors, me| {
            t.recover(c, me, name, Death { late: &late, ..Death::of(KILLED.pack()) }).expect("undamaged")
        };
        if self.coordinate(k, Did::Recover(dead, dead), settle).is_none() {
            return;
        }
        self.lives[dead].fate = Fate::Settled;
        for t in &self.tasks {
            let is_left = match t.at {
                At::Gone => false,
                At::Claimed(by) => by == dead,
                // Another may have died as it freed that, or told its submitter.
                At::Taken(by) => by == dead || t.from == dead && self.lives[by].fate != Fate::Killed,
                At::Ready | At::Delayed => {
                    t.from == dead || t.addressee == Some(dead) && self.lives[t.from].fate != Fate::Killed
                }
                At::Done(_) => t.from == dead,
            };
            assert!(!is_left, "{t:?} is left of {name:?}");
        }
    }

    /// Whose fault it was, by what the dead one's own tasks say; who is late was killed for that.
    fn judge(&self, dead: Life) -> HashMap<usize, Verdict> {
        let table = self.table();
        let of = |task: usize| &table.descriptors[self.tasks[task].id.index as usize];
        let run = |task: usize| of(task).run_of(table.load(self.tasks[task].id.index));
        let place = |task: usize| Place::of(run(task).map_or(0, |run| run.place.load(Relaxed)));
        let own = |task: &usize| self.tasks[*task].at == At::Claimed(dead) && !self.lives[dead].is_coordinator;
        let all: Vec<usize> = (0..self.tasks.len()).filter(own).collect();
        let is_late = |task: usize| {
            run(task).is_some_and(|run| {
                let started = run.started.load(Relaxed);
                let limits = Limits::of(of(task).limits.load(Relaxed));
                started != 0 && limits.deadline(started, of(task).heartbeat.load(Relaxed)) <= table.now()
            })
        };
        let was_killed = all.iter().any(|&task| is_late(task));
        let is_deepest = |task: usize| {
            let mine = place(task);
            mine.slot != 0 && all.iter().all(|&t| place(t).slot != mine.slot || place(t).depth <= mine.depth)
        };
        let is_below = |task: usize, other: usize| {
            let (mine, its) = (place(task), place(other));
            mine.slot != 0 && mine.slot == its.slot && mine.depth < its.depth
        };
        let ran = all.iter().filter(|&&task| is_deepest(task)).count();
        let verdict = |task: usize| match was_killed {
            true if is_late(task) => Verdict::Guilty { is_late: true },
            true if all.iter().any(|&t| is_late(t) && is_below(task, t)) => Verdict::Other,
            true => Verdict::Bystander,
            false if ran == 1 && is_deepest(task) && self.is_live(dead) => Verdict::Guilty { is_late: false },
            false => Verdict::Other,
        };
        all.iter().map(|&task| (task, verdict(task))).collect()
    }

    fn bury(&mut self, arg: u8, k: u32) {
        if let Some(dead) = pick(&self.unsettled(), arg) {
            self.recover(dead, k);
        }
    }

    fn bury_again(&mut self, arg: u8, k: u32) {
        let settled: Vec<_> = (0..self.lives.len()).filter(|&l| self.lives[l].fate == Fate::Settled).collect();
        if let Some(dead) = pick(&settled, arg) {
            self.recover(dead, k);
        }
    }

    /// Declares one dead who lives.
    fn fence(&mut self, who: usize, k: u32) {
        if self.unsettled().len() < UNSETTLED
            && let Some(actor) = self.actors[who].take()
        {
            let life = actor.life;
            self.fenced.push(actor);
            self.dies(life, false);
            self.recover(life, k);
        }
    }

    /// Who was declared dead uses what it had: all is refused, and nothing comes of it.
    fn act_fenced(&mut self, arg: u8) {
        let is_settled = |a: &&mut Actor<'_>| self.lives[a.life].fate == Fate::Settled;
        let Some(actor) = self.fenced.iter_mut().find(is_settled) else { return };
        if let Some((mut task, _)) = actor.claimed.pop() {
            task.heartbeat();
            task.begin(1, 0, 0, 0);
            task.progress(1, 2);
            assert!(task.checkpoint(&[1]).is_err());
            assert!(task.writer().reserve(1).is_err());
            match arg % 5 {
                0 => drop(task),
                1 => assert!(task.cancelled().is_err()),
                2 => assert!(task.give_back(Again::SameAttempt).is_err()),
                3 => assert!(task.give_back(Again::Backoff).is_err()),
                _ => {
                    let written = task.complete(0, LENGTHS[arg as usize % 7], |_| panic!("it must not write"));
                    assert!(matches!(written, Err((SubmitError::Corrupted(_), None))));
                }
            }
        } else if let Some((draft, _)) = actor.drafts.pop() {
            if arg & 1 == 0 {
                assert!(draft.submit(plain(0)).is_err());
            }
        } else if let Some(spare) = actor.spares.pop() {
            actor.endpoint.give_up(spare);
        } else if let Some(finished) = actor.finished.pop()
            && arg & 1 == 0
        {
            assert!(finished.renew().is_err());
        }
        self.reconcile(Did::Nothing);
    }

    // ---- what the coordinator does beside that ----------------------------------------------------------------------

    fn tick(&mut self, k: u32) {
        let Some(tick) = self.coordinate(k, Did::Tick, |t, c, _| t.tick(c).expect("undamaged")) else { return };
        assert!(tick.next > self.table().now(), "a time that has come is still waited for");
        for (name, id) in &tick.late {
            let t = self.tasks.iter().find(|t| t.id == *id).expect("a task");
            assert!(matches!(t.at, At::Claimed(by) if self.lives[by].name == *name), "{t:?} is late");
        }
        for t in &self.tasks {
            let d = &self.table().descriptors[t.id.index as usize];
            let run = d.run_of(self.table().load(t.id.index));
            let time = match (t.at, run.map(|run| (run.started.load(Relaxed), d.heartbeat.load(Relaxed)))) {
                (At::Delayed, _) => d.not_before.load(Relaxed),
                (At::Claimed(by), Some((started @ 1.., heartbeat))) if self.is_live(by) => {
                    Limits::of(d.limits.load(Relaxed)).deadline(started, heartbeat)
                }
                _ => NEVER,
            };
            let expires = if matches!(t.at, At::Ready | At::Delayed) && t.expires != 0 { t.expires } else { NEVER };
            let is_late = tick.late.iter().any(|(_, id)| *id == t.id);
            assert!(is_late && time <= self.table().now() || tick.next <= time.min(expires), "slept through: {t:?}");
        }
    }

    fn sweep(&mut self, k: u32) {
        self.coordinate(k, Did::Nothing, |t, c, _| t.sweep(c).expect("undamaged"));
    }

    fn watch(&mut self, k: u32) {
        // With the coordinator goes what it remembers.
        let mut looks = std::mem::take(&mut self.looks);
        let look = |t: &Table<'_>, c: &Cursors, _| t.look(c, &mut looks);
        if self.coordinate(k, Did::Nothing, look).is_some() {
            self.looks = looks;
        }
    }

    fn audit(&self) {
        // A recovery that was begun leaves words that name the dead, until it is made again.
        if self.has_all_hints() && self.unsettled().iter().all(|&l| self.is_live(l)) {
            let audit = self.table().audit();
            assert!(audit.violations.is_empty(), "{audit}");
        }
    }

    // ---- submitters -------------------------------------------------------------------------------------------------

    fn target(&self, arg: u8) -> (To, LaneId, Option<Life>) {
        // A coordinator claims nothing.
        let lives: Vec<_> = (0..self.lives.len()).filter(|&l| !self.lives[l].is_coordinator).collect();
        match pick(&lives, arg) {
            Some(life) if arg >= 48 => {
                let name = self.lives[life].name;
                (To::Participant(name), self.table().private(name.id()), Some(life))
            }
            _ => {
                let queue = arg as usize / 8 % QUEUES;
                (To::Queue(queue), self.table().queue(queue), None)
            }
        }
    }

    fn submit(&mut self, who: usize, arg: u8, s: Submission, k: u32) {
        let (tag, len, target) = (self.tasks.len(), LENGTHS[arg as usize % 8], self.target(arg));
        let s = Submission { to: target.0, kind: tag as u32, tag: tag as u64, ..s };
        let payload: Vec<u8> = input(tag, len).collect();
        let Some(life) = self.life(who) else { return };
        let answer = self.act(who, k, Did::Nothing, |a| a.endpoint.try_submit(s, &payload));
        self.submitted(life, len, s, target, answer);
    }

    fn draft(&mut self, who: usize, arg: u8, k: u32) {
        let len = LENGTHS[arg as usize % 8];
        if self.actors[who].as_ref().is_none_or(|a| a.drafts.len() >= GUARDS) {
            return;
        }
        let draft = |a: &mut Actor<'e>| {
            let is_small = len <= INLINE;
            let block = if is_small || a.spares.is_empty() { None } else { a.endpoint.retake_block(len) };
            let spare = if is_small || block.is_some() { a.spares.pop() } else { None };
            let draft = match (block, spare) {
                (Some(block), Some(spare)) => Ok(a.endpoint.redraft_in(block, spare, len)?),
                (None, Some(spare)) => Ok(a.endpoint.redraft(spare, len)),
                _ => a.endpoint.draft(len),
            };
            draft.map(|draft| a.drafts.push((draft, len)))
        };
        if let Some(Err(e)) = self.act(who, k, Did::Nothing, draft) {
            self.refused(e, len, false);
        }
    }

    fn submit_draft(&mut self, who: usize, arg: u8, k: u32) {
        let Some((mut draft, len)) = self.actors[who].as_mut().and_then(|a| a.drafts.pop()) else { return };
        let (tag, target, life) = (self.tasks.len(), self.target(arg), self.life(who).expect("whose draft it was"));
        let s = Submission { to: target.0, kind: tag as u32, tag: tag as u64, ..particular(arg) };
        // What it was kept from is over with this.
        let answer = self.act(who, k, Did::Release(life), |_| {
            draft.payload()?.iter_mut().zip(input(tag, len)).for_each(|(byte, value)| *byte = value);
            Ok(draft.submit(s)?)
        });
        self.submitted(life, len, s, target, answer);
    }

    fn submitted(
        &mut self,
        from: Life,
        len: usize,
        s: Submission,
        (_, lane, addressee): (To, LaneId, Option<Life>),
        answer: Option<Result<TaskId, SubmitError>>,
    ) {
        let has_died = answer.is_none();
        let id = match answer {
            Some(Ok(id)) => id,
            Some(Err(e)) => return self.refused(e, len, false),
            // It may be there though nobody was told.
            None => match self.find(from, s.tag) {
                Some(id) => id,
                None => return,
            },
        };
        let expires = s.expires_in.map_or(0, |t| self.table().now() + t.as_nanos() as u64);
        let (at, attempt, max_attempts) = (At::Ready, 0, s.max_attempts.max(1));
        let (outcome, claimant, answer, was_delivered) = (None, None, (0, 0), false);
        self.tasks.push(Account {
            id,
            from,
            lane,
            addressee,
            len,
            max_attempts,
            expires,
            at,
            attempt,
            outcome,
            claimant,
            answer,
            kept: None,
            perhaps_kept: None,
            checkpoints: 0,
            deaths: (0, 0),
            was_delivered,
        });
        let task = self.tasks.len() - 1;
        let (found, _) = self.observe(task);
        let is_lost = addressee.is_some_and(|life| !self.is_live(life));
        let is_told = found == At::Done(Outcome::AddresseeDied);
        assert!(if is_lost { is_told || has_died } else { found == At::Ready }, "{:?} is {found:?}", self.tasks[task]);
        self.moved(task, found, 0, Did::Nothing);
    }

    fn find(&self, from: Life, tag: u64) -> Option<TaskId> {
        let table = self.table();
        (0..).zip(table.descriptors).find_map(|(index, d)| {
            let word = table.load(index);
            let is_it = !word.is(Phase::Free)
                && !word.is(Phase::Reserved)
                && d.tag.load(Relaxed) == tag
                && d.submitter.load(Relaxed) == self.lives[from].name.bits();
            is_it.then(|| TaskId { index, generation: word.generation() })
        })
    }

    /// Was there really no room? `is_output`: it may have the last block, which is spared for it.
    fn refused(&self, e: SubmitError, len: usize, is_output: bool) {
        let table = self.table();
        match e {
            SubmitError::Full(_) => {
                let all_used = (0..table.descriptors.len()).all(|i| !table.load(i as u16).is(Phase::Free));
                assert!(all_used, "{e}, and yet one is free");
            }
            SubmitError::NoSpace(NoSpace::Taken { .. }) => {
                let needed = 1 + usize::from(!is_output && table.blocks.has_at_least(2, len));
                assert!(!table.blocks.has_free_at_least(needed, len), "{e}, and yet there is one")
            }
            SubmitError::TooLarge { limit, .. } => assert!(len > limit && limit == LENGTHS[6]),
            e => panic!("{e}"),
        }
    }

    fn drop_draft(&mut self, who: usize, k: u32) {
        let Some(life) = self.life(who) else { return };
        self.act(who, k, Did::Release(life), |a| match a.drafts.pop() {
            Some(draft) => drop(draft),
            None => a.spares.pop().into_iter().for_each(|spare| a.endpoint.give_up(spare)),
        });
    }

    fn cancel(&mut self, who: usize, arg: u8, k: u32) {
        let Some(life) = self.life(who) else { return };
        let own: Vec<_> = (0..self.tasks.len()).rev().filter(|&t| self.tasks[t].from == life).take(64).collect();
        let Some(task) = pick(&own, arg) else { return };
        let id = self.tasks[task].id;
        let did = Did::Cancel(task);
        let Some(answer) = self.act(who, k, did, |a| a.endpoint.cancel(id).expect("undamaged")) else { return };
        let at = self.tasks[task].at;
        let is_right = match answer {
            Cancel::Cancelled => at == At::Done(Outcome::Cancelled),
            Cancel::Running(name) => {
                matches!(at, At::Claimed(by) if self.lives[by].name == name) && self.is_cancel_asked(task)
            }
            Cancel::Over => matches!(at, At::Done(_) | At::Taken(_) | At::Gone),
        };
        assert!(is_right, "{answer:?}: {:?}", self.tasks[task]);
    }

    fn take(&mut self, who: usize, k: u32) -> bool {
        let Some(actor) = self.actors[who].as_ref().filter(|a| a.finished.len() < GUARDS) else { return false };
        let life = actor.life;
        let did = Did::Take(life);
        let Some(answer) = self.act(who, k, did, |a| a.endpoint.take().expect("undamaged")) else { return false };
        let Some(done) = answer else {
            let is_left = |t: &&Account| t.from == life && matches!(t.at, At::Done(_));
            let left = self.tasks.iter().find(is_left).filter(|_| self.has_all_hints());
            assert!(left.is_none(), "not delivered: {left:?}");
            return false;
        };
        let t = &mut self.tasks[done.tag() as usize];
        assert!(!t.was_delivered && t.from == life && t.at == At::Taken(life), "delivered: {t:?}");
        t.was_delivered = true;
        assert_eq!(Some(done.outcome()), t.outcome, "{t:?}");
        let mut expected = Vec::new();
        if done.outcome() == Outcome::Completed {
            expected.extend(output(done.tag() as usize, t.attempt, t.answer.1));
            assert_eq!(done.status(), t.answer.0, "{t:?}");
            assert_eq!(done.claimant(), t.claimant.map(|by| self.lives[by].name), "{t:?}");
        }
        assert_eq!(done.output().expect("undamaged"), expected, "{t:?}");
        if done.outcome() == Outcome::WorkerDied {
            assert_eq!(Exit::unpack(done.exit()), KILLED);
        }
        assert!((t.deaths.0..=t.deaths.1).contains(&done.deaths()), "{} deaths: {t:?}", done.deaths());
        assert!(done.attempts() <= t.attempt as u32 + 1, "{} attempts: {t:?}", done.attempts());
        let number = done.tag() as usize;
        assert!(done.input().expect("undamaged").iter().copied().eq(input(number, t.len)), "another input: {t:?}");
        self.actors[who].as_mut().expect("who took").finished.push(done);
        true
    }

    fn release(&mut self, who: usize, k: u32) {
        if let Some(life) = self.life(who) {
            self.act(who, k, Did::Release(life), |a| drop(a.finished.pop()));
        }
    }

    /// Keeps the descriptor of a result.
    fn renew(&mut self, who: usize, k: u32) {
        self.act(who, k, Did::Nothing, |a| {
            let spare = a.finished.pop().map(|finished| finished.renew().expect("undamaged"));
            a.spares.extend(spare);
        });
    }

    // ---- workers ----------------------------------------------------------------------------------------------------

    fn claim(&mut self, who: usize, arg: u8, k: u32) -> bool {
        let Some(actor) = self.actors[who].as_ref().filter(|a| a.claimed.len() < GUARDS) else { return false };
        let (life, endpoint) = (actor.life, actor.endpoint);
        let lane = [endpoint.queue(0), endpoint.queue(1), endpoint.private()][arg as usize % 3];
        let did = Did::Claim(life, lane);
        // Three to a slot, or not begun at all.
        let (slot, depth) = (u16::from(arg / 3 % 4), actor.claimed.len() as u16);
        let claim = |a: &mut Actor<'e>| {
            let task = a.endpoint.claim(lane).expect("undamaged");
            task.inspect(|task| {
                if slot != 0 {
                    task.begin(slot, depth, 1, 0);
                }
            })
        };
        let Some(answer) = self.act(who, k, did, claim) else { return false };
        let Some(task) = answer else {
            let is_left = |t: &&Account| t.at == At::Ready && t.lane == lane && t.addressee.is_none_or(|to| to == life);
            let left = self.tasks.iter().find(is_left).filter(|_| self.has_all_hints());
            assert!(left.is_none(), "not claimed: {left:?}");
            return false;
        };
        let number = task.kind() as usize;
        let t = &self.tasks[number];
        assert!(t.at == At::Claimed(life) && t.attempt == task.attempt(), "claimed: {t:?}");
        assert_eq!(task.submitter(), self.lives[t.from].name);
        let found = task.last_checkpoint().expect("undamaged");
        let is_it = |kept: Option<(usize, usize)>| match (kept, &found) {
            (None, None) => true,
            (Some((n, len)), Some(found)) => found.iter().copied().eq(checkpoint(number, n, len)),
            _ => false,
        };
        let is_later = t.perhaps_kept.is_some() && is_it(t.perhaps_kept);
        assert!(is_later || is_it(t.kept), "another checkpoint: {t:?}");
        let t = &mut self.tasks[number];
        let later = t.perhaps_kept.take();
        t.kept = if is_later { later } else { t.kept };
        let t = &self.tasks[number];
        assert!(task.input().expect("undamaged").iter().copied().eq(input(number, t.len)), "another input: {t:?}");
        let claimed = &mut self.actors[who].as_mut().expect("who claimed").claimed;
        claimed.push((task, number));
        let held = self.tasks.iter().filter(|t| t.at == At::Claimed(life)).count();
        assert_eq!(held, claimed.len(), "claimed more than it knows");
        true
    }

    /// One of those that the actor has claimed.
    fn pop_claimed(&mut self, who: usize, arg: u8) -> Option<(Claimed<'e>, Life, usize)> {
        let actor = self.actors[who].as_mut()?;
        let n = actor.claimed.len();
        let (task, number) = (n > 0).then(|| actor.claimed.swap_remove(arg as usize % n))?;
        Some((task, actor.life, number))
    }

    /// No room, or no attempt left: the task is still the actor's.
    fn keep(&mut self, who: usize, task: Claimed<'e>, number: usize) {
        let actor = self.actors[who].as_mut().expect("whose task it is");
        assert_eq!(self.tasks[number].at, At::Claimed(actor.life));
        actor.claimed.push((task, number));
    }

    fn complete(&mut self, who: usize, arg: u8, k: u32) {
        let Some((mut task, life, number)) = self.pop_claimed(who, arg) else { return };
        let (status, len) = (u32::from(arg), LENGTHS[arg as usize % 8]);
        let t = &mut self.tasks[number];
        t.answer = (status, len);
        let bytes = output(number, t.attempt, len);
        let fill = |room: &mut [u8]| room.iter_mut().zip(bytes).for_each(|(byte, value)| *byte = value);
        let answer = self.act(who, k, Did::Complete(life, number, Outcome::Completed), |_| {
            if arg < 32 {
                return task.complete(status, len, fill);
            }
            // A guess that is given up, and room for more than is needed.
            let mut writer = task.writer();
            let _ = writer.reserve(LENGTHS[(arg as usize + 3) % 8]);
            let room = len.max(LENGTHS[(arg as usize + 1) % 8].min(LENGTHS[6]));
            if writer.reserve(room).is_err() {
                return task.complete(status, len, fill);
            }
            fill(&mut writer.bytes().expect("undamaged")[..len]);
            writer.truncate(len).expect("undamaged");
            task.complete_reserved(status).map(drop).map_err(|e| (e.into(), None))
        });
        match answer {
            Some(Ok(())) => assert!(!matches!(self.tasks[number].at, At::Claimed(_))),
            Some(Err((e, task))) => {
                self.refused(e, len, true);
                self.keep(who, task.expect("the task"), number);
            }
            None => {}
        }
    }

    fn checkpoint(&mut self, who: usize, arg: u8, k: u32) {
        let len = LENGTHS[arg as usize % 8];
        let Some(actor) = self.actors[who].as_ref() else { return };
        let Some(number) = pick(&actor.claimed.iter().map(|(_, n)| *n).collect::<Vec<_>>(), arg / 8) else { return };
        let t = &mut self.tasks[number];
        t.checkpoints += 1;
        let kept = (t.checkpoints, len);
        t.perhaps_kept = Some(kept);
        let bytes: Vec<u8> = checkpoint(number, kept.0, len).collect();
        let answer = self.act(who, k, Did::Nothing, |a| {
            let (task, _) = a.claimed.iter_mut().find(|(_, n)| *n == number).expect("which was picked");
            task.checkpoint(&bytes)
        });
        let t = &mut self.tasks[number];
        match answer {
            Some(Ok(())) => (t.kept, t.perhaps_kept) = (Some(kept), None),
            Some(Err(e)) => {
                t.perhaps_kept = None;
                self.refused(e, len, false);
            }
            None => {}
        }
    }

    fn give_back(&mut self, who: usize, arg: u8, k: u32) {
        let Some((task, life, number)) = self.pop_claimed(who, arg) else { return };
        let again = [Again::SameAttempt, Again::After(0), Again::After(2 * MS), Again::Backoff][arg as usize % 4];
        let did = Did::GiveBack(life, number, again);
        match self.act(who, k, did, |_| task.give_back(again).expect("undamaged")) {
            Some(Some(task)) => {
                let t = &self.tasks[number];
                assert!(again != Again::SameAttempt && t.attempt + 1 >= t.max_attempts, "refused: {t:?}");
                self.keep(who, task, number);
            }
            Some(None) => assert_ne!(self.tasks[number].at, At::Claimed(life)),
            None => {}
        }
    }

    fn abandon(&mut self, who: usize, arg: u8, k: u32) {
        let Some((task, life, number)) = self.pop_claimed(who, arg) else { return };
        self.tasks[number].answer = (STATUS_ABANDONED, 0);
        let _ = self.act(who, k, Did::Complete(life, number, Outcome::Completed), |_| drop(task));
    }

    /// Ends a task that was cancelled while it ran.
    fn agree(&mut self, who: usize, arg: u8, k: u32) {
        let Some((task, life, number)) = self.pop_claimed(who, arg) else { return };
        assert_eq!(task.is_cancelled(), self.is_cancel_asked(number));
        let did = Did::Complete(life, number, Outcome::Cancelled);
        let _ = self.act(who, k, did, |_| task.cancelled().expect("undamaged"));
    }

    /// Everything in which an actor waits or speaks, without an end of any task.
    fn park(&mut self, who: usize, arg: u8, k: u32) {
        self.act(who, k, Did::Nothing, |a| {
            let queues = [a.endpoint.queue(0), a.endpoint.queue(1)];
            a.claimed.iter().for_each(|(task, _)| task.heartbeat());
            a.endpoint.park(&queues[..arg as usize % 3], Some(Duration::ZERO), || false);
            a.endpoint.wake_next(&queues);
            a.endpoint.wake_self();
        });
    }

    // ---- the account ------------------------------------------------------------------------------------------------

    /// Where the words have a task, and in which attempt.
    fn observe(&self, task: usize) -> (At, u8) {
        let TaskId { index, generation } = self.tasks[task].id;
        let word = self.table().load(index);
        let who = || self.lives.iter().rposition(|p| p.name.id() == word.who()).expect("somebody who came");
        let at = match word.phase().expect("undamaged") {
            _ if word.generation() != generation => At::Gone,
            Phase::Free => At::Gone,
            Phase::Reserved => At::Taken(who()),
            Phase::Ready => At::Ready,
            Phase::Claimed => At::Claimed(who()),
            Phase::Delayed => At::Delayed,
            Phase::Done(outcome) => At::Done(outcome),
        };
        (at, if at == At::Gone { self.tasks[task].attempt } else { word.attempt() })
    }

    fn is_cancel_asked(&self, task: usize) -> bool {
        let index = self.tasks[task].id.index;
        self.table().is_cancel_asked(index, self.table().load(index))
    }

    /// Brings the account up to what `did` may have done.
    fn reconcile(&mut self, did: Did) {
        for task in 0..self.tasks.len() {
            if self.tasks[task].at != At::Gone {
                let (at, attempt) = self.observe(task);
                let t = &self.tasks[task];
                if (at, attempt) != (t.at, t.attempt) {
                    assert!(self.may_move(did, task, at, attempt), "{did:?}: {t:?} is {at:?}, attempt {attempt}");
                    self.moved(task, at, attempt, did);
                }
            }
        }
    }

    fn moved(&mut self, task: usize, at: At, attempt: u8, did: Did) {
        let verdict = self.verdicts.get(&task);
        let is_lost = self.tasks[task].addressee.is_some_and(|life| !self.is_live(life));
        let t = &mut self.tasks[task];
        if let (Did::Recover(_, dead), Some(Verdict::Guilty { .. })) = (did, verdict) {
            let is_sentenced = t.at == At::Claimed(dead) && !matches!(at, At::Claimed(_) | At::Taken(_) | At::Gone);
            let is_sentence = !is_lost && at != At::Done(Outcome::Cancelled);
            t.deaths.0 += u32::from(is_sentenced && is_sentence);
        }
        (t.at, t.attempt) = (at, attempt);
        match (at, did) {
            (At::Done(outcome), _) => t.outcome = Some(outcome),
            (At::Claimed(by), Did::Claim(..)) => t.claimant = Some(by),
            _ => {}
        }
    }

    /// How a task that waits has ended, if it has.
    fn is_over(&self, task: usize) -> Option<Outcome> {
        let t = &self.tasks[task];
        match self.is_cancel_asked(task) {
            true => Some(Outcome::Cancelled),
            false => (t.expires != 0 && t.expires <= self.table().now()).then_some(Outcome::Expired),
        }
    }

    /// Where a task goes whose attempt has failed. `None`: it was the last.
    fn after_failure(&self, task: usize, delay: Option<u64>) -> Option<(At, u8)> {
        let t = &self.tasks[task];
        let d = &self.table().descriptors[t.id.index as usize];
        let delay = delay.unwrap_or_else(|| Backoff::of(d.backoff.load(Relaxed)).after(t.attempt));
        let at = if delay == 0 { At::Ready } else { At::Delayed };
        (t.attempt + 1 < t.max_attempts).then_some((at, t.attempt + 1))
    }

    /// May this operation, or a part of it, have brought the task from where the account has it to here?
    fn may_move(&self, did: Did, task: usize, at: At, attempt: u8) -> bool {
        let t = &self.tasks[task];
        let d = &self.table().descriptors[t.id.index as usize];
        let (is_same, is_orphan) = (attempt == t.attempt, !self.is_live(t.from));
        let is_lost = t.addressee.is_some_and(|life| !self.is_live(life));
        let waits = matches!(t.at, At::Ready | At::Delayed);
        // Nobody has the results of the dead: they go through the hands of who notices.
        let is_dropped = |by: Life| is_same && is_orphan && (at == At::Taken(by) || at == At::Gone);
        let is_end = |outcome, by| is_same && at == At::Done(outcome) || is_dropped(by);
        match did {
            Did::Nothing => false,
            Did::Cancel(number) => number == task && waits && is_same && at == At::Done(Outcome::Cancelled),
            Did::Claim(life, lane) if t.at == At::Ready && t.lane == lane => match self.is_over(task) {
                Some(outcome) => is_end(outcome, life),
                None => is_same && at == At::Claimed(life) && t.addressee.is_none_or(|to| to == life),
            },
            Did::Claim(..) => false,
            Did::Complete(life, number, outcome) => {
                number == task && t.at == At::Claimed(life) && is_end(outcome, life)
            }
            Did::GiveBack(life, number, again) if number == task && t.at == At::Claimed(life) => {
                let next = match again {
                    Again::SameAttempt => Some((At::Ready, t.attempt)),
                    Again::After(delay) => self.after_failure(task, Some(delay)),
                    Again::Backoff => self.after_failure(task, None),
                };
                match self.is_cancel_asked(task) {
                    true => is_end(Outcome::Cancelled, life),
                    false => {
                        let is_ended = matches!(at, At::Done(Outcome::Cancelled) | At::Taken(_) | At::Gone);
                        next == Some((at, attempt)) || is_orphan && is_ended
                    }
                }
            }
            Did::GiveBack(..) => false,
            Did::Take(life) => t.from == life && matches!(t.at, At::Done(_)) && is_same && at == At::Taken(life),
            Did::Release(life) => t.at == At::Taken(life) && at == At::Gone,
            Did::Tick if waits => match self.is_over(task) {
                Some(outcome) => is_end(outcome, t.from),
                None => {
                    let is_due = t.at == At::Delayed && d.not_before.load(Relaxed) <= self.table().now();
                    is_due && is_same && (at == At::Ready || is_lost && at == At::Done(Outcome::AddresseeDied))
                }
            },
            Did::Tick => false,
            Did::Recover(me, dead) => match t.at {
                At::Ready | At::Delayed => {
                    is_orphan && is_end(Outcome::Cancelled, me)
                        || t.addressee == Some(dead) && is_same && at == At::Done(Outcome::AddresseeDied)
                }
                At::Done(_) => is_dropped(me),
                At::Taken(by) => by == dead && is_same && matches!(at, At::Taken(_) | At::Gone),
                At::Claimed(by) if by == dead => {
                    let (rules, verdict) = (Rules::of(d.rules.load(Relaxed)), self.verdicts.get(&task));
                    let is_late = verdict == Some(&Verdict::Guilty { is_late: true });
                    let cause = if is_late { retry_on::TIMED_OUT } else { retry_on::DIED };
                    let blame = Blame::of(d.blame.load(Relaxed));
                    let is_poison = matches!(verdict, Some(Verdict::Guilty { .. })) && rules.is_poison(blame.deaths);
                    let is_spared = verdict == Some(&Verdict::Bystander) && blame.spared <= SPARED;
                    let next = match self.after_failure(task, None) {
                        _ if is_lost && is_late => (At::Done(Outcome::TimedOut), t.attempt),
                        _ if is_lost => (At::Done(Outcome::AddresseeDied), t.attempt),
                        _ if self.is_cancel_asked(task) => (At::Done(Outcome::Cancelled), t.attempt),
                        _ if is_spared => (At::Ready, t.attempt),
                        Some(next) if !is_poison && rules.retry_on & cause != 0 => next,
                        _ if is_late => (At::Done(Outcome::TimedOut), t.attempt),
                        _ => (At::Done(Outcome::WorkerDied), t.attempt),
                    };
                    let is_adopted = is_same && at == At::Claimed(me);
                    is_adopted || if is_orphan { is_end(Outcome::WorkerDied, me) } else { next == (at, attempt) }
                }
                At::Claimed(_) | At::Gone => false,
            },
        }
    }

    // ---- the end ----------------------------------------------------------------------------------------------------

    /// All deaths are settled, and the living do what is left.
    fn drain(mut self) {
        self.tick(0); // with a coordinator, who may be new
        for dead in self.unsettled() {
            self.recover(dead, 0);
        }
        self.fenced.clear();
        self.reconcile(Did::Nothing);
        for _ in 0..16 {
            for who in 0..ACTORS {
                while self.actors[who].as_ref().is_some_and(|a| !a.drafts.is_empty() || !a.spares.is_empty()) {
                    self.drop_draft(who, 0);
                }
                for lane in 0..3 {
                    while self.actors[who].as_ref().is_some_and(|a| !a.claimed.is_empty()) || self.claim(who, lane, 0) {
                        self.complete(who, 0, 0);
                    }
                }
            }
            for who in 0..ACTORS {
                while self.actors[who].as_ref().is_some_and(|a| !a.finished.is_empty()) || self.take(who, 0) {
                    self.release(who, 0);
                }
            }
            self.stage.pass(HOUR);
            self.tick(0);
        }
        for t in &self.tasks {
            let is_lost = self.lives[t.from].fate == Fate::Lives && !t.was_delivered;
            assert!(t.at == At::Gone && !is_lost, "at the end: {t:?}");
        }
        let audit = self.table().audit();
        assert!(audit.is_clean(), "{audit}");
    }
}

/// The bytes of a task's payload.
fn input(task: usize, len: usize) -> impl Iterator<Item = u8> {
    (0..len).map(move |i| (task * 31 + i) as u8)
}

/// The bytes that an attempt answers with.
fn output(task: usize, attempt: u8, len: usize) -> impl Iterator<Item = u8> {
    (0..len).map(move |i| (task * 17 + attempt as usize * 5 + i + 1) as u8)
}

/// The bytes of a task's `n`-th checkpoint.
fn checkpoint(task: usize, n: usize, len: usize) -> impl Iterator<Item = u8> {
    (0..len).map(move |i| (task * 13 + n * 7 + i + 2) as u8)
}

fn plain(arg: u8) -> Submission {
    Submission { max_attempts: 1 + arg % 3, ..Submission::new(To::Queue(0)) }
}

/// With all that a submission can say.
fn particular(arg: u8) -> Submission {
    let limits = [(0, 0), (2, 0), (0, 2), (3, 1)][arg as usize / 2 % 4];
    Submission {
        expires_in: [None, Some(Duration::from_millis(1)), Some(Duration::from_millis(4))][arg as usize % 3],
        limits: Limits { run_ms: limits.0, silence_ms: limits.1 },
        backoff: Backoff { first_ms: u32::from(arg / 8 % 2) * 2, longest_ms: 3 },
        retry_on: if arg.is_multiple_of(5) { retry_on::DIED } else { retry_on::DIED | retry_on::TIMED_OUT },
        max_deaths: arg % 4,
        ..plain(arg / 4)
    }
}
