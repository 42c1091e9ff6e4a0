//! Scenes: tests that are processes of their own, so that each may fork, and ends with all that it has started.
//!
//! A test program without a harness gives its scenes to [`run`], as first of its `main` or after `shmworker::init`. As a test
//! runner it executes itself again for each. A scene fails by a panic, and by taking longer than [`PATIENCE`].

use libtest_mimic::{Arguments, Failed, Trial};
use nix::{
    sys::{
        mman::{MapFlags, ProtFlags, mmap_anonymous},
        resource::{Resource, setrlimit},
    },
    unistd::alarm,
};
use std::{
    num::NonZeroUsize,
    process::{Command, ExitCode, Output, Stdio},
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::Duration,
};

/// A scene's name comes behind this.
const SCENE: &str = "--scene";
/// Seconds after which a scene is ended by SIGALRM: longer than `eventually` waits, which says for what.
const PATIENCE: u32 = 180;
const PAUSE: Duration = Duration::from_millis(1);

pub(crate) type Scene = (&'static str, fn());

/// The functions of these names, with them.
#[macro_export]
macro_rules! scenes {
    ($($scene:ident),* $(,)?) => { &[$((stringify!($scene), $scene as fn())),*] };
}

/// Plays the scene that this process was executed for; else runs each of them as a test.
pub(crate) fn run(scenes: &'static [Scene]) -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let [_, flag, name] = &args[..]
        && flag == SCENE
    {
        let (_, play) = scenes.iter().find(|(other, _)| other == name).expect("a scene");
        alarm::set(PATIENCE);
        // Many die here, and nobody is to look at their memory.
        setrlimit(Resource::RLIMIT_CORE, 0, 0).unwrap();
        play();
        return ExitCode::SUCCESS;
    }
    let trials = scenes.iter().map(|&(name, _)| Trial::test(name, move || play(name))).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// This program, about to play that scene.
pub(crate) fn command(scene: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([SCENE, scene]).stdin(Stdio::null());
    command
}

fn play(scene: &str) -> Result<(), Failed> {
    let Output { status, stdout, stderr } = command(scene).output()?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    if status.success() { Ok(()) } else { Err(format!("{status}\n{}{}", text(&stdout), text(&stderr)).into()) }
}

/// Returns as soon as `is_so`. This is the one place where a scene pauses, between two looks.
pub(crate) fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        std::thread::sleep(PAUSE);
    }
}

/// So many words that this process shares with those that it forks from now on, all 0.
pub(crate) fn words(n: usize) -> &'static [AtomicU64] {
    let len = NonZeroUsize::new(n * size_of::<AtomicU64>()).unwrap();
    // SAFETY: a new mapping, which replaces none.
    let start =
        unsafe { mmap_anonymous(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED) };
    // SAFETY: zeroed, aligned to a page, as long as that, and never unmapped.
    unsafe { std::slice::from_raw_parts(start.unwrap().cast::<AtomicU64>().as_ptr(), n) }
}

/// Waits until a word that others change has at least this value.
pub(crate) fn at_least(word: &AtomicU64, n: u64) {
    until(|| word.load(SeqCst) >= n);
}
