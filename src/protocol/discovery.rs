//! Discovery datagrams: a question by multicast to all hosts of a network, answers by unicast.
//!
//! A question names a file or an id only as a digest: a receiver that does not know the name cannot find it out; file names are
//! sent in answers only. A question is padded with white space to [`QUESTION_BYTES`] bytes. Invariant: an answer is not
//! longer than its question, so that a forged source address gains nothing.

use super::file_summary::FileSummary;
use super::tokens::Nonce;
use crate::content::limits::{DATAGRAM_MAX, PROTOCOL_VERSION};
use crate::content::{Digest, FileId, FileName, Hasher};
use serde::{Deserialize, Serialize};

/// Size of a question, and largest size of an answer, bytes.
pub const QUESTION_BYTES: usize = DATAGRAM_MAX;

/// A question to all hosts of a network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Question {
    /// [`PROTOCOL_VERSION`].
    pub v: u32,
    /// Random number, repeated in the answers.
    pub tx: Nonce,
    /// What is sought.
    #[serde(flatten)]
    pub wanted: Wanted,
}

/// The subject of a question.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "find", rename_all = "snake_case")]
pub enum Wanted {
    /// Files with a name.
    Name {
        /// The [digest](name_digest) of the name.
        digest: Digest,
    },
    /// Files with an id.
    Id {
        /// The [digest](id_digest) of the id.
        digest: Digest,
    },
    /// All files.
    Files,
    /// Trackers.
    Tracker,
    /// Managers.
    Manager,
    /// The subject of a later version.
    #[serde(other)]
    Unknown,
}

/// An answer to a question, from the address at which the service is reached.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// [`PROTOCOL_VERSION`].
    pub v: u32,
    /// The random number of the question.
    pub tx: Nonce,
    /// Number that the program has drawn at its start: its answers from several addresses belong together.
    pub program: Nonce,
    /// What was found.
    #[serde(flatten)]
    pub service: Service,
}

/// A service of a host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "found", rename_all = "snake_case")]
pub enum Service {
    /// Files that match the question.
    Files {
        /// TCP port on which they are served.
        port: u16,
        /// The files.
        files: Vec<FileSummary>,
        /// More files match: request the list over TCP.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        truncated: bool,
    },
    /// A tracker.
    Tracker {
        /// Its port, TCP and UDP.
        port: u16,
    },
    /// A manager.
    Manager {
        /// Its port, TCP and UDP.
        port: u16,
    },
    /// The service of a later version.
    #[serde(other)]
    Unknown,
}

impl Question {
    /// A question of this protocol version.
    pub fn new(tx: Nonce, wanted: Wanted) -> Self {
        Self { v: PROTOCOL_VERSION, tx, wanted }
    }

    /// Encodes the question, padded to [`QUESTION_BYTES`].
    pub fn encode(&self) -> Vec<u8> {
        // A struct of numbers and digests has a JSON form.
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.resize(QUESTION_BYTES, b' ');
        bytes
    }

    /// Decodes a question of this protocol version; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let question: Self = serde_json::from_slice(bytes).ok()?;
        (question.v == PROTOCOL_VERSION && question.wanted != Wanted::Unknown).then_some(question)
    }

    /// Whether a file is sought.
    pub fn matches(&self, file: &FileSummary) -> bool {
        match &self.wanted {
            Wanted::Name { digest } => *digest == name_digest(self.tx, &file.name),
            Wanted::Id { digest } => *digest == id_digest(self.tx, file.id),
            Wanted::Files => true,
            Wanted::Tracker | Wanted::Manager | Wanted::Unknown => false,
        }
    }
}

impl Answer {
    /// Encodes the answer in at most `bytes_max` bytes: files that do not fit are left out. `None` if not even one fits.
    pub fn encode(mut self, bytes_max: usize) -> Option<Vec<u8>> {
        loop {
            let bytes = serde_json::to_vec(&self).ok()?;
            if bytes.len() <= bytes_max {
                return Some(bytes);
            }
            let Service::Files { files, truncated, .. } = &mut self.service else { return None };
            if files.len() <= 1 {
                return None;
            }
            files.truncate(files.len() / 2);
            *truncated = true;
        }
    }

    /// Decodes an answer of this protocol version to a question; `None` for anything else.
    pub fn decode(bytes: &[u8], question: &Question) -> Option<Self> {
        let answer: Self = serde_json::from_slice(bytes).ok()?;
        (answer.v == PROTOCOL_VERSION && answer.tx == question.tx).then_some(answer)
    }
}

/// Digest that stands for a file name in a question: SHA-256 of "shoal find name", the random number of the question (16
/// bytes, big-endian), and the name.
pub fn name_digest(tx: Nonce, name: &FileName) -> Digest {
    digest(b"shoal find name", tx, name.as_str().as_bytes())
}

/// Digest that stands for a file id in a question: SHA-256 of "shoal find id", the random number of the question (16
/// bytes, big-endian), and the id.
pub fn id_digest(tx: Nonce, id: FileId) -> Digest {
    digest(b"shoal find id", tx, &id.0)
}

fn digest(subject: &[u8], tx: Nonce, value: &[u8]) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(subject);
    hasher.update(&tx.0.to_be_bytes());
    hasher.update(value);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, number: u8) -> FileSummary {
        FileSummary { id: FileId([number; 32]), name: FileName::new(name).unwrap(), size: 9, chunks: 1 }
    }

    const TX: Nonce = Nonce(9);

    #[test]
    fn questions_have_a_fixed_form_and_length() {
        let question = Question::new(TX, Wanted::Tracker);
        let bytes = question.encode();
        let text = std::str::from_utf8(&bytes).unwrap();
        assert_eq!(text.trim_end(), r#"{"v":5,"tx":"00000000000000000000000000000009","find":"tracker"}"#);
        assert_eq!(bytes.len(), QUESTION_BYTES);
        assert_eq!(Question::decode(&bytes), Some(question));
        for other in [&b"{}"[..], b"", br#"{"v":1,"tx":"00000000000000000000000000000009","find":"tracker"}"#]
        {
            assert_eq!(Question::decode(other), None);
        }
        let later = br#"{"v":5,"tx":"00000000000000000000000000000009","find":"dance"}"#;
        assert_eq!(Question::decode(later), None);
    }

    #[test]
    fn a_file_matches_by_the_digest_of_its_name_or_id() {
        let one = file("a.bin", 1);
        let by_name = Question::new(TX, Wanted::Name { digest: name_digest(TX, &one.name) });
        let by_id = Question::new(TX, Wanted::Id { digest: id_digest(TX, one.id) });
        for question in [by_name, by_id] {
            assert!(question.matches(&one) && !question.matches(&file("b.bin", 2)));
            assert!(!String::from_utf8(question.encode()).unwrap().contains("a.bin"));
            assert!(!Question { tx: Nonce(8), ..question }.matches(&one), "an earlier digest does not match");
        }
    }

    #[test]
    fn an_answer_is_cut_to_the_length_of_its_question() {
        let files: Vec<FileSummary> = (0..50).map(|number| file(&format!("file {number}"), number)).collect();
        let service = Service::Files { port: 7000, files: files.clone(), truncated: false };
        let question = Question::new(TX, Wanted::Files);
        let bytes =
            Answer { v: PROTOCOL_VERSION, tx: TX, program: TX, service }.encode(QUESTION_BYTES).unwrap();
        assert!(bytes.len() <= QUESTION_BYTES);
        match Answer::decode(&bytes, &question).unwrap().service {
            Service::Files { files: sent, truncated: true, .. } => {
                assert!(!sent.is_empty() && files.starts_with(&sent));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(Answer::decode(&bytes, &Question::new(Nonce(8), Wanted::Files)), None);
        let service = Service::Files { port: 7000, files, truncated: false };
        assert_eq!(Answer { v: PROTOCOL_VERSION, tx: TX, program: TX, service }.encode(100), None);
    }
}
