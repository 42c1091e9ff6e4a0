//! Pools that lie in a file: whatever is killed, and however often, what was accepted comes to its end once.
//!
//! `SHMWORKER_STATE_KILLS=500` kills that often in each scene that kills at random.

#[path = "common/eventually.rs"]
mod eventually;
#[path = "common/program.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod program;
#[path = "common/scene.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod scene;
#[path = "common/squares.rs"]
mod squares;

use eventually::eventually;
use nix::{
    sys::{
        signal::{SigHandler, Signal, kill, signal},
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, alarm},
};
use program::Program;
use shmworker::{
    Pool, SegmentCreateError, StateError, Tasks,
    pool::{Adopted, Builder, Handle, PoolError, StartError, Task, TaskError, TaskOptions},
};
use squares::{SQUARE, number, whole_lines, write_squares};
use std::{
    collections::VecDeque,
    fs::{self, OpenOptions},
    io::Write,
    os::unix::{
        fs::{FileExt, PermissionsExt, chown, symlink},
        process::CommandExt,
    },
    path::Path,
    process::{Command, ExitCode},
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::{Duration, Instant, SystemTime},
};

/// What a process of its own does for a scene comes behind this.
const PROGRAM: &str = "--program";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let [_, flag, dir, n] = &args[..]
        && flag == PROGRAM
    {
        squares(Path::new(dir), n.parse().unwrap());
        return ExitCode::SUCCESS;
    }
    scene::run(scenes![
        a_program_goes_on_after_everything_was_killed,
        jobs_go_on_after_everything_was_killed,
        a_running_job_has_used_up_an_attempt,
        results_that_can_not_be_written_wait_in_the_state,
        an_output_keeps_what_the_joblog_tells_of,
        another_input_is_refused,
        a_run_that_was_asked_to_end_leaves_the_rest_to_the_next,
        one_pool_at_a_time,
        what_is_no_state_of_ours_is_left_alone,
        another_boot_is_not_trusted,
        damage_is_told,
        a_full_or_read_only_file_system_is_an_error,
        whoever_is_killed_alone_the_next_goes_on,
        what_nobody_asks_for_is_there_again,
        each_client_has_its_own,
        a_key_finds_what_was_done,
        more_than_fits_is_refused_and_not_lost,
        what_a_pool_is_to_be_like_must_fit,
        a_task_that_outlasts_the_grace_is_nobodys_death,
        a_shutdown_cancels_nothing_of_who_is_absent,
        another_command_is_refused,
        names_of_which_nothing_is_left_take_no_place,
        results_that_nobody_asks_for_make_room,
        nothing_is_written_behind_a_torn_result,
        what_could_not_be_logged_waits_in_the_state,
        an_output_of_which_no_joblog_tells_is_kept,
        results_on_standard_output_are_none_of_a_file,
        a_start_waits_for_those_who_end,
        what_jobs_leave_behind_is_ended,
    ])
}

// ---- a program ------------------------------------------------------------------------------------------------------

fn tasks() -> Tasks {
    let mut tasks = Tasks::new();
    tasks.function("square", |x: u64| x * x);
    tasks
}

/// Writes the squares below `n` into a file, each once, whatever has happened to this program before.
fn squares(dir: &Path, n: u64) {
    // Its coordinator may be killed a moment before it is.
    std::panic::set_hook(Box::new(|panic| {
        let said = panic.to_string();
        if !said.contains("SIGKILL") && !said.contains("coordinator") {
            eprintln!("{said}");
        }
    }));
    let pool = Pool::builder().workers(2).file(dir.join("state")).fork(tasks()).unwrap();
    let out = dir.join("out");
    write_squares(&pool, pool.adopted(), &out, n);
    pool.join().unwrap();
}

fn a_program_goes_on_after_everything_was_killed() {
    const STEP: u64 = 1000;
    let program = |dir: &Path, n: u64| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(PROGRAM).arg(dir).arg(n.to_string());
        command
    };
    let (trial, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut n, out) = (STEP, dir.path().join("out"));
    let said = kill_at_random(program(trial.path(), n), || {
        // There is always something to do.
        while whole_lines(&out).len() as u64 > n - STEP / 2 {
            n += STEP / 2;
        }
        program(dir.path(), n)
    });
    assert_eq!(said, [""; 0]);
    ends_well(program(dir.path(), n));
    let mut squares: Vec<u64> = Vec::new();
    for line in whole_lines(&out) {
        let (x, square) = (number(&line), line.split_once(' ').unwrap().1);
        assert_eq!(square, (x * x).to_string());
        squares.push(x);
    }
    squares.sort_unstable();
    assert_eq!(squares, (0..n).collect::<Vec<_>>());
}

// ---- jobs -----------------------------------------------------------------------------------------------------------

fn jobs_go_on_after_everything_was_killed() {
    const LINES: u64 = 2000;
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str, batch: u32| dir.path().join(format!("{name}{batch}"));
    let begin = |batch: u32| {
        let lines = (0..LINES).map(|i| format!(r#"{{"task":"echo","args":"{batch}-{i}","label":"{i}"}}"#) + "\n");
        fs::write(path("in", batch), lines.collect::<String>()).unwrap();
    };
    let command = |batch| jobs(&path("state", batch), &path("in", batch), &path("out", batch));
    (0..2).for_each(begin);
    // The first is the trial.
    let mut batch = 1;
    let said = kill_at_random(command(0), || {
        if results(&path("out", batch)).len() as u64 == LINES {
            batch += 1;
            begin(batch);
        }
        command(batch)
    });
    let adopted = said.iter().filter(|line| line.ends_with("jobs that were accepted are gone on with")).count();
    println!("{adopted} of the starts found jobs, batch {batch}");
    assert!(adopted > 0, "no kill came between the acceptance of a job and its result");
    for batch in 0..=batch {
        ends_well(command(batch));
        let mut found = results(&path("out", batch));
        found.sort_unstable();
        assert_eq!(found, (0..LINES).collect::<Vec<_>>());
    }
}

fn jobs(state: &Path, input: &Path, output: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shmworker"));
    command.args(["jobs", "-j", "2", "--retries", "254", "--state"]).arg(state).arg("--output").arg(output).arg(input);
    command
}

/// The numbers of the jobs that stand in an output, all of which are done.
fn results(output: &Path) -> Vec<u64> {
    let text = fs::read_to_string(output).unwrap_or_default();
    let whole = text.rfind('\n').map_or(0, |at| at + 1);
    let number = |line: &str| {
        let result: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(result["status"], "done", "{line}");
        result["label"].as_str().unwrap().parse().unwrap()
    };
    text[..whole].lines().map(number).collect()
}

/// Runs `shmworker jobs` with one worker: its exit code, and what it says.
fn run_jobs(args: &[&str], input: &str) -> (i32, Vec<String>, Vec<String>) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, input).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_shmworker"));
    command.args(["jobs", "-j", "1"]).args(args).arg(file.path());
    let mut program = Program::start(command);
    let code = program.end().code().unwrap();
    (code, program.stdout(), program.stderr())
}

/// It fails by itself, with one line, which contains this.
#[track_caller]
fn refuses(state: &Path, why: &str) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let args = ["--state", state.to_str().unwrap(), "--joblog", log.path().to_str().unwrap()];
    let (code, out, err) = run_jobs(&args, ECHO);
    assert_eq!((code, out), (1, vec![]), "{err:?}");
    assert!(err.len() == 1 && err[0].contains(why), "{err:?} without {why:?}");
}

const ECHO: &str = r#"{"task":"echo","args":1}"#;

fn a_running_job_has_used_up_an_attempt() {
    for (retries, status, attempts) in [("0", "died", 1), ("1", "done", 2)] {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let [state, mark, input] = ["state", "mark", "in"].map(path);
        // The first attempt leaves a mark, and does not end.
        let script = format!("[ -e {mark} ] || {{ touch {mark}; exec sleep 1000; }}");
        let line = serde_json::json!({"task": "exec", "args": ["sh", "-c", script]}).to_string();
        fs::write(&input, &line).unwrap();
        let args = ["--state", &state, "--retries", retries];
        let mut command = Command::new(env!("CARGO_BIN_EXE_shmworker"));
        command.args(["jobs", "-j", "1"]).args(args).arg(&input);
        let program = Program::start(command);
        eventually("it runs", || Path::new(&mark).exists().then_some(()));
        kill_all(&program, &mut Random(1));
        let (_, out, err) = run_jobs(&args, &line);
        let result: serde_json::Value = serde_json::from_str(&out[0]).unwrap();
        assert_eq!(
            (out.len(), &result["status"], &result["attempts"]),
            (1, &status.into(), &attempts.into()),
            "{err:?}"
        );
        let autopsy = Command::new(env!("CARGO_BIN_EXE_shmworker")).args(["autopsy", &state]).output().unwrap();
        let told = String::from_utf8(autopsy.stdout).unwrap();
        let is_told = |line: &str| line.contains("ran exec ") && line.contains("attempt 1 until the end");
        assert!(told.lines().any(is_told), "{told}");
    }
}

fn results_that_can_not_be_written_wait_in_the_state() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let [state, ran, output] = ["state", "ran", "out"].map(path);
    let script = format!("echo $1 >> {ran}");
    let lines: String = (1..=3)
        .map(|i| {
            serde_json::json!({"task": "exec", "args": ["sh", "-c", script, "", i.to_string()]}).to_string() + "\n"
        })
        .collect();
    let (code, _, err) = run_jobs(&["--state", &state, "--output", "/dev/full"], &lines);
    assert_eq!(code, 1);
    assert!(err.last().unwrap().starts_with("error: cannot write to '/dev/full': No space left"), "{err:?}");
    let (code, out, err) = run_jobs(&["--state", &state, "--output", &output], &lines);
    assert_eq!((code, out), (0, vec![]), "{err:?}");
    let count = |path: &str| fs::read_to_string(path).unwrap().lines().count();
    assert_eq!((count(&output), count(&ran)), (3, 3), "each has one result, and ran once");
    // All is done: nothing happens.
    assert_eq!(run_jobs(&["--state", &state, "--output", &output], &lines).0, 0);
    assert_eq!((count(&output), count(&ran)), (3, 3));
}

fn an_output_keeps_what_the_joblog_tells_of() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let [state, log, output] = ["state", "state.joblog", "out"].map(path);
    let lines = |n: u32| (1..=n).map(|i| format!("{{\"task\":\"echo\",\"args\":{i}}}\n")).collect::<String>();
    let args = ["--state", &state, "--output", &output];
    assert_eq!(run_jobs(&args, &lines(2)).0, 0);
    let whole = fs::read_to_string(&output).unwrap();
    // What a death leaves: a result whose line in the joblog is cut short, and half of another.
    let logged = fs::read_to_string(&log).unwrap();
    fs::write(&log, format!("{logged}3\t:\t17")).unwrap();
    fs::write(&output, format!("{whole}{{\"task\":\"echo\"}}\n{{\"ta")).unwrap();
    let (code, _, err) = run_jobs(&args, &lines(3));
    assert_eq!(code, 0, "{err:?}");
    let now = fs::read_to_string(&output).unwrap();
    assert!(now.starts_with(&whole) && now.lines().count() == 3, "{now}");
    // One that is shorter is not that of the joblog.
    fs::write(&output, "x").unwrap();
    let (code, _, err) = run_jobs(&args, &lines(4));
    assert!(code == 1 && err[0].contains("has 1 bytes, of which there are"), "{err:?}");
    assert_eq!(fs::read_to_string(&output).unwrap(), "x");
    // Without a state too: `--resume` goes by the joblog.
    let args = ["--output", &output, "--joblog", &log];
    assert_eq!(run_jobs(&args, &lines(2)).0, 0);
    let whole = fs::read_to_string(&output).unwrap();
    assert_eq!(whole.lines().count(), 2);
    fs::write(&output, format!("{whole}half")).unwrap();
    assert_eq!(run_jobs(&[&args[..], &["--resume"]].concat(), &lines(3)).0, 0);
    assert_eq!(fs::read_to_string(&output).unwrap().lines().count(), 3);
}

fn another_input_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let args = ["--state", state.to_str().unwrap(), "--output", "/dev/full"];
    assert_eq!(run_jobs(&args, ECHO).0, 1);
    let args = &args[..2];
    let (code, out, err) = run_jobs(args, r#"{"task":"echo","args":2}"#);
    assert_eq!((code, out), (1, vec![]));
    assert!(err.last().unwrap().contains("job 1 is another than the one that"), "{err:?}");
    let (code, _, err) = run_jobs(args, "");
    assert!(code == 1 && err.last().unwrap().contains("1 jobs that"), "{err:?}");
    assert_eq!(run_jobs(args, ECHO).1.len(), 1);
}

/// What it has taken on and not begun when it is asked to end is for the next run.
fn a_run_that_was_asked_to_end_leaves_the_rest_to_the_next() {
    const LINES: usize = 40;
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let [state, output, begun, go] = ["state", "out", "begun", "go"].map(path);
    // With something on standard error, which has what was written before it flushed.
    let script = format!("touch {begun}; until [ -e {go} ]; do sleep 0.01; done; echo $0; echo said >&2");
    let command = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shmworker"));
        command.args(["jobs", "-j", "1", "--state", &state, "--output", &output, "--", "sh", "-c", &script, "{}"]);
        command.arg(":::").args((0..LINES).map(|i| i.to_string()));
        command
    };
    let mut program = Program::start(command());
    eventually("the first runs", || Path::new(&begun).exists().then_some(()));
    program.signal(Signal::SIGTERM);
    program.says("that it ends", 1, |line| line.contains("SIGTERM: nothing more is begun"));
    fs::write(&go, "").unwrap();
    assert!(!program.end().success());
    ends_well(command());
    let mut found: Vec<usize> = fs::read_to_string(&output)
        .unwrap()
        .lines()
        .map(|line| line.rsplit('\t').next().unwrap().parse().unwrap())
        .collect();
    found.sort_unstable();
    assert_eq!(found, (0..LINES).collect::<Vec<_>>());
}

fn one_pool_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let pool = pool(&state).unwrap();
    refuses(&state, &format!("belongs to a pool that is alive, made by process {}: end that", std::process::id()));
    assert!(matches!(crate::pool(&state), Err(StartError::State(_))));
    pool.join().unwrap();
    crate::pool(&state).unwrap().join().unwrap();
}

fn what_is_no_state_of_ours_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    pool(&path("good")).unwrap().join().unwrap();
    symlink(path("good"), path("link")).unwrap();
    refuses(&path("link"), "it is a symbolic link: name the file itself");
    refuses(dir.path(), "Is a directory");
    refuses(&path("none/state"), "No such file or directory");
    for (name, text, why) in [
        ("short", "hello", "not a segment: a file of 5 bytes"),
        ("text", &"hello ".repeat(1000), "not a segment: it begins with"),
    ] {
        fs::write(path(name), text).unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).unwrap();
        refuses(&path(name), why);
        assert_eq!(fs::read_to_string(path(name)).unwrap(), text);
    }
    fs::set_permissions(path("good"), fs::Permissions::from_mode(0o620)).unwrap();
    refuses(&path("good"), "others may write to it (mode 620)");
    fs::set_permissions(path("good"), fs::Permissions::from_mode(0o600)).unwrap();
    if nix::unistd::geteuid().is_root() {
        chown(path("good"), Some(4711), None).unwrap();
        refuses(&path("good"), "it belongs to user 4711: use a file of your own");
        chown(path("good"), Some(0), None).unwrap();
    }
    write_at(&path("good"), 8, &5u64.to_ne_bytes());
    refuses(&path("good"), "a segment of layout version 5");
    // One whose maker died over it is begun anew.
    write_at(&path("good"), 0, b"shmw new");
    pool(&path("good")).unwrap().join().unwrap();
}

fn another_boot_is_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    pool(&state).unwrap().join().unwrap();
    write_at(&state, 56, &1u64.to_ne_bytes());
    // Its journal says what was in it: see tests/journal.rs.
    fs::remove_file(dir.path().join("state.journal")).unwrap();
    refuses(&state, "the machine was started anew since");
}

fn damage_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    pool(&state).unwrap().join().unwrap();
    // The first participant's word.
    write_at(&state, 4096, &[0xff; 8]);
    refuses(&state, "is damaged: ");
    OpenOptions::new().write(true).open(&state).unwrap().set_len(1 << 20).unwrap();
    refuses(&state, "a damaged segment: 1048576 bytes long");
}

fn a_full_or_read_only_file_system_is_an_error() {
    // A file system of its own, and what is done in it.
    let run = |script: &str| {
        let mounted = format!("mount -t tmpfs -o size=10m shmworker-test /mnt && cd /mnt && {script}");
        let command = ["--user", "--map-root-user", "--mount", "sh", "-c", &mounted, env!("CARGO_BIN_EXE_shmworker")];
        Command::new("unshare").args(command).output().unwrap()
    };
    let probe = run("true");
    if !probe.status.success() {
        return eprintln!("skipped: no user and mount namespace to be had here: {probe:?}");
    }
    let fails = |script: &str, why: &str| {
        let output = run(script);
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && err.contains(why), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let line = r#"{"task":"echo","args":1}"#;
    let command = "\"$0\" jobs -j 1 --state s";
    let full = format!("head -c 9000000 /dev/zero > fill; echo '{line}' | {command}; code=$?; ls; exit $code");
    assert_eq!(
        fails(&full, "free: make room there, or enlarge it"),
        "fill\ns.joblog\n",
        "nothing is left of what can't be made"
    );
    let read_only = format!("echo '{line}' | {command} && mount -o remount,ro /mnt && echo '{line}' | {command}");
    fails(&read_only, "Read-only file system");
    // In the arena: the job is refused that does not fit, and the others run.
    let large = format!(
        "(echo '{line}'; echo \"{{\\\"task\\\":\\\"echo\\\",\\\"args\\\":\\\"$(head -c 6000000 /dev/zero | tr '\\0' x)\\\"}}\"; echo '{line}') > /tmp/in.$$; \
         {command} --joblog /tmp/log.$$ /tmp/in.$$ | cut -c 1-200; rm /tmp/in.$$ /tmp/log.$$; exit 1"
    );
    // The joblog, which has the line, lies elsewhere.
    let out = fails(&large, "");
    let status = |line: &str| line.contains(r#""status":"done""#);
    assert_eq!(out.lines().map(status).collect::<Vec<_>>().iter().filter(|is_done| **is_done).count(), 2, "{out}");
    assert!(out.contains("the file system has") && out.lines().count() == 3, "{out}");
}

fn another_command_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let [state, output] = ["state", "out"].map(path);
    let jobs = |output: &str, command: &[&str]| {
        let mut jobs = Command::new(env!("CARGO_BIN_EXE_shmworker"));
        jobs.args(["jobs", "-j", "1", "--state", &state, "--output", output, "--"]).args(command);
        jobs.args([":::", "a", "b"]);
        let mut program = Program::start(jobs);
        (program.end().code().unwrap(), program.stderr())
    };
    let refuses = |why: &str| {
        let (code, err) = jobs(&output, &["printf", "%s\\n"]);
        assert!(code == 1 && err.last().unwrap().contains(why), "{err:?}");
    };
    assert_eq!(jobs("/dev/full", &["echo"]).0, 1);
    refuses("of another command");
    assert_eq!(jobs(&output, &["echo"]).0, 0);
    let whole = fs::read_to_string(&output).unwrap();
    assert_eq!(whole, "a\nb\n");
    // None is in the state any more.
    refuses("of another command");
    assert_eq!(fs::read_to_string(&output).unwrap(), whole);
    assert_eq!(jobs(&output, &["echo", "{}"]).0, 0, "it is the same");
}

/// A write beyond a limit fails then, and ends nobody.
fn ignore_xfsz() -> std::io::Result<()> {
    // SAFETY: to ignore a signal installs no handler.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }?;
    Ok(())
}

/// Files that this program alone writes become no longer.
fn limit_files(program: &Program, bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: numbers, a structure that is read, and null for one that nobody wants.
    let set = unsafe { libc::prlimit(program.pid(), libc::RLIMIT_FSIZE, &raw const limit, std::ptr::null_mut()) };
    assert_eq!(set, 0);
}

/// Of two jobs the first can't be written whole; and once there is room again, the second ends.
fn nothing_is_written_behind_a_torn_result() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let [output, begun, limited, asked, go] = ["out", "begun", "limited", "asked", "go"].map(path);
    let script = format!(
        "if [ $0 = small ]; then trap 'touch {asked}' TERM; touch {begun}; until [ -e {go} ]; do sleep 0.01; done; echo small; \
         else until [ -e {limited} ]; do sleep 0.01; done; head -c 1500 /dev/zero; fi"
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_shmworker"));
    command.args(["jobs", "-j", "2", "--output", &output, "--", "sh", "-c", &script, "{}", ":::", "large", "small"]);
    // SAFETY: one system call.
    unsafe { command.pre_exec(ignore_xfsz) };
    let mut program = Program::start(command);
    let is_there = |path: &str| Path::new(path).exists().then_some(());
    eventually("the second runs", || is_there(&begun));
    limit_files(&program, 1000);
    fs::write(&limited, "").unwrap();
    eventually("the first could not be written, and the second is asked to end", || is_there(&asked));
    limit_files(&program, libc::RLIM_INFINITY);
    fs::write(&go, "").unwrap();
    assert_eq!(program.end().code(), Some(1));
    assert!(program.stderr().iter().any(|line| line.contains("cannot write to")), "{:?}", program.stderr());
    assert_eq!(fs::read(&output).unwrap(), b"", "what was written of the first is cut off, and nothing follows it");
}

/// The joblog can't be written as the first of two jobs ends, and the second has more output than is held back.
fn what_could_not_be_logged_waits_in_the_state() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let [state, log, output, ran, limited] = ["state", "log", "out", "ran", "limited"].map(path);
    let script = format!(
        "echo $0 >> {ran}; \
         if [ $0 = small ]; then until [ -e {limited} ]; do sleep 0.01; done; echo small; \
         else until grep -q small {output}; do sleep 0.01; done; sleep 0.1; printf '%070000d\\n' 0; fi"
    );
    // Longer than the output will be, so that a limit of sizes is one for it alone.
    let header = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand";
    fs::write(&log, format!("{header}\n9\t:\t0\t0\t2\t2\t0\t0\t{}\n", "x".repeat(200_000))).unwrap();
    fs::write(&output, "9\n").unwrap();
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shmworker"));
        command.args(["jobs", "-j", "2", "--state", &state, "--joblog", &log, "--output", &output]);
        command.args(["--", "sh", "-c", &script, "{}", ":::", "small", "large"]);
        // SAFETY: one system call.
        unsafe { command.pre_exec(ignore_xfsz) };
        Program::start(command)
    };
    let count = |path: &str| fs::read_to_string(path).unwrap_or_default().lines().count();
    let mut program = start();
    eventually("both run", || (count(&ran) == 2).then_some(()));
    limit_files(&program, 150_000);
    fs::write(&limited, "").unwrap();
    assert_eq!(program.end().code(), Some(1));
    assert!(program.stderr().iter().any(|line| line.contains("cannot write the joblog")), "{:?}", program.stderr());
    let mut program = start();
    assert_eq!(program.end().code(), Some(0), "{:?}", program.stderr());
    assert_eq!((count(&output), count(&ran), count(&log)), (3, 2, 4), "each has one result, and ran once");
}

fn an_output_of_which_no_joblog_tells_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let [state, log, output] = ["state", "log", "out"].map(path);
    let lines = |n: u32| (1..=n).map(|i| format!("{{\"task\":\"echo\",\"args\":{i}}}\n")).collect::<String>();
    let first = ["--joblog", &log, "--output", &output];
    let resumed = [&first[..], &["--resume"]].concat();
    let with_state = [&first[..], &["--state", &state]].concat();
    assert_eq!(run_jobs(&first, &lines(2)).0, 0);
    let whole = fs::read_to_string(&output).unwrap();
    fs::remove_file(&log).unwrap();
    for args in [&resumed, &with_state, &resumed] {
        let (code, _, err) = run_jobs(args, &lines(3));
        assert!(code == 1 && err[0].contains("of which the joblog") && err[0].contains("move it away"), "{err:?}");
        assert_eq!(fs::read_to_string(&output).unwrap(), whole);
    }
    // One that tells of jobs that have written nothing, well or not.
    let header = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n";
    let failed_again = [&first[..], &["--resume-failed"]].concat();
    for (args, exit) in [(&resumed, 0), (&with_state, 0), (&failed_again, 1)] {
        fs::write(&log, format!("{header}1\t:\t0\t0\t0\t0\t{exit}\t0\ttrue\n")).unwrap();
        let (code, _, err) = run_jobs(args, &lines(3));
        assert!(code == 1 && err[0].contains("of which the joblog") && err[0].contains("move it away"), "{err:?}");
        assert_eq!(fs::read_to_string(&output).unwrap(), whole);
    }
    // Of one that was killed before its first line.
    fs::write(&log, header).unwrap();
    fs::write(&output, "half").unwrap();
    assert_eq!(run_jobs(&resumed, &lines(2)).0, 0);
    assert_eq!(fs::read_to_string(&output).unwrap().lines().count(), 2);
    // Without either it is begun anew, as by a shell.
    assert_eq!(run_jobs(&first, &lines(3)).0, 0);
    assert_eq!(fs::read_to_string(&output).unwrap().lines().count(), 3);
}

fn results_on_standard_output_are_none_of_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let [log, output] = ["log", "out"].map(path);
    let lines = |n: u32| (1..=n).map(|i| format!("{{\"task\":\"echo\",\"args\":{i}}}\n")).collect::<String>();
    let resumed = ["--joblog", &log, "--resume"];
    let to_file = [&resumed[..], &["--output", &output]].concat();
    assert_eq!(run_jobs(&resumed, &lines(2)).1.len(), 2);
    // Something of somebody's, longer than what the joblog tells of.
    let other = "x\n".repeat(10_000);
    fs::write(&output, &other).unwrap();
    let (code, _, err) = run_jobs(&to_file, &lines(3));
    assert!(code == 1 && err[0].contains("move it away"), "{err:?}");
    assert_eq!(fs::read_to_string(&output).unwrap(), other);
    fs::remove_file(&output).unwrap();
    for (n, expected) in [(3, 1), (4, 2)] {
        let (code, _, err) = run_jobs(&to_file, &lines(n));
        assert_eq!((code, fs::read_to_string(&output).unwrap().lines().count()), (0, expected), "{err:?}");
    }
    // In turns.
    assert_eq!(run_jobs(&resumed, &lines(5)).1.len(), 1);
    fs::OpenOptions::new().append(true).open(&output).unwrap().write_all(b"half").unwrap();
    assert_eq!(run_jobs(&to_file, &lines(6)).0, 0);
    let text = fs::read_to_string(&output).unwrap();
    assert!(text.lines().count() == 3 && !text.contains("half"), "{text}");
}

/// The program alone is killed, and its worker is not done.
fn a_start_waits_for_those_who_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let [state, output, begun, go] = ["state", "out", "begun", "go"].map(path);
    let script = format!("touch {begun}; until [ -e {go} ]; do sleep 0.01; done; echo done");
    let command = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shmworker"));
        command.args(["jobs", "-j", "1", "--state", &state, "--output", &output, "--", "sh", "-c", &script]);
        command.args([":::", "a"]);
        command
    };
    let mut first = Program::start(command());
    eventually("it runs", || Path::new(&begun).exists().then_some(()));
    // Not SIGKILL, after which workers wait for another.
    first.signal(Signal::SIGQUIT);
    eventually("its end", || (!first.is_running()).then_some(()));
    let mut second = Program::start(command());
    second.says("that it waits", 1, |line| line.contains("to end, for 11 s at most"));
    fs::write(&go, "").unwrap();
    assert_eq!(second.end().code(), Some(0));
    assert_eq!(fs::read_to_string(&output).unwrap(), "done\n");
}

/// Everything of the pool is killed, and what its job has started goes on: until the next start.
fn what_jobs_leave_behind_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let [state, begun, apart] = ["state", "begun", "apart"].map(path);
    // What has a session of its own is let alone: somebody wanted that.
    let script = format!(
        "[ -e {begun} ] && exit; setsid sh -c 'echo $$ > {apart}; exec sleep 1000' & \
         until [ -s {apart} ]; do sleep 0.01; done; (touch {begun}; sleep 1000) | cat"
    );
    let command = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shmworker"));
        command.args(["jobs", "-j", "1", "--retries", "1", "--state", &state, "--", "sh", "-c", &script, ":::", "a"]);
        command
    };
    let first = Program::start(command());
    eventually("it runs", || Path::new(&begun).exists().then_some(()));
    let program = fs::read_link(format!("/proc/{}/exe", first.pid())).unwrap();
    eventually("all of the pool are dead", || {
        let mut ours = first.family();
        ours.retain(|process| fs::read_link(format!("/proc/{}/exe", process.pid)).is_ok_and(|exe| exe == program));
        for process in &ours {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        ours.is_empty().then_some(())
    });
    assert!(first.family().len() > 1, "nothing was left behind");
    ends_well(command());
    let left: Vec<i32> = first.family().iter().map(|process| process.pid).collect();
    assert_eq!(left, [fs::read_to_string(&apart).unwrap().trim().parse::<i32>().unwrap()]);
}

// ---- the library ----------------------------------------------------------------------------------------------------

fn pool(state: &Path) -> Result<Pool, StartError> {
    Pool::builder().workers(1).file(state).fork(tasks())
}

/// Does this in a process of its own, which ends then, and waits for that.
fn elsewhere(act: impl FnOnce()) {
    // SAFETY: this process has one thread but for those of pools.
    match unsafe { nix::unistd::fork() }.unwrap() {
        ForkResult::Child => {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
            // SAFETY: nothing of this process is needed any more.
            unsafe { libc::_exit(result.is_err().into()) }
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
        }
    }
}

/// Leaves what comes of it to the next process.
fn leave(submitted: Result<Handle<impl shmworker::pool::Wire>, PoolError>) {
    std::mem::forget(submitted.unwrap());
}

/// Submits the squares of these, and is killed when all are done; without its coordinator, or with that alone.
fn whoever_is_killed_alone_the_next_goes_on() {
    for is_coordinator in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let words = scene::words(2);
        // SAFETY: this process has one thread.
        match unsafe { nix::unistd::fork() }.unwrap() {
            ForkResult::Child => {
                let pool = pool(&state).unwrap();
                let handles: Vec<_> = (0..100).map(|x| pool.submit(SQUARE, &x).unwrap()).collect();
                words[0].store(pool.coordinator_pid().into(), SeqCst);
                words[1].store(1, SeqCst);
                // Each ends: with its result, or since there is no coordinator.
                if is_coordinator {
                    let last = handles.into_iter().map(|handle| handle.finish_with(|f| f.result)).find(Result::is_err);
                    std::mem::forget(pool);
                    // SAFETY: nothing of this process is needed any more.
                    unsafe { libc::_exit(i32::from(last.is_some())) }
                }
                std::thread::sleep(Duration::from_secs(1000));
            }
            ForkResult::Parent { child } => {
                scene::at_least(&words[1], 1);
                let coordinator = Pid::from_raw(words[0].load(SeqCst) as i32);
                kill(if is_coordinator { coordinator } else { child }, Signal::SIGKILL).unwrap();
                waitpid(child, None).unwrap();
            }
        }
        let pool = once_it_is_free(|| pool(&state));
        let found = pool.adopted();
        assert!(is_coordinator || found.len() == 100, "{}", found.len());
        for found in found {
            let x = u64_of(&found);
            match found.into_handle(SQUARE).unwrap().wait() {
                Ok(square) => assert_eq!(square, x * x),
                // It ran when the worker was killed with its coordinator.
                Err(e) => assert!(is_coordinator && matches!(e, TaskError::Died(_)), "{e}"),
            }
        }
        pool.join().unwrap();
    }
}

/// The input of a task that takes a number.
fn u64_of(found: &Adopted) -> u64 {
    postcard(&found.input().unwrap())
}

/// A number, as postcard writes it: seven bits a byte, the lowest first.
fn postcard(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, byte| n << 7 | u64::from(byte & 0x7f))
}

fn what_nobody_asks_for_is_there_again() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    elsewhere(|| {
        let pool = pool(&state).unwrap();
        leave(pool.submit(SQUARE, &7));
        pool.join().unwrap();
    });
    for _ in 0..3 {
        // It isn't asked for.
        pool(&state).unwrap().join().unwrap();
    }
    let last = pool(&state).unwrap();
    let found = last.adopted().pop().unwrap();
    assert_eq!((found.name(), found.key(), u64_of(&found), found.is_json()), ("square", None, 7, false));
    assert!(last.adopted().is_empty(), "each is given out once");
    let found = found.into_handle(Task::<u64, u64>::named("cube")).unwrap_err();
    assert_eq!(found.into_handle(SQUARE).unwrap().wait(), Ok(49));
    last.join().unwrap();
    assert!(pool(&state).unwrap().adopted().is_empty());
}

fn each_client_has_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let of = |client: &str| Pool::builder().workers(1).file(dir.path().join("state")).client(client).fork(tasks());
    for (client, x) in [("a", 2), ("b", 3)] {
        elsewhere(|| {
            let pool = of(client).unwrap();
            leave(pool.submit(SQUARE, &x));
            pool.join().unwrap();
        });
    }
    for (client, square) in [("a", 4), ("c", 0), ("b", 9)] {
        let pool = of(client).unwrap();
        let found: Vec<u64> =
            pool.adopted().into_iter().map(|f| f.into_handle(SQUARE).unwrap().wait().unwrap()).collect();
        assert_eq!(found.iter().sum::<u64>(), square);
        pool.join().unwrap();
    }
    for wrong in ["", "a\0b", &"x".repeat(33)] {
        assert!(of(wrong).unwrap_err().to_string().starts_with("invalid client name"));
    }
}

fn a_key_finds_what_was_done() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let key = |key: &str| TaskOptions::new().key(key);
    elsewhere(|| {
        let pool = pool(&state).unwrap();
        leave(pool.submit_with(SQUARE, &7, &key("seven")));
        for wrong in ["", "a\0b", &"x".repeat(129)] {
            assert!(matches!(pool.submit_with(SQUARE, &7, &key(wrong)), Err(PoolError::Key(_))));
        }
        pool.join().unwrap();
    });
    let second = pool(&state).unwrap();
    // Had it not been found, the result were another.
    assert_eq!(second.submit_with(SQUARE, &1, &key("seven")).unwrap().wait(), Ok(49));
    assert!(second.adopted().is_empty());
    assert_eq!(second.submit_with(SQUARE, &1, &key("seven")).unwrap().wait(), Ok(1), "it was let go");
    second.join().unwrap();
}

fn more_than_fits_is_refused_and_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let pool = pool(&dir.path().join("state")).unwrap();
    let mut handles = VecDeque::new();
    let mut refused = 0;
    for x in 0..6000 {
        let handle = loop {
            match pool.submit(SQUARE, &x) {
                Err(PoolError::Submit(e)) if e.is_transient() => {
                    refused += 1;
                    let (x, first): (u64, Handle<u64>) = handles.pop_front().unwrap();
                    assert_eq!(first.wait(), Ok(x * x));
                }
                handle => break handle.unwrap(),
            }
        };
        handles.push_back((x, handle));
    }
    assert!(refused > 1000, "{refused}: results take room until they are taken");
    for (x, handle) in handles {
        assert_eq!(handle.wait(), Ok(x * x));
    }
    pool.join().unwrap();
}

fn what_a_pool_is_to_be_like_must_fit() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let builder = || Pool::builder().workers(1).file(&state);
    elsewhere(|| {
        let pool = builder().fork(tasks()).unwrap();
        leave(pool.submit(SQUARE, &7));
        pool.join().unwrap();
    });
    let refused = |builder: Builder| builder.fork(tasks()).unwrap_err().to_string();
    let name = state.display();
    let said = refused(builder().queues(["a", "b"]));
    assert_eq!(
        said,
        format!(
            "'{name}' has the queues default, not a, b: give the pool the same, in the same order, or name another file"
        )
    );
    let said = refused(builder().workers(1000));
    assert_eq!(said, format!("'{name}' has room for 30 workers, not for 1000: start fewer, or name another file"));
    // What is done needs no task; what waits does.
    let pool = builder().workers(30).fork(Tasks::new()).unwrap();
    assert_eq!(pool.adopted().pop().unwrap().into_bytes().wait(), Ok(vec![49]));
    pool.join().unwrap();
    let mut others = Tasks::new();
    let wait = others.function("wait", |forever: bool| {
        if forever {
            loop {
                std::thread::park();
            }
        }
    });
    elsewhere(|| {
        let pool = builder().fork(others).unwrap();
        (0..2).for_each(|_| leave(pool.submit_with(wait, &true, &TaskOptions::new().attempts(9))));
        std::mem::forget(pool);
    });
    let said = eventually("nobody has the file", || Some(refused(builder())).filter(|said| !said.contains("is alive")));
    let program = "which this program does not have: start it with the program that has them, or name another file";
    assert!(said == format!("2 tasks wait in '{name}' for 'wait', {program}"), "{said}");
}

/// The number that a task gives once it is told to by the second word; the first counts how often it was begun.
const WAIT: Task<(), u64> = Task::named("wait");

fn waiting(words: &'static [AtomicU64], state: &Path, client: &str) -> Pool {
    let pool = || {
        let mut tasks = Tasks::new();
        tasks.function("wait", |(): ()| {
            words[0].fetch_add(1, SeqCst);
            scene::at_least(&words[1], 1);
            7_u64
        });
        Pool::builder().workers(1).file(state).client(client).grace(Duration::from_millis(10)).fork(tasks)
    };
    once_it_is_free(pool)
}

/// Those who had the file before end by themselves, and with the last of them the lock.
fn once_it_is_free(mut pool: impl FnMut() -> Result<Pool, StartError>) -> Pool {
    eventually("nobody has the file", || match pool() {
        Err(StartError::State(StateError::Create(SegmentCreateError::InUse { .. }))) => None,
        pool => Some(pool.unwrap()),
    })
}

/// As many kills at the end of the grace as deaths make a task poison.
fn a_task_that_outlasts_the_grace_is_nobodys_death() {
    let dir = tempfile::tempdir().unwrap();
    let (state, words) = (dir.path().join("state"), scene::words(2));
    for life in 1..=3 {
        elsewhere(|| {
            let pool = waiting(words, &state, "main");
            if life == 1 {
                leave(pool.submit_with(WAIT, &(), &TaskOptions::new().attempts(9)));
            }
            scene::at_least(&words[0], life);
            std::mem::forget(pool); // dies over it
        });
    }
    let pool = waiting(words, &state, "main");
    // Not before those are dead who ran it.
    words[1].store(1, SeqCst);
    let finished = pool.adopted().pop().unwrap().into_handle(WAIT).unwrap().finish();
    assert_eq!((finished.result, finished.attempts, words[0].load(SeqCst)), (Ok(7), 4, 4));
    pool.join().unwrap();
}

fn a_shutdown_cancels_nothing_of_who_is_absent() {
    let dir = tempfile::tempdir().unwrap();
    let (state, words) = (dir.path().join("state"), scene::words(2));
    let options = TaskOptions::new().attempts(9);
    elsewhere(|| {
        let pool = waiting(words, &state, "a");
        (0..3).for_each(|_| leave(pool.submit_with(WAIT, &(), &options)));
        scene::at_least(&words[0], 1);
        std::mem::forget(pool);
    });
    elsewhere(|| {
        let pool = waiting(words, &state, "b");
        scene::at_least(&words[0], 2);
        let own = pool.submit_with(WAIT, &(), &options).unwrap();
        let left = pool.shutdown(Duration::from_millis(10)).unwrap();
        assert_eq!((left.cancelled, left.killed), (1, 1));
        assert_eq!(own.wait(), Err(TaskError::Cancelled));
    });
    words[1].store(1, SeqCst);
    let pool = waiting(words, &state, "a");
    let found: Vec<_> = pool.adopted().into_iter().map(|found| found.into_handle(WAIT).unwrap().wait()).collect();
    assert_eq!(found, [Ok(7), Ok(7), Ok(7)]);
    pool.join().unwrap();
}

fn names_of_which_nothing_is_left_take_no_place() {
    let dir = tempfile::tempdir().unwrap();
    let of = |client: &str| {
        Pool::builder().workers(1).max_workers(30).file(dir.path().join("state")).client(client).fork(tasks())
    };
    // 64 places: the coordinator's, 30 workers', and that of the client itself.
    let keeps = |i: u64| {
        elsewhere(|| {
            let pool = of(&format!("keeps-{i}")).unwrap();
            leave(pool.submit(SQUARE, &i));
            pool.join().unwrap();
        });
    };
    (0..33).for_each(keeps);
    let said = of("one-more").unwrap_err().to_string();
    assert!(said.contains("has no room for the client 'one-more': 33 others have tasks in it, "), "{said}");
    assert!(said.contains("keeps-0") && said.contains("have one of them take its results"), "{said}");
    let pool = of("keeps-7").unwrap();
    assert_eq!(pool.adopted().pop().unwrap().into_handle(SQUARE).unwrap().wait(), Ok(49));
    pool.join().unwrap();
    of("one-more").unwrap().join().unwrap();
}

/// Not as long as there is room: see `what_nobody_asks_for_is_there_again`.
fn results_that_nobody_asks_for_make_room() {
    const N: u64 = 2500;
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let key = TaskOptions::new().key("kept");
    elsewhere(|| {
        let pool = pool(&state).unwrap();
        leave(pool.submit_with(SQUARE, &7, &key));
        (0..N).for_each(|x| leave(pool.submit(SQUARE, &x)));
        pool.join().unwrap();
    });
    // All of these at once have no room beside those.
    let pool = pool(&state).unwrap();
    let handles: Vec<_> = (0..N).map(|x| pool.submit(SQUARE, &x).unwrap()).collect();
    assert_eq!(pool.submit_with(SQUARE, &1, &key).unwrap().wait(), Ok(49), "a key may be asked for at any time");
    let found = pool.adopted().len() as u64;
    assert!((1..N).contains(&found), "{found}");
    for (x, handle) in (0..).zip(handles) {
        assert_eq!(handle.wait(), Ok(x * x));
    }
    pool.join().unwrap();
}

fn write_at(path: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

// ---- deaths ---------------------------------------------------------------------------------------------------------

#[track_caller]
fn ends_well(command: Command) {
    let mut program = Program::start(command);
    let status = program.end();
    assert!(status.success(), "{status}");
}

/// Starts programs one after another, and kills each with all that descends from it: one at any moment of the time that `trial` takes,
/// the next, which finds what that one has left, at any moment until it has recovered that.
///
/// Returns what they had said on standard error by then.
fn kill_at_random(trial: Command, mut command: impl FnMut() -> Command) -> Vec<String> {
    let kills = std::env::var("SHMWORKER_STATE_KILLS").map_or(25, |n| n.parse::<u32>().unwrap());
    alarm::set(120 + 8 * kills);
    let began = Instant::now();
    ends_well(trial);
    let longest = began.elapsed().as_micros() as u64;
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("seed {seed}, {kills} kills within {longest} us");
    let (mut random, mut said) = (Random(seed), Vec::new());
    let mut strike = |command: Command, longest: u64, random: &mut Random| {
        let program = Program::start(command);
        let (began, life) = (Instant::now(), Duration::from_micros(random.below(longest)));
        while began.elapsed() < life {
            std::hint::spin_loop();
        }
        kill_all(&program, random);
        said.extend(program.stderr());
    };
    strike(command(), longest, &mut random);
    // Until one that dies at that step has recovered what that one has left.
    let mut dying = command();
    dying.env("SHMWORKER_DIES_AT", "journaled");
    let began = Instant::now();
    let mut program = Program::start(dying);
    eventually("its end", || (!program.is_running()).then_some(()));
    let recovery = began.elapsed().as_micros() as u64;
    kill_all(&program, &mut random);
    println!("as many within the {recovery} us of a recovery");
    for _ in 0..kills {
        strike(command(), longest, &mut random);
        strike(command(), recovery, &mut random);
    }
    said
}

/// By and by, in any order: who is left may go on for a moment.
fn kill_all(program: &Program, random: &mut Random) {
    eventually("all are dead", || {
        let mut family = program.family();
        while !family.is_empty() {
            let one = family.swap_remove(random.below(family.len() as u64) as usize);
            let _ = kill(Pid::from_raw(one.pid), Signal::SIGKILL);
        }
        program.family().is_empty().then_some(())
    });
}

/// Xorshift (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        for (left, by) in [(true, 13), (false, 7), (true, 17)] {
            self.0 ^= if left { self.0 << by } else { self.0 >> by };
        }
        self.0 % n
    }
}
