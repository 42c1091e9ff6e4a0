//! Temporal workers in processes.

pub mod activity;
