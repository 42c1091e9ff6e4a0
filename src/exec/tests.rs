//! Endpoints of several participants in one process: the segment can't tell.

use super::endpoint::*;
use crate::{
    lockfree::{
        descriptor::{Backoff, INLINE, Limits, MS, retry_on},
        participant::Name,
        recovery::{Death, SPARED},
        table::{Again, Cancel, Cursors, LaneId, Table},
        timer::{Excused, NEVER, Tick},
        word::{GENERATION_BITS, LAP_MASK, Outcome, Phase, Slot, Task},
    },
    mem::{
        layout::{Geometry, classes},
        segment::{NoSpace, Segment},
    },
    process::exit::Exit,
    sync::{NOW, Relaxed, fate},
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
        Pool::of(Geometry::new(64, queues))
    }

    pub(crate) fn of(geometry: Geometry) -> Pool {
        let segment = Arc::new(Segment::create(geometry).unwrap());
        let coordinator = segment.table().admit(0, 0).unwrap().unwrap();
        Pool { segment, coordinator }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        let name = self.segment.table().admit(0, 0).unwrap().unwrap();
        Endpoint::new(self.segment.clone(), name)
    }

    /// What the coordinator does when the kernel has reported the death of `name`.
    pub(crate) fn bury(&self, name: Name) {
        self.settle(name, Death::of(Exit::Signal(9).pack()));
    }

    pub(crate) fn settle(&self, name: Name, death: Death<'_>) {
        let table = self.segment.table();
        table.recover(&Cursors::new(table), self.coordinator, name, death).unwrap();
    }

    /// What the coordinator does when it is rung, or a time has come.
    pub(crate) fn tick(&self) -> Tick {
        let table = self.segment.table();
        table.tick(&Cursors::new(table)).unwrap()
    }

    pub(crate) fn assert_clean(&self) {
        let audit = self.segment.table().audit();
        assert!(audit.is_clean(), "{audit}");
    }
}

fn submit(from: &Endpoint, to: To, payload: &[u8], tag: u64, max_attempts: u8) -> crate::TaskId {
    from.try_submit(Submission { kind: 7, tag, max_attempts, ..Submission::new(to) }, payload).unwrap()
}

/// Claims what must be there.
#[track_caller]
pub(crate) fn claim(worker: &Endpoint) -> Claimed<'_> {
    worker.claim(worker.queue(0)).unwrap().expect("a task")
}

/// How the one result that must be there came about.
#[track_caller]
pub(crate) fn outcome(client: &Endpoint) -> Outcome {
    client.take().unwrap().expect("a result").outcome()
}

const HOUR: Duration = Duration::from_secs(3600);
const QUEUE: To = To::Queue(0);

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

/// One queue, and lanes as short as can be.
fn short_lanes(descriptors: u32) -> Geometry {
    Geometry { descriptors, queue_slots: 16, private_slots: 16, completion_slots: 16, ..Geometry::new(4, 1) }
}

#[test]
fn a_full_lane_loses_no_task() {
    let pool = Pool::of(short_lanes(64));
    let (client, worker) = (pool.endpoint(), pool.endpoint());
    let is_full = |lane| pool.segment.table().lane(lane).rescan_is_due();
    for (to, lane) in [(QUEUE, worker.queue(0)), (To::Participant(worker.name()), worker.private())] {
        for tag in 0..64 {
            submit(&client, to, b"", tag, 1);
        }
        assert!(is_full(lane));
        assert_eq!(client.try_submit(Submission::new(to), b"").err(), Some(SubmitError::Full(64)));
        while let Some(task) = worker.claim(lane).unwrap() {
            assert!(task.complete(0, 0, |_| {}).is_ok());
        }
        assert!(is_full(pool.segment.table().completion(client.name().id())));
        let mut tags = HashSet::new();
        while let Some(done) = client.take().unwrap() {
            assert!(tags.insert(done.tag()), "delivered twice");
        }
        assert_eq!(tags.len(), 64);
        pool.assert_clean();
    }
}

#[test]
fn a_lane_that_is_never_empty_starves_no_task_without_a_hint() {
    let pool = Pool::of(short_lanes(64));
    let (client, worker) = (pool.endpoint(), pool.endpoint());
    // One more than has a hint, and always another behind what is claimed.
    for tag in 0..17 {
        submit(&client, QUEUE, b"", tag, 1);
    }
    assert!(pool.segment.table().lane(worker.queue(0)).rescan_is_due());
    let is_claimed = (0..3000).any(|_| {
        let task = claim(&worker);
        submit(&client, QUEUE, b"", 0, 1);
        assert!(task.complete(0, 0, |_| {}).is_ok());
        client.take().unwrap().expect("a result").tag() == 16
    });
    assert!(is_claimed, "it waits for the lane to become empty");
}

#[test]
fn tasks_go_on_across_the_wraps_of_generation_and_lap() {
    const LAST: u64 = (1 << GENERATION_BITS) - 1;
    let pool = Pool::of(short_lanes(2));
    let (client, worker) = (pool.endpoint(), pool.endpoint());
    let table = pool.segment.table();
    table.descriptors.iter().for_each(|d| d.state.store(Task::new(Phase::Free, 0, 0, LAST - 2).0, Relaxed));
    table.slots.iter().for_each(|s| s.store(Slot::empty(LAP_MASK).0, Relaxed));
    for lane in 0..table.controls.len() as u32 {
        let words = table.lane(LaneId(lane)).words();
        [words.head, words.tail].iter().for_each(|w| w.store(LAP_MASK * 16, Relaxed));
    }
    let mut former = None;
    let names = [client.name(), worker.name()];
    for tag in 0..100 {
        // Without cursors of their own, they begin at the published ones, which lag behind.
        let [client, worker] = names.map(|name| Endpoint::new(pool.segment.clone(), name));
        let payload = vec![tag as u8; 300];
        let id = submit(&client, QUEUE, &payload, tag, 9);
        assert!(former.is_none_or(|former| client.cancel(former) == Ok(Cancel::Over)), "task {tag}");
        let claimed = claim(&worker);
        assert_eq!((claimed.input().unwrap(), claimed.attempt(), claimed.is_cancelled()), (&payload[..], 0, false));
        // The request for this life is none for the next.
        assert_eq!(client.cancel(id).unwrap(), Cancel::Running(worker.name()));
        assert!(claimed.is_cancelled());
        assert!(claimed.complete(0, 300, |room| room.copy_from_slice(&payload)).is_ok());
        let done = client.take().unwrap().expect("a result");
        assert_eq!((done.tag(), done.output().unwrap()), (tag, &payload[..]));
        drop(done);
        pool.assert_clean();
        former = Some(id);
    }
    assert!((0..2).any(|i| table.load(i).generation() < 100), "no generation has wrapped");
    let laps = |lane| table.lane(lane).words().slots.iter().map(|s| Slot(s.load(Relaxed)).lap()).max();
    assert_eq!((laps(worker.queue(0)), laps(table.completion(client.name().id()))), (Some(6), Some(6)));
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
    // In its hands; and killed over it.
    for (is_late, outcome) in [(false, Outcome::AddresseeDied), (true, Outcome::TimedOut)] {
        let victim = pool.endpoint();
        submit(&client, To::Participant(victim.name()), b"", 3, 2);
        let task = victim.claim(victim.private()).unwrap().expect("the task");
        let late = [task.id()];
        std::mem::forget(task);
        let late = if is_late { &late[..] } else { &[] };
        pool.settle(victim.name(), Death { late, ..Death::of(Exit::Signal(9).pack()) });
        let done = client.take().unwrap().expect("the report");
        assert_eq!((done.outcome(), done.claimant()), (outcome, Some(victim.name())));
    }
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
    assert!(pool.segment.table().idle.iter().all(|m| m.load(Relaxed) == 0), "an idle bit stayed");
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
            draft.submit(Submission { kind: 7, tag, ..Submission::new(To::Queue(0)) }).unwrap();
        }
    });
    pool.assert_clean();
}

#[test]
fn a_retry_waits_for_its_time_and_counts_as_an_attempt() {
    let pool = Pool::new(1);
    let (client, worker) = (pool.endpoint(), pool.endpoint());
    submit(&client, QUEUE, &[1; 1000], 1, 3);
    assert!(claim(&worker).give_back(Again::After(HOUR.as_nanos() as u64)).unwrap().is_none());
    let before = pool.segment.table().now();
    let next = pool.tick().next;
    assert!(next > before && next <= before + HOUR.as_nanos() as u64, "the coordinator sleeps until then");
    assert!(worker.claim(worker.queue(0)).unwrap().is_none(), "too early");
    let not_before = pool.segment.table().descriptors.iter().map(|d| &d.not_before);
    not_before.filter(|t| t.load(Relaxed) != 0).for_each(|t| t.store(1, Relaxed)); // an hour later
    assert_eq!(pool.tick().next, NEVER);
    let again = claim(&worker);
    assert_eq!((again.attempt(), again.input().unwrap()), (1, &[1; 1000][..]));
    assert!(again.give_back(Again::After(1)).unwrap().is_none());
    pool.tick();
    let last = claim(&worker);
    assert_eq!(last.attempt(), 2);
    let last = last.give_back(Again::After(1)).unwrap().expect("no attempt is left, so it is ours to complete");
    assert!(last.complete(9, 0, |_| {}).is_ok());
    assert_eq!(client.take().unwrap().map(|d| (d.outcome(), d.status())), Some((Outcome::Completed, 9)));
    pool.assert_clean();
}

#[test]
fn a_thread_that_comes_to_count_loses_no_count() {
    let pool = Pool::new(1);
    let worker = pool.endpoint();
    let finished = &pool.segment.table().participants[worker.name().id() as usize].finished;
    for round in 0..1000 {
        worker.share(false);
        let (before, counted) = (finished.load(Relaxed), std::sync::atomic::AtomicU64::new(0));
        let counts = || {
            worker.count();
            counted.fetch_add(1, Relaxed)
        };
        std::thread::scope(|scope| {
            scope.spawn(|| while counts() < 1500 {});
            while counted.load(Relaxed) < 500 {}
            worker.share(true);
            (0..100).for_each(|_| {
                counts();
            });
        });
        assert_eq!(finished.load(Relaxed) - before, counted.load(Relaxed), "round {round}");
    }
}

#[test]
fn what_is_cancelled_as_it_is_given_back_counts_as_cancelled() {
    let pool = Pool::new(1);
    let (client, worker) = (pool.endpoint(), pool.endpoint());
    for again in [Again::After(0), Again::SameAttempt] {
        let id = client.try_submit(Submission { max_attempts: 3, ..Submission::new(QUEUE) }, b"").unwrap();
        let task = claim(&worker);
        assert_eq!(client.cancel(id).unwrap(), Cancel::Running(worker.name()));
        assert!(task.give_back(again).unwrap().is_none());
        assert_eq!(client.take().unwrap().map(|done| done.outcome()), Some(Outcome::Cancelled));
    }
    submit(&client, QUEUE, b"", 1, 2);
    assert!(claim(&worker).give_back(Again::After(0)).unwrap().is_none());
    let counts = pool.segment.record(worker.name().id()).unwrap().counts();
    let told = counts.read().map(|n| (n.cancelled, n.retried)).fold((0, 0), |all, n| (all.0 + n.0, all.1 + n.1));
    assert_eq!(told, (2, 1));
}

#[test]
fn what_is_handed_back_goes_to_another_as_the_same_attempt() {
    let pool = Pool::new(1);
    let (client, worker, other) = (pool.endpoint(), pool.endpoint(), pool.endpoint());
    submit(&client, QUEUE, b"", 1, 1);
    assert!(claim(&worker).give_back(Again::SameAttempt).unwrap().is_none());
    let again = claim(&other);
    assert_eq!(again.attempt(), 0);
    drop(again);
    assert_eq!(client.take().unwrap().and_then(|d| d.claimant()), Some(other.name()));
    pool.assert_clean();
}

#[test]
fn the_next_attempt_after_a_death_waits_for_the_back_off() {
    let pool = Pool::new(1);
    let client = pool.endpoint();
    let backoff = Backoff { first_ms: 3_600_000, longest_ms: 0 };
    client.try_submit(Submission { max_attempts: 2, backoff, ..Submission::new(QUEUE) }, b"x").unwrap();
    let victim = pool.endpoint();
    std::mem::forget(claim(&victim));
    pool.bury(victim.name());
    let worker = pool.endpoint();
    assert!(worker.claim(worker.queue(0)).unwrap().is_none(), "it waits");
    assert_ne!(pool.tick().next, NEVER);
    pool.bury(client.name());
    assert_eq!(pool.tick().next, NEVER);
    pool.assert_clean();
}

#[test]
fn a_task_whose_time_is_over_does_not_start() {
    let pool = Pool::new(1);
    let (client, worker) = (pool.endpoint(), pool.endpoint());
    let soon = Submission { expires_in: Some(Duration::from_nanos(1)), ..Submission::new(QUEUE) };
    let late = Submission { expires_in: Some(HOUR), ..soon };
    // Found by the coordinator, by a worker, and while it waits for another attempt.
    client.try_submit(soon, b"").unwrap();
    assert_eq!(pool.tick().next, NEVER);
    assert_eq!(outcome(&client), Outcome::Expired);
    client.try_submit(soon, b"").unwrap();
    assert!(worker.claim(worker.queue(0)).unwrap().is_none());
    assert_eq!(outcome(&client), Outcome::Expired);
    client.try_submit(Submission { max_attempts: 2, ..soon }, b"").unwrap();
    // Not over: it runs.
    client.try_submit(late, b"").unwrap();
    assert!(pool.tick().next < NEVER);
    assert_eq!(outcome(&client), Outcome::Expired);
    drop(claim(&worker));
    assert_eq!(outcome(&client), Outcome::Completed);
    pool.assert_clean();
}

#[test]
fn a_running_task_sees_its_cancellation_and_no_other_attempt_begins() {
    let pool = Pool::new(1);
    let (client, worker) = (pool.endpoint(), pool.endpoint());
    let id = submit(&client, QUEUE, b"", 1, 9);
    let claimed = claim(&worker);
    assert!(!claimed.is_cancelled());
    assert_eq!(client.cancel(id).unwrap(), Cancel::Running(worker.name()));
    assert!(claimed.is_cancelled());
    claimed.cancelled().unwrap();
    assert_eq!(outcome(&client), Outcome::Cancelled);
    // Asked for another attempt, handed back, and dead: each ends it.
    for end in 0..3 {
        let victim = pool.endpoint();
        let id = submit(&client, QUEUE, b"", 1, 9);
        let claimed = claim(&victim);
        assert!(!claimed.is_cancelled(), "the request was for the descriptor's last life");
        assert_eq!(client.cancel(id).unwrap(), Cancel::Running(victim.name()));
        match end {
            0 => assert!(claimed.give_back(Again::Backoff).unwrap().is_none()),
            1 => assert!(claimed.give_back(Again::SameAttempt).unwrap().is_none()),
            _ => {
                std::mem::forget(claimed);
                pool.bury(victim.name());
            }
        }
        assert_eq!(outcome(&client), Outcome::Cancelled);
    }
    // While it waits for its next attempt.
    let id = submit(&client, QUEUE, b"", 1, 9);
    assert!(claim(&worker).give_back(Again::After(HOUR.as_nanos() as u64)).unwrap().is_none());
    assert_eq!(client.cancel(id).unwrap(), Cancel::Cancelled);
    assert_eq!(outcome(&client), Outcome::Cancelled);
    pool.assert_clean();
}

#[test]
fn what_takes_too_long_or_is_silent_is_named_and_then_reported() {
    let pool = Pool::new(1);
    let client = pool.endpoint();
    for limits in [Limits { run_ms: 1, silence_ms: 0 }, Limits { run_ms: 0, silence_ms: 1 }] {
        let victim = pool.endpoint();
        let id = client.try_submit(Submission { limits, ..Submission::new(QUEUE) }, b"").unwrap();
        assert!(pool.tick().next < NEVER, "the coordinator looks after it from its submission on");
        let claimed = claim(&victim);
        claimed.heartbeat();
        let late = std::iter::repeat_with(|| pool.tick().late).find(|late| !late.is_empty());
        assert_eq!(late, Some(vec![(victim.name(), id)]));
        assert!(client.take().unwrap().is_none(), "nothing is taken from the living");
        std::mem::forget(claimed);
        pool.settle(victim.name(), Death { late: &[id], ..Death::of(Exit::Signal(9).pack()) });
        assert_eq!(outcome(&client), Outcome::TimedOut);
    }
    pool.assert_clean();
}

#[test]
fn what_ends_while_its_worker_is_looked_at_is_not_named() {
    let pool = Pool::new(1);
    let (client, worker) = (pool.endpoint(), pool.endpoint());
    let table = pool.segment.table();
    let limits = Limits { run_ms: 1, silence_ms: 0 };
    let id = client.try_submit(Submission { limits, ..Submission::new(QUEUE) }, b"").unwrap();
    let mut claimed = Some(claim(&worker));
    assert!(table.is_claimed_by(worker.name(), id) && !table.is_claimed_by(client.name(), id));
    while claimed.is_some() {
        let tick = table.tick_with(&Cursors::new(table), |_, _, span, now| {
            if span.end() <= now {
                drop(claimed.take());
            }
            Excused { ns: 0, look_at: NEVER }
        });
        assert_eq!(tick.unwrap().late, []);
    }
    assert!(!table.is_claimed_by(worker.name(), id));
    assert_eq!(outcome(&client), Outcome::Completed);
    pool.assert_clean();
}

#[test]
fn what_is_limited_while_it_runs_is_named_too() {
    let pool = Pool::new(1);
    let (client, victim) = (pool.endpoint(), pool.endpoint());
    let id = client.try_submit(Submission::new(QUEUE), b"").unwrap();
    let claimed = claim(&victim);
    assert_eq!(pool.tick(), Tick { next: NEVER, late: Vec::new() }, "as long as it takes");
    claimed.end_within(HOUR);
    let tick = pool.tick();
    assert!(tick.late.is_empty() && tick.next < NEVER, "{tick:?}");
    claimed.end_within(Duration::ZERO);
    let late = std::iter::repeat_with(|| pool.tick().late).find(|late| !late.is_empty());
    assert_eq!(late, Some(vec![(victim.name(), id)]));
    std::mem::forget(claimed);
    pool.settle(victim.name(), Death { late: &[id], ..Death::of(Exit::Signal(9).pack()) });
    assert_eq!(outcome(&client), Outcome::TimedOut);
    pool.assert_clean();
}

#[test]
fn the_last_checkpoint_comes_back_with_what_is_done_or_lost() {
    let pool = Pool::new(1);
    let client = pool.endpoint();
    for left in [None, Some(&b""[..]), Some(b"half"), Some(&[7; 10_000])] {
        let worker = pool.endpoint();
        for is_lost in [false, true] {
            client.try_submit(Submission { retry_on: 0, ..Submission::new(QUEUE) }, b"").unwrap();
            let claimed = claim(&worker);
            for bytes in left.into_iter().flat_map(|last| [&b"earlier"[..], last]) {
                claimed.checkpoint(bytes).unwrap();
            }
            if is_lost {
                std::mem::forget(claimed);
                pool.bury(worker.name());
            } else {
                claimed.complete(0, 3, |room| room.copy_from_slice(b"end")).map_err(|(e, _)| e).unwrap();
            }
            let done = client.take().unwrap().expect("a result");
            assert_eq!(done.outcome(), if is_lost { Outcome::WorkerDied } else { Outcome::Completed });
            assert_eq!(done.last_checkpoint().unwrap(), left);
        }
    }
    pool.assert_clean();
}

#[test]
fn the_block_of_the_last_input_is_taken_again_if_that_leaves_one_for_an_output() {
    // Of 16 KiB.
    let pool = Pool::of(Geometry { classes: classes([0, 2, 0, 0, 0, 0, 0, 0]), ..Geometry::new(4, 1) });
    let (client, worker) = (pool.endpoint(), pool.endpoint());
    const LEN: usize = 10_000;
    let spare = || {
        assert!(claim(&worker).complete(STATUS_OK, 0, |_| {}).is_ok());
        client.take().unwrap().expect("a result").renew().unwrap()
    };
    client.sparing_draft(LEN).unwrap().submit(Submission::new(QUEUE)).unwrap();
    assert!(client.retake_block(LEN).is_none(), "it is in use");
    let first = spare();
    assert!(client.retake_block(usize::MAX).is_none());
    let block = client.retake_block(LEN).expect("both are free");
    client.redraft_in(block, first, LEN).unwrap().submit(Submission::new(QUEUE)).unwrap();
    let second = spare();
    let output = worker.draft(LEN).unwrap();
    assert!(client.retake_block(LEN).is_none(), "it is the last one");
    drop(output);
    client.give_up(second);
    drop((client, worker));
    pool.assert_clean();
}

#[test]
fn checkpoints_leave_a_block_for_an_output_of_their_size() {
    let pool = Pool::new(1);
    let (client, worker) = (pool.endpoint(), pool.endpoint());
    let bytes = vec![7; 3 << 20];
    let run = |tag| {
        submit(&client, QUEUE, b"", tag, 1);
        claim(&worker)
    };
    let mut running: Vec<_> = (0..100).map(run).collect();
    assert!(running.iter().any(|task| task.checkpoint(&bytes).is_err_and(|e| e.is_want_of_room())), "some limit");
    let last = running.pop().expect("a task");
    assert!(last.complete(0, bytes.len(), |room| room.copy_from_slice(&bytes)).is_ok(), "no room for any output");
    drop(running);
    while client.take().unwrap().is_some() {}
    pool.assert_clean();
}

#[test]
fn the_time_in_which_the_pool_was_stopped_does_not_count() {
    let pool = Pool::new(1);
    let client = pool.endpoint();
    let worker = pool.endpoint();
    let limits = Limits { run_ms: 1, silence_ms: 0 };
    client.try_submit(Submission { limits, ..Submission::new(QUEUE) }, b"").unwrap();
    let claimed = claim(&worker);
    // The pool stood still until just now; as if it had been for longer than it ran, time can't be over yet.
    pool.segment.table().was_stopped(HOUR.as_nanos() as u64);
    assert!(pool.tick().late.is_empty());
    drop(claimed);
    assert_eq!(outcome(&client), Outcome::Completed);
    pool.assert_clean();
}

/// Uses up all descriptors.
pub(crate) fn fill(client: &Endpoint) -> u64 {
    (0..).take_while(|tag| client.try_submit(Submission { tag: *tag, ..Submission::new(QUEUE) }, b"").is_ok()).count()
        as u64
}

#[test]
fn a_submitter_sleeps_until_there_is_room_or_it_is_stopped() {
    let pool = Pool::new(1);
    let (client, other, worker) = (pool.endpoint(), pool.endpoint(), pool.endpoint());
    let all = fill(&other);
    assert_eq!(client.submit(Submission::new(QUEUE), b"", || true).unwrap(), None);
    std::thread::scope(|s| {
        let submission = s.spawn(|| client.submit(Submission::new(QUEUE), b"late", || false).unwrap());
        // One at a time, until the sleeper has had its turn.
        for _ in 0..all {
            drop(claim(&worker));
            assert_eq!(outcome(&other), Outcome::Completed);
        }
        assert!(submission.join().unwrap().is_some());
    });
    assert_eq!(claim(&worker).input().unwrap(), b"late");
    // Its own results are in the way: only it can take them.
    let all = fill(&client);
    for _ in 0..all {
        drop(claim(&worker));
    }
    let refused = client.submit(Submission::new(QUEUE), b"", || false);
    assert_eq!(refused.err().map(|e| e.is_transient()), Some(true));
    while client.take().unwrap().is_some() {}
    pool.assert_clean();
}

/// The lane of an addressee, in a task that has none.
#[test]
fn a_task_for_nobody_in_the_lane_of_somebody_is_damage() {
    let pool = Pool::new(1);
    let (client, worker) = (pool.endpoint(), pool.endpoint());
    submit(&client, QUEUE, b"", 1, 2);
    let claimed = claim(&worker);
    let d = &pool.segment.table().descriptors.iter().find(|d| d.tag.load(Relaxed) == 1).unwrap();
    d.lane.store(1, Relaxed);
    assert!(claimed.give_back(Again::Backoff).is_err());
}

#[test]
fn who_waits_for_a_block_sleeps_until_one_is_free() {
    let pool = Pool::of(Geometry { classes: classes([1, 0, 0, 0, 0, 0, 0, 0]), ..Geometry::new(4, 1) });
    let (client, other) = (Arc::new(pool.endpoint()), pool.endpoint());
    let (payload, s) = ([1; 1000], Submission::new(QUEUE));
    let only = other.draft(1000).unwrap();
    assert!(matches!(client.try_submit(s, &payload), Err(SubmitError::NoSpace(NoSpace::Taken { blocks: 1, .. }))));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| client.submit(s, &payload, || false).unwrap().expect("never stopped"));
        while pool.segment.table().idle.iter().all(|mask| mask.load(Relaxed) == 0) {
            std::thread::yield_now();
        }
        let wakes = || pool.segment.table().participants[client.name().id() as usize].wakes();
        let before = wakes();
        (0..1000).for_each(|_| std::thread::yield_now());
        assert_eq!(wakes(), before, "its own tries wake it");
        drop(only);
        let id = waiting.join().unwrap();
        assert_eq!(client.cancel(id).unwrap(), Cancel::Cancelled);
    });
    assert_eq!(outcome(&client), Outcome::Cancelled);
    pool.assert_clean();
}

#[test]
fn each_thread_of_a_participant_that_sleeps_is_woken() {
    let pool = Pool::new(2);
    let (client, worker) = (pool.endpoint(), pool.endpoint());
    const ROUNDS: u64 = 2000;
    std::thread::scope(|s| {
        // One participant, a thread for each queue.
        for queue in 0..2 {
            let worker = &worker;
            s.spawn(move || {
                for _ in 0..ROUNDS {
                    let task = worker.next(&[worker.queue(queue)], || false).unwrap().expect("never stopped");
                    assert!(task.complete(0, 0, |_| {}).is_ok());
                }
            });
        }
        for _ in 0..ROUNDS {
            for queue in 0..2 {
                client.try_submit(Submission::new(To::Queue(queue)), b"").unwrap();
            }
            for _ in 0..2 {
                while client.take().unwrap().is_none() {
                    client.park(&[], None, || false);
                }
            }
        }
    });
    pool.assert_clean();
}

#[test]
fn who_was_wrongly_declared_dead_can_complete_free_and_submit_nothing() {
    let pool = Pool::new(1);
    let (client, zombie) = (pool.endpoint(), pool.endpoint());
    submit(&client, QUEUE, &[1; 5000], 1, 9);
    submit(&zombie, QUEUE, b"", 2, 1);
    let (worker, mut draft) = (pool.endpoint(), zombie.draft(5000).unwrap());
    draft.payload().unwrap().fill(7);
    let late = claim(&zombie);
    drop(claim(&worker));
    let result = zombie.take().unwrap().expect("a result");
    // Forced: it lives, and is only stopped for all that anybody knows.
    pool.bury(zombie.name());
    let again = claim(&worker);
    assert_eq!((again.attempt(), again.input().unwrap()), (1, &[1; 5000][..]));

    let Err((refused, None)) = late.complete(5, 5000, |output| output.fill(9)) else { panic!("a late completion") };
    assert!(refused.to_string().contains("declared dead"), "{refused}");
    assert!(draft.submit(Submission::new(QUEUE)).is_err(), "a late hand-out");
    let successor = pool.endpoint();
    let theirs: Vec<_> = (0..8).map(|_| successor.draft(5000).unwrap()).collect();
    drop(result); // a late free
    drop(theirs);
    assert!(again.complete(6, 3, |output| output.copy_from_slice(b"yes")).is_ok());
    let done = client.take().unwrap().expect("the result");
    assert_eq!((done.status(), done.output().unwrap()), (6, &b"yes"[..]));
    drop(done);
    assert!(client.take().unwrap().is_none());
    pool.assert_clean();
}

// ---- blame ----------------------------------------------------------------------------------------------------------

/// Claims as many tasks as there are places, and begins each in its own: slot and depth, slot 0 for not at all.
fn run_in<'w>(worker: &'w Endpoint, places: &[(u16, u16)]) -> Vec<Claimed<'w>> {
    let begin = |&(slot, depth): &(u16, u16)| {
        let task = claim(worker);
        if slot != 0 {
            task.begin(slot, depth, 7, 0);
        }
        task
    };
    places.iter().map(begin).collect()
}

/// One of several tasks that a worker runs, so that two may be told apart by more than their places.
fn several(client: &Endpoint, n: u64, s: Submission) {
    for tag in 0..n {
        client.try_submit(Submission { tag, ..s }, b"").unwrap();
    }
}

/// What became of a task after its worker's death: attempt, and whether it is suspect.
#[derive(Debug, PartialEq, Eq)]
struct After(u8, bool);

/// `places` are begun by one worker, which dies; what a second one then finds, in the order of their tags.
fn after_a_death(places: &[(u16, u16)], die: impl FnOnce(&Pool, Name, &[Claimed<'_>])) -> Vec<After> {
    let pool = Pool::new(1);
    let client = pool.endpoint();
    several(&client, places.len() as u64, Submission { max_attempts: 9, ..Submission::new(QUEUE) });
    let victim = pool.endpoint();
    let claimed = run_in(&victim, places);
    die(&pool, victim.name(), &claimed);
    claimed.into_iter().for_each(std::mem::forget);
    let worker = pool.endpoint();
    let mut next: Vec<_> = places.iter().map(|_| claim(&worker)).collect();
    let tag = |task: &Claimed<'_>| pool.segment.table().descriptors[usize::from(task.id().index)].tag.load(Relaxed);
    next.sort_by_key(tag);
    next.iter().map(|task| After(task.attempt(), task.is_suspect())).collect()
}

const KILL: u64 = Exit::Signal(9).pack();
const SEGV: Death<'_> = Death::of(Exit::Signal(11).pack());

#[test]
fn of_several_that_ran_all_are_suspects_but_who_waited_and_who_had_not_begun() {
    let found = after_a_death(&[(1, 0), (1, 1), (1, 2), (2, 0), (0, 0)], |pool, victim, _| pool.bury(victim));
    let (suspect, spent) = (|| After(1, true), || After(1, false));
    assert_eq!(found, [spent(), spent(), suspect(), suspect(), spent()]);
}

#[test]
fn the_only_one_that_ran_is_guilty() {
    for (places, guilty) in [(&[(3, 0)][..], 0), (&[(1, 0), (1, 1), (0, 0)], 1)] {
        let found = after_a_death(places, |pool, victim, _| pool.bury(victim));
        assert!(found.iter().all(|after| *after == After(1, false)), "{found:?}");
        let pool = Pool::new(1);
        let client = pool.endpoint();
        several(&client, places.len() as u64, Submission::new(QUEUE));
        let victim = pool.endpoint();
        run_in(&victim, places).into_iter().for_each(std::mem::forget);
        pool.bury(victim.name());
        for _ in places {
            let done = client.take().unwrap().expect("a report");
            assert_eq!((done.outcome(), done.deaths()), (Outcome::WorkerDied, u32::from(done.tag() == guilty)));
        }
        pool.assert_clean();
    }
}

#[test]
fn who_runs_alone_is_guilty_with_what_it_waits_for_whoever_else_waits() {
    for (places, alone, guilty) in [(&[(1, 0), (2, 0)][..], 1, 1), (&[(1, 0), (2, 0), (2, 1)], 1, 2)] {
        let pool = Pool::new(1);
        let client = pool.endpoint();
        several(&client, places.len() as u64, Submission::new(QUEUE));
        let victim = pool.endpoint();
        let claimed = run_in(&victim, places);
        claimed[alone].run_alone();
        claimed.into_iter().for_each(std::mem::forget);
        pool.bury(victim.name());
        for _ in places {
            let done = client.take().unwrap().expect("a report");
            assert_eq!(done.deaths(), u32::from(done.tag() == guilty), "{}", done.tag());
        }
        pool.assert_clean();
    }
}

#[test]
fn what_a_fatal_signal_was_noted_over_is_guilty_and_the_others_are_no_suspects() {
    let found = after_a_death(&[(1, 0), (2, 0), (3, 0)], |pool, victim, claimed| {
        let participant = &pool.segment.table().participants[usize::from(victim.id())];
        participant.note_fault(claimed[1].id().note());
        participant.note_fault(claimed[2].id().note());
        pool.settle(victim, SEGV);
    });
    assert_eq!(found, [After(1, false), After(1, false), After(1, false)]);
    // A note of what it had not any more says nothing, nor does one of the id's former holder.
    let stale = after_a_death(&[(1, 0), (2, 0)], |pool, victim, claimed| {
        let former = crate::TaskId { generation: claimed[0].id().generation + 1, ..claimed[0].id() };
        pool.segment.table().participants[usize::from(victim.id())].note_fault(former.note());
        pool.settle(victim, SEGV);
    });
    assert_eq!(stale, [After(1, true), After(1, true)]);
    let pool = Pool::new(1);
    let (victim, task) = (pool.endpoint(), crate::TaskId { index: 0, generation: 1 });
    pool.segment.table().participants[usize::from(victim.name().id())].note_fault(task.note());
    pool.bury(victim.name());
    let heir = pool.endpoint();
    assert_eq!(heir.name().id(), victim.name().id());
    assert_eq!(pool.segment.table().participants[usize::from(heir.name().id())].fault.load(Relaxed), 0);
}

#[test]
fn who_ran_beside_what_was_late_keeps_its_attempt() {
    // What has not begun keeps it, and what runs on top of the late one. The one that waits for that doesn't: it would submit it
    // again, for ever.
    let found = after_a_death(&[(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (0, 0)], |pool, victim, claimed| {
        pool.settle(victim, Death { late: &[claimed[1].id()], ..Death::of(KILL) });
    });
    let (same, next) = (|| After(0, false), || After(1, false));
    assert_eq!(found, [next(), next(), same(), same(), same(), same()]);
    // Unless it is not to be begun again after any death.
    let pool = Pool::new(1);
    let client = pool.endpoint();
    several(&client, 2, Submission { retry_on: 0, ..Submission::new(QUEUE) });
    let victim = pool.endpoint();
    let claimed = run_in(&victim, &[(1, 0), (2, 0)]);
    pool.settle(victim.name(), Death { late: &[claimed[0].id()], ..SEGV });
    claimed.into_iter().for_each(std::mem::forget);
    let outcomes = [(); 2].map(|()| client.take().unwrap().map(|done| (done.tag(), done.outcome(), done.deaths())));
    let expected = [(0, Outcome::TimedOut, 1), (1, Outcome::WorkerDied, 0)].map(Some);
    assert!(outcomes == expected || outcomes.iter().rev().eq(&expected), "{outcomes:?}");
    pool.assert_clean();
}

#[test]
fn what_a_slot_began_after_the_late_one_ended_keeps_its_attempt() {
    let pool = Pool::new(1);
    let (client, victim) = (pool.endpoint(), pool.endpoint());
    several(&client, 2, Submission::new(QUEUE));
    let late = claim(&victim);
    let id = late.id();
    drop(late); // between the look that found it late and the signal
    assert_eq!(outcome(&client), Outcome::Completed);
    run_in(&victim, &[(1, 0)]).into_iter().for_each(std::mem::forget);
    pool.settle(victim.name(), Death { late: &[id], ..Death::of(KILL) });
    assert!(client.take().unwrap().is_none());
    assert_eq!(claim(&pool.endpoint()).attempt(), 0);
}

#[test]
fn who_runs_beside_what_is_late_again_and_again_comes_to_an_end() {
    let pool = Pool::new(1);
    let client = pool.endpoint();
    let id = submit(&client, QUEUE, b"", 1, 2);
    let is_killed_beside_another = || {
        let victim = pool.endpoint();
        run_in(&victim, &[(1, 0)]).into_iter().for_each(std::mem::forget);
        let another = crate::TaskId { index: id.index + 1, ..id };
        pool.settle(victim.name(), Death { late: &[another], ..Death::of(KILL) });
    };
    for _ in 0..=SPARED {
        is_killed_beside_another();
    }
    assert!(client.take().unwrap().is_none(), "it has a second attempt");
    is_killed_beside_another();
    let done = client.take().unwrap().expect("a report");
    assert_eq!((done.outcome(), done.attempts(), done.deaths()), (Outcome::WorkerDied, 2, 0));
    drop(done);
    pool.assert_clean();
}

#[test]
fn a_suspect_that_comes_to_an_end_is_none_any_more() {
    let pool = Pool::new(1);
    let client = pool.endpoint();
    several(&client, 2, Submission { max_attempts: 9, ..Submission::new(QUEUE) });
    let victim = pool.endpoint();
    run_in(&victim, &[(1, 0), (2, 0)]).into_iter().for_each(std::mem::forget);
    pool.bury(victim.name());
    let worker = pool.endpoint();
    let [first, second] = [claim(&worker), claim(&worker)];
    assert!(first.give_back(Again::SameAttempt).unwrap().is_none());
    let handed_back = claim(&worker);
    assert!(handed_back.is_suspect(), "it did not run");
    assert!(second.give_back(Again::After(0)).unwrap().is_none());
    let again = claim(&worker);
    assert!(!again.is_suspect());
    assert_eq!((again.attempt(), handed_back.attempt()), (2, 1));
}

#[test]
fn what_has_killed_too_many_is_set_aside_whatever_attempts_are_left() {
    let limits = Limits { run_ms: 1, silence_ms: 0 };
    for (max_deaths, is_late) in [(2, false), (2, true), (0, false), (u8::MAX, false)] {
        let pool = Pool::new(1);
        let client = pool.endpoint();
        let s = Submission { max_attempts: 4, max_deaths, limits, ..Submission::new(QUEUE) };
        let id = client.try_submit(s, b"why").unwrap();
        let has_limit = max_deaths == 2;
        let deaths = if has_limit { 2 } else { 4 };
        for _ in 0..deaths {
            assert!(client.take().unwrap().is_none());
            let victim = pool.endpoint();
            let task = claim(&victim);
            task.begin(1, 0, 9, 0);
            task.progress(3, 8);
            std::mem::forget(task);
            let late = if is_late { &[id][..] } else { &[] };
            pool.settle(victim.name(), Death { peak_kib: 4096, late, ..Death::of(Exit::Signal(9).pack()) });
        }
        let done = client.take().unwrap().expect("set aside");
        assert_eq!(done.outcome(), if is_late { Outcome::TimedOut } else { Outcome::WorkerDied });
        assert_eq!((done.attempts(), done.deaths(), done.is_poison()), (deaths, deaths, has_limit));
        assert_eq!((done.peak_kib(), done.progress()), (Some(4096), Some((3, 8))));
        assert_eq!(done.ran_by(), Some((std::process::id(), 9)));
        assert_eq!(done.input().unwrap(), b"why");
        drop(done);
        pool.assert_clean();
    }
}

#[test]
fn deaths_and_deadlines_are_retried_only_where_that_is_wanted() {
    for (retry_on, after_death, after_deadline) in [
        (retry_on::DIED | retry_on::TIMED_OUT, None, None),
        (retry_on::DIED, None, Some(Outcome::TimedOut)),
        (retry_on::TIMED_OUT, Some(Outcome::WorkerDied), None),
        (retry_on::FAILED, Some(Outcome::WorkerDied), Some(Outcome::TimedOut)),
    ] {
        for (is_late, expected) in [(false, after_death), (true, after_deadline)] {
            let pool = Pool::new(1);
            let client = pool.endpoint();
            let s = Submission { max_attempts: 2, retry_on, ..Submission::new(QUEUE) };
            let id = client.try_submit(s, b"").unwrap();
            let victim = pool.endpoint();
            let task = claim(&victim);
            assert_eq!(task.retry_on(), retry_on);
            std::mem::forget(task);
            let late = if is_late { &[id][..] } else { &[] };
            pool.settle(victim.name(), Death { late, ..Death::of(Exit::Signal(9).pack()) });
            assert_eq!(client.take().unwrap().map(|done| done.outcome()), expected, "{retry_on} {is_late}");
            assert_eq!(pool.endpoint().claim(client.queue(0)).unwrap().is_some(), expected.is_none());
        }
    }
}

#[test]
fn a_recovery_that_another_has_begun_finds_nobody_guilty() {
    let pool = Pool::new(1);
    let client = pool.endpoint();
    several(&client, 2, Submission { max_attempts: 9, max_deaths: 1, ..Submission::new(QUEUE) });
    let victim = pool.endpoint();
    let claimed = run_in(&victim, &[(1, 0), (2, 0)]);
    // As a coordinator leaves it that dies after the first of two: one is settled, and one adopted.
    let table = pool.segment.table();
    let [settled, adopted] = [0, 1].map(|i| claimed[i].id());
    let dead = pool.endpoint().name();
    let word = table.load(adopted.index);
    table.exchange(adopted.index, word, word.to(Phase::Claimed, dead.id()), Relaxed).unwrap();
    table.participants[usize::from(victim.name().id())]
        .member
        .store(crate::lockfree::word::Member::Dead(victim.name().incarnation()).bits(), Relaxed);
    claimed.into_iter().for_each(std::mem::forget);
    pool.bury(victim.name());
    pool.bury(dead);
    let worker = pool.endpoint();
    for _ in [settled, adopted] {
        let task = claim(&worker);
        assert!(task.is_suspect(), "{:?}", task.id());
    }
}

// ---- checkpoints, progress and outputs in place ---------------------------------------------------------------------

#[test]
fn a_checkpoint_is_there_for_the_next_attempt_however_the_last_one_ended() {
    let pool = Pool::new(1);
    let client = pool.endpoint();
    submit(&client, QUEUE, b"", 1, 9);
    let first = pool.endpoint();
    let task = claim(&first);
    assert_eq!(task.last_checkpoint().unwrap(), None);
    for bytes in [&b"a"[..], &[], &[7; 5000]] {
        task.checkpoint(bytes).unwrap();
        assert_eq!(task.last_checkpoint().unwrap().as_deref(), Some(bytes));
    }
    std::mem::forget(task);
    pool.bury(first.name());
    let second = pool.endpoint();
    let task = claim(&second);
    assert_eq!(task.last_checkpoint().unwrap().as_deref(), Some(&[7; 5000][..]));
    assert!(task.give_back(Again::SameAttempt).unwrap().is_none());
    let task = claim(&second);
    assert_eq!(task.last_checkpoint().unwrap().as_deref(), Some(&[7; 5000][..]));
    // What is refused leaves the former one.
    let refused = task.checkpoint(&vec![0; MAX_PAYLOAD + 1]).unwrap_err();
    assert!(matches!(refused, SubmitError::TooLarge { .. }));
    assert_eq!(task.last_checkpoint().unwrap().as_deref(), Some(&[7; 5000][..]));
    let audit = pool.segment.table().audit();
    assert!(audit.violations.is_empty() && audit.blocks_in_use == 1, "{audit}");
    drop(task);
    drop(client.take().unwrap().expect("the result"));
    pool.assert_clean();
    // The descriptor's next life has none.
    submit(&client, QUEUE, b"", 2, 1);
    assert_eq!(claim(&second).last_checkpoint().unwrap(), None);
    drop(client.take().unwrap());
    pool.assert_clean();
}

#[test]
fn a_checkpoint_without_room_leaves_the_former_and_waits_for_none() {
    let pool = Pool::of(Geometry { classes: classes([2, 0, 0, 0, 0, 0, 0, 0]), ..Geometry::new(4, 1) });
    let (client, worker) = (pool.endpoint(), pool.endpoint());
    submit(&client, QUEUE, b"", 1, 9);
    let task = claim(&worker);
    task.checkpoint(b"first").unwrap();
    let other = client.draft(1000).unwrap();
    assert!(task.checkpoint(b"second").unwrap_err().is_transient());
    assert_eq!(task.last_checkpoint().unwrap().as_deref(), Some(&b"first"[..]));
    drop(other);
    task.checkpoint(b"second").unwrap();
    assert_eq!(task.last_checkpoint().unwrap().as_deref(), Some(&b"second"[..]));
    drop(task);
    drop(client.take().unwrap());
    pool.assert_clean();
}

#[test]
fn an_output_is_written_in_place_and_may_turn_out_shorter() {
    let pool = Pool::new(1);
    let (client, worker) = (pool.endpoint(), pool.endpoint());
    for (reserved, len) in [(10, 10), (5000, 5000), (5000, 3), (5000, 9000), (0, 0)] {
        submit(&client, QUEUE, &[3; 400], 1, 1);
        let mut task = claim(&worker);
        let (running, mut writer) = task.split();
        let input = running.input().unwrap();
        // A first guess, too small, that is given up.
        for (len, byte) in [(300, 1), (reserved, 2)] {
            writer.reserve(len).unwrap();
            writer.bytes().unwrap().fill(byte);
        }
        running.checkpoint(input).unwrap();
        assert_eq!(running.last_checkpoint().unwrap().as_deref(), Some(&[3; 400][..]));
        writer.truncate(len).unwrap();
        task.complete_reserved(5).unwrap();
        let done = client.take().unwrap().expect("the result");
        assert_eq!((done.status(), done.output().unwrap()), (5, &vec![2; len.min(reserved)][..]));
        drop(done);
        pool.assert_clean();
    }
    // What was reserved and not completed is nobody's: given up, ended as asked, given up as its end was asked for,
    // abandoned, or answered otherwise.
    for end in 0..5 {
        let id = submit(&client, QUEUE, b"", 1, 2);
        let mut task = claim(&worker);
        task.writer().reserve(5000).unwrap();
        match end {
            0 => {
                assert!(task.give_back(Again::SameAttempt).unwrap().is_none());
                drop(claim(&worker));
            }
            1 => task.cancelled().unwrap(),
            2 => {
                assert_eq!(client.cancel(id).unwrap(), Cancel::Running(worker.name()));
                assert!(task.give_back(Again::Backoff).unwrap().is_none());
            }
            3 => drop(task),
            _ => assert!(task.complete(0, 0, |_| {}).is_ok()),
        }
        assert_eq!(client.take().unwrap().expect("the result").output().unwrap(), b"", "{end}");
        pool.assert_clean();
    }
}

#[test]
fn a_task_whose_output_cannot_be_written_is_given_up() {
    let pool = Pool::new(1);
    let (client, worker) = (pool.endpoint(), pool.endpoint());
    submit(&client, QUEUE, b"", 1, 1);
    let task = claim(&worker);
    let fill = |_: &mut [u8]| std::panic::resume_unwind(Box::new("of what fills it"));
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| task.complete(0, 5000, fill).is_ok()));
    assert!(ended.is_err());
    let done = client.take().unwrap().expect("it is over");
    assert_eq!((done.status(), done.output().unwrap()), (STATUS_ABANDONED, &[][..]));
    drop(done);
    pool.assert_clean();
}

#[test]
fn a_result_says_how_long_it_waited_and_ran_and_how_often() {
    NOW.set(Some(1_000_000_000));
    let pass = |ms| NOW.set(NOW.get().map(|now| now + ms * MS));
    let pool = Pool::new(1);
    let (client, worker) = (pool.endpoint(), pool.endpoint());
    let s = Submission { max_attempts: 3, timeout_ms: 50, ..Submission::new(QUEUE) };
    client.try_submit(s, b"").unwrap();
    pass(5);
    let task = claim(&worker);
    assert_eq!((task.timeout(), task.time_left()), (Some(ms(50)), Some(ms(50))));
    task.begin(1, 0, 2, 0);
    pass(20);
    assert_eq!(task.time_left(), Some(ms(30)));
    task.progress(1, 0);
    assert!(task.give_back(Again::After(0)).unwrap().is_none());
    let task = claim(&worker);
    task.begin(1, 0, 2, 0);
    pass(60);
    assert_eq!(task.time_left(), Some(Duration::ZERO));
    drop(task);
    pass(1);
    let done = client.take().unwrap().expect("the result");
    let clock = pool.segment.table().clock;
    let times = |done: &Finished<'_>| (done.times().waited(&clock), done.times().ran(&clock));
    assert_eq!((times(&done), done.attempts()), ((ms(25), ms(60)), 2));
    assert_eq!((done.progress(), done.deaths(), done.is_poison(), done.peak_kib()), (None, 0, false, None));
    drop(done);
    // One that nobody has begun.
    let id = client.try_submit(Submission::new(QUEUE), b"").unwrap();
    pass(3);
    assert_eq!(client.cancel(id).unwrap(), Cancel::Cancelled);
    let done = client.take().unwrap().expect("the report");
    assert_eq!((times(&done), done.attempts(), done.ran_by()), ((ms(3), Duration::ZERO), 0, None));
    NOW.set(None);
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A worker dies before each write of two checkpoints, and whoever settles that dies before each write of its own; then
/// the next attempt leaves a checkpoint and has an output in a block.
#[test]
fn a_death_at_any_step_of_a_checkpoint_or_of_its_recovery_leaves_one_whole_and_leaks_none() {
    let is_over = |k: u32, j: u32| {
        let arena = classes([4, 0, 0, 0, 0, 0, 0, 0]);
        let pool = Pool::of(Geometry { participants: 8, classes: arena, ..short_lanes(1) });
        let (table, client) = (pool.segment.table(), pool.endpoint());
        submit(&client, QUEUE, b"", 1, 9);
        let victim = pool.endpoint();
        let mut task = claim(&victim);
        task.begin(1, 0, 0, 0);
        let kept = std::cell::Cell::new(0);
        let leave = |task: &mut Claimed<'_>, n: u8| {
            task.checkpoint(&vec![n; 1000 + usize::from(n)]).unwrap();
            kept.set(n);
        };
        let lived = fate::mortal(k, || (1..=2).for_each(|n| leave(&mut task, n))).is_some();
        std::mem::forget(task);

        let [dying, successor] = [(); 2].map(|()| table.admit(0, 0).unwrap().unwrap());
        let recover = |me, dead| table.recover(&Cursors::new(table), me, dead, SEGV).unwrap();
        let survived = fate::mortal(j, || recover(dying, victim.name())).is_some();
        for dead in [dying, victim.name()] {
            recover(successor, dead);
        }
        let worker = pool.endpoint();
        let mut task = claim(&worker);
        let found = task.last_checkpoint().unwrap().map_or(0, |bytes| {
            assert!(bytes.iter().all(|b| *b == bytes[0]) && bytes.len() == 1000 + usize::from(bytes[0]));
            bytes[0]
        });
        assert!([kept.get(), kept.get() + 1].contains(&found), "{found} after {}, {k} and {j}", kept.get());
        // What recovery has freed is taken for an output of the same life, and stays that.
        let mut writer = task.writer();
        writer.reserve(1000).unwrap();
        writer.bytes().unwrap().fill(9);
        leave(&mut task, 3);
        leave(&mut task, 4);
        task.complete_reserved(0).unwrap();
        let done = client.take().unwrap().expect("the result");
        assert_eq!(done.output().unwrap(), [9; 1000]);
        assert!(done.deaths() <= 1, "a death was counted {} times", done.deaths());
        drop(done);
        pool.assert_clean();
        (lived, survived)
    };
    let mut deaths = 0;
    for k in 1.. {
        let mut lived = false;
        for j in 1.. {
            let survived;
            (lived, survived) = is_over(k, j);
            deaths += 1;
            if survived {
                break;
            }
        }
        if lived {
            break;
        }
    }
    assert!(deaths > 400, "{deaths} deaths");
}

/// Else who supervises it takes it for one that has died before it had done anything, and lets its successor wait.
#[test]
fn who_dies_at_any_step_of_a_task_s_end_has_the_task_or_has_counted_it() {
    let pool = Pool::new(1);
    let (table, client) = (pool.segment.table(), pool.endpoint());
    for k in 1.. {
        submit(&client, QUEUE, b"", 1, 1);
        let victim = pool.endpoint();
        let task = claim(&victim);
        task.begin(1, 0, 0, 0);
        let lived = fate::mortal(k, || task.complete_reserved(0).unwrap()).is_some();
        let settled = table.recover(&Cursors::new(table), pool.coordinator, victim.name(), SEGV).unwrap();
        let finished = victim.participant().finished.load(Relaxed);
        assert!(settled.failed > 0 || finished == 1, "dead before step {k}");
        drop(client.take().unwrap().expect("the task, done or failed"));
        if lived {
            assert!(k > 3, "{k} steps");
            break;
        }
    }
    pool.assert_clean();
}

// ---- seats ----------------------------------------------------------------------------------------------------------

/// The seat of a durable client, which nobody has.
fn seat(pool: &Pool) -> Name {
    let table = pool.segment.table();
    let name = table.admit(0, 0).unwrap().unwrap();
    table.participants[usize::from(name.id())].keep_for("main");
    name
}

/// Whoever has the seat from now on.
fn durable(pool: &Pool, name: Name) -> Endpoint {
    Endpoint::new(pool.segment.clone(), name).durable()
}

#[test]
fn a_seat_keeps_what_waits_and_what_is_done_and_nothing_else() {
    let pool = Pool::new(1);
    let name = seat(&pool);
    let (client, worker) = (durable(&pool, name), pool.endpoint());
    for tag in 1..=3 {
        submit(&client, QUEUE, &[tag; 1000], tag.into(), 1);
        assert!(tag == 3 || work(&worker));
    }
    let taken = client.take().unwrap().expect("the first result");
    let mut draft = client.draft(1000).unwrap();
    draft.payload().unwrap().fill(4);
    std::mem::forget((taken, draft));
    pool.bury(name);
    assert!(pool.segment.table().is_live(name).unwrap(), "its name goes on");

    let client = durable(&pool, name);
    assert!(work(&worker) && !work(&worker), "the third waits still");
    let mut tags: Vec<u64> = std::iter::from_fn(|| client.take().unwrap().map(|done| done.tag())).collect();
    tags.sort_unstable();
    assert_eq!(tags, [1, 2, 3]);
    pool.assert_clean();
}

#[test]
fn drafts_where_its_tasks_were_keep_no_seat() {
    let pool = Pool::new(1);
    let name = seat(&pool);
    let (client, other) = (durable(&pool, name), pool.endpoint());
    submit(&client, QUEUE, b"", 1, 1);
    claim(&pool.endpoint()).complete_reserved(0).unwrap();
    drop(client.take().unwrap().unwrap());
    let drafts: Vec<_> = std::iter::from_fn(|| other.draft(0).ok()).collect();
    assert_eq!(drafts.len(), pool.segment.table().descriptors.len());
    assert_eq!(pool.segment.table().leave_seat(name), Ok(true));
}

#[test]
fn what_a_durable_client_was_reading_has_its_outcome_again() {
    let pool = Pool::new(1);
    let name = seat(&pool);
    let client = durable(&pool, name);
    let cancelled = submit(&client, QUEUE, b"", 1, 1);
    assert_eq!(client.cancel(cancelled), Ok(Cancel::Cancelled));
    let s = Submission { expires_in: Some(Duration::from_millis(1)), tag: 2, ..Submission::new(QUEUE) };
    client.try_submit(s, b"").unwrap();
    NOW.set(Some(pool.segment.table().now() + 2 * MS));
    pool.tick();
    let victim = pool.endpoint();
    submit(&client, QUEUE, b"", 3, 1);
    std::mem::forget(claim(&victim));
    pool.bury(victim.name());
    for _ in 0..3 {
        // Taken by one after another, none of whom lets it go.
        let client = durable(&pool, name);
        let mut all = std::iter::from_fn(|| client.take().unwrap())
            .map(|done| {
                let found = (done.tag(), done.outcome(), done.exit() != 0);
                done.leave();
                found
            })
            .collect::<Vec<_>>();
        all.sort_unstable_by_key(|found| found.0);
        assert_eq!(all, [(1, Outcome::Cancelled, false), (2, Outcome::Expired, false), (3, Outcome::WorkerDied, true)]);
        pool.bury(name);
    }
}

/// What a start does that finds a segment which nobody has any more.
fn start(table: &Table<'_>) {
    table.bury_all(&[]).unwrap();
    let me = table.admit(0, 0).unwrap().unwrap();
    table.recover_all(&Cursors::new(table), me, &[], 0, |_, _| ()).unwrap();
    table.bury_all(&[me]).unwrap();
}

#[test]
fn a_seat_is_given_back_once_nothing_names_it_also_where_all_places_are_taken() {
    let pool = Pool::of(Geometry { participants: 4, ..short_lanes(3) });
    let (table, name) = (pool.segment.table(), seat(&pool));
    let is_seat = || table.participants[usize::from(name.id())].is_seat();
    let client = durable(&pool, name);
    submit(&client, QUEUE, &[1], 1, 1);
    while table.admit(0, 0).unwrap().is_some() {}
    start(table);
    assert!(is_seat());
    assert!(work(&pool.endpoint()));
    start(table);
    assert!(is_seat());
    drop(durable(&pool, name).take().unwrap().expect("the result"));
    start(table);
    assert!(!is_seat());
    assert_eq!(table.participants.iter().filter(|p| p.is_seat()).count(), 0);
}

#[test]
fn a_kill_of_all_costs_what_ran_an_attempt_and_blames_nobody() {
    let pool = Pool::new(1);
    let (table, name) = (pool.segment.table(), seat(&pool));
    let s = Submission { max_attempts: 3, max_deaths: 1, ..Submission::new(QUEUE) };
    durable(&pool, name).try_submit(s, b"").unwrap();
    for attempt in 0..3 {
        let worker = pool.endpoint();
        let task = claim(&worker);
        assert_eq!((task.attempt(), task.is_suspect()), (attempt, false));
        task.begin(1, 0, 0, 0);
        std::mem::forget(task);
        start(table);
    }
    let client = durable(&pool, name);
    let done = client.take().unwrap().expect("no attempt is left");
    assert_eq!((done.outcome(), done.deaths(), done.is_poison()), (Outcome::WorkerDied, 0, false));
}

/// Each step of a submission, of taking a result and of letting it go is the last one of all, and then each step of settling that.
#[test]
fn a_durable_client_that_dies_at_any_step_gets_each_result_until_it_lets_it_go() {
    let is_over = |k: u32, j: u32| {
        let arena = classes([6, 0, 0, 0, 0, 0, 0, 0]);
        let pool = Pool::of(Geometry { participants: 8, classes: arena, ..short_lanes(3) });
        let (table, name) = (pool.segment.table(), seat(&pool));
        let (client, worker) = (durable(&pool, name), pool.endpoint());
        submit(&client, QUEUE, &[1; 1000], 1, 1);
        assert!(work(&worker));
        let (come, has_taken) = (std::cell::Cell::new(0), std::cell::Cell::new(false));
        let lived = fate::mortal(k, || {
            submit(&client, QUEUE, &[2; 1000], 2, 1);
            come.set(1);
            let done = client.take().unwrap().expect("the first result");
            has_taken.set(true);
            assert_eq!(done.output().unwrap(), [1; 1000]);
            drop(done);
            come.set(2);
        });

        let survived = fate::mortal(j, || start(table)).is_some();
        start(table);
        let audit = table.audit();
        assert!(audit.violations.is_empty(), "{audit} after {k} and {j}");

        let (client, worker) = (durable(&pool, name), pool.endpoint());
        while work(&worker) {}
        let found: Vec<u64> = std::iter::from_fn(|| client.take().unwrap())
            .map(|done| {
                assert!(done.output().unwrap().iter().all(|b| u64::from(*b) == done.tag()));
                done.tag()
            })
            .collect();
        let count = |tag| found.iter().filter(|found| **found == tag).count();
        match (come.get(), has_taken.get()) {
            (2, _) => assert_eq!(count(1), 0, "let go, {k} and {j}"),
            (_, false) => assert_eq!(count(1), 1, "not taken, {k} and {j}"),
            (_, true) => assert!(count(1) <= 1, "{k} and {j}"),
        }
        if come.get() > 0 {
            assert_eq!(count(2), 1, "{k} and {j}")
        } else {
            assert!(count(2) <= 1, "{k} and {j}")
        }
        pool.assert_clean();
        (lived.is_some(), survived, count(1))
    };
    let (mut deaths, mut again) = (0, 0);
    for k in 1.. {
        let mut lived = false;
        for j in 1.. {
            let (survived, count);
            (lived, survived, count) = is_over(k, j);
            (deaths, again) = (deaths + 1, again + count);
            if survived {
                break;
            }
        }
        if lived {
            break;
        }
    }
    assert!(deaths > 400 && again > 100, "{deaths} deaths, {again} results again");
}
