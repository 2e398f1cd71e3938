//! Stored files, and mutations of their content as they may be found on a disk.

use arbitrary::Arbitrary;
use serde_json::Value;
use shoal::content::{Digest, FileName, Layout, Manifest, Md5};
use shoal::protocol::tracker::FileSummary;
use shoal::protocol::volunteer::KeptFile;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

/// A stored file and its chunks.
pub struct Sample {
    pub kept: KeptFile,
    pub manifest: Arc<Manifest>,
    pub chunks: Vec<Vec<u8>>,
}

impl Sample {
    /// A file with chunks of unequal size, one of them empty, or of equal chunks and a shorter last one.
    pub fn new(uneven: bool) -> Self {
        let lengths: &[u64] = if uneven { &[10, 0, 131] } else { &[16_384, 7] };
        let layout = match uneven {
            true => Layout::uneven(lengths.iter().copied()),
            false => Layout::even(lengths.iter().sum(), Some(lengths[0] as u32)),
        };
        let chunks: Vec<Vec<u8>> = lengths.iter().map(|length| vec![7; *length as usize]).collect();
        let digests = chunks.iter().map(|chunk| Digest::of(chunk)).collect();
        let manifest = Manifest::new(layout.expect("a layout"), digests).expect("a digest for each chunk");
        let name = FileName::new(if uneven { "uneven" } else { "even" }).expect("a name");
        let (size, chunks_there) = (manifest.layout().size(), manifest.layout().count());
        let file = FileSummary { id: manifest.id(), name, size, chunks: chunks_there };
        Self { kept: KeptFile { file, md5: Md5([5; 16]) }, manifest: Arc::new(manifest), chunks }
    }
}

/// A replacement for the value of a JSON field.
#[derive(Arbitrary, Debug)]
pub enum JsonValue {
    Removed,
    Null,
    Number(u64),
    /// The original number plus this offset.
    Near(i8),
    Text(String),
}

/// A mutation of the content of a file.
#[derive(Arbitrary, Debug)]
pub enum Mutation {
    Unchanged,
    Absent,
    Bytes(Vec<u8>),
    Truncated(u16),
    Changed(u16, u8),
    Extended(u8),
    /// One field of the JSON object at the beginning is replaced or removed.
    Field(u8, JsonValue),
}

impl Mutation {
    /// The mutated content; `None` if the file is absent.
    pub fn of(&self, original: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = original.to_vec();
        match self {
            Mutation::Unchanged => {}
            Mutation::Absent => return None,
            Mutation::Bytes(bytes) => return Some(bytes.clone()),
            Mutation::Truncated(at) => bytes.truncate(usize::from(*at)),
            Mutation::Extended(byte) => bytes.push(*byte),
            Mutation::Changed(at, byte) => {
                let at = usize::from(*at) % bytes.len().max(1);
                bytes.iter_mut().skip(at).take(1).for_each(|there| *there ^= byte);
            }
            Mutation::Field(selector, value) => {
                let mut values = serde_json::Deserializer::from_slice(original).into_iter::<Value>();
                let Some(Ok(Value::Object(mut fields))) = values.next() else { return Some(bytes) };
                let rest = values.byte_offset();
                let Some(name) = fields.keys().nth(usize::from(*selector) % fields.len()).cloned() else {
                    return Some(bytes);
                };
                let replacement = match value {
                    JsonValue::Removed => None,
                    JsonValue::Null => Some(Value::Null),
                    JsonValue::Number(number) => Some((*number).into()),
                    JsonValue::Near(by) => {
                        let there = fields[&name].as_u64().unwrap_or_default();
                        Some(there.wrapping_add_signed((*by).into()).into())
                    }
                    JsonValue::Text(text) => Some(text.as_str().into()),
                };
                match replacement {
                    Some(value) => _ = fields.insert(name, value),
                    None => _ = fields.remove(&name),
                }
                let fields = Value::Object(fields).to_string().into_bytes();
                bytes = [fields, original[rest..].to_vec()].concat();
            }
        }
        Some(bytes)
    }
}

/// A temporary folder for one run, in memory if possible.
pub fn folder() -> TempDir {
    let place = if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" };
    tempfile::tempdir_in(place).expect("a folder")
}
