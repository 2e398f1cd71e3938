//! Site of a peer: a group of hosts with fast links between them.

use std::net::{IpAddr, Ipv6Addr};

/// Site of a peer: the name that its user gave, or else the network of its address (IPv4 /24, IPv6 /64).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Site {
    /// The value of `--site`.
    Named(String),
    /// The network part of the address as the other side sees it; its host part is zero.
    Network(IpAddr),
}

impl Site {
    /// The site of a peer with this `--site` name, if any, and this address.
    pub fn of(name: Option<&str>, address: IpAddr) -> Self {
        match (name, address.to_canonical()) {
            (Some(name), _) => Site::Named(name.to_owned()),
            (None, IpAddr::V4(address)) => {
                let [a, b, c, _] = address.octets();
                Site::Network(IpAddr::from([a, b, c, 0]))
            }
            (None, IpAddr::V6(address)) => {
                Site::Network(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_one_network_are_one_site_unless_they_name_another() {
        let of = |name, address: &str| Site::of(name, address.parse().unwrap());
        assert_eq!(of(None, "10.0.1.2"), of(None, "::ffff:10.0.1.9"));
        assert_ne!(of(None, "10.0.1.2"), of(None, "10.0.2.2"));
        assert_eq!(of(None, "fd00::1:1"), of(None, "fd00::2:2"));
        assert_ne!(of(None, "fd00:0:0:1::1"), of(None, "fd00:0:0:2::1"));
        assert_eq!(of(Some("a"), "10.0.1.2"), of(Some("a"), "fd00::1"));
        assert_ne!(of(Some("a"), "10.0.1.2"), of(None, "10.0.1.2"));
    }
}
