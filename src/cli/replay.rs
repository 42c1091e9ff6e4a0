//! `shmworker replay`: recorded histories against the workflows of this program, in worker processes, without a server.

use super::{
    args::ReplayArgs,
    exit::{CliError, FAILURE, INTERRUPTED, USAGE},
    say,
};
use crate::{
    process::{Mode, coordinator::Event},
    temporal::{
        UserCode,
        bridge::replay::{Report, Verdict},
        history::Recording,
        worker_pool,
        workflow::Workflows,
    },
};
use std::{
    fmt, fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Replays all histories and says of each how it went, in the order in which they were given.
pub(crate) fn run(args: &ReplayArgs, user: UserCode) -> Result<(), CliError> {
    let paths = files(&args.histories)?;
    let recordings = paths.iter().map(|path| read(path, &user.workflows)).collect::<Result<Vec<_>, _>>()?;
    let mut verdicts: Vec<Option<Verdict>> = vec![None; paths.len()];
    let (mut told, mut has_drained) = (0, false);
    let mut observer = |event: Event<'_>| match event {
        Event::Output { is_error: false, line, .. } if let Some(report) = Report::parse(line) => {
            if let Some(verdict) = verdicts.get_mut(report.history) {
                *verdict = Some(report.verdict);
            }
            while let Some(Some(verdict)) = verdicts.get(told) {
                tell(&paths[told], verdict);
                told += 1;
            }
        }
        // What workflow code writes, and what is logged.
        Event::Output { label, line, .. } => complain(format_args!("[{label}] {line}")),
        Event::Died { label, pid, exit, .. } => complain(format_args!("{label} (pid {pid}) died: {exit}")),
        Event::Mode { mode } => has_drained |= mode >= Mode::Draining,
        _ => {}
    };
    let workers = (args.num_workflow_workers as usize).min(paths.len());
    worker_pool::replay(recordings, workers, user, &mut observer).map_err(|e| CliError::new(FAILURE, e))?;
    let (n, ok) = (paths.len(), verdicts.iter().flatten().filter(|v| **v == Verdict::Ok).count());
    match verdicts.iter().flatten().count() {
        _ if ok == n => Ok(()),
        done if done < n && has_drained => {
            Err(CliError::summary(INTERRUPTED, format_args!("interrupted: {done} of {n} histories were replayed")))
        }
        _ => Err(CliError::summary(FAILURE, format_args!("{} of {n} histories do not replay", n - ok))),
    }
}

fn tell(path: &Path, verdict: &Verdict) {
    let path = path.display();
    match verdict {
        Verdict::Ok => say(format_args!("{path}: ok")),
        Verdict::Nondeterministic(why) => say(format_args!("{path}: non-deterministic: {why}")),
        Verdict::Failed(why) => say(format_args!("{path}: failed: {why}")),
    }
}

fn complain(line: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A directory stands for the files in it that are named `*.json`, in the order of their names.
fn files(given: &[PathBuf]) -> Result<Vec<PathBuf>, CliError> {
    let mut files = Vec::new();
    for path in given {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = fs::read_dir(path).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
        let mut found: Vec<PathBuf> = entries.map_err(|e| unusable(path, e))?;
        found.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        if found.is_empty() {
            return Err(unusable(path, "there is no *.json in it"));
        }
        found.sort();
        files.append(&mut found);
    }
    Ok(files)
}

fn read(path: &Path, workflows: &Workflows) -> Result<Recording, CliError> {
    let json = fs::read(path).map_err(|e| unusable(path, e))?;
    let recording = Recording::from_json(&json).map_err(|e| unusable(path, e))?;
    workflows.check(&recording.workflow_type).map_err(|e| unusable(path, e))?;
    Ok(recording)
}

fn unusable(path: &Path, why: impl fmt::Display) -> CliError {
    CliError::new(USAGE, format_args!("cannot replay '{}': {why}", path.display()))
}
