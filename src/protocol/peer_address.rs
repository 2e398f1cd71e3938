//! Addresses of a peer on the wire: one address as a string, several as an array of strings.

use super::addresses::FastAddress;
use crate::content::limits::PEER_ADDRESSES_MAX;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::net::SocketAddr;

/// The address with the IP address in canonical form: an IPv4-mapped IPv6 address as IPv4.
pub fn canonical_address(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip if ip == address.ip() => address,
        ip => SocketAddr::new(ip, address.port()),
    }
}

/// The addresses at which one peer may be reached, the best one first.
///
/// The first address identifies the peer in lists. A connecting peer tries all of them.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerAddress {
    first: SocketAddr,
    others: Box<[SocketAddr]>,
}

impl PeerAddress {
    /// A peer with these addresses, without duplicates and at most [`PEER_ADDRESSES_MAX`]; `None` without any.
    pub fn new(addresses: impl IntoIterator<Item = SocketAddr>) -> Option<Self> {
        let mut all: Vec<SocketAddr> = Vec::new();
        for address in addresses {
            if all.len() < PEER_ADDRESSES_MAX && !all.contains(&address) {
                all.push(address);
            }
        }
        let first = *all.first()?;
        Some(Self { first, others: all[1..].into() })
    }

    /// The addresses after a change of each; `None` for one that is left out.
    pub fn map(&self, change: impl FnMut(SocketAddr) -> Option<SocketAddr>) -> Option<Self> {
        Self::new(self.all().filter_map(change))
    }

    /// Keeps at most `count` addresses, at least the first.
    pub fn limited(mut self, count: usize) -> Self {
        if self.others.len() >= count.max(1) {
            self.others = self.others[..count.max(1) - 1].into();
        }
        self
    }

    /// The first address.
    pub fn first(&self) -> SocketAddr {
        self.first
    }

    /// All addresses, the first one first.
    pub fn all(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        std::iter::once(self.first).chain(self.others.iter().copied())
    }

    /// Whether the two have an address in common, and are therefore the same peer.
    pub fn meets(&self, other: &Self) -> bool {
        self.all().any(|address| other.all().any(|theirs| theirs == address))
    }
}

impl From<SocketAddr> for PeerAddress {
    fn from(first: SocketAddr) -> Self {
        Self { first, others: Box::default() }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.fmt(f)
    }
}

impl fmt::Debug for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all()).finish()
    }
}

impl Serialize for PeerAddress {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.others.is_empty() {
            true => FastAddress(&self.first).serialize(to),
            false => to.collect_seq(self.all()),
        }
    }
}

impl<'de> Deserialize<'de> for PeerAddress {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AddressesVisitor)
    }
}

struct AddressesVisitor;

impl<'de> Visitor<'de> for AddressesVisitor {
    type Value = PeerAddress;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address, or an array of addresses")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<PeerAddress, E> {
        text.parse::<SocketAddr>().map(Into::into).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<PeerAddress, A::Error> {
        let mut all = Vec::new();
        while let Some(address) = list.next_element::<SocketAddr>()? {
            if all.len() < PEER_ADDRESSES_MAX {
                all.push(address);
            }
        }
        PeerAddress::new(all).ok_or_else(|| A::Error::custom("a peer without an address"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_is_a_string_and_several_are_an_array() {
        let (one, two) = (address("10.0.0.1:7000"), address("[fd00::1]:7000"));
        for (peer, json) in [
            (PeerAddress::from(one), r#""10.0.0.1:7000""#),
            (PeerAddress::new([one, two, one]).unwrap(), r#"["10.0.0.1:7000","[fd00::1]:7000"]"#),
        ] {
            assert_eq!(serde_json::to_string(&peer).unwrap(), json);
            assert_eq!(serde_json::from_str::<PeerAddress>(json).unwrap(), peer);
        }
        assert!(PeerAddress::new([one, two]).unwrap().meets(&two.into()));
        assert!(!PeerAddress::from(one).meets(&two.into()));
        for bad in ["[]", "7", r#""host:1""#, r#"["10.0.0.1"]"#] {
            assert!(serde_json::from_str::<PeerAddress>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn surplus_addresses_are_ignored() {
        let many: Vec<String> = (1..20).map(|port| format!("\"10.0.0.1:{port}\"")).collect();
        let peer: PeerAddress = serde_json::from_str(&format!("[{}]", many.join(","))).unwrap();
        assert_eq!(peer.all().count(), PEER_ADDRESSES_MAX);
        for (limit, left) in [(0, 1), (1, 1), (3, 3), (99, PEER_ADDRESSES_MAX)] {
            assert_eq!(peer.clone().limited(limit).all().count(), left);
        }
    }
}
