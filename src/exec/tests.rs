//! Endpoints of several participants in one process: the segment can't tell.

use super::endpoint::*;
use crate::{
    lockfree::{
        descriptor::INLINE,
        participant::Name,
        table::{Cancel, Cursors},
        word::Outcome,
    },
    mem::{
        layout::Geometry,
        segment::{NoSpace, Segment},
    },
    process::exit::Exit,
};
use std::{collections::HashSet, sync::Arc, time::Duration};

/// The largest payload of the usual geometry.
const MAX_PAYLOAD: usize = 64 << 20;

/// A segment with a coordinator, and endpoints as asked for.
pub(crate) struct Pool {
    pub(crate) segment: Arc<Segment>,
    coordinator: Name,
}

impl Pool {
    pub(crate) fn new(queues: usize) -> Pool {
        let segment = Arc::new(Segment::create(Geometry::new(64, queues)).unwrap());
        let coordinator = segment.table().admit(0, 0).unwrap().unwrap();
        Pool { segment, coordinator }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        let name = self.segment.table().admit(0, 0).unwrap().unwrap();
        Endpoint::new(self.segment.clone(), name)
    }

    /// What the coordinator does when the kernel has reported the death of `name`.
    pub(crate) fn bury(&self, name: Name) {
        let table = self.segment.table();
        table.recover(&Cursors::new(table), self.coordinator, name, Exit::Signal(9).pack()).unwrap();
    }

    pub(crate) fn assert_clean(&self) {
        let audit = self.segment.table().audit();
        assert!(audit.is_clean(), "{audit}");
    }
}

fn submit(from: &Endpoint, to: To, payload: &[u8], tag: u64, max_attempts: u8) -> crate::TaskId {
    let mut draft = from.draft(payload.len()).unwrap();
    draft.payload().unwrap().copy_from_slice(payload);
    draft.submit(Submission { to, kind: 7, tag, max_attempts }).unwrap()
}

/// Claims one task and answers with its input, reversed.
fn work(worker: &Endpoint) -> bool {
    let Some(claimed) = worker.claim(worker.queue(0)).unwrap() else { return false };
    assert_eq!(claimed.kind(), 7);
    let mut output = claimed.input().unwrap().to_vec();
    output.reverse();
    assert!(claimed.complete(3, output.len(), |room| room.copy_from_slice(&output)).is_ok());
    true
}

#[test]
fn payloads_of_every_size_come_back() {
    let pool = Pool::new(1);
    let (client, worker) = (pool.endpoint(), pool.endpoint());
    for len in [0, 1, INLINE, INLINE + 1, 4096, 4097, 100_000, 1 << 20, MAX_PAYLOAD] {
        let payload: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        submit(&client, To::Queue(0), &payload, len as u64, 1);
        assert!(work(&worker));
        let done = client.take().unwrap().expect("a result");
        assert_eq!((done.tag(), done.outcome(), done.status()), (len as u64, Outcome::Completed, 3));
        assert_eq!(done.claimant(), Some(worker.name()));
        assert!(done.output().unwrap().iter().rev().eq(&payload), "{len} bytes");
    }
    pool.assert_clean();
}

#[test]
fn a_payload_beyond_the_limit_is_refused_with_both_numbers() {
    let pool = Pool::new(1);
    let (client, worker) = (pool.endpoint(), pool.endpoint());
    let refused = client.draft(MAX_PAYLOAD + 1).err().expect("too large");
    assert_eq!(refused.to_string(), "a payload of 67108865 bytes is larger than the limit of 67108864");
    assert!(!refused.is_transient());
    // As an output, too; the task is still the worker's, who can say so.
    submit(&client, To::Queue(0), b"x", 0, 1);
    let claimed = worker.claim(worker.queue(0)).unwrap().expect("a task");
    let Err((SubmitError::TooLarge { .. }, Some(claimed))) = claimed.complete(0, MAX_PAYLOAD + 1, |_| {}) else {
        panic!("accepted");
    };
    assert!(claimed.complete(9, 0, |_| {}).is_ok());
    assert_eq!(client.take().unwrap().map(|done| done.status()), Some(9));
    pool.assert_clean();
}

#[test]
fn a_full_table_and_a_full_arena_refuse_and_recover() {
    let pool = Pool::new(1);
    let (client, worker) = (pool.endpoint(), pool.endpoint());
    let mut drafts = Vec::new();
    let refused = loop {
        match client.draft(MAX_PAYLOAD) {
            Ok(draft) => drafts.push(draft),
            Err(e) => break e,
        }
    };
    assert_eq!((drafts.len(), refused), (4, NoSpace::Taken { wanted: MAX_PAYLOAD, blocks: 4 }.into()));
    drafts.clear();
    pool.assert_clean();

    let all = pool.segment.table().descriptors.len();
    for tag in 0..all as u64 {
        submit(&client, To::Queue(0), b"", tag, 1);
    }
    assert_eq!(client.draft(0).err(), Some(SubmitError::Full(all)));
    // Far more completions than the completion lane has slots: none is lost.
    while work(&worker) {}
    let mut tags = HashSet::new();
    while let Some(done) = client.take().unwrap() {
        assert!(tags.insert(done.tag()), "delivered twice");
    }
    assert_eq!(tags.len(), all);
    pool.assert_clean();
}

#[test]
fn a_cancelled_task_does_not_run_and_a_running_one_is_not_cancelled() {
    let pool = Pool::new(1);
    let (client, worker) = (pool.endpoint(), pool.endpoint());
    let id = submit(&client, To::Queue(0), b"a", 1, 1);
    assert_eq!(client.cancel(id).unwrap(), Cancel::Cancelled);
    assert_eq!(client.cancel(id).unwrap(), Cancel::Over);
    assert!(!work(&worker), "it ran though it was cancelled");
    assert_eq!(client.take().unwrap().map(|d| d.outcome()), Some(Outcome::Cancelled));

    let id = submit(&client, To::Queue(0), b"b", 2, 1);
    let claimed = worker.claim(worker.queue(0)).unwrap().expect("a task");
    assert_eq!(client.cancel(id).unwrap(), Cancel::Running(worker.name()));
    drop(claimed);
    let done = client.take().unwrap().expect("a result");
    assert_eq!((done.outcome(), done.status()), (Outcome::Completed, STATUS_ABANDONED));
    drop(done);
    // The descriptor's next life is not the old handle's.
    submit(&client, To::Queue(0), b"c", 3, 1);
    assert_eq!(client.cancel(id).unwrap(), Cancel::Over);
    assert!(work(&worker));
    drop(client.take().unwrap());
    pool.assert_clean();
}

#[test]
fn a_dead_workers_task_is_attempted_again_and_then_reported() {
    let pool = Pool::new(1);
    let client = pool.endpoint();
    submit(&client, To::Queue(0), &[1; 5000], 1, 2);
    for attempt in 1..=2 {
        let victim = pool.endpoint();
        // A SIGKILL runs no destructor.
        std::mem::forget(victim.claim(victim.queue(0)).unwrap().expect("the task"));
        assert!(client.take().unwrap().is_none());
        pool.bury(victim.name());
        assert_eq!(client.take().unwrap().is_some(), attempt == 2, "after attempt {attempt}");
    }
    pool.assert_clean();

    submit(&client, To::Queue(0), b"", 2, 1);
    let victim = pool.endpoint();
    std::mem::forget(victim.claim(victim.queue(0)).unwrap().expect("the task"));
    pool.bury(victim.name());
    let done = client.take().unwrap().expect("the report");
    assert_eq!((done.outcome(), Exit::unpack(done.exit())), (Outcome::WorkerDied, Exit::Signal(9)));
    assert_eq!(done.claimant(), Some(victim.name()));
}

#[test]
fn what_is_addressed_to_the_dead_comes_back() {
    let pool = Pool::new(1);
    let client = pool.endpoint();
    let victim = pool.endpoint();
    // On its way when the addressee dies.
    submit(&client, To::Participant(victim.name()), b"", 1, 1);
    pool.bury(victim.name());
    assert_eq!(client.take().unwrap().map(|d| d.outcome()), Some(Outcome::AddresseeDied));
    // Sent after its death; and after its id has another incarnation, which must not have it.
    for heir in [None, Some(pool.endpoint())] {
        submit(&client, To::Participant(victim.name()), b"", 2, 1);
        if let Some(heir) = heir {
            assert_eq!(heir.name().id(), victim.name().id(), "the id is used again");
            assert!(heir.claim(heir.private()).unwrap().is_none());
        }
        assert_eq!(client.take().unwrap().map(|d| (d.tag(), d.outcome())), Some((2, Outcome::AddresseeDied)));
    }
    pool.assert_clean();
}

#[test]
fn nothing_of_a_dead_client_stays() {
    let pool = Pool::new(1);
    let (client, worker) = (pool.endpoint(), pool.endpoint());
    std::mem::forget(client.draft(100_000).unwrap());
    for tag in 0..4 {
        submit(&client, To::Queue(0), &[0; 1000], tag, 3);
    }
    assert!(work(&worker));
    assert!(work(&worker));
    std::mem::forget(client.take().unwrap().expect("a result"));
    let running = worker.claim(worker.queue(0)).unwrap().expect("a task");
    pool.bury(client.name());
    // What ran goes on; nobody waits for its result.
    assert!(running.complete(0, 1000, |room| room.fill(1)).is_ok());
    assert!(!work(&worker), "a dead client's task was still there");
    pool.assert_clean();
}

#[test]
fn an_id_is_given_again_only_when_nobody_names_it() {
    let pool = Pool::new(1);
    let (client, victim) = (pool.endpoint(), pool.endpoint());
    submit(&victim, To::Queue(0), b"", 0, 1);
    let running = client.claim(client.queue(0)).unwrap().expect("a task");
    pool.bury(victim.name());
    let other = pool.endpoint();
    assert_ne!(other.name().id(), victim.name().id(), "the running task still names the id");
    drop(running);
    let heir = pool.endpoint();
    assert_eq!(heir.name().id(), victim.name().id());
    assert_ne!(heir.name(), victim.name());
}

#[test]
fn a_parked_worker_is_woken_by_a_task_and_the_client_by_its_result() {
    let pool = Pool::new(1);
    let (client, worker) = (pool.endpoint(), pool.endpoint());
    std::thread::scope(|s| {
        s.spawn(|| {
            for _ in 0..1000 {
                let claimed = worker.next(&[worker.queue(0)], || false).unwrap().expect("never stopped");
                assert!(claimed.complete(0, 0, |_| {}).is_ok());
            }
        });
        for tag in 0..1000 {
            submit(&client, To::Queue(0), b"ping", tag, 1);
            let done = loop {
                match client.take().unwrap() {
                    Some(done) => break done,
                    None => client.park(&[], None, || false),
                }
            };
            assert_eq!(done.tag(), tag);
        }
    });
    pool.assert_clean();
}

#[test]
fn a_park_ends_with_its_time_and_with_its_condition() {
    let pool = Pool::new(1);
    let client = pool.endpoint();
    client.park(&[], Some(Duration::from_millis(1)), || false);
    client.park(&[client.queue(0)], None, || true);
    assert!(pool.segment.table().idle.iter().all(|m| m.load(crate::sync::Relaxed) == 0), "an idle bit stayed");
}

#[test]
fn several_threads_of_one_client_take_each_result_once() {
    let pool = Pool::new(1);
    let (client, worker) = (pool.endpoint(), pool.endpoint());
    const TASKS: u64 = 20_000;
    let tags = std::sync::Mutex::new(HashSet::new());
    std::thread::scope(|s| {
        s.spawn(|| {
            let mut left = TASKS;
            while left > 0 {
                left -= u64::from(work(&worker));
            }
        });
        for _ in 0..2 {
            s.spawn(|| {
                while tags.lock().unwrap().len() < TASKS as usize {
                    while let Some(done) = client.take().unwrap() {
                        assert!(tags.lock().unwrap().insert(done.tag()), "delivered twice");
                    }
                    std::thread::yield_now();
                }
            });
        }
        for tag in 0..TASKS {
            let mut draft = loop {
                match client.draft(8) {
                    Ok(draft) => break draft,
                    Err(e) => assert!(e.is_transient(), "{e}"),
                }
                std::thread::yield_now();
            };
            draft.payload().unwrap().copy_from_slice(&tag.to_le_bytes());
            draft.submit(Submission { to: To::Queue(0), kind: 7, tag, max_attempts: 1 }).unwrap();
        }
    });
    pool.assert_clean();
}
