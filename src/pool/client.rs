//! The submitting side of one participant: what its threads have submitted, and what has come back.
//!
//! # One inbox
//!
//! Finished tasks come through one lane per participant, in the order in which they were finished, while each thread waits
//! for its own. So whoever waits first *leads*: it alone sleeps in the kernel, on behalf of all, and files what comes. The
//! others sleep on a condition variable until theirs was filed, or until nobody leads any more. Futures have a thread that
//! waits for them, started with the first of them that has to wait.
//!
//! Any thread may file what it finds on the way, also what the leader waits for. So whoever files counts that up under the lock;
//! the leader, who has read the count under the lock too, looks at it once more before it sleeps, and is woken.
//!
//! Wakers are code of the caller's, and may come back here: they are called, and dropped, once the lock is released.
//!
//! In a worker nobody leads: a thread that waits there runs other tasks meanwhile ([`super::worker`]), and sleeps before the
//! queues as well as for its result.
//!
//! # Where results lie
//!
//! A small result is copied out as it is filed, which frees its descriptor. One in a block stays where it is, so that it can
//! be read in place; short of room, the blocks are copied out too, up to a budget. So a thread may submit more tasks than the
//! segment has descriptors before it waits for the first.

use super::{
    PoolError,
    aligned::Aligned,
    home::{AnotherProcess, Home},
    worker,
};
use crate::{
    error::Corrupted,
    exec::endpoint::{CoordinatorDied, Draft, Endpoint, FinishedBy, ROOM, Submission, SubmitError},
    lockfree::{
        descriptor::INLINE,
        table::{Cancel, TaskId},
        word::Outcome,
    },
    process::Mode,
};
use slab::Slab;
use std::{
    collections::{HashMap, VecDeque},
    ops::{Deref, DerefMut},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
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
    /// `None` only while it is dropped.
    output: Option<Output>,
    home: Home,
}

/// How a task went, beside its result.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ending {
    pub(super) exit: u64,
    pub(super) attempts: u32,
    pub(super) deaths: u32,
    pub(super) is_poison: bool,
    pub(super) peak_kib: u64,
    pub(super) progress: Option<(u64, u64)>,
    /// Process id and number of the worker.
    pub(super) ran_by: Option<(u32, u32)>,
    pub(super) waited: Duration,
    pub(super) ran: Duration,
}

enum Output {
    Private(Aligned),
    InPlace(FinishedBy<Arc<Endpoint>>),
}

impl Done {
    /// Of a result that lies in the segment, in a fork of its process, which has none: nothing.
    pub(super) fn bytes(&self) -> Result<&[u8], Corrupted> {
        match &self.output {
            Some(Output::Private(bytes)) => Ok(bytes.bytes()),
            Some(Output::InPlace(finished)) if self.home.check().is_ok() => finished.output(),
            Some(Output::InPlace(_)) | None => Ok(&[]),
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if self.home.check().is_err() {
            std::mem::forget(self.output.take());
        }
    }
}

/// One submitted task.
struct Slot {
    /// How many handles want the result; with none it is dropped as it comes.
    handles: usize,
    key: Option<Arc<str>>,
    task: TaskId,
    state: State,
}

impl Slot {
    /// The result, if it lies in a block.
    fn in_place(&mut self) -> Option<&mut Arc<Done>> {
        match &mut self.state {
            State::Done(done) if matches!(done.output, Some(Output::InPlace(_))) => Some(done),
            _ => None,
        }
    }
}

enum State {
    /// These futures have looked.
    Waiting(Vec<Waker>),
    Done(Arc<Done>),
}

#[derive(Default)]
pub(super) struct Inbox {
    slots: Slab<Slot>,
    /// Where the task of a key is, or was: its slot says.
    keys: HashMap<Arc<str>, usize>,
    /// Bytes in private results.
    private: usize,
    /// Of results that lie in the segment still: where they were filed. They may have been taken since.
    in_place: VecDeque<usize>,
    /// Somebody sleeps in the kernel for all.
    has_leader: bool,
    /// How many others sleep.
    waiting: usize,
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

    fn deref(&self) -> &Inbox {
        self.inbox.as_deref().unwrap_or_else(|| unreachable!("it is locked until it is dropped"))
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Inbox {
        self.inbox.as_deref_mut().unwrap_or_else(|| unreachable!("it is locked until it is dropped"))
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let Some(mut inbox) = self.inbox.take() else { return };
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
    endpoint: Arc<Endpoint>,
    home: Home,
    /// Threads of a worker wait for results on the participant's word.
    is_workers: bool,
    inbox: Mutex<Inbox>,
    changed: Condvar,
    /// How often something was filed, or all were told to look. Changed under the lock.
    news: AtomicUsize,
    /// Tasks submitted, less those that have come back.
    outstanding: AtomicUsize,
    /// How many of these are not submitted yet.
    submitting: AtomicUsize,
}

impl Client {
    /// `is_workers`: its threads run tasks while they wait.
    pub(super) fn new(endpoint: Arc<Endpoint>, home: Home, is_workers: bool) -> Client {
        let shared = Shared {
            endpoint,
            is_workers,
            inbox: Mutex::default(),
            changed: Condvar::new(),
            news: AtomicUsize::new(0),
            home,
            outstanding: AtomicUsize::new(0),
            submitting: AtomicUsize::new(0),
        };
        Client { shared: Arc::new(shared), helper: Mutex::default() }
    }

    /// # Errors
    /// This process is a fork of the client's: it must touch neither the segment nor a lock, nor wait for a thread.
    pub(super) fn check_home(&self) -> Result<(), AnotherProcess> {
        self.shared.home.check()
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.shared.endpoint
    }

    /// Tasks submitted, less those that have come back.
    pub(crate) fn outstanding(&self) -> usize {
        self.shared.outstanding.load(SeqCst)
    }

    /// Submits `len` bytes that `fill` writes in place; short of room, makes some or waits for it. Returns the ticket to wait
    /// with, and the task.
    ///
    /// # Errors
    /// [`PoolError`]; for want of room only if results worth more than [`BUDGET`] wait to be taken, or in a worker that
    /// can't run other tasks meanwhile.
    pub(super) fn submit(
        &self,
        s: Submission,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(usize, TaskId), PoolError> {
        self.submit_as(s, None, len, true, fill)
    }

    /// As [`submit`](Self::submit), but does not wait for room.
    pub(super) fn try_submit(&self, s: Submission, payload: &[u8]) -> Result<(usize, TaskId), PoolError> {
        self.submit_as(s, None, payload.len(), false, |place| place.copy_from_slice(payload))
    }

    /// As [`submit`](Self::submit), unless a task with this key is under way: then that one's ticket.
    pub(super) fn submit_keyed(
        &self,
        s: Submission,
        key: &str,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(usize, TaskId), PoolError> {
        self.check_home()?;
        // It needs no room then.
        let joined = self.shared.join(&mut self.shared.lock(), key);
        match joined {
            Some(ticket) => Ok(ticket),
            None => self.submit_as(s, Some(key.into()), len, true, fill),
        }
    }

    fn submit_as(
        &self,
        s: Submission,
        key: Option<Arc<str>>,
        len: usize,
        may_wait: bool,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(usize, TaskId), PoolError> {
        self.check_home()?;
        let shared = &*self.shared;
        // Counted first, and then the mode: who drains reads them the other way round. So what is taken is waited for.
        let mut counted = Counted::new(shared);
        let is_refused = !shared.is_workers && shared.is_draining();
        let mut has_joined = false;
        let submitted = if is_refused {
            Err(PoolError::Draining)
        } else {
            shared.submit(s, key, len, may_wait, fill, &mut has_joined).map_err(|e| {
                match (e, shared.endpoint.why_orphaned()) {
                    (SubmitError::CoordinatorDied(_), Some(why)) => PoolError::Ended(why.to_owned()),
                    _ => e.into(),
                }
            })
        };
        counted.comes_back = submitted.is_ok() && !has_joined;
        submitted
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
    pub(super) fn wait(&self, tag: usize, task: TaskId, until: Option<Instant>) -> Result<Option<Arc<Done>>, Lost> {
        self.wait_for(&[(tag, task)], until, |inbox| inbox.take(tag))
    }

    /// Waits until one of these has come back: which, and how. As [`wait`](Self::wait).
    pub(super) fn wait_any(&self, tickets: &[(usize, TaskId)]) -> Result<(usize, Arc<Done>), Lost> {
        let look =
            |inbox: &mut Inbox| tickets.iter().enumerate().find_map(|(i, &(tag, _))| Some((i, inbox.take(tag)?)));
        self.wait_for(tickets, None, look).map(|found| found.unwrap_or_else(|| unreachable!("there is no time limit")))
    }

    fn wait_for<T>(
        &self,
        own: &[(usize, TaskId)],
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
    pub(super) fn poll(&self, tag: usize, task: TaskId, context: &mut Context<'_>) -> Poll<Result<Arc<Done>, Lost>> {
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
        let has_moved = shared.file(&mut inbox) | shared.move_out(&mut inbox);
        let may_succeed = has_moved || inbox.over.is_some() || shared.may_have_room(len);
        if may_succeed || !self.has_helper() {
            let (waker, _) = inbox.for_room.pop().unzip();
            inbox.dropped.extend(waker);
            return Poll::Ready(());
        }
        shared.tell(&inbox);
        Poll::Pending
    }

    /// Is this a thread of a worker, which runs tasks while it waits?
    pub(super) fn runs_tasks_here(&self) -> bool {
        worker::of(&self.shared.endpoint).is_some()
    }

    /// Starts the thread that waits in the place of futures. False: there can be none.
    fn has_helper(&self) -> bool {
        let mut helper = self.helper.lock().unwrap_or_else(PoisonError::into_inner);
        if helper.is_none() {
            let shared = self.shared.clone();
            *helper = std::thread::Builder::new().name("results".into()).spawn(move || shared.help()).ok();
        }
        helper.is_some()
    }

    /// This handle's result isn't wanted any more.
    pub(super) fn forget(&self, tag: usize) {
        if self.check_home().is_ok() {
            self.shared.lock().forget(tag);
        }
    }

    /// Files what has come back, if anything is outstanding: for a worker between two tasks, whose tasks may have left some
    /// behind.
    pub(super) fn tidy(&self) {
        if self.outstanding() > 0 {
            let mut inbox = self.shared.lock();
            self.shared.file(&mut inbox);
        }
    }

    /// After the end of the pool: is what it leaves in the segment in order?
    ///
    /// # Errors
    /// What is wrong, as a line for people.
    pub(super) fn audit(&self) -> Result<(), String> {
        self.tidy();
        let table = self.endpoint().segment().table();
        // Each result that lies in the segment holds the endpoint. Without one nobody touches the segment any more.
        let is_at_rest = Arc::strong_count(self.endpoint()) == 1 && self.outstanding() == 0;
        let audit = if is_at_rest { table.audit() } else { table.audit_live() };
        let is_in_order = if is_at_rest { audit.is_clean() } else { audit.violations.is_empty() };
        if is_in_order { Ok(()) } else { Err(format!("its shared memory is damaged: {audit}; please report this")) }
    }

    /// Waits until everything that was submitted has come back, or nothing will, or the time is over. True: it has.
    pub(super) fn drain(&self, until: Option<Instant>) -> Result<bool, Lost> {
        let is_over = |_: &mut Inbox| (self.outstanding() == 0).then_some(());
        self.wait_for(&[], until, is_over).map(|over| over.is_some())
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
        self.shared.tell(&inbox);
        drop(inbox);
        // It panics only if a waker of the caller's does; that was said then.
        let _ = self.helper.get_mut().unwrap_or_else(PoisonError::into_inner).take().map(JoinHandle::join);
    }
}

/// A submission, from before it is one until it is, or has come to nothing: also by a panic of what fills it.
struct Counted<'s> {
    shared: &'s Shared,
    comes_back: bool,
}

impl Counted<'_> {
    fn new(shared: &Shared) -> Counted<'_> {
        shared.submitting.fetch_add(1, Relaxed);
        shared.outstanding.fetch_add(1, SeqCst);
        Counted { shared, comes_back: false }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.shared.submitting.fetch_sub(1, Relaxed);
        if !self.comes_back {
            self.shared.outstanding.fetch_sub(1, SeqCst);
            // Who drains waits for that.
            self.shared.tell(&self.shared.lock());
        }
    }
}

impl Shared {
    fn lock(&self) -> Locked<'_> {
        Locked { inbox: Some(self.inbox.lock().unwrap_or_else(PoisonError::into_inner)) }
    }

    fn submit(
        &self,
        s: Submission,
        key: Option<Arc<str>>,
        len: usize,
        may_wait: bool,
        fill: impl FnOnce(&mut [u8]),
        has_joined: &mut bool,
    ) -> Result<(usize, TaskId), SubmitError> {
        // Before the ticket, and under no lock: it may have to wait for room, and a worker runs other tasks meanwhile.
        let mut draft = self.draft(len, may_wait)?;
        fill(draft.payload()?);
        let task = draft.id();
        let mut inbox = self.lock();
        // Before the lane of what has come overflows: that would cost a look at all descriptors.
        if self.outstanding.load(Relaxed).is_multiple_of(FILE_EVERY) {
            self.file(&mut inbox);
        }
        if let Some(key) = &key
            && let Some(ticket) = self.join(&mut inbox, key)
        {
            *has_joined = true;
            return Ok(ticket);
        }
        let state = State::Waiting(Vec::new());
        let tag = inbox.slots.insert(Slot { handles: 1, key: key.clone(), task, state });
        if let Some(key) = key {
            inbox.remember(key, tag);
        }
        drop(inbox);
        match draft.submit(Submission { tag: tag as u64, ..s }) {
            Ok(task) => Ok((tag, task)),
            Err(e) => {
                // It will not come back. Who has joined meanwhile is told of the damage.
                let mut inbox = self.lock();
                if inbox.slots[tag].handles == 1 {
                    inbox.slots.remove(tag);
                }
                Err(e.into())
            }
        }
    }

    /// A ticket of the task with this key, if one is under way.
    fn join(&self, inbox: &mut Inbox, key: &str) -> Option<(usize, TaskId)> {
        self.file(inbox);
        let &tag = inbox.keys.get(key)?;
        let slot = inbox.slots.get_mut(tag)?;
        // Not one that runs in this very worker: it may lie under this one, and then neither would ever end.
        let is_here = self.is_workers && self.endpoint.runs(slot.task);
        let is_under_way = !is_here && slot.key.as_deref() == Some(key) && matches!(slot.state, State::Waiting(_));
        slot.handles += usize::from(is_under_way);
        is_under_way.then_some((tag, slot.task))
    }

    /// Has somebody asked the pool to end?
    fn is_draining(&self) -> bool {
        Mode::of(&self.endpoint.segment().header().control) >= Mode::Draining
    }

    /// Has a program as many tasks under way as it may? It leaves some descriptors for what its tasks submit.
    fn has_enough(&self) -> bool {
        // Relaxed, and two loads: a few more or fewer are no matter.
        let under_way = self.outstanding.load(Relaxed).saturating_sub(self.submitting.load(Relaxed));
        !self.is_workers && under_way >= self.most()
    }

    fn most(&self) -> usize {
        let all = self.endpoint.segment().table().descriptors.len();
        all - all / 4
    }

    fn may_have_room(&self, len: usize) -> bool {
        !self.has_enough() && self.endpoint.may_have_room(len)
    }

    fn draft(&self, len: usize, may_wait: bool) -> Result<Draft<'_>, SubmitError> {
        while self.has_enough() {
            let mut inbox = self.lock();
            if self.file(&mut inbox) {
                continue;
            }
            if inbox.over.is_some() {
                break; // which the draft says
            }
            if !may_wait {
                return Err(SubmitError::Full(self.most()));
            }
            drop(self.sleep(inbox, None));
        }
        let mut looks = 0;
        loop {
            match self.endpoint.sparing_draft(len) {
                Err(e) if e.is_want_of_room() => {
                    let mut inbox = self.lock();
                    // Our own results may be in the way.
                    if self.file(&mut inbox) | self.move_out(&mut inbox) {
                        continue;
                    }
                    let is_full = inbox.private >= BUDGET;
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

    /// Files all that has come. True: something had.
    fn file(&self, inbox: &mut Inbox) -> bool {
        let mut has_come = false;
        // Asked for before the look, so that nothing is missed that was finished before the end.
        let is_orphaned = self.endpoint.is_orphaned();
        let lost = loop {
            match self.endpoint.take_owned() {
                Ok(Some(finished)) => {
                    has_come = true;
                    self.outstanding.fetch_sub(1, SeqCst);
                    if let Err(e) = inbox.put(finished, self.home) {
                        break Some(e.into());
                    }
                }
                Ok(None) => break is_orphaned.then_some(Lost::CoordinatorDied(CoordinatorDied)),
                Err(e) => break Some(e.into()),
            }
        };
        if !inbox.in_place.is_empty() && self.endpoint.is_room_wanted() {
            while self.move_out(inbox) {}
        }
        if let (None, Some(lost)) = (inbox.over, lost) {
            inbox.over = Some(lost);
            has_come = true;
            inbox.futures = 0;
            let Inbox { slots, for_room, woken, .. } = inbox;
            woken.extend(for_room.drain(..).map(|(waker, _)| waker));
            for (_, slot) in slots {
                if let State::Waiting(wakers) = &mut slot.state {
                    woken.append(wakers);
                }
            }
        }
        if has_come {
            self.tell(inbox);
        }
        has_come
    }

    /// Has all who wait look again, however they sleep.
    fn tell(&self, inbox: &Inbox) {
        // Relaxed: the wake below publishes it to who prepares to sleep after that; who has prepared before does not sleep.
        self.news.fetch_add(1, Relaxed);
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
        for _ in 0..inbox.in_place.len() {
            if inbox.private >= BUDGET {
                return false;
            }
            let Some(tag) = inbox.in_place.pop_front() else { return false };
            let Some(Slot { state: State::Done(done), .. }) = inbox.slots.get_mut(tag) else { continue };
            let Some(Output::InPlace(finished)) = &done.output else { continue };
            let Ok(bytes) = finished.output() else { continue };
            let (len, bytes) = (bytes.len(), Aligned::from(bytes));
            match Arc::get_mut(done) {
                Some(done) => {
                    done.output = Some(Output::Private(bytes));
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
        if inbox.in_place.is_empty() { at_most } else { Some(at_most.map_or(ROOM, |t| t.min(ROOM))) }
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
    fn sleep<'s>(&'s self, mut inbox: Locked<'s>, at_most: Option<Duration>) -> Locked<'s> {
        if inbox.has_leader {
            return self.follow(inbox, at_most);
        }
        inbox.has_leader = true;
        let at_most = self.nap(&inbox, at_most);
        let seen = self.news.load(Relaxed); // [`tell`](Self::tell)
        drop(inbox);
        self.endpoint.rest(at_most, || self.news.load(Relaxed) != seen);
        inbox = self.lock();
        inbox.has_leader = false;
        // Somebody else may have to lead: this one files what has come, and goes if its own is there.
        self.file(&mut inbox);
        if inbox.waiting > 0 {
            self.changed.notify_all();
        }
        inbox
    }

    /// Sleeps until somebody tells.
    fn follow<'s>(&'s self, mut inbox: Locked<'s>, at_most: Option<Duration>) -> Locked<'s> {
        if !inbox.woken.is_empty() || !inbox.dropped.is_empty() {
            drop(inbox);
            return self.lock();
        }
        inbox.waiting += 1;
        let Some(guard) = inbox.inbox.take() else { unreachable!("it is locked until it is dropped") };
        let guard = match at_most {
            Some(t) => self.changed.wait_timeout(guard, t).unwrap_or_else(PoisonError::into_inner).0,
            None => self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner),
        };
        let mut inbox = Locked { inbox: Some(guard) };
        inbox.waiting -= 1;
        inbox
    }

    /// As [`wait`](Self::wait), on a thread of a worker: it runs what it waits for, if nobody does yet, or anything else.
    fn wait_in_worker<T>(
        &self,
        worker: &worker::Current,
        own: &[(usize, TaskId)],
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
            if worker.run_one_of(own.iter().map(|&(_, task)| task))? || worker.run_another()? {
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

    fn poll(&self, tag: usize, context: &mut Context<'_>) -> Poll<Result<Arc<Done>, Lost>> {
        let mut inbox = self.lock();
        self.file(&mut inbox);
        if let Some(done) = inbox.take(tag) {
            return Poll::Ready(Ok(done));
        }
        if let Some(lost) = inbox.over {
            return Poll::Ready(Err(lost));
        }
        if let Some(Slot { state: State::Waiting(wakers), .. }) = inbox.slots.get_mut(tag)
            && !wakers.iter().any(|w| w.will_wake(context.waker()))
        {
            wakers.push(context.waker().clone());
            inbox.futures += 1;
        }
        if inbox.waiting > 0 {
            self.changed.notify_all();
        }
        Poll::Pending
    }

    /// Waits in the place of futures.
    fn help(&self) {
        let mut inbox = self.lock();
        while !inbox.is_closed && inbox.over.is_none() {
            if !inbox.for_room.is_empty() {
                let has_room = |(_, len): &(Waker, usize)| self.may_have_room(*len);
                if self.file(&mut inbox) || inbox.for_room.iter().any(has_room) {
                    // All: who can't have it comes again.
                    let Inbox { for_room, woken, .. } = &mut *inbox;
                    woken.extend(for_room.drain(..).map(|(waker, _)| waker));
                    drop(inbox);
                    inbox = self.lock();
                    continue;
                }
                let least = inbox.for_room.iter().map(|(_, len)| *len).min().unwrap_or(0);
                drop(inbox);
                self.endpoint.wait_for_room(least);
                inbox = self.lock();
            } else if inbox.futures == 0 {
                inbox = self.follow(inbox, None);
            } else if inbox.has_leader || !self.file(&mut inbox) {
                inbox = self.sleep(inbox, None);
            }
        }
    }
}

impl Inbox {
    fn put(&mut self, finished: FinishedBy<Arc<Endpoint>>, home: Home) -> Result<(), Corrupted> {
        let tag = finished.tag() as usize;
        let Some(slot) = self.slots.get_mut(tag) else {
            return Err(Corrupted::new("ticket of a finished task", tag, finished.status().into()));
        };
        if slot.handles == 0 {
            self.slots.remove(tag);
            return Ok(());
        }
        let ending = Ending {
            exit: finished.exit(),
            attempts: finished.attempts(),
            deaths: finished.deaths(),
            is_poison: finished.is_poison(),
            peak_kib: finished.peak_kib().unwrap_or(0),
            progress: finished.progress(),
            ran_by: finished.ran_by(),
            waited: finished.waited(),
            ran: finished.ran(),
        };
        let (outcome, status) = (finished.outcome(), finished.status());
        let bytes = finished.output()?;
        let output = if bytes.len() <= INLINE {
            self.private += bytes.len();
            Output::Private(bytes.into())
        } else {
            Output::InPlace(finished)
        };
        let is_in_place = matches!(output, Output::InPlace(_));
        let done = State::Done(Arc::new(Done { outcome, status, ending, output: Some(output), home }));
        if let State::Waiting(mut wakers) = std::mem::replace(&mut slot.state, done) {
            self.futures -= wakers.len();
            self.woken.append(&mut wakers);
        }
        if is_in_place {
            // Those that were taken are found out here, each once in a while.
            if self.in_place.len() == self.in_place.capacity() {
                let slots = &mut self.slots;
                self.in_place.retain(|&tag| slots.get_mut(tag).and_then(Slot::in_place).is_some());
            }
            self.in_place.push_back(tag);
        }
        Ok(())
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

    /// For one handle, which it uses up.
    fn take(&mut self, tag: usize) -> Option<Arc<Done>> {
        let slot = self.slots.get_mut(tag)?;
        let State::Done(done) = &slot.state else { return None };
        let done = done.clone();
        slot.handles -= 1;
        if slot.handles == 0 {
            self.slots.remove(tag);
            match &done.output {
                Some(Output::Private(bytes)) => self.private -= bytes.bytes().len(),
                // Mostly the oldest; the others are passed over when it is their turn.
                Some(Output::InPlace(_)) if self.in_place.front() == Some(&tag) => drop(self.in_place.pop_front()),
                Some(Output::InPlace(_)) | None => {}
            }
        }
        Some(done)
    }

    fn remember(&mut self, key: Arc<str>, tag: usize) {
        // Those whose task is over are found out here, each once in a while: the map grows to twice what is under way.
        if self.keys.len() == self.keys.capacity() {
            let slots = &self.slots;
            self.keys.retain(|key, &mut tag| slots.get(tag).is_some_and(|slot| slot.key.as_ref() == Some(key)));
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
        lockfree::word::Outcome,
        mem::layout::{Geometry, classes},
    };

    const TASK: Submission = Submission::new(To::Queue(0));

    fn client(pool: &Pool) -> Client {
        Client::new(Arc::new(pool.endpoint()), Home::here().unwrap(), false)
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
            match client.try_submit(TASK, payload) {
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
    fn one_key_is_one_task_and_each_handle_has_its_result() {
        let pool = Pool::new(1);
        let (client, worker) = (client(&pool), pool.endpoint());
        let tickets = [(); 3].map(|()| client.submit_keyed(TASK, "key", 0, |_| {}).unwrap());
        assert!(tickets.iter().all(|ticket| *ticket == tickets[0]));
        let other = client.submit_keyed(TASK, "another", 0, |_| {}).unwrap();
        assert_ne!(other, tickets[0]);
        drop(claim(&worker));
        drop(claim(&worker));
        assert!(worker.claim(worker.queue(0)).unwrap().is_none(), "two keys, two tasks");
        for (tag, task) in tickets.into_iter().chain([other]) {
            assert!(client.wait(tag, task, None).unwrap().is_some());
        }
        // It is over, so this is another one.
        let (tag, task) = client.submit_keyed(TASK, "key", 0, |_| {}).unwrap();
        drop(claim(&worker));
        assert!(client.wait(tag, task, None).unwrap().is_some());
        drop(client);
        pool.assert_clean();
    }
}
