//! What the coordinator does because time goes by: it moves tasks whose time has come, names those that have run out of
//! it, and wakes another where a wake was not answered. At rest none of these has a time, and it sleeps without end.

use super::standstill::Standstills;
use crate::{
    error::Corrupted,
    lockfree::{
        participant::Name,
        table::{Cursors, Table, TaskId},
        timer::{Looks, NEVER},
    },
    sync::Acquire,
};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

/// How long a woken worker has to take up its work before another is woken in its place.
const ANSWER: Duration = Duration::from_millis(10);
/// Who wakes so much later than it wanted was stopped, or its machine was; so were the others, and nobody is to blame.
const STANDSTILL: Duration = Duration::from_secs(1);

/// After the start of a new pool.
const FIRST_LOOK: Duration = Duration::from_millis(100);

/// The coordinator's times.
pub(crate) struct Clock {
    /// Pool time of the next tick.
    next: u64,
    /// When to look whether wakes were answered.
    look_at: Option<Instant>,
    looks: Looks,
    standstills: Standstills,
    /// When the sleep that was begun last was to end.
    planned: Option<Instant>,
}

impl Clock {
    /// The first [`turn`](Self::turn) is due at once.
    pub(crate) fn new() -> Clock {
        Clock { next: 0, look_at: None, looks: Looks::default(), standstills: Standstills::default(), planned: None }
    }

    /// True: the first turn is to look at all tasks. In a new segment there are none, and whoever submits one with a time rings; the look,
    /// for which the kernel has yet to clear each page, is done once the start is over, so that no death waits for it.
    pub(crate) fn begins(&mut self, table: &Table<'_>) -> bool {
        // Acquire: whoever has seen NEVER and set a time has rung, and the bell keeps that until the first sleep ends.
        let is_new = table.alarm.armed.load(Acquire) == NEVER;
        self.next = if is_new { table.now() + FIRST_LOOK.as_nanos() as u64 } else { 0 };
        !is_new
    }

    /// How long the coordinator may sleep; `before`: the end of a sleep that is due for another reason. `None`: without end.
    pub(crate) fn sleep(&mut self, table: &Table<'_>, before: Option<Instant>) -> Option<Duration> {
        let now = Instant::now();
        let tick = (self.next != NEVER).then(|| now + Duration::from_nanos(self.next.saturating_sub(table.now())));
        self.planned = [tick, self.look_at, before].into_iter().flatten().min();
        self.planned.map(|at| at.saturating_duration_since(now))
    }

    /// After each sleep: notices a standstill, which counts for nobody.
    pub(crate) fn has_slept(&mut self, table: &Table<'_>) {
        if let Some(late) = self.planned.take().and_then(|at| Instant::now().checked_duration_since(at))
            && late > STANDSTILL
        {
            table.was_stopped(late.as_nanos() as u64);
        }
    }

    /// A child of this process may have gone on that was stopped: the next [`turn`](Self::turn) is to be for that.
    pub(crate) fn look_again(&mut self) {
        self.standstills.look_again();
    }

    /// Does what is due, and returns the tasks that have run out of time with those who run them. `is_news`: the bell rang for it,
    /// or a death was settled. `pid_of`: who that is among the processes, which has not been reaped.
    ///
    /// # Errors
    /// [`Corrupted`] if a word is damaged.
    pub(crate) fn turn(
        &mut self,
        table: &Table<'_>,
        cursors: &Cursors,
        is_news: bool,
        pid_of: impl Fn(Name) -> Option<Pid>,
    ) -> Result<Vec<(Name, TaskId)>, Corrupted> {
        let mut late = Vec::new();
        if is_news || self.next <= table.now() {
            let excuse = |who, task, span, now| self.standstills.excuse(who, task, span, now, pid_of(who));
            let tick = table.tick_with(cursors, excuse)?;
            self.standstills.end_round();
            self.next = tick.next;
            late = tick.late;
        }
        if self.look_at.is_some_and(|at| at <= Instant::now()) {
            self.look_at = table.look(cursors, &mut self.looks).then(|| Instant::now() + ANSWER);
        }
        // After the look, which has lowered the word: what is up by now was raised since, and gets a look of its own.
        // And after each sleep, rung for or not: who has raised it rings until it is said here that it was seen.
        if table.is_watched() {
            self.look_at.get_or_insert_with(|| Instant::now() + ANSWER);
        }
        Ok(late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::{
        endpoint::{Submission, To},
        tests::Pool,
    };
    use crate::lockfree::table::Waits;

    #[test]
    fn a_standstill_counts_for_nobody() {
        let pool = Pool::new(1);
        let table = pool.segment.table();
        let mut clock = Clock::new();
        clock.next = NEVER;
        assert_eq!(clock.sleep(table, None), None, "at rest nothing is due");
        let hour = Duration::from_secs(3600);
        clock.planned = Instant::now().checked_sub(hour);
        let before = table.now();
        clock.has_slept(table);
        assert!(table.now() + hour.as_nanos() as u64 <= before + STANDSTILL.as_nanos() as u64);
        clock.planned = Some(Instant::now());
        let before = table.now();
        clock.has_slept(table);
        assert!(table.now() >= before);
    }

    #[test]
    fn where_a_woken_worker_does_not_come_another_is_woken() {
        let pool = Pool::new(1);
        let table = pool.segment.table();
        let (client, stopped, other) = (pool.endpoint(), pool.endpoint(), pool.endpoint());
        let cursors = Cursors::new(table);
        let mut clock = Clock::new();
        assert!(clock.turn(table, &cursors, false, |_| None).unwrap().is_empty());
        let queues = [client.queue(0)];
        let asleep = || table.sleepers(0).count();
        // Its last look is as far as it came: whoever is chosen here does not run.
        stopped.park_for(Waits { queues: &queues, ..Waits::default() }, None, || {
            other.park_for(Waits { queues: &queues, ..Waits::default() }, None, || {
                client.try_submit(Submission::new(To::Queue(0)), b"").unwrap();
                assert_eq!(asleep(), 1, "one of two is woken");
                clock.turn(table, &cursors, true, |_| None).unwrap();
                assert!(clock.sleep(table, None).is_some_and(|t| t <= ANSWER));
                while asleep() != 0 {
                    clock.turn(table, &cursors, false, |_| None).unwrap();
                }
                true
            });
            true
        });
        // Nobody sleeps any more, so there is nobody to wake, and no time to do so.
        while clock.look_at.is_some() {
            clock.turn(table, &cursors, false, |_| None).unwrap();
        }
        drop(other.claim(queues[0]).unwrap().expect("the task"));
        drop(client.take().unwrap());
        pool.assert_clean();
    }
}
