//! What tasks take and give: any `serde` type in a compact encoding, raw bytes, or slices of plain numbers as they lie in memory.
//!
//! The encoding of `serde` types is postcard's (<https://postcard.jamesmunns.com/wire-format>). Both ends are one program, so
//! no version is kept beside it.

use bytemuck::Pod;
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt, marker::PhantomData};

/// A value that crosses the segment. Implemented for every `serde` type, for [`Bytes`] and for [`Pods`].
///
/// Sealed: what is read in place must be exactly what was written there.
pub trait Wire: 'static {
    /// What is handed in: a reference.
    type Ref<'a>;
    /// What comes out at the other end.
    type Owned;
    #[doc(hidden)]
    fn encode<R>(value: Self::Ref<'_>, with: impl FnOnce(&[u8]) -> R) -> Result<R, CodecError>;
    #[doc(hidden)]
    fn decode(bytes: &[u8]) -> Result<Self::Owned, CodecError>;
}

/// A value could not be encoded, or bytes are none.
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
}

impl<T: Serialize + DeserializeOwned + 'static> Wire for T {
    type Ref<'a> = &'a T;
    type Owned = T;

    fn encode<R>(value: &T, with: impl FnOnce(&[u8]) -> R) -> Result<R, CodecError> {
        let bytes = postcard::to_stdvec(value)
            .map_err(|e| CodecError::new("a value of this type has no compact encoding; hand it over as bytes", e))?;
        Ok(with(&bytes))
    }

    fn decode(bytes: &[u8]) -> Result<T, CodecError> {
        postcard::from_bytes(bytes).map_err(|e| CodecError::new("these bytes are no value of the type of this task", e))
    }
}

/// Raw bytes, which no end encodes.
#[derive(Debug)]
pub enum Bytes {}

impl Wire for Bytes {
    type Ref<'a> = &'a [u8];
    type Owned = Vec<u8>;

    fn encode<R>(value: &[u8], with: impl FnOnce(&[u8]) -> R) -> Result<R, CodecError> {
        Ok(with(value))
    }

    fn decode(bytes: &[u8]) -> Result<Vec<u8>, CodecError> {
        Ok(bytes.to_vec())
    }
}

/// A slice of plain values ([`bytemuck::Pod`]), which cross as they lie in memory.
pub struct Pods<T>(PhantomData<fn() -> T>);

impl<T: Pod> Wire for Pods<T> {
    type Ref<'a> = &'a [T];
    type Owned = Vec<T>;

    fn encode<R>(value: &[T], with: impl FnOnce(&[u8]) -> R) -> Result<R, CodecError> {
        Ok(with(bytemuck::cast_slice(value)))
    }

    fn decode(bytes: &[u8]) -> Result<Vec<T>, CodecError> {
        let whole = bytes.len().checked_rem(size_of::<T>()) == Some(0);
        if !whole {
            return Err(CodecError::new("these bytes are no slice of the type of this task", bytes.len()));
        }
        let mut values = vec![T::zeroed(); bytes.len() / size_of::<T>()];
        bytemuck::cast_slice_mut(&mut values).copy_from_slice(bytes);
        Ok(values)
    }
}
