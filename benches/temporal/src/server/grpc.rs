//! gRPC over HTTP/2, as much of it as workers speak to a server: unary calls, requests that may be gzipped.

use bytes::{BufMut, Bytes, BytesMut};
use flate2::bufread::GzDecoder;
use h2::{
    RecvStream,
    server::{self, SendResponse},
};
use http::{HeaderMap, HeaderValue, Request, Response};
use std::{future::poll_fn, io::Read, rc::Rc};
use tokio::{
    net::{TcpListener, TcpStream},
    task::spawn_local,
};

/// What a call fails with.
pub(super) struct Status {
    code: u8,
    message: String,
}

impl Status {
    const INVALID_ARGUMENT: u8 = 3;
    const NOT_FOUND: u8 = 5;
    const UNIMPLEMENTED: u8 = 12;

    pub(super) fn invalid(why: impl std::fmt::Display) -> Status {
        Status { code: Status::INVALID_ARGUMENT, message: why.to_string() }
    }

    pub(super) fn not_found(what: impl std::fmt::Display) -> Status {
        Status { code: Status::NOT_FOUND, message: what.to_string() }
    }

    pub(super) fn unimplemented(method: &str) -> Status {
        Status { code: Status::UNIMPLEMENTED, message: format!("{method} is not implemented by the null server") }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// An encoded message, with the room that its frame needs in front.
pub(super) struct Answer(BytesMut);

/// A flag, "not compressed", and the length.
const FRAME: usize = 5;

impl Answer {
    /// The message is what `encode` appends.
    pub(super) fn encoded(encode: impl FnOnce(&mut BytesMut)) -> Answer {
        let mut bytes = BytesMut::with_capacity(1024);
        bytes.put_bytes(0, FRAME);
        encode(&mut bytes);
        let length = u32::try_from(bytes.len() - FRAME).expect("a message of less than 4 GiB");
        bytes[1..FRAME].copy_from_slice(&length.to_be_bytes());
        Answer(bytes)
    }

    pub(super) fn of(message: &impl prost::Message) -> Answer {
        Answer::encoded(|bytes| message.encode(bytes).expect("a buffer that grows has room"))
    }
}

/// What answers calls: of one thread, as everything here.
pub(super) trait Service: 'static {
    async fn call(&self, method: &str, message: Bytes) -> Result<Answer, Status>;
}

/// Serves connections until it is dropped.
pub(super) async fn serve(listener: TcpListener, service: Rc<impl Service>) {
    loop {
        // A connection that failed before it was accepted is the client's to open again.
        if let Ok((socket, _)) = listener.accept().await {
            spawn_local(connection(socket, service.clone()));
        }
    }
}

async fn connection(socket: TcpStream, service: Rc<impl Service>) {
    // Workers come and go, and leave in the middle of their polls: what fails with a connection ends with it.
    let _ = socket.set_nodelay(true);
    let mut builder = server::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
    let Ok(mut streams) = builder.handshake::<_, Bytes>(socket).await else { return };
    while let Some(Ok((request, respond))) = streams.accept().await {
        let service = service.clone();
        spawn_local(async move {
            let _ = answer(&*service, request, respond).await;
        });
    }
}

async fn answer(
    service: &impl Service,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let (head, mut body) = request.into_parts();
    let frame = whole(&mut body).await?;
    let method = head.uri.path().rsplit('/').next().unwrap_or_default();
    let called = async {
        match message(frame) {
            Ok(message) => service.call(method, message).await,
            Err(e) => Err(Status::invalid(e)),
        }
    };
    let answer = tokio::select! {
        answer = called => answer,
        // The client has given this poll up.
        _ = poll_fn(|context| respond.poll_reset(context)) => return Ok(()),
    };
    let head = Response::builder().header("content-type", "application/grpc");
    match answer {
        Ok(Answer(bytes)) => {
            let head = head.body(()).expect("constant headers are valid");
            let mut stream = respond.send_response(head, false)?;
            stream.send_data(bytes.freeze(), false)?;
            stream.send_trailers(HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                HeaderValue::from_static("0"),
            )]))
        }
        Err(Status { code, message }) => {
            // What HTTP allows in a header; the rest is for people anyway.
            let message = message.replace(|c: char| !c.is_ascii_graphic() && c != ' ', "?");
            let head = head.header("grpc-status", u16::from(code)).header("grpc-message", message).body(());
            respond.send_response(head.expect("the message has been cleaned"), true).map(drop)
        }
    }
}

async fn whole(body: &mut RecvStream) -> Result<Bytes, h2::Error> {
    let mut all = Bytes::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        all = if all.is_empty() { chunk } else { Bytes::from([all, chunk].concat()) };
    }
    Ok(all)
}

fn message(mut frame: Bytes) -> std::io::Result<Bytes> {
    if frame.len() < FRAME {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let is_compressed = frame.split_to(FRAME)[0] == 1;
    if !is_compressed {
        return Ok(frame);
    }
    let mut plain = Vec::with_capacity(4 * frame.len());
    GzDecoder::new(&*frame).read_to_end(&mut plain)?;
    Ok(plain.into())
}
