//! `shmworker torture`: kills processes, and checks that nothing is lost, doubled or leaked.

use super::{
    args::number,
    exit::{self, CliError},
    say,
};
#[cfg(target_arch = "x86_64")]
use crate::torture::step;
use crate::torture::{TortureError, attach, experiments, fencing, random, wakes};
use std::{
    hash::{BuildHasher, RandomState},
    io::{self, Write},
};

/// What `shmworker torture` was told.
#[derive(clap::Args)]
pub(crate) struct TortureArgs {
    /// How long workers and clients are killed at random moments
    #[arg(long, value_name = "S", default_value = "10", allow_negative_numbers = true,
          value_parser = number(1..=1_000_000))]
    seconds: u32,
    /// Fixes the tasks and the kill schedule; a new one each time by default
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number(0..=u32::MAX))]
    seed: Option<u32>,
    /// Go on until at least so many tasks were delivered
    #[arg(long, value_name = "N", default_value = "0", allow_negative_numbers = true,
          value_parser = number(0..=u32::MAX))]
    tasks: u32,
    /// Kill one process after each of its instructions instead, path by path
    #[arg(long, conflicts_with_all = ["seconds", "seed", "tasks"])]
    single_step: bool,
    /// With --single-step: kill after every N-th instruction only [default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number(1..=u32::MAX),
          conflicts_with_all = ["seconds", "seed", "tasks"])]
    stride: Option<u32>,
    /// Have processes attach to a pool, and what may go wrong then go wrong
    #[arg(long, hide = true, conflicts_with_all = ["seconds", "seed", "tasks", "single_step", "stride"])]
    attach: bool,
    /// Play N rounds of sleep and wake instead, with wakers and sleepers killed or stopped in between
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number(1..=u32::MAX),
          conflicts_with_all = ["seconds", "tasks", "single_step"])]
    wakes: Option<u32>,
    /// Stop a worker past its deadline instead, and see that nothing is taken from it before it is dead
    #[arg(long, conflicts_with_all = ["seconds", "seed", "tasks", "single_step", "wakes"])]
    fencing: bool,
    /// With --fencing: somebody breaks the rule, which shows that it is noticed
    #[arg(long, hide = true, requires = "fencing")]
    without_fence: bool,
    /// Play five deaths instead that break Python's pools
    #[arg(long, conflicts_with_all = ["seconds", "seed", "tasks", "single_step", "wakes", "without_recovery"])]
    experiments: bool,
    /// Leave the dead as they are: shows that the faults are found
    #[arg(long, hide = true)]
    without_recovery: bool,
    /// With --single-step: descriptors are used again under the same generation, which shows that the faults are found
    #[arg(long, hide = true, conflicts_with_all = ["without_recovery", "seconds", "seed", "tasks"])]
    without_generation: bool,
}

impl From<TortureError> for CliError {
    fn from(error: TortureError) -> CliError {
        CliError::new(exit::FAILURE, error)
    }
}

/// Tortures, and prints what it came to.
///
/// # Errors
/// Every fault that was found, in one line each on stderr; the last sums up.
pub(crate) fn run(args: TortureArgs) -> Result<(), CliError> {
    if args.attach {
        return match attach::run(&mut |line| say(line))? {
            0 => Ok(()),
            n => Err(CliError::new(exit::FAILURE, format_args!("{n} scene(s) failed"))),
        };
    }
    if args.single_step {
        return single_step(&args);
    }
    if args.fencing {
        let report = fencing::run(args.without_fence)?;
        say(report);
        return verdict(&report.faults(), None);
    }
    if args.stride.is_some() {
        return Err(CliError::new(exit::USAGE, "'--stride' is for '--single-step': add that, or leave it out"));
    }
    if args.experiments {
        return match experiments::run(&mut |line| say(line))? {
            true => Ok(()),
            false => Err(CliError::new(exit::FAILURE, "an experiment failed: its line above says how")),
        };
    }
    let seed = args.seed.unwrap_or_else(|| RandomState::new().hash_one(0) as u32);
    say(format_args!("seed      {seed}"));
    if let Some(rounds) = args.wakes {
        let report = wakes::run(wakes::Options {
            rounds: rounds.into(),
            seed: seed.into(),
            without_recovery: args.without_recovery,
        })?;
        say(&report);
        return verdict(report.faults(), Some(seed));
    }
    let report = random::run(random::Options {
        seconds: args.seconds.into(),
        seed: seed.into(),
        tasks: args.tasks.into(),
        without_recovery: args.without_recovery,
    })?;
    say(&report);
    verdict(&report.faults(), Some(seed))
}

/// Every fault, and how to have them again.
fn verdict(faults: &[String], seed: Option<u32>) -> Result<(), CliError> {
    for fault in faults {
        let _ = writeln!(io::stderr(), "{fault}");
    }
    match (faults.len(), seed) {
        (0, _) => Ok(()),
        (n, Some(seed)) => {
            Err(CliError::new(exit::FAILURE, format_args!("{n} fault(s); the schedule again: --seed {seed}")))
        }
        (n, None) => Err(CliError::new(exit::FAILURE, format_args!("{n} fault(s)"))),
    }
}

#[cfg(target_arch = "x86_64")]
fn single_step(args: &TortureArgs) -> Result<(), CliError> {
    let without = match (args.without_recovery, args.without_generation) {
        (true, _) => Some(step::Without::Recovery),
        (_, true) => Some(step::Without::Generation),
        _ => None,
    };
    let options = step::Options { stride: args.stride.unwrap_or(1) as usize, without };
    if step::run(options, &mut |row| say(row))? {
        return Ok(());
    }
    Err(CliError::new(exit::FAILURE, "what a death left was lost, doubled or leaked: the lines above say where"))
}

#[cfg(not(target_arch = "x86_64"))]
fn single_step(_: &TortureArgs) -> Result<(), CliError> {
    Err(CliError::new(exit::USAGE, "'--single-step' needs an x86-64 machine: leave it out for random kills"))
}
