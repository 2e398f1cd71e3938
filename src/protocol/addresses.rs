//! Lists of addresses as they are written, thirty and more in an answer: the general way of formatting numbers would be
//! most of the work of a lookup.

use serde::{Serialize, Serializer};
use std::net::{SocketAddr, SocketAddrV4};

/// Writes a list as `serde` would.
pub(super) fn serialize<S: Serializer>(addresses: &[SocketAddr], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(addresses.iter().map(Written))
}

struct Written<'a>(&'a SocketAddr);

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            SocketAddr::V4(address) => {
                let mut text = Text::default();
                text.address(address);
                to.serialize_str(text.as_str())
            }
            other => other.serialize(to),
        }
    }
}

/// Room for the longest address, `255.255.255.255:65535`.
#[derive(Default)]
struct Text {
    bytes: [u8; 21],
    length: usize,
}

impl Text {
    fn address(&mut self, address: &SocketAddrV4) {
        for (at, octet) in address.ip().octets().into_iter().enumerate() {
            if at > 0 {
                self.push(b'.');
            }
            self.number(octet.into());
        }
        self.push(b':');
        self.number(address.port());
    }

    fn number(&mut self, number: u16) {
        let mut begun = false;
        for power in [10_000, 1_000, 100, 10] {
            begun |= number >= power;
            if begun {
                self.push(b'0' + (number / power % 10) as u8);
            }
        }
        self.push(b'0' + (number % 10) as u8);
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    fn as_str(&self) -> &str {
        // They are all ASCII.
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_address_is_written_as_it_always_is(addresses: Vec<SocketAddr>, ip: [u8; 4], port: u16) {
            let addresses = [addresses, vec![(ip, port).into(), ([255; 4], 65_535).into()]].concat();
            let written: Vec<_> = addresses.iter().map(Written).collect();
            prop_assert_eq!(serde_json::to_string(&written).unwrap(), serde_json::to_string(&addresses).unwrap());
        }
    }
}
