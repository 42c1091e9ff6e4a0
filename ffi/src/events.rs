//! Tasks that have ended, for event loops: a queue, and a descriptor that is readable while something is in it.

use crate::error::Error;
use shmworker::plugin::abi::shmworker_result as Code;
use std::{
    collections::VecDeque,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Wake,
};

/// Handle of the task, and what its owner noted.
type Event = (usize, usize);

pub(crate) struct Events {
    fd: OwnedFd,
    queue: Mutex<VecDeque<Event>>,
}

impl Events {
    pub(crate) fn new() -> Result<Events, Error> {
        // SAFETY: plain numbers in, a descriptor or -1 out.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            let e = std::io::Error::last_os_error();
            return Err(Error::new(Code::OsError, format_args!("cannot make an eventfd: {e}")));
        }
        // SAFETY: the kernel has just given us this descriptor, which nobody else knows.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Events { fd, queue: Mutex::default() })
    }

    pub(crate) fn fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Under the lock, so that the descriptor is readable just while the queue isn't empty.
    fn push(&self, notice: &Notice) {
        let mut queue = self.lock();
        // Relaxed: under the lock.
        if notice.is_off.load(Relaxed) {
            return;
        }
        queue.push_back(notice.event);
        if queue.len() == 1 {
            let one = 1u64;
            // SAFETY: eight bytes that live. It can't fail: the counter was 0.
            unsafe { libc::write(self.fd(), (&raw const one).cast(), size_of_val(&one)) };
        }
    }

    fn settle(&self, queue: &VecDeque<Event>) {
        if queue.is_empty() {
            let mut count = 0u64;
            // SAFETY: room for eight bytes. It can't fail but for a counter that is 0 already.
            unsafe { libc::read(self.fd(), (&raw mut count).cast(), size_of_val(&count)) };
        }
    }

    pub(crate) fn next(&self) -> Option<Event> {
        let mut queue = self.lock();
        let next = queue.pop_front()?;
        self.settle(&queue);
        Some(next)
    }

    /// Nobody is to hear of this task any more, whoever is about to tell.
    pub(crate) fn forget(&self, notice: &Notice) {
        let mut queue = self.lock();
        notice.is_off.store(true, Relaxed);
        queue.retain(|event| event.0 != notice.event.0);
        self.settle(&queue);
    }
}

/// Wakes an event loop.
pub(crate) struct Notice {
    /// The descriptor is gone with its pool.
    pub(crate) events: Weak<Events>,
    event: Event,
    /// Its task was freed. Changed under the lock of the queue.
    is_off: AtomicBool,
}

impl Notice {
    pub(crate) fn new(events: &Arc<Events>, event: Event) -> Notice {
        Notice { events: Arc::downgrade(events), event, is_off: AtomicBool::new(false) }
    }
}

impl Wake for Notice {
    fn wake(self: Arc<Self>) {
        if let Some(events) = self.events.upgrade() {
            events.push(&self);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_tells_late_of_a_task_that_was_freed_is_not_heard() {
        let events = Arc::new(Events::new().unwrap());
        let [freed, other] = [1, 2].map(|task| Arc::new(Notice::new(&events, (task, 7))));
        freed.clone().wake();
        events.forget(&freed);
        freed.wake();
        other.wake();
        assert_eq!([events.next(), events.next()], [Some((2, 7)), None]);
        let mut count = 0u64;
        // SAFETY: room for eight bytes.
        let read = unsafe { libc::read(events.fd(), (&raw mut count).cast(), size_of_val(&count)) };
        assert_eq!(read, -1, "readable, with nothing to be taken");
    }
}
