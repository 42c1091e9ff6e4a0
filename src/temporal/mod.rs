//! Temporal workers in processes.
