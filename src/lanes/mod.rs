//! Lanes of Temporal: what the bridge and the processes that run workflow and activity code say to each other, in the segment.
//!
//! Every message is one of Core's own protobuf messages, as its language boundary has them. Nothing here knows how to read one,
//! but for the field by which an answer finds what it answers (`message`): so a program in another language, under an SDK of
//! its own, can be such a process with a small library and nothing of Temporal's ([`raw`]).
//!
//! ```text
//!   temporal::wire, workflow, activity    our own processes: the messages decoded
//!   lanes::raw                            others: the messages as they are
//!       │
//!   lanes                                 kinds, queues, whose a message is
//! ```

pub(crate) mod invitation;
pub(crate) mod message;
pub(crate) mod program;
pub mod raw;

use crate::{
    error::Corrupted,
    exec::endpoint::{Claimed, Endpoint, STATUS_OK, Submission, SubmitError, To},
    lockfree::participant::Name,
    process::Mode,
};

/// Queue of first activations: whoever claims one owns the run.
pub(crate) const WORKFLOW_QUEUE: usize = 0;
/// Queue of activity tasks.
pub(crate) const ACTIVITY_QUEUE: usize = 1;
/// Queue of greetings, for whichever bridge there is.
pub(crate) const BRIDGE_QUEUE: usize = 2;
/// What they are called in the segment, in their order.
pub(crate) const QUEUES: [&str; 3] = ["workflow", "activity", "bridge"];

/// What a task's payload is, and what its result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Kind {
    /// `WorkflowActivation` in, `WorkflowActivationCompletion` out. Bridge to workflow process.
    Activation = 1,
    /// `ActivityTask` (start) in, `ActivityTaskCompletion` out. Bridge to activity process.
    Activity = 2,
    /// `ActivityTask` (cancel) in, nothing out. Bridge to the activity process that runs it.
    CancelActivity = 3,
    /// `ActivityHeartbeat` in, nothing out. Activity process to bridge.
    Heartbeat = 4,
    /// A run's id in, nothing out: what began before this task was submitted is forgotten. Bridge to workflow process.
    Forget = 5,
    /// Nothing in, nothing out: its submitter wants to end, and may once this is answered. Workflow process to bridge.
    Leave = 6,
    /// As `Activation`, of a run that is to be given up: it is its owner's until this is answered. Bridge to a raw workflow
    /// process, which can't be told to forget.
    Eviction = 7,
    /// What a raw process is, as JSON, in; `NamespaceInfo` out, or why it is refused. To the bridge.
    Hello = 8,
    /// A run's id in, nothing out: its owner wants it evicted. Raw workflow process to bridge.
    RequestEviction = 9,
}

impl Kind {
    /// What people are shown.
    pub(crate) const NAMES: [(u32, &'static str); 9] = [
        (Kind::Activation as u32, "workflow activation"),
        (Kind::Activity as u32, "activity"),
        (Kind::CancelActivity as u32, "activity's cancellation"),
        (Kind::Heartbeat as u32, "heartbeat"),
        (Kind::Forget as u32, "forgetting of a run"),
        (Kind::Leave as u32, "leave"),
        (Kind::Eviction as u32, "workflow eviction"),
        (Kind::Hello as u32, "hello"),
        (Kind::RequestEviction as u32, "request of an eviction"),
    ];

    pub(crate) fn of(claimed: &Claimed<'_>) -> Option<Kind> {
        Some(match claimed.kind() {
            1 => Kind::Activation,
            2 => Kind::Activity,
            3 => Kind::CancelActivity,
            4 => Kind::Heartbeat,
            5 => Kind::Forget,
            6 => Kind::Leave,
            7 => Kind::Eviction,
            8 => Kind::Hello,
            9 => Kind::RequestEviction,
            _ => return None,
        })
    }
}

/// Status of a task that came from a bridge which is gone, or that its receiver can't read, or won't have.
pub(crate) const STATUS_REFUSED: u32 = 1;

/// `Participant::status` of a raw process: this, and the [`Lanes`] that it serves.
const RAW: u32 = 8;

/// Which lanes a process serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lanes(u32);

impl Lanes {
    /// Workflow activations.
    pub const WORKFLOWS: Lanes = Lanes(1);
    /// Activity tasks.
    pub const ACTIVITIES: Lanes = Lanes(2);

    /// `None`: that is no set of lanes, or an empty one.
    pub const fn of(bits: u32) -> Option<Lanes> {
        if 1 <= bits && bits <= 3 { Some(Lanes(bits)) } else { None }
    }

    /// One bit for each.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Are these among them?
    pub const fn has(self, other: Lanes) -> bool {
        self.0 & other.0 == other.0
    }

    /// What a participant says of itself that serves them as they are.
    pub(crate) const fn status(self) -> u32 {
        RAW | self.0
    }

    /// The lanes that a participant with this status serves as they are; `None`: it is no such process.
    pub(crate) const fn of_status(status: u32) -> Option<Lanes> {
        if status & RAW == 0 { None } else { Lanes::of(status & !RAW) }
    }
}

/// A message to one participant or queue with one attempt and no note. After a death of its worker it is never begun again,
/// whoever's fault that was: Temporal decides.
pub(crate) fn once(to: To, kind: Kind, tag: u64) -> Submission {
    Submission { kind: kind as u32, tag, retry_on: 0, ..Submission::new(to) }
}

pub(crate) fn is_stopping(endpoint: &Endpoint) -> bool {
    Mode::of(&endpoint.segment().header().control) == Mode::Stopping
}

/// Whose task this is, in relation to the bridge that was served before. At most one lives at a time, so the submitter's name
/// tells.
pub(crate) enum From {
    /// The same bridge as before.
    Same,
    /// Another one, and alive.
    Another,
    /// One that is dead: nobody waits for an answer.
    Dead,
}

pub(crate) fn origin(endpoint: &Endpoint, claimed: &Claimed<'_>, current: Option<Name>) -> Result<From, Corrupted> {
    let submitter = claimed.submitter();
    Ok(if !endpoint.segment().table().is_live(submitter)? {
        From::Dead
    } else if current == Some(submitter) {
        From::Same
    } else {
        From::Another
    })
}

pub(crate) fn refuse(claimed: Claimed<'_>) -> Result<(), Corrupted> {
    answer(claimed, STATUS_REFUSED)
}

/// Answers a task that asks for nothing.
pub(crate) fn done(claimed: Claimed<'_>) -> Result<(), Corrupted> {
    answer(claimed, STATUS_OK)
}

fn answer(claimed: Claimed<'_>, status: u32) -> Result<(), Corrupted> {
    match claimed.complete(status, 0, |_| {}) {
        Err((SubmitError::Corrupted(damage), _)) => Err(damage),
        _ => Ok(()),
    }
}
