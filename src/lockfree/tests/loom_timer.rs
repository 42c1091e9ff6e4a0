//! Times: whoever sets one against the coordinator that looks, arms and sleeps (\[timer], \[watch]). A task that is forgotten
//! is a deadlock.

use super::{
    Actor, Death, EXIT, HOUR, MS, Part, QUEUE, START, Storage, Take, explore, explore_alive, join, play, settle, spawn,
};
use crate::{
    lockfree::{
        descriptor::Limits,
        participant::Name,
        table::{Again, Given},
        timer::{Looks, NEVER, RAISED, SEEN},
        word::{Outcome, Phase},
    },
    sync::{AcqRel, Acquire, AtomicU64, Relaxed, Release, set_monotonic},
};
use std::sync::Arc;

const LIMITS: Limits = Limits { run_ms: 10, silence_ms: 0 };

const WORK: Part = |a| {
    a.work(QUEUE);
};

const TICK: Part = |a| {
    a.tick();
};

const TAKE: Part = |a| {
    a.take();
};

impl Actor {
    /// The coordinator's life: it looks at the times and sleeps, until the bell rings or the time has come, till `is_over`.
    /// A time comes at once if there is one. `reap`: what it does when it wakes.
    fn keep_time(&self, mut reap: impl FnMut(&Actor), is_over: impl Fn(&Actor) -> bool) {
        let bell = self.storage.bell.0.clone().unwrap();
        loop {
            let heard = bell.word().load(Acquire);
            reap(self);
            let next = self.tick().next;
            if is_over(self) {
                return;
            }
            if next == NEVER {
                bell.wait(heard, None);
            } else {
                set_monotonic(next);
            }
        }
    }
}

/// A worker gives a task back for later while the coordinator falls asleep, and may die over it. The task comes back.
fn retry_is_not_forgotten(take: Take) -> bool {
    let storage = Arc::new(Storage::new(3, 1).with_bell());
    let [coordinator, mut submitter, worker] = std::array::from_fn(|id| Actor::new(&storage, id));
    submitter.submit(1);
    let deaths = Arc::new(AtomicU64::new(0));
    let reported = deaths.clone();
    let retry: Part = |a| a.give_back(QUEUE, Again::After(HOUR));
    let mut threads = take.start(vec![(worker, take.death, retry)]);
    let coordinator = spawn(move || {
        let reap = |a: &Actor| {
            if reported.load(Acquire) == 1 && a.table().is_live(Name::new(2, 1)) == Ok(true) {
                a.table().recover(&a.cursors, a.name, Name::new(2, 1), Death::of(super::EXIT)).unwrap();
            }
        };
        coordinator.keep_time(reap, |a| {
            let word = a.table().load(0);
            word.is(Phase::Ready)
                && (word.attempt() == 1 || word.attempt() == 0 && a.table().is_live(Name::new(2, 1)) == Ok(false))
        });
        coordinator
    });
    let worker = join(threads.remove(0));
    let died = worker.died;
    if died {
        // The kernel reports the death, and that ends the coordinator's sleep.
        deaths.store(1, Release);
        storage.bell.ring();
    }
    settle(vec![join(coordinator), submitter, worker]);
    died
}

#[test]
fn who_sets_a_time_dies() {
    explore("who_sets_a_time_dies", 3, retry_is_not_forgotten);
}

/// The same, where the coordinator sleeps for another's sake already, for too long.
#[test]
fn an_earlier_time_rings() {
    explore_alive("an_earlier_time_rings", 2, |take| {
        let storage = Arc::new(Storage::new(3, 2).with_bell());
        let [coordinator, mut submitter, mut first] = std::array::from_fn(|id| Actor::new(&storage, id));
        submitter.submit(1);
        submitter.submit(2);
        first.give_back(QUEUE, Again::After(1000 * HOUR));
        coordinator.tick();
        assert_eq!(storage.alarm.armed.load(Acquire), START + 1000 * HOUR);
        let retry: Part = |a| a.give_back(QUEUE, Again::After(MS));
        let heard = storage.bell.0.as_ref().unwrap().word().load(Acquire);
        let threads = take.start(vec![(first, 0, retry), (coordinator, 0, TICK)]);
        let actors: Vec<Actor> = threads.into_iter().map(join).collect();
        let is_rung = storage.bell.0.as_ref().unwrap().word().load(Acquire) != heard;
        assert!(is_rung || storage.alarm.armed.load(Acquire) == START + MS, "the coordinator sleeps for too long");
        let mut actors = actors;
        actors.push(submitter);
        settle(actors);
    });
}

/// A task whose time is over, or about to be, is run or has expired.
fn expiring() -> Storage {
    let storage = Storage::new(4, 1);
    storage.each(|d| d.expires.store(START + MS, Relaxed));
    storage
}

const SUBMIT: Part = |a| {
    a.submit(1);
    a.take();
};

const EXPIRE: Part = |a| {
    set_monotonic(START + 2 * MS);
    a.tick();
};

#[test]
fn worker_dies_over_what_expires() {
    explore("worker_dies_over_what_expires", 2, |take| play(take, expiring(), &[WORK, SUBMIT, EXPIRE]));
}

#[test]
fn who_lets_a_task_expire_dies() {
    explore("who_lets_a_task_expire_dies", 2, |take| play(take, expiring(), &[EXPIRE, WORK, SUBMIT]));
}

#[test]
fn submitter_of_what_expires_dies() {
    explore("submitter_of_what_expires_dies", 2, |take| play(take, expiring(), &[SUBMIT, EXPIRE, WORK]));
}

/// A worker is stopped at each step of its claim. It is named once its time is over, no earlier, and nothing is taken from it.
#[test]
fn a_stopped_claimer_is_late_when_its_time_is_over() {
    explore("a_stopped_claimer_is_late_when_its_time_is_over", 3, |take| {
        let storage = Arc::new(Storage::new(3, 1));
        storage.each(|d| {
            d.limits.store(LIMITS.bits(), Relaxed);
            d.max_attempts.store(1, Relaxed);
        });
        let [mut coordinator, mut submitter, worker] = std::array::from_fn(|id| Actor::new(&storage, id));
        let task = submitter.submit(1).unwrap();
        assert_eq!(coordinator.tick().next, START + 10 * MS, "looked at from the first");
        let threads = take.start(vec![(worker, take.death, WORK), (submitter, 0, TAKE)]);
        assert!(coordinator.tick().late.is_empty());
        let [worker, submitter] =
            <[Actor; 2]>::try_from(threads.into_iter().map(join).collect::<Vec<_>>()).ok().unwrap();
        let is_claimed = storage.table().load(0).is(Phase::Claimed);
        if is_claimed {
            let next = coordinator.tick().next;
            assert_eq!(next, START + 10 * MS);
            set_monotonic(next - 1);
            assert!(coordinator.tick().late.is_empty());
            set_monotonic(next);
            assert_eq!(coordinator.tick().late, [(worker.name, task)]);
            assert!(storage.table().load(0).is(Phase::Claimed), "taken from the living");
        }
        let died = worker.died;
        if died {
            // Killed for that, if it was late.
            let late = [task];
            let death = Death { late: &late[..usize::from(is_claimed)], ..Death::of(EXIT) };
            coordinator.table().recover(&coordinator.cursors, coordinator.name, worker.name, death).unwrap();
        }
        let is_late = is_claimed && storage.table().load(0).is(Phase::Done(Outcome::TimedOut));
        assert_eq!(is_late, is_claimed);
        coordinator.work_off();
        settle(vec![coordinator, submitter, worker]);
        died
    });
}

/// A look that comes late, over a claim that has ended, begins nobody else's time. The next claimer is stopped at each step.
#[test]
fn a_late_look_counts_against_no_other_claim() {
    explore("a_late_look_counts_against_no_other_claim", 3, |take| {
        let storage = Arc::new(Storage::new(4, 1));
        storage.each(|d| d.limits.store(LIMITS.bits(), Relaxed));
        let [coordinator, mut submitter, first, second] = std::array::from_fn(|id| Actor::new(&storage, id));
        submitter.submit(1);
        let hand_back: Part = |a| a.give_back(QUEUE, Again::SameAttempt);
        let threads = take.start(vec![(first, 0, hand_back), (coordinator, 0, TICK)]);
        let [first, coordinator] =
            <[Actor; 2]>::try_from(threads.into_iter().map(join).collect::<Vec<_>>()).ok().unwrap();
        set_monotonic(START + HOUR);
        let second = spawn(move || second.live(take.death, WORK));
        let second = join(second);
        assert!(coordinator.tick().late.is_empty(), "killed for a time in which it did not run");
        let died = second.died;
        if died {
            coordinator.recover(&second);
        }
        settle(vec![coordinator, submitter, first, second]);
        died
    });
}

/// What was reported as late and is given back before the kill is looked after again.
#[test]
fn what_is_late_and_given_back_is_looked_after() {
    explore_alive("what_is_late_and_given_back_is_looked_after", 3, |take| {
        let storage = Arc::new(Storage::new(3, 1).with_bell());
        storage.each(|d| d.limits.store(LIMITS.bits(), Relaxed));
        let [coordinator, mut submitter, mut worker] = std::array::from_fn(|id| Actor::new(&storage, id));
        submitter.submit(1);
        let (task, _) = worker.claim(QUEUE).unwrap();
        set_monotonic(START + HOUR);
        let rings = || storage.bell.0.as_ref().unwrap().word().load(Acquire);
        let heard = rings();
        let threads = take.start(vec![(coordinator, 0, TICK)]);
        let given = worker.table().give_back(&worker.cursors, worker.name, task, Again::SameAttempt);
        assert_ne!(given.unwrap(), Given::No);
        worker.returned.push(1);
        let coordinator = threads.into_iter().map(join).next().unwrap();
        let armed = storage.alarm.armed.load(Acquire);
        assert!(rings() != heard || armed <= START + HOUR + 10 * MS, "nobody looks after it: armed for {armed}");
        settle(vec![coordinator, submitter, worker]);
    });
}

/// The coordinator of a pool in which nothing else goes on, until the task is done.
const LOOK: Part = |a| {
    let bell = a.storage.bell.0.clone().unwrap();
    let mut looks = Looks::default();
    loop {
        let heard = bell.word().load(Acquire);
        let mut is_waiting = false;
        while a.table().is_watched() || is_waiting {
            is_waiting = a.table().look(&a.cursors, &mut looks);
            loom::thread::yield_now();
        }
        if a.table().load(0).is(Phase::Done(Outcome::Completed)) {
            return;
        }
        bell.wait(heard, None);
    }
};

const AWAIT_WORK: Part = |a| {
    a.await_work();
    a.storage.bell.ring(); // ends the scene
};

/// A submitter's wake goes to a worker that is stopped. The coordinator, which sleeps, is rung and wakes the other in its
/// place; nothing but the bell ends its sleep.
#[test]
fn where_a_wake_is_not_answered_another_is_woken() {
    explore_alive("where_a_wake_is_not_answered_another_is_woken", 2, |take| {
        let storage = Arc::new(Storage::new(4, 1).with_bell());
        let [coordinator, submitter, stopped, other] = std::array::from_fn(|id| Actor::new(&storage, id));
        // As far as it came.
        storage.idle[0].fetch_or(1 << stopped.name.id(), AcqRel);
        stopped.table().participants[2].prepare_to_park();
        let submit: Part = |a| {
            a.submit(1);
        };
        let cast = vec![(submitter, 0, submit), (other, 0, AWAIT_WORK), (coordinator, 0, LOOK)];
        let mut actors: Vec<Actor> = take.start(cast).into_iter().map(join).collect();
        storage.idle[0].fetch_and(!(1 << stopped.name.id()), AcqRel);
        actors.push(stopped);
        settle(actors);
    });
}

/// A waker is stopped short of the kernel, and another short of the bell, for ever. Who submits then finds nobody else to wake;
/// the coordinator is rung, and finishes that wake.
#[test]
fn what_a_stopped_waker_left_is_finished() {
    explore_alive("what_a_stopped_waker_left_is_finished", 2, |take| {
        let storage = Arc::new(Storage::new(3, 1).with_bell());
        let [coordinator, submitter, sleeper] = std::array::from_fn(|id| Actor::new(&storage, id));
        let submit: Part = |a| {
            a.table().participants[2].mark_woken();
            a.storage.alarm.watched.fetch_or(RAISED, AcqRel);
            a.submit(1);
        };
        let cast = vec![(submitter, 0, submit), (sleeper, 0, AWAIT_WORK), (coordinator, 0, LOOK)];
        settle(take.start(cast).into_iter().map(join).collect());
    });
}

/// The same, for what only the sleeper can do, in which nothing shows that somebody waits. `watched` was up, and the coordinator
/// is about to look: either it sees that the sleeper is marked, or who submits sees that it has to ring.
#[test]
fn a_look_finishes_what_was_begun_before_it() {
    explore_alive("a_look_finishes_what_was_begun_before_it", 1, |take| {
        let storage = Arc::new(Storage::new(4, 1).with_bell());
        let [coordinator, submitter, sleeper, stopped] = std::array::from_fn(|id| Actor::new(&storage, id));
        storage.alarm.watched.store(RAISED | SEEN, Release);
        let submit: Part = |a| {
            a.submit_to(Name::new(2, 1), 1);
        };
        let mark: Part = |a| {
            a.table().participants[2].mark_woken();
        };
        let cast = vec![(submitter, 0, submit), (sleeper, 0, AWAIT_WORK), (coordinator, 0, LOOK), (stopped, 0, mark)];
        settle(take.start(cast).into_iter().map(join).collect());
    });
}
