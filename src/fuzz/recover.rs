//! State files that nobody should trust: a segment and its journal, left in the middle of their work, with some bytes changed, are
//! looked at, exported, recovered and gone on with.

use crate::{
    exec::endpoint::{Endpoint, Submission, To},
    mem::{
        backing::Backing,
        layout::{Geometry, Identity, Layout, classes, seal},
        segment::{Options, Segment},
    },
    state::{
        self, Wanted, apply, journal,
        journal::{End, How, Journal, JournalError, Record, SyncWhen, Terms},
        lines::{self, ImportError},
        survey::survey,
    },
};
use std::{
    fs,
    mem::offset_of,
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

/// The bytes of both files.
#[derive(Clone)]
struct Image {
    segment: Vec<u8>,
    journal: Vec<u8>,
    layout: Layout,
}

const PARTICIPANTS: usize = 8;
const DESCRIPTORS: usize = 10;

fn geometry() -> Geometry {
    Geometry {
        participants: PARTICIPANTS as u32,
        descriptors: DESCRIPTORS as u32,
        queues: 1,
        queue_slots: 16,
        private_slots: 16,
        completion_slots: 16,
        classes: classes([6, 2, 0, 0, 0, 0, 0, 0]),
    }
}

const KIND: u32 = 7;
/// Inputs inside a descriptor and in a block.
const LENGTHS: [usize; 7] = [10, 300, 0, 256, 257, 20, 30];

/// What all processes of a pool have left that were killed at once: tasks of a durable client in each phase, some of another's.
static IMAGE: LazyLock<Image> = LazyLock::new(|| {
    let dir = Dir::new();
    let options = Options { backing: Backing::File(dir.state()), ..Options::with_queues(["default"]) };
    let segment = Arc::new(Segment::create_with(geometry(), &options).expect("a small segment"));
    let admit = || segment.table().admit(0, 0).expect("undamaged").expect("there is room");
    let (_coordinator, name, worker, other) = (admit(), admit(), admit(), admit());
    segment.table().participants[usize::from(name.id())].keep_for(journal::MAIN);
    let client = Endpoint::new(segment.clone(), name).durable();
    let (worker, other) = (Endpoint::new(segment.clone(), worker), Endpoint::new(segment.clone(), other));
    let journal = Journal::create(&dir.state(), segment.header().identity.id, journal::MAIN, SyncWhen::default());
    let journal = journal.expect("a journal");
    journal.name(KIND, "digest").expect("room");
    for (number, len) in (1..).zip(LENGTHS) {
        let input = input(number, len);
        let key = format!("line {number}");
        let terms = terms();
        journal.append(&[Record::Accepted { number, key: Some(&key), terms, input: &input }]).expect("room");
        let mut draft = client.draft(len).expect("room");
        draft.payload().expect("undamaged").copy_from_slice(&input);
        draft.set_key(&key);
        draft.set_number(number);
        let s = Submission { kind: KIND, max_attempts: 3, has_key: true, ..Submission::new(To::Queue(0)) };
        draft.submit(s).expect("undamaged");
    }
    // In the journal alone, and done.
    journal.append(&[Record::Accepted { number: 8, key: None, terms: terms(), input: b"eight" }]).expect("room");
    let how = How { end: End::Completed, status: 0, attempts: 1 };
    journal.append(&[Record::Finished { first: 20, last: 29 }, Record::Delivered { number: 9, how }]).expect("room");
    let mut draft = other.draft(5).expect("room");
    draft.payload().expect("undamaged").fill(1);
    draft.submit(Submission::new(To::Queue(0))).expect("undamaged");
    let claim = || worker.claim(worker.queue(0)).expect("undamaged").expect("a task");
    assert!(claim().complete(0, 400, |b| b.fill(3)).is_ok()); // DONE
    assert!(claim().complete(0, 10, |b| b.fill(4)).is_ok()); // DONE, then taken
    std::mem::forget(client.take().expect("undamaged").expect("a result"));
    std::mem::forget(claim()); // CLAIMED
    std::mem::forget(client.draft(16 << 10)); // RESERVED
    drop(journal);
    let read = |path| fs::read(path).expect("what was written");
    let journal = read(journal::path_of(&dir.state(), journal::MAIN));
    Image { segment: read(dir.state()), journal, layout: Layout::of(&geometry()).expect("a sound one") }
});

/// No two have a beginning in common, nor is one a part of another.
fn input(number: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (5 * i * i + 41 * number) as u8).collect()
}

const fn terms() -> Terms {
    Terms {
        kind: KIND,
        queue: 0,
        max_attempts: 3,
        expires_at_ms: 0,
        run_ms: 0,
        silence_ms: 0,
        timeout_ms: 0,
        first_pause_ms: 0,
        longest_pause_ms: 0,
        retry_on: 12,
        max_deaths: 0,
    }
}

/// A directory that goes with this.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("shmworker-recover-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        // In memory: there are many syncs.
        let shm = PathBuf::from(crate::mem::backing::SHM);
        let dir = if shm.is_dir() { shm } else { std::env::temp_dir() }.join(name);
        fs::create_dir_all(&dir).expect("a directory");
        Dir(dir)
    }

    fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    fn write(&self, image: &Image) {
        let _ = fs::remove_file(self.0.join("state.old"));
        fs::write(self.state(), &image.segment).expect("room");
        set_mode(&self.state());
        fs::write(journal::path_of(&self.state(), journal::MAIN), &image.journal).expect("room");
    }
}

/// As its maker would have made it.
fn set_mode(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("it is ours");
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Whatever of a state is damaged: to look at it, to recover it and to go on with it is an error or succeeds. It ends, and no byte
/// outside the files is touched.
///
/// `data`: a byte of flags (1: the header's checksum is corrected; 2: of another boot; 4: no journal; the rest: so many pages are
/// cut off), then patches: which file (its low bit), offset (2 bytes, little-endian), length (1 byte), bytes.
///
/// # Panics
/// If that is not so.
pub fn recover(data: &[u8]) {
    let Some((&flags, mut rest)) = data.split_first() else { return };
    let mut image = IMAGE.clone();
    while let Some((&[which, low, high, len], tail)) = rest.split_first_chunk() {
        let file = if which & 1 == 0 { &mut image.segment } else { &mut image.journal };
        let at = usize::from(u16::from_le_bytes([low, high])) % file.len();
        let (bytes, tail) = tail.split_at(usize::from(len).min(tail.len()));
        let n = bytes.len().min(file.len() - at);
        file[at..at + n].copy_from_slice(&bytes[..n]);
        rest = tail;
    }
    if flags & 2 != 0 {
        image.segment[offset_of!(Identity, boot)] ^= 1;
    }
    if flags & 3 != 0 {
        seal(&mut image.segment);
    }
    let pages = image.segment.len() / 4096;
    image.segment.truncate((pages - usize::from(flags >> 3) % pages) * 4096);
    let dir = Dir::new();
    dir.write(&image);
    if flags & 4 != 0 {
        let _ = fs::remove_file(journal::path_of(&dir.state(), journal::MAIN));
    }
    go_on(&dir);
}

/// All that one can do with it.
fn go_on(dir: &Dir) {
    let state = dir.state();
    if let Ok(survey) = survey(&state) {
        let mut out = Vec::new();
        let finished: Vec<_> = survey.finished().collect();
        let tasks = survey.tasks.into_iter().map(|(task, _)| task);
        lines::write(&mut out, finished, tasks).expect("a `Vec` takes all");
        // What was exported can be imported.
        let copy = Dir::new();
        match lines::import(&copy.state(), &out[..], "the export") {
            // Of a client whose name is damaged.
            Ok(_) | Err(ImportError::Journal(JournalError::Name(_))) => {}
            Err(e) => panic!("{e}, of an export"),
        }
    }
    let opened = state::open(Wanted {
        say: |_| (),
        path: &state,
        client: journal::MAIN,
        options: Options::with_queues(["default"]),
        participants: PARTICIPANTS,
        workers: 1,
        others: 1,
        has_task: None,
    });
    match opened {
        Ok(opened) => {
            let id = opened.segment.header().identity.id;
            assert!(opened.segment.table().audit().violations.is_empty(), "it was gone on with");
            let _ = state::open_journal(&state, id, journal::MAIN, SyncWhen::default());
        }
        Err(e) => assert!(!e.to_string().is_empty()),
    }
    let _ = apply::apply(&state);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lockfree::descriptor::Descriptor,
        mem::layout::{Header, QueueName},
        state::survey::{Fate, Survey},
    };

    /// Every so many bytes, in a continuous integration; all with `SHMWORKER_STRIDE=1`.
    fn stride() -> usize {
        std::env::var("SHMWORKER_STRIDE").map_or(13, |n| n.parse().expect("a number"))
    }

    fn looked_at(dir: &Dir, image: &Image) -> Survey {
        dir.write(image);
        survey(&dir.state()).unwrap()
    }

    #[test]
    fn what_all_processes_left_is_told_and_gone_on_with() {
        let dir = Dir::new();
        let survey = looked_at(&dir, &IMAGE);
        assert_eq!(survey.faults, Vec::<String>::new());
        assert!(survey.is_of_this_boot && survey.goes_on() && survey.can_be_rebuilt());
        let fates: Vec<_> = survey.tasks.iter().map(|(task, fate)| (task.number, *fate)).collect();
        use Fate::{Again, Delivered, Submitted, Waits};
        let expected = [Delivered, Delivered, Again, Waits, Waits, Waits, Waits, Submitted];
        assert_eq!(fates, (1..).zip(expected).collect::<Vec<_>>());
        assert_eq!(survey.dropped, 1);
        assert!(
            survey.tasks.iter().take(7).all(|(t, _)| t.key == Some(format!("line {}", t.number)) && t.task == "digest")
        );
        drop(survey);
        go_on(&dir);
        let survey = super::survey(&dir.state()).unwrap();
        assert_eq!((survey.faults.len(), survey.tasks.len(), survey.dropped), (0, 8, 0));
    }

    #[test]
    fn of_another_boot_all_comes_from_the_journal() {
        let mut image = IMAGE.clone();
        image.segment[offset_of!(Identity, boot)] ^= 1;
        seal(&mut image.segment);
        let dir = Dir::new();
        let survey = looked_at(&dir, &image);
        assert!(!survey.is_of_this_boot && !survey.goes_on() && survey.can_be_rebuilt());
        assert!(survey.tasks.iter().all(|(_, fate)| *fate == Fate::Submitted));
        assert_eq!(survey.tasks.iter().map(|(t, _)| t.number).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
        go_on(&dir);
        assert!(dir.0.join("state.old").exists());
        assert_eq!(super::survey(&dir.state()).unwrap().tasks.len(), 8);
        // Without one nothing is touched.
        dir.write(&image);
        fs::remove_file(journal::path_of(&dir.state(), journal::MAIN)).unwrap();
        go_on(&dir);
        assert!(fs::read(dir.state()).unwrap() == image.segment && !dir.0.join("state.old").exists());
    }

    #[test]
    fn each_changed_byte_of_the_header_is_found() {
        let dir = Dir::new();
        let names = offset_of!(Header, queues);
        let creator = offset_of!(Identity, creator);
        let identity = (0..size_of::<Identity>()).filter(|at| !(creator..creator + 8).contains(at));
        for at in identity.chain((names..names + 64 * size_of::<QueueName>()).step_by(5)) {
            let mut image = IMAGE.clone();
            image.segment[at] ^= 0x10;
            let survey = looked_at(&dir, &image);
            assert!(matches!(survey.segment, Some(Err(_))), "byte {at}");
            assert_eq!(survey.tasks.len(), 8, "byte {at}: its journal has all");
        }
    }

    #[test]
    fn each_changed_byte_of_an_input_is_found() {
        let (dir, l) = (Dir::new(), IMAGE.layout);
        let mut seen = 0;
        for (number, len) in (1..).zip(LENGTHS).filter(|(_, len)| *len > 0) {
            let input = input(number, len);
            let at = (l.descriptors..IMAGE.segment.len() - len).find(|&at| IMAGE.segment[at..at + len] == input);
            let at = at.unwrap_or_else(|| panic!("the input of {number} is nowhere"));
            for byte in (0..len).step_by(stride()).chain([len - 1]) {
                let mut image = IMAGE.clone();
                image.segment[at + byte] ^= 1;
                let faults = looked_at(&dir, &image).faults;
                let said = format!("task {number} of client 'main', has another input than was accepted");
                assert!(faults.iter().any(|fault| fault.ends_with(&said)), "{number}, byte {byte}: {faults:?}");
                seen += 1;
            }
        }
        assert!(seen > 60, "{seen}");
    }

    #[test]
    fn a_changed_bit_of_a_task_word_is_found_or_loses_no_task() {
        let (dir, l) = (Dir::new(), IMAGE.layout);
        let size = size_of::<Descriptor>();
        let mut silent = Vec::new();
        for index in 0..DESCRIPTORS {
            for bit in 0..64 {
                let mut image = IMAGE.clone();
                image.segment[l.descriptors + index * size + bit / 8] ^= 1 << (bit % 8);
                let survey = looked_at(&dir, &image);
                if survey.faults.is_empty() {
                    silent.push(bit);
                    let numbers: Vec<_> = survey.tasks.iter().map(|(task, _)| task.number).collect();
                    assert_eq!(numbers, (1..=8).collect::<Vec<_>>(), "descriptor {index}, bit {bit}");
                }
            }
        }
        // Where in its life it is, and whose, is always told; which attempt of those allowed, and which life of the descriptor, is
        // known to the word alone. (What is RESERVED or FREE is no task.)
        let of_words = silent.iter().filter(|bit| **bit >= 48).count();
        assert!(
            of_words < 40,
            "{of_words} bits of phases and participants were changed and nobody noticed: {silent:?}"
        );
    }

    #[test]
    fn a_task_whose_attempts_are_damaged_can_be_exported_and_imported() {
        let (dir, l) = (Dir::new(), IMAGE.layout);
        let size = size_of::<Descriptor>();
        for index in 0..DESCRIPTORS {
            let mut image = IMAGE.clone();
            let at = l.descriptors + index * size + offset_of!(Descriptor, max_attempts);
            image.segment[at..at + 4].fill(0);
            dir.write(&image);
            go_on(&dir);
        }
    }

    #[test]
    fn changed_bytes_of_header_participants_and_descriptors_do_no_harm() {
        let (dir, l) = (Dir::new(), IMAGE.layout);
        let places = (0..4096).step_by(stride()).chain((l.participants..l.records).step_by(stride()));
        for at in places.chain((l.descriptors..l.arena).step_by(stride())) {
            let mut image = IMAGE.clone();
            image.segment[at] ^= 1 << (at % 8);
            dir.write(&image);
            go_on(&dir);
            // Also where the header is as it should be.
            if at < size_of::<Identity>() {
                seal(&mut image.segment);
                dir.write(&image);
                go_on(&dir);
            }
        }
    }

    #[test]
    fn truncated_and_zeroed_files_do_no_harm() {
        let dir = Dir::new();
        for page in 0..IMAGE.segment.len() / 4096 {
            let mut image = IMAGE.clone();
            image.segment[page * 4096..(page + 1) * 4096].fill(0);
            dir.write(&image);
            go_on(&dir);
            image = IMAGE.clone();
            image.segment.truncate(page * 4096 + page % 2 * 100);
            let survey = looked_at(&dir, &image);
            assert!(matches!(survey.segment, Some(Err(_))), "{page} pages");
            drop(survey);
            go_on(&dir);
        }
        for len in (0..IMAGE.journal.len()).step_by(stride()) {
            let mut image = IMAGE.clone();
            image.journal.truncate(len);
            dir.write(&image);
            go_on(&dir);
        }
    }

    #[test]
    #[ignore = "writes the corpus"]
    fn the_corpus() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/recover");
        let l = IMAGE.layout;
        let word = |region: usize| (region as u16).to_le_bytes();
        let patch = |flags: u8, file: u8, at: usize, bytes: &[u8]| {
            let [low, high] = word(at);
            [&[flags, file, low, high, bytes.len() as u8], bytes].concat()
        };
        for (name, input) in [
            ("nothing_is_changed", vec![0]),
            ("another_boot", vec![2]),
            ("another_boot_without_a_journal", vec![6]),
            ("no_journal", vec![4]),
            ("a_page_less", vec![1 << 3]),
            ("a_journal_s_header", patch(0, 1, 12, &[1])),
            ("a_record_of_no_sound_length", patch(0, 1, 88, &[0xff; 4])),
            ("another_geometry", patch(1, 0, offset_of!(Identity, geometry), &[5])),
            ("another_state", patch(1, 0, offset_of!(Identity, id), &[1, 2, 3])),
            ("a_task_word", patch(0, 0, l.descriptors, &[0xff; 8])),
            ("a_participant", patch(0, 0, l.participants + 128, &[0; 8])),
            ("a_block_word", patch(0, 0, l.block_words, &[0xff; 8])),
        ] {
            fs::write(dir.join(name), input).unwrap();
        }
    }
}
