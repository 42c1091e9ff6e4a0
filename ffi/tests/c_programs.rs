//! The examples and the test programs in C and C++: built from an installed copy, by both compilers, through pkg-config and through
//! CMake, under sanitizers and under valgrind, and run.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
};

const EXAMPLES: [(&str, &[&str]); 5] = [
    ("hello", &["Hello, World"]),
    (
        "worker_program",
        &[
            "7 words, counted by a worker",
            "SHMWORKER_RESULT_TASK_FAILED: the task failed: NoText: there is no text to count words in",
        ],
    ),
    ("image_filter", &["8294400 bytes; the point and its neighbours: 85 85 85"]),
    (
        "crash_and_retry",
        &[
            "document 13: goes on at page 7, by attempt 2",
            "document 66: SHMWORKER_RESULT_TASK_DIED, signal 11, after 2 attempts",
            "99 documents of 100 are done",
        ],
    ),
    ("event_loop", &["the sum of 200 squares is 2686700"]),
];
const TESTS: [(&str, &[&str]); 2] =
    [("misuse", &["every misuse has its code"]), ("attach", &["clients and workers come and go"])];

/// In C and in C++.
const STATE: [(Language, &str, &[&str]); 2] = [
    (Language::C, "state.c", &["whoever is killed, each result is had once"]),
    (Language::Cxx, "state.cpp", &["what could not be stored is there again"]),
];

const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];
/// The kernel's word is wanted of how a worker ended, not that of a sanitizer which catches the signal.
const SANITIZED: (&str, &str) = ("ASAN_OPTIONS", "handle_segv=0:detect_leaks=1");

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Runs a command to its end and returns what it printed.
fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    stdout
}

/// Where the library is installed: moved there as a whole, from the root that a packager has given.
static PREFIX: LazyLock<PathBuf> = LazyLock::new(|| {
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

fn pkg_config(arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new("pkg-config");
    command.args(arguments).arg("shmworker").env("PKG_CONFIG_PATH", PREFIX.join("lib/pkgconfig"));
    output_of(&mut command).split_whitespace().map(str::to_owned).collect()
}

#[derive(Clone, Copy)]
enum Language {
    C,
    Cxx,
}

/// Builds one source file as a program, which is `kind` of what else there is of it.
fn build(source: &Path, language: Language, kind: &str, flags: &[&str], libraries: &[String]) -> PathBuf {
    let (compiler, standard) = match language {
        Language::C => ("gcc", "-std=c11"),
        Language::Cxx => ("g++", "-std=c++17"),
    };
    let program = scratch(&format!("{kind}-{compiler}-{}", source.file_stem().unwrap().display()));
    let mut command = Command::new(compiler);
    command.arg(standard).args(WARNINGS).args(["-g", "-pthread"]).args(flags).args(pkg_config(&["--cflags"]));
    command.arg(source).arg("-o").arg(&program).args(libraries);
    output_of(&mut command);
    program
}

/// As [`build`], with the shared library.
fn build_shared(source: &Path, language: Language, kind: &str, flags: &[&str]) -> PathBuf {
    let mut libraries = pkg_config(&["--libs"]);
    libraries.push(format!("-Wl,-rpath,{}", PREFIX.join("lib").display()));
    build(source, language, kind, flags, &libraries)
}

fn example(language: Language, name: &str) -> PathBuf {
    let (dir, suffix) = match language {
        Language::C => ("c", "c"),
        Language::Cxx => ("cpp", "cpp"),
    };
    repository().join("examples").join(dir).join(format!("{name}.{suffix}"))
}

fn run(program: &Path, expected: &[&str]) {
    let (name, value) = SANITIZED;
    let output = output_of(Command::new(program).env(name, value));
    assert_eq!(output.lines().collect::<Vec<_>>(), expected, "{}", program.display());
}

fn each_example(language: Language, kind: &str, flags: &[&str]) {
    for (name, expected) in EXAMPLES {
        run(&build_shared(&example(language, name), language, kind, flags), expected);
    }
}

fn each_test(kind: &str, flags: &[&str]) {
    for (name, expected) in TESTS {
        let source = repository().join(format!("ffi/tests/c/{name}.c"));
        run(&build_shared(&source, Language::C, kind, flags), expected);
    }
}

fn each_of_state(kind: &str, flags: &[&str]) {
    for (language, name, expected) in STATE {
        run(&build_shared(&repository().join("ffi/tests/c").join(name), language, kind, flags), expected);
    }
}

const SANITIZERS: [&str; 2] = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];

#[test]
fn the_examples_in_c_work_through_pkg_config() {
    each_example(Language::C, "plain", &[]);
}

#[test]
fn the_examples_in_cxx_work_through_pkg_config() {
    each_example(Language::Cxx, "plain", &[]);
}

#[test]
fn the_examples_in_c_pass_the_sanitizers() {
    each_example(Language::C, "sanitized", &SANITIZERS);
}

#[test]
fn the_examples_in_cxx_pass_the_sanitizers() {
    each_example(Language::Cxx, "sanitized", &SANITIZERS);
}

#[test]
fn misuse_and_attaching_work_as_they_should() {
    each_test("plain", &[]);
}

#[test]
fn misuse_and_attaching_pass_the_sanitizers() {
    each_test("sanitized", &SANITIZERS);
}

#[test]
fn pools_that_lie_in_a_file_go_on_whoever_is_killed() {
    each_of_state("plain", &[]);
}

#[test]
fn pools_that_lie_in_a_file_pass_the_sanitizers() {
    each_of_state("sanitized", &SANITIZERS);
}

#[test]
fn a_program_can_be_linked_with_the_static_library() {
    let mut libraries = pkg_config(&["--libs", "--static"]);
    libraries.iter_mut().filter(|library| *library == "-lshmworker").for_each(|library| {
        *library = PREFIX.join("lib/libshmworker.a").display().to_string();
    });
    let program = build(&example(Language::C, "hello"), Language::C, "static", &[], &libraries);
    run(&program, &["Hello, World"]);
    assert!(!output_of(Command::new("ldd").arg(program)).contains("shmworker"));
}

#[test]
fn the_header_is_good_for_c_and_for_cxx_alone() {
    for (language, include) in [("c", "shmworker.h"), ("c++", "shmworker.h"), ("c++", "shmworker.hpp")] {
        let source = scratch(&format!("alone-{include}.{language}"));
        std::fs::write(&source, format!("#include <{include}>\n")).unwrap();
        let (compiler, standard) = if language == "c" { ("gcc", "-std=c11") } else { ("g++", "-std=c++17") };
        let mut command = Command::new(compiler);
        command.args([standard, "-fsyntax-only", "-x", language]).args(WARNINGS).args(pkg_config(&["--cflags"]));
        output_of(command.arg(source));
    }
}

#[test]
fn the_examples_work_through_cmake() {
    let (source, build) = (repository().join("examples"), scratch("cmake"));
    let _ = std::fs::remove_dir_all(&build);
    let prefix = format!("-DCMAKE_PREFIX_PATH={}", PREFIX.display());
    output_of(Command::new("cmake").arg("-S").arg(source).arg("-B").arg(&build).arg(prefix));
    output_of(Command::new("cmake").arg("--build").arg(&build));
    for (name, expected) in EXAMPLES {
        run(&build.join(format!("c_{name}")), expected);
        run(&build.join(format!("cpp_{name}")), expected);
    }
}

#[test]
fn the_worker_of_the_page_works() {
    let page = std::fs::read_to_string(repository().join("docs/ffi.md")).unwrap();
    let program = page.split("```c\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert!(program.lines().count() <= 60, "{} lines are no 60", program.lines().count());
    let source = scratch("page.c");
    std::fs::write(&source, program).unwrap();
    let worker = build_shared(&source, Language::C, "plain", &[]);
    let client = build_shared(&repository().join("ffi/tests/c/exec.c"), Language::C, "plain", &[]);
    assert_eq!(output_of(Command::new(client).arg(worker)), "the program of the page works\n");
}

#[test]
fn the_library_is_found_by_a_name_with_its_major_number() {
    let header = std::fs::read_to_string(PREFIX.join("include/shmworker.h")).unwrap();
    let define = header.lines().find_map(|line| line.strip_prefix("#define SHMWORKER_ABI_MAJOR ")).unwrap();
    let said = output_of(Command::new("readelf").arg("-d").arg(PREFIX.join("lib/libshmworker.so")));
    assert!(said.contains(&format!("Library soname: [libshmworker.so.{define}]")), "{said}");
}

/// Its pool runs outside: valgrind knows no pidfds yet, which who makes one needs.
#[test]
fn a_client_has_no_error_and_no_leak_for_valgrind() {
    let program = build_shared(&repository().join("ffi/tests/c/attach.c"), Language::C, "valgrind", &[]);
    let pool = format!("ffi-valgrind-{}", std::process::id());
    let mut owner = Command::new(&program);
    owner.args(["owner", &pool]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut owner = owner.spawn().unwrap();
    let mut ready = String::new();
    BufReader::new(owner.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    assert_eq!(ready, "ready\n");
    let kinds = "definite,indirect,possible";
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--quiet", "--error-exitcode=9", "--leak-check=full"]);
    valgrind.args([format!("--show-leak-kinds={kinds}"), format!("--errors-for-leak-kinds={kinds}")]);
    output_of(valgrind.arg(&program).args([OsStr::new("client"), OsStr::new(&pool)]));
    drop(owner.stdin.take());
    assert!(owner.wait().unwrap().success());
}
