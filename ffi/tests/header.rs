//! The committed header is the one that cbindgen makes of the sources.

use std::{fs, path::Path};

#[test]
fn the_header_is_fresh() {
    let ffi = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(ffi.join("cbindgen.toml")).unwrap();
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
