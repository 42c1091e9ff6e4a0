//! A Redis server of our own on a Unix socket, and a list each way. Workers take from one list.

use crate::{
    Result, Skip,
    measure::{End, Link, Side},
    stage::Wait,
};
use nix::sys::{prctl::set_pdeathsig, signal::Signal};
use redis::{Client, Cmd, Connection};
use std::{
    collections::VecDeque,
    fs,
    io::ErrorKind,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// As many as go in one command when there are more.
const BATCH: usize = 64;

pub(crate) struct Lists {
    client: Client,
    /// Where its socket is.
    directory: TempDir,
}

pub(crate) struct ListEnd {
    connection: Connection,
    out: &'static str,
    back: &'static str,
    /// Not sent yet: they go together, before this end waits.
    outbox: Vec<Vec<u8>>,
    inbox: VecDeque<Vec<u8>>,
}

impl Link for Lists {
    type End = ListEnd;
    const IS_SHARED: bool = true;

    fn new(_wait: Wait, _largest: usize) -> Result<Lists> {
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("redis");
        let mut server = Command::new("redis-server");
        server.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]).arg(&socket);
        server.stdin(Stdio::null()).stdout(Stdio::null()).current_dir(directory.path());
        // SAFETY: one system call, and nothing else, in the child.
        unsafe { server.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?)) };
        match server.spawn() {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Skip::because("redis-server is not in PATH: benches/setup installs it");
            }
            spawned => spawned.map_err(|e| format!("redis-server: {e}"))?,
        };
        let client = Client::open(format!("unix://{}", socket.display()))?;
        let start = Instant::now();
        while let Err(e) = client.get_connection() {
            if start.elapsed() > Duration::from_secs(5) {
                return Err(e.into());
            }
            std::thread::yield_now();
        }
        Ok(Lists { client, directory })
    }

    fn clear(&self) -> Result<()> {
        // The server itself ends with this process.
        Ok(fs::remove_dir_all(self.directory.path())?)
    }

    fn end(&'static self, side: Side) -> Result<ListEnd> {
        let (out, back) = if side == Side::Near { ("there", "back") } else { ("back", "there") };
        let connection = self.client.get_connection()?;
        Ok(ListEnd { connection, out, back, outbox: Vec::new(), inbox: VecDeque::new() })
    }
}

impl ListEnd {
    fn flush(&mut self) -> Result<()> {
        if !self.outbox.is_empty() {
            Cmd::lpush(self.out, &self.outbox).exec(&mut self.connection)?;
            self.outbox.clear();
        }
        Ok(())
    }
}

impl End for ListEnd {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.outbox.push(bytes.to_vec());
        if self.outbox.len() < BATCH { Ok(()) } else { self.flush() }
    }

    fn receive<R>(&mut self, with: impl FnOnce(&[u8]) -> R) -> Result<R> {
        if self.inbox.is_empty() {
            self.flush()?;
            let mut take = redis::cmd("BLMPOP");
            take.arg(0).arg(1).arg(self.back).arg("RIGHT").arg("COUNT").arg(BATCH);
            let (_, values): (String, Vec<Vec<u8>>) = take.query(&mut self.connection)?;
            self.inbox.extend(values);
        }
        let bytes = self.inbox.pop_front().ok_or("a list gave nothing")?;
        Ok(with(&bytes))
    }
}
