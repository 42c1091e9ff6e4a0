//! What a journal is for: a pool whose machine was started anew, state files that go elsewhere as lines, and what `shmworker recover`
//! says of them.

#![allow(dead_code, reason = "what tests share is used in parts")]

#[path = "common/eventually.rs"]
mod eventually;
#[path = "common/program.rs"]
mod program;
#[path = "common/scene.rs"]
mod scene;

use eventually::eventually;
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, alarm},
};
use program::Program;
use serde_json::Value;
use shmworker::{
    Pool, Tasks,
    pool::{SyncWhen, TaskOptions},
};
use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::Write,
    os::unix::{fs::FileExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output, Stdio},
};

const SHMWORKER: &str = env!("CARGO_BIN_EXE_shmworker");
/// What a process of its own does for a scene comes behind this.
const PROGRAM: &str = "--program";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let [_, flag, dir, state, n] = &args[..]
        && flag == PROGRAM
    {
        squares(Path::new(dir), state, n.parse().unwrap());
        return ExitCode::SUCCESS;
    }
    scene::run(scenes![
        after_another_boot_all_that_was_accepted_is_run,
        what_is_exported_is_run_where_it_is_imported,
        recover_says_what_the_next_start_does,
        a_journal_that_is_lost_is_made_again,
        jobs_of_another_boot_are_run_once_each,
        a_journal_of_another_state_is_refused,
        a_state_that_is_in_use_is_not_imported_into,
        a_full_disk_accepts_nothing_and_loses_nothing,
        what_version_6_has_written_is_gone_on_with,
        a_segment_of_another_version_is_refused_and_stays,
    ])
}

// ---- a program ------------------------------------------------------------------------------------------------------

/// Writes the squares below `n` into a file, each once, whatever has happened to this program before. Tasks begin once there is a
/// file 'gate'.
fn squares(dir: &Path, state: &str, n: u64) {
    let gate = dir.join("gate");
    let mut tasks = Tasks::new();
    let square = tasks.function("square", move |x: u64| {
        eventually("the gate is open", || gate.exists().then_some(()));
        x * x
    });
    let pool = Pool::builder().workers(2).file(dir.join(state)).sync(SyncWhen::EveryBatch).fork(tasks).unwrap();
    let out = dir.join("out");
    let done = squared(&out);
    let mut handles = Vec::new();
    let mut accepted = BTreeSet::new();
    for found in pool.adopted() {
        let x: u64 = found.key().unwrap().parse().unwrap();
        assert!(accepted.insert(x), "{x} was accepted twice");
        if !done.contains(&x) {
            handles.push((x, found.into_handle(square).unwrap()));
        }
    }
    println!("adopted {}", accepted.len());
    for x in (0..n).filter(|x| !accepted.contains(x) && !done.contains(x)) {
        let options = TaskOptions::new().attempts(255).key(x.to_string());
        handles.push((x, pool.submit_with(square, &x, &options).unwrap()));
    }
    println!("accepted");
    let mut out = OpenOptions::new().append(true).create(true).open(out).unwrap();
    for (x, handle) in handles {
        handle.finish_with(|finished| out.write_all(format!("{x} {}\n", finished.result.unwrap()).as_bytes()).unwrap());
    }
    pool.join().unwrap();
}

/// Whose squares are in this file, each once.
#[track_caller]
fn squared(path: &Path) -> Vec<u64> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut found: Vec<u64> = Vec::new();
    for line in text.lines() {
        let (x, square) = line.split_once(' ').unwrap();
        let x: u64 = x.parse().unwrap();
        assert_eq!(square, (x * x).to_string());
        found.push(x);
    }
    found.sort_unstable();
    assert!(found.is_sorted_by(|a, b| a < b), "twice: {found:?}");
    found
}

fn program(dir: &Path, state: &str, n: u64) -> Command {
    alarm::set(300);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(PROGRAM).arg(dir).arg(state).arg(n.to_string());
    command
}

/// Starts it, and kills it with all that descends from it once it has accepted all.
fn killed(dir: &Path, state: &str, n: u64) -> Vec<String> {
    let mut program = Program::start(program(dir, state, n));
    program.says("accepted", 1, |line| line == "accepted");
    kill_all(&program);
    program.stdout()
}

fn kill_all(program: &Program) {
    eventually("all are dead", || {
        let family = program.family();
        for one in &family {
            let _ = kill(Pid::from_raw(one.pid), Signal::SIGKILL); // it may be gone
        }
        family.is_empty().then_some(())
    });
}

/// Lets it come to its end.
fn ends(dir: &Path, state: &str, n: u64) -> Vec<String> {
    fs::write(dir.join("gate"), "").unwrap();
    let mut last = Program::start(program(dir, state, n));
    let status = last.end();
    assert!(status.success(), "{status}: {:?}", last.stderr());
    last.stdout()
}

/// The segment is as if it were of another run of the machine.
fn reboot(state: &Path) {
    const CREATOR: usize = 48;
    const BOOT: usize = 56;
    const CHECKSUM: usize = 192;
    const NAMES: std::ops::Range<usize> = 512..2560;
    let file = OpenOptions::new().read(true).write(true).open(state).unwrap();
    let mut bytes = vec![0; 4096];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes[BOOT] ^= 1;
    let mut identity = bytes[..CHECKSUM].to_vec();
    identity[CREATOR..CREATOR + 8].fill(0);
    identity.extend_from_slice(&bytes[NAMES]);
    let sum = u64::from(crc32fast::hash(&identity)).to_le_bytes();
    bytes[CHECKSUM..CHECKSUM + 8].copy_from_slice(&sum);
    file.write_all_at(&bytes, 0).unwrap();
    // And its pages have not all reached the disk.
    file.write_all_at(&[0; 1 << 16], 1 << 16).unwrap();
}

// ---- commands -------------------------------------------------------------------------------------------------------

fn shmworker(args: &[&str], state: &Path) -> Output {
    Command::new(SHMWORKER).args(args).arg(state).stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn says(output: &Output, code: i32, what: &[&str]) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    what.iter().for_each(|what| assert!(text.contains(what), "{what:?} is not in {text}"));
    text
}

fn import(state: &Path, lines: &[u8]) -> Output {
    let mut child = Command::new(SHMWORKER)
        .arg("import")
        .arg(state)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines).unwrap();
    child.wait_with_output().unwrap()
}

// ---- scenes ---------------------------------------------------------------------------------------------------------

fn after_another_boot_all_that_was_accepted_is_run() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let mut n = 0;
    for _ in 0..3 {
        n += 40;
        killed(dir.path(), "state", n);
        reboot(&state);
    }
    // What is done is not begun again.
    assert_eq!(ends(dir.path(), "state", n)[0], "adopted 120");
    assert_eq!(squared(&dir.path().join("out")), (0..n).collect::<Vec<_>>());
    reboot(&state);
    assert_eq!(ends(dir.path(), "state", n)[0], "adopted 0");
    assert_eq!(squared(&dir.path().join("out")), (0..n).collect::<Vec<_>>());
    assert!(dir.path().join("state.old").exists());
}

fn what_is_exported_is_run_where_it_is_imported() {
    let dir = tempfile::tempdir().unwrap();
    let (state, other) = (dir.path().join("state"), dir.path().join("other"));
    killed(dir.path(), "state", 10);
    let exported = shmworker(&["export"], &state);
    let text = says(&exported, 0, &[r#""key":"9","task":"square""#]);
    assert_eq!(text.lines().count(), 12, "{text}");
    let ran = text.lines().filter(|line| line.contains(r#""state":"running""#)).count();
    assert!((0..=2).contains(&ran), "{text}");
    says(&import(&other, text.as_bytes()), 0, &["imported 10 tasks; 0 more are done"]);
    says(&import(&other, text.as_bytes()), 0, &["imported 10 tasks, 10 of which were known; 0 more are done"]);
    assert_eq!(ends(dir.path(), "other", 10)[0], "adopted 10");
    assert_eq!(squared(&dir.path().join("out")), (0..10).collect::<Vec<_>>());
    // What is over is told of too, so that no number is given twice.
    says(&shmworker(&["export"], &other), 0, &[r#"{"type":"finished","client":"main","numbers":[[1,10]]}"#]);
    says(&import(&state, b"nothing\n"), 1, &["line 1 of 'standard input': "]);
    let missing = dir.path().join("nowhere");
    says(&shmworker(&["export"], &missing), 1, &["there is neither", "nowhere.journal"]);
}

fn recover_says_what_the_next_start_does() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let journal = dir.path().join("state.journal");
    killed(dir.path(), "state", 6);
    let report =
        ["this run of the machine", "client 'main'", "6 tasks accepted and not done", "goes on with the segment"];
    says(&shmworker(&["recover"], &state), 0, &report);
    says(&shmworker(&["inspect"], &state), 0, &[report[1], report[2], "segment and journals agree"]);
    let json = says(&shmworker(&["inspect", "--json"], &state), 0, &[r#""is_in_use":false"#, r#""contradictions":[]"#]);
    assert!(json.contains(r#""client":"main""#) && json.contains(r#""accepted":6,"done":0"#), "{json}");
    // One that has lost its last record.
    let records = fs::read(&journal).unwrap();
    OpenOptions::new().write(true).open(&journal).unwrap().set_len(records.len() as u64 - 1).unwrap();
    let lost = [
        "5 tasks accepted",
        "task 6 of client 'main', of which its journal knows nothing",
        "contradict each other in 1",
    ];
    says(&shmworker(&["inspect"], &state), 1, &lost);
    fs::write(&journal, &records).unwrap();
    // The first part of a record.
    let whole = fs::metadata(&journal).unwrap().len();
    OpenOptions::new().append(true).open(&journal).unwrap().write_all(&[9, 0, 0]).unwrap();
    let torn = format!("it ends at byte {whole}, where a record is cut short: 3 B are cut off");
    says(&shmworker(&["recover"], &state), 0, &[&torn]);
    says(&shmworker(&["recover", "--apply"], &state), 0, &["done: 3 bytes were cut off", "done"]);
    assert_eq!(fs::metadata(&journal).unwrap().len(), whole);

    reboot(&state);
    let report = ["another run of the machine", "makes a new segment from the journal", "6 are in the journal alone"];
    says(&shmworker(&["recover"], &state), 0, &report);
    assert!(state.exists(), "it only says so");
    says(&shmworker(&["recover", "--apply"], &state), 0, &["the segment is", "state.old"]);
    assert!(!state.exists());
    says(&shmworker(&["recover"], &state), 0, &["segment      none", "6 are in the journal alone"]);
    assert_eq!(ends(dir.path(), "state", 6)[0], "adopted 6");
    assert_eq!(squared(&dir.path().join("out")), (0..6).collect::<Vec<_>>());

    // A damaged segment is gone on with only from its journal, and only on demand.
    fs::remove_file(dir.path().join("gate")).unwrap();
    killed(dir.path(), "state", 9);
    let file = OpenOptions::new().write(true).open(&state).unwrap();
    file.write_all_at(&[0xf0], 4096 + 7).unwrap(); // the phase of the first participant
    drop(file);
    says(
        &shmworker(&["recover"], &state),
        1,
        &["violation    participant 0", "is refused", "3 are in the journal alone"],
    );
    says(&shmworker(&["recover", "--apply"], &state), 0, &["the segment is", "state.old"]);
    assert_eq!(ends(dir.path(), "state", 9)[0], "adopted 3");
    assert_eq!(squared(&dir.path().join("out")), (0..9).collect::<Vec<_>>());

    reboot(&state);
    fs::remove_file(&journal).unwrap();
    says(&shmworker(&["recover"], &state), 1, &["journal      none", "is refused", "no journal says what was in it"]);
    says(&shmworker(&["recover", "--apply"], &state), 1, &["no journal says what was in it"]);
}

/// Also where its maker dies over it.
fn a_journal_that_is_lost_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    killed(dir.path(), "state", 6);
    fs::remove_file(dir.path().join("state.journal")).unwrap();
    let mut dying = program(dir.path(), "state", 6);
    dying.env("SHMWORKER_DIES_AT", "numbered");
    let mut dying = Program::start(dying);
    eventually("its end", || (!dying.is_running()).then_some(()));
    kill_all(&dying);
    assert_eq!(dying.end().signal(), Some(Signal::SIGKILL as i32));
    assert_eq!(killed(dir.path(), "state", 6)[0], "adopted 6");
    says(&shmworker(&["recover"], &state), 0, &["6 tasks accepted and not done"]);
    reboot(&state);
    assert_eq!(ends(dir.path(), "state", 6)[0], "adopted 6");
    assert_eq!(squared(&dir.path().join("out")), (0..6).collect::<Vec<_>>());
}

fn jobs_of_another_boot_are_run_once_each() {
    const LINES: u64 = 500;
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let lines = |n: u64| {
        let lines = (0..n).map(|i| format!("{{\"task\":\"echo\",\"args\":{i},\"label\":\"{i}\"}}\n"));
        fs::write(path("in"), lines.collect::<String>()).unwrap();
    };
    let jobs = || {
        let mut command = Command::new(SHMWORKER);
        command.args(["jobs", "-j", "2", "--sync", "every-batch", "--state"]).arg(path("state"));
        command.arg("-o").arg(path("out")).arg(path("in"));
        command
    };
    lines(LINES);
    let program = Program::start(jobs());
    eventually("some are done", || fs::metadata(path("out")).is_ok_and(|out| out.len() > 0).then_some(()));
    kill_all(&program);
    let before = fs::read_to_string(path("out")).unwrap().lines().count();
    if before < LINES as usize {
        reboot(&path("state"));
    }
    let mut last = Program::start(jobs());
    let status = last.end();
    assert!(status.success(), "{status}: {:?}", last.stderr());
    let out = fs::read_to_string(path("out")).unwrap();
    let number =
        |line: &str| line.split_once(r#""label":""#).unwrap().1.split_once('"').unwrap().0.parse::<u64>().unwrap();
    let mut found: Vec<u64> = out.lines().map(number).collect();
    found.sort_unstable();
    assert_eq!(found, (0..LINES).collect::<Vec<_>>());
    says(&shmworker(&["jobs", "--sync", "never", "--state"], &path("state")), 2, &["'interval' or 'every-batch'"]);
}

fn a_journal_of_another_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    killed(dir.path(), "a", 2);
    killed(dir.path(), "b", 2);
    fs::copy(path("b.journal"), path("a.journal")).unwrap();
    let mut refused = Program::start(program(dir.path(), "a", 2));
    assert!(!refused.end().success());
    assert!(refused.stderr().iter().any(|line| line.contains("AnotherState")), "{:?}", refused.stderr());
    says(&shmworker(&["recover"], &path("a")), 1, &["violation    the journal", "is of another state", "is refused"]);
    says(&shmworker(&["recover", "--apply"], &path("a")), 1, &["is refused"]);
    assert!(path("a").exists());
    says(&import(&path("a"), b"{\"type\":\"state\",\"version\":1}\n"), 1, &["is of another state"]);
}

fn a_state_that_is_in_use_is_not_imported_into() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let mut program = Program::start(program(dir.path(), "state", 3));
    program.says("accepted", 1, |line| line == "accepted");
    let lines = says(&shmworker(&["export"], &state), 0, &["square"]);
    says(&import(&state, lines.as_bytes()), 1, &["belongs to a pool that is alive"]);
    says(&shmworker(&["recover", "--apply"], &state), 1, &["belongs to a pool that is alive"]);
    kill_all(&program);
}

fn a_full_disk_accepts_nothing_and_loses_nothing() {
    let lines: String = (1..=300)
        .map(|n| {
            format!("{{\"type\":\"task\",\"number\":{n},\"task\":\"echo\",\"input\":\"{}\"}}\n", "x".repeat(10_000))
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("lines");
    fs::write(&input, format!("{{\"type\":\"state\",\"version\":1}}\n{lines}")).unwrap();
    let script = r#"ulimit -f 1000; exec "$0" import "$1/state" "$1/lines""#;
    let limited = Command::new("sh").args(["-ec", script, SHMWORKER]).arg(dir.path()).output().unwrap();
    says(&limited, 1, &["would be longer than the limit on file sizes", "ulimit -f"]);
    says(&shmworker(&["recover"], &dir.path().join("state")), 0, &["tasks accepted and not done"]);
    let report = says(&import(&dir.path().join("state"), &fs::read(&input).unwrap()), 0, &["imported 300 tasks"]);
    assert!(!report.contains("of which were known") || !report.contains("300 of which"), "{report}");
    says(&shmworker(&["recover"], &dir.path().join("state")), 0, &["300 tasks accepted and not done"]);

    // On a file system of its own.
    let full = r#"mount -t tmpfs -o size=2m none "$2"; "$0" import "$2/state" "$1/lines" || "$0" recover "$2/state""#;
    let unshare = |script: &str, place: &PathBuf| {
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "--mount", "sh", "-ec", script, SHMWORKER])
            .arg(dir.path())
            .arg(place);
        command.output()
    };
    let place = dir.path().join("full");
    fs::create_dir(&place).unwrap();
    match unshare(r#"mount -t tmpfs -o size=2m none "$2""#, &place) {
        Ok(output) if output.status.success() => {
            let said =
                says(&unshare(full, &place).unwrap(), 0, &["cannot write to the journal", "No space left on device"]);
            assert!(!said.contains("it ends at byte"), "{said}");
        }
        refused => eprintln!("skipped: no user and mount namespace to be had here: {refused:?}"),
    }
}

// ---- what earlier versions have written -----------------------------------------------------------------------------

/// What this version has left of `jobs --state state --output results.jsonl jobs.jsonl` when all was killed: of 8 jobs 3 are done, 2
/// ran, 3 waited. The rest ends once there is a file 'gate'. `state.lines` is its export.
const WRITTEN: (u64, &str) = (6, concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/state-6.tar.gz"));

/// That, in a directory of its own; and the version of a segment that is made today.
fn written() -> (tempfile::TempDir, u64) {
    let dir = tempfile::tempdir().unwrap();
    assert!(Command::new("tar").arg("-xzf").arg(WRITTEN.1).arg("-C").arg(dir.path()).status().unwrap().success());
    let new = dir.path().join("new");
    says(&shmworker(&["probe", "--file"], &new), 0, &["made"]);
    let json: Value = serde_json::from_str(&says(&shmworker(&["inspect", "--json"], &new), 0, &[])).unwrap();
    (dir, json["segment"]["layout_version"].as_u64().unwrap())
}

fn jobs(dir: &Path, state: &str) -> Output {
    let mut command = Command::new(SHMWORKER);
    command.args(["jobs", "-j", "2", "--state", state, "--output", "results.jsonl", "jobs.jsonl"]).current_dir(dir);
    command.stdin(Stdio::null()).output().unwrap()
}

/// The tasks in these lines, but for how far they are.
fn accepted(lines: &str) -> Vec<Value> {
    let tasks = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let without = |mut task: Value| {
        task.as_object_mut().unwrap().retain(|field, _| field != "state" && field != "attempts");
        task
    };
    tasks.map(without).collect()
}

fn what_version_6_has_written_is_gone_on_with() {
    let (dir, known) = written();
    let state = dir.path().join("state");
    let version = WRITTEN.0;
    let lines = fs::read_to_string(dir.path().join("state.lines")).unwrap();
    let exported = says(&shmworker(&["export"], &state), 0, &[]);
    assert_eq!(accepted(&exported), accepted(&lines));
    if known == version {
        // Each word means what it meant.
        let sound = [
            &format!("version {version}"),
            "3 ready, 0 delayed",
            "no invariant is violated",
            "another run of the machine",
        ];
        says(&shmworker(&["inspect"], &state), 0, &sound);
    } else {
        let refused = format!("a segment of layout version {version}, where this program knows version {known}");
        says(&shmworker(&["recover"], &state), 1, &[&refused, "--apply"]);
        says(&jobs(dir.path(), "state"), 1, &["cannot go on with 'state'", &refused]);
        says(&shmworker(&["recover", "--apply"], &state), 0, &["the segment is", "state.old"]);
    }
    fs::write(dir.path().join("gate"), "").unwrap();
    says(&jobs(dir.path(), "state"), 0, &["'state': 5 jobs that were accepted are gone on with"]);
    let results = fs::read_to_string(dir.path().join("results.jsonl")).unwrap();
    let results: Vec<Value> = results.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(results.len() == 8 && results.iter().all(|result| result["status"] == "done"), "{results:?}");
    let said: BTreeSet<&str> = results.iter().filter_map(|result| result["result"]["stdout"].as_str()).collect();
    assert_eq!(said, ["4\n", "5\n", "6\n", "7\n", "8\n"].into());

    // None was begun beside those that were accepted.
    let left = says(&shmworker(&["export"], &state), 0, &[r#"{"type":"state","version":1}"#]);
    assert!(!left.contains(r#""type":"task""#), "{left}");

    // Its lines can be taken elsewhere.
    let other = dir.path().join("other");
    says(&import(&other, lines.as_bytes()), 0, &["imported 5 tasks; 3 more are done"]);
    says(&shmworker(&["recover"], &other), 0, &["5 tasks accepted and not done, 3 done", "5 are in the journal alone"]);
}

fn a_segment_of_another_version_is_refused_and_stays() {
    const VERSION: u64 = 8;
    let (dir, known) = written();
    let state = dir.path().join("state");
    let file = OpenOptions::new().read(true).write(true).open(&state).unwrap();
    file.write_all_at(&5u64.to_le_bytes(), VERSION).unwrap();
    let read = || {
        let mut head = vec![0; 1 << 20];
        file.read_exact_at(&mut head, 0).unwrap();
        (head, fs::read(dir.path().join("state.journal")).unwrap(), fs::read(dir.path().join("results.jsonl")).unwrap())
    };
    let before = read();
    let refused = format!(
        "a segment of layout version 5, where this program knows version {known}: use the program that made it"
    );
    says(&jobs(dir.path(), "state"), 1, &["error: cannot go on with 'state': ", &refused]);
    says(&shmworker(&["inspect"], &state), 1, &[&refused]);
    says(
        &shmworker(&["recover"], &state),
        1,
        &[&refused, "with --apply it is set aside, and its journal makes another"],
    );
    assert!(read() == before, "nothing is changed");
}
