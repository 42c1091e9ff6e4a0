//! `shmworker recover`, `export` and `import`: a state in a file, and the journals beside it.

use super::{
    exit::{self, CliError},
    say,
    units::Bytes,
};
use crate::state::{
    apply::{self, Applied},
    lines::{self, Imported},
    survey::{Fate, Next, Survey, survey},
};
use std::{
    fmt::{self, Write as _},
    fs::File,
    io::{self, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

/// What `shmworker recover` was told.
#[derive(clap::Args)]
pub(crate) struct RecoverArgs {
    /// File of the state, as given to --state
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Do it now, as the next start would
    #[arg(long)]
    apply: bool,
}

/// What `shmworker export` was told.
#[derive(clap::Args)]
pub(crate) struct ExportArgs {
    /// File of the state, as given to --state
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// What `shmworker import` was told.
#[derive(clap::Args)]
pub(crate) struct ImportArgs {
    /// File of the state, as given to --state; it need not be there
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What 'shmworker export' has written [default: standard input]
    #[arg(value_name = "LINES")]
    lines: Option<PathBuf>,
}

fn failed(why: impl fmt::Display) -> CliError {
    CliError::new(exit::FAILURE, why)
}

fn look(file: &Path) -> Result<Survey, CliError> {
    survey(file).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => {
            failed(format_args!("there is neither '{0}' nor a journal '{0}.journal'", file.display()))
        }
        _ => failed(format_args!("cannot look at '{}': {e}", file.display())),
    })
}

/// Says what is there and what becomes of it, and has it so if that is asked for.
///
/// # Errors
/// There is nothing, or nothing that could be gone on with; or, where it is to be done, a living pool has it.
pub(crate) fn recover(args: &RecoverArgs) -> Result<(), CliError> {
    let survey = look(&args.file)?;
    let mut text = String::new();
    describe(&mut text, &args.file, &survey).map_err(failed)?;
    say(text.trim_end());
    let file = args.file.display();
    match survey.next() {
        Next::Refuses if survey.journals.is_empty() => {
            return Err(failed(format_args!(
                "'{file}' can't be gone on with, and no journal says what was in it: move it away to begin anew"
            )));
        }
        Next::Refuses => {
            return Err(failed(format_args!("'{file}' and its journals can't be gone on with as they are: see above")));
        }
        Next::RefusesSegment if !args.apply => {
            return Err(failed(format_args!(
                "'{file}' is damaged: with --apply it is set aside, and its journal makes another"
            )));
        }
        _ => {}
    }
    if !args.apply {
        return Ok(());
    }
    drop(survey);
    let Applied { set_aside, shortened } = apply::apply(&args.file).map_err(failed)?;
    for (path, bytes) in shortened {
        say(format_args!("done: {bytes} bytes were cut off '{}'", path.display()));
    }
    match set_aside {
        Some(path) => say(format_args!(
            "done: the segment is '{}' now, and the next start makes another from the journal",
            path.display()
        )),
        None => say("done"),
    }
    Ok(())
}

fn describe(out: &mut String, file: &Path, survey: &Survey) -> fmt::Result {
    match &survey.segment {
        None => writeln!(out, "segment      none")?,
        Some(Err(e)) => writeln!(out, "segment      {}: {e}", file.display())?,
        Some(Ok(segment)) => {
            let identity = &segment.header().identity;
            writeln!(
                out,
                "segment      {}: version {}, {}, state {:016x}, made by process {}",
                file.display(),
                identity.version,
                Bytes(identity.total),
                identity.id,
                identity.creator
            )?;
            let said = match survey.is_of_this_boot {
                true => "this run of the machine: what stands in the segment counts",
                false => "another run of the machine: of the segment nothing is trusted",
            };
            writeln!(out, "boot         {said}")?;
        }
    }
    describe_journals(out, survey)?;
    for fault in &survey.faults {
        writeln!(out, "violation    {fault}")?;
    }
    if matches!(survey.segment, Some(Ok(_))) && survey.faults.is_empty() {
        writeln!(out, "audit        no invariant is violated")?;
    }
    let count = |fate: Fate| survey.tasks.iter().filter(|(_, of)| *of == fate).count();
    let from = match survey.next() {
        Next::GoesOn => "goes on with the segment",
        Next::Rebuilds => "makes a new segment from the journal",
        Next::RefusesSegment => "is refused, unless the segment is set aside: then the journal makes another",
        Next::Refuses => "is refused",
    };
    writeln!(out, "next start   {from}")?;
    for (fate, what) in [
        (Fate::Waits, "wait, and go on waiting"),
        (Fate::Runs, "run: their workers live, and finish them"),
        (Fate::Again, "ran: they have used up an attempt, and are begun again while one is left"),
        (Fate::Delivered, "are done: their results wait to be taken"),
        (Fate::Submitted, "are in the journal alone: they are submitted, with all their attempts"),
    ] {
        match count(fate) {
            0 => {}
            n => writeln!(out, "  {n} {what}")?,
        }
    }
    if survey.dropped > 0 {
        writeln!(out, "  {} of clients that are not durable are dropped", survey.dropped)?;
    }
    Ok(())
}

/// What is known of each journal.
pub(super) fn describe_journals(out: &mut String, survey: &Survey) -> fmt::Result {
    for (path, read) in &survey.journals {
        match read {
            Err(e) => writeln!(out, "journal      {e}")?,
            Ok(journal) => {
                write!(
                    out,
                    "journal      {}: client '{}', {} records, {}, {} tasks accepted and not done, {} done",
                    path.display(),
                    journal.client,
                    journal.records,
                    Bytes(journal.bytes),
                    journal.open.len(),
                    journal.done.len()
                )?;
                if let Some(why) = journal.end {
                    write!(
                        out,
                        "; it ends at byte {}, where {why}: {} are cut off",
                        journal.whole,
                        Bytes(journal.bytes - journal.whole)
                    )?;
                }
                writeln!(out)?;
            }
        }
    }
    if survey.journals.is_empty() {
        writeln!(out, "journal      none")?;
    }
    Ok(())
}

/// Prints the state as JSON lines.
///
/// # Errors
/// There is none, or it can't be read.
pub(crate) fn export(args: &ExportArgs) -> Result<(), CliError> {
    let survey = look(&args.file)?;
    // Half a state is none.
    if let Some((_, Err(e))) = survey.journals.iter().find(|(_, read)| read.is_err()) {
        return Err(failed(e));
    }
    if survey.journals.is_empty()
        && let Some(Err(e)) = &survey.segment
    {
        return Err(failed(format_args!("cannot read '{}': {e}", args.file.display())));
    }
    for fault in &survey.faults {
        super::complain(format_args!("warning: {fault}"));
    }
    let mut out = BufWriter::new(io::stdout().lock());
    let finished: Vec<_> = survey.finished().collect();
    let tasks = survey.tasks.into_iter().map(|(task, _)| task);
    match lines::write(&mut out, finished, tasks).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(failed(format_args!("cannot write: {e}"))),
        _ => Ok(()),
    }
}

/// Adds what was exported to the journals of a state.
///
/// # Errors
/// A line that is none, or a state that somebody has.
pub(crate) fn import(args: &ImportArgs) -> Result<(), CliError> {
    let imported = match args.lines.as_deref().filter(|path| path.as_os_str() != "-") {
        None => lines::import(&args.file, io::stdin().lock(), "standard input"),
        Some(path) => {
            let name = path.display().to_string();
            let file =
                File::open(path).map_err(|e| CliError::new(exit::USAGE, format_args!("cannot read '{name}': {e}")))?;
            lines::import(&args.file, BufReader::new(file), &name)
        }
    };
    let Imported { tasks, known, finished } = imported.map_err(failed)?;
    let before = if known > 0 { format!(", {known} of which were known") } else { String::new() };
    say(format_args!("imported {tasks} tasks{before}; {finished} more are done"));
    Ok(())
}
