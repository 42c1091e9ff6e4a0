//! The `shmworker` command line: reads what was typed, does it, and turns the outcome into an exit code.
//!
//! Every error is one line on stderr that names the input and the remedy; see [`exit`] for the codes.

mod args;
mod autopsy;
#[cfg(feature = "pool")]
mod bench;
mod clean;
mod config;
mod doctor;
pub mod exit;
mod inspect;
#[cfg(feature = "jobs")]
mod jobs;
mod manual;
#[cfg(any(feature = "jobs", feature = "temporal"))]
mod observing;
#[cfg(all(test, feature = "sources", feature = "temporal"))]
mod pages;
mod probe;
#[cfg(feature = "temporal")]
mod replay;
mod resize;
#[cfg(feature = "temporal")]
mod run;
#[cfg(feature = "source")]
mod run_source;
#[cfg(feature = "pool")]
mod state;
#[cfg(feature = "jobs")]
mod successor;
mod top;
mod torture;
mod units;
mod upgrade;

use crate::logs::Of;
#[cfg(feature = "temporal")]
use crate::temporal::{Worker, connect::Server, sample, starter};
use args::{Command, Parsed};
use exit::CliError;
use std::process::ExitCode;

/// Runs the command that the process arguments name, with the sample workflow and activity, and returns its exit code.
#[cfg(feature = "temporal")]
pub fn main() -> ExitCode {
    main_with(sample::worker())
}

/// Runs the command that the process arguments name, and returns its exit code.
#[cfg(not(feature = "temporal"))]
pub fn main() -> ExitCode {
    end(parsed(args::parse(std::env::args_os().collect())).and_then(|command| command.map_or(Ok(()), execute)))
}

/// The same with what a program has made of a worker.
#[cfg(feature = "temporal")]
pub(crate) fn main_with(worker: Worker) -> ExitCode {
    let command = parsed(args::parse(std::env::args_os().collect(), &worker));
    end(command.and_then(|command| command.map_or(Ok(()), |command| execute(command, worker))))
}

/// The command to run, unless there is only something to be printed.
fn parsed(line: Result<Parsed, CliError>) -> Result<Option<Command>, CliError> {
    line.map(|parsed| match parsed {
        Parsed::Run(command) => Some(command),
        // A reader that has gone away has read enough.
        Parsed::Text(text) => {
            let _ = text.print();
            None
        }
    })
}

fn end(outcome: Result<(), CliError>) -> ExitCode {
    match outcome {
        Ok(()) => exit::OK.into(),
        Err(error) => {
            crate::logs::complain(Of::default(), &error);
            error.code().into()
        }
    }
}

#[cfg(feature = "temporal")]
fn execute(command: Command, worker: Worker) -> Result<(), CliError> {
    match command {
        Command::Run(args) => run::run(*args, worker),
        Command::Starter(args) => {
            let (options, flags) = args.split(worker);
            Ok(starter::run(&options, &Server::resolve(&flags)?)?)
        }
        Command::Replay(args) => replay::run(&args, worker.user),
        #[cfg(feature = "pool")]
        Command::Bench(args) => bench::run(&args),
        #[cfg(feature = "jobs")]
        Command::Jobs(args) => jobs::run(*args),
        Command::Torture(args) => torture::run(args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Autopsy(args) => autopsy::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Resize(args) => resize::run(&args),
        Command::Upgrade(args) => upgrade::run(&args),
        #[cfg(feature = "pool")]
        Command::Recover(args) => state::recover(&args),
        #[cfg(feature = "pool")]
        Command::Export(args) => state::export(&args),
        #[cfg(feature = "pool")]
        Command::Import(args) => state::import(&args),
        Command::Clean(args) => clean::run(&args),
        Command::Doctor(args) => doctor::run(*args, &worker),
        Command::Completions(args) => manual::completions(&args, args::definition(&worker)),
        Command::Man(args) => manual::man(&args, args::definition(&worker)),
        Command::Probe(args) => probe::run(args),
        #[cfg(feature = "jobs")]
        Command::Successor(args) => successor::run(args),
    }
}

#[cfg(not(feature = "temporal"))]
fn execute(command: Command) -> Result<(), CliError> {
    match command {
        #[cfg(feature = "source")]
        Command::Run(args) => run_source::run(args.source, &args.observing, args.workers, args.load),
        #[cfg(feature = "pool")]
        Command::Bench(args) => bench::run(&args),
        #[cfg(feature = "jobs")]
        Command::Jobs(args) => jobs::run(*args),
        Command::Torture(args) => torture::run(args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Autopsy(args) => autopsy::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Resize(args) => resize::run(&args),
        Command::Upgrade(args) => upgrade::run(&args),
        #[cfg(feature = "pool")]
        Command::Recover(args) => state::recover(&args),
        #[cfg(feature = "pool")]
        Command::Export(args) => state::export(&args),
        #[cfg(feature = "pool")]
        Command::Import(args) => state::import(&args),
        Command::Clean(args) => clean::run(&args),
        Command::Doctor(args) => doctor::run(*args),
        Command::Completions(args) => manual::completions(&args, args::definition()),
        Command::Man(args) => manual::man(&args, args::definition()),
        Command::Probe(args) => probe::run(args),
        #[cfg(feature = "jobs")]
        Command::Successor(args) => successor::run(args),
    }
}

/// Says what goes wrong.
#[cfg(feature = "pool")]
fn complain(line: impl std::fmt::Display) {
    crate::logs::complain(Of::default(), line);
}

/// Removes what is secret from the environment, which workers and the programs that they run inherit. To be called once it was read, and
/// before a pool is started.
#[cfg(feature = "jobs")]
fn forget_variables(names: &[&str]) {
    // With other threads the pool's fork is refused.
    if !std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1) {
        return;
    }
    for name in names {
        // SAFETY: this is the only thread, as was seen above: none reads or changes the environment meanwhile.
        unsafe { std::env::remove_var(name) };
    }
}

/// Says what goes on.
fn say(line: impl std::fmt::Display) {
    crate::logs::say(Of::default(), line);
}
