//! The addresses on which this program serves, their registration, and the reports of trackers about them.
//!
//! Without `--listen` a program serves on loopback until a tracker or manager can be reached from other hosts. Then it also
//! serves on the addresses by which that tracker is reached. Invariant: an explicit listening address is never widened.

use crate::content::PeerName;
use crate::content::limits::PEER_ADDRESSES_MAX;
use crate::net::{Endpoint, Listening, host_addresses};
use crate::protocol::tracker::{Reachability, Registration};
use crate::sync::lock;
use crate::upload::offers::Registrations;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

/// Purpose of a registration. A program has one registration for each purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Purpose(&'static str);

/// Registration of a volunteer's storage.
pub const VOLUNTEER: Purpose = Purpose("volunteer");
/// Registration of shared files at a tracker.
pub const SHARED_FILES: Purpose = Purpose("files");
/// Registration of shared files at the tracker of this program itself.
pub const OWN_TRACKER: Purpose = Purpose("own");
/// Registration of shared files at a tracker that was found on this host.
pub const FOUND_TRACKER: Purpose = Purpose("found");
/// Registration at a manager.
pub const MEMBER: Purpose = Purpose("member");
/// Registration of the chunks of a set.
pub const CHUNK_SET: Purpose = Purpose("chunks");

/// Name and addresses of a program for its registrations.
pub struct PresenceConfig {
    /// Name of this peer.
    pub name: PeerName,
    /// Address of this peer for other peers, if it differs from those on which it serves.
    pub advertise: Option<SocketAddr>,
    /// The listening address was not chosen by the user and may be widened.
    pub widens: bool,
    /// Number of files that other hosts can download after the listening address is widened; `None` if the user has named
    /// the files.
    pub shared_files: Option<usize>,
}

/// Presence of this program at its trackers and managers. Clones are the same presence.
#[derive(Clone)]
pub struct Presence(Arc<Inner>);

struct Inner {
    config: PresenceConfig,
    listening: Listening,
    registrations: Registrations,
    /// The last warning about addresses at which no peer can connect; empty without one.
    warning: Mutex<String>,
    /// Addresses that could not be listened on; each is reported once.
    refused: Mutex<Vec<IpAddr>>,
}

impl Presence {
    /// The presence of a program whose upload server is listening.
    pub fn new(config: PresenceConfig, listening: Listening, registrations: Registrations) -> Self {
        let (warning, refused) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { config, listening, registrations, warning, refused }))
    }

    /// The registration at a tracker or manager for a purpose.
    pub fn registration(&self, purpose: Purpose) -> Registration {
        let Inner { config, listening, registrations, .. } = &*self.0;
        Registration {
            name: config.name.clone(),
            port: listening.port(),
            advertise: config.advertise,
            addresses: self.addresses(),
            identity: registrations.key(purpose.0),
            volunteer: purpose == VOLUNTEER,
        }
    }

    /// The IP addresses on which other hosts may reach this program; link-local IPv6 addresses only if there is no other.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let of_host = || host_addresses().into_iter().map(|at| at.ip());
        let mut all = Vec::new();
        for ip in self.0.listening.addresses() {
            match ip {
                IpAddr::V4(any) if any.is_unspecified() => {
                    all.extend(of_host().filter(IpAddr::is_ipv4));
                }
                ip if ip.is_unspecified() => all.extend(of_host()),
                ip => all.push(ip),
            }
        }
        all.retain(|ip| !ip.is_loopback());
        let is_link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        if !all.iter().all(is_link_local) {
            all.retain(|ip| !is_link_local(ip));
        }
        all.truncate(PEER_ADDRESSES_MAX);
        all
    }

    /// Whether this program serves at an address, or advertises it.
    pub fn is_own(&self, address: SocketAddr) -> bool {
        let Inner { config, listening, .. } = &*self.0;
        let serves_on = |ip| listening.addresses().contains(&ip) || self.addresses().contains(&ip);
        config.advertise == Some(address) || (address.port() == listening.port() && serves_on(address.ip()))
    }

    /// Notes the address of this host from which a tracker or manager is reached, before the registration there. Over
    /// IPv6 loopback, too, a peer must serve where it is reached.
    pub fn connected_from(&self, local: Option<SocketAddr>) {
        self.widen(local);
    }

    /// Notes a registration. `local` is the address from which the tracker or manager is reached; a `public` one can be
    /// reached from other hosts.
    pub fn registered(&self, local: Option<SocketAddr>, public: bool) {
        if public && local.is_some_and(|local| local.ip().is_loopback()) {
            self.widen(host_addresses());
        }
    }

    /// Also listens on these addresses, unless the user has chosen the listening address.
    fn widen(&self, addresses: impl IntoIterator<Item = SocketAddr>) {
        let Inner { config, listening, refused, .. } = &*self.0;
        if !config.widens {
            return;
        }
        let mut added: Vec<SocketAddr> = Vec::new();
        for at in addresses {
            let ip = at.ip();
            match listening.extend(at) {
                Ok(true) if !ip.is_loopback() => added.push(SocketAddr::new(ip, listening.port())),
                Ok(_) => {}
                Err(error) => {
                    let mut refused = lock(refused);
                    if !refused.contains(&ip) {
                        refused.push(ip);
                        log::warn!("{error}; other hosts cannot connect to this peer there");
                    }
                }
            }
        }
        if !added.is_empty() {
            let files = config.shared_files.map(|count| match count {
                1 => "; they can download the file of the shared folder".to_owned(),
                count => format!("; they can download the {count} files of the shared folder"),
            });
            log::info!(
                "reachable at {} by hosts that reach the tracker{}; --listen 127.0.0.1 keeps it here",
                list(&added),
                files.unwrap_or_default()
            );
        }
    }

    /// Reports the result of dialling this peer: a warning with the remedy if no address works. Returns whether one works.
    pub fn judge(&self, tracker: &Endpoint, reachability: &Reachability) -> bool {
        let Reachability { working, failed, other, .. } = reachability;
        let mut warning = lock(&self.0.warning);
        if let Some(first) = working.first() {
            if !std::mem::take(&mut *warning).is_empty() {
                log::info!("the tracker on {tracker} reaches this peer at {first}");
            }
            return true;
        }
        let mut text = String::new();
        if !other.is_empty() {
            let _ = write!(text, "another peer answers at {}", list(other));
        }
        if !failed.is_empty() {
            let and = if text.is_empty() { "" } else { ", and " };
            let _ = write!(text, "{and}the tracker on {tracker} cannot connect to {}", list(failed));
        }
        if !text.is_empty() && *warning != text {
            log::warn!(
                "no other host can connect to this peer, so it sends nothing to others: {text}; {}",
                self.remedy(other)
            );
            *warning = text;
        }
        false
    }

    fn remedy(&self, other: &[SocketAddr]) -> String {
        let Inner { config, listening, .. } = &*self.0;
        let is_local = listening.addresses().iter().all(IpAddr::is_loopback);
        match (config.advertise, other.is_empty()) {
            _ if is_local => "listen on all networks with --listen 0.0.0.0".to_owned(),
            (Some(address), _) => format!("check --advertise {address}"),
            (None, false) => "use another port on this host".to_owned(),
            (None, true) => format!(
                "open TCP port {} in the firewall, or name an address that works with --advertise IP:PORT",
                listening.port()
            ),
        }
    }
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Listener, Shutdown, Threads};

    fn presence(widens: bool) -> (Presence, impl FnOnce()) {
        let (threads, shutdown) = (Threads::new(), Shutdown::new());
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listening = listener.serve("test", 9, &threads, &shutdown, |_, _, _| {}).unwrap();
        let name = PeerName::new("x").unwrap();
        let config = PresenceConfig { name, advertise: None, widens, shared_files: None };
        let end = move || {
            shutdown.trigger();
            threads.join();
        };
        (Presence::new(config, listening, Registrations::default()), end)
    }

    fn listens_on(presence: &Presence, ip: &str) -> bool {
        presence.0.listening.addresses().contains(&ip.parse().unwrap())
    }

    #[test]
    fn a_default_address_is_widened_and_a_chosen_one_is_not() {
        for widens in [true, false] {
            let (presence, end) = presence(widens);
            // Another loopback address stands for an address of this host.
            presence.widen(["127.0.0.9:0".parse().unwrap()]);
            assert_eq!(listens_on(&presence, "127.0.0.9"), widens);
            end();
        }
    }

    #[test]
    fn a_peer_on_loopback_registers_no_address_and_stays_there_with_a_local_tracker() {
        let (presence, end) = presence(true);
        presence.connected_from("127.0.0.1:9".parse().ok());
        assert!(presence.is_own(SocketAddr::from(([127, 0, 0, 1], presence.0.listening.port()))));
        assert!(!presence.is_own("127.0.0.1:1".parse().unwrap()));
        presence.registered("127.0.0.1:9".parse().ok(), false);
        assert_eq!(presence.registration(SHARED_FILES).addresses, [] as [IpAddr; 0]);
        assert_eq!(presence.0.listening.addresses().len(), 1);
        end();
    }

    #[test]
    fn a_peer_serves_on_the_loopback_address_by_which_its_tracker_is_reached() {
        let (presence, end) = presence(true);
        presence.connected_from("127.0.0.7:9".parse().ok());
        assert!(listens_on(&presence, "127.0.0.7"));
        assert_eq!(presence.addresses(), [] as [IpAddr; 0]);
        end();
    }

    #[test]
    fn a_warning_is_given_until_an_address_works() {
        let (presence, end) = presence(true);
        let tracker = Endpoint::new("10.0.0.1", 5100);
        let at: SocketAddr = "10.0.0.5:7000".parse().unwrap();
        let failed = Reachability { failed: vec![at], ..Reachability::default() };
        assert!(!presence.judge(&tracker, &failed));
        assert_eq!(
            *lock(&presence.0.warning),
            "the tracker on 10.0.0.1:5100 cannot connect to 10.0.0.5:7000"
        );
        assert!(presence.judge(&tracker, &Reachability { working: vec![at], ..failed }));
        assert!(lock(&presence.0.warning).is_empty());
        end();
    }
}
