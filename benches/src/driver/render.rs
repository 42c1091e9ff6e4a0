//! The page: tables and prose.

use crate::{
    plots::Plot,
    results::{Measured, Results},
    targets::{Bound, targets},
};
use shmworker_benches::{Digits, Unit, quantile};
use std::fmt::Write;

/// A section: letter, heading, and what a reader must know.
const SECTIONS: &[(&str, &str, &str)] = &[
    (
        "a",
        "(a) Round trip",
        "One task of 64 bytes there and its result of 64 bytes back, then the next. *Busy*: each side on a CPU of its own, and \
         awake; who can spin does. *Asleep*: the worker is seen to sleep before each trip. *One core*: both sides on the same \
         CPU. The ratio is the median of the turns' own ratios to the bold limit.",
    ),
    (
        "b",
        "(b) Tasks a second",
        "1,024 tasks of 64 bytes under way (fewer where a peer would block for ever: ipc-channel, sockets and pipes 256 per \
         worker, iceoryx2 64), there and back; the submitter waits for the oldest. Nothing is sent in chunks but where the name says so.",
    ),
    ("l", "Rings alone", "Nanoseconds per push and pop, or per operation of both processes together."),
    (
        "c",
        "(c) Payloads",
        "A payload there, a digest of 64 bytes back, which reads every word of it. *Copied*: from memory of the caller's. *In \
         place*: it lies in shared memory, and one word of it changes each time. *Made in place*: all of it is written in shared \
         memory, each time.",
    ),
    ("d", "(d) `map`", "x → x·x over a range, 2 workers; results are consumed in order, and their sum is checked."),
    ("e", "(e) Start, memory, rest", "At rest: all processes of a pool of 2 workers together."),
    ("f", "(f) Recovery", "The worker that runs a task is killed; the clock stops in the task's next attempt."),
];

/// `missed` says where the time goes that is missed, `temporal` is of another kind: both are written by hand.
pub(crate) fn page(results: &Results, plots: &[Plot], missed: &str, temporal: &str) -> Result<String, std::fmt::Error> {
    let mut page = String::new();
    let machine = &results.machine;
    let load = |q| Digits(quantile(machine.load.iter().copied(), q));
    writeln!(
        page,
        "# Benchmarks\n\nWritten by `benches/run`; figures are not edited by hand.\n\n```console\n$ benches/run --write\n```\n"
    )?;
    writeln!(
        page,
        "Each figure is the median of {} turns, in which the peers of a case run one after another, each in a process of its \
         own; ± is half the span from the 10th to the 90th percentile of the turns. Ours is the crash-tolerant build with \
         supervision and time stamps on, as users run it.\n",
        results.turns
    )?;
    writeln!(
        page,
        "Machine: {}, {} CPUs, {}; load average during the run {} (median), {} to {}. Commit {}, {}. {}.\n",
        machine.cpu,
        machine.cpus,
        machine.kernel,
        load(0.5),
        load(0.0),
        load(1.0),
        machine.commit,
        machine.date,
        machine.versions.iter().map(|(name, version)| format!("{name} {version}")).collect::<Vec<_>>().join(", "),
    )?;
    page += &tables_of_targets(results)?;
    write!(page, "\n{missed}")?;
    for (letter, heading, text) in SECTIONS {
        if results.section(letter).next().is_some() {
            writeln!(page, "\n## {heading}\n\n{text}\n")?;
            page += &section(results, letter)?;
            for plot in plots.iter().filter(|p| p.letter == *letter) {
                writeln!(page, "\n![{}](benchmarks/{})", plot.title, plot.file)?;
            }
        }
    }
    write!(page, "\n{temporal}")?;
    Ok(page)
}

/// All tables, for a terminal.
pub(crate) fn tables(results: &Results) -> String {
    let sections = SECTIONS.iter().map(|(letter, heading, _)| {
        let tables = section(results, letter).unwrap_or_default();
        if tables.is_empty() { tables } else { format!("\n{heading}\n\n{tables}") }
    });
    sections.chain(tables_of_targets(results).map(|t| format!("\n{t}"))).collect()
}

fn tables_of_targets(results: &Results) -> Result<String, std::fmt::Error> {
    let mut table = String::from("| target | | bound | to aim for | measured | |\n|---|---|---|---|---|---|\n");
    for target in targets(results) {
        let (word, bound) = match target.bound {
            Bound::AtMost(bound) => ("at most", bound),
            Bound::AtLeast(bound) => ("at least", bound),
        };
        let bound = if bound.is_finite() { format!("{word} {}", target.show(bound)) } else { String::new() };
        let or_none = |value: Option<f64>| value.map_or_else(String::new, |v| target.show(v));
        let (case, what) = (target.case, &target.what);
        writeln!(
            table,
            "| {case} | {what} | {bound} | {} | {} | {} |",
            or_none(target.aim),
            or_none(target.is),
            target.verdict()
        )?;
    }
    Ok(table)
}

fn section(results: &Results, letter: &str) -> Result<String, std::fmt::Error> {
    let tables: Vec<_> = results.section(letter).collect();
    let mut text = String::new();
    if letter == "a" {
        for table in tables {
            text += &detailed(table)?;
        }
        return Ok(text);
    }
    if letter == "c" {
        // By how the payload gets there: the title behind the size.
        for mode in ["copied", "in place", "made in place"] {
            let of_mode: Vec<_> = tables.iter().copied().filter(|t| t.title.ends_with(&format!(", {mode}"))).collect();
            text += &matrix(&of_mode, mode, |title| title.split(',').next().unwrap_or_default())?;
        }
        return Ok(text);
    }
    matrix(&tables, "", |title| title)
}

/// One case, with spread and ratio.
fn detailed(table: &Measured) -> Result<String, std::fmt::Error> {
    let limit = if table.row("raw").is_some() && !table.case.contains("one-core") { "raw" } else { "futex" };
    let mut text = format!("| {} | median | 10th to 90th percentile | ratio |\n|---|---|---|---|\n", table.title);
    for row in &table.rows {
        let Some(unit) = row.unit else { continue };
        let show = |q| unit.show(row.quantile(0, q));
        let ratio = table.ratio(&row.peer, limit).map_or_else(String::new, |r| Digits(r).to_string());
        writeln!(text, "| {} | {} | {} to {} | {ratio} |", row.title(), show(0.5), show(0.1), show(0.9))?;
    }
    text += &absent(&[table]);
    Ok(text + "\n")
}

/// Several cases side by side.
fn matrix<'t>(
    tables: &[&'t Measured],
    name: &str,
    title: impl Fn(&'t str) -> &'t str,
) -> Result<String, std::fmt::Error> {
    if tables.is_empty() {
        return Ok(String::new());
    }
    let titles: Vec<_> = tables.iter().map(|t| title(&t.title)).collect();
    let mut text = format!("| {name} | {} |\n|---{}|\n", titles.join(" | "), "|---".repeat(tables.len()));
    let mut seen = Vec::new();
    for row in tables.iter().flat_map(|t| &t.rows).filter(|r| r.unit.is_some()) {
        if seen.contains(&&row.peer) {
            continue;
        }
        seen.push(&row.peer);
        let cells: Vec<_> = tables.iter().map(|t| t.row(&row.peer).map_or_else(String::new, cell)).collect();
        writeln!(text, "| {} | {} |", row.title(), cells.join(" | "))?;
    }
    text += &absent(tables);
    Ok(text + "\n")
}

fn cell(row: &crate::results::Row) -> String {
    let Some(unit) = row.unit else { return String::new() };
    let medians: Vec<_> = (0..row.turns.len()).map(|i| unit.show(row.quantile(i, 0.5))).collect();
    if unit == Unit::Count {
        return medians.join(", ");
    }
    let spread = (row.quantile(0, 0.9) - row.quantile(0, 0.1)) / row.quantile(0, 0.5) * 50.0;
    format!("{} ± {spread:.0} %", medians.join(", "))
}

/// Who is missing, and why: unless it has no such case.
fn absent(tables: &[&Measured]) -> String {
    let mut lines = Vec::new();
    for row in tables.iter().flat_map(|t| &t.rows) {
        if let Some(why) = &row.why
            && !why.contains("no such case")
        {
            let line = format!("{}: {why}", row.title());
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    if lines.is_empty() { String::new() } else { format!("\nNot in the table: {}.\n", lines.join("; ")) }
}
