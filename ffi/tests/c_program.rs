//! A C program, and the same as C++, compiled against the header, linked with the library and run.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

/// Runs a command to its end and returns what it printed.
fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// The directory with `libshmworker.so`, which cargo does not make for the tests of its package: nothing in Rust links it.
static LIBRARY_DIR: LazyLock<PathBuf> = LazyLock::new(|| {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--lib", "--target-dir"]).arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
    output_of(&mut cargo);
    target.join("debug")
});

/// Compiles `tests/c/version.c` and returns what it prints.
fn version_by(compiler: &str, language: &[&str]) -> String {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("version-{compiler}"));
    let mut rpath = OsString::from("-Wl,-rpath,");
    rpath.push(&*LIBRARY_DIR);
    output_of(
        Command::new(compiler)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(language)
            .args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Iinclude", "tests/c/version.c", "-o"])
            .arg(&program)
            .args(["-x", "none", "-lshmworker", "-L"])
            .arg(&*LIBRARY_DIR)
            .arg(rpath),
    );
    output_of(&mut Command::new(program))
}

#[test]
fn a_c_program_reads_the_version() {
    assert_eq!(version_by("gcc", &["-std=c11"]), concat!(env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn a_cxx_program_reads_the_version() {
    assert_eq!(version_by("g++", &["-std=c++17", "-x", "c++"]), concat!(env!("CARGO_PKG_VERSION"), "\n"));
}
