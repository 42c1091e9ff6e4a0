//! Many items as one task: how they lie in its payload.
//!
//! ```text
//!   input    count u32 · alignment u32 · length u32 of each · items, each at a multiple of the alignment
//!   output   status u32 · length u32 · bytes, up to a multiple of 16; of each item in turn
//! ```

use crate::error::Corrupted;

/// Where the items of an output begin: good for any plain value.
const STEP: usize = 16;

fn damaged(value: usize) -> Corrupted {
    Corrupted::new("chunk", 0, value as u64)
}

fn word(bytes: &[u8], at: usize) -> Result<usize, Corrupted> {
    let bytes = bytes.get(at..at + 4).ok_or(damaged(at))?;
    Ok(u32::from_le_bytes(bytes.try_into().unwrap_or_else(|_| unreachable!("four bytes"))) as usize)
}

/// A chunk that is being filled.
#[derive(Debug)]
pub(super) struct Chunk {
    lens: Vec<u32>,
    bytes: Vec<u8>,
    align: usize,
}

impl Chunk {
    pub(super) fn new(align: usize) -> Chunk {
        Chunk { lens: Vec::new(), bytes: Vec::new(), align }
    }

    pub(super) fn push(&mut self, item: &[u8]) {
        self.bytes.resize(self.bytes.len().next_multiple_of(self.align), 0);
        self.bytes.extend_from_slice(item);
        self.lens.push(item.len() as u32);
    }

    pub(super) fn len(&self) -> usize {
        self.lens.len()
    }

    /// Bytes of its items.
    pub(super) fn weight(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of its payload.
    pub(super) fn size(&self) -> usize {
        self.start() + self.bytes.len()
    }

    fn start(&self) -> usize {
        (8 + 4 * self.lens.len()).next_multiple_of(self.align)
    }

    pub(super) fn write(&self, payload: &mut [u8]) {
        let start = self.start();
        let words = [self.lens.len() as u32, self.align as u32].into_iter().chain(self.lens.iter().copied());
        for (place, word) in payload.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        payload[start..].copy_from_slice(&self.bytes);
    }

    /// The bytes of its one item, without the frame.
    pub(super) fn write_only(&self, payload: &mut [u8]) {
        payload.copy_from_slice(&self.bytes);
    }

    pub(super) fn items(&self) -> impl Iterator<Item = &[u8]> {
        let mut at = 0usize;
        self.lens.iter().map(move |&len| {
            let start = at.next_multiple_of(self.align);
            at = start + len as usize;
            &self.bytes[start..at]
        })
    }
}

/// The items of an input.
pub(super) fn items(input: &[u8]) -> Result<impl ExactSizeIterator<Item = Result<&[u8], Corrupted>>, Corrupted> {
    let (count, align) = (word(input, 0)?, word(input, 4)?);
    if !align.is_power_of_two() || count > input.len() / 4 {
        return Err(damaged(count));
    }
    let mut at = (8 + 4 * count).next_multiple_of(align);
    Ok((0..count).map(move |i| {
        let start = at.next_multiple_of(align);
        at = start + word(input, 8 + 4 * i)?;
        input.get(start..at).ok_or(damaged(i))
    }))
}

/// How much of an output so many bytes of one item take.
pub(super) fn frame(len: usize) -> usize {
    STEP + len.next_multiple_of(STEP)
}

/// Writes what came of an item to the beginning of `output`.
pub(super) fn write(output: &mut [u8], status: u32, bytes: &[u8]) {
    output[..4].copy_from_slice(&status.to_le_bytes());
    output[4..8].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
    output[STEP..][..bytes.len()].copy_from_slice(bytes);
}

/// What came of the item of an output that begins here: status, bytes, and where the next begins.
pub(super) fn result(output: &[u8], at: usize) -> Result<(u32, &[u8], usize), Corrupted> {
    let (status, len) = (word(output, at)?, word(output, at + 4)?);
    let start = at + STEP;
    let bytes = output.get(start..start + len).ok_or(damaged(at))?;
    Ok((status as u32, bytes, (start + len).next_multiple_of(STEP)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_back_as_they_were_and_damage_is_an_error() {
        for align in [1, 4, 16] {
            let mut chunk = Chunk::new(align);
            let all: [&[u8]; 4] = [b"one", b"", b"three", &[7; 100]];
            all.iter().for_each(|item| chunk.push(item));
            assert!(chunk.items().eq(all));
            let mut payload = vec![0; chunk.size()];
            chunk.write(&mut payload);
            let items: Vec<_> = items(&payload).unwrap().collect::<Result<_, _>>().unwrap();
            assert_eq!(items, all);
            for cut in 0..payload.len() {
                let whole = super::items(&payload[..cut]).is_ok_and(|mut items| items.all(|item| item.is_ok()));
                assert!(!whole, "cut at {cut}");
            }
        }
        let mut output = vec![9; frame(3) + frame(16)];
        write(&mut output, 0, b"yes");
        write(&mut output[frame(3)..], 7, &[1; 16]);
        let (status, bytes, next) = result(&output, 0).unwrap();
        assert_eq!((status, bytes), (0, &b"yes"[..]));
        assert_eq!(result(&output, next).unwrap(), (7, &[1u8; 16][..], output.len()));
        assert!(result(&output, output.len()).is_err());
    }
}
