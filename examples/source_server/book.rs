//! What a server of jobs keeps: which of them wait, who has which, and each result once. In two files, so that a kill -9 loses nothing:
//! `jobs.jsonl` has a job on each line, `results.jsonl` the line `{"job":N,"result":…}` for each that is over.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

pub(crate) struct Book {
    jobs: Vec<String>,
    /// Neither over nor with somebody.
    waiting: BTreeSet<usize>,
    /// Who has it, and until when. Forgotten by a restart: leases are made anew by whoever still renews them.
    leased: HashMap<usize, (String, Instant)>,
    is_over: Vec<bool>,
    results: File,
    lease: Duration,
    /// No two leases have the same name, those of an earlier run counted in.
    run: u128,
    next: u64,
}

#[derive(Deserialize, Serialize)]
struct Stored {
    job: usize,
    result: Box<RawValue>,
}

impl Book {
    pub(crate) fn open(dir: &Path, lease: Duration) -> io::Result<Book> {
        let jobs: Vec<String> = fs::read_to_string(dir.join("jobs.jsonl"))?.lines().map(str::to_owned).collect();
        let path = dir.join("results.jsonl");
        let mut results = OpenOptions::new().create(true).append(true).open(&path)?;
        let text = fs::read(&path)?;
        // Whoever was killed may have left half a line, of which nobody was told.
        let whole = text.iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
        results.set_len(whole as u64)?;
        results.flush()?;
        let mut is_over = vec![false; jobs.len()];
        for line in text[..whole].split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
            is_over[serde_json::from_slice::<Stored>(line)?.job] = true;
        }
        let waiting = (0..jobs.len()).filter(|&job| !is_over[job]).collect();
        let run = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        Ok(Book { jobs, waiting, leased: HashMap::new(), is_over, results, lease, run, next: 0 })
    }

    /// How often a lease is to be renewed.
    pub(crate) fn heartbeat(&self) -> Duration {
        self.lease / 4
    }

    /// Leases, each with its job.
    pub(crate) fn fetch(&mut self, room: usize) -> Vec<(String, String)> {
        let now = Instant::now();
        let late = self.leased.extract_if(|_, (_, until)| *until < now);
        self.waiting.extend(late.map(|(job, _)| job));
        let mut leases = Vec::new();
        while leases.len() < room
            && let Some(job) = self.waiting.pop_first()
        {
            self.next += 1;
            let lease = format!("{job}.{:x}.{}", self.run, self.next);
            self.leased.insert(job, (lease.clone(), now + self.lease));
            leases.push((lease, self.jobs[job].clone()));
        }
        leases
    }

    fn job(&self, lease: &str) -> Option<usize> {
        lease.split('.').next()?.parse().ok().filter(|&job| job < self.jobs.len())
    }

    /// The first result of a job is stored, whoever brings it: by the job, which is the key, a second one is known.
    pub(crate) fn publish<'a>(&mut self, results: impl IntoIterator<Item = (&'a str, &'a str)>) -> io::Result<()> {
        let mut lines = Vec::new();
        let mut over = Vec::new();
        for (lease, result) in results {
            let Some(job) = self.job(lease).filter(|&job| !self.is_over[job] && !over.contains(&job)) else { continue };
            serde_json::to_writer(&mut lines, &Stored { job, result: RawValue::from_string(result.to_owned())? })?;
            lines.push(b'\n');
            over.push(job);
        }
        // One write: after a kill it is there, or it is not and nobody was told so.
        let whole = self.results.metadata()?.len();
        if let Err(e) = self.results.write_all(&lines) {
            // A full disk took a part of it, which would stand before the next.
            self.results.set_len(whole)?;
            return Err(e);
        }
        for job in over {
            self.is_over[job] = true;
            self.waiting.remove(&job);
            self.leased.remove(&job);
        }
        Ok(())
    }

    /// Those of the leases that are lost.
    pub(crate) fn renew<'a>(&mut self, leases: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let until = Instant::now() + self.lease;
        let mut lost = Vec::new();
        for lease in leases {
            match self.job(lease) {
                Some(job) if self.leased.get(&job).is_some_and(|(holder, _)| holder == lease) => {
                    self.leased.insert(job, (lease.to_owned(), until));
                }
                // It was given before a restart, and to nobody since.
                Some(job) if self.waiting.remove(&job) => {
                    self.leased.insert(job, (lease.to_owned(), until));
                }
                _ => lost.push(lease.to_owned()),
            }
        }
        lost
    }

    /// Gives leases back.
    pub(crate) fn release<'a>(&mut self, leases: impl IntoIterator<Item = &'a str>) {
        for lease in leases {
            if let Some(job) = self.job(lease)
                && self.leased.get(&job).is_some_and(|(holder, _)| holder == lease)
            {
                self.leased.remove(&job);
                self.waiting.insert(job);
            }
        }
    }
}
