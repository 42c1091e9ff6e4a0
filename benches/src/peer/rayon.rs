//! rayon: threads of one process, and a work-stealing deque for each.

use crate::{
    Figures, Result, Skip,
    case::{Case, Placement},
    measure,
    stage::{Cpus, Wait, await_sleep, pin},
};
use crossbeam_queue::ArrayQueue;
use nix::unistd::gettid;
use rayon::{
    ThreadPool, ThreadPoolBuilder,
    iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator},
};
use shmworker_benches::Unit;
use std::{hint::black_box, sync::Arc, time::Instant};

pub(crate) fn run(case: &Case) -> Result<Figures> {
    match *case {
        Case::RoundTrip { placement, n, each } => {
            let cpus = Cpus::of(placement)?;
            let pool = pool(1)?;
            let worker = pool.install(|| pin(cpus.there).map(|()| gettid()))?.as_raw() as u32;
            pin(cpus.here)?;
            let trip = |sent: &measure::Message| Ok(pool.install(|| black_box(*sent)));
            match placement {
                Placement::Asleep => measure::asleep(n, || await_sleep(worker), trip),
                _ => measure::trips(n, each, trip),
            }
        }
        Case::Throughput { workers, outstanding, n } => {
            let pool = pool(workers)?;
            let back = Arc::new(ArrayQueue::new(outstanding));
            let wait = Wait::among(workers + 1);
            measure::window(
                outstanding,
                n,
                |x| {
                    let (back, message) = (back.clone(), [x; 8]);
                    pool.spawn(move || back.push(black_box(message)).expect("room for all that are under way"));
                    Ok(())
                },
                || Ok(wait.until(|| back.pop())[7]),
            )
        }
        Case::Map { items, chunked, workers } => {
            let pool = pool(workers)?;
            let begun = Instant::now();
            // In the order of the inputs, to be consumed by the caller.
            let squares: Vec<u64> = pool.install(|| {
                let squares = (0..items as usize).into_par_iter().map(|x| (x as u64).wrapping_mul(x as u64));
                if chunked { squares.collect() } else { squares.with_max_len(1).collect() }
            });
            let sum = squares.into_iter().fold(0, u64::wrapping_add);
            let took = begun.elapsed().as_secs_f64();
            if sum != measure::sum_of_squares(items) {
                return Err("the sum of the squares is wrong".into());
            }
            Ok((Unit::PerS, vec![items as f64 / took]))
        }
        Case::Start { workers } => {
            let begun = Instant::now();
            black_box(pool(workers)?.broadcast(|_| std::process::id()));
            Ok((Unit::Ns, vec![begun.elapsed().as_nanos() as f64]))
        }
        _ => Skip::because("threads need no copy, no memory of their own, and no recovery: a death takes all"),
    }
}

fn pool(workers: usize) -> Result<ThreadPool> {
    Ok(ThreadPoolBuilder::new().num_threads(workers).build()?)
}
