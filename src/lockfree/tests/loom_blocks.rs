//! Blocks: taken, attached to a task, filled, read by another participant, freed; and the pages behind them, that come and
//! go by chunks.

use super::{Actor, Part, QUEUE, Storage, explore, play};
use crate::lockfree::{
    descriptor::Payload,
    table::Owned,
    word::{Block, Outcome},
};
use crate::sync::{AtomicU64, Relaxed};
use std::convert::Infallible;

/// Takes a block, with its chunk's pages.
fn alloc(a: &Actor) -> Option<usize> {
    let commit = |chunk: usize| -> Result<(), Infallible> {
        a.storage.pages[chunk].store(1, Relaxed);
        Ok(())
    };
    let block = a.table().blocks.alloc(1, a.name, commit).ok()? as usize;
    assert_has_pages(a);
    Some(block)
}

/// The kernel knows no stale values, hence the exchange; it orders nothing.
fn assert_has_pages(a: &Actor) {
    assert_eq!(a.storage.pages[0].fetch_or(0, Relaxed), 1, "the chunk of a block in use has no pages");
}

/// Takes a block, attaches it to what `field` of the task refers to, and fills it. False: no block is free.
fn place(a: &Actor, task: Owned, field: &AtomicU64, value: u64) -> bool {
    let table = a.table();
    let Some(block) = alloc(a) else { return false };
    field.store(Payload::new(Some(block as u32), 1).0, Relaxed);
    table.blocks.attach(block as u32, a.name, task.index, task.word).unwrap();
    a.storage.block_bytes[block].set(value);
    true
}

/// What lies in the block to which `field` refers, if it refers to one.
fn read(a: &Actor, field: &AtomicU64) -> Option<u64> {
    Payload(field.load(Relaxed)).block().map(|block| a.storage.block_bytes[block as usize].get())
}

/// Submits a task whose input lies in a block; gives the descriptor back if there is none.
const SUBMIT: Part = |a| {
    let table = a.storage.table();
    let task = table.reserve(a.name).unwrap();
    let d = &table.descriptors[task.index as usize];
    let input = u64::from(a.name.id());
    if place(a, task, &d.input, input) {
        d.input_bytes.set(input);
        table.publish(&a.cursors, a.name, task, QUEUE, None).unwrap();
        a.accepted.push(input);
    } else {
        table.release(task).unwrap();
    }
};

/// Submits, then takes a result, which lies in a block.
const SUBMIT_AND_TAKE: Part = |a| {
    SUBMIT(a);
    let table = a.storage.table();
    if let Some((task, outcome)) = table.take(&a.cursors, a.name).unwrap() {
        let d = &table.descriptors[task.index as usize];
        assert_eq!(read(a, &d.output), read(a, &d.input).map(|v| v + 100));
        a.results.push((d.input_bytes.get(), outcome));
        table.release(task).unwrap();
    }
};

/// Runs a task and answers from a block into a block.
const WORK: Part = |a| {
    let table = a.storage.table();
    if let Some(task) = table.claim(&a.cursors, a.name, QUEUE).unwrap() {
        let d = &table.descriptors[task.index as usize];
        let input = read(a, &d.input).unwrap();
        a.ran.push((input, a.storage.moment()));
        d.output_bytes.set(super::output(input, task.word));
        assert!(place(a, task, &d.output, input + 100), "there are two blocks");
        table.complete(&a.cursors, a.name, task, Outcome::Completed).unwrap();
    }
};

/// Takes a block and gives it back.
const BORROW: Part = |a| {
    let blocks = a.storage.table().blocks;
    if let Some(block) = alloc(a) {
        a.storage.block_bytes[block].set(7);
        assert_has_pages(a);
        assert!(blocks.free(block, Block::Held(a.name)));
    }
};

/// What the coordinator does now and then: gives back what is free.
const GIVE_BACK: Part = |a| {
    a.table().blocks.give_back(a.name, |chunk| a.storage.pages[chunk].store(0, Relaxed));
};

/// One chunk that has no pages yet.
fn without_pages(blocks: usize) -> Storage {
    let storage = Storage::with_blocks(3, 1, blocks);
    storage.chunks[0].store(0, Relaxed);
    storage.pages[0].store(0, Relaxed);
    storage
}

#[test]
fn submitter_of_a_block_dies() {
    explore("submitter_of_a_block_dies", 2, |take| play(take, Storage::with_blocks(3, 1, 2), &[SUBMIT_AND_TAKE, WORK]));
}

#[test]
fn worker_with_blocks_dies() {
    explore("worker_with_blocks_dies", 2, |take| play(take, Storage::with_blocks(3, 1, 2), &[WORK, SUBMIT_AND_TAKE]));
}

#[test]
fn one_of_two_who_want_the_last_block_dies() {
    for parts in [[BORROW, BORROW], [BORROW, SUBMIT], [SUBMIT, BORROW]] {
        explore("one_of_two_who_want_the_last_block_dies", 2, move |take| {
            play(take, Storage::with_blocks(3, 1, 1), &parts)
        });
    }
}

#[test]
fn who_gives_a_chunk_back_dies() {
    for blocks in [1, 2] {
        explore("who_gives_a_chunk_back_dies", 2, move |take| {
            play(take, Storage::with_blocks(3, 1, blocks), &[GIVE_BACK, BORROW])
        });
    }
}

#[test]
fn first_of_two_in_a_chunk_dies() {
    explore("first_of_two_in_a_chunk_dies", 2, |take| play(take, without_pages(2), &[BORROW, BORROW]));
}

#[test]
fn borrower_dies_beside_who_gives_its_chunk_back() {
    const TWICE: Part = |a| {
        GIVE_BACK(a);
        GIVE_BACK(a);
    };
    explore("borrower_dies_beside_who_gives_its_chunk_back", 2, |take| play(take, without_pages(1), &[BORROW, TWICE]));
}
