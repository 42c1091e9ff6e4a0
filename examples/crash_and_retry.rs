//! A thousand tasks, of which one kills its worker once and one each time. 998 know nothing of it, one is done by its second
//! attempt, and one is set aside, with what is known of the deaths. The pool goes on.
//!
//! `cargo run --release --no-default-features --features pool --example crash_and_retry`

use shmworker::{
    Pool, Tasks,
    pool::{TaskError, TaskOptions},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut tasks = Tasks::new();
    let digest = tasks.handler("digest", |context, document: u64| {
        // What a fault in a C library does, or the kernel when memory is short.
        if document == 500 && context.attempt() == 1 {
            println!("document 500, attempt 1: process {} aborts", std::process::id());
            std::process::abort();
        }
        if document == 700 {
            println!("document 700, attempt {}: process {} is killed", context.attempt(), std::process::id());
            kill_this_process();
        }
        Ok((0..10_000).fold(document, |hash, i| (hash ^ i).wrapping_mul(0x0100_0000_01b3)))
    });

    let pool = Pool::builder().workers(4).fork(tasks)?;
    let options = TaskOptions::new().attempts(10).max_worker_deaths(2);
    let submit = |document| pool.submit_with(digest, &document, &options).map(|handle| (document, handle));
    let handles: Vec<_> = (0..1000).map(submit).collect::<Result<_, _>>()?;

    let mut done = 0;
    for (document, handle) in handles {
        let finished = handle.finish();
        match finished.result {
            Ok(_) if finished.attempts == 1 => done += 1,
            Ok(digest) => println!("document {document}: {digest:016x}, by attempt {}", finished.attempts),
            Err(TaskError::Died(blame)) => println!("document {document}: {blame}"),
            Err(e) => println!("document {document}: {e}"),
        }
    }
    println!("{done} documents were done by their first attempt");
    println!("the pool goes on: {:016x}", pool.submit(digest, &1)?.wait()?);
    pool.join()?;
    Ok(())
}

/// As an operator would, or the out-of-memory killer: no handler sees it coming.
fn kill_this_process() {
    let _ = std::process::Command::new("sh").args(["-c", "kill -9 $PPID"]).status();
}
