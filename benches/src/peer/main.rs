//! One run of one peer at one case: `peer PEER CASE [KEY=VALUE ...]` prints a [`Report`].

mod case;
mod futex;
mod iceoryx;
mod kernel;
mod measure;
mod pair;
mod pool;
mod queue;
mod raw;
mod rayon;
mod redis;
mod ring;
mod stage;

use case::Case;
use shmworker_benches::{Report, Unit};
use std::{error::Error, fmt, process::ExitCode};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// What was measured.
type Figures = (Unit, Vec<f64>);

/// Why there is nothing to measure, which is no failure.
#[derive(Debug)]
struct Skip(String);

impl Skip {
    fn because<T>(why: impl Into<String>) -> Result<T> {
        Err(Skip(why.into()).into())
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Skip {}

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
        "read" => raw::run_read(&case),
        "futex" => futex::run(&case),
        "pool_handles" => pool::run_handles(&case),
        "lane" => ring::run_lane(&case),
        "vyukov" => ring::run_vyukov(&case),
        "array_queue" if matches!(case, Case::Lane { .. }) => ring::run_array_queue(&case),
        "array_queue" => measure::link::<queue::ArrayQueues>(&case),
        "crossbeam_channel" => measure::link::<queue::Channels>(&case),
        "rayon" => rayon::run(&case),
        "iceoryx2_pubsub" => measure::link::<iceoryx::Topics>(&case),
        "iceoryx2_request" => measure::link::<iceoryx::Requests>(&case),
        "ipc_channel" => measure::link::<kernel::IpcChannels>(&case),
        "unix_socket" => measure::link::<kernel::Sockets>(&case),
        "pipe" => measure::link::<kernel::Pipes>(&case),
        "redis" => measure::link::<redis::Lists>(&case),
        "raw_sync" => kernel::run_events(&case),
        "pool" => pool::run(&case),
        "pair" => pair::run(&case),
        _ => return Err(format!("no peer is named {peer:?}").into()),
    };
    match figures {
        Ok((unit, values)) => Ok(Report::Figures { unit, values }),
        Err(e) => e.downcast().map(|skip: Box<Skip>| Report::Skip { skip: skip.0 }),
    }
}
