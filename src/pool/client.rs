//! The submitting side of one participant: what its threads have submitted, and what has come back.
//!
//! # One inbox
//!
//! Finished tasks come through one lane per participant, in the order in which they were finished, while each thread waits
//! for its own. So whoever waits first *leads*: it alone sleeps in the kernel, on behalf of all, and files what comes, or leaves
//! that to those whom it wakes. The others sleep on a condition variable until theirs was filed, or until nobody leads any more.
//! Futures have a thread that waits for them, started with the first of them that has to wait.
//!
//! Any thread may file what it finds on the way, also what the leader waits for. So whoever files counts that up under the lock;
//! the leader, who has read the count under the lock too, looks at it once more before it sleeps, and is woken.
//!
//! Wakers are code of the caller's, and may come back here: they are called, and dropped, once the lock is released.
//!
//! A map reads its results itself, under no lock, as they lie in the segment, and files what it finds of others ([`Client::land`]).
//! What it reads counts as under way until it has been read: who drains waits for that.
//!
//! In a worker nobody leads: a thread that waits there runs other tasks meanwhile ([`super::worker`]), and sleeps before the
//! queues as well as for its result.
//!
//! # Where results lie
//!
//! A small result is copied out as it is filed, and its descriptor is freed, or kept for the next task. One in a block stays
//! where it is, so that it can be read in place; short of room, the blocks are copied out too, up to a budget. So a thread may
//! submit more tasks than the segment has descriptors before it waits for the first.

use super::{
    PoolError,
    aligned::Aligned,
    group::Waited,
    home::{AnotherProcess, Home},
    journaled::{self, Durable, Journaled},
    worker,
};
use crate::{
    error::Corrupted,
    exec::endpoint::{
        CoordinatorDied, Draft, Endpoint, Finished, FinishedBy, ROOM, Shelved, Spare, Submission, SubmitError, Times,
        To,
    },
    lockfree::{
        descriptor::{INLINE, LONGEST_KEY},
        table::{Cancel, TaskId},
        word::Outcome,
    },
    process::Mode,
    state::journal::{End, Open},
};
use slab::Slab;
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    io, iter,
    ops::{Deref, DerefMut},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Bytes of results that a process keeps outside the segment for those who have not asked for them yet.
pub(crate) const BUDGET: usize = 1 << 30;

/// How often a task that can't run others looks for room, a tenth of a second each, before that is an error: perhaps all wait
/// for one another.
const LOOKS: u32 = 20;
/// Submissions after which a thread that only submits looks what has come.
const FILE_EVERY: usize = 64;

/// How long a task that submits, in a worker that is short of room, runs others before it looks for room again.
const LOOK: Duration = Duration::from_millis(1);

/// What is behind a finished task.
pub(super) struct Done {
    pub(super) outcome: Outcome,
    pub(super) status: u32,
    pub(super) ending: Ending,
    output: Output,
}

/// How a task went, beside its result.
#[derive(Debug, Default)]
pub(super) struct Ending {
    pub(super) attempts: u32,
    /// Process id and number of the worker.
    pub(super) ran_by: Option<(u32, u32)>,
    pub(super) times: Times,
    /// Nothing, of one that went well.
    pub(super) trouble: Option<Box<Trouble>>,
}

/// What is told of a task that did not go well.
#[derive(Clone, Debug, Default)]
pub(super) struct Trouble {
    pub(super) exit: u64,
    pub(super) deaths: u32,
    pub(super) is_poison: bool,
    pub(super) peak_kib: u64,
    pub(super) progress: Option<(u64, u64)>,
}

enum Output {
    /// Beside the rest: for most results no memory has to be found.
    Small {
        len: u8,
        bytes: [u128; SMALL / size_of::<u128>()],
    },
    Private(Aligned),
    InPlace(InPlace),
}

/// Bytes of a result that is kept without an allocation of its own.
const SMALL: usize = 64;

/// Room for the copy of a small result, good for plain values of any alignment.
pub(super) type Copied = [u128; INLINE / size_of::<u128>()];

/// A result that lies in the segment.
struct InPlace {
    /// `None` only while it is dropped.
    finished: Option<FinishedBy<Arc<Endpoint>>>,
    home: Home,
}

impl InPlace {
    /// In a fork of its process, which has no segment: nothing.
    fn bytes(&self) -> Result<&[u8], Corrupted> {
        match &self.finished {
            Some(finished) if self.home.check().is_ok() => finished.output(),
            _ => Ok(&[]),
        }
    }
}

impl Drop for InPlace {
    fn drop(&mut self) {
        if self.home.check().is_err() {
            std::mem::forget(self.finished.take());
        }
    }
}

impl Output {
    fn copy_of(bytes: &[u8]) -> Output {
        if bytes.len() > SMALL {
            return Output::Private(bytes.into());
        }
        let mut small = [0; SMALL / size_of::<u128>()];
        bytemuck::cast_slice_mut(&mut small)[..bytes.len()].copy_from_slice(bytes);
        Output::Small { len: bytes.len() as u8, bytes: small }
    }

    /// Bytes that it takes of the memory of this process.
    fn private(&self) -> usize {
        match self {
            Output::Small { len, .. } => (*len).into(),
            Output::Private(bytes) => bytes.bytes().len(),
            Output::InPlace(_) => 0,
        }
    }
}

/// A result that a durable client has in hand, until it says that it is done with it. If it never does, its successor finds it.
#[derive(Clone)]
pub(crate) struct Kept(Arc<KeptBy>);

struct KeptBy(Option<Filed>);

impl Kept {
    pub(super) fn new(filed: Filed) -> Kept {
        Kept(Arc::new(KeptBy(Some(filed))))
    }

    pub(super) fn done(&self) -> &Done {
        self.0.0.as_ref().unwrap_or_else(|| unreachable!("it is there until it is let go"))
    }

    /// Lets it go, with the last of its copies.
    pub(crate) fn let_go(self) {
        if let Ok(mut kept) = Arc::try_unwrap(self.0) {
            drop(kept.0.take());
        }
    }
}

impl Drop for KeptBy {
    fn drop(&mut self) {
        let done = match self.0.take() {
            Some(Filed::One(done)) => Some(*done),
            Some(Filed::Shared(done)) => Arc::into_inner(done), // or another handle has it yet
            None => None,
        };
        let Some(Done { output: place, .. }) = done else { return };
        if let Output::InPlace(mut place) = place
            && let Some(finished) = place.finished.take()
        {
            finished.leave();
        }
    }
}

impl Done {
    pub(super) fn bytes(&self) -> Result<&[u8], Corrupted> {
        match &self.output {
            Output::Small { len, bytes } => Ok(&bytemuck::cast_slice(bytes)[..usize::from(*len)]),
            Output::Private(bytes) => Ok(bytes.bytes()),
            Output::InPlace(place) => place.bytes(),
        }
    }
}

/// A result that has been filed: for one handle, or for several.
pub(super) enum Filed {
    One(Box<Done>),
    Shared(Arc<Done>),
}

impl Deref for Filed {
    type Target = Done;

    fn deref(&self) -> &Done {
        match self {
            Filed::One(done) => done,
            Filed::Shared(done) => done,
        }
    }
}

/// A task whose result is waited for together with those of others. It needs no slot: all that is known of it is in its tag.
#[derive(Clone, Copy)]
pub(super) struct Member {
    /// Of [`Client::open_group`].
    pub(super) group: usize,
    /// What it is there, given back with the result.
    pub(super) note: usize,
}

impl Member {
    /// In a tag; no slot has such a number.
    const BIT: u64 = 1 << 63;
    const NOTE_BITS: u32 = 40;

    fn tag(self) -> u64 {
        debug_assert!(self.note >> Self::NOTE_BITS == 0);
        Self::BIT | (self.group as u64) << Self::NOTE_BITS | self.note as u64
    }

    #[inline]
    fn of(tag: u64) -> Option<Member> {
        let note = (tag & ((1 << Self::NOTE_BITS) - 1)) as usize;
        (tag & Self::BIT != 0).then_some(Member { group: ((tag & !Self::BIT) >> Self::NOTE_BITS) as usize, note })
    }
}

/// Tasks of which whichever ends first is waited for.
#[derive(Default)]
struct Group {
    /// What has been filed, and not been taken: where.
    filed: VecDeque<usize>,
    /// Those that have not come back. A group that is closed stays for as long as there are any.
    under_way: usize,
    is_closed: bool,
}

/// What else a result goes to, or may go to.
enum Bond {
    None,
    Key(Arc<str>),
    Group(Member),
}

/// One submitted task.
struct Slot {
    /// How many handles want the result; with none it is dropped as it comes.
    handles: usize,
    bond: Bond,
    task: TaskId,
    state: State,
}

impl Slot {
    fn key(&self) -> Option<&str> {
        match &self.bond {
            Bond::Key(key) => Some(key),
            _ => None,
        }
    }

    /// What it is in a group.
    fn member(&self) -> Option<Member> {
        match self.bond {
            Bond::Group(member) => Some(member),
            _ => None,
        }
    }

    /// Does the result lie in a block?
    fn is_in_place(&self) -> bool {
        matches!(&self.state, State::Done(done) if matches!(done.output, Output::InPlace(_)))
    }
}

enum State {
    /// These futures have looked.
    Waiting(Vec<Waker>),
    Done(Filed),
}

#[derive(Default)]
pub(super) struct Inbox {
    slots: Slab<Slot>,
    /// RESERVED, for the next submissions.
    spares: Vec<Spare>,
    /// How many have room for an input of which they have not said what becomes of it, or are about to get some.
    shelved: usize,
    /// How many submissions there were.
    submitted: usize,
    /// Where the task of a key is, or was: its slot says.
    keys: HashMap<Arc<str>, usize>,
    groups: Slab<Group>,
    /// Bytes in private results.
    private: usize,
    /// Of results that lie in the segment still: where they were filed. They may have been taken since.
    in_place: VecDeque<usize>,
    /// Tasks of former lives that nobody has asked for yet: they have a handle each.
    adopted: BTreeSet<usize>,
    /// Those whose last handle has gone, and left what comes of it in the file.
    left: BTreeSet<usize>,
    /// Some of these were let go.
    has_let_unasked_go: bool,
    /// Somebody sleeps in the kernel for all.
    has_leader: bool,
    /// How many others sleep.
    waiting: usize,
    /// The thread for futures sleeps, since there are none.
    has_idle_helper: bool,
    /// How many futures wait for results.
    futures: usize,
    /// Futures that wait for room, and for how many bytes.
    for_room: Vec<(Waker, usize)>,
    is_closed: bool,
    over: Option<Lost>,
    /// To be woken, and to be dropped, once the lock is released.
    woken: Vec<Waker>,
    dropped: Vec<Waker>,
}

/// The inbox, locked.
struct Locked<'s> {
    inbox: Option<MutexGuard<'s, Inbox>>,
}

impl Deref for Locked<'_> {
    type Target = Inbox;

    #[inline]
    fn deref(&self) -> &Inbox {
        self.inbox.as_deref().unwrap_or_else(|| unreachable!("it is locked until it is dropped"))
    }
}

impl DerefMut for Locked<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Inbox {
        self.inbox.as_deref_mut().unwrap_or_else(|| unreachable!("it is locked until it is dropped"))
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let Some(mut inbox) = self.inbox.take() else { return };
        if !inbox.owes_wakes() {
            return;
        }
        let (woken, dropped) = (std::mem::take(&mut inbox.woken), std::mem::take(&mut inbox.dropped));
        drop(inbox);
        woken.into_iter().for_each(Waker::wake);
        drop(dropped);
    }
}

/// Why nothing will come any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Lost {
    #[error(transparent)]
    CoordinatorDied(#[from] CoordinatorDied),
    #[error(transparent)]
    Corrupted(#[from] Corrupted),
    /// A task waits at the bottom of so many others that no stack would hold more.
    #[error("this task waits {0} tasks deep for one that only this process can run: let tasks nest less deeply")]
    TooDeep(usize),
    #[error(transparent)]
    AnotherProcess(#[from] AnotherProcess),
}

/// See the module.
pub(crate) struct Client {
    shared: Arc<Shared>,
    /// The thread for futures.
    helper: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    /// Of a durable client.
    journal: Option<Arc<Journaled>>,
    endpoint: Arc<Endpoint>,
    home: Home,
    /// Threads of a worker wait for results on the participant's word.
    is_workers: bool,
    /// So many descriptors that half of all remain if every participant keeps them, but one at least.
    few: usize,
    inbox: Mutex<Inbox>,
    changed: Condvar,
    /// For the thread for futures, which nobody else is to have to wake while there are none.
    called: Condvar,
    /// How often something was filed, or all were told to look. Changed under the lock.
    news: AtomicUsize,
    /// Tasks submitted, less those that have come back. Changed under the lock.
    outstanding: AtomicUsize,
    /// Buffers reserved, less those that were submitted or given back. Changed under the lock.
    reserved: AtomicUsize,
    /// Inputs that are written before they count as submitted.
    filling: AtomicUsize,
    /// The pool has ended in order: as its client asked, or after all of its tasks had come back.
    has_ended: AtomicBool,
    #[cfg(feature = "metrics")]
    exporter: crate::observe::metrics::Exporter,
}

impl Client {
    /// `is_workers`: its threads run tasks while they wait.
    pub(super) fn new(endpoint: Arc<Endpoint>, home: Home, is_workers: bool) -> Client {
        let table = endpoint.segment().table();
        let few = (table.descriptors.len() / 2 / table.participants.len()).max(1);
        let shared = Shared {
            few,
            endpoint,
            is_workers,
            journal: None,
            inbox: Mutex::default(),
            changed: Condvar::new(),
            called: Condvar::new(),
            news: AtomicUsize::new(0),
            home,
            outstanding: AtomicUsize::new(0),
            reserved: AtomicUsize::new(0),
            filling: AtomicUsize::new(0),
            has_ended: AtomicBool::new(false),
            #[cfg(feature = "metrics")]
            exporter: Default::default(),
        };
        Client { shared: Arc::new(shared), helper: Mutex::default() }
    }

    /// The same, of a durable client.
    pub(super) fn adopting(mut self, Durable { adopted: tasks, done, journal }: Durable) -> Client {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.journal = Some(journal);
        }
        let mut inbox = self.shared.lock();
        for &task in &tasks {
            let key = self.endpoint().key_of(task).map(Arc::<str>::from);
            let bond = key.clone().map_or(Bond::None, Bond::Key);
            let tag = inbox.slots.insert(Slot { handles: 1, bond, task, state: State::Waiting(Vec::new()) });
            inbox.adopted.insert(tag);
            if let Some(key) = key {
                inbox.remember(key, tag);
            }
        }
        self.shared.has_gone_out(tasks.len());
        // Delivered by the journal, and not let go of yet.
        for (tag, &task) in tasks.iter().enumerate() {
            if Some(self.endpoint().number_of(task)).is_some_and(|number| number != 0 && done.contains(number)) {
                inbox.adopted.remove(&tag);
                inbox.forget(tag);
            }
        }
        drop(inbox);
        self.shared.resubmit();
        self
    }

    /// The tasks of former lives that nobody has asked for yet: tickets, each to be waited for by whoever calls this.
    pub(super) fn adopted(&self) -> Result<Vec<(usize, TaskId)>, AnotherProcess> {
        self.check_home()?;
        self.shared.resubmit();
        let mut inbox = self.shared.lock();
        let tags = std::mem::take(&mut inbox.adopted);
        Ok(tags.into_iter().filter_map(|tag| Some((tag, inbox.slots.get(tag)?.task))).collect())
    }

    /// The first of them.
    pub(super) fn next_adopted(&self) -> Result<Option<(usize, TaskId)>, AnotherProcess> {
        self.check_home()?;
        self.shared.resubmit();
        let mut inbox = self.shared.lock();
        while let Some(tag) = inbox.adopted.pop_first() {
            if let Some(slot) = inbox.slots.get(tag) {
                return Ok(Some((tag, slot.task)));
            }
        }
        Ok(None)
    }

    /// # Errors
    /// This process is a fork of the client's: it must touch neither the segment nor a lock, nor wait for a thread.
    #[inline]
    pub(super) fn check_home(&self) -> Result<(), AnotherProcess> {
        self.shared.home.check()
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.shared.endpoint
    }

    /// Are its tasks kept when it dies?
    pub(crate) fn is_durable(&self) -> bool {
        self.shared.endpoint.is_durable()
    }

    /// The keys of the tasks of former lives that nobody has asked for yet, each with whether it was cancelled before it ended.
    pub(super) fn adopted_keys(&self) -> Vec<(String, bool)> {
        let backlog = self.shared.journal.as_ref().map_or_else(Vec::new, |journal| journal.backlog_keys());
        let mut keys: Vec<_> = backlog.into_iter().map(|key| (key, false)).collect();
        let inbox = self.shared.lock();
        let key = |slot: &Slot| Some((slot.key()?.to_owned(), self.endpoint().is_cancelled(slot.task)));
        keys.extend(inbox.adopted.iter().filter_map(|&tag| key(inbox.slots.get(tag)?)));
        keys
    }

    /// The task of a former life with this key isn't wanted any more.
    pub(super) fn forget_adopted(&self, key: &str) {
        if let Some(journal) = &self.shared.journal
            && let Some((number, _)) = journal.next_of_backlog(Some(key))
        {
            journal.deliver(number, Outcome::Cancelled, 0);
        }
        let mut inbox = self.shared.lock();
        if let Some(&tag) = inbox.keys.get(key)
            && inbox.adopted.remove(&tag)
        {
            inbox.forget(tag);
        }
    }

    /// Makes the task of a former life with this key one of a group, if nobody has asked for it yet.
    pub(super) fn adopt_in(&self, member: Member, key: &str) -> Result<Option<TaskId>, AnotherProcess> {
        self.check_home()?;
        self.shared.fetch(key, true);
        let mut inbox = self.shared.lock();
        let Some(&tag) = inbox.keys.get(key) else { return Ok(None) };
        if !inbox.adopted.remove(&tag) {
            return Ok(None);
        }
        let Some(slot) = inbox.slots.get_mut(tag) else { return Ok(None) };
        slot.bond = Bond::Group(member);
        let (task, is_done) = (slot.task, matches!(slot.state, State::Done(_)));
        let group = &mut inbox.groups[member.group];
        match is_done {
            true => group.filed.push_back(tag),
            false => group.under_way += 1,
        }
        Ok(Some(task))
    }

    /// # Errors
    /// This process is a fork of the client's.
    #[cfg(feature = "metrics")]
    pub(super) fn prometheus(&self) -> Result<String, AnotherProcess> {
        self.check_home()?;
        let sample =
            crate::observe::sample::Sample::at(self.endpoint().segment(), None, !self.endpoint().is_orphaned());
        Ok(self.shared.exporter.text(&sample))
    }

    /// Tasks submitted, less those that have come back.
    pub(crate) fn outstanding(&self) -> usize {
        // Relaxed: whoever concludes something from it holds the lock.
        self.shared.outstanding.load(Relaxed)
    }

    /// Submits `len` bytes that `fill` writes in place; short of room, makes some or waits for it. Returns the ticket to wait
    /// with, and the task.
    ///
    /// # Errors
    /// [`PoolError`]; for want of room only if results worth more than [`BUDGET`] wait to be taken, or in a worker that
    /// can't run other tasks meanwhile.
    pub(super) fn submit(
        &self,
        s: &Submission,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(usize, TaskId), PoolError> {
        self.submit_as(s, Bond::None, None, len, true, fill)
    }

    /// As [`submit`](Self::submit), of these bytes.
    pub(super) fn send(&self, s: &Submission, payload: &[u8]) -> Result<(usize, TaskId), PoolError> {
        self.send_as(s, None, payload, true)
    }

    /// As [`send`](Self::send), in a group.
    pub(super) fn submit_in(
        &self,
        member: Member,
        s: &Submission,
        payload: &[u8],
    ) -> Result<(usize, TaskId), PoolError> {
        self.send_as(s, Some(member), payload, true)
    }

    /// As [`submit_in`](Self::submit_in), with a key that outlives this client.
    pub(super) fn submit_in_keyed(
        &self,
        member: Member,
        key: &str,
        s: &Submission,
        payload: &[u8],
    ) -> Result<(usize, TaskId), PoolError> {
        let fill = |place: &mut [u8]| place.copy_from_slice(payload);
        self.submit_as(s, Bond::Group(member), Some(key), payload.len(), true, fill)
    }

    /// A group of tasks, of which whichever ends first is waited for.
    pub(super) fn open_group(&self) -> Result<usize, AnotherProcess> {
        self.check_home()?;
        Ok(self.shared.lock().groups.insert(Group::default()))
    }

    /// Closes a group: what has come of it, or comes yet, isn't wanted any more. But see [`forget`](Self::forget).
    pub(super) fn close_group(&self, group: usize) {
        if self.check_home().is_ok() && !self.is_lost() {
            self.shared.lock().close_group(group);
        }
    }

    /// Room for so many small tasks of a group, or for fewer: what is kept, taken under one lock. `spares`: empty memory for it.
    pub(super) fn batch<'c>(
        &'c self,
        s: &'c Submission,
        group: usize,
        n: usize,
        spares: &'c mut Vec<Spare>,
    ) -> Result<Batch<'c>, AnotherProcess> {
        self.check_home()?;
        let shared = &*self.shared;
        let mut inbox = shared.lock();
        if !shared.is_barred() {
            let left = shared.most().saturating_sub(shared.has_taken());
            let from = inbox.spares.len() - n.min(left).min(inbox.spares.len());
            spares.extend(inbox.spares.drain(from..));
        }
        inbox.groups[group].under_way += spares.len();
        shared.has_gone_out(spares.len());
        shared.file_if_due(&mut inbox, spares.len());
        drop(inbox);
        Ok(Batch { shared, s, group, spares, now: shared.endpoint.stamp(s) })
    }

    /// Gives up to so many results of this group that have come and went well to `each`, by their notes, as they lie in the segment.
    /// True: others have been filed. `spares`: empty memory.
    pub(super) fn land(
        &self,
        group: usize,
        most: usize,
        spares: &mut Vec<Spare>,
        mut each: impl FnMut(usize, &Finished<'_>) -> Result<(), Corrupted>,
    ) -> Result<bool, Lost> {
        self.check_home()?;
        let shared = &*self.shared;
        // A part of all that may be under way: what lands counts as that still, and `each` may wait until there is less.
        let most = most.min(shared.most() / 4).max(1);
        let mut landing = Landing { shared, group, spares, landed: 0 };
        let result = landing.all(most, &mut each);
        drop(landing);
        result.map_err(|e| {
            // What is damaged may have been another's, who looks for it later, or sleeps until it is filed.
            let mut inbox = shared.lock();
            shared.lose(&mut inbox, e);
            e.into()
        })
    }

    /// As [`send`](Self::send), but does not wait for room.
    pub(super) fn try_submit(&self, s: &Submission, payload: &[u8]) -> Result<(usize, TaskId), PoolError> {
        self.send_as(s, None, payload, false)
    }

    #[inline]
    fn send_as(
        &self,
        s: &Submission,
        member: Option<Member>,
        payload: &[u8],
        may_wait: bool,
    ) -> Result<(usize, TaskId), PoolError> {
        self.check_home()?;
        match self.shared.send_at_once(s, member, payload) {
            Ok(Some(ticket)) => Ok(ticket),
            Ok(None) => {
                let bond = member.map_or(Bond::None, Bond::Group);
                self.submit_as(s, bond, None, payload.len(), may_wait, |place| place.copy_from_slice(payload))
            }
            Err(e) => Err(SubmitError::from(e).into()),
        }
    }

    /// As [`submit`](Self::submit), unless a task with this key is under way: then that one's ticket.
    pub(super) fn submit_keyed(
        &self,
        s: &Submission,
        key: &str,
        len: usize,
        may_wait: bool,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(usize, TaskId), PoolError> {
        self.check_home()?;
        self.shared.fetch(key, may_wait);
        // It needs no room then.
        let joined = self.shared.join(&mut self.shared.lock(), key);
        match joined {
            Some(ticket) => Ok(ticket),
            None => self.submit_as(s, Bond::Key(key.into()), self.is_durable().then_some(key), len, may_wait, fill),
        }
    }

    fn submit_as(
        &self,
        s: &Submission,
        bond: Bond,
        kept_key: Option<&str>,
        len: usize,
        may_wait: bool,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(usize, TaskId), PoolError> {
        self.check_home()?;
        if let Some(key) = kept_key.filter(|key| key.is_empty() || key.len() > LONGEST_KEY || key.contains('\0')) {
            return Err(PoolError::Key(key.to_owned()));
        }
        self.shared.submit(s, bond, kept_key, len, may_wait, fill).map_err(|e| self.why_refused(e))
    }

    /// What the coordinator said of its end says more than that it has ended.
    fn why_refused(&self, e: PoolError) -> PoolError {
        match (e, self.endpoint().why_orphaned()) {
            (PoolError::Submit(SubmitError::CoordinatorDied(_)), Some(why)) => PoolError::Ended(why.to_owned()),
            (e, _) => e,
        }
    }

    /// Gives `put` room for an input of so many bytes, to be filled by whoever has it, whenever. It is called under the lock.
    ///
    /// # Errors
    /// As [`submit`](Self::submit); and if all that may be under way is reserved, since whoever waited here might be the one who is to
    /// submit it.
    #[inline(always)]
    pub(super) fn reserve_into(&self, len: usize, may_wait: bool, put: impl FnOnce(Shelved)) -> Result<(), PoolError> {
        self.check_home()?;
        let shared = &*self.shared;
        if shared.is_refused() {
            return Err(PoolError::Draining);
        }
        let mut inbox = shared.lock();
        inbox.shelved += 1;
        // At once, and not by way of a draft that is handed about: to move what was just written waits for it.
        if len <= INLINE
            && let Some(spare) = shared.pop_spare(&mut inbox)
        {
            shared.has_set_aside();
            put(shared.endpoint.redraft(spare, len).shelve());
            return Ok(());
        }
        self.reserve_slowly(inbox, len, may_wait, put)
    }

    #[inline(never)]
    fn reserve_slowly(
        &self,
        inbox: Locked<'_>,
        len: usize,
        may_wait: bool,
        put: impl FnOnce(Shelved),
    ) -> Result<(), PoolError> {
        let shared = &*self.shared;
        match shared.take_draft(inbox, len, may_wait) {
            Ok((draft, inbox)) => {
                let _inbox = inbox.unwrap_or_else(|| shared.lock());
                shared.has_set_aside();
                put(draft.shelve());
                Ok(())
            }
            Err(e) => {
                shared.lock().shelved -= 1;
                Err(self.why_refused(e.into()))
            }
        }
    }

    /// Gives back such room.
    pub(super) fn give_back(&self, draft: Shelved) {
        let shared = &*self.shared;
        let draft = shared.endpoint.resume(draft);
        let inbox = shared.lock();
        shared.has_let_go();
        // Who has enough under way may sleep for this.
        shared.tell(&inbox);
        drop(inbox);
        drop(draft);
        shared.lock().shelved -= 1;
    }

    /// Submits what lies in such room.
    #[inline]
    pub(super) fn submit_reserved(&self, s: &Submission, draft: Shelved) -> Result<(usize, TaskId), PoolError> {
        self.check_home()?;
        let shared = &*self.shared;
        let mut draft = shared.endpoint.resume(draft);
        let tag = {
            let mut inbox = shared.lock();
            inbox.shelved -= 1;
            shared.has_let_go();
            if shared.is_refused() {
                shared.tell(&inbox);
                // Under the lock: who audits finds it gone, or counted.
                drop(draft);
                return Err(PoolError::Draining);
            }
            shared.file_if_due(&mut inbox, 1);
            if shared.journal.is_some() {
                drop(inbox);
                shared.write_down(s, None, &mut draft)?;
                inbox = shared.lock();
            }
            shared.enter(&mut inbox, Bond::None, draft.id())
        };
        shared.publish(s, draft, tag).map_err(|e| self.why_refused(e))
    }

    /// Has the waker called once the task of this ticket has come back, or nothing will; at once, if that is so by now.
    ///
    /// # Errors
    /// The kernel's, if there is no thread that could wait; damage is told by whoever waits.
    pub(super) fn when_done(&self, tag: usize, waker: &Waker) -> io::Result<()> {
        self.check_home().map_err(io::Error::other)?;
        self.start_helper()?;
        if self.shared.is_done(tag, waker) {
            waker.wake_by_ref();
        }
        Ok(())
    }

    /// A further handle for this ticket.
    pub(super) fn share(&self, tag: usize) {
        if let Some(slot) = self.shared.lock().slots.get_mut(tag) {
            slot.handles += 1;
        }
    }

    /// Cancels a task.
    pub(super) fn cancel(&self, task: TaskId) -> Result<(), Lost> {
        self.check_home()?;
        Ok(self.shared.endpoint.cancel(task).map(|_: Cancel| ())?)
    }

    /// Waits until the task of this ticket has come back, or nothing will, or the time is over (`None`). The ticket is used up
    /// by the result.
    pub(super) fn wait(&self, tag: usize, task: TaskId, until: Option<Instant>) -> Result<Option<Filed>, Lost> {
        self.check_home()?;
        self.wait_for(iter::once(task), until, |inbox| inbox.take(tag))
    }

    /// Copies the result of this ticket, if it is there or comes soon, has room in `place`, and went well: its length. Then the ticket
    /// is used up, and `note` has seen how it went.
    pub(super) fn at_once(
        &self,
        tag: usize,
        place: &mut [u8],
        note: impl FnMut(&Finished<'_>),
    ) -> Result<Option<usize>, Lost> {
        self.check_home()?;
        // Others who wait for the same are to be told that it has come.
        let is_waited_for = |slot: &Slot| slot.handles == 1 && matches!(slot.state, State::Waiting(_));
        let may_be_next = |inbox: &Inbox| inbox.slots.get(tag).is_some_and(is_waited_for);
        self.shared.at_once(tag, may_be_next, place, note)
    }

    /// Waits until one of this group, which are `own`, may have [landed](Self::land), or has been filed, is large or went badly: its
    /// note, and how. As [`wait`](Self::wait).
    pub(super) fn wait_any(
        &self,
        group: usize,
        own: impl Iterator<Item = TaskId> + Clone,
    ) -> Result<Option<(usize, Filed)>, Lost> {
        self.check_home()?;
        let mut inbox = self.shared.lock();
        if let found @ Some(_) = inbox.take_any(group) {
            return Ok(found);
        }
        if self.shared.may_look_out(&inbox) {
            let (looked, _) = self.shared.look_out(inbox);
            if looked.is_ok() {
                return Ok(None);
            }
        } else {
            drop(inbox);
        }
        self.wait_for(own, None, |inbox| inbox.take_any(group))
    }

    /// As [`wait_any`](Self::wait_any), at most until then, and until `is_rung` says so, whoever changes which [tells](Self::tell)
    /// it.
    pub(super) fn wait_any_until(
        &self,
        group: usize,
        own: impl Iterator<Item = TaskId> + Clone,
        until: Option<Instant>,
        mut is_rung: impl FnMut() -> bool,
    ) -> Result<Waited, Lost> {
        self.check_home()?;
        let mut look = |inbox: &mut Inbox| match inbox.take_any(group) {
            Some((note, done)) => Some(Waited::Filed(note, done)),
            None => is_rung().then_some(Waited::Over),
        };
        let mut inbox = self.shared.lock();
        if let Some(found) = look(&mut inbox) {
            return Ok(found);
        }
        let is_over = until.is_some_and(|at| at <= Instant::now());
        if !is_over && self.shared.may_look_out(&inbox) {
            let (looked, _) = self.shared.look_out(inbox);
            if looked.is_ok() {
                return Ok(Waited::Look);
            }
        } else {
            drop(inbox);
        }
        Ok(self.wait_for(own, until, look)?.unwrap_or(Waited::Over))
    }

    /// Has all who wait look again.
    pub(super) fn tell(&self) {
        if self.check_home().is_ok() {
            self.shared.tell(&self.shared.lock());
        }
    }

    fn wait_for<T>(
        &self,
        own: impl Iterator<Item = TaskId> + Clone,
        until: Option<Instant>,
        look: impl FnMut(&mut Inbox) -> Option<T>,
    ) -> Result<Option<T>, Lost> {
        self.check_home()?;
        match worker::of(&self.shared.endpoint) {
            Some(worker) => self.shared.wait_in_worker(&worker, own, until, look),
            None => self.shared.wait(until, look),
        }
    }

    /// As [`wait`](Self::wait), for a future.
    pub(super) fn poll(&self, tag: usize, task: TaskId, context: &mut Context<'_>) -> Poll<Result<Filed, Lost>> {
        self.check_home()?;
        if worker::of(&self.shared.endpoint).is_some() {
            // If this thread went to sleep, nobody might be left who could run the task.
            let done = self.wait(tag, task, None);
            return Poll::Ready(done.map(|done| done.unwrap_or_else(|| unreachable!("there is no time limit"))));
        }
        if let found @ Poll::Ready(_) = self.shared.poll(tag, context) {
            return found;
        }
        if self.has_helper() {
            return Poll::Pending;
        }
        // Then this thread waits itself.
        let done = self.shared.wait(None, |inbox| inbox.take(tag));
        Poll::Ready(done.map(|done| done.unwrap_or_else(|| unreachable!("there is no time limit"))))
    }

    /// Ready: a submission of so many bytes may succeed now.
    pub(super) fn poll_room(&self, len: usize, context: &mut Context<'_>) -> Poll<()> {
        let shared = &*self.shared;
        let mut inbox = shared.lock();
        // Registered first, then looked: room that came in between wakes nobody.
        inbox.for_room.push((context.waker().clone(), len));
        let has_moved = shared.file(&mut inbox) | shared.move_out(&mut inbox) | shared.give_up_spares(&mut inbox);
        let may_succeed = has_moved
            || inbox.over.is_some()
            || shared.may_have_room(len)
            || shared.has_reserved_all(&inbox, len).is_err();
        if may_succeed || !self.has_helper() {
            let (waker, _) = inbox.for_room.pop().unzip();
            inbox.dropped.extend(waker);
            return Poll::Ready(());
        }
        shared.tell(&inbox);
        shared.call_helper(&inbox);
        Poll::Pending
    }

    /// Is this a thread of a worker, which runs tasks while it waits?
    pub(super) fn runs_tasks_here(&self) -> bool {
        worker::of(&self.shared.endpoint).is_some()
    }

    /// Starts the thread that waits in the place of futures. False: there can be none.
    fn has_helper(&self) -> bool {
        self.start_helper().is_ok()
    }

    fn start_helper(&self) -> io::Result<()> {
        let mut helper = self.helper.lock().unwrap_or_else(PoisonError::into_inner);
        if helper.is_none() {
            let shared = self.shared.clone();
            *helper = Some(std::thread::Builder::new().name("results".into()).spawn(move || shared.help())?);
        }
        Ok(())
    }

    /// This handle's result isn't wanted any more. But of a durable client whose pool was lost it stays in the file: who drops all that it has
    /// of that pool is about to go on with the next.
    pub(super) fn forget(&self, tag: usize) {
        if self.check_home().is_ok() && !self.is_lost() {
            self.shared.lock().forget(tag);
        }
    }

    /// This handle has gone, and leaves what comes of its task in the file.
    pub(super) fn leave(&self, tag: usize) {
        if self.check_home().is_ok() {
            let mut inbox = self.shared.lock();
            match inbox.slots.get_mut(tag) {
                // It is for the others to say what is to come of it.
                Some(slot) if slot.handles > 1 => slot.handles -= 1,
                Some(_) => drop(inbox.left.insert(tag)),
                None => {}
            }
        }
    }

    /// The pool has ended in order: what is dropped from here on isn't wanted.
    pub(super) fn ends_in_order(&self) {
        self.shared.has_ended.store(true, Relaxed); // seen by who has seen that it is orphaned
    }

    /// Was the pool of a durable client lost, and did not end in order?
    pub(super) fn is_lost(&self) -> bool {
        let is_orphaned = self.endpoint().is_orphaned(); // before the look at how
        self.is_durable() && is_orphaned && !self.shared.has_ended.load(Relaxed)
    }

    /// Files what has come back, if anything is outstanding: for a worker between two tasks, whose tasks may have left some
    /// behind.
    pub(super) fn tidy(&self) {
        if self.outstanding() > 0 {
            let mut inbox = self.shared.lock();
            self.shared.file(&mut inbox);
        }
    }

    /// After the end of the pool: is what it leaves in the segment in order? `is_alone`: nobody has attached to it.
    ///
    /// # Errors
    /// What is wrong, as a line for people.
    pub(super) fn audit(&self, is_alone: bool) -> Result<(), String> {
        self.tidy();
        let mut inbox = self.shared.lock();
        self.shared.give_up_spares(&mut inbox);
        let table = self.endpoint().segment().table();
        // Each result that lies in the segment holds the endpoint. Without one nobody touches the segment any more; and under the
        // lock, since what another thread takes after that may be kept.
        let is_at_rest =
            is_alone && Arc::strong_count(self.endpoint()) == 1 && self.outstanding() == 0 && inbox.shelved == 0;
        drop(inbox);
        let audit = if is_at_rest { table.audit() } else { table.audit_live() };
        // In a file there may be what other clients have submitted.
        let is_in_order = audit.is_clean() || audit.violations.is_empty() && (!is_at_rest || self.is_durable());
        if is_in_order { Ok(()) } else { Err(format!("its shared memory is damaged: {audit}; please report this")) }
    }

    /// Waits until everything that was submitted has come back, or nothing will, or the time is over. True: it has.
    pub(super) fn drain(&self, until: Option<Instant>) -> Result<bool, Lost> {
        let is_over = |_: &mut Inbox| (self.outstanding() == 0).then_some(());
        self.wait_for(iter::empty(), until, is_over).map(|over| over.is_some())
    }

    /// As [`drain`](Self::drain), for so long; then cancels what is left, and waits as long again.
    pub(super) fn drain_within(&self, grace: Duration) -> Result<bool, Lost> {
        let until = || Instant::now().checked_add(grace);
        if self.drain(until())? {
            return Ok(true);
        }
        for task in self.endpoint().under_way() {
            self.cancel(task)?;
        }
        self.drain(until())
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Client").field(&self.shared.endpoint.name()).finish()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.check_home().is_err() {
            // Its results lie in a segment that is not here.
            std::mem::forget(self.shared.clone());
            return;
        }
        let mut inbox = self.shared.lock();
        inbox.is_closed = true;
        if self.is_durable() {
            // Nobody has asked for these: they are there again for the next client.
            for slot in inbox.slots.drain() {
                if let State::Done(done) = slot.state {
                    drop(Kept::new(done));
                }
            }
        }
        self.shared.give_up_spares(&mut inbox);
        self.shared.tell(&inbox);
        self.shared.call_helper(&inbox);
        drop(inbox);
        // It panics only if a waker of the caller's does; that was said then.
        let _ = self.helper.get_mut().unwrap_or_else(PoisonError::into_inner).take().map(JoinHandle::join);
    }
}

/// Room for an input that is not submitted yet, and no buffer that somebody keeps.
struct Filling<'s>(&'s Shared);

impl Filling<'_> {
    fn of(shared: &Shared) -> Filling<'_> {
        shared.filling.fetch_add(1, Relaxed);
        Filling(shared)
    }
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        self.0.filling.fetch_sub(1, Relaxed);
    }
}

/// A ticket of a task that is about to be filled. If that comes to nothing, also by a panic, nothing will come back.
struct Entered<'s> {
    shared: &'s Shared,
    tag: u64,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut inbox = self.shared.lock();
        // Nobody has joined: what has a key was filled before it got its ticket.
        match Member::of(self.tag) {
            Some(Member { group, .. }) => inbox.have_come_back(group, 1),
            None => drop(inbox.slots.remove(self.tag as usize)),
        }
        self.shared.has_come_back(1);
        // Who drains waits for that.
        self.shared.tell(&inbox);
    }
}

/// Descriptors in which tasks of a group are about to be submitted, counted as under way. What is not used is given back.
pub(super) struct Batch<'c> {
    shared: &'c Shared,
    s: &'c Submission,
    group: usize,
    spares: &'c mut Vec<Spare>,
    /// The stamp of all.
    now: u64,
}

impl Batch<'_> {
    /// Submits one more. `None`: it takes [`Client::submit_in`].
    #[inline]
    pub(super) fn submit(&mut self, note: usize, payload: &[u8]) -> Option<Result<TaskId, Corrupted>> {
        if payload.len() > INLINE {
            return None;
        }
        let mut draft = self.shared.endpoint.redraft(self.spares.pop()?, payload.len());
        let filled = draft.payload().map(|place| place.copy_from_slice(payload));
        let sent = filled.and_then(|()| draft.submit_at(self.s, Member { group: self.group, note }.tag(), self.now));
        Some(sent.inspect_err(|e| {
            // It may run for all that.
            let mut inbox = self.shared.lock();
            self.shared.lose(&mut inbox, *e);
        }))
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if !self.spares.is_empty() {
            self.shared.settle(self.group, self.spares.len(), self.spares);
        }
    }
}

/// Results of a group as they are taken, under no lock: who reads them may be code of the caller's.
struct Landing<'c> {
    shared: &'c Shared,
    group: usize,
    /// Their descriptors.
    spares: &'c mut Vec<Spare>,
    landed: usize,
}

impl Landing<'_> {
    #[inline]
    fn all(
        &mut self,
        most: usize,
        each: &mut impl FnMut(usize, &Finished<'_>) -> Result<(), Corrupted>,
    ) -> Result<bool, Corrupted> {
        while self.landed < most
            && let Some(finished) = self.shared.endpoint.take()?
        {
            match Member::of(finished.tag()) {
                // A durable client lets go of a result once its caller says so.
                Some(Member { group, note })
                    if group == self.group && finished.went_well() && !self.shared.endpoint.is_durable() =>
                {
                    self.landed += 1;
                    each(note, &finished)?;
                    self.spares.push(finished.renew()?);
                }
                _ => {
                    let mut inbox = self.shared.lock();
                    self.shared.has_come_back(1);
                    self.shared.put(&mut inbox, finished)?;
                    self.shared.tell(&inbox);
                    // It was this group's, perhaps.
                    if !inbox.groups[self.group].filed.is_empty() {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        if self.landed > 0 {
            self.shared.settle(self.group, self.landed, self.spares);
        }
    }
}

impl Shared {
    #[inline]
    fn lock(&self) -> Locked<'_> {
        Locked { inbox: Some(self.inbox.lock().unwrap_or_else(PoisonError::into_inner)) }
    }

    /// Submits a small payload in a descriptor that is kept, under one lock. `None`: that takes longer.
    ///
    /// As little as can be comes before the task is published: the rest is done while it is on its way.
    #[inline]
    fn send_at_once(
        &self,
        s: &Submission,
        member: Option<Member>,
        payload: &[u8],
    ) -> Result<Option<(usize, TaskId)>, Corrupted> {
        if payload.len() > INLINE {
            return Ok(None);
        }
        let mut inbox = self.lock();
        let spare = if self.is_barred() { None } else { inbox.spares.pop() };
        let Some(spare) = spare else { return Ok(None) };
        let mut draft = self.endpoint.redraft(spare, payload.len());
        let task = draft.id();
        let bond = member.map_or(Bond::None, Bond::Group);
        let tag = inbox.next_tag(&bond);
        let filled = draft.payload().map(|place| place.copy_from_slice(payload));
        let sent = filled.and_then(|()| draft.submit_as(s, tag));
        // Under the lock, as `is_draining` above: who drains finds this one, or this one finds that the pool drains. And who takes
        // its result finds its slot.
        inbox.enter(bond, task, sent.is_ok().into());
        self.has_gone_out(1);
        if let Err(e) = &sent {
            // It may run for all that: nobody has its ticket, then.
            self.lose(&mut inbox, *e);
        }
        self.file_if_due(&mut inbox, 1);
        sent.map(|task| Some((tag as usize, task)))
    }

    /// Is there a reason to look twice before something is submitted?
    fn is_barred(&self) -> bool {
        !self.is_workers && self.is_draining()
            || self.has_enough()
            || self.endpoint.is_orphaned()
            || self.journal.is_some()
    }

    /// Once in a while, for who only submits: before the lane of what has come overflows, which would cost a look at all descriptors.
    /// And before workers wait long for the room of results that nobody else may come to file.
    #[inline]
    fn file_if_due(&self, inbox: &mut Inbox, n: usize) {
        let turn = inbox.submitted / FILE_EVERY;
        inbox.submitted += n;
        let is_due = || self.outstanding.load(Relaxed) >= self.most() / 2 || self.endpoint.is_room_wanted();
        if inbox.submitted / FILE_EVERY != turn && is_due() {
            self.file(inbox);
        }
    }

    fn submit(
        &self,
        s: &Submission,
        bond: Bond,
        kept_key: Option<&str>,
        len: usize,
        may_wait: bool,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(usize, TaskId), PoolError> {
        let inbox = self.lock();
        if self.is_refused() {
            return Err(PoolError::Draining);
        }
        let _filling; // dropped behind the draft
        let (mut draft, inbox) = self.take_draft(inbox, len, may_wait)?;
        _filling = Filling::of(self);
        let mut inbox = inbox.unwrap_or_else(|| self.lock());
        let mut fill = Some(fill);
        if matches!(bond, Bond::Key(_))
            && let Some(fill) = fill.take()
        {
            // Before others can join it: it may panic. Under no lock, as below.
            drop(inbox);
            fill(draft.payload().map_err(SubmitError::from)?);
            inbox = self.lock();
        }
        if self.is_refused() {
            return Err(PoolError::Draining);
        }
        self.file_if_due(&mut inbox, 1);
        if let Bond::Key(key) = &bond {
            if let Some(ticket) = self.join(&mut inbox, key) {
                return Ok(ticket);
            }
            // Under the lock: who joins it finds it accepted.
            self.write_down(s, kept_key, &mut draft)?;
        }
        let tag = self.enter(&mut inbox, bond, draft.id());
        drop(inbox);
        let entered = Entered { shared: self, tag };
        if let Some(fill) = fill {
            fill(draft.payload().map_err(SubmitError::from)?);
            self.write_down(s, kept_key, &mut draft)?;
        }
        std::mem::forget(entered);
        if let Some(key) = kept_key {
            draft.set_key(key);
            return self.publish(&Submission { has_key: true, ..*s }, draft, tag);
        }
        self.publish(s, draft, tag)
    }

    /// Has the journal say that this draft, which is filled, is accepted.
    fn write_down(&self, s: &Submission, key: Option<&str>, draft: &mut Draft<'_>) -> Result<(), PoolError> {
        if let Some(journal) = &self.journal {
            let number = journal.accept(s, key, draft.payload().map_err(SubmitError::from)?)?;
            draft.set_number(number);
        }
        Ok(())
    }

    /// Submits of the tasks that are in the journal alone as many as there is room for. They count as adopted.
    fn resubmit(&self) {
        let Some(journal) = &self.journal else { return };
        while let Some((number, open)) = journal.next_of_backlog(None) {
            if let Err(open) = self.submit_again(number, open, false) {
                return journal.put_back(number, open);
            }
        }
    }

    /// Submits the one with this key, if it is one of these.
    fn fetch(&self, key: &str, may_wait: bool) {
        if let Some(journal) = &self.journal
            && let Some((number, open)) = journal.next_of_backlog(Some(key))
            && let Err(open) = self.submit_again(number, open, may_wait)
        {
            journal.put_back(number, open);
        }
    }

    /// Submits a task of the journal under its number. It is given back if there is no room, or nobody any more.
    fn submit_again(&self, number: u64, open: Open, may_wait: bool) -> Result<(), Open> {
        let queues = self.endpoint.segment().table().queues;
        let mut s = journaled::submission(&open.terms, queues);
        // What has a result is run by nobody: it is ended here, by who submits it.
        let ended = open.ended.as_ref().filter(|(how, _)| how.end == End::Completed);
        if ended.is_some() {
            s.to = To::Participant(self.endpoint.name());
        }
        // As one of many none takes the place of another.
        let Ok(mut draft) = self.draft(open.input.len(), may_wait, may_wait) else { return Err(open) };
        match draft.payload() {
            Ok(place) => place.copy_from_slice(&open.input),
            Err(_) => return Err(open),
        }
        draft.set_number(number);
        if let Some(key) = &open.key {
            draft.set_key(key);
            s.has_key = true;
        }
        let bond = open.key.as_deref().map_or(Bond::None, |key| Bond::Key(key.into()));
        let mut inbox = self.lock();
        let tag = self.enter(&mut inbox, bond, draft.id());
        inbox.adopted.insert(tag as usize);
        drop(inbox);
        if self.publish(&s, draft, tag).is_ok()
            && let Some((how, output)) = ended
            && let Ok(Some(task)) = self.endpoint.claim(self.endpoint.private())
        {
            // Without room for the output it is given back, and found at the next start.
            let _ = task.complete(how.status, output.len(), |place| place.copy_from_slice(output));
        }
        Ok(())
    }

    /// Has somebody asked the pool to end, for whom this submitter is one who may be refused?
    fn is_refused(&self) -> bool {
        !self.is_workers && self.is_draining()
    }

    /// A descriptor that is kept, if anything may be submitted just now.
    #[inline]
    fn pop_spare(&self, inbox: &mut Inbox) -> Option<Spare> {
        if self.has_enough() || self.endpoint.is_orphaned() { None } else { inbox.spares.pop() }
    }

    /// Room for a submission, and the lock, unless it was released to wait for it.
    fn take_draft<'s>(
        &'s self,
        mut inbox: Locked<'s>,
        len: usize,
        may_wait: bool,
    ) -> Result<(Draft<'s>, Option<Locked<'s>>), SubmitError> {
        match self.pop_spare(&mut inbox) {
            Some(spare) if len <= INLINE => return Ok((self.endpoint.redraft(spare, len), Some(inbox))),
            Some(spare) => {
                if let Some(block) = self.endpoint.retake_block(len) {
                    return Ok((self.endpoint.redraft_in(block, spare, len)?, Some(inbox)));
                }
                // Under no lock, as below: the kernel may have to find memory.
                drop(inbox);
                match self.endpoint.sparing_redraft(spare, len) {
                    Err(e) if e.is_want_of_room() => {}
                    other => return Ok((other?, None)),
                }
            }
            None => drop(inbox),
        }
        // Under no lock: it may have to wait for room, and a worker runs other tasks meanwhile.
        Ok((self.draft(len, may_wait, true)?, None))
    }

    /// The tag of a task that is about to be submitted, and is under way from here on. Under the lock, as `is_refused` is asked:
    /// who drains finds this one, or this one finds that the pool drains.
    fn enter(&self, inbox: &mut Inbox, bond: Bond, task: TaskId) -> u64 {
        let key = if let Bond::Key(key) = &bond { Some(key.clone()) } else { None };
        let tag = inbox.next_tag(&bond);
        inbox.enter(bond, task, 1);
        if let Some(key) = key {
            inbox.remember(key, tag as usize);
        }
        self.has_gone_out(1);
        tag
    }

    /// Submits what has been entered and filled.
    fn publish(&self, s: &Submission, draft: Draft<'_>, tag: u64) -> Result<(usize, TaskId), PoolError> {
        draft.submit_as(s, tag).map(|task| (tag as usize, task)).map_err(|e| {
            // It may run for all that: nobody else has its ticket, then, and who has joined is told.
            let mut inbox = self.lock();
            inbox.forget(tag as usize);
            self.lose(&mut inbox, e);
            SubmitError::from(e).into()
        })
    }

    /// So many more are under way. Under the lock.
    fn has_gone_out(&self, n: usize) {
        self.outstanding.store(self.outstanding.load(Relaxed) + n, Relaxed);
    }

    /// So many of the tasks that were submitted have come back. Under the lock.
    #[inline]
    fn has_come_back(&self, n: usize) {
        // Damage can bring back more than there were.
        self.outstanding.store(self.outstanding.load(Relaxed).saturating_sub(n), Relaxed);
    }

    /// A buffer more is reserved. Under the lock.
    fn has_set_aside(&self) {
        self.reserved.store(self.reserved.load(Relaxed) + 1, Relaxed);
    }

    /// A buffer less is reserved. Under the lock, and before its descriptor is freed: see [`has_reserved_all`](Self::has_reserved_all).
    fn has_let_go(&self) {
        self.reserved.store(self.reserved.load(Relaxed).saturating_sub(1), Relaxed);
    }

    /// So many of a group are not under way any more, and these descriptors are free.
    fn settle(&self, group: usize, n: usize, spares: &mut Vec<Spare>) {
        let mut inbox = self.lock();
        self.has_come_back(n);
        inbox.have_come_back(group, n);
        inbox.spares.append(spares);
        self.keep_at_most(&mut inbox, self.may_keep());
        // Who drains waits for that.
        if inbox.has_company() {
            self.tell(&inbox);
        }
    }

    /// A ticket of the task with this key, if one is under way.
    fn join(&self, inbox: &mut Inbox, key: &str) -> Option<(usize, TaskId)> {
        self.file(inbox);
        let &tag = inbox.keys.get(key)?;
        let slot = inbox.slots.get_mut(tag)?;
        // Not one that runs in this very worker: it may lie under this one, and then neither would ever end.
        let is_here = self.is_workers && self.endpoint.runs(slot.task);
        let is_under_way = matches!(slot.state, State::Waiting(_)) || self.endpoint.is_durable();
        let is_joined = !is_here && slot.key() == Some(key) && is_under_way;
        let ticket = (tag, slot.task);
        // One that was adopted, or left, has a handle for whoever asks first.
        if is_joined && !inbox.adopted.remove(&tag) && !inbox.left.remove(&tag) {
            inbox.slots[tag].handles += 1;
        }
        is_joined.then_some(ticket)
    }

    /// Has somebody asked the pool to end?
    fn is_draining(&self) -> bool {
        Mode::of(&self.endpoint.segment().header().control) >= Mode::Draining
    }

    /// Has a program as many tasks under way as it may? It leaves some descriptors for what its tasks submit.
    fn has_enough(&self) -> bool {
        // Relaxed: a few more or fewer are no matter.
        !self.is_workers && self.has_taken() >= self.most()
    }

    /// Of what a program may have under way: what is, and what it has reserved for that.
    #[inline]
    fn has_taken(&self) -> usize {
        self.outstanding.load(Relaxed) + self.reserved.load(Relaxed)
    }

    /// # Errors
    /// Buffers of this process, and results that it reads in place, take all the room that there is for `len` bytes, so that none
    /// comes unless it submits or drops them.
    ///
    /// Under the lock. What another thread is about to submit looks like a buffer for a moment.
    fn has_reserved_all(&self, _: &Inbox, len: usize) -> Result<(), SubmitError> {
        let reserved = self.reserved.load(Relaxed);
        let is_at_rest = reserved > 0 && self.outstanding.load(Relaxed) == 0 && self.filling.load(Relaxed) == 0;
        let has_all = is_at_rest && (self.has_enough() || self.endpoint.has_all_room(len));
        if has_all { Err(SubmitError::Reserved(reserved)) } else { Ok(()) }
    }

    /// Do results that a durable client has not let go of take all the room that there is for `len` bytes, and will none come by
    /// others?
    fn has_kept_all(&self, len: usize) -> bool {
        self.endpoint.is_durable() && self.outstanding.load(Relaxed) == 0 && self.endpoint.has_all_room(len)
    }

    /// How many descriptors may a program keep for its next submissions? As many as it has under way, so that one which waits for
    /// its last task holds no more than that; and a few, since it may have nothing under way and not come by for long. A worker
    /// submits now and then, and there may be many of them.
    #[inline]
    fn may_keep(&self) -> usize {
        if self.is_workers || self.endpoint.is_durable() || self.endpoint.is_room_wanted() {
            return 0;
        }
        let outstanding = self.outstanding.load(Relaxed);
        outstanding.max(self.few).min(self.most().saturating_sub(self.has_taken()))
    }

    /// Who waits for a descriptor may have what is kept. False: there is none.
    fn give_up_spares(&self, inbox: &mut Inbox) -> bool {
        self.keep_at_most(inbox, 0)
    }

    /// False: no more are kept.
    fn keep_at_most(&self, inbox: &mut Inbox, most: usize) -> bool {
        let has_more = inbox.spares.len() > most;
        while inbox.spares.len() > most
            && let Some(spare) = inbox.spares.pop()
        {
            self.endpoint.give_up(spare);
        }
        has_more
    }

    #[inline]
    fn most(&self) -> usize {
        let all = self.endpoint.segment().table().descriptors.len();
        all - all / 4
    }

    fn may_have_room(&self, len: usize) -> bool {
        !self.has_enough() && self.endpoint.may_have_room(len)
    }

    /// `lets_go`: results of former lives that nobody has asked for may be let go for it.
    fn draft(&self, len: usize, may_wait: bool, lets_go: bool) -> Result<Draft<'_>, SubmitError> {
        while self.has_enough() {
            let mut inbox = self.lock();
            // Others may have taken all that was under way since the look above: nothing would end the sleep.
            if self.file(&mut inbox) || !self.has_enough() {
                continue;
            }
            if inbox.over.is_some() {
                break; // which the draft says
            }
            self.has_reserved_all(&inbox, len)?;
            if !may_wait {
                return Err(SubmitError::Full(self.most()));
            }
            drop(self.sleep(inbox, None));
        }
        let (mut looks, mut was_reserved) = (0, false);
        loop {
            match self.endpoint.sparing_draft(len) {
                Err(e) if e.is_want_of_room() => {
                    let mut inbox = self.lock();
                    // Our own results may be in the way, or what we keep.
                    if self.file(&mut inbox) | self.move_out(&mut inbox) | self.give_up_spares(&mut inbox) {
                        continue;
                    }
                    if lets_go && inbox.let_unasked_go() {
                        continue;
                    }
                    if let Err(told) = self.has_reserved_all(&inbox, len) {
                        if was_reserved || !may_wait {
                            return Err(told);
                        }
                        // Another thread may have been about to submit.
                        was_reserved = true;
                        drop(inbox);
                        self.endpoint.wait_for_room(len);
                        continue;
                    }
                    was_reserved = false;
                    let is_full = inbox.private >= BUDGET || self.has_kept_all(len);
                    if !may_wait {
                        return Err(e);
                    }
                    drop(inbox);
                    match worker::of(&self.endpoint) {
                        // Who might make room waits for us, perhaps: a task of theirs is run, or none can be.
                        Some(worker) => {
                            if !worker.run_another()? {
                                looks += 1;
                                if looks > LOOKS {
                                    return Err(e);
                                }
                                self.endpoint.wait_for_room(len);
                                continue;
                            }
                            // Several, if they are short: a look for room goes through the whole table.
                            let until = Instant::now() + LOOK;
                            while Instant::now() < until && worker.run_another()? {}
                        }
                        None if is_full => return Err(e),
                        None => self.endpoint.wait_for_room(len),
                    }
                }
                other => return other,
            }
        }
    }

    /// Copies the result of this ticket if it has room in `place`, went well, comes soon, and is the next to come but for some that are
    /// filed on the way: its length. `None`: look into the inbox.
    #[inline]
    fn at_once(
        &self,
        tag: usize,
        may_be_next: impl Fn(&Inbox) -> bool,
        place: &mut [u8],
        mut note: impl FnMut(&Finished<'_>),
    ) -> Result<Option<usize>, Lost> {
        let mut inbox = self.lock();
        loop {
            // Others who wait are to be told what has come.
            if !may_be_next(&inbox) || inbox.has_company() {
                return Ok(None);
            }
            let found = self.find(&mut inbox, tag, place, &mut note);
            if let Err(e) = &found {
                // What is damaged may have been another's, who looks for it later.
                inbox.end((*e).into());
            }
            let found = found?;
            if found.is_some() || !may_be_next(&inbox) || !self.may_look_out(&inbox) {
                return Ok(found);
            }
            let looked;
            (looked, inbox) = self.look_out(inbox);
            if looked.is_err() {
                return Ok(None);
            }
        }
    }

    /// Who is in a worker runs tasks rather than to look out, and whom it has to wake may wait for this very thread.
    fn may_look_out(&self, inbox: &Inbox) -> bool {
        !self.is_workers && !inbox.has_company() && inbox.over.is_none() && !inbox.owes_wakes()
    }

    /// Looks for a while whether something has come, in the place of all.
    fn look_out<'s>(&'s self, inbox: Locked<'s>) -> (Result<(), Instant>, Locked<'s>) {
        let mut looked = Ok(());
        let inbox = self.lead(inbox, |news| looked = self.endpoint.look_out(|| self.news.load(Relaxed) != news));
        (looked, inbox)
    }

    /// Waits in the place of all, who has the lead alone, by `wait`, which is given what the news were before: see
    /// [`tell`](Self::tell). Somebody else may have to lead after that.
    fn lead<'s>(&'s self, mut inbox: Locked<'s>, wait: impl FnOnce(usize)) -> Locked<'s> {
        inbox.has_leader = true;
        let seen = self.news.load(Relaxed);
        drop(inbox);
        wait(seen);
        inbox = self.lock();
        inbox.has_leader = false;
        if inbox.waiting > 0 {
            self.changed.notify_all();
        }
        inbox
    }

    #[inline]
    fn find(
        &self,
        inbox: &mut Inbox,
        tag: usize,
        place: &mut [u8],
        note: &mut impl FnMut(&Finished<'_>),
    ) -> Result<Option<usize>, Corrupted> {
        while let Some(finished) = self.endpoint.take()? {
            self.has_come_back(1);
            if finished.tag() != tag as u64 || !finished.went_well() {
                self.put(inbox, finished)?;
                continue;
            }
            let bytes = finished.output()?;
            let len = bytes.len();
            let Some(place) = place.get_mut(..len) else {
                self.put(inbox, finished)?;
                return Ok(None);
            };
            place.copy_from_slice(bytes);
            note(&finished);
            self.keep(inbox, finished)?;
            inbox.slots.remove(tag);
            return Ok(Some(len));
        }
        Ok(None)
    }

    /// Keeps the descriptor of a result that has been copied out for the next submission, or frees it.
    #[inline]
    fn keep(&self, inbox: &mut Inbox, finished: Finished<'_>) -> Result<(), Corrupted> {
        let (kept, most) = (inbox.spares.len(), self.may_keep());
        if kept < most {
            inbox.spares.push(finished.renew()?);
        } else if kept > most
            && let Some(spare) = inbox.spares.pop()
        {
            self.endpoint.give_up(spare);
        }
        Ok(())
    }

    /// Files all that has come. True: something had.
    fn file(&self, inbox: &mut Inbox) -> bool {
        let mut has_come = false;
        // Asked for before the look, so that nothing is missed that was finished before the end.
        let is_orphaned = self.endpoint.is_orphaned();
        let lost = loop {
            match self.endpoint.take() {
                Ok(Some(finished)) => {
                    has_come = true;
                    self.has_come_back(1);
                    if let Err(e) = self.put(inbox, finished) {
                        break Some(e.into());
                    }
                }
                Ok(None) => break is_orphaned.then_some(Lost::CoordinatorDied(CoordinatorDied)),
                Err(e) => break Some(e.into()),
            }
        };
        // Results that nobody wants, and those in blocks, have come without a look at what is kept.
        self.keep_at_most(inbox, self.may_keep());
        if self.endpoint.is_room_wanted() {
            while self.move_out(inbox) {}
        }
        if let (None, Some(lost)) = (inbox.over, lost) {
            inbox.end(lost);
            has_come = true;
        }
        if has_come {
            self.tell(inbox);
        }
        has_come
    }

    /// Files what has come of one task.
    fn put(&self, inbox: &mut Inbox, finished: Finished<'_>) -> Result<(), Corrupted> {
        let unknown = |tag: u64| Corrupted::new("ticket of a finished task", tag as usize, finished.status().into());
        let tag = match Member::of(finished.tag()) {
            Some(member) => {
                let group = inbox.groups.get(member.group).filter(|group| group.under_way > 0);
                let is_closed = group.ok_or_else(|| unknown(finished.tag()))?.is_closed;
                inbox.have_come_back(member.group, 1);
                if is_closed {
                    return Ok(());
                }
                let state = State::Waiting(Vec::new());
                inbox.slots.insert(Slot { handles: 1, bond: Bond::Group(member), task: finished.id(), state })
            }
            None => {
                let tag = finished.tag() as usize;
                // One of a former life.
                if let Some(Member { group, .. }) = inbox.slots.get(tag).and_then(Slot::member) {
                    inbox.have_come_back(group, 1);
                    if inbox.groups.get(group).is_none_or(|group| group.is_closed) {
                        inbox.slots.remove(tag);
                        return Ok(());
                    }
                }
                tag
            }
        };
        let Some(slot) = inbox.slots.get_mut(tag) else { return Err(unknown(finished.tag())) };
        if slot.handles == 0 {
            inbox.slots.remove(tag);
            return Ok(());
        }
        let done = self.done(inbox, finished)?;
        inbox.private += done.output.private();
        if matches!(done.output, Output::InPlace(_)) && !self.endpoint.is_durable() {
            // Those that were taken are found out here, each once in a while.
            if inbox.in_place.len() == inbox.in_place.capacity() {
                let slots = &inbox.slots;
                inbox.in_place.retain(|&tag| slots.get(tag).is_some_and(Slot::is_in_place));
            }
            inbox.in_place.push_back(tag);
        }
        let done = State::Done(Filed::One(Box::new(done)));
        if let Some(Member { group, .. }) = inbox.slots[tag].member() {
            inbox.groups[group].filed.push_back(tag);
        }
        if let State::Waiting(mut wakers) = std::mem::replace(&mut inbox.slots[tag].state, done)
            && !wakers.is_empty()
        {
            inbox.futures -= wakers.len();
            inbox.woken.append(&mut wakers);
        }
        Ok(())
    }

    /// What came of a task, in memory of this process if it is small; its descriptor is kept for another.
    #[inline]
    fn done(&self, inbox: &mut Inbox, finished: Finished<'_>) -> Result<Done, Corrupted> {
        let (outcome, status) = (finished.outcome(), finished.status());
        let trouble = || Trouble {
            exit: finished.exit(),
            deaths: finished.deaths(),
            is_poison: finished.is_poison(),
            peak_kib: finished.peak_kib().unwrap_or(0),
            progress: finished.progress(),
        };
        let ending = Ending {
            attempts: finished.attempts(),
            ran_by: finished.ran_by(),
            times: finished.times(),
            trouble: (!finished.went_well()).then(|| Box::new(trouble())),
        };
        let bytes = finished.output()?;
        let output = if bytes.len() > INLINE || self.endpoint.is_durable() {
            Output::InPlace(InPlace { finished: Some(finished.share(&self.endpoint)), home: self.home })
        } else {
            let output = Output::copy_of(bytes);
            self.keep(inbox, finished)?;
            output
        };
        Ok(Done { outcome, status, ending, output })
    }

    /// Nothing will come any more, for this damage: all are told.
    fn lose(&self, inbox: &mut Inbox, damage: Corrupted) {
        inbox.end(damage.into());
        self.tell(inbox);
    }

    /// Has all who wait look again, however they sleep.
    fn tell(&self, inbox: &Inbox) {
        // Relaxed: the wake below publishes it to who prepares to sleep after that; who has prepared before does not sleep. No
        // read-modify-write: under the lock.
        self.news.store(self.news.load(Relaxed).wrapping_add(1), Relaxed);
        if inbox.has_leader || !inbox.for_room.is_empty() || self.is_workers && inbox.waiting > 0 {
            self.endpoint.wake_self();
        }
        if inbox.waiting > 0 {
            self.changed.notify_all();
        }
    }

    /// Makes room: copies a result out of the segment that lies there still, the oldest first. False: there is none, or they
    /// are read just now, or the budget is spent.
    fn move_out(&self, inbox: &mut Inbox) -> bool {
        if self.endpoint.is_durable() {
            return false; // a death would lose it
        }
        for _ in 0..inbox.in_place.len() {
            if inbox.private >= BUDGET {
                return false;
            }
            let Some(tag) = inbox.in_place.pop_front() else { return false };
            let Some(Slot { state: State::Done(done), .. }) = inbox.slots.get_mut(tag) else { continue };
            let Output::InPlace(place) = &done.output else { continue };
            let Ok(bytes) = place.bytes() else { continue };
            let (len, bytes) = (bytes.len(), Aligned::from(bytes));
            let done = match done {
                Filed::One(done) => Some(&mut **done),
                Filed::Shared(done) => Arc::get_mut(done),
            };
            match done {
                Some(done) => {
                    done.output = Output::Private(bytes);
                    inbox.private += len;
                    return true;
                }
                // Another handle reads it. Its turn comes again.
                None => inbox.in_place.push_back(tag),
            }
        }
        false
    }

    /// How long to sleep, who may sleep for so long: where results lie in blocks, others may come to need the room.
    fn nap(&self, inbox: &Inbox, at_most: Option<Duration>) -> Option<Duration> {
        if inbox.in_place.is_empty() || self.endpoint.is_durable() {
            at_most
        } else {
            Some(at_most.map_or(ROOM, |t| t.min(ROOM)))
        }
    }

    fn wait<T>(
        &self,
        until: Option<Instant>,
        mut look: impl FnMut(&mut Inbox) -> Option<T>,
    ) -> Result<Option<T>, Lost> {
        let mut inbox = self.lock();
        loop {
            if let Some(found) = look(&mut inbox) {
                return Ok(Some(found));
            }
            if !inbox.has_leader && self.file(&mut inbox) {
                continue;
            }
            if let Some(lost) = inbox.over {
                return Err(lost);
            }
            let left = until.map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            inbox = self.sleep(inbox, left);
        }
    }

    /// Sleeps until something may have come; as the leader, if there is none.
    fn sleep<'s>(&'s self, inbox: Locked<'s>, at_most: Option<Duration>) -> Locked<'s> {
        if inbox.has_leader {
            return self.follow(inbox, at_most);
        }
        if inbox.owes_wakes() {
            // Before it leads: a waker may wait for results itself, and would follow this very thread.
            drop(inbox);
            return self.lock();
        }
        let at_most = self.nap(&inbox, at_most);
        let mut inbox = self.lead(inbox, |seen| self.endpoint.rest(at_most, || self.news.load(Relaxed) != seen));
        self.file(&mut inbox);
        inbox
    }

    /// Sleeps until somebody tells.
    fn follow<'s>(&'s self, mut inbox: Locked<'s>, at_most: Option<Duration>) -> Locked<'s> {
        inbox.waiting += 1;
        let mut inbox = self.released(inbox, |guard| match at_most {
            Some(t) => self.changed.wait_timeout(guard, t).unwrap_or_else(PoisonError::into_inner).0,
            None => self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner),
        });
        inbox.waiting -= 1;
        inbox
    }

    /// Has the lock released by `sleep`, and by nothing but calling wakers if there are such.
    fn released<'s>(
        &'s self,
        mut inbox: Locked<'s>,
        sleep: impl FnOnce(MutexGuard<'s, Inbox>) -> MutexGuard<'s, Inbox>,
    ) -> Locked<'s> {
        if inbox.owes_wakes() {
            drop(inbox);
            return self.lock();
        }
        Locked { inbox: inbox.inbox.take().map(sleep) }
    }

    /// There is something for the thread for futures to wait for, or it is to end.
    fn call_helper(&self, inbox: &Inbox) {
        if inbox.has_idle_helper {
            self.called.notify_one();
        }
    }

    /// As [`wait`](Self::wait), on a thread of a worker: it runs what it waits for, if nobody does yet, or anything else.
    fn wait_in_worker<T>(
        &self,
        worker: &worker::Current,
        own: impl Iterator<Item = TaskId> + Clone,
        until: Option<Instant>,
        mut look: impl FnMut(&mut Inbox) -> Option<T>,
    ) -> Result<Option<T>, Lost> {
        loop {
            {
                let mut inbox = self.lock();
                self.file(&mut inbox);
                if let Some(found) = look(&mut inbox) {
                    return Ok(Some(found));
                }
                if let Some(lost) = inbox.over {
                    return Err(lost);
                }
            }
            let left = until.map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            if worker.run_one_of(own.clone())? || worker.run_another()? {
                continue;
            }
            let mut found = None;
            let mut inbox = self.lock();
            inbox.waiting += 1;
            let left = self.nap(&inbox, left);
            drop(inbox);
            worker.park(left, || {
                // Filed by another thread since the look above, which woke those who slept by then.
                found = look(&mut self.lock());
                found.is_some()
            });
            self.lock().waiting -= 1;
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    fn poll(&self, tag: usize, context: &mut Context<'_>) -> Poll<Result<Filed, Lost>> {
        let mut inbox = self.lock();
        self.file(&mut inbox);
        if let Some(done) = inbox.take(tag) {
            return Poll::Ready(Ok(done));
        }
        if let Some(lost) = inbox.over {
            return Poll::Ready(Err(lost));
        }
        self.register(&mut inbox, tag, context.waker());
        Poll::Pending
    }

    /// Has this ticket's task come back, or nothing will? Else the waker is called once that is so.
    fn is_done(&self, tag: usize, waker: &Waker) -> bool {
        let mut inbox = self.lock();
        self.file(&mut inbox);
        let is_waiting = inbox.slots.get(tag).is_some_and(|slot| matches!(slot.state, State::Waiting(_)));
        let is_done = !is_waiting || inbox.over.is_some();
        if !is_done {
            self.register(&mut inbox, tag, waker);
        }
        is_done
    }

    fn register(&self, inbox: &mut Inbox, tag: usize, waker: &Waker) {
        if let Some(Slot { state: State::Waiting(wakers), .. }) = inbox.slots.get_mut(tag)
            && !wakers.iter().any(|w| w.will_wake(waker))
        {
            wakers.push(waker.clone());
            inbox.futures += 1;
        }
        self.call_helper(inbox);
    }

    /// Waits in the place of futures.
    fn help(&self) {
        let mut inbox = self.lock();
        while !inbox.is_closed && inbox.over.is_none() {
            if !inbox.for_room.is_empty() {
                let has_room = |(_, len): &(Waker, usize)| self.may_have_room(*len);
                let may_look = self.file(&mut inbox)
                    || inbox.for_room.iter().any(|(_, len)| self.has_reserved_all(&inbox, *len).is_err())
                    || inbox.for_room.iter().any(has_room);
                if may_look {
                    // All: who can't have it comes again.
                    let Inbox { for_room, woken, .. } = &mut *inbox;
                    woken.extend(for_room.drain(..).map(|(waker, _)| waker));
                    drop(inbox);
                    inbox = self.lock();
                    continue;
                }
                if self.has_enough() {
                    // There may be room in the segment, but none for more of what this program has under way.
                    inbox = self.sleep(inbox, None);
                    continue;
                }
                let least = inbox.for_room.iter().map(|(_, len)| *len).min().unwrap_or(0);
                drop(inbox);
                self.endpoint.wait_for_room(least);
                inbox = self.lock();
            } else if inbox.futures == 0 {
                inbox.has_idle_helper = true;
                inbox = self.released(inbox, |guard| self.called.wait(guard).unwrap_or_else(PoisonError::into_inner));
                inbox.has_idle_helper = false;
            } else if inbox.has_leader || !self.file(&mut inbox) {
                inbox = self.sleep(inbox, None);
            }
        }
    }
}

impl Inbox {
    /// Nothing will come any more: futures are to look. Of several reasons the first stands.
    fn end(&mut self, why: Lost) {
        self.over.get_or_insert(why);
        self.futures = 0;
        let Inbox { slots, for_room, woken, .. } = self;
        woken.extend(for_room.drain(..).map(|(waker, _)| waker));
        for (_, slot) in slots {
            if let State::Waiting(wakers) = &mut slot.state {
                woken.append(wakers);
            }
        }
    }

    /// Is there a waker to be called or dropped once the lock is released?
    fn owes_wakes(&self) -> bool {
        !self.woken.is_empty() || !self.dropped.is_empty()
    }

    /// Does anybody wait beside the thread that looks?
    fn has_company(&self) -> bool {
        self.has_leader || self.waiting > 0 || self.futures > 0 || !self.for_room.is_empty()
    }

    /// The tag of the next submission.
    fn next_tag(&self, bond: &Bond) -> u64 {
        match bond {
            Bond::Group(member) => member.tag(),
            Bond::None | Bond::Key(_) => self.slots.vacant_key() as u64,
        }
    }

    /// The submission of [`next_tag`](Self::next_tag) is this task.
    #[inline]
    fn enter(&mut self, bond: Bond, task: TaskId, handles: usize) {
        match bond {
            Bond::Group(Member { group, .. }) => self.groups[group].under_way += 1,
            bond => drop(self.slots.insert(Slot { handles, bond, task, state: State::Waiting(Vec::new()) })),
        }
    }

    /// So many of this group are not under way any more.
    fn have_come_back(&mut self, group: usize, n: usize) {
        let Group { under_way, is_closed, .. } = &mut self.groups[group];
        // Damage can bring back more than there were.
        *under_way = under_way.saturating_sub(n);
        if *is_closed && *under_way == 0 {
            self.groups.remove(group);
        }
    }

    fn close_group(&mut self, group: usize) {
        for tag in std::mem::take(&mut self.groups[group].filed) {
            self.forget(tag);
        }
        self.groups[group].is_closed = true;
        self.have_come_back(group, 0);
    }

    /// A handle's result isn't wanted any more.
    fn forget(&mut self, tag: usize) {
        let Some(slot) = self.slots.get_mut(tag) else { return };
        slot.handles -= 1;
        if slot.handles > 0 {
            return;
        }
        if let State::Waiting(wakers) = &mut slot.state {
            self.futures -= wakers.len();
            self.dropped.append(wakers);
        } else {
            slot.handles = 1;
            drop(self.take(tag));
        }
    }

    /// Makes room: lets a result of a former life go that nobody has asked for, and by a key nobody can. False: there is none.
    fn let_unasked_go(&mut self) -> bool {
        let slots = &self.slots;
        let is_one = |slot: &Slot| matches!(slot.state, State::Done(_)) && slot.key().is_none();
        let Some(&tag) = self.adopted.iter().find(|&&tag| slots.get(tag).is_some_and(is_one)) else { return false };
        if !std::mem::replace(&mut self.has_let_unasked_go, true) {
            tracing::warn!(
                "there is no room: results of former lives are let go, which nobody has asked for (Pool::adopted gives them)"
            );
        }
        self.adopted.remove(&tag);
        self.forget(tag);
        true
    }

    /// For one handle, which it uses up.
    fn take(&mut self, tag: usize) -> Option<Filed> {
        let slot = self.slots.get_mut(tag)?;
        let State::Done(done) = &slot.state else { return None };
        slot.handles -= 1;
        if slot.handles > 0 {
            let done = match std::mem::replace(&mut slot.state, State::Waiting(Vec::new())) {
                State::Done(Filed::One(done)) => Arc::from(done),
                State::Done(Filed::Shared(done)) => done,
                State::Waiting(_) => unreachable!("it was done"),
            };
            slot.state = State::Done(Filed::Shared(done.clone()));
            return Some(Filed::Shared(done));
        }
        self.private -= done.output.private();
        // Mostly the oldest; the others are passed over when it is their turn.
        if matches!(done.output, Output::InPlace(_)) && self.in_place.front() == Some(&tag) {
            self.in_place.pop_front();
        }
        match self.slots.remove(tag).state {
            State::Done(done) => Some(done),
            State::Waiting(_) => unreachable!("it was done"),
        }
    }

    /// The first of this group that was filed, with its note.
    fn take_any(&mut self, group: usize) -> Option<(usize, Filed)> {
        let tag = self.groups[group].filed.pop_front()?;
        let note = self.slots.get(tag).and_then(Slot::member)?.note;
        Some((note, self.take(tag)?))
    }

    fn remember(&mut self, key: Arc<str>, tag: usize) {
        // Those whose task is over are found out here, each once in a while: the map grows to twice what is under way.
        if self.keys.len() == self.keys.capacity() {
            let slots = &self.slots;
            self.keys.retain(|key, &mut tag| slots.get(tag).is_some_and(|slot| slot.key() == Some(key)));
        }
        self.keys.insert(key, tag);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        exec::{
            endpoint::To,
            tests::{Pool, claim, fill, outcome},
        },
        lockfree::word::{LAP_MASK, Phase, Slot as LaneSlot},
        mem::layout::{Geometry, classes},
    };
    use std::sync::OnceLock;

    const TASK: Submission = Submission::new(To::Queue(0));

    fn client(pool: &Pool) -> Client {
        Client::new(Arc::new(pool.endpoint()), Home::here().unwrap(), false)
    }

    impl Client {
        fn reserve(&self, len: usize, may_wait: bool) -> Result<Shelved, PoolError> {
            let mut reserved = None;
            self.reserve_into(len, may_wait, |shelved| reserved = Some(shelved))?;
            Ok(reserved.expect("it was given"))
        }
    }

    /// Runs a future on this thread.
    fn block_on<T>(future: impl Future<Output = T>) -> T {
        struct Unpark(std::thread::Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Arc::new(Unpark(std::thread::current())).into();
        let mut future = std::pin::pin!(future);
        loop {
            if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return value;
            }
            std::thread::park();
        }
    }

    async fn submit(client: &Client, payload: &[u8]) -> (usize, TaskId) {
        loop {
            match client.try_submit(&TASK, payload) {
                Ok(ticket) => return ticket,
                Err(PoolError::Submit(e)) if e.is_want_of_room() => {}
                Err(e) => panic!("{e}"),
            }
            let mut is_first = true;
            let room = |context: &mut Context<'_>| match std::mem::take(&mut is_first) {
                true => client.poll_room(payload.len(), context),
                false => Poll::Ready(()),
            };
            std::future::poll_fn(room).await;
        }
    }

    #[test]
    fn a_future_waits_for_room_and_for_its_result() {
        let pool = Pool::new(1);
        let (client, other, worker) = (client(&pool), pool.endpoint(), pool.endpoint());
        let all = fill(&other);
        std::thread::scope(|s| {
            let waiting = s.spawn(|| {
                block_on(async {
                    for (tag, task) in [submit(&client, b"").await, submit(&client, b"").await] {
                        let done = std::future::poll_fn(|context| client.poll(tag, task, context)).await.unwrap();
                        assert_eq!(done.outcome, Outcome::Completed);
                    }
                });
            });
            for _ in 0..all {
                drop(claim(&worker));
                assert_eq!(outcome(&other), Outcome::Completed);
            }
            while !waiting.is_finished() {
                match worker.claim(worker.queue(0)).unwrap() {
                    Some(claimed) => drop(claimed),
                    None => std::thread::yield_now(),
                }
            }
            waiting.join().unwrap();
        });
        drop(client);
        pool.assert_clean();
    }

    #[test]
    fn a_future_that_waits_for_a_block_sleeps_until_one_is_free() {
        let pool = Pool::of(Geometry { classes: classes([1, 0, 0, 0, 0, 0, 0, 0]), ..Geometry::new(4, 1) });
        let (client, other) = (client(&pool), pool.endpoint());
        let only = other.draft(1000).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| block_on(submit(&client, &[1; 1000])));
            while pool.segment.table().idle.iter().all(|mask| mask.load(Relaxed) == 0) {
                std::thread::yield_now();
            }
            drop(only);
            let (tag, _) = waiting.join().unwrap();
            client.forget(tag);
        });
    }

    #[test]
    fn a_future_of_a_program_that_has_enough_under_way_sleeps_until_that_is_less() {
        let pool = Pool::of(Geometry { descriptors: 8, ..Geometry::new(4, 1) });
        let (client, worker) = (client(&pool), pool.endpoint());
        for _ in 0..6 {
            let (tag, _) = client.try_submit(&TASK, b"").unwrap();
            client.forget(tag);
        }
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| block_on(submit(&client, b"")));
            // What waits for it sleeps for results, and not for room, which there is.
            while !client.shared.lock().has_leader {
                std::thread::yield_now();
            }
            assert!(pool.endpoint().may_have_room(0));
            drop(claim(&worker));
            let (tag, _) = waiting.join().unwrap();
            client.forget(tag);
        });
    }

    #[test]
    fn who_has_reserved_all_that_may_be_under_way_is_told_and_waits_for_nothing() {
        let pool = Pool::of(Geometry { descriptors: 8, ..Geometry::new(4, 1) });
        let (client, worker) = (client(&pool), pool.endpoint());
        let mut reserved: Vec<_> = (0..6).map(|_| client.reserve(0, true).unwrap()).collect();
        let told = PoolError::Submit(SubmitError::Reserved(6));
        assert_eq!(client.reserve(0, true).err().as_ref(), Some(&told));
        assert_eq!(client.send(&TASK, b"").err().as_ref(), Some(&told));
        assert_eq!(client.try_submit(&TASK, b"").err().as_ref(), Some(&told));
        // With one that is under way there is something to wait for.
        let (tag, _) = client.submit_reserved(&TASK, reserved.pop().unwrap()).unwrap();
        let full = PoolError::Submit(SubmitError::Full(6));
        assert_eq!(client.reserve(0, false).err().as_ref(), Some(&full));
        assert_eq!(client.try_submit(&TASK, b"").err().as_ref(), Some(&full));
        assert_eq!(client.submit_keyed(&TASK, "key", 0, false, |_| {}).err().as_ref(), Some(&full));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| client.reserve(0, true));
            while !client.shared.lock().has_leader {
                std::thread::yield_now();
            }
            drop(claim(&worker));
            reserved.push(waiting.join().unwrap().unwrap());
        });
        client.forget(tag);
        // And what another thread gives back is room.
        let (tag, _) = client.submit_reserved(&TASK, reserved.pop().unwrap()).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| client.reserve(0, true));
            while !client.shared.lock().has_leader {
                std::thread::yield_now();
            }
            client.give_back(reserved.pop().unwrap());
            reserved.push(waiting.join().unwrap().unwrap());
        });
        client.forget(tag);
        reserved.into_iter().for_each(|draft| client.give_back(draft));
        drop(claim(&worker));
        client.tidy();
        drop(client);
        pool.assert_clean();
    }

    #[test]
    fn who_has_reserved_every_block_is_told_unless_others_may_make_room() {
        let classes = classes([2, 0, 0, 0, 0, 0, 0, 0]);
        let pool = Pool::of(Geometry { descriptors: 256, classes, ..Geometry::new(4, 1) });
        let (client, other) = (client(&pool), pool.endpoint());
        let first = client.reserve(1000, true).unwrap();
        let theirs = other.draft(1000).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| client.reserve(1000, true));
            while pool.segment.table().idle.iter().all(|mask| mask.load(Relaxed) == 0) {
                std::thread::yield_now();
            }
            drop(theirs);
            let second = waiting.join().unwrap().unwrap();
            let told = PoolError::Submit(SubmitError::Reserved(2));
            assert_eq!(client.reserve(1000, true).err(), Some(told.clone()));
            assert_eq!(client.send(&TASK, &[0; 1000]).err(), Some(told));
            client.give_back(second);
        });
        client.give_back(first);
        drop(client);
        pool.assert_clean();
    }

    #[test]
    fn whose_buffers_and_results_take_every_block_is_told_whatever_descriptors_others_keep() {
        let classes = classes([2, 0, 0, 0, 0, 0, 0, 0]);
        let pool = Pool::of(Geometry { descriptors: 256, classes, ..Geometry::new(4, 1) });
        let (client, worker, other) = (client(&pool), pool.endpoint(), pool.endpoint());
        let kept = other.draft(0).unwrap();
        let first = client.reserve(1000, true).unwrap();
        let (tag, task) = client.try_submit(&TASK, b"").unwrap();
        assert!(claim(&worker).complete(0, 1000, |_| {}).is_ok());
        let result = client.wait(tag, task, None).unwrap();
        let told = |n| Some(PoolError::Submit(SubmitError::Reserved(n)));
        assert_eq!(client.reserve(1000, true).err(), told(1));
        assert_eq!(client.try_submit(&TASK, &[0; 1000]).err(), told(1));
        drop(result);
        let second = client.reserve(1000, true).unwrap();
        assert_eq!(client.send(&TASK, &[0; 1000]).err(), told(2));
        // What fits into a descriptor needs no block.
        client.give_back(client.reserve(INLINE, true).unwrap());
        [first, second].into_iter().for_each(|draft| client.give_back(draft));
        drop((kept, client));
        pool.assert_clean();
    }

    #[test]
    fn who_has_no_room_for_what_another_thread_writes_waits() {
        let classes = classes([2, 0, 0, 0, 0, 0, 0, 0]);
        let pool = Pool::of(Geometry { descriptors: 256, classes, ..Geometry::new(4, 1) });
        let (client, worker) = (client(&pool), pool.endpoint());
        let first = client.reserve(1000, true).unwrap();
        let mut refused = None;
        // No other is counted as under way while it writes.
        let (tag, _) = client
            .submit_keyed(&TASK, "key", 1000, true, |_| refused = client.try_submit(&TASK, &[0; 1000]).err())
            .unwrap();
        assert!(matches!(refused, Some(PoolError::Submit(SubmitError::NoSpace(_)))), "{refused:?}");
        client.forget(tag);
        drop(claim(&worker));
        client.tidy();
        client.give_back(first);
        drop(client);
        pool.assert_clean();
    }

    #[test]
    fn once_there_are_no_futures_results_are_taken_at_once_again() {
        let pool = Pool::new(1);
        let (client, worker) = (client(&pool), pool.endpoint());
        let [(first, task), (second, _)] = [(); 2].map(|()| client.try_submit(&TASK, b"").unwrap());
        let future = std::future::poll_fn(|context| client.poll(first, task, context));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| block_on(future));
            while client.shared.lock().futures == 0 {
                std::thread::yield_now();
            }
            assert!(claim(&worker).complete(0, 0, |_| {}).is_ok());
            waiting.join().unwrap().unwrap();
        });
        while client.shared.lock().has_company() {
            std::thread::yield_now();
        }
        assert!(claim(&worker).complete(0, 0, |_| {}).is_ok());
        assert_eq!(client.at_once(second, &mut [], |_| ()), Ok(Some(0)));
        drop(client);
        pool.assert_clean();
    }

    /// Waits for the result of another task as it is called.
    struct Waits {
        client: &'static Client,
        ticket: (usize, TaskId),
        begun: OnceLock<()>,
        came: OnceLock<bool>,
    }

    impl std::task::Wake for Waits {
        fn wake(self: Arc<Self>) {
            self.begun.get_or_init(|| ());
            let until = Instant::now() + Duration::from_secs(10);
            let came = self.client.wait(self.ticket.0, self.ticket.1, Some(until)).unwrap();
            self.came.get_or_init(|| came.is_some());
        }
    }

    #[test]
    fn a_waker_that_waits_for_results_does_not_follow_its_own_thread() {
        let pool = Pool::new(1);
        let (client, worker) = (&*Box::leak(Box::new(client(&pool))), pool.endpoint());
        let [first, ticket, other] = [(); 3].map(|()| client.try_submit(&TASK, b"").unwrap());
        let waits = Arc::new(Waits { client, ticket, begun: OnceLock::new(), came: OnceLock::new() });
        // With the other one, the thread for futures goes on to wait.
        for (tag, task) in [first, other] {
            assert!(client.poll(tag, task, &mut Context::from_waker(&waits.clone().into())).is_pending());
        }
        drop(claim(&worker));
        waits.begun.wait();
        drop(claim(&worker));
        assert!(waits.came.wait());
    }

    #[test]
    fn one_key_is_one_task_and_each_handle_has_its_result() {
        let pool = Pool::new(1);
        let (client, worker) = (client(&pool), pool.endpoint());
        let tickets = [(); 3].map(|()| client.submit_keyed(&TASK, "key", 0, true, |_| {}).unwrap());
        assert!(tickets.iter().all(|ticket| *ticket == tickets[0]));
        let other = client.submit_keyed(&TASK, "another", 0, true, |_| {}).unwrap();
        assert_ne!(other, tickets[0]);
        drop(claim(&worker));
        drop(claim(&worker));
        assert!(worker.claim(worker.queue(0)).unwrap().is_none(), "two keys, two tasks");
        for (tag, task) in tickets.into_iter().chain([other]) {
            assert!(client.wait(tag, task, None).unwrap().is_some());
        }
        // It is over, so this is another one.
        let (tag, task) = client.submit_keyed(&TASK, "key", 0, true, |_| {}).unwrap();
        drop(claim(&worker));
        assert!(client.wait(tag, task, None).unwrap().is_some());
        drop(client);
        pool.assert_clean();
    }

    /// Has the result of this ticket come by now?
    fn has_come(client: &Client, (tag, task): (usize, TaskId)) -> Result<bool, Lost> {
        match client.at_once(tag, &mut [0; INLINE], |_| ())? {
            Some(_) => Ok(true),
            None => client.wait(tag, task, Some(Instant::now())).map(|came| came.is_some()),
        }
    }

    #[test]
    fn nobody_joins_a_task_whose_input_may_not_come_to_be() {
        let pool = Pool::new(1);
        let (client, worker) = (client(&pool), pool.endpoint());
        let mut second = None;
        let first = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            client.submit_keyed(&TASK, "key", 1, true, |_| {
                second = Some(client.submit_keyed(&TASK, "key", 0, true, |_| {}).unwrap());
                std::panic::resume_unwind(Box::new("of what fills it"));
            })
        }));
        assert!(first.is_err());
        drop(claim(&worker));
        assert_eq!(has_come(&client, second.unwrap()), Ok(true));
        assert_eq!(client.outstanding(), 0);
        drop(client);
        pool.assert_clean();
    }

    #[test]
    fn who_has_nothing_under_way_keeps_little_and_nothing_once_room_is_short() {
        let pool = Pool::of(Geometry { descriptors: 32, ..Geometry::new(8, 1) });
        let (worker, other) = (pool.endpoint(), pool.endpoint());
        let clients = [(); 4].map(|()| client(&pool));
        for client in &clients {
            let tickets: Vec<_> = (0..24).map(|_| client.try_submit(&TASK, b"").unwrap()).collect();
            tickets.iter().for_each(|_| drop(claim(&worker)));
            for ticket in tickets {
                assert_eq!(has_come(client, ticket), Ok(true));
            }
            assert!(!client.shared.lock().spares.is_empty(), "it keeps none");
        }
        let mut drafts: Vec<_> = std::iter::from_fn(|| other.draft(0).ok()).collect();
        assert!(drafts.len() >= 16, "{} are left", drafts.len());
        // What a program keeps it uses itself, whatever it was kept for.
        for client in &clients {
            client.try_submit(&TASK, b"").unwrap();
        }
        let last = client(&pool);
        assert!(last.try_submit(&TASK, b"").is_err());
        drop(drafts.pop());
        last.try_submit(&TASK, b"").unwrap();
    }

    #[test]
    fn what_is_kept_follows_what_is_under_way_also_if_nobody_wants_the_results() {
        let pool = Pool::of(Geometry { descriptors: 32, ..Geometry::new(8, 1) });
        let (client, worker) = (client(&pool), pool.endpoint());
        for is_wanted in [true, false] {
            let tickets: Vec<_> = (0..12).map(|_| client.try_submit(&TASK, b"").unwrap()).collect();
            for ticket in &tickets[..6] {
                drop(claim(&worker));
                assert_eq!(has_come(&client, *ticket), Ok(true));
            }
            assert!(client.shared.lock().spares.len() >= 6);
            for ticket in &tickets[6..] {
                drop(claim(&worker));
                match is_wanted {
                    true => assert_eq!(has_come(&client, *ticket), Ok(true)),
                    false => client.forget(ticket.0),
                }
            }
            client.tidy();
            assert!(client.shared.lock().spares.len() <= client.shared.few, "wanted: {is_wanted}");
        }
    }

    #[test]
    fn who_only_submits_makes_room_for_those_who_wait_for_it() {
        let classes = classes([1, 0, 0, 0, 0, 0, 0, 0]);
        let pool = Pool::of(Geometry { descriptors: 256, classes, ..Geometry::new(4, 1) });
        let (client, worker, other) = (client(&pool), pool.endpoint(), pool.endpoint());
        client.try_submit(&TASK, b"").unwrap();
        assert!(claim(&worker).complete(0, 1000, |_| {}).is_ok());
        assert!(other.draft(1000).is_err(), "there is one block");
        // It waits for room.
        let table = pool.segment.table();
        table.idle[table.queues * table.idle_words()].fetch_or(1 << other.name().id(), Relaxed);
        for _ in 1..FILE_EVERY {
            client.try_submit(&TASK, b"").unwrap();
        }
        assert!(other.draft(1000).is_ok());
    }

    #[test]
    fn after_damage_nobody_waits_and_no_ticket_is_given_twice() {
        for damaged_is_first in [true, false] {
            let pool = Pool::new(1);
            let (client, worker) = (client(&pool), pool.endpoint());
            let [damaged, other] = [(); 2].map(|()| client.try_submit(&TASK, b"").unwrap());
            drop(claim(&worker));
            drop(claim(&worker));
            let d = &pool.segment.table().descriptors[usize::from(damaged.1.index)];
            d.output.store(u64::MAX, Relaxed);
            let tickets = if damaged_is_first { [damaged, other] } else { [other, damaged] };
            let came = tickets.map(|ticket| has_come(&client, ticket));
            assert!(matches!(came[usize::from(!damaged_is_first)], Err(Lost::Corrupted(_))), "{came:?}");
            let next = client.try_submit(&TASK, b"").unwrap();
            assert_ne!(next.0, damaged.0, "a handle that forgets its ticket forgets another's");
        }
    }

    #[test]
    fn what_comes_of_a_submission_that_met_damage_is_nobody_elses() {
        let pool = Pool::new(1);
        let (client, worker) = (client(&pool), pool.endpoint());
        let table = pool.segment.table();
        // The first slot of the queue's lane, which none of its history can have left so.
        let sound = table.slots[0].swap(LaneSlot::empty(LAP_MASK).0, Relaxed);
        let refused = client.try_submit(&TASK, b"").err();
        assert!(matches!(refused, Some(PoolError::Submit(SubmitError::Corrupted(_)))), "{refused:?}");
        table.slots[0].store(sound, Relaxed);
        let next = client.try_submit(&TASK, b"").unwrap();
        let is_ready = |i: &u16| table.load(*i).is(Phase::Ready);
        let all: Vec<_> = (0..table.descriptors.len() as u16).filter(is_ready).collect();
        assert_eq!(all.len(), 2, "it is under way");
        for index in all.into_iter().filter(|&index| index != next.1.index) {
            let task = TaskId { index, generation: table.load(index).generation() };
            drop(worker.claim_this(task).unwrap().expect("a task"));
        }
        assert!(matches!(has_come(&client, next), Err(Lost::Corrupted(_))));
    }

    #[test]
    fn what_is_kept_is_no_way_into_a_pool_that_has_ended() {
        let pool = Pool::new(1);
        let (client, worker) = (client(&pool), pool.endpoint());
        let ticket = client.try_submit(&TASK, b"").unwrap();
        drop(claim(&worker));
        assert_eq!(has_come(&client, ticket), Ok(true));
        client.endpoint().orphan();
        let refused = client.try_submit(&TASK, b"").err();
        assert!(matches!(refused, Some(PoolError::Submit(SubmitError::CoordinatorDied(_)))), "{refused:?}");
    }

    /// A group of so many tasks, which have ended.
    fn ended_group(client: &Client, worker: &Endpoint, n: usize) -> usize {
        let group = client.open_group().unwrap();
        for note in 0..n {
            client.submit_in(Member { group, note }, &TASK, b"").unwrap();
            assert!(claim(worker).complete(0, 0, |_| {}).is_ok());
        }
        group
    }

    #[test]
    fn damage_that_one_meets_who_lands_is_told_to_all_who_sleep() {
        let pool = Pool::new(1);
        let (client, worker) = (client(&pool), pool.endpoint());
        let (tag, task) = client.try_submit(&TASK, b"").unwrap();
        // In the place of one who sleeps for all, and hears of nothing but by the news.
        client.shared.lock().has_leader = true;
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let until = Instant::now() + Duration::from_secs(10);
                let came = client.wait(tag, task, Some(until));
                (came.err(), Instant::now() < until)
            });
            while client.shared.lock().waiting == 0 {
                std::thread::yield_now();
            }
            drop(claim(&worker));
            pool.segment.table().descriptors[usize::from(task.index)].output.store(u64::MAX, Relaxed);
            let group = client.open_group().unwrap();
            assert!(client.land(group, 1, &mut Vec::new(), |_, _| Ok(())).is_err());
            let (lost, was_told) = waiting.join().unwrap();
            assert!(matches!(lost, Some(Lost::Corrupted(_))), "{lost:?}");
            assert!(was_told, "it slept until its time was over");
        });
        client.shared.lock().has_leader = false;
    }

    #[test]
    fn who_reads_a_result_that_lands_may_submit_however_small_the_pool_is() {
        let pool = Pool::of(Geometry { descriptors: 4, ..Geometry::new(4, 1) });
        let (client, worker) = (client(&pool), pool.endpoint());
        let all = client.shared.most();
        let group = ended_group(&client, &worker, all);
        let mut landed = 0;
        while landed < all {
            let mut further = None;
            let result = client.land(group, usize::MAX, &mut Vec::new(), |_, _| {
                landed += 1;
                if landed == all {
                    further = Some(client.try_submit(&TASK, b""));
                }
                Ok(())
            });
            assert_eq!(result, Ok(false));
            if let Some(further) = further {
                client.forget(further.unwrap().0);
            }
        }
        drop(claim(&worker));
        client.tidy();
        assert_eq!(client.outstanding(), 0);
        client.close_group(group);
        assert!(client.shared.lock().groups.is_empty());
        drop(client);
        pool.assert_clean();
    }

    #[test]
    fn who_panics_over_a_result_that_lands_leaves_the_others() {
        let pool = Pool::new(1);
        let (client, worker) = (client(&pool), pool.endpoint());
        let group = ended_group(&client, &worker, 3);
        let first = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            client.land(group, 3, &mut Vec::new(), |_, _| std::panic::resume_unwind(Box::new("of what reads it")))
        }));
        assert!(first.is_err());
        assert_eq!(client.outstanding(), 2);
        client.close_group(group);
        client.tidy();
        assert_eq!((client.outstanding(), client.shared.lock().groups.len()), (0, 0));
        drop(client);
        pool.assert_clean();
    }
}
