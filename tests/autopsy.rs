//! `shmworker autopsy`: what workers did last whose ends are known.

#[path = "common/scene.rs"]
mod scene;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use scene::{at_least, until, words};
use serde_json::Value;
use shmworker::{
    Pool, Tasks,
    pool::{Retry, Task, TaskOptions},
};
use std::{
    fs::File,
    io::Read,
    path::Path,
    process::{Command, ExitCode},
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

const SQUARE: Task<u64, u64> = Task::named("square");
const STAY: Task<(), ()> = Task::named("stay");
const CRASH_ONCE: Task<(), ()> = Task::named("crash once");
const FAIL_ONCE: Task<(), u32> = Task::named("fail once");

/// How often `stay` has begun, and whether it may end.
struct Gate([&'static AtomicU64; 2]);

impl Gate {
    fn new() -> Gate {
        let [begun, is_open] = words(2) else { unreachable!("two were asked for") };
        Gate([begun, is_open])
    }

    fn begun(&self) -> &'static AtomicU64 {
        self.0[0]
    }

    fn open(&self) {
        self.0[1].store(1, SeqCst);
    }
}

fn tasks(gate: &Gate) -> Tasks {
    let [begun, is_open] = gate.0;
    let mut tasks = Tasks::new();
    tasks.function("square", |x: u64| x * x);
    tasks.handler("stay", move |context, ()| {
        context.heartbeat();
        begun.fetch_add(1, SeqCst);
        until(|| is_open.load(SeqCst) == 1);
        Ok(())
    });
    tasks.handler("crash once", |context, ()| {
        if context.attempt() == 1 {
            // SAFETY: none: it is there to crash.
            unsafe { std::ptr::without_provenance_mut::<u8>(1).write_volatile(1) };
        }
        Ok(())
    });
    tasks.handler("fail once", |context, ()| match context.attempt() {
        1 => Err(std::fmt::Error.into()),
        attempt => Ok(attempt),
    });
    tasks
}

fn main() -> ExitCode {
    scene::run(scenes![
        who_is_killed_in_a_handler_has_left_what_it_ran,
        who_segfaults_has_left_the_task_that_did,
        who_is_killed_while_it_idles_has_left_its_sleep,
        what_a_dead_pool_has_left_is_told_by_its_file,
        a_worker_of_several_slots_leaves_what_all_of_them_did,
        deaths_whose_trails_are_gone_are_told,
        what_is_no_pool_is_an_error,
    ])
}

fn name() -> String {
    format!("test-autopsy-{}", std::process::id())
}

fn pool(gate: &Gate) -> Pool {
    Pool::builder().name(name()).workers(1).fork(tasks(gate)).unwrap()
}

fn again() -> TaskOptions {
    TaskOptions::new().attempts(2).retry_on([Retry::Died])
}

fn autopsy(what: &str) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_shmworker")).args(["autopsy", "--json", what]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text(what: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_shmworker")).args(["autopsy", what]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The first of those in this state.
#[track_caller]
fn one<'j>(json: &'j Value, state: &str) -> &'j Value {
    let found = json["participants"].as_array().unwrap().iter().find(|p| p["state"] == state);
    found.unwrap_or_else(|| panic!("nobody is {state}: {json}"))
}

fn events(trace: &Value) -> &Vec<Value> {
    trace["events"].as_array().unwrap()
}

fn attempts(trace: &Value) -> Vec<&Value> {
    events(trace).iter().filter(|event| event["event"] == "attempt").collect()
}

/// Events without their times, which are the better known the longer a pool has lived, and their order, which one that runs has not.
fn timeless(trace: &Value) -> Vec<Value> {
    let mut events = events(trace).clone();
    for event in &mut events {
        event.as_object_mut().unwrap().retain(|field, _| !field.ends_with("_ns") && field != "sequence");
    }
    events
}

fn kill_it(trace: &Value) {
    kill(Pid::from_raw(trace["pid"].as_i64().unwrap() as i32), Signal::SIGKILL).unwrap();
}

fn who_is_killed_in_a_handler_has_left_what_it_ran() {
    let gate = Gate::new();
    let pool = pool(&gate);
    for x in 0..5 {
        assert_eq!(pool.submit(SQUARE, &x).unwrap().wait(), Ok(x * x));
    }
    let options = TaskOptions::new().attempts(2).retry_on([Retry::Failed]);
    assert_eq!(pool.submit_with(FAIL_ONCE, &(), &options).unwrap().wait(), Ok(2));
    let handle = pool.submit_with(STAY, &(), &again()).unwrap();
    at_least(gate.begun(), 1);
    let before = autopsy(&name());
    let worker = one(&before, "live");
    assert_eq!((&worker["label"], &worker["death"]), (&"worker:0".into(), &Value::Null), "{worker}");
    kill_it(worker);
    at_least(gate.begun(), 2);

    let json = autopsy(&name());
    let dead = one(&json, "dead");
    assert_eq!((&dead["label"], &dead["pid"], &dead["torn"]), (&worker["label"], &worker["pid"], &0.into()));
    assert_eq!(dead["death"]["exit"], "signal 9 (SIGKILL)", "{dead}");
    assert_eq!((&dead["death"]["requeued"], &dead["death"]["failed"]), (&1.into(), &0.into()), "{dead}");
    assert_eq!(timeless(dead), timeless(worker), "it did nothing more");
    let told: Vec<_> = attempts(dead).iter().map(|a| (&a["task"], &a["attempt"], &a["end"])).collect();
    let (square, fail, completed) = (&"square".into(), &"fail once".into(), &"completed".into());
    let [one_time, two] = [1.into(), 2.into()];
    let last = (&"stay".into(), &one_time, &Value::Null);
    let mut expected = vec![(square, &one_time, completed); 5];
    let retried = "to be retried".into();
    expected.extend([(fail, &one_time, &retried), (fail, &two, completed), last]);
    assert_eq!(told, expected, "{dead}");
    let last = attempts(dead)[7];
    assert_eq!((&last["ended_ns"], &last["got_fatal_signal"]), (&Value::Null, &false.into()), "{last}");
    let newest = json["pool"]["newest_ns"].as_u64().unwrap();
    let heartbeat = last["heartbeat_ns"].as_u64().unwrap();
    assert!(last["began_ns"].as_u64() <= Some(heartbeat) && heartbeat <= newest, "{json}");
    let sequences: Vec<u64> = events(dead).iter().map(|event| event["sequence"].as_u64().unwrap()).collect();
    assert_eq!(sequences, (0..sequences.len() as u64).collect::<Vec<_>>(), "{dead}");

    let heir = one(&json, "live");
    assert_eq!((&heir["label"], attempts(heir)[0]["attempt"].clone()), (&"worker:0".into(), 2.into()), "{heir}");
    assert_eq!(attempts(heir)[0]["generation"], last["generation"]);
    let text = text(&name());
    let died = format!("worker:0 (pid {}) died, signal 9 (SIGKILL), about -", dead["pid"]);
    for part in
        [&died[..], "ran stay (descriptor ", ", attempt 1 until the end; last heartbeat -", "runs stay (descriptor"]
    {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
    gate.open();
    handle.wait().unwrap();
    pool.join().unwrap();
}

fn who_segfaults_has_left_the_task_that_did() {
    let pool = pool(&Gate::new());
    assert_eq!(pool.submit(SQUARE, &3).unwrap().wait(), Ok(9));
    pool.submit_with(CRASH_ONCE, &(), &again()).unwrap().wait().unwrap();
    let json = autopsy(&name());
    let dead = one(&json, "dead");
    assert_eq!(dead["death"]["exit"], "signal 11 (SIGSEGV)", "{dead}");
    let [square, crash] = attempts(dead)[..] else { panic!("it ran two: {dead}") };
    assert_eq!((&square["task"], &square["end"]), (&"square".into(), &"completed".into()));
    assert_eq!((&crash["task"], &crash["attempt"], &crash["end"]), (&"crash once".into(), &1.into(), &Value::Null));
    assert_eq!((&square["got_fatal_signal"], &crash["got_fatal_signal"]), (&false.into(), &true.into()), "{dead}");
    let text = text(&name());
    assert!(text.contains("died, signal 11 (SIGSEGV)") && text.contains("; its thread got a fatal signal"), "{text}");
    assert_eq!(attempts(one(&json, "live"))[0]["attempt"], 2);
    pool.join().unwrap();
}

fn who_is_killed_while_it_idles_has_left_its_sleep() {
    let pool = pool(&Gate::new());
    assert_eq!(pool.submit(SQUARE, &3).unwrap().wait(), Ok(9));
    let is_asleep = |json: &Value| {
        let last = events(one(json, "live")).last().cloned().unwrap_or_default();
        last["event"] == "sleep" && last["end"].is_null()
    };
    until(|| is_asleep(&autopsy(&name())));
    kill_it(one(&autopsy(&name()), "live"));
    let is_told = |json: &Value| json["participants"].as_array().unwrap().iter().any(|p| p["state"] == "dead");
    until(|| is_told(&autopsy(&name())));
    let json = autopsy(&name());
    let dead = one(&json, "dead");
    assert_eq!((&dead["death"]["exit"], &dead["death"]["requeued"]), (&"signal 9 (SIGKILL)".into(), &0.into()));
    let last = events(dead).last().unwrap();
    assert_eq!((&last["event"], &last["end"], &last["ended_ns"]), (&"sleep".into(), &Value::Null, &Value::Null));
    assert!(last["began_ns"].as_u64() > attempts(dead)[0]["ended_ns"].as_u64(), "{dead}");
    let text = text(&name());
    assert!(text.contains("slept until the end: there was nothing to do"), "{text}");
    pool.join().unwrap();
}

/// Copies the segment that this process has open, as far as tasks and all that is told of them lie in it.
fn keep_segment(at: &Path) {
    let is_segment = |path: &Path| {
        let mut magic = [0; 8];
        path.metadata().is_ok_and(|meta| meta.is_file())
            && File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok()
            && &magic == b"shmworkr"
    };
    let mut open = std::fs::read_dir("/proc/self/fd").unwrap().flatten().map(|entry| entry.path());
    let segment = File::open(open.find(|path| is_segment(path)).unwrap()).unwrap();
    let (len, mut copy) = (segment.metadata().unwrap().len(), File::create(at).unwrap());
    std::io::copy(&mut (&segment).take(32 << 20), &mut copy).unwrap();
    copy.set_len(len).unwrap();
}

fn what_a_dead_pool_has_left_is_told_by_its_file() {
    let gate = Gate::new();
    let pool = pool(&gate);
    let _handle = pool.submit(STAY, &()).unwrap();
    at_least(gate.begun(), 1);
    let worker = one(&autopsy(&name()), "live")["pid"].as_i64().unwrap();
    kill(Pid::from_raw(pool.coordinator_pid() as i32), Signal::SIGKILL).unwrap();
    until(|| !Path::new(&format!("/proc/{worker}")).exists());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("segment");
    keep_segment(&file);
    let json = autopsy(file.to_str().unwrap());
    assert_eq!(json["pool"]["runs"], false);
    let lost = one(&json, "lost");
    assert_eq!((&lost["pid"], &lost["death"]), (&worker.into(), &Value::Null), "{lost}");
    assert_eq!(attempts(lost)[0]["task"], "stay");
    let text = text(file.to_str().unwrap());
    assert!(text.contains("was alive when its coordinator was") && text.contains("until the end"), "{text}");
    // Nobody is left to be joined.
    std::process::exit(0);
}

fn a_worker_of_several_slots_leaves_what_all_of_them_did() {
    let gate = Gate::new();
    let pool = Pool::builder().name(name()).workers(1).slots(4).fork(tasks(&gate)).unwrap();
    let staying: Vec<_> = (0..3).map(|_| pool.submit_with(STAY, &(), &again()).unwrap()).collect();
    at_least(gate.begun(), 3);
    for x in 0..10 {
        assert_eq!(pool.submit(SQUARE, &x).unwrap().wait(), Ok(x * x));
    }
    let json = autopsy(&name());
    let worker = one(&json, "live");
    let count = |end: Value| attempts(worker).iter().filter(|a| a["end"] == end).count();
    assert_eq!((count(Value::Null), count("completed".into()), &worker["torn"]), (3, 10, &0.into()), "{worker}");
    gate.open();
    staying.into_iter().for_each(|handle| handle.wait().unwrap());
    pool.join().unwrap();
}

fn deaths_whose_trails_are_gone_are_told() {
    let gate = Gate::new();
    let pool = pool(&gate);
    let options = TaskOptions::new().attempts(5).retry_on([Retry::Died]).max_worker_deaths(5);
    let handle = pool.submit_with(STAY, &(), &options).unwrap();
    for n in 1..4 {
        at_least(gate.begun(), n);
        kill_it(one(&autopsy(&name()), "live"));
    }
    at_least(gate.begun(), 4);
    let json = autopsy(&name());
    let with_trail = json["participants"].as_array().unwrap().iter().filter(|p| !p["death"].is_null()).count();
    let others = json["other_deaths"].as_array().unwrap();
    assert_eq!(with_trail + others.len(), 3, "{json}");
    assert!(with_trail >= 1, "{json}");
    for death in others {
        assert_eq!((&death["label"], &death["exit"]), (&"worker:0".into(), &"signal 9 (SIGKILL)".into()));
    }
    gate.open();
    handle.wait().unwrap();
    pool.join().unwrap();
}

fn what_is_no_pool_is_an_error() {
    let output = Command::new(env!("CARGO_BIN_EXE_shmworker")).args(["autopsy", "nobody"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("no pool 'nobody' runs") && said.contains("nor is there a named segment or a file"),
        "{said}"
    );
}
