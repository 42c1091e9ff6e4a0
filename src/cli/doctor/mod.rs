//! `shmworker doctor`: whether this machine has what workers need, what is wrong where it hasn't, and what to do.
//!
//! What can be tried is tried, rather than guessed from a version: a seccomp filter refuses what the kernel has.

mod cgroup;
mod machine;
#[cfg(feature = "temporal")]
mod temporal;

use super::{
    exit::{self, CliError},
    say,
};
#[cfg(feature = "temporal")]
use crate::temporal::Worker;
use serde::Serialize;
use std::{
    fmt,
    io::{self, IsTerminal},
};

/// What `shmworker doctor` was told.
#[derive(clap::Args)]
pub(crate) struct DoctorArgs {
    /// Print one JSON object in place of the lines
    #[arg(long)]
    json: bool,
    #[cfg(feature = "temporal")]
    #[command(flatten)]
    connect: super::args::ConnectArgs,
}

/// How it stands with one thing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// Workers run, but not as well as they could, or not in each case.
    Warning,
    /// They don't run.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    /// Of what kind it is.
    topic: &'static str,
    name: &'static str,
    state: State,
    /// What was found.
    found: String,
    /// What to do; nothing if it is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Finding {
    fn ok(topic: &'static str, name: &'static str, found: impl fmt::Display) -> Finding {
        Finding { topic, name, state: State::Ok, found: found.to_string(), remedy: None }
    }

    fn warning(
        topic: &'static str,
        name: &'static str,
        found: impl fmt::Display,
        remedy: impl fmt::Display,
    ) -> Finding {
        Finding { state: State::Warning, remedy: Some(remedy.to_string()), ..Finding::ok(topic, name, found) }
    }

    fn problem(
        topic: &'static str,
        name: &'static str,
        found: impl fmt::Display,
        remedy: impl fmt::Display,
    ) -> Finding {
        Finding { state: State::Problem, ..Finding::warning(topic, name, found, remedy) }
    }
}

#[derive(Serialize)]
struct Json<'f> {
    version: &'static str,
    problems: usize,
    warnings: usize,
    findings: &'f [Finding],
}

/// Looks at everything, and prints what it found.
///
/// # Errors
/// There is a problem.
pub(crate) fn run(args: DoctorArgs, #[cfg(feature = "temporal")] worker: &Worker) -> Result<(), CliError> {
    let mut findings = machine::look();
    findings.extend(cgroup::look());
    #[cfg(feature = "temporal")]
    findings.extend(temporal::look(args.connect, worker));
    let count = |state| findings.iter().filter(|f| f.state == state).count();
    let (problems, warnings) = (count(State::Problem), count(State::Warning));
    if args.json {
        let json = Json { version: crate::VERSION, problems, warnings, findings: &findings };
        say(serde_json::to_string(&json).map_err(|e| CliError::new(exit::FAILURE, e))?);
    } else {
        say(lines(&findings, is_coloured()));
    }
    match problems {
        0 => Ok(()),
        n => Err(CliError::summary(exit::FAILURE, format_args!("{n} problem(s), {warnings} warning(s)"))),
    }
}

/// On a terminal that has colours, unless NO_COLOR (<https://no-color.org>) says otherwise.
fn is_coloured() -> bool {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    io::stdout().is_terminal() && var("NO_COLOR").is_none() && var("TERM").is_some_and(|term| term != "dumb")
}

fn lines(findings: &[Finding], is_coloured: bool) -> String {
    let width = |of: fn(&Finding) -> usize| findings.iter().map(of).max().unwrap_or(0);
    let (topics, names) = (width(|f| f.topic.len()), width(|f| f.name.len()));
    let mut lines = Vec::new();
    for Finding { topic, name, state, found, remedy } in findings {
        let (word, colour) = match state {
            State::Ok => ("ok", 32),
            State::Warning => ("warning", 33),
            State::Problem => ("problem", 31),
        };
        let word = format!("{word:<7}");
        let word = if is_coloured { format!("\x1b[{colour}m{word}\x1b[0m") } else { word };
        // What the system and the environment say is theirs.
        let plain = |text: &str| text.replace(char::is_control, " ");
        lines.push(format!("{word}  {topic:<topics$}  {name:<names$}  {}", plain(found)));
        if let Some(remedy) = remedy {
            lines.push(format!("{:indent$}-> {}", "", plain(remedy), indent = 13 + topics + names));
        }
    }
    lines.join("\n")
}

/// A size as people read it.
fn bytes(n: u64) -> String {
    let (unit, shift) = match n {
        0..=1023 => return format!("{n} B"),
        _ if n < 1 << 20 => ("KiB", 10),
        _ if n < 1 << 30 => ("MiB", 20),
        _ if n < 1 << 40 => ("GiB", 30),
        _ => ("TiB", 40),
    };
    let value = n as f64 / (1_u64 << shift) as f64;
    if value < 10.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit() {
        for (n, text) in [(12, "12 B"), (64 << 20, "64 MiB"), (3 << 29, "1.5 GiB"), (u64::MAX, "16777216 TiB")] {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn a_finding_is_one_line_whatever_it_quotes_and_its_remedy_another() {
        let findings = [Finding::ok("a", "b", "x\n\x1b[31my"), Finding::problem("long", "name", "z", "do\nthis")];
        assert_eq!(
            lines(&findings, false),
            "ok       a     b     x  [31my\nproblem  long  name  z\n                     -> do this"
        );
        assert!(lines(&findings, true).starts_with("\x1b[32mok     \x1b[0m  a"));
    }
}
