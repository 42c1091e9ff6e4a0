//! A collector of OpenTelemetry spans, by OTLP over HTTP.

#![allow(dead_code, reason = "each test program uses a part of it")]

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest, common::v1::any_value::Value, trace::v1::Span,
};
use prost::Message;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

/// A span, and the service that it is of.
pub(crate) type Kept = (Option<Value>, Span);

/// Keeps the spans that come.
pub(crate) struct Collector {
    pub(crate) url: String,
    pub(crate) spans: Arc<Mutex<Vec<Kept>>>,
    /// In one request, the most.
    pub(crate) most: Arc<AtomicUsize>,
}

impl Collector {
    pub(crate) fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let spans = Arc::<Mutex<Vec<_>>>::default();
        let most = Arc::<AtomicUsize>::default();
        let (kept, largest) = (spans.clone(), most.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, largest) = (kept.clone(), largest.clone());
                thread::spawn(move || receive(stream, &kept, &largest));
            }
        });
        Collector { url, spans, most }
    }

    pub(crate) fn named(&self, name: &str) -> Vec<Span> {
        let spans = self.spans.lock().unwrap();
        spans.iter().filter(|(_, span)| span.name == name).map(|(_, span)| span.clone()).collect()
    }

    #[track_caller]
    pub(crate) fn one(&self, name: &str) -> Span {
        let [span] = &self.named(name)[..] else { panic!("not one span '{name}': {:?}", self.spans.lock().unwrap()) };
        span.clone()
    }
}

fn receive(stream: TcpStream, kept: &Mutex<Vec<Kept>>, most: &AtomicUsize) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut head, mut line) = (String::new(), String::new());
        while stream.read_line(&mut line).ok()? > 2 {
            head.push_str(&line.to_lowercase());
            line.clear();
        }
        if head.is_empty() {
            return None;
        }
        assert!(head.starts_with("post /v1/traces http/1.1"), "{head}");
        assert!(head.contains("content-type: application/x-protobuf"), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.trim().parse().ok()?;
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        for of in ExportTraceServiceRequest::decode(&body[..]).unwrap().resource_spans {
            let attributes = of.resource.map(|resource| resource.attributes).unwrap_or_default();
            let service = attributes.into_iter().find(|a| a.key == "service.name").and_then(|a| a.value?.value);
            let spans: Vec<_> = of.scope_spans.into_iter().flat_map(|scope| scope.spans).collect();
            most.fetch_max(spans.len(), SeqCst);
            kept.lock().unwrap().extend(spans.into_iter().map(|span| (service.clone(), span)));
        }
        write!(
            stream.get_mut(),
            "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"
        )
        .ok()?;
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[track_caller]
pub(crate) fn text(span: &Span, key: &str) -> String {
    match span.attributes.iter().find(|a| a.key == key).and_then(|a| a.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(n)) => n.to_string(),
        other => panic!("{key}: {other:?} in {span:?}"),
    }
}
