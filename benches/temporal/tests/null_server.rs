//! The null server feeds real workers, and ends a measurement whose workers fail.

use shmworker_benches_temporal::Figures;
use std::process::{Command, Output};

/// Our worker, fed for a second.
fn feed(args: &[&str], worker: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_null-server"));
    command.args(["--open", "20", "--warm-up", "0.1", "--seconds", "1"]).args(args);
    command
        .args(["--", env!("CARGO_BIN_EXE_ours"), "run"])
        .args(worker)
        .output()
        .expect("the null server can be started")
}

fn figures(output: &Output) -> Figures {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one line of JSON")
}

#[test]
fn activities_and_timers_come_back_to_their_workflows() {
    let output = feed(&["--workflow", "TimerWorkflow", "--input", "1"], &["-w", "2", "-a", "1"]);
    let figures = figures(&output);
    assert!(figures.workflows > 0, "{figures:?}");
    assert_eq!(figures.processes, 5, "the coordinator, the bridge, two workflow processes, an activity process");
}

#[test]
fn runs_that_have_left_a_cache_are_replayed_from_their_whole_history() {
    let figures = figures(&feed(&[], &["-w", "1", "-a", "1", "--max-cached-workflows", "3"]));
    assert!(figures.workflows > 0, "{figures:?}");
}

#[test]
fn compressed_requests_are_understood() {
    let figures = figures(&feed(&["--workflow", "TrivialWorkflow"], &["-w", "1", "-a", "0", "--gzip"]));
    assert!(figures.workflows > 0, "{figures:?}");
}

#[test]
fn a_failure_ends_the_measurement() {
    let output = feed(&["--workflow", "Unheard"], &["-w", "1", "-a", "0"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("a workflow task failed"), "{said}");
}
