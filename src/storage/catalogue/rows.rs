//! How each thing is written in a catalogue, and read back.
//!
//! A row is a few words of JSON under a binary key; manifests and maps are the bytes that travel between peers, too.
//! Invariant: nothing is read that could not have been written: [`read_all`] looks at every row and at what it refers
//! to.

use super::{Contents, DbError};
use crate::content::{EntityName, FileId, HaveMap, Manifest};
use crate::protocol::numbers::VolunteerKey;
use crate::protocol::volunteer::KeptFile;
use crate::swarm::keeping::{Change, FileRecord, VolunteerNumber, VolunteerRecord};
use redb::{Database, ReadTransaction, ReadableDatabase as _, ReadableTable, ReadableTableMetadata as _};
use redb::{TableDefinition, TableError, WriteTransaction};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::SocketAddr;

/// The version of all that is written here.
pub(super) const SCHEMA: u64 = 1;
/// Where the version is.
pub(super) const SCHEMA_KEY: &str = "schema";

type Id = &'static [u8; 32];

/// The version.
pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// A [`FileRow`] for each file.
pub(super) const FILES: TableDefinition<Id, &[u8]> = TableDefinition::new("files");
/// [`Manifest::payload`] for each file.
pub(super) const MANIFESTS: TableDefinition<Id, &[u8]> = TableDefinition::new("manifests");
/// A [`VolunteerRow`] for each volunteer.
pub(super) const VOLUNTEERS: TableDefinition<u32, &[u8]> = TableDefinition::new("volunteers");
/// [`HaveMap::to_bytes`] for each file and each volunteer that holds anything of it.
pub(super) const HELD: TableDefinition<(Id, u32), &[u8]> = TableDefinition::new("held");
/// The files that are not kept any more.
pub(super) const FORGOTTEN: TableDefinition<Id, ()> = TableDefinition::new("forgotten");

/// A file.
#[derive(Serialize, Deserialize)]
pub(super) struct FileRow {
    /// What it is.
    #[serde(flatten)]
    pub kept: KeptFile,
    /// Bytes in each chunk but the last; 0 where chunks are of unequal size.
    pub chunk_size: u32,
    /// The tracker has no copy of its own, or is about to have none.
    pub offloaded: bool,
}

#[derive(Serialize, Deserialize)]
struct VolunteerRow {
    key: VolunteerKey,
    name: EntityName,
    address: SocketAddr,
    offered: u64,
}

fn wrong(what: impl Display, why: impl Display) -> DbError {
    DbError::Invalid(format!("{what}: {why}"))
}

fn encode<T: Serialize>(row: &T) -> Result<Vec<u8>, DbError> {
    serde_json::to_vec(row).map_err(|error| DbError::Inconsistent(error.to_string()))
}

fn decode_file(id: FileId, bytes: &[u8]) -> Result<FileRow, DbError> {
    let row: FileRow = serde_json::from_slice(bytes).map_err(|error| wrong(named(id), error))?;
    match row.kept.file.id == id {
        true => Ok(row),
        false => Err(wrong(named(id), "it is filed under another id")),
    }
}

fn decode_manifest(row: &FileRow, payload: &[u8]) -> Result<Manifest, DbError> {
    let file = &row.kept.file;
    let manifest = Manifest::decode(file.id, file.size, row.chunk_size, payload)
        .map_err(|error| wrong(named(file.id), error))?;
    match manifest.layout().count() == file.chunks {
        true => Ok(manifest),
        false => Err(wrong(named(file.id), "its number of chunks is another one")),
    }
}

fn named(id: FileId) -> String {
    format!("file {id}")
}

/// Refuses what this version has not written.
pub(super) fn check_version(database: &Database) -> Result<(), DbError> {
    let reading = database.begin_read()?;
    let meta = match reading.open_table(META) {
        Err(TableError::TableDoesNotExist(_)) => {
            return Err(DbError::Invalid("it is a database of something else".to_owned()));
        }
        table => table?,
    };
    let version = meta.get(SCHEMA_KEY)?.map(|version| version.value());
    match version {
        Some(SCHEMA) => Ok(()),
        Some(other) => Err(DbError::Version(other)),
        None => Err(DbError::Invalid("it does not say its version".to_owned())),
    }
}

/// Reads all there is, and all that it refers to.
pub(super) fn read_all(database: &Database) -> Result<Contents, DbError> {
    check_version(database)?;
    let reading = database.begin_read()?;
    let files = read_files(&reading)?;
    let volunteers = read_volunteers(&reading)?;
    let mut held = Vec::new();
    for row in reading.open_table(HELD)?.iter()? {
        let (key, bytes) = row?;
        let (id, number) = key.value();
        let (id, number) = (FileId(*id), VolunteerNumber(number));
        let what = || format!("what volunteer {} holds of file {id}", number.0);
        let file = files.get(&id).ok_or_else(|| wrong(what(), "there is no such file"))?;
        if !volunteers.contains_key(&number) {
            return Err(wrong(what(), "there is no such volunteer"));
        }
        let map =
            HaveMap::from_bytes(file.layout.count(), bytes.value()).map_err(|error| wrong(what(), error))?;
        if map.held() == 0 {
            return Err(wrong(what(), "it is nothing"));
        }
        held.push((id, number, map));
    }
    let mut forgotten = BTreeSet::new();
    for row in reading.open_table(FORGOTTEN)?.iter()? {
        let id = FileId(*row?.0.value());
        if files.contains_key(&id) {
            return Err(wrong(named(id), "it is both kept and forgotten"));
        }
        forgotten.insert(id);
    }
    Ok(Contents {
        files: files.into_values().collect(),
        volunteers: volunteers.into_values().collect(),
        held,
        forgotten: forgotten.into_iter().collect(),
    })
}

fn read_files(reading: &ReadTransaction) -> Result<BTreeMap<FileId, FileRecord>, DbError> {
    let manifests = reading.open_table(MANIFESTS)?;
    let mut files = BTreeMap::new();
    for row in reading.open_table(FILES)?.iter()? {
        let (id, bytes) = row?;
        let id = FileId(*id.value());
        let row = decode_file(id, bytes.value())?;
        let payload = manifests.get(&id.0)?.ok_or_else(|| wrong(named(id), "it has no manifest"))?;
        let layout = decode_manifest(&row, payload.value())?.layout().clone();
        files.insert(id, FileRecord { kept: row.kept, layout, offloaded: row.offloaded });
    }
    match manifests.len()? == files.len() as u64 {
        true => Ok(files),
        false => Err(DbError::Invalid("there are manifests of files that are not there".to_owned())),
    }
}

fn read_volunteers(reading: &ReadTransaction) -> Result<BTreeMap<VolunteerNumber, VolunteerRecord>, DbError> {
    let mut volunteers = BTreeMap::new();
    for row in reading.open_table(VOLUNTEERS)?.iter()? {
        let (number, bytes) = row?;
        let number = VolunteerNumber(number.value());
        let VolunteerRow { key, name, address, offered } = serde_json::from_slice(bytes.value())
            .map_err(|error| wrong(format!("volunteer {}", number.0), error))?;
        volunteers.insert(number, VolunteerRecord { number, key, name, address, offered });
    }
    Ok(volunteers)
}

/// What is said of a file.
pub(super) fn file(database: &Database, id: FileId) -> Result<Option<FileRow>, DbError> {
    let table = database.begin_read()?.open_table(FILES)?;
    let row = table.get(&id.0)?;
    row.map(|bytes| decode_file(id, bytes.value())).transpose()
}

/// The manifest of a file.
pub(super) fn manifest(database: &Database, id: FileId) -> Result<Option<Manifest>, DbError> {
    let reading = database.begin_read()?;
    let (files, manifests) = (reading.open_table(FILES)?, reading.open_table(MANIFESTS)?);
    let Some(row) = files.get(&id.0)? else { return Ok(None) };
    let row = decode_file(id, row.value())?;
    let payload = manifests.get(&id.0)?.ok_or_else(|| wrong(named(id), "it has no manifest"))?;
    decode_manifest(&row, payload.value()).map(Some)
}

/// Writes a file that is new, or the name of one that is there.
pub(super) fn put_file(
    writing: &WriteTransaction,
    kept: &KeptFile,
    manifest: &Manifest,
) -> Result<(), DbError> {
    let (id, layout) = (kept.file.id, manifest.layout());
    let mut files = writing.open_table(FILES)?;
    let known = files.get(&id.0)?.map(|bytes| decode_file(id, bytes.value())).transpose()?;
    let row = match known {
        Some(mut row) => {
            row.kept.file.name = kept.file.name.clone();
            row
        }
        None => FileRow { kept: kept.clone(), chunk_size: layout.chunk_size(), offloaded: false },
    };
    let fits =
        manifest.id() == id && (layout.size(), layout.count()) == (row.kept.file.size, row.kept.file.chunks);
    if !fits {
        return Err(DbError::Inconsistent(format!("{} with the manifest of another", named(id))));
    }
    files.insert(&id.0, encode(&row)?.as_slice())?;
    writing.open_table(MANIFESTS)?.insert(&id.0, manifest.payload().as_slice())?;
    writing.open_table(FORGOTTEN)?.remove(&id.0)?;
    Ok(())
}

/// Makes changes in order.
pub(super) fn apply(writing: &WriteTransaction, changes: &[Change]) -> Result<(), DbError> {
    for change in changes {
        match change {
            Change::Volunteer(VolunteerRecord { number, key, name, address, offered }) => {
                let row =
                    VolunteerRow { key: *key, name: name.clone(), address: *address, offered: *offered };
                writing.open_table(VOLUNTEERS)?.insert(number.0, encode(&row)?.as_slice())?;
            }
            Change::Held { file, volunteer, chunks } => hold(writing, *file, *volunteer, chunks)?,
            Change::Offloaded(id, offloaded) => {
                let mut files = writing.open_table(FILES)?;
                let row = files.get(&id.0)?.map(|bytes| decode_file(*id, bytes.value())).transpose()?;
                let Some(mut row) = row else {
                    log::debug!("{} is not kept, offloaded or not", id.short());
                    continue;
                };
                row.offloaded = *offloaded;
                files.insert(&id.0, encode(&row)?.as_slice())?;
            }
            Change::Forgotten(id) => forget(writing, *id)?,
        }
    }
    Ok(())
}

fn hold(
    writing: &WriteTransaction,
    id: FileId,
    volunteer: VolunteerNumber,
    chunks: &HaveMap,
) -> Result<(), DbError> {
    let mut held = writing.open_table(HELD)?;
    if chunks.held() == 0 {
        held.remove((&id.0, volunteer.0))?;
        return Ok(());
    }
    let file = writing.open_table(FILES)?.get(&id.0)?.map(|bytes| decode_file(id, bytes.value()));
    let Some(row) = file.transpose()? else {
        log::debug!("{} is not kept, whatever volunteer {} holds of it", id.short(), volunteer.0);
        return Ok(());
    };
    let what = || format!("what volunteer {} holds of file {id}", volunteer.0);
    if writing.open_table(VOLUNTEERS)?.get(volunteer.0)?.is_none() {
        return Err(DbError::Inconsistent(format!("{}: there is no such volunteer", what())));
    }
    if chunks.count() != row.kept.file.chunks {
        return Err(DbError::Inconsistent(format!("{}: it has another number of chunks", what())));
    }
    held.insert((&id.0, volunteer.0), chunks.to_bytes().as_slice())?;
    Ok(())
}

fn forget(writing: &WriteTransaction, id: FileId) -> Result<(), DbError> {
    writing.open_table(FILES)?.remove(&id.0)?;
    writing.open_table(MANIFESTS)?.remove(&id.0)?;
    writing.open_table(HELD)?.retain_in((&id.0, 0)..=(&id.0, u32::MAX), |_, _| false)?;
    writing.open_table(FORGOTTEN)?.insert(&id.0, ())?;
    Ok(())
}
