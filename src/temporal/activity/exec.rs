//! An activity that runs a program.
//!
//! The program is started from the process's runtime thread, which lives as long as the process: PR_SET_PDEATHSIG, by which
//! the kernel ends the program with its worker, is about the death of that thread (`prctl(2)`).

use super::{ActivityContext, ActivityError, ApplicationFailure};
use crate::process::{exit::Exit, spawn::Child};
use nix::{
    errno::Errno,
    sys::{
        prctl::set_pdeathsig,
        signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, killpg, sigaction},
    },
    unistd::{Pid, getpid, getppid},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, unix::AsyncFd},
    net::unix::pipe::{Receiver, Sender},
    time::{Instant, sleep_until, timeout},
};

/// How long a program may take to end once it was asked to by SIGTERM.
const GRACE: Duration = Duration::from_secs(5);
/// How much of each stream is kept, its end. Both together, as JSON, stay below what a server takes as a payload (2 MiB), unless
/// they are full of control characters.
const KEPT: usize = 256 << 10;
/// How long the output of a program that has ended is read on: something that it left behind may have it open.
const REST: Duration = Duration::from_secs(1);

/// A program to run: the input of the activity `exec`.
///
/// As JSON: `{"program": "/usr/bin/tr", "args": ["a-z", "A-Z"], "stdin": "hello"}`. All but the program may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ExecInput {
    /// A path, or a name that is looked up in the worker's PATH. No shell is asked.
    pub program: String,
    /// Its arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// Variables beside those of the worker. Of these it has no `TEMPORAL_…`: they may hold credentials.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The directory in which it runs; that of the worker if there is none.
    #[serde(default)]
    pub cwd: Option<PathBuf>,
    /// What it reads; nothing if there is none.
    #[serde(default)]
    pub stdin: Option<String>,
}

impl ExecInput {
    /// A program without arguments; the fields say the rest.
    ///
    /// ```
    /// # use shmworker::temporal::activity::ExecInput;
    /// let mut input = ExecInput::new("ffmpeg");
    /// input.args = ["-i", "talk.mkv", "talk.mp4"].map(Into::into).into();
    /// ```
    pub fn new(program: impl Into<String>) -> Self {
        Self { program: program.into(), ..Self::default() }
    }
}

/// How a program ended: the result of the activity `exec`, or a detail of its failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExecOutput {
    /// Its exit code; `None`: a signal ended it.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The last 256 KiB of what it wrote, as UTF-8; what is none is replaced.
    pub stdout: String,
    /// The same of its errors.
    pub stderr: String,
    /// How many bytes it had written to stdout before those.
    pub stdout_dropped: u64,
    /// How many bytes it had written to stderr before those.
    pub stderr_dropped: u64,
}

/// Runs a program to its end, as the activity `exec` does ([`Activities::with_exec`](super::Activities::with_exec)): for async
/// handlers of your own that decide which program that is.
///
/// ```
/// use shmworker::temporal::activity::{Activities, ActivityContext, ExecInput, RegisterOptions, exec};
///
/// let activities = Activities::new()
///     .register("checksum", |context: ActivityContext, file: String| async move {
///         let mut input = ExecInput::new("sha256sum");
///         input.args = vec!["--".to_owned(), file];
///         Ok(exec(&context, input).await?.stdout)
///     })
///     .with_options("checksum", RegisterOptions::new().auto_heartbeat());
/// # let _ = activities;
/// ```
///
/// When the attempt is cancelled the program and what it has started, its process group, get SIGTERM, and SIGKILL if it has not
/// ended 5 seconds later. When the worker dies the kernel kills the program (PR_SET_PDEATHSIG).
///
/// # Errors
///
/// - Of type `ExecStartFailed`, if it can't be started.
/// - Of type `ExecFailed` with the [`ExecOutput`] as details, if it ends with another exit code than 0 or by a signal.
/// - [`ActivityError::Cancelled`] with the [`ExecOutput`] as details, if it was asked to end.
///
/// # Panics
///
/// Outside a tokio runtime.
pub async fn exec(context: &ActivityContext, input: ExecInput) -> Result<ExecOutput, ActivityError> {
    #[cfg(feature = "otlp")]
    let input = traced(context, input);
    let Streams { child, stdin, stdout, stderr } = start(&input).map_err(|e| not_started(&input, &e))?;
    let (mut stdout, mut stderr) = (Tail::of(stdout), Tail::of(stderr));
    let (exit, was_asked) = {
        let talk = async { tokio::join!(feed(stdin, input.stdin), stdout.fill(), stderr.fill()) };
        tokio::pin!(talk);
        let (mut is_silent, mut kill_at) = (false, None);
        let exit = loop {
            tokio::select! {
                exit = child.exit() => break exit,
                _ = &mut talk, if !is_silent => is_silent = true,
                () = context.cancelled(), if kill_at.is_none() => {
                    child.signal(Signal::SIGTERM);
                    kill_at = Some(Instant::now() + GRACE);
                }
                () = sleep_until(kill_at.unwrap_or_else(Instant::now)), if kill_at.is_some() => {
                    child.signal(Signal::SIGKILL);
                    kill_at = Some(Instant::now() + GRACE);
                }
            }
        };
        if !is_silent {
            let _ = timeout(REST, talk).await;
        }
        (exit, kill_at.is_some())
    };
    let (exit_code, signal) = match exit {
        Exit::Code(code) => (Some(code.into()), None),
        Exit::Signal(signal) => (None, Some(signal.into())),
        Exit::Unknown => (None, None),
    };
    let ((stdout, stdout_dropped), (stderr, stderr_dropped)) = (stdout.text(), stderr.text());
    let output = ExecOutput { exit_code, signal, stdout, stderr, stdout_dropped, stderr_dropped };
    match exit {
        _ if was_asked => Err(ActivityError::cancelled_with_details(output)),
        Exit::Code(0) => Ok(output),
        exit => {
            let said = output.stderr.trim_end().lines().next_back().map_or(String::new(), |line| format!(": {line}"));
            let failure = ApplicationFailure::builder(format!("{:?} ended with {exit}{said}", input.program));
            Err(failure.type_name("ExecFailed".into()).details(output).build().into())
        }
    }
}

fn not_started(ExecInput { program, cwd, .. }: &ExecInput, error: &io::Error) -> ActivityError {
    // The error is the same for both.
    let remedy = match cwd {
        Some(cwd) if !cwd.is_dir() => format!("{} is no directory on this worker", cwd.display()),
        _ => "it must be executable on this worker, and in its PATH unless a path is given".into(),
    };
    let failure = ApplicationFailure::builder(format!("cannot start {program:?}: {error}: {remedy}"));
    failure.type_name("ExecStartFailed".into()).build().into()
}

struct Streams {
    child: Running,
    stdin: Option<Sender>,
    stdout: Receiver,
    stderr: Receiver,
}

/// The program finds the span of its attempt, as those of `jobs` do.
#[cfg(feature = "otlp")]
fn traced(context: &ActivityContext, mut input: ExecInput) -> ExecInput {
    if let Some(parent) = context.traceparent() {
        input.env.entry("TRACEPARENT".to_owned()).or_insert(parent);
    }
    input
}

fn start(input: &ExecInput) -> io::Result<Streams> {
    let worker = getpid();
    let mut command = Command::new(&input.program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"TEMPORAL_")) {
        command.env_remove(name);
    }
    command.args(&input.args).envs(&input.env).process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    if let Some(cwd) = &input.cwd {
        command.current_dir(cwd);
    }
    let with_the_worker = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        // What a worker ignores since it is the coordinator's business is still ignored after an exec.
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        for ignored in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP, Signal::SIGHUP] {
            // SAFETY: no handler is installed.
            unsafe { sigaction(ignored, &default) }?;
        }
        // The worker may have died before the line above.
        if getppid() == worker { Ok(()) } else { Err(Errno::ESRCH.into()) }
    };
    // SAFETY: system calls, all async-signal-safe, that neither allocate nor lock.
    unsafe { command.pre_exec(with_the_worker) };
    let mut child = command.spawn()?;
    // First: from here on it is killed and reaped, whatever goes wrong.
    let running = match Running::of(Pid::from_raw(child.id().cast_signed())) {
        Ok(running) => running,
        // Too many descriptors perhaps: nobody would ever reap it.
        Err(e) => {
            let _ = child.kill();
            let _ = child.wait();
            return Err(e);
        }
    };
    let pipe = |end: Option<OwnedFd>| end.ok_or_else(|| io::Error::other("its output is no pipe"));
    Ok(Streams {
        child: running,
        stdin: child.stdin.take().map(|end| Sender::from_owned_fd(end.into())).transpose()?,
        stdout: Receiver::from_owned_fd(pipe(child.stdout.take().map(Into::into))?)?,
        stderr: Receiver::from_owned_fd(pipe(child.stderr.take().map(Into::into))?)?,
    })
}

/// A program that was started. When this is dropped, it is killed with its process group, unless it has ended.
struct Running(AsyncFd<Pidfd>);

struct Pidfd(Child);

impl AsRawFd for Pidfd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Running {
    #[allow(deprecated, reason = "what replaces `AsyncFd::new` is unsafe, and not in every tokio that we build with")]
    fn of(pid: Pid) -> io::Result<Running> {
        Ok(Running(AsyncFd::new(Pidfd(Child::of(pid)?))?))
    }

    fn child(&self) -> &Child {
        &self.0.get_ref().0
    }

    /// Waits until it has ended. What is left of its process group is killed then.
    async fn exit(&self) -> Exit {
        loop {
            let readable = self.0.readable().await;
            if let Some(exit) = self.child().try_reap() {
                return exit;
            }
            if let Ok(mut readable) = readable {
                readable.clear_ready();
            }
        }
    }

    /// To its process group. Not after its [`exit`](Self::exit).
    fn signal(&self, signal: Signal) {
        // It may be over just now, or have gone to another group.
        if killpg(self.child().pid, signal).is_err() {
            let _ = self.child().signal(signal);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child().try_reap().is_none() {
            self.signal(Signal::SIGKILL);
            self.child().reap();
        }
    }
}

/// Writes all that the program reads, then closes its end. A program may end, or close its own, without having read it.
async fn feed(stdin: Option<Sender>, text: Option<String>) {
    if let (Some(mut stdin), Some(text)) = (stdin, text) {
        let _ = stdin.write_all(text.as_bytes()).await;
    }
}

/// The end of what a program writes.
struct Tail {
    pipe: Receiver,
    kept: Vec<u8>,
    dropped: u64,
}

impl Tail {
    fn of(pipe: Receiver) -> Tail {
        Tail { pipe, kept: Vec::new(), dropped: 0 }
    }

    /// Reads until nobody has the other end any more. What was read stays when this is dropped.
    async fn fill(&mut self) {
        let mut piece = vec![0; 16 << 10];
        while let Ok(len @ 1..) = self.pipe.read(&mut piece).await {
            self.push(&piece[..len]);
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

    fn text(mut self) -> (String, u64) {
        self.trim();
        (String::from_utf8_lossy(&self.kept).into_owned(), self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_a_long_output_the_end_is_kept() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let mut tail = Tail::of(Receiver::from_owned_fd(read).unwrap());
        let bytes: Vec<u8> = (0..3 * KEPT + 5).map(|i| b'a' + (i % 26) as u8).collect();
        let mut write = Sender::from_owned_fd(write).unwrap();
        tokio::join!(tail.fill(), async {
            write.write_all(&bytes).await.unwrap();
            drop(write);
        });
        let (text, dropped) = tail.text();
        assert_eq!(dropped as usize, bytes.len() - KEPT);
        assert_eq!(text.as_bytes(), &bytes[dropped as usize..]);
    }

    #[tokio::test]
    async fn a_program_has_the_signals_of_an_ordinary_process() {
        let signals = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP, Signal::SIGHUP];
        let (ignore, default) = (SigHandler::SigIgn, SigHandler::SigDfl);
        let set = |handler| {
            for signal in signals {
                // SAFETY: no handler is installed.
                unsafe { sigaction(signal, &SigAction::new(handler, SaFlags::empty(), SigSet::empty())) }.unwrap();
            }
        };
        set(ignore); // as in a worker
        let mut input = ExecInput::new("/bin/grep");
        input.args = ["SigIgn", "/proc/self/status"].map(Into::into).into();
        let started = start(&input);
        set(default);
        let Streams { child, stdout, .. } = started.unwrap();
        let mut line = Tail::of(stdout);
        line.fill().await;
        assert_eq!(child.exit().await, Exit::Code(0));
        let (line, _) = line.text();
        let ignored = u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap();
        let theirs = signals.iter().map(|&signal| 1 << (signal as u64 - 1)).sum::<u64>();
        assert_eq!(ignored & theirs, 0, "{line}");
    }

    #[tokio::test]
    async fn a_program_that_has_left_its_group_is_killed() {
        let mut input = ExecInput::new("python3");
        let leave =
            "import os, time; os.setpgid(0, os.getpgid(os.getppid())); print('left', flush=True); time.sleep(1000)";
        input.args = ["-c", leave].map(Into::into).into();
        let Streams { child, stdout, .. } = start(&input).unwrap();
        let mut line = Tail::of(stdout);
        while !line.kept.contains(&b'\n') {
            let mut piece = [0; 64];
            let len = line.pipe.read(&mut piece).await.unwrap();
            assert_ne!(len, 0, "it has not left");
            line.push(&piece[..len]);
        }
        child.signal(Signal::SIGTERM);
        let exit = timeout(Duration::from_secs(5), child.exit()).await;
        assert_eq!(exit.expect("it hears of it"), Exit::Signal(Signal::SIGTERM as u8));
    }

    #[tokio::test]
    async fn a_program_that_is_dropped_is_killed_with_what_it_has_started() {
        let mut input = ExecInput::new("/bin/sh");
        input.args = ["-c", "sleep 1000 & echo $!; wait"].map(Into::into).into();
        let Streams { child, stdout, .. } = start(&input).unwrap();
        let mut line = Tail::of(stdout);
        while !line.kept.contains(&b'\n') {
            let mut piece = [0; 64];
            let len = line.pipe.read(&mut piece).await.unwrap();
            line.push(&piece[..len]);
        }
        let (pid, _) = line.text();
        let (shell, sleeper) = (child.child().pid, Pid::from_raw(pid.trim().parse().unwrap()));
        drop(child);
        assert_eq!(nix::sys::signal::kill(shell, None), Err(Errno::ESRCH));
        // Whoever inherits it reaps it; until then it is a zombie.
        while !matches!(crate::process::spawn::state(sleeper), None | Some('Z')) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
