//! Looking for a while before sleeping: how long, and how often.
//!
//! To sleep and be woken costs 5 µs on a bare machine, and 30 to 60 under a hypervisor, for which an idle CPU has to be kicked.
//! What comes within that time is worth waiting for awake; what comes later isn't, and while others want the CPU nothing is. So
//! the budget follows what came of it: a wait that turned out long halves it; one that was over so soon that it would better not
//! have slept restores it, or two who wait for each other would sleep by turns for ever, each for as long as the other takes to
//! wake up. And who spins for more than some microseconds offers its CPU to others between two looks.
//!
//! Who looks too often is in the way: each look at a slot takes its cache line from whoever is about to fill it. Where tasks come
//! one by one, and sooner than it takes to look for them, [`GATHER`] pauses are made before the second look, so that several are
//! there. Where they come in answer to what was done, as in a round trip, that would only add to the way: so not unless [`DENSE`]
//! in a row came within [`CLOSE`] looks, and where it brought one alone, not before twice as many did. It is 5 µs, a fraction of
//! what a sleep and its wake would take, and ten times what a round trip takes.
//!
//! Private to a process. Threads may share it: all of it is a guess.

use crate::sync::spin_loop;
use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// What some sleeps and their wakes cost. The other side adds up a megabyte in 100 µs: who slept meanwhile would take half as long again.
const MOST: Duration = Duration::from_micros(150);
/// What comes sooner again has to be found out.
const LEAST: Duration = Duration::from_micros(1);
/// Looks between two at the time.
const LOOKS: u32 = 8;
/// Looks after which the CPU is offered to others between two: some 4 µs, more than a round trip takes.
const POLITE: u32 = 128;
/// Looks of one whose CPU others want.
const YIELDS: u32 = 16;
const CLOSE: u32 = 3;
const DENSE: u32 = 8;
/// As many at most. A round trip's answer may come within [`CLOSE`] looks every time: this is how often it is then kept waiting.
const SPARSE: u32 = 1 << 14;
const GATHER: u32 = 320;

#[derive(Debug)]
pub(super) struct Spin {
    /// In nanoseconds, as `budget`. 0: another CPU can bring nothing meanwhile.
    most: u64,
    budget: AtomicU64,
    /// How many in a row came within a few looks; [`GATHERED`]: so did the last, in pauses made for several.
    close: AtomicU32,
    /// So many of them have such pauses made.
    dense: AtomicU32,
    /// How many have come since the last such pauses, one by one.
    found: AtomicU32,
}

const GATHERED: u32 = u32::MAX;

impl Spin {
    pub(super) fn usual() -> Spin {
        Spin::up_to(MOST)
    }

    pub(super) fn up_to(most: Duration) -> Spin {
        let most = most.as_nanos() as u64;
        Spin {
            most,
            budget: AtomicU64::new(most),
            close: AtomicU32::new(0),
            dense: AtomicU32::new(DENSE),
            found: AtomicU32::new(0),
        }
    }

    /// One has come, in a [`wait`](Self::wait) or without.
    #[inline]
    pub(super) fn found(&self) {
        self.found.store(self.found.load(Relaxed).wrapping_add(1), Relaxed); // a few may be lost between threads
    }

    /// `look`s until that finds something, or for as long as it is worth it. `is_crowded`: others want the CPU, and it is theirs.
    /// True beside what is found: it was looked for all the time, so it has just come. `Err`: when it began to wait, for
    /// [`took`](Self::took) once that is over.
    pub(super) fn wait<T, E>(
        &self,
        is_crowded: bool,
        mut look: impl FnMut() -> Result<Option<T>, E>,
    ) -> Result<Result<(T, bool), Instant>, E> {
        if let Some(found) = look()? {
            return Ok(Ok((found, false)));
        }
        if self.close.load(Relaxed) == GATHERED {
            self.judge(self.found.load(Relaxed) > 1);
        }
        if is_crowded {
            let began = Instant::now();
            // What is waited for comes sooner if others run: without a sleep and its wake, if they only wait for the CPU.
            for _ in 0..YIELDS {
                std::thread::yield_now();
                if let Some(found) = look()? {
                    return Ok(Ok((found, false)));
                }
            }
            return Ok(Err(began));
        }
        let budget = Duration::from_nanos(self.budget.load(Relaxed).min(self.most));
        if budget.is_zero() {
            return Ok(Err(Instant::now()));
        }
        let close = self.close.load(Relaxed);
        let gathers = close >= self.dense.load(Relaxed);
        if gathers {
            (0..GATHER).for_each(|_| spin_loop());
            self.found.store(0, Relaxed);
        }
        let mut began = None;
        for i in 0.. {
            // Not before the first looks: to ask for the time takes as long as some of them.
            if i > 0 && i % LOOKS == 0 && began.get_or_insert_with(Instant::now).elapsed() >= budget {
                break;
            }
            if let Some(found) = look()? {
                let close = if i > CLOSE {
                    0
                } else if gathers {
                    GATHERED
                } else {
                    close + 1
                };
                self.close.store(close, Relaxed);
                return Ok(Ok((found, i > 0 && i <= POLITE)));
            }
            // Who is waited for may want this very CPU.
            if i < POLITE { spin_loop() } else { std::thread::yield_now() }
        }
        self.close.store(0, Relaxed);
        Ok(Err(began.unwrap_or_else(Instant::now)))
    }

    /// What pauses for several have brought: several, or one alone.
    #[cold]
    fn judge(&self, several: bool) {
        let dense = if several { DENSE } else { SPARSE.min(self.dense.load(Relaxed) * 2) };
        self.dense.store(dense, Relaxed);
        self.close.store(if several { dense } else { 0 }, Relaxed);
    }

    /// So long it took in all until something came, sleep included.
    pub(super) fn took(&self, all: Duration) {
        let all = all.as_nanos() as u64;
        // A part of a short wait was the wake itself.
        let budget = if all <= self.most + self.most / 2 { self.most } else { self.budget.load(Relaxed) / 2 };
        self.budget.store(budget.max(LEAST.as_nanos() as u64), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    /// Waits for what comes at the `n`-th look, from 0. Returns how many looks there were.
    fn wait(spin: &Spin, is_crowded: bool, n: u32) -> u32 {
        let mut looks = 0;
        let look = || -> Result<_, Infallible> {
            looks += 1;
            Ok((looks > n).then(|| spin.found()))
        };
        let Ok(found) = spin.wait(is_crowded, look);
        assert_eq!(found.is_ok(), looks > n);
        looks
    }

    #[test]
    fn the_budget_is_halved_by_what_took_long_and_restored_by_what_did_not() {
        let spin = Spin::usual();
        let most = spin.most;
        let budget = |took: Duration| {
            spin.took(took);
            spin.budget.load(Relaxed)
        };
        assert_eq!([3 * MOST, Duration::from_secs(9), 3 * MOST].map(budget), [most / 2, most / 4, most / 8]);
        assert_eq!([3 * MOST; 9].map(budget)[8], LEAST.as_nanos() as u64);
        assert_eq!([3 * MOST / 2, 2 * MOST].map(budget), [most, most / 2]);
    }

    #[test]
    fn who_is_in_the_way_of_others_hardly_looks() {
        assert_eq!(wait(&Spin::usual(), true, u32::MAX), 1 + YIELDS);
        assert_eq!(wait(&Spin::up_to(Duration::ZERO), false, u32::MAX), 1);
    }

    #[test]
    fn it_gathers_where_all_came_soon_and_that_brings_several() {
        let spin = Spin::up_to(Duration::from_secs(100));
        for _ in 0..DENSE {
            wait(&spin, false, CLOSE);
        }
        assert_eq!(spin.close.load(Relaxed), DENSE);
        wait(&spin, false, 0);
        assert_eq!(spin.close.load(Relaxed), DENSE, "what is there at once says nothing of how it came");
        for _ in 0..3 {
            wait(&spin, false, 1);
            assert_eq!((spin.close.load(Relaxed), spin.dense.load(Relaxed)), (GATHERED, DENSE));
            spin.found(); // by who has not waited, since it was there
        }
        wait(&spin, false, CLOSE + 2);
        assert_eq!(spin.close.load(Relaxed), 0);
    }

    #[test]
    fn a_round_trip_is_hardly_ever_kept_waiting() {
        let spin = Spin::up_to(Duration::from_secs(100));
        let mut gathered = 0;
        for _ in 0..1000 {
            wait(&spin, false, 1);
            gathered += u32::from(spin.close.load(Relaxed) == GATHERED);
        }
        assert!((1..=10).contains(&gathered), "{gathered} of 1000");
    }
}
