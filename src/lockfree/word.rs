//! The packed words that name owners and generations, their fields and their legal transitions.
//!
//! # States
//!
//! A task's: [`super::descriptor`]; a slot's: [`super::lane`]; a block's: [`super::blocks`]; a participant's:
//! [`super::participant`]. Here are their encodings, of which each state has one.
//!
//! # Words
//!
//! Values only: who writes a word, and what a death leaves in it, stands with the structure that has it. What one
//! structure alone knows is packed there: [`Name`] and the futex word in `participant`, `rescan` in `lane`, a chunk's
//! word in `blocks`, `watched` in `timer`, the fields of a task in `descriptor`.
//!
//! | word | bits, high to low |
//! |---|---|
//! | task | phase 4 · participant 12 · attempt 8 · generation 40 |
//! | slot | full 1 · lap 31 · generation 16 (low bits) · index 16 |
//! | block | kind 4 · spare 4 · holder 16 · generation or incarnation 40 |
//! | participant | phase 4 · spare 20 · incarnation 40 |
//!
//! The generation in a slot only saves work: who meets a hint of a former life need not look closer. Safety comes from the
//! exchange on the whole task word; without the comparison in [`Hint::names`] 80,000 pools under shuttle saw no fault. 40 bits of
//! generation wrap after five days for one descriptor reused 2.5 million times a second; 31 bits of lap after 30 hours at 20
//! million tasks a second through 1,024 slots, and an alias then costs a hint, which the next rescan of that lane
//! restores, or the sweep after the next death.
//!
//! # Invariants
//!
//! 1. Any 64 bits are decoded: to a state, or to `None`, which is damage. What was decoded is encoded to the same bits.
//! 2. A field never runs over into its neighbour: generation, incarnation and lap wrap inside their own.
//! 3. A task word moves by [`is_legal`] alone; debug builds check each exchange against it.
//!
//! # Ordering, crash, progress
//!
//! A word is written at once, so nobody sees or leaves half of one, and there is no loop here. Checked by the tests
//! below and `fuzz/fuzz_targets/words.rs`; that the generation in the task word is needed, by the mutant
//! `no-generation`.

use super::participant::Name;
use crate::sync::mutant;
use std::fmt;

/// Bits of a generation or incarnation.
pub(crate) const GENERATION_BITS: u32 = 40;
const GENERATION_MASK: u64 = (1 << GENERATION_BITS) - 1;
/// Bits of a lap in a slot word.
pub(crate) const LAP_BITS: u32 = 31;
pub(crate) const LAP_MASK: u64 = (1 << LAP_BITS) - 1;
/// Participants that a 12-bit field can name.
pub(crate) const MAX_PARTICIPANTS: usize = 1 << 12;
/// Descriptors that a 16-bit field can name.
pub(crate) const MAX_DESCRIPTORS: usize = (1 << 16) - 1;

/// How a task ended, in the word itself: whoever ends a task that it does not own has nothing but the exchange.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// A worker completed it; its status and output say how.
    Completed,
    /// Cancelled before it started, or while it ran and its worker agreed.
    Cancelled,
    /// Its time to start was over.
    Expired,
    /// Its worker died, and no attempt was left.
    WorkerDied,
    /// It was addressed to one participant, and that one died.
    AddresseeDied,
    /// It ran for too long, and its worker was killed for it.
    TimedOut,
}

/// Where in its life a task is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    Free,
    Reserved,
    Ready,
    Claimed,
    Delayed,
    Done(Outcome),
}

impl Phase {
    const fn bits(self) -> u64 {
        match self {
            Phase::Free => 0,
            Phase::Reserved => 1,
            Phase::Ready => 2,
            Phase::Claimed => 3,
            Phase::Delayed => 4,
            Phase::Done(Outcome::Completed) => 8,
            Phase::Done(Outcome::Cancelled) => 9,
            Phase::Done(Outcome::Expired) => 10,
            Phase::Done(Outcome::WorkerDied) => 11,
            Phase::Done(Outcome::AddresseeDied) => 12,
            Phase::Done(Outcome::TimedOut) => 13,
        }
    }

    /// `None`: no such phase, the word is damaged.
    const fn of(bits: u64) -> Option<Phase> {
        Some(match bits {
            0 => Phase::Free,
            1 => Phase::Reserved,
            2 => Phase::Ready,
            3 => Phase::Claimed,
            4 => Phase::Delayed,
            8 => Phase::Done(Outcome::Completed),
            9 => Phase::Done(Outcome::Cancelled),
            10 => Phase::Done(Outcome::Expired),
            11 => Phase::Done(Outcome::WorkerDied),
            12 => Phase::Done(Outcome::AddresseeDied),
            13 => Phase::Done(Outcome::TimedOut),
            _ => return None,
        })
    }
}

/// A value read from a task word: `{ phase, who, attempt, generation }`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Task(pub(crate) u64);

impl Task {
    pub(crate) const fn new(phase: Phase, who: u16, attempt: u8, generation: u64) -> Task {
        debug_assert!((who as usize) < MAX_PARTICIPANTS);
        Task(phase.bits() << 60 | (who as u64) << 48 | (attempt as u64) << 40 | generation & GENERATION_MASK)
    }

    /// `None`: no such phase, the word is damaged.
    pub(crate) const fn phase(self) -> Option<Phase> {
        Phase::of(self.0 >> 60)
    }

    pub(crate) const fn is(self, phase: Phase) -> bool {
        self.0 >> 60 == phase.bits()
    }

    /// The participant that the phase names: the submitter in RESERVED, READY, DELAYED and DONE, the worker in CLAIMED.
    pub(crate) const fn who(self) -> u16 {
        (self.0 >> 48) as u16 & 0xfff
    }

    pub(crate) const fn attempt(self) -> u8 {
        (self.0 >> 40) as u8
    }

    pub(crate) const fn generation(self) -> u64 {
        self.0 & GENERATION_MASK
    }

    /// Attempt and generation: a number that each attempt of a descriptor has for itself, and that is not 0.
    pub(crate) const fn attempt_id(self) -> u64 {
        self.0 << 16 | 1
    }

    /// The same attempt of the same task in another phase.
    #[inline]
    pub(crate) const fn to(self, phase: Phase, who: u16) -> Task {
        Task::new(phase, who, self.attempt(), self.generation())
    }

    /// The next attempt of the same task, for its submitter.
    pub(crate) const fn again(self, phase: Phase, submitter: u16) -> Task {
        Task::new(phase, submitter, self.attempt() + 1, self.generation())
    }

    /// The first word of the descriptor's next life.
    pub(crate) fn reborn(self, submitter: u16) -> Task {
        let next = u64::from(!mutant("no-generation"));
        Task::new(Phase::Reserved, submitter, 0, self.generation().wrapping_add(next))
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.phase() {
            Some(phase) => write!(f, "{phase:?}(p{} a{} g{})", self.who(), self.attempt(), self.generation()),
            None => write!(f, "damaged task word {:#018x}", self.0),
        }
    }
}

/// Debug builds check each exchange on a task word against this table (`docs/design.md` has it in words).
pub(crate) fn is_legal(from: Task, to: Task) -> bool {
    let same = to.generation() == from.generation();
    let kept = same && to.attempt() == from.attempt();
    match (from.phase(), to.phase()) {
        (Some(Phase::Free), Some(Phase::Reserved)) => to == from.reborn(to.who()),
        // Its own life, or the next one: released, reserved and published in one.
        (Some(Phase::Reserved), Some(Phase::Ready)) => {
            to.who() == from.who() && (kept || to == from.reborn(from.who()).to(Phase::Ready, from.who()))
        }
        (Some(Phase::Reserved), Some(Phase::Free)) => kept && to.who() == 0,
        // Adopted by the coordinator after its owner's death, which damage can make its own; or released and reserved in one.
        (Some(Phase::Reserved), Some(Phase::Reserved)) => kept || to == from.reborn(from.who()),
        (Some(Phase::Ready), Some(Phase::Claimed)) => kept,
        (Some(Phase::Ready | Phase::Delayed), Some(Phase::Done(o))) => {
            kept && to.who() == from.who()
                && matches!(o, Outcome::Cancelled | Outcome::Expired | Outcome::AddresseeDied)
        }
        (Some(Phase::Claimed), Some(Phase::Done(_))) => kept,
        // Adopted by the coordinator after its owner's death.
        (Some(Phase::Claimed), Some(Phase::Claimed)) => kept && to.who() != from.who(),
        (Some(Phase::Claimed), Some(Phase::Ready | Phase::Delayed)) => {
            same && to.attempt().wrapping_sub(from.attempt()) <= 1
        }
        (Some(Phase::Delayed), Some(Phase::Ready)) => kept && to.who() == from.who(),
        (Some(Phase::Done(_)), Some(Phase::Reserved)) => kept,
        // What a durable client was reading as it died is done again.
        (Some(Phase::Reserved), Some(Phase::Done(_))) => kept && to.who() == from.who(),
        _ => false,
    }
}

/// What a lane carries: which descriptor, and the low bits of which life of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hint {
    pub(crate) index: u16,
    pub(crate) generation: u16,
}

impl Hint {
    pub(crate) const fn of(index: u16, task: Task) -> Hint {
        Hint { index, generation: task.generation() as u16 }
    }

    /// Would a holder of this hint look closer at `task`? A false match is harmless: the exchange decides.
    pub(crate) const fn names(self, task: Task) -> bool {
        task.generation() as u16 == self.generation
    }
}

/// A value read from a slot: `{ full, lap, hint }`. `Empty(lap)` awaits the position of that lap, `Full(lap)` holds it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(pub(crate) u64);

impl Slot {
    pub(crate) const fn empty(lap: u64) -> Slot {
        Slot((lap & LAP_MASK) << 32)
    }

    pub(crate) const fn full(lap: u64, hint: Hint) -> Slot {
        Slot(1 << 63 | (lap & LAP_MASK) << 32 | (hint.generation as u64) << 16 | hint.index as u64)
    }

    pub(crate) const fn is_full(self) -> bool {
        self.0 >> 63 == 1
    }

    pub(crate) const fn hint(self) -> Hint {
        Hint { index: self.0 as u16, generation: (self.0 >> 16) as u16 }
    }

    pub(crate) const fn lap(self) -> u64 {
        self.0 >> 32 & LAP_MASK
    }

    /// Signed distance of this slot's lap from `lap`, across the wrap.
    pub(crate) const fn laps_ahead_of(self, lap: u64) -> i64 {
        let distance = (self.0 >> 32).wrapping_sub(lap) & LAP_MASK;
        if distance > LAP_MASK / 2 { distance as i64 - (1 << LAP_BITS) } else { distance as i64 }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lap = self.0 >> 32 & LAP_MASK;
        if self.is_full() { write!(f, "Full(lap {lap}, {:?})", self.hint()) } else { write!(f, "Empty(lap {lap})") }
    }
}

/// A value read from a block's owner word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Block {
    Free,
    /// A participant fills it. The name is whole, so a process that was taken for dead holds nothing of its id's heir.
    Held(Name),
    /// It belongs to one life of one descriptor.
    Attached {
        index: u16,
        generation: u64,
    },
}

impl Block {
    pub(crate) const fn bits(self) -> u64 {
        match self {
            Block::Free => 0,
            Block::Held(name) => 1 << 60 | (name.id() as u64) << 40 | name.incarnation() & GENERATION_MASK,
            Block::Attached { index, generation } => 2 << 60 | (index as u64) << 40 | generation & GENERATION_MASK,
        }
    }

    pub(crate) const fn attached(index: u16, task: Task) -> Block {
        Block::Attached { index, generation: task.generation() }
    }

    /// `None`: the word is damaged.
    pub(crate) const fn of(bits: u64) -> Option<Block> {
        let holder = (bits >> 40) as u16;
        Some(match (bits >> 56, bits & GENERATION_MASK) {
            (0, 0) if holder == 0 => Block::Free,
            (0x10, incarnation) if (holder as usize) < MAX_PARTICIPANTS => Block::Held(Name::new(holder, incarnation)),
            (0x20, generation) => Block::Attached { index: holder, generation },
            _ => return None,
        })
    }
}

/// A value read from a participant's word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Member {
    /// Nobody has this id.
    Vacant(u64),
    Live(u64),
    Dead(u64),
}

impl Member {
    pub(crate) const fn bits(self) -> u64 {
        match self {
            Member::Vacant(incarnation) => incarnation & GENERATION_MASK,
            Member::Live(incarnation) => 1 << 60 | incarnation & GENERATION_MASK,
            Member::Dead(incarnation) => 2 << 60 | incarnation & GENERATION_MASK,
        }
    }

    /// `None`: the word is damaged.
    pub(crate) const fn of(bits: u64) -> Option<Member> {
        let incarnation = bits & GENERATION_MASK;
        Some(match bits >> 40 {
            0 => Member::Vacant(incarnation),
            0x10_0000 => Member::Live(incarnation),
            0x20_0000 => Member::Dead(incarnation),
            _ => return None,
        })
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn a_task_word_gives_back_its_fields() {
        let w = Task::new(Phase::Claimed, 0xabc, 7, 0x12_3456_789a);
        assert_eq!(w.phase(), Some(Phase::Claimed));
        assert_eq!((w.who(), w.attempt(), w.generation()), (0xabc, 7, 0x12_3456_789a));
        for bits in 0..16 {
            let phase = Task(bits << 60).phase();
            assert_eq!(phase.map(Phase::bits), phase.map(|_| bits), "each phase has one encoding");
        }
        assert_eq!(Task(15 << 60).phase(), None);
    }

    #[test]
    fn a_generation_wraps_into_its_own_field() {
        let last = Task::new(Phase::Free, 0, 0, GENERATION_MASK);
        assert_eq!(last.reborn(3), Task::new(Phase::Reserved, 3, 0, 0));
    }

    #[test]
    fn an_attempt_has_one_id_in_every_phase_and_no_other_has_it() {
        let first = Task::new(Phase::Ready, 3, 0, 0);
        assert_ne!(first.attempt_id(), 0, "which says that there is none");
        for other in [first.again(Phase::Ready, 3), Task::new(Phase::Ready, 3, 0, GENERATION_MASK), first.reborn(3)] {
            assert_ne!(other.attempt_id(), first.attempt_id(), "{other:?}");
        }
        assert_eq!(first.to(Phase::Done(Outcome::TimedOut), 0xfff).attempt_id(), first.attempt_id());
    }

    #[test]
    fn laps_compare_across_the_wrap() {
        assert_eq!(Slot::empty(0).laps_ahead_of(LAP_MASK), 1);
        assert_eq!(Slot::empty(LAP_MASK).laps_ahead_of(0), -1);
        assert_eq!(Slot::full(5, Hint { index: 1, generation: 2 }).laps_ahead_of(5), 0);
    }

    #[test]
    fn block_and_member_words_are_decoded_only_when_whole() {
        let held = Block::Held(Name::new(4095, GENERATION_MASK));
        for b in [Block::Free, held, Block::Attached { index: 65535, generation: GENERATION_MASK }] {
            assert_eq!(Block::of(b.bits()), Some(b));
        }
        for m in [Member::Vacant(0), Member::Live(9), Member::Dead(GENERATION_MASK)] {
            assert_eq!(Member::of(m.bits()), Some(m));
        }
        for damaged in [3 << 60, 1 << 60 | 1 << 52, 1 << 57, 1] {
            assert_eq!(Block::of(damaged), None, "{damaged:#x}");
        }
        assert_eq!(Member::of(3 << 60), None);
    }

    #[test]
    fn only_the_transitions_of_the_table_are_legal() {
        let free = Task::new(Phase::Free, 0, 0, 4);
        let reserved = free.reborn(1);
        let ready = reserved.to(Phase::Ready, 1);
        let claimed = ready.to(Phase::Claimed, 2);
        let done = claimed.to(Phase::Done(Outcome::Completed), 1);
        for (from, to) in [(free, reserved), (reserved, ready), (ready, claimed), (claimed, done)] {
            assert!(is_legal(from, to), "{from:?} -> {to:?}");
        }
        assert!(is_legal(claimed, Task::new(Phase::Ready, 1, 1, 5)), "an attempt is spent");
        let taken = done.to(Phase::Reserved, 1);
        let anew = |who: u16| taken.reborn(who).to(Phase::Ready, who);
        let adopted = taken.to(Phase::Reserved, 2);
        for to in [taken.to(Phase::Free, 0), adopted, taken.to(Phase::Ready, 1), taken.reborn(1), anew(1)] {
            assert!(is_legal(taken, to), "{taken:?} -> {to:?}");
        }
        for to in [taken.to(Phase::Free, 1), taken.reborn(2), anew(2), anew(1).reborn(1).to(Phase::Ready, 1)] {
            assert!(!is_legal(taken, to), "{taken:?} -> {to:?}");
        }
        assert!(!is_legal(free, ready));
        assert!(!is_legal(ready, done), "nobody completes what it has not claimed");
        assert!(!is_legal(claimed, Task::new(Phase::Ready, 1, 2, 5)), "two attempts at once");
        assert!(!is_legal(claimed, claimed.to(Phase::Free, 0)));
        assert!(!is_legal(done, done.to(Phase::Ready, 1)));
    }
}
