//! One process per peer, case and turn.

use crate::{
    Result,
    machine::{Load, Machine},
    plan::{Column, Kind, Peer, Table},
    results::{Measured, Results, Row},
};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use shmworker_benches::{Report, Unit, quantile};
use std::{
    io::Read,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// Longer than any run takes; who takes longer hangs.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn take(plan: &[Table], turns: usize, benches: &Path) -> Result<Results> {
    let machine = Machine::look(benches);
    let load = Load::watch();
    let mut tables = Vec::new();
    for table in plan {
        let titles: Vec<_> = table.columns.iter().map(|column| column.title.as_str()).collect();
        eprint!("{} {}: ", table.letter, titles.join("; "));
        let begun = Instant::now();
        let mut measured: Vec<Measured> = table
            .columns
            .iter()
            .map(|Column { title, case, .. }| Measured {
                letter: table.letter.to_owned(),
                title: title.clone(),
                case: case.clone(),
                rows: table.peers.iter().map(|peer| Row::new(peer.name)).collect(),
            })
            .collect();
        for turn in 0..turns {
            for (i, peer) in table.peers.iter().enumerate() {
                for Measured { case, rows, .. } in &mut measured {
                    let row = &mut rows[i];
                    // Who said that he has no such case, or who failed at all he was asked.
                    if row.why.is_none() || row.unit.is_some() {
                        note(row, turn, run(peer, case, benches));
                    }
                }
            }
            eprint!(".");
        }
        for (column, measured) in table.columns.iter().zip(&mut measured) {
            if column.has_distribution {
                distributions(&table.peers, &column.case, &mut measured.rows, benches);
            }
        }
        eprintln!(" {:.0} s", begun.elapsed().as_secs_f64());
        tables.extend(measured);
    }
    Ok(Results { machine: Machine { load: load.seen(), ..machine }, turns, tables })
}

/// One run more of each peer, with one value per trip.
fn distributions(peers: &[&Peer], case: &str, rows: &mut [Row], benches: &Path) {
    for (peer, row) in peers.iter().zip(rows) {
        // Those from Python time each trip anyway.
        let case = if peer.kind == Kind::Python { case.to_owned() } else { format!("{case} each=true") };
        if row.unit.is_some()
            && let Ok(Report::Figures { values, .. }) = run(peer, &case, benches)
        {
            row.distribution = values;
            row.distribution.sort_by(f64::total_cmp);
        }
    }
}

/// Keeps what one turn of a peer has shown.
fn note(row: &mut Row, turn: usize, came: Result<Report>) {
    let (unit, values) = match came {
        Ok(Report::Figures { unit, values }) if !values.is_empty() => (unit, values),
        Ok(Report::Figures { .. }) => return row.why = Some("no figure".to_owned()),
        Ok(Report::Skip { skip }) => return row.why = Some(skip),
        Err(e) => {
            eprint!(" {}: {e} ", row.peer);
            return row.why = Some(e.to_string());
        }
    };
    row.unit = Some(unit);
    // Counts are of different things; all else are samples of one.
    let figures = if unit == Unit::Count { values } else { vec![quantile(values, 0.5)] };
    row.turns.resize(figures.len(), Vec::new());
    for (turns, figure) in row.turns.iter_mut().zip(figures) {
        turns.resize(turn, None);
        turns.push(Some(figure));
    }
}

fn run(peer: &Peer, case: &str, benches: &Path) -> Result<Report> {
    let mut command = if peer.kind == Kind::Python {
        let mut command = Command::new("python3");
        command.arg(benches.join("python/peers.py"));
        command
    } else {
        Command::new(std::env::current_exe()?.with_file_name("peer"))
    };
    let mut child = command
        .arg(peer.name)
        .args(case.split(' '))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // Of its own, so that what it has started ends with it.
        .process_group(0)
        .spawn()
        .map_err(|e| format!("{peer} can't be started: {e}", peer = peer.name))?;
    let mut stdout = child.stdout.take().ok_or("its output is not ours")?;
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let mut text = String::new();
        let read = stdout.read_to_string(&mut text).map(|_| text);
        // Who waited for it may have given up.
        let _ = tell.send(read);
    });
    let said = told.recv_timeout(LIMIT);
    if said.is_err() {
        killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL)?;
    }
    let ended = child.wait()?;
    let said = said.map_err(|_| format!("{case}: not finished within {} s", LIMIT.as_secs()))??;
    // Diagnostics of Python's may come before.
    let line = said.lines().last().unwrap_or_default();
    serde_json::from_str(line).map_err(|_| format!("{case}: {ended}, and said {line:?}").into())
}
