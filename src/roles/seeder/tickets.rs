//! The tickets of a seeder: their addresses, and the line that is printed when they change.

use super::offered_item::OfferedItem;
use crate::content::FileId;
use crate::content::limits::TICKET_PEERS_MAX;
use crate::net::{Endpoint, ticket_addresses};
use crate::protocol::tracker::FileSummary;
use crate::report::events::{self, Event, FileEvent, FileState};
use crate::report::watch::Watch;
use crate::tracker_client::ticket::Ticket;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The tickets that were printed last.
pub(super) struct Tickets {
    advertise: Option<SocketAddr>,
    tracker: Option<Endpoint>,
    /// A seeder without an address for other hosts says why it prints none.
    is_expected: bool,
    /// Ids in the line that was printed last.
    printed: Vec<FileId>,
    has_warned: bool,
}

impl Tickets {
    /// No tickets so far. `tracker` is named unless it can be reached from this host only.
    pub(super) fn new(advertise: Option<SocketAddr>, tracker: Option<&Endpoint>, is_expected: bool) -> Self {
        let tracker = tracker.filter(|tracker| is_for_others(tracker)).cloned();
        Self { advertise, tracker, is_expected, printed: Vec::new(), has_warned: false }
    }

    /// Prints the tickets of all files in one line if the files are offered, have changed, and can be reached from other
    /// hosts. `listening` are the addresses of the upload server.
    pub(super) fn update(
        &mut self,
        files: &[OfferedItem],
        listening: &[IpAddr],
        port: u16,
        watch: &dyn Watch,
    ) {
        let Some(files) = files.iter().map(OfferedItem::summary).collect::<Option<Vec<_>>>() else { return };
        let is_local = listening.iter().all(IpAddr::is_loopback);
        let is_unchanged = self.printed.iter().eq(files.iter().map(|file| &file.id));
        if is_unchanged || (is_local && !self.is_expected) {
            return;
        }
        let peers = match is_local {
            true => Vec::new(),
            false => peer_addresses(listening, &ticket_addresses(), self.advertise, port),
        };
        if peers.is_empty() {
            self.warn(is_local, listening);
            return;
        }
        let tickets: Vec<String> = files.iter().map(|file| self.ticket(file, &peers).to_string()).collect();
        watch.result(&format!("leecher {}", tickets.join(" ")));
        for (file, ticket) in files.iter().zip(tickets) {
            let file = FileEvent::new(FileState::Offered, file.clone());
            events::emit(|| Event::File(FileEvent { ticket: Some(ticket), ..file }));
        }
        self.printed = files.into_iter().map(|file| file.id).collect();
        self.has_warned = false;
    }

    /// Says once why no ticket is printed.
    fn warn(&mut self, is_local: bool, listening: &[IpAddr]) {
        if !self.is_expected || std::mem::replace(&mut self.has_warned, true) {
            return;
        }
        match (is_local, listening.first()) {
            (true, Some(ip)) => log::warn!(
                "no ticket can be given: this seeder listens on {ip} only; for other hosts leave out --listen"
            ),
            _ => log::warn!(
                "no ticket can be given: this host has no address that other hosts can reach; connect it to a \
                 network, or name an address with --advertise IP:PORT"
            ),
        }
    }

    fn ticket(&self, file: &FileSummary, peers: &[SocketAddr]) -> Ticket {
        let FileSummary { id, name, size, .. } = file.clone();
        let trackers = self.tracker.iter().cloned().collect();
        Ticket { id, name, size, trackers, peers: peers.to_vec() }
    }
}

/// Whether a ticket may name a tracker: other hosts may reach it, and its address means the same there.
fn is_for_others(tracker: &Endpoint) -> bool {
    let has_scope = tracker.to_string().contains('%');
    !tracker.is_loopback() && !tracker.is_unspecified() && !has_scope
}

/// The addresses for a ticket: the advertised one, then those of this host on which the seeder listens, in their order.
fn peer_addresses(
    listening: &[IpAddr],
    host: &[IpAddr],
    advertise: Option<SocketAddr>,
    port: u16,
) -> Vec<SocketAddr> {
    let any = |any: IpAddr| listening.contains(&any);
    let (any_v4, any_v6) = (any([0, 0, 0, 0].into()), any(Ipv6Addr::UNSPECIFIED.into()));
    let listens = |ip: &&IpAddr| listening.contains(ip) || any_v6 || (any_v4 && ip.is_ipv4());
    let mut own: Vec<IpAddr> = host.iter().filter(listens).copied().collect();
    if own.is_empty() {
        // The user, or the route to the tracker, has chosen an address that is not selected otherwise.
        own.extend(listening.iter().filter(|ip| can_be_reached(**ip)));
    }
    let own = own.into_iter().map(|ip| SocketAddr::new(ip, port));
    let mut found: Vec<SocketAddr> = Vec::new();
    for address in advertise.into_iter().chain(own) {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    found.truncate(TICKET_PEERS_MAX);
    found
}

/// Whether other hosts may reach an address of this host.
fn can_be_reached(ip: IpAddr) -> bool {
    let is_link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !ip.is_unspecified() && !ip.is_loopback() && !is_link_local
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn addresses(listening: &[&str], host: &[&str], advertise: Option<&str>) -> Vec<String> {
        let advertise = advertise.map(|text| text.parse().unwrap());
        let found = peer_addresses(&ips(listening), &ips(host), advertise, 7000);
        found.iter().map(SocketAddr::to_string).collect()
    }

    #[test]
    fn a_ticket_names_the_addresses_on_which_the_seeder_listens() {
        let host = ["10.0.0.5", "fd00::5", "10.1.0.5"];
        assert_eq!(addresses(&["::"], &host, None), ["10.0.0.5:7000", "[fd00::5]:7000", "10.1.0.5:7000"]);
        assert_eq!(addresses(&["0.0.0.0"], &host, None), ["10.0.0.5:7000", "10.1.0.5:7000"]);
        assert_eq!(addresses(&["127.0.0.1", "10.1.0.5"], &host, None), ["10.1.0.5:7000"]);
        assert_eq!(addresses(&["172.17.0.1"], &host, None), ["172.17.0.1:7000"], "a chosen address");
        assert_eq!(addresses(&["127.0.0.1", "fe80::1", "169.254.3.4"], &host, None), [""; 0]);
        let temporary = addresses(&["10.0.0.5", "2001:db8::abcd"], &host, None);
        assert_eq!(temporary, ["10.0.0.5:7000"], "not selected for a ticket");
        let advertised = addresses(&["10.0.0.5"], &host, Some("192.0.2.1:80"));
        assert_eq!(advertised, ["192.0.2.1:80", "10.0.0.5:7000"]);
    }

    #[test]
    fn a_ticket_names_at_most_eight_addresses() {
        let many: Vec<String> = (1..=20).map(|number| format!("10.0.0.{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(addresses(&["0.0.0.0"], &many, None).len(), TICKET_PEERS_MAX);
    }

    #[test]
    fn only_a_tracker_for_other_hosts_is_named() {
        for (host, is_named) in [
            ("tracker.lan", true),
            ("10.0.0.1", true),
            ("fd00::1", true),
            ("127.0.0.1", false),
            ("localhost", false),
            ("0.0.0.0", false),
            ("fe80::1%eth0", false),
        ] {
            let tickets = Tickets::new(None, Some(&Endpoint::new(host, 5100)), true);
            assert_eq!(tickets.tracker.is_some(), is_named, "{host}");
        }
    }
}
