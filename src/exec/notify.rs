//! Room as something to await: futures that end once there is room for a task.
//!
//! A future must not sleep, so a thread sleeps in its place: one per participant, started with the first [`Notifier`]. It
//! parks as any other thread does, and only while somebody waits. The fast path never meets it.

use super::endpoint::{Endpoint, ROOM, Submission, SubmitError};
use crate::{TaskId, lockfree::table::Waits};
use std::{
    future::poll_fn,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    thread::JoinHandle,
};

/// Wakes futures of one participant.
pub(crate) struct Notifier {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    endpoint: Arc<Endpoint>,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    /// Who waits, and for how many bytes.
    futures: Vec<(Waker, usize)>,
    is_over: bool,
}

impl Notifier {
    /// Starts the thread. The process must not fork any more.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(crate) fn start(endpoint: Arc<Endpoint>) -> io::Result<Notifier> {
        let shared = Arc::new(Shared { endpoint, waiting: Mutex::default(), changed: Condvar::new() });
        let sleeper = shared.clone();
        let thread = std::thread::Builder::new().name("notifier".into()).spawn(move || sleeper.run())?;
        Ok(Notifier { shared, thread: Some(thread) })
    }

    /// Copies the payload in and submits, once there is room.
    ///
    /// # Errors
    /// [`SubmitError`], but none for want of room.
    pub(crate) async fn submit(&self, s: Submission, payload: &[u8]) -> Result<TaskId, SubmitError> {
        poll_fn(|context| {
            for has_registered in [false, true] {
                match self.shared.endpoint.try_submit(s, payload) {
                    // Registered first, then tried again: room that came in between wakes nobody.
                    Err(e) if e.is_want_of_room() && !has_registered => {
                        self.shared.lock().futures.push((context.waker().clone(), payload.len()));
                        self.shared.changed.notify_one();
                    }
                    Err(e) if e.is_want_of_room() => {}
                    result => return Poll::Ready(result),
                }
            }
            Poll::Pending
        })
        .await
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let waiting = self
                .changed
                .wait_while(self.lock(), |w| w.futures.is_empty() && !w.is_over)
                .unwrap_or_else(PoisonError::into_inner);
            if waiting.is_over {
                return;
            }
            drop(waiting);
            let waits = Waits { room: true, ..Waits::default() };
            self.endpoint.park_for(waits, Some(ROOM), || {
                let waiting = self.lock();
                waiting.is_over || waiting.futures.iter().any(|(_, len)| self.endpoint.may_have_room(*len))
            });
            let futures = std::mem::take(&mut self.lock().futures);
            futures.into_iter().for_each(|(waker, _)| waker.wake());
        }
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.changed.notify_one();
        self.shared.endpoint.wake_self();
        // It panics only if a waker of the caller's does; that was said then.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
