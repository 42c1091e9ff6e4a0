//! What the server knows, and how it changes: no I/O, no waiting.

use super::{
    Fault, Workload,
    queue::Queue,
    run::{Occurrence, Run, WorkflowTask},
};
use bytes::BytesMut;
use prost::Message;
use prost_types::Timestamp;
use std::{collections::HashMap, rc::Rc, time::Duration};
use temporalio_common::protos::temporal::api::{
    command::v1::{ScheduleActivityTaskCommandAttributes, command::Attributes as Command},
    common::v1::{Payload, Payloads, WorkflowExecution, WorkflowType},
    enums::v1::{EventType, TaskQueueKind},
    history::v1::{
        ActivityTaskScheduledEventAttributes, TimerStartedEventAttributes, WorkflowExecutionStartedEventAttributes,
        WorkflowTaskCompletedEventAttributes, WorkflowTaskScheduledEventAttributes, WorkflowTaskStartedEventAttributes,
    },
    taskqueue::v1::TaskQueue,
    workflowservice::v1::{PollWorkflowTaskQueueResponse, RespondWorkflowTaskCompletedRequest},
};

const WORKFLOW_TASK_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct State {
    pub(super) workload: Workload,
    /// Those that are open, by number.
    pub(super) runs: HashMap<u64, Run>,
    pub(super) started: u64,
    pub(super) completed: u64,
    pub(super) workflow_tasks: Queues<u64>,
    pub(super) activity_tasks: Queues<Activity>,
    pub(super) fault: Option<Fault>,
}

/// An activity that waits for a worker.
#[derive(Debug)]
pub(super) struct Activity {
    pub(super) run: u64,
    pub(super) scheduled: i64,
    pub(super) command: ScheduleActivityTaskCommandAttributes,
}

/// A timer that a workflow has started.
pub(super) struct Timer {
    pub(super) run: u64,
    pub(super) fired: Occurrence,
    pub(super) after: Duration,
}

/// Task queues, by name.
pub(super) struct Queues<T>(HashMap<Rc<str>, Queue<T>>);

impl<T> Default for Queues<T> {
    fn default() -> Queues<T> {
        Queues(HashMap::new())
    }
}

impl<T> Queues<T> {
    pub(super) fn of(&mut self, name: &str) -> &mut Queue<T> {
        if !self.0.contains_key(name) {
            self.0.insert(name.into(), Queue::default());
        }
        self.0.get_mut(name).expect("it was made above")
    }

    /// Its name, shared by the runs that have it for their sticky queue.
    fn name(&self, name: &str) -> Rc<str> {
        self.0.get_key_value(name).map_or_else(|| name.into(), |(name, _)| name.clone())
    }
}

impl State {
    pub(super) fn new(workload: Workload) -> State {
        State {
            workload,
            runs: HashMap::new(),
            started: 0,
            completed: 0,
            workflow_tasks: Queues::default(),
            activity_tasks: Queues::default(),
            fault: None,
        }
    }

    /// Starts one more workflow.
    pub(super) fn start(&mut self) {
        let (number, now) = (self.started, now());
        self.started += 1;
        let run_id = run_id(number);
        let started = WorkflowExecutionStartedEventAttributes {
            workflow_type: Some(self.workflow_type()),
            task_queue: Some(normal(&self.workload.task_queue)),
            input: self.workload.input.as_deref().map(json),
            workflow_task_timeout: Some(WORKFLOW_TASK_TIMEOUT.try_into().expect("10 s")),
            workflow_id: workflow_id(number),
            original_execution_run_id: run_id.clone(),
            first_execution_run_id: run_id,
            attempt: 1,
            ..WorkflowExecutionStartedEventAttributes::default()
        };
        let mut run = Run::default();
        run.history.push(EventType::WorkflowExecutionStarted, now, started);
        self.runs.insert(number, run);
        self.schedule_workflow_task(number, now);
        self.queue_workflow_task(number);
    }

    /// Something has happened to a run.
    pub(super) fn occur(&mut self, number: u64, occurrence: Occurrence) {
        let Some(run) = self.runs.get_mut(&number) else { return };
        match run.task {
            WorkflowTask::Started { .. } => run.buffered.push(occurrence),
            WorkflowTask::Scheduled(_) => run.record(occurrence, now()),
            WorkflowTask::None => {
                let now = now();
                run.record(occurrence, now);
                self.schedule_workflow_task(number, now);
                self.queue_workflow_task(number);
            }
        }
    }

    fn schedule_workflow_task(&mut self, number: u64, now: Timestamp) {
        let run = self.runs.get_mut(&number).expect("the caller has it");
        let task_queue = match &run.sticky {
            Some(sticky) => TaskQueue {
                name: sticky.to_string(),
                kind: TaskQueueKind::Sticky as i32,
                normal_name: self.workload.task_queue.clone(),
            },
            None => normal(&self.workload.task_queue),
        };
        let scheduled = WorkflowTaskScheduledEventAttributes {
            task_queue: Some(task_queue),
            start_to_close_timeout: Some(WORKFLOW_TASK_TIMEOUT.try_into().expect("10 s")),
            attempt: 1,
        };
        run.task = WorkflowTask::Scheduled(run.history.push(EventType::WorkflowTaskScheduled, now, scheduled));
    }

    fn queue_workflow_task(&mut self, number: u64) {
        let sticky = self.runs[&number].sticky.as_deref();
        self.workflow_tasks.of(sticky.unwrap_or(&self.workload.task_queue)).push(number);
    }

    /// Hands a workflow task out that was taken from the queue of this name: appends a `PollWorkflowTaskQueueResponse`.
    pub(super) fn begin_workflow_task(&mut self, number: u64, queue: &str, into: &mut BytesMut) {
        const HISTORY: u32 = 8;
        let (now, workflow_type) = (now(), self.workflow_type());
        let run = self.runs.get_mut(&number).expect("a run whose workflow task waits is open");
        let WorkflowTask::Scheduled(scheduled) = run.task else {
            unreachable!("the workflow task of run {number} was in a queue, and is {:?}", run.task)
        };
        let event = WorkflowTaskStartedEventAttributes { scheduled_event_id: scheduled, ..Default::default() };
        let started = run.history.push(EventType::WorkflowTaskStarted, now, event);
        run.task = WorkflowTask::Started { scheduled, started };
        let answer = PollWorkflowTaskQueueResponse {
            task_token: token(number, scheduled),
            workflow_execution: Some(execution(number)),
            workflow_type: Some(workflow_type),
            previous_started_event_id: run.last_started,
            started_event_id: started,
            attempt: 1,
            workflow_execution_task_queue: Some(normal(&self.workload.task_queue)),
            scheduled_time: Some(now),
            started_time: Some(now),
            ..PollWorkflowTaskQueueResponse::default()
        };
        answer.encode(into).expect("a buffer that grows has room");
        let is_sticky = run.sticky.as_deref() == Some(queue);
        run.history.encode_from(if is_sticky { run.seen } else { 0 }, HISTORY, into);
        run.last_started = started;
        run.seen = run.history.end();
    }

    /// The timers that were started, and whether the run has a next workflow task, which is for the caller to queue.
    pub(super) fn workflow_task_completed(
        &mut self,
        request: RespondWorkflowTaskCompletedRequest,
    ) -> Result<(Vec<Timer>, Option<u64>), String> {
        let (number, scheduled) = parsed(&request.task_token)?;
        let now = now();
        let run = self.runs.get_mut(&number).ok_or("a workflow task of a run that has ended was completed")?;
        let started = match run.task {
            WorkflowTask::Started { scheduled: ours, started } if ours == scheduled => started,
            other => return Err(format!("the workflow task of event {scheduled} was completed, but it is {other:?}")),
        };
        let sticky = request.sticky_attributes.and_then(|sticky| sticky.worker_task_queue);
        run.sticky = sticky.map(|queue| self.workflow_tasks.name(&queue.name));
        run.task = WorkflowTask::None;
        let event = WorkflowTaskCompletedEventAttributes {
            scheduled_event_id: scheduled,
            started_event_id: started,
            sdk_metadata: request.sdk_metadata,
            ..WorkflowTaskCompletedEventAttributes::default()
        };
        let completed = run.history.push(EventType::WorkflowTaskCompleted, now, event);
        let mut timers = Vec::new();
        for command in request.commands.into_iter().filter_map(|command| command.attributes) {
            match command {
                Command::ScheduleActivityTaskCommandAttributes(command) => {
                    let event = ActivityTaskScheduledEventAttributes {
                        activity_id: command.activity_id.clone(),
                        activity_type: command.activity_type.clone(),
                        task_queue: command.task_queue.clone(),
                        input: command.input.clone(),
                        start_to_close_timeout: command.start_to_close_timeout,
                        workflow_task_completed_event_id: completed,
                        ..ActivityTaskScheduledEventAttributes::default()
                    };
                    let scheduled = run.history.push(EventType::ActivityTaskScheduled, now, event);
                    let activity = Activity { run: number, scheduled, command };
                    let queue = activity.command.task_queue.as_ref().map_or("", |queue| &queue.name);
                    self.activity_tasks.of(&queue.to_owned()).push(activity);
                }
                Command::StartTimerCommandAttributes(command) => {
                    let after = command.start_to_fire_timeout.unwrap_or_default();
                    let event = TimerStartedEventAttributes {
                        timer_id: command.timer_id.clone(),
                        start_to_fire_timeout: Some(after),
                        workflow_task_completed_event_id: completed,
                    };
                    let started = run.history.push(EventType::TimerStarted, now, event);
                    timers.push(Timer {
                        run: number,
                        fired: Occurrence::TimerFired { timer_id: command.timer_id, started },
                        after: after.try_into().map_err(|_| "a timer was started with a negative time")?,
                    });
                }
                Command::CompleteWorkflowExecutionCommandAttributes(_) => {
                    // The worker has no further use for the history.
                    self.runs.remove(&number);
                    self.completed += 1;
                    return Ok((timers, None));
                }
                other => return Err(format!("the null server knows no such command: {other:?}")),
            }
        }
        let buffered = std::mem::take(&mut run.buffered);
        let has_next = request.force_create_new_workflow_task || !buffered.is_empty();
        buffered.into_iter().for_each(|occurrence| run.record(occurrence, now));
        if has_next {
            self.schedule_workflow_task(number, now);
            if !request.return_new_workflow_task {
                self.queue_workflow_task(number);
            }
        }
        Ok((timers, (has_next && request.return_new_workflow_task).then_some(number)))
    }

    fn workflow_type(&self) -> WorkflowType {
        WorkflowType { name: self.workload.workflow.clone() }
    }
}

pub(super) fn now() -> Timestamp {
    std::time::SystemTime::now().into()
}

fn normal(name: &str) -> TaskQueue {
    TaskQueue { name: name.to_owned(), kind: TaskQueueKind::Normal as i32, normal_name: String::new() }
}

fn json(json: &str) -> Payloads {
    let metadata = [("encoding".to_owned(), b"json/plain".to_vec())].into();
    Payloads { payloads: vec![Payload { metadata, data: json.as_bytes().to_vec(), ..Payload::default() }] }
}

fn workflow_id(number: u64) -> String {
    format!("workflow-{number}")
}

fn run_id(number: u64) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}

/// The number of the run that has this id.
pub(super) fn number_of(run_id: &str) -> Option<u64> {
    u64::from_str_radix(run_id.rsplit('-').next()?, 16).ok()
}

pub(super) fn execution(number: u64) -> WorkflowExecution {
    WorkflowExecution { workflow_id: workflow_id(number), run_id: run_id(number) }
}

/// Names a task by its run and the event that scheduled it.
pub(super) fn token(number: u64, scheduled: i64) -> Vec<u8> {
    [number.to_le_bytes(), scheduled.to_le_bytes()].concat()
}

pub(super) fn parsed(token: &[u8]) -> Result<(u64, i64), String> {
    let halves = token.split_first_chunk().and_then(|(number, rest)| Some((number, rest.first_chunk()?)));
    let (number, scheduled) = halves.ok_or_else(|| format!("no task of this server has the token {token:?}"))?;
    Ok((u64::from_le_bytes(*number), i64::from_le_bytes(*scheduled)))
}
