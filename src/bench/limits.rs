//! What two processes of this machine can do at most, with nothing between them that would survive a death.

use super::{
    BATCH, BenchError, Cpus, batches, payload,
    stage::{Partner, Pinned, shared},
};
use crate::{
    limit::{Mail, Message},
    sync::spin_loop,
};
use std::{slice, time::Duration};

/// Who sleeps looks that often whether the partner still lives.
const LOOK: Duration = Duration::from_secs(1);

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
    let [there, back] = unsafe { shared::<[Mail; 2]>(1)?.as_ref() };
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
        let (message, expected) = next(n.into());
        there.send(n, message);
        partner.until(|| back.has_sent(n))?;
        if back.message() == expected { Ok(()) } else { Err(BenchError::Wrong) }
    })
}

pub(super) fn futex_ping_pong(cpus: Cpus, slot: Duration) -> Result<Vec<f64>, BenchError> {
    // SAFETY: two values on zeroed pages that are never unmapped; all their fields are atomic.
    let [there, back] = unsafe { shared::<[Mail; 2]>(1)?.as_ref() };
    let partner = Partner::fork(cpus.there, || {
        for n in 1.. {
            while !there.has_sent(n) {
                there.sleep(n, None);
            }
            back.send(n, there.message());
            back.wake();
        }
    })?;
    let _here = Pinned::to(cpus.here)?;
    let mut n = 0;
    batches(slot, BATCH, || {
        n += 1;
        there.send(n, [u64::from(n); 8]);
        there.wake();
        while !back.has_sent(n) {
            back.sleep(n, Some(LOOK));
            if !back.has_sent(n) {
                partner.check()?;
            }
        }
        if back.message() == [u64::from(n); 8] { Ok(()) } else { Err(BenchError::Wrong) }
    })
}
