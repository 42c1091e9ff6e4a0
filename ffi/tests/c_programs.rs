//! The examples and the test programs in C and C++: built from an installed copy, by both compilers, through pkg-config and through
//! CMake, under sanitizers and under valgrind, and run.

mod common;

use common::{
    Language, PREFIX, SANITIZED, SANITIZERS, WARNINGS, build_by_cmake, example, output_of, pkg_config, repository,
    scratch,
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
const TESTS: [(&str, &[&str]); 3] = [
    ("misuse", &["every misuse has its code"]),
    ("attach", &["clients and workers come and go"]),
    ("host", &["the program's own line", "what a worker has not written out", "what is the program's stays so"]),
];

/// In C and in C++.
const STATE: [(Language, &str, &[&str]); 2] = [
    (Language::C, "state.c", &["whoever is killed, each result is had once"]),
    (Language::Cxx, "state.cpp", &["what could not be stored is there again"]),
];

/// What else programs are compiled with, of which the headers are a part then.
const MORE_WARNINGS: [&str; 6] =
    ["-Wshadow", "-Wconversion", "-Wsign-conversion", "-Wnull-dereference", "-Wundef", "-Wcast-qual"];

/// Builds one source file as a program, which is `kind` of what else there is of it.
fn build(source: &Path, language: Language, kind: &str, flags: &[&str], libraries: &[String]) -> PathBuf {
    let program = scratch(&format!("{kind}-{}-{}", language.compiler(), source.file_stem().unwrap().display()));
    let mut command = language.command_with(flags);
    command.args(["-g", "-pthread"]).arg(source).arg("-o").arg(&program).args(libraries);
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
    let said: Vec<_> = stderr.lines().filter(|line| !line.starts_with("seed ")).collect();
    assert_eq!(said, [""; 0], "{}", program.display());
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
fn the_wrapper_in_cxx_does_as_it_says() {
    let source = repository().join("ffi/tests/cpp/wrapper.cpp");
    for (kind, flags) in [("plain", ["-Wshadow"].as_slice()), ("sanitized", SANITIZERS.as_slice())] {
        run(&build_shared(&source, Language::Cxx, kind, flags), &["the wrapper does as it says"]);
    }
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

/// Builds and runs each with the library in it.
fn each_static_example(language: Language) {
    let mut libraries = pkg_config(&["--libs", "--static"]);
    libraries.iter_mut().filter(|library| *library == "-lshmworker").for_each(|library| {
        *library = PREFIX.join("lib/libshmworker.a").display().to_string();
    });
    for (name, expected) in EXAMPLES {
        // Without symbols, which would be many times the rest.
        let program = build(&example(language, name), language, "static", &["-s"], &libraries);
        assert!(!output_of(Command::new("readelf").arg("-d").arg(&program)).contains("shmworker"));
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
    const C: &[&str] = &["-std=c99", "-std=c11", "-std=c17", "-std=c2x"];
    const CXX: &[&str] = &["-std=c++11", "-std=c++17", "-std=c++20"];
    let strict_c = ["-Wstrict-prototypes", "-Wmissing-prototypes", "-Wold-style-definition"];
    let strict_cxx = ["-Wold-style-cast", "-Wuseless-cast", "-Woverloaded-virtual"];
    for (language, include, standards) in
        [("c", "shmworker.h", C), ("c++", "shmworker.h", CXX), ("c++", "shmworker.hpp", &CXX[1..])]
    {
        let source = scratch(&format!("alone-{include}.{language}"));
        std::fs::write(&source, format!("#include <{include}>\n")).unwrap();
        let (compiler, strict) = if language == "c" { ("gcc", strict_c) } else { ("g++", strict_cxx) };
        for standard in standards {
            let mut command = Command::new(compiler);
            command.args([standard, "-fsyntax-only", "-x", language]).args(WARNINGS).args(MORE_WARNINGS).args(strict);
            output_of(command.args(pkg_config(&["--cflags"])).arg(&source));
        }
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
fn the_wrapper_in_cxx_keeps_what_it_has() {
    let source = |name: &str| repository().join("ffi/tests/cpp").join(name);
    let too = source("wrapper_too.cpp").display().to_string();
    for (kind, more) in [("plain", &[][..]), ("sanitized", &SANITIZERS[..])] {
        let flags = [&MORE_WARNINGS, &["-Wold-style-cast", &too][..], more].concat();
        let program = build_shared(&source("wrapper_keeps.cpp"), Language::Cxx, kind, &flags);
        run(&program, &["the wrapper keeps what it has"]);
    }
}

/// This text with another in place of a part, which is there once.
fn with(text: &str, part: &str, other: &str) -> String {
    assert_eq!(text.matches(part).count(), 1, "{part}");
    text.replace(part, other)
}

/// From the line that says the first of these up to, and without, that which says the other.
fn without_lines(text: &str, first: &str, beyond: &str) -> String {
    let start = text.find(first).unwrap_or_else(|| panic!("{first}"));
    let end = start + text[start..].find(beyond).unwrap_or_else(|| panic!("{beyond}"));
    let line = |at: usize| text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    [&text[..line(start)], &text[line(end)..]].concat()
}

/// Programs that were compiled with the header as it was, or will be, and run with this library.
#[test]
fn a_program_of_an_older_header_runs_and_one_of_another_major_number_is_told() {
    let header = std::fs::read_to_string(PREFIX.join("include/shmworker.h")).unwrap();
    let number = |which: &str| {
        let define = format!("#define SHMWORKER_ABI_{which} ");
        (header.lines().find_map(|line| line.strip_prefix(&define)).unwrap().parse::<u32>().unwrap(), define)
    };
    let ((major, define_major), (minor, define_minor)) = (number("MAJOR"), number("MINOR"));
    let of_major = |n: u32| with(&header, &format!("{define_major}{major}\n"), &format!("{define_major}{n}\n"));
    let of_minor = |n: u32| with(&header, &format!("{define_minor}{minor}\n"), &format!("{define_minor}{n}\n"));
    // Its structs end where they did at first, and it lacks a call.
    let mut older = of_minor(0);
    for (first, beyond) in [
        ("  // Bytes of memory after which a worker", "} shmworker_pool_options;"),
        ("  // How many workers it may kill", "} shmworker_task_options;"),
        ("  // The process that ran it last.", "} shmworker_outcome;"),
        ("int32_t shmworker_task_finish(", "// Has its end told to the event loop"),
    ] {
        older = without_lines(&older, first, beyond);
    }
    let source = repository().join("ffi/tests/c/older.c");
    for (kind, header, expected) in [
        ("older", older, "OK: ".to_owned()),
        (
            "newer",
            of_minor(minor + 1),
            format!("UNSUPPORTED: compiled for ABI {major}.{}, loaded {major}.{minor}", minor + 1),
        ),
        (
            "other",
            of_major(major + 1),
            format!("ABI_MISMATCH: compiled for ABI {}.{minor}, loaded {major}.{minor}", major + 1),
        ),
    ] {
        let include = scratch(&format!("header-{kind}"));
        std::fs::create_dir_all(&include).unwrap();
        std::fs::write(include.join("shmworker.h"), header).unwrap();
        let include = format!("-I{}", include.display());
        let said = output_of(&mut Command::new(build_shared(&source, Language::C, kind, &[&include, SANITIZERS[0]])));
        assert!(said.starts_with(&expected), "{kind}: {said}");
    }
}

#[test]
fn codes_and_fields_are_where_they_were() {
    let mut command = Command::new("gcc");
    command.args(["-std=c11", "-fsyntax-only"]).args(WARNINGS).args(pkg_config(&["--cflags"]));
    output_of(command.arg(repository().join("ffi/tests/c/abi.c")));
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
fn the_programs_of_the_page_work() {
    let page = std::fs::read_to_string(repository().join("docs/ffi.md")).unwrap();
    let blocks = |language: &str| {
        let fence = format!("```{language}\n");
        let programs = page.split(&fence).skip(1);
        programs.map(|rest| rest.split("```").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let build_block = |text: &str, language, name: &str| {
        let source = scratch(name);
        std::fs::write(&source, text).unwrap();
        build_shared(&source, language, "plain", &[])
    };
    let (c, cxx) = (blocks("c"), blocks("cpp"));
    let [client, worker, state, plugin] = &c[..] else { panic!("what is new here has no test: {}", c.len()) };
    assert_eq!(cxx.len(), 1, "what is new here has no test");
    assert!(worker.lines().count() <= 60, "{} lines are no 60", worker.lines().count());

    let client = build_block(client, Language::C, "page_client.c");
    let worker = build_block(worker, Language::C, "page_worker.c");
    let state = build_block(state, Language::C, "page_state.c");
    let other = build_shared(&repository().join("ffi/tests/c/exec.c"), Language::C, "plain", &[]);
    assert_eq!(output_of(Command::new(other).arg(&worker)), "the program of the page works\n");
    // The client has the worker's name.
    let dir = scratch("page");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::copy(worker, dir.join("thumbs")).unwrap();
    assert_eq!(output_of(Command::new(client).current_dir(&dir)), "8388608 bytes, of which the first is 55\n");
    for file in ["thumbs.state", "thumbs.state.journal"] {
        let _ = std::fs::remove_file(dir.join(file));
    }
    for _ in 0..2 {
        let stored = "a.png: SHMWORKER_RESULT_OK, 5 bytes\nanother.png: SHMWORKER_RESULT_OK, 11 bytes\n";
        assert_eq!(output_of(Command::new(&state).current_dir(&dir)), stored);
    }

    let source = scratch("page_plugin.c");
    std::fs::write(&source, plugin).unwrap();
    let mut command = Language::C.command();
    command.args(["-shared", "-fPIC"]).arg(source);
    output_of(command.arg("-Wl,--no-undefined").arg("-o").arg(scratch("page_plugin.so")));

    run(&build_block(&cxx[0], Language::Cxx, "page.cpp"), &["HELLO", "the task failed: there is nothing to shout"]);
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
