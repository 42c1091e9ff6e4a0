//! What becomes of tasks that are cancelled, expire, are tried again or set aside; of many at once; and what they keep.

#[path = "common/scene.rs"]
mod scene;

use nix::{
    sys::signal::{Signal, kill, raise},
    unistd::{Pid, getpid},
};
use scene::{at_least, until, words};
use serde::{Deserialize, Serialize, Serializer};
use shmworker::{
    Pool, Tasks,
    pool::{Blame, Bytes, Context, Failure, Handle, Pods, PoolError, Retry, StartError, Task, TaskError, TaskOptions},
};
use std::{
    cell::Cell,
    collections::BTreeSet,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    process::ExitCode,
    sync::{
        Arc, Barrier,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    task::{Poll, Wake, Waker},
    thread::Thread,
    time::{Duration, Instant},
};

const PLAIN: TaskOptions = TaskOptions::new();
const SHORT: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    scene::run(scenes![
        cancelled_while_it_waits,
        cancelled_while_it_runs,
        cancelled_in_a_chunk,
        expired,
        tried_again_after_a_pause,
        tried_again_after_what_was_said,
        set_aside_as_poison,
        suspects_run_alone,
        a_culprit_makes_no_suspects,
        a_suspect_that_waits_is_alone_afterwards,
        beside_one_that_ran_out_of_time,
        below_one_that_ran_out_of_time,
        one_key_is_one_task,
        the_first_queue_comes_first,
        a_checkpoint_outlives_a_kill,
        a_sign_of_life_is_enough,
        states_are_made_once_and_dropped,
        a_start_that_fails_is_said,
        a_wait_that_is_over_gives_the_handle_back,
        futures_under_any_executor,
        a_future_in_a_task,
        a_scope_tells_how_each_went,
        a_scope_waits_whatever_comes,
        a_map_in_every_shape,
        a_map_takes_no_more_than_it_needs,
        items_that_end_badly,
        an_item_without_an_encoding,
        a_map_that_is_dropped,
        maps_side_by_side,
        items_of_no_bytes,
        plain_values_of_every_alignment,
        a_reply_that_is_kept,
        json_in_and_out,
        times_are_those_of_the_clock,
        without_times,
        pages_are_there_before_the_first_task,
    ])
}

/// A worker that is busy until it is let go.
struct Held {
    gate: &'static [AtomicU64],
    handle: Handle<()>,
}

const HOLD: Task<(), ()> = Task::named("hold");
const PROCESS: Task<(), i32> = Task::named("process");

/// With a task that [`Held`] needs.
fn tasks() -> (Tasks, &'static [AtomicU64]) {
    let mut tasks = Tasks::new();
    let gate = words(2);
    tasks.function("hold", |()| {
        gate[0].fetch_add(1, SeqCst);
        at_least(&gate[1], 1);
    });
    tasks.function("process", |()| getpid().as_raw());
    (tasks, gate)
}

fn hold(pool: &Pool, gate: &'static [AtomicU64]) -> Held {
    gate[1].store(0, SeqCst);
    let before = gate[0].load(SeqCst);
    let handle = pool.submit(HOLD, &()).unwrap();
    at_least(&gate[0], before + 1);
    Held { gate, handle }
}

impl Held {
    fn release(self) {
        self.gate[1].store(1, SeqCst);
        self.handle.wait().unwrap();
    }
}

fn forever() -> ! {
    loop {
        std::thread::park();
    }
}

fn die() -> ! {
    raise(Signal::SIGKILL).unwrap();
    forever()
}

fn segfault() -> ! {
    // SAFETY: not safe; it is to be the end of this process.
    unsafe { std::ptr::without_provenance_mut::<u8>(64).write_volatile(1) }
    forever()
}

fn load(word: &AtomicU64) -> u64 {
    word.load(SeqCst)
}

// ---- cancelled and expired ------------------------------------------------------------------------------------------

fn cancelled_while_it_waits() {
    let (mut tasks, gate) = tasks();
    let runs = words(1);
    let count = tasks.function("count", |()| runs[0].fetch_add(1, SeqCst));
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    let held = hold(&pool, gate);
    let [plain, keyed] = [PLAIN, PLAIN.key("k")].map(|options| pool.submit_with(count, &(), &options).unwrap());
    plain.cancel().unwrap();
    keyed.cancel().unwrap();
    assert_eq!([plain.wait(), keyed.wait()], [Err(TaskError::Cancelled), Err(TaskError::Cancelled)]);
    held.release();
    assert_eq!(pool.submit(count, &()).unwrap().wait(), Ok(0), "the first that ran");
    pool.join().unwrap();
}

fn cancelled_while_it_runs() {
    let (mut tasks, _) = tasks();
    let begun = words(2);
    let obey = tasks.handler("obey", |context, ()| -> Result<(), Failure> {
        begun[0].fetch_add(1, SeqCst);
        loop {
            context.check()?;
            std::thread::yield_now();
        }
    });
    let ignore = tasks.handler("ignore", |context, ()| {
        begun[1].fetch_add(1, SeqCst);
        until(|| context.is_cancelled());
        Ok(7)
    });
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    let obeys = pool.submit_with(obey, &(), &PLAIN.attempts(3)).unwrap();
    at_least(&begun[0], 1);
    obeys.cancel().unwrap();
    assert_eq!(obeys.wait(), Err(TaskError::Cancelled));
    assert_eq!(load(&begun[0]), 1, "it has no further attempt");
    let ignores = pool.submit(ignore, &()).unwrap();
    at_least(&begun[1], 1);
    ignores.cancel().unwrap();
    assert_eq!(ignores.wait(), Ok(7), "its result is kept");
    pool.join().unwrap();
}

/// The owner's end of a pool cancels chunks too: by two signals to the coordinator.
fn cancelled_in_a_chunk() {
    for at in [0, 5, 9] {
        let (mut tasks, _) = tasks();
        let begun = words(1);
        let wait = tasks.handler("wait", move |context, i: u64| {
            if i != at {
                return Ok(i);
            }
            begun[0].store(1, SeqCst);
            loop {
                context.check()?;
                std::thread::yield_now();
            }
        });
        let pool = Pool::builder().workers(1).fork(tasks).unwrap();
        let results: Vec<_> = std::thread::scope(|s| {
            s.spawn(|| {
                let coordinator = Pid::from_raw(pool.coordinator_pid() as i32);
                at_least(&begun[0], 1);
                kill(coordinator, Signal::SIGTERM).unwrap();
                // One signal may swallow another.
                until(|| matches!(pool.submit(HOLD, &()), Err(PoolError::Draining)));
                kill(coordinator, Signal::SIGTERM).unwrap();
            });
            pool.map(wait, 0..10).chunk_size(10).collect()
        });
        assert_eq!(results, vec![Err(TaskError::Cancelled); 10], "at {at}");
        pool.join().unwrap();
    }
}

fn expired() {
    let (mut tasks, gate) = tasks();
    let square = tasks.function("square", |x: u64| x * x);
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    let held = hold(&pool, gate);
    let late = pool.submit_with(square, &3, &PLAIN.attempts(3).expires_in(SHORT)).unwrap();
    let in_time = pool.submit_with(square, &4, &PLAIN.expires_in(Duration::from_secs(1000))).unwrap();
    let finished = late.finish();
    assert_eq!((finished.result, finished.attempts, finished.worker), (Err(TaskError::Expired), 0, None));
    held.release();
    assert_eq!(in_time.wait(), Ok(16));
    pool.join().unwrap();
}

// ---- attempts -------------------------------------------------------------------------------------------------------

fn tried_again_after_a_pause() {
    let (mut tasks, _) = tasks();
    let seen = words(4);
    let third = tasks.handler("third", |context, ()| {
        seen[context.attempt() as usize].fetch_add(1, SeqCst);
        if context.attempt() < 3 { Err(Failure::new("not yet")) } else { Ok(context.attempt()) }
    });
    let pool = Pool::builder().workers(2).fork(tasks).unwrap();
    let begin = Instant::now();
    let options = PLAIN.attempts(4).backoff(SHORT, Duration::from_secs(60));
    let finished = pool.submit_with(third, &(), &options).unwrap().finish();
    assert_eq!((finished.result, finished.attempts), (Ok(3), 3));
    // 20 ms and twice that, each less a quarter at most.
    assert!(begin.elapsed() >= (SHORT + 2 * SHORT) * 3 / 4, "{:?}", begin.elapsed());
    assert_eq!(seen.iter().map(load).collect::<Vec<_>>(), [0, 1, 1, 1]);
    let failed = pool.submit_with(third, &(), &PLAIN.attempts(2)).unwrap().finish();
    assert_eq!((failed.result, failed.attempts), (Err(TaskError::Failed("not yet".into())), 2));
    pool.join().unwrap();
}

fn tried_again_after_what_was_said() {
    const ENDS: [Retry; 4] = [Retry::Failed, Retry::Panicked, Retry::Died, Retry::TimedOut];
    let (mut tasks, _) = tasks();
    let end = tasks.handler("end", |context, how: usize| -> Result<(), Failure> {
        match ENDS[how] {
            Retry::Failed => Err(Failure::new("on purpose")),
            Retry::Panicked => panic!("on purpose"),
            Retry::Died => die(),
            _ => loop {
                context.check()?;
                std::thread::yield_now();
            },
        }
    });
    let last = tasks.handler("last", |_, ()| -> Result<(), Failure> { Err(Failure::permanent("for good")) });
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    for (how, end_of_it) in ENDS.into_iter().enumerate() {
        let others: Vec<_> = ENDS.into_iter().filter(|other| *other != end_of_it).collect();
        for (retry_on, attempts) in [(vec![end_of_it], 2), (others, 1), (vec![], 1), (ENDS.to_vec(), 2)] {
            let options = PLAIN.attempts(2).timeout(Duration::from_secs(1000)).retry_on(retry_on.clone());
            let options = if end_of_it == Retry::TimedOut { options.timeout(SHORT) } else { options };
            let finished = pool.submit_with(end, &how, &options).unwrap().finish();
            let is_as_expected = match (&finished.result, end_of_it) {
                (Err(TaskError::Failed(why)), Retry::Failed) => why == "on purpose",
                (Err(TaskError::Panicked(why)), Retry::Panicked) => why.ends_with(": on purpose"),
                (Err(TaskError::Died(blame)), Retry::Died) => blame.attempts == attempts && blame.deaths == attempts,
                (Err(TaskError::TimedOut(blame)), Retry::TimedOut) => blame.attempts == attempts,
                _ => false,
            };
            assert!(is_as_expected && finished.attempts == attempts, "{retry_on:?}: {finished:?}");
        }
    }
    let finished = pool.submit_with(last, &(), &PLAIN.attempts(5)).unwrap().finish();
    assert_eq!((finished.result, finished.attempts), (Err(TaskError::Failed("for good".into())), 1));
    pool.join().unwrap();
}

fn set_aside_as_poison() {
    let (mut tasks, _) = tasks();
    let kill = tasks.handler("kill", |context, ()| -> Result<(), Failure> {
        context.progress(context.attempt().into(), 9);
        die()
    });
    let pool = Pool::builder().workers(2).fork(tasks).unwrap();
    let options = PLAIN.attempts(255).max_worker_deaths(3);
    let Err(error @ TaskError::Died(_)) = pool.submit_with(kill, &(), &options).unwrap().wait() else {
        panic!("it lives")
    };
    let said = error.to_string();
    let TaskError::Died(Blame { exit, attempts, deaths, is_poison, peak_kib, progress, .. }) = error else { return };
    assert_eq!((exit.as_str(), attempts, deaths, is_poison), ("signal 9 (SIGKILL)", 3, 3, true));
    assert!(peak_kib > 100 && progress == Some((3, 9)), "{said}");
    let expected =
        "the task is poison: it has killed 3 workers (last: signal 9 (SIGKILL)); attempt 3; it was at 3 of 9; memory";
    assert!(said.starts_with(expected), "{said}");
    pool.join().unwrap();
}

/// A process runs four: three that stay there at their first attempt, and one that ends it. What became of them.
///
/// `meet`: the three wait for each other at their next attempt; else the fourth waits for their end.
fn four_in_a_process(end: fn() -> !, meet: bool, options: &TaskOptions) -> (Vec<Result<u64, TaskError>>, TaskError) {
    let (mut tasks, _) = tasks();
    let shared = words(3);
    let [begun, again, done] = [0, 1, 2].map(|i| &shared[i]);
    let innocent = tasks.handler("innocent", move |context, ()| {
        if context.attempt() == 1 {
            begun.fetch_add(1, SeqCst);
            forever();
        }
        again.fetch_add(1, SeqCst);
        if meet {
            at_least(again, 3);
        }
        done.fetch_add(1, SeqCst);
        Ok(u64::from(context.attempt()))
    });
    let culprit = tasks.handler("culprit", move |context, ()| -> Result<u64, Failure> {
        match context.attempt() {
            1 => at_least(begun, 3),
            _ => {
                begun.fetch_add(1, SeqCst);
                at_least(done, 3);
            }
        }
        end()
    });
    let pool = Pool::builder().workers(1).slots(4).fork(tasks).unwrap();
    let innocents: Vec<_> = (0..3).map(|_| pool.submit_with(innocent, &(), options).unwrap()).collect();
    let culprit = pool.submit_with(culprit, &(), options).unwrap();
    if !meet {
        // Whom the fourth waits for can run elsewhere, while it has its process to itself.
        at_least(begun, 4);
        pool.resize(2).unwrap();
    }
    let culprit = culprit.wait().unwrap_err();
    let innocents = innocents.into_iter().map(Handle::wait).collect();
    pool.join().unwrap();
    (innocents, culprit)
}

/// Of SIGKILL nobody knows whose it was: each is tried alone. What waits for that to end is not in the process.
fn suspects_run_alone() {
    let (innocents, culprit) = four_in_a_process(die, false, &PLAIN.attempts(9).max_worker_deaths(2));
    assert_eq!(innocents, vec![Ok(2); 3]);
    let TaskError::Died(blame) = &culprit else { panic!("{culprit}") };
    assert_eq!((blame.exit.as_str(), blame.deaths, blame.is_poison), ("signal 9 (SIGKILL)", 2, true), "{culprit}");
    assert_eq!(blame.attempts, 3, "one in company, two alone");
}

/// Of SIGSEGV it is known: the others go on together.
fn a_culprit_makes_no_suspects() {
    let (innocents, culprit) = four_in_a_process(segfault, true, &PLAIN.attempts(9).max_worker_deaths(1));
    assert_eq!(innocents, vec![Ok(2); 3]);
    let TaskError::Died(blame) = &culprit else { panic!("{culprit}") };
    assert_eq!((blame.exit.as_str(), blame.deaths, blame.attempts), ("signal 11 (SIGSEGV)", 1, 1), "{culprit}");
}

/// A suspect that waits for its own tasks is alone again when it goes on: what it ends by then is its own doing.
fn a_suspect_that_waits_is_alone_afterwards() {
    let (mut tasks, _) = tasks();
    let shared = words(3);
    let [begun, running, most] = [0, 1, 2].map(|i| &shared[i]);
    let parent = tasks.handler("parent", move |context, ()| {
        if context.attempt() == 1 {
            begun.fetch_add(1, SeqCst);
            forever();
        }
        let children: Vec<_> = (0..50u64).map(|_| context.pool().submit(CHILD, &0)).collect::<Result<_, _>>()?;
        for child in children {
            child.wait()?;
            most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
            std::thread::yield_now();
            running.fetch_sub(1, SeqCst);
        }
        Ok(())
    });
    const CHILD: Task<u64, u64> = Task::named("child");
    tasks.function("child", |x: u64| x);
    let pool = Pool::builder().workers(1).slots(3).fork(tasks).unwrap();
    let parents: Vec<_> = (0..2).map(|_| pool.submit_with(parent, &(), &PLAIN.attempts(2)).unwrap()).collect();
    at_least(begun, 2);
    let pid = pool.submit(PROCESS, &()).unwrap().wait().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    parents.into_iter().for_each(|parent| parent.wait().unwrap());
    assert_eq!(load(most), 1, "both are suspects");
    pool.join().unwrap();
}

fn beside_one_that_ran_out_of_time() {
    let (mut tasks, _) = tasks();
    let begun = words(1);
    let late = tasks.function("late", |()| -> () { forever() });
    let beside = tasks.handler("beside", |context, ()| {
        if begun[0].fetch_add(1, SeqCst) == 0 {
            forever();
        }
        Ok((context.attempt(), load(&begun[0])))
    });
    let pool = Pool::builder().workers(1).slots(2).fork(tasks).unwrap();
    let beside = pool.submit(beside, &()).unwrap();
    at_least(&begun[0], 1);
    let late = pool.submit_with(late, &(), &PLAIN.timeout(SHORT).grace(SHORT)).unwrap().wait();
    assert!(matches!(late, Err(TaskError::TimedOut(_))), "{late:?}");
    assert_eq!(beside.wait(), Ok((1, 2)), "begun twice, though it has one attempt");
    pool.join().unwrap();
}

/// Who waits beneath what ran out of time submits it anew when it begins again: it must not begin again for nothing.
fn below_one_that_ran_out_of_time() {
    const LATE: Task<(), ()> = Task::named("late");
    let (mut tasks, _) = tasks();
    let begun = words(1);
    tasks.function("late", |()| -> () { forever() });
    let waits = tasks.handler("waits", |context, ()| {
        begun[0].fetch_add(1, SeqCst);
        Ok(context.pool().submit_with(LATE, &(), &PLAIN.timeout(SHORT).grace(SHORT))?.wait()?)
    });
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    for attempts in [1, 2] {
        begun[0].store(0, SeqCst);
        let result = pool.submit_with(waits, &(), &PLAIN.attempts(attempts)).unwrap().wait();
        let Err(TaskError::Died(blame)) = &result else { panic!("{result:?}") };
        assert_eq!((blame.attempts, blame.deaths), (u32::from(attempts), 0), "{result:?}");
        assert_eq!(load(&begun[0]), u64::from(attempts));
    }
    pool.join().unwrap();
}

// ---- keys and queues ------------------------------------------------------------------------------------------------

fn one_key_is_one_task() {
    const KEYS: u64 = 100;
    let (mut tasks, gate) = tasks();
    let runs = words(KEYS as usize);
    let run = tasks.function("run", |i: u64| runs[i as usize].fetch_add(1, SeqCst) + 1);
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    for round in 1..=3 {
        let held = hold(&pool, gate);
        let all_have_submitted = Barrier::new(9);
        std::thread::scope(|s| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    s.spawn(|| {
                        let submit = |i| pool.submit_with(run, &i, &PLAIN.key(format!("key {i}"))).unwrap();
                        let mut handles: Vec<_> = (0..KEYS).map(submit).collect();
                        all_have_submitted.wait();
                        // Those of a key are one task's, whichever is dropped.
                        handles.truncate(KEYS as usize / 2);
                        handles.into_iter().map(|handle| handle.wait().unwrap()).collect::<BTreeSet<_>>()
                    })
                })
                .collect();
            all_have_submitted.wait();
            held.release();
            for thread in threads {
                assert_eq!(thread.join().unwrap(), BTreeSet::from([round]));
            }
        });
        // Over, so that the next is another.
        let last = pool.submit(run, &0).unwrap();
        assert_eq!(last.wait(), Ok(round + 1));
        runs[0].store(round, SeqCst);
        assert!(runs.iter().all(|n| load(n) == round), "{runs:?}");
    }
    pool.join().unwrap();
}

fn the_first_queue_comes_first() {
    let (mut tasks, gate) = tasks();
    let order = words(10);
    let note = tasks.function("note", |n: u64| order[order[9].fetch_add(1, SeqCst) as usize].store(n, SeqCst));
    let pool = Pool::builder().workers(1).queues(["urgent", "default", "bulk"]).fork(tasks).unwrap();
    let held = hold(&pool, gate);
    let submit = |queue, n| pool.submit_with(note, &n, &PLAIN.queue(queue)).unwrap();
    let handles = ["bulk", "default", "urgent"].map(|queue| {
        let first = match queue {
            "urgent" => 1,
            "default" => 4,
            _ => 7,
        };
        [0, 1, 2].map(|i| submit(queue, first + i))
    });
    held.release();
    handles.into_iter().flatten().for_each(|handle| handle.wait().unwrap());
    assert_eq!(order[..9].iter().map(load).collect::<Vec<_>>(), (1..=9).collect::<Vec<_>>());
    pool.join().unwrap();
}

// ---- what is kept ---------------------------------------------------------------------------------------------------

fn a_checkpoint_outlives_a_kill() {
    const STEPS: u64 = 100;
    let (mut tasks, _) = tasks();
    let runs = words(STEPS as usize);
    let count = tasks.handler("count", |context, ()| {
        let mut n = match context.last_checkpoint()? {
            Some(bytes) => u64::from_le_bytes(bytes[..8].try_into()?),
            None => 0,
        };
        while n < STEPS {
            runs[n as usize].fetch_add(1, SeqCst);
            n += 1;
            // Of different sizes, some of which lie in blocks.
            let mut kept = n.to_le_bytes().to_vec();
            kept.resize(8 + (n as usize % 7) * 1000, 0);
            context.checkpoint(&kept)?;
            if n.is_multiple_of(30) && context.attempt() == (n / 30) as u32 {
                die();
            }
        }
        Ok(context.attempt())
    });
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    let options = PLAIN.attempts(9).max_worker_deaths(9);
    assert_eq!(pool.submit_with(count, &(), &options).unwrap().wait(), Ok(4));
    assert!(runs.iter().all(|n| load(n) == 1), "each step was done once: {runs:?}");
    // It is the task's own: the next begins anew.
    assert_eq!(pool.submit_with(count, &(), &options).unwrap().wait(), Ok(4));
    assert!(runs.iter().all(|n| load(n) == 2), "{runs:?}");
    pool.join().unwrap();
}

struct State {
    drops: &'static AtomicU64,
}

impl Drop for State {
    fn drop(&mut self) {
        self.drops.fetch_add(1, SeqCst);
    }
}

/// It runs for longer than it may be silent, and says by either means that it lives.
fn a_sign_of_life_is_enough() {
    const SILENCE: Duration = Duration::from_secs(2);
    let (mut tasks, _) = tasks();
    let beat = tasks.handler("beat", |context, is_progress: bool| {
        let begin = Instant::now();
        until(|| {
            if is_progress {
                context.progress(1, 2)
            } else {
                context.heartbeat()
            }
            begin.elapsed() > SILENCE * 5 / 4
        });
        Ok(context.attempt())
    });
    let pool = Pool::builder().workers(2).fork(tasks).unwrap();
    let options = PLAIN.attempts(2).heartbeat_timeout(SILENCE);
    let handles = [false, true].map(|how| pool.submit_with(beat, &how, &options).unwrap());
    handles.into_iter().for_each(|handle| assert_eq!(handle.wait(), Ok(1)));
    pool.join().unwrap();
}

fn states_are_made_once_and_dropped() {
    for slots in [1, 4] {
        let shared = words(5);
        let [made, drops, starts, exits, tries] = [0, 1, 2, 3, 4].map(|i| &shared[i]);
        let (mut tasks, _) = tasks();
        tasks.state(|| {
            match tries.fetch_add(1, SeqCst) {
                0 => return Err(Failure::new("the first fails")),
                1 => panic!("the second panics"),
                _ => {}
            }
            made.fetch_add(1, SeqCst);
            Ok(State { drops })
        });
        tasks.on_start(|| {
            starts.fetch_add(1, SeqCst);
            Ok(())
        });
        tasks.on_exit(|| panic!("said, and no more"));
        tasks.on_exit(|| {
            exits.fetch_add(1, SeqCst);
        });
        let look = tasks.handler("look", |context, ()| Ok(load(context.state::<State>()?.drops)));
        let none = tasks.handler("none", |context, ()| context.state::<String>().cloned());
        let pool = Pool::builder().workers(1).slots(slots).fork(tasks).unwrap();
        let pid = pool.submit(PROCESS, &()).unwrap().wait().unwrap();
        assert_eq!((load(starts), load(made)), (1, 0), "nobody has asked for it");
        assert_eq!(pool.submit(look, &()).unwrap().wait(), Err(TaskError::Failed("the first fails".into())));
        let panicked = pool.submit(look, &()).unwrap().wait();
        assert!(
            matches!(&panicked, Err(TaskError::Panicked(why)) if why.ends_with("the second panics")),
            "{panicked:?}"
        );
        let looks: Vec<_> = (0..100).map(|_| pool.submit(look, &()).unwrap()).collect();
        looks.into_iter().for_each(|look| assert_eq!(look.wait(), Ok(0)));
        assert_eq!(load(made), 1, "once for all threads");
        let none = pool.submit_with(none, &(), &PLAIN.attempts(3)).unwrap().finish();
        let said = "no state of type alloc::string::String is registered: call Tasks::state";
        assert_eq!((none.result, none.attempts), (Err(TaskError::Failed(said.into())), 1));
        // What is killed drops nothing, and its heir makes its own.
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        assert_eq!(pool.submit_with(look, &(), &PLAIN.attempts(2)).unwrap().wait(), Ok(0));
        assert_eq!((load(starts), load(made), load(drops), load(exits)), (2, 2, 0, 0));
        pool.join().unwrap();
        assert_eq!((load(drops), load(exits)), (1, 1));
    }
}

fn a_start_that_fails_is_said() {
    let (mut tasks, _) = tasks();
    tasks.on_start(|| Err(Failure::new("no database at 10.0.0.7")));
    let e = Pool::builder().workers(2).fork(tasks).unwrap_err();
    let StartError::Refused(why) = &e else { panic!("{e}") };
    let said = "died 5 times in a row before it had done anything (last: exit code 1: the start hook of this worker failed: \
                no database at 10.0.0.7)";
    assert!(why.contains(said), "{why}");

    // The same later.
    let (mut tasks, _) = self::tasks();
    let is_broken = words(1);
    tasks.on_start(|| if load(&is_broken[0]) == 0 { Ok(()) } else { Err(Failure::new("no database any more")) });
    let suicide = tasks.function("suicide", |()| -> () { die() });
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    is_broken[0].store(1, SeqCst);
    let waits = pool.submit_with(suicide, &(), &PLAIN.attempts(2)).unwrap();
    let lost = waits.wait().unwrap_err().to_string();
    assert!(lost.starts_with("the pool has ended: worker:0 died 5 times"), "{lost}");
    assert!(lost.contains("no database any more"), "{lost}");
    let ended = pool.submit(suicide, &()).unwrap_err().to_string();
    assert!(ended.contains("no database any more"), "{ended}");
    let ended = pool.join().unwrap_err().to_string();
    assert!(ended.contains("no database any more"), "{ended}");
}

fn a_wait_that_is_over_gives_the_handle_back() {
    let (mut tasks, gate) = tasks();
    let square = tasks.function("square", |x: u64| x * x);
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    let held = hold(&pool, gate);
    let mut handle = pool.submit(square, &12).unwrap();
    for at_most in [Duration::ZERO, SHORT] {
        handle = handle.wait_timeout(at_most).expect_err("it can't have run");
    }
    held.release();
    assert_eq!(handle.wait_timeout(Duration::MAX).unwrap(), Ok(144));
    pool.join().unwrap();
}

// ---- futures --------------------------------------------------------------------------------------------------------

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest executor.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        std::thread::park();
    }
}

/// Waits for all of these at once.
async fn join_all<F: Future + Unpin>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut slots: Vec<_> = futures.into_iter().map(|future| (Some(future), None)).collect();
    poll_fn(|context| {
        for (future, output) in &mut slots {
            if let Some(pending) = future
                && let Poll::Ready(ready) = Pin::new(pending).poll(context)
            {
                (*future, *output) = (None, Some(ready));
            }
        }
        if slots.iter().all(|(future, _)| future.is_none()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    slots.into_iter().map(|(_, output)| output.unwrap()).collect()
}

fn futures_under_any_executor() {
    let (mut tasks, gate) = tasks();
    let square = tasks.handler("square", |_, x: u64| if x == 13 { Err(Failure::new("unlucky")) } else { Ok(x * x) });
    let pool = Pool::builder().workers(2).fork(tasks).unwrap();
    let submit = |x: u64| pool.submit(square, &x).unwrap();
    assert_eq!(block_on(submit(7)), Ok(49));
    assert_eq!(block_on(async { submit(3).await.unwrap() + submit(4).await.unwrap() }), 25);
    let expected = |x: u64| if x == 13 { Err(TaskError::Failed("unlucky".into())) } else { Ok(x * x) };
    assert_eq!(block_on(join_all((0..10_000).map(submit))), (0..10_000).map(expected).collect::<Vec<_>>());
    // From several threads, beside those that wait.
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| assert_eq!(block_on(join_all((20..500).map(submit))).len(), 480));
            s.spawn(|| (20..500).for_each(|x| assert_eq!(submit(x).wait(), Ok(x * x))));
        }
    });
    // Dropped midway: with those that nobody waits for, others come all the same.
    let both = [0, 1].map(|_| hold(&pool, gate));
    let mut looked_at: Vec<_> = (20..120).map(submit).collect();
    block_on(poll_fn(|context| {
        for handle in &mut looked_at {
            assert!(Pin::new(handle).poll(context).is_pending());
        }
        Poll::Ready(())
    }));
    let kept = looked_at.split_off(50);
    drop(looked_at);
    both.into_iter().for_each(Held::release);
    assert_eq!(block_on(join_all(kept)), (70..120).map(|x| Ok(x * x)).collect::<Vec<_>>());
    // Looked at as a future, then waited for.
    let mut handle = submit(30);
    let _ = block_on(poll_fn(|context| Poll::Ready(Pin::new(&mut handle).poll(context).is_ready())));
    drop(handle);
    pool.join().unwrap();
}

/// The only worker awaits what only it can run.
fn a_future_in_a_task() {
    let (mut tasks, _) = tasks();
    let square = tasks.function("square", |x: u64| x * x);
    let sum = tasks.handler("sum", move |context, n: u64| {
        let squares = (0..n).map(|x| context.pool().submit(square, &x)).collect::<Result<Vec<_>, _>>()?;
        let squares = block_on(join_all(squares)).into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(squares.into_iter().sum::<u64>())
    });
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    assert_eq!(pool.submit(sum, &100).unwrap().wait(), Ok(328_350));
    pool.join().unwrap();
}

// ---- scopes ---------------------------------------------------------------------------------------------------------

fn a_scope_tells_how_each_went() {
    let (mut tasks, _) = tasks();
    let square = tasks.function("square", |x: u64| x * x);
    let shout = tasks.function("shout", |text: String| text.to_uppercase());
    let fail = tasks.handler("fail", |_, ()| -> Result<(), Failure> { Err(Failure::new("on purpose")) });
    let crash = tasks.function("crash", |()| -> () { die() });
    let pool = Pool::builder().workers(2).fork(tasks).unwrap();
    let mut kept = None;
    let report = pool
        .scope(|scope| {
            kept = Some(scope.submit("twelve", square, &12)?);
            scope.submit("hello", shout, &"hello".to_owned())?;
            Ok(())
        })
        .unwrap();
    assert_eq!((report.exit_code(), report.failed().count(), report.rows.len()), (0, 0, 2));
    assert_eq!(kept.unwrap().wait(), Ok(144));

    let report = pool
        .scope(|scope| {
            scope.submit("twelve", square, &12)?;
            scope.submit("broken", fail, &())?;
            scope.submit_with("crash", crash, &(), &PLAIN.attempts(2))?;
            scope.submit("last", square, &13)?;
            Ok(())
        })
        .unwrap();
    assert_eq!(report.exit_code(), 1);
    let outcomes: Vec<_> =
        report.rows.iter().map(|row| (row.label.as_str(), row.task.as_str(), row.outcome())).collect();
    let expected = [
        ("twelve", "square", "done"),
        ("broken", "fail", "failed"),
        ("crash", "crash", "died"),
        ("last", "square", "done"),
    ];
    assert_eq!(outcomes, expected);
    let failed: Vec<_> = report.failed().map(|row| row.label.as_str()).collect();
    assert_eq!(failed, ["broken", "crash"]);
    let pids: Vec<_> = report.rows.iter().map(|row| row.finished.worker.unwrap().pid.to_string()).collect();
    let table = report.to_string();
    let lines: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["label", "task", "outcome", "worker", "pid", "attempts", "exit", "ran"], "{table}");
    assert_eq!(
        (lines[1][0], lines[1][2], lines[1][4], lines[1][5]),
        ("twelve", "done", pids[0].as_str(), "1"),
        "{table}"
    );
    assert_eq!((lines[3][4], &lines[3][5..9]), (pids[2].as_str(), &["2", "signal", "9", "(SIGKILL)"][..]), "{table}");
    assert!(
        table.contains("\nbroken: the task failed: on purpose\ncrash: the task's worker died: signal 9"),
        "{table}"
    );
    assert_eq!(pool.scope(|_| Ok(())).unwrap().exit_code(), 0);
    pool.join().unwrap();
}

fn a_scope_waits_whatever_comes() {
    let (mut tasks, _) = tasks();
    let done = words(2);
    let slow = tasks.function("slow", |i: usize| {
        at_least(&done[0], 1);
        done[1].fetch_add(1, SeqCst);
        i
    });
    let pool = Pool::builder().workers(2).fork(tasks).unwrap();
    let in_scope = |end: fn() -> Result<(), PoolError>| {
        done.iter().for_each(|word| word.store(0, SeqCst));
        let how = catch_unwind(AssertUnwindSafe(|| {
            pool.scope(|scope| {
                for i in 0..10 {
                    scope.submit(format!("{i}"), slow, &i)?;
                }
                done[0].store(1, SeqCst);
                end()
            })
            .map(drop)
        }));
        assert_eq!(load(&done[1]), 10, "all have ended");
        how
    };
    let failed = in_scope(|| Err(PoolError::Ended("on purpose".into())));
    assert_eq!(failed.unwrap(), Err(PoolError::Ended("on purpose".into())));
    assert!(in_scope(|| panic!("on purpose")).is_err());
    assert_eq!(in_scope(|| Ok(())).unwrap(), Ok(()));
    pool.join().unwrap();
}

// ---- maps -----------------------------------------------------------------------------------------------------------

fn a_map_in_every_shape() {
    let (mut tasks, _) = tasks();
    let square = tasks.function("square", |x: u64| x * x);
    let text = tasks.function("text", |n: u64| "x".repeat(n as usize));
    let pool = Pool::builder().workers(2).fork(tasks).unwrap();
    for n in [0, 1, 2, 7, 1000, 20_000u64] {
        let expected: Vec<u64> = (0..n).map(|x| x * x).collect();
        let all = |map: shmworker::pool::Map<'_, _, _, _>| map.collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(all(pool.map(square, 0..n)), expected);
        for size in [1, 7, 1000] {
            assert_eq!(all(pool.map(square, 0..n).chunk_size(size).in_flight(3)), expected, "{size}");
        }
        assert_eq!(all(pool.map(square, 0..n).options(PLAIN.attempts(3).queue("default"))), expected);
        if n <= 1000 {
            assert_eq!(all(pool.map(square, 0..n).options(PLAIN.timeout(Duration::from_secs(1000)))), expected);
        }
        for size in [1, 64] {
            let mut seen = vec![None; n as usize];
            for (i, result) in pool.map(square, 0..n).chunk_size(size).unordered() {
                assert_eq!(seen[i as usize].replace(result.unwrap()), None, "each once");
            }
            assert!(seen.into_iter().map(Option::unwrap).eq(expected.iter().copied()));
        }
        assert_eq!(pool.for_each(square, 0..n), Ok(n));
    }
    // Results that are larger than what one chunk's should be.
    let lens: Vec<_> = pool.map(text, 0..3000).map(|text| text.unwrap().len() as u64).collect();
    assert_eq!(lens, (0..3000).collect::<Vec<_>>());
    pool.join().unwrap();
}

fn a_map_takes_no_more_than_it_needs() {
    let (mut tasks, _) = tasks();
    let released = words(1);
    let wait = tasks.function("wait", |x: u64| {
        match x {
            0 => at_least(&released[0], 1),
            10 => released[0].store(1, SeqCst),
            _ => {}
        }
        x
    });
    let pool = Pool::builder().workers(2).fork(tasks).unwrap();
    let (taken, given) = (Cell::new(0), Cell::new(0));
    let endless = (0..).inspect(|_| {
        taken.set(taken.get() + 1);
        // Three are under way, and what came before its turn is four times that at most.
        assert!(taken.get() <= given.get() + 3 + 4 * 3 + 1, "{taken:?} {given:?}");
    });
    let map = pool.map(wait, endless).chunk_size(1).in_flight(3);
    assert_eq!(taken.get(), 0, "nobody has asked");
    for (i, result) in map.take(1000).enumerate() {
        assert_eq!(result, Ok(i as u64));
        given.set(given.get() + 1);
    }
    assert_eq!(given.get(), 1000);
    pool.join().unwrap();
}

fn items_that_end_badly() {
    let (mut tasks, _) = tasks();
    let runs = words(1000);
    let item = tasks.handler("item", |_, (x, twice): (u64, bool)| {
        let is_last = runs[x as usize].fetch_add(1, SeqCst) > 0;
        match x {
            _ if is_last && twice => {}
            500 => die(),
            501 => segfault(),
            700 => return Err(Failure::new("seven hundred")),
            701 => return Err(Failure::permanent("for good")),
            900 => panic!("nine hundred"),
            _ => {}
        }
        Ok(x)
    });
    let pool = Pool::builder().workers(2).fork(tasks).unwrap();
    for size in [1, 10, 1000] {
        for attempts in [1, 2] {
            println!("{size} at once, {attempts} attempts");
            runs.iter().for_each(|n| n.store(0, SeqCst));
            let inputs = (0..1000).map(|x| (x, attempts == 2));
            let results: Vec<_> = pool.map(item, inputs).chunk_size(size).options(PLAIN.attempts(attempts)).collect();
            assert_eq!(results.len(), 1000);
            for (x, result) in (0..).zip(results) {
                let died =
                    |signal| matches!(&result, Err(TaskError::Died(blame)) if blame.exit == signal && !blame.is_poison);
                let is_right = match x {
                    701 => result == Err(TaskError::Failed("for good".into())),
                    _ if attempts == 2 => result == Ok(x),
                    500 => died("signal 9 (SIGKILL)"),
                    501 => died("signal 11 (SIGSEGV)"),
                    700 => result == Err(TaskError::Failed("seven hundred".into())),
                    900 => matches!(&result, Err(TaskError::Panicked(why)) if why.ends_with(": nine hundred")),
                    _ => result == Ok(x),
                };
                assert!(is_right, "{x}: {result:?}");
                let most = if [500, 501, 700, 900].contains(&x) { attempts.into() } else { 1 };
                // What shared a chunk with a death may be run again; what did not is run as often as it says.
                let ran = load(&runs[x as usize]);
                assert!(if size == 1 { ran == most } else { ran >= most }, "{x} ran {ran} times");
            }
        }
    }
    pool.join().unwrap();
}

/// A number with which there is something wrong if it is 13.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Lucky(u64);

impl Serialize for Lucky {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if self.0 == 13 { Err(serde::ser::Error::custom("unlucky")) } else { self.0.serialize(to) }
    }
}

fn an_item_without_an_encoding() {
    let (mut tasks, _) = tasks();
    let number = tasks.function("number", |Lucky(x)| x);
    let lucky = tasks.function("lucky", Lucky);
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    for size in [1, 5, 100] {
        let results: Vec<_> = pool.map(number, (0..30).map(Lucky)).chunk_size(size).collect();
        for (x, result) in (0..).zip(&results) {
            match (x, result) {
                (13, Err(TaskError::Codec(why))) => {
                    assert!(why.to_string().starts_with("a value of this type has no "))
                }
                (13, _) => panic!("{result:?}"),
                _ => assert_eq!(*result, Ok(x)),
            }
        }
        assert_eq!(results.len(), 30);
        let results: Vec<_> = pool.map(lucky, 0..30).chunk_size(size).collect();
        for (x, result) in (0..).zip(&results) {
            match (x, result) {
                (13, Err(TaskError::Failed(why))) => assert!(why.starts_with("a value of this type has no "), "{why}"),
                (13, _) => panic!("{result:?}"),
                _ => assert_eq!(result.as_ref().map(|lucky| lucky.0), Ok(x)),
            }
        }
    }
    for size in [1, 100] {
        let taken = Cell::new(0);
        let endless = std::iter::repeat_with(|| {
            taken.set(taken.get() + 1);
            assert!(taken.get() < 1_000_000, "nobody asked for so many");
            Lucky(13)
        });
        let all = pool.map(number, endless).chunk_size(size).take(100_000);
        assert!(all.into_iter().all(|result| matches!(result, Err(TaskError::Codec(_)))));
    }
    let refused = pool.submit(number, &Lucky(13)).unwrap_err();
    assert!(matches!(refused, PoolError::Codec(_)), "{refused}");
    pool.join().unwrap();
}

fn a_map_that_is_dropped() {
    let (mut tasks, _) = tasks();
    let shared = words(2);
    let [runs, is_dropped] = [0, 1].map(|i| &shared[i]);
    let wait = tasks.handler("wait", move |context, x: u64| {
        runs.fetch_add(1, SeqCst);
        if x > 0 {
            // They are cancelled one by one: the one that runs does not end and make room for another before all are.
            at_least(is_dropped, 1);
            context.check()?;
        }
        Ok(x)
    });
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    let mut map = pool.map(wait, 0..).chunk_size(1).in_flight(20);
    assert_eq!(map.next(), Some(Ok(0)));
    drop(map);
    is_dropped.store(1, SeqCst);
    pool.join().unwrap();
    assert!(load(runs) <= 2, "what had not begun never does");
}

fn maps_side_by_side() {
    const SQUARE: Task<u64, u64> = Task::named("square");
    let (mut tasks, _) = tasks();
    tasks.function("square", |x: u64| x * x);
    let sums = tasks.handler("sums", |context: &Context<'_>, n: u64| {
        let one_by_one = context.pool().map(SQUARE, 0..n).chunk_size(1).in_flight(30);
        let all = context.pool().map(SQUARE, 0..n).zip(one_by_one);
        Ok(all.map(|(a, b)| Ok::<_, TaskError>(a? + b?)).sum::<Result<u64, _>>()?)
    });
    let pool = Pool::builder().workers(2).fork(tasks).unwrap();
    // In the program, and in tasks, which run those of their own and each other's while they wait.
    let mut one_by_one = pool.map(SQUARE, 0..1000).chunk_size(1).in_flight(30);
    let mut chunks = pool.map(SQUARE, 0..1000).chunk_size(7).unordered();
    let mut seen = BTreeSet::new();
    for x in 0..1000u64 {
        assert_eq!(one_by_one.next(), Some(Ok(x * x)));
        let (number, square) = chunks.next().unwrap();
        assert!(seen.insert(number) && square == Ok(number * number), "{number}: {square:?}");
        assert_eq!(pool.submit(SQUARE, &x).unwrap().wait(), Ok(x * x));
    }
    assert_eq!((one_by_one.next(), chunks.next()), (None, None));
    drop((one_by_one, chunks));
    for size in [1, 3] {
        let expected: Vec<u64> = (0..50).map(|n| 2 * (0..n).map(|x| x * x).sum::<u64>()).collect();
        assert_eq!(pool.map(sums, 0..50).chunk_size(size).collect::<Result<Vec<_>, _>>(), Ok(expected));
    }
    pool.join().unwrap();
}

fn items_of_no_bytes() {
    let (mut tasks, _) = tasks();
    let nothing = tasks.function("nothing", |()| {});
    let unsaid = tasks.in_place::<Pods<u64>, Pods<u64>>("unsaid", |_, _, _| Ok(()));
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    for size in [1, 7, 1000] {
        assert_eq!(pool.map(nothing, (0..1000).map(|_| ())).chunk_size(size).filter(|r| *r == Ok(())).count(), 1000);
        let unsaid = pool.map(unsaid, (0..1000).map(|_| vec![])).chunk_size(size);
        assert_eq!(unsaid.filter(|r| *r == Ok(vec![])).count(), 1000);
    }
    pool.join().unwrap();
}

// ---- in place -------------------------------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
struct Point {
    x: f64,
    y: f32,
    n: i32,
}

// SAFETY: all zeroes are a value of each field.
unsafe impl bytemuck::Zeroable for Point {}
// SAFETY: plain fields, of which the last ends where the struct does; no padding lies between them.
unsafe impl bytemuck::Pod for Point {}

/// Registers a task that gives its input back, in reverse.
fn reversing<T: bytemuck::Pod>(tasks: &mut Tasks, name: &str) -> Task<Pods<T>, Pods<T>> {
    tasks.in_place(name, |_, input: &[T], mut output| {
        let room: &mut [T] = output.reserve(input.len())?;
        room.iter_mut().zip(input.iter().rev()).for_each(|(to, from)| *to = *from);
        Ok(())
    })
}

fn reverse<T: bytemuck::Pod + PartialEq + std::fmt::Debug>(
    pool: &Pool,
    task: Task<Pods<T>, Pods<T>>,
    value: impl Fn(usize) -> T,
) {
    for n in [0, 1, 2, 63, 1000, 100_000] {
        let input: Vec<T> = (0..n).map(&value).collect();
        let expected: Vec<T> = input.iter().rev().copied().collect();
        assert!(pool.submit(task, &input).unwrap().wait().unwrap() == expected);
        let place = |values: &mut [T]| values.copy_from_slice(&input);
        let reply = pool.submit_in_place(task, n, &PLAIN, place).unwrap().wait_in_place().unwrap();
        assert!(*reply == expected[..]);
        assert!(block_on(pool.submit(task, &input).unwrap()).unwrap() == expected);
    }
    // Side by side in chunks, each begins where its type may.
    let inputs = || (0..50).map(|n| (0..n).map(&value).collect::<Vec<T>>());
    for (input, output) in inputs().zip(pool.map(task, inputs()).chunk_size(9)) {
        assert!(output.unwrap().into_iter().rev().eq(input));
    }
}

fn plain_values_of_every_alignment() {
    const LARGE: usize = 64 << 20;
    let (mut tasks, _) = tasks();
    let bytes = reversing::<u8>(&mut tasks, "u8");
    let singles = reversing::<f32>(&mut tasks, "f32");
    let doubles = reversing::<f64>(&mut tasks, "f64");
    let long = reversing::<u128>(&mut tasks, "u128");
    let points = reversing::<Point>(&mut tasks, "points");
    let copy = tasks.in_place::<Bytes, Bytes>("copy", |_, input, mut output| {
        output.reserve(1)?.fill(9); // given up for what follows
        output.reserve(input.len())?.copy_from_slice(input);
        Ok(())
    });
    let nothing = tasks.in_place::<u64, Bytes>("nothing", |_, _, _| Ok(()));
    let pool = Pool::builder().workers(2).fork(tasks).unwrap();
    reverse(&pool, bytes, |i| i as u8);
    reverse(&pool, singles, |i| i as f32 / 3.0);
    reverse(&pool, doubles, |i| i as f64 / 7.0);
    reverse(&pool, long, |i| (i as u128) << 70 | i as u128);
    reverse(&pool, points, |i| Point { x: i as f64, y: -1.0, n: i as i32 });
    let large = pool.submit_in_place(copy, LARGE, &PLAIN, |values| values.fill(7)).unwrap().wait_in_place().unwrap();
    assert!(large.len() == LARGE && large.iter().all(|&byte| byte == 7));
    assert_eq!(pool.submit(nothing, &1).unwrap().wait(), Ok(vec![]));
    drop(large);
    pool.join().unwrap();
}

fn a_reply_that_is_kept() {
    let (mut tasks, _) = tasks();
    let count = tasks.in_place::<u64, Pods<u64>>("count", |_, n, mut output| {
        output.reserve(n as usize)?.iter_mut().enumerate().for_each(|(i, to)| *to = i as u64);
        Ok(())
    });
    let square = tasks.function("square", |x: u64| x * x);
    let pool = Pool::builder().workers(2).fork(tasks).unwrap();
    let sizes = [10, 1000, 100_000];
    let kept = sizes.map(|n| pool.submit(count, &n).unwrap().wait_in_place().unwrap());
    let sum: u64 = pool.map(square, 0..20_000).chunk_size(3).sum::<Result<_, _>>().unwrap();
    assert_eq!(sum, 2_666_466_670_000);
    pool.for_each(count, (0..300).map(|i| 500 + 7 * i)).unwrap();
    let whole = |reply: &[u64]| reply.iter().copied().eq(0..reply.len() as u64);
    assert!(kept.iter().zip(sizes).all(|(reply, n)| reply.len() as u64 == n && whole(reply)));
    // It outlives even the pool.
    let [_, _, last] = kept;
    pool.join().unwrap();
    assert!(whole(&last));
}

fn json_in_and_out() {
    let (mut tasks, _) = tasks();
    tasks.function("add", |(a, b): (u64, u64)| a + b);
    tasks.function("shout", |text: Option<String>| text.map(|text| text.to_uppercase()));
    let raw = tasks.in_place::<Bytes, Bytes>("raw", |_, _, _| Ok(()));
    tasks.handler("nested", |context: &Context<'_>, n: u64| {
        Ok(context.pool().submit_json("add", &format!("[{n}, {n}]"), &TaskOptions::new())?.wait()?)
    });
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    let ask = |name: &str, json: &str| {
        let text = pool.submit_json(name, json, &PLAIN).unwrap().wait();
        text.map(|bytes| String::from_utf8(bytes).unwrap())
    };
    assert_eq!(ask("add", "[2, 3]"), Ok("5".into()));
    assert_eq!(ask("shout", "\"groß\""), Ok("\"GROSS\"".into()));
    assert_eq!(ask("shout", "null"), Ok("null".into()));
    assert_eq!(ask("nested", "21"), Ok("[52,50]".into()));
    let why = "JSON can't be read in place: submit to this task from a program";
    assert_eq!(ask("raw", "\"abc\""), Err(TaskError::Failed(why.into())));
    assert_eq!(pool.submit(raw, b"abc").unwrap().wait(), Ok(vec![]));
    pool.join().unwrap();
}

/// Busy for so many microseconds; in nanoseconds, how long that took.
fn spin(us: u64) -> u64 {
    let began = Instant::now();
    while began.elapsed() < Duration::from_micros(us) {}
    began.elapsed().as_nanos() as u64
}

fn times_are_those_of_the_clock() {
    let (mut tasks, gate) = tasks();
    let spin = tasks.function("spin", spin);
    let pool = Pool::builder().workers(1).fork(tasks).unwrap();
    let held = hold(&pool, gate);
    let submitted = Instant::now();
    let handle = pool.submit(spin, &20_000).unwrap();
    let queued = submitted.elapsed();
    let began = Instant::now();
    until(|| began.elapsed() >= SHORT);
    held.release();
    let finished = handle.finish();
    let all = submitted.elapsed();
    let inside = Duration::from_nanos(finished.result.unwrap());
    // The clock may be slewed meanwhile.
    let about = |t: Duration| t + t / 1000;
    assert!(about(finished.ran) >= inside, "{:?}, of {inside:?} inside", finished.ran);
    assert!(about(finished.waited) >= SHORT, "{:?}, submitted within {queued:?}", finished.waited);
    assert!(finished.waited + finished.ran <= about(all), "{:?} and {:?} of {all:?}", finished.waited, finished.ran);
    pool.join().unwrap();
}

fn without_times() {
    let (mut tasks, _) = tasks();
    let spin = tasks.function("spin", spin);
    let endless = tasks.function("endless", |()| until(|| false));
    let pool = Pool::builder().workers(2).times(false).fork(tasks).unwrap();
    let finished = pool.submit(spin, &1000).unwrap().finish();
    assert_eq!((finished.waited, finished.ran), (Duration::ZERO, Duration::ZERO));
    assert!(finished.result.unwrap() >= 1_000_000);
    // Time limits hold.
    let late = pool.submit_with(endless, &(), &PLAIN.timeout(SHORT).grace(SHORT)).unwrap().wait();
    assert!(matches!(late, Err(TaskError::TimedOut(_))), "{late:?}");
    // A map knows what its items take: else its chunks would be four times as large, each time.
    let taken = Cell::new(0);
    let inputs = (0..).inspect(|n| taken.set(*n)).map(|_| 1000);
    assert!(pool.map(spin, inputs).take(200).all(|result| result.is_ok()));
    assert!(taken.get() < 1000, "{} inputs for 200 results", taken.get());
    pool.join().unwrap();
}

fn pages_are_there_before_the_first_task() {
    /// KiB of the segment that this process has mapped.
    fn mapped() -> u64 {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let segment = maps.lines().skip_while(|line| !line.contains("/memfd:shmworker"));
        let line = segment.skip(1).find_map(|line| line.strip_prefix("Rss:")).expect("a mapping of it");
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let version: Vec<u32> = release.split(['.', '-']).map_while(|n| n.parse().ok()).collect();
    if version < vec![5, 14] {
        return eprintln!("skipped: Linux {release} has no MADV_POPULATE_WRITE");
    }
    let sees = |prefault: bool| {
        let (mut tasks, _) = tasks();
        let mapped = tasks.function("mapped", |()| mapped());
        let pool = Pool::builder().workers(1).prefault(prefault).fork(tasks).unwrap();
        let sees = pool.submit(mapped, &()).unwrap().wait().unwrap();
        pool.join().unwrap();
        sees
    };
    let (usual, prefaulted) = (sees(false), sees(true));
    // The descriptors alone are 4096 times 768 bytes.
    assert!(usual < 3072 && prefaulted > 3072, "{usual} KiB, {prefaulted} KiB");
}
