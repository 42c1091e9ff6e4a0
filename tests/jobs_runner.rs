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
        several_go_together,
        what_is_cancelled_together_does_not_go_again,
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
    let lines = "{\"task\":\"echo\",\"args\":[\n1,\r\n\"a\\n\"]}";
    runner.submit(7, &job(lines)).unwrap();
    let unknown = runner.submit(8, &job(r#"{"task":"ehco"}"#)).unwrap_err();
    assert_eq!(unknown.status, Status::Failed);
    assert!(unknown.error.unwrap().contains("ehco"));
    let ends = all(&mut runner);
    let status = ends.values().map(|end| end.status).collect::<Vec<_>>();
    use Status::*;
    assert_eq!(status, [Done, Failed, Panicked, Died, TimedOut, Failed, Done, Done]);
    assert_eq!((text(&ends[&0]), ends[&0].label.as_deref()), (r#"{"a": [1]}"#, Some("x")));
    assert!(ends[&2].error.as_ref().unwrap().ends_with(": no"), "{:?}", ends[&2]);
    assert_eq!((ends[&3].signal, ends[&3].attempts), (Some(6), 1));
    assert_eq!((ends[&5].exit_code, ends[&5].attempts), (Some(1), 3));
    assert_eq!(text(&ends[&6]), r#""ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad""#);
    assert_eq!(text(&ends[&7]), r#"[ 1,  "a\n"]"#, "it is one line");
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

fn several_go_together() {
    let runs = words(1);
    let pool = pool(|tasks| {
        tasks.handler("some", move |_, n: u64| match n {
            3 => Err(shmworker::pool::Failure::new("three")),
            5 => std::process::abort(),
            7 => panic!("seven"),
            n => Ok(n + runs[0].fetch_add(0, SeqCst)),
        });
        tasks.function("long", |n: usize| "x".repeat(n));
    });
    let mut runner = Runner::new(&pool, 100).chunk(4);
    for number in 0..10 {
        runner.submit(number, &job(&format!(r#"{{"task":"some","args":{number},"label":"{number}"}}"#))).unwrap();
    }
    assert_eq!(runner.under_way(), 10);
    runner.submit(10, &job(r#"{"task":"some","args":3,"retries":2}"#)).unwrap();
    runner.submit(11, &job(r#"{"task":"some","args":5,"retries":1}"#)).unwrap();
    runner.submit(12, &job(r#"{"task":"echo","timeout":"10s"}"#)).unwrap();
    assert_eq!(runner.submit(13, &job(r#"{"task":"smoe"}"#)).unwrap_err().status, Status::Failed);
    let ends = all(&mut runner);
    assert_eq!((ends.len(), runner.under_way()), (13, 0));
    for (number, end) in &ends {
        let expected = match number {
            3 | 10 => (Status::Failed, if *number == 10 { 3 } else { 1 }),
            5 | 11 => (Status::Died, if *number == 11 { 2 } else { 1 }),
            7 => (Status::Panicked, 1),
            _ => (Status::Done, 1),
        };
        assert_eq!((end.status, end.attempts), expected, "{number}: {end:?}");
        if *number < 10 {
            assert_eq!(end.label, Some(number.to_string()));
        }
        if expected.0 == Status::Done && *number < 10 {
            assert_eq!(text(end), number.to_string());
        }
    }
    // Results that have no room together.
    for number in 0..8 {
        runner.submit(number, &job(r#"{"task":"long","args":10000000}"#)).unwrap();
    }
    let ends = all(&mut runner);
    assert!(ends.len() == 8 && ends.values().all(|end| end.status == Status::Done && text(end).len() == 10_000_002));
    drop(runner);
    pool.join().unwrap();
}

fn what_is_cancelled_together_does_not_go_again() {
    let gate = words(2);
    let pool = pool(|tasks| {
        tasks.handler("wait", move |_, n: u64| {
            gate[0].fetch_add(1, SeqCst);
            at_least(&gate[1], 1);
            if n == 0 { Err(shmworker::pool::Failure::new("no")) } else { Ok(()) }
        });
    });
    let mut runner = Runner::new(&pool, 100).chunk(2);
    for number in 0..9 {
        runner.submit(number, &job(r#"{"task":"wait","args":0,"retries":5}"#)).unwrap();
    }
    at_least(&gate[0], 2);
    runner.cancel_waiting();
    gate[1].store(1, SeqCst);
    let ends = all(&mut runner);
    assert_eq!(ends.len(), 9);
    assert_eq!(ends.values().filter(|end| end.status == Status::Cancelled && end.attempts == 1).count(), 4, "{ends:?}");
    assert_eq!(ends.values().filter(|end| end.status == Status::Cancelled && end.attempts == 0).count(), 5, "{ends:?}");
    drop(runner);
    pool.join().unwrap();
}
