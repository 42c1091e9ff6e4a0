//! The one file that names what `temporalio-workflow` hides from its documentation.
//!
//! The Rust SDK runs workflow code in the process that owns Core. Here they live in different processes, so the driver
//! in [`workflow`](super::workflow) stands where the SDK's own one stands: directly on the workflow runtime, which
//! upstream keeps behind `temporalio_workflow::__private::sdk` and the hidden `BaseWorkflowContext::from_raw`. Neither
//! is covered by semantic versioning, hence the exact pins in `Cargo.toml`: `temporalio-workflow =1.1.1`, and with it
//! `temporalio-common =1.1.1` (the messages) and `temporalio-macros =1.1.2` (the code that `#[workflow]` generates).
//!
//! # When the pins are raised
//!
//! `temporalio-sdk` of the same version is the reference. Compare with it:
//!
//! 1. `workflow_registry.rs`: what [`instantiate`] does, in the order it does it;
//! 2. `workflow_future.rs`: which routine is polled when, the order of commands, what fails a workflow task;
//! 3. `workflow_executor.rs`: which wakes are taken for non-deterministic.
//!
//! The driver matches the enums below without wildcards, so a new variant is a compile error. The tests of
//! [`workflow`](super::workflow) hold the rest.

pub(super) use temporalio_workflow::__private::sdk::{
    ActivationJobResult, MAIN_ROUTINE_ID, MainRoutineCompletion, RoutineCompletion, RoutineId, RoutineKind,
    RoutinePollResult, StartedRoutine, TerminalOutcome, UpdateRoutineCompletion, WorkflowFailure,
    WorkflowHost as CommandSink, WorkflowInit, WorkflowInstance, is_sdk_wake,
};

use std::rc::Rc;
use temporalio_common::{
    WorkflowDefinition,
    data_converters::{DataConverter, PayloadConversionError},
};
use temporalio_workflow::{
    __private::sdk::GuestWorkflowInstance, BaseWorkflowContext, workflow_interceptors::WorkflowInterceptorConstructor,
    workflows::WorkflowImplementation,
};

/// What lies around the code of every run.
#[derive(Clone, Default)]
pub(super) struct Surroundings {
    /// Its codec has been applied by the time a run is made.
    pub(super) converter: DataConverter,
    pub(super) interceptors: Vec<WorkflowInterceptorConstructor>,
}

/// Makes one run of one workflow type.
pub(super) type Instantiate =
    fn(WorkflowInit, Rc<dyn CommandSink>, &Surroundings) -> Result<Box<dyn WorkflowInstance>, PayloadConversionError>;

/// Decodes the input and makes a run of `W`, whose commands go to `sink`.
pub(super) fn instantiate<W>(
    init: WorkflowInit,
    sink: Rc<dyn CommandSink>,
    surroundings: &Surroundings,
) -> Result<Box<dyn WorkflowInstance>, PayloadConversionError>
where
    W: WorkflowImplementation,
    <W::Run as WorkflowDefinition>::Input: Send,
{
    // Copied, not taken: the context shows the whole initialization job to workflow code.
    let arguments = init.initialize_workflow.arguments.clone();
    let Surroundings { converter, interceptors } = surroundings.clone();
    let payload_converter = converter.payload_converter().clone();
    let context = BaseWorkflowContext::from_raw(init, converter, sink, None, interceptors);
    GuestWorkflowInstance::<W>::instantiate(arguments, payload_converter, context)
}
