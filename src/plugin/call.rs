//! One call of a handler in C: the context that it is given, and what comes of it.
//!
//! The functions of the table below are the only way from C into an attempt. None of them lets a panic out, and none trusts a
//! pointer to be there.

use super::abi::*;
use std::{
    borrow::Cow,
    ffi::{CStr, CString, c_char, c_void},
    fmt,
    marker::PhantomData,
    mem::{MaybeUninit, offset_of},
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr::{NonNull, null, null_mut},
    slice,
    time::Duration,
};

pub(crate) const JSON: &str = "json/plain";
pub(crate) const BINARY: &str = "binary/plain";

/// Bytes with Temporal's name of their encoding.
#[derive(Clone, Copy)]
pub(crate) struct Payload<'p> {
    pub(crate) data: &'p [u8],
    pub(crate) encoding: &'p str,
}

/// An attempt of a task, whatever it came from: what stands behind a context.
pub(crate) trait Attempt {
    fn info(&self, which: shmworker_info) -> Option<&str>;
    /// From 1.
    fn number(&self) -> u32;
    fn arguments(&self) -> usize;
    fn argument(&self, index: usize) -> Option<Payload<'_>>;
    fn metadata(&self, index: usize, key: &str) -> Option<&[u8]>;
    /// Room for the result, in place of what was reserved before.
    fn reserve(&mut self, len: usize) -> Result<&mut [u8], shmworker_result>;
    /// No more than were reserved.
    fn truncate(&mut self, len: usize) -> Result<(), shmworker_result>;
    fn is_cancelled(&self) -> bool;
    fn is_worker_shutdown(&self) -> bool;
    fn time_left(&self) -> Option<Duration>;
    fn heartbeat(&mut self);
    fn progress(&mut self, done: u64, total: u64);
    fn checkpoint(&mut self, details: Payload<'_>) -> Result<(), shmworker_result>;
    /// What it gives stays where it is.
    fn last_checkpoint(&mut self) -> Result<Option<Payload<'_>>, shmworker_result>;
}

/// A handler as it was registered.
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(super) run: unsafe extern "C" fn(*mut shmworker_context, *mut c_void) -> i32,
    pub(super) user_data: *mut c_void,
    pub(crate) auto_heartbeat: bool,
    pub(crate) kill_after: Option<Duration>,
}

// SAFETY: who registers a handler is told that it is called on several threads (`shmworker_handler_fn`), with this pointer.
unsafe impl Send for Entry {}
// SAFETY: as above.
unsafe impl Sync for Entry {}

impl Entry {
    /// A handler that a program brings itself.
    #[cfg(feature = "pool")]
    pub(crate) fn new(
        name: String,
        run: unsafe extern "C" fn(*mut shmworker_context, *mut c_void) -> i32,
        user_data: *mut c_void,
    ) -> Entry {
        Entry { name, run, user_data, auto_heartbeat: false, kill_after: None }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Entry").field(&self.name).finish()
    }
}

/// What the handlers of one library share in this process; NULL, if nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct State(pub(crate) *mut c_void);

// SAFETY: who registers a state is told that the handlers are called on several threads, each of which is given this pointer.
unsafe impl Send for State {}
// SAFETY: as above.
unsafe impl Sync for State {}

/// How a handler has ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With the result for which it has reserved room, or with none.
    Well {
        has_result: bool,
        encoding: Cow<'static, str>,
    },
    Cancelled,
    /// In a box: an end that is good is to be moved at no cost.
    Badly(Box<Failed>),
}

/// Why a handler has failed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) message: String,
    pub(crate) type_name: Option<String>,
    pub(crate) is_permanent: bool,
    pub(crate) next_retry_delay: Option<Duration>,
    /// With their encoding.
    pub(crate) details: Option<(Vec<u8>, String)>,
}

/// What a `shmworker_context` is.
#[repr(C)]
struct Call<'a, A> {
    /// First, so that its address is that of the call.
    context: shmworker_context,
    attempt: &'a mut A,
    state: State,
    /// Texts that were given out: they stay until the call is over.
    texts: Vec<CString>,
    /// Where the result lies, and how long it is.
    reserved: Option<Range<usize>>,
    encoding: Option<String>,
    failed: Option<Box<Failed>>,
}

impl Entry {
    /// Runs one attempt on this thread.
    #[inline]
    pub(crate) fn call<A: Attempt>(&self, attempt: &mut A, state: State) -> Ended {
        let context = shmworker_context { functions: &Functions::<A>::TABLE };
        let (texts, reserved, encoding, failed) = Default::default();
        let mut call = Call { context, attempt, state, texts, reserved, encoding, failed };
        let context: *mut Call<'_, A> = &mut call;
        // SAFETY: a handler of this type was registered (`shmworker_handler_fn`); the context is used by it alone, on this thread,
        // until it returns, and is a `Call`, which begins with one.
        let code = unsafe { (self.run)(context.cast(), self.user_data) };
        match (code, call.failed) {
            (OK, _) => {
                let has_result = call.reserved.is_some();
                let usual = if has_result { BINARY } else { "binary/null" };
                let encoding = call.encoding.map_or(Cow::Borrowed(usual), Cow::Owned);
                Ended::Well { has_result, encoding }
            }
            (CANCELLED, _) => Ended::Cancelled,
            (_, Some(failed)) => Ended::Badly(failed),
            (code, None) => Ended::Badly(self.returned(code)),
        }
    }

    /// It has said nothing else.
    #[cold]
    fn returned(&self, code: i32) -> Box<Failed> {
        let known = named(code).map_or(String::new(), |known| format!(" ({known:?})"));
        let message = format!("the handler {:?} returned {code}{known}", self.name);
        Box::new(Failed { message, ..Failed::default() })
    }
}

const OK: i32 = shmworker_result::Ok as i32;
const CANCELLED: i32 = shmworker_result::Cancelled as i32;

/// The code that this number is.
pub(super) fn named(code: i32) -> Option<shmworker_result> {
    use shmworker_result::*;
    [
        Ok,
        Failed,
        Cancelled,
        NullArgument,
        InvalidArgument,
        InvalidUtf8,
        NotFound,
        Unsupported,
        NameTaken,
        AbiMismatch,
        WrongTime,
        TooLarge,
        NoSpace,
        Corrupted,
        Panicked,
    ]
    .into_iter()
    .find(|known| *known as i32 == code)
}

fn info_of(which: u32) -> Option<shmworker_info> {
    use shmworker_info::*;
    [Name, Namespace, TaskQueue, ActivityId, WorkflowId, WorkflowRunId, WorkflowType]
        .into_iter()
        .find(|known| *known as u32 == which)
}

/// What C is answered. A panic is a bug of ours, which the panic hook has reported.
pub(super) fn answer(code: impl FnOnce() -> Result<(), shmworker_result>) -> i32 {
    match catch_unwind(AssertUnwindSafe(code)) {
        Ok(Ok(())) => OK,
        Ok(Err(refused)) => refused as i32,
        Err(_) => shmworker_result::Panicked as i32,
    }
}

/// A text of C's; `None`: NULL.
///
/// # Safety
/// - NULL, or a text that ends with a NUL and stays as it is for `'t`.
pub(super) unsafe fn text<'t>(text: *const c_char) -> Result<Option<&'t str>, shmworker_result> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's word.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map(Some).map_err(|_| shmworker_result::InvalidUtf8)
}

/// Bytes of C's.
///
/// # Safety
/// - NULL, or so many bytes that stay as they are for `'b`.
unsafe fn bytes<'b>(data: *const u8, len: usize) -> Result<&'b [u8], shmworker_result> {
    match (NonNull::new(data.cast_mut()), len) {
        (_, 0) => Ok(&[]),
        (None, _) => Err(shmworker_result::NullArgument),
        (_, len) if len > isize::MAX as usize => Err(shmworker_result::TooLarge),
        // SAFETY: the caller's word, and no longer than any object is.
        (Some(data), len) => Ok(unsafe { slice::from_raw_parts(data.as_ptr(), len) }),
    }
}

/// A struct of C's that begins with its size: of an older minor number it is shorter, and what it lacks is zero; of a newer one
/// longer, and what is more is not looked at. `least`: the size that it had at first.
///
/// # Safety
/// - NULL, or a `T` as far as its size says, and zeros are good for the rest.
pub(super) unsafe fn sized<T: Copy>(from: *const T, least: usize) -> Result<T, shmworker_result> {
    let from = NonNull::new(from.cast_mut()).ok_or(shmworker_result::NullArgument)?;
    // SAFETY: the caller's word: the size comes first.
    let size = unsafe { from.cast::<usize>().read() };
    if size < least {
        return Err(shmworker_result::InvalidArgument);
    }
    let mut value = MaybeUninit::<T>::zeroed();
    let (bytes, len) = (from.as_ptr().cast::<u8>(), size.min(size_of::<T>()));
    // SAFETY: so many bytes are there (the caller's word), and have room; they are two objects.
    unsafe { bytes.copy_to_nonoverlapping(value.as_mut_ptr().cast(), len) };
    // SAFETY: C's bytes, and zeros behind them, are a `T`: the caller's word.
    Ok(unsafe { value.assume_init() })
}

/// Leaves a value where C wants it.
///
/// # Safety
/// - NULL, or a place for a `T`.
unsafe fn leave<T>(place: *mut T, value: T) -> Result<(), shmworker_result> {
    let place = NonNull::new(place).ok_or(shmworker_result::NullArgument)?;
    // SAFETY: the caller's word.
    unsafe { place.write(value) };
    Ok(())
}

/// The call whose context this is; `None`: NULL.
///
/// # Safety
/// - NULL, or a context that a handler was given and has not returned from, on the handler's thread, and in no other use.
unsafe fn call<'c, A: Attempt>(context: *const shmworker_context) -> Option<&'c mut Call<'c, A>> {
    // SAFETY: `Entry::call` makes contexts, each at the beginning of its `Call`, with the table of its kind of attempt, by which
    // alone this is called; the rest is the caller's word.
    unsafe { context.cast_mut().cast::<Call<'c, A>>().as_mut() }
}

/// What a getter gives, or what it gives for want of a context.
///
/// # Safety
/// - As for [`call`].
unsafe fn get<A: Attempt, R>(
    context: *const shmworker_context,
    otherwise: R,
    code: impl FnOnce(&mut Call<'_, A>) -> R,
) -> R {
    // SAFETY: the caller's word.
    let Some(call) = (unsafe { call(context) }) else { return otherwise };
    catch_unwind(AssertUnwindSafe(|| code(call))).unwrap_or(otherwise)
}

/// What a call gives, as a code.
///
/// # Safety
/// - As for [`call`].
unsafe fn with<A: Attempt>(
    context: *const shmworker_context,
    code: impl FnOnce(&mut Call<'_, A>) -> Result<(), shmworker_result>,
) -> i32 {
    // SAFETY: the caller's word.
    let Some(call) = (unsafe { call(context) }) else { return shmworker_result::NullArgument as i32 };
    answer(|| code(call))
}

/// The text for C, which stays for as long as `texts`.
#[inline(always)]
fn keep(texts: &mut Vec<CString>, text: &str) -> *const c_char {
    // Each argument comes by here: compared with what is known by then, and no call.
    match text {
        BINARY => c"binary/plain".as_ptr(),
        JSON => c"json/plain".as_ptr(),
        "binary/null" => c"binary/null".as_ptr(),
        "" => c"".as_ptr(),
        _ => keep_another(texts, text),
    }
}

#[cold]
fn keep_another(texts: &mut Vec<CString>, text: &str) -> *const c_char {
    let at = texts.iter().position(|kept| kept.to_bytes() == text.as_bytes()).unwrap_or_else(|| {
        // A text of Temporal's with a NUL in it ends there.
        let end = text.find('\0').unwrap_or(text.len());
        texts.push(CString::new(&text[..end]).unwrap_or_default());
        texts.len() - 1
    });
    texts[at].as_ptr()
}

// In registers: to move what was just written waits for it.
#[inline(always)]
fn payload(texts: &mut Vec<CString>, payload: Payload<'_>) -> shmworker_payload {
    let Payload { data, encoding } = payload;
    shmworker_payload { data: data.as_ptr(), len: data.len(), encoding: keep(texts, encoding) }
}

impl<A: Attempt> Call<'_, A> {
    fn reserve(&mut self, len: usize) -> Result<&mut [u8], shmworker_result> {
        (self.reserved, self.encoding) = (None, None);
        let place = self.attempt.reserve(len)?;
        let at = place.as_ptr().addr();
        self.reserved = Some(at..at + len);
        Ok(place)
    }

    fn leave(&mut self, result: &[u8]) -> Result<(), shmworker_result> {
        self.reserve(result.len())?.copy_from_slice(result);
        Ok(())
    }
}

/// The functions by which handlers reach attempts of one kind.
struct Functions<A>(PhantomData<A>);

impl<A: Attempt> Functions<A> {
    const TABLE: shmworker_context_functions = shmworker_context_functions {
        size: size_of::<shmworker_context_functions>(),
        info: info::<A>,
        attempt: attempt::<A>,
        argument_count: argument_count::<A>,
        argument: argument::<A>,
        metadata: metadata::<A>,
        reserve: reserve::<A>,
        set_length: set_length::<A>,
        set_encoding: set_encoding::<A>,
        set_result: set_result::<A>,
        fail: fail::<A>,
        is_cancelled: is_cancelled::<A>,
        is_worker_shutdown: is_worker_shutdown::<A>,
        time_left_ms: time_left_ms::<A>,
        heartbeat: heartbeat::<A>,
        progress: progress::<A>,
        checkpoint: checkpoint::<A>,
        last_checkpoint: last_checkpoint::<A>,
        state: state::<A>,
    };
}

// In all that follow the context is the one that the handler was given, used on its thread until it returns: that is what
// `shmworker_context` says in the header, and what each SAFETY means by "the header's word".

unsafe extern "C" fn info<A: Attempt>(context: *mut shmworker_context, which: u32) -> *const c_char {
    let info = |call: &mut Call<'_, A>| {
        let fact = info_of(which).and_then(|which| call.attempt.info(which));
        fact.map_or(null(), |fact| keep(&mut call.texts, fact))
    };
    // SAFETY: the header's word.
    unsafe { get::<A, _>(context, null(), info) }
}

unsafe extern "C" fn attempt<A: Attempt>(context: *const shmworker_context) -> u32 {
    // SAFETY: the header's word.
    unsafe { get::<A, _>(context, 0, |call| call.attempt.number()) }
}

unsafe extern "C" fn argument_count<A: Attempt>(context: *const shmworker_context) -> usize {
    // SAFETY: the header's word.
    unsafe { get::<A, _>(context, 0, |call| call.attempt.arguments()) }
}

unsafe extern "C" fn argument<A: Attempt>(
    context: *mut shmworker_context,
    index: usize,
    payload: *mut shmworker_payload,
) -> i32 {
    let argument = |call: &mut Call<'_, A>| {
        let Some(found) = call.attempt.argument(index) else { return Err(shmworker_result::NotFound) };
        let found = self::payload(&mut call.texts, found);
        // SAFETY: the header's word.
        unsafe { leave(payload, found) }
    };
    // SAFETY: the header's word.
    unsafe { with::<A>(context, argument) }
}

unsafe extern "C" fn metadata<A: Attempt>(
    context: *const shmworker_context,
    index: usize,
    key: *const c_char,
    data: *mut *const u8,
    len: *mut usize,
) -> i32 {
    let metadata = |call: &mut Call<'_, A>| {
        // SAFETY: the header's word.
        let key = unsafe { text(key) }?.ok_or(shmworker_result::NullArgument)?;
        let found = call.attempt.metadata(index, key).ok_or(shmworker_result::NotFound)?;
        // SAFETY: the header's word.
        unsafe { leave(data, found.as_ptr()) }?;
        // SAFETY: the header's word.
        unsafe { leave(len, found.len()) }
    };
    // SAFETY: the header's word.
    unsafe { with::<A>(context, metadata) }
}

unsafe extern "C" fn reserve<A: Attempt>(context: *mut shmworker_context, len: usize, place: *mut *mut u8) -> i32 {
    let reserve = |call: &mut Call<'_, A>| {
        if place.is_null() {
            return Err(shmworker_result::NullArgument);
        }
        let reserved = call.reserve(len)?.as_mut_ptr();
        // SAFETY: the header's word.
        unsafe { leave(place, reserved) }
    };
    // SAFETY: the header's word.
    unsafe { with::<A>(context, reserve) }
}

unsafe extern "C" fn set_length<A: Attempt>(context: *mut shmworker_context, len: usize) -> i32 {
    let set_length = |call: &mut Call<'_, A>| {
        let reserved = call.reserved.as_mut().filter(|reserved| len <= reserved.len());
        let reserved = reserved.ok_or(shmworker_result::InvalidArgument)?;
        reserved.end = reserved.start + len;
        call.attempt.truncate(len)
    };
    // SAFETY: the header's word.
    unsafe { with::<A>(context, set_length) }
}

unsafe extern "C" fn set_encoding<A: Attempt>(context: *mut shmworker_context, encoding: *const c_char) -> i32 {
    let set_encoding = |call: &mut Call<'_, A>| {
        // SAFETY: the header's word.
        let encoding = unsafe { text(encoding) }?.ok_or(shmworker_result::NullArgument)?;
        call.encoding = Some(encoding.to_owned());
        Ok(())
    };
    // SAFETY: the header's word.
    unsafe { with::<A>(context, set_encoding) }
}

unsafe extern "C" fn set_result<A: Attempt>(
    context: *mut shmworker_context,
    data: *const u8,
    len: usize,
    encoding: *const c_char,
) -> i32 {
    let set_result = |call: &mut Call<'_, A>| {
        // SAFETY: the header's word.
        let data = unsafe { bytes(data, len) }?;
        // SAFETY: the header's word.
        let encoding = unsafe { text(encoding) }?;
        let at = data.as_ptr().addr();
        let is_inside = |reserved: &Range<usize>| at < reserved.end && reserved.start < at + data.len();
        if call.reserved.as_ref().is_some_and(is_inside) {
            // Its place is given up before it is copied.
            let copy = data.to_vec();
            call.leave(&copy)?;
        } else {
            call.leave(data)?;
        }
        call.encoding = encoding.map(str::to_owned);
        Ok(())
    };
    // SAFETY: the header's word.
    unsafe { with::<A>(context, set_result) }
}

unsafe extern "C" fn fail<A: Attempt>(context: *mut shmworker_context, failure: *const shmworker_failure) -> i32 {
    let fail = |call: &mut Call<'_, A>| {
        const FIRST: usize = offset_of!(shmworker_failure, details_encoding) + size_of::<*const c_char>();
        // SAFETY: the header's word.
        let failure = unsafe { sized(failure, FIRST) }?;
        // SAFETY: the header's word.
        let message = unsafe { text(failure.message) }?.ok_or(shmworker_result::NullArgument)?;
        // SAFETY: the header's word.
        let type_name = unsafe { text(failure.r#type) }?;
        // SAFETY: the header's word.
        let details = unsafe { bytes(failure.details, failure.details_len) }?;
        // SAFETY: the header's word.
        let encoding = unsafe { text(failure.details_encoding) }?;
        let has_details = !failure.details.is_null() || encoding.is_some();
        call.failed = Some(Box::new(Failed {
            message: message.to_owned(),
            type_name: type_name.map(str::to_owned),
            is_permanent: failure.non_retryable,
            next_retry_delay: (failure.next_retry_delay_ms > 0)
                .then(|| Duration::from_millis(failure.next_retry_delay_ms)),
            details: has_details.then(|| (details.to_vec(), encoding.unwrap_or(BINARY).to_owned())),
        }));
        Ok(())
    };
    // SAFETY: the header's word.
    match unsafe { with::<A>(context, fail) } {
        OK => shmworker_result::Failed as i32,
        refused => refused,
    }
}

unsafe extern "C" fn is_cancelled<A: Attempt>(context: *const shmworker_context) -> bool {
    // SAFETY: the header's word.
    unsafe { get::<A, _>(context, false, |call| call.attempt.is_cancelled()) }
}

unsafe extern "C" fn is_worker_shutdown<A: Attempt>(context: *const shmworker_context) -> bool {
    // SAFETY: the header's word.
    unsafe { get::<A, _>(context, false, |call| call.attempt.is_worker_shutdown()) }
}

unsafe extern "C" fn time_left_ms<A: Attempt>(context: *const shmworker_context) -> i64 {
    let millis = |left: Duration| i64::try_from(left.as_millis()).unwrap_or(i64::MAX);
    // SAFETY: the header's word.
    unsafe { get::<A, _>(context, -1, |call| call.attempt.time_left().map_or(-1, millis)) }
}

unsafe extern "C" fn heartbeat<A: Attempt>(context: *mut shmworker_context) -> i32 {
    let heartbeat = |call: &mut Call<'_, A>| {
        call.attempt.heartbeat();
        Ok(())
    };
    // SAFETY: the header's word.
    unsafe { with::<A>(context, heartbeat) }
}

unsafe extern "C" fn progress<A: Attempt>(context: *mut shmworker_context, done: u64, total: u64) -> i32 {
    let progress = |call: &mut Call<'_, A>| {
        call.attempt.progress(done, total);
        Ok(())
    };
    // SAFETY: the header's word.
    unsafe { with::<A>(context, progress) }
}

unsafe extern "C" fn checkpoint<A: Attempt>(
    context: *mut shmworker_context,
    data: *const u8,
    len: usize,
    encoding: *const c_char,
) -> i32 {
    let checkpoint = |call: &mut Call<'_, A>| {
        // SAFETY: the header's word.
        let data = unsafe { bytes(data, len) }?;
        // SAFETY: the header's word.
        let encoding = unsafe { text(encoding) }?.unwrap_or(BINARY);
        call.attempt.checkpoint(Payload { data, encoding })
    };
    // SAFETY: the header's word.
    unsafe { with::<A>(context, checkpoint) }
}

unsafe extern "C" fn last_checkpoint<A: Attempt>(
    context: *mut shmworker_context,
    payload: *mut shmworker_payload,
) -> i32 {
    let last_checkpoint = |call: &mut Call<'_, A>| {
        let found = call.attempt.last_checkpoint()?.ok_or(shmworker_result::NotFound)?;
        let found = self::payload(&mut call.texts, found);
        // SAFETY: the header's word.
        unsafe { leave(payload, found) }
    };
    // SAFETY: the header's word.
    unsafe { with::<A>(context, last_checkpoint) }
}

unsafe extern "C" fn state<A: Attempt>(context: *const shmworker_context) -> *mut c_void {
    // SAFETY: the header's word.
    unsafe { get::<A, _>(context, null_mut(), |call| call.state.0) }
}
