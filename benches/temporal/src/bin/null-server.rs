//! Feeds one worker, whatever it is, and prints one line of JSON: [`Figures`].
//!
//! ```text
//! null-server --workflow TrivialWorkflow --seconds 5 -- shmworker run -w 2 -a 0
//! ```
//!
//! The worker is told the server's address by `TEMPORAL_ADDRESS`.

use clap::Parser;
use nix::{
    errno::Errno,
    sys::{
        resource::{UsageWho, getrusage},
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use shmworker_benches_temporal::{
    Figures,
    server::{Fault, NullServer, Workload},
    tree,
};
use std::{
    collections::BTreeSet,
    error::Error,
    process::{ExitCode, Stdio},
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::{
    process::{Child, Command},
    runtime::Builder,
    task::LocalSet,
    time::timeout,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How long a worker may take for its first workflows, for its last ones, and to end.
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
    let mut child = Command::new(&worker[0])
        .args(&worker[1..])
        .env("TEMPORAL_ADDRESS", address.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|e| format!("{} can't be started: {e}", worker[0]))?;
    let leader = child.id().ok_or("the worker has ended")?;
    let figures = tokio::select! {
        figures = observe(&server, leader, warm_up, seconds) => figures,
        ended = child.wait() => return Err(format!("the worker has ended before it was told to: {}", ended?).into()),
    };
    let processes = tree::of(leader)?;
    let ended = end(&mut child, leader, &processes).await;
    let figures = figures?;
    ended?;
    Ok(figures)
}

async fn observe(server: &Rc<NullServer>, leader: u32, warm_up: f64, seconds: f64) -> Result<Figures> {
    let fault = |Fault(why)| why;
    timeout(PATIENCE, server.until(1)).await.map_err(|_| "the worker has done nothing in a minute")?.map_err(fault)?;
    let pause = |seconds| async move {
        // It ends early for a fault alone.
        match timeout(Duration::from_secs_f64(seconds), server.until(u64::MAX)).await {
            Ok(Err(Fault(why))) => Err(why),
            _ => Ok(()),
        }
    };
    pause(warm_up).await?;
    let processes = tree::of(leader)?;
    let (begun, done, own, cpu) = (Instant::now(), server.completed(), own_cpu()?, tree::cpu(&processes)?);
    pause(seconds).await?;
    let (seconds, workflows) = (begun.elapsed().as_secs_f64(), server.completed() - done);
    let (server_cpu, after) = (own_cpu()? - own, tree::cpu(&processes)?);
    let worker_cpu = after.iter().map(|(pid, time)| time.saturating_sub(cpu[pid]).as_secs_f64()).sum();
    let pss = tree::pss(&processes)?.values().sum();
    timeout(PATIENCE, server.drain())
        .await
        .map_err(|_| "workflows were left unfinished for a minute")?
        .map_err(fault)?;
    let result = server.last_result();
    Ok(Figures { workflows, seconds, worker_cpu, server_cpu, processes: processes.len(), pss, result })
}

fn own_cpu() -> nix::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// SIGTERM, as an operator ends a worker; what it leaves behind is killed.
async fn end(child: &mut Child, leader: u32, processes: &BTreeSet<i32>) -> Result<()> {
    kill(Pid::from_raw(leader as i32), Signal::SIGTERM)?;
    let ended = timeout(PATIENCE, child.wait()).await;
    for &pid in processes {
        match kill(Pid::from_raw(pid), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(e) => return Err(e.into()),
        }
    }
    ended.map_err(|_| "the worker did not end within a minute of SIGTERM")??;
    Ok(())
}
