//! Waits that must end: of threads that file each other's results, of futures and their wakers, of tasks that wait for tasks, and
//! after what goes wrong on the way.

use shmworker::{
    Pool, Tasks,
    pool::{Failure, Handle, Pods, Task, TaskError, TaskOptions, Wire},
};
use std::{
    fmt::Debug,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

const IDENTITY: Task<u64, u64> = Task::named("identity");
const PARKS: Task<u64, u64> = Task::named("parks");
const NESTED: Task<u64, u64> = Task::named("nested");
const BY_A_THREAD: Task<u64, u64> = Task::named("by a thread");
const ZEROS: Task<u64, Pods<u8>> = Task::named("zeros");
const COUNT: Task<Pods<u64>, u64> = Task::named("count");
const ROOT: Task<u64, u64> = Task::named("root");
const KEYED: Task<u64, u64> = Task::named("keyed");
const JOINS: Task<u64, u64> = Task::named("joins");
const SECOND_TIME: Task<u64, u64> = Task::named("second time");

fn tasks() -> Tasks {
    let mut tasks = Tasks::new();
    tasks.function("identity", |x: u64| x);
    tasks.handler("parks", |context, x: u64| {
        while context.check().is_ok() {
            // For its core's sake: what ends it is the look.
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Ok(x)
    });
    tasks.handler("nested", |context, x: u64| Ok(context.pool().submit(IDENTITY, &x)?.wait()?));
    tasks.handler("by a thread", |context, x: u64| {
        let wait = || Ok(context.pool().submit(NESTED, &x)?.wait()?);
        std::thread::scope(|s| s.spawn(wait).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    tasks.in_place::<u64, Pods<u8>>("zeros", |_, n, mut output| {
        output.reserve(n as usize)?.fill(0);
        Ok(())
    });
    tasks.in_place::<Pods<u64>, u64>("count", |_, input, mut output| output.write(&(input.len() as u64)));
    // The second one is taken on top of the first, which waits, and joins it by its key.
    let key = || TaskOptions::new().key("k");
    tasks.handler("root", move |context, _: u64| {
        let first = context.pool().submit_with(KEYED, &0, &key())?;
        let second = context.pool().submit(JOINS, &0)?;
        Ok(first.wait()? + second.wait()?)
    });
    tasks.handler("keyed", |context, _: u64| {
        let pause = Duration::from_millis(50);
        let options = TaskOptions::new().attempts(2).backoff(pause, pause);
        Ok(context.pool().submit_with(SECOND_TIME, &0, &options)?.wait()?)
    });
    tasks.handler("joins", move |context, _: u64| Ok(context.pool().submit_with(KEYED, &0, &key())?.wait()?));
    tasks.handler("second time", |context, _: u64| match context.attempt() {
        1 => Err(Failure::new("not yet")),
        _ => Ok(1u64),
    });
    tasks
}

shmworker::init!(tasks);

fn pool(workers: usize) -> Pool {
    Pool::builder().workers(workers).forkserver().unwrap()
}

/// What comes of a wait that ends; one that does not is a failure after a minute.
#[track_caller]
fn ends<O: Wire>(handle: Handle<O>) -> Result<O::Owned, TaskError>
where
    O::Owned: Debug,
{
    handle.wait_timeout(Duration::from_secs(60)).expect("the wait ends")
}

#[test]
fn who_waits_is_told_of_what_others_file() {
    let pool = Pool::builder().workers(1).slots(2).forkserver().unwrap();
    let options = TaskOptions::new().key("for the whole time");
    let first = pool.submit_with(PARKS, &0, &options).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|s| {
        // Each of these looks what has come.
        let files = s.spawn(|| {
            while !is_over.load(SeqCst) {
                drop(pool.submit_with(PARKS, &0, &options).unwrap());
            }
        });
        let rounds = catch_unwind(AssertUnwindSafe(|| {
            for n in 0..5_000 {
                assert_eq!(ends(pool.submit(IDENTITY, &n).unwrap()), Ok(n));
            }
        }));
        is_over.store(true, SeqCst);
        // Before the end of the first one, after which it would submit another.
        files.join().unwrap();
        first.cancel().unwrap();
        rounds.unwrap();
    });
}

#[test]
fn tasks_find_room_for_their_own_in_a_pool_that_is_full() {
    let pool = pool(2);
    let all: Vec<_> = (0..10_000).map(|n| pool.submit(NESTED, &n).unwrap()).collect();
    for (n, handle) in (0..).zip(all) {
        assert_eq!(ends(handle), Ok(n));
    }
}

#[test]
fn a_thread_of_a_task_may_wait_for_tasks() {
    let pool = pool(1);
    assert_eq!(ends(pool.submit(BY_A_THREAD, &7).unwrap()), Ok(7));
}

#[test]
fn a_task_on_top_does_not_join_what_waits_beneath_it() {
    let pool = pool(1);
    assert_eq!(ends(pool.submit(ROOT, &0).unwrap()), Ok(2));
}

#[test]
fn a_panic_of_what_fills_an_input_holds_up_no_end() {
    let pool = pool(1);
    let fill = || pool.submit_in_place(COUNT, 3, &TaskOptions::new(), |_| panic!("of the test"));
    assert!(catch_unwind(AssertUnwindSafe(fill)).is_err());
    assert_eq!(ends(pool.submit_in_place(COUNT, 3, &TaskOptions::new(), |values| values.fill(1)).unwrap()), Ok(3));
    pool.join().unwrap();
}

/// The executor is gone, so the waker is the last that owns its future, which is dropped as the waker is.
#[test]
fn a_waker_may_be_the_last_that_owns_its_future() {
    type Owned = Pin<Box<dyn Future<Output = Result<u64, TaskError>> + Send>>;
    struct Node(Mutex<Option<Owned>>);
    impl Wake for Node {
        fn wake(self: Arc<Self>) {}
    }
    let pool = pool(2);
    let parked = pool.submit(PARKS, &0).unwrap();
    let task = Arc::new(Node(Mutex::new(Some(Box::pin(pool.submit(NESTED, &1).unwrap())))));
    let waker = Waker::from(task.clone());
    let polled = task.0.lock().unwrap().as_mut().map(|f| f.as_mut().poll(&mut Context::from_waker(&waker)));
    assert!(polled.is_some());
    drop((waker, task));
    assert_eq!(ends(pool.submit(IDENTITY, &1).unwrap()), Ok(1));
    parked.cancel().unwrap();
    pool.join().unwrap();
}

#[test]
fn a_handle_gives_its_result_once() {
    let pool = pool(1);
    let mut handle = pool.submit(IDENTITY, &1).unwrap();
    let mut poll = || Pin::new(&mut handle).poll(&mut Context::from_waker(Waker::noop()));
    while poll().is_pending() {
        std::thread::yield_now();
    }
    let other = pool.submit(IDENTITY, &2).unwrap();
    let again = catch_unwind(AssertUnwindSafe(|| assert!(matches!(poll(), Poll::Pending))));
    let said = again.unwrap_err().downcast::<&str>().map_or_else(|_| String::new(), |text| text.to_string());
    assert_eq!(said, "a handle was polled after it had given its result");
    assert_eq!(ends(other), Ok(2));
}

#[test]
fn a_result_in_place_is_dropped_in_a_fork_without_harm() {
    use nix::{sys::wait::WaitStatus, unistd::ForkResult};
    let pool = pool(1);
    let handle = pool.submit(ZEROS, &100_000).unwrap();
    assert_eq!(ends(pool.submit(IDENTITY, &1).unwrap()), Ok(1));
    let reply = pool.submit(ZEROS, &100_000).unwrap().wait_in_place().unwrap();
    assert_eq!(reply.len(), 100_000);
    // SAFETY: the child does what is tested, allocates nothing, and ends by `_exit`.
    match unsafe { nix::unistd::fork() }.unwrap() {
        ForkResult::Child => {
            let code = reply.len() as i32; // nothing, here
            drop(reply);
            drop(handle);
            // SAFETY: ends the process at once.
            unsafe { nix::libc::_exit(code) }
        }
        ForkResult::Parent { child } => {
            assert_eq!(nix::sys::wait::waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
            assert_eq!((reply.len(), ends(handle).map(|bytes| bytes.len())), (100_000, Ok(100_000)));
        }
    }
}
