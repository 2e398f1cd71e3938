//! Encoding of the catalogue's rows.
//!
//! A row is a short JSON object under a binary key; manifests and bitmaps have their wire encoding.
//! Invariant: [`read_all`] rejects every row that this version could not have written, and every
//! reference to a missing row.

use super::{Contents, DbError};
use crate::content::{Bitfield, FileId, FileName, Manifest, ManifestSizes, PeerName};
use crate::protocol::tokens::VolunteerKey;
use crate::protocol::volunteer::KeptFile;
use crate::swarm::keeping::{
    Change, CorruptFile, FileRecord, VolunteerHistory, VolunteerNumber, VolunteerRecord,
};
use redb::{Database, ReadTransaction, ReadableDatabase as _, ReadableTable, ReadableTableMetadata as _};
use redb::{TableDefinition, TableError, WriteTransaction};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::SocketAddr;

/// Schema version of the catalogue.
pub(super) const SCHEMA: u64 = 1;
/// Key of the schema version in [`META`].
pub(super) const SCHEMA_KEY: &str = "schema";
/// Key of the number of the last publication of a file in [`META`]; absent in catalogues of earlier versions.
const PUBLICATIONS_KEY: &str = "publications";

type Id = &'static [u8; 32];

/// The schema version and the number of publications.
pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// A [`FileRow`] for each file.
pub(super) const FILES: TableDefinition<Id, &[u8]> = TableDefinition::new("files");
/// [`Manifest::payload`] for each file.
pub(super) const MANIFESTS: TableDefinition<Id, &[u8]> = TableDefinition::new("manifests");
/// A [`VolunteerRow`] for each volunteer.
pub(super) const VOLUNTEERS: TableDefinition<u32, &[u8]> = TableDefinition::new("volunteers");
/// [`Bitfield::to_bytes`] for each file and each volunteer that holds a chunk of it.
pub(super) const HELD: TableDefinition<(Id, u32), &[u8]> = TableDefinition::new("held");
/// The files that are no longer kept.
pub(super) const FORGOTTEN: TableDefinition<Id, ()> = TableDefinition::new("forgotten");
/// A [`CorruptFile`] for each corrupt file of the folder, by name. Absent in catalogues of earlier versions.
const CORRUPT: TableDefinition<&str, &[u8]> = TableDefinition::new("corrupt");

/// Record of a file.
#[derive(Serialize, Deserialize)]
pub(super) struct FileRow {
    /// Name, id, size and MD5.
    #[serde(flatten)]
    pub kept: KeptFile,
    /// Length of each chunk but the last, bytes; 0 if the chunks are of unequal length.
    pub chunk_size: u32,
    /// Size of the index of a folder, bytes. Absent in rows of files and of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// The tracker has deleted its own copy, or is about to.
    pub offloaded: bool,
    /// The owner keeps the tracker's own copy. Absent in rows of earlier versions.
    #[serde(default)]
    pub kept_here: bool,
    /// The owner has ordered its offload. Absent in rows of earlier versions.
    #[serde(default)]
    pub offload_wanted: bool,
    /// Number of its last publication. Absent in rows of earlier versions.
    #[serde(default)]
    pub version: u64,
}

#[derive(Serialize, Deserialize)]
struct VolunteerRow {
    key: VolunteerKey,
    name: PeerName,
    address: SocketAddr,
    offered: u64,
    /// Absent in rows of earlier versions.
    #[serde(default)]
    history: VolunteerHistory,
}

fn invalid(subject: impl Display, reason: impl Display) -> DbError {
    DbError::Invalid(format!("{subject}: {reason}"))
}

fn encode<T: Serialize>(row: &T) -> Result<Vec<u8>, DbError> {
    serde_json::to_vec(row).map_err(|error| DbError::Inconsistent(error.to_string()))
}

fn decode_file(id: FileId, bytes: &[u8]) -> Result<FileRow, DbError> {
    let row: FileRow = serde_json::from_slice(bytes).map_err(|error| invalid(named(id), error))?;
    match row.kept.file.id == id {
        true => Ok(row),
        false => Err(invalid(named(id), "the row has another id")),
    }
}

fn decode_manifest(row: &FileRow, payload: &[u8]) -> Result<Manifest, DbError> {
    let file = &row.kept.file;
    let sizes = ManifestSizes { size: file.size, chunk_size: row.chunk_size, index: row.index };
    let manifest =
        Manifest::decode(file.id, sizes, payload).map_err(|error| invalid(named(file.id), error))?;
    match manifest.layout().count() == file.chunks {
        true => Ok(manifest),
        false => Err(invalid(named(file.id), "the number of chunks differs from the manifest")),
    }
}

fn named(id: FileId) -> String {
    format!("file {id}")
}

/// Rejects a database of another program or of another schema version.
pub(super) fn check_version(database: &Database) -> Result<(), DbError> {
    let reading = database.begin_read()?;
    let meta = match reading.open_table(META) {
        Err(TableError::TableDoesNotExist(_)) => {
            return Err(DbError::Invalid("the file is a database of another program".to_owned()));
        }
        table => table?,
    };
    let version = meta.get(SCHEMA_KEY)?.map(|version| version.value());
    match version {
        Some(SCHEMA) => Ok(()),
        Some(other) => Err(DbError::Version(other)),
        None => Err(DbError::Invalid("the schema version is missing".to_owned())),
    }
}

/// Reads and verifies all rows and their references.
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
        let subject = || format!("chunks of file {id} at volunteer {}", number.0);
        let file = files.get(&id).ok_or_else(|| invalid(subject(), "unknown file"))?;
        if !volunteers.contains_key(&number) {
            return Err(invalid(subject(), "unknown volunteer"));
        }
        let map = Bitfield::from_bytes(file.layout.count(), bytes.value())
            .map_err(|error| invalid(subject(), error))?;
        if map.held() == 0 {
            return Err(invalid(subject(), "the bitmap is empty"));
        }
        held.push((id, number, map));
    }
    let mut forgotten = BTreeSet::new();
    for row in reading.open_table(FORGOTTEN)?.iter()? {
        let id = FileId(*row?.0.value());
        if files.contains_key(&id) {
            return Err(invalid(named(id), "the file is both kept and forgotten"));
        }
        forgotten.insert(id);
    }
    Ok(Contents {
        files: files.into_values().collect(),
        volunteers: volunteers.into_values().collect(),
        held,
        forgotten: forgotten.into_iter().collect(),
        corrupt: read_corrupt(&reading)?,
    })
}

fn read_files(reading: &ReadTransaction) -> Result<BTreeMap<FileId, FileRecord>, DbError> {
    let manifests = reading.open_table(MANIFESTS)?;
    let mut files = BTreeMap::new();
    for row in reading.open_table(FILES)?.iter()? {
        let (id, bytes) = row?;
        let id = FileId(*id.value());
        let row = decode_file(id, bytes.value())?;
        let payload = manifests.get(&id.0)?.ok_or_else(|| invalid(named(id), "the manifest is missing"))?;
        let layout = decode_manifest(&row, payload.value())?.layout().clone();
        files.insert(
            id,
            FileRecord {
                kept: row.kept,
                layout,
                offloaded: row.offloaded,
                kept_here: row.kept_here,
                offload_wanted: row.offload_wanted,
                version: row.version,
            },
        );
    }
    match manifests.len()? == files.len() as u64 {
        true => Ok(files),
        false => Err(DbError::Invalid("a manifest belongs to no file".to_owned())),
    }
}

fn read_corrupt(reading: &ReadTransaction) -> Result<Vec<(FileName, CorruptFile)>, DbError> {
    let table = match reading.open_table(CORRUPT) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        table => table?,
    };
    let mut corrupt = Vec::new();
    for row in table.iter()? {
        let (name, bytes) = row?;
        let subject = || format!("corrupt file {}", name.value());
        let file = serde_json::from_slice(bytes.value()).map_err(|error| invalid(subject(), error))?;
        corrupt.push((FileName::new(name.value()).map_err(|error| invalid(subject(), error))?, file));
    }
    Ok(corrupt)
}

fn read_volunteers(reading: &ReadTransaction) -> Result<BTreeMap<VolunteerNumber, VolunteerRecord>, DbError> {
    let mut volunteers = BTreeMap::new();
    for row in reading.open_table(VOLUNTEERS)?.iter()? {
        let (number, bytes) = row?;
        let number = VolunteerNumber(number.value());
        let VolunteerRow { key, name, address, offered, history } = serde_json::from_slice(bytes.value())
            .map_err(|error| invalid(format!("volunteer {}", number.0), error))?;
        volunteers.insert(number, VolunteerRecord { number, key, name, address, offered, history });
    }
    Ok(volunteers)
}

/// Reads the record of a file.
pub(super) fn file(database: &Database, id: FileId) -> Result<Option<FileRow>, DbError> {
    let table = database.begin_read()?.open_table(FILES)?;
    let row = table.get(&id.0)?;
    row.map(|bytes| decode_file(id, bytes.value())).transpose()
}

/// Reads the manifest of a file.
pub(super) fn manifest(database: &Database, id: FileId) -> Result<Option<Manifest>, DbError> {
    let reading = database.begin_read()?;
    let (files, manifests) = (reading.open_table(FILES)?, reading.open_table(MANIFESTS)?);
    let Some(row) = files.get(&id.0)? else { return Ok(None) };
    let row = decode_file(id, row.value())?;
    let payload = manifests.get(&id.0)?.ok_or_else(|| invalid(named(id), "the manifest is missing"))?;
    decode_manifest(&row, payload.value()).map(Some)
}

/// Adds a file, or updates name and MD5 of a known one. A file with a new name is the newest version of that name.
pub(super) fn put_file(
    writing: &WriteTransaction,
    kept: &KeptFile,
    manifest: &Manifest,
) -> Result<(), DbError> {
    let (id, layout) = (kept.file.id, manifest.layout());
    let mut files = writing.open_table(FILES)?;
    let known = files.get(&id.0)?.map(|bytes| decode_file(id, bytes.value())).transpose()?;
    let mut meta = writing.open_table(META)?;
    let version = meta.get(PUBLICATIONS_KEY)?.map_or(0, |last| last.value()).saturating_add(1);
    if known.as_ref().is_none_or(|row| row.kept.file.name != kept.file.name) {
        meta.insert(PUBLICATIONS_KEY, version)?;
    }
    let row = match known {
        Some(mut row) => {
            row.kept.md5 = kept.md5;
            let name = std::mem::replace(&mut row.kept.file.name, kept.file.name.clone());
            FileRow { version: if name == kept.file.name { row.version } else { version }, ..row }
        }
        None => FileRow {
            kept: kept.clone(),
            chunk_size: manifest.sizes().chunk_size,
            index: manifest.sizes().index,
            offloaded: false,
            kept_here: false,
            offload_wanted: false,
            version,
        },
    };
    let fits =
        manifest.id() == id && (layout.size(), layout.count()) == (row.kept.file.size, row.kept.file.chunks);
    if !fits {
        return Err(DbError::Inconsistent(format!("the manifest of {} belongs to another file", named(id))));
    }
    files.insert(&id.0, encode(&row)?.as_slice())?;
    writing.open_table(MANIFESTS)?.insert(&id.0, manifest.payload().as_slice())?;
    writing.open_table(FORGOTTEN)?.remove(&id.0)?;
    Ok(())
}

/// Applies changes in order.
pub(super) fn apply(writing: &WriteTransaction, changes: &[Change]) -> Result<(), DbError> {
    for change in changes {
        match change {
            Change::Volunteer(VolunteerRecord { number, key, name, address, offered, history }) => {
                let row = VolunteerRow {
                    key: *key,
                    name: name.clone(),
                    address: *address,
                    offered: *offered,
                    history: *history,
                };
                writing.open_table(VOLUNTEERS)?.insert(number.0, encode(&row)?.as_slice())?;
            }
            Change::VolunteerForgotten(number) => {
                writing.open_table(VOLUNTEERS)?.remove(number.0)?;
                writing.open_table(HELD)?.retain(|(_, volunteer), _| volunteer != number.0)?;
            }
            Change::Held { file, volunteer, chunks } => hold(writing, *file, *volunteer, chunks)?,
            Change::Offloaded(id, on) => change_file(writing, *id, |row| row.offloaded = *on)?,
            Change::Kept(id, on) => change_file(writing, *id, |row| row.kept_here = *on)?,
            Change::OffloadWanted(id, on) => change_file(writing, *id, |row| row.offload_wanted = *on)?,
            Change::Corrupt(name, file) => mark_corrupt(writing, name, file.as_ref())?,
            Change::Forgotten(id) => forget(writing, *id)?,
        }
    }
    Ok(())
}

/// Changes the row of a file; ignored if the file is not kept.
fn change_file(
    writing: &WriteTransaction,
    id: FileId,
    change: impl FnOnce(&mut FileRow),
) -> Result<(), DbError> {
    let mut files = writing.open_table(FILES)?;
    let row = files.get(&id.0)?.map(|bytes| decode_file(id, bytes.value())).transpose()?;
    let Some(mut row) = row else {
        log::debug!("change of {} ignored: the file is not kept", id.short());
        return Ok(());
    };
    change(&mut row);
    files.insert(&id.0, encode(&row)?.as_slice())?;
    Ok(())
}

fn hold(
    writing: &WriteTransaction,
    id: FileId,
    volunteer: VolunteerNumber,
    chunks: &Bitfield,
) -> Result<(), DbError> {
    let mut held = writing.open_table(HELD)?;
    if chunks.held() == 0 {
        held.remove((&id.0, volunteer.0))?;
        return Ok(());
    }
    let file = writing.open_table(FILES)?.get(&id.0)?.map(|bytes| decode_file(id, bytes.value()));
    let Some(row) = file.transpose()? else {
        log::debug!("chunks of {} at volunteer {} ignored: the file is not kept", id.short(), volunteer.0);
        return Ok(());
    };
    let subject = || format!("chunks of file {id} at volunteer {}", volunteer.0);
    if writing.open_table(VOLUNTEERS)?.get(volunteer.0)?.is_none() {
        return Err(DbError::Inconsistent(format!("{}: unknown volunteer", subject())));
    }
    if chunks.count() != row.kept.file.chunks {
        return Err(DbError::Inconsistent(format!("{}: the bitmap has another number of chunks", subject())));
    }
    held.insert((&id.0, volunteer.0), chunks.to_bytes().as_slice())?;
    Ok(())
}

fn mark_corrupt(
    writing: &WriteTransaction,
    name: &FileName,
    file: Option<&CorruptFile>,
) -> Result<(), DbError> {
    let mut corrupt = writing.open_table(CORRUPT)?;
    match file {
        Some(file) => drop(corrupt.insert(name.as_str(), encode(file)?.as_slice())?),
        None => drop(corrupt.remove(name.as_str())?),
    }
    Ok(())
}

/// Removes the marks of the corrupt copies of a file.
fn unmark_corrupt(writing: &WriteTransaction, id: FileId) -> Result<(), DbError> {
    let mut corrupt = writing.open_table(CORRUPT)?;
    let is_other =
        |bytes: &[u8]| serde_json::from_slice::<CorruptFile>(bytes).is_ok_and(|file| file.id != id);
    corrupt.retain(|_, bytes| is_other(bytes))?;
    Ok(())
}

fn forget(writing: &WriteTransaction, id: FileId) -> Result<(), DbError> {
    writing.open_table(FILES)?.remove(&id.0)?;
    writing.open_table(MANIFESTS)?.remove(&id.0)?;
    writing.open_table(HELD)?.retain_in((&id.0, 0)..=(&id.0, u32::MAX), |_, _| false)?;
    writing.open_table(FORGOTTEN)?.insert(&id.0, ())?;
    unmark_corrupt(writing, id)
}
