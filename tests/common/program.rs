//! A program that a test has started: what it says, how it ends, what descends from it.

use super::eventually;
use nix::{
    errno::Errno,
    sys::{
        prctl::set_pdeathsig,
        signal::{SigHandler, Signal, kill, signal},
    },
    unistd::{Pid, setsid},
};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::MetadataExt,
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
};

/// The variable that marks a program and its descendants.
const MARK: &str = "SHMWORKER_TEST_PROGRAM";

#[derive(Clone)]
struct Line {
    is_error: bool,
    text: String,
}

/// A started program. When dropped, it is killed with all that descends from it; if the test is failing, what it said is
/// shown.
pub(crate) struct Program {
    command: String,
    child: Child,
    mark: String,
    lines: Arc<Mutex<Vec<Line>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Program {
    pub(crate) fn start(mut command: Command) -> Program {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut program = Program::spawn(command, false);
        let stdout = program.child.stdout.take().unwrap();
        let stderr = program.child.stderr.take().unwrap();
        program.read(stdout, false);
        program.read(stderr, true);
        program
    }

    /// Starts the program as the leader of a session with a terminal of its own, whose other end is returned: what is
    /// written there is typed.
    pub(crate) fn start_in_terminal(mut command: Command) -> (Program, File) {
        let (master, slave) = open_terminal().unwrap();
        let slave = || slave.try_clone().unwrap();
        command.stdin(slave()).stdout(slave()).stderr(slave());
        let mut program = Program::spawn(command, true);
        program.read(master.try_clone().unwrap(), false);
        (program, master)
    }

    fn spawn(mut command: Command, in_terminal: bool) -> Program {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mark = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let prepare = move || {
            // A test program that is killed leaves nothing either.
            set_pdeathsig(Signal::SIGKILL)?;
            // A shell's background job, as a test run may be one, ignores these, and so would the program.
            for ignored in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP] {
                // SAFETY: the default is no function that could be called at a wrong time.
                unsafe { signal(ignored, SigHandler::SigDfl) }?;
            }
            if in_terminal {
                setsid()?;
                // SAFETY: a plain system call on a descriptor that is open.
                Errno::result(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })?;
            }
            Ok(())
        };
        // SAFETY: `prepare` makes a few system calls, all async-signal-safe, and neither allocates nor locks.
        unsafe { command.env(MARK, &mark).pre_exec(prepare) };
        let child = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        // `command` goes here, and with it our copies of the terminal.
        Program { command: format!("{command:?}"), child, mark, lines: Arc::default(), readers: Vec::new() }
    }

    fn read(&mut self, from: impl Read + Send + 'static, is_error: bool) {
        let lines = self.lines.clone();
        self.readers.push(thread::spawn(move || {
            // The end of a terminal is an error.
            for bytes in BufReader::new(from).split(b'\n').map_while(Result::ok) {
                let text = String::from_utf8_lossy(&bytes).trim_end_matches('\r').to_owned();
                lines.lock().unwrap().push(Line { is_error, text });
            }
        }));
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    fn said(&self, is_error: bool) -> Vec<String> {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter(|line| line.is_error == is_error).map(|line| line.text.clone()).collect()
    }

    pub(crate) fn stdout(&self) -> Vec<String> {
        self.said(false)
    }

    pub(crate) fn stderr(&self) -> Vec<String> {
        self.said(true)
    }

    /// Waits for `n` lines, on either stream, for which `is_it` holds; returns the last of them.
    #[track_caller]
    pub(crate) fn says(&mut self, what: &str, n: usize, is_it: impl Fn(&str) -> bool) -> String {
        let find = |lines: &[Line]| lines.iter().filter(|l| is_it(&l.text)).nth(n - 1).map(|l| l.text.clone());
        eventually(format_args!("'{what}' from {}", self.command), || {
            // Asked first: who has ended has said all.
            let is_over = self.readers.iter().all(JoinHandle::is_finished);
            let found = find(&self.lines.lock().unwrap());
            assert!(found.is_some() || !is_over, "ended without '{what}': {}", self.command);
            found
        })
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // Not reaped before `end`, so the number is still its own.
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits until the program has ended and all that it said has been read.
    #[track_caller]
    pub(crate) fn end(&mut self) -> ExitStatus {
        let status = eventually(format_args!("the end of {}", self.command), || self.child.try_wait().unwrap());
        eventually(format_args!("the end of what {} says", self.command), || {
            self.readers.iter().all(JoinHandle::is_finished).then_some(())
        });
        status
    }

    /// All living processes that descend from this one, itself included, wherever they went.
    pub(crate) fn family(&self) -> Vec<Process> {
        let mark = format!("{MARK}={}", self.mark);
        let is_marked = |process: &Process| {
            let environment = fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
            process.is_alive() && environment.split(|&b| b == 0).any(|variable| variable == mark.as_bytes())
        };
        Process::all().into_iter().filter(is_marked).collect()
    }

    /// The processes that this one has forked and that run the same program, or another that was invited to stand in for it, in the
    /// order of their birth.
    pub(crate) fn children(&self) -> Vec<Process> {
        // One that has been replaced since is the same.
        let binary = |pid| {
            let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?.into_os_string().into_string().ok()?;
            Some(path.trim_end_matches(" (deleted)").to_owned())
        };
        let own = binary(self.pid());
        let is_invited = |pid: i32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|&b| b == 0).any(|variable| variable.starts_with(b"SHMWORKER_TEMPORAL="))
        };
        let mut children = Process::all();
        children.retain(|p| p.parent == self.pid() && p.is_alive() && (binary(p.pid) == own || is_invited(p.pid)));
        children.sort_by_key(|p| (p.born, p.pid));
        children
    }

    /// Waits until the program and all that descends from it are gone.
    #[track_caller]
    pub(crate) fn leaves_nobody(&self) {
        eventually(format_args!("nobody is left of {}", self.command), || self.family().is_empty().then_some(()));
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let how = self.child.wait();
        for process in self.family() {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        if thread::panicking() {
            eprintln!("--- {} ({})", self.command, how.map_or_else(|e| e.to_string(), describe));
            for Line { is_error, text } in self.lines.lock().unwrap().iter() {
                eprintln!("{} {text}", if *is_error { "!" } else { "|" });
            }
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => format!("killed by signal {signal}"),
        None => status.to_string(),
    }
}

/// A pseudo-terminal: the end that a person sits at, and the end of the program.
fn open_terminal() -> nix::Result<(File, OwnedFd)> {
    let (mut master, mut slave) = (-1, -1);
    let null = std::ptr::null_mut();
    // SAFETY: two integers to be filled in; null stands for a name, settings and a size that nobody wants.
    Errno::result(unsafe { libc::openpty(&mut master, &mut slave, null, null.cast(), null.cast()) })?;
    for fd in [master, slave] {
        // SAFETY: a plain system call on a descriptor that is open; what is exec'ed must not inherit it.
        Errno::result(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    }
    // SAFETY: the kernel has just given us this descriptor.
    let master = unsafe { File::from_raw_fd(master) };
    // SAFETY: as above.
    let slave = unsafe { OwnedFd::from_raw_fd(slave) };
    Ok((master, slave))
}

/// A process as `/proc/<pid>/stat` shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) state: char,
    pub(crate) parent: i32,
    /// Clock ticks since boot.
    born: u64,
}

impl Process {
    pub(crate) fn of(pid: i32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        Some(Process {
            pid,
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            born: fields.get(19)?.parse().ok()?,
        })
    }

    fn all() -> Vec<Process> {
        let names = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name());
        names
            .filter_map(|name| std::str::from_utf8(name.as_bytes()).ok()?.parse().ok())
            .filter_map(Process::of)
            .collect()
    }

    fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }

    /// What its descriptors refer to, e.g. `socket:[4711]`.
    pub(crate) fn descriptors(&self) -> Vec<(i32, String)> {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.pid)).into_iter().flatten().flatten();
        let number = |path: &PathBuf| path.file_name()?.to_str()?.parse().ok();
        let target = |path| Some((number(&path)?, fs::read_link(path).ok()?.to_string_lossy().into_owned()));
        entries.filter_map(|entry| target(entry.path())).collect()
    }

    /// The system call in which its first thread sleeps.
    pub(crate) fn system_call(&self) -> Option<i64> {
        let call = fs::read_to_string(format!("/proc/{}/syscall", self.pid)).ok()?;
        call.split_whitespace().next()?.parse().ok()
    }

    /// The inode of the memory file of ours that it maps.
    pub(crate) fn segment(&self) -> Option<u64> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid)).ok()?;
        maps.lines().find(|line| line.contains("/memfd:shmworker"))?.split_whitespace().nth(4)?.parse().ok()
    }
}

/// Who maps the memory file with this inode, or has it open.
pub(crate) fn holders_of(inode: u64) -> Vec<i32> {
    let opens = |p: &Process| {
        let descriptors = p.descriptors().into_iter().filter(|(_, target)| target.starts_with("/memfd:shmworker"));
        let mut files = descriptors.filter_map(|(fd, _)| fs::metadata(format!("/proc/{}/fd/{fd}", p.pid)).ok());
        files.any(|file| file.ino() == inode)
    };
    let holds = |p: &Process| p.segment() == Some(inode) || opens(p);
    Process::all().into_iter().filter(holds).map(|p| p.pid).collect()
}
