//! `shmworker inspect`: what stands in a segment, and whether it is sound.
//!
//! It only reads. Of a pool that runs it takes no participant's seat; a segment whose processes are all dead is looked at where
//! it lies. Nobody is waited for, so a pool whose processes are stopped can be looked at too.

use super::{
    args::name,
    exit::{self, CliError},
    say,
    units::{Bytes, Ns},
};
use crate::{
    lockfree::audit::Violation,
    observe::{
        find::find,
        sample::{Percentiles, Sample},
    },
};
#[cfg(feature = "pool")]
use crate::{
    observe::find::Found,
    state::survey::{Survey, survey},
};
use serde::Serialize;
use std::fmt::{self, Write};

/// What `shmworker inspect` was told.
#[derive(clap::Args)]
pub(crate) struct InspectArgs {
    /// Name of a pool, process id of one of its processes, or file of a segment
    #[arg(value_name = "NAME|PID|FILE", value_parser = name())]
    what: String,
    /// Print one JSON object in place of the tables
    #[arg(long)]
    json: bool,
}

/// What `--json` prints. `docs/operations.md` has its fields.
#[derive(Serialize)]
struct Json<'s> {
    #[serde(flatten)]
    sample: &'s Sample,
    audit: Audit,
    /// Null where there is none.
    #[cfg(feature = "pool")]
    journals: Option<Journals>,
}

/// What the journals beside the file say.
#[cfg(feature = "pool")]
#[derive(Serialize)]
struct Journals {
    /// A pool has the file: they are not compared with it.
    is_in_use: bool,
    is_of_this_boot: bool,
    clients: Vec<Client>,
    contradictions: Vec<String>,
}

#[cfg(feature = "pool")]
#[derive(Serialize)]
struct Client {
    path: String,
    error: Option<String>,
    client: Option<String>,
    records: Option<u64>,
    bytes: Option<u64>,
    accepted: Option<usize>,
    done: Option<u64>,
}

#[derive(Serialize)]
struct Audit {
    is_sound: bool,
    violations: Vec<String>,
}

/// Prints what stands in the segment.
///
/// # Errors
/// There is no such segment, it can't be read, or it violates an invariant.
pub(crate) fn run(args: &InspectArgs) -> Result<(), CliError> {
    let failed = |e: &dyn fmt::Display| CliError::new(exit::FAILURE, e);
    let found = find(&args.what).map_err(|e| failed(&e))?;
    let sample = Sample::of(&found);
    // What others are in the middle of, or died in the middle of, is no fault.
    let violations = found.segment.table().audit_live().violations;
    #[cfg(feature = "pool")]
    let beside = Beside::of(&found);
    #[cfg(feature = "pool")]
    let contradictions = beside.as_ref().map_or(0, |beside| beside.survey.contradictions.len());
    #[cfg(not(feature = "pool"))]
    let contradictions = 0;
    if args.json {
        let violations: Vec<String> = violations.iter().map(Violation::to_string).collect();
        let audit = Audit { is_sound: violations.is_empty(), violations };
        let json = Json {
            sample: &sample,
            audit,
            #[cfg(feature = "pool")]
            journals: beside.map(Beside::json),
        };
        say(serde_json::to_string(&json).map_err(|e| failed(&e))?);
    } else {
        let mut text = String::new();
        describe(&mut text, &sample, &violations).map_err(|e| failed(&e))?;
        #[cfg(feature = "pool")]
        if let Some(beside) = &beside {
            beside.describe(&mut text).map_err(|e| failed(&e))?;
        }
        say(text.trim_end());
    }
    match violations.len() {
        0 if contradictions > 0 => {
            let why = format_args!(
                "the segment and its journals contradict each other in {contradictions} task(s): see 'shmworker recover'"
            );
            Err(CliError::new(exit::FAILURE, why))
        }
        0 => Ok(()),
        n => {
            let why =
                format_args!("the segment is damaged, {n} invariant(s) are violated: end its pool, and report this");
            Err(CliError::new(exit::FAILURE, why))
        }
    }
}

/// The journals beside the file of a segment, and what they say of it.
#[cfg(feature = "pool")]
struct Beside {
    survey: Survey,
    is_in_use: bool,
}

#[cfg(feature = "pool")]
impl Beside {
    /// `None`: it was not found by its file, or there are none.
    fn of(found: &Found) -> Option<Beside> {
        let is_in_use = found.segment.is_in_use();
        let mut survey = survey(found.path.as_deref()?).ok().filter(|survey| !survey.journals.is_empty())?;
        if is_in_use {
            // Both go on between two looks.
            survey.contradictions.clear();
        }
        Some(Beside { survey, is_in_use })
    }

    fn describe(&self, out: &mut String) -> fmt::Result {
        out.push_str("\n\n");
        super::state::describe_journals(out, &self.survey)?;
        let said = match (self.is_in_use, self.survey.is_of_this_boot, self.survey.contradictions.len()) {
            (true, ..) => "a pool has the file, so they are not compared",
            (_, false, _) => "the segment is of another run of the machine: the journals count, not it",
            (_, _, 0) => "segment and journals agree",
            _ => "segment and journals contradict each other",
        };
        writeln!(out, "together     {said}")?;
        self.survey.contradictions.iter().try_for_each(|fault| writeln!(out, "violation    {fault}"))
    }

    fn json(self) -> Journals {
        let Beside { survey, is_in_use } = self;
        let clients = survey.journals.into_iter().map(|(path, read)| {
            let path = path.display().to_string();
            match read {
                Ok(journal) => Client {
                    path,
                    error: None,
                    client: Some(journal.client),
                    records: Some(journal.records),
                    bytes: Some(journal.bytes),
                    accepted: Some(journal.open.len()),
                    done: Some(journal.done.len()),
                },
                Err(e) => Client {
                    path,
                    error: Some(e.to_string()),
                    client: None,
                    records: None,
                    bytes: None,
                    accepted: None,
                    done: None,
                },
            }
        });
        Journals {
            is_in_use,
            is_of_this_boot: survey.is_of_this_boot,
            clients: clients.collect(),
            contradictions: survey.contradictions,
        }
    }
}

fn describe(out: &mut String, sample: &Sample, violations: &[Violation]) -> fmt::Result {
    let Sample { pool, segment, .. } = sample;
    let seen = if pool.runs { "" } else { "last seen " };
    let stopped = if pool.is_stopped { ", all its processes are stopped" } else { "" };
    writeln!(out, "pool         {seen}{}{stopped}, made by process {}", pool.mode, pool.made_by)?;
    let taken = segment.taken_bytes.map_or("can't be told how much takes".to_owned(), |n| format!("{} take", Bytes(n)));
    writeln!(
        out,
        "segment      version {}, {}, of which {taken} memory",
        segment.layout_version,
        Bytes(segment.bytes)
    )?;
    writeln!(
        out,
        "geometry     {} participants, {} descriptors; lanes of {} (queue), {} (private), {} (completion) hints",
        segment.participants, segment.descriptors, segment.queue_hints, segment.private_hints, segment.completion_hints
    )?;
    writeln!(out, "deaths       {} settled; {} task(s) given up over them", pool.ends_settled, pool.tasks_given_up)?;
    participants(out, sample)?;
    tasks(out, sample)?;
    latency(out, sample)?;
    deaths(out, sample)?;
    blocks(out, sample)?;
    for v in violations {
        write!(out, "\nviolation    {v}")?;
    }
    if violations.is_empty() {
        write!(out, "\naudit        no invariant is violated")?;
    }
    Ok(())
}

fn participants(out: &mut String, sample: &Sample) -> fmt::Result {
    let width = sample.participants.iter().map(|p| p.label.chars().count()).max().unwrap_or(0).max("label".len());
    let head = format!("\nparticipant  incarnation  state       pid  {:<width$}  S     done     memory  task", "label");
    write!(out, "{head}")?;
    for p in &sample.participants {
        let (state, memory) = match p.process {
            Some(figures) => (figures.state, Bytes(figures.own_bytes).to_string()),
            None => ('-', "-".to_owned()),
        };
        let task = match &p.task {
            Some(task) => {
                let mut text = task.task.clone();
                if let Some(ns) = task.running_ns {
                    write!(text, ", for {}", Ns(ns))?;
                }
                if let Some(progress) = task.progress {
                    write!(text, ", {} of {}", progress.done, progress.total)?;
                }
                if p.running > 1 {
                    write!(text, ", and {} more", p.running - 1)?;
                }
                text
            }
            None => String::new(),
        };
        let line = format!(
            "{:>11}  {:>11}  {:<7}  {:>6}  {:<width$}  {state}  {:>7}  {memory:>9}  {task}",
            p.id, p.incarnation, p.state, p.pid, p.label, p.finished
        );
        write!(out, "\n{}", line.trim_end())?;
    }
    writeln!(out)
}

fn tasks(out: &mut String, sample: &Sample) -> fmt::Result {
    let t = &sample.tasks;
    writeln!(
        out,
        "\ndescriptors  {} free, {} reserved, {} ready, {} delayed, {} claimed, {} done, {} damaged",
        t.free, t.reserved, t.ready, t.delayed, t.claimed, t.done, t.damaged
    )?;
    for lane in &sample.lanes {
        let name = match lane.queue {
            None => "addressed".to_owned(),
            Some(queue) if lane.name.is_empty() => format!("queue {queue}"),
            Some(queue) => format!("queue {queue} ({:?})", lane.name),
        };
        writeln!(out, "  {name:<20}  {} ready, {} delayed", lane.ready, lane.delayed)?;
    }
    Ok(())
}

fn latency(out: &mut String, sample: &Sample) -> fmt::Result {
    let Some(latency) = &sample.latency else { return Ok(()) };
    for (what, p) in [("\nwaited     ", &latency.wait), ("ran        ", &latency.run)] {
        let Percentiles { count, p50_ns, p90_ns, p99_ns, max_ns } = *p;
        let (p50, p90, p99, max) = (Ns(p50_ns), Ns(p90_ns), Ns(p99_ns), Ns(max_ns));
        writeln!(out, "{what}  {count} attempts: half up to {p50}, 90 % {p90}, 99 % {p99}, all {max}")?;
    }
    Ok(())
}

fn deaths(out: &mut String, sample: &Sample) -> fmt::Result {
    for s in &sample.suspects {
        let verdict = if s.is_poison { ", set aside" } else { "" };
        write!(
            out,
            "\nsuspect      descriptor {}: {}, {} deaths, {}{verdict}",
            s.descriptor, s.task, s.deaths, s.state
        )?;
    }
    for g in &sample.given_up {
        let why = if g.is_poison { "poison" } else { "no attempt left" };
        write!(
            out,
            "\ngiven up     {}: {} death(s), {why}; the last was pid {}: {}, {:.3} s after the start",
            g.task,
            g.deaths,
            g.pid,
            g.exit,
            g.at_ms as f64 / 1000.0
        )?;
    }
    for d in &sample.deaths {
        let overdue = if d.was_overdue { " (killed: a task took too long)" } else { "" };
        write!(
            out,
            "\ndied         {} (pid {}): {}{overdue}, {:.3} s after the start; {} task(s) went to others, {} ended with it",
            d.label,
            d.pid,
            d.exit,
            d.at_ms as f64 / 1000.0,
            d.requeued,
            d.failed
        )?;
    }
    if sample.suspects.is_empty() && sample.given_up.is_empty() && sample.deaths.is_empty() {
        Ok(())
    } else {
        writeln!(out)
    }
}

fn blocks(out: &mut String, sample: &Sample) -> fmt::Result {
    let blocks = &sample.blocks;
    write!(out, "\nblocks       {} committed of {}", Bytes(blocks.committed_bytes), Bytes(blocks.bytes))?;
    for size in &blocks.sizes {
        write!(
            out,
            "\n  {:<7}  {} free, {} held, {} attached, {} damaged",
            Bytes(size.bytes),
            size.free,
            size.held,
            size.attached,
            size.damaged
        )?;
    }
    writeln!(out)
}
