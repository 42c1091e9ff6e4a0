//! A PostgreSQL server on a free port, with its data in a directory that goes with it.

use crate::common::{Program, eventually};
use nix::{
    sys::signal::Signal,
    unistd::{User, chown, geteuid},
};
use postgres::{Client, NoTls};
use std::{
    env, fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

/// A server, which ends when this is dropped. It knows one user, `tester`, whose password is `secret word`.
pub(crate) struct Postgres {
    port: u16,
    is_durable: bool,
    home: tempfile::TempDir,
    program: Program,
}

impl Postgres {
    /// Starts a server that is never killed, and so need not write down anything at once; returns once it serves.
    pub(crate) fn start() -> Postgres {
        let home = home();
        let password = home.path().join("password");
        fs::write(&password, "secret word").unwrap();
        own(&password);
        let mut init = command("initdb", home.path());
        init.args(["--no-sync", "--encoding=UTF8", "--no-locale", "--username=tester", "--auth=scram-sha-256"]);
        init.arg("--pwfile").arg(&password).arg("--pgdata").arg(home.path().join("new"));
        run(init);
        Postgres::launch(home, None)
    }

    /// Starts another as new as this one was, which may be killed.
    pub(crate) fn another(&self) -> Postgres {
        Postgres::launch(home(), Some(self))
    }

    fn launch(home: tempfile::TempDir, like: Option<&Postgres>) -> Postgres {
        let is_durable = like.is_some();
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(like.map_or(home.path(), |like| like.home.path()).join("new")).arg(home.path().join("data"));
        run(copy);
        for name in ["server.pem", "server.key"] {
            let copy = home.path().join(name);
            fs::copy(pem(name), &copy).unwrap();
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).unwrap();
            own(&copy);
        }
        // Nobody else is given the port in the moment between.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Postgres { port, is_durable, program: serve(home.path(), port, is_durable), home };
        server.await_service();
        server
    }

    /// Ends it as a power cut would, but for what the kernel has already been given.
    pub(crate) fn kill(&mut self) {
        assert!(self.is_durable, "it could lose what it has");
        self.program.signal(Signal::SIGKILL);
        self.program.end();
    }

    /// Starts it again, after a kill, at the same place.
    pub(crate) fn restart(&mut self) {
        // What it has left ends by itself, and until then it does not start.
        eventually("PostgreSQL starts again", || {
            self.program = serve(self.home.path(), self.port, self.is_durable);
            loop {
                if !self.program.is_running() {
                    return None;
                }
                if self.connection().is_ok() {
                    return Some(());
                }
            }
        });
    }

    fn await_service(&mut self) {
        eventually("PostgreSQL serves", || {
            assert!(self.program.is_running(), "PostgreSQL has ended: {:?}", self.program.stderr());
            self.connection().ok()
        });
    }

    fn connection(&self) -> Result<Client, postgres::Error> {
        Client::connect(&self.url(""), NoTls)
    }

    pub(crate) fn client(&self) -> Client {
        self.connection().unwrap()
    }

    /// The URL of the server with these parameters.
    pub(crate) fn url(&self, parameters: &str) -> String {
        let mark = if parameters.is_empty() { "" } else { "?" };
        format!("postgres://tester:secret%20word@localhost:{}/postgres{mark}{parameters}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.program.is_running() && !std::thread::panicking() {
            // At once, but so that it puts away its shared memory.
            self.program.signal(Signal::SIGQUIT);
            self.program.end();
        }
    }
}

pub(crate) fn pem(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    own(home.path());
    home
}

fn run(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn serve(home: &Path, port: u16, is_durable: bool) -> Program {
    let mut command = command("postgres", home);
    command.arg("-D").arg(home.join("data")).args(["-h", "localhost", "-p", &port.to_string()]).arg("-k").arg(home);
    let fsync = if is_durable { "fsync=on" } else { "fsync=off" };
    for setting in ["ssl=on", "log_min_messages=fatal", "shared_buffers=32MB", fsync] {
        command.args(["-c", setting]);
    }
    for (setting, file) in [("ssl_cert_file", "server.pem"), ("ssl_key_file", "server.key")] {
        command.arg("-c").arg(format!("{setting}={}", home.join(file).display()));
    }
    Program::start(command)
}

/// A program of PostgreSQL's, as the user that it runs as: it refuses to be root.
fn command(name: &str, home: &Path) -> Command {
    let mut command = Command::new(binaries().join(name));
    command.current_dir(home).env("TZ", "UTC");
    if let Some(user) = user() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

fn user() -> Option<User> {
    let named = |name| User::from_name(name).ok().flatten();
    geteuid().is_root().then(|| named("postgres").or_else(|| named("nobody")).expect("somebody who is not root"))
}

fn own(path: &Path) {
    if let Some(user) = user() {
        chown(path, Some(user.uid), Some(user.gid)).unwrap();
    }
}

/// Where Debian has the newest, or PATH the only one.
fn binaries() -> PathBuf {
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest =
        debian.filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin"))));
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = || env::split_paths(&path).find(|dir| dir.join("initdb").is_file());
    let found = newest.max().map(|(_, path)| path).filter(|path| path.join("initdb").is_file());
    found.or_else(in_path).expect("no PostgreSQL here: install Debian's package 'postgresql', as '.ci/servers' does")
}
