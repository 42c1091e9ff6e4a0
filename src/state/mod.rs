//! State that outlives its processes: a segment in a file, found again by the next start.

mod rebuild;
mod restart;

pub use restart::StateError;
pub(crate) use restart::{Wanted, open};
