//! Plain numbers cross as they lie in memory: the caller writes a picture straight into shared memory, a worker reads it there
//! and writes its result there, and the caller reads that there. Beside it the same through `serde`, which encodes and copies.
//!
//! `cargo run --release --no-default-features --features pool --example zero_copy_pod`

use shmworker::{
    Pool, Tasks,
    pool::{Pods, TaskOptions},
};
use std::time::Instant;

const SIDE: usize = 1024;
const ROUNDS: u32 = 50;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut tasks = Tasks::new();
    let blur = tasks.in_place::<Pods<f32>, Pods<f32>>("blur", |_, picture, mut output| {
        blur_into(picture, output.reserve(picture.len())?);
        Ok(())
    });
    let blur_by_serde = tasks.function("blur by serde", |picture: Vec<f32>| {
        let mut output = vec![0.0; picture.len()];
        blur_into(&picture, &mut output);
        output
    });

    let pool = Pool::builder().workers(1).fork(tasks)?;
    let fill = |pixels: &mut [f32]| pixels.iter_mut().enumerate().for_each(|(i, p)| *p = (i % 256) as f32);
    let bytes = (SIDE * SIDE * size_of::<f32>()) as f64;
    let report = |how: &str, since: Instant, mean: f32| {
        let each = since.elapsed() / ROUNDS;
        let rate = 2.0 * bytes / each.as_secs_f64() / 1e6;
        println!(
            "{how:10} {:>8.2?} per picture of {:.0} MB, {rate:6.0} MB/s there and back, mean {mean:.3}",
            each,
            bytes / 1e6
        );
    };

    let start = Instant::now();
    let mut sum = 0.0;
    for _ in 0..ROUNDS {
        let handle = pool.submit_in_place(blur, SIDE * SIDE, &TaskOptions::new(), fill)?;
        // A slice in shared memory, for as long as `blurred` lives.
        let blurred = handle.wait_in_place()?;
        sum = mean(&blurred);
    }
    report("in place", start, sum);

    let start = Instant::now();
    for _ in 0..ROUNDS {
        let mut picture = vec![0.0; SIDE * SIDE];
        fill(&mut picture);
        sum = mean(&pool.submit(blur_by_serde, &picture)?.wait()?);
    }
    report("by serde", start, sum);

    pool.join()?;
    Ok(())
}

/// Each pixel becomes the mean of itself and its neighbours in its row.
fn blur_into(picture: &[f32], output: &mut [f32]) {
    for (row, out) in picture.chunks_exact(SIDE).zip(output.chunks_exact_mut(SIDE)) {
        (out[0], out[SIDE - 1]) = (row[0], row[SIDE - 1]);
        for (out, near) in out[1..].iter_mut().zip(row.windows(3)) {
            *out = (near[0] + near[1] + near[2]) / 3.0;
        }
    }
}

fn mean(pixels: &[f32]) -> f32 {
    (pixels.iter().map(|&p| f64::from(p)).sum::<f64>() / pixels.len() as f64) as f32
}
