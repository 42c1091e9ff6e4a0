//! Panics of user code, caught together with the place where they happened.
//!
//! A panic's payload carries only the message; file and line are known to the panic hook alone. So the first [`catch`] of a
//! process puts a hook in front of the one that is installed, which notes them for its thread and then calls the earlier hook,
//! as if it weren't there.

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    cell::Cell,
    fmt, mem,
    panic::{self, AssertUnwindSafe},
    sync::{
        Once,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

thread_local! {
    /// Where this thread panicked last; taken by [`catch`].
    static SITE: Cell<Option<Box<Site>>> = const { Cell::new(None) };
}

/// Has any thread of this process panicked? Before that there is no site to be looked for, which in a shared library is a call.
static HAVE_PANICKED: AtomicBool = AtomicBool::new(false);

struct Site {
    /// `file:line:column`
    place: String,
    /// Captured only if `RUST_BACKTRACE` or `RUST_LIB_BACKTRACE` asks for it.
    backtrace: Backtrace,
}

/// What a panic said, and where it happened. Shown as `file:line:column: message`.
#[derive(Debug)]
pub(crate) struct Panic {
    pub(crate) place: Option<String>,
    pub(crate) message: String,
    /// Empty unless it was asked for.
    pub(crate) backtrace: String,
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Runs `code`, the user's or code that calls the user's, and turns a panic into a value. What `code` worked on may be left half
/// changed: on `Err`, drop it and don't use it again.
pub(crate) fn catch<R>(code: impl FnOnce() -> R) -> Result<R, Panic> {
    note_sites();
    // One may be left by a panic that user code caught itself. Relaxed: it is this thread's own, if any.
    if HAVE_PANICKED.load(Relaxed) {
        SITE.take();
    }
    panic::catch_unwind(AssertUnwindSafe(code)).map_err(|payload| {
        let (place, backtrace) = SITE.take().map_or_else(Default::default, |site| {
            let backtrace = match site.backtrace.status() {
                BacktraceStatus::Captured => site.backtrace.to_string(),
                _ => String::new(),
            };
            (Some(site.place), backtrace)
        });
        Panic { place, message: message(payload), backtrace }
    })
}

fn note_sites() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let earlier = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let place = info.location().map_or_else(|| "an unknown place".into(), ToString::to_string);
            HAVE_PANICKED.store(true, Relaxed);
            // Fails only while the thread's locals are being destroyed, and then nobody is left to catch.
            let _ = SITE.try_with(|site| site.set(Some(Box::new(Site { place, backtrace: Backtrace::capture() }))));
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
    fn a_caught_panic_tells_where_and_why() {
        let line = line!() + 1;
        let panic = catch(|| panic!("number {}", 7)).unwrap_err();
        let start = format!("{}:{line}:", file!());
        assert!(panic.place.as_ref().is_some_and(|place| place.starts_with(&start)), "{panic}");
        assert!(panic.to_string().ends_with(": number 7"), "{panic}");
    }

    #[test]
    fn a_panic_that_the_code_caught_itself_leaves_no_trace() {
        let inner = || assert!(panic::catch_unwind(|| panic!("inner")).is_err());
        catch(inner).unwrap();
        let panic = catch(|| panic::resume_unwind(Box::new("outer"))).unwrap_err();
        assert_eq!(panic.to_string(), "outer");
    }

    #[test]
    fn a_payload_that_panics_when_dropped_is_caught_too() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        let panic = catch(|| panic::panic_any(Bomb)).unwrap_err();
        assert!(panic.message.ends_with("not a string)"), "{panic}");
    }
}
