//! What a call returns: a code, and a text beside it for people.

use shmworker::{
    Corrupted, JournalError, SegmentCreateError, SegmentOpenError, StateError, SubmitError,
    plugin::abi::shmworker_result as Code,
    pool::{AnotherProcess, AttachError, ControlError, PoolError, StartError, TaskError, UnknownTask, WorkError},
};
use std::{
    cell::RefCell,
    ffi::{CStr, CString, c_char},
    fmt::Display,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Why a call failed.
#[derive(Debug)]
pub(crate) struct Error {
    pub(crate) code: Code,
    text: String,
}

impl Error {
    pub(crate) fn new(code: Code, text: impl Display) -> Error {
        Error { code, text: text.to_string() }
    }

    pub(crate) fn null(argument: &str) -> Error {
        Error::new(Code::NullArgument, format_args!("{argument} is NULL"))
    }

    pub(crate) fn invalid(text: impl Display) -> Error {
        Error::new(Code::InvalidArgument, text)
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Text for C: what stands behind a NUL in it is lost.
pub(crate) fn c_string(text: &str) -> CString {
    let text = text.split('\0').next().unwrap_or_default();
    CString::new(text).unwrap_or_default()
}

/// Makes this the thread's last error, where nothing has failed: what a call has to say beside its code. It is there as long as that.
pub(crate) fn say(text: CString) -> *const c_char {
    // A thread that ends has no use for it.
    LAST.try_with(|last| {
        *last.borrow_mut() = text;
        last.borrow().as_ptr()
    })
    .unwrap_or(c"".as_ptr())
}

/// Runs the body of an entry point: no panic crosses, and what went wrong is this thread's last error.
pub(crate) fn boundary(body: impl FnOnce() -> Result<(), Error>) -> i32 {
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        Err(Error::new(Code::Panicked, "a bug of shmworker's, of which stderr says more; please report it"))
    });
    match result {
        Ok(()) => Code::Ok as i32,
        Err(Error { code, text }) => {
            say(c_string(&text));
            code as i32
        }
    }
}

/// Why the last call that failed on this thread did. Empty if none has. It is there until the next one fails on this thread, or
/// tells in an outcome why a task failed (`message`), or the thread ends; not to be freed.
///
/// Threads: any. After a fork: the child's is its own.
#[unsafe(no_mangle)]
pub extern "C" fn shmworker_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// The name of a code, as this header has it: "SHMWORKER_RESULT_OK". "unknown" for a number that is none. Never NULL; not to be freed.
///
/// Threads: any. After a fork: as before.
#[unsafe(no_mangle)]
pub extern "C" fn shmworker_result_name(code: i32) -> *const c_char {
    name(code).as_ptr()
}

macro_rules! names {
    ($($variant:ident $name:literal,)+) => {
        fn name(code: i32) -> &'static CStr {
            $(if code == Code::$variant as i32 { return $name; })+
            c"unknown"
        }
    };
}
names! {
    Ok c"SHMWORKER_RESULT_OK",
    Failed c"SHMWORKER_RESULT_FAILED",
    Cancelled c"SHMWORKER_RESULT_CANCELLED",
    NullArgument c"SHMWORKER_RESULT_NULL_ARGUMENT",
    InvalidArgument c"SHMWORKER_RESULT_INVALID_ARGUMENT",
    InvalidUtf8 c"SHMWORKER_RESULT_INVALID_UTF8",
    NotFound c"SHMWORKER_RESULT_NOT_FOUND",
    Unsupported c"SHMWORKER_RESULT_UNSUPPORTED",
    NameTaken c"SHMWORKER_RESULT_NAME_TAKEN",
    AbiMismatch c"SHMWORKER_RESULT_ABI_MISMATCH",
    WrongTime c"SHMWORKER_RESULT_WRONG_TIME",
    StaleHandle c"SHMWORKER_RESULT_STALE_HANDLE",
    Busy c"SHMWORKER_RESULT_BUSY",
    TooLarge c"SHMWORKER_RESULT_TOO_LARGE",
    NoSpace c"SHMWORKER_RESULT_NO_SPACE",
    Corrupted c"SHMWORKER_RESULT_CORRUPTED",
    Panicked c"SHMWORKER_RESULT_PANICKED",
    NotReady c"SHMWORKER_RESULT_NOT_READY",
    Draining c"SHMWORKER_RESULT_DRAINING",
    PoolEnded c"SHMWORKER_RESULT_POOL_ENDED",
    NotRunning c"SHMWORKER_RESULT_NOT_RUNNING",
    Refused c"SHMWORKER_RESULT_REFUSED",
    NotStarted c"SHMWORKER_RESULT_NOT_STARTED",
    HasThreads c"SHMWORKER_RESULT_HAS_THREADS",
    AnotherProcess c"SHMWORKER_RESULT_ANOTHER_PROCESS",
    FileInUse c"SHMWORKER_RESULT_FILE_IN_USE",
    FileUnfit c"SHMWORKER_RESULT_FILE_UNFIT",
    OsError c"SHMWORKER_RESULT_OS_ERROR",
    TaskFailed c"SHMWORKER_RESULT_TASK_FAILED",
    TaskPanicked c"SHMWORKER_RESULT_TASK_PANICKED",
    TaskDied c"SHMWORKER_RESULT_TASK_DIED",
    TaskTimedOut c"SHMWORKER_RESULT_TASK_TIMED_OUT",
    TaskCancelled c"SHMWORKER_RESULT_TASK_CANCELLED",
    TaskExpired c"SHMWORKER_RESULT_TASK_EXPIRED",
    TaskUnknown c"SHMWORKER_RESULT_TASK_UNKNOWN",
}

// ---- what the library says ------------------------------------------------------------------------------------------

impl From<Corrupted> for Error {
    fn from(e: Corrupted) -> Error {
        Error::new(Code::Corrupted, e)
    }
}

impl From<AnotherProcess> for Error {
    fn from(e: AnotherProcess) -> Error {
        Error::new(Code::AnotherProcess, e)
    }
}

impl From<PoolError> for Error {
    fn from(e: PoolError) -> Error {
        let code = match &e {
            PoolError::Task(UnknownTask::Types { .. })
            | PoolError::Codec(_)
            | PoolError::AnotherPool
            | PoolError::Key(_) => Code::InvalidArgument,
            PoolError::Journal(_) => Code::OsError,
            PoolError::Task(_) => Code::TaskUnknown,
            PoolError::Queue { .. } => Code::NotFound,
            PoolError::Draining => Code::Draining,
            PoolError::AnotherProcess(_) => Code::AnotherProcess,
            PoolError::Submit(SubmitError::TooLarge { .. }) => Code::TooLarge,
            PoolError::Submit(SubmitError::Full(_) | SubmitError::NoSpace(_) | SubmitError::Reserved(_)) => {
                Code::NoSpace
            }
            PoolError::Submit(SubmitError::Corrupted(_)) => Code::Corrupted,
            _ => Code::PoolEnded,
        };
        Error::new(code, e)
    }
}

/// How a task ended that has no result.
pub(crate) fn code_of(e: &TaskError) -> Code {
    match e {
        TaskError::Failed(_) | TaskError::Codec(_) | TaskError::TooDeep(_) | TaskError::NotSubmitted(_) => {
            Code::TaskFailed
        }
        TaskError::Panicked(_) => Code::TaskPanicked,
        TaskError::Died(_) | TaskError::AddresseeDied => Code::TaskDied,
        TaskError::TimedOut(_) => Code::TaskTimedOut,
        TaskError::Cancelled => Code::TaskCancelled,
        TaskError::Expired => Code::TaskExpired,
        TaskError::Unknown => Code::TaskUnknown,
        TaskError::Corrupted(_) => Code::Corrupted,
        TaskError::AnotherProcess(_) => Code::AnotherProcess,
        _ => Code::PoolEnded,
    }
}

impl From<TaskError> for Error {
    fn from(e: TaskError) -> Error {
        Error::new(code_of(&e), e)
    }
}

impl From<StartError> for Error {
    fn from(e: StartError) -> Error {
        match e {
            StartError::Threads(n) => Error::new(
                Code::HasThreads,
                format_args!(
                    "this process has {n} threads, of which a fork would copy the locks and not the threads: make the \
                     pool before any thread is started, or with shmworker_pool_exec"
                ),
            ),
            StartError::Ended(how) => Error::new(
                Code::NotStarted,
                format_args!(
                    "the process that was to be the pool's coordinator ended with {how} before it was that: a worker program must call \
                     shmworker_worker_run, with NULL for the pool"
                ),
            ),
            StartError::TimedOut(at_most) => Error::new(
                Code::NotStarted,
                format_args!(
                    "the pool has not started its workers within {at_most:?} (options.start_timeout_ms): a worker program must call \
                     shmworker_worker_run, with NULL for the pool, and soon"
                ),
            ),
            StartError::Segment(SegmentCreateError::NoSpace(_)) => Error::new(Code::NoSpace, e),
            StartError::Corrupted(_) => Error::new(Code::Corrupted, e),
            StartError::Os { .. } => Error::new(Code::OsError, e),
            StartError::State(e) => e.into(),
            e => Error::new(Code::NotStarted, e),
        }
    }
}

impl From<StateError> for Error {
    fn from(e: StateError) -> Error {
        let code = match &e {
            StateError::Create(SegmentCreateError::InUse { .. }) | StateError::Journal(JournalError::InUse { .. }) => {
                Code::FileInUse
            }
            StateError::Create(SegmentCreateError::NoSpace(_)) => Code::NoSpace,
            StateError::Create(SegmentCreateError::Os { .. } | SegmentCreateError::At { .. })
            | StateError::Rename { .. }
            | StateError::Journal(JournalError::Os { .. }) => Code::OsError,
            StateError::Open { source: SegmentOpenError::VersionMismatch { .. }, .. }
            | StateError::Journal(JournalError::Version { .. }) => Code::AbiMismatch,
            StateError::ClientName(_) => Code::InvalidArgument,
            StateError::Damaged { .. } | StateError::Corrupted { .. } => Code::Corrupted,
            _ => Code::FileUnfit,
        };
        Error::new(code, e)
    }
}

impl From<ControlError> for Error {
    fn from(e: ControlError) -> Error {
        let code = if let ControlError::Refused(_) = e { Code::Refused } else { Code::PoolEnded };
        Error::new(code, e)
    }
}

impl From<AttachError> for Error {
    fn from(e: AttachError) -> Error {
        let code = match e {
            AttachError::NotRunning(_) => Code::NotRunning,
            AttachError::Refused(_) => Code::Refused,
            AttachError::Incompatible(_) => Code::AbiMismatch,
            AttachError::PoolName(_) | AttachError::ClientName(_) => Code::InvalidArgument,
            AttachError::Journal(_) => Code::FileUnfit,
            _ => Code::OsError,
        };
        Error::new(code, e)
    }
}

impl From<WorkError> for Error {
    fn from(e: WorkError) -> Error {
        match e {
            WorkError::Attach(e) => e.into(),
            e => Error::new(Code::NotStarted, e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_header_has_its_name() {
        let header = include_str!("../include/shmworker.h");
        let line = |line: &'static str| line.trim().strip_suffix(',')?.split_once(" = ");
        let codes: Vec<_> =
            header.lines().filter_map(line).filter(|(n, _)| n.starts_with("SHMWORKER_RESULT_")).collect();
        assert!(codes.len() > 30, "{codes:?}");
        for (known, code) in codes {
            assert_eq!(name(code.parse().unwrap()).to_str(), Ok(known), "{code}");
        }
        assert_eq!(name(-1), c"unknown");
    }
}
