//! Search in the local network: one question on every interface, repeated, and the answers of all hosts.

use super::random;
use crate::content::limits::DISCOVERY_ANSWERS_MAX;
use crate::net::Shutdown;
use crate::net::multicast::AskingSockets;
use crate::protocol::discovery::{Answer, Question, Service, Wanted};
use crate::protocol::peer_address::canonical_address;
use crate::protocol::tokens::Nonce;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Longest time of a search.
pub const SEARCH_MAX: Duration = Duration::from_secs(1);
/// Time for the answers of further hosts after the first answer.
const FURTHER_ANSWERS_TIMEOUT: Duration = Duration::from_millis(400);
/// Times at which the question is sent: a datagram can be lost.
const ASKED_AT: [Duration; 3] = [Duration::ZERO, Duration::from_millis(150), Duration::from_millis(450)];

/// A service that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Address of the host with the port of the service; a link-local address has its scope.
    pub address: SocketAddr,
    /// Number of the program, the same at each of its addresses.
    pub program: Nonce,
    /// The service.
    pub service: Service,
}

/// Asks all hosts of the local networks. Takes at most [`SEARCH_MAX`]; each service is returned once.
///
/// # Errors
/// No socket can be opened, no random number is available, or no interface supports multicast.
pub fn search(wanted: impl FnOnce(Nonce) -> Wanted, shutdown: &Shutdown) -> io::Result<Vec<Found>> {
    let sockets = AskingSockets::open()?;
    let tx = random()?;
    let question = Question::new(tx, wanted(tx));
    let bytes = question.encode();
    let started = Instant::now();
    let mut end = started + SEARCH_MAX;
    let (mut found, mut sent): (Vec<Found>, usize) = (Vec::new(), 0);
    for (number, at) in ASKED_AT.iter().enumerate() {
        if shutdown.is_stopped() || started + *at >= end {
            break;
        }
        sent += sockets.ask(&bytes);
        let next = ASKED_AT.get(number + 1).map_or(SEARCH_MAX, |at| *at);
        sockets.receive_until((started + next).min(end), |datagram, from| {
            if let Some(one) = read(datagram, from, &question)
                && add(&mut found, one)
            {
                end = end.min(Instant::now() + FURTHER_ANSWERS_TIMEOUT);
            }
            shutdown.is_stopped()
        });
    }
    match sent {
        0 => {
            Err(io::Error::new(io::ErrorKind::NetworkUnreachable, "no network interface supports multicast"))
        }
        _ => Ok(found),
    }
}

/// Adds a service, unless it is known or there are [`DISCOVERY_ANSWERS_MAX`]. Returns whether it was added.
fn add(found: &mut Vec<Found>, one: Found) -> bool {
    let is_new = found.len() < DISCOVERY_ANSWERS_MAX && !found.contains(&one);
    found.extend(is_new.then_some(one));
    is_new
}

/// The service in an answer of a host.
fn read(datagram: &[u8], from: SocketAddr, question: &Question) -> Option<Found> {
    let Answer { program, service, .. } = Answer::decode(datagram, question)?;
    let port = match &service {
        Service::Files { port, .. } | Service::Tracker { port } | Service::Manager { port } => *port,
        Service::Unknown => 0,
    };
    let mut address = canonical_address(from);
    address.set_port(port);
    let is_wanted = match (&question.wanted, &service) {
        (Wanted::Tracker, Service::Tracker { .. }) | (Wanted::Manager, Service::Manager { .. }) => true,
        (Wanted::Tracker | Wanted::Manager, _) => false,
        (_, Service::Files { files, .. }) => files.iter().all(|file| question.matches(file)),
        _ => false,
    };
    (is_wanted && port != 0).then_some(Found { address, program, service })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::limits::PROTOCOL_VERSION;
    use crate::content::{FileId, FileName};
    use crate::protocol::discovery::name_digest;
    use crate::protocol::file_summary::FileSummary;

    #[test]
    fn services_are_found_once_and_up_to_the_limit() {
        let at = |port| Found {
            address: ([10, 0, 0, 1], port).into(),
            program: Nonce(7),
            service: Service::Tracker { port },
        };
        let mut found = Vec::new();
        assert!((1..=DISCOVERY_ANSWERS_MAX as u16).all(|port| add(&mut found, at(port))));
        assert!(!add(&mut found, at(DISCOVERY_ANSWERS_MAX as u16 + 1)));
        assert_eq!(found.pop(), Some(at(DISCOVERY_ANSWERS_MAX as u16)));
        assert!(!add(&mut found, at(1)), "it is known");
    }

    #[test]
    fn an_answer_counts_only_if_it_fits_the_question() {
        let tx = Nonce(7);
        let name = FileName::new("a.bin").unwrap();
        let question = Question::new(tx, Wanted::Name { digest: name_digest(tx, &name) });
        let from = "10.0.0.5:40000".parse().unwrap();
        let answer =
            |service| Answer { v: PROTOCOL_VERSION, tx, program: tx, service }.encode(1_200).unwrap();
        let files = |name: &str, port| {
            let name = FileName::new(name).unwrap();
            let file = FileSummary { id: FileId([7; 32]), name, size: 9, chunks: 1 };
            answer(Service::Files { port, files: vec![file], truncated: false })
        };
        let found = read(&files("a.bin", 7000), from, &question).unwrap();
        assert_eq!(found.address, "10.0.0.5:7000".parse().unwrap());
        assert_eq!(read(&files("b.bin", 7000), from, &question), None, "another name");
        assert_eq!(read(&files("a.bin", 0), from, &question), None, "no port");
        assert_eq!(read(&answer(Service::Tracker { port: 5100 }), from, &question), None, "not asked for");
        assert_eq!(read(b"{}", from, &question), None);
    }
}
