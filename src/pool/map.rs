//! The same task for many inputs.
//!
//! A task that takes a microsecond is not worth a submission of its own, so many items travel as one task ([`super::chunk`]).
//! How many is found out on the way: as many as take about a millisecond, which makes the cost of a submission small beside
//! them, and still lets go of a worker soon. The first ones go alone; the size at most quadruples from one chunk to the next.
//!
//! What came of an item is in the segment before the next one begins, and how many these are stands in the task's progress. So
//! the death of a worker costs the one item that ran: it has used up an attempt; those before it are finished, and those behind
//! it are submitted one by one. So is an item that failed and has attempts left, and what a chunk has not come to because the
//! results together are too large for one payload.

use super::{
    PoolError, TaskError,
    chunk::{self, Chunk},
    client::Done,
    codec::Wire,
    handle::{Blame, check, outcome},
    options::TaskOptions,
    submitter::Submitter,
    tasks::{CHUNK, Task},
    worker::AGAIN,
};
use crate::{TaskId, lockfree::word::Outcome};
use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    iter::Fuse,
    time::Duration,
};

/// How long a chunk should run.
const WORTH: Duration = Duration::from_millis(1);
/// Bytes of input after which a chunk is full.
const WEIGHT: usize = 256 << 10;
/// Items in a chunk, at most.
const MOST: usize = 1 << 16;

type Results<O> = VecDeque<Result<<O as Wire>::Owned, TaskError>>;

/// What [`Submitter::map`] returns: an iterator over the results, in the order of the inputs. Nothing is submitted before the
/// first is asked for. Dropped before its end, it cancels what has not begun.
///
/// By default about four chunks per worker are under way, and tasks that say nothing of their time ([timeout, heartbeat,
/// expiry, back-off](TaskOptions)) are sent in chunks. If a worker dies over a chunk, the item that it was at has used up an attempt;
/// those before it are done, and those behind it are sent again, one by one. One whose result has no room beside those before it,
/// for which theirs were too small, runs a second time, alone.
///
/// ```no_run
/// # use shmworker::{Pool, Tasks};
/// # let mut tasks = Tasks::new();
/// # let square = tasks.function("square", |x: u64| x * x);
/// # let pool = Pool::builder().fork(tasks)?;
/// let squares: Vec<u64> = pool.map(square, 0..1000).chunk_size(50).collect::<Result<_, _>>()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Map<'p, I: Wire, O: Wire, T: Iterator> {
    engine: Engine<'p, I, O, T>,
    /// Results that came before their turn, by the number of the first.
    early: BTreeMap<u64, Results<O>>,
    now: Results<O>,
    /// The number of the next result.
    turn: u64,
}

/// What [`Submitter::map_unordered`] returns: an iterator over numbers of inputs and their results, as these come. See [`Map`].
///
/// ```no_run
/// # use shmworker::{Pool, Tasks};
/// # let mut tasks = Tasks::new();
/// # let square = tasks.function("square", |x: u64| x * x);
/// # let pool = Pool::builder().fork(tasks)?;
/// let slowest_last: Vec<(u64, Result<u64, _>)> = pool.map_unordered(square, [3, 1, 2]).collect();
/// assert_eq!(slowest_last.len(), 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Unordered<'p, I: Wire, O: Wire, T: Iterator> {
    engine: Engine<'p, I, O, T>,
    now: Results<O>,
    turn: u64,
}

impl<I: Wire, O: Wire, T: Iterator> fmt::Debug for Map<'_, I, O, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map").field("turn", &self.turn).finish_non_exhaustive()
    }
}

impl<I: Wire, O: Wire, T: Iterator> fmt::Debug for Unordered<'_, I, O, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unordered").finish_non_exhaustive()
    }
}

impl<'p, I: Wire, O: Wire, T: Iterator<Item = I::Owned>> Map<'p, I, O, T> {
    pub(super) fn new(pool: &'p Submitter, task: Task<I, O>, inputs: T) -> Self {
        let engine = Engine {
            pool,
            task,
            options: TaskOptions::new(),
            inputs: inputs.fuse(),
            size: Size { items: 1, is_fixed: false },
            in_flight: 4 * pool.width().max(2),
            next: 0,
            again: VecDeque::new(),
            flights: Vec::new(),
            tickets: Vec::new(),
            finished: VecDeque::new(),
            is_over: false,
        };
        Map { engine, early: BTreeMap::new(), now: VecDeque::new(), turn: 0 }
    }

    /// Gives the results as they come, each with the number of its input.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// # let mut tasks = Tasks::new();
    /// # let square = tasks.function("square", |x: u64| x * x);
    /// # let pool = Pool::builder().fork(tasks)?;
    /// for (number, square) in pool.map(square, 0..100).chunk_size(10).unordered() {
    ///     println!("{number}: {}", square?);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn unordered(self) -> Unordered<'p, I, O, T> {
        Unordered { engine: self.engine, now: self.now, turn: 0 }
    }

    /// What holds for each task. Retries are for each item by itself.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// # let mut tasks = Tasks::new();
    /// # let square = tasks.function("square", |x: u64| x * x);
    /// # let pool = Pool::builder().fork(tasks)?;
    /// use shmworker::pool::TaskOptions;
    ///
    /// let squares = pool.map(square, 0..100).options(TaskOptions::new().attempts(3));
    /// # squares.for_each(drop);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn options(mut self, options: TaskOptions) -> Self {
        self.engine.options = options;
        self
    }

    /// How many inputs are sent together, in place of a number that is found out.
    ///
    /// # Panics
    /// For 0.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// # let mut tasks = Tasks::new();
    /// # let square = tasks.function("square", |x: u64| x * x);
    /// # let pool = Pool::builder().fork(tasks)?;
    /// let squares = pool.map(square, 0..1000).chunk_size(50); // 20 tasks
    /// # squares.for_each(drop);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn chunk_size(mut self, items: usize) -> Self {
        assert!(items > 0, "a chunk needs an item");
        self.engine.size = Size { items: items.min(MOST), is_fixed: true };
        self
    }

    /// How many chunks are under way at once.
    ///
    /// # Panics
    /// For 0.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// # let mut tasks = Tasks::new();
    /// # let square = tasks.function("square", |x: u64| x * x);
    /// # let pool = Pool::builder().fork(tasks)?;
    /// let squares = pool.map(square, 0..1000).in_flight(100);
    /// # squares.for_each(drop);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn in_flight(mut self, chunks: usize) -> Self {
        assert!(chunks > 0, "with nothing under way nothing is done");
        self.engine.in_flight = chunks;
        self
    }
}

impl<I: Wire, O: Wire, T: Iterator<Item = I::Owned>> Iterator for Map<'_, I, O, T> {
    type Item = Result<O::Owned, TaskError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(result) = self.now.pop_front() {
                self.turn += 1;
                return Some(result);
            }
            if let Some(results) = self.early.remove(&self.turn) {
                self.now = results;
                continue;
            }
            // What is kept for its turn is bounded too.
            let kept = self.engine.next - self.turn;
            let is_much = kept > 4 * (self.engine.in_flight * self.engine.size.items) as u64;
            let (first, results) = self.engine.step(!is_much)?;
            self.early.insert(first, results);
        }
    }
}

impl<I: Wire, O: Wire, T: Iterator<Item = I::Owned>> Iterator for Unordered<'_, I, O, T> {
    type Item = (u64, Result<O::Owned, TaskError>);

    fn next(&mut self) -> Option<Self::Item> {
        while self.now.is_empty() {
            (self.turn, self.now) = self.engine.step(true)?;
        }
        let result = self.now.pop_front()?;
        self.turn += 1;
        Some((self.turn - 1, result))
    }
}

struct Engine<'p, I: Wire, O: Wire, T: Iterator> {
    pool: &'p Submitter,
    task: Task<I, O>,
    options: TaskOptions,
    inputs: Fuse<T>,
    size: Size,
    in_flight: usize,
    /// The number of the next input.
    next: u64,
    /// Items to be submitted alone: number, input, and what they have used up.
    again: VecDeque<(u64, Vec<u8>, Earlier)>,
    flights: Vec<Flight>,
    /// Those of `flights`.
    tickets: Vec<(usize, TaskId)>,
    /// Results of successive inputs, by the number of the first.
    finished: VecDeque<(u64, Results<O>)>,
    /// Nothing can be submitted any more.
    is_over: bool,
}

/// What is under way: one task.
struct Flight {
    first: u64,
    chunk: Chunk,
    earlier: Earlier,
}

/// What an item has used up as part of a chunk, before it was submitted alone.
#[derive(Clone, Copy, Default)]
struct Earlier {
    attempts: u8,
    deaths: u8,
}

impl Earlier {
    fn added_to(self, e: TaskError) -> TaskError {
        match e {
            TaskError::Died(blame) => TaskError::Died(Blame {
                attempts: blame.attempts + u32::from(self.attempts),
                deaths: blame.deaths + u32::from(self.deaths),
                ..blame
            }),
            e => e,
        }
    }
}

/// How many items make a chunk.
struct Size {
    items: usize,
    is_fixed: bool,
}

impl Size {
    fn learn(&mut self, items: usize, ran: Duration) {
        if !self.is_fixed {
            let each = ran.as_nanos().max(1) / items.max(1) as u128;
            let worth = (WORTH.as_nanos() / each.max(1)) as usize;
            self.items = worth.clamp(1, (4 * self.items).min(MOST));
        }
    }
}

impl<I: Wire, O: Wire, T: Iterator> Drop for Engine<'_, I, O, T> {
    fn drop(&mut self) {
        for &(tag, task) in &self.tickets {
            let client = self.pool.client();
            // Damage is reported by the next operation that meets it.
            let _ = client.cancel(task);
            client.forget(tag);
        }
    }
}

impl<I: Wire, O: Wire, T: Iterator<Item = I::Owned>> Engine<'_, I, O, T> {
    /// The next results that come, with the number of the first; `None` after the last.
    fn step(&mut self, may_take_inputs: bool) -> Option<(u64, Results<O>)> {
        loop {
            if let Some(finished) = self.finished.pop_front() {
                return Some(finished);
            }
            while self.flights.len() < self.in_flight
                && (self.submit_again() || may_take_inputs && !self.is_over && self.submit_next())
            {}
            if self.finished.is_empty() {
                if self.flights.is_empty() {
                    return None;
                }
                self.land();
            }
        }
    }

    /// Submits an item by itself that was part of a chunk before. False: there is none.
    fn submit_again(&mut self) -> bool {
        let Some((number, bytes, earlier)) = self.again.pop_front() else { return false };
        let mut chunk = Chunk::new(1);
        chunk.push(&bytes);
        self.submit(number, chunk, earlier);
        true
    }

    /// Submits the next chunk of the inputs. False: there are no more.
    fn submit_next(&mut self) -> bool {
        let may_be_chunked = self.options.may_be_chunked();
        let mut most = if may_be_chunked { self.size.items } else { 1 };
        if let (_, Some(left)) = self.inputs.size_hint()
            && !self.size.is_fixed
        {
            // So that near the end all have something to do.
            most = most.min(left / (2 * self.pool.width()) + 1);
        }
        let (first, mut chunk) = (self.next, Chunk::new(I::ALIGN));
        while chunk.len() < most && chunk.weight() < WEIGHT {
            let Some(input) = self.inputs.next() else { break };
            self.next += 1;
            if let Err(e) = I::encode(I::borrow(&input), |bytes| chunk.push(bytes)) {
                if chunk.len() > 0 {
                    self.submit(first, chunk, Earlier::default());
                }
                self.finish(self.next - 1, Err(e.into()));
                return true;
            }
        }
        if chunk.len() == 0 {
            return false;
        }
        self.submit(first, chunk, Earlier::default());
        true
    }

    fn submit(&mut self, first: u64, chunk: Chunk, earlier: Earlier) {
        let sent = self.pool.submission(self.task, &self.options).and_then(|mut s| {
            s.is_timed = !self.size.is_fixed; // it is learnt from
            let client = self.pool.client();
            if chunk.len() == 1 {
                s.max_attempts -= earlier.attempts;
                s.max_deaths -= earlier.deaths;
                client.submit(&s, chunk.weight(), |place| chunk.write_only(place))
            } else {
                // What is tried again is tried one by one.
                (s.max_attempts, s.kind, s.keeps_output) = (1, s.kind | CHUNK, true);
                client.submit(&s, chunk.size(), |place| chunk.write(place))
            }
        });
        match sent {
            Ok(ticket) => {
                self.flights.push(Flight { first, chunk, earlier });
                self.tickets.push(ticket);
            }
            // Not for its size: then others may still be possible.
            Err(e) => {
                self.is_over |= e.is_end();
                for number in first..first + chunk.len() as u64 {
                    self.finish(number, Err(TaskError::NotSubmitted(Box::new(e.clone()))));
                }
            }
        }
    }

    fn finish(&mut self, number: u64, result: Result<O::Owned, TaskError>) {
        match self.finished.back_mut() {
            Some((first, results)) if *first + results.len() as u64 == number => results.push_back(result),
            _ => self.finished.push_back((number, [result].into())),
        }
    }

    /// Waits for one of the flights, and takes its results.
    fn land(&mut self) {
        match self.pool.client().wait_any(&self.tickets) {
            Ok((which, done)) => {
                self.tickets.swap_remove(which);
                let flight = self.flights.swap_remove(which);
                self.size.learn(
                    flight.chunk.len(),
                    done.ending.times.ran(&self.pool.client().endpoint().segment().table().clock),
                );
                if flight.chunk.len() == 1 {
                    let result = check(&done).and_then(|bytes| Ok(O::decode(bytes)?));
                    self.finish(flight.first, result.map_err(|e| flight.earlier.added_to(e)));
                } else {
                    self.unpack(flight, &done);
                }
            }
            Err(lost) => {
                self.is_over = true;
                self.again.clear();
                for flight in std::mem::take(&mut self.flights) {
                    for number in flight.first..flight.first + flight.chunk.len() as u64 {
                        self.finish(number, Err(self.pool.client().why(lost)));
                    }
                }
                for (tag, _) in std::mem::take(&mut self.tickets) {
                    self.pool.client().forget(tag);
                }
            }
        }
    }

    fn unpack(&mut self, Flight { first, chunk, .. }: Flight, done: &Done) {
        let has_attempts_left = self.options.attempts > 1;
        let death = (done.outcome == Outcome::WorkerDied).then(|| Blame::of_item(&done.ending));
        // Of one that died, those before the one that ran are finished and in the output.
        let output = if death.is_some() { done.bytes().map_err(TaskError::from) } else { check(done) };
        let progress = done.ending.trouble.as_ref().and_then(|trouble| trouble.progress);
        let finished = match (&death, progress) {
            (None, _) => chunk.len() as u64,
            (Some(_), at) => at.map_or(0, |(at, _)| at),
        };
        let mut at = 0;
        let is_left_out = |at: usize| death.is_none() && output.as_ref().is_ok_and(|output| at >= output.len());
        for (i, item) in (0..).zip(chunk.items()) {
            let result = match &death {
                _ if i < finished && !is_left_out(at) => output.clone().and_then(|output| {
                    let (status, bytes, next) = chunk::result(output, at)?;
                    at = next;
                    if status & AGAIN != 0 && has_attempts_left {
                        return Ok(Err(Earlier { attempts: 1, deaths: 0 }));
                    }
                    let bytes = outcome(status & !AGAIN, bytes, &done.ending)?;
                    Ok(Ok(O::decode(bytes)?))
                }),
                Some(blame) if i == finished => {
                    let is_retried = self.options.is_retried_after_a_death() && !blame.is_poison;
                    match has_attempts_left && is_retried {
                        true => Ok(Err(Earlier { attempts: 1, deaths: blame.deaths as u8 })),
                        false => Err(TaskError::Died(blame.clone())),
                    }
                }
                // Not begun, or left out.
                _ => Ok(Err(Earlier::default())),
            };
            match result {
                Ok(Ok(value)) => self.finish(first + i, Ok(value)),
                Ok(Err(earlier)) => self.again.push_back((first + i, item.to_vec(), earlier)),
                Err(e) => self.finish(first + i, Err(e)),
            }
        }
    }
}

impl PoolError {
    /// Does it hold for whatever else would be submitted?
    fn is_end(&self) -> bool {
        match self {
            PoolError::Codec(_) | PoolError::Submit(crate::SubmitError::TooLarge { .. }) => false,
            PoolError::Submit(e) => !e.is_transient(),
            _ => true,
        }
    }
}
