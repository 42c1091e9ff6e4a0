//! Items of a `map` that travel as one task: what a death, or a failure, of one costs it and the others.

use nix::{
    sys::signal::{Signal, kill},
    unistd::getppid,
};
use shmworker::{
    Pool, Tasks,
    pool::{Blame, Failure, Retry, Task, TaskError, TaskOptions},
};
use std::{
    fs::OpenOptions,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

/// An item leaves a byte in the file of its number each time that it is begun.
type Item = (String, u64);

const KILL_AT_5: Task<Item, u64> = Task::named("kill at 5");
const FAIL_AT_5: Task<Item, u64> = Task::named("fail at 5");
const FAIL_THEN_END_ALL: Task<Item, u64> = Task::named("fail, then end all");

fn tasks() -> Tasks {
    let mut tasks = Tasks::new();
    tasks.handler("kill at 5", |_, item: Item| {
        begin(&item)?;
        if item.1 == 5 { std::process::abort() } else { Ok(item.1) }
    });
    tasks.handler("fail at 5", |_, item: Item| {
        begin(&item)?;
        if item.1 == 5 && begun(Path::new(&item.0), 5) < 3 { Err(Failure::new("not yet")) } else { Ok(item.1) }
    });
    tasks.handler("fail, then end all", |_, item: Item| -> Result<u64, Failure> {
        begin(&item)?;
        if begun(Path::new(&item.0), item.1) == 1 {
            return Err(Failure::new("not yet"));
        }
        kill(getppid(), Signal::SIGKILL).map_err(std::io::Error::from)?;
        loop {
            std::thread::park(); // until it is killed, as all of a coordinator's children are
        }
    });
    tasks
}

shmworker::init!(tasks);

fn begin((directory, number): &Item) -> std::io::Result<()> {
    let path = Path::new(directory).join(number.to_string());
    OpenOptions::new().create(true).append(true).open(path)?.write_all(b"x")
}

fn begun(directory: &Path, number: u64) -> u64 {
    std::fs::metadata(directory.join(number.to_string())).map_or(0, |file| file.len())
}

/// Ten items of one chunk, which is all that is under way at once: their results, and how often each was begun.
fn ten(task: Task<Item, u64>, options: TaskOptions) -> (Vec<Result<u64, TaskError>>, Vec<u64>) {
    let directory = tempfile::tempdir().unwrap();
    let pool = Pool::builder().workers(1).forkserver().unwrap();
    let items = (0..10).map(|number| (directory.path().to_str().unwrap().to_owned(), number));
    let results = pool.map(task, items).chunk_size(10).in_flight(1).options(options).collect();
    (results, (0..10).map(|number| begun(directory.path(), number)).collect())
}

#[track_caller]
fn blame_of_5(results: &[Result<u64, TaskError>]) -> &Blame {
    for (number, result) in (0..).zip(results) {
        assert!(number == 5 || *result == Ok(number), "{number}: {result:?}");
    }
    let Err(TaskError::Died(blame)) = &results[5] else { panic!("{:?}", results[5]) };
    blame
}

#[test]
fn the_others_of_a_chunk_are_done_whatever_one_of_them_does() {
    let (results, begun) = ten(KILL_AT_5, TaskOptions::new());
    let blame = blame_of_5(&results);
    assert_eq!((blame.attempts, blame.deaths, blame.is_poison), (1, 1, false));
    assert_eq!(begun, [1; 10]);
}

#[test]
fn a_death_in_a_chunk_counts_towards_attempts() {
    let (results, begun) = ten(KILL_AT_5, TaskOptions::new().attempts(2));
    let blame = blame_of_5(&results);
    assert_eq!((blame.attempts, blame.deaths, blame.is_poison), (2, 2, false));
    assert_eq!(begun[5], 2);
}

#[test]
fn a_death_in_a_chunk_counts_towards_poison() {
    for (most, n) in [(1, 1), (2, 2), (3, 3)] {
        let (results, begun) = ten(KILL_AT_5, TaskOptions::new().attempts(20).max_worker_deaths(most));
        let blame = blame_of_5(&results);
        assert_eq!((blame.attempts, blame.deaths, blame.is_poison), (n, n, true));
        assert_eq!(begun[5], u64::from(n));
    }
}

#[test]
fn a_death_in_a_chunk_is_not_tried_again_if_that_was_not_asked_for() {
    let (results, begun) = ten(KILL_AT_5, TaskOptions::new().attempts(3).retry_on([Retry::Failed]));
    assert_eq!(blame_of_5(&results).attempts, 1);
    assert_eq!(begun[5], 1);
}

#[test]
fn a_failure_in_a_chunk_is_tried_again_by_itself() {
    let (results, begun) = ten(FAIL_AT_5, TaskOptions::new().attempts(3));
    assert_eq!(results, (0..10).map(Ok).collect::<Vec<_>>());
    assert_eq!(begun, [1, 1, 1, 1, 1, 3, 1, 1, 1, 1]);
    let (results, begun) = ten(FAIL_AT_5, TaskOptions::new().attempts(2));
    assert_eq!(results[5], Err(TaskError::Failed("not yet".to_owned())));
    assert_eq!(begun[5], 2);
}

/// Or a map that is collected would be shorter than what it was of, and nobody would know.
#[test]
fn what_is_to_be_tried_again_when_the_pool_ends_is_told_of_the_end() {
    let (results, begun) = ten(FAIL_THEN_END_ALL, TaskOptions::new().attempts(3));
    assert_eq!(begun, [2, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
    assert_eq!(results.len(), 10);
    for result in results {
        assert!(matches!(result, Err(TaskError::CoordinatorDied(_) | TaskError::PoolEnded(_))), "{result:?}");
    }
}

/// None is held back until the next are there.
#[test]
fn inputs_that_are_waited_for_go_as_they_come() {
    let directory = tempfile::tempdir().unwrap();
    let pool = Pool::builder().workers(1).forkserver().unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    let mut numbers = 0..3;
    let inputs = std::iter::from_fn(|| {
        let number = numbers.next()?;
        while number > 0 && begun(directory.path(), number - 1) == 0 {
            assert!(Instant::now() < until, "{} has been taken and not been sent", number - 1);
            std::thread::yield_now();
        }
        Some((directory.path().to_str().unwrap().to_owned(), number))
    });
    let results: Result<Vec<u64>, TaskError> = pool.map(KILL_AT_5, inputs).chunk_size(1).collect();
    assert_eq!(results, Ok(vec![0, 1, 2]));
}

#[test]
fn of_small_items_many_are_under_way_in_chunks_of_any_fixed_size() {
    let pool = Pool::builder().workers(1).forkserver().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    for size in [1, 2, 5] {
        let mut taken = 0;
        let items = (6..2000).inspect(|_| taken += 1).map(|number| (path.to_owned(), number));
        assert_eq!(pool.map(KILL_AT_5, items).chunk_size(size).next(), Some(Ok(6)));
        assert!(taken > 250, "{taken} in chunks of {size}");
    }
}
