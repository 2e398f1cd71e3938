//! Budgets of a tracker, and the share of each source address in them.
//!
//! A stranger may fill a budget, but not alone: one source address gets at most half of what all others leave free
//! ([`share_limit`]). So the first one gets half of a budget, and a hundred that arrive after it still get an equal part of the
//! other half. Invariant: the use of a budget is the sum of the shares.

use crate::content::limits::{ANNOUNCED_FILES_MAX, CLAIMS_MAX, HOLDER_ENTRIES_MAX};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Memory of a file with one holder and the longest name, bytes; measured.
const FILE_ENTRY_BYTES: u64 = 1_200;
/// Memory of a further holder of a file, bytes; measured.
const HOLDER_ENTRY_BYTES: u64 = 160;
/// Memory of the first claim of a chunk, bytes; measured.
const CLAIM_ENTRY_BYTES: u64 = 700;

/// A kind of memory that peers occupy at a tracker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BudgetKind {
    /// Different files.
    Files,
    /// Entries of holders; a peer has one for each name of each file that it announces.
    Holders,
    /// Claims of chunks in chunk sets, and requests for chunks that wait for an agreement.
    Claims,
}

/// Number of [`BudgetKind`]s.
const KINDS: usize = 3;
/// Number of counters of a source address: the kinds, and its peers, whose number is limited elsewhere.
const COUNTERS: usize = KINDS + 1;
/// The counter of peers.
const PEERS: usize = KINDS;

impl BudgetKind {
    fn name(self) -> &'static str {
        match self {
            BudgetKind::Files => "announced files",
            BudgetKind::Holders => "holders of files",
            BudgetKind::Claims => "claims of chunks",
        }
    }

    /// The flag of a tracker that sets the budget.
    fn flag(self) -> &'static str {
        match self {
            BudgetKind::Files => "--files-max",
            BudgetKind::Holders => "--holders-max",
            BudgetKind::Claims => "--claims-max",
        }
    }
}

/// The numbers of entries that a tracker stores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budgets {
    /// Different files.
    pub files: u64,
    /// Entries of holders.
    pub holders: u64,
    /// Claims of chunks, and requests that wait.
    pub claims: u64,
}

impl Default for Budgets {
    /// The largest budgets.
    fn default() -> Self {
        Self { files: ANNOUNCED_FILES_MAX, holders: HOLDER_ENTRIES_MAX, claims: CLAIMS_MAX }
    }
}

impl Budgets {
    /// Budgets for a tracker that may use this many bytes of memory: they fill at most half of it.
    pub fn for_memory(bytes: u64) -> Self {
        let largest = Self::default();
        Self {
            files: (bytes / 4 / FILE_ENTRY_BYTES).clamp(1, largest.files),
            holders: (bytes / 8 / HOLDER_ENTRY_BYTES).clamp(1, largest.holders),
            claims: (bytes / 8 / CLAIM_ENTRY_BYTES).clamp(1, largest.claims),
        }
    }
}

/// A budget would be exceeded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "limit of {name} reached: {source_ip} uses {share} of at most {share_max}, all addresses {used} of {budget}; tracker {flag} raises it",
    name = .kind.name(), flag = .kind.flag()
)]
pub struct BudgetExceeded {
    kind: BudgetKind,
    source_ip: IpAddr,
    share: u64,
    share_max: u64,
    used: u64,
    budget: u64,
}

/// The largest share of one source address: half of what the others leave of a budget.
pub fn share_limit(budget: u64, used_by_others: u64) -> u64 {
    budget.saturating_sub(used_by_others) / 2
}

/// Counters of one source address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Usage([u32; COUNTERS]);

/// Bits of a [`Packed`] usage for each counter. Most addresses have one peer with few files and no claims.
const PACKED_BITS: [u32; COUNTERS] = [12, 12, 0, 7];
/// Mark of a [`Packed`] usage that does not fit: the other bits are the index of the usage.
const IS_INDEX: u32 = 1 << 31;

/// A usage in 4 bytes, or the index of a usage that needs more: there may be as many addresses as peers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Packed(u32);

impl Packed {
    fn new(usage: Usage) -> Option<Self> {
        let mut packed = 0;
        for (count, bits) in usage.0.into_iter().zip(PACKED_BITS) {
            if count >> bits != 0 {
                return None;
            }
            packed = packed << bits | count;
        }
        Some(Self(packed))
    }

    fn index(self) -> Option<usize> {
        (self.0 & IS_INDEX != 0).then_some((self.0 & !IS_INDEX) as usize)
    }

    fn usage(self) -> Usage {
        let (mut usage, mut rest) = (Usage::default(), self.0);
        for (count, bits) in usage.0.iter_mut().zip(PACKED_BITS).rev() {
            *count = rest & ((1 << bits) - 1);
            rest >>= bits;
        }
        usage
    }
}

/// A source address: an IPv4 address, or the /64 network of an IPv6 address, of which one host may use all addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    /// The address.
    V4(Ipv4Addr),
    /// The network.
    V6(u64),
}

impl Source {
    /// The source of an IP address; an IPv4-mapped one is the IPv4 address.
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip),
            IpAddr::V6(ip) => Self::V6((Ipv6Addr::to_bits(ip) >> 64) as u64),
        }
    }
}

/// What each source address uses. Separate tables for IPv4 and IPv6 save memory.
#[derive(Debug)]
pub struct Shares {
    budgets: [u64; KINDS],
    used: [u64; KINDS],
    v4: HashMap<Ipv4Addr, Packed>,
    v6: HashMap<u64, Packed>,
    large: Vec<Usage>,
    free: Vec<u32>,
}

impl Shares {
    /// Budgets without any use.
    pub fn new(budgets: Budgets) -> Self {
        let Budgets { files, holders, claims } = budgets;
        Self {
            budgets: [files, holders, claims],
            used: [0; KINDS],
            v4: HashMap::new(),
            v6: HashMap::new(),
            large: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Number of peers of a source address.
    pub fn peers(&self, ip: IpAddr) -> u32 {
        self.usage(self.packed(Source::of(ip))).0[PEERS]
    }

    /// Counts a peer.
    pub fn add_peer(&mut self, ip: IpAddr) {
        self.update(ip, |usage| usage.0[PEERS] += 1);
    }

    /// Counts a peer less.
    pub fn remove_peer(&mut self, ip: IpAddr) {
        self.update(ip, |usage| usage.0[PEERS] = usage.0[PEERS].saturating_sub(1));
    }

    /// Number of entries of a source address.
    pub fn of(&self, ip: IpAddr, kind: BudgetKind) -> u64 {
        self.usage(self.packed(Source::of(ip))).0[kind as usize].into()
    }

    /// Number of entries of all source addresses.
    pub fn used(&self, kind: BudgetKind) -> u64 {
        self.used[kind as usize]
    }

    /// Adds entries for a source address.
    ///
    /// # Errors
    /// They would exceed the budget or the share of the address. Nothing is added then.
    pub fn charge(&mut self, ip: IpAddr, kind: BudgetKind, count: u32) -> Result<(), BudgetExceeded> {
        self.check(ip, kind, count)?;
        self.charge_always(ip, kind, count);
        Ok(())
    }

    /// Checks whether entries can be added for a source address.
    ///
    /// # Errors
    /// They would exceed the budget or the share of the address.
    pub fn check(&self, ip: IpAddr, kind: BudgetKind, count: u32) -> Result<(), BudgetExceeded> {
        let (budget, used) = (self.budgets[kind as usize], self.used[kind as usize]);
        // Below half of the budget no share can be exceeded: saves the search for the address.
        if 2 * (used + u64::from(count)) <= budget {
            return Ok(());
        }
        let share = self.of(ip, kind);
        let share_max = share_limit(budget, used - share);
        match share + u64::from(count) > share_max {
            true => Err(BudgetExceeded { kind, source_ip: ip, share, share_max, used, budget }),
            false => Ok(()),
        }
    }

    /// Adds entries for a source address without a limit, for what the tracker itself has placed there.
    pub fn charge_always(&mut self, ip: IpAddr, kind: BudgetKind, count: u32) {
        self.used[kind as usize] += u64::from(count);
        self.update(ip, |usage| {
            let entries = &mut usage.0[kind as usize];
            *entries = entries.saturating_add(count);
        });
    }

    /// Removes entries of a source address.
    pub fn refund(&mut self, ip: IpAddr, kind: BudgetKind, count: u32) {
        self.used[kind as usize] = self.used[kind as usize].saturating_sub(count.into());
        self.update(ip, |usage| {
            let entries = &mut usage.0[kind as usize];
            *entries = entries.saturating_sub(count);
        });
    }

    fn packed(&self, source: Source) -> Packed {
        let found = match source {
            Source::V4(ip) => self.v4.get(&ip),
            Source::V6(network) => self.v6.get(&network),
        };
        found.copied().unwrap_or_default()
    }

    fn usage(&self, packed: Packed) -> Usage {
        packed.index().map_or_else(|| packed.usage(), |index| self.large[index])
    }

    fn update(&mut self, ip: IpAddr, change: impl FnOnce(&mut Usage)) {
        let source = Source::of(ip);
        let before = self.packed(source);
        let mut usage = self.usage(before);
        change(&mut usage);
        let after = match (before.index(), Packed::new(usage)) {
            (None, Some(packed)) => packed,
            (Some(index), Some(packed)) => {
                self.free.push(index as u32);
                packed
            }
            (Some(index), None) => {
                self.large[index] = usage;
                before
            }
            (None, None) => {
                let index = self.free.pop().unwrap_or(self.large.len() as u32);
                match self.large.get_mut(index as usize) {
                    Some(unused) => *unused = usage,
                    None => self.large.push(usage),
                }
                Packed(IS_INDEX | index)
            }
        };
        match (source, after == Packed::default()) {
            (Source::V4(ip), false) => _ = self.v4.insert(ip, after),
            (Source::V6(network), false) => _ = self.v6.insert(network, after),
            (Source::V4(ip), true) => _ = self.v4.remove(&ip),
            (Source::V6(network), true) => _ = self.v6.remove(&network),
        }
    }

    /// Whether no source address uses anything.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty() && self.used == [0; KINDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BUDGETS: Budgets = Budgets { files: 100, holders: 1 << 40, claims: 8 };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn fill(shares: &mut Shares, source: IpAddr) -> usize {
        (0..1_000).take_while(|_| shares.charge(source, BudgetKind::Files, 1).is_ok()).count()
    }

    #[test]
    fn each_address_gets_half_of_what_the_others_leave_free() {
        let mut shares = Shares::new(BUDGETS);
        let filled = ["10.0.0.1", "10.0.0.2", "::ffff:10.0.0.3"].map(|text| fill(&mut shares, ip(text)));
        assert_eq!(filled, [50, 25, 12]);
        assert_eq!(fill(&mut shares, ip("10.0.0.3")), 0, "a mapped address is the same address");
        shares.refund(ip("10.0.0.1"), BudgetKind::Files, 50);
        assert_eq!(fill(&mut shares, ip("10.0.0.4")), 31);
        let error = shares.charge(ip("10.0.0.4"), BudgetKind::Files, 1).unwrap_err();
        let text = "limit of announced files reached: 10.0.0.4 uses 31 of at most 31, all addresses 68 of 100; tracker --files-max raises it";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn budgets_follow_from_the_memory_up_to_a_limit() {
        let small = Budgets::for_memory(512 << 20);
        assert_eq!((small.files, small.holders, small.claims), (111_848, 419_430, 95_869));
        assert_eq!(Budgets::for_memory(1 << 50), Budgets::default());
        assert_eq!(Budgets::for_memory(0), Budgets { files: 1, holders: 1, claims: 1 });
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let mut shares = Shares::new(BUDGETS);
        assert_eq!(fill(&mut shares, ip("2001:db8::1")), 50);
        assert_eq!(fill(&mut shares, ip("2001:db8::2")), 0);
        assert_eq!(fill(&mut shares, ip("2001:db8:0:1::1")), 25);
    }

    #[test]
    fn many_peers_behind_one_address_use_its_share_together() {
        let mut shares = Shares::new(BUDGETS);
        for _ in 0..30 {
            shares.add_peer(ip("10.0.0.1"));
            shares.charge(ip("10.0.0.1"), BudgetKind::Files, 1).unwrap();
        }
        assert_eq!((shares.peers(ip("10.0.0.1")), shares.of(ip("10.0.0.1"), BudgetKind::Files)), (30, 30));
    }

    proptest! {
        #[test]
        fn shares_are_counted_exactly(
            changes in prop::collection::vec((0..3_u8, 0..KINDS, 0..9_000_u32, any::<bool>()), 0..200),
        ) {
            let all = [BudgetKind::Files, BudgetKind::Holders, BudgetKind::Claims];
            let budgets = Budgets { files: u64::MAX / 2, holders: u64::MAX / 2, claims: u64::MAX / 2 };
            let (mut shares, mut expected) = (Shares::new(budgets), [[0_u64; KINDS]; 3]);
            for (source, kind, count, adds) in changes {
                let source_ip = IpAddr::from([10, 0, 0, source]);
                let share = &mut expected[usize::from(source)][kind];
                if adds {
                    shares.charge(source_ip, all[kind], count).unwrap();
                    *share += u64::from(count);
                } else {
                    let count = count.min(*share as u32);
                    shares.refund(source_ip, all[kind], count);
                    *share -= u64::from(count);
                }
                for (number, row) in (0..).zip(expected) {
                    for (kind, count) in all.into_iter().zip(row) {
                        prop_assert_eq!(shares.of(IpAddr::from([10, 0, 0, number]), kind), count);
                    }
                }
            }
            for (number, row) in (0..).zip(expected) {
                for (kind, count) in all.into_iter().zip(row) {
                    shares.refund(IpAddr::from([10, 0, 0, number]), kind, count as u32);
                }
            }
            prop_assert!(shares.is_empty());
            prop_assert!(shares.free.len() == shares.large.len());
        }
    }
}
