//! `shmworker run` and its processes, by label.

use super::{Process, Program, eventually, holders_of};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{collections::BTreeMap, fs::File, process::Command};

/// The last line of `run` before its processes are at work.
pub(crate) const AT_WORK: &str = "waiting for keyboard interrupt or for all workers to exit";
const CLEAN: &str = "shared memory is clean: no descriptor and no block in use";

/// A running pool.
pub(crate) struct Pool {
    pub(crate) program: Program,
    /// Workers in the order in which they start.
    pub(crate) workers: Vec<String>,
    /// Who runs under which label, the bridge included.
    pids: BTreeMap<String, i32>,
    deaths: BTreeMap<String, usize>,
    segment: u64,
}

impl Pool {
    /// Runs `run` with so many workers; returns once they are at work.
    #[track_caller]
    pub(crate) fn start(run: Command, workflow_workers: usize, activity_workers: usize, args: &[&str]) -> Pool {
        let command = with_workers(run, workflow_workers, activity_workers, args);
        Pool::of(Program::start(command), workflow_workers, activity_workers)
    }

    /// The same, in a terminal.
    #[track_caller]
    pub(crate) fn start_in_terminal(run: Command, workflow_workers: usize, activity_workers: usize) -> (Pool, File) {
        let command = with_workers(run, workflow_workers, activity_workers, &[]);
        let (program, terminal) = Program::start_in_terminal(command);
        (Pool::of(program, workflow_workers, activity_workers), terminal)
    }

    #[track_caller]
    fn of(mut program: Program, workflow_workers: usize, activity_workers: usize) -> Pool {
        program.says(AT_WORK, 1, |line| line == AT_WORK);
        let labels = |kind, n| (0..n).map(move |i| format!("{kind}:{i}"));
        let workers: Vec<String> =
            labels("workflow-worker", workflow_workers).chain(labels("activity-worker", activity_workers)).collect();
        // They are forked in this order; one that is about to become another program is neither for a moment.
        let children = eventually("all processes are there", || {
            Some(program.children()).filter(|children| children.len() == 1 + workers.len())
        });
        let names = ["bridge".to_owned()].into_iter().chain(workers.iter().cloned());
        let pids = names.zip(children.iter().map(|child| child.pid)).collect();
        let segment = Process::of(program.pid()).and_then(|p| p.segment()).expect("the coordinator maps a memory file");
        Pool { program, workers, pids, deaths: BTreeMap::new(), segment }
    }

    pub(crate) fn pid(&self, label: &str) -> i32 {
        self.pids[label]
    }

    /// The processes of all labels that begin so.
    pub(crate) fn processes(&self, label: &str) -> Vec<Process> {
        let pids = self.pids.iter().filter(|(l, _)| l.starts_with(label));
        pids.map(|(label, &pid)| Process::of(pid).unwrap_or_else(|| panic!("{label} (pid {pid}) lives"))).collect()
    }

    pub(crate) fn signal(&self, label: &str, signal: Signal) {
        kill(Pid::from_raw(self.pid(label)), signal).unwrap();
    }

    /// Kills the process of this label, and returns once it has been reported and another is there. The others must be
    /// who they were.
    #[track_caller]
    pub(crate) fn kill(&mut self, label: &str) {
        self.signal(label, Signal::SIGKILL);
        self.has_died(label);
    }

    /// The process of this label was killed: returns once that has been reported and another is there.
    #[track_caller]
    pub(crate) fn has_died(&mut self, label: &str) {
        let pid = self.pid(label);
        let deaths = self.deaths.entry(label.to_owned()).or_default();
        *deaths += 1;
        let (starting, starts) = (format!("{label} starting"), *deaths + 1);
        let report = format!("ERROR: worker exited unexpectedly: {label} (pid {pid}): signal 9 (SIGKILL);");
        self.program.says(&report, 1, |line| line.starts_with(&report));
        // The bridge is no worker, and does not announce itself.
        if label != "bridge" {
            self.program.says(&starting, starts, |line| line == starting);
        }
        let successor = eventually(format_args!("somebody is {label} again"), || {
            let pids: Vec<i32> = self.program.children().iter().map(|child| child.pid).collect();
            let others = self.pids.values().filter(|&&p| p != pid);
            assert!(others.clone().all(|p| pids.contains(p)), "the others go on when {label} dies");
            pids.into_iter().find(|p| !self.pids.values().any(|known| known == p))
        });
        self.pids.insert(label.to_owned(), successor);
    }

    /// A process of this label was started beside the others.
    #[track_caller]
    pub(crate) fn learn(&mut self, label: &str) {
        let pid = eventually(format_args!("somebody is {label}"), || {
            self.program.children().iter().map(|child| child.pid).find(|p| !self.pids.values().any(|known| known == p))
        });
        self.pids.insert(label.to_owned(), pid);
        self.workers.push(label.to_owned());
    }

    /// The process of this label leaves, and has no successor.
    #[track_caller]
    pub(crate) fn forget(&mut self, label: &str) {
        let says = format!("{label} (pid {}) has left: it was asked to leave", self.pid(label));
        self.program.says(&says, 1, |line| line == says);
        self.pids.remove(label);
        self.workers.retain(|known| known != label);
    }

    /// The pool is asked to end, and does so well, whoever ran meanwhile; nothing is left behind.
    #[track_caller]
    pub(crate) fn ends(&mut self) {
        self.program.signal(Signal::SIGTERM);
        let status = self.program.end();
        assert_eq!(status.code(), Some(0), "{status}");
        assert!(self.program.stdout().iter().any(|line| line == CLEAN), "nothing is in use at the end");
        self.leaves_nothing();
    }

    /// Asks the pool to end, by a signal, and sees that it ends well.
    #[track_caller]
    pub(crate) fn stop(&mut self, signal: Signal) {
        self.program.signal(signal);
        self.ends_well();
    }

    /// The pool, which has been asked to end, does so and leaves nothing behind.
    #[track_caller]
    pub(crate) fn ends_well(&mut self) {
        let status = self.program.end();
        assert_eq!(status.code(), Some(0), "{status}");
        let said = self.program.stdout();
        for label in &self.workers {
            assert!(said.contains(&format!("{label} shutting down")), "{label} shuts down");
        }
        for (label, pid) in &self.pids {
            let is_row = |line: &&String| line.split_whitespace().take(2).eq([label.as_str(), &pid.to_string()]);
            let row = said.iter().find(is_row).unwrap_or_else(|| panic!("the table has {label}, pid {pid}"));
            assert!(row.contains("exit code 0"), "{row}");
        }
        assert!(said.iter().any(|line| line == CLEAN), "nothing is in use at the end");
        self.leaves_nothing();
    }

    /// Neither a process nor the segment is left.
    #[track_caller]
    pub(crate) fn leaves_nothing(&self) {
        self.program.leaves_nobody();
        // The kernel takes a process's memory first and closes its files a moment later.
        eventually("nobody holds the segment", || holders_of(self.segment).is_empty().then_some(()));
        assert!(super::named_segments(&self.program.pid().to_string()).is_empty());
    }
}

fn with_workers(mut run: Command, workflow_workers: usize, activity_workers: usize, args: &[&str]) -> Command {
    run.args(["-w", &workflow_workers.to_string(), "-a", &activity_workers.to_string()]).args(args);
    run
}
