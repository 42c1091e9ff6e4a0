//! The limit: two processes that write into memory which both have mapped. Nothing survives a death.

use crate::{
    Figures, Result, Skip,
    case::{Case, Mode, Placement},
    measure::{self, Answer, End, Link, Side, bytes_of, message},
    stage::{Cpus, Partner, Wait, pin, shared},
};
use shmworker::bench_support::Mail;
use shmworker_benches::{Unit, quantile};
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Release},
};

/// 64 bytes and a flag each way.
pub(crate) struct Raw {
    mails: &'static [Mail],
    wait: Wait,
}

pub(crate) struct RawEnd {
    out: &'static Mail,
    back: &'static Mail,
    wait: Wait,
    sent: u32,
    received: u32,
}

impl Link for Raw {
    type End = RawEnd;
    const SPINS: bool = true;

    fn new(wait: Wait, _largest: usize) -> Result<Raw> {
        // SAFETY: a `Mail` is made of atomics, and zeros are one.
        Ok(Raw { mails: unsafe { shared(2) }?, wait })
    }

    fn end(&'static self, side: Side) -> Result<RawEnd> {
        let (near, far) = (&self.mails[0], &self.mails[1]);
        let (out, back) = if side == Side::Near { (near, far) } else { (far, near) };
        Ok(RawEnd { out, back, wait: self.wait, sent: 0, received: 0 })
    }
}

impl End for RawEnd {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.sent = self.sent.wrapping_add(1);
        self.out.send(self.sent, message(bytes));
        Ok(())
    }

    fn receive<R>(&mut self, with: impl FnOnce(&[u8]) -> R) -> Result<R> {
        self.received = self.received.wrapping_add(1);
        self.wait.until(|| self.back.has_sent(self.received).then_some(()));
        Ok(with(bytes_of(&self.back.message())))
    }
}

pub(crate) fn run(case: &Case) -> Result<Figures> {
    match *case {
        // It has room for one: as many as there is time for, one after another.
        Case::Throughput { workers: 1, n, .. } => {
            let one = Case::RoundTrip { placement: Placement::TwoCores, n, each: false };
            let (_, ns) = measure::link::<Raw>(&one)?;
            Ok((Unit::PerS, vec![1e9 / quantile(ns, 0.5)]))
        }
        Case::Throughput { .. } => Skip::because("it has two sides"),
        Case::Payload { bytes, mode, n } => payload(bytes, mode, n),
        _ => measure::link::<Raw>(case),
    }
}

/// One cache line that travels to and fro, with a number in it: what two cores take to see each other's write.
pub(crate) fn run_line(case: &Case) -> Result<Figures> {
    let Case::RoundTrip { placement: placement @ (Placement::TwoCores | Placement::OneCore), n, each } = *case else {
        return Skip::because("one number goes to and fro, and nobody sleeps");
    };
    let cpus = Cpus::of(placement)?;
    let wait = if placement == Placement::OneCore { Wait::Yield } else { Wait::Spin };
    // SAFETY: an atomic.
    let line: &AtomicU64 = &unsafe { shared(1) }?[0];
    let _partner = Partner::fork(|| {
        pin(cpus.there)?;
        for turn in 0.. {
            wait.until(|| (line.load(Acquire) == 2 * turn + 1).then_some(()));
            line.store(2 * turn + 2, Release);
        }
        Ok(())
    })?;
    pin(cpus.here)?;
    let mut at = 0;
    measure::trips(n, each, |message| {
        line.store(at + 1, Release);
        at += 2;
        wait.until(|| (line.load(Acquire) == at).then_some(()));
        Ok(*message)
    })
}

/// A payload in shared memory, a flag, and a partner that reads all of it.
fn payload(bytes: usize, mode: Mode, n: u64) -> Result<Figures> {
    let raw = Box::leak(Box::new(Raw::new(Wait::Spin, bytes)?));
    // SAFETY: an atomic.
    let memory: &[AtomicU64] = unsafe { shared(bytes / 8) }?;
    let place = memory.as_ptr().cast_mut().cast::<u64>();
    let cpus = Cpus::of(Placement::TwoCores)?;
    let _partner = {
        let raw = &*raw;
        Partner::fork(move || {
            pin(cpus.there)?;
            let mut end = raw.end(Side::Far)?;
            loop {
                end.receive(|_| ())?;
                // SAFETY: all of the mapping; who submits writes to it only while this side waits for its message.
                let words = unsafe { std::slice::from_raw_parts(place.cast::<u8>(), bytes) };
                end.send(bytes_of(&Answer::Digest.of(words)))?;
            }
        })?
    };
    pin(cpus.here)?;
    let mut end = raw.end(Side::Near)?;
    // SAFETY: as above, from the other side: this side writes only between an answer and its next message.
    let words = unsafe { std::slice::from_raw_parts_mut(place, bytes / 8) };
    let mut exchange = move |write: &mut dyn FnMut(&mut [u64])| {
        write(words);
        end.send(bytes_of(&[0; 8]))?;
        end.receive(message)
    };
    match mode {
        Mode::Copied => {
            measure::copied(bytes, n, |from| exchange(&mut |to| bytemuck::cast_slice_mut(to).copy_from_slice(from)))
        }
        Mode::InPlace | Mode::Built => measure::in_place(bytes, mode, n, |write| exchange(write)),
    }
}

/// Reading a payload once, in the process that has it.
pub(crate) fn run_read(case: &Case) -> Result<Figures> {
    let Case::Payload { bytes, mode: Mode::InPlace, n } = *case else {
        return Skip::because("nothing is sent");
    };
    pin(Cpus::of(Placement::OneCore)?.here)?;
    let mut words = vec![0; bytes / 8];
    measure::in_place(bytes, Mode::InPlace, n, |write| {
        write(&mut words);
        Ok(Answer::Digest.of(bytemuck::cast_slice(&words)))
    })
}
