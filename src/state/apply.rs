//! `shmworker recover --apply`: what the next start would do first, without a pool.

use super::{
    journal::{self, Journal, JournalError, SyncWhen},
    rebuild,
    survey::{Next, survey},
};
use crate::{SegmentOpenError, mem::segment::Segment};
use std::{
    io,
    path::{Path, PathBuf},
};

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    #[error("cannot recover '{}': {source}", path.display())]
    Os { path: PathBuf, source: io::Error },
    #[error("cannot recover '{}': {source}", path.display())]
    Segment { path: PathBuf, source: SegmentOpenError },
    #[error("'{}' can't be gone on with, and no journal says what was in it", .0.display())]
    Nothing(PathBuf),
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// What was done.
pub(crate) struct Applied {
    /// Where the segment is now that could not be gone on with.
    pub(crate) set_aside: Option<PathBuf>,
    /// Bytes that were cut off journals.
    pub(crate) shortened: Vec<(PathBuf, u64)>,
}

/// Does it: cuts off what is no record, and sets a segment aside that is not to be trusted. Run again after a kill, it does the
/// rest.
///
/// # Errors
/// [`ApplyError`]; a living pool has it.
pub(crate) fn apply(state: &Path) -> Result<Applied, ApplyError> {
    let os = |source| ApplyError::Os { path: state.to_owned(), source };
    // From here on no pool takes it. One that can't be opened no pool can have.
    let lock = match Segment::open(state, true) {
        Err(source @ SegmentOpenError::InUse { .. }) => {
            return Err(ApplyError::Segment { path: state.to_owned(), source });
        }
        opened => opened.ok(),
    };
    let survey = survey(state).map_err(os)?;
    let next = survey.next();
    if next == Next::Refuses {
        return Err(ApplyError::Nothing(state.to_owned()));
    }
    let mut shortened = Vec::new();
    for path in journal::all_of(state)? {
        let (_, contents) = Journal::open_at(&path, SyncWhen::default())?;
        if contents.whole < contents.bytes {
            shortened.push((path, contents.bytes - contents.whole));
        }
    }
    let mut set_aside = None;
    if survey.segment.is_some() && next != Next::GoesOn {
        set_aside = Some(rebuild::set_aside(state).map_err(os)?);
    }
    drop(lock);
    Ok(Applied { set_aside, shortened })
}
