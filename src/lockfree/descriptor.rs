//! The descriptor: one task's life inside the segment.
//!
//! # States
//!
//! ```text
//!          reserve            publish          claim             complete              take
//!    FREE ────────▶ RESERVED ────────▶ READY ────────▶ CLAIMED ───────────▶ DONE(outcome) ────▶ RESERVED
//!     ▲                 │                │ ▲               │ owner dead: adopted, then   ▲          │
//!     │                 │ abandoned      │ └───────────────┤ attempts left               │          │
//!     │                 │                │ cancelled,      └─ none left ─────────────────┤          │
//!     │                 │                └ addressee died ───────────────────────────────┘          │
//!     └─────────────────┴────────────────────────── release ───────────────────────────────────────-┘
//! ```
//!
//! DELAYED (READY at a later time) has its place in the word; nothing enters it yet.
//!
//! # Words
//!
//! | word                                    | written by            | while            | read by                     |
//! |-----------------------------------------|-----------------------|------------------|-----------------------------|
//! | `state`                                 | who wins the exchange | always           | everyone                    |
//! | `lane`, `addressee`, `submitter`, `kind`,| the submitter        | RESERVED         | worker and coordinator, any |
//! | `tag`, `max_attempts`, `input`          |                       |                  | time: hence atomic          |
//! | `output`, `status`                      | the worker            | CLAIMED          | the submitter, RESERVED     |
//! | `claimant`                              | the worker            | CLAIMED          | the submitter, any time     |
//! | `claimant`, `exit`                      | the coordinator       | CLAIMED, adopted | the submitter, RESERVED     |
//! | `input_bytes`                           | the submitter         | RESERVED         | the worker, CLAIMED         |
//! | `output_bytes`                          | the worker            | CLAIMED          | the submitter, RESERVED     |
//!
//! # Invariants
//!
//! 1. `state` changes only by exchange, so its changes have one order. The legal ones stand in [`super::word::is_legal`].
//! 2. Payload bytes, and the blocks that `input` and `output` refer to, belong to the participant that `state` names: the
//!    submitter in RESERVED, the worker in CLAIMED (the coordinator in its place once it has adopted the word), nobody
//!    in FREE, READY and DONE. Taking a descriptor and being named in it are one exchange.
//! 3. A reference of an older generation can read nothing and change nothing.
//! 4. `input` and `output` are 0 in FREE. A block is attached only while the field that refers to it is set.
//!
//! # Ordering
//!
//! - \[publish] Release in `publish` pairs with Acquire in `claim`: the payload is seen whole.
//! - \[claim] Release in `claim` pairs with Acquire in `cancel`: who sees the claim sees which incarnation of the claimant
//!   was admitted.
//! - \[complete] Release in `complete` pairs with Acquire in `take`: the output is seen whole.
//! - \[release] Release in `release` pairs with Acquire in `reserve`: no byte is overwritten while it is still read.
//! - \[requeue] AcqRel in recovery: the dead owner's last writes come before the next owner's.
//! - Fields beside the payload are atomic and Relaxed: they travel with the exchanges above.
//!
//! # Crash
//!
//! What a death leaves is one of the states, with the dead one's name in it. RESERVED: nobody else saw it, it is released.
//! CLAIMED: the attempt is spent. DONE: released if its submitter is the dead one. See [`super::recovery`].
//!
//! # Progress
//!
//! Each transition is one exchange. What checks this page: `lockfree/tests/`.

use crate::sync::{AtomicU32, AtomicU64, Inline};

/// Payload bytes that fit into a descriptor, each for input and output.
pub(crate) const INLINE: usize = 256;

/// One task's record.
#[repr(C, align(64))]
pub(crate) struct Descriptor {
    /// The truth: [`super::word::Task`].
    pub(crate) state: AtomicU64,
    /// Which lane carries its hint while it is READY.
    pub(crate) lane: AtomicU32,
    /// What the payload means to submitter and worker.
    pub(crate) kind: AtomicU32,
    /// Id and incarnation of the submitter ([`super::participant::Name`]).
    pub(crate) submitter: AtomicU64,
    /// The one participant that may claim it, or 0: anybody who takes from its lane.
    pub(crate) addressee: AtomicU64,
    /// The submitter's own note, as `user_data` of io_uring.
    pub(crate) tag: AtomicU64,
    /// [`Payload`] of the input.
    pub(crate) input: AtomicU64,
    /// [`Payload`] of the output.
    pub(crate) output: AtomicU64,
    /// Attempts after which a worker's death ends the task.
    pub(crate) max_attempts: AtomicU32,
    /// The worker's own word on how it went.
    pub(crate) status: AtomicU32,
    /// Id and incarnation of the worker that claimed it last.
    pub(crate) claimant: AtomicU64,
    /// How that worker ended, if it died: `process::exit::Exit`, packed.
    pub(crate) exit: AtomicU64,
    /// Room for progress, checkpoint, deadlines and time stamps.
    #[cfg(not(all(test, loom)))]
    _spare: [AtomicU64; 5],
    pub(crate) input_bytes: Inline<INLINE>,
    pub(crate) output_bytes: Inline<INLINE>,
}

#[cfg(not(all(test, loom)))]
const _: () = assert!(size_of::<Descriptor>() == 128 + 2 * INLINE);

/// Where a payload lies and how long it is, packed: block number + 1 (0: inside the descriptor) in the high half, length
/// in bytes in the low half.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Payload(pub(crate) u64);

impl Payload {
    pub(crate) const fn new(block: Option<u32>, len: u32) -> Payload {
        let block = match block {
            Some(b) => b as u64 + 1,
            None => 0,
        };
        Payload(block << 32 | len as u64)
    }

    pub(crate) const fn block(self) -> Option<u32> {
        ((self.0 >> 32) as u32).checked_sub(1)
    }

    pub(crate) const fn len(self) -> usize {
        self.0 as u32 as usize
    }
}

#[cfg(all(test, loom))]
impl Descriptor {
    pub(crate) fn new(state: super::word::Task) -> Descriptor {
        Descriptor {
            state: AtomicU64::new(state.0),
            lane: AtomicU32::new(0),
            kind: AtomicU32::new(0),
            submitter: AtomicU64::new(0),
            addressee: AtomicU64::new(0),
            tag: AtomicU64::new(0),
            input: AtomicU64::new(0),
            output: AtomicU64::new(0),
            max_attempts: AtomicU32::new(0),
            status: AtomicU32::new(0),
            claimant: AtomicU64::new(0),
            exit: AtomicU64::new(0),
            input_bytes: Inline::new(),
            output_bytes: Inline::new(),
        }
    }
}
