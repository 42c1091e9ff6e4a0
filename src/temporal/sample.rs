//! The sample that `shmworker run` serves, and two workflows for watching deaths and drains.
//!
//! They return the ids of the processes that ran them, which workflow code must not do in earnest: it differs from
//! replay to replay. Here it is the point, since it shows where a run began, where its activity ran and where it ended.

#![allow(missing_docs, reason = "the macros add public constants without documentation")]

use super::{Worker, activity::Activities, workflow::Workflows};
use std::{process, thread, time::Duration};
use temporalio_common::ActivityError;
use temporalio_macros::{activity_definitions, workflow, workflow_methods};
use temporalio_workflow::{
    ActivityExecutionError, ActivityOptions, TimerResult, WorkflowContext, WorkflowResult, WorkflowTermination,
};

/// The task queue of the sample workflows.
pub const WORKFLOW_TASK_QUEUE: &str = "workflow-task-queue";
/// The task queue of [`EchoActivities::echo_pid_activity`].
pub const ACTIVITY_TASK_QUEUE: &str = "activity-task-queue";

/// The sample worker, with a task queue for workflows and one for activities.
pub fn worker() -> Worker {
    let worker = Worker::new(WORKFLOW_TASK_QUEUE).activity_task_queue(ACTIVITY_TASK_QUEUE);
    worker.workflows(workflows()).activities(activities())
}

/// The sample workflows, by name.
pub fn workflows() -> Workflows {
    Workflows::new().register::<ParallelizedWorkflow>().register::<TimerWorkflow>().register::<SpinWorkflow>()
}

/// The sample activity: `<input> | activity-pid:<pid>`.
pub fn activities() -> Activities {
    Activities::new().register_as(EchoActivities::echo_pid_activity, |_ctx, input| async move { Ok(echo_pid(input)) })
}

pub(super) fn echo_pid(input: String) -> String {
    format!("{input} | activity-pid:{}", process::id())
}

/// The activity as workflows call it; [`activities`] has what runs.
pub struct EchoActivities;

#[activity_definitions]
impl EchoActivities {
    /// Sends `input` to an activity process and gives it back with that process's id.
    #[activity(name = "echo_pid_activity")]
    pub fn echo_pid_activity(input: String) -> Result<String, ActivityError> {
        unimplemented!() // only the signature counts; `echo_pid` is what runs
    }
}

/// Runs one activity: `wf-starting-pid:<pid> | activity-pid:<pid> | wf-ending-pid:<pid>`.
#[workflow]
#[derive(Default)]
pub struct ParallelizedWorkflow;

#[workflow_methods]
impl ParallelizedWorkflow {
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<String> {
        let echoed = echo(ctx).await?;
        Ok(format!("{echoed} | {}", ending()))
    }
}

/// [`ParallelizedWorkflow`] with a timer, of as many milliseconds as its input says, between the activity and the end:
/// its run stays parked in a workflow process meanwhile.
#[workflow]
#[derive(Default)]
pub struct TimerWorkflow;

#[workflow_methods]
impl TimerWorkflow {
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>, millis: u64) -> WorkflowResult<String> {
        let echoed = echo(ctx).await?;
        sleep(ctx, millis).await?;
        Ok(format!("{echoed} | {}", ending()))
    }
}

/// Blocks its process inside the first activation for as many milliseconds as its input says, as no workflow should,
/// then waits for a timer of 100 ms: `wf-starting-pid:<pid> | wf-ending-pid:<pid>`.
#[workflow]
#[derive(Default)]
pub struct SpinWorkflow;

#[workflow_methods]
impl SpinWorkflow {
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>, millis: u64) -> WorkflowResult<String> {
        let starting = starting();
        thread::sleep(Duration::from_millis(millis));
        sleep(ctx, 100).await?;
        Ok(format!("{starting} | {}", ending()))
    }
}

fn starting() -> String {
    format!("wf-starting-pid:{}", process::id())
}

fn ending() -> String {
    format!("wf-ending-pid:{}", process::id())
}

async fn echo<W>(ctx: &WorkflowContext<W>) -> Result<String, ActivityExecutionError> {
    let options = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(10));
    let options = options.task_queue(ACTIVITY_TASK_QUEUE).build();
    ctx.execute_activity(EchoActivities::echo_pid_activity, starting(), options).await
}

/// A timer that ends the workflow as cancelled if it is cancelled: the SDK's own tells by a value, easily overlooked.
async fn sleep<W>(ctx: &WorkflowContext<W>, millis: u64) -> Result<(), WorkflowTermination> {
    match ctx.timer(Duration::from_millis(millis)).await {
        TimerResult::Fired => Ok(()),
        TimerResult::Cancelled => Err(WorkflowTermination::cancelled()),
    }
}
