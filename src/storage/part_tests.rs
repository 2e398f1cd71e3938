//! Tests of part files: resume, crash consistency and locking.

use super::super::verify::{Verify, VerifyCallbacks};
use super::*;
use crate::content::{Digest, Layout};
use crate::sync::lock;
use std::os::unix::fs::symlink;
use std::time::Duration;
use tempfile::TempDir;

#[path = "part_overwrite_tests.rs"]
mod overwrite_tests;
#[path = "part_owner_tests.rs"]
mod owner_tests;

const CHUNK: usize = 16 * 1024;

struct Fixture {
    folder: TempDir,
    bytes: Vec<u8>,
    manifest: Arc<Manifest>,
}

impl Fixture {
    fn new(size: usize) -> Self {
        let bytes: Vec<u8> = (0..size).map(|at| (at / 13) as u8 | 1).collect();
        let layout = Layout::even(size as u64, Some(CHUNK as u32)).unwrap();
        let mut digests: Vec<_> = bytes.chunks(CHUNK).map(Digest::of).collect();
        digests.resize(layout.count() as usize, Digest::of(b""));
        let manifest = Arc::new(Manifest::new(layout, digests).unwrap());
        Self { folder: tempfile::tempdir().unwrap(), bytes, manifest }
    }
    fn target(&self) -> PathBuf {
        self.folder.path().join("file.bin")
    }
    fn paths(&self) -> Paths {
        Paths::beside(self.folder.path(), "file.bin", self.manifest.id(), 1, 255)
    }
    /// The position of a slot in the resume file.
    fn slot(&self, kind: Kind, slot: u64) -> u64 {
        (kind as u64 * 2 + slot) * 4096
    }
    /// Overwrites the start of both slots of a kind.
    fn tear(&self, kind: Kind) {
        let file = File::options().write(true).open(self.paths().resume).unwrap();
        (0..2).for_each(|slot| file.write_all_at(&[0; 70], self.slot(kind, slot)).unwrap());
    }
    fn open(&self) -> Result<PartFile, StoreError> {
        PartFile::open(&self.target(), Arc::clone(&self.manifest))
    }
    /// Opens the part file as after a reboot of the machine.
    fn open_after_reboot(&self) -> PartFile {
        let boot = Some("another boot".to_owned());
        PartFile::open_in(&self.target(), Arc::clone(&self.manifest), boot).unwrap()
    }
    fn chunk(&self, index: u32) -> &[u8] {
        let span = self.manifest.layout().span(ChunkIndex(index)).unwrap();
        &self.bytes[span.offset as usize..][..span.length as usize]
    }
    fn store(&self, part: &PartFile, indices: impl IntoIterator<Item = u32>) {
        for index in indices {
            part.store(ChunkIndex(index), Digest([0; 32]), self.chunk(index)).unwrap();
        }
    }
    fn names(&self) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<_> = fs::read_dir(&self.folder).unwrap().map(name).collect();
        names.sort();
        names
    }
    fn serves(&self, part: &PartFile, index: u32) {
        let chunk = part.stored(ChunkIndex(index)).unwrap();
        let mut bytes = vec![0; chunk.length as usize];
        chunk.file.read_exact_at(&mut bytes, chunk.offset).unwrap();
        assert!(bytes == self.chunk(index));
    }
}

#[test]
fn files_of_any_size_are_completed() {
    for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK, 4 * CHUNK + 1] {
        let fixture = Fixture::new(size);
        let part = fixture.open().unwrap();
        assert_eq!(part.resumed_bytes(), 0);
        let count = fixture.manifest.layout().count();
        assert!(matches!(part.finish(false, false), Err(StoreError::Missing(ChunkIndex(0)))));
        fixture.store(&part, (0..count).rev());
        fixture.serves(&part, 0);
        assert!(part.progress().is_complete());
        part.note().unwrap();
        part.make_durable().unwrap();
        part.finish(false, true).unwrap();
        part.finish(false, false).unwrap();
        part.note().unwrap();
        part.make_durable().unwrap();
        fixture.serves(&part, count - 1);
        fixture.store(&part, 0..count);
        assert!(fs::read(fixture.target()).unwrap() == fixture.bytes);
        assert_eq!(fixture.names(), ["file.bin"]);
        assert!(File::open(fixture.target()).unwrap().try_lock().is_ok());
    }
}

#[test]
fn only_stored_chunks_are_served_and_wrong_lengths_are_rejected() {
    let fixture = Fixture::new(3 * CHUNK);
    let part = fixture.open().unwrap();
    fixture.store(&part, [1]);
    fixture.serves(&part, 1);
    for index in [0, 2, 3, u32::MAX] {
        assert!(matches!(part.stored(ChunkIndex(index)), Err(StoreError::Missing(_))));
    }
    assert!(matches!(part.store(ChunkIndex(3), Digest([0; 32]), b""), Err(StoreError::Missing(_))));
    assert!(matches!(part.store(ChunkIndex(0), Digest([0; 32]), b"short"), Err(StoreError::Io { .. })));
    // A stored chunk is not written again.
    part.store(ChunkIndex(1), Digest([0; 32]), &vec![0; CHUNK]).unwrap();
    fixture.serves(&part, 1);
    assert_eq!(part.progress().held(), 1);
}

#[test]
fn a_restart_resumes_from_the_note() {
    let fixture = Fixture::new(4 * CHUNK + 1);
    let part = fixture.open().unwrap();
    fixture.store(&part, [0, 4]);
    part.note().unwrap();
    fixture.store(&part, [1]);
    drop(part);
    let part = fixture.open().unwrap();
    assert_eq!(part.resumed_bytes(), CHUNK as u64 + 1);
    assert!(!part.progress().has(ChunkIndex(1)));
    fixture.serves(&part, 4);
    fixture.store(&part, 1..4);
    part.finish(false, false).unwrap();
    assert!(fs::read(fixture.target()).unwrap() == fixture.bytes);
}

#[test]
fn durable_chunks_survive_a_power_cut() {
    let fixture = Fixture::new(6 * CHUNK);
    let part = fixture.open().unwrap();
    fixture.store(&part, [0, 1]);
    part.make_durable().unwrap();
    fixture.store(&part, [2]);
    part.note().unwrap();
    drop(part);
    let after = fixture.open_after_reboot();
    assert_eq!(after.resumed_bytes(), 2 * CHUNK as u64);
    drop(after);
    // A note torn by the power cut loses only the chunks listed in the note alone.
    fixture.tear(Kind::Note);
    assert_eq!(fixture.open().unwrap().resumed_bytes(), 2 * CHUNK as u64);
    fixture.tear(Kind::Durable);
    assert_eq!(fixture.open().unwrap().resumed_bytes(), 0);
}

#[test]
fn chunks_of_the_note_become_durable_after_a_restart() {
    let fixture = Fixture::new(2 * CHUNK);
    let part = fixture.open().unwrap();
    fixture.store(&part, [0]);
    part.note().unwrap();
    drop(part);
    let part = fixture.open().unwrap();
    part.make_durable().unwrap();
    drop(part);
    assert_eq!(fixture.open_after_reboot().resumed_bytes(), CHUNK as u64);
}

#[test]
fn without_new_chunks_nothing_is_written() {
    let fixture = Fixture::new(2 * CHUNK);
    let part = fixture.open().unwrap();
    assert_eq!(fixture.names(), [".file.bin.part.resume", "file.bin.part"]);
    let written = || fs::read(fixture.paths().resume).unwrap();
    let first = written();
    part.note().unwrap();
    part.make_durable().unwrap();
    assert_eq!(written(), first);
    fixture.store(&part, [0]);
    part.make_durable().unwrap();
    let second = written();
    part.make_durable().unwrap();
    part.note().unwrap();
    assert!(first != second && written() == second);
    assert_eq!(fixture.names(), [".file.bin.part.resume", "file.bin.part"]);
}

#[test]
fn a_resume_file_is_not_applied_to_a_new_part_file() {
    let fixture = Fixture::new(2 * CHUNK);
    let part = fixture.open().unwrap();
    fixture.store(&part, [0]);
    part.note().unwrap();
    part.make_durable().unwrap();
    drop(part);
    fs::remove_file(fixture.paths().part).unwrap();
    assert_eq!(fixture.open().unwrap().resumed_bytes(), 0);
    // Nor later, when the new part file has its full size.
    assert_eq!(fixture.open().unwrap().resumed_bytes(), 0);
}

#[test]
fn the_part_file_is_locked_against_a_second_download() {
    let fixture = Fixture::new(1);
    let part = fixture.open().unwrap();
    assert!(matches!(fixture.open(), Err(StoreError::Busy(_))));
    drop(part);
    assert!(fixture.open().is_ok());
}

#[test]
fn a_file_larger_than_the_disk_is_rejected_and_leaves_no_file() {
    let fixture = Fixture::new(0);
    let layout = Layout::even(1 << 45, Some(64 << 20)).unwrap();
    let digests = vec![Digest::of(b""); layout.count() as usize];
    let huge = Arc::new(Manifest::new(layout, digests).unwrap());
    match PartFile::open(&fixture.target(), huge) {
        Err(StoreError::Full { needed, available, .. }) => assert!(needed == 1 << 45 && available < needed),
        // The file system may also reject a file of that size.
        other => assert!(matches!(other, Err(StoreError::Io { .. }))),
    }
    assert_eq!(fixture.names(), [""; 0]);
}

#[test]
fn unusable_and_long_target_names() {
    let fixture = Fixture::new(1);
    let open = |target: &Path| PartFile::open(target, Arc::clone(&fixture.manifest));
    for target in ["/", "..", "a/.."] {
        assert!(matches!(open(Path::new(target)), Err(StoreError::NotAFile(_))), "{target}");
    }
    assert!(matches!(open(Path::new("/no/such/folder/x")), Err(StoreError::Io { .. })));
    // 255 bytes; the hidden names cut it inside a character.
    let long = fixture.folder.path().join(format!("x{}", "é".repeat(127)));
    let part = open(&long).unwrap();
    fixture.store(&part, [0]);
    part.finish(false, false).unwrap();
    assert!(fs::read(long).unwrap() == fixture.bytes);
}

#[test]
fn a_link_in_place_of_the_part_file_is_not_followed() {
    let fixture = Fixture::new(1);
    let victim = fixture.folder.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    symlink(&victim, fixture.paths().part).unwrap();
    let part = fixture.open().unwrap();
    fixture.store(&part, [0]);
    part.finish(false, false).unwrap();
    assert!(fs::read(fixture.target()).unwrap() == fixture.bytes);
    assert_eq!(fs::read(victim).unwrap(), b"precious");
}

#[test]
fn chunks_are_stored_from_many_threads() {
    let fixture = Fixture::new(40 * CHUNK + 5);
    let part = fixture.open().unwrap();
    let wakeup = part.progress().subscribe();
    std::thread::scope(|scope| {
        for first in 0..3 {
            let (part, fixture) = (&part, &fixture);
            scope.spawn(move || fixture.store(part, (first..41).step_by(2)));
        }
        scope.spawn(|| part.make_durable().unwrap());
    });
    assert!(wakeup.recv_timeout(Duration::from_secs(10)).is_ok());
    assert_eq!(part.progress().since(0, 99).0.len(), 41);
    part.finish(false, false).unwrap();
    assert!(fs::read(fixture.target()).unwrap() == fixture.bytes);
}

#[test]
fn the_fallback_rename_does_not_replace_an_existing_target() {
    let folder = tempfile::tempdir().unwrap();
    let [from, to, link] = ["from", "to", "link"].map(|name| folder.path().join(name));
    fs::write(&from, "new").unwrap();
    symlink("nowhere", &link).unwrap();
    assert_eq!(rename_if_absent(&from, &link).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    rename_if_absent(&from, &to).unwrap();
    assert_eq!(fs::read(to).unwrap(), b"new");
}

#[test]
fn after_a_failed_fsync_no_further_chunk_is_listed() {
    let fixture = Fixture::new(3 * CHUNK);
    let part = fixture.open().unwrap();
    fixture.store(&part, [0]);
    part.make_durable().unwrap();
    fixture.store(&part, [1]);
    part.note().unwrap();
    lock(&part.listed).write_error = Some(Errno::IO);
    assert!(part.make_durable().is_err());
    fixture.store(&part, [2]);
    part.note().unwrap();
    assert!(part.finish(false, false).is_err() && part.make_durable().is_err());
    drop(part);
    assert_eq!(fixture.open().unwrap().resumed_bytes(), CHUNK as u64);
}

/// Result of a check, and the number of bytes it read.
fn check(part: &PartFile, verify: Verify) -> (CheckResult, u64) {
    let read = AtomicU64::new(0);
    let hashed = |bytes| _ = read.fetch_add(bytes, Relaxed);
    let watch = VerifyCallbacks { hashed: &hashed, ..VerifyCallbacks::NONE };
    (part.check(verify, watch).unwrap(), read.into_inner())
}

#[test]
fn check_hashes_the_listed_chunks_as_verify_demands() {
    let fixture = Fixture::new(100 * CHUNK);
    let part = fixture.open().unwrap();
    fixture.store(&part, 0..80);
    part.make_durable().unwrap();
    fixture.store(&part, 80..90);
    part.note().unwrap();
    fixture.store(&part, 90..95);
    drop(part);
    let size = CHUNK as u64;
    for (verify, found, read) in
        [(Verify::None, 0, 0), (Verify::Sample, 0, 32 * size), (Verify::Full, 5, 95 * size)]
    {
        let part = fixture.open().unwrap();
        assert_eq!((part.resumed_bytes(), part.needs_full_check()), (90 * size, false));
        assert_eq!(check(&part, verify), (CheckResult { bad: 0, found }, read));
        assert_eq!(part.resumed_bytes(), (90 + u64::from(found)) * size);
    }
    // From now on, all chunks found are in the resume files.
    assert_eq!(fixture.open_after_reboot().resumed_bytes(), 95 * size);
}

#[test]
fn a_bad_chunk_in_a_sample_triggers_a_full_check() {
    let fixture = Fixture::new(20 * CHUNK);
    let part = fixture.open().unwrap();
    fixture.store(&part, 0..20);
    part.make_durable().unwrap();
    drop(part);
    let damaged = File::options().write(true).open(fixture.paths().part).unwrap();
    [3, 17].into_iter().for_each(|index| damaged.write_all_at(b"\0", index * CHUNK as u64).unwrap());
    let part = fixture.open().unwrap();
    assert_eq!(check(&part, Verify::Sample).0, CheckResult { bad: 2, found: 0 });
    assert_eq!(part.progress().have().0.missing().collect::<Vec<_>>(), [ChunkIndex(3), ChunkIndex(17)]);
    drop(part);
    let part = fixture.open_after_reboot();
    assert_eq!(part.resumed_bytes(), 18 * CHUNK as u64);
    fixture.store(&part, [3, 17]);
    part.finish(false, false).unwrap();
    assert!(fs::read(fixture.target()).unwrap() == fixture.bytes);
}

#[test]
fn a_torn_resume_file_costs_only_a_full_check() {
    let fixture = Fixture::new(9 * CHUNK + 1);
    let damages: [&dyn Fn(&Path); 3] = [
        &|path| fs::write(path, "").unwrap(),
        &|path| fs::write(path, &fs::read(path).unwrap()[1..]).unwrap(),
        &|path| fs::write(path, vec![b'x'; 1 << 20]).unwrap(),
    ];
    for (at, damage) in damages.into_iter().enumerate() {
        let part = fixture.open().unwrap();
        fixture.store(&part, [2 * at as u32, 2 * at as u32 + 1]);
        part.make_durable().unwrap();
        drop(part);
        damage(&fixture.paths().resume);
        let part = fixture.open().unwrap();
        assert!(part.needs_full_check());
        let there = 2 * (at as u32 + 1);
        let (checked, read) = check(&part, Verify::None);
        assert_eq!((checked, read), (CheckResult { bad: 0, found: there }, u64::from(there) * CHUNK as u64));
        drop(part);
        let part = fixture.open_after_reboot();
        assert!(!part.needs_full_check());
        assert_eq!(part.resumed_bytes(), u64::from(there) * CHUNK as u64);
    }
    // The part file is empty and the resume file is torn: nothing is read, and the resume file is replaced.
    let fixture = Fixture::new(3 * CHUNK);
    drop(fixture.open().unwrap());
    fs::write(fixture.paths().resume, "torn").unwrap();
    let part = fixture.open().unwrap();
    assert_eq!(check(&part, Verify::None), (CheckResult::default(), 0));
    drop(part);
    assert!(!fixture.open().unwrap().needs_full_check());
}

#[test]
fn removal_of_the_part_file_is_detected() {
    let fixture = Fixture::new(2 * CHUNK);
    let part = fixture.open().unwrap();
    fixture.store(&part, [0]);
    fs::remove_file(fixture.paths().part).unwrap();
    assert!(matches!(part.note(), Err(StoreError::Gone(_))));
}

#[test]
fn a_finished_file_is_not_served_after_a_change() {
    let fixture = Fixture::new(2 * CHUNK);
    let part = fixture.open().unwrap();
    fixture.store(&part, 0..2);
    part.finish(false, true).unwrap();
    fixture.serves(&part, 1);
    assert!(part.is_intact());
    File::options().append(true).open(fixture.target()).unwrap().set_len(1).unwrap();
    assert!(matches!(part.stored(ChunkIndex(0)), Err(StoreError::Changed(_))) && !part.is_intact());
}

#[test]
fn data_lost_by_a_network_file_system_is_no_complete_file() {
    for (durable, listed) in [(false, 0), (true, 0), (false, 1)] {
        let fixture = Fixture::new(2 * CHUNK);
        let mut part = fixture.open().unwrap();
        part.reports_at_close = true;
        fixture.store(&part, 0..listed);
        if listed > 0 {
            part.make_durable().unwrap();
        }
        fixture.store(&part, 0..2);
        disk::faults::fail_close(0, Errno::DQUOT);
        let error = part.finish(false, durable).unwrap_err();
        assert!(matches!(&error, StoreError::Exhausted { .. }), "{error}");
        assert!(!fixture.target().exists());
        // The file system reports the error once, the part file at each call.
        assert!(part.finish(false, durable).is_err() && part.make_durable().is_err());
        part.note().unwrap();
        drop(part);
        assert_eq!(fixture.open().unwrap().resumed_bytes(), u64::from(listed) * CHUNK as u64);
    }
}

#[test]
fn a_note_lists_no_chunk_that_the_file_system_has_lost() {
    // The first close is that of the part file, the second that of the note.
    for (skipped, listed) in [(0, 0), (1, 1)] {
        let fixture = Fixture::new(2 * CHUNK);
        let mut part = fixture.open().unwrap();
        part.reports_at_close = true;
        fixture.store(&part, [0]);
        disk::faults::fail_close(skipped, Errno::IO);
        assert!(part.note().is_err() && disk::faults::close_has_failed());
        fixture.store(&part, [1]);
        assert_eq!(part.finish(false, false).is_err(), listed == 0);
    }
}

#[test]
fn a_record_that_fails_at_close_does_not_replace_the_earlier_one() {
    let fixture = Fixture::new(2 * CHUNK);
    let part = fixture.open().unwrap();
    fixture.store(&part, [0]);
    part.make_durable().unwrap();
    fixture.store(&part, [1]);
    // The first close is that of the part file.
    disk::faults::fail_close(1, Errno::DQUOT);
    assert!(part.make_durable().is_err() && disk::faults::close_has_failed());
    drop(part);
    // The bytes of the failed write are lost; its slot is the second one.
    let file = File::options().write(true).open(fixture.paths().resume).unwrap();
    file.write_all_at(&[0; 70], fixture.slot(Kind::Durable, 1)).unwrap();
    assert_eq!(fixture.open_after_reboot().resumed_bytes(), CHUNK as u64);
}

/// A part file with chunks 0 and 1, of which chunk 1 is bad, and resume files that list both.
fn forged() -> Fixture {
    let fixture = Fixture::new(3 * CHUNK);
    let part = fixture.open().unwrap();
    fixture.store(&part, [0, 1]);
    part.note().unwrap();
    part.make_durable().unwrap();
    let file = File::options().write(true).open(fixture.paths().part).unwrap();
    file.write_all_at(b"EVIL", CHUNK as u64).unwrap();
    fixture
}

#[test]
fn files_that_another_user_can_have_written_are_verified() {
    let chmod = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o664)).unwrap();
    let link = |path: &Path| fs::hard_link(path, path.with_extension("link")).unwrap();
    let to_link = |path: &Path| {
        fs::rename(path, path.with_extension("moved")).unwrap();
        symlink(path.with_extension("moved"), path).unwrap();
    };
    let chown = |path: &Path| std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    type Attack<'a> = (&'a str, &'a dyn Fn(&Path));
    let mut attacks: Vec<Attack<'_>> =
        vec![("permissions", &chmod), ("hard link", &link), ("link", &to_link)];
    // Only root can give a file away.
    if rustix::process::geteuid().is_root() {
        attacks.push(("owner", &chown));
    }
    for (attack, forge) in attacks {
        for name in ["part", "resume"] {
            let fixture = forged();
            let paths = fixture.paths();
            match name {
                // A link in place of the part file is not used.
                "part" if attack == "link" => continue,
                "part" => forge(&paths.part),
                _ => forge(&paths.resume),
            }
            let part = fixture.open().unwrap();
            assert_eq!((part.resumed_bytes(), part.progress().held()), (0, 0), "{attack} {name}");
            assert_eq!(check(&part, Verify::None).0, CheckResult { bad: 0, found: 1 }, "{attack} {name}");
            fixture.store(&part, [1, 2]);
            part.finish(false, false).unwrap();
            assert!(fs::read(fixture.target()).unwrap() == fixture.bytes, "{attack} {name}");
        }
    }
}

#[test]
fn a_hard_link_in_place_of_the_part_file_is_not_emptied() {
    let fixture = Fixture::new(2 * CHUNK);
    let precious = fixture.folder.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    fs::hard_link(&precious, fixture.paths().part).unwrap();
    let part = fixture.open().unwrap();
    fixture.store(&part, 0..2);
    part.finish(false, false).unwrap();
    assert_eq!(fs::read(precious).unwrap(), b"precious");
    assert!(fs::read(fixture.target()).unwrap() == fixture.bytes);
}

#[test]
fn a_hard_link_in_place_of_a_resume_file_is_not_written_to() {
    let fixture = Fixture::new(2 * CHUNK);
    let (path, precious) = (fixture.paths().resume, fixture.folder.path().join("precious"));
    fs::write(&precious, "precious").unwrap();
    // Before the download, between two runs, and during the download.
    let link = || {
        let _ = fs::remove_file(&path);
        fs::hard_link(&precious, &path).unwrap();
    };
    link();
    drop(fixture.open().unwrap());
    link();
    let part = fixture.open().unwrap();
    check(&part, Verify::None);
    fixture.store(&part, [0]);
    link();
    part.note().unwrap();
    link();
    part.make_durable().unwrap();
    assert_eq!(fs::read(&precious).unwrap(), b"precious");
    assert!(fs::metadata(&path).unwrap().nlink() == 1);
}

#[test]
fn only_the_owner_can_write_a_part_file_and_a_finished_file_is_an_ordinary_one() {
    let fixture = Fixture::new(CHUNK);
    let part = fixture.open().unwrap();
    fixture.store(&part, [0]);
    part.make_durable().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    let Paths { part: path, resume, .. } = fixture.paths();
    assert!([&path, &resume].iter().all(|path| mode(path) & 0o022 == 0));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    part.finish(false, false).unwrap();
    let ordinary = fixture.folder.path().join("ordinary");
    fs::write(&ordinary, "").unwrap();
    assert_eq!(mode(&fixture.target()), mode(&ordinary));
}

/// A complete part file whose resume files list all chunks; all but the last chunk are bad.
fn spoiled() -> Fixture {
    let fixture = Fixture::new(300 * CHUNK);
    let part = fixture.open().unwrap();
    fixture.store(&part, 0..300);
    part.note().unwrap();
    part.make_durable().unwrap();
    let file = File::options().write(true).open(fixture.paths().part).unwrap();
    file.write_all_at(&vec![0xAA; 299 * CHUNK], 0).unwrap();
    fixture
}

#[test]
fn an_interrupted_check_leaves_no_bad_chunk_in_the_resume_files() {
    for verify in [Verify::Full, Verify::Sample] {
        let fixture = spoiled();
        let part = fixture.open().unwrap();
        let stop = || fs::metadata(fixture.paths().resume).unwrap().len() == 0;
        let stopped = part.check(verify, VerifyCallbacks { stop: &stop, ..VerifyCallbacks::NONE });
        assert!(matches!(stopped, Err(StoreError::Stopped)), "{stopped:?}");
        drop(part);
        let part = fixture.open().unwrap();
        assert!(part.needs_full_check() && part.resumed_bytes() == 0);
        assert_eq!(check(&part, Verify::None).0, CheckResult { bad: 0, found: 1 });
    }
}

#[test]
fn a_check_that_cannot_write_a_resume_file_leaves_no_bad_chunk_in_the_old_one() {
    let fixture = spoiled();
    let part = fixture.open().unwrap();
    // If a thread of the hashing empties the resume file, the second close of this thread is that of the new
    // record, otherwise that of the part file.
    disk::faults::fail_close(1, Errno::IO);
    assert!(part.check(Verify::Full, VerifyCallbacks::NONE).is_err() && disk::faults::close_has_failed());
    // The bytes of the failed write are lost.
    fixture.tear(Kind::Durable);
    drop(part);
    let part = fixture.open().unwrap();
    assert_eq!((part.needs_full_check(), part.resumed_bytes()), (true, 0));
    assert_eq!(check(&part, Verify::None).0, CheckResult { bad: 0, found: 1 });
}

#[test]
fn a_part_file_with_a_reported_bad_chunk_is_neither_served_nor_finished() {
    let fixture = Fixture::new(3 * CHUNK);
    let part = fixture.open().unwrap();
    fixture.store(&part, 0..3);
    part.make_durable().unwrap();
    assert!(part.check_reported(ChunkIndex(1)));
    let file = File::options().write(true).open(fixture.paths().part).unwrap();
    file.write_all_at(b"EVIL", CHUNK as u64).unwrap();
    assert!(part.check_reported(ChunkIndex(0)) && !part.check_reported(ChunkIndex(1)));
    assert!(part.stored(ChunkIndex(0)).is_err() && part.finish(false, false).is_err());
    drop(part);
    let part = fixture.open().unwrap();
    assert_eq!(check(&part, Verify::None).0, CheckResult { bad: 0, found: 2 });
    fixture.store(&part, [1]);
    part.finish(false, false).unwrap();
    assert!(fs::read(fixture.target()).unwrap() == fixture.bytes);
}

#[test]
fn a_finished_file_has_the_stated_permissions_or_those_of_the_replaced_file() {
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    let new_file = |wanted: u32| {
        let fixture = Fixture::new(1);
        let temporary = disk::temporary_for(&fixture.target(), b"", false, wanted).unwrap();
        temporary.as_file().metadata().unwrap().mode() & 0o777
    };
    for (hint, wanted) in [
        (Some(0o755), 0o755 & new_file(0o777)),
        (Some(0o6755), 0o755 & new_file(0o777)),
        (Some(u32::MAX), new_file(0o777)),
        (Some(0o040), 0o440 & new_file(0o777)),
        (None, new_file(0o666)),
    ] {
        let fixture = Fixture::new(1);
        let part = fixture.open().unwrap().with_mode(hint);
        assert_eq!(part.mode(), hint.map(|hint| hint & 0o777));
        fixture.store(&part, [0]);
        part.finish(false, false).unwrap();
        assert_eq!(mode(&fixture.target()), wanted, "{hint:?}");
    }
    for old in [0o600, 0o4751] {
        let fixture = Fixture::new(1);
        fs::write(fixture.target(), "old").unwrap();
        fs::set_permissions(fixture.target(), fs::Permissions::from_mode(old)).unwrap();
        let part = fixture.open().unwrap().with_mode(Some(0o755));
        fixture.store(&part, [0]);
        part.finish(true, false).unwrap();
        assert_eq!(mode(&fixture.target()), old & 0o777);
    }
}
