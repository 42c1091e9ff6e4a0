//! What a pool's owner and its coordinator say to each other, over a pair of sockets. Tasks never pass here.
//!
//! One datagram (SOCK_SEQPACKET) is one message: six words, in the byte order of the machine which both are on, and a text. An
//! order that is answered has a number, which the answer repeats. That the owner's end is closed, or says something else, means
//! that it has no more to submit.
//!
//! The coordinator waits for nobody: what the owner does not take at once waits in an [`Outbox`].

use super::{Mode, exit::Exit};
use crate::lockfree::participant::Name;
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair},
};
use std::{
    collections::VecDeque,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    time::Duration,
};

/// Longer texts are cut.
const LONGEST: usize = 4 << 10;
/// What may wait for an owner that reads nothing. Past that, news of single processes are dropped, the oldest first.
const BACKLOG: usize = 1000;

/// What the owner wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    /// So many workers from now on. Answered.
    Resize { id: u32, workers: u32 },
    /// Each worker is to be replaced by a fresh one, one after another. Answered when that is done.
    Roll { id: u32 },
    /// Drain; what is not finished after this long is cancelled, what has not ended after as long again is killed.
    Shutdown { grace: Duration },
}

/// One process that has ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Ended {
    pub(crate) label: String,
    pub(crate) name: Name,
    pub(crate) pid: i32,
    pub(crate) exit: Exit,
    /// The most that it had resident, in KiB; 0: not known.
    pub(crate) peak_kib: u64,
    /// Tasks that it had finished.
    pub(crate) finished: u64,
}

/// What the coordinator tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum News {
    /// All workers are ready.
    Started,
    /// The pool is nearer to its end.
    Mode(Mode),
    /// A process has ended, in whatever way.
    Ended(Ended),
    /// What was ordered under this number is done: there were so many workers, and are so many.
    Done { id: u32, from: u32, to: u32 },
    /// What was ordered under this number is not done.
    Refused { id: u32, why: String },
    /// The last word of a coordinator that ends as it was asked to: so many tasks were cancelled, and processes killed, for it.
    Over { cancelled: u64, killed: u64 },
    /// The last word of one that gives up.
    Failed(String),
}

/// Six words and a text.
type Parts<'a> = ([u64; 6], &'a str);

/// What goes as one datagram.
pub(crate) trait Message: Sized {
    /// As words and text; the first word tells the kind.
    fn parts(&self) -> Parts<'_>;
    /// `None`: no such message.
    fn of(parts: Parts<'_>) -> Option<Self>;
}

impl Message for Order {
    fn parts(&self) -> Parts<'_> {
        let words = match *self {
            Order::Resize { id, workers } => [1, id.into(), workers.into(), 0, 0, 0],
            Order::Roll { id } => [2, id.into(), 0, 0, 0, 0],
            Order::Shutdown { grace } => [3, u64::try_from(grace.as_nanos()).unwrap_or(u64::MAX), 0, 0, 0, 0],
        };
        (words, "")
    }

    fn of((words, _): Parts<'_>) -> Option<Order> {
        Some(match words {
            [1, id, workers, ..] => Order::Resize { id: id.try_into().ok()?, workers: workers.try_into().ok()? },
            [2, id, ..] => Order::Roll { id: id.try_into().ok()? },
            [3, grace, ..] => Order::Shutdown { grace: Duration::from_nanos(grace) },
            _ => return None,
        })
    }
}

impl Message for News {
    fn parts(&self) -> Parts<'_> {
        match self {
            News::Started => ([1, 0, 0, 0, 0, 0], ""),
            News::Mode(mode) => ([2, *mode as u64, 0, 0, 0, 0], ""),
            News::Ended(Ended { label, name, pid, exit, peak_kib, finished }) => {
                ([3, name.bits(), *pid as u64, exit.pack(), *peak_kib, *finished], label)
            }
            News::Done { id, from, to } => ([4, (*id).into(), (*from).into(), (*to).into(), 0, 0], ""),
            News::Refused { id, why } => ([5, (*id).into(), 0, 0, 0, 0], why),
            News::Over { cancelled, killed } => ([6, *cancelled, *killed, 0, 0, 0], ""),
            News::Failed(why) => ([7, 0, 0, 0, 0, 0], why),
        }
    }

    fn of((words, text): Parts<'_>) -> Option<News> {
        Some(match words {
            [1, ..] => News::Started,
            [2, mode, ..] => News::Mode(Mode::from(u32::try_from(mode).ok()?)),
            [3, name, pid, exit, peak_kib, finished] => News::Ended(Ended {
                label: text.to_owned(),
                name: Name::of(name),
                pid: pid as i32,
                exit: Exit::unpack(exit),
                peak_kib,
                finished,
            }),
            [4, id, from, to, ..] => {
                News::Done { id: id.try_into().ok()?, from: from.try_into().ok()?, to: to.try_into().ok()? }
            }
            [5, id, ..] => News::Refused { id: id.try_into().ok()?, why: text.to_owned() },
            [6, cancelled, killed, ..] => News::Over { cancelled, killed },
            [7, ..] => News::Failed(text.to_owned()),
            _ => return None,
        })
    }
}

/// The two ends: the owner's, which blocks, and the coordinator's.
///
/// # Errors
/// What the kernel refused.
pub(crate) fn pair() -> nix::Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
}

/// Says something; `MSG_DONTWAIT` or not.
///
/// # Errors
/// The kernel's: the other end is gone, or takes nothing at present.
pub(crate) fn say(socket: BorrowedFd<'_>, message: &impl Message, flags: MsgFlags) -> nix::Result<()> {
    let (words, text) = message.parts();
    let mut bytes = words.map(u64::to_ne_bytes).as_flattened().to_vec();
    bytes.extend_from_slice(&text.as_bytes()[..text.floor_char_boundary(LONGEST)]);
    send(socket.as_raw_fd(), &bytes, flags | MsgFlags::MSG_NOSIGNAL).map(drop)
}

/// What was heard.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Heard<M> {
    Message(M),
    /// Nothing, at present.
    Nothing,
    /// The other end is closed, or says what is no message.
    End,
}

/// What the other end has said; waits for it unless `flags` say otherwise.
pub(crate) fn hear<M: Message>(socket: BorrowedFd<'_>, flags: MsgFlags) -> Heard<M> {
    let mut bytes = [0; size_of::<[u64; 6]>() + LONGEST];
    loop {
        return match recv(socket.as_raw_fd(), &mut bytes, flags) {
            Err(Errno::EINTR) => continue,
            Err(Errno::EAGAIN) => Heard::Nothing,
            Ok(len @ 1..) => parse(&bytes[..len]).map_or(Heard::End, Heard::Message),
            Ok(_) | Err(_) => Heard::End,
        };
    }
}

fn parse<M: Message>(bytes: &[u8]) -> Option<M> {
    let (words, text) = bytes.split_first_chunk::<{ size_of::<[u64; 6]>() }>()?;
    let mut chunks = words.chunks_exact(8);
    let words = [(); 6].map(|()| chunks.next().and_then(|c| c.try_into().ok()).map_or(0, u64::from_ne_bytes));
    M::of((words, str::from_utf8(text).ok()?))
}

/// News that the owner has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Outbox(VecDeque<News>);

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Says it, now or as soon as what waits before it could be said.
    pub(crate) fn push(&mut self, socket: BorrowedFd<'_>, news: News) {
        self.0.push_back(news);
        if self.0.len() > BACKLOG
            && let Some(oldest) = self.0.iter().position(|news| matches!(news, News::Ended(_)))
        {
            self.0.remove(oldest);
        }
        self.flush(socket);
    }

    /// Says what it can. An owner that is gone is told nothing.
    pub(crate) fn flush(&mut self, socket: BorrowedFd<'_>) {
        while let Some(first) = self.0.front() {
            if say(socket, first, MsgFlags::MSG_DONTWAIT) == Err(Errno::EAGAIN) {
                return;
            }
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn what_is_said_is_heard_and_nothing_else_is_understood() {
        let (owner, coordinator) = pair().unwrap();
        let orders = [
            Order::Resize { id: 1, workers: 7 },
            Order::Roll { id: u32::MAX },
            Order::Shutdown { grace: Duration::from_millis(1500) },
        ];
        for order in orders {
            say(owner.as_fd(), &order, MsgFlags::empty()).unwrap();
            assert_eq!(hear(coordinator.as_fd(), MsgFlags::empty()), Heard::Message(order));
        }
        let ended = Ended {
            label: "worker:3".into(),
            name: Name::new(9, 2),
            pid: 4711,
            exit: Exit::Signal(9),
            peak_kib: 1 << 20,
            finished: 12,
        };
        let news = [
            News::Started,
            News::Mode(Mode::Draining),
            News::Ended(ended),
            News::Done { id: 4, from: 2, to: 8 },
            News::Refused { id: 5, why: "no room for 9 workers".into() },
            News::Over { cancelled: 10, killed: 1 },
            News::Failed("worker:0 died 5 times".into()),
        ];
        for news in news {
            say(coordinator.as_fd(), &news, MsgFlags::empty()).unwrap();
            assert_eq!(hear(owner.as_fd(), MsgFlags::empty()), Heard::Message(news));
        }
        assert_eq!(hear::<News>(owner.as_fd(), MsgFlags::MSG_DONTWAIT), Heard::Nothing);
        for garbage in [&[1u8; 47][..], &[0; 48], &[0xff; 60]] {
            send(owner.as_raw_fd(), garbage, MsgFlags::empty()).unwrap();
            assert_eq!(hear::<Order>(coordinator.as_fd(), MsgFlags::empty()), Heard::End);
        }
        drop(owner);
        assert_eq!(hear::<Order>(coordinator.as_fd(), MsgFlags::empty()), Heard::End);
    }

    #[test]
    fn an_owner_that_reads_nothing_gets_all_but_the_oldest_deaths() {
        let (owner, coordinator) = pair().unwrap();
        let mut outbox = Outbox::default();
        let death = |pid| {
            News::Ended(Ended {
                label: "x".repeat(LONGEST),
                name: Name::new(1, 1),
                pid,
                exit: Exit::Unknown,
                peak_kib: 0,
                finished: 0,
            })
        };
        let many = BACKLOG as i32 + 2000;
        outbox.push(coordinator.as_fd(), News::Started);
        for pid in 0..many {
            outbox.push(coordinator.as_fd(), death(pid));
        }
        let answer = News::Done { id: 1, from: 1, to: 2 };
        outbox.push(coordinator.as_fd(), answer.clone());
        assert!(!outbox.is_empty() && outbox.0.len() <= BACKLOG);
        let mut heard = Vec::new();
        while !outbox.is_empty() {
            while let Heard::Message(news) = hear::<News>(owner.as_fd(), MsgFlags::MSG_DONTWAIT) {
                heard.push(news);
            }
            outbox.flush(coordinator.as_fd());
        }
        while let Heard::Message(news) = hear::<News>(owner.as_fd(), MsgFlags::MSG_DONTWAIT) {
            heard.push(news);
        }
        assert_eq!((heard.first(), heard.last()), (Some(&News::Started), Some(&answer)));
        assert_eq!(heard[heard.len() - 2], death(many - 1));
    }
}
