//! Panics of user code, caught together with the place where they happened.
//!
//! A panic's payload carries only the message; file and line are known to the panic hook alone. So the first
//! [`catch`] of a process puts a hook in front of the one that is installed, which notes them for its thread and then
//! calls the earlier hook, as if it weren't there.

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    cell::Cell,
    mem,
    panic::{self, AssertUnwindSafe},
    sync::Once,
};
use temporalio_common::protos::temporal::api::failure::v1::Failure;

thread_local! {
    /// Where this thread panicked last; taken by [`catch`].
    static SITE: Cell<Option<Site>> = const { Cell::new(None) };
}

struct Site {
    /// `file:line:column`
    place: String,
    /// Captured only if `RUST_BACKTRACE` or `RUST_LIB_BACKTRACE` asks for it.
    backtrace: Backtrace,
}

/// Runs `code`, the user's or code that calls the user's, and turns a panic into a failure that says what panicked,
/// where and with which message. What `code` worked on may be left half changed: on `Err`, drop it and don't use it
/// again.
pub(super) fn catch<R>(what: &str, code: impl FnOnce() -> R) -> Result<R, Box<Failure>> {
    note_sites();
    // One may be left by a panic that user code caught itself.
    SITE.take();
    panic::catch_unwind(AssertUnwindSafe(code)).map_err(|payload| {
        let (at, stack_trace) = SITE.take().map_or_else(Default::default, |site| {
            let stack_trace = match site.backtrace.status() {
                BacktraceStatus::Captured => site.backtrace.to_string(),
                _ => String::new(),
            };
            (format!(" at {}", site.place), stack_trace)
        });
        let message = format!("{what} panicked{at}: {}", message(payload));
        Box::new(Failure { stack_trace, ..Failure::application_failure(message, false) })
    })
}

fn note_sites() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let earlier = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let place = info.location().map_or_else(|| "an unknown place".into(), ToString::to_string);
            // Fails only while the thread's locals are being destroyed, and then nobody is left to catch.
            let _ = SITE.try_with(|site| site.set(Some(Site { place, backtrace: Backtrace::capture() })));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caught_panic_tells_what_where_and_why() {
        let line = line!() + 1;
        let failure = catch("test code", || panic!("number {}", 7)).unwrap_err();
        let start = format!("test code panicked at {}:{line}:", file!());
        assert!(failure.message.starts_with(&start), "{}", failure.message);
        assert!(failure.message.ends_with(": number 7"), "{}", failure.message);
    }

    #[test]
    fn a_panic_that_the_code_caught_itself_leaves_no_trace() {
        let inner = || assert!(panic::catch_unwind(|| panic!("inner")).is_err());
        catch("test code", inner).unwrap();
        let failure = catch("test code", || panic::resume_unwind(Box::new("outer"))).unwrap_err();
        assert_eq!(failure.message, "test code panicked: outer");
    }

    #[test]
    fn a_payload_that_panics_when_dropped_is_caught_too() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        let failure = catch("test code", || panic::panic_any(Bomb)).unwrap_err();
        assert!(failure.message.ends_with("not a string)"), "{}", failure.message);
    }
}
