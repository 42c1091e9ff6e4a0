//! Runs jobs in a pool, and hands out their results as they finish.

use super::{Job, JobResult, Status, exec};
use crate::{
    SubmitError,
    pool::{
        PoolError, Submitter, TaskError, TaskOptions,
        group::{Came, Group},
    },
    process::exit::Exit,
};
use serde_json::value::{RawValue, to_raw_value};
use slab::Slab;
use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

pub use crate::pool::group::Alarm;

/// Attempts of a task, at most.
const ATTEMPTS: u8 = 255;

/// Runs jobs in a pool: takes them one by one, and hands out their results in the order in which they finish. For one thread.
/// Dropped, it cancels what is under way.
///
/// ```no_run
/// use shmworker::{Pool, Tasks, jobs::{Job, Runner, Status, builtin}};
///
/// let mut tasks = Tasks::new();
/// builtin(&mut tasks);
/// let pool = Pool::builder().workers(2).fork(tasks)?;
/// let mut runner = Runner::new(&pool, 100);
/// for number in 0..10 {
///     let job: Job = serde_json::from_str(r#"{"task":"sha256","args":"some text"}"#)?;
///     if let Err(refused) = runner.submit(number, &job) {
///         println!("{number}: {:?}", refused.error);
///     }
/// }
/// while let Some((number, result)) = runner.next(None) {
///     println!("{number}: {:?}", result.status == Status::Done);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Runner<'p> {
    group: Group<'p>,
    most: usize,
    flights: Slab<Flight>,
    /// Where the job of a key is.
    keys: HashMap<String, usize>,
    /// Those that wait for the result of another with the same key.
    followers: usize,
    ready: VecDeque<(u64, JobResult)>,
    /// Of jobs that say nothing of it.
    defaults: Defaults,
    /// Why nothing can come of a job any more.
    lost: Option<String>,
}

impl std::fmt::Debug for Runner<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").field("under_way", &self.under_way()).finish_non_exhaustive()
    }
}

/// What holds for a job that does not say it itself.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Defaults {
    /// How long an attempt may run.
    pub timeout: Option<Duration>,
    /// How many attempts there may be after the first.
    pub retries: u8,
}

/// A job that is under way.
struct Flight {
    who: Waiting,
    task: String,
    id: crate::TaskId,
    key: Option<String>,
    /// Others with its key.
    followers: Vec<Waiting>,
    submitted: Instant,
}

/// Who wants a result.
struct Waiting {
    number: u64,
    label: Option<String>,
}

impl<'p> Runner<'p> {
    /// At most `most` jobs are under way at a time.
    ///
    /// # Panics
    /// For 0.
    pub fn new(pool: &'p Submitter, most: usize) -> Runner<'p> {
        assert!(most > 0, "with nothing under way nothing is done");
        Runner {
            group: Group::new(pool),
            most,
            flights: Slab::new(),
            keys: HashMap::new(),
            followers: 0,
            ready: VecDeque::new(),
            defaults: Defaults::default(),
            lost: None,
        }
    }

    /// Says what holds for jobs that don't say it themselves; by default one attempt, and no limit of time.
    pub fn defaults(mut self, defaults: Defaults) -> Self {
        self.defaults = defaults;
        self
    }

    /// How many more it would take now.
    pub fn room(&self) -> usize {
        self.most.saturating_sub(self.under_way())
    }

    /// How many were submitted whose results were not handed out.
    pub fn under_way(&self) -> usize {
        self.flights.len() + self.followers + self.ready.len()
    }

    /// Submits a job. `number`: what its result is known by; of two with the same number both come. Takes it also if there is no
    /// [`room`](Self::room); short of shared memory it sleeps until others make some.
    ///
    /// # Errors
    /// Why it is refused at once, as its result: the task is unknown, its arguments are too large, or the pool has ended.
    #[expect(clippy::result_large_err, reason = "it is a result of a job, as any other")]
    pub fn submit(&mut self, number: u64, job: &Job) -> Result<(), JobResult> {
        let who = Waiting { number, label: job.label.clone() };
        if let Some(&leader) = job.key.as_ref().and_then(|key| self.keys.get(key)) {
            self.flights[leader].followers.push(who);
            self.followers += 1;
            return Ok(());
        }
        let refused = |why: String| JobResult::without(&who, &job.task, Status::Failed, why);
        let retries = job.retries.unwrap_or(self.defaults.retries);
        if retries == ATTEMPTS {
            return Err(refused("there can be 254 retries at most".to_owned()));
        }
        let mut options = TaskOptions::new().attempts(retries + 1);
        if let Some(timeout) = job.timeout.or(self.defaults.timeout) {
            options = options.timeout(timeout);
        }
        let args = job.args.as_deref().map_or("null", RawValue::get);
        let note = self.flights.vacant_key();
        let sent = self.group.submit_json(note, &job.task, args, &options);
        let id = sent.map_err(|e| {
            if !is_of_the_job(&e) {
                self.lost.get_or_insert_with(|| e.to_string());
            }
            refused(e.to_string())
        })?;
        if let Some(key) = &job.key {
            self.keys.insert(key.clone(), note);
        }
        let key = job.key.clone();
        let submitted = Instant::now();
        self.flights.insert(Flight { who, task: job.task.clone(), id, key, followers: Vec::new(), submitted });
        Ok(())
    }

    /// The next result, with the number of its job, in the order of finishing. `None`: the time is over, nothing is under way, or
    /// an [`Alarm`] rang.
    pub fn next(&mut self, until: Option<Instant>) -> Option<(u64, JobResult)> {
        if self.ready.is_empty() && !self.flights.is_empty() {
            self.wait(until);
        }
        self.ready.pop_front()
    }

    /// Cancels a job: one that waits does not begin, one that runs is asked to end. Its result tells what became of it.
    pub fn cancel(&mut self, number: u64) {
        let mut cancelled = Vec::new();
        for (_, flight) in &mut self.flights {
            let is_his = |who: &mut Waiting| who.number == number;
            cancelled.extend(flight.followers.extract_if(.., is_his).map(|who| (who, flight.task.clone())));
            if flight.who.number != number {
                continue;
            }
            match flight.followers.is_empty() {
                true => self.group.cancel(flight.id),
                // The others want it still.
                false => {
                    let next = flight.followers.remove(0);
                    cancelled.push((std::mem::replace(&mut flight.who, next), flight.task.clone()));
                }
            }
        }
        for (who, task) in cancelled {
            self.followers -= 1;
            let result = JobResult::without(&who, &task, Status::Cancelled, "the task was cancelled".to_owned());
            self.ready.push_back((who.number, result));
        }
    }

    /// Cancels all that is under way.
    pub fn cancel_all(&mut self) {
        for (_, flight) in &self.flights {
            self.group.cancel(flight.id);
        }
    }

    /// Why the pool takes and gives nothing any more: results that came since then say nothing about their jobs.
    pub fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    /// Ends the wait of [`next`](Self::next) from another thread.
    pub fn alarm(&self) -> Alarm {
        self.group.alarm()
    }

    fn wait(&mut self, until: Option<Instant>) {
        let Runner { group, flights, keys, followers, ready, lost, .. } = self;
        let mut gone = Vec::new();
        let own = flights.iter().map(|(_, flight)| flight.id);
        let came = group.next(own, until, |note, came| {
            // Nothing but damage brings back what is not under way.
            let Some(flight) = flights.get(note) else { return };
            gone.push(note);
            let result = JobResult::of(flight, came);
            for who in &flight.followers {
                ready.push_back((who.number, JobResult { label: who.label.clone(), ..result.clone() }));
            }
            ready.push_back((flight.who.number, result));
        });
        for note in gone {
            let Some(flight) = flights.try_remove(note) else { continue };
            *followers -= flight.followers.len();
            flight.key.map(|key| keys.remove(&key));
        }
        if let Err(why) = came {
            lost.get_or_insert_with(|| why.to_string());
            for Flight { who, task, followers: others, .. } in flights.drain() {
                *followers -= others.len();
                for who in others.into_iter().chain([who]) {
                    ready.push_back((who.number, JobResult::without(&who, &task, Status::Failed, why.to_string())));
                }
            }
            keys.clear();
        }
    }
}

impl Drop for Runner<'_> {
    fn drop(&mut self) {
        self.cancel_all();
    }
}

impl JobResult {
    /// Of a job of which there is nothing but this to be said.
    fn without(who: &Waiting, task: &str, status: Status, error: String) -> JobResult {
        JobResult {
            label: who.label.clone(),
            task: task.to_owned(),
            status,
            result: None,
            error: Some(error),
            attempts: 0,
            worker: None,
            pid: None,
            exit_code: None,
            signal: None,
            waited_us: 0,
            ran_us: 0,
        }
    }

    fn of(flight: &Flight, came: Came<'_>) -> JobResult {
        let (exit_code, signal) = match came.exit {
            Exit::Code(code) => (Some(code.into()), None),
            Exit::Signal(signal) => (None, Some(signal.into())),
            Exit::Unknown => (None, None),
        };
        let mut result = JobResult {
            label: flight.who.label.clone(),
            task: flight.task.clone(),
            status: Status::Done,
            result: None,
            error: None,
            attempts: came.attempts,
            worker: came.ran_by.map(|(_, number)| format!("worker:{number}")),
            pid: came.ran_by.map(|(pid, _)| pid),
            exit_code,
            signal,
            waited_us: us(came.waited),
            ran_us: us(came.ran),
        };
        let is_exec = flight.task == exec::NAME;
        match came.result {
            Ok(bytes) => match json(bytes) {
                Ok(json) => result.result = Some(json),
                Err(why) => (result.status, result.error) = (Status::Failed, Some(why)),
            },
            Err(e) => {
                (result.status, result.error) = told(e);
                if result.ran_us == 0 && came.attempts > 0 {
                    // Its worker did not live to say it; the wait is part of it then.
                    result.ran_us = us(flight.submitted.elapsed()).saturating_sub(result.waited_us);
                }
            }
        }
        if is_exec {
            // A program that failed, or had to be ended, has left what it wrote.
            let left = came.late.and_then(|text| std::str::from_utf8(text).ok()).or(result.error.as_deref());
            if let Some(output) = left.and_then(exec::Output::of_failure) {
                let why = output.why();
                result.error = Some(if result.status == Status::Failed {
                    why
                } else {
                    format!("the task ran out of time: {why}")
                });
                (result.exit_code, result.signal) = (output.exit_code, output.signal);
                result.result = to_raw_value(&output).ok();
            } else if result.status == Status::Done {
                result.exit_code = Some(0);
            }
        }
        result
    }
}

/// Is it due to the job, or to what there is room for just now, that it was not taken?
fn is_of_the_job(error: &PoolError) -> bool {
    match error {
        PoolError::Codec(_) | PoolError::Task(_) | PoolError::Queue { .. } => true,
        PoolError::Submit(e) => e.is_transient() || matches!(e, SubmitError::TooLarge { .. }),
        _ => false,
    }
}

/// Status and text of an error.
fn told(error: TaskError) -> (Status, Option<String>) {
    let status = match &error {
        TaskError::Panicked(_) => Status::Panicked,
        TaskError::Died(_) | TaskError::AddresseeDied => Status::Died,
        TaskError::TimedOut(_) => Status::TimedOut,
        TaskError::Cancelled => Status::Cancelled,
        TaskError::Expired => Status::Expired,
        _ => Status::Failed,
    };
    let text = match error {
        TaskError::Failed(text) | TaskError::Panicked(text) => text,
        error => error.to_string(),
    };
    (status, Some(text))
}

/// What a task gave, which was asked for JSON: a plug-in may give anything.
fn json(bytes: &[u8]) -> Result<Box<RawValue>, String> {
    serde_json::from_slice(bytes).map_err(|e| format!("what the task gave is no JSON: {e}"))
}

fn us(t: Duration) -> u64 {
    t.as_micros().try_into().unwrap_or(u64::MAX)
}
