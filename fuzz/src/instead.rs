//! Files that are kept for others, and what may be found in the place of what was written of them.

use arbitrary::Arbitrary;
use serde_json::Value;
use shoal::content::{Digest, FileName, Layout, Manifest, Md5};
use shoal::protocol::tracker::FileSummary;
use shoal::protocol::volunteer::KeptFile;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

/// A file that is kept, and its chunks.
pub struct Sample {
    pub kept: KeptFile,
    pub manifest: Arc<Manifest>,
    pub chunks: Vec<Vec<u8>>,
}

impl Sample {
    /// One of unequal chunks, an empty one among them, or one of equal chunks and the rest.
    pub fn new(uneven: bool) -> Self {
        let lengths: &[u32] = if uneven { &[10, 0, 131] } else { &[16_384, 7] };
        let layout = match uneven {
            true => Layout::uneven(lengths.iter().copied()),
            false => Layout::even(lengths.iter().copied().map(u64::from).sum(), Some(lengths[0])),
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

/// A value of a field of JSON.
#[derive(Arbitrary, Debug)]
pub enum Said {
    Nothing,
    Null,
    Number(u64),
    /// A little more or less than what is right.
    Near(i8),
    Text(String),
}

/// What is found in the place of what was written.
#[derive(Arbitrary, Debug)]
pub enum Instead {
    Right,
    Absent,
    Bytes(Vec<u8>),
    Cut(u16),
    Changed(u16, u8),
    Longer(u8),
    /// A field of the JSON that it begins with says something else.
    Field(u8, Said),
}

impl Instead {
    /// The bytes, where these would be right.
    pub fn of(&self, right: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = right.to_vec();
        match self {
            Instead::Right => {}
            Instead::Absent => return None,
            Instead::Bytes(bytes) => return Some(bytes.clone()),
            Instead::Cut(at) => bytes.truncate(usize::from(*at)),
            Instead::Longer(byte) => bytes.push(*byte),
            Instead::Changed(at, byte) => {
                let at = usize::from(*at) % bytes.len().max(1);
                bytes.iter_mut().skip(at).take(1).for_each(|there| *there ^= byte);
            }
            Instead::Field(which, said) => {
                let mut values = serde_json::Deserializer::from_slice(right).into_iter::<Value>();
                let Some(Ok(Value::Object(mut fields))) = values.next() else { return Some(bytes) };
                let rest = values.byte_offset();
                let Some(name) = fields.keys().nth(usize::from(*which) % fields.len()).cloned() else {
                    return Some(bytes);
                };
                let value = match said {
                    Said::Nothing => None,
                    Said::Null => Some(Value::Null),
                    Said::Number(number) => Some((*number).into()),
                    Said::Near(by) => {
                        let there = fields[&name].as_u64().unwrap_or_default();
                        Some(there.wrapping_add_signed((*by).into()).into())
                    }
                    Said::Text(text) => Some(text.as_str().into()),
                };
                match value {
                    Some(value) => _ = fields.insert(name, value),
                    None => _ = fields.remove(&name),
                }
                let fields = Value::Object(fields).to_string().into_bytes();
                bytes = [fields, right[rest..].to_vec()].concat();
            }
        }
        Some(bytes)
    }
}

/// A folder for one run, in memory where there is such a place.
pub fn folder() -> TempDir {
    let place = if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" };
    tempfile::tempdir_in(place).expect("a folder")
}
