//! Temporal's dev server as a child process, for who has no server yet.
//!
//! Everything here is plain processes: no thread is started and no runtime needed, so the single-threaded coordinator
//! can use it between its forks. The server lives no longer than the thread that started it, since the kernel kills it
//! with that thread (`PR_SET_PDEATHSIG`): start it on the main thread.

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, SealFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        memfd::{MFdFlags, memfd_create},
        prctl::set_pdeathsig,
        signal::{SigSet, Signal, kill},
    },
    unistd::{AccessFlags, Pid, access},
};
use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::{
        fd::{AsFd, FromRawFd, OwnedFd},
        unix::{
            fs::FileExt,
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// The port on which Temporal's tools expect a server.
pub const DEFAULT_PORT: u16 = 7233;

/// How a dev server is to be. By default it has no web UI, and forgets everything at its end.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The port on which it serves, on 127.0.0.1; [`DEFAULT_PORT`] by default.
    pub port: u16,
    /// Whether it has a web UI, on the port whose number is greater by 1000.
    pub ui: bool,
    /// The file in which it keeps its state, across its lives.
    pub db: Option<PathBuf>,
    /// A namespace that it has beside `default`.
    pub namespace: Option<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options { port: DEFAULT_PORT, ui: false, db: None, namespace: None }
    }
}

impl Options {
    /// The port of the web UI, if there is to be one.
    pub fn ui_port(&self) -> Option<u16> {
        self.ui.then(|| self.port.saturating_add(1000))
    }
}

/// How long the download of the tool may take, and how long its unpacking.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(300);
#[cfg(feature = "cli")]
const VERSION_LIMIT: Duration = Duration::from_secs(10);
const UNPACK_LIMIT: Duration = Duration::from_secs(60);
/// A connection within this machine is accepted or refused at once.
const READY_TIMEOUT: Duration = Duration::from_millis(100);
/// What is kept of a child's output.
const LOG_SIZE: u64 = 64 * 1024;

/// Why there is no dev server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DevServerError {
    /// `TEMPORAL_CLI` names something that can't be run.
    #[error(
        "TEMPORAL_CLI names '{path}', which is no executable file: name the temporal command line tool, or unset it"
    )]
    BadCli {
        /// What it names.
        path: PathBuf,
    },
    /// The tool is nowhere to be found, and could not be downloaded either.
    #[error(
        "no 'temporal' command line tool for the dev server, and its download failed: {reason}; install it from \
         https://docs.temporal.io/cli, name it in TEMPORAL_CLI, or name a running server with --address"
    )]
    NoCli {
        /// What went wrong with the download.
        reason: String,
    },
    /// The tool could not be run.
    #[error(
        "cannot run '{path}' for the dev server: {source}; name another tool in TEMPORAL_CLI, or a server with --address"
    )]
    Spawn {
        /// The tool.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The server ended by itself.
    #[error("the dev server ended, {status}: {output}; see to it, or name a running server with --address")]
    Exited {
        /// Exit code or signal.
        status: ExitStatus,
        /// The last line that it wrote.
        output: String,
    },
    /// The server could not be watched or stopped.
    #[error("cannot watch the dev server: {0}")]
    Io(#[from] io::Error),
}

/// Finds the `temporal` command line tool: where `TEMPORAL_CLI` says, else in `PATH`, else as downloaded before, else
/// downloaded now, into `$XDG_CACHE_HOME/shmworker` (by default `~/.cache/shmworker`).
///
/// A download blocks for up to five minutes. It needs `tar`, and `curl` or `wget`.
///
/// # Errors
///
/// [`DevServerError::BadCli`] and [`DevServerError::NoCli`].
pub fn locate() -> Result<PathBuf, DevServerError> {
    Places::usual().locate(|| {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => return Err(format!("there is none for {other}")),
        };
        Ok(format!("https://temporal.download/cli/archive/latest?platform=linux&arch={arch}"))
    })
}

/// The same without a download. `None`: it is nowhere.
#[cfg(feature = "cli")]
pub(crate) fn find() -> Result<Option<PathBuf>, DevServerError> {
    Places::usual().find()
}

/// What the tool says of its version.
#[cfg(feature = "cli")]
pub(crate) fn version(tool: &Path) -> Result<String, String> {
    let log = Log::new().map_err(|e| e.to_string())?;
    match run_into(Command::new(tool).arg("--version"), VERSION_LIMIT, &log) {
        Ok(()) => Ok(log.last_line().unwrap_or_else(|| "it does not say its version".to_owned())),
        Err(Helper::Missing) => Err("it is not there".to_owned()),
        Err(Helper::Failed(why)) => Err(why),
    }
}

/// Where the tool may be.
struct Places {
    named: Option<PathBuf>,
    path: OsString,
    cache: Option<PathBuf>,
}

impl Places {
    /// As the environment names them.
    fn usual() -> Places {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let cache = var("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let cache = cache.or_else(|| Some(PathBuf::from(var("HOME")?).join(".cache")));
        Places {
            named: var("TEMPORAL_CLI").map(PathBuf::from),
            path: var("PATH").unwrap_or_default(),
            cache: cache.map(|cache| cache.join("shmworker")),
        }
    }

    fn find(&self) -> Result<Option<PathBuf>, DevServerError> {
        if let Some(path) = &self.named {
            let found = is_executable(path).then(|| Some(path.clone()));
            return found.ok_or_else(|| DevServerError::BadCli { path: path.clone() });
        }
        let in_path = std::env::split_paths(&self.path).filter(|dir| dir.is_absolute()).map(|dir| dir.join("temporal"));
        let cached = self.cache.iter().map(|dir| dir.join("temporal"));
        Ok(in_path.chain(cached).find(|path| is_executable(path)))
    }

    fn locate(self, url: impl FnOnce() -> Result<String, String>) -> Result<PathBuf, DevServerError> {
        if let Some(found) = self.find()? {
            return Ok(found);
        }
        let cache = self.cache.ok_or_else(|| "no place to keep it: set HOME".to_owned());
        cache.and_then(|cache| download(&url()?, &cache)).map_err(|reason| DevServerError::NoCli { reason })
    }
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, AccessFlags::X_OK).is_ok()
}

/// Downloads the archive at `url` and puts its `temporal` into `cache`, whole or not at all.
fn download(url: &str, cache: &Path) -> Result<PathBuf, String> {
    tracing::info!(%url, cache = %cache.display(), "downloading the temporal command line tool, once");
    /// A directory of our own: another process may be downloading as well.
    struct Scratch(PathBuf);
    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
    let scratch = Scratch(cache.join(format!(".download-{}", Pid::this())));
    fs::create_dir_all(&scratch.0).map_err(|error| format!("cannot create '{}': {error}", scratch.0.display()))?;
    let archive = scratch.0.join("temporal.tar.gz");
    let seconds = DOWNLOAD_LIMIT.as_secs().to_string();
    let mut curl = Command::new("curl");
    curl.args(["-fsSL", "--connect-timeout", "10", "--max-time", &seconds, "-o"]).arg(&archive).arg(url);
    let mut wget = Command::new("wget");
    wget.args(["-q", "-T", "10", "-O"]).arg(&archive).arg(url);
    match run(&mut curl, DOWNLOAD_LIMIT) {
        Err(Helper::Missing) => match run(&mut wget, DOWNLOAD_LIMIT) {
            Err(Helper::Missing) => return Err("neither curl nor wget is installed".to_owned()),
            outcome => outcome,
        },
        outcome => outcome,
    }
    .map_err(|failure| failure.of(url))?;
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(&archive).arg("-C").arg(&scratch.0).arg("temporal");
    run(&mut tar, UNPACK_LIMIT).map_err(|failure| failure.of("tar"))?;
    let (unpacked, kept) = (scratch.0.join("temporal"), cache.join("temporal"));
    if !is_executable(&unpacked) {
        return Err(format!("what {url} serves holds no executable 'temporal'"));
    }
    fs::rename(&unpacked, &kept).map_err(|error| format!("cannot create '{}': {error}", kept.display()))?;
    Ok(kept)
}

/// Why a helper program did not do its work.
enum Helper {
    Missing,
    Failed(String),
}

impl Helper {
    fn of(self, what: &str) -> String {
        match self {
            Helper::Missing => format!("{what} is not installed"),
            Helper::Failed(reason) => format!("{what}: {reason}"),
        }
    }
}

/// Runs a short-lived program to its end, which comes within `limit`.
fn run(command: &mut Command, limit: Duration) -> Result<(), Helper> {
    let log = Log::new().map_err(|error| Helper::Failed(error.to_string()))?;
    run_into(command, limit, &log)
}

/// The same, with its output for whoever calls.
fn run_into(command: &mut Command, limit: Duration, log: &Log) -> Result<(), Helper> {
    let failed = |error: io::Error| Helper::Failed(error.to_string());
    let mut child = match spawn(command, log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Helper::Missing),
        outcome => outcome.map_err(failed)?,
    };
    let status = wait_within(&mut child, limit);
    if !matches!(status, Ok(Some(_))) {
        // Its end is what the next line waits for; that it may have come by itself is fine.
        let _ = child.kill();
        let _ = child.wait();
    }
    match status.map_err(failed)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(Helper::Failed(log.last_line().unwrap_or_else(|| status.to_string()))),
        None => Err(Helper::Failed(format!("not done within {} s", limit.as_secs()))),
    }
}

/// A dev server that this process has started. Dropping it kills it, unless the drop happens in a fork of this process.
///
/// ```no_run
/// use shmworker::temporal::dev_server::{DevServer, DevServerError, Options, locate};
/// use std::time::Duration;
///
/// # fn example() -> Result<(), DevServerError> {
/// let mut server = DevServer::start(&locate()?, &Options::default())?;
/// while !server.ready()? {
///     // ... whatever else there is to do
/// }
/// server.stop(Duration::from_secs(5))?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct DevServer {
    child: Process,
    log: Log,
    port: u16,
    parent: Pid,
}

/// A child of this process, whichever program of it has started it.
#[derive(Debug)]
struct Process {
    pid: Pid,
    /// It has been reaped: the number may be another's.
    status: Option<ExitStatus>,
}

impl Process {
    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.reap(libc::WNOHANG)
    }

    fn wait(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.reap(0)? {
                return Ok(status);
            }
        }
    }

    fn reap(&mut self, flags: libc::c_int) -> io::Result<Option<ExitStatus>> {
        if self.status.is_some() {
            return Ok(self.status);
        }
        let mut status = 0;
        // SAFETY: a plain number, and a place for another.
        match Errno::result(unsafe { libc::waitpid(self.pid.as_raw(), &raw mut status, flags) }) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => self.status = Some(ExitStatus::from_raw(status)),
            Err(error) => return Err(error.into()),
        }
        Ok(self.status)
    }

    fn kill(&self) -> io::Result<()> {
        if self.status.is_some() { Ok(()) } else { Ok(kill(self.pid, Signal::SIGKILL)?) }
    }
}

impl DevServer {
    /// Starts a server on 127.0.0.1.
    ///
    /// It is in a process group of its own, so that a Ctrl-C meant for its parent doesn't reach it, and has none of the
    /// parent's `TEMPORAL_*` variables. To be called on the main thread.
    ///
    /// # Errors
    ///
    /// [`DevServerError::Spawn`].
    pub fn start(cli: &Path, options: &Options) -> Result<DevServer, DevServerError> {
        let Options { port, db, namespace, .. } = options;
        let mut command = Command::new(cli);
        command.args(["server", "start-dev", "--ip", "127.0.0.1", "--log-level", "error", "--port"]);
        command.arg(port.to_string());
        match options.ui_port() {
            Some(port) => command.args(["--ui-ip", "127.0.0.1", "--ui-port", &port.to_string()]),
            None => command.arg("--headless"),
        };
        if let Some(db) = db {
            command.arg("--db-filename").arg(db);
        }
        if let Some(namespace) = namespace {
            command.arg(format!("--namespace={namespace}"));
        }
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"TEMPORAL_")) {
            command.env_remove(name);
        }
        command.process_group(0);
        let mut start = || {
            let log = Log::new()?;
            Ok((spawn(&mut command, &log)?, log))
        };
        let (child, log) = start().map_err(|source| DevServerError::Spawn { path: cli.to_owned(), source })?;
        Ok(DevServer { child, log, port: *port, parent: Pid::this() })
    }

    /// One that this process has started before it has executed this program. What it wrote is not known.
    ///
    /// # Errors
    /// No memory.
    #[cfg(all(feature = "cli", feature = "pool"))]
    pub(crate) fn taken_over(pid: Pid, port: u16) -> io::Result<DevServer> {
        Ok(DevServer { child: Process { pid, status: None }, log: Log::new()?, port, parent: Pid::this() })
    }

    #[cfg(feature = "pool")]
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Whether the server accepts connections by now. Doesn't wait for it.
    ///
    /// It can't tell who accepts: make sure before the start that nobody does. If somebody came in between, ours ends,
    /// and a later call says so.
    ///
    /// # Errors
    ///
    /// [`DevServerError::Exited`] if it ended, with the last line that it wrote.
    pub fn ready(&mut self) -> Result<bool, DevServerError> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let accepts = TcpStream::connect_timeout(&address, READY_TIMEOUT).is_ok();
        // Asked last: who accepts is another's server, if ours has ended for the sake of it.
        match self.child.try_wait()? {
            None => Ok(accepts),
            Some(status) => {
                let output = self.log.last_line().unwrap_or_else(|| "it wrote nothing".to_owned());
                Err(DevServerError::Exited { status, output: message(&output).to_owned() })
            }
        }
    }

    /// The server's process, to be watched; only [`ready`](Self::ready), [`stop`](Self::stop) and the drop reap it.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.child.pid
    }

    /// Ends the server: by SIGTERM, and by SIGKILL if it hasn't ended within `grace`. Returns when it is gone.
    ///
    /// # Errors
    ///
    /// [`DevServerError::Io`] if it can't be waited for; it is killed then.
    pub fn stop(mut self, grace: Duration) -> Result<ExitStatus, DevServerError> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        // Not reaped yet, so the number is still its own.
        kill(self.pid(), Signal::SIGTERM).map_err(io::Error::from)?;
        if let Some(status) = wait_within(&mut self.child, grace)? {
            return Ok(status);
        }
        self.child.kill()?;
        Ok(self.child.wait()?)
    }
}

impl Drop for DevServer {
    fn drop(&mut self) {
        // A forked worker that ends must not take the server of all along.
        if Pid::this() == self.parent {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Starts `command` so that it dies with this thread, with its output in `log` and no signal blocked.
fn spawn(command: &mut Command, log: &Log) -> io::Result<Process> {
    let parent = Pid::this();
    command.stdin(Stdio::null()).stdout(log.writer()?).stderr(log.writer()?);
    let prepare = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        // A parent that died before the line above sends nothing any more.
        if Pid::parent() != parent {
            return Err(Errno::ESRCH.into());
        }
        // The coordinator blocks what it reads from its signalfd; inherited, that would make SIGTERM useless.
        SigSet::empty().thread_set_mask()?;
        Ok(())
    };
    // SAFETY: `prepare` makes three system calls, all async-signal-safe, and neither allocates nor locks.
    unsafe { command.pre_exec(prepare) };
    Ok(Process { pid: Pid::from_raw(command.spawn()?.id().cast_signed()), status: None })
}

/// Waits for the end of `child`, without a signal handler or a sleep; `None` if it takes longer than `limit`.
fn wait_within(child: &mut Process, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    // SAFETY: a plain system call; the number is our child's, which nobody has reaped.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.pid.as_raw(), 0) };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just given us this descriptor, and it is small enough for a C int.
    let pidfd = unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if left.is_zero() {
            return Ok(None);
        }
        // Rounded up: the last millisecond would be spent spinning.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The message of a line of the server's log, `time=... level=... msg="..."`; of another line, all of it.
fn message(line: &str) -> &str {
    line.split_once(" msg=").map_or(line, |(_, message)| message.trim_matches('"'))
}

/// The first [`LOG_SIZE`] bytes of what a child writes. It is memory that can't grow: of a server that complains for
/// days, the rest is refused.
#[derive(Debug)]
struct Log(File);

impl Log {
    fn new() -> io::Result<Log> {
        let file = File::from(memfd_create(c"shmworker-child", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
        file.set_len(LOG_SIZE)?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK))?;
        Ok(Log(file))
    }

    /// All writers share one position.
    fn writer(&self) -> io::Result<File> {
        self.0.try_clone()
    }

    /// The last line with anything in it.
    fn last_line(&self) -> Option<String> {
        let mut bytes = vec![0; LOG_SIZE as usize];
        self.0.read_exact_at(&mut bytes, 0).ok()?;
        let written = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        let text = String::from_utf8_lossy(written);
        text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A shell script, written by another process: a descriptor of ours, open for writing, could be inherited by a
    /// child of another test, and the script then not be run (ETXTBSY).
    fn script(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        let write = r#"printf '#!/bin/sh\n%s\n' "$1" > "$2" && chmod +x "$2""#;
        assert!(Command::new("sh").args(["-c", write, "sh", text]).arg(&path).status().unwrap().success());
        path
    }

    fn nowhere(named: Option<PathBuf>) -> Places {
        Places { named, path: OsString::new(), cache: None }
    }

    fn no_download() -> Result<String, String> {
        Err("not in this test".to_owned())
    }

    /// A server that is a script, on a port which the test serves itself, if anybody does.
    fn start(script_text: &str, port: u16) -> (tempfile::TempDir, DevServer) {
        let dir = tempfile::tempdir().unwrap();
        let cli = script(dir.path(), "temporal", script_text);
        let server = DevServer::start(&cli, &Options { port, ..Options::default() }).unwrap();
        (dir, server)
    }

    #[test]
    fn a_tool_that_is_named_but_missing_is_an_error() {
        let error = nowhere(Some("/nowhere/temporal".into())).locate(no_download).unwrap_err();
        assert_eq!(
            error.to_string(),
            "TEMPORAL_CLI names '/nowhere/temporal', which is no executable file: name the temporal command line tool, or \
             unset it"
        );
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path().to_owned(), dir.path().join("plain")] {
            fs::write(dir.path().join("plain"), "").unwrap();
            assert!(matches!(nowhere(Some(path)).locate(no_download), Err(DevServerError::BadCli { .. })));
        }
    }

    #[test]
    fn the_tool_is_looked_for_by_name_then_in_path_then_in_the_cache() {
        let dir = tempfile::tempdir().unwrap();
        let [named, in_path, cached] = ["named", "path", "cache"].map(|place| {
            fs::create_dir(dir.path().join(place)).unwrap();
            script(&dir.path().join(place), "temporal", "true")
        });
        let mut places = Some(named.clone());
        let mut locate = |path: &str| {
            let path =
                std::env::join_paths(["", "relative"].map(PathBuf::from).into_iter().chain([dir.path().join(path)]));
            let cache = Some(dir.path().join("cache"));
            Places { named: places.take(), path: path.unwrap(), cache }.locate(no_download).unwrap()
        };
        assert_eq!(locate("path"), named);
        assert_eq!(locate("path"), in_path);
        assert_eq!(locate("none"), cached);
    }

    #[test]
    fn without_a_tool_it_is_downloaded_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        script(dir.path(), "temporal", "true");
        let archive = dir.path().join("archive.tar.gz");
        let tar = Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(dir.path()).arg("temporal").status();
        assert!(tar.unwrap().success());
        let cache = dir.path().join("cache");
        let places = || Places { cache: Some(cache.clone()), ..nowhere(None) };
        let found = places().locate(|| Ok(format!("file://{}", archive.display()))).unwrap();
        assert_eq!(found, cache.join("temporal"));
        assert_eq!(places().locate(no_download).unwrap(), found);
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 1, "the download leaves nothing else behind");
    }

    #[test]
    fn a_failed_download_says_why_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let places = || Places { cache: Some(dir.path().to_owned()), ..nowhere(None) };
        let url = format!("file://{}/none", dir.path().display());
        let error = places().locate(|| Ok(url.clone())).unwrap_err().to_string();
        assert!(error.contains(&format!("its download failed: {url}: curl:")), "{error}");
        assert!(error.ends_with("or name a running server with --address"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_early_death_is_reported_with_the_last_line() {
        let (_dir, mut server) =
            start(r#"echo starting; echo 'time=now level=ERROR msg="port is taken"' >&2; echo; exit 7"#, 1);
        let status = wait_within(&mut server.child, Duration::MAX / 4).unwrap().unwrap();
        assert_eq!(status.code(), Some(7));
        let error = server.ready().unwrap_err().to_string();
        assert!(error.starts_with("the dev server ended, exit status: 7: port is taken; "), "{error}");
    }

    #[test]
    fn a_server_is_ready_once_it_accepts() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // The port of a client: taken, so that nobody else comes to listen there, and closed to connections.
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        for (address, ready) in [(listener.local_addr(), true), (client.local_addr(), false)] {
            let (_dir, mut server) = start("exec sleep 1000", address.unwrap().port());
            assert_eq!(server.ready().unwrap(), ready);
        }
    }

    #[test]
    fn a_server_is_stopped_by_sigterm_even_if_this_thread_blocks_it() {
        SigSet::from(Signal::SIGTERM).thread_block().unwrap();
        let (_dir, server) = start("exec sleep 1000", 1);
        assert_eq!(server.stop(Duration::from_secs(600)).unwrap().signal(), Some(Signal::SIGTERM as i32));
    }

    #[test]
    fn a_server_that_ignores_sigterm_is_killed() {
        let (dir, server) = start("trap '' TERM; : > \"$0.ready\"; exec sleep 1000", 1);
        let ready = dir.path().join("temporal.ready");
        while !ready.exists() {
            std::thread::yield_now();
        }
        assert_eq!(server.stop(Duration::from_millis(1)).unwrap().signal(), Some(Signal::SIGKILL as i32));
    }

    #[test]
    fn a_dropped_server_is_gone() {
        let (_dir, server) = start("exec sleep 1000", 1);
        let pid = server.pid();
        drop(server);
        assert_eq!(kill(pid, None), Err(Errno::ESRCH));
    }

    #[test]
    fn a_log_keeps_the_beginning_and_refuses_the_rest() {
        use std::io::Write;
        let log = Log::new().unwrap();
        assert_eq!(log.last_line(), None);
        let mut writer = log.writer().unwrap();
        writer.write_all(b"first\nlast\n\n").unwrap();
        assert!(writer.write_all(&vec![b'x'; LOG_SIZE as usize]).is_err());
        let line = log.last_line().unwrap();
        assert!(line == "last" || line.starts_with("xxxx"), "{line}");
    }
}
