//! The `shmworker` command.
fn main() {}
