//! The descriptor: one task's life inside the segment.
//!
//! # States
//!
//! ```text
//!          reserve            publish          claim              complete              take
//!    FREE ────────▶ RESERVED ────────▶ READY ────────▶ CLAIMED ────────────▶ DONE(outcome) ────▶ RESERVED
//!     ▲                 │              ▲ ▲ │               │  last attempt died    ▲   ▲          │
//!     │                 │    its time  │ │ │ cancelled,    │  or ran too long      │   │          │
//!     │                 │     has come │ │ │ expired,      ├───────────────────────┘   │          │
//!     │                 │              │ │ │ addressee died│                           │          │
//!     │                 │              │ │ └───────────────┼───────────────────────────┤          │
//!     │                 │              │ └─ handed back, ──┤ cancelled, expired        │          │
//!     │                 │              │    owner died     ▼                           │          │
//!     │                 │              └─────────────── DELAYED ──────────────────────-┘          │
//!     │                 │ abandoned         retry, or owner died and there is a back-off          │
//!     └─────────────────┴────────────────────────── release ──────────────────────────────────────┘
//! ```
//!
//! # Words
//!
//! *Owner*: the worker in CLAIMED, or the coordinator in its place once it has adopted the word. Fields are atomic,
//! since others than the owner look at them: by an old hint, for the times, or in an audit.
//!
//! | word                                     | written by            | while    | read by                            |
//! |------------------------------------------|-----------------------|----------|------------------------------------|
//! | `state`                                  | who wins the exchange | always   | everyone                           |
//! | `lane`, `addressee`, `submitter`, `tag`, | the submitter         | RESERVED | worker and coordinator, any time   |
//! | `kind`, `max_attempts`, `expires`,       |                       |          |                                    |
//! | `limits`, `backoff`                      |                       |          |                                    |
//! | `input`                                  | the submitter         | RESERVED | the worker, CLAIMED                |
//! | `output`                                 | the submitter, 0      | RESERVED | the submitter, RESERVED            |
//! |                                          | the worker; the owner | CLAIMED  |                                    |
//! |                                          | to discard an attempt |          |                                    |
//! | `status`                                 | the submitter, 0      | RESERVED | the submitter, RESERVED            |
//! |                                          | the worker            | CLAIMED  |                                    |
//! | `claimant`, `started`, `heartbeat`       | the submitter, 0      | RESERVED | the coordinator, any time; of      |
//! |                                          | the worker; for the   | CLAIMED  | `claimant` the submitter, RESERVED |
//! |                                          | next attempt, 0, the  |          |                                    |
//! |                                          | owner; `claimant`, if |          |                                    |
//! |                                          | 0, the coordinator    |          |                                    |
//! | `not_before`                             | the owner             | CLAIMED  | the coordinator, DELAYED           |
//! | `exit`                                   | the submitter, 0      | RESERVED | the submitter, RESERVED            |
//! |                                          | the coordinator       | CLAIMED  |                                    |
//! | `cancel`                                 | the submitter, 0: a   | RESERVED | submitter, worker and coordinator  |
//! |                                          | plain store: nobody   |          |                                    |
//! |                                          | can ask for it yet    |          |                                    |
//! |                                          | who cancels: an       | any      |                                    |
//! |                                          | exchange              |          |                                    |
//! | `input_bytes`                            | the submitter         | RESERVED | the worker, CLAIMED                |
//! | `output_bytes`                           | the worker            | CLAIMED  | the submitter, RESERVED            |
//!
//! `reserve` resets `input` and `output`; `publish` sets `lane`, `addressee` and `submitter`, and resets `claimant`,
//! `exit`, `cancel`, `started` and `heartbeat`; `next_attempt` sets `not_before`, and resets `claimant`, `started` and
//! `heartbeat`.
//!
//! # Invariants
//!
//! 1. `state` changes only by exchange, so its changes have one order. The legal ones stand in [`super::word::is_legal`].
//! 2. Payload bytes, and the blocks that `input` and `output` refer to, belong to the participant that `state` names: the
//!    submitter in RESERVED, the worker in CLAIMED (the coordinator in its place once it has adopted the word), nobody
//!    in FREE, READY and DONE. Taking a descriptor and being named in it are one exchange.
//! 3. A reference of an older generation can read nothing and change nothing.
//! 4. A block is attached only while the field that refers to it is set. In FREE the fields mean nothing: who reserves the
//!    descriptor resets them, so that one who was wrongly declared dead has nothing to write when it gives up its own.
//! 5. `cancel` asks for something only where it names the generation of `state`: a request that comes late, after the
//!    reset by the next life's `publish`, is none.
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
//! What a death leaves is one of the states, with the dead one's name in it. RESERVED: nobody else saw it, it is
//! released. CLAIMED: the attempt is spent. DONE: released if its submitter is the dead one. See [`super::recovery`].
//! Of the fields it leaves some written and some not: they mean nothing until the exchange that the dead one did not
//! come to, and whoever owns the word next writes them anew, or discards them (`output`).
//!
//! # Progress
//!
//! Each transition is one exchange: it succeeds, or another's has. What checks this page: `loom_tasks.rs`,
//! `loom_retry.rs`, `loom_cancel.rs` and `mutants.rs` in `lockfree/tests/`, `fuzz/fuzz_targets/descriptor_ops.rs`, and
//! `shmworker torture` (`--single-step` kills after each instruction of each transition).

use crate::sync::{AtomicU32, AtomicU64, Inline};

/// Payload bytes that fit into a descriptor, each for input and output.
pub(crate) const INLINE: usize = 256;

/// One task's record. The first two cache lines are what every task needs, the third is for those who look on.
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
    /// Pool time after which no attempt begins ([`super::timer`]); 0: none.
    pub(crate) expires: AtomicU64,
    /// [`Limits`] of each attempt; 0: none.
    pub(crate) limits: AtomicU64,
    /// [`Backoff`] before each attempt but the first; 0: none.
    pub(crate) backoff: AtomicU64,
    /// The generation whose cancellation is asked for, plus 1; 0: none.
    pub(crate) cancel: AtomicU64,
    /// Pool time before which a DELAYED task is not READY.
    pub(crate) not_before: AtomicU64,
    /// Pool time at which the attempt began, where `limits` asks for it; 0: not yet.
    pub(crate) started: AtomicU64,

    /// Pool time of the last sign of life of this attempt.
    pub(crate) heartbeat: AtomicU64,
    /// Reserved: progress (done, total), checkpoint ([`Payload`]), time stamps of submission, claim and completion.
    #[cfg(not(all(test, any(loom, shuttle))))]
    _observed: [AtomicU64; 7],
    #[cfg(not(all(test, any(loom, shuttle))))]
    _spare: [AtomicU64; 8],
    pub(crate) input_bytes: Inline<INLINE>,
    pub(crate) output_bytes: Inline<INLINE>,
}

#[cfg(not(all(test, any(loom, shuttle))))]
const _: () = assert!(size_of::<Descriptor>() == 256 + 2 * INLINE);

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

/// How long an attempt may take and how long it may be silent, packed: milliseconds each, 0 for no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Limits {
    /// From its beginning to its end.
    pub(crate) run_ms: u32,
    /// From one heartbeat to the next; its beginning counts as one.
    pub(crate) silence_ms: u32,
}

/// How often at most a task that waits is looked at for its limits.
const LOOK: u64 = 10 * MS;

impl Limits {
    pub(crate) const fn bits(self) -> u64 {
        (self.run_ms as u64) << 32 | self.silence_ms as u64
    }

    pub(crate) const fn of(bits: u64) -> Limits {
        Limits { run_ms: (bits >> 32) as u32, silence_ms: bits as u32 }
    }

    /// Pool time at which to look for the first time after a task that became READY at `now`: whoever claims it may be stopped
    /// before it can say when it began. Not sooner than [`LOOK`], or a task with short limits would have the coordinator look all
    /// the while that it waits.
    pub(crate) fn first_look(self, now: u64) -> u64 {
        self.deadline(now, now).max(now.saturating_add(LOOK))
    }

    /// Pool time at which an attempt that began at `started` and last spoke at `heartbeat` has gone too far.
    pub(crate) fn deadline(self, started: u64, heartbeat: u64) -> u64 {
        let after = |t: u64, ms: u32| if ms == 0 { u64::MAX } else { t.saturating_add(u64::from(ms) * MS) };
        after(started, self.run_ms).min(after(started.max(heartbeat), self.silence_ms))
    }
}

/// Pause before the second attempt and the longest pause, packed: milliseconds each. Each pause is twice the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Backoff {
    pub(crate) first_ms: u32,
    pub(crate) longest_ms: u32,
}

impl Backoff {
    pub(crate) const fn bits(self) -> u64 {
        (self.longest_ms as u64) << 32 | self.first_ms as u64
    }

    pub(crate) const fn of(bits: u64) -> Backoff {
        Backoff { first_ms: bits as u32, longest_ms: (bits >> 32) as u32 }
    }

    /// Nanoseconds to wait after this attempt (from 0) has failed.
    pub(crate) fn after(self, attempt: u8) -> u64 {
        let doubled = u64::from(self.first_ms).saturating_mul(1 << attempt.min(32));
        doubled.min(u64::from(self.longest_ms.max(self.first_ms))) * MS
    }
}

/// Nanoseconds.
pub(crate) const MS: u64 = 1_000_000;

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn limits_and_pauses_come_back_from_their_words() {
        let limits = Limits { run_ms: 5, silence_ms: u32::MAX };
        assert_eq!(Limits::of(limits.bits()), limits);
        assert_eq!(limits.deadline(100, 200), 100 + 5 * MS);
        assert_eq!(Limits { run_ms: 0, silence_ms: 3 }.deadline(100, 200), 200 + 3 * MS);
        assert_eq!(Limits::default().deadline(100, 200), u64::MAX);
        let backoff = Backoff { first_ms: 10, longest_ms: 35 };
        assert_eq!(Backoff::of(backoff.bits()), backoff);
        assert_eq!([0, 1, 2, 255].map(|a| backoff.after(a) / MS), [10, 20, 35, 35]);
        assert_eq!(Backoff::default().after(9), 0);
    }
}

#[cfg(all(test, any(loom, shuttle)))]
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
            expires: AtomicU64::new(0),
            limits: AtomicU64::new(0),
            backoff: AtomicU64::new(0),
            cancel: AtomicU64::new(0),
            not_before: AtomicU64::new(0),
            started: AtomicU64::new(0),
            heartbeat: AtomicU64::new(0),
            input_bytes: Inline::new(),
            output_bytes: Inline::new(),
        }
    }
}
