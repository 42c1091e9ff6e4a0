//! The `shmworker` command line: reads what was typed, does it, and turns the outcome into an exit code.
//!
//! Every error is one line on stderr that names the input and the remedy; see [`exit`] for the codes.

mod args;
#[cfg(feature = "pool")]
mod bench;
mod clean;
pub mod exit;
mod inspect;
mod probe;
#[cfg(feature = "temporal")]
mod replay;
#[cfg(feature = "temporal")]
mod run;
mod torture;

#[cfg(feature = "temporal")]
use crate::temporal::{activity::Activities, connect::Server, sample, starter, workflow::Workflows};
use args::{Command, Parsed};
use exit::CliError;
use std::{
    io::{self, Write},
    process::ExitCode,
};

/// Runs the command that the process arguments name, with the sample workflow and activity, and returns its exit code.
#[cfg(feature = "temporal")]
pub fn main() -> ExitCode {
    main_with(sample::workflows(), sample::activities())
}

/// Runs the command that the process arguments name, and returns its exit code.
#[cfg(not(feature = "temporal"))]
pub fn main() -> ExitCode {
    main_with()
}

/// Makes a program of one's own workflows and activities: it has the whole command line of `shmworker`.
///
/// To be called before the program has started a thread: `run` forks.
///
#[cfg_attr(feature = "temporal", doc = "```no_run")]
#[cfg_attr(not(feature = "temporal"), doc = "```ignore")]
/// use shmworker::temporal::{activity::Activities, workflow::Workflows};
///
/// fn main() -> std::process::ExitCode {
///     let activities = Activities::new().register("greet", |_ctx, name: String| async move { Ok(format!("hello {name}")) });
///     shmworker::cli::main_with(Workflows::new(), activities)
/// }
/// ```
pub fn main_with(
    #[cfg(feature = "temporal")] workflows: Workflows,
    #[cfg(feature = "temporal")] activities: Activities,
) -> ExitCode {
    let outcome = match args::parse(std::env::args_os().collect()) {
        #[cfg(feature = "temporal")]
        Ok(Parsed::Run(command)) => execute(command, workflows, activities),
        #[cfg(not(feature = "temporal"))]
        Ok(Parsed::Run(command)) => execute(command),
        // A reader that has gone away has read enough.
        Ok(Parsed::Text(text)) => {
            let _ = text.print();
            Ok(())
        }
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => exit::OK.into(),
        Err(error) => {
            // Not `eprintln!`, which panics when stderr is a broken pipe.
            let _ = writeln!(io::stderr(), "{error}");
            error.code().into()
        }
    }
}

#[cfg(feature = "temporal")]
fn execute(command: Command, workflows: Workflows, activities: Activities) -> Result<(), CliError> {
    match command {
        Command::Run(args) => run::run(*args, workflows, activities),
        Command::Starter(args) => {
            let (options, flags) = args.split();
            Ok(starter::run(&options, &Server::resolve(&flags)?)?)
        }
        Command::Replay(args) => replay::run(args, workflows.into()),
        #[cfg(feature = "pool")]
        Command::Bench(args) => bench::run(&args),
        Command::Torture(args) => torture::run(args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Clean(args) => clean::run(&args),
        Command::Probe(args) => probe::run(args),
    }
}

#[cfg(not(feature = "temporal"))]
fn execute(command: Command) -> Result<(), CliError> {
    match command {
        #[cfg(feature = "pool")]
        Command::Bench(args) => bench::run(&args),
        Command::Torture(args) => torture::run(args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Clean(args) => clean::run(&args),
        Command::Probe(args) => probe::run(args),
    }
}

/// Writes a line; a reader that has gone away has read enough, and `println!` would panic.
fn say(line: impl std::fmt::Display) {
    let _ = writeln!(io::stdout(), "{line}");
}
