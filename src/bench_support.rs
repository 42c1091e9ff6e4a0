//! For the programs in `benches/`, behind the feature `bench`. Not API: it may change or go in any release.
//!
//! [`Pair::fork`] → [`Pair::round_trip`], as often as wanted.

pub mod counts;

use crate::{
    error::Corrupted,
    exec::endpoint::{Endpoint, STATUS_OK, Submission, To},
    lockfree::participant::Name,
    mem::{layout::Geometry, segment::Segment},
    process::spawn::{Spawned, spawn},
    sync::spin_loop,
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
pub struct Peer(Spawned);

impl Peer {
    /// Forks a process that runs `main` and exits with what it returns. The caller has one thread.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn fork(main: impl FnOnce() -> u8) -> Result<Peer, Box<dyn Error>> {
        Ok(Peer(spawn(&[], main)?))
    }
}

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
            echo(&Endpoint::new(segment.clone(), worker)).map_or(1, |never| match never {})
        })?);
        Ok(Pair { submitter: Endpoint::new(segment, submitter), worker })
    }

    /// Submits `input`, waits for the result and copies it to `output`, which has the same length.
    ///
    /// # Errors
    /// The worker has ended, or a payload has no room.
    pub fn round_trip(&self, input: &[u8], output: &mut [u8]) -> Result<(), Box<dyn Error>> {
        let mut draft = self.submitter.draft(input.len())?;
        draft.payload()?.copy_from_slice(input);
        draft.submit(Submission::new(To::Queue(QUEUE)))?;
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
