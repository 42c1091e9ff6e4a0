//! `shmworker run --source`: what it is told, what a server sees of it, and how it ends.

mod common;

use common::{Program, eventually};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use shmworker::cli::exit;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex},
    thread,
};
use tokio_rustls::rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shmworker"));
    command.arg("run").args(args).env_clear();
    command
}

#[track_caller]
fn complains(output: &Output, code: u8, holds: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.lines().last().is_some_and(|line| line.starts_with("error: ") && line.contains(holds)), "{said}");
    assert_eq!(output.status.code(), Some(code.into()), "{said}");
    let said = format!("{said}{}", String::from_utf8_lossy(&output.stdout));
    assert!(!said.contains("sesame"), "a secret is shown: {said}");
}

#[track_caller]
fn refused(args: &[&str], code: u8, holds: &str) {
    complains(&command(args).output().unwrap(), code, holds);
}

/// A request as a server sees it.
#[derive(Clone, Debug)]
struct Call {
    path: String,
    /// In small letters.
    head: String,
    body: Value,
}

/// Status line with further headers, and a body.
type Answer = (&'static str, String);

/// Answers as it is told, and notes who calls.
struct Server {
    port: u16,
    calls: Arc<Mutex<Vec<Call>>>,
}

const NONE: Answer = ("204 No Content", String::new());

impl Server {
    fn start(answer: impl Fn(&Call, usize) -> Answer + Send + Sync + 'static) -> Server {
        Server::listen(answer, |connection| Some(Box::new(connection)))
    }

    fn start_tls(answer: impl Fn(&Call, usize) -> Answer + Send + Sync + 'static) -> Server {
        let chain = CertificateDer::pem_file_iter(pem("server.pem")).unwrap().collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(pem("server.key")).unwrap();
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        let config = Arc::new(config);
        Server::listen(answer, move |connection| {
            Some(Box::new(StreamOwned::new(ServerConnection::new(config.clone()).ok()?, connection)))
        })
    }

    /// `answer` is told how many calls of that path there were before.
    fn listen(
        answer: impl Fn(&Call, usize) -> Answer + Send + Sync + 'static,
        open: impl Fn(TcpStream) -> Option<Box<dyn Stream>> + Send + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let calls = Arc::<Mutex<Vec<Call>>>::default();
        let (answer, noted) = (Arc::new(answer), calls.clone());
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let Some(stream) = open(connection) else { continue };
                let (answer, noted) = (answer.clone(), noted.clone());
                thread::spawn(move || serve(stream, &noted, &*answer));
            }
        });
        Server { port, calls }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/queue", self.port)
    }

    fn calls(&self, path: &str) -> Vec<Call> {
        self.calls.lock().unwrap().iter().filter(|call| call.path == path).cloned().collect()
    }
}

trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

fn serve(stream: Box<dyn Stream>, calls: &Mutex<Vec<Call>>, answer: &dyn Fn(&Call, usize) -> Answer) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut head, mut line) = (String::new(), String::new());
        while stream.read_line(&mut line).ok()? > 2 {
            head.push_str(&line);
            line.clear();
        }
        let path = head.split(' ').nth(1)?.to_owned();
        let head = head.to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.trim().parse().ok()?;
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        let call = Call { path, head, body: serde_json::from_slice(&body).unwrap() };
        let before = {
            let mut calls = calls.lock().unwrap();
            calls.push(call.clone());
            calls.iter().filter(|other| other.path == call.path).count() - 1
        };
        let (status, text) = answer(&call, before);
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", text.len());
        stream.get_mut().write_all(&[head.as_bytes(), text.as_bytes()].concat()).ok()?;
        stream.get_mut().flush().ok()?;
    }
}

fn pem(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

fn jobs(jobs: &[(&str, Value)]) -> Answer {
    let jobs: Vec<Value> = jobs.iter().map(|(id, job)| json!({ "id": id, "job": job })).collect();
    ("200 OK", json!({ "jobs": jobs, "heartbeat_ms": 60_000 }).to_string())
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (args, holds) in [
        (&["--source", "ftp://me:sesame@h/"][..], "no source has the scheme 'ftp': it is one of postgres://"),
        (&["--source", "http://me:sesame@h:port"], "the URL of the source is none"),
        (&["--source", ""], "--source"),
        (&["--source", "http://h", "--source-header", "sesame"], "it must read 'Name: value'"),
        (&["--source", "http://h", "--source-header", "A: se\u{1}same"], "it must read 'Name: value'"),
        (&["--source", "https://h", "--source-ca", "/no/such.pem"], "/no/such.pem"),
        (&["--source", "https://h", "--source-ca", "Cargo.toml"], "no certificate in PEM"),
        (&["--source", "grpc://h"], "there is no port"),
        (&["--source", "grpc://me:sesame@h:1"], "grpc://me:***@h:1"),
        (&["--source", "http://h", "-w", "0"], "-w"),
        (&["--source", "http://h", "--timeout", "5"], "--timeout"),
        (&["--source", "http://h", "--retries", "255"], "--retries"),
        (&["--sorce", "http://h"], "did you mean '--source'?"),
    ] {
        refused(args, exit::USAGE, holds);
    }
    refused(&["--source", "http://h", "--load", "/no/such.so"], exit::PLUGIN, "/no/such.so");
}

#[cfg(feature = "temporal")]
#[test]
fn a_source_and_temporal_exclude_each_other() {
    for args in [&["--task-queue", "q"][..], &["-a", "1"], &["--ui"], &["--", "x"]] {
        let args = [&["--source", "http://h"], args].concat();
        refused(&args, exit::USAGE, "is of Temporal's workers, but the work comes from a source");
    }
    refused(&["--source-ahead", "3"], exit::USAGE, "--source");
}

#[cfg(not(feature = "temporal"))]
#[test]
fn there_must_be_a_source() {
    refused(&["-w", "1"], exit::USAGE, "--source");
}

#[cfg(all(feature = "metrics", feature = "otlp"))]
#[test]
fn prometheus_and_a_collector_are_told_of_its_jobs() {
    let server = Server::start(|call, before| match (&*call.path, before) {
        ("/queue/fetch", 0) => jobs(&[("a.1", json!({"task":"echo","args":7}))]),
        _ => NONE,
    });
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", collector.local_addr().unwrap());
    let asked = thread::spawn(move || {
        let mut stream = BufReader::new(collector.accept().unwrap().0);
        let (mut head, mut line) = (String::new(), String::new());
        while stream.read_line(&mut line).unwrap() > 2 {
            head.push_str(&line.to_lowercase());
            line.clear();
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.trim().parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        (head, body)
    });
    let args =
        ["--source", &server.url(), "-w", "1", "--metrics", "127.0.0.1:0", "--otlp", &url, "--log-format", "json"];
    let mut program = Program::start(command(&args));
    let said: Value =
        serde_json::from_str(&program.says("where metrics are", 1, |l| l.contains("metrics: http"))).unwrap();
    eventually("it is published", || (!server.calls("/queue/publish").is_empty()).then_some(()));
    let address = said["message"].as_str().unwrap()["metrics: http://".len()..].trim_end_matches("/metrics").to_owned();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains("\nshmworker_tasks_total{task=\"echo\",status=\"completed\"} 1\n"), "{text}");
    program.signal(Signal::SIGTERM);
    assert_eq!(program.end().code(), Some(0));
    let (head, body) = asked.join().unwrap();
    assert!(head.starts_with("post /v1/traces ") && body.windows(4).any(|part| part == b"echo"), "{head}");
    assert!(program.stdout().is_empty());
    let lines = program.stderr();
    assert!(
        lines.iter().all(|line| serde_json::from_str::<Value>(line).is_ok_and(|line| line.is_object())),
        "{lines:?}"
    );
}

#[test]
fn a_refusal_ends_it_with_the_server_s_words() {
    let refuse = |_: &Call, _| ("401 Unauthorized", "\n the key opens nothing\nand more".to_owned());
    let server = Server::start(refuse);
    let header = "Authorization: Bearer open-sesame";
    let by_flag = command(&["--source", &server.url(), "--source-header", header]).output().unwrap();
    complains(&by_flag, exit::CONFIG, "/queue/fetch: 401 Unauthorized: the key opens nothing");
    let mut by_variable = command(&[]);
    by_variable.envs([("SHMWORKER_SOURCE", &*server.url()), ("SHMWORKER_SOURCE_HEADER", header)]);
    complains(&by_variable.output().unwrap(), exit::CONFIG, "the key opens nothing");
    let url = server.url().replace("://", "://me:open%2Dsesame@");
    complains(&command(&["--source", &url]).output().unwrap(), exit::CONFIG, "the key opens nothing");
    let calls = server.calls("/queue/fetch");
    assert_eq!(calls.len(), 3);
    for (call, authorization) in
        calls.iter().zip(["bearer open-sesame", "bearer open-sesame", "basic bwu6b3blbi1zzxnhbwu="])
    {
        assert!(call.head.contains(&format!("authorization: {authorization}")), "{call:?}");
    }
}

#[test]
fn a_server_in_trouble_is_tried_again_with_the_same() {
    let server = Server::start(|call, before| match (&*call.path, before) {
        ("/queue/fetch", 0) => ("503 Service Unavailable\r\nretry-after: 0", "not now".to_owned()),
        ("/queue/fetch", 1) => jobs(&[("a.1", json!({"task":"echo","args":7})), ("b.1", json!("no job"))]),
        ("/queue/publish", 0) => ("500 Internal Server Error", String::new()),
        ("/queue/publish", 1) => ("429 Too Many Requests", String::new()),
        _ => NONE,
    });
    let mut program = Program::start(command(&["--source", &server.url(), "-w", "1"]));
    eventually("it is published", || (server.calls("/queue/publish").len() >= 3).then_some(()));
    program.says("that it is back", 1, |line| line.contains("available again"));
    program.signal(Signal::SIGTERM);
    assert_eq!(program.end().code(), Some(0));
    let trouble = program.stderr().into_iter().filter(|line| line.contains("is unavailable")).count();
    assert!((1..=2).contains(&trouble), "{:?}", program.stderr());
    assert!(program.stdout().iter().any(|line| line == "2 jobs published: 1 done, 1 failed"), "{:?}", program.stdout());
    let publishes = server.calls("/queue/publish");
    let key = |call: &Call| call.head.lines().find(|line| line.starts_with("idempotency-key: ")).unwrap().to_owned();
    for again in &publishes[1..3] {
        assert_eq!((key(again), &again.body), (key(&publishes[0]), &publishes[0].body));
    }
    let ids: Vec<&Value> =
        publishes[0].body["results"].as_array().unwrap().iter().map(|result| &result["id"]).collect();
    assert!(ids.iter().all(|&id| id == "a.1" || id == "b.1"), "{ids:?}");
}

#[test]
fn what_is_too_large_goes_again_as_another_request() {
    let server = Server::start(|call, before| match (&*call.path, before) {
        ("/queue/fetch", 0) => jobs(&[("a.1", json!({"task":"echo","args":7}))]),
        ("/queue/publish", 0) => ("413 Payload Too Large", String::new()),
        // Of no protocol: only that it is a success counts.
        ("/queue/publish", _) => ("200 OK", "stored".to_owned()),
        _ => NONE,
    });
    let mut program = Program::start(command(&["--source", &server.url(), "-w", "1"]));
    eventually("it is published", || (server.calls("/queue/publish").len() >= 2).then_some(()));
    program.signal(Signal::SIGTERM);
    assert_eq!(program.end().code(), Some(0), "{:?}", program.stderr());
    let publishes = server.calls("/queue/publish");
    let key = |call: &Call| call.head.lines().find(|line| line.starts_with("idempotency-key: ")).unwrap().to_owned();
    assert_ne!(key(&publishes[0]), key(&publishes[1]));
    let statuses = publishes.iter().map(|call| &call.body["results"][0]["result"]["status"]).collect::<Vec<_>>();
    assert_eq!(statuses, ["done", "failed"]);
}

#[test]
fn a_drain_ends_what_runs_and_gives_back_the_rest() {
    let marks = tempfile::tempdir().unwrap();
    let (begun, go) = (marks.path().join("begun"), marks.path().join("go"));
    let script = format!("touch {}; while ! [ -e {} ]; do sleep 0.01; done; echo over", begun.display(), go.display());
    let server = Server::start(move |call, before| match (&*call.path, before) {
        ("/queue/fetch", 0) => {
            jobs(&[("a.1", json!({"task":"exec","args":["sh","-c",script]})), ("b.1", json!({"task":"echo","args":7}))])
        }
        _ => NONE,
    });
    let mut command = command(&["--source", &server.url(), "-w", "1"]);
    command.env("PATH", "/usr/bin:/bin");
    let mut program = Program::start(command);
    eventually("the job runs", || begun.exists().then_some(()));
    program.signal(Signal::SIGINT);
    program.says("that it drains", 1, |line| line.contains("fetching no more"));
    std::fs::write(&go, "").unwrap();
    assert_eq!(program.end().code(), Some(0));
    let published = server.calls("/queue/publish");
    assert_eq!((published.len(), &published[0].body["results"][0]["id"]), (1, &json!("a.1")));
    assert_eq!(published[0].body["results"][0]["result"]["result"]["stdout"], "over\n");
    let released = server.calls("/queue/release");
    assert_eq!((released.len(), &released[0].body["ids"]), (1, &json!(["b.1"])));
    let said = program.stdout();
    assert!(said.iter().any(|line| line == "1 jobs published: 1 done, 0 failed; 1 given back"), "{said:?}");
    program.leaves_nobody();
}

#[test]
fn an_upgrade_replaces_its_workers_once_what_they_run_is_finished() {
    let marks = tempfile::tempdir().unwrap();
    let (begun, go) = (marks.path().join("begun"), marks.path().join("go"));
    let who = "tr '\\0' ' ' < /proc/$PPID/cmdline; env";
    let first = format!("touch {}; while ! [ -e {} ]; do sleep 0.01; done; {who}", begun.display(), go.display());
    let exec = |script: &str| json!({"task":"exec","args":["sh","-c",script]});
    let answer = jobs(&[("a", exec(&first)), ("b", exec(who))]);
    let server = Server::start(move |call, before| match (&*call.path, before) {
        ("/queue/fetch", 0) => answer.clone(),
        _ => NONE,
    });
    let mut command = command(&["-w", "1"]);
    command.env("PATH", "/usr/bin:/bin").env("SHMWORKER_SOURCE", server.url());
    command.env("SHMWORKER_SOURCE_HEADER", "x-key: sesame");
    let mut program = Program::start(command);
    eventually("the job runs", || begun.exists().then_some(()));
    program.signal(Signal::SIGUSR2);
    eventually("the coordinator is another program", || {
        let family = program.family();
        let mut lines =
            family.iter().filter_map(|one| std::fs::read_to_string(format!("/proc/{}/cmdline", one.pid)).ok());
        lines.any(|line| line.contains("successor")).then_some(())
    });
    // Once more, which says when it is done: the worker has been told then.
    let upgrade = Command::new(env!("CARGO_BIN_EXE_shmworker")).args(["upgrade", &program.pid().to_string()]).output();
    assert!(upgrade.unwrap().status.success());
    std::fs::write(&go, "").unwrap();
    let results = || {
        server
            .calls("/queue/publish")
            .iter()
            .flat_map(|call| call.body["results"].as_array().unwrap().clone())
            .collect::<Vec<_>>()
    };
    let results = eventually("both results", || Some(results()).filter(|results| results.len() == 2));
    program.signal(Signal::SIGINT);
    assert_eq!(program.end().code(), Some(0));
    let by = results.iter().map(|result| result["result"]["result"]["stdout"].as_str().unwrap()).collect::<Vec<_>>();
    assert!(by[0].contains("shmworker run -w 1 ") && by[1].contains("shmworker successor "), "{by:?}");
    assert!(by.iter().all(|env| !env.contains("sesame")), "{by:?}");
    program.leaves_nobody();
}

#[test]
fn a_program_is_not_told_the_secrets_of_the_source() {
    let server = Server::start(|call, before| match (&*call.path, before) {
        ("/queue/fetch", 0) => jobs(&[("a", json!({"task":"exec","args":["env"]}))]),
        _ => NONE,
    });
    let mut command = command(&["-w", "1"]);
    command.env("PATH", "/usr/bin:/bin").env("SHMWORKER_SOURCE", server.url()).env("KEPT", "yes");
    let secrets = [("SHMWORKER_SOURCE_HEADER", "x-key: sesame"), ("PGPASSWORD", "sesame"), ("REDISCLI_AUTH", "sesame")];
    command.envs(secrets);
    let mut program = Program::start(command);
    let published = eventually("the result", || server.calls("/queue/publish").into_iter().next());
    program.signal(Signal::SIGINT);
    assert_eq!(program.end().code(), Some(0));
    assert!(published.head.contains("x-key: sesame"), "{published:?}");
    let env = published.body["results"][0]["result"]["result"]["stdout"].as_str().unwrap();
    assert!(env.contains("KEPT=yes\n"), "{env}");
    assert!(!env.contains("sesame") && !env.contains("SHMWORKER_SOURCE"), "{env}");
}

#[test]
fn a_second_signal_cancels_what_runs() {
    let marks = tempfile::tempdir().unwrap();
    let begun = marks.path().join("begun");
    let script = format!("touch {}; exec sleep 1000", begun.display());
    let server = Server::start(move |call, before| match (&*call.path, before) {
        ("/queue/fetch", 0) => jobs(&[("a.1", json!({"task":"exec","args":["sh","-c",script]}))]),
        _ => NONE,
    });
    let mut command = command(&["--source", &server.url(), "-w", "1"]);
    command.env("PATH", "/usr/bin:/bin");
    let mut program = Program::start(command);
    eventually("the job runs", || begun.exists().then_some(()));
    program.signal(Signal::SIGTERM);
    program.says("that it drains", 1, |line| line.contains("fetching no more"));
    program.signal(Signal::SIGTERM);
    assert_eq!(program.end().code(), Some(0));
    assert!(server.calls("/queue/publish").is_empty());
    assert_eq!(server.calls("/queue/release")[0].body["ids"], json!(["a.1"]));
    program.leaves_nobody();
}

#[test]
fn a_job_that_does_not_say_it_has_the_limits_of_the_command() {
    let server = Server::start(|call, before| match (&*call.path, before) {
        ("/queue/fetch", 0) => {
            let sleep = json!(["sleep", "1000"]);
            jobs(&[("a", json!({"task":"exec","args":sleep})), ("b", json!({"task":"exec","args":sleep,"retries":0}))])
        }
        _ => NONE,
    });
    let limits = ["--timeout", "200ms", "--retries", "2", "--source-ahead", "3"];
    let mut command = command(&[&["--source", &*server.url(), "-w", "1"][..], &limits].concat());
    command.env("PATH", "/usr/bin:/bin");
    let mut program = Program::start(command);
    let results = eventually("both are published", || {
        let calls = server.calls("/queue/publish");
        let results = calls.iter().flat_map(|call| call.body["results"].as_array().unwrap().clone());
        let results: Vec<Value> = results.collect();
        (results.len() == 2).then_some(results)
    });
    program.signal(Signal::SIGTERM);
    assert_eq!(program.end().code(), Some(0));
    for (id, attempts) in [("a", 3), ("b", 1)] {
        let result = &results.iter().find(|result| result["id"] == id).unwrap()["result"];
        assert_eq!((&result["status"], &result["attempts"]), (&"timed_out".into(), &attempts.into()), "{result}");
    }
    // One for the worker, and three that wait for it.
    assert_eq!(server.calls("/queue/fetch")[0].body["room"], 4);
}

#[test]
fn results_that_nobody_takes_are_told() {
    let server = Server::start(|call, before| match (&*call.path, before) {
        ("/queue/fetch", 0) => jobs(&[("a.1", json!({"task":"echo","args":7}))]),
        ("/queue/publish", _) => ("502 Bad Gateway", String::new()),
        _ => NONE,
    });
    let mut program = Program::start(command(&["--source", &server.url(), "-w", "1", "--source-give-up", "50ms"]));
    eventually("it is tried", || (!server.calls("/queue/publish").is_empty()).then_some(()));
    program.signal(Signal::SIGTERM);
    assert_eq!(program.end().code(), Some(exit::SERVER_UNREACHABLE.into()));
    assert!(program.stderr().iter().any(|line| line.contains("took 1 results no more")), "{:?}", program.stderr());
    assert!(server.calls("/queue/release").is_empty());
}

#[test]
fn tls_by_the_authority_that_was_named() {
    let server = Server::start_tls(|_, _| ("403 Forbidden", "so it was read".to_owned()));
    let url = format!("https://localhost:{}/queue", server.port);
    let ca = pem("ca.pem");
    refused(&["--source", &url, "--source-ca", ca.to_str().unwrap()], exit::CONFIG, "so it was read");
    assert_eq!(server.calls("/queue/fetch").len(), 1);
    refused(&["--source", &url], exit::CONFIG, "certificate");
    assert_eq!(server.calls("/queue/fetch").len(), 1, "it was told something");
}

#[test]
fn grpc_over_tls_by_the_authority_that_was_named() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("grpcs://localhost:{}", listener.local_addr().unwrap().port());
    let heads = Arc::<Mutex<Vec<http::HeaderMap>>>::default();
    runtime.spawn(refuse_all(listener, heads.clone()));
    let ca = pem("ca.pem");
    let header = "Authorization: Bearer open-sesame";
    let args = ["--source", &url, "--source-header", header, "--source-ca", ca.to_str().unwrap()];
    refused(&args, exit::CONFIG, "Unauthenticated: the key opens nothing");
    let seen = heads.lock().unwrap().clone();
    assert_eq!((seen.len(), seen[0]["authorization"].to_str().unwrap()), (1, "Bearer open-sesame"));
    assert!(seen[0].contains_key("shmworker-worker"));
    refused(&args[..4], exit::CONFIG, "certificate");
    assert_eq!(heads.lock().unwrap().len(), 1, "it was told something");
}

async fn refuse_all(listener: tokio::net::TcpListener, heads: Arc<Mutex<Vec<http::HeaderMap>>>) {
    let chain = CertificateDer::pem_file_iter(pem("server.pem")).unwrap().collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(pem("server.key")).unwrap();
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    loop {
        let (connection, _) = listener.accept().await.unwrap();
        let Ok(connection) = acceptor.accept(connection).await else { continue };
        let Ok(mut connection) = h2::server::handshake(connection).await else { continue };
        while let Some(Ok((request, mut answer))) = connection.accept().await {
            heads.lock().unwrap().push(request.headers().clone());
            let refusal = http::Response::builder().header("content-type", "application/grpc");
            let refusal = refusal.header("grpc-status", "16").header("grpc-message", "the key opens nothing");
            answer.send_response(refusal.body(()).unwrap(), true).unwrap();
        }
    }
}

#[test]
fn the_page_has_the_example() {
    let read = |path: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    assert!(read("docs/sources.md").contains(&read("examples/own_source.rs")), "docs/sources.md has another program");
}
