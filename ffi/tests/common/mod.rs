//! An installed copy of the library, and what is built with it.

#![allow(dead_code, reason = "each test program uses a part of this module")]

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

pub(crate) const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];
pub(crate) const SANITIZERS: [&str; 2] = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
/// The kernel's word is wanted of how a worker ended, not that of a sanitizer which catches the signal.
pub(crate) const SANITIZED: (&str, &str) = ("ASAN_OPTIONS", "handle_segv=0:detect_leaks=1");

pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A place of this test program's own.
pub(crate) fn scratch(name: &str) -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(env!("CARGO_CRATE_NAME"));
    std::fs::create_dir_all(&home).unwrap();
    home.join(name)
}

/// Runs a command to its end and returns what it printed.
#[track_caller]
pub(crate) fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    stdout
}

/// Where the library is installed: moved there as a whole, from the root that a packager has given.
pub(crate) static PREFIX: LazyLock<PathBuf> = LazyLock::new(|| {
    let (root, prefix) = (scratch("root"), scratch("prefix"));
    for old in [&root, &prefix] {
        let _ = std::fs::remove_dir_all(old);
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    output_of(
        Command::new(repository().join("ffi/install"))
            .args(["--profile", "dev", "--prefix", "/opt/shmworker", "--destdir"])
            .arg(&root)
            .env("CARGO_TARGET_DIR", target),
    );
    std::fs::rename(root.join("opt/shmworker"), &prefix).unwrap();
    prefix
});

pub(crate) fn pkg_config(arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new("pkg-config");
    command.args(arguments).arg("shmworker").env("PKG_CONFIG_PATH", PREFIX.join("lib/pkgconfig"));
    output_of(&mut command).split_whitespace().map(str::to_owned).collect()
}

#[derive(Clone, Copy)]
pub(crate) enum Language {
    C,
    Cxx,
}

impl Language {
    pub(crate) fn compiler(self) -> &'static str {
        match self {
            Language::C => "gcc",
            Language::Cxx => "g++",
        }
    }

    /// Its compiler, with the standard, the warnings, and where the headers are.
    pub(crate) fn command(self) -> Command {
        self.command_with(&[])
    }

    /// The same with these before where the headers are.
    pub(crate) fn command_with(self, flags: &[&str]) -> Command {
        let mut command = Command::new(self.compiler());
        let standard = match self {
            Language::C => "-std=c11",
            Language::Cxx => "-std=c++17",
        };
        command.arg(standard).args(WARNINGS).args(flags).args(pkg_config(&["--cflags"]));
        command
    }
}

pub(crate) fn example(language: Language, name: &str) -> PathBuf {
    let (dir, suffix) = match language {
        Language::C => ("c", "c"),
        Language::Cxx => ("cpp", "cpp"),
    };
    repository().join("examples").join(dir).join(format!("{name}.{suffix}"))
}

/// Builds these targets of `examples`, or all, with so many more settings; returns where.
pub(crate) fn build_by_cmake(name: &str, settings: &[&str], targets: &[&str]) -> PathBuf {
    let (source, build) = (repository().join("examples"), scratch(name));
    let _ = std::fs::remove_dir_all(&build);
    let prefix = format!("-DCMAKE_PREFIX_PATH={}", PREFIX.display());
    output_of(Command::new("cmake").arg("-S").arg(source).arg("-B").arg(&build).arg(prefix).args(settings));
    let mut command = Command::new("cmake");
    command.arg("--build").arg(&build);
    if !targets.is_empty() {
        command.arg("--target").args(targets);
    }
    output_of(&mut command);
    build
}
