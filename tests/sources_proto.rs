//! The committed code of the protocol is the one that its `.proto` gives.

use std::{fs, path::Path};

/// What is generated from the `.proto`: the client's half for the library, the server's for the example.
#[test]
fn the_generated_code_is_fresh() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = protox::compile(["shmworker/source/v1/source.proto"], [root.join("proto")]).unwrap();
    for (is_server, committed) in [(false, "src/sources/grpc/v1.rs"), (true, "examples/source_server/v1.rs")] {
        let out = tempfile::tempdir().unwrap();
        let builder = tonic_prost_build::configure().build_server(is_server).build_client(!is_server);
        builder.out_dir(out.path()).compile_fds(files.clone()).unwrap();
        let made = fs::read_to_string(out.path().join("shmworker.source.v1.rs")).unwrap();
        let committed = root.join(committed);
        if std::env::var_os("SHMWORKER_BLESS").is_some() {
            fs::write(&committed, &made).unwrap();
        }
        let is_fresh = fs::read_to_string(&committed).unwrap_or_default() == made;
        assert!(is_fresh, "{} is stale: write it anew with SHMWORKER_BLESS=1", committed.display());
    }
}
