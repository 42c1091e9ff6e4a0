//! What was typed: the commands, their flags, and the one line that says what is wrong with them.

#[cfg(feature = "pool")]
use super::bench::BenchArgs;
#[cfg(any(feature = "source", feature = "temporal"))]
use super::observing::ObservingArgs;
#[cfg(feature = "pool")]
use super::state::{ExportArgs, ImportArgs, RecoverArgs};
use super::{
    autopsy::AutopsyArgs,
    clean::CleanArgs,
    config,
    doctor::DoctorArgs,
    exit::{CliError, USAGE},
    inspect::InspectArgs,
    manual::{CompletionsArgs, ManArgs},
    probe::ProbeArgs,
    resize::ResizeArgs,
    top::TopArgs,
    torture::TortureArgs,
    upgrade::UpgradeArgs,
};
#[cfg(feature = "jobs")]
use super::{jobs::JobsArgs, successor::SuccessorArgs};
use crate::mem::backing::{LONGEST, is_pool_name};
#[cfg(feature = "temporal")]
use crate::{
    WorkerLimits,
    lanes::program::Program,
    mem::{backing::Backing, segment::Options},
    temporal::{
        PollerBehavior, Tuner, VersioningBehavior, Worker, WorkerDeploymentOptions, WorkerDeploymentVersion,
        activity::Activities,
        connect::ConnectFlags,
        dev_server,
        starter::{Json, StarterOptions},
        worker_pool::Place,
    },
};
#[cfg(feature = "temporal")]
use clap::parser::ValueSource;
use clap::{
    ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand,
    builder::NonEmptyStringValueParser,
    error::{ContextKind, ContextValue, ErrorKind},
};
#[cfg(feature = "temporal")]
use std::str::FromStr;
#[cfg(any(feature = "source", feature = "temporal"))]
use std::time::Duration;
use std::{error::Error as _, ffi::OsString, ops::RangeInclusive, path::PathBuf};
#[cfg(feature = "temporal")]
use temporalio_common::worker::build_id_from_current_exe;

/// Workers in processes: one connection to Temporal, as many workflow and activity processes as you have cores for.
#[derive(Parser)]
#[command(name = "shmworker", version, max_term_width = 100)]
struct Cli {
    /// Flags that need not be typed, as TOML [default: SHMWORKER_CONFIG, ./shmworker.toml, ~/.config/shmworker/config.toml]
    #[arg(long, global = true, value_name = "FILE", display_order = 1000)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

/// What `run` does with a source.
#[cfg(feature = "source")]
macro_rules! source_help {
    () => {
        "\n\nExample:\n  shmworker run --source postgres://user@host/db -w 8 --load ./libtasks.so\n      \
         runs the jobs of a source in 8 processes; the same command elsewhere shares them\n\n\
         The first SIGINT or SIGTERM ends it once what runs is published, the second cancels that too, the third kills. \
         Exit codes: 0 told to end, 1 failure, 2 usage, 3 results could not be published, 8 the source refuses, 9 no plug-in."
    };
}
#[cfg(all(feature = "temporal", not(feature = "source")))]
macro_rules! source_help {
    () => {
        ""
    };
}

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run workflow and activity workers, each in a process of its own
    #[cfg(feature = "temporal")]
    #[command(after_help = concat!("Example:\n  shmworker run -w 4 -a 2\n      \
        4 workflow and 2 activity processes; starts a dev server if nothing names a server and none runs\n  \
        shmworker run -w 4 -a 2 --metrics 127.0.0.1:9100\n      \
        the same, and Prometheus reads http://127.0.0.1:9100/metrics\n  \
        shmworker run --log-format json 2> log.jsonl\n      \
        what it and its workers say, a JSON object each\n\n\
        The first SIGINT or SIGTERM drains, the second cancels what still runs. SIGHUP loads the libraries of --load again.",
        source_help!()))]
    Run(Box<RunArgs>),
    /// Run the jobs that wait in a table, a stream or a service, in worker processes
    #[cfg(all(feature = "source", not(feature = "temporal")))]
    #[command(after_help = source_help!())]
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
    /// Run jobs that come as lines of JSON, or a command for each line, in worker processes
    #[cfg(feature = "jobs")]
    #[command(
        override_usage = "shmworker jobs [OPTIONS] [FILE] [-- COMMAND...]",
        after_help = "Examples:\n  \
        echo '{\"task\":\"sha256\",\"args\":\"abc\"}' | shmworker jobs\n      \
        prints how each job ended as a line of JSON; tasks: exec, sha256, sleep, echo, and those of --load\n  \
        shmworker jobs -j 8 --joblog log -- gzip -k {} < files.txt\n      \
        runs gzip for each line, 8 at a time, and prints what they write; after an end in the middle, --resume does the rest\n  \
        shmworker jobs -- convert {} {.}.png ::: *.jpg\n      \
        takes the arguments from the command line\n  \
        shmworker jobs --metrics 127.0.0.1:9100 jobs.jsonl\n      \
        Prometheus reads http://127.0.0.1:9100/metrics meanwhile; --log-format json makes objects of what is logged\n  \
        shmworker jobs --otlp http://127.0.0.1:4318 jobs.jsonl\n      \
        an OpenTelemetry collector on this machine gets a span for each job\n\n\
        Exit codes: 0 all done, 1 some failed or were malformed, 2 usage, 130 SIGINT, 143 SIGTERM. The first SIGINT or SIGTERM begins \
        nothing more and lets what runs finish, the second ends it."
    )]
    Jobs(Box<JobsArgs>),
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
        the pool of which this process is one; for a pool that is dead, its name or its file\n\n\
        It only reads, and works if the pool's processes are stopped. Exit code 1 if an invariant is violated; each is printed \
        with the words involved.")]
    Inspect(InspectArgs),
    /// Show what each process of a pool did last, and how those ended that died
    #[command(after_help = "Example:\n  shmworker autopsy mine\n      \
        the last 32 attempts and sleeps of each process, also of one whose place another has now\n\n\
        It only reads. Of a pool that is dead it takes the name or the file, with the backings that outlive it.")]
    Autopsy(AutopsyArgs),
    /// Watch a pool as it works: its processes, what they run, lanes, latencies, deaths
    #[command(after_help = "Example:\n  shmworker top 4711\n      \
        the pool of which this process is one, until 'q' is pressed; 'h' shows the keys\n\n\
        It only reads. Exit code 1 if the pool dies meanwhile, 0 if it ends in order. NO_COLOR leaves colours out.")]
    Top(TopArgs),
    /// Change the number of workers of a pool that runs
    #[command(after_help = "Example:\n  shmworker resize 4711 -w 8\n      \
        the pool whose coordinator has this process id has 8 workflow workers from now on\n\n\
        Those that are too many hand their workflow runs over, and leave. 'run --max-workflow-workers' is the most.")]
    Resize(ResizeArgs),
    /// Have another program go on with a pool that runs: the one that has replaced the file of its own
    #[command(after_help = "Example:\n  shmworker upgrade mine\n      \
        the pool's coordinator executes what its program's file is by now; its workers go on, and new ones are of that program\n\n\
        For run and jobs, whose workers are replaced one after another once what they run is finished, and for pools of \
        Builder::forkserver and Builder::exec. If the new program can't go on with it, the old one does. Exit code 1 if so, with the \
        reason.")]
    Upgrade(UpgradeArgs),
    /// Say what is left of a pool with a state file, and what the next start makes of it
    #[cfg(feature = "pool")]
    #[command(after_help = "Example:\n  shmworker recover /var/lib/thumbs/state\n      \
        which tasks wait, are begun again, are submitted from the journal; it changes nothing\n  \
        shmworker recover --apply /var/lib/thumbs/state\n      \
        cuts off what was half written, and sets a segment aside that can't be trusted\n\n\
        Exit code 1 if nothing can be gone on with.")]
    Recover(RecoverArgs),
    /// Print the tasks in a state file as JSON lines
    #[cfg(feature = "pool")]
    #[command(after_help = "Example:\n  shmworker export /var/lib/thumbs/state > tasks.jsonl\n      \
        all that is not over, with inputs, and results that nobody has taken\n\n\
        It only reads, and works while the pool runs.")]
    Export(ExportArgs),
    /// Add exported tasks to a state file, which no pool has now
    #[cfg(feature = "pool")]
    #[command(after_help = "Example:\n  shmworker import /var/lib/thumbs/state < tasks.jsonl\n      \
        the next start with that file submits them; what is there already is left as it is")]
    Import(ImportArgs),
    /// Remove the shared memory and the sockets of pools whose processes are all dead
    #[command(after_help = "Example:\n  shmworker clean --dry-run\n      \
        says what is left over in /dev/shm; what belongs to a pool that is alive is never touched")]
    Clean(CleanArgs),
    /// Look whether this machine has what workers need, and say what to do where it hasn't
    #[command(after_help = "Example:\n  shmworker doctor\n      \
        a line for each: kernel, limits, /dev/shm, cgroup, CPUs, Temporal's command line tool and server\n\n\
        Exit code 1 if there is a problem; a warning is none.")]
    Doctor(Box<DoctorArgs>),
    /// Print a shell's completions
    #[command(after_help = "Example:\n  \
        shmworker completions bash > ~/.local/share/bash-completion/completions/shmworker\n      \
        for zsh a file '_shmworker' in a directory of $fpath, for fish ~/.config/fish/completions/shmworker.fish")]
    Completions(CompletionsArgs),
    /// Print the manual page, or write those of all commands
    #[command(after_help = "Example:\n  shmworker man ~/.local/share/man/man1\n      \
        writes shmworker.1, shmworker-run.1, ...; then 'man shmworker-run' shows one\n  \
        shmworker man | man -l -\n      shows the page without writing any")]
    Man(ManArgs),
    /// Make a segment and fill it
    #[command(hide = true)]
    Probe(ProbeArgs),
    /// Go on with the pool of a command
    #[cfg(feature = "jobs")]
    #[command(hide = true)]
    Successor(SuccessorArgs),
}

/// What `shmworker run` was told.
#[cfg(feature = "temporal")]
#[derive(clap::Args)]
pub(crate) struct RunArgs {
    #[cfg_attr(not(feature = "source"), doc = "Workflow worker processes")]
    #[cfg_attr(
        feature = "source",
        doc = "Workflow worker processes; with --source, workers for its jobs: as many as there are CPUs unless it is given"
    )]
    #[arg(short = 'w', long, value_name = "N", allow_negative_numbers = true, value_parser = number(0..=512))]
    pub(crate) num_workflow_workers: u32,
    /// Workflow worker processes that there may be; see 'resize' [default: twice as many, at least 16]
    #[arg(long, value_name = "N", value_parser = number(1..=1024))]
    pub(crate) max_workflow_workers: Option<u32>,
    /// Activations after which a workflow process hands its runs over and another takes its place
    #[arg(long, value_name = "N", value_parser = number(1..=u32::MAX))]
    pub(crate) max_tasks_per_process: Option<u32>,
    /// Memory of its own past which a workflow process hands its runs over and another takes its place: 512M, 2G
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) max_memory_per_process: Option<u64>,
    #[cfg_attr(not(feature = "source"), doc = "Activity worker processes")]
    #[cfg_attr(feature = "source", doc = "Activity worker processes; with --source there are none")]
    #[arg(short = 'a', long, value_name = "N", allow_negative_numbers = true, value_parser = number(0..=512))]
    pub(crate) num_activity_workers: u32,
    /// Program that the workflow workers execute: one in another language that serves raw lanes of the C interface
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) workflow_program: Option<PathBuf>,
    /// Program that the activity workers execute
    #[arg(long, value_name = "PROGRAM", conflicts_with = "load")]
    pub(crate) activity_program: Option<PathBuf>,
    /// Arguments of these programs
    #[arg(last = true, value_name = "ARGS")]
    pub(crate) program_args: Vec<OsString>,
    /// Shared library with activities in C or C++, which each activity process loads; may be given several times
    #[arg(long, value_name = "FILE")]
    pub(crate) load: Vec<PathBuf>,
    /// Task queue that all workers serve
    #[arg(long, value_name = "NAME", conflicts_with_all = ["workflow_task_queue", "activity_task_queue"],
          value_parser = name())]
    pub(crate) task_queue: Option<String>,
    /// Task queue that the workflow workers serve
    #[arg(long, value_name = "NAME", value_parser = name())]
    pub(crate) workflow_task_queue: String,
    /// Task queue that the activity workers serve
    #[arg(long, value_name = "NAME", value_parser = name())]
    pub(crate) activity_task_queue: String,
    /// Attempts that one activity process runs at a time
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number(1..=10_000))]
    pub(crate) activity_slots: u32,
    /// Workflow runs kept in memory, over all workflow processes
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number(1..=1_000_000))]
    pub(crate) max_cached_workflows: u32,
    /// Local activities at a time [default: as many as there are activity slots]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number(1..=1_000_000))]
    pub(crate) max_concurrent_local_activities: Option<u32>,
    /// Activities that this worker starts in a second [default: no limit]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, value_parser = rate)]
    pub(crate) max_activities_per_second: Option<f64>,
    /// Activities that the server gives to all workers of the task queue in a second [default: no limit]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, value_parser = rate)]
    pub(crate) max_task_queue_activities_per_second: Option<f64>,
    /// Take activities only while the machine uses less than this share of its memory, 0.8 if only the other is given [default: do
    /// not look]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, value_parser = share)]
    pub(crate) target_memory_usage: Option<f64>,
    /// The same of its CPUs, 0.9 if only the other is given [default: do not look]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, value_parser = share)]
    pub(crate) target_cpu_usage: Option<f64>,
    /// Polls for workflow tasks at a time; a range is scaled by the server's feedback [default: 2 to 10, by processes]
    #[arg(long, value_name = "N|MIN-MAX", allow_hyphen_values = true, value_parser = pollers)]
    pub(crate) workflow_pollers: Option<PollerBehavior>,
    /// Polls for activities at a time; a range is scaled by the server's feedback [default: 2 to 10, by slots]
    #[arg(long, value_name = "N|MIN-MAX", allow_hyphen_values = true, value_parser = pollers)]
    pub(crate) activity_pollers: Option<PollerBehavior>,
    /// How the server shows this worker [default: PID@HOST]
    #[arg(long, value_name = "NAME", value_parser = name())]
    pub(crate) identity: Option<String>,
    /// Which build of the program this is [default: its checksum]
    #[arg(long, value_name = "ID", value_parser = name())]
    pub(crate) build_id: Option<String>,
    /// Deployment of which this is a version
    #[arg(long, value_name = "NAME", value_parser = name())]
    pub(crate) deployment_name: Option<String>,
    /// Have the server go by the version: workflows keep it (pinned), or move on to a newer one (auto-upgrade)
    #[arg(long, value_name = "pinned|auto-upgrade", value_parser = versioning)]
    pub(crate) worker_versioning: Option<VersioningBehavior>,
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
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = duration)]
    pub(crate) grace: Duration,
    /// How long workflow code may run before it yields; then its process is killed and replaced. 0s: as long as it likes
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = duration)]
    pub(crate) deadlock_timeout: Duration,
    /// Start a dev server, and fail if its port is taken [default: if nothing names a server and none runs]
    #[arg(long, conflicts_with = "no_dev_server")]
    pub(crate) dev_server: bool,
    /// Give the dev server its web UI, on the port 8233
    #[arg(long, conflicts_with = "no_dev_server")]
    pub(crate) ui: bool,
    /// Never start a dev server: fail if no server answers
    #[arg(long)]
    pub(crate) no_dev_server: bool,
    /// Keep the dev server's state in this file, across runs
    #[arg(long, value_name = "FILE", conflicts_with = "no_dev_server")]
    pub(crate) dev_server_db: Option<PathBuf>,
    /// Print nothing but what workers print, and what goes wrong
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) observing: ObservingArgs,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    #[cfg(feature = "source")]
    #[command(flatten)]
    pub(crate) source: SourceArgs,
}

/// What `shmworker run` was told.
#[cfg(all(feature = "source", not(feature = "temporal")))]
#[derive(clap::Args)]
pub(crate) struct RunArgs {
    /// Worker processes [default: as many as there are CPUs]
    #[arg(short = 'w', long, value_name = "N", allow_negative_numbers = true, value_parser = number(1..=512))]
    pub(crate) workers: Option<u32>,
    /// Shared library with tasks in C or C++, which each worker loads; may be given several times
    #[arg(long, value_name = "FILE")]
    pub(crate) load: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) observing: ObservingArgs,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
}

/// Where jobs wait.
#[cfg(feature = "source")]
#[derive(clap::Args)]
#[command(next_help_heading = "Task source, in place of Temporal: with -w processes and --load alone")]
pub(crate) struct SourceArgs {
    /// Where jobs wait: postgres://, redis://, grpc:// or http://, each with TLS too. Other users can read a command line, so the
    /// variable is the better place for a password
    #[arg(long, value_name = "URL", env = "SHMWORKER_SOURCE", hide_env_values = true, value_parser = name())]
    #[cfg_attr(not(feature = "temporal"), arg(required = true))]
    pub(crate) source: Option<String>,
    /// Header that each request carries, 'Name: value', for HTTP and gRPC; may be given several times, in the variable by lines
    #[arg(
        long,
        value_name = "HEADER",
        env = "SHMWORKER_SOURCE_HEADER",
        hide_env_values = true,
        value_delimiter = '\n'
    )]
    pub(crate) source_header: Vec<String>,
    /// Certificate authorities of the source's server, PEM [default: the system's]
    #[arg(long, value_name = "FILE", env = "SHMWORKER_SOURCE_CA")]
    pub(crate) source_ca: Option<PathBuf>,
    /// Jobs that may wait here for a worker [default: as many as are run in 100 ms, at least one for each worker]
    #[arg(long, value_name = "N", requires = "source", value_parser = number(0..=100_000))]
    pub(crate) source_ahead: Option<u32>,
    /// How long, at the end, it is tried to publish to a source that is down [default: 30s]
    #[arg(long, value_name = "DURATION", requires = "source", value_parser = duration)]
    pub(crate) source_give_up: Option<Duration>,
    /// How long an attempt of a job may run that says nothing of it [default: any time]
    #[arg(long, value_name = "DURATION", requires = "source", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// Attempts after the first for a job that says nothing of it [default: 0]
    #[arg(long, value_name = "N", requires = "source", value_parser = clap::value_parser!(u8).range(0..=254))]
    pub(crate) retries: Option<u8>,
}

/// What is to be done about a dev server.
#[cfg(feature = "temporal")]
pub(crate) enum DevServerArg {
    /// It is to be started.
    Wanted(dev_server::Options),
    /// It is started if there is no other.
    Possible(dev_server::Options),
    /// It is not to be started.
    Forbidden,
}

#[cfg(feature = "temporal")]
impl RunArgs {
    /// The worker as the command line has it, its place, and what is to be done about a dev server.
    pub(crate) fn apply(self, worker: Worker) -> Result<(Worker, Place, DevServerArg), CliError> {
        let Worker { mut user, mut config, connection, name } = worker;
        if !self.load.is_empty() && self.num_activity_workers == 0 {
            let why = "'--load' brings activities, but there is no process for them: give '-a 1', or more";
            return Err(CliError::new(USAGE, why));
        }
        user.activities = self.load.into_iter().fold(user.activities, Activities::load);
        let program = |path: Option<PathBuf>| path.map(|path| Program::new(path, self.program_args.clone()));
        or_else(&mut config.workflow_program, program(self.workflow_program));
        or_else(&mut config.activity_program, program(self.activity_program));
        if !self.program_args.is_empty() && config.workflow_program.is_none() && config.activity_program.is_none() {
            let why =
                "there is no program for the arguments after '--': give '--workflow-program' or '--activity-program'";
            return Err(CliError::new(USAGE, why));
        }
        for (typed, is_empty, program, what, flag) in [
            (self.num_workflow_workers, user.workflows.is_empty(), &config.workflow_program, "workflow", "-w"),
            (self.num_activity_workers, user.activities.is_empty(), &config.activity_program, "activity", "-a"),
        ] {
            if typed > 0 && is_empty && program.is_none() {
                let why =
                    format_args!("'{flag} {typed}', but this program has no {what}: give '{flag} 0', or register one");
                return Err(CliError::new(USAGE, why));
            }
        }
        config.workflow_processes = self.num_workflow_workers as usize;
        config.activity_processes = self.num_activity_workers as usize;
        (config.workflow_task_queue, config.activity_task_queue) = match self.task_queue {
            Some(queue) => (queue.clone(), queue),
            None => (self.workflow_task_queue, self.activity_task_queue),
        };
        (config.activity_slots, config.max_cached_workflows) =
            (self.activity_slots as usize, self.max_cached_workflows as usize);
        (config.grace, config.deadlock_timeout) = (self.grace, self.deadlock_timeout);
        let as_number = |n: Option<u32>| n.map(|n| n as usize);
        or_else(&mut config.max_workflow_processes, as_number(self.max_workflow_workers));
        or_else(&mut config.max_concurrent_local_activities, as_number(self.max_concurrent_local_activities));
        or_else(&mut config.max_activities_per_second, self.max_activities_per_second);
        or_else(&mut config.max_task_queue_activities_per_second, self.max_task_queue_activities_per_second);
        or_else(&mut config.workflow_pollers, self.workflow_pollers);
        or_else(&mut config.activity_pollers, self.activity_pollers);
        or_else(&mut config.identity, self.identity);
        config.limits = worker_limits(config.limits, self.max_tasks_per_process, self.max_memory_per_process);
        if self.target_memory_usage.is_some() || self.target_cpu_usage.is_some() {
            let (memory, cpu) = match config.tuner {
                Tuner::FixedSize => (0.8, 0.9),
                Tuner::ResourceBased { target_memory_usage, target_cpu_usage } => {
                    (target_memory_usage, target_cpu_usage)
                }
            };
            config.tuner = Tuner::ResourceBased {
                target_memory_usage: self.target_memory_usage.unwrap_or(memory),
                target_cpu_usage: self.target_cpu_usage.unwrap_or(cpu),
            };
        }
        config.deployment = deployment(config.deployment, self.deployment_name, self.build_id, self.worker_versioning);
        config.check().map_err(|why| CliError::new(USAGE, why))?;
        let name = self.name.or(name);
        let options = Options {
            backing: self.backing.of(name.as_deref()),
            reserve: self.reserve,
            huge_pages: self.huge_pages,
            prefault: self.prefault,
            no_times: self.no_times,
            ..Options::default()
        };
        let connection = ConnectFlags::from(self.connect).or(connection);
        let mut of_server = dev_server::Options::default();
        (of_server.ui, of_server.db) = (self.ui, self.dev_server_db);
        let dev_server = match (self.dev_server, self.no_dev_server) {
            (true, _) => DevServerArg::Wanted(of_server),
            (false, false) => DevServerArg::Possible(of_server),
            (false, true) => DevServerArg::Forbidden,
        };
        Ok((
            Worker { user, config, connection, name: name.clone() },
            Place { name, options, quiet: self.quiet, is_upgradable: true },
            dev_server,
        ))
    }
}

#[cfg(feature = "temporal")]
fn or_else<T>(set: &mut Option<T>, typed: Option<T>) {
    if typed.is_some() {
        *set = typed;
    }
}

/// A tenth of jitter, so that not all leave at once.
#[cfg(feature = "temporal")]
fn worker_limits(limits: WorkerLimits, max_tasks: Option<u32>, max_memory: Option<u64>) -> WorkerLimits {
    let limits = max_tasks.map_or(limits.clone(), |n| limits.max_tasks(n.into(), u64::from(n) / 10));
    max_memory.map_or(limits.clone(), |bytes| limits.max_memory(bytes))
}

/// What the program says of its version, with what was typed in its place; `None` if neither says anything.
#[cfg(feature = "temporal")]
fn deployment(
    set: Option<WorkerDeploymentOptions>,
    name: Option<String>,
    build_id: Option<String>,
    versioning: Option<VersioningBehavior>,
) -> Option<WorkerDeploymentOptions> {
    if name.is_none() && build_id.is_none() && versioning.is_none() {
        return set;
    }
    let mut options =
        set.unwrap_or_else(|| WorkerDeploymentOptions::from_build_id(build_id_from_current_exe().to_owned()));
    let version = WorkerDeploymentVersion::builder()
        .deployment_name(name.unwrap_or(options.version.deployment_name))
        .build_id(build_id.unwrap_or(options.version.build_id));
    options.version = version.build();
    options.use_worker_versioning |= versioning.is_some();
    or_else(&mut options.default_versioning_behavior, versioning);
    Some(options)
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
    #[arg(long, value_name = "NAME", value_parser = name())]
    task_queue: String,
    /// Name of the workflow
    #[arg(long, value_name = "NAME", value_parser = name(), required = true)]
    workflow: String,
    /// Input of each workflow, as JSON
    #[arg(long, value_name = "JSON", allow_negative_numbers = true, value_parser = Json::from_str)]
    input: Option<Json>,
    /// How long each workflow may take before the server ends it: 10s, 2m [default: any time]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = duration)]
    execution_timeout: Option<Duration>,
    /// Print no results, only what goes wrong
    #[arg(short, long)]
    quiet: bool,
    /// Send a span for each start to an OpenTelemetry collector, by OTLP over HTTP, and with each workflow its trace: http://127.0.0.1:4318
    #[cfg(feature = "otlp")]
    #[arg(long, value_name = "URL", value_parser = super::observing::collector)]
    otlp: Option<String>,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[cfg(feature = "temporal")]
impl StarterArgs {
    /// What to start, and where.
    pub(crate) fn split(self, worker: Worker) -> (StarterOptions, ConnectFlags) {
        let options = StarterOptions {
            num_workflows: self.num_workflows as usize,
            task_queue: self.task_queue,
            workflow: self.workflow,
            input: self.input,
            execution_timeout: self.execution_timeout,
            data_converter: worker.user.converter.into_data(),
            quiet: self.quiet,
            #[cfg(feature = "otlp")]
            otlp: self.otlp,
        };
        (options, ConnectFlags::from(self.connect).or(worker.connection))
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
    #[arg(long, value_name = "HOST:PORT", value_parser = name())]
    address: Option<String>,
    /// Namespace [default: default]
    #[arg(short = 'N', long, value_name = "NAME", value_parser = name())]
    namespace: Option<String>,
    /// Profile in the config file [default: default]
    #[arg(long, value_name = "NAME", value_parser = name())]
    profile: Option<String>,
    /// Config file [default: ~/.config/temporalio/temporal.toml]
    #[arg(long, value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// API key, implies TLS; other users can read a command line, so TEMPORAL_API_KEY is the better place
    #[arg(long, value_name = "KEY", value_parser = name())]
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
    #[arg(long, value_name = "NAME", value_parser = name())]
    tls_server_name: Option<String>,
    /// Compress messages, where the way to the server is long or its bytes are paid for; it doubles the CPU time of the connection
    #[arg(long)]
    gzip: bool,
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
            gzip,
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
            gzip,
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

/// The flags, with what the program has set for their defaults.
#[cfg(feature = "temporal")]
pub(super) fn definition(worker: &Worker) -> clap::Command {
    let config = &worker.config;
    let (workflow_processes, activity_processes) = worker.processes();
    let of_run = [
        ("num_workflow_workers", workflow_processes.to_string()),
        ("num_activity_workers", activity_processes.to_string()),
        ("workflow_task_queue", config.workflow_task_queue.clone()),
        ("activity_task_queue", config.activity_task_queue.clone()),
        ("activity_slots", config.activity_slots.to_string()),
        ("max_cached_workflows", config.max_cached_workflows.to_string()),
        ("grace", shown(config.grace)),
        ("deadlock_timeout", shown(config.deadlock_timeout)),
    ];
    let workflow = worker.user.workflows.names().next().map(|name| ("workflow", name.to_owned()));
    let of_starter = [("task_queue", config.workflow_task_queue.clone())].into_iter().chain(workflow);
    // A command line is read once in the life of a process.
    let set = |command: clap::Command, (id, value): (&'static str, String)| {
        command.mut_arg(id, |arg| arg.required(false).default_value(&*value.leak()))
    };
    Cli::command()
        .mut_subcommand("run", |command| of_run.into_iter().fold(command, set))
        .mut_subcommand("starter", |command| of_starter.fold(command, set))
}

/// As it is typed.
#[cfg(feature = "temporal")]
fn shown(duration: Duration) -> String {
    match duration.subsec_millis() {
        0 => format!("{}s", duration.as_secs()),
        _ => format!("{}ms", duration.as_millis()),
    }
}

/// The same for who prints it.
#[cfg(not(feature = "temporal"))]
pub(super) fn definition() -> clap::Command {
    Cli::command()
}

/// Reads a command line, of which `argv[0]` is the program.
pub(crate) fn parse(argv: Vec<OsString>, #[cfg(feature = "temporal")] worker: &Worker) -> Result<Parsed, CliError> {
    #[cfg(feature = "temporal")]
    let definition = definition(worker);
    #[cfg(not(feature = "temporal"))]
    let definition = definition();
    let argv = config::extended(&definition, argv)?;
    let read = |matches: ArgMatches| Cli::from_arg_matches(&matches).map(|cli| (matches, cli));
    match definition.try_get_matches_from(&argv).and_then(read) {
        #[cfg_attr(
            not(all(feature = "source", feature = "temporal")),
            expect(unused_mut, reason = "only a source changes it")
        )]
        Ok((matches, mut cli)) => {
            check(&cli.command)?;
            #[cfg(feature = "temporal")]
            check_workflow(&cli.command, &matches, worker)?;
            #[cfg(all(feature = "source", feature = "temporal"))]
            check_source(&mut cli.command, &matches)?;
            #[cfg(not(feature = "temporal"))]
            drop(matches);
            Ok(Parsed::Run(cli.command))
        }
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Ok(Parsed::Text(error))
        }
        Err(error) => Err(CliError::new(USAGE, explain(&error, &argv))),
    }
}

/// What clap can't express.
fn check(command: &Command) -> Result<(), CliError> {
    match command {
        #[cfg(all(feature = "source", feature = "temporal"))]
        Command::Run(args) if args.source.source.is_some() && args.num_workflow_workers == 0 => {
            Err(CliError::new(USAGE, "'-w 0' leaves nobody to run jobs: give at least one worker, such as '-w 1'"))
        }
        #[cfg(feature = "temporal")]
        Command::Run(args) if args.num_workflow_workers == 0 && args.num_activity_workers == 0 => {
            Err(CliError::new(USAGE, "'-w 0 -a 0' leaves nothing to run: give at least one worker, such as '-w 1'"))
        }
        #[cfg(feature = "temporal")]
        Command::Run(args)
            if let Some(most) = args.max_workflow_workers
                && most < args.num_workflow_workers =>
        {
            let w = args.num_workflow_workers;
            let why =
                format_args!("'--max-workflow-workers {most}' is below '-w {w}': raise the one or lower the other");
            Err(CliError::new(USAGE, why))
        }
        _ => Ok(()),
    }
}

/// A source's jobs and Temporal's are not run by one command. The default of `-w` is Temporal's: here it is 0, for as many as there
/// are CPUs.
#[cfg(all(feature = "source", feature = "temporal"))]
fn check_source(command: &mut Command, matches: &ArgMatches) -> Result<(), CliError> {
    const SHARED: [&str; 2] = ["num_workflow_workers", "load"];
    let Command::Run(args) = command else { return Ok(()) };
    let Some((_, matches)) = matches.subcommand().filter(|_| args.source.source.is_some()) else { return Ok(()) };
    if matches.value_source("num_workflow_workers") == Some(ValueSource::DefaultValue) {
        args.num_workflow_workers = 0;
    }
    let command = Cli::command();
    let of_source = <SourceArgs as clap::Args>::augment_args(clap::Command::new("source"));
    let of_source = <ObservingArgs as clap::Args>::augment_args(of_source);
    let is_of_source = |id: &str| SHARED.contains(&id) || of_source.get_arguments().any(|arg| arg.get_id() == id);
    let run = command.find_subcommand("run").into_iter().flat_map(clap::Command::get_arguments);
    let typed = |arg: &&clap::Arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    let Some(other) = run.filter(typed).find(|arg| !is_of_source(arg.get_id().as_str())) else { return Ok(()) };
    let flag = other.get_long().map_or_else(|| "--".to_owned(), |long| format!("--{long}"));
    let why = format_args!(
        "'{flag}' is of Temporal's workers, but the work comes from a source ('--source' or SHMWORKER_SOURCE): leave out one \
         of them"
    );
    Err(CliError::new(USAGE, why))
}

/// A workflow that this program does not have would wait for ever on its task queue; on another's it may be there.
#[cfg(feature = "temporal")]
fn check_workflow(command: &Command, matches: &ArgMatches, worker: &Worker) -> Result<(), CliError> {
    let Command::Starter(args) = command else { return Ok(()) };
    let workflow = &args.workflow;
    let of_starter = matches.subcommand().map(|(_, matches)| matches);
    let queue_is_own = of_starter.and_then(|m| m.value_source("task_queue")) == Some(ValueSource::DefaultValue);
    let workflows = &worker.user.workflows;
    if !queue_is_own || workflows.is_empty() || workflows.names().any(|name| name == workflow) {
        return Ok(());
    }
    let names = workflows.names().collect::<Vec<_>>().join(", ");
    let why = format_args!(
        "this program has no workflow '{workflow}' (it has {names}): give one of these, or with --task-queue the task queue \
         of a worker that has it"
    );
    Err(CliError::new(USAGE, why))
}

/// One line for a usage error; clap's own text is several.
pub(super) fn explain(error: &clap::Error, argv: &[OsString]) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        // Suggestions come in rising order of likeness.
        Some(ContextValue::Strings(texts)) if kind == ContextKind::SuggestedSubcommand => {
            texts.last().map(String::as_str)
        }
        Some(ContextValue::Strings(texts)) => texts.first().map(String::as_str),
        _ => None,
    };
    let arg = text(ContextKind::InvalidArg).map(|arg| as_typed(arg, argv));
    let command = command_at(argv).and_then(|at| argv[at].to_str());
    let command = command.filter(|word| Cli::command().find_subcommand(word).is_some());
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

/// Where the command stands: before it there may only be a config file.
pub(super) fn command_at(argv: &[OsString]) -> Option<usize> {
    let mut at = 1;
    loop {
        let word = argv.get(at)?.to_str().unwrap_or_default();
        match word {
            "--config" => at += 2,
            _ if word.starts_with("--config=") => at += 1,
            _ => return (!word.starts_with('-')).then_some(at),
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

/// A number above 0.
#[cfg(feature = "temporal")]
fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_normal() && *rate > 0.0);
    rate.ok_or_else(|| "it must be a number above 0, such as 50 or 0.5".to_owned())
}

/// A part of 1.
#[cfg(feature = "temporal")]
fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (f64::MIN_POSITIVE..=1.0).contains(share));
    share.ok_or_else(|| "it must be above 0 and at most 1, such as 0.8".to_owned())
}

/// How many polls there are.
#[cfg(feature = "temporal")]
fn pollers(text: &str) -> Result<PollerBehavior, String> {
    let number = |text: &str| text.parse::<usize>().ok().filter(|n| (1..=1000).contains(n));
    let pollers = match text.split_once('-') {
        None => number(text).map(PollerBehavior::SimpleMaximum),
        Some((least, most)) => {
            number(least).zip(number(most)).filter(|(least, most)| least <= most).map(|(minimum, maximum)| {
                PollerBehavior::Autoscaling { minimum, maximum, initial: 5.clamp(minimum, maximum) }
            })
        }
    };
    pollers.ok_or_else(|| "it must be a number from 1 to 1000, or a range of them, such as 2-20".to_owned())
}

/// What workflows do when there is a newer version.
#[cfg(feature = "temporal")]
fn versioning(text: &str) -> Result<VersioningBehavior, String> {
    match text {
        "pinned" => Ok(VersioningBehavior::Pinned),
        "auto-upgrade" => Ok(VersioningBehavior::AutoUpgrade),
        _ => Err("it must be 'pinned' or 'auto-upgrade'".to_owned()),
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
#[cfg(any(feature = "source", feature = "temporal"))]
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
    use crate::temporal::sample;

    fn line(words: &[&str]) -> Result<Parsed, CliError> {
        let argv = std::iter::once("shmworker").chain(words.iter().copied()).map(OsString::from).collect();
        parse(argv, &sample::worker())
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
    fn of_two_targets_the_one_that_is_not_typed_stays_as_the_program_has_it() {
        let target = |tuner| {
            run(&["run", "--target-cpu-usage", "0.7"]).apply(sample::worker().tuner(tuner)).unwrap().0.config.tuner
        };
        let (memory, cpu) = (0.5, 0.6);
        for (set, memory) in [
            (Tuner::FixedSize, 0.8),
            (Tuner::ResourceBased { target_memory_usage: memory, target_cpu_usage: cpu }, memory),
        ] {
            assert_eq!(target(set), Tuner::ResourceBased { target_memory_usage: memory, target_cpu_usage: 0.7 });
        }
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
        assert_eq!(
            refused(&["run", "-w", "4", "--max-workflow-workers", "2"]),
            "error: '--max-workflow-workers 2' is below '-w 4': raise the one or lower the other"
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
