//! What the command line says of itself: help of each command and flag, suggestions, completions, manual pages.

use shmworker::cli::exit;
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

fn shmworker(args: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_shmworker"));
    command.args(args).env_clear().env("HOME", home.path()).current_dir(home.path()).stdin(Stdio::null());
    command.output().unwrap()
}

fn text(args: &[&str]) -> String {
    let output = shmworker(args);
    assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that `--help` shows, with what it says of them.
fn commands() -> Vec<(String, String)> {
    let help = text(&["--help"]);
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let listed = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let commands: Vec<_> = listed
        .map(|line| line.trim().split_once(' ').map_or((line.trim(), ""), |(name, about)| (name, about.trim())))
        .filter(|(name, _)| *name != "help")
        .map(|(name, about)| (name.to_owned(), about.to_owned()))
        .collect();
    let names: BTreeSet<_> = commands.iter().map(|(name, _)| name.as_str()).collect();
    let of_temporal: &[&str] = if cfg!(feature = "temporal") { &["run", "starter", "replay"] } else { &[] };
    let of_all = ["torture", "inspect", "resize", "clean", "doctor", "completions", "man"];
    for known in of_all.iter().chain(of_temporal) {
        assert!(names.contains(known), "'{known}' is not in {names:?}");
    }
    assert!(!names.contains("probe"), "it is for tests");
    commands
}

/// The long flags of a command, each with what its help says.
fn flags(command: &str) -> Vec<(String, String)> {
    let mut flags: Vec<(String, String)> = Vec::new();
    // What stands behind the flags may begin a line with one.
    for line in text(&[command, "--help"]).lines().take_while(|line| !line.starts_with("Example")) {
        let entry = line.trim_start();
        let is_flag = entry.starts_with("--") || entry.starts_with('-') && entry.contains(", --");
        let indent = line.len() - entry.len();
        if is_flag && indent <= 6 {
            let from = entry.find("--").unwrap();
            let rest = &entry[from..];
            let name = rest.split([' ', '=']).next().unwrap().trim_end_matches("...");
            let about = rest.split_once("  ").map_or("", |(_, about)| about.trim());
            flags.push((name.to_owned(), about.to_owned()));
        } else if let Some((_, about)) = flags.last_mut()
            && indent > 6
        {
            about.push_str(entry);
        }
    }
    assert!(
        flags.iter().any(|(name, _)| name == "--help") && flags.iter().any(|(name, _)| name == "--config"),
        "{flags:?}"
    );
    flags
}

#[test]
fn each_command_and_each_flag_says_what_it_is() {
    for (command, about) in commands() {
        assert!(about.len() > 10, "'{command}' says nothing");
        let help = text(&[&command, "--help"]);
        let example = help.split_once("Example:\n").or_else(|| help.split_once("Examples:\n"));
        let (_, example) = example.unwrap_or_else(|| panic!("'{command} --help' has no example"));
        assert!(example.lines().any(|line| line.contains(&format!("shmworker {command}"))), "{command}: {example}");
        for (flag, about) in flags(&command) {
            assert!(about.len() > 5, "'{command} {flag}' says nothing: '{about}'");
        }
        assert_eq!(text(&[&command, "-h"]), help, "{command}: two texts would be one too many");
    }
}

/// What stands on its own in a source: its name, and its text up to the next one.
fn items(source: &str) -> Vec<(&str, String)> {
    let mut items: Vec<(&str, String)> = Vec::new();
    for line in source.lines() {
        let words = line.trim_start_matches("pub(crate) ").trim_start_matches("async ");
        let name = ["fn ", "const ", "static ", "    pub(crate) fn ", "    fn "]
            .iter()
            .find_map(|word| words.strip_prefix(word));
        match (name, items.last_mut()) {
            (Some(rest), _) => {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                items.push((&rest[..end], line.to_owned()));
            }
            (None, Some((_, text))) => {
                text.push('\n');
                text.push_str(line);
            }
            (None, None) => {}
        }
    }
    items
}

/// The text of a test with that of all in its file that it names, or they do.
fn all_of(test: &str, items: &[(&str, String)]) -> String {
    let (mut names, mut text) = (BTreeSet::from([test]), String::new());
    let mut left = vec![test];
    while let Some(name) = left.pop() {
        for (_, own) in items.iter().filter(|(other, _)| *other == name) {
            text.push_str(own);
            let words: BTreeSet<&str> = own.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            left.extend(
                items.iter().map(|(other, _)| *other).filter(|other| words.contains(other) && names.insert(other)),
            );
        }
    }
    text
}

/// `tests/tried.txt` says which test tries which flag. It is complete, and each of these tests has that flag.
#[test]
fn each_flag_is_tried_by_a_test() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let table = fs::read_to_string(tests.join("tried.txt")).unwrap();
    let mut tried = BTreeSet::new();
    for row in table.lines() {
        let [commands, flag, file, test] = row.split(' ').collect::<Vec<_>>()[..] else { panic!("{row}") };
        let source = fs::read_to_string(tests.join(file)).unwrap_or_else(|e| panic!("{row}: {e}"));
        assert!(source.contains("CARGO_BIN_EXE_shmworker") || source.contains("mod common;"), "no program: {row}");
        let items = items(&source);
        assert!(items.iter().any(|(name, text)| *name == test && text.starts_with("fn ")), "no such test: {row}");
        let wanted = if flag == "-" { format!("\"{commands}\"") } else { flag.to_owned() };
        let text = all_of(test, &items);
        let is_whole =
            |(at, _): (usize, &str)| !text[at + wanted.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '-');
        let has_short = SHORT.iter().any(|(long, short)| *long == flag && text.contains(short));
        assert!(text.match_indices(&wanted).any(is_whole) || has_short, "it is not in that test: {row}");
        tried.extend(commands.split(',').map(|command| (command.to_owned(), flag.to_owned())));
    }
    let mut there = BTreeSet::from([("*".to_owned(), "--config".to_owned())]);
    for (command, _) in commands() {
        let own =
            flags(&command).into_iter().map(|(flag, _)| flag).filter(|flag| flag != "--help" && flag != "--config");
        let own: Vec<String> = own.collect();
        let none = own.is_empty().then(|| "-".to_owned());
        there.extend(own.into_iter().chain(none).map(|flag| (command.clone(), flag)));
    }
    let untried: Vec<_> = there.difference(&tried).collect();
    assert!(untried.is_empty(), "in tests/tried.txt are missing: {untried:?}");
    // Of what this set of features lacks nothing can be said.
    if cfg!(all(feature = "temporal", feature = "sources")) {
        let unknown: Vec<_> =
            tried.difference(&there).filter(|(command, flag)| (&**command, &**flag) != ("run", "--workers")).collect();
        assert!(unknown.is_empty(), "tests/tried.txt has flags that are none: {unknown:?}");
    }
}

/// Under which a test may have them as well.
const SHORT: [(&str, &str); 6] = [
    ("--num-workflow-workers", "\"-w"),
    ("--workers", "\"-w"),
    ("--num-workflows", "\"-n"),
    ("--ordered", "\"-k\""),
    ("--quiet", "\"-q\""),
    ("--namespace", "\"-N\""),
];

/// A letter too many, in each command.
#[test]
fn a_flag_that_is_nearly_right_is_answered_with_the_right_one() {
    for (command, _) in commands() {
        for (flag, _) in flags(&command) {
            let wrong = format!("{flag}x");
            let output = shmworker(&[&command, &wrong]);
            let expected = format!("error: unknown flag '{wrong}': did you mean '{flag}'?\n");
            assert_eq!(String::from_utf8_lossy(&output.stderr), expected, "{command}");
            assert_eq!(output.status.code(), Some(exit::USAGE.into()));
        }
    }
}

#[test]
fn a_command_that_is_nearly_right_is_answered_with_the_right_one() {
    for (command, _) in commands() {
        let output = shmworker(&[&format!("{command}x")]);
        let expected = format!("error: unknown command '{command}x': did you mean '{command}'?\n");
        assert_eq!(String::from_utf8_lossy(&output.stderr), expected);
        assert_eq!(output.status.code(), Some(exit::USAGE.into()));
    }
}

/// What bash offers for the last of these words.
fn completed(script: &Path, words: &[&str]) -> BTreeSet<String> {
    let (last, before) = (words.len() - 1, words.len().saturating_sub(2));
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let program = format!(
        "set -e; source '{}'; COMP_WORDS=({}); COMP_CWORD={last}; COMPREPLY=(); \
         _shmworker shmworker '{}' '{}' || true; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        script.display(),
        quoted.join(" "),
        words[last],
        words[before],
    );
    let output = Command::new("bash").args(["--norc", "--noprofile", "-c", &program]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn bash_loads_the_completions_and_completes() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("shmworker");
    fs::write(&script, text(&["completions", "bash"])).unwrap();
    let checked = Command::new("bash").arg("-n").arg(&script).output().unwrap();
    assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
    let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(completed(&script, &["shmworker", "ins"]), set(&["inspect"]));
    assert_eq!(completed(&script, &["shmworker", "clean", "--dry"]), set(&["--dry-run"]));
    assert!(!completed(&script, &["shmworker", ""]).contains("probe"));
    for (command, _) in commands() {
        assert!(completed(&script, &["shmworker", &command[..command.len() - 1]]).contains(&command), "{command}");
        let offered = completed(&script, &["shmworker", &command, "--"]);
        for (flag, _) in flags(&command) {
            assert!(offered.contains(&flag), "'{command} {flag}' is not offered: {offered:?}");
        }
    }
}

#[test]
fn other_shells_have_completions_too_and_what_is_no_shell_is_named() {
    assert!(text(&["completions", "zsh"]).starts_with("#compdef shmworker\n"));
    assert!(text(&["completions", "fish"]).contains("complete -c shmworker"));
    let output = shmworker(&["completions", "csh"]);
    let line = "error: invalid value 'csh' for '<SHELL>': it must be bash, zsh, fish, elvish or powershell\n";
    assert_eq!(String::from_utf8_lossy(&output.stderr), line);
    assert_eq!(output.status.code(), Some(exit::USAGE.into()));
}

#[test]
fn each_command_has_a_manual_page_that_renders() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man/man1");
    assert!(text(&["man", pages.to_str().unwrap()]).is_empty());
    let names: BTreeSet<_> =
        fs::read_dir(&pages).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let mut expected: BTreeSet<_> = commands().into_iter().map(|(name, _)| format!("shmworker-{name}.1")).collect();
    expected.insert("shmworker.1".to_owned());
    assert_eq!(names, expected);
    assert_eq!(text(&["man"]), fs::read_to_string(pages.join("shmworker.1")).unwrap());
    let Ok(groff) = Command::new("groff").arg("--version").output() else {
        println!("skipped: no groff to render with");
        return;
    };
    assert!(groff.status.success());
    for name in names {
        let page =
            Command::new("groff").args(["-man", "-ww", "-Tascii", "-P-cbou"]).arg(pages.join(&name)).output().unwrap();
        assert!(page.status.success() && page.stderr.is_empty(), "{name}: {page:?}");
        let page = String::from_utf8(page.stdout).unwrap();
        for part in ["NAME", "SYNOPSIS", "OPTIONS", "Example"] {
            assert!(page.contains(part) || name == "shmworker.1", "{name} has no {part}: {page}");
        }
    }
}

#[test]
fn pages_that_can_not_be_written_are_an_error() {
    let output = shmworker(&["man", "/proc/none"]);
    let line = "error: cannot write '/proc/none': No such file or directory (os error 2)\n";
    assert_eq!((&*String::from_utf8_lossy(&output.stderr), output.status.code()), (line, Some(exit::FAILURE.into())));
}
