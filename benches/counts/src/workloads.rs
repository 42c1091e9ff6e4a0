//! What is played under callgrind, and which functions of it are counted.

use shmworker::{
    Tasks,
    bench_support::counts::{Ends, OneThread},
    pool::{Handle, Task},
};
use std::error::Error;

/// Tasks, or items of a map, that each workload plays.
pub(crate) const OPERATIONS: u64 = 20 * CHUNK as u64;
/// Tasks under way at once, where they are many.
const DEEP: u64 = 1000;
/// Items of a chunk.
const CHUNK: usize = 1024;
/// Single items that a map submits together, at most; [`CHUNK`] is a multiple of it.
const BATCH: usize = 32;

/// A function whose cost is counted, all that it calls included, while a workload is played.
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) workload: Workload,
    pub(crate) function: &'static str,
}

const fn figure(name: &'static str, workload: Workload, function: &'static str) -> Figure {
    Figure { name, workload, function }
}

const SUBMIT: &str = "shmworker::bench_support::counts::submit";
const CLAIM: &str = "shmworker::bench_support::counts::claim";
const COMPLETE: &str = "shmworker::bench_support::counts::complete";
const TAKE: &str = "shmworker::bench_support::counts::take";
const POOL_SUBMIT: &str = "shmworker_counts::workloads::pool_submit";
const POOL_RUN: &str = "shmworker_counts::workloads::pool_run";
const POOL_WAIT: &str = "shmworker_counts::workloads::pool_wait";
const POOL_MAP: &str = "shmworker_counts::workloads::pool_map";

/// `/1`: one task under way; `/1000`: so many. `map/item`: both ends; `map/item-run`: its worker's share. `map/one`: as
/// `map/item`, where each item is a task by itself.
pub(crate) const FIGURES: &[Figure] = &[
    figure("submit/1", Workload::Ends1, SUBMIT),
    figure("claim/1", Workload::Ends1, CLAIM),
    figure("complete/1", Workload::Ends1, COMPLETE),
    figure("take/1", Workload::Ends1, TAKE),
    figure("submit/1000", Workload::Ends1000, SUBMIT),
    figure("claim/1000", Workload::Ends1000, CLAIM),
    figure("complete/1000", Workload::Ends1000, COMPLETE),
    figure("take/1000", Workload::Ends1000, TAKE),
    figure("pool-submit/1", Workload::Pool1, POOL_SUBMIT),
    figure("pool-run/1", Workload::Pool1, POOL_RUN),
    figure("pool-wait/1", Workload::Pool1, POOL_WAIT),
    figure("pool-submit/1000", Workload::Pool1000, POOL_SUBMIT),
    figure("pool-run/1000", Workload::Pool1000, POOL_RUN),
    figure("pool-wait/1000", Workload::Pool1000, POOL_WAIT),
    figure("map/item", Workload::Map, POOL_MAP),
    figure("map/item-run", Workload::Map, POOL_RUN),
    figure("map/one", Workload::MapOne, POOL_MAP),
    figure("map/one-run", Workload::MapOne, POOL_RUN),
];

#[derive(Clone, Copy, Debug)]
pub(crate) enum Workload {
    /// The steps of tasks of 64 bytes between two endpoints.
    Ends1,
    Ends1000,
    /// Tasks of a pool that take 64 bytes and give them back.
    Pool1,
    Pool1000,
    /// A map over integers, in chunks, or one by one.
    Map,
    MapOne,
}

impl Workload {
    const ALL: [Workload; 6] =
        [Workload::Ends1, Workload::Ends1000, Workload::Pool1, Workload::Pool1000, Workload::Map, Workload::MapOne];

    pub(crate) fn name(self) -> String {
        format!("{self:?}")
    }

    pub(crate) fn named(name: &str) -> Result<Workload, Box<dyn Error>> {
        let found = Workload::ALL.into_iter().find(|workload| workload.name() == name);
        Ok(found.ok_or_else(|| format!("there is no workload '{name}'"))?)
    }

    pub(crate) fn play(self) -> Result<(), Box<dyn Error>> {
        match self {
            Workload::Ends1 => play_ends(1),
            Workload::Ends1000 => play_ends(DEEP),
            Workload::Pool1 => play_pool(1),
            Workload::Pool1000 => play_pool(DEEP),
            Workload::Map => play_map(CHUNK),
            Workload::MapOne => play_map(1),
        }
    }
}

fn play_ends(depth: u64) -> Result<(), Box<dyn Error>> {
    let ends = Ends::new()?;
    (0..OPERATIONS / depth).try_for_each(|_| ends.play(depth))
}

type Words = [u64; 8];
type Echo = Task<Pods, Pods>;
type Pods = shmworker::pool::Pods<u64>;

fn play_pool(depth: u64) -> Result<(), Box<dyn Error>> {
    let mut tasks = Tasks::new();
    let echo = tasks.in_place::<Pods, Pods>("echo", |_, input, mut output| output.write(input));
    let pool = OneThread::new(tasks)?;
    let mut handles = Vec::new();
    for _ in 0..OPERATIONS / depth {
        for n in 0..depth {
            handles.push(pool_submit(&pool, echo, &[n; 8])?);
        }
        for _ in 0..depth {
            pool_run(&pool)?;
        }
        for (n, handle) in (0..depth).zip(handles.drain(..)) {
            if pool_wait(handle)? != [n; 8] {
                return Err("another output came back than the input that was submitted".into());
            }
        }
    }
    Ok(())
}

#[inline(never)]
fn pool_submit(pool: &OneThread, echo: Echo, input: &Words) -> Result<Handle<Pods>, Box<dyn Error>> {
    Ok(pool.submit(echo, input)?)
}

#[inline(never)]
fn pool_run(pool: &OneThread) -> Result<(), Box<dyn Error>> {
    if pool.work()? { Ok(()) } else { Err("there is no task".into()) }
}

#[inline(never)]
fn pool_wait(handle: Handle<Pods>) -> Result<Words, Box<dyn Error>> {
    Ok(handle.wait()?[..].try_into()?)
}

fn play_map(chunk: usize) -> Result<(), Box<dyn Error>> {
    let mut tasks = Tasks::new();
    let square = tasks.function("square", |x: u64| x * x);
    let pool = OneThread::new(tasks)?;
    // Not counted: who takes the first blocks asks the machine for its limits, which is as long as it has mounts.
    let expected: u64 = (0..OPERATIONS).map(|x| x * x).sum();
    for sum in [map(&pool, square, chunk, |pool| pool.work().map(drop))?, pool_map(&pool, square, chunk)?] {
        if sum != expected {
            return Err(format!("the sum is {sum}, and should be {expected}").into());
        }
    }
    Ok(())
}

#[inline(never)]
fn pool_map(pool: &OneThread, square: Task<u64, u64>, chunk: usize) -> Result<u64, Box<dyn Error>> {
    map(pool, square, chunk, pool_run)
}

/// The inputs stand for the other process: as often as so many have been asked for as a chunk has at most, and after the last,
/// they are run.
fn map(
    pool: &OneThread,
    square: Task<u64, u64>,
    chunk: usize,
    run: impl Fn(&OneThread) -> Result<(), Box<dyn Error>>,
) -> Result<u64, Box<dyn Error>> {
    let run_all = || (0..CHUNK / chunk).for_each(|_| run(pool).expect("a task"));
    let inputs = (0..OPERATIONS).inspect(|n| {
        if *n > 0 && n % CHUNK as u64 == 0 {
            run_all();
        }
    });
    let inputs = inputs.chain(std::iter::from_fn(|| {
        run_all();
        None
    }));
    // A chunk or batch more than are run at once: it is as the first of that is asked for that they are.
    Ok(pool
        .map(square, inputs)
        .chunk_size(chunk)
        .in_flight(CHUNK.div_ceil(chunk) + BATCH.div_ceil(chunk))
        .sum::<Result<u64, _>>()?)
}
