//! Spans of jobs, as a collector gets them.

#[path = "common/collector.rs"]
mod collector;

use collector::{Collector, hex, text};
use opentelemetry_proto::tonic::{common::v1::any_value::Value, trace::v1::status::StatusCode};
use serde_json::Value as Json;
use std::{
    fs::{self, File},
    net::TcpListener,
    process::{Command, Output, Stdio},
    sync::atomic::Ordering::SeqCst,
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn jobs(args: &[&str], input: &str) -> Output {
    jobs_with(&[], args, input)
}

fn jobs_with(variables: &[(&str, &str)], args: &[&str], input: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("input");
    fs::write(&file, input).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_shmworker"));
    command.args(["jobs", "-j", "2"]).args(args).env_clear().env("PATH", "/usr/bin:/bin");
    command.envs(variables.iter().copied());
    command.stdin(Stdio::from(File::open(file).unwrap())).output().unwrap()
}

fn results(output: &Output) -> Vec<Json> {
    let lines = std::str::from_utf8(&output.stdout).unwrap().lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn each_job_has_a_span_in_the_trace_of_its_parent() {
    let collector = Collector::start();
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let input = format!(
        "{{\"task\":\"echo\",\"args\":1,\"label\":\"mine\",\"traceparent\":\"{parent}\"}}\n\
         {{\"task\":\"exec\",\"args\":[\"sh\",\"-c\",\"echo $TRACEPARENT\"],\"traceparent\":\"{parent}\"}}\n\
         {{\"task\":\"sleep\",\"args\":0}}\n"
    );
    let output = jobs(&["-k", "--otlp", &collector.url], &input);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let results = results(&output);

    let echo = collector.one("echo");
    assert_eq!((hex(&echo.trace_id), hex(&echo.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
    assert_eq!((text(&echo, "shmworker.attempts"), text(&echo, "shmworker.status")), ("1".into(), "done".into()));
    assert_eq!(text(&echo, "shmworker.worker"), results[0]["worker"].as_str().unwrap());
    assert_eq!(text(&echo, "process.pid"), results[0]["pid"].to_string());
    assert_eq!(text(&echo, "shmworker.label"), "mine");
    let [begun] = &echo.events[..] else { panic!("{echo:?}") };
    let times = [echo.start_time_unix_nano, begun.time_unix_nano, echo.end_time_unix_nano];
    assert!(begun.name == "begun" && times.is_sorted() && times[0] > 0, "{times:?}");

    // What the program was told is the span of its job.
    let exec = collector.one("exec");
    let told = results[1]["result"]["stdout"].as_str().unwrap().trim();
    assert_eq!(told, format!("00-{TRACE}-{}-01", hex(&exec.span_id)));
    assert_eq!(hex(&exec.parent_span_id), PARENT);

    let sleep = collector.one("sleep");
    assert!(sleep.parent_span_id.is_empty() && hex(&sleep.trace_id) != TRACE, "{sleep:?}");
    let services = collector.spans.lock().unwrap();
    assert!(services.iter().all(|(of, _)| *of == Some(Value::StringValue("shmworker".into()))), "{services:?}");
}

#[test]
fn a_failure_is_told_with_its_attempts() {
    let collector = Collector::start();
    let output = jobs(&["--retries", "2", "--otlp", &collector.url], "{\"task\":\"exec\",\"args\":[\"false\"]}\n");
    assert_eq!(output.status.code(), Some(1));
    let span = collector.one("exec");
    assert_eq!((text(&span, "shmworker.attempts"), text(&span, "shmworker.status")), ("3".into(), "failed".into()));
    let status = span.status.unwrap();
    assert_eq!(status.code(), StatusCode::Error);
    assert_eq!(status.message, results(&output)[0]["error"].as_str().unwrap());
}

#[test]
fn jobs_that_go_together_have_a_span_each() {
    let collector = Collector::start();
    let input: String = (0..1000).map(|i| format!("{{\"task\":\"echo\",\"args\":{i}}}\n")).collect();
    let output = jobs(&["--chunk", "50", "--otlp", &format!("{}/", collector.url)], &input);
    assert!(output.status.success(), "{output:?}");
    let spans = collector.named("echo");
    assert_eq!(spans.len(), 1000);
    assert!(spans.iter().all(|span| text(span, "shmworker.status") == "done"));
}

#[test]
fn a_program_finds_the_trace_without_a_collector_too() {
    let exec = r#"{"task":"exec","args":["sh","-c","echo ${TRACEPARENT-none}"]"#;
    let parent = format!("00-{TRACE}-{PARENT}-00");
    let output = jobs(&["-k"], &format!("{exec},\"traceparent\":\"{parent}\"}}\n{exec}}}\n"));
    let told: Vec<_> =
        results(&output).iter().map(|r| r["result"]["stdout"].as_str().unwrap().trim().to_owned()).collect();
    assert_eq!(told, [&parent, "none"]);
    let output = jobs(&[], "{\"task\":\"echo\",\"traceparent\":\"x\"}\n");
    let error = results(&output)[0]["error"].clone();
    assert!(error.as_str().unwrap().starts_with("\"x\" is no traceparent: it must be such as 00-"), "{error}");
}

#[test]
fn a_collector_that_is_not_there_costs_no_job_and_is_told() {
    let output = jobs(&["--otlp", &nobody()], "{\"task\":\"echo\",\"args\":1}\n");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(results(&output)[0]["result"], 1);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("HTTP export failed") && said.lines().count() == 1, "{said}");
}

/// An address at which nobody listens any more.
fn nobody() -> String {
    format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}

#[test]
fn what_was_refused_is_an_error_of_bounded_length() {
    let collector = Collector::start();
    // The bound falls into the middle of a letter.
    let long = format!("x{}", "é".repeat(3000));
    let output = jobs(&["--otlp", &collector.url], &format!("{{\"task\":\"{long}\",\"label\":\"{long}\"}}\n"));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = &long[..1023];
    let span = collector.one(told);
    assert_eq!((&text(&span, "shmworker.label")[..], &text(&span, "shmworker.status")[..]), (told, "failed"));
    assert!(span.events.is_empty(), "{span:?}");
    let status = span.status.unwrap();
    let error = results(&output)[0]["error"].as_str().unwrap().to_owned();
    assert_eq!(status.code(), StatusCode::Error);
    assert!(status.message.len() <= 1024 && error.len() > 1024 && error.starts_with(&status.message), "{status:?}");
}

#[test]
fn each_kind_of_refusal_is_told() {
    for (args, job) in [
        (&["--chunk", "9"][..], r#"{"task":"none"}"#),
        (&[], r#"{"task":"none","retries":255}"#),
        (&[], r#"{"task":"none","traceparent":"x"}"#),
    ] {
        let collector = Collector::start();
        let output = jobs(&[args, &["--otlp", &collector.url]].concat(), &format!("{job}\n"));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let (span, result) = (collector.one("none"), &results(&output)[0]);
        assert_eq!(span.status.unwrap().message, result["error"].as_str().unwrap());
    }
}

#[test]
fn no_proxy_stands_before_this_machine() {
    let collector = Collector::start();
    let proxy = nobody();
    for host in ["127.0.0.1", "localhost"] {
        let url = collector.url.replace("127.0.0.1", host);
        let output = jobs_with(
            &[("HTTP_PROXY", &proxy), ("http_proxy", &proxy)],
            &["--otlp", &url],
            &format!("{{\"task\":\"echo\",\"label\":\"{host}\"}}\n"),
        );
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
    assert_eq!(collector.named("echo").len(), 2);
}

#[test]
fn variables_win() {
    for (variable, value) in [("OTEL_RESOURCE_ATTRIBUTES", "service.name=mine"), ("OTEL_SERVICE_NAME", "mine")] {
        let collector = Collector::start();
        let output = jobs_with(
            &[(variable, value), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "3")],
            &["--otlp", &collector.url],
            &"{\"task\":\"echo\"}\n".repeat(20),
        );
        assert!(output.status.success(), "{output:?}");
        let spans = collector.spans.lock().unwrap();
        assert_eq!((spans.len(), collector.most.load(SeqCst)), (20, 3));
        assert!(spans.iter().all(|(of, _)| *of == Some(Value::StringValue("mine".into()))), "{spans:?}");
    }
}

#[test]
fn what_is_no_address_is_refused() {
    for wrong in ["", "127.0.0.1:4318", "https://host:4318", "http://", "http:///x", "http://a b"] {
        let output = jobs(&["--otlp", wrong], "");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            said.starts_with(&format!("error: invalid value '{wrong}' for '--otlp': it must be http://")),
            "{said}"
        );
        assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1));
    }
}
