//! `shmworker upgrade`: another program for the coordinator of a pool that runs.

use super::{
    args::name,
    exit::{CliError, FAILURE},
    say,
};
use crate::{
    lockfree::{participant::Name, word::Member},
    observe::find::find,
    sync::Acquire,
};
use nix::sys::signal::Signal;
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// Between two looks whether the coordinator has answered.
const PAUSE: Duration = Duration::from_millis(5);
/// For the look at the new program, and what the coordinator waits for before it becomes that.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `shmworker upgrade` was told.
#[derive(clap::Args)]
pub(crate) struct UpgradeArgs {
    /// Name of the pool, or process id of one of its processes
    #[arg(value_name = "NAME|PID", value_parser = name())]
    pool: String,
}

/// Has the pool's coordinator execute the program that has the name of its own by now, and says how that went.
///
/// # Errors
/// There is no such pool, or it goes on as it is.
pub(crate) fn run(args: &UpgradeArgs) -> Result<(), CliError> {
    let UpgradeArgs { pool } = args;
    let failed =
        |why: &dyn std::fmt::Display| CliError::new(FAILURE, format_args!("pool '{pool}' is not upgraded: {why}"));
    let found = find(pool).map_err(|e| failed(&e))?;
    let Some(coordinator) = found.coordinator.filter(|_| found.runs) else {
        return Err(failed(&"none of its processes lives"));
    };
    let me = &found.segment.table().participants[0];
    // Acquire: who sees the count sees the answer before it.
    let answered = || me.status.load(Acquire);
    let (before, until) = (answered(), Instant::now() + PATIENCE);
    coordinator.signal(Signal::SIGUSR2).map_err(|e| failed(&e))?;
    while answered() == before {
        if coordinator.is_dead() {
            return Err(failed(&"its coordinator has ended"));
        }
        if Instant::now() >= until {
            return Err(failed(&format_args!("its coordinator has not done it within {PATIENCE:?}; it may do it yet")));
        }
        sleep(PAUSE);
    }
    let Ok(Member::Live(incarnation)) = me.member(0) else { return Err(failed(&"its coordinator has ended")) };
    let why =
        found.segment.record(0).and_then(|record| record.last_word(Name::new(0, incarnation))).unwrap_or_default();
    if !why.is_empty() {
        return Err(failed(&why));
    }
    say(format_args!("pool '{pool}' goes on with the program that is there now, as process {}", coordinator.pid));
    Ok(())
}
