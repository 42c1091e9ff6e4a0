//! What is written: results to standard output or a file, and how far it is to a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal, Write},
    mem::ManuallyDrop,
    os::{fd::FromRawFd, unix::fs::FileExt},
    path::Path,
    time::{Duration, Instant},
};

/// How often the text beside the bar is made anew.
const EVERY: Duration = Duration::from_millis(100);
/// Bytes that are written together.
const FULL: usize = 64 << 10;

/// Standard output, or a file, written in large pieces.
pub(super) struct Out {
    file: ManuallyDrop<File>,
    bytes: Vec<u8>,
    is_terminal: bool,
    /// Bytes in a file of ours, all of whole results.
    written: Option<u64>,
    /// A write has failed: nothing may follow what was written of that.
    is_torn: bool,
}

/// What is to become of a file that is there.
pub(super) enum There {
    /// So many bytes stay, which are whole lines, perhaps.
    Kept { bytes: u64, are_lines: bool },
    /// There is none, or it is empty: else, this is why nobody knows what is in it.
    Nothing(String),
}

impl Out {
    pub(super) fn new() -> Out {
        // SAFETY: the descriptor is open for as long as the process lives: it is never closed here.
        let file = ManuallyDrop::new(unsafe { File::from_raw_fd(1) });
        Out { file, bytes: Vec::new(), is_terminal: io::stdout().is_terminal(), written: None, is_torn: false }
    }

    /// A file.
    ///
    /// # Errors
    /// A line for people.
    pub(super) fn to_file(path: &Path, there: &There) -> Result<Out, String> {
        let name = path.display();
        let cannot = |what: &str, e: io::Error| format!("cannot {what} the output '{name}': {e}");
        let open = OpenOptions::new().append(true).create(true).open(path);
        let file = open.map_err(|e| cannot("open", e))?;
        let about = file.metadata().map_err(|e| cannot("look at", e))?;
        // A pipe has no length, and keeps nothing.
        let mut written = None;
        if about.is_file() {
            let len = about.len();
            let (kept, are_lines) = match there {
                There::Kept { bytes, are_lines } => (*bytes, *are_lines),
                There::Nothing(_) if len == 0 => (0, false),
                There::Nothing(why) => {
                    return Err(format!(
                        "the output '{name}' has {len} bytes, of which {why}: move it away, or name another file"
                    ));
                }
            };
            let is_another = len < kept
                || are_lines && kept > 0 && {
                    let mut last = [0];
                    let read = File::open(path).and_then(|file| file.read_exact_at(&mut last, kept - 1));
                    read.map_err(|e| cannot("read", e))?;
                    last != *b"\n"
                };
            if is_another {
                return Err(format!(
                    "the output '{name}' has {len} bytes, of which there are {kept} by the joblog: it is not the output of \
                     that run, or was changed; remove both, or name others"
                ));
            }
            if len > kept {
                file.set_len(kept).map_err(|e| cannot("shorten", e))?;
            }
            written = Some(kept);
        }
        Ok(Out { file: ManuallyDrop::new(file), bytes: Vec::new(), is_terminal: false, written, is_torn: false })
    }

    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= FULL
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Has a write failed?
    pub(super) fn is_torn(&self) -> bool {
        self.is_torn
    }

    /// Where it ends, in a file; else 0.
    pub(super) fn end(&self) -> u64 {
        self.written.map_or(0, |written| written + self.bytes.len() as u64)
    }

    /// Writes all. Once that has failed nothing is written any more.
    pub(super) fn flush(&mut self, progress: &Progress) -> io::Result<()> {
        let Out { file, bytes, is_terminal, written, is_torn } = self;
        let result = match (*is_torn, *is_terminal) {
            (true, _) => Err(io::Error::other("a write before it has failed")),
            (false, true) => progress.suspend(|| file.write_all(bytes)),
            (false, false) => file.write_all(bytes),
        };
        match (&result, written) {
            (Ok(()), Some(written)) => *written += bytes.len() as u64,
            // A part of it may be there.
            (Err(_), Some(written)) if !*is_torn => drop(file.set_len(*written)),
            _ => {}
        }
        *is_torn |= result.is_err();
        bytes.clear();
        bytes.shrink_to(4 * FULL);
        result
    }
}

/// A line on the terminal that says how far it is.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    /// When the text was made.
    told: Instant,
    began: Instant,
}

impl Progress {
    /// `len`: bytes of the input, if that is known. Nothing, unless it is wanted and standard error is a terminal.
    pub(super) fn new(is_wanted: bool, len: Option<u64>) -> Progress {
        let now = Instant::now();
        let bar = (is_wanted && io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(len, ProgressDrawTarget::stderr());
            // Without a colour, whatever NO_COLOR says.
            let style = match len {
                Some(_) => "{bar:30} {percent:>3} % · {msg} · {eta} left",
                None => "{spinner} {msg} · {elapsed}",
            };
            bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(EVERY);
            bar
        });
        Progress { bar, told: now, began: now }
    }

    /// So many jobs have ended, and this many bytes of the input are behind.
    pub(super) fn tell(&mut self, ended: u64, failed: u64, bytes: u64) {
        let Some(bar) = &self.bar else { return };
        if self.told.elapsed() < EVERY {
            return;
        }
        self.told = Instant::now();
        bar.set_position(bytes);
        let rate = ended as f64 / self.began.elapsed().as_secs_f64().max(f64::EPSILON);
        let digits = if rate < 10.0 { 1 } else { 0 };
        bar.set_message(format!("{ended} done, {failed} failed · {rate:.digits$}/s"));
    }

    /// A line for people.
    pub(super) fn say(&self, line: impl std::fmt::Display) {
        self.suspend(|| crate::logs::complain(Default::default(), line));
    }

    /// Of a program, for standard error.
    pub(super) fn pass(&self, bytes: &[u8]) {
        self.suspend(|| drop(io::stderr().write_all(bytes)));
    }

    fn suspend<R>(&self, write: impl FnOnce() -> R) -> R {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
