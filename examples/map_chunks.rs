//! The same small function for very many inputs: what it costs to send each by itself, a hundred at a time, or as many as the
//! pool finds out to be worth it.
//!
//! `cargo run --release --no-default-features --features pool --example map_chunks`

use shmworker::{Pool, Tasks};
use std::time::Instant;

const INPUTS: u64 = 300_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut tasks = Tasks::new();
    let steps = tasks.function("collatz", collatz);
    let pool = Pool::builder().workers(2).fork(tasks)?;

    println!("{:24} {:>10} {:>12}", "Collatz steps of", "inputs", "inputs/s");
    let report = |how: &str, inputs: u64, since: Instant, longest: Option<u64>| {
        let rate = inputs as f64 / since.elapsed().as_secs_f64();
        println!("{how:24} {inputs:>10} {rate:>12.0}   longest: {} steps", longest.unwrap_or(0));
    };

    let start = Instant::now();
    report("this process alone", INPUTS, start, (1..=INPUTS).map(collatz).max());

    for chunk in [1, 100] {
        let start = Instant::now();
        let lengths: Vec<u64> = pool.map(steps, 1..=INPUTS).chunk_size(chunk).collect::<Result<_, _>>()?;
        report(&format!("map, {chunk} at a time"), INPUTS, start, lengths.into_iter().max());
    }

    let start = Instant::now();
    let lengths: Vec<u64> = pool.map(steps, 1..=INPUTS).collect::<Result<_, _>>()?;
    report("map", INPUTS, start, lengths.into_iter().max());

    // Inputs are taken and results given as the work goes on: this would go on for ever.
    let start = Instant::now();
    let found = pool.map_unordered(steps, 1..).find_map(|(i, steps)| Some((i + 1, steps.ok().filter(|&n| n > 440)?)));
    let (n, length) = found.ok_or("no input is left")?;
    println!("the first number found that takes more than 440 steps is {n}: {length}, after {:.0?}", start.elapsed());
    pool.join()?;
    Ok(())
}

/// Steps that it takes from `n` down to 1.
fn collatz(mut n: u64) -> u64 {
    let mut steps = 0;
    while n > 1 {
        n = if n.is_multiple_of(2) { n / 2 } else { 3 * n + 1 };
        steps += 1;
    }
    steps
}
