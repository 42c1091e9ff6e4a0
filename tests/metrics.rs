//! Metrics as Prometheus gets them, of pools whose work is known. What is served is read by a parser of others.

#[path = "common/scene.rs"]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod scene;

use prometheus_parse::{Sample, Scrape, Value};
use scene::{until, words};
use shmworker::{
    Pool, Tasks,
    pool::{Task, TaskOptions},
};
use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, ChildStdin, Command, ExitCode, Stdio},
    sync::atomic::Ordering::SeqCst,
};

const SQUARE: Task<u64, u64> = Task::named("square");
const STAY: Task<(), ()> = Task::named("stay");
const KILL_ONCE: Task<(), ()> = Task::named("kill once");
const REFUSE: Task<bool, ()> = Task::named("refuse");

fn main() -> ExitCode {
    scene::run(scenes![
        a_pool_tells_what_became_of_its_tasks,
        a_pool_tells_of_deaths,
        more_names_than_there_is_room_for_are_told_together,
        jobs_serve_metrics_while_they_run,
        what_is_asked_wrongly_gets_an_answer,
        who_says_nothing_keeps_nobody_waiting,
        an_address_that_can_not_be_used_is_an_error,
        the_dashboard_asks_for_what_there_is,
    ])
}

// ---- what is served ------------------------------------------------------------------------------------------------

struct Metrics(Scrape);

impl Metrics {
    /// As a scraper takes it: each family is announced with a type before its samples, and no series is there twice.
    #[track_caller]
    fn of(text: &str) -> Metrics {
        let scrape = Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).unwrap();
        let mut series = BTreeSet::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, _) = line.rsplit_once(' ').unwrap();
            assert!(series.insert(name), "{name} is there twice");
        }
        let of_histogram = |name: &str| name.ends_with("_sum") || name.ends_with("_count");
        for sample in scrape.samples.iter().filter(|sample| !of_histogram(&sample.metric)) {
            assert!(!matches!(sample.value, Value::Untyped(_)), "{} has no type", sample.metric);
            assert!(text.contains(&format!("# HELP {} ", sample.metric)), "{} has no help", sample.metric);
        }
        Metrics(scrape)
    }

    #[track_caller]
    fn find(&self, name: &str, labels: &[(&str, &str)]) -> &Sample {
        let is_it = |s: &&Sample| {
            s.metric == format!("shmworker_{name}") && labels.iter().all(|(label, is)| s.labels.get(label) == Some(is))
        };
        let found: Vec<_> = self.0.samples.iter().filter(is_it).collect();
        assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}");
        found[0]
    }

    #[track_caller]
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        match self.find(name, labels).value {
            Value::Counter(n) | Value::Gauge(n) => n,
            ref other => panic!("{name}: {other:?}"),
        }
    }

    #[track_caller]
    fn ended(&self, task: &str) -> [f64; 3] {
        ["completed", "failed", "cancelled"].map(|s| self.value("tasks_total", &[("task", task), ("status", s)]))
    }

    /// How many a histogram counts, in growing buckets, and its sum.
    #[track_caller]
    fn histogram(&self, name: &str) -> (f64, f64) {
        let Value::Histogram(buckets) = &self.find(name, &[]).value else { panic!("{name} is no histogram") };
        assert!(buckets.is_sorted_by(|a, b| a.less_than < b.less_than && a.count <= b.count), "{buckets:?}");
        let last = buckets.last().unwrap();
        assert!(last.less_than.is_infinite());
        let of = |what: &str| {
            let name = format!("shmworker_{name}_{what}");
            let sample = self.0.samples.iter().find(|s| s.metric == name);
            match sample.map(|s| &s.value) {
                Some(Value::Untyped(n) | Value::Counter(n) | Value::Gauge(n)) => *n,
                other => panic!("{name}: {other:?}"),
            }
        };
        (of("count"), of("sum"))
    }
}

// ---- a pool of one's own -------------------------------------------------------------------------------------------

fn a_pool_tells_what_became_of_its_tasks() {
    let [begun, is_open] = words(2) else { unreachable!("two were asked for") };
    let mut tasks = Tasks::new();
    tasks.function("square", |x: u64| x * x);
    tasks.handler("refuse", |context, always: bool| match always || context.attempt() == 1 {
        true => Err(shmworker::pool::Failure::new("no")),
        false => Ok(()),
    });
    tasks.function("stay", move |()| {
        begun.fetch_add(1, SeqCst);
        until(|| is_open.load(SeqCst) == 1);
    });
    let pool = Pool::builder().workers(2).fork(tasks).unwrap();
    let metrics = || Metrics::of(&pool.prometheus().unwrap());
    let none = metrics();
    assert_eq!(none.value("processes", &[("kind", "worker"), ("state", "idle")]), 2.0);
    assert_eq!(none.value("deaths_total", &[]), 0.0);

    for x in 0..50 {
        assert_eq!(pool.submit(SQUARE, &x).unwrap().wait(), Ok(x * x));
    }
    assert!(pool.submit(REFUSE, &true).unwrap().wait().is_err());
    let twice = TaskOptions::new().attempts(2);
    pool.submit_with(REFUSE, &false, &twice).unwrap().wait().unwrap();
    let running: Vec<_> = (0..2).map(|_| pool.submit(STAY, &()).unwrap()).collect();
    until(|| begun.load(SeqCst) == 2);
    let waiting: Vec<_> = (0..3).map(|x| pool.submit(SQUARE, &x).unwrap()).collect();

    let now = metrics();
    assert_eq!(now.ended("square"), [50.0, 0.0, 0.0]);
    assert_eq!(now.ended("refuse"), [1.0, 1.0, 0.0]);
    assert_eq!(now.value("task_retries_total", &[("task", "refuse")]), 1.0);
    assert_eq!(now.value("processes", &[("kind", "worker"), ("state", "busy")]), 2.0);
    assert_eq!(now.value("processes", &[("kind", "worker"), ("state", "idle")]), 0.0);
    assert_eq!(now.value("tasks_in_use", &[("phase", "running")]), 2.0);
    assert_eq!(now.value("queue_depth", &[("queue", "default"), ("phase", "ready")]), 3.0);
    assert_eq!(now.value("tasks_limit", &[]), 4096.0);
    assert!(now.value("segment_taken_bytes", &[]) > 0.0);
    assert!(now.value("segment_taken_bytes", &[]) < now.value("segment_bytes", &[]));
    assert!(now.value("process_own_bytes", &[("process", "worker:1")]) > 0.0);
    // All are stamped where a stamp is cheap, else some of each tick.
    let (waits, runs) = (now.histogram("wait_seconds"), now.histogram("run_seconds"));
    assert!(waits.0 == runs.0 && (1.0..=52.0).contains(&runs.0) && runs.1 > 0.0, "{waits:?} {runs:?}");
    let by_task = ["square", "refuse"].map(|task| now.value("task_run_seconds_total", &[("task", task)]));
    assert!((by_task[0] + by_task[1] - runs.1).abs() < 1e-9, "{by_task:?}, {runs:?}");

    is_open.store(1, SeqCst);
    running.into_iter().for_each(|handle| handle.wait().unwrap());
    waiting.into_iter().for_each(|handle| assert!(handle.wait().is_ok()));
    let then = metrics();
    assert_eq!((then.ended("stay"), then.ended("square")), ([2.0, 0.0, 0.0], [53.0, 0.0, 0.0]));
    assert_eq!(then.value("tasks_in_use", &[("phase", "running")]), 0.0);
    pool.join().unwrap();
}

fn a_pool_tells_of_deaths() {
    let mut tasks = Tasks::new();
    tasks.function("square", |x: u64| x * x);
    tasks.handler("kill once", |context, ()| {
        if context.attempt() == 1 {
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL)?;
        }
        Ok(())
    });
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    assert_eq!(pool.submit(SQUARE, &3).unwrap().wait(), Ok(9));
    let again = TaskOptions::new().attempts(2);
    pool.submit_with(KILL_ONCE, &(), &again).unwrap().wait().unwrap();
    assert_eq!(pool.submit(SQUARE, &4).unwrap().wait(), Ok(16));
    let metrics = Metrics::of(&pool.prometheus().unwrap());
    let once = TaskOptions::new();
    assert!(pool.submit_with(KILL_ONCE, &(), &once).unwrap().wait().is_err());
    let later = Metrics::of(&pool.prometheus().unwrap());
    for (told, lost) in [(&metrics, 0.0), (&later, 1.0)] {
        assert_eq!(told.value("deaths_total", &[]), 1.0 + lost);
        assert_eq!(told.value("tasks_requeued_total", &[]), 1.0);
        assert_eq!(told.value("tasks_lost_total", &[]), lost);
        // What the dead worker has counted stays.
        assert_eq!(told.ended("square"), [2.0, 0.0, 0.0]);
        assert_eq!(told.ended("kill once"), [1.0, 0.0, 0.0]);
    }
    pool.join().unwrap();
}

fn more_names_than_there_is_room_for_are_told_together() {
    let mut tasks = Tasks::new();
    let all: Vec<_> = (0..40).map(|i| tasks.function(&format!("task {i}"), |x: u64| x)).collect();
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    for &task in &all {
        assert_eq!(pool.submit(task, &1).unwrap().wait(), Ok(1));
    }
    let text = pool.prometheus().unwrap();
    let metrics = Metrics::of(&text);
    assert_eq!(metrics.ended("(other)"), [20.0, 0.0, 0.0]);
    let told = metrics.0.samples.iter().filter(|s| s.metric == "shmworker_tasks_total");
    let sum: f64 = told.map(|s| if let Value::Counter(n) = s.value { n } else { 0.0 }).sum();
    assert_eq!(sum, 40.0, "{text}");
    pool.join().unwrap();
}

// ---- the command line ----------------------------------------------------------------------------------------------

/// `shmworker jobs --metrics 127.0.0.1:0`, whose input stays open.
struct Jobs {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<std::process::ChildStdout>,
    address: SocketAddr,
}

impl Jobs {
    fn start(args: &[&str]) -> Jobs {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shmworker"));
        command.args(["jobs", "-j", "2", "--metrics", "127.0.0.1:0"]).args(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("metrics: http://").and_then(|rest| rest.strip_suffix("/metrics"));
        let address = address.unwrap_or_else(|| panic!("no address: {line}")).parse().unwrap();
        let (stdin, stdout) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Jobs { child, stdin, stdout, address }
    }

    fn run(&mut self, line: &str) -> String {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
        let mut result = String::new();
        self.stdout.read_line(&mut result).unwrap();
        result
    }

    fn ends(mut self, code: i32) {
        drop(self.stdin.take());
        assert_eq!(self.child.wait().unwrap().code(), Some(code));
    }
}

/// Head and body of an answer.
fn ask(address: SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{request}\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    (head.to_lowercase(), body.to_owned())
}

fn scrape(address: SocketAddr) -> Metrics {
    let (head, body) = ask(address, "GET /metrics HTTP/1.1");
    assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    Metrics::of(&body)
}

fn jobs_serve_metrics_while_they_run() {
    let mut jobs = Jobs::start(&[]);
    for i in 0..7 {
        assert!(jobs.run(&format!("{{\"task\":\"echo\",\"args\":{i}}}")).contains("\"status\":\"done\""));
    }
    assert!(!jobs.run("{\"task\":\"exec\",\"args\":[\"false\"]}").contains("\"status\":\"done\""));
    let metrics = scrape(jobs.address);
    assert_eq!((metrics.ended("echo"), metrics.ended("exec")), ([7.0, 0.0, 0.0], [0.0, 1.0, 0.0]));
    assert_eq!(metrics.value("processes", &[("kind", "worker"), ("state", "idle")]), 2.0);
    assert_eq!(metrics.value("processes", &[("kind", "coordinator"), ("state", "idle")]), 1.0);
    assert!(metrics.value("age_seconds", &[]) > 0.0);
    jobs.run("{\"task\":\"echo\",\"args\":1}");
    let later = scrape(jobs.address);
    assert_eq!(later.ended("echo"), [8.0, 0.0, 0.0]);
    assert!(later.value("task_run_seconds_total", &[("task", "exec")]) >= 0.0);
    jobs.ends(1);
}

fn what_is_asked_wrongly_gets_an_answer() {
    let jobs = Jobs::start(&[]);
    for (request, status) in [
        ("GET / HTTP/1.1", "404"),
        ("GET /metrics/ HTTP/1.1", "404"),
        ("POST /metrics HTTP/1.1", "405"),
        ("HEAD /metrics HTTP/1.1", "200"),
        ("GET /metrics?x=1 HTTP/1.1", "200"),
    ] {
        let (head, _) = ask(jobs.address, request);
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{request}: {head}");
    }
    // What is no HTTP is no harm.
    TcpStream::connect(jobs.address).unwrap().write_all(&[0xff; 100]).unwrap();
    scrape(jobs.address);
    jobs.ends(0);
}

fn who_says_nothing_keeps_nobody_waiting() {
    let mut jobs = Jobs::start(&[]);
    let silent: Vec<_> = (0..20).map(|_| TcpStream::connect(jobs.address).unwrap()).collect();
    scrape(jobs.address);
    assert!(jobs.run("{\"task\":\"echo\",\"args\":1}").contains("\"status\":\"done\""));
    jobs.ends(0);
    drop(silent);
}

fn an_address_that_can_not_be_used_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let bad = |what: &str, why: &str| format!("error: invalid value '{what}' for '--metrics': {why}");
    let form = "it must be an IP address and a port, such as 127.0.0.1:9100";
    for (value, code, line) in [
        ("9100", 2, bad("9100", form)),
        ("nowhere:9100", 2, bad("nowhere:9100", form)),
        ("0.0.0.0:9100", 2, bad("0.0.0.0:9100", "it must be a loopback address")),
        (&address, 1, format!("error: cannot serve metrics at {address} (--metrics): Address already in use")),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shmworker"));
        let output = command.args(["jobs", "--metrics", value]).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), said.lines().count()), (Some(code), 1), "{said}");
        assert!(said.starts_with(&line) && output.stdout.is_empty(), "{said}");
    }
}

/// Each metric of ours that the dashboard names is there. Core's are looked at where there is a server.
fn the_dashboard_asks_for_what_there_is() {
    let dashboard = include_str!("../docs/grafana.json");
    let json: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    let expressions = json["panels"].as_array().unwrap().iter().flat_map(|panel| {
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets.into_iter().map(|target| target["expr"].as_str().unwrap().to_owned())
    });
    let mut named = BTreeSet::new();
    for expression in expressions {
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        named.extend(words.filter(|word| word.starts_with("shmworker_")).map(str::to_owned));
    }
    assert!(named.len() > 10, "{named:?}");
    let mut jobs = Jobs::start(&[]);
    jobs.run("{\"task\":\"echo\",\"args\":1}");
    let (_, text) = ask(jobs.address, "GET /metrics HTTP/1.1");
    for name in named {
        let is_there = |line: &str| line.strip_prefix(&name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        assert!(text.lines().any(is_there), "the dashboard asks for {name}, which nobody serves");
    }
    jobs.ends(0);
}
