//! Threads of one process: `crossbeam` queues there and back. A death takes both sides.

use crate::{
    Result,
    measure::{End, Link, Message, Side, bytes_of, message},
    stage::Wait,
};
use crossbeam_channel::{Receiver, Sender};
use crossbeam_queue::ArrayQueue;

/// Room for all that may be under way.
const CAPACITY: usize = 1024;

/// `ArrayQueue`: bounded, lock-free, and nobody sleeps.
pub(crate) struct ArrayQueues {
    there: ArrayQueue<Message>,
    back: ArrayQueue<Message>,
    wait: Wait,
}

pub(crate) struct QueueEnd {
    link: &'static ArrayQueues,
    side: Side,
}

impl Link for ArrayQueues {
    type End = QueueEnd;
    const LARGEST: usize = 0; // between threads a payload need not travel
    const ARE_THREADS: bool = true;
    const SPINS: bool = true;

    fn new(wait: Wait, _largest: usize) -> Result<Self> {
        Ok(ArrayQueues { there: ArrayQueue::new(CAPACITY), back: ArrayQueue::new(CAPACITY), wait })
    }

    fn end(&'static self, side: Side) -> Result<QueueEnd> {
        Ok(QueueEnd { link: self, side })
    }
}

impl End for QueueEnd {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let queue = if self.side == Side::Near { &self.link.there } else { &self.link.back };
        queue.push(message(bytes)).map_err(|_| "the queue is full".into())
    }

    fn receive<R>(&mut self, with: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let queue = if self.side == Side::Near { &self.link.back } else { &self.link.there };
        Ok(with(bytes_of(&self.link.wait.until(|| queue.pop()))))
    }
}

/// `crossbeam_channel::bounded`: who finds it empty spins for a while, then sleeps.
pub(crate) struct Channels {
    there: (Sender<Message>, Receiver<Message>),
    back: (Sender<Message>, Receiver<Message>),
}

pub(crate) struct ChannelEnd {
    send: Sender<Message>,
    receive: Receiver<Message>,
}

impl Link for Channels {
    type End = ChannelEnd;
    const LARGEST: usize = 0; // between threads a payload need not travel
    const ARE_THREADS: bool = true;

    fn new(_wait: Wait, _largest: usize) -> Result<Self> {
        Ok(Channels { there: crossbeam_channel::bounded(CAPACITY), back: crossbeam_channel::bounded(CAPACITY) })
    }

    fn end(&'static self, side: Side) -> Result<ChannelEnd> {
        let (out, back) = if side == Side::Near { (&self.there, &self.back) } else { (&self.back, &self.there) };
        Ok(ChannelEnd { send: out.0.clone(), receive: back.1.clone() })
    }
}

impl End for ChannelEnd {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.send.send(message(bytes))?)
    }

    fn receive<R>(&mut self, with: impl FnOnce(&[u8]) -> R) -> Result<R> {
        Ok(with(bytes_of(&self.receive.recv()?)))
    }
}
