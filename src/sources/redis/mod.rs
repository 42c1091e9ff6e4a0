//! Redis Streams: entries of a stream as jobs, handed out by a consumer group.
//!
//! An entry that was handed out is pending until it is acknowledged; one whose consumer was silent for as long as a lease lasts is
//! taken over, or goes to the stream of the dead if it was handed out too often. Redis measures the silence: who has another idea of the
//! time does no harm.
//!
//! `XACK` asks nobody who he is. So a script looks first: a result is stored, and its entry acknowledged and deleted, only while the
//! entry is pending for this consumer and was handed out as often as it was then. A script runs alone, and its effects are written to
//! the append-only file as one: of all who ever had the job, one stores its result, and once.

use super::{
    Lease, Outcome, SourceError, TaskSource,
    connect::Options,
    settings::{Parameters, wrong},
};
use ::redis::{
    Client, Connection, ConnectionAddr, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisError, Script,
    ScriptInvocation, TlsCertificates, Value, cmd, streams::StreamReadReply,
};
use rustls::crypto::{CryptoProvider, ring};
use std::{
    env, fmt, fs,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long a job may lie there whose consumer has gone silent.
const POLL: Duration = Duration::from_secs(1);
/// How long a server may take to connect, and to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// What the names of our consumers begin with.
const OURS: &str = "shmworker-";
/// A job that was given back has been silent for so long: longer than any lease lasts.
const GIVEN_BACK: Duration = Duration::from_secs(2 * 366 * 24 * 3600);
/// How many entries a script takes on at a time: Redis does nothing else meanwhile.
const AT_ONCE: usize = 500;

/// A stream in Redis whose entries are jobs, for a consumer group.
///
/// An entry has a field `job`, with the job as JSON: `XADD jobs * job '{"task":"echo","args":"x"}'`. Results go to another stream, as
/// entries with the fields `job` (the entry's id), `status` and `result`; jobs that were handed out too often to a third.
pub struct Redis {
    client: Client,
    /// For people; without the password.
    place: String,
    stream: String,
    group: String,
    results: String,
    results_max: u64,
    dead: String,
    lease: Duration,
    deliveries: u32,
    consumer: String,
    scripts: Scripts,
    taking: Mutex<Taking>,
    publishing: Mutex<Option<Connection>>,
    keeping: Mutex<Option<Connection>>,
}

struct Scripts {
    take_over: Script,
    publish: Script,
    renew: Script,
    tidy: Script,
}

/// What the thread that fetches has.
struct Taking {
    connection: Option<Connection>,
    /// Until then nobody is held to be silent who has not given back what he had.
    spared: Instant,
    /// When it last looked after the silent, and after consumers that have nothing.
    looked: Option<Instant>,
    tidied: Option<Instant>,
    /// Where it goes on looking.
    cursor: String,
    /// There was a group once: that it is gone is news.
    had_group: bool,
}

impl Redis {
    /// The stream that a URL names: `redis://user:password@host:port/db?stream=jobs&group=shmworker&results=jobs:results&dead=jobs:dead&
    /// results_max=1000000&lease=30s&deliveries=5`, or `rediss://` with TLS. All parameters may be left out. `lease` is how long a job
    /// stays with a process of which nothing is heard, `deliveries` how often it is handed out before it is given up. Without
    /// `results_max` results stay until they are deleted. Stream and group are made if they are missing. The environment variable
    /// `REDISCLI_AUTH` has the password if the URL has none.
    ///
    /// Does not connect yet.
    ///
    /// # Errors
    /// [`SourceError::Fatal`] if the URL says what can't be.
    ///
    /// ```
    /// use shmworker::sources::Redis;
    ///
    /// Redis::new("redis://localhost/0?stream=images&lease=1m")?;
    /// assert!(Redis::new("redis://localhost/0?lease=never").is_err());
    /// # Ok::<(), shmworker::sources::SourceError>(())
    /// ```
    pub fn new(url: &str) -> Result<Redis, SourceError> {
        Redis::open(url, &Options::new())
    }

    pub(super) fn open(url: &str, options: &Options) -> Result<Redis, SourceError> {
        const OWN: [&str; 7] = ["stream", "group", "results", "results_max", "dead", "lease", "deliveries"];
        let (rest, own) = Parameters::split(url, &OWN)?;
        if let Some((_, others)) = rest.split_once('?') {
            let name = others.split(['=', '&']).next().unwrap_or_default();
            let known = OWN.join(", ");
            return Err(SourceError::Fatal(format!(
                "the source's URL has an unknown parameter '{name}': known are {known}"
            )));
        }
        let of_url = |e: RedisError| SourceError::Fatal(format!("the source's URL is wrong: {e}"));
        let mut info = rest.as_str().into_connection_info().map_err(of_url)?;
        if info.redis_settings().password().is_none()
            && let Ok(password) = env::var("REDISCLI_AUTH")
        {
            let settings = info.redis_settings().clone().set_password(password);
            info = info.set_redis_settings(settings);
        }
        let db = info.redis_settings().db();
        let is_tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
        let place = match info.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                format!("Redis {host}:{port}/{db}")
            }
            other => format!("Redis {other}"),
        };
        if is_tls && CryptoProvider::get_default().is_none() {
            // The client takes the process's, which is not settled if several are built in. Whoever is quicker is as good.
            let _ = ring::default_provider().install_default();
        }
        let client = match &options.ca {
            Some(_) if !is_tls => {
                let why = "certificates to check the server's by are of use only with rediss://";
                return Err(SourceError::Fatal(why.to_owned()));
            }
            Some(file) => {
                let wrong = |why: &dyn fmt::Display| {
                    SourceError::Fatal(format!("cannot read certificates from '{}': {why}", file.display()))
                };
                let root_cert = Some(fs::read(file).map_err(|e| wrong(&e))?);
                Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert }).map_err(|e| wrong(&e))?
            }
            None => Client::open(info).map_err(of_url)?,
        };
        let name = |parameter: &str, default: &str| match own.text(parameter) {
            Some("") => Err(wrong(parameter, "", "a name")),
            name => Ok(name.unwrap_or(default).to_owned()),
        };
        let stream = name("stream", "jobs")?;
        let results = name("results", &format!("{stream}:results"))?;
        let dead = name("dead", &format!("{stream}:dead"))?;
        if results == stream || dead == stream || results == dead {
            let why =
                "jobs, results and the dead are to be three streams: see 'stream', 'results' and 'dead' in the URL";
            return Err(SourceError::Fatal(why.to_owned()));
        }
        Ok(Redis {
            client,
            place,
            group: name("group", "shmworker")?,
            results_max: own.number("results_max")?.unwrap_or(0),
            lease: own.lease()?,
            deliveries: own.deliveries()?,
            // Process ids come again, and what a process had is not its successor's.
            consumer: format!("{OURS}{}-{:016x}", options.worker_name(), fastrand::u64(..)),
            stream,
            results,
            dead,
            scripts: Scripts {
                take_over: Script::new(include_str!("take_over.lua")),
                publish: Script::new(include_str!("publish.lua")),
                renew: Script::new(include_str!("renew.lua")),
                tidy: Script::new(include_str!("tidy.lua")),
            },
            taking: Mutex::new(Taking {
                connection: None,
                spared: Instant::now(),
                looked: None,
                tidied: None,
                cursor: "0-0".to_owned(),
                had_group: false,
            }),
            publishing: Mutex::default(),
            keeping: Mutex::default(),
        })
    }

    fn connect(&self) -> Result<Connection, RedisError> {
        let connection = self.client.get_connection_with_timeout(CONNECT_TIMEOUT)?;
        connection.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        connection.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(connection)
    }

    /// Does something over a connection, which is made if there is none, and given up after an error.
    fn with<T>(
        &self,
        connection: &mut Option<Connection>,
        act: impl FnOnce(&mut Connection) -> Result<T, RedisError>,
    ) -> Result<T, RedisError> {
        let open = match connection {
            Some(open) => Ok(open),
            None => self.connect().map(|made| connection.insert(made)),
        };
        open.and_then(act).inspect_err(|_| *connection = None)
    }

    /// What could not be done, why, and whether it is of use to try again.
    fn cannot(&self, what: &str, error: &RedisError) -> SourceError {
        let place = &self.place;
        let why = error.to_string();
        let fatal = |remedy: &str| SourceError::Fatal(format!("cannot {what} at {place}: {why}: {remedy}"));
        match (error.kind(), error.code()) {
            (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS")) => {
                fatal("check user and password in the URL or in REDISCLI_AUTH")
            }
            (_, Some("NOPERM")) => fatal("allow the user the commands of streams, EVALSHA and SCRIPT, and these keys"),
            (_, Some("WRONGTYPE")) => fatal("name others by stream=, results= and dead= in the URL"),
            (_, Some("CROSSSLOT" | "MOVED")) => fatal("a cluster is not supported: name a single server"),
            (ErrorKind::InvalidClientConfig, _) => fatal("check the URL"),
            _ if why.contains("unknown command") || why.contains("Unknown Redis command") => {
                fatal("it is to be Redis 7 or newer")
            }
            _ if why.contains("DB index") => fatal("name another database in the URL"),
            _ if why.contains("invalid peer certificate") => fatal("name its issuer's certificate by --source-ca"),
            _ => SourceError::Unavailable(format!("cannot {what} at {place}: {why}")),
        }
    }

    /// Makes stream and group. Whether they were missing.
    fn make_group(&self, connection: &mut Connection) -> Result<bool, RedisError> {
        let mut create = cmd("XGROUP");
        create.arg("CREATE").arg(&self.stream).arg(&self.group).arg("0").arg("MKSTREAM");
        match create.exec(connection) {
            Ok(()) => Ok(true),
            Err(e) if e.code() == Some("BUSYGROUP") => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Jobs of those who were silent for so long.
    fn take_over(
        &self,
        connection: &mut Connection,
        cursor: &mut String,
        silence: Duration,
        room: usize,
    ) -> Result<Vec<Lease>, RedisError> {
        type TakenOver = (String, Vec<(String, u64, Value)>, Vec<(String, String)>);
        let mut script = self.scripts.take_over.key(&self.stream);
        script.key(&self.dead).arg(&self.group).arg(&self.consumer).arg(millis(silence)).arg(room);
        let (next, jobs, dead): TakenOver = script.arg(self.deliveries).arg(&*cursor).invoke(connection)?;
        *cursor = next;
        for (id, consumer) in dead {
            let (stream, dead) = (&self.stream, &self.dead);
            tracing::warn!(
                "job {id} of {stream}: handed out too often without an end, now in {dead}; {consumer} had it last"
            );
        }
        Ok(jobs.into_iter().map(|(id, deliveries, job)| self.lease_of(&id, deliveries, &job)).collect())
    }

    fn read(&self, connection: &mut Connection, room: usize, wait: Duration) -> Result<Vec<Lease>, RedisError> {
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(&self.group).arg(&self.consumer).arg("COUNT").arg(room);
        // Zero would be for ever.
        if !wait.is_zero() {
            read.arg("BLOCK").arg(millis(wait).max(1));
        }
        let reply: Option<StreamReadReply> = read.arg("STREAMS").arg(&self.stream).arg(">").query(connection)?;
        let entries = reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids);
        Ok(entries.map(|entry| self.lease_of(&entry.id, 1, entry.map.get("job").unwrap_or(&Value::Nil))).collect())
    }

    fn lease_of(&self, id: &str, deliveries: u64, job: &Value) -> Lease {
        let lease = format!("{id}:{deliveries}");
        let mut lease = match job {
            Value::Nil => Lease { id: lease, job: Err("it has no field 'job'".to_owned()) },
            job => match String::from_redis_value_ref(job) {
                Ok(text) => Lease::from_json(lease, &text),
                Err(_) => Lease { id: lease, job: Err("its field 'job' is no text".to_owned()) },
            },
        };
        lease.job = lease.job.map_err(|why| format!("entry {id} of {}: {why}", self.stream));
        lease
    }

    /// Begins the leases anew, or ends them. Which are not ours, by their places.
    fn renew(&self, connection: &mut Connection, leases: &[&str], idle: &str) -> Result<Vec<usize>, RedisError> {
        let mut script = self.scripts.renew.key(&self.stream);
        script.arg(&self.group).arg(&self.consumer).arg(idle);
        for lease in leases {
            with_lease(&mut script, lease);
        }
        script.invoke(connection)
    }
}

impl TaskSource for Redis {
    fn fetch(&self, room: usize, wait: Duration) -> Result<Vec<Lease>, SourceError> {
        if room == 0 {
            return Ok(Vec::new());
        }
        let room = room.min(AT_ONCE);
        let until = Instant::now() + wait;
        let pace = POLL.min(self.lease / 4);
        let mut taking = lock(&self.taking);
        let Taking { connection, spared, looked, tidied, cursor, had_group } = &mut *taking;
        let is_new = connection.is_none();
        let fetched = self.with(connection, |connection| {
            let is_due = |at: &Option<Instant>, pace| at.is_none_or(|at| at.elapsed() >= pace);
            if is_new {
                if self.make_group(connection)? && *had_group {
                    tracing::warn!(
                        "group {} of {} at {} was gone and is made again: Redis kept nothing of it, and jobs that were there are lost",
                        self.group, self.stream, self.place
                    );
                }
                *had_group = true;
                // While the server was away nobody could renew a lease.
                let up = uptime(connection).unwrap_or(Duration::MAX);
                *spared = Instant::now() + self.lease.saturating_sub(up);
            }
            if is_due(tidied, self.lease) {
                let mut script = self.scripts.tidy.key(&self.stream);
                script.arg(&self.group).arg(OURS).arg(millis(2 * self.lease)).invoke::<()>(connection)?;
                *tidied = Some(Instant::now());
            }
            loop {
                if is_due(looked, pace) {
                    let silence = if Instant::now() < *spared { GIVEN_BACK } else { self.lease };
                    let taken = self.take_over(connection, cursor, silence, room)?;
                    // There may be more of them at once.
                    *looked = taken.is_empty().then(Instant::now);
                    if !taken.is_empty() {
                        return Ok(taken);
                    }
                }
                let left = until.saturating_duration_since(Instant::now());
                let taken = self.read(connection, room, left.min(pace))?;
                if !taken.is_empty() || Instant::now() >= until {
                    return Ok(taken);
                }
            }
        });
        match fetched {
            // Made again with the next connection.
            Err(e) if is_no_group(&e) => Ok(Vec::new()),
            fetched => fetched.map_err(|e| self.cannot("fetch jobs", &e)),
        }
    }

    fn publish(&self, outcomes: &[Outcome]) -> Result<(), SourceError> {
        let mut connection = lock(&self.publishing);
        for outcomes in outcomes.chunks(AT_ONCE) {
            let stored = self.with(&mut connection, |connection| {
                let mut script = self.scripts.publish.key(&self.stream);
                script.key(&self.results).arg(&self.group).arg(&self.consumer).arg(self.results_max);
                for outcome in outcomes {
                    with_lease(&mut script, &outcome.id);
                    let status = serde_json::to_value(outcome.result.status).expect("plain data");
                    script.arg(status.as_str().unwrap_or_default()).arg(outcome.to_json());
                }
                script.invoke::<usize>(connection)
            });
            match stored {
                Ok(stored) if stored == outcomes.len() => {}
                Ok(stored) => {
                    let late = outcomes.len() - stored;
                    tracing::debug!(
                        "{late} results for {} came after their leases had ended, and are dropped",
                        self.stream
                    );
                }
                Err(e) if is_no_group(&e) => tracing::warn!(
                    "{} results are dropped: group {} of {} at {} is gone, and whose the jobs are with it",
                    outcomes.len(),
                    self.group,
                    self.stream,
                    self.place
                ),
                Err(e) => return Err(self.cannot("publish results", &e)),
            }
        }
        Ok(())
    }

    fn heartbeat_every(&self) -> Option<Duration> {
        Some(self.lease / 3)
    }

    fn heartbeat(&self, leases: &[&str]) -> Result<Vec<String>, SourceError> {
        let mut connection = lock(&self.keeping);
        let mut all_lost = Vec::new();
        for leases in leases.chunks(AT_ONCE) {
            match self.with(&mut connection, |connection| self.renew(connection, leases, "")) {
                Ok(lost) => {
                    all_lost.extend(lost.iter().filter_map(|&at| leases.get(at)).map(|lease| (*lease).to_owned()))
                }
                Err(e) if is_no_group(&e) => all_lost.extend(leases.iter().map(|lease| (*lease).to_owned())),
                Err(e) => return Err(self.cannot("renew leases", &e)),
            }
        }
        Ok(all_lost)
    }

    fn shut_down(&self, unstarted: &[&str]) -> Result<(), SourceError> {
        let mut connection = lock(&self.keeping);
        let given_back = self.with(&mut connection, |connection| {
            let idle = millis(GIVEN_BACK).to_string();
            for leases in unstarted.chunks(AT_ONCE) {
                self.renew(connection, leases, &idle)?;
            }
            // If this consumer has nothing, it goes at once.
            let mut script = self.scripts.tidy.key(&self.stream);
            script.arg(&self.group).arg(&self.consumer).arg(0).invoke::<()>(connection)
        });
        match given_back {
            Err(e) if !is_no_group(&e) => Err(self.cannot("give jobs back", &e)),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("place", &self.place).field("stream", &self.stream).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// For how long the server has been there, if it tells this user.
fn uptime(connection: &mut Connection) -> Option<Duration> {
    let info: String = cmd("INFO").arg("server").query(connection).ok()?;
    let seconds = info.lines().find_map(|line| line.strip_prefix("uptime_in_seconds:"))?;
    Some(Duration::from_secs(seconds.trim().parse().ok()?))
}

/// The entry and how often it was handed out, of which a lease's id is made. What is none of ours is no entry's.
fn with_lease(script: &mut ScriptInvocation<'_>, lease: &str) {
    let (id, deliveries) = lease.split_once(':').unwrap_or(("0-0", "0"));
    script.arg(id).arg(deliveries);
}

/// Stream or group are not there: nobody made them, they were deleted, or Redis has restarted with nothing.
fn is_no_group(error: &RedisError) -> bool {
    matches!(error.code(), Some("NOGROUP" | "UNBLOCKED"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_cannot_be_is_refused_without_its_password() {
        for (url, wanted) in [
            ("redis://me:secret@h/x", "URL is wrong"),
            ("redis://me:secret@h/0?strem=jobs", "'strem'"),
            ("redis://me:secret@h/0?stream=", "stream=''"),
            ("redis://me:secret@h/0?stream=a&results=a", "three streams"),
            ("redis://me:secret@h/0?results_max=none", "results_max='none'"),
        ] {
            let error = Redis::new(url).unwrap_err().to_string();
            assert!(error.contains(wanted) && !error.contains("secret"), "{url}: {error}");
        }
        let source = Redis::new("redis://me:secret@h:1/2").unwrap();
        assert_eq!(format!("{source:?}"), "Redis { place: \"Redis h:1/2\", stream: \"jobs\", .. }");
    }
}
