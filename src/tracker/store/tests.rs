//! Tests of the catalogue: records are read back, and inconsistent or damaged records are rejected.

use super::*;
use crate::content::{ChunkIndex, Digest, DurableStamp, FileName, Layout, Md5, PeerName};
use crate::protocol::tokens::VolunteerKey;
use crate::protocol::tracker::FileSummary;
use crate::swarm::keeping::VolunteerHistory;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use tempfile::TempDir;

/// File `number`, of `number % 5 + 1` chunks; in every third file they are of unequal length.
pub(super) fn file(number: u8) -> (KeptFile, Manifest) {
    let count = u32::from(number % 5) + 1;
    let layout = match number % 3 {
        0 => Layout::uneven((0..count).map(|index| 10 + u64::from(index))),
        _ => Layout::even(u64::from(count) * 16_384 - 1, Some(16_384)),
    };
    let digests = (0..count).map(|index| Digest::of(&[number, index as u8])).collect();
    let manifest = Manifest::new(layout.unwrap(), digests).unwrap();
    let name = FileName::new(format!("file {number}")).unwrap();
    let file = FileSummary { id: manifest.id(), name, size: manifest.layout().size(), chunks: count };
    (KeptFile { file, md5: Md5([number; 16]) }, manifest)
}

pub(super) fn volunteer(number: u32, offered: u64) -> VolunteerRecord {
    VolunteerRecord {
        number: VolunteerNumber(number),
        key: VolunteerKey(u128::from(number) + 7),
        name: PeerName::new(format!("volunteer-{number}")).unwrap(),
        address: format!("10.0.0.{number}:7000").parse().unwrap(),
        offered,
        history: VolunteerHistory { proven: true, last_seen_s: number.into(), ..Default::default() },
    }
}

pub(super) fn held(number: u8, volunteer: u32, bits: u8) -> Change {
    let (kept, _) = file(number);
    let mut chunks = Bitfield::none(kept.file.chunks);
    (0..8).filter(|bit| bits & (1 << bit) != 0).for_each(|bit| _ = chunks.insert(ChunkIndex(bit)));
    Change::Held { file: kept.file.id, volunteer: VolunteerNumber(volunteer), chunks }
}

/// A call on a catalogue.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Add(u8, u8),
    Commit(Vec<Change>),
}

/// Expected content of the catalogue.
#[derive(Default)]
pub(super) struct Model {
    files: BTreeMap<FileId, FileRecord>,
    volunteers: BTreeMap<VolunteerNumber, VolunteerRecord>,
    held: BTreeMap<(FileId, VolunteerNumber), Bitfield>,
    forgotten: BTreeSet<FileId>,
    corrupt: BTreeMap<FileName, CorruptFile>,
    publications: u64,
}

impl Model {
    pub(super) fn apply(&mut self, step: &Step) {
        match step {
            Step::Add(number, name) => {
                let (mut kept, manifest) = renamed(*number, *name);
                let id = kept.file.id;
                self.forgotten.remove(&id);
                let md5 = Md5([*name; 16]);
                let name = kept.file.name.clone();
                kept.md5 = md5;
                let layout = manifest.layout().clone();
                let mut version = self.files.get(&id).map_or(0, |known| known.version);
                if self.files.get(&id).is_none_or(|known| known.kept.file.name != name) {
                    self.publications += 1;
                    version = self.publications;
                }
                let new = FileRecord {
                    kept,
                    layout,
                    offloaded: false,
                    kept_here: false,
                    offload_wanted: false,
                    version,
                };
                let record = self.files.entry(id).or_insert(new);
                record.kept.file.name = name;
                record.kept.md5 = md5;
                record.version = version;
            }
            Step::Commit(changes) => changes.iter().for_each(|change| self.change(change)),
        }
    }

    fn change(&mut self, change: &Change) {
        match change.clone() {
            Change::Volunteer(record) => _ = self.volunteers.insert(record.number, record),
            Change::VolunteerForgotten(number) => {
                self.volunteers.remove(&number);
                self.held.retain(|(_, volunteer), _| *volunteer != number);
            }
            Change::Held { file, volunteer, chunks } if chunks.held() == 0 => {
                self.held.remove(&(file, volunteer));
            }
            Change::Held { file, volunteer, chunks } => {
                if self.files.contains_key(&file) {
                    self.held.insert((file, volunteer), chunks);
                }
            }
            Change::Offloaded(id, offloaded) => {
                if let Some(record) = self.files.get_mut(&id) {
                    record.offloaded = offloaded;
                }
            }
            Change::Kept(id, kept_here) => {
                if let Some(record) = self.files.get_mut(&id) {
                    record.kept_here = kept_here;
                }
            }
            Change::OffloadWanted(id, wanted) => {
                if let Some(record) = self.files.get_mut(&id) {
                    record.offload_wanted = wanted;
                }
            }
            Change::Corrupt(name, Some(file)) => _ = self.corrupt.insert(name, file),
            Change::Corrupt(name, None) => _ = self.corrupt.remove(&name),
            Change::Forgotten(id) => {
                self.corrupt.retain(|_, file| file.id != id);
                self.files.remove(&id);
                self.held.retain(|(file, _), _| *file != id);
                self.forgotten.insert(id);
            }
        }
    }

    pub(super) fn contents(&self) -> Contents {
        Contents {
            files: self.files.values().cloned().collect(),
            volunteers: self.volunteers.values().cloned().collect(),
            held: self.held.iter().map(|((id, number), map)| (*id, *number, map.clone())).collect(),
            forgotten: self.forgotten.iter().copied().collect(),
            corrupt: self.corrupt.clone().into_iter().collect(),
        }
    }
}

fn renamed(number: u8, name: u8) -> (KeptFile, Manifest) {
    let (mut kept, manifest) = file(number);
    if name > 0 {
        kept.file.name = FileName::new(format!("file {number} name {name}")).unwrap();
    }
    (kept, manifest)
}

/// Performs a step as a tracker does.
pub(super) fn perform(catalogue: &dyn Catalogue, step: &Step) -> Result<(), CatalogueError> {
    match step {
        Step::Add(number, name) => {
            let (mut kept, manifest) = renamed(*number, *name);
            // The last MD5 counts.
            kept.md5 = Md5([*name; 16]);
            catalogue.add_file(&kept, &manifest)
        }
        Step::Commit(changes) => catalogue.commit(changes),
    }
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change = prop_oneof![
        (0..4u32, 0..99u64).prop_map(|(number, offered)| Change::Volunteer(volunteer(number, offered))),
        (0..6u8, 0..4u32, any::<u8>()).prop_map(|(number, volunteer, bits)| held(number, volunteer, bits)),
        (0..6u8, any::<bool>())
            .prop_map(|(number, offloaded)| Change::Offloaded(file(number).0.file.id, offloaded)),
        (0..6u8, any::<bool>()).prop_map(|(number, kept)| Change::Kept(file(number).0.file.id, kept)),
        (0..6u8, any::<bool>(), any::<i64>()).prop_map(|(number, on, modified_ns)| {
            let file = file(number).0.file;
            let stamp = DurableStamp { size: file.size, modified_ns, inode: 7 };
            Change::Corrupt(file.name, on.then_some(CorruptFile { id: file.id, stamp }))
        }),
        (0..6u8, any::<bool>())
            .prop_map(|(number, wanted)| Change::OffloadWanted(file(number).0.file.id, wanted)),
        (0..6u8).prop_map(|number| Change::Forgotten(file(number).0.file.id)),
    ];
    let step = prop_oneof![
        (0..6u8, 0..3u8).prop_map(|(number, name)| Step::Add(number, name)),
        proptest::collection::vec(change, 0..6).prop_map(Step::Commit),
    ];
    // All volunteers exist from the start.
    let first = Step::Commit((0..4).map(|number| Change::Volunteer(volunteer(number, 1))).collect());
    proptest::collection::vec(step, 0..12)
        .prop_map(move |steps| [first.clone()].into_iter().chain(steps).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn records_are_read_back_also_after_a_restart(steps in steps(), reopen in 0..12usize) {
        let folder = TempDir::new().unwrap();
        let mut catalogue = RedbCatalogue::open(folder.path()).unwrap();
        let mut model = Model::default();
        for (at, step) in steps.iter().enumerate() {
            perform(&catalogue, step).unwrap();
            model.apply(step);
            prop_assert_eq!(catalogue.load().unwrap(), model.contents());
            if at == reopen {
                drop(catalogue);
                catalogue = RedbCatalogue::open(folder.path()).unwrap();
            }
        }
        drop(catalogue);
        let catalogue = RedbCatalogue::open(folder.path()).unwrap();
        prop_assert_eq!(catalogue.load().unwrap(), model.contents());
        for number in 0..6 {
            let (kept, manifest) = file(number);
            let found = catalogue.manifest(kept.file.id).unwrap();
            let expected = model.files.contains_key(&kept.file.id).then_some(manifest);
            prop_assert_eq!(found.as_deref(), expected.as_ref());
        }
    }
}

/// A catalogue with rows in every table.
fn filled(folder: &Path) -> Contents {
    let catalogue = RedbCatalogue::open(folder).unwrap();
    for number in 0..8 {
        let (kept, manifest) = file(number);
        catalogue.add_file(&kept, &manifest).unwrap();
    }
    let volunteers = (0..4).map(|number| Change::Volunteer(volunteer(number, 1 << 30)));
    let held = (0..7).flat_map(|number| (0..4).map(move |volunteer| held(number, volunteer, number + 1)));
    let others = [Change::Forgotten(file(7).0.file.id), Change::Offloaded(file(1).0.file.id, true)];
    catalogue.commit(&volunteers.chain(held).chain(others).collect::<Vec<_>>()).unwrap();
    catalogue.load().unwrap()
}

#[test]
fn inconsistent_changes_are_rejected_and_not_written() {
    let folder = TempDir::new().unwrap();
    let before = filled(folder.path());
    let catalogue = RedbCatalogue::open(folder.path()).unwrap();
    let (kept, manifest) = file(2);
    let foreign = Change::Held {
        file: kept.file.id,
        volunteer: VolunteerNumber(0),
        chunks: Bitfield::all(kept.file.chunks + 1),
    };
    for bad in [held(2, 9, 1), foreign] {
        let changes = [Change::Forgotten(file(1).0.file.id), bad];
        assert!(matches!(catalogue.commit(&changes), Err(CatalogueError::Inconsistent(_))));
    }
    let mut kept = file(9).0;
    let added = catalogue.add_file(&kept, &manifest);
    assert!(matches!(added, Err(CatalogueError::Inconsistent(_))), "{added:?}");
    kept.file.id = manifest.id();
    kept.file.id.0[0] ^= 1;
    assert!(catalogue.add_file(&kept, &manifest).is_err());
    assert_eq!(catalogue.load().unwrap(), before);
    assert_eq!(catalogue.manifest(kept.file.id).unwrap(), None);
}

#[test]
fn the_state_folder_is_locked_and_rebuild_renames_the_old_catalogue() {
    let folder = TempDir::new().unwrap();
    let state = folder.path().join("deep").join("state");
    let before = filled(&state);
    let catalogue = RedbCatalogue::open(&state).unwrap();
    for second in [RedbCatalogue::open(&state), RedbCatalogue::rebuild(&state)] {
        assert!(matches!(second, Err(CatalogueError::Store(StoreError::Busy(_)))));
    }
    drop(catalogue);
    for number in 1..3 {
        let old = fs::read(state.join(FILE)).unwrap();
        let catalogue = RedbCatalogue::rebuild(&state).unwrap();
        assert_eq!(catalogue.load().unwrap(), Contents::default());
        let aside = state.join(format!("catalogue.redb.before-rebuild-{number}"));
        assert!(fs::read(aside).unwrap() == old);
    }
    fs::rename(state.join("catalogue.redb.before-rebuild-1"), state.join(FILE)).unwrap();
    assert_eq!(RedbCatalogue::open(&state).unwrap().load().unwrap(), before);
    let rights = fs::metadata(state.join(FILE)).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&rights.permissions()) & 0o777, 0o600);
}

#[test]
fn rebuild_starts_empty_without_a_complete_catalogue() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join(NEW_FILE), "half").unwrap();
    assert_eq!(RedbCatalogue::rebuild(folder.path()).unwrap().load().unwrap(), Contents::default());
    let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), [FILE]);
}

#[test]
fn other_schema_versions_and_other_databases_are_rejected() {
    let folder = TempDir::new().unwrap();
    filled(folder.path());
    let catalogue = RedbCatalogue::open(folder.path()).unwrap();
    let written = catalogue.write(|transaction| {
        transaction.open_table(META)?.insert(SCHEMA_KEY, SCHEMA + 1)?;
        Ok(())
    });
    written.unwrap();
    drop(catalogue);
    let error = RedbCatalogue::open(folder.path()).err().unwrap();
    assert!(matches!(error, CatalogueError::Version { found: 2, .. }), "{error}");
    let path = folder.path().join(FILE);
    fs::remove_file(&path).unwrap();
    let other = Database::create(&path).unwrap();
    drop(other);
    let error = RedbCatalogue::open(folder.path()).err().unwrap().to_string();
    assert!(error.contains("another program") && error.contains("--rebuild"), "{error}");
}

/// Writes rows that no call would write, past the public interface.
#[test]
fn inconsistent_rows_are_rejected() {
    type Writes = fn(&WriteTransaction) -> Result<(), DbError>;
    let bad: [(&str, Writes); 8] = [
        ("unknown file", |writing| {
            writing.open_table(HELD)?.insert((&[5; 32], 0), [1].as_slice())?;
            Ok(())
        }),
        ("unknown volunteer", |writing| {
            writing.open_table(HELD)?.insert((&file(1).0.file.id.0, 77), [1].as_slice())?;
            Ok(())
        }),
        ("past the last", |writing| {
            writing.open_table(HELD)?.insert((&file(1).0.file.id.0, 0), [255].as_slice())?;
            Ok(())
        }),
        ("the bitmap is empty", |writing| {
            writing.open_table(HELD)?.insert((&file(1).0.file.id.0, 0), [0].as_slice())?;
            Ok(())
        }),
        ("both kept and forgotten", |writing| {
            writing.open_table(FORGOTTEN)?.insert(&file(1).0.file.id.0, ())?;
            Ok(())
        }),
        ("volunteer 3", |writing| {
            writing.open_table(VOLUNTEERS)?.insert(3, b"{}".as_slice())?;
            Ok(())
        }),
        ("the manifest is missing", |writing| {
            writing.open_table(MANIFESTS)?.remove(&file(1).0.file.id.0)?;
            Ok(())
        }),
        ("the manifest has the id", |writing| {
            let payload = [[3; 32], [4; 32]].concat();
            writing.open_table(MANIFESTS)?.insert(&file(1).0.file.id.0, payload.as_slice())?;
            Ok(())
        }),
    ];
    for (why, write) in bad {
        let folder = TempDir::new().unwrap();
        filled(folder.path());
        RedbCatalogue::open(folder.path()).unwrap().write(write).unwrap();
        let error = RedbCatalogue::open(folder.path()).err().unwrap().to_string();
        assert!(error.contains(why) && error.contains(FILE), "{error}");
    }
}

/// Random damage and truncation: the catalogue has the same content or is rejected, and the file is
/// not changed.
#[test]
fn a_damaged_file_is_rejected_and_not_changed() {
    let folder = TempDir::new().unwrap();
    let before = filled(folder.path());
    let path = folder.path().join(FILE);
    let good = fs::read(&path).unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let used: Vec<usize> = (0..good.len()).filter(|at| good[*at] != 0).collect();
    let mut rejected = 0;
    for round in 0..600 {
        let mut bad = good.clone();
        match round % 6 {
            0 => bad.truncate(random.usize(..good.len())),
            1 => bad.extend_from_slice(&good[..random.usize(..5_000)]),
            2 => {
                let at = random.usize(..good.len() - 512);
                bad[at..at + 512].fill(random.u8(..));
            }
            3 => bad[round / 6] ^= 1 << random.u8(..8),
            _ => bad[used[random.usize(..used.len())]] ^= 1 << random.u8(..8),
        }
        fs::write(&path, &bad).unwrap();
        match RedbCatalogue::open(folder.path()) {
            Ok(catalogue) => assert_eq!(catalogue.load().unwrap(), before, "round {round}"),
            Err(error) => {
                rejected += 1;
                let text = error.to_string();
                let clear = text.contains(FILE) && text.contains("--rebuild");
                assert!(matches!(error, CatalogueError::Damaged { .. }) && clear, "round {round}: {text}");
                assert!(fs::read(&path).unwrap() == bad, "round {round} changed the file");
            }
        }
    }
    assert!(rejected > 200, "only {rejected} rejected");
    for garbage in [vec![], b"text".to_vec(), vec![0; 1 << 20], vec![0xff; 70_000]] {
        fs::write(&path, &garbage).unwrap();
        let error = RedbCatalogue::open(folder.path()).err().unwrap();
        assert!(matches!(error, CatalogueError::Damaged { .. }), "{error}");
    }
}

#[test]
fn a_folder_in_place_of_the_catalogue_is_not_reported_as_damage() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join(FILE)).unwrap();
    let error = RedbCatalogue::open(folder.path()).err().unwrap();
    assert!(matches!(error, CatalogueError::Store(StoreError::NotAFile(_))), "{error}");
}
