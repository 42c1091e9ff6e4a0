//! A server of jobs that speaks the HTTP protocol of `docs/sources.md`, of the standard library alone: one thread to a connection.
//!
//! ```text
//! http_source_server DIR [LISTEN [LEASE_MS]]        reads DIR/jobs.jsonl, writes DIR/results.jsonl
//! shmworker run --source http://127.0.0.1:PORT -w 8
//! ```

#[path = "source_server/book.rs"]
mod book;

use book::Book;
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use std::{
    error::Error,
    io::{self, BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

/// What is asked for; each request has a part of it.
#[derive(Deserialize)]
struct Ask {
    #[serde(default)]
    room: usize,
    #[serde(default)]
    wait_ms: u64,
    #[serde(default)]
    results: Vec<Published>,
    #[serde(default)]
    ids: Vec<String>,
}

#[derive(Deserialize)]
struct Published {
    id: String,
    result: Box<RawValue>,
}

struct Server {
    book: Mutex<Book>,
    /// Some were given back.
    given_back: Condvar,
}

fn main() -> Result<(), Box<dyn Error>> {
    serve(std::env::args().skip(1).collect())
}

pub(crate) fn serve(args: Vec<String>) -> Result<(), Box<dyn Error>> {
    let [dir, rest @ ..] = &args[..] else { return Err("usage: http_source_server DIR [LISTEN [LEASE_MS]]".into()) };
    let lease = rest.get(1).map_or(Ok(30_000), |ms| ms.parse())?;
    let book = Mutex::new(Book::open(dir.as_ref(), Duration::from_millis(lease))?);
    let listener = TcpListener::bind(rest.first().map_or("127.0.0.1:0", String::as_str))?;
    println!("http://{}", listener.local_addr()?);
    let server = Arc::new(Server { book, given_back: Condvar::new() });
    for connection in listener.incoming().flatten() {
        let server = server.clone();
        thread::spawn(move || {
            // Whoever has gone asks no more.
            let _ = server.serve(connection);
        });
    }
    Ok(())
}

impl Server {
    fn serve(&self, connection: TcpStream) -> io::Result<()> {
        connection.set_nodelay(true)?;
        let mut requests = BufReader::new(connection.try_clone()?);
        let mut connection = connection;
        while let Some((path, body)) = read(&mut requests)? {
            let (status, text) = match serde_json::from_slice(&body) {
                Ok(ask) => self.answer(&path, &ask),
                Err(e) => ("400 Bad Request", format!("the body is no request: {e}\n")),
            };
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", text.len());
            connection.write_all(&[head.as_bytes(), text.as_bytes()].concat())?;
        }
        Ok(())
    }

    fn answer(&self, path: &str, ask: &Ask) -> (&'static str, String) {
        let mut book = self.book.lock().unwrap();
        let ids = || ask.ids.iter().map(String::as_str);
        let answer = match path {
            "/fetch" => {
                let until = Instant::now() + Duration::from_millis(ask.wait_ms);
                let mut leases = book.fetch(ask.room);
                while leases.is_empty() && Instant::now() < until {
                    // Leases also run out, of which nobody tells.
                    let pause = (until - Instant::now()).min(book.heartbeat());
                    book = self.given_back.wait_timeout(book, pause).unwrap().0;
                    leases = book.fetch(ask.room);
                }
                let heartbeat_ms = book.heartbeat().as_millis();
                let job = |(id, job): (String, String)| {
                    // Also of what is no job: the worker says so in its result.
                    let job = RawValue::from_string(job).unwrap_or_else(|_| RawValue::NULL.to_owned());
                    json!({ "id": id, "job": job })
                };
                json!({ "heartbeat_ms": heartbeat_ms, "jobs": leases.into_iter().map(job).collect::<Vec<_>>() })
            }
            "/publish" => match book.publish(ask.results.iter().map(|r| (r.id.as_str(), r.result.get()))) {
                Ok(()) => json!({}),
                Err(e) => return ("503 Service Unavailable", format!("{e}\n")),
            },
            "/heartbeat" => json!({ "lost": book.renew(ids()) }),
            "/release" => {
                book.release(ids());
                self.given_back.notify_all();
                json!({})
            }
            _ => return ("404 Not Found", format!("there is no {path}\n")),
        };
        ("200 OK", answer.to_string())
    }
}

/// Path and body of a request; `None`: there are no more.
fn read(requests: &mut impl BufRead) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut line = String::new();
    if requests.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut length = 0;
    loop {
        line.clear();
        requests.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            None => break,
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            Some(_) => {}
        }
    }
    let mut body = vec![0; length];
    requests.read_exact(&mut body)?;
    Ok(Some((path, body)))
}
