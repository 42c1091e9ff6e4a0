//! `shmworker run`: workflow and activity workers in processes.

use super::{args::RunArgs, exit, exit::CliError};
use crate::{
    mem::segment::Options,
    process::{
        Mode,
        coordinator::{Event, PoolError, Summary},
        exit::Exit,
        limits::WorkerLimits,
    },
    temporal::{
        UserCode,
        activity::Activities,
        bridge::Config,
        connect::{ConnectError, Server},
        dev_server::{DEFAULT_PORT, DevServer, locate},
        worker_pool::{self, Place, Watched},
        workflow::Workflows,
    },
};
use nix::poll::{PollFd, PollFlags, poll};
use std::{
    fmt::Write as _,
    io::{self, Write},
    path::Path,
    time::{Duration, Instant},
};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};

/// How long a dev server may take until it accepts connections.
const DEV_SERVER_START: Duration = Duration::from_secs(30);
/// How long a dev server may take to end.
const DEV_SERVER_STOP: Duration = Duration::from_secs(5);

/// Writes a line; a reader that has gone away has read enough, and `println!` would panic.
fn say(line: impl std::fmt::Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn complain(line: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Runs workers until they are told to stop.
pub(crate) fn run(args: RunArgs, workflows: Workflows, activities: Activities) -> Result<(), CliError> {
    log_to_stderr();
    let server = Server::resolve(&args.connect.into())?;
    let dev_server = match server.configured() || server.somebody_listens() {
        true => None,
        false if args.no_dev_server => {
            let reason = "nobody listens there, and --no-dev-server forbids to start one".to_owned();
            return Err(ConnectError::Unreachable { address: server.address().to_owned(), reason }.into());
        }
        false => Some(start_dev_server(args.dev_server_db.as_deref())?),
    };
    let result = serve(
        Config {
            server,
            workflow_task_queue: args.workflow_task_queue,
            activity_task_queue: args.activity_task_queue,
            workflow_processes: args.num_workflow_workers as usize,
            max_workflow_processes: args.max_workflow_workers.unwrap_or((2 * args.num_workflow_workers).max(16))
                as usize,
            limits: worker_limits(args.max_tasks_per_process, args.max_memory_per_process),
            activity_processes: args.num_activity_workers as usize,
            activity_slots: args.activity_slots as usize,
            max_cached_workflows: args.max_cached_workflows as usize,
            deadlock_timeout: args.deadlock_timeout,
            grace: args.grace,
        },
        Place {
            options: Options {
                backing: args.backing.of(args.name.as_deref()),
                reserve: args.reserve,
                huge_pages: args.huge_pages,
                prefault: args.prefault,
                no_times: args.no_times,
                ..Options::default()
            },
            name: args.name,
        },
        UserCode { workflows, activities, ..UserCode::default() },
        dev_server.as_ref(),
    );
    if let Some(server) = dev_server {
        server.stop(DEV_SERVER_STOP)?;
        say("dev server stopped");
    }
    result
}

/// A tenth of jitter, so that not all leave at once.
fn worker_limits(max_tasks: Option<u32>, max_memory: Option<u64>) -> WorkerLimits {
    let limits = WorkerLimits::new();
    let limits = max_tasks.map_or(limits.clone(), |n| limits.max_tasks(n.into(), u64::from(n) / 10));
    max_memory.map_or(limits.clone(), |bytes| limits.max_memory(bytes))
}

/// Warnings of this process and of its workers, whose lines the coordinator labels; more by `RUST_LOG`.
fn log_to_stderr() {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::WARN.into()).from_env_lossy();
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false);
    // A program that has set its own logs up before keeps them.
    let _ = logs.try_init();
}

fn start_dev_server(db: Option<&Path>) -> Result<DevServer, CliError> {
    let cli = locate()?;
    let mut server = DevServer::start(&cli, DEFAULT_PORT, db)?;
    let watched = Watched::new(&server).map_err(|e| CliError::new(exit::NO_CLI, e))?;
    let deadline = Instant::now() + DEV_SERVER_START;
    while !server.ready()? {
        if Instant::now() > deadline {
            let why = format_args!("the dev server does not accept connections after {DEV_SERVER_START:?}");
            return Err(CliError::new(exit::NO_CLI, why));
        }
        // Its end is an event; that it listens can only be asked.
        let fd = crate::process::coordinator::Companion::fd(&watched);
        let _ = poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], 50u8);
    }
    let keeps = match db {
        Some(file) => format!("its state stays in {}", file.display()),
        None => "its state ends with it (--dev-server-db FILE keeps it)".to_owned(),
    };
    say(format_args!("no server configured: started a dev server on 127.0.0.1:{DEFAULT_PORT}; {keeps}"));
    Ok(server)
}

fn serve(config: Config, place: Place, user: UserCode, dev_server: Option<&DevServer>) -> Result<(), CliError> {
    let watched = dev_server.map(Watched::new).transpose().map_err(|e| CliError::new(exit::FAILURE, e))?;
    let (w, a) = (config.workflow_processes, config.activity_processes);
    let mut observer = |event: Event<'_>| match event {
        Event::ClientsReady => say(format_args!("starting {w} workflow worker(s) and {a} activity worker(s)")),
        Event::Starting { label } => say(format_args!("{label} starting")),
        Event::Started => say("waiting for keyboard interrupt or for all workers to exit"),
        Event::Output { label, is_error: false, line } => say(format_args!("[{label}] {line}")),
        Event::Output { label, is_error: true, line } => complain(format_args!("[{label}] {line}")),
        Event::Replaced { label, pid, why } => say(format_args!("{label} (pid {pid}) has left: {why}")),
        Event::Died { label, pid, exit, settled, restart_in, .. } => {
            let then = match restart_in {
                None => "not started again, since the pool is ending".to_owned(),
                Some(Duration::ZERO) => "starting it again".to_owned(),
                Some(pause) => format!("starting it again in {pause:?}"),
            };
            complain(format_args!(
                "ERROR: worker exited unexpectedly: {label} (pid {pid}): {exit}; {} task(s) go to another worker, {} are \
                 reported as failed, {} are dropped; {then}",
                settled.requeued, settled.failed, settled.dropped
            ));
        }
        Event::Left { was_orderly: true, .. } => {}
        Event::Left { pid, was_orderly: false, settled } => complain(format_args!(
            "attached process {pid} died: {} of its tasks are dropped, {} that it ran go to others",
            settled.dropped, settled.requeued
        )),
        Event::Unsound { who, audit } => {
            complain(format_args!("ERROR: shared memory is not sound after the death of {who}: {audit}"))
        }
        Event::Mode { mode: Mode::Draining } => say("draining: what runs is finished, nothing new is taken"),
        Event::Mode { mode: Mode::Cancelling } => say("cancelling what still runs"),
        Event::Mode { .. } => {}
        Event::ShuttingDown { label } => say(format_args!("{label} shutting down")),
        Event::OutOfTime { label, pid, .. } => {
            complain(format_args!("{label} (pid {pid}) has run a task for longer than that may take: killed"))
        }
        Event::Stuck { label, pid, state } => complain(format_args!(
            "{label} (pid {pid}) was killed and does not die, it is in state {state}: what it runs stays with it"
        )),
        Event::Killing { label } => complain(format_args!("{label} did not end in time: killed")),
    };
    let result = worker_pool::run(config, place, user, watched.as_ref(), exit::code_of, &mut observer);
    match result {
        Ok(summary) => conclude(&summary),
        Err(error) => Err(CliError::new(code(&error), error)),
    }
}

fn code(error: &PoolError) -> u8 {
    match error {
        // The bridge has its exit codes from here.
        PoolError::ClientGaveUp { exit: Exit::Code(code), .. } => *code,
        PoolError::CrashLoop { .. } => exit::CRASH_LOOP,
        PoolError::CompanionDied => exit::NO_CLI,
        _ => exit::FAILURE,
    }
}

/// The table at the end; an error if anything was left behind.
fn conclude(summary: &Summary) -> Result<(), CliError> {
    let width = summary.ended.iter().map(|e| e.label.len()).max().unwrap_or(0).max("label".len());
    let mut table = format!("{:width$}  {:>8}  {:<20}  {:>10}", "label", "pid", "ended with", "tasks done");
    for e in &summary.ended {
        let exit = e.exit.to_string();
        let _ = write!(table, "\n{:width$}  {:>8}  {exit:<20}  {:>10}", e.label, e.pid, e.finished);
    }
    say(table);
    // What the living have in use is no leak.
    let is_clean = summary.audit.is_clean() || summary.attached > 0 && summary.audit.violations.is_empty();
    if !is_clean {
        return Err(CliError::new(
            exit::FAILURE,
            format_args!("shared memory is not clean at the end: {}", summary.audit),
        ));
    }
    if summary.unsound > 0 {
        let deaths = summary.unsound;
        return Err(CliError::new(
            exit::FAILURE,
            format_args!(
                "shared memory was not sound after {deaths} of the deaths above: please report what was said there"
            ),
        ));
    }
    match summary.attached {
        0 => say("shared memory is clean: no descriptor and no block in use"),
        n => say(format_args!("{n} process(es) are still attached, with {}", summary.audit)),
    }
    match summary.killed {
        0 => Ok(()),
        n => Err(CliError::new(
            exit::FAILURE,
            format_args!("{n} process(es) did not end in time and were killed: give them longer with --grace"),
        )),
    }
}
