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
const TESTS: [(&str, &[&str]); 3] = [
    ("misuse", &["every misuse has its code"]),
    ("attach", &["clients and workers come and go"]),
    ("host", &["the program's own line", "what a worker has not written out", "what is the program's stays so"]),
];

const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];
/// What else programs are compiled with, of which the headers are a part then.
const MORE_WARNINGS: [&str; 6] =
    ["-Wshadow", "-Wconversion", "-Wsign-conversion", "-Wnull-dereference", "-Wundef", "-Wcast-qual"];
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
fn a_program_can_be_linked_with_the_static_library() {
    let mut libraries = pkg_config(&["--libs", "--static"]);
    libraries.iter_mut().filter(|library| *library == "-lshmworker").for_each(|library| {
        *library = PREFIX.join("lib/libshmworker.a").display().to_string();
    });
    for language in [Language::C, Language::Cxx] {
        let program = build(&example(language, "hello"), language, "static", &[], &libraries);
        run(&program, &["Hello, World"]);
        assert!(!output_of(Command::new("readelf").arg("-d").arg(program)).contains("shmworker"));
    }
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
    assert_eq!((c.len(), cxx.len()), (3, 1), "what is new here has no test");
    assert!(c[1].lines().count() <= 60, "{} lines are no 60", c[1].lines().count());

    let client = build_block(&c[0], Language::C, "page_client.c");
    let worker = build_block(&c[1], Language::C, "page_worker.c");
    let other = build_shared(&repository().join("ffi/tests/c/exec.c"), Language::C, "plain", &[]);
    assert_eq!(output_of(Command::new(other).arg(&worker)), "the program of the page works\n");
    // The client has the worker's name.
    let dir = scratch("page");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::copy(worker, dir.join("thumbs")).unwrap();
    assert_eq!(output_of(Command::new(client).current_dir(dir)), "8388608 bytes, of which the first is 55\n");

    let plugin = scratch("page_plugin.c");
    std::fs::write(&plugin, &c[2]).unwrap();
    let mut command = Command::new("gcc");
    command.args(["-std=c11", "-shared", "-fPIC"]).args(WARNINGS).args(pkg_config(&["--cflags"])).arg(plugin);
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
