//! How pools start, and what is left of them: by fork, forkserver and exec, in all that can go wrong.
//!
//! Each scene is a process of its own, this program with the scene's name: so it may fork, and what it leaves behind can be
//! counted. A scene fails by a panic.

use libtest_mimic::{Arguments, Failed, Trial};
use nix::{
    errno::Errno,
    libc,
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{SigHandler, Signal, kill, signal},
        wait::{WaitStatus, wait, waitpid},
    },
    unistd::{ForkResult, Pid, close, fork, getpid, getppid},
};
use shmworker::{
    Pool, Tasks,
    pool::{AnotherProcess, Builder, PoolError, StartError, Task, TaskError},
};
use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    process::{Command, ExitCode, Output, Stdio},
    time::Duration,
};

/// A scene that is being played, as first argument behind this.
const SCENE: &str = "--scene";

struct Registered {
    square: Task<u64, u64>,
    /// Its process, that one's parent, and which execution of the program it runs in.
    process: Task<(), (i32, i32, u128)>,
    descriptors: Task<(), Vec<String>>,
    print: Task<String, usize>,
    for_ever: Task<(), ()>,
    nested: Task<usize, Result<u64, String>>,
}

fn register() -> (Tasks, Registered) {
    let mut tasks = Tasks::new();
    let registered = Registered {
        square: tasks.function("square", |x: u64| x * x),
        process: tasks.function("process", |()| (getpid().as_raw(), getppid().as_raw(), execution())),
        descriptors: tasks.function("descriptors", |()| descriptors()),
        print: tasks.function("print", |line: String| {
            println!("{line}");
            std::io::stdin().read_to_end(&mut Vec::new()).unwrap()
        }),
        for_ever: tasks.function("for ever", |()| {
            loop {
                std::thread::park();
            }
        }),
        nested: tasks.function("nested", |method: usize| {
            let pool = METHODS[method].1(Pool::builder().workers(1)).map_err(|e| e.to_string())?;
            let square = pool.submit(register().1.square, &12).map_err(|e| e.to_string())?;
            square.wait().map_err(|e| e.to_string())
        }),
    };
    (tasks, registered)
}

fn tasks() -> Tasks {
    let (mut tasks, _) = register();
    // What a registry must not do.
    match scene().as_deref() {
        Some("tasks_that_differ") => {
            tasks.function(&format!("of process {}", getpid()), |()| ());
        }
        Some("a_registry_that_panics") if is_started() => panic!("no tasks today"),
        Some("a_registry_with_a_thread") => drop(std::thread::spawn(std::thread::park)),
        _ => {}
    }
    tasks
}

/// Which execution of a program this process is in: a number that the kernel draws for each (`getauxval(3)`), and a fork keeps.
fn execution() -> u128 {
    // SAFETY: a plain number in, and one out.
    let bytes = unsafe { libc::getauxval(libc::AT_RANDOM) } as *const u128;
    // SAFETY: the kernel has put 16 bytes there, which stay.
    unsafe { bytes.read_unaligned() }
}

type Start = fn(Builder) -> Result<Pool, StartError>;

const METHODS: [(&str, Start); 3] =
    [("fork", |b| b.fork(tasks())), ("forkserver", Builder::forkserver), ("exec", Builder::exec)];
const EXECUTING: [(&str, Start); 2] = [METHODS[1], METHODS[2]];

fn two() -> Builder {
    Pool::builder().workers(2)
}

/// The scene that this process plays.
fn scene() -> Option<String> {
    let mut args = std::env::args().skip(1);
    (args.next()? == SCENE).then(|| args.next())?
}

/// Is this a process of a pool, on its way to `init`?
fn is_started() -> bool {
    getppid().as_raw() != std::env::var("SCENE_PARENT").map_or(0, |pid| pid.parse().unwrap())
}

const SCENES: [(&str, fn()); 23] = [
    ("every_method_runs_tasks", every_method_runs_tasks),
    ("workers_are_where_the_method_says", workers_are_where_the_method_says),
    ("a_fork_with_threads_is_refused", a_fork_with_threads_is_refused),
    ("init_was_not_called", init_was_not_called),
    ("init_was_called_late", init_was_called_late),
    ("the_child_ends_before_init", the_child_ends_before_init),
    ("the_child_makes_pools_instead", the_child_makes_pools_instead),
    ("the_child_stays_before_init", the_child_stays_before_init),
    ("the_child_is_late", the_child_is_late),
    ("tasks_that_differ", tasks_that_differ),
    ("a_registry_that_panics", a_registry_that_panics),
    ("a_registry_with_a_thread", a_registry_with_a_thread),
    ("what_fails_at_start_is_said_at_start", what_fails_at_start_is_said_at_start),
    ("fifty_pools_leave_nothing", fifty_pools_leave_nothing),
    ("a_start_that_fails_leaves_nothing", a_start_that_fails_leaves_nothing),
    ("pools_stand_side_by_side", pools_stand_side_by_side),
    ("a_panic_ends_its_pool", a_panic_ends_its_pool),
    ("a_worker_may_have_a_pool", a_worker_may_have_a_pool),
    ("a_fork_of_the_owner_keeps_off", a_fork_of_the_owner_keeps_off),
    ("standard_streams_that_are_closed", standard_streams_that_are_closed),
    ("a_program_that_is_deleted", a_program_that_is_deleted),
    ("children_that_nobody_waits_for", children_that_nobody_waits_for),
    ("no_descriptor_comes_along", no_descriptor_comes_along),
];

fn main() -> ExitCode {
    let scene = scene();
    match scene.as_deref() {
        Some("init_was_not_called") => {}
        Some("init_was_called_late") => with_a_thread(|| shmworker::init(tasks)),
        Some("the_child_is_late") if is_started() => with_a_thread(|| shmworker::init(tasks)),
        Some("the_child_ends_before_init") if is_started() => return ExitCode::from(7),
        // It goes on as if a user had started it.
        Some("the_child_makes_pools_instead") if is_started() => {}
        Some("the_child_stays_before_init") if is_started() => loop {
            std::thread::park();
        },
        _ => shmworker::init(tasks),
    }
    match scene.as_deref() {
        None => libtest_mimic::run(&Arguments::from_args(), trials()).exit_code(),
        Some("owner") => owner(),
        Some("printer") => printer(),
        Some(name) => {
            SCENES.iter().find(|(other, _)| *other == name).expect("a scene").1();
            ExitCode::SUCCESS
        }
    }
}

fn trials() -> Vec<Trial> {
    let scenes = SCENES.map(|(name, _)| Trial::test(name, move || play(name)));
    let others: [(&str, fn()); 3] = [
        ("who_is_killed_takes_its_pool_along", who_is_killed_takes_its_pool_along),
        ("what_workers_print_is_the_programs_output", what_workers_print_is_the_programs_output),
        ("a_variable_set_by_hand_is_an_error", a_variable_set_by_hand_is_an_error),
    ];
    let others = others.map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    scenes.into_iter().chain(others).collect()
}

fn command(scene: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([SCENE, scene]).env("SCENE_PARENT", std::process::id().to_string()).stdin(Stdio::null());
    command
}

fn play(scene: &str) -> Result<(), Failed> {
    let Output { status, stdout, stderr } = command(scene).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    if status.success() { Ok(()) } else { Err(format!("{status}\n{}{}", text(&stdout), text(&stderr)).into()) }
}

fn with_a_thread(code: impl FnOnce()) {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|s| {
        s.spawn(move || stopped.recv());
        code();
        drop(stop);
    });
}

fn squares(pool: &Pool) {
    let handles: Vec<_> = (0..100).map(|x| pool.submit(register().1.square, &x).unwrap()).collect();
    let sum: u64 = handles.into_iter().map(|handle| handle.wait().unwrap()).sum();
    assert_eq!(sum, 328_350);
}

/// What each of this process's descriptors is, but that of the list itself.
fn descriptors() -> Vec<String> {
    let entries = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    let links = entries.filter_map(|path| fs::read_link(path).ok()).map(|link| link.to_string_lossy().into_owned());
    links.filter(|link| !link.ends_with("/fd")).collect()
}

/// A joined thread stands in the list for a moment yet.
fn await_one_thread() {
    while fs::read_dir("/proc/self/task").unwrap().count() > 1 {
        std::thread::yield_now();
    }
}

fn assert_childless() {
    assert_eq!(wait(), Err(Errno::ECHILD));
}

fn refused(start: Start) -> StartError {
    let refused = start(two()).expect_err("refused");
    assert_childless();
    refused
}

// ---- what is to work ------------------------------------------------------------------------------------------------

fn every_method_runs_tasks() {
    for (_, start) in METHODS {
        let pool = start(two()).unwrap();
        squares(&pool);
        pool.join().unwrap();
        assert_childless();
    }
}

fn workers_are_where_the_method_says() {
    for (method, start) in METHODS {
        let pool = start(Pool::builder().workers(1)).unwrap();
        let ask = || pool.submit(register().1.process, &()).unwrap().wait().unwrap();
        let (worker, coordinator, program) = ask();
        let of = |pid: i32, file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
        let parent = of(coordinator, "stat").rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse();
        assert_eq!(parent, Ok(getpid().as_raw()), "{method}");
        assert_eq!(
            (of(coordinator, "comm").trim(), of(worker, "comm").trim()),
            ("coordinator", "worker:0"),
            "{method}"
        );
        assert_eq!(of(worker, "cmdline"), of(getpid().as_raw(), "cmdline"), "{method}");

        kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
        let (successor, _, its_program) = ask();
        assert_ne!(successor, worker);
        let is_copy = (program == execution(), program == its_program);
        let expected = match method {
            "fork" => (true, true),
            "forkserver" => (false, true),
            _ => (false, false),
        };
        assert_eq!(is_copy, expected, "{method}");
    }
}

fn pools_stand_side_by_side() {
    for (a, first) in METHODS {
        for (b, second) in METHODS {
            let (first, second) = (first(two()).unwrap(), second(two()).unwrap_or_else(|e| panic!("{a}, {b}: {e}")));
            squares(&first);
            squares(&second);
            first.join().unwrap();
            squares(&second);
        }
    }
}

fn a_worker_may_have_a_pool() {
    for (outer, start) in METHODS {
        let pool = start(Pool::builder().workers(1)).unwrap();
        for (i, (inner, _)) in METHODS.iter().enumerate() {
            let square = pool.submit(register().1.nested, &i).unwrap().wait().unwrap();
            assert_eq!(square, Ok(144), "{inner} in {outer}");
        }
    }
}

fn standard_streams_that_are_closed() {
    for fd in 0..3 {
        close(fd).unwrap();
    }
    let before = descriptors();
    for (_, start) in METHODS {
        let pool = start(two()).unwrap();
        squares(&pool);
        assert_eq!(pool.submit(register().1.print, &"to nowhere".into()).unwrap().wait(), Ok(0));
        drop(pool);
        assert_eq!(descriptors(), before);
    }
}

fn a_program_that_is_deleted() {
    // The scene runs in a copy of this program, which it removes.
    if let Some(copy) = std::env::var_os("COPY") {
        fs::remove_file(copy).unwrap();
        for (_, start) in METHODS {
            squares(&start(two()).unwrap());
        }
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let status = Command::new(&copy).args(std::env::args_os().skip(1)).env("COPY", &copy).status().unwrap();
    assert!(status.success(), "{status}");
}

fn children_that_nobody_waits_for() {
    // SAFETY: no handler is installed.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.unwrap();
    for (_, start) in METHODS {
        let pool = start(two()).unwrap();
        squares(&pool);
        pool.join().unwrap();
    }
}

fn no_descriptor_comes_along() {
    let secret = tempfile::tempfile().unwrap();
    // Even what is made to be inherited.
    nix::fcntl::fcntl(&secret, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    for (method, start) in METHODS {
        let pool = start(Pool::builder().workers(1)).unwrap();
        let mut found = pool.submit(register().1.descriptors, &()).unwrap().wait().unwrap();
        found.retain(|link| !link.starts_with("pipe:")); // standard output and error
        found.sort();
        let mut expected = vec!["/dev/null", "/memfd:shmworker (deleted)", "anon_inode:[eventfd]"];
        expected.sort_unstable();
        assert_eq!(found, expected, "{method}");
    }
}

// ---- what is refused ------------------------------------------------------------------------------------------------

fn a_fork_with_threads_is_refused() {
    with_a_thread(|| {
        let e = refused(METHODS[0].1);
        assert!(matches!(e, StartError::Threads(2)), "{e}");
        for (_, start) in EXECUTING {
            squares(&start(two()).unwrap());
        }
    });
}

fn init_was_not_called() {
    for (_, start) in EXECUTING {
        let e = refused(start);
        assert!(matches!(e, StartError::NotInitialized), "{e}");
        assert!(e.to_string().contains("`shmworker::init(tasks)` the first line of `main`"), "{e}");
    }
}

fn init_was_called_late() {
    for (_, start) in EXECUTING {
        let e = refused(start);
        assert!(matches!(e, StartError::InitTooLate(2)), "{e}");
    }
    squares(&METHODS[0].1(two()).unwrap());
}

fn the_child_ends_before_init() {
    for (_, start) in EXECUTING {
        let e = refused(start);
        assert!(matches!(&e, StartError::Ended(how) if how == "exit code 7"), "{e}");
    }
}

fn the_child_makes_pools_instead() {
    // The child's own attempt panics, since `init` was not called there; so there is one child, and not thousands.
    for (_, start) in EXECUTING {
        let e = refused(start);
        assert!(matches!(&e, StartError::Ended(how) if how == "exit code 101"), "{e}");
    }
}

fn the_child_stays_before_init() {
    for (_, start) in EXECUTING {
        let e = start(two().start_timeout(Duration::from_millis(200))).unwrap_err();
        assert!(matches!(&e, StartError::TimedOut(_)), "{e}");
        assert_childless();
    }
}

fn the_child_is_late() {
    for (_, start) in EXECUTING {
        let e = refused(start);
        assert!(matches!(&e, StartError::Refused(why) if *why == StartError::InitTooLate(2).to_string()), "{e}");
    }
}

fn tasks_that_differ() {
    for (_, start) in EXECUTING {
        let e = refused(start).to_string();
        let here = format!(": \"of process {}\": () -> () is registered here only, \"of process ", getpid());
        assert!(e.contains(&here), "{e}");
    }
}

fn a_registry_that_panics() {
    for (_, start) in EXECUTING {
        let e = refused(start).to_string();
        assert!(
            e.contains("the function given to shmworker::init panicked at ") && e.contains("no tasks today"),
            "{e}"
        );
    }
}

fn a_registry_with_a_thread() {
    for (_, start) in EXECUTING {
        let e = refused(start);
        assert!(matches!(&e, StartError::Refused(why) if *why == StartError::ThreadsOfTasks(2).to_string()), "{e}");
    }
}

fn what_fails_at_start_is_said_at_start() {
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, 1 << 20, hard).unwrap();
    for (_, start) in METHODS {
        let e = refused(start);
        assert!(matches!(e, StartError::Segment(_)) && e.to_string().contains("raise it with 'ulimit -f'"), "{e}");
    }
    setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();

    // Enough for the caller, and not for the coordinator of so many.
    setrlimit(Resource::RLIMIT_NOFILE, 24, 24).unwrap();
    for (method, start) in METHODS {
        let e = start(Pool::builder().workers(64)).unwrap_err();
        let why = "the pool's coordinator could not start: cannot fork a process: EMFILE: Too many open files";
        assert_eq!(e.to_string(), why, "{method}");
        assert_childless();
    }
}

// ---- what is left ---------------------------------------------------------------------------------------------------

fn fifty_pools_leave_nothing() {
    let before = descriptors().len();
    for (_, start) in METHODS {
        for _ in 0..50 {
            let pool = start(Pool::builder().workers(1)).unwrap();
            assert_eq!(pool.submit(register().1.square, &7).unwrap().wait(), Ok(49));
        }
        await_one_thread();
        assert_eq!(descriptors().len(), before, "{:?}", descriptors());
        assert_childless();
    }
}

fn a_start_that_fails_leaves_nothing() {
    let before = descriptors().len();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // With one descriptor more each time, it fails one step later.
    let mut has_failed_at = BTreeSet::new();
    for (method, start) in METHODS {
        let started = (4..100).any(|limit| {
            setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
            let pool = start(Pool::builder().workers(1));
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
            let has_started = pool.map_err(|e| has_failed_at.insert(e.to_string())).map(|pool| squares(&pool)).is_ok();
            await_one_thread();
            assert_eq!(descriptors().len(), before, "{method}, {limit}: {:?}", descriptors());
            assert_childless();
            has_started
        });
        assert!(started, "{method}: {has_failed_at:#?}");
    }
    assert!(has_failed_at.len() >= 3, "{has_failed_at:#?}");
}

fn a_panic_ends_its_pool() {
    for (_, start) in METHODS {
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            let pool = start(two()).unwrap();
            let _handle = pool.submit(register().1.square, &7).unwrap();
            panic!("on purpose");
        }));
        assert!(unwound.is_err());
        assert_childless();
    }
}

fn a_fork_of_the_owner_keeps_off() {
    for (method, start) in METHODS {
        let pool = start(two()).unwrap();
        let handles = [(); 2].map(|()| pool.submit(register().1.square, &7).unwrap());
        // SAFETY: the only other thread watches the pool, and holds no lock.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let kept_off = catch_unwind(AssertUnwindSafe(|| {
                    let [waited, dropped] = handles;
                    assert!(matches!(pool.submit(register().1.square, &1), Err(PoolError::AnotherProcess(_))));
                    assert!(matches!(dropped.cancel(), Err(TaskError::AnotherProcess(AnotherProcess { .. }))));
                    assert!(matches!(waited.wait(), Err(TaskError::AnotherProcess(_))));
                    drop(dropped);
                    drop(pool);
                    // One of its own is another matter.
                    let own = start(two()).unwrap();
                    squares(&own);
                    own.join().unwrap();
                }));
                // SAFETY: ends the process at once.
                unsafe { libc::_exit(kept_off.is_err().into()) }
            }
            ForkResult::Parent { child } => {
                assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)), "{method}");
                handles.into_iter().for_each(|handle| assert_eq!(handle.wait(), Ok(49)));
                squares(&pool);
            }
        }
    }
}

/// Has a pool of each kind, of which one worker is busy for ever; says their processes, and waits for its end.
fn owner() -> ExitCode {
    let pools = METHODS.map(|(_, start)| {
        let pool = start(two().grace(Duration::from_millis(100))).unwrap();
        let (worker, coordinator, _) = pool.submit(register().1.process, &()).unwrap().wait().unwrap();
        let busy = pool.submit(register().1.for_ever, &()).unwrap();
        println!("{worker}\n{coordinator}");
        let children = fs::read_to_string(format!("/proc/{coordinator}/task/{coordinator}/children")).unwrap();
        children.split_whitespace().for_each(|pid| println!("{pid}"));
        (pool, busy)
    });
    println!();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    drop(pools);
    ExitCode::FAILURE
}

fn who_is_killed_takes_its_pool_along() {
    let mut owner = command("owner").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(owner.stdout.take().unwrap()).lines().map(Result::unwrap);
    let pids: BTreeSet<i32> = lines.take_while(|line| !line.is_empty()).map(|line| line.parse().unwrap()).collect();
    assert_eq!(pids.len(), 9, "a coordinator and two workers each: {pids:?}");
    let pidfds: Vec<_> = pids.into_iter().map(pidfd_open).collect();
    owner.kill().unwrap();
    owner.wait().unwrap();
    for pidfd in pidfds {
        let mut fds = [nix::poll::PollFd::new(pidfd.as_fd(), nix::poll::PollFlags::POLLIN)];
        nix::poll::poll(&mut fds, nix::poll::PollTimeout::NONE).unwrap();
    }
}

fn pidfd_open(pid: i32) -> OwnedFd {
    // SAFETY: plain numbers in, a descriptor or -1 out.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = Errno::result(fd).unwrap() as i32;
    // SAFETY: the kernel has just given us this descriptor.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn printer() -> ExitCode {
    for (method, start) in METHODS {
        print!("before {method}, "); // what is buffered comes once, and before
        let pool = start(two()).unwrap();
        println!("begun");
        let printed = pool.submit(register().1.print, &format!("by {method}")).unwrap();
        assert_eq!(printed.wait(), Ok(0), "nothing to read");
        pool.join().unwrap();
    }
    std::io::stdout().flush().unwrap();
    ExitCode::SUCCESS
}

fn what_workers_print_is_the_programs_output() {
    let mut child = command("printer").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // It stands in the caller's input, and none of the pool's processes reads it.
    child.stdin.take().unwrap().write_all(b"for the program").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let expected = METHODS.map(|(method, _)| format!("before {method}, begun\nby {method}\n")).concat();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}

fn a_variable_set_by_hand_is_an_error() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let inode =
        fs::metadata(format!("/proc/self/fd/{}", ours.as_raw_fd())).map(|m| std::os::unix::fs::MetadataExt::ino(&m));
    for value in ["", "1", "no number", &inode.unwrap().to_string()] {
        let Output { status, stderr, .. } = command("every_method_runs_tasks")
            .env("SHMWORKER_START", value)
            .stdin(OwnedFd::from(theirs.try_clone().unwrap()))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&stderr);
        assert_eq!(status.code(), Some(101), "{value:?}: {said}");
        assert!(said.starts_with("SHMWORKER_START is set, but no pool has started this process: unset it"), "{said}");
    }
}
