//! Tests of the choice of a part file: those of other programs, other files and the previous version.

use super::*;

#[test]
fn the_part_file_of_another_file_gets_no_second_owner() {
    let fixture = Fixture::new(2 * CHUNK);
    let mut other = Fixture::new(2 * CHUNK);
    other.bytes.reverse();
    other.manifest = Arc::new(
        Manifest::new(other.manifest.layout().clone(), other.bytes.chunks(CHUNK).map(Digest::of).collect())
            .unwrap(),
    );
    let first = fixture.open().unwrap();
    fixture.store(&first, [0]);
    first.note().unwrap();
    let before = fs::read(fixture.paths().part).unwrap();
    for is_locked in [true, false] {
        let part = PartFile::open(&fixture.target(), Arc::clone(&other.manifest)).unwrap();
        assert_eq!(part.paths.part, fixture.folder.path().join("file.bin.2.part"), "locked: {is_locked}");
        other.store(&part, [1]);
        part.note().unwrap();
        assert_eq!(part.resumed_bytes(), if is_locked { 0 } else { CHUNK as u64 });
        drop(part);
        if is_locked {
            // Free for the first file only.
            first.file.unlock().unwrap();
        }
    }
    assert_eq!(fs::read(fixture.paths().part).unwrap(), before);
    drop(first);
    assert_eq!(fixture.open().unwrap().resumed_bytes(), CHUNK as u64);
}

#[test]
fn the_part_file_of_another_program_is_never_written_to() {
    for content in [b"theirs".to_vec(), vec![7; 2 * CHUNK], Vec::new()] {
        let fixture = Fixture::new(2 * CHUNK);
        fs::write(fixture.paths().part, &content).unwrap();
        let part = fixture.open().unwrap();
        fixture.store(&part, [0]);
        part.note().unwrap();
        drop(part);
        // The own part file is found again, also when the first name is free meanwhile.
        assert_eq!(fs::read(fixture.paths().part).unwrap(), content);
        fs::remove_file(fixture.paths().part).unwrap();
        let part = fixture.open().unwrap();
        assert_eq!(part.resumed_bytes(), CHUNK as u64);
        fixture.store(&part, [1]);
        part.finish(false, false).unwrap();
        assert_eq!(fixture.names(), ["file.bin"]);
    }
}

#[test]
fn a_download_is_refused_when_all_names_are_taken() {
    let fixture = Fixture::new(1);
    (1..=32).for_each(|number| {
        let paths = Paths::beside(fixture.folder.path(), "file.bin", fixture.manifest.id(), number, 255);
        fs::write(paths.part, "theirs").unwrap();
    });
    let error = fixture.open().err().unwrap().to_string();
    assert!(error.contains("32 other files have its names"), "{error}");
    assert_eq!(fixture.names().len(), 32);
}

#[test]
fn a_copied_part_file_is_checked() {
    let fixture = Fixture::new(2 * CHUNK);
    let part = fixture.open().unwrap();
    fixture.store(&part, [0]);
    part.make_durable().unwrap();
    drop(part);
    let path = fixture.paths().part;
    fs::copy(&path, path.with_extension("copy")).unwrap();
    fs::rename(path.with_extension("copy"), &path).unwrap();
    let part = fixture.open().unwrap();
    assert!(part.needs_full_check() && part.resumed_bytes() == 0);
    assert_eq!(check(&part, Verify::None).0, CheckResult { bad: 0, found: 1 });
    drop(part);
    assert_eq!(fixture.open_after_reboot().resumed_bytes(), CHUNK as u64);
}

/// A resume file as the previous version wrote it.
fn record_of_previous_version(fixture: &Fixture, held: &[u32], is_durable: bool) -> Vec<u8> {
    let mut map = Bitfield::none(fixture.manifest.layout().count());
    held.iter().for_each(|&index| assert!(map.insert(ChunkIndex(index))));
    let durable = if is_durable { map.clone() } else { Bitfield::none(map.count()) };
    let payload = [durable.to_bytes(), map.to_bytes()].concat();
    let header = serde_json::json!({
        "format": "shoal have-map", "version": 1, "id": fixture.manifest.id(), "count": map.count(),
        "boot": resume_file::boot_id(), "sha256": Digest::of(&payload), "length": payload.len(),
    });
    [header.to_string().as_bytes(), b"\n", &payload].concat()
}

#[test]
fn a_hidden_part_file_of_the_previous_version_is_resumed() {
    let fixture = Fixture::new(4 * CHUNK);
    let hidden = |ending: &str| {
        fixture.folder.path().join(format!(".file.bin.{}.{ending}", fixture.manifest.id().short()))
    };
    let mut bytes = fixture.bytes.clone();
    bytes[3 * CHUNK..].fill(0);
    fs::write(hidden("part"), bytes).unwrap();
    fs::write(hidden("have"), record_of_previous_version(&fixture, &[0], true)).unwrap();
    // The second slot of the note was never written.
    let mut note = record_of_previous_version(&fixture, &[0, 1], false);
    note.resize(2 * (1024 + 2), 0);
    fs::write(hidden("note"), note).unwrap();
    let part = fixture.open().unwrap();
    assert_eq!((part.resumed_bytes(), part.needs_full_check()), (2 * CHUNK as u64, false));
    assert!(matches!(fixture.open(), Err(StoreError::Busy(_))));
    fixture.store(&part, [2]);
    part.note().unwrap();
    drop(part);
    let part = fixture.open().unwrap();
    assert_eq!(part.resumed_bytes(), 3 * CHUNK as u64);
    fixture.store(&part, [3]);
    part.finish(false, true).unwrap();
    assert!(fs::read(fixture.target()).unwrap() == fixture.bytes);
    assert_eq!(fixture.names(), ["file.bin"]);
}
