//! Tests of the executor with real files, a real catalogue and real serving volunteers.

mod deletions;
mod proofs;
mod recalls;

use super::*;
use crate::content::{Bitfield, ChunkIndex, FileName, Md5};
use crate::net::{Listener, Timeouts};
use crate::protocol::tokens::VolunteerKey;
use crate::protocol::volunteer::CopyFailure;
use crate::report::Fault;
use crate::storage::{CompleteFile, Progress, StoreError, StoredChunk};
use crate::swarm::keeping::{
    Change, ExecutorTask, Holder, OffloadResult, OwnCopy, Verdict, VolunteerHistory, VolunteerNumber,
    VolunteerRecord,
};
use crate::sync::lock;
use crate::tracker::store::Contents;
use crate::tracker::store::RedbCatalogue;
use crate::tracker::tasks::{TaskSender, task_channel};
use crate::upload::server::{ServeOptions, serve};
use crossbeam_channel::{Receiver, bounded};
use std::fs::{self, File, FileTimes};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;

/// Longer than any successful operation.
const PATIENCE: Duration = Duration::from_secs(60);
/// Size in bytes of a file of three chunks.
const SIZE: usize = 150_000;
const V: VolunteerNumber = VolunteerNumber(0);

/// Records the titles of progress reports.
#[derive(Default)]
struct Titles(Arc<Mutex<Vec<String>>>);

impl Watch for Titles {
    fn begin(&self, title: &str, _: u64, _: u64) {
        lock(&self.0).push(title.to_owned());
    }
    fn advance(&self, _: u64) {}
    fn note(&self, _: &str) {}
    fn end(&self) {}
    fn separate(&self) -> Arc<dyn Watch> {
        Arc::new(Self(self.0.clone()))
    }
}

struct Running {
    offers: Offers,
    catalogue: Arc<dyn Catalogue>,
    titles: Arc<Titles>,
    tasks: TaskSender,
    outcomes: Receiver<TaskOutcome>,
    failed: Receiver<RoleError>,
    executor: Executor,
    threads: Threads,
    shutdown: Shutdown,
}

impl Running {
    fn start(root: &Path) -> Self {
        Self::start_with(root, Arc::new(RedbCatalogue::open(&root.join("state")).unwrap()))
    }

    fn start_with(root: &Path, catalogue: Arc<dyn Catalogue>) -> Self {
        Self::start_lending(root, catalogue, 1 << 30)
    }

    /// Starts an executor with a chunk store for at most `offered` bytes.
    fn start_lending(root: &Path, catalogue: Arc<dyn Catalogue>, offered: u64) -> Self {
        let files = root.join("files");
        fs::create_dir_all(&files).unwrap();
        let ((tasks, task_receiver), (outcome_sender, outcomes)) = (task_channel(), unbounded());
        let (failures, failed) = bounded(1);
        let (offers, titles) = (Offers::new(), Arc::new(Titles::default()));
        let (threads, shutdown) = (Threads::new(), Shutdown::new());
        let config = ExecutorConfig {
            files: Some(files.clone()),
            log_file: files.join("logs.log"),
            catalogue: catalogue.clone(),
            store: ReplicaStore::open(&root.join("state/chunks"), offered).unwrap(),
            offers: offers.clone(),
            watch: titles.clone(),
            timeouts: Timeouts::default(),
        };
        let channels = TaskChannels { tasks: task_receiver, outcomes: outcome_sender, failures };
        let executor = Executor::start(config, channels, &threads, &shutdown).unwrap();
        Self { offers, catalogue, titles, tasks, outcomes, failed, executor, threads, shutdown }
    }

    fn next_outcome(&self) -> TaskOutcome {
        self.outcomes.recv_timeout(PATIENCE).expect("an outcome before the timeout")
    }

    fn send(&self, task: ExecutorTask) {
        self.tasks.announce(&task);
        self.tasks.queue(task);
    }

    fn execute(&self, task: ExecutorTask) -> TaskOutcome {
        self.send(task);
        self.next_outcome()
    }

    /// Waits for the end of the first scan. Returns all outcomes before it, and the published files.
    fn first_scan(&self) -> (Vec<TaskOutcome>, Vec<KeptFile>) {
        let all: Vec<_> = std::iter::from_fn(|| {
            Some(self.next_outcome()).filter(|outcome| *outcome != TaskOutcome::ScanComplete)
        })
        .collect();
        let published = all.iter().filter_map(|outcome| match outcome {
            TaskOutcome::Published { kept, .. } => Some(kept.clone()),
            _ => None,
        });
        (all.clone(), published.collect())
    }

    fn published(&self) -> KeptFile {
        match self.next_outcome() {
            TaskOutcome::Published { kept, .. } => kept,
            other => panic!("{other:?}"),
        }
    }

    fn held(&self, id: FileId) -> Option<u32> {
        self.offers.get(id).map(|source| source.progress().held())
    }

    fn inner(&self) -> &Inner {
        &self.executor.inner
    }

    fn stop(self) -> Vec<TaskOutcome> {
        let began = Instant::now();
        self.shutdown.trigger();
        self.threads.join();
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert!(self.failed.try_recv().is_err());
        self.outcomes.try_iter().collect()
    }
}

/// Random bytes, different for each number.
fn bytes(number: u8) -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    fastrand::Rng::with_seed(number.into()).fill(&mut bytes);
    bytes
}

/// Writes a file into the published folder with an old modification time, so that it counts as
/// settled.
fn put(root: &Path, name: &str, bytes: &[u8]) {
    let folder = root.join("files");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    age(&path);
}

fn age(path: &Path) {
    let old = FileTimes::new().set_modified(SystemTime::now() - Duration::from_secs(99));
    File::options().append(true).open(path).unwrap().set_times(old).unwrap();
}

fn name(text: &str) -> FileName {
    FileName::new(text).unwrap()
}

/// A chunk source that serves wrong bytes.
struct Lying(Arc<Manifest>, Progress, Arc<File>);

impl ChunkSource for Lying {
    fn manifest(&self) -> Option<Arc<Manifest>> {
        Some(self.0.clone())
    }
    fn progress(&self) -> &Progress {
        &self.1
    }
    fn stored(&self, index: ChunkIndex) -> Result<StoredChunk, StoreError> {
        let span = self.0.layout().span(index).ok_or(StoreError::Missing(index))?;
        Ok(StoredChunk { file: self.2.clone(), offset: span.offset, length: span.length })
    }
}

/// Three serving volunteers: one with the file, one with wrong bytes, one without chunks.
struct Volunteers {
    honest: SocketAddr,
    lying: SocketAddr,
    empty: SocketAddr,
    threads: Threads,
    shutdown: Shutdown,
    _folder: TempDir,
}

impl Volunteers {
    fn new(number: u8) -> Self {
        let folder = TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("right"), bytes(number)).unwrap();
        fs::write(path("wrong"), bytes(number + 100)).unwrap();
        let whole = Arc::new(CompleteFile::publish(&path("right"), None, &|_| (), &|| false).unwrap());
        let (id, manifest) = (whole.id(), whole.manifest().unwrap());
        let progress = Progress::new(Bitfield::all(manifest.layout().count()));
        let wrong = Arc::new(File::open(path("wrong")).unwrap());
        let (threads, shutdown) = (Threads::new(), Shutdown::new());
        let serving = |source: Option<Arc<dyn ChunkSource>>| {
            let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let (address, offers) = (listener.address(), Offers::new());
            source.into_iter().for_each(|source| offers.put(id, source));
            serve(listener, offers, &ServeOptions::default(), None, &threads, &shutdown).unwrap();
            address
        };
        let (honest, empty) = (serving(Some(whole)), serving(None));
        let lying = serving(Some(Arc::new(Lying(manifest, progress, wrong))));
        Self { honest, lying, empty, threads, shutdown, _folder: folder }
    }
}

impl Drop for Volunteers {
    fn drop(&mut self) {
        self.shutdown.trigger();
        self.threads.join();
    }
}

#[test]
fn files_of_the_folder_are_published_and_withdrawn_when_they_change() {
    let root = TempDir::new().unwrap();
    put(root.path(), "a", &bytes(1));
    put(root.path(), "logs.log", b"not this");
    let running = Running::start(root.path());
    let (_, published) = running.first_scan();
    let [kept] = &published[..] else { panic!("{published:?}") };
    assert_eq!(kept.file.name, name("a"));
    let mut md5 = crate::content::md5::Md5Hasher::new();
    md5.update(&bytes(1));
    assert_eq!(kept.md5, md5.finish());
    let id = kept.file.id;
    assert_eq!(running.catalogue.load().unwrap().files[0].kept, *kept);
    assert_eq!((running.held(id), running.offers.list().len()), (Some(3), 1));
    // A second copy adds a name. When the first is removed, the name of the second becomes the file's name.
    put(root.path(), "b", &bytes(1));
    assert_eq!(running.published(), *kept);
    assert_eq!(running.next_outcome(), TaskOutcome::Named(id, name("b"), true));
    assert_eq!(running.offers.list().len(), 2);
    fs::remove_file(root.path().join("files/a")).unwrap();
    assert_eq!(running.next_outcome(), TaskOutcome::Named(id, name("a"), false));
    let renamed = running.published();
    assert_eq!((renamed.file.name.clone(), renamed.file.id), (name("b"), id));
    assert_eq!(running.catalogue.load().unwrap().files[0].kept.file.name, name("b"));
    put(root.path(), "b", &bytes(2));
    assert_eq!(running.next_outcome(), TaskOutcome::Withdrawn(id));
    let second = running.published();
    assert_ne!(second.file.id, id);
    assert_eq!(running.held(id), Some(0), "the manifest is still served");
    assert!(running.offers.get(id).unwrap().manifest().is_some());
    fs::remove_file(root.path().join("files/b")).unwrap();
    assert_eq!(running.next_outcome(), TaskOutcome::Withdrawn(second.file.id));
    assert_eq!(running.stop(), []);
    // Files of the catalogue are served at once after a restart, and their MD5 is not computed again.
    put(root.path(), "c", &bytes(2));
    let running = Running::start(root.path());
    assert!(running.offers.get(id).unwrap().manifest().is_some());
    let (_, published) = running.first_scan();
    assert_eq!((published.len(), published[0].file.name.clone()), (1, name("c")));
    assert_eq!(published[0].md5, second.md5);
    assert_eq!(*lock(&running.titles.0), ["hashing c"]);
    running.stop();
}

#[test]
fn a_file_of_the_catalogue_keeps_its_chunk_size_and_id() {
    let root = TempDir::new().unwrap();
    put(root.path(), "a", &bytes(1));
    // As a version with another default chunk size published it.
    let path = root.path().join("files/a");
    let earlier = CompleteFile::publish(&path, Some(16 << 10), &|_| (), &|| false).unwrap();
    let (id, manifest) = (earlier.id(), earlier.manifest().unwrap());
    let chunks = manifest.layout().count();
    let file = crate::protocol::tracker::FileSummary { id, name: name("a"), size: SIZE as u64, chunks };
    let kept = KeptFile { file, md5: Md5([1; 16]) };
    let catalogue = RedbCatalogue::open(&root.path().join("state")).unwrap();
    catalogue.add_file(&kept, &manifest).unwrap();
    let running = Running::start_with(root.path(), Arc::new(catalogue));
    let (outcomes, published) = running.first_scan();
    assert_eq!((published, outcomes.len()), (vec![kept.clone()], 1), "{outcomes:?}");
    assert_eq!(running.held(id), Some(chunks));
    // A changed file is a new one, with the default chunk size.
    put(root.path(), "a", &bytes(2)[1..]);
    assert_eq!(running.next_outcome(), TaskOutcome::Withdrawn(id));
    assert_eq!(running.published().file.chunks, 3);
    running.stop();
}

#[test]
fn records_are_acknowledged_in_order_and_after_they_are_durable() {
    let root = TempDir::new().unwrap();
    let running = Running::start(root.path());
    running.first_scan();
    let record = |number: u32| VolunteerRecord {
        number: VolunteerNumber(number),
        key: VolunteerKey(number.into()),
        name: crate::content::PeerName::new("v").unwrap(),
        address: "127.0.0.1:7".parse().unwrap(),
        offered: 1,
        history: VolunteerHistory::default(),
    };
    for number in 0..50 {
        let changes = vec![Change::Volunteer(record(number as u32))];
        running.send(ExecutorTask::Record { number, changes });
    }
    for number in 0..50 {
        assert_eq!(running.next_outcome(), TaskOutcome::Recorded(number));
        assert!(running.catalogue.load().unwrap().volunteers.len() > number as usize);
    }
    running.stop();
}

/// A catalogue on a full disk.
struct Full;

impl Catalogue for Full {
    fn load(&self) -> Result<Contents, CatalogueError> {
        Ok(Contents::default())
    }
    fn add_file(&self, _: &KeptFile, _: &Manifest) -> Result<(), CatalogueError> {
        self.commit(&[])
    }
    fn manifest(&self, _: FileId) -> Result<Option<Arc<Manifest>>, CatalogueError> {
        let source = io::Error::other("the disk is on fire");
        Err(StoreError::Io { action: "read".into(), path: "catalogue.redb".into(), source }.into())
    }
    fn commit(&self, _: &[Change]) -> Result<(), CatalogueError> {
        Err(StoreError::Full { path: "catalogue.redb".into(), needed: 9, available: 1 }.into())
    }
}

#[test]
fn failed_catalogue_ends_the_tracker_and_acknowledges_nothing() {
    let root = TempDir::new().unwrap();
    let running = Running::start_with(root.path(), Arc::new(Full));
    running.first_scan();
    for number in 0..3 {
        running.send(ExecutorTask::Record { number, changes: Vec::new() });
    }
    let error = running.failed.recv_timeout(PATIENCE).unwrap();
    assert_eq!(error.fault, Fault::DiskFull);
    put(root.path(), "a", b"new");
    let error = running.failed.recv_timeout(PATIENCE).unwrap();
    assert_eq!(error.fault, Fault::DiskFull);
    let (file, index) = (FileId([1; 32]), ChunkIndex(0));
    let holder = Holder { volunteer: V, key: VolunteerKey(1), address: "127.0.0.1:1".parse().unwrap() };
    let prove = ExecutorTask::ProveCopies { number: 1, file, index, holders: vec![holder] };
    let (own, verdicts) = (OwnCopy::Absent, vec![(V, Verdict::CannotTell)]);
    assert_eq!(running.execute(prove), TaskOutcome::Proved { number: 1, file, index, own, verdicts });
    assert_eq!(running.failed.recv_timeout(PATIENCE).unwrap().fault, Fault::FileAccess);
    assert!(running.offers.list().is_empty());
    assert_eq!(running.stop(), []);
}

#[test]
fn fetched_chunk_is_served_verified_after_a_restart_and_dropped_on_order() {
    let root = TempDir::new().unwrap();
    put(root.path(), "a", &bytes(1));
    let running = Running::start(root.path());
    let (_, published) = running.first_scan();
    let (kept, id) = (published[0].clone(), published[0].file.id);
    fs::remove_file(root.path().join("files/a")).unwrap();
    assert_eq!(running.next_outcome(), TaskOutcome::Withdrawn(id));
    let volunteers = Volunteers::new(1);
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let fetch = |index, from| ExecutorTask::Download { kept: kept.clone(), index: ChunkIndex(index), from };
    for (from, why) in [
        (volunteers.lying, CopyFailure::Corrupt),
        (volunteers.empty, CopyFailure::Unreachable),
        (dead, CopyFailure::Unreachable),
    ] {
        assert_eq!(running.execute(fetch(0, from)), TaskOutcome::NotStored(id, ChunkIndex(0), why));
    }
    let no_such_chunk = running.execute(fetch(9, volunteers.honest));
    assert_eq!(no_such_chunk, TaskOutcome::NotStored(id, ChunkIndex(9), CopyFailure::Other));
    for index in [2, 0] {
        assert_eq!(
            running.execute(fetch(index, volunteers.honest)),
            TaskOutcome::Stored(id, ChunkIndex(index))
        );
    }
    // A stored chunk is not fetched again.
    assert_eq!(running.execute(fetch(0, dead)), TaskOutcome::Stored(id, ChunkIndex(0)));
    assert_eq!(running.held(id), Some(2));
    assert!(running.offers.get(id).unwrap().stored(ChunkIndex(2)).is_ok());
    assert_eq!(running.stop(), []);
    // A chunk is damaged while the executor is not running.
    fs::write(root.path().join(format!("state/chunks/{id}/2")), &bytes(9)[..SIZE - 2 * 65_536]).unwrap();
    let running = Running::start(root.path());
    let mut outcomes = [running.next_outcome(), running.next_outcome(), running.next_outcome()];
    outcomes.sort_by_key(|outcome| format!("{outcome:?}"));
    let damaged = TaskOutcome::Spoiled(id, vec![ChunkIndex(2)]);
    assert_eq!(outcomes, [TaskOutcome::ScanComplete, damaged, TaskOutcome::Stored(id, ChunkIndex(0))]);
    let gone = running.execute(ExecutorTask::Drop { file: id, chunks: vec![ChunkIndex(0)], permit: 0 });
    assert_eq!(gone, TaskOutcome::Dropped(id, vec![ChunkIndex(0)]));
    assert_eq!(running.held(id), Some(0));
    assert!(running.offers.get(id).unwrap().manifest().is_some());
    assert_eq!(running.execute(fetch(1, volunteers.honest)), TaskOutcome::Stored(id, ChunkIndex(1)));
    assert_eq!(running.held(id), Some(1));
    running.stop();
}

#[test]
fn only_an_unchanged_file_is_offloaded_and_it_is_published_again_when_put_back() {
    let root = TempDir::new().unwrap();
    for (number, file) in [(1, "a"), (2, "changed"), (3, "twice"), (3, "again")] {
        put(root.path(), file, &bytes(number));
    }
    let running = Running::start(root.path());
    let (_, published) = running.first_scan();
    let by_name = |text: &str| published.iter().find(|kept| kept.file.name == name(text)).unwrap().clone();
    let path = |name: &str| root.path().join("files").join(name);
    // The file is overwritten before the deletion.
    fs::write(path("changed"), "precious").unwrap();
    let changed = by_name("changed");
    let outcomes =
        [running.execute(ExecutorTask::Offload { kept: changed.clone(), permit: 0 }), running.next_outcome()];
    assert!(
        outcomes.contains(&TaskOutcome::Offloaded(changed.file.id, OffloadResult::Failed)),
        "{outcomes:?}"
    );
    assert!(outcomes.contains(&TaskOutcome::Withdrawn(changed.file.id)), "{outcomes:?}");
    assert_eq!(fs::read(path("changed")).unwrap(), b"precious");
    running.published();
    let twice = published.iter().find(|kept| kept.file.name != name("a") && kept.md5 != changed.md5).unwrap();
    assert_eq!(
        running.execute(ExecutorTask::Offload { kept: twice.clone(), permit: 0 }),
        TaskOutcome::Offloaded(twice.file.id, OffloadResult::Failed)
    );
    assert!(path("twice").exists() && path("again").exists());
    let a = by_name("a");
    assert_eq!(
        running.execute(ExecutorTask::Offload { kept: a.clone(), permit: 0 }),
        TaskOutcome::Offloaded(a.file.id, OffloadResult::Deleted)
    );
    assert!(!path("a").exists());
    assert_eq!(running.held(a.file.id), Some(0));
    assert!(running.offers.get(a.file.id).unwrap().manifest().is_some());
    assert_eq!(
        running.execute(ExecutorTask::Offload { kept: a.clone(), permit: 0 }),
        TaskOutcome::Offloaded(a.file.id, OffloadResult::Failed)
    );
    // The deletion is not reported as a withdrawal, and a file that is put back is published.
    put(root.path(), "a", &bytes(1));
    assert_eq!(running.published(), a);
    assert_eq!(running.held(a.file.id), Some(3));
    // A tracker that was killed between the record and the deletion, and one that was killed during the deletion.
    let changes = vec![Change::Offloaded(a.file.id, true)];
    assert_eq!(running.execute(ExecutorTask::Record { number: 1, changes }), TaskOutcome::Recorded(1));
    running.stop();
    let running = Running::start(root.path());
    assert!(running.first_scan().1.contains(&a));
    running.stop();
    fs::create_dir(path(".shoal-leaving")).unwrap();
    fs::rename(path("a"), path(".shoal-leaving/a")).unwrap();
    let running = Running::start(root.path());
    assert!(running.first_scan().1.contains(&a));
    assert_eq!(
        running.execute(ExecutorTask::Offload { kept: a.clone(), permit: 0 }),
        TaskOutcome::Offloaded(a.file.id, OffloadResult::Deleted)
    );
    running.stop();
}

#[test]
fn file_reported_by_a_volunteer_is_adopted_and_forgotten_on_order() {
    let root = TempDir::new().unwrap();
    put(root.path(), "b", &bytes(2));
    let running = Running::start(root.path());
    let b = running.first_scan().1[0].clone();
    let volunteers = Volunteers::new(1);
    let whole =
        CompleteFile::publish(&volunteers._folder.path().join("right"), None, &|_| (), &|| false).unwrap();
    let (id, layout) = (whole.id(), whole.layout().clone());
    let file = crate::protocol::tracker::FileSummary { id, name: name("a"), size: SIZE as u64, chunks: 3 };
    let kept = KeptFile { file, md5: Md5([1; 16]) };
    let adopt = |kept: &KeptFile, from| running.execute(ExecutorTask::Adopt { kept: kept.clone(), from });
    assert_eq!(adopt(&kept, volunteers.empty), TaskOutcome::Adopted(id, None));
    let mut short = kept.clone();
    short.file.size -= 1;
    assert_eq!(adopt(&short, volunteers.honest), TaskOutcome::Adopted(id, None));
    assert!(running.offers.get(id).is_none());
    for from in [volunteers.honest, volunteers.empty] {
        assert_eq!(adopt(&kept, from), TaskOutcome::Adopted(id, Some((kept.clone(), layout.clone()))));
    }
    assert!(running.offers.get(id).unwrap().manifest().is_some());
    running.execute(ExecutorTask::Download {
        kept: kept.clone(),
        index: ChunkIndex(0),
        from: volunteers.honest,
    });
    // As the machine does it: first the record, then the task.
    let changes = vec![Change::Forgotten(id), Change::Forgotten(b.file.id)];
    assert_eq!(running.execute(ExecutorTask::Record { number: 1, changes }), TaskOutcome::Recorded(1));
    for id in [id, b.file.id] {
        running.send(ExecutorTask::Forget(id));
        running.send(ExecutorTask::Drop { file: id, chunks: Vec::new(), permit: 0 });
        assert_eq!(running.next_outcome(), TaskOutcome::Dropped(id, Vec::new()));
        assert!(running.offers.get(id).is_none());
    }
    assert!(running.offers.list().is_empty());
    assert!(!root.path().join(format!("state/chunks/{id}")).exists());
    assert_eq!(running.stop(), []);
    // The file is still in the folder, so it is published again after a restart.
    let running = Running::start(root.path());
    assert_eq!(running.first_scan().1, [b]);
    running.stop();
}

#[test]
fn rebuild_adopts_stored_chunks_except_those_of_forgotten_files() {
    let root = TempDir::new().unwrap();
    let mut ids = Vec::new();
    for number in [1, 2] {
        let volunteers = Volunteers::new(number);
        put(root.path(), "a", &bytes(number));
        let running = Running::start(root.path());
        let kept = running.first_scan().1[0].clone();
        ids.push(kept.file.id);
        let fetched =
            running.execute(ExecutorTask::Download { kept, index: ChunkIndex(1), from: volunteers.honest });
        assert!(matches!(fetched, TaskOutcome::Stored(..)), "{fetched:?}");
        running.stop();
        fs::remove_file(root.path().join("files/a")).unwrap();
    }
    let catalogue = RedbCatalogue::rebuild(&root.path().join("state")).unwrap();
    catalogue.commit(&[Change::Forgotten(ids[1])]).unwrap();
    let running = Running::start_with(root.path(), Arc::new(catalogue));
    let adopted = running.next_outcome();
    assert!(
        matches!(&adopted, TaskOutcome::Adopted(id, Some((kept, _))) if *id == ids[0] && kept.file.name == name("a"))
    );
    let outcomes = [running.next_outcome(), running.next_outcome()];
    assert!(
        outcomes.contains(&TaskOutcome::Stored(ids[0], ChunkIndex(1)))
            && outcomes.contains(&TaskOutcome::ScanComplete),
        "{outcomes:?}"
    );
    assert_eq!((running.held(ids[0]), running.held(ids[1])), (Some(1), None));
    assert!(!root.path().join(format!("state/chunks/{}", ids[1])).exists());
    running.stop();
}

#[test]
fn stalled_volunteer_delays_neither_shutdown_nor_local_tasks() {
    let root = TempDir::new().unwrap();
    put(root.path(), "a", &bytes(1));
    put(root.path(), "b", &bytes(2));
    let running = Running::start(root.path());
    let published = running.first_scan().1;
    // Accepts connections and sends nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let from = silent.local_addr().unwrap();
    for index in 0..20 {
        let (kept, index) = (published[0].clone(), ChunkIndex(index % 3));
        running.send(ExecutorTask::Download { kept, index, from });
    }
    let (connection, _) = silent.accept().unwrap();
    let drop_none = |file| running.execute(ExecutorTask::Drop { file, chunks: Vec::new(), permit: 0 });
    assert_eq!(drop_none(published[1].file.id), TaskOutcome::Dropped(published[1].file.id, Vec::new()));
    running.send(ExecutorTask::Drop { file: published[0].file.id, chunks: Vec::new(), permit: 0 });
    running.stop();
    drop(connection);
}
