//! Activations built by hand, as Core would send them, against workflows that each show one thing.

use super::*;
use crate::temporal::sample::{self, ACTIVITY_TASK_QUEUE, ParallelizedWorkflow, TimerWorkflow};
use std::{
    cell::Cell,
    error::Error,
    future::poll_fn,
    process,
    task::{Poll, Waker},
    thread,
    time::Duration,
};
use temporalio_common::{
    protos::{
        coresdk::{
            AsJsonPayloadExt, FromJsonPayloadExt,
            activity_result::{ActivityResolution, Success, activity_resolution::Status as Resolved},
            workflow_activation::{
                CancelWorkflow, DoUpdate, FireTimer, QueryWorkflow, RemoveFromCache, ResolveActivity, SignalWorkflow,
                WorkflowActivationJob,
            },
            workflow_commands::{query_result, update_response::Response, workflow_command::Variant as Command},
        },
        temporal::api::{common::v1::Payload, enums::v1::WorkflowTaskFailedCause as Cause, failure::v1::Failure},
    },
    search_attributes::SearchAttributeKey,
};
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{
    ContinueAsNewOptions, SyncWorkflowContext, WorkflowContext, WorkflowContextView, WorkflowResult,
};

// ---- What is run ----------------------------------------------------------------------------------------------------

/// Ends once its counter has reached the input.
#[workflow]
#[derive(Default)]
struct Counter {
    count: i32,
}

#[workflow_methods]
impl Counter {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, target: i32) -> WorkflowResult<i32> {
        ctx.wait_condition(|counter| counter.count >= target).await?;
        Ok(ctx.state(|counter| counter.count))
    }

    #[signal]
    fn add(&mut self, _ctx: &mut SyncWorkflowContext<Self>, n: i32) {
        self.count += n;
    }

    #[signal]
    async fn add_later(ctx: &mut WorkflowContext<Self>, n: i32) {
        ctx.timer(Duration::from_secs(1)).await;
        ctx.state_mut(|counter| counter.count += n);
    }

    #[signal]
    async fn trip(ctx: &mut WorkflowContext<Self>) {
        ctx.timer(Duration::from_secs(1)).await;
        panic!("tripped");
    }

    #[query]
    fn get(&self, _ctx: &WorkflowContextView) -> i32 {
        self.count
    }

    #[query]
    fn divide(&self, _ctx: &WorkflowContextView, by: i32) -> i32 {
        self.count / by
    }

    #[update_validator(set)]
    fn validate_set(&self, _ctx: &WorkflowContextView, n: &i32) -> Result<(), Box<dyn Error + Send + Sync>> {
        if *n < 0 { Err("must not be negative".into()) } else { Ok(()) }
    }

    #[update]
    fn set(&mut self, _ctx: &mut SyncWorkflowContext<Self>, n: i32) -> i32 {
        std::mem::replace(&mut self.count, n)
    }

    #[update]
    async fn set_later(ctx: &mut WorkflowContext<Self>, n: i32) -> i32 {
        ctx.timer(Duration::from_secs(1)).await;
        ctx.state_mut(|counter| std::mem::replace(&mut counter.count, n))
    }

    #[update]
    fn refuse(&mut self, _ctx: &mut SyncWorkflowContext<Self>) -> Result<(), Box<dyn Error + Send + Sync>> {
        Err("changed my mind".into())
    }
}

thread_local! {
    static MAIN_POLLS: Cell<u32> = const { Cell::new(0) };
    static DROPPED: Cell<u32> = const { Cell::new(0) };
    static LEAKED_WAKER: Cell<Option<Waker>> = const { Cell::new(None) };
}

/// Never ends; counts how often it is polled and how many of it were dropped.
#[workflow]
#[derive(Default)]
struct Parked;

impl Drop for Parked {
    fn drop(&mut self) {
        DROPPED.set(DROPPED.get() + 1);
    }
}

#[workflow_methods]
impl Parked {
    #[run]
    async fn run(_ctx: &mut WorkflowContext<Self>) -> WorkflowResult<()> {
        poll_fn(|cx| {
            MAIN_POLLS.set(MAIN_POLLS.get() + 1);
            LEAKED_WAKER.set(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await
    }

    #[query]
    fn one(&self, _ctx: &WorkflowContextView) -> i32 {
        1
    }
}

/// Starts a timer, then panics.
#[workflow]
#[derive(Default)]
struct Panicking;

#[workflow_methods]
impl Panicking {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<()> {
        let _timer = ctx.timer(Duration::from_secs(1));
        panic!("on purpose")
    }
}

/// Panics before there is a run.
#[workflow]
struct PanicsOnInit;

impl Default for PanicsOnInit {
    fn default() -> Self {
        panic!("no start")
    }
}

#[workflow_methods]
impl PanicsOnInit {
    #[run]
    async fn run(_ctx: &mut WorkflowContext<Self>) -> WorkflowResult<()> {
        Ok(())
    }
}

/// Panics when its run is dropped.
#[workflow]
#[derive(Default)]
struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        panic!("no end")
    }
}

#[workflow_methods]
impl PanicsOnDrop {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<()> {
        Ok(ctx.wait_condition(|_| false).await?)
    }
}

/// Woken by itself instead of the SDK, as futures of other libraries are.
#[workflow]
#[derive(Default)]
struct SelfWaking;

#[workflow_methods]
impl SelfWaking {
    #[run]
    async fn run(_ctx: &mut WorkflowContext<Self>) -> WorkflowResult<()> {
        poll_fn(|cx| {
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }
}

/// Its main routine and its handler take turns: each waits for what the other one does.
#[workflow]
#[derive(Default)]
struct Turns {
    taken: u32,
}

#[workflow_methods]
impl Turns {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<u32> {
        for turn in [1, 3] {
            ctx.wait_condition(|turns| turns.taken == turn).await?;
            ctx.state_mut(|turns| turns.taken += 1);
        }
        Ok(ctx.state(|turns| turns.taken))
    }

    #[signal]
    async fn play(ctx: &mut WorkflowContext<Self>) {
        for turn in [0, 2] {
            let _ = ctx.wait_condition(|turns| turns.taken == turn).await;
            ctx.state_mut(|turns| turns.taken += 1);
        }
    }
}

/// Continues as new until its input is 0.
#[workflow]
#[derive(Default)]
struct Countdown;

#[workflow_methods]
impl Countdown {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, left: u32) -> WorkflowResult<String> {
        if left > 0 {
            ctx.continue_as_new(left - 1, ContinueAsNewOptions::default())?;
        }
        Ok("the end".into())
    }
}

/// Sets one search attribute and unsets another.
#[workflow]
#[derive(Default)]
struct Attributes;

#[workflow_methods]
impl Attributes {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<()> {
        let (city, floor) = (SearchAttributeKey::<String>::keyword("City"), SearchAttributeKey::<i64>::int("Floor"));
        ctx.upsert_search_attributes([city.value_set("Turin".into()), floor.value_unset()]);
        Ok(())
    }
}

// ---- How it is run --------------------------------------------------------------------------------------------------

const RUN: &str = "run-1";

fn host() -> WorkflowHost {
    let workflows = sample::workflows()
        .register::<Counter>()
        .register::<Parked>()
        .register::<Panicking>()
        .register::<PanicsOnInit>()
        .register::<PanicsOnDrop>()
        .register::<SelfWaking>()
        .register::<Turns>()
        .register::<Countdown>()
        .register::<Attributes>();
    WorkflowHost::new(workflows, "default".into(), sample::WORKFLOW_TASK_QUEUE.into())
}

fn payload<T>(value: T) -> Vec<Payload>
where
    T: AsJsonPayloadExt,
{
    vec![value.as_json_payload().unwrap()]
}

fn decoded<T: FromJsonPayloadExt>(payload: &Option<Payload>) -> T {
    T::from_json_payload(payload.as_ref().unwrap()).unwrap()
}

fn start(workflow_type: &str, arguments: Vec<Payload>) -> Variant {
    Variant::InitializeWorkflow(InitializeWorkflow {
        workflow_type: workflow_type.into(),
        workflow_id: "workflow-1".into(),
        arguments,
        ..Default::default()
    })
}

fn fire(seq: u32) -> Variant {
    Variant::FireTimer(FireTimer { seq })
}

fn signal(name: &str, input: Vec<Payload>) -> Variant {
    Variant::SignalWorkflow(SignalWorkflow { signal_name: name.into(), input, ..Default::default() })
}

fn query(name: &str, arguments: Vec<Payload>) -> Variant {
    Variant::QueryWorkflow(QueryWorkflow {
        query_id: format!("query-{name}"),
        query_type: name.into(),
        arguments,
        ..Default::default()
    })
}

fn update(name: &str, input: Vec<Payload>) -> Variant {
    Variant::DoUpdate(DoUpdate {
        id: name.into(),
        protocol_instance_id: format!("update-{name}"),
        name: name.into(),
        input,
        run_validator: true,
        ..Default::default()
    })
}

fn eviction() -> Variant {
    Variant::RemoveFromCache(RemoveFromCache::default())
}

fn send(host: &mut WorkflowHost, run_id: &str, jobs: impl IntoIterator<Item = Variant>) -> Status {
    let jobs = jobs.into_iter().map(|job| WorkflowActivationJob { variant: Some(job) }).collect();
    let completion = host.handle(WorkflowActivation { run_id: run_id.into(), jobs, ..Default::default() });
    assert_eq!(completion.run_id, run_id);
    completion.status.unwrap()
}

#[track_caller]
fn commands(host: &mut WorkflowHost, jobs: impl IntoIterator<Item = Variant>) -> Vec<Command> {
    match send(host, RUN, jobs) {
        Status::Successful(success) => success.commands.into_iter().map(|command| command.variant.unwrap()).collect(),
        Status::Failed(failed) => panic!("{failed:?}"),
    }
}

#[track_caller]
fn failure(host: &mut WorkflowHost, jobs: impl IntoIterator<Item = Variant>) -> (Failure, Cause) {
    match send(host, RUN, jobs) {
        Status::Failed(failed) => (failed.failure.clone().unwrap(), failed.force_cause()),
        Status::Successful(success) => panic!("{success:?}"),
    }
}

#[track_caller]
fn result<T: FromJsonPayloadExt>(commands: &[Command]) -> T {
    match commands {
        [Command::CompleteWorkflowExecution(done)] => decoded(&done.result),
        other => panic!("{other:?}"),
    }
}

/// The id and the response of the only command.
#[track_caller]
fn update_response(commands: &[Command]) -> (&str, &Response) {
    match commands {
        [Command::UpdateResponse(update)] => (&update.protocol_instance_id, update.response.as_ref().unwrap()),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn answer(commands: &[Command]) -> &query_result::Variant {
    match commands {
        [Command::RespondToQuery(answer)] => answer.variant.as_ref().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn counter(target: i32) -> WorkflowHost {
    let mut host = host();
    assert_eq!(commands(&mut host, [start("Counter", payload(target))]), []);
    host
}

// ---- Tests ----------------------------------------------------------------------------------------------------------

#[test]
fn a_run_schedules_its_activity_and_completes_with_what_came_of_it() {
    let mut host = host();
    let started = commands(&mut host, [start("ParallelizedWorkflow", vec![])]);
    let [Command::ScheduleActivity(activity)] = &started[..] else { panic!("{started:?}") };
    assert_eq!(activity.activity_type, "echo_pid_activity");
    assert_eq!(activity.task_queue, ACTIVITY_TASK_QUEUE);
    assert_eq!(activity.start_to_close_timeout.unwrap().seconds, 10);
    let pid = process::id();
    let input = String::from_json_payload(&activity.arguments[0]).unwrap();
    assert_eq!(input, format!("wf-starting-pid:{pid}"));

    let echoed = Resolved::Completed(Success { result: sample::echo_pid(input).as_json_payload().ok() });
    let resolution = ActivityResolution { status: Some(echoed) };
    let resolved = ResolveActivity { seq: activity.seq, result: Some(resolution), is_local: false };
    assert_eq!(
        result::<String>(&commands(&mut host, [Variant::ResolveActivity(resolved)])),
        format!("wf-starting-pid:{pid} | activity-pid:{pid} | wf-ending-pid:{pid}")
    );
    assert_eq!(host.len(), 1, "a run that has ended stays until it is evicted: queries may follow");
}

#[test]
fn a_timer_parks_a_run_until_it_fires() {
    let mut host = host();
    let started = commands(&mut host, [start("SpinWorkflow", payload(0))]);
    let [Command::StartTimer(timer)] = &started[..] else { panic!("{started:?}") };
    assert_eq!(timer.start_to_fire_timeout.unwrap().nanos, 100_000_000);
    let pid = process::id();
    assert_eq!(
        result::<String>(&commands(&mut host, [fire(timer.seq)])),
        format!("wf-starting-pid:{pid} | wf-ending-pid:{pid}")
    );
}

#[test]
fn runs_do_not_mix() {
    let mut host = host();
    for run_id in ["a", "b"] {
        send(&mut host, run_id, [start("Counter", payload(100))]);
    }
    send(&mut host, "a", [signal("add", payload(1))]);
    let Status::Successful(success) = send(&mut host, "b", [query("get", vec![])]) else { panic!() };
    let answer = answer(&[success.commands[0].variant.clone().unwrap()]).clone();
    assert!(matches!(answer, query_result::Variant::Succeeded(s) if decoded::<i32>(&s.response) == 0));
}

#[test]
fn a_sync_signal_unblocks_the_main_routine_in_the_same_activation() {
    let mut host = counter(3);
    assert_eq!(commands(&mut host, [signal("add", payload(1))]), []);
    let done = commands(&mut host, [signal("add", payload(1)), signal("add", payload(5))]);
    assert_eq!(result::<i32>(&done), 7);
}

#[test]
fn a_signal_that_comes_with_the_start_is_handled_before_the_main_routine() {
    let mut host = host();
    let done = commands(&mut host, [start("Counter", payload(1)), signal("add", payload(2))]);
    assert_eq!(result::<i32>(&done), 2);
}

#[test]
fn handlers_and_main_routine_are_polled_until_neither_can_go_on() {
    let mut host = host();
    commands(&mut host, [start("Turns", vec![])]);
    assert_eq!(result::<u32>(&commands(&mut host, [signal("play", vec![])])), 4);
}

#[test]
fn an_async_signal_handler_lives_on_between_activations() {
    let mut host = counter(2);
    let started = commands(&mut host, [signal("add_later", payload(2))]);
    let [Command::StartTimer(timer)] = &started[..] else { panic!("{started:?}") };
    assert_eq!(commands(&mut host, [signal("add", payload(0))]), []);
    assert_eq!(result::<i32>(&commands(&mut host, [fire(timer.seq)])), 2);
}

#[test]
fn a_signal_without_a_handler_is_dropped_and_one_that_does_not_decode_fails_the_task() {
    let mut host = counter(1);
    assert_eq!(commands(&mut host, [signal("unheard", vec![])]), []);
    let (failure, _) = failure(&mut host, [signal("add", payload("a word"))]);
    assert!(failure.message.starts_with("the handler of Signal(\"add\") failed: "), "{}", failure.message);
}

#[test]
fn a_search_attribute_is_unset_by_a_null() {
    let done = commands(&mut host(), [start("Attributes", vec![])]);
    let [Command::UpsertWorkflowSearchAttributes(upsert), Command::CompleteWorkflowExecution(_)] = &done[..] else {
        panic!("{done:?}")
    };
    let fields = &upsert.search_attributes.as_ref().unwrap().indexed_fields;
    assert_eq!(decoded::<String>(&Some(fields["City"].clone())), "Turin");
    assert_eq!((&fields["Floor"].metadata["encoding"][..], &fields["Floor"].data[..]), (&b"binary/null"[..], &[][..]));
}

#[test]
fn a_query_polls_nothing() {
    let mut host = host();
    commands(&mut host, [start("Parked", vec![])]);
    let polls = MAIN_POLLS.get();
    assert!(polls > 0);
    let answers = commands(&mut host, [query("one", vec![])]);
    assert!(matches!(answer(&answers), query_result::Variant::Succeeded(s) if decoded::<i32>(&s.response) == 1));
    assert_eq!(MAIN_POLLS.get(), polls);
}

#[test]
fn a_query_is_answered_after_the_end_of_the_run() {
    let mut host = counter(1);
    commands(&mut host, [signal("add", payload(1))]);
    let answers = commands(&mut host, [query("get", vec![])]);
    assert!(matches!(answer(&answers), query_result::Variant::Succeeded(s) if decoded::<i32>(&s.response) == 1));
}

#[test]
fn an_unknown_query_is_answered_with_a_failure_and_harms_nothing() {
    let mut host = counter(1);
    let answers = commands(&mut host, [query("unheard", vec![])]);
    assert!(matches!(answer(&answers), query_result::Variant::Failed(f) if f.message.contains("unheard")));
    assert_eq!(result::<i32>(&commands(&mut host, [signal("add", payload(1))])), 1);
}

#[test]
fn a_sync_update_is_accepted_then_completed_then_the_run_may_end() {
    let mut host = counter(4);
    let done = commands(&mut host, [update("set", payload(5))]);
    let [
        Command::UpdateResponse(accepted),
        Command::UpdateResponse(completed),
        Command::CompleteWorkflowExecution(end),
    ] = &done[..]
    else {
        panic!("{done:?}")
    };
    assert_eq!([&accepted.protocol_instance_id[..], &completed.protocol_instance_id], ["update-set"; 2]);
    assert_eq!(accepted.response, Some(Response::Accepted(())));
    assert!(matches!(&completed.response, Some(Response::Completed(old)) if i32::from_json_payload(old).unwrap() == 0));
    assert_eq!(decoded::<i32>(&end.result), 5);
}

#[test]
fn an_async_update_is_accepted_at_once_and_completed_later() {
    let mut host = counter(4);
    let started = commands(&mut host, [update("set_later", payload(1))]);
    let [Command::UpdateResponse(accepted), Command::StartTimer(timer)] = &started[..] else { panic!("{started:?}") };
    assert_eq!(accepted.response, Some(Response::Accepted(())));
    let done = commands(&mut host, [fire(timer.seq)]);
    let (id, response) = update_response(&done);
    assert_eq!(id, "update-set_later");
    assert!(matches!(response, Response::Completed(old) if i32::from_json_payload(old).unwrap() == 0));
}

#[test]
fn an_update_that_its_validator_refuses_is_rejected_without_being_accepted() {
    let mut host = counter(4);
    let done = commands(&mut host, [update("set", payload(-1))]);
    let (id, response) = update_response(&done);
    assert_eq!(id, "update-set");
    assert!(matches!(response, Response::Rejected(f) if f.message.contains("must not be negative")), "{response:?}");
}

#[test]
fn an_update_that_nobody_handles_is_rejected() {
    let mut host = counter(4);
    let done = commands(&mut host, [update("unheard", vec![])]);
    assert!(matches!(update_response(&done), ("update-unheard", Response::Rejected(_))), "{done:?}");
}

#[test]
fn an_update_whose_handler_fails_is_accepted_and_then_rejected() {
    let mut host = counter(4);
    let done = commands(&mut host, [update("refuse", vec![])]);
    let [accepted @ Command::UpdateResponse(_), rejected] = &done[..] else { panic!("{done:?}") };
    assert_eq!(update_response(std::slice::from_ref(accepted)).1, &Response::Accepted(()));
    let (_, response) = update_response(std::slice::from_ref(rejected));
    assert!(matches!(response, Response::Rejected(f) if f.message.contains("changed my mind")), "{response:?}");
}

#[test]
fn answers_come_before_results_of_updates_and_those_before_what_the_code_asked_for() {
    let mut host = counter(4);
    let jobs =
        [signal("add_later", payload(1)), update("set", payload(1)), query("get", vec![]), update("set", payload(-1))];
    let done = commands(&mut host, jobs);
    let [
        Command::UpdateResponse(accepted),
        Command::RespondToQuery(_),
        Command::UpdateResponse(rejected),
        Command::UpdateResponse(completed),
        Command::StartTimer(_),
    ] = &done[..]
    else {
        panic!("{done:?}")
    };
    assert!(matches!(accepted.response, Some(Response::Accepted(()))));
    assert!(matches!(rejected.response, Some(Response::Rejected(_))));
    assert!(matches!(completed.response, Some(Response::Completed(_))));
}

#[test]
fn a_panic_fails_the_task_with_message_and_place_and_without_commands() {
    let mut host = host();
    let (failure, cause) = failure(&mut host, [start("Panicking", vec![])]);
    assert!(failure.message.starts_with(&format!("workflow code panicked at {}:", file!())), "{}", failure.message);
    assert!(failure.message.ends_with(": on purpose"), "{}", failure.message);
    assert_eq!(cause, Cause::WorkflowWorkerUnhandledFailure);
    assert_eq!(host.len(), 0);
}

#[test]
fn a_panic_in_a_handler_takes_its_run_along_and_no_other() {
    let mut host = counter(1);
    send(&mut host, "other", [start("Counter", payload(1))]);
    let started = commands(&mut host, [signal("trip", vec![])]);
    let [Command::StartTimer(timer)] = &started[..] else { panic!("{started:?}") };
    let (tripped, _) = failure(&mut host, [fire(timer.seq)]);
    assert!(tripped.message.ends_with(": tripped"), "{}", tripped.message);
    assert_eq!(host.len(), 1);
    assert_eq!(commands(&mut host, [eviction()]), []);
}

#[test]
fn a_panic_in_a_query_fails_the_task() {
    let mut host = counter(1);
    let (failure, _) = failure(&mut host, [query("divide", payload(0))]);
    assert!(failure.message.ends_with(": attempt to divide by zero"), "{}", failure.message);
}

#[test]
fn a_panic_while_a_run_is_made_fails_the_task() {
    let mut host = host();
    let (failure, _) = failure(&mut host, [start("PanicsOnInit", vec![])]);
    assert!(failure.message.starts_with("workflow initialization panicked at "), "{}", failure.message);
    assert!(failure.message.ends_with(": no start"), "{}", failure.message);
}

#[test]
fn a_panic_while_a_run_is_dropped_stays_inside() {
    let mut host = host();
    commands(&mut host, [start("PanicsOnDrop", vec![])]);
    assert_eq!(commands(&mut host, [eviction()]), []);
    assert_eq!(host.len(), 0);
    for _replaces_the_one_before in 0..2 {
        commands(&mut host, [start("PanicsOnDrop", vec![])]);
    }
    drop(host);
}

#[test]
fn an_unknown_type_fails_the_task_and_names_the_known_ones() {
    let mut host = WorkflowHost::new(sample::workflows(), "default".into(), "queue".into());
    let (failure, cause) = failure(&mut host, [start("Unheard", vec![])]);
    assert_eq!(
        failure.message,
        "workflow type \"Unheard\" is not registered in this worker (registered are: ParallelizedWorkflow, \
         SpinWorkflow, TimerWorkflow); add it with Workflows::register, or start it on the task queue of a \
         worker that has it"
    );
    assert_eq!(cause, Cause::WorkflowWorkerUnhandledFailure);
}

#[test]
fn an_input_that_does_not_decode_fails_the_task() {
    let mut host = host();
    let (failure, _) = failure(&mut host, [start("Counter", payload("three"))]);
    assert!(failure.message.starts_with("the input of workflow type \"Counter\" doesn't decode: "), "{failure:?}");
    assert_eq!(host.len(), 0);
}

#[test]
fn a_wake_from_outside_the_sdk_fails_the_task_as_non_deterministic() {
    let mut host = host();
    let (failure, cause) = failure(&mut host, [start("SelfWaking", vec![])]);
    assert!(failure.message.starts_with("[TMPRL1100]"), "{}", failure.message);
    assert_eq!(cause, Cause::NonDeterministicError);
}

#[test]
fn a_wake_from_another_thread_fails_the_next_activation() {
    let mut host = host();
    commands(&mut host, [start("Parked", vec![])]);
    let waker = LEAKED_WAKER.take().unwrap();
    thread::spawn(move || waker.wake()).join().unwrap();
    assert_eq!(failure(&mut host, [query("one", vec![])]).1, Cause::NonDeterministicError);
}

#[test]
fn an_eviction_is_answered_after_the_run_was_dropped() {
    let mut host = host();
    commands(&mut host, [start("Parked", vec![])]);
    assert_eq!(DROPPED.get(), 0);
    assert_eq!(commands(&mut host, [eviction()]), []);
    assert_eq!((DROPPED.get(), host.len()), (1, 0));
    let (failure, _) = failure(&mut host, [fire(1)]);
    assert!(failure.message.contains("run run-1 is not in this process"), "{}", failure.message);
}

#[test]
fn an_eviction_of_an_unknown_run_is_answered_too() {
    assert_eq!(commands(&mut host(), [eviction()]), []);
}

#[test]
fn a_second_start_replaces_the_run() {
    let mut host = host();
    commands(&mut host, [start("Parked", vec![])]);
    assert_eq!(commands(&mut host, [start("Counter", payload(1))]), []);
    assert_eq!((DROPPED.get(), host.len()), (1, 1));
    assert_eq!(result::<i32>(&commands(&mut host, [signal("add", payload(1))])), 1);
}

#[test]
fn forget_all_drops_every_run_and_counts_them() {
    let mut host = host();
    for run_id in ["a", "b", "c"] {
        send(&mut host, run_id, [start("Parked", vec![])]);
    }
    assert_eq!(host.forget_all(), 3);
    assert_eq!((DROPPED.get(), host.len()), (3, 0));
    assert_eq!(host.forget_all(), 0);
}

#[test]
fn continue_as_new_carries_the_next_input() {
    let mut host = host();
    let done = commands(&mut host, [start("Countdown", payload(2))]);
    let [Command::ContinueAsNewWorkflowExecution(next)] = &done[..] else { panic!("{done:?}") };
    assert_eq!(u32::from_json_payload(&next.arguments[0]).unwrap(), 1);
    assert_eq!(result::<String>(&commands(&mut host, [start("Countdown", payload(0))])), "the end");
}

#[test]
fn a_cancelled_workflow_cancels_its_timer_and_ends_as_cancelled() {
    let mut host = host();
    commands(&mut host, [start("SpinWorkflow", payload(0))]);
    let done = commands(&mut host, [Variant::CancelWorkflow(CancelWorkflow { reason: "enough".into() })]);
    assert!(
        matches!(&done[..], [Command::CancelTimer(_), Command::CancelWorkflowExecution(_)]),
        "the command that ends the run is the last: {done:?}"
    );
}

#[test]
fn names_are_sorted_and_a_second_type_of_one_name_is_refused() {
    let workflows = Workflows::new().register::<TimerWorkflow>().register::<ParallelizedWorkflow>();
    assert!(workflows.names().eq(["ParallelizedWorkflow", "TimerWorkflow"]));
    assert!(Workflows::new().is_empty() && !workflows.is_empty());
    let failure = panics::catch("registering", || workflows.register::<TimerWorkflow>()).unwrap_err();
    assert!(failure.message.contains("\"TimerWorkflow\" is registered twice"), "{}", failure.message);
    assert!(failure.message.contains(file!()), "the place is the caller's: {}", failure.message);
}
