//! The page: tables and prose.

use crate::{
    plan,
    plots::Plot,
    results::{Measured, Results, Row, Spread},
    targets::{Sense, Target},
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
         worker, iceoryx2 64), there and back; the submitter waits for the oldest. Nothing is sent in chunks but where the name \
         says so. Mapped memory has room for one message, so that is what it has under way: one ping-pong after another.",
    ),
    ("l", "Rings alone", "Nanoseconds per push and pop, or per operation of both processes together."),
    (
        "c",
        "(c) Payloads",
        "A payload there, a digest of 64 bytes back: the sum of all its words. *Copied*: from memory of the caller's. *In place*: \
         it lies in shared memory, and one word of it changes each time. *Made in place*: all of it is written in shared memory, \
         each time. What we are held to when we copy is one `memcpy` into mapped memory, whose sum is then taken by a process on \
         the other CPU, with a flag each way; in place, taking the sum once in the process that has it.",
    ),
    (
        "d",
        "(d) `map`",
        "x → x·x over a range, 2 workers; results are consumed in order, and their sum is checked. Items a second.",
    ),
    ("e", "(e) Start, memory, rest", "At rest: all processes of a pool of 2 workers together."),
    (
        "f",
        "(f) Recovery",
        "From `kill -9` of the worker that runs a task to the start of that task's next attempt. Others are measured with one \
         worker, which is killed.",
    ),
];

/// Before the targets.
const TARGETS: &str = "What is to be reached. Measured is the median of the turns' own ratios, and their 10th to 90th \
     percentile; a bound is reached or missed, an aim is what would be better still. An inter-process peer is whoever \
     reaches another process, from Rust or Python, task by task: `imap_unordered(chunksize=64)`, which makes one message of \
     64 tasks, has a line of its own.";

/// `missed` says where the time goes that is missed, `others` are sections of another kind, which are there as they are.
pub(crate) fn page(
    results: &Results,
    targets: &[Target],
    plots: &[Plot],
    missed: &str,
    others: &str,
) -> Result<String, std::fmt::Error> {
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
    write!(page, "{TARGETS}\n\n{}", table_of(targets)?)?;
    if !missed.is_empty() {
        write!(page, "\n{missed}")?;
    }
    for (letter, heading, text) in SECTIONS {
        if results.section(letter).next().is_some() {
            writeln!(page, "\n## {heading}\n\n{text}\n")?;
            page += &section(results, letter)?;
            for plot in plots.iter().filter(|p| p.letter == *letter) {
                writeln!(page, "\n![{}](benchmarks/{})", plot.title, plot.file)?;
            }
        }
    }
    write!(page, "\n{others}")?;
    Ok(page)
}

/// All that was measured, for a terminal.
pub(crate) fn tables(results: &Results, targets: &[Target]) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    for (letter, heading, _) in SECTIONS {
        if results.section(letter).next().is_some() {
            write!(text, "\n{heading}\n\n{}", section(results, letter)?)?;
        }
    }
    write!(text, "\n{}", table_of(targets.iter().filter(|target| target.is.is_some()))?)?;
    Ok(text)
}

fn table_of<'t>(targets: impl IntoIterator<Item = &'t Target>) -> Result<String, std::fmt::Error> {
    let mut table = String::from("| target | | bound | aim | measured | verdict |\n|---|---|---|---|---|---|\n");
    for target in targets {
        let word = if target.sense == Sense::AtMost { "at most" } else { "at least" };
        let limit = |limit: Option<f64>| limit.map_or_else(String::new, |v| format!("{word} {}", target.show(v)));
        let is = target.is.map_or_else(String::new, |Spread { low, median, high }| {
            let [low, median, high] = [low, median, high].map(|v| target.show(v));
            if low == high { median } else { format!("{median} ({low} to {high})") }
        });
        let Target { case, what, bound, aim, .. } = target;
        writeln!(table, "| {case} | {what} | {} | {} | {is} | {} |", limit(*bound), limit(*aim), target.verdict())?;
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
        let Some(Spread { low, median, high }) = row.spread(0) else { continue };
        let [low, median, high] = [low, median, high].map(|v| unit.show(v));
        let ratio = table.ratio(&row.peer, limit).map_or_else(String::new, |r| Digits(r.median).to_string());
        writeln!(text, "| {} | {median} | {low} to {high} | {ratio} |", row.title(&table.case))?;
    }
    text += &absent(&[table], |title| title);
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
    // Not every peer is in every table, and rows come in one order.
    for peer in plan::PEERS {
        let rows: Vec<_> = tables.iter().map(|t| (t, t.row(peer.name))).collect();
        if let Some((table, _)) = rows.iter().find(|(_, row)| row.is_some()) {
            let cells: Vec<_> = rows.iter().map(|(_, row)| row.map_or_else(String::new, cell)).collect();
            writeln!(text, "| {} | {} |", peer.title_at(&table.case), cells.join(" | "))?;
        }
    }
    text += &absent(tables, title);
    Ok(text + "\n")
}

fn cell(row: &Row) -> String {
    let Some(unit) = row.unit else { return String::new() };
    let spreads: Vec<_> = (0..row.turns.len()).filter_map(|i| row.spread(i)).collect();
    let medians: Vec<_> = spreads.iter().map(|s| unit.show(s.median)).collect();
    match spreads[..] {
        // Counts are small, and differ by one or by nothing.
        [Spread { low, median, high }] if unit != Unit::Count => {
            format!("{} ± {:.0} %", medians.join(", "), (high - low) / median * 50.0)
        }
        _ => medians.join(", "),
    }
}

/// Who has no figure, or not as many as others, and why.
fn absent<'t>(tables: &[&'t Measured], title: impl Fn(&'t str) -> &'t str) -> String {
    // By reason, so that each is said once.
    let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
    for table in tables {
        for row in &table.rows {
            let Some(why) = &row.why else { continue };
            let mut who = row.title(&table.case).to_owned();
            if row.unit.is_some() {
                who += " in some turns";
            }
            if tables.iter().any(|t| t.row(&row.peer).is_some()) {
                who = format!("{who} ({})", title(&table.title));
            }
            match reasons.iter_mut().find(|(reason, _)| reason == why) {
                Some((_, all)) if all.contains(&who) => {}
                Some((_, all)) => all.push(who),
                None => reasons.push((why, vec![who])),
            }
        }
    }
    let lines: Vec<_> = reasons.iter().map(|(why, who)| format!("{}: {why}", who.join(", "))).collect();
    if lines.is_empty() { String::new() } else { format!("\nWithout a figure: {}.\n", lines.join("; ")) }
}
