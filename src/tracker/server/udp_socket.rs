//! UDP socket of a server. A response leaves from the address to which its request was sent.
//!
//! On an unspecified address the system would select the source of a response by its route, and a client ignores a
//! response from another address than it asked. There the socket receives the destination of each datagram
//! (`IP_PKTINFO`, `IPV6_PKTINFO`). On a specific address no control messages are needed.

use crate::protocol::peer_address::canonical_address;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::{Arc, OnceLock};

/// Largest number of UDP sockets of a server.
const SOCKETS_MAX: usize = 32;

/// The source of a datagram, and the address to which it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sender {
    /// The canonical source address.
    pub(super) address: SocketAddr,
    /// The address of this host; `None` if the socket has only one.
    pub(super) local: Option<IpAddr>,
    /// Number of the socket that received the datagram.
    pub(super) socket: u8,
}

/// The UDP sockets of a server, by number. Clones share them.
#[derive(Clone, Default)]
pub(super) struct ServerSockets(Arc<[OnceLock<ServerSocket>; SOCKETS_MAX]>);

impl ServerSockets {
    /// Adds a socket. The returned one receives, and the added one sends.
    ///
    /// # Errors
    /// The socket cannot be set up, or there are [`SOCKETS_MAX`] sockets.
    pub(super) fn add(&self, socket: UdpSocket) -> io::Result<ServerSocket> {
        let mut sender = ServerSocket::new(socket)?;
        for (number, place) in self.0.iter().enumerate() {
            sender.number = number as u8;
            let receiver = sender.try_clone()?;
            match place.set(sender) {
                Ok(()) => return Ok(receiver),
                Err(refused) => sender = refused,
            }
        }
        Err(io::Error::other(format!("a server has at most {SOCKETS_MAX} UDP sockets")))
    }

    pub(super) fn get(&self, number: u8) -> Option<&ServerSocket> {
        self.0.get(usize::from(number)).and_then(OnceLock::get)
    }
}

/// A bound UDP socket.
pub(super) struct ServerSocket {
    socket: UdpSocket,
    number: u8,
    is_unspecified: bool,
    is_ipv6: bool,
}

impl ServerSocket {
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        let address = socket.local_addr()?;
        let (is_unspecified, is_ipv6) = (address.ip().is_unspecified(), address.is_ipv6());
        match (is_unspecified, is_ipv6) {
            (true, true) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
            (true, false) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            (false, _) => {}
        }
        Ok(Self { socket, number: 0, is_unspecified, is_ipv6 })
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        let socket = self.socket.try_clone()?;
        let Self { number, is_unspecified, is_ipv6, .. } = *self;
        Ok(Self { socket, number, is_unspecified, is_ipv6 })
    }

    /// Wakes the receiver for ever. It needs no network: the address may be gone.
    pub(super) fn shut_down(&self) {
        // An unconnected socket reports an error, and is shut down nevertheless.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Read);
    }

    /// Receives one datagram. Returns its length and its source, which is missing after a shutdown.
    pub(super) fn receive(
        &self,
        buffer: &mut [u8],
        flags: RecvFlags,
    ) -> Result<(usize, Option<Sender>), Errno> {
        if self.is_unspecified {
            let flags = if flags.is_empty() { MsgFlags::empty() } else { MsgFlags::MSG_DONTWAIT };
            return self
                .receive_with_destination(buffer, flags)
                .map_err(|error| Errno::from_raw_os_error(error as i32));
        }
        let (count, _, from) = rustix::net::recvfrom(&self.socket, buffer, flags)?;
        let address = from.and_then(|from| SocketAddr::try_from(from).ok());
        Ok((count, address.map(|address| self.sender(address, None))))
    }

    fn receive_with_destination(
        &self,
        buffer: &mut [u8],
        flags: MsgFlags,
    ) -> nix::Result<(usize, Option<Sender>)> {
        let mut parts = [IoSliceMut::new(buffer)];
        let mut control = nix::cmsg_space!(libc::in6_pktinfo);
        let received = recvmsg::<SockaddrStorage>(
            self.socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            flags | MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        let local = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                Some(IpAddr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()))
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::from(info.ipi6_addr.s6_addr)),
            _ => None,
        });
        let address = received.address.as_ref().and_then(socket_address);
        Ok((received.bytes, address.map(|address| self.sender(address, local))))
    }

    fn sender(&self, address: SocketAddr, local: Option<IpAddr>) -> Sender {
        Sender { address: canonical_address(address), local, socket: self.number }
    }

    /// Sends a datagram without blocking.
    pub(super) fn send(&self, bytes: &[u8], to: Sender) -> io::Result<()> {
        let address = match to.address {
            SocketAddr::V4(v4) if self.is_ipv6 => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
            address => address,
        };
        let Some(local) = to.local else {
            return Ok(rustix::net::sendto(&self.socket, bytes, SendFlags::DONTWAIT, &address).map(drop)?);
        };
        // The interface is left to the route: for a link-local destination the scope of `address` selects it.
        let (v4, v6);
        let control = match local {
            IpAddr::V4(ip) => {
                let ipi_spec_dst = libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) };
                v4 = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst, ipi_addr: libc::in_addr { s_addr: 0 } };
                ControlMessage::Ipv4PacketInfo(&v4)
            }
            IpAddr::V6(ip) => {
                let ipi6_addr = libc::in6_addr { s6_addr: ip.octets() };
                v6 = libc::in6_pktinfo { ipi6_addr, ipi6_ifindex: 0 };
                ControlMessage::Ipv6PacketInfo(&v6)
            }
        };
        let (parts, to) = ([IoSlice::new(bytes)], SockaddrStorage::from(address));
        sendmsg(self.socket.as_raw_fd(), &parts, &[control], MsgFlags::MSG_DONTWAIT, Some(&to))?;
        Ok(())
    }
}

fn socket_address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddr::from((v4.ip(), v4.port())));
    }
    let v6 = storage.as_sockaddr_in6()?;
    let ip: Ipv6Addr = v6.ip();
    Some(SocketAddrV6::new(ip, v6.port(), 0, v6.scope_id()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Sends a datagram from `client` to `to`, a request to a server bound to `listen`. Returns the source of the
    /// response, and the sender that the server saw.
    fn exchange(listen: &str, client: &str, to: &str) -> (SocketAddr, Sender) {
        let socket = UdpSocket::bind(listen).unwrap();
        let port = socket.local_addr().unwrap().port();
        let server = ServerSocket::new(socket).unwrap();
        let client = UdpSocket::bind(client).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        client.send_to(b"request", (to.parse::<IpAddr>().unwrap(), port)).unwrap();
        let mut buffer = [0; 20];
        let (count, from) = server.receive(&mut buffer, RecvFlags::empty()).unwrap();
        assert_eq!(&buffer[..count], b"request");
        let from = from.unwrap();
        server.send(b"response", from).unwrap();
        let (count, responder) = client.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..count], responder.port()), (&b"response"[..], port));
        assert_eq!(from.address.port(), client.local_addr().unwrap().port());
        (responder, from)
    }

    #[test]
    fn each_socket_of_a_server_answers_its_own_requests() {
        let sockets = ServerSockets::default();
        let bind = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut buffer = [0; 20];
        for number in 0..SOCKETS_MAX {
            let receiver = sockets.add(bind()).unwrap();
            let (client, port) = (bind(), receiver.socket.local_addr().unwrap().port());
            client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            client.send_to(b"request", ("127.0.0.1", port)).unwrap();
            let from = receiver.receive(&mut buffer, RecvFlags::empty()).unwrap().1.unwrap();
            assert_eq!(usize::from(from.socket), number);
            sockets.get(from.socket).unwrap().send(b"response", from).unwrap();
            assert_eq!(client.recv_from(&mut buffer).unwrap().1.port(), port);
        }
        assert!(sockets.add(bind()).is_err());
        assert!(sockets.get(u8::MAX).is_none());
    }

    #[test]
    fn responses_leave_from_the_address_that_was_asked() {
        for listen in ["0.0.0.0:0", "[::]:0"] {
            let (responder, from) = exchange(listen, "127.0.0.1:0", "127.0.0.9");
            assert_eq!(responder.ip(), IpAddr::from([127, 0, 0, 9]), "{listen}");
            assert_eq!(from.address.ip(), IpAddr::from([127, 0, 0, 1]), "{listen}: the source is canonical");
        }
        let (responder, from) = exchange("[::]:0", "[::1]:0", "::1");
        assert_eq!((responder.ip(), from.address.ip()), ("::1".parse().unwrap(), "::1".parse().unwrap()));
        let (_, from) = exchange("127.0.0.9:0", "127.0.0.1:0", "127.0.0.9");
        assert_eq!(from.local, None, "a specific address needs no control messages");
    }
}
