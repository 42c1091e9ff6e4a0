//! Where Prometheus asks: HTTP/1, one path.

use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Bytes, body::Incoming, header, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, future::Future, net, time::Duration};
use tokio::net::TcpListener;

/// How long a client may take for its request.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long nobody is let in who could not be: there are too many open files, mostly.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers each request for `/metrics` with a text, for as long as it is polled. Within a tokio runtime.
///
/// # Errors
/// The listener can't be used.
pub(crate) async fn serve<F>(
    listener: net::TcpListener,
    text: impl Fn() -> F + Clone + Send + 'static,
) -> std::io::Result<Infallible>
where
    F: Future<Output = String> + Send + 'static,
{
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let text = text.clone();
        let service = service_fn(move |request| {
            let text = text.clone();
            async move { Ok::<_, Infallible>(answer(&request, text).await) }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
        // Who leaves in the middle has had enough.
        tokio::spawn(async move { drop(http.serve_connection(TokioIo::new(stream), service).await) });
    }
}

async fn answer<F: Future<Output = String>>(
    request: &Request<Incoming>,
    text: impl Fn() -> F,
) -> Response<Full<Bytes>> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => (StatusCode::OK, text().await),
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, "GET alone\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "/metrics is what is here\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let of_text = if status == StatusCode::OK { prometheus::TEXT_FORMAT } else { "text/plain" };
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(of_text));
    response
}
