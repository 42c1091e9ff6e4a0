//! The heartbeats of one attempt: each is kept at once, and now and then the newest is sent.
//!
//! A handler may record one for every record that it processes. To keep it is a copy into shared memory, where it is found if
//! the process dies; to send it takes a descriptor and the bridge's time, and Core would throttle it anyway. So at most one is
//! sent in each [`INTERVAL`], and what was held back follows when that is over: Core, which throttles far more coarsely, and
//! the server see no gap that the handler did not leave.

use super::{Payload, link::Link};
use crate::exec::endpoint::SubmitError;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use temporalio_common::protos::coresdk::ActivityHeartbeat;
use tokio::{
    runtime::Handle,
    task::AbortHandle,
    time::{Instant, sleep_until},
};

/// How long the newest heartbeat may be held back; less where a tenth of the heartbeat timeout is less.
const INTERVAL: Duration = Duration::from_millis(100);

pub(super) struct Heartbeats {
    task_token: Vec<u8>,
    link: Arc<dyn Link>,
    runtime: Handle,
    interval: Duration,
    beat: Mutex<Beat>,
}

struct Beat {
    /// The newest, which may be an earlier attempt's.
    details: Vec<Payload>,
    sent: Option<Instant>,
    /// They are sent as soon as the interval is over.
    is_due: bool,
    is_over: bool,
    pulse: Option<AbortHandle>,
}

impl Heartbeats {
    /// `details`: of the last heartbeat of an earlier attempt. `runtime`: that of the process.
    pub(super) fn new(
        task_token: Vec<u8>,
        link: Arc<dyn Link>,
        runtime: Handle,
        timeout: Option<Duration>,
        details: Vec<Payload>,
    ) -> Self {
        let beat = Beat { details, sent: None, is_due: false, is_over: false, pulse: None };
        let interval = timeout.map_or(INTERVAL, |timeout| INTERVAL.min(timeout / 10));
        Self { task_token, link, runtime, interval, beat: Mutex::new(beat) }
    }

    fn lock(&self) -> MutexGuard<'_, Beat> {
        // Nothing under this lock is half done when it panics.
        self.beat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// They are more than can be kept; those before stand.
    pub(super) fn record(self: &Arc<Self>, details: Vec<Payload>) -> Result<(), SubmitError> {
        // Held while it is kept and sent: what other threads record comes before or after, here and there.
        let mut beat = self.lock();
        if beat.is_over {
            return Ok(());
        }
        let heartbeat = ActivityHeartbeat { task_token: self.task_token.clone(), details };
        self.link.keep(&heartbeat)?;
        beat.details = heartbeat.details;
        self.send_soon(&mut beat);
        Ok(())
    }

    /// A heartbeat with the newest details there are.
    pub(super) fn beat(self: &Arc<Self>) {
        let mut beat = self.lock();
        if !beat.is_over {
            self.send_soon(&mut beat);
        }
    }

    /// Sends it at once, or as soon as the interval is over.
    fn send_soon(self: &Arc<Self>, beat: &mut Beat) {
        match beat.sent.map(|sent| sent + self.interval) {
            Some(next) if next > Instant::now() => {
                if !std::mem::replace(&mut beat.is_due, true) {
                    let this = Arc::clone(self);
                    self.runtime.spawn(async move {
                        sleep_until(next).await;
                        let mut beat = this.lock();
                        if beat.is_due {
                            this.send(&mut beat);
                        }
                    });
                }
            }
            _ => self.send(beat),
        }
    }

    /// From now on, whenever nothing was sent for so long, the newest details are sent again.
    ///
    /// On the process's runtime: where that stands still, because the process is stopped or an async handler blocks it, nothing
    /// is sent in the name of handlers that may not run.
    pub(super) fn repeat(self: &Arc<Self>, every: Duration) {
        let this = Arc::clone(self);
        let pulse = self.runtime.spawn(async move {
            let began = Instant::now();
            loop {
                let next = this.lock().sent.unwrap_or(began) + every;
                if next > Instant::now() {
                    sleep_until(next).await;
                    continue;
                }
                let mut beat = this.lock();
                if beat.is_over {
                    return;
                }
                this.send(&mut beat);
            }
        });
        self.lock().pulse = Some(pulse.abort_handle());
    }

    /// The attempt has ended: nothing more is kept or sent.
    pub(super) fn end(&self) {
        let mut beat = self.lock();
        (beat.is_over, beat.is_due) = (true, false);
        if let Some(pulse) = beat.pulse.take() {
            pulse.abort();
        }
    }

    fn send(&self, beat: &mut Beat) {
        (beat.sent, beat.is_due) = (Some(Instant::now()), false);
        let (task_token, details) = (self.task_token.clone(), beat.details.clone());
        self.link.send(&ActivityHeartbeat { task_token, details });
    }
}
