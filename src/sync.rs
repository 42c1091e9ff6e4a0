//! The only door to atomics, fences, futexes and unsynchronised cells: std, or loom or shuttle in the models.
//!
//! In the models, unit tests and fuzz targets, and nowhere else, every operation that others can notice is also a *step* at
//! which the running thread may be made to die (`fate`): a death is a panic that unwinds and leaves the shared words as they
//! are, as a SIGKILL would; guards that are dropped on the way write nothing any more. Loads and fences are no steps: a death
//! before one leaves what a death before the next write leaves. What is private to a process ([`private`], [`Mutex`]) is gone
//! with it, and makes no steps either.

pub(crate) use std::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release};

/// Death before a chosen step, and what others do meanwhile.
#[cfg(any(test, fuzzing))]
pub(crate) mod fate {
    use std::cell::Cell;

    #[cfg(not(all(test, any(loom, shuttle))))]
    mod meanwhile {
        use std::cell::{Cell, RefCell};

        type Act = Box<dyn FnOnce()>;
        thread_local! {
            static LEFT: Cell<u32> = const { Cell::new(0) };
            static ACT: RefCell<Option<Act>> = const { RefCell::new(None) };
        }

        /// Runs `act` just before the `k`-th access of this thread to an atomic (from 1; 0 never), loads included.
        pub(crate) fn meanwhile(k: u32, act: impl FnOnce() + 'static) {
            ACT.set(Some(Box::new(act)));
            LEFT.set(k);
        }

        pub(in crate::sync) fn access() {
            let n = LEFT.get();
            LEFT.set(n.saturating_sub(1));
            if n == 1
                && let Some(act) = ACT.take()
            {
                act();
            }
        }
    }
    #[cfg(not(all(test, any(loom, shuttle))))]
    pub(super) use meanwhile::access;
    #[cfg(not(all(test, any(loom, shuttle))))]
    pub(crate) use meanwhile::meanwhile;
    #[cfg(all(test, any(loom, shuttle)))]
    pub(super) fn access() {} // the model's scheduler plays the others

    /// What the dying unwind with.
    struct Died;

    /// Steps left, for one who has died and whose guards are being dropped.
    const DEAD: u32 = u32::MAX;

    #[cfg(all(test, loom))]
    use loom::thread_local;
    #[cfg(all(test, shuttle, not(loom)))]
    use shuttle::thread_local;
    thread_local! {
        // Steps left until death; 0: immortal.
        #[allow(clippy::missing_const_for_thread_local, reason = "loom's knows no constants")]
        static LEFT: Cell<u32> = Cell::new(0);
    }

    /// Is this step made? Not by the dead.
    pub(super) fn step() -> bool {
        access();
        let left = LEFT.with(|left| {
            let n = left.get();
            match n {
                0 | DEAD => {}
                1 => left.set(DEAD),
                _ => left.set(n - 1),
            }
            n
        });
        if left == 1 {
            std::panic::resume_unwind(Box::new(Died));
        }
        left != DEAD
    }

    /// Runs `f`, dying just before its `k`-th step (from 1; 0 never); its end counts as one. `None`: it died.
    pub(crate) fn mortal<T>(k: u32, f: impl FnOnce() -> T) -> Option<T> {
        LEFT.with(|left| left.set(k));
        let life = || {
            let value = f();
            step();
            value
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(life));
        LEFT.with(|left| left.set(0));
        match result {
            Ok(value) => Some(value),
            Err(cause) if cause.is::<Died>() => None,
            Err(cause) => std::panic::resume_unwind(cause),
        }
    }
}

/// Atomics whose writes are steps.
#[cfg(any(test, fuzzing))]
macro_rules! atomic {
    ($($from:ident)::+) => {
        atomic!($($from)::+, AtomicU32, u32);
        atomic!($($from)::+, AtomicU64, u64);
    };
    ($($from:ident)::+, $name:ident, $int:ty) => {
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub(crate) struct $name($($from)::+::$name);

        #[allow(dead_code, reason = "one set of operations for both widths")]
        impl $name {
            pub(crate) fn new(v: $int) -> Self {
                Self($($from)::+::$name::new(v))
            }
            pub(crate) fn load(&self, o: Ordering) -> $int {
                fate::access();
                self.0.load(o)
            }
            pub(crate) fn store(&self, v: $int, o: Ordering) {
                if fate::step() {
                    self.0.store(v, o)
                }
            }
            pub(crate) fn swap(&self, v: $int, o: Ordering) -> $int {
                if fate::step() { self.0.swap(v, o) } else { self.0.load(Relaxed) }
            }
            pub(crate) fn compare_exchange(&self, old: $int, new: $int, ok: Ordering, err: Ordering) -> Result<$int, $int> {
                if fate::step() { self.0.compare_exchange(old, new, ok, err) } else { Err(self.0.load(Relaxed)) }
            }
            pub(crate) fn fetch_or(&self, v: $int, o: Ordering) -> $int {
                if fate::step() { self.0.fetch_or(v, o) } else { self.0.load(Relaxed) }
            }
            pub(crate) fn fetch_and(&self, v: $int, o: Ordering) -> $int {
                if fate::step() { self.0.fetch_and(v, o) } else { self.0.load(Relaxed) }
            }
            pub(crate) fn fetch_add(&self, v: $int, o: Ordering) -> $int {
                if fate::step() { self.0.fetch_add(v, o) } else { self.0.load(Relaxed) }
            }
            pub(crate) fn fetch_update(
                &self,
                ok: Ordering,
                err: Ordering,
                f: impl FnMut($int) -> Option<$int>,
            ) -> Result<$int, $int> {
                if fate::step() { self.0.fetch_update(ok, err, f) } else { Err(self.0.load(Relaxed)) }
            }
        }
    };
}

#[cfg(not(all(test, any(loom, shuttle))))]
mod real {
    /// Is this fault wanted? Only ever by the models, which show by it that they would notice (`lockfree/tests/mutants.rs`).
    pub(crate) const fn mutant(_: &str) -> bool {
        false
    }

    #[cfg(not(any(test, fuzzing)))]
    pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64};
    #[cfg(any(test, fuzzing))]
    mod stepped {
        use super::super::{Ordering, Relaxed, fate};
        atomic!(std::sync::atomic);

        impl AtomicU32 {
            pub(super) const fn as_ptr(&self) -> *mut u32 {
                self.0.as_ptr()
            }
        }
    }
    #[cfg(any(test, fuzzing))]
    pub(crate) use stepped::*;

    /// Atomics from which nothing is concluded: what is told to people.
    pub(crate) mod told {
        pub(crate) use super::{AtomicU32, AtomicU64};
    }

    pub(crate) use std::sync::{Mutex, MutexGuard};
    use std::{cell::UnsafeCell, time::Duration};

    /// Atomics that threads of one process share.
    pub(crate) mod private {
        pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64};
    }

    pub(crate) use std::{hint::spin_loop, sync::atomic::fence};

    /// A SeqCst fence. `_fault`: the name under which the models leave it out.
    #[inline]
    pub(crate) fn full_fence(_fault: &str) {
        fence(super::Ordering::SeqCst);
    }

    /// A [`full_fence`], for a place that follows an exchange of this thread.
    ///
    /// On x86-64 that exchange was a full barrier already (Intel SDM vol. 3, 9.2.3.9: locked instructions have a total
    /// order, and no load passes one), so all that is left is to keep the compiler from moving anything across.
    #[inline]
    pub(crate) fn fence_after_exchange(_fault: &str) {
        if cfg!(target_arch = "x86_64") {
            std::sync::atomic::compiler_fence(super::Ordering::SeqCst)
        } else {
            fence(super::Ordering::SeqCst)
        }
    }

    /// Has the cache line of this address brought to this CPU, to be written: an exchange on a line that another CPU has written
    /// stalls all that follows it, and a hint given in time does not.
    #[inline]
    pub(crate) fn prefetch_to_write<T>(place: *const T) {
        #[cfg(target_arch = "x86_64")]
        {
            // Not `_mm_prefetch`, which makes a read of it unless the program is built for newer CPUs alone. Older ones take the
            // instruction for none (Intel SDM vol. 2, PREFETCHW).
            // SAFETY: it changes nothing but what is in the cache, whatever the address.
            unsafe { std::arch::asm!("prefetchw [{}]", in(reg) place, options(nostack, preserves_flags, readonly)) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = place;
    }

    /// As [`prefetch_to_write`], to be read.
    #[inline]
    pub(crate) fn prefetch<T>(place: *const T) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: as above.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = place;
    }

    /// CLOCK_MONOTONIC in nanoseconds: one clock for all processes of a machine, which stands still while that is suspended.
    pub(crate) fn monotonic() -> u64 {
        #[cfg(any(test, fuzzing))]
        if let Some(now) = NOW.get() {
            return now;
        }
        clock_monotonic()
    }

    /// [`monotonic`] as it was at the kernel's last tick: no clock is read, and the kernel never called.
    pub(crate) fn coarse() -> u64 {
        #[cfg(any(test, fuzzing))]
        if let Some(now) = NOW.get() {
            return now;
        }
        read(libc::CLOCK_MONOTONIC_COARSE)
    }

    /// As [`monotonic`], even where the time of a test stands still.
    pub(super) fn clock_monotonic() -> u64 {
        read(libc::CLOCK_MONOTONIC)
    }

    fn read(clock: libc::clockid_t) -> u64 {
        let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `ts` is a live timespec, which the call fills; Linux has always had both clocks.
        unsafe { libc::clock_gettime(clock, &raw mut ts) };
        ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
    }

    #[cfg(any(test, fuzzing))]
    thread_local! {
        /// This thread's time, if it is to stand still unless somebody moves it.
        pub(crate) static NOW: std::cell::Cell<Option<u64>> = const { std::cell::Cell::new(None) };
    }

    /// By so much an announcement counts the eventfd up: nobody rings as often before it is read.
    pub(crate) const ANNOUNCED: u64 = 1 << 32;

    /// What rouses the coordinator from its `poll`: an eventfd that all processes of a pool have. It may be absent, where
    /// nobody sleeps in `poll`. A worker that was left by one coordinator and taken on by another has a pidfd of that one in its place.
    #[derive(Clone, Copy, Debug, Default)]
    pub(crate) struct Bell(Option<std::os::fd::RawFd>);

    impl Bell {
        /// The descriptor stays open as long as the process, or whoever made it sees to that.
        pub(crate) fn new(fd: std::os::fd::RawFd) -> Bell {
            Bell(Some(fd))
        }

        /// A task has a time, or the segment has grown.
        pub(crate) fn ring(&self) {
            self.add(1);
        }

        /// There is other news, for which no look at all tasks is needed.
        pub(crate) fn announce(&self) {
            self.add(ANNOUNCED);
        }

        fn add(&self, n: u64) {
            if let Some(fd) = self.0 {
                // SAFETY: the kernel reads the 8 bytes of `n`. A full counter (EAGAIN) rings as well.
                let written = unsafe { libc::write(fd, (&raw const n).cast(), size_of::<u64>()) };
                if written < 0 && nix::errno::Errno::last() != nix::errno::Errno::EAGAIN {
                    rouse(fd);
                }
            }
        }
    }

    /// Rouses the coordinator that this pidfd names: it has SIGCHLD blocked, and polls for it.
    #[cold]
    fn rouse(pidfd: std::os::fd::RawFd) {
        let info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: a signal that does nothing to who doesn't wait for it, and null for the default siginfo; what is no pidfd is refused.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, libc::SIGCHLD, info, 0) };
    }

    /// A futex word that processes share.
    ///
    /// Source: `futex(2)`. The operations are the shared ones: `FUTEX_PRIVATE_FLAG` would look the word up by address
    /// and never find a sleeper of another process.
    #[repr(transparent)]
    pub(crate) struct Futex(AtomicU32);

    impl Futex {
        pub(crate) fn word(&self) -> &AtomicU32 {
            &self.0
        }

        /// Sleeps while the word holds `expected`, at most for `timeout`; may return early for no reason.
        pub(crate) fn wait(&self, expected: u32, timeout: Option<Duration>) {
            let ts = timeout.map(|t| libc::timespec {
                tv_sec: t.as_secs().try_into().unwrap_or(libc::time_t::MAX),
                tv_nsec: t.subsec_nanos().into(),
            });
            let ts = ts.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
            // SAFETY: the word is a live, aligned u32 and `ts` is null or a live timespec; the kernel only reads both.
            // EAGAIN, EINTR and ETIMEDOUT all mean "look again", which every caller does.
            unsafe { libc::syscall(libc::SYS_futex, self.0.as_ptr(), libc::FUTEX_WAIT, expected, ts) };
        }

        /// Wakes all who sleep on the word.
        pub(crate) fn wake_all(&self) {
            // SAFETY: FUTEX_WAKE only uses the address of the word, which is live.
            unsafe { libc::syscall(libc::SYS_futex, self.0.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
        }
    }

    /// Payload bytes inside a descriptor. Who may touch them is decided by the task word (`lockfree::descriptor`).
    #[repr(C, align(64))]
    pub(crate) struct Inline<const N: usize>(UnsafeCell<[u8; N]>);

    impl<const N: usize> Inline<N> {
        pub(crate) fn as_ptr(&self) -> *mut u8 {
            self.0.get().cast()
        }
    }

    // SAFETY: the cell hands out a raw pointer only; exclusive access is argued where that pointer is used.
    unsafe impl<const N: usize> Sync for Inline<N> {}
}
#[cfg(not(all(test, any(loom, shuttle))))]
pub(crate) mod ticks;
#[cfg(not(all(test, any(loom, shuttle))))]
pub(crate) use real::*;

#[cfg(all(test, any(loom, shuttle)))]
mod mocked {
    use super::{Ordering, Relaxed, fate};
    #[cfg(loom)]
    use loom as engine;
    #[cfg(not(loom))]
    use shuttle as engine;
    use std::{cell::Cell, sync::LazyLock, time::Duration};

    /// Is this fault wanted? `SHMWORKER_MUTANT` names it, or several with a plus sign between them.
    pub(crate) fn mutant(name: &str) -> bool {
        static WANTED: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("SHMWORKER_MUTANT").ok());
        WANTED.as_deref().is_some_and(|wanted| wanted.split('+').any(|w| w == name))
    }

    atomic!(engine::sync::atomic);

    /// Atomics from which nothing is concluded: no matter for a model.
    pub(crate) mod told {
        pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64};
    }

    pub(crate) use engine::sync::atomic::fence;

    // Under shuttle a process has one thread, so what is private to it is no matter of scheduling. And a thread that dies with
    // a lock gives it back as it unwinds, which must not let others run: they would find themselves panicking.
    #[cfg(loom)]
    pub(crate) use loom::sync::{Mutex, MutexGuard};
    #[cfg(not(loom))]
    pub(crate) use std::sync::{Mutex, MutexGuard};

    pub(crate) mod private {
        #[cfg(loom)]
        pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64};
        #[cfg(not(loom))]
        pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64};
    }

    pub(crate) fn full_fence(fault: &str) {
        if !mutant(fault) {
            fence(Ordering::SeqCst);
        }
    }

    pub(crate) use full_fence as fence_after_exchange;

    std::thread_local! {
        // A model's threads run in turn on one thread of the process.
        static NOW: Cell<u64> = const { Cell::new(0) };
    }

    /// Moves the model's time, which stands still otherwise.
    pub(crate) fn set_monotonic(ns: u64) {
        NOW.set(ns);
    }

    pub(crate) fn monotonic() -> u64 {
        NOW.get()
    }

    pub(crate) fn coarse() -> u64 {
        monotonic()
    }

    /// The models have no counter.
    pub(crate) mod ticks {
        #[derive(Clone, Copy, Debug, Default)]
        pub(crate) struct Pair {
            pub(crate) ticks: u64,
            pub(crate) ns: u64,
        }

        pub(crate) fn has_counter() -> bool {
            false
        }

        pub(crate) fn is_trusted() -> bool {
            false
        }

        pub(crate) fn counter() -> u64 {
            unreachable!("the models have none")
        }

        pub(crate) fn pair() -> Pair {
            unreachable!("the models have none")
        }
    }

    /// An eventfd and who polls it: a futex does.
    #[derive(Clone, Default)]
    pub(crate) struct Bell(pub(crate) Option<std::sync::Arc<Futex>>);

    impl Bell {
        pub(crate) fn ring(&self) {
            if let Some(futex) = &self.0 {
                futex.word().fetch_add(1, Ordering::AcqRel);
                futex.wake_all();
            }
        }

        pub(crate) fn announce(&self) {
            self.ring();
        }
    }

    /// The futex contract by a mutex and a condition variable; a timeout never fires.
    pub(crate) struct Futex {
        word: AtomicU32,
        lock: engine::sync::Mutex<()>,
        changed: engine::sync::Condvar,
    }

    impl Futex {
        pub(crate) fn new() -> Self {
            Self { word: AtomicU32::new(0), lock: engine::sync::Mutex::new(()), changed: engine::sync::Condvar::new() }
        }
        pub(crate) fn word(&self) -> &AtomicU32 {
            &self.word
        }
        /// Though another failed meanwhile: it is that failure that is to be told.
        fn lock(&self) -> engine::sync::MutexGuard<'_, ()> {
            self.lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
        }
        pub(crate) fn wait(&self, expected: u32, _: Option<Duration>) {
            fate::step();
            let guard = self.lock();
            // The kernel's own look at the word is no step of ours.
            if self.word.0.load(Ordering::Relaxed) == expected {
                drop(self.changed.wait(guard));
            }
        }
        pub(crate) fn wake_all(&self) {
            fate::step();
            let _guard = self.lock();
            self.changed.notify_all();
        }
    }

    /// Payload bytes as one word: loom reports any access that is not ordered by the task word. (shuttle does not.)
    pub(crate) struct Inline<const N: usize>(#[cfg(loom)] loom::cell::UnsafeCell<u64>, #[cfg(not(loom))] Cell<u64>);

    #[cfg(loom)]
    impl<const N: usize> Inline<N> {
        pub(crate) fn new() -> Self {
            Self(loom::cell::UnsafeCell::new(0))
        }
        pub(crate) fn get(&self) -> u64 {
            // SAFETY: loom checks that no write is concurrent with this read.
            self.0.with(|p| unsafe { *p })
        }
        pub(crate) fn set(&self, v: u64) {
            // SAFETY: loom checks that no other access is concurrent with this write.
            self.0.with_mut(|p| unsafe { *p = v })
        }
    }

    #[cfg(not(loom))]
    impl<const N: usize> Inline<N> {
        pub(crate) fn new() -> Self {
            Self(Cell::new(0))
        }
        pub(crate) fn get(&self) -> u64 {
            self.0.get()
        }
        pub(crate) fn set(&self, v: u64) {
            self.0.set(v);
        }
    }

    // SAFETY: a model's threads run in turn on one thread of the process.
    unsafe impl<const N: usize> Sync for Inline<N> {}
}
#[cfg(all(test, any(loom, shuttle)))]
pub(crate) use mocked::*;
