//! Plug-ins for pools: what handlers in C are promised, and what becomes of plug-ins that are no good.

#[path = "../common/compiler.rs"]
mod compiler;
#[path = "../common/scene.rs"]
#[allow(dead_code, reason = "other tests use what is left over")]
mod scene;

use compiler::{compile, compile_text, headers};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use scene::until;
use shmworker::{
    Pool, Tasks,
    pool::{Bytes, Retry, Task, TaskError, TaskOptions},
};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};
use tempfile::TempDir;

type Bytewise = Task<Bytes, Bytes>;

const ECHO: Bytewise = Task::named("echo");
const REVERSE: Bytewise = Task::named("reverse");
const STATE: Bytewise = Task::named("state");

fn main() -> ExitCode {
    scene::run(scenes![
        bytes_go_in_and_come_out_in_place,
        what_is_submitted_as_json_is_said_to_be_json,
        a_failure_says_what_the_handler_said,
        a_checkpoint_outlives_the_process,
        a_cancelled_task_ends_as_cancelled,
        a_crash_is_the_failure_of_one_task,
        every_misuse_is_a_code,
        a_state_is_made_and_undone_once_in_each_process,
        a_state_that_cannot_be_made_ends_the_pool,
        plugins_that_are_no_good_are_refused_in_one_line,
        a_replaced_file_is_loaded_by_fresh_workers,
        a_replacement_that_is_no_good_changes_nothing,
        deaths_are_seen_while_a_replacement_is_looked_at,
        a_replacement_whose_state_cannot_be_made_ends_the_pool,
        the_library_is_loaded_in_workers_alone,
        a_plugin_links_with_nothing_of_ours,
        the_thumbnail_of_an_image,
        what_a_handler_in_cpp_throws_is_its_failure,
    ])
}

/// A directory of this scene's own.
fn home() -> TempDir {
    TempDir::new().unwrap()
}

fn compiled(home: &TempDir, source: &str) -> PathBuf {
    let library = home.path().join("libplugin.so");
    compile(source, &library);
    library
}

/// A pool with the handlers of `handlers.c`, of so many workers.
fn pool(home: &TempDir, workers: usize) -> Pool {
    let mut tasks = Tasks::new();
    tasks.load(compiled(home, "tests/plugins/handlers.c")).unwrap();
    Pool::builder().workers(workers).fork(tasks).unwrap()
}

fn dir(home: &TempDir) -> &[u8] {
    home.path().to_str().unwrap().as_bytes()
}

fn gives(pool: &Pool, task: Bytewise, input: &[u8]) -> Vec<u8> {
    pool.submit(task, input).unwrap().wait().unwrap()
}

/// The files whose name begins so.
fn notes(home: &TempDir, name: &str) -> BTreeSet<String> {
    let names = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|other| other.starts_with(name) && !other.ends_with(".draft")).collect()
}

fn bytes_go_in_and_come_out_in_place() {
    let home = home();
    let pool = pool(&home, 1);
    for len in [0, 1, 255, 256, 257, 1 << 20] {
        let input: Vec<u8> = (0..len).map(|i: u32| i as u8).collect();
        assert_eq!(gives(&pool, ECHO, &input), input);
        assert_eq!(gives(&pool, REVERSE, &input), input.into_iter().rev().collect::<Vec<_>>());
    }
    assert_eq!(gives(&pool, Task::named("nothing"), b"input"), b"");
}

fn what_is_submitted_as_json_is_said_to_be_json() {
    let home = home();
    let pool = pool(&home, 1);
    let as_json = |task, input| pool.submit_json(task, input, &TaskOptions::new()).unwrap().wait();
    assert_eq!(as_json("describe", "[1, 2]").unwrap(), br#""json/plain 6, describe of nobody""#);
    let refused = as_json("reverse", "[1, 2]").unwrap_err().to_string();
    assert!(refused.contains(r#""reverse" gives its result as binary/plain"#), "{refused}");
    assert_eq!(as_json("nothing", "1").unwrap(), b"null", "nothing, as JSON has it");
    assert_eq!(gives(&pool, Task::named("describe"), b"12"), br#""binary/plain 2, describe of nobody""#);
}

fn a_failure_says_what_the_handler_said() {
    let home = home();
    let pool = pool(&home, 1);
    let fail = |how: &[u8]| {
        let options = TaskOptions::new().attempts(3).retry_on([Retry::Failed]);
        pool.submit_with(Task::<Bytes, Bytes>::named("fail"), how, &options).unwrap().wait()
    };
    assert_eq!(fail(b"once").unwrap(), b"\"at last\"");
    for (how, why) in [
        (&b"for good"[..], "CardExpired: the card has expired"),
        (b"with details", "VaultFull: no room in the vault"),
        (b"by a number", "the handler \"fail\" returned 42"),
    ] {
        let failure = fail(how).unwrap_err();
        let TaskError::Failed(said) = &failure else { panic!("{failure:?}") };
        assert_eq!(said, why);
    }
}

fn a_checkpoint_outlives_the_process() {
    let home = home();
    let pool = pool(&home, 1);
    let options = TaskOptions::new().attempts(2);
    let counted = pool.submit_with(Task::<Bytes, Bytes>::named("count"), dir(&home), &options).unwrap();
    let note = home.path().join("counted");
    until(|| note.exists());
    let pid: i32 = fs::read_to_string(note).unwrap().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    assert_eq!(counted.wait().unwrap(), b"1000");
}

fn a_cancelled_task_ends_as_cancelled() {
    let home = home();
    let pool = pool(&home, 1);
    let waits = pool.submit(Task::<Bytes, Bytes>::named("wait"), dir(&home)).unwrap();
    until(|| home.path().join("waits").exists());
    waits.cancel().unwrap();
    assert!(matches!(waits.wait(), Err(TaskError::Cancelled)));
}

fn a_crash_is_the_failure_of_one_task() {
    let home = home();
    let pool = pool(&home, 2);
    let held = pool.submit(Task::<Bytes, Bytes>::named("hold"), dir(&home)).unwrap();
    until(|| home.path().join("holds").exists());
    let crash: Bytewise = Task::named("crash");
    let why = pool.submit(crash, b"").unwrap().wait().unwrap_err();
    assert!(why.to_string().contains("signal 11 (SIGSEGV)"), "{why}");
    let options = TaskOptions::new().attempts(2);
    assert_eq!(pool.submit_with(crash, b"", &options).unwrap().wait().unwrap(), b"\"recovered\"");
    fs::write(home.path().join("go on"), "").unwrap();
    assert_eq!(held.wait().unwrap(), b"\"held\"", "the other worker has not stopped");
}

fn every_misuse_is_a_code() {
    let home = home();
    assert_eq!(gives(&pool(&home, 1), Task::named("misuse"), b""), b"\"all refused\"");
}

fn a_state_is_made_and_undone_once_in_each_process() {
    let home = home();
    // SAFETY: a scene has one thread here.
    unsafe { std::env::set_var("PLUGIN_DIR", home.path()) };
    let pool = pool(&home, 2);
    for _ in 0..20 {
        assert_eq!(gives(&pool, STATE, b""), b"1", "it is that of the process in which the handler runs");
    }
    assert!(notes(&home, "ended").is_empty());
    drop(pool);
    until(|| notes(&home, "ended").len() == 2);
}

fn a_state_that_cannot_be_made_ends_the_pool() {
    let home = home();
    // SAFETY: a scene has one thread here.
    unsafe { std::env::set_var("PLUGIN_WITHOUT_STATE", "") };
    let mut tasks = Tasks::new();
    let library = compiled(&home, "tests/plugins/handlers.c");
    tasks.load(&library).unwrap();
    let why = Pool::builder().workers(1).fork(tasks).unwrap_err().to_string();
    let expected = format!("the init function of the plug-in {} returned 7", library.display());
    assert!(why.contains(&expected), "{why}");
}

/// The message with which a plug-in of this text is refused, behind the words that all of them begin with.
#[track_caller]
fn refusal(home: &Path, text: &str, headers: &Path) -> String {
    let library = home.join("libbad.so");
    compile_text(&format!("#include \"shmworker.h\"\n{text}"), &library, headers);
    why_not(&library)
}

#[track_caller]
fn why_not(library: &Path) -> String {
    let message = Tasks::new().load(library).unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message:?}");
    let begin = format!("cannot load the plug-in {}: ", library.display());
    message.strip_prefix(&begin).unwrap_or_else(|| panic!("{message}")).to_owned()
}

fn plugins_that_are_no_good_are_refused_in_one_line() {
    let home = home();
    let home = home.path();
    let other = home.join("other");
    fs::create_dir(&other).unwrap();
    let header = fs::read_to_string(headers().join("shmworker.h")).unwrap();
    let another_major = header.replacen("#define SHMWORKER_ABI_MAJOR 1\n", "#define SHMWORKER_ABI_MAJOR 7\n", 1);
    assert_ne!(header, another_major);
    fs::write(other.join("shmworker.h"), another_major).unwrap();

    const HANDLER: &str = "#include <string.h>\nstatic int32_t run(struct shmworker_context *c, void *u) { (void)c; (void)u; return 0; }\n";
    let ours = headers();
    let plugin = |body: &str| refusal(home, &format!("{HANDLER}SHMWORKER_PLUGIN(host) {{ {body} }}"), &ours);
    assert_eq!(why_not(&home.join("libnone.so")), "cannot open shared object file: No such file or directory");
    fs::write(home.join("libtext.so"), "no library").unwrap();
    assert_eq!(why_not(&home.join("libtext.so")), "file too short");
    assert_eq!(
        refusal(home, "int unused;", &ours),
        "it has no function shmworker_register: define it by SHMWORKER_PLUGIN(host) of shmworker.h"
    );
    assert_eq!(
        refusal(
            home,
            &format!("{HANDLER}SHMWORKER_PLUGIN(host) {{ return shmworker_host_handler(host, \"a\", run, 0); }}"),
            &other
        ),
        "it is compiled for version 7 of the interface, and this program has version 1: compile it with the shmworker.h that \
         came with this program"
    );
    // Whatever it answers itself.
    assert_eq!(
        plugin("shmworker_host_handler(host, \"a\", run, 0); shmworker_host_handler(host, \"a\", run, 0); return 0;"),
        "it registers \"a\" twice: give one another name"
    );
    assert_eq!(plugin("(void)host; (void)run; return 0;"), "it registers no handler");
    assert_eq!(plugin("(void)run; (void)host; return 5;"), "its shmworker_register returned 5");
    assert_eq!(plugin("return shmworker_host_handler(host, \"\", run, 0);"), "it registers a handler without a name");
    assert_eq!(plugin("return shmworker_host_handler(host, 0, run, 0);"), "it registers a handler without a name");
    assert_eq!(
        plugin("(void)run; return shmworker_host_handler(host, \"a\", 0, 0);"),
        "it registers \"a\" with NULL in place of a function"
    );
    let sized = |size: &str| {
        plugin(&format!(
            "struct {{ struct shmworker_handler handler; char more[64]; }} newer; memset(&newer, 0, sizeof newer); newer.handler.size = {size}; \
             newer.handler.abi_major = SHMWORKER_ABI_MAJOR; newer.handler.abi_minor = 99; newer.handler.name = \"a\"; \
             newer.handler.run = run; int32_t code = host->register_handler(host, &newer.handler); \
             if (code) return code; return 5;"
        ))
    };
    assert_eq!(sized("sizeof newer"), "its shmworker_register returned 5", "one of a newer header is registered");
    assert_eq!(sized("16"), "it registers a handler of a wrong size: set it to sizeof(struct shmworker_handler)");
    assert_eq!(
        plugin("return shmworker_host_handler(host, \"\\xe9\", run, 0);"),
        "it registers a handler whose name is not UTF-8"
    );
    assert_eq!(plugin("(void)run; return host->register_handler(host, 0);"), "it registers NULL in place of a handler");
    assert_eq!(
        plugin("volatile int *nowhere = 0; (void)run; (void)host; *nowhere = 1; return 0;"),
        "a process that loaded it, to see what it brings, ended with signal 11 (SIGSEGV)"
    );
    assert_eq!(
        plugin("void exit(int); shmworker_host_handler(host, \"a\", run, 0); exit(0); return 0;"),
        "a process that loaded it, to see what it brings, ended with exit code 0 before it had said that"
    );
    let undefined =
        refusal(home, "int32_t missing(void);\nSHMWORKER_PLUGIN(host) { (void)host; return missing(); }", &ours);
    assert_eq!(undefined, "undefined symbol: missing");
    // A name that the program has.
    let library = home.join("libgood.so");
    compile_text(
        &format!(
            "#include \"shmworker.h\"\n{HANDLER}SHMWORKER_PLUGIN(host) {{ return shmworker_host_handler(host, \"square\", run, 0); }}"
        ),
        &library,
        &ours,
    );
    let mut tasks = Tasks::new();
    tasks.function("square", |x: u64| x * x);
    let refused = tasks.load(&library).unwrap_err().to_string();
    assert!(
        refused.ends_with("it registers \"square\", which is registered already: give one another name"),
        "{refused}"
    );
}

/// A plug-in whose handler "which" answers so.
fn answering(library: &Path, answer: &str) {
    let text = format!(
        "#include \"shmworker.h\"\nstatic int32_t which(struct shmworker_context *context, void *u) {{ (void)u; \
         return shmworker_context_set_result(context, \"{answer}\", {}, 0); }}\n\
         SHMWORKER_PLUGIN(host) {{ return shmworker_host_handler(host, \"which\", which, 0); }}",
        answer.len()
    );
    compile_text(&text, library, &headers());
}

const WHICH: Bytewise = Task::named("which");

fn hang_up(pool: &Pool) {
    kill(Pid::from_raw(pool.coordinator_pid() as i32), Signal::SIGHUP).unwrap();
}

fn a_replaced_file_is_loaded_by_fresh_workers() {
    let home = home();
    let library = home.path().join("libwhich.so");
    answering(&library, "the first");
    let mut tasks = Tasks::new();
    tasks.load(&library).unwrap();
    let pool = Pool::builder().workers(2).fork(tasks).unwrap();
    assert_eq!(gives(&pool, WHICH, b""), b"the first");
    answering(&library, "the second");
    assert_eq!(gives(&pool, WHICH, b""), b"the first", "a worker keeps what it has loaded");
    hang_up(&pool);
    until(|| gives(&pool, WHICH, b"") == b"the second");
    answering(&library, "the third");
    pool.restart_workers().unwrap();
    assert_eq!(gives(&pool, WHICH, b""), b"the third");
}

fn a_replacement_that_is_no_good_changes_nothing() {
    let home = home();
    let library = home.path().join("libwhich.so");
    answering(&library, "the first");
    let mut tasks = Tasks::new();
    tasks.load(&library).unwrap();
    let pool = Pool::builder().workers(2).fork(tasks).unwrap();
    let draft = home.path().join("draft");
    fs::write(&draft, "no library at all").unwrap();
    fs::rename(draft, &library).unwrap();
    let refused = pool.restart_workers().unwrap_err().to_string();
    assert!(refused.contains(&format!("cannot load the plug-in {}: file too short", library.display())), "{refused}");
    hang_up(&pool);
    for _ in 0..100 {
        assert_eq!(gives(&pool, WHICH, b""), b"the first");
    }
}

fn deaths_are_seen_while_a_replacement_is_looked_at() {
    const KILLED: Bytewise = Task::named("killed");
    let home = home();
    let (library, note) = (home.path().join("libkilled.so"), home.path().join("looks"));
    let compiled = |first: &str| {
        let text = format!(
            "#define _GNU_SOURCE\n#include \"shmworker.h\"\n#include <fcntl.h>\n#include <signal.h>\n#include <stdio.h>\n\
             #include <unistd.h>\n\
             static int32_t killed(struct shmworker_context *c, void *u) {{ (void)c; (void)u; return raise(SIGKILL); }}\n\
             SHMWORKER_PLUGIN(host) {{ {first} return shmworker_host_handler(host, \"killed\", killed, 0); }}"
        );
        compile_text(&text, &library, &headers());
    };
    compiled("");
    let mut tasks = Tasks::new();
    tasks.load(&library).unwrap();
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    // Whoever loads it first says who that is, and does not come back.
    let hangs = "if (fd >= 0) { dprintf(fd, \"%ld\\n\", (long)getpid()); for (;;) pause(); }";
    compiled(&format!("int fd = open(\"{}\", O_CREAT | O_EXCL | O_WRONLY, 0600); {hangs}", note.display()));
    hang_up(&pool);
    until(|| fs::read_to_string(&note).is_ok_and(|pid| pid.ends_with('\n')));
    let looks = Pid::from_raw(fs::read_to_string(&note).unwrap().trim().parse().unwrap());
    for _ in 0..2 {
        assert!(matches!(pool.submit(KILLED, b"").unwrap().wait(), Err(TaskError::Died(_))));
        assert_eq!(kill(looks, None), Ok(()), "it was waited for");
    }
    // What is not over ends with the pool.
    drop(pool);
    until(|| kill(looks, None).is_err());
}

fn a_replacement_whose_state_cannot_be_made_ends_the_pool() {
    let home = home();
    let library = home.path().join("libwhich.so");
    answering(&library, "the first");
    let mut tasks = Tasks::new();
    tasks.load(&library).unwrap();
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    // The child that has a look does not make the state.
    let text = "#include \"shmworker.h\"\nstatic int32_t which(struct shmworker_context *c, void *u) { (void)c; (void)u; return 0; }\n\
                static int32_t make(void *u, void **state) { (void)u; (void)state; return 9; }\n\
                SHMWORKER_PLUGIN(host) { shmworker_host_handler(host, \"which\", which, 0); \
                return shmworker_host_state(host, make, 0, 0); }";
    compile_text(text, &library, &headers());
    hang_up(&pool);
    let why = pool.restart_workers().unwrap_err().to_string();
    let expected = format!("the init function of the plug-in {} returned 9", library.display());
    assert!(why.contains(&expected), "{why}");
}

/// Is the library mapped by this process?
fn has_loaded(pid: u32, library: &Path) -> bool {
    fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().contains(library.to_str().unwrap())
}

fn the_library_is_loaded_in_workers_alone() {
    let home = home();
    let library = home.path().join("libplugin.so").canonicalize().unwrap_or(home.path().join("libplugin.so"));
    let pool = pool(&home, 1);
    let hold = pool.submit(Task::<Bytes, Bytes>::named("hold"), dir(&home)).unwrap();
    until(|| home.path().join("holds").exists());
    let worker = fs::read_to_string(home.path().join("holds")).unwrap().parse().unwrap();
    assert!(has_loaded(worker, &library));
    assert!(!has_loaded(pool.coordinator_pid(), &library));
    assert!(!has_loaded(std::process::id(), &library));
    fs::write(home.path().join("go on"), "").unwrap();
    hold.wait().unwrap();
}

fn a_plugin_links_with_nothing_of_ours() {
    let home = home();
    let library = compiled(&home, "examples/c/plugin_thumbs.c");
    let said = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).arg(&library).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let undefined = said("nm", &["--dynamic", "--undefined-only"]);
    assert!(!undefined.contains("shmworker"), "{undefined}");
    let needed = said("ldd", &[]);
    assert!(!needed.contains("shmworker."), "{needed}");
}

/// A binary PPM, of what `pixel` says.
fn image(width: usize, height: usize, pixel: impl Fn(usize, usize) -> [u8; 3]) -> Vec<u8> {
    let mut file = format!("P6\n{width} {height}\n255\n").into_bytes();
    file.extend((0..height).flat_map(|y| (0..width).map(move |x| (x, y))).flat_map(|(x, y)| pixel(x, y)));
    file
}

fn the_thumbnail_of_an_image() {
    let home = home();
    let mut tasks = Tasks::new();
    tasks.load(compiled(&home, "examples/c/plugin_thumbs.c")).unwrap();
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    let thumbnail: Bytewise = Task::named("thumbnail");
    // Squares of 2 by 2 pixels, each of which becomes one.
    let large = image(256, 64, |x, y| [(x / 2) as u8, 10 * (x % 2) as u8, 20 * (y % 2) as u8]);
    assert_eq!(gives(&pool, thumbnail, &large), image(128, 32, |x, _| [x as u8, 5, 10]));
    let why = pool.submit(thumbnail, b"GIF89a").unwrap().wait().unwrap_err();
    assert!(why.to_string().contains("BadImage: the first argument is no binary PPM"), "{why}");
}

fn what_a_handler_in_cpp_throws_is_its_failure() {
    let home = home();
    let library = home.path().join("libthrows.so");
    let handler = r#"#include <shmworker.hpp>
        static void run(shmworker::context &context) {
            const auto how = context.input().text();
            if (how == "error") throw std::runtime_error("an ordinary error");
            if (how == "number") throw 7;
            if (how == "type") throw shmworker::failure("no", "Kind");
            if (how == "code") context.set_length(1);
            if (how == "cancelled") throw shmworker::cancelled();
            context.set_result(how);
        }
    "#;
    let plugin = |body: &str| {
        let plugin = format!(
            "SHMWORKER_PLUGIN(table) {{ return shmworker::plugin(table, [](shmworker::host &host) {{ {body} }}); }}"
        );
        compile_text(&format!("{handler}{plugin}"), &library, &headers());
    };
    for (body, why) in [
        ("(void)host; (void)run; throw 7;", "its shmworker_register returned 1 (Failed)"),
        (r#"host.add("run", run).add("run", run);"#, "it registers \"run\" twice: give one another name"),
    ] {
        plugin(body);
        assert_eq!(why_not(&library), why);
    }
    plugin(r#"host.add("run", run);"#);
    let mut tasks = Tasks::new();
    tasks.load(&library).unwrap();
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    let run: Bytewise = Task::named("run");
    for (how, why) in [
        ("error", "an ordinary error"),
        ("number", "an exception that is no std::exception"),
        ("type", "Kind: no"),
        ("code", "cannot shorten the result: code 101"),
        ("cancelled", "it ended as cancelled"),
    ] {
        let failure = pool.submit(run, how.as_bytes()).unwrap().wait().unwrap_err();
        assert!(matches!(&failure, TaskError::Failed(said) if said == why), "{failure:?}");
    }
    assert_eq!(gives(&pool, run, b"well"), b"well");
}
