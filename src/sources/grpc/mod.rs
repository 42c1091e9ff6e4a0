//! A service that speaks gRPC, as `proto/shmworker/source/v1/source.proto` has it: one stream each way, over which requests and answers
//! go by numbers.

#[rustfmt::skip]
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
mod v1;

use super::{
    ConnectError, Lease, Outcome, SourceError, TaskSource,
    connect::{Options, failure, shown},
};
use std::{
    collections::HashMap,
    error::Error,
    fs,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::timeout,
};
use tonic::{
    Code, Status,
    metadata::{Ascii, MetadataKey, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use url::Url;
use v1::{
    Fetch, Heartbeat, Publish, Release, Request, Response, Result as Published, request::Ask, response::Answer,
    source_client::SourceClient,
};

/// Until the server has said how often.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long an answer may take, beyond what it was asked to wait.
const ANSWER: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(10);
/// A connection on which nothing comes is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// An answer is no longer than that.
const LONGEST: usize = 256 << 20;
/// There is one request of each kind at a time.
const UNDER_WAY: usize = 8;

struct Grpc {
    endpoint: Endpoint,
    shown: String,
    metadata: Vec<(MetadataKey<Ascii>, MetadataValue<Ascii>)>,
    /// Its threads are started by the first request: a pool forks before that.
    runtime: OnceLock<Runtime>,
    link: Mutex<Option<Arc<Link>>>,
    heartbeat_ms: AtomicU64,
}

/// A stream each way.
struct Link {
    requests: mpsc::Sender<Request>,
    state: Mutex<State>,
    /// What takes the answers, and has the connection.
    task: OnceLock<AbortHandle>,
}

#[derive(Default)]
struct State {
    last: u64,
    /// Who waits for an answer, by the numbers of the requests.
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    /// Why it has ended.
    ended: Option<Status>,
}

impl Link {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, why: Status) {
        let mut state = self.state();
        state.ended.get_or_insert(why);
        // Those who wait find no answer any more.
        state.waiting.clear();
        drop(state);
        // A server that is silent would not end it.
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }

    async fn answers(
        &self,
        client: &mut SourceClient<Channel>,
        requests: tonic::Request<Requests>,
    ) -> Result<(), Status> {
        let mut answers = client.work(requests).await?.into_inner();
        while let Some(Response { number, answer }) = answers.message().await? {
            // What nobody asked for is nobody's.
            let asked = self.state().waiting.remove(&number);
            if let (Some(asked), Some(answer)) = (asked, answer) {
                let _ = asked.send(answer);
            }
        }
        Ok(())
    }
}

/// What goes to the server.
struct Requests(mpsc::Receiver<Request>);

impl futures_util::Stream for Requests {
    type Item = Request;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Request>> {
        self.0.poll_recv(context)
    }
}

pub(super) fn open(url: &Url, options: &Options) -> Result<Box<dyn TaskSource>, ConnectError> {
    let shown = shown(url.as_str());
    let wrong = |why: &dyn std::fmt::Display| ConnectError::Url(format!("{shown}: {why}"));
    let host = url.host_str().filter(|host| !host.is_empty());
    let host = host.ok_or_else(|| wrong(&"there is no host in the URL"))?;
    let port = url.port().ok_or_else(|| wrong(&"there is no port in the URL, and gRPC has no usual one"))?;
    if !matches!(url.path(), "" | "/")
        || url.query().is_some()
        || !url.username().is_empty()
        || url.password().is_some()
    {
        return Err(wrong(&"the URL of a gRPC source has a host and a port alone; who asks is said by a header"));
    }
    let is_tls = url.scheme() == "grpcs";
    let uri = format!("{}://{host}:{port}", if is_tls { "https" } else { "http" });
    let mut endpoint = Endpoint::from_shared(uri).map_err(|e| wrong(&e))?;
    endpoint = endpoint
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .user_agent(concat!("shmworker/", env!("CARGO_PKG_VERSION")))
        .map_err(|e| wrong(&e))?;
    match (&options.ca, is_tls) {
        (None, false) => {}
        (Some(_), false) => return Err(wrong(&"certificate authorities are for grpcs://, and this is not")),
        (None, true) => {
            endpoint = endpoint.tls_config(ClientTlsConfig::new().with_native_roots()).map_err(|e| wrong(&e))?;
        }
        (Some(file), true) => {
            let pem = fs::read(file).map_err(|e| wrong(&format_args!("cannot read {}: {e}", file.display())))?;
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
            endpoint = endpoint.tls_config(tls).map_err(|e| wrong(&e))?;
        }
    }
    let mut metadata = Vec::new();
    let worker = format!("shmworker-worker: {}", options.worker_name());
    for header in options.headers.iter().chain([&worker]) {
        metadata.push(read_header(header)?);
    }
    let heartbeat_ms = AtomicU64::new(HEARTBEAT.as_millis() as u64);
    let (runtime, link) = (OnceLock::new(), Mutex::default());
    Ok(Box::new(Grpc { endpoint, shown, metadata, runtime, link, heartbeat_ms }))
}

/// `Name: value`.
fn read_header(header: &str) -> Result<(MetadataKey<Ascii>, MetadataValue<Ascii>), ConnectError> {
    // What it says is a secret.
    let wrong = || ConnectError::Url("a header of the source is none: it must read 'Name: value'".to_owned());
    let (name, value) = header.split_once(':').ok_or_else(wrong)?;
    let name = name.trim().to_ascii_lowercase().parse().map_err(|_| wrong())?;
    let mut value: MetadataValue<Ascii> = value.trim().parse().map_err(|_| wrong())?;
    value.set_sensitive(true);
    Ok((name, value))
}

impl Grpc {
    fn runtime(&self) -> Result<&Runtime, SourceError> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(runtime);
        }
        let made = Builder::new_multi_thread().worker_threads(1).thread_name("grpc source").enable_all().build();
        let made = made.map_err(|e| SourceError::Unavailable(format!("no thread for gRPC: {e}")))?;
        // Another may have been first: then this one goes.
        Ok(self.runtime.get_or_init(|| made))
    }

    /// The stream that is there, or a new one, which is connected while requests already wait in it.
    fn link(&self, runtime: &Runtime) -> Arc<Link> {
        let mut place = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = place.as_ref().filter(|link| link.state().ended.is_none()) {
            return link.clone();
        }
        let (requests, receiver) = mpsc::channel(UNDER_WAY);
        let link = Arc::new(Link { requests, state: Mutex::default(), task: OnceLock::new() });
        *place = Some(link.clone());
        let mut client = SourceClient::new(self.endpoint.connect_lazy()).max_decoding_message_size(LONGEST);
        let mut stream = tonic::Request::new(Requests(receiver));
        for (name, value) in &self.metadata {
            stream.metadata_mut().insert(name.clone(), value.clone());
        }
        let answered = link.clone();
        let task = runtime.spawn(async move {
            let ended = answered.answers(&mut client, stream).await;
            answered.end(ended.err().unwrap_or_else(|| Status::unavailable("the server has ended the stream")));
        });
        // The first and only one to set it, before anybody else has the link.
        let _ = link.task.set(task.abort_handle());
        link
    }

    fn ask(&self, ask: Ask, wait: Duration) -> Result<Answer, SourceError> {
        let runtime = self.runtime()?;
        // In it `connect_lazy` finds what it needs.
        let _entered = runtime.enter();
        let link = self.link(runtime);
        let (asked, answer) = oneshot::channel();
        let number = {
            let mut state = link.state();
            state.last += 1;
            let number = state.last;
            if state.ended.is_none() {
                state.waiting.insert(number, asked);
            } else {
                // It has ended since, and nobody else would drop it: the answer would be waited for.
                drop(asked);
            }
            number
        };
        let answered = runtime.block_on(timeout(wait + ANSWER, async {
            // An error here is one there.
            let _ = link.requests.send(Request { number, ask: Some(ask) }).await;
            answer.await
        }));
        match answered {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => {
                let why = link.state().ended.clone();
                Err(self.error(&why.unwrap_or_else(|| Status::unavailable("there is no answer"))))
            }
            Err(_) => {
                let why = Status::deadline_exceeded(format!("no answer within {:?}", wait + ANSWER));
                link.end(why.clone());
                Err(self.error(&why))
            }
        }
    }

    fn error(&self, status: &Status) -> SourceError {
        let why = format!("{}: {:?}: {}", self.shown, status.code(), status.message());
        match status.code() {
            Code::Unauthenticated
            | Code::PermissionDenied
            | Code::InvalidArgument
            | Code::NotFound
            | Code::FailedPrecondition
            | Code::Unimplemented => SourceError::Fatal(why),
            // What servers say of a message that is longer than they take.
            Code::OutOfRange => SourceError::TooLarge(why),
            _ => match status.source() {
                Some(cause) => failure(&self.shown, cause),
                None => SourceError::Unavailable(why),
            },
        }
    }

    fn another(&self) -> SourceError {
        SourceError::Fatal(format!("{}: the server gives the answer to another question", self.shown))
    }
}

fn owned(leases: &[&str]) -> Vec<String> {
    leases.iter().map(|&lease| lease.to_owned()).collect()
}

impl TaskSource for Grpc {
    fn fetch(&self, room: usize, wait: Duration) -> Result<Vec<Lease>, SourceError> {
        let number = |n: u128| u32::try_from(n).unwrap_or(u32::MAX);
        let fetch = Fetch { room: number(room as u128), wait_ms: number(wait.as_millis()) };
        let Answer::Jobs(v1::Jobs { jobs, heartbeat_ms }) = self.ask(Ask::Fetch(fetch), wait)? else {
            return Err(self.another());
        };
        if heartbeat_ms > 0 {
            // Relaxed: a number, which nothing else goes with.
            self.heartbeat_ms.store(heartbeat_ms.into(), Relaxed);
        }
        Ok(jobs.into_iter().map(|job| Lease::from_json(job.lease, &job.json)).collect())
    }

    fn publish(&self, outcomes: &[Outcome]) -> Result<(), SourceError> {
        let result = |outcome: &Outcome| Published { lease: outcome.id.clone(), json: outcome.to_json() };
        let publish = Publish { results: outcomes.iter().map(result).collect() };
        match self.ask(Ask::Publish(publish), Duration::ZERO)? {
            Answer::Published(_) => Ok(()),
            _ => Err(self.another()),
        }
    }

    fn heartbeat_every(&self) -> Option<Duration> {
        Some(Duration::from_millis(self.heartbeat_ms.load(Relaxed)))
    }

    fn heartbeat(&self, leases: &[&str]) -> Result<Vec<String>, SourceError> {
        match self.ask(Ask::Heartbeat(Heartbeat { leases: owned(leases) }), Duration::ZERO)? {
            Answer::Lost(lost) => Ok(lost.leases),
            _ => Err(self.another()),
        }
    }

    fn shut_down(&self, unstarted: &[&str]) -> Result<(), SourceError> {
        if unstarted.is_empty() {
            return Ok(());
        }
        match self.ask(Ask::Release(Release { leases: owned(unstarted) }), Duration::ZERO)? {
            Answer::Released(_) => Ok(()),
            _ => Err(self.another()),
        }
    }
}
