//! Threads of one program that drive maps, wait for handles and poll futures of the same two workers, all at once: every result
//! comes once and to whom it belongs, and nothing is left in the shared memory.

use nix::unistd::alarm;
use shmworker::{
    Pool, Tasks,
    pool::{Failure, Task, TaskError},
};
use std::{
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::Thread,
};

const SQUARE: Task<u64, u64> = Task::named("square");
const PICKY: Task<u64, u64> = Task::named("picky");
const LONG: Task<u64, Vec<u8>> = Task::named("long");
const SUM: Task<u64, u64> = Task::named("sum");

/// Seconds after which what hangs is ended by SIGALRM: far longer than it takes on a machine that is busy with more.
const PATIENCE: u32 = 60;
const ROUNDS: u64 = 30;
/// More than may be under way at once.
const ITEMS: u64 = 600;

fn tasks() -> Tasks {
    let mut tasks = Tasks::new();
    tasks.function("square", |x: u64| x * x);
    tasks.handler("picky", |_, x: u64| match x % 100 {
        17 => Err(Failure::new(x.to_string())),
        // Without a word on the standard error output for each.
        71 => std::panic::resume_unwind(Box::new(x.to_string())),
        _ => Ok(x + 1),
    });
    tasks.function("long", long);
    // In a worker the same code waits otherwise.
    tasks.handler("sum", |context, n: u64| {
        let squares = context.pool().map(SQUARE, 0..n).chunk_size(1);
        squares.sum::<Result<u64, TaskError>>().map_err(|e| Failure::new(e.to_string()))
    });
    tasks
}

shmworker::init!(tasks);

/// Some lie in a descriptor, and others in a block.
fn long(x: u64) -> Vec<u8> {
    vec![x as u8; x as usize % 600]
}

fn check_picky(x: u64, came: Result<u64, TaskError>) {
    let said = match x % 100 {
        17 => Err(TaskError::Failed(x.to_string())),
        71 => Err(TaskError::Panicked(x.to_string())),
        _ => Ok(x + 1),
    };
    assert_eq!(came, said, "{x}");
}

fn in_order(pool: &Pool, first: u64) {
    let mut next = first..first + ITEMS;
    for came in pool.map(SQUARE, next.clone()).chunk_size(1) {
        let x = next.next().expect("no more results than inputs");
        assert_eq!(came, Ok(x * x));
    }
    assert!(next.is_empty(), "no results of {next:?}");
}

fn out_of_order(pool: &Pool, first: u64) {
    let mut has_come = [false; ITEMS as usize];
    for (number, came) in pool.map(PICKY, first..first + ITEMS).chunk_size(1).unordered() {
        assert!(!std::mem::replace(&mut has_come[number as usize], true), "{number} has come twice");
        check_picky(first + number, came);
    }
    assert_eq!(has_come, [true; ITEMS as usize]);
}

fn in_order_though_some_fail(pool: &Pool, first: u64) {
    let inputs = first..first + ITEMS;
    let all: Vec<_> = pool.map(PICKY, inputs.clone()).chunk_size(1 + first as usize % 3).collect();
    assert_eq!(all.len() as u64, ITEMS);
    inputs.zip(all).for_each(|(x, came)| check_picky(x, came));
}

fn dropped_early(pool: &Pool, first: u64) {
    let mut map = pool.map(SQUARE, first..).chunk_size(1);
    for x in first..first + first % 50 {
        assert_eq!(map.next(), Some(Ok(x * x)));
    }
    let mut unordered = pool.map(PICKY, first..).chunk_size(1).unordered();
    for _ in 0..first % 70 {
        let (number, came) = unordered.next().expect("the inputs have no end");
        check_picky(first + number, came);
        assert!(map.next().is_some(), "both at once");
    }
}

fn of_all_lengths(pool: &Pool, first: u64) {
    let inputs = first..first + ITEMS;
    let all: Vec<_> = pool.map(LONG, inputs.clone()).chunk_size(1).collect();
    assert!(all.into_iter().eq(inputs.map(|x| Ok(long(x)))));
}

/// The inputs are results of the same pool, and are waited for as they are asked for.
fn inputs_from_the_pool(pool: &Pool, first: u64) {
    let inner = pool.map(SQUARE, first..first + ITEMS / 2).chunk_size(1).map(|came| came.unwrap());
    let inputs = inner.map(|x| pool.submit(SQUARE, &(x % 1000)).unwrap().wait().unwrap());
    let sum: u64 = pool.map(SQUARE, inputs.map(|x| x % 1000)).chunk_size(1).map(|came| came.unwrap()).sum();
    let square = |x: u64| x * x;
    let expected: u64 = (first..first + ITEMS / 2).map(|x| square(square(square(x) % 1000) % 1000)).sum();
    assert_eq!(sum, expected);
}

fn by_handles(pool: &Pool, first: u64) {
    for x in first..first + ITEMS / 4 {
        assert_eq!(pool.submit(SQUARE, &x).unwrap().wait(), Ok(x * x));
    }
    let all: Vec<_> = (first..first + ITEMS).map(|x| (x, pool.submit(PICKY, &x).unwrap())).collect();
    for (x, handle) in all {
        // The others are forgotten.
        if x % 3 != 0 {
            check_picky(x, handle.wait());
        }
    }
}

fn by_futures(pool: &Pool, first: u64) {
    block_on(async {
        let all: Vec<_> = (first..first + ITEMS / 4).map(|x| (x, pool.submit(LONG, &x).unwrap())).collect();
        for (x, handle) in all {
            assert_eq!(handle.await, Ok(long(x)));
        }
    });
}

fn in_workers(pool: &Pool, first: u64) {
    let sums = [0, 10, 100].map(|n| (n, pool.submit(SUM, &(first % 50 + n)).unwrap()));
    for (n, sum) in sums {
        let expected: u64 = (0..first % 50 + n).map(|x| x * x).sum();
        assert_eq!(sum.wait(), Ok(expected));
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        std::thread::park();
    }
}

#[test]
fn maps_handles_and_futures_at_once() {
    alarm::set(PATIENCE);
    let pool = Pool::builder().workers(2).forkserver().unwrap();
    let parts: [fn(&Pool, u64); 9] = [
        in_order,
        out_of_order,
        in_order_though_some_fail,
        dropped_early,
        of_all_lengths,
        inputs_from_the_pool,
        by_handles,
        by_futures,
        in_workers,
    ];
    std::thread::scope(|scope| {
        for part in parts {
            let pool = &pool;
            scope.spawn(move || (0..ROUNDS).for_each(|round| part(pool, 37 * round)));
        }
    });
    pool.join().unwrap();
}
