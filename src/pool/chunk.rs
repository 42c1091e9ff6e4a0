//! Many items as one task: how they lie in its payload.
//!
//! ```text
//!   input    count u32 · alignment u16 · alignment of the output u16 · a frame for each item
//!   output   a frame for each item
//!   frame    length u32, its highest bit set if the item went badly · then its status u32 · bytes, at a multiple of the
//!            alignment
//! ```

use super::codec::{CodecError, Wire};
use crate::{error::Corrupted, exec::endpoint::STATUS_OK};

/// Bytes before the frames of an input.
const HEAD: usize = 8;
/// What says of a length that a status follows. No payload is as long.
const BAD: u32 = 1 << 31;

#[cold]
pub(super) fn damaged(at: usize) -> Corrupted {
    Corrupted::new("chunk", 0, at as u64)
}

#[inline]
fn word(bytes: &[u8], at: usize) -> Result<u32, Corrupted> {
    let word = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or_else(|| damaged(at))?;
    Ok(u32::from_le_bytes(*word))
}

/// Where the bytes of an item begin whose frame begins at `at`. `align`: a power of two.
#[inline]
pub(super) fn start(at: usize, status: u32, align: usize) -> usize {
    // Not `next_multiple_of`: that divides, where the alignment is no constant.
    let end = at + if status == STATUS_OK { 4 } else { 8 };
    (end + align - 1) & !(align - 1)
}

/// Writes what stands before the bytes of an item.
#[inline]
pub(super) fn write_head(frames: &mut [u8], at: usize, status: u32, len: usize) {
    let is_bad = status != STATUS_OK;
    let len = len as u32 | if is_bad { BAD } else { 0 };
    frames[at..at + 4].copy_from_slice(&len.to_le_bytes());
    if is_bad {
        frames[at + 4..at + 8].copy_from_slice(&status.to_le_bytes());
    }
}

/// The item whose frame begins at `at`, which is moved to the next one: its status, and where its bytes lie.
#[inline]
pub(super) fn next<'b>(frames: &'b [u8], at: &mut usize, align: usize) -> Result<(u32, &'b [u8]), Corrupted> {
    let len = word(frames, *at)?;
    let status = if len & BAD == 0 { STATUS_OK } else { word(frames, *at + 4)? };
    let start = start(*at, status, align);
    let end = start + (len & !BAD) as usize;
    let bytes = frames.get(start..end).ok_or_else(|| damaged(*at))?;
    *at = end;
    Ok((status, bytes))
}

/// A chunk that is being filled: its payload.
#[derive(Debug)]
pub(super) struct Chunk {
    bytes: Vec<u8>,
    count: u32,
}

impl Chunk {
    /// In the memory of `bytes`, whatever they are.
    pub(super) fn new<I: Wire, O: Wire>(mut bytes: Vec<u8>) -> Chunk {
        bytes.clear();
        bytes.extend(0u32.to_le_bytes());
        bytes.extend((I::ALIGN as u16).to_le_bytes());
        bytes.extend((O::ALIGN as u16).to_le_bytes());
        Chunk { bytes, count: 0 }
    }

    /// # Errors
    /// It has no encoding. The others are as they were.
    #[inline]
    pub(super) fn push<I: Wire>(&mut self, item: I::Ref<'_>) -> Result<(), CodecError> {
        let at = self.bytes.len();
        let start = start(at, STATUS_OK, I::ALIGN);
        self.bytes.resize(start, 0);
        I::append(item, &mut self.bytes).inspect_err(|_| self.bytes.truncate(at))?;
        let len = self.bytes.len() - start;
        write_head(&mut self.bytes, at, STATUS_OK, len);
        self.count += 1;
        self.bytes[..4].copy_from_slice(&self.count.to_le_bytes());
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.count as usize
    }

    pub(super) fn payload(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes of its payload.
    pub(super) fn weight(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn items<I: Wire>(&self) -> impl Iterator<Item = &[u8]> {
        let mut at = HEAD;
        (0..self.count).map(move |_| match next(&self.bytes, &mut at, I::ALIGN) {
            Ok((_, item)) => item,
            Err(e) => unreachable!("they were pushed: {e}"),
        })
    }

    /// Its memory, for another.
    pub(super) fn into_memory(self) -> Vec<u8> {
        self.bytes
    }
}

/// The items of an input.
pub(super) struct Items<'b> {
    input: &'b [u8],
    at: usize,
    left: usize,
    align: usize,
    /// Where the items of the output are to begin: at multiples of it.
    pub(super) output_align: usize,
}

impl<'b> Items<'b> {
    pub(super) fn of(input: &'b [u8]) -> Result<Items<'b>, Corrupted> {
        let (count, aligns) = (word(input, 0)? as usize, word(input, 4)?);
        let [align, output_align] = [aligns & 0xffff, aligns >> 16].map(|align| align as usize);
        // Each has a length, at least.
        if !align.is_power_of_two() || !output_align.is_power_of_two() || count > input.len() / 4 {
            return Err(damaged(count));
        }
        Ok(Items { input, at: HEAD, left: count, align, output_align })
    }

    pub(super) fn len(&self) -> usize {
        self.left
    }
}

impl<'b> Iterator for Items<'b> {
    type Item = Result<&'b [u8], Corrupted>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some(next(self.input, &mut self.at, self.align).map(|(_, item)| item))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::codec::Pods, *};
    use bytemuck::Pod;

    fn come_back<T: Pod + PartialEq + std::fmt::Debug>(all: [&[T]; 4]) {
        let mut chunk = Chunk::new::<Pods<T>, Pods<T>>(vec![9; 3]);
        all.iter().for_each(|item| chunk.push::<Pods<T>>(item).unwrap());
        assert!(chunk.items::<Pods<T>>().eq(all.map(bytemuck::cast_slice::<T, u8>)));
        let payload = chunk.payload();
        // As in the segment, its beginning lies at a multiple of any alignment.
        let mut aligned = super::super::aligned::Aligned::from(payload);
        let items: Vec<&[T]> =
            Items::of(aligned.bytes()).unwrap().map(|item| bytemuck::cast_slice(item.unwrap())).collect();
        assert_eq!(items, all);
        for cut in 0..payload.len() {
            aligned.truncate(payload.len() - 1 - cut);
            let whole = Items::of(aligned.bytes()).is_ok_and(|mut items| items.all(|item| item.is_ok()));
            assert!(!whole, "cut by {}", cut + 1);
        }
    }

    #[test]
    fn items_come_back_as_they_were_and_damage_is_an_error() {
        come_back::<u8>([b"one", b"", b"three", &[7; 100]]);
        come_back::<f32>([&[1.0], &[], &[2.0, 3.0], &[4.0; 100]]);
        come_back::<u128>([&[1], &[], &[2, 3], &[4; 100]]);
    }

    #[test]
    fn what_came_of_items_is_read_as_it_was_written() {
        for align in [1, 4, 16] {
            let (mut output, mut at) = (vec![9; 200], 0);
            let all = [(STATUS_OK, &b"yes"[..]), (7, &[1; 16]), (STATUS_OK, b""), (BAD, b"again")];
            for (status, bytes) in all {
                let start = start(at, status, align);
                write_head(&mut output, at, status, bytes.len());
                at = start + bytes.len();
                output[start..at].copy_from_slice(bytes);
            }
            output.truncate(at);
            at = 0;
            assert_eq!(all.map(|_| next(&output, &mut at, align).unwrap()), all);
            assert_eq!(at, output.len());
            assert!(next(&output, &mut at, align).is_err());
        }
    }
}
