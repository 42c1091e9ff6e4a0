//! The limit for who sleeps: two processes that write into shared memory, and always sleep on a futex for the answer.

use crate::{
    Figures, Result, Skip,
    case::{Case, Placement},
    measure::{self, End, Link, Side, bytes_of, message},
    stage::{Wait, shared},
};
use shmworker::bench_support::Mail;

pub(crate) struct Futex(&'static [Mail]);

pub(crate) struct FutexEnd {
    out: &'static Mail,
    back: &'static Mail,
    sent: u32,
    received: u32,
}

impl Link for Futex {
    type End = FutexEnd;

    fn new(_wait: Wait, _largest: usize) -> Result<Futex> {
        // SAFETY: a `Mail` is made of atomics, and zeros are one.
        Ok(Futex(unsafe { shared(2) }?))
    }

    fn end(&'static self, side: Side) -> Result<FutexEnd> {
        let (near, far) = (&self.0[0], &self.0[1]);
        let (out, back) = if side == Side::Near { (near, far) } else { (far, near) };
        Ok(FutexEnd { out, back, sent: 0, received: 0 })
    }
}

impl End for FutexEnd {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.sent = self.sent.wrapping_add(1);
        self.out.send(self.sent, message(bytes));
        self.out.wake();
        Ok(())
    }

    fn receive<R>(&mut self, with: impl FnOnce(&[u8]) -> R) -> Result<R> {
        self.received = self.received.wrapping_add(1);
        while !self.back.has_sent(self.received) {
            self.back.sleep(self.received, None);
        }
        Ok(with(bytes_of(&self.back.message())))
    }
}

pub(crate) fn run(case: &Case) -> Result<Figures> {
    match case {
        Case::RoundTrip { placement: Placement::Asleep | Placement::OneCore, .. } => measure::link::<Futex>(case),
        Case::RoundTrip { .. } => Skip::because("nobody is awake to be busy"),
        _ => Skip::because("it has room for one message, and no queue"),
    }
}
