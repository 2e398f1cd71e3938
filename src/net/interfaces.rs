//! IP addresses of this host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::Path;

/// Beginnings of the names of interfaces that lead only to containers or virtual machines of this host.
const LOCAL_PREFIXES: [&str; 7] = ["docker", "br-", "veth", "virbr", "podman", "cni", "lxcbr"];
/// `IFA_F_TEMPORARY` of Linux: a privacy address (RFC 8981), which expires.
const TEMPORARY: u32 = 0x01;
/// `IFA_F_DADFAILED`, `IFA_F_DEPRECATED` and `IFA_F_TENTATIVE`: no new connection should use the address.
const UNUSABLE: u32 = 0x08 | 0x20 | 0x40;

/// An address of an interface that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
struct InterfaceAddress {
    interface: String,
    ip: IpAddr,
    /// The interface of a link-local IPv6 address; otherwise 0.
    scope: u32,
    /// The interface is a bridge.
    is_bridge: bool,
    /// A default route leads through the interface.
    is_routed: bool,
    /// An IPv6 address that expires, while the interface keeps others.
    is_temporary: bool,
}

/// The addresses of the network interfaces that are up, with port 0: no loopback address, and none of a bridge that leads
/// only to containers or virtual machines of this host. Link-local IPv6 addresses, with their scope, only if there is no
/// other. IPv4 addresses come first; empty if the system does not list them.
pub fn host_addresses() -> Vec<SocketAddr> {
    select_for_host(&interface_addresses())
}

fn select_for_host(all: &[InterfaceAddress]) -> Vec<SocketAddr> {
    let all = || all.iter().filter(|one| one.is_routed || !one.is_bridge);
    let mut found: Vec<SocketAddr> =
        all().filter(|one| is_usable(one.ip)).map(InterfaceAddress::socket_address).collect();
    if found.is_empty() {
        found.extend(all().filter(|one| is_link_local(one.ip)).map(InterfaceAddress::socket_address));
    }
    found.sort_by_key(SocketAddr::is_ipv6);
    found.dedup();
    found
}

/// The address with the scope of the interface that has it, if it is a link-local IPv6 address of this host without one.
pub fn with_own_scope(address: SocketAddr) -> SocketAddr {
    let SocketAddr::V6(mut v6) = address else { return address };
    if v6.scope_id() == 0
        && v6.ip().is_unicast_link_local()
        && let Some(own) = interface_addresses().iter().find(|own| own.ip == *v6.ip())
    {
        v6.set_scope_id(own.scope);
    }
    v6.into()
}

impl InterfaceAddress {
    fn socket_address(&self) -> SocketAddr {
        match self.ip {
            IpAddr::V6(ip) => SocketAddrV6::new(ip, 0, 0, self.scope).into(),
            ip => SocketAddr::new(ip, 0),
        }
    }
}

/// The IP addresses for a ticket, those of the default route first: addresses of [`host_addresses`] that other hosts can
/// most likely reach for a long time. Empty if this host has no network.
pub fn ticket_addresses() -> Vec<IpAddr> {
    select_for_ticket(&interface_addresses())
}

/// The addresses for a ticket: not link-local, not of an interface for containers unless the default route leads through
/// it, and no temporary IPv6 address of an interface that has a stable one.
fn select_for_ticket(all: &[InterfaceAddress]) -> Vec<IpAddr> {
    let has_stable = |interface: &str| {
        all.iter().any(|one| {
            one.interface == interface && one.ip.is_ipv6() && is_usable(one.ip) && !one.is_temporary
        })
    };
    let is_selected = |one: &&InterfaceAddress| {
        let is_local = one.is_bridge || LOCAL_PREFIXES.iter().any(|prefix| one.interface.starts_with(prefix));
        is_usable(one.ip)
            && !is_link_local(one.ip)
            && (one.is_routed || !is_local)
            && !(one.is_temporary && has_stable(&one.interface))
    };
    let mut selected: Vec<&InterfaceAddress> = all.iter().filter(is_selected).collect();
    // Stable: interfaces keep the order of the system.
    selected.sort_by_key(|one| (!one.is_routed, one.ip.is_ipv6()));
    let mut found: Vec<IpAddr> = Vec::new();
    for one in selected {
        if !found.contains(&one.ip) {
            found.push(one.ip);
        }
    }
    found
}

/// All addresses of the interfaces that are up.
fn interface_addresses() -> Vec<InterfaceAddress> {
    use nix::net::if_::InterfaceFlags;
    let (routed, flags) = (default_route_interfaces(), ipv6_flags());
    let mut found = Vec::new();
    for interface in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        if !interface.flags.contains(InterfaceFlags::IFF_UP) {
            continue;
        }
        let name = interface.interface_name;
        let address = interface.address.as_ref();
        let v4 =
            address.and_then(|address| address.as_sockaddr_in()).map(|address| IpAddr::from(address.ip()));
        let v6 = address.and_then(|address| address.as_sockaddr_in6());
        let scope = v6.map_or(0, |address| address.scope_id());
        let Some(ip) = v4.or(v6.map(|address| IpAddr::from(address.ip()))) else { continue };
        let flags = flags.iter().find(|(known, _)| IpAddr::from(*known) == ip).map_or(0, |(_, flags)| *flags);
        if flags & UNUSABLE != 0 {
            continue;
        }
        found.push(InterfaceAddress {
            ip,
            scope,
            is_bridge: Path::new("/sys/class/net").join(&name).join("bridge").exists(),
            is_routed: routed.contains(&name),
            is_temporary: flags & TEMPORARY != 0,
            interface: name,
        });
    }
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

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Names of the interfaces with a default route, those of IPv4 first.
fn default_route_interfaces() -> Vec<String> {
    let v4 = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let v6 = std::fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    ipv4_default_routes(&v4).chain(ipv6_default_routes(&v6)).collect()
}

/// The interfaces of the default routes in the text of `/proc/net/route`.
fn ipv4_default_routes(table: &str) -> impl Iterator<Item = String> {
    table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (name, destination) = (fields.next()?, fields.next()?);
        (destination == "00000000").then(|| name.to_owned())
    })
}

/// The interfaces of the default routes in the text of `/proc/net/ipv6_route`. The system lists one over `lo` that refuses.
fn ipv6_default_routes(table: &str) -> impl Iterator<Item = String> {
    table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [destination, length, .., name] = fields[..] else { return None };
        let is_default = length == "00" && destination.bytes().all(|digit| digit == b'0');
        (is_default && name != "lo").then(|| name.to_owned())
    })
}

/// The flags of each IPv6 address of this host.
fn ipv6_flags() -> Vec<(Ipv6Addr, u32)> {
    parse_ipv6_flags(&std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default())
}

/// Parses the text of `/proc/net/if_inet6`: address, index, prefix length, scope, flags, name.
fn parse_ipv6_flags(table: &str) -> Vec<(Ipv6Addr, u32)> {
    let rows = table.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let address = u128::from_str_radix(fields.next()?, 16).ok()?;
        let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
        Some((Ipv6Addr::from_bits(address), flags))
    });
    rows.collect()
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
        assert!(host_addresses().iter().all(|at| is_usable(at.ip()) || is_link_local(at.ip())));
        assert!(ticket_addresses().into_iter().all(|ip| is_usable(ip) && !is_link_local(ip)));
    }

    fn address(interface: &str, ip: &str) -> InterfaceAddress {
        InterfaceAddress {
            interface: interface.to_owned(),
            ip: ip.parse().unwrap(),
            scope: 0,
            is_bridge: false,
            is_routed: false,
            is_temporary: false,
        }
    }

    #[test]
    fn a_host_has_its_link_local_addresses_only_without_others() {
        let mut all = vec![
            address("lo", "127.0.0.1"),
            InterfaceAddress { scope: 3, ..address("eth0", "fe80::5") },
            InterfaceAddress { is_bridge: true, scope: 4, ..address("br-1", "fe80::6") },
        ];
        let shown = |all: &[InterfaceAddress]| {
            select_for_host(all).iter().map(SocketAddr::to_string).collect::<Vec<_>>()
        };
        assert_eq!(shown(&all), ["[fe80::5%3]:0"]);
        all.extend([address("eth1", "fd00::1"), address("eth1", "169.254.3.4")]);
        assert_eq!(shown(&all), ["169.254.3.4:0", "[fd00::1]:0"]);
    }

    fn selected(all: &[InterfaceAddress]) -> Vec<String> {
        select_for_ticket(all).iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn a_ticket_names_addresses_of_the_default_route_first_and_none_of_containers() {
        let bridge = InterfaceAddress { is_bridge: true, ..address("lab0", "10.9.0.1") };
        let routed = |ip| InterfaceAddress { is_routed: true, ..address("wlan0", ip) };
        let mut all = vec![
            address("lo", "127.0.0.1"),
            address("lo", "::1"),
            address("eth0", "10.1.0.5"),
            address("eth0", "169.254.3.4"),
            address("eth0", "fe80::5"),
            bridge.clone(),
            routed("2001:db8::7"),
            routed("192.168.1.7"),
            routed("192.168.1.7"),
        ];
        let names = ["docker0", "br-12ab", "veth9", "virbr0", "podman1", "cni0", "lxcbr0"];
        all.extend(names.map(|name| address(name, "172.17.0.1")));
        assert_eq!(selected(&all), ["192.168.1.7", "2001:db8::7", "10.1.0.5"]);
        let uplink = InterfaceAddress { is_routed: true, ..bridge };
        assert_eq!(selected(&[uplink]), ["10.9.0.1"], "a bridge with the default route is the network");
        assert_eq!(selected(&[]), [""; 0]);
    }

    #[test]
    fn a_temporary_address_is_named_only_without_a_stable_one_on_its_interface() {
        let temporary = |interface, ip| InterfaceAddress { is_temporary: true, ..address(interface, ip) };
        let all = [
            address("eth0", "2001:db8::1"),
            temporary("eth0", "2001:db8::abcd"),
            temporary("eth1", "2001:db8:1::abcd"),
            address("eth1", "fe80::1"),
        ];
        assert_eq!(selected(&all), ["2001:db8::1", "2001:db8:1::abcd"]);
    }

    #[test]
    fn the_tables_of_the_system_are_read() {
        let v4 = "Iface\tDestination\tGateway\neth0\t00000000\t010200C0\neth1\t000200C0\t00000000\n";
        assert_eq!(ipv4_default_routes(v4).collect::<Vec<_>>(), ["eth0"]);
        let (zero, some) = ("0".repeat(32), "fd".to_owned() + &"0".repeat(30));
        let route = |destination: &str, length: &str, name: &str| {
            format!("{destination} {length} {zero} 00 {zero} 00000400 00000003 00000000 00000003 {name}\n")
        };
        let v6 = route(&some, "40", "eth0") + &route(&zero, "00", "eth1") + &route(&zero, "00", "lo");
        assert_eq!(ipv6_default_routes(&v6).collect::<Vec<_>>(), ["eth1"]);
        let flags = parse_ipv6_flags("fd000000000000000000000000000002 04 40 00 81     eth0\nbroken\n");
        assert_eq!(flags, [("fd00::2".parse().unwrap(), 0x81)]);
        assert_eq!(ipv4_default_routes("").chain(ipv6_default_routes("")).count(), 0);
    }
}
