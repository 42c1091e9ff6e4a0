//! What is to be reached, as ratios within one run on one machine.

use crate::{
    plan::{self, Kind},
    results::{Measured, Results},
};
use shmworker_benches::{Digits, Unit};

/// One line of the table of targets.
pub(crate) struct Target {
    pub(crate) case: &'static str,
    pub(crate) what: String,
    /// `None`: not measured in this run.
    pub(crate) is: Option<f64>,
    pub(crate) bound: Bound,
    pub(crate) aim: Option<f64>,
    /// `None`: a ratio.
    pub(crate) unit: Option<Unit>,
}

#[derive(Clone, Copy)]
pub(crate) enum Bound {
    /// Infinite: there is only something to aim for.
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    pub(crate) fn show(&self, value: f64) -> String {
        self.unit.map_or_else(|| Digits(value).to_string(), |unit| unit.show(value))
    }

    pub(crate) fn verdict(&self) -> &'static str {
        let Some(is) = self.is else { return "not measured" };
        let holds = |bound: f64| if matches!(self.bound, Bound::AtMost(_)) { is <= bound } else { is >= bound };
        let (Bound::AtMost(bound) | Bound::AtLeast(bound)) = self.bound;
        match (holds(bound), self.aim.map(holds)) {
            (false, _) => "**missed**",
            (true, Some(true)) => "reached, the aim too",
            (true, _) if bound.is_finite() => "reached",
            (true, _) => "aim missed",
        }
    }
}

const OURS: &str = "pool";

pub(crate) fn targets(results: &Results) -> Vec<Target> {
    use Bound::{AtLeast, AtMost};
    let mut targets = Vec::new();
    let mut add = |case, what: &str, is, bound, aim| {
        targets.push(Target { case, what: what.to_owned(), is, bound, aim, unit: None });
    };
    let ratio = |case: &str, of, to| results.table(case).and_then(|t| t.ratio(of, to));
    let figure = |case: &str, number| {
        let row = results.table(case)?.row(OURS)?;
        Some((row.quantile(number, 0.5), results.table(case)?.case.clone()))
    };
    // The best of those that reach another process from Rust.
    let best = |table: &Measured, is_better: fn(f64, f64) -> bool| -> Option<String> {
        let others = table.rows.iter().filter(|r| plan::find(&r.peer).is_some_and(|p| p.kind == Kind::Processes));
        let medians = others.filter_map(|r| Some((table.median(&r.peer)?, r.peer.clone())));
        Some(medians.reduce(|a, b| if is_better(a.0, b.0) { a } else { b })?.1)
    };

    let busy = "round_trip placement=two-cores";
    add("(a) busy", "times the ping-pong with payload", ratio(busy, OURS, "raw"), AtMost(1.5), Some(1.2));
    let nearest = results.table(busy).and_then(|t| t.ratio(OURS, &best(t, |a, b| a < b)?));
    add("(a) busy", "times the fastest inter-process peer", nearest, AtMost(1.0), None);
    add(
        "(a) busy",
        "times `ArrayQueue` between threads",
        ratio(busy, OURS, "array_queue"),
        AtMost(f64::INFINITY),
        Some(1.0),
    );
    let asleep = |placement: &str| ratio(&format!("round_trip placement={placement}"), OURS, "futex");
    add("(a) asleep", "times the futex ping-pong, across cores", asleep("asleep"), AtMost(1.15), Some(1.0));
    add("(a) asleep", "times the futex ping-pong, on one core", asleep("one-core"), AtMost(1.5), Some(1.0));

    let one = "throughput workers=1";
    let per_trip = || Some(results.table(one)?.median(OURS)? * results.table(busy)?.median("raw")? / 1e9);
    add("(b) 1 worker", "tasks in the time of one ping-pong with payload", per_trip(), AtLeast(3.3), Some(6.0));
    let fastest = results.table(one).and_then(|t| t.ratio(OURS, &best(t, |a, b| a > b)?));
    add("(b) 1 worker", "times the best inter-process peer", fastest, AtLeast(6.0), None);
    add("(b) 1 worker", "times `ProcessPoolExecutor`", ratio(one, OURS, "executor"), AtLeast(500.0), None);
    let chunks = ratio(one, OURS, "mp_pool_64");
    add("(b) 1 worker", "times `Pool.imap_unordered(chunksize=64)`, unchunked ourselves", chunks, AtLeast(5.0), None);
    let rate = |workers: u8| results.table(&format!("throughput workers={workers}"))?.median(OURS);
    let crowded = || Some(rate(64)? / rate(2)?);
    add("(b) 64 workers", "of the rate at 2 workers", crowded(), AtLeast(0.7), Some(0.9));

    let alone = ratio("lane contended=false", "lane", "array_queue");
    add("lane alone", "times `ArrayQueue`'s push and pop, uncontended", alone, AtMost(2.3), Some(1.8));
    let fill = ratio("lane contended=fill", "lane", "vyukov");
    add("lane alone", "times Vyukov's ring, two push at once", fill, AtMost(0.5), Some(0.3));
    let drain = ratio("lane contended=drain", "lane", "vyukov");
    add("lane alone", "times Vyukov's ring, two pop at once", drain, AtMost(0.5), Some(0.3));

    let in_place = "payload bytes=1048576 mode=in-place";
    add("(c) 1 MiB in place", "times reading it", ratio(in_place, OURS, "read"), AtMost(1.3), Some(1.05));
    let copied = ratio("payload bytes=1048576 mode=copied", OURS, "raw");
    add("(c) 1 MiB copied", "times one copy, read by another core", copied, AtMost(1.1), Some(1.05));

    let maps = |chunked: bool| {
        let table =
            results.tables.iter().find(|t| t.letter == "d" && t.case.contains(&format!("chunked={chunked} ")))?;
        table.ratio(OURS, "mp_pool")
    };
    add("(d) chunked", "times `mp.Pool.map`", maps(true), AtLeast(5.0), None);
    add("(d) one by one", "times `mp.Pool.map(chunksize=1)`", maps(false), AtLeast(50.0), None);

    let mut add = |case, what: &str, is, bound, aim, unit| {
        targets.push(Target { case, what: what.to_owned(), is, bound, aim, unit: Some(unit) });
    };
    let pss = figure("memory", 0).map(|f| f.0);
    add("(e) memory", "PSS per further worker", pss, AtMost(512.0 * 1024.0), Some(200.0 * 1024.0), Unit::Bytes);
    let ticks = figure("rest", 0).map(|f| f.0);
    add("(e) at rest", "CPU ticks", ticks, AtMost(0.0), None, Unit::Count);
    let wakes = figure("rest", 1).and_then(|(switches, case)| {
        let seconds = case.split(' ').find_map(|word| word.strip_prefix("seconds="))?.parse::<f64>().ok()?;
        Some(switches / seconds)
    });
    add("(e) at rest", "wake-ups a second, all processes", wakes, AtMost(1.0), Some(0.0), Unit::Count);
    let again = figure("recovery", 0).map(|f| f.0);
    add("(f)", "from `kill -9` to the task's next attempt", again, AtMost(3e6), Some(1e6), Unit::Ns);
    let respawned = figure("respawn", 0).map(|f| f.0);
    add("(f)", "from `kill -9` to a respawned worker", respawned, AtMost(10e6), Some(1e6), Unit::Ns);
    targets
}
