//! `shmworker replay`: the recorded histories of all samples and examples replay, and what does not is told apart.

use serde_json::Value;
use shmworker::cli::exit;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};
use tempfile::TempDir;

/// What `record` in there has recorded: a directory for each program.
fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/histories")
}

fn replay(binary: &Path, args: &[&Path]) -> Output {
    Command::new(binary).arg("replay").args(args).env_clear().output().unwrap()
}

fn shmworker(args: &[&Path]) -> Output {
    replay(Path::new(env!("CARGO_BIN_EXE_shmworker")), args)
}

#[track_caller]
fn ended(output: &Output, code: u8, stdout: &[&str], stderr: &[&str]) {
    let lines = |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect::<Vec<_>>();
    let (said, complained) = (lines(&output.stdout), lines(&output.stderr));
    let matches = |lines: &[String], expected: &[&str]| {
        lines.len() == expected.len() && lines.iter().zip(expected).all(|(line, part)| line.contains(part))
    };
    assert!(matches(&said, stdout), "{said:#?} {complained:#?}");
    assert!(matches(&complained, stderr), "{complained:#?} {said:#?}");
    assert_eq!(output.status.code(), Some(code.into()));
}

#[test]
fn the_recorded_histories_of_every_program_replay() {
    let mut programs = BTreeSet::new();
    for entry in fs::read_dir(recorded()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        let name = entry.file_name().unwrap().to_str().unwrap().to_owned();
        let binary = match &*name {
            "shmworker" => PathBuf::from(env!("CARGO_BIN_EXE_shmworker")),
            example => {
                let tests = std::env::current_exe().unwrap();
                tests.ancestors().nth(2).unwrap().join("examples").join(example)
            }
        };
        assert!(binary.exists(), "no program {name}: build it with 'cargo build --bin shmworker --examples'");
        let files = fs::read_dir(&entry).unwrap().count();
        ended(&replay(&binary, &[&entry]), exit::OK, &vec![".json: ok"; files], &[]);
        programs.insert(name);
    }
    assert_eq!(programs, with_workflows(), "record what is missing, with tests/histories/record");
}

/// The program with the samples, and the examples that define workflows.
fn with_workflows() -> BTreeSet<String> {
    let examples = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")).unwrap();
    let examples = examples.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let with = examples.filter(|path| fs::read_to_string(path).unwrap().contains("#[workflow]"));
    with.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).chain(["shmworker".to_owned()]).collect()
}

/// A recorded history with something else in it.
struct Doctored(TempDir);

impl Doctored {
    fn new(history: &str, doctor: impl FnOnce(&mut Value)) -> Doctored {
        let mut json = serde_json::from_slice(&fs::read(recorded().join(history)).unwrap()).unwrap();
        doctor(&mut json);
        Doctored::text(&json.to_string())
    }

    fn text(text: &str) -> Doctored {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("doctored.json"), text).unwrap();
        Doctored(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("doctored.json")
    }
}

/// As if the workflow had been of another type.
fn of_type(name: &str) -> impl FnOnce(&mut Value) {
    move |json| json["events"][0]["workflowExecutionStartedEventAttributes"]["workflowType"]["name"] = name.into()
}

#[test]
fn a_history_of_other_code_is_non_deterministic_and_the_others_are_replayed_all_the_same() {
    let doctored = Doctored::new("shmworker/TimerWorkflow.json", of_type("SpinWorkflow"));
    let output = shmworker(&[&recorded().join("shmworker"), &doctored.path(), &recorded().join("shmworker")]);
    let ok = ["ParallelizedWorkflow.json: ok", "SpinWorkflow.json: ok", "TimerWorkflow.json: ok"];
    let stdout = [&ok[..], &["doctored.json: non-deterministic: [TMPRL1100] Nondeterminism error: "], &ok].concat();
    ended(&output, exit::FAILURE, &stdout, &["1 of 7 histories do not replay"]);
}

#[test]
fn histories_of_one_run_do_not_mix() {
    let timer = recorded().join("shmworker/TimerWorkflow.json");
    let args = [&[Path::new("-w"), Path::new("4")][..], &[&*timer; 40]].concat();
    ended(&shmworker(&args), exit::OK, &["TimerWorkflow.json: ok"; 40], &[]);
}

#[test]
fn a_history_whose_workflow_task_fails_is_told_apart() {
    let doctored = Doctored::new("shmworker/ParallelizedWorkflow.json", of_type("SpinWorkflow"));
    let stdout = ["doctored.json: failed: the input of workflow type \"SpinWorkflow\" doesn't decode: "];
    ended(&shmworker(&[&doctored.path()]), exit::FAILURE, &stdout, &["1 of 1 histories do not replay"]);
}

#[test]
fn a_history_that_is_not_at_its_end_replays_as_far_as_it_goes() {
    for events in 2..=15 {
        let doctored = Doctored::new("shmworker/TimerWorkflow.json", |json| {
            json["events"].as_array_mut().unwrap().truncate(events);
        });
        let output = shmworker(&[&doctored.path()]);
        ended(&output, exit::OK, &["doctored.json: ok"], &[]);
    }
}

#[test]
fn what_cannot_be_replayed_is_named_and_nothing_is() {
    let good = recorded().join("shmworker");
    let refused = |path: &Path, why: &str| {
        let expected = format!("error: cannot replay '{}': {why}", path.display());
        ended(&shmworker(&[&good, path]), exit::USAGE, &[], &[&expected]);
    };
    refused(Path::new("/nowhere/history.json"), "No such file or directory");
    refused(tempfile::tempdir().unwrap().path(), "there is no *.json in it");
    refused(&Doctored::text("histories").path(), "it is not a history in JSON");
    let beginning = Doctored::new("shmworker/TimerWorkflow.json", |json| {
        json["events"].as_array_mut().unwrap().truncate(1);
    });
    refused(&beginning.path(), "it ends before its first workflow task");
    refused(&Doctored::text("{}").path(), "its first event is not WorkflowExecutionStarted");
    let unheard = Doctored::new("shmworker/TimerWorkflow.json", of_type("Unheard"));
    refused(&unheard.path(), "workflow type \"Unheard\" is not registered in this worker (registered are: ");
    ended(&shmworker(&[]), exit::USAGE, &[], &["<FILE|DIR>"]);
}
