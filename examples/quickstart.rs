//! A pool in a few lines: four processes, one hundred tasks, one sum.
//!
//! `cargo run --release --example quickstart`

use shmworker::{Pool, Tasks};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut tasks = Tasks::new();
    let square = tasks.function("square", |x: u64| (x * x, std::process::id()));

    let pool = Pool::builder().workers(4).fork(tasks)?;
    let handles: Vec<_> = (0..100).map(|x| pool.submit(square, &x)).collect::<Result<_, _>>()?;
    let mut processes = std::collections::BTreeSet::new();
    let mut sum = 0;
    for handle in handles {
        let (square, process) = handle.wait()?;
        sum += square;
        processes.insert(process);
    }
    println!("the sum is {sum}, by {} processes", processes.len());
    pool.join()?;
    Ok(())
}
