//! Fan-out of one file by rings: one sparse random regular graph, the same for equal and unequal links.
//!
//! A *root* is a peer that was complete when the file was first requested from it. It keeps [`RINGS`] random cyclic
//! orders of its *members* ([`Rings`]): the downloading peers that serve, too. In each ring a member requests chunks
//! from its *predecessor* and sends chunks to its *successor*, so each member has four edges in and four out, always
//! busy, and any useful chunk travels on any edge. Forwarding random useful chunks over such edges reaches the
//! capacity of the graph (Massoulié, Twigg, Gkantsidis, Rodriguez: *Randomized decentralized broadcasting algorithms*,
//! 2007), and the root's uplink carries each chunk once ([`SuperSeeder`](super::super_seeding::SuperSeeder)).
//!
//! A [`Member`] is the view of one download: which root it has joined, its predecessors, and its *extra sources*. It
//! has one control signal: it is *behind* if it has received less than its partial sources gained in the same time.
//! Then it adds requests and random sources, and sends more slowly, since a saturated uplink delays its own requests.
//! No message reports slowness: a slow predecessor is one of four, and is compensated by the others.
//!
//! Members of one *site* ([`Site`]) are adjacent in each ring, so that a thin link between two sites carries one or
//! two edges of each ring. From a source of another site that is slower than the own site, a member requests first
//! the chunks that the own site lacks (`picker/sites.rs`). This is an order, never a ban: a wrong label costs little.
//!
//! Replaces a chain with two trees, which was tuned to equal links. Invariants: each ring is one cycle of all members;
//! a member is told each change of its predecessors, up to [`NAMED_MAX`] addresses; a download whose root, members or
//! both disappear or lie requests from other known peers and ends.

mod member;
mod order;
mod send_rate;
mod site;
mod transfers;

pub use member::{Adjustment, Member};
pub use order::{Placement, Rings};
pub use send_rate::SendRate;
pub use site::Site;
pub use transfers::Transfers;

use std::time::Duration;

/// Rings of a root, and so edges into and out of each member. Simulated with 3, 4 and 5: equal links differ by at most
/// 0.01 of the bound, unequal links by 0.04; below 3 one slow predecessor is half of a member's supply.
pub const RINGS: usize = 4;
/// Members of one root. A change sends two placements for each ring; with more members, 10 joins a second would cost
/// more messages than chunks. Later peers use random sources.
pub const MEMBERS_MAX: usize = 512;
/// Random positions drawn for a member in one ring before a repeated neighbour is accepted. With `n` members one draw
/// repeats one with a probability below `2 * RINGS / n`: 16 draws fail for 12 members in 1 of 600 joins.
const DRAWS_MAX: usize = 16;
/// Addresses that a root names to one member: a false root makes a member dial at most this many other hosts.
pub const NAMED_MAX: u32 = 64;
/// Members on different hosts that must report an unreachable predecessor. One report may be the fault of its sender.
const UNREACHABLE_REPORTS_MIN: usize = 2;
/// Time from the first connection for which a member awaits the answers of further roots, before it joins one. Longer
/// than the handshakes of a far link, two RTTs of 100 ms.
const ROOT_CHOICE_TIMEOUT: Duration = Duration::from_millis(250);
/// Interval between two decisions about the standing of a member. Insensitive from 0.1 to 0.5 s in simulation.
pub const STANDING_INTERVAL: Duration = Duration::from_millis(200);
/// Chunks that a member may have received less than its median source gained, before it is behind: two for each ring,
/// one in transfer and one requested. Insensitive from 4 to 16 in simulation.
const BEHIND_CHUNKS: i64 = 2 * RINGS as i64;
/// Further requests in flight to each source of a member that is behind: with six, a chunk is on the way on an uplink
/// that gives the source a sixth of its share.
const BOOST_MAX: usize = 4;
/// Random sources of a member beside its predecessors: twice its ring edges, so it can replace all of them and more.
const EXTRA_SOURCES_MAX: usize = 2 * RINGS;
/// Super-seeded chunks on the way to a member that no successor has requested, one for each ring. A member with a slow
/// uplink gets no more of them than it passes on.
const UNFORWARDED_MAX: usize = RINGS;
/// Chunks of one file that a root sends at the same time. Insensitive from 6 to 12; with more, all arrive late.
const TRANSFERS_MAX: usize = 8;
/// A transfer that takes longer than this many times the mean does not count: a slow receiver does not use the uplink.
const SLOW_TRANSFER_FACTOR: u32 = 2;
/// Time for which a transfer counts while no mean is known: the first chunks share the uplink at its slowest.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(1);
/// Window in which the send rate of a member is measured: several chunk times on an uplink of 10 Mbit/s.
const SEND_WINDOW: Duration = Duration::from_millis(400);
