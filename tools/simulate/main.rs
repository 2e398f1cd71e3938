//! Simulates a swarm of any size: the decisions of `shoal::swarm` over computed links.
//!
//! ```text
//! cargo run --release --example simulate -- --peers 10000 --size 1GiB --up 100 --down 100 --seed 7
//! ```
//!
//! The peers run the same [`Picker`](shoal::swarm::picker::Picker) and [`SuperSeeder`](shoal::swarm::super_seeding::SuperSeeder) as the
//! daemons; a queue of events in order of time replaces sockets, disks and clocks. Rates are in Mbit/s, either one
//! number, or two numbers with `..` between them, from which each peer draws its own rate (uniformly over the
//! logarithm). The same seed gives the same run.

mod agenda;
mod network;
mod world;

use bytesize::ByteSize;
use clap::Parser;
use shoal::content::limits::SOURCES_MAX;
use shoal::swarm::trees::line_max;
use std::time::Duration;
use world::{Outcome, Setting, World};

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
    /// Chunk size
    #[arg(long, default_value = "512KiB")]
    chunk: ByteSize,
    /// Uplink of each leecher, Mbit/s
    #[arg(long, default_value = "100", value_parser = parse_range)]
    up: (f64, f64),
    /// Downlink of each leecher, Mbit/s
    #[arg(long, default_value = "100", value_parser = parse_range)]
    down: (f64, f64),
    /// Uplink of each seeder, Mbit/s [default: the maximum of --up]
    #[arg(long)]
    seeder_up: Option<f64>,
    /// Number of seeders
    #[arg(long, default_value_t = 1)]
    seeders: usize,
    /// Link of the last leecher in both directions, Mbit/s; this leecher is not part of the result
    #[arg(long)]
    slow: Option<f64>,
    /// Percentage of leechers that die at a random time
    #[arg(long, default_value_t = 0.0)]
    dying: f64,
    /// Time of the death of the last leecher, seconds
    #[arg(long)]
    kill: Option<f64>,
    /// Seconds between the starts of two leechers
    #[arg(long, default_value_t = 0.0)]
    apart: f64,
    /// Number of sources of each peer [default: 64 as the daemons, 16 in a swarm of more than 2,000]
    #[arg(long)]
    neighbours: Option<usize>,
    /// Number of leechers that a seeder serves, as `seeder --max-connections` [default: all]
    #[arg(long)]
    seeder_connections: Option<usize>,
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
    /// Bytes of a chunk that are forwarded together [default: 64KiB, 128KiB in a swarm of more than 2,000]
    #[arg(long)]
    block: Option<ByteSize>,
    /// Maximum ratio between the rates of two connections on one link
    #[arg(long, default_value_t = 2.0)]
    unfair: f64,
    /// Disable super-seeding: seeders do not recommend chunks that they have not sent yet
    #[arg(long)]
    no_hints: bool,
    /// Disable the trees of the seeders
    #[arg(long)]
    no_trees: bool,
    /// Number of leechers in a chain above which there are several stripes [default: that of the daemons]
    #[arg(long)]
    line_max: Option<usize>,
    /// Number of stripes in that case
    #[arg(long, default_value_t = shoal::swarm::trees::STRIPES)]
    stripes: usize,
}

/// Number of leechers above which the defaults are coarser, because a run would take hours.
const COARSE_PEER_COUNT: usize = 2_000;

impl Flags {
    fn neighbours(&self) -> usize {
        let most = if self.peers > COARSE_PEER_COUNT { 16 } else { SOURCES_MAX };
        self.neighbours.unwrap_or(most)
    }

    fn block(&self) -> ByteSize {
        let block = if self.peers > COARSE_PEER_COUNT { 128 } else { 64 };
        self.block.unwrap_or(ByteSize::kib(block))
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
    let bytes = MEGABIT / 8.0;
    let range = |(least, most): (f64, f64)| (least * bytes, most * bytes);
    let chunks = flags.size.as_u64().div_ceil(flags.chunk.as_u64());
    let setting = Setting {
        peers: flags.peers,
        seeders: flags.seeders,
        size: flags.size.as_u64(),
        chunk: flags.chunk.as_u64(),
        up: range(flags.up),
        down: range(flags.down),
        seeder_up: flags.seeder_up.unwrap_or(flags.up.1) * bytes,
        slow: flags.slow.map(|rate| rate * bytes),
        dying: flags.dying / 100.0,
        kill: flags.kill.map(Duration::from_secs_f64),
        apart: Duration::from_secs_f64(flags.apart),
        neighbours: flags.neighbours(),
        seeder_connections: flags.seeder_connections.unwrap_or(flags.peers),
        latency: Duration::from_secs_f64(flags.latency / 1e3),
        startup: Duration::from_secs_f64(flags.startup / 1e3),
        overhead: flags.overhead,
        seed: flags.seed,
        block: flags.block().as_u64(),
        hints: !flags.no_hints,
        trees: !flags.no_trees,
        line_max: flags.line_max.unwrap_or_else(|| line_max(chunks as u32)),
        stripes: flags.stripes,
        unfair: flags.unfair,
    };
    let outcome = World::new(setting).run();
    print(&flags, &outcome);
}

fn print(flags: &Flags, outcome: &Outcome) {
    let Outcome { bound, last, median, unfinished, seeder_sent, wasted, messages } = outcome;
    println!(
        "peers            {}, {} neighbours, blocks of {}",
        flags.peers,
        flags.neighbours(),
        flags.block()
    );
    println!("fluid bound      {bound:.2} s");
    println!("last / bound     {:.3}", last / bound);
    println!("median / bound   {:.3}", median / bound);
    println!("seeders sent     {:.3} times the file", seeder_sent / flags.size.as_u64() as f64);
    println!("wasted           {:.3} % of the bytes sent", wasted * 100.0);
    println!("messages a peer  {messages:.0}");
    if *unfinished > 0 {
        println!("NOT FINISHED     {unfinished}");
    }
}
