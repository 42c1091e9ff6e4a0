//! A state as JSON lines: `shmworker export` and `import`.
//!
//! The first line says what it is and of which version; a line for each client tells which of its tasks are done and delivered, one
//! for each other task all that is known of it:
//!
//! ```text
//! {"type":"state","version":1}
//! {"type":"finished","client":"main","numbers":[[1,41],[43,43]]}
//! {"type":"task","client":"main","number":42,"key":"line 43","task":"sha256","encoding":"json","state":"ready","input":"\"abc\""}
//! ```
//!
//! What is not said is as by default. A field or a type of line that is not known is an error: it would be lost.

use super::journal::{self, Contents, End, How, Journal, JournalError, Open, Record, SyncWhen, Terms};
use crate::{
    SegmentOpenError,
    lockfree::descriptor::{OF_NAME, retry_on},
    mem::segment::{Segment, random},
    pool::tasks::{CHUNK, JSON, kind_of},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::{self, BufRead, Write},
    path::{Path, PathBuf},
};

/// Of this format. Raised by every change that an older program would not understand.
const VERSION: u32 = 1;
/// A task that has no name, by the hash that it would have.
const NAMELESS: &str = "0x";
/// Bytes that are written at once, about.
const BATCH: usize = 1 << 20;

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    State {
        version: u32,
    },
    /// Tasks that are done, and their results delivered: first and last number of each range.
    Finished {
        client: String,
        numbers: Vec<(u64, u64)>,
    },
    Task(Box<Task>),
}

/// A task that is not over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Task {
    #[serde(default = "main_client")]
    pub(crate) client: String,
    pub(crate) number: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    pub(crate) task: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) encoding: Encoding,
    #[serde(default)]
    pub(crate) state: Stage,
    /// How often it was begun; an import begins with the first again.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) attempts: u8,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) queue: u16,
    #[serde(default = "one")]
    pub(crate) max_attempts: u8,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) expires_at_ms: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) timeout_ms: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) killed_after_ms: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) heartbeat_timeout_ms: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) first_pause_ms: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) longest_pause_ms: u32,
    #[serde(default = "all_ends")]
    pub(crate) retry_on: Vec<Retry>,
    #[serde(default = "three")]
    pub(crate) max_worker_deaths: u8,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) input: Text,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ended: Option<Ended>,
}

/// Where a task is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// By the journal; where, nobody knows.
    #[default]
    Accepted,
    Ready,
    Delayed,
    Running,
    Done,
}

/// What the payloads are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Encoding {
    /// Of the task's own types.
    #[default]
    Own,
    Json,
    /// Several inputs of its own types.
    Chunk,
    JsonChunk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Retry {
    Failed,
    Panicked,
    Died,
    TimedOut,
}

const RETRIES: [(Retry, u8); 4] = [
    (Retry::Failed, retry_on::FAILED),
    (Retry::Panicked, retry_on::PANICKED),
    (Retry::Died, retry_on::DIED),
    (Retry::TimedOut, retry_on::TIMED_OUT),
];

/// How a task ended whose result was not delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ended {
    pub(crate) outcome: End,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) status: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) output: Text,
}

/// Bytes: as text, or else in base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Text {
    Text(String),
    Base64 { base64: String },
}

impl Default for Text {
    fn default() -> Text {
        Text::Text(String::new())
    }
}

impl Text {
    pub(crate) fn of(bytes: &[u8]) -> Text {
        match std::str::from_utf8(bytes) {
            Ok(text) => Text::Text(text.to_owned()),
            Err(_) => Text::Base64 { base64: BASE64_STANDARD.encode(bytes) },
        }
    }

    fn bytes(self) -> Result<Vec<u8>, String> {
        match self {
            Text::Text(text) => Ok(text.into_bytes()),
            Text::Base64 { base64 } => {
                BASE64_STANDARD.decode(base64).map_err(|e| format!("what is to be base64 is not: {e}"))
            }
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn main_client() -> String {
    journal::MAIN.to_owned()
}

fn one() -> u8 {
    1
}

fn three() -> u8 {
    3
}

fn all_ends() -> Vec<Retry> {
    RETRIES.map(|(retry, _)| retry).into()
}

impl Task {
    /// A task as its journal has it.
    pub(crate) fn of(contents: &Contents, number: u64, open: &Open) -> Task {
        let Open { key, terms, input, ended } = open;
        let ended = ended.as_ref();
        Task {
            key: key.clone(),
            state: if ended.is_some() { Stage::Done } else { Stage::Accepted },
            attempts: ended.map_or(0, |(how, _)| how.attempts),
            ended: ended.map(|(how, output)| Ended { outcome: how.end, status: how.status, output: Text::of(output) }),
            ..Task::by_terms(contents.client.clone(), number, contents.name_of(terms.kind), *terms, input)
        }
    }

    /// A task of which this is known.
    pub(crate) fn by_terms(client: String, number: u64, name: Option<&str>, terms: Terms, input: &[u8]) -> Task {
        let task = match name {
            Some(name) => name.to_owned(),
            None => format!("{NAMELESS}{:08x}", terms.kind & OF_NAME),
        };
        Task {
            client,
            number,
            key: None,
            task,
            encoding: match (terms.kind & JSON != 0, terms.kind & CHUNK != 0) {
                (false, false) => Encoding::Own,
                (true, false) => Encoding::Json,
                (false, true) => Encoding::Chunk,
                (true, true) => Encoding::JsonChunk,
            },
            state: Stage::Accepted,
            attempts: 0,
            queue: terms.queue,
            max_attempts: terms.max_attempts,
            expires_at_ms: terms.expires_at_ms,
            timeout_ms: terms.timeout_ms,
            killed_after_ms: terms.run_ms,
            heartbeat_timeout_ms: terms.silence_ms,
            first_pause_ms: terms.first_pause_ms,
            longest_pause_ms: terms.longest_pause_ms,
            retry_on: RETRIES.iter().filter(|(_, bit)| terms.retry_on & bit != 0).map(|(retry, _)| *retry).collect(),
            max_worker_deaths: terms.max_deaths,
            input: Text::of(input),
            ended: None,
        }
    }

    fn terms(&self) -> Result<Terms, String> {
        let kind = match self.task.strip_prefix(NAMELESS).map(|hex| u32::from_str_radix(hex, 16)) {
            Some(Ok(kind)) if kind <= OF_NAME => kind,
            _ => kind_of(&self.task),
        };
        let encoding = match self.encoding {
            Encoding::Own => 0,
            Encoding::Json => JSON,
            Encoding::Chunk => CHUNK,
            Encoding::JsonChunk => JSON | CHUNK,
        };
        if self.max_attempts == 0 {
            return Err("a task needs an attempt: 'max_attempts' is 1 to 255".to_owned());
        }
        Ok(Terms {
            kind: kind | encoding,
            queue: self.queue,
            max_attempts: self.max_attempts,
            expires_at_ms: self.expires_at_ms,
            run_ms: self.killed_after_ms,
            silence_ms: self.heartbeat_timeout_ms,
            timeout_ms: self.timeout_ms,
            first_pause_ms: self.first_pause_ms,
            longest_pause_ms: self.longest_pause_ms,
            retry_on: RETRIES
                .iter()
                .filter(|(retry, _)| self.retry_on.contains(retry))
                .fold(0, |set, (_, bit)| set | bit),
            max_deaths: self.max_worker_deaths,
        })
    }
}

/// Writes a state: what of each client is over, and what is not.
///
/// # Errors
/// The reader's.
pub(crate) fn write(
    out: &mut impl Write,
    finished: impl IntoIterator<Item = (String, Vec<(u64, u64)>)>,
    tasks: impl IntoIterator<Item = Task>,
) -> io::Result<()> {
    let mut put = |line: &Line| {
        serde_json::to_writer(&mut *out, line)?;
        out.write_all(b"\n")
    };
    put(&Line::State { version: VERSION })?;
    for (client, numbers) in finished {
        put(&Line::Finished { client, numbers })?;
    }
    tasks.into_iter().try_for_each(|task| put(&Line::Task(Box::new(task))))
}

/// Why nothing, or not all, was imported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    #[error("cannot read '{name}': {source}")]
    Read { name: String, source: io::Error },
    #[error("line {line} of '{name}': {why}")]
    Line { name: String, line: u64, why: String },
    #[error("cannot import into '{}': {source}", path.display())]
    Segment { path: PathBuf, source: SegmentOpenError },
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// What an import has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Imported {
    pub(crate) tasks: u64,
    /// Of these the journals knew before.
    pub(crate) known: u64,
    pub(crate) finished: u64,
}

/// What is to go into a client's journal.
#[derive(Default)]
struct Batch {
    finished: Vec<(u64, u64)>,
    tasks: Vec<Item>,
}

struct Item {
    number: u64,
    key: Option<String>,
    name: String,
    terms: Terms,
    input: Vec<u8>,
    ended: Option<(How, Vec<u8>)>,
}

/// Adds what these lines say to the journals of a state, which no pool has now, and need not be there. What a journal knows is left
/// as it is there, so that an import can be run again.
///
/// # Errors
/// [`ImportError`]; of a line: nothing was imported.
pub(crate) fn import(state: &Path, input: impl BufRead, name: &str) -> Result<Imported, ImportError> {
    let batches = parse(input, name)?;
    let cannot = |source| ImportError::Segment { path: state.to_owned(), source };
    // As long as it is held no pool has it.
    let segment = match Segment::open(state, true) {
        Ok(segment) => Some(segment),
        Err(SegmentOpenError::Os { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(cannot(e)),
    };
    let of_segment = segment.as_ref().map(|segment| segment.header().identity.id);
    let of_journals = journal::state_of(state)?;
    if let (Some(expected), Some(found)) = (of_segment, of_journals)
        && expected != found
    {
        let path = journal::path_of(state, journal::MAIN);
        return Err(JournalError::AnotherState { path, found, expected }.into());
    }
    let id = of_segment.or(of_journals).unwrap_or_else(random);
    let mut imported = Imported::default();
    for (client, batch) in batches {
        let (journal, contents) = match Journal::open(state, &client, SyncWhen::default()) {
            Err(JournalError::Os { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                drop(Journal::create(state, id, &client, SyncWhen::default())?);
                Journal::open(state, &client, SyncWhen::default())?
            }
            opened => opened?,
        };
        add(&journal, &contents, batch, &mut imported)?;
        journal.sync()?;
    }
    Ok(imported)
}

fn add(journal: &Journal, contents: &Contents, batch: Batch, imported: &mut Imported) -> Result<(), JournalError> {
    let finished: Vec<_> = batch.finished.iter().map(|&(first, last)| Record::Finished { first, last }).collect();
    let before = contents.done.len();
    let mut done = contents.done.clone();
    batch.finished.iter().for_each(|&(first, last)| done.insert(first, last));
    imported.finished += done.len() - before;
    if !finished.is_empty() {
        journal.append(&finished)?;
    }
    let (mut records, mut bytes) = (Vec::new(), 0);
    for Item { number, key, name, terms, input, ended } in &batch.tasks {
        imported.tasks += 1;
        if done.contains(*number) || contents.open.contains_key(number) {
            imported.known += 1;
            continue;
        }
        if !name.starts_with(NAMELESS) {
            journal.name(terms.kind, name)?;
        }
        records.push(Record::Accepted { number: *number, key: key.as_deref(), terms: *terms, input });
        bytes += input.len();
        if let Some((how, output)) = ended {
            records.push(Record::Waits { number: *number, how: *how, output });
            bytes += output.len();
        }
        if bytes >= BATCH {
            journal.append(&records)?;
            records.clear();
            bytes = 0;
        }
    }
    if records.is_empty() { Ok(()) } else { journal.append(&records) }
}

fn parse(input: impl BufRead, name: &str) -> Result<BTreeMap<String, Batch>, ImportError> {
    let mut batches: BTreeMap<String, Batch> = BTreeMap::new();
    let mut is_begun = false;
    for (at, line) in (1..).zip(input.lines()) {
        let wrong = |why: String| ImportError::Line { name: name.to_owned(), line: at, why };
        let line = match line {
            Ok(line) => line,
            Err(e) if e.kind() == io::ErrorKind::InvalidData => return Err(wrong("it is not UTF-8".to_owned())),
            Err(source) => return Err(ImportError::Read { name: name.to_owned(), source }),
        };
        if line.trim().is_empty() {
            continue;
        }
        let parsed = serde_json::from_str::<Line>(&line).map_err(|e| wrong(e.to_string()))?;
        match parsed {
            Line::State { version: VERSION } => is_begun = true,
            Line::State { version } => {
                return Err(wrong(format!(
                    "it is an export of version {version}, where this program knows version {VERSION}: use the program that wrote it"
                )));
            }
            _ if !is_begun => {
                return Err(wrong(r#"it does not begin as an export does: {"type":"state","version":1}"#.to_owned()));
            }
            Line::Finished { client, numbers } => {
                if let Some((first, last)) = numbers.iter().find(|(first, last)| *first == 0 || first > last) {
                    return Err(wrong(format!("[{first},{last}] is no range of numbers from 1 on")));
                }
                batches.entry(client).or_default().finished.extend(numbers);
            }
            Line::Task(task) => {
                let terms = task.terms().map_err(wrong)?;
                if task.number == 0 {
                    return Err(wrong("'number' is 0: they begin with 1".to_owned()));
                }
                let Task { client, number, key, task: name, attempts, input, ended, state, .. } = *task;
                if (state == Stage::Done) != ended.is_some() {
                    return Err(wrong("a task that is 'done' has 'ended', and no other".to_owned()));
                }
                let ended = match ended {
                    Some(Ended { outcome: end, status, output }) => {
                        Some((How { end, status, attempts }, output.bytes().map_err(wrong)?))
                    }
                    None => None,
                };
                let input = input.bytes().map_err(wrong)?;
                batches.entry(client).or_default().tasks.push(Item { number, key, name, terms, input, ended });
            }
        }
    }
    if !is_begun {
        let why = r#"it is empty, where an export begins with {"type":"state","version":1}"#;
        return Err(ImportError::Line { name: name.to_owned(), line: 1, why: why.to_owned() });
    }
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exported(path: &Path) -> String {
        let contents = journal::read(path).unwrap();
        let finished = [(contents.client.clone(), contents.done.ranges().collect())];
        let tasks = contents.open.iter().map(|(&number, open)| Task::of(&contents, number, open));
        let mut out = Vec::new();
        write(&mut out, finished, tasks).unwrap();
        String::from_utf8(out).unwrap()
    }

    const LINES: &str = concat!(
        r#"{"type":"state","version":1}"#,
        "\n",
        r#"{"type":"finished","client":"main","numbers":[[1,41],[43,43]]}"#,
        "\n",
        r#"{"type":"task","client":"main","number":42,"key":"line 43","task":"sha256","encoding":"json","state":"accepted","max_attempts":3,"#,
        r#""timeout_ms":1000,"retry_on":["died"],"max_worker_deaths":2,"input":"\"abc\""}"#,
        "\n",
        r#"{"type":"task","client":"main","number":44,"task":"0x0000002a","state":"done","attempts":2,"max_attempts":3,"#,
        r#""retry_on":["failed","panicked","died","timed_out"],"max_worker_deaths":3,"input":{"base64":"/w=="},"#,
        r#""ended":{"outcome":"worker_died","output":{"base64":"/wA="}}}"#,
        "\n",
    );

    #[test]
    fn what_is_imported_is_exported_and_nothing_is_doubled() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let imported = import(&state, LINES.as_bytes(), "lines").unwrap();
        assert_eq!(imported, Imported { tasks: 2, known: 0, finished: 42 });
        let path = journal::path_of(&state, journal::MAIN);
        assert_eq!(exported(&path), LINES);
        let again = import(&state, LINES.as_bytes(), "lines").unwrap();
        assert_eq!(again, Imported { tasks: 2, known: 2, finished: 0 });
        assert_eq!(exported(&path), LINES);
        let little = r#"{"type":"state","version":1}
            {"type":"task","number":1,"task":"echo"}
            {"type":"task","client":"b","number":1,"task":"echo"}"#;
        let imported = import(&state, little.as_bytes(), "lines").unwrap();
        assert_eq!(imported, Imported { tasks: 2, known: 1, finished: 0 }, "1 of 'main' is done");
        let other = journal::read(&journal::path_of(&state, "b")).unwrap();
        assert_eq!(other.state, journal::read(&path).unwrap().state);
        assert_eq!(other.name_of(kind_of("echo")), Some("echo"));
    }

    #[test]
    fn a_line_that_is_wrong_is_named_and_nothing_is_imported() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let head = "{\"type\":\"state\",\"version\":1}\n";
        for (line, why) in [
            (r#"{"type":"task","number":1}"#, "missing field `task`"),
            (r#"{"type":"task","number":1,"task":"a","colour":"red"}"#, "unknown field `colour`"),
            (r#"{"type":"task","number":1,"task":"a","max_attempts":0}"#, "a task needs an attempt"),
            (r#"{"type":"task","number":1,"task":"a","state":"done"}"#, "has 'ended'"),
            (r#"{"type":"task","number":1,"task":"a","input":{"base64":"?"}}"#, "base64"),
            (r#"{"type":"finished","client":"main","numbers":[[2,1]]}"#, "[2,1] is no range"),
            (r#"{"type":"task","number":0,"task":"a"}"#, "begin with 1"),
            (r#"{"type":"state","version":2}"#, "version 2, where this program knows version 1"),
            ("{", "EOF"),
        ] {
            let e = import(&state, format!("{head}{line}\n").as_bytes(), "lines").unwrap_err().to_string();
            assert!(e.starts_with("line 2 of 'lines': ") && e.contains(why), "{line}: {e}");
        }
        for (text, why) in [("", "it is empty"), (r#"{"type":"task","number":1,"task":"a"}"#, "does not begin as")] {
            let e = import(&state, text.as_bytes(), "lines").unwrap_err().to_string();
            assert!(e.starts_with("line 1 of 'lines': ") && e.contains(why), "{e}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
