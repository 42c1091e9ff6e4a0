//! Our endpoints by themselves: the tasks and lanes of the segment without the pool above them. Nobody sleeps.

use crate::{
    Figures, Result, Skip,
    case::{Case, Placement},
    measure::{self, Message, bytes_of, message},
    stage::{Cpus, pin},
};
use shmworker::bench_support::Pair;

pub(crate) fn run(case: &Case) -> Result<Figures> {
    match *case {
        Case::RoundTrip { placement: Placement::TwoCores, n, each } => {
            let cpus = Cpus::of(Placement::TwoCores)?;
            let pair = fork(cpus.there)?;
            pin(cpus.here)?;
            measure::trips(n, each, |message| {
                submit(&pair, message)?;
                take(&pair)
            })
        }
        // With more than one worker they would spin where others want to run.
        Case::Throughput { workers: 1, outstanding, n } => {
            let cpus = Cpus::of(Placement::TwoCores)?;
            let pair = fork(cpus.there)?;
            pin(cpus.here)?;
            measure::window(outstanding, n, |x| submit(&pair, &[x; 8]), || Ok(take(&pair)?[7]))
        }
        _ => Skip::because("nobody sleeps, and there is one worker, for tasks of 64 bytes"),
    }
}

fn fork(cpu: usize) -> Result<Pair> {
    Pair::fork(|| pin(cpu).expect("a CPU of our own affinity mask")).map_err(|e| e.to_string().into())
}

fn submit(pair: &Pair, sent: &Message) -> Result<()> {
    pair.submit(bytes_of(sent)).map_err(|e| e.to_string().into())
}

fn take(pair: &Pair) -> Result<Message> {
    let mut bytes = [0; size_of::<Message>()];
    pair.take(&mut bytes).map_err(|e| e.to_string())?;
    Ok(message(&bytes))
}
