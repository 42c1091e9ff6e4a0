//! What a pool is at one moment, by its segment and by `/proc`: all that `shmworker top` and `inspect` show.
//!
//! Nothing stands still for it, so its parts are of slightly different moments. What is told of one task is of one moment: its word
//! is read before and after, and has not changed.

#[cfg(feature = "cli")]
use super::find::Found;
use crate::{
    lockfree::{
        descriptor::{Blame, Descriptor, OF_NAME, Place, Rules},
        participant::{Count, Ending, Loss, Name},
        word::{Block, Member, Outcome, Phase, Task},
    },
    mem::segment::Segment,
    process::{
        Mode,
        attach::GUEST,
        exit::{Exit, OVERDUE},
    },
    sync::{Acquire, Relaxed, fence},
};
use procfs::process::Process;
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io,
    os::fd::AsFd,
    os::unix::fs::MetadataExt,
    time::Instant,
};

/// A pool at one moment.
#[derive(Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) pool: Pool,
    pub(crate) segment: Memory,
    pub(crate) participants: Vec<Participant>,
    pub(crate) tasks: Tasks,
    pub(crate) lanes: Vec<Lane>,
    /// `None`: no attempt was stamped.
    pub(crate) latency: Option<Latency>,
    /// The last processes that died, the newest first.
    pub(crate) deaths: Vec<Death>,
    /// The last tasks that were given up since workers died over them, the newest first.
    pub(crate) given_up: Vec<GivenUp>,
    /// Tasks in use over which workers died, or may have.
    pub(crate) suspects: Vec<Suspect>,
    pub(crate) blocks: Blocks,
    /// What became of tasks, in the order of their names.
    #[serde(skip)]
    pub(crate) counts: Vec<TaskCount>,
    #[serde(skip)]
    pub(crate) losses: Losses,
    #[serde(skip)]
    pub(crate) times: Times,
    #[serde(skip)]
    pub(crate) at: Instant,
}

#[derive(Debug, Serialize)]
pub(crate) struct Pool {
    /// "running", "draining", "cancelling" or "stopping".
    pub(crate) mode: &'static str,
    /// Its processes live. Else this is what the last of them have left.
    pub(crate) runs: bool,
    /// Each process of it is stopped.
    pub(crate) is_stopped: bool,
    pub(crate) coordinator: u32,
    pub(crate) made_by: u64,
    /// Milliseconds since it was made; 0 for one that does not run.
    pub(crate) age_ms: u64,
    /// Processes whose end was settled, those that ended in order too.
    pub(crate) ends_settled: u32,
    /// Tasks that were given up since workers died over them.
    pub(crate) tasks_given_up: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Memory {
    pub(crate) layout_version: u64,
    pub(crate) bytes: u64,
    /// Of these take memory; `None`: it can't be told.
    pub(crate) taken_bytes: Option<u64>,
    pub(crate) participants: usize,
    pub(crate) descriptors: usize,
    pub(crate) queue_hints: usize,
    pub(crate) private_hints: usize,
    pub(crate) completion_hints: usize,
}

/// Who takes part, or did.
#[derive(Debug, Serialize)]
pub(crate) struct Participant {
    pub(crate) id: usize,
    pub(crate) incarnation: u64,
    /// "live", "absent" (a durable client of which something is left), "dead", "vacant" or "damaged".
    pub(crate) state: &'static str,
    pub(crate) label: String,
    pub(crate) pid: u32,
    /// Tasks that this process has completed, or answered.
    pub(crate) finished: u64,
    /// Tasks that it runs, and that wait for it alone, and whose results it has not taken yet.
    pub(crate) running: usize,
    pub(crate) addressed: usize,
    pub(crate) uncollected: usize,
    /// Of those that it runs, the one that runs longest.
    pub(crate) task: Option<Current>,
    /// `None`: it is dead, or can't be looked at.
    pub(crate) process: Option<Figures>,
}

impl Participant {
    pub(crate) fn name(&self) -> (usize, u64) {
        (self.id, self.incarnation)
    }

    pub(crate) fn is_live(&self) -> bool {
        self.state == "live"
    }
}

/// A task that runs.
#[derive(Debug, Serialize)]
pub(crate) struct Current {
    pub(crate) descriptor: usize,
    pub(crate) generation: u64,
    /// Its name; "0x…" if it has none that is known.
    pub(crate) task: String,
    /// From 1.
    pub(crate) attempt: u32,
    /// `None`: it was not stamped.
    pub(crate) running_ns: Option<u64>,
    pub(crate) progress: Option<Progress>,
    #[serde(skip)]
    depth: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Progress {
    pub(crate) done: u64,
    /// 0: nobody knows.
    pub(crate) total: u64,
}

/// What the kernel says of a process.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Figures {
    /// The kernel's letter: R runs, S sleeps, D waits for a device, T is stopped, Z is dead.
    pub(crate) state: char,
    pub(crate) threads: i64,
    pub(crate) cpu_ms: u64,
    /// All of its memory, and what of that it shares with nobody by a mapping: not the segment, not the program's file.
    pub(crate) resident_bytes: u64,
    pub(crate) own_bytes: u64,
}

impl Figures {
    fn of(pid: u32) -> Option<Figures> {
        let process = Process::new(i32::try_from(pid).ok()?).ok()?;
        let (stat, statm) = (process.stat().ok()?, process.statm().ok()?);
        let page = procfs::page_size();
        Some(Figures {
            state: stat.state,
            threads: stat.num_threads,
            cpu_ms: (stat.utime + stat.stime) * 1000 / procfs::ticks_per_second().max(1),
            resident_bytes: statm.resident * page,
            own_bytes: statm.resident.saturating_sub(statm.shared) * page,
        })
    }
}

/// Tasks by where they are. The descriptors are the truth, lanes hold hints only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Tasks {
    pub(crate) free: usize,
    pub(crate) reserved: usize,
    pub(crate) ready: usize,
    pub(crate) delayed: usize,
    pub(crate) claimed: usize,
    pub(crate) done: usize,
    pub(crate) damaged: usize,
}

/// Tasks that wait for whoever serves a queue; or for one process each, which is told of as the last of all lanes.
#[derive(Debug, Serialize)]
pub(crate) struct Lane {
    /// `None`: those for one process each.
    pub(crate) queue: Option<usize>,
    pub(crate) name: String,
    pub(crate) ready: usize,
    pub(crate) delayed: usize,
}

/// How long attempts that were stamped waited, since the submission of their tasks, and ran, over the whole life of the pool.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) wait: Percentiles,
    pub(crate) run: Percentiles,
}

/// Of a distribution whose buckets grow by factors of 2: within a bucket it is taken for even, so a figure is right within that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) count: u64,
    pub(crate) p50_ns: u64,
    pub(crate) p90_ns: u64,
    pub(crate) p99_ns: u64,
    /// The end of the last bucket that is not empty.
    pub(crate) max_ns: u64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Death {
    pub(crate) label: String,
    pub(crate) pid: u32,
    /// "exit code 3", "signal 9 (SIGKILL)".
    pub(crate) exit: String,
    /// It was killed since a task of its ran, or was silent, for too long.
    pub(crate) was_overdue: bool,
    /// Tasks that others attempt again, and that ended with it; at most 255 are told.
    pub(crate) requeued: u8,
    pub(crate) failed: u8,
    /// Milliseconds since the pool was made.
    pub(crate) at_ms: u64,
}

/// A task that has ended since workers died over it, which its submitter was told.
#[derive(Debug, Serialize)]
pub(crate) struct GivenUp {
    pub(crate) task: String,
    /// Workers that died by its fault.
    pub(crate) deaths: u8,
    /// These were as many as it may kill. Else it had no attempt left.
    pub(crate) is_poison: bool,
    /// The last of them, as in [`Death`].
    pub(crate) pid: u32,
    pub(crate) exit: String,
    pub(crate) was_overdue: bool,
    pub(crate) at_ms: u64,
}

/// A task in use over which workers died.
#[derive(Debug, Serialize)]
pub(crate) struct Suspect {
    pub(crate) descriptor: usize,
    pub(crate) generation: u64,
    pub(crate) task: String,
    /// "ready", "delayed", "running" or how it ended.
    pub(crate) state: &'static str,
    /// Workers that died by its fault; and how many may: 0, no limit of its own.
    pub(crate) deaths: u8,
    pub(crate) max_deaths: u8,
    /// It was set aside, since it killed as many as it may.
    pub(crate) is_poison: bool,
    /// It ran beside others as their worker died, and nobody knows which of them it was: it runs alone next.
    pub(crate) is_suspect: bool,
}

/// What became of the tasks of one name, over all processes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TaskCount {
    /// "(other)": those of more names than there is room for.
    pub(crate) task: String,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) cancelled: u64,
    /// Attempts after which another was to come.
    pub(crate) retried: u64,
    /// Ticks, of attempts that were stamped.
    pub(crate) waited: u64,
    pub(crate) ran: u64,
}

/// What deaths have cost since the pool was made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Losses {
    /// Processes that died.
    pub(crate) deaths: u64,
    /// Tasks that others were given, and that ended with their worker.
    pub(crate) requeued: u64,
    pub(crate) failed: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Blocks {
    pub(crate) committed_bytes: u64,
    pub(crate) bytes: u64,
    pub(crate) sizes: Vec<BlockSize>,
}

#[derive(Debug, Serialize)]
pub(crate) struct BlockSize {
    pub(crate) bytes: u64,
    pub(crate) free: usize,
    pub(crate) held: usize,
    pub(crate) attached: usize,
    pub(crate) damaged: usize,
}

/// How many attempts waited and ran for how long, over all processes.
#[derive(Clone, Debug)]
pub(crate) struct Times {
    pub(crate) waits: Distribution,
    pub(crate) runs: Distribution,
    /// Nanoseconds of 2³² ticks.
    pub(crate) rate: u64,
}

/// Counts by powers of 2.
pub(crate) type Distribution = [u64; 64];

impl Times {
    /// What came since an earlier sample of the same pool.
    pub(crate) fn since(&self, earlier: &Times) -> Times {
        // A damaged word may have gone back.
        let less = |now: &Distribution, then: &Distribution| std::array::from_fn(|i| now[i].saturating_sub(then[i]));
        Times { waits: less(&self.waits, &earlier.waits), runs: less(&self.runs, &earlier.runs), rate: self.rate }
    }

    /// `None`: there were no attempts.
    pub(crate) fn latency(&self) -> Option<Latency> {
        Some(Latency {
            wait: percentiles(&self.waits, |ticks| self.ns(ticks))?,
            run: percentiles(&self.runs, |ticks| self.ns(ticks))?,
        })
    }

    fn ns(&self, ticks: f64) -> u64 {
        (ticks * self.rate as f64 / (1u64 << 32) as f64) as u64
    }
}

fn percentiles(counts: &Distribution, ns: impl Fn(f64) -> u64) -> Option<Percentiles> {
    let count = counts.iter().fold(0u64, |sum, &n| sum.saturating_add(n));
    let begin = |bucket: usize| if bucket == 0 { 0.0 } else { 2f64.powi(bucket as i32) };
    let end = |bucket: usize| 2f64.powi(bucket as i32 + 1);
    let last = counts.iter().rposition(|&n| n > 0)?;
    let at = |part: f64| {
        let (wanted, mut before) = (part * count as f64, 0.0);
        for (bucket, &n) in counts.iter().enumerate().filter(|(_, n)| **n > 0) {
            let here = n as f64;
            if before + here >= wanted {
                return ns(begin(bucket) + (end(bucket) - begin(bucket)) * (wanted - before) / here);
            }
            before += here;
        }
        ns(end(last))
    };
    Some(Percentiles { count, p50_ns: at(0.5), p90_ns: at(0.9), p99_ns: at(0.99), max_ns: ns(end(last)) })
}

impl Sample {
    /// Looks at a pool now.
    #[cfg(feature = "cli")]
    pub(crate) fn of(found: &Found) -> Sample {
        Sample::at(&found.segment, found.coordinator.as_ref().map(|c| c.pid as u32), found.runs)
    }

    /// The same where the segment is at hand. `runs`: its processes live.
    pub(crate) fn at(segment: &Segment, coordinator: Option<u32>, runs: bool) -> Sample {
        let (header, table) = (segment.header(), segment.table());
        let (identity, capacity) = (&header.identity, table.capacity);
        let names = Names::of(segment);
        let mut participants = participants(segment, runs);
        let (tasks, lanes, suspects) = tasks(segment, &names, &mut participants);
        let processes = || participants.iter().filter(|p| p.is_live()).filter_map(|p| p.process);
        let times = times(segment);
        let now = table.clock.source.pair().ns;
        Sample {
            pool: Pool {
                mode: mode_of(segment),
                runs,
                is_stopped: processes().next().is_some() && processes().all(|p| matches!(p.state, 'T' | 't')),
                coordinator: coordinator.unwrap_or_else(|| table.participants[0].pid.load(Relaxed)),
                made_by: identity.creator,
                age_ms: if runs { now.saturating_sub(identity.origin.ns) / 1_000_000 } else { 0 },
                ends_settled: header.control.deaths.load(Relaxed),
                tasks_given_up: segment.record(0).map_or(0, |record| record.given_up()),
            },
            segment: Memory {
                layout_version: identity.version,
                bytes: identity.total,
                taken_bytes: taken(segment).ok(),
                participants: table.participants.len(),
                descriptors: table.descriptors.len(),
                queue_hints: capacity.queue,
                private_hints: capacity.private,
                completion_hints: capacity.completion,
            },
            deaths: deaths(segment, &participants),
            given_up: given_up(segment, &names),
            counts: counts(segment, &names),
            losses: segment.record(0).map(|record| record.costs()).map_or_else(Losses::default, |losses| {
                let [deaths, requeued, failed] = losses;
                Losses { deaths, requeued, failed }
            }),
            participants,
            tasks,
            lanes,
            latency: times.latency(),
            suspects,
            blocks: blocks(segment),
            times,
            at: Instant::now(),
        }
    }
}

/// How far the pool is in its life.
pub(super) fn mode_of(segment: &Segment) -> &'static str {
    match Mode::of(&segment.header().control) {
        Mode::Running => "running",
        Mode::Draining => "draining",
        Mode::Cancelling => "cancelling",
        Mode::Stopping => "stopping",
    }
}

fn taken(segment: &Segment) -> io::Result<u64> {
    Ok(512 * File::from(segment.as_fd().try_clone_to_owned()?).metadata()?.blocks())
}

/// What tasks are called.
pub(super) struct Names(HashMap<u32, String>);

impl Names {
    pub(super) fn of(segment: &Segment) -> Names {
        Names(segment.record(0).map(|record| record.task_names()).unwrap_or_default().into_iter().collect())
    }

    pub(super) fn name(&self, kind: u32) -> String {
        self.0.get(&(kind & OF_NAME)).cloned().unwrap_or_else(|| format!("{:#x}", kind & OF_NAME))
    }
}

pub(super) fn participants(segment: &Segment, runs: bool) -> Vec<Participant> {
    let table = segment.table();
    let mut found = Vec::new();
    for (id, p) in table.participants.iter().enumerate() {
        let (state, incarnation) = match p.member(id) {
            Ok(Member::Vacant(0)) => continue,
            Ok(Member::Vacant(n)) => ("vacant", n),
            Ok(Member::Live(n)) if p.is_empty_seat() => ("absent", n),
            Ok(Member::Live(n)) => ("live", n),
            Ok(Member::Dead(n)) => ("dead", n),
            Err(_) => ("damaged", 0),
        };
        let (pid, role) = (p.pid.load(Relaxed), p.role.load(Relaxed));
        let label = match segment.record(id as u16).map(|record| record.label()) {
            // The id may have been another's before.
            _ if role == GUEST => "attached".to_owned(),
            Some(label) if !label.is_empty() => printable(&label),
            _ if id == 0 => "coordinator".to_owned(),
            _ => format!("process {role}"),
        };
        found.push(Participant {
            id,
            incarnation,
            state,
            label,
            pid,
            finished: p.finished.load(Relaxed),
            running: 0,
            addressed: 0,
            uncollected: 0,
            task: None,
            process: (runs && state == "live").then(|| Figures::of(pid)).flatten(),
        });
    }
    found
}

/// Without what a terminal would take for something else. Others wrote it.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn tasks(segment: &Segment, names: &Names, participants: &mut [Participant]) -> (Tasks, Vec<Lane>, Vec<Suspect>) {
    let table = segment.table();
    let mut tasks = Tasks::default();
    let mut queues = vec![[0usize; 2]; table.queues + 1];
    let mut suspects = Vec::new();
    let places: HashMap<usize, usize> = participants.iter().enumerate().map(|(place, p)| (p.id, place)).collect();
    for (index, d) in (0..).zip(table.descriptors) {
        let word = table.load(index);
        let phase = word.phase();
        let count = match phase {
            Some(Phase::Free) => &mut tasks.free,
            Some(Phase::Reserved) => &mut tasks.reserved,
            Some(Phase::Ready) => &mut tasks.ready,
            Some(Phase::Delayed) => &mut tasks.delayed,
            Some(Phase::Claimed) => &mut tasks.claimed,
            Some(Phase::Done(_)) => &mut tasks.done,
            None => &mut tasks.damaged,
        };
        *count += 1;
        let Some(phase @ (Phase::Ready | Phase::Delayed | Phase::Claimed | Phase::Done(_))) = phase else { continue };
        let lane = (d.lane.load(Relaxed) as usize).min(table.queues);
        let addressee = table.addressee(d).map(|name| usize::from(name.id()));
        let submitter = Name::of(d.submitter.load(Relaxed)).id();
        let suspect = suspect(names, usize::from(index), word, phase, d);
        let current = (phase == Phase::Claimed).then(|| current(segment, names, index, word, d));
        fence(Acquire);
        if table.load(index) != word {
            continue; // its fields are another's by now
        }
        suspects.extend(suspect);
        let who = match phase {
            Phase::Claimed => Some(usize::from(word.who())),
            Phase::Done(_) => Some(usize::from(submitter)),
            _ => {
                queues[lane][usize::from(phase == Phase::Delayed)] += 1;
                addressee
            }
        };
        let Some(who) = who.and_then(|id| places.get(&id)).map(|&place| &mut participants[place]) else { continue };
        match phase {
            Phase::Claimed => {
                who.running += 1;
                // What waits for another that it has begun is not what it is at.
                let rank = |c: &Current| (c.depth, c.running_ns);
                if current.as_ref().map(rank) >= who.task.as_ref().map(rank) {
                    who.task = current;
                }
            }
            Phase::Done(_) => who.uncollected += 1,
            _ => who.addressed += 1,
        }
    }
    let lanes = queues.into_iter().enumerate().map(|(queue, [ready, delayed])| Lane {
        queue: (queue < table.queues).then_some(queue),
        name: match segment.queue_name(queue) {
            _ if queue == table.queues => String::new(),
            name => printable(&name),
        },
        ready,
        delayed,
    });
    (tasks, lanes.collect(), suspects)
}

fn current(segment: &Segment, names: &Names, index: u16, word: Task, d: &Descriptor) -> Current {
    let clock = &segment.table().clock;
    let run = d.run_of(word);
    let began = run.map_or(0, |run| run.began.load(Relaxed));
    let total = run.and_then(|run| run.total.load(Relaxed).checked_sub(1));
    Current {
        descriptor: index.into(),
        generation: word.generation(),
        task: names.name(d.kind.load(Relaxed)),
        attempt: u32::from(word.attempt()) + 1,
        running_ns: (began != 0).then(|| clock.ns_seen(clock.now().saturating_sub(began))),
        progress: total.map(|total| Progress { done: d.done.load(Relaxed), total }),
        depth: run.map_or(0, |run| Place::of(run.place.load(Relaxed)).depth),
    }
}

fn suspect(names: &Names, descriptor: usize, word: Task, phase: Phase, d: &Descriptor) -> Option<Suspect> {
    let blame = Blame::of(d.blame.load(Relaxed));
    if blame.deaths == 0 && !blame.is_suspect {
        return None;
    }
    let rules = Rules::of(d.rules.load(Relaxed));
    let has_failed = matches!(phase, Phase::Done(Outcome::WorkerDied | Outcome::TimedOut));
    Some(Suspect {
        descriptor,
        generation: word.generation(),
        task: names.name(d.kind.load(Relaxed)),
        state: match phase {
            Phase::Delayed => "delayed",
            Phase::Claimed => "running",
            Phase::Done(Outcome::Completed) => "completed",
            Phase::Done(Outcome::Cancelled) => "cancelled",
            Phase::Done(Outcome::Expired) => "expired",
            Phase::Done(Outcome::WorkerDied) => "worker died",
            Phase::Done(Outcome::AddresseeDied) => "addressee died",
            Phase::Done(Outcome::TimedOut) => "timed out",
            Phase::Ready | Phase::Free | Phase::Reserved => "ready",
        },
        deaths: blame.deaths,
        max_deaths: if rules.max_deaths == u8::MAX { 0 } else { rules.max_deaths },
        is_poison: has_failed && rules.is_poison(blame.deaths),
        is_suspect: blame.is_suspect,
    })
}

fn times(segment: &Segment) -> Times {
    let mut times = Times { waits: [0; 64], runs: [0; 64], rate: segment.table().clock.ns_seen(1 << 32) };
    for id in 0..segment.table().participants.len() {
        let Some(record) = segment.record(id as u16) else { continue };
        for (sum, words) in [(&mut times.waits, &record.times().waits), (&mut times.runs, &record.times().runs)] {
            sum.iter_mut().zip(words).for_each(|(sum, word)| *sum = sum.saturating_add(word.load(Relaxed)));
        }
    }
    times
}

fn counts(segment: &Segment, names: &Names) -> Vec<TaskCount> {
    let mut sums: BTreeMap<Option<u32>, Count> = BTreeMap::new();
    // The first is the coordinator's, which has names in their place.
    for record in (1..segment.table().participants.len()).filter_map(|id| segment.record(id as u16)) {
        for n in record.counts().read() {
            let sum = sums.entry(n.kind).or_default();
            // Damage is no panic.
            sum.completed = sum.completed.wrapping_add(n.completed);
            sum.failed = sum.failed.wrapping_add(n.failed);
            sum.cancelled = sum.cancelled.wrapping_add(n.cancelled);
            sum.retried = sum.retried.wrapping_add(n.retried);
            sum.waited = sum.waited.wrapping_add(n.waited);
            sum.ran = sum.ran.wrapping_add(n.ran);
        }
    }
    let told = |(kind, n): (Option<u32>, Count)| TaskCount {
        task: kind.map_or_else(|| "(other)".to_owned(), |kind| printable(&names.name(kind))),
        completed: n.completed,
        failed: n.failed,
        cancelled: n.cancelled,
        retried: n.retried,
        waited: n.waited,
        ran: n.ran,
    };
    let mut counts: Vec<_> = sums.into_iter().map(told).collect();
    counts.sort_by(|a, b| a.task.cmp(&b.task));
    counts
}

/// What one that had this role is called.
pub(super) fn label_of(segment: &Segment, participants: &[Participant], role: u32) -> String {
    if role == GUEST {
        return "attached".to_owned();
    }
    // Its successor has the label too; the coordinator and who has made the pool have roles that say nothing.
    let is_it = |p: &&Participant| {
        segment.table().participants[p.id].role.load(Relaxed) == role
            && !matches!(&p.label[..], "coordinator" | "program")
    };
    participants.iter().find(is_it).map_or_else(|| format!("process {role}"), |p| p.label.clone())
}

pub(super) fn deaths(segment: &Segment, participants: &[Participant]) -> Vec<Death> {
    let endings = segment.record(0).map(|record| record.endings()).unwrap_or_default();
    let death = |Ending { pid, role, exit, requeued, failed, at_ms }: Ending| Death {
        label: label_of(segment, participants, role),
        pid,
        exit: Exit::unpack(exit).to_string(),
        was_overdue: exit & OVERDUE != 0,
        requeued,
        failed,
        at_ms,
    };
    endings.into_iter().map(death).collect()
}

fn given_up(segment: &Segment, names: &Names) -> Vec<GivenUp> {
    let losses = segment.record(0).map(|record| record.losses()).unwrap_or_default();
    let given_up = |Loss { kind, deaths, is_poison, pid, exit, at_ms }: Loss| GivenUp {
        task: names.name(kind),
        deaths,
        is_poison,
        pid,
        exit: Exit::unpack(exit).to_string(),
        was_overdue: exit & OVERDUE != 0,
        at_ms,
    };
    losses.into_iter().map(given_up).collect()
}

fn blocks(segment: &Segment) -> Blocks {
    let blocks = &segment.table().blocks;
    let committed = (0..blocks.words.len()).filter(|&i| blocks.is_committed(i));
    let committed_bytes: usize = committed.filter_map(|i| blocks.size(i)).sum();
    let bytes: usize = blocks.classes.iter().map(|c| c.size as usize * c.count as usize).sum();
    let mut first = 0;
    let mut sizes = Vec::new();
    for class in blocks.classes.iter().filter(|c| c.count > 0) {
        let words = &blocks.words[first..first + class.count as usize];
        first += class.count as usize;
        let mut size = BlockSize { bytes: class.size.into(), free: 0, held: 0, attached: 0, damaged: 0 };
        for word in words {
            *match Block::of(word.load(Acquire)) {
                Some(Block::Free) => &mut size.free,
                Some(Block::Held(_)) => &mut size.held,
                Some(Block::Attached { .. }) => &mut size.attached,
                None => &mut size.damaged,
            } += 1;
        }
        sizes.push(size);
    }
    Blocks { committed_bytes: committed_bytes as u64, bytes: bytes as u64, sizes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(counts: &[(usize, u64)]) -> Distribution {
        let mut distribution = [0; 64];
        counts.iter().for_each(|&(bucket, n)| distribution[bucket] = n);
        distribution
    }

    #[test]
    fn percentiles_lie_within_their_buckets() {
        let told = |counts: &[(usize, u64)]| percentiles(&of(counts), |ticks| ticks as u64);
        assert_eq!(told(&[]), None);
        let one = told(&[(0, 1)]).unwrap();
        assert_eq!((one.count, one.p50_ns, one.max_ns), (1, 1, 2));
        let many = told(&[(4, 50), (10, 49), (20, 1)]).unwrap();
        assert_eq!((many.count, many.p50_ns, many.max_ns), (100, 32, 1 << 21));
        assert!((1 << 10..1 << 11).contains(&many.p90_ns) && many.p99_ns == 1 << 11, "{many:?}");
        let damaged = told(&[(0, u64::MAX), (63, u64::MAX)]).unwrap();
        assert_eq!((damaged.count, damaged.max_ns), (u64::MAX, u64::MAX));
    }

    #[test]
    fn what_came_since_is_the_difference() {
        let times = |n| Times { waits: of(&[(3, n)]), runs: of(&[(5, 2 * n)]), rate: 1 << 32 };
        let since = times(7).since(&times(4)).latency().unwrap();
        assert_eq!((since.wait.count, since.run.count, since.run.max_ns), (3, 6, 64));
        assert!(times(4).since(&times(4)).latency().is_none());
        assert!(times(1).since(&times(4)).latency().is_none(), "damage is no panic");
    }
}
