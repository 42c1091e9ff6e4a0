//! `shmworker_pool`.

use crate::{
    buffer::{Buffer, shmworker_buffer},
    error::{Error, boundary},
    events::Events,
    handle::{self, Object, Tables},
    handlers::{Handlers, flush, shmworker_handlers},
    options::{pool_options, shmworker_pool_options, shmworker_task_options, task_options},
    slice::{os, out, slice, text},
    table::{Pin, Table},
    task::{Task, shmworker_task},
};
use shmworker::{
    Pool as OwnPool,
    plugin::abi::shmworker_result as Code,
    pool::{Attached, Submitter},
};
use std::{
    cell::UnsafeCell,
    ffi::{CStr, c_char, c_int, c_void},
    ops::Deref,
    path::Path,
    ptr,
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

/// Worker processes, and a place to submit tasks to them. The general flow is:
///
/// 1. `shmworker_pool_fork`, `shmworker_pool_exec` or `shmworker_pool_attach`
/// 2. `shmworker_pool_submit`, or `shmworker_pool_reserve` and `shmworker_buffer_submit`
/// 3. `shmworker_task_wait`, then `shmworker_task_free`
/// 4. `shmworker_pool_free`
///
/// Threads: any number may use it at once. After a fork the child has no pool: its calls give `SHMWORKER_RESULT_STALE_HANDLE`.
pub struct shmworker_pool {
    _opaque: [u8; 0],
}

enum Seat {
    Owner(OwnPool),
    Guest(Attached),
}

impl Deref for Seat {
    type Target = Submitter;

    fn deref(&self) -> &Submitter {
        match self {
            Seat::Owner(pool) => pool,
            Seat::Guest(pool) => pool,
        }
    }
}

pub(crate) struct Pool {
    /// `None`: it was shut down. Changed by who has closed the pool, once nobody has it open.
    seat: UnsafeCell<Option<Seat>>,
    events: OnceLock<Arc<Events>>,
}

// SAFETY: the seat is shared by those who have the pool open, as it may be, and is used by one who is alone (`shut`).
unsafe impl Sync for Pool where Seat: Send + Sync {}

impl Object for Pool {
    type Opaque = shmworker_pool;
    const WHAT: &'static str = "pool";
    const KIND: usize = 0;

    fn table(all: &Tables) -> &Table<Pool> {
        &all.pools
    }
}

/// A pool that is not shut down as long as this lives.
///
/// A call that submits or reserves holds it while it waits for room. That ends without another call of this process that would need
/// it too: what is under way comes back, and where that is nothing and buffers take all the room there is an error. So a
/// shutdown, which waits for those, ends too.
pub(crate) struct Open(Pin<'static, Pool>);

impl Deref for Open {
    type Target = Submitter;

    #[inline]
    fn deref(&self) -> &Submitter {
        self.seat()
    }
}

impl Open {
    #[inline]
    fn seat(&self) -> &Seat {
        // SAFETY: nobody changes it while the pool is open.
        let seat = unsafe { &*self.0.seat.get() };
        seat.as_ref().unwrap_or_else(|| unreachable!("the pool is open"))
    }

    fn owner(&self) -> Result<&OwnPool, Error> {
        match self.seat() {
            Seat::Owner(pool) => Ok(pool),
            Seat::Guest(_) => {
                Err(Error::new(Code::Refused, "this pool belongs to another process, to which this one has attached"))
            }
        }
    }
}

fn was_shut() -> Error {
    Error::new(Code::PoolEnded, "the pool was shut down")
}

impl Pool {
    fn register(seat: Seat) -> Result<*mut shmworker_pool, Error> {
        handle::register(Pool { seat: UnsafeCell::new(Some(seat)), events: OnceLock::new() })
    }

    pub(crate) fn attached(seat: Attached) -> Result<*mut shmworker_pool, Error> {
        Pool::register(Seat::Guest(seat))
    }

    #[inline(always)]
    pub(crate) fn open(pool: *const shmworker_pool) -> Result<Open, Error> {
        handle::open(pool)?.map(Open).ok_or_else(was_shut)
    }

    /// Closes it, and waits until nobody has it open.
    fn shut(pool: &Pin<'static, Pool>) -> Result<Option<Seat>, Error> {
        if !pool.close() {
            return Err(was_shut());
        }
        let mut pause = SHORTEST;
        // Nobody would wake us: those who use a pool pay nothing for its end.
        while !pool.is_alone() {
            thread::sleep(pause);
            pause = (2 * pause).min(LONGEST);
        }
        // SAFETY: whoever had it open is done with it, nobody can open it any more, and only one can close it.
        Ok(unsafe { &mut *pool.seat.get() }.take())
    }

    /// Who hears of tasks that have ended. The first caller makes it.
    pub(crate) fn events(&self) -> Result<&Arc<Events>, Error> {
        if self.events.get().is_none() {
            let made = Arc::new(Events::new()?);
            let _ = self.events.set(made); // or another thread was faster
        }
        Ok(self.events.get().unwrap_or_else(|| unreachable!("it was set above")))
    }
}

/// Pauses between two looks whether others are done with a pool that ends.
const SHORTEST: Duration = Duration::from_micros(10);
const LONGEST: Duration = Duration::from_millis(5);

/// Starts a pool whose workers are copies of this process, by a fork of it: they have all that it has in memory, and run the
/// handlers that are given. This process must have one thread, but for those of other pools
/// (`SHMWORKER_RESULT_HAS_THREADS`). `options` may be NULL. The handlers stay the caller's. `*pool` has to be freed by
/// `shmworker_pool_free`.
///
/// `SHMWORKER_RESULT_NOT_STARTED`: it could not, or a pool of this name runs; the text says which.
///
/// Threads: no others may run. Fork: it forks.
///
/// # Safety
/// - `options` is NULL or as its `size` says; `pool` is NULL or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_pool_fork(
    handlers: *const shmworker_handlers,
    options: *const shmworker_pool_options,
    pool: *mut *mut shmworker_pool,
) -> i32 {
    boundary(|| {
        // SAFETY: the caller's word.
        let place = unsafe { out("pool", pool) }?;
        *place = ptr::null_mut();
        let handlers = handle::get::<Handlers>(handlers)?;
        // SAFETY: the caller's word.
        let builder = unsafe { pool_options(options) }?;
        let tasks = handlers.tasks()?;
        // The workers would write it as well.
        flush();
        *place = Pool::register(Seat::Owner(builder.fork(tasks)?))?;
        Ok(())
    })
}

/// Starts a pool whose workers are fresh processes of a program, in whatever language: one that calls
/// `shmworker_worker_run` (in Rust: `pool::work`) before it starts any thread. `program` is a path, or a name that is looked for in
/// `PATH`; `arguments` are handed to it, behind its name: texts of which the last is followed by NULL; or NULL: none.
///
/// This process may have threads. The pool's coordinator is a process of that program too. `*pool` has to be freed by
/// `shmworker_pool_free`.
///
/// Errors: as of `shmworker_pool_fork`; `SHMWORKER_RESULT_OS_ERROR`: there is no such program.
///
/// Threads: any. Fork: it starts processes, and no copy of this one goes on.
///
/// # Safety
/// - `program` is NULL or a text; `arguments` is NULL or texts up to a NULL; `options` is NULL or as its `size` says; `pool` is NULL or
///   can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_pool_exec(
    program: *const c_char,
    arguments: *const *const c_char,
    options: *const shmworker_pool_options,
    pool: *mut *mut shmworker_pool,
) -> i32 {
    boundary(|| {
        // SAFETY: the caller's word.
        let place = unsafe { out("pool", pool) }?;
        *place = ptr::null_mut();
        if program.is_null() {
            return Err(Error::null("program"));
        }
        // SAFETY: it isn't NULL, and the rest is the caller's word.
        let program = Path::new(os(unsafe { CStr::from_ptr(program) }));
        let mut args = Vec::new();
        let mut next = arguments;
        // SAFETY: the caller's word: up to the NULL there are texts.
        while let Some(argument) = unsafe { next.as_ref() }.filter(|argument| !argument.is_null()) {
            // SAFETY: as above.
            args.push(os(unsafe { CStr::from_ptr(*argument) }));
            // SAFETY: this one wasn't the NULL, so there is another.
            next = unsafe { next.add(1) };
        }
        // SAFETY: the caller's word.
        let builder = unsafe { pool_options(options) }?;
        *place = Pool::register(Seat::Owner(builder.program(program, args).exec()?))?;
        Ok(())
    })
}

/// Attaches to a running pool of this user, by its name or by the process id of its coordinator.
/// `*pool` has to be freed by `shmworker_pool_free`.
///
/// `SHMWORKER_RESULT_NOT_RUNNING`: there is none; `SHMWORKER_RESULT_ABI_MISMATCH`: its shared memory is of another version.
///
/// What this process has submitted is cancelled when it dies; under a name it is not: `shmworker_pool_attach_with`.
///
/// Threads: any; it starts one, which watches the coordinator. After a fork: a child attaches by itself.
///
/// # Safety
/// - `name` is NULL or a text; `pool` is NULL or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_pool_attach(name: *const c_char, pool: *mut *mut shmworker_pool) -> i32 {
    boundary(|| {
        // SAFETY: the caller's word.
        let place = unsafe { out("pool", pool) }?;
        *place = ptr::null_mut();
        // SAFETY: the caller's word.
        let name = unsafe { text("name", name) }?;
        *place = Pool::attached(OwnPool::attach(name)?)?;
        Ok(())
    })
}

/// Submits a task: to the handler of this name, with a copy of these bytes as its input. `options` may be NULL. `*task` has to be
/// freed by `shmworker_task_free`.
///
/// Short of room it waits: as where 3,072 tasks of this process are under way, until one has ended, whose result need not be taken.
///
/// `SHMWORKER_RESULT_TASK_UNKNOWN`: this pool's workers, who are copies of this process, have no such handler. Of workers of
/// another program it is the task's end that says so. `SHMWORKER_RESULT_NOT_FOUND`: there is no such queue.
/// `SHMWORKER_RESULT_DRAINING`, `SHMWORKER_RESULT_POOL_ENDED`: the pool takes nothing more. And those of `shmworker_pool_reserve`.
///
/// Threads: any. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
///
/// # Safety
/// - `name` is NULL or a text; at `data` there are `len` bytes, or `len` is 0; `options` is NULL or as its `size` says; `task` is NULL
///   or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_pool_submit(
    pool: *const shmworker_pool,
    name: *const c_char,
    data: *const c_void,
    len: usize,
    options: *const shmworker_task_options,
    task: *mut *mut shmworker_task,
) -> i32 {
    boundary(|| {
        // SAFETY: the caller's word.
        let place = unsafe { out("task", task) }?;
        *place = ptr::null_mut();
        let open = Pool::open(pool)?;
        // SAFETY: the caller's word.
        let name = unsafe { text("name", name) }?;
        // SAFETY: the caller's word.
        let input = unsafe { slice("data", data.cast::<u8>(), len) }?;
        let submitted = match options.is_null() {
            true => open.submit_bytes_as_usual(name, input)?,
            // SAFETY: the caller's word.
            false => open.submit_bytes(name, input, &unsafe { task_options(options) }?)?,
        };
        *place = Task::register(submitted, pool)?;
        Ok(())
    })
}

/// Submits as `shmworker_pool_submit` does, but never waits for room: for event loops. `SHMWORKER_RESULT_NO_SPACE`: there is no room just now, and
/// nothing was submitted. There may be as soon as a task of this process has ended (`shmworker_task_notify`). `options` may be NULL.
///
/// Threads: any. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
///
/// # Safety
/// - As for `shmworker_pool_submit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_pool_try_submit(
    pool: *const shmworker_pool,
    name: *const c_char,
    data: *const c_void,
    len: usize,
    options: *const shmworker_task_options,
    task: *mut *mut shmworker_task,
) -> i32 {
    boundary(|| {
        // SAFETY: the caller's word.
        let place = unsafe { out("task", task) }?;
        *place = ptr::null_mut();
        let open = Pool::open(pool)?;
        // SAFETY: the caller's word.
        let name = unsafe { text("name", name) }?;
        // SAFETY: the caller's word.
        let input = unsafe { slice("data", data.cast::<u8>(), len) }?;
        // SAFETY: the caller's word.
        let options = unsafe { task_options(options) }?;
        *place = Task::register(open.try_submit_bytes(name, input, &options)?, pool)?;
        Ok(())
    })
}

/// Room for an input of `len` bytes in the segment, to be written in place and submitted without a copy. Short of room it waits.
/// `*buffer` has to be submitted by `shmworker_buffer_submit` or freed by `shmworker_buffer_free`.
///
/// `SHMWORKER_RESULT_NO_SPACE`: the buffers of this process take all the room that there is, so that none comes unless some of them are
/// submitted or freed; `shmworker_pool_submit` says that as well. `SHMWORKER_RESULT_TOO_LARGE`: more than 64 MiB.
///
/// Threads: any. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
///
/// # Safety
/// - `buffer` is NULL or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_pool_reserve(
    pool: *const shmworker_pool,
    len: usize,
    buffer: *mut *mut shmworker_buffer,
) -> i32 {
    boundary(|| {
        // SAFETY: the caller's word.
        let place = unsafe { out("buffer", buffer) }?;
        *place = ptr::null_mut();
        *place = Buffer::register(pool, len, true)?;
        Ok(())
    })
}

/// Room as `shmworker_pool_reserve` gives it, but never waits for it: for event loops. `SHMWORKER_RESULT_NO_SPACE`: there is none just now.
/// `shmworker_buffer_submit` of what it gives doesn't wait either.
///
/// Threads: any. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
///
/// # Safety
/// - `buffer` is NULL or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_pool_try_reserve(
    pool: *const shmworker_pool,
    len: usize,
    buffer: *mut *mut shmworker_buffer,
) -> i32 {
    boundary(|| {
        // SAFETY: the caller's word.
        let place = unsafe { out("buffer", buffer) }?;
        *place = ptr::null_mut();
        *place = Buffer::register(pool, len, false)?;
        Ok(())
    })
}

/// A file descriptor that is readable while there is an event to be taken by `shmworker_pool_next_event`: for `poll` and `epoll`. It
/// belongs to the pool: neither read nor close it.
///
/// Threads: any. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
///
/// # Safety
/// - `fd` is NULL or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_pool_event_fd(pool: *const shmworker_pool, fd: *mut c_int) -> i32 {
    boundary(|| {
        // SAFETY: the caller's word.
        let place = unsafe { out("fd", fd) }?;
        *place = -1;
        *place = Pool::open(pool)?.0.events()?.fd();
        Ok(())
    })
}

/// The next task that has ended, of those for which `shmworker_task_notify` was called, each once, with what was given there;
/// `shmworker_task_wait` then has its result at once. `SHMWORKER_RESULT_NOT_READY`: there is none just now. Never waits. Either place
/// may be NULL.
///
/// Threads: any. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
///
/// # Safety
/// - `task` and `user_data` are NULL or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_pool_next_event(
    pool: *const shmworker_pool,
    task: *mut *mut shmworker_task,
    user_data: *mut *mut c_void,
) -> i32 {
    boundary(|| {
        let pool = handle::get::<Pool>(pool)?;
        let next = pool.events()?.next();
        let (ended, note) = next.unwrap_or_default();
        // SAFETY: the caller's word.
        if let Some(place) = unsafe { task.as_mut() } {
            *place = ptr::without_provenance_mut(ended);
        }
        // SAFETY: the caller's word.
        if let Some(place) = unsafe { user_data.as_mut() } {
            *place = ptr::with_exposed_provenance_mut(note);
        }
        next.map(drop).ok_or_else(|| Error::new(Code::NotReady, "no task has ended"))
    })
}

/// From now on the pool has so many workers: the missing ones are started, those that are too many leave once they have finished
/// what they run. Does not wait for either.
///
/// `SHMWORKER_RESULT_REFUSED`: none, or more than `max_workers` has room for, or the pool was attached to.
///
/// Threads: any. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
#[unsafe(no_mangle)]
pub extern "C" fn shmworker_pool_resize(pool: *const shmworker_pool, workers: usize) -> i32 {
    boundary(|| {
        Pool::open(pool)?.owner()?.resize(workers)?;
        Ok(())
    })
}

/// The process id of the pool's coordinator, to which signals may be sent: SIGTERM for the end, SIGHUP for fresh workers.
///
/// Threads: any. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
///
/// # Safety
/// - `pid` is NULL or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_pool_coordinator_pid(pool: *const shmworker_pool, pid: *mut i32) -> i32 {
    boundary(|| {
        // SAFETY: the caller's word.
        let place = unsafe { out("pid", pid) }?;
        *place = 0;
        *place = match Pool::open(pool)?.seat() {
            Seat::Owner(pool) => pool.coordinator_pid() as i32,
            Seat::Guest(pool) => pool.coordinator_pid() as i32,
        };
        Ok(())
    })
}

/// Ends a pool that this process has started: takes nothing more, and waits until all that was submitted has been run. What is not
/// finished after `grace_ms` milliseconds is cancelled; workers that have not ended after as long again are killed. A pool
/// that was attached to is left, and goes on: what this process has submitted there is waited for and cancelled alike, and after as
/// long again waited for no longer. Results can still be taken. The handle has to be freed all the same.
///
/// Threads: any; it waits for calls of others with this pool to end. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
#[unsafe(no_mangle)]
pub extern "C" fn shmworker_pool_shutdown(pool: *const shmworker_pool, grace_ms: u64) -> i32 {
    boundary(|| {
        let found = handle::get::<Pool>(pool)?;
        let grace = Duration::from_millis(grace_ms);
        // Before the calls of others are waited for, some of which may wait for room.
        let drained = match Pool::open(pool)?.seat() {
            Seat::Owner(pool) => {
                pool.begin_shutdown(grace);
                Ok(true)
            }
            Seat::Guest(pool) => pool.drain_within(grace),
        };
        match Pool::shut(&found)? {
            Some(Seat::Owner(pool)) => {
                pool.shutdown(grace)?;
            }
            Some(Seat::Guest(pool)) => {
                pool.leave(Duration::ZERO)?;
                drained?;
            }
            None => return Err(was_shut()),
        }
        Ok(())
    })
}

/// Frees a pool. One that was not shut down waits for all that was submitted, and then ends, or is left if it was attached to.
/// NULL: nothing is done, and that is `SHMWORKER_RESULT_NULL_ARGUMENT`.
///
/// Threads: any. If another thread is in a call with this pool, that goes on, and the last of them does the rest, with its wait:
/// `shmworker_pool_shutdown` before this one has all that over when it returns. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the
/// child, which has nothing to free.
#[unsafe(no_mangle)]
pub extern "C" fn shmworker_pool_free(pool: *mut shmworker_pool) -> i32 {
    boundary(|| handle::remove::<Pool>(pool).map(drop))
}
