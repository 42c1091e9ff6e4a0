//! Through the kernel: Unix sockets, pipes, `ipc-channel`, and events of `raw_sync`. Who waits sleeps.

use crate::{
    Figures, Result, Skip,
    case::Case,
    measure::{self, End, Link, Message, Side, bytes_of, message},
    stage::{Wait, shared},
};
use ipc_channel::ipc::{IpcBytesReceiver, IpcBytesSender, bytes_channel};
use nix::sys::socket::{setsockopt, sockopt::SndBuf};
use raw_sync::{
    Timeout,
    events::{Event, EventImpl, EventInit, EventState},
};
use std::{
    cell::UnsafeCell,
    io::{BufRead, BufReader, IoSlice, PipeReader, PipeWriter, Read, Write, pipe},
    os::unix::net::UnixStream,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Messages on a stream of bytes: a length and as many bytes.
pub(crate) struct Stream<W, R> {
    out: W,
    back: BufReader<R>,
    bytes: Vec<u8>,
}

impl<W: Write, R: Read> Stream<W, R> {
    fn new(out: W, back: R) -> Self {
        // Room for some hundred messages at a time.
        Stream { out, back: BufReader::with_capacity(1 << 16, back), bytes: Vec::new() }
    }
}

impl<W: Write, R: Read> End for Stream<W, R> {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let len = bytes.len().to_ne_bytes();
        let mut parts = [IoSlice::new(&len), IoSlice::new(bytes)];
        let mut left = &mut parts[..];
        while !left.is_empty() {
            let written = self.out.write_vectored(left)?;
            IoSlice::advance_slices(&mut left, written);
        }
        Ok(())
    }

    fn receive<R2>(&mut self, with: impl FnOnce(&[u8]) -> R2) -> Result<R2> {
        let mut len = [0; size_of::<usize>()];
        self.back.read_exact(&mut len)?;
        let len = usize::from_ne_bytes(len);
        if let Some(bytes) = self.back.fill_buf()?.get(..len) {
            let result = with(bytes);
            self.back.consume(len);
            return Ok(result);
        }
        self.bytes.resize(len, 0);
        self.back.read_exact(&mut self.bytes)?;
        Ok(with(&self.bytes))
    }
}

/// So many messages of 64 bytes have room in any of them.
const WINDOW: usize = 256;

pub(crate) struct Sockets([UnixStream; 2]);

impl Link for Sockets {
    type End = Stream<UnixStream, UnixStream>;
    const WINDOW: usize = WINDOW;

    fn new(_wait: Wait, _largest: usize) -> Result<Sockets> {
        let sockets: [UnixStream; 2] = UnixStream::pair()?.into();
        for socket in &sockets {
            // As much as the kernel allows.
            setsockopt(socket, SndBuf, &(1 << 24))?;
        }
        Ok(Sockets(sockets))
    }

    fn end(&'static self, side: Side) -> Result<Self::End> {
        let socket = &self.0[usize::from(side == Side::Far)];
        Ok(Stream::new(socket.try_clone()?, socket.try_clone()?))
    }
}

pub(crate) struct Pipes {
    there: (PipeReader, PipeWriter),
    back: (PipeReader, PipeWriter),
}

impl Link for Pipes {
    type End = Stream<PipeWriter, PipeReader>;
    const WINDOW: usize = WINDOW;

    fn new(_wait: Wait, _largest: usize) -> Result<Pipes> {
        Ok(Pipes { there: pipe()?, back: pipe()? })
    }

    fn end(&'static self, side: Side) -> Result<Self::End> {
        let (out, back) = if side == Side::Near { (&self.there, &self.back) } else { (&self.back, &self.there) };
        Ok(Stream::new(out.1.try_clone()?, back.0.try_clone()?))
    }
}

type Channel = (IpcBytesSender, IpcBytesReceiver);

/// Both channels, until an end is asked for: each process takes what it needs of its copy.
pub(crate) struct IpcChannels(Mutex<Option<[Channel; 2]>>);

impl Link for IpcChannels {
    type End = Channel;
    const WINDOW: usize = WINDOW;

    fn new(_wait: Wait, _largest: usize) -> Result<IpcChannels> {
        Ok(IpcChannels(Mutex::new(Some([bytes_channel()?, bytes_channel()?]))))
    }

    fn end(&'static self, side: Side) -> Result<Channel> {
        let [there, back] =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or("a process has one end only")?;
        Ok(if side == Side::Near { (there.0, back.1) } else { (back.0, there.1) })
    }
}

impl End for Channel {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.0.send(bytes)?)
    }

    fn receive<R>(&mut self, with: impl FnOnce(&[u8]) -> R) -> Result<R> {
        Ok(with(&self.1.recv()?))
    }
}

/// 64 bytes of shared memory and an event of `raw_sync` each way: a lock and a condition of pthreads.
pub(crate) struct Events(&'static [Place]);

#[repr(C, align(4096))]
struct Place {
    message: [AtomicU64; 8],
    event: UnsafeCell<[u8; 1024]>,
}

// SAFETY: the bytes of the event are touched by `raw_sync` only, which locks.
unsafe impl Sync for Place {}

pub(crate) struct EventEnd {
    out: (&'static Place, Box<dyn EventImpl>),
    back: (&'static Place, Box<dyn EventImpl>),
}

impl Link for Events {
    type End = EventEnd;

    fn new(_wait: Wait, _largest: usize) -> Result<Events> {
        // SAFETY: a `Place` is made of atomics and bytes.
        let places: &'static [Place] = unsafe { shared(2) }?;
        for place in places {
            // SAFETY: its own bytes, more than the event needs, which stay mapped.
            unsafe { Event::new(place.event.get().cast(), true) }.map_err(|e| e.to_string())?;
        }
        Ok(Events(places))
    }

    fn end(&'static self, side: Side) -> Result<EventEnd> {
        let open = |place: &'static Place| -> Result<_> {
            // SAFETY: `new` has made an event there.
            let (event, _) = unsafe { Event::from_existing(place.event.get().cast()) }.map_err(|e| e.to_string())?;
            Ok((place, event))
        };
        let (near, far) = (open(&self.0[0])?, open(&self.0[1])?);
        Ok(if side == Side::Near { EventEnd { out: near, back: far } } else { EventEnd { out: far, back: near } })
    }
}

impl End for EventEnd {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.0.message.iter().zip(message(bytes)).for_each(|(to, word)| to.store(word, Relaxed));
        self.out.1.set(EventState::Signaled).map_err(|e| e.to_string().into())
    }

    fn receive<R>(&mut self, with: impl FnOnce(&[u8]) -> R) -> Result<R> {
        self.back.1.wait(Timeout::Infinite).map_err(|e| e.to_string())?;
        let message: Message = std::array::from_fn(|i| self.back.0.message[i].load(Relaxed));
        Ok(with(bytes_of(&message)))
    }
}

pub(crate) fn run_events(case: &Case) -> Result<Figures> {
    match case {
        Case::RoundTrip { .. } => measure::link::<Events>(case),
        _ => Skip::because("it has room for one message, and no queue"),
    }
}
