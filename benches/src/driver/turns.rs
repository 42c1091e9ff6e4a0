//! One process per peer, case and turn.

use crate::{
    Result,
    machine::{Load, Machine},
    plan::{Kind, Peer, Table},
    results::{Measured, Results, Row},
};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use shmworker_benches::{Report, Unit, quantile};
use std::{
    io::{IsTerminal, Read},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

/// Longer than any run takes; who takes longer hangs.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn take(plan: &[Table], turns: usize, benches: &Path) -> Result<Results> {
    let machine = Machine::look(benches);
    let load = Load::watch();
    let mut tables = Vec::new();
    for table in plan {
        eprint!("{} {}: {}", table.letter, table.title, if std::io::stderr().is_terminal() { "" } else { "…" });
        let mut rows: Vec<Row> = table
            .peers
            .iter()
            .map(|peer| Row {
                peer: peer.name.to_owned(),
                unit: None,
                turns: Vec::new(),
                distribution: Vec::new(),
                why: None,
            })
            .collect();
        for turn in 0..turns {
            for (peer, row) in table.peers.iter().zip(&mut rows) {
                // Who said that he has no such case, or who failed at all he was asked.
                if row.why.is_none() || row.unit.is_some() {
                    note(row, turn, run(peer, &table.case, benches));
                }
            }
            eprint!(".");
        }
        if table.has_distribution {
            for (peer, row) in table.peers.iter().zip(&mut rows) {
                // Who wakes a sleeper measures each trip anyway, and Python's programs do.
                if row.unit.is_some()
                    && peer.kind != Kind::Python
                    && let Ok(Report::Figures { values, .. }) = run(peer, &format!("{} each=true", table.case), benches)
                {
                    row.distribution = values;
                    row.distribution.sort_by(f64::total_cmp);
                }
            }
        }
        eprintln!();
        let Table { letter, title, case, .. } = table;
        tables.push(Measured { letter: (*letter).to_owned(), title: title.clone(), case: case.clone(), rows });
    }
    Ok(Results { machine: Machine { load: load.seen(), ..machine }, turns, tables })
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
