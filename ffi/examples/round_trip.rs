//! Round trips from Rust, for comparison with those from C (`benches/c/round_trip.c`): a batch for each line with its kind,
//! answered by the nanoseconds that each took.

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use shmworker::{
    Pool, Tasks,
    pool::{Bytes, Handle, TaskOptions},
};
use std::{error::Error, io, time::Instant};

const BATCH: u32 = 200;
const WARM_UP: u32 = 50;

fn pin(cpu: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut tasks = Tasks::new();
    tasks.on_start(|| Ok(pin(1)?));
    let echo = tasks.in_place::<Bytes, Bytes>("echo", |_, input, mut output| output.write(input));
    let length = tasks
        .in_place::<Bytes, Bytes>("length", |_, input, mut output| output.write(&(input.len() as u64).to_ne_bytes()));
    let pool = Pool::builder().workers(1).reserve(true).fork(tasks)?;
    pin(0)?;
    let raw_outcome = |mut handle: Handle<Bytes>| -> Result<usize, Box<dyn Error>> {
        Ok(handle.end_within(None).ok_or("no end")?.bytes()?.len())
    };
    let trips = |kind: &str, count: u32| -> Result<(), Box<dyn Error>> {
        let (how, len) = kind.rsplit_once('-').ok_or("no length")?;
        let len = len.parse()?;
        for i in 0..count {
            match how {
                "copied" => assert_eq!(pool.submit(echo, &[0; 64])?.wait_in_place()?.len(), len),
                "in-place" => {
                    let handle = pool.submit_in_place(length, len, &TaskOptions::new(), |bytes| bytes[0] = i as u8)?;
                    assert_eq!(handle.wait_in_place()?.len(), 8);
                }
                // As C does it: by name, with bytes, in several calls.
                "raw-copied" => {
                    assert_eq!(raw_outcome(pool.submit_bytes("echo", &[0; 64], &TaskOptions::new())?)?, len);
                }
                "raw-in-place" => {
                    let mut room = pool.reserve(len)?;
                    room.bytes()?[0] = i as u8;
                    assert_eq!(raw_outcome(room.submit(&pool, "length", &TaskOptions::new())?)?, 8);
                }
                _ => return Err(format!("no kind {kind}").into()),
            }
        }
        Ok(())
    };
    for kind in io::stdin().lines() {
        let kind = kind?;
        trips(&kind, WARM_UP)?;
        let begun = Instant::now();
        trips(&kind, BATCH)?;
        println!("{:.1}", begun.elapsed().as_nanos() as f64 / f64::from(BATCH));
    }
    pool.join()?;
    Ok(())
}
