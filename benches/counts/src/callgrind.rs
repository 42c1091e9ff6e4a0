//! Runs this program again under callgrind, and reads what that writes.
//!
//! The format: <https://valgrind.org/docs/manual/cl-format.html>.

use crate::{
    allocations::TALLY,
    workloads::{Figure, OPERATIONS},
};
use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What is counted.
pub(crate) const COLUMNS: [&str; 3] = ["instructions", "allocations", "system-calls"];

/// How much of each of [`COLUMNS`] an operation costs.
pub(crate) struct Cost(pub(crate) [f64; COLUMNS.len()]);

impl Figure {
    /// Where its profile is left.
    pub(crate) fn profile(&self) -> Result<PathBuf, Box<dyn Error>> {
        Ok(std::env::current_exe()?.with_file_name(self.name.replace('/', "-")).with_extension("callgrind"))
    }

    /// Plays its workload, and counts what its function costs.
    ///
    /// # Errors
    /// valgrind is missing, or the workload failed, or the function was never called.
    pub(crate) fn count(&self) -> Result<Cost, Box<dyn Error>> {
        let (program, profile) = (std::env::current_exe()?, self.profile()?);
        let run = Command::new("valgrind")
            .args([
                "--tool=callgrind",
                "--quiet",
                "--collect-systime=yes",
                "--compress-strings=no",
                "--compress-pos=no",
            ])
            .arg(format!("--toggle-collect={}", self.function))
            .arg(format!("--callgrind-out-file={}", profile.display()))
            .arg(&program)
            .args(["--play", &self.workload.name()])
            .output()
            .map_err(|e| format!("cannot run valgrind: {e}; install it from your distribution"))?;
        if !run.status.success() {
            let said = String::from_utf8_lossy(&run.stderr);
            return Err(format!("{}: callgrind ended with {}: {}", self.name, run.status, said.trim()).into());
        }
        let cost = read(&fs::read_to_string(&profile)?, &program, self.function)?;
        if cost.0[0] == 0.0 {
            return Err(format!("{}: '{}' was never called: has it been renamed?", self.name, self.function).into());
        }
        Ok(cost)
    }
}

/// What a call of `measured` costs: instructions of `program` itself alone.
fn read(profile: &str, program: &Path, measured: &str) -> Result<Cost, Box<dyn Error>> {
    let ours = program.to_str().ok_or("the path of this program is no text")?;
    let [mut instructions, mut allocations, mut system_calls] = [0u64; 3];
    let (mut object, mut function, mut callee) = ("", "", "");
    // Behind the line of the source: instructions, system calls, their time. Zeroes at the end are left out.
    let cell = |line: &str, n| line.split(' ').nth(n).map_or(Ok(0), str::parse::<u64>);
    let mut lines = profile.lines();
    while let Some(line) = lines.next() {
        match line.split_once('=') {
            Some(("ob", name)) => object = name,
            Some(("fn", name)) => function = name,
            Some(("cfn", name)) => callee = name,
            Some(("calls", _)) => {
                let whole = lines.next().unwrap_or_default();
                // From entry to return. A system call by itself is counted also where nothing is to be collected.
                system_calls += if callee == measured { cell(whole, 2)? } else { 0 };
            }
            None if line.starts_with(|c: char| c.is_ascii_digit()) => {
                let own = cell(line, 1)?;
                instructions += if object == ours { own } else { 0 };
                allocations += if function == TALLY { own } else { 0 };
            }
            _ => {}
        }
    }
    Ok(Cost([instructions, allocations, system_calls].map(|n| n as f64 / OPERATIONS as f64)))
}
