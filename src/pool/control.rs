//! The owner's end of a pool's management: orders to the coordinator, and what that tells. Tasks never pass here.

use super::{Pool, client::Client};
use crate::process::{
    Mode,
    orders::{Ended, Heard, News, Order, hear, say},
    spawn::Child,
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, Shutdown as Direction, shutdown},
};
use std::{
    collections::{HashMap, VecDeque},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

/// Ended processes that are remembered.
const REMEMBERED: usize = 1000;

/// Why a pool was not changed.
///
/// ```no_run
/// # use shmworker::{Pool, Tasks};
/// # let mut tasks = Tasks::new();
/// # let square = tasks.function("square", |x: u64| x * x);
/// # let pool = Pool::builder().fork(tasks)?;
/// match pool.resize(1_000_000) {
///     Err(refused) => println!("{refused}"), // what is possible, and how to make more possible
///     Ok(before) => println!("there were {before}"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// It can't be done: what was wanted, what is possible, and what to do.
    #[error("{0}")]
    Refused(String),
    /// The pool has ended, for this reason.
    #[error("the pool has ended: {0}")]
    Ended(String),
}

/// How a pool ended that was shut down.
///
/// ```no_run
/// # use shmworker::{Pool, Tasks};
/// # let mut tasks = Tasks::new();
/// # let square = tasks.function("square", |x: u64| x * x);
/// # let pool = Pool::builder().fork(tasks)?;
/// let left = pool.shutdown(std::time::Duration::from_secs(30))?;
/// println!("{} tasks were cancelled, {} workers killed", left.cancelled, left.killed);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shutdown {
    /// Tasks that were still there when their time was over: cancelled, or, where they ran, asked to end.
    pub cancelled: u64,
    /// Workers that did not end in time, and were killed.
    pub killed: u64,
}

/// A worker process that has ended: [`Pool::ended`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndedWorker {
    /// `worker:` and its number.
    pub label: String,
    /// Its process id.
    pub pid: u32,
    /// How it ended: `signal 9 (SIGKILL)`, `exit code 0`.
    pub exit: String,
    /// The most memory that it had resident, in KiB; 0: unknown.
    pub peak_kib: u64,
    /// How many tasks it had finished.
    pub finished: u64,
}

impl Pool {
    /// From now on the pool has so many workers: the missing ones are started, those with the highest numbers leave as soon as
    /// they have finished what they run. No task is lost. Does not wait for either. Returns how many there were.
    ///
    /// The coordinator does the same by one for each SIGTTIN (one more) and SIGTTOU (one less).
    ///
    /// # Errors
    /// [`ControlError`]: more than [`Builder::max_workers`](super::Builder::max_workers), none, or the pool is ending.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// let pool = Pool::builder().workers(2).max_workers(16).fork(Tasks::new())?;
    /// assert_eq!(pool.resize(8)?, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn resize(&self, workers: usize) -> Result<usize, ControlError> {
        let workers = u32::try_from(workers).unwrap_or(u32::MAX);
        self.crew.control().order(|id| Order::Resize { id, workers }).map(|(from, _)| from as usize)
    }

    /// Replaces every worker by a fresh process, one after another: each finishes what it runs, and the next one leaves only once
    /// the replacement is ready. No task is lost. Waits until all have been replaced, which takes as long as the longest task
    /// of each.
    ///
    /// The coordinator does the same, without anybody waiting for it, on SIGHUP.
    ///
    /// # Errors
    /// [`ControlError`]: the pool has ended meanwhile.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// # let mut tasks = Tasks::new();
    /// # let square = tasks.function("square", |x: u64| x * x);
    /// # let pool = Pool::builder().fork(tasks)?;
    /// pool.restart_workers()?; // each with what its start hook reads now
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn restart_workers(&self) -> Result<(), ControlError> {
        self.crew.control().order(|id| Order::Roll { id }).map(drop)
    }

    /// The process id of the pool's coordinator, to which signals may be sent: SIGTTIN and SIGTTOU for a worker more or less,
    /// SIGHUP for fresh workers, SIGTERM or SIGINT for the end. The first of these lets what was submitted finish and refuses
    /// more, the second cancels what is left, the third kills.
    pub fn coordinator_pid(&self) -> u32 {
        self.crew.control().coordinator
    }

    /// The workers that have ended so far, the last thousand of them: those that died, and those that were replaced.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// # let pool = Pool::builder().workers(2).fork(Tasks::new())?;
    /// for worker in pool.ended() {
    ///     println!("{} (pid {}): {}, {} tasks", worker.label, worker.pid, worker.exit, worker.finished);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ended(&self) -> Vec<EndedWorker> {
        let of = |ended: &Ended| EndedWorker {
            label: ended.label.clone(),
            pid: ended.pid as u32,
            exit: ended.exit.to_string(),
            peak_kib: ended.peak_kib,
            finished: ended.finished,
        };
        self.crew.control().lock().ended.iter().map(of).collect()
    }

    /// Ends the pool: takes nothing more, and waits until all that was submitted has been run. What is not finished after `grace`
    /// is cancelled; workers that have not ended after as long again are killed.
    ///
    /// # Errors
    /// [`ControlError::Ended`] if the coordinator failed, or the pool's shared memory is not in order at the end.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// # let mut tasks = Tasks::new();
    /// # let square = tasks.function("square", |x: u64| x * x);
    /// # let pool = Pool::builder().fork(tasks)?;
    /// let handle = pool.submit(square, &12)?;
    /// pool.shutdown(std::time::Duration::from_secs(30))?;
    /// assert_eq!(handle.wait()?, 144);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn shutdown(mut self, grace: Duration) -> Result<Shutdown, ControlError> {
        self.begin_shutdown(grace);
        // How that went, the end says.
        let _ = self.client().drain(None);
        self.end().map_err(ControlError::Ended)
    }

    /// As [`shutdown`](Self::shutdown), without a wait: for who shares the pool with threads that may be in a call, which ends with
    /// the pool at the latest.
    #[doc(hidden)]
    pub fn begin_shutdown(&self, grace: Duration) {
        let control = self.crew.control();
        // Relaxed: a second order would only begin the time anew.
        if !control.is_ending.swap(true, Relaxed) {
            control.tell(&Order::Shutdown { grace });
        }
    }
}

/// The owner's end of the connection.
#[derive(Debug)]
pub(super) struct Control {
    connection: OwnedFd,
    coordinator: u32,
    /// It was ordered to end.
    is_ending: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    last_id: u32,
    answers: HashMap<u32, Result<(u32, u32), String>>,
    ended: VecDeque<Ended>,
    last_word: Option<Result<Shutdown, String>>,
    /// Threads that wait for all that was submitted. They end once nothing more will come.
    drainers: Vec<JoinHandle<()>>,
    /// The coordinator is dead, and this is how the pool ended.
    over: Option<Result<Shutdown, String>>,
}

impl Control {
    /// `connection`: the owner's end of [`pair`](crate::process::orders::pair).
    pub(super) fn new(connection: OwnedFd, coordinator: u32) -> Control {
        Control {
            connection,
            coordinator,
            is_ending: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an order that is answered, and waits for the answer.
    fn order(&self, order: impl FnOnce(u32) -> Order) -> Result<(u32, u32), ControlError> {
        let mut state = self.lock();
        state.last_id = state.last_id.wrapping_add(1);
        let id = state.last_id;
        self.tell(&order(id));
        loop {
            if let Some(answer) = state.answers.remove(&id) {
                return answer.map_err(ControlError::Refused);
            }
            if let Some(over) = &state.over {
                let why = over.as_ref().err().map_or("it was shut down", String::as_str);
                return Err(ControlError::Ended(why.to_owned()));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives an order. A coordinator that is dead gets none, which whoever waits hears from the watcher.
    fn tell(&self, order: &Order) {
        let _ = say(self.connection.as_fd(), order, MsgFlags::empty());
    }

    /// There is no more to submit: once workers have finished what they run, they end. The other direction stays open for the
    /// coordinator's last word.
    pub(super) fn hang_up(&self) {
        let _ = shutdown(self.connection.as_raw_fd(), Direction::Write);
    }

    /// Hears the coordinator until it is dead; then ends all waits of `client`. Reaps it, and says how the pool
    /// ended.
    pub(super) fn watch(self: &Arc<Self>, client: &Arc<Client>, coordinator: &Child) -> Result<Shutdown, String> {
        let mut is_open = true;
        loop {
            let mut fds = [coordinator.as_fd(), self.connection.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            let fds = if is_open { &mut fds[..] } else { &mut fds[..1] };
            if poll(fds, PollTimeout::NONE) == Err(Errno::EINTR) {
                continue;
            }
            // Asked before the last look, so that its last word isn't missed.
            let is_dead = fds[0].any().unwrap_or(false);
            while is_open {
                match hear(self.connection.as_fd(), MsgFlags::MSG_DONTWAIT) {
                    Heard::Message(news) => self.file(news, client),
                    Heard::Nothing => break,
                    Heard::End => is_open = false,
                }
            }
            if is_dead {
                break;
            }
        }
        let exit = coordinator.reap();
        let pid = self.coordinator;
        let mut state = self.lock();
        let over = state
            .last_word
            .take()
            .unwrap_or_else(|| Err(format!("its coordinator (pid {pid}) died without a word: {exit}")));
        state.over = Some(over.clone());
        drop(state);
        self.changed.notify_all();
        match &over {
            Err(why) => client.endpoint().orphan_because(why),
            Ok(_) => {
                client.ends_in_order();
                client.endpoint().orphan();
            }
        }
        let drainers = std::mem::take(&mut self.lock().drainers);
        for drainer in drainers {
            // One that panicked has said so.
            let _ = drainer.join();
        }
        over
    }

    fn file(self: &Arc<Self>, news: News, client: &Arc<Client>) {
        let mut state = self.lock();
        match news {
            News::Started => {}
            News::Mode(Mode::Draining) => state.drainers.extend(self.drain(client)),
            News::Mode(_) => {}
            News::Ended(ended) => {
                state.ended.push_back(ended);
                if state.ended.len() > REMEMBERED {
                    state.ended.pop_front();
                }
            }
            News::Done { id, from, to } => {
                state.answers.insert(id, Ok((from, to)));
            }
            News::Refused { id, why } => {
                state.answers.insert(id, Err(why));
            }
            News::Over { cancelled, killed } => state.last_word = Some(Ok(Shutdown { cancelled, killed })),
            News::Failed(why) => state.last_word = Some(Err(why)),
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Hangs up once all that was submitted has come back. (Nothing more is taken from here on: whoever submits counts its task
    /// first, and looks at the mode then.)
    fn drain(self: &Arc<Self>, client: &Arc<Client>) -> Option<JoinHandle<()>> {
        let (control, client) = (self.clone(), client.clone());
        let drain = move || {
            let _ = client.drain(None);
            control.hang_up();
        };
        // Without the thread the drain ends when its grace is over.
        std::thread::Builder::new().name("pool-drain".into()).spawn(drain).ok()
    }
}
