//! `shmworker jobs`, as a user meets it.

#[path = "common/compiler.rs"]
mod compiler;
#[path = "common/eventually.rs"]
mod eventually;
#[path = "common/terminal.rs"]
mod terminal;

use compiler::{compile_text, headers};
use eventually::eventually;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use shmworker::cli::exit;
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};
use terminal::Terminal;

/// A directory, and the command in it.
struct Scene {
    home: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        Scene { home: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn command<T: AsRef<OsStr>>(&self, args: &[T]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shmworker"));
        command.arg("jobs").args(args).current_dir(&self.home).env("HOME", self.home.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it with this input.
    fn run<T: AsRef<OsStr>>(&self, args: &[T], input: impl AsRef<[u8]>) -> Output {
        let input = fs::File::open(self.file("input", input)).unwrap();
        self.command(args).stdin(input).output().unwrap()
    }

    fn start<T: AsRef<OsStr>>(&self, args: &[T]) -> Running {
        Running { child: self.command(args).stdin(Stdio::piped()).spawn().unwrap() }
    }
}

/// One that runs, and is killed if the test ends before it.
struct Running {
    child: Child,
}

impl Running {
    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    fn end(&mut self) -> (Option<i32>, String, String) {
        drop(self.child.stdin.take());
        let (mut out, mut err) = (String::new(), String::new());
        self.child.stdout.take().map(|mut stdout| stdout.read_to_string(&mut out));
        self.child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut err));
        (self.child.wait().unwrap().code(), out, err)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn lines(output: &Output) -> Vec<&str> {
    text(&output.stdout).lines().collect()
}

fn json(output: &Output) -> Vec<Value> {
    lines(output).into_iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Results by their labels.
fn by_label(output: &Output) -> BTreeMap<String, Value> {
    json(output).into_iter().map(|result| (result["label"].as_str().unwrap().to_owned(), result)).collect()
}

#[track_caller]
fn ends(output: &Output, code: u8) {
    assert_eq!(output.status.code(), Some(code.into()), "{}", text(&output.stderr));
}

#[track_caller]
fn usage(args: &[&str], line: &str) {
    let output = Scene::new().run(args, "");
    assert_eq!(text(&output.stderr), format!("{line}\n"), "{args:?}");
    ends(&output, exit::USAGE);
    assert!(output.stdout.is_empty());
}

/// `{"task":"echo","args":N}` for each.
fn echoes(range: std::ops::Range<u64>) -> String {
    range.map(|n| format!("{{\"task\":\"echo\",\"args\":{n}}}\n")).collect()
}

fn is_gone(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('Z'))
}

#[test]
fn each_status_is_told() {
    let input = r#"
        {"label":"done","task":"echo","args":{"a":[1,"ä"]}}
        {"label":"failed","task":"exec","args":["sh","-c","echo out; echo why >&2; exit 3"]}
        {"label":"signal","task":"exec","args":["sh","-c","kill -15 $$"]}
        {"label":"none","task":"exec","args":["no-such-program"]}
        {"label":"arguments","task":"sleep","args":{}}
        {"label":"unknown","task":"ehco"}
        {"label":"died","task":"exec","args":["sh","-c","kill -9 $PPID"]}
        {"label":"late","task":"sleep","args":"1000s","timeout":"50ms"}
        {"label":"again","task":"exec","args":["false"],"retries":1}
        {"label":"sum","task":"sha256","args":"abc"}
    "#;
    let output = Scene::new().run(&["-j2"], input);
    ends(&output, exit::FAILURE);
    assert_eq!(text(&output.stderr), "8 of 10 jobs failed\n");
    let results = by_label(&output);
    let status: Vec<_> = results.iter().map(|(label, r)| (label.as_str(), r["status"].as_str().unwrap())).collect();
    assert_eq!(
        status,
        [
            ("again", "failed"),
            ("arguments", "failed"),
            ("died", "died"),
            ("done", "done"),
            ("failed", "failed"),
            ("late", "timed_out"),
            ("none", "failed"),
            ("signal", "failed"),
            ("sum", "done"),
            ("unknown", "failed"),
        ]
    );
    let of = |label: &str, field: &str| results[label][field].clone();
    assert_eq!(of("done", "result").to_string(), r#"{"a":[1,"ä"]}"#);
    assert_eq!(of("failed", "result").to_string(), r#"{"exit_code":3,"stderr":"why\n","stdout":"out\n"}"#);
    assert_eq!((of("failed", "exit_code"), of("signal", "signal")), (3.into(), 15.into()));
    assert_eq!((of("died", "signal"), of("died", "attempts")), (9.into(), 1.into()));
    assert_eq!(of("again", "attempts"), 2);
    assert_eq!(of("sum", "result"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert!(of("none", "error").as_str().unwrap().contains("\"no-such-program\""));
    assert!(of("unknown", "error").as_str().unwrap().contains("echo"), "it says which there are");
    assert!(of("late", "ran_us").as_u64().unwrap() >= 50_000);
    for field in ["worker", "pid", "waited_us", "ran_us", "attempts", "task"] {
        assert!(!of("done", field).is_null(), "{field}");
    }
}

#[test]
fn results_come_as_they_finish_or_in_order() {
    let scene = Scene::new();
    // The first ends only once the result of the second was seen.
    let slow = r#"{"task":"exec","label":"slow","args":["sh","-c","while [ ! -e go ]; do sleep 0.01; done"]}"#;
    let mut running = scene.start(&["-j2"]);
    let mut input = running.child.stdin.take().unwrap();
    write!(input, "{slow}\n{}", echoes(0..1)).unwrap();
    let mut output = BufReader::new(running.child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert!(line.contains("echo"), "{line}");
    scene.file("go", "");
    line.clear();
    output.read_line(&mut line).unwrap();
    assert!(line.contains("slow"), "{line}");
    drop(input);
    assert_eq!(running.end().0, Some(0));

    let input = r#"{"task":"sleep","args":0.05}"#.to_owned() + "\n" + &echoes(1..3000);
    let output = scene.run(&["-j2", "--ordered"], input);
    ends(&output, exit::OK);
    let results = json(&output);
    assert_eq!(results.len(), 3000);
    assert!((1..3000).all(|n| results[n as usize]["result"] == n), "{results:?}");
}

#[test]
fn lines_that_go_together_are_as_those_that_go_alone() {
    let scene = Scene::new();
    let dies = r#"{"task":"exec","args":["sh","-c","kill -9 $PPID"]}"#;
    let input = format!("{}{{\"task\":\"sleep\",\"args\":[]}}\n{dies}\n{}", echoes(0..1000), echoes(1002..10_000));
    let output = scene.run(&["-j2", "--chunk", "64", "-k", "--joblog", "log"], input);
    ends(&output, exit::FAILURE);
    let results = json(&output);
    assert_eq!(results.len(), 10_000);
    for (n, result) in results.iter().enumerate() {
        match n {
            1000 => assert_eq!(result["status"], "failed"),
            1001 => assert_eq!(result["status"], "died"),
            n => assert_eq!(result["result"], n),
        }
    }
    assert_eq!(scene.read("log").lines().count(), 10_001);
    // What comes slowly is not kept until a chunk is full.
    let mut running = scene.start(&["--chunk", "64"]);
    let mut input = running.child.stdin.take().unwrap();
    let mut output = BufReader::new(running.child.stdout.take().unwrap());
    for n in 0..3 {
        input.write_all(echoes(n..n + 1).as_bytes()).unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert!(line.contains(&format!("\"result\":{n},")), "{line}");
    }
    drop(input);
    assert_eq!(running.end().0, Some(0));
}

#[test]
fn a_malformed_line_is_told_and_the_rest_goes_on() {
    let scene = Scene::new();
    let input = format!("{}\n{{\"task\":\n{{\"task\":\"echo\",\"rtries\":1}}\n\n[]\n{}", echoes(0..1), echoes(1..2));
    let file = scene.file("jobs.jsonl", &input);
    let output = scene.run(&["jobs.jsonl"], "");
    ends(&output, exit::FAILURE);
    assert_eq!(json(&output).len(), 2);
    let errors: Vec<_> = text(&output.stderr).lines().collect();
    assert_eq!(errors.len(), 4, "{errors:?}");
    assert_eq!(errors[0], "error: jobs.jsonl, line 3: EOF while parsing a value at column 8");
    assert!(
        errors[1].starts_with("error: jobs.jsonl, line 4: unknown field `rtries`, expected one of `task`"),
        "{errors:?}"
    );
    assert!(errors[2].starts_with("error: jobs.jsonl, line 6: "), "{errors:?}");
    assert_eq!(errors[3], "0 of 2 jobs failed, 3 lines malformed");

    let output = scene.run(&["--strict", file.to_str().unwrap()], "");
    ends(&output, exit::FAILURE);
    let results: Vec<Value> = json(&output).iter().map(|result| result["result"].clone()).collect();
    assert_eq!(results, [0], "what stands before it, and nothing behind");
    assert_eq!(text(&output.stderr).lines().count(), 2, "{}", text(&output.stderr));
}

#[test]
fn a_line_that_is_longer_than_any_may_be_is_passed_over() {
    let long = format!("{{\"task\":\"echo\",\"args\":\"{}\"}}\n", "x".repeat(70 << 20));
    let output = Scene::new().run(&["-j1"], [echoes(0..1), long, echoes(1..3)].concat());
    ends(&output, exit::FAILURE);
    let results: BTreeSet<u64> = json(&output).iter().map(|result| result["result"].as_u64().unwrap()).collect();
    assert_eq!(results, BTreeSet::from([0, 1, 2]));
    assert!(text(&output.stderr).contains("line 2: it is longer than 64 MiB"), "{}", text(&output.stderr));
}

#[test]
fn it_stops_when_it_was_told_to() {
    let scene = Scene::new();
    let input = "false\n".repeat(5) + &"true\n".repeat(5000);
    let output = scene.run(&["-j2", "--halt", "soon,fail=2", "--joblog", "soon", "--", "sh", "-c", "{}"], &input);
    ends(&output, exit::FAILURE);
    assert!(text(&output.stderr).starts_with("halted: "), "{}", text(&output.stderr));
    let log = scene.read("soon");
    // One may run when the second fails, and is finished.
    assert!((3..=4).contains(&log.lines().count()), "{log}");

    // The sleeper is ended by the failure of the other, which waits until it runs.
    let input = "echo $$ > pid; exec sleep 1000\nwhile [ ! -s pid ]; do sleep 0.01; done; exit 4\n";
    let args = ["-j2", "--halt", "now,fail=1", "--json", "--joblog", "now", "--", "sh", "-c", "{}"];
    let output = scene.run(&args, input);
    ends(&output, exit::FAILURE);
    let status: BTreeSet<_> = json(&output).iter().map(|result| result["status"].to_string()).collect();
    assert_eq!(status, ["\"cancelled\"", "\"failed\""].map(str::to_owned).into());
    assert!(is_gone(scene.read("pid").trim().parse().unwrap()));
    assert_eq!(scene.read("now").lines().count(), 2, "the one that was ended is not done");

    // It has gone well, and what this has ended is no failure.
    let input = "echo $$ > other; exec sleep 1000\nwhile [ ! -s other ]; do sleep 0.01; done\n";
    let output = scene.run(&["-j2", "--halt", "now,success=1", "--", "sh", "-c", "{}"], input);
    ends(&output, exit::OK);
    assert_eq!(text(&output.stderr), "");
    assert!(is_gone(scene.read("other").trim().parse().unwrap()));

    // One by one, also of lines that would go together.
    let args = ["-j1", "--chunk", "64", "--halt", "soon,fail=1", "--joblog", "chunk", "--", "false"];
    ends(&scene.run(&args, "\n".repeat(200)), exit::FAILURE);
    assert_eq!(scene.read("chunk").lines().count(), 2);

    let output = scene.run(&["-j1", "--halt", "soon,fail=50%", "--", "false"], "1\n2\n3\n4\n");
    assert!(text(&output.stderr).contains("halted: 2 jobs have ended"), "{}", text(&output.stderr));
}

#[test]
fn the_joblog_is_gnu_parallels_and_what_it_has_is_not_done_again() {
    let scene = Scene::new();
    let args = ["-j2", "--joblog", "log", "--", "sh", "-c", "echo \"$1\" >> ran; exit $1", "sh"];
    ends(&scene.run(&args, "0\n3\n0\n"), exit::FAILURE);
    let log = scene.read("log");
    let mut rows: Vec<Vec<&str>> = log.lines().skip(1).map(|line| line.split('\t').collect()).collect();
    assert_eq!(log.lines().next(), Some("Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand"));
    rows.sort();
    for (row, (seq, exit)) in rows.iter().zip([("1", "0"), ("2", "3"), ("3", "0")]) {
        assert_eq!([row[0], row[1], row[4], row[5], row[6], row[7]], [seq, ":", "0", "0", exit, "0"], "{row:?}");
        assert_eq!(row[8], format!("sh -c 'echo \"$1\" >> ran; exit $1' sh {exit}"));
        let (seconds, millis) = row[2].split_once('.').unwrap();
        assert_eq!((seconds.len(), millis.len(), row[3].len()), (10, 3, 10), "{row:?}");
    }
    let resumed = |flag: &str| {
        let args = [&args[..3], &[flag], &args[3..]].concat();
        let before = scene.read("ran").lines().count();
        let output = scene.run(&args, "0\n3\n0\n0\n");
        (output.status.code(), scene.read("ran").lines().count() - before)
    };
    assert_eq!(resumed("--resume"), (Some(0), 1));
    assert_eq!(resumed("--resume"), (Some(0), 0));
    assert_eq!(resumed("--resume-failed"), (Some(1), 1));
    assert_eq!(scene.read("log").lines().count(), 6);
    // Without, it begins anew.
    ends(&scene.run(&args, "0\n"), exit::OK);
    assert_eq!(scene.read("log").lines().count(), 2);

    let other = scene.file("mine", "mine\n");
    let output = scene.run(&["--joblog", "mine"], "");
    ends(&output, exit::FAILURE);
    assert_eq!(text(&output.stderr), "error: 'mine' is there, and is no joblog: remove it, or name another file\n");
    assert_eq!(fs::read_to_string(other).unwrap(), "mine\n");
}

/// Jobs that begin by a file of their own, and end once there is `go`, or at once if their number is below `free`.
fn gated(scene: &Scene, free: u32, more: &[&str]) -> Vec<String> {
    let script = format!(
        "echo $PPID > worker; touch \"began.$1\"; while [ \"$1\" -ge {free} ] && [ ! -e go ]; do sleep 0.01; done; echo \"$1\""
    );
    scene.file("numbers", (0..50).map(|n| format!("{n}\n")).collect::<String>());
    let mut args: Vec<String> = ["-j2", "--joblog", "log"].map(str::to_owned).to_vec();
    args.extend(more.iter().copied().map(str::to_owned));
    args.extend(["numbers", "--", "sh", "-c", &script, "sh"].map(str::to_owned));
    args
}

fn began(scene: &Scene) -> usize {
    let names = fs::read_dir(scene.home.path()).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.as_bytes().starts_with(b"began.")).count()
}

/// The numbers in the joblog, of which each line is whole.
#[track_caller]
fn logged(scene: &Scene) -> BTreeSet<u32> {
    let log = scene.read("log");
    assert!(log.ends_with('\n'), "{log:?}");
    let rows: Vec<_> = log.lines().skip(1).map(|line| line.split('\t').collect::<Vec<_>>()).collect();
    assert!(rows.iter().all(|row| row.len() == 9), "{log}");
    let numbers: BTreeSet<_> = rows.iter().map(|row| row[0].parse::<u32>().unwrap() - 1).collect();
    assert_eq!(numbers.len(), rows.len(), "each once: {log}");
    numbers
}

fn numbers(output: &str) -> BTreeSet<u32> {
    output.lines().map(|line| line.parse().unwrap()).collect()
}

#[test]
fn after_a_signal_what_runs_is_finished_and_resume_does_the_rest() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let scene = Scene::new();
        let mut running = scene.start(&gated(&scene, 10, &[]));
        eventually("two wait", || (began(&scene) == 12).then_some(()));
        running.signal(signal);
        let mut errors = BufReader::new(running.child.stderr.take().unwrap());
        let mut line = String::new();
        errors.read_line(&mut line).unwrap();
        assert!(line.starts_with(signal.as_str()), "{line}");
        scene.file("go", "");
        let (ended, out, _) = running.end();
        assert_eq!(ended, Some(code));
        assert_eq!(began(&scene), 12, "nothing more was begun");
        assert_eq!(numbers(&out), (0..12).collect());
        assert_eq!(logged(&scene), (0..12).collect());
        line.clear();
        errors.read_line(&mut line).unwrap();
        let summary = format!("stopped by {signal}: 12 jobs have ended, 0 of them failed; --resume does the rest\n");
        assert_eq!(line, summary);

        let rest = scene.run(&gated(&scene, 10, &["--resume"]), "");
        ends(&rest, exit::OK);
        assert_eq!(numbers(text(&rest.stdout)), (12..50).collect());
        assert_eq!(logged(&scene), (0..50).collect());
    }
}

#[test]
fn a_signal_ends_the_wait_for_more_input() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let scene = Scene::new();
        let mut running = scene.start(&["-j1", "--joblog", "log"]);
        let mut input = running.child.stdin.take().unwrap();
        input.write_all(echoes(0..1).as_bytes()).unwrap();
        let mut output = BufReader::new(running.child.stdout.take().unwrap());
        output.read_line(&mut String::new()).unwrap();
        running.signal(signal);
        // Its input is open still.
        let (ended, _, errors) = running.end();
        assert_eq!(ended, Some(code), "{errors}");
        let summary = format!("stopped by {signal}: 1 jobs have ended, 0 of them failed; --resume does the rest");
        assert_eq!(errors.lines().last(), Some(&*summary));
        assert_eq!(logged(&scene), [0].into());
        drop(input);
    }
}

#[test]
fn a_second_signal_ends_what_runs() {
    let scene = Scene::new();
    let mut running = scene.start(&["-j1", "--", "sh", "-c", "echo $$ > pid; exec sleep 1000", "{}", ":::", "x"]);
    let pid: i32 = eventually("it runs", || scene.read("pid").trim().parse().ok());
    running.signal(Signal::SIGINT);
    let mut errors = BufReader::new(running.child.stderr.take().unwrap());
    errors.read_line(&mut String::new()).unwrap();
    running.signal(Signal::SIGTERM);
    assert_eq!(running.end().0, Some(143));
    eventually("its program is gone", || is_gone(pid).then_some(()));
}

#[test]
fn after_kill_9_resume_does_what_was_not_done() {
    let scene = Scene::new();
    let mut running = scene.start(&gated(&scene, 10, &[]));
    eventually("two wait, and the others are logged", || {
        (began(&scene) == 12 && scene.read("log").lines().count() == 11).then_some(())
    });
    running.signal(Signal::SIGKILL);
    let (_, out, _) = running.end();
    assert_eq!((numbers(&out), logged(&scene)), ((0..10).collect(), (0..10).collect()));
    scene.file("go", "");
    // As if the machine had gone in the middle of a line.
    fs::OpenOptions::new().append(true).open(scene.path("log")).unwrap().write_all(b"11\t:\t17").unwrap();
    let rest = scene.run(&gated(&scene, 10, &["--resume"]), "");
    ends(&rest, exit::OK);
    assert!(text(&rest.stderr).contains("cut short"), "{}", text(&rest.stderr));
    assert_eq!(numbers(text(&rest.stdout)), (10..50).collect());
    assert_eq!(logged(&scene), (0..50).collect());
}

/// The coordinator of whoever has this worker.
fn parent(pid: i32) -> Pid {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    Pid::from_raw(fields.split(' ').nth(1).unwrap().parse().unwrap())
}

#[test]
fn without_a_coordinator_nothing_is_said_of_the_jobs_that_are_left() {
    let scene = Scene::new();
    let mut running = scene.start(&gated(&scene, 10, &[]));
    eventually("two wait, and the others are logged", || {
        (began(&scene) == 12 && scene.read("log").lines().count() == 11).then_some(())
    });
    let worker = scene.read("worker").trim().parse().unwrap();
    kill(parent(worker), Signal::SIGKILL).unwrap();
    let (code, out, errors) = running.end();
    assert_eq!(code, Some(exit::FAILURE.into()), "{errors}");
    assert!(errors.ends_with("; --resume does the rest\n") && errors.lines().count() == 1, "{errors}");
    assert_eq!((numbers(&out), logged(&scene)), ((0..10).collect(), (0..10).collect()));
    scene.file("go", "");
    let rest = scene.run(&gated(&scene, 10, &["--resume"]), "");
    ends(&rest, exit::OK);
    assert_eq!(numbers(text(&rest.stdout)), (10..50).collect());
    assert_eq!(logged(&scene), (0..50).collect());

    // While it waits for input, so that it is the next jobs that can't be submitted.
    for chunk in ["1", "4"] {
        let mut running = scene.start(&["-j1", "--chunk", chunk, "--joblog", "log"]);
        let mut input = running.child.stdin.take().unwrap();
        input.write_all(echoes(0..1).as_bytes()).unwrap();
        let mut output = BufReader::new(running.child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let result: Value = serde_json::from_str(&line).unwrap();
        let coordinator = parent(result["pid"].as_i64().unwrap() as i32);
        kill(coordinator, Signal::SIGKILL).unwrap();
        eventually("the coordinator is gone", || is_gone(coordinator.as_raw()).then_some(()));
        input.write_all(echoes(1..100).as_bytes()).unwrap();
        drop(input);
        line.clear();
        output.read_to_string(&mut line).unwrap();
        let (code, _, errors) = running.end();
        assert_eq!((code, &*line), (Some(exit::FAILURE.into()), ""), "{errors}");
        assert_eq!(logged(&scene), [0].into(), "--chunk {chunk}");
    }
}

#[test]
fn what_was_not_written_is_not_logged() {
    let scene = Scene::new();
    let mut running = scene.start(&["--joblog", "log", "-j1"]);
    drop(running.child.stdout.take());
    running.child.stdin.take().unwrap().write_all(echoes(0..10).as_bytes()).unwrap();
    assert_eq!(running.end(), (Some(0), String::new(), String::new()));
    assert_eq!(scene.read("log").lines().count(), 1);
    // Who writes to standard error too: what it has written is flushed before that.
    let script = "echo out; echo err >&2";
    let output = scene.run(&["-j1", "--joblog", "log", "-o", "/dev/full", "--", "sh", "-c", script, "{}"], "1\n");
    ends(&output, exit::FAILURE);
    assert!(text(&output.stderr).contains("cannot write to '/dev/full'"), "{output:?}");
    assert_eq!(scene.read("log").lines().count(), 1, "{}", scene.read("log"));
}

#[test]
fn with_a_state_too_a_reader_that_has_gone_is_no_failure() {
    let scene = Scene::new();
    let args = ["--state", "state", "-j1"];
    let mut running = scene.start(&args);
    drop(running.child.stdout.take());
    running.child.stdin.take().unwrap().write_all(echoes(0..10).as_bytes()).unwrap();
    assert_eq!(running.end(), (Some(0), String::new(), String::new()));
    let output = scene.run(&args, echoes(0..10));
    ends(&output, exit::OK);
    assert_eq!(lines(&output).len(), 10, "what nobody has read is there still");
}

#[test]
fn a_reader_that_has_gone_ends_an_endless_input() {
    let scene = Scene::new();
    let mut running = scene.start(&["-j2"]);
    let mut input = running.child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        let lines = echoes(0..1000);
        while input.write_all(lines.as_bytes()).is_ok() {}
    });
    let mut output = BufReader::new(running.child.stdout.take().unwrap());
    output.read_line(&mut String::new()).unwrap();
    drop(output);
    assert_eq!(running.end(), (Some(0), String::new(), String::new()));
    writer.join().unwrap();
}

#[test]
fn a_command_is_run_for_each_line_without_a_shell() {
    let scene = Scene::new();
    let output = scene.run(&["-j1", "-k", "--", "printf", "[%s]\\n"], "a b\n$HOME; *\n\n");
    assert_eq!(lines(&output), ["[a b]", "[$HOME; *]", "[]"]);
    let places = ["-k", "--", "echo", "{}", "{.}", "{/}", "{//}", "{/.}", "{#}"];
    let output = scene.run(&places, "d/a.b.c\nx\n");
    assert_eq!(lines(&output), ["d/a.b.c d/a.b a.b.c d a.b 1", "x x x . x 2"]);
    let output = scene.run(&["-k", "--", "printf", "<%s>", ":::", "1", "2 3"], "not read\n");
    assert_eq!(text(&output.stdout), "<1><2 3>");
    // What is not UTF-8, in arguments and in output.
    let output = scene.run(&["-0", "-k", "--", "printf", "%s"], b"\xff\n\0b\0");
    assert_eq!(output.stdout, b"\xff\nb");
    let output = scene.run(&["-k", "--label", "{#}:{}", "--", "printf", "x\\ny\\n"], "a\nb\n");
    assert_eq!(lines(&output), ["1:a\tx", "1:a\ty", "2:b\tx", "2:b\ty"]);
    let output = scene.run(&["--json", "--", "sh", "-c", "echo {}; echo e >&2"], "a\n");
    let result = &json(&output)[0];
    assert_eq!((&result["label"], &result["task"], &result["exit_code"]), (&"a".into(), &"exec".into(), &0.into()));
    assert_eq!((&result["result"]["stdout"], &result["result"]["stderr"]), (&"a\n".into(), &"e\n".into()));
}

#[test]
fn what_a_command_writes_goes_where_it_would() {
    let scene = Scene::new();
    // Grouped: two at a time, neither among the other's lines.
    let script = "for i in 1 2 3 4 5; do echo {}; done; echo e{} >&2";
    let output = scene.run(&["-j2", "--", "sh", "-c", script], "a\nb\n");
    ends(&output, exit::OK);
    let groups: Vec<&str> = lines(&output).chunks(5).map(|chunk| chunk[0]).collect();
    assert!(lines(&output).chunks(5).all(|chunk| chunk.iter().all(|line| *line == chunk[0])));
    assert_eq!(groups.iter().collect::<BTreeSet<_>>().len(), 2);
    assert_eq!(text(&output.stderr).lines().collect::<BTreeSet<_>>(), ["ea", "eb"].into());
    // A failure that no program could tell.
    let output = scene.run(&["--joblog", "log", "--", "no-such-program"], "a\n");
    ends(&output, exit::FAILURE);
    assert!(
        text(&output.stderr).starts_with("error: job 1 (no-such-program a): cannot start "),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(scene.read("log").lines().nth(1).unwrap().split('\t').nth(6), Some("127"));
}

#[test]
fn a_program_has_the_environment_but_for_the_source() {
    let secrets = [("SHMWORKER_SOURCE", "http://x"), ("SHMWORKER_SOURCE_HEADER", "a: sesame"), ("PGPASSWORD", "mine")];
    let scene = Scene::new();
    let output = scene.command(&["--", "sh", "-c", "env", ":::", "x"]).envs(secrets).output().unwrap();
    ends(&output, exit::OK);
    let env = lines(&output);
    assert!(env.contains(&"PGPASSWORD=mine"), "{env:?}");
    assert!(!env.iter().any(|variable| variable.starts_with("SHMWORKER_SOURCE")), "{env:?}");
}

#[test]
fn a_timeout_ends_the_program_and_what_it_has_started() {
    let scene = Scene::new();
    let script = "sleep 1000 & echo $! > pid; echo written; wait";
    let output = scene.run(&["--timeout", "0.2", "--json", "--", "sh", "-c", script], "x\n");
    ends(&output, exit::FAILURE);
    let result = &json(&output)[0];
    assert_eq!((&result["status"], &result["signal"]), (&"timed_out".into(), &15.into()));
    assert_eq!(result["result"]["stdout"], "written\n");
    let sleeper: i32 = scene.read("pid").trim().parse().unwrap();
    eventually("what it has started is gone", || is_gone(sleeper).then_some(()));
}

#[test]
fn a_program_goes_with_its_worker_and_the_pool_goes_on() {
    let scene = Scene::new();
    let mut running = scene.start(&["-j1"]);
    let mut input = running.child.stdin.take().unwrap();
    writeln!(input, r#"{{"task":"exec","args":["sh","-c","echo $$ $PPID > pids; exec sleep 1000"]}}"#).unwrap();
    let pids = eventually("it runs", || {
        let pids: Vec<i32> = scene.read("pids").split_whitespace().map(|pid| pid.parse().unwrap()).collect();
        (pids.len() == 2).then_some(pids)
    });
    kill(Pid::from_raw(pids[1]), Signal::SIGKILL).unwrap();
    input.write_all(echoes(7..8).as_bytes()).unwrap();
    drop(input);
    let (code, out, _) = running.end();
    let results: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(code, Some(1));
    assert_eq!((&results[0]["status"], &results[0]["signal"]), (&"died".into(), &9.into()));
    assert_eq!(results[1]["result"], 7);
    eventually("the program is gone", || is_gone(pids[0]).then_some(()));
}

#[test]
fn memory_does_not_grow_with_the_input() {
    for args in [&["-j2"][..], &["-j2", "--ordered"]] {
        let mut running = Scene::new().start(args);
        let mut input = running.child.stdin.take().unwrap();
        let mut output = BufReader::new(running.child.stdout.take().unwrap()).lines();
        let pid = running.child.id();
        let mut resident_after = |n: u64| -> u64 {
            std::thread::scope(|scope| {
                scope.spawn(|| input.write_all(echoes(0..n).as_bytes()).unwrap());
                assert_eq!(output.by_ref().take(n as usize).filter(|line| line.is_ok()).count() as u64, n);
            });
            resident(pid)
        };
        let (quarter, all) = (resident_after(25_000), resident_after(75_000));
        // 75,000 results of 100 bytes would be 7 MiB.
        assert!(all < quarter + 2048, "{quarter} KiB after a quarter, {all} KiB after all");
        drop(input);
        assert_eq!(running.end().0, Some(0));
    }
}

/// How far this process has read the file, once it reads no more of it.
fn standstill(pid: u32, file: &Path) -> u64 {
    let of = format!("/proc/{pid}/fd");
    let read = || {
        let fds = fs::read_dir(&of).ok()?.map(|fd| fd.unwrap().path());
        let fd = fds.into_iter().find(|fd| fs::read_link(fd).is_ok_and(|to| to == file.canonicalize().unwrap()))?;
        let info = fs::read_to_string(Path::new(&of).with_file_name("fdinfo").join(fd.file_name()?)).ok()?;
        info.lines().find_map(|line| line.strip_prefix("pos:"))?.trim().parse::<u64>().ok()
    };
    let mut before = (0, 0);
    eventually("it reads no more", || {
        let at = read()?;
        before = if before.0 == at { (at, before.1 + 1) } else { (at, 0) };
        (at > 0 && before.1 == 20).then_some(at)
    })
}

/// KiB of its own.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// 60 MB of results for which nobody comes, until somebody does.
#[test]
fn a_slow_reader_costs_no_memory_and_loses_nothing() {
    const N: usize = 200_000;
    let scene = Scene::new();
    let text = "x".repeat(250);
    let line = |n: usize| format!("{{\"task\":\"echo\",\"args\":[{n},\"{text}\"]}}\n");
    let file = scene.file("jobs", (0..N).map(line).collect::<String>());
    let all = fs::metadata(&file).unwrap().len();
    for args in [&["-j2", "jobs"][..], &["-j2", "--ordered", "--chunk", "10", "jobs"]] {
        let mut running = scene.start(args);
        let pid = running.child.id();
        let at = standstill(pid, &file);
        assert!(at < all / 2, "it has read {at} of {all} bytes");
        let before = resident(pid);
        let mut output = BufReader::with_capacity(4096, running.child.stdout.take().unwrap()).lines();
        let mut seen = vec![false; N];
        for (i, line) in output.by_ref().enumerate() {
            let result: Value = serde_json::from_str(&line.unwrap()).unwrap();
            let n = result["result"][0].as_u64().unwrap() as usize;
            assert!(!std::mem::replace(&mut seen[n], true), "{n} came twice");
            if i == N / 2 {
                let now = resident(pid);
                assert!(before.max(now) < 40 << 10, "{before} KiB as nobody read, {now} KiB in the middle");
            }
        }
        assert!(seen.iter().all(|&it| it), "some are lost");
        assert_eq!(running.end().0, Some(0));
    }
}

#[test]
fn with_ordered_it_does_not_read_far_ahead() {
    let scene = Scene::new();
    let slow = "{\"task\":\"exec\",\"args\":[\"sh\",\"-c\",\"while [ ! -e go ]; do sleep 0.01; done\"]}\n";
    let file = scene.file("jobs", slow.to_owned() + &echoes(0..200_000));
    let all = fs::metadata(&file).unwrap().len();
    let mut running = scene.start(&["-j2", "--ordered", "jobs"]);
    let at = standstill(running.child.id(), &file);
    assert!(at < all / 4, "it has read {at} of {all} bytes");
    scene.file("go", "");
    let (code, out, _) = running.end();
    assert_eq!((code, out.lines().count()), (Some(0), 200_001));
}

#[test]
fn a_dry_run_runs_nothing() {
    let scene = Scene::new();
    let output = scene.run(&["--dry-run", "--", "touch", "{.}.x"], "a b.c\nd\n");
    ends(&output, exit::OK);
    assert_eq!(lines(&output), ["touch 'a b.x'", "touch d.x"]);
    assert!(!scene.path("d.x").exists());
    let output = scene.run(&["--dry-run", "--label", "l{#}"], format!("{}\nno\n", echoes(0..1)));
    ends(&output, exit::FAILURE);
    assert_eq!(lines(&output), [r#"{"task":"echo","args":0,"label":"l1"}"#]);
}

#[test]
fn what_cannot_be_meant_is_a_usage_error() {
    usage(&["--orderd"], "error: unknown flag '--orderd': did you mean '--ordered'?");
    usage(&["-j", "0"], "error: invalid value '0' for '-j': it must be a number from 1 to 512");
    usage(&["--resume"], "error: '--joblog' is missing: see 'shmworker jobs --help'");
    usage(
        &["--timeout", "1x"],
        "error: invalid value '1x' for '--timeout': it must be a duration above 0, such as 10, 1.5, 500ms or 2m",
    );
    usage(&["--", ":::", "a"], "error: ':::' needs a command before it: shmworker jobs -- echo ::: a b");
    let output = Scene::new().run(&["--halt", "soon"], "");
    assert!(text(&output.stderr).starts_with("error: invalid value 'soon' for '--halt': it must be 'never'"));
    ends(&output, exit::USAGE);
    let output = Scene::new().run(&["--", "gzip -k {}"], "");
    assert!(text(&output.stderr).starts_with("error: no shell is asked, and no program is named 'gzip -k {}'"));
    ends(&output, exit::USAGE);
    let output = Scene::new().run(&["none"], "");
    assert_eq!(text(&output.stderr), "error: cannot read 'none': No such file or directory (os error 2)\n");
    ends(&output, exit::USAGE);
    let output = Scene::new().run(&["--load", "./none.so"], "");
    assert!(text(&output.stderr).starts_with("error: "), "{}", text(&output.stderr));
    ends(&output, exit::PLUGIN);
}

#[test]
fn a_bar_is_not_for_pipes() {
    let output = Scene::new().run(&["--progress"], echoes(0..10));
    ends(&output, exit::OK);
    assert_eq!((lines(&output).len(), text(&output.stderr)), (10, ""));
}

#[test]
fn a_bar_on_a_terminal_shows_how_far_it_is_and_goes() {
    const N: usize = 1000;
    let scene = Scene::new();
    let wait = |n| {
        format!(r#"{{"task":"exec","args":["sh","-c","while [ ! -e go{n} ] && [ ! -e all ]; do sleep 0.01; done"]}}"#)
    };
    let jobs: Vec<String> = (0..N).map(wait).collect();
    scene.file("jobs", format!("no job\n{}\n", jobs.join("\n")));
    let program = env!("CARGO_BIN_EXE_shmworker");
    for env in ["", "NO_COLOR=1"] {
        let line = format!("cd {} && {env} {program} jobs -j2 --progress jobs > results", scene.home.path().display());
        let terminal = Terminal::start(100, 20, &line);
        let mut done = 0;
        eventually("the bar tells of some that are done", || {
            scene.file(&format!("go{done}"), "");
            done += 1;
            let screen = terminal.screen();
            (screen.contains(" done, 0 failed · ") && screen.contains(" % · ")).then_some(())
        });
        terminal.has("error: jobs, line 1: ");
        assert_eq!(terminal.colors(), 0, "{env}");
        scene.file("all", "");
        // 1: there is the malformed line.
        terminal.has_ended(1, "error: jobs, line 1: ", " done, 0 failed");
        assert_eq!(scene.read("results").lines().count(), N);
        fs::remove_file(scene.path("all")).unwrap();
        (0..done).for_each(|n| fs::remove_file(scene.path(&format!("go{n}"))).unwrap());
    }
}

const SHOUT: &str = r#"
#include <ctype.h>
#include <shmworker.h>
static int32_t shout(struct shmworker_context *context, void *user_data) {
    (void)user_data;
    struct shmworker_payload text;
    uint8_t *out;
    int32_t result = shmworker_context_argument(context, 0, &text);
    if (!result) result = shmworker_context_reserve(context, text.len, &out);
    if (result) return result;
    for (size_t i = 0; i < text.len; ++i) out[i] = (uint8_t)toupper(text.data[i]);
    shmworker_context_set_encoding(context, "json/plain");
    return shmworker_context_set_length(context, text.len);
}
SHMWORKER_PLUGIN(host) { return shmworker_host_handler(host, "shout", shout, 0); }
"#;

const CRASH: &str = r#"
#include <stdlib.h>
#include <shmworker.h>
static int32_t crash(struct shmworker_context *context, void *user_data) {
    (void)context, (void)user_data;
    abort();
}
SHMWORKER_PLUGIN(host) { return shmworker_host_handler(host, "crash", crash, 0); }
"#;

#[test]
fn tasks_of_plug_ins_are_run() {
    let scene = Scene::new();
    for (name, text) in [("libshout.so", SHOUT), ("libcrash.so", CRASH)] {
        compile_text(text, &scene.path(name), &headers());
    }
    let input = r#"
        {"label":"loud","task":"shout","args":"so it is"}
        {"label":"dead","task":"crash"}
        {"label":"none","task":"whisper"}
        {"label":"echo","task":"echo","args":1}
    "#;
    let output = scene.run(&["-j1", "--load", "./libshout.so", "--load", "./libcrash.so"], input);
    ends(&output, exit::FAILURE);
    let results = by_label(&output);
    assert_eq!((&results["loud"]["status"], &results["loud"]["result"]), (&"done".into(), &"SO IT IS".into()));
    assert_eq!((&results["dead"]["status"], &results["dead"]["signal"]), (&"died".into(), &6.into()), "{results:?}");
    assert_eq!(results["echo"]["result"], 1);
    assert_eq!(results["none"]["status"], "failed");
    assert!(
        results["none"]["error"].as_str().unwrap().starts_with(r#"no task named "whisper" is registered"#),
        "{results:?}"
    );
}

#[test]
fn what_a_plug_in_prints_is_not_among_the_results() {
    let scene = Scene::new();
    let prints = r#"
        #include <signal.h>
        #include <stdio.h>
        #include <shmworker.h>
        static int32_t prints(struct shmworker_context *context, void *user_data) {
            (void)context, (void)user_data;
            printf("it prints\n");
            return raise(SIGKILL);
        }
        SHMWORKER_PLUGIN(host) { return shmworker_host_handler(host, "prints", prints, 0); }
    "#;
    compile_text(prints, &scene.path("libprints.so"), &headers());
    let output = scene.run(&["-j1", "--load", "./libprints.so"], r#"{"label":"one","task":"prints"}"#);
    ends(&output, exit::FAILURE);
    assert_eq!((lines(&output).len(), &by_label(&output)["one"]["status"]), (1, &"died".into()));
    assert!(text(&output.stderr).starts_with("it prints\n"), "{}", text(&output.stderr));
}

/// As many at a time as was said: two that meet, and those of one process.
#[test]
fn so_many_jobs_are_run_at_a_time() {
    let scene = Scene::new();
    let meet = |me, other| format!("touch {me}; while [ ! -e {other} ]; do sleep 0.01; done");
    ends(
        &scene.run(&["--jobs", "2", "--", "sh", "-c", "{}"], format!("{}\n{}\n", meet("a", "b"), meet("b", "a"))),
        exit::OK,
    );
    let output = scene.run(&["--jobs", "1", "--", "sh", "-c", "echo $PPID # {}"], "1\n2\n3\n4\n5\n6\n");
    ends(&output, exit::OK);
    let workers: BTreeSet<&str> = lines(&output).into_iter().collect();
    assert_eq!((lines(&output).len(), workers.len()), (6, 1));
}

#[test]
fn lines_may_end_with_nul() {
    for flag in ["--null", "-0"] {
        let output = Scene::new().run(&["-j1", flag, "--", "printf", "<%s>", "{}"], "a\nb\0c d\0");
        ends(&output, exit::OK);
        assert_eq!(text(&output.stdout), "<a\nb><c d>");
    }
}

#[test]
fn attempts_are_for_jobs_that_do_not_say_it() {
    let scene = Scene::new();
    let job = |name: &str, more: &str| {
        let script = format!("echo >> {name}; [ $(wc -l < {name}) = 3 ]");
        format!("{{\"label\":\"{name}\",\"task\":\"exec\",\"args\":[\"sh\",\"-c\",\"{script}\"]{more}}}\n")
    };
    let output = scene.run(&["--retries", "2"], job("plain", "") + &job("own", ",\"retries\":0"));
    ends(&output, exit::FAILURE);
    let results = by_label(&output);
    for (name, status, attempts) in [("plain", "done", 3), ("own", "failed", 1)] {
        let result = &results[name];
        assert_eq!((&result["status"], &result["attempts"]), (&status.into(), &attempts.into()), "{result}");
        assert_eq!(scene.read(name).lines().count(), attempts);
    }
}
