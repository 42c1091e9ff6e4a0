//! `shmworker`: a shared-memory, lock-free job executor for Linux.

#[cfg(feature = "temporal")]
pub mod temporal;
