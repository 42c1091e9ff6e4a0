//! Gives `shmworker replay` the schema of a workflow's history: the part of Temporal's protocol that it reads as JSON.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "temporal")]
    history::write_schema()?;
    Ok(())
}

#[cfg(feature = "temporal")]
mod history {
    use prost::Message;
    use prost_types::{FileDescriptorProto, FileDescriptorSet};
    use std::{collections::HashSet, env, error::Error, fs, path::Path};

    const FILE: &str = "temporal/api/history/v1/message.proto";

    /// Of the whole protocol, as `temporalio-protos` publishes it: the file that has histories and what it imports,
    /// without comments, which are four fifths of it.
    pub(super) fn write_schema() -> Result<(), Box<dyn Error>> {
        let published = "DEP_TEMPORALIO_PROTOS_DESCRIPTOR_PATH";
        println!("cargo:rerun-if-env-changed={published}");
        let path = env::var(published).map_err(|_| format!("temporalio-protos does not set {published}"))?;
        let all = FileDescriptorSet::decode(&*fs::read(path)?)?.file;
        let mut wanted = HashSet::new();
        want(FILE, &all, &mut wanted);
        let mut file: Vec<FileDescriptorProto> = all.into_iter().filter(|f| wanted.contains(f.name())).collect();
        file.iter_mut().for_each(|f| f.source_code_info = None);
        let out = env::var("OUT_DIR")?;
        Ok(fs::write(Path::new(&out).join("history.bin"), FileDescriptorSet { file }.encode_to_vec())?)
    }

    fn want(name: &str, all: &[FileDescriptorProto], wanted: &mut HashSet<String>) {
        if wanted.insert(name.to_owned()) {
            let file = all.iter().find(|f| f.name() == name);
            file.into_iter().flat_map(|f| &f.dependency).for_each(|import| want(import, all, wanted));
        }
    }
}
