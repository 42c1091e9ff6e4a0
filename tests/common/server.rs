//! A Temporal dev server on a free port, and questions to it through the `temporal` command line tool.

use super::{Program, eventually};
use serde_json::Value;
use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Command, Output},
};

pub(crate) const EVENT_TASK_STARTED: &str = "EVENT_TYPE_WORKFLOW_TASK_STARTED";
pub(crate) const EVENT_TASK_FAILED: &str = "EVENT_TYPE_WORKFLOW_TASK_FAILED";
pub(crate) const EVENT_TASK_TIMED_OUT: &str = "EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT";
pub(crate) const EVENT_TIMER_STARTED: &str = "EVENT_TYPE_TIMER_STARTED";

/// A dev server, which ends when this is dropped.
pub(crate) struct Server {
    pub(crate) cli: PathBuf,
    pub(crate) address: String,
    _program: Program,
}

impl Server {
    /// Starts a server with these namespaces and waits until it serves.
    pub(crate) fn start(namespaces: &[&str]) -> Server {
        let cli = cli();
        // Nobody else is given the port in the moment between.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(&cli);
        command.args(["server", "start-dev", "--headless", "--ip", "127.0.0.1", "--log-level", "error"]);
        command.args(["--port", &port.to_string()]);
        command.args(namespaces.iter().flat_map(|name| ["--namespace", name]));
        let mut program = Program::start(command);
        let address = format!("127.0.0.1:{port}");
        eventually("the dev server serves", || {
            assert!(program.is_running(), "the dev server has ended: {:?}", program.stderr());
            let mut health = Command::new(&cli);
            health.args(["operator", "cluster", "health", "--address", &address]);
            health.output().unwrap().status.success().then_some(())
        });
        Server { cli, address, _program: program }
    }

    /// What the tool answers, as JSON.
    pub(crate) fn ask(&self, namespace: &str, args: &[&str]) -> Value {
        let mut command = Command::new(&self.cli);
        command.args(args).args(["--address", &self.address, "--namespace", namespace, "--output", "json"]);
        let Output { status, stdout, stderr } = command.output().unwrap();
        assert!(status.success(), "{args:?}: {}", String::from_utf8_lossy(&stderr));
        serde_json::from_slice(&stdout).unwrap()
    }

    /// How many workflows there are of those that `query` selects. It may take a moment until the answer is up to date.
    pub(crate) fn count(&self, namespace: &str, query: &str) -> u64 {
        let answer = self.ask(namespace, &["workflow", "count", "--query", query]);
        // Zero is left out.
        answer["count"].as_str().map_or(0, |count| count.parse().unwrap())
    }

    /// The histories of all workflows.
    pub(crate) fn histories(&self, namespace: &str) -> Vec<History> {
        let list = self.ask(namespace, &["workflow", "list"]);
        let ids = list.as_array().unwrap().iter().map(|w| w["execution"]["workflowId"].as_str().unwrap());
        ids.map(|id| History(self.ask(namespace, &["workflow", "show", "--workflow-id", id]))).collect()
    }
}

/// What has happened to a workflow.
pub(crate) struct History(Value);

impl History {
    pub(crate) fn events(&self) -> &[Value] {
        self.0["events"].as_array().unwrap()
    }

    pub(crate) fn has(&self, event: &str) -> bool {
        self.events().iter().any(|e| e["eventType"] == event)
    }

    pub(crate) fn ends_with(&self, event: &str) -> bool {
        self.events().last().is_some_and(|e| e["eventType"] == event)
    }
}

/// The `temporal` command line tool: where TEMPORAL_CLI says, in PATH, or where `go install` puts it.
fn cli() -> PathBuf {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let in_path =
        var("PATH").map(|path| std::env::split_paths(&path).map(|dir| dir.join("temporal")).collect::<Vec<_>>());
    let places = var("TEMPORAL_CLI").map(PathBuf::from).into_iter().chain(in_path.into_iter().flatten());
    let installed = std::env::home_dir().map(|home| home.join("go/bin/temporal"));
    places.chain(installed).find(|path| path.is_file()).unwrap_or_else(|| {
        panic!("no 'temporal' command line tool, in which the dev server is: '.ci/setup' installs it, TEMPORAL_CLI names it")
    })
}
