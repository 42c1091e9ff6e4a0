//! Different functions with different arguments in one batch, each under a label. All are waited for, whatever becomes of the
//! others; then comes a table of how each went. **It ends with exit code 1**, since some are made to fail.
//!
//! `cargo run --release --no-default-features --features pool --example heterogeneous`

use shmworker::{
    Pool, Tasks,
    pool::{Failure, Retry, TaskOptions},
};
use std::{process::ExitCode, time::Duration};

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut tasks = Tasks::new();
    let primes = tasks.function("count primes", |below: u64| (2..below).filter(|&n| is_prime(n)).count());
    let words =
        tasks.handler("count words", |_, path: String| Ok(std::fs::read_to_string(path)?.split_whitespace().count()));
    let average = tasks.function("average", |numbers: Vec<u64>| numbers.iter().sum::<u64>() / numbers.len() as u64);
    let leave = tasks.function("leave", |code: i32| -> () { std::process::exit(code) });
    let spin = tasks.handler("spin", |context, ()| -> Result<(), Failure> {
        loop {
            context.check()?;
            std::hint::spin_loop();
        }
    });

    let pool = Pool::builder().workers(3).fork(tasks)?;
    let mut counted = None;
    let report = pool.scope(|scope| {
        counted = Some(scope.submit("primes below 200,000", primes, &200_000)?);
        scope.submit("words of a file", words, &"/proc/version".to_owned())?;
        scope.submit("a file that is not there", words, &"/no/such/file".to_owned())?;
        scope.submit("the average of none", average, &vec![])?;
        let twice = TaskOptions::new().attempts(2).retry_on([Retry::Died]);
        scope.submit_with("exit(3), twice", leave, &3, &twice)?;
        let brief = TaskOptions::new().timeout(Duration::from_millis(50));
        scope.submit_with("an endless loop", spin, &(), &brief)?;
        Ok(())
    })?;

    print!("{report}");
    println!("{} of {} were not done", report.failed().count(), report.rows.len());
    if let Some(handle) = counted {
        println!("there are {} primes below 200,000", handle.wait()?);
    }
    pool.join()?;
    Ok(ExitCode::from(report.exit_code()))
}

fn is_prime(n: u64) -> bool {
    (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}
