//! What tests with real processes share: a program and all that descends from it, a pool, a Temporal server.
//!
//! Nothing here sleeps instead of waiting: [`eventually`] is the one place where a test pauses, between two looks at a
//! condition. Every program carries a mark in its environment that its descendants inherit, so that what it has left
//! behind is found wherever it went.

#![allow(dead_code, unused_imports, reason = "each test program uses a part of it")]

mod eventually;
mod pool;
mod program;
mod server;
pub(crate) mod sources;

pub(crate) use eventually::eventually;
pub(crate) use pool::Pool;
pub(crate) use program::{Process, Program, holders_of};
pub(crate) use server::{
    EVENT_TASK_FAILED, EVENT_TASK_STARTED, EVENT_TASK_TIMED_OUT, EVENT_TIMER_STARTED, Server, details,
};

use libtest_mimic::{Arguments, Trial};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::{Arc, OnceLock},
};

/// A test, in what it has to itself.
pub(crate) type Test = fn(&Scene<'_>);

/// Tests with their names.
#[allow(unused_macros, reason = "each test program uses a part of this module")]
macro_rules! tests {
    ($($test:ident)*) => { [$((stringify!($test), $test as $crate::common::Test)),*] };
}
pub(crate) use tests;

/// Runs the tests, one after another unless `--test-threads` says otherwise: each of them is a load for a small machine. They
/// share one dev server.
pub(crate) fn run(tests: &'static [(&'static str, Test)]) -> ExitCode {
    let mut args = Arguments::from_args();
    args.test_threads.get_or_insert(1);
    let server: Arc<OnceLock<Server>> = Arc::default();
    let trials = tests.iter().map(|&(name, test)| {
        let server = server.clone();
        Trial::test(name, move || {
            let namespaces = || tests.iter().map(|(name, _)| *name).collect::<Vec<_>>();
            test(&Scene::new(server.get_or_init(|| Server::start(&namespaces())), name));
            Ok(())
        })
    });
    libtest_mimic::run(&args, trials.collect()).exit_code()
    // `server` goes here, and with it the process.
}

/// What a test has to itself: a namespace of the shared server, and a home directory.
pub(crate) struct Scene<'s> {
    pub(crate) server: &'s Server,
    pub(crate) namespace: &'static str,
    home: tempfile::TempDir,
}

impl<'s> Scene<'s> {
    pub(crate) fn new(server: &'s Server, namespace: &'static str) -> Scene<'s> {
        Scene { server, namespace, home: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// The `shmworker` command in an empty environment, so that nothing of the user's reaches it.
    pub(crate) fn unconfigured(&self, args: &[&str]) -> Command {
        self.command(Path::new(env!("CARGO_BIN_EXE_shmworker")), args)
    }

    fn command(&self, binary: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(binary);
        command.args(args).env_clear().env("HOME", self.home()).env("TEMPORAL_CLI", &self.server.cli);
        command
    }

    /// The `shmworker` command, told of the server and the namespace.
    pub(crate) fn shmworker(&self, args: &[&str]) -> Command {
        self.connected(Path::new(env!("CARGO_BIN_EXE_shmworker")), args)
    }

    /// The same of the example program.
    pub(crate) fn example(&self, args: &[&str]) -> Command {
        self.example_named("temporal_worker", args)
    }

    /// The same of an example program that has the command line too.
    pub(crate) fn example_named(&self, name: &str, args: &[&str]) -> Command {
        let tests = std::env::current_exe().unwrap();
        let binary = tests.ancestors().nth(2).unwrap().join("examples").join(name);
        assert!(binary.exists(), "no example program: build it with 'cargo build --example {name}'");
        self.connected(&binary, args)
    }

    /// The same of this test program, which has the command line too.
    pub(crate) fn own(&self, args: &[&str]) -> Command {
        self.connected(&std::env::current_exe().unwrap(), args)
    }

    /// The same of any program that has the command line.
    pub(crate) fn connected(&self, binary: &Path, args: &[&str]) -> Command {
        let mut command = self.command(binary, args);
        command.args(["--address", &self.server.address, "--namespace", self.namespace]);
        command
    }

    pub(crate) fn pool(&self, workflow_workers: usize, activity_workers: usize, args: &[&str]) -> Pool {
        Pool::start(self.shmworker(&["run"]), workflow_workers, activity_workers, args)
    }

    /// Starts workflows, and leaves the starter waiting for their results.
    pub(crate) fn starter(&self, workflows: usize, args: &[&str]) -> Program {
        let mut command = self.shmworker(&["starter", "-n", &workflows.to_string()]);
        command.args(args);
        Program::start(command)
    }

    /// Returns once the server has handed out a workflow task for every run.
    pub(crate) fn every_run_has_a_task(&self) {
        eventually("the server has handed out a task for every run", || {
            let histories = self.server.histories(self.namespace);
            histories.iter().all(|h| h.ends_with(EVENT_TASK_STARTED)).then_some(())
        });
    }

    /// A starter whose workflows run for as long as `millis`, parked for nearly all of that time; returns once the most of
    /// them run.
    pub(crate) fn two_hundred_running(&self, millis: u32) -> Program {
        let starter = self.starter(200, &["--workflow", "TimerWorkflow", "--input", &millis.to_string()]);
        eventually("the most of 200 workflows run", || {
            (self.server.count(self.namespace, "ExecutionStatus='Running'") > 100).then_some(())
        });
        starter
    }
}

/// A result of the sample workflow: `wf-starting-pid:X | activity-pid:Y | wf-ending-pid:Z`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Echo {
    pub(crate) starting: i32,
    pub(crate) activity: i32,
    pub(crate) ending: i32,
}

impl Echo {
    #[track_caller]
    pub(crate) fn parse(line: &str) -> Echo {
        let pids: Vec<i32> = line.split(" | ").filter_map(|part| part.split_once(':')?.1.parse().ok()).collect();
        let &[starting, activity, ending] = &pids[..] else { panic!("not a result of the sample workflow: {line:?}") };
        assert_eq!(line, format!("wf-starting-pid:{starting} | activity-pid:{activity} | wf-ending-pid:{ending}"));
        Echo { starting, activity, ending }
    }
}

/// The starter ends well, with one line for each workflow and nothing else.
#[track_caller]
pub(crate) fn results(starter: &mut Program, workflows: usize) -> Vec<Echo> {
    let status = starter.end();
    assert!(status.success() && starter.stderr().is_empty(), "{status}");
    let results: Vec<Echo> = starter.stdout().iter().map(|line| Echo::parse(line)).collect();
    assert_eq!(results.len(), workflows);
    results
}

pub(crate) fn distinct<T: Ord>(items: impl IntoIterator<Item = T>) -> BTreeSet<T> {
    items.into_iter().collect()
}

/// What lies in /dev/shm of the pool of this name; others may have pools of their own meanwhile.
pub(crate) fn named_segments(pool: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir("/dev/shm").into_iter().flatten().flatten().map(|entry| entry.path());
    let is_its = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()?.strip_prefix("shmworker-"));
        name.and_then(|name| name.split_once('-')).is_some_and(|(_user, name)| name == pool)
    };
    entries.filter(is_its).collect()
}
