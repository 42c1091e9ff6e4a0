//! A long activity: the sum of 1,000,000 records, in chunks, whose next attempt goes on where the last one was.
//!
//! ```text
//! cargo run --example long_activity -- run -w 1 -a 1
//! cargo run --example long_activity -- starter -n 1 --workflow SumRecords --input '{"records": 1000000}'
//! ```
//!
//! Kill the process `activity-worker:0` while it counts, with `kill -9`: what was a chunk's work is done again, no more. Or
//! press Ctrl-C and start the worker again.

use serde::{Deserialize, Serialize};
use shmworker::temporal::{
    Worker,
    activity::{Activities, ActivityContext, ActivityError, RetryPolicy, activity_definitions},
    workflow::Workflows,
};
use std::{process::ExitCode, thread, time::Duration};
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{ActivityOptions, WorkflowContext, WorkflowResult};

/// What there is to do.
#[derive(Serialize, Deserialize)]
struct Job {
    records: u64,
    /// Records that are fetched at a time.
    #[serde(default = "a_chunk")]
    chunk: u64,
    /// How long the source takes for that.
    #[serde(default = "a_while")]
    fetch_ms: u64,
}

fn a_chunk() -> u64 {
    10_000
}

fn a_while() -> u64 {
    50
}

/// How far it has come: all that the next attempt has to know.
#[derive(Default, Serialize, Deserialize)]
struct Progress {
    done: u64,
    sum: u64,
}

/// The result.
#[derive(Serialize, Deserialize)]
struct Sum {
    sum: u64,
    attempts: u32,
}

struct Records;

#[activity_definitions]
impl Records {
    #[activity(name = "sum_records")]
    fn sum(job: Job) -> Result<Sum, ActivityError> {
        unimplemented!() // only the signature counts; what runs is below
    }
}

/// It computes, so it gets a thread of its own.
fn sum_records(context: ActivityContext, job: Job) -> Result<Sum, ActivityError> {
    let attempts = context.info().attempt;
    let mut progress = context.last_heartbeat::<Progress>()?.unwrap_or_default();
    while progress.done < job.records {
        if context.is_cancelled() {
            return Err(ActivityError::cancelled());
        }
        // The next attempt may go on elsewhere at once: better than to use up the grace.
        if context.is_worker_shutdown() {
            let done = progress.done;
            return Err(anyhow::anyhow!("the worker ends: {done} of {} records are done", job.records).into());
        }
        let end = job.records.min(progress.done + job.chunk);
        println!("attempt {attempts}: records {} to {end}", progress.done);
        progress.sum += fetch(progress.done..end, job.fetch_ms).iter().map(|line| amount(line)).sum::<u64>();
        progress.done = end;
        context.heartbeat(&progress)?;
    }
    Ok(Sum { sum: progress.sum, attempts })
}

/// Stands for a file, a table, or somebody else's service.
fn fetch(records: std::ops::Range<u64>, fetch_ms: u64) -> Vec<String> {
    thread::sleep(Duration::from_millis(fetch_ms));
    records.map(|n| format!("{n};{}", n * 7919 % 1000)).collect()
}

fn amount(line: &str) -> u64 {
    line.split_once(';').and_then(|(_, amount)| amount.parse().ok()).unwrap_or(0)
}

#[workflow]
#[derive(Default)]
struct SumRecords;

#[workflow_methods]
impl SumRecords {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, job: Job) -> WorkflowResult<Sum> {
        // However long it takes, it says in each 10 seconds that it goes on; by that it hears of a cancellation, too.
        let options = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(3600))
            .heartbeat_timeout(Duration::from_secs(10))
            .retry_policy(RetryPolicy::builder().initial_interval(Duration::from_millis(100)).build())
            .build();
        Ok(ctx.execute_activity(Records::sum, job, options).await?)
    }
}

fn main() -> ExitCode {
    let workflows = Workflows::new().register::<SumRecords>();
    let activities = Activities::new().register_blocking_as(Records::sum, sum_records);
    Worker::new("records").workflows(workflows).activities(activities).main()
}
