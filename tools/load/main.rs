//! Measures a tracker under load: `cargo run --release --example load -- --help`.
//!
//! Fills our own tracker, and optionally another tracker that speaks BitTorrent's UDP protocol, with the same number
//! of peers and files. Then it sends requests to them alternately, with the same number of datagrams in flight, and
//! checks each response. Writes a line of JSON for each round. `benches/compare/tracker.py` starts the tool and makes
//! a table of its output.
#![forbid(unsafe_code)]

mod echo;
mod ours;
mod theirs;
mod window;

use anyhow::{Context as _, Result, anyhow};
use clap::Parser;
use echo::Echo;
use ours::Ours;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use theirs::Theirs;
use window::{Count, Talk, Window};

/// Number of addresses in each response to a lookup.
const WANTED: u32 = 30;
/// Maximum duration of each step of the filling.
const FILL_TIMEOUT: Duration = Duration::from_secs(600);

/// Measures a tracker under load
#[derive(Parser)]
struct Flags {
    /// Serve as an echo server on one thread instead: return the start of every datagram to its sender
    #[arg(long, value_name = "ADDR", exclusive = true)]
    serve_echo: Option<SocketAddr>,
    /// Address of our tracker
    #[arg(long, value_name = "ADDR", requires = "ours_pid")]
    ours: Option<SocketAddr>,
    /// Process id of our tracker
    #[arg(long, value_name = "PID")]
    ours_pid: Option<u32>,
    /// Address of an echo server
    #[arg(long, value_name = "ADDR", requires = "echo_pid")]
    echo: Option<SocketAddr>,
    /// Process id of the echo server
    #[arg(long, value_name = "PID")]
    echo_pid: Option<u32>,
    /// Address of the other tracker
    #[arg(long, value_name = "ADDR", requires = "theirs_pid")]
    theirs: Option<SocketAddr>,
    /// Process id of the other tracker
    #[arg(long, value_name = "PID")]
    theirs_pid: Option<u32>,
    /// Number of peers to register
    #[arg(long, default_value_t = 10_000)]
    peers: usize,
    /// Number of files that the peers share
    #[arg(long, default_value_t = 100)]
    files: usize,
    /// Number of rounds of each kind
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Duration of each round, seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Number of source IP addresses
    #[arg(long, default_value_t = 16)]
    sources: u8,
    /// Number of datagrams in flight from each source
    #[arg(long, default_value_t = 8)]
    depth: u32,
}

/// A tracker under load.
struct Target<'a, T> {
    name: &'static str,
    pid: u32,
    window: Window,
    talk: T,
    flags: &'a Flags,
}

impl<T: Talk> Target<'_, T> {
    /// Runs one round and prints its result and its processor time.
    fn round(&mut self, kind: &str, time: Duration) -> Result<Count> {
        let before = processor_time(self.pid)?;
        let count = self.window.run(&mut self.talk, time).map_err(|wrong| anyhow!("{kind}: {wrong}"))?;
        let busy = processor_time(self.pid)?.saturating_sub(before);
        let seconds = count.took.as_secs_f64();
        let line = serde_json::json!({
            "system": self.name,
            "kind": kind,
            "peers": self.flags.peers,
            "files": self.flags.files,
            "answered": count.answered,
            "lost": count.lost,
            "per_second": (count.answered as f64 / seconds).round(),
            "per_cpu_second": (count.answered as f64 / busy.as_secs_f64().max(1e-9)).round(),
            "busy": (100.0 * busy.as_secs_f64() / seconds).round(),
            "resident_kib": resident(self.pid)?,
        });
        println!("{line}");
        Ok(count)
    }
}

/// Processor time used by all threads of a process.
fn processor_time(pid: u32) -> Result<Duration> {
    let mut sum = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).context("the tracker has ended")? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        sum += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(Duration::from_nanos(sum))
}

/// Resident memory of a process, KiB.
fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

impl Flags {
    /// A target, if both its address and its process id are given.
    fn target<T: Talk>(
        &self,
        name: &'static str,
        address: Option<SocketAddr>,
        pid: Option<u32>,
        talk: T,
    ) -> Result<Option<Target<'_, T>>> {
        let (Some(address), Some(pid)) = (address, pid) else { return Ok(None) };
        let sources: Vec<IpAddr> =
            (1..=self.sources).map(|last| Ipv4Addr::new(127, 0, 0, last).into()).collect();
        let window = Window::new(&sources, address, self.depth)?;
        Ok(Some(Target { name, pid, window, talk, flags: self }))
    }
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    if let Some(address) = flags.serve_echo {
        return Ok(echo::serve(address)?);
    }
    let (sources, peers, files) = (flags.sources.into(), flags.peers, flags.files);
    let ours = Ours::new(sources, peers, files);
    let mut ours = flags.target("shoal", flags.ours, flags.ours_pid, ours)?;
    let theirs = Theirs::new(sources, peers, files);
    let mut theirs = flags.target("other", flags.theirs, flags.theirs_pid, theirs)?;
    let mut echo = flags.target("echo", flags.echo, flags.echo_pid, Echo)?;
    fill(&mut ours, &mut theirs)?;
    let time = Duration::from_secs_f64(flags.seconds);
    for _ in 0..flags.rounds {
        if let Some(echo) = &mut echo {
            echo.round("echo", time)?;
        }
        if let Some(ours) = &mut ours {
            for (kind, stage) in [
                ("heartbeat", ours::Stage::Heartbeat),
                ("lookup by id", ours::Stage::LookupId { wanted: WANTED }),
                ("lookup by name", ours::Stage::LookupName { wanted: WANTED }),
            ] {
                ours.talk.turn_to(stage);
                ours.round(kind, time)?;
            }
        }
        if let Some(theirs) = &mut theirs {
            theirs.talk.turn_to(theirs::Stage::Announce { wanted: WANTED });
            theirs.round("announce", time)?;
        }
    }
    Ok(())
}

/// Registers all peers at both trackers.
fn fill(ours: &mut Option<Target<Ours>>, theirs: &mut Option<Target<Theirs>>) -> Result<()> {
    if let Some(ours) = ours {
        for (kind, stage) in [
            ("cookies", ours::Stage::Cookies),
            ("register", ours::Stage::Register),
            ("first announce", ours::Stage::Announce),
        ] {
            ours.talk.turn_to(stage);
            ours.round(kind, FILL_TIMEOUT)?;
        }
    }
    if let Some(theirs) = theirs {
        for (kind, stage) in [("connect", theirs::Stage::Connect), ("first announce", theirs::Stage::Fill)] {
            theirs.talk.turn_to(stage);
            theirs.round(kind, FILL_TIMEOUT)?;
        }
    }
    Ok(())
}
