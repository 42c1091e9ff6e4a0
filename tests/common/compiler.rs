//! Shared libraries in C and C++, compiled where they are tested.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Where `shmworker.h` is.
pub(crate) fn headers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("ffi/include")
}

/// Compiles a source of this repository into `library`, by gcc or, if it ends in `.cpp`, by g++.
#[track_caller]
#[allow(dead_code, reason = "each test program uses a part of this module")]
pub(crate) fn compile(source: &str, library: &Path) {
    compile_file(&Path::new(env!("CARGO_MANIFEST_DIR")).join(source), library, &headers());
}

/// Compiles this text, which includes `shmworker.h`, or in C++ `shmworker.hpp`, of that directory.
#[track_caller]
pub(crate) fn compile_text(text: &str, library: &Path, headers: &Path) {
    let source = library.with_extension(if text.contains("<shmworker.hpp>") { "cpp" } else { "c" });
    std::fs::write(&source, text).unwrap();
    compile_file(&source, library, headers);
}

#[track_caller]
fn compile_file(source: &Path, library: &Path, headers: &Path) {
    let is_cpp = source.extension().is_some_and(|extension| extension == "cpp");
    let (compiler, standard) = if is_cpp { ("g++", "-std=c++17") } else { ("gcc", "-std=c11") };
    // Beside it, and then in its place: who has loaded the former one keeps that.
    let draft = library.with_extension("draft");
    let mut command = Command::new(compiler);
    command.args([standard, "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-shared", "-fPIC"]);
    // What is undefined ends the process, without a library for that. (That NULL can't be written to is for tests to show.)
    command.args(["-fsanitize=undefined", "-fno-sanitize=null,vptr", "-fsanitize-undefined-trap-on-error", "-I"]);
    let output = command.arg(headers).arg(source).arg("-o").arg(&draft).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(draft, library).unwrap();
}
