//! A sample as Prometheus reads it.
//!
//! Whatever is called `_total` only grows over the life of a pool, but for the words of one process, which begin anew with its
//! successor. Ticks become seconds by one rate for the life of an [`Exporter`], and of those that take its place: a rate that is measured
//! anew would have sums go back by a little, which Prometheus takes for a new beginning.

use super::sample::{Distribution, Lane, Participant, Sample};
use crate::sync::{AtomicU64, Relaxed};
use prometheus::{
    TextEncoder,
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};
use std::{collections::BTreeMap, sync::OnceLock};

const GAUGE: MetricType = MetricType::GAUGE;
const COUNTER: MetricType = MetricType::COUNTER;
/// Ends of buckets are powers of 2, in nanoseconds: from 256 ns to 275 s.
const ENDS: std::ops::RangeInclusive<u32> = 8..=38;
/// Before a pool is so old its rate is rough.
const OLD: u64 = 1_000;

/// Renders the samples of one pool.
#[derive(Debug, Default)]
pub(crate) struct Exporter {
    /// Nanoseconds of 2³² ticks.
    rate: OnceLock<u64>,
    /// The same, for whoever comes after this one; 0: not yet.
    kept: Option<&'static AtomicU64>,
}

impl Exporter {
    /// One of several, one after another, that share this word.
    #[cfg(feature = "temporal")]
    pub(crate) fn keeping(word: &'static AtomicU64) -> Exporter {
        Exporter { kept: Some(word), ..Exporter::default() }
    }

    /// The rate, for a pool of this age by which it is measured so now.
    fn rate(&self, age_ms: u64, measured: u64) -> u64 {
        if let Some(&rate) = self.rate.get() {
            return rate;
        }
        // Relaxed: the word stands for itself.
        let is_kept = self.kept.is_some_and(|word| word.load(Relaxed) != 0);
        if age_ms < OLD && !is_kept {
            return measured;
        }
        let keep = |word: &AtomicU64| word.compare_exchange(0, measured, Relaxed, Relaxed).err();
        *self.rate.get_or_init(|| self.kept.and_then(keep).unwrap_or(measured))
    }

    /// In Prometheus' text format, version 0.0.4.
    pub(crate) fn text(&self, sample: &Sample) -> String {
        let rate = self.rate(sample.pool.age_ms, sample.times.rate);
        let families = families(sample, rate as f64 / (1u64 << 32) as f64);
        TextEncoder::new()
            .encode_to_string(&families)
            .unwrap_or_else(|e| unreachable!("no family is empty or without a name: {e}"))
    }
}

fn families(sample: &Sample, ns_of_tick: f64) -> Vec<MetricFamily> {
    let Sample { pool, segment, participants, tasks, lanes, suspects, blocks, counts, losses, times, .. } = sample;
    let seconds = |ticks: u64| ticks as f64 * ns_of_tick / 1e9;
    let mut all = Families(Vec::new());

    all.labelled(
        GAUGE,
        "info",
        "The version of the coordinator's program, and how far the pool is in its life; always 1.",
        [(vec![("version", crate::VERSION), ("mode", pool.mode)], 1.0)],
    );
    all.value(GAUGE, "age_seconds", "Since the pool was made.", pool.age_ms as f64 / 1e3);

    let ended = counts.iter().flat_map(|of| {
        [("completed", of.completed), ("failed", of.failed), ("cancelled", of.cancelled)]
            .map(|(status, n)| (vec![("task", &of.task[..]), ("status", status)], n as f64))
    });
    all.labelled(COUNTER, "tasks_total", "Tasks that workers ended, by name and status; a chunk counts as one.", ended);
    let of_each =
        |n: fn(&super::sample::TaskCount) -> u64| counts.iter().map(move |of| (vec![("task", &of.task[..])], n(of)));
    let retried = of_each(|of| of.retried).map(|(labels, n)| (labels, n as f64));
    all.labelled(COUNTER, "task_retries_total", "Attempts that failed and were followed by another.", retried);
    let waited = of_each(|of| of.waited).map(|(labels, ticks)| (labels, seconds(ticks)));
    all.labelled(
        COUNTER,
        "task_wait_seconds_total",
        "Time from the submission of tasks to the beginning of their last attempt.",
        waited,
    );
    let ran = of_each(|of| of.ran).map(|(labels, ticks)| (labels, seconds(ticks)));
    all.labelled(COUNTER, "task_run_seconds_total", "Time that the last attempts of tasks took.", ran);
    let sums = counts
        .iter()
        .fold((0u64, 0u64), |(waits, runs), of| (waits.wrapping_add(of.waited), runs.wrapping_add(of.ran)));
    all.histogram(
        "wait_seconds",
        "From a task's submission to the beginning of its last attempt.",
        &times.waits,
        seconds(sums.0),
        ns_of_tick,
    );
    all.histogram("run_seconds", "How long a task's last attempt took.", &times.runs, seconds(sums.1), ns_of_tick);

    let phases = [
        ("reserved", tasks.reserved),
        ("ready", tasks.ready),
        ("delayed", tasks.delayed),
        ("running", tasks.claimed),
        ("done", tasks.done),
        ("damaged", tasks.damaged),
    ];
    let phases = phases.map(|(phase, n)| (vec![("phase", phase)], n as f64));
    all.labelled(GAUGE, "tasks_in_use", "Tasks by where they are; 'done': their results are not taken yet.", phases);
    all.value(GAUGE, "tasks_limit", "Tasks that there may be at a time.", segment.descriptors as f64);
    let depths = lanes.iter().flat_map(|Lane { queue, name, ready, delayed }| {
        let name = if queue.is_some() { &name[..] } else { "(for one process)" };
        [("ready", *ready), ("delayed", *delayed)].map(|(phase, n)| (vec![("queue", name), ("phase", phase)], n as f64))
    });
    all.labelled(GAUGE, "queue_depth", "Tasks that wait in a queue.", depths);

    let states = by_state(participants);
    all.labelled(
        GAUGE,
        "processes",
        "Processes of the pool, by kind and what they are at.",
        states.iter().map(|((kind, state), n)| (vec![("kind", &kind[..]), ("state", state)], *n as f64)),
    );
    let ids: Vec<String> = participants.iter().map(|p| p.id.to_string()).collect();
    let live = || participants.iter().zip(&ids).filter(|(p, _)| p.is_live());
    let labels = |p: &'_ Participant, id: &'_ String| vec![("process", p.label.clone()), ("id", id.clone())];
    let finished = live().map(|(p, id)| (labels(p, id), p.finished as f64));
    all.labelled(COUNTER, "process_tasks_total", "Tasks that a process has finished, or answered.", finished);
    let figures = || live().filter_map(|(p, id)| Some((p, id, p.process?)));
    let cpu = figures().map(|(p, id, of)| (labels(p, id), of.cpu_ms as f64 / 1e3));
    all.labelled(COUNTER, "process_cpu_seconds_total", "CPU time of a process.", cpu);
    let own = figures().map(|(p, id, of)| (labels(p, id), of.own_bytes as f64));
    all.labelled(GAUGE, "process_own_bytes", "Memory that a process shares with nobody by a mapping.", own);

    all.value(
        COUNTER,
        "deaths_total",
        "Processes that died, or ended though nobody had asked them to.",
        losses.deaths as f64,
    );
    all.value(
        COUNTER,
        "tasks_requeued_total",
        "Tasks that others were given because a process died.",
        losses.requeued as f64,
    );
    all.value(COUNTER, "tasks_lost_total", "Tasks that ended with a process that died.", losses.failed as f64);
    all.value(GAUGE, "suspects", "Tasks in use over which workers died.", suspects.len() as f64);

    all.value(GAUGE, "segment_bytes", "Addresses of the shared memory.", segment.bytes as f64);
    if let Some(bytes) = segment.taken_bytes {
        all.value(GAUGE, "segment_taken_bytes", "Shared memory that takes memory.", bytes as f64);
    }
    all.value(GAUGE, "arena_bytes", "Room for payloads of more than 256 bytes.", blocks.bytes as f64);
    all.value(GAUGE, "arena_committed_bytes", "What of it has its memory.", blocks.committed_bytes as f64);
    let sizes: Vec<String> = blocks.sizes.iter().map(|size| size.bytes.to_string()).collect();
    let blocks = blocks.sizes.iter().zip(&sizes).flat_map(|(of, size)| {
        [("free", of.free), ("held", of.held), ("attached", of.attached), ("damaged", of.damaged)]
            .map(|(state, n)| (vec![("size", &size[..]), ("state", state)], n as f64))
    });
    all.labelled(
        GAUGE,
        "blocks",
        "Blocks for payloads, by their bytes and whether a process or a task has them.",
        blocks,
    );
    all.0
}

/// How many processes of a kind are busy, idle, stopped, or dead and not settled yet. Of a kind that has been there, each is told.
fn by_state(participants: &[Participant]) -> BTreeMap<(String, &'static str), usize> {
    let mut states = BTreeMap::new();
    for p in participants {
        let kind = p.label.split(':').next().unwrap_or_default();
        let state = match (p.state, p.process.map(|of| of.state)) {
            ("vacant" | "absent", _) => None,
            ("live", Some('T' | 't')) => Some("stopped"),
            ("live", _) if p.running > 0 => Some("busy"),
            ("live", _) => Some("idle"),
            ("dead", _) => Some("dead"),
            _ => Some("damaged"),
        };
        for each in ["busy", "idle", "stopped", "dead"] {
            states.entry((kind.to_owned(), each)).or_default();
        }
        if let Some(state) = state {
            *states.entry((kind.to_owned(), state)).or_default() += 1;
        }
    }
    states
}

struct Families(Vec<MetricFamily>);

impl Families {
    fn value(&mut self, kind: MetricType, name: &str, help: &str, value: f64) {
        self.labelled::<&str>(kind, name, help, [(vec![], value)]);
    }

    fn labelled<L: AsRef<str>>(
        &mut self,
        kind: MetricType,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Vec<(&'static str, L)>, f64)>,
    ) {
        let metric = |(labels, value): (Vec<(&'static str, L)>, f64)| {
            let mut metric = Metric::from_label(labels.into_iter().map(pair).collect());
            if kind == COUNTER {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            } else {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            metric
        };
        self.add(name, help, kind, values.into_iter().map(metric).collect());
    }

    fn histogram(&mut self, name: &str, help: &str, of: &Distribution, sum: f64, ns_of_tick: f64) {
        let mut histogram = Histogram::default();
        let up_to = cumulative(of, ns_of_tick);
        histogram.set_bucket(
            up_to
                .map(|(end, n)| {
                    let mut bucket = Bucket::default();
                    bucket.set_upper_bound(end);
                    bucket.set_cumulative_count(n);
                    bucket
                })
                .collect(),
        );
        histogram.set_sample_count(of.iter().fold(0, |all, &n| all.wrapping_add(n)));
        histogram.set_sample_sum(sum);
        let mut metric = Metric::default();
        metric.set_histogram(histogram);
        self.add(name, help, MetricType::HISTOGRAM, vec![metric]);
    }

    fn add(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) {
        // The encoder takes none for an error.
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(format!("shmworker_{name}"));
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }
}

fn pair<L: AsRef<str>>((name, value): (&str, L)) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.as_ref().to_owned());
    pair
}

/// How many took no longer than each of [`ENDS`], in seconds. A bucket of ticks counts up to the first end that is not before its own,
/// so that what is told is never too fast, and too slow by a factor of 2 at most.
fn cumulative(of: &Distribution, ns_of_tick: f64) -> impl Iterator<Item = (f64, u64)> {
    // A counter of 2 GHz, of which a tick is a power of 2, is not one exactly.
    let shift = (ns_of_tick.log2() - 0.01).ceil() as i32;
    ENDS.map(move |end| {
        // The bucket `i` ends at 2^(i + 1) ticks.
        let buckets = (end as i32 - shift).clamp(0, of.len() as i32) as usize;
        (2f64.powi(end as i32) / 1e9, of[..buckets].iter().fold(0, |sum: u64, &n| sum.wrapping_add(n)))
    })
    .collect::<Vec<_>>()
    .into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "temporal")]
    #[test]
    fn sums_do_not_go_back_when_another_tells_them() {
        let word: &AtomicU64 = Box::leak(Box::new(AtomicU64::new(0)));
        let first = Exporter::keeping(word);
        let told = [(0, 7), (OLD - 1, 9), (OLD, 8), (OLD + 1, 9)].map(|(age_ms, rate)| first.rate(age_ms, rate));
        assert_eq!(told, [7, 9, 8, 8]);
        assert_eq!(Exporter::keeping(word).rate(OLD * 9, 7), 8);
        assert_eq!(Exporter::default().rate(OLD * 9, 7), 7, "of another pool");
    }

    #[test]
    fn buckets_of_ticks_count_where_all_of_them_fits() {
        let mut of = [0; 64];
        (of[7], of[8], of[40]) = (1, 10, 100); // up to 2^8, 2^9 and 2^41 ticks
        let told = |ns_of_tick| cumulative(&of, ns_of_tick).map(|(_, n)| n).collect::<Vec<_>>();
        let ns = told(1.0);
        assert_eq!((&ns[..3], ns[30]), (&[1, 11, 11][..], 11));
        // A tick of 2 GHz, as it may be measured.
        for ns_of_tick in [0.4999, 0.5, 0.5001] {
            assert_eq!(told(ns_of_tick)[..2], [11, 11]);
        }
        assert_eq!(told(0.3)[..2], [11, 11]);
        assert_eq!(told(0.6)[..2], [1, 11]);
        let ends: Vec<f64> = cumulative(&of, 1.0).map(|(end, _)| end).collect();
        assert_eq!((ends[0], ends.len()), (256e-9, 31));
    }
}
