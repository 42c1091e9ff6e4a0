//! Shared libraries that bring handlers: looked at by a child that ends, loaded by the processes that run them.
//!
//! A process that has loaded a library can't be rid of its threads, handlers at exit and bugs, and its forks inherit them: so the
//! process that forks the workers never loads one. What it has to know, the names, a child finds out for it ([`probe`]).

use super::{
    abi::{shmworker_host, shmworker_register_fn},
    call::{Entry, State, named},
    host::Host,
};
use crate::process::{
    coordinator::Looking,
    exit::Exit,
    spawn::{Child, spawn_inheriting},
};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use nix::{
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::Signal,
    unistd::{Pid, dup2_stdout, pipe2},
};
use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long plug-ins may take to load and register, all together.
const PATIENCE: Duration = Duration::from_secs(10);

/// A plug-in can't be loaded.
///
/// ```
/// let mut tasks = shmworker::Tasks::new();
/// let error = tasks.load("./libnone.so").unwrap_err();
/// assert!(error.to_string().contains("libnone.so"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot load the plug-in {}: {why}", path.display())]
pub struct PluginError {
    path: PathBuf,
    why: String,
}

impl PluginError {
    pub(crate) fn new(path: &Path, why: impl Into<String>) -> PluginError {
        PluginError { path: path.to_owned(), why: why.into() }
    }

    /// The file that was to be loaded.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// What a plug-in brings, as known before it is loaded here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) path: PathBuf,
    pub(crate) handlers: Vec<String>,
}

/// A library that is loaded in this process, for as long as that lives.
pub(crate) struct Plugin {
    path: PathBuf,
    host: &'static Host,
    pub(crate) handlers: Vec<Entry>,
}

impl Plugin {
    /// Loads the library and has it register its handlers.
    ///
    /// # Errors
    /// [`PluginError`]. The library stays loaded all the same: this process is to end.
    pub(crate) fn load(path: &Path) -> Result<Plugin, PluginError> {
        let refused = |why: String| PluginError::new(path, why);
        // A name without a slash would be searched for elsewhere.
        let file = std::path::absolute(path).map_err(|e| refused(e.to_string()))?;
        // SAFETY: the library's constructors run, and are as good as who named it on the command line says.
        let library = unsafe { Library::open(Some(&file), RTLD_NOW | RTLD_LOCAL) };
        let library = library.map_err(|e| {
            let why = std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string);
            // The loader begins with the name, which stands there already.
            let name = format!("{}: ", file.display());
            refused(why.strip_prefix(&name).unwrap_or(&why).to_owned())
        })?;
        // SAFETY: `shmworker_register` is of this type: that is what the header declares.
        let register = unsafe { library.get::<shmworker_register_fn>(b"shmworker_register\0") };
        let register = register.ok().and_then(|symbol| *symbol).ok_or_else(|| {
            let why = "it has no function shmworker_register: define it by SHMWORKER_PLUGIN(host) of shmworker.h";
            refused(why.to_owned())
        })?;
        std::mem::forget(library); // its code is in use from now on
        by_lines();
        let host = Host::new(path);
        let table: *const shmworker_host = host.table();
        // SAFETY: of the header's type, and `table` is there for good.
        let code = unsafe { register(table) };
        host.close();
        let mut registered = host.registered();
        let handlers = std::mem::take(&mut registered.entries);
        match registered.refused.take() {
            Some(why) => Err(refused(why)),
            None if code != 0 => {
                let known = named(code).map_or(String::new(), |known| format!(" ({known:?})"));
                Err(refused(format!("its shmworker_register returned {code}{known}")))
            }
            None if handlers.is_empty() => Err(refused("it registers no handler".to_owned())),
            None => Ok(Plugin { path: path.to_owned(), host, handlers }),
        }
    }

    /// Makes what its handlers share in this process.
    ///
    /// # Errors
    /// Why it can't, as a line for people.
    pub(crate) fn init(&self) -> Result<State, String> {
        self.host
            .init()
            .map_err(|code| format!("the init function of the plug-in {} returned {code}", self.path.display()))
    }

    /// Undoes that.
    pub(crate) fn exit(&self, state: State) {
        self.host.exit(state);
    }

    fn manifest(&self) -> Manifest {
        let handlers = self.handlers.iter().map(|handler| handler.name.clone()).collect();
        Manifest { path: self.path.clone(), handlers }
    }
}

/// Has what handlers print in C leave this process line by line, as what they print in Rust does: it ends without the C library's
/// leave, and what waits in its buffer would be lost.
fn by_lines() {
    // SAFETY: of the C library, there from the start to the end; nobody replaces it.
    let stream = unsafe { stdout };
    // SAFETY: an open stream, for which the C library has a buffer of its own. Nothing of a plug-in's has printed yet but its
    // constructors.
    unsafe { libc::setvbuf(stream, std::ptr::null_mut(), libc::_IOLBF, 0) };
}

// SAFETY: `stdout(3)`: an expression of this type, which in the C libraries of Linux is a variable of this name.
unsafe extern "C" {
    static stdout: *mut libc::FILE;
}

/// What the child reports, as records that end with a NUL, which neither names nor messages have inside.
const TURN: u8 = b'T';
const NAME: u8 = b'N';
const REFUSED: u8 = b'R';
/// All is said. Without it, it ended before: a plug-in may do that with any exit code.
const DONE: u8 = b'D';

/// Has a child load these libraries, and says what they bring. Names are unique among them and `taken`.
///
/// To be called by a process with one thread.
///
/// # Errors
/// [`PluginError`]: of the first that is no good, be it that the child crashed or hung over it.
pub(crate) fn probe<'n>(
    paths: &[PathBuf],
    taken: impl IntoIterator<Item = &'n str>,
) -> Result<Vec<Manifest>, PluginError> {
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let mut probe = Probe::begin(paths, taken)?;
    loop {
        if let Some(found) = probe.look() {
            return found;
        }
        let mut fds: Vec<_> = probe.fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let left = probe.until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut fds, timeout); // interrupted or over: it looks again
    }
}

/// A child that loads libraries, and says what they bring. It is killed when this is dropped.
pub(crate) struct Probe {
    child: Child,
    from: File,
    /// More may be said.
    is_open: bool,
    said: Vec<u8>,
    until: Instant,
    is_over: bool,
    paths: Vec<PathBuf>,
    taken: Vec<String>,
}

impl Probe {
    /// Starts the child; [`look`](Self::look) has what it finds.
    ///
    /// To be called by a process with one thread.
    ///
    /// # Errors
    /// [`PluginError`]: what the kernel refused.
    pub(crate) fn begin<'n>(paths: &[PathBuf], taken: impl IntoIterator<Item = &'n str>) -> Result<Probe, PluginError> {
        let first = paths.first().map_or(Path::new(""), PathBuf::as_path);
        let os = |what: &str, e: nix::Error| PluginError::new(first, format!("cannot {what}: {e}"));
        let (reading, writing) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(|e| os("make a pipe", e))?;
        let child = spawn_inheriting(&[writing.as_fd()], || {
            // What it prints there it prints again in each worker.
            let _ = File::options().write(true).open("/dev/null").map(dup2_stdout);
            report(paths, writing.try_clone().map(File::from))
        })
        .map_err(|e| os("fork", e))?;
        Ok(Probe {
            child,
            from: File::from(reading),
            is_open: true,
            said: Vec::new(),
            until: Instant::now() + PATIENCE,
            is_over: false,
            paths: paths.to_owned(),
            taken: taken.into_iter().map(str::to_owned).collect(),
        })
    }

    /// What is found, once the child has ended or its time is over; names are unique.
    ///
    /// # Errors
    /// [`PluginError`].
    pub(crate) fn look(&mut self) -> Option<Result<Vec<Manifest>, PluginError>> {
        // What it has said before its end is there by then.
        let exit = self.child.try_reap();
        // `Ok` at the end of all that is said; an error as long as more may come.
        self.is_open &= self.from.read_to_end(&mut self.said).is_err();
        if exit.is_none() {
            if Instant::now() < self.until {
                return None;
            }
            self.kill();
        }
        self.is_over = true;
        Some(understood(&self.said, &self.paths, exit).and_then(|manifests| self.unique(manifests)))
    }

    fn unique(&self, manifests: Vec<Manifest>) -> Result<Vec<Manifest>, PluginError> {
        let mut names: Vec<&str> = self.taken.iter().map(String::as_str).collect();
        for Manifest { path, handlers } in &manifests {
            for name in handlers {
                if names.contains(&name.as_str()) {
                    let why = format!("it registers {name:?}, which is registered already: give one another name");
                    return Err(PluginError::new(path, why));
                }
                names.push(name);
            }
        }
        Ok(manifests)
    }

    /// One that is closed would be news for ever.
    fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(self.child.as_fd()), self.is_open.then(|| self.from.as_fd())].into_iter().flatten()
    }

    fn kill(&self) {
        let _ = self.child.signal(Signal::SIGKILL);
        self.child.reap();
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if !self.is_over {
            self.kill();
        }
    }
}

impl Looking for Probe {
    fn look(&mut self) -> Option<Result<(), String>> {
        Some(Probe::look(self)?.map(drop).map_err(|e| e.to_string()))
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        Probe::fds(self).collect()
    }

    fn deadline(&self) -> Instant {
        self.until
    }

    fn pid(&self) -> Pid {
        self.child.pid
    }
}

/// The life of the child. All that it says fits into the pipe, or it blocks until it is read.
fn report(paths: &[PathBuf], to: std::io::Result<File>) -> u8 {
    let Ok(mut to) = to else { return 1 };
    let mut say = |what: u8, text: &str| {
        let record = [&[what], text.as_bytes(), &[0]].concat();
        let mut rest = record.as_slice();
        while !rest.is_empty() {
            match to.write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    let _ = poll(&mut [PollFd::new(to.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE);
                }
                Err(_) => return,
            }
        }
    };
    for path in paths {
        say(TURN, "");
        match Plugin::load(path) {
            Ok(plugin) => plugin.manifest().handlers.iter().for_each(|name| say(NAME, name)),
            Err(e) => {
                say(REFUSED, &e.why);
                return 1;
            }
        }
    }
    say(DONE, "");
    0
}

/// `exit`: how the child ended; `None`: it took too long.
fn understood(said: &[u8], paths: &[PathBuf], exit: Option<Exit>) -> Result<Vec<Manifest>, PluginError> {
    let mut manifests: Vec<Manifest> = Vec::new();
    let (mut refused, mut is_done) = (None, false);
    for record in said.split(|byte| *byte == 0).filter(|record| !record.is_empty()) {
        let text = String::from_utf8_lossy(&record[1..]).into_owned();
        match (record[0], manifests.last_mut()) {
            (TURN, _) => {
                let path = paths.get(manifests.len()).cloned().unwrap_or_default();
                manifests.push(Manifest { path, handlers: Vec::new() });
            }
            (NAME, Some(manifest)) => manifest.handlers.push(text),
            (REFUSED, _) => refused = Some(text),
            (DONE, _) => is_done = true,
            _ => {}
        }
    }
    if is_done && exit == Some(Exit::Code(0)) {
        return Ok(manifests);
    }
    let path = manifests.last().map_or(&paths[0], |manifest| &manifest.path);
    let why = refused.unwrap_or_else(|| match exit {
        Some(exit) => {
            let before = if exit == Exit::Code(0) { " before it had said that" } else { "" };
            format!("a process that loaded it, to see what it brings, ended with {exit}{before}")
        }
        None => format!("it takes more than {PATIENCE:?} to load and register"),
    });
    Err(PluginError::new(path, why))
}
