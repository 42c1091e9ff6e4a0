//! Pools that other processes find by name, worker programs, and tasks as bytes by name.
//!
//! The test program is the worker program too: `attached work` for the pool that executes it, `attached work POOL` for one that
//! runs.

#[path = "common/scene.rs"]
#[expect(dead_code, reason = "no memory is shared with the processes of a scene here")]
mod scene;

use nix::{
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork},
};
use scene::until;
use shmworker::{
    Pool, Tasks,
    pool::{
        self, AttachError, Attached, Blame, Builder, Bytes, PoolError, StartError, Task, TaskError, TaskOptions,
        WorkError,
    },
};
use std::{
    collections::HashSet,
    fs,
    os::{fd::AsRawFd, unix::process::ExitStatusExt},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Wake, Waker},
    thread,
    time::Duration,
};
use tempfile::TempDir;

const SQUARE: Task<u64, u64> = Task::named("square");
const PROCESS: Task<(), u32> = Task::named("process");
const STAY: Task<(), ()> = Task::named("stay");
const HOLD: Task<String, ()> = Task::named("hold");
const KILL: Task<(), ()> = Task::named("kill");

fn tasks() -> Tasks {
    let mut tasks = Tasks::new();
    tasks.function("square", |x: u64| x * x);
    tasks.function("process", |()| std::process::id());
    tasks.handler("stay", |context, ()| {
        until(|| context.is_cancelled());
        context.check()
    });
    // Says in this directory who runs it, and ends when that says so, whatever else is wanted.
    tasks.handler("hold", |_, dir: String| {
        let dir = Path::new(&dir);
        fs::write(dir.join(std::process::id().to_string()), "")?;
        until(|| dir.join("end").exists());
        Ok(())
    });
    tasks.handler("kill", |_, ()| Ok(nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL)?));
    tasks.in_place::<Bytes, Bytes>("reverse", |_, input, mut output| {
        output.reserve(input.len())?.iter_mut().zip(input.iter().rev()).for_each(|(to, from)| *to = *from);
        Ok(())
    });
    tasks
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let worked = match args[..] {
        [_, "work"] => pool::work(tasks()),
        [_, "work", name] => pool::work_for(name, 1, tasks()).map(|()| 0),
        _ => {
            return scene::run(scenes![
                a_client_is_served,
                a_client_outlives_its_pool,
                who_leaves_waits_no_longer_than_it_wants_to,
                who_has_left_hears_that_the_pool_is_gone,
                a_seat_is_free_once_nothing_is_kept_of_it,
                who_cannot_be_let_in_takes_no_seat,
                a_worker_takes_tasks_and_ends_with_the_pool,
                a_worker_that_dies_over_a_task_is_blamed,
                a_drain_lets_attached_workers_finish,
                another_program_works,
                what_is_no_worker_program_is_an_error,
                room_is_filled_at_leisure,
                room_of_another_pool_is_refused,
                who_reserves_all_room_is_told,
                a_fork_leaves_room_to_its_parent,
                a_handle_tells_its_end_to_whoever_asked,
                a_task_is_cancelled_while_another_thread_waits,
                nobody_is_there,
            ]);
        }
    };
    worked.map_or_else(
        |e| {
            eprintln!("{e}");
            ExitCode::FAILURE
        },
        ExitCode::from,
    )
}

fn name() -> String {
    format!("test-attached-{}", std::process::id())
}

fn owner() -> Pool {
    Pool::builder().name(name()).workers(1).fork(tasks()).unwrap()
}

/// A process that works for the pool, if it is there.
fn worker(name: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["work", name]).stdin(Stdio::null()).spawn().unwrap()
}

/// Who runs a task that holds here.
fn held_by(dir: &TempDir) -> HashSet<String> {
    fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn options() -> TaskOptions {
    TaskOptions::new()
}

fn a_client_is_served() {
    let pool = owner();
    let coordinator = pool.coordinator_pid();
    for found_by in [name(), coordinator.to_string()] {
        let client: Attached = Pool::attach(&found_by).unwrap();
        assert_eq!(client.coordinator_pid(), coordinator);
        assert_eq!(client.submit(SQUARE, &12).unwrap().wait(), Ok(144));
        assert_eq!(client.map(SQUARE, 0..1000).sum::<Result<u64, _>>(), Ok(332_833_500));
        assert_eq!(client.submit_bytes("reverse", b"abc", &options()).unwrap().wait(), Ok(b"cba".to_vec()));
        assert_eq!(client.submit(Task::<(), ()>::named("none"), &()).unwrap().wait(), Err(TaskError::Unknown));
        let nowhere = client.submit_bytes("reverse", b"", &options().queue("urgent")).unwrap_err();
        assert_eq!(nowhere.to_string(), "no queue is named \"urgent\"; the pool's are: default");
        drop(client);
    }
    // The owner's own goes on beside it.
    assert_eq!(pool.submit(SQUARE, &3).unwrap().wait(), Ok(9));
    pool.join().unwrap();
}

fn a_client_outlives_its_pool() {
    let pool = owner();
    let client = Pool::attach(&name()).unwrap();
    let handle = client.submit(SQUARE, &5).unwrap();
    assert_eq!(handle.wait(), Ok(25));
    pool.join().unwrap();
    let refused = client.submit(SQUARE, &5).map(|handle| handle.wait().is_err());
    assert!(matches!(refused, Ok(true) | Err(PoolError::Draining | PoolError::Submit(_) | PoolError::Ended(_))));
    assert!(matches!(Pool::attach(&name()), Err(AttachError::NotRunning(_))));
}

fn who_leaves_waits_no_longer_than_it_wants_to() {
    let pool = owner();
    let client = Pool::attach(&name()).unwrap();
    let [running, waiting] = [(); 2].map(|()| client.submit(STAY, &()).unwrap());
    client.drain_within(Duration::from_millis(1)).unwrap();
    for handle in [running, waiting] {
        assert_eq!(handle.wait(), Err(TaskError::Cancelled));
    }
    // Those of a map too, for which no handle stands.
    let results = thread::scope(|scope| {
        let map = scope.spawn(|| client.map(STAY, [(); 3]).collect::<Vec<_>>());
        until(|| {
            client.drain_within(Duration::from_millis(1)).unwrap();
            map.is_finished()
        });
        map.join().unwrap()
    });
    assert_eq!(results.len(), 3);
    assert!(results.iter().all(|result| matches!(result, Err(e) if e.to_string().contains("cancel"))), "{results:?}");
    // Nothing makes this one end.
    let dir = TempDir::new().unwrap();
    let deaf = client.submit(HOLD, &dir.path().display().to_string()).unwrap();
    until(|| held_by(&dir).len() == 1);
    assert_eq!(client.leave(Duration::from_millis(1)), Ok(false));
    fs::write(dir.path().join("end"), "").unwrap();
    assert!(matches!(deaf.wait(), Ok(()) | Err(TaskError::Cancelled)));
    assert_eq!(pool.submit(SQUARE, &3).unwrap().wait(), Ok(9));
    pool.join().unwrap();
}

fn who_has_left_hears_that_the_pool_is_gone() {
    let pool = owner();
    let client = Pool::attach(&name()).unwrap();
    let dir = TempDir::new().unwrap();
    let deaf = client.submit(HOLD, &dir.path().display().to_string()).unwrap();
    until(|| held_by(&dir).len() == 1);
    assert_eq!(client.leave(Duration::from_millis(1)), Ok(false));
    kill(Pid::from_raw(pool.coordinator_pid() as i32), Signal::SIGKILL).unwrap();
    assert!(matches!(deaf.wait(), Err(TaskError::CoordinatorDied(_) | TaskError::PoolEnded(_))));
    assert!(pool.join().is_err());
}

fn a_seat_is_free_once_nothing_is_kept_of_it() {
    let pool = owner();
    // More often than there are seats.
    for _ in 0..300 {
        let client = Pool::attach(&name()).unwrap();
        let handle = client.submit(SQUARE, &5).unwrap();
        let canceller = client.submit_bytes("reverse", b"", &options()).unwrap().canceller();
        drop(client);
        assert_eq!(handle.wait(), Ok(25));
        canceller.cancel().unwrap();
    }
    pool.join().unwrap();
}

fn who_cannot_be_let_in_takes_no_seat() {
    let pool = owner();
    // No client's, so that all numbers below those in use are.
    let open = || nix::unistd::dup(std::io::stderr()).unwrap();
    let limits = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let mut told = HashSet::new();
    for spare in (1..6).cycle().take(300) {
        let last: Vec<_> = std::iter::repeat_with(open).take(8).collect();
        setrlimit(Resource::RLIMIT_NOFILE, last[7].as_raw_fd() as u64 + 1, limits.1).unwrap();
        let mut kept: Vec<_> = last.into_iter().rev().skip(spare).collect();
        let attached = Pool::attach(&name());
        setrlimit(Resource::RLIMIT_NOFILE, limits.0, limits.1).unwrap();
        kept.clear();
        told.extend(attached.err().map(|e| e.to_string()));
    }
    assert!(told.iter().all(|why| why.ends_with("Too many open files (os error 24)")), "{told:?}");
    drop(Pool::attach(&name()).unwrap());
    pool.join().unwrap();
}

fn a_worker_takes_tasks_and_ends_with_the_pool() {
    let pool = owner();
    let busy = pool.submit(STAY, &()).unwrap();
    let mut guest = worker(&name());
    // The pool's own worker has something else to do.
    for _ in 0..100 {
        assert_eq!(pool.submit(PROCESS, &()).unwrap().wait(), Ok(guest.id()));
    }
    busy.cancel().unwrap();
    assert_eq!(busy.wait(), Err(TaskError::Cancelled));
    pool.join().unwrap();
    assert!(guest.wait().unwrap().success());
}

fn a_worker_that_dies_over_a_task_is_blamed() {
    let pool = owner();
    let dir = TempDir::new().unwrap();
    let busy = pool.submit(HOLD, &dir.path().display().to_string()).unwrap();
    // By the pool's own worker, since there is no other yet.
    until(|| held_by(&dir).len() == 1);
    let mut guest = worker(&name());
    let ended = pool.submit_bytes("kill", b"", &options()).unwrap().end();
    assert_eq!(ended.pid(), Some(guest.id()));
    assert!(matches!(ended.bytes(), Err(TaskError::Died(Blame { deaths: 1, .. }))), "{ended:?}");
    assert_eq!(guest.wait().unwrap().signal(), Some(9));
    // How a child ended is known.
    fs::write(dir.path().join("end"), "").unwrap();
    busy.wait().unwrap();
    let ended = pool.submit_bytes("kill", b"", &options()).unwrap().end();
    assert_eq!((ended.signal(), ended.exit_code(), ended.attempts()), (Some(9), None, 1));
    pool.join().unwrap();
}

fn a_drain_lets_attached_workers_finish() {
    let pool = owner();
    let mut guest = worker(&name());
    let dir = TempDir::new().unwrap();
    let both = [(); 2].map(|()| pool.submit(HOLD, &dir.path().display().to_string()).unwrap());
    until(|| held_by(&dir).len() == 2);
    assert!(held_by(&dir).contains(&guest.id().to_string()));
    kill(Pid::from_raw(pool.coordinator_pid() as i32), Signal::SIGTERM).unwrap();
    until(|| matches!(pool.submit(SQUARE, &2), Err(PoolError::Draining)));
    fs::write(dir.path().join("end"), "").unwrap();
    assert_eq!(both.map(|handle| handle.wait()), [Ok(()), Ok(())]);
    pool.join().unwrap();
    assert!(guest.wait().unwrap().success());
}

fn another_program_works() {
    let this = std::env::current_exe().unwrap();
    let builder = || Pool::builder().workers(2).program(&this, ["work"]);
    for start in [Builder::exec, Builder::forkserver] {
        let pool = start(builder()).unwrap();
        assert_eq!(pool.submit(SQUARE, &12).unwrap().wait(), Ok(144));
        assert_eq!(pool.submit_bytes("reverse", b"xy", &options()).unwrap().wait(), Ok(b"yx".to_vec()));
        assert!(matches!(pool.submit(KILL, &()).unwrap().wait(), Err(TaskError::Died(_))));
        assert_ne!(pool.submit(PROCESS, &()).unwrap().wait(), Ok(std::process::id()));
        pool.join().unwrap();
    }
}

fn what_is_no_worker_program_is_an_error() {
    let start = |program: &str| Pool::builder().program(program, [""; 0]).exec().unwrap_err();
    let missing = start("/no/such/program").to_string();
    assert_eq!(
        missing,
        "cannot execute the worker program: '/no/such/program': No such file or directory (os error 2)"
    );
    let ended = start("/bin/true");
    assert!(matches!(&ended, StartError::Ended(how) if how == "exit code 0"), "{ended}");
    assert!(ended.to_string().contains("`pool::work`"), "{ended}");
    assert_eq!(pool::work(tasks()), Err(WorkError::NotStarted));
}

fn room_is_filled_at_leisure() {
    let pool = owner();
    for len in [0, 1, 64, 300, 1 << 20] {
        let mut room = pool.reserve(len).unwrap();
        let bytes = room.bytes().unwrap();
        assert_eq!((bytes.len(), bytes.as_ptr().addr() % 64), (len, 0));
        bytes.iter_mut().enumerate().for_each(|(i, byte)| *byte = i as u8);
        // Others come and go meanwhile.
        assert_eq!(pool.submit(SQUARE, &2).unwrap().wait(), Ok(4));
        let ended = room.submit(&pool, "reverse", &options()).unwrap().end();
        let reversed: Vec<u8> = (0..len).rev().map(|i| i as u8).collect();
        assert_eq!(ended.bytes(), Ok(&reversed[..]));
    }
    // What is not submitted is given back, or the audit at the end would find it.
    drop(pool.reserve(1 << 20).unwrap());
    assert!(matches!(pool.reserve(usize::MAX), Err(PoolError::Submit(shmworker::SubmitError::TooLarge { .. }))));
    pool.join().unwrap();
}

fn room_of_another_pool_is_refused() {
    let one = Pool::builder().workers(1).fork(tasks()).unwrap();
    let two = Pool::builder().workers(1).fork(tasks()).unwrap();
    let room = one.reserve(10).unwrap();
    assert_eq!(room.submit(&two, "reverse", &options()).unwrap_err(), PoolError::AnotherPool);
    let unknown = one.reserve(10).unwrap().submit(&one, "none", &options()).unwrap_err();
    assert!(matches!(unknown, PoolError::Task(_)), "{unknown}");
    one.join().unwrap();
    two.join().unwrap();
}

fn who_reserves_all_room_is_told() {
    let pool = Pool::builder().workers(1).fork(tasks()).unwrap();
    let mut all = Vec::new();
    let why = loop {
        match pool.reserve(1) {
            Ok(room) => all.push(room),
            Err(e) => break e,
        }
    };
    assert_eq!(why, PoolError::Submit(shmworker::SubmitError::Reserved(all.len())));
    assert!(matches!(pool.submit(SQUARE, &2), Err(PoolError::Submit(shmworker::SubmitError::Reserved(_)))));
    // What one submits, or gives back, is room for others.
    let ended = all.pop().unwrap().submit(&pool, "reverse", &options()).unwrap().end();
    assert_eq!(ended.bytes().unwrap().len(), 1);
    assert_eq!(pool.submit(SQUARE, &2).unwrap().wait(), Ok(4));
    drop(all);
    pool.join().unwrap();
}

fn a_fork_leaves_room_to_its_parent() {
    let pool = owner();
    let [mut used, dropped] = [(); 2].map(|()| pool.reserve(1 << 20).unwrap());
    // SAFETY: the child does what a child of one thread may, by luck of what the others do: it ends in any case.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            drop(dropped);
            let refused = used.submit(&pool, "reverse", &options()).map(drop);
            // SAFETY: nothing else is to run in it.
            unsafe { libc::_exit(i32::from(!matches!(refused, Err(PoolError::AnotherProcess(_))))) }
        }
        ForkResult::Parent { child } => assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0))),
    }
    used.bytes().unwrap().fill(1);
    assert_eq!(used.submit(&pool, "reverse", &options()).unwrap().end().bytes().unwrap().len(), 1 << 20);
    drop(dropped);
    pool.join().unwrap();
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

fn a_handle_tells_its_end_to_whoever_asked() {
    let pool = Pool::builder().workers(1).fork(tasks()).unwrap();
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(count.clone());
    let mut handles: Vec<_> =
        (0..100u64).map(|x| pool.submit_bytes("reverse", &x.to_le_bytes(), &options()).unwrap()).collect();
    handles.iter().for_each(|handle| handle.when_ended(&waker).unwrap());
    until(|| count.0.load(SeqCst) == 100);
    for (x, handle) in handles.iter_mut().enumerate() {
        let ended = handle.end_within(Some(Duration::ZERO)).expect("it has ended");
        assert_eq!(ended.bytes().unwrap(), &(x as u64).to_be_bytes());
    }
    // At once, where it has ended by then.
    let handle = pool.submit_bytes("reverse", b"", &options()).unwrap();
    assert_eq!(pool.submit(SQUARE, &2).unwrap().wait(), Ok(4));
    handle.when_ended(&waker).unwrap();
    until(|| count.0.load(SeqCst) == 101);
    drop(handle);
    pool.join().unwrap();
}

fn a_task_is_cancelled_while_another_thread_waits() {
    let pool = Pool::builder().workers(1).fork(tasks()).unwrap();
    let mut handle = pool.submit_bytes("stay", b"", &options()).unwrap();
    let canceller = handle.canceller();
    assert!(handle.end_within(Some(Duration::from_millis(1))).is_none());
    let waiter = std::thread::spawn(move || handle.end());
    canceller.cancel().unwrap();
    assert_eq!(waiter.join().unwrap().bytes(), Err(TaskError::Cancelled));
    canceller.cancel().unwrap();
    pool.join().unwrap();
}

fn nobody_is_there() {
    let refused = Pool::attach("no-such-pool").unwrap_err();
    assert!(matches!(&refused, AttachError::NotRunning(text) if text.starts_with("no pool 'no-such-pool' runs")));
    let invalid = Pool::attach("no/name").unwrap_err().to_string();
    assert_eq!(invalid, "invalid pool name 'no/name': use 1 to 64 letters, digits, '.', '_' and '-'");
    let pool = owner();
    let taken = Pool::builder().name(name()).fork(tasks()).unwrap_err();
    assert!(matches!(&taken, StartError::Refused(why) if why.contains("is running")), "{taken}");
    pool.join().unwrap();
    let refused = pool::work_for("no-such-pool", 1, tasks()).unwrap_err();
    assert!(matches!(refused, WorkError::Attach(AttachError::NotRunning(_))));
}
