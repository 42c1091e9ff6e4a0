//! The official Rust SDK's worker: one process, its own defaults, the same workflows. `--no-gzip`: no compression, as ours.

#![allow(dead_code, reason = "the macro adds a constant for callers, and workflows have theirs")]

use shmworker::temporal::sample::{ACTIVITY_TASK_QUEUE, ParallelizedWorkflow, WORKFLOW_TASK_QUEUE};
use shmworker_benches_temporal::workflows::{BurnWorkflow, TrivialWorkflow};
use std::error::Error;
use temporalio_client::{
    Client, ClientOptions, Connection, GrpcCompression, envconfig::LoadClientConfigProfileOptions,
};
use temporalio_macros::activities;
use temporalio_sdk::{
    Runtime, Worker, WorkerOptions,
    activities::{ActivityContext, ActivityError},
};

struct EchoActivities;

#[activities]
impl EchoActivities {
    #[activity(name = "echo_pid_activity")]
    async fn echo_pid_activity(_context: ActivityContext, input: String) -> Result<String, ActivityError> {
        Ok(format!("{input} | activity-pid:{}", std::process::id()))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let runtime = Runtime::from_current_tokio(Default::default())?;
    let (mut connection, client) = ClientOptions::load_from_config(LoadClientConfigProfileOptions::default())?;
    if std::env::args().any(|arg| arg == "--no-gzip") {
        connection.grpc_compression = GrpcCompression::None;
    }
    let client = Client::new(Connection::connect(connection).await?, client)?;
    let workflows = WorkerOptions::new(WORKFLOW_TASK_QUEUE)
        .register_workflow::<ParallelizedWorkflow>()?
        .register_workflow::<TrivialWorkflow>()?
        .register_workflow::<BurnWorkflow>()?
        .build();
    let activities = WorkerOptions::new(ACTIVITY_TASK_QUEUE).register_activities(EchoActivities).build();
    let mut workflows = Worker::new(&runtime, client.clone(), workflows)?;
    let mut activities = Worker::new(&runtime, client, activities)?;
    tokio::try_join!(workflows.run(), activities.run())?;
    Ok(())
}
