//! The journal of a durable client, in the terms of the pool: what is submitted is written down first, and a result before it is let
//! go of.

use super::PoolError;
use crate::{
    Outcome,
    exec::endpoint::{Endpoint, Submission, To},
    lockfree::{
        descriptor::{Backoff, Limits},
        table::TaskId,
    },
    process::step,
    state::{
        self, StateError,
        journal::{Contents, How, Journal, JournalError, Numbers, Open, Record, SyncWhen, Terms},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Journaled {
    journal: Journal,
    next: AtomicU64,
    /// Tasks that are in the journal alone, and for which there was no room yet.
    backlog: Mutex<BTreeMap<u64, Open>>,
    has_complained: AtomicBool,
}

/// What a durable client begins with.
pub(super) struct Durable {
    /// Its tasks of former lives, whose tags are their places here.
    pub(super) adopted: Vec<TaskId>,
    /// What is done and delivered by its journal.
    pub(super) done: Numbers,
    pub(super) journal: Arc<Journaled>,
}

/// Makes the end of the client of this name, whose seat it is, a durable one. Its journal lies beside the `state`, and is opened here: behind
/// the forks, since it is this process's alone. `names`: what tasks are called.
pub(super) fn begin<'n>(
    endpoint: Endpoint,
    (state, client, sync): (&Path, &str, SyncWhen),
    adopted: Vec<TaskId>,
    names: impl IntoIterator<Item = (u32, &'n str)>,
) -> Result<(Endpoint, Durable), StateError> {
    step("led");
    let id = endpoint.segment().header().identity.id;
    let (mut journal, contents) = state::open_journal(state, id, client, sync)?;
    journal.sync_in_intervals()?;
    let there: Vec<u64> = adopted.iter().map(|&task| endpoint.number_of(task)).collect();
    let (done, known) = (contents.done.clone(), contents.open.keys().copied().collect::<BTreeSet<_>>());
    let journal = Arc::new(Journaled::new(journal, contents, &there));
    let corrupted = |source| StateError::Corrupted { path: state.to_owned(), source };
    // The segment is the truth: what a journal has lost, or never had, is added.
    for (&task, number) in adopted.iter().zip(there) {
        if (number == 0 || !known.contains(&number) && !done.contains(number))
            && let (Some(s), Some(input)) = (endpoint.submission_of(task), endpoint.input_of(task).map_err(corrupted)?)
        {
            let Some(terms) = terms(&s) else { continue };
            let number = journal.number();
            // First: one that the journal does not know is added again, one that the segment does not know is submitted again.
            endpoint.set_number(task, number);
            step("numbered");
            journal.append(number, terms, endpoint.key_of(task).as_deref(), &input)?;
        }
    }
    step("journaled");
    journal.name(names)?;
    let recorder = journal.clone();
    let recorder = move |number, outcome, attempt| recorder.deliver(number, outcome, attempt);
    let endpoint = endpoint.durable().recorded_by(Box::new(recorder));
    Ok((endpoint, Durable { adopted, done, journal }))
}

impl Journaled {
    /// `contents`: of the journal; `there`: the numbers of the tasks that are in the segment.
    fn new(journal: Journal, contents: Contents, there: &[u64]) -> Journaled {
        let next = contents.next_number().max(there.iter().max().map_or(0, |last| last.saturating_add(1)));
        let mut backlog = contents.open;
        there.iter().for_each(|number| drop(backlog.remove(number)));
        Journaled {
            journal,
            next: AtomicU64::new(next),
            backlog: Mutex::new(backlog),
            has_complained: AtomicBool::new(false),
        }
    }

    /// Says what these are called.
    fn name<'n>(&self, tasks: impl IntoIterator<Item = (u32, &'n str)>) -> Result<(), JournalError> {
        tasks.into_iter().try_for_each(|(kind, name)| self.journal.name(kind, name))
    }

    /// Writes down a task that is about to be submitted. Returns its number; 0 for one that is for one process alone, and goes with it.
    pub(super) fn accept(&self, s: &Submission, key: Option<&str>, input: &[u8]) -> Result<u64, PoolError> {
        let Some(terms) = terms(s) else { return Ok(0) };
        let number = self.number();
        self.append(number, terms, key, input).map_err(|e| PoolError::Journal(e.to_string()))?;
        Ok(number)
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Relaxed) // it says nothing of anything else
    }

    fn append(&self, number: u64, terms: Terms, key: Option<&str>, input: &[u8]) -> Result<(), JournalError> {
        self.journal.append(&[Record::Accepted { number, key, terms, input }])
    }

    /// Writes down that a result was delivered. False: it could not.
    pub(super) fn deliver(&self, number: u64, outcome: Outcome, attempt: u8) -> bool {
        let how = How { end: outcome.into(), status: 0, attempts: attempt.saturating_add(1) };
        let written = self.journal.append(&[Record::Delivered { number, how }]);
        if let Err(e) = &written
            && !self.has_complained.swap(true, Relaxed)
        {
            tracing::error!("{e}: results that are taken from now on come again at the next start");
        }
        written.is_ok()
    }

    /// One of those for which there was no room yet: the first, or that with this key.
    pub(super) fn next_of_backlog(&self, key: Option<&str>) -> Option<(u64, Open)> {
        let mut backlog = self.backlog.lock().unwrap_or_else(PoisonError::into_inner);
        match key {
            None => backlog.pop_first(),
            Some(_) => {
                let number = *backlog.iter().find(|(_, open)| open.key.as_deref() == key)?.0;
                backlog.remove_entry(&number)
            }
        }
    }

    /// There was no room for it.
    pub(super) fn put_back(&self, number: u64, open: Open) {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner).insert(number, open);
    }

    pub(super) fn backlog_keys(&self) -> Vec<String> {
        let backlog = self.backlog.lock().unwrap_or_else(PoisonError::into_inner);
        backlog.values().filter_map(|open| open.key.clone()).collect()
    }
}

/// `None`: it is for one participant.
fn terms(s: &Submission) -> Option<Terms> {
    let To::Queue(queue) = s.to else { return None };
    let expires_at_ms = s.expires_in.map_or(0, |t| ms(now().saturating_add(t)).max(1));
    Some(Terms {
        kind: s.kind,
        queue: u16::try_from(queue).unwrap_or(u16::MAX),
        max_attempts: s.max_attempts,
        expires_at_ms,
        run_ms: s.limits.run_ms,
        silence_ms: s.limits.silence_ms,
        timeout_ms: s.timeout_ms,
        first_pause_ms: s.backoff.first_ms,
        longest_pause_ms: s.backoff.longest_ms,
        retry_on: s.retry_on,
        max_deaths: s.max_deaths,
    })
}

/// What is to be submitted by a journal; in the first queue, if this pool has none of that number.
pub(super) fn submission(terms: &Terms, queues: usize) -> Submission {
    let queue = usize::from(terms.queue);
    let expires_in =
        (terms.expires_at_ms != 0).then(|| Duration::from_millis(terms.expires_at_ms).saturating_sub(now()));
    Submission {
        kind: terms.kind,
        max_attempts: terms.max_attempts,
        expires_in,
        limits: Limits { run_ms: terms.run_ms, silence_ms: terms.silence_ms },
        backoff: Backoff { first_ms: terms.first_pause_ms, longest_ms: terms.longest_pause_ms },
        timeout_ms: terms.timeout_ms,
        retry_on: terms.retry_on,
        max_deaths: terms.max_deaths,
        ..Submission::new(To::Queue(if queue < queues { queue } else { 0 }))
    }
}

/// Since 1970: the one clock that goes on when the machine was down.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn ms(t: Duration) -> u64 {
    u64::try_from(t.as_millis()).unwrap_or(u64::MAX)
}
