//! Parsers for the values of flags: addresses, durations, sizes, rates.
//!
//! Each error is one sentence; clap puts the name and the value of the flag in front of it. Only [`parse_listen`] has
//! an effect outside of this process: it resolves names.

use crate::content::Layout;
use crate::content::limits::{self, KEEP_ALIVE_INTERVAL, MANAGER_ADDRESS, TRACKER_ADDRESS};
use crate::net::{Endpoint, Shutdown};
use crate::swarm::reach::why_not_dialable;
use bytesize::ByteSize;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Error text for a text that is no address.
const EXPECTED_ADDRESS: &str = "expected HOST:PORT, HOST or PORT";
/// Longest duration that a flag takes: a year.
const SECONDS_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Parses the address of a tracker; the port may be omitted.
///
/// # Errors
/// A text that is no address.
pub fn parse_tracker(text: &str) -> Result<Endpoint, String> {
    parse_address(text, TRACKER_ADDRESS)
}

/// Parses the address of a manager; the port may be omitted.
///
/// # Errors
/// A text that is no address.
pub fn parse_manager(text: &str) -> Result<Endpoint, String> {
    parse_address(text, MANAGER_ADDRESS)
}

/// Parses the address that other peers are told: an IP address and a port at which a peer can be dialled.
///
/// # Errors
/// Another text, or an address that no peer can connect to.
pub fn parse_advertise(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.trim().parse().map_err(|_| "expected IP:PORT".to_owned())?;
    match why_not_dialable(address) {
        Some(why) => Err(format!("no peer can connect to {address}: {why}")),
        None => Ok(address),
    }
}

/// Parses the address that a daemon listens on: as [`parse_address`], and also with port 0 (any free port). A name is
/// resolved at once.
///
/// # Errors
/// A text that is no address, or a name that cannot be resolved.
pub fn parse_listen(text: &str, default: SocketAddr) -> Result<SocketAddr, String> {
    let text = text.trim();
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if text == "0" {
        return Ok(SocketAddr::new(default.ip(), 0));
    }
    let addresses = parse_address(text, default)?.resolve(&Shutdown::new());
    addresses.map_err(|error| error.to_string())?.first().copied().ok_or_else(|| "no address".to_owned())
}

/// Parses `HOST:PORT`; or `HOST` or `PORT` alone, the other part is then that of `default`. Hosts are names or IP
/// addresses: IPv6 with or without brackets, and with a scope, as in `fe80::1%eth0`. Asks no name server.
///
/// # Errors
/// A text that is no address.
pub fn parse_address(text: &str, default: SocketAddr) -> Result<Endpoint, String> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(Endpoint::new(default.ip().to_string(), parse_port(text)?));
    }
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        let port = match rest.strip_prefix(':') {
            Some(port) => parse_port(port)?,
            None if rest.is_empty() => default.port(),
            None => return Err(EXPECTED_ADDRESS.to_owned()),
        };
        return match is_ipv6(host) {
            true => Ok(Endpoint::new(host, port)),
            false => Err(format!("{host} is not an IPv6 address")),
        };
    }
    if is_ipv6(text) {
        return Ok(Endpoint::new(text, default.port()));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, parse_port(port)?),
        None => (text, default.port()),
    };
    let is_host_letter = |c: char| !":[]/%".contains(c) && !c.is_whitespace();
    match !host.is_empty() && host.chars().all(is_host_letter) {
        true => Ok(Endpoint::new(host, port)),
        false => Err(EXPECTED_ADDRESS.to_owned()),
    }
}

/// Whether a text is an IPv6 address without brackets, with or without a scope.
fn is_ipv6(text: &str) -> bool {
    let (ip, scope) = text.split_once('%').unwrap_or((text, "0"));
    let is_scope = !scope.is_empty() && !scope.contains(|c: char| c == '/' || c.is_whitespace());
    is_scope && ip.parse::<Ipv6Addr>().is_ok()
}

fn parse_port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(port @ 1..) => Ok(port),
        _ => Err(format!("{text:?} is not a port from 1 to 65535")),
    }
}

/// Parses a duration: `90`, `90s`, `0.5`, `250ms`, `2m`, `1.5h`, `1d`; greater than 0, at most a year.
///
/// # Errors
/// Another text, or a duration out of range.
pub fn parse_seconds(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let seconds = match unit.trim() {
        "" | "s" | "sec" => 1.0,
        "ms" => 0.001,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err("expected a duration such as 90, 0.5, 90s, 2m or 1h".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| "expected a duration such as 90, 0.5, 90s, 2m or 1h")?;
    match Duration::try_from_secs_f64(number * seconds) {
        Ok(Duration::ZERO) => Err("the duration must be greater than 0".to_owned()),
        Ok(duration) if duration <= SECONDS_MAX => Ok(duration),
        _ => Err("the duration must be at most a year".to_owned()),
    }
}

/// Parses an idle timeout: longer than the keep-alive interval of a waiting peer.
///
/// # Errors
/// No duration, or one that is too short.
pub fn parse_idle(text: &str) -> Result<Duration, String> {
    match parse_seconds(text)? {
        idle if idle > KEEP_ALIVE_INTERVAL => Ok(idle),
        _ => Err(format!(
            "the timeout must be longer than {} s, the interval of keep-alive messages",
            KEEP_ALIVE_INTERVAL.as_secs()
        )),
    }
}

/// Parses an announced absence as [`parse_seconds`] does: from 1 s to 30 days.
///
/// # Errors
/// No duration, or one that is out of range.
pub fn parse_away(text: &str) -> Result<Duration, String> {
    let away = parse_seconds(text)?;
    match (limits::AWAY_MIN..=limits::AWAY_MAX).contains(&away) {
        true => Ok(away),
        false => Err("the absence must be from 1 s to 30 days".to_owned()),
    }
}

/// Parses a duration as [`parse_seconds`] does, or 0.
///
/// # Errors
/// As [`parse_seconds`].
pub fn parse_wait(text: &str) -> Result<Duration, String> {
    match text.trim() {
        "0" | "0s" => Ok(Duration::ZERO),
        text => parse_seconds(text),
    }
}

/// Parses a size: `2GiB`, `512KiB`, `10MB`, `1.5 GB`, or a number of bytes. A letter alone means the binary unit, as in
/// `dd`: `512K`, `1M`.
///
/// # Errors
/// Another text, or a size that a `u64` cannot hold.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let example = || "expected a size such as 2GiB, 512KiB, 10MB or 4096".to_owned();
    let text = text.trim();
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(example());
    }
    let binary = text.strip_suffix(['k', 'K', 'm', 'M', 'g', 'G', 't', 'T']).map(|_| format!("{text}iB"));
    match binary.as_deref().unwrap_or(text).parse::<ByteSize>() {
        // The parser saturates at this value.
        Ok(ByteSize(u64::MAX)) => Err("the size is too large".to_owned()),
        Ok(ByteSize(bytes)) => Ok(bytes),
        Err(_) => Err(example()),
    }
}

/// Parses the storage that a volunteer offers, as [`parse_size`] does: at least the smallest chunk.
///
/// # Errors
/// No size, or one that is too small.
pub fn parse_storage(text: &str) -> Result<u64, String> {
    let least = u64::from(limits::CHUNK_SIZE_MIN);
    match parse_size(text)? {
        bytes if bytes < least => {
            Err(format!("{bytes} bytes are less than the smallest chunk, {}", ByteSize(least)))
        }
        bytes => Ok(bytes),
    }
}

/// Parses a chunk size: a power of two within the limits, written as [`parse_size`] takes it. `512KB` means `512KiB`, since
/// no decimal unit is a power of two.
///
/// # Errors
/// No size, or one that is not allowed.
pub fn parse_chunk_size(text: &str) -> Result<u32, String> {
    let unit = text.trim().strip_suffix(['b', 'B']).filter(|text| text.ends_with(['k', 'K', 'm', 'M']));
    let bytes = parse_size(unit.unwrap_or(text))?;
    // A value that a u32 cannot hold is as invalid as `u32::MAX`.
    let size = u32::try_from(bytes).unwrap_or(u32::MAX);
    match Layout::even(0, Some(size)) {
        Ok(_) => Ok(size),
        Err(_) => Err(format!(
            "{bytes} bytes is not a power of two from {} to {}",
            ByteSize(crate::content::limits::CHUNK_SIZE_MIN.into()),
            ByteSize(crate::content::limits::CHUNK_SIZE_MAX.into()),
        )),
    }
}

/// Parses a rate in bytes per second: `10MB` or `10MB/s`; 0 means no limit.
///
/// # Errors
/// Another text.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    let size = text.trim();
    let size = size.strip_suffix("/s").unwrap_or(size);
    parse_size(size).map_err(|_| "expected a rate such as 10MB/s, 512KiB or 0 (no limit)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_that_no_peer_can_connect_to_is_not_advertised() {
        for text in ["10.0.0.5:7000", "127.0.0.1:1", "[2001:db8::1]:7000"] {
            assert_eq!(parse_advertise(text), Ok(text.parse().unwrap()));
        }
        for (text, why) in [
            ("10.0.0.5:0", "port 0 is not a port"),
            ("0.0.0.0:1", "it is the unspecified address"),
            ("[::]:1", "it is the unspecified address"),
            ("239.1.1.1:1", "it is a multicast address"),
            ("[ff02::1]:1", "it is a multicast address"),
            ("255.255.255.255:1", "it is the broadcast address"),
        ] {
            assert_eq!(parse_advertise(text), Err(format!("no peer can connect to {text}: {why}")));
        }
        assert_eq!(parse_advertise("10.0.0.5"), Err("expected IP:PORT".to_owned()));
    }

    #[test]
    fn an_idle_timeout_is_longer_than_the_keep_alive_interval() {
        assert!(parse_idle("25").unwrap_err().contains("longer than 25 s"));
        assert!(parse_idle("25.1").is_ok() && parse_idle("x").is_err());
    }

    #[test]
    fn an_announced_absence_is_from_a_second_to_thirty_days() {
        assert_eq!(parse_away("14h"), Ok(Duration::from_secs(50_400)));
        assert_eq!(parse_away("1"), Ok(limits::AWAY_MIN));
        assert_eq!(parse_away("30d"), Ok(limits::AWAY_MAX));
        for text in ["0", "0.9", "999ms", "30.1d", "31d", "365d"] {
            assert!(parse_away(text).is_err(), "{text}");
        }
        assert!(parse_away("a night").unwrap_err().contains("expected a duration"));
    }

    #[test]
    fn only_listen_addresses_accept_port_0() {
        let listen = |text| parse_listen(text, TRACKER_ADDRESS).map(|address| address.to_string());
        assert_eq!(listen("127.0.0.1:0"), Ok("127.0.0.1:0".into()));
        assert_eq!(listen(" [::1]:0 "), Ok("[::1]:0".into()));
        assert_eq!(listen("0.0.0.0"), Ok("0.0.0.0:5100".into()));
        assert_eq!(listen("localhost"), Ok("127.0.0.1:5100".into()));
        assert_eq!(listen("5300"), Ok("127.0.0.1:5300".into()));
        assert_eq!(listen("0"), Ok("127.0.0.1:0".into()));
        assert_eq!(listen("[fe80::1%2]:7"), Ok("[fe80::1%2]:7".into()));
        // A name with an empty label fails without a DNS query.
        assert!(listen("no..body:7").unwrap_err().starts_with("cannot resolve \"no..body\": "));
        assert!(listen("127.0.0.1:70000").is_err());
        assert!(parse_tracker("127.0.0.1:0").is_err());
    }

    #[test]
    fn addresses_with_and_without_a_port() {
        for (text, wanted) in [
            ("127.0.0.1:7", "127.0.0.1:7"),
            ("127.0.0.1", "127.0.0.1:5100"),
            ("::1", "[::1]:5100"),
            ("[::1]", "[::1]:5100"),
            ("[::1]:7", "[::1]:7"),
            ("localhost", "localhost:5100"),
            ("tracker.lan:7", "tracker.lan:7"),
            ("5300", "127.0.0.1:5300"),
            ("fe80::1%eth0", "[fe80::1%eth0]:5100"),
            ("[fe80::1%eth0]", "[fe80::1%eth0]:5100"),
            ("[fe80::1%2]:7", "[fe80::1%2]:7"),
        ] {
            assert_eq!(parse_tracker(text).map(|endpoint| endpoint.to_string()), Ok(wanted.into()), "{text}");
        }
        assert_eq!(parse_manager("5300").unwrap().to_string(), "127.0.0.1:5300");
        for text in [
            "",
            ":",
            ":5100",
            "0",
            "70000",
            "a:b",
            "a:0",
            "127.0.0.1:0",
            "[::1]:0",
            "[::1]7",
            "a:65536",
            "[x]",
            "a b",
            "fe80::1%",
            "a%eth0",
            "http://a:1",
        ] {
            assert!(parse_tracker(text).is_err(), "{text}");
        }
        // The name is resolved at each connect, not here.
        assert_eq!(parse_tracker("no..body:7").unwrap().to_string(), "no..body:7");
        assert!(parse_tracker("a:99999").unwrap_err().contains("\"99999\" is not a port"));
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("90", 90_000),
            ("90s", 90_000),
            ("2m", 120_000),
            ("2 min", 120_000),
            ("0.5", 500),
            ("250ms", 250),
            ("1.5h", 5_400_000),
            ("365d", 31_536_000_000),
        ] {
            assert_eq!(parse_seconds(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "0", "0s", "-1", "1e3", "nan", "inf", "366d", "1.2.3", ".", "1y", "5 m s"] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4_096),
            ("2GiB", 2 << 30),
            ("512KiB", 512 << 10),
            ("512 kib", 512 << 10),
            ("10MB", 10_000_000),
            ("1.5 GB", 1_500_000_000),
            ("1TiB", 1 << 40),
            ("512K", 512 << 10),
            ("512k", 512 << 10),
            ("1M", 1 << 20),
            ("1.5 G", 3 << 29),
            ("1T", 1 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "-1",
            "+1",
            "x",
            "1x",
            "K",
            "1KK",
            "1Ki B",
            "1.2.3GB",
            ".",
            "99999999EB",
            "18446744073709551616",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn offered_storage_holds_at_least_one_chunk() {
        assert_eq!(parse_storage("2GiB"), Ok(2 << 30));
        assert_eq!(parse_storage("16KiB"), Ok(16 << 10));
        let error = parse_storage("16000").unwrap_err();
        assert_eq!(error, "16000 bytes are less than the smallest chunk, 16.0 KiB");
        assert!(parse_storage("2 apples").is_err());
    }

    #[test]
    fn chunk_sizes() {
        assert_eq!(parse_chunk_size("512KiB"), Ok(512 << 10));
        for text in ["512K", "512k", "512KB", "512kB", "512 KB", "0.5M"] {
            assert_eq!(parse_chunk_size(text), Ok(512 << 10), "{text}");
        }
        assert_eq!((parse_chunk_size("1M"), parse_chunk_size("1MB")), (Ok(1 << 20), Ok(1 << 20)));
        assert_eq!(parse_chunk_size("16384"), Ok(16_384));
        assert_eq!(parse_chunk_size("64MiB"), Ok(64 << 20));
        for text in ["0", "8KiB", "128MiB", "500KiB", "500KB", "4GiB", "1TiB"] {
            let error = parse_chunk_size(text).unwrap_err();
            assert!(error.ends_with("bytes is not a power of two from 16.0 KiB to 64.0 MiB"), "{error}");
        }
    }

    #[test]
    fn rates() {
        assert_eq!(parse_rate("10MB"), Ok(10_000_000));
        assert_eq!(parse_rate("10MB/s"), Ok(10_000_000));
        assert_eq!(parse_rate("0"), Ok(0));
        assert_eq!(parse_rate("0/s"), Ok(0));
        for text in ["", "/s", "10MB/h", "10Mbit/s", "fast"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[0-9.]{0,30}[a-zA-Z/ ]{0,5}|.*") {
            let _ = (parse_seconds(&text), parse_size(&text), parse_chunk_size(&text), parse_rate(&text));
        }

        #[test]
        fn written_addresses_are_read_back(address: SocketAddr) {
            prop_assume!(address.port() != 0);
            // Flow label and scope are not part of a written address.
            let address = SocketAddr::from((address.ip(), address.port()));
            prop_assert_eq!(parse_address(&address.to_string(), TRACKER_ADDRESS), Ok(address.into()));
        }
    }
}
