//! The trail of a participant: the last things that it did, to be read after its death.
//!
//! A ring of [`EVENTS`] entries for each of the last two incarnations of an id, in turns, so that what the dead have left stays
//! until the second who comes after them. An entry is an attempt of a task that has ended, or a sleep. What a participant runs just
//! now stands in the descriptors, and is in its trail once it is dead and its tasks are given to others: the coordinator writes
//! it before that, or who goes on with the segment after the death of all. So an attempt costs one entry, and no clock is read for it: stamps are those that the path has at hand, and
//! an event without one has its place in the order only.
//!
//! # Words
//!
//! | word                    | written by                            | read by | a death leaves                             |
//! |-------------------------|---------------------------------------|---------|--------------------------------------------|
//! | `name`, `who`           | the participant, as it begins, when   | people  | a ring without a name, or the former one's,|
//! |                         | all entries are void                  |         | of which some entries are void already     |
//! |                         | (a seat goes from process to process: |         | (of a seat: the process before)            |
//! |                         | `who` as each begins)                 |         |                                            |
//! | `fault`                 | the participant, once, in the handler | people  | the task whose thread got a fatal signal   |
//! |                         | of a fatal signal; 0 as it begins     |         |                                            |
//! | an entry's `sequence`   | the participant, and once it is dead  | people  | an entry of each of its threads that is    |
//! |                         | the coordinator: odd before the other |         | odd: void. Of the coordinator: one, beside |
//! |                         | words, even and higher after them     |         | tasks that are not settled: it is repeated |
//! | `task`, `what`, `began` | the same, in between                  | people  | as above                                   |
//! | `ended`                 | the same, in between; of a sleep its  | people  | a sleep that had not ended                 |
//! |                         | sequence, and as it ends that time    |         |                                            |
//!
//! # Invariants
//!
//! 1. An even sequence that is not 0 says that its entry is whole, and which one in the order of all it is.
//! 2. One thread at a time writes an entry: where threads share a trail, it is whoever has made the sequence odd. An entry in which
//!    another is still at work, a lap behind, is passed over.
//! 3. Damage to any of these words makes wrong reports and nothing else: no step depends on them.
//!
//! # Ordering
//!
//! - \[trail] The odd sequence is followed by a Release fence, the even one is stored with Release; who reads loads the sequence
//!   with Acquire, then the rest, fences (Acquire), and loads the sequence again. If it is the same and even, nothing in between
//!   was of another entry. What changes later, the end of a sleep, is one word.
//!
//! # Crash
//!
//! A process may die between any two of these stores. What it has stored stays, in an order in which all others see the odd
//! sequence before the first word that it announces: so a half-written entry is told, and all others are whole. With it the former
//! of its place is lost: the oldest. Who dies between the end of an attempt, which its submitter sees first, and the entry leaves
//! none of that one. The coordinator writes once the kernel has said that the participant is dead, which orders everything.
//!
//! # Progress
//!
//! Wait-free with one thread; else lock-free: a failed exchange means that another thread has begun an entry.
//!
//! What checks this page: the tests below, `tests/autopsy.rs`.

use super::{
    participant::{How, Name},
    table::{Owned, TaskId},
    word::Task,
};
use crate::sync::{Acquire, AtomicU64, Relaxed, Release, fence, private};
use std::fmt;

/// Entries of a ring.
pub(crate) const EVENTS: usize = 32;

/// Of [`Entry::ended`]: how in the four highest bits, 0 as long as it has not; the stamp of that moment in the others.
const HOW_SHIFT: u32 = 60;
/// Of [`Entry::what`]: a sleep.
const SLEEP: u64 = 1 << 48;
/// No sequence comes that far.
const LAST: u64 = 1 << 56;
/// In place of a sequence: none. It is odd, as no entry's is.
const NOWHERE: u64 = 1;

/// Of one id.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Trail([Ring; 2]);

const _: () = assert!(size_of::<Trail>() == 2688);

#[derive(Debug)]
#[repr(C)]
struct Ring {
    /// Whose it is; 0: nobody's yet.
    name: AtomicU64,
    /// Its process id and role: pid 32 · role 32.
    who: AtomicU64,
    /// The task whose thread got a fatal signal first ([`TaskId::note`]); 0: none is known.
    fault: AtomicU64,
    _spare: [AtomicU64; 5],
    entries: [Entry; EVENTS],
}

#[derive(Debug)]
#[repr(C)]
struct Entry {
    sequence: AtomicU64,
    /// The task word of an attempt.
    task: AtomicU64,
    /// Of an attempt: descriptor 16 · kind 32, low.
    what: AtomicU64,
    /// The stamp of its beginning, or 0; of a sleep pool time.
    began: AtomicU64,
    /// how 4 · stamp 60, as above. Of an attempt that had not ended 0 · pool time of its last heartbeat; of such a sleep 0 · its
    /// sequence.
    ended: AtomicU64,
}

/// How an event ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum End {
    /// Done: its result is well.
    Completed = 1,
    Failed = 2,
    Cancelled = 3,
    /// Another attempt is to follow.
    Retried = 4,
    /// It was handed back, and does not count.
    HandedBack = 5,
    /// A sleep has ended.
    Woken = 6,
}

impl End {
    fn of(bits: u64) -> Option<End> {
        use End::*;
        [Completed, Failed, Cancelled, Retried, HandedBack, Woken].into_iter().find(|&end| end as u64 == bits)
    }
}

impl From<How> for End {
    #[inline]
    fn from(how: How) -> End {
        match how {
            How::Completed => End::Completed,
            How::Failed => End::Failed,
            How::Cancelled => End::Cancelled,
            How::Retried => End::Retried,
        }
    }
}

/// The end of a trail at which its participant writes, and the coordinator in its place. Its threads share it.
#[derive(Debug)]
pub(crate) struct Pen<'s> {
    ring: &'s Ring,
    /// The sequence of the next entry is this one.
    next: private::AtomicU64,
}

impl Trail {
    /// For the participant itself, as it begins.
    pub(crate) fn pen(&self, me: Name, pid: u32, role: u32) -> Pen<'_> {
        let ring = self.ring(me);
        if ring.name.load(Relaxed) != me.bits() {
            ring.name.store(0, Relaxed);
            fence(Release); // [trail] Who reads an entry of ours finds no name of another before it.
            ring.entries.iter().for_each(|entry| entry.sequence.store(0, Relaxed));
            ring.fault.store(0, Relaxed);
            ring.name.store(me.bits(), Release);
        }
        // A seat goes from one process to another.
        ring.who.store(u64::from(pid) << 32 | u64::from(role), Relaxed);
        Pen::at_the_end_of(ring)
    }

    /// For the coordinator, once the participant is dead. `None`: that has never begun.
    pub(crate) fn pen_of(&self, dead: Name) -> Option<Pen<'_>> {
        let ring = self.ring(dead);
        (ring.name.load(Acquire) == dead.bits()).then(|| Pen::at_the_end_of(ring))
    }

    fn ring(&self, name: Name) -> &Ring {
        &self.0[(name.incarnation() % 2) as usize]
    }

    /// What is known of both incarnations, the later one first.
    pub(crate) fn read(&self) -> Vec<Left> {
        let mut left: Vec<Left> = self.0.iter().filter_map(Ring::read).collect();
        left.sort_by_key(|left| std::cmp::Reverse(left.name.incarnation()));
        left
    }
}

impl<'s> Pen<'s> {
    fn at_the_end_of(ring: &'s Ring) -> Pen<'s> {
        let last = ring.entries.iter().map(|entry| entry.sequence.load(Relaxed)).max().unwrap_or(0);
        let next = (last % LAST).next_multiple_of(2); // damage is no panic
        Pen { ring, next: private::AtomicU64::new(next) }
    }

    #[inline]
    fn entry(&self, at: u64) -> &Entry {
        &self.ring.entries[at as usize / 2 % EVENTS]
    }

    /// Writes an entry, and returns its sequence. `ended`: `None` for that.
    #[inline]
    fn write(&self, [task, what, began]: [u64; 3], ended: Option<u64>, is_shared: bool) -> u64 {
        if is_shared {
            return self.write_beside_others([task, what, began], ended);
        }
        let at = self.next.load(Relaxed);
        let entry = self.entry(at);
        entry.sequence.store(at + 1, Relaxed);
        entry.fill(at, [task, what, began, ended.unwrap_or(at)]);
        self.next.store(at + 2, Relaxed);
        at
    }

    #[inline(never)]
    fn write_beside_others(&self, [task, what, began]: [u64; 3], ended: Option<u64>) -> u64 {
        // Others may be at work in some, and no thread is in two.
        for _ in 0..EVENTS {
            let at = self.next.fetch_add(2, Relaxed);
            let sequence = &self.entry(at).sequence;
            let seen = sequence.load(Relaxed);
            // Relaxed: threads of one process, whose exchanges of one word have an order; what they write follows a fence.
            if seen.is_multiple_of(2) && seen <= at && sequence.compare_exchange(seen, at + 1, Relaxed, Relaxed).is_ok()
            {
                self.entry(at).fill(at, [task, what, began, ended.unwrap_or(at)]);
                return at;
            }
        }
        NOWHERE
    }

    /// Where the first task is noted whose thread gets a fatal signal.
    pub(crate) fn fault(&self) -> &AtomicU64 {
        &self.ring.fault
    }

    /// An attempt of the task of this kind has ended so. Stamps are 0 where none was taken.
    #[inline]
    pub(crate) fn ended(&self, task: Owned, kind: u32, end: End, (began, now): (u64, u64), is_shared: bool) {
        let ended = (end as u64) << HOW_SHIFT | now;
        self.write([task.word.0, what(task.index, kind), began], Some(ended), is_shared);
    }

    /// The participant, which is dead, had not ended this attempt. For the coordinator, who may say it again.
    pub(crate) fn left(&self, task: Owned, kind: u32, began: u64, heartbeat: u64) {
        let what = what(task.index, kind);
        let is_told = |entry: &Entry| {
            let [word, told, ended] = [&entry.task, &entry.what, &entry.ended].map(|word| word.load(Relaxed));
            word == task.word.0 && told == what && ended >> HOW_SHIFT == 0
        };
        if !self.ring.entries.iter().any(is_told) {
            self.write([task.word.0, what, began], Some(heartbeat), false);
        }
    }

    /// A sleep begins, at this pool time. Returns what is to be given to [`woken`](Self::woken).
    pub(crate) fn sleeps(&self, now: u64, is_shared: bool) -> u64 {
        self.write([0, SLEEP, now], None, is_shared)
    }

    /// That sleep has ended.
    pub(crate) fn woken(&self, at: u64, now: u64) {
        // Relaxed: one word, for people. Its sequence stands there, or the entry is another's by now.
        let _ = self.entry(at).ended.compare_exchange(at, (End::Woken as u64) << HOW_SHIFT | now, Relaxed, Relaxed);
    }
}

const fn what(index: u16, kind: u32) -> u64 {
    (index as u64) << 32 | kind as u64
}

impl Entry {
    /// By whoever has made the sequence odd.
    #[inline]
    fn fill(&self, at: u64, [task, what, began, ended]: [u64; 4]) {
        fence(Release); // [trail]
        self.task.store(task, Relaxed);
        self.what.store(what, Relaxed);
        self.began.store(began, Relaxed);
        self.ended.store(ended, Relaxed);
        self.sequence.store(at + 2, Release); // [trail]
    }

    /// What stands there. `None`: nothing yet. `Err`: it is half written.
    fn read(&self, place: usize) -> Option<Result<Event, Torn>> {
        let sequence = self.sequence.load(Acquire); // [trail]
        let words = [&self.task, &self.what, &self.began, &self.ended].map(|word| word.load(Relaxed));
        fence(Acquire); // [trail]
        if sequence == 0 {
            return None;
        }
        let is_whole = sequence.is_multiple_of(2) && self.sequence.load(Relaxed) == sequence;
        Some(if is_whole { Event::of(sequence - 2, place, words).ok_or(Torn) } else { Err(Torn) })
    }
}

impl Ring {
    fn read(&self) -> Option<Left> {
        let name = self.name.load(Acquire);
        let (mut events, mut torn) = (Vec::new(), 0);
        for (place, entry) in self.entries.iter().enumerate() {
            match entry.read(place) {
                None => {}
                Some(Ok(event)) => events.push(event),
                Some(Err(Torn)) => torn += 1,
            }
        }
        events.sort_by_key(|event| event.sequence);
        let (who, fault) = (self.who.load(Relaxed), self.fault.load(Relaxed));
        fence(Acquire);
        // A successor may have begun meanwhile.
        let is_same = name != 0 && self.name.load(Relaxed) == name;
        is_same.then(|| Left { name: Name::of(name), pid: (who >> 32) as u32, role: who as u32, fault, events, torn })
    }
}

/// What somebody did.
#[derive(Clone, Debug)]
pub(crate) struct Left {
    pub(crate) name: Name,
    pub(crate) pid: u32,
    /// Its `Participant::role`.
    pub(crate) role: u32,
    pub(crate) fault: u64,
    /// The oldest first.
    pub(crate) events: Vec<Event>,
    /// Entries that are half written: by one who died over it, or just now.
    pub(crate) torn: usize,
}

struct Torn;

/// An entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Which of this incarnation's it is, from 0.
    pub(crate) sequence: u64,
    pub(crate) what: What,
    /// A stamp of the task clock; of a sleep pool time. 0: none was taken.
    pub(crate) began: u64,
    /// How, and when, as above.
    pub(crate) ended: Option<(End, u64)>,
    /// Of an attempt that has not ended, pool time of the last sign of life; 0: it gave none.
    pub(crate) heartbeat: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// An attempt, from 0, of this task.
    Attempt {
        task: TaskId,
        kind: u32,
        attempt: u8,
    },
    Sleep,
}

impl fmt::Debug for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Attempt { task, kind, attempt } => {
                write!(f, "attempt {attempt} of {}.{}, kind {kind:#x}", task.index, task.generation)
            }
            What::Sleep => f.write_str("sleep"),
        }
    }
}

impl Event {
    /// `None`: that is none.
    fn of(at: u64, place: usize, [task, what, began, ended]: [u64; 4]) -> Option<Event> {
        let turn = at / 2;
        if turn as usize % EVENTS != place {
            return None;
        }
        let word = Task(task);
        let task = TaskId { index: (what >> 32) as u16, generation: word.generation() };
        let (how, stamp) = (ended >> HOW_SHIFT, ended & ((1 << HOW_SHIFT) - 1));
        let is_sleep = what & SLEEP != 0;
        Some(Event {
            sequence: turn,
            what: match is_sleep {
                true => What::Sleep,
                false => What::Attempt { task, kind: what as u32, attempt: word.attempt() },
            },
            began,
            ended: if how == 0 { None } else { Some((End::of(how)?, stamp)) },
            heartbeat: if how == 0 && !is_sleep { stamp } else { 0 },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lockfree::word::Phase, sync::fate};

    fn trail() -> Box<Trail> {
        // SAFETY: all of it is words, for which zeroes are valid.
        unsafe { Box::<Trail>::new_zeroed().assume_init() }
    }

    fn me(incarnation: u64) -> Name {
        Name::new(3, incarnation)
    }

    fn owned(generation: u64) -> Owned {
        Owned { index: 7, word: Task::new(Phase::Claimed, 3, 1, generation) }
    }

    /// Attempts of the tasks with these generations.
    fn run(pen: &Pen<'_>, generations: std::ops::Range<u64>, is_shared: bool) {
        for n in generations {
            pen.ended(owned(n), 9, End::Completed, (100 + n, 200 + n), is_shared);
        }
    }

    fn generations(left: &Left) -> Vec<u64> {
        let of = |event: &Event| match event.what {
            What::Attempt { task, .. } => task.generation,
            What::Sleep => panic!("nobody slept"),
        };
        left.events.iter().map(of).collect()
    }

    #[test]
    fn the_last_events_are_told_in_their_order() {
        for is_shared in [false, true] {
            let trail = trail();
            assert!(trail.read().is_empty());
            let pen = trail.pen(me(1), 4711, 5);
            run(&pen, 1..101, is_shared);
            let at = pen.sleeps(400, is_shared);
            let [left] = &trail.read()[..] else { panic!("one has written") };
            assert_eq!((left.name, left.pid, left.role, left.torn), (me(1), 4711, 5, 0));
            let (sleep, attempts) = left.events.split_last().unwrap();
            assert_eq!((sleep.what, sleep.began, sleep.ended, sleep.sequence), (What::Sleep, 400, None, 100));
            assert_eq!((attempts.len(), attempts[0].sequence), (EVENTS - 1, 101 - EVENTS as u64));
            let last = attempts.last().unwrap();
            let task = TaskId { index: 7, generation: 100 };
            assert_eq!(last.what, What::Attempt { task, kind: 9, attempt: 1 });
            assert_eq!((last.began, last.ended), (200, Some((End::Completed, 300))));
            pen.woken(at, 500);
            assert_eq!(trail.read()[0].events.last().unwrap().ended, Some((End::Woken, 500)));
        }
    }

    #[test]
    fn the_former_incarnation_is_told_until_the_next_but_one_begins() {
        let trail = trail();
        run(&trail.pen(me(1), 11, 5), 1..50, false);
        run(&trail.pen(me(2), 12, 5), 50..53, false);
        let left = trail.read();
        assert_eq!(left.iter().map(|l| (l.name, l.pid)).collect::<Vec<_>>(), [(me(2), 12), (me(1), 11)]);
        assert_eq!((generations(&left[0]), generations(&left[1])), ((50..53).collect(), (18..50).collect()));
        // The same one once more goes on, in another process if it is a seat.
        run(&trail.pen(me(2), 14, 5), 53..54, false);
        assert_eq!((generations(&trail.read()[0]), trail.read()[0].pid), (vec![50, 51, 52, 53], 14));
        let pen = trail.pen(me(3), 13, 5);
        let left = trail.read();
        assert_eq!(left.iter().map(|l| l.name).collect::<Vec<_>>(), [me(3), me(2)]);
        assert!(left[0].events.is_empty() && left[0].torn == 0, "what it had of the first is void: {left:?}");
        assert!(trail.pen_of(me(1)).is_none());
        run(&pen, 90..91, false);
        assert_eq!(generations(&trail.read()[0]), [90]);
    }

    #[test]
    fn who_dies_at_any_step_leaves_all_but_the_oldest_event_whole() {
        for is_shared in [false, true] {
            for k in 1.. {
                let trail = trail();
                run(&trail.pen(me(1), 1, 5), 0..40, is_shared);
                let pen = trail.pen(me(1), 1, 5);
                let life = fate::mortal(k, || run(&pen, 40..41, is_shared));
                let [left] = &trail.read()[..] else { panic!("{k}: its name is gone") };
                let first = if left.torn == 1 || left.events.last().unwrap().began == 140 { 9 } else { 8 };
                assert_eq!(generations(left), (first..first + 32 - left.torn as u64).collect::<Vec<_>>(), "{k}");
                assert!(left.torn < 2 && left.events.iter().all(|event| event.ended.is_some()), "{k}: {left:?}");
                if life.is_some() {
                    assert_eq!((left.torn, first), (0, 9), "{k}");
                    break;
                }
            }
        }
    }

    #[test]
    fn what_the_dead_had_not_ended_is_told_once() {
        let trail = trail();
        run(&trail.pen(me(1), 1, 5), 0..40, true);
        for _ in 0..3 {
            let coordinators = trail.pen_of(me(1)).unwrap();
            coordinators.left(owned(40), 9, 140, 177);
            coordinators.left(Owned { index: 8, ..owned(40) }, 9, 0, 0);
        }
        let left = &trail.read()[0];
        let told: Vec<_> = left.events.iter().map(|e| (e.began, e.ended.is_some(), e.heartbeat)).collect();
        assert_eq!(told[EVENTS - 3..], [(139, true, 0), (140, false, 177), (0, false, 0)]);
        assert_eq!((left.pid, left.role), (1, 5));
    }

    #[test]
    fn a_sleep_that_is_another_event_by_now_does_not_end() {
        let trail = trail();
        let pen = trail.pen(me(1), 1, 5);
        let at = pen.sleeps(50, true);
        run(&pen, 0..EVENTS as u64, true);
        let before = trail.read().pop().unwrap().events;
        pen.woken(at, 60);
        assert_eq!(trail.read().pop().unwrap().events, before);
    }

    #[test]
    fn threads_leave_whole_events_and_each_once() {
        let trail = trail();
        let pen = trail.pen(me(1), 1, 5);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let pen = &pen;
                scope.spawn(move || run(pen, thread * 10_000..thread * 10_000 + 10_000, true));
            }
            for _ in 0..1000 {
                for event in trail.read().pop().unwrap().events {
                    let What::Attempt { task, .. } = event.what else { panic!("{event:?}") };
                    let whole = (100 + task.generation, Some((End::Completed, 200 + task.generation)));
                    assert_eq!((event.began, event.ended), whole, "{event:?}");
                }
            }
        });
        let left = trail.read().pop().unwrap();
        let told = generations(&left);
        let distinct: std::collections::BTreeSet<_> = told.iter().collect();
        assert_eq!((left.torn, distinct.len()), (0, told.len()));
    }

    #[test]
    fn whatever_damage_is_in_its_words_it_is_only_wrong() {
        for bits in [1, 2, u64::MAX - 1, u64::MAX, 1 << 56, 5 << HOW_SHIFT] {
            let trail = trail();
            for ring in &trail.0 {
                ring.name.store(me(1).bits(), Relaxed);
                for entry in &ring.entries {
                    let Entry { sequence, task, what, began, ended } = entry;
                    [sequence, task, what, began, ended].iter().for_each(|word| word.store(bits, Relaxed));
                }
            }
            trail.read();
            let pen = trail.pen(me(1), 1, 5);
            run(&pen, 0..40, false);
            run(&pen, 0..40, true);
            pen.woken(bits, 1);
            trail.read();
        }
    }
}
