//! Temporal workers in processes.

mod panics;
mod seam;

pub mod sample;
pub mod workflow;
