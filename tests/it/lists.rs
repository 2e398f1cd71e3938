//! An invalid `local_chunks.txt` is refused with the file name and the line number.

use crate::common::*;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Starts a client on a folder that it must refuse before it contacts a tracker. Returns the reason that follows the
/// path of the list.
#[track_caller]
fn refusal(dir: &Path, folder: &Path) -> String {
    let unused = "127.0.0.1:9".parse().unwrap();
    let mut client = client(dir, folder, "client", unused, &[]);
    client.ends_with(17);
    let error = client.wait_for("an error", |line| line.contains(" - ERROR - "));
    let (_, text) = error.split_once(" - ERROR - ").unwrap();
    let list = folder.join("local_chunks.txt");
    let reason = text.strip_prefix(&format!("{}: ", list.display()));
    reason.unwrap_or_else(|| panic!("the file is not named: {text}")).to_owned()
}

#[test]
fn an_invalid_line_is_reported_with_its_number() {
    let place = place();
    let (dir, folder) = (place.path(), subfolder(place.path(), "folder"));
    for name in ["a", "b", "c"] {
        write(&folder, name, b"bytes");
    }
    let long = format!("1,a\n2,{}\n3,LASTCHUNK\n", "x".repeat(300));
    for (list, line, reason) in [
        ("1,a\n\n2,b\n2,LASTCHUNK\n", 2, "the line is empty"),
        ("", 1, "for a folder without chunks this line alone is enough"),
        ("1,a\n2,b\n1,c\n3,LASTCHUNK\n", 3, "chunk 1 is listed twice (first in line 1)"),
        ("1,a\n2,a\n3,LASTCHUNK\n", 2, "listed twice (first in line 1)"),
        ("1,a\n4,b\n3,LASTCHUNK\n", 2, "chunk 4 is above the number of chunks, 3"),
        ("1,a\n2,b\n", 2, "the last line must be"),
        ("1,a\n3,LASTCHUNK\n2,b\n", 3, "a line after LASTCHUNK"),
        ("1 a\n3,LASTCHUNK\n", 1, "expected \"<number>,<file name>\", found \"1 a\""),
        ("x,a\n3,LASTCHUNK\n", 1, "\"x\" is not a chunk number"),
        ("0,a\n3,LASTCHUNK\n", 1, "\"0\" is not a chunk number"),
        ("-1,a\n3,LASTCHUNK\n", 1, "\"-1\" is not a chunk number"),
        ("1,a\n99999999999,LASTCHUNK\n", 2, "is not a chunk number"),
        ("1,a\n4000000,LASTCHUNK\n", 2, "chunks are more than"),
        ("1,../logs.log\n3,LASTCHUNK\n", 1, "not a file in this folder"),
        ("1,a\n2,/etc/passwd\n3,LASTCHUNK\n", 2, "not a file in this folder"),
        ("1,.\n3,LASTCHUNK\n", 1, "not a file in this folder"),
        ("1,a/../../b\n3,LASTCHUNK\n", 1, "not a file in this folder"),
        ("1,nul\0byte\n3,LASTCHUNK\n", 1, "not a file in this folder"),
        ("1,CON.txt\n3,LASTCHUNK\n", 1, "chunk 1, file \"CON.txt\": file not found"),
        ("1,\n3,LASTCHUNK\n", 1, "not a file in this folder: the name is empty"),
        (&long, 2, "not a file in this folder: the name has 300 bytes"),
        ("1,a\n2,nowhere\n3,LASTCHUNK\n", 2, "chunk 2, file \"nowhere\": file not found"),
        ("1,local_chunks.txt\n3,LASTCHUNK\n", 1, "the list itself cannot be a chunk"),
    ] {
        write(&folder, "local_chunks.txt", list.as_bytes());
        let got = refusal(dir, &folder);
        assert!(got.starts_with(&format!("line {line}: ")) && got.contains(reason), "{list:?}: {got}");
    }
    write(&folder, "local_chunks.txt", b"1,a\n2,\xff\n3,LASTCHUNK\n");
    assert_eq!(refusal(dir, &folder), "line 2: not UTF-8 text");
}

#[test]
fn a_chunk_that_is_not_a_regular_file_in_the_folder_is_refused() {
    let place = place();
    let (dir, folder) = (place.path(), subfolder(place.path(), "folder"));
    write(&folder, "local_chunks.txt", b"1,a\n2,b\n3,LASTCHUNK\n");
    write(&folder, "a", b"bytes");
    subfolder(&folder, "b");
    assert_eq!(refusal(dir, &folder), "line 2: chunk 2, file \"b\": not a regular file");
    std::fs::remove_dir(folder.join("b")).unwrap();
    let outside = write(dir, "outside", b"secret");
    symlink(&outside, folder.join("b")).unwrap();
    let got = refusal(dir, &folder);
    assert!(got.starts_with("line 2: chunk 2, file \"b\": outside the folder"), "{got}");
}

#[test]
fn a_missing_folder_and_a_missing_list_are_refused() {
    let place = place();
    let dir = place.path();
    let unused = "127.0.0.1:9".parse().unwrap();
    let mut lost = client(dir, &dir.join("nowhere"), "client", unused, &[]);
    lost.ends_with(17);
    lost.wait_for_text("nowhere");
    let empty = subfolder(dir, "empty");
    let mut lost = client(dir, &empty, "client", unused, &[]);
    lost.ends_with(17);
    lost.wait_for_text("empty/local_chunks.txt");
}
