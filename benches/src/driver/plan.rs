//! Which peers run at which cases.

use crate::Result;

/// What a peer is.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// In tables.
    pub(crate) title: &'static str,
    pub(crate) kind: Kind,
}

/// What is at a peer's far end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ours.
    Ours,
    /// What the machine can do.
    Limit,
    /// Threads of one process.
    Threads,
    /// Another process.
    Processes,
    /// Another process, from Python.
    Python,
}

const fn peer(name: &'static str, kind: Kind, title: &'static str) -> Peer {
    Peer { name, title, kind }
}

impl Peer {
    /// What it is in a table of this case, if that is more than one can tell from its name.
    pub(crate) fn title_at(&self, case: &str) -> &'static str {
        match self.name {
            "raw" if case.starts_with("throughput") => "**mapped memory**, one at a time",
            "raw" if case.contains("mode=copied") => {
                "**one copy**: `memcpy` into mapped memory, a flag, the sum by the other CPU"
            }
            "raw" if case.contains("mode=in-place") => "mapped memory: a flag, the sum by the other CPU",
            "raw" if case.contains("mode=built") => "mapped memory: written whole, a flag, the sum by the other CPU",
            "pool" if case.starts_with("throughput") => "**shmworker**, `Pool::map`, a task for each",
            _ => self.title,
        }
    }
}

/// All, in the order of the tables.
pub(crate) const PEERS: &[Peer] = &[
    peer("raw", Kind::Limit, "**mapped memory**, 64 B and a flag each way"),
    peer("raw_line", Kind::Limit, "one cache line to and fro"),
    peer("futex", Kind::Limit, "**futex** ping-pong, always asleep, 64 B each way"),
    peer("read", Kind::Limit, "**reading it** once, one process"),
    peer("pool", Kind::Ours, "**shmworker**, `Pool`"),
    peer("pool_handles", Kind::Ours, "shmworker, `Pool`: a handle for each"),
    peer("pair", Kind::Ours, "shmworker, endpoints alone"),
    peer("lane", Kind::Ours, "**shmworker**, lane alone"),
    peer("array_queue", Kind::Threads, "crossbeam `ArrayQueue`, threads"),
    peer("crossbeam_channel", Kind::Threads, "crossbeam-channel, threads"),
    peer("rayon", Kind::Threads, "rayon, threads"),
    peer("vyukov", Kind::Processes, "Vyukov's ring, processes"),
    peer("iceoryx2_pubsub", Kind::Processes, "iceoryx2 publish-subscribe"),
    peer("iceoryx2_request", Kind::Processes, "iceoryx2 request-response"),
    peer("ipc_channel", Kind::Processes, "ipc-channel"),
    peer("unix_socket", Kind::Processes, "Unix socket"),
    peer("pipe", Kind::Processes, "pipe"),
    peer("redis", Kind::Processes, "Redis list"),
    peer("raw_sync", Kind::Processes, "raw_sync event"),
    peer("mp_queue", Kind::Python, "`multiprocessing.Queue`"),
    peer("mp_pool", Kind::Python, "`multiprocessing.Pool`"),
    peer("mp_pool_64", Kind::Python, "`Pool.imap_unordered(chunksize=64)`"),
    peer("executor", Kind::Python, "`ProcessPoolExecutor`"),
    peer("loky", Kind::Python, "loky"),
    peer("faster_fifo", Kind::Python, "faster-fifo"),
];

pub(crate) fn find(name: &str) -> Option<&'static Peer> {
    PEERS.iter().find(|p| p.name == name)
}

/// One case of a table.
pub(crate) struct Column {
    pub(crate) title: String,
    /// As the programs are told.
    pub(crate) case: String,
    /// For one single run of each peer more, with one value per trip.
    pub(crate) has_distribution: bool,
}

/// Some cases, and who runs at them: each peer at all of them, one right after the other, in each turn. So a ratio of two
/// columns is as good as one of two peers.
pub(crate) struct Table {
    /// Of the section.
    pub(crate) letter: &'static str,
    pub(crate) columns: Vec<Column>,
    pub(crate) peers: Vec<&'static Peer>,
}

/// The tables for these letters and peers; for all if none are named.
pub(crate) fn plan(short: bool, letters: &[String], names: &[String]) -> Result<Vec<Table>> {
    if let Some(unknown) = names.iter().find(|name| find(name).is_none()) {
        let all: Vec<_> = PEERS.iter().map(|p| p.name).collect();
        return Err(format!("no peer is named {unknown:?}: there are {}", all.join(", ")).into());
    }
    let mut tables = Vec::new();
    let mut add = |letter, columns: &[(&str, String)], peers: &dyn Fn(&Peer) -> bool| {
        tables.push(Table {
            letter,
            columns: columns
                .iter()
                .map(|(title, case)| Column {
                    title: (*title).to_owned(),
                    case: case.clone(),
                    has_distribution: case.starts_with("round_trip") && (!short || case.contains("two-cores")),
                })
                .collect(),
            peers: PEERS
                .iter()
                .filter(|p| peers(p) && (names.is_empty() || names.iter().any(|n| n == p.name)))
                .collect(),
        });
    };
    let tasks = |p: &Peer| !matches!(p.name, "read" | "lane" | "vyukov" | "mp_pool_64" | "pool_handles");
    let named = |names: &'static [&'static str]| move |p: &Peer| names.contains(&p.name);

    let trips = if short { 2000 } else { 20_000 };
    let never_sleeps = named(&["raw", "raw_line", "pair", "array_queue", "iceoryx2_pubsub", "iceoryx2_request"]);
    add("a", &[("both sides busy", format!("round_trip placement=two-cores n={trips}"))], &|p| {
        tasks(p) && p.name != "futex"
    });
    add("a", &[("the worker asleep", format!("round_trip placement=asleep n={}", trips / 20))], &|p| {
        tasks(p) && !never_sleeps(p)
    });
    add("a", &[("both on one core", format!("round_trip placement=one-core n={trips}"))], &|p| {
        tasks(p) && p.name != "pair"
    });

    let many = if short { 200_000 } else { 2_000_000 };
    let rate = |workers| format!("throughput workers={workers} outstanding=1024 n={many}");
    let carries = |p: &Peer| tasks(p) && !matches!(p.name, "raw" | "raw_line" | "futex" | "raw_sync" | "pair");
    let streams = |p: &Peer| carries(p) || matches!(p.name, "mp_pool_64" | "pool_handles");
    // With more workers these would spin where others want to run.
    let two_sides = named(&["raw", "pair"]);
    add("b", &[("1 worker", rate(1))], &|p| streams(p) || two_sides(p));
    let crews: &[(&str, usize)] = if short {
        &[("2 workers", 2), ("64 workers", 64)]
    } else {
        &[("2 workers", 2), ("4 workers", 4), ("16 workers", 16), ("64 workers", 64)]
    };
    let crews: Vec<_> = crews.iter().map(|&(title, workers)| (title, rate(workers))).collect();
    // loky takes ten seconds to start 64.
    add("b", &crews, &|p| streams(p) && !(short && p.name == "loky"));

    let rings = named(&["lane", "array_queue", "vyukov"]);
    add("l", &[("push and pop, one process", "lane contended=false".into())], &rings);
    add("l", &[("two push at once", "lane contended=fill".into())], &rings);
    add("l", &[("two pop at once", "lane contended=drain".into())], &rings);

    let sizes: &[usize] =
        if short { &[1 << 20] } else { &[64, 1 << 10, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24] };
    let carriers = |p: &Peer| carries(p) && p.kind != Kind::Threads || p.name == "raw";
    for &bytes in sizes {
        let n = if short { 100 } else { 1000 };
        let payload = |mode| format!("payload bytes={bytes} mode={mode} n={n}");
        let size = size(bytes);
        add("c", &[(&format!("{size}, copied"), payload("copied"))], &carriers);
        add("c", &[(&format!("{size}, in place"), payload("in-place"))], &|p| carriers(p) || p.name == "read");
        add(
            "c",
            &[(&format!("{size}, made in place"), payload("built"))],
            &named(&["raw", "pool", "iceoryx2_request"]),
        );
    }

    let maps = named(&["pool", "rayon", "mp_pool", "executor", "loky"]);
    // A piece: so many at once where a peer can't do all in a run's time.
    let (piece, single) = if short { (2_000_000, 1_000_000) } else { (10_000_000, 10_000_000) };
    add("d", &[("chunked", format!("map chunked=true workers=2 items=10000000 piece={piece}"))], &maps);
    add("d", &[("one by one", format!("map chunked=false workers=2 items={single} piece=5000"))], &maps);

    let pools = named(&["pool", "rayon", "mp_pool", "executor", "loky"]);
    let processes = named(&["pool", "mp_pool", "executor", "loky"]);
    add("e", &[("start of 2 workers, until the first task of each has come back", "start workers=2".into())], &pools);
    add("e", &[("start of 16 workers", "start workers=16".into())], &pools);
    let deaths = if short { 3 } else { 10 };
    add(
        "e",
        &[(
            "respawn: an idle worker is killed, until its successor runs its first task",
            format!("respawn n={deaths}"),
        )],
        &named(&["pool", "mp_pool"]),
    );
    add("e", &[("memory (PSS) per further worker", "memory workers=16".into())], &processes);
    let seconds = if short { 1 } else { 5 };
    add(
        "e",
        &[("at rest: CPU ticks, and voluntary context switches", format!("rest seconds={seconds} workers=2"))],
        &processes,
    );

    add(
        "f",
        &[("by the worker beside it, which was idle", format!("recovery workers=2 n={deaths}"))],
        &named(&["pool"]),
    );
    add("f", &[("by a new worker, as there was one only", format!("recovery workers=1 n={deaths}"))], &processes);

    tables.retain(|t| !t.peers.is_empty() && (letters.is_empty() || letters.iter().any(|l| l == t.letter)));
    if tables.is_empty() {
        return Err("no such case: there are a, b, c, d, e, f and l, for those peers that have it".into());
    }
    Ok(tables)
}

pub(crate) fn size(bytes: usize) -> String {
    match bytes {
        0x10_0000.. => format!("{} MiB", bytes >> 20),
        0x400.. => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} B"),
    }
}
