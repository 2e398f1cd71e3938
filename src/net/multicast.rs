//! Multicast within a local network: sockets that receive questions, and sockets that send one on every interface.
//!
//! IPv4 uses the group [`GROUP_V4`] of the local scope (RFC 2365), IPv6 the link-local group [`GROUP_V6`] (RFC 4291). No
//! datagram leaves the network: the hop limit is 1.

use super::interfaces::{MulticastInterface, multicast_interfaces};
use super::shutdown::Shutdown;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

/// UDP port of questions.
pub const DISCOVERY_PORT: u16 = 5101;
/// IPv4 group of questions.
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 255, 83, 72);
/// IPv6 group of questions.
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0x5348, 0x4f41);

/// Socket that receives the questions of one address family. Several programs of a host each receive every question.
pub struct QuestionSocket {
    socket: UdpSocket,
    /// Sends answers: their source must not be the group.
    answers: UdpSocket,
    is_v6: bool,
    joined: Vec<u32>,
}

impl QuestionSocket {
    /// The sockets of the address families of this host. None has joined its group yet.
    ///
    /// # Errors
    /// No address family can be used.
    pub fn open() -> io::Result<Vec<Self>> {
        match (Self::of_family(false), Self::of_family(true)) {
            (Err(error), Err(_)) => Err(error),
            (v4, v6) => Ok([v4, v6].into_iter().flatten().collect()),
        }
    }

    fn of_family(is_v6: bool) -> io::Result<Self> {
        let domain = if is_v6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        if is_v6 {
            socket.set_only_v6(true)?;
            socket.set_multicast_all_v6(false)?;
            socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, DISCOVERY_PORT)).into())?;
        } else {
            socket.set_multicast_all_v4(false)?;
            // Not the unspecified address: then only datagrams to the group arrive.
            socket.bind(&SocketAddr::from((GROUP_V4, DISCOVERY_PORT)).into())?;
        }
        let answers = UdpSocket::bind(unspecified(is_v6))?;
        Ok(Self { socket: socket.into(), answers, is_v6, joined: Vec::new() })
    }

    /// Joins the group on interfaces that have appeared, and forgets those that are gone. To be called now and then.
    pub fn update_interfaces(&mut self) {
        let present = multicast_interfaces();
        self.joined.retain(|index| present.iter().any(|interface| interface.index == *index));
        let socket = SockRef::from(&self.socket);
        for MulticastInterface { index, v4, has_v6 } in present {
            let is_usable = if self.is_v6 { has_v6 } else { !v4.is_empty() };
            if self.joined.contains(&index) || !is_usable {
                continue;
            }
            let joined = match self.is_v6 {
                true => socket.join_multicast_v6(&GROUP_V6, index),
                false => socket.join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(index)),
            };
            match joined {
                Ok(()) => self.joined.push(index),
                // Joined before the interface lost its address for a while.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => self.joined.push(index),
                Err(error) => log::debug!("no discovery on interface {index}: {error}"),
            }
        }
    }

    /// Lets the shutdown wake a thread that waits in [`receive`](Self::receive).
    ///
    /// # Errors
    /// No further file descriptor.
    pub fn wake_at(&self, shutdown: &Shutdown) -> io::Result<()> {
        let waker = self.socket.try_clone()?;
        // An unconnected socket reports an error, and is shut down nevertheless.
        shutdown.on_trigger(move || _ = rustix::net::shutdown(&waker, rustix::net::Shutdown::Read));
        Ok(())
    }

    /// Receives a datagram and its source within `timeout`; `None` if none has arrived.
    pub fn receive(&self, buffer: &mut [u8], timeout: Duration) -> Option<(usize, SocketAddr)> {
        self.socket.set_read_timeout(Some(timeout)).ok()?;
        self.socket.recv_from(buffer).ok().filter(|(count, _)| *count > 0)
    }

    /// Sends an answer. A lost one is not repeated.
    pub fn answer(&self, bytes: &[u8], to: SocketAddr) {
        if let Err(error) = self.answers.send_to(bytes, to) {
            log::debug!("no answer to {to}: {error}");
        }
    }
}

fn unspecified(is_v6: bool) -> SocketAddr {
    match is_v6 {
        true => (Ipv6Addr::UNSPECIFIED, 0).into(),
        false => (Ipv4Addr::UNSPECIFIED, 0).into(),
    }
}

/// Sockets that send a question on every interface and receive the answers; one for each address family.
pub struct AskingSockets(Vec<(UdpSocket, bool)>);

impl AskingSockets {
    /// Opens the sockets.
    ///
    /// # Errors
    /// No address family can be used.
    pub fn open() -> io::Result<Self> {
        let family = |is_v6| -> io::Result<(UdpSocket, bool)> {
            let socket = UdpSocket::bind(unspecified(is_v6))?;
            socket.set_nonblocking(true)?;
            match is_v6 {
                true => SockRef::from(&socket).set_multicast_hops_v6(1)?,
                false => SockRef::from(&socket).set_multicast_ttl_v4(1)?,
            }
            Ok((socket, is_v6))
        };
        match (family(false), family(true)) {
            (Err(error), Err(_)) => Err(error),
            (v4, v6) => Ok(Self([v4, v6].into_iter().flatten().collect())),
        }
    }

    /// Sends a question on every interface. Returns the number of datagrams that were sent.
    pub fn ask(&self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        for MulticastInterface { index, v4, has_v6 } in multicast_interfaces() {
            for (socket, is_v6) in &self.0 {
                let options = SockRef::from(socket);
                let (chosen, group): (_, SocketAddr) = match (is_v6, v4.first()) {
                    (true, _) if has_v6 => (
                        options.set_multicast_if_v6(index),
                        SocketAddrV6::new(GROUP_V6, DISCOVERY_PORT, 0, index).into(),
                    ),
                    (false, Some(ip)) => (options.set_multicast_if_v4(ip), (GROUP_V4, DISCOVERY_PORT).into()),
                    _ => continue,
                };
                match chosen.and_then(|()| socket.send_to(bytes, group)) {
                    Ok(_) => sent += 1,
                    Err(error) => log::debug!("no question to {group} on interface {index}: {error}"),
                }
            }
        }
        sent
    }

    /// Receives datagrams until `deadline`, passes each with its source to `take`, and ends early when `take` returns
    /// true.
    pub fn receive_until(&self, deadline: Instant, mut take: impl FnMut(&[u8], SocketAddr) -> bool) {
        let mut buffer = [0; 2_048];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let mut waiting: Vec<PollFd> =
                self.0.iter().map(|(socket, _)| PollFd::new(socket, PollFlags::IN)).collect();
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            // An error, such as a signal, is an early wake-up.
            let _ = poll(&mut waiting, Some(&left));
            for (socket, _) in &self.0 {
                while let Ok((count, from)) = socket.recv_from(&mut buffer) {
                    if take(&buffer[..count], from) {
                        return;
                    }
                }
            }
        }
    }
}
