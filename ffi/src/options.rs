//! What is said of a pool, and of a task. Each struct begins with its size, so that it can grow: set `size` to its `sizeof` and the
//! rest to zeros, which say what is usual, then what is to be otherwise.

use crate::{
    error::Error,
    slice::{Versioned, optional_text, os, sized, slice, text},
    state::{SHMWORKER_SYNC_EVERY_BATCH, SHMWORKER_SYNC_INTERVAL},
};
use shmworker::{
    WorkerLimits,
    pool::{Builder, Retry, SyncWhen, TaskOptions},
};
use std::{
    ffi::{CStr, c_char},
    mem::offset_of,
    ptr,
    time::Duration,
};

/// What a pool is to be like. `shmworker_pool_options options = {sizeof options};` says all that is usual.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct shmworker_pool_options {
    /// `sizeof(shmworker_pool_options)`.
    pub size: usize,
    /// A name by which other processes of this user can attach to it: letters, digits, `.`, `_` and `-`. NULL: none can.
    pub name: *const c_char,
    /// How many workers. 0: as many as this process may use CPUs.
    pub workers: usize,
    /// How many there may be after `shmworker_pool_resize`. 0: twice as many as `workers`, and at least 30.
    pub max_workers: usize,
    /// How many tasks a worker runs at a time, each on a thread of its own, up to 1,024. 0: one.
    pub slots: usize,
    /// Names of queues, of which workers take from the first before the second. NULL: one queue, named `default`.
    pub queues: *const *const c_char,
    /// How many queues, up to 64.
    pub queue_count: usize,
    /// Milliseconds that workers have to end once the pool ends; then they are killed. 0: 10 seconds.
    pub grace_ms: u64,
    /// Milliseconds in which all workers have to be started, or none is. 0: 30 seconds.
    pub start_timeout_ms: u64,
    /// Bytes of memory after which a worker that has finished its task is replaced. 0: any.
    pub max_memory: u64,
    /// Tasks after which a worker is replaced. 0: any number.
    pub max_tasks: u64,
    /// 1: all of the segment's memory is taken at the start, and not when it is first used.
    pub reserve: u32,
    /// Zero: room for what comes.
    pub reserved: u32,
    /// The file that the pool lies in, which is made if it isn't there: what is submitted outlives the processes of the pool, and when
    /// all of them have been killed, the next pool with this file goes on with it (`shmworker_pool_next_adopted`). One pool at a time
    /// has the file. What is promised is told in `docs/crash.md`. NULL: none; the pool is gone with its processes.
    pub file: *const c_char,
    /// The name under which this program's tasks are kept in the file, of 1 to 32 letters, digits, `.`, `_` and `-`. NULL: `main`.
    pub client: *const c_char,
    /// Milliseconds that workers of a pool with a file wait for another coordinator if theirs is killed; the next pool with the file goes
    /// on with them. 0: 30 seconds.
    pub successor_within_ms: u64,
    /// When what the pool accepts is on the disk, and so outlives the machine's end: `SHMWORKER_SYNC_...`. Without a file it says nothing.
    pub sync: u32,
    /// Zero: room for what comes.
    pub reserved2: u32,
}

// SAFETY: `repr(C)`, the size comes first, and there is no padding.
unsafe impl Versioned for shmworker_pool_options {
    const LEAST: usize = offset_of!(shmworker_pool_options, max_memory);
    const ZERO: Self = shmworker_pool_options {
        size: size_of::<Self>(),
        name: ptr::null(),
        workers: 0,
        max_workers: 0,
        slots: 0,
        queues: ptr::null(),
        queue_count: 0,
        grace_ms: 0,
        start_timeout_ms: 0,
        max_memory: 0,
        max_tasks: 0,
        reserve: 0,
        reserved: 0,
        file: ptr::null(),
        client: ptr::null(),
        successor_within_ms: 0,
        sync: 0,
        reserved2: 0,
    };
}

/// What is said of one task beside its input. NULL, or zeros, say: the first queue, one attempt, no limits of time.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct shmworker_task_options {
    /// `sizeof(shmworker_task_options)`.
    pub size: usize,
    /// The queue in which it waits. NULL: the first.
    pub queue: *const c_char,
    /// An idempotency key: while a task with this key that this process has submitted is not over, another submission with it joins
    /// that one. In a pool that lies in a file so it does until a wait has given its outcome, also if a former life has submitted it;
    /// there it has 1 to 120 bytes. Not looked at by `shmworker_buffer_submit`. NULL: none.
    pub key: *const c_char,
    /// How often it is tried at most, up to 255. 0: once.
    pub max_attempts: u32,
    /// After which ends there is another attempt, while some are left: `SHMWORKER_RETRY_...`. 0: after all of them.
    pub retry_on: u32,
    /// Milliseconds before the second attempt; each further pause is twice as long, less up to a quarter. 0: none.
    pub backoff_ms: u64,
    /// The longest pause, in milliseconds. 0: 60 seconds.
    pub max_backoff_ms: u64,
    /// Milliseconds after which an attempt is asked to end. 0: it may take its time.
    pub timeout_ms: u64,
    /// Milliseconds after that in which it has to, or its worker is killed. 0: 5 seconds.
    pub grace_ms: u64,
    /// Milliseconds that an attempt may be silent: between two heartbeats. Then its worker is killed. 0: it may.
    pub heartbeat_timeout_ms: u64,
    /// Milliseconds from now in which its last attempt must have begun. 0: it may wait.
    pub expires_in_ms: u64,
    /// How many workers it may kill before it is set aside, whatever attempts are left, up to 255. 0: 3.
    pub max_worker_deaths: u32,
    /// Zero: room for what comes.
    pub reserved: u32,
}

// SAFETY: as above.
unsafe impl Versioned for shmworker_task_options {
    const LEAST: usize = offset_of!(shmworker_task_options, max_worker_deaths);
    const ZERO: Self = shmworker_task_options {
        size: size_of::<Self>(),
        queue: ptr::null(),
        key: ptr::null(),
        max_attempts: 0,
        retry_on: 0,
        backoff_ms: 0,
        max_backoff_ms: 0,
        timeout_ms: 0,
        grace_ms: 0,
        heartbeat_timeout_ms: 0,
        expires_in_ms: 0,
        max_worker_deaths: 0,
        reserved: 0,
    };
}

/// For `retry_on`: the handler gave a failure.
pub const SHMWORKER_RETRY_FAILED: u32 = 1;
/// For `retry_on`: the handler panicked, which those in Rust can.
pub const SHMWORKER_RETRY_PANICKED: u32 = 2;
/// For `retry_on`: its worker died.
pub const SHMWORKER_RETRY_DIED: u32 = 4;
/// For `retry_on`: it ran, or was silent, for too long.
pub const SHMWORKER_RETRY_TIMED_OUT: u32 = 8;

const RETRIES: [(u32, Retry); 4] = [
    (SHMWORKER_RETRY_FAILED, Retry::Failed),
    (SHMWORKER_RETRY_PANICKED, Retry::Panicked),
    (SHMWORKER_RETRY_DIED, Retry::Died),
    (SHMWORKER_RETRY_TIMED_OUT, Retry::TimedOut),
];

/// More than these no segment has room for, or no worker.
const MOST_WORKERS: usize = 2000;
const MOST_QUEUES: usize = 64;
/// More than these `Builder::slots` panics for.
const MOST_SLOTS: usize = 1024;

fn at_most(argument: &str, n: usize, most: usize) -> Result<usize, Error> {
    if n > most { Err(Error::invalid(format_args!("{argument} is {n}, and can be at most {most}"))) } else { Ok(n) }
}

pub(crate) fn is_zero(argument: &str, n: u32) -> Result<(), Error> {
    if n == 0 { Ok(()) } else { Err(Error::invalid(format_args!("{argument} is {n}: set what is not used to 0"))) }
}

pub(crate) fn sync_when(argument: &str, sync: u32) -> Result<SyncWhen, Error> {
    match sync {
        SHMWORKER_SYNC_INTERVAL => Ok(SyncWhen::default()),
        SHMWORKER_SYNC_EVERY_BATCH => Ok(SyncWhen::EveryBatch),
        n => Err(Error::invalid(format_args!("{argument} is {n}: it is one of SHMWORKER_SYNC_..."))),
    }
}

fn byte(argument: &str, n: u32, usual: u8) -> Result<u8, Error> {
    match u8::try_from(n) {
        Ok(0) => Ok(usual),
        Ok(n) => Ok(n),
        Err(_) => Err(Error::invalid(format_args!("{argument} is {n}, and can be at most 255"))),
    }
}

fn ms(n: u64) -> Option<Duration> {
    (n > 0).then(|| Duration::from_millis(n))
}

/// # Safety
/// - As [`sized`], and what the struct points to is as it says.
pub(crate) unsafe fn pool_options(options: *const shmworker_pool_options) -> Result<Builder, Error> {
    // SAFETY: the caller's word.
    let given = unsafe { sized("options", options) }?;
    is_zero("options.reserved", given.reserved)?;
    if given.reserve > 1 {
        return Err(Error::invalid(format_args!("options.reserve is {}, and can be 0 or 1", given.reserve)));
    }
    let mut builder = Builder::default().reserve(given.reserve == 1);
    // SAFETY: as above.
    if let Some(name) = unsafe { optional_text("options.name", given.name) }? {
        builder = builder.name(name);
    }
    if given.workers > 0 {
        builder = builder.workers(at_most("options.workers", given.workers, MOST_WORKERS)?);
    }
    if given.max_workers > 0 {
        builder = builder.max_workers(at_most("options.max_workers", given.max_workers, MOST_WORKERS)?);
    }
    if given.slots > 0 {
        builder = builder.slots(at_most("options.slots", given.slots, MOST_SLOTS)?);
    }
    at_most("options.queue_count", given.queue_count, MOST_QUEUES)?;
    // SAFETY: as above.
    let names = unsafe { slice("options.queues", given.queues, given.queue_count) }?;
    // SAFETY: as above.
    let names: Vec<_> = names.iter().map(|name| unsafe { text("options.queues", *name) }).collect::<Result<_, _>>()?;
    if let Some((_, twice)) = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
        return Err(Error::invalid(format_args!("two of options.queues are {twice:?}: each has a name of its own")));
    }
    if !names.is_empty() {
        builder = builder.queues(names);
    }
    if let Some(grace) = ms(given.grace_ms) {
        builder = builder.grace(grace);
    }
    if let Some(at_most) = ms(given.start_timeout_ms) {
        builder = builder.start_timeout(at_most);
    }
    let mut limits = WorkerLimits::new();
    if given.max_memory > 0 {
        limits = limits.max_memory(given.max_memory);
    }
    if given.max_tasks > 0 {
        limits = limits.max_tasks(given.max_tasks, 0);
    }
    builder = builder.worker_limits(limits).sync(sync_when("options.sync", given.sync)?);
    is_zero("options.reserved2", given.reserved2)?;
    if !given.file.is_null() {
        // SAFETY: it isn't NULL, and the rest is the caller's word.
        builder = builder.file(os(unsafe { CStr::from_ptr(given.file) }));
    }
    // SAFETY: as above.
    if let Some(client) = unsafe { optional_text("options.client", given.client) }? {
        builder = builder.client(client);
    }
    if let Some(within) = ms(given.successor_within_ms) {
        builder = builder.successor_within(within);
    }
    Ok(builder)
}

/// # Safety
/// - As [`sized`], and what the struct points to is as it says.
pub(crate) unsafe fn task_options(options: *const shmworker_task_options) -> Result<TaskOptions, Error> {
    // SAFETY: the caller's word.
    let given = unsafe { sized("options", options) }?;
    is_zero("options.reserved", given.reserved)?;
    let mut result = TaskOptions::new()
        .attempts(byte("options.max_attempts", given.max_attempts, 1)?)
        .max_worker_deaths(byte("options.max_worker_deaths", given.max_worker_deaths, 3)?)
        .backoff(ms(given.backoff_ms).unwrap_or_default(), ms(given.max_backoff_ms).unwrap_or(Duration::from_secs(60)));
    // SAFETY: as above.
    if let Some(queue) = unsafe { optional_text("options.queue", given.queue) }? {
        result = result.queue(queue);
    }
    // SAFETY: as above.
    if let Some(key) = unsafe { optional_text("options.key", given.key) }? {
        result = result.key(key);
    }
    if given.retry_on != 0 {
        let known = RETRIES.iter().fold(0, |bits, (bit, _)| bits | bit);
        if given.retry_on & !known != 0 {
            return Err(Error::invalid(format_args!(
                "options.retry_on is {:#x}: it is made of SHMWORKER_RETRY_... alone",
                given.retry_on
            )));
        }
        result = result.retry_on(RETRIES.iter().filter(|(bit, _)| given.retry_on & bit != 0).map(|(_, end)| *end));
    }
    if let Some(timeout) = ms(given.timeout_ms) {
        result = result.timeout(timeout);
    }
    if let Some(grace) = ms(given.grace_ms) {
        result = result.grace(grace);
    }
    if let Some(silence) = ms(given.heartbeat_timeout_ms) {
        result = result.heartbeat_timeout(silence);
    }
    if let Some(expires) = ms(given.expires_in_ms) {
        result = result.expires_in(expires);
    }
    Ok(result)
}
