//! An allocator by which callgrind can tell allocations: it counts calls also where it does not collect, but costs only where
//! it does.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    arch::asm,
};

/// The function whose cost is the number of allocations.
pub(crate) const TALLY: &str = "shmworker_counts::allocations::tally";

/// Costs one instruction: that by which it returns.
#[inline(never)]
fn tally() {
    // SAFETY: no instruction at all; it is here lest the call be left out.
    unsafe { asm!("", options(nomem, nostack, preserves_flags)) };
}

#[global_allocator]
static TALLIED: Tallied = Tallied;

struct Tallied;

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Tallied {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        tally();
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the same, and every block is the system's.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        tally();
        // SAFETY: as for `dealloc`.
        unsafe { System.realloc(at, layout, size) }
    }
}
