//! Handles: what stands for a task until its result is there.

use super::{
    PoolError,
    client::{Client, Copied, Done, Ending, Filed, Kept, Lost, Trouble},
    codec::{Bytes, CodecError, Pods, Wire},
    home::AnotherProcess,
    worker::{STATUS_FAILED, STATUS_PANICKED, STATUS_TIMED_OUT, STATUS_UNKNOWN},
};
use crate::{
    TaskId,
    error::Corrupted,
    exec::endpoint::{CoordinatorDied, STATUS_OK},
    lockfree::word::Outcome,
    process::exit::Exit,
};
use bytemuck::Pod;
use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    ops::Deref,
    pin::Pin,
    sync::{Arc, atomic::AtomicBool},
    task::{Context, Poll},
    time::{Duration, Instant},
};

/// A submitted task. [`wait`](Self::wait) for it, or `.await` it under any executor. Dropping the handle does not cancel the
/// task; its result is then dropped too.
///
/// A task that awaits another on its own thread waits as by `wait`: the thread runs other tasks meanwhile.
///
/// ```no_run
/// # use shmworker::{Pool, Tasks};
/// let mut tasks = Tasks::new();
/// let square = tasks.function("square", |x: u64| x * x);
/// let pool = Pool::builder().fork(tasks)?;
/// let handle = pool.submit(square, &12)?;
/// assert_eq!(handle.wait()?, 144);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Handle<O: Wire> {
    pub(super) client: Arc<Client>,
    pub(super) tag: usize,
    pub(super) task: TaskId,
    /// It has no result to come. Relaxed: who waits is alone with the handle, or says so ([`end_into`](Self::end_into)).
    pub(super) is_over: AtomicBool,
    output: PhantomData<fn() -> O>,
}

impl<O: Wire> fmt::Debug for Handle<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&self.tag).finish()
    }
}

/// Why there is no result.
///
/// ```no_run
/// # use shmworker::{Pool, Tasks};
/// # let mut tasks = Tasks::new();
/// # let square = tasks.function("square", |x: u64| x * x);
/// # let pool = Pool::builder().fork(tasks)?;
/// use shmworker::pool::TaskError;
///
/// match pool.submit(square, &12)?.wait() {
///     Ok(square) => println!("{square}"),
///     Err(TaskError::Failed(why)) => println!("{why}"),
///     Err(TaskError::Died(blame)) if blame.is_poison => println!("never again: {blame}"),
///     Err(e) => return Err(e.into()),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// The task's own error.
    #[error("the task failed: {0}")]
    Failed(String),
    /// It panicked: where, and with which message.
    #[error("the task panicked at {0}")]
    Panicked(String),
    /// Its worker died over it, and no attempt was left.
    #[error("{0}")]
    Died(Blame),
    /// It ran, or was silent, for longer than it may, and no attempt was left.
    #[error("the task ran out of time{}", .0.killed())]
    TimedOut(Blame),
    /// It was cancelled before it ran, or ended when it was asked to.
    #[error("the task was cancelled")]
    Cancelled,
    /// It waited for longer than it may before it ran.
    #[error("the task's time was over before it could run")]
    Expired,
    /// Whom it was addressed to has died.
    #[error("the worker that the task was for has died")]
    AddresseeDied,
    /// The workers' program has no such task.
    #[error("the workers have no such task: they are of another program")]
    Unknown,
    /// The bytes of the result are no value of the type asked for.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// Its worker waits so many tasks deep that it can't run another.
    #[error("tasks that wait for tasks nest {0} deep: no stack holds more")]
    TooDeep(usize),
    /// The pool has ended, for this reason.
    #[error("the pool has ended: {0}")]
    PoolEnded(String),
    /// The coordinator died first.
    #[error(transparent)]
    CoordinatorDied(#[from] CoordinatorDied),
    /// The segment is damaged.
    #[error(transparent)]
    Corrupted(#[from] Corrupted),
    /// An item of a [`map`](super::Submitter::map) could not be submitted.
    #[error("it could not be submitted: {0}")]
    NotSubmitted(#[source] Box<PoolError>),
    /// This process is a fork of the one whose task it is.
    #[error(transparent)]
    AnotherProcess(#[from] AnotherProcess),
}

impl TaskError {
    /// One word for it.
    pub(super) fn word(&self) -> &'static str {
        match self {
            TaskError::Panicked(_) => "panicked",
            TaskError::Died(blame) if blame.is_poison => "poison",
            TaskError::Died(_) | TaskError::AddresseeDied => "died",
            TaskError::TimedOut(_) => "timed out",
            TaskError::Cancelled => "cancelled",
            TaskError::Expired => "expired",
            TaskError::CoordinatorDied(_) | TaskError::PoolEnded(_) => "lost",
            _ => "failed",
        }
    }
}

/// What is known of a task that ended with its worker.
///
/// ```
/// # use shmworker::pool::Blame;
/// fn tell(blame: &Blame) {
///     println!("{} attempts, {} dead workers, the last by {}", blame.attempts, blame.deaths, blame.exit);
///     if let Some((done, of)) = blame.progress {
///         println!("it was at {done} of {of}");
///     }
/// }
/// # let _ = tell;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Blame {
    /// How its last worker ended: `signal 9 (SIGKILL)`, `exit code 3`. Empty: it did not.
    pub exit: String,
    /// How often it was begun.
    pub attempts: u32,
    /// For how many deaths it alone is to blame.
    pub deaths: u32,
    /// It is set aside, though attempts may be left: it has killed as many workers as it may.
    pub is_poison: bool,
    /// The most memory that its last worker had, in KiB; 0: unknown.
    pub peak_kib: u64,
    /// What its last attempt has said of its [progress](super::Context::progress): done, of how much.
    pub progress: Option<(u64, u64)>,
}

impl Blame {
    pub(super) fn of(ending: &Ending) -> Blame {
        let Trouble { exit, deaths, is_poison, peak_kib, progress } =
            ending.trouble.as_deref().cloned().unwrap_or_default();
        let exit = if exit == 0 { String::new() } else { Exit::unpack(exit).to_string() };
        Blame { exit, attempts: ending.attempts, deaths, is_poison, peak_kib, progress }
    }
}

impl Blame {
    /// For an item of a chunk, of which the progress is told.
    pub(super) fn of_item(ending: &Ending) -> Blame {
        Blame { progress: None, ..Blame::of(ending) }
    }
}

impl Blame {
    /// For who was killed for its time: how that went.
    fn killed(&self) -> impl fmt::Display {
        fmt::from_fn(|f| {
            if !self.exit.is_empty() {
                write!(f, "; its worker was killed: {}", self.exit)?;
            }
            self.details(f)
        })
    }

    fn details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.attempts > 1 {
            write!(f, "; attempt {}", self.attempts)?;
        }
        if let Some((done, total)) = self.progress {
            write!(f, "; it was at {done} of {total}")?;
        }
        if self.peak_kib > 0 {
            write!(f, "; memory at most {} MiB", self.peak_kib.div_ceil(1024))?;
        }
        Ok(())
    }
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.exit.as_str(), self.is_poison) {
            ("", _) => f.write_str("no worker died")?,
            (exit, false) => write!(f, "the task's worker died: {exit}")?,
            (exit, true) => write!(f, "the task is poison: it has killed {} workers (last: {exit})", self.deaths)?,
        }
        self.details(f)
    }
}

/// A task that has ended: its result, and how it went.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Finished<T> {
    /// What came of it.
    pub result: Result<T, TaskError>,
    /// The worker that ran it last; `None` if none did.
    pub worker: Option<Worker>,
    /// How often it was begun.
    pub attempts: u32,
    /// From its submission to the beginning of its last attempt. Zero where no [times](super::Builder::times) were taken.
    pub waited: Duration,
    /// How long its last attempt ran, if that came to an end. Zero where no times were taken.
    pub ran: Duration,
}

/// A worker process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Worker {
    /// Its number; its label is `worker:` and this.
    pub number: u32,
    /// Its process id.
    pub pid: u32,
}

impl fmt::Display for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker:{}", self.number)
    }
}

impl<O: Wire> Handle<O> {
    pub(super) fn new(client: Arc<Client>, (tag, task): (usize, TaskId)) -> Handle<O> {
        Handle { client, tag, task, is_over: AtomicBool::new(false), output: PhantomData }
    }

    /// Waits for the result. In a task, other tasks are run meanwhile.
    ///
    /// # Errors
    /// [`TaskError`] if there is none.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// # let mut tasks = Tasks::new();
    /// # let square = tasks.function("square", |x: u64| x * x);
    /// # let pool = Pool::builder().fork(tasks)?;
    /// let handle = pool.submit(square, &12)?;
    /// assert_eq!(handle.wait()?, 144);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait(mut self) -> Result<O::Owned, TaskError> {
        let mut copy = Copied::default();
        match self.at_once(&mut copy)? {
            Some(len) => Ok(O::decode(&bytemuck::cast_slice(&copy)[..len])?),
            None => result::<O>(&*self.done()?),
        }
    }

    /// See [`Client::at_once`]. If there is a length the handle is used up.
    #[inline]
    fn at_once(&mut self, copy: &mut Copied) -> Result<Option<usize>, TaskError> {
        let place = bytemuck::cast_slice_mut(copy);
        let found = self.client.at_once(self.tag, place, |_| ()).map_err(|lost| self.client.why(lost))?;
        *self.is_over.get_mut() = found.is_some();
        Ok(found)
    }

    /// As [`wait`](Self::wait), with what else is known of how the task went.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// # let mut tasks = Tasks::new();
    /// # let square = tasks.function("square", |x: u64| x * x);
    /// # let pool = Pool::builder().fork(tasks)?;
    /// let finished = pool.submit(square, &12)?.finish();
    /// if let Some(worker) = finished.worker {
    ///     println!("{worker} (pid {}) took {:?}", worker.pid, finished.ran);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn finish(self) -> Finished<O::Owned> {
        let client = self.client.clone();
        finished(&client, self.done(), |done| result::<O>(done))
    }

    /// As [`finish`](Self::finish), for a pool that lies in a [file](super::Builder::file): the result leaves the file only when `keep`
    /// has returned, which puts it where it is to stay. Killed before that, the program finds the result again at its next start
    /// ([`Pool::adopted`](super::Pool::adopted)): `keep` sees it once at least, where all other waits give it once at most.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// # let mut tasks = Tasks::new();
    /// # let square = tasks.function("square", |x: u64| x * x);
    /// # fn write_down(square: u64) {}
    /// let pool = Pool::builder().file("state").fork(tasks)?;
    /// pool.submit(square, &12)?.finish_with(|finished| finished.result.map(write_down))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn finish_with<R>(self, keep: impl FnOnce(Finished<O::Owned>) -> R) -> R {
        let client = self.client.clone();
        match self.done() {
            Ok(filed) => {
                let kept = Kept::new(filed);
                let returned = keep(finished_as(&client, kept.done(), result::<O>));
                kept.let_go();
                returned
            }
            Err(e) => keep(finished(&client, Err(e), result::<O>)),
        }
    }

    /// The same task, of another type.
    pub(super) fn of_type<T: Wire>(mut self) -> Handle<T> {
        let is_over = std::mem::replace(self.is_over.get_mut(), true); // this one is not to be missed
        let (client, tag, task) = (self.client.clone(), self.tag, self.task);
        let mut handle = Handle::new(client, (tag, task));
        *handle.is_over.get_mut() = is_over;
        handle
    }

    pub(super) fn done(mut self) -> Result<Filed, TaskError> {
        let done = self.client.wait(self.tag, self.task, None);
        // After an error too the ticket is no handle's any more: nothing will come.
        *self.is_over.get_mut() = done.is_ok();
        Ok(done.map_err(|lost| self.client.why(lost))?.unwrap_or_else(|| unreachable!("there is no time limit")))
    }

    /// A further handle for the same task, for which the result is bytes.
    pub(super) fn share(&self) -> Handle<Bytes> {
        self.client.share(self.tag);
        Handle::new(self.client.clone(), (self.tag, self.task))
    }

    /// Waits for the result, at most for so long.
    ///
    /// # Errors
    /// The handle, if the time is over.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// # let mut tasks = Tasks::new();
    /// # let square = tasks.function("square", |x: u64| x * x);
    /// # let pool = Pool::builder().fork(tasks)?;
    /// use std::time::Duration;
    ///
    /// match pool.submit(square, &12)?.wait_timeout(Duration::from_secs(1)) {
    ///     Ok(result) => println!("{}", result?),
    ///     Err(handle) => handle.cancel()?, // or wait on
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_timeout(mut self, at_most: Duration) -> Result<Result<O::Owned, TaskError>, Handle<O>> {
        let until = Instant::now().checked_add(at_most);
        match self.client.wait(self.tag, self.task, until) {
            Ok(None) => Err(self),
            Ok(Some(done)) => {
                *self.is_over.get_mut() = true;
                Ok(result::<O>(&done))
            }
            Err(lost) => Ok(Err(self.client.why(lost))),
        }
    }

    /// Cancels the task if it does not run yet, and asks it to end if it does. What becomes of it the wait tells.
    ///
    /// # Errors
    /// [`TaskError::Corrupted`] if the segment is damaged, [`TaskError::AnotherProcess`] in a fork.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// # let mut tasks = Tasks::new();
    /// # let square = tasks.function("square", |x: u64| x * x);
    /// # let pool = Pool::builder().fork(tasks)?;
    /// let handle = pool.submit(square, &12)?;
    /// handle.cancel()?;
    /// println!("{:?}", handle.wait()); // Err(Cancelled), or the result if it was faster
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn cancel(&self) -> Result<(), TaskError> {
        self.client.cancel(self.task).map_err(|lost| self.client.why(lost))
    }
}

impl<T: Pod> Handle<Pods<T>> {
    /// Waits for the result, and gives it as it lies in the segment, which keeps it for as long as the [`Reply`] lives.
    ///
    /// # Errors
    /// [`TaskError`] if there is none.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks, pool::Pods};
    /// # let mut tasks = Tasks::new();
    /// # let double = tasks.in_place::<Pods<f32>, Pods<f32>>("double", |_, _, _| Ok(()));
    /// # let pool = Pool::builder().fork(tasks)?;
    /// let reply = pool.submit(double, &[1.0, 2.0])?.wait_in_place()?;
    /// assert_eq!(reply.iter().sum::<f32>(), 6.0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_in_place(mut self) -> Result<Reply<T>, TaskError> {
        let mut bytes = Copied::default();
        let place = match self.at_once(&mut bytes)? {
            Some(len) => Place::Here { len, bytes },
            None => {
                let done = self.done()?;
                check(&done)?;
                Place::There(done)
            }
        };
        // What `deref` will do, so that it can't fail there.
        bytemuck::try_cast_slice::<u8, T>(place.bytes()?).map_err(|e| TaskError::Codec(CodecError::shape(e)))?;
        Ok(Reply { place, kind: PhantomData })
    }
}

/// A result that is read in place. A small one may lie in here.
pub struct Reply<T> {
    place: Place,
    kind: PhantomData<fn() -> T>,
}

#[expect(clippy::large_enum_variant, reason = "what is small needs no allocation")]
pub(super) enum Place {
    Here { len: usize, bytes: Copied },
    There(Filed),
}

impl Place {
    pub(super) fn bytes(&self) -> Result<&[u8], Corrupted> {
        match self {
            Place::Here { len, bytes } => Ok(&bytemuck::cast_slice(bytes)[..*len]),
            Place::There(done) => done.bytes(),
        }
    }
}

impl<T: Pod> Deref for Reply<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // Both were looked at when this was made. Damage that comes later shows as an empty slice.
        self.place.bytes().ok().and_then(|bytes| bytemuck::try_cast_slice(bytes).ok()).unwrap_or_default()
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<O: Wire> Future for Handle<O> {
    type Output = Result<O::Owned, TaskError>;

    /// # Panics
    /// If it has given its result already.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        assert!(!*self.is_over.get_mut(), "a handle was polled after it had given its result");
        self.client.poll(self.tag, self.task, context).map(|done| {
            *self.is_over.get_mut() = done.is_ok();
            result::<O>(&*done.map_err(|lost| self.client.why(lost))?)
        })
    }
}

impl<O: Wire> Drop for Handle<O> {
    fn drop(&mut self) {
        if !*self.is_over.get_mut() {
            self.client.forget(self.tag);
        }
    }
}

pub(super) fn finished<T>(
    client: &Client,
    done: Result<Filed, TaskError>,
    result: impl FnOnce(&Done) -> Result<T, TaskError>,
) -> Finished<T> {
    match done {
        Ok(done) => finished_as(client, &done, result),
        Err(e) => Finished { result: Err(e), worker: None, attempts: 0, waited: Duration::ZERO, ran: Duration::ZERO },
    }
}

fn finished_as<T>(client: &Client, done: &Done, result: impl FnOnce(&Done) -> Result<T, TaskError>) -> Finished<T> {
    let clock = &client.endpoint().segment().table().clock;
    Finished {
        result: result(done),
        worker: done.ending.ran_by.map(|(pid, number)| Worker { number, pid }),
        attempts: done.ending.attempts,
        waited: done.ending.times.waited(clock),
        ran: done.ending.times.ran(clock),
    }
}

/// What a task, or an item of a chunk, left.
pub(super) fn outcome<'b>(status: u32, bytes: &'b [u8], ending: &Ending) -> Result<&'b [u8], TaskError> {
    let text = || String::from_utf8_lossy(bytes).into_owned();
    Err(match status {
        STATUS_OK => return Ok(bytes),
        STATUS_FAILED => TaskError::Failed(text()),
        STATUS_PANICKED => TaskError::Panicked(text()),
        STATUS_TIMED_OUT => TaskError::TimedOut(Blame { exit: String::new(), ..Blame::of(ending) }),
        STATUS_UNKNOWN => TaskError::Unknown,
        _ => TaskError::Failed("its worker gave it up".to_owned()),
    })
}

/// The bytes that a task left, if it was done.
pub(super) fn check(done: &Done) -> Result<&[u8], TaskError> {
    Err(match done.outcome {
        Outcome::Completed => return outcome(done.status, done.bytes()?, &done.ending),
        Outcome::WorkerDied => TaskError::Died(Blame::of(&done.ending)),
        Outcome::TimedOut => TaskError::TimedOut(Blame::of(&done.ending)),
        Outcome::Cancelled => TaskError::Cancelled,
        Outcome::Expired => TaskError::Expired,
        Outcome::AddresseeDied => TaskError::AddresseeDied,
    })
}

fn result<O: Wire>(done: &Done) -> Result<O::Owned, TaskError> {
    Ok(O::decode(check(done)?)?)
}

impl Client {
    /// Why nothing came, in the words of whoever waits.
    pub(super) fn why(&self, lost: Lost) -> TaskError {
        match lost {
            Lost::CoordinatorDied(e) => {
                self.endpoint().why_orphaned().map_or(e.into(), |why| TaskError::PoolEnded(why.to_owned()))
            }
            Lost::AnotherProcess(e) => e.into(),
            Lost::Corrupted(e) => e.into(),
            Lost::TooDeep(n) => TaskError::TooDeep(n),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_a_worker_is_said_in_whole_sentences() {
        let exit = "signal 9 (SIGKILL)".to_owned();
        let blame = Blame { exit, attempts: 2, deaths: 2, peak_kib: 2049, progress: Some((3, 4)), is_poison: false };
        let poison = Blame { is_poison: true, ..blame.clone() };
        let alive = Blame { exit: String::new(), attempts: 1, peak_kib: 0, progress: None, ..blame.clone() };
        let errors = [
            TaskError::Died(blame.clone()),
            TaskError::Died(poison),
            TaskError::TimedOut(blame),
            TaskError::TimedOut(alive),
        ];
        assert_eq!(
            errors.map(|e| e.to_string()),
            [
                "the task's worker died: signal 9 (SIGKILL); attempt 2; it was at 3 of 4; memory at most 3 MiB",
                "the task is poison: it has killed 2 workers (last: signal 9 (SIGKILL)); attempt 2; it was at 3 of 4; \
                 memory at most 3 MiB",
                "the task ran out of time; its worker was killed: signal 9 (SIGKILL); attempt 2; it was at 3 of 4; \
                 memory at most 3 MiB",
                "the task ran out of time",
            ]
        );
    }
}
