//! A map of what is free: hints, so that nobody has to search the truth.
//!
//! # States
//!
//! A set bit says "probably free", a clear one "probably not": who takes a thing without the map leaves its bit set. The truth
//! is the task word of a descriptor, the owner word of a block.
//!
//! # Words
//!
//! | word  | written by                                   | read by             | a death leaves                 |
//! |-------|----------------------------------------------|---------------------|--------------------------------|
//! | a bit | cleared by who looks for something free; set | those who look; the | a missing bit: cleared and not |
//! |       | by who has freed it, and by recovery         | audit               | taken, or freed and not set    |
//!
//! Bits of the ends of a range may share a word with another range.
//!
//! # Invariants
//!
//! 1. No bit gives a right: who clears one then makes the exchange on the truth, and goes on to the next if that fails.
//! 2. A missing bit costs time and no room: who finds no bit asks the truth of all before it gives up
//!    ([`super::table::Table::reserve`], [`super::blocks::Blocks::alloc`]).
//!
//! # Ordering
//!
//! All Relaxed: nothing is concluded from a bit, and the truth has orderings of its own. So on hardware that is weaker
//! than x86-64 `give` may go by an old value and set nothing: a missing bit.
//!
//! # Crash
//!
//! The sweep after a death sets the bit of each free descriptor, and [`super::blocks::Blocks::recover`] that of each
//! free block.
//!
//! # Progress
//!
//! Each bit that `take` loses in a word is one that another has got; it looks at each word in turn and ends. Checked by
//! the test below, `fuzz/fuzz_targets/arena_ops.rs` and `descriptor_ops.rs`, and by the audit wherever that is at rest
//! on x86-64: what is free has its bit.

use crate::sync::{AtomicU64, Relaxed};
use std::ops::Range;

/// One bit per thing.
#[derive(Clone, Copy)]
pub(crate) struct FreeMap<'s>(pub(crate) &'s [AtomicU64]);

impl FreeMap<'_> {
    /// Words that `n` bits take.
    pub(crate) const fn words(n: usize) -> usize {
        n.div_ceil(64)
    }

    /// Clears a set bit within `range` and returns its number. The search starts at a place that depends on `start`, so
    /// that participants stay out of one another's way.
    pub(crate) fn take(&self, range: Range<usize>, start: usize) -> Option<usize> {
        let (first, end) = (range.start / 64, range.end.div_ceil(64));
        let n = end - first;
        for k in 0..n {
            let w = first + (start + k) % n;
            let word = &self.0[w];
            let mut seen = word.load(Relaxed) & mask(w, &range);
            while seen != 0 {
                let bit = seen & seen.wrapping_neg();
                if word.fetch_and(!bit, Relaxed) & bit != 0 {
                    return Some(w * 64 + bit.trailing_zeros() as usize);
                }
                seen = word.load(Relaxed) & mask(w, &range);
            }
        }
        None
    }

    /// Is it probably free?
    pub(crate) fn has(&self, i: usize) -> bool {
        self.0[i / 64].load(Relaxed) >> (i % 64) & 1 == 1
    }

    /// Sets the bit of something that has become free.
    pub(crate) fn give(&self, i: usize) {
        let (word, bit) = (&self.0[i / 64], 1 << (i % 64));
        if word.load(Relaxed) & bit == 0 {
            word.fetch_or(bit, Relaxed);
        }
    }
}

/// The bits of word `w` that lie within `range`.
fn mask(w: usize, range: &Range<usize>) -> u64 {
    let from = range.start.saturating_sub(w * 64);
    let to = range.end.saturating_sub(w * 64).min(64);
    let below = |n: usize| if n >= 64 { u64::MAX } else { (1 << n) - 1 };
    below(to) & !below(from)
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn each_bit_of_a_range_is_given_once_and_none_outside() {
        let words: Vec<AtomicU64> = (0..3).map(|_| AtomicU64::new(u64::MAX)).collect();
        let map = FreeMap(&words);
        let mut got: Vec<usize> = std::iter::from_fn(|| map.take(60..130, 1)).collect();
        got.sort_unstable();
        assert_eq!(got, (60..130).collect::<Vec<_>>());
        map.give(64);
        assert_eq!(map.take(60..130, 0), Some(64));
        assert_eq!(map.take(130..192, 9).map(|i| (130..192).contains(&i)), Some(true), "the neighbours kept theirs");
    }
}
