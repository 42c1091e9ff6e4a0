//! What was typed: the commands, their flags, and the one line that says what is wrong with them.

#[cfg(feature = "pool")]
use super::bench::BenchArgs;
use super::{
    clean::CleanArgs,
    exit::{CliError, USAGE},
    inspect::InspectArgs,
    probe::ProbeArgs,
    torture::TortureArgs,
};
use crate::mem::backing::{LONGEST, is_pool_name};
#[cfg(feature = "temporal")]
use crate::{
    mem::backing::Backing,
    temporal::{
        connect::ConnectFlags,
        starter::{Json, StarterOptions},
    },
};
use clap::{
    CommandFactory, Parser, Subcommand,
    builder::NonEmptyStringValueParser,
    error::{ContextKind, ContextValue, ErrorKind},
};
use std::{error::Error as _, ffi::OsString, ops::RangeInclusive};
#[cfg(feature = "temporal")]
use std::{path::PathBuf, str::FromStr, time::Duration};

/// Workers in processes: one connection to Temporal, as many workflow and activity processes as you have cores for.
#[derive(Parser)]
#[command(name = "shmworker", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run workflow and activity workers, each in a process of its own
    #[cfg(feature = "temporal")]
    #[command(after_help = "Example:\n  shmworker run -w 4 -a 2\n      \
        4 workflow and 2 activity processes; starts a dev server if nothing names a server and none runs\n\n\
        The first SIGINT or SIGTERM drains, the second cancels what still runs.")]
    Run(Box<RunArgs>),
    /// Start workflows and print their results
    #[cfg(feature = "temporal")]
    #[command(after_help = "Example:\n  shmworker starter -n 100\n      \
        starts 100 workflows at once and prints one line per result, as they come")]
    Starter(Box<StarterArgs>),
    /// Replay recorded histories against this program's workflows, without a server
    #[cfg(feature = "temporal")]
    #[command(after_help = "Example:\n  \
        temporal workflow show --workflow-id ID --output json > history.json\n  shmworker replay history.json\n      \
        says whether the workflows as they are now do what they did then\n\n\
        Exit code 1 if one does not, 2 if a file is no history or its workflow type is not registered.")]
    Replay(ReplayArgs),
    /// Measure how fast a pool is on this machine, beside what the machine can do at most
    #[cfg(feature = "pool")]
    #[command(after_help = "Example:\n  shmworker bench --seconds 30 --json\n      \
        measures twice as long as usual, and prints one JSON object\n\n\
        It needs two CPUs, and a machine that has nothing else to do.")]
    Bench(BenchArgs),
    /// Kill processes at random moments, or after each instruction, and check that nothing is lost
    #[command(after_help = "Example:\n  shmworker torture --seconds 60\n      \
        4 workers and 2 clients, one of them killed every few milliseconds\n  shmworker torture --single-step\n      \
        submit, claim, complete, take, cancel, park and recovery, each killed after every single instruction\n  \
        shmworker torture --wakes 5000\n      \
        rounds of sleep and wake, with a waker or a sleeper killed or stopped in many of them\n  \
        shmworker torture --experiments\n      \
        five deaths that break Python's pools")]
    Torture(TortureArgs),
    /// Show who takes part in a pool, where its tasks are, and whether its shared memory is sound
    #[command(after_help = "Example:\n  shmworker inspect 4711\n      \
        the pool whose coordinator has this process id; for one that is dead, its name or its file\n\n\
        It only reads. Exit code 1 if an invariant is violated; each is printed with the words involved.")]
    Inspect(InspectArgs),
    /// Remove the shared memory and the sockets of pools whose processes are all dead
    #[command(after_help = "Example:\n  shmworker clean --dry-run\n      \
        says what is left over in /dev/shm; what belongs to a pool that is alive is never touched")]
    Clean(CleanArgs),
    /// Make a segment and fill it
    #[command(hide = true)]
    Probe(ProbeArgs),
}

/// What `shmworker run` was told.
#[cfg(feature = "temporal")]
#[derive(clap::Args)]
pub(crate) struct RunArgs {
    /// Workflow worker processes
    #[arg(short = 'w', long, value_name = "N", default_value = "2", allow_negative_numbers = true,
          value_parser = number(0..=512))]
    pub(crate) num_workflow_workers: u32,
    /// Workflow worker processes that there may be; SIGTTIN starts one more, SIGTTOU ends one [default: twice as many, at least 16]
    #[arg(long, value_name = "N", value_parser = number(1..=1024))]
    pub(crate) max_workflow_workers: Option<u32>,
    /// Activations after which a workflow process hands its runs over and another takes its place
    #[arg(long, value_name = "N", value_parser = number(1..=u32::MAX))]
    pub(crate) max_tasks_per_process: Option<u32>,
    /// Memory of its own past which a workflow process hands its runs over and another takes its place: 512M, 2G
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) max_memory_per_process: Option<u64>,
    /// Activity worker processes
    #[arg(short = 'a', long, value_name = "N", default_value = "1", allow_negative_numbers = true,
          value_parser = number(0..=512))]
    pub(crate) num_activity_workers: u32,
    /// Task queue that the workflow workers serve
    #[arg(long, value_name = "NAME", default_value = "workflow-task-queue", value_parser = name())]
    pub(crate) workflow_task_queue: String,
    /// Task queue that the activity workers serve
    #[arg(long, value_name = "NAME", default_value = "activity-task-queue", value_parser = name())]
    pub(crate) activity_task_queue: String,
    /// Attempts that one activity process runs at a time
    #[arg(long, value_name = "N", default_value = "100", allow_negative_numbers = true,
          value_parser = number(1..=10_000))]
    pub(crate) activity_slots: u32,
    /// Workflow runs kept in memory, over all workflow processes
    #[arg(long, value_name = "N", default_value = "1000", allow_negative_numbers = true,
          value_parser = number(1..=1_000_000))]
    pub(crate) max_cached_workflows: u32,
    /// Name under which others attach to the pool, and inspect it [default: the process id]
    #[arg(long, value_name = "NAME", value_parser = pool_name)]
    pub(crate) name: Option<String>,
    /// Where the shared memory lies: 'named' can be inspected when every process is dead, 'file:PATH' stays until it is removed
    #[arg(long, value_name = "memfd|named|file:PATH", default_value = "memfd", value_parser = backing)]
    pub(crate) backing: BackingArg,
    /// Take all shared memory at the start, so that none can be missing later [default: as it is used]
    #[arg(long)]
    pub(crate) reserve: bool,
    /// Ask the kernel for huge pages: for tasks and queues, with --reserve for payloads too
    #[arg(long)]
    pub(crate) huge_pages: bool,
    /// Map in each process, as it starts, all shared memory that is there from the start [default: as it is used]
    #[arg(long)]
    pub(crate) prefault: bool,
    /// Do not note how long tasks wait and run
    #[arg(long)]
    pub(crate) no_times: bool,
    /// How long a drain lets activities finish before they are cancelled: 10s, 500ms, 2m
    #[arg(long, value_name = "DURATION", default_value = "10s", allow_hyphen_values = true,
          value_parser = duration)]
    pub(crate) grace: Duration,
    /// How long workflow code may run before it yields; then its process is killed and replaced. 0s: as long as it likes
    #[arg(long, value_name = "DURATION", default_value = "2s", allow_hyphen_values = true,
          value_parser = duration)]
    pub(crate) deadlock_timeout: Duration,
    /// Never start a dev server: fail if no server answers
    #[arg(long)]
    pub(crate) no_dev_server: bool,
    /// Keep the dev server's state in this file, across runs
    #[arg(long, value_name = "FILE", conflicts_with = "no_dev_server")]
    pub(crate) dev_server_db: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// On what the segment of a pool is to lie.
#[cfg(feature = "temporal")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BackingArg {
    /// Memory without a name.
    Memfd,
    /// Memory under the name of the pool.
    Named,
    /// A file.
    File(PathBuf),
}

#[cfg(feature = "temporal")]
impl BackingArg {
    /// For a pool of this name; without one it has that of its process id, under which it is found as well.
    pub(crate) fn of(self, name: Option<&str>) -> Backing {
        match self {
            BackingArg::Memfd => Backing::Memfd,
            BackingArg::Named => Backing::Named(name.map_or_else(|| std::process::id().to_string(), str::to_owned)),
            BackingArg::File(path) => Backing::File(path),
        }
    }
}

/// What `shmworker starter` was told.
#[cfg(feature = "temporal")]
#[derive(clap::Args)]
pub(crate) struct StarterArgs {
    /// Workflows to start
    #[arg(short = 'n', long, value_name = "N", default_value = "25", allow_negative_numbers = true,
          value_parser = number(1..=100_000))]
    num_workflows: u32,
    /// Task queue to start them on
    #[arg(long, value_name = "NAME", default_value = "workflow-task-queue", value_parser = name())]
    task_queue: String,
    /// Name of the workflow
    #[arg(long, value_name = "NAME", default_value = "ParallelizedWorkflow", value_parser = name())]
    workflow: String,
    /// Input of each workflow, as JSON
    #[arg(long, value_name = "JSON", allow_negative_numbers = true, value_parser = Json::from_str)]
    input: Option<Json>,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[cfg(feature = "temporal")]
impl StarterArgs {
    /// What to start, and where.
    pub(crate) fn split(self) -> (StarterOptions, ConnectFlags) {
        let StarterArgs { num_workflows, task_queue, workflow, input, connect } = self;
        (StarterOptions { num_workflows: num_workflows as usize, task_queue, workflow, input }, connect.into())
    }
}

/// What `shmworker replay` was told.
#[cfg(feature = "temporal")]
#[derive(clap::Args)]
pub(crate) struct ReplayArgs {
    /// Histories in JSON, or directories of them
    #[arg(value_name = "FILE|DIR", required = true)]
    pub(crate) histories: Vec<PathBuf>,
    /// Workflow worker processes, each with a replay of its own
    #[arg(short = 'w', long, value_name = "N", default_value = "2", allow_negative_numbers = true,
          value_parser = number(1..=512))]
    pub(crate) num_workflow_workers: u32,
}

/// Where the server is. Each flag wins over Temporal's own environment variables, and those over its config file.
#[cfg(feature = "temporal")]
#[derive(clap::Args)]
#[command(next_help_heading = "Connection (else TEMPORAL_* variables, then Temporal's config file)")]
pub(crate) struct ConnectArgs {
    /// Address of the server [default: localhost:7233]
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    /// Namespace [default: default]
    #[arg(short = 'N', long, value_name = "NAME")]
    namespace: Option<String>,
    /// Profile in the config file [default: default]
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Config file [default: ~/.config/temporalio/temporal.toml]
    #[arg(long, value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// API key, implies TLS; other users can read a command line, so TEMPORAL_API_KEY is the better place
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Use TLS, with the system's certificate authorities unless --tls-ca names one
    #[arg(long)]
    tls: bool,
    /// Certificate authority of the server, PEM
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Client certificate, PEM
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Key of the client certificate, PEM
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Name that the server's certificate must carry, if not that of the address
    #[arg(long, value_name = "NAME")]
    tls_server_name: Option<String>,
}

#[cfg(feature = "temporal")]
impl From<ConnectArgs> for ConnectFlags {
    fn from(args: ConnectArgs) -> ConnectFlags {
        let ConnectArgs {
            address,
            namespace,
            profile,
            config_file,
            api_key,
            tls,
            tls_ca,
            tls_cert,
            tls_key,
            tls_server_name,
        } = args;
        ConnectFlags {
            address,
            namespace,
            profile,
            config_file,
            api_key,
            tls,
            tls_ca,
            tls_cert,
            tls_key,
            tls_server_name,
        }
    }
}

/// What a command line comes to.
pub(crate) enum Parsed {
    /// A command to run.
    Run(Command),
    /// Help or version, to be printed.
    Text(clap::Error),
}

/// Reads a command line, of which `argv[0]` is the program.
pub(crate) fn parse(argv: Vec<OsString>) -> Result<Parsed, CliError> {
    match Cli::try_parse_from(&argv) {
        Ok(cli) => check(&cli.command).map(|()| Parsed::Run(cli.command)),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Ok(Parsed::Text(error))
        }
        Err(error) => Err(CliError::new(USAGE, explain(&error, &argv))),
    }
}

/// What clap can't express.
fn check(command: &Command) -> Result<(), CliError> {
    match command {
        #[cfg(feature = "temporal")]
        Command::Run(args) if args.num_workflow_workers == 0 && args.num_activity_workers == 0 => {
            Err(CliError::new(USAGE, "'-w 0 -a 0' leaves nothing to run: give at least one worker, such as '-w 1'"))
        }
        _ => Ok(()),
    }
}

/// One line for a usage error; clap's own text is several.
fn explain(error: &clap::Error, argv: &[OsString]) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        Some(ContextValue::Strings(texts)) => texts.first().map(String::as_str),
        _ => None,
    };
    let arg = text(ContextKind::InvalidArg).map(|arg| as_typed(arg, argv));
    let command =
        argv.get(1).and_then(|word| word.to_str()).filter(|word| Cli::command().find_subcommand(word).is_some());
    let help = command.map_or("shmworker --help".to_owned(), |command| format!("shmworker {command} --help"));
    match (error.kind(), arg) {
        (ErrorKind::ValueValidation, Some(arg)) => {
            let value = text(ContextKind::InvalidValue).unwrap_or_default();
            let expected = error.source().map_or_else(|| format!("see '{help}'"), ToString::to_string);
            format!("invalid value '{value}' for '{arg}': {expected}")
        }
        (ErrorKind::InvalidValue, Some(arg)) => format!("'{arg}' needs a value: see '{help}'"),
        (ErrorKind::UnknownArgument, Some(arg)) => {
            let what = if arg.starts_with('-') { "flag" } else { "argument" };
            let remedy =
                text(ContextKind::SuggestedArg).map_or(format!("see '{help}'"), |s| format!("did you mean '{s}'?"));
            format!("unknown {what} '{arg}': {remedy}")
        }
        (ErrorKind::MissingRequiredArgument, Some(arg)) => format!("'{arg}' is missing: see '{help}'"),
        (ErrorKind::InvalidSubcommand, _) => {
            let typed = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            let suggested = text(ContextKind::SuggestedSubcommand);
            let remedy = suggested.map_or(format!("see '{help}'"), |s| format!("did you mean '{s}'?"));
            format!("unknown command '{typed}': {remedy}")
        }
        (ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, _) => {
            format!("no command given: see '{help}'")
        }
        (ErrorKind::ArgumentConflict, Some(arg)) => {
            match text(ContextKind::PriorArg).map(|prior| as_typed(prior, argv)).filter(|prior| *prior != arg) {
                Some(prior) => format!("'{arg}' and '{prior}' exclude each other: give one of them"),
                None => format!("'{arg}' is given more than once: give it once"),
            }
        }
        _ => {
            let clap = error.to_string();
            let first = clap.lines().next().unwrap_or_default();
            format!("{}: see '{help}'", first.trim_start_matches("error: "))
        }
    }
}

/// The flag under the name that was typed: clap reports `--long <VALUE>`, whichever it was.
fn as_typed(arg: &str, argv: &[OsString]) -> String {
    let name = arg.split([' ', '=']).next().unwrap_or(arg);
    let Some(long) = name.strip_prefix("--") else { return name.to_owned() };
    if argv.iter().filter_map(|word| word.to_str()).any(|word| word.split('=').next() == Some(name)) {
        return name.to_owned();
    }
    let root = Cli::command();
    let short = root.get_subcommands().flat_map(|c| c.get_arguments()).find(|a| a.get_long() == Some(long));
    short.and_then(|a| a.get_short()).map_or_else(|| name.to_owned(), |short| format!("-{short}"))
}

/// A parser of names that would be refused only after everything has been started.
pub(super) fn name() -> NonEmptyStringValueParser {
    NonEmptyStringValueParser::new()
}

/// A parser of whole numbers within `range`.
pub(super) fn number(
    range: RangeInclusive<u32>,
) -> impl Fn(&str) -> Result<u32, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("it must be a number from {} to {}", range.start(), range.end()))
    }
}

/// A name that a pool can have.
pub(super) fn pool_name(text: &str) -> Result<String, String> {
    if is_pool_name(text) {
        Ok(text.to_owned())
    } else {
        Err(format!("it must be 1 to {LONGEST} letters, digits, '.', '_' and '-'"))
    }
}

/// On what a segment lies.
#[cfg(feature = "temporal")]
fn backing(text: &str) -> Result<BackingArg, String> {
    match (text, text.strip_prefix("file:")) {
        ("memfd", _) => Ok(BackingArg::Memfd),
        ("named", _) => Ok(BackingArg::Named),
        (_, Some(path)) if !path.is_empty() => Ok(BackingArg::File(path.into())),
        _ => Err("it must be 'memfd', 'named' or 'file:PATH'".to_owned()),
    }
}

/// A number of bytes with its unit.
#[cfg(feature = "temporal")]
fn size(text: &str) -> Result<u64, String> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let shift = match unit {
        "K" => Some(10),
        "M" => Some(20),
        "G" => Some(30),
        _ => None,
    };
    let bytes = shift.zip(digits.parse().ok()).and_then(|(shift, n): (u32, u64)| n.checked_mul(1 << shift));
    bytes.filter(|&n| n > 0).ok_or_else(|| "it must be a size, such as 512M or 2G".to_owned())
}

/// A whole number with its unit.
#[cfg(feature = "temporal")]
fn duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let millis = unit.zip(digits.parse().ok()).and_then(|(unit, n): (u64, u64)| unit.checked_mul(n));
    millis.map(Duration::from_millis).ok_or_else(|| "it must be a duration, such as 10s, 500ms or 2m".to_owned())
}

#[cfg(all(test, feature = "temporal"))]
mod tests {
    use super::*;

    fn line(words: &[&str]) -> Result<Parsed, CliError> {
        parse(std::iter::once("shmworker").chain(words.iter().copied()).map(OsString::from).collect())
    }

    fn run(words: &[&str]) -> RunArgs {
        match line(words) {
            Ok(Parsed::Run(Command::Run(args))) => *args,
            Ok(_) => panic!("{words:?} is not understood as 'run'"),
            Err(error) => panic!("{words:?}: {error}"),
        }
    }

    fn refused(words: &[&str]) -> String {
        let Err(error) = line(words) else { panic!("{words:?} is accepted") };
        assert_eq!(error.code(), USAGE);
        error.to_string()
    }

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_has_defaults() {
        let args = run(&["run"]);
        assert_eq!((args.num_workflow_workers, args.num_activity_workers), (2, 1));
        assert_eq!(
            (args.workflow_task_queue.as_str(), args.activity_task_queue.as_str()),
            ("workflow-task-queue", "activity-task-queue")
        );
        assert_eq!((args.activity_slots, args.max_cached_workflows), (100, 1000));
        assert_eq!(args.grace, Duration::from_secs(10));
        assert!(!args.no_dev_server && args.dev_server_db.is_none() && !args.connect.tls);
    }

    #[test]
    fn run_takes_short_long_and_attached_values() {
        let args = run(&["run", "-w8", "--num-activity-workers=0", "--grace", "1500ms", "-N", "blue"]);
        assert_eq!((args.num_workflow_workers, args.num_activity_workers), (8, 0));
        assert_eq!(args.grace, Duration::from_millis(1500));
        assert_eq!(args.connect.namespace.as_deref(), Some("blue"));
    }

    #[test]
    fn a_bad_value_is_reported_under_the_name_that_was_typed() {
        let expected = "it must be a number from 0 to 512";
        assert_eq!(refused(&["run", "-w", "-1"]), format!("error: invalid value '-1' for '-w': {expected}"));
        assert_eq!(
            refused(&["run", "--num-workflow-workers=x"]),
            format!("error: invalid value 'x' for '--num-workflow-workers': {expected}")
        );
        assert_eq!(
            refused(&["run", "-a", "4294967296"]),
            format!("error: invalid value '4294967296' for '-a': {expected}")
        );
        assert_eq!(
            refused(&["run", "--grace", "-5s"]),
            "error: invalid value '-5s' for '--grace': it must be a duration, such as 10s, 500ms or 2m"
        );
    }

    #[test]
    fn durations_carry_a_unit() {
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        for wrong in ["", "10", "s", "-1s", "1.5s", "10 s", "99999999999999999999s", "18446744073709551615h", "1é"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn sizes_carry_a_unit() {
        assert_eq!(size("64K"), Ok(64 << 10));
        assert_eq!(size("512M"), Ok(512 << 20));
        assert_eq!(size("2G"), Ok(2 << 30));
        for wrong in ["", "1", "0M", "-1M", "1.5G", "1 G", "99999999999999999999G", "18446744073709551615K", "1T"] {
            assert!(size(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn contradictions_are_usage_errors() {
        assert_eq!(
            refused(&["run", "--no-dev-server", "--dev-server-db", "f"]),
            "error: '--no-dev-server' and '--dev-server-db' exclude each other: give one of them"
        );
        assert_eq!(refused(&["run", "-w", "1", "-w", "2"]), "error: '-w' is given more than once: give it once");
    }

    #[test]
    fn the_starter_wants_json() {
        assert_eq!(
            refused(&["starter", "--input", "{n: 1}"]),
            r#"error: invalid value '{n: 1}' for '--input': it must be JSON, such as 3, '"text"' or '{"n": 3}'"#
        );
        assert!(matches!(line(&["starter", "--input", "-3"]), Ok(Parsed::Run(Command::Starter(_)))));
    }
}
