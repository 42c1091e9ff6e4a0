//! Raw Temporal lanes: activations and activity tasks as the bytes of Core's own protobuf messages, for the SDKs of other languages.
//! Prose: `docs/ffi.md`, "Raw Temporal lanes".

use crate::{
    error::{Error, boundary},
    handle::{self, Object, Tables},
    options::is_zero,
    slice::{self, Versioned, optional_text, out},
    table::{Pin, Table},
};
use shmworker::{
    lanes::raw::{Lanes, Next, RawError, RawLanes, Stage},
    plugin::abi::shmworker_result as Code,
};
use std::{ffi::c_char, os::fd::AsRawFd, ptr, sync::OnceLock, time::Duration};

/// A process's end of the raw Temporal lanes.
///
/// Usual flow: `shmworker_temporal_attach`, `shmworker_temporal_hello`, `shmworker_temporal_next` for each lane until it is empty,
/// `shmworker_temporal_wait` or `poll` on `shmworker_temporal_fd`, and again until the lanes are closed; meanwhile
/// `shmworker_temporal_complete_workflow`, `shmworker_temporal_complete_activity` and `shmworker_temporal_heartbeat`;
/// `shmworker_temporal_free`.
pub struct shmworker_temporal {
    _opaque: [u8; 0],
}

/// What a process is given. Bits of a set.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum shmworker_temporal_lane {
    /// `coresdk.workflow_activation.WorkflowActivation`s.
    Workflow = 1,
    /// `coresdk.activity_task.ActivityTask`s.
    Activity = 2,
}

/// What `shmworker_temporal_next` has found.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum shmworker_temporal_found {
    /// Nothing at present.
    Empty = 0,
    /// A message.
    Message = 1,
    /// Nothing any more: what the SDK has of it is to be torn down.
    Closed = 2,
}

/// How far a process is in its life.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum shmworker_temporal_stage {
    /// It serves.
    Running = 0,
    /// The pool drains, or this process is asked to make room for another: the SDK is to begin its shutdown, and to answer what
    /// comes until the lanes are closed.
    ShuttingDown = 1,
    /// The pool has ended: nothing is waited for any more.
    Stopped = 2,
}

/// How to attach. Set `size` to `sizeof(shmworker_temporal_options)` and the rest to zeros, then what is to differ.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct shmworker_temporal_options {
    /// `sizeof(shmworker_temporal_options)`.
    pub size: usize,
    /// The name of a running pool. NULL: `shmworker run --workflow-program` or `--activity-program` has started this process, and
    /// its environment says the rest.
    pub pool: *const c_char,
    /// With a name: what this process serves, a set of `shmworker_temporal_lane`. Otherwise 0.
    pub lanes: u32,
    /// With a name: attempts at a time. Otherwise 0.
    pub activity_slots: u32,
    /// Activations that may be given out and not answered at a time. 0: 1.
    pub max_activations: u32,
    /// Zero: room for what comes.
    pub reserved: u32,
}

// SAFETY: it is `repr(C)`, begins with its size, and has no padding: two words of 8 bytes, then four of 4.
unsafe impl Versioned for shmworker_temporal_options {
    const LEAST: usize = size_of::<shmworker_temporal_options>();
    const ZERO: Self = shmworker_temporal_options {
        size: size_of::<shmworker_temporal_options>(),
        pool: ptr::null(),
        lanes: 0,
        activity_slots: 0,
        max_activations: 0,
        reserved: 0,
    };
}

/// What a handle leads to.
pub(crate) struct Temporal {
    lanes: RawLanes,
    /// What the bridge has said of the namespace.
    namespace: OnceLock<Vec<u8>>,
}

impl Object for Temporal {
    type Opaque = shmworker_temporal;
    const WHAT: &'static str = "lanes handle";
    const KIND: usize = 4;

    fn table(all: &Tables) -> &Table<Self> {
        &all.temporal
    }
}

impl From<RawError> for Error {
    fn from(e: RawError) -> Error {
        let code = match &e {
            RawError::Attach(_) | RawError::Refused(_) => Code::Refused,
            RawError::Incompatible(_) => Code::AbiMismatch,
            RawError::NoHello | RawError::Greeted => Code::WrongTime,
            RawError::NoSuchLane | RawError::Malformed(..) => Code::InvalidArgument,
            RawError::Unknown(_) => Code::NotFound,
            RawError::Full(_) => Code::NoSpace,
            RawError::TooLarge(_) => Code::TooLarge,
            RawError::Corrupted(_) => Code::Corrupted,
            RawError::Forked => Code::AnotherProcess,
            RawError::Os(..) => Code::OsError,
            // Closed, the coordinator's end, and what there may be more.
            _ => Code::PoolEnded,
        };
        Error::new(code, e)
    }
}

fn lane(argument: &str, bits: u32) -> Result<Lanes, Error> {
    Lanes::of(bits).ok_or_else(|| {
        Error::invalid(format_args!("{argument} is {bits}: use SHMWORKER_TEMPORAL_LANE_WORKFLOW, .._ACTIVITY, or both"))
    })
}

fn get(lanes: *const shmworker_temporal) -> Result<Pin<'static, Temporal>, Error> {
    handle::get::<Temporal>(lanes)
}

/// Takes this process's seat in a pool that serves Temporal. `options` may be NULL: all zeros.
///
/// `SHMWORKER_RESULT_REFUSED`: there is no seat; the text says why. `SHMWORKER_RESULT_ABI_MISMATCH`: the pool is of another version.
/// With a name this starts a thread; without one it is for once in a process, and the process must be the one that `shmworker run`
/// has started: a script in between has to `exec` it.
///
/// Threads: any; without a name, before any other thread reads or writes the environment. After a fork: a child attaches by itself, by
/// name.
///
/// # Safety
/// - `options` is NULL or as its documentation says; `lanes` is NULL or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_temporal_attach(
    options: *const shmworker_temporal_options,
    lanes: *mut *mut shmworker_temporal,
) -> i32 {
    boundary(|| {
        // SAFETY: the caller's word.
        let place = unsafe { out("lanes", lanes) }?;
        *place = ptr::null_mut();
        // SAFETY: the caller's word.
        let options = unsafe { slice::sized("options", options) }?;
        is_zero("options.reserved", options.reserved)?;
        // SAFETY: the caller's word.
        let pool = unsafe { optional_text("options.pool", options.pool) }?;
        let attached = match pool {
            Some(pool) => {
                let lanes = lane("options.lanes", options.lanes)?;
                if lanes.has(Lanes::ACTIVITIES) && options.activity_slots == 0 {
                    return Err(Error::invalid(
                        "options.activity_slots is 0: give the attempts that may run at a time",
                    ));
                }
                RawLanes::attach(pool, lanes, options.activity_slots)?
            }
            None if options.lanes != 0 || options.activity_slots != 0 => {
                return Err(Error::invalid(
                    "options.lanes and options.activity_slots need options.pool: who started this process has said them",
                ));
            }
            None => RawLanes::invited()?,
        };
        if options.max_activations != 0 {
            attached.set_activations(options.max_activations);
        }
        *place = handle::register(Temporal { lanes: attached, namespace: OnceLock::new() })?;
        Ok(())
    })
}

/// Gives the seat up. What was not answered is failed, and its runs go to other processes. NULL: nothing is done, and that is
/// `SHMWORKER_RESULT_NULL_ARGUMENT`.
///
/// Of a process that the pool has started, what was not answered is failed at once, but the seat is the process's until it ends, and
/// so are its runs: it is to end soon.
///
/// Threads: any; where another thread is in a call, which no longer waits then, the seat is given up when that returns. After a fork:
/// `SHMWORKER_RESULT_STALE_HANDLE` in the child, which has no seat.
#[unsafe(no_mangle)]
pub extern "C" fn shmworker_temporal_free(lanes: *mut shmworker_temporal) -> i32 {
    boundary(|| {
        handle::remove::<Temporal>(lanes)?.lanes.close();
        Ok(())
    })
}

/// Which lanes this process is to serve, a set of `shmworker_temporal_lane`, and how many attempts it is given at a time. Each place
/// may be NULL.
///
/// Threads: any. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
///
/// # Safety
/// - `set` and `activity_slots` are NULL or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_temporal_lanes(
    lanes: *const shmworker_temporal,
    set: *mut u32,
    activity_slots: *mut u32,
) -> i32 {
    boundary(|| {
        // SAFETY: the caller's word.
        let mut set = unsafe { set.as_mut() };
        // SAFETY: the caller's word.
        let mut slots = unsafe { activity_slots.as_mut() };
        for place in [&mut set, &mut slots].into_iter().flatten() {
            **place = 0;
        }
        let temporal = get(lanes)?;
        for (place, value) in [(set, temporal.lanes.lanes().bits()), (slots, temporal.lanes.activity_slots())] {
            if let Some(place) = place {
                *place = value;
            }
        }
        Ok(())
    })
}

/// Says what this process is: a JSON object with any of `namespace`, `workflow_task_queue`, `activity_task_queue`, `build_id`, and the
/// arrays `workflows` and `activities` of all types that are registered. Waits for the answer, and while the process that speaks to
/// the server is being replaced.
///
/// `info`: a `coresdk.NamespaceInfo`, with the namespace's limits; it lives as long as the handle. Both places may be NULL.
/// `SHMWORKER_RESULT_REFUSED`: it doesn't match the pool, as the text says. A process that `shmworker run` started has to end
/// then, and so does the pool, with that text: its successor would be refused as well.
/// `SHMWORKER_RESULT_WRONG_TIME`: it was said before.
///
/// Threads: any, one at a time. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
///
/// # Safety
/// - `config` has `len` bytes; `info` and `info_len` are NULL or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_temporal_hello(
    lanes: *const shmworker_temporal,
    config: *const u8,
    len: usize,
    info: *mut *const u8,
    info_len: *mut usize,
) -> i32 {
    boundary(|| {
        let give = |data, len| {
            // SAFETY: the caller's word.
            if let Some(place) = unsafe { info.as_mut() } {
                *place = data;
            }
            // SAFETY: the caller's word.
            if let Some(place) = unsafe { info_len.as_mut() } {
                *place = len;
            }
        };
        give(ptr::null(), 0);
        let temporal = get(lanes)?;
        // SAFETY: the caller's word.
        let config = unsafe { slice::slice("config", config, len) }?;
        let said = temporal.lanes.hello(config)?;
        let said = temporal.namespace.get_or_init(|| said);
        give(said.as_ptr(), said.len());
        Ok(())
    })
}

/// A descriptor for `poll` and `epoll`: readable when a lane may have something new, its end included. `shmworker_temporal_next` makes
/// it quiet when it finds a lane empty; it is not to be read, written or closed. Starts a thread, the first time.
///
/// Threads: any. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
///
/// # Safety
/// - `fd` is NULL or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_temporal_fd(lanes: *const shmworker_temporal, fd: *mut i32) -> i32 {
    boundary(|| {
        // SAFETY: the caller's word.
        let place = unsafe { out("fd", fd) }?;
        *place = -1;
        *place = get(lanes)?.lanes.fd()?.as_raw_fd();
        Ok(())
    })
}

/// Sleeps until one of these lanes, a set of `shmworker_temporal_lane`, may have something new, its end included, or `timeout_ms`
/// milliseconds are over; negative: however long it takes. May return for no reason.
/// Lanes that this process does not serve are left out; `SHMWORKER_RESULT_INVALID_ARGUMENT` if no others are named.
///
/// Threads: any. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
#[unsafe(no_mangle)]
pub extern "C" fn shmworker_temporal_wait(lanes: *const shmworker_temporal, set: u32, timeout_ms: i64) -> i32 {
    boundary(|| {
        let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
        Ok(get(lanes)?.lanes.wait(lane("set", set)?, timeout)?)
    })
}

/// The next message of a lane, a `shmworker_temporal_lane`. `found`, a `shmworker_temporal_found`, says whether there is one; `data` and
/// `len` are its bytes, in place: they are not to be written to, and valid until the next look into the same lane or until the message
/// is answered, whichever is first. Never waits.
///
/// An error ends this process's part, unless it was misuse: the text says why.
///
/// Threads: any, one at a time for each lane. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
///
/// # Safety
/// - `found`, `data` and `len` are NULL or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_temporal_next(
    lanes: *const shmworker_temporal,
    which: u32,
    found: *mut u32,
    data: *mut *const u8,
    len: *mut usize,
) -> i32 {
    boundary(|| {
        // SAFETY: the caller's word.
        let found = unsafe { out("found", found) }?;
        // SAFETY: the caller's word.
        let data = unsafe { out("data", data) }?;
        // SAFETY: the caller's word.
        let len = unsafe { out("len", len) }?;
        (*found, *data, *len) = (shmworker_temporal_found::Empty as u32, ptr::null(), 0);
        match get(lanes)?.lanes.next(lane("lane", which)?)? {
            Next::Message(message) => {
                (*found, *data, *len) = (shmworker_temporal_found::Message as u32, message.data, message.len);
            }
            Next::Empty => {}
            Next::Closed => *found = shmworker_temporal_found::Closed as u32,
        }
        Ok(())
    })
}

/// Answers an activation with a `coresdk.workflow_completion.WorkflowActivationCompletion`, which names the same run. That of an
/// eviction, which has a job `remove_from_cache`, is due once the run has been torn down: only then may another process have it.
///
/// `SHMWORKER_RESULT_NO_SPACE`: nothing was accepted, and there will be room: try again. `SHMWORKER_RESULT_TOO_LARGE`: nothing
/// was accepted: answer with a failure. `SHMWORKER_RESULT_NOT_FOUND`: it was answered, or belongs to another.
///
/// Threads: any. Never waits. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
///
/// # Safety
/// - `completion` has `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_temporal_complete_workflow(
    lanes: *const shmworker_temporal,
    completion: *const u8,
    len: usize,
) -> i32 {
    // SAFETY: the caller's word.
    boundary(|| Ok(get(lanes)?.lanes.complete_workflow(unsafe { slice::slice("completion", completion, len) }?)?))
}

/// Ends an attempt with a `coresdk.ActivityTaskCompletion`, which has the same task token.
///
/// Results: as for `shmworker_temporal_complete_workflow`.
///
/// Threads: any. Never waits. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
///
/// # Safety
/// - `completion` has `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_temporal_complete_activity(
    lanes: *const shmworker_temporal,
    completion: *const u8,
    len: usize,
) -> i32 {
    // SAFETY: the caller's word.
    boundary(|| Ok(get(lanes)?.lanes.complete_activity(unsafe { slice::slice("completion", completion, len) }?)?))
}

/// Passes on a `coresdk.ActivityHeartbeat`. Its details reach the next attempt even if this process dies at once.
///
/// Results: as for `shmworker_temporal_complete_workflow`; after `SHMWORKER_RESULT_NO_SPACE` the next heartbeat says as much.
///
/// Threads: any. Never waits. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
///
/// # Safety
/// - `heartbeat` has `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_temporal_heartbeat(
    lanes: *const shmworker_temporal,
    heartbeat: *const u8,
    len: usize,
) -> i32 {
    // SAFETY: the caller's word.
    boundary(|| Ok(get(lanes)?.lanes.heartbeat(unsafe { slice::slice("heartbeat", heartbeat, len) }?)?))
}

/// Asks for the eviction of a run that this process has. It comes as an activation, once no other is outstanding.
///
/// `SHMWORKER_RESULT_NOT_FOUND`: this process doesn't have the run. `SHMWORKER_RESULT_NO_SPACE`: try again.
///
/// Threads: any. Never waits. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
///
/// # Safety
/// - `run_id` has `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_temporal_request_eviction(
    lanes: *const shmworker_temporal,
    run_id: *const u8,
    len: usize,
) -> i32 {
    // SAFETY: the caller's word.
    boundary(|| Ok(get(lanes)?.lanes.request_eviction(unsafe { slice::slice("run_id", run_id, len) }?)?))
}

/// How far this process is in its life, a `shmworker_temporal_stage`. A change of it wakes `shmworker_temporal_wait` and makes
/// `shmworker_temporal_fd` readable.
///
/// Threads: any. Never waits. After a fork: `SHMWORKER_RESULT_STALE_HANDLE` in the child.
///
/// # Safety
/// - `stage` is NULL or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shmworker_temporal_stage_of(lanes: *const shmworker_temporal, stage: *mut u32) -> i32 {
    boundary(|| {
        // SAFETY: the caller's word.
        let place = unsafe { out("stage", stage) }?;
        *place = shmworker_temporal_stage::Stopped as u32;
        *place = match get(lanes)?.lanes.stage() {
            Stage::Running => shmworker_temporal_stage::Running,
            Stage::ShuttingDown => shmworker_temporal_stage::ShuttingDown,
            Stage::Stopped => shmworker_temporal_stage::Stopped,
        } as u32;
        Ok(())
    })
}
