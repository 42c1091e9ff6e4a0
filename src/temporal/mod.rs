//! Temporal workers in processes: Core in one, workflow and activity code in others, protobuf messages in shared memory
//! between them.
//!
//! A user's program says what there is ([`workflow::Workflows`], [`activity::Activities`]) and hands it to
//! [`worker_pool::run`], or to the command line.
//!
//! ```text
//!   Temporal server ═══ bridge ═══ segment ═══ workflow processes, activity processes
//!                    (Core, tokio)             (no connection, no Core)
//! ```

pub mod activity;
mod bridge;
pub mod connect;
pub mod dev_server;
mod panics;
pub mod sample;
mod seam;
pub mod starter;
mod wire;
mod worker;
pub mod worker_pool;
pub mod workflow;
