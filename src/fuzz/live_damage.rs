//! A running pool whose words are overwritten: errors or results, but no panic, no operation without end, and no slice that
//! reaches out of the segment.
//!
//! One thread plays all parties. A word is overwritten between two operations, or in the midst of one: just before one of
//! its accesses, so that what is read twice may have changed in between.

use super::stage::{Bytes, LENGTHS, QUEUES, Stage, pick};
use crate::{
    TaskId,
    exec::endpoint::{Claimed, Draft, Endpoint, Finished, Submission, To},
    lockfree::{
        descriptor::{Backoff, Limits, MS, TraceParent},
        participant::Name,
        recovery::Death,
        table::{Again, Cursors, LaneId},
        timer::Looks,
    },
    mem::layout::Layout,
    process::{Mode, exit::Exit},
    sync::{Relaxed, fate},
};
use std::time::Duration;

/// Accesses to shared words that no operation on so small a segment needs.
const ENDLESS: u32 = 1 << 20;
const ACTORS: usize = 3;

/// `data`: a byte per step, and what it asks for.
///
/// # Panics
/// If the library does, if an operation has no end, or if a payload lies outside the segment.
pub fn live_damage(data: &[u8]) {
    let stage = Stage::new();
    let admit = || stage.table().admit(1, 1).ok().flatten();
    let (Some(coordinator), names) = (admit(), [(); ACTORS].map(|()| admit())) else { return };
    let actors = names.map(|name| Actor::new(stage.seat(name.expect("room for the first")).expect("a seat")));
    let mut play =
        Play { stage: &stage, layout: layout(&stage), coordinator, looks: Looks::default(), actors, ids: Vec::new() };
    let mut bytes = Bytes(data);
    while play.step(&mut bytes).is_some() {}
    // Once more in good order: whatever the words hold by now.
    for who in 0..ACTORS {
        for op in 0..OPS {
            play.act(op, who, who as u8);
        }
    }
    fate::meanwhile(ENDLESS, || panic!("an operation has no end"));
    drop(play); // with all guards
    fate::meanwhile(0, || {});
}

fn layout(stage: &Stage) -> Layout {
    Layout::of(&stage.segment.header().identity.geometry).expect("the segment has this geometry")
}

struct Actor<'e> {
    endpoint: &'e Endpoint,
    drafts: Vec<Draft<'e>>,
    claimed: Vec<Claimed<'e>>,
    finished: Vec<Finished<'e>>,
}

impl<'e> Actor<'e> {
    fn new(endpoint: &'e Endpoint) -> Actor<'e> {
        Actor { endpoint, drafts: Vec::new(), claimed: Vec::new(), finished: Vec::new() }
    }

    /// SIGKILL runs no destructor.
    fn die(self) {
        self.drafts.into_iter().for_each(std::mem::forget);
        self.claimed.into_iter().for_each(std::mem::forget);
        self.finished.into_iter().for_each(std::mem::forget);
    }
}

struct Play<'e> {
    stage: &'e Stage,
    layout: Layout,
    coordinator: Name,
    looks: Looks,
    actors: [Actor<'e>; ACTORS],
    ids: Vec<TaskId>,
}

const OPS: u8 = 28;

impl<'e> Play<'e> {
    fn step(&mut self, bytes: &mut Bytes<'_>) -> Option<()> {
        let op = bytes.next()?;
        // From here on, damage in the midst of the operation; a third of all steps damage something first.
        match op % 4 {
            0 => self.damage(bytes)?(),
            1 => {
                let k = u32::from(bytes.next()?) + 1;
                let damage = self.damage(bytes)?;
                fate::meanwhile(k, move || {
                    damage();
                    fate::meanwhile(ENDLESS, || panic!("an operation has no end"));
                });
                let (op, arg) = (bytes.next()?, bytes.next()?);
                self.act_now(op % OPS, (op / OPS) as usize % ACTORS, arg);
            }
            _ => self.act(op / 4 % OPS, usize::from(op & 1), bytes.next()?),
        }
        Some(())
    }

    /// What overwrites one word.
    fn damage(&self, bytes: &mut Bytes<'_>) -> Option<impl FnOnce() + 'static> {
        let (place, kind) = (self.place(bytes)?, bytes.next()?);
        let value = match kind % 8 {
            0 => bytes.u64()?,
            1 => self.stage.segment.words()[self.place(bytes)?].load(Relaxed),
            2 | 3 => u64::from(bytes.next()?),
            _ => u64::from(kind >> 3),
        };
        let segment = self.stage.segment.clone();
        Some(move || {
            let word = &segment.words()[place];
            let old = word.load(Relaxed);
            let new = match kind % 8 {
                0..=2 => value,
                3 => (value & 0x7f).wrapping_sub(64).wrapping_add(old),
                4 | 5 => old ^ 1 << value,
                6 => old ^ 1 << (value + 32),
                _ => [0, u64::MAX, old.rotate_left(8), old.swap_bytes()][value as usize % 4],
            };
            word.store(new, Relaxed);
        })
    }

    /// Number of a word, among those that say something.
    fn place(&self, bytes: &mut Bytes<'_>) -> Option<usize> {
        let (region, n) = (bytes.next()?, usize::from(bytes.u16()?));
        let (l, table) = (&self.layout, self.stage.table());
        let place = |start: usize, len: usize| start + n % len * 8;
        let offset = match region % 10 {
            // Only the words in use of each descriptor, and of each participant.
            0..=2 => {
                l.descriptors
                    + n / 20 % table.descriptors.len() * (l.free - l.descriptors) / table.descriptors.len()
                    + n % 20 * 8
            }
            3 => l.participants + n / 5 % table.participants.len() * 128 + n % 5 * 8,
            4 => place(l.free, 1),
            5 => l.controls + n % (table.controls.len() * 3) * 128,
            6 => place(l.slots, table.slots.len()),
            7 => place(l.idle, table.idle.len()),
            8 => place(l.block_words, table.blocks.words.len()),
            _ => place(l.block_free, (l.arena - l.block_free) / 8),
        };
        let first = std::mem::offset_of!(crate::mem::layout::Header, control);
        Some(if region == u8::MAX { n % 16 } else { (offset - first) / 8 })
    }

    /// An operation, of which only the end matters.
    fn act(&mut self, op: u8, who: usize, arg: u8) {
        fate::meanwhile(ENDLESS, || panic!("an operation has no end"));
        self.act_now(op, who, arg);
    }

    fn act_now(&mut self, op: u8, who: usize, arg: u8) {
        let stage = self.stage;
        let (table, segment) = (stage.table(), &stage.segment);
        let Actor { endpoint, drafts, claimed, finished } = &mut self.actors[who];
        let endpoint: &'e Endpoint = endpoint;
        let (len, lane) = (LENGTHS[arg as usize % 8], LaneId(u32::from(arg) % (QUEUES as u32 + 1)));
        let lane = if lane.0 == QUEUES as u32 { endpoint.private() } else { lane };
        let queues = [endpoint.queue(0), endpoint.queue(1)];
        let cursors = || Cursors::new(table);
        match op % OPS {
            0 => drafts.extend(endpoint.draft(len)),
            1 => {
                if let Some(draft) = drafts.last_mut()
                    && let Ok(bytes) = draft.payload()
                {
                    assert!(segment.contains(bytes));
                    bytes.fill(arg);
                }
            }
            2 => self.ids.extend(drafts.pop().and_then(|d| d.submit(submission(arg, &[])).ok())),
            3 | 4 => self.ids.extend(endpoint.try_submit(submission(arg, &[]), &vec![arg; len])),
            5 => {
                let stop = endpoint.submit(submission(arg, &[]), &vec![arg; len], || true);
                self.ids.extend(stop.ok().flatten());
            }
            6 => drop(drafts.pop()),
            7 => {
                if let Some(id) = pick(&self.ids, arg) {
                    let _ = endpoint.cancel(id);
                }
            }
            8 | 9 => claimed.extend(endpoint.claim(lane).ok().flatten()),
            10 => claimed.extend(endpoint.next(&queues, || true).ok().flatten()),
            11 => {
                if let Some(task) = claimed.last() {
                    if let Ok(bytes) = task.input() {
                        assert!(segment.contains(bytes));
                        std::hint::black_box((bytes.first(), bytes.last()));
                    }
                    task.heartbeat();
                    let _ = (task.kind(), task.attempt(), task.is_cancelled());
                    // An answer to whom the segment names.
                    let _ = endpoint.try_submit(submission(arg, &[task.submitter()]), &[arg]);
                }
            }
            12 | 13 => {
                if let Some(task) = claimed.pop() {
                    let written = task.complete(arg.into(), len, |bytes| {
                        assert!(segment.contains(bytes) && bytes.len() == len);
                        bytes.fill(arg);
                    });
                    claimed.extend(written.err().and_then(|(_, task)| task));
                }
            }
            14 => {
                if let Some(task) = claimed.pop() {
                    let again = [Again::SameAttempt, Again::After(u64::from(arg) * MS), Again::Backoff];
                    claimed.extend(task.give_back(again[arg as usize % 3]).ok().flatten());
                }
            }
            15 => drop(claimed.pop()),
            16 => {
                if let Some(task) = claimed.pop() {
                    let _ = task.cancelled();
                }
            }
            17 | 18 => finished.extend(endpoint.take().ok().flatten()),
            19 => {
                if let Some(done) = finished.last() {
                    if let Ok(bytes) = done.output() {
                        assert!(segment.contains(bytes));
                        std::hint::black_box((bytes.first(), bytes.last()));
                    }
                    let _ = (done.tag(), done.outcome(), done.status(), Exit::unpack(done.exit()).to_string());
                    let name = done.claimant().unwrap_or(self.coordinator);
                    let _ = (format!("{name:?}"), endpoint.try_submit(submission(arg, &[name]), &[arg]));
                }
            }
            20 => drop(finished.pop()),
            21 => {
                endpoint.park(&queues, Some(Duration::ZERO), || false);
                endpoint.wake_next(&queues);
                endpoint.wake_self();
            }
            22 => {
                let _ = (endpoint.may_have_room(len), Mode::of(&segment.header().control));
            }
            23 => stage.pass(1 << (arg % 40)),
            24 => {
                let _ = table.tick(&cursors());
                table.look(&cursors(), &mut self.looks);
            }
            25 => {
                table.was_stopped(1 << (arg % 64));
                let _ = (table.sweep(&cursors()), segment.has_grown());
            }
            26 => {
                let _ = table.audit().to_string();
            }
            _ => self.bury(who),
        }
    }

    /// The death of an actor, and its successor.
    fn bury(&mut self, who: usize) {
        let table = self.stage.table();
        let dead = self.actors[who].endpoint.name();
        let _ = table.recover(&Cursors::new(table), self.coordinator, dead, Death::of(Exit::Signal(9).pack()));
        if self.stage.has_seats()
            && let Ok(Some(name)) = table.admit(1, 1)
            && let Some(endpoint) = self.stage.seat(name)
        {
            std::mem::replace(&mut self.actors[who], Actor::new(endpoint)).die();
        }
    }
}

/// With all that a submission can say. `to`: its addressee, if it is to have one.
fn submission(arg: u8, to: &[Name]) -> Submission {
    let has = |bit: u8| u32::from(arg >> bit & 1);
    Submission {
        to: to.first().map_or(To::Queue(arg as usize % QUEUES), |name| To::Participant(*name)),
        kind: arg.into(),
        tag: arg.into(),
        max_attempts: arg & 3,
        expires_in: (has(4) == 1).then(|| Duration::from_millis(arg.into())),
        limits: Limits { run_ms: has(5), silence_ms: has(6) },
        backoff: Backoff { first_ms: has(7), longest_ms: u32::from(arg) },
        timeout_ms: has(2),
        retry_on: arg,
        max_deaths: arg & 1,
        keeps_output: has(3) == 1,
        is_timed: has(2) == 1,
        trace: (has(1) == 1).then_some(TraceParent { trace: arg.into(), span: arg.into(), is_sampled: has(0) == 1 }),
        has_key: has(0) == 1,
    }
}
