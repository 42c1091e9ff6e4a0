//! A source of one's own: `todo/` has a file for each job, `taken/` those that run, `done/` the results.
//!
//! ```text
//! mkdir -p jobs/todo && echo '{"task":"sha256","args":"some text"}' > jobs/todo/a
//! own_source jobs
//! ```

use shmworker::{Pool, Tasks, jobs, sources};
use sources::{Lease, Options, Outcome, SourceError, Stop, TaskSource, serve};
use std::{
    error::Error,
    fs::{self, DirEntry},
    io,
    path::PathBuf,
    time::Duration,
};

struct Directory(PathBuf, Stop);

fn unavailable(e: io::Error) -> SourceError {
    SourceError::Unavailable(e.to_string())
}

impl Directory {
    fn take(&self, file: io::Result<DirEntry>) -> io::Result<Lease> {
        let file = file?;
        let taken = self.0.join("taken").join(file.file_name());
        fs::rename(file.path(), &taken)?;
        let json = fs::read_to_string(taken);
        let mut lease = Lease::from_json(file.file_name().to_string_lossy(), json.as_deref().unwrap_or_default());
        if let Err(e) = json {
            lease.job = Err(format!("this is no job: {e}")); // it has its lease, and fails
        }
        Ok(lease)
    }
}

impl TaskSource for Directory {
    fn fetch(&self, room: usize, _wait: Duration) -> Result<Vec<Lease>, SourceError> {
        let mut leases = Vec::new();
        for file in fs::read_dir(self.0.join("todo")).map_err(unavailable)?.take(room) {
            match self.take(file) {
                Ok(lease) => leases.push(lease),
                Err(e) if leases.is_empty() => return Err(unavailable(e)),
                Err(_) => break, // those that were taken are not to be forgotten; the next fetch meets it first
            }
        }
        if leases.is_empty() && fs::read_dir(self.0.join("taken")).map_err(unavailable)?.next().is_none() {
            self.1.drain(); // all is done; another source would wait for more
        }
        Ok(leases)
    }

    fn publish(&self, outcomes: &[Outcome]) -> Result<(), SourceError> {
        for outcome in outcomes {
            let written = self.0.join("written");
            fs::write(&written, outcome.to_json()).map_err(unavailable)?;
            fs::rename(written, self.0.join("done").join(&outcome.id)).map_err(unavailable)?;
            // After its result: a death in between has the job run again, and its result is replaced.
            let _ = fs::remove_file(self.0.join("taken").join(&outcome.id));
        }
        Ok(())
    }

    fn shut_down(&self, unstarted: &[&str]) -> Result<(), SourceError> {
        let give_back = |name: &&str| fs::rename(self.0.join("taken").join(name), self.0.join("todo").join(name));
        unstarted.iter().try_for_each(give_back).map_err(unavailable)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(std::env::args().nth(1).ok_or("usage: own_source DIR")?);
    ["todo", "taken", "done"].iter().try_for_each(|dir| fs::create_dir_all(root.join(dir)))?;
    for left in fs::read_dir(root.join("taken"))? {
        let left = left?; // by a run that was killed
        fs::rename(left.path(), root.join("todo").join(left.file_name()))?;
    }
    let mut tasks = Tasks::new();
    jobs::builtin(&mut tasks);
    let pool = Pool::builder().workers(2).fork(tasks)?;
    let stop = Stop::new();
    println!("{}", serve(&Directory(root, stop.clone()), &pool, &Options::new().stop(&stop))?);
    Ok(pool.join()?)
}
