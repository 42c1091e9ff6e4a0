//! What is to be reached, as ratios within one run on one machine.

use crate::{
    plan::{self, Kind},
    results::{Measured, Results, Row, Spread},
};
use shmworker_benches::{Digits, Unit};

/// One line of the table of targets.
pub(crate) struct Target {
    pub(crate) case: &'static str,
    pub(crate) what: String,
    /// `None`: not measured in this run.
    pub(crate) is: Option<Spread>,
    pub(crate) sense: Sense,
    /// What must hold.
    pub(crate) bound: Option<f64>,
    /// What would be better still; without a bound, what we compare ourselves with.
    pub(crate) aim: Option<f64>,
    /// `None`: a ratio.
    pub(crate) unit: Option<Unit>,
}

/// Which way is good.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sense {
    AtMost,
    AtLeast,
}

impl Target {
    pub(crate) fn show(&self, value: f64) -> String {
        self.unit.map_or_else(|| Digits(value).to_string(), |unit| unit.show(value))
    }

    fn holds(&self, limit: f64) -> Option<bool> {
        let is = self.is?.median;
        Some(if self.sense == Sense::AtMost { is <= limit } else { is >= limit })
    }

    pub(crate) fn is_missed(&self) -> bool {
        self.bound.and_then(|bound| self.holds(bound)) == Some(false)
    }

    pub(crate) fn verdict(&self) -> &'static str {
        let holds = |limit: Option<f64>| limit.and_then(|limit| self.holds(limit));
        match (holds(self.bound), holds(self.aim)) {
            _ if self.is.is_none() => "not measured",
            (Some(false), _) => "**missed**",
            (Some(true), Some(true)) => "reached, the aim too",
            (Some(true), _) => "reached",
            (None, Some(true)) => "aim reached",
            (None, Some(false)) => "aim missed",
            (None, None) => "beside",
        }
    }
}

const OURS: &str = "pool";

/// Of those who reach another process with one task in a message: who comes nearest to us, or is furthest ahead.
fn rival(table: &Measured, sense: Sense) -> Option<(&Row, Spread)> {
    let ours = table.row(OURS)?;
    let is_rival = |row: &&Row| {
        let peer = plan::find(&row.peer);
        peer.is_some_and(|p| matches!(p.kind, Kind::Processes | Kind::Python) && p.name != "mp_pool_64")
    };
    let mut ratios: Vec<_> =
        table.rows.iter().filter(is_rival).filter_map(|row| Some((row, ours.over(row)?))).collect();
    ratios.sort_by(|a, b| a.1.median.total_cmp(&b.1.median));
    if sense == Sense::AtMost { ratios.pop() } else { ratios.into_iter().next() }
}

pub(crate) fn targets(results: &Results) -> Vec<Target> {
    use Sense::{AtLeast, AtMost};
    let mut targets = Vec::new();
    let mut add = |case, what: &str, is, sense, bound: Option<f64>, aim: Option<f64>| {
        targets.push(Target { case, what: what.to_owned(), is, sense, bound, aim, unit: None });
    };
    let ratio = |case: &str, of, to| results.table(case)?.ratio(of, to);
    let nearest = |case: &str, sense| {
        let found = results.table(case).and_then(|table| Some((table, rival(table, sense)?)));
        let name = found.map_or(String::new(), |(table, (row, _))| format!(" ({})", row.title(&table.case)));
        (found.map(|(_, (_, spread))| spread), name)
    };

    let busy = "round_trip placement=two-cores";
    add("(a) busy", "times the ping-pong with payload", ratio(busy, OURS, "raw"), AtMost, Some(1.5), Some(1.2));
    let (is, name) = nearest(busy, AtMost);
    add("(a) busy", &format!("times the fastest inter-process peer{name}"), is, AtMost, Some(1.0), None);
    let threads = ratio(busy, OURS, "array_queue");
    add("(a) busy", "times `ArrayQueue` between threads", threads, AtMost, None, Some(1.0));
    let asleep = |placement: &str| ratio(&format!("round_trip placement={placement}"), OURS, "futex");
    add("(a) asleep", "times the futex ping-pong, across cores", asleep("asleep"), AtMost, Some(1.15), Some(1.0));
    add("(a) asleep", "times the futex ping-pong, on one core", asleep("one-core"), AtMost, Some(1.5), Some(1.0));

    let one = "throughput workers=1";
    let per_trip = ratio(one, OURS, "raw");
    add("(b) 1 worker", "tasks in the time of one ping-pong with payload", per_trip, AtLeast, Some(3.3), Some(6.0));
    let (is, name) = nearest(one, AtLeast);
    add("(b) 1 worker", &format!("times the best inter-process peer{name}"), is, AtLeast, Some(6.0), None);
    add("(b) 1 worker", "times `ProcessPoolExecutor`", ratio(one, OURS, "executor"), AtLeast, Some(500.0), None);
    let chunks = ratio(one, OURS, "mp_pool_64");
    add(
        "(b) 1 worker",
        "times `Pool.imap_unordered(chunksize=64)`, unchunked ourselves",
        chunks,
        AtLeast,
        Some(5.0),
        None,
    );
    add("(b) 1 worker", "times `ArrayQueue` between threads", ratio(one, OURS, "array_queue"), AtLeast, None, None);
    let rate = |workers| results.table(&format!("throughput workers={workers}"))?.row(OURS);
    let crowded = || rate(64)?.over(rate(2)?);
    add("(b) 64 workers", "of the rate at 2 workers", crowded(), AtLeast, Some(0.7), Some(0.9));

    let alone = ratio("lane contended=false", "lane", "array_queue");
    add("lane alone", "times `ArrayQueue`'s push and pop, uncontended", alone, AtMost, Some(2.3), Some(1.8));
    let fill = ratio("lane contended=fill", "lane", "vyukov");
    add("lane alone", "times Vyukov's ring, two push at once", fill, AtMost, Some(0.5), Some(0.3));
    let drain = ratio("lane contended=drain", "lane", "vyukov");
    add("lane alone", "times Vyukov's ring, two pop at once", drain, AtMost, Some(0.5), Some(0.3));

    let in_place = ratio("payload bytes=1048576 mode=in-place", OURS, "read");
    add("(c) 1 MiB in place", "times reading it", in_place, AtMost, Some(1.3), Some(1.05));
    let copied = ratio("payload bytes=1048576 mode=copied", OURS, "raw");
    add(
        "(c) 1 MiB copied",
        "times one copy into mapped memory and its sum by the other CPU",
        copied,
        AtMost,
        Some(1.1),
        Some(1.05),
    );

    let map = |chunked: bool, peer| ratio(&format!("map chunked={chunked}"), OURS, peer);
    add("(d) chunked", "times `mp.Pool.map`", map(true, "mp_pool"), AtLeast, Some(5.0), None);
    add("(d) chunked", "of rayon's rate, whose order is a tenth", map(true, "rayon"), AtLeast, None, Some(0.1));
    add("(d) one by one", "times `mp.Pool.map(chunksize=1)`", map(false, "mp_pool"), AtLeast, Some(50.0), None);

    let mut add = |case, what: &str, is, bound, aim, unit| {
        let (what, bound) = (what.to_owned(), Some(bound));
        targets.push(Target { case, what, is, sense: AtMost, bound, aim, unit: Some(unit) });
    };
    let figure = |case: &str, number| results.table(case)?.row(OURS)?.spread(number);
    add("(e) memory", "PSS per further worker", figure("memory", 0), 512.0 * 1024.0, Some(200.0 * 1024.0), Unit::Bytes);
    add("(e) at rest", "CPU ticks", figure("rest", 0), 0.0, None, Unit::Count);
    let seconds = results
        .table("rest")
        .and_then(|t| t.case.split(' ').find_map(|word| word.strip_prefix("seconds="))?.parse::<f64>().ok());
    let wakes = seconds.and_then(|seconds| Some(figure("rest", 1)?.map(|switches| switches / seconds)));
    add("(e) at rest", "wake-ups a second, all processes", wakes, 1.0, Some(0.0), Unit::Count);
    for (case, what, bound) in [
        ("recovery workers=2", "from `kill -9` to the task's next attempt, by the worker beside it", 3e6),
        ("recovery workers=1", "from `kill -9` to the task's next attempt, by a new worker", 10e6),
        ("respawn", "from `kill -9` of an idle worker to a new one that runs a task", 10e6),
    ] {
        add("(f)", what, figure(case, 0), bound, Some(1e6), Unit::Ns);
    }
    targets
}
