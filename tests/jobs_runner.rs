//! Jobs in a pool of this program: how each can end, and that whoever waits for them is woken.

#[path = "common/scene.rs"]
mod scene;

use scene::{at_least, words};
use shmworker::{
    Pool, Tasks,
    jobs::{Job, JobResult, Runner, Status, builtin},
};
use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

fn main() -> ExitCode {
    scene::run(scenes![
        each_way_to_end,
        a_program_and_what_it_leaves,
        one_key_is_one_task,
        a_cancelled_leader_leaves_its_task_to_the_others,
        an_alarm_ends_a_wait,
        more_than_there_are_descriptors,
    ])
}

fn job(json: &str) -> Job {
    serde_json::from_str(json).unwrap()
}

fn pool(more: impl FnOnce(&mut Tasks)) -> Pool {
    let mut tasks = Tasks::new();
    builtin(&mut tasks);
    more(&mut tasks);
    Pool::builder().workers(2).fork(tasks).unwrap()
}

fn all(runner: &mut Runner<'_>) -> BTreeMap<u64, JobResult> {
    std::iter::from_fn(|| runner.next(None)).collect()
}

fn text(result: &JobResult) -> &str {
    result.result.as_deref().unwrap().get()
}

fn each_way_to_end() {
    let pool = pool(|tasks| {
        tasks.handler("panic", |_, ()| -> Result<(), _> { panic!("no") });
        tasks.handler("abort", |_, ()| -> Result<(), _> { std::process::abort() });
    });
    let mut runner = Runner::new(&pool, 100);
    let jobs = [
        r#"{"task":"echo","args":{"a": [1]},"label":"x"}"#,
        r#"{"task":"sleep","args":"what"}"#,
        r#"{"task":"panic"}"#,
        r#"{"task":"abort"}"#,
        r#"{"task":"sleep","args":1000,"timeout":"20ms"}"#,
        r#"{"task":"exec","args":["false"],"retries":2}"#,
        r#"{"task":"sha256","args":"abc"}"#,
    ];
    for (number, json) in (0..).zip(jobs) {
        runner.submit(number, &job(json)).unwrap();
    }
    let unknown = runner.submit(7, &job(r#"{"task":"ehco"}"#)).unwrap_err();
    assert_eq!(unknown.status, Status::Failed);
    assert!(unknown.error.unwrap().contains("ehco"));
    let ends = all(&mut runner);
    let status = ends.values().map(|end| end.status).collect::<Vec<_>>();
    use Status::*;
    assert_eq!(status, [Done, Failed, Panicked, Died, TimedOut, Failed, Done]);
    assert_eq!((text(&ends[&0]), ends[&0].label.as_deref()), (r#"{"a": [1]}"#, Some("x")));
    assert!(ends[&2].error.as_ref().unwrap().ends_with(": no"), "{:?}", ends[&2]);
    assert_eq!((ends[&3].signal, ends[&3].attempts), (Some(6), 1));
    assert_eq!((ends[&5].exit_code, ends[&5].attempts), (Some(1), 3));
    assert_eq!(text(&ends[&6]), r#""ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad""#);
    for end in ends.values() {
        assert!(end.worker.as_deref().is_some_and(|worker| worker.starts_with("worker:")), "{end:?}");
        assert!(end.pid.is_some(), "{end:?}");
    }
    drop(runner);
    pool.join().unwrap();
}

fn a_program_and_what_it_leaves() {
    let pool = pool(|_| ());
    let mut runner = Runner::new(&pool, 100);
    let jobs = [
        r#"{"task":"exec","args":{"program":"sh","args":["-c","cat; echo $A >&2; pwd; ls /proc/self/fd | wc -l"],"stdin":"in ","env":{"A":"b"},"cwd":"/"}}"#,
        r#"{"task":"exec","args":["sh","-c","echo out; kill -9 $$"]}"#,
        r#"{"task":"exec","args":["/none/such"]}"#,
        r#"{"task":"exec","args":["sh","-c","trap '' TERM; echo begun; sleep 1000"],"timeout":"100ms"}"#,
        r#"{"task":"exec","args":["printf","\\377"]}"#,
        r#"{"task":"exec","args":["grep","-E","Sig(Ign|Blk)","/proc/self/status"]}"#,
    ];
    for (number, json) in (0..).zip(jobs) {
        runner.submit(number, &job(json)).unwrap();
    }
    let ends = all(&mut runner);
    // `ls` has a fourth for the directory.
    assert_eq!(text(&ends[&0]), r#"{"exit_code":0,"stdout":"in /\n4\n","stderr":"b\n"}"#);
    assert_eq!((ends[&1].status, ends[&1].signal), (Status::Failed, Some(9)));
    assert_eq!(text(&ends[&1]), r#"{"signal":9,"stdout":"out\n","stderr":""}"#);
    assert!(ends[&2].error.as_ref().unwrap().contains("\"/none/such\""), "{:?}", ends[&2]);
    assert_eq!((ends[&3].status, ends[&3].signal), (Status::TimedOut, Some(9)));
    assert!(text(&ends[&3]).contains("begun"), "what it wrote before its end is kept: {:?}", ends[&3]);
    assert!(text(&ends[&4]).contains(r#""stdout_base64":"/w==""#), "{:?}", ends[&4]);
    let output: serde_json::Value = serde_json::from_str(text(&ends[&5])).unwrap();
    for line in output["stdout"].as_str().unwrap().lines() {
        let set = u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap();
        // But for the two that are the C library's own.
        assert_eq!(set & !(0b11 << 31), 0, "{line}");
    }
    drop(runner);
    pool.join().unwrap();
}

fn one_key_is_one_task() {
    let (gate, runs) = (words(1), words(1));
    let pool = pool(|tasks| {
        tasks.function("once", move |()| {
            at_least(&gate[0], 1);
            runs[0].fetch_add(1, SeqCst)
        });
    });
    let mut runner = Runner::new(&pool, 100);
    for number in 0..3 {
        runner.submit(number, &job(&format!(r#"{{"task":"once","key":"k","label":"{number}"}}"#))).unwrap();
    }
    assert_eq!((runner.under_way(), runner.room()), (3, 97));
    gate[0].store(1, SeqCst);
    let ends = all(&mut runner);
    assert_eq!((ends.len(), runner.room()), (3, 100));
    for (number, end) in &ends {
        assert_eq!((text(end), end.label.clone()), ("0", Some(number.to_string())));
    }
    // It is over: another is run.
    runner.submit(3, &job(r#"{"task":"once","key":"k"}"#)).unwrap();
    assert_eq!(text(&all(&mut runner)[&3]), "1");
    drop(runner);
    pool.join().unwrap();
}

fn a_cancelled_leader_leaves_its_task_to_the_others() {
    let gate = words(1);
    let pool = pool(|tasks| {
        tasks.function("wait", move |()| at_least(&gate[0], 1));
    });
    let mut runner = Runner::new(&pool, 100);
    for number in 0..3 {
        runner.submit(number, &job(r#"{"task":"wait","key":"k"}"#)).unwrap();
    }
    runner.cancel(0);
    runner.cancel(2);
    let status = |end: Option<(u64, JobResult)>| end.map(|(number, end)| (number, end.status));
    let mut first = [status(runner.next(None)), status(runner.next(None))];
    first.sort_by_key(|end| end.map(|(number, _)| number));
    assert_eq!(first, [Some((0, Status::Cancelled)), Some((2, Status::Cancelled))]);
    gate[0].store(1, SeqCst);
    assert_eq!(status(runner.next(None)), Some((1, Status::Done)));
    assert_eq!(runner.under_way(), 0);
    drop(runner);
    pool.join().unwrap();
}

fn an_alarm_ends_a_wait() {
    let pool = pool(|_| ());
    let mut runner = Runner::new(&pool, 2);
    runner.submit(0, &job(r#"{"task":"sleep","args":1000}"#)).unwrap();
    let alarm = runner.alarm();
    // Before the wait, and during it, or before it again: each ends one.
    alarm.ring();
    assert!(runner.next(None).is_none());
    let ringer = std::thread::spawn(move || alarm.ring());
    assert!(runner.next(None).is_none());
    ringer.join().unwrap();
    assert!(runner.next(Some(Instant::now() + Duration::from_millis(1))).is_none(), "the time is over");
    runner.cancel_all();
    assert_eq!(runner.next(None).map(|(number, end)| (number, end.status)), Some((0, Status::Cancelled)));
    drop(runner);
    pool.join().unwrap();
}

fn more_than_there_are_descriptors() {
    let pool = pool(|_| ());
    let mut runner = Runner::new(&pool, 20_000);
    let long = "x".repeat(300);
    for number in 0..20_000 {
        runner.submit(number, &job(&format!(r#"{{"task":"echo","args":"{long}{number}"}}"#))).unwrap();
    }
    let ends = all(&mut runner);
    assert_eq!(ends.len(), 20_000);
    assert!(ends.iter().all(|(number, end)| text(end) == format!("\"{long}{number}\"")));
    drop(runner);
    pool.join().unwrap();
}
