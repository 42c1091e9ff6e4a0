//! What a pool does.

use super::{
    BATCH, BURSTS, BenchError, Cpus, Message, batches, payload,
    stage::{Pinned, pin},
};
use crate::{
    Pool, Tasks,
    pool::{Handle, Pods, Task, TaskOptions},
    process::spawn::state,
};
use nix::unistd::Pid;
use std::{
    collections::VecDeque,
    thread,
    time::{Duration, Instant},
};

/// Tasks under way at once.
const OUTSTANDING: usize = 1024;
/// The first trips touch memory, and are not counted.
const WARM_UP: usize = 3;
/// In which a worker without tasks goes to sleep.
const PATIENCE: Duration = Duration::from_secs(5);

type Words = Pods<u64>;

fn echo(tasks: &mut Tasks) -> Task<Words, Words> {
    tasks.in_place("echo", |_, input, mut output| output.write(input))
}

/// A pool of one worker, on the other CPU.
fn pool_of_one(mut tasks: Tasks, cpus: Cpus) -> Result<Pool, BenchError> {
    tasks.on_start(move || Ok(pin(cpus.there)?));
    Ok(Pool::builder().workers(1).fork(tasks)?)
}

fn check(handle: Handle<Words>, expected: &Message) -> Result<(), BenchError> {
    if handle.wait_in_place()?[..] == expected[..] { Ok(()) } else { Err(BenchError::Wrong) }
}

pub(super) fn busy(cpus: Cpus, slot: Duration) -> Result<Vec<f64>, BenchError> {
    let mut tasks = Tasks::new();
    let echo = echo(&mut tasks);
    // The pool first: it asks how many CPUs it may use.
    let pool = pool_of_one(tasks, cpus)?;
    let here = Pinned::to(cpus.here)?;
    let mut n = 0;
    let values = batches(slot, BATCH, || {
        n += 1;
        check(pool.submit(echo, &[n; 8])?, &[n; 8])
    })?;
    drop(here);
    pool.join()?;
    Ok(values)
}

pub(super) fn asleep(cpus: Cpus, slot: Duration) -> Result<Vec<f64>, BenchError> {
    let mut tasks = Tasks::new();
    let echo = echo(&mut tasks);
    let pool = pool_of_one(tasks, cpus)?;
    let here = Pinned::to(cpus.here)?;
    let first = pool.submit(echo, &[0; 8])?.finish();
    first.result?;
    let Some(worker) = first.worker else { return Err(BenchError::Wrong) };
    let (start, mut values) = (Instant::now(), Vec::new());
    while values.len() <= WARM_UP || start.elapsed() < slot {
        await_sleep(worker.pid)?;
        let begun = Instant::now();
        check(pool.submit(echo, &[7; 8])?, &[7; 8])?;
        values.push(begun.elapsed().as_nanos() as f64);
    }
    drop(here);
    pool.join()?;
    Ok(values.split_off(WARM_UP))
}

fn await_sleep(pid: u32) -> Result<(), BenchError> {
    let start = Instant::now();
    while state(Pid::from_raw(pid as i32)) != Some('S') {
        if start.elapsed() > PATIENCE {
            return Err(BenchError::Awake(PATIENCE));
        }
        thread::yield_now();
    }
    Ok(())
}

pub(super) fn throughput(workers: usize, slot: Duration) -> Result<Vec<f64>, BenchError> {
    let mut tasks = Tasks::new();
    let echo = echo(&mut tasks);
    let pool = Pool::builder().workers(workers).fork(tasks)?;
    let submit = |n| Ok::<_, BenchError>((n, pool.submit(echo, &[n; 8])?));
    let mut under_way: VecDeque<_> = (0..OUTSTANDING as u64).map(submit).collect::<Result<_, _>>()?;
    let mut next = OUTSTANDING as u64;
    let mut turn = || {
        let Some((n, oldest)) = under_way.pop_front() else { return Err(BenchError::Wrong) };
        check(oldest, &[n; 8])?;
        under_way.push_back(submit(next)?);
        next += 1;
        Ok(())
    };
    let each = batches(slot, BURSTS, &mut turn)?;
    drop(under_way);
    pool.join()?;
    Ok(each.into_iter().map(|ns| 1e9 / ns).collect())
}

pub(super) fn in_place(cpus: Cpus, slot: Duration) -> Result<Vec<f64>, BenchError> {
    let mut tasks = Tasks::new();
    let sum = tasks.in_place::<Words, Words>("sum", |_, words, mut output| output.write(&[payload::sum(words); 8]));
    let pool = pool_of_one(tasks, cpus)?;
    let here = Pinned::to(cpus.here)?;
    let mut n = 0;
    let values = batches(slot, BATCH, || {
        n += 1;
        let handle =
            pool.submit_in_place(sum, payload::WORDS, &TaskOptions::new(), |words| payload::write(words, n))?;
        check(handle, &[payload::expected(n); 8])
    })?;
    drop(here);
    pool.join()?;
    Ok(values)
}
