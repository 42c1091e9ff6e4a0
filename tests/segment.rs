//! Segments from outside: limits that leave too little are errors with numbers, and never a signal; what a killed pool leaves
//! under its name can be removed, and what a living one has can't.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

const SHMWORKER: &str = env!("CARGO_BIN_EXE_shmworker");

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A shell that ends as this binary. Its first argument is the binary, the others follow.
fn shell(script: &str, args: &[&str]) -> Output {
    Command::new("sh").args(["-ec", script, SHMWORKER]).args(args).output().unwrap()
}

/// The same where /dev/shm is a file system of its own, of this size. `None`: this user can't have such a place here.
fn shell_with_shm(size: &str, script: &str) -> Option<Output> {
    let mount = format!("mount -t tmpfs -o size={size} shmworker-test /dev/shm");
    let unshare = |script: &str| {
        Command::new("unshare").args(["--user", "--map-root-user", "--mount", "sh", "-ec", script, SHMWORKER]).output()
    };
    match unshare(&mount) {
        Ok(output) if output.status.success() => Some(unshare(&format!("{mount}\n{script}")).unwrap()),
        refused => {
            eprintln!("skipped: no user and mount namespace to be had here: {refused:?}");
            None
        }
    }
}

/// It failed by itself, in one line that begins and ends so; the numbers are between.
#[track_caller]
fn fails(output: &Output, start: &str, end: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr.starts_with(start) && stderr.ends_with(&format!("{end}\n")), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

/// It accepted some payloads and refused the next one for this reason.
#[track_caller]
fn is_filled(output: &Output, start: &str, end: &str) {
    let stdout = text(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    let (count, refusal) = stdout
        .strip_prefix("made\naccepted ")
        .and_then(|rest| rest.split_once(", then: "))
        .unwrap_or_else(|| panic!("{stdout}"));
    assert_ne!(count, "0");
    assert!(refusal.starts_with(start) && refusal.ends_with(&format!("{end}\n")), "{stdout}");
}

#[test]
fn a_limit_on_file_sizes_is_named_before_the_kernel_kills_for_it() {
    let output = shell("ulimit -f 1000; exec \"$0\" probe", &[]);
    fails(
        &output,
        "error: cannot make a shared-memory segment: ",
        &format!(" the limit on file sizes is {}: raise it with 'ulimit -f'", 1000 * 512),
    );
    // It binds the size, not the memory.
    assert_eq!(text(&shell("exec \"$0\" probe", &[]).stdout), "made\n");
}

#[test]
fn a_full_file_system_is_an_error_at_the_start_and_later() {
    let advice = " free: make room there, or enlarge it";
    let start = "error: cannot make a shared-memory segment: ";
    for backing in ["--named x", "--file /dev/shm/x"] {
        let script = format!("\"$0\" probe {backing}");
        let Some(output) = shell_with_shm("1m", &script) else { return };
        fails(&output, start, advice);
        // Nothing stays of what could not be made.
        let Some(output) = shell_with_shm("1m", &format!("\"$0\" probe {backing} || ls -A /dev/shm")) else { return };
        assert_eq!(text(&output.stdout), "");

        let Some(output) = shell_with_shm("9m", &format!("\"$0\" probe {backing} --fill 3000")) else { return };
        is_filled(
            &output,
            "no memory for a payload of 3000 bytes: 1048576 bytes of shared memory are wanted, ",
            advice,
        );
        let Some(output) = shell_with_shm("64m", &format!("\"$0\" probe {backing} --reserve")) else { return };
        fails(&output, start, advice);
    }
}

#[test]
fn a_full_arena_says_how_many_blocks_there_are() {
    let output = shell("exec \"$0\" probe --fill 20000000", &[]);
    is_filled(
        &output,
        "no block is free for a payload of 20000000 bytes, all 4 are taken",
        "take results, then try again",
    );
}

/// A process that has a named segment.
struct Owner {
    child: Child,
    pool: String,
    path: PathBuf,
}

impl Owner {
    fn start(what: &str, args: &[&str]) -> Owner {
        let pool = format!("test-{}-{what}", std::process::id());
        let mut child = Command::new(SHMWORKER)
            .args(["probe", "--hold", "--named", &pool])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "made");
        if args.contains(&"--fill") {
            let filled = lines.next().unwrap().unwrap();
            assert!(filled.starts_with("accepted "), "{filled}");
        }
        // SAFETY: it asks for a number.
        let uid = unsafe { libc::geteuid() };
        Owner { path: format!("/dev/shm/shmworker-{uid}-{pool}").into(), child, pool }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn clean(&self, args: &[&str]) -> String {
        let output = Command::new(SHMWORKER).arg("clean").arg(&self.pool).args(args).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        text(&output.stdout)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.path);
    }
}

#[test]
fn what_a_killed_pool_leaves_is_removed_and_a_living_one_keeps_its_own() {
    let mut owner = Owner::start("clean", &[]);
    let nothing = "nothing is left over\n";
    let line = format!("{}, made by process {}\n", owner.path.display(), owner.child.id());
    let kept = line.replace(", made", ", which is in use, made");
    assert_eq!(owner.clean(&[]), format!("kept {kept}{nothing}"));
    assert!(owner.path.exists(), "taken from the living");

    owner.kill();
    assert!(owner.path.exists(), "there is nothing to look at after a death");
    assert_eq!(owner.clean(&["--dry-run"]), format!("would remove {line}"));
    assert!(owner.path.exists(), "a dry run removed it");
    assert_eq!(owner.clean(&[]), format!("removed {line}"));
    assert!(!owner.path.exists());
    assert_eq!(owner.clean(&[]), nothing);
}

#[test]
fn what_a_killed_pool_leaves_can_be_looked_at_as_can_a_living_one() {
    let mut owner = Owner::start("look", &["--fill", "10"]);
    let look = |path| text(&shell("exec \"$0\" probe --open \"$1\"", &[path]).stdout);
    let path = owner.path.to_str().unwrap().to_owned();
    let found = "4096 descriptors and 0 blocks in use\n";
    assert_eq!(look(&path), found);
    owner.kill();
    assert_eq!(look(&path), found);
    let none = shell("exec \"$0\" probe --open \"$0\"", &[]);
    fails(&none, "error: not a segment: it begins with 0x", ", not with 0x726b726f776d6873");
}

#[test]
fn a_pool_that_ends_in_order_leaves_nothing() {
    let mut owner = Owner::start("orderly", &[]);
    drop(owner.child.stdin.take());
    assert!(owner.child.wait().unwrap().success());
    assert!(!owner.path.exists());
}

#[test]
fn a_name_is_taken_over_from_the_dead_alone() {
    let mut owner = Owner::start("heir", &[]);
    let again = || shell("exec \"$0\" probe --named \"$1\"", &[&owner.pool]);
    let refused = again();
    let start = format!("error: '{}' belongs to a pool that is alive", owner.path.display());
    fails(&refused, &start, &format!(", made by process {}: end that, or choose another name", owner.child.id()));
    owner.kill();
    let heir = shell("exec \"$0\" probe --named \"$1\"", &[&owner.pool]);
    assert_eq!(text(&heir.stdout), "made\n");
}
