//! What a worker process of a pool does: claims tasks, runs their handlers, and leaves what came of them.
//!
//! # Slots
//!
//! A worker runs as many tasks at a time as it has slots, each on a thread of its own (the first on the process's first). A
//! *suspect*, a task that may have killed a worker in which others ran too, runs alone: [`Gate`].
//!
//! # Tasks that wait for tasks
//!
//! A thread that waits for a task which this process has submitted runs that task itself if nobody has begun it, else any
//! other, on top of the one that waits. No cycle of waits can come of it: a task waits for those that it has submitted, or
//! for those on top of it, and all of these began later than it did. The stack bounds how deep others may be taken
//! ([`OTHERS`]) and how deep tasks may nest at all ([`DEEPEST`]).

use super::{
    aligned::Aligned,
    chunk,
    client::{Client, Lost},
    codec::Codec,
    context::Context,
    home::Home,
    output::{ItemRoom, Room},
    start::Work,
    submitter::Submitter,
    tasks::{CHUNK, Failure, Handler, JSON, Tasks},
};
use crate::{
    error::Corrupted,
    exec::endpoint::{Claimed, Endpoint, STATUS_OK, SubmitError, Writer},
    lockfree::{
        descriptor::{INLINE, retry_on},
        table::{Again, LaneId, TaskId},
    },
    panics,
    process::{attach::GUEST, coordinator::Seat, fault, limits::Leave},
};
use std::{
    any::{Any, TypeId, type_name},
    cell::{Cell, RefCell},
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{
            AtomicU16,
            Ordering::{Relaxed, Release},
            fence,
        },
    },
    thread::ScopedJoinHandle,
    time::Duration,
};
use tracing::level_filters::LevelFilter;

/// The handler gave an error: the output is its text.
pub(super) const STATUS_FAILED: u32 = 1;
/// The handler panicked: the output is where, and what it said.
pub(super) const STATUS_PANICKED: u32 = 2;
/// There is no such task in this worker's program.
pub(super) const STATUS_UNKNOWN: u32 = 3;
/// The handler gave an error when its time was over: the output is its text.
pub(super) const STATUS_TIMED_OUT: u32 = 4;
/// Of the items of this chunk some went badly or are left out. The others stand in the output all the same.
pub(super) const STATUS_MIXED: u32 = 5;

/// Beside the status of an item of a chunk: another attempt is wanted.
pub(super) const AGAIN: u32 = 1 << 31;

/// So deep below other tasks a thread that waits takes tasks that it does not wait for.
pub(super) const OTHERS: usize = 32;
/// So deep tasks nest in all. Each level takes the stack of a handler and some hundred bytes.
pub(super) const DEEPEST: usize = 512;
/// So often a thread looks that is too deep for others' tasks. It does not sleep before the queues, or each task there would wake
/// it for nothing; but there its own come back after a back-off or a death, and with one worker nobody else would run them.
const LOOK: Duration = Duration::from_millis(10);
/// Bytes of output for which a chunk finds room at first, at most.
const ROOM: usize = 16 << 20;
/// For the room of a chunk's output each item is taken to be as large as the first, up to a multiple of this.
const STEP: usize = 16;
/// Stack of a slot's thread: that of a process's first thread, by default.
const STACK: usize = 8 << 20;

/// What the threads of a worker share.
pub(super) struct Core {
    endpoint: Arc<Endpoint>,
    label: u32,
    /// The same as people know it.
    name: String,
    tasks: &'static Tasks,
    queues: Vec<LaneId>,
    submitter: Submitter,
    states: HashMap<TypeId, OnceLock<Box<dyn Any + Send + Sync>>>,
    /// One state at a time is made.
    making: Mutex<()>,
    /// With one slot nothing runs beside anything.
    gate: Option<Gate>,
    /// What a slot has met: the others end with it, and so the process can say it.
    damage: OnceLock<Corrupted>,
}

impl Core {
    /// `label`: the number of the worker's.
    pub(super) fn new(endpoint: Arc<Endpoint>, home: Home, label: u32, tasks: &'static Tasks, work: &Work) -> Core {
        let Work { slots, ref queues, workers, .. } = *work;
        let client = Arc::new(Client::new(endpoint.clone(), home, true));
        endpoint.share(slots > 1);
        Core {
            queues: (0..queues.len()).map(|q| endpoint.queue(q)).collect(),
            label,
            name: name_of(&endpoint),
            endpoint,
            tasks,
            submitter: Submitter::new(
                client,
                Some(tasks.signatures.clone()),
                queues.as_slice().into(),
                slots * workers,
            ),
            states: tasks.states().map(|state| (state, OnceLock::new())).collect(),
            making: Mutex::default(),
            gate: (slots > 1).then(Gate::default),
            damage: OnceLock::new(),
        }
    }

    pub(super) fn submitter(&self) -> &Submitter {
        &self.submitter
    }

    fn room<'c>(&'c self, writer: Writer<'c, 'c>) -> Room<'c> {
        Room::InPlace { writer, client: self.submitter.client() }
    }

    pub(super) fn state<T: Any>(&self) -> Result<&T, Failure> {
        let (Some(cell), Some(init)) = (self.states.get(&TypeId::of::<T>()), self.tasks.init_of::<T>()) else {
            let name = type_name::<T>();
            return Err(Failure::permanent(format!("no state of type {name} is registered: call Tasks::state")));
        };
        let found = |made: &'_ Box<dyn Any + Send + Sync>| made.downcast_ref::<T>().is_some();
        if !cell.get().is_some_and(found) {
            let _alone = self.making.lock().unwrap_or_else(PoisonError::into_inner);
            if cell.get().is_none() {
                let made = init()?;
                cell.get_or_init(|| made);
            }
        }
        cell.get()
            .and_then(|made| made.downcast_ref())
            .ok_or_else(|| unreachable!("what makes a state is registered by the state's type"))
    }
}

/// As people know this participant.
fn name_of(endpoint: &Endpoint) -> String {
    let (id, segment) = (endpoint.name().id(), endpoint.segment());
    // The record may still have the label of who had the id before. Relaxed: its admission was
    // answered, and that orders what was written before.
    match segment.table().participants[usize::from(id)].role.load(Relaxed) {
        GUEST => "attached".to_owned(),
        _ => segment.record(id).map(|record| record.label()).unwrap_or_default(),
    }
}

/// Says what goes wrong in this worker.
#[cfg(any(feature = "cli", feature = "temporal"))]
fn complain(worker: &str, line: &str) {
    crate::logs::complain(crate::logs::Of { worker: Some(worker), pid: None }, line);
}

#[cfg(not(any(feature = "cli", feature = "temporal")))]
fn complain(_worker: &str, line: &str) {
    eprintln!("{line}");
}

/// A thread of a worker that runs a task, or is about to.
#[derive(Clone)]
pub(super) struct Current {
    core: Arc<Core>,
    slot: u16,
    top: Top,
    /// A thread that a task has started. It runs what it waits for itself, since the slot may wait for it.
    is_guest: bool,
    /// What is known of the beginning of the next task: the stamp of the end of the last one, if nothing came between; 0; or
    /// [`AT_ONCE`](crate::exec::endpoint::AT_ONCE).
    ended: Cell<u64>,
}

/// What runs on top of the stack of a thread. Apart from the rest, since it changes with each task.
#[derive(Clone, Copy, Default)]
struct Top {
    /// How many tasks are on the stack.
    depth: usize,
    /// The one on top.
    task: Option<TaskId>,
    /// That one is to run alone.
    is_alone: bool,
}

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
    /// That of `CURRENT`, as it is now.
    static TOP: Cell<Top> = const { Cell::new(Top { depth: 0, task: None, is_alone: false }) };
}

/// What the threads that tasks start find their worker by.
static WORKER: OnceLock<Weak<Core>> = OnceLock::new();

/// This thread, if it is one of a worker's, and this its endpoint.
pub(super) fn of(endpoint: &Arc<Endpoint>) -> Option<Current> {
    static GUESTS: AtomicU16 = AtomicU16::new(0);
    let guest = || {
        let core = WORKER.get()?.upgrade()?;
        core.endpoint.share(true);
        // A place of its own, for as many as there may be at once, and beyond the slots.
        let slot = GUESTS.fetch_add(1, Relaxed) | 1 << 15;
        let top = Top { depth: OTHERS + 1, ..Top::default() };
        let guest = Current { core, slot, top, is_guest: true, ended: Cell::default() };
        set_current(Some(guest.clone()));
        Some(guest)
    };
    let current = CURRENT.with_borrow(|current| current.clone());
    let current = current.map(|current| Current { top: TOP.get(), ..current }).or_else(guest);
    current.filter(|current| Arc::ptr_eq(&current.core.endpoint, endpoint))
}

/// Runs tasks of all queues, the first before the second, until the pool stops or this worker is asked to leave.
///
/// # Errors
/// Why it can't go on, as a line for people.
pub(super) fn work(seat: &Seat, tasks: &'static Tasks, work: &Work) -> Result<(), String> {
    let slots = work.slots;
    let endpoint = seat.endpoint.clone();
    fault::install(seat.endpoint.participant()).map_err(|e| format!("cannot watch for fatal signals: {e}"))?;
    fault::note_in(seat.endpoint.fault());
    for hook in &tasks.on_start {
        hook().map_err(|failure| format!("the start hook of this worker failed: {}", failure.message))?;
    }
    let home = Home::here().map_err(|e| format!("cannot map a page: {e}"))?;
    let core = Arc::new(Core::new(endpoint, home, seat.number(), tasks, work));
    let _ = WORKER.set(Arc::downgrade(&core)); // one in the life of a process
    // Not before: what hangs in a hook ends with the coordinator.
    seat.outliving(work.outliving)?;
    seat.ready();
    let life = |others: Vec<Result<ScopedJoinHandle<'_, _>, String>>| -> Result<(), Lost> {
        let mut ended = serve(seat, core.clone(), 0);
        for other in others {
            match other.map(ScopedJoinHandle::join) {
                Ok(Ok(result)) => ended = ended.and(result),
                // `serve` catches what handlers throw.
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                Err(e) => complain(&core.name, &e),
            }
        }
        ended?;
        // What its tasks have submitted and not waited for is this worker's to see to the end.
        set_current(Some(Current::of_slot(core.clone(), 0)));
        let drained = core.submitter.client().drain(None).map(drop);
        set_current(None);
        drained
    };
    let ended = match slots {
        // A scope would make a `Thread`, which is a leak in a worker of C.
        1 => life(Vec::new()),
        _ => std::thread::scope(|scope| {
            let start = |slot| {
                let core = core.clone();
                std::thread::Builder::new()
                    .name(format!("slot {slot}"))
                    .stack_size(STACK)
                    .spawn_scoped(scope, move || serve(seat, core, slot as u16))
                    .map_err(|e| format!("cannot start the thread of slot {slot}: {e}"))
            };
            life((1..slots).map(start).collect())
        }),
    };
    for hook in &tasks.on_exit {
        // It has been said by the panic hook; the others still have to be called.
        let _ = catch_unwind(AssertUnwindSafe(hook));
    }
    match ended {
        Ok(()) | Err(Lost::CoordinatorDied(_)) => Ok(()),
        Err(e) => Err(e.to_string()),
    }
}

/// Does once, in a process of which workers are forked, what each of them would do anew: it maps the page that tells processes apart, and
/// has the linker look up what registers this thread's variables.
pub(super) fn warm_up() {
    let _ = Home::here(); // else they try again, and say why not
    set_current(None);
}

fn set_current(current: Option<Current>) {
    TOP.set(current.as_ref().map_or_else(Top::default, |current| current.top));
    CURRENT.with_borrow_mut(|now| *now = current);
}

/// The life of a slot.
fn serve(seat: &Seat, core: Arc<Core>, slot: u16) -> Result<(), Lost> {
    let current = Current::of_slot(core, slot);
    set_current(Some(current.clone()));
    let core = &current.core;
    let result = loop {
        let is_over = || {
            core.submitter.client().tidy();
            seat.is_over() || core.damage.get().is_some()
        };
        if is_over() {
            // Another coordinator may have come since the look.
            if core.damage.get().is_none() && (seat.waits_for_another() || !seat.is_over()) {
                continue;
            }
            break Ok(());
        }
        let found = match core.endpoint.look(&core.queues) {
            Ok(None) => core.endpoint.next_at(&core.queues, is_over).map(|next| {
                let (claimed, began) = next.unzip();
                // Where there are several slots, it may have been handed back.
                current.ended.set(began.filter(|_| core.gate.is_none()).unwrap_or(0));
                claimed
            }),
            found => found,
        };
        match found {
            Ok(Some(claimed)) => {
                if let Err(e) = current.run(claimed, || current.claim()) {
                    break Err(e);
                }
                seat.after_task();
            }
            Ok(None) => {} // it is over, or was a moment ago
            Err(e) => break Err(e),
        }
    };
    let _ = result.map_err(|e| core.damage.set(e)); // or another was first
    // The others may sleep: they see what this one saw.
    core.endpoint.wake_self();
    set_current(None);
    core.damage.get().map_or(Ok(()), |damage| Err((*damage).into()))
}

impl Current {
    pub(super) fn of_slot(core: Arc<Core>, slot: u16) -> Current {
        Current { core, slot, top: Top::default(), is_guest: false, ended: Cell::default() }
    }

    /// Runs the next task as [`serve`] does, but does not wait for one. False: there is none.
    #[cfg(feature = "bench")]
    pub(super) fn run_next(&self) -> Result<bool, Corrupted> {
        let Some(claimed) = self.core.endpoint.next(&self.core.queues, || true)? else { return Ok(false) };
        let result = self.run(claimed, || self.claim());
        // The thread is the submitter's as well, which is no worker.
        set_current(None);
        result.map(|()| true)
    }

    /// Runs the first of these tasks of this process's own that nobody has begun. False: there is none.
    pub(super) fn run_one_of(&self, tasks: impl Iterator<Item = TaskId>) -> Result<bool, Lost> {
        for task in tasks {
            let claim = || self.core.endpoint.claim_this(task);
            if let Some(claimed) = claim()? {
                if self.top.depth >= DEEPEST {
                    // Dropped, it is ended as given up.
                    return Err(Lost::TooDeep(self.top.depth));
                }
                self.run(claimed, claim)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Runs a task of anybody's on top of those that wait. False: there is none, or too many wait already.
    ///
    /// # Errors
    /// [`Corrupted`], also if another slot has met damage: what it ran may never come back.
    pub(super) fn run_another(&self) -> Result<bool, Corrupted> {
        if let Some(damage) = self.core.damage.get() {
            return Err(*damage);
        }
        if self.top.depth > OTHERS || self.is_stranded() {
            return Ok(false);
        }
        match self.claim()? {
            Some(claimed) => self.run(claimed, || self.claim()).map(|()| true),
            None => Ok(false),
        }
    }

    /// It begins nothing more but what the tasks wait for that it runs: its coordinator is dead, or the next one is of another program. (Who
    /// leaves for another reason sees to what its tasks have submitted.)
    fn is_stranded(&self) -> bool {
        let why = Leave::of(self.core.endpoint.participant().leaves());
        matches!(why, Some(Leave::Orphaned | Leave::Alone | Leave::Stranger))
    }

    fn claim(&self) -> Result<Option<Claimed<'_>>, Corrupted> {
        self.core.queues.iter().find_map(|&lane| self.core.endpoint.claim(lane).transpose()).transpose()
    }

    /// Sleeps until there may be a result, or something to run meanwhile.
    pub(super) fn park(&self, at_most: Option<Duration>, last_look: impl FnOnce() -> bool) {
        let is_deep = self.top.depth > OTHERS || self.is_stranded();
        let queues = if is_deep { &[][..] } else { &self.core.queues };
        let at_most = if is_deep { Some(at_most.map_or(LOOK, |t| t.min(LOOK))) } else { at_most };
        self.ended.take(); // long ago when it wakes
        // What it waits for may have to run alone.
        self.outside(|| {
            self.core.endpoint.park(queues, at_most, last_look);
            // It may have been woken for a task of a queue, and go on with a result of its own.
            self.core.endpoint.wake_next(queues);
        });
    }

    /// Lets others run, those too that have to run alone, while the task of this thread waits.
    fn outside<R>(&self, code: impl FnOnce() -> R) -> R {
        let gate = self.core.gate.as_ref().filter(|_| self.top.depth > 0 && !self.is_guest);
        gate.inspect(|gate| gate.leave());
        let result = code();
        gate.inspect(|gate| gate.join(self.top.is_alone));
        result
    }

    /// Runs a task. One that would have to wait for others of this process to end is given back meanwhile, lest it die with one
    /// of these; then it is `next`'s turn.
    fn run<'c>(
        &self,
        claimed: Claimed<'c>,
        next: impl FnOnce() -> Result<Option<Claimed<'c>>, Corrupted>,
    ) -> Result<(), Corrupted> {
        let Some(gate) = self.core.gate.as_ref().filter(|_| !self.is_guest) else {
            return self.run_inside(claimed, false);
        };
        self.outside(|| {
            let is_alone = claimed.is_suspect();
            let result = match gate.try_join(is_alone) {
                true => self.run_inside(claimed, is_alone),
                false => self.run_later(gate, claimed, is_alone, next),
            };
            gate.leave();
            result
        })
    }

    fn run_later<'c>(
        &self,
        gate: &Gate,
        claimed: Claimed<'c>,
        is_alone: bool,
        next: impl FnOnce() -> Result<Option<Claimed<'c>>, Corrupted>,
    ) -> Result<(), Corrupted> {
        // Dropped, if it can't be: it is ended as given up.
        claimed.give_back(Again::SameAttempt)?;
        gate.join(is_alone);
        self.ended.take(); // long ago by now
        match next()? {
            // Its turn to be alone comes when it is claimed again.
            Some(claimed) if claimed.is_suspect() && !is_alone => claimed.give_back(Again::SameAttempt).map(drop),
            Some(claimed) => self.run_inside(claimed, is_alone),
            None => Ok(()),
        }
    }

    fn run_inside(&self, claimed: Claimed<'_>, is_alone: bool) -> Result<(), Corrupted> {
        claimed.begin(self.slot + 1, self.top.depth as u16, self.core.label, self.ended.take());
        if is_alone {
            claimed.run_alone();
        }
        fault::running(Some(claimed.id()));
        TOP.set(Top { depth: self.top.depth + 1, task: Some(claimed.id()), is_alone });
        let result = run(&self.core, claimed).inspect_err(|e| {
            // The task beneath may go on as if it were a failure of that one's.
            let _ = self.core.damage.set(*e);
        });
        TOP.set(self.top);
        fault::running(self.top.task);
        // The task below goes on, and may begin another much later.
        self.ended.set(if self.top.depth == 0 { *result.as_ref().unwrap_or(&0) } else { 0 });
        result.map(drop)
    }
}

/// Who may run at the same time: any number, or one alone.
#[derive(Default)]
struct Gate {
    inside: Mutex<Inside>,
    changed: Condvar,
}

#[derive(Default)]
struct Inside {
    running: usize,
    is_one_alone: bool,
    /// How many wait to be alone. Nobody else comes in before them, or they would wait for ever.
    want_to_be: usize,
}

impl Inside {
    fn is_open_to(&self, alone: bool) -> bool {
        if alone { self.running == 0 } else { !self.is_one_alone && self.want_to_be == 0 }
    }

    fn join(&mut self, alone: bool) {
        self.running += 1;
        self.is_one_alone = alone;
    }
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_join(&self, alone: bool) -> bool {
        let mut inside = self.lock();
        let is_open = inside.is_open_to(alone);
        if is_open {
            inside.join(alone);
        }
        is_open
    }

    fn join(&self, alone: bool) {
        let mut inside = self.lock();
        inside.want_to_be += usize::from(alone);
        let is_closed = |inside: &mut Inside| !inside.is_open_to(alone);
        inside = self.changed.wait_while(inside, is_closed).unwrap_or_else(PoisonError::into_inner);
        inside.want_to_be -= usize::from(alone);
        inside.join(alone);
    }

    fn leave(&self) {
        let mut inside = self.lock();
        inside.running -= 1;
        inside.is_one_alone = false;
        drop(inside);
        self.changed.notify_all();
    }
}

/// How an attempt went.
enum Went {
    Well,
    Badly { status: u32, retry: u8, text: String },
}

/// How a task that has run is to end.
enum Ended {
    /// Its output is written.
    Well(u32),
    Cancelled,
    Badly {
        status: u32,
        retry: u8,
        text: String,
    },
}

/// Runs one task to its end or to its next attempt. Returns the stamp of its end, or 0.
fn run(core: &Core, mut claimed: Claimed<'_>) -> Result<u64, Corrupted> {
    match execute(core, &mut claimed)? {
        Ended::Well(status) => claimed.complete_reserved(status),
        Ended::Cancelled => claimed.cancelled().map(|()| 0),
        Ended::Badly { retry, status, text } => {
            let left = match claimed.retry_on() & retry {
                0 => Some(claimed),
                _ => claimed.give_back(Again::Backoff)?,
            };
            left.map_or(Ok(0), |claimed| leave(core, claimed, status, text.as_bytes()))
        }
    }
}

fn execute(core: &Core, claimed: &mut Claimed<'_>) -> Result<Ended, Corrupted> {
    let kind = claimed.kind();
    // Of the highest level, so that it is there for whatever is logged; where nobody listens it costs a look at a word.
    let _span = (LevelFilter::current() != LevelFilter::OFF).then(|| {
        tracing::error_span!(
            "task",
            worker = core.name,
            task = core.tasks.name_of(kind & !(CHUNK | JSON)),
            attempt = u32::from(claimed.attempt()) + 1
        )
        .entered()
    });
    let Some(handler) = core.tasks.get(kind & !(CHUNK | JSON)) else {
        return Ok(Ended::Badly { status: STATUS_UNKNOWN, retry: 0, text: String::new() });
    };
    if kind & CHUNK != 0 {
        return match run_items(core, claimed, handler) {
            Ok(Some(status)) => Ok(Ended::Well(status)),
            Ok(None) => Ok(Ended::Cancelled),
            Err(SubmitError::Corrupted(e)) => Err(e),
            Err(e) => Ok(Ended::Badly { status: STATUS_FAILED, retry: 0, text: e.to_string() }),
        };
    }
    let codec = if kind & JSON == 0 { Codec::Compact } else { Codec::Json };
    let (running, writer) = claimed.split();
    let context = Context { running, core, is_item: false };
    let (input, mut room) = (running.input()?, core.room(writer));
    Ok(match attempt(&context, || handler(&context, input, codec, &mut room)) {
        Went::Well => Ended::Well(STATUS_OK),
        Went::Badly { .. } if running.is_cancelled() => Ended::Cancelled,
        Went::Badly { status, retry, text } => Ended::Badly { status, retry, text },
    })
}

/// Runs the items of a chunk. What came of each is in the segment before the next begins: so a death costs one item, and none
/// that is finished runs again. It ends early where what comes of the next item has no room beside the others: the submitter
/// sends those that are left again. Returns its status; `None`: it was cancelled.
///
/// # Errors
/// [`SubmitError`]: damage, or no room even for what is finished.
fn run_items(core: &Core, claimed: &mut Claimed<'_>, handler: &Handler) -> Result<Option<u32>, SubmitError> {
    let codec = if claimed.kind() & JSON == 0 { Codec::Compact } else { Codec::Json };
    let (claimed, writer) = claimed.split();
    let context = Context { running: claimed, core, is_item: true };
    let items = chunk::Items::of(claimed.input()?)?;
    let (n, align) = (items.len(), items.output_align);
    let mut room = core.room(writer);
    let (mut place, mut at, mut largest): (&mut [u8], _, _) = (&mut [], 0, 0);
    let most = core.endpoint.segment().max_payload();
    let (mut beside, mut all) = (Aligned::default(), STATUS_OK);
    claimed.progress(0, n as u64);
    for (i, item) in items.enumerate() {
        if claimed.is_cancelled() {
            return Ok(None);
        }
        let item = item?;
        if at + largest > most {
            all = STATUS_MIXED;
            break; // lest it run for nothing
        }
        let start = chunk::start(at, STATUS_OK, align);
        let mut of_item = Room::OfItem(ItemRoom::new(place.get_mut(start..), &mut beside));
        let went = attempt(&context, || handler(&context, item, codec, &mut of_item));
        let in_place = of_item.len_of_item();
        let (status, text);
        let bytes = match went {
            Went::Well
                if let Some(len) = in_place
                    && start <= place.len() =>
            {
                chunk::write_head(place, at, STATUS_OK, len);
                largest = largest.max(start + len - at);
                at = start + len;
                // Release: who reads the progress of the dead finds so many of them whole.
                fence(Release);
                claimed.progress_to(i as u64 + 1);
                continue;
            }
            Went::Well => {
                status = STATUS_OK;
                beside.bytes()
            }
            // It ended for that, as the others would.
            Went::Badly { .. } if claimed.is_cancelled() => return Ok(None),
            Went::Badly { status: failed, retry, text: why } => {
                status = failed | if claimed.retry_on() & retry == 0 { 0 } else { AGAIN };
                all = STATUS_MIXED;
                text = why;
                text.as_bytes()
            }
        };
        let start = chunk::start(at, status, align);
        let end = start + bytes.len();
        largest = largest.max(end - at);
        if end > place.len() {
            // Seldom: the others are about as large as this one, mostly. Who dies in these lines loses what is finished.
            let kept = place[..at].to_vec();
            claimed.progress(0, n as u64);
            let wanted = wanted(at, end - at, n - i, most);
            match reserve_one_of(&mut room, &[wanted, end, at]) {
                // Else it would seem to have failed for want of room.
                Err(e) if e.is_transient() && claimed.is_cancelled() => return Ok(None),
                reserved => reserved?,
            };
            place = room.bytes()?;
            place[..at].copy_from_slice(&kept);
            if end > place.len() {
                all = STATUS_MIXED;
                break;
            }
        }
        chunk::write_head(place, at, status, bytes.len());
        place[start..end].copy_from_slice(bytes);
        at = end;
        fence(Release); // as above
        claimed.progress_to(i as u64 + 1);
    }
    room.truncate(at)?;
    Ok(Some(all))
}

/// For how much output of a chunk room is found when it has `at` bytes and the next item of those that are left, `left`, takes
/// `len`.
fn wanted(at: usize, len: usize, left: usize, most: usize) -> usize {
    // Twice as much, at least: what is there by then is copied each time.
    let all = at + len.next_multiple_of(STEP) * left;
    all.min(ROOM.max(2 * at)).min(most).max(at + len)
}

/// Room for the first of these lengths that there is room for.
fn reserve_one_of(room: &mut Room<'_>, lens: &[usize]) -> Result<usize, SubmitError> {
    let mut refused = None;
    for &len in lens {
        match room.reserve(len) {
            Ok(_) => return Ok(len),
            Err(e @ SubmitError::Corrupted(_)) => return Err(e),
            Err(e) => refused = Some(e),
        }
    }
    Err(refused.unwrap_or_else(|| unreachable!("there are lengths")))
}

fn attempt(context: &Context<'_>, handler: impl FnOnce() -> Result<(), Failure>) -> Went {
    // Not handed through as a value: to move a `Result` that was just written waits for the writes before it, and these may be
    // to lines of another CPU's.
    let mut failed = None;
    let caught = panics::catch(|| {
        if let Err(failure) = handler() {
            failed = Some(failure);
        }
    });
    match (caught, failed) {
        (Ok(()), None) => Went::Well,
        (Ok(()), Some(failure)) => {
            let is_late = !context.is_item && context.time_left() == Some(Duration::ZERO);
            let (status, retry) =
                if is_late { (STATUS_TIMED_OUT, retry_on::TIMED_OUT) } else { (STATUS_FAILED, retry_on::FAILED) };
            let retry = if failure.is_permanent && !is_late { 0 } else { retry };
            Went::Badly { status, retry, text: failure.message }
        }
        (Err(panic), _) => Went::Badly { status: STATUS_PANICKED, retry: retry_on::PANICKED, text: panic.to_string() },
    }
}

/// Completes a task with these bytes, waiting for room for them if there is none.
fn leave(core: &Core, mut claimed: Claimed<'_>, status: u32, output: &[u8]) -> Result<u64, Corrupted> {
    let (mut status, mut output) = (status, output);
    let mut text;
    loop {
        let reserved = core.room(claimed.writer()).reserve(output.len()).map(|place| place.copy_from_slice(output));
        match reserved {
            Ok(()) => return claimed.complete_reserved(status),
            Err(SubmitError::Corrupted(e)) => return Err(e),
            Err(e) => {
                text = e.to_string();
                // Of a length for which there is always room.
                (status, output) = (STATUS_FAILED, &text.as_bytes()[..text.len().min(INLINE)]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        WorkerLimits,
        exec::{
            endpoint::{Submission, To},
            tests::Pool,
        },
    };

    #[test]
    fn a_large_output_of_many_items_is_not_copied_for_each_of_them() {
        let (n, len, most) = (60_000, 1000, 64 << 20);
        let (mut room, mut copied) = (0, 0);
        for i in 0..n {
            let at = i * len;
            if at + len > room {
                (room, copied) = (wanted(at, len, n - i, most), copied + at);
            }
        }
        assert!((n * len..=most).contains(&room));
        assert!(copied <= n * len, "{copied} bytes of {} are copied", n * len);
    }

    #[test]
    fn a_task_does_not_begin_where_one_ended_before_a_sleep() {
        let pool = Pool::new(1);
        let (client, worker) = (pool.endpoint(), Arc::new(pool.endpoint()));
        let tasks = Box::leak(Box::new(Tasks::new()));
        let work = Work {
            slots: 1,
            queues: ["default".to_owned()].into(),
            workers: 1,
            limits: WorkerLimits::new(),
            outliving: None,
        };
        let current = Current::of_slot(Arc::new(Core::new(worker, Home::here().unwrap(), 0, tasks, &work)), 0);
        client.try_submit(Submission { is_timed: true, ..Submission::new(To::Queue(0)) }, b"").unwrap();
        assert!(current.run_another().unwrap());
        assert_ne!(current.ended.get(), 0);
        current.park(Some(Duration::ZERO), || true);
        assert_eq!(current.ended.get(), 0);
    }
}
