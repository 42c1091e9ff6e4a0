//! `shmworker run`: workflow and activity workers in processes.

use super::{
    args::{DevServerArg, RunArgs},
    exit,
    exit::CliError,
};
use crate::logs::{self, Format};
use crate::temporal::{
    Worker,
    connect::{ConnectError, Server},
    dev_server::{DevServer, Options, locate},
    report::{complain, say},
    upgrade::Taken,
    worker_pool::Watched,
};
use nix::poll::{PollFd, PollFlags, poll};
use std::time::{Duration, Instant};

/// How long a dev server may take until it accepts connections.
const DEV_SERVER_START: Duration = Duration::from_secs(30);
/// How long a dev server may take to end.
const DEV_SERVER_STOP: Duration = Duration::from_secs(5);

/// Runs workers until they are told to stop.
pub(crate) fn run(args: RunArgs, worker: Worker) -> Result<(), CliError> {
    #[cfg(feature = "source")]
    if args.source.source.is_some() {
        let workers = Some(args.num_workflow_workers).filter(|&n| n > 0);
        return super::run_source::run(args.source, &args.observing, workers, args.load);
    }
    let taken =
        Taken::here().map_err(|why| CliError::new(exit::FAILURE, format_args!("cannot go on with the pool: {why}")))?;
    let result = serve(args, worker, taken.as_ref());
    if let (Some(taken), Err(e)) = (taken.filter(Taken::is_check), &result) {
        taken.refuse(&e.to_string());
        // Whoever asked says it.
        std::process::exit(e.code().into());
    }
    result
}

/// Runs workers, or goes on with those that a program before has left.
fn serve(args: RunArgs, worker: Worker, taken: Option<&Taken>) -> Result<(), CliError> {
    logs::start(args.observing.log_format.unwrap_or(Format::Text));
    #[cfg(feature = "metrics")]
    let metrics = args.observing.metrics;
    #[cfg(feature = "otlp")]
    let otlp = args.observing.otlp.clone();
    let (mut worker, place, dev_server) = args.apply(worker)?;
    let quiet = place.quiet;
    #[cfg(feature = "metrics")]
    if let Some(taken) = taken {
        // It listens already, or the bridge, which goes on, does not know of it.
        worker = taken.metrics().into_iter().fold(worker, Worker::metrics);
    } else if let Some(address) = metrics {
        let listener = super::observing::listen(address)?;
        if !quiet {
            say(format_args!("metrics: {}", super::observing::url(&listener)));
        }
        worker = worker.metrics(listener);
    }
    #[cfg(feature = "otlp")]
    if let Some(url) = otlp {
        worker = worker.otlp(url);
    }
    worker.probe()?;
    let server = Server::resolve(&worker.connection)?;
    // A dev server that is only now started has no other: nobody could create it in time.
    let namespace = Some(server.namespace().to_owned());
    let is_of_dev_server = match &dev_server {
        DevServerArg::Possible(Options { db: Some(_), .. }) => Some("--dev-server-db"),
        DevServerArg::Possible(Options { ui: true, .. }) => Some("--ui"),
        _ => None,
    };
    let dev_server = match dev_server {
        _ if let Some(taken) = taken => of_former(taken)?,
        DevServerArg::Wanted(options) => {
            Some(start_dev_server(&Options { port: free_port(&server)?, namespace, ..options }, true, quiet)?)
        }
        _ if server.configured() || server.somebody_listens() => None,
        DevServerArg::Possible(options) => Some(start_dev_server(&Options { namespace, ..options }, false, quiet)?),
        DevServerArg::Forbidden => {
            let reason = "nobody listens there, and --no-dev-server forbids to start one".to_owned();
            return Err(ConnectError::Unreachable { address: server.address().to_owned(), reason }.into());
        }
    };
    if let (Some(flag), None, None) = (is_of_dev_server, &dev_server, taken) {
        complain(format_args!("'{flag}' does nothing: no dev server is started, since {} is used", server.address()));
    }
    let watched = dev_server.as_ref().map(Watched::new).transpose().map_err(|e| CliError::new(exit::FAILURE, e))?;
    let result = worker.serve(server, place, watched.as_ref(), taken);
    if let Some(server) = dev_server {
        server.stop(DEV_SERVER_STOP)?;
        if !quiet {
            say("dev server stopped");
        }
    }
    Ok(result?)
}

/// The dev server that the program before has started.
fn of_former(taken: &Taken) -> Result<Option<DevServer>, CliError> {
    #[cfg(feature = "pool")]
    let server = taken.dev_server().map(|(pid, port)| DevServer::taken_over(pid, port)).transpose();
    #[cfg(not(feature = "pool"))]
    let server = taken.dev_server();
    server.map_err(|e| CliError::new(exit::FAILURE, e))
}

/// Where a dev server that was asked for is to be.
fn free_port(server: &Server) -> Result<u16, CliError> {
    let address = server.address();
    match server.local_port() {
        None => {
            let why = format_args!(
                "--dev-server starts a server on this machine, but the server is to be at {address}: leave out one of them"
            );
            Err(CliError::new(exit::USAGE, why))
        }
        Some(_) if server.somebody_listens() => {
            let why = format_args!(
                "cannot start a dev server: somebody listens at {address} already; leave out --dev-server to use that \
                 server, or name another port with --address"
            );
            Err(CliError::new(exit::NO_CLI, why))
        }
        Some(port) => Ok(port),
    }
}

fn start_dev_server(options: &Options, was_asked_for: bool, quiet: bool) -> Result<DevServer, CliError> {
    let cli = locate()?;
    let mut server = DevServer::start(&cli, options)?;
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
    if quiet {
        return Ok(server);
    }
    let keeps = match &options.db {
        Some(file) => format!("its state stays in {}", file.display()),
        None => "its state ends with it (--dev-server-db FILE keeps it)".to_owned(),
    };
    let why = if was_asked_for { "" } else { "no server configured: " };
    say(format_args!("{why}started a dev server on 127.0.0.1:{}; {keeps}", options.port));
    if let Some(port) = options.ui_port() {
        say(format_args!("its web UI is at http://127.0.0.1:{port}"));
    }
    Ok(server)
}
