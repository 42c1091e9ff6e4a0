//! Runs workers side by side, in turn (A B C A B C …), and writes what came of it.

mod cases;
mod dev_server;
mod render;

use cases::{Case, Peer};
use clap::Parser;
use dev_server::DevServer;
use serde::{Deserialize, Serialize};
use shmworker_benches_temporal::Figures;
use std::{
    env,
    error::Error,
    fs,
    num::NonZero,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Measures Temporal workers side by side.
#[derive(Parser)]
#[command(name = "benches/temporal/run")]
struct Args {
    /// How often each worker runs at each case.
    #[arg(default_value = "5")]
    turns: NonZero<usize>,
    /// How long a run measures, in seconds.
    #[arg(long, default_value = "4")]
    seconds: f64,
    /// Writes the section in docs/benchmarks.md; otherwise it is printed only.
    #[arg(long)]
    write: bool,
    /// Renders what an earlier run has left, and measures nothing.
    #[arg(long, value_name = "RESULTS.JSON")]
    from: Option<PathBuf>,
}

/// All that was measured.
#[derive(Serialize, Deserialize)]
struct Results {
    machine: render::Machine,
    turns: usize,
    runs: Vec<Run>,
    /// Who has no figures, and why.
    absent: Vec<String>,
}

/// One run of one worker.
#[derive(Serialize, Deserialize)]
struct Run {
    case: Case,
    peer: Peer,
    turn: usize,
    figures: Figures,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let results = match &args.from {
        Some(file) => serde_json::from_slice(&fs::read(file)?)?,
        None => {
            let results = measure(args)?;
            let file = env::current_exe()?.with_file_name("temporal-results.json");
            fs::write(&file, serde_json::to_vec(&results)?)?;
            eprintln!("figures: {}", file.display());
            results
        }
    };
    let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
    // By hand: where the time goes that a missed target lacks.
    let missed = fs::read_to_string(benches.join("missed.md")).unwrap_or_default();
    let section = render::section(&results, &missed)?;
    print!("{section}");
    if args.write {
        // `benches/run`, which writes the page, takes the section from there.
        fs::write(benches.join("../text/temporal.md"), &section)?;
        let page = benches.join("../../docs/benchmarks.md");
        let text = fs::read_to_string(&page)?;
        let (before, rest) = text.split_once(render::HEADING).ok_or("docs/benchmarks.md has no section for it")?;
        let after = rest.find("\n## ").map_or("", |at| &rest[at..]);
        fs::write(page, format!("{before}{section}{after}"))?;
    }
    Ok(())
}

fn measure(args: &Args) -> Result<Results> {
    let mut absent = Vec::new();
    let has_python = command(&["python3".into(), "-c".into(), "import temporalio".into()])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|ended| ended.success());
    if !has_python {
        absent.push("the Python sample: python3 has no package temporalio".to_owned());
    }
    let (machine, mut runs) = (render::Machine::look(), Vec::new());
    for case in Case::ALL {
        let dev_server = match (case == Case::DevServer).then(DevServer::start).transpose() {
            Ok(server) => server,
            Err(e) => {
                absent.push(format!("the dev server: {e}"));
                continue;
            }
        };
        for turn in 0..args.turns.get() {
            for &peer in case
                .peers()
                .iter()
                .filter(|peer| has_python || !matches!(peer, Peer::Python(..) | Peer::PythonPlain(..)))
            {
                let figures = match &dev_server {
                    Some(server) => server.measure(&worker(peer)?, case.workflow().0)?,
                    None => null_server(case, peer, args.seconds)?,
                };
                let (rate, cpu) = (figures.rate(), figures.cpu_per_workflow() * 1e3);
                eprintln!("{case:?} {}: {peer:?}: {rate:.0} workflows/s, {cpu:.2} ms of CPU time each", turn + 1);
                runs.push(Run { case, peer, turn, figures });
            }
        }
    }
    Ok(Results { machine: machine.with_load(), turns: args.turns.get(), runs, absent })
}

fn null_server(case: Case, peer: Peer, seconds: f64) -> Result<Figures> {
    let seconds = if case == Case::Memory { 1.0 } else { seconds };
    let (workflow, input) = case.workflow();
    let mut command = Command::new(sibling("null-server")?);
    command.args(["--workflow", workflow, "--seconds", &seconds.to_string()]);
    command.args(input.map(|input| format!("--input={input}"))).arg("--").args(worker(peer)?);
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{case:?} {peer:?}: the null server ended with {}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The command line of a worker.
fn worker(peer: Peer) -> Result<Vec<String>> {
    let numbers = |w: usize, a: usize| ["-w".into(), w.to_string(), "-a".into(), a.to_string()];
    Ok(match peer {
        Peer::Ours(w, a) => [vec![sibling("ours")?, "run".into()], numbers(w, a).into()].concat(),
        Peer::OursGzip(w, a) => [worker(Peer::Ours(w, a))?, vec!["--gzip".into()]].concat(),
        Peer::Official => vec![sibling("official")?],
        Peer::OfficialPlain => vec![sibling("official")?, "--no-gzip".into()],
        Peer::Python(w, a) => {
            let program = concat!(env!("CARGO_MANIFEST_DIR"), "/python/worker.py");
            [vec!["python3".into(), program.into()], numbers(w, a).into()].concat()
        }
        Peer::PythonPlain(w, a) => [worker(Peer::Python(w, a))?, vec!["--no-gzip".into()]].concat(),
    })
}

fn command(line: &[String]) -> Command {
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]);
    command
}

/// A program that was built with this one.
fn sibling(name: &str) -> Result<String> {
    Ok(env::current_exe()?
        .with_file_name(name)
        .into_os_string()
        .into_string()
        .map_err(|_| "the path is not Unicode")?)
}
