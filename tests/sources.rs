//! The loop between a source and a pool, by a source in memory that fails when it is told to.

#[path = "common/scene.rs"]
mod scene;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use scene::{Scene, at_least, until, words};
use shmworker::{
    Pool, Tasks, jobs,
    jobs::Status,
    sources::{Lease, Options, Outcome, ServeError, SourceError, Stop, Stub, Summary, TaskSource, serve},
};
use std::{
    process::ExitCode,
    sync::atomic::{
        AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
    thread,
    time::Duration,
};

const SCENES: &[Scene] = scenes![
    each_job_is_done_and_stored,
    no_more_is_asked_for_than_there_is_room,
    what_is_no_job_is_published_as_failed,
    a_job_that_kills_its_worker_is_published,
    a_source_that_is_down_is_tried_again,
    a_batch_is_published_again_with_the_same,
    results_are_kept_and_fetching_stops,
    a_lost_lease_is_cancelled,
    a_lost_lease_that_waits_is_never_begun,
    a_drain_gives_back_what_waits,
    a_drain_gives_back_what_waits_in_the_pool,
    a_cancelled_end_gives_back_what_runs,
    what_cannot_be_published_is_told,
    a_fatal_error_ends_it,
    a_source_that_panics_ends_it,
    a_source_that_does_not_wait_is_not_asked_at_once,
    what_is_too_large_comes_in_parts,
    a_pool_that_is_lost_blames_no_job,
    two_loops_share_a_source,
];

fn main() -> ExitCode {
    scene::run(SCENES)
}

/// A pool whose task `hold` counts those that begin in a word, and ends as soon as another is not 0.
fn pool(workers: usize) -> (Pool, &'static [AtomicU64]) {
    let gate = words(2);
    let mut tasks = Tasks::new();
    jobs::builtin(&mut tasks);
    tasks.handler("hold", |context, (): ()| {
        gate[0].fetch_add(1, SeqCst);
        while gate[1].load(SeqCst) == 0 {
            context.check()?;
            thread::yield_now();
        }
        Ok(())
    });
    tasks.handler("die", |_, (): ()| {
        kill(Pid::this(), Signal::SIGKILL)?;
        Ok(())
    });
    (Pool::builder().workers(workers).fork(tasks).unwrap(), gate)
}

const ECHO: &str = r#"{"task":"echo","args":7,"label":"x"}"#;
const HOLD: &str = r#"{"task":"hold"}"#;

/// Short of nothing: pauses of a millisecond.
fn quick() -> Options {
    let ms = Duration::from_millis;
    Options::new().backoff(ms(1), ms(2)).batch(10, ms(1)).wait(ms(5))
}

/// Runs the loop, meanwhile `script`, and then drains it.
fn serving(
    source: &dyn TaskSource,
    pool: &Pool,
    options: Options,
    script: impl FnOnce(&Stop),
) -> Result<Summary, ServeError> {
    let stop = Stop::new();
    thread::scope(|scope| {
        let loop_ = scope.spawn(|| serve(source, pool, &options.stop(&stop)));
        script(&stop);
        stop.drain();
        loop_.join().unwrap()
    })
}

fn add(source: &Stub, n: usize, json: &str) {
    for _ in 0..n {
        source.add(json);
    }
}

fn all_stored(source: &Stub, n: usize) {
    until(|| source.results().len() == n);
}

fn down() -> SourceError {
    SourceError::Unavailable("down".to_owned())
}

fn each_job_is_done_and_stored() {
    let (pool, _) = pool(2);
    let source = Stub::new();
    add(&source, 1000, ECHO);
    let summary = serving(&source, &pool, quick(), |_| all_stored(&source, 1000)).unwrap();
    assert_eq!((summary.fetched, summary.done, summary.failed, summary.given_back), (1000, 1000, 0, 0));
    for (_, Outcome { result, .. }) in source.results() {
        assert_eq!((result.status, result.label.as_deref()), (Status::Done, Some("x")));
        assert_eq!(result.result.unwrap().get(), "7");
    }
    assert!(source.publishes().iter().all(|batch| batch.len() <= 10));
    assert!(source.is_shut_down());
}

fn no_more_is_asked_for_than_there_is_room() {
    let (pool, gate) = pool(2);
    let source = Stub::new();
    add(&source, 20, HOLD);
    let summary = serving(&source, &pool, quick().ahead(3), |_| {
        // Two run and three wait; only then is it known that nobody asks for more.
        at_least(&gate[0], 2);
        until(|| source.fetches().iter().map(|(_, n)| n).sum::<usize>() == 5);
        gate[1].store(1, SeqCst);
        all_stored(&source, 20);
    });
    assert_eq!(summary.unwrap().done, 20);
    assert!(source.fetches().iter().all(|&(room, _)| (1..=5).contains(&room)), "{:?}", source.fetches());
}

fn what_is_no_job_is_published_as_failed() {
    let (pool, _) = pool(1);
    let source = Stub::new();
    for json in
        ["", "{}", r#"{"task":"echo","colour":"red"}"#, r#"{"task":"no such"}"#, r#"{"task":"sha256","args":7}"#, ECHO]
    {
        source.add(json);
    }
    let summary = serving(&source, &pool, quick(), |_| all_stored(&source, 6)).unwrap();
    assert_eq!((summary.done, summary.failed), (1, 5));
    for (number, Outcome { result, .. }) in &source.results()[..5] {
        assert_eq!(result.status, Status::Failed, "{number}");
        assert!(!result.error.as_deref().unwrap().is_empty());
    }
}

fn a_job_that_kills_its_worker_is_published() {
    let (pool, _) = pool(1);
    let source = Stub::new();
    source.add(r#"{"task":"die"}"#);
    source.add(ECHO);
    let summary = serving(&source, &pool, quick(), |_| all_stored(&source, 2)).unwrap();
    assert_eq!((summary.done, summary.failed), (1, 1));
    let died = &source.results()[0].1.result;
    assert_eq!((died.status, died.signal), (Status::Died, Some(9)));
}

fn a_source_that_is_down_is_tried_again() {
    let (pool, _) = pool(1);
    let source = Stub::new();
    source.fail_fetches(20, down());
    source.add(ECHO);
    let summary = serving(&source, &pool, quick(), |_| all_stored(&source, 1)).unwrap();
    assert_eq!(summary.done, 1);
}

fn a_batch_is_published_again_with_the_same() {
    for is_late in [false, true] {
        let (pool, _) = pool(1);
        let source = Stub::new();
        source.fail_publishes(5, down(), is_late);
        add(&source, 7, ECHO);
        let summary = serving(&source, &pool, quick(), |_| {
            all_stored(&source, 7);
        });
        assert_eq!(summary.unwrap().done, 7);
        let publishes = source.publishes();
        assert!(publishes[..6].iter().all(|batch| *batch == publishes[0]), "{publishes:?}");
        assert_eq!(publishes[5..].iter().map(Vec::len).sum::<usize>(), 7);
        assert_eq!((0..7).map(|n| source.deliveries(n)).sum::<u32>(), 7);
    }
}

fn results_are_kept_and_fetching_stops() {
    let (pool, _) = pool(1);
    let source = Stub::new();
    add(&source, 500, ECHO);
    source.fail_publishes(u32::MAX, down(), false);
    let options = quick().ahead(5);
    let summary = serving(&source, &pool, options, |_| {
        // Once it has failed nobody fetches: what came by then is all.
        until(|| source.publishes().len() > 3);
        let fetched = || source.fetches().len();
        let before = fetched();
        let tries = source.publishes().len();
        until(|| source.publishes().len() > tries + 20);
        assert!(fetched() <= before + 1, "one may have been under way");
        assert!(source.results().is_empty());
        source.fail_publishes(0, down(), false);
        all_stored(&source, 500);
    });
    let summary = summary.unwrap();
    assert_eq!((summary.done, summary.unpublished), (500, 0));
    // Nothing was run twice for it.
    assert!((0..500).all(|n| source.deliveries(n) == 1));
}

fn a_lost_lease_is_cancelled() {
    let (pool, gate) = pool(1);
    let source = Stub::new().heartbeat(Duration::from_millis(1));
    let job = source.add(HOLD);
    let summary = serving(&source, &pool, quick(), |_| {
        at_least(&gate[0], 1);
        source.lose(job);
        // Handed out again, it begins a second time: the first has made room.
        at_least(&gate[0], 2);
        gate[1].store(1, SeqCst);
        all_stored(&source, 1);
    });
    let summary = summary.unwrap();
    assert_eq!((summary.done, summary.lost), (1, 1));
    assert_eq!(source.results()[0].1.id, "0/2");
    assert!(source.heartbeats() > 0);
}

fn a_lost_lease_that_waits_is_never_begun() {
    let (pool, gate) = pool(1);
    let source = Stub::new().heartbeat(Duration::from_millis(1));
    source.add(HOLD);
    let waiting = source.add(HOLD);
    let summary = serving(&source, &pool, quick().ahead(1), |_| {
        at_least(&gate[0], 1);
        until(|| source.deliveries(waiting) == 1);
        source.lose(waiting);
        until(|| source.deliveries(waiting) == 2);
        gate[1].store(1, SeqCst);
        all_stored(&source, 2);
    });
    let summary = summary.unwrap();
    assert_eq!((summary.done, summary.lost), (2, 1));
    assert_eq!(gate[0].load(SeqCst), 2);
}

fn a_drain_gives_back_what_waits() {
    let (pool, gate) = pool(2);
    let source = Stub::new();
    add(&source, 10, HOLD);
    let summary = serving(&source, &pool, quick().ahead(3), |stop| {
        at_least(&gate[0], 2);
        until(|| source.fetches().iter().map(|(_, n)| n).sum::<usize>() == 5);
        stop.drain();
        gate[1].store(1, SeqCst);
    });
    let summary = summary.unwrap();
    assert_eq!((summary.fetched, summary.done, summary.given_back), (5, 2, 3));
    assert_eq!(source.fetch(100, Duration::ZERO).unwrap().len(), 8);
}

fn a_drain_gives_back_what_waits_in_the_pool() {
    let (pool, gate) = pool(1);
    let source = Stub::new().heartbeat(Duration::from_millis(1));
    // Jobs that are over at once: many go to the pool at a time. It has room for more than there are, and so leaves none.
    add(&source, 50, ECHO);
    let summary = serving(&source, &pool, quick().ahead(30), |stop| {
        all_stored(&source, 50);
        let first = source.add(HOLD);
        at_least(&gate[0], 1);
        add(&source, 9, HOLD);
        until(|| source.fetches().iter().map(|(_, n)| n).sum::<usize>() == 60);
        stop.drain();
        // Who cancels the one that runs has seen the drain before.
        source.lose(first);
    });
    let summary = summary.unwrap();
    assert_eq!((summary.done, summary.failed, summary.lost), (50, 0, 1));
    // One that asked as the drain came may have had the lost one again.
    assert!(summary.fetched >= 60 && summary.given_back == summary.fetched - 51, "{summary:?}");
    assert_eq!(gate[0].load(SeqCst), 1, "others have begun");
}

fn a_cancelled_end_gives_back_what_runs() {
    let (pool, gate) = pool(2);
    let source = Stub::new();
    add(&source, 2, HOLD);
    let summary = serving(&source, &pool, quick(), |stop| {
        at_least(&gate[0], 2);
        stop.drain();
        stop.cancel();
    });
    let summary = summary.unwrap();
    assert_eq!((summary.done, summary.failed, summary.given_back), (0, 0, 2));
    assert!(source.results().is_empty());
}

fn what_cannot_be_published_is_told() {
    let (pool, _) = pool(1);
    let source = Stub::new();
    source.fail_publishes(u32::MAX, down(), false);
    add(&source, 3, ECHO);
    let options = quick().give_up(Duration::from_millis(10));
    let summary = serving(&source, &pool, options, |_| until(|| !source.publishes().is_empty())).unwrap();
    assert_eq!((summary.done, summary.given_back), (0, 0));
    assert!((1..=3).contains(&summary.unpublished), "{summary:?}");
    assert!(!source.is_shut_down());
}

fn a_fatal_error_ends_it() {
    let (pool, gate) = pool(1);
    let source = Stub::new();
    let fatal = || SourceError::Fatal("no such table".to_owned());
    source.fail_fetches(1, fatal());
    let error = serve(&source, &pool, &quick()).unwrap_err();
    assert_eq!(error.to_string(), "no such table");
    // Of a publish: what runs is cancelled, since nobody would take its result.
    source.add(ECHO);
    source.add(HOLD);
    source.fail_publishes(1, fatal(), false);
    let ServeError::Source { summary, .. } = serve(&source, &pool, &quick()).unwrap_err() else { panic!("another") };
    assert_eq!((summary.done, summary.unpublished), (0, 1));
    let _ = gate;
}

/// Fails in a way of its own.
struct Broken;

impl TaskSource for Broken {
    fn fetch(&self, _: usize, _: Duration) -> Result<Vec<Lease>, SourceError> {
        panic!("it is broken")
    }

    fn publish(&self, _: &[Outcome]) -> Result<(), SourceError> {
        Ok(())
    }

    fn shut_down(&self, _: &[&str]) -> Result<(), SourceError> {
        Ok(())
    }
}

fn a_source_that_panics_ends_it() {
    let (pool, _) = pool(1);
    let ended = thread::scope(|scope| scope.spawn(|| serve(&Broken, &pool, &quick())).join());
    assert!(ended.is_err());
}

/// Says at once that there are none, and counts how often.
#[derive(Default)]
struct Hasty(AtomicU64);

impl TaskSource for Hasty {
    fn fetch(&self, _: usize, _: Duration) -> Result<Vec<Lease>, SourceError> {
        self.0.fetch_add(1, SeqCst);
        Ok(Vec::new())
    }

    fn publish(&self, _: &[Outcome]) -> Result<(), SourceError> {
        Ok(())
    }

    fn shut_down(&self, _: &[&str]) -> Result<(), SourceError> {
        Ok(())
    }
}

fn a_source_that_does_not_wait_is_not_asked_at_once() {
    let (pool, _) = pool(1);
    let (hasty, stub) = (Hasty::default(), Stub::new());
    let hour = Duration::from_secs(3600);
    // The pause lasts until the drain.
    let options = Options::new().wait(hour).backoff(hour, hour);
    serving(&hasty, &pool, options, |_| {
        at_least(&hasty.0, 1);
        // Meanwhile another loop has gone round many times.
        add(&stub, 200, ECHO);
        serving(&stub, &pool, quick(), |_| all_stored(&stub, 200)).unwrap();
    })
    .unwrap();
    assert_eq!(hasty.0.load(SeqCst), 1);
}

/// Takes two results at once, and none that is longer than ten bytes.
struct Narrow(Stub);

impl TaskSource for Narrow {
    fn fetch(&self, room: usize, wait: Duration) -> Result<Vec<Lease>, SourceError> {
        self.0.fetch(room, wait)
    }

    fn publish(&self, outcomes: &[Outcome]) -> Result<(), SourceError> {
        let len = |outcome: &Outcome| outcome.result.result.as_ref().map_or(0, |json| json.get().len());
        if outcomes.len() > 2 || outcomes.iter().any(|outcome| len(outcome) > 10) {
            return Err(SourceError::TooLarge("too much".to_owned()));
        }
        self.0.publish(outcomes)
    }

    fn shut_down(&self, unstarted: &[&str]) -> Result<(), SourceError> {
        self.0.shut_down(unstarted)
    }
}

fn what_is_too_large_comes_in_parts() {
    let (pool, _) = pool(2);
    let source = Narrow(Stub::new());
    add(&source.0, 50, ECHO);
    let long = source.0.add(r#"{"task":"echo","args":"more than ten bytes"}"#);
    let options = quick().batch(50, Duration::from_millis(50));
    let summary = serving(&source, &pool, options, |_| all_stored(&source.0, 51)).unwrap();
    assert_eq!((summary.done, summary.failed, summary.unpublished), (50, 1, 0));
    let refused = &source.0.results()[long].1.result;
    assert_eq!(refused.status, Status::Failed);
    assert_eq!(refused.error.as_deref(), Some("the source does not take its result of 21 bytes: too much"));
}

fn a_pool_that_is_lost_blames_no_job() {
    let (pool, gate) = pool(1);
    let source = Stub::new();
    source.add(HOLD);
    let error = thread::scope(|scope| {
        let loop_ = scope.spawn(|| serve(&source, &pool, &quick()));
        at_least(&gate[0], 1);
        kill(Pid::from_raw(pool.coordinator_pid().cast_signed()), Signal::SIGKILL).unwrap();
        loop_.join().unwrap().unwrap_err()
    });
    let ServeError::Pool { summary, .. } = error else { panic!("{error}") };
    assert_eq!((summary.done, summary.failed, summary.given_back), (0, 0, 1));
    assert!(source.results().is_empty());
}

fn two_loops_share_a_source() {
    let source = Stub::new();
    add(&source, 500, ECHO);
    let (first, second) = (pool(1).0, pool(1).0);
    let (stop, done) = (Stop::new(), AtomicU64::new(0));
    thread::scope(|scope| {
        for pool in [&first, &second] {
            scope.spawn(|| done.fetch_add(serve(&source, pool, &quick().stop(&stop)).unwrap().done, Relaxed));
        }
        all_stored(&source, 500);
        stop.drain();
    });
    assert_eq!(done.into_inner(), 500);
}
