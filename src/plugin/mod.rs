//! Handlers in C, and plug-ins: shared libraries that bring them.
//!
//! ```text
//!    abi        what C sees: contexts, hosts, codes
//!    call       one call of a handler, over whatever stands behind it
//!    host       what a plug-in is given when it registers
//!    library    loaded in the workers, looked at by a child of the coordinator
//! ```
//!
//! What stands behind a call is an `Attempt` (`call`): a task of a pool (`pool::plugin`), or an attempt of a Temporal activity
//! (`temporal::activity::plugin`). Nothing here knows which.

pub mod abi;
#[cfg(any(feature = "pool", feature = "temporal"))]
pub(crate) mod call;
#[cfg(any(feature = "pool", feature = "temporal"))]
mod host;
#[cfg(any(feature = "pool", feature = "temporal"))]
pub(crate) mod library;

#[cfg(any(feature = "pool", feature = "temporal"))]
pub use library::PluginError;
