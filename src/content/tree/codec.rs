//! Binary form of an entry. It is self-contained: it contains no count, no offset and no reference by number.
//!
//! Unsigned numbers are LEB128 (7 bits in each byte, the lowest first, in the fewest bytes), signed ones are mapped to
//! unsigned ones first (zigzag). Reading checks nothing but the form; [`TreeIndex`](super::TreeIndex) checks the rest.

use super::entry::{Entry, EntryKind, Hole, Mtime};
use super::path::TreePath;

const DIRECTORY: u8 = 0;
const FILE: u8 = 1;
const SPARSE_FILE: u8 = 2;
const LINK: u8 = 3;
const HARD_LINK: u8 = 4;
/// Bit of the kind: user id and group id follow.
const HAS_OWNER: u8 = 0x10;

/// Appends the binary form of an entry.
pub(super) fn write(entry: &Entry, bytes: &mut Vec<u8>) {
    write_bytes(entry.path.bytes(), bytes);
    let tag = match &entry.kind {
        EntryKind::Directory => DIRECTORY,
        EntryKind::File { holes, .. } if holes.is_empty() => FILE,
        EntryKind::File { .. } => SPARSE_FILE,
        EntryKind::Link { .. } => LINK,
        EntryKind::HardLink { to } => {
            bytes.push(HARD_LINK);
            return write_bytes(to.bytes(), bytes);
        }
    };
    bytes.push(tag | if entry.owner.is_some() { HAS_OWNER } else { 0 });
    write_number(entry.mode.into(), bytes);
    let Mtime { seconds, nanoseconds } = entry.modified;
    write_number(((seconds << 1) ^ (seconds >> 63)) as u64, bytes);
    write_number(nanoseconds.into(), bytes);
    if let Some((user, group)) = entry.owner {
        write_number(user.into(), bytes);
        write_number(group.into(), bytes);
    }
    match &entry.kind {
        EntryKind::File { size, holes } => {
            write_number(*size, bytes);
            if !holes.is_empty() {
                write_number(holes.len() as u64, bytes);
            }
            let mut end = 0;
            for Hole { offset, length } in holes {
                write_number(offset - end, bytes);
                write_number(*length, bytes);
                end = offset + length;
            }
        }
        EntryKind::Link { target } => write_bytes(target, bytes),
        EntryKind::Directory | EntryKind::HardLink { .. } => {}
    }
}

/// Reads an entry from the start of `bytes`, and the number of its bytes; `None` if the form is wrong.
///
/// `file_of` gives the entry to which a hard link refers: its metadata is that of the hard link.
pub(super) fn read(bytes: &[u8], file_of: impl FnOnce(&[u8]) -> Option<Entry>) -> Option<(Entry, usize)> {
    let mut rest = bytes;
    let path = TreePath::new(read_bytes(&mut rest)?).ok()?;
    let (tag, after) = rest.split_first()?;
    rest = after;
    if *tag == HARD_LINK {
        let to = TreePath::new(read_bytes(&mut rest)?).ok()?;
        let Entry { mode, modified, owner, .. } = file_of(to.bytes())?;
        let entry = Entry { path, mode, modified, owner, kind: EntryKind::HardLink { to } };
        return Some((entry, bytes.len() - rest.len()));
    }
    let mode = u16::try_from(read_number(&mut rest)?).ok()?;
    let zigzag = read_number(&mut rest)?;
    let seconds = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
    let nanoseconds = u32::try_from(read_number(&mut rest)?).ok()?;
    let mut owner = None;
    if tag & HAS_OWNER != 0 {
        let mut id = || read_number(&mut rest).and_then(|id| u32::try_from(id).ok());
        owner = Some((id()?, id()?));
    }
    let kind = match tag & !HAS_OWNER {
        DIRECTORY => EntryKind::Directory,
        FILE => EntryKind::File { size: read_number(&mut rest)?, holes: Vec::new() },
        SPARSE_FILE => {
            let size = read_number(&mut rest)?;
            EntryKind::File { size, holes: read_holes(&mut rest)? }
        }
        LINK => EntryKind::Link { target: read_bytes(&mut rest)?.to_vec() },
        _ => return None,
    };
    let modified = Mtime { seconds, nanoseconds };
    Some((Entry { path, mode, modified, owner, kind }, bytes.len() - rest.len()))
}

/// Reads the path of the entry at the start of `bytes`.
pub(super) fn read_path(mut bytes: &[u8]) -> Option<&[u8]> {
    read_bytes(&mut bytes)
}

fn read_holes(rest: &mut &[u8]) -> Option<Vec<Hole>> {
    let count = read_number(rest)?;
    // Each hole has at least two bytes: this bounds the memory.
    if count == 0 || count > rest.len() as u64 / 2 {
        return None;
    }
    let mut holes = Vec::with_capacity(count as usize);
    let mut end = 0u64;
    for _ in 0..count {
        let offset = end.checked_add(read_number(rest)?)?;
        let length = read_number(rest)?;
        end = offset.checked_add(length)?;
        holes.push(Hole { offset, length });
    }
    Some(holes)
}

fn write_bytes(value: &[u8], bytes: &mut Vec<u8>) {
    write_number(value.len() as u64, bytes);
    bytes.extend_from_slice(value);
}

fn read_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(read_number(rest)?).ok()?;
    let (value, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(value)
}

fn write_number(mut number: u64, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn read_number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        let bits = u64::from(byte & 0x7f);
        let shifted = bits << shift;
        if shifted >> shift != bits {
            return None;
        }
        number |= shifted;
        if byte & 0x80 == 0 {
            // The fewest bytes: the last one of several is not 0.
            return (*byte != 0 || shift == 0).then_some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_have_one_form() {
        let read = |mut bytes: &[u8]| read_number(&mut bytes);
        assert_eq!(read(&[0]), Some(0));
        assert_eq!(read(&[0x80, 1]), Some(128));
        assert_eq!(read(&[0x80, 0]), None, "too long");
        assert_eq!(read(&[0x80]), None, "truncated");
        assert_eq!(read(&[0xff; 9]), None);
        let largest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(read(&largest), Some(u64::MAX));
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]), None, "65 bits");
    }

    proptest! {
        #[test]
        fn reading_restores_a_number(number: u64) {
            let mut bytes = Vec::new();
            write_number(number, &mut bytes);
            prop_assert_eq!(read_number(&mut &bytes[..]), Some(number));
        }
    }
}
