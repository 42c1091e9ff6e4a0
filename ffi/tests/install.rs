//! `ffi/install` as people call it, and the package that pkg-config and CMake find.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn ffi() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A directory of the test's own, empty.
fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("install").join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn install() -> Command {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let mut command = Command::new(ffi().join("install"));
    command.args(["--profile", "dev"]).env("CARGO_TARGET_DIR", target).env_remove("DESTDIR");
    command
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

fn succeed(command: &mut Command) -> String {
    let (code, stdout, stderr) = run(command);
    assert_eq!(code, Some(0), "{command:?}\n{stdout}{stderr}");
    stdout
}

/// All that is no directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> = entries
        .flat_map(|entry| if entry.file_type().unwrap().is_dir() { files(&entry.path()) } else { vec![entry.path()] })
        .collect();
    files.sort();
    files
}

#[test]
fn help_is_no_error() {
    for flag in ["--help", "-h"] {
        let (code, stdout, stderr) = run(install().arg(flag));
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        assert!(stdout.contains("--prefix DIR") && stdout.contains("--uninstall"), "{stdout}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let dir = scratch("wrong");
    let file = dir.join("file");
    fs::write(&file, "").unwrap();
    let below_a_file = file.join("prefix").display().to_string();
    for (arguments, status, named) in [
        (vec!["--bogus"], 2, "--bogus"),
        (vec!["here"], 2, "here"),
        (vec!["--prefix"], 2, "--prefix needs a value"),
        (vec!["--prefix", "here"], 2, "--prefix here: give an absolute path"),
        (vec!["--prefix=here"], 2, "--prefix here: give an absolute path"),
        (vec!["--destdir", "here"], 2, "--destdir here: give an absolute path"),
        (vec!["--libdir", "/usr/lib64"], 2, "--libdir /usr/lib64: "),
        (vec!["--libdir", "lib/../../lib"], 2, "--libdir lib/../../lib: "),
        (vec!["--libdir", ""], 2, "--libdir : "),
        (vec!["--prefix", &below_a_file], 1, file.to_str().unwrap()),
        (vec!["--uninstall", "--prefix", dir.to_str().unwrap()], 1, dir.to_str().unwrap()),
    ] {
        let (code, stdout, stderr) = run(install().args(&arguments));
        assert_eq!((code, stdout.as_str()), (Some(status), ""), "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("ffi/install: ") && stderr.contains(named), "{arguments:?}: {stderr}");
    }
    assert_eq!(files(&dir), [file]);
}

#[test]
fn what_was_not_built_is_not_installed() {
    let dir = scratch("unbuilt");
    let mut command = install();
    command.args(["--no-build", "--prefix"]).arg(dir.join("prefix")).env("CARGO_TARGET_DIR", dir.join("target"));
    let (code, _, stderr) = run(&mut command);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("target/debug/libshmworker.so"), "{stderr}");
    assert_eq!(files(&dir), [] as [PathBuf; 0]);
}

#[test]
fn all_that_was_installed_is_uninstalled() {
    let root = scratch("root");
    // Packagers set it in the environment; and a second time there is something to replace.
    for _ in 0..2 {
        succeed(install().args(["--prefix=/opt/its place", "--libdir", "lib64/multi"]).env("DESTDIR", &root));
    }
    let (include, lib) = (root.join("opt/its place/include"), root.join("opt/its place/lib64/multi"));
    let installed = files(&root);
    for file in [include.join("shmworker.hpp"), lib.join("libshmworker.so"), lib.join("pkgconfig/shmworker.pc")] {
        assert!(installed.contains(&file), "{} is not there: {installed:?}", file.display());
    }
    let other = lib.join("libother.so");
    fs::write(&other, "").unwrap();
    succeed(
        install()
            .args(["--uninstall", "--prefix", "/opt/its place", "--libdir", "lib64/multi", "--destdir"])
            .arg(&root),
    );
    assert_eq!(files(&root), [other]);
    assert!(!lib.join("cmake/shmworker").exists());
}

/// The first shell block of the page, as it stands, but for the profile and where it leaves its program.
#[test]
fn what_the_page_says_of_installing_works() {
    let home = scratch("home");
    let repository = ffi().parent().unwrap();
    let page = fs::read_to_string(repository.join("docs/ffi.md")).unwrap();
    let block = page.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let (prefix, rest) = block.split_once("ffi/install ").unwrap();
    assert_eq!(prefix, "");
    let program = home.join("hello").display().to_string();
    let script =
        format!("ffi/install --profile dev {}", rest.replace("-o hello && ./hello", "-o $HOME/hello && $HOME/hello"));
    let mut shell = Command::new("sh");
    shell.args(["-e", "-c", &script]).current_dir(repository).env("HOME", &home).env_remove("DESTDIR");
    // Where those who build have what is said to lie in their home by default.
    for (name, usual) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
        let place = std::env::var_os(name).map(PathBuf::from);
        shell.env(name, place.unwrap_or_else(|| std::env::home_dir().unwrap().join(usual)));
    }
    shell.env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap());
    let said = succeed(&mut shell);
    assert!(said.ends_with("\nHello, World\n") && fs::exists(program).unwrap(), "{said}");
}

#[test]
fn versions_are_one_and_cmake_compares_them() {
    let dir = scratch("versions");
    let prefix = dir.join("prefix");
    succeed(install().arg("--prefix").arg(&prefix));
    let version = env!("CARGO_PKG_VERSION");
    let header = fs::read_to_string(prefix.join("include/shmworker.h")).unwrap();
    assert!(header.contains(&format!("#define SHMWORKER_VERSION \"{version}\"\n")));
    let mut pkg_config = Command::new("pkg-config");
    pkg_config.args(["--modversion", "shmworker"]).env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"));
    assert_eq!(succeed(&mut pkg_config).trim_end(), version);

    // One run of CMake, since each takes half a second.
    let numbers: Vec<u32> = version.split('.').map(|number| number.parse().unwrap()).collect();
    let [major, minor, patch] = numbers[..] else { panic!("{version} are no three numbers") };
    let accepted = [
        format!("{major}.{minor}"),
        version.into(),
        format!("{version};EXACT"),
        format!("{major}.{minor}...{major}.{}", minor + 1),
        format!("0.0...{version}"),
    ];
    let refused = [
        format!("{major}.{}", minor + 1),
        format!("{major}.{minor}.{}", patch + 1),
        format!("{}", major + 1),
        format!("{major}.{};EXACT", minor + 1),
        format!("0.0...<{version}"),
        format!("{major}.{}...{}", minor + 1, major + 1),
    ];
    let mut project = "cmake_minimum_required(VERSION 3.19)\nproject(versions C)\n".to_owned();
    for (versions, is_found) in [(&accepted[..], "1"), (&refused[..], "0")] {
        for version in versions {
            project += &format!(
                "unset(shmworker_DIR CACHE)\nfind_package(shmworker {} QUIET)\nif(NOT \"${{shmworker_FOUND}}\" EQUAL {is_found})\n  \
                 message(FATAL_ERROR \"{version}: ${{shmworker_FOUND}}\")\nendif()\n",
                version.replace(';', " ")
            );
        }
    }
    fs::write(dir.join("CMakeLists.txt"), project).unwrap();
    let mut cmake = Command::new("cmake");
    cmake.arg("-S").arg(&dir).arg("-B").arg(dir.join("build"));
    succeed(cmake.arg(format!("-DCMAKE_PREFIX_PATH={}", prefix.display())));
}
