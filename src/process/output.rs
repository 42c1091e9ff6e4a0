//! What children write, line by line.

use super::handover::{OutputState, number, take_up};
use std::{
    io::{ErrorKind, Read},
    os::fd::{AsFd, OwnedFd},
};

/// A longer line is passed on in pieces, so that no child can make the coordinator hold an endless one.
const LONGEST_LINE: usize = 64 << 10;
/// The same of one that looks like an object of JSON, whose pieces would be none.
const LONGEST_OBJECT: usize = 1 << 20;

/// A line that starts with this byte is the writer's last word to the coordinator, not output: why it gives up.
const LAST_WORD: u8 = 1;

/// One end of a child's output.
pub(crate) struct Lines {
    pipe: std::fs::File,
    pending: Vec<u8>,
    /// So much of it has no end of line.
    seen: usize,
}

impl Lines {
    /// `pipe` is non-blocking.
    pub(crate) fn new(pipe: OwnedFd) -> Lines {
        Lines { pipe: pipe.into(), pending: Vec::new(), seen: 0 }
    }

    /// What another program needs to read on.
    pub(crate) fn state(&self) -> OutputState {
        OutputState { pipe: number(&self.pipe), pending: self.pending.clone() }
    }

    /// What [`state`](Self::state) has described.
    ///
    /// # Errors
    /// The pipe is not there.
    pub(crate) fn of(state: &OutputState) -> nix::Result<Lines> {
        let pending = state.pending.clone();
        Ok(Lines { pipe: take_up(state.pipe)?.into(), seen: pending.len(), pending })
    }

    /// Passes on all whole lines that are there now, and at the end of the output the rest. False: the output has ended.
    pub(crate) fn pump(&mut self, mut line: impl FnMut(&str)) -> bool {
        let mut chunk = [0; 16 << 10];
        let mut open = true;
        loop {
            match self.pipe.read(&mut chunk) {
                Ok(0) => open = false,
                Ok(n) => {
                    self.pending.extend_from_slice(&chunk[..n]);
                    self.pass_on(&mut line);
                    continue;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(_) => open = false,
            }
            if !open {
                self.finish(&mut line);
            }
            return open;
        }
    }

    /// Passes on what stands there without an end of line: the writer is gone.
    pub(crate) fn finish(&mut self, mut line: impl FnMut(&str)) {
        self.seen = 0;
        if !self.pending.is_empty() {
            line(&String::from_utf8_lossy(&std::mem::take(&mut self.pending)));
        }
    }

    fn pass_on(&mut self, line: &mut impl FnMut(&str)) {
        let (mut start, mut from) = (0, self.seen);
        while let Some(end) = self.pending[from..].iter().position(|&b| b == b'\n').map(|n| from + n) {
            line(String::from_utf8_lossy(&self.pending[start..end]).trim_end_matches('\r'));
            (start, from) = (end + 1, end + 1);
        }
        self.pending.drain(..start);
        self.seen = self.pending.len();
        let longest = if self.pending.first() == Some(&b'{') { LONGEST_OBJECT } else { LONGEST_LINE };
        if self.seen >= longest {
            self.finish(line);
        }
    }
}

impl AsFd for Lines {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

/// In a child: says why it is about to give up. The coordinator shows it once, and in its own name.
pub(crate) fn last_word(why: &str) {
    eprintln!("{}{}", LAST_WORD as char, why.replace('\n', " "));
}

/// Is this line its writer's last word?
pub(crate) fn as_last_word(line: &str) -> Option<&str> {
    line.strip_prefix(LAST_WORD as char)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::{fcntl::OFlag, unistd::pipe2};
    use std::io::Write;

    fn lines(input: &[&[u8]]) -> Vec<String> {
        let (read, write) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).unwrap();
        let mut write = std::fs::File::from(write);
        let mut lines = Lines::new(read);
        let mut got = Vec::new();
        for piece in input {
            write.write_all(piece).unwrap();
            assert!(lines.pump(|l| got.push(l.to_owned())));
        }
        drop(write);
        // A child that another test has just forked may have it open until it executes its program.
        while lines.pump(|l| got.push(l.to_owned())) {
            std::thread::yield_now();
        }
        got
    }

    #[test]
    fn lines_come_whole_however_they_were_written() {
        assert_eq!(lines(&[b"one\ntw", b"o\r\n\nthree"]), ["one", "two", "", "three"]);
        assert_eq!(lines(&[b"\xff\n"]), ["\u{fffd}"]);
    }

    #[test]
    fn a_long_object_comes_whole() {
        let (first, rest) = (vec![b'{'; 40 << 10], vec![b'}'; 40 << 10]);
        let got = lines(&[&first, &rest, b"\nmore\n"]);
        assert_eq!(got.iter().map(String::len).collect::<Vec<_>>(), [80 << 10, 4]);
        let piece = vec![b'{'; 32 << 10];
        let endless = lines(&[&piece[..]; 33]);
        assert_eq!(endless.iter().map(String::len).collect::<Vec<_>>(), [1 << 20, 32 << 10]);
    }

    #[test]
    fn an_endless_line_comes_in_pieces() {
        let piece = vec![b'x'; 32 << 10];
        let got = lines(&[&piece, &piece, &piece, b"\n"]);
        assert_eq!(got.iter().map(String::len).collect::<Vec<_>>(), [64 << 10, 32 << 10]);
    }
}
