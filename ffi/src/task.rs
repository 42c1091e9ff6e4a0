//! `shmworker_task`.

use crate::{
    error::{Error, boundary, c_string, code_of, say},
    events::Notice,
    handle::{self, Object, Tables},
    pool::{Pool, shmworker_pool},
    slice::{Versioned, check_place, fill, room},
    state::Former,
    table::{Pin, Removed, Table},
};
use shmworker::{
    plugin::abi::shmworker_result as Code,
    pool::{Bytes, Ended, Handle, Landed},
};
use std::{
    cell::UnsafeCell,
    ffi::{CString, c_char, c_void},
    mem::{MaybeUninit, offset_of},
    ptr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering::Acquire, Ordering::Relaxed, Ordering::Release},
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
/// Or `shmworker_task_finish` in place of the last two, where a copy of the result is wanted.
///
/// In a pool that lies in a file (`file` of `shmworker_pool_options`) the result stays in the file until the task is freed. So a program
/// that is killed at any moment has each result at least once if it puts it where it is to stay between `shmworker_task_wait` and
/// `shmworker_task_free`: if it was killed in between, `shmworker_pool_next_adopted` gives the task again at the next start, or the next
/// submission of its key. `shmworker_task_finish` does both at once: then a program that is killed behind it has had the result.
///
/// Threads: any; one at a time waits for it, others may cancel it meanwhile. After a fork the child has no task.
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
    /// The result, in place. May be NULL if `len` is 0. A child that is forked need not have it: what is read there may end it.
    pub data: *const u8,
    /// How many bytes.
    pub len: usize,
    /// The process that ran it last. 0: none did.
    pub pid: u32,
    /// The signal that ended the last worker which died over it, `SIGSEGV`. 0: none did, or there is a result.
    pub signal: i32,
    /// The exit code of the last worker that ended over it by itself. -1: none did, or there is a result.
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

impl Kept {
    fn outcome(&self) -> shmworker_outcome {
        // What is damaged since it was looked at shows as no bytes.
        let bytes = self.ended.bytes().unwrap_or_default();
        shmworker_outcome {
            code: self.code as i32,
            attempts: self.ended.attempts(),
            message: self.message.as_deref().unwrap_or_default().as_ptr(),
            data: bytes.as_ptr(),
            len: bytes.len(),
            pid: self.ended.pid().unwrap_or(0),
            signal: self.ended.signal().unwrap_or(0).into(),
            exit_code: self.ended.exit_code().map_or(-1, i32::from),
            ..Versioned::ZERO
        }
    }
}

/// Steps of a task: nobody waits for it, somebody does, it has ended, its result was handed out as it is freed.
const IDLE: u8 = 0;
const WAITED_FOR: u8 = 1;
const ENDED: u8 = 2;
const FINISHED: u8 = 3;

pub(crate) struct Task {
    handle: Handle<Bytes>,
    /// `IDLE ⇄ WAITED_FOR → ENDED | FINISHED`. Release when a wait is over pairs with Acquire when the next one begins, or what came
    /// of it is read.
    step: AtomicU8,
    /// Of who waits; in ENDED it is there, to be read by all. Else nothing is to be dropped.
    kept: UnsafeCell<MaybeUninit<Kept>>,
    /// Its handle, looked up by who needs it: most tasks never do.
    pool: usize,
    told: Mutex<Told>,
    /// Of a task of a former life: its texts are there as long as this.
    _former: Option<Box<Former>>,
    /// What comes of it stays in the file as it is dropped. Relaxed: who drops it comes after all that have it.
    is_left: AtomicBool,
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

impl<'t> Waiting<'t> {
    fn kept(&mut self) -> &mut MaybeUninit<Kept> {
        // SAFETY: in WAITED_FOR it is for one alone, of whom there is one.
        unsafe { &mut *self.task.kept.get() }
    }

    /// Waits until it has ended.
    fn end(mut self, at_most: Option<Duration>) -> Result<&'t Kept, Error> {
        let task = self.task;
        // What a panic leaves is no end; the next wait says so again.
        let kept = self.kept().write(Kept { ended: Ended::not_yet(), code: Code::Ok, message: None });
        if !task.handle.end_into(at_most, &mut kept.ended) {
            return Err(Error::new(Code::NotReady, "the task has not ended"));
        }
        if let Some(e) = kept.ended.failure() {
            (kept.code, kept.message) = (code_of(e), Some(c_string(&e.to_string())));
        }
        self.next = ENDED;
        drop(self);
        Ok(task.kept().unwrap_or_else(|| unreachable!("it has ended")))
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
        handle::register(Task::new(handle, pool, None))
    }

    pub(crate) fn register_former(
        handle: Handle<Bytes>,
        pool: *const shmworker_pool,
        former: Former,
    ) -> Result<*mut shmworker_task, Error> {
        let task = Task::new(handle, pool, Some(Box::new(former)));
        task.leave(); // for as long as nobody has its handle
        let registered = handle::register(task)?;
        handle::get::<Task>(registered)?.is_left.store(false, Relaxed);
        Ok(registered)
    }

    #[inline(always)]
    fn new(handle: Handle<Bytes>, pool: *const shmworker_pool, former: Option<Box<Former>>) -> Task {
        let (step, kept) = (AtomicU8::new(IDLE), UnsafeCell::new(MaybeUninit::uninit()));
        let (told, is_left) = (Mutex::new(Told::Nobody), AtomicBool::new(false));
        Task { handle, step, kept, pool: pool.addr(), told, _former: former, is_left }
    }

    /// A copy of its input. `None`: its pool lies in no file, or has ended before it.
    pub(crate) fn input(&self) -> Result<Option<Vec<u8>>, Error> {
        // Nobody finishes it meanwhile, which would give its input up. What has ended has it until it is dropped.
        let _waiting = self.waiting()?;
        let is_lost = self.kept().is_some_and(|kept| kept.code == Code::PoolEnded);
        Ok(if is_lost { None } else { self.handle.input() })
    }

    /// What comes of it is not to go as this is dropped, if its pool lies in a file.
    pub(crate) fn leave(&self) {
        self.is_left.store(true, Relaxed);
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What came of it, if it has ended.
    #[inline]
    fn kept(&self) -> Option<&Kept> {
        if self.step.load(Acquire) != ENDED {
            return None;
        }
        // SAFETY: in ENDED, which is for ever, nobody changes it.
        let kept = unsafe { &*self.kept.get() };
        // SAFETY: who has waited has left it there before the step.
        Some(unsafe { kept.assume_init_ref() })
    }

    /// `None`: it has ended.
    #[inline]
    fn waiting(&self) -> Result<Option<Waiting<'_>>, Error> {
        match self.step.compare_exchange(IDLE, WAITED_FOR, Acquire, Acquire) {
            Ok(_) => Ok(Some(Waiting { task: self, next: IDLE })),
            Err(ENDED) => Ok(None),
            Err(FINISHED) => Err(handle::stale::<Task>()),
            Err(_) => Err(Error::new(Code::Busy, "another thread waits for this task: share out its result there")),
        }
    }

    #[inline]
    fn wait(&self, at_most: Option<Duration>) -> Result<&Kept, Error> {
        if let Some(kept) = self.kept() {
            return Ok(kept);
        }
        match self.waiting()? {
            Some(waiting) => waiting.end(at_most),
            None => Ok(self.kept().unwrap_or_else(|| unreachable!("it has ended"))),
        }
    }

    /// Waits for a result, if it is one that went well and is there or comes soon, and copies it to `place`.
    #[inline(always)]
    fn land(&self, place: &mut [u8]) -> Result<Option<Landed>, Error> {
        let Some(mut waiting) = self.waiting()? else { return Ok(None) };
        let landed = self.handle.copy_at_once(place);
        if landed.is_some() {
            waiting.next = FINISHED;
        }
        Ok(landed)
    }

    /// Whoever is about to tell of it does so for as long as it takes, and nobody hears it.
    fn hush(told: Told) {
        if let Told::Events(notice) = told
            && let Some(events) = notice.events.upgrade()
        {
            events.forget(&notice);
        }
    }

    /// Frees one that was removed.
    #[inline(always)]
    pub(crate) fn free(mut removed: Removed<'static, Task>) {
        // Whoever waits for it does so for as long as it takes.
        let told = match removed.alone() {
            Some(task) => std::mem::replace(task.told.get_mut().unwrap_or_else(PoisonError::into_inner), Told::Freed),
            None => std::mem::replace(&mut *removed.told(), Told::Freed),
        };
        if let Told::Events(_) = told {
            Task::hush(told);
        }
    }
}

impl Drop for Task {
    #[inline]
    fn drop(&mut self) {
        let is_left = *self.is_left.get_mut();
        if *self.step.get_mut() == ENDED {
            let kept = self.kept.get_mut();
            match is_left {
                // SAFETY: in ENDED it is there, and nobody has borrowed it.
                false => unsafe { kept.assume_init_drop() },
                // SAFETY: as above, and nobody reads it again.
                true => unsafe { kept.assume_init_read() }.ended.leave(),
            }
        } else if is_left {
            self.handle.leave();
        }
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
/// Threads: any, one at a time. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
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
        let kept = task.wait(at_most(timeout_ms))?;
        // SAFETY: the caller's word.
        unsafe { fill("outcome", outcome, || kept.outcome()) }
    })
}

/// A time limit as C says it.
fn at_most(timeout_ms: i64) -> Option<Duration> {
    u64::try_from(timeout_ms).ok().map(Duration::from_millis)
}

/// Waits as `shmworker_task_wait` does, copies the result to `data`, which has room for `capacity` bytes, and frees the task: in one
/// call, which takes less time than these. `*outcome` is filled in as there; its `data` is the one that was given, and its
/// `message`, unless it is empty, is that of `shmworker_last_error`, and there as long as that.
///
/// In a pool that lies in a file the result leaves the file before this returns.
///
/// Only if it returns `SHMWORKER_RESULT_OK` is the task freed. `SHMWORKER_RESULT_TOO_LARGE`: the result has more than `capacity` bytes;
/// `*outcome` was filled in as by `shmworker_task_wait`. Otherwise as there.
///
/// Threads: any, one at a time; others may cancel it meanwhile. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
///
/// # Safety
/// - At `data` there is room for `capacity` bytes, or `capacity` is 0; `outcome` is NULL or as its `size` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_task_finish(
    task: *mut shmworker_task,
    timeout_ms: i64,
    data: *mut c_void,
    capacity: usize,
    outcome: *mut shmworker_outcome,
) -> i32 {
    boundary(|| {
        let found = handle::get::<Task>(task)?;
        // Before the result may come, which is copied once.
        // SAFETY: the caller's word.
        unsafe { check_place("outcome", outcome) }?;
        // SAFETY: the caller's word.
        let place = unsafe { room("data", data.cast(), capacity) }?;
        // It looks out for a while: not for who has less time than that.
        if timeout_ms < 0
            && let Some(landed) = found.land(place)?
        {
            // Or another thread has freed it meanwhile.
            if let Some(removed) = found.remove() {
                Task::free(removed);
            }
            // SAFETY: the caller's word.
            return unsafe { fill("outcome", outcome, || copied(landed, data)) };
        }
        // SAFETY: the caller's word.
        unsafe { finish_slowly(found, at_most(timeout_ms), (data, place), outcome) }
    })
}

/// What is told of a result that was copied.
fn copied(Landed { len, attempts, pid }: Landed, data: *mut c_void) -> shmworker_outcome {
    let (message, data, pid) = (c"".as_ptr(), data.cast_const().cast(), pid.unwrap_or(0));
    shmworker_outcome { attempts, message, data, len, pid, ..Versioned::ZERO }
}

/// # Safety
/// - As for [`shmworker_task_finish`].
#[inline(never)]
unsafe fn finish_slowly(
    found: Pin<'static, Task>,
    at_most: Option<Duration>,
    (data, place): (*mut c_void, &mut [u8]),
    outcome: *mut shmworker_outcome,
) -> Result<(), Error> {
    let kept = found.wait(at_most)?;
    let bytes = kept.ended.bytes().unwrap_or_default();
    let room = place.len();
    let Some(place) = place.get_mut(..bytes.len()) else {
        // SAFETY: the caller's word.
        unsafe { fill("outcome", outcome, || kept.outcome()) }?;
        let why = format_args!("the result has {} bytes, and data has room for {room}", bytes.len());
        return Err(Error::new(Code::TooLarge, why));
    };
    place.copy_from_slice(bytes);
    let message = kept.message.as_ref().map_or(c"".as_ptr(), |message| say(message.clone()));
    let whole = shmworker_outcome { message, data: data.cast_const().cast(), ..kept.outcome() };
    // Or another thread has freed it meanwhile.
    if let Some(removed) = found.remove() {
        Task::free(removed);
    }
    // SAFETY: the caller's word.
    unsafe { fill("outcome", outcome, || whole) }
}

/// Has its end told to the event loop: `shmworker_pool_event_fd` is readable then, and `shmworker_pool_next_event` gives this task and
/// `user_data`, once. A task that has ended by now is told at once. The first call in a pool starts a thread, which waits.
///
/// `SHMWORKER_RESULT_WRONG_TIME`: it was called before, or the pool was freed. `SHMWORKER_RESULT_BUSY`: another thread waits for it.
///
/// Threads: any. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
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
/// Threads: any, also while another waits. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
#[unsafe(no_mangle)]
pub extern "C" fn shmworker_task_cancel(task: *const shmworker_task) -> i32 {
    boundary(|| Ok(handle::get::<Task>(task)?.handle.cancel()?))
}

/// Frees a task, and its result. One that has not ended runs on, and its result is dropped. NULL: nothing is done, and that is
/// `SHMWORKER_RESULT_NULL_ARGUMENT`.
///
/// In a pool that lies in a file the result leaves the file: call it once that is where it is to stay, or if nobody wants it;
/// `shmworker_task_leave` otherwise. A task that no wait has given an outcome stays in the file all the same if its pool was lost: if its
/// coordinator has died, or a pool that was attached to has ended (`SHMWORKER_RESULT_POOL_ENDED`).
///
/// Threads: any, but no other may still read the result. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
#[unsafe(no_mangle)]
pub extern "C" fn shmworker_task_free(task: *mut shmworker_task) -> i32 {
    boundary(|| {
        Task::free(handle::remove::<Task>(task)?);
        Ok(())
    })
}
