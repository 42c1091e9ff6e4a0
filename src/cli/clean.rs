//! `shmworker clean`: removes the shared memory of named pools whose processes are all dead, and the sockets of dead pools.

use super::{
    args::pool_name,
    exit::{self, CliError},
    say,
};
use crate::{
    mem::backing::{self, Left},
    process::names,
};
use std::fmt;

/// What `shmworker clean` was told.
#[derive(clap::Args)]
pub(crate) struct CleanArgs {
    /// Only these pools [default: all of yours]
    #[arg(value_name = "POOL", value_parser = pool_name)]
    pools: Vec<String>,
    /// Say what would be removed, and leave it
    #[arg(long)]
    dry_run: bool,
    /// Print only what goes wrong
    #[arg(short, long, conflicts_with = "dry_run")]
    quiet: bool,
}

/// Removes what is left over, a line for each.
///
/// # Errors
/// What can't be looked at, or removed.
pub(crate) fn run(args: &CleanArgs) -> Result<(), CliError> {
    let failed = |step: &str, e| CliError::new(exit::FAILURE, format_args!("cannot {step}: {e}"));
    let done = if args.dry_run { "would remove" } else { "removed" };
    let say = |line: fmt::Arguments<'_>| {
        if !args.quiet {
            say(line)
        }
    };
    let mut is_any = false;
    for (pool, path) in backing::named().map_err(|e| failed("look for left-overs", e))? {
        if !args.pools.is_empty() && !args.pools.contains(&pool) {
            continue;
        }
        let left = backing::clean(&path, args.dry_run);
        match left.map_err(|e| failed(&format!("remove '{}'", path.display()), e))? {
            Left::Over(creator) => {
                is_any = true;
                say(format_args!("{done} {}{creator}", path.display()));
            }
            Left::InUse(creator) => say(format_args!("kept {}, which is in use{creator}", path.display())),
            Left::Gone => {}
        }
    }
    for path in names::clean(&args.pools, args.dry_run).map_err(|e| CliError::new(exit::FAILURE, e))? {
        is_any = true;
        say(format_args!("{done} {}", path.display()));
    }
    if !is_any {
        say(format_args!("nothing is left over"));
    }
    Ok(())
}
