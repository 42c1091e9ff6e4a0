//! Fatal signals: which task's thread got one, where a process runs several.
//!
//! A process that dies by SIGSEGV and its like runs, for a moment, a handler on the thread that is to blame. It notes that
//! thread's task in the record of the process in the segment, and hands on to the action that was there before: Rust's
//! own says of a guard page that the stack overflowed. Recovery reads the note (`lockfree/recovery.rs`, Blame).
//!
//! SIGKILL runs no handler, and memory that runs out ends in one: there all tasks that ran are suspects.
//!
//! # What a handler may do
//!
//! It loads a thread-local that needs no initialisation, exchanges one word of the segment, and calls `getpid`,
//! `sigaction` and `raise`: all async-signal-safe (`signal-safety(7)`). It runs on the alternate stack of its thread, or a
//! stack that has overflowed would have no room for it. Rust gives each thread that it starts one, and the main thread;
//! [`install`] gives one to the thread that calls it, should that have none. A foreign thread without one dies without a
//! note.
//!
//! # Handing on
//!
//! The former actions are restored. What the kernel raised for an instruction comes again as the handler returns and that
//! is repeated, with the address that Rust's handler looks at; what somebody sent (`abort`, `kill`, a trap, whose
//! instruction is behind us) is raised again, and comes as the handler returns.
//!
//! The first signal is the one that is noted. Should a former handler get the process to live on, the note stays, and
//! counts only if its task is still this process's when that dies; nothing else is noted then.
//!
//! Sources: `sigaction(2)`, `sigaltstack(2)`; Rust's `library/std/src/sys/pal/unix/stack_overflow.rs`.

use crate::{
    lockfree::{participant::Participant, table::TaskId},
    sync::{self, Acquire, Relaxed, Release, private::AtomicU64},
};
use nix::{
    errno::Errno,
    sys::{
        mman::{MapFlags, ProtFlags, mmap_anonymous},
        signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction},
    },
    unistd::getpid,
};
use std::{
    num::NonZeroUsize,
    ptr,
    sync::{
        OnceLock,
        atomic::{AtomicI32, AtomicPtr, Ordering::SeqCst, compiler_fence},
    },
};

/// What ends a process by the fault of one of its threads.
const FATAL: [Signal; 7] =
    [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGABRT, Signal::SIGTRAP, Signal::SIGSYS];

/// Room on an alternate stack beside what the kernel saves there: Rust's handler prints from it.
const ROOM: usize = 32 << 10;

thread_local! {
    /// The task that this thread runs ([`TaskId::note`]); 0: none.
    static RUNNING: AtomicU64 = const { AtomicU64::new(0) };
}

/// Who notes.
static PARTICIPANT: AtomicPtr<Participant> = AtomicPtr::new(ptr::null_mut());
/// Where it is noted beside, for who reads the trail.
static TRAIL: AtomicPtr<sync::AtomicU64> = AtomicPtr::new(ptr::null_mut());
/// The process that has installed the handler. In a child of its own the segment is not mapped.
static PROCESS: AtomicI32 = AtomicI32::new(0);
/// What was there before, for each of [`FATAL`].
static BEFORE: [OnceLock<SigAction>; FATAL.len()] = [const { OnceLock::new() }; FATAL.len()];

/// This thread runs this task from here on.
pub(crate) fn running(task: Option<TaskId>) {
    RUNNING.with(|running| running.store(task.map_or(0, TaskId::note), Relaxed));
    // A handler runs on this thread, so no other order is needed than that of the program.
    compiler_fence(SeqCst);
}

/// Has fatal signals noted in the record of this participant, which is this process. Once for each process.
///
/// # Errors
/// [`Errno`], of `sigaction` or of making the alternate stack.
pub(crate) fn install(participant: &'static Participant) -> Result<(), Errno> {
    ensure_alternate_stack()?;
    PROCESS.store(getpid().as_raw(), Relaxed);
    // Release: who loads it finds the process above.
    PARTICIPANT.store(ptr::from_ref(participant).cast_mut(), Release);
    let action =
        SigAction::new(SigHandler::SigAction(note), SaFlags::SA_ONSTACK | SaFlags::SA_SIGINFO, SigSet::empty());
    for (signal, before) in FATAL.into_iter().zip(&BEFORE).filter(|(_, before)| before.get().is_none()) {
        // SAFETY: `note` does nothing that a handler may not do (the head of this page), and keeps to its signature.
        let former = unsafe { sigaction(signal, &action) }?;
        let _ = before.set(former); // two threads that install at once are the caller's mistake: the first one's holds
    }
    Ok(())
}

/// Has the task noted in this word too, which is 0 until then.
pub(crate) fn note_in(trail: &'static sync::AtomicU64) {
    TRAIL.store(ptr::from_ref(trail).cast_mut(), Release);
}

/// The handler.
extern "C" fn note(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let task = RUNNING.with(|running| running.load(Relaxed));
    // SAFETY: null, or `install` had it from a reference that lives as long as the process.
    let participant = unsafe { PARTICIPANT.load(Acquire).as_ref() };
    if let Some(participant) = participant
        && task != 0
        && PROCESS.load(Relaxed) == getpid().as_raw()
    {
        participant.note_fault(task);
        // SAFETY: null, or `note_in` had it from a reference that lives as long as the process.
        if let Some(trail) = unsafe { TRAIL.load(Acquire).as_ref() } {
            let _ = trail.compare_exchange(0, task, Relaxed, Relaxed); // for people
        }
    }
    // All of them: of two on one alternate stack the second may find no room, and Rust's handler ends in `abort`.
    for (signal, before) in FATAL.into_iter().zip(&BEFORE) {
        if let Some(former) = before.get() {
            // SAFETY: this is the action that the process had before, with all that it needs.
            let _ = unsafe { sigaction(signal, former) };
        }
    }
    // SAFETY: the kernel passes a whole siginfo to a handler with SA_SIGINFO.
    let is_of_the_kernel = unsafe { (*info).si_code } > 0;
    let comes_again = matches!(signal, libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE);
    if !(is_of_the_kernel && comes_again)
        && let Ok(signal) = Signal::try_from(signal)
    {
        let _ = raise(signal); // blocked until this handler returns
    }
}

/// Gives this thread an alternate stack if it has none. It is never freed: a signal may come until the process ends.
fn ensure_alternate_stack() -> Result<(), Errno> {
    let mut stack = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: 0, ss_size: 0 };
    // SAFETY: the call only fills `stack`.
    Errno::result(unsafe { libc::sigaltstack(ptr::null(), &raw mut stack) })?;
    if stack.ss_flags & libc::SS_DISABLE == 0 {
        return Ok(());
    }
    // SAFETY: the call reads a constant of the process; 0 where the kernel does not say.
    let frame = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) } as usize;
    let room = NonZeroUsize::new(frame.max(libc::SIGSTKSZ) + ROOM).ok_or(Errno::EINVAL)?;
    // SAFETY: a new mapping, which replaces none.
    let start =
        unsafe { mmap_anonymous(None, room, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE) }?;
    let stack = libc::stack_t { ss_sp: start.as_ptr(), ss_flags: 0, ss_size: room.get() };
    // SAFETY: the stack is a mapping that nothing else uses, and that stays.
    Errno::result(unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{
        backing::Backing,
        layout::Geometry,
        segment::{Options, Segment},
    };
    use nix::sys::resource::{Resource, setrlimit};
    use std::{
        hint::black_box,
        os::unix::process::ExitStatusExt,
        path::Path,
        process::{Command, Stdio, exit},
        thread,
    };

    const TASK: TaskId = TaskId { index: 3, generation: 70 };
    const OTHER: TaskId = TaskId { index: 4, generation: 70 };
    const WAY: &str = "SHMWORKER_TEST_FAULT";
    const PLACE: &str = "SHMWORKER_TEST_SEGMENT";

    /// A way to die, the signal by which, and what is said on the way.
    type Way = (&'static str, fn(), Signal, &'static str);

    const WAYS: [Way; 10] = [
        ("null", read_null, Signal::SIGSEGV, ""),
        ("abort", || std::process::abort(), Signal::SIGABRT, ""),
        ("overflow", || assert!(recurse(0) > 0), Signal::SIGABRT, "has overflowed its stack"),
        ("foreign-overflow", overflow_a_foreign_thread, Signal::SIGSEGV, ""),
        ("beyond-a-file", touch_beyond_a_file, Signal::SIGBUS, ""),
        // Rust's own handler takes the first one for a fault that will come again.
        ("sent", || (0..2).for_each(|_| raise(Signal::SIGSEGV).unwrap()), Signal::SIGSEGV, ""),
        ("illegal", || raise(Signal::SIGILL).unwrap(), Signal::SIGILL, ""),
        ("division", || raise(Signal::SIGFPE).unwrap(), Signal::SIGFPE, ""),
        ("trap", || raise(Signal::SIGTRAP).unwrap(), Signal::SIGTRAP, ""),
        ("system-call", || raise(Signal::SIGSYS).unwrap(), Signal::SIGSYS, ""),
    ];

    fn read_null() {
        // SAFETY: none; that is the point. The process dies here.
        black_box(unsafe { black_box(ptr::null::<u8>()).read_volatile() });
    }

    fn recurse(n: u64) -> u64 {
        let room = black_box([n; 64]);
        if n == u64::MAX { 0 } else { recurse(n + 1) + room[n as usize % 64] }
    }

    /// A thread that Rust has not started has no alternate stack, unless `install` makes one.
    fn overflow_a_foreign_thread() {
        extern "C" fn main(participant: *mut libc::c_void) -> *mut libc::c_void {
            // SAFETY: `participant` is what `install` was given before.
            install(unsafe { &*participant.cast::<Participant>().cast_const() }).unwrap();
            running(Some(TASK));
            black_box(recurse(0));
            ptr::null_mut()
        }
        running(Some(OTHER));
        let mut thread = 0;
        let participant = PARTICIPANT.load(Acquire).cast();
        // SAFETY: `main` has the signature of a thread, and its argument lives as long as the process.
        let made = unsafe { libc::pthread_create(&raw mut thread, ptr::null(), main, participant) };
        assert_eq!(made, 0);
        // SAFETY: the thread was made just now and is joined once.
        unsafe { libc::pthread_join(thread, ptr::null_mut()) };
    }

    fn touch_beyond_a_file() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let map = crate::mem::mapping::Mapping::new(&file, 4096, true).unwrap();
        file.set_len(0).unwrap();
        // SAFETY: inside the mapping; what is behind it has gone, which the kernel answers with SIGBUS.
        black_box(unsafe { map.as_ptr().read_volatile() });
    }

    fn segment(place: &Path) -> Segment {
        let options = Options { backing: Backing::File(place.to_owned()), ..Options::default() };
        Segment::create_with(Geometry::new(4, 1), &options).unwrap()
    }

    /// In the child: comes to the end that it was told to.
    fn die(way: &str) -> ! {
        setrlimit(Resource::RLIMIT_CORE, 0, 0).unwrap();
        let segment = Box::leak(Box::new(segment(Path::new(&std::env::var_os(PLACE).unwrap()))));
        let name = segment.table().admit(0, 0).unwrap().unwrap();
        install(&segment.table().participants[usize::from(name.id())]).unwrap();
        install(&segment.table().participants[usize::from(name.id())]).unwrap();
        running(Some(OTHER));
        let act = WAYS.iter().find(|w| w.0 == way).expect("a way").1;
        let _ = thread::spawn(move || {
            running(Some(TASK));
            act();
        })
        .join();
        exit(99);
    }

    /// Each in a process of its own: this test binary, which runs this test only.
    #[test]
    fn each_fatal_signal_is_noted_with_the_task_of_its_thread_and_handed_on() {
        if let Some(way) = std::env::var_os(WAY) {
            die(way.to_str().unwrap());
        }
        let name = "process::fault::tests::each_fatal_signal_is_noted_with_the_task_of_its_thread_and_handed_on";
        for (way, _, signal, said) in WAYS {
            let dir = tempfile::tempdir().unwrap();
            let place = dir.path().join("segment");
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", name, "--nocapture"])
                .env(WAY, way)
                .env(PLACE, &place)
                .stdin(Stdio::null())
                .output()
                .unwrap();
            let words = String::from_utf8_lossy(&child.stderr);
            assert_eq!(child.status.signal(), Some(signal as i32), "{way}: {} {words}", child.status);
            assert!(words.contains(said), "{way}: {words}");
            let segment = Segment::open(&place, false).unwrap();
            let noted = segment.table().participants[0].fault.load(Relaxed);
            assert_eq!(noted, TASK.note(), "{way}");
        }
    }
}
