//! The comparison on a real dev server, which bounds the rate of both, so that CPU times are what is compared.

use crate::{Result, command, sibling};
use shmworker_benches_temporal::{Figures, worker::Worker};
use std::{
    env,
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Workflows of one run.
pub(crate) const WORKFLOWS: u64 = 500;
/// Before them, so that each process has begun.
const WARM_UP: u64 = 20;
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct DevServer {
    child: Child,
    address: String,
}

impl DevServer {
    /// Starts one, with its state in memory.
    pub(crate) fn start() -> Result<DevServer> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let program = env::var("TEMPORAL_CLI").unwrap_or_else(|_| "temporal".into());
        let child = Command::new(&program)
            .args(["server", "start-dev", "--headless", "--log-level", "error", "--port", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|e| format!("{program} can't be started (TEMPORAL_CLI names Temporal's command line): {e}"))?;
        let server = DevServer { child, address: format!("127.0.0.1:{port}") };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(&server.address).is_err() {
            if Instant::now() > deadline {
                return Err(format!("the dev server does not listen after {PATIENCE:?}").into());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// Has our starter start workflows for this worker, and waits for their results.
    pub(crate) fn measure(&self, worker: &[String], workflow: &str) -> Result<Figures> {
        let worker = Worker::start(&worker[0], &worker[1..], &self.address)?;
        self.run(workflow, WARM_UP)?;
        let (begun, cpu) = (Instant::now(), worker.cpu()?);
        self.run(workflow, WORKFLOWS)?;
        let (seconds, after, pss) = (begun.elapsed().as_secs_f64(), worker.cpu()?, worker.pss()?);
        worker.end()?;
        let (worker_cpu, processes) = (after.since(&cpu), after.processes());
        Ok(Figures { workflows: WORKFLOWS, seconds, worker_cpu, server_cpu: None, processes, pss })
    }

    fn run(&self, workflow: &str, count: u64) -> Result<()> {
        let starter = [sibling("ours")?, "starter".into(), "-n".into(), count.to_string()];
        let mut starter = command(&starter);
        starter.args(["--workflow", workflow, "--address", &self.address]).stdout(Stdio::null());
        let ended = starter.status()?;
        if !ended.success() {
            return Err(format!("the starter of {count} workflows ended with {ended}").into());
        }
        Ok(())
    }
}

impl Drop for DevServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
