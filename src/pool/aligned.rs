//! Bytes in private memory that plain values of any type may be read from in place, as from the segment.

/// Bytes that begin at a multiple of 16.
#[derive(Clone, Debug, Default)]
pub(super) struct Aligned {
    words: Vec<u128>,
    len: usize,
}

impl Aligned {
    pub(super) fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.len]
    }

    /// So many bytes, in place of what was there. Those that are new are 0.
    pub(super) fn resize(&mut self, len: usize) -> &mut [u8] {
        self.words.resize(len.div_ceil(size_of::<u128>()), 0);
        self.len = len;
        self.bytes_mut()
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl From<&[u8]> for Aligned {
    fn from(bytes: &[u8]) -> Aligned {
        let mut aligned = Aligned::default();
        aligned.resize(bytes.len()).copy_from_slice(bytes);
        aligned
    }
}
