//! Blocks: the arena for payloads that do not fit into a descriptor.
//!
//! # States
//!
//! `FREE → HELD(name) → ATTACHED(descriptor, generation) → FREE`, and `HELD → FREE` when it is given back unused.
//!
//! # Words
//!
//! | word       | written by                                          | a death leaves                              |
//! |------------|-----------------------------------------------------|---------------------------------------------|
//! | owner word | who wins the exchange                               | a name, by which recovery frees the block   |
//! | free map   | takers and givers ([`super::freemap`]), a hint only | a missing bit, which the sweep sets again   |
//! | bytes      | whom the owner word, or the attached task, names    | bytes that nobody reads                     |
//!
//! # Invariants
//!
//! 1. A block's bytes belong to the participant in HELD, and in ATTACHED to the owner of that life of the descriptor.
//! 2. A block is ATTACHED to `(d, g)` only while `d` is in generation `g`, is not FREE, and one of its payload fields
//!    refers to the block: the field is set before the exchange to ATTACHED, and the block freed before the descriptor.
//! 3. HELD names id and incarnation. A late attach or free by a process that was taken for dead is refused, whoever has
//!    its id by then.
//!
//! # Ordering
//!
//! - \[block] Acquire when a block is taken pairs with Release when it was freed: the last reader is done with it.
//!   Attached blocks travel with the task word's \[publish] and \[complete].
//!
//! # Progress
//!
//! Lock-free; `alloc` looks at each word once at most when the hints run out.

use super::{
    descriptor::Payload,
    freemap::FreeMap,
    participant::Name,
    word::{Block, Task},
};
use crate::{
    error::Corrupted,
    sync::{AcqRel, Acquire, AtomicU64, Relaxed, Release},
};

/// Sizes of blocks.
pub(crate) const CLASSES: usize = 4;

/// Blocks of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Class {
    /// Bytes of each block.
    pub(crate) size: u32,
    /// How many there are.
    pub(crate) count: u32,
}

/// The owner words and free maps of all classes, smallest first.
#[derive(Clone, Copy)]
pub(crate) struct Blocks<'s> {
    pub(crate) classes: [Class; CLASSES],
    pub(crate) words: &'s [AtomicU64],
    pub(crate) free: FreeMap<'s>,
}

impl Blocks<'_> {
    /// Takes the smallest free block of at least `len` bytes: FREE → HELD(me).
    pub(crate) fn alloc(&self, len: usize, me: Name) -> Option<u32> {
        let mut first = 0;
        for class in self.classes {
            let range = first..first + class.count as usize;
            first = range.end;
            if (class.size as usize) < len {
                continue;
            }
            while let Some(i) = self.free.take(range.clone(), usize::from(me.id())) {
                if self.hold(i, me) {
                    return Some(i as u32);
                }
            }
            // The map is a hint: before giving up on this class, ask the truth.
            if let Some(i) = range.into_iter().find(|&i| self.hold(i, me)) {
                return Some(i as u32);
            }
        }
        None
    }

    /// Is a block free that holds `len` bytes? No promise that it still is.
    pub(crate) fn has_free(&self, len: usize) -> bool {
        let mut first = 0;
        self.classes.iter().any(|class| {
            let range = first..first + class.count as usize;
            first = range.end;
            class.size as usize >= len && self.words[range].iter().any(|w| w.load(Relaxed) == Block::Free.bits())
        })
    }

    fn hold(&self, i: usize, me: Name) -> bool {
        let word = &self.words[i];
        word.load(Relaxed) == Block::Free.bits()
            && word.compare_exchange(Block::Free.bits(), Block::Held(me).bits(), Acquire, Relaxed).is_ok() // [block]
    }

    /// HELD(me) → ATTACHED. The descriptor's field refers to the block already.
    ///
    /// # Errors
    /// [`Corrupted`] if the block is not ours: nobody else may move it.
    pub(crate) fn attach(&self, block: u32, me: Name, index: u16, task: Task) -> Result<(), Corrupted> {
        let to = Block::attached(index, task).bits();
        self.words[block as usize]
            .compare_exchange(Block::Held(me).bits(), to, Release, Relaxed)
            .map(drop)
            .map_err(|found| Corrupted::new("held block", block as usize, found))
    }

    /// Frees the block if it is in state `from`: exact, so that a late owner frees nothing of a later one.
    pub(crate) fn free(&self, block: usize, from: Block) -> bool {
        let freed = self.words[block].compare_exchange(from.bits(), Block::Free.bits(), Release, Relaxed).is_ok(); // [block]
        if freed {
            self.free.give(block);
        }
        freed
    }

    /// Frees the block to which `payload` refers, if it is attached to this life of the descriptor.
    ///
    /// # Errors
    /// [`Corrupted`] if there is no such block.
    pub(crate) fn detach(&self, payload: Payload, index: u16, task: Task) -> Result<(), Corrupted> {
        let Some(block) = payload.block() else { return Ok(()) };
        if block as usize >= self.words.len() {
            return Err(Corrupted::new("payload of descriptor", index as usize, payload.0));
        }
        self.free(block as usize, Block::attached(index, task));
        Ok(())
    }

    /// Frees all that `dead` held, and sets each free block's bit again.
    ///
    /// # Errors
    /// [`Corrupted`] if a word is none of a block's.
    pub(crate) fn recover(&self, dead: Name) -> Result<(), Corrupted> {
        for (i, word) in self.words.iter().enumerate() {
            let bits = word.load(Acquire);
            match Block::of(bits) {
                Some(Block::Held(name)) if name == dead => {
                    if word.compare_exchange(bits, Block::Free.bits(), AcqRel, Relaxed).is_ok() {
                        self.free.give(i);
                    }
                }
                Some(Block::Free) => self.free.give(i),
                Some(_) => {}
                None => return Err(Corrupted::new("block", i, bits)),
            }
        }
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::lockfree::word::Phase;

    #[test]
    fn who_was_taken_for_dead_can_do_nothing_to_what_its_heir_holds() {
        let (words, free) = ([AtomicU64::new(0)], [AtomicU64::new(1)]);
        let mut classes = [Class::default(); CLASSES];
        classes[0] = Class { size: 4096, count: 1 };
        let blocks = Blocks { classes, words: &words, free: FreeMap(&free) };
        let (late, heir) = (Name::new(3, 1), Name::new(3, 2));
        assert_eq!(blocks.alloc(1, late), Some(0));
        blocks.recover(late).unwrap();
        assert_eq!(blocks.alloc(1, heir), Some(0));

        let task = Task::new(Phase::Reserved, 3, 0, 7);
        assert!(blocks.attach(0, late, 0, task).is_err());
        assert!(!blocks.free(0, Block::Held(late)));
        blocks.recover(late).unwrap();
        assert_eq!(Block::of(words[0].load(Relaxed)), Some(Block::Held(heir)));
        blocks.attach(0, heir, 0, task).unwrap();
    }
}
