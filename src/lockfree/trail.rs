//! The trail of a participant: the last things that it did, to be read after its death.
//!
//! A ring of [`EVENTS`] entries for each of the last two incarnations of an id, in turns, so that what the dead have left stays
//! until the second who comes after them. An entry is an attempt of a task, from its beginning to its end, or a sleep. Stamps are
//! those that the path has at hand: no clock is read for a trail, and an event without a stamp has its place in the order only.
//!
//! # Words
//!
//! | word                   | written by                            | read by | a death leaves                              |
//! |------------------------|---------------------------------------|---------|---------------------------------------------|
//! | `name`, `who`          | the participant, as it begins, when   | people  | a ring without a name, or the former one's, |
//! |                        | all entries are void                  |         | of which some entries are void already      |
//! | `fault`                | the participant, once, in the handler | people  | the task whose thread got a fatal signal    |
//! |                        | of a fatal signal; 0 as it begins     |         |                                             |
//! | an entry's `sequence`  | the participant: odd before the other | people  | one entry of each thread that is odd: void  |
//! |                        | words, even and higher after them     |         |                                             |
//! | `task`, `what`, `began`| the participant, in between           | people  | as above                                    |
//! | `ended`                | the participant: the sequence of the  | people  | an event that had not ended                 |
//! |                        | entry, in between; how and when it    |         |                                             |
//! |                        | ended, later                          |         |                                             |
//! | `beat`                 | the participant, during an attempt    | people  | the last one, or none                       |
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
//!   was of another entry. `ended` is one word: what is read there is the entry's own sequence, or what it became.
//!
//! # Crash
//!
//! A process may die between any two of these stores. The kernel keeps what it has stored, in an order in which all others see the
//! odd sequence before the first word that it announces: so a half-written entry is told, and all others are whole. That one entry
//! is then lost, the former of its place: the oldest. What is after the even sequence is one word.
//!
//! # Progress
//!
//! Wait-free with one thread; else lock-free: a failed exchange means that another thread has begun an entry.
//!
//! What checks this page: the tests below, `tests/autopsy.rs`.

use super::{participant::Name, table::TaskId, word::Task};
use crate::sync::{Acquire, AtomicU64, Relaxed, Release, fence, private};
use std::fmt;

/// Entries of a ring.
pub(crate) const EVENTS: usize = 32;

/// Of [`Entry::ended`]: how in the four highest bits, 0 as long as it has not; the stamp of that moment in the others.
const HOW_SHIFT: u32 = 60;
/// Of [`Entry::what`]: a sleep.
const SLEEP: u64 = 1 << 48;
/// Of [`Entry::beat`]: the last bits of the entry's sequence, so that none is taken for another's.
const BEAT_OF: u64 = 0xff;
const BEAT_SHIFT: u32 = 8;
/// No sequence comes that far.
const LAST: u64 = 1 << 56;
/// In place of a sequence: none. It is odd, as no entry's is.
const NOWHERE: u64 = 1;

/// Of one id.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Trail([Ring; 2]);

const _: () = assert!(size_of::<Trail>() == 3200);

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
    /// how 4 · stamp 60, a stamp as above.
    ended: AtomicU64,
    /// The last sign of life: pool time 56 · of which entry 8.
    beat: AtomicU64,
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

/// The end of a trail at which its participant writes. Its threads share it.
#[derive(Debug)]
pub(crate) struct Pen<'s> {
    ring: &'s Ring,
    /// The sequence of the next entry is the next even number.
    next: private::AtomicU64,
}

/// An event whose end is to follow: the sequence of its entry.
#[derive(Debug)]
pub(crate) struct Open(private::AtomicU64);

impl Default for Open {
    fn default() -> Open {
        Open(private::AtomicU64::new(NOWHERE))
    }
}

impl Trail {
    /// For the participant itself, as it begins.
    pub(crate) fn pen(&self, me: Name, pid: u32, role: u32) -> Pen<'_> {
        let ring = &self.0[(me.incarnation() % 2) as usize];
        let sequences = || ring.entries.iter().map(|entry| &entry.sequence);
        if ring.name.load(Relaxed) != me.bits() {
            ring.name.store(0, Relaxed);
            fence(Release); // [trail] Who reads an entry of ours finds no name of another before it.
            sequences().for_each(|sequence| sequence.store(0, Relaxed));
            ring.fault.store(0, Relaxed);
            ring.who.store(u64::from(pid) << 32 | u64::from(role), Relaxed);
            ring.name.store(me.bits(), Release);
        }
        // Another pen of this process may have written.
        let last = sequences().map(|sequence| sequence.load(Relaxed)).max().unwrap_or(0);
        let next = (last % LAST).next_multiple_of(2); // damage is no panic
        Pen { ring, next: private::AtomicU64::new(next) }
    }

    /// What is known of both incarnations, the later one first.
    pub(crate) fn read(&self) -> Vec<Left> {
        let mut left: Vec<Left> = self.0.iter().filter_map(Ring::read).collect();
        left.sort_by_key(|left| std::cmp::Reverse(left.name.incarnation()));
        left
    }
}

impl Pen<'_> {
    #[inline]
    fn entry(&self, at: u64) -> &Entry {
        &self.ring.entries[at as usize / 2 % EVENTS]
    }

    /// Writes an entry, and returns its sequence.
    #[inline]
    fn write(&self, task: u64, what: u64, began: u64, is_shared: bool) -> u64 {
        if is_shared {
            return self.write_beside_others(task, what, began);
        }
        let at = self.next.load(Relaxed);
        let entry = self.entry(at);
        entry.sequence.store(at + 1, Relaxed);
        entry.fill(at, task, what, began);
        self.next.store(at + 2, Relaxed);
        at
    }

    #[cold]
    #[inline(never)]
    fn write_beside_others(&self, task: u64, what: u64, began: u64) -> u64 {
        // Others may be at work in some, and no thread is in two.
        for _ in 0..EVENTS {
            let at = self.next.fetch_add(2, Relaxed);
            let sequence = &self.entry(at).sequence;
            let seen = sequence.load(Relaxed);
            // Relaxed: threads of one process, whose exchanges of one word have an order; what they write follows a fence.
            if seen % 2 == 0 && seen <= at && sequence.compare_exchange(seen, at + 1, Relaxed, Relaxed).is_ok() {
                self.entry(at).fill(at, task, what, began);
                return at;
            }
        }
        NOWHERE
    }

    /// Where the first task is noted whose thread gets a fatal signal.
    pub(crate) fn fault(&self) -> &AtomicU64 {
        &self.ring.fault
    }

    /// An attempt of this task, of which `word` is the task word, begins.
    #[inline]
    pub(crate) fn attempt(&self, open: &Open, index: u16, word: Task, kind: u32, began: u64, is_shared: bool) {
        let what = u64::from(index) << 32 | u64::from(kind);
        open.0.store(self.write(word.0, what, began, is_shared), Relaxed);
    }

    /// It, which this task is, has ended so, then or at a time that is not known: 0.
    #[inline]
    pub(crate) fn attempt_ended(
        &self,
        open: &Open,
        (index, word, kind): (u16, Task, u32),
        end: End,
        stamp: u64,
        is_shared: bool,
    ) {
        let at = open.0.load(Relaxed);
        if !self.end(at, end, stamp, is_shared) {
            // So many events ago did it begin that nothing is left of that. Or nobody said that it does.
            self.end_alone(u64::from(index) << 32 | u64::from(kind), word, end, stamp, is_shared);
        }
    }

    #[cold]
    #[inline(never)]
    fn end_alone(&self, what: u64, word: Task, end: End, stamp: u64, is_shared: bool) {
        let at = self.write(word.0, what, 0, is_shared);
        self.end(at, end, stamp, is_shared);
    }

    /// The event of this sequence ends. False: its entry is another's by now.
    #[inline]
    fn end(&self, at: u64, end: End, stamp: u64, is_shared: bool) -> bool {
        let (ended, bits) = (&self.entry(at).ended, (end as u64) << HOW_SHIFT | stamp);
        // Relaxed: one word, for people. Each entry has a sequence of its own there, so nobody else's is ended.
        if is_shared {
            return ended.compare_exchange(at, bits, Relaxed, Relaxed).is_ok();
        }
        let is_ours = ended.load(Relaxed) == at;
        if is_ours {
            ended.store(bits, Relaxed);
        }
        is_ours
    }

    /// An attempt gives a sign of life, at this pool time.
    pub(crate) fn beat(&self, open: &Open, now: u64) {
        let at = open.0.load(Relaxed);
        let entry = self.entry(at);
        if entry.sequence.load(Relaxed) == at + 2 {
            entry.beat.store(now << BEAT_SHIFT | (at / 2 / EVENTS as u64) & BEAT_OF, Relaxed);
        }
    }

    /// A sleep begins, at this pool time. Returns what is to be given to [`woken`](Self::woken).
    pub(crate) fn sleeps(&self, now: u64, is_shared: bool) -> u64 {
        self.write(0, SLEEP, now, is_shared)
    }

    pub(crate) fn woken(&self, at: u64, now: u64, is_shared: bool) {
        self.end(at, End::Woken, now, is_shared);
    }
}

impl Entry {
    /// By whoever has made the sequence odd.
    #[inline]
    fn fill(&self, at: u64, task: u64, what: u64, began: u64) {
        fence(Release); // [trail]
        self.task.store(task, Relaxed);
        self.what.store(what, Relaxed);
        self.began.store(began, Relaxed);
        self.ended.store(at, Relaxed);
        self.sequence.store(at + 2, Release); // [trail]
    }

    /// What stands there. `None`: nothing yet. `Err`: it is half written.
    fn read(&self, place: usize) -> Option<Result<Event, Torn>> {
        let sequence = self.sequence.load(Acquire); // [trail]
        let words = [&self.task, &self.what, &self.began, &self.ended, &self.beat].map(|word| word.load(Relaxed));
        fence(Acquire); // [trail]
        if sequence == 0 {
            return None;
        }
        let is_whole = sequence % 2 == 0 && self.sequence.load(Relaxed) == sequence;
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
    /// Pool time of the last sign of life.
    pub(crate) beat: Option<u64>,
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
    fn of(at: u64, place: usize, [task, what, began, ended, beat]: [u64; 5]) -> Option<Event> {
        let turn = at / 2;
        if turn as usize % EVENTS != place {
            return None;
        }
        let (word, how) = (Task(task), ended >> HOW_SHIFT);
        let task = TaskId { index: (what >> 32) as u16, generation: word.generation() };
        let is_beat_ours = beat != 0 && beat & BEAT_OF == turn / EVENTS as u64 & BEAT_OF;
        Some(Event {
            sequence: turn,
            what: match what & SLEEP {
                0 => What::Attempt { task, kind: what as u32, attempt: word.attempt() },
                _ => What::Sleep,
            },
            began,
            ended: if how == 0 { None } else { Some((End::of(how)?, ended & ((1 << HOW_SHIFT) - 1))) },
            beat: is_beat_ours.then_some(beat >> BEAT_SHIFT),
        })
    }
}

impl From<super::participant::How> for End {
    fn from(how: super::participant::How) -> End {
        use super::participant::How;
        match how {
            How::Completed => End::Completed,
            How::Failed => End::Failed,
            How::Cancelled => End::Cancelled,
            How::Retried => End::Retried,
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::{lockfree::word::Phase, sync::fate};

    fn trail() -> Box<Trail> {
        // SAFETY: all of it is words, for which zeroes are valid.
        unsafe { Box::<Trail>::new_zeroed().assume_init() }
    }

    fn word(generation: u64) -> Task {
        Task::new(Phase::Claimed, 3, 1, generation)
    }

    fn me(incarnation: u64) -> Name {
        Name::new(3, incarnation)
    }

    /// Attempts of the tasks with these generations, each ended.
    fn run(pen: &Pen<'_>, generations: std::ops::Range<u64>, is_shared: bool) {
        for n in generations {
            let open = Open::default();
            pen.attempt(&open, 7, word(n), 9, 100 + n, is_shared);
            pen.attempt_ended(&open, (7, word(n), 9), End::Completed, 200 + n, is_shared);
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
    fn the_last_events_are_told_in_their_order_whoever_writes_beside() {
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
            assert_eq!((last.began, last.ended, last.beat), (200, Some((End::Completed, 300)), None));
            pen.woken(at, 500, is_shared);
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
        // The same one once more goes on.
        run(&trail.pen(me(2), 12, 5), 53..54, false);
        assert_eq!(generations(&trail.read()[0]), [50, 51, 52, 53]);
        let pen = trail.pen(me(3), 13, 5);
        let left = trail.read();
        assert_eq!(left.iter().map(|l| l.name).collect::<Vec<_>>(), [me(3), me(2)]);
        assert!(left[0].events.is_empty() && left[0].torn == 0, "what it had of the first is void: {left:?}");
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
                let (told, torn) = (generations(left), left.torn);
                let last = left.events.last().unwrap();
                match told.last() {
                    Some(40) => {
                        assert_eq!((&told, torn), (&(9..41).collect(), 0), "{k}");
                        assert!(matches!(last.ended, None | Some((End::Completed, 240))) && last.began == 140, "{k}");
                    }
                    _ => assert!(
                        told == (9..40).collect::<Vec<_>>() && torn == 1
                            || told == (8..40).collect::<Vec<_>>() && torn == 0,
                        "{k}: {told:?}, {torn} torn"
                    ),
                }
                if life.is_some() {
                    assert_eq!(last.ended, Some((End::Completed, 240)));
                    break;
                }
            }
        }
    }

    #[test]
    fn an_end_finds_its_beginning_or_stands_alone() {
        for is_shared in [false, true] {
            let trail = trail();
            let pen = trail.pen(me(1), 1, 5);
            let outer = Open::default();
            pen.attempt(&outer, 1, word(1000), 9, 50, is_shared);
            run(&pen, 0..10, is_shared);
            pen.beat(&outer, 77);
            assert_eq!(trail.read()[0].events[0].beat, Some(77));
            run(&pen, 10..60, is_shared);
            // Its entry is another's by now, to which neither belongs.
            pen.beat(&outer, 78);
            pen.attempt_ended(&outer, (1, word(1000), 9), End::Retried, 90, is_shared);
            pen.attempt_ended(&Open::default(), (1, word(1001), 9), End::HandedBack, 0, is_shared);
            let left = &trail.read()[0];
            assert!(left.events.iter().all(|event| event.beat.is_none()), "{left:?}");
            let (ends, told) = (
                |end| left.events.iter().filter(|e| e.ended.is_some_and(|(e, _)| e == end)).count(),
                generations(left),
            );
            assert_eq!(told, (30..60).chain([1000, 1001]).collect::<Vec<_>>());
            assert_eq!([End::Completed, End::Retried, End::HandedBack].map(ends), [30, 1, 1]);
            assert_eq!((left.events[30].began, left.events[30].ended), (0, Some((End::Retried, 90))));
        }
    }

    #[test]
    fn threads_leave_whole_events_and_each_once() {
        let trail = trail();
        let pen = trail.pen(me(1), 1, 5);
        let threads = 4;
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let pen = &pen;
                scope.spawn(move || run(pen, thread * 10_000..thread * 10_000 + 10_000, true));
            }
            for _ in 0..1000 {
                let left = trail.read().pop().unwrap();
                for event in left.events {
                    let What::Attempt { task, .. } = event.what else { panic!("{event:?}") };
                    assert_eq!(event.began, 100 + task.generation, "{event:?}");
                    assert!(event.ended.is_none_or(|end| end == (End::Completed, 200 + task.generation)), "{event:?}");
                }
            }
        });
        let left = trail.read().pop().unwrap();
        let told = generations(&left);
        let distinct: std::collections::BTreeSet<_> = told.iter().collect();
        assert_eq!((left.torn, distinct.len()), (0, told.len()));
        assert!(left.events.iter().all(|event| event.ended.is_some()));
    }

    #[test]
    fn whatever_damage_is_in_its_words_it_is_only_wrong() {
        for bits in [1, 2, u64::MAX - 1, u64::MAX, 1 << 56, 5 << HOW_SHIFT] {
            let trail = trail();
            for ring in &trail.0 {
                ring.name.store(me(1).bits(), Relaxed);
                for entry in &ring.entries {
                    let Entry { sequence, task, what, began, ended, beat } = entry;
                    [sequence, task, what, began, ended, beat].map(|word| word.store(bits, Relaxed));
                }
            }
            trail.read();
            run(&trail.pen(me(1), 1, 5), 0..40, false);
            run(&trail.pen(me(1), 1, 5), 0..40, true);
            trail.read();
        }
    }
}
