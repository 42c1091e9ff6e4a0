//! What comes in from C: checked, as far as that can be, before it is used.

use crate::error::Error;
use shmworker::plugin::abi::shmworker_result as Code;
use std::{
    ffi::{CStr, OsStr, c_char},
    os::unix::ffi::OsStrExt,
    slice,
};

/// # Safety
/// - NULL, or text that ends with a NUL and is not written to while it is used.
#[inline(always)]
pub(crate) unsafe fn text<'a>(argument: &str, text: *const c_char) -> Result<&'a str, Error> {
    // SAFETY: as above.
    unsafe { optional_text(argument, text) }?.ok_or_else(|| Error::null(argument))
}

/// As [`text`]; NULL is `None`.
///
/// # Safety
/// - As there.
#[inline(always)]
pub(crate) unsafe fn optional_text<'a>(argument: &str, text: *const c_char) -> Result<Option<&'a str>, Error> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: it isn't NULL, and the rest is the caller's word.
    let text = unsafe { CStr::from_ptr(text) };
    // Most are, and short: to see that takes a fifth of the time.
    if text.to_bytes().is_ascii() {
        // SAFETY: ASCII is UTF-8.
        return Ok(Some(unsafe { str::from_utf8_unchecked(text.to_bytes()) }));
    }
    let text = text.to_str().map_err(|e| Error::new(Code::InvalidUtf8, format_args!("{argument} is no UTF-8: {e}")))?;
    Ok(Some(text))
}

/// A path or an argument: whatever bytes.
pub(crate) fn os(text: &CStr) -> &OsStr {
    OsStr::from_bytes(text.to_bytes())
}

/// # Safety
/// - `len` items that can be read, and are not written to while they are used; or `len` is 0; or one of these: NULL, more than there
///   can be.
pub(crate) unsafe fn slice<'a, T>(argument: &str, items: *const T, len: usize) -> Result<&'a [T], Error> {
    if len == 0 {
        return Ok(&[]);
    }
    if items.is_null() {
        return Err(Error::null(argument));
    }
    if len > isize::MAX as usize / size_of::<T>().max(1) {
        return Err(Error::new(Code::TooLarge, format_args!("{argument} can't have {len} items: memory has fewer")));
    }
    // SAFETY: it isn't NULL, no longer than a slice may be, and the rest is the caller's word.
    Ok(unsafe { slice::from_raw_parts(items, len) })
}

/// Room for bytes, of which there are whatever lies there.
///
/// # Safety
/// - As [`slice`], for bytes that may be written to, and are used by nobody else meanwhile.
pub(crate) unsafe fn room<'a>(argument: &str, place: *mut u8, len: usize) -> Result<&'a mut [u8], Error> {
    if len == 0 {
        return Ok(&mut []);
    }
    if place.is_null() {
        return Err(Error::null(argument));
    }
    if len > isize::MAX as usize {
        return Err(Error::invalid(format_args!("{argument} can't have room for {len} bytes: memory has fewer")));
    }
    // SAFETY: it isn't NULL, no longer than a slice may be, and the rest is the caller's word.
    Ok(unsafe { slice::from_raw_parts_mut(place, len) })
}

/// Where a result goes.
///
/// # Safety
/// - NULL, or a place that may be written to, and is by nobody else meanwhile.
pub(crate) unsafe fn out<'a, T>(argument: &str, place: *mut T) -> Result<&'a mut T, Error> {
    // SAFETY: as above. What lies there is overwritten unseen, and each `T` of this crate is good with any bits.
    unsafe { place.as_mut() }.ok_or_else(|| Error::null(argument))
}

/// A struct that begins with its size, as this library knows it: what the caller's header did not have yet is zeroed. `None`: NULL.
///
/// # Safety
/// - NULL, or a size and so many bytes in all, of a struct that only ever grows at its end and for which zeros are good.
pub(crate) unsafe fn sized<T: Versioned>(argument: &str, given: *const T) -> Result<T, Error> {
    let mut whole = T::ZERO;
    if given.is_null() {
        return Ok(whole);
    }
    // SAFETY: each such struct begins with its size.
    let size = unsafe { given.cast::<usize>().read_unaligned() };
    check_size::<T>(argument, size)?;
    // SAFETY: the caller has so many bytes, we have no fewer, and they are two different structs.
    unsafe {
        std::ptr::copy_nonoverlapping(given.cast::<u8>(), (&raw mut whole).cast::<u8>(), size);
    }
    Ok(whole)
}

fn check_size<T: Versioned>(argument: &str, size: usize) -> Result<(), Error> {
    if size < T::LEAST {
        return Err(Error::invalid(format_args!(
            "{argument} has size {size}, and at least {} is needed: set `size` to its sizeof",
            T::LEAST
        )));
    }
    if size > size_of::<T>() {
        return Err(Error::new(
            Code::Unsupported,
            format_args!(
                "{argument} has size {size}, of which this library knows {}: it is older than the header; or `size` was not set",
                size_of::<T>()
            ),
        ));
    }
    Ok(())
}

/// Fills in what the caller's header has of a struct that begins with its size, of which `make` makes one.
///
/// # Safety
/// - NULL, or as for [`sized`], to be written to.
#[inline(always)]
pub(crate) unsafe fn fill<T: Versioned>(argument: &str, place: *mut T, make: impl Fn() -> T) -> Result<(), Error> {
    // SAFETY: the caller's word.
    let size = unsafe { check_place(argument, place) }?;
    if size == size_of::<T>() {
        // Made where it is to be: to move what was just written waits for it.
        // SAFETY: the caller has room for it.
        unsafe { place.write_unaligned(make()) };
        return Ok(());
    }
    // SAFETY: the caller has room for so many bytes, of which we have no fewer.
    unsafe { fill_part(place, make(), size) };
    Ok(())
}

/// # Safety
/// - `place` has room for `size` bytes, which is no more than a `T` has.
#[cold]
unsafe fn fill_part<T: Versioned>(place: *mut T, mut whole: T, size: usize) {
    // SAFETY: it is the first field of `whole`.
    unsafe { (&raw mut whole).cast::<usize>().write(size) };
    // SAFETY: the caller's word, and they are two different structs.
    unsafe { std::ptr::copy_nonoverlapping((&raw const whole).cast::<u8>(), place.cast::<u8>(), size) };
}

/// Can [`fill`] fill this in? Its size.
///
/// # Safety
/// - As there.
#[inline(always)]
pub(crate) unsafe fn check_place<T: Versioned>(argument: &str, place: *mut T) -> Result<usize, Error> {
    if place.is_null() {
        return Err(Error::null(argument));
    }
    // SAFETY: each such struct begins with its size.
    let size = unsafe { place.cast::<usize>().read_unaligned() };
    if size != size_of::<T>() {
        check_size::<T>(argument, size)?;
    }
    Ok(size)
}

/// A struct of the header that begins with its size.
///
/// # Safety
/// - `repr(C)`, the first field is its size as a `usize`, and there is no padding that would be read.
pub(crate) unsafe trait Versioned: Copy {
    /// The size that it had in its first version.
    const LEAST: usize;
    /// All zeros, but for the size.
    const ZERO: Self;
}
