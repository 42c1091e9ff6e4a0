//! What stands in for spans where the feature `otlp` is off: there are none.

use super::Config;
use crate::{
    exec::endpoint::{Endpoint, Finished},
    lockfree::descriptor::TraceParent,
};
use std::{convert::Infallible, sync::Arc};
use temporalio_common::protos::coresdk::{
    ActivityTaskCompletion, activity_task::ActivityTask, workflow_activation::WorkflowActivation,
    workflow_completion::WorkflowActivationCompletion,
};

#[derive(Default)]
pub(super) struct Traces;

pub(super) struct OfRun(Infallible);

pub(super) struct Span(Infallible);

impl Traces {
    pub(super) fn start(_: &Config) -> Result<Traces, Infallible> {
        Ok(Traces)
    }

    pub(super) fn shut_down(&self) {}

    pub(super) fn activity(&self, _: &mut ActivityTask) -> Option<Box<Span>> {
        None
    }

    pub(super) fn run(&self, _: &WorkflowActivation, _: impl FnOnce() -> Option<Arc<OfRun>>) -> Option<Arc<OfRun>> {
        None
    }

    pub(super) fn activation(&self, _: &WorkflowActivation, _: Option<&Arc<OfRun>>) -> Option<Box<Span>> {
        None
    }
}

impl Span {
    pub(super) fn submitted(&mut self) -> TraceParent {
        match self.0 {}
    }

    pub(super) fn carry_on(&self, _: &mut WorkflowActivationCompletion) {
        match self.0 {}
    }

    pub(super) fn end_activation(
        self,
        _: Option<(&Endpoint, &Finished<'_>)>,
        _: Result<&WorkflowActivationCompletion, &str>,
    ) {
        match self.0 {}
    }

    pub(super) fn end_activity(self, _: Option<(&Endpoint, &Finished<'_>)>, _: &ActivityTaskCompletion) {
        match self.0 {}
    }
}
