//! Handles: what C has of an object is a number in the guise of a pointer, which is looked up and never followed. So one that was
//! freed, or never was one, is an error and not a crash, and an object that is freed while another thread is in a call with it
//! lives until that call returns.
//!
//! A forked child begins with no handles: the locks here may have been held in the parent, by a thread that the child hasn't, and
//! what they lead to is the parent's.

use crate::{buffer::Buffer, error::Error, handlers::Handlers, pool::Pool, task::Task, temporal::Temporal};
use shmworker::plugin::abi::shmworker_result as Code;
use std::{
    ptr,
    sync::{
        Arc, Once, PoisonError, RwLock,
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

    fn registry(all: &Registries) -> &Registry<Self>;
}

/// Bits of a handle, from below: none that a pointer to anything has (1), the kind (3), the index (24), the generation (36).
const MARK: usize = 1;
const KIND_SHIFT: u32 = 1;
const INDEX_SHIFT: u32 = 4;
const GENERATION_SHIFT: u32 = 28;
/// So many objects of a kind there may be at a time.
const MOST: usize = 1 << (GENERATION_SHIFT - INDEX_SHIFT);

struct Entry<T> {
    generation: usize,
    object: Option<Arc<T>>,
}

/// The objects of one kind.
pub(crate) struct Registry<T>(RwLock<(Vec<Entry<T>>, Vec<usize>)>);

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Registry(RwLock::default())
    }
}

/// All objects of this process.
#[derive(Default)]
pub(crate) struct Registries {
    pub(crate) pools: Registry<Pool>,
    pub(crate) handlers: Registry<Handlers>,
    pub(crate) tasks: Registry<Task>,
    pub(crate) buffers: Registry<Buffer>,
    pub(crate) temporal: Registry<Temporal>,
    /// Those of the process of which this one is a fork, so that they are no leak.
    _former: AtomicPtr<Registries>,
}

/// Null: there are none yet.
static ALL: AtomicPtr<Registries> = AtomicPtr::new(ptr::null_mut());
/// Those of the parent, in a fork that has none of its own yet.
static FORMER: AtomicPtr<Registries> = AtomicPtr::new(ptr::null_mut());

fn all() -> &'static Registries {
    // Acquire: what is there was made whole before it was stored.
    let found = ALL.load(Acquire);
    let made = if found.is_null() { make() } else { found };
    // SAFETY: it came from `Box::into_raw`, and is never freed: a child that has another leaves its parent's where it is.
    unsafe { &*made }
}

#[cold]
fn make() -> *mut Registries {
    static AT_FORK: Once = Once::new();
    AT_FORK.call_once(|| {
        // SAFETY: `forget` does nothing but a load and stores, which a child of a process with threads may do. If there is no memory to
        // register it a child has its parent's handles, which it may not use anyway.
        let _ = unsafe { libc::pthread_atfork(None, None, Some(forget)) };
    });
    let former = AtomicPtr::new(FORMER.load(Acquire));
    let made = Box::into_raw(Box::new(Registries { _former: former, ..Registries::default() }));
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
pub(crate) fn register<T: Object>(object: T) -> Result<*mut T::Opaque, Error> {
    let mut slots = T::registry(all()).0.write().unwrap_or_else(PoisonError::into_inner);
    let (entries, free) = &mut *slots;
    let index = match free.pop() {
        Some(index) => index,
        None if entries.len() < MOST => {
            entries.push(Entry { generation: 0, object: None });
            entries.len() - 1
        }
        None => return Err(Error::new(Code::NoSpace, format_args!("there are {MOST} {}s: free some", T::WHAT))),
    };
    let entry = &mut entries[index];
    entry.object = Some(Arc::new(object));
    let generation = entry.generation;
    Ok(ptr::without_provenance_mut(
        MARK | T::KIND << KIND_SHIFT | index << INDEX_SHIFT | generation << GENERATION_SHIFT,
    ))
}

fn take_apart<T: Object>(handle: *const T::Opaque) -> Result<(usize, usize), Error> {
    let bits = handle.addr();
    if bits == 0 {
        return Err(Error::null(T::WHAT));
    }
    if bits & ((1 << INDEX_SHIFT) - 1) != MARK | T::KIND << KIND_SHIFT {
        return Err(stale::<T>());
    }
    Ok((bits >> INDEX_SHIFT & (MOST - 1), bits >> GENERATION_SHIFT))
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

/// What this is a handle of.
pub(crate) fn get<T: Object>(handle: *const T::Opaque) -> Result<Arc<T>, Error> {
    let (index, generation) = take_apart::<T>(handle)?;
    let slots = T::registry(all()).0.read().unwrap_or_else(PoisonError::into_inner);
    let entry = slots.0.get(index).filter(|entry| entry.generation == generation);
    entry.and_then(|entry| entry.object.clone()).ok_or_else(stale::<T>)
}

/// The same, for the last time: from here on it is a handle of nothing.
pub(crate) fn remove<T: Object>(handle: *const T::Opaque) -> Result<Arc<T>, Error> {
    let (index, generation) = take_apart::<T>(handle)?;
    let mut slots = T::registry(all()).0.write().unwrap_or_else(PoisonError::into_inner);
    let (entries, free) = &mut *slots;
    let entry = entries.get_mut(index).filter(|entry| entry.generation == generation).ok_or_else(stale::<T>)?;
    let object = entry.object.take().ok_or_else(stale::<T>)?;
    entry.generation = (generation + 1) & (usize::MAX >> GENERATION_SHIFT);
    free.push(index);
    Ok(object)
}
