//! Simulates a swarm of any size: the decisions of `shoal::swarm` over computed links.
//!
//! ```text
//! cargo run --release --example simulate -- --peers 10000 --size 1GiB --up 100 --down 100 --seed 7
//! ```
//!
//! The peers run the same [`Picker`](shoal::swarm::picker::Picker) and [`SuperSeeder`](shoal::swarm::super_seeding::SuperSeeder) as the
//! daemons, and the same [`rings`](shoal::swarm::rings); a queue of events in order of time replaces sockets, disks and
//! clocks. Rates are in Mbit/s: one number, or two numbers with `..` between them, from which each peer draws its own
//! rate (uniformly over the logarithm), or several of these, separated by commas, which the leechers take in turn. The
//! same seed gives the same run. With `--fault`, runs with and without a fault are compared for many seeds.
//!
//! Of the queue of a saturated uplink only the delay of requests is simulated (`--queue`): TCP's window covers that of the
//! acknowledgements.

mod agenda;
mod network;
mod world;

use bytesize::ByteSize;
use clap::Parser;
use shoal::content::Layout;
use std::time::Duration;
use world::{Fault, Outcome, Setting, World};

/// Bits per megabit.
const MEGABIT: f64 = 1e6;

/// Simulates the distribution of a file
#[derive(Parser)]
#[command(name = "simulate")]
struct Flags {
    /// Number of leechers
    #[arg(long, default_value_t = 8)]
    peers: usize,
    /// File size
    #[arg(long, default_value = "64MiB")]
    size: ByteSize,
    /// Chunk size [default: that of the daemons]
    #[arg(long)]
    chunk: Option<ByteSize>,
    /// Uplink of each leecher, Mbit/s
    #[arg(long, default_value = "100", value_delimiter = ',', value_parser = parse_range)]
    up: Vec<(f64, f64)>,
    /// Downlink of each leecher, Mbit/s
    #[arg(long, default_value = "100", value_delimiter = ',', value_parser = parse_range)]
    down: Vec<(f64, f64)>,
    /// Uplink of each seeder, Mbit/s [default: the maximum of --up]
    #[arg(long)]
    seeder_up: Option<f64>,
    /// Number of seeders
    #[arg(long, default_value_t = 1)]
    seeders: usize,
    /// Link of the last leecher in both directions, Mbit/s; this leecher is not part of the result
    #[arg(long)]
    slow: Option<f64>,
    /// Uplink of the last leecher, Mbit/s; it is part of the result
    #[arg(long)]
    slow_up: Option<f64>,
    /// Percentage of leechers that die at a random time
    #[arg(long, default_value_t = 0.0)]
    dying: f64,
    /// Time of the death of the last leecher, seconds
    #[arg(long)]
    kill: Option<f64>,
    /// Seconds between the starts of two leechers
    #[arg(long, default_value_t = 0.0)]
    apart: f64,
    /// One-way latency of a message, milliseconds
    #[arg(long, default_value_t = 5.0)]
    latency: f64,
    /// Time until the peers are connected, milliseconds
    #[arg(long, default_value_t = 30.0)]
    startup: f64,
    /// Bytes on the link for each byte of a chunk
    #[arg(long, default_value_t = 1.046)]
    overhead: f64,
    /// Seed of the random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Bytes of a chunk that are forwarded together [default: 16KiB, 128KiB in a swarm of more than 2,000]
    #[arg(long)]
    block: Option<ByteSize>,
    /// Maximum ratio between the rates of two connections on one link
    #[arg(long, default_value_t = 2.0)]
    unfair: f64,
    /// Percentage of leechers that start at a random time within the fluid bound
    #[arg(long, default_value_t = 0.0)]
    late: f64,
    /// Bytes that wait in the queue of a saturated uplink, in front of the requests of its host
    #[arg(long, default_value = "0")]
    queue: ByteSize,
    /// Compare runs with and without a fault, for --seeds seeds from --seed on
    #[arg(long)]
    fault: Vec<Fault>,
    /// Number of seeds for each --fault
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// Disable super-seeding: leechers choose the chunks that seeders send
    #[arg(long)]
    no_super_seeding: bool,
}

/// Number of leechers above which the defaults are coarser, because a run would take hours.
const COARSE_PEER_COUNT: usize = 2_000;

impl Flags {
    fn chunk(&self) -> u64 {
        let default = || match Layout::even(self.size.as_u64(), None) {
            Ok(layout) => u64::from(layout.chunk_size()),
            Err(error) => panic!("{error}"),
        };
        self.chunk.map_or_else(default, |chunk| chunk.as_u64())
    }

    fn fastest_up(&self) -> f64 {
        self.up.iter().map(|(_, most)| *most).fold(0.0, f64::max)
    }

    fn block(&self) -> ByteSize {
        let block = if self.peers > COARSE_PEER_COUNT { 128 } else { 16 };
        self.block.unwrap_or(ByteSize::kib(block))
    }

    fn setting(&self) -> Setting {
        let bytes = MEGABIT / 8.0;
        let ranges = |ranges: &[(f64, f64)]| {
            ranges.iter().map(|(least, most)| (least * bytes, most * bytes)).collect::<Vec<_>>()
        };
        Setting {
            peers: self.peers,
            seeders: self.seeders,
            size: self.size.as_u64(),
            chunk: self.chunk(),
            up: ranges(&self.up),
            down: ranges(&self.down),
            seeder_up: self.seeder_up.unwrap_or(self.fastest_up()) * bytes,
            slow_up: self.slow_up.map(|rate| rate * bytes),
            slow: self.slow.map(|rate| rate * bytes),
            dying: self.dying / 100.0,
            kill: self.kill.map(Duration::from_secs_f64),
            apart: Duration::from_secs_f64(self.apart),
            latency: Duration::from_secs_f64(self.latency / 1e3),
            startup: Duration::from_secs_f64(self.startup / 1e3),
            overhead: self.overhead,
            seed: self.seed,
            block: self.block().as_u64(),
            super_seeds: !self.no_super_seeding,
            unfair: self.unfair,
            late: self.late / 100.0,
            queue: self.queue.as_u64() as f64,
            fault: None,
        }
    }
}

fn parse_range(text: &str) -> Result<(f64, f64), String> {
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| *number > 0.0);
    let range = match text.split_once("..") {
        None => number(text).map(|number| (number, number)),
        Some((least, most)) => number(least).zip(number(most)).filter(|(least, most)| least <= most),
    };
    range.ok_or_else(|| "neither a rate nor LEAST..MOST".to_owned())
}

fn main() {
    let flags = Flags::parse();
    let setting = flags.setting();
    if flags.fault.is_empty() {
        return print(&flags, &World::new(setting).run());
    }
    println!("fault            seeds  unfinished  median  worst (last / bound over that without the fault)");
    for fault in &flags.fault {
        let Series { ratios, unfinished } = compare(&setting, *fault, flags.seeds);
        let median = ratios[ratios.len() / 2];
        let (name, worst) = (format!("{fault:?}"), ratios[ratios.len() - 1]);
        println!("{name:16} {:5}  {unfinished:10}  {median:6.3}  {worst:.3}", ratios.len());
    }
}

/// Comparison of runs with and without a fault.
struct Series {
    /// For each seed, sorted: the time of the last honest peer divided by the fluid bound, over the same of the run without
    /// the fault.
    ratios: Vec<f64>,
    /// Number of honest peers that did not complete.
    unfinished: usize,
}

/// Runs each seed with and without a fault.
fn compare(setting: &Setting, fault: Fault, seeds: u64) -> Series {
    let mut series = Series { ratios: Vec::new(), unfinished: 0 };
    for seed in setting.seed..setting.seed + seeds {
        let mut healthy = Setting { seed, seeders: fault.seeders(), ..setting.clone() };
        let mut faulty = Setting { fault: Some(fault), ..healthy.clone() };
        if fault == Fault::JoinRush {
            healthy.apart = Duration::ZERO;
            faulty.apart = Duration::from_secs(1) / faulty.peers as u32;
        }
        let [healthy, faulty] = [healthy, faulty].map(|setting| World::new(setting).run());
        series.unfinished += healthy.unfinished + faulty.unfinished;
        series.ratios.push(faulty.last / faulty.bound / (healthy.last / healthy.bound));
    }
    series.ratios.sort_by(f64::total_cmp);
    series
}

fn print(flags: &Flags, outcome: &Outcome) {
    let Outcome { bound, last, median, mean, unfinished, seeder_sent, wasted, messages } = outcome;
    println!(
        "peers            {}, chunks of {}, blocks of {}",
        flags.peers,
        ByteSize::b(flags.chunk()),
        flags.block()
    );
    println!("fluid bound      {bound:.2} s");
    println!("last / bound     {:.3}", last / bound);
    println!("median / bound   {:.3}", median / bound);
    println!("mean / bound     {:.3}", mean / bound);
    println!("seeders sent     {:.3} times the file", seeder_sent / flags.size.as_u64() as f64);
    println!("wasted           {:.3} % of the bytes sent", wasted * 100.0);
    println!("messages a peer  {messages:.0}");
    if *unfinished > 0 {
        println!("NOT FINISHED     {unfinished}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    /// The short form of `--fault`: few seeds, a small file.
    #[test]
    fn all_honest_peers_complete_in_time_with_each_fault() {
        let flags = ["simulate", "--peers", "12", "--size", "4MiB", "--chunk", "64KiB", "--block", "32KiB"];
        let setting = Flags::parse_from(flags).setting();
        std::thread::scope(|scope| {
            for fault in Fault::value_variants() {
                let setting = &setting;
                scope.spawn(move || {
                    let Series { ratios, unfinished } = compare(setting, *fault, 2);
                    // Silent predecessors are replaced after two seconds, six times the fluid bound of this small file.
                    let most = if *fault == Fault::BadNeighbours { 6.0 } else { 2.0 };
                    assert_eq!(unfinished, 0, "{fault:?}");
                    assert!(ratios.iter().all(|ratio| *ratio <= most), "{fault:?}: {ratios:?}");
                });
            }
        });
    }
}
