//! Nexus operations that workflows call, on a real Temporal server: one that answers at once, one that fails, and one that a
//! workflow stands behind.
//!
//! This program is its own worker: with `run` as its first argument it serves [`Caller`] and [`Triple`]. Core has no Nexus handlers
//! for Rust, so what handles the calls here speaks to the server itself.

mod common;
#[allow(dead_code, reason = "another test uses more of it")]
#[path = "temporal_balance/world.rs"]
mod world;

use common::Server;
use libtest_mimic::{Arguments, Trial};
use nix::sys::signal::Signal;
use shmworker::temporal::{activity::Activities, sample, workflow::Workflows};
use std::{process::ExitCode, time::Duration};
use temporalio_client::{Client, WorkflowStartOptions, tonic::IntoRequest};
use temporalio_common::protos::{
    coresdk::{AsJsonPayloadExt, nexus::nexus_operation_result::Status},
    temporal::api::{
        common::v1::{Callback, Payload, callback},
        enums::v1::EventType,
        failure::v1::Failure,
        nexus::v1::{
            Failure as NexusFailure, Response, StartOperationRequest, StartOperationResponse,
            UnsuccessfulOperationError, request, response,
            start_operation_response::{Async, Sync, Variant},
        },
        taskqueue::v1::TaskQueue,
        workflowservice::v1::{PollNexusTaskQueueRequest, RespondNexusTaskCompletedRequest},
    },
};
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{NexusOperationOptions, WorkflowContext, WorkflowResult};
use world::{QUEUE, World};

const NAMESPACE: &str = "nexus";
const ENDPOINT: &str = "arithmetic";
/// Where the handler takes its tasks.
const HANDLER_QUEUE: &str = "handlers";

// ---- the user's code ----------------------------------------------------------------------------------------------------

/// Calls an operation, and says what came of it.
#[workflow]
#[derive(Default)]
struct Caller;

#[workflow_methods]
impl Caller {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, operation: String) -> WorkflowResult<String> {
        let options = NexusOperationOptions::builder()
            .endpoint(ENDPOINT)
            .service("numbers")
            .operation(operation)
            .input(14_u32.as_json_payload().expect("a number is JSON"))
            .schedule_to_close_timeout(Duration::from_secs(60))
            .build();
        let started = match ctx.start_nexus_operation(options).await {
            Ok(started) => started,
            Err(failure) => return Ok(format!("not started: {}", innermost(&failure))),
        };
        let how = if started.operation_token.is_some() { "later" } else { "at once" };
        Ok(match started.result().await.status {
            Some(Status::Completed(result)) => format!("{how}: {}", String::from_utf8_lossy(&result.data)),
            other => format!("{other:?}"),
        })
    }
}

fn innermost(failure: &Failure) -> &str {
    failure.cause.as_deref().map_or(&failure.message, innermost)
}

#[workflow]
#[derive(Default)]
struct Triple;

#[workflow_methods]
impl Triple {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, number: u32) -> WorkflowResult<u32> {
        ctx.timer(Duration::from_millis(100)).await;
        Ok(3 * number)
    }
}

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|command| command == "run") {
        let workflows = Workflows::new().register::<Caller>().register::<Triple>();
        return sample::worker().workflows(workflows).activities(Activities::new()).main();
    }
    let mut args = Arguments::from_args();
    args.test_threads.get_or_insert(1);
    let trial = Trial::test("workflows_call_nexus_operations", || {
        workflows_call_nexus_operations();
        Ok(())
    });
    libtest_mimic::run(&args, vec![trial]).exit_code()
}

// ---- the handler --------------------------------------------------------------------------------------------------------

fn number(payload: Option<Payload>) -> u32 {
    serde_json::from_slice(&payload.expect("an input").data).unwrap()
}

async fn start(client: &Client, call: StartOperationRequest) -> Variant {
    let StartOperationRequest { operation, payload, callback: url, callback_header: header, request_id, .. } = call;
    match &*operation {
        "double" => {
            let payload = Some((2 * number(payload)).as_json_payload().unwrap());
            Variant::SyncSuccess(Sync { payload, ..Default::default() })
        }
        "triple" => {
            let variant = Some(callback::Variant::Nexus(callback::Nexus { url, header, ..Default::default() }));
            let callback = Callback { variant, ..Default::default() };
            let options = WorkflowStartOptions::new(QUEUE, request_id).completion_callbacks(vec![callback]).build();
            let handle = client.start_workflow(Triple::run, number(payload), options).await.unwrap();
            let operation_token = handle.info().workflow_id.clone();
            Variant::AsyncSuccess(Async { operation_token, ..Default::default() })
        }
        #[allow(deprecated, reason = "what this server understands")]
        _ => Variant::OperationError(UnsuccessfulOperationError {
            operation_state: "failed".into(),
            failure: Some(NexusFailure { message: "there is no such thing".into(), ..Default::default() }),
        }),
    }
}

/// Answers calls until it is dropped.
async fn handle(client: Client) {
    let mut service = client.connection().workflow_service();
    loop {
        let queue = TaskQueue { name: HANDLER_QUEUE.into(), ..Default::default() };
        let poll = PollNexusTaskQueueRequest {
            namespace: NAMESPACE.into(),
            task_queue: Some(queue),
            identity: "the test".into(),
            ..Default::default()
        };
        let task = service.poll_nexus_task_queue(poll.into_request()).await.unwrap().into_inner();
        // A poll that has waited long enough gives nothing.
        let Some(request::Variant::StartOperation(call)) = task.request.and_then(|request| request.variant) else {
            continue;
        };
        let started = StartOperationResponse { variant: Some(start(&client, call).await) };
        let answer = RespondNexusTaskCompletedRequest {
            namespace: NAMESPACE.into(),
            identity: "the test".into(),
            task_token: task.task_token,
            response: Some(Response { variant: Some(response::Variant::StartOperation(started)) }),
            poller_group_id: task.poller_group_id,
        };
        service.respond_nexus_task_completed(answer.into_request()).await.unwrap();
    }
}

// ---- the test -----------------------------------------------------------------------------------------------------------

fn workflows_call_nexus_operations() {
    let server = Server::start(&[NAMESPACE]);
    let world = World::new(&server, NAMESPACE);
    let create = ["operator", "nexus", "endpoint", "create", "--name", ENDPOINT, "--target-namespace", NAMESPACE];
    server.tell(NAMESPACE, &[&create[..], &["--target-task-queue", HANDLER_QUEUE]].concat());
    world.runtime.spawn(handle(world.client.clone()));
    let mut pool = world.pool(2, 0, &[]);
    for (operation, result, events) in [
        ("double", "at once: 28", &[EventType::NexusOperationCompleted][..]),
        ("triple", "later: 42", &[EventType::NexusOperationStarted, EventType::NexusOperationCompleted]),
        ("divide", "not started: there is no such thing", &[EventType::NexusOperationFailed]),
    ] {
        let flow = world.start(operation, Caller::run, operation.into());
        assert_eq!(flow.output(), result, "{operation}");
        for &event in [EventType::NexusOperationScheduled].iter().chain(events) {
            assert_eq!(flow.count(event), 1, "{event:?} of {operation}");
        }
        flow.went_smoothly();
    }
    pool.stop(Signal::SIGTERM);
}
