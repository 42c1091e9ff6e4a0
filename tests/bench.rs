//! `shmworker bench`, as a user meets it. What it measures is no matter of a test.

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use serde_json::Value;
use std::process::{Command, Output};

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shmworker")).arg("bench").args(args).output().unwrap()
}

#[track_caller]
fn stdout(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{}: {stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn json_has_every_figure_with_its_spread_and_its_distance_from_its_limit() {
    let text = stdout(bench(&["--seconds", "1", "--workers", "3", "--json"]));
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    let figures = report["figures"].as_array().unwrap();
    let names: Vec<_> = figures.iter().map(|f| (f["name"].as_str().unwrap(), f["workers"].as_u64())).collect();
    let limits = ["ping_pong", "futex_ping_pong", "reading_1_mib"].map(|name| (name, None));
    let crews = [1, 2, 3].map(|workers| ("tasks", Some(workers)));
    let alone = ["task_busy", "task_asleep"].map(|name| (name, None));
    assert_eq!(names, [&limits[..], &alone, &crews, &[("task_1_mib_in_place", None)]].concat());
    for figure in figures {
        let [low, median, high, samples] =
            ["p10", "median", "p90", "samples"].map(|field| figure[field].as_f64().unwrap());
        assert!(0.0 < low && low <= median && median <= high && samples >= 1.0, "{figure}");
        let is_limit = limits.contains(&(figure["name"].as_str().unwrap(), None));
        match figure["limit"].as_str() {
            None => assert!(is_limit && figure["ratio"].is_null(), "{figure}"),
            Some(limit) => {
                assert!(!is_limit && limits.contains(&(limit, None)), "{figure}");
                assert!(figure["ratio"].as_f64().unwrap() > 0.0, "{figure}");
            }
        }
    }
}

#[test]
fn the_table_has_a_line_for_each_figure() {
    let text = stdout(bench(&["--seconds", "1", "--workers", "1"]));
    let lines = text.lines().filter(|line| line.contains(" ns ") || line.contains(" µs ") || line.contains(" M/s "));
    assert_eq!(lines.count(), 7, "{text}");
    assert_eq!(text.matches(" times").count(), 3 + 1, "{text}");
}

#[test]
fn one_cpu_is_an_error_that_says_what_to_do() {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).unwrap();
    let mut one = CpuSet::new();
    one.set((0..CpuSet::count()).find(|&cpu| allowed.is_set(cpu).unwrap()).unwrap()).unwrap();
    // Of this test's thread, and of what that starts.
    sched_setaffinity(this, &one).unwrap();
    let output = bench(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let line = "error: two sides that never sleep need two CPUs, and this process may use 1: widen its affinity mask \
                (taskset) or its cgroup's CPU quota, or use a machine with more\n";
    assert_eq!(String::from_utf8_lossy(&output.stderr), line);
}

#[test]
fn its_help_has_an_example() {
    assert!(stdout(bench(&["--help"])).contains("Example:\n  shmworker bench --seconds 30 --json\n"));
}

#[test]
fn a_wrong_number_is_a_usage_error() {
    for (flag, value, range) in [("--seconds", "0", "1 to 3600"), ("--workers", "513", "1 to 512")] {
        let output = bench(&[flag, value]);
        assert_eq!(output.status.code(), Some(2));
        let line = format!("error: invalid value '{value}' for '{flag}': it must be a number from {range}\n");
        assert_eq!(String::from_utf8_lossy(&output.stderr), line);
    }
}
