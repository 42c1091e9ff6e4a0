//! `shmworker upgrade`: another program goes on with a pool, and neither its workers nor who waits for them notices.
//!
//! The worker program is a copy of this one. What stands behind its end says which version it is.

#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "common/scene.rs"]
mod scene;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use scene::until;
use serde_json::Value;
use shmworker::{Pool, Tasks, pool::Task};
use std::{
    collections::VecDeque,
    fs,
    io::{Read, Seek, SeekFrom, Write},
    ops::Range,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Output, Stdio},
    time::Duration,
};

const BEGIN: Task<u64, u64> = Task::named("begin");
const VERSION: Task<(), String> = Task::named("version");
const PROGRAM: &str = "--worker-program";
/// The worker program's file of notes: which task was begun, and when, by the nanosecond.
const NOTES: &str = "SHMWORKER_TEST_NOTES";
const TASKS: u64 = 100_000;

/// The last bytes of this program.
fn version() -> String {
    let mut file = fs::File::open("/proc/self/exe").unwrap();
    file.seek(SeekFrom::End(-4)).unwrap();
    let mut bytes = [0; 4];
    file.read_exact(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn now() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    Duration::from(now).as_nanos() as u64
}

fn tasks() -> Tasks {
    let mut tasks = Tasks::new();
    let notes = std::env::var_os(NOTES).map(|path| fs::OpenOptions::new().append(true).open(path).unwrap());
    tasks.handler("begin", move |_, n: u64| {
        if let Some(notes) = &notes {
            // Appended at once, or not at all.
            (&*notes).write_all([n, now()].map(u64::to_ne_bytes).as_flattened())?;
        }
        Ok(n)
    });
    let version = version();
    if version != "lack" {
        tasks.handler("version", move |_, ()| Ok(version.clone()));
    }
    tasks
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(PROGRAM) {
        if version() == "hang" {
            until(|| false);
        }
        return match shmworker::pool::work(tasks()) {
            Ok(code) => code.into(),
            Err(e) => {
                eprintln!("{e}");
                ExitCode::FAILURE
            }
        };
    }
    shmworker::init(tasks);
    scene::run(scenes![
        a_hundred_thousand_tasks_do_not_notice,
        fresh_workers_are_of_the_new_program,
        what_can_not_go_on_does_not_end_the_pool,
        a_pool_of_copies_is_not_upgraded,
        who_has_attached_stays,
        who_dies_afterwards_is_told_and_replaced,
    ])
}

fn name() -> String {
    format!("test-upgrade-{}", std::process::id())
}

fn shmworker(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shmworker")).args(args).output().unwrap()
}

fn inspect() -> Value {
    let output = shmworker(&["inspect", "--json", &name()]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Of those that live: label and process.
fn living() -> Vec<(String, i64)> {
    let json = inspect();
    let participants = json["participants"].as_array().unwrap().iter().filter(|p| p["state"] == "live");
    participants.map(|p| (p["label"].as_str().unwrap().to_owned(), p["pid"].as_i64().unwrap())).collect()
}

#[track_caller]
fn upgrade() {
    let output = shmworker(&["upgrade", &name()]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

/// It is refused with these words.
#[track_caller]
fn refused(words: &[&str]) {
    let output = shmworker(&["upgrade", &name()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let head = format!("error: pool '{}' is not upgraded: ", name());
    for part in words.iter().chain([&&head[..]]) {
        assert!(said.contains(part), "'{part}' is not in: {said}");
    }
    assert_eq!(said.lines().count(), 1, "{said}");
}

/// A worker program, which is replaced by another.
struct Program {
    dir: tempfile::TempDir,
}

impl Program {
    fn new() -> Program {
        let program = Program { dir: tempfile::tempdir().unwrap() };
        program.becomes(Some("one."));
        program
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("program")
    }

    /// `None`: something else altogether.
    fn becomes(&self, version: Option<&str>) {
        let new = self.dir.path().join("new");
        match version {
            None => fs::write(&new, "#!/bin/true\n").unwrap(),
            Some(version) => {
                let mut bytes = fs::read("/proc/self/exe").unwrap();
                bytes.extend(version.as_bytes());
                fs::write(&new, bytes).unwrap();
            }
        }
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&new, self.path()).unwrap();
    }

    fn pool(&self, workers: usize) -> Pool {
        let pool = Pool::builder().name(name()).workers(workers).start_timeout(Duration::from_secs(10));
        pool.program(self.path(), [PROGRAM]).exec().unwrap()
    }
}

fn version_of(pool: &Pool) -> String {
    pool.submit(VERSION, &()).unwrap().wait().unwrap()
}

/// Has these tasks run, of which up to 1000 wait at a time, and calls `meanwhile` after each 500.
fn run(pool: &Pool, tasks: Range<u64>, mut meanwhile: impl FnMut()) {
    let (mut waiting, end) = (VecDeque::new(), tasks.end);
    for n in tasks {
        waiting.push_back((n, pool.submit(BEGIN, &n).unwrap()));
        let is_last = n + 1 == end;
        if waiting.len() == 1000 || is_last {
            waiting.drain(..if is_last { waiting.len() } else { 500 }).for_each(|(n, handle)| {
                assert_eq!(handle.wait(), Ok(n));
            });
            meanwhile();
        }
    }
}

fn a_hundred_thousand_tasks_do_not_notice() {
    let dir = tempfile::tempdir().unwrap();
    let notes = dir.path().join("notes");
    fs::File::create(&notes).unwrap();
    // SAFETY: this process has one thread.
    unsafe { std::env::set_var(NOTES, &notes) };
    let pool = Pool::builder().name(name()).workers(2).exec().unwrap();
    let before = living();
    let mut upgrades = 0;
    let mut under_way: Option<Child> = None;
    run(&pool, 0..TASKS, || {
        if under_way.as_mut().is_none_or(|command| command.try_wait().unwrap().is_some()) {
            under_way.take().into_iter().for_each(done);
            let mut next = Command::new(env!("CARGO_BIN_EXE_shmworker"));
            next.args(["upgrade", &name()]).stdout(Stdio::null()).stderr(Stdio::piped());
            under_way = Some(next.spawn().unwrap());
            upgrades += 1;
        }
    });
    under_way.take().into_iter().for_each(done);
    run(&pool, TASKS..2 * TASKS, || {});
    assert_eq!(living(), before, "all processes are who they were");
    assert_eq!(inspect()["deaths"], serde_json::json!([]));
    pool.join().unwrap();

    let notes = fs::read(&notes).unwrap();
    let (words, rest) = notes.as_chunks();
    let words: Vec<u64> = words.iter().copied().map(u64::from_ne_bytes).collect();
    let mut notes: Vec<(u64, u64)> = words.as_chunks().0.iter().map(|&[n, at]| (n, at)).collect();
    notes.sort_unstable();
    let begun = notes.iter().map(|(n, _)| *n);
    assert!(rest.is_empty() && begun.eq(0..2 * TASKS), "one is lost or doubled");
    let [with, without] = [&notes[..TASKS as usize], &notes[TASKS as usize..]].map(|notes| {
        let mut times: Vec<u64> = notes.iter().map(|(_, at)| *at).collect();
        times.sort_unstable();
        Duration::from_nanos(times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap())
    });
    println!("{upgrades} upgrades; the longest gap between two of {TASKS} tasks: {with:?}, without any {without:?}");
}

/// An upgrade of the pool has gone well.
fn done(command: Child) {
    let output = command.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn fresh_workers_are_of_the_new_program() {
    let program = Program::new();
    let pool = program.pool(2);
    let before = living();
    assert_eq!(version_of(&pool), "one.");
    program.becomes(Some("two."));
    upgrade();
    assert_eq!(version_of(&pool), "one.", "those that run go on as they are");
    assert_eq!(living(), before);
    pool.restart_workers().unwrap();
    assert_eq!(version_of(&pool), "two.");
    let now = living();
    assert_eq!(now[..2], before[..2], "coordinator and program");
    assert!(now[2..].iter().all(|worker| !before.contains(worker)), "{now:?}, {before:?}");
    // Once more, and then it still does what it is asked to.
    program.becomes(Some("tri."));
    upgrade();
    assert_eq!(pool.resize(3).unwrap(), 2);
    until(|| (0..20).map(|_| pool.submit(VERSION, &()).unwrap()).any(|h| h.wait().unwrap() == "tri."));
    pool.join().unwrap();
}

fn what_can_not_go_on_does_not_end_the_pool() {
    let program = Program::new();
    let pool = Pool::builder().name(name()).workers(1).start_timeout(Duration::from_secs(5));
    let pool = pool.program(program.path(), [PROGRAM]).exec().unwrap();
    let before = living();
    program.becomes(Some("lack"));
    refused(&["does not register \"version\": () -> alloc::string::String, which this pool has"]);
    program.becomes(None);
    refused(&["the program that is to follow ended with exit code 0 before it said that it can"]);
    program.becomes(Some("hang"));
    refused(&["the program that is to follow has not said within 5s that it can"]);
    fs::remove_file(program.path()).unwrap();
    refused(&["cannot execute the program that is to follow", "No such file"]);
    assert_eq!((version_of(&pool), living()), ("one.".to_owned(), before));
    program.becomes(Some("two."));
    upgrade();
    pool.join().unwrap();
    let output = shmworker(&["upgrade", &name()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("no pool '"), "{said}");
}

fn a_pool_of_copies_is_not_upgraded() {
    let pool = Pool::builder().name(name()).workers(1).fork(tasks()).unwrap();
    refused(&["its coordinator is a copy of the program that has made it (Builder::fork)", "Builder::exec"]);
    assert_eq!(pool.submit(BEGIN, &7).unwrap().wait(), Ok(7));
    pool.join().unwrap();
}

fn who_has_attached_stays() {
    let pool = Pool::builder().name(name()).workers(1).forkserver().unwrap();
    let guest = Pool::attach(&name()).unwrap();
    assert_eq!(guest.submit(BEGIN, &1).unwrap().wait(), Ok(1));
    let before = living();
    upgrade();
    assert_eq!(guest.submit(BEGIN, &2).unwrap().wait(), Ok(2));
    assert_eq!(living(), before);
    // The door is where it was.
    let another = Pool::attach(&name()).unwrap();
    assert_eq!(another.submit(BEGIN, &3).unwrap().wait(), Ok(3));
    drop((guest, another));
    until(|| living().len() == before.len() - 1);
    pool.join().unwrap();
}

fn who_dies_afterwards_is_told_and_replaced() {
    let pool = Pool::builder().name(name()).workers(1).exec().unwrap();
    upgrade();
    let worker = living()[2].clone();
    kill(Pid::from_raw(worker.1 as i32), Signal::SIGKILL).unwrap();
    until(|| inspect()["deaths"].as_array().unwrap().len() == 1);
    let json = inspect();
    assert_eq!(
        (&json["deaths"][0]["pid"], &json["deaths"][0]["exit"]),
        (&worker.1.into(), &"signal 9 (SIGKILL)".into())
    );
    assert_eq!(pool.submit(BEGIN, &7).unwrap().wait(), Ok(7));
    let coordinator = Pid::from_raw(pool.coordinator_pid() as i32);
    kill(coordinator, Signal::SIGTERM).unwrap();
    until(|| !Path::new(&format!("/proc/{coordinator}")).exists());
}
