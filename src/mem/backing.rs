//! Backings: what file a segment's pages belong to, and how long that file lives.
//!
//! | backing | lives                                             | for                                           |
//! |---------|---------------------------------------------------|-----------------------------------------------|
//! | memfd   | as long as a process has it; has no name          | the usual case: sealed, nothing is left behind |
//! | named   | in `/dev/shm`, until its creator ends in order    | the post-mortem, when every process is dead   |
//! | file    | until somebody removes it                         | state that outlives the machine's run         |
//!
//! # Liveness
//!
//! Whoever makes or takes over a named or file backing holds its `flock(2)`, and so do all processes that it forks, since
//! they share the open file: the lock is free once the last of them is gone, by the kernel's word. Nobody unlocks.
//!
//! A name can be pulled away between two steps: its creator has not locked it yet when a cleaner, or a second creator, comes
//! by. So who locks a named backing looks whether it still has its name, and else begins again.
//!
//! The crate `shared_memory` makes the named ones. It is told at once not to own the name, which it would remove in each
//! forked child that drops it; and it only sets the size, so space is allocated here, on a descriptor of our own.

use super::{
    layout::{Identity, MAGIC},
    segment::SegmentCreateError,
    space,
};
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
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Where POSIX shared memory lies on Linux (`shm_overview(7)`).
const SHM: &str = "/dev/shm";
/// Longest pool name: what a file name allows, less the prefix.
const LONGEST: usize = 200;
/// How often a name may be pulled away while a segment is made.
const TRIES: usize = 16;

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
    /// it comes as well; a file has one only until the segment is whole.
    pub(super) fn create(&self, bytes: usize) -> Result<(File, Option<Name>), SegmentCreateError> {
        space::check_size(bytes)?;
        let (file, name) = match self {
            Backing::Memfd => {
                let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
                let fd = memfd_create(c"shmworker", flags).map_err(|e| os("create", bytes, e.into()))?;
                (File::from(fd), None)
            }
            Backing::Named(pool) => {
                let path = shm_path(pool).ok_or_else(|| SegmentCreateError::Name(pool.clone()))?;
                let file = create_named(&path, bytes)?;
                (file, Some(Name { path, creator: std::process::id() }))
            }
            Backing::File(path) => {
                let file = create_file(path, bytes)?;
                (file, Some(Name { path: path.clone(), creator: std::process::id() }))
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

/// Every name of this user's pools begins so.
fn prefix() -> String {
    format!("shmworker-{}-", geteuid())
}

/// `None`: no pool can have such a name.
fn shm_path(pool: &str) -> Option<PathBuf> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_name = !pool.is_empty() && pool.len() <= LONGEST && pool.chars().all(is_plain);
    is_name.then(|| Path::new(SHM).join(prefix() + pool))
}

fn create_named(path: &Path, bytes: usize) -> Result<File, SegmentCreateError> {
    let id = Path::new("/").join(path.file_name().unwrap_or_default());
    for _ in 0..TRIES {
        match ShmemConf::new().os_id(id.to_string_lossy()).size(bytes).create() {
            Ok(mut shmem) => {
                shmem.set_owner(false);
            }
            Err(ShmemError::MappingIdExists) => {
                match Left::open(path).map_err(|e| os("look at the former", bytes, e))? {
                    Some(Left::Over { file, .. }) => {
                        remove(path, &file).map_err(|e| os("remove the former", bytes, e))?
                    }
                    Some(Left::InUse { creator }) => return Err(in_use(path, creator)),
                    None => {}
                }
                continue;
            }
            Err(ShmemError::MapCreateFailed(e) | ShmemError::UnknownOsError(e)) => {
                return Err(os("create", bytes, io::Error::from_raw_os_error(e as i32)));
            }
            Err(e) => return Err(os("create", bytes, io::Error::other(e))),
        }
        match open(path, true) {
            // Locked and still named: from here on it is ours.
            Ok(file) => match lock(&file) {
                Ok(true) if has_name(&file) => return Ok(file),
                Ok(_) => {}
                Err(e) => return Err(os("lock", bytes, e)),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(os("open", bytes, e)),
        }
    }
    Err(in_use(path, None))
}

fn create_file(path: &Path, bytes: usize) -> Result<File, SegmentCreateError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path)
        .map_err(|e| os("open the file of", bytes, e))?;
    if !lock(&file).map_err(|e| os("lock the file of", bytes, e))? {
        return Err(in_use(path, creator(&file)));
    }
    match file.metadata() {
        Ok(m) if m.is_file() && m.len() == 0 => Ok(file),
        Ok(m) => Err(SegmentCreateError::NotEmpty { path: path.to_owned(), bytes: m.len() }),
        Err(e) => Err(os("look at the file of", bytes, e)),
    }
}

fn in_use(path: &Path, creator: Option<u64>) -> SegmentCreateError {
    SegmentCreateError::InUse { path: path.to_owned(), creator: Holder(creator) }
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

/// False: somebody else's processes have the lock.
pub(super) fn lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

fn has_name(file: &File) -> bool {
    file.metadata().is_ok_and(|m| m.nlink() > 0)
}

/// Who made the segment in this file, as its header says: true only while this run of the machine lasts.
pub(super) fn creator(file: &File) -> Option<u64> {
    let identity = read_identity(file).ok()?;
    (identity.magic == MAGIC && identity.boot != 0 && identity.boot == boot()).then_some(identity.creator)
}

/// The first bytes of a file, as those of a segment.
pub(super) fn read_identity(file: &File) -> io::Result<Identity> {
    let mut bytes = [0; size_of::<Identity>()];
    file.read_exact_at(&mut bytes, 0)?;
    // SAFETY: `Identity` is made of integers alone, for which any bytes are values, and has the size of `bytes`.
    Ok(unsafe { bytes.as_ptr().cast::<Identity>().read_unaligned() })
}

/// Which run of the machine this is; 0: unknown.
pub(super) fn boot() -> u64 {
    let id = procfs::sys::kernel::random::boot_id().unwrap_or_default();
    u64::from_str_radix(&id.replace('-', "").chars().take(16).collect::<String>(), 16).unwrap_or(0)
}

// ---- left-overs -----------------------------------------------------------------------------------------------------

/// A named backing that was found.
pub(crate) enum Left {
    /// All its processes are dead. `file` holds its lock.
    Over { file: File, creator: Option<u64> },
    /// Somebody lives who has it.
    InUse { creator: Option<u64> },
}

impl Left {
    /// `None`: it is gone, or no file of this user's. Who wants the name meanwhile takes the lock for a sign of life, so it is
    /// not to be held for long.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn open(path: &Path) -> io::Result<Option<Left>> {
        let file = match open(path, false) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let meta = file.metadata()?;
        if !meta.is_file() || meta.uid() != geteuid().as_raw() {
            return Ok(None);
        }
        let creator = creator(&file);
        Ok(match lock(&file)? {
            true if has_name(&file) => Some(Left::Over { file, creator }),
            true => None,
            false => Some(Left::InUse { creator }),
        })
    }
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
        if let Some(pool) = entry.file_name().to_str().and_then(|name| name.strip_prefix(&prefix)) {
            found.push((pool.to_owned(), entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Removes the name of a left-over. Its lock is held, so nobody else does so, or takes it over, meanwhile.
///
/// # Errors
/// The kernel's.
pub(crate) fn remove(path: &Path, locked: &File) -> io::Result<()> {
    debug_assert!(has_name(locked));
    std::fs::remove_file(path)
}
