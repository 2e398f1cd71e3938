//! Tests of proofs: verdicts about holders, and the tracker's own copy.

use super::*;
use crate::content::{ChunkIndex, Digest};
use crate::protocol::tokens::{KeyPrint, Nonce};
use crate::protocol::volunteer::possession_proof;
use crate::upload::prover::{NoProof, Prover};

/// Chunk that the tests prove.
const INDEX: ChunkIndex = ChunkIndex(1);

/// How a volunteer answers a demand for a proof.
#[derive(Clone, Copy)]
pub(super) enum Answer {
    Right,
    WrongBytes,
    Nothing(NoProof),
}

/// A volunteer's prover with its bytes in memory.
struct Fake {
    key: VolunteerKey,
    chunk: Vec<u8>,
    answer: Answer,
}

impl Prover for Fake {
    fn has_key(&self, holder: KeyPrint) -> bool {
        holder == self.key.print()
    }
    fn prove(&self, _: FileId, _: ChunkIndex, nonce: Nonce) -> Result<Digest, NoProof> {
        match self.answer {
            Answer::Right => Ok(possession_proof(self.key, nonce, &self.chunk)),
            Answer::WrongBytes => Ok(possession_proof(self.key, nonce, b"other bytes")),
            Answer::Nothing(reason) => Err(reason),
        }
    }
}

/// Volunteers with keys 0, 1, ... that serve or do not serve the chunks of a file.
pub(super) struct Provers {
    pub holders: Vec<Holder>,
    pub manifest: Arc<Manifest>,
    threads: Threads,
    shutdown: Shutdown,
    _folder: TempDir,
}

impl Provers {
    /// One volunteer for each answer; each serves the chunks of file `number` if `serving`.
    pub(super) fn new(number: u8, serving: bool, answers: &[Answer]) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("right");
        fs::write(&path, bytes(number)).unwrap();
        let whole = Arc::new(CompleteFile::publish(&path, None, &|_| (), &|| false).unwrap());
        let manifest = whole.manifest().unwrap();
        let span = manifest.layout().span(INDEX).unwrap();
        let chunk = bytes(number)[span.offset as usize..][..span.length as usize].to_vec();
        let (threads, shutdown) = (Threads::new(), Shutdown::new());
        let mut holders = Vec::new();
        for (at, answer) in answers.iter().enumerate() {
            let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let (address, offers) = (listener.address(), Offers::new());
            if serving {
                offers.put(whole.id(), whole.clone());
            }
            let key = VolunteerKey(at as u128);
            offers.set_prover(Arc::new(Fake { key, chunk: chunk.clone(), answer: *answer }));
            serve(listener, offers, &ServeOptions::default(), None, &threads, &shutdown).unwrap();
            holders.push(Holder { volunteer: VolunteerNumber(at as u32), key, address });
        }
        Self { holders, manifest, threads, shutdown, _folder: folder }
    }
}

impl Drop for Provers {
    fn drop(&mut self) {
        self.shutdown.trigger();
        self.threads.join();
    }
}

/// Lets holders prove their copies. Returns the tracker's own copy and the verdicts by number.
pub(super) fn prove(running: &Running, file: FileId, holders: &[Holder]) -> (OwnCopy, Vec<Verdict>) {
    let task = ExecutorTask::ProveCopies { number: 7, file, index: INDEX, holders: holders.to_vec() };
    match running.execute(task) {
        TaskOutcome::Proved { number: 7, file: of, index: INDEX, own, mut verdicts } if of == file => {
            verdicts.sort_by_key(|(volunteer, _)| *volunteer);
            assert!(verdicts.iter().map(|(volunteer, _)| volunteer.0).eq(0..holders.len() as u32));
            (own, verdicts.into_iter().map(|(_, verdict)| verdict).collect())
        }
        other => panic!("{other:?}"),
    }
}

const ANSWERS: [Answer; 6] = [
    Answer::Right,
    Answer::WrongBytes,
    Answer::Nothing(NoProof::NotHere),
    Answer::Nothing(NoProof::CannotTell),
    Answer::Nothing(NoProof::Busy),
    Answer::Right,
];

#[test]
fn only_wrong_bytes_and_missing_chunks_of_the_right_volunteer_are_wrong() {
    use Verdict::*;
    let root = TempDir::new().unwrap();
    put(root.path(), "a", &bytes(1));
    let running = Running::start(root.path());
    let id = running.first_scan().1[0].file.id;
    let mut provers = Provers::new(1, true, &ANSWERS);
    // Another volunteer is at the address of the last one, and no program at that of a further one.
    provers.holders[5].key = VolunteerKey(99);
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    provers.holders.push(Holder { volunteer: VolunteerNumber(6), key: VolunteerKey(6), address: dead });
    let verdicts = vec![Right, Wrong, Wrong, CannotTell, CannotTell, CannotTell, CannotTell];
    assert_eq!(prove(&running, id, &provers.holders), (OwnCopy::Right, verdicts.clone()));
    // Without an own copy, the chunk comes from the first holder that delivers it.
    fs::remove_file(root.path().join("files/a")).unwrap();
    assert_eq!(running.next_outcome(), TaskOutcome::Withdrawn(id));
    let mut turned = provers.holders.clone();
    turned[0].address = dead;
    assert_eq!(
        prove(&running, id, &turned),
        (OwnCopy::Absent, [&[CannotTell], &verdicts[1..]].concat()),
        "the first holder cannot be reached; the second delivers the chunk"
    );
    assert_eq!(prove(&running, id, &provers.holders), (OwnCopy::Absent, verdicts));
    assert_eq!(running.stop(), []);
}

#[test]
fn holders_that_agree_with_each_other_but_deliver_nothing_prove_nothing() {
    let root = TempDir::new().unwrap();
    put(root.path(), "a", &bytes(1));
    let running = Running::start(root.path());
    let id = running.first_scan().1[0].file.id;
    fs::remove_file(root.path().join("files/a")).unwrap();
    assert_eq!(running.next_outcome(), TaskOutcome::Withdrawn(id));
    let provers = Provers::new(1, false, &[Answer::WrongBytes, Answer::Right]);
    assert_eq!(prove(&running, id, &provers.holders), (OwnCopy::Absent, vec![Verdict::CannotTell; 2]));
    running.stop();
}

/// Offers wrong bytes of the right size under the id of a file, as a disk does whose bits rot.
pub(super) fn share_rotten(running: &Running, root: &Path, manifest: Arc<Manifest>) {
    let mut rotten = bytes(1);
    // One wrong byte in the chunk that the tests prove.
    rotten[75_000] ^= 1;
    fs::write(root.join("files/a"), rotten).unwrap();
    let folder = running.inner().folder.as_ref().unwrap();
    folder.adopt(name("a"), manifest).unwrap();
}

#[test]
fn a_rotten_bit_in_the_own_copy_condemns_no_holder() {
    let root = TempDir::new().unwrap();
    put(root.path(), "a", &bytes(1));
    let running = Running::start(root.path());
    let id = running.first_scan().1[0].file.id;
    let provers = Provers::new(1, true, &ANSWERS);
    share_rotten(&running, root.path(), provers.manifest.clone());
    let own = prove(&running, id, &provers.holders);
    assert_eq!(own, (OwnCopy::Corrupt, vec![Verdict::CannotTell; ANSWERS.len()]));
    assert_eq!(running.execute(ExecutorTask::Withdraw(id)), TaskOutcome::Withdrawn(id));
    assert_eq!((running.held(id), running.offers.list().len()), (Some(0), 0), "only the manifest is served");
    assert!(root.path().join("files/a").exists(), "the file belongs to the user");
    let (own, verdicts) = prove(&running, id, &provers.holders);
    assert_eq!((own, verdicts[0], verdicts[1]), (OwnCopy::Absent, Verdict::Right, Verdict::Wrong));
    // A right copy that the user puts there is published and compared with again.
    put(root.path(), "a", &bytes(1));
    assert_eq!(running.next_outcome(), TaskOutcome::Withdrawn(id));
    running.published();
    assert_eq!(prove(&running, id, &provers.holders).0, OwnCopy::Right);
    assert_eq!(running.stop(), []);
}

#[test]
fn a_stalled_holder_delays_neither_other_holders_nor_tasks_of_the_file() {
    let root = TempDir::new().unwrap();
    put(root.path(), "a", &bytes(1));
    let running = Running::start(root.path());
    let id = running.first_scan().1[0].file.id;
    let provers = Provers::new(1, true, &[Answer::Right, Answer::Right]);
    // Accepts connections and sends nothing until it is dropped.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut holders = provers.holders.clone();
    holders[0].address = silent.local_addr().unwrap();
    let task = ExecutorTask::ProveCopies { number: 1, file: id, index: INDEX, holders };
    running.send(task);
    let (connection, _) = silent.accept().unwrap();
    // While this proof waits, a task of the same file and another proof are carried out.
    let dropped = running.execute(ExecutorTask::Drop { file: id, chunks: Vec::new(), permit: 1 });
    assert_eq!(dropped, TaskOutcome::Dropped(id, Vec::new()));
    assert_eq!(prove(&running, id, &provers.holders), (OwnCopy::Right, vec![Verdict::Right; 2]));
    drop((connection, silent));
    match running.next_outcome() {
        TaskOutcome::Proved { number: 1, mut verdicts, .. } => {
            verdicts.sort_by_key(|(volunteer, _)| *volunteer);
            let right = [(V, Verdict::CannotTell), (VolunteerNumber(1), Verdict::Right)];
            assert_eq!(verdicts, right);
        }
        other => panic!("{other:?}"),
    }
    running.stop();
}
