//! What is read: lines, in batches, by a thread of its own.

use crate::jobs::Alarm;
use std::{
    io::{self, Read},
    ops::Range,
    sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
};

/// Bytes that are read at a time.
const PIECE: usize = 64 << 10;
/// Batches that wait to be taken, at most.
const AHEAD: usize = 4;
/// Bytes of a line, at most: an input without ends of lines must not fill the memory.
pub(super) const LONGEST: usize = 64 << 20;

enum Event {
    Batch(Batch),
    Failed(io::Error),
    /// Somebody has something to say.
    Look,
}

/// Whole lines.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    at: usize,
    /// The line is longer than any may be, and is only the end of it.
    is_too_long: bool,
}

/// What the next line is.
pub(super) enum Next {
    /// Where it lies: see [`Lines::bytes`].
    Line(Range<usize>),
    TooLong,
    /// It isn't there yet.
    NotYet,
    /// There are no more.
    End,
    Failed(io::Error),
}

/// The lines of an input.
pub(super) struct Lines {
    events: Receiver<Event>,
    now: Batch,
    separator: u8,
    /// The number of the line that was given last, from 1.
    pub(super) number: u64,
    /// Bytes that were given.
    pub(super) taken: u64,
    is_over: bool,
}

/// Has [`Lines::wait`] return.
#[derive(Clone)]
pub(super) struct Nudge(SyncSender<Event>);

impl Nudge {
    pub(super) fn give(&self) {
        // If there is no room, nobody waits.
        let _ = self.0.try_send(Event::Look);
    }
}

impl Lines {
    /// Reads from here on, and rings when there is something.
    pub(super) fn read(input: impl Read + Send + 'static, separator: u8, alarm: Alarm) -> io::Result<(Lines, Nudge)> {
        let (sender, events) = sync_channel(AHEAD);
        let nudge = Nudge(sender.clone());
        let reader = Reader { input, separator, rest: Vec::new(), is_too_long: false };
        std::thread::Builder::new().name("input".into()).spawn(move || reader.run(&sender, &alarm))?;
        Ok((Lines { events, now: Batch::default(), separator, number: 0, taken: 0, is_over: false }, nudge))
    }

    pub(super) fn next(&mut self) -> Next {
        loop {
            if let Some(range) = self.now.next(self.separator) {
                self.number += 1;
                self.taken += range.len() as u64 + 1;
                return Next::Line(range);
            }
            if std::mem::take(&mut self.now.is_too_long) {
                self.number += 1;
                return Next::TooLong;
            }
            if self.is_over {
                return Next::End;
            }
            match self.events.try_recv() {
                Ok(Event::Batch(batch)) if batch.bytes.is_empty() && !batch.is_too_long => self.is_over = true,
                Ok(Event::Batch(batch)) => self.now = batch,
                Ok(Event::Look) => {}
                Ok(Event::Failed(e)) => {
                    self.is_over = true;
                    return Next::Failed(e);
                }
                Err(TryRecvError::Empty) => return Next::NotYet,
                Err(TryRecvError::Disconnected) => self.is_over = true,
            }
        }
    }

    /// The line of this range, the one that was given last.
    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.now.bytes[range]
    }

    /// Sleeps until there may be a line, or somebody [nudges](Nudge).
    pub(super) fn wait(&mut self) -> Option<io::Error> {
        match self.events.recv() {
            Ok(Event::Batch(batch)) if batch.bytes.is_empty() && !batch.is_too_long => self.is_over = true,
            Ok(Event::Batch(batch)) => self.now = batch,
            Ok(Event::Look) => {}
            Ok(Event::Failed(e)) => {
                self.is_over = true;
                return Some(e);
            }
            Err(_) => self.is_over = true,
        }
        None
    }
}

impl Batch {
    fn next(&mut self, separator: u8) -> Option<Range<usize>> {
        let from = self.at;
        if from >= self.bytes.len() {
            return None;
        }
        let len = self.bytes[from..].iter().position(|&byte| byte == separator);
        let end = len.map_or(self.bytes.len(), |len| from + len);
        self.at = end + 1;
        Some(from..end)
    }
}

struct Reader<I> {
    input: I,
    separator: u8,
    /// The beginning of a line.
    rest: Vec<u8>,
    is_too_long: bool,
}

impl<I: Read> Reader<I> {
    fn run(mut self, sender: &SyncSender<Event>, alarm: &Alarm) {
        loop {
            let (event, is_last) = match self.batch() {
                Ok(Some(batch)) => (Event::Batch(batch), false),
                // An empty one is the end.
                Ok(None) => (Event::Batch(Batch::default()), true),
                Err(e) => (Event::Failed(e), true),
            };
            if sender.send(event).is_err() {
                return;
            }
            alarm.ring();
            if is_last {
                return;
            }
        }
    }

    /// The next whole lines, as soon as there are some.
    fn batch(&mut self) -> io::Result<Option<Batch>> {
        let mut bytes = std::mem::take(&mut self.rest);
        loop {
            let old = bytes.len();
            bytes.resize(old + PIECE, 0);
            let read = loop {
                match self.input.read(&mut bytes[old..]) {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    read => break read?,
                }
            };
            bytes.truncate(old + read);
            if read == 0 {
                let is_too_long = std::mem::take(&mut self.is_too_long);
                if is_too_long {
                    bytes.clear();
                }
                let is_nothing = bytes.is_empty() && !is_too_long;
                return Ok((!is_nothing).then_some(Batch { bytes, at: 0, is_too_long }));
            }
            let Some(end) = bytes[old..].iter().rposition(|&byte| byte == self.separator) else {
                if bytes.len() > LONGEST {
                    self.is_too_long = true;
                    bytes.clear();
                }
                continue;
            };
            let end = old + end + 1;
            self.rest = bytes[end..].to_vec();
            bytes.truncate(end);
            if std::mem::take(&mut self.is_too_long) {
                // What is left of it goes; what is behind it is next.
                let first = bytes.iter().position(|&byte| byte == self.separator).map_or(end, |at| at + 1);
                let mut behind = bytes.split_off(first);
                behind.append(&mut self.rest);
                self.rest = behind;
                return Ok(Some(Batch { bytes: Vec::new(), at: 0, is_too_long: true }));
            }
            return Ok(Some(Batch { bytes, at: 0, is_too_long: false }));
        }
    }
}
