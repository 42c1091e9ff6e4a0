//! What becomes of a state file after the machine was started anew.

use super::StateError;
use std::path::Path;

/// The pages of the file have reached the disk in any order, so what stands in them is not to be trusted.
///
/// # Errors
/// [`StateError::AnotherBoot`]: there is nothing from which it could be made again.
pub(super) fn rebuild(path: &Path) -> Result<(), StateError> {
    Err(StateError::AnotherBoot { path: path.to_owned() })
}
