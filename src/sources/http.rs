//! A service that speaks JSON over HTTP, as `docs/sources.md` has it: four requests, each a POST below one URL.

use super::{
    ConnectError, Lease, Outcome, SourceError, TaskSource,
    connect::{Options, failure, shown},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::{
    fmt::Write,
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use ureq::{
    Agent, Body,
    http::{HeaderName, HeaderValue, Response, StatusCode},
    tls::{PemItem, RootCerts, TlsConfig, parse_pem},
};
use url::Url;

/// Until the server has said how often.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long an answer may take, beyond what it was asked to wait.
const ANSWER: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(10);
/// An answer is no longer than that.
const LONGEST: u64 = 256 << 20;
/// What is shown of an answer that is an error.
const SHOWN: usize = 200;

/// See `docs/sources.md`.
struct Http {
    agent: Agent,
    /// Has no slash at its end.
    base: Url,
    headers: Vec<(HeaderName, HeaderValue)>,
    worker: String,
    heartbeat_ms: AtomicU64,
}

#[derive(Serialize)]
struct Fetch<'a> {
    worker: &'a str,
    room: usize,
    wait_ms: u64,
}

#[derive(Deserialize)]
struct Jobs {
    jobs: Vec<Delivery>,
    heartbeat_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Delivery {
    id: String,
    job: Box<RawValue>,
}

#[derive(Serialize)]
struct Publish<'a> {
    worker: &'a str,
    results: Vec<Published<'a>>,
}

#[derive(Serialize)]
struct Published<'a> {
    id: &'a str,
    result: &'a crate::jobs::JobResult,
}

#[derive(Serialize)]
struct Ids<'a> {
    worker: &'a str,
    ids: &'a [&'a str],
}

#[derive(Default, Deserialize)]
struct Lost {
    #[serde(default)]
    lost: Vec<String>,
}

pub(super) fn open(url: &Url, options: &Options) -> Result<Box<dyn TaskSource>, ConnectError> {
    let mut base = url.clone();
    base.set_fragment(None);
    let path = base.path().trim_end_matches('/').to_owned();
    base.set_path(&path);
    let headers = options.headers.iter().map(|header| read_header(header)).collect::<Result<_, _>>()?;
    let roots = match &options.ca {
        None => RootCerts::PlatformVerifier,
        Some(file) => {
            let unread = |e: &dyn std::fmt::Display| {
                ConnectError::Url(format!(
                    "the certificate authorities of the source are not in {}: {e}",
                    file.display()
                ))
            };
            let pem = fs::read(file).map_err(|e| unread(&e))?;
            let items = parse_pem(&pem).collect::<Result<Vec<_>, _>>().map_err(|e| unread(&e))?;
            let certificate =
                |item| if let PemItem::Certificate(certificate) = item { Some(certificate) } else { None };
            let certificates: Vec<_> = items.into_iter().filter_map(certificate).collect();
            if certificates.is_empty() {
                return Err(unread(&"it has no certificate in PEM"));
            }
            RootCerts::Specific(Arc::new(certificates))
        }
    };
    let agent = Agent::config_builder()
        .http_status_as_error(false)
        // A request that is sent elsewhere would be another one.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_connect(Some(CONNECT))
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .user_agent(concat!("shmworker/", env!("CARGO_PKG_VERSION")))
        .build();
    let heartbeat_ms = AtomicU64::new(HEARTBEAT.as_millis() as u64);
    let worker = options.worker_name();
    Ok(Box::new(Http { agent: agent.into(), base, headers, worker, heartbeat_ms }))
}

/// `Name: value`.
pub(super) fn read_header(header: &str) -> Result<(HeaderName, HeaderValue), ConnectError> {
    // What it says is a secret.
    let wrong = || ConnectError::Url("a header of the source is none: it must read 'Name: value'".to_owned());
    let (name, value) = header.split_once(':').ok_or_else(wrong)?;
    let mut value = HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
    value.set_sensitive(true);
    Ok((name.trim().parse().map_err(|_| wrong())?, value))
}

impl Http {
    /// `None`: an answer without a body.
    fn post<A: DeserializeOwned>(
        &self,
        what: &str,
        body: &impl Serialize,
        wait: Duration,
        key: Option<&str>,
    ) -> Result<Option<A>, SourceError> {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{what}", self.base.path().trim_end_matches('/')));
        let mut request = self.agent.post(url.as_str());
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let body = serde_json::to_vec(body).map_err(|e| SourceError::Fatal(e.to_string()))?;
        let request = request.config().timeout_global(Some(wait + ANSWER)).build();
        let sent = request.header("content-type", "application/json").send(body);
        let shown = shown(url.as_str());
        let lost = |e: ureq::Error| match e {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::Tls(_) => {
                SourceError::Fatal(format!("{shown}: {e}"))
            }
            e => failure(&shown, &e),
        };
        let mut response = sent.map_err(lost)?;
        let text = response.body_mut().with_config().limit(LONGEST).read_to_vec().map_err(lost)?;
        match response.status() {
            StatusCode::NO_CONTENT => Ok(None),
            status if status.is_success() && text.is_empty() => Ok(None),
            status if status.is_success() => serde_json::from_slice(&text).map(Some).map_err(|e| {
                SourceError::Fatal(format!("{shown}: what the server answers is not of this protocol: {e}"))
            }),
            status => Err(refusal(&shown, status, &response, &text)),
        }
    }
}

/// What an answer means that is no success.
fn refusal(url: &str, status: StatusCode, response: &Response<Body>, text: &[u8]) -> SourceError {
    let text = String::from_utf8_lossy(text);
    let line: String = text.trim_start().lines().next().unwrap_or_default().chars().take(SHOWN).collect();
    let why = format!("{url}: {status}{}{line}", if line.is_empty() { "" } else { ": " });
    let is_passing = status.is_server_error()
        || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS);
    let seconds = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.trim().parse().ok());
    match (is_passing, seconds) {
        (true, Some(seconds)) => SourceError::Busy(why, Duration::from_secs(seconds)),
        (true, None) => SourceError::Unavailable(why),
        (false, _) => SourceError::Fatal(why),
    }
}

/// The same for the same results, and for no others: a lease is published once.
fn key(outcomes: &[Outcome]) -> String {
    let mut sum = Sha256::new();
    for outcome in outcomes {
        sum.update((outcome.id.len() as u64).to_le_bytes());
        sum.update(&outcome.id);
    }
    sum.finalize()[..16].iter().fold(String::new(), |mut key, byte| {
        // A `String` takes all.
        let _ = write!(key, "{byte:02x}");
        key
    })
}

impl TaskSource for Http {
    fn fetch(&self, room: usize, wait: Duration) -> Result<Vec<Lease>, SourceError> {
        let ask = Fetch { worker: &self.worker, room, wait_ms: wait.as_millis() as u64 };
        let Some(Jobs { jobs, heartbeat_ms }) = self.post("fetch", &ask, wait, None)? else { return Ok(Vec::new()) };
        if let Some(ms) = heartbeat_ms {
            // Relaxed: a number, which nothing else goes with.
            self.heartbeat_ms.store(ms.max(1), Relaxed);
        }
        Ok(jobs.into_iter().map(|Delivery { id, job }| Lease::from_json(id, job.get())).collect())
    }

    fn publish(&self, outcomes: &[Outcome]) -> Result<(), SourceError> {
        let results = outcomes.iter().map(|outcome| Published { id: &outcome.id, result: &outcome.result }).collect();
        let batch = Publish { worker: &self.worker, results };
        // What the server says of it is for people who look at the wire.
        self.post::<serde::de::IgnoredAny>("publish", &batch, Duration::ZERO, Some(&key(outcomes))).map(drop)
    }

    fn heartbeat_every(&self) -> Option<Duration> {
        Some(Duration::from_millis(self.heartbeat_ms.load(Relaxed)))
    }

    fn heartbeat(&self, leases: &[&str]) -> Result<Vec<String>, SourceError> {
        let ids = Ids { worker: &self.worker, ids: leases };
        Ok(self.post::<Lost>("heartbeat", &ids, Duration::ZERO, None)?.unwrap_or_default().lost)
    }

    fn shut_down(&self, unstarted: &[&str]) -> Result<(), SourceError> {
        if unstarted.is_empty() {
            return Ok(());
        }
        let ids = Ids { worker: &self.worker, ids: unstarted };
        self.post::<serde::de::IgnoredAny>("release", &ids, Duration::ZERO, None).map(drop)
    }
}
