//! The least that two processes need to exchange messages: shared memory, and a flag each way. What a pool is held to, by
//! `shmworker bench` and by the programs in `benches/`. Nothing of it survives a death.

use crate::sync::{Acquire, AtomicU64, Futex, Relaxed, Release};
use std::time::Duration;

/// What travels: 64 bytes.
pub type Message = [u64; 8];

/// One direction: a message, and the number of the last. All zeros are one where nothing was sent. Relaxed words instead of
/// bytes, so that no access is undefined.
#[repr(C, align(128))]
pub struct Mail {
    message: [AtomicU64; 8],
    sent: Futex,
}

impl Mail {
    /// Sends the `n`-th message, counted from 1 and round again. Its predecessor was read, as an answer to it has shown.
    pub fn send(&self, n: u32, message: Message) {
        self.message.iter().zip(message).for_each(|(to, word)| to.store(word, Relaxed));
        // Release: who sees the number sees the message.
        self.sent.word().store(n, Release);
    }

    /// Was the `n`-th message sent? Not asked before the one before it was seen.
    pub fn has_sent(&self, n: u32) -> bool {
        self.sent.word().load(Acquire) == n
    }

    /// The last one; `has_sent` has seen it.
    pub fn message(&self) -> Message {
        std::array::from_fn(|i| self.message[i].load(Relaxed))
    }

    /// Wakes who sleeps here.
    pub fn wake(&self) {
        self.sent.wake_all();
    }

    /// Sleeps, unless the `n`-th message was sent; at most for so long, and maybe for no time at all.
    pub fn sleep(&self, n: u32, at_most: Option<Duration>) {
        self.sent.wait(n.wrapping_sub(1), at_most);
    }
}
