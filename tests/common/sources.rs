//! What each source must survive: workers, the whole `shmworker`, and the server, killed in the middle of ten thousand jobs.

use super::{Process, Program, eventually};
use libtest_mimic::{Arguments, Trial};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use std::{
    path::Path,
    process::{Command, ExitCode},
};

/// As many as there are, with deaths in between.
pub(crate) const JOBS: usize = 10_000;

/// Where jobs wait: a server of its own for each test, which keeps what it has when it is killed.
pub(crate) trait Place {
    /// Starts the server, or starts it again after a kill, at the same address; returns once it serves.
    fn start(&mut self);
    /// Kills the server with SIGKILL, and waits until it is gone.
    fn kill(&mut self);
    /// Adds jobs, each a line of JSON. The server runs.
    fn add(&mut self, jobs: &[String]);
    /// All results that are stored, as JSON, in any order; also such as are there twice. The server runs.
    fn results(&mut self) -> Vec<String>;
    /// How many there are.
    fn count(&mut self) -> usize {
        self.results().len()
    }
    /// For `--source`.
    fn url(&self) -> String;
    /// More flags of `shmworker run`.
    fn flags(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Runs tests one after another: each is a load for a small machine.
pub(crate) fn main(tests: &'static [(&'static str, fn())]) -> ExitCode {
    let mut args = Arguments::from_args();
    args.test_threads.get_or_insert(1);
    let trial = |&(name, test): &(&'static str, fn())| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    libtest_mimic::run(&args, tests.iter().map(trial).collect()).exit_code()
}

/// `shmworker run --source`, which runs jobs of the place once this returns.
pub(crate) fn shmworker(place: &dyn Place, flags: &[&str]) -> Program {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shmworker"));
    command.args(["run", "--source", &place.url()]).args(place.flags()).args(flags);
    let mut program = Program::start(command);
    program.says("the jobs of", 1, |line| line.contains("run the jobs of"));
    program
}

/// Its workers: what the coordinator has forked, which it has forked.
pub(crate) fn workers(program: &Program) -> Vec<Process> {
    let mut family = program.family();
    let coordinators: Vec<i32> = family.iter().filter(|p| p.parent == program.pid()).map(|p| p.pid).collect();
    family.retain(|process| coordinators.contains(&process.parent));
    family
}

fn kill_a_worker(program: &Program) {
    let victim = eventually("a worker runs", || workers(program).first().map(|worker| worker.pid));
    // It may have ended meanwhile, as it may in life.
    let _ = kill(Pid::from_raw(victim), Signal::SIGKILL);
}

/// The job of this number, as a line: some are over at once, some take a while.
pub(crate) fn job(number: usize) -> String {
    let (task, args) = match number % 3 {
        0 => ("echo", json!({ "number": number })),
        1 => ("sha256", json!("abc")),
        _ => ("sleep", json!("2ms")),
    };
    json!({ "task": task, "args": args, "label": number.to_string(), "retries": 3 }).to_string()
}

/// What comes of it.
fn result(number: usize) -> Value {
    match number % 3 {
        0 => json!({ "number": number }),
        1 => json!("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        _ => json!(null),
    }
}

/// Each job of [`job`] has a result, the right one, and only one.
#[track_caller]
pub(crate) fn assert_each_once(results: &[String], jobs: usize) {
    let mut seen = vec![false; jobs];
    for text in results {
        let value: Value = serde_json::from_str(text).unwrap();
        let number: usize = value["label"].as_str().unwrap().parse().unwrap();
        assert!(!std::mem::replace(&mut seen[number], true), "job {number} has two results");
        assert_eq!(value["status"], "done", "{text}");
        assert_eq!(value["result"], result(number), "{text}");
    }
    assert_eq!(results.len(), jobs, "some have no result");
}

/// Ten thousand jobs through deaths of everything: each is done, none is lost, each has one result.
pub(crate) fn survives(place: &mut dyn Place) {
    place.start();
    place.add(&(0..JOBS).map(job).collect::<Vec<_>>());
    let start = |place: &dyn Place| shmworker(place, &["-w", "2"]);
    let mut program = start(place);
    // When a part of the jobs is over, one of the three dies, in turns.
    for death in 0..9 {
        let part = (death + 1) * JOBS / 12;
        eventually(format_args!("{part} jobs are over"), || (place.count() >= part).then_some(()));
        match death % 3 {
            0 => kill_a_worker(&program),
            1 => {
                program.signal(Signal::SIGKILL);
                program.end();
                program.leaves_nobody();
                program = start(place);
            }
            _ => {
                place.kill();
                place.start();
            }
        }
        assert!(place.count() < JOBS, "all were over before death {death}: it has shown nothing");
    }
    eventually("all jobs are over", || (place.count() >= JOBS).then_some(()));
    program.signal(Signal::SIGTERM);
    let status = program.end();
    assert_eq!(status.code(), Some(0), "{:?}", program.stderr());
    program.leaves_nobody();
    assert_each_once(&place.results(), JOBS);
}

/// Two at once share the jobs, and each has its part.
pub(crate) fn is_shared(place: &mut dyn Place) {
    const JOBS: usize = 2000;
    place.start();
    place.add(&(0..JOBS).map(job).collect::<Vec<_>>());
    let mut programs = [(); 2].map(|()| shmworker(place, &["-w", "1"]));
    eventually("all jobs are over", || (place.count() >= JOBS).then_some(()));
    let published = programs.each_mut().map(|program| {
        program.signal(Signal::SIGTERM);
        assert_eq!(program.end().code(), Some(0), "{:?}", program.stderr());
        let line = program.stdout().into_iter().find(|line| line.contains("jobs published")).unwrap();
        line.split(' ').next().unwrap().parse::<usize>().unwrap()
    });
    assert!(published.iter().all(|&n| n > 0), "{published:?}");
    assert_each_once(&place.results(), JOBS);
}

/// A free port of the loopback.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A place whose server is this test program, or another, which reads `jobs.jsonl` and writes `results.jsonl` in a directory.
pub(crate) struct Files {
    dir: tempfile::TempDir,
    port: u16,
    scheme: &'static str,
    /// Makes the command that serves a directory at an address.
    serve: fn(&Path, &str) -> Command,
    server: Option<Program>,
}

impl Files {
    pub(crate) fn new(scheme: &'static str, serve: fn(&Path, &str) -> Command) -> Files {
        Files { dir: tempfile::tempdir().unwrap(), port: free_port(), scheme, serve, server: None }
    }

    pub(crate) fn server(&mut self) -> &mut Program {
        self.server.as_mut().unwrap()
    }

    fn restart(&mut self) {
        let mut server = Program::start((self.serve)(self.dir.path(), &format!("127.0.0.1:{}", self.port)));
        server.says("its address", 1, |line| line.contains("://"));
        self.server = Some(server);
    }
}

impl Place for Files {
    fn start(&mut self) {
        let jobs = self.dir.path().join("jobs.jsonl");
        if !jobs.exists() {
            std::fs::write(jobs, "").unwrap();
        }
        self.restart();
    }

    fn kill(&mut self) {
        let mut server = self.server.take().unwrap();
        server.signal(Signal::SIGKILL);
        server.end();
    }

    /// Read as the server starts.
    fn add(&mut self, jobs: &[String]) {
        self.kill();
        std::fs::write(self.dir.path().join("jobs.jsonl"), jobs.join("\n") + "\n").unwrap();
        self.restart();
    }

    fn results(&mut self) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join("results.jsonl")).unwrap_or_default();
        // The last line may be half written yet.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["result"].to_string()).collect()
    }

    fn count(&mut self) -> usize {
        let text = std::fs::read(self.dir.path().join("results.jsonl")).unwrap_or_default();
        text.iter().filter(|&&b| b == b'\n').count()
    }

    fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }
}
