//! The plug-ins of `examples`, in C and C++: built from an installed copy, through pkg-config and through CMake, as they are and
//! under sanitizers, and loaded into the workers of a pool.
//!
//! With `host` and paths this program is the one that loads them. A sanitizer's own code has to be in a process from its start, so
//! it comes into that by LD_PRELOAD, as it would into `shmworker run`.

mod common;

use common::{Language, SANITIZED, SANITIZERS, build_by_cmake, example, output_of, scratch};
use libtest_mimic::{Arguments, Trial};
use shmworker::{
    Pool, Tasks,
    pool::{Bytes, Task, TaskOptions},
};
use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output},
};

/// Other words than these two are counted.
const STOPWORDS: &str = "the a\n";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, plugins @ ..] = &arguments[..]
        && role == "host"
    {
        host(plugins);
        return ExitCode::SUCCESS;
    }
    let test = |name: &str, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    let tests = vec![
        test("plugins_work_through_pkg_config", || work_together(&by_pkg_config("plain", &[]), false)),
        test("plugins_pass_the_sanitizers_through_pkg_config", || {
            work_together(&by_pkg_config("sanitized", &SANITIZERS), true);
        }),
        test("plugins_work_through_cmake", || work_together(&by_cmake("cmake", &[]), false)),
        test("plugins_pass_the_sanitizers_through_cmake", || {
            let flags = SANITIZERS.join(" ");
            let settings = [format!("-DCMAKE_C_FLAGS={flags}"), format!("-DCMAKE_CXX_FLAGS={flags}")];
            work_together(&by_cmake("cmake-sanitized", &settings.each_ref().map(|setting| &**setting)), true);
        }),
        test("the_sanitizers_see_what_a_plugin_does_wrong", the_sanitizers_see_what_a_plugin_does_wrong),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

// ---- who loads them -----------------------------------------------------------------------------------------------------

/// Says what comes of each task that the plug-ins have a handler for.
fn host(plugins: &[String]) {
    let mut tasks = Tasks::new();
    for plugin in plugins {
        tasks.load(plugin).unwrap();
    }
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    let say = |what: &str, result: Result<Vec<u8>, shmworker::pool::TaskError>| match result {
        Ok(bytes) => println!("{what}: {}", bytes.escape_ascii()),
        Err(e) => println!("{what}: {e}"),
    };
    for (name, input) in [
        // Squares of 2 by 2 pixels, each of which becomes one; a part of one; nothing.
        ("thumbnail", &image(256, 2)[..]),
        ("thumbnail", &image(256, 2)[..100]),
        ("thumbnail", b""),
        ("overflow", b"9"),
        ("overrun", b"9"),
    ] {
        if let Ok(submitted) = pool.submit(Task::<Bytes, Bytes>::named(name), input) {
            say(name, submitted.wait());
        }
    }
    for text in [r#""The cat and a dog, and the cat""#, r#""""#, "12"] {
        if let Ok(submitted) = pool.submit_json("count words", text, &TaskOptions::new()) {
            say("count words", submitted.wait());
        }
    }
}

/// A binary PPM: a row of red that grows, one of black, and so on.
fn image(width: usize, height: usize) -> Vec<u8> {
    let mut file = format!("P6\n{width} {height}\n255\n").into_bytes();
    file.extend((0..height).flat_map(|y| (0..width).flat_map(move |x| [if y % 2 == 0 { x as u8 } else { 0 }, 0, 0])));
    file
}

/// Has a host run, in which the sanitizers are if these plug-ins need them. What handlers throw is caught by the sanitizer too, so
/// C++'s own library has to be there when that looks for it.
fn run(plugins: &[PathBuf], is_sanitized: bool) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let stopwords = scratch("stopwords.txt");
    std::fs::write(&stopwords, STOPWORDS).unwrap();
    command.arg("host").args(plugins).env("STOPWORDS", stopwords);
    if is_sanitized {
        let library = |name| output_of(Command::new("gcc").arg(format!("-print-file-name={name}"))).trim().to_owned();
        let preload = format!("{} {}", library("libasan.so"), library("libstdc++.so"));
        command.env("LD_PRELOAD", preload).env(SANITIZED.0, SANITIZED.1);
    }
    command.output().unwrap()
}

#[track_caller]
fn work_together(plugins: &[PathBuf], is_sanitized: bool) {
    let Output { status, stdout, stderr } = run(plugins, is_sanitized);
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{status}\n{stdout}{stderr}");
    // Each mean is of two pixels of red, (2x) and (2x + 1), and of two of black.
    let pixels: Vec<u8> = (0..128u8).flat_map(|x| [x, 0, 0]).collect();
    let thumbnail = [b"P6\n128 1\n255\n", &pixels[..]].concat();
    let bad_image = "thumbnail: the task failed: BadImage: the first argument is no binary PPM, 8 bits a channel";
    let expected = [
        &format!("thumbnail: {}", thumbnail.escape_ascii()),
        bad_image,
        bad_image,
        r#"count words: {\"and\":2,\"cat\":2,\"dog\":1}"#,
        "count words: {}",
        "count words: the task failed: BadInput: the argument is no text in JSON",
    ];
    assert_eq!(stdout.lines().collect::<Vec<_>>(), expected, "{stderr}");
}

// ---- what they are built with -------------------------------------------------------------------------------------------

fn by_pkg_config(kind: &str, flags: &[&str]) -> Vec<PathBuf> {
    let plugins = [(Language::C, "plugin_thumbs"), (Language::Cxx, "plugin_words")];
    plugins
        .map(|(language, name)| build(language, &example(language, name), &format!("{kind}-{name}.so"), flags))
        .into()
}

fn build(language: Language, source: &Path, name: &str, flags: &[&str]) -> PathBuf {
    let library = scratch(name);
    let mut command = language.command();
    output_of(command.args(["-g", "-shared", "-fPIC"]).args(flags).arg(source).arg("-o").arg(&library));
    library
}

fn by_cmake(name: &str, settings: &[&str]) -> Vec<PathBuf> {
    let names = ["plugin_thumbs", "plugin_words"];
    let built = build_by_cmake(name, settings, &names);
    names.map(|name| built.join(format!("lib{name}.so"))).into()
}

/// If they didn't, the tests above would show nothing.
fn the_sanitizers_see_what_a_plugin_does_wrong() {
    let source = scratch("wrong.c");
    let text = r#"#include <shmworker.h>

        #include <limits.h>
        #include <stdlib.h>

        static int32_t overflow(struct shmworker_context *context, void *user_data) {
            struct shmworker_payload digit;
            int32_t code = shmworker_context_argument(context, 0, &digit);
            (void)user_data;
            return code == SHMWORKER_RESULT_OK ? INT_MAX - 1 + (digit.data[0] - '0') : code;
        }

        static int32_t overrun(struct shmworker_context *context, void *user_data) {
            struct shmworker_payload digit;
            int32_t code = shmworker_context_argument(context, 0, &digit);
            volatile char *room = malloc(9);
            (void)user_data;
            if (code == SHMWORKER_RESULT_OK && room) room[digit.data[0] - '0'] = 1;
            free((void *)room);
            return code;
        }

        SHMWORKER_PLUGIN(host) {
            int32_t code = shmworker_host_handler(host, "overflow", overflow, NULL);
            return code ? code : shmworker_host_handler(host, "overrun", overrun, NULL);
        }
    "#;
    std::fs::write(&source, text).unwrap();
    let plugin = build(Language::C, &source, "wrong.so", &SANITIZERS);
    let Output { stdout, stderr, .. } = run(&[plugin], true);
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8_lossy(&stderr));
    let told: Vec<_> = stdout.lines().collect();
    assert!(
        matches!(&told[..], [overflow, overrun]
        if overflow.starts_with("overflow: the task's worker died") && overrun.starts_with("overrun: the task's worker died")),
        "{stdout}{stderr}"
    );
    for found in ["runtime error: signed integer overflow", "AddressSanitizer: heap-buffer-overflow"] {
        assert!(stderr.contains(found), "{stderr}");
    }
}
