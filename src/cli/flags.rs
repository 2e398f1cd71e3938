//! Flags and values that several binaries share: addresses, times, sizes, rates.
//!
//! Each parser takes what people type and says in one sentence what is wrong with it; clap puts the
//! flag's name and the value in front. Only [`parse_address`] asks the outside world (the resolver).

use crate::content::Layout;
use crate::content::limits::{self, KEEP_ALIVE, TRACKER_ADDRESS};
use crate::daemon::peer::ServeOptions;
use crate::daemon::{DaemonError, Fault};
use crate::net::Timeouts;
use crate::storage::Verify;
use crate::swarm::membership::Leases;
use bytesize::ByteSize;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// Longest duration that a flag takes: a year.
const SECONDS_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Where the tracker is.
#[derive(clap::Args, Debug, Clone, Copy)]
pub struct TrackerFlag {
    /// The tracker: an address or a name; without a port, port 5100
    #[arg(long, value_name = "ADDR", default_value_t = TRACKER_ADDRESS, value_parser = parse_tracker)]
    pub tracker: SocketAddr,
}

/// When peers are alive.
#[derive(clap::Args, Debug, Clone, Copy)]
pub struct LeaseFlags {
    /// How often peers are to say that they are alive, seconds
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = parse_seconds)]
    heartbeat: Duration,
    /// How long a peer counts as alive after its last heartbeat, seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_seconds)]
    lease: Duration,
}

impl LeaseFlags {
    /// The two together.
    ///
    /// # Errors
    /// When every peer would be lost between two heartbeats.
    pub fn leases(self) -> Result<Leases, DaemonError> {
        let Self { heartbeat, lease } = self;
        if lease <= heartbeat {
            let text = format!(
                "--lease {} must be longer than --heartbeat {}: every peer would be lost in between",
                lease.as_secs_f64(),
                heartbeat.as_secs_f64()
            );
            return Err(DaemonError::new(Fault::Usage, text));
        }
        Ok(Leases { heartbeat, lease })
    }
}

/// How long the other side of a connection is waited for.
#[derive(clap::Args, Debug, Clone, Copy)]
pub struct TimeoutFlags {
    /// How long the other side of a new connection may take to say hello, seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_seconds)]
    hello_timeout: Duration,
    /// Close a connection on which nothing is asked, or on one's own to a tracker or manager nothing is heard, for so
    /// long, seconds; longer than 25
    #[arg(long, value_name = "SECONDS", default_value = "90", value_parser = parse_idle)]
    idle_timeout: Duration,
    /// How long the other side may be silent in the middle of a message, or take nothing of what it is sent, and how
    /// long a source, tracker or manager may take to begin an answer, seconds
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = parse_seconds)]
    stall_timeout: Duration,
}

impl TimeoutFlags {
    /// The three together.
    pub fn timeouts(self) -> Timeouts {
        let Self { hello_timeout: hello, idle_timeout: idle, stall_timeout: stall } = self;
        Timeouts { hello, idle, stall }
    }
}

/// How a peer serves.
#[derive(clap::Args, Debug, Clone)]
pub struct ServeFlags {
    /// The address to serve on; 0.0.0.0 for every network of this machine
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub listen: IpAddr,
    /// The address that others are told to connect to, when it is not the one that the tracker sees
    #[arg(long, value_name = "ADDR")]
    pub advertise: Option<SocketAddr>,
    /// Upload at most so much a second, for example 5MB; 0 for as fast as it goes
    #[arg(long, value_name = "RATE", default_value = "0", value_parser = parse_rate)]
    pub upload_limit: u64,
    /// Connections served at once
    #[arg(long, value_name = "N", default_value_t = limits::CONNECTIONS_MAX)]
    pub max_connections: usize,
    /// How long connections are waited for.
    #[command(flatten)]
    pub timeouts: TimeoutFlags,
}

impl ServeFlags {
    /// Where to serve, on a port.
    pub fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.listen, port)
    }

    /// How to serve.
    pub fn options(&self) -> ServeOptions {
        ServeOptions {
            connections: self.max_connections,
            upload_limit: self.upload_limit,
            timeouts: self.timeouts.timeouts(),
        }
    }
}

/// How much of what is there already is read again.
#[derive(clap::Args, Debug, Clone, Copy)]
pub struct VerifyFlag {
    /// How much of what is here already is read and hashed before it counts: all of it (full), 32 chunks at random
    /// (sample), or nothing (none). With none a file in place needs only the right size, and what an interrupted run
    /// left is what its have-map vouches for [default: full for a file in place, none for what a run left]
    #[arg(long, value_name = "HOW", value_enum)]
    verify: Option<VerifyHow>,
}

/// The values of the flag.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum VerifyHow {
    Full,
    Sample,
    None,
}

impl VerifyFlag {
    /// What the user says, if anything.
    pub fn verify(self) -> Option<Verify> {
        self.verify.map(|how| match how {
            VerifyHow::Full => Verify::Full,
            VerifyHow::Sample => Verify::Sample,
            VerifyHow::None => Verify::None,
        })
    }
}

/// An address of a tracker; the port may be left out.
///
/// # Errors
/// What is wrong with it, or why its name is not known.
pub fn parse_tracker(text: &str) -> Result<SocketAddr, String> {
    parse_address(text, TRACKER_ADDRESS.port())
}

/// Where a daemon listens: what [`parse_address`] takes, and an address with port 0, which takes any free port.
///
/// # Errors
/// What is wrong with it, or why its name is not known.
pub fn parse_listen(text: &str, default_port: u16) -> Result<SocketAddr, String> {
    text.trim().parse().or_else(|_| parse_address(text, default_port))
}

/// `host:port`, or a host alone, which is then met at `default_port`. Hosts are names or addresses
/// (IPv6 with or without brackets). Of several addresses of one name an IPv4 one is taken, since that
/// is what daemons listen on unless told otherwise.
///
/// # Errors
/// What is wrong with it, or why its name is not known.
pub fn parse_address(text: &str, default_port: u16) -> Result<SocketAddr, String> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    if let Some(address) = bare {
        let address = address.parse::<Ipv6Addr>().map_err(|_| format!("{address} is no IPv6 address"))?;
        return Ok(SocketAddr::from((address, default_port)));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::from((address, default_port)));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, parse_port(port)?),
        None => (text, default_port),
    };
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    if host.is_empty() || host.contains([':', '[', ']', '/']) || host.contains(char::is_whitespace) {
        return Err("it is neither HOST:PORT nor HOST".to_owned());
    }
    resolve(host, port)
}

fn parse_port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(port @ 1..) => Ok(port),
        _ => Err(format!("{text:?} is no port from 1 to 65535")),
    }
}

fn resolve(host: &str, port: u16) -> Result<SocketAddr, String> {
    let found =
        (host, port).to_socket_addrs().map_err(|error| format!("cannot resolve {host:?}: {error}"))?;
    let found: Vec<SocketAddr> = found.collect();
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| format!("{host:?} has no address"))
}

/// A duration: `90`, `90s`, `0.5`, `250ms`, `2m`, `1.5h`, `1d`. More than nothing, at most a year.
///
/// # Errors
/// What is wrong with it.
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
        _ => return Err("it is no duration such as 90, 0.5, 90s, 2m or 1h".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| "it is no duration such as 90, 0.5, 90s, 2m or 1h")?;
    match Duration::try_from_secs_f64(number * seconds) {
        Ok(Duration::ZERO) => Err("it must be longer than nothing".to_owned()),
        Ok(duration) if duration <= SECONDS_MAX => Ok(duration),
        _ => Err("it is longer than a year".to_owned()),
    }
}

/// How long a connection may be idle: longer than our own peers are silent while they wait.
///
/// # Errors
/// What is wrong with it.
pub fn parse_idle(text: &str) -> Result<Duration, String> {
    match parse_seconds(text)? {
        idle if idle > KEEP_ALIVE => Ok(idle),
        _ => Err(format!(
            "it must be longer than {} s: peers that wait say so only that often, and would be cut off",
            KEEP_ALIVE.as_secs()
        )),
    }
}

/// A time as [`parse_seconds`] takes it, or 0.
///
/// # Errors
/// What is wrong with it.
pub fn parse_wait(text: &str) -> Result<Duration, String> {
    match text.trim() {
        "0" | "0s" => Ok(Duration::ZERO),
        text => parse_seconds(text),
    }
}

/// A size in bytes: `2GiB`, `512KiB`, `10MB`, `1.5 GB`, or plain bytes.
///
/// # Errors
/// What is wrong with it.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let example = || "it is no size such as 2GiB, 512KiB, 10MB or 4096".to_owned();
    let text = text.trim();
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(example());
    }
    match text.parse::<ByteSize>() {
        // What a u64 cannot hold is saturated there.
        Ok(ByteSize(u64::MAX)) => Err("it is too large".to_owned()),
        Ok(ByteSize(bytes)) => Ok(bytes),
        Err(_) => Err(example()),
    }
}

/// The space that a volunteer lends, written as [`parse_size`] takes it: room for a chunk at least.
///
/// # Errors
/// What is wrong with it.
pub fn parse_lent(text: &str) -> Result<u64, String> {
    let least = u64::from(limits::CHUNK_SIZE_MIN);
    match parse_size(text)? {
        bytes if bytes < least => {
            Err(format!("{bytes} bytes are not enough for a chunk, which has {} or more", ByteSize(least)))
        }
        bytes => Ok(bytes),
    }
}

/// A chunk size: a power of two within the limits, written as [`parse_size`] takes it.
///
/// # Errors
/// What is wrong with it.
pub fn parse_chunk_size(text: &str) -> Result<u32, String> {
    let bytes = parse_size(text)?;
    // Whatever a u32 cannot hold is as wrong as its largest value.
    let size = u32::try_from(bytes).unwrap_or(u32::MAX);
    match Layout::even(0, Some(size)) {
        Ok(_) => Ok(size),
        Err(_) => Err(format!(
            "{bytes} bytes is no power of two from {} to {}",
            ByteSize(crate::content::limits::CHUNK_SIZE_MIN.into()),
            ByteSize(crate::content::limits::CHUNK_SIZE_MAX.into()),
        )),
    }
}

/// A rate in bytes per second, `10MB` or `10MB/s`; 0 is no limit.
///
/// # Errors
/// What is wrong with it.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    let size = text.trim();
    let size = size.strip_suffix("/s").unwrap_or(size);
    parse_size(size).map_err(|_| "it is no rate such as 10MB/s, 512KiB or 0 (no limit)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use proptest::prelude::*;

    /// Does something.
    #[derive(Parser, Debug)]
    struct Example {
        #[command(flatten)]
        tracker: TrackerFlag,
        #[command(flatten)]
        timeouts: TimeoutFlags,
    }

    #[test]
    fn the_time_outs_are_the_usual_ones_unless_told_otherwise() {
        assert_eq!(Example::parse_from(["x"]).timeouts.timeouts(), Timeouts::default());
        let given = ["x", "--hello-timeout", "0.5", "--idle-timeout", "26", "--stall-timeout", "2m"];
        let Timeouts { hello, idle, stall } = Example::parse_from(given).timeouts.timeouts();
        let wanted = [500, 26_000, 120_000].map(Duration::from_millis);
        assert_eq!([hello, idle, stall], wanted);
        assert!(parse_idle("25").unwrap_err().contains("longer than 25 s"));
        assert!(parse_idle("25.1").is_ok() && parse_idle("x").is_err());
    }

    #[test]
    fn port_0_is_for_listening_alone() {
        let listen = |text| parse_listen(text, 5100).map(|address| address.to_string());
        assert_eq!(listen("127.0.0.1:0"), Ok("127.0.0.1:0".into()));
        assert_eq!(listen(" [::1]:0 "), Ok("[::1]:0".into()));
        assert_eq!(listen("0.0.0.0"), Ok("0.0.0.0:5100".into()));
        assert!(listen("127.0.0.1:70000").is_err());
        assert!(parse_tracker("127.0.0.1:0").is_err());
    }

    #[test]
    fn the_tracker_flag() {
        assert_eq!(Example::parse_from(["x"]).tracker.tracker, TRACKER_ADDRESS);
        let given = Example::parse_from(["x", "--tracker", "10.0.0.1"]).tracker.tracker;
        assert_eq!(given, "10.0.0.1:5100".parse().unwrap());
        let command = <Example as clap::CommandFactory>::command();
        let help = command.get_arguments().find_map(|arg| arg.get_help()).map(ToString::to_string);
        assert!(help.unwrap().ends_with(&format!(" port {}", TRACKER_ADDRESS.port())));
    }

    #[test]
    fn addresses() {
        for (text, wanted) in [
            ("127.0.0.1:7", "127.0.0.1:7"),
            ("127.0.0.1", "127.0.0.1:5100"),
            ("::1", "[::1]:5100"),
            ("[::1]", "[::1]:5100"),
            ("[::1]:7", "[::1]:7"),
            ("localhost", "127.0.0.1:5100"),
            ("localhost:7", "127.0.0.1:7"),
        ] {
            assert_eq!(parse_tracker(text), Ok(wanted.parse().unwrap()), "{text}");
        }
        for text in
            ["", ":", ":5100", "a:b", "a:0", "127.0.0.1:0", "[::1]:0", "a:65536", "[x]", "a b", "http://a:1"]
        {
            assert!(parse_tracker(text).is_err(), "{text}");
        }
        // No name server is asked for a name with an empty label.
        let error = parse_tracker("no..body:7").unwrap_err();
        assert!(error.starts_with("cannot resolve \"no..body\": "), "{error}");
        assert!(parse_tracker("a:99999").unwrap_err().contains("\"99999\" is no port"));
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
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "-1", "+1", "x", "1x", "1.2.3GB", ".", "99999999EB", "18446744073709551616"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lent_space() {
        assert_eq!(parse_lent("2GiB"), Ok(2 << 30));
        assert_eq!(parse_lent("16KiB"), Ok(16 << 10));
        let error = parse_lent("16000").unwrap_err();
        assert_eq!(error, "16000 bytes are not enough for a chunk, which has 16.0 KiB or more");
        assert!(parse_lent("2 apples").is_err());
    }

    #[test]
    fn chunk_sizes() {
        assert_eq!(parse_chunk_size("512KiB"), Ok(512 << 10));
        assert_eq!(parse_chunk_size("16384"), Ok(16_384));
        assert_eq!(parse_chunk_size("64MiB"), Ok(64 << 20));
        for text in ["0", "8KiB", "128MiB", "500KiB", "512KB", "4GiB", "1TiB"] {
            let error = parse_chunk_size(text).unwrap_err();
            assert!(error.ends_with("bytes is no power of two from 16.0 KiB to 64.0 MiB"), "{error}");
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
            // Flow and scope are not part of an address that people write.
            let address = SocketAddr::from((address.ip(), address.port()));
            prop_assert_eq!(parse_address(&address.to_string(), 1), Ok(address));
        }
    }
}
