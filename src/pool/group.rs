//! Tasks of which whichever ends first is asked for, by one thread for many: neither a thread nor a system call for each.

pub(crate) use super::client::Kept;
use super::{
    PoolError, TaskError,
    chunk::{self, Chunk},
    client::{Client, Done, Filed, Member},
    codec::Bytes,
    handle::{Blame, check, outcome},
    options::TaskOptions,
    submitter::Submitter,
    tasks::{CHUNK, JSON},
    worker::{AGAIN, STATUS_MIXED},
};
use crate::{
    TaskId,
    exec::endpoint::{STATUS_OK, Spare, Submission},
    lockfree::word::Outcome,
    process::exit::Exit,
};
use std::{
    sync::{
        Arc, Weak,
        atomic::{
            AtomicBool,
            Ordering::{AcqRel, Release},
        },
    },
    time::{Duration, Instant},
};

/// Results that are taken under one lock, at most.
const SEVERAL: usize = 64;

/// Tasks that are waited for together. Dropped, it wants none of what is under way.
pub(crate) struct Group<'p> {
    pool: &'p Submitter,
    /// Once there was a task.
    id: Option<usize>,
    /// Empty, but for its memory.
    spares: Vec<Spare>,
    rung: Arc<AtomicBool>,
    /// What came last, of a durable client.
    kept: Option<Kept>,
}

/// How a task of a group ended.
pub(crate) struct Came<'b> {
    /// What it gave, or why nothing.
    pub(crate) result: Result<&'b [u8], TaskError>,
    pub(crate) attempts: u32,
    /// Process id and number of the worker.
    pub(crate) ran_by: Option<(u32, u32)>,
    pub(crate) waited: Duration,
    pub(crate) ran: Duration,
    /// How its last worker ended that died over it.
    pub(crate) exit: Exit,
    /// Its own error text, where its time was over meanwhile.
    pub(crate) late: Option<&'b [u8]>,
    /// `None`: all went well.
    done: Option<&'b Done>,
}

/// Inputs in JSON that go to a worker as one task.
pub(crate) struct Items(Chunk);

impl Items {
    pub(crate) fn new() -> Items {
        Items(Chunk::new::<Bytes, Bytes>(Vec::new()))
    }

    pub(crate) fn push(&mut self, input: &str) {
        // Bytes have an encoding.
        let _ = self.0.push::<Bytes>(input.as_bytes());
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Bytes of all.
    pub(crate) fn weight(&self) -> usize {
        self.0.weight()
    }

    pub(crate) fn inputs(&self) -> impl Iterator<Item = &[u8]> {
        self.0.items::<Bytes>()
    }
}

/// How one of several that went as one task ended.
pub(crate) enum Item<'b> {
    Ended(Result<&'b [u8], TaskError>),
    /// It may be tried again.
    Again(TaskError),
    NotBegun,
}

/// Ends the wait of whoever waits for a group, from any thread.
#[derive(Clone, Debug)]
pub struct Alarm {
    /// Not kept alive: a pool that has ended has nobody who waits.
    client: Weak<Client>,
    rung: Arc<AtomicBool>,
}

impl Alarm {
    /// Has the wait that is under way end, or the next one if there is none.
    pub fn ring(&self) {
        // Release, with the exchange of whoever waits: they see what was done before the ring.
        self.rung.store(true, Release);
        if let Some(client) = self.client.upgrade() {
            client.tell();
        }
    }
}

impl<'p> Group<'p> {
    pub(crate) fn new(pool: &'p Submitter) -> Group<'p> {
        Group { pool, id: None, spares: Vec::new(), rung: Arc::default(), kept: None }
    }

    pub(crate) fn alarm(&self) -> Alarm {
        Alarm { client: Arc::downgrade(self.pool.client()), rung: self.rung.clone() }
    }

    /// Submits to a task by its name, with an input in JSON. `note`, less than 2^40, comes back with what comes of it. A
    /// [key](TaskOptions::key) is not looked at.
    ///
    /// # Errors
    /// As [`Submitter::submit_json`].
    pub(crate) fn submit_json(
        &mut self,
        note: usize,
        name: &str,
        input: &str,
        options: &TaskOptions,
    ) -> Result<TaskId, PoolError> {
        let s = options.submission(self.pool.queue(options)?, self.pool.kind_of(name)? | JSON);
        self.submit(note, &s, input.as_bytes())
    }

    /// As [`submit_json`](Self::submit_json), of several as one, of which each is tried once.
    pub(crate) fn submit_items(&mut self, note: usize, name: &str, items: &Items) -> Result<TaskId, PoolError> {
        const ONCE: &TaskOptions = &TaskOptions::new();
        let s = ONCE.submission(0, self.pool.kind_of(name)? | JSON | CHUNK);
        self.submit(note, &Submission { keeps_output: true, ..s }, items.0.payload())
    }

    /// # Errors
    /// There is no task of this name.
    pub(crate) fn check(&self, name: &str) -> Result<(), PoolError> {
        self.pool.kind_of(name).map(drop)
    }

    /// As [`submit_json`](Self::submit_json), with a key that outlives this program; or, if there is a task of a former life with this
    /// key, goes on with that.
    pub(crate) fn submit_kept(
        &mut self,
        note: usize,
        key: &str,
        name: &str,
        input: &str,
        options: &TaskOptions,
    ) -> Result<TaskId, PoolError> {
        let member = self.member(note)?;
        let client = self.pool.client();
        if let Some(task) = client.adopt_in(member, key)? {
            return Ok(task);
        }
        let s = options.submission(self.pool.queue(options)?, self.pool.kind_of(name)? | JSON);
        client.submit_in_keyed(member, key, &s, input.as_bytes()).map(|(_, task)| task)
    }

    /// What has just [come](Self::next) leaves the pool's file only once this is [let go](Kept::let_go). `None`: it has.
    pub(crate) fn kept(&mut self) -> Option<Kept> {
        self.kept.take()
    }

    fn submit(&mut self, note: usize, s: &Submission, payload: &[u8]) -> Result<TaskId, PoolError> {
        let member = self.member(note)?;
        self.pool.client().submit_in(member, s, payload).map(|(_, task)| task)
    }

    fn member(&mut self, note: usize) -> Result<Member, PoolError> {
        let group = match self.id {
            Some(group) => group,
            None => *self.id.insert(self.pool.client().open_group()?),
        };
        Ok(Member { group, note })
    }

    pub(crate) fn cancel(&self, task: TaskId) {
        // Damage is reported by the next operation that meets it.
        let _ = self.pool.client().cancel(task);
    }

    /// Cancels it if nobody runs it.
    pub(crate) fn cancel_waiting(&self, task: TaskId) {
        let client = self.pool.client();
        if client.check_home().is_ok() {
            let _ = client.endpoint().cancel_waiting(task); // as above
        }
    }

    /// Gives what has come to `each`, by the notes; if nothing has, waits for the first. False: the time is over, or the alarm rang.
    /// `own`: the tasks that are under way, of which there is one at least.
    ///
    /// # Errors
    /// Nothing will come any more.
    pub(crate) fn next(
        &mut self,
        own: impl Iterator<Item = TaskId> + Clone,
        until: Option<Instant>,
        mut each: impl FnMut(usize, Came<'_>),
    ) -> Result<bool, TaskError> {
        let Some(group) = self.id else { return Ok(false) };
        let client = self.pool.client();
        let clock = &client.endpoint().segment().table().clock;
        loop {
            let mut has_come = false;
            let landed = client.land(group, SEVERAL, &mut self.spares, |note, finished| {
                has_come = true;
                let times = finished.times();
                each(
                    note,
                    Came {
                        result: Ok(finished.output()?),
                        attempts: finished.attempts(),
                        ran_by: finished.ran_by(),
                        waited: times.waited(clock),
                        ran: times.ran(clock),
                        exit: Exit::Unknown,
                        late: None,
                        done: None,
                    },
                );
                Ok(())
            });
            if landed == Ok(false) && has_come {
                return Ok(true);
            }
            // Acquire: see `Alarm::ring`.
            let is_rung = || self.rung.swap(false, AcqRel);
            let waited = landed.and_then(|_| client.wait_any_until(group, own.clone(), until, is_rung));
            match waited.map_err(|lost| client.why(lost))? {
                Waited::Filed(note, done) => {
                    if client.is_durable() {
                        let kept = self.kept.insert(Kept::new(done));
                        each(note, Came::of(kept.done(), client));
                    } else {
                        each(note, Came::of(&done, client));
                    }
                    return Ok(true);
                }
                Waited::Look => {}
                Waited::Over => return Ok(has_come),
            }
        }
    }
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        if let Some(group) = self.id {
            self.pool.client().close_group(group);
        }
    }
}

/// How a wait for a group ended.
pub(super) enum Waited {
    Filed(usize, Filed),
    /// Some may have [landed](Client::land).
    Look,
    /// The time is over, or it was rung for.
    Over,
}

impl<'b> Came<'b> {
    fn of(done: &'b Done, client: &Client) -> Came<'b> {
        let clock = &client.endpoint().segment().table().clock;
        let ending = &done.ending;
        let result = check(done);
        let late = match result {
            Err(TaskError::TimedOut(_)) => done.bytes().ok(),
            _ => None,
        };
        Came {
            result,
            attempts: ending.attempts,
            ran_by: ending.ran_by,
            waited: ending.times.waited(clock),
            ran: ending.times.ran(clock),
            exit: ending.trouble.as_ref().map_or(Exit::Unknown, |trouble| Exit::unpack(trouble.exit)),
            late,
            done: Some(done),
        }
    }

    /// What came of each of so many [`Items`].
    pub(crate) fn items(&self, n: usize) -> Vec<Item<'b>> {
        let mut at = 0;
        let Some(done) = self.done else {
            let mut one = || match chunk::next(self.result.as_ref().map_err(TaskError::clone)?, &mut at, 1)? {
                (STATUS_OK, bytes) => Ok(bytes),
                _ => Err(chunk::damaged(at).into()), // all went well, as their task said
            };
            return (0..n).map(|_| Item::Ended(one())).collect();
        };
        let death = (done.outcome == Outcome::WorkerDied).then(|| Blame::of_item(&done.ending));
        // Of one that died, those before the one that ran are finished and in the output.
        let is_mixed = done.outcome == Outcome::Completed && done.status == STATUS_MIXED;
        let output = if death.is_some() || is_mixed { done.bytes().map_err(TaskError::from) } else { check(done) };
        let progress = done.ending.trouble.as_ref().and_then(|trouble| trouble.progress);
        let finished = if death.is_some() { progress.map_or(0, |(at, _)| at as usize) } else { n };
        let mut one = |i: usize| {
            let output = output.clone()?;
            let is_left_out = death.is_none() && at >= output.len();
            match &death {
                _ if i < finished && !is_left_out => {
                    let (status, bytes) = chunk::next(output, &mut at, 1)?;
                    match outcome(status & !AGAIN, bytes, &done.ending) {
                        Err(e) if status & AGAIN != 0 => Ok(Item::Again(e)),
                        ended => Ok(Item::Ended(ended)),
                    }
                }
                Some(blame) if i == finished && blame.is_poison => Err(TaskError::Died(blame.clone())),
                Some(blame) if i == finished => Ok(Item::Again(TaskError::Died(blame.clone()))),
                _ => Ok(Item::NotBegun),
            }
        };
        (0..n).map(|i| one(i).unwrap_or_else(|e| Item::Ended(Err(e)))).collect()
    }
}
