//! Tasks of which whichever ends first is asked for, by one thread for many: neither a thread nor a system call for each.

use super::{
    PoolError, TaskError,
    client::{Client, Done, Filed, Member},
    handle::check,
    options::TaskOptions,
    submitter::Submitter,
    tasks::JSON,
};
use crate::{TaskId, exec::endpoint::Spare, process::exit::Exit};
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
        Group { pool, id: None, spares: Vec::new(), rung: Arc::default() }
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
        let client = self.pool.client();
        let group = match self.id {
            Some(group) => group,
            None => *self.id.insert(client.open_group()?),
        };
        let member = Member { group, note };
        client.submit_in(member, &s, input.as_bytes()).map(|(_, task)| task)
    }

    pub(crate) fn cancel(&self, task: TaskId) {
        // Damage is reported by the next operation that meets it.
        let _ = self.pool.client().cancel(task);
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
                    each(note, Came::of(&done, client));
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
        }
    }
}
