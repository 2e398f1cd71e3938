//! Whatever instant a tracker is killed at, or the power is cut, the catalogue opens with all that was acknowledged.

use super::tests::{Model, Step, held, perform, volunteer};
use super::*;
use crate::storage::lock;
use std::sync::Mutex;

/// What a database has done to its file.
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

    /// Of a write, only some of its sectors.
    fn torn(&self, random: &mut fastrand::Rng) -> Vec<Operation> {
        let Operation::Write(offset, bytes) = self else { return vec![self.clone()] };
        let sectors = bytes.chunks(512).enumerate();
        let kept = sectors.filter(|_| random.bool());
        kept.map(|(number, bytes)| Operation::Write(offset + number * 512, bytes.to_vec())).collect()
    }
}

/// Memory that remembers how it became what it is.
#[derive(Debug, Clone, Default)]
struct Recorder(Arc<Mutex<Recorded>>);

#[derive(Debug, Default)]
struct Recorded {
    image: Vec<u8>,
    operations: Vec<Operation>,
    /// After so many operations the disk is full.
    full_after: Option<usize>,
}

impl Recorder {
    fn of(image: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Recorded { image, ..Recorded::default() })))
    }

    fn note(&self, operation: Operation) -> io::Result<()> {
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
        self.note(Operation::Length(length as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.note(Operation::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.note(Operation::Write(offset as usize, data.to_vec()))
    }
}

/// What happens in the life of a catalogue.
fn life() -> Vec<Step> {
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

/// Opens what a crash has left as a tracker does, and says how many steps are in it.
fn survivors(image: Vec<u8>, states: &[Contents], where_: &str) -> usize {
    let recorder = Recorder::of(image);
    let rehearsed = catch_redb_panic(Path::new("memory"), || verify_on(recorder.clone()));
    rehearsed.unwrap_or_else(|error| panic!("{where_}: {error}"));
    let catalogue = RedbCatalogue::on(recorder).unwrap_or_else(|error| panic!("{where_}: {error}"));
    let contents = catalogue.load().unwrap();
    let found = states.iter().rposition(|state| *state == contents);
    // It goes on from there.
    catalogue.commit(&[Change::Volunteer(volunteer(9, 9))]).unwrap();
    assert!(catalogue.load().unwrap().volunteers.iter().any(|known| known.number.0 == 9), "{where_}");
    found.unwrap_or_else(|| panic!("{where_}: never was like that"))
}

#[test]
fn nothing_that_was_acknowledged_is_lost_whenever_it_is_killed() {
    let recorder = Recorder::default();
    let catalogue = RedbCatalogue::on(recorder.clone()).unwrap();
    let begun = recorder.count();
    let mut model = Model::default();
    // After how many operations each state was acknowledged.
    let (mut states, mut acknowledged) = (vec![model.contents()], vec![begun]);
    for step in life() {
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
        if at >= begun {
            let least = acknowledged.iter().rposition(|count| *count <= at).unwrap();
            let check = |image, how: &str| {
                let found = survivors(image, &states, &format!("{how} at {at}"));
                assert!(found >= least && found <= least + 1, "{how} at {at}: {found} of {least}");
            };
            // Killed: what was written is written. Power cut: all, nothing, or some of what was not synced.
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
    assert!(operations.len() > begun + 100, "{}", operations.len());
}

#[test]
fn a_full_disk_is_said_and_nothing_that_was_acknowledged_is_lost() {
    let begun = {
        let recorder = Recorder::default();
        let _catalogue = RedbCatalogue::on(recorder.clone()).unwrap();
        recorder.count()
    };
    for full_after in (begun..begun + 300).step_by(7) {
        let recorder = Recorder::default();
        let catalogue = RedbCatalogue::on(recorder.clone()).unwrap();
        lock(&recorder.0).full_after = Some(full_after);
        let mut model = Model::default();
        let mut states = vec![model.contents()];
        let mut refused = None;
        for step in life() {
            model.apply(&step);
            states.push(model.contents());
            refused = perform(&catalogue, &step).err();
            if refused.is_some() {
                break;
            }
        }
        if let Some(error) = refused {
            let full = matches!(error, CatalogueError::Store(StoreError::Full { .. }));
            assert!(full, "{full_after}: {error}");
            assert!(catalogue.commit(&[Change::Volunteer(volunteer(1, 5))]).is_err(), "{full_after}");
        }
        drop(catalogue);
        let image = lock(&recorder.0).image.clone();
        let found = survivors(image, &states, &format!("full after {full_after}"));
        assert!(found + 2 >= states.len(), "{full_after}: {found} of {}", states.len());
    }
}
