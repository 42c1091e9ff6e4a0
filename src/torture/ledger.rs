//! The ledger: what each client submitted and what came back, in memory that outlives the client and is no part of the
//! segment under test.
//!
//! | word       | written by                    | read by                                                |
//! |------------|-------------------------------|--------------------------------------------------------|
//! | `entries`  | the client's present life     | itself; the coordinator, once that life is over        |
//! | `attempts` | the client, before submitting;| the client, on delivery                                |
//! |            | workers, that run the task    |                                                        |
//! | `outcomes` | the client                    | the coordinator                                        |
//! | `workers`  | the coordinator               | clients that address a task to one worker              |
//!
//! Relaxed throughout: an entry and its task have one writer at a time, and the handover is the segment's.

use super::{TortureError, shared};
use crate::{
    lockfree::word::Outcome,
    sync::{AtomicU64, Relaxed},
};

pub(crate) const WORKERS: usize = 4;
pub(crate) const CLIENTS: usize = 2;
/// Tasks of one client that can be under way at a time; a power of two.
const WINDOW: usize = 1024;

/// Which task: the life of the client that submitted it, and its number within that life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tag(pub(crate) u64);

impl Tag {
    pub(crate) fn new(life: u32, number: u32) -> Tag {
        Tag(u64::from(life) << 32 | u64::from(number))
    }

    pub(crate) fn life(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn slot(self) -> usize {
        self.0 as usize % WINDOW
    }
}

/// How far a task has come, in the two low bits of its entry; the rest is its tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
enum State {
    /// The client was about to submit it.
    Intended = 1,
    /// It was accepted: it must come back.
    Accepted = 2,
    Delivered = 3,
}

impl State {
    fn of(self, tag: Tag) -> u64 {
        tag.0 << 2 | self as u64
    }
}

/// One client's account, over all its lives.
#[repr(C)]
pub(crate) struct Book {
    submitted: AtomicU64,
    accepted: AtomicU64,
    /// Deliveries by outcome, in the order of [`OUTCOMES`].
    outcomes: [AtomicU64; OUTCOMES.len()],
    entries: [AtomicU64; WINDOW],
    /// Times that a worker began the task: its tag's low 56 bits, then 8 bits of count.
    attempts: [AtomicU64; WINDOW],
}

pub(crate) const OUTCOMES: [Outcome; 6] = [
    Outcome::Completed,
    Outcome::Cancelled,
    Outcome::Expired,
    Outcome::WorkerDied,
    Outcome::AddresseeDied,
    Outcome::TimedOut,
];

/// All accounts.
#[repr(C)]
pub(crate) struct Ledger {
    pub(crate) books: [Book; CLIENTS],
    /// The present participant in each worker's seat, as [`crate::Name::bits`]; 0: nobody.
    pub(crate) workers: [AtomicU64; WORKERS],
}

impl Ledger {
    /// An empty ledger, shared with all children forked from now on.
    pub(crate) fn new() -> Result<&'static Ledger, TortureError> {
        // SAFETY: a ledger is made of atomic words, of which zero is a value.
        unsafe { shared() }
    }

    pub(crate) fn submitted(&self) -> u64 {
        self.books.iter().map(|b| b.submitted.load(Relaxed)).sum()
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.books.iter().map(|b| b.accepted.load(Relaxed)).sum()
    }

    pub(crate) fn delivered(&self) -> u64 {
        self.outcomes().iter().sum()
    }

    /// Deliveries by outcome, in the order of [`OUTCOMES`].
    pub(crate) fn outcomes(&self) -> [u64; OUTCOMES.len()] {
        std::array::from_fn(|i| self.books.iter().map(|b| b.outcomes[i].load(Relaxed)).sum())
    }
}

impl Book {
    /// About to submit. False: so long a time ago that the slot is taken, a task is still under way; take results first.
    pub(crate) fn intend(&self, tag: Tag) -> bool {
        let entry = &self.entries[tag.slot()];
        let before = entry.load(Relaxed);
        if before & 3 == State::Accepted as u64 && Tag(before >> 2).life() == tag.life() {
            return false;
        }
        entry.store(State::Intended.of(tag), Relaxed);
        self.attempts[tag.slot()].store(tag.0 << 8, Relaxed);
        self.submitted.fetch_add(1, Relaxed);
        true
    }

    pub(crate) fn accept(&self, tag: Tag) {
        self.entries[tag.slot()].store(State::Accepted.of(tag), Relaxed);
        self.accepted.fetch_add(1, Relaxed);
    }

    /// A worker begins the task.
    pub(crate) fn begin(&self, tag: Tag) {
        // Unless the client has died, and its successor has given the slot to another task.
        let _ = self.attempts[tag.slot()].fetch_update(Relaxed, Relaxed, |n| (n >> 8 == tag.0).then_some(n + 1));
    }

    /// Times that a worker has begun the task.
    pub(crate) fn attempts(&self, tag: Tag) -> u8 {
        self.attempts[tag.slot()].load(Relaxed) as u8
    }

    /// A result came back.
    ///
    /// # Errors
    /// What is wrong with that: it came a second time, or was never submitted by this life of the client.
    pub(crate) fn deliver(&self, tag: Tag, outcome: Outcome) -> Result<(), String> {
        let entry = &self.entries[tag.slot()];
        let found = entry.load(Relaxed);
        if found != State::Accepted.of(tag) {
            return Err(format!(
                "{tag:?} is delivered, where the ledger holds {:?} in state {}",
                Tag(found >> 2),
                found & 3
            ));
        }
        let index =
            OUTCOMES.iter().position(|o| *o == outcome).ok_or(format!("{tag:?} is delivered as {outcome:?}"))?;
        entry.store(State::Delivered.of(tag), Relaxed);
        self.outcomes[index].fetch_add(1, Relaxed);
        Ok(())
    }

    /// Tasks of this life that were accepted and never came back.
    pub(crate) fn missing(&self, life: u32) -> Vec<Tag> {
        let entries = self.entries.iter().map(|e| e.load(Relaxed));
        let waiting = entries.filter(|e| e & 3 == State::Accepted as u64).map(|e| Tag(e >> 2));
        waiting.filter(|tag| tag.life() == life).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_delivered_once_and_to_the_life_that_submitted_it() {
        let book = &Ledger::new().unwrap().books[0];
        let tag = Tag::new(3, 5);
        assert!(book.deliver(tag, Outcome::Completed).is_err(), "never submitted");
        assert!(book.intend(tag));
        book.accept(tag);
        assert!(!book.intend(Tag::new(3, 5 + WINDOW as u32)), "the slot is taken");
        book.begin(tag);
        book.begin(Tag::new(2, 5));
        assert_eq!(book.attempts(tag), 1);
        assert_eq!((book.missing(3), book.missing(4)), (vec![tag], vec![]));
        assert!(book.deliver(Tag::new(4, 5), Outcome::Completed).is_err(), "to its successor");
        assert_eq!(book.deliver(tag, Outcome::Completed), Ok(()));
        assert!(book.deliver(tag, Outcome::Completed).is_err(), "a second time");
        assert!(book.missing(3).is_empty());
    }
}
