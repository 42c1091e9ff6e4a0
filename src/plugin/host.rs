//! What a plug-in is given when it registers: the table of its host.

use super::{
    abi::*,
    call::{Entry, State, answer, sized, text},
};
use std::{
    ffi::{c_char, c_void},
    mem::offset_of,
    path::{Path, PathBuf},
    ptr::null_mut,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// What a plug-in has registered.
#[derive(Default)]
pub(super) struct Registered {
    pub(super) entries: Vec<Entry>,
    state: Option<StateHooks>,
    /// What was wrong first.
    pub(super) refused: Option<String>,
    is_over: bool,
}

/// How a plug-in makes what its handlers share, and undoes it.
#[derive(Clone, Copy)]
struct StateHooks {
    init: shmworker_init_fn,
    exit: shmworker_exit_fn,
    user_data: *mut c_void,
}

// SAFETY: the pointer is only handed on, to functions that came with it.
unsafe impl Send for StateHooks {}

/// What stands behind a `shmworker_host`. It is never freed: a plug-in may keep the pointer.
pub(super) struct Host {
    path: PathBuf,
    registered: Mutex<Registered>,
}

/// The version as C has it.
static VERSION: [u8; crate::VERSION.len() + 1] = {
    let mut text = [0; crate::VERSION.len() + 1];
    text.split_at_mut(crate::VERSION.len()).0.copy_from_slice(crate::VERSION.as_bytes());
    text
};

impl Host {
    /// A host for the plug-in at `path`.
    pub(super) fn new(path: &Path) -> &'static Host {
        Box::leak(Box::new(Host { path: path.to_owned(), registered: Mutex::default() }))
    }

    /// What the plug-in is given.
    pub(super) fn table(&'static self) -> &'static shmworker_host {
        let handle: *const Host = self;
        Box::leak(Box::new(shmworker_host {
            size: size_of::<shmworker_host>(),
            abi_major: SHMWORKER_ABI_MAJOR,
            abi_minor: SHMWORKER_ABI_MINOR,
            handle: handle.cast_mut().cast(),
            register_handler,
            register_state,
            log,
            version: VERSION.as_ptr().cast(),
        }))
    }

    pub(super) fn registered(&self) -> MutexGuard<'_, Registered> {
        // Nothing under this lock is half done when it panics.
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on nothing can be registered.
    pub(super) fn close(&self) {
        self.registered().is_over = true;
    }

    /// Makes what the handlers share.
    ///
    /// # Errors
    /// What the plug-in's function has returned.
    pub(super) fn init(&self) -> Result<State, i32> {
        let hooks = self.registered().state;
        let (mut state, mut code) = (null_mut(), 0);
        if let Some(StateHooks { init: Some(init), user_data, .. }) = hooks {
            // SAFETY: a function of this type was registered with this pointer (`shmworker_init_fn`).
            code = unsafe { init(user_data, &mut state) };
        }
        if code == 0 { Ok(State(state)) } else { Err(code) }
    }

    /// Undoes what [`init`](Self::init) has made.
    pub(super) fn exit(&self, state: State) {
        let hooks = self.registered().state;
        if let Some(StateHooks { exit: Some(exit), user_data, .. }) = hooks {
            // SAFETY: a function of this type was registered with this pointer (`shmworker_exit_fn`).
            unsafe { exit(user_data, state.0) };
        }
    }
}

impl Registered {
    fn refuse(&mut self, code: shmworker_result, why: String) -> shmworker_result {
        self.refused.get_or_insert(why);
        code
    }

    /// # Safety
    /// - `handler` has the fields up to `abi_minor`, and the others if these are of our major number; its texts end with a NUL.
    unsafe fn add(&mut self, handler: *const shmworker_handler) -> Result<(), shmworker_result> {
        let refused = |this: &mut Self, code, why: &str| Err(this.refuse(code, why.to_owned()));
        if self.is_over {
            return Err(shmworker_result::WrongTime);
        }
        if handler.is_null() {
            return refused(self, shmworker_result::NullArgument, "it registers NULL in place of a handler");
        }
        let major = handler.wrapping_byte_add(offset_of!(shmworker_handler, abi_major)).cast::<u32>();
        // SAFETY: not NULL, and the caller's word that this field is there.
        let major = unsafe { major.read() };
        if major != SHMWORKER_ABI_MAJOR {
            let why = format!(
                "it is compiled for version {major} of the interface, and this program has version \
                 {SHMWORKER_ABI_MAJOR}: compile it with the shmworker.h that came with this program"
            );
            return Err(self.refuse(shmworker_result::AbiMismatch, why));
        }
        const FIRST: usize = offset_of!(shmworker_handler, kill_after_ms) + size_of::<u64>();
        // SAFETY: of our major number, so it is a handler as far as its size says; zeros are good for the rest.
        let Ok(handler) = (unsafe { sized(handler, FIRST) }) else {
            let why = "it registers a handler of a wrong size: set it to sizeof(struct shmworker_handler)";
            return refused(self, shmworker_result::InvalidArgument, why);
        };
        let shmworker_handler { name, run, user_data, flags, kill_after_ms, .. } = handler;
        // SAFETY: the caller's word.
        let name = match unsafe { text(name) } {
            Ok(Some("") | None) => {
                return refused(self, shmworker_result::NullArgument, "it registers a handler without a name");
            }
            Ok(Some(name)) => name.to_owned(),
            Err(code) => return refused(self, code, "it registers a handler whose name is not UTF-8"),
        };
        let Some(run) = run else {
            let why = format!("it registers {name:?} with NULL in place of a function");
            return Err(self.refuse(shmworker_result::NullArgument, why));
        };
        if self.entries.iter().any(|entry| entry.name == name) {
            let why = format!("it registers {name:?} twice: give one another name");
            return Err(self.refuse(shmworker_result::NameTaken, why));
        }
        if flags & !SHMWORKER_HANDLER_AUTO_HEARTBEAT != 0 {
            let why = format!("it registers {name:?} with the flags {flags:#x}, which this version does not know");
            return Err(self.refuse(shmworker_result::Unsupported, why));
        }
        let kill_after = (kill_after_ms > 0).then(|| Duration::from_millis(kill_after_ms));
        let auto_heartbeat = flags & SHMWORKER_HANDLER_AUTO_HEARTBEAT != 0;
        self.entries.push(Entry { name, run, user_data, auto_heartbeat, kill_after });
        Ok(())
    }
}

/// What stands behind this table; `None`: NULL.
///
/// # Safety
/// - NULL, or the table that a plug-in was given.
unsafe fn host(table: *const shmworker_host) -> Option<&'static Host> {
    // SAFETY: the caller's word: tables are never freed.
    let table = unsafe { table.as_ref() }?;
    // SAFETY: `Host::table` has put it there, and hosts are never freed.
    unsafe { table.handle.cast::<Host>().as_ref() }
}

unsafe extern "C" fn register_handler(table: *const shmworker_host, handler: *const shmworker_handler) -> i32 {
    answer(|| {
        // SAFETY: the header's word.
        let host = unsafe { host(table) }.ok_or(shmworker_result::NullArgument)?;
        // SAFETY: the header's word.
        unsafe { host.registered().add(handler) }
    })
}

unsafe extern "C" fn register_state(
    table: *const shmworker_host,
    init: shmworker_init_fn,
    exit: shmworker_exit_fn,
    user_data: *mut c_void,
) -> i32 {
    answer(|| {
        // SAFETY: the header's word.
        let host = unsafe { host(table) }.ok_or(shmworker_result::NullArgument)?;
        let mut registered = host.registered();
        if registered.is_over {
            return Err(shmworker_result::WrongTime);
        }
        if registered.state.is_some() {
            return Err(registered.refuse(shmworker_result::NameTaken, "it registers a state twice".to_owned()));
        }
        registered.state = Some(StateHooks { init, exit, user_data });
        Ok(())
    })
}

unsafe extern "C" fn log(table: *const shmworker_host, level: u32, message: *const c_char) -> i32 {
    answer(|| {
        // SAFETY: the header's word.
        let host = unsafe { host(table) }.ok_or(shmworker_result::NullArgument)?;
        // SAFETY: the header's word.
        let message = unsafe { text(message) }?.ok_or(shmworker_result::NullArgument)?;
        let plugin = host.path.display();
        match level {
            n if n == shmworker_log_level::Error as u32 => tracing::error!(%plugin, "{message}"),
            n if n == shmworker_log_level::Warn as u32 => tracing::warn!(%plugin, "{message}"),
            n if n == shmworker_log_level::Info as u32 => tracing::info!(%plugin, "{message}"),
            n if n == shmworker_log_level::Debug as u32 => tracing::debug!(%plugin, "{message}"),
            _ => return Err(shmworker_result::InvalidArgument),
        }
        Ok(())
    })
}
