//! Backings: what file a segment's pages belong to, and how long that file lives.
//!
//! | backing | lives                                          | for                                            |
//! |---------|------------------------------------------------|------------------------------------------------|
//! | memfd   | as long as a process has it; has no name       | the usual case: sealed, nothing is left behind |
//! | named   | in `/dev/shm`, until its creator ends in order | the post-mortem, when every process is dead    |
//! | file    | until somebody removes it                      | state that outlives the machine's run          |
//!
//! # Liveness
//!
//! Whoever makes or takes over a named or file backing locks its first byte for the open file (F_OFD_SETLK, `fcntl(2)`), which
//! all processes share that it forks or hands the file to: the lock is free once the last of them is gone, by the kernel's
//! word. Nobody unlocks, and who only looks takes no lock (F_OFD_GETLK), so that nobody takes that for a sign of life.
//!
//! The file of a state may go from one coordinator to the next while workers live. So nobody has all of its first byte: each who lives
//! shares it, and who wants the file for itself finds it taken.
//!
//! What was mapped is open as well, so each maps by the open file whose locks it is to have.
//!
//! | byte  | locked by                                                         | its lock is free once           |
//! |-------|-------------------------------------------------------------------|---------------------------------|
//! | 0     | all, shared; who wants nobody to live, alone                      | all are gone                    |
//! | 1     | the client that leads, and its coordinator, which has its file    | both are gone: another may lead |
//! | n + 2 | the worker whose name is n (incarnation and id), by an open file  | that is gone, with what it has  |
//! |       | of its own, which its coordinator has made before the fork        | forked and not executed         |
//!
//! A name can be pulled away between two steps: its creator has not locked it yet when a cleaner, or a second creator, comes
//! by. So who locks a named backing looks whether it still has its name, and else begins again. That is one step for others,
//! as is a look and the removal after it: both hold the file's `flock(2)` for that moment, and wait for it.
//!
//! # What a death leaves
//!
//! | state             | written by                     | a death leaves                                              |
//! |-------------------|--------------------------------|-------------------------------------------------------------|
//! | lock              | who makes it, or takes it over | it is free once the last process that has the file has gone |
//! | name              | its maker; removed by that, or | a left-over, for the next pool of that name or for          |
//! |                   | by `clean`                     | `shmworker clean`                                           |
//! | `flock`           | who makes it, or cleans        | nothing. Who is stopped with it has those wait who make or  |
//! |                   |                                | clean that name, and nobody in a pool                       |
//! | `creator`, `boot` | its maker                      | a hint for people, of this run of the machine alone         |
//!
//! These are the kernel's own orders: no atomic of ours has a part in them.
//!
//! What checks this page: the tests in `mem/segment.rs` (one living pool per file; who starts while others clean) and
//! `tests/segment.rs` (what a killed pool leaves, and that the living keep theirs).
//!
//! The crate `shared_memory` makes the named ones. It is told at once not to own the name, which it would remove in each
//! forked child that drops it; and it only sets the size, so space is allocated here, on a descriptor of our own.

use super::{
    layout::{Control, Header, Identity, MAGIC, QueueNames, VERSION},
    segment::SegmentCreateError,
    space,
};
use crate::lockfree::{participant::Name as Member, word::MAX_PARTICIPANTS};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, SealFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        stat::{Mode, fchmod},
    },
    unistd::{ftruncate, geteuid},
};
use shared_memory::{ShmemConf, ShmemError};
use std::{
    fs::{File, Metadata, OpenOptions},
    io,
    mem::offset_of,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

/// Where POSIX shared memory lies on Linux (`shm_overview(7)`).
pub(crate) const SHM: &str = "/dev/shm";
/// Longest name of a pool, in bytes.
pub(crate) const LONGEST: usize = 64;
/// How often a name may be pulled away while a segment is made. Each try takes some microseconds, and whoever cleans without a
/// pause wins many of them.
const TRIES: usize = 10_000;

/// On what a segment lies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Backing {
    /// Memory without a name.
    #[default]
    Memfd,
    /// Memory under the name of a pool.
    Named(String),
    /// A file.
    File(PathBuf),
}

/// A name that goes when its creator does, in order: not in a panic, after which somebody may want to look.
pub(super) struct Name {
    path: PathBuf,
    creator: u32,
}

impl Name {
    #[cfg(all(feature = "pool", feature = "temporal"))]
    pub(super) fn own(path: PathBuf) -> Name {
        Name { path, creator: std::process::id() }
    }

    #[cfg(all(feature = "pool", feature = "temporal"))]
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the name as it is, for good.
    pub(super) fn keep(mut self) {
        self.creator = 0; // nobody
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        // A forked child has a copy of this.
        if std::process::id() == self.creator && !std::thread::panicking() {
            // It may be gone already, and there is nobody to tell.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Backing {
    /// Makes the file: empty, of so many bytes, private, locked where it has a name. If that name is to go with the segment,
    /// it comes as well; a file has one only until the segment is whole. `taken`: the [file](take_file), if it is open already.
    pub(super) fn create(&self, bytes: usize, taken: Option<File>) -> Result<(File, Option<Name>), SegmentCreateError> {
        space::check_size(bytes)?;
        let (file, name) = match self {
            Backing::Memfd => {
                let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
                let fd = memfd_create(c"shmworker", flags).map_err(|e| os("create", bytes, e.into()))?;
                (File::from(fd), None)
            }
            Backing::Named(pool) => {
                if !is_pool_name(pool) {
                    return Err(SegmentCreateError::Name(pool.clone()));
                }
                let path = Path::new(SHM).join(prefix() + pool);
                let file = create_named(&path, bytes)?;
                (file, Some(Name { path, creator: std::process::id() }))
            }
            Backing::File(path) => {
                let file = taken.map_or_else(|| create_file(path), Ok)?;
                let name = Name { path: path.clone(), creator: std::process::id() };
                begin(&file).map_err(at("write to", path))?;
                (file, Some(name))
            }
        };
        let errno = |step| move |e: Errno| os(step, bytes, e.into());
        fchmod(&file, Mode::S_IRUSR | Mode::S_IWUSR).map_err(errno("protect"))?;
        ftruncate(&file, bytes as libc::off_t).map_err(errno("size"))?;
        if *self == Backing::Memfd {
            let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
            fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(errno("seal"))?;
        }
        Ok((file, name))
    }
}

fn os(step: &'static str, bytes: usize, source: io::Error) -> SegmentCreateError {
    SegmentCreateError::Os { step, bytes, source }
}

fn at(step: &'static str, path: &Path) -> impl Fn(io::Error) -> SegmentCreateError {
    move |source| SegmentCreateError::At { step, path: path.to_owned(), source }
}

/// Every name of this user's pools begins so.
fn prefix() -> String {
    format!("shmworker-{}-", geteuid())
}

/// Can a pool have this name?
pub(crate) fn is_pool_name(name: &str) -> bool {
    let is_fit = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=LONGEST).contains(&name.len()) && name.chars().all(is_fit)
}

fn create_named(path: &Path, bytes: usize) -> Result<File, SegmentCreateError> {
    let id = Path::new("/").join(path.file_name().unwrap_or_default());
    for _ in 0..TRIES {
        match ShmemConf::new().os_id(id.to_string_lossy()).size(bytes).create() {
            Ok(mut shmem) => {
                shmem.set_owner(false);
            }
            Err(ShmemError::MappingIdExists) => match clean(path, false).map_err(at("replace", path))? {
                Left::InUse(creator) => return Err(in_use(path, creator)),
                Left::Over(_) | Left::Gone => continue,
            },
            Err(ShmemError::MapCreateFailed(e) | ShmemError::UnknownOsError(e)) => {
                return Err(at("create", path)(io::Error::from_raw_os_error(e as i32)));
            }
            Err(e) => return Err(at("create", path)(io::Error::other(e))),
        }
        match open(path, true) {
            Ok(file) => {
                let is_ours = || {
                    file.lock()?;
                    // Locked and still named: from here on it is ours.
                    let is_ours = lock(&file)? && has_name(&file);
                    file.unlock()?;
                    Ok(is_ours)
                };
                if is_ours().map_err(at("lock", path))? {
                    return Ok(file);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(at("open", path)(e)),
        }
    }
    Err(in_use(path, Holder(None)))
}

fn create_file(path: &Path) -> Result<File, SegmentCreateError> {
    match take_file(path)? {
        (file, 0) => Ok(file),
        (_, bytes) => Err(SegmentCreateError::NotEmpty { path: path.to_owned(), bytes }),
    }
}

/// Opens a file of this user's, or makes it, and locks it: nobody else has it then. Also returns its size.
///
/// # Errors
/// [`SegmentCreateError`]: in use, no file, another's, a link.
pub(crate) fn take_file(path: &Path) -> Result<(File, u64), SegmentCreateError> {
    take(path, lock)
}

/// As [`take_file`], for who is to lead a pool in it: workers of the one before may live.
///
/// # Errors
/// As for [`take_file`].
pub(crate) fn take_state(path: &Path) -> Result<(File, u64), SegmentCreateError> {
    // In this order: who fails by the second has the first for a moment, in which nobody is led.
    take(path, |file| Ok(try_lock(file, libc::F_WRLCK, LEAD)? && try_lock(file, libc::F_RDLCK, LIFE)?))
}

fn take(path: &Path, lock: impl Fn(&File) -> io::Result<bool>) -> Result<(File, u64), SegmentCreateError> {
    let unfit = |why: String| Err(at("use", path)(io::Error::other(why)));
    for _ in 0..TRIES {
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
            .open(path);
        let file = match opened {
            Err(e) if e.raw_os_error() == Some(libc::ELOOP) && path.is_symlink() => {
                return unfit("it is a symbolic link: name the file itself".into());
            }
            opened => opened.map_err(at("open", path))?,
        };
        let meta = file.metadata().map_err(at("look at", path))?;
        if !meta.is_file() {
            return unfit("it is no regular file".into());
        }
        if meta.uid() != geteuid().as_raw() {
            return unfit(format!("it belongs to user {}: use a file of your own", meta.uid()));
        }
        if meta.mode() & 0o022 != 0 {
            let mode = meta.mode() & 0o7777;
            return unfit(format!("others may write to it (mode {mode:o}): 'chmod 600' it if it can be trusted"));
        }
        if !lock(&file).map_err(at("lock", path))? {
            return Err(in_use(path, Holder(creator(&file))));
        }
        // After the lock: whoever had it may have taken the name along.
        let meta = file.metadata().map_err(at("look at", path))?;
        if meta.nlink() == 0 {
            continue;
        }
        if meta.len() > 0 && is_begun(&file).map_err(at("read", path))? {
            // Its maker died over it: it was nobody's yet.
            file.set_len(0).map_err(at("empty", path))?;
            return Ok((file, 0));
        }
        return Ok((file, meta.len()));
    }
    Err(in_use(path, Holder(None)))
}

/// In place of [`MAGIC`] while a segment is made.
pub(super) const BEGUN: u64 = u64::from_le_bytes(*b"shmw new");

/// Says of an empty file that it is about to be a segment. Until its identity is written, whoever finds it may begin anew.
pub(super) fn begin(file: &File) -> io::Result<()> {
    file.write_all_at(&BEGUN.to_ne_bytes(), 0)
}

fn is_begun(file: &File) -> io::Result<bool> {
    let mut first = [0; 8];
    match file.read_exact_at(&mut first, 0) {
        Ok(()) => Ok(u64::from_ne_bytes(first) == BEGUN),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

fn in_use(path: &Path, creator: Holder) -> SegmentCreateError {
    SegmentCreateError::InUse { path: path.to_owned(), creator }
}

/// The process that made a segment, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder(pub(crate) Option<u64>);

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |pid| write!(f, ", made by process {pid}"))
    }
}

/// Opens an existing backing, never a link to one, nor what would block.
pub(super) fn open(path: &Path, writable: bool) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    OpenOptions::new().read(true).write(writable).custom_flags(flags.bits()).open(path)
}

/// The byte that the living have locked.
const LIFE: i64 = 0;
/// The byte that who leads has locked.
const LEAD: i64 = 1;

/// The byte that the worker of this name has locked. Names are given once, so whom it leaves with its file disturbs nobody after it.
fn of_worker(name: Member) -> i64 {
    2 + ((name.incarnation() as i64) << MAX_PARTICIPANTS.trailing_zeros() | i64::from(name.id()))
}

fn byte(kind: libc::c_int, at: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: at,
        l_len: 1,
        l_pid: 0,
    }
}

/// False: somebody else's processes have the lock.
pub(super) fn lock(file: &File) -> io::Result<bool> {
    try_lock(file, libc::F_WRLCK, LIFE)
}

fn try_lock(file: &File, kind: libc::c_int, at: i64) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&byte(kind, at))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

pub(super) fn is_alive(file: &File) -> io::Result<bool> {
    is_locked(file, LIFE)
}

fn is_locked(file: impl AsFd, at: i64) -> io::Result<bool> {
    let mut found = byte(libc::F_WRLCK, at);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
    Ok(found.l_type != libc::F_UNLCK as libc::c_short)
}

/// Opens the file of a state once more, for a worker of this name that is about to be forked: whoever has that lives, and does not lead.
///
/// # Errors
/// The kernel's.
pub(super) fn open_for_worker(file: &File, name: Member) -> io::Result<File> {
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    let file = OpenOptions::new().read(true).write(true).open(again)?;
    match try_lock(&file, libc::F_RDLCK, LIFE)? && try_lock(&file, libc::F_WRLCK, of_worker(name))? {
        true => Ok(file),
        false => Err(io::ErrorKind::WouldBlock.into()),
    }
}

/// Does the worker of this name live, or somebody whom it has forked? By another file than its own.
///
/// # Errors
/// The kernel's.
pub(super) fn has_worker(file: &File, name: Member) -> io::Result<bool> {
    is_locked(file, of_worker(name))
}

fn has_name(file: &File) -> bool {
    file.metadata().is_ok_and(|m| m.nlink() > 0)
}

/// Who made the segment in this file, as its header says: true only while this run of the machine lasts.
pub(crate) fn creator(file: &File) -> Option<u64> {
    let identity = read_identity(file).ok()?;
    (identity.magic == MAGIC && identity.boot != 0 && identity.boot == boot()).then_some(identity.creator)
}

/// The first bytes of a file, as those of a segment.
pub(crate) fn read_identity(file: &File) -> io::Result<Identity> {
    let mut bytes = [0; size_of::<Identity>()];
    file.read_exact_at(&mut bytes, 0)?;
    // SAFETY: `Identity` is made of integers alone, for which any bytes are values, and has the size of `bytes`.
    Ok(unsafe { bytes.as_ptr().cast::<Identity>().read_unaligned() })
}

/// How far the pool is in its life whose segment this is, in the terms of `process`, and the milliseconds that it has for each step of its
/// end. `None`: it is no such segment, or of another version or run of the machine.
pub(crate) fn read_end(path: &Path) -> Option<(u32, u64)> {
    let file = open(path, false).ok()?;
    let identity = read_identity(&file).ok()?;
    if identity.magic != MAGIC || identity.version != VERSION || identity.boot != boot() {
        return None;
    }
    let control = offset_of!(Header, control);
    let (mut mode, mut grace) = ([0; 4], [0; 8]);
    file.read_exact_at(&mut mode, (control + offset_of!(Control, mode)) as u64).ok()?;
    file.read_exact_at(&mut grace, (control + offset_of!(Control, grace_ms)) as u64).ok()?;
    Some((u32::from_ne_bytes(mode), u64::from_ne_bytes(grace)))
}

/// The names of queues where a segment has them.
pub(super) fn read_queue_names(file: &File) -> io::Result<QueueNames> {
    let mut names = [0; size_of::<QueueNames>()];
    file.read_exact_at(&mut names, offset_of!(Header, queues) as u64)?;
    Ok(names)
}

/// Which run of the machine this is; 0: unknown.
pub(crate) fn boot() -> u64 {
    let id = procfs::sys::kernel::random::boot_id().unwrap_or_default();
    u64::from_str_radix(&id.replace('-', "").chars().take(16).collect::<String>(), 16).unwrap_or(0)
}

// ---- left-overs -----------------------------------------------------------------------------------------------------

/// What was found where a named backing may lie.
pub(crate) enum Left {
    /// One whose processes are all dead.
    Over(Holder),
    /// Somebody lives who has it.
    InUse(Holder),
    /// It is gone, or no file of this user's.
    Gone,
}

/// Removes a named backing if it is left over; a rehearsal leaves it.
///
/// # Errors
/// The kernel's.
pub(crate) fn clean(path: &Path, is_rehearsal: bool) -> io::Result<Left> {
    let file = match open(path, false) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Left::Gone),
        Err(e) => return Err(e),
    };
    if !is_ours(&file.metadata()?) {
        return Ok(Left::Gone);
    }
    let creator = Holder(creator(&file));
    file.lock()?; // until it is closed here, since nobody has been forked
    if is_alive(&file)? {
        return Ok(Left::InUse(creator));
    }
    if !has_name(&file) {
        return Ok(Left::Gone);
    }
    if !is_rehearsal {
        std::fs::remove_file(path)?;
    }
    Ok(Left::Over(creator))
}

/// In a directory where everybody may write.
fn is_ours(meta: &Metadata) -> bool {
    meta.is_file() && meta.uid() == geteuid().as_raw()
}

/// Pool and path of each named backing of this user's, in the order of their names.
///
/// # Errors
/// The directory can't be read.
pub(crate) fn named() -> io::Result<Vec<(String, PathBuf)>> {
    let prefix = prefix();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(SHM)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(pool) = name.to_str().and_then(|name| name.strip_prefix(&prefix)) else { continue };
        // What has gone meanwhile is none.
        if entry.metadata().is_ok_and(|meta| is_ours(&meta)) {
            found.push((pool.to_owned(), entry.path()));
        }
    }
    found.sort();
    Ok(found)
}
