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

/// All, in the order of the tables.
pub(crate) const PEERS: &[Peer] = &[
    peer("raw", Kind::Limit, "**mapped memory**, 64 B and a flag each way"),
    peer("raw_line", Kind::Limit, "one cache line to and fro"),
    peer("futex", Kind::Limit, "**futex** ping-pong, always asleep, 64 B each way"),
    peer("read", Kind::Limit, "reading it once, one process"),
    peer("pool", Kind::Ours, "**shmworker**, `Pool`"),
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

/// One table: a case, and who runs at it.
pub(crate) struct Table {
    /// Of the section.
    pub(crate) letter: &'static str,
    pub(crate) title: String,
    /// As the programs are told.
    pub(crate) case: String,
    pub(crate) peers: Vec<&'static Peer>,
    /// For one single run of each peer more, with one value per trip.
    pub(crate) has_distribution: bool,
}

/// The tables for these letters and peers; for all if none are named.
pub(crate) fn plan(short: bool, letters: &[String], names: &[String]) -> Result<Vec<Table>> {
    if let Some(unknown) = names.iter().find(|name| find(name).is_none()) {
        let all: Vec<_> = PEERS.iter().map(|p| p.name).collect();
        return Err(format!("no peer is named {unknown:?}: there are {}", all.join(", ")).into());
    }
    let mut tables = Vec::new();
    let mut add = |letter, title: &str, case: String, peers: &dyn Fn(&Peer) -> bool| {
        tables.push(Table {
            letter,
            title: title.to_owned(),
            has_distribution: case.starts_with("round_trip") && (!short || case.contains("two-cores")),
            case,
            peers: PEERS
                .iter()
                .filter(|p| peers(p) && (names.is_empty() || names.iter().any(|n| n == p.name)))
                .collect(),
        });
    };
    let tasks = |p: &Peer| !matches!(p.name, "read" | "lane" | "vyukov");
    let named = |names: &'static [&'static str]| move |p: &Peer| names.contains(&p.name);

    let trips = if short { 2000 } else { 20_000 };
    let asleep = |p: &Peer| {
        tasks(p)
            && !matches!(p.name, "raw" | "raw_line" | "pair" | "array_queue" | "iceoryx2_pubsub" | "iceoryx2_request")
    };
    add("a", "both sides busy", format!("round_trip placement=two-cores n={trips}"), &|p| {
        tasks(p) && p.name != "futex"
    });
    add("a", "the worker asleep", format!("round_trip placement=asleep n={}", trips / 20), &asleep);
    add("a", "both on one core", format!("round_trip placement=one-core n={trips}"), &|p| tasks(p) && p.name != "pair");

    let many = if short { 50_000 } else { 1_000_000 };
    let counts: &[usize] = if short { &[1, 64] } else { &[1, 2, 4, 16, 64] };
    let streams = |p: &Peer| tasks(p) && !matches!(p.name, "raw" | "raw_line" | "futex" | "raw_sync");
    for &workers in counts {
        let title = format!("{workers} worker{}", if workers == 1 { "" } else { "s" });
        add("b", &title, format!("throughput workers={workers} outstanding=1024 n={many}"), &streams);
    }

    add("l", "push and pop, one process", "lane contended=false".into(), &named(&["lane", "array_queue", "vyukov"]));
    add("l", "two push at once", "lane contended=fill".into(), &named(&["lane", "array_queue", "vyukov"]));
    add("l", "two pop at once", "lane contended=drain".into(), &named(&["lane", "array_queue", "vyukov"]));

    let sizes: &[usize] =
        if short { &[1 << 20] } else { &[64, 1 << 10, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24] };
    let carriers = |p: &Peer| streams(p) && p.kind != Kind::Threads && p.name != "pair" || p.name == "raw";
    for &bytes in sizes {
        let size = size(bytes);
        let n = if short { 100 } else { 1000 };
        add("c", &format!("{size}, copied"), format!("payload bytes={bytes} mode=copied n={n}"), &carriers);
        add("c", &format!("{size}, in place"), format!("payload bytes={bytes} mode=in-place n={n}"), &|p| {
            carriers(p) || p.name == "read"
        });
        add(
            "c",
            &format!("{size}, made in place"),
            format!("payload bytes={bytes} mode=built n={n}"),
            &named(&["raw", "pool", "iceoryx2_request"]),
        );
    }

    let items = if short { 200_000 } else { 10_000_000 };
    let maps = named(&["pool", "rayon", "mp_pool", "executor", "loky"]);
    add("d", "chunked", format!("map items={items} chunked=true workers=2"), &maps);
    // So many that no run takes more than some seconds.
    add("d", "one by one", format!("map items={} chunked=false workers=2", items / 100), &maps);

    let pools = |p: &Peer| matches!(p.name, "pool" | "rayon" | "mp_pool" | "executor" | "loky");
    let processes = |p: &Peer| pools(p) && p.name != "rayon";
    add("e", "start of 2 workers, until the first task of each has come back", "start workers=2".into(), &pools);
    add("e", "start of 16 workers", "start workers=16".into(), &pools);
    add(
        "e",
        "respawn: from `kill -9` to the new worker's first task",
        format!("respawn n={}", if short { 2 } else { 5 }),
        &named(&["pool", "mp_pool"]),
    );
    add("e", "memory (PSS) per further worker", "memory workers=16".into(), &processes);
    add(
        "e",
        "at rest: CPU ticks, and voluntary context switches",
        format!("rest seconds={} workers=2", if short { 1 } else { 5 }),
        &processes,
    );

    add(
        "f",
        "from `kill -9` to the task's next attempt",
        format!("recovery n={}", if short { 3 } else { 10 }),
        &processes,
    );

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
