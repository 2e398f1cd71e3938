//! The complete files of a peer, as other hosts of the local network can find them.

use crate::discovery::responder::Discoverable;
use crate::net::Listening;
use crate::swarm::discovery::Services;
use crate::upload::offers::Offers;
use std::net::IpAddr;

/// What other hosts find at a peer: nothing while it listens only on loopback.
pub(super) fn of_peer(listening: Listening, offers: Offers) -> Discoverable {
    let services = move || {
        let is_public = listening.addresses().iter().any(|ip: &IpAddr| !ip.is_loopback());
        is_public.then(|| Services { files: Some(listening.port()), ..Services::default() })
    };
    let files = move || {
        let complete = offers.list().into_iter().filter(|offer| offer.source.progress().is_complete());
        complete.map(|offer| offer.file).collect()
    };
    Discoverable { services: Box::new(services), files: Box::new(files) }
}
