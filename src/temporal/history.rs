//! Recorded histories, as Temporal's tools write them: proto3 JSON, of which upstream's types read only the parts that
//! workflow code sees. So it is read by the schema, and goes on to those types in binary form.

use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor};
use std::sync::LazyLock;
use temporalio_common::protos::temporal::api::{
    enums::v1::EventType,
    history::v1::{History, WorkflowExecutionStartedEventAttributes, history_event::Attributes},
};
use temporalio_sdk_core::replay::HistoryInfo;

/// A history that a replay can begin with.
#[derive(Clone, Debug)]
pub(crate) struct Recording {
    pub(crate) workflow_type: String,
    pub(crate) workflow_id: String,
    pub(crate) task_queue: String,
    pub(crate) run_id: String,
    pub(crate) history: History,
}

/// Why something isn't a history; the file's name is the caller's to add.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HistoryError {
    #[error("it is not a history in JSON, as 'temporal workflow show --output json' writes it: {0}")]
    Json(#[from] serde_json::Error),
    #[error("its first event is not WorkflowExecutionStarted: give the whole history of one run")]
    Headless,
    #[error("it ends before its first workflow task: there is nothing to replay")]
    NoTask,
    #[error("it is no history that can be replayed: {0}")]
    Broken(String),
}

impl Recording {
    /// Reads the JSON of one history. What a newer server has added to it is skipped.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub(crate) fn from_json(json: &[u8]) -> Result<Recording, HistoryError> {
        let options = DeserializeOptions::new().deny_unknown_fields(false);
        let mut reader = serde_json::Deserializer::from_slice(json);
        let message = DynamicMessage::deserialize_with_options(schema(), &mut reader, &options)?;
        reader.end()?;
        Recording::new(message.transcode_to().expect("the schema is that of the type"))
    }

    fn new(history: History) -> Result<Recording, HistoryError> {
        let start = started(&history).ok_or(HistoryError::Headless)?;
        let workflow_type = start.workflow_type.as_ref().ok_or(HistoryError::Headless)?.name.clone();
        let workflow_id = start.workflow_id.clone();
        // A history need not have come from a server.
        let task_queue = start.task_queue.as_ref().map(|queue| &*queue.name).filter(|name| !name.is_empty());
        let task_queue = task_queue.unwrap_or("ReplayTaskQueue").to_owned();
        let broken = |e: &dyn std::fmt::Display| HistoryError::Broken(e.to_string());
        // The replay worker panics where these fail.
        let run_id = history.extract_run_id_from_start().map_err(|e| broken(&e))?.to_owned();
        HistoryInfo::new_from_history(&history, None).map_err(|e| broken(&e))?;
        // It would wait for ever for one.
        match history.events.iter().any(|event| event.event_type() == EventType::WorkflowTaskScheduled) {
            true => Ok(Recording { workflow_type, workflow_id, task_queue, run_id, history }),
            false => Err(HistoryError::NoTask),
        }
    }
}

fn started(history: &History) -> Option<&WorkflowExecutionStartedEventAttributes> {
    match &history.events.first()?.attributes {
        Some(Attributes::WorkflowExecutionStartedEventAttributes(start)) => Some(start),
        _ => None,
    }
}

fn schema() -> MessageDescriptor {
    static SCHEMA: LazyLock<MessageDescriptor> = LazyLock::new(|| {
        let files = &include_bytes!(concat!(env!("OUT_DIR"), "/history.bin"))[..];
        let pool = DescriptorPool::decode(files).expect("build.rs has written it");
        pool.get_message_by_name("temporal.api.history.v1.History").expect("build.rs has chosen the file")
    });
    SCHEMA.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(json: &str) -> String {
        Recording::from_json(json.as_bytes()).unwrap_err().to_string()
    }

    const STARTED: &str = r#"{"eventId": "1", "eventType": "EVENT_TYPE_WORKFLOW_EXECUTION_STARTED",
        "eventTime": "2026-01-02T03:04:05.5Z", "added": "by a newer server",
        "workflowExecutionStartedEventAttributes": {
            "workflowType": {"name": "Greet"}, "workflowId": "greet-1", "taskQueue": {"name": "greetings"}, "originalExecutionRunId": "run-1",
            "workflowTaskTimeout": "10s", "input": {"payloads": [{"metadata": {"encoding": "anNvbi9wbGFpbg=="}, "data": "MQ=="}]}
        }}"#;

    const TASK: &str = "EVENT_TYPE_WORKFLOW_TASK_SCHEDULED";

    #[test]
    fn proto3_json_is_read() {
        let json = format!(r#"{{"events": [{STARTED}, {{"eventId": "2", "eventType": {TASK:?}}}]}}"#);
        let recording = Recording::from_json(json.as_bytes()).unwrap();
        assert_eq!((&*recording.workflow_type, &*recording.workflow_id), ("Greet", "greet-1"));
        assert_eq!(recording.task_queue, "greetings");
        let start = started(&recording.history).unwrap();
        assert_eq!(start.workflow_task_timeout.unwrap().seconds, 10);
        assert_eq!(start.input.as_ref().unwrap().payloads[0].data, b"1");
        assert_eq!(recording.history.events[0].event_time.unwrap().nanos, 500_000_000);
    }

    #[test]
    fn what_is_no_history_is_told_by_what_is_wrong() {
        assert!(error("history").contains("expected value at line 1 column 1"), "{}", error("history"));
        assert!(error(r#"{"events": []} x"#).contains("trailing characters"));
        assert!(error("{}").contains("first event"));
        assert!(error(r#"{"events": [{"eventId": "2"}]}"#).contains("first event"));
        assert!(error(&format!(r#"{{"events": [{STARTED}]}}"#)).contains("before its first workflow task"));
        let after = |kind: &str| format!(r#"{{"eventId": "3", "eventType": "EVENT_TYPE_{kind}"}}"#);
        let (task, timer) = (after("WORKFLOW_TASK_STARTED"), after("TIMER_FIRED"));
        let broken = error(&format!(r#"{{"events": [{STARTED}, {task}, {timer}]}}"#));
        assert!(broken.starts_with("it is no history that can be replayed: "), "{broken}");
    }
}
