//! A Redis server on a free port, with its data in a directory that goes with it.

use crate::common::{Program, eventually};
use nix::sys::signal::Signal;
use redis::{Client, Connection};
use std::{
    env,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

/// A server, which ends when this is dropped. Its password is `secret word`.
pub(crate) struct Redis {
    port: u16,
    tls_port: u16,
    is_durable: bool,
    home: tempfile::TempDir,
    program: Program,
}

impl Redis {
    /// Starts a server that writes down each change before it answers, and waits until it serves.
    pub(crate) fn start() -> Redis {
        Redis::launch(true)
    }

    /// The same of one that keeps nothing over its end.
    pub(crate) fn forgetful() -> Redis {
        Redis::launch(false)
    }

    fn launch(is_durable: bool) -> Redis {
        let home = tempfile::tempdir().unwrap();
        // Nobody else is given the ports in the moment between.
        let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [port, tls_port] = ports.each_ref().map(|listener| listener.local_addr().unwrap().port());
        drop(ports);
        let program = serve(home.path(), port, tls_port, is_durable);
        let mut server = Redis { port, tls_port, is_durable, home, program };
        server.await_service();
        server
    }

    pub(crate) fn kill(&mut self) {
        self.program.signal(Signal::SIGKILL);
        self.program.end();
    }

    /// Starts it again, after a kill, at the same place.
    pub(crate) fn restart(&mut self) {
        self.program = serve(self.home.path(), self.port, self.tls_port, self.is_durable);
        self.await_service();
    }

    fn await_service(&mut self) {
        eventually("Redis serves", || {
            assert!(self.program.is_running(), "Redis has ended: {:?}", self.program.stdout());
            let mut connection = Client::open(self.url("")).unwrap().get_connection().ok()?;
            redis::cmd("PING").exec(&mut connection).ok()
        });
    }

    pub(crate) fn connection(&self) -> Connection {
        Client::open(self.url("")).unwrap().get_connection().unwrap()
    }

    /// The URL of the server with these parameters.
    pub(crate) fn url(&self, parameters: &str) -> String {
        let mark = if parameters.is_empty() { "" } else { "?" };
        format!("redis://:secret%20word@localhost:{}/0{mark}{parameters}", self.port)
    }

    pub(crate) fn tls_url(&self) -> String {
        format!("rediss://:secret%20word@localhost:{}/0", self.tls_port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

pub(crate) fn pem(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

fn serve(home: &Path, port: u16, tls_port: u16, is_durable: bool) -> Program {
    let path = env::var_os("PATH").unwrap_or_default();
    let is_here = env::split_paths(&path).any(|dir| dir.join("redis-server").is_file());
    assert!(is_here, "no Redis here: install Debian's package 'redis-server', as '.ci/servers' does");
    let mut command = Command::new("redis-server");
    command.current_dir(home).args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]);
    command.args(["--requirepass", "secret word", "--loglevel", "warning"]);
    command.args(["--tls-port", &tls_port.to_string(), "--tls-auth-clients", "no"]);
    for (setting, file) in
        [("--tls-cert-file", "server.pem"), ("--tls-key-file", "server.key"), ("--tls-ca-cert-file", "ca.pem")]
    {
        command.arg(setting).arg(pem(file));
    }
    if is_durable {
        command.args(["--appendonly", "yes", "--appendfsync", "always"]);
    }
    Program::start(command)
}
