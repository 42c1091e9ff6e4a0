//! `shmworker_buffer`.

use crate::{
    error::{Error, boundary},
    handle::{self, Object, Tables},
    options::{shmworker_task_options, task_options},
    pool::{Pool, shmworker_pool},
    slice::{out, text},
    table::{Notes, Table},
    task::{Task, shmworker_task},
};
use shmworker::{plugin::abi::shmworker_result as Code, pool::Reserved};
use std::{ffi::c_char, ptr};

/// Room in the segment for the input of a task. The general flow is:
///
/// 1. `shmworker_pool_reserve`
/// 2. `shmworker_buffer_data`, and the bytes are written there
/// 3. `shmworker_buffer_submit`, which uses it up; or `shmworker_buffer_free`
///
/// Threads: any, but who writes the bytes has to be alone with that. After a fork the child has no buffer, and must not write there.
pub struct shmworker_buffer {
    _opaque: [u8; 0],
}

/// Used up: it was submitted. Where its bytes lie is noted of it: [`GONE`] then.
pub(crate) struct Buffer(Reserved);

/// In place of an address and a length, both.
const GONE: Notes = [usize::MAX; 2];

impl Buffer {
    /// Reserves room for so many bytes.
    #[inline(always)]
    pub(crate) fn register(
        pool: *const shmworker_pool,
        len: usize,
        may_wait: bool,
    ) -> Result<*mut shmworker_buffer, Error> {
        let open = Pool::open(pool)?;
        handle::register_filled(Buffer(Reserved::nothing()), |Buffer(reserved)| {
            open.reserve_into(len, may_wait, reserved)?;
            let bytes = reserved.bytes()?;
            Ok([bytes.as_mut_ptr().expose_provenance(), bytes.len()])
        })
    }
}

/// Where the bytes of a buffer lie, and how many there are.
fn place(buffer: *const shmworker_buffer) -> Result<(*mut u8, usize), Error> {
    let [address, len] = handle::notes::<Buffer>(buffer)?;
    // One alone, if it is submitted just now.
    if address == GONE[0] || len == GONE[1] {
        return Err(used_up());
    }
    Ok((ptr::with_exposed_provenance_mut(address), len))
}

impl Object for Buffer {
    type Opaque = shmworker_buffer;
    const WHAT: &'static str = "buffer";
    const KIND: usize = 1;

    fn table(all: &Tables) -> &Table<Buffer> {
        &all.buffers
    }
}

fn used_up() -> Error {
    Error::new(Code::WrongTime, "the buffer was submitted, or lost in a submission that failed")
}

/// Where its bytes lie, at a multiple of 64, and how many there are. They are whatever lay there before. The address is good
/// until the buffer is submitted or freed.
///
/// Threads: any. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child, which has nothing there: what it reads or writes there ends it.
///
/// # Safety
/// - `data` and `len` are NULL or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_buffer_data(
    buffer: *const shmworker_buffer,
    data: *mut *mut u8,
    len: *mut usize,
) -> i32 {
    boundary(|| {
        // SAFETY: the caller's word.
        let (data, len) = (unsafe { out("data", data) }?, unsafe { out("len", len) }?);
        (*data, *len) = (ptr::null_mut(), 0);
        (*data, *len) = place(buffer)?;
        Ok(())
    })
}

/// Submits it: to the handler of this name in the pool from which it is. As `shmworker_pool_submit` otherwise. On success the buffer
/// is gone; after an error it still has to be freed, and after one about `name` or the queue, or from the pool, its bytes are gone:
/// `shmworker_buffer_data` gives `SHMWORKER_RESULT_WRONG_TIME`. `*task` has to be freed by `shmworker_task_free`.
///
/// Threads: any. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
///
/// # Safety
/// - `name` is NULL or a text; `options` is NULL or as its `size` says; `task` is NULL or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_buffer_submit(
    buffer: *mut shmworker_buffer,
    pool: *const shmworker_pool,
    name: *const c_char,
    options: *const shmworker_task_options,
    task: *mut *mut shmworker_task,
) -> i32 {
    boundary(|| {
        // SAFETY: the caller's word.
        let result = unsafe { out("task", task) }?;
        *result = ptr::null_mut();
        let open = Pool::open(pool)?;
        // SAFETY: the caller's word.
        let name = unsafe { text("name", name) }?;
        let options = match options.is_null() {
            true => None,
            // SAFETY: the caller's word.
            false => Some(unsafe { task_options(options) }?),
        };
        let mut removed = handle::remove::<Buffer>(buffer)?;
        // Nobody ever pins a buffer.
        let Some(Buffer(reserved)) = removed.alone().filter(|Buffer(reserved)| !reserved.is_used_up()) else {
            removed.restore(GONE);
            return Err(used_up());
        };
        let submitted = reserved.submit_as(&open, name, options.as_ref()).map_err(Error::from);
        match submitted.and_then(|submitted| Task::register(submitted, pool)) {
            Ok(task) => *result = task,
            Err(e) => {
                reserved.give_back();
                removed.restore(GONE);
                return Err(e);
            }
        }
        Ok(())
    })
}

/// Frees a buffer that is not to be submitted. NULL: nothing is done, and that is `SHMWORKER_RESULT_NULL_ARGUMENT`.
///
/// Threads: any. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
#[unsafe(no_mangle)]
pub extern "C" fn shmworker_buffer_free(buffer: *mut shmworker_buffer) -> i32 {
    boundary(|| handle::remove::<Buffer>(buffer).map(drop))
}
