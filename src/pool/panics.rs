//! Panics of tasks, caught together with the place where they happened.
//!
//! A panic's payload carries only the message; file and line are known to the panic hook alone. So the first [`catch`] of a
//! process puts a hook in front of the one that is installed, which notes them for its thread and then calls the earlier hook.

use std::{
    any::Any,
    cell::Cell,
    fmt, mem,
    panic::{self, AssertUnwindSafe},
    sync::Once,
};

thread_local! {
    /// Where this thread panicked last.
    static PLACE: Cell<Option<String>> = const { Cell::new(None) };
}

/// What a panic said, and where it happened: `file:line:column`.
#[derive(Debug)]
pub(crate) struct Panic {
    pub(crate) place: Option<String>,
    pub(crate) message: String,
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Runs `code`, and turns a panic into a value. What `code` worked on may be left half changed.
pub(crate) fn catch<R>(code: impl FnOnce() -> R) -> Result<R, Panic> {
    note_places();
    // One may be left by a panic that the code caught itself.
    PLACE.take();
    panic::catch_unwind(AssertUnwindSafe(code))
        .map_err(|payload| Panic { place: PLACE.take(), message: message(payload) })
}

fn note_places() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let earlier = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // Fails only while the thread's locals are being destroyed, and then nobody is left to catch.
            let _ = PLACE.try_with(|place| place.set(info.location().map(ToString::to_string)));
            earlier(info);
        }));
    });
}

fn message(payload: Box<dyn Any + Send>) -> String {
    payload
        .downcast::<String>()
        .map(|text| *text)
        .or_else(|payload| payload.downcast::<&str>().map(|text| text.to_string()))
        .unwrap_or_else(|payload| {
            // Dropping it would be user code again, outside any catch.
            mem::forget(payload);
            "(the panic's payload is not a string)".into()
        })
}
