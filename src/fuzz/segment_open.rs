//! Segments that nobody should trust: any bytes, and a real segment in the middle of its work with some bytes changed.

use crate::{
    error::Corrupted,
    exec::endpoint::{Endpoint, Submission, SubmitError, To},
    lockfree::{
        descriptor::Payload,
        participant::Name,
        recovery::Death,
        table::{Cursors, Owned, TaskId},
        word::Member,
    },
    mem::{
        layout::{Geometry, Layout, classes, seal},
        segment::Segment,
    },
    process::exit::Exit,
    sync::Relaxed,
};
use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};
use std::{
    fs::File,
    io::Write,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
    sync::{Arc, LazyLock},
};

/// Steps of each kind that a participant takes.
const STEPS: usize = 12;
/// A payload inside a descriptor, one in a block, and the largest.
const LENGTHS: [usize; 3] = [10, 300, 16 << 10];

/// Whatever lies in a file: to open it as a segment, and to work in what opens, is an error or succeeds. It ends, and no
/// byte outside the segment is touched.
///
/// `data`: a first byte that is 0, then the file's bytes. Or another, which says how many pages less one are cut off (their
/// number is in its low bits), then patches of a real segment, below its arena: offset (2 bytes, little-endian), length (1
/// byte), bytes.
///
/// # Panics
/// If that is not so.
pub fn segment_open(data: &[u8]) {
    let Some((&kind, rest)) = data.split_first() else { return };
    if kind == 0 {
        return open(rest);
    }
    let (mut image, arena) = IMAGE.clone();
    let mut rest = rest;
    while let Some((&[low, high, len], tail)) = rest.split_first_chunk() {
        let offset = usize::from(u16::from_le_bytes([low, high])) % arena;
        let (bytes, tail) = tail.split_at(usize::from(len).min(tail.len()));
        let n = bytes.len().min(arena - offset);
        image[offset..offset + n].copy_from_slice(&bytes[..n]);
        rest = tail;
    }
    // By which most of what was patched in the header would be found before it is looked at.
    seal(&mut image);
    image.truncate(image.len() - (usize::from(kind) - 1) % 4 * 4096);
    open(&image);
}

/// A small segment with something in each phase, as its file holds it, and where its arena begins.
static IMAGE: LazyLock<(Vec<u8>, usize)> = LazyLock::new(|| {
    let geometry = Geometry {
        participants: 4,
        descriptors: 8,
        queue_slots: 16,
        private_slots: 16,
        completion_slots: 16,
        classes: classes([4, 2, 0, 0, 0, 0, 0, 0]),
        ..Geometry::new(4, 1)
    };
    let segment = Arc::new(Segment::create(geometry).expect("a small segment"));
    let endpoint = || {
        let name = segment.table().admit(0, 0).expect("undamaged").expect("there is room");
        Endpoint::new(segment.clone(), name)
    };
    let (_coordinator, client, worker) = (endpoint(), endpoint(), endpoint());
    for (tag, len) in [300, 10, 5000, 10, 300].into_iter().enumerate() {
        submit(&client, To::Queue(0), len, tag as u64).expect("room");
    }
    submit(&client, To::Participant(worker.name()), 10, 9).expect("room");
    let claim = || worker.claim(worker.queue(0)).expect("undamaged").expect("a task");
    assert!(claim().complete(0, 300, |b| b.fill(3)).is_ok()); // DONE
    std::mem::forget(claim()); // CLAIMED
    drop(claim()); // DONE, abandoned
    std::mem::forget(client.draft(16 << 10)); // RESERVED; the others are READY
    let file = File::from(segment.as_fd().try_clone_to_owned().expect("a descriptor"));
    let mut bytes = vec![0; file.metadata().expect("a file").len() as usize];
    file.read_exact_at(&mut bytes, 0).expect("its bytes");
    (bytes, Layout::of(&geometry).expect("a sound one").arena)
});

fn submit(from: &Endpoint, to: To, len: usize, tag: u64) -> Result<TaskId, SubmitError> {
    let mut draft = from.draft(len)?;
    draft.payload()?.fill(tag as u8);
    Ok(draft.submit(Submission { tag, max_attempts: 2, ..Submission::new(to) })?)
}

fn memfd(bytes: &[u8]) -> OwnedFd {
    let fd = memfd_create(c"fuzz", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).expect("a memfd");
    let mut file = File::from(fd);
    file.write_all(bytes).expect("some memory");
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).expect("seals");
    file.into()
}

fn open(bytes: &[u8]) {
    let fd = memfd(bytes);
    match Segment::attach(fd.try_clone().expect("a descriptor"), false) {
        // Read-only: a write ends the process.
        Ok(segment) => look(&segment),
        Err(e) => {
            assert!(!e.to_string().is_empty());
            assert!(Segment::attach(fd, true).is_err(), "not to be read, and yet to be written: {e}");
            return;
        }
    }
    let segment = Arc::new(Segment::attach(fd, true).expect("what can be read"));
    // Damage ends what meets it, and the next goes on, as other processes would.
    for name in live(&segment) {
        let endpoint = Endpoint::new(segment.clone(), name);
        let _ = serve(&endpoint);
        let _ = ask(&endpoint);
    }
    let _ = coordinate(&segment);
    look(&segment);
}

/// Who takes part, as far as the words make sense.
fn live(segment: &Segment) -> Vec<Name> {
    let members = (0..).zip(segment.table().participants);
    members
        .filter_map(|(id, p)| match p.member(usize::from(id)) {
            Ok(Member::Live(incarnation)) => Some(Name::new(id, incarnation)),
            _ => None,
        })
        .collect()
}

/// What an inspection reads: everything.
fn look(segment: &Segment) {
    assert!(!segment.table().audit().to_string().is_empty());
    for (index, d) in (0..).zip(segment.table().descriptors) {
        assert!(!format!("{:?}", segment.table().load(index)).is_empty());
        for (payload, inline) in [(&d.input, &d.input_bytes), (&d.output, &d.output_bytes)] {
            let task = Owned { index, word: segment.table().load(index) };
            if let Ok((start, len)) = segment.locate(task, Payload(payload.load(Relaxed)), inline) {
                // SAFETY: `locate` says that the bytes lie in the segment, which nobody else has.
                let bytes = unsafe { std::slice::from_raw_parts(start, len) };
                std::hint::black_box(bytes.iter().fold(0, |sum: u8, b| sum.wrapping_add(*b)));
            }
        }
    }
}

fn serve(worker: &Endpoint) -> Result<(), SubmitError> {
    let lanes = [worker.private(), worker.queue(0)];
    for step in 0..STEPS {
        for lane in lanes {
            if let Some(task) = worker.claim(lane)? {
                let len = LENGTHS[step % LENGTHS.len()].min(task.input()?.len() + step);
                if let Err((e, _)) = task.complete(0, len, |output| output.fill(step as u8))
                    && !e.is_transient()
                {
                    return Err(e);
                }
            }
        }
    }
    worker.park(&lanes[1..], None, || true);
    worker.wake_next(&lanes[1..]);
    Ok(())
}

fn ask(client: &Endpoint) -> Result<(), SubmitError> {
    let mut ids = Vec::new();
    for step in 0..STEPS {
        let to = if step % 4 == 3 { To::Participant(client.name()) } else { To::Queue(0) };
        match submit(client, to, LENGTHS[step % LENGTHS.len()], step as u64) {
            Ok(id) => ids.push(id),
            Err(e) if e.is_transient() => {}
            Err(e) => return Err(e),
        }
        if let Some(done) = client.take()? {
            std::hint::black_box((
                done.tag(),
                done.outcome(),
                done.status(),
                done.claimant(),
                Exit::unpack(done.exit()),
            ));
            std::hint::black_box(done.output()?.last());
        }
    }
    for id in ids {
        let _ = client.cancel(id)?;
    }
    Ok(())
}

/// Settles the death of everybody, and goes on.
fn coordinate(segment: &Segment) -> Result<(), Corrupted> {
    let table = segment.table();
    let cursors = Cursors::new(table);
    let mut names = live(segment);
    let Some(me) = names.pop() else { return Ok(()) };
    for dead in names {
        let _ = table.recover(&cursors, me, dead, Death::of(Exit::Signal(9).pack()));
    }
    segment.give_back(me);
    segment.give_back(me);
    let _ = table.admit(1, 1)?;
    table.sweep(&cursors)
}
