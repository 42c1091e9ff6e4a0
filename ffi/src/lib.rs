//! The C interface of shmworker: `libshmworker.so`, `libshmworker.a` and `include/shmworker.h`.
//!
//! Today it says which library was loaded, and whether its interface is the one that a program was compiled for:
//!
//! ```c
//! if (shmworker_abi_version() != SHMWORKER_ABI_VERSION) return EXIT_FAILURE;
//! printf("shmworker %s\n", shmworker_version());
//! ```
//!
//! # Conventions
//!
//! - Every name starts with `shmworker_` or `SHMWORKER_`.
//! - No panic crosses the boundary: what is here cannot panic.
//! - A function may be called from any thread, before and after a `fork`.
//! - A returned string is UTF-8, ends with a NUL, belongs to the library and lives as long as the library is loaded.
//!
//! # The header
//!
//! `include/shmworker.h` is generated from this file by cbindgen and committed, so that a C user needs no Rust.
//! `tests/header.rs` fails when it is stale; `SHMWORKER_BLESS=1 cargo test -p shmworker-ffi --test header` writes it anew.

use std::ffi::c_char;

/// The C interface that this header describes. Raised whenever a program compiled against an older header could
/// misbehave with a newer library; additions leave it alone.
pub const SHMWORKER_ABI_VERSION: u32 = 1;

/// The version as C has it: with a NUL behind.
static VERSION: [u8; shmworker::VERSION.len() + 1] = {
    let mut text = [0; shmworker::VERSION.len() + 1];
    text.split_at_mut(shmworker::VERSION.len()).0.copy_from_slice(shmworker::VERSION.as_bytes());
    text
};

/// The version of the library, as `"major.minor.patch"`. Never NULL; not to be freed.
#[unsafe(no_mangle)]
pub extern "C" fn shmworker_version() -> *const c_char {
    VERSION.as_ptr().cast()
}

/// The `SHMWORKER_ABI_VERSION` with which the library was built. A program compares it with that of its header before
/// it calls anything else.
#[unsafe(no_mangle)]
pub extern "C" fn shmworker_abi_version() -> u32 {
    SHMWORKER_ABI_VERSION
}
