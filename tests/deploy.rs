//! What `docs/deploy` promises: `shmworker run` as the first process of a PID namespace, as in a container, reaps what is not its own
//! and ends when it is told to; the unit is one that systemd understands.

mod common;

use common::{Program, Server, eventually};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use procfs::process::{Process, all_processes};
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    process::Command,
};

const AT_WORK: &str = "waiting for keyboard interrupt or for all workers to exit";
const CLEAN: &str = "shared memory is clean: no descriptor and no block in use";
const SHMWORKER: &str = env!("CARGO_BIN_EXE_shmworker");
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
    // Its name is "1", as that of any other of these.
    let home = tempfile::tempdir().unwrap();
    // A child from before, and one whose parent has gone. The shell becomes shmworker, so it has both.
    let script = "sleep 1000 & (sleep 1000 &) ; exec \"$0\" run -w 1 -a 1 --address \"$1\"";
    let mut command = Command::new("unshare");
    command.args(NAMESPACE).args(["sh", "-c", script, SHMWORKER, &server.address]);
    command.env("XDG_RUNTIME_DIR", home.path());
    let mut program = Program::start(command);
    program.says(AT_WORK, 1, |line| line == AT_WORK);
    let (first, _) = children(program.pid()).pop().expect("a first process");
    let status = fs::read_to_string(format!("/proc/{first}/status")).unwrap();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
    assert_eq!(numbers.split_whitespace().last(), Some("1"), "{numbers}");

    let strangers = || children(first).into_iter().filter(|(_, name)| name == "sleep").collect::<Vec<_>>();
    let all = eventually("both are its children", || Some(strangers()).filter(|all| all.len() == 2));
    for (pid, _) in all {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    eventually("they are reaped", || strangers().is_empty().then_some(()));
    assert!(children(first).len() >= 3, "its own go on");

    // As a probe does it.
    let mut inspect = Command::new("nsenter");
    inspect.args(["--pid", "--mount", "--target", &first.to_string(), SHMWORKER, "inspect", "1"]);
    let inspected = inspect.env("XDG_RUNTIME_DIR", home.path()).output().unwrap();
    assert!(inspected.status.success(), "{inspected:?}");

    kill(Pid::from_raw(first), Signal::SIGTERM).unwrap();
    program.says("the end", 1, |line| line == CLEAN);
    assert!(program.end().success());
}

/// The arguments of a line of the Dockerfile, in JSON or as words.
fn instruction(name: &str) -> Vec<String> {
    let dockerfile = include_str!("../docs/deploy/Dockerfile");
    let line = dockerfile.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
    serde_json::from_str(line).unwrap_or_else(|_| line.split_whitespace().map(str::to_owned).collect())
}

/// What the Dockerfile says, but for the image: its command, as its user, as the first process and without any capability.
#[test]
fn the_command_of_the_container_serves_without_root() {
    let user = instruction("USER ").remove(0);
    let (uid, gid) = user.split_once(':').unwrap();
    let as_user = ["--reuid", uid, "--regid", gid, "--clear-groups", "--bounding-set=-all", "--no-new-privs"];
    let mut probe = Command::new("unshare");
    probe.args(NAMESPACE).arg("setpriv").args(as_user).arg("true");
    if !probe.status().is_ok_and(|status| status.success()) {
        println!("skipped: this user may not make a PID namespace, or become another");
        return;
    }
    let server = Server::start(&["default"]);
    // Where that user finds it, and may write nothing.
    let image = tempfile::tempdir().unwrap();
    fs::set_permissions(image.path(), Permissions::from_mode(0o755)).unwrap();
    let binary = image.path().join("shmworker");
    if fs::hard_link(SHMWORKER, &binary).is_err() {
        fs::copy(SHMWORKER, &binary).unwrap();
    }
    let words = [instruction("ENTRYPOINT "), instruction("CMD ")].concat();
    assert_eq!(words[0], "/usr/local/bin/shmworker");
    let mut command = Command::new("unshare");
    command.args(NAMESPACE).arg("setpriv").args(as_user).arg(&binary).args(&words[1..]);
    command.args(["-w", "1", "-a", "1"]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("TEMPORAL_ADDRESS", &server.address).current_dir("/");
    let mut program = Program::start(command);
    program.says(AT_WORK, 1, |line| line == AT_WORK);
    let (first, _) = children(program.pid()).pop().expect("a first process");
    let status = fs::read_to_string(format!("/proc/{first}/status")).unwrap();
    let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap().split_whitespace();
    assert_eq!(line("NSpid:").next_back(), Some("1"), "{status}");
    assert!(line("Uid:").all(|id| id == uid) && line("Gid:").all(|id| id == gid), "{status}");
    assert!(line("CapBnd:").all(|mask| mask.trim_matches('0').is_empty()), "{status}");

    // `docker exec` enters as the same user.
    let enter = ["--pid", "--mount", "--target", &first.to_string(), "--", "setpriv"];
    let mut inspect = Command::new("nsenter");
    inspect.args(enter).args(as_user).arg(&binary).args(["inspect", "1"]).env_clear().current_dir("/");
    let inspected = inspect.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").output().unwrap();
    assert!(inspected.status.success(), "{inspected:?}");

    let stop: Signal = instruction("STOPSIGNAL ")[0].parse().unwrap();
    kill(Pid::from_raw(first), stop).unwrap();
    program.says("the end", 1, |line| line == CLEAN);
    assert!(program.end().success());
    program.leaves_nobody();
}

/// What the one stage of the Dockerfile makes is what the other takes, by a profile that there is.
#[test]
fn the_steps_of_the_dockerfile_go_together() {
    let dockerfile = include_str!("../docs/deploy/Dockerfile");
    let build = dockerfile.lines().find(|line| line.contains("cargo build")).unwrap();
    let (build, copy) = build.trim().split_once(" && ").unwrap();
    let profile = build.split_once("--profile ").unwrap().1;
    assert!(build.contains("--locked") && include_str!("../Cargo.toml").contains(&format!("[profile.{profile}]")));
    let installed = &instruction("ENTRYPOINT ")[0];
    assert_eq!(copy, format!("cp target/{profile}/shmworker {installed}"));
    assert_eq!(instruction("COPY --from=build "), [installed.clone(), installed.clone()]);
    let uid = instruction("USER ")[0].split_once(':').unwrap().0.to_owned();
    assert!(dockerfile.contains(&format!("useradd --system --uid {uid} ")), "its user is made");
}

/// What systemd says of the unit, with the binary where this test has it.
#[test]
fn the_unit_is_one() {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/deploy/shmworker.service");
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().join("shmworker.service");
    let text = fs::read_to_string(unit).unwrap();
    assert!(text.contains("/usr/local/bin/shmworker "));
    let verify = |text: &str| {
        fs::write(&here, text).unwrap();
        Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&here).output()
    };
    let Ok(output) = verify(&text.replace("/usr/local/bin/shmworker", SHMWORKER)) else {
        println!("skipped: no systemd-analyze to verify it with");
        return;
    };
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let wrong = verify(&text.replace("KillMode=mixed", "KillMode=mxed")).unwrap();
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("kill mode"), "it is not looked at: {wrong:?}");
}

/// The unit's command line is one: it gets as far as the server.
#[test]
fn the_command_of_the_unit_is_understood() {
    let text = include_str!("../docs/deploy/shmworker.service");
    let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/shmworker ")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    fs::write(&file, "[run]\nnum-workflow-workers = 1\naddress = '127.0.0.1:1'\n").unwrap();
    let line = line.replace("/etc/shmworker/config.toml", file.to_str().unwrap());
    let words = line.replace("%N", &format!("unit-{}", std::process::id()));
    let mut command = Command::new(SHMWORKER);
    command.args(words.split(' ')).env_clear().env("HOME", dir.path()).env("XDG_RUNTIME_DIR", dir.path());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(shmworker::cli::exit::SERVER_UNREACHABLE.into()), "{output:?}");
}
