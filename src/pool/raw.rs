//! Tasks by name, with bytes for what goes in and comes out: for programs that know no types, and as the ground of the C interface,
//! whose programs bring handlers of their own.
//!
//! The bytes are those of [`Bytes`]: as they are. A task of other types takes and gives the encoding of these.

use super::{
    PoolError,
    client::{Client, Copied, Done, Filed, Kept, Lost},
    codec::Bytes,
    handle::{Handle, TaskError, check},
    options::TaskOptions,
    plugin,
    submitter::{PLAIN, Submitter},
    tasks::{Failure, Tasks},
};
use crate::{
    TaskId,
    exec::endpoint::{Finished, Shelved, Submission, SubmitError},
    plugin::{
        abi::{shmworker_context, shmworker_exit_fn, shmworker_init_fn},
        call::{Entry, State},
    },
    process::exit::Exit,
};
use std::{
    ffi::c_void,
    io, ptr,
    sync::{Arc, OnceLock, atomic::Ordering::Relaxed},
    task::Waker,
    time::{Duration, Instant},
};

impl Submitter {
    /// Submits bytes to the task of this name.
    ///
    /// # Errors
    /// As [`submit_with`](Self::submit_with).
    ///
    /// ```no_run
    /// # use shmworker::{Pool, pool::TaskOptions};
    /// # let pool = Pool::attach("thumbs")?;
    /// let ended = pool.submit_bytes("digest", b"some bytes", &TaskOptions::new())?.end();
    /// println!("{} bytes after {} attempts", ended.bytes()?.len(), ended.attempts());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn submit_bytes(&self, name: &str, input: &[u8], options: &TaskOptions) -> Result<Handle<Bytes>, PoolError> {
        let s = options.submission(self.queue(options)?, self.kind_of(name)?);
        let ticket = self.send(&s, options, input)?;
        Ok(Handle::new(self.client().clone(), ticket))
    }

    /// As [`submit_bytes`](Self::submit_bytes), but does not wait for room.
    ///
    /// # Errors
    /// As [`try_submit`](Self::try_submit).
    pub fn try_submit_bytes(
        &self,
        name: &str,
        input: &[u8],
        options: &TaskOptions,
    ) -> Result<Handle<Bytes>, PoolError> {
        let s = options.submission(self.queue(options)?, self.kind_of(name)?);
        let ticket = self.try_send(&s, options, input)?;
        Ok(Handle::new(self.client().clone(), ticket))
    }

    /// As [`submit_bytes`](Self::submit_bytes), with the usual options, which cost nothing then.
    #[doc(hidden)]
    #[inline]
    pub fn submit_bytes_as_usual(&self, name: &str, input: &[u8]) -> Result<Handle<Bytes>, PoolError> {
        let s = Submission { kind: self.kind_of(name)?, ..PLAIN };
        let ticket = self.client().send(&s, input)?;
        Ok(Handle::new(self.client().clone(), ticket))
    }

    /// Room for an input of so many bytes in the segment: filled in place, then [submitted](Reserved::submit), without a copy,
    /// whatever its size. Waits where there is none just now. Room that is reserved counts as under way, of which a program may have
    /// so much.
    ///
    /// # Errors
    /// [`PoolError`]: larger than any payload; the pool has ended; or
    /// [`SubmitError::Reserved`](crate::SubmitError::Reserved): what this process has reserved takes all the room.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, pool::TaskOptions};
    /// # let pool = Pool::attach("thumbs")?;
    /// let mut frame = pool.reserve(1920 * 1080 * 4)?;
    /// frame.bytes()?.fill(0); // a camera would write here
    /// let handle = frame.submit(&pool, "blur", &TaskOptions::new())?;
    /// # drop(handle);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn reserve(&self, len: usize) -> Result<Reserved, PoolError> {
        let mut reserved = Reserved::nothing();
        self.reserve_into(len, true, &mut reserved)?;
        Ok(reserved)
    }

    /// As [`reserve`](Self::reserve), but does not wait where there is no room just now.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve); no room as in [`try_submit`](Self::try_submit).
    #[inline]
    pub fn try_reserve(&self, len: usize) -> Result<Reserved, PoolError> {
        let mut reserved = Reserved::nothing();
        self.reserve_into(len, false, &mut reserved)?;
        Ok(reserved)
    }

    /// As [`reserve`](Self::reserve), to where it is to lie, which is used up: to move what was just written waits for that.
    #[doc(hidden)]
    #[inline(always)]
    pub fn reserve_into(&self, len: usize, may_wait: bool, place: &mut Reserved) -> Result<(), PoolError> {
        debug_assert!(place.is_used_up());
        let client = self.client();
        client.reserve_into(len, may_wait, |draft| place.0 = Some((draft, client.clone())))
    }
}

/// Room in the segment for the input of a task, given back when dropped.
///
/// `None`: it is used up.
pub struct Reserved(Option<(Shelved, Arc<Client>)>);

impl std::fmt::Debug for Reserved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reserved")
    }
}

impl Reserved {
    /// Used up from the start.
    #[doc(hidden)]
    pub const fn nothing() -> Reserved {
        Reserved(None)
    }

    /// The bytes, which are whatever lay there. They begin at a multiple of 64.
    ///
    /// # Errors
    /// [`PoolError`]: the segment is damaged, or this process is a fork of the one that has it.
    #[inline]
    pub fn bytes(&mut self) -> Result<&mut [u8], PoolError> {
        let (draft, client) = self.0.as_mut().unwrap_or_else(|| unreachable!("it is not used up"));
        client.check_home()?;
        Ok(client.endpoint().shelved_bytes(draft).map_err(SubmitError::from)?)
    }

    /// Submits them to the task of this name. A [key](TaskOptions::key) is not looked at.
    ///
    /// # Errors
    /// As [`submit_with`](Submitter::submit_with); also if the room is that of another pool. After an error the room is given back.
    pub fn submit(mut self, pool: &Submitter, name: &str, options: &TaskOptions) -> Result<Handle<Bytes>, PoolError> {
        self.submit_as(pool, name, Some(options))
    }

    /// Was it submitted, or [given back](Self::give_back)?
    #[doc(hidden)]
    #[inline]
    pub fn is_used_up(&self) -> bool {
        self.0.is_none()
    }

    /// As dropping it.
    #[doc(hidden)]
    pub fn give_back(&mut self) {
        let Some((draft, client)) = self.0.take() else { return };
        // In a fork of its process the segment isn't there, and the room is its parent's.
        if client.check_home().is_ok() {
            client.give_back(draft);
        }
    }

    /// As [`submit`](Self::submit), from where it lies: to move what was just written waits for that. `None`: the usual options, which
    /// cost nothing then.
    ///
    /// # Panics
    /// If it is used up.
    #[doc(hidden)]
    #[inline]
    pub fn submit_as(
        &mut self,
        pool: &Submitter,
        name: &str,
        options: Option<&TaskOptions>,
    ) -> Result<Handle<Bytes>, PoolError> {
        let (_, client) = self.0.as_ref().unwrap_or_else(|| unreachable!("it is not used up"));
        client.check_home()?;
        if !Arc::ptr_eq(client, pool.client()) {
            return Err(PoolError::AnotherPool);
        }
        let kind = pool.kind_of(name)?;
        let s = match options {
            None => Submission { kind, ..PLAIN },
            Some(options) => options.submission(pool.queue(options)?, kind),
        };
        let (draft, client) = self.0.take().unwrap_or_else(|| unreachable!("it is not used up"));
        let ticket = client.submit_reserved(&s, draft)?;
        Ok(Handle::new(client, ticket))
    }
}

impl Drop for Reserved {
    #[inline]
    fn drop(&mut self) {
        if !self.is_used_up() {
            self.give_back();
        }
    }
}

/// Cancels a task, from any thread, whoever waits for it: [`Handle::canceller`].
#[derive(Clone, Debug)]
pub struct Canceller {
    client: Arc<Client>,
    task: TaskId,
}

impl Canceller {
    /// As [`Handle::cancel`]. To no effect on a task that is over.
    ///
    /// # Errors
    /// As there.
    pub fn cancel(&self) -> Result<(), TaskError> {
        self.client.cancel(self.task).map_err(|lost| self.client.why(lost))
    }
}

/// How a task ended: its result where it lies, in the segment if it is large, for as long as this lives. In a pool that lies in a
/// [file](super::Builder::file) it leaves the file only as this is dropped: whoever puts it where it is to stay does that before.
pub struct Ended {
    result: Result<Lies, TaskError>,
    /// What lies in the file of a task that has no result.
    held: Option<Filed>,
    attempts: u32,
    pid: Option<u32>,
    exit: Exit,
    /// A small result.
    copy: Copied,
}

/// What is told of a task that went well, whose result was copied: [`Handle::copy_at_once`].
#[derive(Clone, Copy, Debug)]
#[doc(hidden)]
pub struct Landed {
    /// How many bytes.
    pub len: usize,
    /// How often it was begun.
    pub attempts: u32,
    /// The process that ran it.
    pub pid: Option<u32>,
}

/// Where a result is.
enum Lies {
    /// In the copy, so many bytes.
    Here(usize),
    There(Filed),
}

impl std::fmt::Debug for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ended").field("attempts", &self.attempts).field("pid", &self.pid).finish_non_exhaustive()
    }
}

impl Ended {
    /// Of a task that has not ended: for [`Handle::end_into`].
    #[doc(hidden)]
    #[inline]
    pub fn not_yet() -> Ended {
        let (result, copy) = (Ok(Lies::Here(0)), Copied::default());
        Ended { result, held: None, attempts: 0, pid: None, exit: Exit::Unknown, copy }
    }

    /// As dropping it, but in a pool that lies in a file it stays there, for who has its client's name next.
    #[doc(hidden)]
    pub fn leave(self) {
        if let Some(filed) = self.held {
            drop(Kept::new(filed));
        }
        if let Ok(Lies::There(filed)) = self.result {
            drop(Kept::new(filed));
        }
    }

    /// What it gave.
    ///
    /// # Errors
    /// [`TaskError`]: why there is nothing.
    #[inline]
    pub fn bytes(&self) -> Result<&[u8], TaskError> {
        match &self.result {
            Ok(Lies::Here(len)) => Ok(&bytemuck::cast_slice(&self.copy)[..*len]),
            Ok(Lies::There(done)) => Ok(done.bytes()?),
            Err(e) => Err(e.clone()),
        }
    }

    /// Why there is nothing, if there isn't.
    #[doc(hidden)]
    #[inline]
    pub fn failure(&self) -> Option<&TaskError> {
        self.result.as_ref().err()
    }

    /// How often it was begun.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The process that ran it last; `None` if none did.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// The signal that ended its last worker that died over it.
    pub fn signal(&self) -> Option<u8> {
        if let Exit::Signal(signal) = self.exit { Some(signal) } else { None }
    }

    /// The exit code of its last worker that ended over it.
    pub fn exit_code(&self) -> Option<u8> {
        if let Exit::Code(code) = self.exit { Some(code) } else { None }
    }
}

impl Handle<Bytes> {
    /// Waits until the task has ended, and says how.
    pub fn end(mut self) -> Ended {
        self.end_within(None).unwrap_or_else(|| unreachable!("there is no time limit"))
    }

    /// Waits for the end, at most for so long. `None`: the time is over. After an answer the handle is used up, and has no other.
    ///
    /// # Panics
    /// If it has given its answer already.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, pool::TaskOptions};
    /// # use std::time::Duration;
    /// # let pool = Pool::attach("thumbs")?;
    /// let mut handle = pool.submit_bytes("digest", b"", &TaskOptions::new())?;
    /// let ended = loop {
    ///     match handle.end_within(Some(Duration::from_secs(1))) {
    ///         Some(ended) => break ended,
    ///         None => println!("not yet"),
    ///     }
    /// };
    /// # drop(ended);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn end_within(&mut self, at_most: Option<Duration>) -> Option<Ended> {
        let mut ended = Ended::not_yet();
        self.end_into(at_most, &mut ended).then_some(ended)
    }

    /// As [`end_within`](Self::end_within), for who shares the handle with others and sees to it that one at a time waits. False: the
    /// time is over.
    #[doc(hidden)]
    pub fn end_into(&self, at_most: Option<Duration>, ended: &mut Ended) -> bool {
        assert!(!self.is_over.load(Relaxed), "a handle was waited for after it had given its answer");
        let has_ended = self.look(at_most, ended).unwrap_or_else(|lost| {
            // Its task may come back for all that.
            self.client.forget(self.tag);
            ended.result = Err(self.client.why(lost));
            true
        });
        self.is_over.store(has_ended, Relaxed);
        has_ended
    }

    #[inline]
    fn look(&self, at_most: Option<Duration>, ended: &mut Ended) -> Result<bool, Lost> {
        // It looks out for a while: not for who has less time than that. And a copy would be let go of in the file at once.
        if at_most.is_none() && !self.client.is_durable() {
            let Ended { copy, attempts, pid, .. } = &mut *ended;
            let copied = self.client.at_once(self.tag, bytemuck::cast_slice_mut(copy), |finished| {
                (*attempts, *pid) = (finished.attempts(), finished.ran_by().map(|(pid, _)| pid));
            })?;
            if let Some(len) = copied {
                ended.result = Ok(Lies::Here(len));
                return Ok(true);
            }
        }
        let until = at_most.and_then(|at_most| Instant::now().checked_add(at_most));
        let Some(done) = self.client.wait(self.tag, self.task, until)? else { return Ok(false) };
        let Done { ending, .. } = &*done;
        ended.exit = ending.trouble.as_ref().map_or(Exit::Unknown, |trouble| Exit::unpack(trouble.exit));
        (ended.attempts, ended.pid) = (ending.attempts, ending.ran_by.map(|(pid, _)| pid));
        ended.result = match check(&done).map(drop) {
            Ok(()) => Ok(Lies::There(done)),
            Err(e) => {
                ended.held = self.client.is_durable().then_some(done);
                Err(e)
            }
        };
        Ok(true)
    }

    /// Copies the result to `place` if the task goes well and comes soon, and there is room for it: then the handle has given its
    /// answer. `None`: it is to be waited for by [`end_into`](Self::end_into). As there otherwise.
    #[doc(hidden)]
    #[inline]
    pub fn copy_at_once(&self, place: &mut [u8]) -> Option<Landed> {
        let (mut attempts, mut pid) = (0, None);
        let note = |finished: &Finished<'_>| {
            (attempts, pid) = (finished.attempts(), finished.ran_by().map(|(pid, _)| pid));
        };
        // Damage is for the wait to tell, which meets it too.
        let len = self.client.at_once(self.tag, place, note).ok()??;
        self.is_over.store(true, Relaxed);
        Some(Landed { len, attempts, pid })
    }

    /// A copy of the bytes of its input, as the task has it. `None`: its pool lies in no file, or belongs to another process.
    #[doc(hidden)]
    pub fn input(&self) -> Option<Vec<u8>> {
        self.client.check_home().ok()?;
        // In a pool without a file the descriptor of what has ended may be another's.
        self.client.is_durable().then(|| self.client.endpoint().input_of(self.task).ok().flatten())?
    }

    /// Says that it is not to be forgotten as it is dropped: what comes of it stays in the file that its pool lies in.
    #[doc(hidden)]
    pub fn leave(&self) {
        if self.client.is_durable() && !self.is_over.swap(true, Relaxed) {
            self.client.leave(self.tag);
        }
    }

    /// What cancels the task while another thread waits by this handle.
    pub fn canceller(&self) -> Canceller {
        Canceller { client: self.client.clone(), task: self.task }
    }

    /// Has the waker called once the task has ended: for event loops that are no executor. The first call starts a thread. A
    /// task that has ended by now has it called at once.
    ///
    /// # Errors
    /// The kernel's, if that thread can't be started.
    pub fn when_ended(&self, waker: &Waker) -> io::Result<()> {
        self.client.when_done(self.tag, waker)
    }
}

/// What the handlers of a C program share in one process, once it was made there.
#[derive(Clone, Debug, Default)]
#[doc(hidden)]
pub struct ForeignState(Arc<OnceLock<State>>);

/// What makes and undoes that.
#[derive(Clone, Copy, Debug)]
#[doc(hidden)]
pub struct ForeignHooks {
    pub init: shmworker_init_fn,
    pub exit: shmworker_exit_fn,
    pub user_data: *mut c_void,
}

// SAFETY: who gives them says that they are good on any thread (`Tasks::foreign_state`).
unsafe impl Send for ForeignHooks {}
// SAFETY: as above.
unsafe impl Sync for ForeignHooks {}

// By these, closures share the whole, which threads may, and not its fields.
impl ForeignHooks {
    fn making(&self) -> (shmworker_init_fn, *mut c_void) {
        (self.init, self.user_data)
    }

    fn undoing(&self) -> (shmworker_exit_fn, *mut c_void) {
        (self.exit, self.user_data)
    }
}

impl Tasks {
    /// Registers a handler in C. False: the name is taken.
    ///
    /// # Safety
    /// - `run` may be called on any thread, several at a time, with this `user_data`, in this process and its forks.
    #[doc(hidden)]
    pub unsafe fn foreign(
        &mut self,
        name: &str,
        run: unsafe extern "C" fn(*mut shmworker_context, *mut c_void) -> i32,
        user_data: *mut c_void,
        state: &ForeignState,
    ) -> bool {
        if self.has(name) {
            return false;
        }
        let (entry, state) = (Entry::new(name.to_owned(), run, user_data), state.clone());
        self.add::<Bytes, Bytes>(name, move |context, input, codec, room| {
            let state = state.0.get().copied().unwrap_or(State(ptr::null_mut()));
            plugin::run(&entry, state, (context, input, codec), room)
        });
        true
    }

    /// Registers what makes and undoes what C handlers share in a process.
    ///
    /// # Safety
    /// - Both may be called once on any thread, with this `user_data`, in this process and its forks.
    #[doc(hidden)]
    pub unsafe fn foreign_state(&mut self, hooks: ForeignHooks, state: &ForeignState) {
        let (made, undone) = (state.0.clone(), state.0.clone());
        self.on_start(move || {
            let (Some(init), user_data) = hooks.making() else { return Ok(()) };
            let mut place = ptr::null_mut();
            // SAFETY: the caller's word.
            let code = unsafe { init(user_data, &raw mut place) };
            let _ = made.set(State(place)); // once in the life of a process
            if code == 0 { Ok(()) } else { Err(Failure::new(format!("its init function returned {code}"))) }
        });
        self.on_exit(move || {
            let (Some(exit), user_data) = hooks.undoing() else { return };
            let State(made) = undone.get().copied().unwrap_or(State(ptr::null_mut()));
            // SAFETY: the caller's word.
            unsafe { exit(user_data, made) };
        });
    }
}
