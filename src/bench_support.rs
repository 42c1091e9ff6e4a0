//! For the programs in `benches/`, behind the feature `bench`. Not API: it may change or go in any release.
//!
//! [`Pair::fork`] → [`Pair::submit`] and [`Pair::take`], as often as wanted; [`LaneEnd`] is a lane without tasks, [`Mail`] the
//! limit that `shmworker bench` measures too.

pub mod counts;

pub use crate::limit::{Mail, Message};

use crate::{
    error::Corrupted,
    exec::endpoint::{Endpoint, STATUS_OK, Submission, To},
    lockfree::{
        lane::{Cursor, Lane, LaneControl, Push},
        participant::Name,
        word::Hint,
    },
    mem::{layout::Geometry, segment::Segment},
    process::spawn::{Spawned, spawn},
    sync::{AtomicU64, spin_loop},
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::Signal,
};
use std::{error::Error, os::fd::AsFd, sync::Arc};

/// Looks for a result between two looks whether the worker still lives.
const SPINS_PER_CHECK: u32 = 1 << 20;
/// The one queue of a [`Pair`]'s segment.
const QUEUE: usize = 0;

/// A forked process; killed when this is dropped.
struct Peer(Spawned);

impl Drop for Peer {
    fn drop(&mut self) {
        let child = &self.0.child;
        // It may have ended by itself.
        let _ = child.signal(Signal::SIGKILL);
        let _ = poll(&mut [PollFd::new(child.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
        child.try_reap();
    }
}

/// Two ends of a new segment: a submitter in this process, and a worker in another that completes each task with its own
/// input. Neither ever sleeps.
pub struct Pair {
    submitter: Endpoint,
    worker: Peer,
}

impl Pair {
    /// Makes the segment and forks the worker, where `prepare` runs first. The caller has one thread.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn fork(prepare: impl FnOnce()) -> Result<Pair, Box<dyn Error>> {
        let segment = Arc::new(Segment::create(Geometry::new(2, 1))?);
        let admit = |role| -> Result<Name, Box<dyn Error>> {
            Ok(segment.table().admit(std::process::id(), role)?.ok_or("a new segment has room for two")?)
        };
        let (submitter, worker) = (admit(0)?, admit(1)?);
        let worker = Peer(spawn(&[segment.as_fd()], || {
            prepare();
            let worker = Endpoint::new(segment.clone(), worker);
            worker.share(false); // as a pool does for a worker of one thread
            echo(&worker).map_or(1, |never| match never {})
        })?);
        Ok(Pair { submitter: Endpoint::new(segment, submitter), worker })
    }

    /// Submits `input`.
    ///
    /// # Errors
    /// It has no room.
    pub fn submit(&self, input: &[u8]) -> Result<(), Box<dyn Error>> {
        let mut draft = self.submitter.draft(input.len())?;
        draft.payload()?.copy_from_slice(input);
        draft.submit(Submission::new(To::Queue(QUEUE)))?;
        Ok(())
    }

    /// Waits for a result and copies it to `output`, which has the same length.
    ///
    /// # Errors
    /// The worker has ended, or had no room for the output.
    pub fn take(&self, output: &mut [u8]) -> Result<(), Box<dyn Error>> {
        loop {
            for _ in 0..SPINS_PER_CHECK {
                if let Some(finished) = self.submitter.take()? {
                    let bytes = finished.output()?;
                    if bytes.len() != output.len() {
                        return Err("the worker had no room for the output".into());
                    }
                    output.copy_from_slice(bytes);
                    return Ok(());
                }
                spin_loop();
            }
            if let Some(exit) = self.worker.0.child.try_reap() {
                return Err(format!("the worker has ended: {exit:?}").into());
            }
        }
    }
}

/// A lane by itself, on whatever zeroed memory: its words, and one participant's cursors.
pub struct LaneEnd<'w> {
    lane: Lane<'w>,
    cursor: Cursor,
}

/// A lane's words: `N` slots, a power of two. All zeros are an empty lane, so it may lie in a fresh mapping.
#[repr(C)]
pub struct LaneWords<const N: usize> {
    control: LaneControl,
    slots: [AtomicU64; N],
}

impl<'w> LaneEnd<'w> {
    /// A participant's end.
    pub fn new<const N: usize>(words: &'w LaneWords<N>) -> LaneEnd<'w> {
        LaneEnd { lane: Lane::new(&words.control, &words.slots), cursor: Cursor::default() }
    }

    /// Stores a hint. False: the lane is full.
    ///
    /// # Errors
    /// [`Corrupted`].
    pub fn push(&self, index: u16) -> Result<bool, Corrupted> {
        Ok(self.lane.push(&self.cursor, Hint { index, generation: 1 })? == Push::Stored)
    }

    /// Removes the hint at the head. `None`: the lane is empty.
    ///
    /// # Errors
    /// [`Corrupted`].
    pub fn pop(&self) -> Result<Option<u16>, Corrupted> {
        while let Some(entry) = self.lane.first(&self.cursor)? {
            if self.lane.remove(&self.cursor, &entry) {
                return Ok(Some(entry.hint.index));
            }
        }
        Ok(None)
    }
}

/// A worker's loop without its sleep: looks into its own lane first, then into the queue, as the real one does.
fn echo(endpoint: &Endpoint) -> Result<std::convert::Infallible, Corrupted> {
    let lanes = [endpoint.private(), endpoint.queue(QUEUE)];
    let mut bytes = Vec::new();
    loop {
        for lane in lanes {
            if let Some(task) = endpoint.claim(lane)? {
                bytes.clear();
                bytes.extend_from_slice(task.input()?);
                // Without room for the output the task is given up, which its submitter sees by the output's length.
                let _ = task.complete(STATUS_OK, bytes.len(), |output| output.copy_from_slice(&bytes));
            }
        }
        spin_loop();
    }
}
