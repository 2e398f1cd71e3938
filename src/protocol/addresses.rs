//! Fast serializer of the addresses in lookup responses.
//!
//! A response names 30 addresses and more; with the formatter of the standard library, their digits would
//! take most of the time of a lookup. The output is the same.

use serde::{Serialize, Serializer};
use std::net::{SocketAddr, SocketAddrV4};

/// An address with the same JSON as that of the default of `serde`.
pub(super) struct FastAddress<'a>(pub(super) &'a SocketAddr);

impl Serialize for FastAddress<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            SocketAddr::V4(address) => {
                let mut text = AddressText::default();
                text.address(address);
                to.serialize_str(text.as_str())
            }
            other => other.serialize(to),
        }
    }
}

/// Text of an IPv4 address; the longest, `255.255.255.255:65535`, has 21 bytes.
#[derive(Default)]
struct AddressText {
    bytes: [u8; 21],
    length: usize,
}

impl AddressText {
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
        let mut started = false;
        for power in [10_000, 1_000, 100, 10] {
            started |= number >= power;
            if started {
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
        // Digits, dots and a colon are ASCII, so this never fails.
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn output_equals_that_of_the_default_serializer(addresses: Vec<SocketAddr>, ip: [u8; 4], port: u16) {
            let addresses = [addresses, vec![(ip, port).into(), ([255; 4], 65_535).into()]].concat();
            let fast: Vec<_> = addresses.iter().map(FastAddress).collect();
            prop_assert_eq!(serde_json::to_string(&fast).unwrap(), serde_json::to_string(&addresses).unwrap());
        }
    }
}
