//! Packed words against their own definition.

use crate::lockfree::{
    descriptor::Payload,
    participant::Name,
    word::{Block, LAP_BITS, LAP_MASK, Member, Phase, Slot, Task, is_legal},
};

/// Any 64 bits are decoded without a panic, and what decodes is encoded to the same bits. `data`: little-endian words.
///
/// # Panics
/// If that is not so.
pub fn words(data: &[u8]) {
    let (words, _) = data.as_chunks::<8>();
    let words: Vec<u64> = words.iter().map(|w| u64::from_le_bytes(*w)).collect();
    for &w in &words {
        task(Task(w));
        slot(Slot(w));
        if let Some(block) = Block::of(w) {
            assert_eq!(block.bits(), w, "{block:?}");
        }
        if let Some(member) = Member::of(w) {
            assert_eq!(member.bits(), w, "{member:?}");
        }
        let payload = Payload(w);
        assert!(payload.len() <= u32::MAX as usize);
        assert_eq!(Payload::new(payload.block(), payload.len() as u32), payload);
        let name = Name::of(w);
        assert_eq!(Name::new(name.id(), name.incarnation()).bits(), w & !0xff_0000, "{name:?}");
    }
    for pair in words.windows(2) {
        transition(Task(pair[0]), Task(pair[1]));
        // Laps have no order, only a distance: the shorter way round.
        let lap = pair[1] & LAP_MASK;
        let distance = Slot(pair[0]).laps_ahead_of(lap);
        assert!((-(1 << (LAP_BITS - 1))..1 << (LAP_BITS - 1)).contains(&distance), "{distance}");
        assert_eq!(lap.wrapping_add_signed(distance) & LAP_MASK, pair[0] >> 32 & LAP_MASK);
    }
}

fn task(w: Task) {
    assert!(!format!("{w:?}").is_empty());
    if let Some(phase) = w.phase() {
        assert_eq!(Task::new(phase, w.who(), w.attempt(), w.generation()), w);
        assert!(w.is(phase));
    }
}

fn slot(w: Slot) {
    assert!(!format!("{w:?}").is_empty());
    let lap = w.0 >> 32 & LAP_MASK;
    let again = if w.is_full() { Slot::full(lap, w.hint()) } else { Slot::empty(lap) };
    // An empty slot's low bits mean nothing.
    assert_eq!(again.0, if w.is_full() { w.0 } else { w.0 & !0xffff_ffff });
}

/// Whatever two words hold: a legal transition is one between whole words, and none ends a life except FREE → RESERVED, and
/// RESERVED → READY and RESERVED → RESERVED by its owner.
fn transition(from: Task, to: Task) {
    let reborn = from.reborn(to.who());
    let anew = reborn.to(Phase::Ready, to.who());
    let may_be = from.is(Phase::Reserved) && from.who() == to.who();
    assert_eq!(is_legal(from, reborn), from.is(Phase::Free) || may_be, "{from:?} -> {reborn:?}");
    assert_eq!(is_legal(from, anew), may_be, "{from:?} -> {anew:?}");
    if is_legal(from, to) {
        assert!(from.phase().is_some() && to.phase().is_some(), "{from:?} -> {to:?}");
        assert!(to == reborn || to == anew || to.generation() == from.generation(), "{from:?} -> {to:?}");
    }
}
