//! Members with plain folders: all files in them are shared, files of other members are downloaded from all holders,
//! and received data is shared immediately.

mod downloads;
mod sharing;
mod startup;

use crate::common::wire::Whole;
use crate::common::*;
use shoal::content::FileId;
use shoal::content::limits::CHUNK_SIZE;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The file that a member offers for these bytes, in chunks of the default size.
fn whole(bytes: &[u8]) -> Whole {
    Whole::new(bytes.to_vec(), CHUNK_SIZE)
}

fn id_of(bytes: &[u8]) -> FileId {
    whole(bytes).id()
}

/// Creates a folder with files.
fn folder(dir: &Path, name: &str, files: &[(&str, &[u8])]) -> PathBuf {
    let folder = subfolder(dir, name);
    files.iter().for_each(|(name, bytes)| _ = write(&folder, name, bytes));
    folder
}

/// Starts a member that serves, and returns when all of its files are shared.
#[track_caller]
fn holder(dir: &Path, name: &str, files: &[(&str, &[u8])], manager: SocketAddr, extra: &[&str]) -> Program {
    let program = member(dir, &folder(dir, name, files), name, manager, &[&["-v"], extra].concat());
    files.iter().for_each(|(file, _)| _ = program.wait_for_text(&format!("- sharing {file}, ")));
    program
}

/// Starts a member with its own folder that downloads files and exits.
fn getter(dir: &Path, name: &str, manager: SocketAddr, files: &[&str], extra: &[&str]) -> Program {
    let wishes: Vec<&str> = files.iter().flat_map(|file| ["--get", file]).collect();
    start_member(dir, &subfolder(dir, name), name, manager, &[&wishes, extra].concat())
}
