//! A source in memory, for tests.

use super::{Lease, Outcome, SourceError, TaskSource};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// A source in memory: for tests of tasks, and of what is around them. It can be told to fail, and to lose leases.
///
/// ```
/// use shmworker::sources::{Stub, TaskSource};
/// use std::time::Duration;
///
/// let source = Stub::new();
/// source.add(r#"{"task":"echo","args":1}"#);
/// let leases = source.fetch(10, Duration::ZERO)?;
/// assert_eq!(leases[0].id, "0/1"); // the job's number, and which delivery of it this is
/// # Ok::<(), shmworker::sources::SourceError>(())
/// ```
#[derive(Debug, Default)]
pub struct Stub {
    state: Mutex<State>,
    added: Condvar,
    heartbeat: Option<Duration>,
}

#[derive(Debug, Default)]
struct State {
    jobs: Vec<Entry>,
    waiting: VecDeque<usize>,
    results: BTreeMap<usize, Outcome>,
    /// The sizes of what was asked for, with those that came.
    fetches: Vec<(usize, usize)>,
    /// The leases of each batch, whether it was stored or not.
    publishes: Vec<Vec<String>>,
    heartbeats: u64,
    failing_fetches: Failing,
    failing_publishes: Failing,
    is_shut_down: bool,
}

#[derive(Debug)]
struct Entry {
    json: String,
    deliveries: u32,
    is_leased: bool,
}

#[derive(Debug, Default)]
struct Failing {
    times: u32,
    how: Option<SourceError>,
    /// It does what it is to do before it fails: the answer is lost.
    is_late: bool,
}

impl Failing {
    fn fail(&mut self, is_late: bool) -> Result<(), SourceError> {
        if self.times == 0 || self.is_late != is_late {
            return Ok(());
        }
        self.times -= 1;
        Err(self.how.clone().unwrap_or_else(|| SourceError::Unavailable("the stub is down".to_owned())))
    }
}

impl Stub {
    /// No job.
    pub fn new() -> Stub {
        Stub::default()
    }

    /// With leases that are to be renewed so often.
    pub fn heartbeat(mut self, every: Duration) -> Stub {
        self.heartbeat = Some(every);
        self
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a job, and returns its number.
    pub fn add(&self, json: &str) -> usize {
        let mut state = self.state();
        let number = state.jobs.len();
        state.jobs.push(Entry { json: json.to_owned(), deliveries: 0, is_leased: false });
        state.waiting.push_back(number);
        self.added.notify_all();
        number
    }

    /// What was stored, by the numbers of the jobs.
    pub fn results(&self) -> Vec<(usize, Outcome)> {
        self.state().results.iter().map(|(&number, outcome)| (number, outcome.clone())).collect()
    }

    /// How often the job was handed out.
    ///
    /// # Panics
    /// For a number that no job has.
    pub fn deliveries(&self, number: usize) -> u32 {
        self.state().jobs[number].deliveries
    }

    /// How many were asked for by each fetch, and how many came.
    pub fn fetches(&self) -> Vec<(usize, usize)> {
        self.state().fetches.clone()
    }

    /// The leases of each batch that was published, those that failed too.
    pub fn publishes(&self) -> Vec<Vec<String>> {
        self.state().publishes.clone()
    }

    /// How many heartbeats there were.
    pub fn heartbeats(&self) -> u64 {
        self.state().heartbeats
    }

    /// Has it been shut down?
    pub fn is_shut_down(&self) -> bool {
        self.state().is_shut_down
    }

    /// The next fetches fail.
    pub fn fail_fetches(&self, times: u32, how: SourceError) {
        self.state().failing_fetches = Failing { times, how: Some(how), is_late: false };
    }

    /// The next batches fail; `is_late`: after they were stored, as if the answer was lost.
    pub fn fail_publishes(&self, times: u32, how: SourceError, is_late: bool) {
        self.state().failing_publishes = Failing { times, how: Some(how), is_late };
    }

    /// Takes a job away from whoever has it, to hand it out again.
    ///
    /// # Panics
    /// For a number that no job has.
    pub fn lose(&self, number: usize) {
        self.state().give_back(number);
        self.added.notify_all();
    }
}

impl State {
    fn give_back(&mut self, number: usize) {
        if std::mem::take(&mut self.jobs[number].is_leased) {
            self.waiting.push_back(number);
        }
    }

    /// The job's number, if this is its last lease.
    fn holds(&self, lease: &str) -> Option<usize> {
        let (number, delivery) = lease.split_once('/')?;
        let (number, delivery) = (number.parse::<usize>().ok()?, delivery.parse::<u32>().ok()?);
        let entry = self.jobs.get(number)?;
        (entry.is_leased && entry.deliveries == delivery).then_some(number)
    }
}

impl TaskSource for Stub {
    fn fetch(&self, room: usize, wait: Duration) -> Result<Vec<Lease>, SourceError> {
        let mut state = self.state();
        state.failing_fetches.fail(false)?;
        if state.waiting.is_empty() {
            let waited = self.added.wait_timeout_while(state, wait, |state| state.waiting.is_empty());
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let n = room.min(state.waiting.len());
        state.fetches.push((room, n));
        let numbers: Vec<usize> = state.waiting.drain(..n).collect();
        let mut lease = |number: usize| {
            let entry = &mut state.jobs[number];
            (entry.is_leased, entry.deliveries) = (true, entry.deliveries + 1);
            Lease::from_json(format!("{number}/{}", entry.deliveries), &entry.json)
        };
        Ok(numbers.into_iter().map(&mut lease).collect())
    }

    fn publish(&self, outcomes: &[Outcome]) -> Result<(), SourceError> {
        let mut state = self.state();
        state.publishes.push(outcomes.iter().map(|outcome| outcome.id.clone()).collect());
        state.failing_publishes.fail(false)?;
        for outcome in outcomes {
            if let Some(number) = state.holds(&outcome.id) {
                state.jobs[number].is_leased = false;
                let earlier = state.results.insert(number, outcome.clone());
                assert!(earlier.is_none(), "a job that is over was handed out again");
            }
        }
        state.failing_publishes.fail(true)
    }

    fn heartbeat_every(&self) -> Option<Duration> {
        self.heartbeat
    }

    fn heartbeat(&self, leases: &[&str]) -> Result<Vec<String>, SourceError> {
        let mut state = self.state();
        state.heartbeats += 1;
        let is_lost = |lease: &&&str| {
            // One that was published meanwhile is over, not lost.
            let number = lease.split('/').next().and_then(|number| number.parse().ok());
            state.holds(lease).is_none() && number.is_none_or(|number| !state.results.contains_key(&number))
        };
        Ok(leases.iter().filter(is_lost).map(|&lease| lease.to_owned()).collect())
    }

    fn shut_down(&self, unstarted: &[&str]) -> Result<(), SourceError> {
        let mut state = self.state();
        state.is_shut_down = true;
        for lease in unstarted {
            if let Some(number) = state.holds(lease) {
                state.give_back(number);
            }
        }
        Ok(())
    }
}
