//! The worker of the README, line by line: a workflow, and an activity that it calls.

use shmworker::temporal::activity::{Activities, ActivityContext, ActivityError, activity_definitions};
use shmworker::temporal::{Worker, workflow::Workflows};
use std::{process::ExitCode, time::Duration};
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{ActivityOptions, WorkflowContext, WorkflowResult};

struct Calls;

#[activity_definitions]
impl Calls {
    #[activity]
    fn greet(name: String) -> Result<String, ActivityError> {
        unimplemented!() // only the signature counts: it is what the workflow knows of the activity
    }
}

async fn greet(_context: ActivityContext, name: String) -> Result<String, ActivityError> {
    Ok(format!("Hello, {name}! This is process {}.", std::process::id()))
}

#[workflow]
#[derive(Default)]
struct Greeting;

#[workflow_methods]
impl Greeting {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, name: String) -> WorkflowResult<String> {
        let options = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(10)).build();
        Ok(ctx.execute_activity(Calls::greet, name, options).await?)
    }
}

fn main() -> ExitCode {
    let workflows = Workflows::new().register::<Greeting>();
    let activities = Activities::new().register_as(Calls::greet, greet);
    Worker::new("greetings").workflows(workflows).activities(activities).main()
}
