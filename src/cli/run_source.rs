//! `shmworker run --source`: the jobs that wait in a table, a stream or a service.

use super::{
    args::SourceArgs,
    exit::{self, CliError},
    forget_variables,
    observing::ObservingArgs,
    say, successor,
};
use crate::{
    Pool, Tasks,
    jobs::{self, Defaults},
    logs::{self, Format},
    sources::{self, ConnectError, ConnectOptions, Options, ServeError, SourceError, Stop, Summary},
};
use nix::sys::signal::{SigSet, Signal};
use std::{path::PathBuf, thread};

/// Runs jobs until it is told to stop.
pub(crate) fn run(
    args: SourceArgs,
    observing: &ObservingArgs,
    workers: Option<u32>,
    load: Vec<PathBuf>,
) -> Result<(), CliError> {
    let format = observing.log_format.unwrap_or(Format::Text);
    logs::start(format);
    let url = args.source.unwrap_or_default();
    let mut connect = args.source_header.into_iter().fold(ConnectOptions::new(), ConnectOptions::header);
    if let Some(ca) = args.source_ca {
        connect = connect.ca(ca);
    }
    // No thread is started by it, which the pool's fork would not survive.
    let source = sources::connect(&url, &connect).map_err(|e| {
        let code = if let ConnectError::Source(_) = e { exit::CONFIG } else { exit::USAGE };
        CliError::new(code, e)
    })?;
    forget_variables(&["SHMWORKER_SOURCE", "SHMWORKER_SOURCE_HEADER", "PGPASSWORD", "REDISCLI_AUTH"]);
    let mut tasks = Tasks::new();
    jobs::builtin(&mut tasks);
    for library in &load {
        tasks.load(library).map_err(|e| CliError::new(exit::PLUGIN, e))?;
    }
    #[cfg(feature = "metrics")]
    let metrics = observing.metrics.map(super::observing::listen).transpose()?;
    successor::hold_back()?;
    let mut builder = Pool::builder().succeeded_with(successor::args(&load, Some(format)));
    if let Some(n) = workers {
        builder = builder.workers(n as usize);
    }
    let pool = builder.fork(tasks).map_err(|e| CliError::new(exit::FAILURE, e))?;
    let stop = Stop::new();
    stop_by_signals(&stop, pool.coordinator_pid())?;
    #[cfg(feature = "metrics")]
    if let Some(listener) = metrics {
        say(format_args!("metrics: {}", super::observing::url(&listener)));
        super::observing::serve(listener, &pool)?;
    }
    let mut defaults = Defaults::default();
    (defaults.timeout, defaults.retries) = (args.timeout, args.retries.unwrap_or(0));
    let mut options = Options::new().stop(&stop).defaults(defaults);
    if let Some(n) = args.source_ahead {
        options = options.ahead(n as usize);
    }
    if let Some(after) = args.source_give_up {
        options = options.give_up(after);
    }
    #[cfg(feature = "otlp")]
    let tracer = super::observing::tracer(observing)?;
    #[cfg(feature = "otlp")]
    let options = options.traced(tracer);
    say(format_args!("{} worker(s) run the jobs of {}", pool.width(), sources::shown(&url)));
    let served = sources::serve(&*source, &pool, &options);
    // What is still to be sent is sent.
    drop(options);
    let joined = pool.join();
    let summary = match &served {
        Ok(summary) | Err(ServeError::Source { summary, .. } | ServeError::Pool { summary, .. }) => *summary,
    };
    say(summary);
    match served {
        Err(ServeError::Source { error: error @ SourceError::Fatal(_), .. }) => Err(CliError::new(exit::CONFIG, error)),
        Err(error) => Err(CliError::new(exit::FAILURE, error)),
        Ok(Summary { unpublished: n @ 1.., .. }) => {
            let why =
                format_args!("the source took {n} results no more: their jobs come again when their leases run out");
            Err(CliError::new(exit::SERVER_UNREACHABLE, why))
        }
        Ok(_) => joined.map_err(|e| CliError::new(exit::FAILURE, e)),
    }
}

/// To be called before any other thread is there, which inherits what is blocked; and after the pool is, which does not. SIGUSR2 is
/// passed on to the coordinator.
fn stop_by_signals(stop: &Stop, coordinator: u32) -> Result<(), CliError> {
    let failure = |e| CliError::new(exit::FAILURE, format_args!("signals cannot be waited for: {e}"));
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    let ends = signals;
    signals.add(Signal::SIGUSR2);
    signals.thread_block().map_err(failure)?;
    let stop = stop.clone();
    let next = move || loop {
        match signals.wait() {
            Ok(Signal::SIGUSR2) => successor::pass_on(coordinator),
            signal => return signal,
        }
    };
    thread::spawn(move || {
        if let Ok(signal) = next() {
            say(format_args!("{signal}: fetching no more, and ending once what runs is published; again to cancel it"));
            stop.drain();
        }
        if let Ok(signal) = next() {
            say(format_args!("{signal}: cancelling what runs, whose jobs are given back; again to kill"));
            stop.cancel();
        }
        // The third ends the process by itself.
        let _ = ends.thread_unblock();
        loop {
            thread::park();
        }
    });
    Ok(())
}
