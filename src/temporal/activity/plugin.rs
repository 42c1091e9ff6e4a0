//! Handlers in C for activities, and the plug-ins that bring them.

use super::{
    Activities, ActivityContext, ActivityError, ApplicationFailure, Payload as Message, RegisterOptions,
    registry::{Handler, Outcome, Registered},
};
use crate::{
    plugin::{
        PluginError,
        abi::{shmworker_info, shmworker_result},
        call::{Attempt, Ended, Failed, Payload, State},
        library::{self, Manifest, Plugin, Probe},
    },
    process::coordinator::Looking,
};
use std::{collections::HashMap, path::PathBuf, str, sync::Arc, time::Duration};
use temporalio_common::{data_converters::RawValue, protos::ENCODING_PAYLOAD_KEY};

/// The plug-ins of a program, by their files.
#[derive(Clone, Default)]
pub(super) struct Plugins {
    files: Vec<PathBuf>,
    /// What they bring, once a child has looked.
    manifests: Option<Vec<Manifest>>,
}

/// A plug-in as an activity process has it.
pub(super) struct Loaded {
    plugin: Plugin,
    state: State,
}

impl Loaded {
    /// The process ends in order, and no handler runs any more.
    pub(super) fn exit(&self) {
        self.plugin.exit(self.state);
    }
}

impl Activities {
    /// Adds the handlers that a plug-in brings: a shared library in C or C++, compiled with `shmworker.h`. Each activity process
    /// loads it as it starts, the process that runs the worker never does. Whether it can be loaded is found out when the
    /// worker is run ([`RunError::Plugin`](crate::temporal::RunError::Plugin)).
    ///
    /// A handler in C has a thread for each attempt, as [`register_blocking`](Self::register_blocking) has. It is given the
    /// payloads of its arguments, with their encoding, and leaves a payload as its result: the data converter is not asked, the
    /// codec is.
    ///
    /// ```
    /// # use shmworker::temporal::{Worker, activity::Activities};
    /// let worker = Worker::new("thumbs").activities(Activities::new().load("./libthumbs.so"));
    /// # let _ = worker;
    /// ```
    pub fn load(mut self, path: impl Into<PathBuf>) -> Self {
        self.plugins.files.push(path.into());
        self.plugins.manifests = None;
        self
    }

    /// What the plug-ins bring: a child has a look at them, if none has before.
    ///
    /// # Errors
    /// [`PluginError`].
    pub(crate) fn probe(&mut self) -> Result<&[Manifest], PluginError> {
        if self.plugins.manifests.is_none() {
            let manifests = library::probe(&self.plugins.files, self.names())?;
            self.plugins.manifests = Some(manifests);
        }
        Ok(self.plugins.manifests.as_deref().unwrap_or_default())
    }

    /// Has a child see whether fresh processes could load the plug-ins as they are now.
    ///
    /// # Errors
    /// Why none can be made, as a line for people.
    pub(crate) fn probe_again(&self) -> Result<Box<dyn Looking>, String> {
        let probe = Probe::begin(&self.plugins.files, self.names());
        probe.map(|probe| Box::new(probe) as Box<dyn Looking>).map_err(|e| e.to_string())
    }

    pub(crate) fn has_plugins(&self) -> bool {
        !self.plugins.files.is_empty()
    }

    /// The table with what the plug-ins bring, which are loaded into this process.
    ///
    /// # Errors
    /// Why one can't be, as a line for people.
    pub(super) fn loaded(&self) -> Result<(Activities, Vec<Arc<Loaded>>), String> {
        let (mut all, mut loaded) = (self.clone(), Vec::new());
        for file in &self.plugins.files {
            let plugin = Plugin::load(file).map_err(|e| e.to_string())?;
            let state = plugin.init()?;
            let plugin = Arc::new(Loaded { plugin, state });
            for (i, entry) in plugin.plugin.handlers.iter().enumerate() {
                let (name, of) = (entry.name.clone(), plugin.clone());
                // The file may have been replaced since the child looked.
                if all.get(&name).is_some() {
                    return Err(PluginError::new(file, format!("it registers {name:?}, which is registered already"))
                        .to_string());
                }
                let run = move |context: ActivityContext, arguments| run(&of, i, context, arguments);
                let options = RegisterOptions { auto_heartbeat: entry.auto_heartbeat, kill_after: entry.kill_after };
                all = all.insert(name, Registered { handler: Handler::Blocking(Arc::new(run)), options });
            }
            loaded.push(plugin);
        }
        Ok((all, loaded))
    }
}

/// One attempt, as its handler in C sees it.
struct OfActivity {
    context: ActivityContext,
    arguments: Vec<Message>,
    result: Vec<u8>,
}

fn encoding(message: &Message) -> &str {
    let encoding = message.metadata.get(ENCODING_PAYLOAD_KEY).map_or(&b""[..], Vec::as_slice);
    str::from_utf8(encoding).unwrap_or_default()
}

fn payload(message: &Message) -> Payload<'_> {
    Payload { data: &message.data, encoding: encoding(message) }
}

fn message(data: Vec<u8>, encoding: String) -> Message {
    let metadata = HashMap::from([(ENCODING_PAYLOAD_KEY.to_owned(), encoding.into_bytes())]);
    Message { metadata, data, ..Default::default() }
}

impl Attempt for OfActivity {
    fn info(&self, which: shmworker_info) -> Option<&str> {
        let info = self.context.info();
        match which {
            shmworker_info::Name => Some(&info.activity_type),
            shmworker_info::Namespace => Some(&info.namespace),
            shmworker_info::TaskQueue => Some(&info.task_queue),
            shmworker_info::ActivityId => Some(&info.activity_id),
            shmworker_info::WorkflowId => info.workflow_id.as_deref(),
            shmworker_info::WorkflowRunId => info.workflow_run_id.as_deref(),
            shmworker_info::WorkflowType => info.workflow_type.as_deref(),
        }
    }

    fn number(&self) -> u32 {
        self.context.info().attempt
    }

    fn arguments(&self) -> usize {
        self.arguments.len()
    }

    fn argument(&self, index: usize) -> Option<Payload<'_>> {
        self.arguments.get(index).map(payload)
    }

    fn metadata(&self, index: usize, key: &str) -> Option<&[u8]> {
        self.arguments.get(index)?.metadata.get(key).map(Vec::as_slice)
    }

    fn reserve(&mut self, len: usize) -> Result<&mut [u8], shmworker_result> {
        if len > isize::MAX as usize {
            return Err(shmworker_result::TooLarge);
        }
        self.result.clear();
        self.result.try_reserve_exact(len).map_err(|_| shmworker_result::NoSpace)?;
        self.result.resize(len, 0);
        Ok(&mut self.result)
    }

    fn truncate(&mut self, len: usize) -> Result<(), shmworker_result> {
        self.result.truncate(len);
        Ok(())
    }

    fn is_cancelled(&self) -> bool {
        self.context.is_cancelled()
    }

    fn is_worker_shutdown(&self) -> bool {
        self.context.is_worker_shutdown()
    }

    fn time_left(&self) -> Option<Duration> {
        // Past it there is none left.
        Some(self.context.info().deadline?.duration_since(std::time::SystemTime::now()).unwrap_or_default())
    }

    fn heartbeat(&mut self) {
        self.context.beat();
    }

    /// The server knows of no progress but what is in the details.
    fn progress(&mut self, _: u64, _: u64) {
        self.context.beat();
    }

    fn checkpoint(&mut self, details: Payload<'_>) -> Result<(), shmworker_result> {
        let details = message(details.data.to_vec(), details.encoding.to_owned());
        let details = self.context.encoded(vec![details]).map_err(|_| shmworker_result::InvalidArgument)?;
        self.context.record(details).map_err(|_| shmworker_result::TooLarge)
    }

    fn last_checkpoint(&mut self) -> Result<Option<Payload<'_>>, shmworker_result> {
        Ok(self.context.last_details().first().map(payload))
    }
}

fn run(of: &Loaded, handler: usize, context: ActivityContext, arguments: Vec<Message>) -> Outcome {
    let mut attempt = OfActivity { context, arguments, result: Vec::new() };
    match of.plugin.handlers[handler].call(&mut attempt, of.state) {
        Ended::Well { has_result, encoding } => {
            let data = if has_result { attempt.result } else { Vec::new() };
            Ok(message(data, encoding.into_owned()))
        }
        Ended::Cancelled => Err(ActivityError::cancelled()),
        Ended::Badly(failed) => {
            let Failed { message: why, type_name, is_permanent, next_retry_delay, details } = *failed;
            let details = details.map(|(data, encoding)| RawValue::new(vec![message(data, encoding)]));
            let failure = ApplicationFailure::builder(why)
                .maybe_type_name(type_name)
                .non_retryable(is_permanent)
                .maybe_next_retry_delay(next_retry_delay)
                .maybe_details(details)
                .build();
            Err(failure.into())
        }
    }
}
