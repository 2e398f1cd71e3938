//! Ports to listen on: one, or the first free one of a range.

use super::BindError;
use std::fmt;
use std::str::FromStr;

/// Ports that are tried in order; port 0 selects any free port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Any free port.
    pub const ANY: PortRange = PortRange::single(0);

    /// One port.
    pub const fn single(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// `count` ports from `first` on, fewer at the end of the port numbers.
    pub const fn starting_at(first: u16, count: u16) -> Self {
        Self { first, last: first.saturating_add(count.saturating_sub(1)) }
    }

    /// Calls `bind` with each port until it succeeds.
    ///
    /// # Errors
    /// The error of the first port if all are in use; another error at once.
    pub fn bind_first_free<T>(
        self,
        mut bind: impl FnMut(u16) -> Result<T, BindError>,
    ) -> Result<T, BindError> {
        let first_error = match bind(self.first) {
            Err(error @ BindError::InUse { .. }) => error,
            bound => return bound,
        };
        for port in self.first.saturating_add(1)..=self.last {
            match bind(port) {
                Err(BindError::InUse { .. }) => {}
                bound => {
                    if bound.is_ok() {
                        log::info!("port {} is in use; using port {port}", self.first);
                    }
                    return bound;
                }
            }
        }
        Err(first_error)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected a port from 0 to 65535, or a range such as 7000-7010".to_owned();
        let port = |text: &str| text.trim().parse::<u16>().map_err(|_| wrong());
        match text.split_once('-') {
            None => port(text).map(Self::single),
            Some((first, last)) => {
                let range = Self { first: port(first)?, last: port(last)? };
                let is_valid = range.first > 0 && range.first <= range.last;
                is_valid.then_some(range).ok_or_else(wrong)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Listener;

    #[test]
    fn a_range_takes_its_first_free_port() {
        let bind = |port| Listener::bind(([127, 0, 0, 1], port).into());
        let taken = PortRange::ANY.bind_first_free(bind).unwrap();
        let port = taken.address().port();
        assert!(PortRange::single(port).bind_first_free(bind).is_err());
        let next = PortRange::starting_at(port, 50).bind_first_free(bind).unwrap();
        assert!(next.address().port() > port);
    }

    #[test]
    fn ports_and_ranges_are_parsed() {
        for text in ["0", "7000", "7000-7010", "1-65535", "7-7"] {
            let range: PortRange = text.parse().unwrap();
            assert_eq!(range.to_string(), text.replace("7-7", "7"));
        }
        for text in ["", "-", "x", "7010-7000", "0-9", "7000-", "-7000", "65536", "1-65536", "7000-7001-7002"]
        {
            assert!(text.parse::<PortRange>().unwrap_err().contains("a range such as"), "{text}");
        }
        assert_eq!(PortRange::starting_at(65_530, 100).to_string(), "65530-65535");
    }
}
