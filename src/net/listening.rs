//! Handle of a running listener, which may listen on further addresses of this host.

use crate::sync::lock;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

/// The reason that a socket cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another program uses the port.
    #[error("port {port} on {ip} is in use by another program ({protocol})", port = .address.port(), ip = .address.ip())]
    InUse {
        /// The address that was requested.
        address: SocketAddr,
        /// TCP or UDP.
        protocol: &'static str,
    },
    /// Another error.
    #[error("cannot listen on {0} ({1}): {2}")]
    Other(SocketAddr, &'static str, #[source] io::Error),
}

impl BindError {
    pub(super) fn new(address: SocketAddr, protocol: &'static str, error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::AddrInUse => BindError::InUse { address, protocol },
            _ => BindError::Other(address, protocol, error),
        }
    }
}

/// Listens on another address.
type Listen = dyn Fn(SocketAddr) -> Result<(), BindError> + Send + Sync;

/// Handle of a running listener. Clones are the same listener.
#[derive(Clone)]
pub struct Listening {
    port: u16,
    addresses: Arc<Mutex<Vec<IpAddr>>>,
    listen: Arc<Listen>,
}

impl Listening {
    pub(super) fn new(
        address: SocketAddr,
        listen: impl Fn(SocketAddr) -> Result<(), BindError> + Send + Sync + 'static,
    ) -> Self {
        let addresses = Arc::new(Mutex::new(vec![address.ip()]));
        Self { port: address.port(), addresses, listen: Arc::new(listen) }
    }

    /// Calls `also` with each address that is added from now on, before the listener listens there.
    #[must_use]
    pub fn with(self, also: impl Fn(SocketAddr) + Send + Sync + 'static) -> Self {
        let listen = self.listen;
        let listen = move |address| {
            also(address);
            listen(address)
        };
        Self { listen: Arc::new(listen), ..self }
    }

    /// The port; the same on all addresses.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The IP addresses on which the listener listens; an unspecified one stands for all.
    pub fn addresses(&self) -> Vec<IpAddr> {
        lock(&self.addresses).clone()
    }

    /// Also listens on the IP address of `at`, with the scope of a link-local one, and the same port. Returns whether it
    /// is new.
    ///
    /// # Errors
    /// The port is in use there, the address does not belong to this host, or no thread can be started.
    pub fn extend(&self, mut at: SocketAddr) -> Result<bool, BindError> {
        let ip = at.ip();
        at.set_port(self.port);
        let mut addresses = lock(&self.addresses);
        if addresses.iter().any(|known| *known == ip || known.is_unspecified()) {
            return Ok(false);
        }
        (self.listen)(at)?;
        addresses.push(ip);
        Ok(true)
    }
}
