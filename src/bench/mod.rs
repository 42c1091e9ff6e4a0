//! What `shmworker bench` measures: what this machine can do at most ([`limits`]), and how close a pool comes to that
//! ([`tasks`]).
//!
//! Each turn measures everything once, one after the other, so that whatever else the machine does meets all alike; ratios are
//! taken within a turn. Pools are those that users have: with a coordinator, supervision and time stamps.

mod limits;
mod stage;
mod tasks;

use crate::{
    limit::Message,
    pool::{PoolError, StartError, TaskError},
    process::exit::Exit,
};
use nix::errno::Errno;
pub(crate) use stage::Cpus;
use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

/// How often everything is measured.
const TURNS: u32 = 5;
/// Trips are timed so many at once that reading the clock costs nothing beside them, and fewer than a time slice holds.
const BATCH: Duration = Duration::from_micros(50);
/// Tasks under way at once are timed over more: some come back in bursts.
const BURSTS: Duration = Duration::from_millis(2);

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    #[error(
        "two sides that never sleep need two CPUs, and this process may use {0}: widen its affinity mask (taskset) or its \
         cgroup's CPU quota, or use a machine with more"
    )]
    Cpus(usize),
    #[error("cannot {step}: {source}")]
    Os { step: &'static str, source: Errno },
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error(transparent)]
    Task(#[from] TaskError),
    #[error("a process that takes part in the measurement ended with {0}")]
    Ended(Exit),
    #[error("the worker has not gone to sleep for {0:?}, though it has nothing to do: its machine may be too busy")]
    Awake(Duration),
    #[error("another answer came back than the one to the message that was sent: please report this")]
    Wrong,
}

fn os(step: &'static str) -> impl Fn(Errno) -> BenchError {
    move |source| BenchError::Os { step, source }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    /// 64 bytes there and back between two processes that share memory and look all the time.
    PingPong,
    /// The same between two processes that sleep on a futex each time.
    FutexPingPong,
    /// As [`PingPong`](Self::PingPong), but who answers has read 1 MiB first.
    Reading,
    /// A task of 64 bytes, there and back.
    Busy,
    /// The same, for a worker that sleeps.
    Asleep,
    /// As many tasks as possible in a second, for so many workers.
    Throughput(usize),
    /// A task that reads 1 MiB where its submitter wrote it.
    InPlace,
}

impl Measure {
    /// What bounds it.
    pub(crate) fn limit(self) -> Option<Measure> {
        match self {
            Measure::PingPong | Measure::FutexPingPong | Measure::Reading => None,
            Measure::Busy | Measure::Throughput(_) => Some(Measure::PingPong),
            Measure::Asleep => Some(Measure::FutexPingPong),
            Measure::InPlace => Some(Measure::Reading),
        }
    }

    /// Are its values so many a second? Else nanoseconds.
    pub(crate) fn is_rate(self) -> bool {
        matches!(self, Measure::Throughput(_))
    }

    /// Measures for about as long as `slot`.
    fn values(self, cpus: Cpus, slot: Duration) -> Result<Vec<f64>, BenchError> {
        match self {
            Measure::PingPong => limits::ping_pong(cpus, slot),
            Measure::FutexPingPong => limits::futex_ping_pong(cpus, slot),
            Measure::Reading => limits::reading(cpus, slot),
            Measure::Busy => tasks::busy(cpus, slot),
            Measure::Asleep => tasks::asleep(cpus, slot),
            Measure::Throughput(workers) => tasks::throughput(workers, slot),
            Measure::InPlace => tasks::in_place(cpus, slot),
        }
    }
}

/// What came of a measure, turn by turn.
pub(crate) struct Figure {
    pub(crate) measure: Measure,
    turns: Vec<Vec<f64>>,
}

impl Figure {
    /// Of all values.
    pub(crate) fn quantile(&self, q: f64) -> f64 {
        quantile(self.turns.concat(), q)
    }

    pub(crate) fn samples(&self) -> usize {
        self.turns.iter().map(Vec::len).sum()
    }

    fn medians(&self) -> impl Iterator<Item = f64> {
        self.turns.iter().map(|values| quantile(values.clone(), 0.5))
    }
}

fn quantile(mut values: Vec<f64>, q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * q).round() as usize]
}

/// All figures, in the order in which they were taken.
pub(crate) struct Report {
    pub(crate) figures: Vec<Figure>,
}

impl Report {
    /// How far a figure is from its limit: how many times as long it takes; of a rate, how many there are in the time of one.
    /// `None`: it is a limit.
    pub(crate) fn ratio(&self, figure: &Figure) -> Option<f64> {
        let limit = figure.measure.limit()?;
        let limit = self.figures.iter().find(|figure| figure.measure == limit)?;
        let of_turn = |(own, limit)| if figure.measure.is_rate() { own * limit / 1e9 } else { own / limit };
        Some(quantile(figure.medians().zip(limit.medians()).map(of_turn).collect(), 0.5))
    }
}

/// Measures for about so long, with pools of up to so many workers. The caller has one thread.
///
/// # Errors
/// [`BenchError`].
pub(crate) fn run(cpus: Cpus, time: Duration, workers: NonZeroUsize) -> Result<Report, BenchError> {
    let workers = workers.get();
    // 1, 2, 4 … and the number itself.
    let crews = (0..).map(|n| 1 << n).take_while(|n| *n < workers).chain([workers]).map(Measure::Throughput);
    let measures = [Measure::PingPong, Measure::FutexPingPong, Measure::Reading, Measure::Busy, Measure::Asleep]
        .into_iter()
        .chain(crews)
        .chain([Measure::InPlace]);
    let mut figures: Vec<Figure> = measures.map(|measure| Figure { measure, turns: Vec::new() }).collect();
    let slot = time / TURNS / figures.len() as u32;
    for _ in 0..TURNS {
        for figure in &mut figures {
            figure.turns.push(figure.measure.values(cpus, slot)?);
        }
    }
    Ok(Report { figures })
}

/// Does `trip` for as long as `slot`, the first fifth of it to warm up. Nanoseconds of a trip, a value for each batch that
/// takes about as long as `batch`.
fn batches(
    slot: Duration,
    batch: Duration,
    mut trip: impl FnMut() -> Result<(), BenchError>,
) -> Result<Vec<f64>, BenchError> {
    let (start, mut done) = (Instant::now(), 0);
    loop {
        trip()?;
        done += 1;
        if start.elapsed() >= slot / 5 {
            break;
        }
    }
    let each = start.elapsed().as_nanos() / done;
    let n = (batch.as_nanos() / each.max(1)).max(1);
    let mut values = Vec::new();
    while values.is_empty() || start.elapsed() < slot {
        let begun = Instant::now();
        for _ in 0..n {
            trip()?;
        }
        values.push(begun.elapsed().as_nanos() as f64 / n as f64);
    }
    Ok(values)
}

/// 1 MiB that somebody writes and another sums up.
mod payload {
    pub(super) const WORDS: usize = (1 << 20) / 8;
    /// The last word of a place that was written whole before.
    const MARK: u64 = 0x5eed;

    /// Writes one word; all of them in a place that is new.
    pub(super) fn write(place: &mut [u64], x: u64) {
        if place[WORDS - 1] != MARK {
            place.fill(7);
            place[WORDS - 1] = MARK;
        }
        place[0] = x;
    }

    #[inline(never)]
    pub(super) fn sum(words: &[u64]) -> u64 {
        words.iter().fold(0, |sum, word| sum.wrapping_add(*word))
    }

    /// What [`sum`] gives for what [`write`] wrote.
    pub(super) fn expected(x: u64) -> u64 {
        7 * (WORDS as u64 - 2) + MARK + x
    }
}
