//! `shmworker run` as the first process of a PID namespace, as in a container: it reaps what is not its own, and ends when it is
//! told to.

mod common;

use common::{Program, Server, eventually};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use procfs::process::{Process, all_processes};
use std::process::Command;

const AT_WORK: &str = "waiting for keyboard interrupt or for all workers to exit";
const CLEAN: &str = "shared memory is clean: no descriptor and no block in use";
const NAMESPACE: [&str; 4] = ["--pid", "--fork", "--mount-proc", "--kill-child"];

/// What is a child of `parent`, the dead that nobody has reaped among it.
fn children(parent: i32) -> Vec<(i32, String)> {
    let stats = all_processes().unwrap().flatten().filter_map(|p: Process| p.stat().ok());
    stats.filter(|stat| stat.ppid == parent).map(|stat| (stat.pid, stat.comm)).collect()
}

#[test]
fn it_reaps_strangers_and_drains_when_the_container_is_stopped() {
    if !Command::new("unshare").args(NAMESPACE).arg("true").status().is_ok_and(|status| status.success()) {
        println!("skipped: this user may not make a PID namespace");
        return;
    }
    let server = Server::start(&["default"]);
    // A child from before, and one whose parent has gone. The shell becomes shmworker, so it has both.
    let script = "sleep 1000 & (sleep 1000 &) ; exec \"$0\" run -w 1 -a 1 --address \"$1\"";
    let mut command = Command::new("unshare");
    command.args(NAMESPACE).args(["sh", "-c", script, env!("CARGO_BIN_EXE_shmworker"), &server.address]);
    let mut program = Program::start(command);
    program.says(AT_WORK, 1, |line| line == AT_WORK);
    let (first, _) = children(program.pid()).pop().expect("a first process");
    let status = std::fs::read_to_string(format!("/proc/{first}/status")).unwrap();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
    assert_eq!(numbers.split_whitespace().last(), Some("1"), "{numbers}");

    let strangers = || children(first).into_iter().filter(|(_, name)| name == "sleep").collect::<Vec<_>>();
    let all = eventually("both are its children", || Some(strangers()).filter(|all| all.len() == 2));
    for (pid, _) in all {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    eventually("they are reaped", || strangers().is_empty().then_some(()));
    assert!(children(first).len() >= 3, "its own go on");

    kill(Pid::from_raw(first), Signal::SIGTERM).unwrap();
    program.says("the end", 1, |line| line == CLEAN);
    assert!(program.end().success());
}
