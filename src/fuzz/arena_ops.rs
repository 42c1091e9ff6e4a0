//! Blocks and the pages behind them against a plain account of who has what.
//!
//! Some participants take blocks, attach them to tasks and free them; a coordinator settles deaths and gives unused pages
//! back. Anyone may be killed between two operations or before any write inside one ([`fate`]); some are declared dead and
//! act on, which must have no effect.

use super::stage::{Bytes, death, pick};
use crate::{
    lockfree::{
        blocks::{Blocks, CLASSES, COMMITTED, Class, NoBlock, blocks_of, chunks},
        descriptor::Payload,
        freemap::FreeMap,
        participant::Name,
        word::{Block, Phase, Task},
    },
    sync::{AtomicU64, Relaxed, fate},
};
use std::cell::RefCell;

const ACTORS: usize = 3;
/// The coordinator's id; an actor's is its number.
const COORDINATOR: u16 = 9;
/// Two blocks to a chunk and one over, a chunk for each of two, and a larger one.
const SIZES: [(u32, u32); 3] = [(512 << 10, 5), (1 << 20, 2), (4 << 20, 1)];
const BLOCKS: usize = 8;
/// Descriptors to which blocks are attached.
const TASKS: usize = 4;

/// `data`: three bytes per step: what, who and how, and before which write the actor dies.
///
/// # Panics
/// If a block, its pages or an answer is not as the account has it.
pub fn arena_ops(data: &[u8]) {
    let words = Words::new();
    let mut play = Play {
        words: &words,
        account: [Block::Free; BLOCKS],
        names: std::array::from_fn(|id| Name::new(id as u16, 1)),
        coordinator: Name::new(COORDINATOR, 1),
        dead: Vec::new(),
        late: Vec::new(),
        generations: [0; TASKS],
    };
    let mut bytes = Bytes(data);
    while let (Some(op), Some(arg), Some(k)) = (bytes.next(), bytes.next(), bytes.next()) {
        play.step(op, arg, death(k));
    }
    play.drain();
}

/// The words of an arena, and the kernel's part: which chunks have pages.
struct Words {
    classes: [Class; CLASSES],
    words: Vec<AtomicU64>,
    free: Vec<AtomicU64>,
    chunks: Vec<AtomicU64>,
    pages: RefCell<Vec<bool>>,
}

impl Words {
    fn new() -> Words {
        let mut classes = [Class::default(); CLASSES];
        for (class, (size, count)) in classes.iter_mut().zip(SIZES) {
            *class = Class { size, count };
        }
        // Sizes go up to the last.
        classes[SIZES.len()..].fill(Class { size: 4 << 20, count: 0 });
        let zeroes = |n| std::iter::repeat_with(|| AtomicU64::new(0)).take(n).collect::<Vec<_>>();
        let words = Words {
            words: zeroes(BLOCKS),
            free: zeroes(FreeMap::words(BLOCKS)),
            chunks: zeroes(chunks(&classes)),
            pages: RefCell::new(vec![false; chunks(&classes)]),
            classes,
        };
        (0..BLOCKS).for_each(|i| words.blocks().free.give(i));
        words
    }

    fn blocks(&self) -> Blocks<'_> {
        Blocks::new(self.classes, &self.words, FreeMap(&self.free), &self.chunks)
    }

    fn block(&self, i: usize) -> Block {
        Block::of(self.words[i].load(Relaxed)).expect("undamaged")
    }

    fn size(&self, i: usize) -> usize {
        let sizes = SIZES.iter().flat_map(|(size, count)| std::iter::repeat_n(*size, *count as usize));
        sizes.clone().nth(i).expect("a block") as usize
    }

    fn chunk_of(&self, i: usize) -> usize {
        let is_it = |c: &usize| blocks_of(&self.classes, *c).is_some_and(|blocks| blocks.contains(&i));
        (0..self.chunks.len()).find(is_it).expect("a chunk")
    }
}

struct Play<'w> {
    words: &'w Words,
    account: [Block; BLOCKS],
    names: [Name; ACTORS],
    coordinator: Name,
    /// Whose death is not settled.
    dead: Vec<Name>,
    /// What those held who were declared dead though they live.
    late: Vec<(Name, usize)>,
    generations: [u64; TASKS],
}

/// What an operation that was cut short may have done to a block.
type May = fn(Block, Block, Name) -> bool;

impl Play<'_> {
    fn step(&mut self, op: u8, arg: u8, k: u32) {
        let (who, arg) = (arg as usize % ACTORS, arg / ACTORS as u8);
        match op % 16 {
            0..=4 => self.alloc(who, arg, k),
            5 | 6 => self.attach(who, arg, k),
            7 => self.free(who, arg, k),
            8 | 9 => self.detach(who, arg, k),
            10 => self.die(who),
            11 => self.settle(arg, k),
            12 => self.fence(who),
            13 => self.act_late(arg),
            _ => {
                self.give_back(k);
            }
        }
        self.check();
    }

    fn check(&self) {
        for (i, account) in self.account.iter().enumerate() {
            assert_eq!(self.words.block(i), *account, "block {i}");
            let is_anybodys = matches!(account, Block::Held(name) if self.dead.contains(name));
            // Who died as it took one may not have come to its pages.
            if *account != Block::Free && !is_anybodys {
                assert!(self.words.blocks().is_committed(i), "block {i} is in use, and its chunk may be given back");
            }
        }
        for (chunk, word) in self.words.chunks.iter().enumerate() {
            let is_committed = word.load(Relaxed) & COMMITTED != 0;
            assert!(!is_committed || self.words.pages.borrow()[chunk], "chunk {chunk} has no pages");
        }
    }

    /// Runs an operation of `name`, who may die of it: then a block may be where `may` says.
    fn act<T>(&mut self, name: Name, k: u32, may: May, op: impl FnOnce(&Blocks<'_>) -> T) -> Option<T> {
        let answer = fate::mortal(k, || op(&self.words.blocks()));
        if answer.is_none() {
            for i in 0..BLOCKS {
                let now = self.words.block(i);
                assert!(now == self.account[i] || may(self.account[i], now, name), "block {i} is {now:?}");
                self.account[i] = now;
            }
            self.dies(name);
        }
        answer
    }

    fn dies(&mut self, name: Name) {
        self.dead.push(name);
        let heir = Name::new(name.id(), name.incarnation() + 1);
        match self.names.iter_mut().find(|n| **n == name) {
            Some(actor) => *actor = heir,
            None => self.coordinator = heir,
        }
    }

    fn held(&self, name: Name) -> Vec<usize> {
        (0..BLOCKS).filter(|&i| self.account[i] == Block::Held(name)).collect()
    }

    fn alloc(&mut self, who: usize, arg: u8, k: u32) {
        let (name, len, words) = (self.names[who], [1, 600 << 10, 2 << 20, 5 << 20][arg as usize % 4], self.words);
        let has_memory = arg < 64;
        let commit = |chunk: usize| {
            let has_pages = &mut words.pages.borrow_mut()[chunk];
            *has_pages |= has_memory; // those that are there need no memory
            if *has_pages { Ok(()) } else { Err(chunk) }
        };
        let may: May = |was, now, name| was == Block::Free && now == Block::Held(name);
        let Some(answer) = self.act(name, k, may, |b| b.alloc(len, name, commit)) else { return };
        let fits = |&i: &usize| self.account[i] == Block::Free && words.size(i) >= len;
        let first = (0..BLOCKS).find(fits);
        let is_committed = |chunk: usize| words.chunks[chunk].load(Relaxed) & COMMITTED != 0;
        match answer {
            Ok(i) => {
                let i = i as usize;
                assert!(fits(&i), "block {i} of {} bytes for {len} was {:?}", words.size(i), self.account[i]);
                // A larger one only if the smaller have no pages.
                assert!(
                    !has_memory || Some(words.size(i)) == first.map(|i| words.size(i)),
                    "block {i} for {len} bytes"
                );
                self.account[i] = Block::Held(name);
            }
            Err(NoBlock::Taken) => assert_eq!(first, None),
            Err(NoBlock::NoPages(chunk)) => {
                assert!(!has_memory && !words.pages.borrow()[chunk] && !is_committed(chunk), "chunk {chunk}");
                assert!(!(0..BLOCKS).filter(fits).any(|i| is_committed(words.chunk_of(i))), "one was free");
            }
        }
    }

    /// A block that an actor has becomes its task's.
    fn attach(&mut self, who: usize, arg: u8, k: u32) {
        let name = self.names[who];
        let Some(i) = pick(&self.held(name), arg) else { return };
        let task = arg as usize % TASKS;
        self.generations[task] += 1;
        let word = Task::new(Phase::Reserved, name.id(), 0, self.generations[task]);
        let may: May = |was, now, name| was == Block::Held(name) && matches!(now, Block::Attached { .. });
        if let Some(answer) = self.act(name, k, may, |b| b.attach(i as u32, name, task as u16, word)) {
            answer.expect("it is ours");
            self.account[i] = Block::attached(task as u16, word);
        }
    }

    fn free(&mut self, who: usize, arg: u8, k: u32) {
        let name = self.names[who];
        let Some(i) = pick(&self.held(name), arg) else { return };
        let may: May = |was, now, name| was == Block::Held(name) && now == Block::Free;
        if let Some(is_free) = self.act(name, k, may, |b| b.free(i, Block::Held(name))) {
            assert!(is_free);
            self.account[i] = Block::Free;
        }
    }

    /// The block of a task is freed: by its owner, or by one who has the word of another life.
    fn detach(&mut self, who: usize, arg: u8, k: u32) {
        let name = self.names[who];
        let attached: Vec<_> = (0..BLOCKS).filter(|&i| matches!(self.account[i], Block::Attached { .. })).collect();
        let Some(i) = pick(&attached, arg) else { return };
        let Block::Attached { index, generation } = self.account[i] else { unreachable!("as filtered") };
        let is_late = arg & 1 == 1;
        let word = Task::new(Phase::Reserved, name.id(), 0, generation.wrapping_sub(is_late.into()));
        let payload = Payload::new(Some(i as u32), 1);
        let may: May = |was, now, _| matches!(was, Block::Attached { .. }) && now == Block::Free;
        if let Some(answer) = self.act(name, k, may, |b| b.detach(payload, index, word)) {
            answer.expect("there is such a block");
            if !is_late {
                self.account[i] = Block::Free;
            }
        }
    }

    fn die(&mut self, who: usize) {
        self.dies(self.names[who]);
    }

    /// Lives, and is taken for dead.
    fn fence(&mut self, who: usize) {
        let name = self.names[who];
        self.late.extend(self.held(name).into_iter().map(|i| (name, i)));
        self.dies(name);
        while self.dead.contains(&name) {
            self.settle(self.dead.len() as u8 - 1, 0);
        }
    }

    fn act_late(&mut self, arg: u8) {
        let Some((name, i)) = self.late.pop() else { return };
        let blocks = self.words.blocks();
        if arg & 1 == 0 {
            assert!(!blocks.free(i, Block::Held(name)));
        } else {
            assert!(blocks.attach(i as u32, name, 0, Task::new(Phase::Reserved, name.id(), 0, 1)).is_err());
        }
    }

    fn settle(&mut self, arg: u8, k: u32) {
        let Some(name) = pick(&self.dead, arg) else { return };
        let may: May = |was, now, _| matches!(was, Block::Held(_)) && now == Block::Free;
        if let Some(answer) = self.act(self.coordinator, k, may, |b| b.recover(name)) {
            answer.expect("undamaged");
            self.dead.retain(|dead| *dead != name);
            self.account.iter_mut().filter(|b| **b == Block::Held(name)).for_each(|b| *b = Block::Free);
            let is_hinted = |i: usize| self.words.free[0].load(Relaxed) >> i & 1 == 1;
            assert!((0..BLOCKS).all(|i| self.account[i] != Block::Free || is_hinted(i)), "a free block has no hint");
        }
    }

    fn give_back(&mut self, k: u32) -> bool {
        let (me, words) = (self.coordinator, self.words);
        let punch = |chunk: usize| {
            for i in blocks_of(&words.classes, chunk).expect("a chunk") {
                assert_eq!(words.block(i), Block::Held(me), "its pages go");
            }
            words.pages.borrow_mut()[chunk] = false;
        };
        let may: May = |was, now, me| was == Block::Free && now == Block::Held(me);
        self.act(me, k, may, |b| b.give_back(me, punch)).unwrap_or(true)
    }

    /// All is settled and freed; then all can be had again, and all pages go.
    fn drain(mut self) {
        while !self.dead.is_empty() {
            self.settle(0, 0);
        }
        for i in 0..BLOCKS {
            match self.account[i] {
                Block::Free => {}
                Block::Held(name) => assert!(self.words.blocks().free(i, Block::Held(name))),
                Block::Attached { index, generation } => {
                    let word = Task::new(Phase::Reserved, 0, 0, generation);
                    self.words.blocks().detach(Payload::new(Some(i as u32), 1), index, word).expect("a block");
                }
            }
            self.account[i] = Block::Free;
        }
        self.check();
        for _ in 0..BLOCKS {
            self.alloc(0, 0, 0);
        }
        let name = self.names[0];
        assert_eq!(self.held(name).len(), BLOCKS, "a block is lost");
        (0..BLOCKS).for_each(|_| self.free(0, 0, 0));
        // A first look finds them used since the last, a second takes them.
        self.give_back(0);
        assert!(!self.give_back(0), "a chunk that nobody uses stays");
        assert!(self.words.pages.borrow().iter().all(|has_pages| !has_pages));
    }
}
