//! Attempts out, heartbeats and ends in.

use super::{
    Bridge, Converter, activity, answer, go_on, is_local,
    routes::{Attempt, Pending, Routes},
    traces::Span,
    why_not,
    wire::{self, ACTIVITY_QUEUE, Kind, once},
};
use crate::{
    error::Corrupted,
    exec::endpoint::{Finished, To},
    lockfree::{table::Cancel, word::Outcome},
};
use prost::Message;
use std::sync::Arc;
use temporalio_common::protos::{
    coresdk::{
        ActivityHeartbeat, ActivityTaskCompletion,
        activity_result::{ActivityExecutionResult, activity_execution_result::Status},
        activity_task::{ActivityCancelReason, ActivityTask, Cancel as CancelTask, activity_task::Variant},
    },
    temporal::api::failure::v1::{ApplicationFailureInfo, Failure, failure::FailureInfo},
};
use temporalio_sdk_core::PollError;

impl Bridge {
    /// Takes the activities of Core's worker with this number.
    pub(super) async fn poll_activities(self: Arc<Self>, worker: usize) -> Result<(), PollError> {
        let Some(worker) = self.core.get().and_then(|core| core.workers().nth(worker)) else { return Ok(()) };
        loop {
            match worker.poll_activity_task().await {
                Ok(task) => {
                    let bridge = self.clone();
                    go_on(async move { bridge.route_activity(task).await });
                }
                Err(PollError::ShutDown) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    }

    pub(super) async fn route_activity(&self, mut task: ActivityTask) {
        let token = task.task_token.clone();
        if let Some(Variant::Cancel(cancel)) = &task.variant {
            let reason = cancel.reason();
            return self.cancel_activity(task, reason);
        }
        let mut span = self.traces.activity(&mut task);
        // A cancellation finds it from here on.
        self.routes().activities.insert(token.clone(), Attempt::default());
        let cancelled = |routes: &Routes| routes.activities.get(&token).and_then(|attempt| attempt.cancelled);
        let submitted = self
            .when_there_is_room(|| {
                // Whether there is room by now or not.
                if let Some(reason) = cancelled(&self.routes()) {
                    return Ok(Some(reason));
                }
                let draft = wire::draft(self.endpoint, &task)?;
                let mut routes = self.routes();
                if let Some(reason) = cancelled(&routes) {
                    return Ok(Some(reason));
                }
                let mut to = once(To::Queue(ACTIVITY_QUEUE), Kind::Activity, 0);
                to.trace = span.as_mut().map(|span| span.submitted());
                to.is_timed = to.trace.is_some();
                let pending = Pending::Activity { token: token.clone(), span: span.take() };
                let task = Some(routes.submit_draft(draft, to, pending)?);
                routes.activities.insert(token.clone(), Attempt { task, cancelled: None });
                Ok(None)
            })
            .await;
        let completion = match submitted {
            Ok(None) => return,
            Ok(Some(reason)) => cancelled_activity(token, Some(reason)),
            Err(e) => failed_activity(token, e.to_string()),
        };
        self.routes().activities.remove(&completion.task_token);
        if let Some(span) = span {
            span.end_activity(None, &completion);
        }
        self.complete_activity(completion);
    }

    /// Before it is submitted: by a mark. Before it starts: by its task word. After: by a message to the process that runs it.
    pub(super) fn cancel_activity(&self, task: ActivityTask, reason: ActivityCancelReason) {
        let mut routes = self.routes();
        let Some(attempt) = routes.activities.get_mut(&task.task_token) else { return };
        attempt.cancelled.get_or_insert(reason);
        let Some(id) = attempt.task else { return };
        let told = match self.endpoint.cancel(id) {
            Ok(Cancel::Running(name)) => {
                let to = once(To::Participant(name), Kind::CancelActivity, 0);
                routes.submit(self.endpoint, &task, to, Pending::Note).map(drop)
            }
            Ok(Cancel::Cancelled | Cancel::Over) => Ok(()),
            Err(damage) => Err(damage.into()),
        };
        drop(routes);
        // A cancellation is a wish: if the segment is full or the process dies, the activity's end is news enough.
        if let Err(e) = told {
            tracing::warn!("an activity's cancellation is lost: {e}");
        }
    }

    /// An activity process has answered, or will not.
    pub(super) fn finish_activity(
        &self,
        finished: &Finished<'_>,
        token: Vec<u8>,
        span: Option<Box<Span>>,
    ) -> Result<(), Corrupted> {
        let reason = self.routes().activities.get(&token).and_then(|attempt| attempt.cancelled);
        let completion = match (answer(finished, "activity")?, finished.outcome(), reason) {
            (Ok(Some(completion)), ..) => completion,
            (Err(why), ..) => failed_activity(token.clone(), why),
            // Before it began; or its process was killed over it, for that is the one limit that attempts have.
            (_, Outcome::Cancelled, _) | (_, Outcome::TimedOut, Some(_)) => cancelled_activity(token.clone(), reason),
            _ => failed_activity(token.clone(), why_not(finished, "activity")),
        };
        // What Core has heard of last it sends with a failure.
        let newest = if is_unfinished(&completion) { finished.last_checkpoint()? } else { None };
        let completion = sendable(completion, newest.map_or(0, <[u8]>::len));
        if let Some(span) = span {
            span.end_activity(Some((self.endpoint, finished)), &completion);
        }
        // Core sends the newest details with a failure: those that it hears of before. On their way here they may be behind.
        if let Some(newest) = newest {
            self.heartbeat(newest);
        }
        // Only now: from here on heartbeats of the attempt are late.
        self.routes().activities.remove(&token);
        self.complete_activity(completion);
        Ok(())
    }

    /// False: that is no heartbeat.
    pub(super) fn heartbeat(&self, payload: &[u8]) -> bool {
        if payload.len() > LARGEST {
            // Core would send these details with a failure too, which would be refused for them.
            tracing::warn!(
                "a heartbeat of {} bytes is lost, of which the server takes {LARGEST} at most",
                payload.len()
            );
            return true;
        }
        let Ok(heartbeat) = ActivityHeartbeat::decode(payload) else { return false };
        let worker = self.core.get().and_then(|core| core.activities());
        if let Some(worker) = worker
            && self.routes().activities.contains_key(&heartbeat.task_token)
        {
            // Core's call may spawn.
            let _runtime = self.handle.enter();
            worker.record_activity_heartbeat(heartbeat);
        }
        true
    }

    /// The user is in a hurry: every activity is told.
    pub(super) fn cancel_all(&self) {
        let tokens: Vec<_> = self.routes().activities.keys().cloned().collect();
        for task_token in tokens {
            let reason = ActivityCancelReason::WorkerShutdown;
            let variant = Some(Variant::Cancel(CancelTask { reason: reason.into(), ..Default::default() }));
            self.cancel_activity(ActivityTask { task_token, variant }, reason);
        }
    }

    fn complete_activity(&self, completion: ActivityTaskCompletion) {
        let Some(core) = self.core.get().cloned() else { return };
        self.handle.spawn(async move {
            let Some(worker) = core.activity_worker(&completion.task_token) else { return };
            if let Err(e) = worker.complete_activity_task(completion).await {
                tracing::warn!("complete an activity: {e}");
            }
        });
    }
}

/// Will there be another attempt perhaps, or does somebody look at the details of the last one?
fn is_unfinished(completion: &ActivityTaskCompletion) -> bool {
    let status = completion.result.as_ref().and_then(|result| result.status.as_ref());
    matches!(status, Some(Status::Failed(_) | Status::Cancelled(_)))
}

/// Cancelled before any handler could say something of it, or when none can any more.
fn cancelled_activity(task_token: Vec<u8>, reason: Option<ActivityCancelReason>) -> ActivityTaskCompletion {
    let result = Some(activity::cancelled(reason, is_local(&task_token), None, &Converter::default()));
    ActivityTaskCompletion { task_token, result }
}

/// What the server's gRPC takes at most, less room for what Core adds.
const LARGEST: usize = (4 << 20) - (64 << 10);

/// In place of an answer that no server takes, a failure that says so. Core fails what is past the limits of the namespace; but an
/// older server tells none, and what that refuses would hang until a timeout.
fn sendable(completion: ActivityTaskCompletion, details: usize) -> ActivityTaskCompletion {
    let len = completion.encoded_len() + if details <= LARGEST { details } else { 0 };
    // Those of local activities go into workflow tasks.
    if len <= LARGEST || is_local(&completion.task_token) {
        return completion;
    }
    // As the server says of what it does read: no further attempt would be smaller.
    let info =
        ApplicationFailureInfo { r#type: "PayloadsTooLarge".to_owned(), non_retryable: true, ..Default::default() };
    let message = format!("the activity answered with {len} bytes, of which the server takes {LARGEST} at most");
    let failure_info = Some(FailureInfo::ApplicationFailureInfo(info));
    let failure = Failure { message, failure_info, ..Default::default() };
    ActivityTaskCompletion { result: Some(ActivityExecutionResult::fail(failure)), ..completion }
}

/// A retryable failure: Temporal's retry policy decides what follows.
fn failed_activity(task_token: Vec<u8>, why: String) -> ActivityTaskCompletion {
    let failure = Failure::application_failure(why, false);
    ActivityTaskCompletion { task_token, result: Some(ActivityExecutionResult::fail(failure)) }
}
