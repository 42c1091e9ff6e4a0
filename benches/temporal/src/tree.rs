//! A program and all processes that it has started, from outside: CPU time and memory.

use procfs::{
    ProcError, ProcResult,
    process::{Process, all_processes},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// The processes of a program: itself and whoever descends from it.
pub fn of(leader: u32) -> ProcResult<BTreeSet<i32>> {
    let mut parents = BTreeMap::new();
    for process in all_processes()? {
        // One that has ended meanwhile is none.
        if let Ok(stat) = process.and_then(|process| process.stat()) {
            parents.insert(stat.pid, stat.ppid);
        }
    }
    let mut tree = BTreeSet::from([leader as i32]);
    loop {
        let before = tree.len();
        tree.extend(
            parents.iter().filter(|(_, parent)| tree.contains(parent)).map(|(pid, _)| *pid).collect::<Vec<_>>(),
        );
        if tree.len() == before {
            return Ok(tree);
        }
    }
}

/// CPU time of each process since its start, in user and kernel mode.
///
/// # Errors
///
/// One of them has ended.
pub fn cpu(tree: &BTreeSet<i32>) -> ProcResult<BTreeMap<i32, Duration>> {
    let per_second = procfs::ticks_per_second();
    let of = |&pid: &i32| {
        let stat = Process::new(pid)?.stat()?;
        Ok((pid, Duration::from_millis((stat.utime + stat.stime) * 1000 / per_second)))
    };
    tree.iter().map(of).collect()
}

/// Proportional set size of each process, in bytes.
///
/// # Errors
///
/// One of them has ended.
pub fn pss(tree: &BTreeSet<i32>) -> ProcResult<BTreeMap<i32, u64>> {
    let of = |&pid: &i32| {
        let rollup = Process::new(pid)?.smaps_rollup()?;
        let map = rollup.memory_map_rollup.into_iter().next();
        let pss = map.and_then(|map| map.extension.map.get("Pss").copied());
        Ok((pid, pss.ok_or_else(|| ProcError::Other(format!("process {pid} tells no PSS")))?))
    };
    tree.iter().map(of).collect()
}
