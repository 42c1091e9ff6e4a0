//! The task `exec`: runs a program without a shell, and keeps what it writes.
//!
//! The worker shares its memory with the program until that begins (CLONE_VFORK), so that what is copied does not grow with the
//! worker. Sources: `clone(2)`, `vfork(2)`, `prctl(2)` on PR_SET_PDEATHSIG, `signal(7)`.

use crate::{
    pool::{Context, Failure},
    process::{
        exit::Exit,
        leftovers::{self, DIGITS},
        spawn::Child,
    },
};
use base64::{Engine, prelude::BASE64_STANDARD};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, clone},
    sys::{
        prctl::set_pdeathsig,
        signal::{SigSet, SigmaskHow, Signal, killpg, pthread_sigmask},
    },
    unistd::{Pid, getpid, pipe2, read, write},
};
use serde::{Deserialize, Serialize};
use std::{
    cell::Cell,
    collections::BTreeMap,
    ffi::{CString, OsString},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
    ptr,
    time::{Duration, Instant},
};

/// Its name.
pub(super) const NAME: &str = "exec";
/// How long a program may take to end once it was asked to by SIGTERM: less than the time after which its worker is killed.
const GRACE: Duration = Duration::from_secs(3);
/// How much of each stream is kept, its end.
const KEPT: usize = 16 << 20;
/// How long the output of a program that has ended is read on: something that it left behind may have it open.
const REST: Duration = Duration::from_secs(1);
/// How often it is asked whether the task was cancelled.
const LOOK: Duration = Duration::from_millis(50);
/// Stack of the program before it begins.
const STACK: usize = 64 << 10;
/// Where a program is looked for if there is no PATH: as `execvp(3)` does.
const PATH: &str = "/bin:/usr/bin";

/// A program to run: `["gzip","-k","a"]`, or as an object.
#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub(crate) enum Input {
    Words(Vec<Text>),
    Program(Program),
}

/// A program to run, with all that can be said of it.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Program {
    program: Text,
    #[serde(default)]
    args: Vec<Text>,
    #[serde(default)]
    env: BTreeMap<String, Text>,
    #[serde(default)]
    cwd: Option<PathBuf>,
    #[serde(default)]
    stdin: Option<Text>,
}

#[cfg(any(fuzzing, test))]
impl Input {
    /// Decodes what it holds.
    pub(crate) fn check(self) {
        match self {
            Input::Words(words) => words.into_iter().for_each(|word| drop(word.bytes())),
            Input::Program(program) => drop(program.program.bytes()),
        }
    }
}

/// Text, or what is none: `{"base64":"…"}`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub(crate) enum Text {
    Utf8(String),
    Other { base64: String },
}

impl Text {
    pub(crate) fn of(bytes: &[u8]) -> Text {
        match std::str::from_utf8(bytes) {
            Ok(text) => Text::Utf8(text.to_owned()),
            Err(_) => Text::Other { base64: BASE64_STANDARD.encode(bytes) },
        }
    }

    pub(crate) fn bytes(self) -> Result<Vec<u8>, String> {
        match self {
            Text::Utf8(text) => Ok(text.into_bytes()),
            Text::Other { base64 } => BASE64_STANDARD.decode(base64).map_err(|e| format!("no base64: {e}")),
        }
    }
}

/// How a program ended. What is not UTF-8 of its output is replaced, and whole in `…_base64`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Output {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) exit_code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signal: Option<i32>,
    stdout: String,
    stderr: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stdout_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stderr_base64: Option<String>,
    /// How many bytes it had written before those.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) stdout_dropped: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) stderr_dropped: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Output {
    /// What a failure of this task says: the output of a program that failed is its text.
    pub(crate) fn of_failure(text: &str) -> Option<Output> {
        if text.starts_with('{') { serde_json::from_str(text).ok() } else { None }
    }

    /// Why it is a failure, for people.
    pub(crate) fn why(&self) -> String {
        let exit = match (self.exit_code, self.signal) {
            (Some(code), _) => Exit::Code(code as u8),
            (None, Some(signal)) => Exit::Signal(signal as u8),
            (None, None) => Exit::Unknown,
        };
        let said = self.stderr.trim_end().lines().next_back().map_or(String::new(), |line| format!(": {line}"));
        format!("the program ended with {exit}{said}")
    }

    /// What it wrote, as it was.
    pub(crate) fn streams(self) -> [Vec<u8>; 2] {
        let whole = |text: String, base64: Option<String>| match base64.map(|bytes| BASE64_STANDARD.decode(bytes)) {
            Some(Ok(bytes)) => bytes,
            _ => text.into_bytes(),
        };
        [whole(self.stdout, self.stdout_base64), whole(self.stderr, self.stderr_base64)]
    }
}

/// Runs a program to its end.
///
/// # Errors
/// It can't be started; with what it wrote, if it failed or was asked to end.
pub(super) fn exec(context: &Context<'_>, input: Input) -> Result<Output, Failure> {
    let program = match input {
        Input::Program(program) => program,
        Input::Words(words) => {
            let mut words = words.into_iter();
            let program =
                words.next().ok_or_else(|| Failure::permanent("'exec' needs a program: [\"gzip\",\"-k\",\"a\"]"))?;
            Program { program, args: words.collect(), env: BTreeMap::new(), cwd: None, stdin: None }
        }
    };
    let mut program = program;
    if let Some(parent) = context.traceparent() {
        program.env.entry("TRACEPARENT".to_owned()).or_insert(Text::Utf8(parent));
    }
    let name = match &program.program {
        Text::Utf8(name) => name.clone(),
        Text::Other { base64 } => base64.clone(),
    };
    let cwd = program.cwd.clone();
    let (mut running, stdin) = start(program, context.state_that_lasts()).map_err(|why| {
        // The error is the same for both.
        let remedy = match cwd {
            Some(cwd) if !cwd.is_dir() => format!("{} is no directory", cwd.display()),
            _ => "it must be executable, and in the PATH unless a path is given".to_owned(),
        };
        Failure::permanent(format!("cannot start {name:?}: {why}: {remedy}"))
    })?;
    let (exit, was_asked) = running.attend(stdin, context);
    let (exit_code, signal) = match exit {
        Exit::Code(code) => (Some(code.into()), None),
        Exit::Signal(signal) => (None, Some(signal.into())),
        Exit::Unknown => (None, None),
    };
    let [stdout, stderr] = [&mut running.stdout, &mut running.stderr].map(std::mem::take);
    let ((stdout, stdout_base64, stdout_dropped), (stderr, stderr_base64, stderr_dropped)) =
        (stdout.text(), stderr.text());
    let output =
        Output { exit_code, signal, stdout, stderr, stdout_base64, stderr_base64, stdout_dropped, stderr_dropped };
    if exit == Exit::Code(0) && !was_asked {
        return Ok(output);
    }
    Err(Failure::new(serde_json::to_string(&output)?))
}

/// A program that was started. When this is dropped it is killed with its process group, unless it has ended.
struct Running {
    child: Child,
    stdout: Tail,
    stderr: Tail,
    has_ended: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.has_ended && self.child.try_reap().is_none() {
            self.signal(Signal::SIGKILL);
            self.child.reap();
        }
    }
}

impl Running {
    /// To its process group. Not after its end.
    fn signal(&self, signal: Signal) {
        // It may be over just now, or have gone to another group.
        if killpg(self.child.pid, signal).is_err() {
            let _ = self.child.signal(signal);
        }
    }

    /// Feeds it, reads what it writes, and ends it when the task is to end. How it ended, and whether it was asked to.
    fn attend(&mut self, mut stdin: Option<Feed>, context: &Context<'_>) -> (Exit, bool) {
        let (mut exit, mut was_asked, mut kill_at, mut rest) = (None, false, None::<Instant>, None::<Instant>);
        loop {
            let silent = self.stdout.pipe.is_none() && self.stderr.pipe.is_none();
            if let Some(exit) = exit
                && (silent || rest.is_some_and(|at| at <= Instant::now()))
            {
                return (exit, was_asked);
            }
            if exit.is_none() {
                if !was_asked && context.is_cancelled() {
                    was_asked = true;
                    self.signal(Signal::SIGTERM);
                    kill_at = Some(Instant::now() + GRACE);
                }
                if kill_at.is_some_and(|at| at <= Instant::now()) {
                    self.signal(Signal::SIGKILL);
                    kill_at = None;
                }
            }
            let mut wait = LOOK;
            if !was_asked && let Some(left) = context.time_left() {
                wait = wait.min(left.max(Duration::from_millis(1)));
            }
            let mut fds = Vec::with_capacity(4);
            let mut add = |fd: Option<BorrowedFd<'_>>, events| {
                fd.map(|fd| {
                    // SAFETY: none of them is closed before `poll` has returned.
                    fds.push(PollFd::new(unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) }, events));
                    fds.len() - 1
                })
            };
            let ended = add(exit.is_none().then(|| self.child.as_fd()), PollFlags::POLLIN);
            let out = add(self.stdout.pipe.as_ref().map(AsFd::as_fd), PollFlags::POLLIN);
            let err = add(self.stderr.pipe.as_ref().map(AsFd::as_fd), PollFlags::POLLIN);
            let fed = add(stdin.as_ref().map(|feed| feed.pipe.as_fd()), PollFlags::POLLOUT);
            let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
            let _ = poll(&mut fds, timeout); // interrupted: it looks again
            let is_up = |at: Option<usize>| at.is_some_and(|at| fds[at].any().unwrap_or(false));
            let (ended, out, err, fed) = (is_up(ended), is_up(out), is_up(err), is_up(fed));
            if out {
                self.stdout.fill();
            }
            if err {
                self.stderr.fill();
            }
            if fed {
                stdin = stdin.take().and_then(Feed::feed);
            }
            if ended && let Some(how) = self.child.try_reap() {
                self.has_ended = true;
                exit = Some(how);
                // Closed: nobody reads it.
                stdin = None;
                rest = Some(Instant::now() + REST);
            }
        }
    }
}

/// What a program is to read still.
struct Feed {
    pipe: OwnedFd,
    bytes: Vec<u8>,
    at: usize,
}

impl Feed {
    /// Writes what there is room for. `None`: all is written, or nobody reads it: a program may end, or close its end, without
    /// having read it. SIGPIPE is ignored in Rust's programs.
    fn feed(mut self) -> Option<Feed> {
        match write(&self.pipe, &self.bytes[self.at..]) {
            Ok(n) => self.at += n,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => return None,
        }
        (self.at < self.bytes.len()).then_some(self)
    }
}

/// The end of what a program writes.
#[derive(Default)]
struct Tail {
    /// `None`: nobody has the other end any more.
    pipe: Option<OwnedFd>,
    kept: Vec<u8>,
    dropped: u64,
}

impl Tail {
    /// Reads what is there.
    fn fill(&mut self) {
        let mut piece = [0; 16 << 10];
        while let Some(pipe) = &self.pipe {
            match read(pipe, &mut piece) {
                Ok(n @ 1..) => self.push(&piece[..n]),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Ok(0) | Err(_) => self.pipe = None,
            }
        }
    }

    fn push(&mut self, piece: &[u8]) {
        self.kept.extend_from_slice(piece);
        // Now and then, not for each piece.
        if self.kept.len() > 2 * KEPT {
            self.trim();
        }
    }

    fn trim(&mut self) {
        let excess = self.kept.len().saturating_sub(KEPT);
        self.kept.drain(..excess);
        self.dropped += excess as u64;
    }

    /// As text, as base64 if it is none, and how much is missing.
    fn text(mut self) -> (String, Option<String>, u64) {
        self.trim();
        match String::from_utf8(self.kept) {
            Ok(text) => (text, None, self.dropped),
            Err(e) => {
                let bytes = e.as_bytes();
                (String::from_utf8_lossy(bytes).into_owned(), Some(BASE64_STANDARD.encode(bytes)), self.dropped)
            }
        }
    }
}

/// What the program needs between the clone and its beginning, where nothing can be allocated.
struct Plan {
    worker: Pid,
    paths: Vec<CString>,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
    cwd: Option<CString>,
    stdin: RawFd,
    stdout: RawFd,
    stderr: RawFd,
    /// A variable among `envp` that ends with the number of the program's process group; or empty.
    mark: Vec<Cell<u8>>,
    /// What it failed with.
    errno: Cell<Option<Errno>>,
}

impl Plan {
    /// In the new process, which shares the worker's memory: system calls alone, and nothing that is dropped.
    fn begin(&self) -> isize {
        self.errno.set(Some(self.try_to().err().unwrap_or(Errno::ENOENT)));
        127
    }

    fn try_to(&self) -> nix::Result<()> {
        set_pdeathsig(Signal::SIGKILL)?;
        // The worker may have died before the line above.
        if nix::unistd::getppid() != self.worker {
            return Err(Errno::ESRCH);
        }
        // Whoever ignores a signal has his programs ignore it, and the worker ignores some.
        for signal in 1..=libc::SIGRTMAX() {
            // SAFETY: no handler is installed. Those that can't be set, and the C library's own, are refused.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
        nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
        let mut group = getpid().as_raw().unsigned_abs();
        // Behind the digits is the zero that ends the text.
        for digit in self.mark.iter().rev().skip(1).take(DIGITS) {
            digit.set(b'0' + (group % 10) as u8);
            group /= 10;
        }
        for (from, to) in [(self.stdin, 0), (self.stdout, 1), (self.stderr, 2)] {
            // SAFETY: the three are descriptors of this process, and none is 0, 1 or 2.
            Errno::result(unsafe { libc::dup2(from, to) })?;
        }
        if let Some(cwd) = &self.cwd {
            // SAFETY: a path that ends with a zero.
            Errno::result(unsafe { libc::chdir(cwd.as_ptr()) })?;
        }
        // SAFETY: it sets a flag, on the copies of this process.
        let _ = unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) };
        let mut refused = Errno::ENOENT;
        for path in &self.paths {
            // SAFETY: a path and two arrays that end with null, of texts that end with zero.
            unsafe { libc::execve(path.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr()) };
            match Errno::last() {
                // As `execvp(3)`: it may be elsewhere.
                Errno::ENOENT | Errno::ENOTDIR => {}
                Errno::EACCES => refused = Errno::EACCES,
                e => return Err(e),
            }
        }
        Err(refused)
    }
}

/// `state`: what the program leaves behind is found by, if all are killed.
fn start(program: Program, state: Option<u64>) -> Result<(Running, Option<Feed>), String> {
    let said = |what: &str, e: &dyn std::fmt::Display| format!("{what}: {e}");
    let text = |text: Vec<u8>| CString::new(text).map_err(|_| "a zero byte is part of it".to_owned());
    let name = program.program.bytes()?;
    let cwd = program.cwd.map(|cwd| text(cwd.into_os_string().into_vec())).transpose()?;
    let mut words = vec![text(name.clone())?];
    for arg in program.args {
        words.push(text(arg.bytes()?)?);
    }
    let mut env: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
    for (key, value) in program.env {
        env.insert(key.into(), OsString::from_vec(value.bytes()?));
    }
    let mark = state.map(leftovers::mark).unwrap_or_default();
    if state.is_some() {
        // Of a job of another pool, in which this one runs.
        env.remove(std::ffi::OsStr::new(leftovers::VARIABLE));
    }
    let mark: Vec<Cell<u8>> = state.iter().flat_map(|_| mark.bytes().chain([0])).map(Cell::new).collect();
    let paths = paths_of(&name, env.get(std::ffi::OsStr::new("PATH")));
    let paths = paths.into_iter().map(|path| text(path.into_os_string().into_vec())).collect::<Result<Vec<_>, _>>()?;
    let variable = |(key, value): (OsString, OsString)| text([key.as_bytes(), b"=", value.as_bytes()].concat());
    let variables = env.into_iter().map(variable).collect::<Result<Vec<_>, _>>()?;
    let pointers = |all: &[CString], more: &[Cell<u8>]| {
        let more = (!more.is_empty()).then(|| more.as_ptr().cast::<libc::c_char>());
        all.iter().map(|one| one.as_ptr()).chain(more).chain([ptr::null()]).collect::<Vec<_>>()
    };

    let open = || -> nix::Result<_> {
        let (stdin, feed) = match program.stdin {
            Some(text) => {
                let (read, write) = high_pipe()?;
                (read, Some((write, text)))
            }
            None => (
                high(nix::fcntl::open(
                    "/dev/null",
                    OFlag::O_RDONLY | OFlag::O_CLOEXEC,
                    nix::sys::stat::Mode::empty(),
                )?)?,
                None,
            ),
        };
        let (stdout, theirs) = high_pipe()?;
        let (stderr, their_stderr) = high_pipe()?;
        for fd in [Some(&stdout), Some(&stderr), feed.as_ref().map(|(feed, _)| feed)].into_iter().flatten() {
            fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok((stdin, feed, stdout, theirs, stderr, their_stderr))
    };
    let (stdin, feed, stdout, their_stdout, stderr, their_stderr) = open().map_err(|e| said("no pipe", &e))?;
    let feed = match feed {
        Some((pipe, text)) => Some(Feed { pipe, bytes: text.bytes()?, at: 0 }),
        None => None,
    };
    let plan = Plan {
        worker: getpid(),
        paths,
        argv: pointers(&words, &[]),
        envp: pointers(&variables, &mark),
        cwd,
        stdin: stdin.as_raw_fd(),
        stdout: their_stdout.as_raw_fd(),
        stderr: their_stderr.as_raw_fd(),
        mark,
        errno: Cell::new(None),
    };
    let pid = launch(&plan).map_err(|e| e.to_string())?;
    // First: from here on it is killed and reaped, whatever goes wrong.
    let child = match Child::of(pid) {
        Ok(child) => child,
        // Too many descriptors perhaps: nobody would ever reap it.
        Err(e) => {
            let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
            let _ = nix::sys::wait::waitpid(pid, None);
            return Err(said("no pidfd", &e));
        }
    };
    if let Some(errno) = plan.errno.get() {
        child.reap();
        return Err(io::Error::from(errno).to_string());
    }
    let tail = |pipe| Tail { pipe: Some(pipe), kept: Vec::new(), dropped: 0 };
    Ok((Running { child, stdout: tail(stdout), stderr: tail(stderr), has_ended: false }, feed))
}

/// Where a program of this name may be.
fn paths_of(name: &[u8], path: Option<&OsString>) -> Vec<PathBuf> {
    let name = Path::new(std::ffi::OsStr::from_bytes(name));
    if name.as_os_str().as_bytes().contains(&b'/') {
        return vec![name.to_owned()];
    }
    let places = path.map_or(std::ffi::OsStr::new(PATH), |path| path.as_os_str());
    std::env::split_paths(places)
        // An empty one is the directory in which it runs.
        .map(|place| if place.as_os_str().is_empty() { Path::new(".").join(name) } else { place.join(name) })
        .collect()
}

/// Not one of the three that the program is to have: a worker may have closed its own.
fn high(fd: OwnedFd) -> nix::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    let high = fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(3))?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(high) })
}

fn high_pipe() -> nix::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    Ok((high(read)?, high(write)?))
}

/// Returns once the program has begun, or has failed to, which the plan says.
fn launch(plan: &Plan) -> nix::Result<Pid> {
    let mut stack = vec![0; STACK];
    let mut before = SigSet::empty();
    // No handler of the worker's may run in the new process, in the worker's memory.
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
    let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
    // SAFETY: this thread sleeps until the new process has another memory or has ended, so that the stack and the plan outlive its
    // use of them; it makes system calls alone, and returns.
    let pid = unsafe { clone(Box::new(|| plan.begin()), &mut stack, flags, Some(libc::SIGCHLD)) };
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    pid
}
