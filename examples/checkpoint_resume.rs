//! A long computation that is killed twice, and each time goes on from its last checkpoint: the next attempt, in another process,
//! finds in shared memory what the dead one had.
//!
//! `cargo run --release --no-default-features --features pool --example checkpoint_resume`

use shmworker::{
    Pool, Tasks,
    pool::{Context, Failure, TaskOptions},
};

const BELOW: u64 = 4_000_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut tasks = Tasks::new();
    let count = tasks.handler("count primes", count_primes);
    let pool = Pool::builder().workers(1).fork(tasks)?;

    let finished = pool.submit_with(count, &BELOW, &TaskOptions::new().attempts(3))?.finish();
    println!("{} primes below {BELOW}, after {} attempts", finished.result?, finished.attempts);

    // Without attempts left the blame says how far it came.
    let died = pool.submit(count, &BELOW)?.wait();
    println!("and with one attempt: {}", died.map_or_else(|e| e.to_string(), |n| n.to_string()));
    pool.join()?;
    Ok(())
}

fn count_primes(context: &Context<'_>, below: u64) -> Result<u64, Failure> {
    let (mut n, mut primes) = match context.last_checkpoint()? {
        Some(bytes) => {
            let (n, primes) = bytes.split_at(8);
            (u64::from_le_bytes(n.try_into()?), u64::from_le_bytes(primes.try_into()?))
        }
        None => (0, 0),
    };
    println!("attempt {} in process {} begins at {n}", context.attempt(), std::process::id());
    while n < below {
        primes += u64::from(is_prime(n));
        n += 1;
        if n.is_multiple_of(100_000) {
            context.checkpoint(&[n.to_le_bytes(), primes.to_le_bytes()].concat())?;
            context.progress(n, below);
        }
        // Some way past the last checkpoint: what came after it is done again.
        if context.attempt() <= 2 && n == u64::from(context.attempt()) * below / 3 {
            println!("attempt {} is killed at {n}", context.attempt());
            kill_this_process();
        }
    }
    Ok(primes)
}

fn is_prime(n: u64) -> bool {
    n > 1 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

/// As an operator would, or the out-of-memory killer: no handler sees it coming.
fn kill_this_process() {
    let _ = std::process::Command::new("sh").args(["-c", "kill -9 $PPID"]).status();
}
