//! Temporal workers in processes.

pub mod connect;
pub mod dev_server;
pub mod starter;
