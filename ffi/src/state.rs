//! Pools that lie in a file: who attaches under a name of its own, and what former lives have left.

use crate::{
    error::{Error, boundary, c_string},
    handle,
    options::sync_when,
    pool::{Pool, shmworker_pool},
    slice::{Versioned, check_place, fill, optional_text, out, room, sized, text},
    task::{Task, shmworker_task},
};
use shmworker::{plugin::abi::shmworker_result as Code, pool::AttachOptions};
use std::{
    ffi::{CString, c_char, c_void},
    ptr,
};

/// For `sync`: what is accepted is on the disk within a second.
pub const SHMWORKER_SYNC_INTERVAL: u32 = 0;
/// For `sync`: what is accepted is on the disk before its submission returns.
pub const SHMWORKER_SYNC_EVERY_BATCH: u32 = 1;

/// How a process attaches, beyond the pool's name.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct shmworker_attach_options {
    /// `sizeof(shmworker_attach_options)`.
    pub size: usize,
    /// The name under which this process's tasks are kept in the file that the pool lies in, of 1 to 32 letters, digits, `.`, `_` and
    /// `-`. They go on when it is killed, and the next that attaches under this name has them: `shmworker_pool_next_adopted`, or by
    /// their keys. One process at a time has a name; that of the program which has made the pool, `main` if it has said no other, is
    /// that one's. NULL: none; what this process has submitted is cancelled when it dies.
    pub client: *const c_char,
    /// When what the pool accepts from this client is on the disk, and so outlives the machine's end: `SHMWORKER_SYNC_...`. Without a
    /// `client` it says nothing.
    pub sync: u32,
    /// Zero: room for what comes.
    pub reserved: u32,
}

// SAFETY: `repr(C)`, the size comes first, and there is no padding.
unsafe impl Versioned for shmworker_attach_options {
    const LEAST: usize = size_of::<Self>();
    const ZERO: Self = shmworker_attach_options { size: size_of::<Self>(), client: ptr::null(), sync: 0, reserved: 0 };
}

/// A task of a former life.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct shmworker_adopted {
    /// `sizeof(shmworker_adopted)`, set by the caller.
    pub size: usize,
    /// The handler that it is for. Empty: this program has no such handler, or the pool does not tell. Never NULL.
    pub name: *const c_char,
    /// The `key` that it was submitted with. NULL: none.
    pub key: *const c_char,
    /// 1: input and result are JSON, as a program in another language has submitted it. 0: bytes.
    pub is_json: u32,
    /// Zero.
    pub reserved: u32,
}

// SAFETY: as above.
unsafe impl Versioned for shmworker_adopted {
    const LEAST: usize = size_of::<Self>();
    const ZERO: Self =
        shmworker_adopted { size: size_of::<Self>(), name: ptr::null(), key: ptr::null(), is_json: 0, reserved: 0 };
}

/// What is told of a task of a former life, for as long as that is there.
pub(crate) struct Former {
    name: CString,
    key: Option<CString>,
    is_json: bool,
}

impl Former {
    fn told(&self) -> shmworker_adopted {
        shmworker_adopted {
            name: self.name.as_ptr(),
            key: self.key.as_ref().map_or(ptr::null(), |key| key.as_ptr()),
            is_json: self.is_json.into(),
            ..Versioned::ZERO
        }
    }
}

/// Attaches as `shmworker_pool_attach` does, in the way that `options` say; NULL: as there.
///
/// `SHMWORKER_RESULT_REFUSED`: another process has the client's name, or the pool lies in no file. `SHMWORKER_RESULT_FILE_UNFIT`: its
/// journal, which lies beside the file, can't be used. Otherwise as there.
///
/// Threads: any; it starts one, which watches the coordinator, and with a `client` one that syncs its journal. After a fork: a child attaches by itself.
///
/// # Safety
/// - `name` is NULL or a text; `options` is NULL or as its `size` says; `pool` is NULL or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_pool_attach_with(
    name: *const c_char,
    options: *const shmworker_attach_options,
    pool: *mut *mut shmworker_pool,
) -> i32 {
    boundary(|| {
        // SAFETY: the caller's word.
        let place = unsafe { out("pool", pool) }?;
        *place = ptr::null_mut();
        // SAFETY: the caller's word.
        let name = unsafe { text("name", name) }?;
        // SAFETY: the caller's word.
        let given = unsafe { sized("options", options) }?;
        crate::options::is_zero("options.reserved", given.reserved)?;
        let mut options = AttachOptions::new().sync(sync_when("options.sync", given.sync)?);
        // SAFETY: the caller's word.
        if let Some(client) = unsafe { optional_text("options.client", given.client) }? {
            options = options.client(client);
        }
        *place = Pool::attached(options.attach(name)?)?;
        Ok(())
    })
}

/// The next task of a former life, each once: of those that programs of this client's name had submitted, and whose results they had not
/// let go of when they ended. `*task` is as one that was submitted just now: to be waited for, and to be freed. `*found` says what it
/// is; its texts are there until the task is freed. It may be NULL.
///
/// `SHMWORKER_RESULT_NOT_FOUND`: there is none any more, as in a pool without a file always; or, where the journal has more than there is
/// room for, none before some of those that this has given are freed.
///
/// One that has a key goes to whoever submits that key first, if that comes before. What nobody asks for runs all the same, and is there
/// again at the next start, unless it has no key and a submission needs its room: who wants them all calls this before it submits.
///
/// Threads: any. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
///
/// # Safety
/// - `found` is NULL or as its `size` says; `task` is NULL or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_pool_next_adopted(
    pool: *const shmworker_pool,
    found: *mut shmworker_adopted,
    task: *mut *mut shmworker_task,
) -> i32 {
    boundary(|| {
        // SAFETY: the caller's word.
        let place = unsafe { out("task", task) }?;
        *place = ptr::null_mut();
        let open = Pool::open(pool)?;
        if !found.is_null() {
            // Before one is taken.
            // SAFETY: the caller's word.
            unsafe { check_place("found", found) }?;
        }
        let Some(next) = open.next_adopted() else {
            return Err(Error::new(Code::NotFound, "there is no task of a former life that nobody has asked for"));
        };
        let former = Former { name: c_string(next.name()), key: next.key().map(c_string), is_json: next.is_json() };
        let told = former.told();
        *place = Task::register_former(next.into_bytes(), pool, former)?;
        if !found.is_null() {
            // SAFETY: the caller's word.
            unsafe { fill("found", found, || told) }?;
        }
        Ok(())
    })
}

/// Copies the input of a task in a pool that lies in a file to `data`, which has room for `capacity` bytes: for one of a former life
/// that has no key to tell it by. `*len` is how many there are.
///
/// `SHMWORKER_RESULT_TOO_LARGE`: more than `capacity`; `*len` was filled in. `SHMWORKER_RESULT_NOT_FOUND`: its pool lies in no file, or
/// has ended before it. `SHMWORKER_RESULT_BUSY`: another thread waits for it.
///
/// Threads: any. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
///
/// # Safety
/// - At `data` there is room for `capacity` bytes, or `capacity` is 0; `len` is NULL or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_task_input(
    task: *const shmworker_task,
    data: *mut c_void,
    capacity: usize,
    len: *mut usize,
) -> i32 {
    boundary(|| {
        // SAFETY: the caller's word.
        let len = unsafe { out("len", len) }?;
        *len = 0;
        let found = handle::get::<Task>(task)?;
        // SAFETY: the caller's word.
        let place = unsafe { room("data", data.cast(), capacity) }?;
        let Some(input) = found.input()? else {
            let why = "the task's input is not kept: its pool lies in no file, or has ended before it";
            return Err(Error::new(Code::NotFound, why));
        };
        *len = input.len();
        let Some(place) = place.get_mut(..input.len()) else {
            let why = format_args!("the input has {} bytes, and data has room for {capacity}", input.len());
            return Err(Error::new(Code::TooLarge, why));
        };
        place.copy_from_slice(&input);
        Ok(())
    })
}

/// Frees a task as `shmworker_task_free` does, but in a pool that lies in a file its result stays there, for the next start or for who
/// attaches next under this client's name: for who could not put it where it was to stay. In another pool it is the same as that.
///
/// Threads: any, but no other may still read the result. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
#[unsafe(no_mangle)]
pub extern "C" fn shmworker_task_leave(task: *mut shmworker_task) -> i32 {
    boundary(|| {
        let removed = handle::remove::<Task>(task)?;
        removed.leave();
        Task::free(removed);
        Ok(())
    })
}
