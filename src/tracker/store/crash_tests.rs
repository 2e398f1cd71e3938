//! Crash consistency: after a kill or a power cut at any time, the catalogue opens with every
//! acknowledged change.

use super::tests::{Model, Step, held, perform, volunteer};
use super::*;
use crate::sync::lock;
use std::sync::Mutex;

/// An operation of the database on its file.
#[derive(Debug, Clone)]
enum Operation {
    Write(usize, Vec<u8>),
    Length(usize),
    Sync,
}

impl Operation {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Operation::Write(offset, bytes) => {
                let end = offset + bytes.len();
                if image.len() < end {
                    image.resize(end, 0);
                }
                image[*offset..end].copy_from_slice(bytes);
            }
            Operation::Length(length) => image.resize(*length, 0),
            Operation::Sync => {}
        }
    }

    /// A torn write: a random subset of its 512-byte sectors.
    fn torn(&self, random: &mut fastrand::Rng) -> Vec<Operation> {
        let Operation::Write(offset, bytes) = self else { return vec![self.clone()] };
        let sectors = bytes.chunks(512).enumerate();
        let kept = sectors.filter(|_| random.bool());
        kept.map(|(number, bytes)| Operation::Write(offset + number * 512, bytes.to_vec())).collect()
    }
}

/// Storage backend in memory that records all operations.
#[derive(Debug, Clone, Default)]
struct Recorder(Arc<Mutex<Recorded>>);

#[derive(Debug, Default)]
struct Recorded {
    image: Vec<u8>,
    operations: Vec<Operation>,
    /// The disk is full after this number of operations.
    full_after: Option<usize>,
}

impl Recorder {
    fn of(image: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Recorded { image, ..Recorded::default() })))
    }

    fn record(&self, operation: Operation) -> io::Result<()> {
        let Recorded { image, operations, full_after } = &mut *lock(&self.0);
        if full_after.is_some_and(|count| operations.len() >= count) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        operation.apply(image);
        operations.push(operation);
        Ok(())
    }

    fn count(&self) -> usize {
        lock(&self.0).operations.len()
    }
}

impl StorageBackend for Recorder {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.0).image.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (offset, recorded) = (offset as usize, lock(&self.0));
        let bytes = recorded.image.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.record(Operation::Length(length as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.record(Operation::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.record(Operation::Write(offset as usize, data.to_vec()))
    }
}

/// The steps of the test.
fn steps_of_the_test() -> Vec<Step> {
    let mut steps =
        vec![Step::Commit((0..4).map(|number| Change::Volunteer(volunteer(number, 1))).collect())];
    for number in 0..6 {
        steps.push(Step::Add(number, 0));
        steps.push(Step::Commit(
            (0..3).map(|volunteer| held(number, volunteer, 1 << volunteer | 1)).collect(),
        ));
        let id = super::tests::file(number).0.file.id;
        steps.push(Step::Commit(vec![held(number, 3, 255), Change::Offloaded(id, true)]));
        if number % 2 == 0 {
            steps.push(Step::Commit(vec![Change::Forgotten(id)]));
        }
    }
    steps
}

/// Opens an image after a crash as a tracker does, and returns the number of steps in it.
fn steps_recovered(image: Vec<u8>, states: &[Contents], context: &str) -> usize {
    let recorder = Recorder::of(image);
    let verified = catch_redb_panic(Path::new("memory"), || verify_on(recorder.clone()));
    verified.unwrap_or_else(|error| panic!("{context}: {error}"));
    let catalogue = RedbCatalogue::on(recorder).unwrap_or_else(|error| panic!("{context}: {error}"));
    let contents = catalogue.load().unwrap();
    let found = states.iter().rposition(|state| *state == contents);
    // The catalogue accepts further changes.
    catalogue.commit(&[Change::Volunteer(volunteer(9, 9))]).unwrap();
    assert!(catalogue.load().unwrap().volunteers.iter().any(|known| known.number.0 == 9), "{context}");
    found.unwrap_or_else(|| panic!("{context}: not a state of the test"))
}

#[test]
fn acknowledged_changes_survive_a_kill_and_a_power_cut_at_any_operation() {
    let recorder = Recorder::default();
    let catalogue = RedbCatalogue::on(recorder.clone()).unwrap();
    let initial_operations = recorder.count();
    let mut model = Model::default();
    // Number of operations after which each state was acknowledged.
    let (mut states, mut acknowledged) = (vec![model.contents()], vec![initial_operations]);
    for step in steps_of_the_test() {
        perform(&catalogue, &step).unwrap();
        model.apply(&step);
        states.push(model.contents());
        acknowledged.push(recorder.count());
    }
    drop(catalogue);
    let operations = lock(&recorder.0).operations.clone();
    let mut random = fastrand::Rng::with_seed(11);
    let (mut durable, mut pending): (Vec<u8>, Vec<Operation>) = (Vec::new(), Vec::new());
    for (at, operation) in operations.iter().enumerate() {
        if at >= initial_operations {
            let least = acknowledged.iter().rposition(|count| *count <= at).unwrap();
            let check = |image, how: &str| {
                let found = steps_recovered(image, &states, &format!("{how} at {at}"));
                assert!(found >= least && found <= least + 1, "{how} at {at}: {found} of {least}");
            };
            // Kill: all writes are kept. Power cut: all, none or some of the writes since the last
            // sync are kept.
            let mut killed = durable.clone();
            pending.iter().for_each(|operation| operation.apply(&mut killed));
            check(killed, "killed");
            check(durable.clone(), "cut");
            let mut torn = durable.clone();
            let lengths = |operation: &&Operation| matches!(operation, Operation::Length(_));
            pending.iter().filter(lengths).for_each(|operation| operation.apply(&mut torn));
            let kept: Vec<_> = pending.iter().flat_map(|operation| operation.torn(&mut random)).collect();
            kept.iter().for_each(|operation| operation.apply(&mut torn));
            check(torn, "torn");
        }
        match operation {
            Operation::Sync => pending.drain(..).for_each(|operation| operation.apply(&mut durable)),
            other => pending.push(other.clone()),
        }
    }
    assert!(operations.len() > initial_operations + 100, "{}", operations.len());
}

#[test]
fn a_full_disk_is_reported_and_acknowledged_changes_survive() {
    let initial_operations = {
        let recorder = Recorder::default();
        let _catalogue = RedbCatalogue::on(recorder.clone()).unwrap();
        recorder.count()
    };
    for full_after in (initial_operations..initial_operations + 300).step_by(7) {
        let recorder = Recorder::default();
        let catalogue = RedbCatalogue::on(recorder.clone()).unwrap();
        lock(&recorder.0).full_after = Some(full_after);
        let mut model = Model::default();
        let mut states = vec![model.contents()];
        let mut refused = None;
        for step in steps_of_the_test() {
            model.apply(&step);
            states.push(model.contents());
            refused = perform(&catalogue, &step).err();
            if refused.is_some() {
                break;
            }
        }
        if let Some(error) = refused {
            let full = matches!(
                error,
                CatalogueError::Store(StoreError::Full { .. } | StoreError::Exhausted { .. })
            );
            assert!(full, "{full_after}: {error}");
            assert!(catalogue.commit(&[Change::Volunteer(volunteer(1, 5))]).is_err(), "{full_after}");
        }
        drop(catalogue);
        let image = lock(&recorder.0).image.clone();
        let found = steps_recovered(image, &states, &format!("full after {full_after}"));
        assert!(found + 2 >= states.len(), "{full_after}: {found} of {}", states.len());
    }
}
