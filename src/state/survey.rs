//! What a state consists of, read without changing it: the segment in its file, the journals beside it, and what would become of
//! each task at the next start.

use super::{
    journal::{self, Contents, How, JournalError, Terms},
    lines::{Ended, Stage, Task, Text},
};
use crate::{
    SegmentOpenError,
    lockfree::{
        descriptor::{Backoff, Descriptor, Limits, MS, OF_NAME, Payload, Rules},
        participant::Name,
        table::Owned,
        word::{Member, Phase, Task as Word},
    },
    mem::{backing, segment::Segment},
    sync::{Acquire, Inline, Relaxed, fence},
};
use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// What is known of a state.
pub(crate) struct Survey {
    /// `None`: there is no such file.
    pub(crate) segment: Option<Result<Segment, SegmentOpenError>>,
    /// It was used in this run of the machine, and is what counts.
    pub(crate) is_of_this_boot: bool,
    /// In the order of their paths; those of no client that can be read are errors.
    pub(crate) journals: Vec<(PathBuf, Result<Contents, JournalError>)>,
    /// What is wrong with the segment, or between it and a journal.
    pub(crate) faults: Vec<String>,
    /// Those between it and a journal.
    pub(crate) contradictions: Vec<String>,
    /// The tasks of durable clients that are not over.
    pub(crate) tasks: Vec<(Task, Fate)>,
    /// Tasks of others, which go with them.
    pub(crate) dropped: usize,
    /// Segment and journals don't belong together.
    is_mixed: bool,
}

/// What the next start does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It goes on with the segment.
    GoesOn,
    /// It makes a segment from the journals.
    Rebuilds,
    /// It refuses, until somebody sets the segment aside: then the journals make another.
    RefusesSegment,
    /// It refuses.
    Refuses,
}

/// What becomes of a task at the next start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// It waits, and goes on waiting.
    Waits,
    /// It runs: its worker lives.
    Runs,
    /// It ran: it has used up an attempt, and is begun again while one is left.
    Again,
    /// Its result waits to be taken.
    Delivered,
    /// It is in the journal alone: it is submitted anew.
    Submitted,
}

/// A task in the segment, beside what its journal is to say of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed<'p> {
    pub(crate) index: u16,
    /// By which its client's journal knows it; 0: it is in none.
    pub(crate) number: u64,
    pub(crate) phase: Phase,
    pub(crate) kind: u32,
    pub(crate) input: &'p [u8],
}

/// What stands in a segment's task words, and can't be so by the journal of their client. That a task is in the journal alone is no
/// such thing: its client may have died before it was READY.
pub(crate) fn contradictions(journal: &Contents, tasks: &[Placed<'_>]) -> Vec<String> {
    let mut found = Vec::new();
    let mut seen = HashMap::new();
    for &Placed { index, number, phase, kind, input } in tasks.iter().filter(|task| task.number != 0) {
        let mut say = |what: &str| {
            found.push(format!("descriptor {index}: {phase:?}, task {number} of client '{}', {what}", journal.client));
        };
        if let Some(other) = seen.insert(number, index) {
            say(&format!("which is in descriptor {other} as well"));
        }
        match journal.open.get(&number) {
            // The record comes before the descriptor is free.
            None if journal.done.contains(number) && matches!(phase, Phase::Done(_)) => {}
            None if journal.done.contains(number) => say("which is done and delivered by its journal"),
            None => say("of which its journal knows nothing"),
            Some(open) if open.terms.kind != kind => {
                say(&format!("is of kind {kind:#x}, and was accepted as one of kind {:#x}", open.terms.kind))
            }
            Some(open) if open.input != input => say("has another input than was accepted"),
            Some(_) => {}
        }
    }
    found
}

/// Looks at the state in this file. Nothing is changed, and nobody is waited for; of a pool that runs it is a moment's.
///
/// # Errors
/// There is neither a segment nor a journal, or the directory can't be read.
pub(crate) fn survey(state: &Path) -> Result<Survey, io::Error> {
    let segment = match Segment::open(state, false) {
        Err(SegmentOpenError::Os { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
        opened => Some(opened),
    };
    let paths = journal::all_of(state).map_err(|e| match e {
        JournalError::Os { source, .. } => source,
        e => io::Error::other(e),
    })?;
    if segment.is_none() && paths.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let journals: Vec<_> = paths.into_iter().map(|path| (path.clone(), journal::read(&path))).collect();
    let is_of_this_boot = match &segment {
        Some(Ok(segment)) => is_of_this_boot(segment.header().identity.boot),
        _ => false,
    };
    let mut survey = Survey {
        segment: None,
        is_of_this_boot,
        journals,
        faults: Vec::new(),
        contradictions: Vec::new(),
        tasks: Vec::new(),
        dropped: 0,
        is_mixed: false,
    };
    let mut placed = BTreeMap::new();
    if let Some(Ok(segment)) = &segment {
        survey.look_at(segment, &mut placed);
    }
    survey.segment = segment;
    survey.compare(placed);
    Ok(survey)
}

/// Is this the boot id of this run of the machine?
pub(crate) fn is_of_this_boot(boot: u64) -> bool {
    boot != 0 && boot == backing::boot()
}

/// By client.
type ByClient = BTreeMap<String, Vec<(Task, Fate, OwnedPlace)>>;

struct OwnedPlace {
    index: u16,
    phase: Phase,
    kind: u32,
    input: Vec<u8>,
}

impl Survey {
    /// Will the next start go on with the segment?
    pub(crate) fn goes_on(&self) -> bool {
        self.is_of_this_boot && matches!(self.segment, Some(Ok(_))) && self.faults.is_empty()
    }

    /// Are there journals to make it from, all of which can be read?
    pub(crate) fn can_be_rebuilt(&self) -> bool {
        !self.journals.is_empty() && !self.is_mixed && self.journals.iter().all(|(_, read)| read.is_ok())
    }

    pub(crate) fn next(&self) -> Next {
        match &self.segment {
            _ if self.goes_on() => Next::GoesOn,
            _ if !self.can_be_rebuilt() => Next::Refuses,
            None => Next::Rebuilds,
            Some(Ok(_)) if !self.is_of_this_boot => Next::Rebuilds,
            Some(_) => Next::RefusesSegment,
        }
    }

    /// Tasks that are done and delivered, by client.
    pub(crate) fn finished(&self) -> impl Iterator<Item = (String, Vec<(u64, u64)>)> {
        let read = self.journals.iter().filter_map(|(_, read)| read.as_ref().ok());
        read.map(|contents| (contents.client.clone(), contents.done.ranges().collect()))
    }

    fn look_at(&mut self, segment: &Segment, placed: &mut ByClient) {
        let table = segment.table();
        self.faults.extend(table.audit_live().violations.iter().map(ToString::to_string));
        let read = self.journals.iter().filter_map(|(_, read)| read.as_ref().ok());
        let mut names: HashMap<u32, String> = read.flat_map(|contents| contents.tasks.clone()).collect();
        names.extend(segment.record(0).map(|record| record.task_names()).unwrap_or_default());
        let clock = Clock { unix_ms: unix_ms(), now: table.now() };
        for (index, d) in (0..).zip(table.descriptors) {
            let word = table.load(index);
            // What can't be is the audit's to tell.
            let Some((word, phase)) = as_after_a_crash(word, d) else { continue };
            if phase == Phase::Free || phase == Phase::Reserved {
                continue;
            }
            let Some(client) = client_of(segment, Name::of(d.submitter.load(Relaxed))) else {
                self.dropped += 1;
                continue;
            };
            let (stage, fate) = match phase {
                Phase::Claimed if is_run(segment, word) => (Stage::Running, Fate::Runs),
                Phase::Claimed => (Stage::Running, Fate::Again),
                Phase::Delayed => (Stage::Delayed, Fate::Waits),
                Phase::Done(_) => (Stage::Done, Fate::Delivered),
                _ => (Stage::Ready, Fate::Waits),
            };
            let owned = Owned { index, word };
            let mut read = |payload: u64, inline: &Inline<{ crate::lockfree::descriptor::INLINE }>| match bytes(
                segment,
                owned,
                Payload(payload),
                inline,
            ) {
                Ok(bytes) => bytes,
                Err(e) => {
                    self.faults.push(e.to_string());
                    Vec::new()
                }
            };
            let input = read(d.input.load(Relaxed), &d.input_bytes);
            let ended = match phase {
                Phase::Done(outcome) => {
                    let status = d.run_of(word).map_or(0, |run| run.status.load(Relaxed));
                    let output = read(d.output.load(Relaxed), &d.output_bytes);
                    Some(Ended { outcome: outcome.into(), status, output: Text::of(&output) })
                }
                _ => None,
            };
            let terms = terms(d, &clock);
            let name = names.get(&(terms.kind & OF_NAME)).map(String::as_str);
            let number = d.number.load(Relaxed);
            let task = Task {
                key: d.key(),
                state: stage,
                attempts: word.attempt() + u8::from(matches!(phase, Phase::Claimed | Phase::Done(_))),
                ended,
                ..Task::by_terms(client.clone(), number, name, terms, &input)
            };
            fence(Acquire);
            // One that has moved on meanwhile is told of as what it is by the next look.
            if table.load(index).generation() == word.generation() {
                let place = OwnedPlace { index, phase, kind: terms.kind, input };
                placed.entry(client).or_default().push((task, fate, place));
            }
        }
    }

    /// Brings the two together.
    fn compare(&mut self, placed: ByClient) {
        let has_segment = matches!(self.segment, Some(Ok(_)));
        let mut faults = Vec::new();
        for (path, contents) in &self.journals {
            let Ok(contents) = contents else { continue };
            let tasks = placed.get(&contents.client).map_or(&[][..], Vec::as_slice);
            if let Some(Ok(segment)) = &self.segment {
                let id = segment.header().identity.id;
                if id != contents.state {
                    let e = JournalError::AnotherState { path: path.clone(), found: contents.state, expected: id };
                    faults.push(e.to_string());
                    self.is_mixed = true;
                    continue;
                }
                if self.is_of_this_boot {
                    let tasks: Vec<_> = tasks
                        .iter()
                        .map(|(task, _, place)| Placed {
                            index: place.index,
                            number: task.number,
                            phase: place.phase,
                            kind: place.kind,
                            input: &place.input,
                        })
                        .collect();
                    faults.extend(contradictions(contents, &tasks));
                }
            }
        }
        self.faults.extend(faults.clone());
        self.contradictions = faults;
        let goes_on = self.is_of_this_boot && has_segment && self.faults.is_empty();
        let from_segment = goes_on || !self.can_be_rebuilt();
        let mut there: HashMap<&str, Vec<u64>> = HashMap::new();
        if from_segment {
            for (client, tasks) in &placed {
                there.insert(client, tasks.iter().map(|(task, ..)| task.number).collect());
            }
        } else {
            self.dropped = 0;
        }
        let mut tasks = Vec::new();
        for contents in self.journals.iter().filter_map(|(_, read)| read.as_ref().ok()) {
            let is_there = |number| there.get(&*contents.client).is_some_and(|there| there.contains(&number));
            for (&number, open) in contents.open.iter().filter(|(number, _)| !is_there(**number)) {
                let fate = if open.ended.is_some() { Fate::Delivered } else { Fate::Submitted };
                tasks.push((Task::of(contents, number, open), fate));
            }
        }
        if from_segment {
            tasks.extend(placed.into_values().flatten().map(|(task, fate, _)| (task, fate)));
        }
        tasks.sort_by(|(a, _), (b, _)| (&a.client, a.number).cmp(&(&b.client, b.number)));
        // A task that no journal knows has the next number that is free.
        let mut last: HashMap<String, u64> = HashMap::new();
        for contents in self.journals.iter().filter_map(|(_, read)| read.as_ref().ok()) {
            last.insert(contents.client.clone(), contents.next_number().saturating_sub(1));
        }
        for (task, _) in &mut tasks {
            let last = last.entry(task.client.clone()).or_default();
            if task.number == 0 {
                *last = last.saturating_add(1);
                task.number = *last;
            }
        }
        self.tasks = tasks;
    }
}

/// A task word as recovery leaves it, and its phase. `None`: it is damaged.
fn as_after_a_crash(word: Word, d: &Descriptor) -> Option<(Word, Phase)> {
    let word = d.noted(word).unwrap_or(word);
    Some((word, word.phase()?))
}

/// Does the worker live that has claimed this?
fn is_run(segment: &Segment, word: Word) -> bool {
    let participant = segment.table().participants.get(usize::from(word.who()));
    match participant.map(|p| p.member(word.who().into())) {
        Some(Ok(Member::Live(n))) => segment.has_worker(Name::new(word.who(), n)).unwrap_or(false),
        _ => false,
    }
}

/// The durable client of this name in the segment.
fn client_of(segment: &Segment, name: Name) -> Option<String> {
    let participant = segment.table().participants.get(usize::from(name.id()))?;
    match participant.member(name.id().into()) {
        Ok(Member::Live(n)) if n == name.incarnation() => participant.seat_of(),
        _ => None,
    }
}

/// A copy of a payload.
fn bytes<const N: usize>(
    segment: &Segment,
    task: Owned,
    payload: Payload,
    inline: &Inline<N>,
) -> Result<Vec<u8>, crate::Corrupted> {
    let (start, len) = segment.locate(task, payload, inline)?;
    let mut copy = vec![0; len];
    // SAFETY: `locate` says that the bytes lie in the segment, which is mapped, and `copy` has room for them. They may be written
    // meanwhile, if its pool runs: then what was read is of no use, and whoever reads it looks at the word again.
    unsafe { std::ptr::copy_nonoverlapping(start.cast_const(), copy.as_mut_ptr(), len) };
    Ok(copy)
}

/// What time it is, for people and for the pool.
struct Clock {
    unix_ms: u64,
    now: u64,
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX))
}

fn terms(d: &Descriptor, clock: &Clock) -> Terms {
    let (limits, backoff) = (Limits::of(d.limits.load(Relaxed)), Backoff::of(d.backoff.load(Relaxed)));
    let rules = Rules::of(d.rules.load(Relaxed));
    let expires = d.expires.load(Relaxed);
    Terms {
        kind: d.kind.load(Relaxed),
        queue: u16::try_from(d.lane.load(Relaxed)).unwrap_or(0),
        // None at all is damage, of which the audit tells.
        max_attempts: u8::try_from(d.max_attempts.load(Relaxed)).unwrap_or(u8::MAX).max(1),
        expires_at_ms: match expires {
            0 => 0,
            // What was to begin by now is over, whatever the clocks say.
            at => (clock.unix_ms + at.saturating_sub(clock.now) / MS).max(1),
        },
        run_ms: limits.run_ms,
        silence_ms: limits.silence_ms,
        timeout_ms: rules.timeout_ms,
        first_pause_ms: backoff.first_ms,
        longest_pause_ms: backoff.longest_ms,
        retry_on: rules.retry_on,
        max_deaths: rules.max_deaths,
    }
}

impl From<&Ended> for How {
    fn from(ended: &Ended) -> How {
        How { end: ended.outcome, status: ended.status, attempts: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Outcome,
        state::journal::{Numbers, Open},
    };

    #[test]
    fn what_a_journal_says_of_a_task_word_holds_or_is_told() {
        let terms = Terms {
            kind: 7,
            queue: 0,
            max_attempts: 1,
            expires_at_ms: 0,
            run_ms: 0,
            silence_ms: 0,
            timeout_ms: 0,
            first_pause_ms: 0,
            longest_pause_ms: 0,
            retry_on: 0,
            max_deaths: 0,
        };
        let open = |input: &[u8]| Open { key: None, terms, input: input.to_vec(), ended: None };
        let mut done = Numbers::default();
        done.insert(1, 9);
        let mut contents = Contents::empty(1, "main".into());
        (contents.open, contents.done) = (BTreeMap::from([(10, open(b"ten")), (11, open(b"eleven"))]), done);
        let task = |number, phase, input| Placed { index: number as u16, number, phase, kind: 7, input };
        let completed = Phase::Done(Outcome::Completed);
        let sound = [
            task(10, Phase::Claimed, b"ten"),
            task(11, completed, b"eleven"),
            task(9, completed, b""),
            task(0, Phase::Ready, b""),
        ];
        assert_eq!(contradictions(&contents, &sound), Vec::<String>::new());
        for (wrong, why) in [
            (task(9, Phase::Ready, b""), "which is done and delivered by its journal"),
            (task(9, Phase::Claimed, b""), "which is done and delivered by its journal"),
            (task(12, Phase::Ready, b""), "of which its journal knows nothing"),
            (task(10, Phase::Ready, b"Ten"), "has another input than was accepted"),
            (
                Placed { kind: 8, ..task(10, Phase::Ready, b"ten") },
                "is of kind 0x8, and was accepted as one of kind 0x7",
            ),
        ] {
            let found = contradictions(&contents, &[wrong]);
            assert!(matches!(&found[..], [only] if only.ends_with(why)), "{found:?}");
        }
        let twice = [task(10, Phase::Ready, b"ten"), Placed { index: 3, ..task(10, completed, b"ten") }];
        assert!(contradictions(&contents, &twice)[0].ends_with("which is in descriptor 10 as well"));
    }
}
