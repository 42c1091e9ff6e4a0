//! `shmworker`: a shared-memory, lock-free job executor for Linux.
//!
//! A coordinator makes one shared-memory segment and forks worker processes, which claim tasks from it by atomic
//! exchanges: no socket, no lock, and no system call while both sides are busy. A process may be killed at any
//! instruction; what it owned is named in the words of the segment and is given to another.
//!
//! ```text
//!    temporal   workflows and activities in worker processes, Core in the bridge        (feature "temporal")
//!    pool       worker processes that run the functions of a Rust program               (feature "pool")
//!    sources    where jobs wait and results go                                         (feature "source")
//!    cli        the command line                                                       (feature "cli")
//!       │
//!    lanes      what the bridge and the processes that run Temporal's code say to each other
//!    observe    a pool seen from outside: read-only, by `shmworker top`, `inspect`, metrics  (features "cli", "metrics")
//!    process    coordinator: forks, watches, recovers, respawns, drains
//!       │
//!    exec       endpoints: submit, claim, complete, take
//!       │
//!    lockfree   task words, lanes, blocks, parking, recovery
//!    mem        the segment: what lies where
//! ```

// Without one of them the lower layers have no user.
#![cfg_attr(not(all(feature = "cli", feature = "pool", feature = "temporal")), allow(dead_code))]
#![cfg_attr(not(feature = "temporal"), allow(unreachable_pub))]

#[cfg(target_os = "linux")]
const _: () = assert!(size_of::<usize>() == 8, "shmworker needs a 64-bit target");
#[cfg(not(target_os = "linux"))]
compile_error!("shmworker is made of futexes, memfds and pidfds: it needs Linux");

/// The version of this library, as `major.minor.patch`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

#[cfg(all(feature = "cli", feature = "pool"))]
mod bench;
#[cfg(all(feature = "bench", not(all(test, any(loom, shuttle)))))]
#[doc(hidden)]
pub mod bench_support;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod error;
#[cfg(not(all(test, any(loom, shuttle))))]
mod exec;
#[cfg(any(fuzzing, all(test, not(any(loom, shuttle)))))]
#[doc(hidden)]
pub mod fuzz;
#[cfg(all(feature = "jobs", not(all(test, any(loom, shuttle)))))]
pub mod jobs;
#[cfg(not(all(test, any(loom, shuttle))))]
#[doc(hidden)]
pub mod lanes;
#[cfg(any(feature = "bench", all(feature = "cli", feature = "pool")))]
#[cfg_attr(not(feature = "bench"), expect(unreachable_pub, reason = "only `bench_support` hands it on"))]
mod limit;
mod lockfree;
#[cfg(all(any(feature = "cli", feature = "temporal"), not(all(test, any(loom, shuttle)))))]
mod logs;
#[cfg(not(all(test, any(loom, shuttle))))]
mod mem;
#[cfg(all(any(feature = "cli", feature = "metrics"), not(all(test, any(loom, shuttle)))))]
mod observe;
#[cfg(any(feature = "pool", feature = "temporal"))]
mod panics;
#[cfg(not(all(test, any(loom, shuttle))))]
#[doc(hidden)]
pub mod plugin;
#[cfg(all(feature = "pool", not(all(test, any(loom, shuttle)))))]
pub mod pool;
#[cfg(not(all(test, any(loom, shuttle))))]
mod process;
#[cfg(all(feature = "source", not(all(test, any(loom, shuttle)))))]
pub mod sources;
#[cfg(all(feature = "pool", not(all(test, any(loom, shuttle)))))]
mod state;
mod sync;
#[cfg(feature = "cli")]
mod torture;

#[cfg(all(feature = "jobs", feature = "otlp", not(all(test, any(loom, shuttle)))))]
mod traces;

pub use error::Corrupted;
#[cfg(not(all(test, any(loom, shuttle))))]
pub use exec::endpoint::SubmitError;
pub use lockfree::{audit::Audit, participant::Name, table::TaskId, word::Outcome};
#[cfg(not(all(test, any(loom, shuttle))))]
pub use mem::{
    backing::Holder,
    segment::{NoSpace, SegmentCreateError, SegmentOpenError},
    space::{Limit, Shortage},
};
#[cfg(all(feature = "pool", not(all(test, any(loom, shuttle)))))]
pub use pool::{Pool, Tasks, init};
#[cfg(not(all(test, any(loom, shuttle))))]
pub use process::limits::WorkerLimits;
#[cfg(all(feature = "pool", not(all(test, any(loom, shuttle)))))]
pub use state::{StateError, journal::JournalError};
#[cfg(feature = "temporal")]
pub mod temporal;

#[cfg(all(doctest, feature = "cli", feature = "temporal"))]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(all(doctest, feature = "pool"))]
#[doc = include_str!("../docs/guide.md")]
struct Guide;

#[cfg(all(doctest, feature = "source"))]
#[doc = include_str!("../docs/sources.md")]
struct Sources;
