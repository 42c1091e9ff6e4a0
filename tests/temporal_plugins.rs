//! Activities in C and C++, as plug-ins, on a real Temporal server.
//!
//! This program is its own worker: with a command as its first argument it has the command line of `shmworker`, and serves one
//! workflow, which runs one activity as its input says. Its activities are those of the plug-ins that it is told to load.

mod common;
#[path = "common/compiler.rs"]
mod compiler;
#[path = "common/one_activity.rs"]
mod one_activity;

use common::{Pool, Program, Scene, details, eventually};
use compiler::{compile, compile_text, headers};
use nix::sys::signal::Signal;
use one_activity::Named;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shmworker::{
    cli::exit,
    temporal::{Worker, activity::Payload, workflow::Workflows},
};
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};
use temporalio_common::data_converters::RawValue;
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{WorkflowContext, WorkflowResult};

const TESTS: &[(&str, common::Test)] = &common::tests![
    an_activity_in_c_goes_on_where_it_was_killed
    a_thumbnail_is_made_of_bytes_in_c
    words_are_counted_in_cpp_with_a_state_of_each_process
    payloads_go_both_ways_as_they_are_encoded
    a_failure_is_as_the_handler_says
    a_result_that_no_server_takes_is_a_failure
    a_cancelled_attempt_ends_as_cancelled
    a_crash_is_the_failure_of_one_attempt
    a_state_that_cannot_be_made_ends_the_worker
    a_plugin_that_is_no_good_ends_the_start_with_one_line
    a_replaced_plugin_is_loaded_at_sighup_unless_it_is_no_good
    a_sighup_during_a_drain_makes_no_haste
];

const TASK_QUEUE: &str = "plugins";

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|arg| ["run", "starter"].contains(&arg.as_str())) {
        return Worker::new(TASK_QUEUE).workflows(Workflows::new().register::<Call>()).main();
    }
    common::run(TESTS)
}

// ---- the worker ---------------------------------------------------------------------------------------------------------

/// Which activity is to be run, and with which payloads: encoding and text of each.
#[derive(Serialize, Deserialize)]
struct Order {
    activity: String,
    arguments: Vec<(String, String)>,
    heartbeat_timeout: Duration,
}

/// Runs one activity, whose payloads nobody converts, with a retry each 100 ms, and tells its payload.
#[workflow]
#[derive(Default)]
struct Call;

#[workflow_methods]
impl Call {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, order: Order) -> WorkflowResult<String> {
        let Order { activity, arguments, heartbeat_timeout } = order;
        let payload = |(encoding, text): (String, String)| Payload {
            metadata: HashMap::from([("encoding".to_owned(), encoding.into_bytes())]),
            data: text.into_bytes(),
            ..Default::default()
        };
        let arguments = RawValue::new(arguments.into_iter().map(payload).collect());
        let options = one_activity::options(TASK_QUEUE, heartbeat_timeout, 0);
        let result = ctx.execute_activity(Named::<RawValue>::new(activity), arguments, options).await?;
        let Payload { metadata, data, .. } = &result.payloads[0];
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(format!("{}: {:?}", text(&metadata["encoding"]), text(data)))
    }
}

// ---- the tests ----------------------------------------------------------------------------------------------------------

fn compiled(scene: &Scene<'_>, source: &str) -> PathBuf {
    let library = scene.home().join("libplugin.so");
    compile(source, &library);
    library
}

/// The handlers of `handlers.c`.
fn handlers(scene: &Scene<'_>) -> PathBuf {
    compiled(scene, "tests/plugins/handlers.c")
}

/// A pool of this program with a plug-in, and so many activity processes.
fn pool(scene: &Scene<'_>, library: &Path, activity_processes: usize) -> Pool {
    Pool::start(scene.own(&["run"]), 1, activity_processes, &["--load", library.to_str().unwrap()])
}

/// Is the library mapped by this process?
fn has_loaded(pid: i32, library: &Path) -> bool {
    fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().contains(library.to_str().unwrap())
}

/// Starts a workflow that runs this activity.
fn call(scene: &Scene<'_>, activity: &str, arguments: &[(&str, &str)]) -> Program {
    call_within(scene, activity, arguments, Duration::from_secs(60))
}

fn call_within(scene: &Scene<'_>, activity: &str, arguments: &[(&str, &str)], heartbeat_timeout: Duration) -> Program {
    let order = json!({ "activity": activity, "arguments": arguments, "heartbeat_timeout": heartbeat_timeout });
    Program::start(scene.own(&["starter", "-n", "1", "--workflow", "Call", "--input", &order.to_string()]))
}

/// The same, for an activity that takes the directory in which it meets the test.
fn call_here(scene: &Scene<'_>, activity: &str, heartbeat_timeout: Duration) -> Program {
    call_within(scene, activity, &[("json/plain", &json!(scene.home()).to_string())], heartbeat_timeout)
}

/// The workflow completes, with this payload.
#[track_caller]
fn gives(mut starter: Program, encoding: &str, text: &str) {
    let result = format!("{encoding}: {text:?}");
    starter.says(&result, 1, |line| line == result);
    assert!(starter.end().success());
}

/// The file by which an activity tells something.
#[track_caller]
fn noted(scene: &Scene<'_>, name: &str) -> String {
    eventually(format_args!("the note '{name}'"), || fs::read_to_string(scene.home().join(name)).ok())
}

/// All that has happened to the workflows that is an event of this kind.
fn events(scene: &Scene<'_>, attributes: &str) -> Vec<Value> {
    let histories = scene.server.histories(scene.namespace);
    let events = histories.iter().flat_map(|history| history.events());
    events.filter_map(|e| e.get(attributes)).cloned().collect()
}

/// The last attempt of the only activity.
fn last_attempt(scene: &Scene<'_>) -> Value {
    events(scene, "activityTaskStartedEventAttributes").pop().expect("a started activity")
}

fn an_activity_in_c_goes_on_where_it_was_killed(scene: &Scene<'_>) {
    let library = handlers(scene);
    let mut pool = pool(scene, &library, 2);
    let starter = call_here(scene, "count", Duration::from_secs(60));
    let pid: i32 = noted(scene, "counted").parse().unwrap();
    let label = pool.workers.iter().find(|label| pool.pid(label) == pid).expect("a worker runs it").clone();
    for (other, is_to) in [("bridge", false), ("workflow-worker:0", false), (&*label, true)] {
        assert_eq!(has_loaded(pool.pid(other), &library), is_to, "{other}");
    }
    assert!(!has_loaded(pool.program.pid(), &library), "the coordinator");
    pool.kill(&label);
    gives(starter, "json/plain", "1000");
    let attempt = last_attempt(scene);
    assert_eq!(attempt["attempt"], 2);
    assert_eq!(attempt["lastFailure"]["message"], "the activity process died: signal 9 (SIGKILL)");
    pool.stop(Signal::SIGTERM);
}

fn a_thumbnail_is_made_of_bytes_in_c(scene: &Scene<'_>) {
    let library = compiled(scene, "examples/c/plugin_thumbs.c");
    let mut pool = pool(scene, &library, 2);
    let said = format!("plug-in {}: thumbnail", library.display());
    pool.program.says(&said, 1, |line| line == said);
    // Two pixels of 97 and two of 99, above and below: 98. All bytes are letters, so that the test can read them.
    let image = ("binary/plain", "P6\n4 2\n255\naaacccaaacccaaacccaaaccc");
    gives(call(scene, "thumbnail", &[image, ("json/plain", "2")]), "binary/plain", "P6\n2 1\n255\nbbbbbb");
    gives(call(scene, "thumbnail", &[image]), "binary/plain", image.1);
    assert!(!call(scene, "thumbnail", &[("binary/plain", "GIF89a")]).end().success());
    let failure = &events(scene, "activityTaskFailedEventAttributes")[0]["failure"];
    assert_eq!(failure["message"], "the first argument is no binary PPM, 8 bits a channel");
    pool.stop(Signal::SIGTERM);
}

fn words_are_counted_in_cpp_with_a_state_of_each_process(scene: &Scene<'_>) {
    let library = compiled(scene, "examples/cpp/plugin_words.cpp");
    let stopwords = scene.home().join("stopwords");
    fs::write(&stopwords, "the a").unwrap();
    let mut run = scene.own(&["run"]);
    run.env("STOPWORDS", &stopwords);
    let mut pool = Pool::start(run, 1, 1, &["--load", library.to_str().unwrap()]);
    let text = r#""The ring, the bell: a ring""#;
    gives(call(scene, "count words", &[("json/plain", text)]), "json/plain", r#"{"ring":2,"bell":1}"#);
    assert!(!call(scene, "count words", &[("binary/plain", text)]).end().success());
    let failure = &events(scene, "activityTaskFailedEventAttributes")[0]["failure"];
    assert_eq!(failure["message"], "the argument is no text in JSON");
    let info = &failure["applicationFailureInfo"];
    assert_eq!((&info["type"], &info["nonRetryable"]), (&json!("BadInput"), &json!(true)));
    pool.stop(Signal::SIGTERM);
}

fn payloads_go_both_ways_as_they_are_encoded(scene: &Scene<'_>) {
    let mut pool = pool(scene, &handlers(scene), 1);
    for (encoding, text) in
        [("json/plain", "{\"a\":[1]}"), ("binary/plain", "bytes"), ("binary/null", ""), ("own", "?")]
    {
        gives(call(scene, "echo", &[(encoding, text)]), encoding, text);
    }
    gives(call(scene, "reverse", &[("binary/plain", "abc")]), "binary/plain", "cba");
    gives(call(scene, "nothing", &[]), "binary/null", "");
    let several = [("json/plain", "1"), ("binary/null", ""), ("own", "four")];
    gives(call(scene, "describe", &several), "json/plain", "\"json/plain 1, binary/null 0, own 4, describe of Call\"");
    gives(call(scene, "misuse", &[("json/plain", "1")]), "json/plain", "\"all refused\"");
    gives(call(scene, "state", &[]), "json/plain", "1");
    pool.stop(Signal::SIGTERM);
}

fn a_failure_is_as_the_handler_says(scene: &Scene<'_>) {
    let mut pool = pool(scene, &handlers(scene), 1);
    gives(call(scene, "fail", &[("json/plain", "\"once\"")]), "json/plain", "\"at last\"");
    let attempt = last_attempt(scene);
    assert_eq!((&attempt["attempt"], &attempt["lastFailure"]["message"]), (&json!(2), &json!("not yet")));
    for (how, message, kind) in [
        ("\"for good\"", "the card has expired", "CardExpired"),
        ("\"with details\"", "no room in the vault", "VaultFull"),
    ] {
        assert!(!call(scene, "fail", &[("json/plain", how)]).end().success());
        let failures = events(scene, "activityTaskFailedEventAttributes");
        let failure = failures.iter().map(|f| &f["failure"]).find(|f| f["message"] == message);
        let info = &failure.unwrap_or_else(|| panic!("{message}: {failures:?}"))["applicationFailureInfo"];
        assert_eq!((&info["type"], &info["nonRetryable"]), (&json!(kind), &json!(true)));
        if how.contains("details") {
            assert_eq!(details(info), json!({ "vault": 7 }));
        }
    }
    pool.stop(Signal::SIGTERM);
}

fn a_result_that_no_server_takes_is_a_failure(scene: &Scene<'_>) {
    let mut pool = pool(scene, &handlers(scene), 1);
    // What the server refuses, what its gRPC does, and what no segment takes.
    for (len, why) in [
        ("3000000", "Complete result exceeds size limit."),
        ("5000000", "of which the server takes"),
        ("100000000", "is larger than the limit of"),
    ] {
        assert!(!call(scene, "large", &[("json/plain", len)]).end().success());
        let failures = events(scene, "activityTaskFailedEventAttributes");
        let is_it = |f: &&Value| f["failure"]["message"].as_str().is_some_and(|message| message.contains(why));
        assert!(failures.iter().any(|f| is_it(&f)), "{len}: {failures:?}");
    }
    pool.stop(Signal::SIGTERM);
}

fn a_cancelled_attempt_ends_as_cancelled(scene: &Scene<'_>) {
    let mut pool = pool(scene, &handlers(scene), 1);
    let logged = |line: &str| line.starts_with("[activity-worker:0] ") && line.contains("a state is made");
    pool.program.says("the plug-in's own line of the log", 1, logged);
    for (i, activity) in ["wait", "doze", "spin"].into_iter().enumerate() {
        let mut starter = call_here(scene, activity, Duration::from_secs(5));
        let pid: i32 = noted(scene, "waits").parse().unwrap();
        assert_eq!(pid, pool.pid("activity-worker:0"));
        fs::remove_file(scene.home().join("waits")).unwrap();
        let open = || scene.server.ask(scene.namespace, &["workflow", "list", "--query", "ExecutionStatus='Running'"]);
        let id = |list: &Value| list[0]["execution"]["workflowId"].as_str().map(str::to_owned);
        let workflow = eventually("a workflow", || id(&open()));
        scene.server.tell(scene.namespace, &["workflow", "cancel", "--workflow-id", &workflow]);
        eventually("an activity that is cancelled", || {
            (events(scene, "activityTaskCanceledEventAttributes").len() > i).then_some(())
        });
        assert!(!starter.end().success());
    }
    pool.has_died("activity-worker:0"); // over the one that did not listen
    pool.stop(Signal::SIGTERM);
}

fn a_crash_is_the_failure_of_one_attempt(scene: &Scene<'_>) {
    let library = handlers(scene);
    let mut run = scene.own(&["run"]);
    run.args(["--activity-slots", "1"]);
    let mut pool = Pool::start(run, 1, 2, &["--load", library.to_str().unwrap()]);
    let held = call_here(scene, "hold", Duration::from_secs(60));
    let pid: i32 = noted(scene, "holds").parse().unwrap();
    gives(call(scene, "crash", &[]), "json/plain", "\"recovered\"");
    let attempts = events(scene, "activityTaskStartedEventAttributes");
    let failures: Vec<_> = attempts.iter().filter_map(|a| a["lastFailure"]["message"].as_str()).collect();
    assert_eq!(failures, ["the activity process died: signal 11 (SIGSEGV)"]);
    assert!(pool.program.stdout().iter().any(|line| line.ends_with("] it crashes")), "what it printed is there");
    fs::write(scene.home().join("go on"), "").unwrap();
    gives(held, "json/plain", "\"held\"");
    assert_eq!(noted(scene, "holds").parse(), Ok(pid), "the other process has not stopped");
    pool.ends();
}

fn a_state_that_cannot_be_made_ends_the_worker(scene: &Scene<'_>) {
    let library = handlers(scene);
    let mut run = scene.own(&["run", "-w", "0", "-a", "1"]);
    run.arg("--load").arg(&library).env("PLUGIN_WITHOUT_STATE", "");
    let mut program = Program::start(run);
    assert_eq!(program.end().code(), Some(exit::CRASH_LOOP.into()));
    let said = program.stderr();
    let why = format!("the init function of the plug-in {} returned 7", library.display());
    let last = said.last().unwrap();
    assert!(last.starts_with("error: activity-worker:0 died 5 times in a row") && last.contains(&why), "{last}");
}

fn a_plugin_that_is_no_good_ends_the_start_with_one_line(scene: &Scene<'_>) {
    let refused = |libraries: &[&Path], code: u8, line: &str| {
        let mut run = scene.own(&["run", "-w", "0", "-a", "1"]);
        libraries.iter().for_each(|library| {
            run.arg("--load").arg(library);
        });
        let mut program = Program::start(run);
        assert_eq!(program.end().code(), Some(code.into()));
        assert_eq!((program.stderr(), program.stdout()), (vec![format!("error: {line}")], vec![]));
    };
    let (good, bad) = (handlers(scene), scene.home().join("libbad.so"));
    let cannot = |why: &str| format!("cannot load the plug-in {}: {why}", bad.display());
    refused(&[&bad], exit::PLUGIN, &cannot("cannot open shared object file: No such file or directory"));
    compile_text("extern int unused; int unused;", &bad, &headers());
    let why = "it has no function shmworker_register: define it by SHMWORKER_PLUGIN(host) of shmworker.h";
    refused(&[&good, &bad], exit::PLUGIN, &cannot(why));
    compile_text(
        "#include <shmworker.h>\nSHMWORKER_PLUGIN(host) { volatile int *nowhere = 0; (void)host; *nowhere = 1; return 0; }",
        &bad,
        &headers(),
    );
    let why = "a process that loaded it, to see what it brings, ended with signal 11 (SIGSEGV)";
    refused(&[&bad], exit::PLUGIN, &cannot(why));
    answering(&bad, "echo", "");
    let why = "it registers \"echo\", which is registered already: give one another name";
    refused(&[&good, &bad], exit::PLUGIN, &cannot(why));
    let mut run = scene.own(&["run", "-w", "1", "-a", "0"]);
    run.arg("--load").arg(&good);
    let mut program = Program::start(run);
    assert_eq!(program.end().code(), Some(exit::USAGE.into()));
    let line = "error: '--load' brings activities, but there is no process for them: give '-a 1', or more";
    assert_eq!(program.stderr(), [line]);
}

/// A plug-in whose handler of this name answers so.
fn answering(library: &Path, name: &str, answer: &str) {
    let text = format!(
        "#include <shmworker.h>\nstatic int32_t which(struct shmworker_context *context, void *u) {{ (void)u; \
         return shmworker_context_set_result(context, \"{answer}\", {}, 0); }}\n\
         SHMWORKER_PLUGIN(host) {{ return shmworker_host_handler(host, \"{name}\", which, 0); }}",
        answer.len()
    );
    compile_text(&text, library, &headers());
}

fn a_replaced_plugin_is_loaded_at_sighup_unless_it_is_no_good(scene: &Scene<'_>) {
    let library = scene.home().join("libwhich.so");
    answering(&library, "which", "first");
    let mut pool = pool(scene, &library, 2);
    gives(call(scene, "which", &[]), "binary/plain", "first");
    let draft = scene.home().join("no library");
    fs::write(&draft, "no library at all").unwrap();
    fs::rename(draft, &library).unwrap();
    pool.program.signal(Signal::SIGHUP);
    let refused = format!(
        "ERROR: cannot load the plug-in {}: file too short; the activity workers go on with what they have",
        library.display()
    );
    pool.program.says(&refused, 1, |line| line == refused);
    gives(call(scene, "which", &[]), "binary/plain", "first");
    answering(&library, "which", "second");
    pool.program.signal(Signal::SIGHUP);
    for label in ["activity-worker:0", "activity-worker:1"] {
        let left = format!("{label} (pid {}) has left: it was asked to leave", pool.pid(label));
        pool.program.says(&left, 1, |line| line == left);
    }
    gives(call(scene, "which", &[]), "binary/plain", "second");
    pool.ends();
}

fn a_sighup_during_a_drain_makes_no_haste(scene: &Scene<'_>) {
    let mut pool = pool(scene, &handlers(scene), 1);
    let _starter = call_here(scene, "hold", Duration::from_secs(60));
    noted(scene, "holds");
    pool.program.signal(Signal::SIGTERM);
    pool.program.says("it drains", 1, |line| line.starts_with("draining"));
    // As many as would cancel what runs, and then kill it.
    for _ in 0..2 {
        pool.program.signal(Signal::SIGHUP);
        eventually("it has come", || is_taken(pool.program.pid(), Signal::SIGHUP).then_some(()));
    }
    fs::write(scene.home().join("go on"), "").unwrap();
    pool.ends_well();
    assert_eq!(events(scene, "activityTaskCompletedEventAttributes").len(), 1);
    assert_eq!(events(scene, "activityTaskFailedEventAttributes"), [Value::Null; 0]);
}

/// Does this signal wait for the process no more?
fn is_taken(pid: i32, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap().trim();
    u64::from_str_radix(pending, 16).unwrap() & 1 << (signal as i32 - 1) == 0
}
