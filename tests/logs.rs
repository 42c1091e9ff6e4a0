//! Logs: whose they are, as text and as JSON.

#[path = "common/scene.rs"]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod scene;

use serde_json::Value;
use shmworker::{
    Pool, Tasks,
    pool::{Task, TaskOptions},
};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output, Stdio},
};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let [_, work, pool, file] = &args[..]
        && work == "work"
    {
        let worked = shmworker::pool::work_for(pool, 1, telling(file));
        return worked.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    scene::run(scenes![
        what_a_handler_logs_says_of_whom_it_is,
        an_attached_worker_is_named_so,
        jobs_log_objects,
        without_the_flag_jobs_log_what_they_did,
        an_error_is_an_object_too,
    ])
}

/// In a program with logs of its own.
fn what_a_handler_logs_says_of_whom_it_is() {
    let file = tempfile::NamedTempFile::new().unwrap();
    // Workers inherit no descriptor.
    let path = file.path().to_owned();
    let writer = move || File::options().append(true).open(&path).unwrap();
    tracing_subscriber::fmt().json().with_writer(writer).init();
    let mut tasks = Tasks::new();
    let refuse = tasks.handler("refuse", |context, x: u64| {
        tracing::info!(x, "seen");
        if context.attempt() < 2 { Err(shmworker::pool::Failure::new("no")) } else { Ok(x) }
    });
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    let twice = TaskOptions::new().attempts(2);
    assert_eq!(pool.submit_with(refuse, &7, &twice).unwrap().wait(), Ok(7));
    pool.join().unwrap();
    tracing::info!("outside");
    let text = fs::read_to_string(file.path()).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen: Vec<_> = lines.iter().filter(|line| line["fields"]["message"] == "seen").collect();
    assert_eq!(seen.len(), 2, "{text}");
    for (line, attempt) in seen.into_iter().zip(1..) {
        let span = &line["span"];
        assert_eq!((&span["worker"], &span["task"]), (&"worker:0".into(), &"refuse".into()), "{text}");
        assert_eq!((&span["attempt"], &line["fields"]["x"]), (&attempt.into(), &7.into()), "{text}");
    }
    assert!(lines.last().unwrap()["span"].is_null(), "{text}");
}

/// Logs to this file. Its task ends once it has run twice.
fn telling(file: &str) -> Tasks {
    let path = PathBuf::from(file);
    let file = path.clone();
    let writer = move || File::options().append(true).open(&file).unwrap();
    tracing_subscriber::fmt().json().with_writer(writer).init();
    let mut tasks = Tasks::new();
    tasks.function("meet", move |()| {
        tracing::info!("seen");
        scene::until(|| lines_seen(&path).len() == 2);
    });
    tasks
}

fn lines_seen(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    // The last may be half written.
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["fields"]["message"] == "seen").collect()
}

fn an_attached_worker_is_named_so() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let (path, name) = (file.path().to_str().unwrap(), format!("test-logs-{}", std::process::id()));
    let pool = Pool::builder().name(&name).workers(1).fork(telling(path)).unwrap();
    let mut other = Command::new(std::env::current_exe().unwrap()).args(["work", &name, path]).spawn().unwrap();
    // Each has one slot.
    let meet = || pool.submit(Task::<(), ()>::named("meet"), &()).unwrap();
    for task in [meet(), meet()] {
        assert_eq!(task.wait(), Ok(()));
    }
    pool.join().unwrap();
    assert!(other.wait().unwrap().success());
    let mut workers: Vec<_> = lines_seen(file.path()).iter().map(|line| line["span"]["worker"].clone()).collect();
    workers.sort_by_key(Value::to_string);
    assert_eq!(workers, ["attached", "worker:0"]);
}

fn jobs(args: &[&str], input: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("input");
    fs::write(&file, input).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_shmworker"));
    command.arg("jobs").args(args).env_remove("RUST_LOG").stdin(Stdio::from(File::open(file).unwrap()));
    command.output().unwrap()
}

/// Kills its worker.
const KILL: &str = r#"{"task":"exec","args":["sh","-c","kill -9 $PPID"]}"#;

fn jobs_log_objects() {
    let output = jobs(&["-j", "1", "--log-format", "json"], &format!("{KILL}\nno job\n"));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |part: &str| {
        let is_it = |line: &&Value| line["message"].as_str().unwrap().contains(part);
        lines.iter().find(is_it).unwrap_or_else(|| panic!("no '{part}' in {text}"))
    };
    let died = of("ended with signal 9 (SIGKILL)");
    assert_eq!((&died["level"], &died["worker"]), (&"WARN".into(), &"worker:0".into()), "{died}");
    assert!(died["pid"].as_u64() > Some(1) && died["timestamp"].is_string(), "{died}");
    assert_eq!(of("standard input, line 2")["level"], "ERROR");
    let results = String::from_utf8(output.stdout).unwrap();
    assert!(
        results.lines().all(|line| serde_json::from_str::<Value>(line).is_ok_and(|line| line["status"].is_string()))
    );
}

fn without_the_flag_jobs_log_what_they_did() {
    let output = jobs(&["-j", "1"], &format!("{KILL}\nno job\n"));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("error: standard input, line 2: ") && text.lines().count() <= 2, "{text}");
    let output = jobs(&["-j", "1", "--log-format", "text"], &format!("{KILL}\n"));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains(" WARN shmworker::pool::start: worker:0 (pid "), "{text}");
}

fn an_error_is_an_object_too() {
    let output = jobs(&["--log-format", "json", "/nowhere/at/all"], "");
    assert_eq!(output.status.code(), Some(2));
    let line: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert!(line["message"].as_str().unwrap().starts_with("error: cannot read '/nowhere/at/all'"), "{line}");
    let output = jobs(&["--log-format", "xml"], "");
    let said = "error: invalid value 'xml' for '--log-format': it must be 'text' or 'json'\n";
    assert_eq!((&*String::from_utf8_lossy(&output.stderr), output.status.code()), (said, Some(2)));
}
