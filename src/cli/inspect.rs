//! `shmworker inspect`: what stands in a segment, and whether it is sound.
//!
//! It only reads. Of a pool that runs it takes no participant's seat; a segment whose processes are all dead is looked at where
//! it lies.

use super::{
    args::name,
    exit::{self, CliError},
    say,
};
use crate::{
    lockfree::{
        descriptor::Descriptor,
        word::{Block, Member, Phase},
    },
    mem::{backing, segment::Segment},
    process::{
        Mode,
        attach::{self, AttachError, GUEST},
        names::NameError,
    },
    sync::{Acquire, Relaxed},
};
use std::{
    fmt::{self, Write},
    fs::File,
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::Path,
};

/// What `shmworker inspect` was told.
#[derive(clap::Args)]
pub(crate) struct InspectArgs {
    /// Name of a pool, process id of its coordinator, or file of a segment
    #[arg(value_name = "NAME|PID|FILE", value_parser = name())]
    what: String,
}

/// Prints what stands in the segment.
///
/// # Errors
/// There is no such segment, it can't be read, or it violates an invariant.
pub(crate) fn run(args: &InspectArgs) -> Result<(), CliError> {
    let (segment, runs) = find(&args.what)?;
    let failed = |e: fmt::Error| CliError::new(exit::FAILURE, e);
    let mut text = String::new();
    describe(&mut text, &segment, runs).map_err(failed)?;
    // What others are in the middle of, or died in the middle of, is no fault.
    let violations = segment.table().audit_live().violations;
    for v in &violations {
        write!(text, "\nviolation    {v}").map_err(failed)?;
    }
    match violations.len() {
        0 => {
            say(format_args!("{text}\naudit        no invariant is violated"));
            Ok(())
        }
        n => {
            say(text);
            let why =
                format_args!("the segment is damaged, {n} invariant(s) are violated: end its pool, and report this");
            Err(CliError::new(exit::FAILURE, why))
        }
    }
}

/// The segment, and whether its pool runs.
fn find(what: &str) -> Result<(Segment, bool), CliError> {
    let failed = |e: &dyn fmt::Display| CliError::new(exit::FAILURE, e);
    let path = Path::new(what);
    let open = |path: &Path| match Segment::open(path, false) {
        Ok(segment) => Ok((segment, false)),
        Err(e) => Err(failed(&format_args!("cannot inspect '{}': {e}", path.display()))),
    };
    if what.contains('/') {
        return open(path);
    }
    match attach::observe(what) {
        Ok(segment) => Ok((segment, true)),
        Err(e @ (AttachError::NotRunning { .. } | AttachError::Name(NameError::Invalid(_)))) => {
            let named = backing::named().map_err(|e| failed(&format_args!("cannot look for named segments: {e}")))?;
            match named.into_iter().find(|(pool, _)| pool == what) {
                Some((_, path)) => open(&path),
                None if path.exists() => open(path),
                None => Err(failed(&format_args!("{e}; nor is there a named segment or a file '{what}'"))),
            }
        }
        Err(e) => Err(failed(&e)),
    }
}

/// Bytes, with the largest unit that leaves a whole number or at least two digits.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["B", "KiB", "MiB", "GiB"];
        let larger =
            |&n: &u32| n == 0 || self.0 >= 10 << (10 * n) || self.0 > 0 && self.0.is_multiple_of(1 << (10 * n));
        let unit = (0..4).rev().find(larger).unwrap_or(0);
        f.pad(&format!("{} {}", self.0 >> (10 * unit), units[unit as usize]))
    }
}

fn describe(out: &mut String, segment: &Segment, runs: bool) -> fmt::Result {
    let (header, table) = (segment.header(), segment.table());
    let (identity, capacity) = (&header.identity, table.capacity);
    let mode = match Mode::of(&header.control) {
        Mode::Running => "running",
        Mode::Draining => "draining",
        Mode::Cancelling => "cancelling",
        Mode::Stopping => "stopping",
    };
    let seen = if runs { "" } else { "last seen " };
    writeln!(out, "pool         {seen}{mode}, made by process {}", identity.creator)?;
    writeln!(out, "segment      version {}, {}, {}", identity.version, Bytes(identity.total), memory(segment))?;
    writeln!(
        out,
        "geometry     {} participants, {} descriptors; lanes of {} (queue), {} (private), {} (completion) hints",
        table.participants.len(),
        table.descriptors.len(),
        capacity.queue,
        capacity.private,
        capacity.completion
    )?;
    writeln!(out, "deaths       {} settled", header.control.deaths.load(Relaxed))?;
    participants(out, segment, runs)?;
    tasks(out, segment)?;
    blocks(out, segment)
}

/// How much memory it takes.
fn memory(segment: &Segment) -> String {
    let taken =
        || -> io::Result<u64> { Ok(512 * File::from(segment.as_fd().try_clone_to_owned()?).metadata()?.blocks()) };
    match taken() {
        Ok(bytes) => format!("of which {} take memory", Bytes(bytes)),
        Err(e) => format!("whose memory can't be told ({e})"),
    }
}

fn participants(out: &mut String, segment: &Segment, runs: bool) -> fmt::Result {
    let table = segment.table();
    write!(out, "\nparticipant  incarnation  state       pid  role         done  process")?;
    for (id, p) in table.participants.iter().enumerate() {
        let (state, incarnation) = match p.member(id) {
            Ok(Member::Vacant(0)) => continue,
            Ok(Member::Vacant(n)) => ("vacant", n),
            Ok(Member::Live(n)) => ("live", n),
            Ok(Member::Dead(n)) => ("dead", n),
            Err(_) => ("damaged", 0),
        };
        let pid = p.pid.load(Relaxed);
        let role = match (id, p.role.load(Relaxed)) {
            (0, _) => "coordinator".to_owned(),
            (_, GUEST) => "attached".to_owned(),
            (_, n) => format!("process {n}"),
        };
        // By its number, so this is a guess.
        let name = match state {
            "live" if runs => std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default(),
            _ => String::new(),
        };
        let (done, name) = (p.finished.load(Relaxed), name.trim_end());
        let line = format!("{id:>11}  {incarnation:>11}  {state:<7}  {pid:>6}  {role:<11}  {done:>4}  {name}");
        write!(out, "\n{}", line.trim_end())?;
    }
    writeln!(out)
}

/// Tasks by where they are. The descriptors are the truth, lanes hold hints only.
fn tasks(out: &mut String, segment: &Segment) -> fmt::Result {
    let table = segment.table();
    let mut phases = [0usize; 7];
    let mut queues = vec![[0usize; 2]; table.queues + 1];
    for (index, d) in (0..).zip(table.descriptors) {
        let phase = table.load(index).phase();
        phases[match phase {
            Some(Phase::Free) => 0,
            Some(Phase::Reserved) => 1,
            Some(Phase::Ready) => 2,
            Some(Phase::Delayed) => 3,
            Some(Phase::Claimed) => 4,
            Some(Phase::Done(_)) => 5,
            None => 6,
        }] += 1;
        let queue = |d: &Descriptor| (d.lane.load(Relaxed) as usize).min(table.queues);
        match phase {
            Some(Phase::Ready) => queues[queue(d)][0] += 1,
            Some(Phase::Delayed) => queues[queue(d)][1] += 1,
            _ => {}
        }
    }
    let [free, reserved, ready, delayed, claimed, done, damaged] = phases;
    writeln!(
        out,
        "\ndescriptors  {free} free, {reserved} reserved, {ready} ready, {delayed} delayed, {claimed} claimed, {done} done, \
         {damaged} damaged"
    )?;
    for (queue, [ready, delayed]) in queues.into_iter().enumerate() {
        let name = match segment.queue_name(queue) {
            _ if queue == table.queues => "addressed".to_owned(),
            name if name.is_empty() => format!("queue {queue}"),
            name => format!("queue {queue} ({name:?})"),
        };
        writeln!(out, "  {name:<20}  {ready} ready, {delayed} delayed")?;
    }
    Ok(())
}

fn blocks(out: &mut String, segment: &Segment) -> fmt::Result {
    let blocks = &segment.table().blocks;
    let committed = (0..blocks.words.len()).filter(|&i| blocks.is_committed(i));
    let bytes: usize = committed.filter_map(|i| blocks.size(i)).sum();
    let all: usize = blocks.classes.iter().map(|c| c.size as usize * c.count as usize).sum();
    write!(out, "\nblocks       {} committed of {}", Bytes(bytes as u64), Bytes(all as u64))?;
    let mut first = 0;
    for class in blocks.classes.iter().filter(|c| c.count > 0) {
        let words = &blocks.words[first..first + class.count as usize];
        first += class.count as usize;
        let count =
            |wanted: fn(Option<Block>) -> bool| words.iter().filter(|w| wanted(Block::of(w.load(Acquire)))).count();
        let free = count(|b| b == Some(Block::Free));
        let held = count(|b| matches!(b, Some(Block::Held(_))));
        let attached = count(|b| matches!(b, Some(Block::Attached { .. })));
        let damaged = words.len() - free - held - attached;
        let size = Bytes(class.size.into());
        write!(out, "\n  {size:<7}  {free} free, {held} held, {attached} attached, {damaged} damaged")?;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_in_a_unit_that_suits_them() {
        let shown =
            [0, 9, 4096, 5000, 10_240, 1 << 20, (1 << 20) + 1, 944 << 20, 1 << 30].map(|n| Bytes(n).to_string());
        assert_eq!(shown, ["0 B", "9 B", "4 KiB", "5000 B", "10 KiB", "1 MiB", "1024 KiB", "944 MiB", "1 GiB"]);
    }
}
