//! Participants: the processes that a segment knows, and the word on which each of them sleeps.
//!
//! # States
//!
//! `Vacant(0) → Live(1) → Dead(1) → Live(2) → Dead(2) → …`. The incarnation counts the uses of an id, so a name (id and
//! incarnation) is never given twice, while the 12-bit id alone is, once no word of the segment names it.
//!
//! # Words
//!
//! | word                 | written by                           | read by      | a death leaves                      |
//! |----------------------|--------------------------------------|--------------|-------------------------------------|
//! | `member`             | the coordinator (`admit`, `recover`) | all          | the truth: its successor goes on    |
//! | `pid`, `role`        | the coordinator, in `admit`; `pid`   | people       | information for people              |
//! |                      | of a child once it is forked         |              |                                     |
//! | `futex`              | the participant (both bits), wakers  | participant, | a sleeper that is marked as woken:  |
//! |                      | (WOKEN up, count on); for the dead   | wakers,      | the sweep wakes it. If its waker is |
//! |                      | recovery (both bits down)            | coordinator  | only stopped, the coordinator does, |
//! |                      |                                      |              | by a look that other wakers ask for |
//! | `finished`, `status` | the participant; `admit`, 0          | coordinator  | the last value, for the report      |
//! | `leave`              | the coordinator, and a worker for    | both         | why it was about to leave: a death  |
//! |                      | itself: a reason; `admit`, 0         |              | all the same                        |
//! | `fault`              | the participant, once, in the        | coordinator  | the task whose thread got a fatal   |
//! |                      | handler of a fatal signal; `admit`,  |              | signal, or 0: recovery blames it    |
//! |                      | 0                                    |              |                                     |
//!
//! The futex word, high to low: count of the wakes 30 · WOKEN 1 · PARKED 1. A thread sleeps only on the word that it
//! prepared, in which WOKEN is down; a wake puts WOKEN up. So it takes 2^30 wakes between its `prepare_to_park` and its
//! FUTEX_WAIT, and another thread that takes WOKEN down meanwhile, for it to miss one: negligible, and then the next
//! wake ends its sleep.
//!
//! # Invariants
//!
//! 1. The incarnation only grows. A name is `Live` once, then `Dead`, and not before the kernel has reported the death.
//! 2. An id is given again only when no task word, no `submitter` or `addressee` of a task in use and no HELD block
//!    names it.
//! 3. PARKED is up while a thread of the participant sleeps or is about to; WOKEN only together with it.
//! 4. Every wake changes the word, so whoever has prepared before it does not fall asleep after it.
//!
//! # Ordering
//!
//! - \[orphan] The coordinator stores `Dead`, fences (SeqCst), then scans; who has made a task DONE for a submitter, or
//!   READY for an addressee, fences (SeqCst), then loads `member`. One of the two sees the other's, so no such task stays.
//! - \[wake] Release in `mark_woken` and `wake` pairs with Acquire in `prepare_to_park` and `end_park`: who takes the
//!   mark down, or prepares after the wake, sees the news. Who wakes without a fence (the sweep, a new mode) needs no
//!   more.
//! - \[leave] Release in `ask_to_leave`, Acquire in `leaves`. Its owner looks between two tasks, and as a last look before it
//!   sleeps; the wake that follows the store ends a sleep that was prepared before it (invariant 4).
//! - Parking: \[park], in `lockfree/PARK.md`; what was left half done: \[watch], in [`super::timer`].
//!
//! # Crash
//!
//! Dead as a sleeper: recovery clears its two bits and its idle bits; a wake that it had swallowed is made up for by
//! the sweep, which wakes everybody. Dead as a waker, between the exchange and FUTEX_WAKE: the sweep again. Only
//! stopped there: the coordinator finishes it ([`Participant::finish_wake`]), or another thread of the sleeper's that
//! is about to park. Dead as the coordinator, in `admit` or before the fork: an id that is not `Live` yet, or one
//! without a process, which is to be settled as a death.
//!
//! # Progress
//!
//! A failed exchange means that another's has succeeded; but for that no operation repeats anything, and none waits.
//!
//! What checks this page: `loom_park.rs`, `loom_queues.rs` (threads of one participant), `loom_private.rs`,
//! `loom_recovery.rs` and `mutants.rs` in `lockfree/tests/`; `exec/tests.rs` (an id is given again only when nobody
//! names it); `shmworker torture --wakes`, and `--single-step` (`park`, `wake`).

use super::word::{MAX_PARTICIPANTS, Member};
use crate::{
    error::Corrupted,
    sync::{AcqRel, Acquire, AtomicU32, AtomicU64, Futex, Relaxed, Release},
};
use std::{fmt, time::Duration};

/// Set in a futex word while its owner sleeps or is about to.
const PARKED: u32 = 1;
/// Set by who wakes a parked one, before it calls the kernel; the owner takes it down as it leaves. Until then the waker may
/// have died or been stopped in between. The other 30 bits count the wakes: a wrap is discussed above.
const WOKEN: u32 = 2;
const ONE_WAKE: u32 = 4;

/// What somebody who has news for a participant found it to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Neither asleep nor about to be: it will see the news by itself.
    Awake,
    /// Parked, and woken just now.
    Parked,
    /// Parked, and another has woken it, or is about to: it has not left its sleep yet.
    Woken,
}

/// One process, or the room for one.
#[repr(C, align(128))]
pub(crate) struct Participant {
    /// [`Member`].
    pub(crate) member: AtomicU64,
    pub(crate) futex: Futex,
    /// The process id, for people: signals go through pidfds only.
    pub(crate) pid: AtomicU32,
    /// What it is: the number that the coordinator's caller gave it.
    pub(crate) role: AtomicU32,
    /// How far it has come, in the terms of its role.
    pub(crate) status: AtomicU32,
    /// Tasks that it has completed, or answered, in this incarnation.
    pub(crate) finished: AtomicU64,
    /// The task over which it got a fatal signal ([`super::table::TaskId::note`]); 0: none is known.
    pub(crate) fault: AtomicU64,
    /// Not 0: it is to end once what it runs is finished. The number is the reason, in the terms of `process`.
    pub(crate) leave: AtomicU32,
    #[cfg(not(all(test, any(loom, shuttle))))]
    _pad: AtomicU32,
    #[cfg(not(all(test, any(loom, shuttle))))]
    _spare: [AtomicU64; 9],
}

#[cfg(not(all(test, any(loom, shuttle))))]
const _: () = assert!(size_of::<Participant>() == 128);

/// What is told about a participant beside its state: a page each, so that who writes here disturbs nobody.
///
/// Its last word: why it gives up. Written by itself, read by the coordinator once it is dead; it counts for the name that stands
/// before it, so nobody clears it.
///
/// Reserved: its durable name (64 bytes), histograms of waits and runs (64 log-spaced buckets each), a ring of its last events
/// (64 of 16 bytes).
#[cfg(not(all(test, any(loom, shuttle))))]
#[repr(C, align(128))]
pub(crate) struct Record {
    _name: [AtomicU64; 8],
    _waits: [AtomicU64; 64],
    _runs: [AtomicU64; 64],
    _events: [[AtomicU64; 2]; 64],
    /// The name of whose word it is, then the text, of which a zero is the end.
    last_word_of: AtomicU64,
    last_word: [AtomicU64; 63],
    _spare: [AtomicU64; 184],
}

#[cfg(not(all(test, any(loom, shuttle))))]
const _: () = assert!(size_of::<Record>() == 4096);

#[cfg(not(all(test, any(loom, shuttle))))]
impl Record {
    /// The participant says why it gives up, in as much as there is room for.
    pub(crate) fn give_up(&self, me: Name, why: &str) {
        let why = &why.as_bytes()[..why.floor_char_boundary(size_of_val(&self.last_word))];
        let mut pieces = why.chunks(8);
        for word in &self.last_word {
            let mut bytes = [0; 8];
            let piece = pieces.next().unwrap_or_default();
            bytes[..piece.len()].copy_from_slice(piece);
            word.store(u64::from_le_bytes(bytes), Relaxed);
        }
        // Release, though it is read after the kernel's word of its death, which orders everything: if that comes midway, the
        // name is not there.
        self.last_word_of.store(me.bits(), Release);
    }

    /// Why this participant, which is dead, gave up, if it said so.
    pub(crate) fn last_word(&self, dead: Name) -> Option<String> {
        if self.last_word_of.load(Acquire) != dead.bits() {
            return None;
        }
        let bytes: Vec<u8> = self.last_word.iter().flat_map(|w| w.load(Relaxed).to_le_bytes()).collect();
        let text = bytes.split(|&b| b == 0).next().unwrap_or_default();
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

/// Id and incarnation of a participant: names one process for ever.
///
/// Packed as `incarnation 40 · spare 8 · id 16`. The packed form is never 0, since an incarnation starts at 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name(u64);

impl Name {
    pub(crate) const fn new(id: u16, incarnation: u64) -> Name {
        Name(incarnation << 24 | id as u64)
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    pub(crate) const fn of(bits: u64) -> Name {
        Name(bits)
    }

    pub(crate) const fn id(self) -> u16 {
        self.0 as u16
    }

    pub(crate) const fn incarnation(self) -> u64 {
        self.0 >> 24
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}.{}", self.id(), self.incarnation())
    }
}

impl Participant {
    #[cfg(all(test, any(loom, shuttle)))]
    pub(crate) fn new() -> Participant {
        Participant {
            member: AtomicU64::new(0),
            futex: Futex::new(),
            pid: AtomicU32::new(0),
            role: AtomicU32::new(0),
            status: AtomicU32::new(0),
            finished: AtomicU64::new(0),
            fault: AtomicU64::new(0),
            leave: AtomicU32::new(0),
        }
    }

    /// # Errors
    /// [`Corrupted`] if the word is none of a member's.
    #[inline]
    pub(crate) fn member(&self, id: usize) -> Result<Member, Corrupted> {
        let bits = self.member.load(Acquire);
        Member::of(bits).ok_or(Corrupted::new("participant", id, bits))
    }

    /// Its thread that runs this task got a fatal signal. The first one counts: what follows may follow from it.
    ///
    /// Relaxed: read once the kernel has said that this process is dead.
    pub(crate) fn note_fault(&self, task: u64) {
        let _ = self.fault.compare_exchange(0, task, Relaxed, Relaxed);
    }

    /// Announces that the owner is about to sleep. What it then finds in a last look, after a SeqCst fence, or else a
    /// waker, ends the sleep (`PARK.md`). One thread of the owner at a time calls this or [`end_park`](Self::end_park).
    pub(crate) fn prepare_to_park(&self) -> u32 {
        let word = self.futex.word();
        let mut seen = word.load(Relaxed);
        loop {
            if seen & WOKEN != 0 {
                // Another thread of ours sleeps, and its waker may have stopped short of the kernel. We finish that.
                self.futex.wake_all();
            }
            let prepared = (seen | PARKED) & !WOKEN;
            // [wake] Acquire: the last look sees the news of a wake that came before. The rest is the fence's ([park]).
            match word.compare_exchange(seen, prepared, AcqRel, Relaxed) {
                Ok(_) => return prepared,
                Err(now) => seen = now,
            }
        }
    }

    /// Sleeps unless somebody has woken this participant since `prepared`.
    pub(crate) fn sleep(&self, prepared: u32, timeout: Option<Duration>) {
        self.futex.wait(prepared, timeout);
    }

    pub(crate) fn end_park(&self) {
        // [wake] Acquire: what is done after the sleep sees the news. Release only continues what it replaces.
        self.futex.word().fetch_and(!(PARKED | WOKEN), AcqRel);
    }

    /// Is it parked, and has nobody woken it since?
    pub(crate) fn is_asleep(&self) -> bool {
        // Relaxed: after the fence of a waker or of the coordinator's look ([park], [watch]).
        self.futex.word().load(Relaxed) & (PARKED | WOKEN) == PARKED
    }

    /// Is it parked, and has somebody woken it since?
    pub(crate) fn is_woken(&self) -> bool {
        self.futex.word().load(Relaxed) & WOKEN != 0 // as above
    }

    /// How often it was woken, so far.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(crate) fn wakes(&self) -> u32 {
        self.futex.word().load(Relaxed) / ONE_WAKE
    }

    /// Wakes the participant if it is parked and nobody has woken it yet. The caller has published its news and fenced.
    #[inline]
    pub(crate) fn wake_if_parked(&self) -> Found {
        let found = self.mark_woken();
        if found == Found::Parked {
            self.futex.wake_all();
        }
        found
    }

    /// Half a wake: a death or a stop before the other half, FUTEX_WAKE, leaves a sleeper whose word says so.
    #[inline]
    pub(crate) fn mark_woken(&self) -> Found {
        let word = self.futex.word();
        let mut seen = word.load(Relaxed);
        loop {
            match (seen & PARKED != 0, seen & WOKEN != 0) {
                (false, _) => return Found::Awake,
                (true, true) => return Found::Woken,
                // [wake] Release. (What was read first is only compared: the caller's fence orders it, [park].)
                (true, false) => match word.compare_exchange(seen, woken(seen), AcqRel, Relaxed) {
                    Ok(_) => return Found::Parked,
                    Err(now) => seen = now,
                },
            }
        }
    }

    /// Finishes the wake of one that is marked as woken, if its waker has not.
    pub(crate) fn finish_wake(&self) {
        // Relaxed: [watch]. A mark that is not seen here is of a waker that sees `watched` lowered, and rings.
        if self.futex.word().load(Relaxed) & WOKEN != 0 {
            self.futex.wake_all();
        }
    }

    /// Wakes the participant whether it sleeps, is about to, or neither, and whoever else has.
    pub(crate) fn wake(&self) {
        let word = self.futex.word();
        let mut seen = word.load(Relaxed);
        // [wake] Release. The count alone ends the sleep of one that has not parked yet.
        while let Err(now) = word.compare_exchange(seen, woken(seen), AcqRel, Relaxed) {
            seen = now;
        }
        self.futex.wake_all();
    }
}

impl Participant {
    /// Asks a worker to end once what it runs is finished, for a reason that is not 0. The first one asked for stands.
    pub(crate) fn ask_to_leave(&self, reason: u32) {
        // [leave] Release: what led to it comes before. Relaxed: a reason that stands says all there is to say.
        let _ = self.leave.compare_exchange(0, reason, Release, Relaxed);
        self.wake();
    }

    /// Why it is to leave; 0: it is not.
    pub(crate) fn leaves(&self) -> u32 {
        self.leave.load(Acquire) // [leave]
    }
}

/// A futex word after a wake.
const fn woken(seen: u32) -> u32 {
    let mark = if seen & PARKED != 0 { WOKEN } else { 0 };
    (seen | mark).wrapping_add(ONE_WAKE)
}

/// Is this an id that a 12-bit field can hold and the table has?
pub(crate) fn check_id(id: u16, len: usize) -> Result<usize, Corrupted> {
    if (id as usize) < len.min(MAX_PARTICIPANTS) {
        Ok(id as usize)
    } else {
        Err(Corrupted::new("participant id", id as usize, u64::from(id)))
    }
}
