//! A program that writes the squares of numbers into a file, each once, whatever has happened to it before.

use shmworker::pool::{Adopted, Handle, Submitter, Task, TaskOptions};
use std::{
    collections::{BTreeSet, VecDeque},
    fs::{self, OpenOptions},
    io::Write,
    path::Path,
};

pub(crate) const SQUARE: Task<u64, u64> = Task::named("square");

/// Those below `n`: what was adopted, and of the rest what is not written yet, which is submitted.
pub(crate) fn write_squares(pool: &Submitter, adopted: Vec<Adopted>, out: &Path, n: u64) {
    let done: BTreeSet<u64> = whole_lines(out).iter().map(|line| number(line)).collect();
    let mut out = OpenOptions::new().append(true).create(true).open(out).unwrap();
    let mut keep = |(x, handle): (u64, Handle<u64>)| {
        handle.finish_with(|finished| out.write_all(format!("{x} {}\n", finished.result.unwrap()).as_bytes()).unwrap());
    };
    let (mut handles, mut accepted) = (VecDeque::new(), BTreeSet::new());
    for found in adopted {
        assert_eq!(found.name(), "square");
        let x: u64 = found.key().unwrap().parse().unwrap();
        assert!(accepted.insert(x), "{x} was accepted twice");
        if !done.contains(&x) {
            handles.push_back((x, found.into_handle(SQUARE).unwrap()));
        }
    }
    for x in (0..n).filter(|x| !accepted.contains(x) && !done.contains(x)) {
        if handles.len() > 200 {
            handles.pop_front().into_iter().for_each(&mut keep);
        }
        let options = TaskOptions::new().attempts(255).key(x.to_string());
        handles.push_back((x, pool.submit_with(SQUARE, &x, &options).unwrap()));
    }
    handles.into_iter().for_each(keep);
}

pub(crate) fn number(line: &str) -> u64 {
    line.split_once(' ').unwrap().0.parse().unwrap()
}

/// The lines of a file, which loses what is behind the last whole one.
pub(crate) fn whole_lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or(0, |at| at + 1);
    if whole < text.len() {
        OpenOptions::new().write(true).open(path).unwrap().set_len(whole as u64).unwrap();
    }
    text[..whole].lines().map(str::to_owned).collect()
}
