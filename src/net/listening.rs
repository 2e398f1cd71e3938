//! A running listener, which may listen on further addresses of this host.

use super::listener::{BindError, Listener};
use crate::sync::lock;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

/// Starts to accept connections on another socket.
type Accept = dyn Fn(TcpListener) -> std::io::Result<()> + Send + Sync;

/// Handle of a running listener. Clones are the same listener.
#[derive(Clone)]
pub struct Listening {
    port: u16,
    addresses: Arc<Mutex<Vec<IpAddr>>>,
    accept: Arc<Accept>,
}

impl Listening {
    pub(super) fn new(
        address: SocketAddr,
        accept: impl Fn(TcpListener) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let addresses = Arc::new(Mutex::new(vec![address.ip()]));
        Self { port: address.port(), addresses, accept: Arc::new(accept) }
    }

    /// The port; the same on all addresses.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The IP addresses on which the listener listens; an unspecified one stands for all.
    pub fn addresses(&self) -> Vec<IpAddr> {
        lock(&self.addresses).clone()
    }

    /// Also listens on another address, with the same port. Returns whether it is new.
    ///
    /// # Errors
    /// The port is in use there, the address does not belong to this host, or no thread can be started.
    pub fn extend(&self, ip: IpAddr) -> Result<bool, BindError> {
        let mut addresses = lock(&self.addresses);
        if addresses.iter().any(|known| *known == ip || known.is_unspecified()) {
            return Ok(false);
        }
        let address = SocketAddr::new(ip, self.port);
        let listener = Listener::bind(address)?;
        (self.accept)(listener.into_socket()).map_err(|error| BindError::Other(address, "TCP", error))?;
        addresses.push(ip);
        Ok(true)
    }
}
