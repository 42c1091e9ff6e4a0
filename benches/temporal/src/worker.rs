//! A worker that was started to be measured, from outside: CPU time and memory of all its processes, and its end.

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use procfs::{
    ProcError, ProcResult,
    process::{Process, all_processes},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long a worker may take to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// The worker. What is left of it when it is dropped is killed.
pub struct Worker {
    child: Child,
    is_over: bool,
}

/// CPU time of each process since its start, in user and kernel mode.
pub struct Cpu(BTreeMap<i32, Duration>);

impl Worker {
    /// Starts a worker for the server at this address.
    ///
    /// # Errors
    ///
    /// Names the program that could not be started.
    pub fn start(program: &str, args: &[String], address: &str) -> io::Result<Worker> {
        let mut command = Command::new(program);
        command.args(args).env("TEMPORAL_ADDRESS", address).stdin(Stdio::null()).stdout(Stdio::null());
        let child =
            command.spawn().map_err(|e| io::Error::new(e.kind(), format!("{program} can't be started: {e}")))?;
        Ok(Worker { child, is_over: false })
    }

    /// Its processes: the one that was started, and whoever descends from it.
    ///
    /// # Errors
    ///
    /// `/proc` can't be read.
    pub fn processes(&self) -> ProcResult<BTreeSet<i32>> {
        let mut parents = BTreeMap::new();
        for process in all_processes()? {
            // One that has ended meanwhile is none.
            if let Ok(stat) = process.and_then(|process| process.stat()) {
                parents.insert(stat.pid, stat.ppid);
            }
        }
        let mut tree = BTreeSet::from([self.child.id() as i32]);
        loop {
            let before = tree.len();
            tree.extend(parents.iter().filter(|(_, p)| tree.contains(p)).map(|(pid, _)| *pid).collect::<Vec<_>>());
            if tree.len() == before {
                return Ok(tree);
            }
        }
    }

    /// CPU time of all its processes.
    ///
    /// # Errors
    ///
    /// One of them has ended meanwhile.
    pub fn cpu(&self) -> ProcResult<Cpu> {
        let per_second = procfs::ticks_per_second();
        let of = |pid| {
            let stat = Process::new(pid)?.stat()?;
            Ok((pid, Duration::from_millis((stat.utime + stat.stime) * 1000 / per_second)))
        };
        self.processes()?.into_iter().map(of).collect::<ProcResult<_>>().map(Cpu)
    }

    /// Proportional set size of all its processes together, in bytes.
    ///
    /// # Errors
    ///
    /// One of them has ended meanwhile.
    pub fn pss(&self) -> ProcResult<u64> {
        let of = |pid| {
            let map = Process::new(pid)?.smaps_rollup()?.memory_map_rollup.into_iter().next();
            let pss = map.and_then(|map| map.extension.map.get("Pss").copied());
            pss.ok_or_else(|| ProcError::Other(format!("process {pid} tells no PSS")))
        };
        self.processes()?.into_iter().map(of).sum()
    }

    /// Ends it as an operator does, by SIGTERM.
    ///
    /// # Errors
    ///
    /// It had ended already, or it doesn't end within a minute.
    pub fn end(mut self) -> io::Result<()> {
        if let Some(ended) = self.child.try_wait()? {
            return Err(io::Error::other(format!("the worker has ended before it was told to: {ended}")));
        }
        let processes = self.processes().map_err(io::Error::other)?;
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM)?;
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                return Err(io::Error::other("the worker did not end within a minute of SIGTERM"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.is_over = true;
        // The pool of the Python sample dies of the signal, and leaves its processes behind.
        kill_all(&processes)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.is_over {
            let _ = self.processes().map(|processes| kill_all(&processes));
            let _ = self.child.wait();
        }
    }
}

fn kill_all(processes: &BTreeSet<i32>) -> io::Result<()> {
    processes.iter().try_for_each(|&pid| match kill(Pid::from_raw(pid), Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(e) => Err(e.into()),
    })
}

impl Cpu {
    /// What has been used since an earlier look, in seconds.
    #[must_use]
    pub fn since(&self, earlier: &Cpu) -> f64 {
        let used = |(pid, now): (&i32, &Duration)| now.saturating_sub(earlier.0.get(pid).copied().unwrap_or_default());
        self.0.iter().map(used).sum::<Duration>().as_secs_f64()
    }

    /// How many processes there are.
    #[must_use]
    pub fn processes(&self) -> usize {
        self.0.len()
    }
}
