//! Commands that a user can type next, for log lines and error texts.
//!
//! Pure. Invariant: a command contains `--tracker` or `--manager` only if the address is not the default.

use crate::content::SetName;
use crate::content::limits::{DEFAULT_SET, MANAGER_ADDRESS, TRACKER_ADDRESS};
use crate::net::UdpClientError;
use std::error::Error;
use std::net::SocketAddr;

/// The address at which a program looks for a tracker or manager by default.
fn default_address(role: &str) -> SocketAddr {
    if role == "manager" { MANAGER_ADDRESS } else { TRACKER_ADDRESS }
}

/// The address for a flag.
///
/// Peers cannot connect to an unspecified IP address: `HOST` stands for the address of this host.
fn shown(address: SocketAddr) -> String {
    match address.ip().is_unspecified() {
        true => format!("HOST:{}", address.port()),
        false => address.to_string(),
    }
}

/// ` --tracker HOST:PORT`, or nothing for the default address.
pub fn tracker_flag(tracker: SocketAddr) -> String {
    match tracker == TRACKER_ADDRESS {
        true => String::new(),
        false => format!(" --tracker {}", shown(tracker)),
    }
}

/// How to share the files of a folder through a manager.
pub fn share_with_manager(manager: SocketAddr) -> String {
    format!(
        "share a folder with: client -folder PATH -transfer_port 7001 -name NAME --manager {}",
        shown(manager)
    )
}

/// How to share a file through a tracker.
pub fn share_with_tracker(tracker: SocketAddr) -> String {
    format!("share a file with: seeder -f FILE{}", tracker_flag(tracker))
}

/// How to download a file of a shared folder through a tracker.
pub fn download_any(tracker: SocketAddr) -> String {
    format!("download a shared file with: leecher FILE{}", tracker_flag(tracker))
}

/// How to download a file into another folder from the peers of a manager.
pub fn get_from_peers(manager: SocketAddr) -> String {
    format!(
        "download a file into another folder with: client -folder PATH -transfer_port 0 -name NAME --manager {} --get FILE",
        shown(manager)
    )
}

/// How to start another client of a chunk set.
pub fn join_set(set: &SetName, tracker: SocketAddr) -> String {
    let flag = if set.as_str() == DEFAULT_SET { String::new() } else { format!(" --set {set}") };
    format!(
        "start another client of this set with: client -folder PATH -transfer_port 0 -name NAME{flag}{}",
        tracker_flag(tracker)
    )
}

/// How to offer storage to a tracker.
pub fn volunteer(tracker: SocketAddr) -> String {
    format!(
        "add a volunteer with: client -folder PATH -transfer_port 7001 -name NAME --volunteer 2GiB{}",
        tracker_flag(tracker)
    )
}

/// How to download a file.
pub fn download(name: &str, tracker: SocketAddr) -> String {
    format!("download it with: leecher {}{}", quoted(name), tracker_flag(tracker))
}

/// How to list the files of a tracker.
pub fn list(tracker: SocketAddr) -> String {
    format!("leecher --list{}", tracker_flag(tracker))
}

/// How to start a tracker or manager that does not answer, or to choose another.
pub fn start(role: &str, address: SocketAddr) -> String {
    let choose = format!("or choose another with --{role} HOST:PORT");
    match address.ip().is_loopback() {
        true if address == default_address(role) => format!("start one with: {role} ({choose})"),
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
}

impl FailedRequest for UdpClientError {
    fn is_refusal(&self) -> bool {
        matches!(self, UdpClientError::Rejected(_))
    }
}

/// Advice after the error of a request: how to start the program that does not answer. Empty after a refusal.
pub fn after_failure(role: &str, address: SocketAddr, error: &dyn FailedRequest) -> String {
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
        let other: SocketAddr = "127.0.0.1:6000".parse().unwrap();
        assert_eq!(download("a b", TRACKER_ADDRESS), "download it with: leecher 'a b'");
        assert_eq!(download("a", other), "download it with: leecher a --tracker 127.0.0.1:6000");
        assert_eq!(
            share_with_tracker("0.0.0.0:6000".parse().unwrap()),
            "share a file with: seeder -f FILE --tracker HOST:6000"
        );
        assert_eq!(
            start("tracker", TRACKER_ADDRESS),
            "start one with: tracker (or choose another with --tracker HOST:PORT)"
        );
        assert!(start("manager", other).starts_with("start one with: manager --listen 127.0.0.1:6000 ("));
        let refusal = UdpClientError::Rejected("the address is taken".into());
        assert_eq!(after_failure("manager", other, &refusal), "");
        let closed = UdpClientError::Refused(other);
        assert!(after_failure("tracker", other, &closed).starts_with("; start one with: "));
        let far = "10.0.0.1:5100".parse().unwrap();
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
