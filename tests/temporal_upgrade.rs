//! `shmworker upgrade` of `shmworker run`: workflows and activities go on, the bridge keeps its connection, and the workers are
//! replaced by those of the new program.
//!
//! The new program is the same one, at the same path: the kernel says of a process whether its file has been replaced since.

mod common;

use common::{Pool, Program, Scene, distinct, results};
use nix::sys::signal::Signal;
use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, ExitCode},
};

const TESTS: &[(&str, common::Test)] = &common::tests![
    an_upgrade_costs_no_workflow_and_replaces_the_workers
    an_embedded_dev_server_and_a_named_segment_go_on
    a_version_that_the_server_goes_by_is_not_upgraded
];

/// With a command of `shmworker` as its first argument this program is the sample worker, and could have pools too.
fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|arg| arg == "run") {
        shmworker::init(shmworker::Tasks::new);
        return shmworker::temporal::sample::worker().main();
    }
    common::run(TESTS)
}

/// A program, which is replaced by another.
struct Binary {
    dir: tempfile::TempDir,
    original: PathBuf,
}

impl Binary {
    fn of(original: impl Into<PathBuf>) -> Binary {
        // Where the program is, for links to it.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let binary = Binary { dir, original: original.into() };
        binary.replace();
        binary
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("shmworker")
    }

    /// By itself.
    fn replace(&self) {
        let _ = fs::remove_file(self.path()); // a link to the same file would not be renamed
        fs::hard_link(&self.original, self.path()).unwrap();
    }

    /// By something else altogether.
    fn spoil(&self) {
        let _ = fs::remove_file(self.path());
        fs::write(self.path(), "#!/bin/true\n").unwrap();
        fs::set_permissions(self.path(), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Its program has been replaced since it began.
fn is_former(pid: i32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).unwrap().to_string_lossy().ends_with(" (deleted)")
}

fn name_of(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim_end().to_owned()
}

/// Exit code, and what was said.
fn upgrade(scene: &Scene<'_>, program: &Program) -> (Option<i32>, String) {
    let output = scene.unconfigured(&["upgrade", &program.pid().to_string()]).output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

/// Upgrades the pool for the first, second, … time, and returns once each of these workers has been replaced.
#[track_caller]
fn upgraded(scene: &Scene<'_>, program: &mut Program, labels: &[&str], time: usize) {
    let (pid, name) = (program.pid(), name_of(program.pid()));
    let (code, said) = upgrade(scene, program);
    assert!(code == Some(0) && said.contains(&format!("as process {pid}")), "{said}");
    program.says("that it is upgraded", time, |line| line.starts_with("upgraded to the program that is there now"));
    for label in labels {
        let head = format!("{label} (pid ");
        let has_left = |line: &str| line.starts_with(&head) && line.ends_with("has left: it was asked to leave");
        program.says(&format!("{label} has left"), time, has_left);
    }
    assert_eq!((is_former(pid), name_of(pid)), (false, name));
}

fn an_upgrade_costs_no_workflow_and_replaces_the_workers(scene: &Scene<'_>) {
    let binary = Binary::of(std::env::current_exe().unwrap());
    let mut pool = Pool::start(scene.connected(&binary.path(), &["run"]), 2, 1, &["--metrics", "127.0.0.1:0"]);
    let metrics = pool.program.says("where metrics are", 1, |line| line.starts_with("metrics: http://"));
    let metrics = metrics.trim_start_matches("metrics: http://").trim_end_matches("/metrics");
    let (bridge, activities) = (pool.pid("bridge"), pool.pid("activity-worker:0"));

    // What can't go on doesn't.
    binary.spoil();
    let (code, said) = upgrade(scene, &pool.program);
    let why = "the program that is to follow ended with exit code 0 before it said that it can";
    assert!(code == Some(1) && said.contains(why), "{said}");
    pool.program.says("so itself, for who has sent a signal", 1, |line| line.contains(why));

    let mut starter = scene.two_hundred_running(3000);
    for times in 1..=2 {
        binary.replace();
        let labels = ["workflow-worker:0", "workflow-worker:1", "activity-worker:0"];
        upgraded(scene, &mut pool.program, &labels, times);
    }
    results(&mut starter, 200);
    let children = || pool.program.children();
    let former: Vec<i32> = children().iter().map(|child| child.pid).filter(|&pid| is_former(pid)).collect();
    assert_eq!(former, [bridge], "it alone is what it was");
    let by = results(&mut scene.starter(25, &[]), 25);
    let workers = distinct(by.iter().flat_map(|result| [result.starting, result.activity, result.ending]));
    assert!(workers.iter().all(|&pid| !is_former(pid)) && !workers.contains(&activities), "{workers:?}");

    // Its children are still watched, and the next bridge is of the new program, and has what it is given.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(bridge), Signal::SIGKILL).unwrap();
    pool.program.says("that the bridge died", 1, |line| line.contains("worker exited unexpectedly: bridge"));
    results(&mut scene.starter(25, &[]), 25);
    assert!(pool.program.children().iter().all(|child| child.pid != bridge && !is_former(child.pid)));
    let mut stream = TcpStream::connect(metrics).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    pool.ends();
}

fn an_embedded_dev_server_and_a_named_segment_go_on(scene: &Scene<'_>) {
    let binary = Binary::of(env!("CARGO_BIN_EXE_shmworker"));
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let command = |path: PathBuf, args: &[&str]| {
        let mut command = Command::new(path);
        command.args(args).args(["--address", &address]).env_clear().env("HOME", scene.home());
        command.env("TEMPORAL_CLI", &scene.server.cli);
        command
    };
    let name = format!("test-upgrade-{}", std::process::id());
    let mut run = command(binary.path(), &["run", "-w", "1", "-a", "1", "--dev-server", "--backing", "named"]);
    run.args(["--name", &name]);
    let mut program = Program::start(run);
    program.says("that it is at work", 1, |line| line.starts_with("waiting for keyboard interrupt"));
    binary.replace();
    upgraded(scene, &mut program, &["workflow-worker:0", "activity-worker:0"], 1);
    assert_eq!(common::named_segments(&name).len(), 1);
    results(&mut Program::start(command(env!("CARGO_BIN_EXE_shmworker").into(), &["starter"])), 25);
    program.signal(Signal::SIGTERM);
    let status = program.end();
    assert!(status.success() && program.stderr().is_empty(), "{status}");
    assert_eq!(program.stdout().last().unwrap(), "dev server stopped");
    assert!(TcpStream::connect(&address).is_err(), "it has ended with the pool");
    assert!(common::named_segments(&name).is_empty(), "so has the segment");
    program.leaves_nobody();
}

fn a_version_that_the_server_goes_by_is_not_upgraded(scene: &Scene<'_>) {
    let versioned = ["--worker-versioning", "pinned", "--deployment-name", "test", "--build-id", "1"];
    let mut pool = scene.pool(1, 1, &versioned);
    let (code, said) = upgrade(scene, &pool.program);
    assert!(code == Some(1) && said.contains("start the new version beside it"), "{said}");
    pool.ends();
}
