//! Raw lanes: a process that takes activations and activity tasks as bytes, and answers with bytes, for the SDK of another
//! language that has Core's language boundary above it.
//!
//! # Usual flow
//!
//! [`RawLanes::invited`] or [`RawLanes::attach`] → [`hello`](RawLanes::hello) → [`next`](RawLanes::next) for each lane until it is
//! empty → [`wait`](RawLanes::wait), or `poll` on [`fd`](RawLanes::fd), → `next` … until it is closed. Meanwhile, from any thread,
//! [`complete_workflow`](RawLanes::complete_workflow), [`complete_activity`](RawLanes::complete_activity),
//! [`heartbeat`](RawLanes::heartbeat). A message and its answer know each other by run id or task token.
//!
//! # What it sees to
//!
//! - *Ownership.* A run is this process's from its first activation until its eviction has been answered here.
//! - *Another bridge.* The former one's runs are evicted and its attempts cancelled, by messages made here whose answers go nowhere;
//!   no activation of the new one is given out before the last of those evictions is answered.
//! - *Leaving.* Asked to, it takes nothing new, says so to the bridge, which evicts its runs, and once the grace is over cancels its
//!   attempts. A lane is closed when nothing of it is left here.
//! - *The end of the pool* closes the lanes whatever is left: an idle run gets no eviction then.
//! - *Time.* Core's words for what takes too long are the pool's: an activation counts from the moment in which `next` gives it out.

pub use super::Lanes;
use super::{
    ACTIVITY_QUEUE, BRIDGE_QUEUE, From, Kind, STATUS_REFUSED, WORKFLOW_QUEUE, done,
    invitation::{self, Terms},
    is_stopping, message, once, origin, refuse,
};
use crate::{
    error::Corrupted,
    exec::endpoint::{Claimed, Endpoint, ROOM, STATUS_OK, Submission, SubmitError, To},
    lockfree::{
        descriptor::retry_on,
        participant::Name,
        table::{Again, LaneId, TaskId, Waits},
    },
    process::{
        Mode,
        attach::{self, Attached},
        coordinator::Seat,
    },
    sync::Release,
};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    mem,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Notes of what this process submits.
const HELLO: u64 = 1;
const LEAVE: u64 = 2;
/// Why runs of a bridge that is gone are given up, for people.
const ANOTHER_BRIDGE: &str = "the process that speaks to the server was replaced";

/// Why a raw lane could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RawError {
    /// There is no seat for this process.
    #[error("{0}")]
    Attach(String),
    /// The pool is of a version with another protocol, or another layout of the segment.
    #[error("{0}")]
    Incompatible(String),
    /// The bridge won't have it.
    #[error("{0}")]
    Refused(String),
    /// It has said what it is before.
    #[error("a hello was said before: say it once, and keep the answer")]
    Greeted,
    /// It has not said what it is.
    #[error("no hello was said: what this process serves comes before its first message")]
    NoHello,
    /// It was invited, or has attached, to serve other lanes.
    #[error("this process does not serve that lane: ask for one that it was started for, or attached with")]
    NoSuchLane,
    /// What was given is no protobuf message with a run id or a task token.
    #[error("a message of {0} bytes has no {1} in field 1: give it as Core's own protobuf encoding has it")]
    Malformed(usize, &'static str),
    /// Nothing here is to be answered by that.
    #[error("no {0} waits for this here: it was answered before, or was never given to this process")]
    Unknown(&'static str),
    /// Nothing was accepted; there will be room.
    #[error("{0}: wait a moment, and try again")]
    Full(SubmitError),
    /// No segment takes such a message; nothing was accepted, and what it answers is still to be answered.
    #[error("{0}: answer with a failure that says so")]
    TooLarge(SubmitError),
    /// The pool has ended.
    #[error("the pool has ended: end this process")]
    Closed,
    /// Its coordinator has ended, and with it the pool.
    #[error("the coordinator of the pool has ended: end this process, or attach again once it runs")]
    CoordinatorDied,
    /// The segment is damaged.
    #[error(transparent)]
    Corrupted(#[from] Corrupted),
    /// A child of the process that attached has no seat.
    #[error("this process was forked from the one that attached: attach after the fork")]
    Forked,
    /// The kernel refused a step.
    #[error("cannot {0}: {1}")]
    Os(&'static str, std::io::Error),
}

impl std::convert::From<SubmitError> for RawError {
    fn from(e: SubmitError) -> RawError {
        match e {
            SubmitError::Corrupted(damage) => RawError::Corrupted(damage),
            SubmitError::CoordinatorDied(_) => RawError::CoordinatorDied,
            SubmitError::TooLarge { .. } => RawError::TooLarge(e),
            e => RawError::Full(e),
        }
    }
}

/// Bytes of a message, in place. They are valid until the next look into the same lane, or until the message is answered,
/// whichever is first.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// The first of them.
    pub data: *const u8,
    /// How many.
    pub len: usize,
}

impl Message {
    fn of(bytes: &[u8]) -> Message {
        Message { data: bytes.as_ptr(), len: bytes.len() }
    }
}

/// What a look into a lane finds.
#[derive(Debug)]
pub enum Next {
    /// A `WorkflowActivation`, or an `ActivityTask`.
    Message(Message),
    /// Nothing at present.
    Empty,
    /// Nothing any more.
    Closed,
}

/// How far this process is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// It serves.
    Running,
    /// The pool drains, or this process is asked to leave: answer what comes until the lanes are closed.
    ShuttingDown,
    /// The pool has ended: nothing is waited for any more.
    Stopped,
}

/// How this process came in.
enum Home {
    Invited(Seat),
    Guest(Attached),
}

impl Home {
    fn endpoint(&self) -> &Arc<Endpoint> {
        match self {
            Home::Invited(seat) => seat.endpoint,
            Home::Guest(attached) => attached.endpoint(),
        }
    }
}

/// An activation that was given out.
struct Outstanding {
    claimed: Claimed<'static>,
    /// Which of those at a time it is, from 1.
    slot: u16,
    is_eviction: bool,
}

/// How far this process is with leaving.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leave {
    /// Nobody wants it to.
    Stays,
    /// It takes nothing new, and has not told the bridge yet.
    Asked,
    /// The bridge evicts its runs.
    Told,
    /// No run of it is left in the bridge.
    Free,
}

struct State {
    is_greeted: bool,
    /// What this process is, and whether a bridge is still to be told.
    hello: Vec<u8>,
    is_to_greet: bool,
    /// What the bridge said to it.
    answer: Option<Answer>,
    /// Why nothing goes on.
    fatal: Option<String>,
    bridge: Option<Name>,
    activations: HashMap<Vec<u8>, Outstanding>,
    /// The runs that this process has.
    runs: HashSet<Vec<u8>>,
    /// Those of a bridge that is gone: to be evicted, and given out for that.
    orphans: Vec<Vec<u8>>,
    evicting: HashSet<Vec<u8>>,
    attempts: HashMap<Vec<u8>, Claimed<'static>>,
    /// Attempts that are given out once that of a former bridge with the same token has ended: Core counts its local activities
    /// from 1.
    namesakes: Vec<(Vec<u8>, Claimed<'static>)>,
    cancels: VecDeque<Vec<u8>>,
    /// Activations that came when none could be given out.
    set_aside: VecDeque<Claimed<'static>>,
    /// The last message of each lane that does not lie in the segment.
    made: [Vec<u8>; 2],
    leave: Leave,
    /// Since when, and whether its attempts were told.
    leaves_since: Option<Instant>,
    has_cancelled: bool,
    /// What each lane was last looked at in.
    seen: [Stage; 2],
}

/// What the bridge says to a hello.
enum Answer {
    Welcome(Vec<u8>),
    Refused(String),
    /// It died over it.
    None,
}

struct Inner {
    /// Dropped before `home`, in which its claims lie.
    state: Mutex<State>,
    home: Home,
    terms: Terms,
    /// Activations at a time.
    activations: AtomicUsize,
    owner: u32,
    /// Counts what changes who may be given what.
    changes: AtomicU64,
    sleepers: AtomicUsize,
    is_over: AtomicBool,
    /// Somebody wants to hear through the descriptor.
    armed: Mutex<bool>,
    arming: Condvar,
}

/// A process's end of the raw lanes. Its threads may share it.
pub struct RawLanes {
    inner: Arc<Inner>,
    watcher: OnceLock<Watcher>,
    starting: Mutex<()>,
    greeting: Mutex<()>,
}

struct Watcher {
    fd: Arc<EventFd>,
    thread: JoinHandle<()>,
}

fn index(lane: Lanes) -> usize {
    usize::from(lane == Lanes::ACTIVITIES)
}

fn send(endpoint: &Endpoint, message: &[u8], s: Submission) -> Result<TaskId, SubmitError> {
    let mut draft = endpoint.sparing_draft(message.len())?;
    draft.payload()?.copy_from_slice(message);
    Ok(draft.submit(s)?)
}

impl RawLanes {
    /// Takes the seat that `shmworker run` has for this process, which it has started.
    ///
    /// # Errors
    /// [`RawError::Attach`], [`RawError::Incompatible`].
    pub fn invited() -> Result<RawLanes, RawError> {
        let (seat, terms) = invitation::take_up().map_err(|e| match e {
            e if e.is_of_another_version() => RawError::Incompatible(e.to_string()),
            e => RawError::Attach(e.to_string()),
        })?;
        Ok(RawLanes::new(Home::Invited(seat), terms))
    }

    /// Becomes a participant of the pool with this name, for these lanes, with so many attempts at a time. Starts a thread.
    ///
    /// # Errors
    /// [`RawError::Attach`], [`RawError::Incompatible`]
    pub fn attach(name: &str, lanes: Lanes, activity_slots: u32) -> Result<RawLanes, RawError> {
        let attached = attach::attach(name).map_err(|e| match e.is_of_another_version() {
            true => RawError::Incompatible(e.to_string()),
            false => RawError::Attach(e.to_string()),
        })?;
        let segment = attached.endpoint().segment();
        let is_queue = |(i, queue): (usize, &str)| i < segment.table().queues && segment.queue_name(i) == queue;
        if !super::QUEUES.into_iter().enumerate().all(is_queue) {
            return Err(RawError::Attach(format!(
                "pool '{name}' does not serve Temporal: name one of 'shmworker run'"
            )));
        }
        Ok(RawLanes::new(Home::Guest(attached), Terms { lanes, activity_slots, grace: Duration::ZERO }))
    }

    fn new(home: Home, terms: Terms) -> RawLanes {
        let state = State {
            is_greeted: false,
            hello: Vec::new(),
            is_to_greet: false,
            answer: None,
            fatal: None,
            bridge: None,
            activations: HashMap::new(),
            runs: HashSet::new(),
            orphans: Vec::new(),
            evicting: HashSet::new(),
            attempts: HashMap::new(),
            namesakes: Vec::new(),
            cancels: VecDeque::new(),
            set_aside: VecDeque::new(),
            made: Default::default(),
            leave: Leave::Stays,
            leaves_since: None,
            has_cancelled: false,
            seen: [Stage::Running; 2],
        };
        let inner = Inner {
            state: Mutex::new(state),
            home,
            terms,
            activations: AtomicUsize::new(1),
            owner: std::process::id(),
            changes: AtomicU64::new(0),
            sleepers: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
            armed: Mutex::new(false),
            arming: Condvar::new(),
        };
        RawLanes {
            inner: Arc::new(inner),
            watcher: OnceLock::new(),
            starting: Mutex::default(),
            greeting: Mutex::default(),
        }
    }

    /// How many activations may be given out and not answered at a time: 1 unless it is said, and at least that.
    pub fn set_activations(&self, n: u32) {
        self.inner.activations.store((n as usize).clamp(1, u16::MAX.into()), SeqCst);
    }

    /// Which lanes this process is to serve.
    #[must_use]
    pub fn lanes(&self) -> Lanes {
        self.inner.terms.lanes
    }

    /// How many attempts it is given at a time.
    #[must_use]
    pub fn activity_slots(&self) -> u32 {
        self.inner.terms.activity_slots
    }

    /// Says what this process is, as JSON, and returns the namespace's limits, a `coresdk.NamespaceInfo`. Waits while the bridge is
    /// being replaced. Once in a process.
    ///
    /// # Errors
    /// [`RawError::Refused`] if it does not match the pool; [`RawError::Greeted`]; [`RawError::Closed`].
    pub fn hello(&self, config: &[u8]) -> Result<Vec<u8>, RawError> {
        let inner = &*self.inner;
        drop(inner.lock()?);
        // Of two at once one waits for what becomes of the other.
        let _alone = self.greeting.lock().unwrap_or_else(PoisonError::into_inner);
        let endpoint = inner.endpoint();
        let is_over = || inner.stage() == Stage::Stopped || inner.is_over.load(SeqCst);
        loop {
            let mut s = inner.lock()?;
            if is_over() {
                return Err(RawError::Closed);
            }
            if s.is_greeted {
                return Err(RawError::Greeted);
            }
            s.answer = None;
            match send(endpoint, config, greeting()) {
                Ok(_) => {}
                Err(e) if e.is_transient() => {
                    drop(s);
                    endpoint.wait_for_room(config.len());
                    continue;
                }
                Err(e) => return Err(e.into()),
            }
            let answer = loop {
                inner.take_results(&mut s)?;
                if let Some(answer) = s.answer.take() {
                    break answer;
                }
                if is_over() {
                    return Err(RawError::Closed);
                }
                if endpoint.is_orphaned() {
                    return Err(RawError::CoordinatorDied);
                }
                drop(s);
                // As in `sleep`: who ends this sees that somebody sleeps.
                inner.sleepers.fetch_add(1, SeqCst);
                endpoint.park(&[], None, is_over);
                inner.sleepers.fetch_sub(1, SeqCst);
                s = inner.lock()?;
            };
            match answer {
                Answer::Welcome(info) => {
                    // Before it takes anything, and not before it is one of those who do. Release: as for `Seat::ready`.
                    inner.endpoint().participant().status.store(inner.terms.lanes.status(), Release);
                    s.is_greeted = true;
                    s.hello = config.to_vec();
                    inner.has_changed();
                    return Ok(info);
                }
                Answer::Refused(why) => {
                    if let Home::Invited(seat) = &inner.home {
                        seat.unfit(&why);
                    }
                    return Err(RawError::Refused(why));
                }
                Answer::None => {}
            }
        }
    }

    /// The next message of a lane. Not for several threads at once on one lane.
    ///
    /// # Errors
    /// What ends this process: [`RawError::CoordinatorDied`], [`RawError::Refused`], [`RawError::Corrupted`]; and misuse.
    pub fn next(&self, lane: Lanes) -> Result<Next, RawError> {
        let inner = &*self.inner;
        let mut s = inner.lock()?;
        if !inner.terms.lanes.has(lane) || Lanes::WORKFLOWS != lane && Lanes::ACTIVITIES != lane {
            return Err(RawError::NoSuchLane);
        }
        if !s.is_greeted {
            return Err(RawError::NoHello);
        }
        match inner.look(&mut s, lane)? {
            Next::Empty => {}
            found => return Ok(found),
        }
        let Some(watcher) = self.watcher.get() else { return Ok(Next::Empty) };
        // Quiet first, then armed, then a last look: what comes after that is heard.
        let _ = watcher.fd.read();
        *inner.armed() = true;
        inner.arming.notify_one();
        inner.look(&mut s, lane)
    }

    /// Answers an activation with a `WorkflowActivationCompletion`.
    ///
    /// # Errors
    /// [`RawError::Full`] and [`RawError::TooLarge`]: the activation is still to be answered. [`RawError::Unknown`],
    /// [`RawError::Malformed`].
    pub fn complete_workflow(&self, completion: &[u8]) -> Result<(), RawError> {
        let inner = &*self.inner;
        let run_id = message::key(completion).ok_or(RawError::Malformed(completion.len(), "run id"))?;
        let mut s = inner.lock()?;
        if s.evicting.remove(run_id) {
            s.runs.remove(run_id);
            if s.evicting.is_empty() {
                s.set_aside.iter().for_each(|claimed| claimed.hold_clock());
            } else {
                s.set_aside.iter().for_each(watch);
            }
            inner.has_changed();
            return Ok(());
        }
        let Some((run_id, outstanding)) = s.activations.remove_entry(run_id) else {
            return Err(RawError::Unknown("activation"));
        };
        let Outstanding { claimed, slot, is_eviction } = outstanding;
        match answer(claimed, completion) {
            Ok(()) => {
                if is_eviction {
                    s.runs.remove(&run_id);
                    s.orphans.retain(|orphan| *orphan != run_id);
                }
                inner.has_changed();
                Ok(())
            }
            Err((e, claimed)) => {
                if let Some(claimed) = claimed {
                    if e.is_transient() {
                        // It waits for others, who will make room.
                        claimed.restart_clock();
                    }
                    s.activations.insert(run_id, Outstanding { claimed, slot, is_eviction });
                }
                Err(e.into())
            }
        }
    }

    /// Ends an attempt with an `ActivityTaskCompletion`.
    ///
    /// # Errors
    /// As for [`complete_workflow`](Self::complete_workflow).
    pub fn complete_activity(&self, completion: &[u8]) -> Result<(), RawError> {
        let inner = &*self.inner;
        let token = message::key(completion).ok_or(RawError::Malformed(completion.len(), "task token"))?;
        let mut s = inner.lock()?;
        let Some((token, claimed)) = s.attempts.remove_entry(token) else {
            return Err(RawError::Unknown("attempt"));
        };
        match answer(claimed, completion) {
            Ok(()) => {
                inner.has_changed();
                Ok(())
            }
            Err((e, claimed)) => {
                if let Some(claimed) = claimed {
                    s.attempts.insert(token, claimed);
                }
                Err(e.into())
            }
        }
    }

    /// Passes on an `ActivityHeartbeat`. Its details are kept for the next attempt even if this process dies before they have
    /// arrived.
    ///
    /// # Errors
    /// As for [`complete_workflow`](Self::complete_workflow); after [`RawError::Full`] the next heartbeat says as much.
    pub fn heartbeat(&self, heartbeat: &[u8]) -> Result<(), RawError> {
        let inner = &*self.inner;
        let token = message::key(heartbeat).ok_or(RawError::Malformed(heartbeat.len(), "task token"))?;
        let mut s = inner.lock()?;
        // Whoever only says something must not keep the room of what has arrived.
        inner.take_results(&mut s)?;
        let claimed = s.attempts.get(token).ok_or(RawError::Unknown("attempt"))?;
        claimed.checkpoint(heartbeat)?;
        let to = To::Participant(claimed.submitter());
        Ok(send(inner.endpoint(), heartbeat, once(to, Kind::Heartbeat, 0)).map(drop)?)
    }

    /// Asks for the eviction of a run of this process: it comes as an activation, once none is outstanding.
    ///
    /// # Errors
    /// [`RawError::Full`], [`RawError::Unknown`].
    pub fn request_eviction(&self, run_id: &[u8]) -> Result<(), RawError> {
        let inner = &*self.inner;
        let mut s = inner.lock()?;
        inner.take_results(&mut s)?; // as above
        let bridge = s.bridge.filter(|_| s.runs.contains(run_id)).ok_or(RawError::Unknown("run"))?;
        Ok(send(inner.endpoint(), run_id, once(To::Participant(bridge), Kind::RequestEviction, 0)).map(drop)?)
    }

    /// Sleeps until one of these lanes may have something new, its end included, or the time is over.
    ///
    /// # Errors
    /// [`RawError::NoSuchLane`], if it serves none of them; [`RawError::Forked`].
    pub fn wait(&self, lanes: Lanes, timeout: Option<Duration>) -> Result<(), RawError> {
        drop(self.inner.lock()?);
        // What comes in another lane it could never take: it would return at once as long as that lies there.
        let served = Lanes::of(lanes.bits() & self.inner.terms.lanes.bits()).ok_or(RawError::NoSuchLane)?;
        self.inner.sleep(served, timeout);
        Ok(())
    }

    /// Readable when a lane may have something new. A look that finds a lane empty makes it quiet again. Starts a thread, once.
    ///
    /// # Errors
    /// [`RawError::Os`].
    pub fn fd(&self) -> Result<BorrowedFd<'_>, RawError> {
        drop(self.inner.lock()?);
        let _alone = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.watcher.get().is_none() {
            let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
            let fd = EventFd::from_flags(flags).map_err(|e| RawError::Os("make an eventfd", e.into()))?;
            // So that the first poll, which may come before the first look, returns.
            let _ = fd.write(1);
            let fd = Arc::new(fd);
            let (inner, rung) = (self.inner.clone(), fd.clone());
            let thread = std::thread::Builder::new().name("lanes".into()).spawn(move || inner.watch(&rung));
            let thread = thread.map_err(|e| RawError::Os("start a thread", e))?;
            let _ = self.watcher.set(Watcher { fd, thread });
        }
        self.watcher.get().map(|watcher| watcher.fd.as_fd()).ok_or(RawError::Closed)
    }

    /// Whoever waits is to wait no more, since this is about to be dropped.
    pub fn close(&self) {
        self.inner.is_over.store(true, SeqCst);
        self.inner.has_changed();
    }

    /// How far this process is in its life. A change wakes [`wait`](Self::wait) and [`fd`](Self::fd).
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.inner.stage()
    }
}

impl Drop for RawLanes {
    fn drop(&mut self) {
        if std::process::id() != self.inner.owner {
            // The copy of a forked child: neither mapping nor threads exist here, and the seat is its parent's.
            mem::forget(self.inner.clone());
            mem::forget(self.watcher.take());
            return;
        }
        self.close();
        *self.inner.armed() = true;
        self.inner.arming.notify_one();
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.thread.join();
        }
    }
}

/// Which bridge it is for doesn't matter, nor how many of them die over it.
fn greeting() -> Submission {
    Submission { max_attempts: u8::MAX, retry_on: retry_on::DIED, ..once(To::Queue(BRIDGE_QUEUE), Kind::Hello, HELLO) }
}

/// What waits for an eviction that was made here has the time of that: nobody else would see that it is never answered.
fn watch(claimed: &Claimed<'_>) {
    claimed.restart_clock();
    claimed.start_clock();
}

/// Nobody has begun it.
fn hand_back(claimed: Claimed<'static>) -> Result<(), Corrupted> {
    claimed.give_back(Again::SameAttempt).map(drop)
}

/// Completes a task with these bytes; what is left of it otherwise.
fn answer(claimed: Claimed<'static>, bytes: &[u8]) -> Result<(), (SubmitError, Option<Claimed<'static>>)> {
    claimed.complete(STATUS_OK, bytes.len(), |room| room.copy_from_slice(bytes))
}

impl Inner {
    fn endpoint(&self) -> &'static Endpoint {
        let endpoint: *const Endpoint = &raw const **self.home.endpoint();
        // SAFETY: it lies in an Arc that `home` holds for as long as this lives. What is kept of it, the claims in `state`, is
        // dropped before that; nothing of it is handed out.
        unsafe { &*endpoint }
    }

    /// # Errors
    /// [`RawError::Forked`]: the mapping isn't there.
    fn lock(&self) -> Result<MutexGuard<'_, State>, RawError> {
        if std::process::id() != self.owner {
            return Err(RawError::Forked);
        }
        Ok(self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn armed(&self) -> MutexGuard<'_, bool> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stage(&self) -> Stage {
        let endpoint = self.endpoint();
        if is_stopping(endpoint) {
            Stage::Stopped
        } else if self.is_leaving() || Mode::of(&endpoint.segment().header().control) >= Mode::Draining {
            Stage::ShuttingDown
        } else {
            Stage::Running
        }
    }

    /// Has this process been asked to make room for another?
    fn is_leaving(&self) -> bool {
        self.endpoint().participant().leaves() != 0
    }

    /// Others may sleep on what was so before.
    fn has_changed(&self) {
        self.changes.fetch_add(1, SeqCst);
        if self.sleepers.load(SeqCst) > 0 {
            self.endpoint().wake_self();
        }
    }

    fn take_results(&self, s: &mut State) -> Result<(), RawError> {
        while let Some(finished) = self.endpoint().take()? {
            match finished.tag() {
                HELLO => {
                    let answer = match finished.status() {
                        STATUS_OK if finished.went_well() => Answer::Welcome(finished.output()?.to_vec()),
                        STATUS_REFUSED => Answer::Refused(String::from_utf8_lossy(finished.output()?).into_owned()),
                        _ => Answer::None,
                    };
                    if !s.is_greeted {
                        s.answer = Some(answer);
                    } else if let Answer::Refused(why) = answer {
                        s.fatal = Some(why);
                        self.has_changed();
                    }
                }
                // Answered, or the bridge is dead, which makes no difference: nobody has an activation for these runs.
                LEAVE => {
                    s.leave = Leave::Free;
                    self.has_changed();
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn look(&self, s: &mut State, lane: Lanes) -> Result<Next, RawError> {
        let endpoint = self.endpoint();
        s.seen[index(lane)] = self.stage();
        self.take_results(s)?;
        if let Some(why) = &s.fatal {
            return Err(RawError::Refused(why.clone()));
        }
        if endpoint.is_orphaned() {
            return Err(RawError::CoordinatorDied);
        }
        if is_stopping(endpoint) {
            return Ok(Next::Closed);
        }
        self.leave(s)?;
        if mem::take(&mut s.is_to_greet) && send(endpoint, &s.hello, greeting()).is_err() {
            s.is_to_greet = true; // a full segment; damage shows elsewhere as well
        }
        if lane == Lanes::WORKFLOWS { self.look_for_activation(s) } else { self.look_for_attempt(s) }
    }

    /// Goes on with leaving, if this process is to.
    fn leave(&self, s: &mut State) -> Result<(), RawError> {
        if s.leave == Leave::Stays && self.is_leaving() {
            s.leave = if self.terms.lanes.has(Lanes::WORKFLOWS) { Leave::Asked } else { Leave::Free };
            s.leaves_since = Some(Instant::now());
            for (_, claimed) in s.namesakes.drain(..) {
                hand_back(claimed)?;
            }
            self.has_changed();
        }
        if s.leave == Leave::Asked {
            s.leave = match s.bridge {
                None => Leave::Free,
                Some(bridge) => match send(self.endpoint(), &[], once(To::Participant(bridge), Kind::Leave, LEAVE)) {
                    Ok(_) => Leave::Told,
                    // What takes the room may be what waits for this process.
                    Err(e) if e.is_transient() => Leave::Asked,
                    Err(SubmitError::Corrupted(damage)) => return Err(damage.into()),
                    // It is dead.
                    Err(_) => Leave::Free,
                },
            };
        }
        if self.grace_left(s) == Some(Duration::ZERO) && !mem::replace(&mut s.has_cancelled, true) {
            s.cancels.extend(s.attempts.keys().map(|token| message::shutdown_cancel(token)));
            self.has_changed();
        }
        Ok(())
    }

    /// How long attempts may go on; `None`: nobody wants them to end, or they were told.
    fn grace_left(&self, s: &State) -> Option<Duration> {
        let since = s.leaves_since.filter(|_| !s.has_cancelled && !s.attempts.is_empty())?;
        Some(self.terms.grace.saturating_sub(since.elapsed()))
    }

    /// Is no activation to be given out at present?
    fn is_blocked(&self, s: &State) -> bool {
        !s.orphans.is_empty() || !s.evicting.is_empty() || s.activations.len() >= self.activations.load(SeqCst)
    }

    /// A run of a former bridge which has nothing to answer any more.
    fn orphan(s: &State) -> Option<usize> {
        s.orphans.iter().position(|run_id| !s.activations.contains_key(run_id))
    }

    fn look_for_activation(&self, s: &mut State) -> Result<Next, RawError> {
        let endpoint = self.endpoint();
        loop {
            if let Some(i) = Inner::orphan(s) {
                let run_id = s.orphans.swap_remove(i);
                s.made[0] = message::eviction(&run_id, ANOTHER_BRIDGE);
                s.evicting.insert(run_id);
                s.set_aside.iter().for_each(watch);
                return Ok(Next::Message(Message::of(&s.made[0])));
            }
            if self.is_blocked(s) {
                return Ok(Next::Empty);
            }
            let mut claimed = s.set_aside.pop_front();
            if claimed.is_none() {
                claimed = endpoint.claim(endpoint.private())?;
            }
            if claimed.is_none() && s.leave == Leave::Stays {
                claimed = endpoint.claim(endpoint.queue(WORKFLOW_QUEUE))?;
            }
            let Some(claimed) = claimed else {
                let is_over = s.leave == Leave::Free && s.activations.is_empty();
                return Ok(if is_over { Next::Closed } else { Next::Empty });
            };
            if let Some(message) = self.receive(s, claimed, Lanes::WORKFLOWS)? {
                return Ok(Next::Message(message));
            }
        }
    }

    /// An attempt whose token nobody here has any more.
    fn namesake(s: &State) -> Option<usize> {
        s.namesakes.iter().position(|(token, _)| !s.attempts.contains_key(token))
    }

    fn look_for_attempt(&self, s: &mut State) -> Result<Next, RawError> {
        let endpoint = self.endpoint();
        loop {
            if let Some(cancel) = s.cancels.pop_front() {
                s.made[1] = cancel;
                return Ok(Next::Message(Message::of(&s.made[1])));
            }
            if let Some(i) = Inner::namesake(s) {
                let (token, claimed) = s.namesakes.swap_remove(i);
                let message = Message::of(claimed.input()?);
                s.attempts.insert(token, claimed);
                return Ok(Next::Message(message));
            }
            let mut claimed = endpoint.claim(endpoint.private())?;
            if claimed.is_none() && self.has_slot(s) {
                claimed = endpoint.claim(endpoint.queue(ACTIVITY_QUEUE))?;
            }
            let Some(claimed) = claimed else {
                let is_over = s.leave != Leave::Stays && s.attempts.is_empty();
                return Ok(if is_over { Next::Closed } else { Next::Empty });
            };
            if let Some(message) = self.receive(s, claimed, Lanes::ACTIVITIES)? {
                return Ok(Next::Message(message));
            }
        }
    }

    fn has_slot(&self, s: &State) -> bool {
        let taken = s.attempts.len() + s.namesakes.len();
        s.leave == Leave::Stays && taken < self.terms.activity_slots as usize
    }

    /// Takes note of what was claimed; its bytes, if it is to be given out on this lane now.
    fn receive(&self, s: &mut State, claimed: Claimed<'static>, lane: Lanes) -> Result<Option<Message>, RawError> {
        match origin(self.endpoint(), &claimed, s.bridge)? {
            From::Same => {}
            From::Another => self.serve_another(s, claimed.submitter()),
            From::Dead => {
                refuse(claimed)?;
                return Ok(None);
            }
        }
        let kind = Kind::of(&claimed);
        let (bytes, key) = {
            let input = claimed.input()?;
            (Message::of(input), message::key(input).map(<[u8]>::to_vec))
        };
        match (kind, key) {
            (Some(Kind::Activation | Kind::Eviction), Some(run_id)) if self.terms.lanes.has(Lanes::WORKFLOWS) => {
                if lane != Lanes::WORKFLOWS || self.is_blocked(s) {
                    // It waits for others here, for as long as these take.
                    if s.evicting.is_empty() {
                        claimed.hold_clock()
                    } else {
                        watch(&claimed)
                    }
                    s.set_aside.push_back(claimed);
                    self.has_changed();
                    return Ok(None);
                }
                let is_taken = |slot: &u16| s.activations.values().any(|a| a.slot == *slot);
                let slot = (1..).find(|slot| !is_taken(slot)).unwrap_or(1);
                // Its time is counted from here.
                claimed.begin(slot, 0, 0, 0);
                claimed.start_clock();
                s.runs.insert(run_id.clone());
                let is_eviction = kind == Some(Kind::Eviction);
                s.activations.insert(run_id, Outstanding { claimed, slot, is_eviction });
                Ok(Some(bytes))
            }
            (Some(Kind::Activity), Some(token)) if lane == Lanes::ACTIVITIES && s.attempts.contains_key(&token) => {
                s.namesakes.push((token, claimed));
                Ok(None)
            }
            (Some(Kind::Activity), Some(token)) if lane == Lanes::ACTIVITIES => {
                s.attempts.insert(token, claimed);
                Ok(Some(bytes))
            }
            (Some(Kind::CancelActivity), Some(token)) => {
                if let Some(i) = s.namesakes.iter().position(|(other, _)| *other == token) {
                    hand_back(s.namesakes.swap_remove(i).1)?; // which ends it: it was asked to
                } else if s.attempts.contains_key(&token) {
                    s.cancels.push_back(claimed.input()?.to_vec());
                    self.has_changed();
                }
                done(claimed)?;
                Ok(None)
            }
            _ => {
                refuse(claimed)?;
                Ok(None)
            }
        }
    }

    /// What the former bridge knew nobody knows any more.
    fn serve_another(&self, s: &mut State, bridge: Name) {
        if s.bridge.replace(bridge).is_none() {
            return;
        }
        s.namesakes.clear(); // of a bridge that is gone
        let State { runs, evicting, orphans, .. } = s;
        orphans.clear();
        orphans.extend(runs.iter().filter(|run_id| !evicting.contains(*run_id)).cloned());
        s.cancels.extend(s.attempts.keys().map(|token| message::shutdown_cancel(token)));
        s.is_to_greet = true;
        if s.leave == Leave::Told {
            s.leave = Leave::Asked;
        }
        self.has_changed();
    }

    /// Sleeps until there may be something to be given out on these lanes.
    fn sleep(&self, lanes: Lanes, timeout: Option<Duration>) {
        let endpoint = self.endpoint();
        self.sleepers.fetch_add(1, SeqCst);
        // Whoever changes something from here on sees that somebody sleeps, and ends that.
        let changes = self.changes.load(SeqCst);
        let s = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let [workflows, activities] = [Lanes::WORKFLOWS, Lanes::ACTIVITIES].map(|lane| lanes.has(lane));
        let is_blocked = self.is_blocked(&s);
        let is_there = self.is_over.load(SeqCst)
            || workflows && (Inner::orphan(&s).is_some() || !is_blocked && !s.set_aside.is_empty())
            || activities && (!s.cancels.is_empty() || Inner::namesake(&s).is_some())
            || s.fatal.is_some();
        let mut queues: Vec<LaneId> = Vec::new();
        if workflows && !is_blocked && s.leave == Leave::Stays {
            queues.push(endpoint.queue(WORKFLOW_QUEUE));
        }
        if activities && self.has_slot(&s) {
            queues.push(endpoint.queue(ACTIVITY_QUEUE));
        }
        let own = activities || !is_blocked;
        let grace = self.grace_left(&s).filter(|_| activities);
        // Nobody says when there is room for what could not be said yet.
        let room = (s.leave == Leave::Asked || s.is_to_greet).then_some(ROOM);
        let timeout = timeout.into_iter().chain(grace).chain(room).min();
        let seen = s.seen;
        drop(s);
        let is_news = || {
            let stage = self.stage();
            workflows && seen[0] != stage || activities && seen[1] != stage || self.changes.load(SeqCst) != changes
        };
        if !is_there {
            endpoint.park_for(Waits { queues: &queues, own, room: false }, timeout, is_news);
        }
        self.sleepers.fetch_sub(1, SeqCst);
    }

    /// The thread behind the descriptor.
    fn watch(&self, fd: &EventFd) {
        loop {
            let mut armed = self.armed();
            while !*armed {
                armed = self.arming.wait(armed).unwrap_or_else(PoisonError::into_inner);
            }
            drop(armed);
            if !self.is_over.load(SeqCst) {
                self.sleep(self.terms.lanes, None);
            }
            if self.is_over.load(SeqCst) {
                return;
            }
            *self.armed() = false;
            let _ = fd.write(1); // a full counter is readable as well
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Outcome, exec::tests::Pool, lanes::QUEUES, lockfree::table::Cancel};

    /// Field 1 of a message, and a byte behind it.
    fn keyed(key: &str) -> Vec<u8> {
        let mut message = vec![0x0a, key.len() as u8];
        message.extend_from_slice(key.as_bytes());
        message.extend_from_slice(&[0x10, 7]);
        message
    }

    fn raw(pool: &Pool, grace: Duration) -> RawLanes {
        let seat = Seat::of_guest(Box::leak(Box::new(Arc::new(pool.endpoint()))), -1);
        let lanes = Lanes::of(3).unwrap();
        let raw = RawLanes::new(Home::Invited(seat), Terms { lanes, activity_slots: 2, grace });
        raw.inner.lock().unwrap().is_greeted = true;
        raw
    }

    fn submit(bridge: &Endpoint, to: To, kind: Kind, key: &str) -> TaskId {
        send(bridge, &keyed(key), once(to, kind, 0)).unwrap()
    }

    fn bytes(next: Result<Next, RawError>) -> Option<Vec<u8>> {
        match next.unwrap() {
            // SAFETY: nothing was looked for or answered since.
            Next::Message(Message { data, len }) => Some(unsafe { std::slice::from_raw_parts(data, len) }.to_vec()),
            Next::Empty => None,
            Next::Closed => panic!("closed"),
        }
    }

    fn is_closed(raw: &RawLanes, lane: Lanes) -> bool {
        matches!(raw.next(lane).unwrap(), Next::Closed)
    }

    #[test]
    fn an_activation_is_answered_once_by_who_knows_its_run() {
        let pool = Pool::new(QUEUES.len());
        let (bridge, raw) = (pool.endpoint(), raw(&pool, Duration::ZERO));
        submit(&bridge, To::Queue(WORKFLOW_QUEUE), Kind::Activation, "one");
        submit(&bridge, To::Queue(WORKFLOW_QUEUE), Kind::Activation, "two");
        assert_eq!(bytes(raw.next(Lanes::WORKFLOWS)), Some(keyed("one")));
        assert_eq!(bytes(raw.next(Lanes::WORKFLOWS)), None, "one at a time");
        assert!(matches!(raw.complete_workflow(&keyed("two")), Err(RawError::Unknown(_))));
        assert!(matches!(raw.complete_workflow(b"\x0a\x05x"), Err(RawError::Malformed(..))));
        raw.complete_workflow(b"\x0a\x03one").unwrap();
        assert!(matches!(raw.complete_workflow(&keyed("one")), Err(RawError::Unknown(_))), "it was answered");
        assert_eq!(bridge.take().unwrap().unwrap().output().unwrap(), b"\x0a\x03one");
        assert_eq!(bytes(raw.next(Lanes::WORKFLOWS)), Some(keyed("two")));
        // Dropped with the lanes: given up, and not lost.
        drop(raw);
        assert!(!bridge.take().unwrap().unwrap().went_well());
        pool.assert_clean();
    }

    #[test]
    fn what_no_segment_takes_stays_to_be_answered() {
        let pool = Pool::new(QUEUES.len());
        let (bridge, raw) = (pool.endpoint(), raw(&pool, Duration::ZERO));
        submit(&bridge, To::Queue(ACTIVITY_QUEUE), Kind::Activity, "token");
        assert_eq!(bytes(raw.next(Lanes::ACTIVITIES)), Some(keyed("token")));
        let mut large = keyed("token");
        let len = raw.inner.endpoint().segment().max_payload();
        large.push(0x1a);
        message::put_varint(&mut large, len as u64);
        large.resize(large.len() + len, 0);
        assert!(matches!(raw.complete_activity(&large), Err(RawError::TooLarge(_))));
        assert!(matches!(raw.heartbeat(&large), Err(RawError::TooLarge(_))));
        raw.complete_activity(&keyed("token")).unwrap();
        assert!(bridge.take().unwrap().unwrap().went_well());
        pool.assert_clean();
    }

    #[test]
    fn the_runs_of_a_former_bridge_are_evicted_before_the_next_one_is_served() {
        let pool = Pool::new(QUEUES.len());
        let (old, raw) = (pool.endpoint(), raw(&pool, Duration::ZERO));
        for run in ["parked", "outstanding"] {
            submit(&old, To::Queue(WORKFLOW_QUEUE), Kind::Activation, run);
            assert_eq!(bytes(raw.next(Lanes::WORKFLOWS)), Some(keyed(run)));
            if run == "parked" {
                raw.complete_workflow(&keyed(run)).unwrap();
            }
        }
        submit(&old, To::Queue(ACTIVITY_QUEUE), Kind::Activity, "token");
        assert_eq!(bytes(raw.next(Lanes::ACTIVITIES)), Some(keyed("token")));
        while old.take().unwrap().is_some() {}
        pool.bury(old.name());
        let new = pool.endpoint();
        submit(&new, To::Queue(WORKFLOW_QUEUE), Kind::Activation, "parked");
        // The SDK has not answered the former bridge yet: to no effect, but it is free for the next.
        raw.complete_workflow(&keyed("outstanding")).unwrap();
        let mut evicted = Vec::new();
        while let Some(eviction) = bytes(raw.next(Lanes::WORKFLOWS)).filter(|bytes| *bytes != keyed("parked")) {
            evicted.push(String::from_utf8(message::key(&eviction).unwrap().to_vec()).unwrap());
            if evicted.len() == 2 {
                assert_eq!(bytes(raw.next(Lanes::WORKFLOWS)), None, "before they are answered");
                evicted.iter().for_each(|run| raw.complete_workflow(&keyed(run)).unwrap());
            }
        }
        evicted.sort();
        assert_eq!(evicted, ["outstanding", "parked"]);
        assert_eq!(bytes(raw.next(Lanes::ACTIVITIES)), Some(message::shutdown_cancel(b"token")));
        raw.complete_workflow(&keyed("parked")).unwrap();
        raw.complete_activity(&keyed("token")).unwrap();
        assert!(new.take().unwrap().unwrap().went_well());
        // It is told who serves it.
        drop(new.claim(new.queue(BRIDGE_QUEUE)).unwrap().expect("a greeting"));
        raw.next(Lanes::WORKFLOWS).unwrap();
        pool.assert_clean();
    }

    #[test]
    fn an_eviction_of_a_former_bridge_that_is_answered_is_not_given_out_again() {
        let pool = Pool::new(QUEUES.len());
        let (old, raw) = (pool.endpoint(), raw(&pool, Duration::ZERO));
        submit(&old, To::Queue(WORKFLOW_QUEUE), Kind::Activation, "run");
        assert_eq!(bytes(raw.next(Lanes::WORKFLOWS)), Some(keyed("run")));
        raw.complete_workflow(&keyed("run")).unwrap();
        submit(&old, To::Participant(raw.inner.endpoint().name()), Kind::Eviction, "run");
        assert_eq!(bytes(raw.next(Lanes::WORKFLOWS)), Some(keyed("run")));
        while old.take().unwrap().is_some() {}
        pool.bury(old.name());
        let new = pool.endpoint();
        submit(&new, To::Queue(WORKFLOW_QUEUE), Kind::Activation, "new");
        assert_eq!(bytes(raw.next(Lanes::ACTIVITIES)), None);
        submit(&new, To::Participant(raw.inner.endpoint().name()), Kind::CancelActivity, "another bridge is here");
        assert_eq!(bytes(raw.next(Lanes::ACTIVITIES)), None);
        raw.complete_workflow(&keyed("run")).unwrap();
        assert_eq!(bytes(raw.next(Lanes::WORKFLOWS)), Some(keyed("new")));
        raw.complete_workflow(&keyed("new")).unwrap();
    }

    #[test]
    fn a_local_attempt_of_the_next_bridge_is_not_taken_for_that_of_the_former() {
        let pool = Pool::new(QUEUES.len());
        let (old, raw) = (pool.endpoint(), raw(&pool, Duration::ZERO));
        submit(&old, To::Queue(ACTIVITY_QUEUE), Kind::Activity, "local-1");
        assert_eq!(bytes(raw.next(Lanes::ACTIVITIES)), Some(keyed("local-1")));
        pool.bury(old.name());
        let new = pool.endpoint();
        submit(&new, To::Queue(ACTIVITY_QUEUE), Kind::Activity, "local-1");
        assert_eq!(bytes(raw.next(Lanes::ACTIVITIES)), Some(message::shutdown_cancel(b"local-1")));
        assert_eq!(bytes(raw.next(Lanes::ACTIVITIES)), None, "it waits for the end of the other");
        raw.complete_activity(&keyed("local-1")).unwrap();
        assert!(new.take().unwrap().is_none(), "that was not its answer");
        raw.wait(Lanes::ACTIVITIES, None).unwrap();
        assert_eq!(bytes(raw.next(Lanes::ACTIVITIES)), Some(keyed("local-1")));
        raw.complete_activity(&keyed("local-1")).unwrap();
        assert!(new.take().unwrap().unwrap().went_well());
        // One that is cancelled before it is given out never is.
        submit(&new, To::Queue(ACTIVITY_QUEUE), Kind::Activity, "local-2");
        assert_eq!(bytes(raw.next(Lanes::ACTIVITIES)), Some(keyed("local-2")));
        pool.bury(new.name());
        let third = pool.endpoint();
        let again = submit(&third, To::Queue(ACTIVITY_QUEUE), Kind::Activity, "local-2");
        assert_eq!(bytes(raw.next(Lanes::ACTIVITIES)), Some(message::shutdown_cancel(b"local-2")));
        assert_eq!(bytes(raw.next(Lanes::ACTIVITIES)), None);
        assert!(matches!(third.cancel(again), Ok(Cancel::Running(_))));
        submit(&third, To::Participant(raw.inner.endpoint().name()), Kind::CancelActivity, "local-2");
        assert_eq!(bytes(raw.next(Lanes::ACTIVITIES)), None);
        let outcomes = std::iter::from_fn(|| third.take().unwrap().map(|finished| finished.outcome()));
        assert!(outcomes.into_iter().any(|outcome| outcome == Outcome::Cancelled));
        raw.complete_activity(&keyed("local-2")).unwrap();
        assert_eq!(bytes(raw.next(Lanes::ACTIVITIES)), None);
    }

    #[test]
    fn who_leaves_takes_nothing_new_and_its_lanes_close_behind_the_last_answer() {
        let pool = Pool::new(QUEUES.len());
        let (bridge, raw) = (pool.endpoint(), raw(&pool, Duration::ZERO));
        submit(&bridge, To::Queue(WORKFLOW_QUEUE), Kind::Activation, "run");
        submit(&bridge, To::Queue(ACTIVITY_QUEUE), Kind::Activity, "token");
        assert!(bytes(raw.next(Lanes::WORKFLOWS)).is_some() && bytes(raw.next(Lanes::ACTIVITIES)).is_some());
        let endpoint = raw.inner.endpoint();
        endpoint.participant().ask_to_leave(1);
        assert_eq!(raw.stage(), Stage::ShuttingDown);
        submit(&bridge, To::Queue(WORKFLOW_QUEUE), Kind::Activation, "new");
        submit(&bridge, To::Queue(ACTIVITY_QUEUE), Kind::Activity, "new");
        raw.complete_workflow(&keyed("run")).unwrap();
        assert_eq!(bytes(raw.next(Lanes::WORKFLOWS)), None, "nothing new");
        // Its grace is over at once.
        assert_eq!(bytes(raw.next(Lanes::ACTIVITIES)), Some(message::shutdown_cancel(b"token")));
        assert_eq!(bytes(raw.next(Lanes::ACTIVITIES)), None);
        let leave = bridge.claim(bridge.private()).unwrap().expect("word of that");
        assert_eq!(Kind::of(&leave), Some(Kind::Leave));
        submit(&bridge, To::Participant(endpoint.name()), Kind::Eviction, "run");
        assert_eq!(bytes(raw.next(Lanes::WORKFLOWS)), Some(keyed("run")));
        raw.complete_workflow(&keyed("run")).unwrap();
        assert_eq!(bytes(raw.next(Lanes::WORKFLOWS)), None, "the bridge has not let it go");
        done(leave).unwrap();
        raw.complete_activity(&keyed("token")).unwrap();
        assert!(is_closed(&raw, Lanes::WORKFLOWS) && is_closed(&raw, Lanes::ACTIVITIES));
    }

    #[test]
    fn the_descriptor_is_readable_while_there_is_something_and_quiet_otherwise() {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let pool = Pool::new(QUEUES.len());
        let (bridge, raw) = (pool.endpoint(), raw(&pool, Duration::ZERO));
        let readable = |timeout: PollTimeout| {
            let mut fds = [PollFd::new(raw.fd().unwrap(), PollFlags::POLLIN)];
            poll(&mut fds, timeout).unwrap() > 0
        };
        for run in 0..100 {
            let run = format!("run-{run}");
            while bytes(raw.next(Lanes::WORKFLOWS)).is_some() {}
            submit(&bridge, To::Queue(WORKFLOW_QUEUE), Kind::Activation, &run);
            assert!(readable(PollTimeout::from(10_000u16)), "it came, and nobody was told");
            let found = loop {
                // The rest of an earlier ring is a look in vain.
                match bytes(raw.next(Lanes::WORKFLOWS)) {
                    Some(found) => break found,
                    None => assert!(readable(PollTimeout::from(10_000u16))),
                }
            };
            assert_eq!(found, keyed(&run));
            raw.complete_workflow(&found).unwrap();
            drop(bridge.take().unwrap());
        }
    }

    #[test]
    fn nothing_comes_before_a_hello_which_waits_for_a_bridge() {
        let pool = Pool::new(QUEUES.len());
        let raw = raw(&pool, Duration::ZERO);
        raw.inner.lock().unwrap().is_greeted = false;
        assert!(matches!(raw.next(Lanes::WORKFLOWS), Err(RawError::NoHello)));
        let info = std::thread::scope(|scope| {
            let hello = scope.spawn(|| raw.hello(b"{}"));
            let bridge = pool.endpoint();
            let claimed = bridge.next(&[bridge.queue(BRIDGE_QUEUE)], || false).unwrap().unwrap();
            assert_eq!((Kind::of(&claimed), claimed.input().unwrap()), (Some(Kind::Hello), &b"{}"[..]));
            assert!(claimed.complete(STATUS_OK, 4, |room| room.copy_from_slice(b"info")).is_ok());
            hello.join().unwrap()
        });
        assert_eq!(info.unwrap(), b"info");
        assert_eq!(bytes(raw.next(Lanes::WORKFLOWS)), None);
    }

    #[test]
    fn a_hello_is_said_once_and_is_waited_for_no_longer_than_there_are_lanes() {
        let pool = Pool::new(QUEUES.len());
        let raw = raw(&pool, Duration::ZERO);
        assert!(matches!(raw.hello(b"{}"), Err(RawError::Greeted)), "it would wait for ever");
        raw.inner.lock().unwrap().is_greeted = false;
        let bridge = pool.endpoint();
        std::thread::scope(|scope| {
            let hello = scope.spawn(|| raw.hello(b"{}"));
            drop(bridge.next(&[bridge.queue(BRIDGE_QUEUE)], || false).unwrap().unwrap());
            raw.close();
            assert!(matches!(hello.join().unwrap(), Err(RawError::Closed)));
        });
    }

    #[test]
    fn heartbeats_of_a_process_that_looks_for_nothing_take_no_room_once_they_have_arrived() {
        let pool = Pool::new(QUEUES.len());
        let (bridge, raw) = (pool.endpoint(), raw(&pool, Duration::ZERO));
        submit(&bridge, To::Queue(ACTIVITY_QUEUE), Kind::Activity, "token");
        assert!(bytes(raw.next(Lanes::ACTIVITIES)).is_some());
        for _ in 0..3 * pool.segment.table().descriptors.len() {
            raw.heartbeat(&keyed("token")).unwrap();
            done(bridge.claim(bridge.private()).unwrap().expect("a heartbeat")).unwrap();
        }
    }

    #[test]
    fn what_waits_here_for_others_to_be_answered_is_not_late() {
        let pool = Pool::new(QUEUES.len());
        let (bridge, raw) = (pool.endpoint(), raw(&pool, Duration::ZERO));
        let limited = |to, key: &str| {
            let mut s = once(to, Kind::Activation, 0);
            s.limits.run_ms = 20;
            send(&bridge, &keyed(key), s).unwrap()
        };
        submit(&bridge, To::Queue(WORKFLOW_QUEUE), Kind::Activation, "one");
        assert!(bytes(raw.next(Lanes::WORKFLOWS)).is_some());
        let task = limited(To::Participant(raw.inner.endpoint().name()), "two");
        assert_eq!(bytes(raw.next(Lanes::ACTIVITIES)), None, "it is set aside");
        let late = || {
            let _ = pool.tick(); // sees it for the first time, perhaps
            std::thread::sleep(Duration::from_millis(50));
            pool.tick().late.iter().any(|&(_, late)| late == task)
        };
        assert!(!late(), "it has not begun");
        raw.complete_workflow(&keyed("one")).unwrap();
        assert_eq!(bytes(raw.next(Lanes::WORKFLOWS)), Some(keyed("two")));
        assert!(late(), "from here on it counts");
    }

    #[test]
    fn what_waits_for_an_eviction_that_is_never_answered_is_late() {
        let pool = Pool::new(QUEUES.len());
        let (old, raw) = (pool.endpoint(), raw(&pool, Duration::ZERO));
        for run in ["one", "two", "three"] {
            submit(&old, To::Queue(WORKFLOW_QUEUE), Kind::Activation, run);
            assert_eq!(bytes(raw.next(Lanes::WORKFLOWS)), Some(keyed(run)));
            raw.complete_workflow(&keyed(run)).unwrap();
        }
        while old.take().unwrap().is_some() {}
        pool.bury(old.name());
        let new = pool.endpoint();
        let mut s = once(To::Queue(WORKFLOW_QUEUE), Kind::Activation, 0);
        s.limits.run_ms = 20;
        let task = send(&new, &keyed("new"), s).unwrap();
        let late = || {
            let _ = pool.tick(); // sees it for the first time, perhaps
            std::thread::sleep(Duration::from_millis(50));
            pool.tick().late.iter().any(|&(_, late)| late == task)
        };
        let eviction = || bytes(raw.next(Lanes::WORKFLOWS)).unwrap();
        raw.complete_workflow(&eviction()).unwrap();
        assert!(!late(), "the eviction was answered, and the SDK has not asked for more");
        let two = [eviction(), eviction()];
        raw.complete_workflow(&two[1]).unwrap();
        assert!(late(), "nobody else would end the first of them");
        raw.complete_workflow(&two[0]).unwrap();
        assert_eq!(bytes(raw.next(Lanes::WORKFLOWS)), Some(keyed("new")));
    }

    #[test]
    fn what_waits_for_room_for_its_answer_is_not_late() {
        let pool = Pool::new(QUEUES.len());
        let (bridge, raw) = (pool.endpoint(), raw(&pool, Duration::ZERO));
        let mut s = once(To::Queue(WORKFLOW_QUEUE), Kind::Activation, 0);
        s.limits.run_ms = 500;
        send(&bridge, &keyed("run"), s).unwrap();
        assert!(bytes(raw.next(Lanes::WORKFLOWS)).is_some());
        let mut large = keyed("run");
        large.extend_from_slice(b"\x1a");
        message::put_varint(&mut large, 16 << 20);
        large.resize(large.len() + (16 << 20), 0);
        let all: Vec<_> = std::iter::from_fn(|| bridge.draft(large.len()).ok()).collect();
        for _ in 0..8 {
            assert!(matches!(raw.complete_workflow(&large), Err(RawError::Full(_))));
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(pool.tick().late.is_empty());
        drop(all);
        raw.complete_workflow(&large).unwrap();
    }

    #[test]
    fn lanes_that_are_not_served_are_not_waited_for() {
        let pool = Pool::new(QUEUES.len());
        let bridge = pool.endpoint();
        let seat = Seat::of_guest(Box::leak(Box::new(Arc::new(pool.endpoint()))), -1);
        // As one that was invited for workflows: its slots are those of the pool.
        let terms = Terms { lanes: Lanes::WORKFLOWS, activity_slots: 100, grace: Duration::ZERO };
        let raw = RawLanes::new(Home::Invited(seat), terms);
        submit(&bridge, To::Queue(ACTIVITY_QUEUE), Kind::Activity, "token");
        let began = Instant::now();
        raw.wait(Lanes::of(3).unwrap(), Some(Duration::from_millis(100))).unwrap();
        assert!(began.elapsed() >= Duration::from_millis(100), "it would spin");
        assert!(matches!(raw.wait(Lanes::ACTIVITIES, None), Err(RawError::NoSuchLane)));
    }
}
