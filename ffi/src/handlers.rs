//! `shmworker_handlers`.

use crate::{
    error::{Error, boundary},
    handle::{self, Object, Tables},
    slice::{out, text},
    table::Table,
};
use shmworker::{
    Tasks,
    plugin::abi::{
        shmworker_context, shmworker_exit_fn, shmworker_handler_fn, shmworker_init_fn, shmworker_result as Code,
    },
    pool::{ForeignHooks, ForeignState},
};
use std::{
    ffi::{c_char, c_void},
    ptr,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Handlers by name: what a worker can run. The general flow is:
///
/// 1. `shmworker_handlers_new`
/// 2. `shmworker_handlers_add`, for each
/// 3. `shmworker_pool_fork`, or in a worker program `shmworker_worker_run`
/// 4. `shmworker_handlers_free`
///
/// Threads: any. After a fork the child has none: its calls give `SHMWORKER_RESULT_STALE_HANDLE`.
pub struct shmworker_handlers {
    _opaque: [u8; 0],
}

struct Added {
    name: String,
    run: unsafe extern "C" fn(*mut shmworker_context, *mut c_void) -> i32,
    user_data: *mut c_void,
}

#[derive(Default)]
struct List {
    added: Vec<Added>,
    hooks: Option<ForeignHooks>,
}

#[derive(Default)]
pub(crate) struct Handlers(Mutex<List>);

// SAFETY: what C has given is handed through and never followed; that any thread may have it is its word.
unsafe impl Send for Handlers {}
// SAFETY: as above.
unsafe impl Sync for Handlers {}

impl Object for Handlers {
    type Opaque = shmworker_handlers;
    const WHAT: &'static str = "handlers";
    const KIND: usize = 3;

    fn table(all: &Tables) -> &Table<Handlers> {
        &all.handlers
    }
}

impl Handlers {
    fn list(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same for a pool, or a worker.
    pub(crate) fn tasks(&self) -> Result<Tasks, Error> {
        let (mut tasks, shared, list) = (Tasks::new(), ForeignState::default(), self.list());
        for Added { name, run, user_data } in &list.added {
            // SAFETY: the word of who has added it.
            let is_added = unsafe { tasks.foreign(name, *run, *user_data, &shared) };
            if !is_added {
                let why = format_args!("the name {name:?} can't be told from that of another handler: change one");
                return Err(Error::new(Code::NameTaken, why));
            }
        }
        if let Some(hooks) = list.hooks {
            // SAFETY: the word of who has set it.
            unsafe { tasks.foreign_state(hooks, &shared) };
        }
        // A worker ends without C's own handlers at exit.
        tasks.on_exit(flush);
        Ok(tasks)
    }
}

/// Writes out what C's streams hold.
pub(crate) fn flush() {
    // SAFETY: NULL is every stream that is open.
    unsafe { libc::fflush(ptr::null_mut()) };
}

/// No handlers yet. `*handlers` has to be freed by `shmworker_handlers_free`.
///
/// Threads: any. After a fork: a child makes its own; workers of `shmworker_pool_fork` run what was handed to that.
///
/// # Safety
/// - `handlers` is NULL or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_handlers_new(handlers: *mut *mut shmworker_handlers) -> i32 {
    boundary(|| {
        // SAFETY: the caller's word.
        let place = unsafe { out("handlers", handlers) }?;
        *place = ptr::null_mut();
        *place = handle::register(Handlers::default())?;
        Ok(())
    })
}

/// Adds one, under a name that is copied. `run` is called in the workers, on any of their threads, with this `user_data`.
/// `SHMWORKER_RESULT_NAME_TAKEN`: there is one of this name.
///
/// Threads: any. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
///
/// # Safety
/// - `name` is NULL or a text; `run` and `user_data` are good in each process that runs it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_handlers_add(
    handlers: *mut shmworker_handlers,
    name: *const c_char,
    run: shmworker_handler_fn,
    user_data: *mut c_void,
) -> i32 {
    boundary(|| {
        let handlers = handle::get::<Handlers>(handlers)?;
        // SAFETY: the caller's word.
        let name = unsafe { text("name", name) }?;
        let run = run.ok_or_else(|| Error::null("run"))?;
        if name.is_empty() {
            return Err(Error::invalid("name is empty"));
        }
        let mut list = handlers.list();
        if list.added.iter().any(|added| added.name == name) {
            return Err(Error::new(Code::NameTaken, format_args!("a handler named {name:?} is there already")));
        }
        list.added.push(Added { name: name.to_owned(), run, user_data });
        Ok(())
    })
}

/// Says what makes, in each worker process before its first task, what its handlers share (`shmworker_context_state`), and what
/// undoes that after the last. Either may be NULL. It replaces what was said before.
///
/// Threads: any. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
///
/// # Safety
/// - `init`, `exit` and `user_data` are good in each process that runs them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_handlers_set_state(
    handlers: *mut shmworker_handlers,
    init: shmworker_init_fn,
    exit: shmworker_exit_fn,
    user_data: *mut c_void,
) -> i32 {
    boundary(|| {
        handle::get::<Handlers>(handlers)?.list().hooks = Some(ForeignHooks { init, exit, user_data });
        Ok(())
    })
}

/// Frees them. Pools that were made with them keep what they need. NULL: nothing is done, and that is
/// `SHMWORKER_RESULT_NULL_ARGUMENT`.
///
/// Threads: any. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
#[unsafe(no_mangle)]
pub extern "C" fn shmworker_handlers_free(handlers: *mut shmworker_handlers) -> i32 {
    boundary(|| handle::remove::<Handlers>(handlers).map(drop))
}
