//! Source addresses of outgoing sockets.
//!
//! A program that listens on a specific IP address connects from that address, so that the tracker registers the address
//! on which other peers reach it. The setting holds for the whole process, as the listen addresses do.

use crate::sync::{read, write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::RwLock;

static SOURCES: RwLock<Vec<IpAddr>> = RwLock::new(Vec::new());

/// Sets the IP addresses from which this process connects: one for each family, the first one that is neither
/// unspecified nor loopback.
pub fn set_sources(listen: &[IpAddr]) {
    *write(&SOURCES) =
        listen.iter().copied().filter(|ip| !ip.is_unspecified() && !ip.is_loopback()).collect();
}

/// The address from which to connect to `destination`; `None` to leave it to the system.
pub(super) fn source_for(destination: SocketAddr) -> Option<SocketAddr> {
    select(&read(&SOURCES), destination.ip())
}

fn select(sources: &[IpAddr], destination: IpAddr) -> Option<SocketAddr> {
    let is_fit = |source: &&IpAddr| {
        source.is_ipv4() == destination.is_ipv4() && is_link_local(**source) == is_link_local(destination)
    };
    let source = sources.iter().find(is_fit).filter(|_| !destination.is_loopback());
    // A link-local source would need the interface: the destination determines it without a bind.
    source.filter(|source| !is_link_local(**source)).map(|source| SocketAddr::new(*source, 0))
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if Ipv6Addr::is_unicast_link_local(&ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_is_of_the_same_family_and_not_used_for_loopback() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let sources = [ip("10.0.0.1"), ip("fe80::1"), ip("2001:db8::1")];
        let selected = |destination| select(&sources, ip(destination)).map(|source| source.ip());
        assert_eq!(selected("10.0.0.9"), Some(ip("10.0.0.1")));
        assert_eq!(selected("2001:db8::9"), Some(ip("2001:db8::1")));
        for destination in ["127.0.0.1", "::1", "fe80::9"] {
            assert_eq!(selected(destination), None, "{destination}");
        }
    }
}
