//! Flags of `run` and `starter` that other tests have no need of, each with what it changes; and pools of `run` as `top` and
//! `inspect` show them.

mod common;
#[path = "common/terminal.rs"]
mod terminal;

use common::{Pool, Program, Scene, eventually, named_segments, results};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::{fs, process::ExitCode};
use terminal::Terminal;

const TESTS: &[(&str, common::Test)] = &common::tests![
    numbers_have_long_names
    a_named_pool_is_looked_at_when_all_its_processes_are_dead
    memory_is_as_it_was_asked_for
    a_profile_of_a_config_file_says_where_the_server_is
    top_and_inspect_show_what_the_processes_run
];

fn main() -> ExitCode {
    common::run(TESTS)
}

const AT_WORK: &str = "waiting for keyboard interrupt or for all workers to exit";
const WORKFLOWS: usize = 3;

fn inspect(scene: &Scene<'_>, what: &str) -> Value {
    let output = scene.unconfigured(&["inspect", "--json", what]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn labels(json: &Value) -> Vec<&str> {
    json["participants"].as_array().unwrap().iter().map(|p| p["label"].as_str().unwrap()).collect()
}

/// A pool of one process of each kind, which has run some workflows.
fn served(scene: &Scene<'_>, args: &[&str]) -> Program {
    let mut command = scene.shmworker(&["run", "-w", "1", "-a", "1"]);
    command.args(args);
    let mut run = Program::start(command);
    run.says("it is at work", 1, |line| line == AT_WORK);
    results(&mut scene.starter(WORKFLOWS, &[]), WORKFLOWS);
    run
}

fn numbers_have_long_names(scene: &Scene<'_>) {
    let run = ["run", "--num-workflow-workers", "2", "--num-activity-workers", "1"];
    let mut run = Program::start(scene.shmworker(&run));
    run.says("it is at work", 1, |line| line == AT_WORK);
    assert_eq!(run.stdout()[0], "starting 2 workflow worker(s) and 1 activity worker(s)");
    let mut starter = Program::start(scene.shmworker(&["starter", "--num-workflows", "4"]));
    results(&mut starter, 4);
    run.signal(Signal::SIGTERM);
    assert!(run.end().success());
    run.leaves_nobody();
}

fn a_named_pool_is_looked_at_when_all_its_processes_are_dead(scene: &Scene<'_>) {
    let name = format!("flags-{}", std::process::id());
    let mut run = served(scene, &["--name", &name, "--backing", "named"]);
    assert_eq!(named_segments(&name).len(), 1);
    run.signal(Signal::SIGKILL);
    run.end();
    run.leaves_nobody();
    let json = inspect(scene, &name);
    assert_eq!((&json["pool"]["runs"], &json["audit"]["is_sound"]), (&false.into(), &true.into()), "{json}");
    for label in ["coordinator", "bridge", "workflow-worker:0", "activity-worker:0"] {
        assert!(labels(&json).contains(&label), "{json}");
    }
    let cleaned = scene.unconfigured(&["clean", &name]).output().unwrap();
    assert!(cleaned.status.success() && named_segments(&name).is_empty(), "{cleaned:?}");
}

/// Of the segment, as the kernel has it for a process: KiB that are mapped, and whether huge pages are wanted.
fn mapped(pid: i32) -> (u64, bool) {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let (mut kib, mut is_huge, mut is_segment) = (0, false, false);
    for line in smaps.lines() {
        match line.split_once(':') {
            Some(("Rss", rest)) if is_segment => kib += rest.trim().trim_end_matches(" kB").parse::<u64>().unwrap(),
            Some(("VmFlags", flags)) if is_segment => is_huge |= flags.split_whitespace().any(|flag| flag == "hg"),
            Some((key, _)) if !key.contains('-') => {}
            _ => is_segment = line.contains("memfd:shmworker"),
        }
    }
    assert!(kib > 0, "process {pid} maps no segment: {smaps}");
    (kib, is_huge)
}

fn memory_is_as_it_was_asked_for(scene: &Scene<'_>) {
    let look = |args: &[&str]| {
        let mut run = served(scene, args);
        let json = inspect(scene, &run.pid().to_string());
        let worker = json["participants"].as_array().unwrap().iter().find(|p| p["label"] == "activity-worker:0");
        let mapped = mapped(worker.unwrap()["pid"].as_i64().unwrap() as i32);
        run.signal(Signal::SIGTERM);
        assert!(run.end().success());
        (json, mapped)
    };
    let taken =
        |json: &Value| json["segment"]["taken_bytes"].as_f64().unwrap() / json["segment"]["bytes"].as_f64().unwrap();
    let (plain, (touched, is_huge)) = look(&[]);
    assert!(plain["latency"]["run"]["count"].as_u64().unwrap() > 0, "{plain}");
    assert!(taken(&plain) < 0.5 && !is_huge, "{plain}");
    let (other, (mapped, is_huge)) = look(&["--no-times", "--huge-pages", "--prefault"]);
    assert_eq!(other["latency"], Value::Null);
    assert!(is_huge && mapped > 2 * touched, "{touched} KiB are touched, {mapped} mapped");
    let (reserved, _) = look(&["--reserve"]);
    assert!(taken(&reserved) > 0.95, "{reserved}");
}

fn a_profile_of_a_config_file_says_where_the_server_is(scene: &Scene<'_>) {
    let file = scene.home().join("far.toml");
    let text = format!(
        "[profile.default]\naddress = '127.0.0.1:1'\n[profile.far]\naddress = '{}'\nnamespace = '{}'\n",
        scene.server.address, scene.namespace
    );
    fs::write(&file, text).unwrap();
    let place = ["--config-file", file.to_str().unwrap(), "--profile", "far"];
    let mut pool = Pool::start(scene.unconfigured(&["run"]), 1, 1, &place);
    let mut starter = scene.unconfigured(&["starter", "-n", "2"]);
    starter.args(place);
    results(&mut Program::start(starter), 2);
    let mut doctor = scene.unconfigured(&["doctor"]);
    let output = doctor.args(place).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let answers = format!("{} answers, and has namespace '{}'", scene.server.address, scene.namespace);
    assert!(said.contains(&answers), "{said}");
    pool.stop(Signal::SIGTERM);
}

fn top_and_inspect_show_what_the_processes_run(scene: &Scene<'_>) {
    let mut pool = scene.pool(2, 1, &[]);
    let pid = pool.program.pid().to_string();
    let terminal = Terminal::start(120, 40, &format!("{} top --interval 0.1 {pid}", env!("CARGO_BIN_EXE_shmworker")));
    for label in ["coordinator", "bridge", "workflow-worker:0", "workflow-worker:1", "activity-worker:0"] {
        terminal.has(label);
        assert!(labels(&inspect(scene, &pid)).contains(&label));
    }
    // Each is a second in its first activation; some seconds in which it is seen.
    let spin =
        |n| Program::start(scene.shmworker(&["starter", "-n", n, "--workflow", "SpinWorkflow", "--input", "1000"]));
    let mut starter = spin("8");
    let activation = eventually("a process is inside an activation", || {
        let json = inspect(scene, &pid);
        let mut tasks = json["participants"].as_array().unwrap().iter().filter(|p| !p["task"].is_null());
        tasks.find(|p| p["label"].as_str().unwrap().starts_with("workflow-worker:")).cloned()
    });
    assert_eq!(activation["task"]["task"], "workflow activation", "{activation}");
    terminal.shows(|screen| {
        let mut lines = screen.lines().filter(|line| line.starts_with("workflow-worker:"));
        lines.any(|line| line.contains("workflow activation"))
    });
    assert!(starter.end().success());
    results(&mut scene.starter(5, &[]), 5);
    let json = inspect(scene, &pid);
    let worker = json["participants"].as_array().unwrap().iter().find(|p| p["label"] == "activity-worker:0").unwrap();
    assert!(worker["finished"].as_u64().unwrap() >= 5, "{worker}");
    terminal.keys("q");
    terminal.has_ended(0, "", "tasks/s");
    pool.stop(Signal::SIGTERM);
}
