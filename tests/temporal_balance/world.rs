//! A server, a client, and a pool of this same program.

use super::common::{Pool, Server};
use std::process::Command;
use temporalio_client::{Client, ClientOptions, ConnectionOptions, Url, WorkflowHandle, WorkflowStartOptions};
use temporalio_common::{
    HasWorkflowDefinition, SignalDefinition,
    protos::temporal::api::{
        enums::v1::EventType,
        history::v1::{HistoryEvent, WorkflowTaskFailedEventAttributes, history_event::Attributes},
    },
};
use tokio::runtime::{self, Runtime};

pub(crate) const QUEUE: &str = "parcels";

/// A namespace of the server, and a client in it.
pub(crate) struct World<'s> {
    pub(crate) server: &'s Server,
    pub(crate) namespace: &'static str,
    pub(crate) runtime: Runtime,
    pub(crate) client: Client,
}

/// This program as a worker.
pub(crate) fn worker(address: &str, namespace: &str) -> Command {
    let mut run = Command::new(std::env::current_exe().unwrap());
    run.args(["run", "--address", address, "--namespace", namespace, "--workflow-task-queue", QUEUE]);
    run
}

/// A client, and what it runs on.
pub(crate) fn connect(address: &str, namespace: &str) -> (Runtime, Client) {
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let connection = ConnectionOptions::new(Url::parse(&format!("http://{address}")).unwrap()).build();
    let client = runtime.block_on(Client::connect(connection, ClientOptions::new(namespace).build())).unwrap();
    (runtime, client)
}

impl<'s> World<'s> {
    pub(crate) fn new(server: &'s Server, namespace: &'static str) -> World<'s> {
        let (runtime, client) = connect(&server.address, namespace);
        World { server, namespace, runtime, client }
    }

    pub(crate) fn pool(&self, workflow_workers: usize, activity_workers: usize, args: &[&str]) -> Pool {
        Pool::start(worker(&self.server.address, self.namespace), workflow_workers, activity_workers, args)
    }

    /// Starts a workflow under this id.
    pub(crate) fn start<W: HasWorkflowDefinition>(&self, id: &str, workflow: W, input: W::Input) -> Flow<'_, W>
    where
        W::Input: Send,
    {
        self.start_with(WorkflowStartOptions::new(QUEUE, id).build(), workflow, input)
    }

    pub(crate) fn start_with<W: HasWorkflowDefinition>(
        &self,
        options: WorkflowStartOptions,
        workflow: W,
        input: W::Input,
    ) -> Flow<'_, W>
    where
        W::Input: Send,
    {
        let handle = self.runtime.block_on(self.client.start_workflow(workflow, input, options)).unwrap();
        Flow { runtime: &self.runtime, handle }
    }
}

/// A workflow that was started.
pub(crate) struct Flow<'w, W> {
    pub(crate) runtime: &'w Runtime,
    pub(crate) handle: WorkflowHandle<Client, W>,
}

impl<W: HasWorkflowDefinition> Flow<'_, W> {
    #[track_caller]
    pub(crate) fn output(&self) -> W::Output {
        self.runtime.block_on(self.handle.get_result(Default::default())).unwrap()
    }

    pub(crate) fn signal<S: SignalDefinition<Workflow = W::Run>>(&self, signal: S, input: S::Input)
    where
        S::Input: Send,
    {
        self.runtime.block_on(self.handle.signal(signal, input, Default::default())).unwrap();
    }

    pub(crate) fn events(&self) -> Vec<HistoryEvent> {
        self.runtime.block_on(self.handle.fetch_history(Default::default()).into_events()).unwrap()
    }

    /// How many events of this kind there are.
    pub(crate) fn count(&self, kind: EventType) -> usize {
        self.events().iter().filter(|event| event.event_type() == kind).count()
    }

    /// The failures of its workflow tasks that the server was told of.
    pub(crate) fn task_failures(&self) -> Vec<WorkflowTaskFailedEventAttributes> {
        let failures = self.events().into_iter().filter_map(|event| match event.attributes {
            Some(Attributes::WorkflowTaskFailedEventAttributes(failed)) => Some(failed),
            _ => None,
        });
        failures.collect()
    }

    /// None of its workflow tasks failed or ran out of time.
    #[track_caller]
    pub(crate) fn went_smoothly(&self) {
        for kind in [EventType::WorkflowTaskFailed, EventType::WorkflowTaskTimedOut] {
            assert_eq!(self.count(kind), 0, "{kind:?} in {}: {:#?}", self.handle.info().workflow_id, self.events());
        }
    }
}
