//! Finds the volunteer or the file that the owner has named.
//!
//! Pure. A complete key print or id always means its own volunteer or file, so that no other one can hide it behind its
//! name. Otherwise several matches are listed, and none is chosen. Invariant: a text matches by all its meanings at
//! once, so a volunteer cannot take a name that is the prefix of another volunteer's key.

use super::LISTED_MAX;
use crate::content::limits::{ID_PREFIX_MIN, KEY_PREFIX_MIN};
use crate::content::{FileId, FileName, PeerName};
use crate::protocol::volunteer::KeptFile;
use crate::swarm::command::{Answer, FileSelector, Refusal, VolunteerSelector};
use crate::swarm::keeping::{VolunteerNumber, VolunteerRecord};
use std::net::{IpAddr, SocketAddr};

/// Number of digits of a file id in texts for people.
const ID_DIGITS: usize = 12;

/// The first digits of a file id.
pub(super) fn id_prefix(id: FileId) -> String {
    id.to_string().chars().take(ID_DIGITS).collect()
}

/// Name, address and key prefix of a volunteer.
pub(super) fn describe(record: &VolunteerRecord) -> String {
    format!("{} at {} (key {})", record.name, record.address, record.key.print().short())
}

/// Whether a text is a prefix of at least `least` digits of these hexadecimal digits.
fn is_prefix(text: &str, digits: &str, least: usize) -> bool {
    text.len() >= least && digits.starts_with(&text.to_ascii_lowercase())
}

/// The volunteer that the owner has named.
///
/// # Errors
/// No volunteer matches, or several match: the answer lists them.
pub(super) fn volunteer<'a>(
    VolunteerSelector(text): &VolunteerSelector,
    known: impl Iterator<Item = &'a VolunteerRecord>,
) -> Result<VolunteerNumber, Answer> {
    let name = PeerName::new(text.as_str()).ok();
    let (address, ip) = (text.parse::<SocketAddr>().ok(), text.parse::<IpAddr>().ok());
    let mut matches = Vec::new();
    for record in known {
        let print = record.key.print().to_string();
        if text.eq_ignore_ascii_case(&print) {
            return Ok(record.number);
        }
        let is_match = name.as_ref() == Some(&record.name)
            || address == Some(record.address)
            || ip == Some(record.address.ip())
            || is_prefix(text, &print, KEY_PREFIX_MIN);
        if is_match {
            matches.push(record);
        }
    }
    match matches[..] {
        [one] => Ok(one.number),
        [] => {
            let text = format!(
                "no volunteer matches {text:?}; name it by its name, its address or the start of its key"
            );
            Err(Answer::refused(Refusal::NotFound, text))
        }
        _ => {
            let all: Vec<String> = matches.iter().map(|record| describe(record)).collect();
            let text = format!("several volunteers match {text:?}; name one by its key: {}", listed(&all));
            Err(Answer::refused(Refusal::Ambiguous, text))
        }
    }
}

/// A kept file that may be named by the owner.
pub(super) struct Candidate<'a> {
    pub kept: &'a KeptFile,
    /// The folder of offered files has it: it is the current version of its name.
    pub in_folder: bool,
    /// Number of its last publication.
    pub version: u64,
}

/// The file that the owner has named, and the older versions of its name.
///
/// # Errors
/// No file matches, or several ids begin with the text: the answer lists them.
pub(super) fn file<'a>(
    FileSelector(text): &FileSelector,
    known: impl Iterator<Item = Candidate<'a>>,
) -> Result<(FileId, Vec<FileId>), Answer> {
    let name = FileName::new(text.as_str()).ok();
    let (mut named, mut by_id) = (Vec::new(), Vec::new());
    for candidate in known {
        let id = candidate.kept.file.id.to_string();
        if text.eq_ignore_ascii_case(&id) {
            return Ok((candidate.kept.file.id, Vec::new()));
        }
        if name.as_ref() == Some(&candidate.kept.file.name) {
            named.push(candidate);
        } else if is_prefix(text, &id, ID_PREFIX_MIN) {
            by_id.push(candidate);
        }
    }
    named.sort_by_key(|candidate| {
        (!candidate.in_folder, u64::MAX - candidate.version, candidate.kept.file.id)
    });
    match (&named[..], &by_id[..]) {
        ([], [one]) => Ok((one.kept.file.id, Vec::new())),
        // An exact name takes precedence over the first digits of an id.
        ([newest, older @ ..], _) => {
            Ok((newest.kept.file.id, older.iter().map(|older| older.kept.file.id).collect()))
        }
        ([], []) => {
            let text = format!(
                "no kept file matches {text:?}; name it by its name or by at least {ID_PREFIX_MIN} digits of its id"
            );
            Err(Answer::refused(Refusal::NotFound, text))
        }
        _ => {
            let all: Vec<String> = by_id
                .iter()
                .map(|candidate| {
                    format!("{} ({})", candidate.kept.file.name, id_prefix(candidate.kept.file.id))
                })
                .collect();
            let text = format!("several files match {text:?}; name one by its id: {}", listed(&all));
            Err(Answer::refused(Refusal::Ambiguous, text))
        }
    }
}

/// The first entries of a list, and the number of the others.
pub(super) fn listed(all: &[String]) -> String {
    let shown = all.iter().take(LISTED_MAX).cloned().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(LISTED_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Md5;
    use crate::protocol::tokens::VolunteerKey;
    use crate::protocol::tracker::FileSummary;
    use crate::swarm::keeping::VolunteerHistory;
    use proptest::prelude::*;

    fn record(number: u32, name: &str, address: &str) -> VolunteerRecord {
        VolunteerRecord {
            number: VolunteerNumber(number),
            key: VolunteerKey(u128::from(number) + 1),
            name: PeerName::new(name).unwrap(),
            address: address.parse().unwrap(),
            offered: 1,
            history: VolunteerHistory::default(),
        }
    }

    fn find(text: &str, known: &[VolunteerRecord]) -> Result<u32, (Refusal, String)> {
        match volunteer(&VolunteerSelector(text.to_owned()), known.iter()) {
            Ok(number) => Ok(number.0),
            Err(Answer::Refused { why, text }) => Err((why, text)),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_volunteer_is_found_by_name_address_and_key_prefix() {
        let known = [record(0, "anna", "10.0.0.1:7000"), record(1, "bert", "10.0.0.2:7000")];
        let print = known[1].key.print().to_string();
        for text in ["bert", "10.0.0.2:7000", "10.0.0.2", &print[..4], &print, &print.to_uppercase()] {
            assert_eq!(find(text, &known), Ok(1), "{text}");
        }
        for text in ["", "cora", "10.0.0.3", &print[..3], "ber"] {
            assert_eq!(find(text, &known).unwrap_err().0, Refusal::NotFound, "{text}");
        }
    }

    #[test]
    fn several_matches_are_listed_with_name_address_and_key_and_none_is_chosen() {
        let known = [record(0, "anna", "10.0.0.1:7000"), record(1, "anna", "10.0.0.2:7000")];
        let (why, text) = find("anna", &known).unwrap_err();
        assert_eq!(why, Refusal::Ambiguous);
        for record in &known {
            let line = format!("anna at {} (key {})", record.address, record.key.print().short());
            assert!(text.contains(&line), "{text}");
        }
        assert_eq!(find(&known[0].key.print().to_string(), &known), Ok(0));
    }

    #[test]
    fn a_volunteer_cannot_take_the_key_of_another_as_its_name() {
        let victim = record(0, "anna", "10.0.0.1:7000");
        let print = victim.key.print().to_string();
        let known = [record(1, &print[..8], "10.0.0.9:7000"), record(2, &print, "10.0.0.9:7001"), victim];
        assert_eq!(find(&print[..8], &known).unwrap_err().0, Refusal::Ambiguous);
        assert_eq!(find(&print, &known), Ok(0));
    }

    fn kept(id: FileId, name: &str) -> KeptFile {
        let file = FileSummary { id, name: FileName::new(name).unwrap(), size: 1, chunks: 1 };
        KeptFile { file, md5: Md5([0; 16]) }
    }

    fn find_file(
        text: &str,
        known: &[(KeptFile, bool, u64)],
    ) -> Result<(FileId, Vec<FileId>), (Refusal, String)> {
        let candidates = known.iter().map(|(kept, in_folder, version)| Candidate {
            kept,
            in_folder: *in_folder,
            version: *version,
        });
        file(&FileSelector(text.to_owned()), candidates).map_err(|answer| match answer {
            Answer::Refused { why, text } => (why, text),
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn the_newest_version_of_a_name_is_chosen_and_older_ones_are_listed() {
        let id = |number| FileId([number; 32]);
        let known = [(kept(id(1), "f"), false, 7), (kept(id(2), "f"), false, 9), (kept(id(3), "g"), true, 8)];
        assert_eq!(find_file("f", &known), Ok((id(2), vec![id(1)])));
        assert_eq!(find_file("g", &known), Ok((id(3), vec![])));
        // The version in the folder is the current one.
        let known = [(kept(id(1), "f"), true, 7), (kept(id(2), "f"), false, 9)];
        assert_eq!(find_file("f", &known), Ok((id(1), vec![id(2)])));
    }

    #[test]
    fn a_file_is_found_by_at_least_eight_digits_of_its_id() {
        let mut other = [0xab; 32];
        other[6] = 0;
        let (one, two) = (FileId([0xab; 32]), FileId(other));
        let known = [(kept(one, "f"), true, 1), (kept(two, "g"), true, 2)];
        assert_eq!(find_file("ABABABABABABAB", &known), Ok((one, vec![])));
        assert_eq!(find_file(&two.to_string(), &known), Ok((two, vec![])));
        let (why, text) = find_file("abababab", &known).unwrap_err();
        assert_eq!(why, Refusal::Ambiguous);
        assert!(text.contains("f (abababababab), g (abababababab)"), "{text}");
        for text in ["abababa", "", "abababac", "/"] {
            assert_eq!(find_file(text, &known).unwrap_err().0, Refusal::NotFound, "{text}");
        }
        // An exact name takes precedence over the first digits of the id of another file.
        let known = [(kept(one, "g"), true, 1), (kept(FileId([1; 32]), "abababab"), true, 2)];
        assert_eq!(find_file("abababab", &known), Ok((FileId([1; 32]), vec![])));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*|[0-9a-f]{0,70}") {
            let _ = find(&text, &[record(0, "anna", "10.0.0.1:7000")]);
            let _ = find_file(&text, &[(kept(FileId([1; 32]), "f"), true, 1)]);
        }
    }
}
