//! The executor as a process sees it: one endpoint on the segment, through which it submits, claims and takes.

pub(crate) mod endpoint;
mod spin;

#[cfg(test)]
pub(crate) mod tests;
