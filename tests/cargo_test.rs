//! Pools in ordinary `#[test]` functions, of which libtest runs several at a time on threads of its own.

use shmworker::{
    Pool, Tasks,
    pool::{StartError, Task, TaskError},
};
use std::process::Command;

struct Registered {
    square: Task<u64, u64>,
    process: Task<(), (u32, u32, usize)>,
    overflow: Task<u64, u64>,
    environment: Task<(), String>,
}

fn register() -> (Tasks, Registered) {
    let mut tasks = Tasks::new();
    let registered = Registered {
        square: tasks.function("square", |x: u64| x * x),
        process: tasks.function("process", |()| {
            let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
            (std::process::id(), std::os::unix::process::parent_id(), threads)
        }),
        overflow: tasks.function("overflow", |depth: u64| overflow(depth)),
        environment: tasks.function("environment", |()| {
            let output = Command::new("env").output().unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        }),
    };
    (tasks, registered)
}

fn tasks() -> Tasks {
    register().0
}

shmworker::init!(tasks);

fn overflow(depth: u64) -> u64 {
    if depth == u64::MAX { 0 } else { std::hint::black_box(overflow(depth + 1)) + 1 }
}

fn squares(pool: &Pool) {
    let (_, tasks) = register();
    let handles: Vec<_> = (0..1000).map(|x| pool.submit(tasks.square, &x).unwrap()).collect();
    let sum: u64 = handles.into_iter().map(|handle| handle.wait().unwrap()).sum();
    assert_eq!(sum, 332_833_500);
}

#[test]
fn a_pool_is_made_beside_other_tests() {
    let pool = Pool::builder().workers(2).forkserver().unwrap();
    squares(&pool);
    pool.join().unwrap();
}

#[test]
fn another_one_at_the_same_time() {
    squares(&Pool::builder().workers(2).forkserver().unwrap());
}

#[test]
fn workers_may_be_programs_of_their_own() {
    let pool = Pool::builder().workers(2).exec().unwrap();
    squares(&pool);
    pool.join().unwrap();
}

#[test]
fn a_worker_has_one_thread_and_is_a_grandchild() {
    for start in [shmworker::pool::Builder::forkserver, shmworker::pool::Builder::exec] {
        let pool = start(Pool::builder().workers(1)).unwrap();
        let (process, parent, threads) = pool.submit(register().1.process, &()).unwrap().wait().unwrap();
        assert_eq!(threads, 1);
        assert!(![process, parent].contains(&std::process::id()));
    }
}

#[test]
fn a_stack_overflow_is_a_death_and_the_pool_goes_on() {
    let pool = Pool::builder().workers(1).forkserver().unwrap();
    let died = pool.submit(register().1.overflow, &0).unwrap().wait();
    assert!(matches!(died, Err(TaskError::Died(_))), "{died:?}");
    squares(&pool);
}

#[test]
fn what_a_task_starts_is_an_ordinary_process() {
    for start in [shmworker::pool::Builder::forkserver, shmworker::pool::Builder::exec] {
        let pool = start(Pool::builder().workers(1)).unwrap();
        let environment = pool.submit(register().1.environment, &()).unwrap().wait().unwrap();
        assert!(environment.contains("PATH=") && !environment.contains("SHMWORKER_START"), "{environment}");
    }
}

#[test]
fn a_fork_is_refused_where_tests_have_threads() {
    let refused = Pool::builder().workers(1).fork(tasks()).unwrap_err();
    assert!(matches!(refused, StartError::Threads(2..)), "{refused}");
    assert!(refused.to_string().contains("use forkserver() or exec()"), "{refused}");
}
