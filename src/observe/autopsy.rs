//! What the participants of a pool did last, and how those ended that are dead: all that `shmworker autopsy` shows.
//!
//! Of those that write on, an event may be missing that was half written just then.

use super::{
    find::Found,
    sample::{Death, Names, Participant, deaths, label_of, mode_of, participants},
};
use crate::{
    lockfree::{
        descriptor::Descriptor,
        participant::Name,
        table::{Table, TaskId},
        trail::{self, Left, What},
        word::Phase,
    },
    mem::segment::Segment,
    sync::{Acquire, Relaxed, fence},
};
use serde::Serialize;

/// The trails of a pool.
#[derive(Debug, Serialize)]
pub(crate) struct Autopsy {
    pub(crate) pool: Pool,
    /// Who died comes first, the last death before all others; then who lives.
    pub(crate) participants: Vec<Trace>,
    /// Deaths of those whose trails are gone, since others have had their places; or who left none.
    pub(crate) other_deaths: Vec<Death>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Pool {
    /// As in `inspect`.
    pub(crate) mode: &'static str,
    pub(crate) runs: bool,
    /// The newest of all events and deaths: nanoseconds since the pool was made.
    pub(crate) newest_ns: u64,
}

/// What somebody did last.
#[derive(Debug, Serialize)]
pub(crate) struct Trace {
    pub(crate) id: u16,
    pub(crate) incarnation: u64,
    /// "live", "dead", or "lost": it was alive when the last was seen of its pool.
    pub(crate) state: &'static str,
    pub(crate) label: String,
    pub(crate) pid: u32,
    /// `None`: it lives, or nobody was left to notice its end.
    pub(crate) death: Option<Death>,
    /// Events that were half written when it died, or are just now.
    pub(crate) torn: usize,
    /// The oldest first.
    pub(crate) events: Vec<Event>,
}

/// Times are nanoseconds since the pool was made, without those in which it was stopped. `None`: nobody took it.
#[derive(Debug, Serialize)]
pub(crate) struct Event {
    /// Which of all events of this process that have ended or are sleeps, from 0. `None`: it runs, or its process died over it and
    /// nobody has seen to that yet.
    pub(crate) sequence: Option<u64>,
    pub(crate) began_ns: Option<u64>,
    pub(crate) ended_ns: Option<u64>,
    /// `None`: it had not ended.
    pub(crate) end: Option<&'static str>,
    #[serde(flatten)]
    pub(crate) what: Kind,
}

#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(crate) enum Kind {
    Attempt {
        task: String,
        descriptor: u16,
        generation: u64,
        /// From 1.
        attempt: u32,
        /// The last sign of life.
        heartbeat_ns: Option<u64>,
        /// Its thread got a fatal signal.
        got_fatal_signal: bool,
    },
    Sleep {},
}

impl Event {
    /// When the last was heard of it.
    fn last_ns(&self) -> Option<u64> {
        let heartbeat = match self.what {
            Kind::Attempt { heartbeat_ns, .. } => heartbeat_ns,
            Kind::Sleep {} => None,
        };
        self.ended_ns.max(heartbeat).max(self.began_ns)
    }
}

impl Autopsy {
    pub(crate) fn of(found: &Found) -> Autopsy {
        let (segment, runs) = (&found.segment, found.runs);
        let known = participants(segment, runs);
        let (names, mut deaths) = (Names::of(segment), deaths(segment, &known));
        let mut traces = Vec::new();
        for participant in &known {
            let left = segment.trail(participant.id as u16).map(trail::Trail::read).unwrap_or_default();
            for left in left {
                let trace = trace(segment, &names, &known, participant, left, &mut deaths, runs);
                // Of who submits only, there is nothing to tell.
                traces.extend(trace.filter(|t| !t.events.is_empty() || t.torn > 0 || t.death.is_some()));
            }
        }
        let rank = |t: &Trace| (t.state == "live", t.death.as_ref().map_or(u64::MAX, |d| u64::MAX - d.at_ms), t.id);
        traces.sort_by_key(rank);
        let events = traces.iter().flat_map(|t| &t.events).filter_map(Event::last_ns).max();
        let at = traces.iter().filter_map(|t| t.death.as_ref()).map(|d| d.at_ms.saturating_mul(1_000_000)).max();
        let pool = Pool { mode: mode_of(segment), runs, newest_ns: events.max(at).unwrap_or(0) };
        Autopsy { pool, participants: traces, other_deaths: deaths }
    }
}

/// `None`: damage. Takes its death out of `deaths`.
fn trace(
    segment: &Segment,
    names: &Names,
    known: &[Participant],
    participant: &Participant,
    Left { name, pid, role, fault, events, torn }: Left,
    deaths: &mut Vec<Death>,
    runs: bool,
) -> Option<Trace> {
    let is_last = name.incarnation() == participant.incarnation;
    if usize::from(name.id()) != participant.id || name.incarnation() > participant.incarnation {
        return None;
    }
    let label = if is_last { participant.label.clone() } else { label_of(segment, known, role) };
    let death = deaths.iter().position(|death| death.pid == pid && death.label == label);
    let state = match () {
        () if !is_last || participant.state != "live" => "dead",
        () if runs => "live",
        () => "lost",
    };
    let death = death.filter(|_| state == "dead").map(|place| deaths.remove(place));
    let mut events: Vec<_> = events.into_iter().map(|event| told(segment.table(), names, event, fault)).collect();
    if is_last {
        events.extend(unfinished(segment.table(), name).map(|event| {
            let event = told(segment.table(), names, event, fault);
            Event { sequence: None, ..event }
        }));
    }
    Some(Trace { id: name.id(), incarnation: name.incarnation(), state, label, pid, death, torn, events })
}

/// What a participant runs, in the order in which that began.
fn unfinished(table: &Table<'_>, name: Name) -> impl Iterator<Item = trail::Event> {
    let event = |(index, d): (u16, &Descriptor)| {
        let word = table.load(index);
        let run = d.run_of(word).filter(|run| run.claimant() == name && word.is(Phase::Claimed))?;
        let (task, kind) = (TaskId { index, generation: word.generation() }, d.kind.load(Relaxed));
        let (began, heartbeat) = (run.began.load(Relaxed), d.heartbeat.load(Relaxed));
        fence(Acquire);
        // Its fields are another's by now, if the word has changed.
        let what = What::Attempt { task, kind, attempt: word.attempt() };
        (table.load(index) == word).then_some(trail::Event { sequence: 0, what, began, ended: None, heartbeat })
    };
    let mut events: Vec<_> = (0..).zip(table.descriptors).filter_map(event).collect();
    events.sort_by_key(|event| event.began);
    events.into_iter()
}

fn told(table: &Table<'_>, names: &Names, event: trail::Event, fault: u64) -> Event {
    let trail::Event { sequence, what, began, ended, heartbeat } = event;
    let clock = &table.clock;
    let of_pool = |time: u64| (time != 0).then(|| time.saturating_sub(clock.origin.ns));
    let of_clock = |stamp: u64| (stamp != 0).then(|| clock.ns_seen(stamp.saturating_sub(clock.origin.ticks)));
    let at = |stamp| if what == What::Sleep { of_pool(stamp) } else { of_clock(stamp) };
    Event {
        sequence: Some(sequence),
        began_ns: at(began),
        ended_ns: ended.and_then(|(_, stamp)| at(stamp)),
        end: ended.map(|(end, _)| match end {
            trail::End::Completed => "completed",
            trail::End::Failed => "failed",
            trail::End::Cancelled => "cancelled",
            trail::End::Retried => "to be retried",
            trail::End::HandedBack => "handed back",
            trail::End::Woken => "woken",
        }),
        what: match what {
            What::Sleep => Kind::Sleep {},
            What::Attempt { task, kind, attempt } => Kind::Attempt {
                task: names.name(kind),
                descriptor: task.index,
                generation: task.generation,
                attempt: u32::from(attempt) + 1,
                heartbeat_ns: of_pool(heartbeat),
                got_fatal_signal: fault == task.note(),
            },
        },
    }
}
