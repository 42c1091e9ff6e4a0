//! Runs all peers at all cases, in turn (A B C A B C …), and writes what came of it.

mod machine;
mod plan;
mod plots;
mod render;
mod results;
mod targets;
mod turns;

use clap::Parser;
use results::Results;
use std::{error::Error, fs, num::NonZero, path::PathBuf, process::ExitCode};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Measures shmworker beside its peers and beside what the machine can do.
#[derive(Parser)]
#[command(name = "benches/run")]
struct Args {
    /// How often each peer runs at each case; up to 3 are a short run, with fewer and smaller cases.
    #[arg(default_value = "7")]
    turns: NonZero<usize>,
    /// Only these cases, by letter: a b c d e f, and l for lanes.
    #[arg(long, value_delimiter = ',')]
    cases: Vec<String>,
    /// Only these peers.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Writes docs/benchmarks.md and its plots; otherwise these go to the target directory.
    #[arg(long)]
    write: bool,
    /// Renders what an earlier run has left, and measures nothing.
    #[arg(long, value_name = "RESULTS.JSON")]
    from: Option<PathBuf>,
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
    let benches = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    // Beside the program: target/benches.
    let target =
        std::env::current_exe()?.ancestors().nth(2).ok_or("this program lies in no target directory")?.join("benches");
    fs::create_dir_all(&target)?;
    let results = match &args.from {
        Some(file) => serde_json::from_slice(&fs::read(file)?)?,
        None => {
            let plan = plan::plan(args.turns.get() <= 3, &args.cases, &args.peers)?;
            let results = turns::take(&plan, args.turns.get(), &benches)?;
            let file = target.join("results.json");
            fs::write(&file, serde_json::to_vec(&results)?)?;
            eprintln!("figures: {}", file.display());
            results
        }
    };
    write(&results, &if args.write { benches.join("../docs") } else { target }, &benches)
}

/// Writes the page and its plots.
fn write(results: &Results, docs: &std::path::Path, benches: &std::path::Path) -> Result<()> {
    let plots = docs.join("benchmarks");
    fs::create_dir_all(&plots)?;
    let drawn = plots::draw(results, &plots)?;
    let page = docs.join("benchmarks.md");
    let text = |name| fs::read_to_string(benches.join("text").join(name));
    let (targets, missed) = (targets::targets(results), text("missed.md").unwrap_or_default());
    let is_missed = targets.iter().any(targets::Target::is_missed);
    match (is_missed, missed.is_empty()) {
        (true, true) => {
            eprintln!("warning: a target is missed, and no benches/text/missed.md says where the time goes")
        }
        (false, false) => eprintln!("benches/text/missed.md is left out: nothing is missed"),
        _ => {}
    }
    let missed = if is_missed { missed } else { String::new() };
    let mut others = Vec::new();
    for name in ["compare.md", "jobs.md", "c.md", "seeing.md", "temporal.md", "deaths.md"] {
        others.push(text(name)?);
    }
    let others = others.join("\n");
    fs::write(&page, render::page(results, &targets, &drawn, &missed, &others)?)?;
    print!("{}", render::tables(results, &targets)?);
    eprintln!("page: {}", page.display());
    Ok(())
}
