//! Whole pools: two clients, three workers and their coordinator, in interleavings and with deaths chosen at random.
//!
//! What is too large for loom meets here: two queues and private lanes of two slots each, that run full; two blocks and fewer
//! descriptors than tasks, for which clients sleep; retries at once, later and after a back-off; expiry; cancellations of what
//! waits and of what runs; deaths of clients and workers at any step, whose ids are given again; a coordinator that sleeps till
//! it is rung. Then [`settle`] judges as it does for loom: nothing lost or doubled, each outcome explained, the audit clean. Who
//! sleeps on while there is something for it is a deadlock, which shuttle reports.
//!
//! # What it does not show
//!
//! shuttle is sequentially consistent: orderings and fences are loom's matter. And it chooses at random: what a thousand pools
//! don't show, the next may. A run prints its seed when it fails; `SHMWORKER_SEED` repeats it, `SHMWORKER_POOLS` says how many
//! pools each test plays.

use super::{Actor, LaneId, MS, NEVER, START, Storage, output, settle};
use crate::{
    lockfree::{
        descriptor::Backoff,
        participant::{Name, Participant},
        table::{Again, Owned, TaskId},
        timer::Looks,
        word::{Member, Outcome},
    },
    sync::{Acquire, Relaxed, set_monotonic},
};
use shuttle::{
    Config, FailurePersistence, Runner,
    rand::{Rng, thread_rng},
    scheduler::{PctScheduler, RandomScheduler, Scheduler},
    thread,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::Ordering::SeqCst},
    time::{Instant, SystemTime},
};

const QUEUES: [LaneId; 2] = [LaneId(0), LaneId(1)];
const CLIENTS: usize = 2;
const WORKERS: usize = 3;
/// Some ids are vacant, since those of the dead may be named for a while.
const IDS: usize = 1 + CLIENTS + WORKERS + 3;
const DESCRIPTORS: usize = 4;
const BLOCKS: usize = 2;
/// Tasks of a client, at most.
const TASKS: u64 = 4;
/// Steps of a life before which it may end: about as many as one has.
const STEPS: u32 = 120;
/// Pools of a test, unless `SHMWORKER_POOLS` says otherwise.
const POOLS: u64 = 40_000;
/// Deaths, of those whose places are filled again, after which nobody dies any more.
const DEATHS: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Coordinator,
    Client,
    Worker,
}

/// Those whose lives have ended, in whatever way, as the kernel reports them to the coordinator.
type Ended = Arc<Mutex<Vec<(Role, Actor)>>>;

/// Starts a process, which dies before a step chosen at random, or never. Its end rings the bell, as a pidfd would.
fn start(actor: Actor, role: Role, is_mortal: bool, ended: &Ended) {
    let death = if is_mortal { thread_rng().gen_range(1..=STEPS) } else { 0 };
    let ended = ended.clone();
    let process = thread::Builder::new().name(format!("{role:?} {:?}", actor.name));
    let process = process.spawn(move || {
        let bell = actor.storage.bell.clone();
        let actor = actor.live(
            death,
            match role {
                Role::Worker => be_worker,
                _ => be_client,
            },
        );
        ended.lock().unwrap().push((role, actor));
        bell.ring();
    });
    // Unless it is kept, a deadlock does not name it.
    std::mem::forget(process.unwrap());
}

/// Submits its tasks, cancels some, takes all results.
fn be_client(a: &mut Actor) {
    let mut rng = thread_rng();
    let mut left = rng.gen_range(1..=TASKS);
    let (mut submitted, mut kept) = (Vec::new(), None);
    while left > 0 || a.results.len() < a.accepted.len() {
        if left > 0 && rng.gen_bool(0.5) {
            kept = a.take_and_renew();
        }
        while a.take() {}
        if left > 0 {
            if let Some(task) = submit(a, left, kept.take()) {
                submitted.push((input(a.name, left), task));
                left -= 1;
            }
        } else if a.results.len() < a.accepted.len() {
            a.await_result();
        }
        if !submitted.is_empty() && rng.gen_ratio(1, 4) {
            let (input, task) = submitted[rng.gen_range(0..submitted.len())];
            a.cancel(input, task);
        }
    }
}

/// Tells the tasks of all incarnations apart.
fn input(client: Name, number: u64) -> u64 {
    client.incarnation() * 1000 + u64::from(client.id()) * 10 + number
}

/// Submits a task, to a queue or to a worker that was alive just now, in a descriptor that it has `kept`, or in one that it finds,
/// some with a block. `None`: it slept for want of room, or thought better of it.
fn submit(a: &mut Actor, number: u64, kept: Option<Owned>) -> Option<TaskId> {
    let mut rng = thread_rng();
    let is_kept = kept.is_some();
    let task = kept.or_else(|| a.find_or_sleep(true, |a| a.table().reserve(a.name)))?;
    let input = input(a.name, number);
    if !is_kept && rng.gen_ratio(1, 3) {
        let block = loop {
            match a.find_or_sleep(true, Actor::alloc) {
                Some(block) => break block,
                None => while a.take() {},
            }
        };
        a.attach(block, task, &a.storage.descriptors[task.index as usize].input, input);
    }
    if rng.gen_ratio(1, 10) {
        a.table().release(task).unwrap();
        return None;
    }
    let addressee = if rng.gen_ratio(1, 3) { some_worker(a) } else { None };
    let lane = match addressee {
        Some(name) => a.table().private(name.id()),
        None => QUEUES[rng.gen_range(0..QUEUES.len())],
    };
    let ready = if is_kept { task.ready_anew() } else { task.ready() };
    Some(a.publish_as(task, ready, input, lane, addressee))
}

/// A worker that was alive just now, if it finds one.
fn some_worker(a: &Actor) -> Option<Name> {
    let id = thread_rng().gen_range(1..IDS);
    let participant = &a.table().participants[id];
    let member = participant.member(id).unwrap();
    let is_worker = participant.role.load(Relaxed) == Role::Worker as u32;
    match member {
        // The role is that of this incarnation, if this one has it still.
        Member::Live(n) if is_worker && participant.member(id).unwrap() == member => Some(Name::new(id as u16, n)),
        _ => None,
    }
}

/// Polls its own lane, then the queues in an order of its own.
fn be_worker(a: &mut Actor) {
    let mut queues = QUEUES;
    if thread_rng().gen_bool(0.5) {
        queues.reverse();
    }
    while !a.storage.is_over() {
        a.sleep_until(&queues, |a| a.storage.is_over() || run(a, a.private()) || queues.iter().any(|&q| run(a, q)));
    }
}

/// Runs a task of `lane` in one of the ways there are. False: there is none.
fn run(a: &mut Actor, lane: LaneId) -> bool {
    let Some((task, input)) = a.claim(lane) else { return false };
    let mut rng = thread_rng();
    if rng.gen_ratio(1, 3)
        && let Some(block) = a.alloc()
    {
        a.attach(block, task, &a.storage.descriptors[task.index as usize].output, output(input, task.word));
    }
    match rng.gen_range(0..10) {
        0 => a.give_back_claimed(task, input, Again::SameAttempt),
        1 => a.give_back_claimed(task, input, Again::After(0)),
        2 => a.give_back_claimed(task, input, Again::After(MS)),
        3 => a.give_back_claimed(task, input, Again::Backoff),
        4 | 5 if a.table().is_cancel_asked(task.index, task.word) => a.complete(task, Outcome::Cancelled),
        _ => a.complete(task, Outcome::Completed),
    }
    true
}

/// A pool, from its beginning to its end; this is the coordinator. It sleeps until the bell rings or a time has come, which it
/// does as soon as the scheduler says so.
fn play(figures: &Figures) {
    let mut rng = thread_rng();
    let storage = Storage::vacant(QUEUES.len(), IDS, DESCRIPTORS, BLOCKS);
    let (may_expire, attempts) = (rng.gen_ratio(1, 3), rng.gen_range(1..=3));
    let backoff = Backoff { first_ms: rng.gen_range(0..=1), longest_ms: 2 };
    storage.each(|d| {
        d.expires.store(if may_expire { START + 3 * MS } else { 0 }, Relaxed);
        d.max_attempts.store(attempts, Relaxed);
        d.backoff.store(backoff.bits(), Relaxed);
    });
    // Half of the coordinators look whether wakes are answered. What they find would hide a wake that nobody gave.
    let is_watching = rng.gen_bool(0.5);
    let storage = Arc::new(if is_watching { storage.with_bell() } else { storage.with_bell_for_times() });
    let table = storage.table();
    let admit = |role: Role| table.admit(1, role as u32).unwrap();
    let coordinator = Actor::named(&storage, admit(Role::Coordinator).unwrap());
    let ended = Ended::default();
    let roles = [[Role::Client; CLIENTS].as_slice(), &[Role::Worker; WORKERS]].concat();
    let cast: Vec<_> = roles.iter().map(|&role| (role, Actor::named(&storage, admit(role).unwrap()))).collect();
    for (role, actor) in cast {
        start(actor, role, rng.gen_bool(0.5), &ended);
    }

    let (mut gone, mut deaths, mut vacancies, mut clients, mut workers) = (Vec::new(), 0, Vec::new(), CLIENTS, WORKERS);
    let (bell, mut looks) = (storage.bell.0.clone().unwrap(), Looks::default());
    loop {
        let heard = bell.word().load(Acquire);
        let reports = std::mem::take(&mut *ended.lock().unwrap());
        for (role, actor) in reports {
            if actor.died {
                coordinator.recover(&actor);
                deaths += 1;
                vacancies.push(role);
            } else if role == Role::Client {
                clients -= 1;
            } else {
                workers -= 1;
            }
            gone.push(actor);
        }
        if clients + workers == 0 {
            break;
        }
        // An id is given again once no word names it.
        while let Some(&role) = vacancies.last()
            && let Some(name) = admit(role)
        {
            vacancies.pop();
            start(Actor::named(&storage, name), role, deaths < DEATHS && rng.gen_bool(0.5), &ended);
        }
        if clients == 0 && !storage.is_over.swap(true, SeqCst) {
            table.participants.iter().for_each(Participant::wake);
        }
        if rng.gen_bool(0.5) {
            coordinator.give_back_chunks();
            table.wake_for_room(); // the blocks were its own for a moment
        }
        let next = coordinator.tick().next;
        let is_waiting = is_watching && table.look(&coordinator.cursors, &mut looks);
        if next != NEVER {
            thread::yield_now();
            set_monotonic(next);
        } else if is_waiting || !vacancies.is_empty() {
            thread::yield_now();
        } else {
            bell.wait(heard, None);
        }
    }
    gone.push(coordinator);
    figures.add(&settle(gone));
}

/// What the pools of a test came to.
#[derive(Default)]
struct Figures(Mutex<BTreeMap<&'static str, usize>>);

impl Figures {
    fn add(&self, actors: &[Actor]) {
        let mut figures = self.0.lock().unwrap();
        let mut count = |what, n| *figures.entry(what).or_default() += n;
        count("pools", 1);
        for actor in actors {
            count("deaths", actor.died.into());
            count("accepted", actor.accepted.len());
            count("returned", actor.returned.len());
            count("asked to end", actor.asked.len());
            for (_, outcome) in &actor.results {
                count(
                    match outcome {
                        Outcome::Completed => "completed",
                        Outcome::Cancelled => "cancelled",
                        Outcome::Expired => "expired",
                        Outcome::WorkerDied => "worker died",
                        Outcome::AddresseeDied => "addressee died",
                        Outcome::TimedOut => unreachable!("nothing here has limits"),
                    },
                    1,
                );
            }
        }
    }
}

/// A seed, which is said if its pools fail.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("SHMWORKER_SEED={} repeats it", self.0);
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|value| value.parse().expect(variable))
}

/// Plays pools, a batch for each seed: a scheduler may learn from one to the next.
fn explore<S: Scheduler + 'static>(name: &str, scheduler: impl Fn(u64, usize) -> S) {
    const BATCH: usize = 100;
    let fresh = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let (first, pools) = (number("SHMWORKER_SEED").unwrap_or_else(fresh), number("SHMWORKER_POOLS").unwrap_or(POOLS));
    let (start, figures) = (Instant::now(), Arc::new(Figures::default()));
    for batch in 0..pools.div_ceil(BATCH as u64) {
        let seed = Seed(first.wrapping_add(batch));
        let mut config = Config::new();
        (config.stack_size, config.failure_persistence) = (1 << 18, FailurePersistence::None);
        config.silence_warnings = true; // of orderings: see above
        let figures = figures.clone();
        Runner::new(scheduler(seed.0, BATCH), config).run(move || play(&figures));
    }
    let figures = figures.0.lock().unwrap();
    println!("{name}: seed {first}, {figures:?}, {:.1?}", start.elapsed());
    for outcome in ["completed", "cancelled", "expired", "worker died", "addressee died"] {
        assert!(figures.contains_key(outcome), "no task ended so: {outcome}");
    }
}

#[test]
fn at_random() {
    explore("at_random", RandomScheduler::new_from_seed);
}

/// Probabilistic concurrency testing: the highest priority runs, and priorities change at a few steps. So some are stopped for
/// long.
#[test]
fn by_priority() {
    explore("by_priority", |seed, pools| PctScheduler::new_from_seed(seed, 8, pools));
}
