//! Ticket: one line of text with everything that a download needs: id, name and size of a file, and where to get it.
//!
//! ```text
//! shoal:ID/dn=NAME/xl=BYTES/tr=HOST:PORT/pe=IP:PORT
//! ```
//!
//! ID has 64 lower-case hexadecimal digits. `dn` is the name and `xl` the size, each exactly once. `tr` is a tracker and
//! `pe` a peer that holds the file, any number of each up to the limits below; a peer that was started without a
//! tracker also answers tracker requests at the address of `pe`. Parameters with other names are ignored. Bytes that are
//! no ASCII letter or digit and not one of `._~,+-` are percent-encoded (RFC 3986), except the `:` between host and
//! port. So a ticket has only characters that shells and chat programs leave unchanged, and the brackets of an IPv6
//! address become `%5B` and `%5D`.

use crate::content::limits::{TICKET_BYTES_MAX, TICKET_PEERS_MAX, TICKET_TRACKERS_MAX};
use crate::content::{FileId, FileName};
use crate::net::Endpoint;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// First characters of every ticket.
pub const TICKET_PREFIX: &str = "shoal:";
/// Longest host name, bytes (RFC 1035, section 2.3.4).
const HOST_BYTES_MAX: usize = 253;

/// Bytes that are encoded in a value.
const ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'.').remove(b'_').remove(b'~').remove(b',').remove(b'+').remove(b'-');
/// Bytes that are encoded in an address.
const ENCODED_ADDRESS: &AsciiSet = &ENCODED.remove(b':');

/// A file and where to get it, as one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Id of the file. It pins the content: the manifest and every byte are verified against it.
    pub id: FileId,
    /// Name of the file.
    pub name: FileName,
    /// Size of the file, bytes.
    pub size: u64,
    /// Trackers that know holders of the file.
    pub trackers: Vec<Endpoint>,
    /// Peers that hold the file, those most likely to be reached first.
    pub peers: Vec<SocketAddr>,
}

/// The reason that a text is no ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// The text does not begin with [`TICKET_PREFIX`].
    #[error("a ticket begins with {TICKET_PREFIX}")]
    Prefix,
    /// The text is longer than [`TICKET_BYTES_MAX`].
    #[error("the ticket has {0} bytes, more than {TICKET_BYTES_MAX}")]
    TooLong(usize),
    /// A character that a ticket never contains.
    #[error("the ticket contains {0:?}: it was not copied completely, or was changed")]
    Character(char),
    /// The id is not 64 lower-case hexadecimal digits.
    #[error("the ticket has no id of 64 hexadecimal digits")]
    Id,
    /// A parameter has no `=`, no name or no value.
    #[error("the ticket contains {0:?} in place of a parameter NAME=VALUE")]
    Parameter(String),
    /// A value is invalid. Name of the parameter, value, and reason.
    #[error("{0}={1} in the ticket: {2}")]
    Value(&'static str, String, String),
    /// A parameter occurs more often than is allowed.
    #[error("the ticket contains {0} more than {1} times")]
    TooMany(&'static str, usize),
    /// A parameter is missing.
    #[error("the ticket has no {0}: it was not copied completely")]
    Missing(&'static str),
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let rest = text.strip_prefix(TICKET_PREFIX).ok_or(TicketError::Prefix)?;
        if text.len() > TICKET_BYTES_MAX {
            return Err(TicketError::TooLong(text.len()));
        }
        if let Some(other) = rest.chars().find(|&c| !is_ticket_character(c)) {
            return Err(TicketError::Character(other));
        }
        let mut segments = rest.split('/');
        let id = segments.next().and_then(parse_id).ok_or(TicketError::Id)?;
        let (mut names, mut sizes, mut trackers, mut peers) = (vec![], vec![], vec![], vec![]);
        for segment in segments {
            let Some((key, value)) =
                segment.split_once('=').filter(|(key, value)| !key.is_empty() && !value.is_empty())
            else {
                return Err(TicketError::Parameter(segment.to_owned()));
            };
            match key {
                "dn" => push("dn", value, 1, &mut names, parse_name)?,
                "xl" => push("xl", value, 1, &mut sizes, parse_size)?,
                "tr" => push("tr", value, TICKET_TRACKERS_MAX, &mut trackers, parse_tracker)?,
                "pe" => push("pe", value, TICKET_PEERS_MAX, &mut peers, parse_peer)?,
                _ => {}
            }
        }
        let name = names.pop().ok_or(TicketError::Missing("dn"))?;
        let size = sizes.pop().ok_or(TicketError::Missing("xl"))?;
        Ok(Self { id, name, size, trackers, peers })
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{TICKET_PREFIX}{}/dn={}/xl={}",
            self.id,
            utf8_percent_encode(self.name.as_str(), ENCODED),
            self.size
        )?;
        for tracker in &self.trackers {
            write!(f, "/tr={}", utf8_percent_encode(&tracker.to_string(), ENCODED_ADDRESS))?;
        }
        for peer in &self.peers {
            write!(f, "/pe={}", utf8_percent_encode(&peer.to_string(), ENCODED_ADDRESS))?;
        }
        Ok(())
    }
}

/// Adds a parsed value to those of its parameter.
fn push<T>(
    key: &'static str,
    value: &str,
    most: usize,
    values: &mut Vec<T>,
    parse: fn(&str) -> Result<T, String>,
) -> Result<(), TicketError> {
    if values.len() == most {
        return Err(TicketError::TooMany(key, most));
    }
    let parsed = decode(value).and_then(|decoded| parse(&decoded));
    values.push(parsed.map_err(|reason| TicketError::Value(key, value.to_owned(), reason))?);
    Ok(())
}

fn is_ticket_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._~:/%+,=-".contains(c)
}

/// Percent-decodes a value. A `%` without two hexadecimal digits is an error.
fn decode(value: &str) -> Result<String, String> {
    let is_digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    for (at, _) in value.match_indices('%') {
        let bytes = value.as_bytes();
        if !is_digit(bytes.get(at + 1)) || !is_digit(bytes.get(at + 2)) {
            return Err("% without two hexadecimal digits".to_owned());
        }
    }
    let decoded = percent_decode_str(value).decode_utf8().map_err(|_| "it is not UTF-8".to_owned())?;
    Ok(decoded.into_owned())
}

fn parse_id(text: &str) -> Option<FileId> {
    let is_lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    text.parse().ok().filter(|_| is_lower)
}

fn parse_name(text: &str) -> Result<FileName, String> {
    FileName::new(text).map_err(|error| error.to_string())
}

fn parse_size(text: &str) -> Result<u64, String> {
    let is_canonical =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_canonical).ok_or_else(|| "not a number of bytes".to_owned())
}

/// Parses an IP address and a port to which a peer on another host can connect.
fn parse_peer(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| "expected IP:PORT".to_owned())?;
    if let SocketAddr::V6(v6) = address
        && (v6.scope_id() != 0 || text.contains('%'))
    {
        return Err("the scope of an address has no meaning on another host".to_owned());
    }
    check(address.ip().is_unspecified(), address.port()).map(|()| address)
}

/// Parses the address of a tracker: as a peer's, or with a host name.
fn parse_tracker(text: &str) -> Result<Endpoint, String> {
    if text.contains(['[', '%']) {
        return parse_peer(text).map(Endpoint::from);
    }
    let expected = || "expected HOST:PORT".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
    let is_host = (1..=HOST_BYTES_MAX).contains(&host.len())
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    if !is_host || port.bytes().any(|byte| !byte.is_ascii_digit()) {
        return Err(expected());
    }
    let port = port.parse().map_err(|_| expected())?;
    check(host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()), port)?;
    Ok(Endpoint::new(host, port))
}

fn check(is_unspecified: bool, port: u16) -> Result<(), String> {
    match (is_unspecified, port) {
        (true, _) => Err("no peer can connect to an unspecified address".to_owned()),
        (_, 0) => Err("no peer can connect to port 0".to_owned()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn ticket(name: &str, size: u64, trackers: &[(&str, u16)], peers: &[&str]) -> Ticket {
        Ticket {
            id: ID.parse().unwrap(),
            name: FileName::new(name).unwrap(),
            size,
            trackers: trackers.iter().map(|(host, port)| Endpoint::new(*host, *port)).collect(),
            peers: peers.iter().map(|peer| peer.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn golden_tickets_are_written_and_read() {
        let golden = [
            (ticket("model.bin", 9_000, &[], &["10.0.0.5:7000"]), "dn=model.bin/xl=9000/pe=10.0.0.5:7000"),
            (
                ticket("Æ b&c.iso", 0, &[("tracker.lan", 5100)], &["10.0.0.5:7000", "[fd00::1]:7001"]),
                "dn=%C3%86%20b%26c.iso/xl=0/tr=tracker.lan:5100/pe=10.0.0.5:7000/pe=%5Bfd00::1%5D:7001",
            ),
            (
                ticket("a~b_c-d,e+f.x", u64::MAX, &[("fd00::1", 1)], &[]),
                "dn=a~b_c-d,e+f.x/xl=18446744073709551615/tr=%5Bfd00::1%5D:1",
            ),
            (ticket("100%", 1, &[], &[]), "dn=100%25/xl=1"),
        ];
        for (ticket, parameters) in golden {
            let text = format!("shoal:{ID}/{parameters}");
            assert_eq!(ticket.to_string(), text);
            assert_eq!(text.parse(), Ok(ticket));
        }
    }

    #[test]
    fn unknown_parameters_are_ignored_and_the_order_is_free() {
        let text = format!("shoal:{ID}/later=%FF/xl=1/pe=10.0.0.5:7000/later=2/dn=a");
        assert_eq!(text.parse(), Ok(ticket("a", 1, &[], &["10.0.0.5:7000"])));
    }

    #[test]
    fn other_texts_are_refused_with_the_reason() {
        let nine = "/pe=10.0.0.5:7000".repeat(9);
        for (parameters, reason) in [
            ("", "the ticket has no dn: it was not copied completely"),
            ("/dn=a", "the ticket has no xl: it was not copied completely"),
            ("/dn=a/xl=1/", "the ticket contains \"\" in place of a parameter NAME=VALUE"),
            ("/dn=a/xl=", "the ticket contains \"xl=\" in place of a parameter NAME=VALUE"),
            ("/dn=a/dn=b/xl=1", "the ticket contains dn more than 1 times"),
            ("/dn=a/xl=01", "xl=01 in the ticket: not a number of bytes"),
            ("/dn=a/xl=+1", "xl=+1 in the ticket: not a number of bytes"),
            ("/dn=a/xl=18446744073709551616", "xl=18446744073709551616 in the ticket: not a number of bytes"),
            ("/dn=..%2Fa/xl=1", "dn=..%2Fa in the ticket: the name \"../a\" contains '/'"),
            ("/dn=%4/xl=1", "dn=%4 in the ticket: % without two hexadecimal digits"),
            ("/dn=%FF/xl=1", "dn=%FF in the ticket: it is not UTF-8"),
            ("/dn=a b/xl=1", "the ticket contains ' ': it was not copied completely, or was changed"),
            ("/dn=a/xl=1/pe=host:1", "pe=host:1 in the ticket: expected IP:PORT"),
            (
                "/dn=a/xl=1/pe=0.0.0.0:1",
                "pe=0.0.0.0:1 in the ticket: no peer can connect to an unspecified address",
            ),
            ("/dn=a/xl=1/pe=10.0.0.5:0", "pe=10.0.0.5:0 in the ticket: no peer can connect to port 0"),
            (
                "/dn=a/xl=1/pe=%5Bfe80::1%252%5D:7",
                "pe=%5Bfe80::1%252%5D:7 in the ticket: the scope of an address has no meaning on another host",
            ),
            ("/dn=a/xl=1/tr=host", "tr=host in the ticket: expected HOST:PORT"),
            ("/dn=a/xl=1/tr=host:+1", "tr=host:+1 in the ticket: expected HOST:PORT"),
            (&format!("/dn=a/xl=1{nine}"), "the ticket contains pe more than 8 times"),
        ] {
            let error = format!("shoal:{ID}{parameters}").parse::<Ticket>().unwrap_err();
            assert_eq!(error.to_string(), reason, "{parameters}");
        }
        for (text, error) in [
            (format!("magnet:{ID}"), TicketError::Prefix),
            (format!("shoal:{}/dn=a/xl=1", &ID[1..]), TicketError::Id),
            (format!("shoal:{}/dn=a/xl=1", ID.to_uppercase()), TicketError::Id),
            (
                format!("shoal:{ID}{}", "/x=1".repeat(TICKET_BYTES_MAX)),
                TicketError::TooLong(70 + 4 * TICKET_BYTES_MAX),
            ),
        ] {
            assert_eq!(text.parse::<Ticket>(), Err(error));
        }
    }

    proptest! {
        #[test]
        fn every_ticket_is_read_as_written(
            name in "[^/\\pC]{1,40}",
            size: u64,
            hosts in prop::collection::vec("[a-z0-9][a-z0-9.-]{0,20}", 0..9),
            peers in prop::collection::vec((any::<IpAddr>(), 1u16..), 0..9),
        ) {
            let Ok(name) = FileName::new(name) else { return Ok(()) };
            let peers = peers.into_iter().map(|(ip, port)| SocketAddr::new(ip, port));
            let peers = peers.filter(|peer| !peer.ip().is_unspecified()).collect();
            let trackers = hosts.into_iter().filter(|host| host != "0.0.0.0").map(|host| Endpoint::new(host, 9)).collect();
            let ticket = Ticket { id: FileId([7; 32]), name, size, trackers, peers };
            let text = ticket.to_string();
            prop_assert!(text.len() <= TICKET_BYTES_MAX);
            prop_assert!(text.chars().all(is_ticket_character), "{text}");
            prop_assert_eq!(text.parse(), Ok(ticket));
        }

        #[test]
        fn no_text_panics_and_a_ticket_is_stable(text in "(shoal:)?[0-9a-f]{64}(/(dn|xl|tr|pe|x)=[a-z0-9.:%+\\[\\]]{0,12}){0,6}") {
            if let Ok(ticket) = text.parse::<Ticket>() {
                prop_assert_eq!(ticket.to_string().parse(), Ok(ticket));
            }
        }
    }
}
