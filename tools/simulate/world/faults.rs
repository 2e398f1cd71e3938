//! Faults of peers, roots and the network. Each is one case of `--fault`.

use super::{Event, World};
use shoal::content::limits::{CONNECT_TIMEOUT, STALL_TIMEOUT};
use shoal::content::{Bitfield, ChunkIndex};
use shoal::swarm::picker::SourceId;
use shoal::swarm::rings::Placement;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Interval between attempts of a peer to connect to a seeder that it has lost, and until TCP repeats its first packet.
const RECONNECT_INTERVAL: Duration = Duration::from_secs(1);
/// Members that the root with the fault `TwoRoots` states to half of the peers, so that they join its rings.
const CLAIMED_MEMBERS: u32 = 1_000_000;

/// A fault. Fractions are of the leechers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// One of two roots leaves after 40 % of the fluid bound; it is the one that all peers have joined
    RootLeaves,
    /// Two roots with half of the members each
    TwoRoots,
    /// The root names to each member itself, twice a silent peer, and to all members the same peer
    BadNeighbours,
    /// An eighth claims all chunks but one and sends nothing
    Silent,
    /// A quarter cannot be dialled
    Undialable,
    /// A quarter does not serve
    NotServing,
    /// All leechers resume with a random half of the chunks each
    Resumed,
    /// Half is cut off from the seeder and from the other half for half of the fluid bound
    Partition,
    /// A random half of the pairs of leechers cannot connect, in one direction each
    Asymmetric,
    /// All leechers join within one second
    JoinRush,
}

impl Fault {
    /// Number of seeders that the fault requires.
    pub fn seeders(self) -> usize {
        match self {
            Fault::RootLeaves | Fault::TwoRoots => 2,
            _ => 1,
        }
    }
}

/// One of `parts` equal parts of the leechers.
fn is_in_part(leecher: usize, parts: usize) -> bool {
    leecher % parts == parts - 1
}

impl World {
    fn has(&self, fault: Fault) -> bool {
        self.setting.fault == Some(fault)
    }

    /// Whether a peer is a leecher in one of `parts` equal parts.
    fn is_part(&self, peer: usize, parts: usize) -> bool {
        peer.checked_sub(self.setting.seeders).is_some_and(|leecher| is_in_part(leecher, parts))
    }

    /// Whether a peer is a member that downloads and sends nothing.
    pub(super) fn is_silent(&self, peer: usize) -> bool {
        match self.setting.fault {
            Some(Fault::Silent) => self.is_part(peer, 8),
            Some(Fault::BadNeighbours) => peer + 1 == self.peers.len(),
            _ => false,
        }
    }

    /// Whether a peer serves, and so joins rings.
    pub(super) fn serves(&self, peer: usize) -> bool {
        !(self.has(Fault::NotServing) && self.is_part(peer, 4))
    }

    /// Whether other peers can download from a leecher.
    pub(super) fn is_source(&self, peer: usize) -> bool {
        self.serves(peer) && !self.is_silent(peer) && !(self.has(Fault::Undialable) && self.is_part(peer, 4))
    }

    /// Whether a peer can connect to another one now.
    pub(super) fn is_reachable(&self, peer: usize, other: usize) -> bool {
        let is_blocked = match self.setting.fault {
            Some(Fault::Undialable) => self.is_part(other, 4),
            Some(Fault::BadNeighbours) => peer == other,
            Some(Fault::Partition) => self.is_cut && self.is_part(peer, 2) != self.is_part(other, 2),
            Some(Fault::Asymmetric) => {
                let hasher = BuildHasherDefault::<DefaultHasher>::default();
                hasher.hash_one((self.setting.seed, peer, other)) % 2 == 0
            }
            _ => false,
        };
        !is_blocked
    }

    /// The chunks that a peer claims to have.
    pub(super) fn claimed(&self, peer: usize) -> Bitfield {
        let have = self.peers[peer].picker.done();
        match self.is_silent(peer) {
            true => {
                let mut claimed = Bitfield::all(have.count());
                claimed.remove(ChunkIndex(0));
                claimed
            }
            false => have.clone(),
        }
    }

    /// The number of members that a root states to a peer.
    pub(super) fn stated_members(&self, peer: usize, root: usize) -> u32 {
        let is_preferred = self.has(Fault::TwoRoots) && root == usize::from(self.is_part(peer, 2));
        self.peers[root].rings.count() as u32 + if is_preferred { CLAIMED_MEMBERS } else { 0 }
    }

    /// The predecessor that a root names.
    pub(super) fn named_predecessor(&self, placement: &Placement<usize>) -> usize {
        match (self.setting.fault, placement.ring) {
            (Some(Fault::BadNeighbours), 0) => placement.member,
            (Some(Fault::BadNeighbours), 1 | 2) => self.peers.len() - 1,
            (Some(Fault::BadNeighbours), _) => self.setting.seeders,
            _ => placement.predecessor,
        }
    }

    /// Schedules the events of the fault.
    pub(super) fn schedule_fault(&mut self) {
        let bound = Duration::from_secs_f64(self.bound());
        match self.setting.fault {
            Some(Fault::RootLeaves) => self.at(bound.mul_f64(0.4), Event::Die(0)),
            Some(Fault::Partition) => {
                self.at(bound.mul_f64(0.3), Event::Cut(true));
                self.at(bound.mul_f64(0.3) + self.fault_duration(), Event::Cut(false));
            }
            _ => {}
        }
    }

    /// Time in which half of the peers can receive nothing new.
    pub(super) fn fault_duration(&self) -> Duration {
        match self.setting.fault {
            Some(Fault::Partition) => Duration::from_secs_f64(self.bound() / 2.0),
            _ => Duration::ZERO,
        }
    }

    /// Begins or ends a partition. At its begin the connections between the parts end.
    pub(super) fn set_cut(&mut self, is_cut: bool) {
        self.is_cut = is_cut;
        for peer in self.setting.seeders..self.peers.len() {
            for source in self.peers[peer].sources.clone() {
                if !self.is_reachable(peer, source) {
                    self.disconnect(peer, source);
                }
            }
        }
    }

    /// A silent peer joins the rings of the seeders, and downloads nothing.
    pub(super) fn join_silently(&mut self, peer: usize) {
        self.peers[peer].done = Some(self.now);
        self.peers[peer].is_member = true;
        for root in 0..self.setting.seeders {
            let placements = self.join_root(peer, root);
            self.send_placements(root, placements);
        }
    }

    /// A request to a silent peer: its connection ends after the stall timeout.
    pub(super) fn ignore_request(&mut self, from: usize, to: usize) {
        self.at(self.now + STALL_TIMEOUT, Event::Lost(from, to));
    }

    /// A peer cannot connect to another one: it learns so after the connect timeout. In a partition, the repeated first
    /// packet may arrive before.
    pub(super) fn fail_to_connect(&mut self, peer: usize, other: usize) {
        self.peers[peer].connecting.push((other, self.now));
        match self.has(Fault::Partition) {
            true => self.at(self.now + RECONNECT_INTERVAL, Event::Redial(peer, other)),
            false => self.at(self.now + CONNECT_TIMEOUT, Event::Lost(peer, other)),
        }
    }

    /// A peer tries again to connect to another one, if it still wants to.
    pub(super) fn redial(&mut self, peer: usize, other: usize) {
        self.peers[peer].connecting.retain(|(source, _)| *source != other);
        let is_wanted = self.peers[peer].member.predecessors().contains(&other);
        if self.peers[peer].fetches() && (is_wanted || other < self.setting.seeders) {
            self.connect(peer, other);
        }
    }

    /// The connection to a source has ended, or could not be made. In the second case the root is told.
    pub(super) fn lost(&mut self, peer: usize, other: usize) {
        let one = &mut self.peers[peer];
        if one.sources.contains(&other) {
            return self.disconnect(peer, other);
        }
        one.connecting.retain(|(source, _)| *source != other);
        one.picker.remove_source(SourceId(other as u32));
        let root = one.member.root().filter(|_| one.member.rings_of(other) != 0);
        one.member.lost(other);
        if let Some(root) = root {
            let host = IpAddr::V4(Ipv4Addr::from_bits(peer as u32));
            let placements = self.peers[root].rings.unreachable(peer, host, other);
            self.send_placements(root, placements);
        }
    }

    /// Connects to the seeders again that a peer has lost.
    pub(super) fn reconnect_to_seeders(&mut self, peer: usize) {
        if self.now < self.peers[peer].reconnects_at {
            return;
        }
        self.peers[peer].reconnects_at = self.now + RECONNECT_INTERVAL;
        for seeder in 0..self.setting.seeders {
            self.connect(peer, seeder);
        }
    }
}
