//! `shmworker bench`: how fast a pool is on this machine, and how close that is to what the machine can do.

use super::{
    args::number,
    exit::{self, CliError},
    say,
};
use crate::{
    VERSION,
    bench::{self, BenchError, Cpus, Figure, Measure, Report},
};
use nix::sys::utsname::uname;
use procfs::{CpuInfo, Current};
use serde::Serialize;
use std::{fmt::Write, num::NonZeroUsize, time::Duration};

/// What `shmworker bench` was told.
#[derive(clap::Args)]
pub(crate) struct BenchArgs {
    /// How long to measure, about
    #[arg(long, value_name = "S", default_value = "15", allow_negative_numbers = true, value_parser = number(1..=3600))]
    seconds: u32,
    /// Workers of the largest pool [default: as many as there are CPUs]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number(1..=512))]
    workers: Option<u32>,
    /// Print one JSON object in place of the table
    #[arg(long)]
    json: bool,
    /// Print the table alone
    #[arg(short, long)]
    quiet: bool,
}

impl From<BenchError> for CliError {
    fn from(error: BenchError) -> CliError {
        CliError::new(exit::FAILURE, error)
    }
}

/// Measures, and prints what it came to.
///
/// # Errors
/// There is only one CPU, or the system refuses what a pool needs.
pub(crate) fn run(args: &BenchArgs) -> Result<(), CliError> {
    let cpus = Cpus::choose()?;
    let machine = Machine::this();
    if !args.json && !args.quiet {
        let beside = if cpus.is_one_core { ", two threads of one core" } else { "" };
        let Machine { cpu, cpus: n, kernel } = &machine;
        say(format_args!("shmworker {VERSION}, {kernel}, {n} CPUs of {cpu}"));
        say(format_args!("two sides: CPU {} and CPU {}{beside}; about {} s\n", cpus.here, cpus.there, args.seconds));
    }
    let workers = args.workers.and_then(|n| NonZeroUsize::new(n as usize)).unwrap_or(machine.cpus);
    let report = bench::run(cpus, Duration::from_secs(args.seconds.into()), workers)?;
    if args.json {
        let json = Json { version: VERSION, machine, pinned: [cpus.here, cpus.there], figures: rows(&report) };
        say(serde_json::to_string(&json).map_err(|e| CliError::new(exit::FAILURE, e))?);
    } else {
        say(table(&report, args.quiet));
    }
    Ok(())
}

#[derive(Serialize)]
struct Machine {
    cpu: String,
    /// How many this process may use.
    cpus: NonZeroUsize,
    kernel: String,
}

impl Machine {
    fn this() -> Machine {
        let info = CpuInfo::current().ok();
        let model = info.as_ref().and_then(|info| info.model_name(0)).unwrap_or("an unnamed kind");
        let release = uname().map(|name| format!("Linux {}", name.release().to_string_lossy()));
        Machine {
            cpu: model.to_owned(),
            cpus: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            kernel: release.unwrap_or_else(|_| "Linux".to_owned()),
        }
    }
}

#[derive(Serialize)]
struct Json {
    version: &'static str,
    machine: Machine,
    pinned: [usize; 2],
    figures: Vec<Row>,
}

/// A figure, for machines.
#[derive(Serialize)]
struct Row {
    name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    workers: Option<usize>,
    /// `ns`, or `per_s`.
    unit: &'static str,
    median: f64,
    p10: f64,
    p90: f64,
    samples: usize,
    /// The figure that bounds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'static str>,
    /// How many times as long as that it takes; of a rate, how many there are in the time of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
}

fn rows(report: &Report) -> Vec<Row> {
    let row = |figure: &Figure| Row {
        name: name(figure.measure),
        workers: if let Measure::Throughput(workers) = figure.measure { Some(workers) } else { None },
        unit: if figure.measure.is_rate() { "per_s" } else { "ns" },
        median: figure.quantile(0.5),
        p10: figure.quantile(0.1),
        p90: figure.quantile(0.9),
        samples: figure.samples(),
        limit: figure.measure.limit().map(name),
        ratio: report.ratio(figure),
    };
    report.figures.iter().map(row).collect()
}

fn name(measure: Measure) -> &'static str {
    match measure {
        Measure::PingPong => "ping_pong",
        Measure::FutexPingPong => "futex_ping_pong",
        Measure::Reading => "reading_1_mib",
        Measure::Busy => "task_busy",
        Measure::Asleep => "task_asleep",
        Measure::Throughput(_) => "tasks",
        Measure::InPlace => "task_1_mib_in_place",
    }
}

fn table(report: &Report, quiet: bool) -> String {
    let mut text = format!("{:<42}{:>12}{:>12}{:>12}   against its limit\n", "", "median", "10 %", "90 %");
    for figure in &report.figures {
        let measure = figure.measure;
        let what = match measure {
            Measure::PingPong => "limit: 64 B there and back, no sleep".to_owned(),
            Measure::FutexPingPong => "limit: futex there and back, asleep".to_owned(),
            Measure::Reading => "limit: 1 MiB read where it lies".to_owned(),
            Measure::Busy => "a task of 64 B, both sides awake".to_owned(),
            Measure::Asleep => "a task of 64 B, its worker asleep".to_owned(),
            Measure::Throughput(1) => "tasks a second, 1,024 under way, 1 worker".to_owned(),
            Measure::Throughput(n) => format!("{:>33}{n} workers", ""),
            Measure::InPlace => "a task that reads 1 MiB in place".to_owned(),
        };
        let [median, low, high] = [0.5, 0.1, 0.9].map(|q| amount(figure.quantile(q), measure.is_rate()));
        let against = report.ratio(figure).map_or(String::new(), |ratio| {
            let unit = if measure.is_rate() { "in the time of one such trip" } else { "times" };
            format!("   {ratio:.2} {unit}")
        });
        // A `String` takes all.
        let _ = writeln!(text, "{what:<42}{median:>12}{low:>12}{high:>12}{against}");
    }
    if quiet {
        return text.trim_end().to_owned();
    }
    text + "\nThe limits are two processes with nothing between them: 1.00 times would be as fast as this machine is."
}

fn amount(value: f64, is_rate: bool) -> String {
    match value {
        _ if is_rate => format!("{:.2} M/s", value / 1e6),
        ns if ns < 10_000.0 => format!("{ns:.0} ns"),
        ns => format!("{:.1} µs", ns / 1000.0),
    }
}
