//! Our worker: `shmworker` with the workflows of the comparison.

use shmworker::temporal::sample;
use shmworker_benches_temporal::workflows::{BurnWorkflow, TrivialWorkflow};
use std::process::ExitCode;

fn main() -> ExitCode {
    let workflows = sample::workflows().register::<TrivialWorkflow>().register::<BurnWorkflow>();
    sample::worker().workflows(workflows).main()
}
