//! A pool in a few lines: four processes count the primes below a million.
//!
//! `cargo run --release --no-default-features --features pool --example quickstart`

use shmworker::{Pool, Tasks};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut tasks = Tasks::new();
    let count = tasks.function("count primes", |(from, to): (u64, u64)| {
        let primes = (from..to).filter(|&n| is_prime(n)).count();
        (primes, std::process::id())
    });

    let pool = Pool::builder().workers(4).fork(tasks)?;
    let ranges = (0..100).map(|i| (i * 10_000, (i + 1) * 10_000));
    let handles: Vec<_> = ranges.map(|range| pool.submit(count, &range)).collect::<Result<_, _>>()?;

    let mut processes = std::collections::BTreeSet::new();
    let mut sum = 0;
    for handle in handles {
        let (primes, process) = handle.wait()?;
        sum += primes;
        processes.insert(process);
    }
    println!("{sum} primes below 1,000,000, counted by {} processes", processes.len());
    pool.join()?;
    Ok(())
}

fn is_prime(n: u64) -> bool {
    n > 1 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}
