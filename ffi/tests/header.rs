//! The committed header is the one that cbindgen makes of the sources, says of each function what has to be said, and the test programs try
//! what it declares.

use std::{collections::BTreeMap, fs, path::Path};

#[test]
fn the_header_is_fresh() {
    let ffi = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut config = cbindgen::Config::from_file(ffi.join("cbindgen.toml")).unwrap();
    config.after_includes = config.after_includes.map(|text| text.replace("{version}", env!("CARGO_PKG_VERSION")));
    // cbindgen knows no inline functions: these stand in a file of their own.
    let inline = fs::read_to_string(ffi.join("src/context.h")).unwrap();
    let contexts = ffi.join("../src/plugin/abi.rs");
    let builder = cbindgen::Builder::new().with_config(config).with_trailer(inline);
    let mut made = Vec::new();
    builder.with_crate(ffi).with_src(contexts).generate().unwrap().write(&mut made);
    let made = String::from_utf8(made).unwrap();

    let committed = ffi.join("include/shmworker.h");
    if std::env::var_os("SHMWORKER_BLESS").is_some() {
        fs::write(&committed, &made).unwrap();
    }
    assert!(
        fs::read_to_string(&committed).unwrap_or_default() == made,
        "{} is stale: write it anew with SHMWORKER_BLESS=1; it should read\n{made}",
        committed.display(),
    );
}

#[test]
fn each_function_says_which_threads_may_call_it_and_what_a_fork_does() {
    let header = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("include/shmworker.h")).unwrap();
    let library = header.split("SHMWORKER_CONTEXT_H").next().unwrap();
    let mut comment = String::new();
    let mut functions = 0;
    for line in library.lines() {
        if let Some(text) = line.strip_prefix("//") {
            comment += text;
            continue;
        }
        if line.contains(" shmworker_") && line.contains('(') && !line.starts_with(' ') && !line.contains("(*") {
            functions += 1;
            assert!(comment.contains("Threads: "), "{line}: which threads may call it?");
            assert!(
                comment.contains("After a fork: ") || comment.contains("Fork: "),
                "{line}: what does a fork do to it?"
            );
        }
        comment.clear();
    }
    assert!(functions > 30, "{functions}");
}

/// What stands in the parentheses that open this text, split at its own commas.
fn in_parentheses(text: &str) -> Vec<String> {
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in text.chars() {
        depth += i32::from("([{".contains(c)) - i32::from(")]}".contains(c));
        match c {
            '(' if depth == 1 => {}
            ')' if depth == 0 => break,
            ',' if depth == 1 => parts.push(String::new()),
            _ => parts.last_mut().unwrap().push(c),
        }
    }
    parts.iter().map(|part| part.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn without_comments(source: &str) -> String {
    source.lines().map(|line| line.split("//").next().unwrap_or("").to_owned() + "\n").collect()
}

/// The functions of the header, with the parameters of each.
fn functions(header: &str) -> BTreeMap<String, Vec<String>> {
    let mut functions = BTreeMap::new();
    let (mut at, header) = (0, without_comments(header));
    for line in header.split_inclusive('\n') {
        // Bodies are indented, as are the tables of functions.
        if let Some(end) = line.find('(')
            && line.starts_with(char::is_alphabetic)
            && let Some(start) = line[..end].rfind("shmworker_")
            && line[start..end].chars().all(|c| c.is_alphanumeric() || c == '_')
        {
            functions.insert(line[start..end].to_owned(), in_parentheses(&header[at + end..]));
        }
        at += line.len();
    }
    functions
}

/// The arguments of each call of this function.
fn calls(source: &str, name: &str) -> Vec<Vec<String>> {
    let is_name = |at: usize| !source[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    let call = format!("{name}(");
    let found = source.match_indices(&call).filter(|(at, _)| is_name(*at));
    found.map(|(at, _)| in_parentheses(&source[at + name.len()..])).collect()
}

/// With `misuse.c` and `state.c`, which say what comes of it: each pointer was NULL, each length 0 and `SIZE_MAX`, in some call.
#[test]
fn each_function_is_tried_with_null_and_with_lengths_that_nothing_has() {
    let ffi = Path::new(env!("CARGO_MANIFEST_DIR"));
    let functions = functions(&fs::read_to_string(ffi.join("include/shmworker.h")).unwrap());
    assert!(functions.len() > 60 && functions.contains_key("shmworker_context_argument"), "{functions:?}");
    let read = |name: &str| without_comments(&fs::read_to_string(ffi.join("tests/c").join(name)).unwrap());
    let misuse = read("misuse.c") + &read("state.c");
    let mut missing = Vec::new();
    for (name, parameters) in &functions {
        let calls = calls(&misuse, name);
        if calls.is_empty() {
            missing.push(format!("{name} is not called"));
        }
        for (i, parameter) in parameters.iter().enumerate() {
            let needed: &[&str] = match parameter {
                length if length.ends_with(" len") || length.ends_with(" capacity") => &["0", "SIZE_MAX"],
                pointer if pointer.contains('*') || pointer.contains("_fn ") => &["NULL"],
                _ => &[],
            };
            for needed in needed {
                // `none`: handles that are none, of which NULL is one.
                if !calls.iter().any(|call| call[i] == *needed || call[i] == "none" && *needed == "NULL") {
                    missing.push(format!("{name} is not called with {needed} for '{parameter}'"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "in misuse.c or state.c:\n{}", missing.join("\n"));
}
