//! A server of jobs that speaks the gRPC protocol of `proto/shmworker/source/v1/source.proto`.
//!
//! ```text
//! grpc_source_server DIR [LISTEN [LEASE_MS]]        reads DIR/jobs.jsonl, writes DIR/results.jsonl
//! shmworker run --source grpc://127.0.0.1:PORT -w 8
//! ```

#[path = "source_server/book.rs"]
mod book;
#[path = "source_server/v1.rs"]
#[rustfmt::skip]
#[allow(unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
mod v1;

use book::Book;
use futures_util::{Stream, stream};
use std::{
    error::Error,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use tonic::{Status, Streaming, transport::Server};
use v1::{
    Job, Jobs, Lost, Published, Released, Request, Response,
    request::Ask,
    response::Answer,
    source_server::{Source, SourceServer},
};

/// Between two looks for jobs; a server with many workers would have them told.
const LOOK: Duration = Duration::from_millis(10);
/// Larger than what a worker sends at once.
const LONGEST: usize = 256 << 20;

struct Served(Arc<Mutex<Book>>);

fn main() -> Result<(), Box<dyn Error>> {
    serve(std::env::args().skip(1).collect())
}

pub(crate) fn serve(args: Vec<String>) -> Result<(), Box<dyn Error>> {
    let [dir, rest @ ..] = &args[..] else { return Err("usage: grpc_source_server DIR [LISTEN [LEASE_MS]]".into()) };
    let lease = rest.get(1).map_or(Ok(30_000), |ms| ms.parse())?;
    let book = Book::open(dir.as_ref(), Duration::from_millis(lease))?;
    let mut address: SocketAddr = rest.first().map_or("127.0.0.1:0", String::as_str).parse()?;
    if address.port() == 0 {
        address = TcpListener::bind(address)?.local_addr()?;
    }
    let source = SourceServer::new(Served(Arc::new(Mutex::new(book)))).max_decoding_message_size(LONGEST);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let incoming = tonic::transport::server::TcpIncoming::bind(address)?.with_nodelay(Some(true));
        println!("grpc://{address}");
        Ok(Server::builder().serve_with_incoming(source, incoming).await?)
    })
}

#[tonic::async_trait]
impl Source for Served {
    type WorkStream = Pin<Box<dyn Stream<Item = Result<Response, Status>> + Send>>;

    async fn work(
        &self,
        asked: tonic::Request<Streaming<Request>>,
    ) -> Result<tonic::Response<Self::WorkStream>, Status> {
        let mut asked = asked.into_inner();
        let book = self.0.clone();
        let (answers, mut receiver) = mpsc::channel(8);
        tokio::spawn(async move {
            while let Ok(Some(Request { number, ask: Some(ask) })) = asked.message().await {
                let (book, answers) = (book.clone(), answers.clone());
                // One that waits for jobs does not hold the others up.
                tokio::spawn(async move {
                    let answer = answer(&book, ask).await;
                    let response = answer.map(|answer| Response { number, answer: Some(answer) });
                    // Whoever has gone needs none; leases run out.
                    let _ = answers.send(response).await;
                });
            }
        });
        Ok(tonic::Response::new(Box::pin(stream::poll_fn(move |context| receiver.poll_recv(context)))))
    }
}

async fn answer(book: &Mutex<Book>, ask: Ask) -> Result<Answer, Status> {
    Ok(match ask {
        Ask::Fetch(fetch) => {
            let until = Instant::now() + Duration::from_millis(fetch.wait_ms.into());
            loop {
                let (leases, heartbeat) = {
                    let mut book = book.lock().unwrap();
                    (book.fetch(fetch.room as usize), book.heartbeat())
                };
                if leases.is_empty() && Instant::now() < until {
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
                let jobs = leases.into_iter().map(|(lease, json)| Job { lease, json }).collect();
                break Answer::Jobs(Jobs { jobs, heartbeat_ms: heartbeat.as_millis() as u32 });
            }
        }
        Ask::Publish(publish) => {
            let results = publish.results.iter().map(|r| (r.lease.as_str(), r.json.as_str()));
            book.lock().unwrap().publish(results).map_err(|e| Status::unavailable(e.to_string()))?;
            Answer::Published(Published {})
        }
        Ask::Heartbeat(beat) => {
            Answer::Lost(Lost { leases: book.lock().unwrap().renew(beat.leases.iter().map(String::as_str)) })
        }
        Ask::Release(release) => {
            book.lock().unwrap().release(release.leases.iter().map(String::as_str));
            Answer::Released(Released {})
        }
    })
}
