//! The journal of a durable client: what was accepted from it and what is done, as an append-only file beside the segment's.
//!
//! The segment in its file is the truth for as long as the machine runs. When the machine goes down the pages of that file reach
//! the disk in any order or not at all, so after another boot the segment is not looked at, and the state is what the journal says.
//!
//! # Format
//!
//! Numbers are little-endian. `FILE.journal` is that of the client [`MAIN`], `FILE.journal.NAME` that of another.
//!
//! ```text
//!    0  magic         `shmwjrnl`
//!    8  version       u32
//!   12  state         u64: the id that the segment's header has too
//!   20  client        its name, 64 bytes, padded with zeroes
//!   84  checksum      u32, of the 84 bytes before it
//!   88  records       length u32 | checksum u32 | body, of so many bytes
//! ```
//!
//! A body is a [`Head`] in postcard's encoding, which is specified (<https://postcard.jamesmunns.com/wire-format>), then the bytes
//! of an input or an output up to its end. The checksum is CRC-32 (that of gzip) over the state's id, the length and the body: it
//! finds each change of up to 32 neighbouring bits, and others but for one in 2³². With the id in it, a record of another state's
//! journal is none.
//!
//! | record   | written                                              | says                                                |
//! |----------|------------------------------------------------------|-----------------------------------------------------|
//! | Task     | before the first record that names its kind          | the name of a kind                                  |
//! | Accepted | before the task is READY                             | its number, its key, terms; then the input          |
//! | Done     | once its result was delivered, before its descriptor | its number, how it ended                            |
//! |          | is free; at an import also for what waits to be      | the same; then the output                           |
//! |          | delivered                                            |                                                     |
//! | Finished | by a compaction, and by an import                    | a range of numbers that are done and delivered      |
//!
//! The client numbers its tasks, and gives no number twice; the descriptor has the number too. The key is the caller's own, and
//! nothing is concluded from it here. So what is accepted, not done, and in no descriptor of the segment was never READY, or
//! its descriptor is lost: either way it is to be submitted. What is done is never run again. A result that was not taken is not
//! in the journal: its task is.
//!
//! # Invariants
//!
//! 1. Reading ends at the first record that is not whole, does not have its checksum or is of no known kind. Nothing behind it
//!    is trusted, and who opens the journal to write cuts it off there.
//! 2. A journal has one writer at a time: it is locked (`flock(2)`) for as long as it is open to be written. A batch is one `write(2)`,
//!    at the end (O_APPEND).
//! 3. A batch of which not all was written is cut off again before anybody is told that nothing was accepted. If it can't be cut off,
//!    nothing is accepted any more.
//!
//! Why one writer: POSIX has it that an O_APPEND write begins at the end, as one step with it, and Linux holds the inode's lock
//! for all of the write, so whole writes of several processes do not interleave. But none has to be whole: a full disk, RLIMIT_FSIZE,
//! and on Linux a SIGKILL between two pages (`generic_perform_write`) leave the first part of one. At the end of the
//! file that is a torn tail; with others writing on behind it, their records would come after a bad one.
//!
//! # What a death leaves
//!
//! | the writer dies                     | and leaves                                                                       |
//! |-------------------------------------|----------------------------------------------------------------------------------|
//! | in a write                          | a torn tail, of tasks that nobody was told are accepted: cut                     |
//! | between the write and READY         | a number that no descriptor has: submitted at the next start                     |
//! | between the delivery and its record | a result that is delivered again, under its key                                  |
//! | in a compaction                     | the former journal, and a temporary file `FILE.journal~PID` that nobody reads    |
//! | in the creation                     | the same without the former journal                                              |
//!
//! The kernel releases the lock with the last process that has the file: the writer must not be forked after it was opened.
//!
//! What checks this page: the tests below, `tests/journal.rs`, `fuzz/fuzz_targets/recover.rs`.

use crate::{
    Outcome,
    lockfree::descriptor::OF_NAME,
    mem::backing::{LONGEST, is_pool_name},
};
use nix::sys::{
    resource::{Resource, getrlimit},
    signal::SigSet,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufReader, Read, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

/// `shmwjrnl`.
const MAGIC: &[u8; 8] = b"shmwjrnl";
/// Of this format. Raised by every change of it.
pub(crate) const VERSION: u32 = 1;
/// The client that says no other name.
pub(crate) const MAIN: &str = "main";

/// The name of the thread that syncs. It holds no lock that a fork would miss but the journal's own.
pub(crate) const SYNCER: &str = "shmworker-sync";

const HEADER: usize = 88;
/// Length and checksum of a record.
const PREFIX: usize = 8;
/// The longest body: the largest payload is 64 MiB.
const LONGEST_BODY: usize = 80 << 20;
/// The largest batch: Linux writes up to 2 GiB less a page at once.
const LARGEST_BATCH: usize = 1 << 30;
/// From this size on a journal of which less than a quarter counts is rewritten: as it is opened, and while it is written.
const COMPACTED_FROM: u64 = 1 << 20;
const COMPACTED_LIVE_FROM: u64 = 64 << 20;

/// Why a journal can't be read, or does not take a record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The kernel refused a step.
    #[error("cannot {step} the journal '{}': {source}", path.display())]
    Os {
        /// What was refused.
        step: &'static str,
        /// The journal.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// No client can have this name.
    #[error("invalid client name '{0}': use 1 to {LONGEST} letters, digits, '.', '_' and '-'")]
    Name(String),
    /// Somebody else writes it.
    #[error("the journal '{}' is written by another process: end that first", path.display())]
    InUse {
        /// The journal.
        path: PathBuf,
    },
    /// It is something else.
    #[error("'{}' is no journal: move it away, or name another file", path.display())]
    NotAJournal {
        /// The file.
        path: PathBuf,
    },
    /// It was written by another version of this program.
    #[error(
        "the journal '{}' is of version {found}, where this program knows version {expected}: use the program that wrote it, \
         whose 'shmworker export' gives what 'shmworker import' of this one takes",
        path.display()
    )]
    Version {
        /// The journal.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// Its first bytes are not as they were written.
    #[error("the journal '{}' is damaged in its header, so nothing of it is known: restore it, or move it away", path.display())]
    Damaged {
        /// The journal.
        path: PathBuf,
    },
    /// It goes with another segment.
    #[error(
        "the journal '{}' is of another state ({found:016x}) than the segment beside it ({expected:016x}): bring the two together \
         that belong together, or move one away",
        path.display()
    )]
    AnotherState {
        /// The journal.
        path: PathBuf,
        /// Its state.
        found: u64,
        /// The segment's.
        expected: u64,
    },
    /// It would be longer than a file of this process may be.
    #[error(
        "the journal '{}' would be longer than the limit on file sizes, {limit} bytes: raise it with 'ulimit -f'",
        path.display()
    )]
    Limit {
        /// The journal.
        path: PathBuf,
        /// The limit, RLIMIT_FSIZE.
        limit: u64,
    },
    /// So much does not fit into a record.
    #[error("{0} bytes are more than a journal takes at once")]
    TooLarge(usize),
    /// An earlier error has left it in no state to be written.
    #[error("the journal '{}' takes nothing more since {why}: end the pool, see to that, and start it again", path.display())]
    Broken {
        /// The journal.
        path: PathBuf,
        /// What went wrong.
        why: String,
    },
}

/// When what was written is also on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncWhen {
    /// At the latest so long after it was written, by a thread of its own. What was accepted in that time is lost with the machine,
    /// and with it alone.
    Interval(Duration),
    /// Before it counts as accepted.
    EveryBatch,
}

impl Default for SyncWhen {
    fn default() -> SyncWhen {
        SyncWhen::Interval(Duration::from_secs(1))
    }
}

/// What is said of a task beside its number, its key and its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Terms {
    /// Hash of its name, and what the input is encoded in.
    pub(crate) kind: u32,
    /// Number of its queue.
    pub(crate) queue: u16,
    pub(crate) max_attempts: u8,
    /// No attempt begins later, in milliseconds since 1970; 0: no such limit.
    pub(crate) expires_at_ms: u64,
    pub(crate) run_ms: u32,
    pub(crate) silence_ms: u32,
    pub(crate) timeout_ms: u32,
    pub(crate) first_pause_ms: u32,
    pub(crate) longest_pause_ms: u32,
    pub(crate) retry_on: u8,
    pub(crate) max_deaths: u8,
}

/// [`Outcome`], as it is written: variants are known by their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    Completed,
    Cancelled,
    Expired,
    WorkerDied,
    AddresseeDied,
    TimedOut,
}

impl From<Outcome> for End {
    fn from(outcome: Outcome) -> End {
        match outcome {
            Outcome::Completed => End::Completed,
            Outcome::Cancelled => End::Cancelled,
            Outcome::Expired => End::Expired,
            Outcome::WorkerDied => End::WorkerDied,
            Outcome::AddresseeDied => End::AddresseeDied,
            Outcome::TimedOut => End::TimedOut,
        }
    }
}

impl From<End> for Outcome {
    fn from(end: End) -> Outcome {
        match end {
            End::Completed => Outcome::Completed,
            End::Cancelled => Outcome::Cancelled,
            End::Expired => Outcome::Expired,
            End::WorkerDied => Outcome::WorkerDied,
            End::AddresseeDied => Outcome::AddresseeDied,
            End::TimedOut => Outcome::TimedOut,
        }
    }
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct How {
    pub(crate) end: End,
    /// The worker's own word.
    pub(crate) status: u32,
    pub(crate) attempts: u8,
}

/// What stands before the bytes of a record. Variants are known by their place: new ones come last, with a new [`VERSION`].
#[derive(Debug, Serialize, Deserialize)]
enum Head<'a> {
    Task {
        kind: u32,
        name: &'a str,
    },
    Accepted {
        number: u64,
        key: Option<&'a str>,
        terms: Terms,
    },
    Done {
        number: u64,
        how: How,
        /// Else the output follows.
        is_delivered: bool,
    },
    Finished {
        first: u64,
        last: u64,
    },
}

/// A record that is to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Record<'a> {
    Accepted {
        number: u64,
        key: Option<&'a str>,
        terms: Terms,
        input: &'a [u8],
    },
    Delivered {
        number: u64,
        how: How,
    },
    /// It is done, and its result waits to be delivered.
    Waits {
        number: u64,
        how: How,
        output: &'a [u8],
    },
    Finished {
        first: u64,
        last: u64,
    },
}

/// A task that was accepted, and whose result was not delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) key: Option<String>,
    pub(crate) terms: Terms,
    pub(crate) input: Vec<u8>,
    /// It is done; with its output.
    pub(crate) ended: Option<(How, Vec<u8>)>,
}

/// Numbers, as ranges in their order that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers(BTreeMap<u64, u64>);

impl Numbers {
    pub(crate) fn contains(&self, number: u64) -> bool {
        self.0.range(..=number).next_back().is_some_and(|(_, &last)| number <= last)
    }

    pub(crate) fn insert(&mut self, first: u64, last: u64) {
        let (mut first, mut last) = (first, last.max(first));
        while let Some((&other, &end)) = self.0.range(..=last.saturating_add(1)).next_back() {
            if end.saturating_add(1) < first {
                break;
            }
            self.0.remove(&other);
            (first, last) = (first.min(other), last.max(end));
        }
        self.0.insert(first, last);
    }

    /// First and last of each range.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(&first, &last)| (first, last))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> u64 {
        self.ranges().fold(0u64, |n, (first, last)| n.saturating_add((last - first).saturating_add(1)))
    }
}

/// What a journal says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Id of the state.
    pub(crate) state: u64,
    pub(crate) client: String,
    /// Names of tasks, by their kinds.
    pub(crate) tasks: BTreeMap<u32, String>,
    pub(crate) open: BTreeMap<u64, Open>,
    pub(crate) done: Numbers,
    pub(crate) records: u64,
    /// Bytes up to the end of the last good record, and in all.
    pub(crate) whole: u64,
    pub(crate) bytes: u64,
    /// Why nothing is read from `whole` on, if there is something.
    pub(crate) end: Option<&'static str>,
    /// Where the records lie that a compaction keeps.
    places: HashMap<u64, Places>,
}

/// Offset and length of the records of an open task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Places {
    accepted: (u64, u32),
    ended: Option<(u64, u32)>,
}

impl Places {
    fn bytes(self) -> u64 {
        u64::from(self.accepted.1) + self.ended.map_or(0, |(_, len)| len.into())
    }
}

impl Contents {
    /// Those of a journal in which nothing is written yet.
    pub(crate) fn empty(state: u64, client: String) -> Contents {
        Contents {
            state,
            client,
            tasks: BTreeMap::new(),
            open: BTreeMap::new(),
            done: Numbers::default(),
            records: 0,
            whole: HEADER as u64,
            bytes: HEADER as u64,
            end: None,
            places: HashMap::new(),
        }
    }

    /// What a task is called; of one that has no name its number.
    pub(crate) fn name_of(&self, kind: u32) -> Option<&str> {
        self.tasks.get(&(kind & OF_NAME)).map(String::as_str)
    }

    /// The first number that was never used; they begin with 1.
    pub(crate) fn next_number(&self) -> u64 {
        let done = self.done.ranges().last().map(|(_, last)| last);
        let open = self.open.last_key_value().map(|(&number, _)| number);
        done.max(open).map_or(1, |last| last.saturating_add(1))
    }

    /// Takes a record, which lies at `at`. False: it is none.
    fn take(&mut self, body: &[u8], at: u64) -> bool {
        let Ok((head, rest)) = postcard::take_from_bytes::<Head<'_>>(body) else { return false };
        let place = (at, (PREFIX + body.len()) as u32);
        match head {
            Head::Task { kind, name } if rest.is_empty() => {
                self.tasks.entry(kind).or_insert_with(|| name.to_owned());
            }
            Head::Accepted { number, key, terms } => {
                // What is done is never run again; and the first of two is the one that was run.
                if !self.done.contains(number) && !self.open.contains_key(&number) {
                    let key = key.map(str::to_owned);
                    self.open.insert(number, Open { key, terms, input: rest.to_vec(), ended: None });
                    self.places.insert(number, Places { accepted: place, ended: None });
                }
            }
            Head::Done { number, is_delivered: true, .. } if rest.is_empty() => self.finish(number, number),
            Head::Done { number, how, is_delivered: false } => {
                let (open, places) = (self.open.get_mut(&number), self.places.get_mut(&number));
                if let (Some(open @ Open { ended: None, .. }), Some(places)) = (open, places) {
                    open.ended = Some((how, rest.to_vec()));
                    places.ended = Some(place);
                }
            }
            Head::Finished { first, last } if rest.is_empty() && first <= last => self.finish(first, last),
            _ => return false,
        }
        true
    }

    fn finish(&mut self, first: u64, last: u64) {
        self.done.insert(first, last);
        while let Some((&number, _)) = self.open.range(first..=last).next() {
            self.open.remove(&number);
            self.places.remove(&number);
        }
    }
}

/// Where the journal of a client lies, beside the segment in this file.
pub(crate) fn path_of(state: &Path, client: &str) -> PathBuf {
    let mut name = OsString::from(state);
    name.push(".journal");
    if client != MAIN {
        name.push(".");
        name.push(client);
    }
    name.into()
}

/// The journals of all clients beside this file, in the order of their names.
///
/// # Errors
/// The directory can't be read.
pub(crate) fn all_of(state: &Path) -> Result<Vec<PathBuf>, JournalError> {
    let dir = dir_of(state);
    let cannot = |source| JournalError::Os { step: "look for", path: path_of(state, MAIN), source };
    let main = path_of(state, MAIN);
    let main = main.file_name().unwrap_or_default();
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(cannot)? {
        let name = entry.map_err(cannot)?.file_name();
        let rest = name.as_encoded_bytes().strip_prefix(main.as_encoded_bytes());
        let client = rest.and_then(|rest| std::str::from_utf8(rest).ok());
        let is_one = |rest: &str| rest.is_empty() || rest.strip_prefix('.').is_some_and(is_pool_name);
        if client.is_some_and(is_one) {
            found.push(state.with_file_name(name));
        }
    }
    found.sort();
    Ok(found)
}

/// Of which state the journals beside this file are; `None`: there are none.
///
/// # Errors
/// One can't be read, or they are of several.
pub(crate) fn state_of(state: &Path) -> Result<Option<u64>, JournalError> {
    let mut id = None;
    for path in all_of(state)? {
        let found = read_header(&open_file(&path, false)?, &path)?.state;
        match id {
            Some(expected) if expected != found => return Err(JournalError::AnotherState { path, found, expected }),
            _ => id = Some(found),
        }
    }
    Ok(id)
}

fn dir_of(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// Reads a journal, which may be written meanwhile: then it ends where it did at some moment.
///
/// # Errors
/// [`JournalError`]; a damaged record is none.
pub(crate) fn read(path: &Path) -> Result<Contents, JournalError> {
    let file = open_file(path, false)?;
    scan(&file, path)
}

/// Not a link, and nothing that would block.
fn open_file(path: &Path, is_written: bool) -> Result<File, JournalError> {
    let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).append(is_written).custom_flags(flags.bits()).open(path);
    let cannot = |step| move |source| JournalError::Os { step, path: path.to_owned(), source };
    let file = file.map_err(cannot("open"))?;
    match file.metadata().map_err(cannot("look at"))?.is_file() {
        true => Ok(file),
        false => Err(JournalError::NotAJournal { path: path.to_owned() }),
    }
}

fn header(state: u64, client: &str) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..20].copy_from_slice(&state.to_le_bytes());
    header[20..20 + client.len()].copy_from_slice(client.as_bytes());
    let sum = crc32fast::hash(&header[..84]);
    header[84..].copy_from_slice(&sum.to_le_bytes());
    header
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |four| u32::from_le_bytes(*four))
}

fn checksum(state: u64, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&state.to_le_bytes());
    hasher.update(&(body.len() as u32).to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

fn scan(file: &File, path: &Path) -> Result<Contents, JournalError> {
    let mut contents = read_header(file, path)?;
    let (bytes, cannot) = (contents.bytes, |source| JournalError::Os { step: "read", path: path.to_owned(), source });
    let mut input = BufReader::with_capacity(1 << 18, FromFile { file, at: contents.whole });
    let mut body = Vec::new();
    while contents.whole < bytes {
        contents.end = next(&mut input, &mut contents, &mut body).map_err(cannot)?;
        if contents.end.is_some() {
            break;
        }
    }
    Ok(contents)
}

/// What the header says, of a journal without records.
fn read_header(file: &File, path: &Path) -> Result<Contents, JournalError> {
    let cannot = |source| JournalError::Os { step: "read", path: path.to_owned(), source };
    let bytes = file.metadata().map_err(cannot)?.len();
    let mut header = [0; HEADER];
    match file.read_exact_at(&mut header, 0) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(no_journal(path, &header)),
        Err(e) => return Err(cannot(e)),
    }
    if &header[..8] != MAGIC {
        return Err(no_journal(path, &header));
    }
    let (found, expected) = (u32_at(&header, 8), VERSION);
    if crc32fast::hash(&header[..84]) != u32_at(&header, 84) {
        return Err(JournalError::Damaged { path: path.to_owned() });
    }
    if found != expected {
        return Err(JournalError::Version { path: path.to_owned(), found, expected });
    }
    let client = String::from_utf8_lossy(&header[20..84]).trim_end_matches('\0').to_owned();
    let state = header[12..].first_chunk().map_or(0, |id| u64::from_le_bytes(*id));
    Ok(Contents { bytes, ..Contents::empty(state, client) })
}

/// Reads one more record. `Some`: why there is none.
fn next(input: &mut impl Read, contents: &mut Contents, body: &mut Vec<u8>) -> io::Result<Option<&'static str>> {
    const TORN: Option<&str> = Some("a record is cut short");
    let left = contents.bytes - contents.whole;
    let mut prefix = [0; PREFIX];
    if left < PREFIX as u64 {
        return Ok(TORN);
    }
    input.read_exact(&mut prefix)?;
    let (len, sum) = (u32_at(&prefix, 0) as usize, u32_at(&prefix, 4));
    if len == 0 || len > LONGEST_BODY {
        return Ok(Some("a record has no sound length"));
    }
    if left < (PREFIX + len) as u64 {
        return Ok(TORN);
    }
    body.resize(len, 0);
    input.read_exact(body)?;
    if checksum(contents.state, body) != sum {
        return Ok(Some("a record does not have its checksum"));
    }
    if !contents.take(body, contents.whole) {
        return Ok(Some("a record is of no known kind"));
    }
    contents.records += 1;
    contents.whole += (PREFIX + len) as u64;
    Ok(None)
}

/// What is short of the magic is something else; what begins as a journal is a damaged one.
fn no_journal(path: &Path, header: &[u8]) -> JournalError {
    match header.starts_with(MAGIC) {
        true => JournalError::Damaged { path: path.to_owned() },
        false => JournalError::NotAJournal { path: path.to_owned() },
    }
}

/// Reads from some place on, whatever others do with the file's own.
struct FromFile<'f> {
    file: &'f File,
    at: u64,
}

impl Read for FromFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// A journal that is written: by any thread of this process.
///
/// Dropped, it syncs what it has written.
pub(crate) struct Journal {
    shared: Arc<Shared>,
    /// Syncs once in an interval.
    syncer: Option<JoinHandle<()>>,
    /// A fork has a copy of this, and no thread.
    process: u32,
}

struct Shared {
    path: PathBuf,
    state: u64,
    client: String,
    sync: SyncWhen,
    log: Mutex<Log>,
    wanted: Condvar,
}

struct Log {
    file: Arc<File>,
    /// Its length: all whole records.
    len: u64,
    /// Bytes of these that a compaction would keep, about.
    live: u64,
    compact_from: u64,
    /// RLIMIT_FSIZE, past which a write ends the process.
    limit: u64,
    names: BTreeMap<u32, String>,
    places: HashMap<u64, Places>,
    done: Numbers,
    buffer: Vec<u8>,
    /// Something was written that is not synced.
    is_dirty: bool,
    is_over: bool,
    broken: Option<String>,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Journal").field(&self.shared.path).finish()
    }
}

impl Journal {
    /// Makes the journal of a client beside the segment in this file.
    ///
    /// # Errors
    /// [`JournalError`]; there is one already.
    pub(crate) fn create(state: &Path, id: u64, client: &str, sync: SyncWhen) -> Result<Journal, JournalError> {
        if !is_pool_name(client) {
            return Err(JournalError::Name(client.to_owned()));
        }
        let path = path_of(state, client);
        let temporary = temporary(&path);
        let cannot = |step| {
            let path = path.clone();
            move |source| JournalError::Os { step, path, source }
        };
        let file = new_file(&temporary).map_err(cannot("create"))?;
        let made = (|| {
            (&file).write_all(&header(id, client))?;
            file.sync_all()?;
            // Fails if there is one: a rename would replace it.
            fs::hard_link(&temporary, &path)
        })();
        let _ = fs::remove_file(&temporary);
        made.map_err(cannot("create"))?;
        sync_dir(&path).map_err(cannot("sync the directory of"))?;
        drop(file);
        Journal::open(state, client, sync).map(|(journal, _)| journal)
    }

    /// Opens the journal of a client to go on with it: what is no record at its end is cut off, and it is rewritten if that makes it
    /// much shorter.
    ///
    /// # Errors
    /// [`JournalError`].
    pub(crate) fn open(state: &Path, client: &str, sync: SyncWhen) -> Result<(Journal, Contents), JournalError> {
        if !is_pool_name(client) {
            return Err(JournalError::Name(client.to_owned()));
        }
        Journal::open_at(&path_of(state, client), sync)
    }

    /// The same by its own path.
    pub(crate) fn open_at(path: &Path, sync: SyncWhen) -> Result<(Journal, Contents), JournalError> {
        let path = path.to_owned();
        let cannot = |step| {
            let path = path.clone();
            move |source| JournalError::Os { step, path, source }
        };
        let file = open_file(&path, true)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(JournalError::InUse { path }),
            Err(TryLockError::Error(e)) => return Err(cannot("lock")(e)),
        }
        // Whoever had it until now may have put another in its place.
        let (ours, named) = (file.metadata(), fs::symlink_metadata(&path));
        let is_named = ours.and_then(|ours| Ok((ours.dev(), ours.ino()) == named.map(|n| (n.dev(), n.ino()))?));
        if !is_named.map_err(cannot("look at"))? {
            return Err(JournalError::InUse { path });
        }
        let contents = scan(&file, &path)?;
        if contents.whole < contents.bytes {
            file.set_len(contents.whole).and_then(|()| file.sync_all()).map_err(cannot("shorten"))?;
        }
        let live = HEADER as u64 + contents.places.values().map(|places| places.bytes()).sum::<u64>();
        let log = Log {
            file: Arc::new(file),
            len: contents.whole,
            live,
            compact_from: COMPACTED_FROM,
            limit: getrlimit(Resource::RLIMIT_FSIZE).map_or(u64::MAX, |(soft, _)| soft),
            names: contents.tasks.clone(),
            places: contents.places.clone(),
            done: contents.done.clone(),
            buffer: Vec::new(),
            is_dirty: false,
            is_over: false,
            broken: None,
        };
        let (state, client) = (contents.state, contents.client.clone());
        let shared = Shared { path, state, client, sync, log: Mutex::new(log), wanted: Condvar::new() };
        shared.compact_if_due(&mut shared.lock());
        shared.lock().compact_from = COMPACTED_LIVE_FROM;
        Ok((Journal { shared: Arc::new(shared), syncer: None, process: std::process::id() }, contents))
    }

    /// Has what is written synced in intervals from now on, if it is to be: starts a thread.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn sync_in_intervals(&mut self) -> Result<(), JournalError> {
        let SyncWhen::Interval(interval) = self.shared.sync else { return Ok(()) };
        if self.syncer.is_none() {
            let shared = self.shared.clone();
            let thread = std::thread::Builder::new().name(SYNCER.into()).spawn(move || {
                // Signals are for the program's own threads.
                let _ = SigSet::all().thread_block();
                shared.sync_each(interval);
            });
            let cannot =
                |source| JournalError::Os { step: "start the thread of", path: self.shared.path.clone(), source };
            self.syncer = Some(thread.map_err(cannot)?);
        }
        Ok(())
    }

    /// Says what a task is called.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub(crate) fn name(&self, kind: u32, name: &str) -> Result<(), JournalError> {
        let kind = kind & OF_NAME;
        let mut log = self.shared.lock();
        if log.names.contains_key(&kind) {
            return Ok(());
        }
        log.buffer.clear();
        put(&mut log.buffer, self.shared.state, &Head::Task { kind, name }, &[])?;
        self.shared.write(&mut log, false)?;
        log.names.insert(kind, name.to_owned());
        Ok(())
    }

    /// Writes these records, as one: after an error none of them is there.
    ///
    /// # Errors
    /// [`JournalError`]: none was accepted.
    pub(crate) fn append(&self, records: &[Record<'_>]) -> Result<(), JournalError> {
        let mut log = self.shared.lock();
        log.buffer.clear();
        let mut places = Vec::with_capacity(records.len());
        for record in records {
            let at = log.len + log.buffer.len() as u64;
            let (head, rest) = record.parts();
            put(&mut log.buffer, self.shared.state, &head, rest)?;
            places.push((at, (log.len + log.buffer.len() as u64 - at) as u32));
        }
        // That something is over is only worth another run.
        let is_promise = records.iter().any(|record| !matches!(record, Record::Delivered { .. }));
        self.shared.write(&mut log, is_promise)?;
        for (record, place) in records.iter().zip(places) {
            log.note(record, place);
        }
        self.shared.compact_if_due(&mut log);
        Ok(())
    }

    /// Waits until all that was written is on the disk.
    ///
    /// # Errors
    /// The kernel's; from then on nothing is accepted any more.
    pub(crate) fn sync(&self) -> Result<(), JournalError> {
        self.shared.sync(self.shared.lock())
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if std::process::id() != self.process {
            // The thread is its parent's, and so is what is to be synced.
            std::mem::forget(self.syncer.take());
            return;
        }
        self.shared.lock().is_over = true;
        self.shared.wanted.notify_all();
        if let Some(thread) = self.syncer.take() {
            let _ = thread.join();
        }
        if let Err(e) = self.sync() {
            tracing::error!("{e}");
        }
    }
}

impl<'a> Record<'a> {
    fn parts(&self) -> (Head<'a>, &'a [u8]) {
        match *self {
            Record::Accepted { number, key, terms, input } => (Head::Accepted { number, key, terms }, input),
            Record::Delivered { number, how } => (Head::Done { number, how, is_delivered: true }, &[]),
            Record::Waits { number, how, output } => (Head::Done { number, how, is_delivered: false }, output),
            Record::Finished { first, last } => (Head::Finished { first, last }, &[]),
        }
    }
}

/// Adds a record to a batch.
fn put(batch: &mut Vec<u8>, state: u64, head: &Head<'_>, rest: &[u8]) -> Result<(), JournalError> {
    let start = batch.len();
    batch.extend([0; PREFIX]);
    let head = postcard::to_extend(head, std::mem::take(batch));
    *batch = head.map_err(|_| JournalError::TooLarge(rest.len()))?; // a `Vec` takes all
    batch.extend_from_slice(rest);
    let len = batch.len() - start - PREFIX;
    if len > LONGEST_BODY || batch.len() > LARGEST_BATCH {
        return Err(JournalError::TooLarge(len));
    }
    let sum = checksum(state, &batch[start + PREFIX..]);
    batch[start..start + 4].copy_from_slice(&(len as u32).to_le_bytes());
    batch[start + 4..start + PREFIX].copy_from_slice(&sum.to_le_bytes());
    Ok(())
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!("~{}", std::process::id()));
    name.into()
}

/// A file of this name that is to be written, in place of one that was left over.
fn new_file(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(path)
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(dir_of(path))?.sync_all()
}

impl Log {
    fn note(&mut self, record: &Record<'_>, place: (u64, u32)) {
        match *record {
            Record::Accepted { number, .. } if !self.done.contains(number) && !self.places.contains_key(&number) => {
                self.places.insert(number, Places { accepted: place, ended: None });
                self.live += u64::from(place.1);
            }
            Record::Accepted { .. } => {}
            Record::Delivered { number, .. } => self.finish(number, number),
            Record::Waits { number, .. } => {
                if let Some(places @ Places { ended: None, .. }) = self.places.get_mut(&number) {
                    places.ended = Some(place);
                    self.live += u64::from(place.1);
                }
            }
            Record::Finished { first, last } => self.finish(first, last),
        }
    }

    fn finish(&mut self, first: u64, last: u64) {
        self.done.insert(first, last);
        let mut gone = 0;
        if first == last {
            gone += self.places.remove(&first).map_or(0, Places::bytes);
        } else {
            self.places.retain(|number, places| {
                let is_over = (first..=last).contains(number);
                gone += if is_over { places.bytes() } else { 0 };
                !is_over
            });
        }
        self.live = self.live.saturating_sub(gone);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn os(&self, step: &'static str) -> impl Fn(io::Error) -> JournalError {
        move |source| JournalError::Os { step, path: self.path.clone(), source }
    }

    /// Writes the batch in the buffer; all of it or nothing. `is_promise`: somebody is told that it is there.
    fn write(&self, log: &mut Log, is_promise: bool) -> Result<(), JournalError> {
        if let Some(why) = &log.broken {
            return Err(JournalError::Broken { path: self.path.clone(), why: why.clone() });
        }
        if log.len + log.buffer.len() as u64 > log.limit {
            return Err(JournalError::Limit { path: self.path.clone(), limit: log.limit });
        }
        let written = loop {
            match (&*log.file).write(&log.buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {} // nothing was written
                written => break written,
            }
        };
        let why = match written {
            Ok(n) if n == log.buffer.len() => {
                log.len += n as u64;
                return self.has_written(log, is_promise);
            }
            // What keeps the rest from being written is what the next write would meet.
            Ok(n) => (&*log.file).write(&log.buffer[n..]).err().unwrap_or(io::ErrorKind::StorageFull.into()),
            Err(e) => e,
        };
        // Also after an error: nobody says that it came before the first byte.
        let is_whole = log.file.metadata().is_ok_and(|about| about.len() == log.len);
        if !is_whole && let Err(e) = log.file.set_len(log.len) {
            log.broken = Some(format!("the first part of a record can't be cut off: {e}"));
        }
        Err(self.os("write to")(why))
    }

    fn has_written(&self, log: &mut Log, is_promise: bool) -> Result<(), JournalError> {
        match self.sync {
            // With the next promise, or at the end.
            SyncWhen::EveryBatch if !is_promise => {
                log.is_dirty = true;
                Ok(())
            }
            SyncWhen::EveryBatch => match log.file.sync_data() {
                Ok(()) => {
                    log.is_dirty = false;
                    Ok(())
                }
                Err(e) => {
                    log.broken = Some(format!("it can't be synced: {e}"));
                    Err(self.os("sync")(e))
                }
            },
            SyncWhen::Interval(_) => {
                if !std::mem::replace(&mut log.is_dirty, true) {
                    self.wanted.notify_all();
                }
                Ok(())
            }
        }
    }

    /// The lock is not held meanwhile.
    fn sync(&self, mut log: MutexGuard<'_, Log>) -> Result<(), JournalError> {
        if !std::mem::take(&mut log.is_dirty) {
            return Ok(());
        }
        let file = log.file.clone();
        drop(log);
        file.sync_data().map_err(|e| {
            // The kernel has told that once, and takes the pages for clean from now on.
            self.lock().broken = Some(format!("it can't be synced: {e}"));
            self.os("sync")(e)
        })
    }

    fn sync_each(&self, interval: Duration) {
        loop {
            let mut log = self.lock();
            while !log.is_dirty && !log.is_over {
                log = self.wanted.wait(log).unwrap_or_else(PoisonError::into_inner);
            }
            // More may come until the time is over, or the end.
            let waited = self.wanted.wait_timeout_while(log, interval, |log| !log.is_over);
            let log = waited.unwrap_or_else(PoisonError::into_inner).0;
            let is_over = log.is_over;
            if let Err(e) = self.sync(log) {
                tracing::error!("{e}: what was accepted may be lost if the machine goes down");
            }
            if is_over {
                return;
            }
        }
    }

    fn compact_if_due(&self, log: &mut Log) {
        if log.len < log.compact_from || log.live > log.len / 4 {
            return;
        }
        if let Err(e) = self.compact(log) {
            tracing::warn!("{e}: it stays as long as it is");
            log.compact_from = log.len.saturating_mul(2);
        }
    }

    fn compact(&self, log: &mut Log) -> Result<(), JournalError> {
        let temporary = temporary(&self.path);
        let rewritten = self.rewrite(log, &temporary);
        if rewritten.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        rewritten
    }

    fn rewrite(&self, log: &mut Log, temporary: &Path) -> Result<(), JournalError> {
        if let Some(why) = &log.broken {
            return Err(JournalError::Broken { path: self.path.clone(), why: why.clone() });
        }
        let os = self.os("rewrite");
        let file = new_file(temporary).map_err(&os)?;
        // Before it has the name: whoever opens that finds it locked.
        file.lock().map_err(&os)?;
        let mut out = header(self.state, &self.client).to_vec();
        for (kind, name) in &log.names {
            put(&mut out, self.state, &Head::Task { kind: *kind, name }, &[])?;
        }
        for (first, last) in log.done.ranges() {
            put(&mut out, self.state, &Head::Finished { first, last }, &[])?;
        }
        let (mut len, mut places) = (0, HashMap::with_capacity(log.places.len()));
        let mut numbers: Vec<u64> = log.places.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            let mut moved = log.places[&number];
            for place in [Some(&mut moved.accepted), moved.ended.as_mut()].into_iter().flatten() {
                let start = out.len();
                out.resize(start + place.1 as usize, 0);
                log.file.read_exact_at(&mut out[start..], place.0).map_err(&os)?;
                place.0 = len + start as u64;
            }
            places.insert(number, moved);
            if out.len() >= 1 << 20 {
                (&file).write_all(&out).map_err(&os)?;
                len += out.len() as u64;
                out.clear();
            }
        }
        (&file).write_all(&out).map_err(&os)?;
        len += out.len() as u64;
        file.sync_all().map_err(&os)?;
        fs::rename(temporary, &self.path).map_err(&os)?;
        // From here on the new one is the journal, whatever comes.
        let live = HEADER as u64 + places.values().map(|places| places.bytes()).sum::<u64>();
        (log.file, log.len, log.live, log.places, log.is_dirty) = (Arc::new(file), len, live, places, false);
        sync_dir(&self.path).map_err(|e| {
            log.broken = Some(format!("its directory can't be synced: {e}"));
            os(e)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: u64 = 0x1234_5678_9abc_def0;
    const TERMS: Terms = Terms {
        kind: 1 << 30 | 7,
        queue: 2,
        max_attempts: 3,
        expires_at_ms: 1_800_000_000_000,
        run_ms: 1000,
        silence_ms: 0,
        timeout_ms: 900,
        first_pause_ms: 10,
        longest_pause_ms: 20,
        retry_on: 15,
        max_deaths: 3,
    };
    const HOW: How = How { end: End::Completed, status: 1, attempts: 2 };

    fn accepted<'a>(number: u64, input: &'a [u8]) -> Record<'a> {
        Record::Accepted { number, key: Some("line 7"), terms: TERMS, input }
    }

    fn open(input: &[u8]) -> Open {
        Open { key: Some("line 7".into()), terms: TERMS, input: input.to_vec(), ended: None }
    }

    fn create(dir: &tempfile::TempDir) -> (PathBuf, Journal) {
        let state = dir.path().join("state");
        let journal = Journal::create(&state, STATE, MAIN, SyncWhen::EveryBatch).unwrap();
        (state, journal)
    }

    /// A journal with something of each kind.
    fn sample(dir: &tempfile::TempDir) -> PathBuf {
        let (state, journal) = create(dir);
        journal.name(TERMS.kind, "digest").unwrap();
        journal.append(&[accepted(1, b"one"), accepted(2, &[0xff; 300]), accepted(3, b"")]).unwrap();
        journal.append(&[Record::Delivered { number: 1, how: HOW }]).unwrap();
        journal.append(&[Record::Waits { number: 3, how: HOW, output: b"three" }]).unwrap();
        journal.append(&[Record::Finished { first: 10, last: 19 }]).unwrap();
        path_of(&state, MAIN)
    }

    #[test]
    fn what_was_written_is_read_also_after_a_compaction() {
        let dir = tempfile::tempdir().unwrap();
        let path = sample(&dir);
        let before = read(&path).unwrap();
        assert_eq!((before.state, &before.client[..], before.records, before.end), (STATE, MAIN, 7, None));
        assert_eq!(before.name_of(TERMS.kind), Some("digest"));
        let three = Open { ended: Some((HOW, b"three".to_vec())), ..open(b"") };
        assert_eq!(before.open, BTreeMap::from([(2, open(&[0xff; 300])), (3, three)]));
        assert_eq!(before.done.ranges().collect::<Vec<_>>(), [(1, 1), (10, 19)]);
        assert_eq!((before.next_number(), before.done.len()), (20, 11));

        let (journal, same) = Journal::open_at(&path, SyncWhen::default()).unwrap();
        assert_eq!(same, before);
        journal.shared.compact(&mut journal.shared.lock()).unwrap();
        journal.append(&[accepted(20, b"behind")]).unwrap();
        journal.shared.compact(&mut journal.shared.lock()).unwrap();
        drop(journal);
        let after = read(&path).unwrap();
        let with_more = before.open.into_iter().chain([(20, open(b"behind"))]).collect::<BTreeMap<_, _>>();
        assert_eq!((after.open, after.done, after.tasks), (with_more, before.done, before.tasks));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file was left");
    }

    #[test]
    fn a_torn_tail_is_not_read_and_is_cut_off_by_who_writes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = sample(&dir);
        let bytes = fs::read(&path).unwrap();
        let before = read(&path).unwrap();
        let (journal, _) = Journal::open_at(&path, SyncWhen::EveryBatch).unwrap();
        journal.append(&[accepted(30, b"the last")]).unwrap();
        drop(journal);
        let longer = fs::read(&path).unwrap();
        for len in bytes.len() + 1..longer.len() {
            fs::write(&path, &longer[..len]).unwrap();
            let torn = read(&path).unwrap();
            assert_eq!((torn.end, &torn.open), (Some("a record is cut short"), &before.open), "{len} bytes");
            let (journal, _) = Journal::open_at(&path, SyncWhen::EveryBatch).unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes, "{len} bytes");
            journal.append(&[accepted(30, b"the last")]).unwrap();
            assert_eq!(fs::read(&path).unwrap(), longer, "{len} bytes");
        }
    }

    #[test]
    fn each_changed_byte_is_found_and_nothing_behind_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = sample(&dir);
        let (good, before) = (fs::read(&path).unwrap(), read(&path).unwrap());
        for at in 0..good.len() {
            for change in [1, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[at] ^= change;
                fs::write(&path, &bytes).unwrap();
                match read(&path) {
                    Err(_) => assert!(at < HEADER, "byte {at}"),
                    Ok(read) => {
                        assert!(at >= HEADER && read.end.is_some() && read.whole <= at as u64, "byte {at}: {read:?}");
                        assert!(read.records < before.records);
                    }
                }
            }
        }
    }

    #[test]
    fn a_truncated_journal_is_read_up_to_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = sample(&dir);
        let good = fs::read(&path).unwrap();
        for len in 0..good.len() {
            fs::write(&path, &good[..len]).unwrap();
            match read(&path) {
                Err(e) => assert!(len < HEADER, "{len} bytes: {e}"),
                Ok(read) => assert!(len >= HEADER && read.whole <= len as u64, "{len} bytes"),
            }
        }
    }

    #[test]
    fn a_second_writer_is_refused_and_two_clients_have_a_journal_each() {
        let dir = tempfile::tempdir().unwrap();
        let (state, journal) = create(&dir);
        let path = path_of(&state, MAIN);
        let refused = Journal::open_at(&path, SyncWhen::default()).unwrap_err();
        assert!(matches!(refused, JournalError::InUse { .. }), "{refused}");
        assert!(Journal::create(&state, STATE, MAIN, SyncWhen::default()).is_err(), "there is one");
        let other = Journal::create(&state, STATE, "other.one", SyncWhen::default()).unwrap();
        std::thread::scope(|s| {
            for journal in [&journal, &other] {
                for thread in 0..2 {
                    s.spawn(move || (0..100).for_each(|n| journal.append(&[accepted(2 * n + thread, b"x")]).unwrap()));
                }
            }
        });
        // It can't be taken from under the name either.
        journal.shared.compact(&mut journal.shared.lock()).unwrap();
        assert!(matches!(Journal::open_at(&path, SyncWhen::default()), Err(JournalError::InUse { .. })));
        drop((journal, other));
        fs::write(path_of(&state, "x~1"), "no client").unwrap();
        let all = all_of(&state).unwrap();
        assert_eq!(all, [path_of(&state, MAIN), path_of(&state, "other.one")]);
        for path in all {
            let contents = read(&path).unwrap();
            assert_eq!((contents.open.len(), contents.end), (200, None), "{}", path.display());
        }
    }

    #[test]
    fn a_journal_of_little_that_counts_is_rewritten_as_it_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let (state, journal) = create(&dir);
        let input = vec![7; 1 << 16];
        for number in 0..32 {
            journal.append(&[accepted(number, &input)]).unwrap();
            if number != 9 {
                journal.append(&[Record::Delivered { number, how: HOW }]).unwrap();
            }
        }
        drop(journal);
        let path = path_of(&state, MAIN);
        let before = fs::metadata(&path).unwrap().len();
        drop(Journal::open(&state, MAIN, SyncWhen::default()).unwrap());
        let after = read(&path).unwrap();
        assert!(before > 2 << 20 && after.bytes < 1 << 17, "{before} bytes, then {}", after.bytes);
        assert_eq!((after.open, after.done.len()), (BTreeMap::from([(9, open(&input))]), 31));
    }

    #[test]
    fn what_is_done_or_known_is_not_taken_again() {
        let dir = tempfile::tempdir().unwrap();
        let (state, journal) = create(&dir);
        journal
            .append(&[accepted(1, b"first"), accepted(1, b"second"), Record::Delivered { number: 2, how: HOW }])
            .unwrap();
        journal.append(&[accepted(2, b"it is done")]).unwrap();
        drop(journal);
        let contents = read(&path_of(&state, MAIN)).unwrap();
        assert_eq!(contents.open, BTreeMap::from([(1, open(b"first"))]));
    }

    #[test]
    fn the_interval_syncs_by_a_thread_that_ends() {
        let dir = tempfile::tempdir().unwrap();
        let (state, journal) = create(&dir);
        drop(journal);
        let (mut journal, _) = Journal::open(&state, MAIN, SyncWhen::Interval(Duration::from_millis(1))).unwrap();
        journal.sync_in_intervals().unwrap();
        journal.append(&[accepted(1, b"one")]).unwrap();
        while journal.shared.lock().is_dirty {
            std::thread::yield_now();
        }
        journal.append(&[accepted(2, b"two")]).unwrap();
        drop(journal);
        assert_eq!(read(&path_of(&state, MAIN)).unwrap().open.len(), 2);
    }

    #[test]
    fn what_is_no_journal_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = path_of(&dir.path().join("state"), MAIN);
        for text in [&b""[..], b"mine", &[0; 4096]] {
            fs::write(&path, text).unwrap();
            for refused in [read(&path).map(drop), Journal::open_at(&path, SyncWhen::default()).map(drop)] {
                assert!(matches!(refused, Err(JournalError::NotAJournal { .. })), "{refused:?}");
            }
            assert_eq!(fs::read(&path).unwrap(), text);
        }
        let mut later = header(STATE, MAIN);
        later[8] = 2;
        let sum = crc32fast::hash(&later[..84]).to_le_bytes();
        later[84..].copy_from_slice(&sum);
        fs::write(&path, later).unwrap();
        assert!(matches!(read(&path), Err(JournalError::Version { found: 2, expected: 1, .. })));
        for name in ["", "a/b", "..\u{e4}"] {
            assert!(matches!(
                Journal::create(&dir.path().join("s"), 1, name, SyncWhen::default()),
                Err(JournalError::Name(_))
            ));
        }
    }

    #[test]
    fn numbers_are_ranges() {
        let mut numbers = Numbers::default();
        for (first, last) in [(5, 5), (7, 9), (6, 6), (0, 0), (1, 3), (u64::MAX, u64::MAX), (8, 20), (2, 2)] {
            numbers.insert(first, last);
        }
        assert_eq!(numbers.ranges().collect::<Vec<_>>(), [(0, 3), (5, 20), (u64::MAX, u64::MAX)]);
        assert!([0, 3, 5, 20, u64::MAX].iter().all(|&number| numbers.contains(number)));
        assert!([4, 21, u64::MAX - 1].iter().all(|&number| !numbers.contains(number)));
        assert_eq!(numbers.len(), 21);
        numbers.insert(0, u64::MAX);
        assert_eq!((numbers.ranges().count(), numbers.len()), (1, u64::MAX));
    }
}
