//! Handlers in C for the tasks of a pool, and the plug-ins that bring them.

use super::{
    codec::{Bytes, Codec},
    context::Context,
    launch::lasting_threads,
    output::Room,
    tasks::{Failure, Task, Tasks},
};
use crate::{
    exec::endpoint::SubmitError,
    plugin::{
        PluginError,
        abi::{shmworker_info, shmworker_result},
        call::{Attempt, BINARY, Ended, Entry, Failed, JSON, Payload, State},
        library::{self, Plugin, Probe},
    },
    process::coordinator::Looking,
};
use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

/// One attempt of a task, as its handler in C sees it.
struct OfPool<'a, 'c, 'r> {
    name: &'a str,
    context: &'a Context<'c>,
    input: &'a [u8],
    encoding: &'static str,
    room: &'a mut Room<'r>,
    /// What an earlier attempt has kept, once it was asked for.
    checkpoint: Option<Vec<u8>>,
}

fn refused(error: SubmitError) -> shmworker_result {
    match error {
        SubmitError::TooLarge { .. } => shmworker_result::TooLarge,
        SubmitError::Corrupted(_) => shmworker_result::Corrupted,
        _ => shmworker_result::NoSpace,
    }
}

impl Attempt for OfPool<'_, '_, '_> {
    fn info(&self, which: shmworker_info) -> Option<&str> {
        (which == shmworker_info::Name).then_some(self.name)
    }

    fn number(&self) -> u32 {
        self.context.attempt()
    }

    fn arguments(&self) -> usize {
        1
    }

    #[inline(always)]
    fn argument(&self, index: usize) -> Option<Payload<'_>> {
        if index == 0 { Some(Payload { data: self.input, encoding: self.encoding }) } else { None }
    }

    fn metadata(&self, _: usize, _: &str) -> Option<&[u8]> {
        None
    }

    fn reserve(&mut self, len: usize) -> Result<&mut [u8], shmworker_result> {
        self.room.reserve(len).map_err(refused)
    }

    fn truncate(&mut self, len: usize) -> Result<(), shmworker_result> {
        self.room.truncate(len).map_err(|_| shmworker_result::Corrupted)
    }

    fn is_cancelled(&self) -> bool {
        self.context.is_cancelled()
    }

    fn is_worker_shutdown(&self) -> bool {
        false
    }

    fn time_left(&self) -> Option<Duration> {
        self.context.time_left()
    }

    fn heartbeat(&mut self) {
        self.context.heartbeat();
    }

    fn progress(&mut self, done: u64, total: u64) {
        self.context.progress(done, total);
    }

    fn checkpoint(&mut self, details: Payload<'_>) -> Result<(), shmworker_result> {
        self.context.heartbeat();
        self.context.keep(details.data).map_err(refused)
    }

    fn last_checkpoint(&mut self) -> Result<Option<Payload<'_>>, shmworker_result> {
        if self.checkpoint.is_none() {
            self.checkpoint = self.context.kept().map_err(|_| shmworker_result::Corrupted)?;
        }
        Ok(self.checkpoint.as_deref().map(|data| Payload { data, encoding: BINARY }))
    }
}

/// Runs a handler in C for a task of a pool.
#[inline(always)]
pub(super) fn run(
    entry: &Entry,
    state: State,
    (context, input, codec): (&Context<'_>, &[u8], Codec),
    room: &mut Room<'_>,
) -> Result<(), Failure> {
    let encoding = if codec == Codec::Json { JSON } else { BINARY };
    let mut attempt = OfPool { name: &entry.name, context, input, encoding, room, checkpoint: None };
    match entry.call(&mut attempt, state) {
        Ended::Well { has_result: false, .. } => {
            // Nothing, in JSON.
            let nothing: &[u8] = if codec == Codec::Json { b"null" } else { b"" };
            room.reserve(nothing.len())?.copy_from_slice(nothing);
            Ok(())
        }
        Ended::Well { encoding, .. } if codec == Codec::Json && encoding != JSON => {
            let why =
                format!("{:?} gives its result as {encoding}: submit to it from a program, not as JSON", entry.name);
            Err(Failure::permanent(why))
        }
        Ended::Well { .. } => Ok(()),
        Ended::Cancelled => Err(Failure::new("it ended as cancelled")),
        Ended::Badly(failed) => {
            let Failed { message, type_name, is_permanent, .. } = *failed;
            let message = match type_name {
                Some(type_name) => format!("{type_name}: {message}"),
                None => message,
            };
            Err(if is_permanent { Failure::permanent(message) } else { Failure::new(message) })
        }
    }
}

/// A plug-in as a worker has it.
struct Loaded {
    plugin: Plugin,
    state: State,
}

impl Tasks {
    /// Registers the handlers that a plug-in brings: a shared library in C or C++, compiled with `shmworker.h`. They take and give
    /// [`Bytes`].
    ///
    /// Each worker loads it as it starts; this process doesn't, and has a child look at it instead. So call it while this
    /// process has one thread.
    ///
    /// # Errors
    /// [`PluginError`]: it can't be loaded, it crashes as it registers, or a name is taken.
    ///
    /// ```no_run
    /// use shmworker::{Pool, Tasks, pool::{Bytes, Task}};
    ///
    /// const THUMBNAIL: Task<Bytes, Bytes> = Task::named("thumbnail");
    ///
    /// let mut tasks = Tasks::new();
    /// tasks.load("./libthumbs.so")?;
    /// let pool = Pool::builder().fork(tasks)?;
    /// let thumbnail = pool.submit(THUMBNAIL, &std::fs::read("photo.ppm")?)?.wait()?;
    /// # drop(thumbnail);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<(), PluginError> {
        let path = path.as_ref().to_owned();
        if let Ok(threads @ 2..) = lasting_threads() {
            let why = format!(
                "a child of this process has to look at it first, and a fork of {threads} threads would copy their locks as \
                 they are: load it before any thread, and any runtime, is started"
            );
            return Err(PluginError::new(&path, why));
        }
        let signatures = self.signatures.clone();
        let taken = signatures.values().map(|signature| signature.name.as_str());
        let manifests = library::probe(std::slice::from_ref(&path), taken)?;
        let loaded: Arc<OnceLock<Loaded>> = Arc::default();
        for name in manifests.into_iter().flat_map(|manifest| manifest.handlers) {
            let (loaded, known) = (loaded.clone(), name.clone());
            let _: Task<Bytes, Bytes> = self.add(&name, move |context, input, codec, room| {
                let found = loaded.get().and_then(|Loaded { plugin, state }| {
                    let entry = plugin.handlers.iter().find(|entry| entry.name == known)?;
                    Some((entry, *state))
                });
                // The file may have been replaced since.
                let gone = || Failure::permanent(format!("the plug-in has no handler {known:?} any more"));
                let (entry, state) = found.ok_or_else(gone)?;
                run(entry, state, (context, input, codec), room)
            });
        }
        self.plugins.push(path.clone());
        let here = loaded.clone();
        self.on_start(move || {
            let plugin = Plugin::load(&path)?;
            let state = plugin.init().map_err(Failure::new)?;
            let _ = here.set(Loaded { plugin, state }); // once in the life of a process
            Ok(())
        });
        self.on_exit(move || {
            if let Some(Loaded { plugin, state }) = loaded.get() {
                plugin.exit(*state);
            }
        });
        Ok(())
    }

    pub(super) fn has_plugins(&self) -> bool {
        !self.plugins.is_empty()
    }

    /// Has a child see whether fresh workers could load the plug-ins as they are now. To be called by a process with one thread.
    ///
    /// # Errors
    /// Why none can be made, as a line for people.
    pub(super) fn probe_again(&self) -> Result<Box<dyn Looking>, String> {
        Probe::begin(&self.plugins, []).map(|probe| Box::new(probe) as Box<dyn Looking>).map_err(|e| e.to_string())
    }
}
