//! Blocks: taken, attached to a task, filled, read by another participant, freed; and the pages behind them, that come and
//! go by chunks. Checkpoints lie in blocks.

use super::{Actor, COORDINATOR, Part, QUEUE, Storage, explore, join, output, play, settle};
use crate::lockfree::{
    descriptor::Payload,
    table::Owned,
    word::{Block, Outcome},
};
use crate::sync::Relaxed;
use std::sync::Arc;

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

/// The same, of the block that it had last, if that is to be had.
const BORROW_AGAIN: Part = |a| {
    if a.table().blocks.retake(0, 1, a.name) {
        a.storage.block_bytes[0].set(7);
        a.assert_has_pages();
        assert!(a.table().blocks.free(0, Block::Held(a.name)));
    }
};

/// What lies in the `n`-th checkpoint of a task.
fn checkpoint(input: u64, n: u64) -> u64 {
    input << 8 | n
}

fn leave_checkpoint(a: &mut Actor, task: Owned, input: u64, n: u64) {
    let block = a.alloc().expect("two are never attached at once, and one is borrowed");
    a.storage.block_bytes[block].set(checkpoint(input, n));
    a.table().keep_checkpoint(a.name, task, Payload::new(Some(block as u32), 1)).unwrap();
    a.kept = n;
}

/// Runs a task and leaves three checkpoints, so that each field is used again or freed.
const WORK_BY_CHECKPOINTS: Part = |a| {
    if let Some((task, input)) = a.claim(QUEUE) {
        (1..=3).for_each(|n| leave_checkpoint(a, task, input, n));
        a.complete(task, Outcome::Completed);
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
fn who_takes_its_block_again_dies() {
    for other in [BORROW, GIVE_BACK] {
        for parts in [[BORROW_AGAIN, other], [other, BORROW_AGAIN]] {
            explore("who_takes_its_block_again_dies", 2, move |take| play(take, Storage::with_blocks(3, 1, 1), &parts));
        }
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

#[test]
fn worker_that_leaves_checkpoints_dies() {
    const SUBMIT_AND_BORROW: Part = |a| {
        a.submit(1);
        BORROW(a);
    };
    explore("worker_that_leaves_checkpoints_dies", 1, |take| {
        let storage = Arc::new(Storage::with_blocks(3, 1, 3));
        let (mut coordinator, worker, client) =
            (Actor::new(&storage, COORDINATOR), Actor::new(&storage, 1), Actor::new(&storage, 2));
        let cast = vec![(worker, WORK_BY_CHECKPOINTS), (client, SUBMIT_AND_BORROW)];
        let (victim, others) = take.play(&coordinator, cast);
        let died = victim.died;
        let others: Vec<_> = others.into_iter().map(join).collect();
        if let Some((task, input)) = coordinator.claim(QUEUE) {
            let d = &storage.descriptors[task.index as usize];
            let found = d.last_checkpoint().map(|p| storage.block_bytes[p.block().expect("a block") as usize].get());
            let kept = |n: u64| (n > 0).then(|| checkpoint(input, n));
            assert!([kept(victim.kept), kept(victim.kept + 1)].contains(&found), "{found:?} after {}", victim.kept);
            (4..=5).for_each(|n| leave_checkpoint(&mut coordinator, task, input, n));
            coordinator.complete(task, Outcome::Completed);
        }
        settle([coordinator, victim].into_iter().chain(others).collect());
        died
    });
}
