#![no_main]
#![allow(non_camel_case_types, reason = "these are C's names")]
//! Calls of the C interface in any order, with handles that are live, were freed or never were, with NULL, and with lengths that
//! nothing has: each gives a code that fits, with a text; none panics, crashes or hangs.
//!
//! Its sources are part of this program, so that they are instrumented.

#[path = "../../ffi/src/buffer.rs"]
mod buffer;
#[path = "../../ffi/src/error.rs"]
mod error;
#[path = "../../ffi/src/events.rs"]
mod events;
#[path = "../../ffi/src/handle.rs"]
mod handle;
#[path = "../../ffi/src/handlers.rs"]
mod handlers;
#[path = "../../ffi/src/options.rs"]
mod options;
#[path = "../../ffi/src/pool.rs"]
mod pool;
#[path = "../../ffi/src/slice.rs"]
mod slice;
#[path = "../../ffi/src/state.rs"]
mod state;
#[path = "../../ffi/src/table.rs"]
mod table;
#[path = "../../ffi/src/task.rs"]
mod task;
#[path = "../../ffi/src/temporal.rs"]
mod temporal;
#[path = "../../ffi/src/version.rs"]
mod version;
#[path = "../../ffi/src/worker.rs"]
mod worker;

use buffer::*;
use error::*;
use handlers::*;
use options::*;
use pool::*;
use shmworker::plugin::abi::{shmworker_context, shmworker_payload, shmworker_result as Code};
use slice::Versioned;
use state::*;
use std::{
    collections::HashSet,
    ffi::{CStr, CString, c_char, c_void},
    ptr,
    sync::OnceLock,
};
use task::*;
use temporal::*;

const LENGTHS: [usize; 10] = [0, 1, 64, 256, 257, 4096, 1 << 16, usize::MAX, usize::MAX >> 1, usize::MAX - 4095];
/// What is submitted is part of it, or none of it.
static INPUT: [u8; 1 << 16] = [7; 1 << 16];
/// Of this program, that makes it before libFuzzer starts a thread.
static NAME: OnceLock<CString> = OnceLock::new();

/// Gives its input back.
unsafe extern "C" fn echo(context: *mut shmworker_context, _: *mut c_void) -> i32 {
    let mut input = shmworker_payload { data: ptr::null(), len: 0, encoding: ptr::null() };
    // SAFETY: the context's own functions, with what it has given.
    unsafe {
        let functions = &*(*context).functions;
        (functions.argument)(context, 0, &raw mut input);
        (functions.set_result)(context, input.data, input.len, ptr::null())
    }
}

/// So that its text is looked at where a call has failed.
fn said(code: i32) -> i32 {
    // SAFETY: a text of the library's, which is there until the next failure on this thread.
    let (name, text) = unsafe { (CStr::from_ptr(shmworker_result_name(code)), CStr::from_ptr(shmworker_last_error())) };
    assert_ne!(name, c"unknown", "{code}");
    assert_ne!(code, Code::Panicked as i32, "{text:?}");
    assert!(code == 0 || !text.is_empty(), "{name:?} without a text");
    code
}

struct Bytes<'d>(&'d [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> Option<usize> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some((*first).into())
    }
}

/// Handles of one kind, as numbers.
#[derive(Default)]
struct Known {
    live: HashSet<usize>,
    ever: Vec<usize>,
}

impl Known {
    fn add(&mut self, code: i32, handle: usize) {
        assert_eq!(code == 0, handle != 0, "a call gives a handle just if it succeeds");
        if code == 0 {
            assert!(self.live.insert(handle), "a handle is given once");
            self.ever.push(handle);
        }
    }

    /// What was freed is nothing from here on.
    fn freed(&mut self, code: i32, handle: usize) {
        assert_eq!(code == 0, self.live.remove(&handle), "what is live can be freed, once");
    }

    /// Whatever the code is: that of a handle which is none says so.
    fn check(&self, code: i32, handle: usize) {
        let is_none = [Code::StaleHandle as i32, Code::NullArgument as i32].contains(&code);
        assert!(self.live.contains(&handle) || is_none, "{code} of a handle that is none");
        assert!(!self.live.contains(&handle) || code != Code::StaleHandle as i32, "a live handle is stale");
    }
}

#[derive(Default)]
struct Play {
    pools: Known,
    tables: Known,
    tasks: Known,
    buffers: Known,
    lanes: Known,
}

impl Play {
    /// A handle, of this kind mostly.
    fn pick(&self, kind: usize, by: usize) -> usize {
        let all = [&self.pools, &self.tables, &self.tasks, &self.buffers, &self.lanes];
        match by {
            0 => 0,
            1 => usize::MAX,
            2 => &raw const *self as usize,
            3..8 => all[by % 4].ever.last().copied().unwrap_or(3), // 1 is that of the pool which runs them
            _ => {
                let ever = &all[kind].ever;
                if ever.is_empty() { by << 28 | kind << 1 | 1 } else { ever[by % ever.len()] }
            }
        }
    }

    // SAFETY of all calls: pointers are NULL or good, and lengths are those of `INPUT` or more than anything has.
    fn step(&mut self, bytes: &mut Bytes<'_>) -> Option<()> {
        let (op, by, more) = (bytes.next()?, bytes.next()?, bytes.next()?);
        let pool = self.pick(0, by) as *mut shmworker_pool;
        let table = self.pick(1, by) as *mut shmworker_handlers;
        let task = self.pick(2, by) as *mut shmworker_task;
        let buffer = self.pick(3, by) as *mut shmworker_buffer;
        let name = [c"echo", c"none", c"\xff", c""][more % 4].as_ptr();
        let name = if more == 255 { ptr::null() } else { name };
        let len = LENGTHS[more % LENGTHS.len()];
        match op % 26 {
            0 => {
                let name = NAME.get().map_or(ptr::null(), |name| name.as_ptr());
                let mut made = ptr::null_mut();
                // Each is a thread.
                let code = match self.pools.live.len() {
                    0..4 => said(unsafe { shmworker_pool_attach(name, &raw mut made) }),
                    _ => return Some(()),
                };
                self.pools.add(code, made as usize);
            }
            1 => {
                let code = said(shmworker_pool_free(pool));
                self.pools.freed(code, pool as usize);
            }
            2 | 3 => {
                let mut made = ptr::null_mut();
                let data = if more > 250 { ptr::null() } else { INPUT.as_ptr().cast() };
                let code = said(unsafe { shmworker_pool_submit(pool, name, data, len, ptr::null(), &raw mut made) });
                self.pools.check(code, pool as usize);
                self.tasks.add(code, made as usize);
            }
            4 => {
                let mut made = ptr::null_mut();
                let options = shmworker_task_options {
                    size: [size_of::<shmworker_task_options>(), 0, 8, 64, 80, usize::MAX][more % 6],
                    max_attempts: (more as u32 % 3) * 200,
                    retry_on: more as u32 % 20,
                    timeout_ms: more as u64 * 1000,
                    grace_ms: [0, u64::MAX][by % 2],
                    backoff_ms: [0, u64::MAX, 1][by % 3],
                    max_backoff_ms: [0, u64::MAX, u64::MAX - 1][by % 3],
                    heartbeat_timeout_ms: [0, u64::MAX, i64::MAX as u64][by % 3],
                    expires_in_ms: [0, u64::MAX, 60_000][by % 3],
                    ..Versioned::ZERO
                };
                let code = said(unsafe {
                    shmworker_pool_submit(pool, c"echo".as_ptr(), ptr::null(), 0, &raw const options, &raw mut made)
                });
                self.pools.check(code, pool as usize);
                self.tasks.add(code, made as usize);
            }
            5 => {
                let mut made = ptr::null_mut();
                let code = said(unsafe { shmworker_pool_reserve(pool, len, &raw mut made) });
                self.pools.check(code, pool as usize);
                self.buffers.add(code, made as usize);
            }
            6 => {
                let (mut data, mut len) = (ptr::null_mut::<u8>(), 0);
                let code = said(unsafe { shmworker_buffer_data(buffer, &raw mut data, &raw mut len) });
                self.buffers.check(code, buffer as usize);
                if code == 0 && len > 0 {
                    // SAFETY: the call has just said that there are `len` bytes, of a buffer that nobody else uses.
                    unsafe { data.write_bytes(9, len) };
                }
            }
            7 => {
                let mut made = ptr::null_mut();
                let to = self.pick(0, more) as *mut shmworker_pool;
                let name: *const c_char = [c"echo", c"none"][by % 2].as_ptr();
                let code = said(unsafe { shmworker_buffer_submit(buffer, to, name, ptr::null(), &raw mut made) });
                self.tasks.add(code, made as usize);
                if code == 0 {
                    self.buffers.freed(0, buffer as usize);
                }
            }
            8 => {
                let code = said(shmworker_buffer_free(buffer));
                self.buffers.freed(code, buffer as usize);
            }
            9 | 10 => {
                let size = [size_of::<shmworker_outcome>(), 40, 48, 0, usize::MAX][more % 5];
                let mut outcome = shmworker_outcome { size, ..Versioned::ZERO };
                let timeout = [0, 1, -1, i64::MAX, i64::MIN][by % 5];
                let code = said(unsafe { shmworker_task_wait(task, timeout, &raw mut outcome) });
                self.tasks.check(code, task as usize);
                if code == 0 {
                    // SAFETY: the call has just said that they are there, until the task is freed.
                    let bytes = unsafe { slice::slice("", outcome.data, outcome.len) }.expect("a result");
                    assert!(bytes.iter().all(|byte| [7, 9].contains(byte)) || outcome.len < 1 << 20);
                }
            }
            11 => self.tasks.check(said(shmworker_task_cancel(task)), task as usize),
            12 => self.tasks.check(said(shmworker_task_notify(task, more as *mut c_void)), task as usize),
            13 => {
                let code = said(shmworker_task_free(task));
                self.tasks.freed(code, task as usize);
            }
            21 => {
                let mut place = [0u8; 1 << 16];
                let capacity = [0, 1, 64, 256, place.len(), usize::MAX][more % 6];
                let data = if by > 250 { ptr::null_mut() } else { place.as_mut_ptr().cast::<c_void>() };
                let mut outcome = shmworker_outcome { size: size_of::<shmworker_outcome>(), ..Versioned::ZERO };
                let timeout = [0, 1, -1, -1][by % 4];
                let code = said(unsafe { shmworker_task_finish(task, timeout, data, capacity, &raw mut outcome) });
                self.tasks.check(code, task as usize);
                if code == 0 {
                    self.tasks.freed(code, task as usize);
                    assert!(outcome.len <= capacity && outcome.data == data.cast());
                    // SAFETY: a text of the library's, until the next failure on this thread.
                    let is_empty = unsafe { CStr::from_ptr(outcome.message) }.is_empty();
                    assert_eq!(is_empty, outcome.code == 0);
                }
            }
            14 => {
                let (mut told, mut note) = (ptr::null_mut(), ptr::null_mut());
                let code = said(unsafe { shmworker_pool_next_event(pool, &raw mut told, &raw mut note) });
                self.pools.check(code, pool as usize);
                assert!(code != 0 || self.tasks.ever.contains(&(told as usize)));
            }
            15 => {
                let mut fd = 0;
                self.pools.check(said(unsafe { shmworker_pool_event_fd(pool, &raw mut fd) }), pool as usize);
            }
            16 => {
                let mut made = ptr::null_mut();
                let code = said(unsafe { shmworker_handlers_new(&raw mut made) });
                self.tables.add(code, made as usize);
            }
            17 => {
                let run = (more % 5 > 0).then_some(echo as unsafe extern "C" fn(_, _) -> _);
                let code = said(unsafe { shmworker_handlers_add(table, name, run, ptr::null_mut()) });
                self.tables.check(code, table as usize);
                let code = said(unsafe { shmworker_handlers_set_state(table, None, None, ptr::null_mut()) });
                self.tables.check(code, table as usize);
            }
            18 => {
                let code = said(shmworker_handlers_free(table));
                self.tables.freed(code, table as usize);
            }
            19 => self.pools.check(said(shmworker_pool_shutdown(pool, 1000)), pool as usize),
            20 => {
                // A guest may not.
                let code = said(shmworker_pool_resize(pool, more));
                assert_ne!(code, 0);
                self.pools.check(code, pool as usize);
                let mut pid = 0;
                let code = said(unsafe { shmworker_pool_coordinator_pid(pool, &raw mut pid) });
                self.pools.check(code, pool as usize);
                assert_eq!(code == 0, pid > 0);
            }
            23 => {
                // Its pool lies in no file.
                let size = [size_of::<shmworker_adopted>(), usize::MAX, 0][more % 3];
                let (mut found, mut made) = (shmworker_adopted { size, ..Versioned::ZERO }, task);
                let code = said(unsafe { shmworker_pool_next_adopted(pool, &raw mut found, &raw mut made) });
                self.pools.check(code, pool as usize);
                assert!(code != 0 && made.is_null());
            }
            24 => {
                let mut len = 1;
                let code = said(unsafe { shmworker_task_input(task, ptr::null_mut(), more % 2, &raw mut len) });
                self.tasks.check(code, task as usize);
                assert!(code != 0 && len == 0);
            }
            25 => {
                let code = said(shmworker_task_leave(task));
                self.tasks.freed(code, task as usize);
            }
            _ => self.temporal(by, more, bytes.0),
        }
        Some(())
    }

    /// Of a pool that has the queues of the lanes, and nobody who serves Temporal: there is nothing to say hello to.
    fn temporal(&mut self, by: usize, more: usize, message: &[u8]) {
        let of = self.pick(4, by);
        let lanes = of as *mut shmworker_temporal;
        let (data, len) = match by % 11 {
            0 => (ptr::null(), message.len()),
            1 => (message.as_ptr(), usize::MAX),
            _ => (message.as_ptr(), message.len()),
        };
        let (workflow, activity) = (shmworker_temporal_lane::Workflow as u32, shmworker_temporal_lane::Activity as u32);
        let set = [0, workflow, activity, workflow | activity, 4][by % 5];
        let code = said(match more % 12 {
            0 | 1 => {
                let name = NAME.get().map_or(ptr::null(), |name| name.as_ptr());
                let options = shmworker_temporal_options {
                    size: if by == 255 { 8 } else { size_of::<shmworker_temporal_options>() },
                    pool: if by % 16 == 1 { ptr::null() } else { name },
                    lanes: set,
                    activity_slots: by as u32 % 7,
                    max_activations: by as u32,
                    ..Versioned::ZERO
                };
                let mut made = ptr::null_mut();
                // Each is a thread.
                if self.lanes.live.len() > 2 {
                    return;
                }
                let code = said(unsafe { shmworker_temporal_attach(&raw const options, &raw mut made) });
                return self.lanes.add(code, made as usize);
            }
            2 => {
                let code = said(shmworker_temporal_free(lanes));
                return self.lanes.freed(code, of);
            }
            3 => unsafe { shmworker_temporal_complete_workflow(lanes, data, len) },
            4 => unsafe { shmworker_temporal_complete_activity(lanes, data, len) },
            5 => unsafe { shmworker_temporal_heartbeat(lanes, data, len) },
            6 => unsafe { shmworker_temporal_request_eviction(lanes, data, len) },
            7 => shmworker_temporal_wait(lanes, set, [0, 1][by % 2]),
            8 => {
                let mut fd = 0;
                // SAFETY: the places are locals.
                let code = unsafe { shmworker_temporal_fd(lanes, &raw mut fd) };
                assert_eq!(code == 0, fd > 0);
                code
            }
            9 => {
                let (mut found, mut data, mut len) = (0, ptr::null(), 0);
                // SAFETY: the places are locals.
                let code = unsafe { shmworker_temporal_next(lanes, set, &raw mut found, &raw mut data, &raw mut len) };
                assert!(found != shmworker_temporal_found::Message as u32 && data.is_null() && len == 0);
                code
            }
            10 => {
                let (mut stage, mut set, mut slots) = (9, 9, 9);
                // SAFETY: the places are locals.
                let code = unsafe { shmworker_temporal_stage_of(lanes, &raw mut stage) };
                assert!(stage == shmworker_temporal_stage::Stopped as u32 || code == 0 && stage < 2);
                self.lanes.check(code, of);
                // SAFETY: the places are locals.
                let code = unsafe { shmworker_temporal_lanes(lanes, &raw mut set, &raw mut slots) };
                assert!(if code == 0 { (1..=3).contains(&set) && slots < 7 } else { (set, slots) == (0, 0) });
                code
            }
            // It waits for an answer.
            _ if self.lanes.live.contains(&of) => return,
            _ => unsafe { shmworker_temporal_hello(lanes, data, len, ptr::null_mut(), ptr::null_mut()) },
        });
        self.lanes.check(code, of);
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        for task in self.tasks.live.drain() {
            said(shmworker_task_free(task as *mut _));
        }
        for buffer in self.buffers.live.drain() {
            said(shmworker_buffer_free(buffer as *mut _));
        }
        for lanes in self.lanes.live.drain() {
            said(shmworker_temporal_free(lanes as *mut _));
        }
        for pool in self.pools.live.drain() {
            said(shmworker_pool_free(pool as *mut _));
        }
        for table in self.tables.live.drain() {
            said(shmworker_handlers_free(table as *mut _));
        }
    }
}

libfuzzer_sys::fuzz_target!(
    init: {
        let name = CString::new(format!("ffi-calls-{}", std::process::id())).expect("no NUL");
        let (mut table, mut pool) = (ptr::null_mut(), ptr::null_mut());
        // Those of a pool that serves Temporal, so that lanes can be attached.
        let queues = [c"workflow", c"activity", c"bridge"].map(CStr::as_ptr);
        let options = shmworker_pool_options {
            name: name.as_ptr(),
            workers: 1,
            queues: queues.as_ptr(),
            queue_count: queues.len(),
            ..Versioned::ZERO
        };
        // SAFETY: what is handed over is good, and there is no thread yet.
        unsafe {
            assert_eq!(said(shmworker_handlers_new(&raw mut table)), 0);
            assert_eq!(said(shmworker_handlers_add(table, c"echo".as_ptr(), Some(echo), ptr::null_mut())), 0);
            assert_eq!(said(shmworker_pool_fork(table, &raw const options, &raw mut pool)), 0);
        }
        assert!(NAME.set(name).is_ok());
    },
    |data: &[u8]| {
        let mut bytes = Bytes(data);
        let mut play = Play::default();
        // Most of what follows needs one.
        play.step(&mut Bytes(&[0, 0, 0]));
        while play.step(&mut bytes).is_some() {}
    }
);
