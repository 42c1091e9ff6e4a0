//! The audit: all invariants of a segment, in one place.
//!
//! While others move, what it reads of two words is no snapshot, so a finding that needs two words is made only when the
//! first word is unchanged after the second was read. At rest (nobody runs) every finding is a violation.

use super::{
    descriptor::Payload,
    participant::Name,
    table::Table,
    word::{Block, Hint, Member, Phase},
};
use crate::sync::{Acquire, Relaxed};
use std::fmt;

/// What the audit of a segment found.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// Each violated invariant, with the words involved.
    pub violations: Vec<String>,
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
    /// States every invariant that the words of the segment must satisfy, and returns what violates one.
    pub(crate) fn audit(&self) -> Audit {
        let mut audit = Audit::default();
        for (id, p) in self.participants.iter().enumerate() {
            if let Err(damage) = p.member(id) {
                audit.violations.push(damage.to_string());
            }
        }
        for index in 0..self.descriptors.len() {
            self.audit_descriptor(index as u16, &mut audit);
        }
        for (i, word) in self.blocks.words.iter().enumerate() {
            let bits = word.load(Acquire);
            let unchanged = || word.load(Acquire) == bits;
            match Block::of(bits) {
                Some(Block::Free) => {}
                Some(owner) => {
                    audit.blocks_in_use += 1;
                    let fault = match owner {
                        Block::Held(name) => {
                            (!matches!(self.is_live(name), Ok(true))).then_some("held by nobody who lives")
                        }
                        Block::Attached { index, generation } => self
                            .descriptors
                            .get(index as usize)
                            .is_none_or(|d| {
                                let word = self.load(index);
                                let refers = [&d.input, &d.output]
                                    .iter()
                                    .any(|p| Payload(p.load(Relaxed)).block() == Some(i as u32));
                                word.is(Phase::Free) || word.generation() != generation || !refers
                            })
                            .then_some("attached to a task that does not refer to it")
                            .or_else(|| (!self.blocks.is_committed(i)).then_some("in a chunk that has no pages")),
                        Block::Free => None,
                    };
                    if let Some(fault) = fault.filter(|_| unchanged()) {
                        audit.violations.push(format!("block {i} is {owner:?}, {fault}"));
                    }
                }
                None => audit.violations.push(format!("block {i} holds {bits:#x}")),
            }
        }
        audit
    }

    fn names_live(&self, who: u16) -> bool {
        let member = self.participants.get(who as usize).map(|p| p.member(who.into()));
        matches!(member, Some(Ok(Member::Live(_))))
    }

    fn audit_descriptor(&self, index: u16, audit: &mut Audit) {
        let d = &self.descriptors[index as usize];
        let word = self.load(index);
        let Some(phase) = word.phase() else {
            return audit.violations.push(format!("descriptor {index}: {word:?}"));
        };
        if phase == Phase::Free {
            return;
        }
        audit.descriptors_in_use += 1;
        let fault = match phase {
            Phase::Reserved | Phase::Claimed => (!self.names_live(word.who())).then_some("owned by nobody who lives"),
            Phase::Ready | Phase::Done(_) => {
                let lane = if phase == Phase::Ready {
                    d.lane.load(Relaxed) as usize
                } else {
                    self.queues + self.participants.len() + word.who() as usize
                };
                if lane >= self.controls.len() {
                    Some("it belongs into a lane that does not exist")
                } else {
                    let lane = self.lane(super::table::LaneId(lane as u32));
                    let found =
                        lane.holds(&super::lane::Cursor::default(), Hint::of(index, word)) || lane.rescan_is_due();
                    (!found).then_some("no lane holds its hint, and no rescan is due")
                }
            }
            Phase::Delayed | Phase::Free => None,
        };
        let submitter = Name::of(d.submitter.load(Relaxed));
        if let Some(fault) = fault.filter(|_| self.load(index) == word) {
            audit.violations.push(format!("descriptor {index} is {word:?} of {submitter:?}: {fault}"));
        }
    }
}
