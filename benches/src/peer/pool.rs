//! Ours as users have it: a `Pool`, with its coordinator, its supervision and its time stamps.

use crate::{
    Figures, Result, Skip,
    case::{Case, Mode, Placement},
    measure::{self, Answer, Message, bytes_of, message},
    stage::{Cpus, await_sleep, pin, shared},
};
use nix::{
    sys::signal::{Signal, kill},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};
use shmworker::{
    Pool, Tasks,
    pool::{Bytes, Handle, Pods, Task, TaskOptions},
};
use shmworker_benches::Unit;
use std::{
    cell::RefCell,
    collections::VecDeque,
    fs,
    hint::{black_box, spin_loop},
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
    thread,
    time::{Duration, Instant},
};

pub(crate) fn run(case: &Case) -> Result<Figures> {
    match *case {
        Case::RoundTrip { placement, n, each } => round_trip(placement, n, each),
        Case::Throughput { workers, outstanding, n } => throughput(workers, outstanding, n),
        Case::Payload { bytes, mode, n } => payload(bytes, mode, n),
        Case::Map { items, chunked, workers } => map(items, chunked, workers),
        Case::Start { workers } => {
            let begun = Instant::now();
            let crew = Crew::start(workers)?;
            let took = begun.elapsed().as_nanos() as f64;
            drop(crew);
            Ok((Unit::Ns, vec![took]))
        }
        Case::Memory { workers } => {
            let pss = |workers| -> Result<f64> { Crew::start(workers)?.pids()?.into_iter().map(pss).sum() };
            let (one, all) = (pss(1)?, pss(workers)?);
            Ok((Unit::Bytes, vec![(all - one) / (workers - 1) as f64]))
        }
        Case::Rest { seconds, workers } => rest(seconds, workers),
        Case::Recovery { workers, n } => recovery(workers, n),
        Case::Respawn { n } => respawn(n),
        Case::Lane { .. } => Skip::because("it is more than a ring"),
    }
}

fn echo(tasks: &mut Tasks) -> Task<Bytes, Bytes> {
    tasks.in_place("echo", |_, input, mut output| output.write(input))
}

fn wait(handle: Handle<Bytes>) -> Result<Message> {
    Ok(message(&handle.wait_in_place()?))
}

fn round_trip(placement: Placement, n: u64, each: bool) -> Result<Figures> {
    let cpus = Cpus::of(placement)?;
    let mut tasks = Tasks::new();
    let echo = echo(&mut tasks);
    tasks.on_start(move || Ok(pin(cpus.there)?));
    if placement == Placement::OneCore {
        // Before there is a pool: it asks how many CPUs it may use.
        pin(cpus.here)?;
    }
    let pool = Pool::builder().workers(1).fork(tasks)?;
    pin(cpus.here)?;
    let first = pool.submit(echo, bytes_of(&[0; 8]))?.finish();
    let worker = first.worker.ok_or("the first task names no worker")?.pid;
    let trip = |sent: &Message| wait(pool.submit(echo, bytes_of(sent))?);
    match placement {
        Placement::Asleep => measure::asleep(n, || await_sleep(worker), trip),
        _ => measure::trips(n, each, trip),
    }
}

/// A pool whose tasks are echoes.
fn echoes(workers: usize) -> Result<(Pool, Task<Bytes, Bytes>)> {
    let mut tasks = Tasks::new();
    let echo = echo(&mut tasks);
    // Two sides have a CPU each, as those of other peers that spin.
    let cpus = if workers == 1 { Some(Cpus::of(Placement::TwoCores)?) } else { None };
    if let Some(cpus) = cpus {
        tasks.on_start(move || Ok(pin(cpus.there)?));
    }
    let pool = Pool::builder().workers(workers).fork(tasks)?;
    cpus.map_or(Ok(()), |cpus| pin(cpus.here))?;
    Ok((pool, echo))
}

/// By `map`: a task for each item.
fn throughput(workers: usize, outstanding: usize, n: u64) -> Result<Figures> {
    let (pool, echo) = echoes(workers)?;
    let inputs = (0u64..).map(|x| bytes_of(&[x; 8]).to_vec());
    let mut results = pool.map(echo, inputs).chunk_size(1).in_flight(outstanding).unordered();
    measure::flow(n, || {
        let (number, result) = results.next().ok_or("nothing is under way")?;
        Ok((number, message(&result?)[7]))
    })
}

/// As `Pool` does, but with a handle for each task.
pub(crate) fn run_handles(case: &Case) -> Result<Figures> {
    let Case::Throughput { workers, outstanding, n } = *case else {
        return Skip::because("with one task at a time it is the pool");
    };
    let (pool, echo) = echoes(workers)?;
    let under_way = RefCell::new(VecDeque::with_capacity(outstanding));
    measure::window(
        outstanding,
        n,
        |x| {
            under_way.borrow_mut().push_back(pool.submit(echo, bytes_of(&[x; 8]))?);
            Ok(())
        },
        || {
            let oldest = under_way.borrow_mut().pop_front().ok_or("nothing is under way")?;
            Ok(wait(oldest)?[7])
        },
    )
}

fn payload(bytes: usize, mode: Mode, n: u64) -> Result<Figures> {
    let mut tasks = Tasks::new();
    let digest = tasks.in_place::<Pods<u64>, Bytes>("digest", |_, words, mut output| {
        output.write(bytes_of(&Answer::Digest.of(bytemuck::cast_slice(words))))
    });
    let cpus = Cpus::of(Placement::TwoCores)?;
    tasks.on_start(move || Ok(pin(cpus.there)?));
    let pool = Pool::builder().workers(1).fork(tasks)?;
    pin(cpus.here)?;
    match mode {
        Mode::Copied => measure::copied(bytes, n, |payload| wait(pool.submit(digest, bytemuck::cast_slice(payload))?)),
        Mode::InPlace | Mode::Built => measure::in_place(bytes, mode, n, |write| {
            wait(pool.submit_in_place(digest, bytes / 8, &TaskOptions::new(), write)?)
        }),
    }
}

fn map(items: u64, chunked: bool, workers: usize) -> Result<Figures> {
    let mut tasks = Tasks::new();
    let square = tasks.function("square", |x: u64| x.wrapping_mul(x));
    let pool = Pool::builder().workers(workers).fork(tasks)?;
    let all = |items| {
        let map = pool.map(square, 0..items);
        let map = if chunked { map } else { map.chunk_size(1).in_flight(1024) };
        map.into_iter().try_fold(0u64, |sum, square| Ok::<_, shmworker::pool::TaskError>(sum.wrapping_add(square?)))
    };
    black_box(all(items / 10)?);
    let begun = Instant::now();
    let sum = all(items)?;
    let took = begun.elapsed().as_secs_f64();
    if sum != measure::sum_of_squares(items) {
        return Err("the sum of the squares is wrong".into());
    }
    Ok((Unit::PerS, vec![items as f64 / took]))
}

/// A pool, each of whose workers has done a task.
struct Crew {
    pool: Pool,
    workers: Vec<u32>,
}

impl Crew {
    fn start(workers: usize) -> Result<Crew> {
        // SAFETY: an atomic.
        let here: &AtomicU64 = &unsafe { shared(1) }?[0];
        let mut tasks = Tasks::new();
        // Nobody's ends before all have begun: so each worker has one.
        let meet = tasks.function("meet", move |all: u64| {
            here.fetch_add(1, Relaxed);
            while here.load(Relaxed) < all {
                thread::yield_now();
            }
            std::process::id()
        });
        let pool = Pool::builder().workers(workers).fork(tasks)?;
        let handles: Vec<_> =
            (0..workers).map(|_| pool.submit(meet, &(workers as u64))).collect::<std::result::Result<_, _>>()?;
        let workers = handles.into_iter().map(Handle::wait).collect::<std::result::Result<_, _>>()?;
        Ok(Crew { pool, workers })
    }

    /// This process, the coordinator and the workers.
    fn pids(&self) -> Result<Vec<u32>> {
        let mut pids = self.workers.clone();
        pids.extend([std::process::id(), self.pool.coordinator_pid()]);
        Ok(pids)
    }
}

/// The process's share of the memory that it has mapped, in bytes.
fn pss(pid: u32) -> Result<f64> {
    Ok(field(&format!("/proc/{pid}/smaps_rollup"), "Pss:")? * 1024.0)
}

fn field(path: &str, name: &str) -> Result<f64> {
    let text = fs::read_to_string(path)?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    Ok(value.ok_or_else(|| format!("{path} has no {name:?}"))?.parse()?)
}

/// CPU ticks and voluntary context switches while nothing is to do: of all threads of all processes but the one that looks.
fn rest(seconds: u64, workers: usize) -> Result<Figures> {
    let crew = Crew::start(workers)?;
    let used = || -> Result<[f64; 2]> {
        let mut sum = [0.0; 2];
        for pid in crew.pids()? {
            for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
                let path = thread?.path();
                if path.file_name().is_some_and(|tid| tid == std::process::id().to_string().as_str()) {
                    continue;
                }
                let path = path.to_string_lossy().into_owned();
                let stat = fs::read_to_string(format!("{path}/stat"))?;
                // utime and stime are the 12th and 13th field behind the name (proc_pid_stat(5)).
                let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').skip(11).take(2));
                for ticks in fields.into_iter().flatten() {
                    sum[0] += ticks.parse::<f64>()?;
                }
                sum[1] += field(&format!("{path}/status"), "voluntary_ctxt_switches:")?;
            }
        }
        Ok(sum)
    };
    // Who has just worked may look for more, for a while.
    thread::sleep(Duration::from_millis(500));
    let before = used()?;
    thread::sleep(Duration::from_secs(seconds));
    let after = used()?;
    Ok((Unit::Count, vec![after[0] - before[0], after[1] - before[1]]))
}

/// Nanoseconds by a clock that all processes share.
fn now() -> u64 {
    let t = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("there is such a clock");
    t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64
}

fn kill_now(pid: u32) -> Result<u64> {
    let killed = now();
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL)?;
    Ok(killed)
}

fn recovery(workers: usize, n: u64) -> Result<Figures> {
    // SAFETY: an atomic.
    let running: &AtomicU64 = &unsafe { shared(1) }?[0];
    let mut tasks = Tasks::new();
    let hold = tasks.handler("hold", move |context, (): ()| {
        if context.attempt() > 1 {
            return Ok(now());
        }
        running.store(std::process::id().into(), Release);
        loop {
            spin_loop(); // until it is killed
        }
    });
    let pool = Pool::builder().workers(workers).fork(tasks)?;
    let options = TaskOptions::new().attempts(2);
    let mut values = Vec::new();
    for _ in 0..n {
        running.store(0, Relaxed);
        let handle = pool.submit_with(hold, &(), &options)?;
        let pid = loop {
            match running.load(Acquire) {
                0 => thread::yield_now(),
                pid => break pid as u32,
            }
        };
        let killed = kill_now(pid)?;
        values.push((handle.wait()? - killed) as f64);
    }
    Ok((Unit::Ns, values))
}

fn respawn(n: u64) -> Result<Figures> {
    let mut tasks = Tasks::new();
    let look = tasks.function("look", |(): ()| (now(), std::process::id()));
    let pool = Pool::builder().workers(1).fork(tasks)?;
    let (_, mut worker) = pool.submit(look, &())?.wait()?;
    let mut values = Vec::new();
    for _ in 0..n {
        await_sleep(worker)?;
        let killed = kill_now(worker)?;
        let (ready, new) = pool.submit_with(look, &(), &TaskOptions::new().attempts(2))?.wait()?;
        if new != worker {
            values.push((ready - killed) as f64);
        }
        worker = new;
    }
    Ok((Unit::Ns, values))
}
