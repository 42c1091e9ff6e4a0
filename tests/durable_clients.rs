//! Durable clients that have attached to a pool that lies in a file: whoever is killed, the next of the same name has their tasks.
//!
//! The test program is the pool's program and a client too: see [`main`]. `SHMWORKER_STATE_KILLS=500` kills that often at random.

#[path = "common/eventually.rs"]
mod eventually;
#[path = "common/program.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod program;
#[path = "common/scene.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod scene;
#[path = "common/squares.rs"]
mod squares;

use eventually::eventually;
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, alarm},
};
use program::Program;
use scene::until;
use shmworker::{
    Pool, SegmentCreateError, StateError, Tasks,
    pool::{Adopted, AttachError, AttachOptions, Attached, StartError, Task, TaskError, TaskOptions},
};
use squares::{SQUARE, number, whole_lines, write_squares};
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write,
    os::unix::{fs::FileExt, process::ExitStatusExt},
    path::Path,
    process::{Command, ExitCode},
    sync::Barrier,
    thread,
    time::{Duration, Instant, SystemTime},
};

const HOLD: Task<String, u64> = Task::named("hold");

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        [_, "--pool", dir] => serve(Path::new(dir)),
        [_, "--holds", dir] => hold(Path::new(dir)),
        [_, "--leaves", dir, client, x] => leave(client, Path::new(dir), x.parse().unwrap()),
        [_, "--squares", dir, client, n] => squares(Path::new(dir), client, n.parse().unwrap()),
        _ => {
            return scene::run(scenes![
                who_is_killed_has_a_successor,
                all_are_killed,
                another_boot,
                the_end_of_a_pool_cancels_nothing_of_its_clients,
                one_process_at_a_time_has_a_name,
                who_is_refused_hears_why,
                a_name_is_one_whether_its_client_makes_the_pool_or_attaches,
                names_of_which_nothing_is_left_take_no_place,
                each_result_is_there_once,
            ]);
        }
    }
    ExitCode::SUCCESS
}

// ---- the programs ---------------------------------------------------------------------------------------------------

fn tasks() -> Tasks {
    let mut tasks = Tasks::new();
    tasks.function("square", |x: u64| x * x);
    // Says in this directory that it has begun, and ends when that says so.
    tasks.handler("hold", |_, dir: String| {
        let dir = Path::new(&dir);
        OpenOptions::new().append(true).create(true).open(dir.join("began"))?.write_all(b".")?;
        until(|| dir.join("end").exists());
        Ok(7_u64)
    });
    tasks
}

/// Of the pool in this directory.
fn name(dir: &Path) -> String {
    format!("durable{}", dir.file_name().unwrap().to_str().unwrap())
}

fn pool(dir: &Path) -> Pool {
    let builder =
        || Pool::builder().workers(2).grace(Duration::from_millis(100)).name(name(dir)).file(dir.join("state"));
    // Those who had the file before end by themselves, and with the last of them the lock.
    eventually("nobody has the file", || match builder().fork(tasks()) {
        Err(StartError::State(StateError::Create(SegmentCreateError::InUse { .. }))) => None,
        pool => Some(pool.unwrap()),
    })
}

fn attach_as(client: &str, dir: &Path) -> Result<Attached, AttachError> {
    AttachOptions::new().client(client).attach(&name(dir))
}

fn attach(dir: &Path) -> Result<Attached, AttachError> {
    attach_as("nightly", dir)
}

/// A pool that is there until a file `over` is.
fn serve(dir: &Path) {
    let pool = pool(dir);
    println!("{} adopted", pool.adopted().len());
    until(|| dir.join("over").exists());
    let left = pool.shutdown(Duration::from_millis(100)).unwrap();
    println!("{} cancelled, {} killed", left.cancelled, left.killed);
}

/// A client with a result in hand, two tasks that run, and one that waits.
fn hold(dir: &Path) {
    let pool = attach(dir).unwrap();
    let of_key = |key: &str| TaskOptions::new().attempts(3).key(key);
    let first = pool.submit_with(SQUARE, &7, &of_key("in hand")).unwrap();
    first.finish_with(|finished| {
        assert_eq!(finished.result, Ok(49));
        let text = dir.to_str().unwrap().to_owned();
        let running = ["a", "b"].map(|key| pool.submit_with(HOLD, &text, &of_key(key)).unwrap());
        until(|| began(dir) == 2);
        let waiting = pool.submit(SQUARE, &8).unwrap();
        println!("holds");
        until(|| false);
        drop((running, waiting));
    });
}

/// Submits, and ends without a word.
fn leave(client: &str, dir: &Path, x: u64) {
    let pool = attach_as(client, dir).unwrap();
    let _handle = pool.submit(SQUARE, &x).unwrap();
    // SAFETY: nothing of this process is needed any more.
    unsafe { libc::_exit(0) }
}

/// Writes the squares below `n` into a file, each once, whatever has happened before to this program or its pool.
fn squares(dir: &Path, client: &str, n: u64) {
    // The pool may be killed before it is.
    std::panic::set_hook(Box::new(|panic| {
        let said = panic.to_string();
        if !["SIGKILL", "coordinator", "CoordinatorDied"].iter().any(|known| said.contains(known)) {
            eprintln!("{said}");
        }
    }));
    let pool = match attach_as(client, dir) {
        Ok(pool) => pool,
        Err(AttachError::NotRunning(_) | AttachError::Failed(_)) => std::process::exit(1),
        Err(e) => panic!("{e}"),
    };
    let out = dir.join(client);
    write_squares(&pool, pool.adopted(), &out, n);
    pool.drain().unwrap();
}

// ---- what the scenes share ------------------------------------------------------------------------------------------

/// How many tasks have begun to hold here.
fn began(dir: &Path) -> usize {
    fs::read(dir.join("began")).map_or(0, |began| began.len())
}

fn command(args: &[&str], dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(args[0]).arg(dir).args(&args[1..]);
    command
}

/// The program of the pool in this directory, which finds nothing of its own.
#[track_caller]
fn started(dir: &Path) -> Program {
    let _ = fs::remove_file(dir.join("over"));
    let mut program = Program::start(command(&["--pool"], dir));
    program.says("0 adopted", 1, |line| line == "0 adopted");
    program
}

/// The pool ends in order. Says how.
#[track_caller]
fn ends(dir: &Path, mut program: Program) -> String {
    fs::write(dir.join("over"), "").unwrap();
    assert!(program.end().success());
    program.stdout().pop().unwrap()
}

/// A client that holds what it has.
#[track_caller]
fn holding(dir: &Path) -> Program {
    let mut client = Program::start(command(&["--holds"], dir));
    client.says("holds", 1, |line| line == "holds");
    client
}

/// How it stands with those who have attached, by what `inspect` tells.
fn attached(dir: &Path) -> Vec<String> {
    let told = Command::new(env!("CARGO_BIN_EXE_shmworker")).args(["inspect", "--json", &name(dir)]).output().unwrap();
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    let participants = told["participants"].as_array().unwrap().iter().filter(|p| p["label"] == "attached");
    participants.filter(|p| p["state"] != "dead").map(|p| p["state"].as_str().unwrap().to_owned()).collect()
}

/// The coordinator hears a moment after its end that the only client is gone.
#[track_caller]
fn is_absent(dir: &Path) {
    eventually("the client is known to be absent", || (attached(dir) == ["absent"]).then_some(()));
}

/// Takes what a client held, with how many attempts each of the running tasks has used up.
#[track_caller]
fn takes_what_was_held(dir: &Path, attempts: u32) {
    let client = attach(dir).unwrap();
    let mut found: BTreeMap<Option<String>, Adopted> =
        client.adopted().into_iter().map(|found| (found.key().map(str::to_owned), found)).collect();
    let mut take = |key: Option<&str>| found.remove(&key.map(str::to_owned)).unwrap();
    let of_name = |found: &Adopted, name| assert_eq!(found.name(), name);
    fs::write(dir.join("end"), "").unwrap();
    for key in ["a", "b"] {
        let held = take(Some(key));
        of_name(&held, "hold");
        let finished = held.into_handle(HOLD).unwrap().finish();
        assert_eq!((finished.result, finished.attempts), (Ok(7), attempts), "{key}");
    }
    for (key, square) in [(Some("in hand"), 49), (None, 64)] {
        let held = take(key);
        of_name(&held, "square");
        assert_eq!(held.into_handle(SQUARE).unwrap().wait(), Ok(square));
    }
    assert!(found.is_empty() && client.adopted().is_empty(), "each is given out once");
    assert_eq!(attached(dir), ["live"]);
    drop(client);
    assert!(attached(dir).is_empty());
    // Nothing is left for the next.
    assert!(attach(dir).unwrap().adopted().is_empty());
}

/// All at one moment: what ran is begun by nobody else before.
fn kill_at_once(programs: &[&Program]) {
    let signal = |signal| {
        for process in programs.iter().flat_map(|program| program.family()) {
            let _ = kill(Pid::from_raw(process.pid), signal);
        }
    };
    eventually("all are stopped", || {
        signal(Signal::SIGSTOP);
        programs.iter().flat_map(|program| program.family()).all(|process| process.state == 'T').then_some(())
    });
    signal(Signal::SIGKILL);
    eventually("all are dead", || programs.iter().all(|program| program.family().is_empty()).then_some(()));
}

/// By and by, in any order: who is left may go on for a moment.
fn kill_all(programs: &[&Program], random: &mut Random) {
    eventually("all are dead", || {
        let family = || programs.iter().flat_map(|program| program.family()).collect::<Vec<_>>();
        let mut all = family();
        while !all.is_empty() {
            let one = all.swap_remove(random.below(all.len() as u64) as usize);
            let _ = kill(Pid::from_raw(one.pid), Signal::SIGKILL);
        }
        family().is_empty().then_some(())
    });
}

/// Xorshift (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn seeded() -> Random {
        let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
        println!("seed {seed}");
        Random(seed)
    }

    fn below(&mut self, n: u64) -> u64 {
        for (left, by) in [(true, 13), (false, 7), (true, 17)] {
            self.0 ^= if left { self.0 << by } else { self.0 >> by };
        }
        self.0 % n
    }
}

// ---- the scenes -----------------------------------------------------------------------------------------------------

fn who_is_killed_has_a_successor() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let pool = started(dir);
    let mut client = holding(dir);
    client.signal(Signal::SIGKILL);
    client.end();
    is_absent(dir);
    // Nor is anything lost by those who die over it.
    for step in ["led", "journaled"] {
        let mut next = command(&["--holds"], dir);
        next.env("SHMWORKER_DIES_AT", step);
        assert_eq!(Program::start(next).end().signal(), Some(Signal::SIGKILL as i32));
        is_absent(dir);
    }
    takes_what_was_held(dir, 1);
    assert_eq!(began(dir), 2, "they went on");
    assert_eq!(ends(dir, pool), "0 cancelled, 0 killed");
}

fn all_are_killed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    kill_at_once(&[&started(dir), &holding(dir)]);
    // One to which the client does not come keeps what is its.
    let pool = started(dir);
    until(|| began(dir) == 4);
    kill_at_once(&[&pool]);
    let pool = started(dir);
    takes_what_was_held(dir, 3);
    assert_eq!(began(dir), 6);
    assert_eq!(ends(dir, pool), "0 cancelled, 0 killed");
}

fn another_boot() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (pool, client) = (started(dir), holding(dir));
    kill_at_once(&[&pool, &client]);
    // The boot id in its header.
    OpenOptions::new().write(true).open(dir.join("state")).unwrap().write_all_at(&1_u64.to_ne_bytes(), 56).unwrap();
    // Its journal is there also for the next but one.
    kill_at_once(&[&started(dir)]);
    assert!(dir.join("state.old").exists());
    let pool = started(dir);
    assert_eq!(began(dir), 2, "they are not in the new segment yet");
    takes_what_was_held(dir, 1);
    assert_eq!(began(dir), 4);
    assert_eq!(ends(dir, pool), "0 cancelled, 0 killed");
}

fn the_end_of_a_pool_cancels_nothing_of_its_clients() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let pool = started(dir);
    let client = attach(dir).unwrap();
    let options = TaskOptions::new().attempts(9);
    let text = dir.to_str().unwrap().to_owned();
    let handles = [(); 3].map(|()| client.submit_with(HOLD, &text, &options).unwrap());
    until(|| began(dir) == 2);
    assert_eq!(ends(dir, pool), "0 cancelled, 2 killed");
    for handle in handles {
        assert!(matches!(handle.wait(), Err(TaskError::CoordinatorDied(_) | TaskError::PoolEnded(_))));
    }
    drop(client);
    fs::write(dir.join("end"), "").unwrap();
    let pool = started(dir);
    let client = attach(dir).unwrap();
    let found: Vec<_> = client.adopted().into_iter().map(|found| found.into_handle(HOLD).unwrap().wait()).collect();
    assert_eq!(found, [Ok(7), Ok(7), Ok(7)]);
    drop(client);
    assert_eq!(ends(dir, pool), "0 cancelled, 0 killed");
}

fn one_process_at_a_time_has_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let pool = pool(dir);
    for _ in 0..20 {
        let (begin, end) = (Barrier::new(4), Barrier::new(4));
        let one = || {
            begin.wait();
            let attached = attach(dir);
            end.wait();
            attached.map(drop)
        };
        let ways: Vec<_> = thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(one));
            threads.map(|thread| thread.join().unwrap()).into()
        });
        let refused: Vec<_> = ways.into_iter().filter_map(Result::err).collect();
        assert_eq!(refused.len(), 3, "{refused:?}");
        let (name, pid) = (name(dir), std::process::id());
        let said = format!(
            "pool '{name}' refuses the client 'nightly': a process has attached under this name (pid {pid}): end that, or choose \
             another name"
        );
        assert!(refused.iter().all(|e| *e == AttachError::Refused(said.clone())), "{refused:?}");
    }
    pool.join().unwrap();
}

fn who_is_refused_hears_why() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (name, pid) = (name(dir), std::process::id());
    let attach = |client: &str| AttachOptions::new().client(client).attach(&name).unwrap_err();
    let refuses = |client, why| AttachError::Refused(format!("pool '{name}' refuses the client '{client}': {why}"));
    {
        let _without_a_file = Pool::builder().workers(1).name(&name).fork(tasks()).unwrap();
        let why = "it does not lie in a file, so nothing in it outlives a client: have it made with Builder::file, or attach \
                   without a client's name";
        assert_eq!(attach("nightly"), refuses("nightly", why));
        Pool::attach(&name).unwrap();
    }
    let pool = pool(dir);
    let why = format!("that is the name of the program that has made it (pid {pid}): choose another name");
    assert_eq!(attach("main"), refuses("main", &why));
    for wrong in ["", "a b", "a\0b", "../a", &"x".repeat(33)] {
        let said = format!("invalid client name '{wrong}': use 1 to 32 letters, digits, '.', '_' and '-'");
        assert_eq!(attach(wrong), AttachError::ClientName(said));
    }
    // Its journal is another's by now, or none.
    let journal = dir.join("state.journal.nightly");
    fs::write(&journal, "hello").unwrap();
    let said = format!("'{}' is no journal: move it away, or name another file", journal.display());
    assert_eq!(attach("nightly"), AttachError::Journal(said));
    fs::remove_file(&journal).unwrap();
    let moved = dir.join("moved");
    fs::rename(dir.join("state"), &moved).unwrap();
    fs::write(dir.join("state"), "").unwrap();
    // Where the file is now is where its journals are looked for.
    let client = AttachOptions::new().client("nightly").attach(&name).unwrap();
    assert_eq!(client.submit(SQUARE, &3).unwrap().wait(), Ok(9));
    assert!(dir.join("moved.journal.nightly").exists());
    fs::remove_file(&moved).unwrap();
    let lost = attach("weekly");
    assert!(
        matches!(&lost, AttachError::Journal(said) if said.starts_with("cannot find the file that pool")),
        "{lost}"
    );
    drop(client);
    pool.join().unwrap();
}

fn a_name_is_one_whether_its_client_makes_the_pool_or_attaches() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let made_by = |client: &str| {
        Pool::builder().workers(1).name(name(dir)).file(dir.join("state")).client(client).fork(tasks()).unwrap()
    };
    let leave = |client: &str, x: u64| command(&["--leaves", client, &x.to_string()], dir).status().unwrap();
    let takes = |mut adopted: Vec<Adopted>| {
        let (only, none) = (adopted.pop().unwrap(), adopted.pop());
        assert!(none.is_none());
        only.into_handle(SQUARE).unwrap().wait().unwrap()
    };
    let pool = made_by("main");
    assert!(leave("nightly", 3).success());
    pool.join().unwrap();
    let pool = made_by("nightly");
    assert_eq!(takes(pool.adopted()), 9);
    let refused = attach(dir).unwrap_err().to_string();
    assert!(
        refused.contains("refuses the client 'nightly': that is the name of the program that has made it"),
        "{refused}"
    );
    assert!(leave("main", 4).success());
    pool.join().unwrap();
    let pool = made_by("main");
    assert_eq!(takes(pool.adopted()), 16);
    assert!(attach(dir).unwrap().adopted().is_empty());
    pool.join().unwrap();
}

fn names_of_which_nothing_is_left_take_no_place() {
    const MANY: u64 = 200;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let pool = pool(dir);
    let of = |client: &str| attach_as(client, dir);
    for x in 0..MANY {
        let client = of(&format!("once-{x}")).unwrap();
        assert_eq!(client.submit(SQUARE, &x).unwrap().wait(), Ok(x * x));
    }
    let keeps = |x: u64| command(&["--leaves", &format!("keeps-{x}"), &x.to_string()], dir);
    let mut left = 0;
    let said = loop {
        // One that takes a place of which nothing is left says whether there is one.
        match of("once-more") {
            Ok(client) => drop(client),
            Err(e) => break e.to_string(),
        }
        assert!(keeps(left).status().unwrap().success());
        left += 1;
        assert!(left < MANY, "whoever starts next finds no place");
    };
    assert!(left > 24, "{left}");
    let places = left + 1;
    assert!(
        said.contains(&format!("refuses the client 'once-more': {places} other clients have places in its file: ")),
        "{said}"
    );
    // Its workers may die, and others may attach.
    let client = of("keeps-7").unwrap();
    let found = client.adopted().pop().unwrap();
    assert_eq!(found.into_handle(SQUARE).unwrap().wait(), Ok(49));
    drop(client);
    drop(of("once-more").unwrap());
    pool.join().unwrap();
    // The next start takes no offence.
    let pool = self::pool(dir);
    let client = of("keeps-8").unwrap();
    assert_eq!(client.adopted().pop().unwrap().into_handle(SQUARE).unwrap().wait(), Ok(64));
    drop(client);
    pool.join().unwrap();
}

/// A client, or the pool, or all are killed at any moment of the time that two clients take for all.
fn each_result_is_there_once() {
    const STEP: u64 = 500;
    const CLIENTS: [&str; 2] = ["nightly", "weekly"];
    let kills = std::env::var("SHMWORKER_STATE_KILLS").map_or(25, |n| n.parse::<u32>().unwrap());
    alarm::set(60 + 4 * kills);
    let (trial, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let clients =
        |dir: &Path, n: u64| CLIENTS.map(|client| Program::start(command(&["--squares", client, &n.to_string()], dir)));
    let end_well = |clients: [Program; 2]| clients.into_iter().for_each(|mut client| assert!(client.end().success()));
    let pool = started(trial.path());
    let begins = Instant::now();
    end_well(clients(trial.path(), STEP));
    let longest = begins.elapsed().as_micros() as u64;
    ends(trial.path(), pool);
    let (dir, mut random) = (dir.path(), Random::seeded());
    let (mut pool, mut n, mut said) = (started(dir), STEP, Vec::new());
    for _ in 0..kills {
        // There is always something to do.
        while CLIENTS.iter().any(|client| whole_lines(&dir.join(client)).len() as u64 > n - STEP / 2) {
            n += STEP / 2;
        }
        let mut clients = clients(dir, n);
        let (begins, life) = (Instant::now(), Duration::from_micros(random.below(longest)));
        while begins.elapsed() < life {
            std::hint::spin_loop();
        }
        match random.below(3) {
            // Its successor comes while the other is there.
            0 => {
                kill_all(&[&clients[0]], &mut random);
                clients[0].end();
                said.extend(clients[0].stderr());
                clients[0] = Program::start(command(&["--squares", CLIENTS[0], &n.to_string()], dir));
            }
            1 => kill_all(&[&clients[0], &clients[1], &pool], &mut random),
            // They find that out.
            _ => kill_all(&[&pool], &mut random),
        }
        for mut client in clients {
            client.end();
            said.extend(client.stderr());
        }
        if pool.family().is_empty() {
            pool = started(dir);
        }
    }
    assert_eq!(said, [""; 0]);
    end_well(clients(dir, n));
    ends(dir, pool);
    for client in CLIENTS {
        let mut squares: Vec<u64> = Vec::new();
        for line in whole_lines(&dir.join(client)) {
            let (x, square) = (number(&line), line.split_once(' ').unwrap().1);
            assert_eq!(square, (x * x).to_string());
            squares.push(x);
        }
        squares.sort_unstable();
        assert_eq!(squares, (0..n).collect::<Vec<_>>());
    }
}
