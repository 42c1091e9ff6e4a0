//! A fuse: a process ends or stops itself, a chosen number of instructions after it has begun something.
//!
//! It steps itself: with the trap flag set, the processor interrupts it after each instruction, and a handler of SIGTRAP
//! counts. That costs some microseconds a step (18 in a virtual machine), needs no tracer, and puts the end as often between any two instructions as
//! between any others, where a timer or a signal from outside nearly always finds the victim in a system call. The others run
//! on at full speed meanwhile, so a stepped process is a slow one as well.
//!
//! Only for x86-64; elsewhere each fuse has the length 0.
//!
//! Sources: Intel SDM 3B, 19.3.1.4 (TF); `signal(7)`; the kernel clears the flag for the handler and restores it after it.

use crate::sync::{AcqRel, Acquire, AtomicU64, Relaxed, Release};
use nix::sys::signal::{Signal, raise};

/// What happens to a victim.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Blow {
    Kill,
    Stop,
}

impl Blow {
    pub(super) fn signal(self) -> Signal {
        match self {
            Blow::Kill => Signal::SIGKILL,
            Blow::Stop => Signal::SIGSTOP,
        }
    }
}

/// With what a victim lights its fuse.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// A client submits, a worker completes.
    Work,
    Sleep,
}

/// A blow that its victim deals to itself.
#[derive(Clone, Copy)]
pub(super) struct Order {
    pub(super) blow: Blow,
    pub(super) act: Act,
    /// In instructions.
    pub(super) length: u32,
}

/// An order for one process, in memory that it shares with who gives it; 0: none.
#[repr(transparent)]
pub(super) struct Fuse(AtomicU64);

impl Fuse {
    pub(super) fn lay(&self, order: Order) {
        // Release here, AcqRel in the exchanges: an order is this word alone, and travels whole.
        let (kills, works) = (u64::from(order.blow == Blow::Kill), u64::from(order.act == Act::Work));
        self.0.store(1 << 34 | kills << 33 | works << 32 | u64::from(order.length), Release);
    }

    /// False: it burns already.
    pub(super) fn take_back(&self) -> bool {
        self.0.swap(0, AcqRel) != 0
    }

    /// In the victim, which begins to do this: lights the fuse if that is the order.
    pub(super) fn light(&self, act: Act) {
        let bits = self.0.load(Acquire);
        if bits == 0 || (bits >> 32 & 1 == 1) != (act == Act::Work) {
            return;
        }
        // It fails if the order is taken back at this moment.
        if self.0.compare_exchange(bits, 0, AcqRel, Relaxed).is_ok() {
            burn(if bits >> 33 & 1 == 1 { Blow::Kill } else { Blow::Stop }, bits as u32);
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use stepping::prepare;

#[cfg(target_arch = "x86_64")]
fn burn(blow: Blow, length: u32) {
    if length == 0 { strike(blow.signal()) } else { stepping::start(blow.signal(), length) }
}

#[cfg(not(target_arch = "x86_64"))]
fn burn(blow: Blow, _: u32) {
    strike(blow.signal());
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn prepare() -> nix::Result<()> {
    Ok(())
}

fn strike(signal: Signal) {
    // No process may be forbidden to signal itself.
    let _ = raise(signal);
}

#[cfg(target_arch = "x86_64")]
mod stepping {
    use super::strike;
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    use std::{
        ffi::{c_int, c_void},
        sync::atomic::{
            AtomicI32,
            AtomicU32,
            Ordering::Relaxed, // one thread, and its own handler
        },
    };

    const TRAP_FLAG: i64 = 1 << 8;
    /// Instructions left; 0: not burning.
    static LEFT: AtomicU32 = AtomicU32::new(0);
    static SIGNAL: AtomicI32 = AtomicI32::new(0);

    /// In a process that may be a victim.
    pub(in super::super) fn prepare() -> nix::Result<()> {
        let action = SigAction::new(SigHandler::SigAction(on_step), SaFlags::SA_RESTART, SigSet::empty());
        // SAFETY: the handler calls nothing that is not async-signal-safe (`signal-safety(7)`).
        unsafe { sigaction(Signal::SIGTRAP, &action) }.map(drop)
    }

    pub(super) fn start(signal: Signal, length: u32) {
        SIGNAL.store(signal as i32, Relaxed);
        LEFT.store(length, Relaxed);
        // SAFETY: sets a flag of this thread whose only effect is a SIGTRAP after each instruction, for which there is a
        // handler; what is pushed is popped.
        unsafe { std::arch::asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
    }

    extern "C" fn on_step(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
        let left = LEFT.load(Relaxed).saturating_sub(1);
        LEFT.store(left, Relaxed);
        if left > 0 {
            return;
        }
        // SAFETY: the kernel gives a handler with SA_SIGINFO the context that it will restore, which nobody else uses.
        let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
        context.uc_mcontext.gregs[libc::REG_EFL as usize] &= !TRAP_FLAG;
        if let Ok(signal) = Signal::try_from(SIGNAL.load(Relaxed)) {
            strike(signal);
        }
    }
}
