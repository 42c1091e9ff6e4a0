//! `shmworker inspect` of what the dead have left. Of pools that run: `torture --attach`.

use std::{
    fs::OpenOptions,
    io::{BufRead, BufReader},
    os::unix::fs::{FileExt, PermissionsExt},
    path::Path,
    process::{Command, Output, Stdio},
};

fn shmworker(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shmworker"));
    command.args(args);
    command
}

fn inspect(what: &str) -> Output {
    shmworker(&["inspect", what]).output().unwrap()
}

#[track_caller]
fn finds(output: &Output, code: i32, wanted: &[&str]) {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in wanted {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
}

#[test]
fn a_file_is_read_and_its_damage_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("segment");
    let file = path.to_str().unwrap();
    assert!(shmworker(&["probe", "--file", file, "--fill", "60000"]).output().unwrap().status.success());
    finds(&inspect(file), 0, &["last seen running", "coordinator", "1024 attached", "no invariant is violated"]);

    let json = shmworker(&["inspect", "--json", file]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&json["pool"]["runs"], &json["audit"]["is_sound"]), (&false.into(), &true.into()), "{json}");
    assert_eq!((&json["participants"][0]["label"], &json["latency"]), (&"coordinator".into(), &().into()), "{json}");
    assert_eq!(json["blocks"]["sizes"][2]["attached"], 1024, "{json}");

    // The first mebibyte is followed by descriptors.
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[0xff; 768], 1 << 20).unwrap();
    let damaged =
        ["its word has a phase, yet it is damaged task word 0xffffffffffffffff", "error: the segment is damaged"];
    finds(&inspect(file), 1, &damaged);
    let json = shmworker(&["inspect", "--json", file]).output().unwrap();
    assert_eq!(json.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&json["audit"]["is_sound"], &json["tasks"]["damaged"]), (&false.into(), &1.into()), "{json}");
    let violations = json["audit"]["violations"].as_array().unwrap();
    assert!(violations.iter().any(|v| v.as_str().unwrap().contains(damaged[0])), "{json}");

    let text = dir.path().join("text");
    std::fs::write(&text, vec![b'x'; 10_000]).unwrap();
    finds(&inspect(text.to_str().unwrap()), 1, &["not a segment: it begins with 0x7878787878787878"]);
    finds(&inspect(dir.path().join("none").to_str().unwrap()), 1, &["cannot open the segment: No such file"]);
}

#[test]
fn a_named_segment_outlives_those_who_had_it() {
    let name = format!("inspect-{}", std::process::id());
    let mut holder =
        shmworker(&["probe", "--named", &name, "--hold"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    finds(&inspect(&name), 0, &[&format!("made by process {}", holder.id()), "no invariant is violated"]);
    holder.kill().unwrap();
    holder.wait().unwrap();
    finds(&inspect(&name), 0, &["4096 free, 0 reserved"]);
    assert!(shmworker(&["clean", &name]).output().unwrap().status.success());
    let gone = format!("no pool '{name}' runs");
    finds(&inspect(&name), 1, &[&gone, "nor is there a named segment or a file"]);
    assert!(!Path::new(&name).exists());
}

#[test]
fn what_may_not_be_read_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("segment");
    let file = path.to_str().unwrap();
    assert!(shmworker(&["probe", "--file", file]).output().unwrap().status.success());
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    // The program is opened before the privileges are gone, wherever it lies.
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--", "/proc/self/fd/0", "inspect", file]);
    let program = std::fs::File::open(env!("CARGO_BIN_EXE_shmworker")).unwrap();
    let output = command.stdin(program).output();
    let Ok(output) = output.map(|o| (String::from_utf8_lossy(&o.stderr).into_owned(), o)) else { return };
    if output.0.contains("setpriv: ") {
        println!("skipped: this user may not become another");
        return;
    }
    finds(&output.1, 1, &[&format!("error: cannot inspect '{file}': cannot open the segment: Permission denied")]);
}
