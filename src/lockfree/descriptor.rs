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
//! A submitter that keeps a descriptor *renews* it: from the RESERVED of the life that is over it publishes the READY of the next
//! one, which is release, reserve and publish in one; or, for a task that takes a block, first the RESERVED of the next one. Recovery
//! adopts a RESERVED one in its generation, and releases it.
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
//! | `limits`, `backoff`, `rules`,            |                       |          |                                    |
//! | `submitted`, `trace`                     |                       |          |                                    |
//! | `limits` again                           | the worker            | CLAIMED  | the coordinator, any time          |
//! | `input`                                  | the submitter         | RESERVED | the worker, CLAIMED                |
//! | `output`                                 | the submitter, 0      | RESERVED | the submitter, RESERVED            |
//! |                                          | the worker; the owner | CLAIMED  |                                    |
//! |                                          | to discard an attempt |          |                                    |
//! | `not_before`                             | the owner             | CLAIMED  | the coordinator, DELAYED           |
//! |                                          | a durable submitter   | DONE,    | recovery, RESERVED: see below      |
//! |                                          |                       | RESERVED |                                    |
//! | `key`                                    | the submitter, if it  | RESERVED | the next client of its name        |
//! |                                          | gives one             |          |                                    |
//! | `number`                                 | the submitter, if it  | RESERVED | the same; who recovers             |
//! |                                          | has a journal         |          |                                    |
//! | `exit`                                   | the submitter, 0      | RESERVED | the submitter, RESERVED            |
//! |                                          | the coordinator       | CLAIMED  |                                    |
//! | `cancel`                                 | who cancels: an       | any      | submitter, worker and coordinator  |
//! |                                          | exchange              |          |                                    |
//! | `blame`                                  | the submitter, 0      | RESERVED | the worker, CLAIMED; the           |
//! |                                          | the coordinator; the  | CLAIMED  | submitter, RESERVED                |
//! |                                          | worker that acquits   |          |                                    |
//! | `run`; `heartbeat` and `done` beside it  | the worker; for the   | CLAIMED  | the coordinator, any time; the     |
//! |                                          | dead the coordinator; |          | submitter, RESERVED: only through  |
//! |                                          | to withdraw it, the   |          | [`Descriptor::run_of`]; `done` only|
//! |                                          | owner                 |          | where `run.total` is not 0         |
//! | `checkpoints`, `checkpoint`              | see [`super::checkpoint`]: they outlive attempts                      |
//! | `input_bytes`                            | the submitter         | RESERVED | the worker, CLAIMED                |
//! | `output_bytes`                           | the worker            | CLAIMED  | the submitter, RESERVED            |
//!
//! `reserve` and `renew` reset `input`, `output` and `checkpoints`; `publish` sets `lane`, `addressee` and `submitter`, and resets
//! `exit`; the submission sets or resets the rest before that; `next_attempt` sets `not_before`.
//!
//! # Cache lines, by writer
//!
//! The first line goes with the task, from the submitter to the worker and back. The second, `run`, is the worker's: the submitter
//! only reads it. Nobody resets it for the next life: it says of which attempt it speaks, and of another it says nothing. The
//! third is what most tasks have in common, and is written only where it changes ([`set`]): so it stays in the caches of both
//! sides. The fourth is for those that report progress, wait or leave checkpoints. So an ordinary task moves two lines and its
//! payload each way.
//!
//! # What a death leaves in what is told of a run
//!
//! | word        | left by a dead worker                    | which means                                          |
//! |-------------|------------------------------------------|------------------------------------------------------|
//! | `run.of`    | another attempt's, or 0                  | it had claimed the task and not signed: the          |
//! |             |                                          | coordinator signs for it                             |
//! |             | this attempt's                           | what stands beside it is whole, being written before |
//! | `place`     | 0: it had signed the task and not begun  | the task is no candidate for the blame               |
//! |             | slot and depth                           | a candidate, if none of its slot is deeper           |
//! | `ran_by`    | 0, or the dead one                       | a report for people                                  |
//! | `began`     | a stamp, or 0                            | the coordinator makes `ran` of it                    |
//! | `total`,    | of two reports at most, the later `done` | a report for people; the first `done` has no meaning |
//! | `done`      | beside the earlier `total`               | before its `total`                                   |
//! | `blame`     | (written by who survives)                | a dead coordinator has counted a death or has not:   |
//! |             |                                          | its successor counts none ([`super::recovery`])      |
//! | checkpoints | the former or the new one, whole         | [`super::checkpoint`]                                |
//!
//! # What a durable submitter was reading
//!
//! It holds a result in RESERVED, as it holds a draft, and the outcome stands in no word then. So one of its threads at a time
//! takes results, and *notes* the whole DONE word in `not_before` just before the exchange; and takes the note down before it
//! frees anything. After its death a RESERVED word beside the note of the same life and attempt becomes that DONE again; beside
//! any other note it is a draft, or was given up, and is released.
//!
//! | death after            | it leaves                     | recovery                                              |
//! |------------------------|-------------------------------|-------------------------------------------------------|
//! | the note               | DONE                          | nothing is to do                                      |
//! | the exchange           | RESERVED, noted, all in place | DONE again                                            |
//! | the note is taken down | RESERVED, perhaps less blocks | releases it: the submitter was done with it           |
//!
//! No other note is of this life: `not_before` is a time while the task may be DELAYED, or the note of a life that is over, of
//! another generation. (A time that has the bits of a DONE word of this very task and attempt is 2⁶³ ns or more: 292 years.)
//!
//! # Invariants
//!
//! 1. `state` changes only by exchange, so its changes have one order. The legal ones stand in [`super::word::is_legal`].
//! 2. Payload bytes, and the blocks that `input` and `output` refer to, belong to the participant that `state` names: the
//!    submitter in RESERVED, the worker in CLAIMED (the coordinator in its place once it has adopted the word), nobody
//!    in FREE, READY and DONE. Taking a descriptor and being named in it are one exchange.
//! 3. A reference of an older generation can read nothing and change nothing.
//! 4. A block is attached only while the field that refers to it is set (`input`, `output`, `checkpoint`). In FREE the fields mean nothing: who reserves the
//!    descriptor resets them, so that one who was wrongly declared dead has nothing to write when it gives up its own.
//! 5. `cancel` asks for something only where it names the generation of `state`: one of a former life, or one that comes late,
//!    is none, so nobody resets it.
//! 6. `run` speaks of the attempt that `run.of` names and of no other: generation and attempt, which no two attempts of a
//!    descriptor share. It is signed anew by each claim, and withdrawn (0) where the same attempt goes to another.
//!
//! # Ordering
//!
//! - \[publish] Release in `publish` pairs with Acquire in `claim`: the payload is seen whole.
//! - \[claim] Release in `claim` pairs with Acquire in `cancel`: who sees the claim sees which incarnation of the claimant
//!   was admitted.
//! - \[complete] Release in `complete` pairs with Acquire in `take`: the output is seen whole.
//! - \[release] Release in `release` pairs with Acquire in `reserve`: no byte is overwritten while it is still read.
//! - \[requeue] AcqRel in recovery: the dead owner's last writes come before the next owner's.
//! - \[sign] Release where `sign` stores `run.of`, last of all; Acquire in `run_of`. So who finds its attempt there finds what
//!   was signed with it, or is told of later; or what a later claim writes already, which then has changed the word: its owner
//!   can't meet that, and the coordinator reads the word again. Only where the same worker claims the same attempt again is the
//!   word the same: so the heartbeat is Release and Acquire too, and read before `started`.
//! - Other fields beside the payload are atomic and Relaxed: they travel with the exchanges above.
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

#[cfg(not(all(test, any(loom, shuttle))))]
use super::participant::{read_text, write_text};
use super::{
    participant::Name,
    word::{Phase, Task},
};
use crate::sync::{Acquire, AtomicU32, AtomicU64, Inline, Relaxed, Release, mutant, told};
#[cfg(not(all(test, any(loom, shuttle))))]
use crate::sync::{prefetch, prefetch_to_write};

/// Bits of a `kind` that say what the task is called: a pool's clients set the others.
pub(crate) const OF_NAME: u32 = (1 << 30) - 1;

/// Payload bytes that fit into a descriptor, each for input and output.
pub(crate) const INLINE: usize = 256;

/// One task's record. Its cache lines: see the module.
#[repr(C, align(128))]
pub(crate) struct Descriptor {
    /// The truth: [`super::word::Task`].
    pub(crate) state: AtomicU64,
    /// Which lane carries its hint while it is READY.
    pub(crate) lane: AtomicU32,
    /// What the payload means to submitter and worker.
    pub(crate) kind: told::AtomicU32,
    /// Id and incarnation of the submitter ([`super::participant::Name`]).
    pub(crate) submitter: AtomicU64,
    /// The one participant that may claim it, or 0: anybody who takes from its lane.
    pub(crate) addressee: AtomicU64,
    /// The submitter's own note, as `user_data` of io_uring.
    pub(crate) tag: told::AtomicU64,
    /// [`Payload`] of the input.
    pub(crate) input: AtomicU64,
    /// [`Payload`] of the output.
    pub(crate) output: AtomicU64,
    /// [Stamp](super::task_clock) of its submission; 0: none is taken of this task.
    pub(crate) submitted: told::AtomicU64,

    pub(crate) run: Run,

    /// Pool time after which no attempt begins ([`super::timer`]); 0: none.
    pub(crate) expires: AtomicU64,
    /// [`Limits`] of each attempt; 0: none.
    pub(crate) limits: AtomicU64,
    /// [`Backoff`] before each attempt but the first; 0: none.
    pub(crate) backoff: AtomicU64,
    /// [`Rules`].
    pub(crate) rules: AtomicU64,
    /// How its last worker ended, if it died: `process::exit::Exit`, packed.
    pub(crate) exit: AtomicU64,
    /// [`Blame`].
    pub(crate) blame: AtomicU64,
    /// The generation whose cancellation is asked for, plus 1; 0: none.
    pub(crate) cancel: AtomicU64,
    /// How many attempts there may be.
    pub(crate) max_attempts: AtomicU32,
    /// Which of `checkpoint` is valid ([`super::checkpoint`]).
    pub(crate) checkpoints: AtomicU32,

    /// Pool time before which a DELAYED task is not READY.
    pub(crate) not_before: AtomicU64,
    /// Pool time of the last sign of life of the attempt that `run` speaks of; 0: it gave none.
    pub(crate) heartbeat: AtomicU64,
    /// How much of `run.total` is done.
    pub(crate) done: told::AtomicU64,
    /// [`Payload`]s in blocks, used in turn.
    pub(crate) checkpoint: [AtomicU64; 2],
    /// [`TraceParent`], where `rules` say that there is one.
    pub(crate) trace: [told::AtomicU64; 3],
    pub(crate) input_bytes: Inline<INLINE>,
    pub(crate) output_bytes: Inline<INLINE>,
    /// Text, where `rules` say that there is one: by what its submitter knows it, in another life too.
    #[cfg(not(all(test, any(loom, shuttle))))]
    key: [AtomicU64; LONGEST_KEY / 8],
    /// By which its submitter's journal knows it; 0: it is in none.
    #[cfg(not(all(test, any(loom, shuttle))))]
    pub(crate) number: AtomicU64,
}

/// Longest key of a task that is kept, in bytes.
pub(crate) const LONGEST_KEY: usize = 120;

/// What is told of one attempt, by whoever claimed the task.
#[repr(C, align(64))]
pub(crate) struct Run {
    /// [`Task::attempt_id`] of that attempt; 0: nobody's.
    of: AtomicU64,
    /// Id and incarnation of the worker.
    claimant: AtomicU64,
    /// Pool time at which the attempt began, where its time is limited; 0: not yet.
    pub(crate) started: AtomicU64,
    /// [`Place`] of the attempt in its worker.
    pub(crate) place: AtomicU32,
    /// The worker's own word on how it went.
    pub(crate) status: told::AtomicU32,
    /// Process id, and number of the label, of who began it, high half and low half; 0: nobody yet.
    pub(crate) ran_by: told::AtomicU64,
    /// Stamp of its beginning; 0: not yet, or none is taken.
    pub(crate) began: told::AtomicU64,
    /// Ticks of the [task clock](super::task_clock) that it took; 0: it has not ended.
    pub(crate) ran: told::AtomicU64,
    /// How much there is to do, plus 1; 0: nothing was said.
    pub(crate) total: told::AtomicU64,
}

impl Run {
    pub(crate) fn claimant(&self) -> Name {
        Name::of(self.claimant.load(Relaxed))
    }

    /// What it says is of no attempt any more. For the owner.
    pub(crate) fn withdraw(&self) {
        self.of.store(0, Relaxed);
    }
}

#[cfg(not(all(test, any(loom, shuttle))))]
impl Descriptor {
    /// Has what a worker will need of it brought to its CPU.
    #[inline]
    pub(crate) fn prefetch_for_worker(&self) {
        prefetch_to_write(&raw const self.state);
        prefetch_to_write(&raw const self.run);
        prefetch(self.input_bytes.as_ptr());
        prefetch_to_write(self.output_bytes.as_ptr());
    }

    /// Has what a submitter will need of it for its result, and then for another task, brought to its CPU.
    #[inline]
    pub(crate) fn prefetch_for_submitter(&self) {
        prefetch_to_write(&raw const self.state);
        prefetch(&raw const self.run);
        prefetch(self.output_bytes.as_ptr());
        prefetch_to_write(self.input_bytes.as_ptr());
    }
}

#[cfg(all(test, any(loom, shuttle)))]
impl Descriptor {
    pub(crate) fn prefetch_for_worker(&self) {}
    pub(crate) fn prefetch_for_submitter(&self) {}
}

impl Descriptor {
    /// Says whose attempt this is, and that nothing is known of it yet. For its worker, and for the coordinator in its place.
    #[inline]
    pub(crate) fn sign(&self, claimed: Task, claimant: Name) {
        let run = &self.run;
        run.claimant.store(claimant.bits(), Relaxed);
        run.started.store(0, Relaxed);
        if self.heartbeat.load(Relaxed) != 0 {
            self.heartbeat.store(0, Release); // [sign]
        }
        run.place.store(0, Relaxed);
        run.status.store(0, Relaxed);
        for word in [&run.ran_by, &run.began, &run.ran, &run.total] {
            word.store(0, Relaxed);
        }
        // Release: who finds it signed finds what stands above.
        run.of.store(claimed.attempt_id(), Release);
    }

    /// What is told of the attempt that `word` names, if anything is.
    #[inline]
    pub(crate) fn run_of(&self, word: Task) -> Option<&Run> {
        (self.run.of.load(Acquire) == word.attempt_id() || mutant("any-run")).then_some(&self.run)
    }
}

/// Stores a value that is mostly there already: a line that nobody writes stays in everybody's cache. For the only writer.
#[inline]
pub(crate) fn set(word: &AtomicU64, value: u64) {
    if word.load(Relaxed) != value {
        word.store(value, Relaxed);
    }
}

#[cfg(not(all(test, any(loom, shuttle))))]
const _: () = assert!(size_of::<Descriptor>() == 256 + 2 * INLINE + LONGEST_KEY + 8);

#[cfg(not(all(test, any(loom, shuttle))))]
impl Descriptor {
    /// Keeps a key, of [`LONGEST_KEY`] bytes at most. For the submitter, in RESERVED.
    pub(crate) fn set_key(&self, key: &str) {
        write_text(&self.key, key);
    }

    /// The key that its submitter gave it in this life. For the submitter, and its successor.
    pub(crate) fn key(&self) -> Option<String> {
        Rules::of(self.rules.load(Relaxed)).has_key.then(|| read_text(&self.key))
    }
}

impl Descriptor {
    /// Its submitter, which is about to take it, may die with it.
    pub(crate) fn note(&self, done: Task) {
        self.not_before.store(done.0, Relaxed); // the exchange that follows releases it
    }

    /// Its submitter is done with it.
    pub(crate) fn take_note_down(&self) {
        self.not_before.store(0, Relaxed); // as above, by the exchange that frees the first block, or the descriptor
    }

    /// What this RESERVED word was before its submitter took it, if that has noted it.
    pub(crate) fn noted(&self, reserved: Task) -> Option<Task> {
        let done = Task(self.not_before.load(Relaxed));
        (matches!(done.phase(), Some(Phase::Done(_))) && done.to(Phase::Reserved, done.who()) == reserved)
            .then_some(done)
    }
}

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
/// How often it is looked, within a limit, what of the time an attempt could use.
pub(crate) const LOOKS: u64 = 16;

impl Limits {
    pub(crate) const fn bits(self) -> u64 {
        (self.run_ms as u64) << 32 | self.silence_ms as u64
    }

    pub(crate) const fn of(bits: u64) -> Limits {
        Limits { run_ms: (bits >> 32) as u32, silence_ms: bits as u32 }
    }

    /// Pool time at which to look for the first time after a task that became READY at `now`: whoever claims it may be stopped, before
    /// it can say when it began and after that. Not sooner than [`LOOK`], or a task with short limits would have the
    /// coordinator look all the while that it waits.
    pub(crate) fn first_look(self, now: u64) -> u64 {
        let first = self.spans(now, now).map(|span| now.saturating_add(span.ns / LOOKS)).min();
        first.unwrap_or(u64::MAX).max(now.saturating_add(LOOK))
    }

    /// What the limits say of an attempt that began at `started` and last spoke at `heartbeat`.
    pub(crate) fn spans(self, started: u64, heartbeat: u64) -> impl Iterator<Item = Span> {
        let spans = [(started, self.run_ms), (started.max(heartbeat), self.silence_ms)];
        spans.into_iter().filter(|&(_, ms)| ms != 0).map(|(from, ms)| Span { from, ns: u64::from(ms) * MS })
    }

    /// Pool time at which such an attempt has gone too far, if it could use all of its time.
    pub(crate) fn deadline(self, started: u64, heartbeat: u64) -> u64 {
        self.spans(started, heartbeat).map(Span::end).min().unwrap_or(u64::MAX)
    }
}

/// How long something may take from some pool time on, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Span {
    pub(crate) from: u64,
    pub(crate) ns: u64,
}

impl Span {
    pub(crate) fn end(self) -> u64 {
        self.from.saturating_add(self.ns)
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

impl Backoff {
    /// As [`after`](Self::after), less up to a quarter, so that what failed together does not come back together. How much
    /// less follows from `seed` alone, as random numbers would need a source.
    pub(crate) fn pause(self, attempt: u8, seed: u64) -> u64 {
        let full = self.after(attempt);
        full - ((u128::from(full / 4) * u128::from(mixed(seed))) >> 64) as u64
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): each bit of the seed moves half of the others.
const fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Outcomes after which a task is attempted again while attempts are left: bits of [`Rules::retry_on`].
pub(crate) mod retry_on {
    /// Its code gave an error.
    pub(crate) const FAILED: u8 = 1;
    /// Its code panicked.
    pub(crate) const PANICKED: u8 = 2;
    /// Its worker died, or ended.
    pub(crate) const DIED: u8 = 4;
    /// Its worker was killed since it ran for too long, or was silent for too long.
    pub(crate) const TIMED_OUT: u8 = 8;
}

/// How a task wants to be treated, packed: timeout 32 · spare 12 · key 1 · trace 2 · keeps output 1 · deaths 8 · retry_on 8.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rules {
    /// Milliseconds after which the handler is to end by itself; 0: it may take its time.
    pub(crate) timeout_ms: u32,
    /// A set of [`retry_on`]. The coordinator looks at those that it settles, the worker at the others.
    pub(crate) retry_on: u8,
    /// Deaths by its fault after which it is set aside whatever attempts are left; 0 or 255: no limit of its own.
    pub(crate) max_deaths: u8,
    /// What its last attempt had written when its worker died goes to the submitter, who knows how much of that is whole.
    pub(crate) keeps_output: bool,
    /// Its span is part of a trace: `None`; or whether that is recorded.
    pub(crate) is_sampled: Option<bool>,
    /// Its submitter has given it a key.
    pub(crate) has_key: bool,
}

impl Rules {
    pub(crate) const USUAL: Rules = Rules {
        timeout_ms: 0,
        retry_on: retry_on::DIED | retry_on::TIMED_OUT,
        max_deaths: 0,
        keeps_output: false,
        is_sampled: None,
        has_key: false,
    };

    pub(crate) const fn bits(self) -> u64 {
        let Rules { timeout_ms, retry_on, max_deaths, keeps_output, is_sampled, has_key } = self;
        let trace = match is_sampled {
            None => 0,
            Some(false) => 1,
            Some(true) => 3,
        };
        (timeout_ms as u64) << 32
            | (has_key as u64) << 19
            | trace << 17
            | (keeps_output as u64) << 16
            | (max_deaths as u64) << 8
            | retry_on as u64
    }

    pub(crate) const fn of(bits: u64) -> Rules {
        Rules {
            timeout_ms: (bits >> 32) as u32,
            retry_on: bits as u8,
            max_deaths: (bits >> 8) as u8,
            keeps_output: bits >> 16 & 1 == 1,
            is_sampled: if bits >> 17 & 1 == 1 { Some(bits >> 18 & 1 == 1) } else { None },
            has_key: bits >> 19 & 1 == 1,
        }
    }

    /// Has it killed as many workers as it may?
    pub(crate) const fn is_poison(self, deaths: u8) -> bool {
        !matches!(self.max_deaths, 0 | u8::MAX) && deaths >= self.max_deaths
    }
}

/// What deaths have shown of a task, packed: peak_kib 32 · spare 8 · spared 8 · spare 7 · suspect 1 · deaths 8.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Blame {
    /// Workers that died by its fault.
    pub(crate) deaths: u8,
    /// One of several that a worker ran as it died, and nobody knows which of them it was: its next attempt is to run alone.
    pub(crate) is_suspect: bool,
    /// Workers that were killed for the time of another task that ran beside it.
    pub(crate) spared: u8,
    /// The most memory that the last worker that died over it ever had, in KiB; 0: not known.
    pub(crate) peak_kib: u32,
}

impl Blame {
    pub(crate) const fn bits(self) -> u64 {
        let Blame { deaths, is_suspect, spared, peak_kib } = self;
        (peak_kib as u64) << 32 | (spared as u64) << 16 | (is_suspect as u64) << 8 | deaths as u64
    }

    pub(crate) const fn of(bits: u64) -> Blame {
        Blame {
            deaths: bits as u8,
            is_suspect: bits >> 8 & 1 == 1,
            spared: (bits >> 16) as u8,
            peak_kib: (bits >> 32) as u32,
        }
    }
}

/// Of which trace a task is a part, and which span is the parent of what its handler does: W3C's `traceparent`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TraceParent {
    pub(crate) trace: u128,
    pub(crate) span: u64,
    pub(crate) is_sampled: bool,
}

impl TraceParent {
    pub(crate) const fn words(self) -> [u64; 3] {
        [(self.trace >> 64) as u64, self.trace as u64, self.span]
    }

    pub(crate) const fn of([high, low, span]: [u64; 3], is_sampled: bool) -> TraceParent {
        TraceParent { trace: (high as u128) << 64 | low as u128, span, is_sampled }
    }
}

/// Where in its worker an attempt runs, packed: slot 16 · alone 1 · depth 15.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Place {
    /// From 1; 0: the attempt has not begun.
    pub(crate) slot: u16,
    /// Tasks of the same slot that wait for it, directly or not.
    pub(crate) depth: u16,
    /// Nothing else runs in that process.
    pub(crate) is_alone: bool,
}

impl Place {
    const MAX_DEPTH: u16 = (1 << 15) - 1;

    pub(crate) const fn bits(self) -> u32 {
        let depth = if self.depth < Place::MAX_DEPTH { self.depth } else { Place::MAX_DEPTH };
        (self.slot as u32) << 16 | (self.is_alone as u32) << 15 | depth as u32
    }

    pub(crate) const fn of(bits: u32) -> Place {
        Place { slot: (bits >> 16) as u16, depth: bits as u16 & Place::MAX_DEPTH, is_alone: bits >> 15 & 1 == 1 }
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
        assert_eq!(Backoff::default().pause(9, 1), 0);
    }

    #[test]
    fn a_pause_is_shortened_by_up_to_a_quarter_and_always_by_the_same() {
        let backoff = Backoff { first_ms: 1000, longest_ms: 60_000 };
        let pauses: Vec<u64> = (0..1000).map(|seed| backoff.pause(1, seed)).collect();
        assert!(pauses.iter().all(|p| (1500 * MS..=2000 * MS).contains(p)));
        assert!(pauses.iter().min() < Some(&(1520 * MS)) && pauses.iter().max() > Some(&(1980 * MS)));
        assert_eq!(backoff.pause(1, 7), pauses[7]);
    }

    #[test]
    fn rules_blame_and_place_come_back_from_their_words() {
        let rules = Rules {
            timeout_ms: u32::MAX,
            retry_on: 0x1f,
            max_deaths: 3,
            keeps_output: true,
            is_sampled: Some(true),
            has_key: true,
        };
        for (is_sampled, has_key) in [(None, true), (Some(false), false), (Some(true), true)] {
            let rules = Rules { is_sampled, has_key, ..rules };
            assert_eq!(Rules::of(rules.bits()), rules);
        }
        assert_eq!([2, 3, 4].map(|deaths| rules.is_poison(deaths)), [false, true, true]);
        for max_deaths in [0, u8::MAX] {
            assert!(!Rules { max_deaths, ..rules }.is_poison(u8::MAX), "{max_deaths} is no limit");
        }
        let blame = Blame { deaths: u8::MAX, is_suspect: true, spared: 100, peak_kib: u32::MAX };
        assert_eq!(Blame::of(blame.bits()), blame);
        let place = Place { slot: u16::MAX, depth: Place::MAX_DEPTH, is_alone: false };
        assert_eq!(Place::of(place.bits()), place);
        assert_eq!(Place::of(Place { depth: u16::MAX, is_alone: true, ..place }.bits()).slot, u16::MAX);
    }
}

#[cfg(all(test, any(loom, shuttle)))]
impl Descriptor {
    pub(crate) fn new(state: Task) -> Descriptor {
        Descriptor {
            state: AtomicU64::new(state.0),
            lane: AtomicU32::new(0),
            kind: Default::default(),
            submitter: AtomicU64::new(0),
            addressee: AtomicU64::new(0),
            tag: Default::default(),
            input: AtomicU64::new(0),
            output: AtomicU64::new(0),
            submitted: Default::default(),
            run: Run {
                of: AtomicU64::new(0),
                claimant: AtomicU64::new(0),
                started: AtomicU64::new(0),
                began: Default::default(),
                place: AtomicU32::new(0),
                status: Default::default(),
                ran_by: Default::default(),
                ran: Default::default(),
                total: Default::default(),
            },
            expires: AtomicU64::new(0),
            limits: AtomicU64::new(0),
            backoff: AtomicU64::new(0),
            rules: AtomicU64::new(Rules::USUAL.bits()),
            exit: AtomicU64::new(0),
            blame: AtomicU64::new(0),
            cancel: AtomicU64::new(0),
            max_attempts: AtomicU32::new(0),
            checkpoints: AtomicU32::new(0),
            not_before: AtomicU64::new(0),
            heartbeat: AtomicU64::new(0),
            done: Default::default(),
            checkpoint: [AtomicU64::new(0), AtomicU64::new(0)],
            trace: Default::default(),
            input_bytes: Inline::new(),
            output_bytes: Inline::new(),
        }
    }
}
