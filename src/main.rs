//! The `shmworker` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    shmworker::cli::main()
}
