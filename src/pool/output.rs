//! Where a handler leaves its output: in the segment, or beside it if it is that of an item of a chunk and has no room there.

use super::{
    aligned::Aligned,
    client::Client,
    codec::{Codec, CodecError, Pods, Wire},
    tasks::Failure,
};
use crate::{
    error::Corrupted,
    exec::endpoint::{SubmitError, Writer},
};
use bytemuck::Pod;
use std::{
    marker::PhantomData,
    time::{Duration, Instant},
};

/// How long to wait for room for an output before looking again.
const PAUSE: Duration = Duration::from_millis(100);
/// After how many looks memory that the kernel refuses is an error: nobody knows whether it ever comes.
const LOOKS: u32 = 30;

/// Room for one output.
pub(super) enum Room<'c> {
    /// The task's own, in the segment.
    InPlace { writer: Writer<'c, 'c>, client: &'c Client },
    /// Of one item of a chunk.
    OfItem(ItemRoom<'c>),
}

/// Room for what comes of one item of a chunk: what is left of its chunk's room, or private memory if that is too little.
pub(super) struct ItemRoom<'c> {
    place: Option<&'c mut [u8]>,
    beside: &'c mut Aligned,
    /// Bytes of `place` that it takes; `None`: it lies beside.
    len: Option<usize>,
}

impl<'c> ItemRoom<'c> {
    /// `place`: aligned as the output is to be, if there is one.
    #[inline]
    pub(super) fn new(place: Option<&'c mut [u8]>, beside: &'c mut Aligned) -> ItemRoom<'c> {
        let len = place.as_ref().map(|_| 0);
        if len.is_none() {
            beside.resize(0);
        }
        ItemRoom { place, beside, len }
    }

    fn reserve(&mut self, len: usize) -> &mut [u8] {
        let place = self.place.as_mut().and_then(|place| place.get_mut(..len));
        self.len = place.as_ref().map(|place| place.len());
        place.unwrap_or_else(|| self.beside.resize(len))
    }

    fn bytes(&mut self) -> &mut [u8] {
        let place = self.place.as_mut().zip(self.len).and_then(|(place, len)| place.get_mut(..len));
        place.unwrap_or_else(|| self.beside.bytes_mut())
    }
}

impl Room<'_> {
    /// Room for so many bytes, in place of what was reserved before; waits while others have it all, and some seconds for memory.
    /// Its content is whatever lay there.
    ///
    /// # Errors
    /// [`SubmitError`]: larger than any payload, no memory, or damage; no room, if the task is to end.
    pub(super) fn reserve(&mut self, len: usize) -> Result<&mut [u8], SubmitError> {
        match self {
            Room::InPlace { writer, client } => {
                let mut looks = 0;
                while let Err(e) = writer.reserve(len) {
                    looks += 1;
                    let may_come = e.is_want_of_room() || e.is_transient() && looks < LOOKS;
                    if !may_come || writer.is_cancelled() {
                        return Err(e);
                    }
                    writer.pause(PAUSE, || {
                        // Results of this process's own may have all the room, and who would take them waits here. They are moved
                        // out as they are filed, since by now we are among those who want room; that ends the sleep.
                        let _ = client.drain(Some(Instant::now()));
                        false
                    });
                }
                Ok(writer.bytes()?)
            }
            Room::OfItem(room) => Ok(room.reserve(len)),
        }
    }

    /// No more than were reserved.
    pub(super) fn truncate(&mut self, len: usize) -> Result<(), Corrupted> {
        match self {
            Room::InPlace { writer, .. } => writer.truncate(len),
            Room::OfItem(room) => {
                match &mut room.len {
                    Some(most) => *most = len.min(*most),
                    None => room.beside.truncate(len),
                }
                Ok(())
            }
        }
    }

    /// What is reserved.
    pub(super) fn bytes(&mut self) -> Result<&mut [u8], Corrupted> {
        match self {
            Room::InPlace { writer, .. } => writer.bytes(),
            Room::OfItem(room) => Ok(room.bytes()),
        }
    }

    /// Of one item of a chunk: how many bytes lie in the place that it was given. `None`: they lie beside it.
    #[inline]
    pub(super) fn len_of_item(&self) -> Option<usize> {
        match self {
            Room::InPlace { .. } => None,
            Room::OfItem(room) => room.len,
        }
    }

    /// Leaves this value as the output.
    #[inline]
    pub(super) fn write<O: Wire>(&mut self, value: O::Ref<'_>, codec: Codec) -> Result<(), Failure> {
        if let (Room::OfItem(room), Codec::Compact) = (&mut *self, codec) {
            room.len = room.place.as_mut().and_then(|place| O::encode_in(value, place));
            if room.len.is_some() {
                return Ok(());
            }
        }
        O::encode_as(value, codec, |bytes| {
            self.reserve(bytes.len())?.copy_from_slice(bytes);
            Ok(())
        })?
    }
}

/// Where a handler that is registered by [`Tasks::in_place`](super::Tasks::in_place) leaves its output. One that leaves nothing
/// gives an empty output.
pub struct Output<'r, 'c, O: Wire> {
    room: &'r mut Room<'c>,
    codec: Codec,
    kind: PhantomData<fn() -> O>,
}

impl<O: Wire> std::fmt::Debug for Output<'_, '_, O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Output")
    }
}

impl<'r, 'c, O: Wire> Output<'r, 'c, O> {
    pub(super) fn new(room: &'r mut Room<'c>, codec: Codec) -> Self {
        Output { room, codec, kind: PhantomData }
    }

    /// Copies this value out.
    ///
    /// # Errors
    /// A [`Failure`]: it has no encoding, or is larger than any payload may be.
    ///
    /// ```
    /// use shmworker::pool::{Bytes, Pods};
    ///
    /// let mut tasks = shmworker::Tasks::new();
    /// let head = tasks.in_place::<Bytes, Bytes>("head", |_, input, mut output| output.write(&input[..input.len().min(100)]));
    /// let sum = tasks.in_place::<Pods<u64>, u64>("sum", |_, input, mut output| output.write(&input.iter().sum()));
    /// # let _ = (head, sum);
    /// ```
    pub fn write(&mut self, value: O::Ref<'_>) -> Result<(), Failure> {
        self.room.write::<O>(value, self.codec)
    }
}

impl<T: Pod> Output<'_, '_, Pods<T>> {
    /// Room for `n` values in the segment, to be filled in place. Their values are whatever lay there. Calling it again gives
    /// room anew in the place of the former.
    ///
    /// # Errors
    /// A [`Failure`] if so many are larger than any payload may be.
    ///
    /// ```
    /// use shmworker::pool::Pods;
    ///
    /// let mut tasks = shmworker::Tasks::new();
    /// let zeros = tasks.in_place::<u64, Pods<u8>>("zeros", |_, n, mut output| {
    ///     output.reserve(n as usize)?.fill(0);
    ///     Ok(())
    /// });
    /// # let _ = zeros;
    /// ```
    pub fn reserve(&mut self, n: usize) -> Result<&mut [T], Failure> {
        if self.codec == Codec::Json {
            return Err(Failure::permanent("JSON can't say raw numbers: submit to this task from a program"));
        }
        let len =
            n.checked_mul(size_of::<T>()).ok_or_else(|| Failure::permanent(format!("{n} values are too many")))?;
        let bytes = self.room.reserve(len)?;
        Ok(bytemuck::try_cast_slice_mut(bytes).map_err(CodecError::shape)?)
    }

    /// Of what was [reserved](Self::reserve), only the first `n` values are the output.
    ///
    /// # Errors
    /// A [`Failure`] if the segment is damaged.
    ///
    /// ```
    /// use shmworker::pool::Bytes;
    ///
    /// let mut tasks = shmworker::Tasks::new();
    /// let digits = tasks.in_place::<Bytes, Bytes>("digits", |_, input, mut output| {
    ///     let place = output.reserve(input.len())?;
    ///     let mut n = 0;
    ///     for byte in input.iter().filter(|byte| byte.is_ascii_digit()) {
    ///         place[n] = *byte;
    ///         n += 1;
    ///     }
    ///     output.truncate(n)
    /// });
    /// # let _ = digits;
    /// ```
    pub fn truncate(&mut self, n: usize) -> Result<(), Failure> {
        Ok(self.room.truncate(n.saturating_mul(size_of::<T>()))?)
    }
}
