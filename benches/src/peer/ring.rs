//! Rings by themselves: our lane, crossbeam's `ArrayQueue`, and the ring that both come from, between processes.

use crate::{
    Figures, Result, Skip,
    case::{Case, Contended, Placement},
    stage::{Cpus, Partner, Wait, pin, shared},
};
use crossbeam_queue::ArrayQueue;
use shmworker::bench_support::{LaneEnd, LaneWords};
use shmworker_benches::Unit;
use std::{
    cell::UnsafeCell,
    sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
    time::Instant,
};

/// As many as a queue's lane of a pool has.
const SLOTS: usize = 4096;

/// One process's, or thread's, end of a ring.
trait Ring {
    const ARE_THREADS: bool = false;
    /// False: it is full.
    fn push(&self, value: u16) -> bool;
    fn pop(&self) -> Option<u16>;
}

impl Ring for LaneEnd<'static> {
    fn push(&self, value: u16) -> bool {
        LaneEnd::push(self, value).expect("nobody has damaged it")
    }

    fn pop(&self) -> Option<u16> {
        LaneEnd::pop(self).expect("nobody has damaged it")
    }
}

impl Ring for &'static ArrayQueue<u64> {
    const ARE_THREADS: bool = true;

    fn push(&self, value: u16) -> bool {
        ArrayQueue::push(self, value.into()).is_ok()
    }

    fn pop(&self) -> Option<u16> {
        ArrayQueue::pop(self).map(|value| value as u16)
    }
}

/// A word on cache lines of its own.
#[repr(C, align(128))]
struct Line(AtomicU64);

/// Vyukov's bounded queue (<https://www.1024cores.net/home/lock-free-algorithms/queues/bounded-mpmc-queue>): a position is
/// taken first, and its slot is published in a second store. Who dies between these stops all others.
#[repr(C)]
struct Vyukov {
    tail: Line,
    head: Line,
    slots: [Slot; SLOTS],
}

#[repr(C)]
struct Slot {
    /// How often it was stepped on, less its own number: all zeros are an empty ring.
    turn: AtomicU64,
    value: UnsafeCell<u64>,
}

// SAFETY: whoever has taken the position that the turn names, and nobody else, touches the value.
unsafe impl Sync for Vyukov {}

impl Vyukov {
    /// Takes the next position of `cursor` where the slot has come `ahead` of it. `None`: it has not yet.
    fn take(&self, cursor: &AtomicU64, ahead: u64) -> Option<(&Slot, u64)> {
        let mut position = cursor.load(Relaxed);
        loop {
            let number = position % SLOTS as u64;
            let slot = &self.slots[number as usize];
            let turn = slot.turn.load(Acquire) + number;
            match turn.cmp(&(position + ahead)) {
                std::cmp::Ordering::Less => return None,
                std::cmp::Ordering::Greater => position = cursor.load(Relaxed),
                std::cmp::Ordering::Equal => {
                    match cursor.compare_exchange_weak(position, position + 1, AcqRel, Relaxed) {
                        Ok(_) => return Some((slot, position)),
                        Err(now) => position = now,
                    }
                }
            }
        }
    }
}

impl Ring for &'static Vyukov {
    fn push(&self, value: u16) -> bool {
        let Some((slot, position)) = self.take(&self.tail.0, 0) else { return false };
        // SAFETY: the position is ours, and its slot is empty.
        unsafe { *slot.value.get() = value.into() };
        slot.turn.store(position + 1 - position % SLOTS as u64, Release);
        true
    }

    fn pop(&self) -> Option<u16> {
        let (slot, position) = self.take(&self.head.0, 1)?;
        // SAFETY: the position is ours, and its slot is full.
        let value = unsafe { *slot.value.get() };
        slot.turn.store(position + SLOTS as u64 - position % SLOTS as u64, Release);
        Some(value as u16)
    }
}

pub(crate) fn run_lane(case: &Case) -> Result<Figures> {
    // SAFETY: a lane's words are atomics.
    let words: &'static LaneWords<SLOTS> = &unsafe { shared(1) }?[0];
    ring(case, move || LaneEnd::new(words))
}

pub(crate) fn run_vyukov(case: &Case) -> Result<Figures> {
    // SAFETY: made of words, where zeros are an empty ring; who writes to a value has its slot to itself.
    let ring_words: &'static Vyukov = &unsafe { shared(1) }?[0];
    ring(case, move || ring_words)
}

pub(crate) fn run_array_queue(case: &Case) -> Result<Figures> {
    let queue: &'static ArrayQueue<u64> = Box::leak(Box::new(ArrayQueue::new(SLOTS)));
    ring(case, move || queue)
}

fn ring<R: Ring>(case: &Case, end: impl Fn() -> R + Copy + Send + 'static) -> Result<Figures> {
    match *case {
        Case::Lane { contended: Contended::No, n } => alone(n, &end()),
        Case::Lane { contended, n } => both(contended, n, end),
        _ => Skip::because("it is a ring, and no more"),
    }
}

/// A push and a pop, in turn.
fn alone(n: u64, ring: &impl Ring) -> Result<Figures> {
    const BATCH: u64 = 10_000;
    let mut values = Vec::new();
    for _ in 0..2 + n.div_ceil(BATCH) {
        let begun = Instant::now();
        for x in 0..BATCH {
            if !ring.push(x as u16) || ring.pop() != Some(x as u16) {
                return Err("the ring gave another value than it took".into());
            }
        }
        values.push(begun.elapsed().as_nanos() as f64 / BATCH as f64);
    }
    // The first ones touch the memory.
    Ok((Unit::Ns, values.split_off(2)))
}

/// Two fill the ring at once, then both empty it, again and again. Nanoseconds per operation of the two together.
fn both<R: Ring>(contended: Contended, n: u64, end: impl Fn() -> R + Copy + Send + 'static) -> Result<Figures> {
    const EACH: u64 = SLOTS as u64 / 2;
    let cpus = Cpus::of(Placement::TwoCores)?;
    // SAFETY: atomics.
    let steps: &'static [Line] = unsafe { shared(2) }?;
    // Both begin a step when both have come to it: each says how far it has come.
    let meet = move |me: usize, step: u64| {
        steps[me].0.store(step, Release);
        Wait::Spin.until(|| (steps[1 - me].0.load(Acquire) >= step).then_some(()));
    };
    let fill = |ring: &R| (0..EACH).all(|x| ring.push(x as u16));
    let drain = |ring: &R| (0..EACH).all(|_| ring.pop().is_some());
    let rounds = 2 + n / (2 * EACH);
    let partner = move || -> Result<()> {
        pin(cpus.there)?;
        let ring = end();
        for round in 0..rounds {
            meet(1, 4 * round + 1);
            fill(&ring);
            meet(1, 4 * round + 2);
            meet(1, 4 * round + 3);
            drain(&ring);
            meet(1, 4 * round + 4);
        }
        Ok(())
    };
    let _partner = if R::ARE_THREADS { Partner::spawn(partner) } else { Partner::fork(partner) }?;
    pin(cpus.here)?;
    let ring = end();
    let mut values = Vec::new();
    let mut is_right = true;
    for round in 0..rounds {
        let mut step = |first: u64, wanted: Contended, act: &mut dyn FnMut()| {
            meet(0, 4 * round + first);
            let begun = Instant::now();
            act();
            meet(0, 4 * round + first + 1);
            if contended == wanted && round > 1 {
                values.push(begun.elapsed().as_nanos() as f64 / (2 * EACH) as f64);
            }
        };
        step(1, Contended::Fill, &mut || is_right &= fill(&ring));
        step(3, Contended::Drain, &mut || is_right &= drain(&ring));
    }
    if !is_right || ring.pop().is_some() {
        return Err("the ring has lost a value, or has one too many".into());
    }
    Ok((Unit::Ns, values))
}
