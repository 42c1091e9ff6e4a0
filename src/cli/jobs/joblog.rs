//! The joblog, in GNU parallel's format: a header, then a line for each job that has ended, its fields separated by tabs.
//!
//! A line is one `write` to a file that is opened for appending, so that a death leaves it whole, but for what the file system
//! does. One that is cut short is recognized by its missing end, and goes.
//!
//! Where results go to a file, `Send` says where that of the job ends there: so who resumes knows what of the file is of the joblog's jobs,
//! whatever became of the results of others.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

const HEADER: &str = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n";

/// Which jobs of an earlier run are not run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resume {
    /// Those that have ended.
    Ended,
    /// Those that went well.
    WentWell,
}

/// Numbers of jobs that are done, as ranges in their order.
#[derive(Debug, Default)]
pub(super) struct DoneSet(Vec<(u64, u64)>);

impl DoneSet {
    fn of(mut all: Vec<u64>) -> DoneSet {
        all.sort_unstable();
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for n in all {
            match ranges.last_mut() {
                Some((_, last)) if n <= last.saturating_add(1) => *last = n,
                _ => ranges.push((n, n)),
            }
        }
        DoneSet(ranges)
    }

    pub(super) fn contains(&self, n: u64) -> bool {
        let at = self.0.partition_point(|&(first, _)| first <= n);
        at > 0 && n <= self.0[at - 1].1
    }
}

/// What the line of a job says.
#[derive(Debug)]
pub(super) struct Entry<'e> {
    pub(super) seq: u64,
    pub(super) began: SystemTime,
    pub(super) ran: Duration,
    /// Where it ends in the output file; 0: there is none.
    pub(super) end: u64,
    /// Bytes of its output.
    pub(super) received: usize,
    pub(super) exit: i32,
    pub(super) signal: i32,
    pub(super) command: &'e [u8],
}

/// What a joblog tells of former runs.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// These jobs are done.
    pub(super) done: DoneSet,
    /// Its last line was cut short.
    pub(super) is_cut: bool,
    /// It was begun, and has no line of a job.
    pub(super) is_header: bool,
    /// So many bytes of an output file are those of its jobs.
    pub(super) written: u64,
    /// So many bytes of results are not in a file, or nobody said where: `Send` was 0 before there were ends in it.
    pub(super) elsewhere: u64,
    /// The first of the jobs that are done, and its command, by which the others are known to be of the same one.
    pub(super) first: Option<(u64, Vec<u8>)>,
}

/// A joblog that is written.
#[derive(Debug)]
pub(super) struct JobLog {
    file: File,
    path: PathBuf,
    line: Vec<u8>,
    /// Bytes that stay in it, and all.
    kept: u64,
    len: u64,
}

impl JobLog {
    /// Opens one that is there, to go on with it or to begin anew, or makes it. Nothing is changed in it before it [begins](Self::begin).
    /// Also returns what it tells to who goes on.
    ///
    /// # Errors
    /// A line for people.
    pub(super) fn open(path: &Path, resume: Option<Resume>) -> Result<(JobLog, Told), String> {
        let name = path.display();
        let cannot = |what: &str, e: &dyn std::fmt::Display| format!("cannot {what} the joblog '{name}': {e}");
        let file =
            OpenOptions::new().read(true).append(true).create(true).open(path).map_err(|e| cannot("open", &e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(format!(
                    "another 'shmworker jobs' writes the joblog '{name}': wait for it, or name another"
                ));
            }
            // Not every file system has locks.
            Err(TryLockError::Error(_)) => {}
        }
        let (told, whole, len) = read(&file, &name.to_string(), resume)?;
        let kept = if resume.is_some() { whole } else { 0 };
        Ok((JobLog { file, path: path.to_owned(), line: Vec::new(), kept, len }, told))
    }

    /// Cuts off what does not stay in it.
    ///
    /// # Errors
    /// A line for people.
    pub(super) fn begin(&mut self) -> Result<(), String> {
        let cannot = |what: &str, e: io::Error| format!("cannot {what} the joblog '{}': {e}", self.path.display());
        if self.kept < self.len {
            self.file.set_len(self.kept).map_err(|e| cannot("shorten", e))?;
        }
        if self.kept == 0 {
            self.file.write_all(HEADER.as_bytes()).map_err(|e| cannot("write", e))?;
        }
        Ok(())
    }

    /// # Errors
    /// A line for people.
    pub(super) fn write(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        let line = &mut self.line;
        line.clear();
        let began = entry.began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let Entry { seq, ran, end, received, exit, signal, .. } = entry;
        // A `Vec` takes all.
        let _ = write!(line, "{seq}\t:\t{began:.3}\t{:10.3}\t{end}\t{received}\t{exit}\t{signal}\t", ran.as_secs_f64());
        line.extend(one_line(entry.command));
        line.push(b'\n');
        self.append().map_err(|e| format!("cannot write the joblog '{}': {e}", self.path.display()))
    }

    fn append(&mut self) -> io::Result<()> {
        let mut line = &self.line[..];
        while !line.is_empty() {
            match self.file.write(line) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => line = &line[n..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// A command as GNU parallel has it there, to be one line.
pub(super) fn one_line(command: &[u8]) -> impl Iterator<Item = u8> {
    command.iter().map(|&byte| if byte == b'\n' { 0 } else { byte })
}

/// What it tells to who resumes, how many bytes are whole lines, and how many there are in all.
fn read(file: &File, name: &str, resume: Option<Resume>) -> Result<(Told, u64, u64), String> {
    let mut lines = BufReader::with_capacity(1 << 16, file);
    let (mut line, mut done, mut told) = (Vec::new(), Vec::new(), Told::default());
    let (mut whole, mut len, mut number) = (0, 0, 0);
    loop {
        line.clear();
        let n = lines.read_until(b'\n', &mut line).map_err(|e| format!("cannot read the joblog '{name}': {e}"))?;
        len += n as u64;
        if n == 0 || number > 0 && line.last() != Some(&b'\n') {
            return Ok((
                Told { done: DoneSet::of(done), is_cut: whole < len, is_header: whole == HEADER.len() as u64, ..told },
                whole,
                len,
            ));
        }
        number += 1;
        if number == 1 && !HEADER.as_bytes().starts_with(&line) {
            return Err(format!("'{name}' is there, and is no joblog: remove it, or name another file"));
        }
        let Some(resume) = resume else {
            // It is begun anew.
            return Ok((told, 0, file.metadata().map_or(len, |file| file.len())));
        };
        if line.last() != Some(&b'\n') {
            continue; // a header alone, cut short
        }
        whole = len;
        if number == 1 {
            continue;
        }
        let wrong = || format!("line {number} of the joblog '{name}' is damaged: remove it, or name another file");
        let Line { seq, went_well, end, received, command } = Line::of(&line).ok_or_else(wrong)?;
        told.written = told.written.max(end);
        told.elsewhere += if end == 0 { received } else { 0 };
        if went_well || resume == Resume::Ended {
            done.push(seq);
            if told.first.as_ref().is_none_or(|(first, _)| seq < *first) {
                told.first = Some((seq, command.to_vec()));
            }
        }
    }
}

/// A line that was written, as far as anybody asks for it.
struct Line<'l> {
    seq: u64,
    went_well: bool,
    /// As in [`Entry`].
    end: u64,
    received: u64,
    command: &'l [u8],
}

impl Line<'_> {
    fn of(line: &[u8]) -> Option<Line<'_>> {
        let fields: Vec<&[u8]> = line.strip_suffix(b"\n")?.splitn(9, |&byte| byte == b'\t').collect();
        let text = |at: usize| fields.get(at).and_then(|field| std::str::from_utf8(field).ok());
        let number = |at: usize| text(at)?.parse::<i64>().ok();
        let command = *fields.get(8)?;
        let (exit, signal) = (number(6)?, number(7)?);
        let [seq, end, received] = [0, 4, 5].map(|at| text(at)?.parse().ok());
        Some(Line { seq: seq?, went_well: exit == 0 && signal == 0, end: end?, received: received?, command })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn done_is_what_is_in_a_range() {
        let done = DoneSet::of(vec![3, 1, 2, 2, 9, u64::MAX]);
        assert_eq!(done.0.len(), 3);
        let found: Vec<u64> = (0..12).filter(|&n| done.contains(n)).collect();
        assert_eq!(found, [1, 2, 3, 9]);
        assert!(done.contains(u64::MAX) && !DoneSet::default().contains(0));
    }

    /// Written by GNU parallel 20221122.
    const THEIRS: &str = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n\
        1\t:\t1795349943.909\t     0.000\t0\t0\t0\t0\ttrue\n\
        2\t:\t1795349943.912\t     0.003\t0\t0\t1\t0\tfalse\n\
        3\t:\t1795349943.920\t     1.176\t0\t0\t-1\t15\tsleep 3\n";

    #[test]
    fn theirs_is_gone_on_with_and_what_was_cut_short_goes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, format!("{THEIRS}4\t:\t17953")).unwrap();
        let (mut log, Told { done, is_cut, first, .. }) = JobLog::open(file.path(), Some(Resume::WentWell)).unwrap();
        assert_eq!(first, Some((1, b"true".to_vec())));
        assert!(is_cut && done.contains(1) && !done.contains(2) && !done.contains(3) && !done.contains(4));
        log.begin().unwrap();
        let began = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_349_945_435);
        let ran = Duration::from_micros(3400);
        log.write(&Entry { seq: 4, began, ran, end: 0, received: 4, exit: 0, signal: 0, command: b"echo 'a\nb'" })
            .unwrap();
        drop(log);
        let ours = "4\t:\t1795349945.435\t     0.003\t0\t4\t0\t0\techo 'a\0b'\n";
        assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{THEIRS}{ours}"));
        let (_, Told { done, is_cut, .. }) = JobLog::open(file.path(), Some(Resume::Ended)).unwrap();
        assert!(!is_cut && (1..=4).all(|n| done.contains(n)));
    }

    #[test]
    fn what_is_no_joblog_stays_as_it_is() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, resume) in
            [("mine\n", None), ("mine", Some(Resume::Ended)), (&format!("{HEADER}x\n"), Some(Resume::Ended))]
        {
            std::fs::write(&file, text).unwrap();
            assert!(JobLog::open(file.path(), resume).is_err(), "{text:?}");
            assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        }
    }

    #[test]
    fn a_second_run_does_not_write_into_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let first = JobLog::open(file.path(), None).unwrap();
        assert!(JobLog::open(file.path(), Some(Resume::Ended)).unwrap_err().contains("another"));
        drop(first);
        JobLog::open(file.path(), None).unwrap();
    }
}
