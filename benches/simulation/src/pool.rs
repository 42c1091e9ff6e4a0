//! A pool on such a machine: the steps of `lockfree/lane.rs` and `lockfree/table.rs`, as accesses to lines, in their order.
//!
//! An actor is a core with a program. Its step is one access: what it finds there is decided as the access begins, which for
//! one line is the order in which the accesses end. Nobody sleeps, dies, or overflows a lane.

use crate::machine::{Machine, Memory, Time};
use std::{cmp::Reverse, collections::BinaryHeap};

/// Slots of a lane: more than tasks under way.
const SLOTS: usize = 4096;
/// 8 bytes each.
const SLOTS_PER_LINE: usize = 8;
/// Steps after which a cursor is published: as in the lane.
const PUBLISH: usize = 16;
/// Lines of a descriptor: word and fields, input, what is told of the run, output.
const PARTS: usize = 4;
/// Who finds nothing looks again after so long.
const PAUSE: Time = 20;
/// Of so many looks that found nothing, one is at the lane of another domain.
const STEAL: usize = 16;
/// The first wait after a lost exchange, and the longest.
const BACK_OFF: [Time; 2] = [50, 6_400];
/// Tasks that go to one lane before the next gets some: a line of slots.
const DEAL: usize = SLOTS_PER_LINE;

/// How tasks find workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lanes {
    /// One lane for all.
    One,
    /// The same; who has lost an exchange waits before it looks again, longer each time.
    BackOff,
    /// One for each cache domain; who finds its own empty looks at the others too, more seldom.
    PerDomain,
}

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene {
    pub(crate) machine: Machine,
    pub(crate) lanes: Lanes,
    pub(crate) cores: usize,
    /// One core in each domain submits; else one in all.
    pub(crate) has_submitter_per_domain: bool,
    /// What a task takes, on average.
    pub(crate) work: Time,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// Tasks a second, in millions.
    pub(crate) rate: f64,
    /// Transfers between domains, for each task.
    pub(crate) far: f64,
    /// And in all.
    pub(crate) all: f64,
}

/// A ring of hints. A position is on lap `position / SLOTS`.
struct Lane {
    head: usize,
    tail: usize,
    /// Of each slot, the next position that is to be filled there, or that it holds with this task.
    slots: Vec<(usize, Option<usize>)>,
    first_line: usize,
}

impl Lane {
    /// Lines of head and tail, before those of the slots.
    const LINES: usize = 2 + SLOTS / SLOTS_PER_LINE;

    fn new(first_line: usize) -> Lane {
        Lane { head: 0, tail: 0, slots: (0..SLOTS).map(|i| (i, None)).collect(), first_line }
    }

    fn head_line(&self) -> usize {
        self.first_line
    }

    fn tail_line(&self) -> usize {
        self.first_line + 1
    }

    fn slot_line(&self, position: usize) -> usize {
        self.first_line + 2 + position % SLOTS / SLOTS_PER_LINE
    }
}

#[derive(Clone, Copy, Default)]
struct Cursor {
    head: usize,
    tail: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Reserved,
    Ready,
    Claimed,
    Done,
}

/// Where an actor is in its program. `lane`: of those in `World::lanes`.
#[derive(Clone, Copy, Debug)]
enum At {
    // To take from a lane: `Table::take_from`.
    Head {
        lane: usize,
    },
    Slot {
        lane: usize,
        position: usize,
        seen: usize,
    },
    Word {
        lane: usize,
        position: usize,
        seen: usize,
        task: usize,
    },
    Exchange {
        lane: usize,
        position: usize,
        seen: usize,
        task: usize,
    },
    /// Empties the slot; `is_ours`: whose task it has taken.
    Remove {
        lane: usize,
        position: usize,
        seen: usize,
        task: usize,
        is_ours: bool,
    },
    PublishHead {
        lane: usize,
        position: usize,
        task: Option<usize>,
    },
    // To push to one: `Lane::push`.
    Tail {
        lane: usize,
        task: usize,
    },
    Room {
        lane: usize,
        position: usize,
        seen: usize,
        task: usize,
    },
    Fill {
        lane: usize,
        position: usize,
        seen: usize,
        task: usize,
    },
    PublishTail {
        position: usize,
        lane: usize,
    },
    // A worker, with its task.
    Input {
        task: usize,
    },
    Run {
        task: usize,
    },
    Output {
        task: usize,
    },
    Complete {
        task: usize,
    },
    // A submitter, with its task.
    Result {
        task: usize,
    },
    Told {
        task: usize,
    },
    Write {
        task: usize,
    },
    Submit {
        task: usize,
    },
    /// Whatever comes next.
    Free,
}

struct Actor {
    at: At,
    cursors: Vec<Cursor>,
    /// For a submitter, the lane in which its results come; and how many tasks it has submitted.
    completion: Option<usize>,
    submitted: usize,
    /// Descriptors that it has not used yet.
    fresh: Vec<usize>,
    /// The lanes of queues, its own first; and how many looks in a row found nothing.
    order: Vec<usize>,
    looks: usize,
    /// Exchanges that it has lost in a row.
    lost: u32,
}

struct World {
    scene: Scene,
    memory: Memory,
    /// Of queues, then those of results.
    lanes: Vec<Lane>,
    queues: usize,
    words: Vec<Phase>,
    submitter: Vec<usize>,
    actors: Vec<Actor>,
    /// The first line of the descriptors.
    descriptors: usize,
    taken: u64,
    /// For the spread of what tasks take.
    dice: u64,
}

/// Simulated time that is not counted, and that is.
const WARM: Time = 200_000;
const COUNTED: Time = 1_000_000;

pub(crate) fn simulate(scene: Scene) -> Outcome {
    let mut world = World::new(scene);
    // Each begins a little later than the one before; of two at one time the lower one is first.
    let mut queue: BinaryHeap<_> = (0..scene.cores).map(|core| Reverse((core as Time * 7, core))).collect();
    let mut before = None;
    while let Some(Reverse((now, core))) = queue.pop() {
        if now >= WARM && before.is_none() {
            before = Some((world.taken, world.memory.transfers));
        }
        if now >= WARM + COUNTED {
            break;
        }
        let next = world.step(core, now);
        queue.push(Reverse((next, core)));
    }
    let (taken, [near, far]) = before.unwrap_or_default();
    let tasks = (world.taken - taken) as f64;
    Outcome {
        rate: tasks * 1e3 / COUNTED as f64,
        far: (world.memory.transfers[1] - far) as f64 / tasks,
        all: (world.memory.transfers.iter().sum::<u64>() - near - far) as f64 / tasks,
    }
}

impl World {
    fn new(scene: Scene) -> World {
        let Scene { machine, cores, lanes, has_submitter_per_domain, .. } = scene;
        let domains = cores.div_ceil(machine.domain);
        let queues = if lanes == Lanes::PerDomain { domains } else { 1 };
        let submits =
            |core: usize| if has_submitter_per_domain { core.is_multiple_of(machine.domain) } else { core == 0 };
        let submitters = (0..cores).filter(|core| submits(*core)).count();
        // 1,024 under way, or more where that would leave workers without.
        let window = (1024 / submitters).max(8 * cores / submitters);
        let descriptors = (queues + submitters) * Lane::LINES;
        let tasks = window * submitters;
        let mut completions = queues..;
        let mut submitter = Vec::new();
        let actor = |core| {
            let completion = submits(core).then(|| completions.next()).flatten();
            let first = submitter.len();
            if completion.is_some() {
                submitter.extend(std::iter::repeat_n(core, window));
            }
            let home = if lanes == Lanes::PerDomain { machine.domain_of(core) } else { 0 };
            Actor {
                at: At::Free,
                cursors: vec![Cursor::default(); queues + submitters],
                completion,
                submitted: 0,
                fresh: (first..submitter.len()).collect(),
                order: (0..queues).map(|i| (home + i) % queues).collect(),
                looks: 0,
                lost: 0,
            }
        };
        let actors = (0..cores).map(actor).collect();
        World {
            scene,
            memory: Memory::new(machine, descriptors + tasks * PARTS),
            lanes: (0..queues + submitters).map(|i| Lane::new(i * Lane::LINES)).collect(),
            queues,
            words: vec![Phase::Reserved; tasks],
            submitter,
            actors,
            descriptors,
            taken: 0,
            dice: 1,
        }
    }

    /// The line of a descriptor: 0 its word, 1 input, 2 what is told of its run, 3 output.
    fn part(&self, task: usize, part: usize) -> usize {
        self.descriptors + task * PARTS + part
    }

    /// Between half and one and a half times what a task takes on average.
    fn work(&mut self) -> Time {
        let work = self.scene.work;
        if work == 0 { 0 } else { work / 2 + self.roll() % work }
    }

    /// One access of this core; when it is done.
    fn step(&mut self, core: usize, now: Time) -> Time {
        let is_submitter = self.actors[core].completion.is_some();
        let (next, done) = match self.actors[core].at {
            At::Free if is_submitter => return self.next_of_submitter(core, now),
            At::Free => {
                let Actor { order, looks, .. } = &self.actors[core];
                let turn = if (looks + 1).is_multiple_of(STEAL) { (looks + 1) / STEAL } else { 0 };
                (At::Head { lane: order[turn % order.len()] }, now)
            }

            At::Head { lane } => {
                let l = &self.lanes[lane];
                let position = l.head.max(self.actors[core].cursors[lane].head);
                (At::Slot { lane, position, seen: l.head }, self.memory.load(core, l.head_line(), now))
            }
            At::Slot { lane, position, seen } => {
                let l = &self.lanes[lane];
                let done = self.memory.load(core, l.slot_line(position), now);
                let next = match l.slots[position % SLOTS] {
                    (at, Some(task)) if at == position => At::Word { lane, position, seen, task },
                    (at, _) if at > position => At::Slot { lane, position: position + 1, seen },
                    _ => return self.found_nothing(core, lane, position, done),
                };
                (next, done)
            }
            At::Word { lane, position, seen, task } => {
                let done = self.memory.load(core, self.part(task, 0), now);
                let is_wanted = self.words[task] == self.wanted(core);
                let next = match is_wanted {
                    true => At::Exchange { lane, position, seen, task },
                    false => At::Remove { lane, position, seen, task, is_ours: false },
                };
                (next, done)
            }
            At::Exchange { lane, position, seen, task } => {
                let done = self.memory.exchange(core, self.part(task, 0), now);
                if self.words[task] == self.wanted(core) {
                    self.actors[core].lost = 0;
                    self.words[task] = if is_submitter { Phase::Reserved } else { Phase::Claimed };
                    (At::Remove { lane, position, seen, task, is_ours: true }, done)
                } else {
                    (At::Head { lane }, done + self.back_off(core))
                }
            }
            At::Remove { lane, position, seen, task, is_ours } => {
                let l = &mut self.lanes[lane];
                let done = self.memory.exchange(core, l.slot_line(position), now);
                if l.slots[position % SLOTS] == (position, Some(task)) {
                    l.slots[position % SLOTS] = (position + SLOTS, None);
                }
                let task = is_ours.then_some(task);
                self.actors[core].cursors[lane].head = position + 1;
                let next = match position + 1 >= seen + PUBLISH {
                    true => At::PublishHead { lane, position: position + 1, task },
                    false => self.has_taken(core, lane, task),
                };
                (next, done)
            }
            At::PublishHead { lane, position, task } => {
                let l = &mut self.lanes[lane];
                l.head = l.head.max(position);
                let done = self.memory.exchange(core, l.head_line(), now);
                (self.has_taken(core, lane, task), done)
            }

            At::Tail { lane, task } => {
                let l = &self.lanes[lane];
                let position = l.tail.max(self.actors[core].cursors[lane].tail);
                (At::Room { lane, position, seen: l.tail, task }, self.memory.load(core, l.tail_line(), now))
            }
            At::Room { lane, position, seen, task } => {
                let l = &self.lanes[lane];
                let done = self.memory.load(core, l.slot_line(position), now);
                match l.slots[position % SLOTS] == (position, None) {
                    true => (At::Fill { lane, position, seen, task }, done),
                    false => (At::Room { lane, position: position + 1, seen, task }, done),
                }
            }
            At::Fill { lane, position, seen, task } => {
                let l = &mut self.lanes[lane];
                let done = self.memory.exchange(core, l.slot_line(position), now);
                if l.slots[position % SLOTS] == (position, None) {
                    l.slots[position % SLOTS].1 = Some(task);
                    self.actors[core].cursors[lane].tail = position + 1;
                    match position + 1 >= seen + PUBLISH {
                        true => (At::PublishTail { lane, position: position + 1 }, done),
                        false => (At::Free, done),
                    }
                } else {
                    (At::Room { lane, position, seen, task }, done)
                }
            }
            At::PublishTail { lane, position } => {
                let l = &mut self.lanes[lane];
                l.tail = l.tail.max(position);
                (At::Free, self.memory.exchange(core, l.tail_line(), now))
            }

            At::Input { task } => (At::Run { task }, self.memory.load(core, self.part(task, 1), now)),
            At::Run { task } => {
                let done = self.memory.exchange(core, self.part(task, 2), now);
                (At::Output { task }, done + self.work())
            }
            At::Output { task } => (At::Complete { task }, self.memory.exchange(core, self.part(task, 3), now)),
            At::Complete { task } => {
                self.words[task] = Phase::Done;
                let done = self.memory.exchange(core, self.part(task, 0), now);
                let lane = self.actors[self.submitter[task]].completion.unwrap_or_default();
                (At::Tail { lane, task }, done)
            }

            At::Result { task } => (At::Told { task }, self.memory.load(core, self.part(task, 3), now)),
            At::Told { task } => (At::Write { task }, self.memory.load(core, self.part(task, 2), now)),
            At::Write { task } => (At::Submit { task }, self.memory.exchange(core, self.part(task, 1), now)),
            At::Submit { task } => {
                self.words[task] = Phase::Ready;
                let done = self.memory.exchange(core, self.part(task, 0), now);
                let actor = &mut self.actors[core];
                let turn = actor.submitted / DEAL;
                actor.submitted += 1;
                // Who is alone deals to all domains; where each has one of its own, that is for its own.
                let lane = if self.scene.has_submitter_per_domain { actor.order[0] } else { turn % self.queues };
                (At::Tail { lane, task }, done)
            }
        };
        self.actors[core].at = next;
        done
    }

    fn roll(&mut self) -> u64 {
        // Knuth's generator for MMIX.
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.dice >> 33
    }

    /// Between half and all of a time that doubles.
    fn back_off(&mut self, core: usize) -> Time {
        if self.scene.lanes != Lanes::BackOff {
            return 0;
        }
        let [first, longest] = BACK_OFF;
        let lost = &mut self.actors[core].lost;
        let most = (first << *lost).min(longest);
        *lost = (*lost + 1).min(16);
        most / 2 + self.roll() % (most / 2)
    }

    fn wanted(&self, core: usize) -> Phase {
        if self.actors[core].completion.is_some() { Phase::Done } else { Phase::Ready }
    }

    fn next_of_submitter(&mut self, core: usize, now: Time) -> Time {
        let actor = &mut self.actors[core];
        actor.at = match (actor.fresh.pop(), actor.completion) {
            (Some(task), _) => At::Write { task },
            (None, lane) => At::Head { lane: lane.unwrap_or_default() },
        };
        now
    }

    /// What follows when a slot is emptied.
    fn has_taken(&mut self, core: usize, lane: usize, task: Option<usize>) -> At {
        let actor = &mut self.actors[core];
        match (task, actor.completion) {
            (Some(task), Some(_)) => {
                self.taken += 1;
                At::Result { task }
            }
            (Some(task), None) => {
                actor.looks = 0;
                At::Input { task }
            }
            (None, _) => At::Head { lane },
        }
    }

    fn found_nothing(&mut self, core: usize, lane: usize, position: usize, now: Time) -> Time {
        let actor = &mut self.actors[core];
        actor.cursors[lane].head = position;
        actor.looks += 1;
        actor.at = At::Free;
        now + PAUSE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVEN: Machine = Machine { name: "even", domain: 8, socket: 64, near: 20, far: 20, remote: 20 };

    fn scene(cores: usize, lanes: Lanes, work: Time) -> Scene {
        Scene { machine: EVEN, lanes, cores, has_submitter_per_domain: false, work }
    }

    #[test]
    fn it_is_the_same_each_time() {
        let run = || simulate(scene(16, Lanes::PerDomain, 500));
        assert_eq!(format!("{:?}", run()), format!("{:?}", run()));
    }

    #[test]
    fn long_tasks_are_bound_by_the_workers_alone() {
        for lanes in [Lanes::One, Lanes::BackOff, Lanes::PerDomain] {
            // 15 workers and 20 microseconds each.
            let rate = simulate(scene(16, lanes, 20_000)).rate;
            assert!((0.7..0.77).contains(&rate), "{lanes:?}: {rate}");
        }
    }

    #[test]
    fn one_worker_pays_for_each_line_that_travels() {
        let Outcome { rate, all, far } = simulate(scene(2, Lanes::One, 0));
        assert_eq!(far, 0.0);
        // There and back: each of three lines is lent and given up, the word is looked at before both, and its exchange is
        // a transfer of its own; and a part of a line of slots each way.
        assert!((10.0..12.0).contains(&all), "{all}");
        assert!(rate > 1.0, "{rate}");
    }

    #[test]
    fn who_has_nothing_at_home_steals() {
        // All is submitted for one domain of two, and the other does its half.
        let mut scene = scene(16, Lanes::PerDomain, 20_000);
        scene.machine.domain = 8;
        let dealt = simulate(scene).rate;
        let mut world = World::new(scene);
        world.queues = 1; // whom it deals to
        let mut now = [0; 16];
        while world.taken < 200 {
            let core = (0..16).min_by_key(|core| now[*core]).unwrap();
            now[core] = world.step(core, now[core]);
        }
        let rate = world.taken as f64 * 1e3 / *now.iter().max().unwrap() as f64;
        assert!(rate > 0.7 * dealt, "{rate}, dealt {dealt}");
    }
}
