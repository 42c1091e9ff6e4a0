//! State that outlives processes: a segment in a file, and the journal of each client beside it.

#[cfg(feature = "cli")]
pub(crate) mod apply;
pub(crate) mod journal;
#[cfg(feature = "cli")]
pub(crate) mod lines;
#[cfg(feature = "cli")]
pub(crate) mod survey;
