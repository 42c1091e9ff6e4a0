//! The command lines on the pages are understood, with sources, jobs and Temporal in the build.

use super::args::{Parsed, parse};
use crate::temporal::sample;
use std::{ffi::OsString, fs, path::Path};

/// The words of a command, as a shell takes them, up to what is the shell's own: a pipe, a redirection, a comment.
fn words(line: &str) -> Vec<OsString> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take().map(OsString::from)),
            (None, '|' | '<') => break,
            (None, '>') => {
                // The number of a stream is no argument.
                word = word.filter(|word| word != "2");
                break;
            }
            (None, '#') if word.is_none() => break,
            _ => word.get_or_insert_default().push(c),
        }
    }
    assert_eq!(quote, None, "a quote is left open: {line}");
    words.extend(word.map(OsString::from));
    words
}

fn below(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(fs::read_to_string(path).unwrap());
        }
    }
}

/// What a program of one's own is given is understood by the same commands.
fn of_us(line: &str) -> Option<String> {
    let line = line.strip_prefix("$ ").unwrap_or(line);
    let own = line.strip_prefix("cargo run -- ").map(|rest| format!("shmworker {rest}"));
    own.or_else(|| line.starts_with("shmworker ").then(|| line.to_owned()))
}

#[test]
fn each_command_line_on_the_pages_is_understood() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![fs::read_to_string(root.join("README.md")).unwrap()];
    below(&root.join("docs"), &mut pages);
    let mut seen = 0;
    for page in &pages {
        let mut in_shell = false;
        for line in page.lines() {
            if let Some(language) = line.trim_start().strip_prefix("```") {
                in_shell = ["sh", "bash", "console"].contains(&language);
            } else if let Some(command) = of_us(line).filter(|_| in_shell) {
                match parse(words(&command), &sample::worker()) {
                    Ok(Parsed::Run(_)) => seen += 1,
                    Ok(Parsed::Text(text)) => panic!("'{command}' prints: {text}"),
                    Err(error) => panic!("'{command}': {error}"),
                }
            }
        }
    }
    assert!(seen > 20, "commands are no longer found: {seen}");
}
