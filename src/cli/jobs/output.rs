//! What is written: results to standard output or a file, and how far it is to a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal, Write},
    mem::ManuallyDrop,
    os::fd::FromRawFd,
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
}

impl Out {
    pub(super) fn new() -> Out {
        // SAFETY: the descriptor is open for as long as the process lives: it is never closed here.
        let file = ManuallyDrop::new(unsafe { File::from_raw_fd(1) });
        Out { file, bytes: Vec::new(), is_terminal: io::stdout().is_terminal() }
    }

    /// A file, which keeps so many bytes of what is in it.
    ///
    /// # Errors
    /// A line for people.
    pub(super) fn to_file(path: &Path, kept: u64) -> Result<Out, String> {
        let name = path.display();
        let cannot = |what: &str, e: io::Error| format!("cannot {what} the output '{name}': {e}");
        let open = OpenOptions::new().append(true).create(true).open(path);
        let file = open.map_err(|e| cannot("open", e))?;
        let about = file.metadata().map_err(|e| cannot("look at", e))?;
        // A pipe has no length, and keeps nothing.
        if about.is_file() {
            let len = about.len();
            if len < kept {
                return Err(format!(
                    "the output '{name}' has {len} bytes, of which there are {kept} by the joblog: it is not the output of \
                     that run, or was changed; remove both, or name others"
                ));
            }
            if len > kept {
                file.set_len(kept).map_err(|e| cannot("shorten", e))?;
            }
        }
        Ok(Out { file: ManuallyDrop::new(file), bytes: Vec::new(), is_terminal: false })
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

    /// Writes all.
    pub(super) fn flush(&mut self, progress: &Progress) -> io::Result<()> {
        let Out { file, bytes, is_terminal } = self;
        let written = if *is_terminal { progress.suspend(|| file.write_all(bytes)) } else { file.write_all(bytes) };
        bytes.clear();
        bytes.shrink_to(4 * FULL);
        written
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
