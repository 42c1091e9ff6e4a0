//! How many instructions each step of a task takes, under callgrind, compared with committed figures.
//!
//! ```sh
//! benches/counts/run             # exit code 1 if a figure has grown by more than 5 %
//! benches/counts/run --accept    # what is measured now is expected from now on
//! ```
//!
//! Counted are the instructions of this program, in which the library is linked, and not those of libc: which `memcpy` that
//! takes depends on the processor, and what it does on its version. So a figure depends on the sources and the compiler, and
//! is the same on each run and machine of an architecture; the tolerance is for compilers. Of what libc does, allocations
//! and system calls are counted. (Under valgrind a look at the clock is a system call; it is none otherwise.)
//!
//! Both ends are on one thread, so nobody waits or sleeps. What is done once, at the start, is spread over
//! [`OPERATIONS`](workloads::OPERATIONS).

mod allocations;
mod callgrind;
mod workloads;

use callgrind::{COLUMNS, Cost};
use std::{
    error::Error,
    fmt::Write as _,
    fs,
    process::{Command, ExitCode},
};
use workloads::{FIGURES, Figure, Workload};

/// Growth that is let pass, and an absolute one for what was none or next to none.
const GROWTH: f64 = 1.05;
const NOISE: f64 = 0.01;

const EXPECTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/expected.txt");

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words[..] {
        [] => count(false),
        ["--accept"] => count(true),
        ["--play", workload] => Workload::named(workload).and_then(Workload::play).map(|()| true),
        _ => Err(format!("'{}' is not understood: give nothing, or --accept", args.join(" ")).into()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Counts all figures, and writes or compares them. False: something has grown.
fn count(is_accepted: bool) -> Result<bool, Box<dyn Error>> {
    let costs: Vec<(&Figure, Cost)> =
        FIGURES.iter().map(|f| Ok((f, f.count()?))).collect::<Result<_, Box<dyn Error>>>()?;
    let built_by = built_by()?;
    let text = table(&costs, &built_by);
    print!("{text}");
    if is_accepted {
        fs::write(EXPECTED, text).map_err(|e| format!("cannot write '{EXPECTED}': {e}"))?;
        return Ok(true);
    }
    let expected = fs::read_to_string(EXPECTED).map_err(|e| format!("cannot read '{EXPECTED}': {e}"))?;
    let Some(expected) = Expected::read(&expected)? else {
        println!("not compared: the expected figures are those of another architecture");
        return Ok(true);
    };
    if costs.iter().any(|(figure, cost)| expected.has_fallen(figure.name, cost)) {
        println!("fallen by more than 5 %: benches/counts/run --accept, or it may grow again unnoticed");
    }
    let grown: Vec<String> = costs.iter().flat_map(|(figure, cost)| expected.grown(figure.name, cost)).collect();
    if grown.is_empty() {
        return Ok(true);
    }
    eprintln!("error: grown by more than 5 %:");
    grown.iter().for_each(|line| eprintln!("  {line}"));
    if expected.built_by != built_by {
        eprintln!("the compiler is another than the one of the expected figures: {}", expected.built_by);
    }
    eprintln!(
        "Where it goes: callgrind_annotate --inclusive=yes {}\nIf that is the price of something, say what for in the commit \
         that takes it: benches/counts/run --accept",
        FIGURES[0].profile()?.with_file_name("FIGURE.callgrind").display()
    );
    Ok(false)
}

/// The architecture and the compiler.
fn built_by() -> Result<String, Box<dyn Error>> {
    let version = Command::new("rustc").arg("--version").output()?.stdout;
    Ok(format!("{}, {}", std::env::consts::ARCH, String::from_utf8(version)?.trim()))
}

fn table(costs: &[(&Figure, Cost)], built_by: &str) -> String {
    let mut text = format!(
        "# For each operation, by our own code. Written by `benches/counts/run --accept`.\n# {built_by}\n# {:<22}",
        "figure"
    );
    let row = |text: &mut String, cells: &[String]| {
        cells.iter().for_each(|cell| write!(text, "{cell:>14}").unwrap_or_else(|_| unreachable!("a String takes all")));
        text.push('\n');
    };
    row(&mut text, &COLUMNS.map(str::to_owned));
    for (figure, cost) in costs {
        text += &format!("{:<24}", figure.name);
        row(&mut text, &cost.0.map(|n| format!("{n:.2}")));
    }
    text
}

/// The committed figures.
struct Expected<'t> {
    built_by: &'t str,
    costs: Vec<(&'t str, Cost)>,
}

impl<'t> Expected<'t> {
    /// `None`: they are of another architecture.
    fn read(text: &'t str) -> Result<Option<Expected<'t>>, Box<dyn Error>> {
        let mut comments = text.lines().filter_map(|line| line.strip_prefix("# "));
        let built_by = comments.nth(1).unwrap_or_default();
        if !built_by.starts_with(std::env::consts::ARCH) {
            return Ok(None);
        }
        let read = |line: &'t str| {
            let (name, cells) = line.split_once(' ')?;
            let cells: Vec<f64> = cells.split_whitespace().map(|cell| cell.parse().ok()).collect::<Option<_>>()?;
            Some((name, Cost(cells.try_into().ok()?)))
        };
        let rows = text.lines().filter(|line| !line.starts_with('#'));
        let costs = rows.map(|line| read(line).ok_or_else(|| format!("'{EXPECTED}' has no figures in '{line}'")));
        Ok(Some(Expected { built_by, costs: costs.collect::<Result<_, _>>()? }))
    }

    fn of(&self, name: &str) -> Option<&Cost> {
        self.costs.iter().find(|(known, _)| *known == name).map(|(_, cost)| cost)
    }

    fn has_fallen(&self, name: &str, now: &Cost) -> bool {
        self.of(name).is_some_and(|before| before.0.iter().zip(now.0).any(|(b, n)| *b > n * GROWTH + NOISE))
    }

    /// What of this figure has grown, in a line each.
    fn grown(&self, name: &str, now: &Cost) -> Vec<String> {
        let Some(before) = self.of(name) else {
            return vec![format!("{name}: no figure is expected")];
        };
        let cells = COLUMNS.iter().zip(before.0.iter().zip(now.0));
        cells
            .filter(|(_, (before, now))| *now > *before * GROWTH + NOISE)
            .map(|(column, (before, now))| format!("{name}: {column} {before:.2} -> {now:.2}"))
            .collect()
    }
}
