//! Blocks: the arena for payloads that do not fit into a descriptor.
//!
//! # States
//!
//! A block: `FREE → HELD(name) → ATTACHED(descriptor, generation) → FREE`, and `HELD → FREE` when it is given back
//! unused.
//!
//! A chunk: `absent(n) → committed, touched(n) ⇄ committed(n) → absent(n + 1)`.
//!
//! # Words
//!
//! | word       | written by                                          | a death leaves                              |
//! |------------|-----------------------------------------------------|---------------------------------------------|
//! | owner word | who wins the exchange                               | a name, by which recovery frees the block   |
//! | free map   | takers and givers ([`super::freemap`]), a hint only | a missing bit, which the sweep sets again   |
//! | chunk word | holders of a block in it; the coordinator, holding  | what is not committed may have its pages,   |
//! |            | all of them                                         | never the other way round                   |
//! | bytes      | whom the owner word, or the attached task, names    | bytes that nobody reads                     |
//!
//! A chunk is the blocks that get their pages, and give them back, together. Its word: bit 0 *committed*, bit 1 *touched*
//! (a block in it was taken since the coordinator last came by: the clock algorithm), above them how often it was given
//! back. What commits and punches is the caller's; here are the steps on the words between which it happens.
//!
//! # Invariants
//!
//! 1. A block's bytes belong to the participant in HELD, and in ATTACHED to the owner of that life of the descriptor.
//! 2. A block is ATTACHED to `(d, g)` only while `d` is in generation `g`, is not FREE, and one of its payload fields
//!    refers to the block: the field is set before the exchange to ATTACHED, and the block freed before the descriptor.
//! 3. HELD names id and incarnation. A late attach or free by a process that was taken for dead is refused, whoever has
//!    its id by then.
//! 4. Who holds a block of a committed chunk finds its pages there: committed is set after they came, by the holder of a
//!    block, and cleared before they go, by the coordinator that holds every block of the chunk.
//! 5. A late commit by a process that was taken for dead fails if the chunk was given back meanwhile: the count in its
//!    word has moved.
//!
//! # Ordering
//!
//! - \[block] Acquire when a block is taken pairs with Release when it was freed: the last reader is done with it.
//!   Attached blocks travel with the task word's \[publish] and \[complete].
//! - \[chunk] Release when committed is set pairs with Acquire when it is read: the pages are there. That it was cleared
//!   is seen by way of \[block]: the coordinator frees the blocks after that.
//!
//! # Crash
//!
//! HELD by a dead one is freed. Dead between commit and the setting of the bit: pages that the next holder commits once
//! more, to no effect. Dead in [`Blocks::give_back`]: a coordinator that holds blocks, of a chunk whose bit is cleared by
//! then if a page is gone.
//!
//! # Progress
//!
//! Lock-free; `alloc` looks at each word twice at most when the hints run out. While a chunk is given back its blocks
//! are held, so an `alloc` at that moment may find none: it is to be tried again like any that found none. What checks
//! this page: `loom_blocks.rs`, `loom_room.rs` and `mutants.rs` in `lockfree/tests/`, the tests below and in
//! `mem/segment.rs`, `fuzz/fuzz_targets/arena_ops.rs`, and `shmworker torture --single-step` (the paths with a block,
//! and `give-back`).

use super::{
    descriptor::Payload,
    freemap::FreeMap,
    participant::Name,
    word::{Block, Task},
};
use crate::{
    error::Corrupted,
    sync::{AcqRel, Acquire, AtomicU64, Relaxed, Release, mutant},
};
use std::ops::Range;

/// Sizes of blocks.
pub(crate) const CLASSES: usize = 8;
/// Bytes of a chunk, unless a single block is larger.
const CHUNK: u32 = 1 << 20;

/// Bits of a chunk's word; above them is the count of its returns.
pub(crate) const COMMITTED: u64 = 1;
pub(crate) const TOUCHED: u64 = 2;
const RETURN: u64 = 4;

/// Blocks of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Class {
    /// Bytes of each block.
    pub(crate) size: u32,
    /// How many there are.
    pub(crate) count: u32,
}

impl Class {
    /// Blocks of one chunk.
    const fn per_chunk(self) -> usize {
        match CHUNK.checked_div(self.size) {
            Some(n) if n > 1 => n as usize,
            _ => 1,
        }
    }

    const fn chunks(self) -> usize {
        (self.count as usize).div_ceil(self.per_chunk())
    }
}

/// How many chunks these classes make.
pub(crate) fn chunks(classes: &[Class; CLASSES]) -> usize {
    classes.iter().map(|c| c.chunks()).sum()
}

/// A class, with what follows from it and those before it: reckoned once, since it takes divisions.
#[derive(Clone, Copy)]
struct Span {
    /// Bytes of each block.
    size: usize,
    /// Its first block.
    block: usize,
    count: usize,
    per_chunk: usize,
    /// Its first chunk.
    chunk: usize,
    chunks: usize,
}

impl Span {
    fn all(classes: &[Class; CLASSES]) -> [Span; CLASSES] {
        let (mut block, mut chunk) = (0, 0);
        classes.map(|class| {
            let (size, count, per_chunk) = (class.size as usize, class.count as usize, class.per_chunk());
            let span = Span { size, block, count, per_chunk, chunk, chunks: class.chunks() };
            (block, chunk) = (block + count, chunk + span.chunks);
            span
        })
    }

    fn blocks(&self) -> Range<usize> {
        self.block..self.block + self.count
    }

    fn all_chunks(&self) -> Range<usize> {
        self.chunk..self.chunk + self.chunks
    }

    fn chunk_of(&self, block: usize) -> usize {
        let n = block - self.block;
        self.chunk + if self.per_chunk == 1 { n } else { n / self.per_chunk }
    }

    /// The blocks of one of its chunks.
    fn blocks_of(&self, chunk: usize) -> Range<usize> {
        let start = self.block + (chunk - self.chunk) * self.per_chunk;
        start..(start + self.per_chunk).min(self.blocks().end)
    }
}

/// The blocks of a chunk. `None`: there is no such chunk.
pub(crate) fn blocks_of(classes: &[Class; CLASSES], chunk: usize) -> Option<Range<usize>> {
    let span = Span::all(classes).into_iter().find(|s| s.all_chunks().contains(&chunk))?;
    Some(span.blocks_of(chunk))
}

/// Can this be a chunk's word?
pub(crate) const fn is_chunk(word: u64) -> bool {
    word & TOUCHED == 0 || word & COMMITTED != 0
}

/// Why there is no block.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoBlock<E> {
    /// Each one that is large enough is taken.
    Taken,
    /// One was free, but its chunk has no pages and got none.
    NoPages(E),
}

/// The words of blocks and chunks, and the free map, of all classes, smallest first.
#[derive(Clone, Copy)]
pub(crate) struct Blocks<'s> {
    pub(crate) classes: [Class; CLASSES],
    spans: [Span; CLASSES],
    pub(crate) words: &'s [AtomicU64],
    pub(crate) free: FreeMap<'s>,
    pub(crate) chunks: &'s [AtomicU64],
}

impl<'s> Blocks<'s> {
    /// `classes`: the smallest first; with a word for each of their blocks and chunks.
    pub(crate) fn new(
        classes: [Class; CLASSES],
        words: &'s [AtomicU64],
        free: FreeMap<'s>,
        chunks: &'s [AtomicU64],
    ) -> Blocks<'s> {
        Blocks { classes, spans: Span::all(&classes), words, free, chunks }
    }
}

impl Blocks<'_> {
    /// Takes the smallest free block of at least `len` bytes: FREE → HELD(me). If its chunk isn't committed, `commit` brings
    /// the pages; several may do so at once for one chunk, and it may be done already.
    ///
    /// # Errors
    /// [`NoBlock`]; nothing is held then.
    pub(crate) fn alloc<E>(
        &self,
        len: usize,
        me: Name,
        mut commit: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<u32, NoBlock<E>> {
        let spans = self.fitting(len);
        let Some((span, i)) = spans.iter().find_map(|s| Some((s, self.take(s, me)?))) else {
            return Err(NoBlock::Taken);
        };
        match self.populate(span.chunk_of(i), &mut commit) {
            Ok(()) => Ok(i as u32),
            Err(e) => {
                self.free(i, Block::Held(me));
                // The hints lead to the same block each time, and blocks that have their pages may be free elsewhere.
                spans.iter().find_map(|s| self.take_committed(s, me)).ok_or(NoBlock::NoPages(e))
            }
        }
    }

    /// Is this block free? No promise that it still is.
    #[inline]
    pub(crate) fn is_free(&self, block: u32) -> bool {
        self.words.get(block as usize).is_some_and(|w| w.load(Relaxed) == Block::Free.bits())
    }

    /// Takes this block, if it is of the smallest that hold `len` bytes, is free and has its pages: FREE → HELD(me), without the map,
    /// whose bit stays set meanwhile: whoever goes by that finds the block taken.
    pub(crate) fn retake(&self, block: u32, len: usize, me: Name) -> bool {
        let i = block as usize;
        self.fitting(len)
            .first()
            .is_some_and(|s| s.blocks().contains(&i) && self.hold(i, me) && self.keep_if_committed(s, i, me))
    }

    /// How many bytes it holds. `None`: there is no such block.
    pub(crate) fn size(&self, block: usize) -> Option<usize> {
        self.spans.iter().find(|s| s.blocks().contains(&block)).map(|s| s.size)
    }

    /// Are the pages of this block there? Stays so while somebody has it.
    pub(crate) fn is_committed(&self, block: usize) -> bool {
        self.spans
            .iter()
            .find(|s| s.blocks().contains(&block))
            .is_some_and(|s| self.chunks[s.chunk_of(block)].load(Acquire) & COMMITTED != 0)
    }

    fn take(&self, span: &Span, me: Name) -> Option<usize> {
        while let Some(i) = self.free.take(span.blocks(), me.id().into()) {
            if self.hold(i, me) {
                return Some(i);
            }
        }
        // The map is a hint: before giving up on this class, ask the truth.
        span.blocks().find(|&i| self.hold(i, me))
    }

    /// A block of a chunk that is committed already.
    fn take_committed(&self, span: &Span, me: Name) -> Option<u32> {
        // Relaxed: looked at again once the block is held.
        let is_committed = |&i: &usize| self.chunks[span.chunk_of(i)].load(Relaxed) & COMMITTED != 0;
        span.blocks()
            .filter(is_committed)
            .find(|&i| self.hold(i, me) && self.keep_if_committed(span, i, me))
            .map(|i| i as u32)
    }

    /// The chunk may have been given back before the block was held.
    fn keep_if_committed(&self, span: &Span, i: usize, me: Name) -> bool {
        self.populate(span.chunk_of(i), &mut |_| Err(())).is_ok() || {
            self.free(i, Block::Held(me));
            false
        }
    }

    /// Sees to it that a chunk, of which we hold a block, is committed.
    fn populate<E>(&self, chunk: usize, commit: &mut impl FnMut(usize) -> Result<(), E>) -> Result<(), E> {
        let word = &self.chunks[chunk];
        loop {
            let seen = word.load(Acquire); // [chunk]
            if seen & COMMITTED != 0 {
                if seen & TOUCHED == 0 {
                    word.fetch_or(TOUCHED, Relaxed); // a hint to the coordinator, which can't give back what we hold
                }
                return Ok(());
            }
            commit(chunk)?;
            // [chunk] Release: the pages came before. It fails if another was faster (invariant 5 aside).
            if word.compare_exchange(seen, seen | COMMITTED | TOUCHED, Release, Relaxed).is_ok() {
                return Ok(());
            }
        }
    }

    /// Is any chunk committed? No promise that it still is; who commits one rings the coordinator.
    pub(crate) fn has_committed(&self) -> bool {
        self.chunks.iter().any(|word| word.load(Relaxed) & COMMITTED != 0)
    }

    /// Has `punch` take the pages of each committed chunk that is all free and in which nothing was taken since the last
    /// time. Coordinator only. False: no chunk is committed any more.
    pub(crate) fn give_back(&self, me: Name, mut punch: impl FnMut(usize)) -> bool {
        let mut is_any_left = false;
        for span in &self.spans {
            for chunk in span.all_chunks() {
                let word = &self.chunks[chunk];
                let seen = word.load(Relaxed); // compared again below
                if seen & TOUCHED != 0 {
                    word.fetch_and(!TOUCHED, Relaxed); // a hint, as above
                    is_any_left = true;
                } else if seen & COMMITTED != 0 {
                    is_any_left |= !self.give_back_chunk(me, span, chunk, seen, &mut punch);
                }
            }
        }
        is_any_left
    }

    fn give_back_chunk(&self, me: Name, span: &Span, chunk: usize, seen: u64, punch: &mut impl FnMut(usize)) -> bool {
        let blocks = span.blocks_of(chunk);
        // Only looked at: to hold some blocks for nothing would hide them from those who want one.
        if !blocks.clone().all(|i| self.words[i].load(Relaxed) == Block::Free.bits()) {
            return false;
        }
        let held = blocks.clone().take_while(|&i| self.hold(i, me)).count();
        let clear = || {
            let cleared = (seen & !(COMMITTED | TOUCHED)).wrapping_add(RETURN);
            // Relaxed: who takes one of these blocks acquires what we release when we free it below.
            self.chunks[chunk].compare_exchange(seen, cleared, Relaxed, Relaxed).is_ok()
        };
        let is_given = held == blocks.len() && {
            if mutant("give-back-punch-first") {
                punch(chunk);
                clear()
            } else {
                // The bit first: a death in between leaves pages that are there though nobody counts on them.
                clear() && {
                    punch(chunk);
                    true
                }
            }
        };
        for i in blocks.take(held) {
            self.free(i, Block::Held(me));
        }
        is_given
    }

    /// Is a block free that holds `len` bytes? No promise that it still is.
    pub(crate) fn has_free(&self, len: usize) -> bool {
        self.holding(len).iter().any(|w| w.load(Relaxed) == Block::Free.bits())
    }

    /// Are so many? No promise either.
    pub(crate) fn has_free_at_least(&self, n: usize, len: usize) -> bool {
        self.holding(len).iter().filter(|w| w.load(Relaxed) == Block::Free.bits()).take(n).count() == n
    }

    /// Are there as many, free or not?
    pub(crate) fn has_at_least(&self, n: usize, len: usize) -> bool {
        self.holding(len).len() >= n
    }

    /// Have all but fewer than `n` been taken by whose `is_ours` says so, of a descriptor and its generation? Those keep them until
    /// they give them back themselves.
    pub(crate) fn has_fewer_besides(&self, n: usize, len: usize, is_ours: impl Fn(u16, u64) -> bool) -> bool {
        let is_anothers = |word: &&AtomicU64| match Block::of(word.load(Relaxed)) {
            Some(Block::Attached { index, generation }) => !is_ours(index, generation),
            _ => true,
        };
        self.holding(len).iter().filter(is_anothers).nth(n.saturating_sub(1)).is_none()
    }

    /// The classes whose blocks hold `len` bytes.
    fn fitting(&self, len: usize) -> &[Span] {
        let first = self.spans.iter().position(|s| s.size >= len).unwrap_or(CLASSES);
        &self.spans[first..]
    }

    /// The words of the blocks that do.
    fn holding(&self, len: usize) -> &[AtomicU64] {
        self.fitting(len).first().map_or(&[], |s| &self.words[s.block..])
    }

    fn hold(&self, i: usize, me: Name) -> bool {
        let word = &self.words[i];
        word.load(Relaxed) == Block::Free.bits()
            && word.compare_exchange(Block::Free.bits(), Block::Held(me).bits(), Acquire, Relaxed).is_ok() // [block]
    }

    /// Is the block attached to this life of this descriptor? Then nobody else has it.
    ///
    /// # Errors
    /// [`Corrupted`] if it isn't.
    pub(crate) fn check_attached(&self, block: u32, index: u16, task: Task) -> Result<(), Corrupted> {
        // Relaxed: who owns the task has seen it attached, or attached it ([publish] and its like).
        let word = self.words.get(block as usize);
        let found = word.ok_or(Corrupted::new("number of a block", block as usize, block.into()))?.load(Relaxed);
        if found == Block::attached(index, task).bits() {
            Ok(())
        } else {
            Err(Corrupted::new("attached block", block as usize, found))
        }
    }

    /// HELD(me) → ATTACHED. The descriptor's field refers to the block already.
    ///
    /// # Errors
    /// [`Corrupted`] if the block is not ours: nobody else may move it.
    pub(crate) fn attach(&self, block: u32, me: Name, index: u16, task: Task) -> Result<(), Corrupted> {
        let to = Block::attached(index, task).bits();
        // Release, for the audit of who lives: it finds the field that refers to the block (invariant 2). The task's
        // next owner has both by [publish] or [complete].
        self.words[block as usize]
            .compare_exchange(Block::Held(me).bits(), to, Release, Relaxed)
            .map(drop)
            .map_err(|found| Corrupted::new("held block", block as usize, found))
    }

    /// Frees the block if it is in state `from`: exact, so that a late owner frees nothing of a later one.
    pub(crate) fn free(&self, block: usize, from: Block) -> bool {
        let success = if mutant("relaxed-block") { Relaxed } else { Release }; // [block]
        let freed = self.words[block].compare_exchange(from.bits(), Block::Free.bits(), success, Relaxed).is_ok();
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
            // [block], as in `free`; the dead one's own accesses came before the kernel's word of its death.
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

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::lockfree::word::Phase;
    use std::{cell::RefCell, convert::Infallible};

    /// Blocks of 256 KiB, of which four make a chunk, and one of 1 MiB.
    struct Words {
        classes: [Class; CLASSES],
        words: Vec<AtomicU64>,
        free: Vec<AtomicU64>,
        chunks: Vec<AtomicU64>,
    }

    impl Words {
        fn new(count: u32, chunk: u64) -> Words {
            let mut classes = [Class::default(); CLASSES];
            classes[3] = Class { size: 256 << 10, count };
            classes[4] = Class { size: 1 << 20, count: 1 };
            let words = |n, v| std::iter::repeat_with(move || AtomicU64::new(v)).take(n).collect();
            let blocks = count as usize + 1;
            Words {
                words: words(blocks, 0),
                free: words(1, (1 << blocks) - 1),
                chunks: words(chunks(&classes), chunk),
                classes,
            }
        }

        fn blocks(&self) -> Blocks<'_> {
            Blocks::new(self.classes, &self.words, FreeMap(&self.free), &self.chunks)
        }
    }

    fn alloc(blocks: &Blocks<'_>, me: Name) -> Result<u32, NoBlock<Infallible>> {
        blocks.alloc(1, me, |_| Ok(()))
    }

    const ME: Name = Name::new(1, 1);
    const OTHER: Name = Name::new(2, 1);

    #[test]
    fn chunks_cover_each_block_once() {
        let words = Words::new(6, 0);
        let all: Vec<_> = (0..chunks(&words.classes)).map(|c| blocks_of(&words.classes, c).unwrap()).collect();
        assert_eq!(all, [0..4, 4..6, 6..7]);
        assert_eq!(blocks_of(&words.classes, 3), None);
    }

    #[test]
    fn pages_come_with_the_first_block_of_a_chunk_and_go_when_it_was_free_for_a_round() {
        let words = Words::new(6, 0);
        let blocks = words.blocks();
        let log = RefCell::new(Vec::new());
        let take = |len| {
            let commit = |c| -> Result<(), Infallible> {
                log.borrow_mut().push(("commit", c));
                Ok(())
            };
            blocks.alloc(len, ME, commit).unwrap()
        };
        let give_back = || blocks.give_back(OTHER, |c| log.borrow_mut().push(("punch", c)));
        let said = || log.take();
        let free = |i: u32| assert!(blocks.free(i as usize, Block::Held(ME)));

        assert!(!give_back());
        assert_eq!((take(1), take(1), said()), (0, 1, vec![("commit", 0)]));
        assert_eq!((take(300 << 10), said()), (6, vec![("commit", 2)]));
        free(6);
        // Both were touched; then block 0 and 1 keep theirs.
        assert!(give_back());
        assert!(give_back());
        assert_eq!(said(), [("punch", 2)]);
        free(0);
        free(1);
        // Touched once more: another round.
        free(take(1));
        assert!(give_back());
        assert_eq!(said(), []);
        assert!(!give_back());
        assert_eq!(said(), [("punch", 0)]);
        assert_eq!((take(1), said()), (0, vec![("commit", 0)]));
    }

    #[test]
    fn without_pages_for_one_chunk_a_block_of_another_does() {
        let words = Words::new(8, 0);
        let blocks = words.blocks();
        words.chunks[1].store(COMMITTED, Relaxed);
        let refuse = || blocks.alloc(1, ME, Err::<(), _>);
        for i in 4..8 {
            assert_eq!(refuse(), Ok(i));
        }
        assert_eq!(refuse(), Err(NoBlock::NoPages(0)));
        assert!(words.words[..4].iter().all(|w| w.load(Relaxed) == 0), "what was held for it stayed held");
        assert_eq!(blocks.alloc((1 << 20) + 1, ME, Err::<(), _>), Err(NoBlock::Taken));
    }

    #[test]
    fn a_block_is_taken_again_if_it_is_free_fits_and_has_its_pages() {
        let words = Words::new(4, 0);
        let blocks = words.blocks();
        assert!(!blocks.retake(0, 1, ME), "its chunk has no pages");
        assert_eq!(alloc(&blocks, ME), Ok(0));
        assert!(!blocks.retake(0, 1, ME), "it is in use");
        assert!(blocks.free(0, Block::Held(ME)));
        assert!(!blocks.retake(0, (256 << 10) + 1, ME), "it is too small");
        assert!(!blocks.retake(4, 1, ME), "there are smaller ones");
        assert!(!blocks.retake(5, 1, ME), "there is no such block");
        assert!(blocks.retake(0, 256 << 10, ME));
        // The map has it as free still: whoever goes by that finds another.
        assert_eq!(alloc(&blocks, OTHER), Ok(1));
        assert!(blocks.free(0, Block::Held(ME)));
        assert!(blocks.free.has(0));
    }

    #[test]
    fn a_late_commit_by_who_was_taken_for_dead_is_made_again() {
        let words = Words::new(4, 0);
        let blocks = words.blocks();
        let mut commits = 0;
        let late = blocks.alloc(1, ME, |_| -> Result<(), Infallible> {
            commits += 1;
            if commits == 1 {
                // Stopped here: declared dead, its block taken by its heir, then the chunk is given back.
                blocks.recover(ME).unwrap();
                let block = alloc(&blocks, OTHER).unwrap();
                assert!(blocks.free(block as usize, Block::Held(OTHER)));
                assert!(blocks.give_back(OTHER, |_| panic!("just touched")));
                assert!(!blocks.give_back(OTHER, |_| {}));
            }
            Ok(())
        });
        assert_eq!((late, commits), (Ok(0), 2));
    }

    #[test]
    fn who_was_taken_for_dead_can_do_nothing_to_what_its_heir_holds() {
        let words = Words::new(1, COMMITTED);
        let blocks = words.blocks();
        let (late, heir) = (Name::new(3, 1), Name::new(3, 2));
        assert_eq!(alloc(&blocks, late), Ok(0));
        blocks.recover(late).unwrap();
        assert_eq!(alloc(&blocks, heir), Ok(0));

        let task = Task::new(Phase::Reserved, 3, 0, 7);
        assert!(blocks.attach(0, late, 0, task).is_err());
        assert!(!blocks.free(0, Block::Held(late)));
        blocks.recover(late).unwrap();
        assert_eq!(Block::of(blocks.words[0].load(Relaxed)), Some(Block::Held(heir)));
        blocks.attach(0, heir, 0, task).unwrap();
    }
}
