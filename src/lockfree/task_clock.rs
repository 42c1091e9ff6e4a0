//! The clock that says how long tasks wait and run: cheap enough for each of them.
//!
//! A stamp is a reading of the CPU's time stamp counter (`RDTSC`), where the kernel trusts it: half of what
//! CLOCK_MONOTONIC costs (15 and 32 ns under KVM), no fence, no call. Elsewhere it is CLOCK_MONOTONIC, which may even be a
//! system call, and so tasks are [sampled](Sampler). Which of the two stands in the header, so all
//! processes of a pool stamp alike. Stamps are for people: whatever has to meet a timer, or the coordinator's sleep, is pool
//! time ([`super::timer`]).
//!
//! # Why not a crate
//!
//! `quanta` and `minstant` know one process. Each that starts would calibrate for itself, in a loop of 10 to 200 ms, and a
//! stamp of one means nothing to another, since both give theirs an origin of their own; and `quanta` asks the CPU alone, which
//! does not know whether the counters of several sockets are in step. Here a raw reading travels, and the rate is measured
//! over the pool's own life.
//!
//! # Rate
//!
//! The header has one moment on both clocks, from its maker. Who converts reads a second one, and has the rate: no pause, and
//! the longer the pool has lived, the better. It is kept in the header until the pool is twice as old, and for good after
//! [`LONG`]. An error of `e` in reading a moment (some ten nanoseconds) thus makes any span that the pool has seen wrong by
//! `2 e` at most, until then; and by `e / LONG`, one part in 10⁸, from then on. CLOCK_MONOTONIC is slewed (by at most 500
//! parts in 10⁶, `adjtimex(2)`); stamps are not.
//!
//! In a suspended machine CLOCK_MONOTONIC stands still while the counter may go on, or begin anew. So a rate that differs from
//! the one before by more than clocks do is not believed, nor is there another measurement. What a task had to wait or run
//! meanwhile is as long as the counter says.
//!
//! # Words
//!
//! | word             | written by                          | read by            | a death leaves                        |
//! |------------------|-------------------------------------|--------------------|---------------------------------------|
//! | source, `origin` | the segment's maker, with its       | all                | see [`crate::mem::layout`]            |
//! |                  | identity                            |                    |                                       |
//! | `rate`           | whoever converts                    | the same           | the former rate, or the new one       |
//! | `until`          | whoever converts, after `rate`      | the same           | a rate that is measured once more     |
//! | `paused`         | the coordinator                     | all                | time that counts though the pool stood|
//! |                  |                                     |                    | still                                 |
//!
//! # Invariants
//!
//! 1. Of a segment that says "counter", each process has one: who has none does not open it ([`Source::of`]).
//! 2. A stamp is not 0. 0 is: none was taken.
//! 3. Damage to any of these words makes wrong durations and nothing else: no step depends on them.
//!
//! # Ordering
//!
//! None: all is Relaxed. Stamps travel with the task word. Two who measure at once store two rates that are both right, and
//! `until` of one beside `rate` of the other is a measurement sooner or later.
//!
//! # Progress
//!
//! Wait-free. What checks this page: the tests below.

use crate::sync::{
    AtomicU64, Relaxed, coarse, monotonic, private,
    ticks::{self, Pair},
};

/// After this much of a pool's life, in nanoseconds, its rate is known well enough.
const LONG: u64 = 10_000_000_000;
/// Tasks that are stamped in a tick of 1 to 10 ms (CONFIG_HZ).
const A_TICK: u64 = 16;
/// Binary places of a rate.
const PLACES: u32 = 32;
/// Before that, a rate is too rough to judge the next one by.
const SHORT: u64 = 10_000_000;
/// By which part a rate may differ from the one before: twice what CLOCK_MONOTONIC is slewed.
const SLEW: u64 = 1000;

/// What stamps are readings of. The values stand in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Source {
    /// CLOCK_MONOTONIC, in nanoseconds.
    Monotonic = 0,
    /// The CPU's counter.
    Counter = 1,
}

impl Source {
    /// The cheapest that can be trusted on this machine.
    pub(crate) fn best() -> Source {
        // Tests move the time, and the counter would not follow.
        if cfg!(not(any(test, fuzzing))) && ticks::is_trusted() { Source::Counter } else { Source::Monotonic }
    }

    /// `None`: there is no such source, or not on this CPU.
    pub(crate) fn of(bits: u64) -> Option<Source> {
        [Source::Monotonic, Source::Counter]
            .into_iter()
            .find(|&s| s as u64 == bits)
            .filter(|&s| s == Source::Monotonic || ticks::has_counter())
    }

    /// One moment on both clocks.
    pub(crate) fn pair(self) -> Pair {
        match self {
            Source::Monotonic => {
                let now = monotonic();
                Pair { ticks: now, ns: now }
            }
            Source::Counter => ticks::pair(),
        }
    }
}

/// Words of the clock that change.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct ClockWords {
    /// Nanoseconds of a tick, times 2³²; 0: nobody has measured.
    rate: AtomicU64,
    /// The stamp after which the rate is measured again.
    until: AtomicU64,
    /// Ticks in which the pool was stopped, so far.
    paused: AtomicU64,
}

#[cfg(test)]
impl ClockWords {
    pub(crate) fn new() -> ClockWords {
        ClockWords { rate: AtomicU64::new(0), until: AtomicU64::new(0), paused: AtomicU64::new(0) }
    }
}

/// Of which tasks a process takes times where a reading is dear: of the first [`A_TICK`] in each tick of the kernel's. So a process
/// that submits less than some thousand a second has the times of all, and one that submits a million pays for few.
///
/// Threads share it, and may all be the first.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    tick: private::AtomicU64,
    taken: private::AtomicU64,
}

impl Sampler {
    fn is_due(&self, tick: u64) -> bool {
        let taken = if self.tick.load(Relaxed) == tick { self.taken.load(Relaxed) } else { 0 };
        if taken < A_TICK {
            self.taken.store(taken + 1, Relaxed);
            self.tick.store(tick, Relaxed);
        }
        taken < A_TICK
    }
}

/// The clock of a pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TaskClock<'s> {
    pub(crate) source: Source,
    /// Tasks are stamped.
    pub(crate) is_on: bool,
    pub(crate) origin: Pair,
    pub(crate) words: &'s ClockWords,
}

impl TaskClock<'_> {
    /// The present moment, for a task that this process submits; 0 where the pool takes no times, or not of this one.
    #[inline]
    pub(crate) fn stamp(&self, sampler: &Sampler) -> u64 {
        let is_taken = self.is_on && (self.source == Source::Counter || sampler.is_due(coarse()));
        if is_taken { self.now() } else { 0 }
    }

    /// The present moment, wanted or not. Never 0.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        let ticks = match self.source {
            Source::Counter => ticks::counter(),
            Source::Monotonic => monotonic(),
        };
        ticks.saturating_sub(self.words.paused.load(Relaxed)).max(1)
    }

    /// Nanoseconds from one stamp to another; 0 where one was not taken, or the second is not the later one.
    ///
    /// Not where the segment is mapped read-only: it may have to note the rate.
    pub(crate) fn ns_between(&self, from: u64, to: u64) -> u64 {
        if from == 0 {
            return 0;
        }
        self.ns_until(to, to.saturating_sub(from))
    }

    /// Nanoseconds of so many ticks, for who only looks: by the rate that is known, else by one that is measured and not kept.
    #[cfg(not(all(test, any(loom, shuttle))))]
    pub(crate) fn ns_seen(&self, ticks: u64) -> u64 {
        if self.source == Source::Monotonic {
            return ticks;
        }
        let known = self.words.rate.load(Relaxed);
        scaled(ticks, if known == 0 { self.rate_at(self.source.pair()) } else { known })
    }

    /// Nanoseconds of so many ticks, by the rate that is known: one of [`ns_between`](Self::ns_between) finds a better one.
    #[cfg(test)]
    fn ns(&self, ticks: u64) -> u64 {
        self.ns_until(1, ticks)
    }

    fn ns_until(&self, stamp: u64, ticks: u64) -> u64 {
        if self.source == Source::Monotonic {
            return ticks;
        }
        if stamp > self.words.until.load(Relaxed) {
            self.measure(self.source.pair());
        }
        scaled(ticks, self.words.rate.load(Relaxed))
    }

    fn since_origin(&self, now: Pair) -> (u64, u64) {
        (now.ticks.saturating_sub(self.origin.ticks), now.ns.saturating_sub(self.origin.ns))
    }

    /// The rate from the pool's beginning to this moment.
    fn rate_at(&self, now: Pair) -> u64 {
        let (ticks, ns) = self.since_origin(now);
        let rate = (u128::from(ns) << PLACES).checked_div(ticks.into()).and_then(|r| u64::try_from(r).ok());
        rate.unwrap_or(0)
    }

    /// Finds the rate, given the present moment.
    fn measure(&self, now: Pair) {
        let (ticks, ns) = self.since_origin(now);
        let (rate, former) = (self.rate_at(now), self.words.rate.load(Relaxed));
        let measured_over = scaled(self.words.until.load(Relaxed).saturating_sub(self.origin.ticks) / 2, former);
        let is_believed = measured_over < SHORT || rate.abs_diff(former) <= former / SLEW;
        if is_believed {
            self.words.rate.store(rate, Relaxed);
        }
        let until = if is_believed && ns < LONG { now.ticks.saturating_add(ticks) } else { u64::MAX };
        self.words.until.store(until, Relaxed);
    }

    /// The pool has stood still for so many nanoseconds. Coordinator only.
    pub(crate) fn was_stopped(&self, ns: u64) {
        let ticks = match self.source {
            Source::Monotonic => ns,
            Source::Counter => {
                let now = self.now();
                let rate = self.ns_between(now, now.saturating_add(1 << PLACES)).max(1);
                u64::try_from((u128::from(ns) << PLACES) / u128::from(rate)).unwrap_or(u64::MAX)
            }
        };
        let word = &self.words.paused;
        word.store(word.load(Relaxed).saturating_add(ticks), Relaxed); // no other writer
    }
}

fn scaled(ticks: u64, rate: u64) -> u64 {
    u64::try_from((u128::from(ticks) * u128::from(rate)) >> PLACES).unwrap_or(u64::MAX)
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::sync::NOW;

    const MS: u64 = 1_000_000;

    /// Of 3 ticks a nanosecond, from the first of these moments.
    fn clock(words: &ClockWords, origin: Pair) -> TaskClock<'_> {
        TaskClock { source: Source::Counter, is_on: true, origin, words }
    }

    fn after(ns: u64) -> Pair {
        Pair { ticks: (1 << 40) + 3 * ns, ns: (1 << 50) + ns }
    }

    #[test]
    fn the_rate_is_measured_over_the_life_of_the_pool_and_ever_more_seldom() {
        let words = ClockWords::new();
        let clock = clock(&words, after(0));
        clock.measure(after(0));
        assert_eq!(scaled(3000, words.rate.load(Relaxed)), 0, "there is none yet");
        // Rough, since it is of a moment: 30 ns of 100 went into the reading.
        clock.measure(Pair { ticks: after(100).ticks, ns: after(130).ns });
        assert_eq!(words.until.load(Relaxed), after(200).ticks);
        clock.measure(after(MS));
        assert_eq!(scaled(3 * MS, words.rate.load(Relaxed)), MS - 1, "of 32 binary places");
        clock.measure(after(LONG / 2));
        assert_eq!(words.until.load(Relaxed), after(LONG).ticks);
        clock.measure(after(LONG));
        assert_eq!(words.until.load(Relaxed), u64::MAX, "for good");
    }

    #[test]
    fn a_machine_that_was_suspended_does_not_spoil_the_rate() {
        let hour = 3_600_000 * MS;
        for then in [
            Pair { ticks: after(hour).ticks, ns: after(8 * SHORT).ns }, // the counter went on
            Pair { ticks: 5, ns: after(8 * SHORT).ns },                 // it began anew
        ] {
            let words = ClockWords::new();
            let clock = clock(&words, after(0));
            clock.measure(after(2 * SHORT));
            let rate = words.rate.load(Relaxed);
            clock.measure(then);
            assert_eq!((words.rate.load(Relaxed), words.until.load(Relaxed)), (rate, u64::MAX), "{then:?}");
        }
    }

    #[test]
    fn a_slewed_clock_is_believed() {
        let words = ClockWords::new();
        let clock = clock(&words, after(0));
        clock.measure(after(2 * SHORT));
        let slewed = Pair { ns: after(4 * SHORT).ns + 4 * SHORT / 2000, ..after(4 * SHORT) };
        clock.measure(slewed);
        assert_eq!(words.until.load(Relaxed), after(8 * SHORT).ticks);
        assert_eq!(scaled(3 * SHORT, words.rate.load(Relaxed)), SHORT + SHORT / 2000 - 1);
    }

    #[test]
    fn the_counter_measures_what_the_kernels_clock_does() {
        if !ticks::is_trusted() {
            return eprintln!("skipped: the kernel does not trust this machine's time stamp counter");
        }
        let words = ClockWords::new();
        let clock = clock(&words, ticks::pair());
        let began = monotonic();
        let outer = clock.now();
        let inner_began = monotonic();
        while monotonic() < inner_began + 20 * MS {}
        let inner = monotonic() - inner_began;
        let ns = clock.ns_between(outer, clock.now());
        let all = monotonic() - began;
        // The kernel's clock may be slewed meanwhile.
        assert!((inner - inner / SLEW..=all + all / SLEW).contains(&ns), "{ns}, of {inner} to {all}");
    }

    #[test]
    fn a_stop_does_not_count() {
        for source in [Source::Monotonic, Source::Counter] {
            if source == Source::Counter && !ticks::is_trusted() {
                eprintln!("skipped: the kernel does not trust this machine's time stamp counter");
                continue;
            }
            let words = ClockWords::new();
            let clock = TaskClock { source, ..clock(&words, source.pair()) };
            while monotonic() < clock.origin.ns + SHORT {}
            let before = clock.now();
            let hour = 3_600_000 * MS;
            clock.was_stopped(hour);
            assert!(clock.now() < before, "an hour has not gone by since");
            let stopped = clock.ns(words.paused.load(Relaxed));
            assert!(stopped.abs_diff(hour) < hour / SLEW, "{stopped}");
        }
    }

    #[test]
    fn without_times_there_is_no_stamp_but_for_who_insists() {
        let words = ClockWords::new();
        let clock = TaskClock { source: Source::Monotonic, is_on: false, ..clock(&words, Pair::default()) };
        assert_eq!(clock.stamp(&Sampler::default()), 0);
        let from = clock.now();
        assert_eq!((clock.ns_between(0, from), clock.ns_between(from, from + 5)), (0, 5));
    }

    #[test]
    fn a_dear_clock_is_read_for_the_first_tasks_of_a_tick_only() {
        let sampler = Sampler::default();
        let due = |tick| (0..1000).filter(|_| sampler.is_due(tick)).count() as u64;
        assert_eq!([7, 7, 8, 12].map(due), [A_TICK, 0, A_TICK, A_TICK]);
        let words = ClockWords::new();
        let dear = TaskClock { source: Source::Monotonic, is_on: true, ..clock(&words, Pair::default()) };
        let is_stamped = |clock: &TaskClock<'_>| (0..1000).filter(|_| clock.stamp(&sampler) != 0).count() as u64;
        NOW.set(Some(1));
        assert_eq!(is_stamped(&dear), A_TICK);
        NOW.set(None);
        if ticks::is_trusted() {
            assert_eq!(is_stamped(&TaskClock { source: Source::Counter, ..dear }), 1000);
        }
    }

    #[test]
    fn whatever_damage_is_in_its_words_it_is_only_wrong() {
        for damage in [0, 1, u64::MAX / 2, u64::MAX] {
            for which in 0..3 {
                let words = ClockWords::new();
                let clock = clock(&words, Pair { ticks: damage, ns: u64::MAX - damage });
                [&words.rate, &words.until, &words.paused][which].store(damage, Relaxed);
                clock.measure(Pair { ticks: 5, ns: 7 });
                clock.measure(after(0));
                clock.ns_between(1, damage);
                clock.was_stopped(damage);
                assert_ne!(clock.now(), 0);
            }
        }
    }

    #[test]
    fn a_source_that_is_none_is_none() {
        assert_eq!(Source::of(Source::Monotonic as u64), Some(Source::Monotonic));
        assert_eq!(Source::of(2), None);
        assert_eq!(Source::of(Source::Counter as u64).is_some(), ticks::has_counter());
    }
}
