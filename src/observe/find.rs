//! Where the segment of a pool is: by its name, by one of its processes, or in a file.

use crate::{
    mem::{
        backing,
        layout::MAGIC,
        segment::{Segment, SegmentOpenError},
    },
    process::{
        attach::{self, AttachError},
        names::{self, NameError},
        spawn::{pidfd_open, pidfd_signal},
    },
    sync::Relaxed,
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::Signal,
    unistd::Pid,
};
use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

/// Why there is nothing to look at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FindError {
    #[error("cannot inspect '{}': {source}", path.display())]
    File { path: PathBuf, source: SegmentOpenError },
    #[error("cannot inspect process {pid}: {source}")]
    Process { pid: i32, source: SegmentOpenError },
    #[error("process {pid} takes part in several pools, whose coordinators are {coordinators:?}: give one of these")]
    Several { pid: i32, coordinators: Vec<u32> },
    #[error("{0}; nor is there a named segment or a file '{1}'")]
    Nothing(AttachError, String),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error("cannot look for named segments: {0}")]
    Named(io::Error),
}

/// A segment to look at, which is mapped read-only.
pub(crate) struct Found {
    pub(crate) segment: Segment,
    /// Whose process this is is alive; `None`: nobody's, or it isn't known whose.
    pub(crate) coordinator: Option<Coordinator>,
    /// Its processes run, or did so just now.
    pub(crate) runs: bool,
    /// Where it lies, if it was found by that.
    pub(crate) path: Option<PathBuf>,
}

/// The process that ends a pool with its own end.
pub(crate) struct Coordinator {
    pub(crate) pid: i32,
    pidfd: OwnedFd,
}

impl Coordinator {
    fn of(pid: i32) -> Option<Coordinator> {
        (pid > 0).then(|| pidfd_open(Pid::from_raw(pid)).ok().map(|pidfd| Coordinator { pid, pidfd })).flatten()
    }

    /// Sends a signal to this process and to no other, ever.
    pub(crate) fn signal(&self, signal: Signal) -> nix::Result<()> {
        pidfd_signal(self.pidfd.as_fd(), signal)
    }

    /// Has it ended?
    pub(crate) fn is_dead(&self) -> bool {
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
    }
}

/// Finds the pool of this name, or one of whose processes has this id, or what a dead one has left: under that name, or in a file.
///
/// # Errors
/// [`FindError`].
pub(crate) fn find(what: &str) -> Result<Found, FindError> {
    let path = Path::new(what);
    if what.contains('/') {
        return open(path);
    }
    if let Some(pid) = process_of(what)
        && let Some(found) = of_process(pid)?
    {
        return Ok(found);
    }
    // Its files can't be looked at, so it has to be asked.
    match attach::observe(what) {
        Ok(segment) => {
            let pid = segment.table().participants[0].pid.load(Relaxed);
            Ok(Found { segment, coordinator: Coordinator::of(pid as i32), runs: true, path: None })
        }
        Err(e @ (AttachError::NotRunning { .. } | AttachError::Name(NameError::Invalid(_)))) => {
            match backing::named().map_err(FindError::Named)?.into_iter().find(|(pool, _)| pool == what) {
                Some((_, path)) => open(&path),
                None if path.exists() => open(path),
                None => Err(FindError::Nothing(e, what.to_owned())),
            }
        }
        Err(e) => Err(e.into()),
    }
}

fn open(path: &Path) -> Result<Found, FindError> {
    match Segment::open(path, false) {
        Ok(segment) => Ok(Found { segment, coordinator: None, runs: false, path: Some(path.to_owned()) }),
        Err(source) => Err(FindError::File { path: path.to_owned(), source }),
    }
}

/// The coordinator of the pool of this name; or whichever process the number names. No answer is waited for.
fn process_of(what: &str) -> Option<i32> {
    let listens = names::listener_of(what).ok().flatten().filter(|&pid| pid > 0);
    listens.or_else(|| what.parse().ok().filter(|&pid| pid > 0))
}

/// The segment that a process holds open. `None`: it holds none, or can't be looked at.
fn of_process(pid: i32) -> Result<Option<Found>, FindError> {
    // Opened first: what is found is of this process, or it is dead by now.
    let pidfd = Coordinator::of(pid);
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Ok(None) };
    let mut seen = Vec::new();
    let mut found = Vec::new();
    let mut broken = None;
    for entry in files.flatten() {
        let Some((file, id)) = opened(&entry.path()) else { continue };
        if seen.contains(&id) {
            continue;
        }
        seen.push(id);
        match Segment::attach(file.into(), false) {
            Ok(segment) => found.push((segment.table().participants[0].pid.load(Relaxed), segment)),
            Err(source) => broken = Some(source),
        }
    }
    if found.len() > 1 {
        let coordinators: Vec<u32> = found.iter().map(|(coordinator, _)| *coordinator).collect();
        found.retain(|(coordinator, _)| *coordinator == pid as u32);
        if found.len() != 1 {
            return Err(FindError::Several { pid, coordinators });
        }
    }
    match (found.pop(), broken) {
        (Some((coordinator, segment)), _) => {
            let coordinator = if coordinator == pid as u32 { pidfd } else { Coordinator::of(coordinator as i32) };
            Ok(Some(Found { segment, coordinator, runs: true, path: None }))
        }
        (None, Some(source)) => Err(FindError::Process { pid, source }),
        (None, None) => Ok(None),
    }
}

/// What a process has open, if it begins as a segment does; and which file that is. Opened anew, to be read only: who has this can't
/// map it otherwise.
fn opened(link: &Path) -> Option<(File, (u64, u64))> {
    // Anything else may block, or do something, when it is opened.
    let meta = fs::metadata(link).ok().filter(|meta| meta.is_file())?;
    let file = File::open(link).ok()?;
    let mut magic = [0; 8];
    file.read_exact_at(&mut magic, 0).ok()?;
    (u64::from_le_bytes(magic) == MAGIC).then_some((file, (meta.dev(), meta.ino())))
}
