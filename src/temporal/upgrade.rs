//! Another version of the program for a pool that serves Temporal: what the coordinator, which executes it, leaves to it.
//!
//! Its children go on: the bridge with its connection, the workers until their turn comes to be replaced, the dev server. What the new
//! program reads again, flags, variables and files, it finds as the one before did; how many processes there are is handed over.

use crate::{
    lockfree::participant::Name,
    mem::segment::Segment,
    pool::launch::Invited,
    process::{coordinator::Base, handover::Handover},
};
use nix::{
    sys::{eventfd::EventFd, prctl::set_name},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use std::{cell::RefCell, ffi::CString, fs, os::fd::OwnedFd, path::PathBuf, sync::Arc};

/// What is handed over.
#[derive(Serialize, Deserialize)]
pub(super) struct State {
    handover: Handover,
    /// The coordinator's participant.
    coordinator: u64,
    /// What the process is called, which the kernel forgets.
    comm: String,
    /// The path that goes with the segment.
    path: Option<PathBuf>,
    /// Process id and port.
    dev_server: Option<(i32, u16)>,
}

impl State {
    pub(super) fn of(handover: &Handover, me: Name, segment: &Segment, dev_server: Option<(Pid, u16)>) -> State {
        State {
            handover: handover.clone(),
            coordinator: me.bits(),
            comm: fs::read_to_string("/proc/self/comm").unwrap_or_default().trim_end().to_owned(),
            path: segment.path().map(PathBuf::from),
            dev_server: dev_server.map(|(pid, port)| (pid.as_raw(), port)),
        }
    }
}

/// What the program before has left to this one.
pub(crate) struct Taken {
    invited: Invited,
    state: State,
    fds: RefCell<Vec<OwnedFd>>,
}

impl Taken {
    /// If this process was executed to go on with a pool.
    ///
    /// # Errors
    /// It can't, which who asked has been told.
    pub(crate) fn here() -> Result<Option<Taken>, String> {
        let Some(mut invited) = Invited::here()? else { return Ok(None) };
        let fds = RefCell::new(std::mem::take(&mut invited.fds));
        match postcard::from_bytes(&invited.state) {
            Ok(state) => Ok(Some(Taken { invited, state, fds })),
            Err(e) => {
                invited.refuse(&e.to_string());
                Err(e.to_string())
            }
        }
    }

    /// Only whether it could go on is asked: nothing is touched.
    pub(crate) fn is_check(&self) -> bool {
        self.invited.is_check
    }

    /// Says that it could, if the segment is one that it knows.
    ///
    /// # Errors
    /// It is not.
    pub(crate) fn accept(&self) -> Result<(), String> {
        let segment = self.fds.take().into_iter().next().ok_or("the segment is missing")?;
        Segment::attach(segment, false).map_err(|e| e.to_string())?;
        self.invited.accept();
        Ok(())
    }

    /// Says why it can't.
    pub(crate) fn refuse(&self, why: &str) {
        self.invited.refuse(why);
    }

    /// The dev server's process, and its port.
    #[cfg(feature = "cli")]
    pub(crate) fn dev_server(&self) -> Option<(Pid, u16)> {
        self.state.dev_server.filter(|_| !self.is_check()).map(|(pid, port)| (Pid::from_raw(pid), port))
    }

    /// Where metrics are asked for.
    #[cfg(all(feature = "cli", feature = "metrics"))]
    pub(crate) fn metrics(&self) -> Option<std::net::TcpListener> {
        let listener = self.state.handover.handed.filter(|_| !self.is_check())?;
        crate::process::handover::take_up(listener).ok().map(Into::into)
    }

    pub(super) fn handover(&self) -> &Handover {
        &self.state.handover
    }

    /// The pool's own, which this process becomes the coordinator of.
    ///
    /// # Errors
    /// It can't be had.
    pub(super) fn base(&self) -> Result<Base, String> {
        let fds = <[OwnedFd; 2]>::try_from(self.fds.take());
        let [segment, bell] = fds.map_err(|_| "descriptors that belong to the invitation are missing")?;
        let segment = Segment::attach(segment, true).map_err(|e| e.to_string())?;
        let segment = match &self.state.path {
            Some(path) => segment.at(path.clone()),
            None => segment,
        };
        // SAFETY: what comes in this place is the eventfd that the program before has made.
        let bell = unsafe { EventFd::from_owned_fd(bell) };
        if let Ok(comm) = CString::new(&*self.state.comm) {
            // A name is for people: nothing depends on it.
            let _ = set_name(&comm);
        }
        Ok(Base { segment: Arc::new(segment), me: Name::of(self.state.coordinator), bell })
    }
}
