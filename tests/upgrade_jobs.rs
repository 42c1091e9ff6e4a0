//! `shmworker upgrade` of `shmworker jobs`: none of its jobs is lost or run twice, and what runs goes on.
//!
//! The new program is the same one, at the same path: the kernel says of a process whether its file has been replaced since.

#![allow(dead_code, reason = "what tests share is used in parts")]

#[path = "common/eventually.rs"]
mod eventually;

use eventually::eventually;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    thread,
};

const JOBS: u64 = 100_000;

/// A directory with the program, which is replaced by another.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        // Where the program is, for links to it.
        let scene = Scene { dir: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap() };
        scene.replace();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn rename(&self) {
        fs::rename(self.path("new"), self.path("shmworker")).unwrap();
    }

    /// The program is replaced by itself.
    fn replace(&self) {
        let _ = fs::remove_file(self.path("shmworker")); // a link to the same file would not be renamed
        fs::hard_link(env!("CARGO_BIN_EXE_shmworker"), self.path("new")).unwrap();
        self.rename();
    }

    /// … by something else altogether.
    fn spoil(&self) {
        fs::write(self.path("new"), "#!/bin/true\n").unwrap();
        fs::set_permissions(self.path("new"), fs::Permissions::from_mode(0o755)).unwrap();
        self.rename();
    }

    fn jobs(&self, args: &[&str]) -> Jobs {
        let mut command = Command::new(self.path("shmworker"));
        command.arg("jobs").args(args).current_dir(&self.dir).env("HOME", self.dir.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Jobs(Some(command.spawn().unwrap()))
    }
}

/// The command as it runs; killed if the test ends before it.
struct Jobs(Option<Child>);

impl Jobs {
    fn pid(&self) -> String {
        self.0.as_ref().unwrap().id().to_string()
    }

    /// Pool, label and process of those that live.
    fn living(&self) -> Vec<(String, i64)> {
        let look = || {
            let output = shmworker(&["inspect", "--json", &self.pid()]);
            let json: Value = output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())?;
            let live = json["participants"].as_array().unwrap().iter().filter(|p| p["state"] == "live");
            Some(live.map(|p| (p["label"].as_str().unwrap().to_owned(), p["pid"].as_i64().unwrap())).collect())
        };
        eventually("its pool can be looked at", look)
    }

    fn process(&self, label: &str) -> i64 {
        // The coordinator's place is kept before there is one.
        let is_there = || self.living().into_iter().find(|(other, pid)| other == label && *pid > 0);
        eventually(format_args!("there is {label}"), is_there).1
    }

    /// All processes but the command's own are of the program that is there now.
    fn are_new(&self) {
        let is_new = |pid| {
            !fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.to_string_lossy().ends_with(" (deleted)"))
        };
        let workers = || {
            let living = self.living();
            let mut others = living.iter().filter(|(label, _)| label != "program");
            others.all(|(_, pid)| is_new(*pid)).then_some(())
        };
        eventually("coordinator and workers are of the new program", workers);
    }

    fn upgrade(&self) -> Output {
        shmworker(&["upgrade", &self.pid()])
    }

    #[track_caller]
    fn refused(&self, why: &str) {
        let output = self.upgrade();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && said.contains(why) && said.lines().count() == 1, "{said}");
    }

    /// Has it read this input, and ends it.
    fn feed(&mut self, input: String) {
        let mut stdin = self.0.as_mut().unwrap().stdin.take().unwrap();
        thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    }

    /// Waits for its end, which is to be a good one: what it has written.
    #[track_caller]
    fn ends(mut self) -> String {
        let output = self.0.take().unwrap().wait_with_output().unwrap();
        let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(output.status.success() && err.is_empty(), "{}: {err}", output.status);
        out
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn shmworker(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shmworker")).args(args).output().unwrap()
}

fn echoes(n: u64) -> String {
    (0..n).map(|n| format!("{{\"task\":\"echo\",\"args\":{n}}}\n")).collect()
}

/// Each of so many jobs has one result.
#[track_caller]
fn are_whole(results: &str, n: u64) {
    let results = results.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut found: Vec<u64> = results.map(|result| result["result"].as_u64().unwrap()).collect();
    found.sort_unstable();
    assert!(found.iter().copied().eq(0..n), "one is lost or doubled: {} of {n}", found.len());
}

/// Feeds it so many jobs, and upgrades it again and again until they have all been run: what was written.
fn while_upgraded(scene: &Scene, mut jobs: Jobs, n: u64) -> String {
    let before = jobs.process("coordinator");
    let mut stdout = jobs.0.as_mut().unwrap().stdout.take().unwrap();
    let results = thread::spawn(move || std::io::read_to_string(&mut stdout).unwrap());
    jobs.feed(echoes(n));
    let mut upgrades = 0;
    while !results.is_finished() {
        scene.replace();
        let output = jobs.upgrade();
        // The last of them may come when all is over.
        if output.status.success() {
            assert!(text(&output.stdout).contains(&format!("as process {before}\n")), "{output:?}");
            upgrades += 1;
        } else {
            eventually("it has ended", || results.is_finished().then_some(()));
        }
    }
    jobs.ends();
    assert!(upgrades > 1, "{upgrades}");
    println!("{upgrades} upgrades");
    results.join().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_hundred_thousand_jobs_do_not_notice() {
    let scene = Scene::new();
    are_whole(&while_upgraded(&scene, scene.jobs(&["-j2"]), JOBS), JOBS);
}

#[test]
fn jobs_with_a_state_do_not_notice() {
    let scene = Scene::new();
    let jobs = scene.jobs(&["-j2", "--state", "state", "--output", "output"]);
    assert_eq!(while_upgraded(&scene, jobs, JOBS / 10), "");
    are_whole(&fs::read_to_string(scene.path("output")).unwrap(), JOBS / 10);
    // Nothing is left in it.
    let output = shmworker(&["recover", scene.path("state").to_str().unwrap()]);
    assert!(
        output.status.success() && text(&output.stdout).ends_with("next start   goes on with the segment\n"),
        "{output:?}"
    );
}

#[test]
fn what_runs_is_finished_by_who_began_it() {
    let scene = Scene::new();
    let mut jobs = scene.jobs(&[
        "-j1",
        "--json",
        "--",
        "sh",
        "-c",
        "echo $PPID; touch begun; until [ -e {} ]; do sleep 0.01; done",
    ]);
    let (coordinator, before) = (jobs.process("coordinator"), jobs.process("worker:0"));
    jobs.feed("gate\ngate\n".to_owned());
    eventually("it has begun", || scene.path("begun").exists().then_some(()));
    scene.replace();
    assert!(jobs.upgrade().status.success());
    assert_eq!((jobs.process("coordinator"), jobs.process("worker:0")), (coordinator, before));
    // Another one while the first waits for the worker.
    scene.replace();
    assert!(jobs.upgrade().status.success());
    fs::write(scene.path("gate"), "").unwrap();
    let results: Vec<Value> = jobs.ends().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let by: Vec<i64> =
        results.iter().map(|r| r["result"]["stdout"].as_str().unwrap().trim().parse().unwrap()).collect();
    assert!(by.len() == 2 && by[0] == before && by[1] != before, "{by:?}, {before}");
    assert!(results.iter().all(|result| result["attempts"] == 1), "{results:?}");
}

#[test]
fn a_signal_to_the_command_upgrades_all_but_that() {
    let scene = Scene::new();
    let mut jobs = scene.jobs(&["-j2"]);
    jobs.process("worker:1");
    scene.replace();
    kill(Pid::from_raw(jobs.pid().parse().unwrap()), Signal::SIGUSR2).unwrap();
    jobs.are_new();
    jobs.feed(echoes(10));
    are_whole(&jobs.ends(), 10);
}

#[test]
fn a_program_that_can_not_go_on_does_not() {
    let scene = Scene::new();
    let mut jobs = scene.jobs(&["-j2"]);
    jobs.process("worker:1");
    let before = jobs.living();
    scene.spoil();
    jobs.refused("the program that is to follow ended with exit code 0 before it said that it can");
    fs::remove_file(scene.path("shmworker")).unwrap();
    jobs.refused("cannot execute the program that is to follow");
    assert_eq!(jobs.living(), before);
    scene.replace();
    assert!(jobs.upgrade().status.success());
    jobs.feed(echoes(10));
    are_whole(&jobs.ends(), 10);
}

/// For a program that has no pool to go on with.
#[test]
fn the_hidden_command_is_for_coordinators() {
    let output = shmworker(&["successor"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("error: no pool has started this program"), "{output:?}");
}
