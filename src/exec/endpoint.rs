//! An endpoint: what one participant does with the segment, with guards in place of bare words.
//!
//! The usual flow. A submitter: [`Endpoint::draft`] → fill → [`Draft::submit`], later [`Endpoint::take`] → [`Finished`]. A
//! worker: [`Endpoint::claim`] → [`Claimed`] → [`Claimed::complete`], and [`Endpoint::park`] when there is nothing.
//!
//! Short of room, [`Endpoint::try_submit`] gives the task back at once, [`Endpoint::submit`] sleeps, and
//! [`super::notify::Notifier::submit`] is a future.
//!
//! Payloads are written and read in place. A guard that is dropped on the way gives its descriptor back, so an early
//! return leaks nothing; a death is the coordinator's to settle.
//!
//! Fields of descriptors are Relaxed here: they travel with the task word ([`crate::lockfree::descriptor`], Ordering).

use crate::{
    error::Corrupted,
    lockfree::{
        descriptor::{Backoff, Descriptor, INLINE, Limits, Payload},
        participant::Name,
        table::{Again, Cancel, Cursors, LaneId, Owned, Table, TaskId, Waits},
        word::{Outcome, Phase},
    },
    mem::segment::{NoSpace, Segment},
    sync::{Acquire, Bell, Relaxed, Release, spin_loop},
};
use std::{
    ops::Deref,
    os::fd::{AsRawFd, OwnedFd},
    slice,
    sync::{Arc, OnceLock, atomic::AtomicBool},
    time::Duration,
};

/// What a worker says of a task that it completed, beside the output. 0 is success; the rest belongs to the kind of task.
pub(crate) const STATUS_OK: u32 = 0;
/// The worker gave the task up without a result: its code dropped it, or a panic did.
pub(crate) const STATUS_ABANDONED: u32 = u32::MAX;

/// Why a payload was not accepted. Nothing was submitted, nothing is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// Every descriptor is in use: take results, then try again.
    #[error("all {0} task descriptors are in use")]
    Full(usize),
    /// There is no room for it at present: take results, then try again.
    #[error(transparent)]
    NoSpace(#[from] NoSpace),
    /// No segment takes such a payload.
    #[error("a payload of {len} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// Bytes wanted.
        len: usize,
        /// Bytes possible.
        limit: usize,
    },
    /// The segment is damaged.
    #[error(transparent)]
    Corrupted(#[from] Corrupted),
    /// Nobody is left who could look after the task.
    #[error(transparent)]
    CoordinatorDied(#[from] CoordinatorDied),
}

impl SubmitError {
    /// Is it worth trying again once results have been taken?
    pub fn is_transient(&self) -> bool {
        matches!(self, SubmitError::Full(_) | SubmitError::NoSpace(_))
    }

    /// Will whoever makes room wake those who wait for it? Memory that the kernel refuses may never come.
    pub(crate) fn is_want_of_room(&self) -> bool {
        matches!(self, SubmitError::Full(_) | SubmitError::NoSpace(NoSpace::Taken { .. }))
    }
}

/// The coordinator of the pool has ended: nothing that was submitted is looked after any more. Results that were finished can
/// still be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the coordinator of the pool has ended: attach again once it runs")]
pub struct CoordinatorDied;

/// Why a wait for results ended without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum WaitError {
    /// None will come.
    #[error(transparent)]
    CoordinatorDied(#[from] CoordinatorDied),
    /// The segment is damaged.
    #[error(transparent)]
    Corrupted(#[from] Corrupted),
}

/// Where a task goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    /// Whoever takes from this queue.
    Queue(usize),
    /// This participant and nobody else.
    Participant(Name),
}

/// One participant's end of the segment. Threads of its process may share it.
pub(crate) struct Endpoint {
    segment: Arc<Segment>,
    name: Name,
    cursors: Cursors,
    spins: u32,
    is_orphaned: AtomicBool,
    /// Why the coordinator has gone, if it, or somebody, said.
    why_orphaned: OnceLock<String>,
    /// What `cursors` ring, where nobody else keeps it.
    own_bell: Option<OwnedFd>,
}

/// Looks into the lanes before sleeping, where another core can bring something meanwhile: some microseconds, less than
/// a sleep and its wake cost.
const SPINS: u32 = 100;

/// Who waits for room looks again after so long: whoever made some may be stopped before it could say so, and nobody else
/// knows.
pub(crate) const ROOM: Duration = Duration::from_millis(100);

impl Endpoint {
    /// The end of the participant to which the coordinator has given `name`.
    pub(crate) fn new(segment: Arc<Segment>, name: Name) -> Endpoint {
        // Counts affinity and the cgroup's quota.
        let spins = if std::thread::available_parallelism().map_or(1, usize::from) > 1 { SPINS } else { 0 };
        Endpoint::spinning(segment, name, spins)
    }

    /// As [`new`](Self::new), for one that looks so many times more before it sleeps.
    pub(crate) fn spinning(segment: Arc<Segment>, name: Name, spins: u32) -> Endpoint {
        let cursors = Cursors::new(segment.table());
        Endpoint {
            segment,
            name,
            cursors,
            spins,
            is_orphaned: AtomicBool::new(false),
            why_orphaned: OnceLock::new(),
            own_bell: None,
        }
    }

    /// Who rouses the coordinator for a time or an unanswered wake, where it sleeps in `poll`.
    pub(crate) fn with_bell(self, bell: Bell) -> Endpoint {
        Endpoint { cursors: self.cursors.with_bell(bell), ..self }
    }

    /// As [`with_bell`](Self::with_bell), for a bell that is kept open for as long as this endpoint is used.
    pub(crate) fn with_own_bell(self, bell: OwnedFd) -> Endpoint {
        let rung = Bell::new(bell.as_raw_fd());
        Endpoint { own_bell: Some(bell), ..self.with_bell(rung) }
    }

    pub(crate) fn name(&self) -> Name {
        self.name
    }

    pub(crate) fn segment(&self) -> &Segment {
        &self.segment
    }

    fn table(&self) -> &Table<'_> {
        self.segment.table()
    }

    fn descriptor(&self, task: Owned) -> &Descriptor {
        &self.table().descriptors[task.index as usize]
    }

    /// The lane of a queue, for `claim` and `park`.
    pub(crate) fn queue(&self, queue: usize) -> LaneId {
        self.table().queue(queue)
    }

    /// The lane of what is addressed to this participant.
    pub(crate) fn private(&self) -> LaneId {
        self.table().private(self.name.id())
    }

    // ---- submitter --------------------------------------------------------------------------------------------------

    /// Takes a descriptor, and a block if `len` needs one.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub(crate) fn draft(&self, len: usize) -> Result<Draft<'_>, SubmitError> {
        if self.is_orphaned() {
            return Err(CoordinatorDied.into());
        }
        self.check_len(len)?;
        if len > INLINE && !self.table().blocks.has_free(len) {
            // Before a descriptor is taken, which would be given back at once: that wakes all who wait for room, ourselves too.
            return Err(self.segment.all_taken(len).into());
        }
        let task = self.table().reserve(self.name).ok_or(SubmitError::Full(self.table().descriptors.len()))?;
        let guard = Guard { endpoint: self, task };
        let payload = self.place(task, len, |d| &d.input)?;
        Ok(Draft { guard, payload })
    }

    /// Copies the payload in and submits. Short of room the task is the caller's still, who has lent it only.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub(crate) fn try_submit(&self, s: Submission, payload: &[u8]) -> Result<TaskId, SubmitError> {
        self.draft(payload.len())?.fill_and_submit(s, payload)
    }

    /// As [`try_submit`](Self::try_submit), but sleeps while there is no room. `None`: `stop` became true, which whoever
    /// changes it follows by a wake.
    ///
    /// # Errors
    /// [`SubmitError`]: a transient one where results of this participant wait to be taken, since then only the caller can make
    /// room, and where the kernel has no more memory.
    pub(crate) fn submit(
        &self,
        s: Submission,
        payload: &[u8],
        stop: impl Fn() -> bool,
    ) -> Result<Option<TaskId>, SubmitError> {
        loop {
            let mut found = None;
            let mut look = || match self.draft(payload.len()) {
                Err(e) if e.is_want_of_room() && !stop() && !self.has_results() => false,
                other => {
                    found = Some(other);
                    true
                }
            };
            if !look() {
                self.park_for(Waits { room: true, own: true, queues: &[] }, Some(ROOM), look);
            }
            match found {
                Some(Err(e)) if e.is_want_of_room() && stop() => return Ok(None),
                Some(draft) => return draft?.fill_and_submit(s, payload).map(Some),
                None => {}
            }
        }
    }

    /// Do results wait to be taken?
    fn has_results(&self) -> bool {
        self.table().has_own_work(&self.cursors, self.name, self.table().completion(self.name.id()))
    }

    /// Could a draft of `len` bytes succeed? By the time that it is tried, another may have been faster.
    pub(crate) fn may_have_room(&self, len: usize) -> bool {
        let table = self.table();
        (0..table.descriptors.len()).any(|i| table.load(i as u16).is(Phase::Free))
            && (len <= INLINE || table.blocks.has_free(len))
    }

    fn check_len(&self, len: usize) -> Result<(), SubmitError> {
        let limit = self.segment.max_payload();
        if len <= limit { Ok(()) } else { Err(SubmitError::TooLarge { len, limit }) }
    }

    /// Finds room for `len` bytes and makes `field` refer to it.
    fn place(
        &self,
        task: Owned,
        len: usize,
        field: impl Fn(&Descriptor) -> &crate::sync::AtomicU64,
    ) -> Result<Payload, SubmitError> {
        let field = field(self.descriptor(task));
        if len <= INLINE {
            let payload = Payload::new(None, len as u32);
            field.store(payload.0, Relaxed);
            return Ok(payload);
        }
        let block = self.segment.alloc(len, self.name, || self.cursors.bell.ring())?;
        let payload = Payload::new(Some(block), len as u32);
        // The field first: an attached block is always referred to (`blocks`, invariant 2).
        field.store(payload.0, Relaxed);
        self.table().blocks.attach(block, self.name, task.index, task.word)?;
        Ok(payload)
    }

    /// Cancels a task of this participant's; one that runs is asked to end.
    pub(crate) fn cancel(&self, task: TaskId) -> Result<Cancel, Corrupted> {
        self.table().cancel(&self.cursors, task)
    }

    /// The next finished task that this participant submitted.
    pub(crate) fn take(&self) -> Result<Option<Finished<'_>>, Corrupted> {
        let taken = self.table().take(&self.cursors, self.name)?;
        Ok(taken.map(|(task, outcome)| FinishedBy { guard: Guard { endpoint: self, task }, outcome }))
    }

    /// As [`take`](Self::take), for a result that outlives the borrow.
    pub(crate) fn take_owned(self: &Arc<Self>) -> Result<Option<FinishedBy<Arc<Endpoint>>>, Corrupted> {
        let taken = self.table().take(&self.cursors, self.name)?;
        Ok(taken.map(|(task, outcome)| FinishedBy { guard: Guard { endpoint: self.clone(), task }, outcome }))
    }

    /// Sleeps until a result may have come, or `timeout` is over; looks for a while before that.
    pub(crate) fn rest(&self, timeout: Option<Duration>) {
        for _ in 0..self.spins {
            if self.has_results() {
                return;
            }
            spin_loop();
        }
        self.park(&[], timeout, || false);
    }

    /// The next finished task that this participant submitted; sleeps while there is none. `None`: `stop` became true, which
    /// whoever changes it follows by a wake.
    ///
    /// # Errors
    /// [`WaitError`].
    pub(crate) fn wait(&self, stop: impl Fn() -> bool) -> Result<Option<Finished<'_>>, WaitError> {
        loop {
            // Asked before the look, so that nothing which was finished until then is missed.
            let is_orphaned = self.is_orphaned();
            if let Some(finished) = self.take()? {
                return Ok(Some(finished));
            }
            if is_orphaned {
                return Err(CoordinatorDied.into());
            }
            if stop() {
                return Ok(None);
            }
            self.park(&[], None, &stop);
        }
    }

    /// The coordinator has gone: from now on nothing is submitted, and every wait ends.
    pub(crate) fn orphan(&self) {
        // Release, for the Acquire below; for who sleeps, or is about to, the wake orders it.
        self.is_orphaned.store(true, Release);
        self.wake_self();
    }

    /// As [`orphan`](Self::orphan), for this reason.
    pub(crate) fn orphan_because(&self, why: &str) {
        // The first one stands.
        let _ = self.why_orphaned.set(why.to_owned());
        self.orphan();
    }

    /// Why the coordinator has gone, where that is known.
    pub(crate) fn why_orphaned(&self) -> Option<&str> {
        self.why_orphaned.get().map(String::as_str)
    }

    pub(crate) fn is_orphaned(&self) -> bool {
        self.is_orphaned.load(Acquire) // in `wait` the look that follows stays behind it
    }

    // ---- worker -----------------------------------------------------------------------------------------------------

    /// The next task of this lane.
    pub(crate) fn claim(&self, lane: LaneId) -> Result<Option<Claimed<'_>>, Corrupted> {
        let claimed = self.table().claim(&self.cursors, self.name, lane)?;
        Ok(claimed.map(|task| Claimed { endpoint: self, task, open: true }))
    }

    /// Sleeps until there may be something in one of `queues` or in this participant's own lanes, `timeout` is over, or
    /// somebody wakes it. `last_look` true: don't sleep.
    pub(crate) fn park(&self, queues: &[LaneId], timeout: Option<Duration>, last_look: impl FnOnce() -> bool) {
        self.park_for(Waits { queues, own: true, room: false }, timeout, last_look);
    }

    pub(crate) fn park_for(&self, waits: Waits<'_>, timeout: Option<Duration>, last_look: impl FnOnce() -> bool) {
        self.table().park(&self.cursors, self.name, waits, timeout, || self.is_orphaned() || last_look());
    }

    /// The next task for a worker of `queues`, its own lane first; sleeps while there is none. `None`: `stop` became true,
    /// which whoever changes it follows by a wake, or the coordinator has gone.
    pub(crate) fn next(&self, queues: &[LaneId], stop: impl Fn() -> bool) -> Result<Option<Claimed<'_>>, Corrupted> {
        let own = self.private();
        let mut has_slept = false;
        loop {
            for _ in 0..=self.spins {
                for &lane in [own].iter().chain(queues) {
                    if let Some(task) = self.claim(lane)? {
                        if has_slept {
                            // The wake may have been meant for a second task.
                            self.wake_next(queues);
                        }
                        return Ok(Some(task));
                    }
                }
                spin_loop();
            }
            if stop() || self.is_orphaned() {
                return Ok(None);
            }
            self.park(queues, None, &stop);
            has_slept = true;
        }
    }

    /// One task more that this participant has done, for the report: a worker's completions, a client's answers.
    pub(crate) fn count(&self) {
        // Relaxed: from threads of this process only, and a figure for the report.
        self.table().participants[self.name.id() as usize].finished.fetch_add(1, Relaxed);
    }

    /// For who has claimed after a park, which may have been ended for the sake of another task: wakes the next worker if
    /// something is left. [`Self::next`] does it by itself.
    pub(crate) fn wake_next(&self, queues: &[LaneId]) {
        self.table().wake_next(&self.cursors, queues);
    }

    /// Ends a park of this same participant, from another of its threads.
    pub(crate) fn wake_self(&self) {
        self.table().participants[self.name.id() as usize].wake();
    }
}

/// A descriptor that this participant has RESERVED; released when dropped. `E`: a reference to the endpoint, or a share in it.
struct Guard<E: Deref<Target = Endpoint>> {
    endpoint: E,
    task: Owned,
}

impl<E: Deref<Target = Endpoint>> Drop for Guard<E> {
    fn drop(&mut self) {
        // Damage is reported by the next operation that meets it; here is nobody to tell.
        let _ = self.endpoint.table().release(self.task);
    }
}

/// A submission being filled.
pub(crate) struct Draft<'e> {
    guard: Guard<&'e Endpoint>,
    /// What the descriptor says as well, where others might change it.
    payload: Payload,
}

/// What a submission says beside its payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Submission {
    pub(crate) to: To,
    /// What the payload means.
    pub(crate) kind: u32,
    /// The submitter's note, given back with the result.
    pub(crate) tag: u64,
    /// Attempts after which a worker's death ends the task; at least 1.
    pub(crate) max_attempts: u8,
    /// No attempt begins later than this from now.
    pub(crate) expires_in: Option<Duration>,
    /// What each attempt may take; past that its worker is killed.
    pub(crate) limits: Limits,
    /// How long the next attempt waits.
    pub(crate) backoff: Backoff,
}

impl Submission {
    /// One attempt, with all the time in the world.
    pub(crate) const fn new(to: To) -> Submission {
        let limits = Limits { run_ms: 0, silence_ms: 0 };
        let backoff = Backoff { first_ms: 0, longest_ms: 0 };
        Submission { to, kind: 0, tag: 0, max_attempts: 1, expires_in: None, limits, backoff }
    }
}

impl Draft<'_> {
    /// The payload's bytes, in place. Their former content is whatever lay there.
    pub(crate) fn payload(&mut self) -> Result<&mut [u8], Corrupted> {
        let (endpoint, task) = (self.guard.endpoint, self.guard.task);
        let (start, len) = endpoint.segment.locate(task, self.payload, &endpoint.descriptor(task).input_bytes)?;
        // SAFETY: the bytes lie in the segment, inline or in a block of this task's (`locate`), and are ours alone
        // while the word is RESERVED(me) (invariant 2 of `descriptor`), which it is as long as this guard lives; the
        // borrow of `self` excludes a second slice.
        Ok(unsafe { slice::from_raw_parts_mut(start, len) })
    }

    fn fill_and_submit(mut self, s: Submission, payload: &[u8]) -> Result<TaskId, SubmitError> {
        self.payload()?.copy_from_slice(payload);
        Ok(self.submit(s)?)
    }

    /// RESERVED → READY: from here on others see it.
    pub(crate) fn submit(self, s: Submission) -> Result<TaskId, Corrupted> {
        let guard = std::mem::ManuallyDrop::new(self.guard);
        let (endpoint, task) = (guard.endpoint, guard.task);
        endpoint.table().check_owned(endpoint.name, task)?;
        let d = endpoint.descriptor(task);
        d.kind.store(s.kind, Relaxed);
        d.tag.store(s.tag, Relaxed);
        d.max_attempts.store(s.max_attempts.max(1).into(), Relaxed);
        d.status.store(STATUS_OK, Relaxed);
        let table = endpoint.table();
        let expires = s.expires_in.map_or(0, |t| {
            let ns = u64::try_from(t.as_nanos()).unwrap_or(u64::MAX);
            table.now().saturating_add(ns).max(1)
        });
        d.expires.store(expires, Relaxed);
        d.limits.store(s.limits.bits(), Relaxed);
        d.backoff.store(s.backoff.bits(), Relaxed);
        let (lane, addressee) = match s.to {
            To::Queue(q) => (table.queue(q), None),
            To::Participant(name) => (table.private(table.check_participant(name)?), Some(name)),
        };
        table.publish(&endpoint.cursors, endpoint.name, task, lane, addressee)
    }
}

/// A task that this participant runs.
pub(crate) struct Claimed<'e> {
    endpoint: &'e Endpoint,
    task: Owned,
    open: bool,
}

impl<'e> Claimed<'e> {
    /// The payload, read in place.
    pub(crate) fn input(&self) -> Result<&[u8], Corrupted> {
        let d = self.endpoint.descriptor(self.task);
        let (start, len) = self.endpoint.segment.locate(self.task, Payload(d.input.load(Relaxed)), &d.input_bytes)?;
        // SAFETY: the bytes lie in the segment, inline or in a block of this task's (`locate`), and nobody writes the
        // input while the word is CLAIMED(me) (invariant 2 of `descriptor`), which it is as long as this guard lives.
        Ok(unsafe { slice::from_raw_parts(start, len) })
    }

    pub(crate) fn kind(&self) -> u32 {
        self.endpoint.descriptor(self.task).kind.load(Relaxed)
    }

    pub(crate) fn submitter(&self) -> Name {
        Name::of(self.endpoint.descriptor(self.task).submitter.load(Relaxed))
    }

    /// Which attempt this is, from 0.
    pub(crate) fn attempt(&self) -> u8 {
        self.task.word.attempt()
    }

    /// Has its submitter asked for its end?
    pub(crate) fn is_cancelled(&self) -> bool {
        self.endpoint.table().is_cancel_asked(self.task.index, self.task.word)
    }

    /// A sign of life, for tasks whose silence is limited.
    pub(crate) fn heartbeat(&self) {
        let (endpoint, table) = (self.endpoint, self.endpoint.table());
        if table.check_owned(endpoint.name, self.task).is_ok() {
            endpoint.descriptor(self.task).heartbeat.store(table.now(), Relaxed);
        }
    }

    /// CLAIMED → DONE, with `len` bytes of output that `fill` writes in place.
    ///
    /// # Errors
    /// [`SubmitError`], with the task if that is still ours: there is no room for the output.
    pub(crate) fn complete(
        self,
        status: u32,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), (SubmitError, Option<Claimed<'e>>)> {
        self.end(Outcome::Completed, status, len, fill)
    }

    /// CLAIMED → DONE(cancelled): its worker has ended it as it was asked to.
    ///
    /// # Errors
    /// [`Corrupted`] if a word or lane is damaged.
    pub(crate) fn cancelled(self) -> Result<(), Corrupted> {
        self.end(Outcome::Cancelled, STATUS_OK, 0, |_| {}).map_err(|(e, _)| match e {
            SubmitError::Corrupted(e) => e,
            _ => unreachable!("an empty output needs no room"),
        })
    }

    fn end(
        mut self,
        outcome: Outcome,
        status: u32,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), (SubmitError, Option<Claimed<'e>>)> {
        let written = self.write_output(status, len, fill);
        self.open = matches!(&written, Err(e) if !matches!(e, SubmitError::Corrupted(_)));
        if let Err(e) = written {
            return Err((e, self.open.then_some(self)));
        }
        let endpoint = self.endpoint;
        endpoint
            .table()
            .complete(&endpoint.cursors, endpoint.name, self.task, outcome)
            .map_err(|e| (e.into(), None))?;
        endpoint.count();
        Ok(())
    }

    /// CLAIMED → READY or DELAYED: another attempt, later. Gives the task back if no attempt is left.
    ///
    /// # Errors
    /// [`Corrupted`] if a word or lane is damaged.
    pub(crate) fn give_back(mut self, again: Again) -> Result<Option<Claimed<'e>>, Corrupted> {
        let endpoint = self.endpoint;
        // Whatever comes of it, the task must not be completed by the drop of this guard: after an error it isn't ours.
        self.open = false;
        if endpoint.table().give_back(&endpoint.cursors, endpoint.name, self.task, again)? {
            return Ok(None);
        }
        self.open = true;
        Ok(Some(self))
    }

    /// Waits for a moment while there is no room for the output, or until somebody wakes this participant.
    pub(crate) fn pause(&self, at_most: Duration) {
        self.endpoint.park_for(Waits { room: true, ..Waits::default() }, Some(at_most), || false);
    }

    fn write_output(&mut self, status: u32, len: usize, fill: impl FnOnce(&mut [u8])) -> Result<(), SubmitError> {
        let endpoint = self.endpoint;
        endpoint.check_len(len)?;
        endpoint.table().check_owned(endpoint.name, self.task)?;
        let d = endpoint.descriptor(self.task);
        let payload = endpoint.place(self.task, len, |d| &d.output)?;
        let (start, len) = endpoint.segment.locate(self.task, payload, &d.output_bytes)?;
        // SAFETY: as for the input, and the output is ours alone to write while the word is CLAIMED(me); `&mut self`
        // excludes a second slice.
        fill(unsafe { slice::from_raw_parts_mut(start, len) });
        d.status.store(status, Relaxed);
        Ok(())
    }
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        if self.open {
            self.open = false;
            let (endpoint, table) = (self.endpoint, self.endpoint.table());
            // Damage is reported by the next operation that meets it; here is nobody to tell.
            let _ = table.check_owned(endpoint.name, self.task).and_then(|()| {
                endpoint.descriptor(self.task).status.store(STATUS_ABANDONED, Relaxed);
                table.complete(&endpoint.cursors, endpoint.name, self.task, Outcome::Completed)
            });
        }
    }
}

/// A finished task, taken by its submitter; its descriptor and blocks are freed when this is dropped.
pub(crate) struct FinishedBy<E: Deref<Target = Endpoint>> {
    guard: Guard<E>,
    outcome: Outcome,
}

/// A finished task within a borrow of the endpoint.
pub(crate) type Finished<'e> = FinishedBy<&'e Endpoint>;

impl<E: Deref<Target = Endpoint>> FinishedBy<E> {
    pub(crate) fn tag(&self) -> u64 {
        self.guard.endpoint.descriptor(self.guard.task).tag.load(Relaxed)
    }

    pub(crate) fn outcome(&self) -> Outcome {
        self.outcome
    }

    pub(crate) fn status(&self) -> u32 {
        self.guard.endpoint.descriptor(self.guard.task).status.load(Relaxed)
    }

    /// Who claimed it last; `None` if nobody ever did.
    pub(crate) fn claimant(&self) -> Option<Name> {
        let bits = self.guard.endpoint.descriptor(self.guard.task).claimant.load(Relaxed);
        (bits != 0).then(|| Name::of(bits))
    }

    /// How its worker ended, packed, if it died.
    pub(crate) fn exit(&self) -> u64 {
        self.guard.endpoint.descriptor(self.guard.task).exit.load(Relaxed)
    }

    /// The output, read in place; empty unless the outcome is `Completed`.
    pub(crate) fn output(&self) -> Result<&[u8], Corrupted> {
        let (endpoint, task) = (&*self.guard.endpoint, self.guard.task);
        let d = endpoint.descriptor(task);
        let (start, len) = endpoint.segment.locate(task, Payload(d.output.load(Relaxed)), &d.output_bytes)?;
        // SAFETY: the bytes lie in the segment, inline or in a block of this task's (`locate`), and nobody writes them
        // while the word is RESERVED(me) (invariant 2 of `descriptor`), which it is as long as this guard lives.
        Ok(unsafe { slice::from_raw_parts(start, len) })
    }
}
