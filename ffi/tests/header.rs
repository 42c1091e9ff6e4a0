//! The committed header is the one that cbindgen makes of the sources, and says of each function what has to be said.

use std::{fs, path::Path};

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
