//! `shmworker autopsy`: what each process of a pool did last, and how those ended that died.
//!
//! As `inspect` it only reads, and waits for nobody.

use super::{
    args::name,
    exit::{self, CliError},
    say,
    units::Ns,
};
use crate::observe::{
    autopsy::{Autopsy, Event, Kind, Trace},
    find::find,
    sample::Death,
};
use std::fmt::{self, Write};

/// What `shmworker autopsy` was told.
#[derive(clap::Args)]
pub(crate) struct AutopsyArgs {
    /// Name of a pool, process id of one of its processes, or file of a segment
    #[arg(value_name = "NAME|PID|FILE", value_parser = name())]
    what: String,
    /// Print one JSON object in place of the text
    #[arg(long)]
    json: bool,
}

/// Prints what the participants have left.
///
/// # Errors
/// There is no such segment, or it can't be read.
pub(crate) fn run(args: &AutopsyArgs) -> Result<(), CliError> {
    let failed = |e: &dyn fmt::Display| CliError::new(exit::FAILURE, e);
    let autopsy = Autopsy::of(&find(&args.what).map_err(|e| failed(&e))?);
    if args.json {
        say(serde_json::to_string(&autopsy).map_err(|e| failed(&e))?);
    } else {
        let mut text = String::new();
        describe(&mut text, &autopsy).map_err(|e| failed(&e))?;
        say(text);
    }
    Ok(())
}

fn describe(out: &mut String, autopsy: &Autopsy) -> fmt::Result {
    let Autopsy { pool, participants, other_deaths } = autopsy;
    let seen = if pool.runs { "" } else { "last seen " };
    write!(out, "pool    {seen}{}; times are before the newest event, ", pool.mode)?;
    write!(out, "{:.3} s after the start", pool.newest_ns as f64 / 1e9)?;
    if participants.is_empty() {
        write!(out, "\nNobody has left anything.")?;
    }
    for trace in participants {
        describe_one(out, trace, pool.newest_ns)?;
    }
    if !other_deaths.is_empty() {
        write!(out, "\n\nDied before, and left nothing, or others have their places:")?;
    }
    for death in other_deaths {
        let Death { label, pid, at_ms, .. } = death;
        write!(out, "\n  {label} (pid {pid}): {}, {:.3} s after the start", Cause(death), *at_ms as f64 / 1e3)?;
    }
    Ok(())
}

fn describe_one(out: &mut String, trace: &Trace, newest: u64) -> fmt::Result {
    let Trace { state, label, pid, death, torn, events, .. } = trace;
    write!(out, "\n\n{label} (pid {pid}) ")?;
    match (death, *state) {
        (Some(death), _) => {
            let Death { requeued, failed, .. } = death;
            let ago = Ago(Some(death.at_ms.saturating_mul(1_000_000)), newest);
            write!(
                out,
                "died, {}, about {ago}; {requeued} task(s) went to others, {failed} ended with it",
                Cause(death)
            )?;
        }
        (None, "live") => write!(out, "lives")?,
        (None, "lost") => write!(out, "was alive when its coordinator was: how it ended nobody has seen")?,
        (None, _) if events.iter().any(is_unfinished) => {
            write!(out, "died with all the others: how it ended nobody has seen")?;
        }
        (None, _) => write!(out, "has ended, as it was asked to or too long ago to be told of")?,
    }
    for event in events {
        write!(
            out,
            "\n  {:>9}  {}",
            Ago(event.began_ns.or(event.ended_ns), newest).to_string(),
            Line { event, state, newest }
        )?;
    }
    match torn {
        0 => Ok(()),
        n => write!(out, "\n  {n} event(s) are half written"),
    }
}

/// An attempt that had not ended.
fn is_unfinished(event: &Event) -> bool {
    event.end.is_none() && matches!(event.what, Kind::Attempt { .. })
}

/// How somebody died.
struct Cause<'d>(&'d Death);

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let overdue = if self.0.was_overdue { " (killed: a task took too long)" } else { "" };
        write!(f, "{}{overdue}", self.0.exit)
    }
}

/// A time, before the newest event.
struct Ago(Option<u64>, u64);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("?"),
            Some(at) => write!(f, "-{}", Ns(self.1.saturating_sub(at))),
        }
    }
}

/// An event in words.
struct Line<'e> {
    event: &'e Event,
    state: &'e str,
    newest: u64,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line { event, state, newest } = self;
        let took = event.began_ns.zip(event.ended_ns).map(|(began, ended)| Ns(ended.saturating_sub(began)));
        match &event.what {
            Kind::Sleep {} => match took {
                Some(took) => write!(f, "slept for {took}"),
                None if *state == "live" => f.write_str("sleeps: there is nothing to do"),
                None => f.write_str("slept until the end: there was nothing to do"),
            },
            Kind::Attempt { task, descriptor, generation, attempt, heartbeat_ns, got_fatal_signal } => {
                let task = format!("{task} (descriptor {descriptor}, generation {generation}), attempt {attempt}");
                match (event.end, took) {
                    (Some(end), Some(took)) => write!(f, "ran {task}, for {took}: {end}")?,
                    (Some(end), None) => write!(f, "ran {task}: {end}")?,
                    (None, _) if *state == "live" => write!(f, "runs {task}")?,
                    (None, _) => write!(f, "ran {task} until the end")?,
                }
                if *got_fatal_signal {
                    write!(f, "; its thread got a fatal signal")?;
                }
                match heartbeat_ns {
                    Some(at) => write!(f, "; last heartbeat {}", Ago(Some(*at), *newest)),
                    None => Ok(()),
                }
            }
        }
    }
}
