//! One run of one peer at one case: `peer PEER CASE [KEY=VALUE ...]` prints a [`Report`].

mod case;
mod measure;
mod pair;
mod pool;
mod queue;
mod raw;
mod stage;

use case::Case;
use shmworker_benches::{Report, Unit};
use std::{error::Error, process::ExitCode};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// What was measured; `None`: this peer has no such case.
type Figures = Option<(Unit, Vec<f64>)>;

fn main() -> ExitCode {
    match run() {
        Ok(report) => {
            println!("{}", serde_json::json!(report));
            // Threads that a run has left would spin on.
            std::process::exit(0)
        }
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<Report> {
    let mut args = std::env::args().skip(1);
    let (Some(peer), Some(case)) = (args.next(), args.next()) else {
        return Err("usage: peer PEER CASE [KEY=VALUE ...]".into());
    };
    let case = Case::parse(&case, args)?;
    let figures = match peer.as_str() {
        "raw" => raw::run(&case),
        "raw_line" => raw::run_line(&case),
        "array_queue" => measure::link::<queue::ArrayQueues>(&case),
        "crossbeam_channel" => measure::link::<queue::Channels>(&case),
        "pool" => pool::run(&case),
        "pair" => pair::run(&case),
        _ => return Err(format!("no peer is named {peer:?}").into()),
    }?;
    Ok(match figures {
        Some((unit, values)) => Report::Figures { unit, values },
        None => Report::Skip { skip: format!("{peer} has no such case") },
    })
}
