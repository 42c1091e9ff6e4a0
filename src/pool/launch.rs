//! Processes that execute this program again, and what they do instead of its `main`.
//!
//! # An invitation
//!
//! Who starts such a process gives it, as standard input, one end of a socket pair in which an invitation lies already: what it
//! is to be, together with the descriptors of the segment and of all else that it needs. So nothing has to be made
//! inheritable, not even for a moment, in a program whose other threads may be starting processes too. [`VARIABLE`] names
//! the socket by its inode. [`init`] takes the variable out of the environment and the socket off standard input, so that
//! nothing of both reaches processes that tasks start.
//!
//! ```text
//!    forkserver   caller ──exec──▶ coordinator ──fork──▶ workers
//!    exec         caller ──exec──▶ coordinator ──fork, exec──▶ workers
//! ```
//!
//! # What can go wrong
//!
//! - The new process never gets to [`init`]: it runs `main` as if a user had started it. It ends, which its pidfd says, or its
//!   time is over and it is killed. Meanwhile it starts no pool: for that it would have to call [`init`].
//! - It gets there late, when threads run already: it refuses, and so does its parent, which has come the same way.
//! - The variable is there, the socket isn't: somebody has set it by hand, or a process that never called [`init`] has started
//!   another that does. That one says so and ends.
//! - Caller and coordinator register different tasks: the one tells the other its own, and which differ is in the error.

use super::{
    start::{self, Answer, CoordinatorsSeat, Plan, StartError, Work},
    tasks::Tasks,
};
use crate::{
    exec::endpoint::cpus,
    lockfree::participant::Name,
    mem::segment::Segment,
    panics,
    process::{
        coordinator::{Looking, Seat, name_process},
        handover::{Handover, Succession},
        signal,
        spawn::Child,
    },
    state::journal::SYNCER,
};
use nix::{
    cmsg_space,
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl, open},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::EventFd,
        prctl::set_pdeathsig,
        signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
        socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
        stat::{Mode, fstat},
    },
    unistd::{Pid, dup2_stdin, getppid},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

/// The inode of the socket that is a new process's standard input.
const VARIABLE: &str = "SHMWORKER_START";
/// What this process executes, whatever has become of the file meanwhile.
const THIS_PROGRAM: &str = "/proc/self/exe";
/// A longer message is none.
const LONGEST_MESSAGE: u32 = 16 << 20;
/// Exit code of who could not become what it was started for.
const FAILED: u8 = 101;

/// What this process was told by [`init`].
struct Registry {
    tasks: fn() -> Tasks,
    /// How many threads ran at that time.
    threads: usize,
}

static REGISTRY: OnceLock<Registry> = OnceLock::new();

/// What a process is started for.
#[derive(Serialize, Deserialize)]
enum Invitation {
    /// With the segment, the bell and the connection to the owner.
    Coordinator { plan: Plan, fingerprint: Option<u64> },
    /// With the segment and the bell.
    Worker { name: u64, parent: i32, label: String, work: Work, fingerprint: Option<u64> },
    /// To go on with a pool, with what a coordinator has; `is_check`: only to say whether it could, with the segment. This one is read by
    /// other versions: neither its place nor its fields ever change, the `version` says what is in the `state`.
    Successor { version: u32, is_check: bool, state: Vec<u8> },
}

/// Of an [`Estate`]. Raised by every change of it, or of what is in it: a plan, a handover; and of what the processes of a pool tell each
/// other beside what its layout version covers.
const TAKEOVER: u32 = 2;

/// What a program leaves to the one that follows it.
#[derive(Serialize, Deserialize)]
enum Estate {
    Pool(Box<Takeover>),
    /// A pool that serves Temporal: what [`Invited::state`] is then.
    Temporal(Vec<u8>),
}

/// What another program needs to go on with a pool.
#[derive(Serialize, Deserialize)]
struct Takeover {
    plan: Plan,
    handover: Handover,
    /// The tasks that it must have, by their signatures.
    tasks: Vec<String>,
}

/// Says which tasks this program has, for pools made by [`Builder::forkserver`](crate::pool::Builder::forkserver) and
/// [`Builder::exec`](crate::pool::Builder::exec). **The first line of `main`**, before any runtime or thread is started.
///
/// Such pools execute this program again. In those processes this function does not return: they become the pool's
/// coordinator and workers, which build the same tasks by the same function. It is a plain `fn`, since nothing that was
/// captured would be there. It must start no thread: what workers need of those they start in a task.
///
/// The executable is `/proc/self/exe`, so it may be replaced or deleted meanwhile. The processes get the same arguments, so that
/// `ps` shows whose they are. What stands before this call runs in each of them.
///
/// ```
/// use shmworker::Tasks;
///
/// fn tasks() -> Tasks {
///     let mut tasks = Tasks::new();
///     tasks.function("square", |x: u64| x * x);
///     tasks
/// }
///
/// fn main() {
///     shmworker::init(tasks);
///     app();
/// }
///
/// // #[tokio::main] async fn app() { … }
/// fn app() {}
/// ```
///
/// Where there is no `main` of one's own, in `#[test]` functions, use [`init!`](crate::init!).
///
/// # Panics
/// If it was called before: a program has one set of tasks.
pub fn init(tasks: fn() -> Tasks) {
    // Without /proc no program can be executed again either, which is said then.
    let threads = threads().unwrap_or(1);
    let is_first = REGISTRY.set(Registry { tasks, threads }).is_ok();
    assert!(is_first, "shmworker::init was called before: a program has one set of tasks");
    let Some(inode) = std::env::var_os(VARIABLE) else { return };
    let code = read_invitation(&inode).and_then(|received| match put_aside(received) {
        Some(received) => take_part(received, threads, tasks).map(Some),
        None => Ok(None),
    });
    match code {
        Ok(None) => {}
        Ok(Some(code)) => std::process::exit(code.into()),
        Err(why) => {
            eprintln!("{why}");
            std::process::exit(FAILED.into());
        }
    }
}

/// [`init()`] for programs without a `main` of their own: at the top of a file of `#[test]` functions.
///
/// ```no_run,standalone_crate
/// use shmworker::{Pool, Tasks};
///
/// fn tasks() -> Tasks {
///     let mut tasks = Tasks::new();
///     tasks.function("square", |x: u64| x * x);
///     tasks
/// }
///
/// shmworker::init!(tasks);
///
/// #[test]
/// fn a_pool_starts_beside_other_tests() {
///     let pool = Pool::builder().workers(2).forkserver().unwrap();
///     pool.join().unwrap();
/// }
/// ```
///
/// It has the loader call [`init()`] before `main`. So the pool's processes, coordinator and workers, live before `main`: of what
/// Rust sets up there they lack the message at a stack overflow, which is a plain SIGSEGV then. It must stand once, in the crate
/// that is the program: of a library the linker may drop it. It needs a loader that knows `.init_array`, as that of glibc does.
#[macro_export]
macro_rules! init {
    ($tasks:expr) => {
        const _: () = {
            extern "C" fn init() {
                $crate::pool::init_before_main($tasks);
            }
            #[used]
            #[unsafe(link_section = ".init_array")]
            static INIT: extern "C" fn() = init;
        };
    };
}

/// What [`init!`](crate::init!) has the loader call.
#[doc(hidden)]
pub fn init_before_main(tasks: fn() -> Tasks) {
    if std::env::var_os(VARIABLE).is_some() {
        // As Rust does before `main`.
        let _ = ignore_broken_pipes();
    }
    init(tasks);
}

fn ignore_broken_pipes() -> nix::Result<()> {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: ignoring a signal installs no handler that could run at a bad moment.
    unsafe { sigaction(Signal::SIGPIPE, &ignore) }.map(drop)
}

/// The threads that stay in this process: one that was joined just now stands in the kernel's list for a moment yet.
pub(crate) fn lasting_threads() -> io::Result<usize> {
    for _ in 0..100 {
        if threads()? == 1 {
            return Ok(1);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    threads()
}

/// The threads of this process, but those that watch pools or sync their journals: what they do a fork can't catch half done.
fn threads() -> io::Result<usize> {
    let is_foreign = |task: io::Result<std::fs::DirEntry>| match task {
        Ok(task) => match std::fs::read_to_string(task.path().join("comm")) {
            Ok(name) => (![start::WATCHER, SYNCER].contains(&name.trim_end())).then_some(Ok(())),
            Err(_) => None, // it has ended
        },
        Err(e) => Some(Err(e)),
    };
    let tasks: io::Result<Vec<()>> = std::fs::read_dir("/proc/self/task")?.filter_map(is_foreign).collect();
    tasks.map(|tasks| tasks.len())
}

/// Keeps descriptors made from now on off 0 to 2, where they would be taken for the standard streams.
///
/// # Errors
/// The kernel's.
pub(super) fn plug_standard_streams() -> nix::Result<Vec<OwnedFd>> {
    let mut plugs = Vec::new();
    loop {
        let fd = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
        if fd.as_raw_fd() > 2 {
            return Ok(plugs);
        }
        plugs.push(fd);
    }
}

/// Gives this process an empty standard input, which would be the caller's otherwise, and an output if it has none.
///
/// # Errors
/// The kernel's.
pub(super) fn settle_standard_streams() -> nix::Result<()> {
    for plug in plug_standard_streams()? {
        fcntl(&plug, FcntlArg::F_SETFD(FdFlag::empty()))?;
        std::mem::forget(plug); // whatever writes there has it for as long as this process lives
    }
    dup2_stdin(open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?)
}

// ---- who starts -----------------------------------------------------------------------------------------------------

/// The tasks that other processes of this program will have.
///
/// # Errors
/// It can't be executed again.
pub(super) fn tasks() -> Result<Tasks, StartError> {
    match REGISTRY.get() {
        None => Err(StartError::NotInitialized),
        Some(&Registry { threads, .. }) if threads > 1 => Err(StartError::InitTooLate(threads)),
        Some(registry) => Ok((registry.tasks)()),
    }
}

/// Why a process could not become a worker, or ended as one before its pool did.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WorkError {
    /// Nobody has invited it.
    #[error(
        "no pool has started this program, which is a pool's worker: start it by Builder::program, in C by \
         shmworker_pool_exec, or name the pool that it is to work for"
    )]
    NotStarted,
    /// It was invited, and can't take part, or not any more, for this reason.
    #[error("{0}")]
    Failed(String),
    /// It could not attach.
    #[error(transparent)]
    Attach(#[from] super::AttachError),
}

/// The life of a worker program: one that a pool of another program executes ([`Builder::program`](super::Builder::program)), as its
/// coordinator and as its workers. Returns the exit code of the process, which should end then.
///
/// Call it before any thread is started: what stands before it runs in each of these processes.
///
/// # Errors
/// [`WorkError`].
///
/// ```no_run
/// use shmworker::{Tasks, pool};
///
/// fn main() {
///     let mut tasks = Tasks::new();
///     tasks.function("square", |x: u64| x * x);
///     match pool::work(tasks) {
///         Ok(code) => std::process::exit(code.into()),
///         Err(e) => eprintln!("{e}"),
///     }
/// }
/// ```
pub fn work(tasks: Tasks) -> Result<u8, WorkError> {
    let inode = std::env::var_os(VARIABLE).ok_or(WorkError::NotStarted)?;
    let received = read_invitation(&inode).map_err(WorkError::Failed)?;
    take_part(received, threads().unwrap_or(1), move || tasks).map_err(WorkError::Failed)
}

/// What is executed.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) args: Vec<OsString>,
}

impl Program {
    /// The one that runs, with its arguments.
    pub(super) fn this() -> Program {
        Program { path: THIS_PROGRAM.into(), args: std::env::args_os().skip(1).collect() }
    }

    /// What is executed under the name of this one by now, and stays what it is while it is open. It gets this one's arguments,
    /// unless others are given.
    fn successor(args: Option<Vec<OsString>>) -> io::Result<(Program, File)> {
        let path = std::fs::read_link(THIS_PROGRAM)?;
        // So the kernel calls a file that was replaced.
        let name = path.as_os_str().as_bytes();
        let path = Path::new(OsStr::from_bytes(name.strip_suffix(b" (deleted)").unwrap_or(name)));
        let file = File::open(path).map_err(|e| io::Error::new(e.kind(), format!("'{}': {e}", path.display())))?;
        let fd = format!("/proc/self/fd/{}", file.as_raw_fd());
        let args = args.unwrap_or_else(|| Program::this().args);
        Ok((Program { path: fd.into(), args }, file))
    }

    fn command(&self, invitation: UnixStream) -> io::Result<Command> {
        let inode = fstat(&invitation)?.st_ino;
        let mut command = Command::new(&self.path);
        if self.path.starts_with("/proc/self")
            && let Some(name) = std::env::args_os().next()
        {
            command.arg0(name);
        }
        command.args(&self.args).env(VARIABLE, inode.to_string()).stdin(Stdio::from(OwnedFd::from(invitation)));
        Ok(command)
    }
}

/// Starts the coordinator that the plan describes, of a program that has these tasks if that is known. Its end of `answers` is
/// what it says how that went by.
///
/// # Errors
/// The kernel's.
pub(super) fn start_coordinator(
    plan: &Plan,
    tasks: Option<&Tasks>,
    fds: [BorrowedFd<'_>; 3],
    answers: &UnixStream,
    theirs: UnixStream,
    program: Program,
) -> io::Result<Pid> {
    let invitation = Invitation::Coordinator { plan: plan.clone(), fingerprint: tasks.map(Tasks::fingerprint) };
    send(answers, &invitation, &fds)?;
    let child = program
        .command(theirs)?
        .process_group(0)
        .spawn()
        .map_err(|e| io::Error::new(e.kind(), format!("'{}': {e}", program.path.display())))?;
    Ok(Pid::from_raw(child.id() as i32))
}

/// In a child that the coordinator has forked: executes this program as a worker. Returns if that fails, with the exit code.
pub(super) fn become_another_worker(seat: &Seat, tasks: &Tasks, work: &Work) -> u8 {
    let result = UnixStream::pair().and_then(|(ours, theirs)| {
        let name = seat.endpoint.name().bits();
        // The kernel names it anew when it executes a program.
        let label = std::fs::read_to_string("/proc/self/comm")?.trim_end().to_owned();
        let (parent, fingerprint) = (getppid().as_raw(), Some(tasks.fingerprint()));
        let invitation = Invitation::Worker { name, parent, label, work: work.clone(), fingerprint };
        send(&ours, &invitation, &[seat.endpoint.segment().as_fd(), seat.bell()])?;
        Err::<(), _>(Program::this().command(theirs)?.exec())
    });
    if let Err(e) = result {
        eprintln!("cannot execute this program as a worker: {e}");
    }
    FAILED
}

// ---- who follows ----------------------------------------------------------------------------------------------------

/// What a coordinator has to leave, as things stand.
type Leaving<'s> = Box<dyn Fn(&Handover) -> Result<Estate, postcard::Error> + 's>;

/// By whom another program takes over from this coordinator: the one that has its file's name by then.
pub(crate) struct Successor<'s> {
    /// The segment, the bell, and what else goes with the invitation.
    fds: Vec<BorrowedFd<'s>>,
    estate: Leaving<'s>,
    /// In place of this program's own.
    args: Option<Vec<OsString>>,
    patience: Duration,
    /// What was looked at, and is to be executed then.
    program: Option<(Program, File)>,
}

impl<'s> Successor<'s> {
    pub(super) fn of_pool(seat: &'s CoordinatorsSeat<'s>, tasks: &'static Tasks) -> Successor<'s> {
        let CoordinatorsSeat { segment, plan, bell, connection, .. } = *seat;
        let signatures = tasks.signatures();
        Successor {
            fds: vec![segment.as_fd(), bell.as_fd(), connection.as_fd()],
            estate: Box::new(move |handover| {
                let (plan, handover, tasks) = (plan.clone(), handover.clone(), signatures.clone());
                Ok(Estate::Pool(Box::new(Takeover { plan, handover, tasks })))
            }),
            args: plan.successor().cloned(),
            patience: plan.start_timeout(),
            program: None,
        }
    }

    /// Of a pool that serves Temporal. `state`: what the next program is to know.
    #[cfg(feature = "temporal")]
    pub(crate) fn of_temporal<S: Serialize>(
        segment: BorrowedFd<'s>,
        bell: BorrowedFd<'s>,
        patience: Duration,
        state: impl Fn(&Handover) -> S + 's,
    ) -> Successor<'s> {
        let estate: Leaving<'s> = Box::new(move |handover| postcard::to_stdvec(&state(handover)).map(Estate::Temporal));
        Successor { fds: vec![segment, bell], estate, args: None, patience, program: None }
    }

    /// Its invitation, and our end of the socket in which that lies.
    fn invite(&self, handover: &Handover, is_check: bool) -> io::Result<(UnixStream, UnixStream)> {
        let estate = (self.estate)(handover).map_err(io::Error::other)?;
        let state = postcard::to_stdvec(&estate).map_err(io::Error::other)?;
        let (ours, theirs) = UnixStream::pair()?;
        // Nobody reads before all is written: what does not fit is an error.
        ours.set_nonblocking(true)?;
        let fds = if is_check { &self.fds[..1] } else { &self.fds[..] };
        send(&ours, &Invitation::Successor { version: TAKEOVER, is_check, state }, fds)?;
        Ok((ours, theirs))
    }
}

impl Succession for Successor<'_> {
    fn check(&mut self, handover: &Handover) -> Result<Box<dyn Looking>, String> {
        let mut start = || {
            let (program, file) = self.program.insert(Program::successor(self.args.clone())?);
            let _ = file; // open for as long as it may be executed
            let program = program.clone();
            let (ours, theirs) = self.invite(handover, true)?;
            ours.set_nonblocking(false)?;
            ours.set_read_timeout(Some(HALF_SAID))?;
            let child = program.command(theirs)?.process_group(0).spawn()?;
            Ok((Child::of(Pid::from_raw(child.id() as i32))?, ours))
        };
        let (child, answers) =
            start().map_err(|e: io::Error| format!("cannot execute the program that is to follow: {e}"))?;
        let patience = self.patience;
        Ok(Box::new(Check { child, answers, until: Instant::now() + patience, patience, is_open: true }))
    }

    fn become_it(&mut self, handover: &Handover) -> String {
        let mut become_it = || {
            let (program, _file) = self.program.take().ok_or_else(|| io::Error::other("nothing was looked at"))?;
            let (_ours, theirs) = self.invite(handover, false)?;
            Err::<(), _>(program.command(theirs)?.exec())
        };
        let why = become_it().err().map_or_else(String::new, |e| e.to_string());
        // As they were before: the one has been the invitation, the other is as for a program that begins.
        let settled = settle_standard_streams().and_then(|()| ignore_broken_pipes());
        let also = settled.err().map_or_else(String::new, |e| format!("; nor can its streams be restored: {e}"));
        format!("cannot execute the program that is to follow: {why}{also}")
    }
}

/// How long who has begun to say something has to end it.
const HALF_SAID: Duration = Duration::from_secs(1);

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
}

/// A child that says whether it could go on with the pool.
struct Check {
    child: Child,
    answers: UnixStream,
    until: Instant,
    patience: Duration,
    /// More may be said.
    is_open: bool,
}

impl Looking for Check {
    fn look(&mut self) -> Option<Result<(), String>> {
        let exit = self.child.try_reap();
        if self.is_open && is_readable(self.answers.as_fd()) {
            match receive(&self.answers) {
                Ok((Answer::Started, _)) => return Some(Ok(())),
                Ok((Answer::Refused(why), _)) => return Some(Err(format!("the program that is to follow: {why}"))),
                Ok((Answer::OtherTasks(lacking), _)) => {
                    return Some(Err(format!(
                        "the program that is to follow does not register {}, which this pool has",
                        lacking.join(", ")
                    )));
                }
                Err(_) => self.is_open = false,
            }
        }
        match exit {
            Some(exit) => {
                Some(Err(format!("the program that is to follow ended with {exit} before it said that it can")))
            }
            None if Instant::now() >= self.until => {
                Some(Err(format!("the program that is to follow has not said within {:?} that it can", self.patience)))
            }
            None => None,
        }
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        [Some(self.child.as_fd()), self.is_open.then(|| self.answers.as_fd())].into_iter().flatten().collect()
    }

    fn deadline(&self) -> Instant {
        self.until
    }

    fn pid(&self) -> Pid {
        self.child.pid
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        // It may have ended by itself, and been reaped.
        let _ = self.child.signal(Signal::SIGKILL);
        self.child.reap();
    }
}

// ---- who is started -------------------------------------------------------------------------------------------------

/// The life of a process that was started by the library; its exit code.
///
/// # Errors
/// What was wrong, where there is nobody else to tell.
fn take_part(received: Received, threads: usize, tasks: impl FnOnce() -> Tasks) -> Result<u8, String> {
    let (socket, invitation, fds) = received;
    match invitation {
        Invitation::Coordinator { plan, fingerprint } => {
            let refused = match enter(threads, tasks, signal::reset_in_child).and_then(|t| check(t, fingerprint)) {
                Ok(tasks) => match coordinate(plan, fds, &socket, tasks) {
                    Ok(code) => return Ok(code),
                    Err(why) => Answer::Refused(why),
                },
                Err(answer) => answer,
            };
            // To no effect if the caller has died.
            let _ = send(&socket, &refused, &[]);
            Ok(FAILED)
        }
        Invitation::Worker { name, parent, label, work, fingerprint } => {
            drop(socket);
            let tasks = enter(threads, tasks, signal::reset_in_child);
            let tasks = tasks.and_then(|tasks| check(tasks, fingerprint)).map_err(|refused| match refused {
                Answer::OtherTasks(ours) => format!("{label} registers other tasks than its coordinator: {ours:?}"),
                Answer::Refused(why) => why,
                Answer::Started => unreachable!("nothing has"),
            })?;
            let seat = sit_down(Name::of(name), Pid::from_raw(parent), &label, fds)?;
            Ok(work.run(seat, tasks))
        }
        Invitation::Successor { version, is_check, state } => {
            let answer = |answer: &Answer| drop(send(&socket, answer, &[])); // to no effect if nobody waits any more
            match follow(version, is_check, &state, threads, tasks, fds) {
                Ok(Some(code)) => Ok(code),
                Ok(None) => {
                    answer(&Answer::Started);
                    Ok(0)
                }
                Err(why) if is_check => {
                    answer(&why);
                    Ok(FAILED)
                }
                Err(Answer::Refused(why)) => Err(format!("cannot go on with the pool: {why}")),
                Err(_) => Err("cannot go on with the pool: its tasks are not registered".to_owned()),
            }
        }
    }
}

/// An invitation, with its descriptors, and the socket in which it lay.
type Received = (UnixStream, Invitation, Vec<OwnedFd>);

/// What [`init`] has met, and is for [`Invited::here`].
#[cfg(feature = "temporal")]
static PUT_ASIDE: std::sync::Mutex<Option<Received>> = std::sync::Mutex::new(None);

/// Keeps what is for the part of a program that serves Temporal, which comes later.
fn put_aside(received: Received) -> Option<Received> {
    #[cfg(feature = "temporal")]
    if let Invitation::Successor { version, ref state, .. } = received.1
        && let Ok(Estate::Temporal(_)) = estate(version, state)
    {
        *PUT_ASIDE.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(received);
        return None;
    }
    Some(received)
}

/// What lies in this process's standard input.
///
/// # Errors
/// There is none.
fn read_invitation(inode: &OsStr) -> Result<Received, String> {
    let stdin = io::stdin();
    let is_ours = fstat(&stdin).is_ok_and(|found| inode.to_str() == Some(found.st_ino.to_string().as_str()));
    if !is_ours {
        return Err(format!(
            "{VARIABLE} is set, but no pool has started this process: unset it; if a process of your program has started \
             this one, have that call shmworker::init on its first line"
        ));
    }
    let text = |e: io::Error| e.to_string();
    // The copy is close-on-exec, and none of the standard streams.
    let socket: UnixStream = stdin.as_fd().try_clone_to_owned().map_err(text)?.into();
    let (invitation, fds) = receive::<Invitation>(&socket).map_err(text)?;
    Ok((socket, invitation, fds))
}

/// What another program has left to this one, for a pool that serves Temporal.
#[cfg(feature = "temporal")]
pub(crate) struct Invited {
    /// Only whether it could go on is asked.
    pub(crate) is_check: bool,
    pub(crate) state: Vec<u8>,
    /// The segment, and the bell unless it is a check.
    pub(crate) fds: Vec<OwnedFd>,
    socket: UnixStream,
}

#[cfg(feature = "temporal")]
impl Invited {
    /// If this process was executed to go on with such a pool. Whatever else it is invited to is for [`init`].
    ///
    /// # Errors
    /// It can't, which who asked has been told.
    pub(crate) fn here() -> Result<Option<Invited>, String> {
        let Some(inode) = std::env::var_os(VARIABLE) else { return Ok(None) };
        let put_aside = PUT_ASIDE.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let (socket, invitation, fds) = put_aside.map_or_else(|| read_invitation(&inode), Ok)?;
        let Invitation::Successor { version, is_check, state } = invitation else {
            return Err("this command is no worker program: make it one by shmworker::init, or name another".to_owned());
        };
        let mut invited = Invited { is_check, state: Vec::new(), fds, socket };
        let refused = |why: String| {
            invited.refuse(&why);
            why
        };
        match estate(version, &state).map_err(&refused)? {
            Estate::Temporal(state) => {
                // Signals that come meanwhile wait for the coordinator.
                let reset = if is_check { signal::reset_in_child } else { || Ok(()) };
                // SAFETY: this process has one thread, or the pool could not be gone on with, which is found before it is.
                unsafe { std::env::remove_var(VARIABLE) };
                settle_standard_streams().and_then(|()| reset()).map_err(|e| refused(e.to_string()))?;
                invited.state = state;
                Ok(Some(invited))
            }
            Estate::Pool(_) => {
                Err(refused("it goes on with pools that serve Temporal, and this one runs tasks".to_owned()))
            }
        }
    }

    /// Says that this program can go on.
    pub(crate) fn accept(&self) {
        let _ = send(&self.socket, &Answer::Started, &[]); // to no effect if nobody waits any more
    }

    /// Says why it can't.
    pub(crate) fn refuse(&self, why: &str) {
        let _ = send(&self.socket, &Answer::Refused(why.to_owned()), &[]); // as above
    }
}

/// # Errors
/// This program does not understand it.
fn estate(version: u32, state: &[u8]) -> Result<Estate, String> {
    if version != TAKEOVER {
        return Err(format!(
            "it goes on with what version {TAKEOVER} hands over, and not with that of version {version}"
        ));
    }
    postcard::from_bytes(state).map_err(|e| e.to_string())
}

/// Goes on with a pool: the exit code. `None`: it could, and only that was asked.
///
/// # Errors
/// Why not.
fn follow(
    version: u32,
    is_check: bool,
    state: &[u8],
    threads: usize,
    tasks: impl FnOnce() -> Tasks,
    fds: Vec<OwnedFd>,
) -> Result<Option<u8>, Answer> {
    let refused = |why: &dyn std::fmt::Display| Answer::Refused(why.to_string());
    let Estate::Pool(takeover) = estate(version, state).map_err(Answer::Refused)? else {
        return Err(refused(&"it goes on with pools that run tasks, and this one serves Temporal"));
    };
    // Signals that come meanwhile wait for the coordinator.
    let reset = if is_check { signal::reset_in_child } else { || Ok(()) };
    let tasks = enter(threads, tasks, reset)?;
    let ours = tasks.signatures();
    let lacking: Vec<_> = takeover.tasks.into_iter().filter(|task| !ours.contains(task)).collect();
    if !lacking.is_empty() {
        return Err(Answer::OtherTasks(lacking));
    }
    if is_check {
        let segment = fds.into_iter().next().ok_or_else(|| refused(&MISSING))?;
        return Segment::attach(segment, false).map(|_| None).map_err(|e| refused(&e));
    }
    let Takeover { plan, handover, .. } = *takeover;
    let [segment, bell, connection] = <[OwnedFd; 3]>::try_from(fds).map_err(|_| refused(&MISSING))?;
    let segment = Arc::new(Segment::attach(segment, true).map_err(|e| refused(&e))?);
    // SAFETY: what comes in this place is the eventfd that the caller has made.
    let bell = unsafe { EventFd::from_owned_fd(bell) };
    let seat = CoordinatorsSeat {
        segment: &segment,
        plan: &plan,
        bell: &bell,
        connection: &connection,
        is_a_program: true,
        handover: Some(&handover),
    };
    let (nobody, _) = UnixStream::pair().map_err(|e| refused(&e))?;
    Ok(Some(seat.serve(&nobody, tasks)))
}

/// Rids this process of what only the invitation needed, and builds its tasks.
///
/// # Errors
/// What to tell who started it.
fn enter(
    threads: usize,
    tasks: impl FnOnce() -> Tasks,
    reset_signals: impl FnOnce() -> nix::Result<()>,
) -> Result<&'static Tasks, Answer> {
    let refused = |why: &dyn std::fmt::Display| Answer::Refused(why.to_string());
    if threads > 1 {
        return Err(refused(&StartError::InitTooLate(threads)));
    }
    // SAFETY: this process has one thread.
    unsafe { std::env::remove_var(VARIABLE) };
    settle_standard_streams().and_then(|()| reset_signals()).map_err(|e| refused(&e))?;
    let tasks = panics::catch(tasks)
        .map_err(|panic| refused(&format_args!("the function given to shmworker::init panicked at {panic}")))?;
    match lasting_threads() {
        Ok(1) => {}
        Ok(threads) => return Err(refused(&StartError::ThreadsOfTasks(threads))),
        Err(e) => return Err(refused(&format_args!("cannot count this process's threads: {e}"))),
    }
    Ok(crate::process::keep(tasks))
}

/// # Errors
/// These are other tasks than those of who has started this process.
fn check(tasks: &'static Tasks, fingerprint: Option<u64>) -> Result<&'static Tasks, Answer> {
    match fingerprint.is_none_or(|theirs| theirs == tasks.fingerprint()) {
        true => Ok(tasks),
        false => Err(Answer::OtherTasks(tasks.signatures())),
    }
}

/// The life of a coordinator.
///
/// # Errors
/// Why it could not begin.
fn coordinate(plan: Plan, fds: Vec<OwnedFd>, socket: &UnixStream, tasks: &'static Tasks) -> Result<u8, String> {
    let [segment, bell, connection] = <[OwnedFd; 3]>::try_from(fds).map_err(|_| MISSING)?;
    let segment = Arc::new(Segment::attach(segment, true).map_err(|e| e.to_string())?);
    // SAFETY: what comes in this place is the eventfd that the caller has made.
    let bell = unsafe { EventFd::from_owned_fd(bell) };
    let seat = CoordinatorsSeat {
        segment: &segment,
        plan: &plan,
        bell: &bell,
        connection: &connection,
        is_a_program: true,
        handover: None,
    };
    Ok(seat.serve(socket, tasks))
}

/// # Errors
/// Why there is no seat for this worker.
fn sit_down(name: Name, parent: Pid, label: &str, fds: Vec<OwnedFd>) -> Result<Seat, String> {
    let [segment, bell] = <[OwnedFd; 2]>::try_from(fds).map_err(|_| MISSING)?;
    // The kernel drops it when a program with privileges of its own is executed.
    set_pdeathsig(Signal::SIGKILL).map_err(|e| e.to_string())?;
    if getppid() != parent {
        return Err(format!("the coordinator of {label} has ended"));
    }
    name_process(label);
    let segment = Segment::attach(segment, true).map_err(|e| e.to_string())?;
    Seat::take(Arc::new(segment), name, bell.into_raw_fd(), cpus()).map_err(|e| e.to_string())
}

const MISSING: &str = "descriptors that belong to the invitation are missing";

// ---- messages -------------------------------------------------------------------------------------------------------

/// Sends a message, and with its first bytes the descriptors. It fits into the socket's buffer.
///
/// # Errors
/// The kernel's.
pub(super) fn send(socket: &UnixStream, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let message = postcard::to_stdvec(message).map_err(io::Error::other)?;
    let head = (message.len() as u32).to_ne_bytes();
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
    // A stream takes four bytes whole, or none.
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&head)], rights, MsgFlags::MSG_NOSIGNAL, None)?;
    (&*socket).write_all(&message)
}

/// # Errors
/// The kernel's; `UnexpectedEof`: the other end is closed.
pub(super) fn receive<T: DeserializeOwned>(mut socket: &UnixStream) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut head = [0; 4];
    let mut space = cmsg_space!([RawFd; 3]);
    let mut fds = Vec::new();
    let read = {
        let mut slices = [IoSliceMut::new(&mut head)];
        let received = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = message {
                // SAFETY: the kernel has just given us these descriptors, which nobody else knows.
                fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        received.bytes
    };
    let len = u32::from_ne_bytes(head);
    if read < head.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if len > LONGEST_MESSAGE {
        return Err(io::Error::other(format!("a message of {len} bytes, where {LONGEST_MESSAGE} are the most")));
    }
    let mut message = vec![0; len as usize];
    socket.read_exact(&mut message)?;
    postcard::from_bytes(&message).map(|message| (message, fds)).map_err(io::Error::other)
}
