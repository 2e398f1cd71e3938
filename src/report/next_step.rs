//! Commands that a user can type next, for log lines and error texts.
//!
//! Pure. Invariant: a command contains `--tracker` or `--manager` only if the address is not the default.

use crate::content::SetName;
use crate::content::limits::{DEFAULT_SET, MANAGER_ADDRESS, TRACKER_ADDRESS};
use crate::net::{Endpoint, UdpClientError};
use std::error::Error;

/// The address at which a program looks for a tracker or manager by default.
fn default_address(role: &str) -> Endpoint {
    if role == "manager" { MANAGER_ADDRESS.into() } else { TRACKER_ADDRESS.into() }
}

/// The address for a flag.
///
/// Peers cannot connect to an unspecified IP address: `HOST` stands for the address of this host.
fn shown(address: &Endpoint) -> String {
    match address.is_unspecified() {
        true => format!("HOST:{}", address.port()),
        false => address.to_string(),
    }
}

/// ` --tracker HOST:PORT`, or nothing for the default address.
pub fn tracker_flag(tracker: &Endpoint) -> String {
    match *tracker == TRACKER_ADDRESS.into() {
        true => String::new(),
        false => format!(" --tracker {}", shown(tracker)),
    }
}

/// How to share the files of a folder through a manager.
pub fn share_with_manager(manager: &Endpoint) -> String {
    format!(
        "share a folder with: client -folder PATH -transfer_port 7001 -name NAME --manager {}",
        shown(manager)
    )
}

/// How to share a file through a tracker.
pub fn share_with_tracker(tracker: &Endpoint) -> String {
    format!("share a file with: seeder -f FILE{}", tracker_flag(tracker))
}

/// How to download a file of a shared folder through a tracker.
pub fn download_any(tracker: &Endpoint) -> String {
    format!("download a shared file with: leecher FILE{}", tracker_flag(tracker))
}

/// How to download a file into another folder from the peers of a manager.
pub fn get_from_peers(manager: &Endpoint) -> String {
    format!(
        "download a file into another folder with: client -folder PATH -transfer_port 0 -name NAME --manager {} --get FILE",
        shown(manager)
    )
}

/// How to start another client of a chunk set.
pub fn join_set(set: &SetName, tracker: &Endpoint) -> String {
    let flag = if set.as_str() == DEFAULT_SET { String::new() } else { format!(" --set {set}") };
    format!(
        "start another client of this set with: client -folder PATH -transfer_port 0 -name NAME{flag}{}",
        tracker_flag(tracker)
    )
}

/// How to offer storage to a tracker.
pub fn volunteer(tracker: &Endpoint) -> String {
    format!(
        "add a volunteer with: client -folder PATH -transfer_port 7001 -name NAME --volunteer 2GiB{}",
        tracker_flag(tracker)
    )
}

/// How to download a file.
pub fn download(name: &str, tracker: &Endpoint) -> String {
    format!("download it with: leecher {}{}", quoted(name), tracker_flag(tracker))
}

/// How to list the files of a tracker.
pub fn list(tracker: &Endpoint) -> String {
    format!("leecher --list{}", tracker_flag(tracker))
}

/// How to start a tracker or manager that does not answer, or to choose another.
pub fn start(role: &str, address: &Endpoint) -> String {
    let choose = format!("or choose another with --{role} HOST:PORT");
    match address.is_loopback() {
        true if *address == default_address(role) => format!("start one with: {role} ({choose})"),
        true => format!("start one with: {role} --listen {address} ({choose})"),
        false => {
            format!("start one on that host with: {role} --listen 0.0.0.0:{} ({choose})", address.port())
        }
    }
}

/// A failed request to a tracker or manager.
pub trait FailedRequest: Error + Send + Sync + 'static {
    /// Whether a program answered and refused: no other program needs to be started then.
    fn is_refusal(&self) -> bool;

    /// Whether a manager answered in place of a tracker, or a tracker in place of a manager.
    fn is_wrong_role(&self) -> bool {
        false
    }
}

/// Which flags to use instead, if a manager answers in place of a tracker.
pub fn not_a_tracker(address: &Endpoint) -> String {
    format!(
        "the program on {address} is a manager, not a tracker: name a tracker with --tracker HOST:PORT, or use a \
         plain folder with --manager {address}"
    )
}

impl FailedRequest for UdpClientError {
    fn is_refusal(&self) -> bool {
        matches!(self, UdpClientError::Rejected(_) | UdpClientError::NotATracker(_))
    }

    fn is_wrong_role(&self) -> bool {
        matches!(self, UdpClientError::NotATracker(_))
    }
}

/// Advice after the error of a request: how to start the program that does not answer. Empty after a refusal.
pub fn after_failure(role: &str, address: &Endpoint, error: &dyn FailedRequest) -> String {
    if error.is_refusal() { String::new() } else { format!("; {}", start(role, address)) }
}

/// A word as a POSIX shell reads it.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "._-/+,:=@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_name_an_address_only_if_it_is_not_the_default() {
        let endpoint = |text: &str| Endpoint::from(text.parse::<std::net::SocketAddr>().unwrap());
        let (default, other) = (&TRACKER_ADDRESS.into(), &endpoint("127.0.0.1:6000"));
        assert_eq!(download("a b", default), "download it with: leecher 'a b'");
        assert_eq!(download("a", other), "download it with: leecher a --tracker 127.0.0.1:6000");
        assert_eq!(
            share_with_tracker(&endpoint("0.0.0.0:6000")),
            "share a file with: seeder -f FILE --tracker HOST:6000"
        );
        assert_eq!(
            start("tracker", default),
            "start one with: tracker (or choose another with --tracker HOST:PORT)"
        );
        assert!(start("manager", other).starts_with("start one with: manager --listen 127.0.0.1:6000 ("));
        let refusal = UdpClientError::Rejected("the address is taken".into());
        assert_eq!(after_failure("manager", other, &refusal), "");
        let closed = UdpClientError::Refused(other.clone());
        assert!(after_failure("tracker", other, &closed).starts_with("; start one with: "));
        let far = &endpoint("10.0.0.1:5100");
        assert!(
            start("tracker", far).starts_with("start one on that host with: tracker --listen 0.0.0.0:5100 (")
        );
    }

    #[test]
    fn words_with_special_characters_are_quoted() {
        for (word, wanted) in [("a.txt", "a.txt"), ("", "''"), ("it's", r"'it'\''s'"), ("a&b", "'a&b'")] {
            assert_eq!(quoted(word), wanted);
        }
    }
}
