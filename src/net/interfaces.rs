//! IP addresses of this host.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// The IP addresses of the network interfaces that are up: no loopback address, no link-local IPv6 address, and none of
/// a bridge that leads only to containers or virtual machines of this host. IPv4 addresses come first; empty if the
/// system does not list them.
pub fn host_addresses() -> Vec<IpAddr> {
    use nix::net::if_::InterfaceFlags;
    let routed = default_route_interfaces();
    let mut found = Vec::new();
    for interface in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let name = &interface.interface_name;
        let is_bridge = Path::new("/sys/class/net").join(name).join("bridge").exists();
        if !interface.flags.contains(InterfaceFlags::IFF_UP) || (is_bridge && !routed.contains(name)) {
            continue;
        }
        let address = interface.address.as_ref();
        let v4 =
            address.and_then(|address| address.as_sockaddr_in()).map(|address| IpAddr::from(address.ip()));
        let v6 =
            address.and_then(|address| address.as_sockaddr_in6()).map(|address| IpAddr::from(address.ip()));
        found.extend(v4.or(v6).filter(|ip| is_usable(*ip)));
    }
    found.sort_by_key(IpAddr::is_ipv6);
    found.dedup();
    found
}

/// A network interface over which multicast datagrams are sent and received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MulticastInterface {
    /// Its number.
    pub index: u32,
    /// Its IPv4 addresses.
    pub v4: Vec<Ipv4Addr>,
    /// Whether it has an IPv6 address.
    pub has_v6: bool,
}

/// The interfaces that are up and support multicast, without loopback.
pub fn multicast_interfaces() -> Vec<MulticastInterface> {
    use nix::net::if_::{InterfaceFlags, if_nametoindex};
    let wanted = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_MULTICAST;
    let mut found: Vec<MulticastInterface> = Vec::new();
    for interface in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let is_loopback = interface.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        let Some(address) = interface.address.as_ref() else { continue };
        let Ok(index) = if_nametoindex(interface.interface_name.as_str()) else { continue };
        if !interface.flags.contains(wanted) || is_loopback {
            continue;
        }
        let position = found.iter().position(|known| known.index == index).unwrap_or_else(|| {
            found.push(MulticastInterface { index, v4: Vec::new(), has_v6: false });
            found.len() - 1
        });
        found[position].v4.extend(address.as_sockaddr_in().map(|address| address.ip()));
        found[position].has_v6 |= address.as_sockaddr_in6().is_some();
    }
    found.retain(|interface| interface.has_v6 || !interface.v4.is_empty());
    found
}

fn is_usable(ip: IpAddr) -> bool {
    let is_link_local_v6 = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    !ip.is_loopback() && !ip.is_unspecified() && !is_link_local_v6
}

/// Names of the interfaces with an IPv4 default route.
fn default_route_interfaces() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let routes = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (name, destination) = (fields.next()?, fields.next()?);
        (destination == "00000000").then(|| name.to_owned())
    });
    routes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_other_hosts_may_reach_are_listed() {
        for (text, usable) in
            [("127.0.0.1", false), ("::1", false), ("fe80::1", false), ("169.254.3.4", true)]
        {
            assert_eq!(is_usable(text.parse().unwrap()), usable, "{text}");
        }
        assert!(host_addresses().into_iter().all(is_usable));
    }
}
