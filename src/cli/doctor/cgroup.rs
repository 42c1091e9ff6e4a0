//! What the cgroups above this process leave it.
//!
//! Sources: the kernel's `cgroup-v2.rst`, `proc_pid_cgroup(5)`, `proc_pid_mountinfo(5)`.

use super::{Finding, bytes};
use procfs::process::Process;
use std::{
    fs::read_to_string,
    path::{Path, PathBuf},
};

const TOPIC: &str = "cgroup";
/// Under which workers and their payloads hardly fit: a pool of two idle processes and a bridge takes some 60 MiB.
const LITTLE_MEMORY: u64 = 128 << 20;
/// A pool with the usual workers has five processes, and the bridge a thread per CPU.
const FEW_PROCESSES: u64 = 32;

pub(super) fn look() -> Vec<Finding> {
    match directories() {
        Ok(directories) => [cpu(&directories), memory(&directories), processes(&directories)].into(),
        Err(why) => vec![why],
    }
}

/// This process's group and those above it, as far as they can be seen.
fn directories() -> Result<Vec<PathBuf>, Finding> {
    let unseen = |why: &str| {
        let remedy = "limits that stand there are not looked at here; see to it that they leave room";
        Finding::warning(TOPIC, "version", why, remedy)
    };
    let me = Process::myself().map_err(|_| unseen("/proc can't be read"))?;
    let groups = me.cgroups().map_err(|_| unseen("there are no cgroups"))?;
    let mounts = me.mountinfo().map_err(|_| unseen("the mounts can't be read"))?;
    let group = groups.into_iter().find(|group| group.hierarchy == 0);
    let mount = mounts.iter().find(|mount| mount.fs_type == "cgroup2");
    let (Some(group), Some(mount)) = (group, mount) else {
        return Err(unseen("version 1, or none is mounted: only the memory limit is heeded"));
    };
    // In a container the mount may begin further down than the path does.
    let path = Path::new(&group.pathname);
    let path = path.strip_prefix(&mount.root).or_else(|_| path.strip_prefix("/")).unwrap_or(Path::new(""));
    Ok(path.ancestors().map(|part| mount.mount_point.join(part)).collect())
}

/// The tightest of a figure over all groups.
fn least<T: PartialOrd>(directories: &[PathBuf], of: impl Fn(&Path) -> Option<T>) -> Option<T> {
    directories.iter().filter_map(|d| of(d)).reduce(|a, b| if b < a { b } else { a })
}

fn number(directory: &Path, file: &str) -> Option<u64> {
    read_to_string(directory.join(file)).ok()?.trim().parse().ok() // "max" is none
}

fn cpu(directories: &[PathBuf]) -> Finding {
    let quota = least(directories, |directory| {
        let text = read_to_string(directory.join("cpu.max")).ok()?;
        let (quota, period) = text.trim().split_once(' ')?;
        Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
    });
    match quota {
        None => Finding::ok(TOPIC, "cpu.max", "no limit"),
        Some(cpus) if cpus < 1.0 => Finding::warning(
            TOPIC,
            "cpu.max",
            format_args!("{cpus:.2} CPUs"),
            "workers are halted when it is used up: raise it to 1 or more",
        ),
        Some(cpus) => Finding::ok(TOPIC, "cpu.max", format_args!("{cpus:.2} CPUs")),
    }
}

fn memory(directories: &[PathBuf]) -> Finding {
    let left = least(directories, |directory| {
        let max = number(directory, "memory.max")?;
        let current = number(directory, "memory.current")?;
        let stat = read_to_string(directory.join("memory.stat")).unwrap_or_default();
        // Cache that the kernel drops first.
        let cache = stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.parse().ok()).unwrap_or(0);
        Some((max.saturating_sub(current.saturating_sub(cache)), max))
    });
    match left {
        None => Finding::ok(TOPIC, "memory.max", "no limit"),
        Some((left, max)) if left < LITTLE_MEMORY => Finding::warning(
            TOPIC,
            "memory.max",
            format_args!("{}, of which {} are left", bytes(max), bytes(left)),
            "payloads beyond that are refused and processes killed: raise the limit, or end what else runs in the group",
        ),
        Some((left, max)) => {
            Finding::ok(TOPIC, "memory.max", format_args!("{}, of which {} are left", bytes(max), bytes(left)))
        }
    }
}

fn processes(directories: &[PathBuf]) -> Finding {
    let left = least(directories, |directory| {
        let max = number(directory, "pids.max")?;
        Some((max.saturating_sub(number(directory, "pids.current")?), max))
    });
    match left {
        None => Finding::ok(TOPIC, "pids.max", "no limit"),
        Some((left, max)) if left < FEW_PROCESSES => Finding::problem(
            TOPIC,
            "pids.max",
            format_args!("{max}, of which {left} are left"),
            format_args!("a pool needs {FEW_PROCESSES} and one for each worker: raise it (TasksMax= of systemd)"),
        ),
        Some((left, max)) => Finding::ok(TOPIC, "pids.max", format_args!("{max}, of which {left} are left")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::State;
    use std::fs;

    fn group(files: &[(&str, &str)]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        for (file, text) in files {
            fs::write(dir.path().join(file), text).unwrap();
        }
        let directories = vec![inner, dir.path().to_owned()];
        (dir, directories)
    }

    #[test]
    fn a_limit_of_a_group_above_counts() {
        let (_dir, directories) = group(&[
            ("cpu.max", "50000 100000\n"),
            ("memory.max", "134217728\n"),
            ("memory.current", "100000000\n"),
            ("memory.stat", "anon 1\ninactive_file 1000\n"),
            ("pids.max", "40\n"),
            ("pids.current", "30\n"),
        ]);
        let [cpu, memory, pids] = [cpu(&directories), memory(&directories), processes(&directories)];
        assert_eq!((cpu.state, &*cpu.found), (State::Warning, "0.50 CPUs"));
        assert_eq!((memory.state, &*memory.found), (State::Warning, "128 MiB, of which 33 MiB are left"));
        assert_eq!((pids.state, &*pids.found), (State::Problem, "40, of which 10 are left"));
    }

    #[test]
    fn without_a_limit_all_is_well() {
        let (_dir, directories) = group(&[("cpu.max", "max 100000\n"), ("memory.max", "max\n"), ("pids.max", "max\n")]);
        for finding in [cpu(&directories), memory(&directories), processes(&directories)] {
            assert_eq!((finding.state, &*finding.found), (State::Ok, "no limit"));
        }
    }
}
