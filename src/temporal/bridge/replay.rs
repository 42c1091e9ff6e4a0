//! The bridge of `shmworker replay`: Core reads recorded histories instead of polling a server.
//!
//! A replay worker of Core goes through one history, one activation after another. So there is one for each history, as
//! many at a time as there are workflow processes, and the first activation of each goes to whoever is free.

use super::{is_done, was_killed_over_another, why_not};
use crate::{
    error::Corrupted,
    exec::endpoint::{Endpoint, Finished, SubmitError, To},
    lockfree::{participant::Name, word::Outcome},
    mem::layout::Control,
    process::{Mode, coordinator::Seat, output::last_word},
    temporal::{
        history::Recording,
        wire::{self, Kind, WORKFLOW_QUEUE, once},
    },
};
use futures_util::{future::join_all, stream};
use nix::{
    sys::signal::{Signal, kill},
    unistd::getppid,
};
use prost::Message;
use std::{
    cell::RefCell,
    collections::HashMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};
use temporalio_common::{
    protos::{
        coresdk::{
            workflow_activation::{
                WorkflowActivation, remove_from_cache::EvictionReason, workflow_activation_job::Variant,
            },
            workflow_completion::{WorkflowActivationCompletion, workflow_activation_completion::Status},
        },
        temporal::api::{enums::v1::WorkflowTaskFailedCause as Cause, failure::v1::Failure},
    },
    worker::WorkerTaskTypes,
};
use temporalio_sdk_core::{
    PollError, WorkerConfig, WorkerVersioningStrategy, init_replay_worker,
    replay::{HistoryForReplay, ReplayWorkerInput},
};
use tokio::{
    runtime,
    sync::{oneshot, watch},
};

/// What workflow code sees as its namespace, which histories don't name: the word that the SDKs use.
pub(crate) const NAMESPACE: &str = "ReplayNamespace";

/// What an activation may take before its process is killed: longer than `run` allows, since nobody waits for a task here.
const DEADLOCK_MS: u32 = 10_000;

/// How a replay ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// The code does what the history says.
    Ok,
    /// It does something else.
    Nondeterministic(String),
    /// It could not be seen to its end: a panic, a death, an input that doesn't decode.
    Failed(String),
}

/// A verdict on the history of this number, as a line of output that no other output is taken for.
pub(crate) struct Report {
    pub(crate) history: usize,
    pub(crate) verdict: Verdict,
}

/// ASCII's record separator.
const MARK: char = '\x1e';

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, message) = match &self.verdict {
            Verdict::Ok => ("ok", ""),
            Verdict::Nondeterministic(message) => ("nondeterministic", &**message),
            Verdict::Failed(message) => ("failed", &**message),
        };
        write!(f, "{MARK}{} {kind} {}", self.history, message.replace(['\n', '\r'], " "))
    }
}

impl Report {
    /// `None`: some other line.
    pub(crate) fn parse(line: &str) -> Option<Report> {
        let mut words = line.strip_prefix(MARK)?.splitn(3, ' ');
        let history = words.next()?.parse().ok()?;
        let (kind, message) = (words.next()?, words.next()?.to_owned());
        let verdict = match kind {
            "ok" => Verdict::Ok,
            "nondeterministic" => Verdict::Nondeterministic(message),
            "failed" => Verdict::Failed(message),
            _ => return None,
        };
        Some(Report { history, verdict })
    }
}

/// Replays all, as many at a time as it is told, says how each one ended, and has the pool end; returns this process's exit
/// code.
pub(crate) fn main(seat: &Seat, recordings: &[Recording], at_a_time: usize) -> u8 {
    match run(seat, recordings, at_a_time) {
        Ok(()) => 0,
        Err(why) => {
            last_word(&why);
            1
        }
    }
}

fn run(seat: &Seat, recordings: &[Recording], at_a_time: usize) -> Result<(), String> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let player = Player { endpoint: seat.endpoint, pending: Mutex::default() };
    let (drain, mut draining) = watch::channel(false);
    seat.ready();
    thread::scope(|scope| {
        let lanes = scope.spawn(|| player.serve_lanes(&drain));
        let rest = RefCell::new(by_run(recordings).into_iter());
        runtime.block_on(async {
            let all = join_all((0..at_a_time).map(|_| player.replay_all(&rest)));
            // A user who has seen enough; what is not finished has no verdict.
            tokio::select! { _ = all => {} _ = draining.wait_for(|&begun| begun) => {} }
        });
        if Mode::of(player.control()) == Mode::Running {
            // The coordinator is our parent, and can't be gone: we would be dead too.
            kill(getppid(), Signal::SIGTERM).map_err(|e| format!("cannot end the pool: {e}"))?;
        }
        match lanes.join() {
            Ok(served) => served.map_err(|damage| damage.to_string()),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Histories of the same run one after another, since workflow processes know runs by their id; the first in the order in
/// which they were given.
fn by_run(recordings: &[Recording]) -> Vec<Vec<(usize, &Recording)>> {
    let (mut runs, mut found) = (Vec::<Vec<_>>::new(), HashMap::new());
    for (history, recording) in recordings.iter().enumerate() {
        let run = *found.entry(&recording.run_id).or_insert(runs.len());
        if run == runs.len() {
            runs.push(Vec::new());
        }
        runs[run].push((history, recording));
    }
    runs
}

/// A workflow process's answer to an activation, and who gave it.
type Answer = Result<(WorkflowActivationCompletion, Option<Name>), Unanswered>;

/// Why there is none.
struct Unanswered {
    why: String,
    /// Somebody had begun with it: whatever happened may be of its doing.
    was_claimed: bool,
}

impl Unanswered {
    /// For a reason that lies in the activation itself.
    fn own(why: impl fmt::Display) -> Unanswered {
        Unanswered { why: why.to_string(), was_claimed: true }
    }
}

struct Player {
    endpoint: &'static Endpoint,
    /// By tag. It is locked over submission and note, so that no answer comes before the note.
    pending: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
}

impl Player {
    fn control(&self) -> &'static Control {
        &self.endpoint.segment().header().control
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands answers to those who wait for them, until the pool drains, which it tells.
    fn serve_lanes(&self, drain: &watch::Sender<bool>) -> Result<(), Corrupted> {
        let is_over = || Mode::of(self.control()) != Mode::Running;
        let mut served = Ok(());
        while !is_over() && served.is_ok() {
            served = self.hand_out();
            if served.is_ok() {
                self.endpoint.park(&[], None, is_over);
            }
        }
        drain.send_replace(true);
        served
    }

    fn hand_out(&self) -> Result<(), Corrupted> {
        while let Some(finished) = self.endpoint.take()? {
            let waiting = self.pending().remove(&finished.tag());
            let answer = answer(&finished)?;
            self.endpoint.count();
            if let Some(waiting) = waiting {
                // An error: nobody waits any more, since the pool drains.
                let _ = waiting.send(answer);
            }
        }
        Ok(())
    }

    async fn replay_all<'r>(&self, rest: &RefCell<impl Iterator<Item = Vec<(usize, &'r Recording)>>>) {
        loop {
            // Not held across the replay.
            let next = rest.borrow_mut().next();
            let Some(of_a_run) = next else { return };
            for (history, recording) in of_a_run {
                let verdict = loop {
                    match self.replay(recording).await {
                        Ok(Some(verdict)) => break verdict,
                        // Each time for the death of a process by another history, which then has its verdict.
                        Ok(None) => {}
                        Err(e) => break Verdict::Failed(e.to_string()),
                    }
                };
                println!("{}", Report { history, verdict });
            }
        }
    }

    /// `None`: its process died of something else, so that nothing is known.
    async fn replay(&self, recording: &Recording) -> anyhow::Result<Option<Verdict>> {
        let history = HistoryForReplay::new(recording.history.clone(), recording.workflow_id.clone());
        let worker =
            init_replay_worker(ReplayWorkerInput::new(config(&recording.task_queue)?, stream::iter([history])))?;
        let (mut verdict, mut owner, mut is_victim) = (None, None, false);
        loop {
            let activation = match worker.poll_workflow_activation().await {
                Ok(activation) => activation,
                Err(PollError::ShutDown) => break,
                Err(e) => return Err(e.into()),
            };
            // What failed first is the reason for what follows.
            verdict = verdict.or_else(|| at_eviction(&activation));
            let is_eviction = activation.is_only_eviction();
            let completion = match self.ask(&activation, owner).await {
                Ok((completion, claimant)) => {
                    owner = owner.or(claimant);
                    verdict = verdict.or_else(|| at_failure(&completion));
                    completion
                }
                Err(_) if is_eviction => WorkflowActivationCompletion::empty(activation.run_id),
                Err(Unanswered { why, was_claimed }) => {
                    is_victim |= !was_claimed;
                    verdict.get_or_insert(Verdict::Failed(why.clone()));
                    let failure = Failure { message: why, ..Default::default() };
                    WorkflowActivationCompletion::fail(activation.run_id, failure, None)
                }
            };
            worker.complete_workflow_activation(completion).await?;
        }
        worker.shutdown().await;
        let nothing = || Verdict::Failed("Core found nothing in it to replay".to_owned());
        Ok((!is_victim).then(|| verdict.unwrap_or_else(nothing)))
    }

    /// Has the owner of the run answer, or anybody if it has none yet.
    async fn ask(&self, activation: &WorkflowActivation, owner: Option<Name>) -> Answer {
        let (sender, answer) = oneshot::channel();
        let mut sender = Some(sender);
        let to = owner.map_or(To::Queue(WORKFLOW_QUEUE), To::Participant);
        while let Err(e) = self.submit(activation, to, &mut sender) {
            if !e.is_transient() {
                return Err(Unanswered::own(e));
            }
            // Others hold the room, and give it back as they are answered.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        answer.await.unwrap_or_else(|_| Err(Unanswered::own("the pool is ending")))
    }

    /// Takes the sender, which the answer goes to, if it succeeds.
    fn submit(
        &self,
        activation: &WorkflowActivation,
        to: To,
        sender: &mut Option<oneshot::Sender<Answer>>,
    ) -> Result<(), SubmitError> {
        let mut pending = self.pending();
        let tag = pending.keys().max().map_or(1, |last| last + 1);
        let mut submission = once(to, Kind::Activation, tag);
        submission.limits.run_ms = DEADLOCK_MS;
        wire::submit(self.endpoint, activation, submission)?;
        pending.extend(sender.take().map(|sender| (tag, sender)));
        Ok(())
    }
}

fn answer(finished: &Finished<'_>) -> Result<Answer, Corrupted> {
    let completion = WorkflowActivationCompletion::decode(finished.output()?);
    Ok(match completion {
        Ok(completion) if is_done(finished) => Ok((completion, finished.claimant())),
        _ if finished.outcome() == Outcome::TimedOut => {
            let message = "[TMPRL1101] potential deadlock: the workflow did not yield within";
            Err(Unanswered::own(format_args!("{message} {DEADLOCK_MS} ms")))
        }
        // What was late may have come to its end before the signal, and this have been begun after it.
        _ => {
            let was_claimed = finished.claimant().is_some() && !was_killed_over_another(finished);
            Err(Unanswered { why: why_not(finished, "workflow"), was_claimed })
        }
    })
}

/// Each replay ends by an eviction, which says what Core thinks of it.
fn at_eviction(activation: &WorkflowActivation) -> Option<Verdict> {
    let eviction = activation.jobs.iter().find_map(|job| match &job.variant {
        Some(Variant::RemoveFromCache(eviction)) => Some(eviction),
        _ => None,
    })?;
    Some(match eviction.reason() {
        EvictionReason::LangRequested | EvictionReason::CacheFull | EvictionReason::WorkflowExecutionEnding => {
            Verdict::Ok
        }
        EvictionReason::Nondeterminism => Verdict::Nondeterministic(essence(&eviction.message)),
        reason => Verdict::Failed(format!("{reason:?}: {}", eviction.message)),
    })
}

/// Core's own words, of the failure that it shows as a programmer would see it.
fn essence(message: &str) -> String {
    let said = message.split_once("message: \"").and_then(|(_, rest)| rest.split_once("\", source: "));
    said.map_or(message, |(said, _)| said).replace("\\\"", "\"")
}

fn at_failure(completion: &WorkflowActivationCompletion) -> Option<Verdict> {
    let Some(Status::Failed(failed)) = &completion.status else { return None };
    let message = failed.failure.as_ref().map(|failure| failure.message.clone()).unwrap_or_default();
    Some(match failed.force_cause() {
        Cause::NonDeterministicError => Verdict::Nondeterministic(message),
        _ => Verdict::Failed(message),
    })
}

fn config(task_queue: &str) -> anyhow::Result<WorkerConfig> {
    WorkerConfig::builder()
        .namespace(NAMESPACE.to_owned())
        .task_queue(task_queue.to_owned())
        .versioning_strategy(WorkerVersioningStrategy::None { build_id: env!("CARGO_PKG_VERSION").into() })
        .task_types(WorkerTaskTypes::workflow_only())
        .build()
        .map_err(anyhow::Error::msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_failure_its_message_is_told() {
        let shown = r#"failed: Failure { failure: Some(Failure { message: "no \"x\"", source: "", cause: None }) }"#;
        assert_eq!(essence(shown), r#"no "x""#);
        assert_eq!(essence("anything else"), "anything else");
    }

    #[test]
    fn a_report_is_read_back_and_nothing_else_is_one() {
        for verdict in [Verdict::Ok, Verdict::Nondeterministic("a b".into()), Verdict::Failed(String::new())] {
            let report = Report::parse(&Report { history: 7, verdict: verdict.clone() }.to_string()).unwrap();
            assert_eq!((report.history, report.verdict), (7, verdict));
        }
        assert!(Report::parse("7 ok ").is_none());
        let lines = Report { history: 1, verdict: Verdict::Failed("a\nb".into()) }.to_string();
        assert_eq!(lines.lines().count(), 1);
    }
}
