//! What the driver and the programs that it runs have in common: what one run prints.
//!
//! One run of one peer at one case is one process, `PROGRAM PEER CASE [KEY=VALUE ...]`, which prints one line of JSON:
//! a [`Report`].

use serde::{Deserialize, Serialize};
use std::fmt;

/// What one run has to say.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Report {
    /// What was measured.
    Figures {
        /// Of all values.
        unit: Unit,
        /// The samples of this run, or one figure.
        values: Vec<f64>,
    },
    /// This peer has no such case, or is not installed.
    Skip {
        /// Why.
        skip: String,
    },
}

/// What figures count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Nanoseconds per operation: less is better.
    Ns,
    /// Operations per second: more is better.
    PerS,
    /// Bytes.
    Bytes,
    /// Events.
    Count,
}

impl Unit {
    /// A figure, to three digits or so.
    pub fn show(self, value: f64) -> String {
        let (scale, unit) = match self {
            Unit::Ns => {
                [(1e9, "s"), (1e6, "ms"), (1e3, "µs")].into_iter().find(|s| value >= s.0).unwrap_or((1.0, "ns"))
            }
            Unit::PerS => [(1e6, "M/s"), (1e3, "k/s")].into_iter().find(|s| value >= s.0).unwrap_or((1.0, "/s")),
            Unit::Bytes => {
                let sizes = [(f64::from(1 << 20), "MiB"), (1024.0, "KiB")];
                sizes.into_iter().find(|s| value >= s.0).unwrap_or((1.0, "B"))
            }
            Unit::Count => (1.0, ""),
        };
        format!("{} {unit}", Digits(value / scale)).trim_end().to_owned()
    }
}

/// A number with three digits that mean something.
pub struct Digits(pub f64);

impl fmt::Display for Digits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = match self.0.abs() {
            0.0 | 100.0.. => 0,
            10.0..100.0 => 1,
            _ => 2,
        };
        write!(f, "{:.places$}", self.0)
    }
}

/// The value below which this share of the values lies; NaN for none.
pub fn quantile(values: impl IntoIterator<Item = f64>, q: f64) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get((values.len().saturating_sub(1) as f64 * q).round() as usize).copied().unwrap_or(f64::NAN)
}
