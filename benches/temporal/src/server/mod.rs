//! A Temporal server that keeps histories in memory and does nothing else, so that workers are what is measured.
//!
//! Its tasks are real: whole histories first, then partial ones on sticky queues, activities and timers; a worker of any
//! SDK takes it for a server. It has no retries and no timeouts: a failure of any kind is a [`Fault`], which ends the
//! measurement, and a method that no workload needs is answered as unimplemented. It is one thread.

mod grpc;
mod queue;
mod run;
mod state;

use bytes::Bytes;
use grpc::{Answer, Service, Status};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint},
};
use run::Occurrence;
use state::{Activity, State, Timer};
use std::{
    cell::{Cell, RefCell},
    error::Error,
    fmt, io,
    net::SocketAddr,
    rc::{Rc, Weak},
    time::Duration,
};
use temporalio_common::protos::temporal::api::{
    common::v1::WorkflowType,
    enums::v1::NamespaceState,
    namespace::v1::{NamespaceInfo, namespace_info},
    workflowservice::v1::{
        DescribeNamespaceRequest, DescribeNamespaceResponse, GetSystemInfoResponse, GetWorkflowExecutionHistoryRequest,
        PollActivityTaskQueueRequest, PollActivityTaskQueueResponse, PollWorkflowTaskQueueRequest,
        PollWorkflowTaskQueueResponse, RecordActivityTaskHeartbeatResponse, RecordWorkerHeartbeatResponse,
        RespondActivityTaskCompletedRequest, RespondActivityTaskCompletedResponse, RespondActivityTaskFailedRequest,
        RespondWorkflowTaskCompletedRequest, RespondWorkflowTaskFailedRequest, ShutdownWorkerResponse,
        get_system_info_response,
    },
};
use tokio::{net::TcpListener, sync::Notify, task::spawn_local, time};

/// After so long without a task a poll is answered with nothing, as by Temporal's own server.
const LONG_POLL: Duration = Duration::from_secs(60);

/// What workers are fed with.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The queue on which workflows start.
    pub task_queue: String,
    /// The type of all workflows.
    pub workflow: String,
    /// What each is given, as JSON.
    pub input: Option<String>,
    /// How many are open at a time: one that has ended is followed by the next.
    pub open: usize,
}

/// Something that no workload contains: a failure, or a request that the server does not understand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(pub String);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Fault {}

/// The server; to be run on a `LocalSet`.
pub struct NullServer {
    state: RefCell<State>,
    is_feeding: Cell<bool>,
    /// A workflow has completed, or a fault has come.
    changed: Notify,
    itself: Weak<NullServer>,
}

impl NullServer {
    /// Serves on a free port, with the first workflows waiting; the address.
    ///
    /// # Errors
    ///
    /// No port could be bound.
    pub async fn start(workload: Workload) -> io::Result<(Rc<NullServer>, SocketAddr)> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let open = workload.open;
        let server = Rc::new_cyclic(|itself| NullServer {
            state: RefCell::new(State::new(workload)),
            is_feeding: Cell::new(true),
            changed: Notify::new(),
            itself: itself.clone(),
        });
        (0..open).for_each(|_| server.state.borrow_mut().start());
        spawn_local(grpc::serve(listener, server.clone()));
        Ok((server, address))
    }

    /// How many workflows have completed.
    pub fn completed(&self) -> u64 {
        self.state.borrow().completed
    }

    /// Waits until so many workflows have completed.
    ///
    /// # Errors
    ///
    /// The first fault.
    pub async fn until(&self, completed: u64) -> Result<(), Fault> {
        loop {
            let changed = self.changed.notified();
            if let Some(fault) = &self.state.borrow().fault {
                return Err(fault.clone());
            }
            if self.completed() >= completed {
                return Ok(());
            }
            changed.await;
        }
    }

    /// Starts no more workflows, and waits until those that are open have completed.
    ///
    /// # Errors
    ///
    /// The first fault.
    pub async fn drain(&self) -> Result<(), Fault> {
        self.is_feeding.set(false);
        let started = self.state.borrow().started;
        self.until(started).await
    }

    async fn poll_workflow_task(&self, request: PollWorkflowTaskQueueRequest) -> Result<Answer, Status> {
        let queue = request.task_queue.unwrap_or_default().name;
        let task = self.state.borrow_mut().workflow_tasks.of(&queue).poll();
        Ok(match time::timeout(LONG_POLL, task).await {
            Ok(Ok(run)) => Answer::encoded(|bytes| self.state.borrow_mut().begin_workflow_task(run, &queue, bytes)),
            _ => Answer::of(&PollWorkflowTaskQueueResponse::default()),
        })
    }

    fn workflow_task_completed(&self, request: RespondWorkflowTaskCompletedRequest) -> Result<Answer, Status> {
        const WORKFLOW_TASK: u32 = 1;
        let mut state = self.state.borrow_mut();
        let before = state.completed;
        let (timers, next) = state.workflow_task_completed(request).map_err(Status::invalid)?;
        if state.completed > before {
            if self.is_feeding.get() {
                state.start();
            }
            self.changed.notify_waiters();
        }
        timers.into_iter().for_each(|timer| self.set(timer));
        Ok(Answer::encoded(|bytes| {
            if let Some(run) = next {
                let mut task = bytes::BytesMut::new();
                let sticky = state.runs[&run].sticky.clone().unwrap_or_default();
                state.begin_workflow_task(run, &sticky, &mut task);
                encode_key(WORKFLOW_TASK, WireType::LengthDelimited, bytes);
                encode_varint(task.len() as u64, bytes);
                bytes.extend_from_slice(&task);
            }
        }))
    }

    fn set(&self, timer: Timer) {
        let server = self.itself.clone();
        spawn_local(async move {
            time::sleep(timer.after).await;
            if let Some(server) = server.upgrade() {
                server.state.borrow_mut().occur(timer.run, timer.fired);
            }
        });
    }

    async fn poll_activity_task(&self, request: PollActivityTaskQueueRequest) -> Result<Answer, Status> {
        let queue = request.task_queue.unwrap_or_default().name;
        let task = self.state.borrow_mut().activity_tasks.of(&queue).poll();
        Ok(match time::timeout(LONG_POLL, task).await {
            Ok(Ok(activity)) => Answer::of(&self.activity_task(activity, request.namespace)),
            _ => Answer::of(&PollActivityTaskQueueResponse::default()),
        })
    }

    fn activity_task(&self, activity: Activity, namespace: String) -> PollActivityTaskQueueResponse {
        let (Activity { run, scheduled, command }, now) = (activity, state::now());
        PollActivityTaskQueueResponse {
            task_token: state::token(run, scheduled),
            workflow_namespace: namespace,
            workflow_type: Some(WorkflowType { name: self.state.borrow().workload.workflow.clone() }),
            workflow_execution: Some(state::execution(run)),
            activity_type: command.activity_type,
            activity_id: command.activity_id,
            header: command.header,
            input: command.input,
            scheduled_time: Some(now),
            current_attempt_scheduled_time: Some(now),
            started_time: Some(now),
            attempt: 1,
            schedule_to_close_timeout: command.schedule_to_close_timeout,
            start_to_close_timeout: command.start_to_close_timeout,
            heartbeat_timeout: command.heartbeat_timeout,
            ..PollActivityTaskQueueResponse::default()
        }
    }

    fn activity_task_completed(&self, request: RespondActivityTaskCompletedRequest) -> Result<Answer, Status> {
        let (run, scheduled) = state::parsed(&request.task_token).map_err(Status::invalid)?;
        let occurrence = Occurrence::ActivityCompleted { scheduled, result: request.result };
        self.state.borrow_mut().occur(run, occurrence);
        Ok(Answer::of(&RespondActivityTaskCompletedResponse::default()))
    }

    /// For a worker that has dropped a run from its cache.
    fn history(&self, request: GetWorkflowExecutionHistoryRequest) -> Result<Answer, Status> {
        const HISTORY: u32 = 1;
        let execution = request.execution.unwrap_or_default();
        let state = self.state.borrow();
        let run = state::number_of(&execution.run_id).and_then(|number| state.runs.get(&number));
        let run = run.ok_or_else(|| Status::not_found(format_args!("no open run has the id {}", execution.run_id)))?;
        Ok(Answer::encoded(|bytes| run.history.encode_from(0, HISTORY, bytes)))
    }

    fn fault(&self, why: String) {
        self.state.borrow_mut().fault.get_or_insert(Fault(why));
        self.changed.notify_waiters();
    }
}

impl Service for NullServer {
    async fn call(&self, method: &str, message: Bytes) -> Result<Answer, Status> {
        let answer = match method {
            "PollWorkflowTaskQueue" => self.poll_workflow_task(decoded(message)?).await,
            "RespondWorkflowTaskCompleted" => self.workflow_task_completed(decoded(message)?),
            "PollActivityTaskQueue" => self.poll_activity_task(decoded(message)?).await,
            "RespondActivityTaskCompleted" => self.activity_task_completed(decoded(message)?),
            "RecordActivityTaskHeartbeat" => Ok(Answer::of(&RecordActivityTaskHeartbeatResponse::default())),
            "GetWorkflowExecutionHistory" => self.history(decoded(message)?),
            "GetSystemInfo" => Ok(Answer::of(&system_info())),
            "DescribeNamespace" => Ok(Answer::of(&namespace(decoded(message)?))),
            "RecordWorkerHeartbeat" => Ok(Answer::of(&RecordWorkerHeartbeatResponse::default())),
            "ShutdownWorker" => Ok(Answer::of(&ShutdownWorkerResponse::default())),
            // There never is such a task: the worker gives the poll up when it ends.
            "PollNexusTaskQueue" => std::future::pending().await,
            "RespondWorkflowTaskFailed" => {
                let request: RespondWorkflowTaskFailedRequest = decoded(message)?;
                Err(Status::invalid(format_args!("a workflow task failed: {:?}", request.failure)))
            }
            "RespondActivityTaskFailed" => {
                let request: RespondActivityTaskFailedRequest = decoded(message)?;
                Err(Status::invalid(format_args!("an activity failed: {:?}", request.failure)))
            }
            _ => return Err(Status::unimplemented(method)),
        };
        if let Err(status) = &answer {
            self.fault(format!("{method}: {status}"));
        }
        answer
    }
}

fn decoded<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(Status::invalid)
}

fn system_info() -> GetSystemInfoResponse {
    GetSystemInfoResponse {
        server_version: "1.29.1".into(),
        capabilities: Some(get_system_info_response::Capabilities {
            signal_and_query_header: true,
            internal_error_differentiation: true,
            activity_failure_include_heartbeat: true,
            encoded_failure_attributes: true,
            sdk_metadata: true,
            ..Default::default()
        }),
    }
}

fn namespace(request: DescribeNamespaceRequest) -> DescribeNamespaceResponse {
    let capabilities = namespace_info::Capabilities { sync_update: true, async_update: true, ..Default::default() };
    DescribeNamespaceResponse {
        namespace_info: Some(NamespaceInfo {
            id: request.namespace.clone(),
            name: request.namespace,
            state: NamespaceState::Registered as i32,
            capabilities: Some(capabilities),
            ..NamespaceInfo::default()
        }),
        ..DescribeNamespaceResponse::default()
    }
}
