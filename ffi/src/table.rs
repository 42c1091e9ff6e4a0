//! A table of objects, which any thread finds by a number that may be wrong, without a lock.
//!
//! # States
//!
//! An entry: `free(g) → live(g), pins ⇄ → dying(g), pins → free(g + 1)`. Its number is an index and a generation, which no
//! other object ever has: the entry of the last generation is not used again.
//!
//! # Words
//!
//! | word          | written by                             | read by                                                     |
//! |---------------|----------------------------------------|-------------------------------------------------------------|
//! | state         | who inserts, pins, unpins, removes     | all                                                         |
//! | notes         | who inserts, or has removed it alone   | all: a look before and one after at the state say whether   |
//! |               |                                        | they belong together                                        |
//! | object        | who inserts; who takes the last pin    | who has a pin                                               |
//! |               | off a dying one                        |                                                             |
//! | next          | who gives the entry back               | who takes one: by the tag of `free` it was not taken since  |
//! | index         | who inserts                            | who gives the entry back                                    |
//! | free, used    | who gives back or takes an entry       | who takes one                                               |
//! | chunk         | who needs it first                     | all                                                         |
//!
//! # Invariants
//!
//! 1. Chunks are never freed or moved, so any index leads to an entry or to none.
//! 2. An object is there from before its entry is live until a dying one has no pin. Whoever took the last one drops it.
//! 3. Who has removed an object has a pin of its own: nobody can pin what is dying. If it was the only one, it is alone with it.
//! 4. An entry in the list of free ones is neither live nor dying, and is in the list once.
//!
//! # Ordering
//!
//! - \[live] Release when an entry becomes live pairs with Acquire when it is pinned or removed: the object is whole.
//! - \[unpin] Release when a pin is taken off pairs with Acquire by whoever drops the object, or is alone with it or with the
//!   table's `close`: all others are done with it. Each change of a state that is live or dying is a read-modify-write, so that
//!   one Acquire goes for all who came before.
//! - \[free] Release when an entry is given back pairs with Acquire when it is taken: the former object is gone.
//! - \[notes] As in a seqlock: the fence after a look at the notes pairs with the one before they are written.
//! - \[chunk] Release when a chunk is there pairs with Acquire when it is looked up: its words are zero.

#[cfg(all(test, loom))]
use loom::{
    cell::UnsafeCell,
    sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, fence},
};
#[cfg(not(all(test, loom)))]
use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    cell::UnsafeCell,
    sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, fence},
};
use std::{
    mem::{ManuallyDrop, MaybeUninit},
    ops::Deref,
    ptr,
    sync::atomic::Ordering::{Acquire, Relaxed, Release},
};

/// Bits of a number: the index, and above it the generation.
pub(crate) const INDEX_BITS: u32 = 24;
pub(crate) const GENERATION_BITS: u32 = 36;
/// So many objects there may be at a time.
pub(crate) const MOST: usize = 1 << INDEX_BITS;

/// Entries of the first chunk; each further one has twice as many.
const FIRST: usize = if cfg!(all(test, loom)) { 1 } else { 64 };
const CHUNKS: usize = (MOST / FIRST).ilog2() as usize + 1;

/// Bits of a state: how often it is pinned (25), these, and the generation (36).
const PIN: u64 = 1;
const PINS: u64 = CLOSED - 1;
const CLOSED: u64 = 1 << 25;
const DYING: u64 = 1 << 26;
const LIVE: u64 = 1 << 27;
const GENERATION_SHIFT: u32 = 28;

/// An index and a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Number {
    pub(crate) index: u32,
    pub(crate) generation: u64,
}

impl Number {
    /// Is this the state of an object that has this number?
    fn names(self, state: u64) -> bool {
        state & !(PINS | CLOSED) == self.generation << GENERATION_SHIFT | LIVE
    }
}

/// What may be read of an object without a pin.
pub(crate) type Notes = [usize; 2];

/// A line of its own at least: threads work on objects of their own, mostly.
#[repr(align(64))]
struct Entry<T> {
    state: AtomicU64,
    /// In the list of free entries: the index of the next one, plus one; 0: there is none.
    next: AtomicU32,
    index: AtomicU32,
    notes: [AtomicUsize; 2],
    object: UnsafeCell<MaybeUninit<T>>,
}

/// See the module.
pub(crate) struct Table<T> {
    chunks: [AtomicPtr<Entry<T>>; CHUNKS],
    /// The index of the first free entry, plus one, and above it how often the list was changed.
    free: AtomicU64,
    /// So many entries were ever used.
    used: AtomicUsize,
    /// The generation that entries begin with.
    first_generation: u64,
}

// SAFETY: objects go to other threads, and are dropped there (`Send`), and are shared by those who pin them (`Sync`).
unsafe impl<T: Send + Sync> Send for Table<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Table<T> {}

impl<T> Default for Table<T> {
    fn default() -> Table<T> {
        Table::beginning_with(0)
    }
}

impl<T> Table<T> {
    /// One whose first objects are of this generation: so that their numbers are none of another table, if its objects have not come
    /// as far.
    pub(crate) fn beginning_with(first_generation: u64) -> Table<T> {
        debug_assert_eq!(first_generation >> GENERATION_BITS, 0);
        Table {
            first_generation,
            chunks: std::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())),
            free: AtomicU64::new(0),
            used: AtomicUsize::new(0),
        }
    }
}

/// There are [`MOST`] objects, or there is no memory.
#[derive(Debug)]
pub(crate) struct Full;

/// The chunk of an index, and where it is in there.
#[inline]
fn place(index: u32) -> (usize, usize) {
    // All that most programs use.
    if (index as usize) < FIRST {
        return (0, index as usize);
    }
    let n = index as usize + FIRST;
    let chunk = (n / FIRST).ilog2() as usize;
    (chunk, n - (FIRST << chunk))
}

impl<T> Table<T> {
    /// Takes an object in.
    ///
    /// # Errors
    /// [`Full`]; the object is dropped.
    #[inline]
    pub(crate) fn insert(&self, object: T, notes: Notes) -> Result<Number, Full> {
        let Ok(inserted) = self.insert_filled(object, |_| Ok::<_, std::convert::Infallible>(notes))?;
        Ok(inserted)
    }

    /// Takes in an object that `fill` makes of this one, where it is to lie: to move what was just written waits for it. With the notes
    /// that it gives.
    ///
    /// # Errors
    /// [`Full`]; the object is dropped. Or that of `fill`, inside; as above. A panic of it leaves an entry that is not used again, and
    /// what was made there.
    #[inline(always)]
    pub(crate) fn insert_filled<E>(
        &self,
        object: T,
        fill: impl FnOnce(&mut T) -> Result<Notes, E>,
    ) -> Result<Result<Number, E>, Full> {
        let index = self.take_free().or_else(|| self.take_new()).ok_or(Full)?;
        let entry = self.entry(index).ok_or(Full)?;
        // Relaxed: [free] has brought it, and nobody changes the state of a free entry that isn't in the list.
        let generation = entry.state.load(Relaxed) >> GENERATION_SHIFT;
        entry.index.store(index, Relaxed); // ours alone, as the rest
        // SAFETY: it is free and not in the list (invariant 4), so nobody else looks at the object.
        unsafe { entry.write(object) };
        // SAFETY: as above, and it was just written.
        match fill(unsafe { &mut *entry.get_mut() }) {
            Ok(notes) => {
                entry.note(notes);
                entry.state.store(generation << GENERATION_SHIFT | LIVE, Release); // [live]
                Ok(Ok(Number { index, generation }))
            }
            Err(e) => {
                // SAFETY: as above.
                unsafe { entry.get_mut().drop_in_place() };
                self.give_back(entry);
                Ok(Err(e))
            }
        }
    }

    /// Keeps the object of this number where it is for as long as the pin lives. `None`: there is none.
    #[inline]
    pub(crate) fn pin(&self, number: Number) -> Option<Pin<'_, T>> {
        self.pin_unless(0, number)
    }

    /// As [`pin`](Self::pin), unless the object was closed.
    #[inline]
    pub(crate) fn pin_open(&self, number: Number) -> Option<Pin<'_, T>> {
        self.pin_unless(CLOSED, number)
    }

    #[inline]
    fn pin_unless(&self, mask: u64, number: Number) -> Option<Pin<'_, T>> {
        let entry = self.entry(number.index)?;
        let mut seen = entry.state.load(Relaxed);
        loop {
            if !number.names(seen) || seen & mask != 0 {
                return None;
            }
            debug_assert_ne!(seen & PINS, PINS, "more pins than there can be threads");
            match entry.state.compare_exchange_weak(seen, seen + PIN, Acquire, Relaxed) {
                Ok(_) => return Some(Pin(Spot { table: self, entry })), // [live]
                Err(now) => seen = now,
            }
        }
    }

    /// What is noted of the object of this number. `None`: there is none.
    #[inline]
    pub(crate) fn notes(&self, number: Number) -> Option<Notes> {
        let entry = self.entry(number.index)?;
        if !number.names(entry.state.load(Acquire)) {
            return None;
        }
        // Relaxed: between the two looks at the state.
        let notes = [entry.notes[0].load(Relaxed), entry.notes[1].load(Relaxed)];
        fence(Acquire); // [notes]
        number.names(entry.state.load(Relaxed)).then_some(notes)
    }

    /// Ends the number: from here on it is nobody's. The object goes once nobody has it pinned.
    #[inline]
    pub(crate) fn remove(&self, number: Number) -> Option<Removed<'_, T>> {
        let entry = self.entry(number.index)?;
        let mut seen = entry.state.load(Relaxed);
        loop {
            if !number.names(seen) {
                return None;
            }
            // With a pin, which who is alone need not take off again.
            match entry.state.compare_exchange_weak(seen, (seen | DYING) + PIN, Acquire, Relaxed) {
                Ok(_) => {
                    let spot = Spot { table: self, entry }; // [live] [unpin]
                    return Some(Removed { spot, is_alone: seen & PINS == 0 });
                }
                Err(now) => seen = now,
            }
        }
    }

    #[inline]
    fn entry(&self, index: u32) -> Option<&Entry<T>> {
        let (chunk, at) = place(index);
        let first = self.chunks.get(chunk)?.load(Acquire); // [chunk]
        if first.is_null() {
            return None;
        }
        // SAFETY: a chunk has `FIRST << chunk` entries, of which this is one.
        let entry = unsafe { first.add(at) };
        // SAFETY: as above, and it is never freed (invariant 1).
        Some(unsafe { &*entry })
    }

    #[inline]
    fn take_free(&self) -> Option<u32> {
        let mut seen = self.free.load(Acquire);
        loop {
            let index = (seen as u32).checked_sub(1)?;
            // Relaxed: of an entry that was taken meanwhile it is any number; the tag has moved then, and the exchange fails.
            let next = self.entry(index)?.next.load(Relaxed);
            let to = (seen >> 32).wrapping_add(1) << 32 | u64::from(next);
            match self.free.compare_exchange_weak(seen, to, Acquire, Acquire) {
                Ok(_) => return Some(index), // [free]
                Err(now) => seen = now,
            }
        }
    }

    fn give_back(&self, entry: &Entry<T>) {
        let index = entry.index.load(Relaxed);
        let mut seen = self.free.load(Relaxed);
        loop {
            entry.next.store(seen as u32, Relaxed);
            let to = (seen >> 32).wrapping_add(1) << 32 | u64::from(index + 1);
            // [free]
            match self.free.compare_exchange_weak(seen, to, Release, Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// An entry that was never used.
    #[cold]
    fn take_new(&self) -> Option<u32> {
        // Relaxed: a number, to which nothing else belongs.
        let mut seen = self.used.load(Relaxed);
        loop {
            if seen >= MOST {
                return None;
            }
            let chunk = &self.chunks[place(seen as u32).0];
            if chunk.load(Relaxed).is_null() {
                let made = make_chunk(FIRST << place(seen as u32).0)?;
                // [chunk] Release. Another may have been faster.
                if chunk.compare_exchange(ptr::null_mut(), made, Release, Relaxed).is_err() {
                    // SAFETY: made above, of so many, and seen by nobody.
                    unsafe { free_chunk(made, FIRST << place(seen as u32).0) };
                }
            }
            match self.used.compare_exchange_weak(seen, seen + 1, Relaxed, Relaxed) {
                Ok(_) => {
                    // Relaxed: it is ours, and whoever looks at it before it is live finds nothing in either state.
                    self.entry(seen as u32)?.state.store(self.first_generation << GENERATION_SHIFT, Relaxed);
                    return Some(seen as u32);
                }
                Err(now) => seen = now,
            }
        }
    }
}

#[cfg(not(all(test, loom)))]
fn layout<T>(entries: usize) -> Option<Layout> {
    Layout::array::<Entry<T>>(entries).ok()
}

/// Entries that are free, of generation 0. Zeroed by the kernel, where they are many: then a page costs nothing before it is used.
#[cfg(not(all(test, loom)))]
fn make_chunk<T>(entries: usize) -> Option<*mut Entry<T>> {
    // SAFETY: an entry has a size.
    let chunk = unsafe { alloc_zeroed(layout::<T>(entries)?) };
    // Zeros are an entry: its words are integers, and its object is uninitialized.
    (!chunk.is_null()).then_some(chunk.cast())
}

/// # Safety
/// - It was made by [`make_chunk`] of so many, and nobody uses it.
#[cfg(not(all(test, loom)))]
unsafe fn free_chunk<T>(chunk: *mut Entry<T>, entries: usize) {
    let layout = layout::<T>(entries).unwrap_or_else(|| unreachable!("it was made with it"));
    // SAFETY: the caller's word.
    unsafe { dealloc(chunk.cast(), layout) };
}

#[cfg(all(test, loom))]
fn make_chunk<T>(entries: usize) -> Option<*mut Entry<T>> {
    let entry = || Entry {
        state: AtomicU64::new(0),
        next: AtomicU32::new(0),
        index: AtomicU32::new(0),
        notes: std::array::from_fn(|_| AtomicUsize::new(0)),
        object: UnsafeCell::new(MaybeUninit::uninit()),
    };
    let chunk: Box<[_]> = std::iter::repeat_with(entry).take(entries).collect();
    Some(Box::leak(chunk).as_mut_ptr())
}

#[cfg(all(test, loom))]
unsafe fn free_chunk<T>(chunk: *mut Entry<T>, entries: usize) {
    // SAFETY: the caller's word.
    drop(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(chunk, entries)) });
}

#[cfg(not(all(test, loom)))]
impl<T> Entry<T> {
    fn get(&self) -> *mut T {
        self.object.get().cast()
    }

    fn get_mut(&self) -> *mut T {
        self.object.get().cast()
    }
}

// So that loom sees each use.
#[cfg(all(test, loom))]
impl<T> Entry<T> {
    fn get(&self) -> *mut T {
        self.object.with(|object| object.cast_mut().cast())
    }

    fn get_mut(&self) -> *mut T {
        self.object.with_mut(|object| object.cast())
    }
}

impl<T> Entry<T> {
    /// # Safety
    /// - Nobody else looks at the object, of which there is none.
    unsafe fn write(&self, object: T) {
        // SAFETY: the caller's word.
        unsafe { self.get_mut().write(object) };
    }

    /// For who is alone with the entry: nobody takes them for those of the object that was, or comes to be.
    fn note(&self, notes: Notes) {
        fence(Release); // [notes] whoever sees one of these sees that the former object is dying
        for (word, note) in self.notes.iter().zip(notes) {
            word.store(note, Relaxed);
        }
    }
}

/// An entry, for who has a pin or is alone with it.
struct Spot<'t, T> {
    table: &'t Table<T>,
    entry: &'t Entry<T>,
}

impl<T> Spot<'_, T> {
    #[inline]
    fn object(&self) -> &T {
        // SAFETY: it is there while it is pinned (invariant 2), and is shared for as long.
        unsafe { &*self.entry.get() }
    }

    #[inline]
    fn unpin(&self) {
        let seen = self.entry.state.fetch_sub(PIN, Release); // [unpin]
        if seen & (DYING | PINS) == DYING | PIN {
            fence(Acquire); // [unpin]
            self.destroy();
        }
    }

    /// Drops the object. For who is the last.
    fn destroy(&self) {
        // SAFETY: it is dying and nobody else has a pin, so nobody looks at it, or comes to (invariants 2 and 3).
        unsafe { self.entry.get_mut().drop_in_place() };
        // Relaxed: it is ours alone, until it is given back.
        let generation = (self.entry.state.load(Relaxed) >> GENERATION_SHIFT) + 1;
        if generation >> GENERATION_BITS == 0 {
            self.entry.state.store(generation << GENERATION_SHIFT, Relaxed);
            self.table.give_back(self.entry);
        }
    }
}

/// An object, which stays for as long as this lives.
pub(crate) struct Pin<'t, T>(Spot<'t, T>);

impl<T> Deref for Pin<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.0.object()
    }
}

impl<'t, T> Pin<'t, T> {
    /// From here on nobody [pins it open](Table::pin_open). False: somebody has closed it before.
    pub(crate) fn close(&self) -> bool {
        // Relaxed: what follows from it `is_alone` asks.
        self.0.entry.state.fetch_or(CLOSED, Relaxed) & CLOSED == 0
    }

    /// As [`Table::remove`], with this pin. `None`: somebody has removed it before.
    #[inline]
    pub(crate) fn remove(self) -> Option<Removed<'t, T>> {
        let seen = self.0.entry.state.fetch_or(DYING, Acquire); // [unpin]; [live] came with the pin
        if seen & DYING != 0 {
            return None;
        }
        let pin = ManuallyDrop::new(self);
        let spot = Spot { table: pin.0.table, entry: pin.0.entry };
        Some(Removed { spot, is_alone: seen & PINS == PIN })
    }

    /// Does nobody else have it just now? Then all who had it open are done with it, if it was closed before.
    pub(crate) fn is_alone(&self) -> bool {
        self.0.entry.state.load(Acquire) & PINS == PIN // [unpin]
    }
}

impl<T> Drop for Pin<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.0.unpin();
    }
}

/// An object whose number is ended. It goes with this, or with the last pin.
pub(crate) struct Removed<'t, T> {
    spot: Spot<'t, T>,
    is_alone: bool,
}

impl<T> Deref for Removed<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.spot.object()
    }
}

impl<T> Removed<'_, T> {
    /// The object, if nobody else has it pinned.
    #[inline]
    pub(crate) fn alone(&mut self) -> Option<&mut T> {
        // SAFETY: nobody else has a pin, or can get one (invariant 3), and this borrow excludes a second one.
        self.is_alone.then(|| unsafe { &mut *self.spot.entry.get_mut() })
    }

    /// Takes it back: the number is as good as before, with these notes. For who is [alone](Self::alone); others leave it ended.
    pub(crate) fn restore(self, notes: Notes) {
        if !self.is_alone {
            return;
        }
        let entry = ManuallyDrop::new(self).spot.entry;
        entry.note(notes);
        // Relaxed, since it is ours alone; [live] as for a new one.
        let state = entry.state.load(Relaxed);
        entry.state.store((state & !DYING) - PIN, Release);
    }
}

impl<T> Drop for Removed<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // Who is alone stays so: no read-modify-write is needed to know that the last pin is this one's.
        if self.is_alone { self.spot.destroy() } else { self.spot.unpin() }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering::SeqCst},
    };

    /// Counts those that live.
    struct Counted<'c>(&'c AtomicUsize, usize);

    impl<'c> Counted<'c> {
        fn new(count: &'c AtomicUsize, value: usize) -> Self {
            count.fetch_add(1, SeqCst);
            Counted(count, value)
        }
    }

    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, SeqCst);
        }
    }

    #[test]
    fn each_index_has_an_entry_of_its_own() {
        let mut next = (0, 0);
        for index in 0..100_000 {
            assert_eq!(place(index), next);
            next = if next.1 + 1 == FIRST << next.0 { (next.0 + 1, 0) } else { (next.0, next.1 + 1) };
        }
        assert!(place(MOST as u32 - 1).0 < CHUNKS);
    }

    #[test]
    fn who_has_an_object_pinned_removes_it_with_that_pin() {
        let (table, count) = (Table::default(), AtomicUsize::new(0));
        let number = table.insert(Counted::new(&count, 1), [0; 2]).unwrap();
        let mut removed = table.pin(number).unwrap().remove().unwrap();
        assert_eq!(removed.alone().unwrap().1, 1);
        assert!(table.pin(number).is_none() && table.remove(number).is_none());
        drop(removed);
        assert_eq!(count.load(SeqCst), 0);

        let number = table.insert(Counted::new(&count, 2), [0; 2]).unwrap();
        assert_eq!((number.index, number.generation), (0, 1));
        let [one, two] = [(); 2].map(|()| table.pin(number).unwrap());
        let mut removed = one.remove().unwrap();
        assert!(removed.alone().is_none());
        assert!(two.remove().is_none());
        assert_eq!((count.load(SeqCst), removed.1), (1, 2));
        drop(removed);
        assert_eq!(count.load(SeqCst), 0);
    }

    #[test]
    fn a_number_is_good_until_it_is_removed_and_no_other_is() {
        let (table, count) = (Table::default(), AtomicUsize::new(0));
        let numbers: Vec<_> = (0..1000).map(|i| table.insert(Counted::new(&count, i), [i, !i]).unwrap()).collect();
        for (i, number) in numbers.iter().enumerate() {
            assert_eq!(table.pin(*number).unwrap().1, i);
            assert_eq!(table.notes(*number), Some([i, !i]));
            for wrong in [
                Number { generation: number.generation + 1, ..*number },
                Number { index: number.index + 1000, ..*number },
                Number { index: MOST as u32 - 1, ..*number },
            ] {
                assert!(table.pin(wrong).is_none() && table.notes(wrong).is_none() && table.remove(wrong).is_none());
            }
        }
        for number in &numbers {
            assert!(table.remove(*number).is_some());
            assert!(table.pin(*number).is_none() && table.notes(*number).is_none() && table.remove(*number).is_none());
        }
        assert_eq!(count.load(SeqCst), 0);
        let again: Vec<_> = (0..1000).map(|i| table.insert(Counted::new(&count, i), [0; 2]).unwrap()).collect();
        assert!(again.iter().all(|number| number.index < 1000 && number.generation == 1), "entries are used again");
        again.iter().for_each(|number| drop(table.remove(*number)));
    }

    #[test]
    fn what_is_pinned_outlives_its_number() {
        let (table, count) = (Table::default(), AtomicUsize::new(0));
        let number = table.insert(Counted::new(&count, 7), [0; 2]).unwrap();
        let pin = table.pin(number).unwrap();
        let mut removed = table.remove(number).unwrap();
        assert!(removed.alone().is_none());
        drop(removed);
        assert!(table.pin(number).is_none());
        assert_eq!((pin.1, count.load(SeqCst)), (7, 1));
        drop(pin);
        assert_eq!(count.load(SeqCst), 0);
    }

    #[test]
    fn what_is_taken_back_is_there_with_other_notes() {
        let table = Table::default();
        let number = table.insert(1, [1; 2]).unwrap();
        let mut removed = table.remove(number).unwrap();
        assert!(table.pin(number).is_none() && table.notes(number).is_none());
        *removed.alone().unwrap() = 2;
        removed.restore([2; 2]);
        assert_eq!((*table.pin(number).unwrap(), table.notes(number)), (2, Some([2; 2])));
        drop(table.remove(number));
    }

    #[test]
    fn what_can_not_be_made_whole_goes_and_its_entry_is_used_again() {
        let (table, count) = (Table::default(), AtomicUsize::new(0));
        let failed = table.insert_filled(Counted::new(&count, 1), |counted| Err::<Notes, _>(counted.1)).unwrap();
        assert_eq!((failed, count.load(SeqCst)), (Err(1), 0));
        let filled = table.insert_filled(Counted::new(&count, 2), |counted| {
            counted.1 = 3;
            Ok::<_, usize>([4, 5])
        });
        let number = filled.unwrap().unwrap();
        assert_eq!((number.index, table.notes(number), table.pin(number).unwrap().1), (0, Some([4, 5]), 3));
        drop(table.remove(number));
    }

    #[test]
    fn what_is_closed_is_pinned_but_not_open() {
        let table = Table::default();
        let number = table.insert((), [0; 2]).unwrap();
        let (open, pin) = (table.pin_open(number).unwrap(), table.pin(number).unwrap());
        assert!(pin.close() && !pin.close() && !pin.is_alone());
        assert!(table.pin_open(number).is_none() && table.pin(number).is_some());
        drop(open);
        assert!(pin.is_alone());
    }

    #[test]
    fn an_entry_whose_generations_are_used_up_is_not_used_again() {
        let table = Table::default();
        let number = table.insert((), [0; 2]).unwrap();
        drop(table.remove(number));
        let last = (1 << GENERATION_BITS) - 1;
        table.entry(number.index).unwrap().state.store(last << GENERATION_SHIFT, Relaxed);
        let number = table.insert((), [0; 2]).unwrap();
        assert_eq!(number.generation, last);
        drop(table.remove(number));
        assert_ne!(table.insert((), [0; 2]).unwrap().index, number.index);
    }

    /// Threads insert, hand on, look at, and remove; each object is dropped once, and found as it is or not at all.
    #[test]
    fn threads_find_what_is_there_and_nothing_else() {
        const THREADS: usize = 4;
        let rounds = if cfg!(miri) { 20 } else { 20_000 };
        let (table, count, start) = (Table::default(), AtomicUsize::new(0), Barrier::new(THREADS));
        let handed: [AtomicU64; 4] = Default::default();
        let pack = |number: Number| number.generation << INDEX_BITS | u64::from(number.index) | 1 << 63;
        let unpack = |bits: u64| Number {
            index: bits as u32 & (MOST as u32 - 1),
            generation: (bits & !(1 << 63)) >> INDEX_BITS,
        };
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (table, count, start, handed) = (&table, &count, &start, &handed);
                scope.spawn(move || {
                    start.wait();
                    for round in 0..rounds {
                        let value = thread << 32 | round;
                        let number = table.insert(Counted::new(count, value), [value, !value]).unwrap();
                        assert_eq!(table.pin(number).map(|pin| pin.1), Some(value));
                        let other = handed[round % 4].swap(pack(number), SeqCst);
                        let seen = handed[(round + 1) % 4].load(SeqCst);
                        if seen != 0 {
                            let [a, b] = table.notes(unpack(seen)).unwrap_or([0, !0]);
                            assert_eq!(a, !b, "the notes of two objects");
                            if let Some(pin) = table.pin(unpack(seen)) {
                                assert!(pin.1 & u32::MAX as usize <= rounds);
                            }
                        }
                        if other != 0 {
                            assert!(table.remove(unpack(other)).is_some(), "it was handed to one");
                        }
                    }
                });
            }
        });
        for left in handed {
            drop(table.remove(unpack(left.into_inner())));
        }
        assert_eq!(count.load(SeqCst), 0);
    }

    #[test]
    fn of_two_who_remove_one_does_and_who_has_it_pinned_keeps_it() {
        let table = Table::default();
        for _ in 0..if cfg!(miri) { 20 } else { 2000 } {
            let is_gone = Arc::new(AtomicBool::new(false));
            struct Tells(Arc<AtomicBool>);
            impl Drop for Tells {
                fn drop(&mut self) {
                    assert!(!self.0.swap(true, SeqCst), "dropped twice");
                }
            }
            let number = table.insert(Tells(is_gone.clone()), [0; 2]).unwrap();
            let start = Barrier::new(3);
            let removed = std::thread::scope(|scope| {
                let removers = [(); 2].map(|()| {
                    scope.spawn(|| {
                        start.wait();
                        table.remove(number).is_some()
                    })
                });
                start.wait();
                if let Some(pin) = table.pin(number) {
                    let Tells(is_gone) = &*pin;
                    assert!(!is_gone.load(SeqCst));
                }
                removers.map(|remover| remover.join().unwrap())
            });
            assert_eq!(removed.iter().filter(|removed| **removed).count(), 1);
            assert!(is_gone.load(SeqCst));
        }
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test -p shmworker-ffi --profile loom --lib`
#[cfg(all(test, loom))]
mod models {
    use super::*;
    use loom::{sync::Arc, thread};

    /// Its drop is a use like a reader's, and loom reports one that is not ordered with the others.
    struct Object(loom::cell::UnsafeCell<u32>);

    // SAFETY: loom checks it.
    unsafe impl Sync for Object {}

    impl Object {
        fn new(value: u32) -> Object {
            Object(loom::cell::UnsafeCell::new(value))
        }

        fn read(&self) -> u32 {
            // SAFETY: loom checks that nobody writes it.
            self.0.with(|value| unsafe { *value })
        }
    }

    impl Drop for Object {
        fn drop(&mut self) {
            // SAFETY: loom checks that nobody else uses it.
            self.0.with_mut(|value| unsafe { *value = 0 });
        }
    }

    #[test]
    fn who_pins_reads_a_whole_object_or_none_while_others_remove_it() {
        loom::model(|| {
            let table = Arc::new(Table::default());
            let number = table.insert(Object::new(7), [0; 2]).unwrap();
            let reader = {
                let table = table.clone();
                thread::spawn(move || table.pin(number).is_none_or(|pin| pin.read() == 7))
            };
            let remover = {
                let table = table.clone();
                thread::spawn(move || table.remove(number).is_some())
            };
            let is_ours = table.remove(number).is_some();
            assert!(reader.join().unwrap());
            assert!(remover.join().unwrap() != is_ours);
        });
    }

    #[test]
    fn an_entry_is_used_again_once_the_former_object_is_gone() {
        loom::model(|| {
            let table = Arc::new(Table::default());
            let number = table.insert(Object::new(1), [1; 2]).unwrap();
            let other = {
                let table = table.clone();
                thread::spawn(move || {
                    drop(table.remove(number));
                    let number = table.insert(Object::new(2), [2; 2]).unwrap();
                    assert_eq!(table.pin(number).unwrap().read(), 2);
                })
            };
            let [a, b] = table.notes(number).unwrap_or([1, 1]);
            assert_eq!([a, b], [1, 1], "another object's");
            let number = table.insert(Object::new(3), [3; 2]).unwrap();
            assert_eq!(table.pin(number).unwrap().read(), 3);
            other.join().unwrap();
        });
    }

    #[test]
    fn of_two_who_remove_an_object_one_does_also_if_it_has_it_pinned() {
        loom::model(|| {
            let table = Arc::new(Table::default());
            let number = table.insert(Object::new(7), [0; 2]).unwrap();
            let other = {
                let table = table.clone();
                thread::spawn(move || table.pin(number).and_then(Pin::remove).is_some())
            };
            let removed = match table.pin(number) {
                Some(pin) => pin.remove(),
                None => table.remove(number),
            };
            let is_ours = removed.is_some();
            if let Some(mut removed) = removed
                && let Some(object) = removed.alone()
            {
                // SAFETY: loom checks that nobody else uses it.
                object.0.with_mut(|value| unsafe { *value = 8 });
            }
            assert!(other.join().unwrap() != is_ours);
            assert!(table.pin(number).is_none());
        });
    }

    #[test]
    fn who_closes_and_is_alone_is_alone_with_what_was_open() {
        loom::model(|| {
            let table = Arc::new(Table::default());
            let number = table.insert(Object::new(7), [0; 2]).unwrap();
            let user = {
                let table = table.clone();
                thread::spawn(move || assert!(table.pin_open(number).is_none_or(|open| open.read() == 7)))
            };
            let pin = table.pin(number).unwrap();
            assert!(pin.close());
            while !pin.is_alone() {
                thread::yield_now();
            }
            // SAFETY: loom checks that nobody else uses it.
            pin.0.object().0.with_mut(|value| unsafe { *value = 8 });
            user.join().unwrap();
        });
    }
}
