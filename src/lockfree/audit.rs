//! The audit: all invariants of a segment, in one place.
//!
//! | of                | always                                              | at rest                                        |
//! |-------------------|-----------------------------------------------------|------------------------------------------------|
//! | participant       | its word is a member's, whose incarnation is not 0  |                                                |
//! | descriptor        | its word has a phase, and names a participant       |                                                |
//! | FREE              | names nobody                                        | its bit is set                                 |
//! | RESERVED          |                                                     | who has it lives                               |
//! | CLAIMED           | submitter and claimant were admitted                | who has it lives                               |
//! | READY, DELAYED,   | names its submitter, which was admitted             | that lives                                     |
//! | DONE              |                                                     |                                                |
//! | READY, DELAYED,   | its lane exists, and is its addressee's if it has   | the addressee of one that waits lives          |
//! | CLAIMED           | one                                                 |                                                |
//! | all but FREE and  | the attempt is one of those allowed; the input fits |                                                |
//! | RESERVED          | its place, and a block knows whose it is            |                                                |
//! | READY, DELAYED    | no output; DELAYED has a time                       | nobody has signed its attempt                  |
//! | DONE              | the output as the input                             |                                                |
//! | READY, DELAYED,   | the valid checkpoint as the input                   | CLAIMED: as well; the others have none that is |
//! | DONE, CLAIMED     |                                                     | not valid                                      |
//! | READY, DONE       |                                                     | a lane holds its hint, or a rescan is due      |
//! | lane              | the slots are of one turn, head and tail not beyond |                                                |
//! |                   | them; hints name descriptors                        |                                                |
//! | block             | its word is a block's; who holds it was admitted    | who holds it lives                             |
//! | ATTACHED          | that life of the descriptor refers to it, if it is  | if it is CLAIMED, too                          |
//! |                   | not CLAIMED; has pages                              |                                                |
//! | FREE, HELD block  |                                                     | its bit is set; has pages                      |
//! | chunk             | touched only if committed                           |                                                |
//! | idle mask         | names participants                                  | that live                                      |
//!
//! Hints may be doubled or stale, which is no violation.
//!
//! # At rest and live
//!
//! At rest nobody runs and every death is settled. While others move, and in what a crash of all has left, a step may be half
//! done: a hint not stored yet, a death not settled yet. So those findings are made at rest only. So are those in lanes that
//! have had no owner yet.
//!
//! What is read of two words is no snapshot either. A finding that needs two is made only if the first is unchanged after the
//! second was read; then the second was read while the first stood, and what the owner of that word alone may change did not
//! change. (A task that is handed back has its former word again, but not its count of checkpoints.) A lane is read twice, and looked at if both are the same: slots never return to an earlier word.
//!
//! # Ordering
//!
//! Words are loaded with Acquire, so fields are at least as new as the word; an Acquire fence before the word is loaded again
//! keeps the fields from being newer than that. A word that is judged by itself is loaded Relaxed.
//!
//! # Crash and progress
//!
//! It writes nothing, so a read-only mapping will do and its death leaves nothing. It reads each word a bounded number
//! of times and waits for nobody: what moves under it is left for the next audit. Damaged words are findings, never
//! followed.
//!
//! What checks this page: the tests below, which break each rule by itself and audit a segment at rest and one in which
//! two threads work; `fuzz/fuzz_targets/segment_open.rs` and `live_damage.rs`. It is asked at the end of the models,
//! the tests of endpoints, each kill of `shmworker torture --single-step`, and each pool.

use super::{
    checkpoint,
    descriptor::{Descriptor, INLINE, Payload, Rules, Run},
    participant::Name,
    table::{LaneId, Table},
    word::{Block, Hint, LAP_BITS, Member, Outcome, Phase, Slot, Task},
};
use crate::sync::{Acquire, Relaxed, fence};
use std::fmt;

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// Of what kind of thing.
    pub place: &'static str,
    /// Which one of that kind.
    pub index: usize,
    /// What should be so.
    pub rule: &'static str,
    /// The words by which it isn't.
    pub words: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}, yet {}", self.place, self.index, self.rule, self.words)
    }
}

/// What the audit of a segment found.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// Each violated invariant, with the words involved.
    pub violations: Vec<Violation>,
    /// Descriptors that are not FREE.
    pub descriptors_in_use: usize,
    /// Blocks that are not FREE.
    pub blocks_in_use: usize,
}

impl Audit {
    /// No violation, and nothing in use: what a pool must leave behind.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.descriptors_in_use == 0 && self.blocks_in_use == 0
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} descriptors and {} blocks in use", self.descriptors_in_use, self.blocks_in_use)?;
        for v in &self.violations {
            write!(f, "; {v}")?;
        }
        Ok(())
    }
}

impl Table<'_> {
    /// States every invariant that the words of a segment at rest must satisfy, and returns what violates one.
    pub(crate) fn audit(&self) -> Audit {
        Auditor { table: self, is_at_rest: true, audit: Audit::default() }.run()
    }

    /// As [`audit`](Self::audit), where others may be at work or have died in the middle of it.
    pub(crate) fn audit_live(&self) -> Audit {
        Auditor { table: self, is_at_rest: false, audit: Audit::default() }.run()
    }
}

/// Bits of free maps are all Relaxed: elsewhere than here the hardware may lose one without a death, and nobody minds.
const MAPS_ARE_KEPT: bool = cfg!(all(target_arch = "x86_64", not(all(test, loom))));

/// What was found of one thing, until it is known that its word has not changed meanwhile.
type Faults = Vec<(&'static str, String)>;

fn shown(payload: Payload) -> String {
    match payload.block() {
        Some(block) => format!("{} bytes in block {block}", payload.len()),
        None => format!("{} bytes inside", payload.len()),
    }
}

struct Auditor<'t> {
    table: &'t Table<'t>,
    is_at_rest: bool,
    audit: Audit,
}

impl Auditor<'_> {
    fn run(mut self) -> Audit {
        let table = self.table;
        for (id, p) in table.participants.iter().enumerate() {
            match p.member(id) {
                Ok(Member::Vacant(_) | Member::Live(1..) | Member::Dead(1..)) => {}
                _ => {
                    let words = format!("it is {:#x}", p.member.load(Relaxed));
                    self.add("participant", id, "its word is a member's", words);
                }
            }
        }
        for index in 0..table.descriptors.len() {
            self.descriptor(index as u16);
        }
        for lane in 0..table.controls.len() {
            if self.is_at_rest || !self.is_unused(lane) {
                self.lane(lane);
            }
        }
        for block in 0..table.blocks.words.len() {
            self.block(block);
        }
        for (chunk, word) in table.blocks.chunks.iter().enumerate() {
            if !super::blocks::is_chunk(word.load(Relaxed)) {
                let words = format!("its word is {:#x}", word.load(Relaxed));
                self.add("chunk", chunk, "it is touched only if committed", words);
            }
        }
        self.idle_masks();
        self.audit
    }

    fn add(&mut self, place: &'static str, index: usize, rule: &'static str, words: String) {
        self.audit.violations.push(Violation { place, index, rule, words });
    }

    fn member(&self, id: u16) -> Option<Member> {
        self.table.participants.get(usize::from(id))?.member(id.into()).ok()
    }

    fn lives(&self, name: Name) -> bool {
        self.member(name.id()) == Some(Member::Live(name.incarnation()))
    }

    /// Has this name been given to somebody? (What damages a member's word is found there.)
    fn was_admitted(&self, name: Name) -> bool {
        let last = match self.table.participants.get(usize::from(name.id())).map(|p| p.member(name.id().into())) {
            None => return false,
            Some(Err(_)) => return true,
            Some(Ok(Member::Vacant(n) | Member::Live(n) | Member::Dead(n))) => n,
        };
        (1..=last).contains(&name.incarnation())
    }

    // ---- descriptors ------------------------------------------------------------------------------------------------

    fn descriptor(&mut self, index: u16) {
        let word = self.table.load(index);
        let Some(phase) = word.phase() else {
            return self.add("descriptor", index.into(), "its word has a phase", format!("it is {word:?}"));
        };
        self.audit.descriptors_in_use += usize::from(phase != Phase::Free);
        let mut faults = Faults::new();
        self.check_names(index, word, phase, &mut faults);
        if !matches!(phase, Phase::Free | Phase::Reserved) {
            self.check_task(index, word, phase, &mut faults);
        }
        fence(Acquire);
        if self.table.load(index) == word {
            for (rule, words) in faults {
                self.add("descriptor", index.into(), rule, format!("it is {word:?}{words}"));
            }
        }
    }

    /// Whom the word names.
    fn check_names(&self, index: u16, word: Task, phase: Phase, faults: &mut Faults) {
        let d = &self.table.descriptors[index as usize];
        let submitter = Name::of(d.submitter.load(Relaxed));
        let mut check = |holds: bool, rule, words: &dyn Fn() -> String| {
            if !holds {
                faults.push((rule, words()));
            }
        };
        if phase == Phase::Free {
            check(word.who() == 0, "what is free names nobody", &String::new);
            if self.is_at_rest && MAPS_ARE_KEPT {
                let has_bit = self.table.free.has(index.into());
                check(has_bit, "what is free has its bit", &|| " without".to_owned());
            }
            return;
        }
        let owner = self.member(word.who());
        check(usize::from(word.who()) < self.table.participants.len(), "it names a participant", &String::new);
        if phase == Phase::Reserved {
            let lives = matches!(owner, Some(Member::Live(_)));
            return check(!self.is_at_rest || lives, "who has it lives", &|| format!(" of {owner:?}"));
        }
        let of_whom = || format!(" of {submitter:?}, member {:?}", self.member(submitter.id()));
        check(self.was_admitted(submitter), "its submitter was admitted", &of_whom);
        if phase == Phase::Claimed {
            let claimant = d.run_of(word).map(Run::claimant);
            let is_known = claimant.is_none_or(|claimant| self.was_admitted(claimant));
            check(is_known, "its claimant was admitted", &|| format!(" by {claimant:?}"));
            let lives = matches!(owner, Some(Member::Live(_)));
            check(!self.is_at_rest || lives, "who has it lives", &|| format!(" by {owner:?}"));
        } else {
            check(word.who() == submitter.id(), "it names its submitter", &of_whom);
            check(!self.is_at_rest || self.lives(submitter), "its submitter lives", &of_whom);
        }
    }

    /// What a task carries that was submitted.
    fn check_task(&self, index: u16, word: Task, phase: Phase, faults: &mut Faults) {
        let d = &self.table.descriptors[index as usize];
        let mut check = |holds: bool, rule, words: &dyn Fn() -> String| {
            if !holds {
                faults.push((rule, words()));
            }
        };
        let most = d.max_attempts.load(Relaxed);
        let is_allowed = (1..=u32::from(u8::MAX)).contains(&most) && u32::from(word.attempt()) < most;
        check(is_allowed, "its attempt is one of those allowed", &|| format!(" of {most}"));
        let (input, output) = (Payload(d.input.load(Relaxed)), Payload(d.output.load(Relaxed)));
        if let Some(fault) = self.misplaced(index, word, input, true) {
            check(false, "its input is its own", &|| format!(" with {}, {fault}", shown(input)));
        }
        let is_done = matches!(phase, Phase::Done(_));
        if let Some(fault) = self.misplaced(index, word, output, is_done) {
            check(false, "its output is its own", &|| format!(" with {}, {fault}", shown(output)));
        }
        self.check_checkpoints(index, word, phase, &mut check);
        if !is_done {
            self.check_lane(d, phase, &mut check);
        }
        let may_have_output = match phase {
            Phase::Claimed | Phase::Done(Outcome::Completed) => true,
            Phase::Done(Outcome::WorkerDied | Outcome::TimedOut) => Rules::of(d.rules.load(Relaxed)).keeps_output,
            _ => false,
        };
        if !may_have_output {
            let has_none = output == Payload::default();
            check(has_none, "only what was completed has an output", &|| format!(" with {}", shown(output)));
        }
        if phase == Phase::Delayed {
            check(d.not_before.load(Relaxed) != 0, "what waits for its time has one", &String::new);
        }
        if self.is_at_rest && matches!(phase, Phase::Ready | Phase::Delayed) {
            let run = d.run_of(word);
            check(run.is_none(), "nobody runs what waits", &|| format!(" by {:?}", run.map(Run::claimant)));
        }
        if self.is_at_rest && matches!(phase, Phase::Ready | Phase::Done(_)) {
            let lane = match phase {
                Phase::Ready => LaneId(d.lane.load(Relaxed)),
                _ => self.table.completion(word.who()),
            };
            let is_known = (lane.0 as usize) >= self.table.controls.len() || {
                let lane = self.table.lane(lane);
                lane.holds(&super::lane::Cursor::default(), Hint::of(index, word)) || lane.rescan_is_due()
            };
            check(is_known, "its hint is in its lane, or a rescan is due", &|| {
                format!(" and lane {} has none", lane.0)
            });
        }
    }

    fn check_checkpoints(
        &self,
        index: u16,
        word: Task,
        phase: Phase,
        check: &mut impl FnMut(bool, &'static str, &dyn Fn() -> String),
    ) {
        let d = &self.table.descriptors[index as usize];
        let count = d.checkpoints.load(Acquire);
        let Some(valid) = checkpoint::valid(count) else { return };
        let payload = Payload(d.checkpoint[valid].load(Relaxed));
        let is_settled = self.is_at_rest || phase != Phase::Claimed;
        let fault = match payload.block() {
            None => (payload.len() > 0).then(|| "in no block".to_owned()),
            Some(_) => self.misplaced(index, word, payload, is_settled),
        };
        fence(Acquire);
        if d.checkpoints.load(Relaxed) == count {
            let words = || format!(" with {}, {}", shown(payload), fault.as_deref().unwrap_or_default());
            check(fault.is_none(), "its checkpoint is its own", &words);
        }
        if self.is_at_rest && phase != Phase::Claimed {
            let former = Payload(d.checkpoint[valid ^ 1].load(Relaxed));
            let is_none = former == Payload::default();
            check(is_none, "it has one checkpoint", &|| format!(" with {} beside it", shown(former)));
        }
    }

    fn check_lane(
        &self,
        d: &Descriptor,
        phase: Phase,
        check: &mut impl FnMut(bool, &'static str, &dyn Fn() -> String),
    ) {
        let (lane, addressee) = (d.lane.load(Relaxed) as usize, self.table.addressee(d));
        let (queues, participants) = (self.table.queues, self.table.participants.len());
        let words = || format!(" in lane {lane} to {addressee:?}");
        check(lane < queues + participants, "its lane exists", &words);
        match addressee {
            None => check(lane < queues, "who has no addressee is in a queue", &words),
            Some(name) => {
                check(self.was_admitted(name), "its addressee was admitted", &words);
                check(lane == queues + usize::from(name.id()), "its lane is its addressee's", &words);
                let waits = self.is_at_rest && phase != Phase::Claimed;
                check(!waits || self.lives(name), "whom it waits for lives", &words);
            }
        }
    }

    /// What is wrong with a payload of this task.
    fn misplaced(&self, index: u16, word: Task, payload: Payload, is_settled: bool) -> Option<String> {
        let Some(block) = payload.block() else {
            return (payload.len() > INLINE).then(|| format!("longer than {INLINE}"));
        };
        let Some(size) = self.table.blocks.size(block as usize) else { return Some("which is no block".to_owned()) };
        if payload.len() > size {
            return Some(format!("longer than {size}"));
        }
        let owner = Block::of(self.table.blocks.words[block as usize].load(Acquire));
        (is_settled && owner != Some(Block::attached(index, word))).then(|| format!("and the block is {owner:?}"))
    }

    // ---- lanes ------------------------------------------------------------------------------------------------------

    fn lane(&mut self, id: usize) {
        let lane = self.table.lane(LaneId(id as u32));
        let words = lane.words();
        // Before the slots, which only go on.
        let (head, tail) = (words.head.load(Acquire), words.tail.load(Acquire));
        let slots: Vec<Slot> = words.slots.iter().map(|w| Slot(w.load(Acquire))).collect();
        let strays = slots.iter().enumerate().filter(|(_, s)| s.is_full());
        for (i, slot) in strays.filter(|(_, s)| usize::from(s.hint().index) >= self.table.descriptors.len()) {
            self.add("lane", id, "its hints name descriptors", format!("slot {i} is {slot:?}"));
        }
        if !words.slots.iter().zip(&slots).all(|(w, s)| w.load(Acquire) == s.0) {
            return; // it moves, and moves on as it should, or the next look will tell
        }
        // The position that each slot waits for, to be filled and to be emptied. Both are one turn: `[tail, tail + C)` and
        // `[head, head + C)`, as positions are filled in order and emptied in order. There are 2^n of each.
        let (count, positions) = (slots.len() as u64, (slots.len() as u64) << LAP_BITS);
        let ahead = |a: u64, b: u64| {
            let distance = a.wrapping_sub(b) & (positions - 1);
            if distance > positions / 2 { distance as i64 - positions as i64 } else { distance as i64 }
        };
        for (cursor, what, is_filled) in [(head, "head", false), (tail, "tail", true)] {
            let position = |(i, s): (usize, &Slot)| {
                let lap = s.lap().wrapping_add(u64::from(is_filled && s.is_full()));
                (lap.wrapping_mul(count) + i as u64) & (positions - 1)
            };
            let all = || slots.iter().enumerate().map(position);
            let first = position((0, &slots[0]));
            let (least, most) = all().map(|p| ahead(p, first)).fold((0, 0), |(l, m), p| (p.min(l), p.max(m)));
            if most - least >= count as i64 {
                let odd = |d| slots.iter().enumerate().find(|s| ahead(position(*s), first) == d);
                let found = format!("slots {:?} and {:?} are {} apart", odd(least), odd(most), most - least);
                return self.add("lane", id, "its slots are of one turn", found);
            }
            let place = first.wrapping_add_signed(least) & (positions - 1);
            if ahead(place, cursor) < 0 {
                let rule = "its head and tail are not beyond its slots";
                self.add("lane", id, rule, format!("its {what} is {cursor}, and the slots are at {place}"));
            }
        }
    }

    /// Has it had no owner yet? Then nobody has touched it, and a look would do no more than map its pages here.
    fn is_unused(&self, lane: usize) -> bool {
        let Some(private) = lane.checked_sub(self.table.queues) else { return false };
        let owner = &self.table.participants[private % self.table.participants.len()];
        owner.member.load(Acquire) == Member::Vacant(0).bits()
    }

    // ---- blocks -----------------------------------------------------------------------------------------------------

    fn block(&mut self, i: usize) {
        let blocks = &self.table.blocks;
        let word = &blocks.words[i];
        let bits = word.load(Acquire);
        let Some(owner) = Block::of(bits) else {
            return self.add("block", i, "its word is a block's", format!("it is {bits:#x}"));
        };
        self.audit.blocks_in_use += usize::from(owner != Block::Free);
        let has_pages = || (!blocks.is_committed(i)).then_some("its chunk has pages");
        let fault = match owner {
            Block::Free => {
                (self.is_at_rest && MAPS_ARE_KEPT && !blocks.free.has(i)).then_some("what is free has its bit")
            }
            Block::Held(name) if !self.was_admitted(name) => Some("who holds it was admitted"),
            Block::Held(name) if self.is_at_rest && !self.lives(name) => Some("who holds it lives"),
            Block::Held(_) if self.is_at_rest => has_pages(),
            Block::Held(_) => None,
            Block::Attached { index, generation } => {
                if self.is_referred_to(i, index, generation) {
                    has_pages()
                } else {
                    Some("its task refers to it")
                }
            }
        };
        fence(Acquire);
        if let Some(rule) = fault.filter(|_| word.load(Acquire) == bits) {
            self.add("block", i, rule, format!("it is {owner:?}"));
        }
    }

    /// Does this life of the descriptor refer to the block? True as well if the descriptor moves.
    fn is_referred_to(&self, block: usize, index: u16, generation: u64) -> bool {
        let Some(d) = self.table.descriptors.get(usize::from(index)) else { return false };
        let word = self.table.load(index);
        let count = d.checkpoints.load(Acquire);
        let checkpoints = d.checkpoint.iter().filter(|_| count != checkpoint::NONE);
        let mut fields = [&d.input, &d.output].into_iter().chain(checkpoints);
        let refers = fields.any(|p| Payload(p.load(Relaxed)).block() == Some(block as u32));
        fence(Acquire);
        let is_moving = || {
            // Its owner may attach a block once more that it has just freed.
            let is_worked_on = word.is(Phase::Claimed) && !self.is_at_rest;
            self.table.load(index) != word || d.checkpoints.load(Relaxed) != count || is_worked_on
        };
        refers && !word.is(Phase::Free) && word.generation() == generation || is_moving()
    }

    // ---- idle masks -------------------------------------------------------------------------------------------------

    fn idle_masks(&mut self) {
        let words = self.table.idle_words();
        for (i, mask) in self.table.idle.iter().enumerate() {
            let bits = mask.load(Acquire);
            for id in (0..64).filter(|bit| bits >> bit & 1 == 1).map(|bit| i % words * 64 + bit) {
                let member = self.table.participants.get(id).map(|p| p.member(id));
                let rule = match member {
                    None => "it names participants",
                    Some(Ok(Member::Live(_)) | Err(_)) => continue,
                    Some(_) if self.is_at_rest => "it names those who live",
                    Some(_) => continue,
                };
                self.add("idle mask", i / words, rule, format!("it has {id}, which is {member:?}"));
            }
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::{
        exec::endpoint::{Endpoint, Submission, To},
        lockfree::{
            blocks::TOUCHED,
            descriptor::Descriptor,
            lane::Cursor,
            table::{Again, Owned},
            word::LAP_MASK,
        },
        mem::{
            layout::{Geometry, classes},
            segment::Segment,
        },
    };
    use std::{mem::forget, sync::Arc};

    /// One task in each phase, most with blocks, a block that is held, and no process that would mind what is done to them.
    struct Scene {
        segment: Arc<Segment>,
        client: Endpoint,
        worker: Endpoint,
        held: usize,
    }

    impl Scene {
        fn new() -> Scene {
            let segment = Arc::new(
                Segment::create(Geometry {
                    descriptors: DESCRIPTORS.into(),
                    queue_slots: 64,
                    private_slots: 16,
                    completion_slots: 16,
                    classes: classes([32, 1, 0, 0, 0, 0, 0, 0]),
                    ..Geometry::new(10, 1)
                })
                .unwrap(),
            );
            let admit = || Endpoint::new(segment.clone(), segment.table().admit(0, 0).unwrap().unwrap());
            let (_coordinator, client, worker) = (admit(), admit(), admit());
            let submit = |to, len| {
                let s = Submission { max_attempts: 2, ..Submission::new(to) };
                client.try_submit(s, &vec![1; len]).unwrap();
            };
            let claim = || worker.claim(worker.queue(0)).unwrap().unwrap();
            submit(To::Queue(0), 1000);
            assert!(claim().complete(0, 1000, |_| {}).is_ok()); // DONE
            submit(To::Queue(0), 1000);
            let claim_and_keep = || {
                let task = claim();
                task.begin(1, 0, 0, 0);
                (0..2).for_each(|_| task.checkpoint(&[1; 1000]).unwrap());
                task
            };
            assert!(claim_and_keep().give_back(Again::After(u64::MAX / 2)).unwrap().is_none()); // DELAYED
            submit(To::Queue(0), 1000);
            forget(claim_and_keep()); // CLAIMED
            submit(To::Queue(0), 1000); // READY
            submit(To::Participant(worker.name()), 0); // READY, addressed
            forget(client.draft(1000).unwrap()); // RESERVED
            let held = segment.alloc(1000, client.name(), || {}).unwrap() as usize;
            let scene = Scene { client, worker, held, segment };
            for audit in [scene.table().audit(), scene.table().audit_live()] {
                assert!(audit.violations.is_empty(), "{audit}");
                assert_eq!((audit.descriptors_in_use, audit.blocks_in_use), (6, 9));
            }
            scene
        }

        fn table(&self) -> &Table<'_> {
            self.segment.table()
        }

        /// The first descriptor in this phase.
        fn index(&self, phase: Phase) -> u16 {
            (0..).find(|&i| self.table().load(i).is(phase)).unwrap()
        }

        fn of(&self, phase: Phase) -> &Descriptor {
            &self.table().descriptors[usize::from(self.index(phase))]
        }

        /// The READY task that is addressed to the worker.
        fn addressed(&self) -> &Descriptor {
            let table = self.table();
            let mut all = (0..).zip(table.descriptors).filter(|(i, _)| table.load(*i).is(Phase::Ready));
            all.find(|(_, d)| d.addressee.load(Relaxed) != 0).unwrap().1
        }

        fn set(&self, phase: Phase, to: impl Fn(Task) -> Task) {
            let index = self.index(phase);
            let word = to(self.table().load(index));
            self.table().descriptors[usize::from(index)].state.store(word.0, Relaxed);
        }

        fn kill(&self, who: &Endpoint) {
            let member = Member::Dead(who.name().incarnation());
            self.table().participants[usize::from(who.name().id())].member.store(member.bits(), Relaxed);
        }

        fn block_of(&self, payload: &crate::sync::AtomicU64) -> u32 {
            Payload(payload.load(Relaxed)).block().unwrap()
        }

        fn slot(&self, lane: usize, i: usize) -> &crate::sync::AtomicU64 {
            &self.table().lane(LaneId(lane as u32)).words().slots[i]
        }
    }

    const DESCRIPTORS: u16 = 128;
    const DONE: Phase = Phase::Done(Outcome::Completed);
    const NOBODY: Name = Name::new(9, 1);

    /// What is planted must be named, by an audit of those who live as well unless it takes rest to tell.
    #[track_caller]
    fn names(rule: &str, live: bool, plant: impl FnOnce(&Scene)) {
        let scene = Scene::new();
        plant(&scene);
        let has = |audit: Audit| {
            let found = audit.violations.iter().any(|v| v.rule == rule && !v.words.is_empty());
            assert!(!audit.is_clean());
            (found, audit.to_string())
        };
        let (found, text) = has(scene.table().audit());
        assert!(found, "'{rule}' is not found in: {text}");
        let (found, text) = has(scene.table().audit_live());
        assert_eq!(found, live, "'{rule}' in: {text}");
    }

    #[test]
    fn a_participant_that_is_none_is_named() {
        for bits in [3 << 60, Member::Live(0).bits(), Member::Dead(0).bits()] {
            names("its word is a member's", true, |s| s.table().participants[7].member.store(bits, Relaxed));
        }
    }

    #[test]
    fn a_word_that_names_the_wrong_one_is_named() {
        names("its word has a phase", true, |s| s.set(DONE, |_| Task(15 << 60)));
        names("what is free names nobody", true, |s| s.set(Phase::Free, |w| w.to(Phase::Free, 1)));
        for phase in [Phase::Reserved, Phase::Ready, Phase::Claimed, Phase::Delayed, DONE] {
            names("it names a participant", true, |s| s.set(phase, |w| w.to(phase, 10)));
        }
        for phase in [Phase::Ready, Phase::Delayed, DONE] {
            names("it names its submitter", true, |s| s.set(phase, |w| w.to(phase, 0)));
        }
        for phase in [Phase::Ready, Phase::Claimed, Phase::Delayed, DONE] {
            for stranger in [NOBODY, Name::new(1, 2), Name::new(1, 0), Name::new(9999, 1)] {
                names("its submitter was admitted", true, |s| {
                    s.of(phase).submitter.store(stranger.bits(), Relaxed);
                });
            }
        }
        names("its claimant was admitted", true, |s| {
            let d = s.of(Phase::Claimed);
            d.sign(Task(d.state.load(Relaxed)), NOBODY);
        });
    }

    #[test]
    fn what_the_dead_still_have_at_rest_is_named() {
        names("who has it lives", false, |s| s.kill(&s.client)); // RESERVED
        names("who has it lives", false, |s| s.kill(&s.worker)); // CLAIMED
        names("its submitter lives", false, |s| s.kill(&s.client));
        names("whom it waits for lives", false, |s| s.kill(&s.worker));
        names("who holds it lives", false, |s| s.kill(&s.client));
        names("it names those who live", false, |s| s.table().idle[0].store(1 << 9, Relaxed));
    }

    #[test]
    fn a_task_with_fields_that_cannot_be_is_named() {
        for phase in [Phase::Ready, Phase::Claimed, Phase::Delayed, DONE] {
            for most in [0, 256] {
                names("its attempt is one of those allowed", true, |s| s.of(phase).max_attempts.store(most, Relaxed));
            }
        }
        names("its attempt is one of those allowed", true, |s| s.of(Phase::Delayed).max_attempts.store(1, Relaxed));
        names("what waits for its time has one", true, |s| s.of(Phase::Delayed).not_before.store(0, Relaxed));
        for phase in [Phase::Ready, Phase::Delayed] {
            names("only what was completed has an output", true, |s| {
                s.of(phase).output.store(Payload::new(None, 5).0, Relaxed);
            });
        }
        names("nobody runs what waits", false, |s| {
            let d = s.of(Phase::Delayed);
            d.sign(Task(d.state.load(Relaxed)), s.worker.name());
        });
        names("its lane exists", true, |s| s.of(Phase::Ready).lane.store(11, Relaxed));
        names("who has no addressee is in a queue", true, |s| s.of(Phase::Claimed).lane.store(3, Relaxed));
        names("its addressee was admitted", true, |s| s.addressed().addressee.store(NOBODY.bits(), Relaxed));
        names("its lane is its addressee's", true, |s| s.addressed().lane.store(0, Relaxed));
    }

    #[test]
    fn a_payload_that_is_not_the_tasks_own_is_named() {
        for phase in [Phase::Ready, Phase::Claimed, Phase::Delayed, DONE] {
            let rule = "its input is its own";
            names(rule, true, |s| s.of(phase).input.store(Payload::new(None, INLINE as u32 + 1).0, Relaxed));
            names(rule, true, |s| s.of(phase).input.store(Payload::new(Some(u32::MAX - 1), 1).0, Relaxed));
            names(rule, true, |s| s.of(phase).input.store(Payload::new(Some(s.held as u32), 1).0, Relaxed));
            names(rule, true, |s| {
                let block = s.block_of(&s.of(phase).input);
                s.of(phase).input.store(Payload::new(Some(block), 4097).0, Relaxed);
            });
        }
        names("its output is its own", true, |s| {
            s.of(DONE).output.store(Payload::new(Some(s.held as u32), 1).0, Relaxed);
        });
        names("its output is its own", true, |s| {
            s.of(Phase::Claimed).output.store(Payload::new(Some(1 << 20), 1).0, Relaxed);
        });
    }

    #[test]
    fn a_checkpoint_that_is_not_the_tasks_own_is_named() {
        let field = |s: &Scene, phase, is_valid: bool, to: Payload| {
            let d = s.of(phase);
            let valid = checkpoint::valid(d.checkpoints.load(Relaxed)).unwrap();
            d.checkpoint[valid ^ usize::from(!is_valid)].store(to.0, Relaxed);
        };
        let rule = "its checkpoint is its own";
        for (phase, live) in [(Phase::Claimed, false), (Phase::Delayed, true)] {
            names(rule, true, |s| field(s, phase, true, Payload::new(None, 1)));
            names(rule, true, |s| field(s, phase, true, Payload::new(Some(1 << 20), 1)));
            names(rule, live, |s| field(s, phase, true, Payload::new(Some(s.held as u32), 1)));
            names("its task refers to it", live, |s| field(s, phase, true, Payload::default()));
            names("its task refers to it", live, |s| s.of(phase).checkpoints.store(checkpoint::NONE, Relaxed));
        }
        let beside = Payload::new(Some(0), 1);
        names("it has one checkpoint", false, |s| field(s, Phase::Delayed, false, beside));
    }

    #[test]
    fn a_block_that_nobody_knows_of_is_named() {
        let word = |s: &Scene, block: usize, to: u64| s.table().blocks.words[block].store(to, Relaxed);
        names("its word is a block's", true, |s| word(s, s.held, 1 << 57));
        names("who holds it was admitted", true, |s| word(s, s.held, Block::Held(NOBODY).bits()));
        let attached = |index, generation| Block::Attached { index, generation }.bits();
        names("its task refers to it", true, |s| word(s, s.held, attached(s.index(Phase::Ready), 1)));
        names("its task refers to it", true, |s| word(s, s.held, attached(DESCRIPTORS - 1, 0)));
        names("its task refers to it", true, |s| word(s, s.held, attached(DESCRIPTORS, 0)));
        names("its task refers to it", true, |s| {
            let (block, index) = (s.block_of(&s.of(DONE).input) as usize, s.index(DONE));
            word(s, block, attached(index, s.table().load(index).generation() + 1));
        });
        names("its chunk has pages", true, |s| s.table().blocks.chunks[0].store(0, Relaxed));
        names("it is touched only if committed", true, |s| s.table().blocks.chunks[1].store(TOUCHED, Relaxed));
        names("its chunk has pages", false, |s| {
            let last = s.table().blocks.words.len() - 1;
            word(s, last, Block::Held(s.client.name()).bits());
        });
    }

    #[test]
    fn a_hint_that_is_missing_at_rest_is_named() {
        names("its hint is in its lane, or a rescan is due", false, |s| {
            let (lane, cursor) = (s.table().lane(LaneId(0)), Cursor::default());
            let entry = lane.first(&cursor).unwrap().unwrap();
            assert!(lane.remove(&cursor, &entry));
        });
        names("its hint is in its lane, or a rescan is due", false, |s| {
            // DONE, but announced to nobody.
            let (index, table) = (s.index(Phase::Reserved), s.table());
            let task = Owned { index, word: table.load(index) };
            s.set(Phase::Reserved, |_| task.word.to(DONE, s.client.name().id()));
            let d = &table.descriptors[usize::from(index)];
            d.submitter.store(s.client.name().bits(), Relaxed);
            d.max_attempts.store(1, Relaxed);
        });
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_free_bit_that_is_missing_at_rest_is_named() {
        names("what is free has its bit", false, |s| {
            let index = usize::from(s.index(Phase::Free));
            assert_eq!(s.table().free.take(index..index + 1, 0), Some(index));
        });
        names("what is free has its bit", false, |s| {
            let last = s.table().blocks.words.len() - 1;
            assert_eq!(s.table().blocks.free.take(last..last + 1, 0), Some(last));
        });
    }

    #[test]
    fn a_lane_that_no_history_can_have_left_is_named() {
        let lane = |s: &Scene, id| s.table().lane(LaneId(id)).words().slots.len() as u64;
        names("its hints name descriptors", true, |s| {
            let hint = Hint { index: DESCRIPTORS, generation: 0 };
            s.slot(0, 3).store(Slot::full(0, hint).0, Relaxed);
        });
        let rule = "its slots are of one turn";
        names(rule, true, |s| s.slot(0, 50).store(Slot::empty(1).0, Relaxed));
        names(rule, true, |s| s.slot(0, 0).store(Slot::empty(0).0, Relaxed));
        names(rule, true, |s| s.slot(2, 5).store(Slot::full(0, Hint { index: 0, generation: 0 }).0, Relaxed));
        names(rule, true, |s| s.slot(0, 50).store(Slot::empty(LAP_MASK).0, Relaxed));
        let rule = "its head and tail are not beyond its slots";
        names(rule, true, |s| s.table().lane(LaneId(0)).words().head.store(4, Relaxed));
        names(rule, true, |s| s.table().lane(LaneId(0)).words().tail.store(lane(s, 0), Relaxed));
    }

    #[test]
    fn a_lane_is_sound_wherever_its_turn_begins() {
        for lap in [0, 1, LAP_MASK] {
            let scene = Scene::new();
            let words = scene.table().lane(LaneId(1)).words(); // the coordinator's own, which is empty
            let count = words.slots.len() as u64;
            let lane = scene.table().lane(LaneId(1));
            words.slots.iter().for_each(|s| s.store(Slot::empty(lap).0, Relaxed));
            [words.head, words.tail].iter().for_each(|w| w.store(lap * count, Relaxed));
            for i in 0..3 * count {
                let (pusher, taker) = (Cursor::default(), Cursor::default());
                let _ = lane.push(&pusher, Hint { index: 1, generation: i as u16 }).unwrap();
                if i % 7 != 0 {
                    let entry = lane.first(&taker).unwrap().unwrap();
                    assert!(lane.remove(&taker, &entry));
                }
                let audit = scene.table().audit();
                assert!(audit.violations.is_empty(), "lap {lap}, step {i}: {audit}");
            }
        }
    }

    #[test]
    fn a_live_audit_takes_no_step_on_the_way_for_a_fault() {
        const TASKS: u64 = 5000;
        const LAST: u32 = 1;
        let Scene { segment, client, worker, .. } = Scene::new();
        std::thread::scope(|s| {
            let runs = s.spawn(|| {
                while let Some(mut task) = worker.next(&[worker.queue(0)], || false).unwrap() {
                    let is_last = task.kind() == LAST;
                    task.begin(1, 0, 0, 0);
                    for len in [0, 600, 500] {
                        // Whether there is room or not.
                        let _ = task.checkpoint(&[2; 600][..len]);
                        let _ = task.writer().reserve(len);
                    }
                    match task.attempt() {
                        0 if !is_last => assert!(task.give_back(Again::After(0)).unwrap().is_none()),
                        _ => drop(task),
                    }
                    if is_last {
                        return;
                    }
                }
            });
            let submits = s.spawn(|| {
                for n in (0..TASKS).rev() {
                    let (len, kind) = (200 * (n % 3) as usize, if n == 0 { LAST } else { 0 });
                    let twice = Submission { kind, max_attempts: 2, ..Submission::new(To::Queue(0)) };
                    while client.try_submit(twice, &[1; 500][..len]).is_err() {
                        drop(client.take().unwrap());
                    }
                }
            });
            while !(runs.is_finished() && submits.is_finished()) {
                let audit = segment.table().audit_live();
                assert!(audit.violations.is_empty(), "{audit}");
            }
        });
    }

    #[test]
    fn a_mask_of_those_who_are_not_there_is_named() {
        names("it names participants", true, |s| s.table().idle[1].store(1 << 10, Relaxed));
    }
}
