//! The little that is read and written of Temporal's messages where they pass as they are.
//!
//! All that cross the lanes have the key of what they are about as their first field: `run_id` of an activation and its completion,
//! `task_token` of an activity's task, completion and heartbeat. It is bytes in each, so one reader does for all.
//! Source: the encoding of Protocol Buffers; Core's `workflow_activation.proto`, `activity_task.proto`.

/// Number of the field that holds the key.
const KEY: u64 = 1;
/// `ActivityCancelReason::WORKER_SHUTDOWN`.
const WORKER_SHUTDOWN: u8 = 3;

/// The run id or task token of a message. `None`: it is none of those that have one, or is broken off.
pub(crate) fn key(mut message: &[u8]) -> Option<&[u8]> {
    let mut key = None;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let field = match tag & 7 {
            0 => {
                varint(&mut message)?;
                continue;
            }
            1 => take(&mut message, 8)?,
            2 => {
                let len = varint(&mut message)?;
                take(&mut message, usize::try_from(len).ok()?)?
            }
            5 => take(&mut message, 4)?,
            _ => return None,
        };
        // Of several the last one counts, as for any reader.
        if tag == KEY << 3 | 2 {
            key = Some(field);
        }
    }
    key
}

fn take<'m>(message: &mut &'m [u8], len: usize) -> Option<&'m [u8]> {
    let (taken, rest) = message.split_at_checked(len)?;
    *message = rest;
    Some(taken)
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn put(message: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    put_varint(message, u64::from(field) << 3 | 2);
    put_varint(message, bytes.len() as u64);
    message.extend_from_slice(bytes);
}

pub(super) fn put_varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

/// A `WorkflowActivation` that asks for nothing but the eviction of this run.
pub(crate) fn eviction(run_id: &[u8], why: &str) -> Vec<u8> {
    let (mut remove, mut job, mut activation) = (Vec::new(), Vec::new(), Vec::new());
    put(&mut remove, 1, why.as_bytes());
    put(&mut job, 50, &remove);
    put(&mut activation, KEY as u8, run_id);
    put(&mut activation, 5, &job);
    activation
}

/// An `ActivityTask` that cancels this attempt since its worker ends.
pub(crate) fn shutdown_cancel(task_token: &[u8]) -> Vec<u8> {
    // `is_worker_shutdown`, true.
    let details = [5 << 3, 1];
    let (mut cancel, mut task) = (vec![1 << 3, WORKER_SHUTDOWN], Vec::new());
    put(&mut cancel, 2, &details);
    put(&mut task, KEY as u8, task_token);
    put(&mut task, 4, &cancel);
    task
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_message_has_no_key() {
        for broken in
            [&b"\x0a\x05run"[..], b"\x0a", b"\x0b", b"\x80", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"]
        {
            assert_eq!(key(broken), None, "{broken:?}");
        }
        assert_eq!(key(b""), None);
    }

    #[test]
    fn other_fields_are_passed_over() {
        // field 2, varint; field 1; field 3, fixed64; field 4, fixed32; field 9, empty.
        let message = b"\x10\x96\x01\x0a\x03run\x19AAAAAAAA\x25AAAA\x4a\x00";
        assert_eq!(key(message), Some(&b"run"[..]));
    }

    #[cfg(feature = "temporal")]
    #[test]
    fn what_is_made_here_is_what_core_would_make() {
        use prost::Message;
        use temporalio_common::protos::coresdk::{
            activity_task::{
                ActivityCancelReason, ActivityCancellationDetails, ActivityTask, Cancel, activity_task::Variant,
            },
            workflow_activation::{RemoveFromCache, WorkflowActivation, workflow_activation_job::Variant as Job},
        };

        let made = eviction(b"run", "why");
        let activation = WorkflowActivation::decode(&made[..]).unwrap();
        assert!(activation.is_only_eviction() && activation.run_id == "run");
        let Some(Job::RemoveFromCache(RemoveFromCache { message, .. })) = &activation.jobs[0].variant else { panic!() };
        assert_eq!((message.as_str(), key(&made)), ("why", Some(&b"run"[..])));

        let made = shutdown_cancel(&[0xff; 200]);
        let details = ActivityCancellationDetails { is_worker_shutdown: true, ..Default::default() };
        let cancel = Cancel { reason: ActivityCancelReason::WorkerShutdown.into(), details: Some(details) };
        let task = ActivityTask { task_token: vec![0xff; 200], variant: Some(Variant::Cancel(cancel)) };
        assert_eq!(ActivityTask::decode(&made[..]).unwrap(), task);
        assert_eq!(key(&made), Some(&[0xff; 200][..]));
    }
}
