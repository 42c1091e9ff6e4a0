//! The time stamp counter, where the kernel itself trusts it.

use super::clock_monotonic;

/// One moment on both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Pair {
    /// The counter, where it can be trusted; else nanoseconds as well.
    pub(crate) ticks: u64,
    /// CLOCK_MONOTONIC.
    pub(crate) ns: u64,
}

/// Has this CPU a counter of constant rate, whatever its power states? (Intel SDM vol. 3, 18.17.1: "invariant TSC".)
pub(crate) fn has_counter() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::__cpuid;
        const POWER: u32 = 0x8000_0007;
        __cpuid(0x8000_0000).eax >= POWER && __cpuid(POWER).edx >> 8 & 1 == 1
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// May stamps of different CPUs be compared? The kernel has found out at boot, and watches on: it takes the time from
/// elsewhere as soon as it finds one that is out of step, or jumps.
pub(crate) fn is_trusted() -> bool {
    const CURRENT: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    has_counter() && std::fs::read_to_string(CURRENT).is_ok_and(|name| name.trim() == "tsc")
}

/// The counter. Not before the loads, nor after the stores, that stand around it: off by some nanoseconds at most.
#[inline]
pub(crate) fn counter() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: all CPUs of this architecture have the instruction, which only writes two registers.
        unsafe { std::arch::x86_64::_rdtsc() }
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("`has_counter` says that there is none")
}

/// Both clocks at one moment, within some ten nanoseconds.
pub(crate) fn pair() -> Pair {
    // An interruption between the readings shows as width.
    let reading = |_| {
        let (before, ns, after) = (counter(), clock_monotonic(), counter());
        let width = after.saturating_sub(before);
        (width, Pair { ticks: before + width / 2, ns })
    };
    (0..5).map(reading).min_by_key(|(width, _)| *width).map_or(Pair::default(), |(_, pair)| pair)
}
