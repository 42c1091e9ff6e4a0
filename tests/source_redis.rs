//! Redis Streams as a source of jobs, on a real server.

mod common;
#[path = "common/redis.rs"]
mod server;

use common::{
    eventually,
    sources::{self, Place},
};
use libtest_mimic::{Arguments, Trial};
use redis::{Connection, FromRedisValue, cmd};
use server::{Redis as Server, pem};
use shmworker::{
    jobs::JobResult,
    sources::{ConnectOptions, Lease, Outcome, Redis, SourceError, TaskSource, connect},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

/// Nobody waits so long.
const LONG: Duration = Duration::from_secs(3600);
const NO_TIME: Duration = Duration::ZERO;

type Test = fn(&Server, &'static str);

macro_rules! tests {
    ($($test:ident)*) => { [$((stringify!($test), $test as Test)),*] };
}

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    args.test_threads.get_or_insert(1);
    let server: Arc<OnceLock<Server>> = Arc::default();
    let tests = tests! {
        a_job_goes_out_and_its_result_comes_back
        two_never_get_the_same
        a_heartbeat_keeps_a_lease
        a_lease_that_ran_out_is_taken_over
        what_is_taken_over_is_never_more_than_there_is_room_for
        a_job_that_never_ends_dies
        what_is_no_job_is_published_as_failed
        what_was_not_begun_is_given_back
        a_result_is_stored_once
        a_job_that_was_deleted_is_lost
        results_are_trimmed_if_that_is_wanted
        consumers_that_have_nothing_go
        tls_is_what_the_url_says
        what_cannot_work_is_told_with_a_remedy
        a_server_that_restarts_is_waited_for
        a_server_that_forgets_is_gone_on_with
        jobs_survive_deaths_of_everything
        two_share_a_stream
    };
    let trials = tests.into_iter().map(|(name, test)| {
        let server = server.clone();
        Trial::test(name, move || {
            test(server.get_or_init(Server::start), name);
            Ok(())
        })
    });
    libtest_mimic::run(&args, trials.collect()).exit_code()
}

/// A source for the test's own stream, with more parameters.
#[track_caller]
fn source(server: &Server, stream: &str, more: &str) -> Redis {
    Redis::new(&server.url(&format!("stream={stream}{more}"))).unwrap()
}

#[track_caller]
fn fetch(source: &Redis, room: usize) -> Vec<Lease> {
    source.fetch(room, NO_TIME).unwrap()
}

/// The job that must be there.
#[track_caller]
fn one(source: &Redis) -> Lease {
    fetch(source, 1).pop().expect("a job")
}

fn add(connection: &mut Connection, stream: &str, jobs: usize) {
    let mut pipe = redis::pipe();
    for n in 1..=jobs {
        pipe.cmd("XADD").arg(stream).arg("*").arg("job").arg(format!(r#"{{"task":"echo","args":{n}}}"#));
    }
    pipe.exec(connection).unwrap();
}

fn ask<T: FromRedisValue>(connection: &mut Connection, line: &str) -> T {
    let mut words = line.split(' ');
    let mut command = cmd(words.next().unwrap());
    for word in words {
        command.arg(word);
    }
    command.query(connection).unwrap()
}

/// The entries of a stream, without their ids.
fn entries(connection: &mut Connection, stream: &str) -> Vec<BTreeMap<String, String>> {
    let entries: Vec<(String, BTreeMap<String, String>)> = ask(connection, &format!("XRANGE {stream} - +"));
    entries.into_iter().map(|(_, fields)| fields).collect()
}

/// How many of its entries are handed out.
fn pending(connection: &mut Connection, stream: &str) -> usize {
    let pending: Vec<(String, String, u64, u64)> = ask(connection, &format!("XPENDING {stream} shmworker - + 1000"));
    pending.len()
}

fn consumers(connection: &mut Connection, stream: &str) -> usize {
    ask::<Vec<redis::Value>>(connection, &format!("XINFO CONSUMERS {stream} shmworker")).len()
}

fn result(json: &str) -> JobResult {
    serde_json::from_str(json).unwrap()
}

fn done(lease: &Lease) -> Outcome {
    let json = r#"{"task":"echo","status":"done","result":"it","attempts":1,"waited_us":1,"ran_us":2}"#;
    Outcome::new(&lease.id, result(json))
}

#[track_caller]
fn fatal(result: Result<impl Sized, SourceError>, parts: &[&str]) {
    match result {
        Err(SourceError::Fatal(why)) => {
            assert!(parts.iter().all(|part| why.contains(part)), "{why}");
            assert!(!why.contains("secret"), "{why}");
        }
        Err(other) => panic!("not fatal: {other}"),
        Ok(_) => panic!("it works"),
    }
}

fn a_job_goes_out_and_its_result_comes_back(server: &Server, stream: &'static str) {
    let url = server.url(&format!("stream={stream}"));
    let source = connect(&url, &ConnectOptions::new().worker("me")).unwrap();
    // Stream and group are made.
    assert!(source.fetch(1, NO_TIME).unwrap().is_empty());
    let waits = thread::spawn(move || (source.fetch(8, LONG).unwrap(), source));
    let mut connection = server.connection();
    add(&mut connection, stream, 1);
    let (leases, source) = waits.join().unwrap();
    let [lease] = &leases[..] else { panic!("{leases:?}") };
    let job = lease.job.as_ref().unwrap();
    assert_eq!((job.task.as_str(), job.args.as_ref().unwrap().get()), ("echo", "1"));
    let held: Vec<(String, String, u64, u64)> = ask(&mut connection, &format!("XPENDING {stream} shmworker - + 9"));
    let [(id, consumer, _, 1)] = &held[..] else { panic!("{held:?}") };
    assert!(consumer.starts_with("shmworker-me-"), "{consumer}");

    source.publish(&[done(lease)]).unwrap();
    let results = entries(&mut connection, &format!("{stream}:results"));
    let [result] = &results[..] else { panic!("{results:?}") };
    assert_eq!((&result["job"], result["status"].as_str()), (id, "done"));
    assert!(result["result"].contains(r#""result":"it""#), "{result:?}");
    assert_eq!(pending(&mut connection, stream), 0);
    assert!(entries(&mut connection, stream).is_empty());
    source.shut_down(&[]).unwrap();
    assert_eq!(consumers(&mut connection, stream), 0);
}

fn two_never_get_the_same(server: &Server, stream: &'static str) {
    add(&mut server.connection(), stream, 1000);
    let takers = (0..4).map(|_| source(server, stream, "")).map(|source| {
        thread::spawn(move || {
            let mut all = Vec::new();
            loop {
                let some = fetch(&source, 7);
                assert!(some.len() <= 7);
                if some.is_empty() {
                    return all;
                }
                all.extend(some.into_iter().map(|lease| lease.job.unwrap().args.unwrap().get().to_owned()));
            }
        })
    });
    let all: Vec<String> = takers.collect::<Vec<_>>().into_iter().flat_map(|taker| taker.join().unwrap()).collect();
    assert_eq!(all.len(), 1000);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 1000);
}

fn a_heartbeat_keeps_a_lease(server: &Server, stream: &'static str) {
    let source = source(server, stream, "&lease=1h");
    let mut connection = server.connection();
    add(&mut connection, stream, 2);
    let leases = fetch(&source, 2);
    let ids: Vec<&str> = leases.iter().map(|lease| lease.id.as_str()).collect();
    assert!(source.heartbeat_every().unwrap() <= Duration::from_secs(1800));
    let held = |connection: &mut Connection| {
        let held: Vec<(String, String, u64, u64)> = ask(connection, &format!("XPENDING {stream} shmworker - + 9"));
        held
    };
    // It is late, but nobody else was there.
    for (id, owner, ..) in held(&mut connection) {
        let _: Vec<String> =
            ask(&mut connection, &format!("XCLAIM {stream} shmworker {owner} 0 {id} IDLE 7200000 JUSTID"));
    }
    assert!(source.heartbeat(&ids).unwrap().is_empty());
    // As often handed out as before, and not silent for long.
    assert!(held(&mut connection).iter().all(|&(_, _, idle, deliveries)| idle < 3_600_000 && deliveries == 1));
    let second = ids[1].split_once(':').unwrap().0;
    let _: Vec<String> = ask(&mut connection, &format!("XCLAIM {stream} shmworker another 0 {second} JUSTID"));
    assert_eq!(source.heartbeat(&[ids[0], ids[1], "of nobody"]).unwrap(), [ids[1], "of nobody"]);
}

fn a_lease_that_ran_out_is_taken_over(server: &Server, stream: &'static str) {
    let slow = source(server, stream, "&lease=1h");
    let quick = source(server, stream, "&lease=100ms");
    let mut connection = server.connection();
    add(&mut connection, stream, 1);
    let old = one(&slow);
    let new = eventually("the lease runs out", || fetch(&quick, 1).pop());
    assert_ne!(old.id, new.id);
    assert_eq!(new.job.as_ref().unwrap().task, "echo");
    assert_eq!(slow.heartbeat(&[&old.id]).unwrap(), [old.id.as_str()]);
    slow.publish(&[done(&old)]).unwrap();
    slow.shut_down(&[&old.id]).unwrap();
    assert_eq!((pending(&mut connection, stream), entries(&mut connection, stream).len()), (1, 1));
    quick.publish(&[done(&new)]).unwrap();
    assert_eq!((pending(&mut connection, stream), entries(&mut connection, stream).len()), (0, 0));
    assert_eq!(entries(&mut connection, &format!("{stream}:results")).len(), 1);
    // Its own, which it has lost to itself.
    add(&mut connection, stream, 1);
    let old = one(&quick);
    let new = eventually("the lease runs out", || fetch(&quick, 1).pop());
    assert_eq!(quick.heartbeat(&[&old.id, &new.id]).unwrap(), [old.id.as_str()]);
    quick.publish(&[done(&old)]).unwrap();
    assert_eq!(pending(&mut connection, stream), 1);
}

fn what_is_taken_over_is_never_more_than_there_is_room_for(server: &Server, stream: &'static str) {
    let dead = source(server, stream, "&lease=1h");
    let mut connection = server.connection();
    add(&mut connection, stream, 100);
    assert_eq!(fetch(&dead, 100).len(), 100);
    let heir = source(server, stream, "&lease=200ms");
    let mut heirlooms = BTreeSet::new();
    eventually("all are taken over", || {
        let some = fetch(&heir, 7);
        assert!(some.len() <= 7);
        // Those that it has are not to be had again.
        let ids: Vec<String> = some.iter().map(|lease| lease.id.clone()).collect();
        heirlooms.extend(ids);
        let ids: Vec<&str> = heirlooms.iter().map(String::as_str).collect();
        for lost in heir.heartbeat(&ids).unwrap() {
            heirlooms.remove(&lost);
        }
        (heirlooms.len() == 100).then_some(())
    });
}

fn a_job_that_never_ends_dies(server: &Server, stream: &'static str) {
    let url = server.url(&format!("stream={stream}&lease=100ms&deliveries=2"));
    let source = connect(&url, &ConnectOptions::new().worker("the-killer")).unwrap();
    let mut connection = server.connection();
    add(&mut connection, stream, 1);
    let mut deliveries = 0;
    let dead = eventually("it is dead", || {
        deliveries += source.fetch(1, NO_TIME).unwrap().len();
        entries(&mut connection, &format!("{stream}:dead")).pop()
    });
    assert_eq!(deliveries, 2);
    assert!(source.fetch(1, NO_TIME).unwrap().is_empty());
    assert_eq!((pending(&mut connection, stream), entries(&mut connection, stream).len()), (0, 0));
    assert_eq!((dead["deliveries"].as_str(), dead["job"].as_str()), ("2", r#"{"task":"echo","args":1}"#));
    assert!(dead["consumer"].contains("the-killer") && dead["error"].contains("2 times"), "{dead:?}");
}

fn what_is_no_job_is_published_as_failed(server: &Server, stream: &'static str) {
    let source = source(server, stream, "");
    let mut connection = server.connection();
    for (field, value) in [("job", &br#"{"tusk":1}"#[..]), ("jab", b"1"), ("job", b"\xff")] {
        cmd("XADD").arg(stream).arg("*").arg(field).arg(value).exec(&mut connection).unwrap();
    }
    add(&mut connection, stream, 1);
    let leases = fetch(&source, 9);
    let whys: Vec<&str> = leases[..3].iter().map(|lease| lease.job.as_ref().unwrap_err().as_str()).collect();
    assert!(whys.iter().all(|why| why.contains(stream)), "{whys:?}");
    assert!(whys[0].contains("tusk") && whys[1].contains("no field 'job'") && whys[2].contains("no text"), "{whys:?}");
    assert!(leases[3].job.is_ok());
    let json = r#"{"task":"","status":"failed","error":"no job","attempts":0,"waited_us":0,"ran_us":0}"#;
    source.publish(&[Outcome::new(&leases[0].id, result(json))]).unwrap();
    assert_eq!(entries(&mut connection, &format!("{stream}:results"))[0]["status"], "failed");
}

fn what_was_not_begun_is_given_back(server: &Server, stream: &'static str) {
    let (going, waiting) = (source(server, stream, "&lease=1h"), source(server, stream, "&lease=1h"));
    let mut connection = server.connection();
    add(&mut connection, stream, 1);
    let lease = one(&going);
    assert!(fetch(&waiting, 1).is_empty());
    let waits = thread::spawn(move || (waiting.fetch(1, LONG).unwrap(), waiting));
    going.shut_down(&[&lease.id]).unwrap();
    let (again, _waiting) = waits.join().unwrap();
    // The first time was none.
    assert_eq!(again[0].id, lease.id);
    going.publish(&[done(&lease)]).unwrap();
    assert_eq!(pending(&mut connection, stream), 1);
}

fn a_result_is_stored_once(server: &Server, stream: &'static str) {
    let source = source(server, stream, "&results=elsewhere");
    let mut connection = server.connection();
    add(&mut connection, stream, 1);
    let lease = one(&source);
    let json = r#"{"task":"echo","status":"done","result":"a\u0000\ud800","attempts":1,"waited_us":1,"ran_us":2}"#;
    let first = Outcome::new(&lease.id, result(json));
    for again in [first.clone(), first, done(&lease)] {
        source.publish(&[again]).unwrap();
        let results = entries(&mut connection, "elsewhere");
        assert!(results.len() == 1 && results[0]["result"].contains(r"a\u0000\ud800"), "{results:?}");
    }
}

fn a_job_that_was_deleted_is_lost(server: &Server, stream: &'static str) {
    let source = source(server, stream, "&lease=100ms");
    let mut connection = server.connection();
    add(&mut connection, stream, 2);
    let leases = fetch(&source, 2);
    let ids: Vec<&str> = leases.iter().map(|lease| lease.id.as_str()).collect();
    ask::<()>(&mut connection, &format!("XTRIM {stream} MAXLEN 0"));
    eventually("nobody has them", || {
        assert!(fetch(&source, 1).is_empty());
        (pending(&mut connection, stream) == 0).then_some(())
    });
    assert_eq!(source.heartbeat(&ids).unwrap(), ids);
}

fn results_are_trimmed_if_that_is_wanted(server: &Server, stream: &'static str) {
    let source = source(server, stream, "&results_max=100");
    let mut connection = server.connection();
    add(&mut connection, stream, 1000);
    loop {
        let leases = fetch(&source, 300);
        if leases.is_empty() {
            break;
        }
        source.publish(&leases.iter().map(done).collect::<Vec<_>>()).unwrap();
    }
    // Whole nodes of the stream go, of 100 entries each.
    let left = entries(&mut connection, &format!("{stream}:results")).len();
    assert!((100..=200).contains(&left), "{left}");
}

fn consumers_that_have_nothing_go(server: &Server, stream: &'static str) {
    let mut connection = server.connection();
    // Died over a job, died with nothing, and another program's.
    let had_one = source(server, stream, "&lease=1h");
    add(&mut connection, stream, 1);
    one(&had_one);
    let had_none = source(server, stream, "&lease=1h");
    add(&mut connection, stream, 1);
    let lease = one(&had_none);
    had_none.publish(&[done(&lease)]).unwrap();
    ask::<()>(&mut connection, &format!("XGROUP CREATECONSUMER {stream} shmworker another"));
    assert_eq!(consumers(&mut connection, stream), 3);
    let heir = source(server, stream, "&lease=100ms");
    let lease = eventually("the dead one's job", || fetch(&heir, 1).pop());
    heir.publish(&[done(&lease)]).unwrap();
    // The heir goes as well if it was kept from asking for long.
    eventually("the other program is left, and the heir", || {
        assert!(fetch(&heir, 1).is_empty());
        (consumers(&mut connection, stream) <= 2).then_some(())
    });
    let made: usize = ask(&mut connection, &format!("XGROUP CREATECONSUMER {stream} shmworker another"));
    assert_eq!(made, 0, "the other program's consumer is gone too");
}

fn tls_is_what_the_url_says(server: &Server, _: &'static str) {
    let fetched = |options: &ConnectOptions| {
        let source = connect(&server.tls_url(), options).map_err(|e| SourceError::Fatal(e.to_string()))?;
        source.fetch(1, NO_TIME)
    };
    assert!(fetched(&ConnectOptions::new().ca(pem("ca.pem"))).unwrap().is_empty());
    fatal(fetched(&ConnectOptions::new()), &["certificate"]);
    fatal(fetched(&ConnectOptions::new().ca("/nonexistent.pem")), &["/nonexistent.pem"]);
    let plain = connect(&server.url(""), &ConnectOptions::new().ca(pem("ca.pem")));
    assert!(plain.err().unwrap().to_string().contains("rediss://"));
}

fn what_cannot_work_is_told_with_a_remedy(server: &Server, stream: &'static str) {
    let port = server.port();
    let fetched = |url: &str| Redis::new(url).and_then(|source| source.fetch(1, NO_TIME));
    fatal(fetched(&format!("redis://:secret@localhost:{port}")), &["password", "REDISCLI_AUTH"]);
    fatal(fetched(&format!("redis://localhost:{port}")), &["password", "REDISCLI_AUTH"]);
    fatal(fetched(&server.url("").replace("/0", "/99")), &["DB index", "another database"]);
    let mut connection = server.connection();
    ask::<()>(&mut connection, &format!("SET {stream} x"));
    fatal(fetched(&server.url(&format!("stream={stream}"))), &["stream="]);
    // Who does not answer may yet.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = fetched(&format!("redis://:secret@127.0.0.1:{nobody}")).unwrap_err();
    assert!(matches!(&error, SourceError::Unavailable(why) if !why.contains("secret")), "{error}");
}

fn a_server_that_restarts_is_waited_for(_: &Server, stream: &'static str) {
    let mut server = Server::start();
    let source = source(&server, stream, "&lease=1h");
    add(&mut server.connection(), stream, 2);
    let leases = fetch(&source, 2);
    let ids: Vec<&str> = leases.iter().map(|lease| lease.id.as_str()).collect();
    source.publish(&[done(&leases[0])]).unwrap();
    source.heartbeat(&ids[1..]).unwrap();
    let held: Vec<(String, String, u64, u64)> =
        ask(&mut server.connection(), &format!("XPENDING {stream} shmworker - + 9"));
    let (id, owner, ..) = &held[0];
    let silent = format!("XCLAIM {stream} shmworker {owner} 0 {id} IDLE 7200000 JUSTID");
    ask::<Vec<String>>(&mut server.connection(), &silent);
    server.kill();
    let unavailable = |error| matches!(error, SourceError::Unavailable(_));
    assert!(unavailable(source.fetch(1, NO_TIME).unwrap_err()));
    assert!(unavailable(source.publish(&[done(&leases[1])]).unwrap_err()));
    assert!(unavailable(source.heartbeat(&ids).unwrap_err()));
    server.restart();
    // It could not be renewed: that is not its fault.
    assert!(fetch(&source, 1).is_empty());
    assert_eq!(source.heartbeat(&ids).unwrap(), [ids[0]]);
    source.publish(&[done(&leases[1])]).unwrap();
    assert!(fetch(&source, 1).is_empty());
    assert_eq!(entries(&mut server.connection(), &format!("{stream}:results")).len(), 2);
}

fn a_server_that_forgets_is_gone_on_with(_: &Server, stream: &'static str) {
    let mut server = Server::forgetful();
    let source = source(&server, stream, "");
    add(&mut server.connection(), stream, 1);
    let lease = one(&source);
    source.heartbeat(&[&lease.id]).unwrap();
    server.kill();
    server.restart();
    eventually("its connections are new", || source.heartbeat(&[&lease.id]).ok().filter(|lost| lost == &[&*lease.id]));
    source.publish(&[done(&lease)]).unwrap();
    eventually("its connection is new", || source.fetch(1, NO_TIME).ok());
    add(&mut server.connection(), stream, 1);
    source.publish(&[done(&one(&source))]).unwrap();
    assert_eq!(entries(&mut server.connection(), &format!("{stream}:results")).len(), 1);
    // Deleted under our hands.
    ask::<()>(&mut server.connection(), &format!("DEL {stream}"));
    assert!(fetch(&source, 1).is_empty());
    add(&mut server.connection(), stream, 1);
    assert_eq!(fetch(&source, 1).len(), 1);
}

/// A stream, on a server that writes down all that happens.
struct Stream(Option<Server>);

impl Stream {
    fn server(&mut self) -> &mut Server {
        self.0.as_mut().expect("it was started")
    }
}

impl Place for Stream {
    fn start(&mut self) {
        match &mut self.0 {
            None => self.0 = Some(Server::start()),
            Some(server) => server.restart(),
        }
    }

    fn kill(&mut self) {
        self.server().kill();
    }

    fn add(&mut self, jobs: &[String]) {
        let mut pipe = redis::pipe();
        for job in jobs {
            pipe.cmd("XADD").arg("jobs").arg("*").arg("job").arg(job);
        }
        pipe.exec(&mut self.server().connection()).unwrap();
    }

    fn results(&mut self) -> Vec<String> {
        let results = entries(&mut self.server().connection(), "jobs:results");
        results.into_iter().map(|mut fields| fields.remove("result").unwrap()).collect()
    }

    fn count(&mut self) -> usize {
        ask(&mut self.server().connection(), "XLEN jobs:results")
    }

    fn url(&self) -> String {
        // None is to be given up, however often it dies here.
        self.0.as_ref().expect("it was started").url("lease=1s&deliveries=100")
    }
}

fn jobs_survive_deaths_of_everything(_: &Server, _: &'static str) {
    let mut stream = Stream(None);
    sources::survives(&mut stream);
    let mut connection = stream.server().connection();
    assert_eq!((pending(&mut connection, "jobs"), ask::<usize>(&mut connection, "XLEN jobs")), (0, 0));
}

fn two_share_a_stream(_: &Server, _: &'static str) {
    sources::is_shared(&mut Stream(None));
}
