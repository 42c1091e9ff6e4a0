//! A worker in C under no SDK (`ffi/tests/c/raw_worker.c`), which serves workflows and activities from the raw lanes on a real
//! Temporal server: deaths, evictions, drains, and what does not match.

mod common;

use common::{
    EVENT_TASK_FAILED, EVENT_TASK_STARTED, EVENT_TASK_TIMED_OUT, Echo, Pool, Program, Scene, distinct, eventually,
    results,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use shmworker::cli::exit;
use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    fs,
    io::ErrorKind,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::LazyLock,
};

const TESTS: &[(&str, common::Test)] = &common::tests![
    a_c_program_serves_the_sample
    a_c_program_may_wait_without_a_descriptor
    a_c_program_passes_the_sanitizers
    a_local_activity_is_run_by_an_activity_program
    a_run_is_evicted_when_its_program_asks_for_that
    the_sample_is_served_while_programs_are_killed
    a_killed_program_under_parked_runs_costs_no_workflow
    activations_on_their_way_to_a_killed_program_are_failed_and_replayed
    an_eviction_in_hand_of_a_killed_program_is_answered_for_it
    a_run_comes_back_only_after_its_eviction_was_answered
    programs_killed_while_runs_are_evicted_cost_no_workflow
    a_killed_activity_program_fails_its_attempt_at_once_and_its_heartbeat_stays
    a_program_that_is_replaced_is_executed_once_it_is_there
    a_program_that_does_not_yield_is_killed_and_its_run_replayed
    a_program_that_leaves_hands_its_runs_over
    a_drain_cancels_the_attempts_in_hand_once_the_grace_is_over
    a_killed_bridge_costs_no_workflow
    a_completion_that_no_segment_takes_is_a_failure_of_the_task
    a_completion_that_cannot_be_read_is_a_failure_of_the_task
    a_program_attaches_by_name_and_is_killed
    what_a_guest_registers_binds_others_for_as_long_as_it_lives
    a_program_that_does_not_match_is_refused_with_what_differs
    a_program_that_is_not_there_or_not_started_by_a_pool_is_told_so
];

fn main() -> ExitCode {
    common::run(TESTS)
}

// ---- the program --------------------------------------------------------------------------------------------------------

fn done(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The C program, compiled against the library of this checkout.
static WORKER: LazyLock<PathBuf> = LazyLock::new(|| compiled("raw_worker", &[]));

fn compiled(name: &str, further: &[&str]) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "-p", "shmworker-ffi", "--lib", "--target-dir"]).arg(target).current_dir(root);
    done(&mut cargo);
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (library, program) = (target.join("debug"), tmp.join(name));
    // Programs look for it under the name with its major number, which is given as it is installed.
    match symlink(library.join("libshmworker.so"), tmp.join("libshmworker.so.1")) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => panic!("cannot link the library: {e}"),
        _ => {}
    }
    let mut rpath = OsString::from("-Wl,-rpath,");
    rpath.push(tmp);
    let flags = ["-std=c11", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g"];
    let mut gcc = Command::new("gcc");
    gcc.current_dir(root)
        .args(flags)
        .args(further)
        .args(["-Iffi/include", "ffi/tests/c/raw_worker.c", "-o"])
        .arg(&program);
    done(gcc.args(["-lshmworker", "-L"]).arg(&library).arg(rpath));
    program
}

/// A pool whose processes of both kinds are the C program.
fn pool_of(scene: &Scene<'_>, workflow_workers: usize, activity_workers: usize, args: &[&str]) -> Pool {
    let worker = WORKER.to_str().unwrap();
    let programs = ["--workflow-program", worker, "--activity-program", worker];
    scene.pool(workflow_workers, activity_workers, &[&programs, args].concat())
}

fn start(scene: &Scene<'_>, workflow: &str, workflows: usize, input: &str) -> Program {
    // Its queue, since it is not the program that starts workflows which has these types.
    scene.starter(workflows, &["--workflow", workflow, "--input", input, "--task-queue", "workflow-task-queue"])
}

/// Starts workflows, and returns once each run is parked until its timer fires.
fn parked(scene: &Scene<'_>, who: &mut Program, workflows: usize, millis: u32) -> Program {
    let starter = start(scene, "TimerWorkflow", workflows, &millis.to_string());
    who.says("a run waits for its timer", workflows, |line| line.contains("parked "));
    starter
}

/// How many workflow tasks failed, and how many timed out.
fn troubles(scene: &Scene<'_>) -> (usize, usize) {
    let histories = scene.server.histories(scene.namespace);
    let count = |event: &str| histories.iter().filter(|h| h.has(event)).count();
    (count(EVENT_TASK_FAILED), count(EVENT_TASK_TIMED_OUT))
}

fn pids(pool: &Pool, label: &str) -> BTreeSet<i32> {
    distinct(pool.processes(label).iter().map(|p| p.pid))
}

// ---- it serves ----------------------------------------------------------------------------------------------------------

fn serves(scene: &Scene<'_>, args: &[&str]) {
    let mut pool = pool_of(scene, 2, 1, args);
    let results = results(&mut scene.starter(25, &[]), 25);
    assert!(results.iter().all(|r| r.starting == r.ending), "{results:?}");
    assert!(distinct(results.iter().map(|r| r.starting)).is_subset(&pids(&pool, "workflow-worker")));
    assert_eq!(distinct(results.iter().map(|r| r.activity)), pids(&pool, "activity-worker"));
    assert_eq!(troubles(scene), (0, 0));
    pool.stop(Signal::SIGTERM);
    assert_eq!(pool.program.stderr(), [""; 0]);
    let said = pool.program.stdout();
    for label in &pool.workers {
        for word in ["welcome ", "stage 1"] {
            assert!(said.contains(&format!("[{label}] {word}")), "{label} says '{word}': {said:?}");
        }
    }
}

fn a_c_program_serves_the_sample(scene: &Scene<'_>) {
    serves(scene, &[]);
}

fn a_c_program_may_wait_without_a_descriptor(scene: &Scene<'_>) {
    serves(scene, &["--", "wait"]);
}

fn a_c_program_passes_the_sanitizers(scene: &Scene<'_>) {
    let flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    let worker = compiled("raw_worker_sanitized", &flags);
    let worker = worker.to_str().unwrap();
    let mut run = scene.shmworker(&["run", "--workflow-program", worker, "--activity-program", worker]);
    run.env("ASAN_OPTIONS", "detect_leaks=1");
    let mut pool = Pool::start(run, 1, 1, &[]);
    results(&mut scene.starter(5, &[]), 5);
    results(&mut start(scene, "TimerWorkflow", 2, "100"), 2);
    pool.stop(Signal::SIGTERM);
    assert_eq!(pool.program.stderr(), [""; 0]);
}

fn a_local_activity_is_run_by_an_activity_program(scene: &Scene<'_>) {
    let mut pool = pool_of(scene, 1, 1, &[]);
    let [Echo { starting, activity, ending }] = results(&mut start(scene, "LocalWorkflow", 1, "0"), 1)[..] else {
        panic!("one result")
    };
    assert_eq!((starting, ending), (pool.pid("workflow-worker:0"), starting));
    assert_eq!(activity, pool.pid("activity-worker:0"));
    let histories = scene.server.histories(scene.namespace);
    let scheduled = |event: &serde_json::Value| event.get("activityTaskScheduledEventAttributes").is_some();
    assert!(!histories[0].events().iter().any(scheduled), "the server has scheduled none");
    pool.stop(Signal::SIGTERM);
}

fn a_run_is_evicted_when_its_program_asks_for_that(scene: &Scene<'_>) {
    let worker = WORKER.to_str().unwrap();
    let mut run = scene.shmworker(&["run", "--workflow-program", worker]);
    run.env("RAW_WORKER_EVICTS", "");
    let mut pool = Pool::start(run, 1, 1, &[]);
    let mut starter = parked(scene, &mut pool.program, 1, 1000);
    results(&mut starter, 1);
    // It is parked a second time, by a replay.
    pool.program.says("it is parked again", 2, |line| line.contains("parked "));
    assert_eq!(troubles(scene), (0, 0));
    pool.stop(Signal::SIGTERM);
}

// ---- deaths -------------------------------------------------------------------------------------------------------------

fn the_sample_is_served_while_programs_are_killed(scene: &Scene<'_>) {
    const WORKFLOWS: usize = 100;
    let mut pool = pool_of(scene, 2, 2, &[]);
    let mut starter = scene.starter(WORKFLOWS, &[]);
    // In the middle: each time some have ended, and others have not.
    for (i, label) in ["workflow-worker:0", "activity-worker:0", "workflow-worker:1", "activity-worker:1"]
        .into_iter()
        .cycle()
        .take(8)
        .enumerate()
    {
        starter.says("a further result", 1 + 10 * i, |_| true);
        assert!(starter.is_running(), "some are left");
        pool.kill(label);
    }
    // One result of each, and none of anything else.
    results(&mut starter, WORKFLOWS);
    let histories = scene.server.histories(scene.namespace);
    assert_eq!(histories.len(), WORKFLOWS);
    for history in histories {
        let count = |event: &str| history.events().iter().filter(|e| e["eventType"] == event).count();
        // An activity's attempts are one event each, when the last of them has ended: what counts is that nothing was done twice.
        for event in ["ACTIVITY_TASK_SCHEDULED", "ACTIVITY_TASK_COMPLETED", "WORKFLOW_EXECUTION_COMPLETED"] {
            assert_eq!(count(&format!("EVENT_TYPE_{event}")), 1, "{event}: {:?}", history.events());
        }
        assert_eq!(count(EVENT_TASK_TIMED_OUT), 0, "{:?}", history.events());
    }
    pool.stop(Signal::SIGTERM);
}

fn a_killed_program_under_parked_runs_costs_no_workflow(scene: &Scene<'_>) {
    let mut pool = pool_of(scene, 2, 1, &[]);
    let mut starter = parked(scene, &mut pool.program, 10, 5000);
    let dead = pids(&pool, "workflow-worker");
    pool.kill("workflow-worker:0");
    pool.kill("workflow-worker:1");
    replayed_by_others(&mut starter, 10, &dead);
    // They were evicted on the news of the deaths, not when something came for them.
    assert_eq!(troubles(scene), (0, 0));
    pool.stop(Signal::SIGTERM);
}

/// Every run began in one of the dead processes and ended in another.
#[track_caller]
fn replayed_by_others(starter: &mut Program, workflows: usize, dead: &BTreeSet<i32>) {
    for Echo { starting, ending, .. } in results(starter, workflows) {
        assert!(dead.contains(&starting) && !dead.contains(&ending), "{starting} and {ending}; dead: {dead:?}");
    }
}

fn activations_on_their_way_to_a_killed_program_are_failed_and_replayed(scene: &Scene<'_>) {
    let mut pool = pool_of(scene, 2, 1, &[]);
    // No more than Core takes for two processes that answer nothing.
    let mut starter = parked(scene, &mut pool.program, 6, 5000);
    let dead = pids(&pool, "workflow-worker");
    for label in ["workflow-worker:0", "workflow-worker:1"] {
        pool.signal(label, Signal::SIGSTOP);
    }
    scene.every_run_has_a_task();
    pool.kill("workflow-worker:0");
    pool.kill("workflow-worker:1");
    replayed_by_others(&mut starter, 6, &dead);
    // Not six, if their timers fired more than a second apart: those that were still parked then have been taken away from processes
    // that keep others waiting.
    let (failed, timed_out) = troubles(scene);
    assert!(failed >= 1 && timed_out == 0, "{failed} failed, {timed_out} timed out");
    pool.stop(Signal::SIGTERM);
}

fn an_eviction_in_hand_of_a_killed_program_is_answered_for_it(scene: &Scene<'_>) {
    let mut pool = pool_of(scene, 1, 1, &["--max-cached-workflows", "1"]);
    let mut first = parked(scene, &mut pool.program, 1, 3000);
    pool.signal("workflow-worker:0", Signal::SIGSTOP);
    let mut second = start(scene, "TimerWorkflow", 1, "0");
    eventually("the second run waits for the place of the first", || {
        let histories = scene.server.histories(scene.namespace);
        histories.iter().any(|h| h.ends_with(EVENT_TASK_STARTED)).then_some(())
    });
    pool.kill("workflow-worker:0");
    results(&mut second, 1);
    results(&mut first, 1);
    assert_eq!(troubles(scene).1, 0);
    pool.stop(Signal::SIGTERM);
}

fn a_run_comes_back_only_after_its_eviction_was_answered(scene: &Scene<'_>) {
    // With room for one, every activation evicts another run; a run that came back before the program had forgotten it would find
    // it there, and the program fails that.
    let mut pool = pool_of(scene, 1, 1, &["--max-cached-workflows", "1"]);
    let mut starter = start(scene, "TimerWorkflow", 10, "300");
    results(&mut starter, 10);
    assert_eq!(troubles(scene), (0, 0));
    pool.stop(Signal::SIGTERM);
    assert_eq!(pool.program.stderr(), [""; 0]);
    let evictions = pool.program.stdout().iter().filter(|line| line.contains("evicted")).count();
    assert!(evictions > 10, "{evictions} evictions: no run came back");
}

fn programs_killed_while_runs_are_evicted_cost_no_workflow(scene: &Scene<'_>) {
    let mut pool = pool_of(scene, 3, 1, &["--max-cached-workflows", "2"]);
    let mut starter = start(scene, "TimerWorkflow", 20, "500");
    for i in 0..6 {
        starter.says("a further result", 1 + 3 * i, |_| true);
        pool.kill(&format!("workflow-worker:{}", i % 3));
    }
    results(&mut starter, 20);
    pool.stop(Signal::SIGTERM);
}

fn a_killed_activity_program_fails_its_attempt_at_once_and_its_heartbeat_stays(scene: &Scene<'_>) {
    let mut pool = pool_of(scene, 1, 1, &[]);
    let mut starter = start(scene, "HoldWorkflow", 1, "0");
    pool.program.says("a first attempt", 1, |line| line == "[activity-worker:0] holding, attempt 1 after ''");
    pool.kill("activity-worker:0");
    pool.program.says("a second one", 1, |line| line == "[activity-worker:0] holding, attempt 2 after '1'");
    assert!(starter.end().success());
    let [line] = &starter.stdout()[..] else { panic!("one result") };
    assert!(line.starts_with("held | wf-ending-pid:"), "{line}");
    let histories = scene.server.histories(scene.namespace);
    let attempt = histories[0].events().iter().find_map(|e| e.get("activityTaskStartedEventAttributes")).unwrap();
    assert_eq!(attempt["lastFailure"]["message"], "the activity process died: signal 9 (SIGKILL)");
    pool.stop(Signal::SIGTERM);
}

fn a_program_that_is_replaced_is_executed_once_it_is_there(scene: &Scene<'_>) {
    let script = script(scene, "");
    let mut run = scene.shmworker(&["run", "--workflow-program", script.to_str().unwrap()]);
    run.env("WORKER", &*WORKER).env("PATH", env::var_os("PATH").unwrap());
    let mut pool = Pool::start(run, 1, 1, &[]);
    let mut starter = parked(scene, &mut pool.program, 1, 100);
    results(&mut starter, 1);
    let away = script.with_extension("away");
    fs::rename(&script, &away).unwrap();
    pool.signal("workflow-worker:0", Signal::SIGKILL);
    pool.program.says("the next cannot be executed", 1, |line| line.contains("cannot execute"));
    fs::rename(&away, &script).unwrap();
    let served = results(&mut scene.starter(5, &[]), 5);
    // It stays away: that is told in the end.
    fs::remove_file(&script).unwrap();
    kill(Pid::from_raw(served[0].ending), Signal::SIGKILL).unwrap();
    assert_eq!(pool.program.end().code(), Some(exit::CRASH_LOOP.into()));
    let said = pool.program.stderr();
    assert!(said.last().unwrap().contains("cannot execute"), "{said:?}");
}

fn a_program_that_does_not_yield_is_killed_and_its_run_replayed(scene: &Scene<'_>) {
    let worker = WORKER.to_str().unwrap();
    let mut run = scene.shmworker(&["run", "--workflow-program", worker, "--deadlock-timeout", "500ms"]);
    run.env("RAW_WORKER_SPIN", scene.home().join("spun"));
    let mut pool = Pool::start(run, 2, 0, &[]);
    let mut starter = start(scene, "SpinWorkflow", 1, "0");
    let label = pool.program.says("a program that does not yield", 1, |line| line.contains("] spinning "));
    let label = label[1..].split(']').next().unwrap().to_owned();
    pool.has_died(&label);
    assert!(starter.end().success());
    assert!(pool.program.stderr().iter().any(|line| line.contains("[TMPRL1101]")), "{:?}", pool.program.stderr());
    pool.stop(Signal::SIGTERM);
}

fn a_killed_bridge_costs_no_workflow(scene: &Scene<'_>) {
    let mut pool = pool_of(scene, 2, 1, &[]);
    let mut starter = parked(scene, &mut pool.program, 10, 3000);
    pool.kill("bridge");
    results(&mut starter, 10);
    // The programs had the former bridge's runs, and were told to give them up before they got anything of the next one's.
    assert!(pool.program.stdout().iter().filter(|line| line.contains("evicted")).count() >= 10);
    pool.stop(Signal::SIGTERM);
}

// ---- ends ---------------------------------------------------------------------------------------------------------------

fn a_program_that_leaves_hands_its_runs_over(scene: &Scene<'_>) {
    let mut pool = pool_of(scene, 2, 1, &[]);
    let mut starter = parked(scene, &mut pool.program, 10, 5000);
    let stays = pool.pid("workflow-worker:0");
    pool.program.signal(Signal::SIGTTOU);
    pool.forget("workflow-worker:1");
    for Echo { ending, .. } in results(&mut starter, 10) {
        assert_eq!(ending, stays);
    }
    assert_eq!(troubles(scene), (0, 0));
    pool.ends();
}

fn a_drain_cancels_the_attempts_in_hand_once_the_grace_is_over(scene: &Scene<'_>) {
    let mut pool = pool_of(scene, 1, 1, &["--grace", "1s"]);
    let _starter = start(scene, "HoldWorkflow", 1, "0");
    pool.program.says("an attempt", 1, |line| line.starts_with("[activity-worker:0] holding, attempt 1"));
    pool.stop(Signal::SIGTERM);
    // `ActivityCancelReason::WORKER_SHUTDOWN`.
    assert!(pool.program.stdout().contains(&"[activity-worker:0] cancelled: reason 3".to_owned()));
}

// ---- what does not fit --------------------------------------------------------------------------------------------------

fn a_completion_that_no_segment_takes_is_a_failure_of_the_task(scene: &Scene<'_>) {
    let mut pool = pool_of(scene, 1, 0, &["--deadlock-timeout", "1m"]);
    let mut starter = start(scene, "LargeWorkflow", 1, "1000000");
    assert!(starter.end().success());
    assert_eq!(starter.stdout(), ["x".repeat(1_000_000)]);
    let _starter = start(scene, "LargeWorkflow", 1, "200000000");
    let message = eventually("its task fails", || {
        let histories = scene.server.histories(scene.namespace);
        let failed = histories.iter().flat_map(|h| h.events()).find_map(|e| e.get("workflowTaskFailedEventAttributes"));
        Some(failed?["failure"]["message"].as_str().unwrap().to_owned())
    });
    assert!(message.contains("is larger than the limit"), "{message}");
    pool.stop(Signal::SIGTERM);
}

fn a_completion_that_cannot_be_read_is_a_failure_of_the_task(scene: &Scene<'_>) {
    let mut pool = pool_of(scene, 1, 0, &[]);
    let _starter = start(scene, "GarbledWorkflow", 1, "0");
    let message = eventually("its task fails", || {
        let histories = scene.server.histories(scene.namespace);
        let failed = histories.iter().flat_map(|h| h.events()).find_map(|e| e.get("workflowTaskFailedEventAttributes"));
        Some(failed?["failure"]["message"].as_str().unwrap().to_owned())
    });
    let begins = "the workflow process answered with ";
    assert!(message.starts_with(begins) && message.contains("that are no WorkflowActivationCompletion: "), "{message}");
    pool.stop(Signal::SIGTERM);
}

/// The pool ends with this code after its last line on stderr, which begins and goes on as said, and leaves nobody behind.
#[track_caller]
fn fails(mut program: Program, code: u8, begins: &str, holds: &str) {
    let status = program.end();
    let line = program.stderr().pop().unwrap_or_default();
    assert!(line.starts_with(begins) && line.contains(holds), "{line}");
    assert_eq!(status.code(), Some(code.into()));
    program.leaves_nobody();
}

fn run(scene: &Scene<'_>, program: &Path, hello: Option<&str>) -> Program {
    let mut run = scene.shmworker(&["run", "-w", "1", "-a", "0", "--workflow-program", program.to_str().unwrap()]);
    if let Some(hello) = hello {
        run.env("RAW_WORKER_HELLO", hello);
    }
    Program::start(run)
}

fn a_program_that_does_not_match_is_refused_with_what_differs(scene: &Scene<'_>) {
    let begins = "error: workflow-worker:0 ended before it had begun: its workflow task queue is 'other', but this pool's is \
                  'workflow-task-queue'";
    let refused = run(scene, &WORKER, Some(r#"{"workflow_task_queue": "other"}"#));
    fails(refused, 1, begins, "give '--workflow-task-queue other'");
    let refused = run(scene, &WORKER, Some("nonsense"));
    fails(
        refused,
        1,
        "error: workflow-worker:0 ended before it had begun: its hello cannot be read",
        "known are namespace",
    );
    // The one of them that is first is the measure for the other.
    let script = script(scene, r#"mkdir "$0.first" 2>/dev/null && export RAW_WORKER_HELLO='{"workflows": ["One"]}'"#);
    let mut two = scene.shmworker(&["run", "-w", "2", "-a", "0", "--workflow-program", script.to_str().unwrap()]);
    two.env("WORKER", &*WORKER).env("PATH", env::var_os("PATH").unwrap());
    fails(Program::start(two), 1, "error: workflow-worker:", "let all of them register the same");
}

/// A script that does something first, and is then the program.
fn script(scene: &Scene<'_>, first: &str) -> PathBuf {
    let path = scene.home().join("worker.sh");
    fs::write(&path, format!("#!/bin/sh\n{first}\nexec \"$WORKER\" \"$@\"\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn a_program_that_is_not_there_or_not_started_by_a_pool_is_told_so(scene: &Scene<'_>) {
    let missing = run(scene, Path::new("/nowhere/worker"), None);
    fails(missing, exit::USAGE, "error: no program '/nowhere/worker'", "build it");
    let none = Program::start(scene.shmworker(&["run", "--", "wait"]));
    fails(none, exit::USAGE, "error: there is no program for the arguments after '--'", "--workflow-program");
    let worker = WORKER.to_str().unwrap();
    let args = ["run", "--workflow-program", worker, "--max-tasks-per-process", "5"];
    fails(
        Program::start(scene.shmworker(&args)),
        exit::USAGE,
        "error: limits of tasks, memory and CPU time",
        "leave them out",
    );
    // What the kernel can't execute.
    let text = scene.home().join("text");
    fs::write(&text, "#!/nowhere/interpreter\n").unwrap();
    fs::set_permissions(&text, fs::Permissions::from_mode(0o755)).unwrap();
    fails(
        run(scene, &text, None),
        1,
        "error: workflow-worker:0 ended before it had begun: cannot execute",
        "No such file",
    );

    let told = |command: Command, holds: &str| {
        let mut program = Program::start(command);
        assert_eq!(program.end().code(), Some(1));
        assert!(program.stderr().iter().any(|line| line.contains(holds)), "{:?}", program.stderr());
    };
    told(Command::new(&*WORKER), "attach: SHMWORKER_TEMPORAL is not set: let 'shmworker run --workflow-program'");
    let mut forged = Command::new(&*WORKER);
    forged.env("SHMWORKER_TEMPORAL", "7:1");
    told(forged, "attach: SHMWORKER_TEMPORAL is '7:1', which is no invitation of this process");
    let mut nobody = Command::new(&*WORKER);
    nobody.args(["attach", "nobody", "1"]);
    told(nobody, "attach: no pool 'nobody' runs");

    // The coordinator would not hear of the death of a process that its own has started.
    let path = scene.home().join("child.sh");
    fs::write(&path, "#!/bin/sh\n\"$WORKER\"\nexit 3\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let mut run = scene.shmworker(&["run", "-w", "1", "-a", "0", "--workflow-program", path.to_str().unwrap()]);
    run.env("WORKER", &*WORKER).env("PATH", env::var_os("PATH").unwrap());
    let mut run = Program::start(run);
    assert_eq!(run.end().code(), Some(exit::CRASH_LOOP.into()));
    let said = run.stderr();
    assert!(said.iter().any(|line| line.contains("have what starts it 'exec' it")), "{said:?}");
}

// ---- guests -------------------------------------------------------------------------------------------------------------

fn a_program_attaches_by_name_and_is_killed(scene: &Scene<'_>) {
    let name = format!("raw-{}", std::process::id());
    let mut pool = scene.pool(1, 1, &["--name", &name]);
    let attach = || {
        let mut guest = Command::new(&*WORKER);
        guest.args(["attach", &name, "3"]).env("RAW_WORKER_HELLO", r#"{"workflow_task_queue": "workflow-task-queue"}"#);
        let mut guest = Program::start(guest);
        guest.says("welcome", 1, |line| line == "welcome ");
        guest
    };
    // Of the pool's own processes none can do anything.
    let mut guest = attach();
    pool.signal("workflow-worker:0", Signal::SIGSTOP);
    pool.signal("activity-worker:0", Signal::SIGSTOP);
    let served = results(&mut scene.starter(5, &[]), 5);
    assert!(served.iter().all(|r| [r.starting, r.activity, r.ending] == [guest.pid(); 3]), "{served:?}");
    let mut starter = parked(scene, &mut guest, 5, 5000);
    pool.signal("workflow-worker:0", Signal::SIGCONT);
    pool.signal("activity-worker:0", Signal::SIGCONT);
    let dead = guest.pid();
    guest.signal(Signal::SIGKILL);
    guest.end();
    let own = pool.pid("workflow-worker:0");
    for Echo { starting, ending, .. } in results(&mut starter, 5) {
        assert_eq!((starting, ending), (dead, own));
    }
    assert_eq!(troubles(scene), (0, 0));
    let mut guest = attach();
    pool.program.signal(Signal::SIGTERM);
    assert!(guest.end().success(), "it ends with the pool: {:?}", guest.stderr());
    assert_eq!(pool.program.end().code(), Some(0));
}

fn what_a_guest_registers_binds_others_for_as_long_as_it_lives(scene: &Scene<'_>) {
    let name = format!("raw-{}", std::process::id());
    let mut pool = scene.pool(1, 0, &["--name", &name]);
    let attach = |hello: &str| {
        let mut guest = Command::new(&*WORKER);
        guest.args(["attach", &name, "1"]).env("RAW_WORKER_HELLO", hello);
        Program::start(guest)
    };
    let (wrong, right) = (r#"{"workflows": ["Wrong"]}"#, r#"{"workflows": ["TimerWorkflow"]}"#);
    let mut first = attach(wrong);
    first.says("welcome", 1, |line| line == "welcome ");
    let mut refused = attach(right);
    assert_eq!(refused.end().code(), Some(1));
    assert!(refused.stderr().iter().any(|line| line.contains("let all of them register the same")));
    first.signal(Signal::SIGKILL);
    first.end();
    // Once its death is known.
    let mut welcome = eventually("another is welcome", || {
        let mut next = attach(right);
        let is_welcome = |program: &Program| program.stdout().iter().any(|line| line == "welcome ");
        eventually("it is welcome or refused", || (is_welcome(&next) || !next.is_running()).then_some(()));
        is_welcome(&next).then_some(next)
    });
    pool.program.signal(Signal::SIGTERM);
    assert!(welcome.end().success());
    assert_eq!(pool.program.end().code(), Some(0));
}
