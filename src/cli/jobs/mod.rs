//! `shmworker jobs`: jobs from lines, or a command for each line.
//!
//! The main thread alone submits, takes and writes. One thread reads ahead, one waits for signals; both ring the runner's alarm.
//!
//! A job's line goes into the joblog after its result was written: who reads both may find a result twice after a death, and misses
//! none.
//!
//! With a state file the pool's results are let go after that, in this order: the output, the joblog, the state. Who goes on with them
//! cuts off what stands in the output beyond what the joblog tells of: those results are in the state still. And what is in the
//! joblog is let go from the state. So each stands in the output once.

mod halt;
mod input;
mod joblog;
mod output;
mod template;

use super::{
    args::{name, number},
    exit::{self, CliError},
    observing::ObservingArgs,
    successor,
};
use crate::{
    Pool, Tasks,
    jobs::{Defaults, Job, JobResult, Output as ExecOutput, Runner, Status, Text, builtin},
    logs::Format,
    pool::{Builder, SyncWhen},
    state::journal,
};
use halt::Halt;
use input::{LONGEST, Lines, Next, Nudge};
use joblog::{DoneSet, Entry, JobLog, Resume, Told, one_line};
use nix::{
    sys::signal::{SigSet, Signal},
    unistd::dup2_stdout,
};
use output::{Out, Progress, There};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::File,
    io::{self, Cursor, Read, Seek, Write},
    os::{fd::AsFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{
            AtomicI32,
            Ordering::{Acquire, Release},
        },
    },
    time::{Duration, Instant, SystemTime},
};
use template::{Label, Template, quoted};

/// Jobs under way for each worker: so many that it never waits for the next.
const DEPTH: usize = 64;
/// Jobs under way, at most: a part of what a pool has room for. In chunks, more are.
const MOST: usize = 2048;
const MOST_IN_CHUNKS: usize = 1 << 16;
/// Chunks under way for each worker.
const CHUNKS: usize = 4;
/// Bytes of jobs under way and of results that wait for their turn, at most, but for one.
const WEIGHT: usize = 64 << 20;
/// Bytes that a job takes beside its line, about.
const EACH: usize = 256;
/// Results that wait for their turn, at most: as many times those under way.
const AHEAD: usize = 4;
/// How long jobs have to end that were told to.
const END: Duration = Duration::from_secs(5);

/// What `shmworker jobs` was told.
#[derive(clap::Args)]
pub(crate) struct JobsArgs {
    /// Jobs, one JSON object a line; with a command, its arguments, one a line [default: standard input]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Command that is run for each line, without a shell; {} {.} {/} {//} {/.} {#} stand for the line, its parts and its number
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    /// Jobs at a time [default: as many as there are CPUs]
    #[arg(short = 'j', long, value_name = "N", allow_negative_numbers = true, value_parser = number(1..=512))]
    jobs: Option<u32>,
    /// Lines that go to a worker at a time, for short tasks
    #[arg(long, value_name = "N", default_value = "1", allow_negative_numbers = true, value_parser = number(1..=10_000))]
    chunk: u32,
    /// File that keeps the jobs that were accepted, also if all processes are killed: the same command with the same input then goes on
    #[arg(long, value_name = "FILE", conflicts_with_all = ["chunk", "dry_run", "ordered", "resume_failed"])]
    state: Option<PathBuf>,
    /// When accepted jobs are on the disk, to outlive the machine's end as well: within a second, or before each is begun
    #[arg(long, value_name = "interval|every-batch", requires = "state", value_parser = sync)]
    sync: Option<SyncWhen>,
    /// How long workers wait for the same command again, if theirs is killed [default: 30s]
    #[arg(long, value_name = "DURATION", requires = "state", allow_hyphen_values = true, value_parser = time)]
    successor_within: Option<Duration>,
    /// File for results; with --resume or --state what the joblog tells of stays in it [default: standard output]
    #[arg(short = 'o', long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Attempts after the first, for jobs that do not say it
    #[arg(long, value_name = "N", default_value = "0", allow_negative_numbers = true, value_parser = number(0..=254))]
    retries: u32,
    /// How long an attempt may run, for jobs that do not say it: 10, 1.5, 500ms, 2m
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = time)]
    timeout: Option<Duration>,
    /// Write results in the order of the lines [default: as they come]
    #[arg(short = 'k', long)]
    ordered: bool,
    /// When to stop: never; soon,fail=N begins no more after N failures; now,fail=N ends those that run too; N may be a percentage,
    /// and fail success or done
    #[arg(long, value_name = "WHEN", default_value = "never", allow_hyphen_values = true, value_parser = str::parse::<Halt>)]
    halt: Halt,
    /// File for a line about each job that has ended, in GNU parallel's format [default: none, or with --state FILE.joblog]
    #[arg(long, value_name = "FILE")]
    joblog: Option<PathBuf>,
    /// Leave out the jobs that have ended by the joblog, and go on with it
    #[arg(long, requires = "joblog", conflicts_with = "resume_failed")]
    resume: bool,
    /// Leave out the jobs that went well by the joblog, and go on with it
    #[arg(long, requires = "joblog")]
    resume_failed: bool,
    /// Show on a terminal how far it is, how fast, and how long it will take
    #[arg(long)]
    progress: bool,
    /// Print what would be run, and run nothing
    #[arg(long)]
    dry_run: bool,
    /// Stop at the first malformed line [default: report it, and go on]
    #[arg(long, conflicts_with = "command")]
    strict: bool,
    /// Write results of commands as JSON lines [default: what they write, as it is]
    #[arg(long, requires = "command")]
    json: bool,
    /// Label of results that have none, with {} and its like; of a command without --json, before each line that it writes
    #[arg(long, value_name = "TEXT", value_parser = name())]
    label: Option<String>,
    /// Lines end with NUL
    #[arg(short = '0', long, requires = "command")]
    null: bool,
    /// Shared library with further tasks, in C or C++; may be given several times
    #[arg(long, value_name = "FILE")]
    load: Vec<PathBuf>,
    #[command(flatten)]
    observing: ObservingArgs,
}

/// A number of seconds, or with its unit.
fn time(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
    let time = seconds.or_else(|| humantime::parse_duration(text).ok()).filter(|time| !time.is_zero());
    time.ok_or_else(|| "it must be a duration above 0, such as 10, 1.5, 500ms or 2m".to_owned())
}

/// When a journal is synced.
fn sync(text: &str) -> Result<SyncWhen, String> {
    match text {
        "interval" => Ok(SyncWhen::default()),
        "every-batch" => Ok(SyncWhen::EveryBatch),
        _ => Err("it must be 'interval' or 'every-batch'".to_owned()),
    }
}

/// What becomes of the lines.
enum Form {
    /// Each is a job.
    Json,
    /// Each is an argument of this.
    Command(Template),
}

impl Form {
    /// The command, to be told from others.
    fn spelled(&self) -> Vec<u8> {
        match self {
            Form::Json => Vec::new(),
            Form::Command(template) => template.spelled(),
        }
    }
}

/// Runs jobs until the input ends.
///
/// # Errors
/// Some have failed, or none could be run.
pub(crate) fn run(mut args: JobsArgs) -> Result<(), CliError> {
    // What it says of the pool by itself is of no use where nobody asks; but spans are lost with a word.
    let format = args.observing.log_format.or(args.observing.sends_spans().then_some(Format::Text));
    if let Some(format) = format {
        crate::logs::start(format);
    }
    let usage = |why: &str| CliError::new(exit::USAGE, why);
    let (command, given) = template::split(std::mem::take(&mut args.command)).map_err(|why| usage(&why))?;
    let form = match &command[..] {
        [] if given.is_some() => return Err(usage("':::' needs a command before it: shmworker jobs -- echo ::: a b")),
        [] => Form::Json,
        [word] if word.to_str().is_some_and(|word| word.contains([' ', '|', ';', '&', '>'])) => {
            let why = format!(
                "no shell is asked, and no program is named '{}': give its words one by one, or sh -c '…' sh {{}}",
                word.display()
            );
            return Err(usage(&why));
        }
        _ => Form::Command(Template::new(command)),
    };
    let is_listed = given.is_some();
    if is_listed && args.file.is_some() {
        return Err(usage("the arguments are given by ':::' and by a file: give one of them"));
    }
    let source = source(&args, given)?;
    let separator = if args.null || is_listed { 0 } else { b'\n' };
    let resume = match (args.resume || args.state.is_some(), args.resume_failed) {
        (_, true) => Some(Resume::WentWell),
        (true, _) => Some(Resume::Ended),
        _ => None,
    };
    if let (Some(state), None) = (&args.state, &args.joblog) {
        let mut name = state.clone().into_os_string();
        name.push(".joblog");
        args.joblog = Some(name.into());
    }

    let mut tasks = Tasks::new();
    builtin(&mut tasks);
    for library in &args.load {
        tasks.load(library).map_err(|e| CliError::new(exit::PLUGIN, e))?;
    }
    let workers = args.jobs.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), |n| n as usize);
    let failed = |why: String| CliError::new(exit::FAILURE, why);
    let command = hash(&form.spelled());
    if let Some(path) = &args.state {
        // Before there are workers, which would begin with these.
        State::check(path, &command).map_err(failed)?;
    }
    let (mut log, told) = match &args.joblog {
        // It writes nothing.
        Some(path) if args.dry_run && (resume.is_none() || !path.exists()) => (None, Told::default()),
        Some(path) => {
            let (log, told) = JobLog::open(path, resume).map_err(failed)?;
            if told.is_cut {
                super::complain(format_args!(
                    "the last line of the joblog '{}' was cut short: its job is run again",
                    path.display()
                ));
            }
            (Some(log), told)
        }
        None => (None, Told::default()),
    };
    let out = match &args.output {
        Some(path) if !args.dry_run => {
            // What the joblog does not know it would not give back either.
            let is_all = told.written == 0 && std::fs::metadata(path).is_ok_and(|there| there.len() == told.elsewhere);
            let bytes = if is_all { told.elsewhere } else { told.written };
            // Who was killed before the first line of the joblog may have left a result.
            let is_known = resume.is_none() || bytes > 0 || told.is_header;
            let there = match &args.joblog {
                Some(log) if !is_known => There::Nothing(format!("the joblog '{}' tells nothing", log.display())),
                _ => There::Kept { bytes, are_lines: args.json || matches!(form, Form::Json) },
            };
            Out::to_file(path, &there).map_err(failed)?
        }
        _ => Out::new(),
    };
    if let Some(log) = &mut log
        && !args.dry_run
    {
        log.begin().map_err(failed)?;
    }
    #[cfg(feature = "metrics")]
    let metrics = args.observing.metrics.map(super::observing::listen).transpose()?;
    // Of no use here, and no business of the programs that are run.
    super::forget_variables(&["SHMWORKER_SOURCE", "SHMWORKER_SOURCE_HEADER"]);
    let builder = match &args.state {
        Some(path) => {
            let builder = Pool::builder().file(path).sync(args.sync.unwrap_or_default());
            let builder = builder.heard_by(|line| super::complain(line));
            args.successor_within.into_iter().fold(builder, Builder::successor_within)
        }
        None => Pool::builder(),
    };
    successor::hold_back()?;
    let builder = builder.workers(workers).succeeded_with(successor::args(&args.load, format));
    let pool = away_from_results(|| builder.fork(tasks)).map_err(|e| CliError::new(exit::FAILURE, e))?;
    let kept = args.state.as_ref().map(|path| State::of(path, &pool, &told.done, command));
    if let Some(state) = &kept
        && !state.adopted.is_empty()
    {
        super::complain(format_args!(
            "'{}': {} jobs that were accepted are gone on with",
            state.name,
            state.adopted.len()
        ));
    }
    // From here on there are threads.
    let (chunk, most) = match args.halt {
        Halt::Never => {
            let chunk = args.chunk as usize;
            (chunk, (DEPTH * workers).min(MOST).max((CHUNKS * workers * chunk).min(MOST_IN_CHUNKS)))
        }
        // What is to be the last may be known only once the one before it has ended.
        _ => (1, workers),
    };
    let retries = u8::try_from(args.retries).unwrap_or(u8::MAX - 1);
    let runner = Runner::new(&pool, most).chunk(chunk).defaults(Defaults { timeout: args.timeout, retries });
    let runner = if kept.is_some() { runner.keeping() } else { runner };
    let failure = |e: io::Error| CliError::new(exit::FAILURE, format_args!("cannot start a thread: {e}"));
    let all = if args.halt.is_share() { source.count(separator) } else { None };
    let Source { input, len, name, .. } = source;
    // Before the first thread, which inherits what is blocked, and after the pool, which does not.
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR2].into_iter().collect();
    signals.thread_block().map_err(|e| CliError::new(exit::FAILURE, format_args!("cannot wait for signals: {e}")))?;
    #[cfg(feature = "otlp")]
    let runner = runner.traced(super::observing::tracer(&args.observing)?);
    #[cfg(feature = "metrics")]
    if let Some(listener) = metrics {
        if args.observing.metrics.is_some_and(|address| address.port() == 0) {
            super::complain(format_args!("metrics: {}", super::observing::url(&listener)));
        }
        super::observing::serve(listener, &pool)?;
    }
    let (lines, nudge) = Lines::read(input, separator, runner.alarm()).map_err(failure)?;
    let signal = Arc::new(AtomicI32::new(0));
    watch_signals(signals, &signal, &runner, nudge, pool.coordinator_pid()).map_err(failure)?;
    let mut drive = Drive {
        label: args.label.as_deref().map(Label::new),
        is_raw: matches!(form, Form::Command(_)) && !args.json,
        form,
        is_strict: args.strict,
        is_dry: args.dry_run,
        halt: args.halt,
        all,
        input_name: name,
        runner,
        most,
        lines,
        done: told.done,
        first_done: told.first.filter(|_| kept.is_some()),
        log,
        logged: Vec::new(),
        state: kept,
        written: Vec::new(),
        is_cut_by_log: args.output.is_some() && args.joblog.is_some(),
        out_name: match &args.output {
            Some(path) => format!("'{}'", path.display()),
            None => "standard output".to_owned(),
        },
        out,
        progress: Progress::new(args.progress, len),
        signal,
        under_way: BTreeMap::new(),
        weight: 0,
        held: BTreeMap::new(),
        is_ordered: args.ordered,
        seq: 0,
        submitted: 0,
        turn: 0,
        counts: Counts::default(),
        unread: None,
        stop: None,
    };
    drive.run();
    let outcome = drive.outcome();
    let is_left = drive.is_left();
    let is_stuck = drive.runner.under_way() > 0 || is_left;
    if is_left {
        // Not cancelled: what the state has of it is for the next run.
        std::mem::forget(drive);
    } else {
        drop(drive);
    }
    if is_stuck {
        // They were told to end, and don't; or are left to the next run, which is no failure by itself. Workers don't
        // outlive this process.
        let code = if is_left { exit::OK } else { exit::FAILURE };
        let code = outcome.as_ref().err().map_or(code, CliError::code);
        if let Err(e) = &outcome {
            super::complain(e);
        }
        std::process::exit(code.into());
    }
    let ended = pool.join().map_err(|e| CliError::new(exit::FAILURE, e));
    outcome.and(ended)
}

/// Where lines come from.
struct Source {
    input: Box<dyn Read + Send>,
    /// Its bytes, if that is known.
    len: Option<u64>,
    name: String,
    seen: Seen,
}

/// What can be known of the lines before they are read.
enum Seen {
    Given(u64),
    File(File),
    Stream,
}

/// Whoever is started here writes to standard error what it writes to standard output: there is nothing to be but results.
fn away_from_results<T>(start: impl FnOnce() -> T) -> T {
    let _ = io::stdout().flush();
    let results = io::stdout().as_fd().try_clone_to_owned();
    // Closed or not to be copied: then they have what this process has.
    let is_away = results.is_ok() && dup2_stdout(io::stderr()).is_ok();
    let started = start();
    if let (Ok(results), true) = (results, is_away) {
        let _ = dup2_stdout(results);
    }
    started
}

fn source(args: &JobsArgs, given: Option<Vec<u8>>) -> Result<Source, CliError> {
    if let Some(given) = given {
        let len = Some(given.len() as u64);
        let seen = Seen::Given(given.iter().filter(|&&byte| byte == 0).count() as u64);
        return Ok(Source { input: Box::new(Cursor::new(given)), len, name: "':::'".to_owned(), seen });
    }
    let (file, name) = match &args.file {
        Some(path) if path.as_os_str() != "-" => {
            let name = path.display().to_string();
            let file =
                File::open(path).map_err(|e| CliError::new(exit::USAGE, format_args!("cannot read '{name}': {e}")))?;
            (file, name)
        }
        _ => {
            let stdin = io::stdin().as_fd().try_clone_to_owned();
            let file =
                stdin.map_err(|e| CliError::new(exit::USAGE, format_args!("cannot read standard input: {e}")))?;
            (File::from(file), "standard input".to_owned())
        }
    };
    let about = file.metadata().ok();
    if about.as_ref().is_some_and(|about| about.is_dir()) {
        return Err(CliError::new(exit::USAGE, format_args!("'{name}' is a directory: name a file")));
    }
    let len = about.filter(|about| about.is_file()).map(|about| about.len());
    let seen = len.and_then(|_| file.try_clone().ok()).map_or(Seen::Stream, Seen::File);
    Ok(Source { input: Box::new(file), len, name, seen })
}

impl Source {
    /// How many lines there are, if it can be read twice.
    fn count(&self, separator: u8) -> Option<u64> {
        let file = match &self.seen {
            Seen::File(file) => file,
            Seen::Given(n) => return Some(*n),
            Seen::Stream => return None,
        };
        let mut at = file.try_clone().ok()?.stream_position().ok()?;
        let (mut piece, mut lines, mut last) = (vec![0; 256 << 10], 0, separator);
        loop {
            let n = file.read_at(&mut piece, at).ok()?;
            let Some(&end) = piece[..n].last() else { break };
            at += n as u64;
            lines += piece[..n].iter().filter(|&&byte| byte == separator).count() as u64;
            last = end;
        }
        Some(lines + u64::from(last != separator))
    }
}

/// The first of these signals, which every thread blocks, is noted, and wakes the main thread; the second ends the process. SIGUSR2 is
/// passed on.
fn watch_signals(
    set: SigSet,
    noted: &Arc<AtomicI32>,
    runner: &Runner<'_>,
    nudge: Nudge,
    coordinator: u32,
) -> io::Result<()> {
    let (noted, alarm) = (noted.clone(), runner.alarm());
    let watch = move || {
        while let Ok(signal) = set.wait() {
            if signal == Signal::SIGUSR2 {
                successor::pass_on(coordinator);
                continue;
            }
            // Release: not needed for more than the number itself, which the ring publishes too.
            if noted.swap(signal as i32, Release) != 0 {
                // SAFETY: it ends the process at once. Workers don't outlive it, nor their programs them.
                unsafe { libc::_exit(128 + signal as i32) };
            }
            alarm.ring();
            nudge.give();
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch).map(drop)
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    ended: u64,
    failed: u64,
    malformed: u64,
    /// Bytes of input whose jobs have ended.
    bytes: u64,
}

/// Why nothing more is begun.
enum Stop {
    Signal(i32),
    Halt,
    /// Nobody reads the results.
    ReaderGone,
    Strict,
    Error(String),
    /// The pool has ended.
    Lost(String),
}

/// A job that was submitted.
struct Submitted {
    turn: u64,
    seq: u64,
    at: SystemTime,
    /// As the joblog has it; empty if there is none.
    command: Vec<u8>,
    /// Bytes of its line.
    len: usize,
    /// Bytes of memory, about; with its result, if that has to wait for its turn.
    weight: usize,
}

/// What comes of a job, for its turn.
enum Came {
    Result(Submitted, Box<JobResult>),
    /// It was not begun.
    Nothing(u64),
}

/// A job whose result is about to be written.
struct ToLog {
    submitted: Submitted,
    waited: Duration,
    ran: Duration,
    /// Where it ends in the output.
    end: u64,
    received: usize,
    exit: i32,
    signal: i32,
}

struct Drive<'p> {
    form: Form,
    label: Option<Label>,
    is_raw: bool,
    is_strict: bool,
    is_dry: bool,
    is_ordered: bool,
    halt: Halt,
    /// How many jobs there are, if that is known.
    all: Option<u64>,
    input_name: String,
    runner: Runner<'p>,
    most: usize,
    lines: Lines,
    done: DoneSet,
    /// The first of them, and its command, where that must be the same.
    first_done: Option<(u64, Vec<u8>)>,
    log: Option<JobLog>,
    /// Whose results are in `out`.
    logged: Vec<ToLog>,
    state: Option<State>,
    /// The same, for the state.
    written: Vec<u64>,
    /// What stands in the output is known by the joblog.
    is_cut_by_log: bool,
    out_name: String,
    out: Out,
    progress: Progress,
    signal: Arc<AtomicI32>,
    under_way: BTreeMap<u64, Submitted>,
    /// Bytes of what is under way and held.
    weight: usize,
    /// Results before their turn.
    held: BTreeMap<u64, Came>,
    /// The number of the last job.
    seq: u64,
    /// How many were submitted.
    submitted: u64,
    /// Whose result is to be written next.
    turn: u64,
    counts: Counts,
    /// Why the input ended before its end.
    unread: Option<String>,
    stop: Option<Stop>,
}

impl Drive<'_> {
    fn run(&mut self) {
        loop {
            if self.is_left() {
                return;
            }
            self.look_for_signals();
            let is_over = self.stop.is_some() || self.fill();
            if self.runner.under_way() == 0 {
                self.flush();
                if self.stop.is_some() || is_over {
                    break;
                }
                if let Some(e) = self.lines.wait() {
                    self.unreadable(&e);
                }
                continue;
            }
            // As many as there are; to sleep only once what has come is written.
            let mut next = self.runner.next(Some(Instant::now()));
            if next.is_none() {
                self.flush();
                let until = self.is_to_end().then(|| Instant::now() + END);
                next = self.runner.next(until);
                if next.is_none() && until.is_some_and(|at| at <= Instant::now()) {
                    return;
                }
            }
            while let Some((number, result)) = next {
                self.take(number, result);
                next = self.runner.next_ready();
            }
            if self.out.is_full() || self.out.bytes().is_empty() && self.logged.len() > 1000 {
                self.flush();
            }
        }
        self.progress.end();
    }

    /// Is what is under way left to the next run, since this one can't write its results?
    fn is_left(&self) -> bool {
        self.state.is_some() && matches!(&self.stop, Some(Stop::ReaderGone | Stop::Error(_) | Stop::Lost(_)))
    }

    fn is_to_end(&self) -> bool {
        match &self.stop {
            Some(Stop::Halt) => matches!(self.halt, Halt::Now(_)),
            Some(Stop::ReaderGone | Stop::Error(_) | Stop::Lost(_)) => true,
            _ => false,
        }
    }

    fn look_for_signals(&mut self) {
        // Acquire: with the exchange of who notes it.
        let signal = self.signal.load(Acquire);
        if signal != 0 && !self.is_to_end() && !matches!(self.stop, Some(Stop::Signal(_))) {
            self.stop_for(Stop::Signal(signal));
            let name = Signal::try_from(signal).map_or("signal", Signal::as_str);
            self.progress
                .say(format_args!("{name}: nothing more is begun, and what runs is finished; once more ends it"));
        }
    }

    /// Nothing more is begun; what runs is ended too if it comes to that.
    fn stop_for(&mut self, why: Stop) {
        self.stop = Some(why);
        if self.is_left() {
        } else if self.is_to_end() {
            self.runner.cancel_all();
        } else {
            self.runner.cancel_waiting();
        }
    }

    /// Submits as much as there is room for. True: there are no more lines.
    fn fill(&mut self) -> bool {
        while self.stop.is_none()
            && self.runner.room() > 0
            && (self.weight < WEIGHT || self.under_way.is_empty())
            && self.submitted - self.turn < (self.ahead() * self.most) as u64
        {
            match self.lines.next() {
                Next::Line(range) => {
                    if self.is_dry {
                        self.show(range);
                    } else {
                        self.submit(range);
                    }
                }
                Next::TooLong => {
                    let most = LONGEST >> 20;
                    self.malformed(&format!("it is longer than {most} MiB"));
                }
                Next::NotYet => return false,
                Next::End => {
                    self.all.get_or_insert(self.seq);
                    return true;
                }
                Next::Failed(e) => self.unreadable(&e),
            }
            if self.out.is_full() {
                self.flush();
            }
        }
        false
    }

    /// Results that wait for their turn take room in the pool where that keeps them.
    fn ahead(&self) -> usize {
        if self.state.is_some() { 1 } else { AHEAD }
    }

    fn unreadable(&mut self, e: &io::Error) {
        // What was read is run.
        self.unread = Some(format!("cannot read {}: {e}", self.input_name));
    }

    /// The next job, if this line is one that is not done: it, and its command for the joblog.
    fn job(&mut self, range: std::ops::Range<usize>) -> Option<(Job, Vec<u8>)> {
        let line = self.lines.bytes(range.clone());
        let wants_command = self.log.is_some() || self.is_dry;
        let (mut job, command) = match &self.form {
            Form::Json => match Job::of_line(line) {
                Ok(None) => {
                    self.counts.bytes += range.len() as u64 + 1;
                    return None;
                }
                Ok(Some(job)) => {
                    self.seq += 1;
                    if is_other(&mut self.first_done, self.seq, || line.trim_ascii().to_vec()) {
                        self.is_another_command();
                        return None;
                    }
                    (job, if wants_command { line.trim_ascii().to_vec() } else { Vec::new() })
                }
                Err(why) => {
                    self.seq += 1;
                    self.malformed(&why);
                    return None;
                }
            },
            Form::Command(template) => {
                self.seq += 1;
                if is_other(&mut self.first_done, self.seq, || quoted(&template.fill(line, self.seq))) {
                    self.is_another_command();
                    return None;
                }
                if self.done.contains(self.seq) {
                    return None;
                }
                let words = template.fill(line, self.seq);
                let texts: Vec<Text> = words.iter().map(|word| Text::of(word)).collect();
                let args = serde_json::to_string(&texts).and_then(RawValue::from_string);
                let mut job = Job::new("exec");
                job.args = args.ok();
                let is_named = !self.is_raw && self.label.is_none();
                job.label = is_named.then(|| String::from_utf8_lossy(line).into_owned());
                (job, if wants_command || self.is_raw { quoted(&words) } else { Vec::new() })
            }
        };
        if self.done.contains(self.seq) {
            return None;
        }
        if let (None, Some(label)) = (&job.label, &self.label) {
            job.label = Some(label.fill(if matches!(self.form, Form::Json) { b"" } else { line }, self.seq));
        }
        Some((job, command))
    }

    /// What is done by the joblog was another job.
    fn is_another_command(&mut self) {
        self.stop_for(Stop::Error(format!(
            "job {} is done by the joblog, and was of another command or another input there: give the same, or name another \
             joblog, and another state",
            self.seq
        )));
    }

    fn submit(&mut self, range: std::ops::Range<usize>) {
        let len = range.len() + 1;
        let hash = self.state.as_ref().map(|state| (hash(self.lines.bytes(range.clone())), state.command.clone()));
        let Some((job, command)) = self.job(range) else { return };
        let mut key = hash.map(|(line, command)| format!("{} {line} {command}", self.seq));
        if let (Some(key), Some(state)) = (&mut key, &mut self.state)
            && let Some(accepted) = state.adopted.remove(&self.seq)
        {
            // It had no command in it before.
            let is_same = key.strip_prefix(&*accepted).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
            if !is_same {
                let why = format!(
                    "job {} is another than the one that '{}' has accepted: give the same input, or name another file",
                    self.seq, state.name
                );
                return self.stop_for(Stop::Error(why));
            }
            // By which it is found in the state.
            *key = accepted;
        }
        let weight = len + command.len() + EACH;
        let submitted = Submitted { turn: self.submitted, seq: self.seq, at: SystemTime::now(), command, len, weight };
        self.weight += weight;
        self.submitted += 1;
        let number = submitted.turn;
        self.under_way.insert(number, submitted);
        let submitted = match &key {
            Some(key) => self.runner.submit_kept(number, &job, key),
            None => self.runner.submit(number, &job),
        };
        if let Err(refused) = submitted {
            self.take(number, refused);
        }
    }

    /// Prints what would be run.
    fn show(&mut self, range: std::ops::Range<usize>) {
        let Some((job, command)) = self.job(range) else { return };
        let out = self.out.bytes();
        match &self.form {
            Form::Command(_) if self.is_raw => out.extend(command),
            // A `Vec` takes all.
            _ => drop(serde_json::to_writer(&mut *out, &job)),
        }
        out.push(b'\n');
    }

    fn malformed(&mut self, why: &str) {
        self.counts.malformed += 1;
        self.progress.say(format_args!("error: {}, line {}: {why}", self.input_name, self.lines.number));
        if self.is_strict {
            // What stands before it is run.
            self.stop = Some(Stop::Strict);
        }
    }

    /// A job has ended.
    fn take(&mut self, number: u64, result: JobResult) {
        let Some(mut submitted) = self.under_way.remove(&number) else { return };
        if let Some(why) = self.runner.lost() {
            // It is no word on the job, which `--resume` does again.
            if !matches!(self.stop, Some(Stop::Lost(_))) {
                self.stop = Some(Stop::Lost(why.to_owned()));
            }
            return;
        }
        // Not begun: nothing is said of it.
        let is_nothing = result.status == Status::Cancelled && result.attempts == 0;
        if !is_nothing {
            self.counts.ended += 1;
            self.counts.bytes += submitted.len as u64;
            // What was cancelled this command has ended itself.
            self.counts.failed += u64::from(!matches!(result.status, Status::Done | Status::Cancelled));
        }
        self.progress.tell(self.counts.ended, self.counts.failed, self.counts.bytes);
        if self.is_ordered && number != self.turn {
            let more = result.result.as_ref().map_or(0, |result| result.get().len());
            submitted.weight += more;
            self.weight += more;
        }
        let came = match is_nothing {
            true => Came::Nothing(submitted.turn),
            false => Came::Result(submitted, Box::new(result)),
        };
        if !self.is_ordered {
            self.turn += 1;
            self.emit(came);
        } else {
            self.held.insert(number, came);
            while let Some(came) = self.held.remove(&self.turn) {
                self.turn += 1;
                self.emit(came);
            }
        }
        let Counts { ended, failed, .. } = self.counts;
        if self.stop.is_none() && self.halt.is_due(ended, failed, self.all) {
            self.stop_for(Stop::Halt);
        }
    }

    /// Puts a result where it will be written.
    fn emit(&mut self, came: Came) {
        let (submitted, result) = match came {
            Came::Result(submitted, result) => (submitted, result),
            // There is nothing to write before it is let go, and the next run submits it anew.
            Came::Nothing(turn) => return self.written.extend(self.state.is_some().then_some(turn)),
        };
        let turn = submitted.turn;
        let is_left_out = self.is_cut_by_log && result.status == Status::Cancelled;
        self.weight = self.weight.saturating_sub(submitted.weight);
        let before = self.out.bytes().len();
        let (exit, signal) = exit_of(&result);
        let (waited, ran) = (Duration::from_micros(result.waited_us), Duration::from_micros(result.ran_us));
        let is_logged = self.log.is_some() && result.status != Status::Cancelled;
        let mut received = None;
        if is_left_out {
            // It is run by the next one that resumes, which would not know that it stands here.
        } else if self.is_raw {
            received = Some(self.emit_raw(&submitted, *result));
        } else {
            let out = self.out.bytes();
            // A `Vec` takes all.
            let _ = serde_json::to_writer(&mut *out, &*result);
            out.push(b'\n');
        }
        if is_logged {
            let received = received.unwrap_or(self.out.bytes().len() - before);
            self.logged.push(ToLog { submitted, waited, ran, end: self.out.end(), received, exit, signal });
        }
        // Not before its line of the joblog: a flush in between would let it go without one.
        self.written.extend(self.state.is_some().then_some(turn));
    }

    /// What a program has written, as it is. Returns how much that was.
    fn emit_raw(&mut self, submitted: &Submitted, result: JobResult) -> usize {
        let output = result.result.as_deref().and_then(|output| serde_json::from_str::<ExecOutput>(output.get()).ok());
        let is_plain_exit = result.status == Status::Failed && result.exit_code.is_some();
        let mut received = 0;
        if let Some(output) = output {
            let dropped = output.stdout_dropped + output.stderr_dropped;
            let [stdout, stderr] = output.streams();
            received = stdout.len();
            let label = result.label.as_deref();
            tagged(label, &stdout, self.out.bytes());
            if !stderr.is_empty() {
                // In the order in which a program writes for the most part.
                self.flush();
                let mut bytes = Vec::new();
                tagged(label, &stderr, &mut bytes);
                self.progress.pass(&bytes);
            }
            if dropped > 0 {
                self.complain(submitted, &format!("it wrote too much: the first {dropped} bytes are lost"));
            }
        }
        if !matches!(result.status, Status::Done | Status::Cancelled) && !is_plain_exit {
            self.complain(submitted, result.error.as_deref().unwrap_or("it failed"));
        }
        received
    }

    fn complain(&self, submitted: &Submitted, why: &str) {
        let command = String::from_utf8_lossy(&submitted.command);
        self.progress.say(CliError::new(exit::FAILURE, format_args!("job {} ({command}): {why}", submitted.seq)));
    }

    /// Results can't be written. The first reason stands; that enough jobs have failed is none.
    fn fail(&mut self, why: Stop) {
        if !matches!(self.stop, Some(Stop::ReaderGone | Stop::Error(_) | Stop::Lost(_))) {
            self.stop_for(why);
        }
    }

    /// Writes results, then which jobs have ended.
    fn flush(&mut self) {
        // What a failed write has lost is not in `out` any more, and its job may have come here since.
        if !self.out.is_empty() || self.out.is_torn() {
            let written = self.out.flush(&self.progress);
            if let Err(e) = written {
                // What was not written is not done.
                self.logged.clear();
                self.written.clear();
                self.fail(match e.kind() {
                    io::ErrorKind::BrokenPipe => Stop::ReaderGone,
                    _ => Stop::Error(format!("cannot write to {}: {e}", self.out_name)),
                });
            }
        }
        for ToLog { submitted, waited, ran, end, received, exit, signal } in std::mem::take(&mut self.logged) {
            let Some(log) = &mut self.log else { break };
            let Submitted { seq, at, command, .. } = &submitted;
            let entry = Entry { seq: *seq, began: *at + waited, ran, end, received, exit, signal, command };
            if let Err(why) = log.write(&entry) {
                self.log = None;
                self.fail(Stop::Error(why));
            }
        }
        if self.log.is_none() {
            // Where there is a state there was one, which can't be written: what came later is not in it either.
            self.written.clear();
        }
        for number in self.written.drain(..) {
            self.runner.let_go(number);
        }
    }

    fn outcome(&self) -> Result<(), CliError> {
        let Counts { ended, failed, malformed, .. } = self.counts;
        if let (Some(state), None, None) = (&self.state, &self.stop, &self.unread)
            && let Some((seq, _)) = state.adopted.first_key_value()
        {
            let (n, name) = (state.adopted.len(), &state.name);
            let why = format!(
                "{n} jobs that '{name}' has accepted, from job {seq} on, are not in this input: they stay there"
            );
            return Err(CliError::new(exit::FAILURE, why));
        }
        let summary = |code, why: &str| {
            let rest = if self.state.is_some() {
                "; the same command does the rest"
            } else if self.log.is_some() {
                "; --resume does the rest"
            } else {
                ""
            };
            Err(CliError::summary(code, format_args!("{why}: {ended} jobs have ended, {failed} of them failed{rest}")))
        };
        match &self.stop {
            Some(Stop::Signal(signal)) => {
                let name = Signal::try_from(*signal).map_or("a signal", Signal::as_str);
                let code = u8::try_from(128 + signal).unwrap_or(exit::FAILURE);
                summary(code, &format!("stopped by {name}"))
            }
            Some(Stop::Halt) => {
                let code = if failed + malformed > 0 { exit::FAILURE } else { exit::OK };
                if code == exit::OK { Ok(()) } else { summary(code, "halted") }
            }
            Some(Stop::Lost(why)) => summary(exit::FAILURE, &format!("error: {why}")),
            Some(Stop::Strict) => summary(exit::FAILURE, "stopped at a malformed line"),
            None if let Some(why) = &self.unread => Err(CliError::new(exit::FAILURE, why)),
            Some(Stop::Error(why)) => Err(CliError::new(exit::FAILURE, why)),
            Some(Stop::ReaderGone) | None if failed + malformed == 0 => Ok(()),
            Some(Stop::ReaderGone) | None => {
                let lines = if malformed > 0 { format!(", {malformed} lines malformed") } else { String::new() };
                Err(CliError::summary(exit::FAILURE, format_args!("{failed} of {ended} jobs failed{lines}")))
            }
        }
    }
}

/// What a state file knows of jobs.
struct State {
    name: String,
    /// Jobs that were accepted and have not come up in the input yet: their keys, by their numbers. A key is the number, by which the
    /// line is known, and by which the command.
    adopted: BTreeMap<u64, String>,
    command: String,
}

impl State {
    /// Were the jobs that are in this state, if it is there, accepted for this command?
    ///
    /// # Errors
    /// A line for people.
    fn check(path: &Path, command: &str) -> Result<(), String> {
        // What is wrong with it says who opens it.
        let Ok(contents) = journal::read(&journal::path_of(path, journal::MAIN)) else { return Ok(()) };
        let keys = contents.open.values().filter_map(|open| open.key.as_deref());
        let others = keys.filter(|key| key.split(' ').nth(2).is_some_and(|of| of != command)).count();
        match others {
            0 => Ok(()),
            _ => Err(format!(
                "'{}' has accepted {others} jobs of another command: give the same one to go on with these, or name another state \
                 for this one",
                path.display()
            )),
        }
    }

    /// What is done by the joblog is let go, and what a former run has cancelled as it ended, which is submitted anew.
    fn of(path: &Path, pool: &Pool, done: &DoneSet, command: String) -> State {
        let mut adopted = BTreeMap::new();
        for (key, is_cancelled) in pool.adopted_keys() {
            match key.split_once(' ').and_then(|(seq, _)| seq.parse().ok()) {
                Some(seq) if is_cancelled || done.contains(seq) => pool.forget_adopted(&key),
                Some(seq) => drop(adopted.insert(seq, key)),
                None => {} // of another program
            }
        }
        State { name: path.display().to_string(), adopted, command }
    }
}

/// By which a line, or a command, is told from another.
fn hash(text: &[u8]) -> String {
    Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Is the first job that is done by the joblog another one than this of the same number? Asked once.
fn is_other(first_done: &mut Option<(u64, Vec<u8>)>, seq: u64, command: impl FnOnce() -> Vec<u8>) -> bool {
    let first = first_done.take_if(|(first, _)| *first == seq);
    first.is_some_and(|(_, told)| !one_line(&command()).eq(told))
}

/// Exit code and signal as GNU parallel logs them.
fn exit_of(result: &JobResult) -> (i32, i32) {
    match result.status {
        Status::Done => (0, 0),
        Status::TimedOut => (-1, result.signal.unwrap_or(Signal::SIGTERM as i32)),
        _ => match (result.exit_code, result.signal) {
            (Some(code), _) => (code, 0),
            (None, Some(signal)) => (0, signal),
            // As a shell that can't start a program, or any failure.
            (None, None) if result.task == "exec" && result.status == Status::Failed => (127, 0),
            (None, None) => (1, 0),
        },
    }
}

/// The lines with a label before each.
fn tagged(label: Option<&str>, text: &[u8], out: &mut Vec<u8>) {
    let Some(label) = label else { return out.extend_from_slice(text) };
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        out.extend_from_slice(label.as_bytes());
        out.push(b'\t');
        out.extend_from_slice(line);
    }
}
