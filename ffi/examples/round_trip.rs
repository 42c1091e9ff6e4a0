//! Round trips from Rust, for comparison with those from C (`benches/c/round_trip.c`): nanoseconds each, one line per kind.
//! They are the median of batches, so that what another process took of a CPU does not count.

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use shmworker::{
    Pool, Tasks,
    pool::{Bytes, TaskOptions},
};
use std::{error::Error, time::Instant};

const BATCH: u32 = 100;
const BATCHES: usize = 200;
const WARM_UP: usize = 20;

fn pin(cpu: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)
}

fn time(name: &str, trips: impl Fn(u32) -> Result<(), Box<dyn Error>>) -> Result<(), Box<dyn Error>> {
    let mut each = Vec::new();
    for _ in 0..WARM_UP + BATCHES {
        let begun = Instant::now();
        trips(BATCH)?;
        each.push(begun.elapsed().as_nanos() as f64 / f64::from(BATCH));
    }
    let each = &mut each[WARM_UP..];
    each.sort_unstable_by(f64::total_cmp);
    println!("{name} {:.1}", each[BATCHES / 2]);
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut tasks = Tasks::new();
    tasks.on_start(|| Ok(pin(1)?));
    let echo = tasks.in_place::<Bytes, Bytes>("echo", |_, input, mut output| output.write(input));
    let length = tasks
        .in_place::<Bytes, Bytes>("length", |_, input, mut output| output.write(&(input.len() as u64).to_ne_bytes()));
    let pool = Pool::builder().workers(1).reserve(true).fork(tasks)?;
    pin(0)?;
    time("copied-64", |trips| {
        for _ in 0..trips {
            assert_eq!(pool.submit(echo, &[0; 64])?.wait_in_place()?.len(), 64);
        }
        Ok(())
    })?;
    for len in [64, 1 << 20] {
        time(&format!("in-place-{len}"), |trips| {
            for i in 0..trips {
                let handle = pool.submit_in_place(length, len, &TaskOptions::new(), |bytes| bytes[0] = i as u8)?;
                assert_eq!(handle.wait_in_place()?.len(), 8);
            }
            Ok(())
        })?;
    }
    // As C does it: by name, with bytes, in several calls.
    time("raw-copied-64", |trips| {
        for _ in 0..trips {
            let mut handle = pool.submit_bytes("echo", &[0; 64], &TaskOptions::new())?;
            assert_eq!(handle.end_within(None).ok_or("no end")?.bytes()?.len(), 64);
        }
        Ok(())
    })?;
    for len in [64, 1 << 20] {
        time(&format!("raw-in-place-{len}"), |trips| {
            for i in 0..trips {
                let mut room = pool.reserve(len)?;
                room.bytes()?[0] = i as u8;
                let mut handle = room.submit(&pool, "length", &TaskOptions::new())?;
                assert_eq!(handle.end_within(None).ok_or("no end")?.bytes()?.len(), 8);
            }
            Ok(())
        })?;
    }
    pool.join()?;
    Ok(())
}
