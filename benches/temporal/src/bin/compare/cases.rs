//! Who is compared with whom, at what.

use serde::{Deserialize, Serialize};

/// A worker as it is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Peer {
    /// `run -w N -a N` of ours.
    Ours(usize, usize),
    /// The same with `--gzip`, which is the default of the other SDKs.
    OursGzip(usize, usize),
    /// The official Rust SDK's, in one process.
    Official,
    /// The same without compression, as ours.
    OfficialPlain,
    /// `-w N -a N` of the Python sample.
    Python(usize, usize),
    /// The same without compression, as ours.
    PythonPlain(usize, usize),
}

impl Peer {
    pub(crate) fn title(self) -> String {
        match self {
            Peer::Ours(w, a) => format!("**shmworker** `-w {w} -a {a}`"),
            Peer::OursGzip(w, a) => format!("shmworker `-w {w} -a {a} --gzip`"),
            Peer::Official => "official Rust SDK, one process".to_owned(),
            Peer::OfficialPlain => "the same, without gzip".to_owned(),
            Peer::Python(w, a) => format!("Python sample `-w {w} -a {a}`"),
            Peer::PythonPlain(..) => "the same, without gzip".to_owned(),
        }
    }
}

/// What they are fed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Case {
    /// One activity, from the null server.
    Activity,
    /// Nothing: workflows return at once.
    Trivial,
    /// 5 ms of CPU time in the first activation.
    Burn,
    /// As `Trivial`, with few and with many processes.
    Memory,
    /// As `Activity`, from a real dev server.
    DevServer,
}

impl Case {
    pub(crate) const ALL: [Case; 5] = [Case::Activity, Case::Trivial, Case::Burn, Case::Memory, Case::DevServer];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Case::Activity => "one activity",
            Case::Trivial => "trivial: it returns at once",
            Case::Burn => "5 ms of CPU time in one activation",
            Case::Memory => "memory, after a second of trivial workflows",
            Case::DevServer => "one activity, real dev server",
        }
    }

    /// The type of the workflows, and their input.
    pub(crate) fn workflow(self) -> (&'static str, Option<&'static str>) {
        match self {
            Case::Activity | Case::DevServer => ("ParallelizedWorkflow", None),
            Case::Trivial | Case::Memory => ("TrivialWorkflow", None),
            Case::Burn => ("BurnWorkflow", Some("5")),
        }
    }

    pub(crate) fn peers(self) -> &'static [Peer] {
        use Peer::{Official, OfficialPlain, Ours, OursGzip, Python, PythonPlain};
        match self {
            Case::Activity => &[Ours(2, 1), OursGzip(2, 1), Official, OfficialPlain, Python(2, 1), PythonPlain(2, 1)],
            Case::DevServer => &[Ours(2, 1), Python(2, 1)],
            Case::Trivial => {
                &[Ours(2, 0), Ours(1, 0), OursGzip(2, 0), OursGzip(1, 0), Official, OfficialPlain, Python(2, 0)]
            }
            Case::Burn => &[Ours(2, 0), Ours(1, 0), Official, Python(2, 0)],
            Case::Memory => &[Ours(FEW, 0), Ours(MANY, 0), Python(FEW, 0), Python(MANY, 0)],
        }
    }
}

/// Workflow processes, for what one more of them takes.
pub(crate) const FEW: usize = 2;
pub(crate) const MANY: usize = 6;
