//! What a pool costs: how long it takes to start, how much memory each further worker takes, and how much CPU time it uses while
//! there is nothing to do. Prints the table of `docs/guide.md`.
//!
//! `cargo run --release --no-default-features --features pool --example footprint [seconds at rest, default 10]`
//!
//! Memory is PSS (`/proc/PID/smaps_rollup`), in which a page that several processes map counts for each by its share: so the sum
//! over all processes of a pool is what they take together. CPU time is `utime` and `stime` of `/proc/PID/stat`.

use shmworker::{
    Pool, Tasks,
    pool::{Builder, StartError, Task},
};
use std::{
    error::Error,
    fs,
    time::{Duration, Instant},
};

/// What workers have to do before they are measured: a task that has touched nothing has cost nothing.
const WORK: Task<u64, u64> = Task::named("work");
const COUNTS: [usize; 4] = [1, 2, 16, 64];

type Start = fn(Builder) -> Result<Pool, StartError>;
const METHODS: [(&str, Start); 3] =
    [("fork", |builder| builder.fork(tasks())), ("forkserver", Builder::forkserver), ("exec", Builder::exec)];

fn tasks() -> Tasks {
    let mut tasks = Tasks::new();
    tasks.function("work", |n: u64| (0..n).fold(n, |hash, i| (hash ^ i).wrapping_mul(0x0100_0000_01b3)));
    tasks
}

fn main() -> Result<(), Box<dyn Error>> {
    shmworker::init(tasks);
    let rest = Duration::from_secs(std::env::args().nth(1).map_or(Ok(10), |seconds| seconds.parse())?);
    println!(
        "| start method | workers | start | first answer | PSS of all | each further worker | CPU at rest, {rest:?} |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|");
    for (method, start) in METHODS {
        let mut first = 0;
        for workers in COUNTS {
            let begin = Instant::now();
            let pool = start(Pool::builder().workers(workers))?;
            let started = begin.elapsed();
            pool.submit(WORK, &1)?.wait()?;
            let answered = begin.elapsed();
            pool.for_each(WORK, (0..1000 * workers as u64).map(|_| 10_000))?;

            let processes = processes_of(&pool)?;
            let pss = sum(&processes, pss_kib)?;
            first = if workers == 1 { pss } else { first };
            let further = (workers > 1).then(|| format!("{} KiB", pss.saturating_sub(first) / (workers as u64 - 1)));
            let before = sum(&processes, cpu_ticks)?;
            std::thread::sleep(rest);
            let ticks = sum(&processes, cpu_ticks)? - before;
            println!(
                "| `{method}` | {workers} | {started:.1?} | {answered:.1?} | {:.1} MiB | {} | {ticks} ticks |",
                pss as f64 / 1024.0,
                further.unwrap_or_default(),
            );
            pool.join()?;
        }
    }
    Ok(())
}

/// This process, the coordinator, and its children.
fn processes_of(pool: &Pool) -> Result<Vec<u32>, Box<dyn Error>> {
    let coordinator = pool.coordinator_pid();
    let children = fs::read_to_string(format!("/proc/{coordinator}/task/{coordinator}/children"))?;
    let children = children.split_whitespace().map(str::parse).collect::<Result<Vec<u32>, _>>()?;
    Ok([std::process::id(), coordinator].into_iter().chain(children).collect())
}

fn sum(processes: &[u32], of: fn(u32) -> Result<u64, Box<dyn Error>>) -> Result<u64, Box<dyn Error>> {
    processes.iter().map(|&pid| of(pid)).sum()
}

fn pss_kib(pid: u32) -> Result<u64, Box<dyn Error>> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("no Pss in smaps_rollup")?;
    Ok(line.trim_end_matches("kB").trim().parse()?)
}

/// Of which there are 100 a second.
fn cpu_ticks(pid: u32) -> Result<u64, Box<dyn Error>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything.
    let fields: Vec<_> = stat.rsplit_once(") ").ok_or("no name in stat")?.1.split(' ').collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}
