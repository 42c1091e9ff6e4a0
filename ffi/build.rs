//! The name by which programs find the library at run time: with the major number of its ABI, so that one which was compiled for
//! another does not load it. `tests/c_programs.rs` compares the number with the header's.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libshmworker.so.1");
}
