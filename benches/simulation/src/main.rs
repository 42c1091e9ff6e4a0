//! Lanes on more cores than we have: one for all against one for each cache domain.
//!
//! `simulation DOCS` writes the tables into `DOCS/many-cores.md`, between its marks, and the plot beside it. It is deterministic:
//! what it writes changes only with this program.

mod machine;
mod plot;
mod pool;

use machine::{Machine, Time};
use pool::{Lanes, Outcome, Scene, simulate};
use std::{error::Error, fmt::Write as _, fs, path::Path};

/// Medians from <https://github.com/nviennot/core-to-core-latency>.
const MACHINES: [Machine; 2] = [
    Machine { name: "EPYC 7R13", domain: 8, socket: 64, near: 23, far: 107, remote: 197 },
    Machine { name: "Xeon 8375C", domain: 32, socket: 32, near: 51, far: 51, remote: 108 },
];
const CORES: [usize; 6] = [4, 8, 16, 32, 64, 128];
const WORK: [Time; 3] = [0, 1_000, 10_000];
const BEGIN: &str = "<!-- simulated: written by benches/simulation/run -->\n";
const END: &str = "<!-- end -->\n";

fn main() -> Result<(), Box<dyn Error>> {
    let docs = std::env::args().nth(1).ok_or("usage: simulation DOCS")?;
    let page = Path::new(&docs).join("many-cores.md");
    let text = fs::read_to_string(&page)?;
    let (before, rest) = text.split_once(BEGIN).ok_or("the page has no mark where the tables begin")?;
    let (_, after) = rest.split_once(END).ok_or("the page has no mark where the tables end")?;
    let mut lines = Vec::new();
    let tables = tables(&mut lines)?;
    plot::draw(&Path::new(&docs).join("many-cores.svg"), &lines)?;
    fs::write(&page, [before, BEGIN, &tables, END, after].concat())?;
    Ok(())
}

fn tables(lines: &mut Vec<plot::Line>) -> Result<String, std::fmt::Error> {
    const LANES: [Lanes; 3] = [Lanes::One, Lanes::BackOff, Lanes::PerDomain];
    let mut text = String::new();
    for machine in MACHINES {
        for has_submitter_per_domain in [true, false] {
            let who = if has_submitter_per_domain { "one submitter in each domain" } else { "one submitter in all" };
            let Machine { name, domain, near, far, remote, .. } = machine;
            writeln!(text, "\n**{name}** ({domain} cores a domain; {near}, {far}, {remote} ns), **{who}**\n")?;
            write!(text, "| cores |")?;
            for work in WORK {
                write!(text, " {} µs: one | backs off | per domain |", work / 1000)?;
            }
            writeln!(
                text,
                " transfers, far: one | backs off | per domain |\n|--:|{}",
                "--:|".repeat(3 * WORK.len() + 3)
            )?;
            let mut rates = WORK.map(|_| LANES.map(|_| Vec::new()));
            for cores in CORES {
                write!(text, "| {cores} |")?;
                let outcomes = WORK.map(|work| {
                    LANES.map(|lanes| simulate(Scene { machine, lanes, cores, has_submitter_per_domain, work }))
                });
                for (of_work, rates) in outcomes.iter().zip(&mut rates) {
                    for (outcome, rates) in of_work.iter().zip(rates) {
                        rates.push((cores as f64, outcome.rate));
                        write!(text, " {:.2} |", outcome.rate)?;
                    }
                }
                for Outcome { all, far, .. } in outcomes[1] {
                    write!(text, " {all:.0}, {far:.0} |")?;
                }
                writeln!(text)?;
            }
            if lines.is_empty() {
                for (work, rates) in WORK.into_iter().zip(rates) {
                    for (lanes, points) in ["one lane", "one, backing off", "one per domain"].into_iter().zip(rates) {
                        lines.push(plot::Line { name: format!("{} µs, {lanes}", work / 1000), points });
                    }
                }
            }
        }
    }
    text.push('\n');
    Ok(text)
}
