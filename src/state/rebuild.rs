//! What becomes of a state file after the machine was started anew: its pages have reached the disk in any order, so what stands in
//! them is not to be trusted. The journals say what was accepted and is not done; a new segment takes that up.

use super::StateError;
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

/// Sets the segment in this file aside, so that the next one to take it begins anew, with the state of this id from the journals.
/// Run again after a kill, it does the rest.
///
/// # Errors
/// [`StateError::AnotherBoot`]: there is no journal. [`StateError::Rename`].
pub(super) fn rebuild(path: &Path, id: Option<u64>) -> Result<(), StateError> {
    if id.is_none() {
        return Err(StateError::AnotherBoot { path: path.to_owned() });
    }
    let old = set_aside(path).map_err(|source| StateError::Rename { path: path.to_owned(), source })?;
    tracing::warn!(
        "the machine was started anew since '{}' was used: its tasks come from the journal, and the old segment is '{}'",
        path.display(),
        old.display()
    );
    Ok(())
}

/// Gives a segment another name, in place of what was set aside before. The journals stay.
pub(super) fn set_aside(path: &Path) -> std::io::Result<PathBuf> {
    let mut old = OsString::from(path);
    old.push(".old");
    fs::rename(path, &old)?;
    Ok(old.into())
}
