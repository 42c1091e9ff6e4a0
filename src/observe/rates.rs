//! How fast things go, by two samples of one pool.

use super::sample::{Latency, Sample};
use std::collections::HashMap;

/// What happened between two samples.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    /// Seconds between them.
    pub(crate) seconds: f64,
    /// Tasks that workers finished in a second: of each participant, by its name.
    tasks: HashMap<(usize, u64), f64>,
    /// Share of one CPU.
    cpu: HashMap<(usize, u64), f64>,
    /// Of what ended in between.
    pub(crate) latency: Option<Latency>,
}

impl Rates {
    pub(crate) fn between(earlier: &Sample, later: &Sample) -> Rates {
        let seconds = later.at.saturating_duration_since(earlier.at).as_secs_f64();
        let mut rates = Rates { seconds, latency: later.times.since(&earlier.times).latency(), ..Rates::default() };
        if seconds == 0.0 {
            return rates;
        }
        let before: HashMap<_, _> = earlier.participants.iter().map(|p| (p.name(), p)).collect();
        for p in later.participants.iter().filter(|p| p.is_live()) {
            // Who is new has come since.
            let was = before.get(&p.name());
            let finished = p.finished.saturating_sub(was.map_or(0, |was| was.finished));
            rates.tasks.insert(p.name(), finished as f64 / seconds);
            if let (Some(now), Some(then)) = (p.process, was.and_then(|was| was.process)) {
                rates.cpu.insert(p.name(), now.cpu_ms.saturating_sub(then.cpu_ms) as f64 / 1000.0 / seconds);
            }
        }
        rates
    }

    /// Tasks that were finished in a second. What the bridge counts is its workers' answers, which they have counted.
    pub(crate) fn total(&self, of: &Sample) -> f64 {
        of.participants.iter().filter(|p| p.label != "bridge").filter_map(|p| self.tasks(p.name())).sum()
    }

    /// Tasks that this participant finished in a second.
    pub(crate) fn tasks(&self, name: (usize, u64)) -> Option<f64> {
        self.tasks.get(&name).copied()
    }

    /// How much of one CPU this participant used, from 0 to as many as there are.
    pub(crate) fn cpu(&self, name: (usize, u64)) -> Option<f64> {
        self.cpu.get(&name).copied()
    }
}
