//! How a loop is told to end.

use super::pump::Shared;
use std::sync::{
    Arc, Mutex, PoisonError, Weak,
    atomic::{
        AtomicU8,
        Ordering::{Relaxed, SeqCst},
    },
};

/// Ends [`serve`](super::serve), from any thread; also several of them.
///
/// ```
/// use shmworker::sources::{Options, Stop};
///
/// let stop = Stop::new();
/// let options = Options::new().stop(&stop);
/// stop.drain(); // nothing is fetched any more; `serve` returns once what runs has ended and is published
/// # let _ = options;
/// ```
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// 0, or how urgent it is; it only grows.
    urgency: AtomicU8,
    /// Who is to be woken.
    whom: Mutex<Vec<Weak<Shared>>>,
}

pub(super) const DRAIN: u8 = 1;
pub(super) const CANCEL: u8 = 2;

impl Stop {
    /// Nothing is to end yet.
    pub fn new() -> Stop {
        Stop::default()
    }

    /// Fetches no more; what runs ends and is published, what was not begun is given back.
    pub fn drain(&self) {
        self.request(DRAIN);
    }

    /// Cancels what runs too; its jobs are given back.
    pub fn cancel(&self) {
        self.request(CANCEL);
    }

    fn request(&self, urgency: u8) {
        // Before the lock: who registers after we have looked holds it after us, and reads this then.
        self.0.urgency.fetch_max(urgency, SeqCst);
        let whom = self.0.whom.lock().unwrap_or_else(PoisonError::into_inner).clone();
        whom.iter().filter_map(Weak::upgrade).for_each(|shared| shared.wake_all());
    }

    pub(super) fn wakes(&self, shared: &Arc<Shared>) {
        let mut whom = self.0.whom.lock().unwrap_or_else(PoisonError::into_inner);
        whom.retain(|other| other.strong_count() > 0);
        whom.push(Arc::downgrade(shared));
    }

    /// 0, [`DRAIN`] or [`CANCEL`].
    pub(super) fn urgency(&self) -> u8 {
        // Relaxed: all who look hold the lock of `Shared`, which `wake_all` takes after the store.
        self.0.urgency.load(Relaxed)
    }
}
