//! Pools that lie in a file: whatever is killed, and however often, what was accepted comes to its end once.
//!
//! `SHMWORKER_STATE_KILLS=500` kills that often in each scene that kills at random.

#[path = "common/eventually.rs"]
mod eventually;
#[path = "common/program.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod program;
#[path = "common/scene.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod scene;

use eventually::eventually;
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, alarm},
};
use program::Program;
use shmworker::{
    Pool, Tasks,
    pool::{Handle, Task, TaskOptions},
};
use std::{
    collections::{BTreeSet, VecDeque},
    fs::{self, OpenOptions},
    io::Write,
    path::Path,
    process::{Command, ExitCode},
    time::{Duration, Instant, SystemTime},
};

/// What a process of its own does for a scene comes behind this.
const PROGRAM: &str = "--program";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let [_, flag, dir, n] = &args[..]
        && flag == PROGRAM
    {
        squares(Path::new(dir), n.parse().unwrap());
        return ExitCode::SUCCESS;
    }
    scene::run(scenes![a_program_goes_on_after_everything_was_killed, jobs_go_on_after_everything_was_killed,])
}

// ---- a program ------------------------------------------------------------------------------------------------------

fn tasks() -> (Tasks, Task<u64, u64>) {
    let mut tasks = Tasks::new();
    let square = tasks.function("square", |x: u64| x * x);
    (tasks, square)
}

/// Writes the squares below `n` into a file, each once, whatever has happened to this program before.
fn squares(dir: &Path, n: u64) {
    let (tasks, square) = tasks();
    let pool = Pool::builder().workers(2).file(dir.join("state")).fork(tasks).unwrap();
    let out = dir.join("out");
    let done: BTreeSet<u64> = whole_lines(&out).iter().map(|line| number(line)).collect();
    let mut out = OpenOptions::new().append(true).create(true).open(out).unwrap();
    let mut keep = |(x, handle): (u64, Handle<u64>)| {
        handle.finish_with(|finished| out.write_all(format!("{x} {}\n", finished.result.unwrap()).as_bytes()).unwrap());
    };
    let (mut handles, mut accepted) = (VecDeque::new(), BTreeSet::new());
    for found in pool.adopted() {
        assert_eq!(found.name(), "square");
        let x: u64 = found.key().unwrap().parse().unwrap();
        assert!(accepted.insert(x), "{x} was accepted twice");
        if !done.contains(&x) {
            handles.push_back((x, found.into_handle(square).unwrap()));
        }
    }
    for x in (0..n).filter(|x| !accepted.contains(x) && !done.contains(x)) {
        if handles.len() > 200 {
            handles.pop_front().into_iter().for_each(&mut keep);
        }
        let options = TaskOptions::new().attempts(255).key(x.to_string());
        handles.push_back((x, pool.submit_with(square, &x, &options).unwrap()));
    }
    handles.into_iter().for_each(keep);
    pool.join().unwrap();
}

fn number(line: &str) -> u64 {
    line.split_once(' ').unwrap().0.parse().unwrap()
}

/// The lines of a file, which loses what is behind the last whole one.
fn whole_lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or(0, |at| at + 1);
    if whole < text.len() {
        OpenOptions::new().write(true).open(path).unwrap().set_len(whole as u64).unwrap();
    }
    text[..whole].lines().map(str::to_owned).collect()
}

fn a_program_goes_on_after_everything_was_killed() {
    const STEP: u64 = 1000;
    let program = |dir: &Path, n: u64| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(PROGRAM).arg(dir).arg(n.to_string());
        command
    };
    let (trial, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut n, out) = (STEP, dir.path().join("out"));
    kill_at_random(program(trial.path(), n), || {
        // There is always something to do.
        while whole_lines(&out).len() as u64 > n - STEP / 2 {
            n += STEP / 2;
        }
        program(dir.path(), n)
    });
    ends_well(program(dir.path(), n));
    let mut squares: Vec<u64> = Vec::new();
    for line in whole_lines(&out) {
        let (x, square) = (number(&line), line.split_once(' ').unwrap().1);
        assert_eq!(square, (x * x).to_string());
        squares.push(x);
    }
    squares.sort_unstable();
    assert_eq!(squares, (0..n).collect::<Vec<_>>());
}

// ---- jobs -----------------------------------------------------------------------------------------------------------

fn jobs_go_on_after_everything_was_killed() {
    const LINES: u64 = 2000;
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str, batch: u32| dir.path().join(format!("{name}{batch}"));
    let begin = |batch: u32| {
        let lines = (0..LINES).map(|i| format!(r#"{{"task":"echo","args":"{batch}-{i}","label":"{i}"}}"#) + "\n");
        fs::write(path("in", batch), lines.collect::<String>()).unwrap();
    };
    let command = |batch| jobs(&path("state", batch), &path("in", batch), &path("out", batch));
    (0..2).for_each(begin);
    // The first is the trial.
    let mut batch = 1;
    kill_at_random(command(0), || {
        if results(&path("out", batch)).len() as u64 == LINES {
            batch += 1;
            begin(batch);
        }
        command(batch)
    });
    for batch in 0..=batch {
        ends_well(command(batch));
        let mut found = results(&path("out", batch));
        found.sort_unstable();
        assert_eq!(found, (0..LINES).collect::<Vec<_>>());
    }
}

fn jobs(state: &Path, input: &Path, output: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shmworker"));
    command.args(["jobs", "-j", "2", "--retries", "254", "--state"]).arg(state).arg("--output").arg(output).arg(input);
    command
}

/// The numbers of the jobs that stand in an output, all of which are done.
fn results(output: &Path) -> Vec<u64> {
    let text = fs::read_to_string(output).unwrap_or_default();
    let whole = text.rfind('\n').map_or(0, |at| at + 1);
    let number = |line: &str| {
        let result: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(result["status"], "done", "{line}");
        result["label"].as_str().unwrap().parse().unwrap()
    };
    text[..whole].lines().map(number).collect()
}

// ---- deaths ---------------------------------------------------------------------------------------------------------

#[track_caller]
fn ends_well(command: Command) {
    let mut program = Program::start(command);
    let status = program.end();
    assert!(status.success(), "{status}");
}

/// Starts programs one after another, and kills each with all that descends from it, at any moment of the time that `trial` takes.
fn kill_at_random(trial: Command, mut command: impl FnMut() -> Command) {
    let kills = std::env::var("SHMWORKER_STATE_KILLS").map_or(25, |n| n.parse::<u32>().unwrap());
    alarm::set(60 + 2 * kills);
    let began = Instant::now();
    ends_well(trial);
    let longest = began.elapsed().as_micros() as u64;
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("seed {seed}, {kills} kills within {longest} us");
    let mut random = Random(seed);
    for _ in 0..kills {
        let program = Program::start(command());
        let (began, life) = (Instant::now(), Duration::from_micros(random.below(longest)));
        while began.elapsed() < life {
            std::hint::spin_loop();
        }
        kill_all(&program, &mut random);
    }
}

/// By and by, in any order: who is left may go on for a moment.
fn kill_all(program: &Program, random: &mut Random) {
    eventually("all are dead", || {
        let mut family = program.family();
        while !family.is_empty() {
            let one = family.swap_remove(random.below(family.len() as u64) as usize);
            let _ = kill(Pid::from_raw(one.pid), Signal::SIGKILL);
        }
        program.family().is_empty().then_some(())
    });
}

/// Xorshift (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        for (left, by) in [(true, 13), (false, 7), (true, 17)] {
            self.0 ^= if left { self.0 << by } else { self.0 >> by };
        }
        self.0 % n
    }
}
