//! The `shmworker` binary, as a user meets it: what it says when something is wrong, and with which exit code.

use shmworker::cli::exit;
use std::{
    io::{BufRead, BufReader},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Output, Stdio},
};

/// The binary in an empty environment, so that neither variables nor a config file of the user's reach it.
fn shmworker(args: &[&str], env: &[(&str, &str)]) -> Output {
    let home = tempfile::tempdir().unwrap();
    command(home.path(), args, env).output().unwrap()
}

fn command(home: &Path, args: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shmworker"));
    command.args(args).env_clear().env("HOME", home).envs(env.iter().copied()).stdin(Stdio::null());
    command
}

/// The command fails with this code, this one line on stderr, and nothing on stdout.
#[track_caller]
fn fails(args: &[&str], env: &[(&str, &str)], code: u8, line: &str) {
    let output = shmworker(args, env);
    assert_eq!(String::from_utf8_lossy(&output.stderr), format!("{line}\n"), "{args:?}");
    assert_eq!(output.status.code(), Some(code.into()), "{args:?}");
    assert!(output.stdout.is_empty(), "{args:?}");
}

#[track_caller]
fn usage(args: &[&str], line: &str) {
    fails(args, &[], exit::USAGE, line);
}

#[test]
fn a_number_out_of_range_is_a_usage_error() {
    usage(&["run", "-w", "-1"], "error: invalid value '-1' for '-w': it must be a number from 0 to 512");
    usage(&["run", "-w", "100000"], "error: invalid value '100000' for '-w': it must be a number from 0 to 512");
    usage(&["run", "-a", "two"], "error: invalid value 'two' for '-a': it must be a number from 0 to 512");
    usage(&["run", "-w", ""], "error: invalid value '' for '-w': it must be a number from 0 to 512");
    usage(&["starter", "-n", "0"], "error: invalid value '0' for '-n': it must be a number from 1 to 100000");
}

#[test]
fn a_name_that_no_pool_can_have_is_a_usage_error() {
    let expected = "it must be 1 to 64 letters, digits, '.', '_' and '-'";
    usage(&["run", "--name", "a/b"], &format!("error: invalid value 'a/b' for '--name': {expected}"));
    usage(&["clean", "a", "a/b"], &format!("error: invalid value 'a/b' for '[POOL]...': {expected}"));
}

#[test]
fn what_a_segment_can_lie_on_is_said() {
    let expected = "it must be 'memfd', 'named' or 'file:PATH'";
    for wrong in ["disk", "file:", "named:x"] {
        let line = format!("error: invalid value '{wrong}' for '--backing': {expected}");
        usage(&["run", "--backing", wrong], &line);
    }
}

/// Where the server is doesn't matter to a pool that can't even make its segment.
#[test]
fn what_a_segment_can_not_lie_on_is_said_before_the_server_is_asked() {
    let run = ["run", "--address", "127.0.0.1:1", "--backing"];
    let line = "error: cannot open '/' for a shared-memory segment: Is a directory (os error 21)";
    fails(&[&run[..], &["file:/"]].concat(), &[], exit::FAILURE, line);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "mine").unwrap();
    let (name, backing) = (file.path().display(), format!("file:{}", file.path().display()));
    let line = format!("error: '{name}' holds 4 bytes already: remove it, or choose another file");
    fails(&[&run[..], &[&backing]].concat(), &[], exit::FAILURE, &line);
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
}

#[test]
fn a_name_that_is_taken_is_said_and_a_file_can_be_inspected_afterwards() {
    let pool = format!("cli-{}", std::process::id());
    let home = tempfile::tempdir().unwrap();
    let mut holder = command(home.path(), &["probe", "--named", &pool, "--hold"], &[]);
    let mut holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    let run = |backing: &str| {
        shmworker(&["run", "--address", "127.0.0.1:1", "--name", &pool, "--backing", backing, "-w1", "-a1"], &[])
    };
    let taken = run("named");
    let line = format!(
        " belongs to a pool that is alive, made by process {}: end that, or choose another name\n",
        holder.id()
    );
    assert!(String::from_utf8_lossy(&taken.stderr).ends_with(&line), "{taken:?}");
    assert_eq!(taken.status.code(), Some(exit::FAILURE.into()));
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());

    let file = home.path().join("segment");
    let ended = run(&format!("file:{}", file.display()));
    assert_eq!(ended.status.code(), Some(exit::SERVER_UNREACHABLE.into()), "{ended:?}");
    let found = shmworker(&["inspect", file.to_str().unwrap()], &[]);
    let text = String::from_utf8_lossy(&found.stdout);
    for part in ["queue 0 (\"workflow\")", "queue 1 (\"activity\")", "1 settled", "no invariant is violated"] {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
}

#[test]
fn a_missing_argument_is_named() {
    usage(&["inspect"], "error: '<NAME|PID|FILE>' is missing: see 'shmworker inspect --help'");
    usage(&["inspect", ""], "error: '<NAME|PID|FILE>' needs a value: see 'shmworker inspect --help'");
}

#[test]
fn no_worker_at_all_is_a_usage_error() {
    usage(
        &["run", "-w", "0", "-a", "0"],
        "error: '-w 0 -a 0' leaves nothing to run: give at least one worker, such as '-w 1'",
    );
}

#[test]
fn what_a_worker_can_not_be_is_a_usage_error() {
    let expected = "it must be a number above 0, such as 50 or 0.5";
    for wrong in ["0", "-1", "nan", "many"] {
        let line = format!("error: invalid value '{wrong}' for '--max-activities-per-second': {expected}");
        usage(&["run", "--max-activities-per-second", wrong], &line);
    }
    let expected = "it must be above 0 and at most 1, such as 0.8";
    let line = format!("error: invalid value '80' for '--target-cpu-usage': {expected}");
    usage(&["run", "--target-cpu-usage", "80"], &line);
    let expected = "it must be a number from 1 to 1000, or a range of them, such as 2-20";
    for wrong in ["0", "9-2", "-3", "1-"] {
        let line = format!("error: invalid value '{wrong}' for '--activity-pollers': {expected}");
        usage(&["run", "--activity-pollers", wrong], &line);
    }
    usage(
        &["run", "--workflow-pollers", "1"],
        "error: workflow pollers: at least 2 are needed, one for each of the two queues that Core polls",
    );
    usage(
        &["run", "--worker-versioning", "new"],
        "error: invalid value 'new' for '--worker-versioning': it must be 'pinned' or 'auto-upgrade'",
    );
    usage(
        &["run", "--worker-versioning", "pinned", "--build-id", "7"],
        "error: worker versioning needs a deployment name and a build id: give both",
    );
    usage(
        &["run", "--task-queue", "a", "--workflow-task-queue", "b"],
        "error: '--task-queue' and '--workflow-task-queue' exclude each other: give one of them",
    );
    usage(
        &["run", "--dev-server", "--no-dev-server"],
        "error: '--dev-server' and '--no-dev-server' exclude each other: give one of them",
    );
    usage(
        &["run", "--dev-server", "--address", "far.example:7233"],
        "error: --dev-server starts a server on this machine, but the server is to be at far.example:7233: leave out one of \
         them",
    );
}

#[test]
fn an_unknown_word_is_answered_with_the_nearest_known_one() {
    usage(&["run", "--activity-slot", "3"], "error: unknown flag '--activity-slot': did you mean '--activity-slots'?");
    usage(&["run", "--zzz"], "error: unknown flag '--zzz': see 'shmworker run --help'");
    usage(&["run", "extra"], "error: unknown argument 'extra': see 'shmworker run --help'");
    usage(&["start"], "error: unknown command 'start': did you mean 'starter'?");
    usage(&["zzz"], "error: unknown command 'zzz': see 'shmworker --help'");
    usage(&[], "error: no command given: see 'shmworker --help'");
}

#[test]
fn a_flag_without_its_value_is_a_usage_error() {
    usage(&["run", "-w"], "error: '-w' needs a value: see 'shmworker run --help'");
    usage(
        &["run", "--workflow-task-queue="],
        "error: '--workflow-task-queue' needs a value: see 'shmworker run --help'",
    );
    usage(&["starter", "--address"], "error: '--address' needs a value: see 'shmworker starter --help'");
}

#[test]
fn help_and_version_are_no_errors() {
    for (args, expected) in [
        (&["--help"][..], "Usage: shmworker [OPTIONS] <COMMAND>"),
        (&["help"], "Usage: shmworker [OPTIONS] <COMMAND>"),
        (&["run", "--help"], "Example:\n  shmworker run -w 4 -a 2\n"),
        (&["starter", "-h"], "Example:\n  shmworker starter -n 100\n"),
        (&["--version"], concat!("shmworker ", env!("CARGO_PKG_VERSION"), "\n")),
    ] {
        let output = shmworker(args, &[("TEMPORAL_API_KEY", "hunter2")]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(expected), "{args:?}: {text}");
        assert!(!text.contains("hunter2"), "{args:?} shows a secret");
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let home = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command(home.path(), &["run", "--help"], &[]).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success());
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // The port of a client: taken, so that nobody else comes to listen there, and closed to connections.
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let address = client.local_addr().unwrap().to_string();
    let line = format!(
        "error: cannot reach the Temporal server at {address}: Connection refused (os error 111) (5 tries); start it, or \
         name another with --address or TEMPORAL_ADDRESS"
    );
    fails(&["starter", "--address", &address], &[], exit::SERVER_UNREACHABLE, &line);
    fails(&["starter"], &[("TEMPORAL_ADDRESS", &address)], exit::SERVER_UNREACHABLE, &line);
}

#[test]
fn a_wrong_configuration_is_named() {
    fails(
        &["starter"],
        &[("TEMPORAL_PROFILE", "none"), ("TEMPORAL_CONFIG_FILE", "/nowhere.toml")],
        exit::CONFIG,
        "error: no profile 'none' (TEMPORAL_PROFILE) in config file '/nowhere.toml': add [profile.none], or name another",
    );
    fails(
        &["starter", "--tls-ca", "/nowhere.pem"],
        &[],
        exit::CONFIG,
        "error: cannot use certificate authority '/nowhere.pem' (--tls-ca): No such file or directory (os error 2); give \
         a PEM file",
    );
    fails(
        &["run", "--address", "localhost"],
        &[],
        exit::CONFIG,
        "error: invalid address 'localhost' (--address): write HOST:PORT, such as localhost:7233",
    );
}
