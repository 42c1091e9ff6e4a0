//! Short runs of `shmworker torture`, and the proof that it finds what it looks for. Longer ones: `docs/crash.md`.

use std::{
    fs::{Permissions, set_permissions},
    os::unix::fs::PermissionsExt,
    process::{Command, Output},
};

fn torture(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shmworker")).arg("torture").args(args).output().unwrap()
}

#[track_caller]
fn passes(output: &Output) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stderr.is_empty(), "{}\n{stdout}{stderr}", output.status);
    stdout.into_owned()
}

/// The sums of these figures over all lines; each stands as `name=figure`.
fn sums<const N: usize>(text: &str, names: [&str; N]) -> [u64; N] {
    let fields: Vec<_> = text.split_whitespace().filter_map(|word| word.split_once('=')).collect();
    names.map(|name| {
        fields.iter().filter(|(n, _)| *n == name).filter_map(|(_, figure)| figure.parse::<u64>().ok()).sum()
    })
}

#[test]
fn nothing_is_lost_wherever_a_process_is_killed_at_random() {
    let output = passes(&torture(&["--seconds", "5", "--seed", "1"]));
    assert!(output.starts_with("seed      1\n"), "{output}");
    let [delivered, died, claimed, lost, wrong, leaked] =
        sums(&output, ["delivered", "WorkerDied", "claimed", "lost", "wrong", "leaked"]);
    assert!(delivered > 0 && claimed > 0 && died <= claimed, "{output}");
    assert_eq!([lost, wrong, leaked], [0; 3], "{output}");
}

/// Not only as long as was asked for, but as many.
#[test]
fn it_goes_on_until_so_many_tasks_were_delivered() {
    let delivered = |args: &[&str]| sums(&passes(&torture(args)), ["delivered"])[0];
    let in_a_second = delivered(&["--seconds", "1"]);
    let wanted = 3 * in_a_second;
    assert!(delivered(&["--seconds", "1", "--tasks", &wanted.to_string()]) >= wanted, "{in_a_second} in a second");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn nothing_is_lost_whichever_instruction_was_the_last() {
    // A prime, so that it hits other places in each loop.
    let output = passes(&torture(&["--single-step", "--stride", "101"]));
    for path in ["submit", "claim-run-complete", "take", "park", "wake", "cancel", "claim-after-an-overflow", "recover"]
    {
        assert!(output.lines().any(|line| line.starts_with(&format!("{path} instructions="))), "{path} in {output}");
    }
    let [instructions, kills, stops, faults @ ..] =
        sums(&output, ["instructions", "kills", "stops", "lost", "doubled", "leaked"]);
    assert!(instructions / 101 <= kills + stops && kills > 0 && stops > 0, "{output}");
    assert_eq!(faults, [0; 3], "{output}");
}

#[test]
fn nobody_sleeps_while_there_is_work() {
    let output = passes(&torture(&["--wakes", "300", "--seed", "1"]));
    let [rounds, kills, stops, lost] = sums(&output, ["rounds", "kills", "stops", "lost"]);
    assert!(rounds == 300 && kills > 0 && stops > 0 && lost == 0, "{output}");
}

#[test]
fn what_breaks_pythons_pools_does_not_break_ours() {
    let output = passes(&torture(&["--experiments"]));
    assert_eq!(output.lines().count(), 5, "{output}");
    assert_eq!(sums(&output, ["got"]), [100], "{output}");
    let [accepted, delivered] = sums(&output, ["accepted", "delivered"]);
    assert_eq!(accepted, delivered, "{output}");
    // What this machine does not allow is said.
    assert_eq!(accepted == 0, output.contains("submissions='skipped"), "{output}");
}

#[test]
fn a_wake_that_a_dead_waker_owes_is_missed_when_its_death_is_not_settled() {
    let output = torture(&["--wakes", "5", "--seed", "1", "--without-recovery"]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{stdout}");
    assert_eq!(sums(&stdout, ["lost"]), [1], "{stdout}");
}

#[test]
fn whoever_attaches_takes_part_and_is_missed_by_nobody() {
    let runtime = tempfile::tempdir().unwrap();
    set_permissions(runtime.path(), Permissions::from_mode(0o700)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_shmworker"))
        .args(["torture", "--attach"])
        .env("XDG_RUNTIME_DIR", runtime.path())
        .output()
        .unwrap();
    let output = passes(&output);
    let scenes: Vec<_> = output.lines().filter_map(|line| line.split(' ').next()).collect();
    let expected = [
        "work",
        "client-killed",
        "silent-peers",
        "garbage",
        "same-name",
        "another-user",
        "another-pid-namespace",
        "rounds",
        "inspected",
        "too-late",
        "coordinator-killed",
        "stale-socket",
        "cleaned",
        "end",
    ];
    assert_eq!(scenes, expected, "{output}");
    // What this machine does not allow is said, and nothing else is left out.
    for line in output.lines().filter(|line| line.contains("skipped")) {
        assert!(line.starts_with("another-"), "{line}");
        eprintln!("{line}");
    }
    assert!(output.contains("stale-socket socket=left"), "{output}");
}

#[test]
fn random_torture_fails_when_the_dead_are_left_as_they_are() {
    let output = torture(&["--seconds", "5", "--seed", "1", "--without-recovery"]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let [lost, leaked] = sums(&stdout, ["lost", "leaked"]);
    assert_eq!(output.status.code(), Some(1), "{stdout}");
    assert!(lost + leaked > 0, "{stdout}");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn single_stepping_fails_when_the_dead_are_left_as_they_are() {
    let output = torture(&["--single-step", "--stride", "997", "--without-recovery"]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{stdout}");
    for line in stdout.lines() {
        let [lost, leaked] = sums(line, ["lost", "leaked"]);
        assert!(lost + leaked > 0, "{line}");
    }
}

/// A worker that was stopped over a task claims the next task in the same descriptor, which is for another. (One in its own
/// queue it may have.)
#[test]
#[cfg(target_arch = "x86_64")]
fn single_stepping_fails_when_a_next_life_has_the_same_generation() {
    let output = torture(&["--single-step", "--without-generation"]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{stdout}");
    for line in stdout.lines() {
        // What is kept and renewed has a generation of its own all the same: the fault is in what is freed.
        let is_taken = !line.contains("claim-stopped") || !line.contains("same-queue") && !line.contains("renewed");
        assert_eq!(sums(line, ["lost", "doubled", "leaked"]), [0, is_taken.into(), 0], "{line}");
    }
    assert_eq!(stdout.lines().count(), 7, "{stdout}");
}

#[test]
fn nothing_is_taken_from_a_killed_worker_before_it_is_dead() {
    let output = passes(&torture(&["--fencing"]));
    let [stuck, early, timed_out, signal] =
        sums(&output, ["reported_stuck", "moved_before_death", "timed_out", "child_signal"]);
    assert_eq!([stuck, early, timed_out, signal], [1, 0, 1, 11], "{output}");
    let broken = torture(&["--fencing", "--without-fence"]);
    assert_eq!(broken.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&broken.stderr).contains("taken from one that lived"));
}
