//! A Temporal dev server on a free port, and questions to it through the `temporal` command line tool.

use super::{Program, eventually};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::{
    net::TcpListener,
    path::{Path, PathBuf},
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
    port: u16,
    /// What keeps its state.
    db: Option<PathBuf>,
    program: Program,
}

impl Server {
    /// Starts a server with these namespaces and waits until it serves.
    pub(crate) fn start(namespaces: &[&str]) -> Server {
        Server::start_with(namespaces, None)
    }

    /// The same, with some of its own settings, `KEY=JSON`, changed.
    pub(crate) fn start_configured(namespaces: &[&str], settings: &[&str]) -> Server {
        Server::launch(namespaces, None, settings)
    }

    /// The same, with its state in a file.
    pub(crate) fn start_with(namespaces: &[&str], db: Option<PathBuf>) -> Server {
        Server::launch(namespaces, db, &[])
    }

    fn launch(namespaces: &[&str], db: Option<PathBuf>, settings: &[&str]) -> Server {
        let cli = cli();
        loop {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let program = serve(&cli, port, namespaces, db.as_deref(), settings);
            let address = format!("127.0.0.1:{port}");
            let mut server = Server { cli: cli.clone(), address, port, db: db.clone(), program };
            if server.serves() {
                return server;
            }
        }
    }

    /// Kills the server, which has its state in a file, and starts it again.
    pub(crate) fn kill_and_restart(&mut self) {
        assert!(self.db.is_some(), "its state would be lost");
        self.program.signal(Signal::SIGKILL);
        self.program.end();
        self.program = serve(&self.cli, self.port, &[], self.db.as_deref(), &[]);
        assert!(self.serves(), "its port is another's by now");
    }

    /// Waits until it serves. `false`: somebody else was given its port before it was.
    fn serves(&mut self) -> bool {
        eventually("the dev server serves", || {
            if !self.program.is_running() {
                self.program.end();
                let said = self.program.stderr();
                assert!(said.iter().any(|line| line.contains("address already in use")), "it has ended: {said:?}");
                return Some(false);
            }
            let mut health = Command::new(&self.cli);
            health.args(["operator", "cluster", "health", "--address", &self.address]);
            health.output().unwrap().status.success().then_some(true)
        })
    }

    /// What the tool answers, as JSON.
    pub(crate) fn ask(&self, namespace: &str, args: &[&str]) -> Value {
        let answer = self.tell(namespace, &[args, &["--output", "json"]].concat());
        serde_json::from_slice(&answer).unwrap()
    }

    /// What the tool says once it has done that.
    pub(crate) fn tell(&self, namespace: &str, args: &[&str]) -> Vec<u8> {
        let mut command = Command::new(&self.cli);
        command.args(args).args(["--address", &self.address, "--namespace", namespace]);
        let Output { status, stdout, stderr } = command.output().unwrap();
        assert!(status.success(), "{args:?}: {}", String::from_utf8_lossy(&stderr));
        stdout
    }

    /// How many workflows there are of those that `query` selects. It may take a moment until the answer is up to date.
    pub(crate) fn count(&self, namespace: &str, query: &str) -> u64 {
        let answer = self.ask(namespace, &["workflow", "count", "--query", query]);
        // Zero is left out.
        answer["count"].as_str().map_or(0, |count| count.parse().unwrap())
    }

    /// The ids of all workflows. It may take a moment until the answer is up to date.
    pub(crate) fn workflows(&self, namespace: &str) -> Vec<String> {
        let list = self.ask(namespace, &["workflow", "list"]);
        let ids = list.as_array().unwrap().iter().map(|w| w["execution"]["workflowId"].as_str().unwrap());
        ids.map(str::to_owned).collect()
    }

    /// The histories of all workflows.
    pub(crate) fn histories(&self, namespace: &str) -> Vec<History> {
        let show = |id: &String| History(self.ask(namespace, &["workflow", "show", "--workflow-id", id]));
        self.workflows(namespace).iter().map(show).collect()
    }
}

/// The first of the details in attributes of an event, from JSON: the tool shows bytes.
pub(crate) fn details(attributes: &Value) -> Value {
    let data = attributes["details"]["payloads"][0]["data"].as_str().unwrap_or_else(|| panic!("details: {attributes}"));
    serde_json::from_slice(&base64(data)).unwrap()
}

fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |c| DIGITS.iter().position(|&d| d == c).unwrap() as u32;
    let groups = text.trim_end_matches('=').as_bytes().chunks(4);
    let bytes = groups.flat_map(|group| {
        let bits = group.iter().fold(0, |bits, &c| bits << 6 | digit(c)) << (6 * (4 - group.len()));
        bits.to_be_bytes()[1..group.len()].to_vec()
    });
    bytes.collect()
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

fn serve(cli: &Path, port: u16, namespaces: &[&str], db: Option<&Path>, settings: &[&str]) -> Program {
    let mut command = Command::new(cli);
    command.args(["server", "start-dev", "--headless", "--ip", "127.0.0.1", "--log-level", "error"]);
    command.args(["--port", &port.to_string()]);
    command.args(namespaces.iter().flat_map(|name| ["--namespace", name]));
    command.args(settings.iter().flat_map(|setting| ["--dynamic-config-value", setting]));
    if let Some(db) = db {
        command.arg("--db-filename").arg(db);
    }
    Program::start(command)
}

/// The `temporal` command line tool: where TEMPORAL_CLI says, in PATH, where `.ci/setup` or where `go install` puts it.
fn cli() -> PathBuf {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let in_path =
        var("PATH").map(|path| std::env::split_paths(&path).map(|dir| dir.join("temporal")).collect::<Vec<_>>());
    let places = var("TEMPORAL_CLI").map(PathBuf::from).into_iter().chain(in_path.into_iter().flatten());
    let home = std::env::home_dir();
    let cache = var("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(home.as_ref()?.join(".cache")));
    let installed = cache.map(|cache| cache.join("shmworker/temporal"));
    let by_go = home.map(|home| home.join("go/bin/temporal"));
    places.chain(installed).chain(by_go).find(|path| path.is_file()).unwrap_or_else(|| {
        panic!("no 'temporal' command line tool, in which the dev server is: '.ci/setup' installs it, TEMPORAL_CLI names it")
    })
}
