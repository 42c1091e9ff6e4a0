//! The limit for who sleeps: two processes that write into shared memory, and always sleep on a futex for the answer.

use crate::{
    Figures, Result,
    case::{Case, Placement},
    measure::{self, End, Link, Message, Side, bytes_of, message},
    stage::{Wait, shared},
};
use nix::errno::Errno;
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

#[repr(C, align(128))]
struct Half {
    message: [AtomicU64; 8],
    sent: AtomicU32,
}

pub(crate) struct Futex(&'static [Half]);

pub(crate) struct FutexEnd {
    out: &'static Half,
    back: &'static Half,
    received: u32,
}

impl Link for Futex {
    type End = FutexEnd;

    fn new(_wait: Wait, _largest: usize) -> Result<Futex> {
        // SAFETY: a `Half` is made of atomics.
        Ok(Futex(unsafe { shared(2) }?))
    }

    fn end(&'static self, side: Side) -> Result<FutexEnd> {
        let (near, far) = (&self.0[0], &self.0[1]);
        let (out, back) = if side == Side::Near { (near, far) } else { (far, near) };
        Ok(FutexEnd { out, back, received: 0 })
    }
}

impl End for FutexEnd {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.message.iter().zip(message(bytes)).for_each(|(to, word)| to.store(word, Relaxed));
        self.out.sent.store(self.out.sent.load(Relaxed).wrapping_add(1), Release);
        futex(&self.out.sent, libc::FUTEX_WAKE, 1)
    }

    fn receive<R>(&mut self, with: impl FnOnce(&[u8]) -> R) -> Result<R> {
        while self.back.sent.load(Acquire) == self.received {
            futex(&self.back.sent, libc::FUTEX_WAIT, self.received)?;
        }
        self.received = self.received.wrapping_add(1);
        let message: Message = std::array::from_fn(|i| self.back.message[i].load(Relaxed));
        Ok(with(bytes_of(&message)))
    }
}

/// Source: `futex(2)`. The word may have changed already, or a signal may come: who waits looks again.
fn futex(word: &AtomicU32, operation: i32, value: u32) -> Result<()> {
    // SAFETY: a live word, aligned; neither operation takes a pointer but that of the time, which is none.
    let done =
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, std::ptr::null::<libc::timespec>()) };
    match Errno::result(done) {
        Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

pub(crate) fn run(case: &Case) -> Result<Figures> {
    match case {
        // One message each way, and nobody is awake to be busy.
        Case::RoundTrip { placement: Placement::Asleep | Placement::OneCore, .. } => measure::link::<Futex>(case),
        _ => Ok(None),
    }
}
