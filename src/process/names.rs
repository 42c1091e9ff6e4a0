//! Names: where the pools of this user are found.
//!
//! A pool is found by a socket `NAME.sock`, by which others attach ([`super::attach`]). It lies in `$XDG_RUNTIME_DIR/shmworker/`,
//! or, where there is no such directory of this user's, in `/tmp/shmworker-UID/`. Both are looked into, so that a pool which a
//! service started is found from a terminal. Each is made 0700, and used only if it is a directory of this user's that nobody
//! else may enter: in `/tmp` another user may have been there first.
//!
//! # Liveness
//!
//! A socket of the living accepts connections; one that refuses them was left by a coordinator that died, and is replaced. Between
//! the look and the deed the directory is locked (`flock(2)`), so that nobody takes a socket for stale which is about to listen.
//!
//! Sources: `unix(7)`, the XDG Base Directory Specification on XDG_RUNTIME_DIR.

use crate::mem::backing::{LONGEST, is_pool_name};
use nix::{
    errno::Errno,
    fcntl::OFlag,
    sys::{
        socket::{
            AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen, setsockopt,
            socket,
            sockopt::{PeerCredentials, ReceiveTimeout, SendTimeout},
        },
        stat::{Mode, fchmod},
        time::{TimeVal, TimeValLike},
    },
    unistd::geteuid,
};
use std::{
    fmt,
    fs::{DirBuilder, File, OpenOptions, metadata, read_dir, remove_file, symlink_metadata},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

const SUFFIX: &str = ".sock";
/// Connections that wait until the coordinator looks.
const BACKLOG: i32 = 128;

/// Why a name can't be had, or looked up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum NameError {
    /// No pool can have it.
    #[error("invalid pool name '{0}': use 1 to {LONGEST} letters, digits, '.', '_' and '-'")]
    Invalid(String),
    /// A living pool has it.
    #[error("a pool named '{name}' is running{pid}: end that, or choose another name", pid = Pid(*pid))]
    InUse {
        /// The name.
        name: String,
        /// Its coordinator, if known.
        pid: Option<i32>,
    },
    /// Others could get at what lies there.
    #[error("'{}' {fault}: remove it, or set XDG_RUNTIME_DIR to a directory of your own", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// The kernel refused a step.
    #[error("cannot {step} '{}': {source}", path.display())]
    Os {
        /// What was refused.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
}

struct Pid(Option<i32>);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |pid| write!(f, " (pid {pid})"))
    }
}

fn os<E: Into<io::Error>>(step: &'static str, path: &Path) -> impl Fn(E) -> NameError {
    move |source| NameError::Os { step, path: path.to_owned(), source: source.into() }
}

/// A pool that answers to a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) name: String,
    /// Its coordinator. 0: it is in a PID namespace that can't be seen from here.
    pub(crate) pid: i32,
}

impl fmt::Display for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, Pid((self.pid != 0).then_some(self.pid)))
    }
}

/// Is this a name for a pool?
///
/// # Errors
/// [`NameError::Invalid`].
pub(crate) fn check(name: &str) -> Result<(), NameError> {
    if is_pool_name(name) { Ok(()) } else { Err(NameError::Invalid(name.to_owned())) }
}

// ---- directories ----------------------------------------------------------------------------------------------------

/// Where sockets may lie; new ones in the first.
fn places() -> Vec<PathBuf> {
    let uid = geteuid();
    // One that belongs to another was inherited from another's session.
    let is_ours =
        |dir: &PathBuf| dir.is_absolute() && metadata(dir).is_ok_and(|m| m.is_dir() && m.uid() == uid.as_raw());
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(is_ours);
    runtime
        .map(|dir| dir.join("shmworker"))
        .into_iter()
        .chain([PathBuf::from(format!("/tmp/shmworker-{uid}"))])
        .collect()
}

/// Opens a directory that nobody else can enter. `None`: it isn't there.
fn enter(path: &Path) -> Result<Option<File>, NameError> {
    let fault = |fault| NameError::Directory { path: path.to_owned(), fault };
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let dir = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Ok(dir) => dir,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => match Errno::from_raw(e.raw_os_error().unwrap_or(0)) {
            Errno::ELOOP | Errno::ENOTDIR => return Err(fault("is no directory".to_owned())),
            _ => return Err(os("open", path)(e)),
        },
    };
    let meta = dir.metadata().map_err(os("look at", path))?;
    if meta.uid() != geteuid().as_raw() {
        return Err(fault(format!("belongs to another user (uid {})", meta.uid())));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(fault(format!("can be entered by others (mode {:03o})", meta.mode() & 0o777)));
    }
    Ok(Some(dir))
}

/// The directories there are. Of the first it is said if it can't be trusted; elsewhere another user may bar the way.
fn open_places() -> Result<Vec<PathBuf>, NameError> {
    let mut open = Vec::new();
    for (i, place) in places().into_iter().enumerate() {
        match enter(&place) {
            Ok(Some(_)) => open.push(place),
            Err(e) if i == 0 => return Err(e),
            Ok(None) | Err(_) => {}
        }
    }
    Ok(open)
}

fn make(path: &Path) -> Result<File, NameError> {
    if let Some(dir) = enter(path)? {
        return Ok(dir);
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {} // another coordinator was faster
        Err(e) => return Err(os("make", path)(e)),
    }
    enter(path)?.ok_or_else(|| os("open", path)(Errno::ENOENT))
}

// ---- sockets --------------------------------------------------------------------------------------------------------

fn socket_of(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}{SUFFIX}"))
}

fn seqpacket(flags: SockFlag) -> nix::Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::SeqPacket, flags | SockFlag::SOCK_CLOEXEC, None)
}

/// Where a pool that starts now, and one that this process started, has its socket.
///
/// # Errors
/// [`NameError`].
pub(crate) fn path_of(name: &str) -> Result<PathBuf, NameError> {
    check(name)?;
    Ok(socket_of(&places()[0], name))
}

/// A connection to whoever listens there, on which each step takes so many seconds at most. `None`: nobody does.
pub(crate) fn knock(path: &Path, seconds: i64) -> nix::Result<Option<OwnedFd>> {
    let socket = seqpacket(SockFlag::empty())?;
    setsockopt(&socket, SendTimeout, &TimeVal::seconds(seconds))?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(seconds))?;
    loop {
        match connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &UnixAddr::new(path)?) {
            Ok(()) => return Ok(Some(socket)),
            Err(Errno::ENOENT | Errno::ECONNREFUSED) => return Ok(None),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
}

/// The process that listens at the other end, as its number is here.
fn listener(socket: &OwnedFd) -> i32 {
    getsockopt(socket, PeerCredentials).map_or(0, |c| c.pid())
}

/// The process that listens under this name. `None`: nobody does. Nothing is said to it, and no answer awaited.
///
/// # Errors
/// [`NameError`].
pub(crate) fn listener_of(name: &str) -> Result<Option<i32>, NameError> {
    check(name)?;
    for dir in open_places()? {
        let path = socket_of(&dir, name);
        if let Some(socket) = knock(&path, 1).map_err(os("connect to", &path))? {
            return Ok(Some(listener(&socket)));
        }
    }
    Ok(None)
}

/// The pools of this user that run, in the order of their names.
///
/// # Errors
/// [`NameError`] where a directory can't be looked into, or may not be trusted.
pub(crate) fn running() -> Result<Vec<Running>, NameError> {
    let mut found = Vec::new();
    for dir in open_places()? {
        each_socket(&dir, |name, path| {
            let pid = match knock(path, 1) {
                Ok(Some(socket)) => listener(&socket),
                Err(Errno::EAGAIN) => 0, // more wait than it looks after: it may be stopped
                Ok(None) => return Ok(()),
                Err(e) => return Err(os("connect to", path)(e)),
            };
            found.push(Running { name: name.to_owned(), pid });
            Ok(())
        })?;
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn each_socket(dir: &Path, mut f: impl FnMut(&str, &Path) -> Result<(), NameError>) -> Result<(), NameError> {
    for entry in read_dir(dir).map_err(os("read", dir))? {
        let entry = entry.map_err(os("read", dir))?;
        if let Some(name) = entry.file_name().to_str().and_then(|name| name.strip_suffix(SUFFIX)) {
            f(name, &entry.path())?;
        }
    }
    Ok(())
}

/// Connects to the pool of this name, or else to one whose coordinator has this process id. Each step of the connection takes
/// so many seconds at most. `None`: no such pool runs.
///
/// # Errors
/// [`NameError`].
pub(crate) fn connect_to(name: &str, seconds: i64) -> Result<Option<OwnedFd>, NameError> {
    check(name)?;
    let mut names = vec![name.to_owned()];
    if let Ok(pid) = name.parse::<i32>() {
        names.extend(running()?.into_iter().filter(|r| r.pid == pid).map(|r| r.name));
    }
    for name in names {
        for dir in open_places()? {
            let path = socket_of(&dir, &name);
            if let Some(socket) = knock(&path, seconds).map_err(os("connect to", &path))? {
                return Ok(Some(socket));
            }
        }
    }
    Ok(None)
}

/// A socket that listens under the name of a pool. The name goes when this is dropped by the process that made it.
pub(crate) struct Listener {
    pub(crate) socket: OwnedFd,
    pub(crate) path: PathBuf,
    inode: u64,
    creator: u32,
}

impl Listener {
    /// Listens, and replaces what a dead coordinator has left there.
    ///
    /// # Errors
    /// [`NameError`]: also if a living pool has the name, wherever.
    pub(crate) fn open(name: &str) -> Result<Listener, NameError> {
        check(name)?;
        let place = places().swap_remove(0);
        let _lock = lock(make(&place)?, &place)?;
        for dir in open_places()? {
            check_unused(name, &socket_of(&dir, name))?;
        }
        let path = socket_of(&place, name);
        match remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(os("replace", &path)(e)),
            _ => {}
        }
        let listen_at = || -> nix::Result<OwnedFd> {
            let socket = seqpacket(SockFlag::SOCK_NONBLOCK)?;
            // Linux gives the name the mode of the socket (`unix(7)` names the umask alone).
            fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
            bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &UnixAddr::new(&path)?)?;
            listen(&socket, Backlog::new(BACKLOG)?)?;
            Ok(socket)
        };
        let socket = listen_at().map_err(os("listen at", &path))?;
        let inode = symlink_metadata(&path).map_err(os("look at", &path))?.ino();
        Ok(Listener { socket, path, inode, creator: std::process::id() })
    }
}

impl Listener {
    /// One that another program of this process has opened.
    pub(crate) fn of(socket: OwnedFd, path: PathBuf, inode: u64) -> Listener {
        Listener { socket, path, inode, creator: std::process::id() }
    }

    pub(crate) fn inode(&self) -> u64 {
        self.inode
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // A forked child has a copy of this.
        if std::process::id() != self.creator {
            return;
        }
        let Some(dir) = self.path.parent() else { return };
        let Ok(Some(_lock)) = enter(dir).map(|dir| dir.and_then(|d| lock(d, &self.path).ok())) else { return };
        if symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode) {
            // There is nobody to tell; who needs the name finds that it is stale.
            let _ = remove_file(&self.path);
        }
    }
}

/// Whoever looks whether a socket is stale, and then replaces or removes it, has the directory for itself.
fn lock(dir: File, path: &Path) -> Result<File, NameError> {
    dir.lock().map_err(os("lock", path))?;
    Ok(dir)
}

fn check_unused(name: &str, path: &Path) -> Result<(), NameError> {
    match knock(path, 1) {
        Ok(None) => Ok(()),
        Ok(Some(socket)) => Err(NameError::InUse { name: name.to_owned(), pid: Some(listener(&socket)) }),
        // More wait than it looks after.
        Err(Errno::EAGAIN) => Err(NameError::InUse { name: name.to_owned(), pid: None }),
        // Not a socket of this kind, or none at all.
        Err(e) => Err(os("connect to", path)(e)),
    }
}

/// Removes the sockets that dead coordinators have left, of these pools or else of all, and returns where they were. A
/// rehearsal leaves them there.
///
/// # Errors
/// [`NameError`].
pub(crate) fn clean(pools: &[String], is_rehearsal: bool) -> Result<Vec<PathBuf>, NameError> {
    let mut stale = Vec::new();
    for place in open_places()? {
        let _lock = enter(&place)?.map(|dir| lock(dir, &place)).transpose()?;
        each_socket(&place, |name, path| {
            let is_wanted = pools.is_empty() || pools.iter().any(|pool| pool == name);
            // What is no socket refuses connections as well.
            let is_socket = || symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
            if is_wanted && is_socket() && matches!(knock(path, 1), Ok(None)) {
                if !is_rehearsal {
                    remove_file(path).map_err(os("remove", path))?;
                }
                stale.push(path.to_owned());
            }
            Ok(())
        })?;
    }
    stale.sort();
    Ok(stale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::{Permissions, set_permissions},
        os::unix::fs::{PermissionsExt, symlink},
    };

    #[test]
    fn a_name_is_a_plain_word() {
        let longest = "x".repeat(LONGEST);
        for good in ["a", "12345", "my-pool_2.test", &longest] {
            assert!(check(good).is_ok(), "{good}");
        }
        let longer = "x".repeat(LONGEST + 1);
        for bad in ["", "a/b", "../x", "a b", "naïve", "a\n", &longer] {
            let text = check(bad).unwrap_err().to_string();
            assert_eq!(text, format!("invalid pool name '{bad}': use 1 to 64 letters, digits, '.', '_' and '-'"));
        }
    }

    #[test]
    fn a_directory_that_others_reach_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let ours = dir.path().join("ours");
        assert!(enter(&ours).unwrap().is_none());
        assert_eq!(make(&ours).unwrap().metadata().unwrap().mode() & 0o777, 0o700);
        set_permissions(&ours, Permissions::from_mode(0o750)).unwrap();
        let refused = make(&ours).unwrap_err().to_string();
        assert!(refused.contains("can be entered by others (mode 750)"), "{refused}");
        let link = dir.path().join("link");
        symlink(dir.path(), &link).unwrap();
        assert!(make(&link).unwrap_err().to_string().contains("is no directory"));
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(make(&file).unwrap_err().to_string().contains("is no directory"));
    }
}
