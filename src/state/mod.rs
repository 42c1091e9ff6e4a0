//! State that outlives its processes: a segment in a file, found again by the next start, and the journal of each client beside it.

pub(crate) mod apply;
pub(crate) mod journal;
pub(crate) mod lines;
mod rebuild;
mod restart;
pub(crate) mod survey;

pub use restart::StateError;
pub(crate) use restart::{Wanted, adopt, open, open_journal};
