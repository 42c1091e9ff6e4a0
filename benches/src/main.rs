//! One round trip of 64 bytes there and 64 bytes back, four ways, in turn: A B C D A B C D …
//!
//! - `raw`: two processes write to each other through mapped memory, with one flag each way. Nothing can be faster, and
//!   nothing survives a death.
//! - `shmworker`: a task from submitter to worker process, and its result back, through our endpoints.
//! - `raw_sync`: as `raw`, but each message is written and read under a `raw_sync` mutex (a process-shared pthread lock). Who
//!   dies with it stops the other.
//! - `ArrayQueue`: two threads of one process, with a `crossbeam_queue::ArrayQueue` each way.
//!
//! In all four both sides spin, each on a CPU of its own, so what is compared is the work and the cache lines that
//! travel, and no sleep. Each turn starts a new partner, warms up, then times batches; its figure is the median batch.
//! Turns alternate, so that what else the machine does meets all alike, and ratios are taken within a turn.

use crossbeam_queue::ArrayQueue;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::mman::{MapFlags, ProtFlags, mmap_anonymous},
    unistd::Pid,
};
use raw_sync::locks::{LockImpl, LockInit, Mutex};
use shmworker::bench_support::{Pair, Peer};
use std::{
    error::Error,
    ffi::c_void,
    fs,
    hint::spin_loop,
    num::NonZero,
    process::ExitCode,
    ptr::NonNull,
    sync::atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
    thread,
    time::Instant,
};

/// Bytes each way, as words.
type Message = [u64; 8];

const TURNS: usize = 31;
/// More than twice as many as a lane has slots, so that every page has been touched.
const WARM_UP: u64 = 10_000;
const BATCHES: usize = 25;
/// Round trips per batch: some tens of microseconds, which a clock can time and a time slice can hold.
const BATCH: u64 = 200;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let turns = match std::env::args().nth(1) {
        None => TURNS,
        Some(n) => {
            n.parse::<NonZero<usize>>().map_err(|_| format!("`{n}` is no number of turns: give 1 or more"))?.get()
        }
    };
    let [here, there] = two_cpus()?;
    pin(here)?;
    println!("{turns} turns of {BATCHES} batches of {BATCH} round trips, on CPUs {here} and {there}");
    println!("load before: {}", load()?);

    let shared = Halves::map()?;
    let mut figures = [const { Vec::new() }; 4];
    for _ in 0..turns {
        figures[0].push(halves(shared, [None, None], there)?);
        figures[1].push(tasks(there)?);
        // New ones each turn: the partner of the turn before may have been killed with one.
        let locks = locks()?;
        figures[2].push(halves(shared, [Some(&*locks[0]), Some(&*locks[1])], there)?);
        figures[3].push(queues(there)?);
    }
    println!("load after:  {}\n", load()?);

    println!("{:<12}{:>14}{:>12}{:>12}{:>14}", "64 B + 64 B", "median ns", "p10 ns", "p90 ns", "ratio to raw");
    for (name, turns) in ["raw", "shmworker", "raw_sync", "ArrayQueue"].into_iter().zip(&figures) {
        let ratios = turns.iter().zip(&figures[0]).map(|(t, raw)| t / raw).collect();
        let at = |q| quantile(turns.clone(), q);
        println!("{name:<12}{:>14.0}{:>12.0}{:>12.0}{:>14.2}", at(0.5), at(0.1), at(0.9), quantile(ratios, 0.5));
    }
    Ok(())
}

/// Warms up, then returns the median time of a round trip in nanoseconds, over batches. `trip` sends a message and
/// returns what came back, which is the same.
fn measure(mut trip: impl FnMut(Message) -> Result<Message, Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    for n in 0..WARM_UP {
        let sent = [n; 8];
        if trip(sent)? != sent {
            return Err("another message came back than was sent".into());
        }
    }
    let batch = |_| {
        let start = Instant::now();
        for n in 0..BATCH {
            std::hint::black_box(trip([n; 8])?);
        }
        Ok(start.elapsed().as_nanos() as f64 / BATCH as f64)
    };
    (0..BATCHES).map(batch).collect::<Result<_, Box<dyn Error>>>().map(|times| quantile(times, 0.5))
}

fn quantile(mut values: Vec<f64>, q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * q).round() as usize]
}

// ---- the four ways ------------------------------------------------------------------------------------------------------

/// One direction: a message, and how many were sent. Relaxed words instead of bytes, so that no access is undefined.
#[repr(C, align(128))]
struct Half {
    message: [AtomicU64; 8],
    sent: AtomicU64,
}

#[repr(C)]
struct Halves {
    there: Half,
    back: Half,
}

impl Halves {
    fn map() -> Result<&'static Halves, Box<dyn Error>> {
        // SAFETY: page-aligned, zeroed, as long as a `Halves`, never unmapped; all its fields are atomic.
        Ok(unsafe { map(size_of::<Halves>())?.cast::<Halves>().as_ref() })
    }
}

/// Zeroed memory that is shared with all children forked from now on, and never unmapped.
fn map(size: usize) -> Result<NonNull<c_void>, Box<dyn Error>> {
    let size = NonZero::new(size).ok_or("nothing to map")?;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping, which replaces none.
    Ok(unsafe { mmap_anonymous(None, size, access, MapFlags::MAP_SHARED) }?)
}

/// One mutex for each direction, on pages of their own.
fn locks() -> Result<[Box<dyn LockImpl>; 2], Box<dyn Error>> {
    let lock = || -> Result<Box<dyn LockImpl>, Box<dyn Error>> {
        let page = map(4096)?.as_ptr().cast();
        // SAFETY: the lock fits into a page of its own that stays mapped; the data pointer is not used.
        Ok(unsafe { Mutex::new(page, page) }?.0)
    };
    Ok([lock()?, lock()?])
}

/// What a message is written and read under.
type Lock<'l> = Option<&'l dyn LockImpl>;

impl Half {
    fn send(&self, lock: Lock<'_>, n: u64, message: Message) {
        let _held = lock.map(|lock| lock.lock().expect("nobody has died with it"));
        self.message.iter().zip(message).for_each(|(to, word)| to.store(word, Relaxed));
        self.sent.store(n, Release);
    }

    /// Spins outside of the lock, which whoever sends is to have at once.
    fn receive(&self, lock: Lock<'_>, n: u64) -> Message {
        while self.sent.load(Acquire) != n {
            spin_loop();
        }
        let _held = lock.map(|lock| lock.lock().expect("nobody has died with it"));
        std::array::from_fn(|i| self.message[i].load(Relaxed))
    }
}

/// Two processes that write into each other's half, each message under its direction's lock, if there is one.
fn halves(shared: &Halves, [there, back]: [Lock<'_>; 2], cpu: usize) -> Result<f64, Box<dyn Error>> {
    shared.there.sent.store(0, Relaxed);
    shared.back.sent.store(0, Relaxed);
    let _partner = Peer::fork(|| {
        pin_partner(cpu);
        for n in 1.. {
            shared.back.send(back, n, shared.there.receive(there, n));
        }
        0
    })?;
    let mut n = 0;
    measure(|message| {
        n += 1;
        shared.there.send(there, n, message);
        Ok(shared.back.receive(back, n))
    })
}

fn tasks(cpu: usize) -> Result<f64, Box<dyn Error>> {
    let pair = Pair::fork(|| pin_partner(cpu))?;
    let mut bytes = [0; size_of::<Message>()];
    measure(|message| {
        let input = message.map(u64::to_ne_bytes);
        pair.round_trip(input.as_flattened(), &mut bytes)?;
        let (words, _) = bytes.as_chunks();
        Ok(std::array::from_fn(|i| u64::from_ne_bytes(words[i])))
    })
}

fn queues(cpu: usize) -> Result<f64, Box<dyn Error>> {
    let (there, back) = (ArrayQueue::new(64), ArrayQueue::new(64));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            pin_partner(cpu);
            while let Some(message) = receive(&there, &done) {
                back.push(message).expect("room for one message");
            }
        });
        let figure = measure(|message: Message| {
            there.push(message).expect("room for one message");
            receive(&back, &done).ok_or_else(|| "stopped too early".into())
        });
        done.store(true, Relaxed);
        figure
    })
}

/// `None`: nothing more comes.
fn receive(queue: &ArrayQueue<Message>, done: &AtomicBool) -> Option<Message> {
    loop {
        if let Some(message) = queue.pop() {
            return Some(message);
        }
        if done.load(Relaxed) {
            return None;
        }
        spin_loop();
    }
}

// ---- the machine --------------------------------------------------------------------------------------------------------

fn two_cpus() -> Result<[usize; 2], Box<dyn Error>> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let mut cpus = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false));
    match (cpus.next(), cpus.next()) {
        (Some(a), Some(b)) => Ok([a, b]),
        _ => Err("both sides spin, so two CPUs are needed: widen the affinity mask (taskset)".into()),
    }
}

/// Keeps the calling thread on one CPU.
fn pin(cpu: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)
}

fn pin_partner(cpu: usize) {
    pin(cpu).expect("a CPU of our own affinity mask");
}

fn load() -> Result<String, Box<dyn Error>> {
    Ok(fs::read_to_string("/proc/loadavg")?.trim().to_owned())
}
