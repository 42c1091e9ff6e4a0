//! `shmworker run --source grpc://…` on the example server, as a process of its own.

mod common;
#[path = "../examples/grpc_source_server.rs"]
#[allow(dead_code, reason = "its main is called here")]
mod grpc_source_server;

use common::sources::{self, Files};
use std::{
    path::Path,
    process::{Command, ExitCode},
};

fn main() -> ExitCode {
    // As the server: its arguments follow.
    if std::env::args().nth(1).as_deref() == Some(SERVE) {
        return match grpc_source_server::serve(std::env::args().skip(2).collect()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    sources::main(&[
        ("survives_deaths_of_everything", survives_deaths_of_everything),
        ("is_shared_by_two", is_shared_by_two),
    ])
}

const SERVE: &str = "--serve";

fn place() -> Files {
    Files::new("grpc", |dir: &Path, address| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        // Leases of half a second.
        command.arg(SERVE).arg(dir).args([address, "500"]);
        command
    })
}

fn survives_deaths_of_everything() {
    sources::survives(&mut place());
}

fn is_shared_by_two() {
    sources::is_shared(&mut place());
}
