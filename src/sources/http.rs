//! A service that speaks JSON over HTTP, as `docs/sources.md` has it: four requests, each a POST below one URL.

use super::{
    ConnectError, Lease, Outcome, SourceError, TaskSource,
    connect::{Options, failure, shown},
};
use base64::prelude::{BASE64_STANDARD, Engine};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::{
    fmt::Write,
    fs, iter,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use ureq::{
    Agent, Body,
    http::{HeaderName, HeaderValue, Response, StatusCode, header::AUTHORIZATION},
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
    let mut headers: Vec<_> = options.headers.iter().map(|header| read_header(header)).collect::<Result<_, _>>()?;
    if let Some(value) = take_user(&mut base)
        && !headers.iter().any(|(name, _)| *name == AUTHORIZATION)
    {
        headers.push((AUTHORIZATION, value));
    }
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

/// Takes user and password out of a URL, where they are percent-encoded, for the header that has them as they are.
fn take_user(url: &mut Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let (user, password) = (percent_decode_str(url.username()), percent_decode_str(url.password().unwrap_or_default()));
    let both: Vec<u8> = user.chain(iter::once(b':')).chain(password).collect();
    let mut value = HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(both))).ok()?;
    value.set_sensitive(true);
    // It has an authority, as it has a user.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    Some(value)
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
    fn url(&self, what: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{what}", self.base.path().trim_end_matches('/')));
        url
    }

    /// What is answered; `None`: an answer without a body.
    fn ask<A: DeserializeOwned>(
        &self,
        what: &str,
        body: &impl Serialize,
        wait: Duration,
    ) -> Result<Option<A>, SourceError> {
        let text = self.post(what, json(body)?, wait, None)?;
        let read = (!text.is_empty()).then(|| serde_json::from_slice(&text)).transpose();
        read.map_err(|e| {
            let shown = shown(self.url(what).as_str());
            SourceError::Fatal(format!("{shown}: what the server answers is not of this protocol: {e}"))
        })
    }

    /// The body of what is answered.
    fn post(&self, what: &str, body: Vec<u8>, wait: Duration, key: Option<&str>) -> Result<Vec<u8>, SourceError> {
        let url = self.url(what);
        let mut request = self.agent.post(url.as_str());
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
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
            status if status.is_success() => Ok(text),
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
    if status == StatusCode::PAYLOAD_TOO_LARGE {
        return SourceError::TooLarge(why);
    }
    match (is_passing, seconds) {
        (true, Some(seconds)) => SourceError::Busy(why, Duration::from_secs(seconds)),
        (true, None) => SourceError::Unavailable(why),
        (false, _) => SourceError::Fatal(why),
    }
}

/// The same for the same request, and for no other: a result that was too large goes again, as failed, and is another one then.
fn key(body: &[u8]) -> String {
    Sha256::digest(body)[..16].iter().fold(String::new(), |mut key, byte| {
        // A `String` takes all.
        let _ = write!(key, "{byte:02x}");
        key
    })
}

fn json(body: &impl Serialize) -> Result<Vec<u8>, SourceError> {
    serde_json::to_vec(body).map_err(|e| SourceError::Fatal(e.to_string()))
}

impl TaskSource for Http {
    fn fetch(&self, room: usize, wait: Duration) -> Result<Vec<Lease>, SourceError> {
        let ask = Fetch { worker: &self.worker, room, wait_ms: wait.as_millis() as u64 };
        let Some(Jobs { jobs, heartbeat_ms }) = self.ask("fetch", &ask, wait)? else { return Ok(Vec::new()) };
        if let Some(ms) = heartbeat_ms {
            // Relaxed: a number, which nothing else goes with.
            self.heartbeat_ms.store(ms.max(1), Relaxed);
        }
        Ok(jobs.into_iter().map(|Delivery { id, job }| Lease::from_json(id, job.get())).collect())
    }

    fn publish(&self, outcomes: &[Outcome]) -> Result<(), SourceError> {
        let results = outcomes.iter().map(|outcome| Published { id: &outcome.id, result: &outcome.result }).collect();
        let batch = json(&Publish { worker: &self.worker, results })?;
        let key = key(&batch);
        // What the server says of it is for people who look at the wire.
        self.post("publish", batch, Duration::ZERO, Some(&key)).map(drop)
    }

    fn heartbeat_every(&self) -> Option<Duration> {
        Some(Duration::from_millis(self.heartbeat_ms.load(Relaxed)))
    }

    fn heartbeat(&self, leases: &[&str]) -> Result<Vec<String>, SourceError> {
        let ids = Ids { worker: &self.worker, ids: leases };
        Ok(self.ask::<Lost>("heartbeat", &ids, Duration::ZERO)?.unwrap_or_default().lost)
    }

    fn shut_down(&self, unstarted: &[&str]) -> Result<(), SourceError> {
        if unstarted.is_empty() {
            return Ok(());
        }
        let ids = Ids { worker: &self.worker, ids: unstarted };
        self.post("release", json(&ids)?, Duration::ZERO, None).map(drop)
    }
}
