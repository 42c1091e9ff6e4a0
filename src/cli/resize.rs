//! `shmworker resize`: another number of workers for a pool that runs.

use super::{
    args::{name, number},
    exit::{CliError, FAILURE},
    say,
};
use crate::process::attach;

/// What `shmworker resize` was told.
#[derive(clap::Args)]
pub(crate) struct ResizeArgs {
    /// Name of the pool, or process id of its coordinator
    #[arg(value_name = "NAME|PID", value_parser = name())]
    pool: String,
    /// Workers that it is to have: of `run`, the workflow workers
    #[arg(short = 'w', long, value_name = "N", required = true, allow_negative_numbers = true, value_parser = number(1..=1024))]
    num_workflow_workers: u32,
}

/// Has the pool be of that size, and says so. Those that are too many leave once they have handed over what they hold.
///
/// # Errors
/// There is no such pool, or it can't be of that size.
pub(crate) fn run(args: &ResizeArgs) -> Result<(), CliError> {
    let ResizeArgs { pool, num_workflow_workers: to } = args;
    let from = attach::resize(pool, *to).map_err(|e| CliError::new(FAILURE, e))?;
    say(format_args!("pool '{pool}' had {from} worker(s), and is to have {to}"));
    Ok(())
}
