//! A pool in a tokio program: many async tasks await what worker processes compute, and no thread of the runtime blocks.
//!
//! `cargo run --release --no-default-features --features pool --example tokio_app`

use shmworker::{
    Pool, Tasks,
    pool::{StartError, Task},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Every process of the program builds the same table by this function.
fn register() -> (Tasks, Task<u64, (u32, u64)>) {
    let mut tasks = Tasks::new();
    let collatz = tasks.function("collatz", |below: u64| (std::process::id(), longest_chain(below)));
    (tasks, collatz)
}

fn main() -> Result<(), StartError> {
    // First of all, before the runtime has threads. In the pool's own processes this line does not return.
    shmworker::init(|| register().0);
    app()
}

#[tokio::main]
async fn app() -> Result<(), StartError> {
    let pool = Arc::new(Pool::builder().workers(4).forkserver()?);
    let (_, collatz) = register();

    let requests: Vec<_> = (1..=64)
        .map(|i| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.submit(collatz, &(i * 2_000)).expect("the pool runs").await })
        })
        .collect();
    // The runtime serves its timers all the while.
    let ticker = tokio::spawn(async {
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        loop {
            ticks.tick().await;
        }
    });

    let mut by_process = BTreeMap::<u32, u32>::new();
    let mut longest = 0;
    for request in requests {
        let (process, length) = request.await.expect("no task panics").expect("no worker dies");
        *by_process.entry(process).or_default() += 1;
        longest = longest.max(length);
    }
    ticker.abort();
    println!("the longest Collatz chain below 128,000 has {longest} steps");
    for (process, n) in by_process {
        println!("  process {process} answered {n} requests");
    }
    Ok(())
}

/// Steps from the start below `below` that takes the most of them down to 1.
fn longest_chain(below: u64) -> u64 {
    let steps = |mut n: u64| {
        let mut steps = 0;
        while n > 1 {
            n = if n.is_multiple_of(2) { n / 2 } else { 3 * n + 1 };
            steps += 1;
        }
        steps
    };
    (1..below).map(steps).max().unwrap_or(0)
}
