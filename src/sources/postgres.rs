//! PostgreSQL: a table as queue, whose rows are handed out by `FOR UPDATE SKIP LOCKED`.
//!
//! A row goes from `ready` to `leased` and on to `done`, `failed` or `dead`; one whose lease has run out goes back to `ready`, or to
//! `dead` if it was handed out too often. All times are the server's: who has another idea of the time does no harm.
//!
//! Each delivery has a random number of its own, `lease`. A result is stored by one statement together with the new state, and only
//! where that number still stands: so of all who ever had the job, one stores its result, and once.

use super::{
    Lease, Outcome, SourceError, TaskSource,
    connect::Options,
    settings::{Parameters, wrong},
};
use crate::jobs::Status;
use ::postgres::{
    Client, Config, Error, NoTls, Row, Statement,
    config::{Host, SslMode},
    error::SqlState,
    fallible_iterator::FallibleIterator,
    types::ToSql,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use std::{
    collections::{HashMap, HashSet},
    env,
    error::Error as _,
    fmt,
    path::Path,
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError, TryLockError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};
use tokio_postgres_rustls::MakeRustlsConnect;

/// What makes the table, where it is called `shmworker_jobs`.
const SCHEMA: &str = include_str!("postgres.sql");
const DEFAULT_TABLE: &str = "shmworker_jobs";

/// How long a statement may take, if neither the URL nor the server says it: who waits for a lock that another does not let go of tries
/// again, and sees meanwhile whether it is to end.
const PATIENCE: &str = "
    SELECT set_config(name, '30s', false) FROM pg_settings
    WHERE name IN ('statement_timeout', 'lock_timeout') AND setting = '0'";
/// After that a server is taken for one that does not answer: longer than it may take for a statement.
const ANSWER: Duration = Duration::from_secs(45);
const DEFAULT_POLL: Duration = Duration::from_secs(1);
/// How many leases that ran out are looked after at a time.
const EXPIRED_AT_ONCE: i64 = 1000;
/// Of two that make the table at once, one waits.
const MAKING: i64 = 0x73_68_6d_77_6f_72_6b;

// A CTE that is not materialized could be run again for each row, and lock more rows than the limit says.

const TAKE: &str = "
    WITH next AS MATERIALIZED (
        SELECT id FROM %T WHERE state = 'ready' AND run_at <= now()
        ORDER BY priority DESC, run_at, id LIMIT $1 FOR UPDATE SKIP LOCKED
    ), taken AS (
        UPDATE %T AS t
        SET state = 'leased', deliveries = t.deliveries + 1, lease = gen_random_uuid(), leased_by = $2,
            lease_until = now() + make_interval(secs => $3)
        FROM next WHERE t.id = next.id
        RETURNING t.*
    )
    SELECT id, lease::text, job::text FROM taken ORDER BY priority DESC, run_at, id";

// While the server was away nobody could renew a lease: it begins by waiting for as long as one lasts.
const EXPIRE: &str = "
    WITH expired AS MATERIALIZED (
        SELECT id FROM %T WHERE state = 'leased' AND lease_until < now()
            AND pg_postmaster_start_time() + make_interval(secs => $3) < now()
        ORDER BY lease_until LIMIT $1 FOR UPDATE SKIP LOCKED
    )
    UPDATE %T AS t
    SET lease = NULL, lease_until = NULL,
        blame = t.blame || format('%s, whose lease ran out at %s', t.leased_by, t.lease_until),
        state = CASE WHEN t.deliveries < $2 THEN 'ready' ELSE 'dead' END,
        finished_at = CASE WHEN t.deliveries < $2 THEN NULL ELSE now() END,
        last_error = CASE WHEN t.deliveries < $2 THEN t.last_error ELSE
            format('handed out %s times and never finished, the last time by %s', t.deliveries, t.leased_by) END
    FROM expired WHERE t.id = expired.id
    RETURNING t.id, t.state = 'dead', t.leased_by";

// Those who wait for rows lock them in one order, or they could wait for each other.

const PUBLISH: &str = "
    WITH mine AS MATERIALIZED (
        SELECT t.id, o.state, o.result, o.error
        FROM %T AS t
        JOIN unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[]) AS o(id, lease, state, result, error)
            ON t.id = o.id AND t.lease = o.lease::uuid
        ORDER BY t.id FOR UPDATE OF t
    )
    UPDATE %T AS t
    SET state = mine.state, result = mine.result::json, last_error = mine.error, finished_at = now(),
        lease = NULL, lease_until = NULL
    FROM mine WHERE t.id = mine.id";

// A row that is locked is not waited for, or who holds one would have all leases run out. It is not taken over while it is locked.
const HEARTBEAT: &str = "
    WITH o AS MATERIALIZED (
        SELECT id, lease::uuid FROM unnest($1::bigint[], $2::text[]) AS o(id, lease)
    ), free AS MATERIALIZED (
        SELECT t.id FROM %T AS t JOIN o ON t.id = o.id AND t.lease = o.lease FOR UPDATE OF t SKIP LOCKED
    ), renewed AS (
        UPDATE %T AS t SET lease_until = now() + make_interval(secs => $3) FROM free WHERE t.id = free.id
    )
    SELECT t.id, t.lease::text FROM %T AS t JOIN o ON t.id = o.id AND t.lease = o.lease";

const GIVE_BACK: &str = "
    WITH mine AS MATERIALIZED (
        SELECT t.id
        FROM %T AS t
        JOIN unnest($1::bigint[], $2::text[]) AS o(id, lease) ON t.id = o.id AND t.lease = o.lease::uuid
        ORDER BY t.id FOR UPDATE OF t
    )
    UPDATE %T AS t
    SET state = 'ready', deliveries = t.deliveries - 1, lease = NULL, lease_until = NULL, leased_by = NULL
    FROM mine WHERE t.id = mine.id";

/// A table in PostgreSQL whose rows are jobs.
///
/// A row is a job that waits, that somebody has until its lease runs out, or that is over. Its result is stored in the row, in the
/// statement that ends it, and so exactly once.
pub struct Postgres(Arc<Table>);

struct Table {
    config: Config,
    tls: Tls,
    /// For people; without the password.
    place: String,
    /// As it is written in SQL, and to people.
    table: String,
    named: String,
    create: bool,
    lease: Duration,
    deliveries: i32,
    /// How long a job may lie there that nobody was notified of: it has become due, or its lease has run out.
    poll: Duration,
    holder: String,
    /// How long an answer may take, beyond what it was asked to wait.
    patience: Duration,
    taking: Mutex<Taking>,
    publishing: Mutex<Option<Session>>,
    keeping: Mutex<Option<Session>>,
}

/// What the thread that fetches has.
#[derive(Default)]
struct Taking {
    session: Option<Session>,
    /// When it last looked after leases that ran out.
    looked: Option<Instant>,
}

/// What a connection is for.
#[derive(Clone, Copy)]
enum Role {
    Fetch,
    Publish,
    Keep,
}

/// A connection.
struct Session {
    client: Client,
    /// The table's number, which notifications name.
    oid: String,
    prepared: HashMap<&'static str, Statement>,
}

enum Tls {
    /// Encrypted if the server can, whoever it is: `sslmode=prefer` and `require`, as in libpq.
    Unverified,
    /// Encrypted, and the certificate is of this host and from one of these: `sslmode=verify-full`.
    Verified(Arc<RootCertStore>),
}

impl Postgres {
    /// The table that a URL names: `postgres://user@host:port/database?table=shmworker_jobs&lease=30s&deliveries=5&poll=1s&create=true`.
    /// All parameters may be left out. `lease` is how long a job stays with a process of which nothing is heard, `deliveries` how often
    /// it is handed out before it is given up, `poll` how long one may lie there that has become due or whose lease has run out, and
    /// `create` makes the table if it is missing. Other parameters are libpq's; `sslmode` may
    /// be `disable`, `prefer` (the default), `require` and `verify-full`, the latter with the system's certificates or those of
    /// `sslrootcert`. The environment variable `PGPASSWORD` has the password if the URL has none.
    ///
    /// Does not connect yet.
    ///
    /// # Errors
    /// [`SourceError::Fatal`] if the URL says what can't be.
    ///
    /// ```
    /// use shmworker::sources::Postgres;
    ///
    /// Postgres::new("postgres://app@localhost/app?table=app.jobs&lease=1m")?;
    /// assert!(Postgres::new("postgres://app@localhost/app?lease=never").is_err());
    /// # Ok::<(), shmworker::sources::SourceError>(())
    /// ```
    pub fn new(url: &str) -> Result<Postgres, SourceError> {
        Postgres::open(url, &Options::new())
    }

    pub(super) fn open(url: &str, options: &Options) -> Result<Postgres, SourceError> {
        const OWN: [&str; 7] = ["table", "lease", "deliveries", "poll", "create", "sslmode", "sslrootcert"];
        let (rest, own) = Parameters::split(url, &OWN)?;
        let fatal = |why: String| SourceError::Fatal(why);
        let mut config =
            Config::from_str(&rest).map_err(|e| fatal(format!("the source's URL is wrong: {}", chain(&e))))?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(fatal("the source's URL names no host: postgres://user@host:port/database".to_owned()));
        }
        let mode = own.text("sslmode").unwrap_or("prefer");
        config.ssl_mode(match mode {
            "disable" => SslMode::Disable,
            "prefer" => SslMode::Prefer,
            "require" | "verify-full" => SslMode::Require,
            other => return Err(wrong("sslmode", other, "one of disable, prefer, require, verify-full")),
        });
        let ca = own.text("sslrootcert").map(Path::new).or(options.ca.as_deref());
        let tls = match (mode, ca) {
            ("verify-full", ca) => Tls::Verified(Arc::new(roots(ca)?)),
            (_, None) => Tls::Unverified,
            (_, Some(_)) => {
                let why = "certificates to check the server's by are of use only with sslmode=verify-full in its URL";
                return Err(fatal(why.to_owned()));
            }
        };
        if config.get_password().is_none()
            && let Some(password) = env::var_os("PGPASSWORD")
        {
            config.password(password.as_encoded_bytes());
        }
        if config.get_application_name().is_none() {
            config.application_name("shmworker");
        }
        // Who vanishes without a word is missed.
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(Duration::from_secs(10));
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(Duration::from_secs(30));
        }
        if config.get_keepalives_idle() > Duration::from_secs(60) {
            config.keepalives_idle(Duration::from_secs(60));
        }
        let named = own.text("table").unwrap_or(DEFAULT_TABLE).to_owned();
        let table = quoted(&named).ok_or_else(|| wrong("table", &named, "a name, or schema.name"))?;
        Ok(Postgres(Arc::new(Table {
            place: place(&config),
            tls,
            table,
            named,
            create: own.switch("create")?,
            lease: own.lease()?,
            deliveries: own.deliveries()?.cast_signed(),
            poll: own.time("poll", DEFAULT_POLL)?,
            holder: options.worker_name(),
            patience: ANSWER,
            taking: Mutex::default(),
            publishing: Mutex::default(),
            keeping: Mutex::default(),
            config,
        })))
    }

    /// Does something in a thread of its own, and leaves it there if it takes too long: the client waits for ever for a server that is
    /// stopped, or whose machine answers for it. `what` is for people, `place` what is locked meanwhile: while it is, nobody is left
    /// behind the first.
    fn within<T: Send + 'static, S>(
        &self,
        wait: Duration,
        what: &str,
        place: impl Fn(&Table) -> &Mutex<S>,
        act: impl FnOnce(&Table) -> Result<T, SourceError> + Send + 'static,
    ) -> Result<T, SourceError> {
        let Postgres(table) = self;
        let silent =
            || SourceError::Unavailable(format!("cannot {what} at {}: the server does not answer", table.place));
        if let Err(TryLockError::WouldBlock) = place(table).try_lock() {
            return Err(silent());
        }
        let (done, answer) = mpsc::channel();
        let shared = table.clone();
        let spawned = thread::Builder::new().name("postgres source".to_owned()).spawn(move || {
            // Who was left behind tells nobody.
            let _ = done.send(act(&shared));
        });
        spawned.map_err(|e| SourceError::Unavailable(format!("no thread to {what}: {e}")))?;
        match answer.recv_timeout(wait.saturating_add(table.patience)) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => Err(silent()),
            Err(RecvTimeoutError::Disconnected) => panic!("the thread to {what} has panicked"),
        }
    }
}

impl Table {
    fn connect(&self, role: Role) -> Result<Session, SourceError> {
        let client = match (&self.tls, self.config.get_ssl_mode()) {
            (_, SslMode::Disable) => self.config.connect(NoTls),
            (tls, _) => self.config.connect(MakeRustlsConnect::new(tls.config())),
        };
        let mut client = client.map_err(|e| self.cannot("connect", &e))?;
        client.batch_execute(PATIENCE).map_err(|e| self.cannot("connect", &e))?;
        let mut oid = self.find(&mut client)?;
        if oid.is_none() && self.create {
            self.make(&mut client).map_err(|e| self.cannot("create the table", &e))?;
            oid = self.find(&mut client)?;
        }
        let oid = oid.ok_or_else(|| {
            SourceError::Fatal(format!(
                "there is no table '{}' at {}: name another with ?table=, or have it made with &create=true, or by hand from \
                 src/sources/postgres.sql",
                self.named, self.place
            ))
        })?;
        let prepare = match role {
            // Listens before the first look, so that nothing comes unnoticed between that and the wait. A lease need not be on disk: if
            // the server forgets it in a crash, its result does not count, and the job is handed out again.
            Role::Fetch => "SET synchronous_commit = off; LISTEN shmworker",
            Role::Keep => "SET synchronous_commit = off",
            Role::Publish => "",
        };
        client.batch_execute(prepare).map_err(|e| self.cannot("connect", &e))?;
        Ok(Session { client, oid, prepared: HashMap::new() })
    }

    fn find(&self, client: &mut Client) -> Result<Option<String>, SourceError> {
        let row = client.query_one("SELECT to_regclass($1)::oid::text", &[&self.table]);
        row.map(|row| row.get(0)).map_err(|e| self.cannot("look for the table", &e))
    }

    fn make(&self, client: &mut Client) -> Result<(), Error> {
        let mut transaction = client.transaction()?;
        transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&MAKING])?;
        let there: Option<String> = transaction.query_one("SELECT to_regclass($1)::text", &[&self.table])?.get(0);
        if there.is_none() {
            transaction.batch_execute(&SCHEMA.replace(&format!("\"{DEFAULT_TABLE}\""), &self.table))?;
        }
        transaction.commit()
    }

    /// Does something over a connection, which is made if there is none, and given up after an error.
    fn with<T>(
        &self,
        session: &mut Option<Session>,
        role: Role,
        what: &str,
        act: impl FnOnce(&mut Session) -> Result<T, Error>,
    ) -> Result<T, SourceError> {
        // What the connection ended of while it was idle is no news.
        if session.as_ref().is_some_and(|session| session.client.is_closed()) {
            *session = None;
        }
        let open = match session {
            Some(open) => open,
            None => session.insert(self.connect(role)?),
        };
        act(open).map_err(|e| {
            *session = None;
            self.cannot(what, &e)
        })
    }

    /// What could not be done, why, and whether it is of use to try again.
    fn cannot(&self, what: &str, error: &Error) -> SourceError {
        let place = &self.place;
        let why = chain(error);
        let fatal = |remedy: &str| SourceError::Fatal(format!("cannot {what} at {place}: {why}: {remedy}"));
        match error.code() {
            Some(code)
                if [SqlState::INVALID_PASSWORD, SqlState::INVALID_AUTHORIZATION_SPECIFICATION].contains(code) =>
            {
                fatal("check user and password in the URL or in PGPASSWORD, and the server's pg_hba.conf")
            }
            Some(code) if *code == SqlState::UNDEFINED_DATABASE => fatal("create it, or name another in the URL"),
            Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
                fatal("the user needs SELECT and UPDATE on the table, and CREATE on its schema for create=true")
            }
            Some(code) if code.code().starts_with("42") || code.code().starts_with("3F") => {
                fatal(&format!("table '{}' is to be as in src/sources/postgres.sql", self.named))
            }
            Some(_) => SourceError::Unavailable(format!("cannot {what} at {place}: {why}")),
            None if why.starts_with("invalid configuration") => {
                fatal("say it in the URL, or the password in PGPASSWORD")
            }
            None if why.contains("server does not support TLS") => fatal("turn it on there, or off by sslmode=disable"),
            None if is_of_certificate(error) => {
                fatal("name its issuer's certificate by sslrootcert in the URL, or by --source-ca")
            }
            None => SourceError::Unavailable(format!("cannot {what} at {place}: {why}")),
        }
    }

    fn sql(&self, template: &str) -> String {
        template.replace("%T", &self.table)
    }

    fn prepared(&self, session: &mut Session, template: &'static str) -> Result<Statement, Error> {
        if let Some(statement) = session.prepared.get(template) {
            return Ok(statement.clone());
        }
        let statement = session.client.prepare(&self.sql(template))?;
        session.prepared.insert(template, statement.clone());
        Ok(statement)
    }

    /// Jobs that are ready.
    fn take(&self, session: &mut Session, room: usize) -> Result<Vec<Lease>, Error> {
        // What was notified by now is answered by this look. The client keeps it until somebody asks, and who finds jobs does not wait.
        while session.client.notifications().iter().next()?.is_some() {}
        let room = i64::try_from(room).unwrap_or(i64::MAX);
        let take = self.prepared(session, TAKE)?;
        let rows = session.client.query(&take, &[&room, &self.holder, &self.lease.as_secs_f64()])?;
        let lease = |row: Row| {
            let (id, lease, job): (i64, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let mut lease = Lease::from_json(format!("{id}:{lease}"), &job);
            lease.job = lease.job.map_err(|why| format!("row {id} of {}: {why}", self.named));
            Ok(lease)
        };
        rows.into_iter().map(lease).collect()
    }

    /// Looks after leases that ran out.
    fn expire(&self, session: &mut Session) -> Result<(), Error> {
        let expire = self.prepared(session, EXPIRE)?;
        let parameters: [&(dyn ToSql + Sync); 3] = [&EXPIRED_AT_ONCE, &self.deliveries, &self.lease.as_secs_f64()];
        for row in session.client.query(&expire, &parameters)? {
            let (id, is_dead, by): (i64, bool, Option<String>) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let by = by.unwrap_or_default();
            if is_dead {
                tracing::warn!(
                    "job {id} of {}: handed out too often without an end, given up; {by} had it last",
                    self.named
                );
            } else {
                tracing::debug!("job {id} of {}: the lease of {by} ran out", self.named);
            }
        }
        Ok(())
    }

    /// Waits until somebody has put jobs into the table, or until then.
    fn wait(session: &mut Session, until: Instant) -> Result<(), Error> {
        let oid = session.oid.clone();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut notifications = session.client.notifications();
            let Some(first) = notifications.timeout_iter(left).next()? else { return Ok(()) };
            // One look answers all that have come.
            let mut is_ours = first.payload() == oid;
            let mut others = notifications.iter();
            while let Some(other) = others.next()? {
                is_ours |= other.payload() == oid;
            }
            if is_ours {
                return Ok(());
            }
        }
    }

    fn store(&self, session: &mut Session, rows: &[Ending]) -> Result<(), Error> {
        let publish = self.prepared(session, PUBLISH)?;
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        let leases: Vec<&str> = rows.iter().map(|row| row.lease.as_str()).collect();
        let states: Vec<&str> = rows.iter().map(|row| row.state).collect();
        let results: Vec<Option<&str>> = rows.iter().map(|row| row.result.as_deref()).collect();
        let errors: Vec<Option<&str>> = rows.iter().map(|row| row.error.as_deref()).collect();
        let parameters: [&(dyn ToSql + Sync); 5] = [&ids, &leases, &states, &results, &errors];
        let stored = session.client.execute(&publish, &parameters)?;
        let late = (rows.len() as u64).saturating_sub(stored);
        if late > 0 {
            tracing::debug!("{late} results for {} came after their leases had ended, and are dropped", self.named);
        }
        Ok(())
    }
}

impl Table {
    fn fetch(&self, room: usize, wait: Duration) -> Result<Vec<Lease>, SourceError> {
        let until = Instant::now() + wait;
        let mut taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let Taking { session, looked } = &mut *taking;
        if room == 0 {
            return Ok(Vec::new());
        }
        self.with(session, Role::Fetch, "fetch jobs", |session| {
            loop {
                if looked.is_none_or(|at| at.elapsed() >= self.poll) {
                    self.expire(session)?;
                    *looked = Some(Instant::now());
                }
                let taken = self.take(session, room)?;
                let now = Instant::now();
                if !taken.is_empty() || now >= until {
                    return Ok(taken);
                }
                Table::wait(session, until.min(now + self.poll))?;
            }
        })
    }

    fn publish(&self, rows: Vec<Ending>) -> Result<(), SourceError> {
        let mut session = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut store = |rows: &[Ending]| {
            let mut refused = None;
            let stored = self.with(&mut session, Role::Publish, "publish results", |session| {
                let stored = self.store(session, rows);
                refused = stored.as_ref().err().filter(|e| is_of_data(e)).map(chain);
                stored
            });
            (stored, refused)
        };
        match store(&rows) {
            (Ok(()), _) => Ok(()),
            (Err(error), None) => Err(error),
            // Something in one of them is not for this database. The others shall not wait for it, nor it for ever.
            (Err(_), Some(_)) => rows.into_iter().try_for_each(|mut row| match store(std::slice::from_ref(&row)) {
                (stored, None) => stored,
                (_, Some(why)) => {
                    tracing::warn!("the result of job {} of {} cannot be stored: {why}", row.id, self.named);
                    row.state = "failed";
                    row.result = None;
                    row.error = Some(format!("the result cannot be stored: {why}").replace('\0', "\u{fffd}"));
                    match store(std::slice::from_ref(&row)) {
                        (Err(_), Some(why)) => Err(SourceError::Fatal(format!(
                            "job {} of {} at {} cannot be ended: {why}",
                            row.id, self.named, self.place
                        ))),
                        (stored, _) => stored,
                    }
                }
            }),
        }
    }

    fn heartbeat(&self, mut leases: Vec<String>) -> Result<Vec<String>, SourceError> {
        let (ids, tokens) = parsed(&leases);
        let mut session = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        let kept: HashSet<String> = self.with(&mut session, Role::Keep, "renew leases", |session| {
            let heartbeat = self.prepared(session, HEARTBEAT)?;
            let rows = session.client.query(&heartbeat, &[&ids, &tokens, &self.lease.as_secs_f64()])?;
            rows.iter().map(|row| Ok(format!("{}:{}", row.try_get::<_, i64>(0)?, row.try_get::<_, &str>(1)?))).collect()
        })?;
        leases.retain(|lease| !kept.contains(lease));
        Ok(leases)
    }

    fn give_back(&self, unstarted: &[String]) -> Result<(), SourceError> {
        let (ids, tokens) = parsed(unstarted);
        let mut session = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        self.with(&mut session, Role::Keep, "give jobs back", |session| {
            let give_back = self.prepared(session, GIVE_BACK)?;
            session.client.execute(&give_back, &[&ids, &tokens])?;
            session.client.execute("SELECT pg_notify('shmworker', $1)", &[&session.oid])?;
            Ok(())
        })
    }
}

impl TaskSource for Postgres {
    fn fetch(&self, room: usize, wait: Duration) -> Result<Vec<Lease>, SourceError> {
        self.within(wait, "fetch jobs", |table| &table.taking, move |table| table.fetch(room, wait))
    }

    fn publish(&self, outcomes: &[Outcome]) -> Result<(), SourceError> {
        let rows = outcomes.iter().filter_map(Ending::of).collect();
        self.within(Duration::ZERO, "publish results", |table| &table.publishing, |table| table.publish(rows))
    }

    fn heartbeat_every(&self) -> Option<Duration> {
        Some(self.0.lease / 3)
    }

    fn heartbeat(&self, leases: &[&str]) -> Result<Vec<String>, SourceError> {
        let leases = owned(leases);
        self.within(Duration::ZERO, "renew leases", |table| &table.keeping, |table| table.heartbeat(leases))
    }

    fn shut_down(&self, unstarted: &[&str]) -> Result<(), SourceError> {
        if unstarted.is_empty() {
            return Ok(());
        }
        let leases = owned(unstarted);
        self.within(Duration::ZERO, "give jobs back", |table| &table.keeping, move |table| table.give_back(&leases))
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("place", &self.0.place).field("table", &self.0.named).finish_non_exhaustive()
    }
}

/// What an outcome makes of its row.
struct Ending {
    id: i64,
    lease: String,
    state: &'static str,
    result: Option<String>,
    error: Option<String>,
}

impl Ending {
    fn of(outcome: &Outcome) -> Option<Ending> {
        let (id, lease) = parts(&outcome.id)?;
        let state = if outcome.result.status == Status::Done { "done" } else { "failed" };
        // PostgreSQL has no text with a zero in it.
        let error = outcome.result.error.as_ref().map(|error| error.replace('\0', "\u{fffd}"));
        Some(Ending { id, lease: lease.to_owned(), state, result: Some(outcome.to_json()), error })
    }
}

/// The row and the number of the delivery, of which a lease's id is made.
fn parts(lease: &str) -> Option<(i64, &str)> {
    let (id, token) = lease.split_once(':')?;
    Some((id.parse().ok()?, token))
}

fn owned(leases: &[&str]) -> Vec<String> {
    leases.iter().map(|&lease| lease.to_owned()).collect()
}

fn parsed(leases: &[String]) -> (Vec<i64>, Vec<&str>) {
    leases.iter().filter_map(|lease| parts(lease)).unzip()
}

/// `schema.table` as SQL has it.
fn quoted(name: &str) -> Option<String> {
    let parts: Vec<&str> = name.split('.').collect();
    let is_name = |part: &&str| !part.is_empty() && !part.contains('\0');
    (parts.len() <= 2 && parts.iter().all(is_name))
        .then(|| parts.iter().map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect::<Vec<_>>().join("."))
}

/// Where the server is, for people.
fn place(config: &Config) -> String {
    let ports = config.get_ports();
    let port = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(5432);
    let host = |(at, host): (usize, &Host)| match host {
        Host::Tcp(name) => format!("{name}:{}", port(at)),
        Host::Unix(path) => path.display().to_string(),
    };
    let hosts: Vec<String> = config.get_hosts().iter().enumerate().map(host).collect();
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    format!("PostgreSQL {}/{database}", hosts.join(","))
}

/// An error and all that caused it, in a line.
fn chain(error: &Error) -> String {
    if let Some(said) = error.as_db_error() {
        return format!("{} (SQLSTATE {})", said.message(), said.code().code());
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The server refuses what is to be stored, not that something is stored: a character or a value it can't hold, one that is too large
/// or too deep for it, a constraint, a trigger.
fn is_of_data(error: &Error) -> bool {
    error.code().is_some_and(|code| ["22", "23", "54", "P0"].iter().any(|class| code.code().starts_with(class)))
}

fn is_of_certificate(error: &Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        let within = error.downcast_ref::<std::io::Error>().and_then(|e| e.get_ref()?.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::InvalidCertificate(_)) = within.or(error.downcast_ref()) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The certificates of those who may vouch for a server.
fn roots(file: Option<&Path>) -> Result<RootCertStore, SourceError> {
    let mut roots = RootCertStore::empty();
    match file {
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let why = "this system has no certificates for sslmode=verify-full: name a file by sslrootcert or --source-ca";
                return Err(SourceError::Fatal(why.to_owned()));
            }
        }
        Some(file) => {
            let wrong = |why: &dyn fmt::Display| {
                SourceError::Fatal(format!("cannot read certificates from '{}': {why}", file.display()))
            };
            let certificates = CertificateDer::pem_file_iter(file).map_err(|e| wrong(&e))?;
            for certificate in certificates {
                roots.add(certificate.map_err(|e| wrong(&e))?).map_err(|e| wrong(&e))?;
            }
            if roots.is_empty() {
                return Err(wrong(&"no PEM certificate is in it"));
            }
        }
    }
    Ok(roots)
}

impl Tls {
    fn config(&self) -> ClientConfig {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().expect("the provider's own");
        match self {
            Tls::Verified(roots) => builder.with_root_certificates(roots.clone()).with_no_client_auth(),
            Tls::Unverified => {
                let anybody = Arc::new(Anybody(provider));
                builder.dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth()
            }
        }
    }
}

/// Takes a server for whatever it says it is: against who listens, not against who stands between.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_server_that_is_silent_is_not_waited_for() {
        // The kernel takes the connection, and nobody says a word.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut source = Postgres::new(&format!("postgres://me@127.0.0.1:{port}/d")).unwrap();
        Arc::get_mut(&mut source.0).unwrap().patience = Duration::from_millis(10);
        let silent = |answer: Result<(), SourceError>| {
            let error = answer.unwrap_err();
            assert!(matches!(&error, SourceError::Unavailable(why) if why.contains("does not answer")), "{error}");
        };
        // The second time the first is still there.
        for _ in 0..2 {
            silent(source.fetch(1, Duration::ZERO).map(drop));
            silent(source.publish(&[]));
            silent(source.heartbeat(&["1:x"]).map(drop));
            silent(source.shut_down(&["1:x"]));
        }
    }

    #[test]
    fn the_page_has_the_table_as_it_is_made() {
        let page = include_str!("../../docs/sources/postgres.md");
        assert!(
            page.contains(SCHEMA),
            "docs/sources/postgres.md shows another table than src/sources/postgres.sql makes"
        );
    }

    #[test]
    fn names_are_quoted_and_nothing_else_gets_in() {
        assert_eq!(quoted("jobs").unwrap(), "\"jobs\"");
        assert_eq!(quoted("app.Jobs").unwrap(), "\"app\".\"Jobs\"");
        assert_eq!(quoted("a\"; DROP TABLE b; --").unwrap(), "\"a\"\"; DROP TABLE b; --\"");
        for wrong in ["", ".", "a.", "a.b.c", "a\0"] {
            assert_eq!(quoted(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_url_that_cannot_be_is_refused_without_its_password() {
        for (url, wanted) in [
            ("postgres://me:secret@h/d?sslmode=verify-ca", "sslmode='verify-ca'"),
            ("postgres://me:secret@h/d?table=a.b.c", "schema.name"),
            ("postgres://me:secret@h/d?sslrootcert=/x", "verify-full"),
            ("postgres://me:secret@h/d?sslmode=verify-full&sslrootcert=/nonexistent", "'/nonexistent'"),
            ("postgres://me:secret@h/d?tabel=jobs", "tabel"),
            ("postgres://me:secret@h:port/d", "port"),
            ("postgres:///d", "no host"),
        ] {
            let error = Postgres::new(url).unwrap_err().to_string();
            assert!(error.contains(wanted) && !error.contains("secret"), "{url}: {error}");
        }
        let source = Postgres::new("postgres://me:secret@h1:1,h2:2/d?table=x").unwrap();
        assert_eq!(format!("{source:?}"), "Postgres { place: \"PostgreSQL h1:1,h2:2/d\", table: \"x\", .. }");
    }
}
