//! Where and with what it was measured.

use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

/// What a reader must know to make something of the figures.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) kernel: String,
    pub(crate) date: String,
    pub(crate) commit: String,
    /// Name and version of each peer and tool.
    pub(crate) versions: Vec<(String, String)>,
    /// The load average over one minute, as it was seen during the run.
    pub(crate) load: Vec<f64>,
}

impl Machine {
    pub(crate) fn look(benches: &Path) -> Machine {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = info.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(": ")?.1.trim().to_owned())
        };
        let has = |flag| field("flags").is_some_and(|flags| flags.split(' ').any(|f| f == flag));
        let cpu = field("model name").unwrap_or_else(|| "an unknown CPU".to_owned());
        Machine {
            cpu: if has("hypervisor") { format!("{cpu}, in a virtual machine") } else { cpu },
            cpus: thread::available_parallelism().map_or(1, usize::from),
            // What stands behind a dash is the distributor's.
            kernel: said("uname", &["-sr"]).split('-').next().unwrap_or_default().to_owned(),
            date: said("date", &["-u", "+%Y-%m-%d"]),
            commit: said("git", &["-C", &benches.to_string_lossy(), "describe", "--always", "--dirty"]),
            versions: versions(benches),
            load: Vec::new(),
        }
    }
}

/// The first line of what a program says of itself; empty if there is none.
fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().map(|o| o.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().next().unwrap_or_default().to_owned()
}

fn versions(benches: &Path) -> Vec<(String, String)> {
    let mut versions = Vec::new();
    let mut add = |name: &str, version: String| {
        if !version.is_empty() {
            versions.push((name.to_owned(), version));
        }
    };
    add("Rust", said("rustc", &["--version"]).split(' ').nth(1).unwrap_or_default().to_owned());
    let lock = fs::read_to_string(benches.join("../Cargo.lock")).unwrap_or_default();
    for name in ["crossbeam-queue", "crossbeam-channel", "rayon", "iceoryx2", "ipc-channel", "redis", "raw_sync"] {
        let head = format!("name = \"{name}\"\nversion = \"");
        let version = lock.split_once(&head).and_then(|(_, rest)| rest.split_once('"'));
        add(name, version.map_or_else(String::new, |(version, _)| version.to_owned()));
    }
    let server = said("redis-server", &["--version"]);
    add("Redis", server.split(' ').find_map(|word| word.strip_prefix("v=")).unwrap_or_default().to_owned());
    add("Python", said("python3", &["--version"]).trim_start_matches("Python ").to_owned());
    for name in ["loky", "faster-fifo"] {
        let ask = format!("from importlib.metadata import version; print(version('{name}'))");
        add(name, said("python3", &["-c", &ask]));
    }
    versions
}

/// Looks at the load average every second, until it is asked what it saw.
pub(crate) struct Load {
    seen: Arc<Mutex<Vec<f64>>>,
    _watching: mpsc::Sender<()>,
}

impl Load {
    pub(crate) fn watch() -> Load {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (watching, over) = mpsc::channel::<()>();
        let list = seen.clone();
        thread::spawn(move || {
            loop {
                let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
                if let Some(Ok(load)) = text.split(' ').next().map(str::parse) {
                    list.lock().unwrap_or_else(PoisonError::into_inner).push(load);
                }
                if over.recv_timeout(Duration::from_secs(1)) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        });
        Load { seen, _watching: watching }
    }

    pub(crate) fn seen(&self) -> Vec<f64> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
