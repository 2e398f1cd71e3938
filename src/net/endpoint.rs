//! Address of a tracker or manager as the user gave it. A name is resolved at each connect.

use super::Shutdown;
use super::dial::dial_any;
use super::threads::spawn_detached;
use crate::content::limits::RESOLVE_TIMEOUT;
use crate::protocol::peer_address::canonical_address;
use crossbeam_channel::{bounded, select};
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Host and port of a tracker or manager. The host is a name or an IP address, IPv6 possibly with a scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
}

impl Endpoint {
    /// An endpoint of a name or an IP address without brackets. Asks no name server.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// Whether the host is the word `auto`, which stands for a search in the local network.
    pub fn is_auto(&self) -> bool {
        self.host == "auto"
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address, if the host is an IP address and not a name.
    ///
    /// # Errors
    /// The host has a scope that is not an interface of this host.
    fn numeric(&self) -> io::Result<Option<SocketAddr>> {
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok(Some(SocketAddr::new(ip.to_canonical(), self.port)));
        }
        let Some((ip, scope)) = self.scoped() else { return Ok(None) };
        let scope = match scope.parse() {
            Ok(number) => number,
            Err(_) => nix::net::if_::if_nametoindex(scope)
                .map_err(|error| io::Error::new(io::Error::from(error).kind(), no_interface(scope)))?,
        };
        Ok(Some(SocketAddrV6::new(ip, self.port, 0, scope).into()))
    }

    fn scoped(&self) -> Option<(Ipv6Addr, &str)> {
        let (ip, scope) = self.host.split_once('%')?;
        ip.parse().ok().map(|ip| (ip, scope))
    }

    fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Whether the host is this host's loopback interface.
    pub fn is_loopback(&self) -> bool {
        self.ip().map_or(self.host.eq_ignore_ascii_case("localhost"), |ip| ip.to_canonical().is_loopback())
    }

    /// Whether the host is an unspecified IP address, to which no peer can connect.
    pub fn is_unspecified(&self) -> bool {
        self.ip().is_some_and(|ip| ip.is_unspecified())
    }

    /// Resolves within [`RESOLVE_TIMEOUT`], as [`resolve_within`](Self::resolve_within) does.
    ///
    /// # Errors
    /// As [`resolve_within`](Self::resolve_within).
    pub fn resolve(&self, shutdown: &Shutdown) -> io::Result<Vec<SocketAddr>> {
        self.resolve_within(RESOLVE_TIMEOUT, shutdown)
    }

    /// All addresses of the host, at least one. IPv4 addresses come first, because programs listen on IPv4 by default.
    ///
    /// # Errors
    /// The name has no address, no name server responds within the timeout, or `Interrupted` by the shutdown.
    pub fn resolve_within(&self, timeout: Duration, shutdown: &Shutdown) -> io::Result<Vec<SocketAddr>> {
        if let Some(address) = self.numeric()? {
            return Ok(vec![address]);
        }
        if shutdown.is_stopped() {
            return Err(ErrorKind::Interrupted.into());
        }
        let failed = |cause: &dyn fmt::Display| format!("cannot resolve {:?}: {cause}", self.host);
        let (found, result) = bounded(1);
        let name = (self.host.clone(), self.port);
        spawn_detached("resolve", move || {
            let _ = found.send(name.to_socket_addrs());
        })?;
        let found = select! {
            recv(result) -> found => found.unwrap_or_else(|_| Err(io::Error::other("the resolver failed"))),
            recv(shutdown.signal()) -> _ => return Err(ErrorKind::Interrupted.into()),
            default(timeout.min(RESOLVE_TIMEOUT)) => {
                return Err(io::Error::new(ErrorKind::TimedOut, failed(&"no name server responds")));
            }
        };
        let found = found.map_err(|error| io::Error::new(error.kind(), failed(&error)))?;
        let addresses = canonical(found);
        match addresses.is_empty() {
            true => Err(io::Error::new(ErrorKind::NotFound, failed(&"it has no address"))),
            false => Ok(addresses),
        }
    }

    /// Resolves the host and connects to the first of its addresses that accepts, see [`dial_any`].
    ///
    /// # Errors
    /// Those of [`resolve`](Self::resolve) and [`dial_any`].
    pub fn connect(&self, shutdown: &Shutdown) -> io::Result<TcpStream> {
        self.connect_within(RESOLVE_TIMEOUT, shutdown)
    }

    /// As [`connect`](Self::connect), with another timeout of the resolution.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_within(&self, timeout: Duration, shutdown: &Shutdown) -> io::Result<TcpStream> {
        dial_any(&self.resolve_within(timeout, shutdown)?, shutdown)
    }
}

fn no_interface(scope: &str) -> String {
    format!("this host has no network interface {scope:?}")
}

/// Canonical addresses without duplicates, IPv4 first.
fn canonical(found: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in found.map(canonical_address) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => {
                Self::new(format!("{}%{}", v6.ip(), v6.scope_id()), v6.port())
            }
            _ => Self::new(address.ip().to_string(), address.port()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(host: &str) -> io::Result<Vec<SocketAddr>> {
        Endpoint::new(host, 7).resolve(&Shutdown::new())
    }

    #[test]
    fn numeric_hosts_are_resolved_without_a_name_server() {
        for (host, wanted) in [
            ("10.0.0.1", "10.0.0.1:7"),
            ("::1", "[::1]:7"),
            ("::ffff:10.0.0.1", "10.0.0.1:7"),
            ("fe80::1%3", "[fe80::1%3]:7"),
        ] {
            assert_eq!(resolve(host).unwrap(), [wanted.parse().unwrap()], "{host}");
        }
        let error = resolve("fe80::1%none0").unwrap_err().to_string();
        assert_eq!(error, "this host has no network interface \"none0\"");
    }

    #[test]
    fn failed_look_up_and_shutdown_are_errors_of_the_resolution() {
        // A name with an empty label fails without a DNS query.
        let error = resolve("no..body").unwrap_err().to_string();
        assert!(error.starts_with("cannot resolve \"no..body\": "), "{error}");
        let shutdown = Shutdown::new();
        shutdown.trigger();
        let error = Endpoint::new("no..body", 7).resolve(&shutdown).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
    }

    #[test]
    fn addresses_are_canonical_and_listed_once_with_ipv4_first() {
        let addresses =
            |texts: &[&str]| -> Vec<SocketAddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let found = addresses(&["[::1]:7", "[::ffff:10.0.0.1]:7", "10.0.0.2:7", "10.0.0.1:7"]);
        assert_eq!(canonical(found.into_iter()), addresses(&["10.0.0.1:7", "10.0.0.2:7", "[::1]:7"]));
    }

    #[test]
    fn endpoints_are_written_as_given() {
        for text in ["10.0.0.1:7", "[::1]:7", "[fe80::1%3]:7"] {
            assert_eq!(Endpoint::from(text.parse::<SocketAddr>().unwrap()).to_string(), text);
        }
        assert_eq!(Endpoint::new("fe80::1%eth0", 7).to_string(), "[fe80::1%eth0]:7");
        assert_eq!(Endpoint::new("tracker.lan", 7).to_string(), "tracker.lan:7");
    }
}
