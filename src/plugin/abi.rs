//! Handlers as C sees them: what `include/shmworker.h` is made of, as far as contexts and plug-ins go.
//!
//! Everything that a handler calls it reaches through a table of functions that comes with its context, and everything that a
//! plug-in calls through the table that comes with its host. So neither needs a library to link with, and the same handler
//! serves in a plug-in and in a program that is linked with `libshmworker`.
//!
//! # Growth
//!
//! A table or a struct only ever grows at its end, with the minor number; `size` says how much of it there is. The fields of
//! [`shmworker_host`] up to `register_handler`, and those of [`shmworker_handler`] up to `abi_minor`, stay where they are for
//! ever: that is how a plug-in of another major number is told from a good one. A code or a flag is never given another meaning.

#![allow(non_camel_case_types, reason = "these are C's names")]

use std::ffi::{c_char, c_void};

/// Raised when a plug-in or program that was compiled against an older header could misbehave.
pub const SHMWORKER_ABI_MAJOR: u32 = 1;

/// Raised with each addition, which does no harm to what was compiled before.
pub const SHMWORKER_ABI_MINOR: u32 = 2;

/// How a call ended. A code keeps its number for ever.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum shmworker_result {
    /// It is done.
    Ok = 0,

    // 1 to 99: how a handler ends.
    /// From a handler: the task failed, as `shmworker_context_fail` has said. (What else it returns, but 0, is a failure too.)
    Failed = 1,
    /// From a handler: it ended early because the task had been cancelled.
    Cancelled = 2,

    // 100 to 199: what was passed in.
    /// A pointer is NULL that must not be.
    NullArgument = 100,
    /// A number is out of its range, or a struct says a size that it can't have.
    InvalidArgument = 101,
    /// A text is not UTF-8.
    InvalidUtf8 = 102,
    /// There is none.
    NotFound = 103,
    /// The host is older than the header, and does not have this yet.
    Unsupported = 104,
    /// Another handler has this name.
    NameTaken = 105,
    /// Compiled against a header of another major number.
    AbiMismatch = 106,
    /// It can't be called at this time.
    WrongTime = 107,
    /// No such handle: it was freed, or never was one, or is that of a process from which this one was forked.
    StaleHandle = 108,
    /// Another thread is in a call with it.
    Busy = 109,

    // 200 to 299: room.
    /// Larger than any payload may be: 64 MiB; or than the place for it.
    TooLarge = 200,
    /// There is no room or no memory for it.
    NoSpace = 201,

    // 300 to 399: the machinery.
    /// The shared memory is damaged.
    Corrupted = 300,
    /// A bug of shmworker's: it has panicked. What it says is on stderr.
    Panicked = 301,
    /// The kernel has refused a step: the text says which.
    OsError = 302,

    // 400 to 499: pools.
    /// There is nothing yet, or the time to wait is over.
    NotReady = 400,
    /// Somebody has asked the pool to end: it takes nothing more.
    Draining = 401,
    /// The pool has ended, or was shut down.
    PoolEnded = 402,
    /// No pool of this name runs.
    NotRunning = 403,
    /// The pool lets this process not do that.
    Refused = 404,
    /// A pool or a worker could not start.
    NotStarted = 405,
    /// This process has threads: it can't be forked.
    HasThreads = 406,
    /// The pool is that of a process from which this one was forked.
    AnotherProcess = 407,
    /// The state file is in use: by another pool, or by a process that has something of one that has died.
    FileInUse = 408,
    /// Nobody can go on with the state file, or a journal beside it, as it is: the text says why.
    FileUnfit = 409,

    // 500 to 599: how a task ended that has no result.
    /// Its handler gave a failure.
    TaskFailed = 500,
    /// Its handler panicked.
    TaskPanicked = 501,
    /// Its worker died over it.
    TaskDied = 502,
    /// It ran, or was silent, for longer than it may.
    TaskTimedOut = 503,
    /// It was cancelled.
    TaskCancelled = 504,
    /// It waited for longer than it may.
    TaskExpired = 505,
    /// The workers have no such handler.
    TaskUnknown = 506,
}

/// Which fact `shmworker_context_info` is to give.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum shmworker_info {
    /// The name under which the handler is registered. There always is one.
    Name = 0,
    /// Temporal: the namespace.
    Namespace = 1,
    /// Temporal: the task queue from which the activity came.
    TaskQueue = 2,
    /// Temporal: the activity's id, the same in all attempts.
    ActivityId = 3,
    /// Temporal: the id of the workflow that asked for it.
    WorkflowId = 4,
    /// Temporal: the run of that workflow.
    WorkflowRunId = 5,
    /// Temporal: the type of that workflow.
    WorkflowType = 6,
}

/// How important a line of the log is.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum shmworker_log_level {
    /// Something is wrong.
    Error = 1,
    /// Something may be wrong.
    Warn = 2,
    /// Something to know.
    Info = 3,
    /// Something for who looks for a fault.
    Debug = 4,
}

/// Bytes with their encoding.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct shmworker_payload {
    /// The bytes, in place: they are not to be written to. May be NULL if there are none.
    pub data: *const u8,
    /// How many.
    pub len: usize,
    /// Temporal's name of the encoding: `json/plain`, `binary/plain`, `binary/null` (no value at all), or another. Never NULL;
    /// empty if it isn't known. In a pool without Temporal `binary/plain`, or `json/plain` for what was submitted as JSON.
    pub encoding: *const c_char,
}

/// Why a task failed, for `shmworker_context_fail_with`. Set `size` to `sizeof(shmworker_failure)` and the rest to zeros, then
/// what is to be said.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct shmworker_failure {
    /// `sizeof(shmworker_failure)`.
    pub size: usize,
    /// What happened, for people. UTF-8.
    pub message: *const c_char,
    /// A name for programs to go by, such as `CardExpired`. NULL: none.
    pub r#type: *const c_char,
    /// No further attempt: it would fail as well.
    pub non_retryable: bool,
    /// Milliseconds until the next attempt, if there is one. 0: as the retry policy says. Not used in a pool without Temporal.
    pub next_retry_delay_ms: u64,
    /// Facts beside the message, for programs. NULL: none. Not used in a pool without Temporal.
    pub details: *const u8,
    /// How many bytes of details.
    pub details_len: usize,
    /// Their encoding. NULL: `binary/plain`.
    pub details_encoding: *const c_char,
}

/// What a handler sees of the attempt that it runs, and what it can say meanwhile: for the `shmworker_context_` functions.
///
/// It lives until the handler returns, and belongs to the thread on which the handler was called: other threads that the handler
/// starts must not use it.
#[repr(C)]
#[derive(Debug)]
pub struct shmworker_context {
    /// Not to be used directly: the `shmworker_context_` functions do.
    pub functions: *const shmworker_context_functions,
}

/// What `shmworker_context_` functions call. Not to be used directly.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the functions of the header, which call these, say what each does")]
pub struct shmworker_context_functions {
    /// How many bytes of this table there are.
    pub size: usize,
    pub info: unsafe extern "C" fn(context: *mut shmworker_context, which: u32) -> *const c_char,
    pub attempt: unsafe extern "C" fn(context: *const shmworker_context) -> u32,
    pub argument_count: unsafe extern "C" fn(context: *const shmworker_context) -> usize,
    pub argument:
        unsafe extern "C" fn(context: *mut shmworker_context, index: usize, payload: *mut shmworker_payload) -> i32,
    pub metadata: unsafe extern "C" fn(
        context: *const shmworker_context,
        index: usize,
        key: *const c_char,
        data: *mut *const u8,
        len: *mut usize,
    ) -> i32,
    pub reserve: unsafe extern "C" fn(context: *mut shmworker_context, len: usize, place: *mut *mut u8) -> i32,
    pub set_length: unsafe extern "C" fn(context: *mut shmworker_context, len: usize) -> i32,
    pub set_encoding: unsafe extern "C" fn(context: *mut shmworker_context, encoding: *const c_char) -> i32,
    pub set_result: unsafe extern "C" fn(
        context: *mut shmworker_context,
        data: *const u8,
        len: usize,
        encoding: *const c_char,
    ) -> i32,
    pub fail: unsafe extern "C" fn(context: *mut shmworker_context, failure: *const shmworker_failure) -> i32,
    pub is_cancelled: unsafe extern "C" fn(context: *const shmworker_context) -> bool,
    pub is_worker_shutdown: unsafe extern "C" fn(context: *const shmworker_context) -> bool,
    pub time_left_ms: unsafe extern "C" fn(context: *const shmworker_context) -> i64,
    pub heartbeat: unsafe extern "C" fn(context: *mut shmworker_context) -> i32,
    pub progress: unsafe extern "C" fn(context: *mut shmworker_context, done: u64, total: u64) -> i32,
    pub checkpoint: unsafe extern "C" fn(
        context: *mut shmworker_context,
        data: *const u8,
        len: usize,
        encoding: *const c_char,
    ) -> i32,
    pub last_checkpoint: unsafe extern "C" fn(context: *mut shmworker_context, payload: *mut shmworker_payload) -> i32,
    pub state: unsafe extern "C" fn(context: *const shmworker_context) -> *mut c_void,
}

/// Runs one attempt of a task. Returns `SHMWORKER_RESULT_OK`, and then the result is what it has left in its context (nothing, if
/// it has left nothing); or `SHMWORKER_RESULT_CANCELLED`; or any other number: the attempt failed.
///
/// It is called on several threads at a time. It must not throw a C++ exception to its caller, nor leave by `longjmp`: either
/// ends the process or worse. If it crashes it takes its process with it: its task has failed by that signal, or is attempted
/// again, and another process takes the place of this one.
pub type shmworker_handler_fn =
    Option<unsafe extern "C" fn(context: *mut shmworker_context, user_data: *mut c_void) -> i32>;

/// For `shmworker_handler.flags`. Temporal: heartbeats go out by themselves, a third of the heartbeat timeout after the last
/// one. For a handler that waits for something else; one that can hang should call `shmworker_context_heartbeat` as it gets on.
pub const SHMWORKER_HANDLER_AUTO_HEARTBEAT: u32 = 1;

/// A handler, for `register_handler` of `shmworker_host`; `shmworker_host_handler` fills it in.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct shmworker_handler {
    /// `sizeof(shmworker_handler)`.
    pub size: usize,
    /// `SHMWORKER_ABI_MAJOR`.
    pub abi_major: u32,
    /// `SHMWORKER_ABI_MINOR`.
    pub abi_minor: u32,
    /// The name of its tasks, or of its Temporal activity. UTF-8; it is copied.
    pub name: *const c_char,
    /// What runs.
    pub run: shmworker_handler_fn,
    /// Passed to `run` as it is.
    pub user_data: *mut c_void,
    /// `SHMWORKER_HANDLER_...`, or 0.
    pub flags: u32,
    /// Temporal: an attempt that still runs so many milliseconds after it was cancelled is ended by killing its process, with all
    /// that run there. 0: none is.
    pub kill_after_ms: u64,
}

/// Makes what the handlers of a plug-in share in one process, a connection or a model, and leaves it in `*state`: it is called
/// once, in each process before its first task. Other than 0: it could not, and the process ends.
pub type shmworker_init_fn = Option<unsafe extern "C" fn(user_data: *mut c_void, state: *mut *mut c_void) -> i32>;

/// Undoes `init`: it is called when the process ends in order, after its last task.
pub type shmworker_exit_fn = Option<unsafe extern "C" fn(user_data: *mut c_void, state: *mut c_void)>;

/// What a plug-in is given. It stays for as long as the process does, and may be used on any thread.
#[repr(C)]
#[derive(Debug)]
pub struct shmworker_host {
    /// How many bytes of this table there are.
    pub size: usize,
    /// `SHMWORKER_ABI_MAJOR` of the host.
    pub abi_major: u32,
    /// `SHMWORKER_ABI_MINOR` of the host.
    pub abi_minor: u32,
    /// The host's own.
    pub handle: *mut c_void,
    /// Registers a handler; for `shmworker_register` only.
    pub register_handler: unsafe extern "C" fn(host: *const shmworker_host, handler: *const shmworker_handler) -> i32,
    /// Registers what makes and undoes the state of a process; once, and for `shmworker_register` only. Either may be NULL.
    pub register_state: unsafe extern "C" fn(
        host: *const shmworker_host,
        init: shmworker_init_fn,
        exit: shmworker_exit_fn,
        user_data: *mut c_void,
    ) -> i32,
    /// Writes a line of the log, `level` being a `shmworker_log_level`. It goes where the host's own log goes; what a plug-in writes
    /// to stderr always arrives.
    pub log: unsafe extern "C" fn(host: *const shmworker_host, level: u32, message: *const c_char) -> i32,
    /// The version of the host, as `"major.minor.patch"`.
    pub version: *const c_char,
}

/// The one function that a plug-in has to define, by `SHMWORKER_PLUGIN`, under the name `shmworker_register`: it registers the
/// handlers of the plug-in. It is called once in each process that loads the plug-in, before any task. Other than 0: it could not,
/// and the plug-in is refused.
pub type shmworker_register_fn = Option<unsafe extern "C" fn(host: *const shmworker_host) -> i32>;
