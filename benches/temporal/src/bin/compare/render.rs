//! The section on the page.

use crate::{
    Results,
    cases::{Case, FEW, MANY, Peer},
    dev_server::WORKFLOWS,
};
use serde::{Deserialize, Serialize};
use shmworker_benches_temporal::Figures;
use std::{
    fmt::{self, Write},
    fs,
    process::Command,
};

/// What the section begins with.
pub(crate) const HEADING: &str = "## Temporal: workers side by side";

/// What a reader must know to make something of the figures, beside the page's own machine.
#[derive(Serialize, Deserialize)]
pub(crate) struct Machine {
    date: String,
    commit: String,
    python_sdk: String,
    /// Load averages over one minute, before and after.
    load: Vec<String>,
}

impl Machine {
    pub(crate) fn look() -> Machine {
        let version = "from importlib.metadata import version; print(version('temporalio'))";
        Machine {
            date: said("date", &["-u", "+%Y-%m-%d"]),
            commit: said("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]),
            python_sdk: said("python3", &["-c", version]),
            load: vec![load()],
        }
    }

    pub(crate) fn with_load(mut self) -> Machine {
        self.load.push(load());
        self
    }
}

fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().map(|o| o.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_owned()
}

fn load() -> String {
    fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next().unwrap_or_default().to_owned()
}

pub(crate) fn section(results: &Results, missed: &str) -> Result<String, fmt::Error> {
    let mut text = String::new();
    let Machine { date, commit, python_sdk, load } = &results.machine;
    writeln!(
        text,
        "{HEADING}\n\nWritten by `benches/temporal/run --write`. A null server, which keeps histories in memory and does nothing \
         else, has 100 workflows open at a time and feeds one worker after another; rates and CPU times are of some seconds after \
         a second of warming up, the CPU times of all processes of the worker together. It shares the CPUs with the worker. Each \
         worker speaks to it as it does by default: ours without compression, the others with gzip; what compares them in this has rows of its own. All are built with link-time optimization (`--profile dist`), as the Python SDK's wheels are. The Python sample is Temporal's `worker_multiprocessing` (SDK {python_sdk}): a \
         process for each `Worker`.\n\n{} turns; ± is half the span from the lowest to the highest turn, a ratio is the median of \
         the turns' own ratios. Commit {commit}, {date}; load average {} before, {} after.\n",
        results.turns,
        load[0],
        load.last().unwrap_or(&load[0])
    )?;
    if !results.absent.is_empty() {
        writeln!(text, "Without {}.\n", results.absent.join("; without "))?;
    }
    writeln!(text, "| target | | bound | aim | measured | verdict |\n|---|---|---|---|---|---|")?;
    let targets = targets(results);
    targets.iter().try_for_each(|target| writeln!(text, "{target}"))?;
    if targets.iter().any(|target| target.verdict() == "**missed**") {
        if missed.is_empty() {
            eprintln!("warning: a target is missed, and no benches/temporal/missed.md says where the time goes");
        } else {
            write!(text, "\n{missed}")?;
        }
    }
    for case in Case::ALL.into_iter().filter(|&case| results.runs.iter().any(|run| run.case == case)) {
        write!(text, "\n{}", table(results, case)?)?;
    }
    writeln!(
        text,
        "\nOn the dev server a run is `shmworker starter -n {WORKFLOWS}`; the server takes most of the CPUs and bounds the rate of both."
    )?;
    Ok(text)
}

fn table(results: &Results, case: Case) -> Result<String, fmt::Error> {
    let mut text = format!(
        "| {} | workflows/s | CPU time per workflow | PSS of all processes | CPU of the server |\n|---|---|---|---|---|\n",
        case.title()
    );
    for &peer in case.peers() {
        let of = |figure: fn(&Figures) -> f64| {
            Turns(turns(results, case, peer).map(|(_, figures)| figure(figures)).collect())
        };
        let rate = of(Figures::rate);
        if rate.0.is_empty() {
            continue;
        }
        let server = of(|figures| figures.server_cpu.map_or(f64::NAN, |cpu| cpu / figures.seconds * 100.0)).median();
        writeln!(
            text,
            "| {} | {} | {} ms | {} MB | {} |",
            peer.title(),
            rate.with_spread(),
            of(|figures| figures.cpu_per_workflow() * 1e3).with_spread(),
            digits(of(|figures| figures.pss as f64 / 1e6).median()),
            if server.is_nan() { String::new() } else { format!("{} %", digits(server)) },
        )?;
    }
    Ok(text)
}

struct Target {
    case: &'static str,
    what: &'static str,
    is_at_most: bool,
    bound: f64,
    aim: Option<f64>,
    unit: &'static str,
    is: Turns,
}

fn targets(results: &Results) -> Vec<Target> {
    use Peer::{Official, OfficialPlain, Ours, Python};
    let cpu = |case| ratio(results, case, (Ours(2, 1), Python(2, 1)), Figures::cpu_per_workflow);
    let rate = |case, ours, theirs| ratio(results, case, (ours, theirs), Figures::rate);
    let few_and_many = paired(results, Case::Memory, (Ours(FEW, 0), Ours(MANY, 0)));
    let further =
        few_and_many.map(|(few, many)| (many.pss as f64 - few.pss as f64) / (MANY - FEW) as f64 / 1e6).collect();
    let least = |case, what, bound, is| Target { case, what, is_at_most: false, bound, aim: None, unit: "", is };
    let most = |case, what, bound, aim, unit, is| Target { case, what, is_at_most: true, bound, aim, unit, is };
    let activity = Case::Activity.title();
    vec![
        most(activity, "CPU time per workflow: ours to Python's", 0.25, Some(0.2), "", cpu(Case::Activity)),
        most(
            "the same, real dev server",
            "CPU time per workflow: ours to Python's",
            0.25,
            Some(0.2),
            "",
            cpu(Case::DevServer),
        ),
        least(activity, "workflows/s, `-w 2`: ours to Python's", 10.0, rate(Case::Activity, Ours(2, 1), Python(2, 1))),
        least(
            "trivial",
            "workflows/s: ours at `-w 1` to the official worker's",
            0.8,
            rate(Case::Trivial, Ours(1, 0), Official),
        ),
        least("trivial", "the same, neither compresses", 0.8, rate(Case::Trivial, Ours(1, 0), OfficialPlain)),
        least(
            "trivial",
            "workflows/s: ours at `-w 2` to the official worker's",
            0.8,
            rate(Case::Trivial, Ours(2, 0), Official),
        ),
        least(
            "5 ms of CPU time",
            "workflows/s: ours at `-w 2` to the official worker's",
            1.5,
            rate(Case::Burn, Ours(2, 0), Official),
        ),
        most("memory", "PSS of one more workflow process", 3.0, None, " MB", Turns(further)),
    ]
}

impl Target {
    fn verdict(&self) -> &'static str {
        let is = self.is.median();
        let holds = |limit: f64| if self.is_at_most { is <= limit } else { is >= limit };
        match self.aim {
            _ if is.is_nan() => "not measured",
            _ if !holds(self.bound) => "**missed**",
            Some(aim) if holds(aim) => "reached, the aim too",
            _ => "reached",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.is_at_most { "at most" } else { "at least" };
        let Target { case, what, bound, unit, .. } = self;
        let aim = self.aim.map_or_else(String::new, |aim| format!("{word} {aim}{unit}"));
        let [low, median, high] = [0.0, 0.5, 1.0].map(|q| digits(self.is.quantile(q)));
        let is = if self.is.0.is_empty() { String::new() } else { format!("{median}{unit} ({low} to {high})") };
        write!(f, "| {case} | {what} | {word} {bound}{unit} | {aim} | {is} | {} |", self.verdict())
    }
}

/// One figure of each turn.
struct Turns(Vec<f64>);

impl Turns {
    /// NaN if there is none.
    fn quantile(&self, q: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get((sorted.len().saturating_sub(1) as f64 * q).round() as usize).copied().unwrap_or(f64::NAN)
    }

    fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    fn with_spread(&self) -> String {
        let half = (self.quantile(1.0) - self.quantile(0.0)) / self.median() * 50.0;
        format!("{} ± {half:.0} %", digits(self.median()))
    }
}

fn turns(results: &Results, case: Case, peer: Peer) -> impl Iterator<Item = (usize, &Figures)> {
    let runs = results.runs.iter().filter(move |run| run.case == case && run.peer == peer);
    runs.map(|run| (run.turn, &run.figures))
}

/// The figures of two peers, turn by turn.
fn paired(results: &Results, case: Case, (one, other): (Peer, Peer)) -> impl Iterator<Item = (&Figures, &Figures)> {
    let find = move |turn| turns(results, case, other).find(|(t, _)| *t == turn);
    turns(results, case, one).filter_map(move |(turn, figures)| Some((figures, find(turn)?.1)))
}

fn ratio(results: &Results, case: Case, peers: (Peer, Peer), figure: fn(&Figures) -> f64) -> Turns {
    Turns(paired(results, case, peers).map(|(one, other)| figure(one) / figure(other)).collect())
}

/// Three digits or so.
fn digits(value: f64) -> String {
    let places = match value.abs() {
        100.0.. => 0,
        10.0..100.0 => 1,
        _ => 2,
    };
    format!("{value:.places$}")
}
