//! Temporal workers in processes: Core in one, workflow and activity code in others, protobuf messages in shared memory
//! between them.
//!
//! A user's program says what there is ([`workflow::Workflows`], [`activity::Activities`]), makes a [`Worker`] of it, and
//! hands over to the command line ([`Worker::main`]) or serves itself ([`Worker::run`]).
//!
//! ```text
//!   Temporal server ═══ bridge ═══ segment ═══ workflow processes, activity processes
//!                    (Core, tokio)             (no connection, no Core)
//! ```

pub mod activity;
pub(crate) mod bridge;
mod builder;
#[cfg(feature = "otlp")]
mod carrier;
pub mod connect;
mod converter;
pub mod dev_server;
mod foreign;
pub(crate) mod history;
mod panics;
mod process;
pub(crate) mod report;
pub mod sample;
mod seam;
pub mod starter;
#[cfg_attr(not(feature = "pool"), path = "no_upgrade.rs")]
pub(crate) mod upgrade;
mod user_code;
mod wire;
pub(crate) mod worker_pool;
pub mod workflow;

pub use builder::{
    DataConverter, PollerBehavior, RunError, Tuner, VersioningBehavior, Worker, WorkerDeploymentOptions,
    WorkerDeploymentVersion, WorkflowErrorType, WorkflowInterceptor, WorkflowInterceptorConstructor,
};
pub(crate) use user_code::UserCode;
