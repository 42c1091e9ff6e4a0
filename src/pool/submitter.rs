//! What submits tasks to a pool: the program that has made it, and its tasks.

use super::{
    Adopted, PoolError,
    attached::task_names,
    client::Client,
    codec::{Pods, Wire},
    handle::Handle,
    map::Map,
    options::TaskOptions,
    scope::{Report, Scope},
    tasks::{self, JSON, Signatures, Task},
};
#[cfg(all(feature = "cli", feature = "metrics"))]
use crate::{SegmentOpenError, mem::segment::Segment};
use crate::{TaskId, exec::endpoint::Submission};
use bytemuck::Pod;
#[cfg(all(feature = "cli", feature = "metrics"))]
use std::os::fd::AsFd;
use std::{collections::HashMap, future::poll_fn, sync::Arc, task::Poll};

/// With the usual options, which most are: nothing has to be worked out.
pub(super) const PLAIN: Submission = USUAL.submission(0, 0);
const USUAL: &TaskOptions = &TaskOptions::new();

/// Submits tasks. A [`Pool`](super::Pool) is one; tasks have one in their [`Context`](super::Context::pool).
///
/// ```
/// use shmworker::pool::{Submitter, Task};
///
/// const SQUARE: Task<u64, u64> = Task::named("square");
///
/// /// In the program and in its tasks alike.
/// fn squares(pool: &Submitter, below: u64) -> Result<Vec<u64>, shmworker::pool::TaskError> {
///     pool.map(SQUARE, 0..below).collect()
/// }
/// # let _ = squares;
/// ```
#[derive(Debug)]
pub struct Submitter {
    client: Arc<Client>,
    /// `None`: the workers are of another program.
    signatures: Option<Arc<Signatures>>,
    queues: Arc<[String]>,
    /// How many tasks run at once.
    width: usize,
}

impl Submitter {
    pub(super) fn new(
        client: Arc<Client>,
        signatures: Option<Arc<Signatures>>,
        queues: Arc<[String]>,
        width: usize,
    ) -> Submitter {
        Submitter { client, signatures, queues, width }
    }

    pub(super) fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// How many tasks run at once.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// What the pool does, as Prometheus reads it: text of its format 0.0.4, content type `text/plain; version=0.0.4`. For a
    /// server of the program's own; that of the command line is `--metrics`. It reads each descriptor of the pool and a few files in
    /// `/proc` for each process, some hundred µs, and keeps no worker waiting.
    ///
    /// # Errors
    /// [`PoolError::AnotherProcess`] in a fork of the pool's process.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// # let pool = Pool::builder().fork(Tasks::new())?;
    /// let text = pool.prometheus()?;
    /// assert!(text.contains("\nshmworker_deaths_total 0\n"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "metrics")]
    pub fn prometheus(&self) -> Result<String, PoolError> {
        Ok(self.client.prometheus()?)
    }

    /// The segment once more, to be read, for a thread that goes on as long as it likes.
    #[cfg(all(feature = "cli", feature = "metrics"))]
    pub(crate) fn segment_to_read(&self) -> Result<Segment, SegmentOpenError> {
        let fd = self.client.endpoint().segment().as_fd().try_clone_to_owned();
        Segment::attach(fd.map_err(|e| SegmentOpenError::Os { step: "copy", source: e })?, false)
    }

    /// Submits a task with the default [`TaskOptions`]. Short of room it first moves results that have come back into private
    /// memory, up to 1 GiB, and then sleeps until others make some; it never waits for its own caller.
    ///
    /// # Errors
    /// [`PoolError`]: the task is unknown, its input has no encoding or is too large, or the pool has ended.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// let mut tasks = Tasks::new();
    /// let square = tasks.function("square", |x: u64| x * x);
    /// let pool = Pool::builder().workers(2).fork(tasks)?;
    /// let handle = pool.submit(square, &3)?;
    /// assert_eq!(handle.wait()?, 9);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn submit<I: Wire, O: Wire>(&self, task: Task<I, O>, input: I::Ref<'_>) -> Result<Handle<O>, PoolError> {
        tasks::check(self.signatures.as_deref(), task)?;
        let s = Submission { kind: task.kind, ..PLAIN };
        let ticket = I::encode(input, |bytes| self.client.send(&s, bytes))??;
        Ok(Handle::new(self.client.clone(), ticket))
    }

    /// As [`submit`](Self::submit), with options.
    ///
    /// # Errors
    /// As [`submit`](Self::submit); the queue is unknown.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks, pool::TaskOptions};
    /// # use std::time::Duration;
    /// # let mut tasks = Tasks::new();
    /// # let fetch = tasks.function("fetch", |url: String| url);
    /// # let pool = Pool::builder().fork(tasks)?;
    /// let options = TaskOptions::new().attempts(3).timeout(Duration::from_secs(10));
    /// let page = pool.submit_with(fetch, &"https://example.org".to_owned(), &options)?.wait()?;
    /// # let _ = page;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn submit_with<I: Wire, O: Wire>(
        &self,
        task: Task<I, O>,
        input: I::Ref<'_>,
        options: &TaskOptions,
    ) -> Result<Handle<O>, PoolError> {
        let s = self.submission(task, options)?;
        let ticket = I::encode(input, |bytes| self.send(&s, options, bytes))??;
        Ok(Handle::new(self.client.clone(), ticket))
    }

    /// As [`submit_with`](Self::submit_with), for where a thread must not sleep: short of room, the future waits. A
    /// [key](TaskOptions::key) is not looked at.
    ///
    /// # Errors
    /// As [`submit_with`](Self::submit_with).
    ///
    /// ```no_run
    /// # use shmworker::{Pool, pool::{PoolError, Task, TaskOptions}};
    /// const SQUARE: Task<u64, u64> = Task::named("square");
    ///
    /// async fn square(pool: &Pool, x: u64) -> Result<u64, Box<dyn std::error::Error>> {
    ///     Ok(pool.submit_async(SQUARE, &x, &TaskOptions::new()).await?.await?)
    /// }
    /// # let _ = square;
    /// ```
    pub async fn submit_async<I: Wire, O: Wire>(
        &self,
        task: Task<I, O>,
        input: I::Ref<'_>,
        options: &TaskOptions,
    ) -> Result<Handle<O>, PoolError> {
        if self.client.runs_tasks_here() {
            // Who waited for room here would keep those from running who make some.
            return self.submit_with(task, input, options);
        }
        let s = self.submission(task, options)?;
        let payload = I::encode(input, <[u8]>::to_vec)?;
        loop {
            match self.client.try_submit(&s, &payload) {
                Err(PoolError::Submit(e)) if e.is_want_of_room() => {
                    let mut is_first = true;
                    poll_fn(|context| match std::mem::take(&mut is_first) {
                        true => self.client.poll_room(payload.len(), context),
                        // Woken: whether there is any the next try tells.
                        false => Poll::Ready(()),
                    })
                    .await;
                }
                sent => return sent.map(|ticket| Handle::new(self.client.clone(), ticket)),
            }
        }
    }

    /// As [`submit_with`](Self::submit_with), but does not wait for room: for a loop that serves others too. There may be room again
    /// once a task that was submitted here has ended.
    ///
    /// # Errors
    /// As [`submit_with`](Self::submit_with); [`PoolError::Submit`] with [`SubmitError::Full`](crate::SubmitError::Full) or
    /// [`SubmitError::NoSpace`](crate::SubmitError::NoSpace): there is no room just now, and nothing was submitted.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, SubmitError, Tasks, pool::{PoolError, TaskOptions}};
    /// # let mut tasks = Tasks::new();
    /// # let fetch = tasks.function("fetch", |url: String| url);
    /// # let pool = Pool::builder().fork(tasks)?;
    /// match pool.try_submit(fetch, &"https://example.org".to_owned(), &TaskOptions::new()) {
    ///     Ok(handle) => drop(handle),
    ///     Err(PoolError::Submit(SubmitError::Full(most))) => println!("{most} are under way: later"),
    ///     Err(e) => return Err(e.into()),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_submit<I: Wire, O: Wire>(
        &self,
        task: Task<I, O>,
        input: I::Ref<'_>,
        options: &TaskOptions,
    ) -> Result<Handle<O>, PoolError> {
        let s = self.submission(task, options)?;
        let ticket = I::encode(input, |bytes| self.try_send(&s, options, bytes))??;
        Ok(Handle::new(self.client.clone(), ticket))
    }

    /// Submits `n` values that `fill` writes in place, in the segment: no copy is made of them. Until then their values are
    /// whatever lay there.
    ///
    /// # Errors
    /// As [`submit_with`](Self::submit_with); so many values are larger than any payload may be.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks, pool::{Pods, TaskOptions}};
    /// let mut tasks = Tasks::new();
    /// let sum = tasks.in_place::<Pods<u64>, u64>("sum", |_, input, mut output| output.write(&input.iter().sum()));
    /// let pool = Pool::builder().fork(tasks)?;
    /// let handle = pool.submit_in_place(sum, 1000, &TaskOptions::new(), |values| values.fill(7))?;
    /// assert_eq!(handle.wait()?, 7000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn submit_in_place<T: Pod, O: Wire>(
        &self,
        task: Task<Pods<T>, O>,
        n: usize,
        options: &TaskOptions,
        fill: impl FnOnce(&mut [T]),
    ) -> Result<Handle<O>, PoolError> {
        let s = self.submission(task, options)?;
        // Evaluated: not every alignment can be had.
        let _ = Pods::<T>::ALIGN;
        // A product that overflows is too large as well.
        let len = n.saturating_mul(size_of::<T>());
        // Blocks, and what lies inside a descriptor, begin at multiples of 64.
        let ticket = self.dispatch(&s, options, len, |bytes| fill(bytemuck::cast_slice_mut(bytes)))?;
        Ok(Handle::new(self.client.clone(), ticket))
    }

    /// Submits to a task by its name, with an input in JSON; the result is JSON too.
    ///
    /// # Errors
    /// As [`submit_with`](Self::submit_with); no task has this name.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks, pool::TaskOptions};
    /// let mut tasks = Tasks::new();
    /// tasks.function("add", |(a, b): (u64, u64)| a + b);
    /// let pool = Pool::builder().fork(tasks)?;
    /// let handle = pool.submit_json("add", "[2, 3]", &TaskOptions::new())?;
    /// assert_eq!(handle.wait()?, b"5");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn submit_json(
        &self,
        name: &str,
        input: &str,
        options: &TaskOptions,
    ) -> Result<Handle<super::codec::Bytes>, PoolError> {
        let kind = self.kind_of(name)? | JSON;
        let s = options.submission(self.queue(options)?, kind);
        let ticket = self.send(&s, options, input.as_bytes())?;
        Ok(Handle::new(self.client.clone(), ticket))
    }

    /// Runs a task on each input, several at once. The results come in the order of the inputs.
    ///
    /// Inputs are taken as they are needed and results are given as they come: neither need fit into memory. Short tasks are sent
    /// many at a time, so that the cost of each is small: see [`Map`].
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// let mut tasks = Tasks::new();
    /// let square = tasks.function("square", |x: u64| x * x);
    /// let pool = Pool::builder().fork(tasks)?;
    /// let sum: u64 = pool.map(square, 0..1_000_000).sum::<Result<u64, _>>()?;
    /// # let _ = sum;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn map<I: Wire, O: Wire, T>(&self, task: Task<I, O>, inputs: T) -> Map<'_, I, O, T::IntoIter>
    where
        T: IntoIterator<Item = I::Owned>,
    {
        Map::new(self, task, inputs.into_iter())
    }

    /// As [`map`](Self::map), but the results come as they are finished, each with the number of its input, from 0.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// # let mut tasks = Tasks::new();
    /// # let square = tasks.function("square", |x: u64| x * x);
    /// # let pool = Pool::builder().fork(tasks)?;
    /// for (number, square) in pool.map_unordered(square, 0..100) {
    ///     println!("{number} squared is {}", square?);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn map_unordered<I: Wire, O: Wire, T>(
        &self,
        task: Task<I, O>,
        inputs: T,
    ) -> super::map::Unordered<'_, I, O, T::IntoIter>
    where
        T: IntoIterator<Item = I::Owned>,
    {
        self.map(task, inputs).unordered()
    }

    /// Runs a task on each input for what it does, and waits until all have ended. Returns how many there were.
    ///
    /// # Errors
    /// The first failure, by the order in which they came. The others are run all the same.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// let mut tasks = Tasks::new();
    /// let remove = tasks.handler("remove", |_, path: String| Ok(std::fs::remove_file(path)?));
    /// let pool = Pool::builder().fork(tasks)?;
    /// let removed = pool.for_each(remove, ["a.tmp".to_owned(), "b.tmp".to_owned()])?;
    /// # let _ = removed;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn for_each<I: Wire, O: Wire, T>(&self, task: Task<I, O>, inputs: T) -> Result<u64, super::TaskError>
    where
        T: IntoIterator<Item = I::Owned>,
    {
        let (mut count, mut first) = (0, None);
        for (_, result) in self.map_unordered(task, inputs) {
            count += 1;
            if let Err(e) = result {
                first.get_or_insert(e);
            }
        }
        first.map_or(Ok(count), Err)
    }

    /// Different tasks with different inputs under labels, as one batch: waits until all have ended, whatever became of each, and
    /// says how each went. If `submit` fails or panics, that too waits for what was submitted by then.
    ///
    /// # Errors
    /// What `submit` returns.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// let mut tasks = Tasks::new();
    /// let square = tasks.function("square", |x: u64| x * x);
    /// let shout = tasks.function("shout", |text: String| text.to_uppercase());
    /// let pool = Pool::builder().fork(tasks)?;
    /// let report = pool.scope(|scope| {
    ///     scope.submit("twelve", square, &12)?;
    ///     scope.submit("hello", shout, &"hello".to_owned())?;
    ///     Ok(())
    /// })?;
    /// print!("{report}");
    /// std::process::exit(report.exit_code().into());
    /// # #[allow(unreachable_code)]
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn scope(&self, submit: impl FnOnce(&mut Scope<'_>) -> Result<(), PoolError>) -> Result<Report, PoolError> {
        let mut scope = Scope::new(self);
        submit(&mut scope)?;
        Ok(scope.join())
    }

    /// The name under which a task is registered.
    pub(super) fn name_of(&self, kind: u32) -> &str {
        self.signatures.as_deref().and_then(|known| known.get(&kind)).map_or("", |signature| &signature.name)
    }

    /// The next of what [`Pool::adopted`](super::Pool::adopted) would give, for who takes one at a time.
    #[doc(hidden)]
    pub fn next_adopted(&self) -> Option<Adopted> {
        Adopted::next(self)
    }

    /// The names of all tasks; of those of another program as far as the pool tells them.
    pub(super) fn names(&self) -> HashMap<u32, String> {
        match self.signatures.as_deref() {
            Some(known) => known.iter().map(|(&kind, signature)| (kind, signature.name.to_string())).collect(),
            None => task_names(self.client.endpoint()).into_iter().collect(),
        }
    }

    pub(super) fn submission<I: Wire, O: Wire>(
        &self,
        task: Task<I, O>,
        options: &TaskOptions,
    ) -> Result<Submission, PoolError> {
        tasks::check(self.signatures.as_deref(), task)?;
        Ok(options.submission(self.queue(options)?, task.kind))
    }

    pub(super) fn kind_of(&self, name: &str) -> Result<u32, PoolError> {
        Ok(tasks::kind_by_name(self.signatures.as_deref(), name)?)
    }

    pub(super) fn send(
        &self,
        s: &Submission,
        options: &TaskOptions,
        payload: &[u8],
    ) -> Result<(usize, TaskId), PoolError> {
        match options.key {
            None => self.client.send(s, payload),
            Some(_) => self.dispatch(s, options, payload.len(), |place| place.copy_from_slice(payload)),
        }
    }

    /// As [`send`](Self::send), but does not wait for room.
    pub(super) fn try_send(
        &self,
        s: &Submission,
        options: &TaskOptions,
        payload: &[u8],
    ) -> Result<(usize, TaskId), PoolError> {
        match &options.key {
            None => self.client.try_submit(s, payload),
            Some(key) => self.client.submit_keyed(s, key, payload.len(), false, |place| place.copy_from_slice(payload)),
        }
    }

    fn dispatch(
        &self,
        s: &Submission,
        options: &TaskOptions,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(usize, TaskId), PoolError> {
        match &options.key {
            None => self.client.submit(s, len, fill),
            Some(key) => self.client.submit_keyed(s, key, len, true, fill),
        }
    }

    pub(super) fn queue(&self, options: &TaskOptions) -> Result<usize, PoolError> {
        let Some(name) = &options.queue else { return Ok(0) };
        self.queues
            .iter()
            .position(|queue| queue == name)
            .ok_or_else(|| PoolError::Queue { name: name.clone(), queues: self.queues.join(", ") })
    }
}
