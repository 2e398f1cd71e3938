//! Tests of shared folders: when a file becomes shared, and when it stops.

use super::*;
use crate::content::limits::FILE_SETTLED_MIN;
use crate::content::{Digest, Layout};
use crate::sync::lock;
use rustix::fs::{CWD, FileType, Mode};
use std::cell::Cell;
use std::fs::{File, FileTimes};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tempfile::TempDir;

struct Fixture {
    folder: TempDir,
    shared: SharedFolder,
    /// Each write gets its own modification time, one second after the last.
    clock: Cell<SystemTime>,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shared = SharedFolder::open(folder.path()).unwrap();
        let clock = Cell::new(SystemTime::now() - Duration::from_secs(3600));
        Self { folder, shared, clock }
    }
    /// A folder after its first scan.
    fn scanned_once() -> Self {
        let fixture = Self::new();
        assert_eq!(fixture.rescan(), ["hash:"]);
        fixture
    }
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
    fn write(&self, name: &str, bytes: &str) {
        self.clock.set(self.clock.get() + Duration::from_secs(1));
        fs::write(self.path(name), bytes).unwrap();
        self.set_time(name, self.clock.get());
    }
    fn set_time(&self, name: &str, time: SystemTime) {
        let file = File::options().append(true).open(self.path(name)).unwrap();
        file.set_times(FileTimes::new().set_modified(time)).unwrap();
    }
    /// The result of a scan, abbreviated.
    fn rescan(&self) -> Vec<String> {
        let rescan = self.shared.rescan().unwrap();
        let names: Vec<_> = rescan.to_hash.iter().map(FileName::as_str).collect();
        rescan.changes.iter().map(short).chain([format!("hash:{}", names.join(","))]).collect()
    }
    fn hash(&self, file: &str) -> Option<String> {
        self.shared.hash(&name(file), &|_| (), &|| false).unwrap().as_ref().map(short)
    }
    /// Scans twice, and hashes the files that are ready.
    fn settle(&self) {
        self.shared.rescan().unwrap();
        for name in self.shared.rescan().unwrap().to_hash {
            self.shared.hash(&name, &|_| (), &|| false).unwrap();
        }
    }
    fn names(&self) -> Vec<String> {
        self.shared.files().into_iter().map(|file| file.name.into()).collect()
    }
    fn shared_file(&self, file: &str) -> SharedFile {
        self.shared.by_name(&name(file)).unwrap()
    }
    fn serves(&self, file: &str) -> Option<String> {
        bytes_of(&self.shared_file(file))
    }
    fn adopt(&self, file: &str, manifest: Arc<Manifest>) -> Result<Vec<String>, StoreError> {
        Ok(self.shared.adopt(name(file), manifest)?.iter().map(short).collect())
    }
}

fn name(text: &str) -> FileName {
    FileName::new(text).unwrap()
}

fn short(change: &FolderChange) -> String {
    match change {
        FolderChange::Added(file) => format!("+{}", file.name),
        FolderChange::Removed { name, .. } => format!("-{name}"),
        FolderChange::Skipped { name, why } => format!("{name}: {why}"),
    }
}

fn bytes_of(file: &SharedFile) -> Option<String> {
    let chunk = file.file.stored(ChunkIndex(0)).ok()?;
    let mut bytes = vec![0; chunk.length as usize];
    chunk.file.read_exact_at(&mut bytes, chunk.offset).unwrap();
    Some(String::from_utf8(bytes).unwrap())
}

fn manifest_of(bytes: &str) -> Arc<Manifest> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, bytes).unwrap();
    CompleteFile::publish(file.path(), None, &|_| (), &|| false).unwrap().manifest().unwrap()
}

const NONE: [&str; 1] = ["hash:"];

#[test]
fn the_first_scan_hashes_old_files_at_once_and_fresh_ones_a_scan_later() {
    let fixture = Fixture::new();
    fixture.write("old", "old");
    fixture.write("empty", "");
    fixture.write("fresh", "fresh");
    fixture.set_time("fresh", SystemTime::now() + FILE_SETTLED_MIN);
    assert!(fixture.names().is_empty());
    assert_eq!(fixture.rescan(), ["hash:empty,old"]);
    assert_eq!(fixture.hash("fresh"), None);
    assert_eq!(fixture.hash("old").unwrap(), "+old");
    assert_eq!(fixture.hash("old"), None);
    assert_eq!(fixture.rescan(), ["hash:empty,fresh"]);
    assert_eq!(fixture.hash("empty").unwrap(), "+empty");
    assert_eq!(fixture.hash("fresh").unwrap(), "+fresh");
    assert_eq!(fixture.rescan(), NONE);
    assert_eq!(fixture.names(), ["empty", "fresh", "old"]);
    let file = fixture.shared_file("old");
    assert_eq!((file.size, file.chunks, file.id), (3, 1, manifest_of("old").id()));
    assert_eq!(fixture.serves("empty").as_deref(), Some(""));
    assert_eq!(fixture.serves("old").as_deref(), Some("old"));
    assert!(fixture.shared.by_name(&name("none")).is_none());
    assert!(fixture.shared.by_id(FileId([0; 32])).is_none());
    assert_eq!(fixture.shared.path(), fixture.folder.path());
}

#[test]
fn files_that_appear_later_need_two_scans_at_any_age() {
    let fixture = Fixture::scanned_once();
    fixture.write("new", "new");
    assert_eq!(fixture.rescan(), NONE);
    assert_eq!(fixture.hash("new"), None);
    assert_eq!(fixture.rescan(), ["hash:new"]);
    assert_eq!(fixture.rescan(), ["hash:new"]);
    assert_eq!(fixture.hash("new").unwrap(), "+new");
    assert_eq!(fixture.rescan(), NONE);
}

#[test]
fn files_still_being_written_are_not_hashed() {
    let fixture = Fixture::scanned_once();
    for bytes in ["1", "12", "123"] {
        fixture.write("growing", bytes);
        assert_eq!(fixture.rescan(), NONE);
    }
    assert_eq!(fixture.rescan(), ["hash:growing"]);
    // The file grows between scan and hashing.
    fixture.write("growing", "1234");
    assert_eq!(fixture.hash("growing"), None);
    assert_eq!(fixture.rescan(), NONE);
    assert_eq!(fixture.rescan(), ["hash:growing"]);
    // And while it is hashed.
    let path = fixture.path("growing");
    let write = |_| fs::write(&path, "later").unwrap();
    assert!(fixture.shared.hash(&name("growing"), &write, &|| false).unwrap().is_none());
    fixture.settle();
    assert_eq!(fixture.serves("growing").as_deref(), Some("later"));
}

#[test]
fn a_changed_file_is_not_served_and_gets_a_new_id() {
    let fixture = Fixture::new();
    fixture.write("file", "before");
    fixture.settle();
    let before = fixture.shared_file("file");
    fixture.write("file", "behind");
    // No scan has run yet.
    assert!(matches!(before.file.stored(ChunkIndex(0)), Err(StoreError::Changed(_))));
    assert_eq!(fixture.serves("file"), None);
    assert_eq!(fixture.rescan(), ["-file", "hash:"]);
    assert!(fixture.shared.by_id(before.id).is_none() && fixture.names().is_empty());
    assert_eq!(fixture.rescan(), ["hash:file"]);
    assert_eq!(fixture.hash("file").unwrap(), "+file");
    assert_ne!(fixture.shared_file("file").id, before.id);
    assert_eq!(fixture.serves("file").as_deref(), Some("behind"));
    assert!(before.file.stored(ChunkIndex(0)).is_err());
}

#[test]
fn overwritten_bytes_with_a_restored_time_are_detected() {
    let fixture = Fixture::new();
    fixture.write("file", "before");
    fixture.settle();
    let before = fs::metadata(fixture.path("file")).unwrap();
    while fs::metadata(fixture.path("file")).unwrap().ctime_nsec() == before.ctime_nsec() {
        // Old kernels round file times to clock ticks.
        File::options().write(true).open(fixture.path("file")).unwrap().write_all_at(b"behind", 0).unwrap();
        fixture.set_time("file", before.modified().unwrap());
    }
    let after = fs::metadata(fixture.path("file")).unwrap();
    assert_eq!((after.len(), after.modified().unwrap()), (before.len(), before.modified().unwrap()));
    assert_eq!(fixture.serves("file"), None);
    assert_eq!(fixture.rescan(), ["-file", "hash:"]);
}

#[test]
fn a_replaced_file_with_equal_size_and_time_is_detected() {
    let fixture = Fixture::new();
    fixture.write("file", "before");
    fixture.settle();
    let time = fs::metadata(fixture.path("file")).unwrap().modified().unwrap();
    fixture.write(".other", "behind");
    fixture.set_time(".other", time);
    fs::rename(fixture.path(".other"), fixture.path("file")).unwrap();
    assert_eq!(fixture.serves("file"), None);
    assert_eq!(fixture.rescan(), ["-file", "hash:"]);
}

#[test]
fn removed_and_renamed_files_are_unshared_at_the_next_scan() {
    let fixture = Fixture::new();
    fixture.write("a", "a");
    fixture.write("b", "b");
    fixture.settle();
    fs::remove_file(fixture.path("a")).unwrap();
    assert_eq!(fixture.serves("a"), None);
    fs::rename(fixture.path("b"), fixture.path("c")).unwrap();
    assert_eq!(fixture.rescan(), ["-a", "-b", "hash:"]);
    assert!(fixture.shared.files().is_empty());
    assert_eq!(fixture.rescan(), ["hash:c"]);
    // The file is removed before it is hashed.
    fs::remove_file(fixture.path("c")).unwrap();
    assert_eq!(fixture.hash("c"), None);
    assert_eq!(fixture.rescan(), NONE);
}

#[test]
fn hidden_files_and_unfinished_downloads_are_ignored() {
    let fixture = Fixture::new();
    for name in [".hidden", ".big.0123abcd.part", ".big.0123abcd.have", ".big.0123abcd.note", ".shoal-x.tmp"]
    {
        fixture.write(name, "secret");
    }
    fs::create_dir(fixture.path("subfolder")).unwrap();
    fixture.write("subfolder/file", "inside");
    fixture.write("a.note", "a note");
    assert_eq!(fixture.rescan(), ["hash:a.note"]);
    fixture.write("film.part", "another program's");
    assert_eq!(
        fixture.rescan(),
        ["film.part: its name ends in .part, as an unfinished download's does", "hash:a.note,subfolder"]
    );
    assert!(fixture.adopt(".hidden", manifest_of("secret")).is_err());
    assert!(fixture.adopt("film.part", manifest_of("another program's")).is_err());
    assert!(fixture.adopt("subfolder", manifest_of("")).is_err());
}

#[test]
fn only_links_inside_the_folder_are_followed() {
    let (fixture, outside) = (Fixture::new(), tempfile::NamedTempFile::new().unwrap());
    fs::create_dir(fixture.path("subfolder")).unwrap();
    fixture.write("subfolder/file", "deep");
    fixture.write(".hidden", "secret");
    symlink("subfolder/file", fixture.path("a")).unwrap();
    symlink(outside.path(), fixture.path("b")).unwrap();
    symlink(".hidden", fixture.path("c")).unwrap();
    symlink("nowhere", fixture.path("d")).unwrap();
    symlink("subfolder", fixture.path("e")).unwrap();
    symlink("f", fixture.path("f")).unwrap();
    let found = fixture.rescan();
    let outside = fs::canonicalize(outside.path()).unwrap();
    assert_eq!(found[0], format!("b: the target of the link is outside the folder: {}", outside.display()));
    assert_eq!(found[1], "c: the target of the link is hidden: .hidden");
    assert_eq!(found[2], "d: the target of the link does not exist");
    assert_eq!(found[3], "e: a link to a folder");
    assert!(found[4].starts_with("f: "), "{found:?}");
    assert_eq!(found[5..], ["hash:a"]);
    assert_eq!(fixture.hash("a").unwrap(), "+a");
    assert_eq!(fixture.serves("a").as_deref(), Some("deep"));
    assert_eq!(fixture.rescan(), ["hash:subfolder"]);
    // The link now points outside the folder.
    fs::remove_file(fixture.path("a")).unwrap();
    symlink(&outside, fixture.path("a")).unwrap();
    assert_eq!(fixture.serves("a"), None);
    assert_eq!(fixture.rescan()[0], "-a");
    assert!(fixture.adopt("a", manifest_of("")).is_err());
}

#[test]
fn files_of_shareable_files_are_shared_under_their_own_names_if_wanted() {
    let fixture = Fixture::new();
    let below = fixture.path(folder_scan::SHAREABLE_FOLDER);
    fs::create_dir(&below).unwrap();
    fs::create_dir(fixture.path("other")).unwrap();
    fs::write(below.join("inner"), "inner").unwrap();
    fs::write(below.join("both"), "hidden by the file of the folder").unwrap();
    fs::write(below.join("x.part"), "").unwrap();
    fixture.write("both", "both");
    let Fixture { folder, shared, clock } = fixture;
    let fixture = Fixture { folder, shared: shared.with_shareable_files(), clock };
    let diff = fixture.rescan();
    assert_eq!(diff.len(), 3, "{diff:?}");
    assert!(
        diff[0].starts_with("shareable_files/both: ") && diff[0].ends_with("which is shared"),
        "{diff:?}"
    );
    assert!(diff[1].starts_with("shareable_files/x.part: its name ends in .part"), "{diff:?}");
    fixture.rescan();
    assert_eq!(
        (fixture.hash("inner").as_deref(), fixture.hash("both").as_deref()),
        (Some("+inner"), Some("+both"))
    );
    assert_eq!(fixture.serves("inner").as_deref(), Some("inner"));
    assert_eq!(fixture.serves("both").as_deref(), Some("both"));
    assert_eq!(fixture.shared.count_files(), 5);
    assert_eq!(fixture.hash("other").as_deref(), Some("+other"));
    assert_eq!(fixture.shared.download_folder(), below);
    // A finished download is shared where it is.
    fs::write(below.join("got"), "got").unwrap();
    assert_eq!(fixture.adopt("got", manifest_of("got")).unwrap(), ["+got"]);
    assert_eq!(fixture.shared.path_of(&name("got")), below.join("got"));
    assert_eq!(fixture.rescan(), ["hash:"]);
    // A file that moves out of the sub-folder is served from its new path.
    fs::rename(below.join("inner"), fixture.path("inner")).unwrap();
    assert_eq!(fixture.rescan().first().map(String::as_str), Some("-inner"));
    fixture.rescan();
    assert_eq!(fixture.hash("inner").as_deref(), Some("+inner"));
    assert_eq!(fixture.serves("inner").as_deref(), Some("inner"));
}

#[test]
fn a_link_retargeted_after_the_scan_is_not_hashed() {
    let (fixture, outside) = (Fixture::new(), tempfile::NamedTempFile::new().unwrap());
    fixture.write("file", "inside");
    symlink("file", fixture.path("link")).unwrap();
    assert_eq!(fixture.rescan(), ["hash:file,link"]);
    fs::remove_file(fixture.path("link")).unwrap();
    symlink(outside.path(), fixture.path("link")).unwrap();
    assert_eq!(fixture.hash("link"), None);
}

#[test]
fn pipes_and_invalid_names_are_skipped_once_with_a_reason() {
    let fixture = Fixture::new();
    let mode = Mode::from_bits_truncate(0o600);
    rustix::fs::mknodat(CWD, fixture.path("pipe"), FileType::Fifo, mode, 0).unwrap();
    fixture.write("a\u{202e}b", "x");
    let odd = fixture.folder.path().join(OsStr::from_bytes(b"z\xff"));
    fs::write(&odd, "x").unwrap();
    let skipped = [
        "a\u{202e}b: the name \"a\\u{202e}b\" contains '\\u{202e}'",
        "pipe: not a regular file or folder",
        "z\u{fffd}: the name is not UTF-8",
        "hash:",
    ];
    assert_eq!(fixture.rescan(), skipped);
    assert_eq!(fixture.rescan(), NONE);
    fs::remove_file(fixture.path("pipe")).unwrap();
    symlink("nowhere", fixture.path("pipe")).unwrap();
    assert_eq!(fixture.rescan(), ["pipe: the target of the link does not exist", "hash:"]);
    // A name that was absent in between is reported again.
    fs::remove_file(&odd).unwrap();
    assert_eq!(fixture.rescan(), NONE);
    fs::write(&odd, "x").unwrap();
    assert_eq!(fixture.rescan(), [skipped[2], "hash:"]);
    assert!(fixture.shared.files().is_empty());
}

#[test]
fn equal_content_under_two_names_has_one_id_until_both_are_removed() {
    let fixture = Fixture::new();
    ["a", "b", "c"].into_iter().for_each(|name| fixture.write(name, "same"));
    fixture.settle();
    let id = fixture.shared_file("a").id;
    assert_eq!(fixture.names(), ["a", "b", "c"]);
    assert_eq!(fixture.shared.by_id(id).unwrap().name, name("a"));
    // Before the next scan, the other name with the same content is returned.
    fs::remove_file(fixture.path("a")).unwrap();
    assert!(bytes_of(&fixture.shared.by_id(id).unwrap()).is_some());
    assert_eq!(fixture.rescan(), ["-a", "hash:"]);
    assert_eq!(fixture.shared.by_id(id).unwrap().name, name("b"));
    fixture.write("b", "else");
    fs::remove_file(fixture.path("c")).unwrap();
    assert_eq!(fixture.shared.by_id(id).unwrap().name, name("b"));
    assert_eq!(fixture.rescan(), ["-b", "-c", "hash:"]);
    assert!(fixture.shared.by_id(id).is_none());
}

#[test]
fn a_file_that_cannot_be_hashed_is_reported_once_until_it_changes() {
    let fixture = Fixture::new();
    // Root can read every file, and the tests may run as root: set the state after a failed hash
    // directly.
    fixture.write("file", "");
    assert_eq!(fixture.rescan(), ["hash:file"]);
    let identity = lock(&fixture.shared.state).settled(&name("file")).unwrap();
    let why = "cannot read it".to_owned();
    lock(&fixture.shared.state).failed(&name("file"), identity, why, Instant::now());
    assert_eq!(fixture.rescan(), ["file: cannot read it", "hash:"]);
    assert_eq!(fixture.rescan(), NONE);
    assert_eq!(fixture.hash("file"), None);
    fixture.write("file", "readable");
    assert_eq!(fixture.rescan(), NONE);
    assert_eq!(fixture.rescan(), ["hash:file"]);
}

#[test]
fn a_file_with_a_passing_read_error_is_retried_with_growing_pauses_and_reported_once() {
    let fixture = Fixture::new();
    fixture.write("file", "x");
    assert_eq!(fixture.rescan(), ["hash:file"]);
    let mut now = Instant::now();
    for pause in [limits::FILE_RETRY_MIN, 2 * limits::FILE_RETRY_MIN, 4 * limits::FILE_RETRY_MIN] {
        let identity = lock(&fixture.shared.state).settled(&name("file")).unwrap();
        let why = "cannot read file: Input/output error".to_owned();
        lock(&fixture.shared.state).failed(&name("file"), identity, why, now);
        let to_hash = |now| {
            let diff = fixture.shared.rescan_at(now).unwrap();
            (diff.to_hash.len(), diff.changes.len())
        };
        let reports = usize::from(pause == limits::FILE_RETRY_MIN);
        assert_eq!(to_hash(now + pause - Duration::from_millis(1)), (0, reports));
        now += pause;
        assert_eq!(to_hash(now), (1, 0));
    }
    assert_eq!(fixture.hash("file").as_deref(), Some("+file"));
    for _ in 0..40 {
        let identity = fixture.shared.state.lock().unwrap().shared[&name("file")].1;
        lock(&fixture.shared.state).failed(&name("file"), identity, String::new(), now);
    }
    let candidate = &lock(&fixture.shared.state).candidates[&name("file")].readiness;
    let Readiness::Unusable { retry, .. } = candidate else { panic!() };
    assert_eq!(*retry, now + limits::FILE_RETRY_MAX);
}

#[test]
fn a_file_without_read_permission_is_skipped_until_it_is_granted() {
    use std::os::unix::fs::PermissionsExt as _;
    let fixture = Fixture::new();
    fixture.write("file", "x");
    let allow = |mode| fs::set_permissions(fixture.path("file"), fs::Permissions::from_mode(mode)).unwrap();
    allow(0);
    if File::open(fixture.path("file")).is_ok() {
        return; // Root may read anything.
    }
    assert_eq!(fixture.rescan(), ["hash:file"]);
    assert!(fixture.hash("file").unwrap().starts_with("file: cannot open "));
    assert_eq!(fixture.rescan(), NONE);
    allow(0o600);
    assert_eq!(fixture.rescan(), NONE);
    assert_eq!(fixture.rescan(), ["hash:file"]);
}

#[test]
fn hashing_reports_progress_and_a_stopped_file_is_returned_again() {
    let fixture = Fixture::new();
    fixture.write("file", "12345");
    assert_eq!(fixture.rescan(), ["hash:file"]);
    let stopped = fixture.shared.hash(&name("file"), &|_| (), &|| true);
    assert!(matches!(stopped, Err(StoreError::Stopped)));
    assert_eq!(fixture.rescan(), ["hash:file"]);
    let hashed = AtomicU64::new(0);
    let counted = |bytes| _ = hashed.fetch_add(bytes, Relaxed);
    assert!(fixture.shared.hash(&name("file"), &counted, &|| false).unwrap().is_some());
    assert_eq!(hashed.into_inner(), 5);
}

#[test]
fn an_adopted_download_is_shared_at_once() {
    let fixture = Fixture::scanned_once();
    fixture.write("file", "before");
    fixture.settle();
    let before = fixture.shared_file("file").id;
    fixture.write(".file.part", "loaded");
    fs::rename(fixture.path(".file.part"), fixture.path("file")).unwrap();
    assert_eq!(fixture.adopt("file", manifest_of("loaded")).unwrap(), ["-file", "+file"]);
    assert_eq!(fixture.adopt("file", manifest_of("loaded")).unwrap(), [""; 0]);
    assert_eq!(fixture.rescan(), NONE);
    assert!(fixture.shared.by_id(before).is_none());
    assert_eq!(fixture.shared_file("file").id, manifest_of("loaded").id());
    assert_eq!(fixture.serves("file").as_deref(), Some("loaded"));
    // A scan found the file first, and a caller is about to hash it.
    fixture.write("other", "other");
    fixture.rescan();
    assert_eq!(fixture.rescan(), ["hash:other"]);
    assert_eq!(fixture.adopt("other", manifest_of("other")).unwrap(), ["+other"]);
    assert_eq!(fixture.hash("other"), None);
    assert_eq!(fixture.rescan(), NONE);
    fixture.write("other", "changed");
    assert_eq!(fixture.rescan(), ["-other", "hash:"]);
    assert!(matches!(fixture.adopt("other", manifest_of("size")), Err(StoreError::Changed(_))));
    assert!(fixture.adopt("none", manifest_of("x")).unwrap_err().to_string().starts_with("cannot share "));
}

#[test]
fn a_download_in_the_folder_is_ignored_until_it_is_adopted() {
    use crate::storage::{ChunkSink as _, PartFile};
    let (fixture, manifest) = (Fixture::scanned_once(), manifest_of("loaded"));
    let part = PartFile::open(&fixture.path("file"), Arc::clone(&manifest)).unwrap();
    part.store(ChunkIndex(0), crate::content::Digest([0; 32]), b"loaded").unwrap();
    part.note().unwrap();
    part.make_durable().unwrap();
    assert!(fixture.path("file.part").exists());
    assert_eq!((fixture.rescan(), fixture.rescan()), (vec!["hash:".to_owned()], vec!["hash:".to_owned()]));
    part.finish(false, true).unwrap();
    assert_eq!(fixture.adopt("file", manifest).unwrap(), ["+file"]);
    // The download's later syncs of its file do not count as a change.
    part.make_durable().unwrap();
    drop(part);
    assert_eq!(fixture.rescan(), NONE);
    assert_eq!(fixture.serves("file").as_deref(), Some("loaded"));
}

#[test]
fn names_equal_on_case_insensitive_systems_are_found() {
    let fixture = Fixture::new();
    for file in ["\u{c9}t\u{e9}", ".Hidden", "b", "B"] {
        fixture.write(file, "x");
    }
    fs::create_dir(fixture.path("Sub")).unwrap();
    fs::write(fixture.folder.path().join(OsStr::from_bytes(b"\xff")), "x").unwrap();
    let collides = |text: &str| fixture.shared.collides(&name(text)).unwrap();
    assert_eq!(collides("e\u{301}te\u{301}").as_deref(), Some("\u{c9}t\u{e9}"));
    assert_eq!(collides("\u{c9}t\u{e9}"), None);
    assert_eq!(collides(".hidden").as_deref(), Some(".Hidden"));
    assert_eq!(collides("sub").as_deref(), Some("Sub"));
    assert_eq!(collides("b").as_deref(), Some("B"));
    assert_eq!(collides("c"), None);
}

#[test]
fn an_unreadable_folder_keeps_the_known_files() {
    let fixture = Fixture::new();
    fixture.write("file", "x");
    fixture.settle();
    let away = fixture.folder.path().with_extension("away");
    fs::rename(fixture.folder.path(), &away).unwrap();
    assert!(matches!(fixture.shared.rescan(), Err(StoreError::Io { .. })));
    assert!(fixture.shared.collides(&name("x")).is_err());
    assert!(fixture.adopt("file", manifest_of("x")).is_err());
    assert_eq!((fixture.names(), fixture.serves("file")), (vec!["file".to_owned()], None));
    // The folder comes back, as when a disk is mounted again.
    fs::rename(&away, fixture.folder.path()).unwrap();
    assert_eq!(fixture.rescan(), NONE);
    assert_eq!(fixture.serves("file").as_deref(), Some("x"));
    let file = fixture.path("file");
    assert!(SharedFolder::open(&file).is_err() && SharedFolder::open(&fixture.path("none")).is_err());
}

#[test]
fn parallel_scans_hashes_and_adoptions_lose_no_file() {
    let fixture = Fixture::scanned_once();
    let names: Vec<_> = (0..50).map(|number| format!("file{number:02}")).collect();
    let (shared, folder, manifest) = (&fixture.shared, fixture.folder.path(), manifest_of("same"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for name in &names {
                let (part, whole) = (folder.join(format!(".{name}.part")), folder.join(name));
                fs::write(&part, "same").unwrap();
                fs::rename(part, whole).unwrap();
                shared.adopt(FileName::new(name).unwrap(), Arc::clone(&manifest)).unwrap();
            }
        });
        for _ in 0..200 {
            let rescan = shared.rescan().unwrap();
            assert!(rescan.changes.is_empty(), "{:?}", rescan.changes);
            for name in rescan.to_hash {
                shared.hash(&name, &|_| (), &|| false).unwrap();
            }
        }
    });
    fixture.settle();
    assert_eq!(fixture.names(), names);
}

#[test]
fn a_file_found_to_be_corrupt_is_hashed_again_and_gets_a_new_id() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), "written through a memory map").unwrap();
    let shared = SharedFolder::open(folder.path()).unwrap();
    let name = FileName::new("a").unwrap();
    // The folder has the file under a digest that its bytes do not have.
    let layout = Layout::even(28, None).unwrap();
    let other = Manifest::new(layout, vec![Digest::of(b"as it was before")]).unwrap();
    let id = other.id();
    shared.adopt(name.clone(), Arc::new(other)).unwrap();
    assert!(shared.rescan().unwrap().changes.is_empty());
    assert!(!shared.by_id(id).unwrap().file.check_reported(ChunkIndex(0)));
    let deletion = shared.delete(&name, id, &|| true, &|| ()).unwrap();
    assert_eq!(deletion, Deletion::Changed, "the hashed content exists no more");
    let diff = shared.rescan().unwrap();
    assert!(matches!(&diff.changes[..], [FolderChange::Removed { .. }]), "{:?}", diff.changes);
    assert_eq!(shared.rescan().unwrap().to_hash, std::slice::from_ref(&name));
    let Ok(Some(FolderChange::Added(file))) = shared.hash(&name, &|_| (), &|| false) else { panic!() };
    assert!(file.id != id && file.file.check_reported(ChunkIndex(0)));
}

/// Writes a folder with two files into the shared folder.
fn write_folder(fixture: &Fixture, name: &str) {
    fs::create_dir_all(fixture.path(name).join("sub")).unwrap();
    fs::write(fixture.path(name).join("one"), "one").unwrap();
    fs::write(fixture.path(name).join("sub/two"), "two").unwrap();
}

#[test]
fn a_sub_folder_is_one_item_and_follows_each_change_in_it() {
    let fixture = Fixture::scanned_once();
    write_folder(&fixture, "data");
    assert_eq!(fixture.rescan(), ["hash:"]);
    assert_eq!(fixture.rescan(), ["hash:data"]);
    assert_eq!(fixture.hash("data").as_deref(), Some("+data"));
    assert_eq!((fixture.shared.count_files(), fixture.shared.size_of(&name("data"))), (1, 6));
    let first = fixture.shared_file("data");
    assert!(matches!(*first.file, SharedContent::Folder(_)) && first.file.manifest().unwrap().is_tree());
    assert_eq!(fixture.rescan(), ["hash:"]);
    let changes: [&dyn Fn(&Path); 5] = [
        &|data| fs::write(data.join("sub/two"), "2").unwrap(),
        &|data| fs::write(data.join("three"), "").unwrap(),
        &|data| fs::remove_file(data.join("three")).unwrap(),
        &|data| symlink("one", data.join("link")).unwrap(),
        &|data| fs::set_permissions(data.join("sub"), fs::Permissions::from_mode(0o700)).unwrap(),
    ];
    for change in changes {
        change(&fixture.path("data"));
        assert_eq!(fixture.rescan(), ["-data", "hash:"]);
        assert_eq!(fixture.rescan(), ["hash:data"]);
        assert_eq!(fixture.hash("data").as_deref(), Some("+data"));
    }
    assert_ne!(fixture.shared_file("data").id, first.id);
    fs::remove_dir_all(fixture.path("data")).unwrap();
    assert_eq!(fixture.rescan(), ["-data", "hash:"]);
}

#[test]
fn a_sub_folder_that_changes_before_it_is_hashed_or_has_a_fifo_is_not_shared() {
    let fixture = Fixture::scanned_once();
    write_folder(&fixture, "data");
    fixture.rescan();
    fixture.rescan();
    fs::write(fixture.path("data/new"), "").unwrap();
    assert_eq!(fixture.hash("data"), None);
    let fifo = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::from_bits_truncate(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, fixture.path("data/fifo"), fifo, mode, 0).unwrap();
    fixture.rescan();
    fixture.rescan();
    let why = fixture.hash("data").unwrap();
    assert!(why.starts_with("data: 1 entry of this folder cannot be sent, for example fifo: "), "{why}");
    fs::remove_file(fixture.path("data/fifo")).unwrap();
    fixture.settle();
    assert_eq!(fixture.names(), ["data"]);
}

#[test]
fn the_md5_of_a_folder_is_that_of_its_chunks() {
    let fixture = Fixture::scanned_once();
    write_folder(&fixture, "data");
    fixture.settle();
    let folder = fixture.shared_file("data");
    let md5 = folder.file.md5(&|_| (), &|| false).unwrap();
    let mut expected = crate::content::md5::Md5Hasher::new();
    for index in folder.file.layout().indices() {
        let chunk = folder.file.stored(index).unwrap();
        let mut bytes = vec![0; chunk.length as usize];
        chunk.file.read_exact_at(&mut bytes, chunk.offset).unwrap();
        expected.update(&bytes);
    }
    assert_eq!(md5, expected.finish());
    assert!(matches!(folder.file.md5(&|_| (), &|| true), Err(StoreError::Stopped)));
}
