//! What `benches/counts` counts the instructions of: each step of a task by itself, in a function that is never inlined.
//!
//! Both ends are on one thread: then nobody waits, and the same instructions run each time.

use crate::{
    exec::endpoint::{Claimed, Endpoint, STATUS_OK, Submission, To},
    lockfree::{participant::Name, task_clock::Source},
    mem::{
        layout::Geometry,
        segment::{Options, Segment},
    },
};
use std::{error::Error, sync::Arc};

#[cfg(feature = "pool")]
pub use crate::pool::one_thread::OneThread;

/// Bytes of input and of output.
type Payload = [u8; 64];

const QUEUE: usize = 0;

/// A submitter's end and a worker's.
pub struct Ends {
    submitter: Endpoint,
    worker: Endpoint,
}

/// A submitter's end of a new segment, and a worker's. What stamps are read from does not depend on the machine.
pub(crate) fn ends() -> Result<[Endpoint; 2], Box<dyn Error>> {
    let clock = cfg!(target_arch = "x86_64").then_some(Source::Counter);
    let segment = Segment::create_with(Geometry::new(2, 1), &Options { clock, ..Options::default() })?;
    let segment = Arc::new(segment);
    let end = |role| -> Result<Endpoint, Box<dyn Error>> {
        let name: Option<Name> = segment.table().admit(std::process::id(), role)?;
        Ok(Endpoint::new(segment.clone(), name.ok_or("a new segment has room for two")?))
    };
    Ok([end(0)?, end(1)?])
}

impl Ends {
    /// Two participants of a new segment.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn new() -> Result<Ends, Box<dyn Error>> {
        let [submitter, worker] = ends()?;
        Ok(Ends { submitter, worker })
    }

    /// Has `depth` tasks submitted, then each of them claimed and completed, then all results taken.
    ///
    /// # Errors
    /// A task was lost, or is not as it was submitted.
    pub fn play(&self, depth: u64) -> Result<(), Box<dyn Error>> {
        for n in 0..depth {
            submit(&self.submitter, &[n as u8; _])?;
        }
        for _ in 0..depth {
            complete(claim(&self.worker)?)?;
        }
        for n in 0..depth {
            if take(&self.submitter)? != [n as u8; _] {
                return Err("another output came back than the input that was submitted".into());
            }
        }
        Ok(())
    }
}

#[inline(never)]
fn submit(submitter: &Endpoint, input: &Payload) -> Result<(), Box<dyn Error>> {
    submitter.try_submit(Submission::new(To::Queue(QUEUE)), input)?;
    Ok(())
}

#[inline(never)]
fn claim(worker: &Endpoint) -> Result<Claimed<'_>, Box<dyn Error>> {
    Ok(worker.claim(worker.queue(QUEUE))?.ok_or("there is no task")?)
}

#[inline(never)]
fn complete(task: Claimed<'_>) -> Result<(), Box<dyn Error>> {
    let mut output: Payload = [0; _];
    output.copy_from_slice(task.input()?);
    task.complete(STATUS_OK, output.len(), |room| room.copy_from_slice(&output)).map_err(|(e, _)| e.into())
}

#[inline(never)]
fn take(submitter: &Endpoint) -> Result<Payload, Box<dyn Error>> {
    Ok(submitter.take()?.ok_or("there is no result")?.output()?.try_into()?)
}
