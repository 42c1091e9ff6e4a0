//! Pools that lie in a file whose coordinator alone is killed: workers finish what they run, wait for another, and go on with it.
//!
//! `SHMWORKER_STATE_KILLS=500` kills that often in each scene that kills at random.

#[path = "common/eventually.rs"]
mod eventually;
#[path = "common/program.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod program;
#[path = "common/scene.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod scene;

use eventually::eventually;
use nix::{
    errno::Errno,
    sys::{
        prctl::set_child_subreaper,
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid},
};
use shmworker::{
    Pool, Tasks,
    pool::{Builder, Finished, Task, TaskOptions},
};
use std::{
    collections::BTreeSet,
    path::Path,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

fn main() -> ExitCode {
    scene::run(scenes![workers_finish_what_they_run_and_go_on_with_another_coordinator])
}

// ---- what scenes share ----------------------------------------------------------------------------------------------

const TASKS: u64 = 60;
/// These wait until [`Words::go`].
const HELD: u64 = 2;
const SQUARE: Task<u64, u64> = Task::named("square");

/// What the processes of a scene tell each other.
#[derive(Clone, Copy)]
struct Words(&'static [AtomicU64]);

impl Words {
    fn new() -> Words {
        Words(scene::words(2 + TASKS as usize))
    }

    /// The coordinator's process, once tasks were submitted.
    fn coordinator(self) -> &'static AtomicU64 {
        &self.0[0]
    }

    /// Tasks that wait may end.
    fn go(self) -> &'static AtomicU64 {
        &self.0[1]
    }

    /// How often this task was begun.
    fn begun(self, x: u64) -> &'static AtomicU64 {
        &self.0[2 + x as usize]
    }

    fn tasks(self) -> Tasks {
        let mut tasks = Tasks::new();
        tasks.function("square", move |x: u64| {
            self.begun(x).fetch_add(1, SeqCst);
            if x < HELD {
                scene::at_least(self.go(), 1);
            }
            x * x
        });
        tasks
    }
}

fn builder(state: &Path) -> Builder {
    Pool::builder().workers(HELD as usize).file(state)
}

/// A pool that another process leads, which submits what it is told to, until its coordinator is killed: when all workers run.
fn killed(words: Words, builder: Builder, submits: impl FnOnce(&Pool)) {
    words.coordinator().store(0, SeqCst);
    // SAFETY: this process has one thread but for those of pools.
    match unsafe { nix::unistd::fork() }.unwrap() {
        ForkResult::Child => {
            let led = || {
                let pool = builder.fork(words.tasks()).unwrap();
                submits(&pool);
                let coordinator = pool.coordinator_pid();
                words.coordinator().store(coordinator.into(), SeqCst);
                // Its results are the next one's to take.
                scene::until(|| kill(Pid::from_raw(coordinator as i32), None) == Err(Errno::ESRCH));
                std::mem::forget(pool);
            };
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(led));
            // SAFETY: nothing of this process is needed any more.
            unsafe { libc::_exit(result.is_err().into()) }
        }
        ForkResult::Parent { child } => {
            scene::at_least(words.coordinator(), 1);
            (0..HELD).for_each(|x| scene::at_least(words.begun(x), 1));
            kill(Pid::from_raw(words.coordinator().load(SeqCst) as i32), Signal::SIGKILL).unwrap();
            assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
        }
    }
}

/// The children of this process, to which those come whose coordinator has died.
fn orphans() -> BTreeSet<u32> {
    let children = std::fs::read_to_string("/proc/self/task/self/children")
        .or_else(|_| std::fs::read_to_string(format!("/proc/self/task/{}/children", std::process::id())));
    children.unwrap().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// Reaps one of them, once it has ended.
fn reaped(pid: u32) -> WaitStatus {
    let pid = Pid::from_raw(pid as i32);
    eventually(format_args!("the end of {pid}"), || match waitpid(pid, Some(WaitPidFlag::WNOHANG)).unwrap() {
        WaitStatus::StillAlive => None,
        status => Some(status),
    })
}

fn submit_all(pool: &Pool) {
    for x in 0..TASKS {
        let options = TaskOptions::new().key(x.to_string());
        std::mem::forget(pool.submit_with(SQUARE, &x, &options).unwrap());
    }
}

/// What came of the tasks of former lives, by their numbers.
fn finished(pool: &Pool) -> Vec<(u64, Finished<u64>)> {
    let found = pool.adopted().into_iter().map(|found| {
        let x = found.key().unwrap().parse().unwrap();
        (x, found.into_handle(SQUARE).unwrap().finish_with(|finished| finished))
    });
    let mut found: Vec<_> = found.collect();
    found.sort_unstable_by_key(|(x, _)| *x);
    found
}

// ---- scenes ---------------------------------------------------------------------------------------------------------

fn workers_finish_what_they_run_and_go_on_with_another_coordinator() {
    set_child_subreaper(true).unwrap();
    let (dir, words) = (tempfile::tempdir().unwrap(), Words::new());
    let state = dir.path().join("state");
    killed(words, builder(&state), submit_all);
    let workers = orphans();
    assert_eq!(workers.len(), HELD as usize);
    let pool = builder(&state).fork(words.tasks()).unwrap();
    words.go().store(1, SeqCst);
    let found = finished(&pool);
    assert_eq!(found.iter().map(|(x, _)| *x).collect::<Vec<_>>(), (0..TASKS).collect::<Vec<_>>());
    for (x, finished) in found {
        assert_eq!((finished.result, finished.attempts, words.begun(x).load(SeqCst)), (Ok(x * x), 1, 1), "task {x}");
        let worker = finished.worker.unwrap();
        assert!(workers.contains(&worker.pid), "task {x} was run by {worker:?}, not by one of {workers:?}");
    }
    pool.join().unwrap();
    for pid in workers {
        assert!(matches!(reaped(pid), WaitStatus::Exited(_, 0)));
    }
    assert!(builder(&state).fork(words.tasks()).unwrap().adopted().is_empty());
}
