//! The loop between a source and a pool: leases in, results out.
//!
//! # Threads
//!
//! The caller's runs the jobs; one fetches, one publishes, one keeps leases alive. What they say to each other lies in one [`State`]
//! under one lock, which nobody holds while it talks to the source or the pool.
//!
//! # A lease's life
//!
//! ```text
//!    fetched ─▶ waiting ─▶ running ─▶ ended ─▶ published
//!                  │          │
//!                  │          └── cancelled, for its lease is lost (dropped), or for the end's sake (given back)
//!                  └── lost (dropped), or at the end given back
//! ```
//!
//! It is held until its result is published, and what is held is bounded: by the room for jobs, and by how many results may wait
//! while the source is down. Nothing is acknowledged but by its result, so whatever dies here comes again.

use super::{
    Lease, Outcome, SourceError, Stop, TaskSource,
    stop::{CANCEL, DRAIN},
};
use crate::{
    jobs::{Alarm, Defaults, Job, JobResult, Runner, Status},
    pool::Submitter,
};
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// So much work may be fetched ahead of what runs.
const AHEAD: Duration = Duration::from_millis(100);
/// So many jobs for each that runs, at most.
const MOST_AHEAD: usize = 100;
/// As much of results is published at a time, but for a single one that is larger: servers bound what they take at once.
const BATCH_BYTES: usize = 1 << 20;
/// So many batches of results may wait while the source is down.
const BATCHES: usize = 10;
/// Of the mean time that jobs run, the part that is due to the last of them.
const SHARE: f64 = 1.0 / 16.0;

/// How jobs are fetched, and results published.
///
/// ```
/// use shmworker::sources::Options;
/// use std::time::Duration;
///
/// let options = Options::new().batch(500, Duration::from_millis(5)).give_up(Duration::from_secs(5));
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    ahead: Option<usize>,
    batch: usize,
    delay: Duration,
    wait: Duration,
    first_pause: Duration,
    longest_pause: Duration,
    give_up: Duration,
    defaults: Defaults,
    stop: Stop,
    #[cfg(feature = "otlp")]
    tracer: Option<Arc<crate::traces::Tracer>>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            ahead: None,
            batch: 100,
            delay: Duration::from_millis(20),
            wait: Duration::from_secs(1),
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(10),
            give_up: Duration::from_secs(30),
            defaults: Defaults::default(),
            stop: Stop::new(),
            #[cfg(feature = "otlp")]
            tracer: None,
        }
    }
}

impl Options {
    /// Tells this one of each job.
    #[cfg(all(feature = "cli", feature = "otlp"))]
    pub(crate) fn traced(mut self, tracer: Option<Arc<crate::traces::Tracer>>) -> Options {
        self.tracer = tracer;
        self
    }

    /// The defaults.
    pub fn new() -> Options {
        Options::default()
    }

    /// How many jobs may wait here for a worker. By default as many as the workers run in 100 ms, by how long jobs ran so far: one
    /// for each worker at least, 100 at most.
    pub fn ahead(mut self, n: usize) -> Options {
        self.ahead = Some(n);
        self
    }

    /// Results are published so many at a time, and none later than that after its job has ended; by default 100 and 20 ms.
    ///
    /// # Panics
    /// For 0 results.
    pub fn batch(mut self, n: usize, delay: Duration) -> Options {
        assert!(n > 0, "a batch has a result at least");
        (self.batch, self.delay) = (n, delay);
        self
    }

    /// How long the source may wait for jobs before it says that there are none, by default 1 s. So long a drain may take although
    /// nothing runs.
    pub fn wait(mut self, at_most: Duration) -> Options {
        self.wait = at_most;
        self
    }

    /// The pause before the second attempt to reach a source that is down, and the longest pause; by default 100 ms and 10 s. Each is
    /// twice the one before, less up to half by lot.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Options {
        (self.first_pause, self.longest_pause) = (first, longest);
        self
    }

    /// How long, at the end, it is tried to publish to a source that is down; by default 30 s. Jobs whose results are not published
    /// come again.
    pub fn give_up(mut self, after: Duration) -> Options {
        self.give_up = after;
        self
    }

    /// What holds for jobs that don't say it themselves.
    pub fn defaults(mut self, defaults: Defaults) -> Options {
        self.defaults = defaults;
        self
    }

    /// What ends the loop. Without, only an error does.
    pub fn stop(mut self, stop: &Stop) -> Options {
        self.stop = stop.clone();
        self
    }

    fn pauses(&self) -> Backoff {
        Backoff { first: self.first_pause, longest: self.longest_pause, tries: 0 }
    }
}

/// What a loop has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Leases that were fetched.
    pub fetched: u64,
    /// Results that were published, of jobs that are done.
    pub done: u64,
    /// Results that were published, of jobs that are not.
    pub failed: u64,
    /// Jobs that were dropped, for their leases were lost.
    pub lost: u64,
    /// Leases that were given back at the end.
    pub given_back: u64,
    /// Results that could not be published: their jobs come again.
    pub unpublished: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { done, failed, lost, given_back, unpublished, .. } = self;
        write!(f, "{} jobs published: {done} done, {failed} failed", done + failed)?;
        for (n, what) in [(lost, "lost to others"), (given_back, "given back"), (unpublished, "not published")] {
            if *n > 0 {
                write!(f, "; {n} {what}")?;
            }
        }
        Ok(())
    }
}

/// Why a loop has ended before it was told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The source won't.
    #[error("{error}")]
    Source {
        /// Why.
        error: SourceError,
        /// What was done by then.
        summary: Summary,
    },
    /// The pool has ended.
    #[error("{why}")]
    Pool {
        /// Why.
        why: String,
        /// What was done by then.
        summary: Summary,
    },
}

/// Runs the jobs of a source in a pool until it is told to [stop](Options::stop). The jobs of a source that is down, for a while or from
/// the start, are waited for.
///
/// # Errors
/// [`ServeError`]: the source won't, or the pool has ended. What ran has ended then too, and was published if it could be.
///
/// ```no_run
/// use shmworker::{Pool, Tasks, jobs, sources};
///
/// let mut tasks = Tasks::new();
/// jobs::builtin(&mut tasks);
/// let pool = Pool::builder().workers(8).fork(tasks)?;
/// let source = sources::connect("https://example.org/jobs", &sources::ConnectOptions::new())?;
/// println!("{}", sources::serve(&*source, &pool, &sources::Options::new())?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn serve(source: &dyn TaskSource, pool: &Submitter, options: &Options) -> Result<Summary, ServeError> {
    let shared = Arc::new(Shared::default());
    options.stop.wakes(&shared);
    let pump = Pump { source, options, width: pool.width().max(1), shared: &shared };
    thread::scope(|scope| {
        scope.spawn(|| pump.guarded(Pump::fetch));
        scope.spawn(|| pump.guarded(Pump::publish));
        scope.spawn(|| pump.guarded(Pump::keep));
        pump.guarded(|pump| pump.run(pool));
    });
    pump.finish()
}

/// What the threads share.
#[derive(Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// There may be room, or an end.
    fetcher: Condvar,
    /// There may be a job, a lease that was lost, or an end.
    runner: Condvar,
    /// There may be a batch, or an end.
    publisher: Condvar,
    /// There may be an end.
    keeper: Condvar,
    /// For the runner while jobs are under way.
    alarm: OnceLock<Alarm>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panics with it ends the loop: see `Pump::guarded`.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_runner(&self) {
        self.runner.notify_all();
        if let Some(alarm) = self.alarm.get() {
            alarm.ring();
        }
    }

    /// After what is no part of the state has changed.
    pub(super) fn wake_all(&self) {
        // Who has looked and not slept yet holds it.
        drop(self.lock());
        for sleepers in [&self.fetcher, &self.publisher, &self.keeper] {
            sleepers.notify_all();
        }
        self.wake_runner();
    }
}

#[derive(Default)]
struct State {
    /// By numbers that are never used twice.
    held: HashMap<u64, Held>,
    /// The numbers of the held.
    numbers: HashMap<Arc<str>, u64>,
    next: u64,
    /// Those that wait for a worker.
    inbox: VecDeque<u64>,
    /// Those that run, though their leases are lost.
    cancels: Vec<u64>,
    /// Those that have ended, but for the batch that is just published.
    outbox: VecDeque<(u64, Outcome)>,
    /// When the first of them ended.
    oldest: Option<Instant>,
    /// How many have ended and are not published.
    ended: usize,
    /// How long a job runs, in microseconds.
    mean: Option<f64>,
    /// Which roles the source last failed.
    failing: u8,
    /// Nothing runs any more, since then.
    ran: Option<Instant>,
    /// All is published that can be.
    published: bool,
    summary: Summary,
    fatal: Option<Fatal>,
}

enum Fatal {
    Source(SourceError),
    Pool(String),
}

struct Held {
    id: Arc<str>,
    stage: Stage,
}

enum Stage {
    Waiting(Box<Job>),
    Running,
    /// It runs still; nobody wants its result.
    Lost,
    /// Cancelled for the end's sake, or came after it.
    Dropped,
    Ended,
}

const FETCHING: u8 = 1;
const PUBLISHING: u8 = 2;
const KEEPING: u8 = 4;

impl State {
    fn forget(&mut self, number: u64) -> Option<Held> {
        let held = self.held.remove(&number)?;
        self.numbers.remove(&held.id);
        Some(held)
    }

    /// Its result waits to be published.
    fn ended(&mut self, number: u64, result: JobResult) {
        let Some(held) = self.held.get_mut(&number) else { return };
        held.stage = Stage::Ended;
        self.outbox.push_back((number, Outcome { id: held.id.to_string(), result }));
        self.oldest.get_or_insert_with(Instant::now);
        self.ended += 1;
    }

    fn note_time(&mut self, result: &JobResult) {
        if result.attempts > 0 {
            let ran = result.ran_us as f64;
            self.mean = Some(self.mean.map_or(ran, |mean| mean + SHARE * (ran - mean)));
        }
    }

    /// Jobs that so many workers run in [`AHEAD`].
    fn work_ahead(&self, width: usize) -> usize {
        let each = self.mean.map_or(1, |mean| (AHEAD.as_micros() as f64 / mean.max(1.0)) as usize);
        width * each.clamp(1, MOST_AHEAD)
    }
}

/// What became of a part of a batch.
enum Stored {
    Done,
    /// It is too large at once.
    Again([Vec<(u64, Outcome)>; 2]),
    /// Nothing can be stored any more; the error, if there is more to it than that the time is over.
    Over(Option<SourceError>),
}

/// A loop that runs.
struct Pump<'a> {
    source: &'a dyn TaskSource,
    options: &'a Options,
    width: usize,
    shared: &'a Shared,
}

impl Pump<'_> {
    /// A thread that panics, in a source for instance, ends the loop, and not only itself.
    fn guarded(&self, role: impl FnOnce(&Self)) {
        struct Guard<'a>(&'a Shared);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                if thread::panicking() {
                    let mut state = self.0.lock();
                    state.fatal.get_or_insert(Fatal::Pool("a thread of the loop panicked".to_owned()));
                    state.ran.get_or_insert_with(Instant::now);
                    state.published = true;
                    drop(state);
                    self.0.wake_all();
                }
            }
        }
        let _guard = Guard(self.shared);
        role(self);
    }

    fn is_stopping(&self, state: &State) -> bool {
        self.options.stop.urgency() >= DRAIN || state.fatal.is_some()
    }

    fn fail(&self, why: Fatal) {
        self.shared.lock().fatal.get_or_insert(why);
        self.shared.wake_all();
    }

    /// Says once that a source is down, and once that it is up again.
    fn tell(&self, state: &mut State, role: u8, failure: Option<&SourceError>) {
        let before = state.failing;
        match failure {
            Some(_) => state.failing |= role,
            None => state.failing &= !role,
        }
        match (before, state.failing, failure) {
            (0, _, Some(why)) => tracing::warn!("the source is unavailable, and is tried again: {why}"),
            (1.., 0, _) => tracing::warn!("the source is available again"),
            _ => {}
        }
    }

    /// How many to ask for. A queue that is half full is left alone, so that short jobs come many at a time.
    fn room(&self, state: &State) -> usize {
        let ahead = self.options.ahead.unwrap_or_else(|| state.work_ahead(self.width));
        let capacity = self.width + ahead;
        let in_hand = state.held.len() - state.ended;
        let room = capacity.saturating_sub(in_hand);
        let bound = capacity + BATCHES * self.options.batch;
        if room < (ahead / 2).max(1) { 0 } else { room.min(bound.saturating_sub(state.held.len())) }
    }

    fn fetch(&self) {
        let mut pauses = self.options.pauses();
        // Of a source that says at once that there are none.
        let wait = self.options.wait.max(self.options.first_pause);
        let mut idle = self.options.pauses();
        idle.longest = idle.longest.min(wait);
        loop {
            let state = self.shared.lock();
            let has_to_wait = |state: &mut State| {
                // Whoever can't give results away takes no more jobs.
                !self.is_stopping(state) && (self.room(state) == 0 || state.failing & PUBLISHING != 0)
            };
            let waited = self.shared.fetcher.wait_while(state, has_to_wait);
            let state = waited.unwrap_or_else(PoisonError::into_inner);
            if self.is_stopping(&state) {
                return;
            }
            let room = self.room(&state);
            drop(state);
            let every = self.source.heartbeat_every();
            let asked = Instant::now();
            let is_on = |state: &mut State| !self.is_stopping(state);
            match self.source.fetch(room, self.options.wait) {
                Ok(leases) => {
                    pauses.reset();
                    let is_hasty = leases.is_empty() && asked.elapsed() < wait / 2;
                    let mut state = self.shared.lock();
                    if self.source.heartbeat_every() != every {
                        self.shared.keeper.notify_all();
                    }
                    self.tell(&mut state, FETCHING, None);
                    if self.admit(&mut state, leases) {
                        drop(state);
                        self.shared.wake_runner();
                    } else if is_hasty {
                        let _ = self.shared.fetcher.wait_timeout_while(state, idle.pause(), is_on);
                        continue;
                    }
                    idle.reset();
                }
                Err(error @ SourceError::Fatal(_)) => return self.fail(Fatal::Source(error)),
                Err(error) => {
                    let mut state = self.shared.lock();
                    self.tell(&mut state, FETCHING, Some(&error));
                    let _ = self.shared.fetcher.wait_timeout_while(state, pauses.next(&error), is_on);
                }
            }
        }
    }

    /// True: some of them are to be run.
    fn admit(&self, state: &mut State, leases: Vec<Lease>) -> bool {
        state.summary.fetched += leases.len() as u64;
        let waiting = state.inbox.len();
        for Lease { id, job } in leases {
            let id: Arc<str> = id.into();
            // Handed out again since the answer was lost: it is the same delivery.
            if state.numbers.contains_key(&id) {
                continue;
            }
            let number = state.next;
            state.next += 1;
            state.numbers.insert(id.clone(), number);
            match job {
                Ok(job) => {
                    state.held.insert(number, Held { id, stage: Stage::Waiting(Box::new(job)) });
                    state.inbox.push_back(number);
                }
                // It came so late that nobody may be left to publish it: another says what is wrong with it.
                Err(_) if state.ran.is_some() => {
                    state.held.insert(number, Held { id, stage: Stage::Dropped });
                }
                Err(why) => {
                    state.held.insert(number, Held { id, stage: Stage::Running });
                    state.ended(number, JobResult::malformed(why));
                    self.shared.publisher.notify_all();
                }
            }
        }
        state.inbox.len() > waiting
    }

    fn run(&self, pool: &Submitter) {
        let runner = Runner::new(pool, self.width).defaults(self.options.defaults);
        #[cfg(feature = "otlp")]
        let runner = runner.traced(self.options.tracer.clone());
        let mut runner = runner;
        // The first and only one to set it.
        let _ = self.shared.alarm.set(runner.alarm());
        // For the end's sake: what waits in the pool, and what runs.
        let (mut is_emptied, mut is_cancelled) = (false, false);
        let mut jobs = Vec::new();
        loop {
            let mut state = self.shared.lock();
            let cancels = std::mem::take(&mut state.cancels);
            // Read once: a cancellation between two reads would be done before jobs are submitted for which it is meant too.
            let urgency = self.options.stop.urgency();
            let is_stopping = urgency >= DRAIN || state.fatal.is_some();
            if !is_stopping {
                let at_once = self.width.max(state.work_ahead(self.width));
                while runner.under_way() + jobs.len() < at_once
                    && let Some(number) = state.inbox.pop_front()
                {
                    let Some(held) = state.held.get_mut(&number) else { continue };
                    if let Stage::Waiting(job) = std::mem::replace(&mut held.stage, Stage::Running) {
                        jobs.push((number, job));
                    }
                }
            }
            let is_urgent = urgency >= CANCEL || matches!(state.fatal, Some(Fatal::Source(_)) if state.published);
            if is_urgent && !is_cancelled {
                (is_emptied, is_cancelled) = (true, true);
                drop(state);
                runner.cancel_all();
            } else if is_stopping && !is_emptied {
                is_emptied = true;
                drop(state);
                // Nothing is submitted after this.
                runner.cancel_waiting();
            } else if runner.under_way() == 0 && jobs.is_empty() {
                if is_stopping {
                    break;
                }
                // Whatever changes what was looked at takes the lock first.
                drop(self.shared.runner.wait(state));
                continue;
            } else {
                drop(state);
            }
            cancels.into_iter().for_each(|number| runner.cancel(number));
            for (number, job) in jobs.drain(..) {
                if let Err(result) = runner.submit(number, &job) {
                    self.has_ended(number, result, &runner, is_emptied);
                }
            }
            if let Some((number, result)) = runner.next(None) {
                self.has_ended(number, result, &runner, is_emptied);
            }
        }
        self.shared.lock().ran = Some(Instant::now());
        self.shared.publisher.notify_all();
    }

    fn has_ended(&self, number: u64, result: JobResult, runner: &Runner<'_>, is_emptied: bool) {
        let mut state = self.shared.lock();
        state.note_time(&result);
        let Some(held) = state.held.get_mut(&number) else { return };
        if let Some(why) = runner.lost() {
            // No word on the job.
            held.stage = Stage::Dropped;
            let why = why.to_owned();
            drop(state);
            return self.fail(Fatal::Pool(why));
        }
        if matches!(held.stage, Stage::Lost) {
            state.forget(number);
            state.summary.lost += 1;
        } else if is_emptied && result.status == Status::Cancelled {
            held.stage = Stage::Dropped;
        } else {
            state.ended(number, result);
            if state.outbox.len() == 1 || state.outbox.len() >= self.options.batch {
                self.shared.publisher.notify_all();
            }
        }
        if self.room(&state) > 0 {
            self.shared.fetcher.notify_all();
        }
    }

    fn publish(&self) {
        let mut pauses = self.options.pauses();
        while let Some(batch) = self.next_batch() {
            // Of a batch that is too large for the source what is left of it.
            let mut parts = vec![batch];
            while let Some(part) = parts.pop() {
                match self.store(part, &mut pauses) {
                    Stored::Done => {}
                    Stored::Again(smaller) => parts.extend(smaller),
                    Stored::Over(fatal) => {
                        self.shared.lock().published = true;
                        match fatal {
                            Some(error) => self.fail(Fatal::Source(error)),
                            None => self.shared.wake_all(),
                        }
                        return;
                    }
                }
            }
        }
        self.shared.lock().published = true;
        self.shared.wake_all();
    }

    /// Tries until they are stored, or that is hopeless.
    fn store(&self, part: Vec<(u64, Outcome)>, pauses: &mut Backoff) -> Stored {
        let (mut numbers, mut outcomes): (Vec<u64>, Vec<Outcome>) = part.into_iter().unzip();
        let mut is_replaced = false;
        loop {
            match self.source.publish(&outcomes) {
                Ok(()) => {
                    pauses.reset();
                    self.are_published(&numbers, &outcomes);
                    return Stored::Done;
                }
                Err(SourceError::TooLarge(_)) if outcomes.len() > 1 => {
                    let half = outcomes.len() / 2;
                    let rest = numbers.split_off(half).into_iter().zip(outcomes.split_off(half)).collect();
                    return Stored::Again([numbers.into_iter().zip(outcomes).collect(), rest]);
                }
                Err(SourceError::TooLarge(why)) if !is_replaced => {
                    // The source can't have it, and shall not be given its job for ever.
                    is_replaced = true;
                    outcomes.iter_mut().for_each(|outcome| outcome.result.is_too_large(&why));
                }
                Err(error @ (SourceError::Fatal(_) | SourceError::TooLarge(_))) => return Stored::Over(Some(error)),
                Err(error) => {
                    if !self.is_worth_another_try(&error, pauses) {
                        return Stored::Over(None);
                    }
                }
            }
        }
    }

    /// `None`: there will be none any more.
    fn next_batch(&self) -> Option<Vec<(u64, Outcome)>> {
        let mut state = self.shared.lock();
        loop {
            let since = state.oldest.map(|oldest| oldest.elapsed());
            let is_due = state.ran.is_some()
                || state.outbox.len() >= self.options.batch
                || since.is_some_and(|since| since >= self.options.delay);
            if is_due {
                let mut bytes = 0;
                let fits = |(_, outcome): &&(u64, Outcome)| {
                    bytes += outcome.size();
                    bytes <= BATCH_BYTES
                };
                let n = state.outbox.iter().take(self.options.batch).take_while(fits).count();
                let n = n.max(1).min(state.outbox.len());
                let batch: Vec<_> = state.outbox.drain(..n).collect();
                // Those that are left came after these: they wait for no longer than they should.
                state.oldest = (!state.outbox.is_empty()).then(Instant::now);
                return (n > 0).then_some(batch);
            }
            let publisher = &self.shared.publisher;
            state = match since {
                None => publisher.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(since) => {
                    let waited = publisher.wait_timeout(state, self.options.delay - since);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn are_published(&self, numbers: &[u64], outcomes: &[Outcome]) {
        let mut state = self.shared.lock();
        self.tell(&mut state, PUBLISHING, None);
        for (&number, outcome) in numbers.iter().zip(outcomes) {
            state.forget(number);
            match outcome.result.status {
                Status::Done => state.summary.done += 1,
                _ => state.summary.failed += 1,
            }
        }
        state.ended -= numbers.len();
        drop(state);
        self.shared.fetcher.notify_all();
    }

    /// Pauses first.
    fn is_worth_another_try(&self, error: &SourceError, pauses: &mut Backoff) -> bool {
        let mut state = self.shared.lock();
        self.tell(&mut state, PUBLISHING, Some(error));
        let mut pause = pauses.next(error);
        let paused_from = Instant::now();
        loop {
            if let Some(ran) = state.ran {
                let left = self.options.give_up.saturating_sub(ran.elapsed());
                if left.is_zero() {
                    return false;
                }
                pause = pause.min(paused_from.elapsed() + left);
            }
            let Some(left) = pause.checked_sub(paused_from.elapsed()).filter(|left| !left.is_zero()) else {
                return true;
            };
            let waited = self.shared.publisher.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn keep(&self) {
        let mut pauses = self.options.pauses();
        let mut last = Instant::now();
        let mut sooner = None;
        loop {
            let mut state = self.shared.lock();
            loop {
                if state.published {
                    return;
                }
                let keeper = &self.shared.keeper;
                let Some(every) = self.source.heartbeat_every() else {
                    state = keeper.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                };
                let left = sooner.map_or(every, |sooner| every.min(sooner)).saturating_sub(last.elapsed());
                if left.is_zero() {
                    break;
                }
                state = keeper.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            let leases: Vec<Arc<str>> =
                state.held.values().filter(|held| !matches!(held.stage, Stage::Lost)).map(|h| h.id.clone()).collect();
            drop(state);
            (last, sooner) = (Instant::now(), None);
            if leases.is_empty() {
                continue;
            }
            match self.source.heartbeat(&leases.iter().map(|id| &**id).collect::<Vec<_>>()) {
                Ok(lost) => {
                    pauses.reset();
                    let mut state = self.shared.lock();
                    self.tell(&mut state, KEEPING, None);
                    lost.iter().for_each(|id| self.is_lost(&mut state, id));
                    let has_to_cancel = !state.cancels.is_empty();
                    drop(state);
                    self.shared.fetcher.notify_all();
                    if has_to_cancel {
                        self.shared.wake_runner();
                    }
                }
                Err(error @ SourceError::Fatal(_)) => return self.fail(Fatal::Source(error)),
                Err(error) => {
                    self.tell(&mut self.shared.lock(), KEEPING, Some(&error));
                    sooner = Some(pauses.next(&error));
                }
            }
        }
    }

    /// A job that has ended is published all the same: the source knows better than its answer of a moment ago.
    fn is_lost(&self, state: &mut State, id: &str) {
        let Some(&number) = state.numbers.get(id) else { return };
        let Some(held) = state.held.get_mut(&number) else { return };
        match held.stage {
            Stage::Waiting(_) => {
                state.forget(number);
                state.inbox.retain(|&other| other != number);
                state.summary.lost += 1;
            }
            Stage::Running => {
                held.stage = Stage::Lost;
                state.cancels.push(number);
            }
            Stage::Lost | Stage::Dropped | Stage::Ended => {}
        }
    }

    /// All threads have ended.
    fn finish(&self) -> Result<Summary, ServeError> {
        let mut state = self.shared.lock();
        let unstarted: Vec<Arc<str>> =
            state.held.values().filter(|held| !matches!(held.stage, Stage::Ended)).map(|h| h.id.clone()).collect();
        state.summary.unpublished = state.ended as u64;
        let is_reachable = state.ended == 0;
        let fatal = state.fatal.take();
        let mut summary = state.summary;
        drop(state);
        if is_reachable {
            match self.source.shut_down(&unstarted.iter().map(|id| &**id).collect::<Vec<_>>()) {
                Ok(()) => summary.given_back = unstarted.len() as u64,
                Err(why) => tracing::warn!("{} leases could not be given back, and run out: {why}", unstarted.len()),
            }
        }
        match fatal {
            None => Ok(summary),
            Some(Fatal::Source(error)) => Err(ServeError::Source { error, summary }),
            Some(Fatal::Pool(why)) => Err(ServeError::Pool { why, summary }),
        }
    }
}

impl Outcome {
    /// About as many bytes has its JSON.
    fn size(&self) -> usize {
        let JobResult { result, error, label, .. } = &self.result;
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        256 + result.as_ref().map_or(0, |json| json.get().len()) + text(error) + text(label)
    }
}

impl JobResult {
    /// What is left of one that no source takes.
    fn is_too_large(&mut self, why: &str) {
        let len = self.result.take().map_or(0, |json| json.get().len()) + self.error.as_ref().map_or(0, String::len);
        self.status = Status::Failed;
        self.error = Some(format!("the source does not take its result of {len} bytes: {why}"));
    }

    /// Of what is no job.
    fn malformed(why: String) -> JobResult {
        JobResult {
            label: None,
            task: String::new(),
            status: Status::Failed,
            result: None,
            error: Some(why),
            attempts: 0,
            worker: None,
            pid: None,
            exit_code: None,
            signal: None,
            waited_us: 0,
            ran_us: 0,
        }
    }
}

/// Pauses between attempts.
struct Backoff {
    first: Duration,
    longest: Duration,
    tries: u32,
}

impl Backoff {
    fn reset(&mut self) {
        self.tries = 0;
    }

    fn pause(&mut self) -> Duration {
        let factor = 1u32.checked_shl(self.tries).unwrap_or(u32::MAX);
        self.tries += 1;
        let full = self.first.saturating_mul(factor).min(self.longest);
        // Those who lost the same server don't come back in the same moment.
        full.mul_f64(0.5 + 0.5 * fastrand::f64())
    }

    fn next(&mut self, error: &SourceError) -> Duration {
        let pause = self.pause();
        match error {
            SourceError::Busy(_, not_before) => pause.max(*not_before),
            _ => pause,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::Stub;

    #[test]
    fn pauses_grow_to_the_longest_less_up_to_half() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut pauses = Backoff { first, longest, tries: 0 };
        let down = SourceError::Unavailable(String::new());
        for full in [100, 200, 400, 800, 1000, 1000].map(Duration::from_millis) {
            let pause = pauses.next(&down);
            assert!(pause >= full / 2 && pause <= full, "{pause:?} of {full:?}");
        }
        pauses.tries = 1000;
        assert!(pauses.next(&down) <= longest);
        assert!(pauses.next(&SourceError::Busy(String::new(), longest * 5)) >= longest * 5);
        pauses.reset();
        assert!(pauses.next(&down) <= first);
    }

    #[test]
    fn what_is_no_job_and_comes_after_the_end_is_given_back() {
        let (source, options, shared) = (Stub::new(), Options::new(), Shared::default());
        let pump = Pump { source: &source, options: &options, width: 1, shared: &shared };
        for (has_ended, results) in [(false, 1), (true, 0)] {
            let mut state = State { ran: has_ended.then(Instant::now), ..State::default() };
            source.add("no job");
            assert!(!pump.admit(&mut state, source.fetch(1, Duration::ZERO).unwrap()));
            assert_eq!((state.ended, state.outbox.len(), state.held.len()), (results, results, 1));
            *shared.lock() = state;
            let summary = pump.finish().unwrap();
            assert_eq!((summary.unpublished, summary.given_back), (results as u64, 1 - results as u64));
        }
    }

    #[test]
    fn a_tenth_of_a_second_is_fetched_ahead() {
        let mut state = State::default();
        assert_eq!(state.work_ahead(4), 4);
        for (mean, each) in [(1.0, 100), (10_000.0, 10), (1e9, 1)] {
            state.mean = Some(mean);
            assert_eq!(state.work_ahead(4), 4 * each);
        }
    }
}
