//! Which library this is.

use crate::error::{Error, boundary};
use shmworker::plugin::abi::{SHMWORKER_ABI_MAJOR, SHMWORKER_ABI_MINOR, shmworker_result as Code};
use std::ffi::c_char;

/// The version as C has it: with a NUL behind.
static VERSION: [u8; shmworker::VERSION.len() + 1] = {
    let mut text = [0; shmworker::VERSION.len() + 1];
    text.split_at_mut(shmworker::VERSION.len()).0.copy_from_slice(shmworker::VERSION.as_bytes());
    text
};

/// The version of the library, as `"major.minor.patch"`. Never NULL; not to be freed.
///
/// Threads: any. After a fork: as before.
#[unsafe(no_mangle)]
pub extern "C" fn shmworker_version() -> *const c_char {
    VERSION.as_ptr().cast()
}

/// Is the library that was loaded good for a program that was compiled with this header? Called as
/// `shmworker_check_abi(SHMWORKER_ABI_MAJOR, SHMWORKER_ABI_MINOR)`, before anything else. `SHMWORKER_RESULT_ABI_MISMATCH`: another major
/// number; `SHMWORKER_RESULT_UNSUPPORTED`: the library is older than the header.
///
/// Threads: any. After a fork: as before.
#[unsafe(no_mangle)]
pub extern "C" fn shmworker_check_abi(major: u32, minor: u32) -> i32 {
    boundary(|| {
        let code = match (major, minor) {
            (SHMWORKER_ABI_MAJOR, 0..=SHMWORKER_ABI_MINOR) => return Ok(()),
            (SHMWORKER_ABI_MAJOR, _) => Code::Unsupported,
            _ => Code::AbiMismatch,
        };
        Err(Error::new(
            code,
            format_args!(
                "compiled for ABI {major}.{minor}, loaded {SHMWORKER_ABI_MAJOR}.{SHMWORKER_ABI_MINOR}: compile it with the header of \
                 this library"
            ),
        ))
    })
}
