//! `shmworker inspect --json` and `shmworker top`, of pools whose work is known. `top` runs in a real terminal: tmux.

#[path = "common/eventually.rs"]
mod eventually;
#[path = "common/scene.rs"]
mod scene;
#[path = "common/terminal.rs"]
mod terminal;

use eventually::eventually;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use scene::{until, words};
use serde_json::Value;
use shmworker::{
    Pool, Tasks,
    pool::{Retry, Task, TaskError, TaskOptions},
};
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    process::{Command, ExitCode, Output, Stdio},
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};
use terminal::Terminal;

const SQUARE: Task<u64, u64> = Task::named("square");
const STAY: Task<(), ()> = Task::named("stay");
const KILL_ONCE: Task<(), ()> = Task::named("kill once");
const KILL: Task<(), ()> = Task::named("kill");

/// How often `stay` has begun, and whether it may end.
struct Gate {
    begun: &'static AtomicU64,
    is_open: &'static AtomicU64,
}

impl Gate {
    fn new() -> Gate {
        let [begun, is_open] = words(2) else { unreachable!("two were asked for") };
        Gate { begun, is_open }
    }

    fn open(&self) {
        self.is_open.store(1, SeqCst);
    }
}

fn tasks(gate: &Gate) -> Tasks {
    let (begun, is_open) = (gate.begun, gate.is_open);
    let stay = move || {
        begun.fetch_add(1, SeqCst);
        until(|| is_open.load(SeqCst) == 1);
    };
    let mut tasks = Tasks::new();
    tasks.function("square", |x: u64| x * x);
    tasks.handler("stay", move |context, ()| {
        context.progress(3, 10);
        stay();
        Ok(())
    });
    tasks.handler("kill", |_, ()| Ok(nix::sys::signal::raise(Signal::SIGKILL)?));
    tasks.handler("kill once", move |context, ()| {
        if context.attempt() == 1 {
            nix::sys::signal::raise(Signal::SIGKILL)?;
        }
        stay();
        Ok(())
    });
    tasks
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let [_, command, name] = &args[..]
        && command == "hold"
    {
        return hold(name);
    }
    scene::run(scenes![
        inspect_tells_what_is_done_and_what_waits,
        inspect_tells_who_died_and_over_what,
        tasks_that_were_given_up_are_told_when_their_results_are_taken,
        a_stopped_pool_is_inspected,
        any_process_of_a_pool_stands_for_it,
        what_is_no_pool_is_an_error,
        top_without_a_terminal_is_an_error,
        top_shows_a_pool_and_obeys_keys,
        top_has_colours_unless_they_are_not_wanted,
        top_follows_the_size_of_its_window,
        top_maps_nothing_that_it_could_write_to,
        top_ends_with_a_pool_that_dies,
        top_ends_with_a_pool_that_ends,
        top_restores_the_terminal_at_a_signal,
    ])
}

fn name() -> String {
    format!("test-seeing-{}", std::process::id())
}

fn pool(gate: &Gate, workers: usize) -> Pool {
    Pool::builder().name(name()).workers(workers).fork(tasks(gate)).unwrap()
}

fn shmworker(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shmworker")).args(args).output().unwrap()
}

#[track_caller]
fn inspect(what: &str) -> Value {
    let output = shmworker(&["inspect", "--json", what]);
    assert!(output.status.success(), "{output:?}");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["audit"]["is_sound"], true, "{json}");
    json
}

fn participant<'j>(json: &'j Value, label: &str) -> &'j Value {
    let is_it = |p: &&Value| p["label"] == label && p["state"] == "live";
    json["participants"].as_array().unwrap().iter().find(is_it).unwrap_or_else(|| panic!("no {label} in {json}"))
}

fn sum(json: &Value, field: &str) -> u64 {
    json["participants"].as_array().unwrap().iter().map(|p| p[field].as_u64().unwrap()).sum()
}

// ---- inspect --------------------------------------------------------------------------------------------------------

fn inspect_tells_what_is_done_and_what_waits() {
    let gate = Gate::new();
    let pool = pool(&gate, 2);
    for x in 0..50 {
        assert_eq!(pool.submit(SQUARE, &x).unwrap().wait(), Ok(x * x));
    }
    let json = inspect(&name());
    assert_eq!(json["pool"]["coordinator"], pool.coordinator_pid());
    assert_eq!((&json["pool"]["mode"], &json["pool"]["runs"]), (&"running".into(), &true.into()));
    assert_eq!(sum(&json, "finished"), 50, "{json}");
    // One is kept for the next submission.
    let at_rest = ["free", "reserved"].map(|phase| json["tasks"][phase].as_u64().unwrap());
    assert_eq!(at_rest.iter().sum::<u64>(), 4096, "{json}");
    assert_eq!(json["deaths"].as_array().unwrap().len(), 0);
    // All are stamped where a stamp is cheap, else some of each tick.
    for which in ["wait", "run"] {
        let p = &json["latency"][which];
        let figure = |name: &str| p[name].as_u64().unwrap();
        assert!((1..=50).contains(&figure("count")), "{p}");
        let all = ["p50_ns", "p90_ns", "p99_ns", "max_ns"].map(figure);
        assert!(all.is_sorted() && all[3] > 0, "{p}");
    }
    for label in ["coordinator", "program", "worker:0", "worker:1"] {
        let process = &participant(&json, label)["process"];
        assert!(process["own_bytes"].as_u64().unwrap() > 0, "{process}");
        assert!(process["own_bytes"].as_u64() < process["resident_bytes"].as_u64(), "{process}");
    }

    let running: Vec<_> = (0..2).map(|_| pool.submit(STAY, &()).unwrap()).collect();
    scene::at_least(gate.begun, 2);
    let waiting: Vec<_> = (0..5).map(|x| pool.submit(SQUARE, &x).unwrap()).collect();
    let json = inspect(&name());
    for label in ["worker:0", "worker:1"] {
        let worker = participant(&json, label);
        assert_eq!((&worker["running"], &worker["task"]["task"]), (&1.into(), &"stay".into()), "{worker}");
        assert_eq!(worker["task"]["progress"], serde_json::json!({"done": 3, "total": 10}));
    }
    assert_eq!((&json["tasks"]["claimed"], &json["tasks"]["ready"]), (&2.into(), &5.into()));
    assert_eq!(json["lanes"][0], serde_json::json!({"queue": 0, "name": "default", "ready": 5, "delayed": 0}));

    gate.open();
    waiting.into_iter().enumerate().for_each(|(x, handle)| assert_eq!(handle.wait(), Ok((x * x) as u64)));
    running.into_iter().for_each(|handle| handle.wait().unwrap());
    assert_eq!(sum(&inspect(&name()), "finished"), 57);
    pool.join().unwrap();
}

fn inspect_tells_who_died_and_over_what() {
    let gate = Gate::new();
    let pool = pool(&gate, 1);
    let before = participant(&inspect(&name()), "worker:0")["pid"].clone();
    let options = TaskOptions::new().attempts(2).retry_on([Retry::Died]);
    let handle = pool.submit_with(KILL_ONCE, &(), &options).unwrap();
    scene::at_least(gate.begun, 1);
    let json = inspect(&name());
    let [death] = &json["deaths"].as_array().unwrap()[..] else { panic!("one died: {json}") };
    assert_eq!((&death["label"], &death["pid"]), (&"worker:0".into(), &before));
    assert_eq!((&death["exit"], &death["requeued"]), (&"signal 9 (SIGKILL)".into(), &1.into()), "{death}");
    let [suspect] = &json["suspects"].as_array().unwrap()[..] else { panic!("one task is to blame: {json}") };
    assert_eq!((&suspect["task"], &suspect["deaths"]), (&"kill once".into(), &1.into()), "{suspect}");
    assert_eq!((&suspect["state"], &suspect["is_poison"]), (&"running".into(), &false.into()), "{suspect}");
    assert_eq!(participant(&json, "worker:0")["task"]["attempt"], 2);
    let text = String::from_utf8(shmworker(&["inspect", &name()]).stdout).unwrap();
    assert!(text.contains(&format!("died         worker:0 (pid {before}): signal 9 (SIGKILL)")), "{text}");
    gate.open();
    handle.wait().unwrap();
    pool.join().unwrap();
}

fn tasks_that_were_given_up_are_told_when_their_results_are_taken() {
    let pool = pool(&Gate::new(), 1);
    assert_eq!(inspect(&name())["given_up"], serde_json::json!([]));
    let options = TaskOptions::new().attempts(9).retry_on([Retry::Died]);
    for (attempts, deaths) in [(9, 2), (1, 3)] {
        let options = options.clone().attempts(attempts).max_worker_deaths(deaths);
        let Err(TaskError::Died(blame)) = pool.submit_with(KILL, &(), &options).unwrap().wait() else {
            panic!("it lives")
        };
        assert_eq!(blame.is_poison, attempts == 9, "{blame}");
    }
    let json = inspect(&name());
    assert_eq!((&json["suspects"], &json["pool"]["tasks_given_up"]), (&serde_json::json!([]), &2.into()), "{json}");
    let told = json["given_up"].as_array().unwrap().iter();
    let told: Vec<_> = told.map(|g| (&g["task"], &g["deaths"], &g["is_poison"], &g["exit"], &g["pid"])).collect();
    let died: Vec<_> = json["deaths"].as_array().unwrap().iter().map(|death| &death["pid"]).collect();
    let (kill, killed) = (&"kill".into(), &"signal 9 (SIGKILL)".into());
    // The newest first; each is told of with the last that it killed.
    let expected =
        [(kill, &1.into(), &false.into(), killed, died[0]), (kill, &2.into(), &true.into(), killed, died[1])];
    assert!(died.len() == 3 && told == expected, "{json}");

    let text = String::from_utf8(shmworker(&["inspect", &name()]).stdout).unwrap();
    assert!(text.contains("deaths       3 settled; 2 task(s) given up over them"), "{text}");
    let line = format!("given up     kill: 2 death(s), poison; the last was pid {}: signal 9 (SIGKILL), ", died[1]);
    assert!(text.contains(&line) && text.contains("kill: 1 death(s), no attempt left"), "{text}");
    let terminal = top(130, 30, "", &name());
    terminal.has("task kill: POISON, set aside after 2 death(s), ");
    terminal.has("task kill: given up, no attempt left after 1 death(s), ");
    terminal.keys("q");
    has_ended(&terminal, 0, "");
    pool.join().unwrap();
}

fn a_stopped_pool_is_inspected() {
    let mut program = Command::new(std::env::current_exe().unwrap());
    let mut program = program.args(["hold", &name()]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    BufReader::new(program.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    let json = inspect(&name());
    assert_eq!(json["pool"]["is_stopped"], false);
    let labels = ["coordinator", "program", "worker:0", "worker:1"];
    let pids = labels.map(|label| participant(&json, label)["pid"].as_i64().unwrap() as i32);
    assert_eq!(pids[1], program.id() as i32);
    for pid in pids {
        kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    }
    for pid in pids {
        until(|| state(pid) == 'T');
    }
    for what in [name(), pids[0].to_string(), pids[2].to_string()] {
        let json = inspect(&what);
        assert_eq!((&json["pool"]["is_stopped"], &json["tasks"]["claimed"]), (&true.into(), &1.into()), "{json}");
        for label in labels {
            assert_eq!(participant(&json, label)["process"]["state"], "T");
        }
    }
    for pid in pids {
        kill(Pid::from_raw(pid), Signal::SIGCONT).unwrap();
    }
    drop(program.stdin.take());
    assert!(program.wait().unwrap().success());
}

/// A program with a pool of two workers, one of which is busy until stdin ends.
fn hold(name: &str) -> ExitCode {
    let gate = Gate::new();
    let pool = Pool::builder().name(name).workers(2).fork(tasks(&gate)).unwrap();
    let handle = pool.submit(STAY, &()).unwrap();
    scene::at_least(gate.begun, 1);
    println!("busy");
    let _ = std::io::stdin().read(&mut [0]);
    gate.open();
    handle.wait().unwrap();
    pool.join().unwrap();
    ExitCode::SUCCESS
}

fn any_process_of_a_pool_stands_for_it() {
    let gate = Gate::new();
    let pool = pool(&gate, 1);
    let coordinator = pool.coordinator_pid();
    let worker = participant(&inspect(&name()), "worker:0")["pid"].clone();
    let me = std::process::id();
    for pid in [worker.to_string(), coordinator.to_string(), me.to_string()] {
        assert_eq!(inspect(&pid)["pool"]["coordinator"], coordinator);
    }
    // Of two it has to be said which.
    let second = Pool::builder().workers(1).fork(tasks(&gate)).unwrap();
    let output = shmworker(&["inspect", &me.to_string()]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && text.contains("takes part in several pools"), "{text}");
    for of in [&pool, &second].map(Pool::coordinator_pid) {
        assert!(text.contains(&of.to_string()), "{text}");
        assert_eq!(inspect(&of.to_string())["pool"]["coordinator"], of);
    }
    second.join().unwrap();
    pool.join().unwrap();
}

fn what_is_no_pool_is_an_error() {
    let me = std::process::id().to_string();
    for (command, what) in [("inspect", "nobody"), ("inspect", &me)] {
        let output = shmworker(&[command, what]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(text.contains(&format!("no pool '{what}' runs")) && text.lines().count() == 1, "{text}");
    }
}

// ---- top ------------------------------------------------------------------------------------------------------------

fn top_without_a_terminal_is_an_error() {
    let output = shmworker(&["top", "nobody"]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        text,
        "error: 'top' needs a terminal: 'shmworker inspect nobody' prints the same once, with --json too\n"
    );
    for wrong in ["0", "61", "x", "-1"] {
        let output = shmworker(&["top", "--interval", wrong, "nobody"]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && text.contains("seconds from 0.1 to 60"), "{text}");
    }
}

/// `top`, with these variables.
#[track_caller]
fn top(width: u16, height: u16, env: &str, what: &str) -> Terminal {
    let program = env!("CARGO_BIN_EXE_shmworker");
    Terminal::start(width, height, &format!("{env} {program} top --interval 0.2 {what}"))
}

#[track_caller]
fn has_ended(terminal: &Terminal, code: i32, last_words: &str) {
    terminal.has_ended(code, last_words, "tasks/s");
}

fn top_shows_a_pool_and_obeys_keys() {
    let gate = Gate::new();
    let pool = pool(&gate, 2);
    let handle = pool.submit(STAY, &()).unwrap();
    scene::at_least(gate.begun, 1);
    let terminal = top(110, 30, "", &name());
    terminal.has(&format!("shmworker top: {} running", name()));
    terminal.has("1 running, 0 ready, 0 delayed");
    terminal.has("3 of 10 (30 %)");
    for label in ["coordinator", "program", "worker:0", "worker:1", "default"] {
        terminal.has(label);
    }
    let waiting: Vec<_> = (0..7).map(|_| pool.submit(STAY, &()).unwrap()).collect();
    terminal.has("2 running, 6 ready");

    terminal.has("sort: id");
    terminal.keys("s");
    terminal.has("sort: label");
    terminal.keys("+");
    terminal.has("every 0.5 s");
    terminal.keys("-");
    terminal.keys("-");
    terminal.has("every 0.1 s");
    terminal.keys("h");
    terminal.has("look less often, more often");
    terminal.keys("x");
    terminal.shows(|screen| !screen.contains("look less often"));
    terminal.keys("p");
    terminal.has("[paused]");
    gate.open();
    handle.wait().unwrap();
    waiting.into_iter().for_each(|handle| handle.wait().unwrap());
    assert!(terminal.screen().contains("2 running, 6 ready"), "it is paused");
    terminal.keys("p");
    terminal.has("0 running, 0 ready");
    terminal.keys("q");
    has_ended(&terminal, 0, "");
    pool.join().unwrap();
}

fn top_has_colours_unless_they_are_not_wanted() {
    let gate = Gate::new();
    let pool = pool(&gate, 1);
    let options = TaskOptions::new().attempts(2).retry_on([Retry::Died]);
    let handle = pool.submit_with(KILL_ONCE, &(), &options).unwrap();
    scene::at_least(gate.begun, 1);
    for (env, has_colors) in [("", true), ("NO_COLOR=1", false), ("NO_COLOR=", true)] {
        let terminal = top(110, 30, env, &name());
        terminal.has("signal 9 (SIGKILL)");
        assert_eq!(terminal.colors() > 0, has_colors, "{env}");
        terminal.keys("q");
        has_ended(&terminal, 0, "");
    }
    gate.open();
    handle.wait().unwrap();
    pool.join().unwrap();
}

fn top_follows_the_size_of_its_window() {
    let pool = pool(&Gate::new(), 1);
    let terminal = top(110, 30, "", &name());
    let last_line_is_keys = |height: usize| {
        move |screen: &str| {
            let lines: Vec<&str> = screen.lines().collect();
            lines.len() == height && lines[height - 1].starts_with("q quit")
        }
    };
    terminal.shows(last_line_is_keys(30));
    for (width, height) in [(60, 12), (140, 40), (20, 5), (1, 1), (110, 30)] {
        terminal.tmux(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]);
        if width > 10 {
            terminal.shows(last_line_is_keys(height));
        }
    }
    terminal.keys("q");
    has_ended(&terminal, 0, "");
    pool.join().unwrap();
}

fn top_maps_nothing_that_it_could_write_to() {
    let pool = pool(&Gate::new(), 1);
    let terminal = top(110, 30, "", &name());
    terminal.has("q quit");
    let pid = terminal.pid();
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let lines: Vec<&str> = maps.lines().collect();
    let found: Vec<usize> = (0..lines.len()).filter(|&i| lines[i].contains("/memfd:shmworker")).collect();
    assert!(!found.is_empty(), "{maps}");
    for at in found {
        assert_eq!(lines[at].split_whitespace().nth(1), Some("r--s"), "{}", lines[at]);
        let flags = lines[at..].iter().find(|line| line.starts_with("VmFlags:")).unwrap();
        // Nor could it be made writable: its file is open for reading alone.
        assert!(!flags.split_whitespace().any(|flag| flag == "mw" || flag == "wr"), "{flags}");
    }
    terminal.keys("q");
    has_ended(&terminal, 0, "");
    pool.join().unwrap();
}

fn top_ends_with_a_pool_that_dies() {
    let pool = pool(&Gate::new(), 1);
    let terminal = top(110, 30, "", &name());
    terminal.has("worker:0");
    terminal.keys("p"); // a pause is no reason not to see it
    terminal.has("[paused]");
    kill(Pid::from_raw(pool.coordinator_pid() as i32), Signal::SIGKILL).unwrap();
    has_ended(&terminal, 1, &format!("error: pool '{}' has died", name()));
    assert!(pool.join().is_err());
}

fn top_ends_with_a_pool_that_ends() {
    let pool = pool(&Gate::new(), 1);
    let terminal = top(110, 30, "", &pool.coordinator_pid().to_string());
    terminal.has("worker:0");
    pool.join().unwrap();
    has_ended(&terminal, 0, "has ended");
}

fn top_restores_the_terminal_at_a_signal() {
    let pool = pool(&Gate::new(), 1);
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130), (Signal::SIGQUIT, 131)] {
        let terminal = top(110, 30, "", &name());
        terminal.has("worker:0");
        kill(Pid::from_raw(terminal.pid()), signal).unwrap();
        has_ended(&terminal, code, "");
    }
    let terminal = top(110, 30, "", &name());
    terminal.has("worker:0");
    terminal.keys("C-c");
    has_ended(&terminal, 130, "");
    pool.join().unwrap();
}

/// What the kernel says that a process does.
fn state(pid: i32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
}
