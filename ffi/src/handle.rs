//! Handles: what C has of an object is a number in the guise of a pointer, which is looked up and never followed. So one that was
//! freed, or never was one, is an error and not a crash, and an object that is freed while another thread is in a call with it
//! lives until that call returns.
//!
//! A forked child begins with no handles: what they lead to is the parent's, and may have been half changed, by a thread that the
//! child hasn't.

use crate::{
    buffer::Buffer,
    error::Error,
    handlers::Handlers,
    pool::Pool,
    table::{Full, GENERATION_BITS, INDEX_BITS, MOST, Notes, Number, Pin, Removed, Table},
    task::Task,
    temporal::Temporal,
};
use shmworker::plugin::abi::shmworker_result as Code;
use std::{
    ptr,
    sync::{
        Once,
        atomic::{AtomicPtr, Ordering::AcqRel, Ordering::Acquire, Ordering::Release},
    },
};

/// Something that C has handles of.
pub(crate) trait Object: Sized + Send + Sync + 'static {
    /// The opaque struct that it is called in the header.
    type Opaque;
    /// What it is, for people.
    const WHAT: &'static str;
    /// A small number of its own, so that a handle of one kind is none of another.
    const KIND: usize;

    fn table(all: &Tables) -> &Table<Self>;
}

/// Bits of a handle, from below: none that a pointer to anything has (1), the kind (3), the index (24), the generation (36).
const MARK: usize = 1;
const KIND_SHIFT: u32 = 1;
const INDEX_SHIFT: u32 = 4;
const GENERATION_SHIFT: u32 = INDEX_SHIFT + INDEX_BITS;
const _: () = assert!(GENERATION_SHIFT + GENERATION_BITS == usize::BITS);

/// All objects of this process.
pub(crate) struct Tables {
    pub(crate) pools: Table<Pool>,
    pub(crate) handlers: Table<Handlers>,
    pub(crate) tasks: Table<Task>,
    pub(crate) buffers: Table<Buffer>,
    pub(crate) temporal: Table<Temporal>,
    /// Of how many processes with objects this one is a fork of a fork.
    depth: u64,
    /// Those of the process of which this one is a fork, so that they are no leak.
    _former: AtomicPtr<Tables>,
}

/// Forks of forks whose objects begin each with a generation of their own, far from those of the others.
const DEPTHS: u64 = 16;

impl Tables {
    /// Those of a fork of the process that has these. A handle of that one must be none here: which a child is to be told of, and not
    /// to free its own object by.
    fn following(former: *mut Tables) -> Tables {
        // SAFETY: null, or it came from `Box::into_raw` (`make`), and is never freed.
        let depth = unsafe { former.as_ref() }.map_or(0, |former| former.depth + 1);
        let first = (depth % DEPTHS) << (GENERATION_BITS - DEPTHS.ilog2());
        Tables {
            pools: Table::beginning_with(first),
            handlers: Table::beginning_with(first),
            tasks: Table::beginning_with(first),
            buffers: Table::beginning_with(first),
            temporal: Table::beginning_with(first),
            depth,
            _former: AtomicPtr::new(former),
        }
    }
}

/// Null: there are none yet.
static ALL: AtomicPtr<Tables> = AtomicPtr::new(ptr::null_mut());
/// Those of the parent, in a fork that has none of its own yet.
static FORMER: AtomicPtr<Tables> = AtomicPtr::new(ptr::null_mut());

#[inline]
fn all() -> &'static Tables {
    // Acquire: what is there was made whole before it was stored.
    let found = ALL.load(Acquire);
    let made = if found.is_null() { make() } else { found };
    // SAFETY: it came from `Box::into_raw`, and is never freed: a child that has another leaves its parent's where it is.
    unsafe { &*made }
}

#[cold]
fn make() -> *mut Tables {
    static AT_FORK: Once = Once::new();
    AT_FORK.call_once(|| {
        // SAFETY: `forget` does nothing but a load and stores, which a child of a process with threads may do. If there is no memory to
        // register it a child has its parent's handles, which it may not use anyway.
        let _ = unsafe { libc::pthread_atfork(None, None, Some(forget)) };
    });
    let made = Box::into_raw(Box::new(Tables::following(FORMER.load(Acquire))));
    match ALL.compare_exchange(ptr::null_mut(), made, AcqRel, Acquire) {
        Ok(_) => made,
        Err(other) => {
            // SAFETY: another thread was faster, and nobody has seen this one.
            drop(unsafe { Box::from_raw(made) });
            other
        }
    }
}

extern "C" fn forget() {
    let parents = ALL.load(Acquire);
    if !parents.is_null() {
        FORMER.store(parents, Release);
        ALL.store(ptr::null_mut(), Release);
    }
}

/// A handle for a new object.
#[inline]
pub(crate) fn register<T: Object>(object: T) -> Result<*mut T::Opaque, Error> {
    let inserted = T::table(all()).insert(object, [0; 2]);
    inserted.map(handle::<T>).map_err(full::<T>)
}

/// A handle for what `fill` makes of an object where it lies, with what [`notes`] gives.
#[inline(always)]
pub(crate) fn register_filled<T: Object>(
    object: T,
    fill: impl FnOnce(&mut T) -> Result<Notes, Error>,
) -> Result<*mut T::Opaque, Error> {
    T::table(all()).insert_filled(object, fill).map_err(full::<T>)?.map(handle::<T>)
}

fn full<T: Object>(_: Full) -> Error {
    Error::new(Code::NoSpace, format_args!("there are {MOST} {}s, or there is no memory: free some", T::WHAT))
}

#[inline]
fn handle<T: Object>(Number { index, generation }: Number) -> *mut T::Opaque {
    let (index, generation) = (index as usize, generation as usize);
    ptr::without_provenance_mut(MARK | T::KIND << KIND_SHIFT | index << INDEX_SHIFT | generation << GENERATION_SHIFT)
}

/// The number in a handle of this kind. `None`: it is of no such.
#[inline]
fn number<T: Object>(bits: usize) -> Option<Number> {
    let is_of_kind = bits & ((1 << INDEX_SHIFT) - 1) == MARK | T::KIND << KIND_SHIFT;
    let index = (bits >> INDEX_SHIFT & (MOST - 1)) as u32;
    is_of_kind.then_some(Number { index, generation: (bits >> GENERATION_SHIFT) as u64 })
}

/// There is nothing of this handle, or not any more.
pub(crate) fn stale<T: Object>() -> Error {
    Error::new(
        Code::StaleHandle,
        format_args!(
            "no such {}: it was freed, is of the process that this one was forked from, or never was one",
            T::WHAT
        ),
    )
}

/// Why nothing was found.
#[cold]
fn none<T: Object>(handle: *const T::Opaque) -> Error {
    if handle.is_null() { Error::null(T::WHAT) } else { stale::<T>() }
}

#[inline]
fn find<T: Object, R>(
    handle: *const T::Opaque,
    look: impl FnOnce(&'static Table<T>, Number) -> Option<R>,
) -> Result<R, Error> {
    number::<T>(handle.addr()).and_then(|number| look(T::table(all()), number)).ok_or_else(|| none::<T>(handle))
}

/// What this is a handle of. It is there for as long as the pin.
#[inline]
pub(crate) fn get<T: Object>(handle: *const T::Opaque) -> Result<Pin<'static, T>, Error> {
    find(handle, Table::<T>::pin)
}

/// As [`get`]. `None`: it was [closed](Pin::close).
#[inline(always)]
pub(crate) fn open<T: Object>(handle: *const T::Opaque) -> Result<Option<Pin<'static, T>>, Error> {
    let open = number::<T>(handle.addr()).and_then(|number| T::table(all()).pin_open(number));
    // Not by way of an error, which would have to be made.
    match open {
        None => get::<T>(handle).map(|_| None),
        open => Ok(open),
    }
}

/// What was noted of it.
#[inline]
pub(crate) fn notes<T: Object>(handle: *const T::Opaque) -> Result<Notes, Error> {
    find(handle, Table::<T>::notes)
}

/// The same as [`get`], for the last time: from here on it is a handle of nothing.
#[inline]
pub(crate) fn remove<T: Object>(handle: *const T::Opaque) -> Result<Removed<'static, T>, Error> {
    find(handle, Table::<T>::remove)
}
