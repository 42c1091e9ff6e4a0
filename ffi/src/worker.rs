//! Worker programs.

use crate::{
    error::boundary,
    handle,
    handlers::{Handlers, flush, shmworker_handlers},
    slice::{optional_text, out},
};
use shmworker::pool::{work, work_for};
use std::ffi::{c_char, c_int};

/// The life of a worker: runs tasks by these handlers until its pool ends. `*exit_code` is what the process should end with, which it
/// should do then.
///
/// With `pool` NULL, of a program that a pool has started, by `shmworker_pool_exec` or from Rust: it is called in the pool's
/// coordinator as well as in its workers, before any thread is started. With the name of a running pool, of any program, which
/// attaches to it and works beside the pool's own workers; it should have all handlers that these have.
///
/// `SHMWORKER_RESULT_NOT_STARTED`: `pool` is NULL, and no pool has started this program.
///
/// Threads: no others may run if `pool` is NULL. Fork: it may fork, and return in no child.
///
/// # Safety
/// - `pool` is NULL or a text; `exit_code` is NULL or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_worker_run(
    handlers: *const shmworker_handlers,
    pool: *const c_char,
    exit_code: *mut c_int,
) -> i32 {
    boundary(|| {
        // SAFETY: the caller's word.
        let place = unsafe { out("exit_code", exit_code) }?;
        *place = 1;
        let tasks = handle::get::<Handlers>(handlers)?.tasks()?;
        // The workers that it may fork would write it as well.
        flush();
        // SAFETY: the caller's word.
        *place = match unsafe { optional_text("pool", pool) }? {
            None => work(tasks)?.into(),
            Some(name) => work_for(name, 1, tasks).map(|()| 0)?,
        };
        Ok(())
    })
}
