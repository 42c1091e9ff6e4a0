//! One workflow per feature, in ordinary `#[workflow]` code, and the activities that they call.

use futures_util::future::poll_fn;
use shmworker::temporal::{
    activity::{
        Activities, ActivityContext, ActivityError, ApplicationFailure, TemporalSerializable, activity_definitions,
    },
    sample::ACTIVITY_TASK_QUEUE,
    workflow::Workflows,
};
use std::{env, error::Error, future, task::Poll, time::Duration};
use temporalio_common::{RetryPolicy, search_attributes::SearchAttributeKey};
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{
    ActivityExecutionError, ActivityOptions, CancelExternalWorkflowError, CancellableFuture, ChildWorkflowOptions,
    ChildWorkflowStartError, ContinueAsNewOptions, LocalActivityOptions, MemoValue, ParentClosePolicy,
    SignalWorkflowOptions, SyncWorkflowContext, TimerOptions, TimerResult, WaitConditionOptions,
    WorkflowCancellationToken, WorkflowContext, WorkflowContextView, WorkflowResult, WorkflowSignalError,
    WorkflowTermination, join,
};

type Refusal = Box<dyn Error + Send + Sync>;

pub(crate) const MOMENT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(3600);

pub(crate) fn workflows() -> Workflows {
    Workflows::new()
        .register::<Metronome>()
        .register::<Timers>()
        .register::<Inbox>()
        .register::<Account>()
        .register::<Parent>()
        .register::<Child>()
        .register::<Countdown>()
        .register::<Cancelled>()
        .register::<Patched>()
        .register::<Changed>()
        .register::<Locals>()
        .register::<Outsider>()
        .register::<Attributes>()
        .register::<Memos>()
        .register::<Dice>()
        .register::<Version>()
        .register::<AtHome>()
        .register::<Failing>()
}

// ---- activities ---------------------------------------------------------------------------------------------------------

pub(crate) struct Acts;

#[activity_definitions]
impl Acts {
    /// Fails until this attempt, which it returns.
    #[activity(name = "fail_until")]
    pub(crate) fn fail_until(attempt: u32) -> Result<u32, ActivityError> {
        unimplemented!()
    }
    /// Fails for good, with a type and details.
    #[activity(name = "refuse")]
    pub(crate) fn refuse(why: String) -> Result<(), ActivityError> {
        unimplemented!()
    }
    /// Heartbeats until it is cancelled.
    #[activity(name = "wait")]
    pub(crate) fn wait() -> Result<(), ActivityError> {
        unimplemented!()
    }
    /// Says nothing, and ends when it is cancelled.
    #[activity(name = "keep_silent")]
    pub(crate) fn keep_silent() -> Result<(), ActivityError> {
        unimplemented!()
    }
}

pub(crate) fn activities() -> Activities {
    Activities::new()
        .register_as(Acts::fail_until, |context: ActivityContext, attempt| async move {
            match context.info().attempt {
                now if now < attempt => Err(ApplicationFailure::new(format!("attempt {now} fails")).into()),
                now => Ok(now),
            }
        })
        .register_as(Acts::refuse, |_, why: String| async move { Err(refusal(why).into()) })
        .register_as(Acts::wait, |context: ActivityContext, ()| async move {
            while !context.is_cancelled() {
                // Core throttles them.
                context.heartbeat(&())?;
                let _ = tokio::time::timeout(MOMENT, context.cancelled()).await;
            }
            Err(ActivityError::cancelled())
        })
        .register_as(Acts::keep_silent, |context: ActivityContext, ()| async move {
            context.cancelled().await;
            Err(ActivityError::cancelled())
        })
}

/// An application failure with everything that one can have.
fn refusal(why: impl Into<Refusal> + TemporalSerializable + Clone + Send + Sync + 'static) -> ApplicationFailure {
    let details = why.clone();
    ApplicationFailure::builder(why).type_name("Refusal".into()).non_retryable(true).details(details).build()
}

fn remote(start_to_close: Duration) -> ActivityOptions {
    ActivityOptions::with_start_to_close_timeout(start_to_close).task_queue(ACTIVITY_TASK_QUEUE).build()
}

// ---- what keeps the cache busy ------------------------------------------------------------------------------------------

/// Ticks for ever: in a cache of one, it has every other run evicted.
#[workflow]
#[derive(Default)]
pub(crate) struct Metronome;

#[workflow_methods]
impl Metronome {
    #[run]
    pub(crate) async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<()> {
        for _ in 0..50 {
            if ctx.timer(4 * MOMENT).await == TimerResult::Cancelled {
                return Err(WorkflowTermination::cancelled());
            }
        }
        ctx.continue_as_new((), ContinueAsNewOptions::default())?;
        Ok(())
    }
}

// ---- timers -------------------------------------------------------------------------------------------------------------

#[workflow]
#[derive(Default)]
pub(crate) struct Timers;

#[workflow_methods]
impl Timers {
    #[run]
    pub(crate) async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<Vec<String>> {
        let zero = ctx.timer(Duration::ZERO).await;
        let (first, second) = join!(ctx.timer(MOMENT), ctx.timer(2 * MOMENT));
        let long = ctx.timer(TimerOptions::builder(LONG).summary("not to be waited for".into()).build());
        let short = ctx.timer(MOMENT).await;
        long.cancel();
        let unsent = ctx.timer(LONG);
        unsent.cancel();
        let results = [zero, first, second, short, long.await, unsent.await];
        Ok(results.iter().map(|result| format!("{result:?}")).collect())
    }
}

// ---- signals and queries ------------------------------------------------------------------------------------------------

/// Ends once it has as many letters as its input says.
#[workflow]
#[derive(Default)]
pub(crate) struct Inbox {
    letters: Vec<String>,
}

#[workflow_methods]
impl Inbox {
    #[run]
    pub(crate) async fn run(ctx: &mut WorkflowContext<Self>, letters: usize) -> WorkflowResult<Vec<String>> {
        // Seen by the test: each of these is a start or a replay.
        println!("inbox {} begins", ctx.workflow_id());
        ctx.wait_condition(|inbox| inbox.letters.len() >= letters).await?;
        Ok(ctx.state(|inbox| inbox.letters.clone()))
    }

    #[signal]
    pub(crate) fn put(&mut self, _ctx: &mut SyncWorkflowContext<Self>, letter: String) {
        self.letters.push(letter);
    }

    #[signal]
    pub(crate) async fn put_later(ctx: &mut WorkflowContext<Self>, letter: String) {
        ctx.timer(MOMENT).await;
        ctx.state_mut(|inbox| inbox.letters.push(letter));
    }

    #[query]
    pub(crate) fn letters(&self, _ctx: &WorkflowContextView) -> Vec<String> {
        self.letters.clone()
    }

    #[query]
    pub(crate) fn letter(&self, _ctx: &WorkflowContextView, number: usize) -> Result<String, Refusal> {
        self.letters.get(number).cloned().ok_or_else(|| format!("there is no letter {number}").into())
    }
}

// ---- updates ------------------------------------------------------------------------------------------------------------

#[workflow]
#[derive(Default)]
pub(crate) struct Account {
    balance: i64,
    closed: bool,
}

#[workflow_methods]
impl Account {
    #[run]
    pub(crate) async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<i64> {
        ctx.wait_condition(|account| account.closed).await?;
        Ok(ctx.state(|account| account.balance))
    }

    #[update_validator(deposit)]
    fn validate_deposit(&self, _ctx: &WorkflowContextView, amount: &i64) -> Result<(), Refusal> {
        if *amount > 0 { Ok(()) } else { Err(format!("{amount} is no deposit").into()) }
    }

    #[update]
    pub(crate) fn deposit(&mut self, _ctx: &mut SyncWorkflowContext<Self>, amount: i64) -> i64 {
        self.balance += amount;
        self.balance
    }

    #[update]
    pub(crate) async fn deposit_later(ctx: &mut WorkflowContext<Self>, amount: i64) -> i64 {
        ctx.timer(MOMENT).await;
        let attempt = ctx.execute_activity(Acts::fail_until, 1_u32, remote(LONG)).await.unwrap_or_default();
        ctx.state_mut(|account| {
            account.balance += amount * i64::from(attempt);
            account.balance
        })
    }

    #[update]
    pub(crate) fn withdraw(&mut self, _ctx: &mut SyncWorkflowContext<Self>, amount: i64) -> Result<i64, Refusal> {
        if amount > self.balance {
            return Err(format!("{} is less than {amount}", self.balance).into());
        }
        self.balance -= amount;
        Ok(self.balance)
    }

    #[signal]
    pub(crate) fn close(&mut self, _ctx: &mut SyncWorkflowContext<Self>) {
        self.closed = true;
    }
}

// ---- children -----------------------------------------------------------------------------------------------------------

/// Does with a child what its input says.
#[workflow]
#[derive(Default)]
pub(crate) struct Parent;

#[workflow_methods]
impl Parent {
    #[run]
    pub(crate) async fn run(ctx: &mut WorkflowContext<Self>, plan: String) -> WorkflowResult<String> {
        let options = |policy| {
            let id = format!("{}-child", ctx.workflow_id());
            ChildWorkflowOptions::builder().workflow_id(id).parent_close_policy(policy).build()
        };
        match &*plan {
            "result" => {
                let child = ctx.start_child_workflow(Child::run, "double 21", options(ParentClosePolicy::Terminate));
                Ok(child.await?.result().await?)
            }
            "failure" => {
                let child = ctx.start_child_workflow(Child::run, "fail", options(ParentClosePolicy::Terminate));
                Ok(child.await?.result().await?)
            }
            "cancel" => {
                let child = ctx.start_child_workflow(Child::run, "wait", options(ParentClosePolicy::Terminate)).await?;
                child.cancel("no longer wanted".into());
                match child.result().await {
                    Err(e) if e.as_cancelled().is_some() => Ok("cancelled".into()),
                    other => Ok(format!("{other:?}")),
                }
            }
            "signal" => {
                let child =
                    ctx.start_child_workflow(Inbox::run, 2_usize, options(ParentClosePolicy::Terminate)).await?;
                for letter in ["a", "b"] {
                    child.signal(Inbox::put, letter.into(), SignalWorkflowOptions::default()).await?;
                }
                Ok(child.result().await?.join(" "))
            }
            "taken" => {
                match ctx.start_child_workflow(Child::run, "wait", options(ParentClosePolicy::Terminate)).await {
                    Err(ChildWorkflowStartError::StartFailed { cause, .. }) => Ok(format!("{cause:?}")),
                    Err(e) => Ok(e.to_string()),
                    Ok(_) => Ok("started".into()),
                }
            }
            "abandon" | "terminate" | "request_cancel" => {
                let policy = match &*plan {
                    "abandon" => ParentClosePolicy::Abandon,
                    "terminate" => ParentClosePolicy::Terminate,
                    _ => ParentClosePolicy::RequestCancel,
                };
                ctx.start_child_workflow(Child::run, "wait", options(policy)).await?;
                Ok("left".into())
            }
            other => panic!("no plan {other:?}"),
        }
    }
}

#[workflow]
#[derive(Default)]
pub(crate) struct Child {
    go: bool,
}

#[workflow_methods]
impl Child {
    #[run]
    pub(crate) async fn run(ctx: &mut WorkflowContext<Self>, plan: String) -> WorkflowResult<String> {
        match plan.split_once(' ') {
            Some(("double", n)) => {
                ctx.timer(MOMENT).await;
                Ok((n.parse::<u32>().unwrap() * 2).to_string())
            }
            None if plan == "fail" => Err(refusal("the child refuses".to_owned()).into()),
            _ => {
                ctx.wait_condition(|child| child.go).await?;
                Ok("went".into())
            }
        }
    }

    #[signal]
    pub(crate) fn go(&mut self, _ctx: &mut SyncWorkflowContext<Self>) {
        self.go = true;
    }
}

// ---- continue-as-new ----------------------------------------------------------------------------------------------------

/// Continues as new until its first input is 0; the second grows by the run.
#[workflow]
#[derive(Default)]
pub(crate) struct Countdown;

#[workflow_methods]
impl Countdown {
    #[run]
    pub(crate) async fn run(
        ctx: &mut WorkflowContext<Self>,
        (left, mut runs): (u32, Vec<String>),
    ) -> WorkflowResult<Vec<String>> {
        ctx.timer(MOMENT).await;
        runs.push(ctx.run_id().to_owned());
        if left > 0 {
            ctx.continue_as_new((left - 1, runs.clone()), ContinueAsNewOptions::default())?;
        }
        Ok(runs)
    }
}

// ---- cancellation -------------------------------------------------------------------------------------------------------

#[workflow]
#[derive(Default)]
pub(crate) struct Cancelled;

#[workflow_methods]
impl Cancelled {
    #[run]
    pub(crate) async fn run(ctx: &mut WorkflowContext<Self>, plan: String) -> WorkflowResult<String> {
        match &*plan {
            "obeys" => {
                ctx.wait_condition(|_| false).await?;
                unreachable!()
            }
            "details" => {
                let reason = ctx.cancelled().await;
                Err(WorkflowTermination::cancelled_with_details(reason))
            }
            // A timer tells by a value.
            "ignores" => Ok(format!("{:?}", ctx.timer(LONG).await)),
            "cleans_up" => {
                let waited = ctx.execute_activity(Acts::wait, (), remote(LONG)).await;
                let Err(ActivityExecutionError::Cancelled(_)) = waited else { return Ok(format!("{waited:?}")) };
                let options = ActivityOptions::with_start_to_close_timeout(LONG)
                    .task_queue(ACTIVITY_TASK_QUEUE)
                    .cancellation_token(WorkflowCancellationToken::new())
                    .build();
                let attempt = ctx.execute_activity(Acts::fail_until, 1_u32, options).await?;
                Ok(format!("cleaned up at attempt {attempt}"))
            }
            // A scope of its own for two of three; nobody cancels the workflow.
            "scope" => {
                let scope = ctx.cancellation_token().child_token();
                let timer = ctx.timer(TimerOptions::builder(LONG).cancellation_token(scope.clone()).build());
                let options = WaitConditionOptions::builder().cancellation_token(scope.clone()).build();
                let condition = ctx.wait_condition_with_options(|_| false, options);
                let other = ctx.timer(MOMENT);
                scope.cancel_with_reason("enough");
                let (timer, condition, other) = join!(timer, condition, other);
                let reason = condition.unwrap_err().reason().unwrap_or_default().to_owned();
                Ok(format!("{timer:?} {reason} {other:?} {}", ctx.cancellation_token().is_cancelled()))
            }
            other => panic!("no plan {other:?}"),
        }
    }
}

// ---- code that changes --------------------------------------------------------------------------------------------------

/// Which release of the code this process runs. A process keeps it for life, so for a run it is code, not input.
fn release() -> String {
    env::var("RELEASE").unwrap_or_default()
}

/// One timer in the first release, two in later ones, by way of a patch.
#[workflow]
#[derive(Default)]
pub(crate) struct Patched {
    go: bool,
}

#[workflow_methods]
impl Patched {
    #[run]
    pub(crate) async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<String> {
        let two = match &*release() {
            "patched" => ctx.patched("two-timers"),
            "deprecated" => ctx.deprecate_patch("two-timers"),
            "new" => true,
            _ => false,
        };
        ctx.timer(MOMENT).await;
        if two {
            ctx.timer(2 * MOMENT).await;
        }
        ctx.wait_condition(|patched| patched.go).await?;
        Ok(if two { "two" } else { "one" }.into())
    }

    #[signal]
    pub(crate) fn go(&mut self, _ctx: &mut SyncWorkflowContext<Self>) {
        self.go = true;
    }
}

/// A timer in one release, an activity in another, and no patch; a third one kills its process.
#[workflow]
#[derive(Default)]
pub(crate) struct Changed {
    go: bool,
}

#[workflow_methods]
impl Changed {
    #[run]
    pub(crate) async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<String> {
        match &*release() {
            "aborts" => std::process::abort(),
            "changed" => drop(ctx.execute_activity(Acts::fail_until, 1_u32, remote(LONG)).await?),
            _ => drop(ctx.timer(MOMENT).await),
        }
        ctx.wait_condition(|changed| changed.go).await?;
        Ok("done".into())
    }

    #[signal]
    pub(crate) fn go(&mut self, _ctx: &mut SyncWorkflowContext<Self>) {
        self.go = true;
    }
}

// ---- local activities ---------------------------------------------------------------------------------------------------

#[workflow]
#[derive(Default)]
pub(crate) struct Locals;

#[workflow_methods]
impl Locals {
    #[run]
    pub(crate) async fn run(ctx: &mut WorkflowContext<Self>, plan: String) -> WorkflowResult<String> {
        let retry = |interval, attempts| {
            RetryPolicy::builder()
                .initial_interval(interval)
                .maximum_attempts(attempts)
                .backoff_coefficient(1.0)
                .build()
        };
        let local = |retry, threshold| {
            LocalActivityOptions::builder()
                .start_to_close_timeout(LONG)
                .retry_policy(retry)
                .timer_backoff_threshold(threshold)
                .build()
        };
        match &*plan {
            "retries" => {
                let options = local(retry(Duration::from_millis(1), 5), LONG);
                let attempt = ctx.execute_local_activity(Acts::fail_until, 3_u32, options).await?;
                Ok(format!("attempt {attempt}"))
            }
            // An interval above the threshold is waited for by a timer in the history.
            "backs_off" => {
                let options = local(retry(MOMENT, 5), Duration::from_millis(1));
                let attempt = ctx.execute_local_activity(Acts::fail_until, 2_u32, options).await?;
                Ok(format!("attempt {attempt}"))
            }
            "fails" => {
                let options = local(retry(Duration::from_millis(1), 2), LONG);
                Ok(ctx.execute_local_activity(Acts::fail_until, 9_u32, options).await?.to_string())
            }
            "cancel" => {
                let waiting = ctx.execute_local_activity(Acts::wait, (), local(retry(MOMENT, 1), LONG));
                ctx.timer(MOMENT).await;
                waiting.cancel();
                match waiting.await {
                    Err(ActivityExecutionError::Cancelled(_)) => Ok("cancelled".into()),
                    other => Ok(format!("{other:?}")),
                }
            }
            other => panic!("no plan {other:?}"),
        }
    }
}

// ---- other workflows ----------------------------------------------------------------------------------------------------

/// Signals or cancels a workflow that isn't its child.
#[workflow]
#[derive(Default)]
pub(crate) struct Outsider;

#[workflow_methods]
impl Outsider {
    #[run]
    pub(crate) async fn run(
        ctx: &mut WorkflowContext<Self>,
        (plan, workflow_id): (String, String),
    ) -> WorkflowResult<String> {
        let other = ctx.external_workflow(workflow_id, None);
        match &*plan {
            "signal" => match other.signal(Inbox::put, "from outside".into(), SignalWorkflowOptions::default()).await {
                Ok(()) => Ok("signalled".into()),
                Err(WorkflowSignalError::NotFound(_)) => Ok("not found".into()),
                Err(e) => Err(e.into()),
            },
            "cancel" => match other.cancel(Some("from outside".into())).await {
                Ok(_) => Ok("cancelled".into()),
                Err(CancelExternalWorkflowError::NotFound(_)) => Ok("not found".into()),
                Err(e) => Err(e.into()),
            },
            other => panic!("no plan {other:?}"),
        }
    }
}

// ---- attributes, memo, side data ----------------------------------------------------------------------------------------

pub(crate) const CITY: SearchAttributeKey<String> = SearchAttributeKey::keyword("City");
pub(crate) const FLOOR: SearchAttributeKey<i64> = SearchAttributeKey::int("Floor");

/// Moves to another city.
#[workflow]
#[derive(Default)]
pub(crate) struct Attributes;

#[workflow_methods]
impl Attributes {
    #[run]
    pub(crate) async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<Vec<String>> {
        let shown = || {
            let attributes = ctx.search_attributes();
            format!("{:?} {:?}", attributes.get(&CITY), attributes.get(&FLOOR))
        };
        let mut seen = vec![shown()];
        ctx.upsert_search_attributes([CITY.value_set("Turin".into()), FLOOR.value_set(3)]);
        seen.push(shown());
        ctx.timer(MOMENT).await;
        ctx.upsert_search_attributes([FLOOR.value_unset()]);
        seen.push(shown());
        Ok(seen)
    }
}

#[workflow]
#[derive(Default)]
pub(crate) struct Memos;

#[workflow_methods]
impl Memos {
    #[run]
    pub(crate) async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<Vec<String>> {
        let shown = || {
            let memo = ctx.memo();
            let mut keys: Vec<_> = memo.keys().map(str::to_owned).collect();
            keys.sort();
            keys.iter().map(|key| format!("{key}={}", memo.get::<String>(key).unwrap().unwrap())).collect::<Vec<_>>()
        };
        let mut seen = vec![shown().join(" ")];
        ctx.upsert_memo([("mood", Some(MemoValue::new("fine".to_owned()))), ("first", None)])?;
        seen.push(shown().join(" "));
        ctx.timer(MOMENT).await;
        seen.push(shown().join(" "));
        Ok(seen)
    }
}

/// What is random, and the time, before and after a timer: the same in each replay.
#[workflow]
#[derive(Default)]
pub(crate) struct Dice {
    seen: Vec<String>,
}

#[workflow_methods]
impl Dice {
    #[run]
    pub(crate) async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<Vec<String>> {
        for _ in 0..3 {
            let stream = ctx.random_stream("other");
            let roll = (ctx.random::<u64>(), ctx.uuid4(), stream.random::<u32>(), ctx.workflow_time().unwrap());
            ctx.state_mut(|dice| dice.seen.push(format!("{roll:?}")));
            ctx.timer(MOMENT).await;
        }
        Ok(ctx.state(|dice| dice.seen.clone()))
    }

    #[query]
    pub(crate) fn seen(&self, _ctx: &WorkflowContextView) -> Vec<String> {
        self.seen.clone()
    }
}

/// What workflow code sees of its worker's version.
#[workflow]
#[derive(Default)]
pub(crate) struct Version;

#[workflow_methods]
impl Version {
    #[run]
    pub(crate) async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<String> {
        Ok(format!("{:?}", ctx.current_deployment_version()))
    }
}

/// Does something only on the task queue that its input names.
#[workflow]
#[derive(Default)]
pub(crate) struct AtHome;

#[workflow_methods]
impl AtHome {
    #[run]
    pub(crate) async fn run(ctx: &mut WorkflowContext<Self>, home: String) -> WorkflowResult<bool> {
        let is_at_home = ctx.task_queue() == home;
        if is_at_home {
            ctx.timer(MOMENT).await;
        }
        Ok(is_at_home)
    }
}

// ---- failures -----------------------------------------------------------------------------------------------------------

/// Fails as its input says: the workflow, or only its task.
#[workflow]
#[derive(Default)]
pub(crate) struct Failing;

#[workflow_methods]
impl Failing {
    #[run]
    pub(crate) async fn run(ctx: &mut WorkflowContext<Self>, plan: String) -> WorkflowResult<String> {
        let once = || RetryPolicy::builder().maximum_attempts(1).build();
        match &*plan {
            "application" => Err(refusal("the workflow refuses".to_owned()).into()),
            "panic" => panic!("on purpose"),
            "forced" => {
                ctx.force_task_fail("as the code asked for");
                Ok(String::new())
            }
            "foreign_wake" => {
                poll_fn(|cx| {
                    cx.waker().wake_by_ref();
                    Poll::<()>::Pending
                })
                .await;
                Ok(String::new())
            }
            "silent" => {
                future::pending::<()>().await;
                Ok(String::new())
            }
            "activity_exhausted" => {
                let retry = RetryPolicy::builder().maximum_attempts(2).initial_interval(MOMENT).build();
                let options = ActivityOptions::with_start_to_close_timeout(LONG)
                    .task_queue(ACTIVITY_TASK_QUEUE)
                    .retry_policy(retry)
                    .build();
                Ok(ctx.execute_activity(Acts::fail_until, 9_u32, options).await?.to_string())
            }
            "activity_refused" => {
                ctx.execute_activity(Acts::refuse, "the activity refuses".to_owned(), remote(LONG)).await?;
                Ok(String::new())
            }
            "activity_cancelled" => {
                let activity = ctx.execute_activity(Acts::wait, (), remote(LONG));
                ctx.timer(MOMENT).await;
                activity.cancel();
                activity.await?;
                Ok(String::new())
            }
            "start_to_close" => {
                let options = ActivityOptions::with_start_to_close_timeout(4 * MOMENT)
                    .task_queue(ACTIVITY_TASK_QUEUE)
                    .retry_policy(once())
                    .build();
                ctx.execute_activity(Acts::keep_silent, (), options).await?;
                Ok(String::new())
            }
            "schedule_to_start" => {
                let options = ActivityOptions::with_start_to_close_timeout(LONG)
                    .schedule_to_start_timeout(4 * MOMENT)
                    .task_queue("nobody-serves-this")
                    .build();
                ctx.execute_activity(Acts::keep_silent, (), options).await?;
                Ok(String::new())
            }
            // The server takes it as the time in which it has to start, too: on a busy machine that may take longer than the others have.
            "schedule_to_close" => {
                let options = ActivityOptions::with_schedule_to_close_timeout(40 * MOMENT)
                    .task_queue(ACTIVITY_TASK_QUEUE)
                    .build();
                ctx.execute_activity(Acts::keep_silent, (), options).await?;
                Ok(String::new())
            }
            "heartbeat" => {
                let options = ActivityOptions::with_start_to_close_timeout(LONG)
                    .heartbeat_timeout(8 * MOMENT)
                    .task_queue(ACTIVITY_TASK_QUEUE)
                    .retry_policy(once())
                    .build();
                ctx.execute_activity(Acts::keep_silent, (), options).await?;
                Ok(String::new())
            }
            other => panic!("no plan {other:?}"),
        }
    }
}
