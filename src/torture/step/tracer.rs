//! A child that is brought to a chosen instruction of a path, and killed there.
//!
//! # How an instruction is reached
//!
//! Stepping to instruction `k` for each `k` would cost n² steps. So the path is stepped once, and its addresses noted; from
//! then on a child runs freely to a hardware breakpoint shortly before its instruction, and is stepped from there. That it
//! has arrived is checked: its address must be the one that was noted.
//!
//! Only for x86-64: elsewhere a single step may break the reservation of a load-linked word, and an exchange never succeeds.
//!
//! Sources: `ptrace(2)`; Intel SDM 3B, 19.2 (debug registers) and 7.3.1.1 (RF).

use crate::{
    process::spawn::state,
    torture::{TortureError, os},
};
use nix::{
    errno::Errno,
    sys::{
        ptrace,
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use std::{collections::HashMap, hint::black_box, mem::offset_of};

/// Stops a traced process just behind itself: begin and end of the path.
#[inline(always)]
fn mark() {
    // SAFETY: under a tracer a breakpoint only stops the process; it changes no register and no memory.
    unsafe { std::arch::asm!("int3", options(nomem, nostack, preserves_flags)) };
}

/// In the child: lets the parent trace it, and runs `path` between two marks. Doesn't return unless tracing is refused.
pub(super) fn be_traced(path: impl FnOnce()) -> u8 {
    if ptrace::traceme().is_err() {
        return 101;
    }
    from_a_page(|| {
        mark();
        path();
        mark();
    });
    101
}

/// Runs `f` where the stack is at the same place of a page each time, however deep it is: by where its ends lie in their cache
/// lines, a copy on the stack takes a turn more or less.
#[inline(never)]
fn from_a_page(f: impl FnOnce()) {
    #[repr(align(4096))]
    struct Page([u8; 4096]);
    let page = Page([0; 4096]);
    black_box(&page.0);
    f();
}

/// The instructions of a path, in the order in which they run.
#[derive(Default)]
pub(super) struct Trace(Vec<Instruction>);

struct Instruction {
    address: u64,
    /// How often a breakpoint here stops the child until it has arrived; 0: none does.
    hits: usize,
}

/// Where to run freely to, before the rest is stepped.
struct Anchor {
    at: usize,
    hits: usize,
}

impl Trace {
    fn new(addresses: &[u64]) -> Trace {
        let mut arrivals = HashMap::new();
        let instruction = |(i, &address): (usize, &u64)| {
            // Where the child stands already, no breakpoint stops it; nor in the turns of one repeated string instruction.
            let stops = i > 0 && addresses[i - 1] != address;
            let n = arrivals.entry(address).or_insert(0);
            *n += usize::from(stops);
            Instruction { address, hits: if stops { *n } else { 0 } }
        };
        Trace(addresses.iter().enumerate().map(instruction).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The anchor from which it takes the fewest stops to where `k` instructions have run; `None`: step all the way.
    fn anchor(&self, k: usize) -> Option<Anchor> {
        let (mut least, mut best) = (k, None);
        for (at, instruction) in self.0.iter().enumerate().take(k + 1).rev() {
            if k - at >= least {
                break;
            }
            let stops = instruction.hits + k - at;
            if instruction.hits > 0 && stops < least {
                (least, best) = (stops, Some(Anchor { at, hits: instruction.hits }));
            }
        }
        best
    }
}

/// What makes a sleeping child go on.
pub(super) type Wake<'w> = Box<dyn FnOnce() -> Result<(), String> + 'w>;

/// A traced child, stopped.
pub(super) struct Traced<'w> {
    pid: Pid,
    /// What is done once the child sleeps, so that it goes on.
    wake: Option<Wake<'w>>,
}

impl<'w> Traced<'w> {
    /// Waits for the begin of the path.
    pub(super) fn new(pid: Pid, wake: Option<Wake<'w>>) -> Result<Self, TortureError> {
        let mut child = Traced { pid, wake };
        child.wait()?;
        ptrace::setoptions(pid, ptrace::Options::PTRACE_O_EXITKILL).map_err(os("trace a child"))?;
        Ok(child)
    }

    /// Steps through the whole path.
    pub(super) fn record(&mut self) -> Result<Trace, TortureError> {
        let mut addresses = Vec::new();
        loop {
            let at = self.address()?;
            let word = ptrace::read(self.pid, at as ptrace::AddressType).map_err(os("read an instruction"))?;
            if word as u8 == 0xcc {
                return Ok(Trace::new(&addresses));
            }
            addresses.push(at);
            self.step()?;
        }
    }

    /// Brings the child from the begin of the path to where `k` instructions have run. `false`: it isn't there.
    pub(super) fn advance(&mut self, trace: &Trace, k: usize) -> Result<bool, TortureError> {
        let mut at = 0;
        if let Some(anchor) = trace.anchor(k) {
            self.set_breakpoint(trace.0[anchor.at].address)?;
            for _ in 0..anchor.hits {
                ptrace::cont(self.pid, None).map_err(os("continue a child"))?;
                self.wait()?;
            }
            self.write_debug_register(7, 0)?;
            at = anchor.at;
        }
        for _ in at..k {
            self.step()?;
        }
        // Behind the last instruction stands the mark.
        Ok(trace.0.get(k).is_none_or(|wanted| self.address().is_ok_and(|address| address == wanted.address)))
    }

    /// Lets the child run until it sleeps.
    pub(super) fn fall_asleep(&mut self) -> Result<(), TortureError> {
        ptrace::cont(self.pid, None).map_err(os("continue a child"))?;
        while state(self.pid) != Some('S') {
            nix::sched::sched_yield().map_err(os("yield"))?;
        }
        Ok(())
    }

    /// Kills the child where it stands.
    pub(super) fn kill(self) -> Result<(), TortureError> {
        kill(self.pid, Signal::SIGKILL).map_err(os("kill a child"))?;
        while !matches!(waitpid(self.pid, None).map_err(os("wait for a child"))?, WaitStatus::Signaled(..)) {}
        Ok(())
    }

    /// Lets the child run to the end of its path, and ends it there.
    pub(super) fn finish(mut self) -> Result<(), TortureError> {
        ptrace::cont(self.pid, None).map_err(os("continue a child"))?;
        self.wait()?;
        self.kill()
    }

    fn step(&mut self) -> Result<(), TortureError> {
        ptrace::step(self.pid, None).map_err(os("step a child"))?;
        self.wait()
    }

    /// Waits until the child stops; if it falls asleep instead, it is woken, once.
    fn wait(&mut self) -> Result<(), TortureError> {
        loop {
            let flags = self.wake.as_ref().map(|_| WaitPidFlag::WNOHANG);
            match waitpid(self.pid, flags).map_err(os("wait for a child"))? {
                WaitStatus::Stopped(_, Signal::SIGTRAP) => return Ok(()),
                WaitStatus::Stopped(..) => ptrace::cont(self.pid, None).map_err(os("continue a child"))?,
                WaitStatus::StillAlive if state(self.pid) == Some('S') => {
                    if let Some(wake) = self.wake.take() {
                        wake().map_err(TortureError::Wake)?;
                    }
                }
                WaitStatus::StillAlive => nix::sched::sched_yield().map_err(os("yield"))?,
                _ => return Err(os("go on with a child that ended by itself")(Errno::ECHILD)),
            }
        }
    }

    fn address(&self) -> Result<u64, TortureError> {
        Ok(ptrace::getregs(self.pid).map_err(os("read the registers"))?.rip)
    }

    fn set_breakpoint(&self, address: u64) -> Result<(), TortureError> {
        self.write_debug_register(0, address)?;
        self.write_debug_register(7, 1) // register 0, this process, on execution
    }

    fn write_debug_register(&self, n: usize, value: u64) -> Result<(), TortureError> {
        let offset = offset_of!(libc::user, u_debugreg) + n * size_of::<u64>();
        ptrace::write_user(self.pid, offset as ptrace::AddressType, value as i64).map_err(os("set a breakpoint"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_is_the_nearest_place_by_stops() {
        // Two, then a loop of three that runs three times, then two.
        let trace = Trace::new(&[10, 11, 20, 21, 22, 20, 21, 22, 20, 21, 22, 30, 31]);
        let at = |k| trace.anchor(k).map(|a| (a.at, a.hits));
        assert_eq!(at(1), None, "one step is as near");
        assert_eq!(at(4), Some((4, 1)));
        assert_eq!(at(10), Some((10, 3)));
        assert_eq!(at(13), Some((12, 1)), "behind the end");
        let string = Trace::new(&[10, 11, 20, 20, 20, 30]);
        assert_eq!(string.anchor(4).map(|a| (a.at, a.hits)), Some((2, 1)), "turns of one instruction aren't counted");
    }
}
