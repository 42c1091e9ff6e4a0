//! What the bridge is told, and what it tells Core.

use super::{
    Fault, Server,
    slots::{Slots, at_rest},
};
use crate::process::limits::WorkerLimits;
use std::{sync::Arc, time::Duration};
use temporalio_common::worker::WorkerTaskTypes;
use temporalio_sdk_core::{
    FixedSizeSlotSupplier, PollerBehavior, TunerBuilder, WorkerConfig, WorkerTuner, WorkerVersioningStrategy,
};

/// What the bridge is told.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) server: Server,
    pub(crate) workflow_task_queue: String,
    pub(crate) activity_task_queue: String,
    pub(crate) workflow_processes: usize,
    /// As many as they may become while the pool runs.
    pub(crate) max_workflow_processes: usize,
    /// What each workflow process may use until another takes its place.
    pub(crate) limits: WorkerLimits,
    pub(crate) activity_processes: usize,
    /// Attempts at a time, per activity process.
    pub(crate) activity_slots: usize,
    pub(crate) max_cached_workflows: usize,
    /// How long one activation may take before its process is killed for it; zero: any time.
    pub(crate) deadlock_timeout: Duration,
    /// How long activities may go on once a drain has begun.
    pub(crate) grace: Duration,
}

fn poller(slots: usize) -> PollerBehavior {
    PollerBehavior::SimpleMaximum(slots.clamp(2, 10))
}

/// A worker of Core with room for so many activations and activities; no `workflows`: for activities alone.
fn worker_config(
    config: &Config,
    task_queue: &str,
    types: WorkerTaskTypes,
    workflows: Option<Slots>,
    activities: usize,
) -> Result<WorkerConfig, Fault> {
    let tuner = |slots: Slots| {
        let mut tuner = TunerBuilder::default();
        tuner.workflow_slot_supplier(Arc::new(slots));
        tuner.local_activity_slot_supplier(Arc::new(FixedSizeSlotSupplier::new(activities)));
        Arc::new(tuner.build()) as Arc<dyn WorkerTuner + Send + Sync>
    };
    WorkerConfig::builder()
        .namespace(config.server.namespace().to_owned())
        .task_queue(task_queue.to_owned())
        .versioning_strategy(WorkerVersioningStrategy::None { build_id: env!("CARGO_PKG_VERSION").into() })
        .graceful_shutdown_period(config.grace)
        .maybe_max_cached_workflows(workflows.is_some().then_some(config.max_cached_workflows))
        // More polls than slots of a pool at rest would keep more than those.
        .maybe_workflow_task_poller_behavior(workflows.is_some().then(|| poller(at_rest(config.workflow_processes))))
        .maybe_tuner(workflows.map(tuner))
        .maybe_max_outstanding_activities(types.enable_remote_activities.then_some(activities))
        .maybe_activity_task_poller_behavior(types.enable_remote_activities.then(|| poller(activities)))
        .task_types(types)
        .build()
        .map_err(Fault::Other)
}

pub(super) fn workflow_config(config: &Config, activations: Slots) -> Result<WorkerConfig, Fault> {
    let local = config.activity_processes > 0;
    let types = WorkerTaskTypes { enable_local_activities: local, ..WorkerTaskTypes::workflow_only() };
    let slots = (config.activity_processes * config.activity_slots).max(1);
    worker_config(config, &config.workflow_task_queue, types, Some(activations), slots)
}

pub(super) fn activity_config(config: &Config) -> Result<WorkerConfig, Fault> {
    let slots = config.activity_processes * config.activity_slots;
    worker_config(config, &config.activity_task_queue, WorkerTaskTypes::activity_only(), None, slots)
}
