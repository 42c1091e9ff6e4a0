//! Feeds one worker, whatever it is, and prints one line of JSON: [`Figures`].
//!
//! ```text
//! null-server --workflow TrivialWorkflow --seconds 5 -- shmworker run -w 2 -a 0
//! ```
//!
//! The worker is told the server's address by `TEMPORAL_ADDRESS`.

use clap::Parser;
use nix::sys::resource::{UsageWho, getrusage};
use shmworker_benches_temporal::{
    Figures,
    server::{NullServer, Workload},
    worker::Worker,
};
use std::{
    error::Error,
    process::ExitCode,
    time::{Duration, Instant},
};
use tokio::{
    runtime::Builder,
    task::{LocalSet, spawn_blocking},
    time::timeout,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How long a worker may take for its first workflow, and for its last ones.
const PATIENCE: Duration = Duration::from_secs(60);

/// Feeds a worker with workflow and activity tasks as fast as it takes them, and measures it.
#[derive(Parser)]
struct Args {
    /// Type of the workflows
    #[arg(long, default_value = "ParallelizedWorkflow")]
    workflow: String,
    /// Input of each, as JSON
    #[arg(long)]
    input: Option<String>,
    /// Queue on which they start
    #[arg(long, default_value = "workflow-task-queue")]
    task_queue: String,
    /// Workflows that are open at a time
    #[arg(long, default_value = "100")]
    open: usize,
    /// How long to measure
    #[arg(long, default_value = "5")]
    seconds: f64,
    /// How long to feed the worker before that
    #[arg(long, default_value = "1")]
    warm_up: f64,
    /// The worker
    #[arg(last = true, required = true)]
    worker: Vec<String>,
}

fn main() -> ExitCode {
    let run = || {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, measure(Args::parse()))
    };
    match run() {
        Ok(figures) => {
            println!("{}", serde_json::to_string(&figures).expect("numbers and a string"));
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(args: Args) -> Result<Figures> {
    let Args { workflow, input, task_queue, open, seconds, warm_up, worker } = args;
    let (server, address) = NullServer::start(Workload { task_queue, workflow, input, open }).await?;
    let worker = Worker::start(&worker[0], &worker[1..], &address.to_string())?;
    let figures = observe(&server, &worker, warm_up, seconds).await;
    // It says more than what has come of it.
    spawn_blocking(|| worker.end()).await??;
    figures
}

async fn observe(server: &NullServer, worker: &Worker, warm_up: f64, seconds: f64) -> Result<Figures> {
    timeout(PATIENCE, server.until(1)).await.map_err(|_| "the worker has done nothing in a minute")??;
    let pass = |seconds| timeout(Duration::from_secs_f64(seconds), server.until(u64::MAX));
    // It ends early by a fault alone.
    if let Ok(fault) = pass(warm_up).await {
        fault?;
    }
    let (begun, done, own, cpu) = (Instant::now(), server.completed(), own_cpu()?, worker.cpu()?);
    if let Ok(fault) = pass(seconds).await {
        fault?;
    }
    let (seconds, workflows) = (begun.elapsed().as_secs_f64(), server.completed() - done);
    let (server_cpu, after, pss) = (own_cpu()? - own, worker.cpu()?, worker.pss()?);
    timeout(PATIENCE, server.drain()).await.map_err(|_| "workflows were left unfinished for a minute")??;
    let (worker_cpu, processes) = (after.since(&cpu), after.processes());
    Ok(Figures { workflows, seconds, worker_cpu, server_cpu: Some(server_cpu), processes, pss })
}

fn own_cpu() -> nix::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}
