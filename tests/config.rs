//! `shmworker.toml`, and `--quiet`: where the file is found, what wins over it, and what is said of one that is wrong.

mod common;

use common::{Program, Server, eventually};
use nix::sys::signal::Signal;
use shmworker::cli::exit;
use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Output, Stdio},
};

/// The binary, in a directory and an environment of its own.
fn shmworker(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shmworker"));
    command.args(args).env_clear().env("HOME", dir).envs(env.iter().copied()).current_dir(dir).stdin(Stdio::null());
    command.output().unwrap()
}

/// The last line on stderr, and the exit code.
fn ending(output: &Output) -> (String, Option<i32>) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    (stderr.lines().last().unwrap_or_default().to_owned(), output.status.code())
}

/// What is said of a file with this text.
#[track_caller]
fn refused(text: &str, why: &str) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    fs::write(&file, text).unwrap();
    let output = shmworker(dir.path(), &["clean", "--dry-run", "--config", file.to_str().unwrap()], &[]);
    let line = format!("error: {}", why.replace("FILE", &format!("config file '{}'", file.display())));
    assert_eq!(ending(&output), (line, Some(exit::CONFIG.into())), "{text}");
    assert!(output.stdout.is_empty());
}

/// A port at which nobody listens, as long as the connection is kept.
fn closed() -> (String, TcpListener, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client.local_addr().unwrap().to_string(), listener, client)
}

#[test]
fn what_no_command_line_could_say_is_refused() {
    refused("[bench]\nsecnds = 1", "FILE: unknown key 'secnds' in [bench]: did you mean 'seconds'?");
    refused("[bench]\nzzz = 1", "FILE: unknown key 'zzz' in [bench]: see 'shmworker bench --help'");
    refused("[bench]\nq = true", "FILE: unknown key 'q' in [bench]: did you mean 'quiet'?");
    refused("[bench]\nconfig = 'x'", "FILE: unknown key 'config' in [bench]: see 'shmworker bench --help'");
    refused("[benhc]\nseconds = 1", "FILE: no command '[benhc]': did you mean '[bench]'?");
    refused("[zzz]\nseconds = 1", "FILE: no command '[zzz]': see 'shmworker --help'");
    refused("[probe]\nhold = true", "FILE: no command '[probe]': see 'shmworker --help'");
    refused("quiet = true", "FILE: 'quiet' stands outside a table: put it below its command, such as '[run]'");
    refused("[bench]\njson = 3", "FILE: 'json' in [bench]: it must be true or false");
    refused("[bench]\nseconds = [1]", "FILE: 'seconds' in [bench]: it must be a text or a number");
    refused("[run]\nload = [true]", "FILE: 'load' in [run]: it must be a text or a number");
    let range = "it must be a number from 1 to 3600";
    refused("[bench]\nseconds = 0", &format!("FILE: [bench]: invalid value '0' for '--seconds': {range}"));
    refused(
        "[run]\ndev-server = true\nno-dev-server = true",
        "FILE: [run]: '--dev-server' and '--no-dev-server' exclude each other: give one of them",
    );
    refused("\n[bench\n", "cannot understand FILE: line 2: unclosed table, expected `]`");
}

#[test]
fn a_file_that_is_named_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let line = "error: cannot read config file '/nowhere.toml': No such file or directory (os error 2)".to_owned();
    let expected = (line, Some(exit::CONFIG.into()));
    for args in [&["clean", "--config", "/nowhere.toml"][..], &["--config=/nowhere.toml", "clean"]] {
        assert_eq!(ending(&shmworker(dir.path(), args, &[])), expected);
    }
    assert_eq!(ending(&shmworker(dir.path(), &["clean"], &[("SHMWORKER_CONFIG", "/nowhere.toml")])), expected);
    // What only prints does not ask for it.
    for args in [&["completions", "bash"][..], &["man"], &["run", "--help"], &["--help"], &["--version"]] {
        let output = shmworker(dir.path(), args, &[("SHMWORKER_CONFIG", "/nowhere.toml")]);
        assert!(output.status.success(), "{args:?}: {output:?}");
    }
}

/// Each place has a file that is refused, under its name.
#[test]
fn the_first_file_that_is_found_counts() {
    let home = tempfile::tempdir().unwrap();
    let dir = tempfile::tempdir_in(&home).unwrap();
    let bad = |path: &str| {
        let path = home.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "[bench]\nzzz = 0\n").unwrap();
        path.to_str().unwrap().to_owned()
    };
    let [flag, variable, of_user, of_home] =
        ["flag.toml", "variable.toml", "xdg/shmworker/config.toml", ".config/shmworker/config.toml"].map(bad);
    let here = dir.path().join("shmworker.toml");
    fs::copy(&flag, &here).unwrap();
    let used = |args: &[&str], env: &[(&str, &str)]| {
        let env = [&[("HOME", home.path().to_str().unwrap())], env].concat();
        ending(&shmworker(dir.path(), args, &env))
    };
    let is = |path: &str| {
        let line = format!("error: config file '{path}': unknown key 'zzz' in [bench]: see 'shmworker bench --help'");
        (line, Some(exit::CONFIG.into()))
    };
    let xdg = home.path().join("xdg");
    let env = [("SHMWORKER_CONFIG", &*variable), ("XDG_CONFIG_HOME", xdg.to_str().unwrap())];
    assert_eq!(used(&["clean", "--config", &flag], &env), is(&flag));
    assert_eq!(used(&["clean"], &env), is(&variable));
    assert_eq!(used(&["clean"], &env[1..]), is("shmworker.toml"));
    fs::remove_file(&here).unwrap();
    assert_eq!(used(&["clean"], &env[1..]), is(&of_user));
    assert_eq!(used(&["clean"], &[]), is(&of_home));
    fs::remove_file(&of_home).unwrap();
    assert_eq!(used(&["clean", "none-of-this-name"], &[]), (String::new(), Some(exit::OK.into())));
}

/// `run` says which address it can't reach.
#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let [(a, ..), (b, ..), (c, ..)] = &[closed(), closed(), closed()];
    fs::write(dir.path().join("shmworker.toml"), format!("[starter]\naddress = '{a}'\n[run]\naddress = 'x:1'\n"))
        .unwrap();
    for (flags, env, expected) in [
        (&["starter"][..], &[][..], a),
        (&["starter"], &[("TEMPORAL_ADDRESS", &**b)], b),
        (&["starter", "--address", c], &[("TEMPORAL_ADDRESS", b)], c),
        (&["starter", "--address", c], &[], c),
    ] {
        let (line, code) = ending(&shmworker(dir.path(), flags, env));
        assert!(line.starts_with(&format!("error: cannot reach the Temporal server at {expected}: ")), "{line}");
        assert_eq!(code, Some(exit::SERVER_UNREACHABLE.into()));
    }
}

#[test]
fn a_flag_wins_over_what_excludes_it_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let (address, ..) = &closed();
    let text = format!("[run]\naddress = '{address}'\ntask-queue = 'of-file'\nno-dev-server = true\nquiet = false\n");
    fs::write(dir.path().join("shmworker.toml"), text).unwrap();
    // `--dev-server` would be refused beside `--no-dev-server`; with it, somebody else's address is.
    let (line, _) = ending(&shmworker(dir.path(), &["run", "--dev-server", "--address", "far.example:1"], &[]));
    assert!(line.starts_with("error: --dev-server starts a server on this machine"), "{line}");
    // As would one of these.
    let (line, code) = ending(&shmworker(dir.path(), &["run", "--workflow-task-queue", "q", "-w1", "-a1"], &[]));
    assert_eq!(code, Some(exit::SERVER_UNREACHABLE.into()), "{line}");
    // What is told is the file's unless it was typed.
    fs::write(dir.path().join("shmworker.toml"), "[run]\nnum-workflow-workers = 0\nnum-activity-workers = 0\n")
        .unwrap();
    let nothing = "error: '-w 0 -a 0' leaves nothing to run: give at least one worker, such as '-w 1'";
    assert_eq!(ending(&shmworker(dir.path(), &["run"], &[])), (nothing.to_owned(), Some(exit::USAGE.into())));
    let (line, code) = ending(&shmworker(dir.path(), &["run", "-w", "1", "--address", address], &[]));
    assert_eq!(code, Some(exit::SERVER_UNREACHABLE.into()), "{line}");
}

#[test]
fn the_file_in_the_manual_is_one() {
    let manual = include_str!("../docs/operations.md");
    let example = manual.split_once("```toml\n").unwrap().1.split_once("```").unwrap().0;
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("shmworker.toml"), example).unwrap();
    let clean = |args: &[&str]| ending(&shmworker(dir.path(), &[&["clean", "none-of-this-name"], args].concat(), &[]));
    assert_eq!(clean(&[]), (String::new(), Some(exit::OK.into())));
    fs::write(dir.path().join("shmworker.toml"), example.replace("grace", "grase")).unwrap();
    assert_eq!(clean(&[]).1, Some(exit::CONFIG.into()));
    assert_eq!(clean(&["--config", "/dev/null"]), (String::new(), Some(exit::OK.into())));
}

#[test]
fn several_values_are_a_list() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("shmworker.toml"), "[run]\nload = ['/nowhere/a.so', '/nowhere/b.so']\n").unwrap();
    let (line, code) = ending(&shmworker(dir.path(), &["run"], &[]));
    assert!(line.contains("/nowhere/a.so"), "{line}");
    assert_eq!(code, Some(exit::PLUGIN.into()));
}

#[test]
fn the_file_of_another_user_is_not_taken_from_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("shmworker.toml");
    fs::write(&file, "[clean]\nquiet = true\n").unwrap();
    if std::os::unix::fs::chown(&file, Some(12_345), None).is_err() {
        println!("skipped: this user may not give a file to another");
        return;
    }
    let line =
        "error: './shmworker.toml' belongs to another user (uid 12345): name it with --config to use it all the same";
    assert_eq!(ending(&shmworker(dir.path(), &["clean", "x"], &[])), (line.to_owned(), Some(exit::CONFIG.into())));
    let output = shmworker(dir.path(), &["clean", "x", "--config", "shmworker.toml"], &[]);
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
}

#[test]
fn quiet_commands_print_nothing_that_went_well() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(shmworker(dir.path(), &["clean", "none-of-this-name"], &[]).stdout, b"nothing is left over\n");
    assert_eq!(shmworker(dir.path(), &["clean", "none-of-this-name", "-q"], &[]).stdout, b"");
    let server = Server::start(&["default"]);
    let command = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shmworker"));
        command.args(args).args(["--address", &server.address]).env_clear().env("HOME", dir.path());
        command
    };
    let mut run = Program::start(command(&["run", "-w", "1", "-a", "1", "--quiet"]));
    // It is at work once there is a result; the starter's patience is shorter than a busy machine may take.
    let result = eventually("workers poll", || {
        let result = command(&["starter", "-n", "1"]).output().unwrap();
        (result.status.code() != Some(exit::NO_WORKER.into())).then_some(result)
    });
    assert!(result.status.success() && result.stdout.starts_with(b"wf-starting-pid:"), "{result:?}");
    let quiet = command(&["starter", "-n", "1", "-q"]).output().unwrap();
    assert!(quiet.status.success() && quiet.stdout.is_empty() && quiet.stderr.is_empty(), "{quiet:?}");
    run.signal(Signal::SIGTERM);
    assert!(run.end().success());
    assert_eq!((run.stdout(), run.stderr()), (Vec::<String>::new(), Vec::<String>::new()));
}
