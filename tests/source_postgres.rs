//! PostgreSQL as a source of jobs, on a real server.

mod common;
#[path = "common/postgres.rs"]
mod server;

use common::{
    Program, eventually,
    sources::{self, Place},
};
use libtest_mimic::{Arguments, Trial};
use postgres::Client;
use server::{Postgres as Server, pem};
use shmworker::{
    cli::exit,
    jobs::JobResult,
    sources::{ConnectOptions, Lease, Outcome, Postgres, SourceError, TaskSource, connect},
};
use std::{
    collections::BTreeSet,
    process::{Command, ExitCode},
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
        a_table_is_made_if_that_is_wanted
        a_job_goes_out_and_its_result_comes_back
        two_never_get_the_same
        what_is_urgent_comes_first_and_nothing_before_its_time
        a_notification_wakes
        a_heartbeat_keeps_a_lease
        a_lease_that_ran_out_is_taken_over
        a_job_that_never_ends_dies
        what_is_no_job_is_published_as_failed
        what_was_not_begun_is_given_back
        a_lock_is_not_waited_for_for_ever
        a_result_is_stored_once
        a_result_that_the_table_refuses_fails_alone
        a_result_that_is_too_deep_fails_alone
        any_name_will_do
        tls_is_what_the_url_says
        what_cannot_work_is_told_with_a_remedy
        a_server_that_restarts_is_waited_for
        the_command_says_what_is_wrong
        jobs_survive_deaths_of_everything
        two_share_a_table
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

/// A source for the test's own table, with more parameters.
#[track_caller]
fn source(server: &Server, table: &str, more: &str) -> Postgres {
    Postgres::new(&server.url(&format!("table={table}&create=true{more}"))).unwrap()
}

#[track_caller]
fn fetch(source: &Postgres, room: usize) -> Vec<Lease> {
    source.fetch(room, NO_TIME).unwrap()
}

/// The job that must be there.
#[track_caller]
fn one(source: &Postgres) -> Lease {
    fetch(source, 1).pop().expect("a job")
}

fn add(client: &mut Client, table: &str, jobs: usize) {
    let insert = format!(
        "INSERT INTO \"{table}\" (job) SELECT jsonb_build_object('task', 'echo', 'args', n) FROM generate_series(1, $1) n"
    );
    client.execute(&insert, &[&i32::try_from(jobs).unwrap()]).unwrap();
}

fn row<T: for<'r> postgres::types::FromSql<'r>>(client: &mut Client, table: &str, columns: &str) -> T {
    client.query_one(&format!("SELECT {columns} FROM \"{table}\" ORDER BY id LIMIT 1"), &[]).unwrap().get(0)
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

fn a_table_is_made_if_that_is_wanted(server: &Server, table: &'static str) {
    let unmade = Postgres::new(&server.url(&format!("table={table}"))).unwrap();
    fatal(unmade.fetch(1, NO_TIME), &[table, "create=true"]);
    let together =
        (0..4).map(|_| source(server, table, "")).map(|source| thread::spawn(move || source.fetch(1, NO_TIME)));
    for one in together.collect::<Vec<_>>() {
        assert!(one.join().unwrap().unwrap().is_empty());
    }
    assert!(unmade.fetch(1, NO_TIME).unwrap().is_empty());
}

fn a_job_goes_out_and_its_result_comes_back(server: &Server, table: &'static str) {
    let source =
        connect(&server.url(&format!("table={table}&create=true")), &ConnectOptions::new().worker("me")).unwrap();
    assert!(source.fetch(1, NO_TIME).unwrap().is_empty());
    let mut client = server.client();
    add(&mut client, table, 1);
    let leases = source.fetch(8, LONG).unwrap();
    let [lease] = &leases[..] else { panic!("{leases:?}") };
    let job = lease.job.as_ref().unwrap();
    assert_eq!((job.task.as_str(), job.args.as_ref().unwrap().get()), ("echo", "1"));
    assert_eq!(row::<String>(&mut client, table, "state || ' ' || leased_by || ' ' || deliveries"), "leased me 1");

    source.publish(&[done(lease)]).unwrap();
    assert_eq!(row::<String>(&mut client, table, "state || ' ' || (result->>'result')"), "done it");
    assert!(row::<bool>(&mut client, table, "lease IS NULL AND lease_until IS NULL AND finished_at >= created_at"));
    assert!(source.fetch(8, NO_TIME).unwrap().is_empty());
    source.shut_down(&[]).unwrap();
}

fn two_never_get_the_same(server: &Server, table: &'static str) {
    fetch(&source(server, table, ""), 1);
    add(&mut server.client(), table, 1000);
    let takers = (0..4).map(|_| source(server, table, "")).map(|source| {
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

fn what_is_urgent_comes_first_and_nothing_before_its_time(server: &Server, table: &'static str) {
    let source = source(server, table, "");
    fetch(&source, 1);
    let mut client = server.client();
    let insert = format!(
        "INSERT INTO {table} (job, priority, run_at) SELECT jsonb_build_object('task', task), priority, now() + later FROM (VALUES
         ('second', 0, interval '-1 hour'), ('third', 0, '-1 minute'), ('never', 9, '1 day'), ('first', 1, '0 s')
         ) AS jobs (task, priority, later)"
    );
    client.execute(&insert, &[]).unwrap();
    let tasks: Vec<String> = fetch(&source, 9).into_iter().map(|lease| lease.job.unwrap().task).collect();
    assert_eq!(tasks, ["first", "second", "third"]);
    client.execute(&format!("UPDATE {table} SET run_at = now() WHERE state = 'ready'"), &[]).unwrap();
    assert_eq!(one(&source).job.unwrap().task, "never");
}

fn a_notification_wakes(server: &Server, table: &'static str) {
    // It looks for itself no more.
    let waiting = source(server, table, "&poll=1h");
    fetch(&waiting, 1);
    let other = format!("{table}_other");
    fetch(&source(server, &other, ""), 1);
    let waits = thread::spawn(move || waiting.fetch(1, LONG).unwrap());
    let mut client = server.client();
    eventually("it waits", || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shmworker' AND state = 'idle'
                   AND wait_event = 'ClientRead' AND query LIKE '%' || $1 || '\"%SKIP LOCKED%'";
        (client.query_one(sql, &[&table]).unwrap().get::<_, i64>(0) > 0).then_some(())
    });
    add(&mut client, &other, 1);
    assert!(!waits.is_finished());
    add(&mut client, table, 1);
    assert_eq!(eventually("it wakes", || waits.is_finished().then_some(())), ());
    assert_eq!(waits.join().unwrap().len(), 1);
}

fn a_heartbeat_keeps_a_lease(server: &Server, table: &'static str) {
    let source = source(server, table, "&lease=1m");
    fetch(&source, 1);
    let mut client = server.client();
    add(&mut client, table, 2);
    let leases = fetch(&source, 2);
    let ids: Vec<&str> = leases.iter().map(|lease| lease.id.as_str()).collect();
    assert!(source.heartbeat_every().unwrap() <= Duration::from_secs(30));
    client.execute(&format!("UPDATE {table} SET lease_until = now() - interval '1 s'"), &[]).unwrap();
    // It is late, but nobody else was there.
    assert!(source.heartbeat(&ids).unwrap().is_empty());
    assert!(row::<bool>(&mut client, table, "lease_until > now()"));
    assert!(fetch(&source, 1).is_empty());
    client.execute(&format!("UPDATE {table} SET lease = gen_random_uuid() WHERE id = 2"), &[]).unwrap();
    assert_eq!(source.heartbeat(&[ids[0], ids[1], "of nobody"]).unwrap(), [ids[1], "of nobody"]);
    // Somebody looks at it for long.
    let mut transaction = client.transaction().unwrap();
    transaction.execute(&format!("SELECT FROM {table} WHERE id = 1 FOR UPDATE"), &[]).unwrap();
    assert!(source.heartbeat(&ids[..1]).unwrap().is_empty());
}

fn a_lease_that_ran_out_is_taken_over(server: &Server, table: &'static str) {
    let (slow, quick) = (source(server, table, "&lease=100ms"), source(server, table, "&poll=100ms"));
    fetch(&slow, 1);
    let mut client = server.client();
    add(&mut client, table, 1);
    let old = one(&slow);
    let new = eventually("the lease runs out", || fetch(&quick, 1).pop());
    assert_eq!(row::<i32>(&mut client, table, "deliveries"), 2);
    assert_eq!(slow.heartbeat(&[&old.id]).unwrap(), [old.id.as_str()]);
    slow.publish(&[done(&old)]).unwrap();
    slow.shut_down(&[&old.id]).unwrap();
    assert_eq!(row::<String>(&mut client, table, "state"), "leased");
    quick.publish(&[done(&new)]).unwrap();
    assert_eq!(row::<String>(&mut client, table, "state"), "done");
}

fn a_job_that_never_ends_dies(server: &Server, table: &'static str) {
    let url = server.url(&format!("table={table}&create=true&lease=100ms&deliveries=2&poll=100ms"));
    let source = connect(&url, &ConnectOptions::new().worker("the killer")).unwrap();
    assert!(source.fetch(1, NO_TIME).unwrap().is_empty());
    let mut client = server.client();
    add(&mut client, table, 1);
    let mut deliveries = 0;
    eventually("it is dead", || {
        deliveries += source.fetch(1, NO_TIME).unwrap().len();
        (row::<String>(&mut client, table, "state") == "dead").then_some(())
    });
    assert_eq!(deliveries, 2);
    assert!(source.fetch(1, NO_TIME).unwrap().is_empty());
    let blame: Vec<String> = row(&mut client, table, "blame");
    assert!(blame.len() == 2 && blame.iter().all(|who| who.starts_with("the killer, ")), "{blame:?}");
    let error: String = row(&mut client, table, "last_error");
    assert!(error.contains("2 times") && error.contains("the killer"), "{error}");
}

fn what_is_no_job_is_published_as_failed(server: &Server, table: &'static str) {
    let source = source(server, table, "");
    fetch(&source, 1);
    let mut client = server.client();
    client
        .execute(&format!(r#"INSERT INTO {table} (job) VALUES ('{{"tusk":1}}'), ('{{"task":"echo"}}')"#), &[])
        .unwrap();
    let leases = fetch(&source, 2);
    let why = leases[0].job.as_ref().unwrap_err();
    assert!(why.contains(&format!("row 1 of {table}")) && why.contains("tusk"), "{why}");
    assert!(leases[1].job.is_ok());
    let json = r#"{"task":"","status":"failed","error":"no\u0000job","attempts":0,"waited_us":0,"ran_us":0}"#;
    source.publish(&[Outcome::new(&leases[0].id, result(json))]).unwrap();
    assert_eq!(row::<String>(&mut client, table, "state || ' ' || last_error"), "failed no\u{fffd}job");
}

fn what_was_not_begun_is_given_back(server: &Server, table: &'static str) {
    let (going, waiting) = (source(server, table, ""), source(server, table, "&poll=1h"));
    fetch(&waiting, 1);
    let mut client = server.client();
    add(&mut client, table, 1);
    let lease = one(&going);
    assert!(fetch(&waiting, 1).is_empty());
    let waits = thread::spawn(move || waiting.fetch(1, LONG).unwrap());
    going.shut_down(&[&lease.id]).unwrap();
    eventually("who waits gets it", || waits.is_finished().then_some(()));
    assert_eq!(waits.join().unwrap().len(), 1);
    // The first time was none.
    assert_eq!(row::<i32>(&mut client, table, "deliveries"), 1);
}

fn a_lock_is_not_waited_for_for_ever(server: &Server, table: &'static str) {
    // 30 s without this. What makes the table must not take so long.
    let source = source(server, table, "&options=-c%20statement_timeout%3D1s");
    fetch(&source, 1);
    let mut client = server.client();
    add(&mut client, table, 1);
    let lease = one(&source);
    let mut transaction = client.transaction().unwrap();
    transaction.execute(&format!("SELECT FROM {table} FOR UPDATE"), &[]).unwrap();
    let error = source.publish(&[done(&lease)]).unwrap_err();
    assert!(matches!(&error, SourceError::Unavailable(why) if why.contains("statement timeout")), "{error}");
    transaction.commit().unwrap();
    source.publish(&[done(&lease)]).unwrap();
    assert_eq!(row::<String>(&mut client, table, "state"), "done");
}

fn a_result_is_stored_once(server: &Server, table: &'static str) {
    let source = source(server, table, "");
    fetch(&source, 1);
    let mut client = server.client();
    add(&mut client, table, 1);
    let lease = one(&source);
    let json = r#"{"task":"echo","status":"done","result":"a\u0000\ud800","attempts":1,"waited_us":1,"ran_us":2}"#;
    let first = Outcome::new(&lease.id, result(json));
    source.publish(std::slice::from_ref(&first)).unwrap();
    let stored: String = row(&mut client, table, "result::text");
    assert!(stored.contains(r"a\u0000\ud800"), "{stored}");
    for again in [first, done(&lease)] {
        source.publish(&[again]).unwrap();
        assert_eq!(row::<String>(&mut client, table, "result::text"), stored);
    }
}

fn a_result_that_the_table_refuses_fails_alone(server: &Server, table: &'static str) {
    let source = source(server, table, "");
    fetch(&source, 1);
    let mut client = server.client();
    client.execute(&format!("ALTER TABLE {table} ALTER result TYPE jsonb USING result::jsonb"), &[]).unwrap();
    add(&mut client, table, 3);
    let leases = fetch(&source, 3);
    let json = r#"{"task":"echo","status":"done","result":"\u0000","attempts":1,"waited_us":1,"ran_us":2}"#;
    let bad = Outcome::new(&leases[0].id, result(json));
    source.publish(&[bad, done(&leases[1]), done(&leases[2])]).unwrap();
    let states = client.query(&format!("SELECT state, last_error FROM {table} ORDER BY id"), &[]).unwrap();
    let states: Vec<(&str, Option<&str>)> = states.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(states[1..], [("done", None), ("done", None)]);
    assert!(states[0].0 == "failed" && states[0].1.unwrap().contains("cannot be stored"), "{states:?}");
}

fn a_result_that_is_too_deep_fails_alone(server: &Server, table: &'static str) {
    let source = source(server, table, "");
    fetch(&source, 1);
    let mut client = server.client();
    add(&mut client, table, 2);
    let leases = fetch(&source, 2);
    let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
    let json =
        format!(r#"{{"task":"echo","status":"done","result":{open}{close},"attempts":1,"waited_us":1,"ran_us":2}}"#);
    source.publish(&[Outcome::new(&leases[0].id, result(&json)), done(&leases[1])]).unwrap();
    let states = client.query(&format!("SELECT state, last_error FROM {table} ORDER BY id"), &[]).unwrap();
    let states: Vec<(&str, Option<&str>)> = states.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert!(states[0].0 == "failed" && states[0].1.unwrap().contains("SQLSTATE 54001"), "{states:?}");
    assert_eq!(states[1], ("done", None));
}

fn any_name_will_do(server: &Server, _: &'static str) {
    let mut client = server.client();
    client.batch_execute("CREATE SCHEMA \"My \"\"Schema\"").unwrap();
    let url = server.url("table=My%20%22Schema.select%3B%20%25T%27&create=true");
    let source = Postgres::new(&url).unwrap();
    fetch(&source, 1);
    let insert = "INSERT INTO \"My \"\"Schema\".\"select; %T'\" (job) VALUES ('{\"task\":\"echo\"}')";
    client.batch_execute(insert).unwrap();
    source.publish(&[done(&one(&source))]).unwrap();
}

fn tls_is_what_the_url_says(server: &Server, table: &'static str) {
    let encrypted = |parameters: &str, options: &ConnectOptions| {
        let name = parameters.replace(['=', '&', '/', '.', '-'], "_");
        let name = &name[..name.len().min(20)];
        let url = server.url(&format!("table={table}&create=true&application_name={name}{parameters}"));
        let source = connect(&url, options).map_err(|e| SourceError::Fatal(e.to_string()))?;
        source.fetch(1, NO_TIME)?;
        let sql = "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = $1";
        Ok(server.client().query_one(sql, &[&name]).unwrap().get::<_, bool>(0))
    };
    let plain = ConnectOptions::new();
    let (ca, other) = (ConnectOptions::new().ca(pem("ca.pem")), ConnectOptions::new().ca(pem("server.pem")));
    assert!(!encrypted("&sslmode=disable", &plain).unwrap());
    assert!(encrypted("&sslmode=prefer", &plain).unwrap());
    assert!(encrypted("&sslmode=require", &plain).unwrap());
    assert!(encrypted("&sslmode=verify-full", &ca).unwrap());
    let file = format!("&sslmode=verify-full&sslrootcert={}", pem("ca.pem").display());
    assert!(encrypted(&file, &plain).unwrap());
    fatal(encrypted("&sslmode=verify-full", &plain), &["certificate"]);
    fatal(encrypted("&sslmode=verify-full", &other), &["certificate"]);
    fatal(encrypted("&sslmode=require", &ca), &["verify-full"]);
}

fn what_cannot_work_is_told_with_a_remedy(server: &Server, table: &'static str) {
    let port = server.port();
    let fetched = |url: &str| Postgres::new(url).and_then(|source| source.fetch(1, NO_TIME));
    fatal(fetched(&format!("postgres://tester:secret@localhost:{port}/postgres")), &["password", "PGPASSWORD"]);
    fatal(fetched(&format!("postgres://tester@localhost:{port}/postgres")), &["password missing", "PGPASSWORD"]);
    let url = server.url("").replace("/postgres", "/nowhere").replace("nowhere://", "postgres://");
    fatal(fetched(&url), &["nowhere", "create it"]);
    server.client().batch_execute(&format!("CREATE TABLE {table} (id bigint)")).unwrap();
    fatal(fetched(&server.url(&format!("table={table}"))), &[table, "postgres.sql"]);
    // Who does not answer may yet.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = fetched(&format!("postgres://tester:secret@127.0.0.1:{nobody}/postgres")).unwrap_err();
    assert!(matches!(&error, SourceError::Unavailable(why) if !why.contains("secret")), "{error}");
}

fn a_server_that_restarts_is_waited_for(server: &Server, table: &'static str) {
    let mut server = server.another();
    let source = source(&server, table, "&lease=1h&poll=100ms");
    fetch(&source, 1);
    add(&mut server.client(), table, 2);
    let leases = fetch(&source, 2);
    let ids: Vec<&str> = leases.iter().map(|lease| lease.id.as_str()).collect();
    source.publish(&[done(&leases[0])]).unwrap();
    source.heartbeat(&ids[1..]).unwrap();
    server.client().execute(&format!("UPDATE {table} SET lease_until = now() WHERE state = 'leased'"), &[]).unwrap();
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
    let states = server.client().query(&format!("SELECT state FROM {table}"), &[]).unwrap();
    assert!(states.iter().all(|row| row.get::<_, &str>(0) == "done"));
}

fn the_command_says_what_is_wrong(server: &Server, table: &'static str) {
    let run = |url: String| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shmworker"));
        command.args(["run", "--source", &url, "-w", "1"]);
        let mut program = Program::start(command);
        let status = program.end();
        let said = [program.stdout(), program.stderr()].concat().join("\n");
        assert!(!said.contains("secret"), "{said}");
        (status.code(), said)
    };
    let config = Some(i32::from(exit::CONFIG));
    let (code, said) = run(server.url(&format!("table={table}")));
    assert!(code == config && said.contains("create=true"), "{code:?}: {said}");
    let (code, said) = run(server.url("").replace("secret%20word", "secret"));
    assert!(code == config && said.contains("PGPASSWORD"), "{code:?}: {said}");
    let (code, said) = run(server.url("lease=never"));
    assert!(code == config && said.contains("lease='never'"), "{code:?}: {said}");
}

/// A table, with a note of each result that is written into it.
struct Table<'s> {
    first: &'s Server,
    server: Option<Server>,
}

impl Table<'_> {
    fn server(&mut self) -> &mut Server {
        self.server.as_mut().expect("it was started")
    }
}

impl Place for Table<'_> {
    fn start(&mut self) {
        let Some(server) = &mut self.server else {
            let server = self.server.insert(self.first.another());
            fetch(&Postgres::new(&server.url("create=true")).unwrap(), 1);
            let note = "
                CREATE TABLE results (result json NOT NULL);
                CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
                    $$ BEGIN INSERT INTO results VALUES (NEW.result); RETURN NULL; END $$;
                CREATE TRIGGER note AFTER UPDATE OF result ON shmworker_jobs FOR EACH ROW EXECUTE FUNCTION note();";
            return server.client().batch_execute(note).unwrap();
        };
        server.restart();
    }

    fn kill(&mut self) {
        self.server().kill();
    }

    fn add(&mut self, jobs: &[String]) {
        let insert = "INSERT INTO shmworker_jobs (job) SELECT job::jsonb FROM unnest($1::text[]) job";
        self.server().client().execute(insert, &[&jobs]).unwrap();
    }

    fn results(&mut self) -> Vec<String> {
        let rows = self.server().client().query("SELECT result::text FROM results", &[]).unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    fn count(&mut self) -> usize {
        let count: i64 = self.server().client().query_one("SELECT count(*) FROM results", &[]).unwrap().get(0);
        usize::try_from(count).unwrap()
    }

    fn url(&self) -> String {
        // None is to be given up, however often it dies here.
        self.server.as_ref().expect("it was started").url("lease=1s&deliveries=100")
    }
}

fn jobs_survive_deaths_of_everything(first: &Server, _: &'static str) {
    let mut table = Table { first, server: None };
    sources::survives(&mut table);
    let states = "SELECT count(*) FROM shmworker_jobs WHERE state <> 'done' OR lease IS NOT NULL";
    assert_eq!(table.server().client().query_one(states, &[]).unwrap().get::<_, i64>(0), 0);
}

fn two_share_a_table(first: &Server, _: &'static str) {
    sources::is_shared(&mut Table { first, server: None });
}
