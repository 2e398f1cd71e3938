//! A tracker with arbitrary rows in its catalogue: it refuses the catalogue and leaves it unchanged, or the contents
//! are the same after they are written to a new catalogue and read again.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use redb::{Database, ReadableDatabase as _, TableDefinition};
use shoal::content::{Bitfield, ChunkIndex, FileId, PeerName};
use shoal::protocol::tokens::VolunteerKey;
use shoal::swarm::keeping::{Change, VolunteerNumber, VolunteerRecord};
use shoal::tracker::store::Contents;
use shoal::tracker::store::{Catalogue, CatalogueError, RedbCatalogue};
use shoal_fuzz::instead::{Mutation, Sample, folder};
use std::path::Path;
use std::sync::LazyLock;

type Id = &'static [u8; 32];
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const FILES: TableDefinition<Id, &[u8]> = TableDefinition::new("files");
const MANIFESTS: TableDefinition<Id, &[u8]> = TableDefinition::new("manifests");
const VOLUNTEERS: TableDefinition<u32, &[u8]> = TableDefinition::new("volunteers");
const HELD: TableDefinition<(Id, u32), &[u8]> = TableDefinition::new("held");
const FORGOTTEN: TableDefinition<Id, ()> = TableDefinition::new("forgotten");
const FILE: &str = "catalogue.redb";

/// An empty catalogue, and one with a row of each kind.
struct Written {
    empty: Vec<u8>,
    bytes: Vec<u8>,
    ids: [FileId; 4],
    file: Vec<u8>,
    manifest: Vec<u8>,
    volunteer: Vec<u8>,
    held: Vec<u8>,
}

static WRITTEN: LazyLock<Written> = LazyLock::new(|| {
    let folder = folder();
    let path = folder.path().join(FILE);
    drop(RedbCatalogue::open(folder.path()).expect("a catalogue"));
    let empty = std::fs::read(&path).expect("its bytes");
    let samples = [Sample::new(true), Sample::new(false)];
    let catalogue = RedbCatalogue::open(folder.path()).expect("a catalogue");
    samples.iter().for_each(|it| catalogue.add_file(&it.kept, &it.manifest).expect("a file"));
    let [one, other] = samples.map(|it| it.kept.file);
    let mut chunks = Bitfield::none(one.chunks);
    chunks.insert(ChunkIndex(1));
    let volunteer = VolunteerRecord {
        number: VolunteerNumber(0),
        key: VolunteerKey(7),
        name: PeerName::new("one").expect("a name"),
        address: ([10, 0, 0, 1], 7000).into(),
        offered: 1 << 30,
        history: Default::default(),
    };
    let gone = FileId([9; 32]);
    let held = Change::Held { file: one.id, volunteer: volunteer.number, chunks };
    let changes = [Change::Volunteer(volunteer), held, Change::Forgotten(gone)];
    catalogue.commit(&changes).expect("changes");
    drop(catalogue);
    let bytes = std::fs::read(&path).expect("its bytes");
    let database = Database::open(&path).expect("a database");
    let reading = database.begin_read().expect("it is read");
    let get = |table: TableDefinition<Id, &[u8]>, id: FileId| {
        let table = reading.open_table(table).expect("a table");
        table.get(&id.0).expect("it is read").expect("a row").value().to_vec()
    };
    let volunteers = reading.open_table(VOLUNTEERS).expect("a table");
    let holders = reading.open_table(HELD).expect("a table");
    Written {
        empty,
        bytes,
        ids: [one.id, other.id, gone, FileId([3; 32])],
        file: get(FILES, one.id),
        manifest: get(MANIFESTS, one.id),
        volunteer: volunteers.get(0).expect("it is read").expect("a row").value().to_vec(),
        held: holders.get((&one.id.0, 0)).expect("it is read").expect("a row").value().to_vec(),
    }
});

/// A row that another program has written.
#[derive(Arbitrary, Debug)]
enum Row {
    File(u8, Mutation),
    Manifest(u8, Mutation),
    Volunteer(u8, Mutation),
    Held(u8, u8, Mutation),
    Forgotten(u8, bool),
    Version(u64),
}

fn put(path: &Path, rows: &[Row]) -> Result<(), redb::Error> {
    let written = &*WRITTEN;
    let id = |selector: u8| written.ids[usize::from(selector) % written.ids.len()].0;
    let database = Database::open(path)?;
    let mut writing = database.begin_write()?;
    writing.set_quick_repair(true);
    for row in rows {
        match row {
            Row::File(selector, mutation) => {
                let mut table = writing.open_table(FILES)?;
                match mutation.of(&written.file) {
                    Some(bytes) => _ = table.insert(&id(*selector), bytes.as_slice())?,
                    None => _ = table.remove(&id(*selector))?,
                }
            }
            Row::Manifest(selector, mutation) => {
                let mut table = writing.open_table(MANIFESTS)?;
                match mutation.of(&written.manifest) {
                    Some(bytes) => _ = table.insert(&id(*selector), bytes.as_slice())?,
                    None => _ = table.remove(&id(*selector))?,
                }
            }
            Row::Volunteer(number, mutation) => {
                let mut table = writing.open_table(VOLUNTEERS)?;
                match mutation.of(&written.volunteer) {
                    Some(bytes) => _ = table.insert(u32::from(number % 3), bytes.as_slice())?,
                    None => _ = table.remove(u32::from(number % 3))?,
                }
            }
            Row::Held(selector, number, mutation) => {
                let mut table = writing.open_table(HELD)?;
                let key = (&id(*selector), u32::from(number % 3));
                match mutation.of(&written.held) {
                    Some(bytes) => _ = table.insert(key, bytes.as_slice())?,
                    None => _ = table.remove(key)?,
                }
            }
            Row::Forgotten(selector, forgotten) => {
                let mut table = writing.open_table(FORGOTTEN)?;
                match forgotten {
                    true => _ = table.insert(&id(*selector), ())?,
                    false => _ = table.remove(&id(*selector))?,
                }
            }
            Row::Version(version) => _ = writing.open_table(META)?.insert("schema", version)?,
        }
    }
    writing.commit()?;
    Ok(())
}

/// Asserts that the contents are consistent, and the same after they are written to another catalogue.
fn assert_consistent(catalogue: &dyn Catalogue, contents: &Contents, place: &Path) {
    std::fs::write(place.join(FILE), &WRITTEN.empty).expect("a catalogue with nothing in it");
    let again = RedbCatalogue::open(place).expect("it opens");
    for file in &contents.files {
        let manifest = catalogue.manifest(file.kept.file.id).expect("it is read").expect("it exists");
        assert_eq!((manifest.id(), manifest.layout()), (file.kept.file.id, &file.layout));
        again.add_file(&file.kept, &manifest).expect("contents can be written");
    }
    let mut changes: Vec<Change> = contents.volunteers.iter().cloned().map(Change::Volunteer).collect();
    for (file, volunteer, chunks) in &contents.held {
        assert!(chunks.held() > 0);
        changes.push(Change::Held { file: *file, volunteer: *volunteer, chunks: chunks.clone() });
    }
    changes.extend(contents.files.iter().map(|file| Change::Offloaded(file.kept.file.id, file.offloaded)));
    changes.extend(contents.forgotten.iter().copied().map(Change::Forgotten));
    again.commit(&changes).expect("contents can be written");
    assert_eq!(&again.load().expect("it is read"), contents);
}

fuzz_target!(|rows: Vec<Row>| {
    let (folder, other) = (folder(), folder());
    let path = folder.path().join(FILE);
    std::fs::write(&path, &WRITTEN.bytes).expect("the catalogue as it was");
    put(&path, &rows).expect("the rows are written");
    let before = std::fs::read(&path).expect("its bytes");
    match RedbCatalogue::open(folder.path()) {
        Ok(catalogue) => {
            let contents = catalogue.load().expect("an opened catalogue can be read");
            assert_consistent(&catalogue, &contents, other.path());
        }
        Err(CatalogueError::Damaged { why, .. }) => {
            assert!(!rows.is_empty());
            // redb can read its own files, so that a panic inside redb would be the effect of one of the rows.
            assert_ne!(why, "its structure is inconsistent");
            assert!(std::fs::read(&path).expect("its bytes") == before, "a refused catalogue was changed");
        }
        Err(CatalogueError::Version { .. }) => {
            assert!(rows.iter().any(|row| matches!(row, Row::Version(_))));
        }
        Err(other) => panic!("{other}"),
    }
});
