//! `shmworker_task`.

use crate::{
    error::{Error, boundary, c_string, code_of},
    events::Notice,
    handle::{self, Object, Tables},
    pool::{Pool, shmworker_pool},
    slice::{Versioned, fill},
    table::Table,
};
use shmworker::{
    plugin::abi::shmworker_result as Code,
    pool::{Bytes, Ended, Handle},
};
use std::{
    cell::UnsafeCell,
    ffi::{CString, c_char, c_void},
    mem::offset_of,
    ptr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering::Acquire, Ordering::Release},
    },
    task::Wake,
    time::Duration,
};

/// A task that was submitted. The general flow is:
///
/// 1. `shmworker_pool_submit` or `shmworker_buffer_submit`
/// 2. `shmworker_task_wait`, as often as need be
/// 3. `shmworker_task_free`
///
/// Threads: any; one at a time waits for it, others may cancel it meanwhile.
pub struct shmworker_task {
    _opaque: [u8; 0],
}

/// How a task ended.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct shmworker_outcome {
    /// `sizeof(shmworker_outcome)`, set by the caller.
    pub size: usize,
    /// `SHMWORKER_RESULT_OK`, or why there is no result: `SHMWORKER_RESULT_TASK_...` mostly.
    pub code: i32,
    /// How often it was begun.
    pub attempts: u32,
    /// Why there is no result, for people: the handler's own words behind ours. Empty if there is one. Never NULL.
    pub message: *const c_char,
    /// The result, in place. May be NULL if `len` is 0.
    pub data: *const u8,
    /// How many bytes.
    pub len: usize,
    /// The process that ran it last. 0: none did.
    pub pid: u32,
    /// The signal that ended the last worker which died over it, `SIGSEGV`. 0: none did.
    pub signal: i32,
    /// The exit code of the last worker that ended over it by itself. -1: none did.
    pub exit_code: i32,
    /// Zero.
    pub reserved: u32,
}

// SAFETY: `repr(C)`, the size comes first, and there is no padding.
unsafe impl Versioned for shmworker_outcome {
    const LEAST: usize = offset_of!(shmworker_outcome, pid);
    const ZERO: Self = shmworker_outcome {
        size: size_of::<Self>(),
        code: 0,
        attempts: 0,
        message: ptr::null(),
        data: ptr::null(),
        len: 0,
        pid: 0,
        signal: 0,
        exit_code: -1,
        reserved: 0,
    };
}

/// What stays where it is until the task is freed.
struct Kept {
    ended: Ended,
    code: Code,
    /// `None`: there is nothing to say, and nothing is allocated for that.
    message: Option<CString>,
}

/// Steps of a task: nobody waits for it, somebody does, it has ended.
const IDLE: u8 = 0;
const WAITED_FOR: u8 = 1;
const ENDED: u8 = 2;

pub(crate) struct Task {
    handle: Handle<Bytes>,
    /// `IDLE ⇄ WAITED_FOR → ENDED`. Release when a wait is over pairs with Acquire when the next one begins, or what came of it is
    /// read.
    step: AtomicU8,
    /// Of who waits; after the end, to be read by all.
    kept: UnsafeCell<Kept>,
    /// Its handle, looked up by who needs it: most tasks never do.
    pool: usize,
    told: Mutex<Told>,
}

// SAFETY: `kept` is used by one thread in WAITED_FOR, and only read in ENDED; the rest may be shared as it is.
unsafe impl Sync for Task
where
    Handle<Bytes>: Sync,
    Kept: Send + Sync,
{
}

/// Who hears of its end, beside those who wait.
enum Told {
    Nobody,
    Events(Arc<Notice>),
    /// Nobody any more.
    Freed,
}

/// The task, for who waits for it; for nobody else meanwhile.
struct Waiting<'t> {
    task: &'t Task,
    next: u8,
}

impl Waiting<'_> {
    fn kept(&mut self) -> &mut Kept {
        // SAFETY: in WAITED_FOR it is for one alone, of whom there is one.
        unsafe { &mut *self.task.kept.get() }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.task.step.store(self.next, Release);
    }
}

impl Object for Task {
    type Opaque = shmworker_task;
    const WHAT: &'static str = "task";
    const KIND: usize = 2;

    fn table(all: &Tables) -> &Table<Task> {
        &all.tasks
    }
}

impl Task {
    #[inline]
    pub(crate) fn register(handle: Handle<Bytes>, pool: *const shmworker_pool) -> Result<*mut shmworker_task, Error> {
        let kept = UnsafeCell::new(Kept { ended: Ended::not_yet(), code: Code::Ok, message: None });
        let (step, pool, told) = (AtomicU8::new(IDLE), pool.addr(), Mutex::new(Told::Nobody));
        handle::register(Task { handle, step, kept, pool, told })
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What came of it, if it has ended.
    #[inline]
    fn kept(&self) -> Option<&Kept> {
        // SAFETY: in ENDED, which is for ever, nobody changes it.
        (self.step.load(Acquire) == ENDED).then(|| unsafe { &*self.kept.get() })
    }

    /// `None`: it has ended.
    #[inline]
    fn waiting(&self) -> Result<Option<Waiting<'_>>, Error> {
        match self.step.compare_exchange(IDLE, WAITED_FOR, Acquire, Acquire) {
            Ok(_) => Ok(Some(Waiting { task: self, next: IDLE })),
            Err(ENDED) => Ok(None),
            Err(_) => Err(Error::new(Code::Busy, "another thread waits for this task: share out its result there")),
        }
    }

    #[inline]
    fn wait(&self, at_most: Option<Duration>) -> Result<&Kept, Error> {
        if let Some(kept) = self.kept() {
            return Ok(kept);
        }
        if let Some(mut waiting) = self.waiting()? {
            // What a panic leaves is no end; the next wait says so again.
            let kept = waiting.kept();
            if !self.handle.end_into(at_most, &mut kept.ended) {
                return Err(Error::new(Code::NotReady, "the task has not ended"));
            }
            if let Some(e) = kept.ended.failure() {
                (kept.code, kept.message) = (code_of(e), Some(c_string(&e.to_string())));
            }
            waiting.next = ENDED;
        }
        Ok(self.kept().unwrap_or_else(|| unreachable!("it has ended")))
    }
}

/// Waits until the task has ended, at most for `timeout_ms` milliseconds (0: looks; negative: for as long as it takes), and says how
/// it went: `SHMWORKER_RESULT_OK` says that `*outcome` was filled in, whatever became of the task. It may be called again. What
/// the outcome points to is there until the task is freed.
///
/// `SHMWORKER_RESULT_NOT_READY`: the time is over. `SHMWORKER_RESULT_BUSY`: another thread waits for it.
///
/// In a handler its worker waits, and runs nothing else meanwhile: there has to be another that runs what it waits for.
///
/// Threads: any, one at a time.
///
/// # Safety
/// - `outcome` is NULL or as its `size` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_task_wait(
    task: *const shmworker_task,
    timeout_ms: i64,
    outcome: *mut shmworker_outcome,
) -> i32 {
    boundary(|| {
        if outcome.is_null() {
            return Err(Error::null("outcome"));
        }
        let task = handle::get::<Task>(task)?;
        let kept = task.wait(u64::try_from(timeout_ms).ok().map(Duration::from_millis))?;
        // What is damaged since it was looked at shows as no bytes.
        let bytes = kept.ended.bytes().unwrap_or_default();
        let whole = shmworker_outcome {
            code: kept.code as i32,
            attempts: kept.ended.attempts(),
            message: kept.message.as_deref().unwrap_or_default().as_ptr(),
            data: bytes.as_ptr(),
            len: bytes.len(),
            pid: kept.ended.pid().unwrap_or(0),
            signal: kept.ended.signal().unwrap_or(0).into(),
            exit_code: kept.ended.exit_code().map_or(-1, i32::from),
            ..Versioned::ZERO
        };
        // SAFETY: the caller's word.
        unsafe { fill("outcome", outcome, whole) }
    })
}

/// Has its end told to the event loop: `shmworker_pool_event_fd` is readable then, and `shmworker_pool_next_event` gives this task and
/// `user_data`, once. A task that has ended by now is told at once. The first call in a pool starts a thread, which waits.
///
/// `SHMWORKER_RESULT_WRONG_TIME`: it was called before, or the pool was freed. `SHMWORKER_RESULT_BUSY`: another thread waits for it.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn shmworker_task_notify(task: *mut shmworker_task, user_data: *mut c_void) -> i32 {
    boundary(|| {
        let found = handle::get::<Task>(task)?;
        let pool = handle::get::<Pool>(ptr::without_provenance(found.pool))
            .map_err(|_| Error::new(Code::WrongTime, "the task's pool was freed"))?;
        let events = pool.events()?;
        let waiting = found.waiting()?;
        // Until it is told or will be: who frees it meanwhile comes after that.
        let mut told = found.told();
        match *told {
            Told::Nobody => {}
            Told::Events(_) => return Err(Error::new(Code::WrongTime, "the task's end is told already")),
            Told::Freed => return Err(handle::stale::<Task>()),
        }
        let notice = Arc::new(Notice::new(events, (task.addr(), user_data.expose_provenance())));
        match &waiting {
            Some(_) => found
                .handle
                .when_ended(&notice.clone().into())
                .map_err(|e| Error::new(Code::OsError, format_args!("cannot start a thread that waits: {e}")))?,
            None => notice.clone().wake(),
        }
        *told = Told::Events(notice);
        Ok(())
    })
}

/// Cancels it if it does not run yet, and asks its handler to end if it does. What becomes of it the wait tells. To no effect on a
/// task that has ended.
///
/// Threads: any, also while another waits.
#[unsafe(no_mangle)]
pub extern "C" fn shmworker_task_cancel(task: *const shmworker_task) -> i32 {
    boundary(|| Ok(handle::get::<Task>(task)?.handle.cancel()?))
}

/// Frees a task, and its result. One that has not ended runs on, and its result is dropped. NULL: nothing is done, and that is
/// `SHMWORKER_RESULT_NULL_ARGUMENT`.
///
/// Threads: any, but no other may still read the result.
#[unsafe(no_mangle)]
pub extern "C" fn shmworker_task_free(task: *mut shmworker_task) -> i32 {
    boundary(|| {
        let mut removed = handle::remove::<Task>(task)?;
        // Whoever is about to tell of it, or waits for it, does so for as long as it takes.
        let told = match removed.alone() {
            Some(task) => std::mem::replace(task.told.get_mut().unwrap_or_else(PoisonError::into_inner), Told::Freed),
            None => std::mem::replace(&mut *removed.told(), Told::Freed),
        };
        if let Told::Events(notice) = told
            && let Some(events) = notice.events.upgrade()
        {
            events.forget(&notice);
        }
        Ok(())
    })
}
