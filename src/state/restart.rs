//! A start that may find a former life: the file, whose it is, what stands in it, and who goes on with it.
//!
//! # Steps
//!
//! 1. The file is opened, never a link to one; it is this user's, and nobody else may write to it.
//! 2. Its lock is taken ([`crate::mem::backing`]): whoever has it leads, and nobody else can before it and its coordinator are dead. It is
//!    waited for as long as those may take who are on their way to their end, by mode and grace in the header.
//!    A file that is empty, or whose maker died over it, is made a segment.
//! 3. Its identity is checked: magic, version, geometry, size, and that it is of this run of the machine. Another's is not trusted
//!    ([`super::rebuild`]).
//! 4. What stands in it is audited, and compared with what the pool is to be: queues, tasks, workers.
//! 5. Of those who were in it workers may live, which wait for another coordinator ([`crate::process::orphan`]). What programs of jobs have
//!    left behind whose workers are dead is ended ([`crate::process::leftovers`]).
//! 6. The others are marked as dead, and the seats of clients of which nothing is left are given back. A new participant settles what
//!    they left, but for what is kept for durable clients ([`crate::lockfree::recovery`]), and leaves in their trails what they ran; then it,
//!    or the next one, is the coordinator, which has the lowest id.
//! 7. The seat of this client is taken, or made. Its tasks get new tags.
//!
//! Up to 4 nothing is changed. From there on each step may be made again, by whoever takes the lock next after a kill: a
//! participant that has died over it is one of those whom its successor settles, and tags count once somebody serves the pool.
//!
//! # Words
//!
//! None of its own. It writes as a coordinator does while it has the lock: whatever any other page says of who writes a word holds from
//! when the coordinator is forked. Workers that live write what is theirs.

use super::{
    journal::{self, Contents, Journal, JournalError, SyncWhen},
    rebuild::rebuild,
};
use crate::{
    error::Corrupted,
    lockfree::{
        audit::Audit,
        descriptor::OF_NAME,
        participant::{LONGEST_SEAT, Name},
        recovery::Settled,
        table::{Cursors, Table, TaskId},
        word::{Member, Phase},
    },
    mem::{
        backing::{self, Backing, is_pool_name},
        layout::{Geometry, MAGIC, VERSION},
        segment::{Options, Segment, SegmentCreateError, SegmentOpenError},
    },
    process::{Mode, exit::Exit, leftovers, orphan, spawn, step},
    sync::{Relaxed, Release},
};
use nix::unistd::Pid;
use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long a start waits for a lock that those have whom somebody has just killed; for a pool that is ending, beyond the time that it has
/// for that itself.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(5);

/// Why a state file could not be used. It is left as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// It could not be made, or is not to be had: in use, another's, a link, no space.
    #[error(transparent)]
    Create(#[from] SegmentCreateError),
    /// It is none, or not one that this version knows, or damaged.
    #[error("cannot go on with '{}': {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SegmentOpenError,
    },
    /// The machine was started anew since then.
    #[error(
        "the machine was started anew since '{}' was used, nobody knows which of its pages had reached the disk, and there is no \
         journal beside it: it is not gone on with. Move it away to begin anew; 'shmworker inspect' shows what stands in it",
        path.display()
    )]
    AnotherBoot {
        /// The file.
        path: PathBuf,
    },
    /// What stands in it is not to be trusted, and can't be set aside.
    #[error("cannot set '{}' aside, which was used before the machine was started anew: {source}", path.display())]
    Rename {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// What stands in it contradicts itself.
    #[error("'{}' is damaged: {audit}. Move it away to begin anew", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        audit: Box<Audit>,
    },
    /// A word in it is damaged.
    #[error("'{}' is damaged: {source}. Move it away to begin anew", path.display())]
    Corrupted {
        /// The file.
        path: PathBuf,
        /// Which.
        source: Corrupted,
    },
    /// It was made for other queues.
    #[error(
        "'{}' has the queues {found}, not {wanted}: give the pool the same, in the same order, or name another file",
        path.display()
    )]
    Queues {
        /// The file.
        path: PathBuf,
        /// Those of the file.
        found: String,
        /// Those of the pool.
        wanted: String,
    },
    /// It was made for fewer workers.
    #[error("'{}' has room for {room} workers, not for {wanted}: start fewer, or name another file", path.display())]
    Workers {
        /// The file.
        path: PathBuf,
        /// So many.
        room: usize,
        /// How many were wanted.
        wanted: usize,
    },
    /// Clients that have tasks in it take the places of all.
    #[error(
        "'{}' has no room for the client '{client}': {} others have tasks in it, {}: have one of them take its results \
         (Builder::client, Pool::adopted), start fewer workers, or name another file",
        path.display(), others.len(), few(others)
    )]
    Clients {
        /// The file.
        path: PathBuf,
        /// The name that was to be had.
        client: String,
        /// The names of the others.
        others: Vec<String>,
    },
    /// Tasks wait in it that this program does not have.
    #[error(
        "{tasks} tasks wait in '{}' for {name}, which this program does not have: start it with the program that has \
         them, or name another file",
        path.display()
    )]
    Tasks {
        /// The file.
        path: PathBuf,
        /// How many.
        tasks: usize,
        /// What they are called, if that is known.
        name: String,
    },
    /// A worker of it lives that can't be watched from here.
    #[error(
        "a worker of '{}' is left (pid {pid}) that is not to be seen from here: it is in another PID namespace, or has left processes \
         behind that still have its files. End them, or start the pool where they are",
        path.display()
    )]
    Unreachable {
        /// The file.
        path: PathBuf,
        /// What it has said of itself; 0: nothing.
        pid: u32,
    },
    /// A journal beside it can't be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// No client can have this name.
    #[error("invalid client name '{0}': use 1 to {LONGEST_SEAT} letters, digits, '.', '_' and '-'")]
    ClientName(String),
}

/// Some of these names, for people.
fn few(names: &[String]) -> String {
    const FEW: usize = 5;
    match names.get(..FEW) {
        Some(few) if names.len() > FEW => format!("{} and {} more", few.join(", "), names.len() - FEW),
        _ => names.join(", "),
    }
}

/// What a pool is to be like that goes on with a file, or begins one.
pub(crate) struct Wanted<'w> {
    pub(crate) path: &'w Path,
    /// The name of its client.
    pub(crate) client: &'w str,
    /// Of a new one, with so many participants at least for so many workers.
    pub(crate) options: Options,
    pub(crate) participants: usize,
    /// How many workers it begins with, and how many others than these a table of so many participants has to have room for.
    pub(crate) workers: usize,
    pub(crate) others: usize,
    /// Hears what is waited for.
    pub(crate) say: fn(&str),
    /// Is there a task with this `kind`? `None`: it isn't known which there are.
    pub(crate) has_task: Option<&'w dyn Fn(u32) -> bool>,
}

/// A client's place in a segment.
pub(crate) struct Client {
    pub(crate) name: Name,
    /// Its tasks of former lives that have not been released, by the order of their tags, from 0.
    pub(crate) adopted: Vec<TaskId>,
}

/// A segment that nobody else has, with its coordinator and client admitted.
pub(crate) struct Opened {
    pub(crate) segment: Segment,
    pub(crate) coordinator: Name,
    pub(crate) client: Client,
    /// What became of what those left who had it before; `None`: there was nobody.
    pub(crate) settled: Option<Settled>,
}

/// Goes on with what the file holds, or begins it.
///
/// # Errors
/// [`StateError`].
pub(crate) fn open(wanted: Wanted<'_>) -> Result<Opened, StateError> {
    let Wanted { path, client, .. } = wanted;
    if client.len() > LONGEST_SEAT || !is_pool_name(client) {
        return Err(StateError::ClientName(client.to_owned()));
    }
    let id = journal::state_of(path)?;
    let (mut file, mut bytes) = take(path, wanted.say)?;
    if bytes > 0 && is_of_another_boot(&file) {
        rebuild(path, id)?;
        (file, bytes) = take(path, wanted.say)?;
    }
    if bytes == 0 {
        let options = Options { backing: Backing::File(path.to_owned()), id, ..wanted.options.clone() };
        let geometry = Geometry::new(wanted.participants, options.queues.len());
        let segment = Segment::create_in(Some(file), geometry, &options)?;
        let corrupted = |source| StateError::Corrupted { path: path.to_owned(), source };
        let admit = |pid| {
            let name = segment.table().admit(pid, 0).map_err(corrupted)?;
            name.ok_or(StateError::Create(SegmentCreateError::Geometry))
        };
        let (coordinator, name) = (admit(0)?, admit(std::process::id())?);
        segment.table().participants[usize::from(name.id())].keep_for(client);
        let client = Client { name, adopted: Vec::new() };
        return Ok(Opened { segment, coordinator, client, settled: None });
    }
    let open = |source| StateError::Open { path: path.to_owned(), source };
    let segment = Segment::attach(OwnedFd::from(file), true).map_err(open)?;
    let expected = segment.header().identity.id;
    if let Some(found) = id.filter(|&found| found != expected) {
        let path = journal::path_of(path, client);
        return Err(JournalError::AnotherState { path, found, expected }.into());
    }
    let former = Former { path, segment: &segment };
    step("locked");
    former.check(&wanted)?;
    let living = former.living()?;
    step("checked");
    // Before what they are parts of is begun again.
    let left = leftovers::end(expected, &former.processes(&living));
    if left > 0 {
        (wanted.say)(&format!(
            "'{}': {left} processes were left of jobs whose pool was killed, and are ended",
            path.display()
        ));
    }
    let (coordinator, client, settled) = former.take_over(client, &living)?;
    Ok(Opened { segment, coordinator, client, settled: Some(settled) })
}

/// The journal of a client of the state of this id, or a new one. Those who were killed with it may take a moment to go.
///
/// # Errors
/// [`StateError::Journal`].
pub(crate) fn open_journal(
    path: &Path,
    id: u64,
    client: &str,
    sync: SyncWhen,
) -> Result<(Journal, Contents), StateError> {
    let until = Instant::now() + PATIENCE;
    loop {
        match Journal::open(path, client, sync) {
            Err(JournalError::InUse { .. }) if Instant::now() < until => std::thread::sleep(LOOK),
            Err(JournalError::Os { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                drop(Journal::create(path, id, client, sync)?);
            }
            Ok((_, contents)) if contents.state != id => {
                let path = journal::path_of(path, client);
                return Err(JournalError::AnotherState { path, found: contents.state, expected: id }.into());
            }
            opened => return Ok(opened?),
        }
    }
}

/// Gives the tasks of this client, who has not begun, tags from 0 on: those of its former lives that have not been released.
pub(crate) fn adopt(table: &Table<'_>, client: Name) -> Vec<TaskId> {
    let mut adopted = Vec::new();
    for (index, d) in (0..).zip(table.descriptors) {
        let word = table.load(index);
        // What is FREE names nobody. What is RESERVED is another's, whoever had the descriptor before.
        if !word.is(Phase::Free) && !word.is(Phase::Reserved) && Name::of(d.submitter.load(Relaxed)) == client {
            d.tag.store(adopted.len() as u64, Relaxed);
            adopted.push(TaskId { index, generation: word.generation() });
        }
    }
    adopted
}

/// The file, locked, and its size. Those who were killed with it may take a moment to go, and those who end in order as long as their pool
/// gives them.
fn take(path: &Path, say: fn(&str)) -> Result<(std::fs::File, u64), SegmentCreateError> {
    let (mut seen, mut since) = (Mode::Running, Instant::now());
    loop {
        let creator = match backing::take_state(path) {
            Err(SegmentCreateError::InUse { creator, .. }) => creator,
            taken => return taken,
        };
        let (mode, grace) = backing::read_end(path).map_or((Mode::Running, 0), |(mode, ms)| (Mode::from(mode), ms));
        let is_ending = mode != Mode::Running;
        let patience = PATIENCE + if is_ending { Duration::from_millis(grace) } else { Duration::ZERO };
        if mode > seen {
            // Each step has its time.
            since = Instant::now();
            if seen == Mode::Running {
                say(&format!(
                    "'{}' belongs to a pool that ends{creator}: waiting for its processes to end, for {} s at most",
                    path.display(),
                    patience.as_secs()
                ));
            }
            seen = mode;
        }
        if since.elapsed() >= patience {
            return Err(SegmentCreateError::InUse { path: path.to_owned(), creator });
        }
        std::thread::sleep(LOOK);
    }
}

/// Is this a segment, and not one of this run of the machine?
fn is_of_another_boot(file: &std::fs::File) -> bool {
    // Anything else is found out, and told, where it is opened.
    backing::read_identity(file)
        .is_ok_and(|i| i.magic == MAGIC && i.version == VERSION && (i.boot == 0 || i.boot != backing::boot()))
}

/// A segment that was somebody's.
struct Former<'f> {
    path: &'f Path,
    segment: &'f Segment,
}

impl Former<'_> {
    fn table(&self) -> &Table<'_> {
        self.segment.table()
    }

    fn corrupted(&self, source: Corrupted) -> StateError {
        StateError::Corrupted { path: self.path.to_owned(), source }
    }

    /// Is it sound, and does it fit? Changes nothing.
    fn check(&self, wanted: &Wanted<'_>) -> Result<(), StateError> {
        let path = || self.path.to_owned();
        self.is_sound(self.table().audit_live())?;
        let found = self.segment.queue_names();
        if found != wanted.options.queues {
            let (found, wanted) = (found.join(", "), wanted.options.queues.join(", "));
            return Err(StateError::Queues { path: path(), found, wanted });
        }
        let participants = self.table().participants.len();
        let room = crate::process::coordinator::processes_for(participants).saturating_sub(wanted.others);
        if wanted.workers > room {
            return Err(StateError::Workers { path: path(), room, wanted: wanted.workers });
        }
        // Of whom nothing is left, the place is free.
        let mut others = self.clients_with_tasks()?;
        others.retain(|other| other != wanted.client);
        if others.len() + 1 + wanted.others + wanted.workers > participants {
            return Err(StateError::Clients { path: path(), client: wanted.client.to_owned(), others });
        }
        let Some(has_task) = wanted.has_task else { return Ok(()) };
        let mut missing = BTreeMap::<u32, usize>::new();
        for (index, d) in (0..).zip(self.table().descriptors) {
            let word = self.table().load(index);
            let waits = [Phase::Ready, Phase::Claimed, Phase::Delayed].into_iter().any(|phase| word.is(phase));
            let kind = d.kind.load(Relaxed) & OF_NAME;
            if waits && !has_task(kind) {
                *missing.entry(kind).or_default() += 1;
            }
        }
        let Some((kind, tasks)) = missing.pop_first() else { return Ok(()) };
        let known = self.segment.record(0).map(|record| record.task_names()).unwrap_or_default();
        let name = known.into_iter().find(|(known, _)| *known == kind);
        let name = name.map_or("a task without a name".to_owned(), |(_, name)| format!("'{name}'"));
        Err(StateError::Tasks { path: path(), tasks, name })
    }

    fn is_sound(&self, audit: Audit) -> Result<(), StateError> {
        match audit.violations.is_empty() {
            true => Ok(()),
            false => Err(StateError::Damaged { path: self.path.to_owned(), audit: Box::new(audit) }),
        }
    }

    /// The workers that live. Whoever is about to end, or to say which process it is, has a moment for that.
    fn living(&self) -> Result<Vec<Name>, StateError> {
        let os = |source: std::io::Error| {
            let source = SegmentOpenError::Os { step: "look who has", source };
            StateError::Open { path: self.path.to_owned(), source }
        };
        let until = Instant::now() + PATIENCE;
        let mut living = Vec::new();
        for (id, p) in self.table().participants.iter().enumerate() {
            let Member::Live(n) = p.member(id).map_err(|e| self.corrupted(e))? else { continue };
            let name = Name::new(id as u16, n);
            while self.segment.has_worker(name).map_err(os)? {
                let said = p.process();
                let pidfd = said.map(|(pid, born)| spawn::pidfd_of(Pid::from_raw(pid as i32), born));
                if pidfd.transpose().map_err(|e| os(e.into()))?.flatten().is_some() {
                    living.push(name);
                    break;
                }
                if Instant::now() >= until {
                    let pid = said.map_or(0, |(pid, _)| pid);
                    return Err(StateError::Unreachable { path: self.path.to_owned(), pid });
                }
                std::thread::sleep(LOOK);
            }
        }
        Ok(living)
    }

    /// The process ids of these.
    fn processes(&self, living: &[Name]) -> Vec<i32> {
        let of = |name: &Name| self.table().participants[usize::from(name.id())].process();
        living.iter().filter_map(of).map(|(pid, _)| pid as i32).collect()
    }

    /// Settles what those left who are dead: the coordinator, the client, and workers but for the living.
    fn take_over(&self, client: &str, living: &[Name]) -> Result<(Name, Client, Settled), StateError> {
        let (table, corrupted) = (self.table(), |e| self.corrupted(e));
        let cursors = Cursors::new(table);
        let admit = |pid| {
            let name = table.admit(pid, 0).map_err(corrupted)?;
            name.ok_or(StateError::Create(SegmentCreateError::Geometry))
        };
        // Nobody drains any more. Who rings or sleeps is woken below, and rings its next coordinator. Release, as whoever writes
        // them later.
        let control = &self.segment.header().control;
        if Mode::of(control) != Mode::Running {
            // Some of their threads may have ended for it.
            living.iter().for_each(|name| orphan::send_away(&table.participants[usize::from(name.id())]));
        }
        control.mode.store(Mode::Running as u32, Release);
        control.alarm.armed.store(0, Release);
        control.alarm.watched.store(0, Release);
        step("awake");
        // First of all: every place may be taken.
        table.bury_all(living).map_err(corrupted)?;
        step("buried");
        let me = admit(std::process::id())?;
        step("admitted");
        let recover_all = |me| {
            let note = |dead, task| self.segment.note_unfinished(dead, task);
            table.recover_all(&cursors, me, living, Exit::Unknown.pack(), note).map_err(corrupted)
        };
        let settled = recover_all(me)?;
        step("settled");
        // Records are told apart by it. It is the lowest, and nothing names it any more.
        let coordinator = if me.id() == 0 { me } else { admit(0)? };
        step("coordinator admitted");
        if coordinator != me {
            recover_all(coordinator)?;
        }
        if coordinator.id() != 0 {
            return Err(self.corrupted(Corrupted::new("participant of the coordinator", coordinator.id().into(), 0)));
        }
        // What kept some seats was a draft, or a result that was read.
        table.bury_all(&[living, &[coordinator]].concat()).map_err(corrupted)?;
        self.is_sound(if living.is_empty() { table.audit() } else { table.audit_live() })?;
        step("all settled");
        let name = match self.seat_of(client)? {
            Some(name) => {
                table.participants[usize::from(name.id())].take_seat(std::process::id(), 0);
                name
            }
            None => {
                let name = admit(std::process::id())?;
                table.participants[usize::from(name.id())].keep_for(client);
                name
            }
        };
        step("seat taken");
        // For people.
        if let Err(e) = self.segment.set_creator() {
            tracing::warn!("cannot note in '{}' whose it is now: {e}", self.path.display());
        }
        let client = Client { name, adopted: adopt(table, name) };
        step("tagged");
        Ok((coordinator, client, settled))
    }

    /// The seat that is kept for clients of this name.
    fn seat_of(&self, client: &str) -> Result<Option<Name>, StateError> {
        for (id, p) in self.table().participants.iter().enumerate() {
            if let Member::Live(n) = p.member(id).map_err(|e| self.corrupted(e))?
                && p.seat_of().as_deref() == Some(client)
            {
                return Ok(Some(Name::new(id as u16, n)));
            }
        }
        Ok(None)
    }

    /// The names of the clients to which tasks belong.
    fn clients_with_tasks(&self) -> Result<Vec<String>, StateError> {
        let (table, mut has_tasks) = (self.table(), vec![false; self.table().participants.len()]);
        for (index, d) in (0..).zip(table.descriptors) {
            // A draft is nobody's, a result that was being read is somebody's. A submitter without a place was found by the audit.
            let word = table.load(index);
            let is_task = if word.is(Phase::Reserved) { d.noted(word).is_some() } else { !word.is(Phase::Free) };
            if is_task && let Some(has_tasks) = has_tasks.get_mut(usize::from(Name::of(d.submitter.load(Relaxed)).id()))
            {
                *has_tasks = true;
            }
        }
        let mut names = Vec::new();
        for ((id, p), _) in table.participants.iter().enumerate().zip(has_tasks).filter(|(_, has_tasks)| *has_tasks) {
            if let Member::Live(_) = p.member(id).map_err(|e| self.corrupted(e))? {
                names.extend(p.seat_of());
            }
        }
        Ok(names)
    }
}
