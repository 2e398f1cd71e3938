//! State of the chunks of a set that its members wait for, as the tracker reports it.

use super::limited::list;
use crate::content::limits::REPORTED_NAMES_MAX;
use crate::content::{ChunkIndex, PeerName};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A chunk without an agreed hash, and the reason.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WaitingChunk {
    /// Index of the chunk, counted from 0.
    pub index: ChunkIndex,
    /// Largest number of clients with equal claims; 0 if no client claims the chunk.
    pub agree: u32,
    /// Number of equal claims that make an agreement.
    pub quorum: u32,
    /// Names of some clients whose claims differ from each other.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "list::<REPORTED_NAMES_MAX, _, _>"
    )]
    pub differ: Vec<PeerName>,
    /// The last client that held the chunk, if it has disconnected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastHolder>,
}

/// A client that held a chunk and has disconnected.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LastHolder {
    /// Name of the client.
    pub name: PeerName,
    /// Time since it disconnected, seconds.
    pub seconds: u64,
}

impl fmt::Display for WaitingChunk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, agree, quorum, differ, last } = self;
        match (agree, last) {
            (0, None) => write!(formatter, "chunk {index}: no holder")?,
            (0, Some(LastHolder { name, seconds })) => {
                write!(formatter, "chunk {index}: no holder; {name} had it, disconnected {seconds} s ago")?;
            }
            _ => write!(formatter, "chunk {index}: {agree} of {quorum} clients agree")?,
        }
        match &differ[..] {
            [] => Ok(()),
            [names @ .., last] if !names.is_empty() => {
                let names: Vec<_> = names.iter().map(PeerName::as_str).collect();
                write!(formatter, "; the chunks of {} and {last} differ", names.join(", "))
            }
            names => write!(formatter, "; {} clients differ", names.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_gives_the_reason() {
        let name = |text: &str| PeerName::new(text).unwrap();
        let chunk = |agree, differ: &[&str], last: Option<(&str, u64)>| {
            let last = last.map(|(text, seconds)| LastHolder { name: name(text), seconds });
            let differ = differ.iter().copied().map(name).collect();
            WaitingChunk { index: ChunkIndex(2), agree, quorum: 2, differ, last }.to_string()
        };
        assert_eq!(chunk(1, &[], None), "chunk 3: 1 of 2 clients agree");
        assert_eq!(chunk(0, &[], None), "chunk 3: no holder");
        assert_eq!(chunk(0, &[], Some(("bob", 40))), "chunk 3: no holder; bob had it, disconnected 40 s ago");
        assert_eq!(
            chunk(1, &["ann", "bob", "eve"], None),
            "chunk 3: 1 of 2 clients agree; the chunks of ann, bob and eve differ"
        );
    }
}
