//! What a worker says while it runs, on stdout and stderr.

use super::{
    UserCode,
    bridge::Config,
    builder::RunError,
    connect::Server,
    upgrade::Taken,
    worker_pool::{self, Place, Watched},
};
use crate::{
    logs::{self, Of},
    process::{
        Mode,
        coordinator::{Base, Event, Summary},
    },
};
use std::{
    fmt::{self, Write as _},
    time::Duration,
};

pub(crate) fn say(line: impl fmt::Display) {
    logs::say(Of::default(), line);
}

pub(crate) fn complain(line: impl fmt::Display) {
    logs::complain(Of::default(), line);
}

/// Runs the pool in this process, which becomes its coordinator, and says what happens.
pub(super) fn run(
    server: Server,
    config: Config,
    place: Place,
    user: UserCode,
    companion: Option<&Watched>,
    former: Option<(&Taken, Base)>,
) -> Result<(), RunError> {
    let (w, a, quiet) = (config.workflow_processes, config.activity_processes, place.quiet);
    let say = |line: fmt::Arguments<'_>| {
        if !quiet {
            self::say(line)
        }
    };
    let say_of = |label: &str, pid: Option<i32>, line: fmt::Arguments<'_>| {
        if !quiet {
            logs::say(Of { worker: Some(label), pid }, line);
        }
    };
    let complain_of = |label: &str, pid: i32, line: fmt::Arguments<'_>| {
        logs::complain(Of { worker: Some(label), pid: Some(pid) }, line);
    };
    let mut observer = |event: Event<'_>| match event {
        Event::ClientsReady => say(format_args!("starting {w} workflow worker(s) and {a} activity worker(s)")),
        Event::Starting { label } => say_of(label, None, format_args!("{label} starting")),
        Event::Started => say(format_args!("waiting for keyboard interrupt or for all workers to exit")),
        Event::Output { label, is_error, line } => logs::hand_on(label, is_error, line),
        Event::Replaced { label, pid, why } => {
            say_of(label, Some(pid), format_args!("{label} (pid {pid}) has left: {why}"));
        }
        Event::Died { label, pid, exit, settled, restart_in, .. } => {
            let then = match restart_in {
                None => "not started again, since the pool is ending".to_owned(),
                Some(Duration::ZERO) => "starting it again".to_owned(),
                Some(pause) => format!("starting it again in {pause:?}"),
            };
            complain_of(
                label,
                pid,
                format_args!(
                    "ERROR: worker exited unexpectedly: {label} (pid {pid}): {exit}; {} task(s) go to another worker, {} are \
                 reported as failed, {} are dropped; {then}",
                    settled.requeued, settled.failed, settled.dropped
                ),
            );
        }
        Event::Left { was_orderly: true, .. } => {}
        Event::Left { pid, was_orderly: false, settled } => complain(format_args!(
            "attached process {pid} died: {} of its tasks are dropped, {} that it ran go to others",
            settled.dropped, settled.requeued
        )),
        Event::Unsound { who, audit } => {
            complain(format_args!("ERROR: shared memory is not sound after the death of {who}: {audit}"))
        }
        Event::Mode { mode: Mode::Draining } => {
            say(format_args!("draining: what runs is finished, nothing new is taken"))
        }
        Event::Mode { mode: Mode::Cancelling } => say(format_args!("cancelling what still runs")),
        Event::Mode { .. } => {}
        Event::ShuttingDown { label } => say_of(label, None, format_args!("{label} shutting down")),
        Event::OutOfTime { label, pid, .. } => complain_of(
            label,
            pid,
            format_args!("{label} (pid {pid}) has run a task for longer than that may take: killed"),
        ),
        Event::Renewing => {
            say(format_args!("loading the plug-ins again: one activity worker after another is replaced"))
        }
        Event::Upgraded => {
            say(format_args!("upgraded to the program that is there now: one worker after another is replaced"))
        }
        Event::NotUpgraded { why } => complain(format_args!("ERROR: not upgraded: {why}; everything goes on as it is")),
        Event::NotRenewed { why } => {
            complain(format_args!("ERROR: {why}; the activity workers go on with what they have"))
        }
        Event::Stuck { label, pid, state } => complain_of(
            label,
            pid,
            format_args!(
                "{label} (pid {pid}) was killed and does not die, it is in state {state}: what it runs stays with it"
            ),
        ),
        // Its pool has no file.
        Event::TakenOn { .. } => {}
        Event::Killing { label } => complain(format_args!("{label} did not end in time: killed")),
    };
    conclude(&worker_pool::run(server, config, place, user, companion, former, &mut observer)?, &say)
}

/// The table at the end; an error if anything was left behind.
fn conclude(summary: &Summary, say: &dyn Fn(fmt::Arguments<'_>)) -> Result<(), RunError> {
    let width = summary.ended.iter().map(|e| e.label.len()).max().unwrap_or(0).max("label".len());
    let mut table = format!("{:width$}  {:>8}  {:<20}  {:>10}", "label", "pid", "ended with", "tasks done");
    for e in &summary.ended {
        let exit = e.exit.to_string();
        let _ = write!(table, "\n{:width$}  {:>8}  {exit:<20}  {:>10}", e.label, e.pid, e.finished);
    }
    match logs::is_json() {
        // A line for each of its rows.
        true => summary.ended.iter().for_each(|e| {
            let (exit, tasks_done) = (e.exit.to_string(), e.finished);
            tracing::info!(target: "shmworker::report", worker = e.label, pid = e.pid, exit, tasks_done, "ended");
        }),
        false => say(format_args!("{table}")),
    }
    // What the living have in use is no leak.
    let is_clean = summary.audit.is_clean() || summary.attached > 0 && summary.audit.violations.is_empty();
    if !is_clean {
        return Err(RunError::Unclean(format!("shared memory is not clean at the end: {}", summary.audit)));
    }
    if summary.unsound > 0 {
        let deaths = summary.unsound;
        return Err(RunError::Unclean(format!(
            "shared memory was not sound after {deaths} of the deaths above: please report what was said there"
        )));
    }
    match summary.attached {
        0 => say(format_args!("shared memory is clean: no descriptor and no block in use")),
        n => say(format_args!("{n} process(es) are still attached, with {}", summary.audit)),
    }
    match summary.killed {
        0 => Ok(()),
        n => Err(RunError::Unclean(format!(
            "{n} process(es) did not end in time and were killed: give them longer with --grace"
        ))),
    }
}
