//! What a user's program brings.

use super::{
    activity::{Activities, ActivityInterceptor},
    converter::Converter,
    workflow::Workflows,
};
use std::sync::Arc;
use temporalio_workflow::workflow_interceptors::WorkflowInterceptorConstructor;

/// All that a user's program brings, the same in each of its processes: they are forks of it.
#[derive(Clone, Default)]
pub(crate) struct UserCode {
    pub(crate) workflows: Workflows,
    pub(crate) activities: Activities,
    pub(crate) workflow_interceptors: Vec<WorkflowInterceptorConstructor>,
    pub(crate) activity_interceptors: Vec<Arc<dyn ActivityInterceptor>>,
    pub(crate) converter: Converter,
}

impl From<Workflows> for UserCode {
    fn from(workflows: Workflows) -> Self {
        Self { workflows, ..Self::default() }
    }
}

impl From<Activities> for UserCode {
    fn from(activities: Activities) -> Self {
        Self { activities, ..Self::default() }
    }
}
