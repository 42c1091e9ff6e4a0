//! Counts the words of files: an activity per file, a few of them at a time, and a workflow that adds up, tells how far it is,
//! and takes more files while it runs.
//!
//! The program has the whole command line of `shmworker`. In two terminals:
//!
//! ```text
//! cargo run --example temporal_worker -- run -w 2 -a 2 --dev-server --ui
//! cargo run --example temporal_worker -- starter -n 1 --input '["README.md", "Cargo.toml"]'
//! ```
//!
//! And while it runs, with Temporal's own tool and the workflow's id from http://127.0.0.1:8233:
//!
//! ```text
//! temporal workflow query  --workflow-id ID --type progress
//! temporal workflow signal --workflow-id ID --name add --input '"LICENSE-MIT"'
//! ```

use serde_json::{Value, json};
use shmworker::temporal::{
    Worker,
    activity::{Activities, ActivityContext, ActivityError, activity_definitions},
    workflow::Workflows,
};
use std::{collections::VecDeque, fs, process::ExitCode, time::Duration};
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{
    ActivityOptions, SyncWorkflowContext, WorkflowContext, WorkflowContextView, WorkflowResult, workflows::join_all,
};

/// Files under way at a time, of one workflow: each is an event in its history, and a thread in an activity process.
const AT_A_TIME: usize = 8;

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

/// The words of all files together. Its state is plain fields: after a death it is made again from the history.
#[workflow]
#[derive(Default)]
struct CountWords {
    waiting: VecDeque<String>,
    files: usize,
    words: u64,
}

#[workflow_methods]
impl CountWords {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, paths: Vec<String>) -> WorkflowResult<u64> {
        ctx.state_mut(|state| state.waiting.extend(paths));
        loop {
            let next: Vec<String> = ctx.state_mut(|state| {
                let n = state.waiting.len().min(AT_A_TIME);
                state.waiting.drain(..n).collect()
            });
            if next.is_empty() {
                return Ok(ctx.state(|state| state.words));
            }
            let count = |path| {
                let options = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(60)).build();
                ctx.execute_activity(Words::of_file, path, options)
            };
            for words in join_all(next.into_iter().map(count)).await {
                let words = words?;
                ctx.state_mut(|state| {
                    state.files += 1;
                    state.words += words;
                });
            }
        }
    }

    /// One more file, while others are being counted.
    #[signal]
    fn add(&mut self, _ctx: &mut SyncWorkflowContext<Self>, path: String) {
        self.waiting.push_back(path);
    }

    /// How far it is.
    #[query]
    fn progress(&self, _ctx: &WorkflowContextView) -> Value {
        json!({ "files": self.files, "words": self.words, "waiting": self.waiting.len() })
    }
}

fn main() -> ExitCode {
    let workflows = Workflows::new().register::<CountWords>();
    let activities = Activities::new().register_blocking_as(Words::of_file, count_words_of_file);
    Worker::new("words").workflows(workflows).activities(activities).main()
}
