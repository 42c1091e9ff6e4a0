//! What two processes of this machine can do at most, with nothing between them that would survive a death.

use super::{
    BATCH, BenchError, Cpus, Message, batches, payload,
    stage::{Partner, Pinned, shared},
};
use crate::sync::{AcqRel, Acquire, AtomicU64, Futex, Relaxed, Release, spin_loop};
use std::{slice, time::Duration};

/// Who waits for a futex looks that often whether the partner still lives.
const LOOK: Duration = Duration::from_secs(1);

/// One direction: a message, and the number of the last. Relaxed words instead of bytes, so that no access is undefined.
#[repr(C, align(128))]
struct Half {
    message: [AtomicU64; 8],
    sent: AtomicU64,
}

impl Half {
    fn send(&self, n: u64, message: Message) {
        self.message.iter().zip(message).for_each(|(to, word)| to.store(word, Relaxed));
        // Release: who sees the number sees the message.
        self.sent.store(n, Release);
    }

    fn has_sent(&self, n: u64) -> bool {
        self.sent.load(Acquire) == n
    }

    fn message(&self) -> Message {
        std::array::from_fn(|i| self.message[i].load(Relaxed))
    }
}

pub(super) fn ping_pong(cpus: Cpus, slot: Duration) -> Result<Vec<f64>, BenchError> {
    exchange(cpus, slot, |message| message, |n| ([n; 8], [n; 8]))
}

pub(super) fn reading(cpus: Cpus, slot: Duration) -> Result<Vec<f64>, BenchError> {
    let memory = shared::<u64>(payload::WORDS)?;
    // SAFETY: all of the mapping, zeroed. The answering side reads it between a message and its answer, the other writes it
    // outside of that; the numbers of `Half` order the two.
    let read = move || unsafe { slice::from_raw_parts(memory.as_ptr(), payload::WORDS) };
    let answer = move |_| [payload::sum(read()); 8];
    exchange(cpus, slot, answer, |n| {
        // SAFETY: as above, from the other side.
        let place = unsafe { slice::from_raw_parts_mut(memory.as_ptr(), payload::WORDS) };
        payload::write(place, n);
        ([n; 8], [payload::expected(n); 8])
    })
}

/// Messages that a process answers: what the `n`-th is, and what its answer is to be, says `next`.
fn exchange(
    cpus: Cpus,
    slot: Duration,
    mut answer: impl FnMut(Message) -> Message,
    mut next: impl FnMut(u64) -> (Message, Message),
) -> Result<Vec<f64>, BenchError> {
    // SAFETY: two values on zeroed pages that are never unmapped; all their fields are atomic.
    let [there, back] = unsafe { shared::<[Half; 2]>(1)?.as_ref() };
    let partner = Partner::fork(cpus.there, || {
        for n in 1.. {
            while !there.has_sent(n) {
                spin_loop();
            }
            back.send(n, answer(there.message()));
        }
    })?;
    let _here = Pinned::to(cpus.here)?;
    let mut n = 0;
    batches(slot, BATCH, || {
        n += 1;
        let (message, expected) = next(n);
        there.send(n, message);
        partner.until(|| back.has_sent(n))?;
        if back.message() == expected { Ok(()) } else { Err(BenchError::Wrong) }
    })
}

pub(super) fn futex_ping_pong(cpus: Cpus, slot: Duration) -> Result<Vec<f64>, BenchError> {
    // SAFETY: two values on zeroed pages that are never unmapped; a `Futex` is an atomic.
    let [there, back] = unsafe { shared::<[Futex; 2]>(1)?.as_ref() };
    let post = |futex: &Futex| {
        futex.word().fetch_add(1, AcqRel);
        futex.wake_all();
    };
    let partner = Partner::fork(cpus.there, || {
        for n in 0u32.. {
            while there.word().load(Acquire) == n {
                there.wait(n, None);
            }
            post(back);
        }
    })?;
    let _here = Pinned::to(cpus.here)?;
    let mut n = 0;
    batches(slot, BATCH, || {
        post(there);
        while back.word().load(Acquire) == n {
            back.wait(n, Some(LOOK));
            if back.word().load(Acquire) == n {
                partner.check()?;
            }
        }
        n += 1;
        Ok(())
    })
}
