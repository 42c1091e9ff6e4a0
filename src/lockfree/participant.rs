//! Participants: the processes that a segment knows, and the word on which each of them sleeps.
//!
//! # States
//!
//! `Vacant(n) → Live(n + 1) → Dead(n + 1) → Vacant(n + 1)`. The incarnation counts the uses of an id, so a name
//! (id and incarnation) is never given twice, while the 12-bit id alone is, once no word of the segment names it.
//!
//! # Words
//!
//! | word                 | written by                                   | a death leaves                                  |
//! |----------------------|----------------------------------------------|-------------------------------------------------|
//! | `member`             | the coordinator                              | the truth as it was: its successor goes on      |
//! | `pid`, `role`        | the coordinator, before the fork             | information for people                          |
//! | `futex`              | the participant (both bits), wakers (WOKEN   | a sleeper that is marked as woken: whoever has  |
//! |                      | up, the count on)                            | news for it, and the sweep, wake it             |
//! | `finished`, `status` | the participant                              | the last value, which the coordinator reports   |
//!
//! # Ordering
//!
//! - \[orphan] The coordinator stores `Dead`, fences (SeqCst), then scans; who has made a task DONE for a submitter, or
//!   READY for an addressee, fences (SeqCst), then loads `member`. One of the two sees the other's, so no such task stays.
//! - Parking: `lockfree/PARK.md`.

use super::word::{MAX_PARTICIPANTS, Member};
use crate::{
    error::Corrupted,
    sync::{AcqRel, Acquire, AtomicU32, AtomicU64, Futex, Relaxed},
};
use std::{fmt, time::Duration};

/// Set in a futex word while its owner sleeps or is about to.
const PARKED: u32 = 1;
/// Set by who wakes a parked one, before it calls the kernel; the owner takes it down as it leaves. Until then the waker may
/// have died or been stopped in between. The other 30 bits count the wakes.
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
    #[cfg(not(all(test, any(loom, shuttle))))]
    _spare: [AtomicU64; 11],
}

#[cfg(not(all(test, any(loom, shuttle))))]
const _: () = assert!(size_of::<Participant>() == 128);

/// What is told about a participant beside its state: a page each, so that who writes here disturbs nobody.
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
    _spare: [AtomicU64; 248],
}

#[cfg(not(all(test, any(loom, shuttle))))]
const _: () = assert!(size_of::<Record>() == 4096);

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
        }
    }

    /// # Errors
    /// [`Corrupted`] if the word is none of a member's.
    pub(crate) fn member(&self, id: usize) -> Result<Member, Corrupted> {
        let bits = self.member.load(Acquire);
        Member::of(bits).ok_or(Corrupted::new("participant", id, bits))
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
            // AcqRel: a waker that sees the bit sees all before it.
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
        self.futex.word().fetch_and(!(PARKED | WOKEN), AcqRel);
    }

    /// Is it parked, and has nobody woken it since?
    pub(crate) fn is_asleep(&self) -> bool {
        self.futex.word().load(Relaxed) & (PARKED | WOKEN) == PARKED
    }

    /// How often it was woken, so far.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(crate) fn wakes(&self) -> u32 {
        self.futex.word().load(Relaxed) / ONE_WAKE
    }

    /// Wakes the participant if it is parked and nobody has woken it yet. The caller has published its news and fenced.
    pub(crate) fn wake_if_parked(&self) -> Found {
        let found = self.mark_woken();
        if found == Found::Parked {
            self.futex.wake_all();
        }
        found
    }

    /// Half a wake: a death or a stop before the other half, FUTEX_WAKE, leaves a sleeper whose word says so.
    pub(crate) fn mark_woken(&self) -> Found {
        let word = self.futex.word();
        let mut seen = word.load(Relaxed);
        loop {
            match (seen & PARKED != 0, seen & WOKEN != 0) {
                (false, _) => return Found::Awake,
                (true, true) => return Found::Woken,
                // AcqRel: the sleeper that finds its word changed sees the news.
                (true, false) => match word.compare_exchange(seen, woken(seen), AcqRel, Relaxed) {
                    Ok(_) => return Found::Parked,
                    Err(now) => seen = now,
                },
            }
        }
    }

    /// Finishes the wake of one that is marked as woken, if its waker has not.
    pub(crate) fn finish_wake(&self) {
        if self.futex.word().load(Relaxed) & WOKEN != 0 {
            self.futex.wake_all();
        }
    }

    /// Wakes the participant whether it sleeps, is about to, or neither, and whoever else has.
    pub(crate) fn wake(&self) {
        let word = self.futex.word();
        let mut seen = word.load(Relaxed);
        // AcqRel: as above. The count alone ends the sleep of one that has not parked yet.
        while let Err(now) = word.compare_exchange(seen, woken(seen), AcqRel, Relaxed) {
            seen = now;
        }
        self.futex.wake_all();
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
