//! Where a run takes place: CPUs, partner processes, memory that they share.

use crate::{Result, case::Placement};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::{
        mman::{MapFlags, ProtFlags, mmap_anonymous},
        prctl::set_pdeathsig,
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::{ForkResult, Pid, fork, gettid},
};
use std::{fs, hint::spin_loop, num::NonZero, thread};

/// The CPUs of the two sides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpus {
    pub(crate) here: usize,
    pub(crate) there: usize,
}

impl Cpus {
    /// # Errors
    /// There is only one.
    pub(crate) fn of(placement: Placement) -> Result<Cpus> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let mut cpus = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false));
        let here = cpus.next().ok_or("this process may run nowhere")?;
        let there = if placement == Placement::OneCore { Some(here) } else { cpus.next() };
        Ok(Cpus {
            here,
            there: there.ok_or("both sides spin, so two CPUs are needed: widen the affinity mask (taskset)")?,
        })
    }
}

/// Keeps the calling thread on one CPU.
pub(crate) fn pin(cpu: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)
}

/// How somebody waits who does not sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Spin,
    /// Lets others have the CPU: the one whom it waits for may need it.
    Yield,
}

impl Wait {
    /// For so many that want to run at once.
    pub(crate) fn among(busy: usize) -> Wait {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        if busy > cpus { Wait::Yield } else { Wait::Spin }
    }

    pub(crate) fn until<T>(self, mut look: impl FnMut() -> Option<T>) -> T {
        loop {
            if let Some(found) = look() {
                return found;
            }
            match self {
                Wait::Spin => spin_loop(),
                Wait::Yield => thread::yield_now(),
            }
        }
    }
}

/// The other side: a process, killed when this is dropped, or a thread, which ends with this process.
#[derive(Debug)]
pub(crate) struct Partner {
    pid: Pid,
    is_process: bool,
}

impl Partner {
    /// Forks a process that runs `main`. The caller has one thread.
    pub(crate) fn fork(main: impl FnOnce() -> Result<()>) -> Result<Partner> {
        // SAFETY: this process has one thread (see above), so the child may go on as an ordinary process.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Partner { pid: child, is_process: true }),
            ForkResult::Child => {
                let code = set_pdeathsig(Signal::SIGKILL).map_err(Into::into).and_then(|()| main());
                if let Err(e) = &code {
                    eprintln!("error: partner: {e}");
                }
                // SAFETY: ends the process without running what its parent has registered for its own end.
                unsafe { libc::_exit(code.is_err().into()) }
            }
        }
    }

    /// Starts a thread that runs `main`.
    pub(crate) fn spawn(main: impl FnOnce() -> Result<()> + Send + 'static) -> Result<Partner> {
        let (tell, told) = std::sync::mpsc::channel();
        thread::spawn(move || {
            if tell.send(gettid()).is_ok()
                && let Err(e) = main()
            {
                eprintln!("error: partner: {e}");
            }
        });
        Ok(Partner { pid: told.recv()?, is_process: false })
    }

    pub(crate) fn await_sleep(&self) -> Result<()> {
        await_sleep(self.pid.as_raw() as u32)
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        if self.is_process {
            // It may have ended by itself; it stays a zombie, so the number is still its own.
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
        }
    }
}

/// Returns when this process or thread sleeps.
///
/// # Errors
/// It has ended.
pub(crate) fn await_sleep(pid: u32) -> Result<()> {
    loop {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // Behind the name, which may contain anything.
        match stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()) {
            Some('S') => return Ok(()),
            Some('R') => thread::yield_now(),
            state => return Err(format!("process {pid} is in state {state:?}, and will not sleep").into()),
        }
    }
}

/// Zeroed memory for `n` values, shared with all children forked from now on, and never unmapped.
///
/// # Safety
/// All zeros are a `T`, and a `T` is made of atomics: others write to it.
pub(crate) unsafe fn shared<T>(n: usize) -> Result<&'static [T]> {
    let size = NonZero::new(n * size_of::<T>()).ok_or("nothing to map")?;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping, which replaces none.
    let memory = unsafe { mmap_anonymous(None, size, access, MapFlags::MAP_SHARED) }?;
    // SAFETY: aligned to a page, zeroed, as long as `n` values, never unmapped; by the caller's word zeros are values.
    Ok(unsafe { std::slice::from_raw_parts(memory.as_ptr().cast::<T>(), n) })
}
