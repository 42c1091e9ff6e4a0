//! Temporal: the command line tool, and the server.

use super::Finding;
use crate::{
    cli::args::ConnectArgs,
    temporal::{
        Worker,
        connect::{ConnectError, ConnectFlags, Server},
        dev_server,
    },
};

const TOPIC: &str = "temporal";

pub(super) fn look(connect: ConnectArgs, worker: &Worker) -> Vec<Finding> {
    let (tool, is_tool_there) = tool();
    vec![tool, server(&ConnectFlags::from(connect).or(worker.connection.clone()), is_tool_there)]
}

/// Only the dev server needs it.
fn tool() -> (Finding, bool) {
    let name = "command";
    let found = match dev_server::find() {
        Ok(Some(found)) => found,
        Ok(None) => {
            let remedy = "'run' without a server downloads it: install it from https://docs.temporal.io/cli, or name it in TEMPORAL_CLI";
            return (Finding::warning(TOPIC, name, "not in PATH, and not downloaded yet", remedy), false);
        }
        Err(e) => {
            let remedy = "the dev server can't start: name the tool in TEMPORAL_CLI, or unset it";
            return (Finding::problem(TOPIC, name, e, remedy), false);
        }
    };
    let path = found.display();
    match dev_server::version(&found) {
        Ok(version) => (Finding::ok(TOPIC, name, format_args!("{path}: {version}")), true),
        Err(why) => {
            let remedy = "the dev server can't start: install it anew from https://docs.temporal.io/cli";
            (Finding::problem(TOPIC, name, format_args!("{path} does not run: {why}"), remedy), false)
        }
    }
}

fn server(flags: &ConnectFlags, is_tool_there: bool) -> Finding {
    let name = "server";
    let server = match Server::resolve(flags) {
        Ok(server) => server,
        Err(e) => return Finding::problem(TOPIC, name, e, "nothing is connected to before that is right"),
    };
    let address = server.address();
    if !server.somebody_listens() {
        let found = format!("nobody listens at {address}");
        return match (server.configured(), is_tool_there) {
            (true, _) => {
                let remedy = "start it, or name another with --address or TEMPORAL_ADDRESS";
                Finding::problem(TOPIC, name, found, remedy)
            }
            (false, true) => Finding::ok(TOPIC, name, format_args!("{found}: 'run' starts a dev server")),
            (false, false) => {
                let remedy =
                    "name a server with --address or TEMPORAL_ADDRESS, or get the command line tool for a dev server";
                Finding::warning(TOPIC, name, found, remedy)
            }
        };
    }
    let namespace = server.namespace();
    match ask(&server) {
        Ok(()) => Finding::ok(TOPIC, name, format_args!("{address} answers, and has namespace '{namespace}'")),
        Err(e @ ConnectError::BadNamespace { .. }) => {
            Finding::problem(TOPIC, name, e, "no worker can poll before the namespace is there")
        }
        Err(e) => {
            Finding::problem(TOPIC, name, e, "see 'shmworker doctor --help' for what says where the server is, and how")
        }
    }
}

fn ask(server: &Server) -> Result<(), ConnectError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| ConnectError::Config(format!("no runtime to connect with: {e}")))?;
    runtime.block_on(async {
        let connection = server.connect(format!("shmworker-doctor:{}", std::process::id())).await?;
        server.check_namespace(&connection).await
    })
}
