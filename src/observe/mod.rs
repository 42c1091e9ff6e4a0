//! Looking at a pool from outside: what stands in its segment, and what `/proc` says of its processes.
//!
//! Who looks maps the segment read-only, takes no participant's seat, and waits for nobody: so a pool can be looked at whose
//! processes are all stopped, or dead. What it costs them is that the cache lines which it reads have to come back.

#[cfg(feature = "cli")]
pub(crate) mod autopsy;
#[cfg(feature = "cli")]
pub(crate) mod find;
#[cfg(feature = "metrics")]
pub(crate) mod metrics;
#[cfg(feature = "cli")]
pub(crate) mod rates;
pub(crate) mod sample;
#[cfg(feature = "metrics")]
pub(crate) mod serve;
