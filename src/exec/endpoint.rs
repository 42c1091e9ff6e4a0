//! An endpoint: what one participant does with the segment, with guards in place of bare words.
//!
//! The usual flow. A submitter: [`Endpoint::draft`] → fill → [`Draft::submit`], later [`Endpoint::take`] → [`Finished`]. A
//! worker: [`Endpoint::claim`] → [`Claimed`] → [`Claimed::complete`], and [`Endpoint::park`] when there is nothing.
//!
//! Short of room, [`Endpoint::try_submit`] gives the task back at once, and [`Endpoint::submit`] sleeps.
//!
//! Payloads are written and read in place. A guard that is dropped on the way gives its descriptor back, so an early
//! return leaks nothing; a death is the coordinator's to settle.
//!
//! Fields of descriptors are Relaxed here: they travel with the task word ([`crate::lockfree::descriptor`], Ordering).

use super::spin::Spin;
use crate::{
    error::Corrupted,
    lockfree::{
        descriptor::{
            Backoff, Blame, Descriptor, INLINE, Limits, OF_NAME, Payload, Place, Rules, Run, TraceParent, set,
        },
        participant::{Counts, Histograms, How, Name, Participant},
        table::{Again, Cancel, Cursors, Given, LaneId, Owned, Table, TaskId, Waits},
        task_clock::{Sampler, TaskClock},
        trail::{End, Pen, Trail},
        word::{Block, Outcome, Phase, Task},
    },
    mem::segment::{NoSpace, Segment},
    sync::{Acquire, AtomicU64, Bell, Inline, Relaxed, Release, monotonic},
};
use std::{
    any::Any,
    mem::ManuallyDrop,
    ops::Deref,
    os::fd::{AsRawFd, OwnedFd},
    ptr, slice,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst, compiler_fence},
    },
    time::{Duration, Instant},
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
    /// Buffers that this process has [reserved](crate::pool::Reserved), with results that it has not dropped, take all the room, and
    /// nothing of its own is under way that would make some: submit or drop some of them.
    #[error("the {0} buffers that this process has reserved take all the room: submit or drop some of them first")]
    Reserved(usize),
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
    /// Who is told of each result before it is let go of. It goes before the segment, whose lock says that its journal is in use.
    recorder: Option<Recorder>,
    segment: Arc<Segment>,
    name: Name,
    /// How long its attempts waited and ran. It borrows from `segment`, and is handed out for as long as that is borrowed only.
    times: &'static Histograms,
    /// What became of them, by kind. As above.
    counts: Counts<'static>,
    /// Where it leaves what it does. As above.
    trail: Pen<'static>,
    cursors: Cursors,
    /// The moment at which it was made, on two clocks that are one.
    began: (Instant, u64),
    /// Of the process in which it was made: a system call less for each task.
    pid: u32,
    spin: Spin,
    sampler: Sampler,
    /// CPUs that this process may use.
    cpus: usize,
    is_orphaned: AtomicBool,
    /// [`share`](Self::share)
    is_shared: AtomicBool,
    /// The one thread that counts is about to, or does.
    is_counting: AtomicBool,
    /// Why the coordinator has gone, if it, or somebody, said.
    why_orphaned: OnceLock<String>,
    /// Of a durable client: who takes results, one thread at a time, since each is noted before.
    taking: Option<Mutex<()>>,
    /// Who reads or replaces the checkpoint of a task: its threads share a task, and slots a lock.
    keeping: [Mutex<()>; 16],
    /// The block that an input was put into last. A hint, which may be any number.
    last_block: AtomicU32,
    /// What is needed for as long as anybody uses the rest, and goes after that.
    _kept: Option<Box<dyn Any + Send + Sync>>,
}

/// A sleep in the trail, and when it was over last.
struct Sleep {
    at: u64,
    woken: Instant,
}

/// In place of the stamp of a beginning, of a task that nobody has handed back: as it came somebody looked for it, and did nothing
/// else. So its beginning needs no stamp of its own.
pub(crate) const AT_ONCE: u64 = u64::MAX;

/// Payloads up to this length find blocks whatever is under way: of the smallest there are as many as descriptors.
const SMALL: usize = 4096;

/// Who waits for room looks again after so long: whoever made some may be stopped before it could say so, and nobody else
/// knows.
pub(crate) const ROOM: Duration = Duration::from_millis(100);

/// How many CPUs this process may use, by its affinity and by the quota of its cgroup: some 25 system calls.
pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A full barrier in each thread of this process (`membarrier(2)`). A kernel that has none leaves counts that may be wrong by the few that are
/// made just now.
fn fence_all_threads() {
    for command in [libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED] {
        // SAFETY: it touches no memory.
        let _ = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    }
}

impl Endpoint {
    /// The end of the participant to which the coordinator has given `name`.
    pub(crate) fn new(segment: Arc<Segment>, name: Name) -> Endpoint {
        Endpoint::on(cpus(), segment, name)
    }

    /// As [`new`](Self::new), in a process that knows how many [`cpus`] it may use.
    pub(crate) fn on(cpus: usize, segment: Arc<Segment>, name: Name) -> Endpoint {
        Endpoint::spinning(segment, name, cpus, if cpus > 1 { Spin::usual() } else { Spin::up_to(Duration::ZERO) })
    }

    /// As [`new`](Self::new), for one that looks once before it sleeps.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn hasty(segment: Arc<Segment>, name: Name) -> Endpoint {
        Endpoint::spinning(segment, name, 1, Spin::up_to(Duration::ZERO))
    }

    fn spinning(segment: Arc<Segment>, name: Name, cpus: usize, spin: Spin) -> Endpoint {
        let cursors = Cursors::new(segment.table());
        let record = segment.record(name.id()).expect("the coordinator gives names of the segment's participants");
        // SAFETY: it lies in the mapping, which stays where it is for as long as the segment lives, of which the endpoint has a share.
        let record = unsafe { &*ptr::from_ref(record) };
        let trail = segment.trail(name.id()).expect("there are as many as records");
        // SAFETY: as above.
        let trail: &'static Trail = unsafe { &*ptr::from_ref(trail) };
        let (pid, role) = (std::process::id(), segment.table().participants[usize::from(name.id())].role.load(Relaxed));
        Endpoint {
            segment,
            name,
            times: record.times(),
            counts: record.counts(),
            trail: trail.pen(name, pid, role),
            cursors,
            began: (Instant::now(), monotonic()),
            pid,
            spin,
            sampler: Sampler::default(),
            cpus,
            is_orphaned: AtomicBool::new(false),
            is_shared: AtomicBool::new(true),
            is_counting: AtomicBool::new(false),
            why_orphaned: OnceLock::new(),
            taking: None,
            recorder: None,
            keeping: Default::default(),
            last_block: AtomicU32::new(0),
            _kept: None,
        }
    }

    /// That of a durable client, which has a seat: what it has taken and not let go when it dies is its successor's.
    pub(crate) fn durable(self) -> Endpoint {
        Endpoint { taking: Some(Mutex::default()), ..self }
    }

    pub(crate) fn is_durable(&self) -> bool {
        self.taking.is_some()
    }

    /// Has this one told of each result of a task with a number, before it is let go of.
    pub(crate) fn recorded_by(self, recorder: Recorder) -> Endpoint {
        Endpoint { recorder: Some(recorder), ..self }
    }

    /// Tells that the result of this task was delivered, if that is what it is. False: it can't be told.
    #[inline]
    fn record(&self, task: Owned) -> bool {
        let Some(recorder) = &self.recorder else { return true };
        let d = self.descriptor(task);
        let number = d.number.load(Relaxed);
        match d.noted(task.word).and_then(|done| done.phase()) {
            Some(Phase::Done(outcome)) if number != 0 => recorder(number, outcome, task.word.attempt()),
            _ => true, // a draft
        }
    }

    /// Who rouses the coordinator for a time or an unanswered wake, where it sleeps in `poll`.
    pub(crate) fn with_bell(self, bell: Bell) -> Endpoint {
        Endpoint { cursors: self.cursors.with_bell(bell), ..self }
    }

    /// As [`with_bell`](Self::with_bell), for a bell that is kept open for as long as this endpoint is used.
    pub(crate) fn with_own_bell(self, bell: OwnedFd) -> Endpoint {
        let rung = Bell::new(bell.as_raw_fd());
        self.with_bell(rung).holding(bell)
    }

    /// Drops this once the last who uses the endpoint has dropped it, behind all else.
    pub(crate) fn holding(self, what: impl Any + Send + Sync) -> Endpoint {
        Endpoint { _kept: Some(Box::new(what)), ..self }
    }

    pub(crate) fn name(&self) -> Name {
        self.name
    }

    /// What stands of it in the segment.
    pub(crate) fn participant(&self) -> &Participant {
        &self.table().participants[self.name.id() as usize]
    }

    /// Where it is noted which task's thread got a fatal signal, in its trail.
    pub(crate) fn fault(&self) -> &AtomicU64 {
        self.trail.fault()
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
        self.check_draft(len)?;
        if len > INLINE && !self.table().blocks.has_free(len) {
            // Before a descriptor is taken, which would be given back at once: that wakes all who wait for room, ourselves too.
            return Err(self.segment.all_taken(len).into());
        }
        let task = self.table().reserve(self.name).ok_or(SubmitError::Full(self.table().descriptors.len()))?;
        let guard = Guard { endpoint: self, task };
        let payload = self.place_input(task, len)?;
        Ok(Draft { guard, ready: task.ready(), payload })
    }

    fn check_draft(&self, len: usize) -> Result<(), SubmitError> {
        if self.is_orphaned() { Err(CoordinatorDied.into()) } else { self.check_len(len) }
    }

    /// As [`draft`](Self::draft), but leaves one large block for an output: if inputs had them all, no task that needs as much
    /// for its output would come to its end, and no input would go.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub(crate) fn sparing_draft(&self, len: usize) -> Result<Draft<'_>, SubmitError> {
        self.check_draft(len)?;
        self.sparing(len, || {
            let task = self.table().reserve(self.name).ok_or(SubmitError::Full(self.table().descriptors.len()))?;
            Ok(Guard { endpoint: self, task })
        })
    }

    /// The same in a descriptor that is kept for it, where blocks are needed.
    ///
    /// # Errors
    /// [`SubmitError`]; the descriptor is given up then.
    pub(crate) fn sparing_redraft(&self, Spare(task): Spare, len: usize) -> Result<Draft<'_>, SubmitError> {
        let mut guard = Guard { endpoint: self, task };
        self.check_draft(len)?;
        self.sparing(len, || {
            guard.task = self.table().begin_anew(task)?;
            Ok(guard)
        })
    }

    /// Takes the block again that was used last for such an input, if it fits, is free, and leaves one for an output: by a fraction of the
    /// steps that it takes to find one, and without the kernel. To be used by [`redraft_in`](Self::redraft_in).
    #[inline]
    pub(crate) fn retake_block(&self, len: usize) -> Option<HeldBlock> {
        let blocks = &self.table().blocks;
        let block = self.last_block.load(Relaxed); // a hint
        // Of one who has much under way it is mostly in use: before others are looked for.
        if !blocks.is_free(block) {
            return None;
        }
        let spared = self.blocks_to_spare(len);
        if !blocks.has_free_at_least(1 + spared, len) || !blocks.retake(block, len, self.name) {
            return None;
        }
        // As in `sparing`.
        if spared > 0 && !blocks.has_free(len) {
            blocks.free(block as usize, Block::Held(self.name));
            return None;
        }
        Some(HeldBlock(block))
    }

    /// As [`sparing_redraft`](Self::sparing_redraft), in this block.
    ///
    /// # Errors
    /// [`Corrupted`].
    pub(crate) fn redraft_in(
        &self,
        HeldBlock(block): HeldBlock,
        Spare(task): Spare,
        len: usize,
    ) -> Result<Draft<'_>, Corrupted> {
        let task = self.table().begin_anew(task).inspect_err(|_| {
            self.table().blocks.free(block as usize, Block::Held(self.name));
        })?;
        let guard = Guard { endpoint: self, task };
        let payload = self.attach(task, block, len, &self.descriptor(task).input)?;
        Ok(Draft { guard, ready: task.ready(), payload })
    }

    fn sparing<'e>(
        &'e self,
        len: usize,
        guard: impl FnOnce() -> Result<Guard<&'e Endpoint>, SubmitError>,
    ) -> Result<Draft<'e>, SubmitError> {
        let blocks = &self.table().blocks;
        let spared = self.blocks_to_spare(len);
        // Before a descriptor is taken, which would be given back at once: that wakes all who wait for room, ourselves too.
        if len > INLINE && !blocks.has_free_at_least(1 + spared, len) {
            return Err(self.segment.all_taken(len).into());
        }
        let guard = guard()?;
        let payload = self.place_input(guard.task, len)?;
        let draft = Draft { ready: guard.task.ready(), guard, payload };
        // Two may have looked before either took one.
        if spared == 0 || blocks.has_free(len) { Ok(draft) } else { Err(self.segment.all_taken(len).into()) }
    }

    /// How many blocks inputs of this length leave. None, where there is one only.
    fn blocks_to_spare(&self, len: usize) -> usize {
        usize::from(len > SMALL && self.table().blocks.has_at_least(2, len))
    }

    fn has_block_to_spare(&self, len: usize) -> bool {
        len <= INLINE || self.table().blocks.has_free_at_least(1 + self.blocks_to_spare(len), len)
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

    /// Sleeps until there may be room for `len` bytes, or a result of this participant's has come.
    pub(crate) fn wait_for_room(&self, len: usize) {
        let waits = Waits { room: true, own: true, queues: &[] };
        self.park_for(waits, Some(ROOM), || self.may_have_room(len) || self.has_results());
    }

    /// Does somebody sleep for want of a descriptor or block?
    #[inline]
    pub(crate) fn is_room_wanted(&self) -> bool {
        self.table().is_room_wanted()
    }

    /// Do results wait to be taken?
    pub(crate) fn has_results(&self) -> bool {
        self.table().has_own_work(&self.cursors, self.name, self.table().completion(self.name.id()))
    }

    /// As [`has_results`](Self::has_results), at a glance.
    fn may_have_results(&self) -> bool {
        let (table, id) = (self.table(), self.table().completion(self.name.id()));
        !matches!(table.lane(id).glance(self.cursors.of(id)), Err(false))
    }

    /// Are there more participants than CPUs? The coordinator, who sleeps, is one of them.
    fn is_crowded(&self) -> bool {
        self.table().alarm.population.load(Relaxed) as usize > self.cpus + 1
    }

    /// Could a [sparing draft](Self::sparing_draft) of `len` bytes succeed? By the time that it is tried, another may have been faster.
    pub(crate) fn may_have_room(&self, len: usize) -> bool {
        let table = self.table();
        (0..table.descriptors.len()).any(|i| table.load(i as u16).is(Phase::Free)) && self.has_block_to_spare(len)
    }

    /// Does this participant itself hold so much, in drafts and results, that no [sparing draft](Self::sparing_draft) of `len` bytes
    /// can succeed whatever others give back? Nobody but itself can change that: no look at others is of another moment.
    pub(crate) fn has_all_room(&self, len: usize) -> bool {
        let table = self.table();
        let is_ours = |word: Task| word.is(Phase::Reserved) && word.who() == self.name.id();
        let is_in_ours = |index: u16, generation| {
            // What damage names is nobody's.
            let word = (usize::from(index) < table.descriptors.len()).then(|| table.load(index));
            word.is_some_and(|word| is_ours(word) && word.generation() == generation)
        };
        (0..table.descriptors.len()).all(|i| is_ours(table.load(i as u16)))
            || len > INLINE && table.blocks.has_fewer_besides(1 + self.blocks_to_spare(len), len, is_in_ours)
    }

    /// The time at which this is submitted, or 0 if nobody wants it, or it is too dear.
    #[inline]
    pub(crate) fn stamp(&self, s: &Submission) -> u64 {
        let clock = &self.table().clock;
        if s.is_timed { clock.now() } else { clock.stamp(&self.sampler) }
    }

    /// Where the last checkpoint of a task of this participant's lies; `None`: there was none.
    fn locate_checkpoint(&self, task: Owned) -> Result<Option<(*const u8, usize)>, Corrupted> {
        let Some(payload) = self.descriptor(task).last_checkpoint() else { return Ok(None) };
        if payload == Payload::default() {
            return Ok(Some((std::ptr::dangling(), 0)));
        }
        let block = payload.block().ok_or(Corrupted::new("checkpoint of descriptor", task.index.into(), payload.0))?;
        let (start, len) = self.segment.locate_block(task, payload, block)?;
        Ok(Some((start.cast_const(), len)))
    }

    fn check_len(&self, len: usize) -> Result<(), SubmitError> {
        if len <= INLINE {
            return Ok(());
        }
        let limit = self.segment.max_payload();
        if len <= limit { Ok(()) } else { Err(SubmitError::TooLarge { len, limit }) }
    }

    /// Finds room for `len` bytes and makes `field` refer to it.
    #[inline]
    fn place(&self, task: Owned, len: usize, field: &AtomicU64) -> Result<Payload, SubmitError> {
        if len <= INLINE {
            let payload = Payload::new(None, len as u32);
            field.store(payload.0, Relaxed);
            return Ok(payload);
        }
        let block = self.segment.alloc(len, self.name, || self.cursors.bell.ring())?;
        Ok(self.attach(task, block, len, field)?)
    }

    fn place_input(&self, task: Owned, len: usize) -> Result<Payload, SubmitError> {
        let payload = self.place(task, len, &self.descriptor(task).input)?;
        if let Some(block) = payload.block() {
            self.last_block.store(block, Relaxed);
        }
        Ok(payload)
    }

    /// Makes `field` refer to a block that this participant holds.
    #[inline]
    fn attach(&self, task: Owned, block: u32, len: usize, field: &AtomicU64) -> Result<Payload, Corrupted> {
        let payload = Payload::new(Some(block), len as u32);
        // The field first: an attached block is always referred to (`blocks`, invariant 2).
        field.store(payload.0, Relaxed);
        self.table().blocks.attach(block, self.name, task.index, task.word)?;
        Ok(payload)
    }

    /// Tasks of this participant's that have not ended, as far as can be said of what others change meanwhile.
    pub(crate) fn under_way(&self) -> impl Iterator<Item = TaskId> {
        let table = self.table();
        let is_ours = move |index: u16| {
            let word = table.load(index);
            let waits = [Phase::Ready, Phase::Claimed, Phase::Delayed].iter().any(|&phase| word.is(phase));
            let is_ours = waits && table.submitter(index).is_ok_and(|name| name == self.name);
            is_ours.then(|| TaskId { index, generation: word.generation() })
        };
        (0..table.descriptors.len()).filter_map(move |index| is_ours(index as u16))
    }

    /// The key of a task of this participant's that has not been released.
    pub(crate) fn key_of(&self, task: TaskId) -> Option<String> {
        let d = self.table().descriptor(task.index).ok()?;
        let key = d.key();
        // Of this life: its submitter alone begins the next.
        (self.table().load(task.index).generation() == task.generation).then_some(key).flatten()
    }

    /// Has this task of this participant's, which nobody has taken, ended as cancelled?
    pub(crate) fn is_cancelled(&self, task: TaskId) -> bool {
        let word = self.table().load(task.index);
        word.generation() == task.generation && word.is(Phase::Done(Outcome::Cancelled))
    }

    /// By which number this participant's journal knows a task of its that has not been released; 0: by none.
    pub(crate) fn number_of(&self, task: TaskId) -> u64 {
        self.table().descriptor(task.index).map_or(0, |d| d.number.load(Relaxed))
    }

    /// Gives such a task another number: for who begins with it, before anybody else takes its result.
    pub(crate) fn set_number(&self, task: TaskId, number: u64) {
        if let Ok(d) = self.table().descriptor(task.index) {
            d.number.store(number, Relaxed);
        }
    }

    /// What its journal is to say of such a task beside its input.
    pub(crate) fn submission_of(&self, task: TaskId) -> Option<Submission> {
        let d = self.table().descriptor(task.index).ok()?;
        let queue = d.lane.load(Relaxed) as usize;
        let rules = Rules::of(d.rules.load(Relaxed));
        let expires = d.expires.load(Relaxed);
        (queue < self.table().queues).then(|| Submission {
            kind: d.kind.load(Relaxed),
            max_attempts: u8::try_from(d.max_attempts.load(Relaxed)).unwrap_or(u8::MAX),
            expires_in: (expires != 0).then(|| Duration::from_nanos(expires.saturating_sub(self.table().now()))),
            limits: Limits::of(d.limits.load(Relaxed)),
            backoff: Backoff::of(d.backoff.load(Relaxed)),
            timeout_ms: rules.timeout_ms,
            retry_on: rules.retry_on,
            max_deaths: rules.max_deaths,
            ..Submission::new(To::Queue(queue))
        })
    }

    /// The `kind` of a task of this participant's that has not been released.
    pub(crate) fn kind_of(&self, task: TaskId) -> Option<u32> {
        Some(self.table().descriptor(task.index).ok()?.kind.load(Relaxed))
    }

    /// What a task of this participant's that has not been released was given, as a copy. `None`: it has been.
    ///
    /// # Errors
    /// [`Corrupted`] if the payload is damaged.
    pub(crate) fn input_of(&self, task: TaskId) -> Result<Option<Vec<u8>>, Corrupted> {
        let (d, word) = (self.table().descriptor(task.index)?, self.table().load(task.index));
        if word.generation() != task.generation || word.is(Phase::Free) {
            return Ok(None);
        }
        let payload = Payload(d.input.load(Relaxed));
        let (start, len) = self.segment.locate(Owned { index: task.index, word }, payload, &d.input_bytes)?;
        // SAFETY: the bytes lie in the segment, inline or in a block of this task's (`locate`), and nobody writes the input from its
        // publication until its submitter releases it, who is this process: the caller has it under its lock, or nobody else knows
        // of it yet.
        Ok(Some(unsafe { slice::from_raw_parts(start, len) }.to_vec()))
    }

    /// Cancels a task of this participant's; one that runs is asked to end.
    pub(crate) fn cancel(&self, task: TaskId) -> Result<Cancel, Corrupted> {
        self.table().cancel(&self.cursors, task)
    }

    /// Cancels a task of this participant's unless it runs, or has ended. True: it did not, and never will.
    pub(crate) fn cancel_waiting(&self, task: TaskId) -> Result<bool, Corrupted> {
        self.table().cancel_waiting(&self.cursors, task)
    }

    /// The next finished task that this participant submitted.
    #[inline(always)]
    pub(crate) fn take(&self) -> Result<Option<Finished<'_>>, Corrupted> {
        let taken = match &self.taking {
            None => self.table().take(&self.cursors, self.name)?,
            Some(taking) => {
                let _alone = taking.lock().unwrap_or_else(PoisonError::into_inner);
                self.table().take_noted(&self.cursors, self.name)?
            }
        };
        let Some((task, outcome)) = taken else { return Ok(None) };
        self.spin.found();
        Ok(Some(FinishedBy { guard: Guard { endpoint: self, task }, outcome }))
    }

    /// As [`draft`](Self::draft), in a descriptor that is kept for it. `len`: as much as one holds, at most.
    #[inline(always)]
    pub(crate) fn redraft(&self, Spare(task): Spare, len: usize) -> Draft<'_> {
        debug_assert!(len <= INLINE);
        let payload = Payload::new(None, len as u32);
        self.descriptor(task).input.store(payload.0, Relaxed);
        Draft { guard: Guard { endpoint: self, task }, ready: task.ready_anew(), payload }
    }

    /// Goes on with what this endpoint has set aside.
    #[inline]
    pub(crate) fn resume(&self, Shelved { task, ready, payload }: Shelved) -> Draft<'_> {
        Draft { guard: Guard { endpoint: self, task }, ready, payload }
    }

    /// The bytes of what this endpoint has set aside: as [`Draft::payload`].
    #[inline]
    pub(crate) fn shelved_bytes<'s>(&'s self, shelved: &'s mut Shelved) -> Result<&'s mut [u8], Corrupted> {
        let (start, len) = self.locate_draft(shelved.task, shelved.payload)?;
        // SAFETY: as there, for as long as it is set aside; the borrow of `shelved` excludes a second slice.
        Ok(unsafe { slice::from_raw_parts_mut(start, len) })
    }

    #[inline]
    fn locate_draft(&self, task: Owned, payload: Payload) -> Result<(*mut u8, usize), Corrupted> {
        self.segment.locate(task, payload, &self.descriptor(task).input_bytes)
    }

    /// Gives back what was kept.
    pub(crate) fn give_up(&self, Spare(task): Spare) {
        drop(Guard { endpoint: self, task });
    }

    /// Looks for a while whether a result has come, or `stop` is true. `Err`: when it began to.
    pub(crate) fn look_out(&self, stop: impl Fn() -> bool) -> Result<(), Instant> {
        let look = || Ok::<_, std::convert::Infallible>((self.may_have_results() || stop()).then_some(()));
        let Ok(found) = self.spin.wait(self.is_crowded(), look);
        found.map(|((), _)| ())
    }

    /// Sleeps until a result may have come, or `timeout` is over; looks for a while before that.
    /// `last_look`: as for [`park`](Self::park).
    pub(crate) fn rest(&self, timeout: Option<Duration>, last_look: impl Fn() -> bool) {
        if let Err(began) = self.look_out(&last_look) {
            self.park(&[], timeout, last_look);
            self.spin.took(began.elapsed());
        }
    }

    /// Does this participant run this task?
    pub(crate) fn runs(&self, task: TaskId) -> bool {
        let word = self.table().load(task.index);
        word.generation() == task.generation && word.is(Phase::Claimed) && word.who() == self.name.id()
    }

    /// Does this task wait for somebody to claim it?
    pub(crate) fn waits(&self, task: TaskId) -> bool {
        let word = self.table().load(task.index);
        word.generation() == task.generation && word.is(Phase::Ready)
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
    #[inline(always)]
    pub(crate) fn claim(&self, lane: LaneId) -> Result<Option<Claimed<'_>>, Corrupted> {
        let Some(task) = self.table().claim(&self.cursors, self.name, lane)? else { return Ok(None) };
        self.spin.found();
        Ok(Some(Claimed::new(self, task)))
    }

    /// This task of this participant's own, if nobody has begun it.
    pub(crate) fn claim_this(&self, task: TaskId) -> Result<Option<Claimed<'_>>, Corrupted> {
        let claimed = self.table().claim_this(&self.cursors, self.name, task)?;
        Ok(claimed.map(|task| Claimed::new(self, task)))
    }

    /// Sleeps until there may be something in one of `queues` or in this participant's own lanes, `timeout` is over, or
    /// somebody wakes it. `last_look` true: don't sleep.
    pub(crate) fn park(&self, queues: &[LaneId], timeout: Option<Duration>, last_look: impl FnOnce() -> bool) {
        self.park_for(Waits { queues, own: true, room: false }, timeout, last_look);
    }

    pub(crate) fn park_for(&self, waits: Waits<'_>, timeout: Option<Duration>, last_look: impl FnOnce() -> bool) {
        self.table().park(&self.cursors, self.name, waits, timeout, || self.is_orphaned() || last_look());
    }

    /// The next task for a worker of `queues`, its own lane first, if there is one.
    #[inline(always)]
    pub(crate) fn look(&self, queues: &[LaneId]) -> Result<Option<Claimed<'_>>, Corrupted> {
        for &lane in [self.private()].iter().chain(queues) {
            if let Some(task) = self.claim(lane)? {
                return Ok(Some(task));
            }
        }
        Ok(None)
    }

    /// As [`look`](Self::look), but sleeps while there is none. `None`: `stop` became true, which whoever changes it follows by
    /// a wake, or the coordinator has gone.
    pub(crate) fn next(&self, queues: &[LaneId], stop: impl Fn() -> bool) -> Result<Option<Claimed<'_>>, Corrupted> {
        Ok(self.next_at(queues, stop)?.map(|(task, _)| task))
    }

    /// As [`next`](Self::next), with the stamp of its beginning as far as that is known: 0, or [`AT_ONCE`].
    pub(crate) fn next_at(
        &self,
        queues: &[LaneId],
        stop: impl Fn() -> bool,
    ) -> Result<Option<(Claimed<'_>, u64)>, Corrupted> {
        // Of the trail, in which all the sleeps until there is something are one.
        let mut sleep: Option<Sleep> = None;
        let found = loop {
            let began = match self.spin.wait(self.is_crowded(), || self.look(queues))? {
                Ok((task, has_just_come)) => {
                    if sleep.is_some() {
                        // The wake may have been meant for a second task.
                        self.wake_next(queues);
                    }
                    break Some((task, if has_just_come { AT_ONCE } else { 0 }));
                }
                Err(began) => began,
            };
            if stop() || self.is_orphaned() {
                break None;
            }
            let mut this = sleep.unwrap_or_else(|| self.falls_asleep(began));
            self.park(queues, None, &stop);
            let took = began.elapsed();
            self.spin.took(took);
            this.woken = began + took;
            sleep = Some(this);
        };
        if let Some(Sleep { at, woken }) = sleep {
            self.trail.woken(at, self.pool_time(woken));
        }
        Ok(found)
    }

    fn falls_asleep(&self, began: Instant) -> Sleep {
        let at = self.trail.sleeps(self.pool_time(began), self.is_shared.load(Relaxed));
        Sleep { at, woken: began }
    }

    /// When that was, in pool time: no clock is read for it.
    fn pool_time(&self, moment: Instant) -> u64 {
        let (then, monotonic) = self.began;
        let now = monotonic.saturating_add(moment.saturating_duration_since(then).as_nanos() as u64);
        now.saturating_sub(self.table().alarm.paused.load(Relaxed))
    }

    /// One task more that this participant has done, or is just done with: a worker's completions, a client's answers. For the
    /// report, and by it a death is no failure at start.
    #[inline]
    pub(crate) fn count(&self) {
        self.counting(Done, Done::count);
    }

    /// Counts, given whether other threads do so too. A function and what it is given: a closure is called in two places, and
    /// so built in memory.
    #[inline(always)]
    fn counting<T>(&self, what: T, count: impl Fn(T, &Endpoint, bool)) {
        if self.is_shared.load(Relaxed) {
            return beside_others(self, what, count);
        }
        self.is_counting.store(true, Relaxed);
        // [alone] Before the second look: who is about to count too sees that we do, or we see that. Its barrier is one for both, so
        // that here the order of the instructions is enough.
        compiler_fence(SeqCst);
        if self.is_shared.load(Relaxed) {
            beside_others(self, what, count);
        } else {
            count(what, self, false);
        }
        // Release: who sees this sees what was counted.
        self.is_counting.store(false, Release);
    }

    /// For who has claimed after a park, which may have been ended for the sake of another task: wakes the next worker if
    /// something is left. [`Self::next`] does it by itself.
    pub(crate) fn wake_next(&self, queues: &[LaneId]) {
        self.table().wake_next(&self.cursors, queues);
    }

    /// Whether more than one thread of this process counts. If none says, it does.
    ///
    /// Once it does, each further thread says so before it counts.
    pub(crate) fn share(&self, is_shared: bool) {
        self.is_shared.store(is_shared, Relaxed);
        if is_shared {
            fence_all_threads(); // [alone]
            while self.is_counting.load(Acquire) {
                std::thread::yield_now();
            }
        }
    }

    /// Ends a park of this same participant, from another of its threads.
    pub(crate) fn wake_self(&self) {
        self.table().participants[self.name.id() as usize].wake();
    }
}

/// Out of the way of who is alone.
#[cold]
#[inline(never)]
fn beside_others<T>(endpoint: &Endpoint, what: T, count: impl Fn(T, &Endpoint, bool)) {
    count(what, endpoint, true);
}

/// One task more.
struct Done;

impl Done {
    #[inline(always)]
    fn count(self, endpoint: &Endpoint, is_shared: bool) {
        // Relaxed: from threads of this process only, and read once that is dead.
        let finished = &endpoint.participant().finished;
        if is_shared {
            finished.fetch_add(1, Relaxed);
        } else {
            finished.store(finished.load(Relaxed) + 1, Relaxed);
        }
    }
}

/// An attempt that has ended, for people.
struct Attempt {
    task: Owned,
    kind: u32,
    /// `None`: it does not count.
    how: Option<How>,
    end: End,
    /// Stamps of its beginning and end; 0: not taken.
    began: u64,
    ended: u64,
    /// How long it waited, in ticks.
    waited: u64,
}

impl Attempt {
    #[inline(always)]
    fn count(self, endpoint: &Endpoint, is_shared: bool) {
        let Attempt { task, kind, how, end, began, ended, waited } = self;
        let ran = ended.saturating_sub(began);
        if let Some(how) = how {
            if ended != 0 {
                endpoint.times.count(waited, ran, is_shared);
            }
            // Else its record has the names of tasks.
            if endpoint.name.id() != 0 {
                endpoint.counts.count(kind & OF_NAME, how, (waited, ran), is_shared);
            }
        }
        endpoint.trail.ended(task, kind, end, (began, ended), is_shared);
    }
}

/// Told that the result of the task of this number was delivered, with its outcome and how often it had been begun, less one. False:
/// it can't be noted.
pub(crate) type Recorder = Box<dyn Fn(u64, Outcome, u8) -> bool + Send + Sync>;

/// A descriptor that this participant has RESERVED; released when dropped. `E`: a reference to the endpoint, or a share in it.
struct Guard<E: Deref<Target = Endpoint>> {
    endpoint: E,
    task: Owned,
}

impl<E: Deref<Target = Endpoint>> Drop for Guard<E> {
    #[inline]
    fn drop(&mut self) {
        let table = self.endpoint.table();
        // Without a record it would be run again: it stays in hand, and comes once more.
        if !self.endpoint.record(self.task) {
            return;
        }
        // Damage is reported by the next operation that meets it; here is nobody to tell.
        let _ = if self.endpoint.is_durable() { table.release_noted(self.task) } else { table.release(self.task) };
    }
}

/// A descriptor that this participant has RESERVED, still in the life of a task that is over, and keeps for its next submission: to
/// be used or [given up](Endpoint::give_up). A death leaves what it leaves of a submission that is being filled.
#[derive(Debug)]
pub(crate) struct Spare(Owned);

/// A block that this participant holds, to be [used](Endpoint::redraft_in). A death leaves what it leaves of one that is being attached.
#[derive(Debug)]
pub(crate) struct HeldBlock(u32);

/// A submission being filled.
pub(crate) struct Draft<'e> {
    guard: Guard<&'e Endpoint>,
    /// The word of the task that it is to be.
    ready: Task,
    /// What the descriptor says as well, where others might change it.
    payload: Payload,
}

/// A submission that is filled whenever, by who has the endpoint then: to be [resumed](Endpoint::resume). A death leaves what it
/// leaves of one that is being filled.
pub(crate) struct Shelved {
    task: Owned,
    ready: Task,
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
    /// How many attempts there may be; at least 1. One that was broken off by what another task did to its process counts not.
    pub(crate) max_attempts: u8,
    /// No attempt begins later than this from now.
    pub(crate) expires_in: Option<Duration>,
    /// What each attempt may take; past that its worker is killed.
    pub(crate) limits: Limits,
    /// How long the next attempt waits: so long, or up to a quarter less.
    pub(crate) backoff: Backoff,
    /// Milliseconds after which a handler is to end by itself; 0: it may take its time. Nobody is killed for it.
    pub(crate) timeout_ms: u32,
    /// After which outcomes there is another attempt, while one is left: a set of [`crate::lockfree::descriptor::retry_on`].
    /// Without DIED it isn't begun again either when its process was killed for what another task did.
    pub(crate) retry_on: u8,
    /// Deaths of workers by its fault after which no attempt follows, whatever are left; 0 and 255: no such limit.
    pub(crate) max_deaths: u8,
    /// What its last attempt had written when its worker died comes back all the same.
    pub(crate) keeps_output: bool,
    /// Its times are taken even where those of the pool's tasks are not.
    pub(crate) is_timed: bool,
    /// Of which trace it is a part.
    pub(crate) trace: Option<TraceParent>,
    /// A key was [set](Draft::set_key).
    pub(crate) has_key: bool,
}

impl Submission {
    /// One attempt, with all the time in the world.
    pub(crate) const fn new(to: To) -> Submission {
        let limits = Limits { run_ms: 0, silence_ms: 0 };
        let backoff = Backoff { first_ms: 0, longest_ms: 0 };
        let Rules { timeout_ms, retry_on, max_deaths, keeps_output, .. } = Rules::USUAL;
        Submission {
            to,
            kind: 0,
            tag: 0,
            max_attempts: 1,
            expires_in: None,
            limits,
            backoff,
            timeout_ms,
            retry_on,
            max_deaths,
            keeps_output,
            is_timed: false,
            trace: None,
            has_key: false,
        }
    }
}

impl Draft<'_> {
    /// The payload's bytes, in place. Their former content is whatever lay there.
    #[inline]
    pub(crate) fn payload(&mut self) -> Result<&mut [u8], Corrupted> {
        let (start, len) = self.guard.endpoint.locate_draft(self.guard.task, self.payload)?;
        // SAFETY: the bytes lie in the segment, inline or in a block of this task's (`locate`), and are ours alone
        // while the word is RESERVED(me) (invariant 2 of `descriptor`), which it is as long as this guard lives; the
        // borrow of `self` excludes a second slice.
        Ok(unsafe { slice::from_raw_parts_mut(start, len) })
    }

    /// By what its submitter knows it, in another life too: of [`LONGEST_KEY`](crate::lockfree::descriptor::LONGEST_KEY) bytes at
    /// most. It counts if the submission says that there is one.
    pub(crate) fn set_key(&mut self, key: &str) {
        self.guard.endpoint.descriptor(self.guard.task).set_key(key);
    }

    /// By which its submitter's journal knows it.
    pub(crate) fn set_number(&mut self, number: u64) {
        self.guard.endpoint.descriptor(self.guard.task).number.store(number, Relaxed);
    }

    /// Sets it aside, without a borrow of the endpoint.
    #[inline]
    pub(crate) fn shelve(self) -> Shelved {
        let guard = ManuallyDrop::new(self.guard);
        Shelved { task: guard.task, ready: self.ready, payload: self.payload }
    }

    /// The task that it is to be.
    pub(crate) fn id(&self) -> TaskId {
        Owned { word: self.ready, ..self.guard.task }.id()
    }

    fn fill_and_submit(mut self, s: Submission, payload: &[u8]) -> Result<TaskId, SubmitError> {
        self.payload()?.copy_from_slice(payload);
        Ok(self.submit(s)?)
    }

    /// RESERVED → READY: from here on others see it.
    pub(crate) fn submit(self, s: Submission) -> Result<TaskId, Corrupted> {
        self.submit_as(&s, s.tag)
    }

    /// As [`submit`](Self::submit), with this tag.
    #[inline(always)]
    pub(crate) fn submit_as(self, s: &Submission, tag: u64) -> Result<TaskId, Corrupted> {
        let now = self.guard.endpoint.stamp(s);
        self.submit_at(s, tag, now)
    }

    /// As [`submit_as`](Self::submit_as), with the present [stamp](Endpoint::stamp).
    #[inline(always)]
    pub(crate) fn submit_at(self, s: &Submission, tag: u64, now: u64) -> Result<TaskId, Corrupted> {
        let (guard, ready) = (ManuallyDrop::new(self.guard), self.ready);
        let (endpoint, task) = (guard.endpoint, guard.task);
        endpoint.table().check_owned(endpoint.name, task)?;
        let d = endpoint.descriptor(task);
        d.kind.store(s.kind, Relaxed);
        d.tag.store(tag, Relaxed);
        let max_attempts = s.max_attempts.max(1).into();
        if d.max_attempts.load(Relaxed) != max_attempts {
            d.max_attempts.store(max_attempts, Relaxed);
        }
        let table = endpoint.table();
        let expires = s.expires_in.map_or(0, |t| {
            let ns = u64::try_from(t.as_nanos()).unwrap_or(u64::MAX);
            table.now().saturating_add(ns).max(1)
        });
        let Submission { timeout_ms, retry_on, max_deaths, keeps_output, has_key, .. } = *s;
        let mut is_sampled = None;
        if let Some(parent) = s.trace {
            is_sampled = Some(parent.is_sampled);
            d.trace.iter().zip(parent.words()).for_each(|(word, bits)| word.store(bits, Relaxed));
        }
        let rules = Rules { timeout_ms, retry_on, max_deaths, keeps_output, is_sampled, has_key }.bits();
        for (word, value) in [
            (&d.expires, expires),
            (&d.limits, s.limits.bits()),
            (&d.backoff, s.backoff.bits()),
            (&d.rules, rules),
            (&d.blame, 0),
        ] {
            set(word, value);
        }
        d.submitted.store(now, Relaxed);
        let (lane, addressee) = match s.to {
            To::Queue(q) => (table.queue(q), None),
            To::Participant(name) => (table.private(table.check_participant(name)?), Some(name)),
        };
        table.publish(&endpoint.cursors, endpoint.name, task, ready, lane, addressee)
    }
}

/// A task that this participant has claimed. Dropped, it is ended as given up.
pub(crate) struct Claimed<'e> {
    running: Running<'e>,
}

/// A task while it runs: what others than its only writer may do with it.
pub(crate) struct Running<'e> {
    endpoint: &'e Endpoint,
    task: Owned,
    descriptor: &'e Descriptor,
}

impl<'e> Deref for Claimed<'e> {
    type Target = Running<'e>;

    fn deref(&self) -> &Running<'e> {
        &self.running
    }
}

impl<'e> Running<'e> {
    /// The payload, read in place.
    pub(crate) fn input(&self) -> Result<&[u8], Corrupted> {
        let (start, len) = self.locate_input()?;
        // SAFETY: the bytes lie in the segment, inline or in a block of this task's (`locate_input`), and nobody writes the
        // input while the word is CLAIMED(me) (invariant 2 of `descriptor`), which it is as long as this guard lives.
        Ok(unsafe { slice::from_raw_parts(start, len) })
    }

    fn locate_input(&self) -> Result<(*mut u8, usize), Corrupted> {
        let d = self.descriptor;
        self.endpoint.segment.locate_input(self.task, Payload(d.input.load(Relaxed)), &d.input_bytes)
    }

    pub(crate) fn kind(&self) -> u32 {
        self.descriptor.kind.load(Relaxed)
    }

    pub(crate) fn submitter(&self) -> Name {
        Name::of(self.descriptor.submitter.load(Relaxed))
    }

    /// The submitter's note.
    pub(crate) fn tag(&self) -> u64 {
        self.descriptor.tag.load(Relaxed)
    }

    /// Which attempt this is, from 0.
    pub(crate) fn attempt(&self) -> u8 {
        self.task.word.attempt()
    }

    /// Has its submitter asked for its end?
    pub(crate) fn is_cancelled(&self) -> bool {
        self.endpoint.table().is_cancel_asked(self.task.index, self.task.word)
    }

    /// Which life of which descriptor it is.
    pub(crate) fn id(&self) -> TaskId {
        self.task.id()
    }

    /// Its fields, while they are its worker's.
    fn fields(&self) -> Option<&'e Descriptor> {
        let Running { endpoint, task, .. } = *self;
        endpoint.table().check_owned(endpoint.name, task).is_ok().then_some(self.descriptor)
    }

    /// The attempt begins, in this slot of the process (from 1), in which `depth` others wait for it, directly or not. From
    /// here on it may be blamed for the death of the process. `label`: the number of the worker's, for people. `now`: the
    /// present stamp, if it is known: the end of the task before; or 0; or [`AT_ONCE`].
    #[inline(always)]
    pub(crate) fn begin(&self, slot: u16, depth: u16, label: u32, now: u64) {
        debug_assert_ne!(slot, 0, "slots are counted from 1");
        if let Some(d) = self.fields() {
            d.run.ran_by.store(u64::from(self.endpoint.pid) << 32 | u64::from(label), Relaxed);
            let table = self.endpoint.table();
            if d.limits.load(Relaxed) != 0 || self.timeout().is_some() {
                d.run.started.store(table.now(), Relaxed);
            }
            let submitted = d.submitted.load(Relaxed);
            if submitted != 0 {
                let began = match now {
                    AT_ONCE if self.attempt() == 0 => submitted,
                    0 | AT_ONCE => table.clock.now(),
                    now => now,
                };
                d.run.began.store(began, Relaxed);
            }
            d.run.place.store(Place { slot, depth, is_alone: false }.bits(), Relaxed);
        }
    }

    /// The attempt begins, for who wants to know when, and where. It is one of many in its process, and not to be blamed for its death.
    pub(crate) fn note_begin(&self) {
        if let Some(d) = self.fields() {
            d.run.ran_by.store(u64::from(self.endpoint.pid) << 32, Relaxed);
            if d.submitted.load(Relaxed) != 0 {
                d.run.began.store(self.endpoint.table().clock.now(), Relaxed);
            }
        }
    }

    /// Nothing else runs in this process from here on, but what waits and what is begun for this one in its own slot: if
    /// the process dies, it dies of that.
    pub(crate) fn run_alone(&self) {
        if let Some(d) = self.fields() {
            let place = Place::of(d.run.place.load(Relaxed));
            d.run.place.store(Place { is_alone: true, ..place }.bits(), Relaxed);
        }
    }

    /// May it have killed a worker that ran others beside it? Then this attempt is to run alone.
    pub(crate) fn is_suspect(&self) -> bool {
        Blame::of(self.descriptor.blame.load(Relaxed)).is_suspect
    }

    fn rules(&self) -> Rules {
        Rules::of(self.descriptor.rules.load(Relaxed))
    }

    /// Of which trace it is a part.
    pub(crate) fn trace(&self) -> Option<TraceParent> {
        let is_sampled = self.rules().is_sampled?;
        let d = self.fields()?;
        Some(TraceParent::of(d.trace.each_ref().map(|word| word.load(Relaxed)), is_sampled))
    }

    /// After which outcomes there is to be another attempt: a set of [`crate::lockfree::descriptor::retry_on`].
    pub(crate) fn retry_on(&self) -> u8 {
        self.rules().retry_on
    }

    /// How long the handler may take, if its submitter has said so. Nobody is killed for it.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        let ms = self.rules().timeout_ms;
        (ms != 0).then(|| Duration::from_millis(ms.into()))
    }

    /// How much of [`timeout`](Self::timeout) is left since the attempt began.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        let started = self.descriptor.run.started.load(Relaxed);
        let ran = if started == 0 { 0 } else { self.endpoint.table().now().saturating_sub(started) };
        self.timeout().map(|t| t.saturating_sub(Duration::from_nanos(ran)))
    }

    /// A sign of life, for tasks whose silence is limited.
    pub(crate) fn heartbeat(&self) {
        if let Some(d) = self.fields() {
            d.heartbeat.store(self.endpoint.table().now(), Relaxed);
        }
    }

    /// How much of how much is done, for people; `total` 0: nobody knows. No sign of life.
    pub(crate) fn progress(&self, done: u64, total: u64) {
        if let Some(d) = self.fields() {
            d.done.store(done, Relaxed);
            d.run.total.store(total.saturating_add(1), Relaxed);
        }
    }

    /// So much more is done of what was said to be the total.
    #[inline]
    pub(crate) fn progress_to(&self, done: u64) {
        if let Some(d) = self.fields() {
            d.done.store(done, Relaxed);
        }
    }

    /// Who reads or replaces the checkpoint, while this lives.
    fn keep(&self) -> MutexGuard<'e, ()> {
        let locks = &self.endpoint.keeping;
        locks[usize::from(self.task.index) % locks.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps these bytes for the next attempt, in place of the former checkpoint, if this one does not come to an end. A
    /// death at any moment leaves the one or the other, whole.
    ///
    /// # Errors
    /// [`SubmitError`]: there is no room for them, and the former checkpoint stands.
    pub(crate) fn checkpoint(&self, bytes: &[u8]) -> Result<(), SubmitError> {
        let _alone = self.keep();
        let Running { endpoint, task, .. } = *self;
        endpoint.check_len(bytes.len())?;
        endpoint.table().check_owned(endpoint.name, task)?;
        if !endpoint.has_block_to_spare(bytes.len()) {
            // The last one is for an output, its own perhaps.
            return Err(endpoint.segment.all_taken(bytes.len()).into());
        }
        let block = if bytes.is_empty() {
            None
        } else {
            let block = endpoint.segment.alloc(bytes.len(), endpoint.name, || endpoint.cursors.bell.ring())?;
            let (start, size) = endpoint.segment.place_of(block)?;
            debug_assert!(bytes.len() <= size, "the block that was asked for");
            // SAFETY: the block lies in the segment and holds so many bytes (`alloc`), and they are ours alone while we
            // hold it (invariant 1 of `blocks`): no other slice of them exists.
            unsafe { start.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
            Some(block)
        };
        let payload = Payload::new(block, bytes.len() as u32);
        Ok(endpoint.table().keep_checkpoint(endpoint.name, task, payload)?)
    }

    /// The last checkpoint of this task, of whichever attempt. `None`: there was none.
    ///
    /// # Errors
    /// [`Corrupted`] if the payload is damaged.
    pub(crate) fn last_checkpoint(&self) -> Result<Option<Vec<u8>>, Corrupted> {
        let _alone = self.keep();
        let Some((start, len)) = self.endpoint.locate_checkpoint(self.task)? else { return Ok(None) };
        // SAFETY: the bytes lie in a block of this task's, or there are none (`locate_checkpoint`), and nobody writes or frees
        // a valid checkpoint while the word is CLAIMED(me) but `checkpoint`, which waits for the lock that is held here.
        Ok(Some(unsafe { slice::from_raw_parts(start, len) }.to_vec()))
    }

    /// From now on the attempt, which had no limits, may take so long: past that its worker is killed, and it has timed out.
    pub(crate) fn end_within(&self, grace: Duration) {
        if let Some(d) = self.fields() {
            let (table, run_ms) = (self.endpoint.table(), u32::try_from(grace.as_millis()).unwrap_or(u32::MAX).max(1));
            let now = table.now();
            d.run.started.store(now, Relaxed);
            let limits = Limits { run_ms, silence_ms: 0 };
            // Release: who sees the limits sees from when on they count.
            d.limits.store(limits.bits(), Release);
            table.arm(&self.endpoint.cursors, limits.deadline(now, now)); // [timer]
        }
    }

    /// What the attempt may take counts from here on: its handler has come to its end, and what follows is up to others.
    pub(crate) fn restart_clock(&self) {
        if let Some(d) = self.fields() {
            d.run.started.store(self.endpoint.table().now(), Relaxed);
        }
    }

    /// The attempt is yet to begin, and waits for others in this process: nothing counts until [`begin`](Self::begin), which
    /// [`start_clock`](Self::start_clock) follows.
    pub(crate) fn hold_clock(&self) {
        if let Some(d) = self.fields() {
            d.run.started.store(u64::MAX, Relaxed);
        }
    }

    /// Has the coordinator look at the limits of an attempt that has begun after its clock was held.
    pub(crate) fn start_clock(&self) {
        if let Some(d) = self.fields() {
            let table = self.endpoint.table();
            let limits = Limits::of(d.limits.load(Relaxed));
            table.arm(&self.endpoint.cursors, limits.first_look(table.now())); // [timer]
        }
    }

    /// Waits for a moment while there is no room for the output, or until somebody wakes this participant.
    pub(crate) fn pause(&self, at_most: Duration) {
        self.endpoint.park_for(Waits { room: true, ..Waits::default() }, Some(at_most), || false);
    }
}

impl<'e> Claimed<'e> {
    #[inline]
    fn new(endpoint: &'e Endpoint, task: Owned) -> Claimed<'e> {
        let descriptor = endpoint.descriptor(task);
        Claimed { running: Running { endpoint, task, descriptor } }
    }

    /// What writes its output, beside all else.
    pub(crate) fn split(&mut self) -> (&Running<'e>, Writer<'_, 'e>) {
        (&self.running, Writer { running: &self.running, reserved: Payload::default() })
    }

    pub(crate) fn writer(&mut self) -> Writer<'_, 'e> {
        self.split().1
    }

    /// CLAIMED → DONE, with the output that was reserved and written. Returns the stamp of that moment, or 0.
    ///
    /// # Errors
    /// [`Corrupted`] if a word or lane is damaged.
    #[inline]
    pub(crate) fn complete_reserved(self, status: u32) -> Result<u64, Corrupted> {
        let claimed = ManuallyDrop::new(self);
        let Running { endpoint, task, .. } = claimed.running;
        endpoint.table().check_owned(endpoint.name, task)?;
        claimed.finish(Outcome::Completed, status)
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
        let mut writer = self.writer();
        // If it panics, the task is given up.
        let written = writer.reserve(len).and_then(|()| Ok(writer.bytes().map(fill)?));
        let claimed = ManuallyDrop::new(self);
        match written {
            Ok(()) => claimed.finish(outcome, status).map(drop).map_err(|e| (e.into(), None)),
            Err(e @ SubmitError::Corrupted(_)) => Err((e, None)),
            Err(e) => Err((e, Some(ManuallyDrop::into_inner(claimed)))),
        }
    }

    /// The output is written, and the word was ours just now. Returns the stamp of its end, or 0.
    #[inline]
    fn finish(&self, outcome: Outcome, status: u32) -> Result<u64, Corrupted> {
        let Running { endpoint, task, descriptor: d, .. } = self.running;
        let table = endpoint.table();
        d.run.status.store(status, Relaxed);
        // Read before it may be another's.
        let (kind, submitted, began) = (d.kind.load(Relaxed), d.submitted.load(Relaxed), d.run.began.load(Relaxed));
        let now = if began == 0 { 0 } else { table.clock.now() };
        d.run.ran.store(now.saturating_sub(began), Relaxed);
        // Before its submitter knows, who might kill us for all that: we are not to look as if we had done nothing.
        endpoint.count();
        table.complete_noting(&endpoint.cursors, endpoint.name, task, outcome, || {
            // While its submitter takes it: for that one it costs nothing. Not after a wake, by which that one may get this CPU, and
            // miss what it looks for here.
            let how = match (outcome, status) {
                (Outcome::Completed, STATUS_OK) => How::Completed,
                (Outcome::Cancelled, _) => How::Cancelled,
                _ => How::Failed,
            };
            let (waited, end) = (began.saturating_sub(submitted), End::from(how));
            let attempt = Attempt { task, kind, how: Some(how), end, began, ended: now, waited };
            endpoint.counting(attempt, |attempt, endpoint, is_shared| attempt.count(endpoint, is_shared));
        })?;
        Ok(now)
    }

    /// CLAIMED → READY or DELAYED: another attempt, later. Gives the task back if no attempt is left.
    ///
    /// # Errors
    /// [`Corrupted`] if a word or lane is damaged.
    pub(crate) fn give_back(self, again: Again) -> Result<Option<Claimed<'e>>, Corrupted> {
        // Whatever comes of it, the task must not be completed by the drop of this guard: after an error it isn't ours.
        let claimed = ManuallyDrop::new(self);
        let endpoint = claimed.endpoint;
        // Read before it may be another's.
        let (kind, began) = (claimed.descriptor.kind.load(Relaxed), claimed.descriptor.run.began.load(Relaxed));
        let (how, end) = match endpoint.table().give_back(&endpoint.cursors, endpoint.name, claimed.task, again)? {
            Given::Back if again == Again::SameAttempt => (None, End::HandedBack),
            Given::Back => (Some(How::Retried), End::Retried),
            Given::Cancelled => (Some(How::Cancelled), End::from(How::Cancelled)),
            Given::No => return Ok(Some(ManuallyDrop::into_inner(claimed))),
        };
        let attempt = Attempt { task: claimed.task, kind, how, end, began, ended: 0, waited: 0 };
        endpoint.counting(attempt, Attempt::count);
        Ok(None)
    }
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        let (endpoint, table) = (self.endpoint, self.endpoint.table());
        // Damage is reported by the next operation that meets it; here is nobody to tell.
        let _ = table.check_owned(endpoint.name, self.task).and_then(|()| {
            table.discard_output(self.task)?; // half of one, perhaps
            self.finish(Outcome::Completed, STATUS_ABANDONED).map(drop)
        });
    }
}

/// The output of a task that runs. There is one of these for a task at a time.
pub(crate) struct Writer<'c, 'e> {
    running: &'c Running<'e>,
    /// What the descriptor says as well, where others might change it: into what they please, the input's place.
    reserved: Payload,
}

impl Writer<'_, '_> {
    /// Finds room for so many bytes of output, to be written [in place](Self::bytes) while the task runs. What was reserved before is
    /// given up, whatever comes of it.
    ///
    /// # Errors
    /// [`SubmitError`]: there is no room.
    #[inline]
    pub(crate) fn reserve(&mut self, len: usize) -> Result<(), SubmitError> {
        let Running { endpoint, task, descriptor, .. } = *self.running;
        endpoint.check_len(len)?;
        endpoint.table().check_owned(endpoint.name, task)?;
        self.reserved = Payload::default();
        endpoint.table().discard_output(task)?;
        self.reserved = endpoint.place(task, len, &descriptor.output)?;
        Ok(())
    }

    /// What was reserved.
    pub(crate) fn bytes(&mut self) -> Result<&mut [u8], Corrupted> {
        let Running { endpoint, task, descriptor, .. } = *self.running;
        let (start, len) = endpoint.segment.locate(task, self.reserved, &descriptor.output_bytes)?;
        // SAFETY: as for the input, and the output is ours alone to write while the word is CLAIMED(me); `&mut self`, of which
        // there is one, excludes a second slice.
        Ok(unsafe { slice::from_raw_parts_mut(start, len) })
    }

    /// Of what was reserved, only so many bytes are the output; no more than were reserved.
    ///
    /// # Errors
    /// [`Corrupted`] if the task was taken from this process.
    pub(crate) fn truncate(&mut self, len: usize) -> Result<(), Corrupted> {
        let Running { endpoint, task, .. } = *self.running;
        endpoint.table().check_owned(endpoint.name, task)?;
        self.reserved = Payload::new(self.reserved.block(), self.reserved.len().min(len) as u32);
        self.running.descriptor.output.store(self.reserved.0, Relaxed);
        Ok(())
    }

    /// As [`Running::pause`]; `last_look` true: there is no need to.
    pub(crate) fn pause(&self, at_most: Duration, last_look: impl FnOnce() -> bool) {
        self.running.endpoint.park_for(Waits { room: true, ..Waits::default() }, Some(at_most), last_look);
    }

    /// [`Running::is_cancelled`].
    pub(crate) fn is_cancelled(&self) -> bool {
        self.running.is_cancelled()
    }
}

/// A finished task, taken by its submitter; its descriptor and blocks are freed when this is dropped.
pub(crate) struct FinishedBy<E: Deref<Target = Endpoint>> {
    guard: Guard<E>,
    outcome: Outcome,
}

/// When a task was submitted and begun, and how long it ran, by the clock of its pool.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    submitted: u64,
    began: u64,
    ran: u64,
}

impl Times {
    /// From its submission to the beginning of its last attempt; where it ended as it waited for one, to when it was taken. Zero
    /// if no stamps were taken.
    pub(crate) fn waited(self, clock: &TaskClock<'_>) -> Duration {
        Duration::from_nanos(clock.ns_between(self.submitted, self.began))
    }

    /// How long the last attempt took, if it has ended. Zero if no stamps were taken.
    pub(crate) fn ran(self, clock: &TaskClock<'_>) -> Duration {
        Duration::from_nanos(clock.ns_between(self.began, self.began.saturating_add(self.ran)))
    }
}

/// A finished task within a borrow of the endpoint.
pub(crate) type Finished<'e> = FinishedBy<&'e Endpoint>;

impl Finished<'_> {
    /// Keeps its descriptor for the next submission.
    ///
    /// # Errors
    /// [`Corrupted`] if its word or a payload field is damaged.
    pub(crate) fn renew(self) -> Result<Spare, Corrupted> {
        let guard = ManuallyDrop::new(self.guard);
        guard.endpoint.table().renew(guard.task).map(|()| Spare(guard.task))
    }

    /// The same for as long as it is wanted. `endpoint` is its own.
    pub(crate) fn share(self, endpoint: &Arc<Endpoint>) -> FinishedBy<Arc<Endpoint>> {
        debug_assert!(std::ptr::eq(self.guard.endpoint, &raw const **endpoint));
        let guard = ManuallyDrop::new(self.guard);
        FinishedBy { guard: Guard { endpoint: endpoint.clone(), task: guard.task }, outcome: self.outcome }
    }
}

impl<E: Deref<Target = Endpoint>> FinishedBy<E> {
    /// Leaves it in hand for good: of a durable client, its successor finds it again. Of another it is dropped, since nobody would.
    pub(crate) fn leave(self) {
        if !self.guard.endpoint.is_durable() {
            return;
        }
        let guard = ManuallyDrop::new(self.guard);
        // SAFETY: a valid value that is read once: the guard, which is not dropped, is not used any more.
        drop(unsafe { ptr::read(&raw const guard.endpoint) });
    }

    fn descriptor(&self) -> &Descriptor {
        self.guard.endpoint.descriptor(self.guard.task)
    }

    pub(crate) fn tag(&self) -> u64 {
        self.descriptor().tag.load(Relaxed)
    }

    pub(crate) fn id(&self) -> TaskId {
        self.guard.task.id()
    }

    pub(crate) fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// What is told of its last attempt; `None` if nobody ever claimed it.
    fn run(&self) -> Option<&Run> {
        self.descriptor().run_of(self.guard.task.word)
    }

    pub(crate) fn status(&self) -> u32 {
        self.run().map_or(STATUS_OK, |run| run.status.load(Relaxed))
    }

    /// Did its worker complete it with success?
    pub(crate) fn went_well(&self) -> bool {
        self.outcome == Outcome::Completed && self.status() == STATUS_OK
    }

    /// Who claimed it last; `None` if nobody ever did.
    pub(crate) fn claimant(&self) -> Option<Name> {
        self.run().map(Run::claimant)
    }

    /// How the last worker that died over it ended, packed; 0: none did, or nobody knows.
    pub(crate) fn exit(&self) -> u64 {
        self.descriptor().exit.load(Relaxed)
    }

    /// How many attempts were begun, but those that were handed back or broken off by what another task did.
    pub(crate) fn attempts(&self) -> u32 {
        // An attempt that another has followed counts in the word; the last one has a claimant.
        u32::from(self.guard.task.word.attempt()) + u32::from(self.claimant().is_some())
    }

    fn blame(&self) -> Blame {
        Blame::of(self.descriptor().blame.load(Relaxed))
    }

    /// How many workers died by its fault.
    pub(crate) fn deaths(&self) -> u32 {
        self.blame().deaths.into()
    }

    /// The most memory that the last worker that died over it ever had, in KiB. `None`: none did, or it isn't known.
    pub(crate) fn peak_kib(&self) -> Option<u64> {
        let kib = self.blame().peak_kib;
        (kib != 0).then_some(kib.into())
    }

    /// Was it set aside because it has killed as many workers as it may?
    pub(crate) fn is_poison(&self) -> bool {
        matches!(self.outcome, Outcome::WorkerDied | Outcome::TimedOut)
            && Rules::of(self.descriptor().rules.load(Relaxed)).is_poison(self.blame().deaths)
    }

    /// What its last attempt said of its progress: how much of how much; of 0 if nobody knows of how much.
    pub(crate) fn progress(&self) -> Option<(u64, u64)> {
        let total = self.run()?.total.load(Relaxed).checked_sub(1)?;
        Some((self.descriptor().done.load(Relaxed), total))
    }

    /// Process id, and number of the label, of who began it last.
    pub(crate) fn ran_by(&self) -> Option<(u32, u32)> {
        let bits = self.run()?.ran_by.load(Relaxed);
        (bits != 0).then_some(((bits >> 32) as u32, bits as u32))
    }

    /// Its stamps.
    pub(crate) fn times(&self) -> Times {
        let (began, ran) = self.run().map_or((0, 0), |run| (run.began.load(Relaxed), run.ran.load(Relaxed)));
        let began = if began == 0 { self.guard.endpoint.table().clock.now() } else { began };
        Times { submitted: self.descriptor().submitted.load(Relaxed), began, ran }
    }

    /// The input as it was submitted, read in place.
    pub(crate) fn input(&self) -> Result<&[u8], Corrupted> {
        self.bytes(|d| (&d.input, &d.input_bytes))
    }

    /// The output, read in place; empty unless the outcome is `Completed`, or what its worker had written is kept.
    pub(crate) fn output(&self) -> Result<&[u8], Corrupted> {
        self.bytes(|d| (&d.output, &d.output_bytes))
    }

    /// The last checkpoint that any attempt left, read in place. `None`: none did.
    ///
    /// # Errors
    /// [`Corrupted`] if the payload is damaged.
    pub(crate) fn last_checkpoint(&self) -> Result<Option<&[u8]>, Corrupted> {
        let Some((start, len)) = self.guard.endpoint.locate_checkpoint(self.guard.task)? else { return Ok(None) };
        // SAFETY: the bytes lie in a block of this task's, or there are none (`locate_checkpoint`), and nobody writes or frees
        // them while the word is RESERVED(me) (invariant 4 of `checkpoint`), which it is as long as this guard lives.
        Ok(Some(unsafe { slice::from_raw_parts(start, len) }))
    }

    fn bytes(&self, of: impl Fn(&Descriptor) -> (&AtomicU64, &Inline<INLINE>)) -> Result<&[u8], Corrupted> {
        let (endpoint, task) = (&*self.guard.endpoint, self.guard.task);
        let (field, inline) = of(endpoint.descriptor(task));
        let (start, len) = endpoint.segment.locate(task, Payload(field.load(Relaxed)), inline)?;
        // SAFETY: the bytes lie in the segment, inline or in a block of this task's (`locate`), and nobody writes them
        // while the word is RESERVED(me) (invariant 2 of `descriptor`), which it is as long as this guard lives.
        Ok(unsafe { slice::from_raw_parts(start, len) })
    }
}
