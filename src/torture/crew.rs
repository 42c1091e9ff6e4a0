//! The processes that random torture kills: clients that account for each task, and workers that answer with a digest.

use super::{
    Rng, digest, fill, is_filled,
    ledger::{Book, Ledger, Tag, WORKERS},
};
use crate::{
    exec::endpoint::{Endpoint, Finished, STATUS_OK, Submission, SubmitError, To},
    lockfree::{
        descriptor::{Backoff, Limits},
        participant::Name,
        table::Again,
        word::Outcome,
    },
    process::{Mode, exit::Exit},
    sync::{AtomicU64, Relaxed},
};
use std::time::Duration;

/// The one queue.
const QUEUE: usize = 0;
/// Tasks that a client has under way at most: two clients overflow the queue and the completion lanes, and nearly use up
/// the descriptors.
const UNDER_WAY: usize = 120;
/// A worker found no block for its output, and answers with the digest alone.
const STATUS_NO_ROOM: u32 = 1;
const DIGEST: usize = size_of::<u64>();
/// How long to wait for room before the next try.
const PAUSE: Duration = Duration::from_millis(1);

/// What a task is, as it follows from seed and tag.
struct Task {
    len: usize,
    max_attempts: u8,
    /// The seat of the worker to which it is addressed.
    addressee: Option<usize>,
    is_cancelled: bool,
    /// How its first worker gives it back, if it does.
    again: Option<Again>,
    expires_in: Option<Duration>,
    limits: Limits,
    backoff: Backoff,
    /// Its client sleeps until there is room for it.
    is_patient: bool,
}

/// About as long as a worker is stopped.
const LIMITS: Limits = Limits { run_ms: 15, silence_ms: 0 };
const SILENT: Limits = Limits { run_ms: 0, silence_ms: 15 };
const BACKOFF: Backoff = Backoff { first_ms: 1, longest_ms: 3 };

impl Task {
    fn of(seed: u64, tag: Tag) -> Task {
        let mut rng = Rng::new(seed ^ tag.0);
        let len = match rng.below(32) {
            0..8 => 0,
            8..20 => 64,
            20..27 => 300,
            27..31 => 5 << 10,
            _ => 100 << 10,
        };
        let max_attempts = [1, 2, 3, 250][rng.below(4) as usize];
        let addressee = (rng.below(8) == 0).then(|| rng.below(WORKERS as u64) as usize);
        Task {
            len,
            max_attempts,
            addressee,
            is_cancelled: rng.below(32) == 0,
            again: match rng.below(32) {
                0 => Some(Again::SameAttempt),
                1 => Some(Again::After(1 + rng.below(1_000_000))),
                2 => Some(Again::Backoff),
                _ => None,
            },
            expires_in: (rng.below(16) == 0).then(|| Duration::from_millis(5)),
            limits: [Limits::default(), Limits::default(), LIMITS, SILENT][rng.below(4) as usize],
            backoff: [Backoff::default(), BACKOFF][rng.below(2) as usize],
            is_patient: rng.below(8) == 0,
        }
    }

    /// The input names its task, so that a worker can note the attempt, where it is long enough for that.
    fn write(&self, input: &mut [u8], seed: u64, tag: Tag) {
        fill(input, seed ^ tag.0);
        if let Some(head) = input.first_chunk_mut() {
            *head = tag.0.to_le_bytes();
        }
    }
}

/// Damage and broken promises, as text for the report.
fn text(e: impl std::fmt::Display) -> String {
    e.to_string()
}

/// Runs tasks until the pool stops.
///
/// # Errors
/// What is wrong.
pub(crate) fn work(endpoint: &Endpoint, ledger: &Ledger, seed: u64) -> Result<(), String> {
    let mut rng = Rng::new(seed ^ endpoint.name().bits());
    let control = &endpoint.segment().header().control;
    while let Some(mut task) =
        endpoint.next(&[endpoint.queue(QUEUE)], || Mode::of(control) == Mode::Stopping).map_err(text)?
    {
        let input = task.input().map_err(text)?;
        let (len, sum) = (input.len() + DIGEST, digest(input));
        if let Some(head) = input.first_chunk() {
            let tag = Tag(u64::from_le_bytes(*head));
            let again = Task::of(seed, tag).again.filter(|_| task.attempt() == 0 && rng.below(2) == 0);
            if again != Some(Again::SameAttempt) {
                ledger.books[task.kind() as usize].begin(tag);
            }
            if let Some(again) = again {
                match task.give_back(again).map_err(text)? {
                    Some(last_attempt) => task = last_attempt,
                    None => continue,
                }
            }
        }
        if task.is_cancelled() {
            task.cancelled().map_err(text)?;
            continue;
        }
        task.heartbeat();
        // The blocks may all be taken by inputs that wait for us: after some tries the answer is a short one.
        for try_ in (0..20).rev() {
            let (status, len) = if try_ > 0 { (STATUS_OK, len) } else { (STATUS_NO_ROOM, DIGEST) };
            let answer = |output: &mut [u8]| {
                let (head, rest) = output.split_at_mut(DIGEST);
                head.copy_from_slice(&sum.to_le_bytes());
                fill(rest, sum);
            };
            task = match task.complete(status, len, answer) {
                Ok(()) => break,
                Err((SubmitError::NoSpace(_), Some(task))) => task,
                Err((e, _)) => return Err(text(e)),
            };
            task.pause(PAUSE);
        }
    }
    Ok(())
}

/// One life of a client.
pub(crate) struct Client<'l> {
    pub(crate) endpoint: &'l Endpoint,
    pub(crate) book: &'l Book,
    /// Number of the book.
    pub(crate) kind: u32,
    pub(crate) workers: &'l [AtomicU64; WORKERS],
    pub(crate) seed: u64,
    pub(crate) life: u32,
}

impl Client<'_> {
    /// Submits tasks in bursts and takes results, until the pool drains and all have come back.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn run(self) -> Result<(), String> {
        let control = &self.endpoint.segment().header().control;
        let is_draining = || Mode::of(control) >= Mode::Draining;
        let mut rng = Rng::new(self.seed ^ u64::from(self.life));
        let (mut under_way, mut number) = (0, 0);
        loop {
            let draining = is_draining();
            for _ in 0..rng.below(24) {
                if draining || under_way >= UNDER_WAY || !self.submit(Tag::new(self.life, number))? {
                    break;
                }
                number += 1;
                under_way += 1;
            }
            let mut has_taken = false;
            while let Some(finished) = self.endpoint.take().map_err(text)? {
                self.check(&finished)?;
                under_way -= 1;
                has_taken = true;
            }
            match (draining, under_way) {
                (true, 0) => return Ok(()),
                // All descriptors are another's: nobody will tell us when one is free.
                (false, 0) if !has_taken => self.endpoint.park(&[], Some(PAUSE), is_draining),
                _ if has_taken => {}
                _ => self.endpoint.park(&[], None, || draining != is_draining()),
            }
        }
    }

    /// False: there is no room at present.
    fn submit(&self, tag: Tag) -> Result<bool, String> {
        let task = Task::of(self.seed, tag);
        let addressee = task.addressee.map(|seat| self.workers[seat].load(Relaxed)).filter(|bits| *bits != 0);
        let to = addressee.map_or(To::Queue(QUEUE), |bits| To::Participant(Name::of(bits)));
        let s = Submission {
            kind: self.kind,
            tag: tag.0,
            max_attempts: task.max_attempts,
            expires_in: task.expires_in,
            limits: task.limits,
            backoff: task.backoff,
            ..Submission::new(to)
        };
        if !self.book.intend(tag) {
            return Ok(false);
        }
        let submitted = if task.is_patient {
            let mut input = vec![0; task.len];
            task.write(&mut input, self.seed, tag);
            self.endpoint.submit(s, &input, || Mode::of(&self.endpoint.segment().header().control) >= Mode::Draining)
        } else {
            self.endpoint.draft(task.len).and_then(|mut draft| {
                task.write(draft.payload()?, self.seed, tag);
                Ok(Some(draft.submit(s)?))
            })
        };
        let id = match submitted {
            Ok(Some(id)) => id,
            Ok(None) => return Ok(false),
            Err(e) if e.is_transient() => return Ok(false),
            Err(e) => return Err(text(e)),
        };
        self.book.accept(tag);
        if task.is_cancelled {
            let _ = self.endpoint.cancel(id).map_err(text)?; // the result says what became of it
        }
        Ok(true)
    }

    /// Is this result what it must be?
    fn check(&self, finished: &Finished<'_>) -> Result<(), String> {
        let (tag, outcome, status) = (Tag(finished.tag()), finished.outcome(), finished.status());
        self.book.deliver(tag, outcome)?;
        let task = Task::of(self.seed, tag);
        let is_tagged = task.len >= DIGEST;
        let attempts = self.book.attempts(tag);
        let is_right = match outcome {
            Outcome::Completed => {
                let mut input = vec![0; task.len];
                task.write(&mut input, self.seed, tag);
                let sum = digest(&input);
                let output = finished.output().map_err(text)?;
                let (head, rest) = output.split_at(DIGEST.min(output.len()));
                head == sum.to_le_bytes()
                    && (status == STATUS_OK && rest.len() == task.len && is_filled(rest, sum)
                        || status == STATUS_NO_ROOM && rest.is_empty())
                    && (!is_tagged || attempts > 0)
            }
            Outcome::Cancelled => task.is_cancelled,
            Outcome::Expired => task.expires_in.is_some(),
            Outcome::TimedOut => task.limits != Limits::default() && finished.claimant().is_some(),
            Outcome::AddresseeDied => task.addressee.is_some(),
            Outcome::WorkerDied => finished.claimant().is_some() && Exit::unpack(finished.exit()) != Exit::Unknown,
        };
        if is_right && attempts <= task.max_attempts {
            return Ok(());
        }
        Err(format!(
            "{tag:?} ({} bytes, at most {} attempts) comes back as {outcome:?} with status {status} and a wrong content, \
             after {attempts} attempts",
            task.len, task.max_attempts
        ))
    }
}
