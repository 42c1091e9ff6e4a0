//! The examples and the test programs in C and C++: built from an installed copy, by both compilers, through pkg-config and through
//! CMake, under sanitizers and under valgrind, and run.

mod common;

use common::{
    Language, PREFIX, SANITIZED, SANITIZERS, build_by_cmake, example, output_of, pkg_config, repository, scratch,
};
use std::{
    ffi::OsStr,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
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

/// Builds one source file as a program, which is `kind` of what else there is of it.
fn build(source: &Path, language: Language, kind: &str, flags: &[&str], libraries: &[String]) -> PathBuf {
    let program = scratch(&format!("{kind}-{}-{}", language.compiler(), source.file_stem().unwrap().display()));
    let mut command = language.command();
    command.args(["-g", "-pthread"]).args(flags).arg(source).arg("-o").arg(&program).args(libraries);
    output_of(&mut command);
    program
}

/// As [`build`], with the shared library.
fn build_shared(source: &Path, language: Language, kind: &str, flags: &[&str]) -> PathBuf {
    let mut libraries = pkg_config(&["--libs"]);
    libraries.push(format!("-Wl,-rpath,{}", PREFIX.join("lib").display()));
    build(source, language, kind, flags, &libraries)
}

fn run(program: &Path, expected: &[&str]) {
    let (name, value) = SANITIZED;
    let Output { status, stdout, stderr } = Command::new(program).env(name, value).output().unwrap();
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{}: {status}\n{stdout}{stderr}", program.display());
    assert_eq!(stdout.lines().collect::<Vec<_>>(), expected, "{}", program.display());
    // There a sanitizer tells what it finds in a worker, which has nothing to do with the exit code.
    assert_eq!(stderr, "", "{}", program.display());
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

/// Builds and runs each with the library in it.
fn each_static_example(language: Language) {
    let mut libraries = pkg_config(&["--libs", "--static"]);
    libraries.iter_mut().filter(|library| *library == "-lshmworker").for_each(|library| {
        *library = PREFIX.join("lib/libshmworker.a").display().to_string();
    });
    for (name, expected) in EXAMPLES {
        // Without symbols, which would be many times the rest.
        let program = build(&example(language, name), language, "static", &["-s"], &libraries);
        assert!(!output_of(Command::new("ldd").arg(&program)).contains("shmworker"));
        run(&program, expected);
    }
}

#[test]
fn the_examples_in_c_can_be_linked_with_the_static_library() {
    each_static_example(Language::C);
}

#[test]
fn the_examples_in_cxx_can_be_linked_with_the_static_library() {
    each_static_example(Language::Cxx);
}

#[test]
fn the_header_is_good_for_c_and_for_cxx_alone() {
    for (language, include) in
        [(Language::C, "shmworker.h"), (Language::Cxx, "shmworker.h"), (Language::Cxx, "shmworker.hpp")]
    {
        let source = scratch(&format!("alone-{include}-{}", language.compiler()));
        std::fs::write(&source, format!("#include <{include}>\n")).unwrap();
        let kind = match language {
            Language::C => "c",
            Language::Cxx => "c++",
        };
        output_of(language.command().args(["-fsyntax-only", "-x", kind]).arg(source));
    }
}

fn each_example_through_cmake(kind: &str, settings: &[&str], is_static: bool) {
    let build = build_by_cmake(kind, settings, &[]);
    for (name, expected) in EXAMPLES {
        for language in ["c", "cpp"] {
            let program = build.join(format!("{language}_{name}"));
            assert_eq!(output_of(Command::new("ldd").arg(&program)).contains("shmworker"), !is_static);
            run(&program, expected);
        }
    }
}

#[test]
fn the_examples_work_through_cmake() {
    each_example_through_cmake("cmake", &[], false);
}

#[test]
fn the_examples_pass_the_sanitizers_through_cmake() {
    let flags = SANITIZERS.join(" ");
    let (c, cxx) = (format!("-DCMAKE_C_FLAGS={flags}"), format!("-DCMAKE_CXX_FLAGS={flags}"));
    each_example_through_cmake("cmake-sanitized", &[&c, &cxx], false);
}

#[test]
fn the_examples_can_be_linked_with_the_static_library_through_cmake() {
    each_example_through_cmake("cmake-static", &["-DLINK_STATIC=ON", "-DCMAKE_EXE_LINKER_FLAGS=-s"], true);
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

/// One that knows pidfds, without which no pool can be made.
static VALGRIND: LazyLock<PathBuf> =
    LazyLock::new(|| output_of(&mut Command::new(repository().join(".ci/valgrind"))).trim().into());

/// Runs a program, and all processes that come of it, without an error or a leak.
fn run_under_valgrind<A: AsRef<OsStr>>(program: &Path, arguments: &[A]) -> String {
    let kinds = "definite,indirect,possible";
    let mut command = Command::new(&*VALGRIND);
    command.args(["--quiet", "--trace-children=yes", "--error-exitcode=9", "--leak-check=full"]);
    command.args([format!("--show-leak-kinds={kinds}"), format!("--errors-for-leak-kinds={kinds}")]);
    // It leaves a core file of each process that crashes.
    command.arg(program).args(arguments).current_dir(scratch(""));
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8_lossy(&stderr));
    // The exit code is that of the first process; what is found in others is only said.
    let is_clean = status.success() && !stderr.lines().any(|line| line.starts_with("=="));
    assert!(is_clean, "{}: {status}\n{stdout}{stderr}", program.display());
    stdout
}

fn each_example_under_valgrind(language: Language) {
    for (name, expected) in EXAMPLES {
        let program = build_shared(&example(language, name), language, "valgrind", &[]);
        let output = run_under_valgrind::<&str>(&program, &[]);
        assert_eq!(output.lines().collect::<Vec<_>>(), expected, "{}", program.display());
    }
}

#[test]
fn the_examples_in_c_have_no_error_and_no_leak_for_valgrind() {
    each_example_under_valgrind(Language::C);
}

#[test]
fn the_examples_in_cxx_have_no_error_and_no_leak_for_valgrind() {
    each_example_under_valgrind(Language::Cxx);
}

#[test]
fn a_client_that_attaches_has_no_error_and_no_leak_for_valgrind() {
    let program = build_shared(&repository().join("ffi/tests/c/attach.c"), Language::C, "valgrind", &[]);
    let pool = format!("ffi-valgrind-{}", std::process::id());
    let mut owner = Command::new(&program);
    owner.args(["owner", &pool]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut owner = owner.spawn().unwrap();
    let mut ready = String::new();
    BufReader::new(owner.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    assert_eq!(ready, "ready\n");
    run_under_valgrind(&program, &["client", &pool]);
    drop(owner.stdin.take());
    assert!(owner.wait().unwrap().success());
}
