//! Counts the words of files: one activity per file, all of them at once, and a workflow that adds up.
//!
//! The program has the whole command line of `shmworker`. In two terminals:
//!
//! ```text
//! cargo run --example temporal_worker -- run -w 2 -a 2
//! cargo run --example temporal_worker -- starter -n 1 --workflow CountWords --input '["README.md", "Cargo.toml"]'
//! ```

use shmworker::temporal::{
    Worker,
    activity::{Activities, ActivityContext, ActivityError, activity_definitions},
    workflow::Workflows,
};
use std::{fs, process::ExitCode, time::Duration};
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{ActivityOptions, WorkflowContext, WorkflowResult, workflows::join_all};

/// What workflows know of the activity: its name, its input and its output.
struct Words;

#[activity_definitions]
impl Words {
    #[activity(name = "count_words_of_file")]
    fn of_file(path: String) -> Result<u64, ActivityError> {
        unimplemented!() // only the signature counts; what runs is below
    }
}

/// What runs. It blocks while it reads, so it is registered as a handler that gets a thread of its own.
fn count_words_of_file(context: ActivityContext, path: String) -> Result<u64, ActivityError> {
    // `run` shows both lines with the label of this process.
    eprintln!("reading {path}, attempt {}", context.info().attempt);
    let words = fs::read_to_string(&path)?.split_whitespace().count() as u64;
    println!("{path} has {words} words");
    Ok(words)
}

/// The words of all files together.
#[workflow]
#[derive(Default)]
struct CountWords;

#[workflow_methods]
impl CountWords {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, paths: Vec<String>) -> WorkflowResult<u64> {
        let count = |path| {
            let options = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(60));
            ctx.execute_activity(Words::of_file, path, options.task_queue(ACTIVITY_TASK_QUEUE).build())
        };
        let mut sum = 0;
        for words in join_all(paths.into_iter().map(count)).await {
            sum += words?;
        }
        Ok(sum)
    }
}

fn main() -> ExitCode {
    let workflows = Workflows::new().register::<CountWords>();
    let activities = Activities::new().register_blocking_as(Words::of_file, count_words_of_file);
    Worker::new(WORKFLOW_TASK_QUEUE).workflows(workflows).activities(activities).main()
}
