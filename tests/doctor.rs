//! `shmworker doctor`: what it says of a machine that lacks something, made so for the test.

#[cfg(feature = "temporal")]
mod common;

use serde_json::Value;
use shmworker::cli::exit;
#[cfg(feature = "temporal")]
use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
};
use std::{
    fs::DirBuilder,
    os::unix::{fs::DirBuilderExt, net::UnixListener},
    path::Path,
    process::{Command, Output, Stdio},
};

const SHMWORKER: &str = env!("CARGO_BIN_EXE_shmworker");

/// A program in an environment that names neither a server nor a tool.
fn run(program: &str, args: &[&str], env: &[(&str, &str)]) -> Output {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(program);
    command.args(args).env_clear().env("HOME", home.path()).env("PATH", home.path()).current_dir(home.path());
    command.envs(env.iter().copied()).stdin(Stdio::null()).output().unwrap()
}

fn findings(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// What was found of a thing: its state, and a text.
fn finding(json: &Value, name: &str) -> (String, String) {
    let all = json["findings"].as_array().unwrap();
    let of_name = all.iter().find(|f| f["name"] == name).unwrap_or_else(|| panic!("no '{name}' in {json}"));
    let text = |key: &str| of_name[key].as_str().unwrap_or_default().to_owned();
    (text("state"), format!("{} -> {}", text("found"), text("remedy")))
}

/// `name` is a problem, whose text has this part, and the exit code says so.
#[track_caller]
fn is_problem(output: &Output, name: &str, part: &str) {
    let (state, text) = finding(&findings(output), name);
    assert!(state == "problem" && text.contains(part), "{state}: {text}");
    assert_eq!(output.status.code(), Some(exit::FAILURE.into()), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains(" problem(s), "), "{output:?}");
}

#[cfg(feature = "temporal")]
fn executable(dir: &Path, text: &str) -> String {
    let path = dir.join("temporal");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn where_workers_run_nothing_is_a_problem() {
    let output = run(SHMWORKER, &["doctor", "--json"], &[]);
    let json = findings(&output);
    assert_eq!(json["problems"], 0, "{json}");
    assert_eq!(output.status.code(), Some(exit::OK.into()));
    for name in ["release", "memfd", "futex", "pidfd", "close_range", "prctl", "open files", "processes", "core dumps"]
    {
        assert_eq!(finding(&json, name).0, "ok", "{name}");
    }
    let of_temporal: &[&str] = if cfg!(feature = "temporal") { &["command", "server"] } else { &[] };
    for name in ["/dev/shm", "segment", "usable", "left over"].iter().chain(of_temporal) {
        finding(&json, name);
    }
    let kinds = json["findings"].as_array().unwrap().iter().filter(|f| f["topic"] == "cgroup").count();
    assert!(kinds > 0, "{json}");
}

#[test]
fn sockets_of_dead_pools_are_told_with_the_command_that_removes_them() {
    let home = tempfile::tempdir().unwrap();
    let (place, runtime) = (home.path().join("shmworker"), home.path().to_str().unwrap());
    DirBuilder::new().mode(0o700).create(&place).unwrap();
    let socket = place.join("dead.sock");
    // What is dropped leaves its name.
    drop(UnixListener::bind(&socket).unwrap());
    let env = [("XDG_RUNTIME_DIR", runtime)];
    let (state, text) = finding(&findings(&run(SHMWORKER, &["doctor", "--json"], &env)), "left over");
    assert_eq!(state, "warning", "{text}");
    // Others may have left some elsewhere.
    assert!(text.contains(" socket(s) of dead pools -> ") && !text.contains(" 0 socket(s)"), "{text}");
    assert!(text.contains("'shmworker clean'"), "{text}");
    let cleaned = run(SHMWORKER, &["clean", "dead"], &env);
    assert_eq!(String::from_utf8(cleaned.stdout).unwrap(), format!("removed {}\n", socket.display()));
}

#[test]
fn limits_that_leave_too_little_are_problems() {
    // As a child of a shell that has set them, since they stay as they are for who runs the test.
    let with = |limit: &str| {
        let script = format!("ulimit {limit} && exec {SHMWORKER} doctor --json");
        run("/bin/sh", &["-c", &script], &[])
    };
    is_problem(&with("-n 64"), "open files", "64, up to 64 (RLIMIT_NOFILE)");
    is_problem(&with("-f 8"), "segment", "no pool can start");
    let (state, text) = finding(&findings(&with("-c 0")), "core dumps");
    assert_eq!(state, "ok", "{text}");
}

#[test]
fn too_many_processes_of_the_user_are_a_problem() {
    // Root has no such limit, another user of a namespace has.
    let unshare = ["--user", "--map-user=1000"];
    if !Command::new("unshare").args(unshare).arg("true").status().is_ok_and(|status| status.success()) {
        println!("skipped: this user may not make a user namespace");
        return;
    }
    let args = ["--nproc=20", "unshare", unshare[0], unshare[1], SHMWORKER, "doctor", "--json"];
    let output = run("prlimit", &args, &[("PATH", "/usr/bin:/bin")]);
    is_problem(&output, "processes", "(RLIMIT_NPROC)");
}

#[test]
fn a_small_shared_memory_is_a_warning_and_says_how_to_enlarge_it() {
    let of = |mount: &str| {
        let script = format!("{mount} && exec {SHMWORKER} doctor --json");
        let args = ["--user", "--map-root-user", "--mount", "sh", "-c", &script];
        run("unshare", &args, &[("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")])
    };
    let small = of("mount -t tmpfs -o size=1m,noexec none /dev/shm");
    if small.stdout.is_empty() {
        println!("skipped: this user may not mount a tmpfs: {small:?}");
        return;
    }
    let (state, text) = finding(&findings(&small), "/dev/shm");
    assert_eq!(state, "warning", "{text}");
    assert!(
        text.starts_with("1.0 MiB, of which 1.0 MiB are free (noexec) -> ") && text.contains("--shm-size"),
        "{text}"
    );
    assert_eq!(small.status.code(), Some(exit::OK.into()), "a warning is no problem");
    let (state, text) = finding(&findings(&of("mount -t tmpfs -o ro none /dev/shm")), "/dev/shm");
    assert!(state == "warning" && text.contains("(ro), and can't be written to"), "{state}: {text}");
    let (state, text) = finding(&findings(&of("mount --bind \"$HOME\" /dev/shm")), "/dev/shm");
    assert!(state == "warning" && text.contains("no tmpfs"), "{state}: {text}");
}

#[cfg(feature = "temporal")]
#[test]
fn the_command_line_tool_is_found_run_and_judged() {
    let doctor = |cli: &str| run(SHMWORKER, &["doctor", "--json"], &[("TEMPORAL_CLI", cli)]);
    is_problem(&doctor("/nowhere/temporal"), "command", "TEMPORAL_CLI names '/nowhere/temporal'");
    let dir = tempfile::tempdir().unwrap();
    let good = executable(dir.path(), "#!/bin/sh\n[ \"$1\" = --version ] && echo temporal version 9.9.9\n");
    let (state, text) = finding(&findings(&doctor(&good)), "command");
    assert_eq!((&*state, &*text), ("ok", &*format!("{good}: temporal version 9.9.9 -> ")));
    let bad = executable(dir.path(), "#!/bin/sh\necho no licence; exit 3\n");
    is_problem(&doctor(&bad), "command", "does not run: no licence");
    let (state, text) = finding(&findings(&run(SHMWORKER, &["doctor", "--json"], &[])), "command");
    assert!(state == "warning" && text.contains("https://docs.temporal.io/cli"), "{state}: {text}");
}

#[cfg(feature = "temporal")]
#[test]
fn a_server_that_is_named_must_be_there() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // The port of a client: taken, so that nobody else comes to listen there, and closed to connections.
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let address = client.local_addr().unwrap().to_string();
    let by_flag = run(SHMWORKER, &["doctor", "--json", "--address", &address], &[]);
    is_problem(&by_flag, "server", &format!("nobody listens at {address} -> start it"));
    is_problem(&run(SHMWORKER, &["doctor", "--json"], &[("TEMPORAL_ADDRESS", &address)]), "server", &address);
    is_problem(&run(SHMWORKER, &["doctor", "--json", "--address", "there"], &[]), "server", "write HOST:PORT");
}

#[cfg(feature = "temporal")]
#[test]
fn a_server_must_have_the_namespace() {
    let server = common::Server::start(&["default"]);
    let doctor = |namespace: &str| {
        run(SHMWORKER, &["doctor", "--json", "--address", &server.address, "--namespace", namespace], &[])
    };
    let (state, text) = finding(&findings(&doctor("default")), "server");
    assert_eq!((&*state, &*text), ("ok", &*format!("{} answers, and has namespace 'default' -> ", server.address)));
    is_problem(&doctor("nowhere"), "server", "nowhere");
}

#[test]
fn lines_are_plain_but_on_a_terminal_that_wants_colours() {
    let output = run(SHMWORKER, &["doctor"], &[("TERM", "xterm")]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("ok       kernel  ") && !text.contains('\x1b'), "{text}");
    let on_terminal = |env: &[(&str, &str)]| {
        let output = run("/usr/bin/script", &["-qec", &format!("{SHMWORKER} doctor"), "/dev/null"], env);
        String::from_utf8(output.stdout).unwrap()
    };
    if !Path::new("/usr/bin/script").exists() {
        println!("skipped: no script(1) to make a terminal with");
        return;
    }
    assert!(on_terminal(&[("TERM", "xterm")]).contains("\x1b[32mok"));
    for env in [&[("TERM", "xterm"), ("NO_COLOR", "1")][..], &[("TERM", "dumb")]] {
        let text = on_terminal(env);
        assert!(text.contains("kernel") && !text.contains('\x1b'), "{env:?}: {text}");
    }
}

/// clap's help, too.
#[test]
fn help_has_no_colours_where_they_are_not_wanted() {
    if !Path::new("/usr/bin/script").exists() {
        println!("skipped: no script(1) to make a terminal with");
        return;
    }
    let help = |env: &[(&str, &str)]| {
        let output = run("/usr/bin/script", &["-qec", &format!("{SHMWORKER} doctor --help"), "/dev/null"], env);
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(help(&[("TERM", "xterm")]).contains('\x1b'));
    let plain = help(&[("TERM", "xterm"), ("NO_COLOR", "1")]);
    assert!(plain.contains("Usage") && !plain.contains('\x1b'), "{plain}");
}
