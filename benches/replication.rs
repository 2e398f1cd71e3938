//! Duration of the tracker's replication decisions with a million chunks: `cargo bench --bench replication`.
//!
//! 16 files of 65,536 chunks, with two replicas of each chunk on random volunteers. A volunteer dies. The measured
//! call finds the under-replicated chunks, sorts them by priority, and chooses source and target for as many copies
//! as may be in flight. The target is less than 50 ms.

use shoal::content::{Bitfield, ChunkIndex, FileId, Layout, PeerName, limits};
use shoal::protocol::tokens::VolunteerKey;
use shoal::swarm::keeping::{Location, VolunteerNumber, VolunteerRecord};
use shoal::swarm::replication::{Order, ReplicationPlanner, Settings, StorageOffer};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const FILES: u8 = 16;
const CHUNKS: u32 = 65_536;
const OFFERED: u64 = 1 << 50;

fn record(number: u32) -> VolunteerRecord {
    let [.., a, b] = number.to_be_bytes();
    VolunteerRecord {
        number: VolunteerNumber(number),
        key: VolunteerKey(number.into()),
        name: PeerName::new(format!("volunteer-{number}")).unwrap(),
        address: SocketAddr::from(([10, 0, a, b], 6000)),
        offered: OFFERED,
        history: shoal::swarm::keeping::VolunteerHistory::default(),
    }
}

fn id(file: u8) -> FileId {
    FileId([file; 32])
}

/// The chunks of each file at each volunteer.
fn spread(volunteers: u32, random: &mut fastrand::Rng) -> BTreeMap<(u32, u8), Vec<ChunkIndex>> {
    let mut held: BTreeMap<(u32, u8), Vec<ChunkIndex>> = BTreeMap::new();
    for (file, index) in (0..FILES).flat_map(|file| (0..CHUNKS).map(move |index| (file, index))) {
        let first = random.u32(..volunteers);
        let second = (first + random.u32(1..volunteers)) % volunteers;
        for volunteer in [first, second] {
            held.entry((volunteer, file)).or_default().push(ChunkIndex(index));
        }
    }
    held
}

/// A replication plan in which all volunteers are connected and each chunk has its replicas.
fn planner(volunteers: u32) -> ReplicationPlanner {
    let mut random = fastrand::Rng::with_seed(7);
    let settings = Settings { challenge_every: None, approve: false, ..Settings::default() };
    let mut planner = ReplicationPlanner::new(settings, random.fork());
    for number in 0..volunteers {
        planner.restore_volunteer(Duration::ZERO, record(number));
    }
    let layout = Layout::even(u64::from(CHUNKS) * u64::from(limits::CHUNK_SIZE), Some(limits::CHUNK_SIZE));
    for file in 0..FILES {
        planner.restore_file(id(file), layout.clone().unwrap(), true);
    }
    let held = spread(volunteers, &mut random);
    for ((volunteer, file), chunks) in &held {
        let mut map = Bitfield::none(CHUNKS);
        for index in chunks {
            map.insert(*index);
        }
        planner.restore_held(id(*file), VolunteerNumber(*volunteer), &map);
    }
    planner.scan_complete(Duration::ZERO);
    for number in 0..volunteers {
        let VolunteerRecord { key, name, address, offered, .. } = record(number);
        let (source, free, away) = (address.ip(), offered, None);
        let offer = StorageOffer { key, name, address, source, offered, free, away };
        let number = planner.join(Duration::ZERO, offer).unwrap();
        for ((_, file), chunks) in held.range((number.0, 0)..(number.0 + 1, 0)) {
            planner.holds(Duration::ZERO, number, id(*file), chunks, true);
        }
        planner.report_complete(Duration::ZERO, number);
    }
    planner.take_orders();
    planner
}

fn copies(orders: Vec<Order>) -> Vec<Order> {
    orders.into_iter().filter(|order| matches!(order, Order::Copy { .. })).collect()
}

/// Measures the processor time of this thread where the system reports it, so that other programs on the machine do
/// not count; otherwise the elapsed time.
struct Stopwatch {
    ran: Option<u64>,
    began: Instant,
}

impl Stopwatch {
    fn start() -> Self {
        Self { ran: ran(), began: Instant::now() }
    }

    fn milliseconds(&self) -> f64 {
        match (self.ran, ran()) {
            (Some(before), Some(after)) => (after - before) as f64 / 1e6,
            _ => self.began.elapsed().as_secs_f64() * 1e3,
        }
    }
}

/// Nanoseconds for which this thread has run.
fn ran() -> Option<u64> {
    // The kernel updates the counter at a context switch.
    std::thread::yield_now();
    std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').next()?.parse().ok()
}

/// Resident memory, bytes; 0 where it is not reported.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

fn measure(volunteers: u32) {
    let before = resident();
    let begun = Stopwatch::start();
    let mut planner = planner(volunteers);
    let set_up = begun.milliseconds();
    let bytes = resident().saturating_sub(before) / u64::from(CHUNKS) / u64::from(FILES);
    println!("{volunteers} volunteers: set up in {set_up:.0} ms");
    if bytes > 50 {
        // Later measurements reuse the memory of the first one.
        println!("  about {bytes} bytes a chunk");
    }

    let second = Duration::from_secs(1);
    let begun = Stopwatch::start();
    planner.mark_lost(second, VolunteerNumber(0));
    let death = begun.milliseconds();
    let status = planner.status(second, |_| None);
    let short = status.copies.short;
    println!(
        "  a death, windows as they are: {death:.2} ms for {short} chunks, {} copies begun",
        status.repair.running
    );

    let begun = Stopwatch::start();
    let ordered = copies(planner.take_orders());
    let mut answered = 0;
    for order in &ordered {
        let Order::Copy { file, index, to: to @ Location::Volunteer(_), .. } = order else { continue };
        planner.stored(second, *to, *file, *index, None);
        answered += 1;
    }
    let each = begun.milliseconds() * 1000.0 / f64::from(answered.max(1));
    println!("  a copy that arrives, and the next one that begins: {each:.1} us");

    planner.set_window(u32::MAX, u64::MAX);
    planner.tick(second);
    planner.take_orders();
    let begun = Stopwatch::start();
    planner.mark_lost(second, VolunteerNumber(1));
    let all = begun.milliseconds();
    let begun_copies = copies(planner.take_orders()).len();
    println!("  a death, windows without end: {all:.2} ms, {begun_copies} copies begun");

    let begun = Stopwatch::start();
    std::hint::black_box(planner.status(second, |_| None));
    println!("  status: {:.3} ms", begun.milliseconds());
}

fn main() {
    for volunteers in [100, 1_000, 10] {
        measure(volunteers);
    }
}
