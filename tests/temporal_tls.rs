//! API keys and TLS: what a server sees of a worker that connects, and what it does not.
//!
//! The server here speaks TLS and HTTP/2, notes who calls, and refuses everybody. `tests/tls` holds its certificate for `localhost`
//! and the authority that has signed it, and those of a client, all made for this test with `openssl`, for a hundred years.

use h2::server::handshake;
use http::{HeaderMap, Response};
use shmworker::cli::exit;
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex},
};
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
};

fn pem(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

/// Serves until it is dropped.
struct Server {
    address: String,
    /// The headers of each call.
    calls: Arc<Mutex<Vec<HeaderMap>>>,
    _runtime: Runtime,
}

impl Server {
    fn start() -> Server {
        Server::asking(false)
    }

    /// `for_certificates`: who calls has to show one, of the authority of clients.
    fn asking(for_certificates: bool) -> Server {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = format!("localhost:{}", listener.local_addr().unwrap().port());
        let calls = Arc::<Mutex<Vec<HeaderMap>>>::default();
        runtime.spawn(serve(listener, calls.clone(), for_certificates));
        Server { address, calls, _runtime: runtime }
    }

    /// A worker is told of it, and ends since it is refused.
    fn refuses(&self, args: &[&str], env: &[(&str, &str)]) -> Output {
        let mut run = Command::new(env!("CARGO_BIN_EXE_shmworker"));
        run.args(["run", "-w", "1", "-a", "0", "--no-dev-server"]).args(args).env_clear();
        run.envs([("TEMPORAL_ADDRESS", &*self.address)]).envs(env.iter().copied()).output().unwrap()
    }
}

async fn serve(listener: TcpListener, calls: Arc<Mutex<Vec<HeaderMap>>>, asks_for_certificates: bool) {
    let chain = CertificateDer::pem_file_iter(pem("server.pem")).unwrap().collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(pem("server.key")).unwrap();
    let mut authorities = RootCertStore::empty();
    authorities.add(CertificateDer::from_pem_file(pem("client-ca.pem")).unwrap()).unwrap();
    let config = ServerConfig::builder();
    let config = match asks_for_certificates {
        true => config.with_client_cert_verifier(WebPkiClientVerifier::builder(authorities.into()).build().unwrap()),
        false => config.with_no_client_auth(),
    };
    let mut config = config.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    loop {
        let (connection, _) = listener.accept().await.unwrap();
        // Who doesn't trust the certificate goes away.
        let Ok(connection) = acceptor.accept(connection).await else { continue };
        let Ok(mut connection) = handshake(connection).await else { continue };
        while let Some(Ok((request, mut answer))) = connection.accept().await {
            calls.lock().unwrap().push(request.headers().clone());
            let refusal = Response::builder().header("content-type", "application/grpc");
            let refusal = refusal.header("grpc-status", "16").header("grpc-message", "the key opens nothing");
            answer.send_response(refusal.body(()).unwrap(), true).unwrap();
        }
    }
}

#[track_caller]
fn complains(output: &Output, code: u8, holds: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.lines().last().is_some_and(|line| line.starts_with("error: ") && line.contains(holds)), "{said}");
    assert_eq!(output.status.code(), Some(code.into()), "{said}");
}

#[test]
fn the_api_key_reaches_the_server_that_the_authority_vouches_for() {
    let authority = pem("ca.pem");
    let authority = authority.to_str().unwrap();
    for (args, env) in [
        (&["--api-key", "open-sesame", "--tls-ca", authority][..], &[][..]),
        (&[], &[("TEMPORAL_API_KEY", "open-sesame"), ("TEMPORAL_TLS_SERVER_CA_CERT_PATH", authority)]),
    ] {
        let server = Server::start();
        let output = server.refuses(args, env);
        complains(&output, exit::CONFIG, "the key opens nothing; check the API key");
        let calls = server.calls.lock().unwrap();
        assert!(!calls.is_empty(), "nobody has called");
        assert!(calls.iter().all(|headers| headers["authorization"] == "Bearer open-sesame"), "{calls:?}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("sesame"), "a secret is not for the log");
    }
}

#[test]
fn a_server_that_nobody_vouches_for_gets_no_key() {
    let server = Server::start();
    let output = server.refuses(&["--api-key", "open-sesame"], &[]);
    complains(&output, exit::SERVER_UNREACHABLE, "certificate");
    assert!(server.calls.lock().unwrap().is_empty(), "it was called");
}

#[test]
fn tls_alone_trusts_whom_the_system_trusts() {
    let server = Server::start();
    let output = server.refuses(&["--tls"], &[]);
    complains(&output, exit::SERVER_UNREACHABLE, "certificate");
    let output = server.refuses(&["--tls"], &[("SSL_CERT_FILE", pem("ca.pem").to_str().unwrap())]);
    complains(&output, exit::CONFIG, "the key opens nothing");
    assert!(server.calls.lock().unwrap().iter().all(|headers| !headers.contains_key("authorization")));
}

#[test]
fn the_certificate_must_carry_the_name_that_was_given() {
    let authority = pem("ca.pem");
    let server = Server::start();
    let by_number = server.address.replace("localhost", "127.0.0.1");
    let refuses = |args: &[&str]| {
        let args = [&["--tls-ca", authority.to_str().unwrap()], args].concat();
        server.refuses(&args, &[])
    };
    complains(&refuses(&["--address", &by_number]), exit::SERVER_UNREACHABLE, "certificate");
    complains(&refuses(&["--tls-server-name", "far.example"]), exit::SERVER_UNREACHABLE, "certificate");
    assert!(server.calls.lock().unwrap().is_empty(), "it was called");
    let output = refuses(&["--address", &by_number, "--tls-server-name", "localhost"]);
    complains(&output, exit::CONFIG, "the key opens nothing");
}

#[test]
fn a_client_certificate_is_shown_to_a_server_that_asks_for_one() {
    let [authority, certificate, key] = ["ca.pem", "client.pem", "client.key"].map(pem);
    let [authority, certificate, key] = [&authority, &certificate, &key].map(|path| path.to_str().unwrap());
    let server = Server::asking(true);
    let output = server.refuses(&["--tls-ca", authority], &[]);
    complains(&output, exit::SERVER_UNREACHABLE, "");
    assert!(server.calls.lock().unwrap().is_empty(), "it was called");
    let output = server.refuses(&["--tls-ca", authority, "--tls-cert", certificate, "--tls-key", key], &[]);
    complains(&output, exit::CONFIG, "the key opens nothing");
    assert!(!server.calls.lock().unwrap().is_empty(), "nobody has called");
    // Each needs the other.
    let output = server.refuses(&["--tls-ca", authority, "--tls-cert", certificate], &[]);
    complains(&output, exit::CONFIG, "--tls-key");
}

#[test]
fn messages_are_compressed_where_that_is_asked_for() {
    let authority = pem("ca.pem");
    for (args, encoding) in [(&["--gzip"][..], Some("gzip")), (&[], None)] {
        let server = Server::start();
        let args = [&["--tls-ca", authority.to_str().unwrap()], args].concat();
        complains(&server.refuses(&args, &[]), exit::CONFIG, "the key opens nothing");
        let calls = server.calls.lock().unwrap();
        assert!(!calls.is_empty(), "nobody has called");
        for headers in calls.iter() {
            let sent = headers.get("grpc-encoding").map(|value| value.to_str().unwrap());
            assert_eq!(sent, encoding, "{headers:?}");
        }
    }
}
