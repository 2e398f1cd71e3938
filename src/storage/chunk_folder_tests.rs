//! Tests of chunk folders: lists, stored chunks and crash consistency.

use super::*;
use crate::content::Layout;
use std::os::unix::fs::{FileExt as _, symlink};
use tempfile::TempDir;

const LIST: &str = "local_chunks.txt";

fn index(number: u32) -> ChunkIndex {
    ChunkIndex::from_number(number).unwrap()
}

fn folder_of(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

fn open(folder: &TempDir) -> Result<ChunkFolder, StoreError> {
    ChunkFolder::open(folder.path(), VerifyCallbacks::NONE)
}

fn refusal(folder: &TempDir) -> String {
    open(folder).err().unwrap().to_string()
}

fn store(folder: &ChunkFolder, number: u32, content: &str) -> Result<(), StoreError> {
    let staged = folder.stage(index(number), Digest::of(content.as_bytes()), content.as_bytes())?;
    folder.commit(vec![staged])
}

fn serves(folder: &ChunkFolder, number: u32) -> Option<String> {
    let chunk = folder.stored(index(number)).ok()?;
    let mut bytes = vec![0; chunk.length as usize];
    chunk.file.read_exact_at(&mut bytes, chunk.offset).unwrap();
    assert_eq!(folder.holds(index(number)).unwrap().digest, Digest::of(&bytes));
    assert!(folder.progress().has(index(number)));
    Some(String::from_utf8(bytes).unwrap())
}

/// The name of a chunk that is stored beside a file of the user.
fn beside(number: u32, content: &str) -> String {
    format!("chunk_{number}_{}", &Digest::of(content.as_bytes()).to_string()[..8])
}

fn read(folder: &TempDir, name: &str) -> String {
    fs::read_to_string(folder.path().join(name)).unwrap()
}

fn manifest(contents: &[&str]) -> Arc<Manifest> {
    let layout = Layout::uneven(contents.iter().map(|content| content.len() as u64)).unwrap();
    let digests = contents.iter().map(|content| Digest::of(content.as_bytes())).collect();
    Arc::new(Manifest::new(layout, digests).unwrap())
}

#[test]
fn listed_chunks_are_hashed_and_served() {
    let folder = folder_of(&[(LIST, "3,c\r\n1, a b \r\n4,LASTCHUNK\r\n"), ("a b", "one"), ("c", "")]);
    let hashed = std::sync::atomic::AtomicU64::new(0);
    let counted = |bytes| _ = hashed.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
    let chunks =
        ChunkFolder::open(folder.path(), VerifyCallbacks { hashed: &counted, ..VerifyCallbacks::NONE })
            .unwrap();
    assert_eq!(hashed.into_inner(), 3);
    assert_eq!(chunks.count(), 4);
    let held: Vec<_> = chunks.held().iter().map(|chunk| (chunk.index, chunk.length)).collect();
    assert_eq!(held, [(index(1), 3), (index(3), 0)]);
    assert_eq!(serves(&chunks, 1).as_deref(), Some("one"));
    assert_eq!(serves(&chunks, 3).as_deref(), Some(""));
    assert!(matches!(chunks.stored(index(2)), Err(StoreError::Missing(_))));
    assert!(chunks.manifest().is_none());
    assert!(matches!(open(&folder), Err(StoreError::Busy(_))), "one process at a time");
    drop(chunks);
    let stopped =
        ChunkFolder::open(folder.path(), VerifyCallbacks { stop: &|| true, ..VerifyCallbacks::NONE });
    assert!(matches!(stopped, Err(StoreError::Stopped)));
}

#[test]
fn an_invalid_list_is_reported_with_its_line() {
    let folder = folder_of(&[(LIST, "1,a\n1,b\n2,LASTCHUNK\n"), ("a", "one")]);
    let text = refusal(&folder);
    assert!(text.ends_with("local_chunks.txt: line 2: chunk 1 is listed twice (first in line 1)"), "{text}");
    fs::remove_file(folder.path().join(LIST)).unwrap();
    let text = refusal(&folder);
    assert!(text.starts_with("cannot open ") && text.contains("/local_chunks.txt: "), "{text}");
    fs::create_dir(folder.path().join(LIST)).unwrap();
    assert!(matches!(open(&folder), Err(StoreError::NotAFile(_))));
}

#[test]
fn an_invalid_file_is_reported_with_its_line() {
    let elsewhere = folder_of(&[("secret", "secret")]);
    let list = "3,fine\n7,wrong\n9,LASTCHUNK\n";
    let wrong = |make: &dyn Fn(&Path)| {
        let folder = folder_of(&[(LIST, list), ("fine", "fine")]);
        make(&folder.path().join("wrong"));
        let text = refusal(&folder);
        let place = "/local_chunks.txt: line 2: chunk 7, file \"wrong\": ";
        text.split_once(place).unwrap_or_else(|| panic!("{text}")).1.to_owned()
    };
    assert_eq!(wrong(&|_| ()), "file not found");
    assert_eq!(wrong(&|path| symlink("nowhere", path).unwrap()), "file not found");
    assert_eq!(wrong(&|path| fs::create_dir(path).unwrap()), "not a regular file");
    assert_eq!(wrong(&|path| symlink(LIST, path).unwrap()), "the list itself cannot be a chunk");
    let secret = elsewhere.path().join("secret");
    assert!(wrong(&|path| symlink(&secret, path).unwrap()).starts_with("outside the folder"));
}

#[test]
fn links_inside_the_folder_are_accepted() {
    let folder = folder_of(&[(LIST, "1,link\n2,LASTCHUNK\n"), ("real", "one")]);
    symlink("real", folder.path().join("link")).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let alias = elsewhere.path().join("alias");
    symlink(folder.path(), &alias).unwrap();
    let chunks = ChunkFolder::open(&alias, VerifyCallbacks::NONE).unwrap();
    assert_eq!(serves(&chunks, 1).as_deref(), Some("one"));
    store(&chunks, 2, "two").unwrap();
    assert_eq!(read(&folder, LIST), "1,link\n2,chunk_2\n2,LASTCHUNK\n");
}

#[test]
fn a_changed_chunk_file_is_not_served() {
    let folder = folder_of(&[(LIST, "1,a\n2,b\n2,LASTCHUNK\n"), ("a", "one"), ("b", "two")]);
    let chunks = open(&folder).unwrap();
    fs::write(folder.path().join("a"), "other").unwrap();
    fs::remove_file(folder.path().join("b")).unwrap();
    for number in [1, 2] {
        assert!(matches!(chunks.stored(index(number)), Err(StoreError::Changed(_))));
    }
    // The changed file is the user's and stays. The removed one is written again.
    store(&chunks, 1, "one").unwrap();
    store(&chunks, 2, "two").unwrap();
    assert_eq!((serves(&chunks, 1).unwrap(), read(&folder, "b")), ("one".into(), "two".into()));
    assert_eq!(read(&folder, "a"), "other");
    assert_eq!(read(&folder, LIST), format!("1,{}\n2,b\n2,LASTCHUNK\n", beside(1, "one")));
}

#[test]
fn a_stored_chunk_is_listed_and_served_also_after_a_restart() {
    let folder = folder_of(&[(LIST, "2,mine.txt\r\n3,LASTCHUNK\r\n"), ("mine.txt", "two")]);
    let chunks = open(&folder).unwrap();
    store(&chunks, 3, "three").unwrap();
    store(&chunks, 3, "three").unwrap();
    assert_eq!(read(&folder, LIST), "2,mine.txt\r\n3,chunk_3\r\n3,LASTCHUNK\r\n");
    assert_eq!(chunks.progress().since(0, 9).0, [index(3)]);
    store(&chunks, 1, "").unwrap();
    assert!(chunks.progress().is_complete());
    let held = chunks.held();
    drop(chunks);
    let again = open(&folder).unwrap();
    assert!(again.held() == held && again.progress().is_complete());
    assert_eq!(serves(&again, 3).as_deref(), Some("three"));
    let names = fs::read_dir(&folder).unwrap().count();
    assert_eq!(names, 5, "the chunks, the list and the record; no temporary file is left");
}

#[test]
fn invalid_chunks_are_rejected() {
    let folder = folder_of(&[(LIST, "2,LASTCHUNK\n")]);
    let chunks = open(&folder).unwrap();
    assert!(matches!(store(&chunks, 3, "x"), Err(StoreError::Missing(_))));
    fs::write(folder.path().join(LIST), "7,LASTCHUNK\n").unwrap();
    assert!(matches!(store(&chunks, 1, "x"), Err(StoreError::Changed(path)) if path.ends_with(LIST)));
    fs::write(folder.path().join(LIST), "oh\n").unwrap();
    assert!(matches!(store(&chunks, 1, "x"), Err(StoreError::Chunks { .. })));
    fs::remove_dir_all(folder.path()).unwrap();
    let text = store(&chunks, 1, "x").unwrap_err().to_string();
    assert!(text.starts_with("cannot create a file in /") && text.contains("No such file"), "{text}");
}

#[test]
fn a_chunk_can_be_written_in_parts_and_leaves_no_file_unless_it_is_committed() {
    let folder = folder_of(&[(LIST, "2,LASTCHUNK\n")]);
    let chunks = open(&folder).unwrap();
    let begin = || chunks.stage_in_parts(index(1), Digest::of(b"one two"), 7).unwrap();
    let mut aborted = begin();
    aborted.write(b"one").unwrap();
    drop(aborted);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "only the list");
    let mut staged = begin();
    for part in ["one", " ", "two"] {
        staged.write(part.as_bytes()).unwrap();
    }
    assert_eq!(chunks.holds(index(1)), None);
    chunks.commit(vec![staged]).unwrap();
    assert_eq!(serves(&chunks, 1).as_deref(), Some("one two"));
    let mut again = begin();
    again.write(b"one two").unwrap();
    chunks.commit(vec![again]).unwrap();
    assert_eq!(serves(&chunks, 1).as_deref(), Some("one two"));
}

#[test]
fn files_of_the_user_are_never_overwritten() {
    // `chunk_1` is listed for another chunk, `chunk_3` is not listed.
    let files = [(LIST, "2,chunk_1\n3,LASTCHUNK\n"), ("chunk_1", "two"), ("chunk_3", "diary")];
    let folder = folder_of(&files);
    let chunks = open(&folder).unwrap();
    store(&chunks, 1, "one").unwrap();
    store(&chunks, 3, "three").unwrap();
    let [one, three] = ["one", "three"].map(|content| Digest::of(content.as_bytes()).to_string());
    let list = format!("1,chunk_1_{}\n2,chunk_1\n3,chunk_3_{}\n3,LASTCHUNK\n", &one[..8], &three[..8]);
    assert_eq!(read(&folder, LIST), list);
    assert_eq!((read(&folder, "chunk_1"), read(&folder, "chunk_3")), ("two".into(), "diary".into()));
    let held = chunks.held();
    drop(chunks);
    assert_eq!(open(&folder).unwrap().held(), held);
}

#[test]
fn an_unlisted_file_with_the_same_content_is_listed() {
    let folder = folder_of(&[(LIST, "3,LASTCHUNK\n"), ("chunk_2", "two")]);
    let chunks = open(&folder).unwrap();
    store(&chunks, 2, "two").unwrap();
    assert_eq!(read(&folder, LIST), "2,chunk_2\n3,LASTCHUNK\n");
    assert_eq!(serves(&chunks, 2).as_deref(), Some("two"));
}

#[test]
fn lines_added_by_the_user_meanwhile_are_kept() {
    let folder = folder_of(&[(LIST, "3,LASTCHUNK\n"), ("new", "new")]);
    let chunks = open(&folder).unwrap();
    fs::write(folder.path().join(LIST), "2,new\n3,LASTCHUNK\n").unwrap();
    store(&chunks, 1, "one").unwrap();
    assert_eq!(read(&folder, LIST), "1,chunk_1\n2,new\n3,LASTCHUNK\n");
}

#[test]
fn parallel_stores_lose_no_line() {
    let folder = folder_of(&[(LIST, "30,LASTCHUNK\n")]);
    let chunks = open(&folder).unwrap();
    std::thread::scope(|scope| {
        for first in 1..=3 {
            let chunks = &chunks;
            // Each chunk is stored twice, as in the endgame of a download.
            scope.spawn(move || {
                for number in (first..first + 20).filter(|number| *number <= 20) {
                    store(chunks, number, &number.to_string()).unwrap();
                }
            });
        }
    });
    let held = chunks.held();
    drop(chunks);
    let again = open(&folder).unwrap();
    assert_eq!(again.held().len(), 20);
    assert!(again.held() == held);
}

#[test]
fn unlisted_files_after_a_crash_are_adopted_or_ignored() {
    let files = [(LIST, "1,a\n4,LASTCHUNK\n"), ("a", "one"), ("chunk_2", "two"), (".shoal-x.tmp", "half")];
    let folder = folder_of(&files);
    let chunks = open(&folder).unwrap();
    let adopt = |number, content: &str| {
        let digest = Digest::of(content.as_bytes());
        let chunk = HeldChunk { index: index(number), digest, length: content.len() as u64 };
        let adopted = chunks.adopt(&[chunk]).unwrap();
        assert!(adopted.is_empty() || chunks.may_adopt(chunk));
        adopted == [chunk]
    };
    assert!(!adopt(2, "owt") && !adopt(2, "longer") && !adopt(3, "three"));
    assert!(chunks.holds(index(2)).is_none());
    assert!(adopt(2, "two") && adopt(2, "two"));
    assert_eq!(serves(&chunks, 2).as_deref(), Some("two"));
    assert_eq!(read(&folder, LIST), "1,a\n2,chunk_2\n4,LASTCHUNK\n");
    // A listed chunk is replaced only by a download, not by an unlisted file.
    fs::write(folder.path().join("chunk_1"), "uno").unwrap();
    assert!(!adopt(1, "uno"));
    symlink("a", folder.path().join("chunk_4")).unwrap();
    assert!(!adopt(4, "one"));
}

#[test]
fn a_distrusted_chunk_is_replaced_by_one_beside_it() {
    let folder = folder_of(&[(LIST, "1,a\n2,b\n2,LASTCHUNK\n"), ("a", "bad"), ("b", "two")]);
    let chunks = open(&folder).unwrap();
    chunks.distrust(index(1));
    assert!(serves(&chunks, 1).is_none() && chunks.holds(index(1)).is_none());
    assert_eq!((chunks.held().len(), chunks.progress().held()), (1, 1));
    assert!(read(&folder, LIST).starts_with("1,a\n"));
    store(&chunks, 1, "good").unwrap();
    assert_eq!((serves(&chunks, 1).unwrap(), read(&folder, "a")), ("good".into(), "bad".into()));
    assert!(read(&folder, LIST).starts_with(&format!("1,{}\n2,b\n", beside(1, "good"))));
    assert_eq!(chunks.progress().since(0, 9).0, [index(1)]);
    // Distrusted by mistake: the same content is stored again.
    chunks.distrust(index(2));
    store(&chunks, 2, "two").unwrap();
    assert_eq!(serves(&chunks, 2).as_deref(), Some("two"));
}

#[test]
fn a_sealed_set_serves_only_chunks_that_match_the_manifest() {
    let folder = folder_of(&[(LIST, "1,a\n2,b\n3,LASTCHUNK\n"), ("a", "one"), ("b", "bad")]);
    let chunks = open(&folder).unwrap();
    chunks.set_manifest(manifest(&["of", "another", "set", "!"]));
    assert!(chunks.manifest().is_none() && serves(&chunks, 2).is_some());
    chunks.distrust(index(1));
    let sealed = manifest(&["one", "two", "three"]);
    chunks.set_manifest(Arc::clone(&sealed));
    assert_eq!(chunks.manifest(), Some(sealed));
    assert!(serves(&chunks, 1).is_some() && serves(&chunks, 2).is_none());
    assert!(matches!(store(&chunks, 2, "bad"), Err(StoreError::Io { .. })));
    store(&chunks, 2, "two").unwrap();
    store(&chunks, 3, "three").unwrap();
    assert!(chunks.progress().is_complete());
    assert_eq!((read(&folder, "b"), serves(&chunks, 2).unwrap()), ("bad".into(), "two".into()));
}

#[test]
fn a_sweep_finds_changed_files_and_a_recheck_hashes_them() {
    let folder =
        folder_of(&[(LIST, "1,a\n2,b\n3,c\n3,LASTCHUNK\n"), ("a", "one"), ("b", "two"), ("c", "three")]);
    let chunks = open(&folder).unwrap();
    assert_eq!(chunks.sweep(9), []);
    fs::write(folder.path().join("a"), "ONE!").unwrap();
    fs::remove_file(folder.path().join("b")).unwrap();
    fs::write(folder.path().join("c"), "three").unwrap();
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
    fs::File::options().write(true).open(folder.path().join("c")).unwrap().set_modified(later).unwrap();
    // Two per sweep, in turn.
    let found: Vec<_> = (0..3).flat_map(|_| chunks.sweep(2)).collect();
    assert!([1, 2, 3].iter().all(|number| found.contains(&index(*number))), "{found:?}");
    assert!(!chunks.recheck(index(1)) && !chunks.recheck(index(2)) && chunks.recheck(index(3)));
    assert_eq!(chunks.held().len(), 1);
    assert_eq!(chunks.sweep(9), []);
    assert_eq!(serves(&chunks, 3).as_deref(), Some("three"));
    store(&chunks, 2, "two").unwrap();
    assert_eq!(serves(&chunks, 2).as_deref(), Some("two"));
}

#[test]
fn commit_lists_many_chunks_and_dropped_ones_are_removed() {
    let folder = folder_of(&[(LIST, "1,mine\n9,LASTCHUNK\n"), ("mine", "old"), ("chunk_3", "another")]);
    let chunks = open(&folder).unwrap();
    let stage = |number: u32, content: &str| {
        chunks.stage(index(number), Digest::of(content.as_bytes()), content.as_bytes()).unwrap()
    };
    let kept = vec![stage(1, "new"), stage(2, "two"), stage(3, "three"), stage(2, "two")];
    let dropped = stage(4, "four");
    assert_eq!(dropped.chunk().index, index(4));
    drop(dropped);
    assert_eq!((serves(&chunks, 2), read(&folder, LIST).lines().count()), (None, 2));
    chunks.commit(kept).unwrap();
    let list = read(&folder, LIST);
    let (one, three) = (beside(1, "new"), beside(3, "three"));
    assert_eq!(list, format!("1,{one}\n2,chunk_2\n3,{three}\n9,LASTCHUNK\n"));
    assert_eq!((read(&folder, "mine"), read(&folder, "chunk_3")), ("old".into(), "another".into()));
    for (number, content) in [(1, "new"), (2, "two"), (3, "three")] {
        assert_eq!(serves(&chunks, number).as_deref(), Some(content));
    }
    // Temporary files of a killed process are removed when the folder is opened again.
    let left = stage(5, "five");
    std::mem::forget(left);
    assert!(fs::read_dir(&folder).unwrap().any(|entry| disk::is_temporary(&entry.unwrap().file_name())));
    drop(chunks);
    open(&folder).unwrap();
    assert!(!fs::read_dir(&folder).unwrap().any(|entry| disk::is_temporary(&entry.unwrap().file_name())));
}

/// The names in the folder without the list and the record.
fn chunk_files(folder: &TempDir) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != LIST && name != written::FILE).collect();
    names.sort();
    names
}

#[test]
fn later_agreements_replace_only_files_that_the_client_wrote() {
    let files = [(LIST, "1,chunk_1\n2,LASTCHUNK\n"), ("chunk_1", "mine")];
    let folder = folder_of(&files);
    // Each agreement is that of another run.
    for agreed in ["EVIL", "WORSE", "mine", "good", "EVIL"] {
        let chunks = open(&folder).unwrap();
        for number in [1, 2] {
            chunks.distrust(index(number));
            store(&chunks, number, agreed).unwrap();
            assert_eq!(serves(&chunks, number).as_deref(), Some(agreed));
        }
        drop(chunks);
        assert_eq!((read(&folder, "chunk_1"), read(&folder, "chunk_2")), ("mine".into(), agreed.into()));
        let name = if agreed == "mine" { "chunk_1".into() } else { beside(1, agreed) };
        assert_eq!(read(&folder, LIST), format!("1,{name}\n2,chunk_2\n2,LASTCHUNK\n"));
        let mut expected = vec!["chunk_1".to_owned(), "chunk_2".to_owned(), name];
        expected.sort();
        expected.dedup();
        assert_eq!(chunk_files(&folder), expected, "files that are no longer listed are removed");
        assert!(open(&folder).unwrap().progress().is_complete());
    }
}

#[test]
fn a_written_file_that_the_user_has_changed_is_the_users() {
    let folder = folder_of(&[(LIST, "2,LASTCHUNK\n")]);
    let chunks = open(&folder).unwrap();
    store(&chunks, 1, "one").unwrap();
    store(&chunks, 2, "two").unwrap();
    drop(chunks);
    // Of the same size and of another size.
    fs::write(folder.path().join("chunk_1"), "ONE").unwrap();
    fs::write(folder.path().join("chunk_2"), "edited").unwrap();
    let chunks = open(&folder).unwrap();
    for (number, agreed) in [(1, "uno"), (2, "dos")] {
        chunks.distrust(index(number));
        store(&chunks, number, agreed).unwrap();
        assert_eq!(serves(&chunks, number).as_deref(), Some(agreed));
    }
    assert_eq!((read(&folder, "chunk_1"), read(&folder, "chunk_2")), ("ONE".into(), "edited".into()));
    assert_eq!(chunk_files(&folder), ["chunk_1", &beside(1, "uno"), "chunk_2", &beside(2, "dos")]);
}

#[test]
fn files_of_the_previous_version_count_as_the_users() {
    // That version had no record of the files that it wrote.
    let folder = folder_of(&[(LIST, "1,chunk_1_deadbeef\n1,LASTCHUNK\n"), ("chunk_1_deadbeef", "old")]);
    let chunks = open(&folder).unwrap();
    chunks.distrust(index(1));
    store(&chunks, 1, "new").unwrap();
    assert_eq!(chunk_files(&folder), [beside(1, "new"), "chunk_1_deadbeef".into()]);
    assert_eq!(read(&folder, "chunk_1_deadbeef"), "old");
}

#[test]
fn a_link_of_the_user_is_not_replaced() {
    let folder = folder_of(&[(LIST, "1,link\n1,LASTCHUNK\n"), ("real", "bad")]);
    symlink("real", folder.path().join("link")).unwrap();
    let chunks = open(&folder).unwrap();
    chunks.distrust(index(1));
    store(&chunks, 1, "good").unwrap();
    assert!(folder.path().join("link").is_symlink() && read(&folder, "link") == "bad");
    assert_eq!(serves(&chunks, 1).as_deref(), Some("good"));
}

#[test]
fn a_chunk_that_fails_at_close_is_not_listed() {
    // The first close is that of the chunk, the second that of the record, the third that of the list.
    for skipped in 0..3 {
        let folder = folder_of(&[(LIST, "1,LASTCHUNK\n")]);
        let chunks = open(&folder).unwrap();
        disk::faults::fail_close(skipped, rustix::io::Errno::DQUOT);
        let error = store(&chunks, 1, "one").unwrap_err();
        assert!(matches!(error, StoreError::Exhausted { .. }), "{error}");
        assert!(chunks.holds(index(1)).is_none() && read(&folder, LIST) == "1,LASTCHUNK\n");
        store(&chunks, 1, "one").unwrap();
        assert_eq!(serves(&chunks, 1).as_deref(), Some("one"));
    }
}

#[test]
fn a_reported_chunk_is_withdrawn_only_if_its_file_has_changed() {
    let folder = folder_of(&[(LIST, "1,a\n2,b\n2,LASTCHUNK\n"), ("a", "one"), ("b", "two")]);
    let chunks = open(&folder).unwrap();
    assert!(chunks.check_reported(index(1)) && chunks.check_reported(index(9)));
    // As a write through a memory map leaves it.
    let path = folder.path().join("a");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "ONE").unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    assert!(chunks.sweep(9).is_empty() && chunks.stored(index(1)).is_ok());
    assert!(!chunks.check_reported(index(1)) && chunks.stored(index(1)).is_err());
    assert_eq!(chunks.sweep(9), [index(1)]);
    assert!(!chunks.recheck(index(1)) && chunks.sweep(9).is_empty());
    store(&chunks, 1, "one").unwrap();
    assert_eq!((serves(&chunks, 1).unwrap(), read(&folder, "a")), ("one".into(), "ONE".into()));
}

#[test]
fn a_chunk_superseded_by_the_manifest_is_left_out_of_its_commit() {
    let folder = folder_of(&[(LIST, "2,LASTCHUNK\n")]);
    let chunks = open(&folder).unwrap();
    let stage = |number, text: &str| {
        chunks.stage(index(number), Digest::of(text.as_bytes()), text.as_bytes()).unwrap()
    };
    let staged = vec![stage(1, "old"), stage(2, "two")];
    chunks.set_manifest(manifest(&["new", "two"]));
    chunks.commit(staged).unwrap();
    assert_eq!((serves(&chunks, 1), serves(&chunks, 2).as_deref()), (None, Some("two")));
    assert_eq!(read(&folder, LIST), "2,chunk_2\n2,LASTCHUNK\n");
}

#[test]
fn a_rewritten_list_keeps_its_format() {
    let folder = folder_of(&[(LIST, "\u{feff}3, c\r\n4, LASTCHUNK\r\n\r\n"), ("c", "three")]);
    let chunks = open(&folder).unwrap();
    store(&chunks, 1, "one").unwrap();
    assert_eq!(read(&folder, LIST), "\u{feff}1, chunk_1\r\n3, c\r\n4, LASTCHUNK\r\n\r\n");
}

#[test]
fn unlisted_files_are_adopted_together() {
    let folder =
        folder_of(&[(LIST, "3,LASTCHUNK\n"), ("chunk_1", "one"), ("chunk_2", "two"), ("chunk_3", "bad")]);
    let chunks = open(&folder).unwrap();
    let wanted = [(1, "one"), (2, "two"), (3, "yes")].map(|(number, text): (u32, &str)| {
        let digest = Digest::of(text.as_bytes());
        HeldChunk { index: index(number), digest, length: text.len() as u64 }
    });
    assert!(wanted.iter().all(|chunk| chunks.may_adopt(*chunk)));
    assert!(!chunks.may_adopt(HeldChunk { length: 9, ..wanted[0] }));
    assert_eq!(chunks.adopt(&wanted).unwrap(), wanted[..2]);
    assert_eq!(read(&folder, LIST), "1,chunk_1\n2,chunk_2\n3,LASTCHUNK\n");
}
