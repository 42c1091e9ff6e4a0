//! What tasks take and give: any `serde` type in a compact encoding, or slices of plain numbers as they lie in memory.
//!
//! The encoding of `serde` types is postcard's (<https://postcard.jamesmunns.com/wire-format>). Both ends are one program, so
//! no version is kept beside it. What comes from the command line is JSON.

use bytemuck::Pod;
use postcard::ser_flavors::Flavor;
use serde::{Serialize, de::DeserializeOwned};
use std::{cell::Cell, fmt, marker::PhantomData};

/// A value that crosses the segment. Implemented for every `serde` type and for [`Pods`], which [`Bytes`] are.
///
/// ```
/// use shmworker::pool::{Bytes, Pods, Task};
///
/// const COUNT: Task<String, u64> = Task::named("count"); // encoded
/// const SCALE: Task<Pods<f32>, Pods<f32>> = Task::named("scale"); // read and written in place
/// const DIGEST: Task<Bytes, Bytes> = Task::named("digest");
/// # let _ = (COUNT, SCALE, DIGEST);
/// ```
pub trait Wire: 'static {
    /// What is handed in: a reference.
    type Ref<'a>: Copy;
    /// What a handler is given: a value, or a slice that lies in the segment.
    type Arg<'a>;
    /// What comes out at the other end.
    type Owned;
    /// Bytes at multiples of which a value has to begin.
    #[doc(hidden)]
    const ALIGN: usize = 1;
    #[doc(hidden)]
    fn borrow(value: &Self::Owned) -> Self::Ref<'_>;
    #[doc(hidden)]
    fn encode<R>(value: Self::Ref<'_>, with: impl FnOnce(&[u8]) -> R) -> Result<R, CodecError>;
    /// Encodes it behind what is there. After an error too that is as it was, but something may follow it.
    #[doc(hidden)]
    fn append(value: Self::Ref<'_>, bytes: &mut Vec<u8>) -> Result<(), CodecError>;
    /// Encodes it at the beginning of `place`, and says in how many bytes. `None`: it has no room there, or no encoding.
    #[doc(hidden)]
    fn encode_in(value: Self::Ref<'_>, place: &mut [u8]) -> Option<usize>;
    #[doc(hidden)]
    fn view(bytes: &[u8], codec: Codec) -> Result<Self::Arg<'_>, CodecError>;
    #[doc(hidden)]
    fn decode(bytes: &[u8]) -> Result<Self::Owned, CodecError>;
    #[doc(hidden)]
    fn encode_as<R>(value: Self::Ref<'_>, codec: Codec, with: impl FnOnce(&[u8]) -> R) -> Result<R, CodecError>;
}

/// How a payload is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub enum Codec {
    Compact,
    Json,
}

/// A value could not be encoded, or bytes are none.
///
/// ```no_run
/// # use shmworker::{Pool, Tasks};
/// # let mut tasks = Tasks::new();
/// # let square = tasks.function("square", |x: u64| x * x);
/// # let pool = Pool::builder().fork(tasks)?;
/// # let length = shmworker::pool::Task::<String, usize>::named("length");
/// // JSON that is no string, for a task that takes one.
/// let handle = pool.submit_json("length", "17", &Default::default())?;
/// println!("{}", handle.wait().unwrap_err()); // the task failed: this JSON is not what the task takes: …
/// # let _ = length;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct CodecError {
    what: &'static str,
    why: String,
}

impl CodecError {
    fn new(what: &'static str, why: impl fmt::Display) -> CodecError {
        CodecError { what, why: why.to_string() }
    }

    /// Bytes that are no slice of plain values.
    pub(super) fn shape(why: impl fmt::Display) -> CodecError {
        CodecError::new("these bytes are no slice of the type of this task", why)
    }
}

/// Bytes of memory that a thread keeps for its next encoding, at most.
const KEPT: usize = 64 << 10;

thread_local! {
    /// Empty, but for its memory.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What postcard writes goes to the end of these bytes.
struct Behind<'b>(&'b mut Vec<u8>);

impl Flavor for Behind<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Wire for T {
    type Ref<'a> = &'a T;
    type Arg<'a> = T;
    type Owned = T;

    fn borrow(value: &T) -> &T {
        value
    }

    fn encode<R>(value: &T, with: impl FnOnce(&[u8]) -> R) -> Result<R, CodecError> {
        // Nobody is left to keep it for, while the thread's locals are being destroyed.
        let mut bytes = SCRATCH.try_with(Cell::take).unwrap_or_default();
        let encoded = T::append(value, &mut bytes).map(|()| with(&bytes));
        if bytes.capacity() <= KEPT {
            bytes.clear();
            let _ = SCRATCH.try_with(|scratch| scratch.set(bytes));
        }
        encoded
    }

    #[inline]
    fn append(value: &T, bytes: &mut Vec<u8>) -> Result<(), CodecError> {
        postcard::serialize_with_flavor(value, Behind(bytes))
            .map_err(|e| CodecError::new("a value of this type has no compact encoding; hand it over as bytes", e))
    }

    #[inline]
    fn encode_in(value: &T, place: &mut [u8]) -> Option<usize> {
        postcard::to_slice(value, place).ok().map(|bytes| bytes.len())
    }

    fn view(bytes: &[u8], codec: Codec) -> Result<T, CodecError> {
        match codec {
            Codec::Compact => T::decode(bytes),
            Codec::Json => {
                serde_json::from_slice(bytes).map_err(|e| CodecError::new("this JSON is not what the task takes", e))
            }
        }
    }

    #[inline]
    fn decode(bytes: &[u8]) -> Result<T, CodecError> {
        postcard::from_bytes(bytes).map_err(|e| match e {
            postcard::Error::WontImplement => CodecError::new(
                "the compact encoding does not say what it holds, which this type asks it for",
                "hand over such a value, a serde_json::Value or an untagged enum, as JSON text in a String",
            ),
            e => CodecError::new("these bytes are no value of the type of this task", e),
        })
    }

    fn encode_as<R>(value: &T, codec: Codec, with: impl FnOnce(&[u8]) -> R) -> Result<R, CodecError> {
        match codec {
            Codec::Compact => T::encode(value, with),
            Codec::Json => {
                let json = serde_json::to_vec(value).map_err(|e| CodecError::new("JSON can't say this result", e))?;
                Ok(with(&json))
            }
        }
    }
}

/// Raw bytes, which neither end encodes. JSON has no form for them.
///
/// ```
/// use shmworker::pool::Bytes;
///
/// let mut tasks = shmworker::Tasks::new();
/// let lines = tasks.in_place::<Bytes, u64>("lines", |_, text, mut output| {
///     output.write(&(text.iter().filter(|byte| **byte == b'\n').count() as u64))
/// });
/// # let _ = lines;
/// ```
pub type Bytes = Pods<u8>;

/// A slice of plain values ([`bytemuck::Pod`]), which cross as they lie in memory: workers read them in place, and write their
/// results in place.
///
/// ```
/// use shmworker::pool::Pods;
///
/// let mut tasks = shmworker::Tasks::new();
/// let sum = tasks.in_place::<Pods<f64>, f64>("sum", |_, numbers, mut output| output.write(&numbers.iter().sum()));
/// # let _ = sum;
/// ```
pub struct Pods<T>(PhantomData<fn() -> T>);

impl<T: Pod> Wire for Pods<T> {
    type Ref<'a> = &'a [T];
    type Arg<'a> = &'a [T];
    type Owned = Vec<T>;

    const ALIGN: usize = {
        assert!(align_of::<T>() <= 16, "plain values are aligned to 16 bytes at most, wherever they lie");
        align_of::<T>()
    };

    fn borrow(value: &Vec<T>) -> &[T] {
        value
    }

    fn encode<R>(value: &[T], with: impl FnOnce(&[u8]) -> R) -> Result<R, CodecError> {
        let _ = Self::ALIGN;
        Ok(with(bytemuck::cast_slice(value)))
    }

    fn append(value: &[T], bytes: &mut Vec<u8>) -> Result<(), CodecError> {
        bytes.extend_from_slice(bytemuck::cast_slice(value));
        Ok(())
    }

    fn encode_in(value: &[T], place: &mut [u8]) -> Option<usize> {
        let bytes = bytemuck::cast_slice(value);
        place.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(bytes.len())
    }

    fn view(bytes: &[u8], codec: Codec) -> Result<&[T], CodecError> {
        if codec == Codec::Json {
            return Err(CodecError::new("JSON can't be read in place", "submit to this task from a program"));
        }
        bytemuck::try_cast_slice(bytes).map_err(CodecError::shape)
    }

    fn decode(bytes: &[u8]) -> Result<Vec<T>, CodecError> {
        if bytes.len().checked_rem(size_of::<T>()) != Some(0) {
            return Err(CodecError::shape(format!("{} bytes", bytes.len())));
        }
        if let Ok(values) = bytemuck::try_cast_slice(bytes) {
            return Ok(values.to_vec());
        }
        let mut values = vec![T::zeroed(); bytes.len() / size_of::<T>()];
        bytemuck::cast_slice_mut(&mut values).copy_from_slice(bytes);
        Ok(values)
    }

    fn encode_as<R>(value: &[T], codec: Codec, with: impl FnOnce(&[u8]) -> R) -> Result<R, CodecError> {
        match codec {
            Codec::Compact => Self::encode(value, with),
            Codec::Json => Err(CodecError::new("JSON can't say raw numbers", "submit to this task from a program")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_without_a_shape_of_its_own_is_refused_with_a_remedy() {
        let refused = serde_json::Value::encode(&serde_json::json!(1), serde_json::Value::decode).unwrap().unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the compact encoding does not say what it holds, which this type asks it for: hand over such a value, a \
             serde_json::Value or an untagged enum, as JSON text in a String"
        );
    }

    #[test]
    fn an_encoding_within_the_use_of_another_leaves_that_one_alone() {
        let nested = |_: &[u8]| String::encode(&"inner".to_owned(), |bytes| bytes.to_vec()).unwrap();
        let outer = |bytes: &[u8]| (nested(bytes), bytes.to_vec());
        let (inner, outer) = String::encode(&"outer".to_owned(), outer).unwrap();
        assert_eq!((&inner[1..], &outer[1..]), (&b"inner"[..], &b"outer"[..]));
    }
}
