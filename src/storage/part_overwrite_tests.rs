//! Tests of finished downloads whose target exists.

use super::*;

#[test]
fn an_existing_target_is_replaced_only_with_overwrite() {
    let fixture = Fixture::new(10);
    let part = fixture.open().unwrap();
    fixture.store(&part, [0]);
    fs::write(fixture.target(), "mine").unwrap();
    assert!(matches!(part.finish(false, false), Err(StoreError::Exists(path)) if path == fixture.target()));
    assert_eq!(fs::read(fixture.target()).unwrap(), b"mine");
    fixture.serves(&part, 0);
    part.finish(true, false).unwrap();
    assert!(fs::read(fixture.target()).unwrap() == fixture.bytes);
}

#[test]
fn overwriting_leaves_only_the_new_file_whatever_the_target_was() {
    for make in
        [|path: &Path| fs::write(path, "old"), |path: &Path| symlink("elsewhere", path), |_: &Path| Ok(())]
    {
        let fixture = Fixture::new(10);
        let part = fixture.open().unwrap();
        fixture.store(&part, [0]);
        make(&fixture.target()).unwrap();
        part.finish(true, false).unwrap();
        assert_eq!(fixture.names(), ["file.bin"]);
        assert!(fs::read(fixture.target()).unwrap() == fixture.bytes);
        fixture.serves(&part, 0);
    }
    // A folder is not replaced, and the download is kept.
    let fixture = Fixture::new(10);
    let part = fixture.open().unwrap();
    fixture.store(&part, [0]);
    fs::create_dir(fixture.target()).unwrap();
    assert!(part.finish(true, false).is_err());
    assert!(fixture.target().is_dir());
    assert!(fs::read(fixture.paths().part).unwrap() == fixture.bytes);
}

#[test]
fn a_kill_between_exchange_and_removal_leaves_both_files_and_a_listed_leftover() {
    let fixture = Fixture::new(10);
    for old in ["an old file", "0123456789"] {
        let part = fixture.open().unwrap();
        fixture.store(&part, [0]);
        fs::write(fixture.target(), old).unwrap();
        let (target, paths) = (fixture.target(), fixture.paths());
        rustix::fs::renameat_with(CWD, &paths.part, CWD, &target, RenameFlags::EXCHANGE).unwrap();
        drop(part);
        assert!(fs::read(&target).unwrap() == fixture.bytes);
        assert_eq!(fs::read_to_string(&paths.part).unwrap(), old);
        let found = || crate::storage::leftovers::find(fixture.folder.path()).unwrap().unused;
        assert!(found().iter().map(|left| &left.path).eq([&paths.part]));
        // The next download to the same target trusts none of its bytes.
        let part = fixture.open().unwrap();
        assert_eq!((part.resumed_bytes(), part.progress().held()), (0, 0));
        drop(part);
        found().into_iter().for_each(|left| left.remove().unwrap());
        for name in fixture.names() {
            fs::remove_file(fixture.folder.path().join(name)).unwrap();
        }
    }
}
