//! What is to be measured.

use crate::Result;
use std::{collections::HashMap, str::FromStr};

/// A case, as the command line says it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Case {
    /// One task there and back, then the next. `each`: one value per trip, for a distribution, in place of one per batch.
    RoundTrip { placement: Placement, n: u64, each: bool },
    /// As many as possible, so many under way.
    Throughput { workers: usize, outstanding: usize, n: u64 },
    /// A payload there, a digest of it back.
    Payload { bytes: usize, mode: Mode, n: u64 },
    /// x → x·x over a range.
    Map { items: u64, chunked: bool, workers: usize },
    /// Until the first task of each worker has come back.
    Start { workers: usize },
    /// Bytes per further worker.
    Memory { workers: usize },
    /// CPU ticks and voluntary context switches of a pool that has nothing to do.
    Rest { seconds: u64, workers: usize },
    /// From `kill -9` of the worker that runs a task to that task's next attempt.
    Recovery { workers: usize, n: u64 },
    /// From `kill -9` to the new worker's first task.
    Respawn { n: u64 },
    /// A ring by itself: nanoseconds per operation.
    Lane { contended: Contended, n: u64 },
}

/// Who runs where in a round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// Each side on a CPU of its own, and awake.
    TwoCores,
    /// Both on one.
    OneCore,
    /// Each on its own; the worker has gone to sleep before each trip.
    Asleep,
}

/// How a payload gets to the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// From memory of the caller's.
    Copied,
    /// It lies in shared memory already; one word of it changes.
    InPlace,
    /// All of it is made in shared memory, each time.
    Built,
}

/// Who works on a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contended {
    /// One process: a push and a pop, in turn.
    No,
    /// Two at once push.
    Fill,
    /// Two at once pop.
    Drain,
}

impl Case {
    /// # Errors
    /// No such case, or a value that it does not take.
    pub(crate) fn parse(name: &str, args: impl Iterator<Item = String>) -> Result<Case> {
        let mut said = HashMap::new();
        for arg in args {
            let (key, value) = arg.split_once('=').ok_or_else(|| format!("{arg:?} is no setting: write KEY=VALUE"))?;
            said.insert(key.to_owned(), value.to_owned());
        }
        let said = Said(said);
        Ok(match name {
            "round_trip" => {
                let placement = said.one_of(
                    "placement",
                    &[
                        ("two-cores", Placement::TwoCores),
                        ("one-core", Placement::OneCore),
                        ("asleep", Placement::Asleep),
                    ],
                )?;
                Case::RoundTrip { placement, n: said.number("n", 20_000)?, each: said.number("each", false)? }
            }
            "throughput" => Case::Throughput {
                workers: said.number("workers", 1)?,
                outstanding: said.number("outstanding", 1024)?,
                n: said.number("n", 1_000_000)?,
            },
            "payload" => {
                let modes = [("copied", Mode::Copied), ("in-place", Mode::InPlace), ("built", Mode::Built)];
                Case::Payload {
                    bytes: said.number("bytes", 1 << 20)?,
                    mode: said.one_of("mode", &modes)?,
                    n: said.number("n", 1000)?,
                }
            }
            "map" => Case::Map {
                items: said.number("items", 1_000_000)?,
                chunked: said.number("chunked", true)?,
                workers: said.number("workers", 2)?,
            },
            "start" => Case::Start { workers: said.number("workers", 2)? },
            "memory" => Case::Memory { workers: said.number("workers", 8)? },
            "rest" => Case::Rest { seconds: said.number("seconds", 5)?, workers: said.number("workers", 2)? },
            "recovery" => Case::Recovery { workers: said.number("workers", 1)?, n: said.number("n", 5)? },
            "respawn" => Case::Respawn { n: said.number("n", 5)? },
            "lane" => {
                let contended = [("false", Contended::No), ("fill", Contended::Fill), ("drain", Contended::Drain)];
                Case::Lane { contended: said.one_of("contended", &contended)?, n: said.number("n", 200_000)? }
            }
            _ => return Err(format!("no case is named {name:?}").into()),
        })
    }
}

/// What was said on the command line, by key.
struct Said(HashMap<String, String>);

impl Said {
    fn number<T: FromStr>(&self, key: &str, otherwise: T) -> Result<T> {
        self.0.get(key).map_or(Ok(otherwise), |v| v.parse().map_err(|_| format!("{key} can't be {v:?}").into()))
    }

    /// The first is what holds if nothing is said.
    fn one_of<T: Copy>(&self, key: &str, values: &[(&str, T)]) -> Result<T> {
        let Some(said) = self.0.get(key) else { return Ok(values[0].1) };
        let names: Vec<_> = values.iter().map(|v| v.0).collect();
        let value = values.iter().find(|v| v.0 == said).map(|v| v.1);
        value.ok_or_else(|| format!("{key} can't be {said:?}: it is one of {}", names.join(", ")).into())
    }
}
