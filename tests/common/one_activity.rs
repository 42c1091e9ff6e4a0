//! What tests share whose workflow runs one activity as its input says.

use shmworker::temporal::activity::{ActivityDefinition, RetryPolicy};
use std::{marker::PhantomData, time::Duration};
use temporalio_common::data_converters::{TemporalDeserializable, TemporalSerializable};
use temporalio_workflow::{ActivityCancellationType, ActivityOptions};

/// An activity that is known by its name alone, and takes and gives such values.
pub(crate) struct Named<T>(String, PhantomData<fn() -> T>);

impl<T> Named<T> {
    pub(crate) fn new(name: String) -> Named<T> {
        Named(name, PhantomData)
    }
}

impl<T: TemporalDeserializable + TemporalSerializable + 'static> ActivityDefinition for Named<T> {
    type Input = T;
    type Output = T;

    fn name(&self) -> &str {
        &self.0
    }
}

/// With a retry each 100 ms. `maximum_attempts`: 0 for as many as it takes.
pub(crate) fn options(task_queue: &str, heartbeat_timeout: Duration, maximum_attempts: u32) -> ActivityOptions {
    let policy = RetryPolicy::builder()
        .initial_interval(Duration::from_millis(100))
        .backoff_coefficient(1.0)
        .maximum_attempts(maximum_attempts)
        .build();
    ActivityOptions::with_start_to_close_timeout(Duration::from_secs(120))
        .heartbeat_timeout(heartbeat_timeout)
        .retry_policy(policy)
        .cancellation_type(ActivityCancellationType::WaitCancellationCompleted)
        .task_queue(task_queue)
        .build()
}
