//! What workers run, beside the sample's `ParallelizedWorkflow`: the same types for ours and for the official SDK's.

#![allow(missing_docs, reason = "the macros add public constants without documentation")]

use nix::time::{ClockId, clock_gettime};
use std::time::Duration;
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{WorkflowContext, WorkflowResult};

/// Returns at once.
#[workflow]
#[derive(Default)]
pub struct TrivialWorkflow;

#[workflow_methods]
impl TrivialWorkflow {
    #[run]
    pub async fn run(_ctx: &mut WorkflowContext<Self>) -> WorkflowResult<()> {
        Ok(())
    }
}

/// Has its thread work for as many milliseconds of CPU time as its input says.
#[workflow]
#[derive(Default)]
pub struct BurnWorkflow;

#[workflow_methods]
impl BurnWorkflow {
    #[run]
    pub async fn run(_ctx: &mut WorkflowContext<Self>, millis: u64) -> WorkflowResult<()> {
        // Workflow code must not ask for the time in earnest. Here no command depends on it.
        let end = cpu_time() + Duration::from_millis(millis);
        while cpu_time() < end {}
        Ok(())
    }
}

fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has this clock").into()
}
