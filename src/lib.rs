//! `shmworker`: a shared-memory, lock-free job executor for Linux.

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "temporal")]
pub mod temporal;
