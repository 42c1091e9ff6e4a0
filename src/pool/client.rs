//! The submitting side of one participant: what its threads have submitted, and what has come back.
//!
//! # One inbox
//!
//! Finished tasks come through one lane per participant, in the order in which they were finished, while each thread waits
//! for its own. So whoever waits first *leads*: it alone sleeps in the kernel, on behalf of all, and files what comes. The
//! others sleep on a condition variable until theirs was filed, or until nobody leads any more. Futures have a thread that
//! waits for them, started with the first of them that has to wait.
//!
//! # Where results lie
//!
//! A small result is copied out as it is filed, which frees its descriptor. One in a block stays where it is, so that it can
//! be read in place; short of room, the blocks are copied out too, up to a budget. So a thread may submit more tasks than the
//! segment has descriptors before it waits for the first.

use super::home::{AnotherProcess, Home};
use crate::{
    error::Corrupted,
    exec::endpoint::{CoordinatorDied, Endpoint, FinishedBy, Submission, SubmitError},
    lockfree::{descriptor::INLINE, participant::Name, table::TaskId, word::Outcome},
};
use slab::Slab;
use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Bytes of results that a process keeps outside the segment for those who have not asked for them yet.
pub(crate) const BUDGET: usize = 1 << 30;

/// What is behind a finished task.
pub(crate) struct Done {
    pub(crate) outcome: Outcome,
    pub(crate) status: u32,
    pub(crate) exit: u64,
    pub(crate) claimant: Option<Name>,
    pub(crate) output: Output,
}

/// The bytes of a result.
pub(crate) enum Output {
    Private(Vec<u8>),
    InPlace(FinishedBy<Arc<Endpoint>>),
}

impl Output {
    pub(crate) fn bytes(&self) -> Result<&[u8], Corrupted> {
        match self {
            Output::Private(bytes) => Ok(bytes),
            Output::InPlace(finished) => finished.output(),
        }
    }
}

enum Slot {
    /// Its future, if one has looked.
    Waiting(Option<Waker>),
    Done(Box<Done>),
    /// Nobody wants it.
    Forgotten,
}

#[derive(Default)]
struct Inbox {
    slots: Slab<Slot>,
    /// Bytes in private results.
    private: usize,
    /// Somebody sleeps in the kernel.
    has_leader: bool,
    /// How many sleep on the condition variable.
    waiting: usize,
    /// How many futures wait.
    futures: usize,
    is_closed: bool,
    /// Tasks submitted, less those that have come back.
    outstanding: usize,
    over: Option<Lost>,
}

/// Why nothing will come any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Lost {
    #[error(transparent)]
    CoordinatorDied(#[from] CoordinatorDied),
    #[error(transparent)]
    Corrupted(#[from] Corrupted),
    #[error(transparent)]
    AnotherProcess(#[from] AnotherProcess),
}

/// See the module.
pub(crate) struct Client {
    home: Home,
    shared: Arc<Shared>,
    /// The thread for futures.
    helper: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    endpoint: Arc<Endpoint>,
    inbox: Mutex<Inbox>,
    changed: Condvar,
}

impl Client {
    pub(crate) fn new(endpoint: Arc<Endpoint>, home: Home) -> Client {
        let shared = Shared { endpoint, inbox: Mutex::default(), changed: Condvar::new() };
        Client { home, shared: Arc::new(shared), helper: Mutex::default() }
    }

    /// # Errors
    /// This process is a fork of the client's: it must touch neither the segment nor a lock, nor wait for a thread.
    pub(crate) fn check_home(&self) -> Result<(), AnotherProcess> {
        self.home.check()
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.shared.endpoint
    }

    /// Submits, sleeping while there is no room. Returns the ticket to wait with, and the task.
    ///
    /// # Errors
    /// [`SubmitError`]; for want of room only if results worth more than [`BUDGET`] wait to be taken.
    pub(crate) fn submit(&self, s: Submission, payload: &[u8]) -> Result<(usize, TaskId), SubmitError> {
        self.shared.submit(s, payload)
    }

    /// Waits until the task of this ticket has come back, or nothing will, or the time is over (`None`).
    pub(crate) fn wait(&self, tag: usize, until: Option<Instant>) -> Result<Option<Box<Done>>, Lost> {
        self.check_home()?;
        self.shared.wait(tag, until)
    }

    /// As [`wait`](Self::wait), for a future.
    pub(crate) fn poll(&self, tag: usize, context: &mut Context<'_>) -> Poll<Result<Box<Done>, Lost>> {
        self.check_home()?;
        if let found @ Poll::Ready(_) = self.shared.poll(tag, context) {
            return found;
        }
        let mut helper = self.helper.lock().unwrap_or_else(PoisonError::into_inner);
        if helper.is_none() {
            let shared = self.shared.clone();
            match std::thread::Builder::new().name("results".into()).spawn(move || shared.help()) {
                Ok(thread) => *helper = Some(thread),
                // Then this thread waits itself.
                Err(_) => {
                    return Poll::Ready(
                        self.shared
                            .wait(tag, None)
                            .map(|done| done.unwrap_or_else(|| unreachable!("there is no time limit"))),
                    );
                }
            }
        }
        Poll::Pending
    }

    /// The result isn't wanted any more.
    pub(crate) fn forget(&self, tag: usize) {
        if self.check_home().is_err() {
            return;
        }
        let mut inbox = self.shared.lock();
        match inbox.slots.get_mut(tag) {
            Some(Slot::Done(_)) => drop(inbox.take(tag)),
            Some(slot) => {
                if let Slot::Waiting(Some(_)) = std::mem::replace(slot, Slot::Forgotten) {
                    inbox.futures -= 1;
                }
            }
            None => {}
        }
    }

    /// Waits until everything that was submitted has come back, or nothing will.
    pub(crate) fn drain(&self) -> Result<(), Lost> {
        self.check_home()?;
        self.shared.drain()
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
        self.shared.lock().is_closed = true;
        self.shared.changed.notify_all();
        self.shared.endpoint.wake_self();
        // It panics only if a waker of the caller's does; that was said then.
        let _ = self.helper.get_mut().unwrap_or_else(PoisonError::into_inner).take().map(JoinHandle::join);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(&self, s: Submission, payload: &[u8]) -> Result<(usize, TaskId), SubmitError> {
        let tag = {
            let mut inbox = self.lock();
            inbox.outstanding += 1;
            inbox.slots.insert(Slot::Waiting(None))
        };
        let s = Submission { tag: tag as u64, ..s };
        let submitted = loop {
            match self.endpoint.submit(s, payload, || false) {
                // Our own results are in the way.
                Err(e) if e.is_want_of_room() => {
                    let mut inbox = self.lock();
                    let has_moved = self.file(&mut inbox) | self.move_out(&mut inbox);
                    if !has_moved && inbox.private >= BUDGET {
                        break Err(e);
                    }
                }
                other => break other,
            }
        };
        match submitted {
            Ok(Some(task)) => Ok((tag, task)),
            Ok(None) => unreachable!("it was not asked to stop"),
            Err(e) => {
                let mut inbox = self.lock();
                inbox.slots.remove(tag);
                inbox.outstanding -= 1;
                Err(e)
            }
        }
    }

    /// Files all that has come. True: something had.
    fn file(&self, inbox: &mut Inbox) -> bool {
        let mut has_come = false;
        let lost = loop {
            match self.endpoint.take_owned() {
                Ok(Some(finished)) => {
                    has_come = true;
                    if let Err(e) = inbox.put(finished) {
                        break Some(e.into());
                    }
                }
                Ok(None) => break self.endpoint.is_orphaned().then_some(Lost::CoordinatorDied(CoordinatorDied)),
                Err(e) => break Some(e.into()),
            }
        };
        if let (None, Some(lost)) = (inbox.over, lost) {
            inbox.over = Some(lost);
            has_come = true;
            inbox.futures = 0;
            for (_, slot) in &mut inbox.slots {
                if let Slot::Waiting(waker) = slot {
                    waker.take().into_iter().for_each(Waker::wake);
                }
            }
        }
        if has_come && inbox.waiting > 0 {
            self.changed.notify_all();
        }
        has_come
    }

    /// Makes room: copies results out of the segment that lie there still.
    fn move_out(&self, inbox: &mut Inbox) -> bool {
        let mut has_moved = false;
        let mut private = inbox.private;
        for (_, slot) in &mut inbox.slots {
            if private >= BUDGET {
                break;
            }
            if let Slot::Done(done) = slot
                && let Output::InPlace(finished) = &done.output
                && let Ok(bytes) = finished.output()
            {
                private += bytes.len();
                done.output = Output::Private(bytes.to_vec());
                has_moved = true;
            }
        }
        inbox.private = private;
        has_moved
    }

    fn wait(&self, tag: usize, until: Option<Instant>) -> Result<Option<Box<Done>>, Lost> {
        let mut inbox = self.lock();
        loop {
            // Asked for before the look, so that nothing is missed that was finished before the end.
            if let Some(done) = inbox.take(tag) {
                return Ok(Some(done));
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
    fn sleep<'s>(&'s self, mut inbox: MutexGuard<'s, Inbox>, at_most: Option<Duration>) -> MutexGuard<'s, Inbox> {
        if inbox.has_leader {
            inbox.waiting += 1;
            inbox = match at_most {
                Some(t) => self.changed.wait_timeout(inbox, t).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(inbox).unwrap_or_else(PoisonError::into_inner),
            };
            inbox.waiting -= 1;
            return inbox;
        }
        inbox.has_leader = true;
        drop(inbox);
        self.endpoint.rest(at_most);
        inbox = self.lock();
        inbox.has_leader = false;
        // Somebody else may have to lead: this one files what has come, and goes if its own is there.
        self.file(&mut inbox);
        if inbox.waiting > 0 {
            self.changed.notify_all();
        }
        inbox
    }

    fn poll(&self, tag: usize, context: &mut Context<'_>) -> Poll<Result<Box<Done>, Lost>> {
        let mut inbox = self.lock();
        self.file(&mut inbox);
        if let Some(done) = inbox.take(tag) {
            return Poll::Ready(Ok(done));
        }
        if let Some(lost) = inbox.over {
            return Poll::Ready(Err(lost));
        }
        if let Some(Slot::Waiting(waker)) = inbox.slots.get_mut(tag)
            && waker.replace(context.waker().clone()).is_none()
        {
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
            if inbox.futures == 0 {
                inbox.waiting += 1;
                inbox = self.changed.wait(inbox).unwrap_or_else(PoisonError::into_inner);
                inbox.waiting -= 1;
            } else if inbox.has_leader || !self.file(&mut inbox) {
                inbox = self.sleep(inbox, None);
            }
        }
    }

    fn drain(&self) -> Result<(), Lost> {
        let mut inbox = self.lock();
        while inbox.outstanding > 0 {
            if !inbox.has_leader && self.file(&mut inbox) {
                continue;
            }
            if let Some(lost) = inbox.over {
                return Err(lost);
            }
            inbox = self.sleep(inbox, None);
        }
        Ok(())
    }
}

impl Inbox {
    fn put(&mut self, finished: FinishedBy<Arc<Endpoint>>) -> Result<(), Corrupted> {
        self.outstanding = self.outstanding.saturating_sub(1);
        let tag = finished.tag() as usize;
        let Some(slot) = self.slots.get_mut(tag) else {
            return Err(Corrupted::new("ticket of a finished task", tag, finished.status().into()));
        };
        if matches!(slot, Slot::Forgotten) {
            self.slots.remove(tag);
            return Ok(());
        }
        let (outcome, status) = (finished.outcome(), finished.status());
        let (exit, claimant) = (finished.exit(), finished.claimant());
        let bytes = finished.output()?;
        let output = if bytes.len() <= INLINE {
            self.private += bytes.len();
            Output::Private(bytes.to_vec())
        } else {
            Output::InPlace(finished)
        };
        let done = Slot::Done(Box::new(Done { outcome, status, exit, claimant, output }));
        if let Slot::Waiting(Some(waker)) = std::mem::replace(slot, done) {
            self.futures -= 1;
            waker.wake();
        }
        Ok(())
    }

    fn take(&mut self, tag: usize) -> Option<Box<Done>> {
        if !matches!(self.slots.get(tag), Some(Slot::Done(_))) {
            return None;
        }
        let Slot::Done(done) = self.slots.remove(tag) else { return None };
        if let Output::Private(bytes) = &done.output {
            self.private -= bytes.len();
        }
        Some(done)
    }
}
