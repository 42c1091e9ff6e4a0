//! `shmworker_buffer`.

use crate::{
    error::{Error, boundary},
    handle::{self, Object, Registries, Registry},
    options::{shmworker_task_options, task_options},
    pool::{Pool, shmworker_pool},
    slice::{out, text},
    task::{Task, shmworker_task},
};
use shmworker::{plugin::abi::shmworker_result as Code, pool::Reserved};
use std::{
    ffi::c_char,
    ptr,
    sync::{Mutex, PoisonError},
};

/// Room in the segment for the input of a task. The general flow is:
///
/// 1. `shmworker_pool_reserve`
/// 2. `shmworker_buffer_data`, and the bytes are written there
/// 3. `shmworker_buffer_submit`, which uses it up; or `shmworker_buffer_free`
///
/// Threads: any, but who writes the bytes has to be alone with that.
pub struct shmworker_buffer {
    _opaque: [u8; 0],
}

pub(crate) struct Buffer(Mutex<Option<Reserved>>);

impl Buffer {
    pub(crate) fn new(reserved: Reserved) -> Buffer {
        Buffer(Mutex::new(Some(reserved)))
    }
}

impl Object for Buffer {
    type Opaque = shmworker_buffer;
    const WHAT: &'static str = "buffer";
    const KIND: usize = 1;

    fn registry(all: &Registries) -> &Registry<Buffer> {
        &all.buffers
    }
}

fn used_up() -> Error {
    Error::new(Code::WrongTime, "the buffer was submitted, or lost in a submission that failed")
}

/// Where its bytes lie, at a multiple of 64, and how many there are. They are whatever lay there before. The address is good
/// until the buffer is submitted or freed.
///
/// Threads: any.
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
        let buffer = handle::get::<Buffer>(buffer)?;
        let mut reserved = buffer.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = reserved.as_mut().ok_or_else(used_up)?.bytes()?;
        (*data, *len) = (bytes.as_mut_ptr(), bytes.len());
        Ok(())
    })
}

/// Submits it: to the handler of this name in the pool from which it is. As `shmworker_pool_submit` otherwise. On success the buffer
/// is gone; after an error it still has to be freed.
///
/// Threads: any.
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
        let place = unsafe { out("task", task) }?;
        *place = ptr::null_mut();
        let (buffer_, found) = (handle::get::<Buffer>(buffer)?, handle::get::<Pool>(pool)?);
        // SAFETY: the caller's word.
        let name = unsafe { text("name", name) }?;
        // SAFETY: the caller's word.
        let options = unsafe { task_options(options) }?;
        let open = found.open()?;
        let reserved = buffer_.0.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or_else(used_up)?;
        let submitted = reserved.submit(&open, name, &options)?;
        *place = Task::register(submitted, pool)?;
        // Another thread may have freed it meanwhile.
        let _ = handle::remove::<Buffer>(buffer);
        Ok(())
    })
}

/// Frees a buffer that is not to be submitted. NULL: nothing is done, and that is `SHMWORKER_RESULT_NULL_ARGUMENT`.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn shmworker_buffer_free(buffer: *mut shmworker_buffer) -> i32 {
    boundary(|| handle::remove::<Buffer>(buffer).map(drop))
}
