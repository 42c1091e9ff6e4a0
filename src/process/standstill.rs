//! What of an attempt's time its process could not use: it was stopped, or it waited for a CPU. That counts against no limit, since
//! the worker is not to blame; what it spends asleep, or waiting for a device or a lock, counts.
//!
//! The kernel keeps how long a thread has waited for a CPU (`/proc/PID/schedstat`), but not how long it was stopped, so an attempt
//! that takes long is looked at [`LOOKS`] times within its limit: who is found stopped had nothing of the time since the look
//! before. What lies before the first look is known only of who is stopped then. A look that comes late, by more than there is to be
//! between two, says that whoever looks could not either: what it is late by counts for nobody. Both may be the same time, as where a
//! cgroup has used up its quota, and no time is excused twice. Of a child that is stopped the kernel
//! says when it goes on, by SIGCHLD, so that nobody looks until then. The thread that is looked at is the
//! process's first: where an attempt runs on another one, its waits for a CPU are not seen.

use crate::lockfree::{
    descriptor::{LOOKS, Span},
    participant::Name,
    table::TaskId,
    timer::{Excused, NEVER},
};
use nix::unistd::Pid;
use procfs::process::Process;
use std::collections::HashMap;

/// The attempts that take long.
#[derive(Default)]
pub(crate) struct Standstills {
    watched: HashMap<(Name, TaskId, Span), Watched>,
    /// Those that no look has met since the last but one are over.
    round: u64,
}

struct Watched {
    round: u64,
    so_far: SoFar,
    excused: Excused,
    /// It is stopped, and there will be a signal when it isn't any more.
    is_at_rest: bool,
}

impl Standstills {
    /// What of this span, until `now`, is not to count, and when to look again. `pid`: of `who`, if it is known.
    pub(crate) fn excuse(&mut self, who: Name, task: TaskId, span: Span, now: u64, pid: Option<Pid>) -> Excused {
        let step = span.ns / LOOKS;
        let first = span.from.saturating_add(step);
        if now < first {
            return Excused { ns: 0, look_at: first };
        }
        let (round, key) = (self.round, (who, task, span));
        // Looks that are due for others come in between, and each sample is two files to be read.
        if let Some(Watched { round: met, excused, .. }) = self.watched.get_mut(&key)
            && now < excused.look_at.min(span.end().saturating_add(excused.ns))
        {
            *met = round;
            return *excused;
        }
        let Some(sample) = pid.and_then(Sample::of) else { return Excused { ns: 0, look_at: NEVER } };
        let first = || SoFar::new(span.from, now, &sample);
        let none = Excused { ns: 0, look_at: NEVER };
        let new = || Watched { round, so_far: first(), excused: none, is_at_rest: false };
        let watched = self.watched.entry(key).or_insert_with(new);
        watched.round = round;
        let ns = watched.so_far.add(now, step, &sample, watched.is_at_rest);
        watched.is_at_rest = sample.is_stopped_child;
        watched.excused = match watched.is_at_rest {
            true => Excused { ns: NEVER, look_at: NEVER },
            false => Excused { ns, look_at: now.saturating_add(step.max(1)) },
        };
        watched.excused
    }

    /// A child may have gone on: those that were stopped are looked at.
    pub(crate) fn look_again(&mut self) {
        self.watched.values_mut().filter(|watched| watched.is_at_rest).for_each(|watched| watched.excused.look_at = 0);
    }

    /// All attempts have been looked at.
    pub(crate) fn end_round(&mut self) {
        self.watched.retain(|_, watched| watched.round == self.round);
        self.round += 1;
    }
}

/// What the kernel says of a thread.
#[derive(Clone, Copy)]
struct Sample {
    state: char,
    /// Nanoseconds on a CPU, and waiting for one. The latter is added as it gets one.
    ran: u64,
    waited: u64,
    /// By a signal, and of this process. (Who traces it can let it go on unheard.)
    is_stopped_child: bool,
}

impl Sample {
    fn of(pid: Pid) -> Option<Sample> {
        let process = Process::new(pid.as_raw()).ok()?;
        let schedule = process.schedstat().ok()?;
        let stat = process.stat().ok()?;
        let is_stopped_child = stat.state == 'T' && stat.ppid == Pid::this().as_raw();
        Some(Sample { state: stat.state, ran: schedule.sum_exec_runtime, waited: schedule.run_delay, is_stopped_child })
    }

    fn is_stopped(&self) -> bool {
        matches!(self.state, 'T' | 't')
    }

    fn is_runnable(&self) -> bool {
        self.state == 'R'
    }
}

/// A look that is late by less says nothing, however short the limit: so long it may take to wake and to look at others.
const PROMPT: u64 = 4_000_000;

/// What was seen of one thread since an attempt began.
struct SoFar {
    /// What is excused until `content_at`.
    settled: u64,
    /// When it was last known not to be waiting for a CPU, and what the kernel said then.
    content_at: u64,
    then: Sample,
    /// Since that: as it was stopped, or looks were late.
    lost: u64,
    looked_at: u64,
}

impl SoFar {
    fn new(from: u64, now: u64, first: &Sample) -> SoFar {
        SoFar { settled: 0, content_at: now, then: *first, lost: 0, looked_at: from }
    }

    /// How much it could not use until now. `step`: what is to lie between two looks. `was_at_rest`: it was stopped until now, or until
    /// the signal of which this look comes.
    fn add(&mut self, now: u64, step: u64, sample: &Sample, was_at_rest: bool) -> u64 {
        let since = now.saturating_sub(self.looked_at);
        let step = step.max(PROMPT);
        let late = since.saturating_sub(step);
        let is_first = now == self.content_at;
        if sample.is_stopped() || was_at_rest {
            self.lost += since;
        } else if late > step {
            self.lost += late;
        }
        self.looked_at = now;
        let unseen = now.saturating_sub(self.content_at);
        if sample.is_runnable() && sample.ran == self.then.ran && !is_first {
            // It has waited all along, as far as anybody knows.
            return self.settled + unseen.max(self.lost);
        }
        let waited = sample.waited.saturating_sub(self.then.waited).min(unseen);
        self.settled += waited.max(self.lost);
        (self.content_at, self.then, self.lost) = (now, *sample, 0);
        self.settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn sample(state: char, ran: u64, waited: u64) -> Sample {
        Sample { state, ran, waited, is_stopped_child: false }
    }

    /// Looks of a second each at a thread that began with the first of them; what is excused at each.
    fn excused(samples: &[(char, u64, u64)]) -> Vec<u64> {
        let samples: Vec<_> = samples.iter().map(|&(state, ran, waited)| sample(state, ran, waited)).collect();
        let mut so_far = SoFar::new(0, SECOND, &samples[0]);
        (1..).zip(&samples).map(|(i, sample)| so_far.add(i * SECOND, SECOND, sample, false)).collect()
    }

    #[test]
    fn who_runs_or_sleeps_has_no_excuse() {
        assert_eq!(excused(&[('R', 5, 7), ('R', 6, 7), ('R', 7, 7)]), [0; 3]);
        assert_eq!(excused(&[('S', 5, 7), ('S', 5, 7), ('D', 5, 7)]), [0; 3]);
    }

    #[test]
    fn who_is_stopped_is_excused_for_that_long() {
        let all_along = [('T', 0, 0), ('T', 0, 0), ('t', 0, 0)];
        assert_eq!(excused(&all_along), [SECOND, 2 * SECOND, 3 * SECOND]);
        let for_a_while = [('R', 1, 0), ('T', 1, 0), ('R', 1, 0), ('R', 2, 0), ('S', 2, 0)];
        assert_eq!(excused(&for_a_while), [0, SECOND, 2 * SECOND, SECOND, SECOND], "until it runs, it waits for that");
    }

    #[test]
    fn who_waits_for_a_cpu_is_excused_for_that_long() {
        assert_eq!(excused(&[('R', 1, 7), ('R', 1, 7), ('R', 1, 7)]), [0, SECOND, 2 * SECOND], "and has none yet");
        let gets_one = [('R', 1, 7), ('R', 1, 7), ('R', 2, 7 + SECOND), ('R', 3, 7 + SECOND)];
        assert_eq!(excused(&gets_one), [0, SECOND, SECOND, SECOND], "the kernel has counted it by then");
    }

    #[test]
    fn what_a_look_is_late_by_counts_for_nobody() {
        let sample = sample('S', 1, 0);
        let mut so_far = SoFar::new(0, 20 * SECOND, &sample);
        assert_eq!(so_far.add(20 * SECOND, SECOND, &sample, false), 19 * SECOND, "the first of them");
        assert_eq!(
            so_far.add(22 * SECOND, SECOND, &sample, false),
            19 * SECOND,
            "late by less than there is between two"
        );
        assert_eq!(so_far.add(32 * SECOND, SECOND, &sample, false), 28 * SECOND);
    }

    #[test]
    fn no_time_is_excused_twice() {
        // Neither the one nor the other had a CPU.
        let mut so_far = SoFar::new(0, SECOND, &sample('R', 1, 0));
        assert_eq!(so_far.add(SECOND, SECOND, &sample('R', 1, 0), false), 0);
        assert_eq!(so_far.add(11 * SECOND, SECOND, &sample('R', 2, 9 * SECOND), false), 9 * SECOND);
        assert_eq!(so_far.add(12 * SECOND, SECOND, &sample('R', 3, 9 * SECOND), false), 9 * SECOND);
        // It waits still as it is looked at, and has ever since.
        assert_eq!(so_far.add(22 * SECOND, SECOND, &sample('R', 3, 9 * SECOND), false), 19 * SECOND);
        assert_eq!(so_far.add(23 * SECOND, SECOND, &sample('R', 4, 20 * SECOND), false), 20 * SECOND);
    }

    #[test]
    fn however_short_the_limit_a_look_is_not_late_at_once() {
        let sample = sample('S', 1, 0);
        let mut so_far = SoFar::new(0, PROMPT, &sample);
        assert_eq!(so_far.add(PROMPT, PROMPT / 100, &sample, false), 0);
        assert_eq!(so_far.add(2 * PROMPT, PROMPT / 100, &sample, false), 0);
        assert_eq!(so_far.add(12 * PROMPT, PROMPT / 100, &sample, false), 9 * PROMPT);
    }

    #[test]
    fn a_child_that_is_stopped_is_not_looked_at_until_it_may_have_gone_on() {
        use nix::sys::{
            signal::{Signal, kill},
            wait::{Id, WaitPidFlag, waitid},
        };
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        let mut standstills = Standstills::default();
        let (who, task) = (Name::new(1, 1), TaskId { index: 0, generation: 1 });
        let span = Span { from: 0, ns: LOOKS * 10 };
        kill(pid, Signal::SIGSTOP).unwrap();
        waitid(Id::Pid(pid), WaitPidFlag::WSTOPPED).unwrap();
        let never = Excused { ns: NEVER, look_at: NEVER };
        assert_eq!(standstills.excuse(who, task, span, 10, Some(pid)), never);
        standstills.look_again();
        assert_eq!(standstills.excuse(who, task, span, 50, Some(pid)), never, "it was another");
        kill(pid, Signal::SIGCONT).unwrap();
        waitid(Id::Pid(pid), WaitPidFlag::WCONTINUED).unwrap();
        assert_eq!(standstills.excuse(who, task, span, 1000, Some(pid)), never, "nobody has said so");
        standstills.look_again();
        let excused = standstills.excuse(who, task, span, 1000, Some(pid));
        assert!(excused.ns >= 1000 && excused.look_at == 1010, "{excused:?}");
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn an_attempt_is_looked_at_in_steps_of_its_limit_until_it_is_over() {
        let mut standstills = Standstills::default();
        let (who, task) = (Name::new(1, 1), TaskId { index: 0, generation: 1 });
        let span = Span { from: 100, ns: LOOKS * 10 };
        let me = Some(Pid::this());
        assert_eq!(standstills.excuse(who, task, span, 109, me), Excused { ns: 0, look_at: 110 });
        assert!(standstills.watched.is_empty());
        let excused = standstills.excuse(who, task, span, 115, me);
        assert_eq!(excused.look_at, 125);
        assert_eq!(standstills.excuse(who, task, span, 124, None), excused, "not looked at before that");
        assert_eq!(standstills.excuse(who, task, span, 125, me).look_at, 135);
        standstills.end_round();
        assert_eq!(standstills.watched.len(), 1);
        standstills.end_round();
        assert!(standstills.watched.is_empty(), "no look met it");
        assert_eq!(standstills.excuse(who, task, span, 115, None), Excused { ns: 0, look_at: NEVER });
    }
}
