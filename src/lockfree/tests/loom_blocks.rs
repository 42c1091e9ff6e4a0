//! Blocks: taken, attached to a task, filled, read by another participant, freed; and the pages behind them, that come and
//! go by chunks.

use super::{Part, QUEUE, Storage, explore, output, play};
use crate::lockfree::word::{Block, Outcome};
use crate::sync::Relaxed;

/// Submits a task whose input lies in a block; gives the descriptor back if there is none.
const SUBMIT: Part = |a| {
    let table = a.storage.table();
    let task = table.reserve(a.name).unwrap();
    let input = u64::from(a.name.id());
    if let Some(block) = a.alloc() {
        a.attach(block, task, &table.descriptors[task.index as usize].input, input);
        a.publish_reserved(task, input, QUEUE, None);
    } else {
        table.release(task).unwrap();
    }
};

/// Submits, then takes a result, which lies in a block.
const SUBMIT_AND_TAKE: Part = |a| {
    SUBMIT(a);
    a.take();
};

/// Runs a task and answers from a block into a block.
const WORK: Part = |a| {
    if let Some((task, input)) = a.claim(QUEUE) {
        let block = a.alloc().expect("there are two blocks");
        a.attach(block, task, &a.storage.descriptors[task.index as usize].output, output(input, task.word));
        a.complete(task, Outcome::Completed);
    }
};

/// Takes a block and gives it back.
const BORROW: Part = |a| {
    if let Some(block) = a.alloc() {
        a.storage.block_bytes[block].set(7);
        a.assert_has_pages();
        assert!(a.table().blocks.free(block, Block::Held(a.name)));
    }
};

const GIVE_BACK: Part = |a| a.give_back_chunks();

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
    for (parts, bound) in [([BORROW, BORROW], 2), ([BORROW, SUBMIT], 1), ([SUBMIT, BORROW], 2)] {
        explore("one_of_two_who_want_the_last_block_dies", bound, move |take| {
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
