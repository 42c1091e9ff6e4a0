//! The `shmworker` command line: reads what was typed, does it, and turns the outcome into an exit code.
//!
//! Every error is one line on stderr that names the input and the remedy; see [`exit`] for the codes.

mod args;
pub mod exit;
#[cfg(feature = "temporal")]
mod run;

#[cfg(feature = "temporal")]
use crate::temporal::{connect::Server, starter};
use args::{Command, Parsed};
use exit::CliError;
use std::{
    io::{self, Write},
    process::ExitCode,
};

/// Runs the command that the process arguments name, and returns its exit code.
pub fn main() -> ExitCode {
    let outcome = match args::parse(std::env::args_os().collect()) {
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

fn execute(command: Command) -> Result<(), CliError> {
    match command {
        #[cfg(feature = "temporal")]
        Command::Run(args) => run::run(*args),
        #[cfg(feature = "temporal")]
        Command::Starter(args) => {
            let (options, flags) = args.split();
            Ok(starter::run(&options, &Server::resolve(&flags)?)?)
        }
    }
}
