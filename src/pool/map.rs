//! The same task for many inputs.
//!
//! A task that takes a microsecond is not worth a submission of its own, so many items travel as one task ([`super::chunk`]).
//! How many is found out on the way: as many as take about a millisecond, which makes the cost of a submission small beside
//! them, and still lets go of a worker soon. The first ones go alone; the size at most quadruples from one chunk to the next.
//!
//! Results are decoded as they are asked for, from a copy of the chunk's output; the memory goes round: inputs, their results,
//! the next inputs.
//!
//! What came of an item is in the segment before the next one begins, and how many these are stands in the task's progress. So
//! the death of a worker costs the one item that ran: it has used up an attempt; those before it are finished, and those behind
//! it are submitted one by one. So is an item that failed and has attempts left, and what a chunk has not come to because the
//! results together are too large for one payload.

use super::{
    PoolError, TaskError,
    chunk::{self, Chunk},
    client::{Done, Lost, Member},
    codec::{CodecError, Wire},
    handle::{Blame, check, outcome},
    options::TaskOptions,
    submitter::Submitter,
    tasks::{CHUNK, Task},
    worker::{AGAIN, STATUS_MIXED},
};
use crate::{
    SubmitError, TaskId,
    error::Corrupted,
    exec::endpoint::{STATUS_OK, Spare, Submission},
    lockfree::word::Outcome,
};
use slab::Slab;
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

/// Items of fixed chunks that may be under way even if that is more than a few chunks, as long as they weigh no more than one
/// chunk may.
const LIGHT: usize = 256;
/// Tasks that are submitted or taken under one lock, at most.
const SEVERAL: usize = 32;
/// Bytes of memory of a chunk that are kept for the next, at most.
const KEPT: usize = 8 * WEIGHT;

type Output<O> = Result<<O as Wire>::Owned, TaskError>;

/// What [`Submitter::map`] returns: an iterator over the results, in the order of the inputs. Nothing is submitted before the
/// first is asked for. Dropped before its end, it cancels what has not begun.
///
/// By default about four chunks per worker are under way (more, where their size is [given](Self::chunk_size) and they are small: 256
/// items or 256 KiB), and tasks that say nothing of their time ([timeout, heartbeat,
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
    now: Values,
    /// What has come of the pieces whose turn it is not yet.
    early: VecDeque<Early<O>>,
    /// The number of the first of these.
    piece: u64,
    /// Items of scattered pieces, by their number.
    scattered: BTreeMap<u64, Output<O>>,
    /// The number of the next result.
    turn: u64,
}

enum Early<O: Wire> {
    Nothing,
    Values(Values),
    One(Output<O>),
    /// So many are still to be given, of those that come one by one.
    Scattered(usize),
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
    now: Values,
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
            in_flight: None,
            weight: WEIGHT,
            sending: None,
            next: 0,
            piece: 0,
            again: VecDeque::new(),
            flights: Slab::new(),
            finished: VecDeque::new(),
            memory: Vec::new(),
            spares: Vec::new(),
            is_over: false,
        };
        Map { engine, now: Values::default(), early: VecDeque::new(), piece: 0, scattered: BTreeMap::new(), turn: 0 }
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

    /// How many chunks are under way at once, in place of the default: of so many the inputs have been taken.
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
        self.engine.in_flight = Some(chunks);
        self
    }
}

impl<I: Wire, O: Wire, T: Iterator<Item = I::Owned>> Iterator for Map<'_, I, O, T> {
    type Item = Output<O>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let result = match self.now.next::<O>() {
            None => self.next_piece()?,
            Some(value) => value,
        };
        self.turn += 1;
        Some(result)
    }
}

impl<I: Wire, O: Wire, T: Iterator<Item = I::Owned>> Map<'_, I, O, T> {
    /// The first result of the next piece, or the next of a scattered one.
    fn next_piece(&mut self) -> Option<Output<O>> {
        loop {
            match self.early.front_mut() {
                Some(Early::Scattered(left)) => {
                    if let Some(result) = self.scattered.remove(&self.turn) {
                        *left -= 1;
                        if *left == 0 {
                            self.next_early();
                        }
                        return Some(result);
                    }
                }
                Some(Early::Nothing) | None => {}
                Some(_) => match self.next_early() {
                    Some(Early::One(result)) => return Some(result),
                    Some(Early::Values(values)) => {
                        self.engine.keep(std::mem::replace(&mut self.now, values));
                        return self.now.next::<O>();
                    }
                    _ => unreachable!("it was something else"),
                },
            }
            // What is kept for its turn is bounded too.
            let kept = self.engine.next - self.turn;
            let is_much = kept > 4 * (self.engine.in_flight() * self.engine.size.items) as u64;
            let (piece, early) = match self.engine.step(!is_much)? {
                Came::Values { piece, values, .. } => (piece, Early::Values(values)),
                Came::One { piece: Some(piece), result, .. } if piece == self.piece => {
                    self.next_early();
                    return Some(result);
                }
                Came::One { piece: Some(piece), result, .. } => (piece, Early::One(result)),
                Came::One { piece: None, number, result } => {
                    self.scattered.insert(number, result);
                    continue;
                }
                Came::Scattered { piece, items } => (piece, Early::Scattered(items)),
            };
            let at = (piece - self.piece) as usize;
            if self.early.len() <= at {
                self.early.resize_with(at + 1, || Early::Nothing);
            }
            self.early[at] = early;
        }
    }

    /// It is the next piece's turn.
    fn next_early(&mut self) -> Option<Early<O>> {
        self.piece += 1;
        self.early.pop_front()
    }
}

impl<I: Wire, O: Wire, T: Iterator<Item = I::Owned>> Iterator for Unordered<'_, I, O, T> {
    type Item = (u64, Output<O>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(value) = self.now.next::<O>() {
                self.turn += 1;
                return Some((self.turn - 1, value));
            }
            match self.engine.step(true)? {
                Came::Values { first, values, .. } => {
                    self.turn = first;
                    self.engine.keep(std::mem::replace(&mut self.now, values));
                }
                Came::One { number, result, .. } => return Some((number, result)),
                Came::Scattered { .. } => {}
            }
        }
    }
}

/// Results of a chunk all of whose items went well, as they lie in its output.
#[derive(Default)]
struct Values {
    bytes: Vec<u8>,
    at: usize,
    left: usize,
}

impl Values {
    #[inline(always)]
    fn next<O: Wire>(&mut self) -> Option<Output<O>> {
        self.left = self.left.checked_sub(1)?;
        let value = chunk::next(&self.bytes, &mut self.at, O::ALIGN);
        Some(value.map_err(TaskError::from).and_then(|(status, bytes)| match status {
            STATUS_OK => Ok(O::decode(bytes)?),
            _ => Err(chunk::damaged(self.at).into()), // all went well, as its task said
        }))
    }
}

/// What has come. A piece is what was submitted as one.
enum Came<O: Wire> {
    Values {
        piece: u64,
        /// The number of the first.
        first: u64,
        values: Values,
    },
    One {
        /// `None`: it belongs to a scattered one.
        piece: Option<u64>,
        number: u64,
        result: Output<O>,
    },
    /// So many items of this piece come one by one.
    Scattered { piece: u64, items: usize },
}

struct Engine<'p, I: Wire, O: Wire, T: Iterator> {
    pool: &'p Submitter,
    task: Task<I, O>,
    options: TaskOptions,
    sending: Option<Sending>,
    inputs: Fuse<T>,
    size: Size,
    /// If somebody said.
    in_flight: Option<usize>,
    /// Bytes of each of the inputs that were gathered last.
    weight: usize,
    /// The number of the next input.
    next: u64,
    /// The number of the next piece.
    piece: u64,
    /// Items to be submitted alone: number, input, and what they have used up.
    again: VecDeque<(u64, Vec<u8>, Earlier)>,
    flights: Slab<Flight>,
    finished: VecDeque<Came<O>>,
    /// Of former chunks, for the next ones.
    memory: Vec<Vec<u8>>,
    /// Empty, but for its memory.
    spares: Vec<Spare>,
    /// Nothing can be submitted any more.
    is_over: bool,
}

/// What tasks are submitted with, once the first has been.
struct Sending {
    /// Of the tasks of this map.
    group: usize,
    /// What is said of an item that is submitted by itself for the first time, and of a chunk.
    one: Submission,
    chunk: Submission,
}

/// What is under way: one task.
struct Flight {
    task: TaskId,
    /// The number of its first item.
    first: u64,
    what: What,
}

enum What {
    Chunk {
        piece: u64,
        chunk: Chunk,
    },
    /// An item by itself.
    One {
        piece: Option<u64>,
        earlier: Earlier,
    },
}

impl Flight {
    fn len(&self) -> usize {
        match &self.what {
            What::Chunk { chunk, .. } => chunk.len(),
            What::One { .. } => 1,
        }
    }
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
        let Some(Sending { group, .. }) = self.sending else { return };
        let client = self.pool.client();
        // Of a pool that was lost they go on in its file.
        let is_lost = client.is_lost();
        for Flight { task, .. } in self.flights.drain().filter(|_| !is_lost) {
            // Damage is reported by the next operation that meets it.
            let _ = client.cancel(task);
        }
        client.close_group(group);
    }
}

impl<I: Wire, O: Wire, T: Iterator<Item = I::Owned>> Engine<'_, I, O, T> {
    /// The next results that come; `None` after the last.
    fn step(&mut self, may_take_inputs: bool) -> Option<Came<O>> {
        loop {
            if let Some(finished) = self.finished.pop_front() {
                return Some(finished);
            }
            // What has no encoding comes to its end at once, however many of them there are.
            while self.flights.len() < self.in_flight()
                && self.finished.len() < SEVERAL
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

    /// How many tasks may be under way. Those of a fixed size may be so short that there have to be many, which is no matter as long
    /// as they are small.
    fn in_flight(&self) -> usize {
        let few = 4 * self.pool.width().max(2);
        let light = LIGHT.min(WEIGHT / self.weight.max(1)) / self.size.items;
        self.in_flight.unwrap_or(if self.size.is_fixed { few.max(light) } else { few })
    }

    /// These have been given.
    fn keep(&mut self, values: Values) {
        self.recycle(values.bytes);
    }

    fn recycle(&mut self, bytes: Vec<u8>) {
        if (1..=KEPT).contains(&bytes.capacity()) {
            self.memory.push(bytes);
        }
    }

    /// Submits an item by itself that was part of a chunk before. False: there is none.
    fn submit_again(&mut self) -> bool {
        let Some((number, bytes, earlier)) = self.again.pop_front() else { return false };
        self.submit(number, What::One { piece: None, earlier }, &bytes);
        true
    }

    /// Submits the next chunk of the inputs. False: there are no more.
    fn submit_next(&mut self) -> bool {
        let mut most = if self.options.may_be_chunked() { self.size.items } else { 1 };
        if !self.size.is_fixed
            && let (_, Some(left)) = self.inputs.size_hint()
        {
            // So that near the end all have something to do.
            most = most.min(left / (2 * self.pool.width()) + 1);
        }
        let first = self.next;
        // Of inputs that are sure to be there. Others may keep this thread waiting, for what those before them do, perhaps.
        let several = (self.in_flight() - self.flights.len()).min(SEVERAL).min(self.inputs.size_hint().0);
        if most == 1 && self.size.is_fixed && several > 1 {
            return self.submit_several(several);
        }
        if most == 1 {
            let Some(input) = self.inputs.next() else { return false };
            self.next += 1;
            let piece = self.next_piece();
            let what = What::One { piece: Some(piece), earlier: Earlier::default() };
            let sent = I::encode(I::borrow(&input), |bytes| self.submit(first, what, bytes));
            if let Err(e) = sent {
                self.finished.push_back(Came::One { piece: Some(piece), number: first, result: Err(e.into()) });
            }
            return true;
        }
        let (chunk, refused) = self.gather(most);
        let has_some = chunk.len() > 0 || refused.is_some();
        match chunk.len() {
            0 => {}
            1 => {
                let piece = Some(self.next_piece());
                let item = chunk.items::<I>().next().unwrap_or_default();
                self.submit(first, What::One { piece, earlier: Earlier::default() }, item);
            }
            _ => {
                let piece = self.next_piece();
                self.submit(first, What::Chunk { piece, chunk }, &[]);
            }
        }
        self.refuse(refused);
        has_some
    }

    /// The next inputs, up to so many, and why the one behind them has no encoding.
    #[inline(always)]
    fn gather(&mut self, most: usize) -> (Chunk, Option<CodecError>) {
        let mut chunk = Chunk::new::<I, O>(self.memory.pop().unwrap_or_default());
        let mut refused = None;
        while refused.is_none() && chunk.len() < most && chunk.weight() < WEIGHT {
            let Some(input) = self.inputs.next() else { break };
            self.next += 1;
            refused = chunk.push::<I>(I::borrow(&input)).err();
        }
        self.weight = chunk.weight() / chunk.len().max(1);
        (chunk, refused)
    }

    /// The last input that was taken has no encoding.
    fn refuse(&mut self, why: Option<CodecError>) {
        if let Some(e) = why {
            let piece = Some(self.next_piece());
            self.finished.push_back(Came::One { piece, number: self.next - 1, result: Err(e.into()) });
        }
    }

    /// Submits up to so many of the inputs, each as a task, but under one lock. False: there are no more.
    fn submit_several(&mut self, most: usize) -> bool {
        let first = self.next;
        let (items, refused) = self.gather(most);
        let has_some = items.len() > 0 || refused.is_some();
        let pool = self.pool;
        let mut spares = std::mem::take(&mut self.spares);
        let sending = self.sending().map(|sending| (sending.group, sending.one)).ok();
        let mut batch =
            sending.as_ref().and_then(|(group, one)| pool.client().batch(one, *group, items.len(), &mut spares).ok());
        for (number, item) in (first..).zip(items.items::<I>()) {
            let what = What::One { piece: Some(self.next_piece()), earlier: Earlier::default() };
            let note = self.flights.vacant_key();
            match batch.as_mut().and_then(|batch| batch.submit(note, item)) {
                Some(Ok(task)) => drop(self.flights.insert(Flight { task, first: number, what })),
                Some(Err(e)) => {
                    self.is_over = true;
                    self.fail(number, what, &TaskError::NotSubmitted(Box::new(SubmitError::from(e).into())))
                }
                None => {
                    // It may have to wait for room.
                    batch = None;
                    self.submit(number, what, item);
                }
            }
        }
        drop(batch);
        self.spares = spares;
        self.recycle(items.into_memory());
        self.refuse(refused);
        has_some
    }

    fn next_piece(&mut self) -> u64 {
        self.piece += 1;
        self.piece - 1
    }

    fn sending(&mut self) -> Result<&Sending, PoolError> {
        if self.sending.is_none() {
            let is_timed = !self.size.is_fixed; // it is learnt from
            let one = Submission { is_timed, ..self.pool.submission(self.task, &self.options)? };
            // What is tried again is tried one by one.
            let chunk = Submission { max_attempts: 1, kind: one.kind | CHUNK, keeps_output: true, ..one };
            self.sending = Some(Sending { group: self.pool.client().open_group()?, one, chunk });
        }
        Ok(self.sending.as_ref().unwrap_or_else(|| unreachable!("it was there, or is now")))
    }

    /// Submits this; `item`: the bytes of one by itself.
    fn submit(&mut self, first: u64, what: What, item: &[u8]) {
        match self.send(&what, item) {
            Ok(task) => {
                self.flights.insert(Flight { task, first, what });
            }
            Err(e) => self.fail(first, what, &e),
        }
    }

    /// Nothing comes of this.
    fn fail(&mut self, first: u64, what: What, why: &TaskError) {
        match what {
            What::One { piece, .. } => {
                self.finished.push_back(Came::One { piece, number: first, result: Err(why.clone()) });
            }
            What::Chunk { piece, chunk } => {
                self.finished.push_back(Came::Scattered { piece, items: chunk.len() });
                let one = |number| Came::One { piece: None, number, result: Err(why.clone()) };
                self.finished.extend((first..first + chunk.len() as u64).map(one));
            }
        }
    }

    /// Returns the task of what is to be the next flight.
    fn send(&mut self, what: &What, item: &[u8]) -> Result<TaskId, TaskError> {
        let (client, note) = (self.pool.client(), self.flights.vacant_key());
        let sent = self.sending().and_then(|sending| {
            let again;
            let (s, payload) = match what {
                What::Chunk { chunk, .. } => (&sending.chunk, chunk.payload()),
                What::One { earlier: Earlier { attempts: 0, .. }, .. } => (&sending.one, item),
                What::One { earlier, .. } => {
                    let Submission { max_attempts, max_deaths, .. } = sending.one;
                    again = Submission {
                        max_attempts: max_attempts - earlier.attempts,
                        max_deaths: max_deaths - earlier.deaths,
                        ..sending.one
                    };
                    (&again, item)
                }
            };
            let (_, task) = client.submit_in(Member { group: sending.group, note }, s, payload)?;
            Ok(task)
        });
        sent.map_err(|e| {
            // Not for its size: then others may still be possible.
            self.is_over |= e.is_end();
            TaskError::NotSubmitted(Box::new(e))
        })
    }

    /// Waits for some of the flights, and takes their results, which are among the finished ones then.
    fn land(&mut self) {
        let pool = self.pool;
        let Some(Sending { group, .. }) = self.sending else { unreachable!("something is under way") };
        let clock = &pool.client().endpoint().segment().table().clock;
        let unknown = |note: usize| Corrupted::new("ticket of a finished task", note, group as u64);
        loop {
            let mut spares = std::mem::take(&mut self.spares);
            let landed = pool.client().land(group, SEVERAL, &mut spares, |note, finished| {
                let flight = self.flights.get(note).ok_or_else(|| unknown(note))?;
                if !self.size.is_fixed {
                    self.size.learn(flight.len(), finished.times().ran(clock));
                }
                let bytes = finished.output()?;
                let came = self.went_well(note, bytes);
                self.finished.push_back(came);
                Ok(())
            });
            self.spares = spares;
            if landed == Ok(false) && !self.finished.is_empty() {
                return;
            }
            let own = self.flights.iter().map(|(_, flight)| flight.task);
            match landed.and_then(|_| pool.client().wait_any(group, own)) {
                Ok(None) => {}
                Ok(Some((note, _))) if !self.flights.contains(note) => return self.lose(unknown(note).into()),
                Ok(Some((note, done))) => {
                    self.size.learn(self.flights[note].len(), done.ending.times.ran(clock));
                    match done.bytes() {
                        Ok(bytes) if done.outcome == Outcome::Completed && done.status == STATUS_OK => {
                            let came = self.went_well(note, bytes);
                            self.finished.push_back(came);
                        }
                        _ => self.went_badly(note, &done),
                    }
                    return;
                }
                Err(lost) => return self.lose(lost),
            }
        }
    }

    /// Nothing will come any more.
    fn lose(&mut self, lost: Lost) {
        self.is_over = true;
        let why = self.pool.client().why(lost);
        for (_, Flight { first, what, .. }) in std::mem::take(&mut self.flights) {
            self.fail(first, what, &why);
        }
        for (number, _, earlier) in std::mem::take(&mut self.again) {
            self.fail(number, What::One { piece: None, earlier }, &why);
        }
    }

    /// Takes the results of a flight that brings them all.
    fn went_well(&mut self, note: usize, bytes: &[u8]) -> Came<O> {
        let Flight { first, what, .. } = self.flights.remove(note);
        match what {
            What::One { piece, .. } => {
                Came::One { piece, number: first, result: O::decode(bytes).map_err(TaskError::from) }
            }
            What::Chunk { piece, chunk } => {
                let left = chunk.len();
                let mut memory = chunk.into_memory();
                memory.clear();
                memory.extend_from_slice(bytes);
                Came::Values { piece, first, values: Values { bytes: memory, at: 0, left } }
            }
        }
    }

    fn went_badly(&mut self, note: usize, done: &Done) {
        let Flight { first, what, .. } = self.flights.remove(note);
        match what {
            What::One { piece, earlier } => {
                let result = check(done).and_then(|bytes| Ok(O::decode(bytes)?)).map_err(|e| earlier.added_to(e));
                self.finished.push_back(Came::One { piece, number: first, result });
            }
            What::Chunk { piece, chunk } => self.unpack(first, piece, chunk, done),
        }
    }

    fn unpack(&mut self, first: u64, piece: u64, chunk: Chunk, done: &Done) {
        let has_attempts_left = self.options.attempts > 1;
        let death = (done.outcome == Outcome::WorkerDied).then(|| Blame::of_item(&done.ending));
        // Of one that died, those before the one that ran are finished and in the output.
        let is_mixed = done.outcome == Outcome::Completed && done.status == STATUS_MIXED;
        let output = if death.is_some() || is_mixed { done.bytes().map_err(TaskError::from) } else { check(done) };
        let progress = done.ending.trouble.as_ref().and_then(|trouble| trouble.progress);
        let finished = match (&death, progress) {
            (None, _) => chunk.len() as u64,
            (Some(_), at) => at.map_or(0, |(at, _)| at),
        };
        self.finished.push_back(Came::Scattered { piece, items: chunk.len() });
        let mut at = 0;
        let is_left_out = |at: usize| death.is_none() && output.as_ref().is_ok_and(|output| at >= output.len());
        for (i, item) in (0..).zip(chunk.items::<I>()) {
            let result = match &death {
                _ if i < finished && !is_left_out(at) => output.clone().and_then(|output| {
                    let (status, bytes) = chunk::next(output, &mut at, O::ALIGN)?;
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
            let result = match result {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(earlier)) => {
                    self.again.push_back((first + i, item.to_vec(), earlier));
                    continue;
                }
                Err(e) => Err(e),
            };
            self.finished.push_back(Came::One { piece: None, number: first + i, result });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_items_that_all_went_well_none_went_badly() {
        let mut bytes = vec![0; 14];
        chunk::write_head(&mut bytes, 0, STATUS_OK, 1);
        chunk::write_head(&mut bytes, 5, 7, 1);
        let mut values = Values { bytes, at: 0, left: 2 };
        assert_eq!(values.next::<u8>(), Some(Ok(0)));
        assert!(matches!(values.next::<u8>(), Some(Err(TaskError::Corrupted(_)))));
        assert_eq!(values.next::<u8>(), None);
    }
}
