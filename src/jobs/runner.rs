//! Runs jobs in a pool, and hands out their results as they finish.

use super::{Job, JobResult, Status, exec};
#[cfg(feature = "otlp")]
use crate::traces::{Open, Tracer};
use crate::{
    SubmitError, TaskId,
    pool::{
        PoolError, Submitter, TaskError, TaskOptions,
        group::{Came, Group, Item, Items, Kept},
    },
    process::exit::Exit,
};
use serde_json::value::{RawValue, to_raw_value};
use slab::Slab;
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    time::{Duration, Instant},
};
#[cfg(feature = "otlp")]
use std::{sync::Arc, time::SystemTime};

pub use crate::pool::group::Alarm;

/// Attempts of a task, at most.
const ATTEMPTS: u8 = 255;
/// Bytes of jobs that go to a worker together, at most, but for the last of them.
const WEIGHT: usize = 256 << 10;

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
    /// Jobs in these.
    in_flight: usize,
    /// How many jobs go to a worker together, and those that are to.
    chunk: usize,
    gathered: Option<Gathered>,
    /// Those of several that go to a worker again.
    again: VecDeque<Again>,
    /// All was cancelled: what would go to a worker again does not.
    is_cancelled: bool,
    /// Where the job of a key is.
    keys: HashMap<String, usize>,
    /// Those that wait for the result of another with the same key.
    followers: usize,
    ready: VecDeque<(u64, JobResult)>,
    /// What has come from a pool that lies in a file, by the numbers of its jobs, until it is let go.
    kept: HashMap<u64, Vec<Kept>>,
    /// That is when the caller says so, and not when it is handed out.
    keeps: bool,
    /// Of jobs that say nothing of it.
    defaults: Defaults,
    /// Why nothing can come of a job any more.
    lost: Option<String>,
    /// Who is told of each task.
    #[cfg(feature = "otlp")]
    tracer: Option<Arc<Tracer>>,
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

/// A task that is under way.
struct Flight {
    what: What,
    task: String,
    id: TaskId,
    submitted: Instant,
    #[cfg(feature = "otlp")]
    span: Option<Open>,
}

enum What {
    One {
        who: Waiting,
        key: Option<String>,
        /// Others with its key.
        followers: Vec<Waiting>,
        /// Attempts that it had as one of several.
        earlier: u32,
    },
    Several(Gathered),
}

/// Jobs that go to a worker together: of one task, each with so many retries.
struct Gathered {
    task: String,
    retries: u8,
    items: Items,
    who: Vec<Waiting>,
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
            in_flight: 0,
            chunk: 1,
            gathered: None,
            again: VecDeque::new(),
            is_cancelled: false,
            keys: HashMap::new(),
            followers: 0,
            ready: VecDeque::new(),
            kept: HashMap::new(),
            keeps: false,
            defaults: Defaults::default(),
            lost: None,
            #[cfg(feature = "otlp")]
            tracer: None,
        }
    }

    /// Tells this one of each task.
    #[cfg(feature = "otlp")]
    pub(crate) fn traced(mut self, tracer: Option<Arc<Tracer>>) -> Self {
        self.tracer = tracer;
        self
    }

    /// Says what holds for jobs that don't say it themselves; by default one attempt, and no limit of time.
    pub fn defaults(mut self, defaults: Defaults) -> Self {
        self.defaults = defaults;
        self
    }

    /// Sends up to so many jobs to a worker together, if they are of the same task, have no key and no trace, and their time is not limited: for tasks
    /// of microseconds. They wait for each other until they are so many, or [`next`](Self::next) is called. They are cancelled together,
    /// and not by their numbers; a death of their worker costs the one that ran an attempt, and those behind it go again.
    ///
    /// # Panics
    /// For 0.
    pub fn chunk(mut self, jobs: usize) -> Self {
        assert!(jobs > 0, "a chunk needs a job");
        self.chunk = jobs;
        self
    }

    /// Has results, which come from a pool that lies in a file, leave that only when they are [let go](Self::let_go).
    #[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "the command line alone keeps results"))]
    pub(crate) fn keeping(mut self) -> Self {
        self.keeps = true;
        self
    }

    /// The result of this job is where it is to stay.
    pub(crate) fn let_go(&mut self, number: u64) {
        self.kept.remove(&number).into_iter().flatten().for_each(Kept::let_go);
    }

    /// How many more it would take now.
    pub fn room(&self) -> usize {
        self.most.saturating_sub(self.under_way())
    }

    /// How many were submitted whose results were not handed out.
    pub fn under_way(&self) -> usize {
        let gathered = self.gathered.as_ref().map_or(0, |gathered| gathered.who.len());
        gathered + self.again.len() + self.in_flight + self.followers + self.ready.len()
    }

    /// Submits a job. `number`: what its result is known by; of two with the same number both come. Takes it also if there is no
    /// [`room`](Self::room); short of shared memory it sleeps until others make some.
    ///
    /// # Errors
    /// Why it is refused at once, as its result: the task is unknown, its arguments are too large, or the pool has ended.
    #[expect(clippy::result_large_err, reason = "it is a result of a job, as any other")]
    pub fn submit(&mut self, number: u64, job: &Job) -> Result<(), JobResult> {
        self.submit_as(number, job, None)
    }

    /// As [`submit`](Self::submit), by itself, into a pool that lies in a file: of two programs one after another that submit a job
    /// with the same `key`, the second goes on with what the first has submitted.
    #[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "the command line alone keeps results"))]
    #[expect(clippy::result_large_err, reason = "as above")]
    pub(crate) fn submit_kept(&mut self, number: u64, job: &Job, key: &str) -> Result<(), JobResult> {
        self.submit_as(number, job, Some(key))
    }

    #[expect(clippy::result_large_err, reason = "as above")]
    fn submit_as(&mut self, number: u64, job: &Job, kept_key: Option<&str>) -> Result<(), JobResult> {
        self.is_cancelled = false;
        let who = Waiting { number, label: job.label.clone() };
        if let Some(&leader) = job.key.as_ref().and_then(|key| self.keys.get(key))
            && let What::One { followers, .. } = &mut self.flights[leader].what
        {
            followers.push(who);
            self.followers += 1;
            return Ok(());
        }
        let retries = job.retries.unwrap_or(self.defaults.retries);
        if retries == ATTEMPTS {
            return Err(self.refuse(&who, &job.task, "there can be 254 retries at most"));
        }
        let mut options = TaskOptions::new().attempts(retries + 1);
        if let Some(parent) = &job.traceparent {
            let traced = options.traceparent(parent);
            options = traced.map_err(|e| self.refuse(&who, &job.task, e))?;
        }
        let args = job.args.as_deref().map_or("null", RawValue::get);
        let timeout = job.timeout.or(self.defaults.timeout);
        let is_plain = job.key.is_none() && job.traceparent.is_none() && kept_key.is_none();
        if self.chunk > 1 && timeout.is_none() && is_plain && args.len() < WEIGHT {
            return self.gather(who, &job.task, args, retries);
        }
        if let Some(timeout) = timeout {
            options = options.timeout(timeout);
        }
        self.send(who, &job.task, args, (job.key.as_ref(), kept_key), &options, 0)
    }

    #[expect(clippy::result_large_err, reason = "as above")]
    fn send(
        &mut self,
        who: Waiting,
        task: &str,
        args: &str,
        (key, kept_key): (Option<&String>, Option<&str>),
        options: &TaskOptions,
        earlier: u32,
    ) -> Result<(), JobResult> {
        #[cfg(feature = "otlp")]
        let span = self.tracer.as_ref().map(|tracer| tracer.begin(task, options.trace()));
        #[cfg(feature = "otlp")]
        let options = &options.clone().traced(span.as_ref().map(Open::context));
        let sent = self.insist(|group, note| match kept_key {
            Some(key) => group.submit_kept(note, key, task, args, options),
            None => group.submit_json(note, task, args, options),
        });
        let (note, id) = match sent {
            Ok(sent) => sent,
            Err(e) => {
                let refused = JobResult::without(&who, task, Status::Failed, e.to_string());
                #[cfg(feature = "otlp")]
                span.into_iter().for_each(|span| span.end(&refused));
                return Err(refused);
            }
        };
        if let Some(key) = key {
            self.keys.insert(key.clone(), note);
        }
        let what = What::One { who, key: key.cloned(), followers: Vec::new(), earlier };
        self.flights.insert(Flight {
            what,
            task: task.to_owned(),
            id,
            submitted: Instant::now(),
            #[cfg(feature = "otlp")]
            span,
        });
        self.in_flight += 1;
        Ok(())
    }

    /// The result of a job for which no span was begun.
    fn refuse(&self, who: &Waiting, task: &str, why: impl fmt::Display) -> JobResult {
        let refused = JobResult::without(who, task, Status::Failed, why.to_string());
        #[cfg(feature = "otlp")]
        self.tracer.iter().for_each(|tracer| tracer.tell(&refused, SystemTime::now()));
        refused
    }

    /// Submits; for want of memory again after each result that comes, which gives some back, until nothing is under way.
    fn insist(
        &mut self,
        submit: impl Fn(&mut Group<'p>, usize) -> Result<TaskId, PoolError>,
    ) -> Result<(usize, TaskId), PoolError> {
        let mut is_rung = false;
        let sent = loop {
            let note = self.flights.vacant_key();
            match submit(&mut self.group, note) {
                Err(PoolError::Submit(e)) if e.is_transient() && !self.flights.is_empty() => {
                    is_rung |= !self.collect(None);
                }
                sent => break sent.map(|id| (note, id)),
            }
        };
        if is_rung {
            // It is for `next`.
            self.group.alarm().ring();
        }
        sent.inspect_err(|e| {
            if !is_of_the_job(e) {
                self.lost.get_or_insert_with(|| e.to_string());
            }
        })
    }

    #[expect(clippy::result_large_err, reason = "as above")]
    fn gather(&mut self, who: Waiting, task: &str, args: &str, retries: u8) -> Result<(), JobResult> {
        let is_another = |gathered: &mut Gathered| gathered.task != task || gathered.retries != retries;
        if self.gathered.as_mut().is_some_and(is_another) {
            self.send_gathered();
        }
        if self.gathered.is_none() {
            let known = self.group.check(task);
            known.map_err(|e| self.refuse(&who, task, e))?;
        }
        let gathered = self.gathered.get_or_insert_with(|| Gathered {
            task: task.to_owned(),
            retries,
            items: Items::new(),
            who: Vec::new(),
        });
        gathered.items.push(args);
        gathered.who.push(who);
        if gathered.items.len() >= self.chunk || gathered.items.weight() >= WEIGHT {
            self.send_gathered();
        }
        Ok(())
    }

    fn send_gathered(&mut self) {
        let Some(gathered) = self.gathered.take() else { return };
        let Gathered { task, items, who, .. } = &gathered;
        match self.insist(|group, note| group.submit_items(note, task, items)) {
            Ok((_, id)) => {
                self.in_flight += who.len();
                let (task, submitted) = (task.clone(), Instant::now());
                self.flights.insert(Flight {
                    what: What::Several(gathered),
                    task,
                    id,
                    submitted,
                    #[cfg(feature = "otlp")]
                    span: None,
                });
            }
            Err(e) => {
                for who in who {
                    let refused = self.refuse(who, task, &e);
                    self.ready.push_back((who.number, refused));
                }
            }
        }
    }

    /// The next result, with the number of its job, in the order of finishing. `None`: the time is over, nothing is under way, or
    /// an [`Alarm`] rang.
    pub fn next(&mut self, until: Option<Instant>) -> Option<(u64, JobResult)> {
        while self.ready.is_empty() {
            self.send_gathered();
            self.send_again();
            // What came may have gone to a worker again.
            if self.flights.is_empty() || !self.wait(until) {
                break;
            }
        }
        self.next_ready()
    }

    /// As [`next`](Self::next), of those that have been seen to finish by then: it does not look for more.
    pub fn next_ready(&mut self) -> Option<(u64, JobResult)> {
        let next = self.ready.pop_front()?;
        if !self.keeps && !self.kept.is_empty() {
            self.let_go(next.0);
        }
        Some(next)
    }

    /// Cancels a job: one that waits does not begin, one that runs is asked to end. Its result tells what became of it.
    pub fn cancel(&mut self, number: u64) {
        let mut cancelled = Vec::new();
        for (_, Flight { what, task, id, .. }) in &mut self.flights {
            let What::One { who, followers, .. } = what else { continue };
            let is_his = |who: &mut Waiting| who.number == number;
            cancelled.extend(followers.extract_if(.., is_his).map(|who| (who, task.clone())));
            if who.number != number {
                continue;
            }
            match followers.is_empty() {
                true => self.group.cancel(*id),
                // The others want it still.
                false => cancelled.push((std::mem::replace(who, followers.remove(0)), task.clone())),
            }
        }
        self.followers -= cancelled.len();
        for (who, task) in cancelled {
            self.ready.push_back((who.number, JobResult::cancelled(&who, &task)));
        }
    }

    /// Cancels all that is under way.
    pub fn cancel_all(&mut self) {
        self.drop_gathered();
        for (_, flight) in &self.flights {
            self.group.cancel(flight.id);
        }
    }

    /// Cancels all that has not begun, or waits for another attempt. What runs is not told of it.
    pub fn cancel_waiting(&mut self) {
        self.drop_gathered();
        for (_, flight) in &self.flights {
            self.group.cancel_waiting(flight.id);
        }
    }

    fn drop_gathered(&mut self) {
        self.is_cancelled = true;
        self.ready.extend(self.again.drain(..).map(|Again { who, task, earlier, .. }| {
            (who.number, JobResult { attempts: earlier, ..JobResult::cancelled(&who, &task) })
        }));
        let Some(Gathered { task, who, .. }) = self.gathered.take() else { return };
        self.ready.extend(who.iter().map(|who| (who.number, JobResult::cancelled(who, &task))));
    }

    /// Why the pool takes and gives nothing any more: results that came since then say nothing about their jobs.
    pub fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    /// Ends the wait of [`next`](Self::next) from another thread.
    pub fn alarm(&self) -> Alarm {
        self.group.alarm()
    }

    fn send_again(&mut self) {
        while let Some(Again { who, task, args, attempts, earlier }) = self.again.pop_front() {
            let number = who.number;
            let args = std::str::from_utf8(&args).unwrap_or("null"); // it was JSON when it was taken
            if let Err(refused) =
                self.send(who, &task, args, (None, None), &TaskOptions::new().attempts(attempts), earlier)
            {
                self.ready.push_back((number, refused));
            }
        }
    }

    /// Takes what has come, or waits for it. False: the time is over, or an alarm rang.
    fn wait(&mut self, until: Option<Instant>) -> bool {
        let has_come = self.collect(until);
        self.send_again();
        has_come
    }

    /// As [`wait`](Self::wait); what is to go to a worker again is kept.
    fn collect(&mut self, until: Option<Instant>) -> bool {
        let Runner { group, flights, ready, again, is_cancelled, .. } = self;
        let mut gone = Vec::new();
        #[cfg(feature = "otlp")]
        let mut ended = Vec::new();
        #[cfg(feature = "otlp")]
        let tracer = self.tracer.as_ref();
        let (own, before) = (flights.iter().map(|(_, flight)| flight.id), ready.len());
        let came = group.next(own, until, |note, came| {
            // Nothing but damage brings back what is not under way.
            let Some(flight) = flights.get(note) else { return };
            gone.push(note);
            match &flight.what {
                What::One { who, followers, earlier, .. } => {
                    let mut result = JobResult::of(flight, who, &came, came.result.clone());
                    result.attempts += earlier;
                    #[cfg(feature = "otlp")]
                    if tracer.is_some() {
                        // Its text is not told.
                        ended.push((note, JobResult { result: None, ..result.clone() }));
                    }
                    for who in followers {
                        ready.push_back((who.number, JobResult { label: who.label.clone(), ..result.clone() }));
                    }
                    ready.push_back((who.number, result));
                }
                What::Several(gathered) => {
                    #[cfg(feature = "otlp")]
                    let before = ready.len();
                    unpack(flight, gathered, &came, *is_cancelled, ready, again);
                    #[cfg(feature = "otlp")]
                    if let Some(tracer) = tracer {
                        let submitted = SystemTime::now() - flight.submitted.elapsed();
                        ready.iter().skip(before).for_each(|(_, result)| tracer.tell(result, submitted));
                    }
                }
            }
        });
        if let Some(kept) = group.kept() {
            for (number, _) in ready.iter().skip(before) {
                self.kept.entry(*number).or_default().push(kept.clone());
            }
        }
        #[cfg(feature = "otlp")]
        for (note, result) in ended {
            let span = flights.get_mut(note).and_then(|flight| flight.span.take());
            span.into_iter().for_each(|span| span.end(&result));
        }
        for note in gone {
            let Some(flight) = self.flights.try_remove(note) else { continue };
            self.forget(&flight);
        }
        came.unwrap_or_else(|why| {
            self.lost.get_or_insert_with(|| why.to_string());
            for flight in self.flights.drain().collect::<Vec<_>>() {
                self.forget(&flight);
                let who = match flight.what {
                    What::One { who, mut followers, .. } => {
                        followers.push(who);
                        followers
                    }
                    What::Several(Gathered { who, .. }) => who,
                };
                let lost = |who: &Waiting| JobResult::without(who, &flight.task, Status::Failed, why.to_string());
                #[cfg(feature = "otlp")]
                if let (Some(span), Some(who)) = (flight.span, who.last()) {
                    span.end(&lost(who));
                }
                self.ready.extend(who.iter().map(|who| (who.number, lost(who))));
            }
            true
        })
    }

    /// This one is not under way any more.
    fn forget(&mut self, flight: &Flight) {
        match &flight.what {
            What::One { key, followers, .. } => {
                self.in_flight -= 1;
                self.followers -= followers.len();
                key.as_ref().map(|key| self.keys.remove(key));
            }
            What::Several(Gathered { who, .. }) => self.in_flight -= who.len(),
        }
    }
}

/// One of several that goes to a worker again, by itself.
struct Again {
    who: Waiting,
    task: String,
    args: Vec<u8>,
    attempts: u8,
    /// Attempts that it had.
    earlier: u32,
}

/// What came of several.
fn unpack(
    flight: &Flight,
    Gathered { task, retries, items, who }: &Gathered,
    came: &Came<'_>,
    is_cancelled: bool,
    ready: &mut VecDeque<(u64, JobResult)>,
    again: &mut VecDeque<Again>,
) {
    let n = who.len();
    for ((who, item), args) in who.iter().zip(came.items(n)).zip(items.inputs()) {
        let go_again = |attempts, earlier| {
            let who = Waiting { number: who.number, label: who.label.clone() };
            Again { who, task: task.clone(), args: args.to_vec(), attempts, earlier }
        };
        let result = match item {
            Item::NotBegun if is_cancelled => JobResult::cancelled(who, task),
            Item::NotBegun => {
                again.push_back(go_again(retries + 1, 0));
                continue;
            }
            Item::Again(_) if *retries > 0 && !is_cancelled => {
                again.push_back(go_again(*retries, 1));
                continue;
            }
            // It is not over: only its next attempt is cancelled.
            Item::Again(_) if *retries > 0 => JobResult::of(flight, who, came, Err(TaskError::Cancelled)),
            Item::Again(e) => JobResult::of(flight, who, came, Err(e)),
            Item::Ended(ended) => JobResult::of(flight, who, came, ended),
        };
        let ran_us = result.ran_us / n.max(1) as u64;
        ready.push_back((who.number, JobResult { ran_us, ..result }));
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

    fn cancelled(who: &Waiting, task: &str) -> JobResult {
        JobResult::without(who, task, Status::Cancelled, TaskError::Cancelled.to_string())
    }

    fn of(flight: &Flight, who: &Waiting, came: &Came<'_>, ended: Result<&[u8], TaskError>) -> JobResult {
        let (exit_code, signal) = match came.exit {
            Exit::Code(code) => (Some(code.into()), None),
            Exit::Signal(signal) => (None, Some(signal.into())),
            Exit::Unknown => (None, None),
        };
        let mut result = JobResult {
            label: who.label.clone(),
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
        match ended {
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

/// What a task gave, which was asked for JSON: a plug-in may give anything. Results are a line each.
fn json(bytes: &[u8]) -> Result<Box<RawValue>, String> {
    let wrong = |e| format!("what the task gave is no JSON: {e}");
    let json: Box<RawValue> = serde_json::from_slice(bytes).map_err(wrong)?;
    if !json.get().contains(['\n', '\r']) {
        return Ok(json);
    }
    // In JSON a line end is white space: one in a text is written `\n`.
    RawValue::from_string(json.get().replace(['\n', '\r'], " ")).map_err(wrong)
}

fn us(t: Duration) -> u64 {
    t.as_micros().try_into().unwrap_or(u64::MAX)
}
