//! `shmworker run`: workflow and activity workers in processes.

use super::{args::RunArgs, exit, exit::CliError};
use crate::temporal::connect::Server;

/// Runs workers until they are told to stop.
pub(crate) fn run(args: RunArgs) -> Result<(), CliError> {
    let server = Server::resolve(&args.connect.into())?;
    Err(CliError::new(exit::FAILURE, format_args!("'run' for {} is not wired yet", server.address())))
}
