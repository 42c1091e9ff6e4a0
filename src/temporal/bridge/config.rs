//! What the bridge is told, and what it tells Core.

use super::{
    Fault, Server,
    slots::{Slots, at_rest},
};
use crate::{lanes::program::Program, process::limits::WorkerLimits, temporal::builder::Tuner};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use temporalio_common::worker::{WorkerDeploymentOptions, WorkerTaskTypes, build_id_from_current_exe};
use temporalio_sdk_core::{
    FixedSizeSlotSupplier, PollerBehavior, ResourceBasedTuner, ResourceSlotOptions, TunerBuilder, WorkerConfig,
    WorkerTuner, WorkerVersioningStrategy, WorkflowErrorType,
};

/// How long a resource-based tuner waits between two slots, so that what the first one costs is seen before the next.
const RAMP_THROTTLE: Duration = Duration::from_millis(50);

/// What the bridge is told, apart from where the server is.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) workflow_task_queue: String,
    pub(crate) activity_task_queue: String,
    pub(crate) workflow_processes: usize,
    /// As many as they may become while the pool runs; twice as many as at first, and at least 16, unless it is said.
    pub(crate) max_workflow_processes: Option<usize>,
    /// What each workflow process may use until another takes its place.
    pub(crate) limits: WorkerLimits,
    pub(crate) activity_processes: usize,
    /// Programs that serve in place of this one's own workflows and activities.
    pub(crate) workflow_program: Option<Program>,
    pub(crate) activity_program: Option<Program>,
    /// Attempts at a time, per activity process.
    pub(crate) activity_slots: usize,
    pub(crate) max_cached_workflows: usize,
    /// How long one activation may take before its process is killed for it; zero: any time.
    pub(crate) deadlock_timeout: Duration,
    /// How long activities may go on once a drain has begun.
    pub(crate) grace: Duration,
    pub(crate) max_concurrent_local_activities: Option<usize>,
    pub(crate) max_activities_per_second: Option<f64>,
    pub(crate) max_task_queue_activities_per_second: Option<f64>,
    pub(crate) tuner: Tuner,
    pub(crate) workflow_pollers: Option<PollerBehavior>,
    pub(crate) activity_pollers: Option<PollerBehavior>,
    pub(crate) deployment: Option<WorkerDeploymentOptions>,
    pub(crate) identity: Option<String>,
    pub(crate) sticky_queue_schedule_to_start_timeout: Duration,
    pub(crate) max_heartbeat_throttle_interval: Duration,
    pub(crate) default_heartbeat_throttle_interval: Duration,
    pub(crate) workflow_failure_errors: HashSet<WorkflowErrorType>,
    pub(crate) workflow_types_to_failure_errors: HashMap<String, HashSet<WorkflowErrorType>>,
    /// The collector of spans.
    #[cfg(feature = "otlp")]
    pub(crate) otlp: Option<String>,
    /// Payloads pass a codec of the program's own, in the worker processes.
    #[cfg(feature = "otlp")]
    pub(crate) has_codec: bool,
    /// Where metrics are asked for.
    #[cfg(feature = "metrics")]
    pub(crate) metrics: Option<Arc<std::net::TcpListener>>,
}

impl Config {
    /// The defaults, with one task queue for everything.
    pub(crate) fn new(task_queue: String) -> Config {
        Config {
            workflow_task_queue: task_queue.clone(),
            activity_task_queue: task_queue,
            workflow_processes: 2,
            max_workflow_processes: None,
            limits: WorkerLimits::new(),
            activity_processes: 1,
            workflow_program: None,
            activity_program: None,
            activity_slots: 100,
            max_cached_workflows: 1000,
            deadlock_timeout: Duration::from_secs(2),
            grace: Duration::from_secs(10),
            max_concurrent_local_activities: None,
            max_activities_per_second: None,
            max_task_queue_activities_per_second: None,
            tuner: Tuner::FixedSize,
            workflow_pollers: None,
            activity_pollers: None,
            deployment: None,
            identity: None,
            sticky_queue_schedule_to_start_timeout: Duration::from_secs(10),
            max_heartbeat_throttle_interval: Duration::from_secs(60),
            default_heartbeat_throttle_interval: Duration::from_secs(30),
            workflow_failure_errors: HashSet::new(),
            workflow_types_to_failure_errors: HashMap::new(),
            #[cfg(feature = "otlp")]
            otlp: None,
            #[cfg(feature = "otlp")]
            has_codec: false,
            #[cfg(feature = "metrics")]
            metrics: None,
        }
    }

    /// As many workflow processes as there may be while the pool runs.
    pub(crate) fn most_workflow_processes(&self) -> usize {
        self.max_workflow_processes.unwrap_or((2 * self.workflow_processes).max(16))
    }

    /// What can't work, found before anything is started: the setting, what is wrong with it, and the remedy.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (name, n, most) in [
            ("workflow_processes", Some(self.workflow_processes), 512),
            ("max_workflow_processes", self.max_workflow_processes, 1024),
            ("activity_processes", Some(self.activity_processes), 512),
            ("activity_slots", Some(self.activity_slots), 10_000),
            ("max_cached_workflows", Some(self.max_cached_workflows), 1_000_000),
            ("max_concurrent_local_activities", self.max_concurrent_local_activities, 1_000_000),
        ] {
            if let Some(n) = n.filter(|&n| n > most) {
                return Err(format!("{name} is {n}: it must be at most {most}"));
            }
        }
        for program in [&self.workflow_program, &self.activity_program].into_iter().flatten() {
            program.find()?;
        }
        if self.workflow_program.is_some() && self.limits.are_watched() {
            return Err(
                "limits of tasks, memory and CPU time for each workflow process are watched by our own workflow \
                        processes, not by another program: leave them out, or the program"
                    .to_owned(),
            );
        }
        if let Some(most) = self.max_workflow_processes.filter(|&most| most < self.workflow_processes) {
            let n = self.workflow_processes;
            return Err(format!(
                "max_workflow_processes is {most}, below workflow_processes, {n}: raise the one or lower the other"
            ));
        }
        for (name, text) in [
            ("workflow_task_queue", Some(&self.workflow_task_queue)),
            ("activity_task_queue", Some(&self.activity_task_queue)),
            ("identity", self.identity.as_ref()),
        ] {
            if text.is_some_and(String::is_empty) {
                return Err(format!("{name} is empty: give it a name"));
            }
        }
        for (name, rate) in [
            ("max_activities_per_second", self.max_activities_per_second),
            ("max_task_queue_activities_per_second", self.max_task_queue_activities_per_second),
        ] {
            if let Some(rate) = rate.filter(|rate| !rate.is_normal() || *rate < 0.0) {
                return Err(format!("{name} is {rate}: it must be a number above 0"));
            }
        }
        if let Tuner::ResourceBased { target_memory_usage, target_cpu_usage } = self.tuner {
            for (name, target) in [("target_memory_usage", target_memory_usage), ("target_cpu_usage", target_cpu_usage)]
            {
                if !(target > 0.0 && target <= 1.0) {
                    return Err(format!("{name} is {target}: it must be above 0 and at most 1"));
                }
            }
        }
        for (name, pollers, least) in [("workflow", self.workflow_pollers, 2), ("activity", self.activity_pollers, 1)] {
            let Some(pollers) = pollers else { continue };
            pollers.validate().map_err(|why| format!("{name} pollers: {why}"))?;
            if matches!(pollers, PollerBehavior::SimpleMaximum(n) if n < least) {
                return Err(format!(
                    "{name} pollers: at least {least} are needed, one for each of the two queues that Core polls"
                ));
            }
        }
        if let Some(deployment) = &self.deployment
            && deployment.use_worker_versioning
        {
            if deployment.version.deployment_name.is_empty() || deployment.version.build_id.is_empty() {
                return Err("worker versioning needs a deployment name and a build id: give both".to_owned());
            }
            if deployment.default_versioning_behavior.is_none() {
                return Err("worker versioning needs a default behavior, pinned or auto-upgrade: give one".to_owned());
            }
        }
        Ok(())
    }

    fn activity_slots_in_all(&self) -> usize {
        self.activity_processes * self.activity_slots
    }

    /// What each of Core's workers is to be: one for everything if there is one queue, else one for each kind.
    pub(super) fn core_workers(
        &self,
        server: &Server,
        activations: &Slots,
    ) -> Result<CoreWorkers<WorkerConfig>, Fault> {
        let (workflows, activities) = (self.workflow_processes > 0, self.activity_processes > 0);
        if workflows && activities && self.workflow_task_queue == self.activity_task_queue {
            return Ok(CoreWorkers::One(self.core_worker(server, Some(activations), true)?));
        }
        Ok(CoreWorkers::Apart {
            workflows: workflows.then(|| self.core_worker(server, Some(activations), false)).transpose()?,
            activities: activities.then(|| self.core_worker(server, None, true)).transpose()?,
        })
    }

    /// A worker of Core for workflows, if there are `activations` for it, and for activities, if it is to take any.
    fn core_worker(
        &self,
        server: &Server,
        activations: Option<&Slots>,
        takes_activities: bool,
    ) -> Result<WorkerConfig, Fault> {
        let types = WorkerTaskTypes {
            enable_workflows: activations.is_some(),
            enable_local_activities: activations.is_some() && self.activity_processes > 0,
            enable_remote_activities: takes_activities,
            enable_nexus: false,
        };
        let queue = if activations.is_some() { &self.workflow_task_queue } else { &self.activity_task_queue };
        // More polls than slots of a pool at rest would keep more than those.
        let workflow_pollers = || self.workflow_pollers.unwrap_or(pollers(at_rest(self.workflow_processes)));
        let activity_pollers = || self.activity_pollers.unwrap_or(pollers(self.activity_slots_in_all()));
        let deployment = self.deployment.clone();
        let deployment = deployment
            .unwrap_or_else(|| WorkerDeploymentOptions::from_build_id(build_id_from_current_exe().to_owned()));
        WorkerConfig::builder()
            .namespace(server.namespace().to_owned())
            .task_queue(queue.clone())
            .versioning_strategy(WorkerVersioningStrategy::WorkerDeploymentBased(deployment))
            .graceful_shutdown_period(self.grace)
            .max_cached_workflows(if types.enable_workflows { self.max_cached_workflows } else { 0 })
            .maybe_workflow_task_poller_behavior(types.enable_workflows.then(workflow_pollers))
            .maybe_activity_task_poller_behavior(types.enable_remote_activities.then(activity_pollers))
            .tuner(self.core_tuner(activations))
            .maybe_max_worker_activities_per_second(self.max_activities_per_second)
            .maybe_max_task_queue_activities_per_second(self.max_task_queue_activities_per_second)
            .sticky_queue_schedule_to_start_timeout(self.sticky_queue_schedule_to_start_timeout)
            .max_heartbeat_throttle_interval(self.max_heartbeat_throttle_interval)
            .default_heartbeat_throttle_interval(self.default_heartbeat_throttle_interval)
            .workflow_failure_errors(self.workflow_failure_errors.clone())
            .workflow_types_to_failure_errors(self.workflow_types_to_failure_errors.clone())
            .task_types(types)
            .build()
            .map_err(Fault::Other)
    }

    fn core_tuner(&self, activations: Option<&Slots>) -> Arc<dyn WorkerTuner + Send + Sync> {
        let slots = self.activity_slots_in_all().max(1);
        let local = self.max_concurrent_local_activities.unwrap_or(slots);
        let mut tuner = TunerBuilder::default();
        if let Some(activations) = activations {
            tuner.workflow_slot_supplier(Arc::new(activations.clone()));
        }
        match self.tuner {
            Tuner::FixedSize => {
                tuner.activity_slot_supplier(Arc::new(FixedSizeSlotSupplier::new(slots)));
                tuner.local_activity_slot_supplier(Arc::new(FixedSizeSlotSupplier::new(local)));
            }
            Tuner::ResourceBased { target_memory_usage, target_cpu_usage } => {
                let mut by_resources = ResourceBasedTuner::new(target_memory_usage, target_cpu_usage);
                let up_to = |slots| ResourceSlotOptions::new(1, slots, RAMP_THROTTLE);
                by_resources.with_activity_slots_options(up_to(slots)).with_local_activity_slots_options(up_to(local));
                tuner.activity_slot_supplier(by_resources.activity_task_slot_supplier());
                tuner.local_activity_slot_supplier(by_resources.local_activity_slot_supplier());
            }
        }
        Arc::new(tuner.build())
    }
}

/// Core's workers, or what they are to be.
pub(super) enum CoreWorkers<T> {
    /// One for one queue.
    One(T),
    /// Each for a queue of its own.
    Apart { workflows: Option<T>, activities: Option<T> },
}

impl<T> CoreWorkers<T> {
    pub(super) fn map<U, E>(self, mut make: impl FnMut(T) -> Result<U, E>) -> Result<CoreWorkers<U>, E> {
        Ok(match self {
            Self::One(one) => CoreWorkers::One(make(one)?),
            Self::Apart { workflows, activities } => CoreWorkers::Apart {
                workflows: workflows.map(&mut make).transpose()?,
                activities: activities.map(&mut make).transpose()?,
            },
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        let (first, second) = match self {
            Self::One(one) => (Some(one), None),
            Self::Apart { workflows, activities } => (workflows.as_ref(), activities.as_ref()),
        };
        first.into_iter().chain(second)
    }

    /// Takes workflow tasks, and local activities.
    pub(super) fn workflows(&self) -> Option<&T> {
        match self {
            Self::One(one) => Some(one),
            Self::Apart { workflows, .. } => workflows.as_ref(),
        }
    }

    /// Takes activities that are not local.
    pub(super) fn activities(&self) -> Option<&T> {
        match self {
            Self::One(one) => Some(one),
            Self::Apart { activities, .. } => activities.as_ref(),
        }
    }
}

fn pollers(slots: usize) -> PollerBehavior {
    PollerBehavior::SimpleMaximum(slots.clamp(2, 10))
}

#[cfg(test)]
mod tests {
    use super::*;
    use temporalio_common::worker::{VersioningBehavior, WorkerDeploymentVersion};

    #[test]
    fn what_cannot_work_is_named_before_anything_is_started() {
        let wrong = |change: fn(&mut Config)| {
            let mut config = Config::new("queue".into());
            config.check().unwrap();
            change(&mut config);
            config.check().unwrap_err()
        };
        assert_eq!(
            wrong(|c| (c.workflow_processes, c.max_workflow_processes) = (4, Some(2))),
            "max_workflow_processes is 2, below workflow_processes, 4: raise the one or lower the other"
        );
        assert_eq!(
            wrong(|c| c.max_activities_per_second = Some(0.0)),
            "max_activities_per_second is 0: it must be a number above 0"
        );
        assert_eq!(
            wrong(|c| c.activity_slots = usize::MAX / 2),
            format!("activity_slots is {}: it must be at most 10000", usize::MAX / 2)
        );
        assert_eq!(wrong(|c| c.workflow_task_queue.clear()), "workflow_task_queue is empty: give it a name");
        assert_eq!(
            wrong(|c| c.tuner = Tuner::ResourceBased { target_memory_usage: 0.5, target_cpu_usage: 50.0 }),
            "target_cpu_usage is 50: it must be above 0 and at most 1"
        );
        assert_eq!(
            wrong(|c| c.workflow_pollers = Some(PollerBehavior::SimpleMaximum(1))),
            "workflow pollers: at least 2 are needed, one for each of the two queues that Core polls"
        );
        assert!(
            wrong(|c| {
                c.activity_pollers = Some(PollerBehavior::Autoscaling { minimum: 3, maximum: 2, initial: 2 })
            })
            .starts_with("activity pollers: ")
        );
    }

    #[test]
    fn worker_versioning_needs_a_whole_version_and_a_behavior() {
        let check = |name: &str, behavior| {
            let version = WorkerDeploymentVersion::builder().deployment_name(name).build_id("1").build();
            let deployment = WorkerDeploymentOptions::new(version)
                .use_worker_versioning(true)
                .maybe_default_versioning_behavior(behavior)
                .build();
            Config { deployment: Some(deployment), ..Config::new("queue".into()) }.check()
        };
        assert!(check("", Some(VersioningBehavior::Pinned)).unwrap_err().contains("a deployment name"));
        assert!(check("billing", None).unwrap_err().contains("pinned or auto-upgrade"));
        check("billing", Some(VersioningBehavior::AutoUpgrade)).unwrap();
    }
}
