//! A pool without processes, for `benches/counts`: what a task costs its submitter and its worker when neither waits.

use super::{
    client::Client,
    home::Home,
    start::Work,
    submitter::Submitter,
    tasks::Tasks,
    worker::{Core, Current},
};
use crate::{WorkerLimits, bench_support::counts::ends};
use std::{error::Error, ops::Deref, sync::Arc};

/// A client and a worker of a new segment, on one thread. What submits to it are the methods of [`Submitter`].
pub struct OneThread {
    submitter: Submitter,
    worker: Current,
}

impl OneThread {
    /// Both ends. The tasks stay in memory for as long as the process lives.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn new(tasks: Tasks) -> Result<OneThread, Box<dyn Error>> {
        let tasks: &'static Tasks = Box::leak(Box::new(tasks));
        let [client, worker] = ends()?.map(Arc::new);
        let home = Home::here()?;
        let client = Arc::new(Client::new(client, home, false));
        let queues = ["default".to_owned()];
        let submitter = Submitter::new(client, Some(tasks.signatures.clone()), queues.as_slice().into(), 1);
        let work = Work { slots: 1, queues: queues.into(), workers: 1, limits: WorkerLimits::new(), outliving: None };
        let core = Core::new(worker, home, 0, tasks, &work);
        Ok(OneThread { submitter, worker: Current::of_slot(Arc::new(core), 0) })
    }

    /// Runs the next task, as a worker does. False: there is none.
    ///
    /// # Errors
    /// The segment is damaged.
    pub fn work(&self) -> Result<bool, Box<dyn Error>> {
        Ok(self.worker.run_next()?)
    }
}

impl Deref for OneThread {
    type Target = Submitter;

    fn deref(&self) -> &Submitter {
        &self.submitter
    }
}
