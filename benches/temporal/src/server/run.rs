//! One run of a workflow: its history, and where its workflow task is.

use bytes::{BufMut, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, message};
use prost_types::Timestamp;
use std::rc::Rc;
use temporalio_common::protos::temporal::api::{
    common::v1::Payloads,
    enums::v1::EventType,
    history::v1::{
        ActivityTaskCompletedEventAttributes, ActivityTaskStartedEventAttributes, HistoryEvent,
        TimerFiredEventAttributes, history_event::Attributes,
    },
};

#[derive(Debug, Default)]
pub(super) struct Run {
    pub(super) history: History,
    pub(super) task: WorkflowTask,
    /// The sticky queue of the worker that has this run in its cache.
    pub(super) sticky: Option<Rc<str>>,
    /// What came while a workflow task was in a worker's hands.
    pub(super) buffered: Vec<Occurrence>,
    /// The event that began the last workflow task.
    pub(super) last_started: i64,
    /// How much of the history the worker of the last workflow task has seen.
    pub(super) seen: usize,
}

/// Where the workflow task of a run is: there is one at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum WorkflowTask {
    #[default]
    None,
    /// In a queue; the event that says so.
    Scheduled(i64),
    /// In a worker's hands; both events.
    Started { scheduled: i64, started: i64 },
}

/// What happens to a run from outside.
#[derive(Debug)]
pub(super) enum Occurrence {
    ActivityCompleted { scheduled: i64, result: Option<Payloads> },
    TimerFired { timer_id: String, started: i64 },
}

impl Run {
    /// Writes what has happened into the history.
    pub(super) fn record(&mut self, occurrence: Occurrence, now: Timestamp) {
        match occurrence {
            Occurrence::ActivityCompleted { scheduled, result } => {
                // The start of an activity is written with its end, as by Temporal's own server.
                let started = ActivityTaskStartedEventAttributes {
                    scheduled_event_id: scheduled,
                    attempt: 1,
                    ..Default::default()
                };
                let started = self.history.push(EventType::ActivityTaskStarted, now, started);
                let completed = ActivityTaskCompletedEventAttributes {
                    result,
                    scheduled_event_id: scheduled,
                    started_event_id: started,
                    ..Default::default()
                };
                self.history.push(EventType::ActivityTaskCompleted, now, completed);
            }
            Occurrence::TimerFired { timer_id, started } => {
                let fired = TimerFiredEventAttributes { timer_id, started_event_id: started };
                self.history.push(EventType::TimerFired, now, fired);
            }
        }
    }
}

/// Events, each encoded once: a whole history and a partial one are both a range of these bytes.
#[derive(Debug, Default)]
pub(super) struct History {
    /// A `temporal.api.history.v1.History`.
    encoded: Vec<u8>,
    last_id: i64,
}

impl History {
    /// `History.events`.
    const EVENTS: u32 = 1;

    /// Appends an event; its id.
    pub(super) fn push(&mut self, kind: EventType, time: Timestamp, attributes: impl Into<Attributes>) -> i64 {
        self.last_id += 1;
        let event = HistoryEvent {
            event_id: self.last_id,
            event_time: Some(time),
            event_type: kind as i32,
            attributes: Some(attributes.into()),
            ..HistoryEvent::default()
        };
        message::encode(History::EVENTS, &event, &mut self.encoded);
        self.last_id
    }

    /// An offset for [`encode_from`](History::encode_from).
    pub(super) fn end(&self) -> usize {
        self.encoded.len()
    }

    /// Appends the events from an offset on, as the field `tag` of the message that lies in `into`.
    pub(super) fn encode_from(&self, offset: usize, tag: u32, into: &mut BytesMut) {
        let events = &self.encoded[offset..];
        encode_key(tag, WireType::LengthDelimited, into);
        encode_varint(events.len() as u64, into);
        into.put_slice(events);
    }
}
