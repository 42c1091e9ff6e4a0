//! Participants: the processes that a segment knows, and the word on which each of them sleeps.
//!
//! # States
//!
//! `Vacant(0) → Live(1) → Dead(1) → Live(2) → Dead(2) → …`. The incarnation counts the uses of an id, so a name (id and
//! incarnation) is never given twice, while the 12-bit id alone is, once no word of the segment names it.
//!
//! A *seat* is kept: it stays `Live` when its process dies, and the next client that says the same words takes it, and its
//! name with it. So whatever names it (tasks, hints, handles) goes on meaning the same; who looks whether a submitter lives finds
//! that it does. A name is one process's at a time: the next comes only after the kernel's word of the death of the one before,
//! and what that one alone could do (drafts, results that it was reading) is settled by then. A seat that no word names is given back
//! when its client leaves, if that had attached, and by the next start ([`super::recovery`]).
//!
//! # Words
//!
//! | word                 | written by                           | read by      | a death leaves                      |
//! |----------------------|--------------------------------------|--------------|-------------------------------------|
//! | `member`             | the coordinator (`admit`, `recover`) | all          | the truth: its successor goes on    |
//! | `pid`, `role`        | the coordinator, in `admit`; `pid`   | people       | information for people              |
//! |                      | of a child once it is forked; of a   |              |                                     |
//! |                      | seat that nobody has, 0              |              |                                     |
//! | `futex`              | the participant (both bits), wakers  | participant, | a sleeper that is marked as woken:  |
//! |                      | (WOKEN up, count on); for the dead   | wakers,      | the sweep wakes it. If its waker is |
//! |                      | recovery (both bits down)            | coordinator  | only stopped, the coordinator does, |
//! |                      |                                      |              | by a look that other wakers ask for |
//! | `finished`, `status` | the participant; `admit`, 0          | coordinator  | the last value, for the report      |
//! |                      |                                      | (of its own: |                                     |
//! |                      |                                      | who asks for |                                     |
//! |                      |                                      | an upgrade)  |                                     |
//! | `leave`              | the coordinator, and a worker for    | both         | why it was about to leave: a death  |
//! |                      | itself: a reason; `admit`, 0         |              | all the same                        |
//! | `born`, `make`       | a worker that outlives its           | a successor  | whom a dead worker's number may     |
//! |                      | coordinator, once; the coordinator,  |              | name by now: `born` tells           |
//! |                      | its own `born`; `admit`, 0           |              |                                     |
//! | `fault`              | the participant, once, in the        | coordinator  | the task whose thread got a fatal   |
//! |                      | handler of a fatal signal; `admit`,  |              | signal, or 0: recovery blames it    |
//! |                      | 0                                    |              |                                     |
//! | `seat`, `seat_name`  | who admits it: the words, then that  | recovery, a  | words that do not count yet: its    |
//! |                      | they count; `admit`, 0; a successor  | successor    | tasks, of which it has none, go     |
//! |                      | or the coordinator, 0 once nothing   |              |                                     |
//! |                      | names it                             |              |                                     |
//!
//! The futex word, high to low: count of the wakes 30 · WOKEN 1 · PARKED 1. A thread sleeps only on the word that it
//! prepared, in which WOKEN is down; a wake puts WOKEN up. So it takes 2^30 wakes between its `prepare_to_park` and its
//! FUTEX_WAIT, and another thread that takes WOKEN down meanwhile, for it to miss one: negligible, and then the next
//! wake ends its sleep.
//!
//! # Invariants
//!
//! 1. The incarnation only grows. A name is `Live` once, then `Dead`, and not before the kernel has reported the death; that of
//!    a seat stays `Live` until it is given back.
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
//! - \[born] Release in `is_of` pairs with Acquire in `process`: who finds when it began finds its number as well.
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
    /// Not 0: it is kept for a client of this name.
    pub(crate) seat: AtomicU32,
    #[cfg(not(all(test, any(loom, shuttle))))]
    seat_name: [AtomicU64; LONGEST_SEAT / 8],
    /// When its process began, as the kernel has it: that and `pid` are one process in a run of the machine. 0: not known.
    #[cfg(not(all(test, any(loom, shuttle))))]
    pub(crate) born: AtomicU64,
    /// What its process was made of: in the terms of `process`.
    #[cfg(not(all(test, any(loom, shuttle))))]
    pub(crate) make: AtomicU64,
    #[cfg(not(all(test, any(loom, shuttle))))]
    _spare: [AtomicU64; 3],
}

/// Longest name of a durable client, in bytes.
pub(crate) const LONGEST_SEAT: usize = 32;

#[cfg(not(all(test, any(loom, shuttle))))]
const _: () = assert!(size_of::<Participant>() == 128);

/// What is told about a participant beside its state, for people: a page each, so that who writes here disturbs nobody.
///
/// | words                 | written by                      | a death leaves                                              |
/// |-----------------------|---------------------------------|-------------------------------------------------------------|
/// | `label`               | the coordinator, before it forks| the label of who has the id, or had it last                 |
/// | `waits`, `runs`       | the worker, after each attempt  | counts, one of which may lack the last attempt              |
/// |                       | that was stamped                |                                                             |
/// | `deaths`, `endings`,  | the coordinator, in the record  | entries, of which the last may not be counted yet           |
/// | `given_up`, `losses`  | of its own                      |                                                             |
/// | `last_word`           | the participant                 | why it gave up; it counts for the name that stands before it|
/// |                       |                                 | (the coordinator: why the last upgrade was refused, or "")  |
/// | `requeued`, `failed`  | the coordinator, in the record  | sums that may lack the tasks of the last death              |
/// |                       | of its own                      |                                                             |
/// | `tasks`, in the       | the segment's maker, before any | names of tasks                                              |
/// | coordinator's         | fork                            |                                                             |
/// | `tasks`, in the others| the participant, after each     | counts, which may lack the last task, or a part of what is  |
/// |                       | task                            | told of it                                                  |
///
/// Histograms and counts belong to the id and go on with its next process: nobody clears them, so their sums over all records only
/// grow.
#[cfg(not(all(test, any(loom, shuttle))))]
#[repr(C, align(128))]
pub(crate) struct Record {
    label: [AtomicU64; 8],
    times: Histograms,
    endings: [[AtomicU64; 2]; ENDINGS],
    /// The name of whose word it is, then the text, of which a zero is the end.
    last_word_of: AtomicU64,
    last_word: [AtomicU64; 63],
    /// How many `endings` there were.
    deaths: AtomicU64,
    /// Tasks that others were given for all these, and that ended so.
    requeued: AtomicU64,
    failed: AtomicU64,
    tasks: [AtomicU64; 148],
    losses: [[AtomicU64; 2]; LOSSES],
    /// How many `losses` there were.
    given_up: AtomicU64,
}

#[cfg(not(all(test, any(loom, shuttle))))]
const _: () = assert!(size_of::<Record>() == 4096);

/// Endings that a coordinator keeps.
#[cfg(not(all(test, any(loom, shuttle))))]
pub(crate) const ENDINGS: usize = 64;

/// Tasks that were given up over deaths of which a coordinator keeps the last.
#[cfg(not(all(test, any(loom, shuttle))))]
pub(crate) const LOSSES: usize = 16;

/// How many attempts waited, and ran, for how many ticks of the [task clock](super::task_clock): bucket `i` counts those of 2^i to
/// 2^(i+1) ticks, and 0 those of none too.
#[cfg(not(all(test, any(loom, shuttle))))]
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Histograms {
    pub(crate) waits: [AtomicU64; 64],
    pub(crate) runs: [AtomicU64; 64],
}

#[cfg(not(all(test, any(loom, shuttle))))]
impl Histograms {
    /// One attempt more. `is_shared`: other threads count here too.
    #[inline]
    pub(crate) fn count(&self, waited: u64, ran: u64, is_shared: bool) {
        // `% 64` is for the compiler, which then checks no bound.
        let bucket = |ticks: u64| (ticks | 1).ilog2() as usize % 64;
        let (wait, run) = (&self.waits[bucket(waited)], &self.runs[bucket(ran)]);
        // Relaxed: for people.
        if is_shared {
            wait.fetch_add(1, Relaxed);
            run.fetch_add(1, Relaxed);
        } else {
            wait.store(wait.load(Relaxed).wrapping_add(1), Relaxed);
            run.store(run.load(Relaxed).wrapping_add(1), Relaxed);
        }
    }
}

/// What became of the tasks of one kind, in one process.
///
/// Words: `kind + 1`, or 0 while nobody has it, or [`OTHERS`](Counts::OTHERS); how many were completed, failed, were cancelled, and
/// were put off for another attempt; ticks that they waited, and ran, where these are stamped.
#[cfg(not(all(test, any(loom, shuttle))))]
type Entry = [AtomicU64; 7];

/// How an attempt of a task ended: the word of [`Entry`] that counts it.
#[cfg(not(all(test, any(loom, shuttle))))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Completed = 1,
    Failed = 2,
    Cancelled = 3,
    Retried = 4,
}

/// A table of [`Entry`]s by kind, with open addressing. Its last entry is for all kinds for which there is no room.
#[cfg(not(all(test, any(loom, shuttle))))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts<'r>(&'r [Entry; ENTRIES]);

#[cfg(not(all(test, any(loom, shuttle))))]
const ENTRIES: usize = 21;

/// A copy of an entry.
#[cfg(not(all(test, any(loom, shuttle))))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// `None`: of all that there was no room for.
    pub(crate) kind: Option<u32>,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) cancelled: u64,
    pub(crate) retried: u64,
    pub(crate) waited: u64,
    pub(crate) ran: u64,
}

#[cfg(not(all(test, any(loom, shuttle))))]
impl<'r> Counts<'r> {
    const OTHERS: u64 = u64::MAX;

    /// One attempt more. `is_shared`: other threads of this process count here too.
    #[inline(always)]
    pub(crate) fn count(self, kind: u32, how: How, (waited, ran): (u64, u64), is_shared: bool) {
        let entry = self.entry(kind);
        let (ended, waits, runs) = (&entry[how as usize], &entry[5], &entry[6]);
        // Relaxed: for people. Nobody else writes here: not even the id's former process, which is dead.
        if is_shared {
            ended.fetch_add(1, Relaxed);
            waits.fetch_add(waited, Relaxed);
            runs.fetch_add(ran, Relaxed);
            return;
        }
        let add = |word: &AtomicU64, n| word.store(word.load(Relaxed).wrapping_add(n), Relaxed);
        add(ended, 1);
        if ran != 0 {
            add(waits, waited);
            add(runs, ran);
        }
    }

    #[inline(always)]
    fn entry(self, kind: u32) -> &'r Entry {
        let (key, first) = (u64::from(kind) + 1, kind as usize % (ENTRIES - 1));
        let first = &self.0[first];
        if first[0].load(Relaxed) == key { first } else { self.find(kind) }
    }

    fn find(self, kind: u32) -> &'r Entry {
        let (key, first) = (u64::from(kind) + 1, kind as usize % (ENTRIES - 1));
        for i in 0..ENTRIES - 1 {
            let entry = &self.0[(first + i) % (ENTRIES - 1)];
            // Relaxed: a key goes with zeroes, which were there before it.
            match entry[0].compare_exchange(0, key, Relaxed, Relaxed) {
                Ok(_) => return entry,
                Err(other) if other == key => return entry,
                Err(_) => {}
            }
        }
        let others = &self.0[ENTRIES - 1];
        others[0].store(Self::OTHERS, Relaxed);
        others
    }

    /// What was counted so far.
    pub(crate) fn read(self) -> impl Iterator<Item = Count> {
        self.0.iter().filter_map(|entry| {
            let [key, completed, failed, cancelled, retried, waited, ran] =
                entry.each_ref().map(|word| word.load(Relaxed));
            let kind = (key != Self::OTHERS).then_some(key.wrapping_sub(1) as u32);
            (key != 0).then_some(Count { kind, completed, failed, cancelled, retried, waited, ran })
        })
    }
}

/// 31 bits of an entry say when, to 64 ms: that is good for four years.
#[cfg(not(all(test, any(loom, shuttle))))]
const MOMENTS: u64 = (1 << 31) - 1;
#[cfg(not(all(test, any(loom, shuttle))))]
const MOMENT_SHIFT: u32 = 6;

#[cfg(not(all(test, any(loom, shuttle))))]
const fn moment(at_ms: u64) -> u64 {
    let moment = at_ms >> MOMENT_SHIFT;
    if moment < MOMENTS { moment } else { MOMENTS }
}

/// How a process of the pool ended.
#[cfg(not(all(test, any(loom, shuttle))))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) pid: u32,
    /// Its `Participant::role`.
    pub(crate) role: u32,
    /// `process::exit::Exit`, packed.
    pub(crate) exit: u64,
    /// Tasks that were given to others, and that ended with it: up to 255 are told.
    pub(crate) requeued: u8,
    pub(crate) failed: u8,
    /// Milliseconds of CLOCK_MONOTONIC since the pool began: told to 64 of them.
    pub(crate) at_ms: u64,
}

#[cfg(not(all(test, any(loom, shuttle))))]
impl Ending {
    /// pid 32 · role 32; requeued 8 · failed 8 · exit 17, of which one bit says OVERDUE · 64 ms 31.
    const fn bits(self) -> [u64; 2] {
        let Ending { pid, role, exit, requeued, failed, at_ms } = self;
        let at = moment(at_ms);
        [
            (pid as u64) << 32 | role as u64,
            (requeued as u64) << 56 | (failed as u64) << 48 | (exit & 0x1_ffff) << 31 | at,
        ]
    }

    const fn of([who, how]: [u64; 2]) -> Ending {
        Ending {
            pid: (who >> 32) as u32,
            role: who as u32,
            exit: how >> 31 & 0x1_ffff,
            requeued: (how >> 56) as u8,
            failed: (how >> 48) as u8,
            at_ms: (how & MOMENTS) << MOMENT_SHIFT,
        }
    }
}

/// A task that was given up, since its workers died over it.
#[cfg(not(all(test, any(loom, shuttle))))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) kind: u32,
    /// How many died by its fault, and whether it may not kill more.
    pub(crate) deaths: u8,
    pub(crate) is_poison: bool,
    /// The last one; `exit` and `at_ms` as in [`Ending`].
    pub(crate) pid: u32,
    pub(crate) exit: u64,
    pub(crate) at_ms: u64,
}

#[cfg(not(all(test, any(loom, shuttle))))]
impl Loss {
    /// pid 32 · kind 32; deaths 8 · spare 7 · poison 1 · exit 17 · ms 31.
    const fn bits(self) -> [u64; 2] {
        let Loss { kind, deaths, is_poison, pid, exit, at_ms } = self;
        let at = moment(at_ms);
        let how = (deaths as u64) << 56 | (is_poison as u64) << 48 | (exit & 0x1_ffff) << 31 | at;
        [(pid as u64) << 32 | kind as u64, how]
    }

    const fn of([who, how]: [u64; 2]) -> Loss {
        Loss {
            kind: who as u32,
            deaths: (how >> 56) as u8,
            is_poison: how >> 48 & 1 == 1,
            pid: (who >> 32) as u32,
            exit: how >> 31 & 0x1_ffff,
            at_ms: (how & MOMENTS) << MOMENT_SHIFT,
        }
    }
}

/// Keeps an entry, in the place of the oldest.
#[cfg(not(all(test, any(loom, shuttle))))]
fn note(entries: &[[AtomicU64; 2]], count: &AtomicU64, bits: [u64; 2]) {
    let n = count.load(Relaxed); // no other writer
    for (word, bits) in entries[n as usize % entries.len()].iter().zip(bits) {
        word.store(bits, Relaxed);
    }
    // Release: who finds it counted finds it written.
    count.store(n + 1, Release);
}

/// The last entries, the newest first. Not the oldest of them, in whose place the next one may be half written.
#[cfg(not(all(test, any(loom, shuttle))))]
fn noted(entries: &[[AtomicU64; 2]], count: &AtomicU64) -> impl Iterator<Item = [u64; 2]> {
    let (n, len) = (count.load(Acquire), entries.len());
    let entry = move |i: u64| [0, 1].map(|w| entries[i as usize % len][w].load(Relaxed));
    (n.saturating_sub(len as u64 - 1)..n).rev().map(entry)
}

/// Text into words, as much as there is room for; the rest is zeroed.
#[cfg(not(all(test, any(loom, shuttle))))]
pub(crate) fn write_text(words: &[AtomicU64], text: &str) {
    let text = &text.as_bytes()[..text.floor_char_boundary(size_of_val(words))];
    let mut pieces = text.chunks(8);
    for word in words {
        let mut bytes = [0; 8];
        let piece = pieces.next().unwrap_or_default();
        bytes[..piece.len()].copy_from_slice(piece);
        word.store(u64::from_le_bytes(bytes), Relaxed);
    }
}

#[cfg(not(all(test, any(loom, shuttle))))]
pub(crate) fn read_text(words: &[AtomicU64]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.load(Relaxed).to_le_bytes()).collect();
    let text = bytes.split(|&b| b == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(not(all(test, any(loom, shuttle))))]
impl Record {
    /// The participant says why it gives up, in as much as there is room for.
    pub(crate) fn give_up(&self, me: Name, why: &str) {
        write_text(&self.last_word, why);
        // Release, though it is read after the kernel's word of its death, which orders everything: if that comes midway, the
        // name is not there.
        self.last_word_of.store(me.bits(), Release);
    }

    /// Why this participant, which is dead, gave up, if it said so.
    pub(crate) fn last_word(&self, dead: Name) -> Option<String> {
        (self.last_word_of.load(Acquire) == dead.bits()).then(|| read_text(&self.last_word))
    }

    /// The label of who has this id from now on.
    pub(crate) fn set_label(&self, label: &str) {
        write_text(&self.label, label);
    }

    /// The label of who has this id, or had it last; empty if it has none.
    pub(crate) fn label(&self) -> String {
        read_text(&self.label)
    }

    pub(crate) fn times(&self) -> &Histograms {
        &self.times
    }

    /// Keeps the names of what tasks are by their `kind`, in the order given and as many as there is room for.
    pub(crate) fn name_tasks<'n>(&self, names: impl IntoIterator<Item = (u32, &'n str)>) {
        let mut text = String::new();
        for (kind, name) in names {
            let entry = format!("{kind:x} {name}\n");
            if name.contains(['\n', '\0']) || text.len() + entry.len() > size_of_val(&self.tasks) {
                continue;
            }
            text += &entry;
        }
        write_text(&self.tasks, &text);
    }

    /// What [`name_tasks`](Self::name_tasks) has kept.
    pub(crate) fn task_names(&self) -> Vec<(u32, String)> {
        let entry = |line: &str| {
            let (kind, name) = line.split_once(' ')?;
            Some((u32::from_str_radix(kind, 16).ok()?, name.to_owned()))
        };
        read_text(&self.tasks).lines().filter_map(entry).collect()
    }

    /// What became of the tasks that this participant, which is not the coordinator, has run.
    pub(crate) fn counts(&self) -> Counts<'_> {
        let (entries, _) = self.tasks.as_chunks::<7>();
        Counts(entries.try_into().expect("148 words are 21 times 7, and 1"))
    }

    /// Processes that died, tasks that others were given for it, and tasks that ended so. In the coordinator's.
    pub(crate) fn costs(&self) -> [u64; 3] {
        [&self.deaths, &self.requeued, &self.failed].map(|word| word.load(Relaxed))
    }

    /// So many tasks more were given to others because of a death, and ended with it. As [`note_ending`](Self::note_ending).
    pub(crate) fn note_costs(&self, [requeued, failed]: [usize; 2]) {
        for (sum, n) in [(&self.requeued, requeued), (&self.failed, failed)] {
            sum.store(sum.load(Relaxed).wrapping_add(n as u64), Relaxed); // no other writer
        }
    }

    /// One process more has ended. Coordinator only, in the record of its own.
    pub(crate) fn note_ending(&self, ending: Ending) {
        note(&self.endings, &self.deaths, ending.bits());
    }

    /// The last processes that ended, the newest first. Of one that ends meanwhile there may be a mixture with the oldest.
    pub(crate) fn endings(&self) -> Vec<Ending> {
        noted(&self.endings, &self.deaths).map(Ending::of).collect()
    }

    /// One task more was given up. Coordinator only, in the record of its own.
    pub(crate) fn note_loss(&self, loss: Loss) {
        note(&self.losses, &self.given_up, loss.bits());
    }

    /// The last tasks that were given up, the newest first, with the same reservation.
    pub(crate) fn losses(&self) -> Vec<Loss> {
        noted(&self.losses, &self.given_up).map(Loss::of).collect()
    }

    /// How many tasks were given up.
    pub(crate) fn given_up(&self) -> u64 {
        self.given_up.load(Relaxed)
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
            seat: AtomicU32::new(0),
        }
    }

    /// # Errors
    /// [`Corrupted`] if the word is none of a member's.
    #[inline]
    pub(crate) fn member(&self, id: usize) -> Result<Member, Corrupted> {
        let bits = self.member.load(Acquire);
        Member::of(bits).ok_or(Corrupted::new("participant", id, bits))
    }

    /// Is it kept when its process dies?
    pub(crate) fn is_seat(&self) -> bool {
        self.seat.load(Acquire) != 0
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

#[cfg(not(all(test, any(loom, shuttle))))]
impl Participant {
    /// Keeps it, who has submitted nothing yet, for clients of this name, of [`LONGEST_SEAT`] bytes at most.
    pub(crate) fn keep_for(&self, name: &str) {
        write_text(&self.seat_name, name);
        self.seat.store(1, Release); // a death before this leaves an ordinary participant
    }

    /// For whom it is kept.
    pub(crate) fn seat_of(&self) -> Option<String> {
        self.is_seat().then(|| read_text(&self.seat_name))
    }

    /// Nobody has it now: for people.
    pub(crate) fn leave_seat(&self) {
        self.pid.store(0, Relaxed);
    }

    /// Is it one that nobody has?
    #[cfg(any(feature = "cli", feature = "metrics"))]
    pub(crate) fn is_empty_seat(&self) -> bool {
        self.is_seat() && self.pid.load(Relaxed) == 0
    }

    /// Nothing names it any more: it is an ordinary participant from now on, which is dead.
    pub(crate) fn give_back_seat(&self) {
        self.seat.store(0, Release);
    }

    /// This is its process, which began then, and was made of that.
    pub(crate) fn is_of(&self, pid: u32, born: u64, make: u64) {
        self.make.store(make, Relaxed);
        self.pid.store(pid, Relaxed);
        self.born.store(born, Release); // [born]
    }

    /// Its process, and when that began; `None`: it has not said.
    pub(crate) fn process(&self) -> Option<(u32, u64)> {
        let born = self.born.load(Acquire); // [born]
        (born != 0).then(|| (self.pid.load(Relaxed), born))
    }

    /// Another process takes the seat, after the kernel's word of the death of the one before.
    pub(crate) fn take_seat(&self, pid: u32, role: u32) {
        for word in [&self.status, &self.leave] {
            word.store(0, Relaxed);
        }
        self.fault.store(0, Relaxed);
        self.role.store(role, Relaxed);
        self.pid.store(pid, Relaxed);
    }
}

impl Participant {
    /// Asks a worker to end once what it runs is finished, for a reason that is not 0. The first one asked for stands.
    pub(crate) fn ask_to_leave(&self, reason: u32) {
        // [leave] Release: what led to it comes before. Relaxed: a reason that stands says all there is to say.
        let _ = self.leave.compare_exchange(0, reason, Release, Relaxed);
        self.wake();
    }

    /// Has another reason to leave in place of this one: false, if it has not that one any more.
    #[cfg(not(all(test, any(loom, shuttle))))]
    pub(crate) fn leave_for(&self, reason: u32, instead: u32) -> bool {
        // [leave] as in `ask_to_leave`
        let is_so = self.leave.compare_exchange(reason, instead, Release, Relaxed).is_ok();
        self.wake();
        is_so
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

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    fn record() -> Box<Record> {
        // SAFETY: all of it is words, for which zeroes are valid.
        unsafe { Box::<Record>::new_zeroed().assume_init() }
    }

    #[test]
    fn labels_and_names_are_told_as_far_as_there_is_room() {
        let record = record();
        assert_eq!((record.label(), record.task_names()), (String::new(), Vec::new()));
        record.set_label("worker:10");
        record.set_label("worker:9");
        assert_eq!(record.label(), "worker:9");
        record.set_label(&"ä".repeat(100));
        assert_eq!(record.label(), "ä".repeat(32));
        let long = "x".repeat(1000);
        record.name_tasks([(7, "resize it"), (8, &long), (9, &long), (10, "two\nlines"), (u32::MAX, "last")]);
        let told = [(7, "resize it"), (8, &long), (u32::MAX, "last")].map(|(kind, name)| (kind, name.to_owned()));
        assert_eq!(record.task_names(), told);
    }

    #[test]
    fn endings_come_back_the_newest_first() {
        let record = record();
        assert_eq!(record.endings(), []);
        let ending =
            |pid| Ending { pid, role: 3, exit: 0x1_0209, requeued: 4, failed: u8::MAX, at_ms: u64::from(pid) * 64 };
        (1..=100).for_each(|pid| {
            record.note_ending(ending(pid));
            record.note_costs([300, 1]);
        });
        assert_eq!(record.costs(), [100, 30_000, 100]);
        let told = record.endings();
        assert_eq!((told.len(), told[0], told[62]), (63, ending(100), ending(38)));
        let late = Ending { at_ms: u64::MAX, role: u32::MAX, ..ending(1) };
        assert_eq!(Ending::of(late.bits()), Ending { at_ms: MOMENTS << MOMENT_SHIFT, ..late });
    }

    #[test]
    fn tasks_that_were_given_up_come_back_the_newest_first() {
        let record = record();
        assert_eq!((record.losses(), record.given_up()), (Vec::new(), 0));
        let loss = |pid| Loss {
            kind: u32::MAX,
            deaths: 255,
            is_poison: pid % 2 == 0,
            pid,
            exit: 0x1_0209,
            at_ms: u64::from(pid) * 64,
        };
        (1..=40).for_each(|pid| record.note_loss(loss(pid)));
        let told = record.losses();
        assert_eq!((told.len(), told[0], told[14]), (15, loss(40), loss(26)));
        assert_eq!((record.given_up(), record.endings()), (40, Vec::new()));
        let [day, late] = [24 * 3_600_000 * 60, u64::MAX].map(|at_ms| Loss::of(Loss { at_ms, ..loss(1) }.bits()).at_ms);
        assert_eq!((day, late), (24 * 3_600_000 * 60, MOMENTS << MOMENT_SHIFT), "in the second month too");
    }

    #[test]
    fn attempts_are_counted_by_kind_and_what_has_no_room_together() {
        for is_shared in [false, true] {
            let record = record();
            assert_eq!(record.counts().read().count(), 0);
            let kinds = (0..26u32).map(|i| i * 20); // of one place
            for kind in kinds.clone().chain(kinds) {
                record.counts().count(kind, How::Completed, (5, 7), is_shared);
            }
            record.counts().count(20, How::Failed, (0, 0), is_shared);
            record.counts().count(20, How::Retried, (0, 0), is_shared);
            let told: Vec<Count> = record.counts().read().collect();
            assert_eq!(told.len(), 21);
            let two = Count { kind: Some(0), completed: 2, waited: 10, ran: 14, ..Count::default() };
            assert_eq!((told[0], told[1]), (two, Count { kind: Some(20), failed: 1, retried: 1, ..two }));
            assert_eq!(told[20], Count { kind: None, completed: 12, waited: 60, ran: 84, ..two });
        }
    }

    #[test]
    fn attempts_are_counted_by_powers_of_two() {
        for is_shared in [false, true] {
            let record = record();
            for (waited, ran) in [(0, 1), (1, 2), (3, 4), (u64::MAX, u64::MAX)] {
                record.times().count(waited, ran, is_shared);
            }
            let seen = |words: &[AtomicU64; 64]| {
                words.iter().enumerate().map(|(i, w)| (i, w.load(Relaxed))).filter(|(_, n)| *n > 0).collect::<Vec<_>>()
            };
            assert_eq!(seen(&record.times().waits), [(0, 2), (1, 1), (63, 1)]);
            assert_eq!(seen(&record.times().runs), [(0, 1), (1, 1), (2, 1), (63, 1)]);
        }
    }
}
