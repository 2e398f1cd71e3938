//! Flags that several programs have, each defined once, so that a flag has one meaning in all of them.
//!
//! A flag with another default in each program shares its help text here and is declared in the program.

mod budgets;
mod owner;
mod replication;
mod tree;
mod values;

pub use budgets::BudgetFlags;
pub use owner::{ControlFlags, OwnerCommand};
pub use replication::ReplicationFlags;
pub use tree::{LinksRule, PublishTreeFlags, ReceiveTreeFlags};
pub use values::*;

use super::help::{FILES, LIMITS, NETWORK, TIMEOUTS};
use super::memory::usable_memory;
use crate::content::PeerName;
use crate::content::limits::{self, TRACKER_ADDRESS};
use crate::net::source_address::set_sources;
use crate::net::{Endpoint, Timeouts};
use crate::report::Fault;
use crate::report::RoleError;
use crate::storage::Verify;
use crate::swarm::membership::Leases;
use crate::upload::server::ServeOptions;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Help of `--tracker`.
pub const TRACKER_HELP: &str = "Address or host name of the tracker; the port is 5100 if omitted";
/// Help of `--port`, and of `--transfer_port`, which is the same flag.
pub const PORT_HELP: &str = "TCP port to serve chunks on; 0 selects any free port";
/// Help of `--port` of a program that may choose among several ports.
pub const PORTS_HELP: &str = "TCP port to serve chunks on, or a range such as 7000-7010, whose first free port is used; 0 selects any free port";
/// Help of `--advertise`.
pub const ADVERTISE_HELP: &str = "Address that other peers are told to connect to, if it differs from the address that the tracker or manager sees";
/// Help of `--upload-limit`.
pub const UPLOAD_LIMIT_HELP: &str =
    "Maximum upload rate in bytes per second, for example 5MB; 0 means no limit";
/// Help of `--name`.
pub const NAME_HELP: &str = "Name of this peer in log lines, event lines and lists of peers";
/// Help of `--timeout`.
pub const TIMEOUT_HELP: &str =
    "Give up if the tracker or manager does not answer, or a download receives no data, for this time";
/// Help of `--wait`.
pub const WAIT_HELP: &str =
    "Wait up to this time for the tracker or manager and for a peer that offers the file; 0 ends at once";
/// Help of `--all`.
pub const ALL_HELP: &str =
    "Download all files that other peers offer, except those whose names begin with a dot";
/// Help of `--on-complete`.
pub const ON_COMPLETE_HELP: &str = "Run this command with sh -c for each completed file, with SHOAL_PATH, SHOAL_NAME and \
    SHOAL_ID in its environment; commands run one after another in the background, and the program waits for them at its end";
/// Help of `--no-serve`.
pub const NO_SERVE_HELP: &str = "Serve nothing during the download";
/// Help of `--stay`.
pub const STAY_HELP: &str = "Serve verified chunks during the download and keep serving after it";

/// The address of the tracker.
#[derive(clap::Args, Debug, Clone)]
pub struct TrackerFlag {
    #[doc = "The tracker."]
    #[arg(long, value_name = "HOST:PORT", default_value_t = TRACKER_ADDRESS.into(), value_parser = parse_tracker,
        help = TRACKER_HELP, help_heading = NETWORK)]
    pub tracker: Endpoint,
}

/// When a peer counts as alive.
#[derive(clap::Args, Debug, Clone, Copy)]
pub struct LeaseFlags {
    /// Interval between the heartbeats of a peer
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = parse_seconds,
        help_heading = TIMEOUTS)]
    heartbeat: Duration,
    /// Time for which a peer counts as alive after its last heartbeat; longer than --heartbeat
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_seconds,
        help_heading = TIMEOUTS)]
    lease: Duration,
}

impl LeaseFlags {
    /// Both values, checked against each other.
    ///
    /// # Errors
    /// A lease that ends before the next heartbeat arrives.
    pub fn leases(self) -> Result<Leases, RoleError> {
        let Self { heartbeat, lease } = self;
        if lease <= heartbeat {
            let (lease, heartbeat) = (lease.as_secs_f64(), heartbeat.as_secs_f64());
            let text = format!(
                "--lease {lease} must be longer than --heartbeat {heartbeat}: otherwise each lease ends between two \
                 heartbeats; try --lease {}",
                heartbeat * 2.0
            );
            return Err(RoleError::new(Fault::Usage, text));
        }
        Ok(Leases { heartbeat, lease })
    }
}

/// Timeouts of a connection.
#[derive(clap::Args, Debug, Clone, Copy)]
pub struct TimeoutFlags {
    /// Maximum time from the connection to the first message (hello) of the other side
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_seconds,
        help_heading = TIMEOUTS)]
    hello_timeout: Duration,
    /// Close a connection that is idle for this time; longer than 25, the keep-alive interval of peers
    #[arg(long, value_name = "SECONDS", default_value = "90", value_parser = parse_idle,
        help_heading = TIMEOUTS)]
    idle_timeout: Duration,
    /// Read and write timeout within a message, and maximum time to the first byte of a response
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = parse_seconds,
        help_heading = TIMEOUTS)]
    stall_timeout: Duration,
}

impl TimeoutFlags {
    /// The three values.
    pub fn timeouts(self) -> Timeouts {
        let Self { hello_timeout: hello, idle_timeout: idle, stall_timeout: stall } = self;
        Timeouts { hello, idle, stall }
    }
}

/// The limit on connections.
#[derive(clap::Args, Debug, Clone, Copy)]
pub struct ConnectionsFlag {
    /// Maximum number of connections that are served at the same time
    #[arg(long, value_name = "N", default_value_t = limits::CONNECTIONS_MAX, help_heading = LIMITS)]
    pub max_connections: usize,
    /// Bytes of lists, manifests and other responses that wait for their readers, over all connections; one source address
    /// gets at most half of what is free [default: an eighth of the memory, at most 1GiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = LIMITS)]
    in_flight_max: Option<u64>,
}

impl ConnectionsFlag {
    /// Bytes of responses that may wait for their readers.
    pub fn in_flight(&self) -> u64 {
        self.in_flight_max.unwrap_or_else(|| limits::IN_FLIGHT_BYTES.min(usable_memory() / 8))
    }
}

/// Discovery in the local network.
#[derive(clap::Args, Debug, Clone, Copy)]
pub struct DiscoveryFlag {
    /// Neither search the local network by multicast nor answer the questions of other hosts
    #[arg(long, help_heading = NETWORK)]
    pub no_discovery: bool,
}

/// The limit on downloads.
#[derive(clap::Args, Debug, Clone, Copy)]
pub struct DownloadLimitFlag {
    /// Maximum download rate in bytes per second, of all sources together; 0 means no limit
    #[arg(long, value_name = "RATE", default_value = "0", value_parser = parse_rate, help_heading = LIMITS)]
    pub download_limit: u64,
}

/// How a peer serves chunks.
#[derive(clap::Args, Debug, Clone)]
pub struct ServeFlags {
    /// IP address to serve chunks on; 0.0.0.0 serves on all networks of this host [default: 127.0.0.1, and the addresses by
    /// which the tracker or manager is reached, once it can be reached from other hosts]
    #[arg(long, value_name = "IP", help_heading = NETWORK)]
    pub listen: Option<IpAddr>,
    #[doc = "The address that other peers are told."]
    #[arg(long, value_name = "IP:PORT", value_parser = parse_advertise, help = ADVERTISE_HELP,
        help_heading = NETWORK)]
    pub advertise: Option<SocketAddr>,
    #[doc = "Bytes per second; 0 means no limit."]
    #[arg(long, value_name = "RATE", default_value = "0", value_parser = parse_rate, help = UPLOAD_LIMIT_HELP,
        help_heading = LIMITS)]
    pub upload_limit: u64,
    /// Name of the group of hosts with fast links to this one; peers of a group download from each other first
    /// [default: the network of the address, IPv4 /24 or IPv6 /64]
    #[arg(long, value_name = "NAME", value_parser = |name: &str| PeerName::new(name), help_heading = NETWORK)]
    pub site: Option<PeerName>,
    #[doc = "The limit on connections."]
    #[command(flatten)]
    pub connections: ConnectionsFlag,
    #[doc = "Timeouts of a connection."]
    #[command(flatten)]
    pub timeouts: TimeoutFlags,
}

impl ServeFlags {
    /// Lets this process connect from the address that it serves on, so that a tracker registers this address.
    pub fn connect_from_listen_address(&self) {
        set_sources(self.listen.as_slice());
    }

    /// The address to serve on, with a port.
    pub fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.listen_ip(), port)
    }

    /// The IP address to serve on.
    pub fn listen_ip(&self) -> IpAddr {
        self.listen.unwrap_or(IpAddr::from(Ipv4Addr::LOCALHOST))
    }

    /// Whether the listening address may be widened: the user has not chosen one.
    pub fn widens(&self) -> bool {
        self.listen.is_none()
    }

    /// Limits and timeouts.
    pub fn options(&self) -> ServeOptions {
        ServeOptions {
            connections: self.connections.max_connections,
            upload_limit: self.upload_limit,
            in_flight: self.connections.in_flight(),
            timeouts: self.timeouts.timeouts(),
            site: self.site.clone(),
        }
    }
}

/// How much data from earlier runs is verified.
#[derive(clap::Args, Debug, Clone, Copy)]
pub struct VerifyFlag {
    /// How much data that is already on disk is hashed: all (full), 32 random chunks (sample) or nothing (none)
    /// [default: full for a complete file, none for a partial download]
    #[arg(long, value_name = "HOW", value_enum, help_heading = FILES)]
    verify: Option<VerifyHow>,
}

/// The values of `--verify`.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum VerifyHow {
    Full,
    Sample,
    None,
}

impl VerifyFlag {
    /// The value of the flag, if it was given.
    pub fn verify(self) -> Option<Verify> {
        self.verify.map(|how| match how {
            VerifyHow::Full => Verify::Full,
            VerifyHow::Sample => Verify::Sample,
            VerifyHow::None => Verify::None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    /// A program with shared flags.
    #[derive(Parser, Debug)]
    struct Example {
        #[command(flatten)]
        tracker: TrackerFlag,
        #[command(flatten)]
        timeouts: TimeoutFlags,
        #[command(flatten)]
        leases: LeaseFlags,
    }

    #[test]
    fn timeouts_have_defaults_and_flags() {
        assert_eq!(Example::parse_from(["x"]).timeouts.timeouts(), Timeouts::default());
        let given = ["x", "--hello-timeout", "0.5", "--idle-timeout", "26", "--stall-timeout", "2m"];
        let Timeouts { hello, idle, stall } = Example::parse_from(given).timeouts.timeouts();
        let wanted = [500, 26_000, 120_000].map(Duration::from_millis);
        assert_eq!([hello, idle, stall], wanted);
    }

    #[test]
    fn a_tracker_without_a_port_has_the_default_port() {
        assert_eq!(Example::parse_from(["x"]).tracker.tracker, TRACKER_ADDRESS.into());
        let given = Example::parse_from(["x", "--tracker", "10.0.0.1"]).tracker.tracker;
        assert_eq!(given.to_string(), "10.0.0.1:5100");
        assert!(TRACKER_HELP.contains(&TRACKER_ADDRESS.port().to_string()));
    }

    #[test]
    fn a_lease_that_is_too_short_is_refused_with_one_that_works() {
        let leases = Example::parse_from(["x", "--lease", "5"]).leases.leases();
        let text = leases.unwrap_err().text;
        assert!(
            text.contains("must be longer than --heartbeat") && text.ends_with("try --lease 10"),
            "{text}"
        );
    }
}
