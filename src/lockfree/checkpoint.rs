//! Checkpoints: what an attempt has come to, kept for the next one if its process dies.
//!
//! # States
//!
//! ```text
//!    NONE ─────▶ BEGUN ─────▶ valid(0) ◀─────▶ valid(1)
//!   (reserve)   (first)      each further checkpoint goes into the field that is not valid
//! ```
//!
//! # Words
//!
//! *Owner*: as in [`super::descriptor`].
//!
//! | word            | written by               | read by                   | a death leaves                            |
//! |-----------------|--------------------------|---------------------------|-------------------------------------------|
//! | `checkpoints`   | who reserves, NONE;      | the owner; the submitter, | NONE, BEGUN, or which field is valid: the |
//! |                 | the owner, CLAIMED       | RESERVED; who releases    | former checkpoint or the new one          |
//! | `checkpoint[2]` | the owner, CLAIMED       | the same, unless NONE     | in the field that is not valid perhaps a  |
//! |                 |                          |                           | block, which recovery frees               |
//! | bytes           | who holds the block,     | the owner; the submitter, | bytes that no valid field refers to       |
//! |                 | before it is attached    | RESERVED                  |                                           |
//!
//! `checkpoints`: 0 NONE, 1 BEGUN, from 2 on a count whose last bit says which field is valid. It wraps to 2.
//!
//! # Invariants
//!
//! 1. While `checkpoints` is NONE the fields mean nothing: they are those of a former life. So a task without checkpoints
//!    touches neither, and `reserve` resets one word.
//! 2. Between two checkpoints, and whenever the task is not CLAIMED, the field that is not valid is 0. So a field never
//!    refers to a block that was freed and then attached to this same life for something else, as its output.
//! 3. Field before attach, free before field: a block is ATTACHED only while a field refers to it ([`super::blocks`]).
//! 4. A checkpoint outlives its attempt: what is given back, or taken from the dead, keeps the valid one. It is freed
//!    with the descriptor, by `release`.
//!
//! # Ordering
//!
//! From owner to owner all travels with the task word, or with the kernel's word of a death. Within the owner's process
//! the steps must come in the order in which they stand here, for a death falls between two instructions: Release in
//! each store keeps what stands before it from being moved behind it. It serves the audit of those who live, too, which
//! compares fields and blocks.
//!
//! # Crash
//!
//! | death after            | it leaves                                      | recovery ([`Table::tidy_checkpoints`])      |
//! |------------------------|------------------------------------------------|---------------------------------------------|
//! | the block is held      | HELD by the dead one                           | frees it ([`super::blocks`])                |
//! | `checkpoints` is BEGUN | no valid field, both 0                         | nothing is to do                            |
//! | the field is set       | a field that refers to a block of its holder's | finds it not attached; 0                    |
//! | it is attached         | the former one valid, the new one whole        | frees the new one; 0                        |
//! | the count is stored    | the new one valid, the former one still there  | frees the former one; 0                     |
//! | the former is freed    | a field that refers to a free block            | finds it not attached; 0                    |
//!
//! Each of recovery's steps may be made again: by the time that it runs nobody attaches anything to this task.
//!
//! # Progress
//!
//! Wait-free: a bounded number of stores and exchanges; a refused exchange is damage. What checks this page:
//! `worker_that_leaves_checkpoints_dies` in `lockfree/tests/loom_blocks.rs`, `exec/tests.rs`,
//! `fuzz/fuzz_targets/descriptor_ops.rs`, `shmworker torture --single-step` (`checkpoint`, `next-checkpoint`).

use super::{
    descriptor::{Descriptor, Payload},
    participant::Name,
    table::{Owned, Table},
};
use crate::{
    error::Corrupted,
    sync::{AtomicU64, Relaxed, Release, mutant},
};

/// No checkpoint was begun in this life of the descriptor.
pub(crate) const NONE: u32 = 0;
/// One was begun, none is valid yet.
const BEGUN: u32 = 1;

/// Which field is valid.
pub(crate) const fn valid(count: u32) -> Option<usize> {
    if count > BEGUN { Some(count as usize & 1) } else { None }
}

/// The count by which the other field becomes the valid one.
const fn next(count: u32) -> u32 {
    match count {
        NONE | BEGUN | u32::MAX => 2,
        _ => count + 1,
    }
}

impl Descriptor {
    /// The last whole checkpoint. For the owner, and for the submitter once the task is done.
    pub(crate) fn last_checkpoint(&self) -> Option<Payload> {
        // Relaxed, as for all fields: what the former owner wrote came with the word, or before its death.
        valid(self.checkpoints.load(Relaxed)).map(|field| Payload(self.checkpoint[field].load(Relaxed)))
    }
}

impl Table<'_> {
    /// Makes a payload, in a block that `me` holds and has filled, the checkpoint of a task that it has CLAIMED, and frees
    /// the former one.
    ///
    /// # Errors
    /// [`Corrupted`] if the block is not held by `me`, or a field is damaged.
    pub(crate) fn keep_checkpoint(&self, me: Name, task: Owned, payload: Payload) -> Result<(), Corrupted> {
        let d = &self.descriptors[task.index as usize];
        let count = d.checkpoints.load(Relaxed);
        if count == NONE {
            d.checkpoint.iter().for_each(|field| field.store(0, Relaxed));
            // Before a field refers to anything: a death that leaves NONE leaves nothing to free.
            d.checkpoints.store(BEGUN, Release);
        }
        let count = next(count);
        let (new, former) = (&d.checkpoint[count as usize & 1], &d.checkpoint[count as usize & 1 ^ 1]);
        if mutant("checkpoint-count-first") {
            d.checkpoints.store(count, Release);
        }
        new.store(payload.0, Release);
        if let Some(block) = payload.block() {
            self.blocks.attach(block, me, task.index, task.word)?;
        }
        // The checkpoint is this store: a death before it leaves the former one.
        d.checkpoints.store(count, Release);
        if self.clear(former, task)? {
            self.wake_for_room();
        }
        Ok(())
    }

    /// After a death, for who has adopted the task: frees what the field that is not valid refers to.
    ///
    /// # Errors
    /// [`Corrupted`] if a field is damaged.
    pub(crate) fn tidy_checkpoints(&self, task: Owned) -> Result<(), Corrupted> {
        let d = &self.descriptors[task.index as usize];
        let count = d.checkpoints.load(Relaxed);
        if count == NONE || mutant("no-checkpoint-tidying") {
            return Ok(());
        }
        for (i, field) in d.checkpoint.iter().enumerate() {
            if Some(i) != valid(count) && self.clear(field, task)? {
                self.wake_for_room();
            }
        }
        Ok(())
    }

    /// Frees the block to which a field refers, and resets the field. True: there was one.
    fn clear(&self, field: &AtomicU64, task: Owned) -> Result<bool, Corrupted> {
        let payload = Payload(field.load(Relaxed));
        self.blocks.detach(payload, task.index, task.word)?;
        field.store(0, Release);
        Ok(payload.block().is_some())
    }

    /// The blocks of all checkpoints are freed with the descriptor. For who releases it.
    ///
    /// # Errors
    /// [`Corrupted`] if a field is damaged.
    pub(crate) fn drop_checkpoints(&self, task: Owned) -> Result<(), Corrupted> {
        let d = &self.descriptors[task.index as usize];
        if d.checkpoints.load(Relaxed) != NONE {
            for field in &d.checkpoint {
                self.blocks.detach(Payload(field.load(Relaxed)), task.index, task.word)?;
            }
        }
        Ok(())
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn a_count_wraps_to_the_other_field() {
        assert_eq!([NONE, BEGUN].map(valid), [None, None]);
        assert_eq!([NONE, BEGUN].map(next), [2, 2], "both begin with the first field");
        for count in [2, 3, u32::MAX - 1, u32::MAX] {
            assert_eq!(valid(next(count)), valid(count).map(|field| field ^ 1), "{count}");
        }
    }
}
