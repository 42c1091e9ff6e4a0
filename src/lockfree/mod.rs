//! The lock-free core: tasks, lanes, blocks and participants, as words that processes share.
//!
//! It acts on slices and knows neither mappings nor processes, so the code that runs in a segment is the code that the
//! models run on the heap.
//!
//! # The idea
//!
//! *Truth and hints.* The truth about a task is one word ([`word::Task`]), which names phase, owner, attempt and generation,
//! and which changes by exchange only. Everything else (lanes, free maps, idle masks) is a hint: it may be missing, stale or
//! doubled, is checked against the truth when used, and can be rebuilt from the truth alone ([`recovery`]).
//!
//! # The crash rule
//!
//! A process may be killed between any two instructions. Each step is therefore one exchange on one word; what a death
//! leaves between two steps is a state that the next comer, or recovery, can finish. Each module says what that is.
//!
//! # Progress
//!
//! Every operation is lock-free: a failed exchange means that somebody else's succeeded. No step waits for a process;
//! sleeping is for those who have nothing to do (`PARK.md`).

#![cfg_attr(
    all(test, any(loom, shuttle)),
    allow(dead_code, unreachable_pub, reason = "the layers above are not compiled beside the models")
)]

pub(crate) mod audit;
pub(crate) mod blocks;
pub(crate) mod checkpoint;
pub(crate) mod descriptor;
pub(crate) mod freemap;
pub(crate) mod lane;
pub(crate) mod participant;
pub(crate) mod recovery;
pub(crate) mod table;
pub(crate) mod task_clock;
pub(crate) mod timer;
#[cfg(not(all(test, any(loom, shuttle))))]
pub(crate) mod trail;
pub(crate) mod word;

#[cfg(all(test, any(loom, shuttle)))]
mod tests;
