//! The registry compared with a simple model: peers with a valid lease, and the files that they hold. Peers of two source
//! addresses share budgets, which they exceed.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use shoal::content::{FileId, FileName};
use shoal::protocol::tracker::{FoundFile, Token};
use shoal::swarm::Moment;
use shoal::swarm::registry::{PeerId, Registry};
use shoal::swarm::shares::{BudgetKind, Budgets, Shares, share_limit};
use shoal_fuzz::requests::{file_id, file_name, peer_name, summary};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The requester of each query.
const LOCAL: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

const LEASE: Duration = Duration::from_secs(10);

#[derive(Arbitrary, Debug)]
enum Event {
    Register { name: u8, address: u8 },
    Heartbeat(u8),
    Announce { peer: u8, file: u8, name: u8, held: u8 },
    Retract { peer: u8, file: u8, name: Option<u8> },
    Remove(u8),
    Expire,
    Passes(u8),
    Lookup { name: Option<u8>, id: Option<u8>, except: Option<u8>, limit: u8 },
    List { holders: u8, files: u8 },
}

struct Peer {
    address: SocketAddr,
    expires: Moment,
    /// For each file its names, and whether the peer has all chunks.
    files: BTreeMap<FileId, (BTreeSet<FileName>, bool)>,
}

struct World {
    registry: Registry,
    budgets: Budgets,
    now: Moment,
    /// All peers that were ever registered, so that events also refer to removed peers.
    all: Vec<(PeerId, Token)>,
    peers: BTreeMap<PeerId, Peer>,
    random: fastrand::Rng,
}

impl World {
    fn peer(&self, number: u8) -> (PeerId, Token) {
        let at = usize::from(number) % (self.all.len() + 1);
        self.all.get(at).copied().unwrap_or((PeerId(u64::MAX), Token(0)))
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Register { name, address } => {
                let secret = self.all.len() as u128 + 1;
                let address = SocketAddr::from(([10, 0, 0, 1], 1 + u16::from(address % 8)));
                let registered = self.registry.register(self.now, secret, peer_name(name), address);
                let (id, token) = registered.expect("the registry has space");
                let expires = self.now + LEASE;
                self.registry.set_source(id, source(address.port()));
                self.all.push((id, token));
                let peer = Peer { address, expires, files: BTreeMap::new() };
                assert!(self.peers.insert(id, peer).is_none(), "an id is used once");
            }
            Event::Heartbeat(number) => {
                let (id, token) = self.peer(number);
                let alive = self.peers.get(&id).is_some_and(|peer| self.now < peer.expires);
                assert_eq!(self.registry.by_token(self.now, token), alive.then_some(id));
                assert_eq!(self.registry.heartbeat(self.now, token), alive.then_some(id));
                if let Some(peer) = self.peers.get_mut(&id).filter(|_| alive) {
                    peer.expires = self.now + LEASE;
                }
            }
            Event::Announce { peer, file, name, held } => self.announce(peer, file, name, held),
            Event::Retract { peer, file, name } => {
                let ((id, _), file, name) = (self.peer(peer), file_id(file), name.map(file_name));
                self.registry.retract(id, file, name.as_ref());
                let Some(peer) = self.peers.get_mut(&id) else { return };
                if let Some((names, _)) = peer.files.get_mut(&file) {
                    names.retain(|known| name.as_ref().is_some_and(|name| known != name));
                    if names.is_empty() {
                        peer.files.remove(&file);
                    }
                }
            }
            Event::Remove(number) => {
                let (id, _) = self.peer(number);
                let known = self.peers.remove(&id).is_some();
                assert_eq!(self.registry.remove(id).is_some(), known);
            }
            Event::Expire => self.expire(),
            Event::Passes(tenths) => self.now += Duration::from_millis(u64::from(tenths) * 100),
            Event::Lookup { name, id, except, limit } => self.lookup(name, id, except, limit),
            Event::List { holders, files } => self.list(holders.into(), files.into()),
        }
        assert_eq!(self.registry.len(), self.peers.len());
        assert_eq!(self.registry.is_empty(), self.peers.is_empty());
        self.check_budgets();
    }

    /// Asserts that entries are counted right, and that no budget is exceeded.
    fn check_budgets(&self) {
        let shares = &self.registry.shares;
        let names =
            self.peers.values().flat_map(|peer| peer.files.values()).map(|(names, _)| names.len() as u64);
        assert_eq!(shares.used(BudgetKind::Holders), names.sum::<u64>());
        let files: BTreeSet<FileId> =
            self.peers.values().flat_map(|peer| peer.files.keys().copied()).collect();
        assert_eq!(shares.used(BudgetKind::Files), files.len() as u64);
        for (kind, budget) in
            [(BudgetKind::Holders, self.budgets.holders), (BudgetKind::Files, self.budgets.files)]
        {
            assert!(shares.used(kind) <= budget);
            assert_eq!(shares.of(source(0), kind) + shares.of(source(1), kind), shares.used(kind));
        }
    }

    fn announce(&mut self, peer: u8, file: u8, name: u8, held: u8) {
        let (id, _) = self.peer(peer);
        let (file, held) = (summary(file, name), u32::from(held % 8));
        let result = self.registry.announce(id, &file, held);
        let Some(peer) = self.peers.get_mut(&id) else {
            assert!(matches!(result, Ok(false)));
            return;
        };
        let Ok(news) = result else {
            // Nothing has changed, and an address without any entry is never refused while there is space for two.
            let from = source(peer.address.port());
            let shares = &self.registry.shares;
            let is_full = |kind, budget| {
                let own = shares.of(from, kind);
                own >= share_limit(budget, shares.used(kind) - own)
            };
            assert!(
                is_full(BudgetKind::Holders, self.budgets.holders)
                    || is_full(BudgetKind::Files, self.budgets.files)
            );
            return;
        };
        let whole = held >= file.chunks;
        let before = peer.files.get(&file.id).map(|(_, whole)| *whole);
        let (names, now_whole) = peer.files.entry(file.id).or_default();
        let is_new_name = names.insert(file.name);
        *now_whole = whole;
        assert_eq!(news, is_new_name || before.is_none_or(|before| whole && !before));
    }

    fn expire(&mut self) {
        let gone: BTreeSet<PeerId> = self.registry.expire(self.now).into_iter().map(|(id, _)| id).collect();
        let late = self.peers.iter().filter(|(_, peer)| peer.expires <= self.now);
        assert_eq!(gone, late.map(|(id, _)| *id).collect());
        gone.iter().for_each(|id| drop(self.peers.remove(id)));
        assert!(self.registry.next_expiry().is_none_or(|next| next > self.now));
    }

    /// The peers with a valid lease that have a file, and whether they have all chunks.
    fn holders(&self, id: FileId, except: Option<PeerId>) -> Vec<(&Peer, bool)> {
        let others = self.peers.iter().filter(|(peer, _)| Some(**peer) != except).map(|(_, peer)| peer);
        let alive = others.filter(|peer| self.now < peer.expires);
        alive.filter_map(|peer| peer.files.get(&id).map(|(_, whole)| (peer, *whole))).collect()
    }

    fn assert_correct(&self, found: &FoundFile, except: Option<PeerId>) {
        let holders = self.holders(found.file.id, except);
        for (list, wanted) in [(&found.whole, true), (&found.partial, false)] {
            assert_eq!(list.iter().collect::<BTreeSet<_>>().len(), list.len(), "an address is listed twice");
            for address in list {
                let has =
                    holders.iter().any(|(peer, whole)| peer.address == address.first() && *whole == wanted);
                assert!(has, "{address} is listed for {} and does not have it", found.file.id.short());
            }
        }
        let calls = |peer: &Peer| {
            peer.files.get(&found.file.id).is_some_and(|(names, _)| names.contains(&found.file.name))
        };
        assert!(self.peers.values().any(calls), "no peer uses the name {}", found.file.name);
    }

    fn lookup(&mut self, name: Option<u8>, id: Option<u8>, except: Option<u8>, limit: u8) {
        let (name, id) = (name.map(file_name), id.map(file_id));
        let except = except.map(|number| self.peer(number).0);
        let limit = usize::from(limit);
        let (found, more) =
            self.registry.lookup(self.now, name.as_ref(), id, except, limit, LOCAL, &mut self.random);
        assert!(!more, "a lookup of five files was truncated");
        for one in &found {
            self.assert_correct(one, except);
            assert!(one.whole.len() + one.partial.len() <= limit.max(1));
            assert!(id.is_none_or(|id| id == one.file.id));
        }
        let named: BTreeSet<FileId> = found.iter().map(|one| one.file.id).collect();
        assert_eq!(named.len(), found.len());
        let all = (0..5).map(file_id);
        let wanted = all.filter(|file| match (&id, &name) {
            (Some(id), _) => file == id,
            (None, Some(name)) => self
                .peers
                .values()
                .any(|peer| peer.files.get(file).is_some_and(|(names, _)| names.contains(name))),
            (None, None) => false,
        });
        let known: BTreeSet<FileId> = wanted.filter(|file| !self.holders(*file, except).is_empty()).collect();
        if limit > 0 {
            assert_eq!(named, known, "a lookup finds exactly the files with a holder");
        }
    }

    fn list(&mut self, holders: usize, files: usize) {
        let (found, all) = self.registry.list(self.now, holders, files, LOCAL, &mut self.random);
        assert!(found.len() <= files && found.len() <= all);
        for one in &found {
            self.assert_correct(one, None);
            assert!(one.whole.len() <= holders && one.partial.len() <= holders);
        }
        let names = |file: FileId| {
            let names = self.peers.values().filter_map(|peer| Some(&peer.files.get(&file)?.0)).flatten();
            names.collect::<BTreeSet<_>>().len()
        };
        if files >= (0..5).map(|file| names(file_id(file))).sum::<usize>() {
            let alive = (0..5).map(file_id).filter(|file| !self.holders(*file, None).is_empty());
            let known = alive.map(names).sum::<usize>();
            assert_eq!((found.len(), all), (known, known));
        }
    }
}

/// The source address of a peer with this port.
fn source(port: u16) -> IpAddr {
    [10, 1, 0, (port % 2) as u8].into()
}

fuzz_target!(|input: (u64, u8, Vec<Event>)| {
    let (seed, budget, events) = input;
    let mut registry = Registry::new(LEASE);
    let holders = 1 + u64::from(budget);
    let budgets = Budgets { files: 1 + holders / 2, holders, claims: 1 };
    registry.shares = Shares::new(budgets);
    let random = fastrand::Rng::with_seed(seed);
    let mut world =
        World { registry, budgets, now: Moment::ZERO, all: Vec::new(), peers: BTreeMap::new(), random };
    events.into_iter().for_each(|event| world.apply(event));
    world.now += 2 * LEASE;
    world.expire();
    assert!(world.peers.is_empty() && world.registry.next_expiry().is_none());
    assert_eq!(world.registry.list(world.now, 9, 9, LOCAL, &mut world.random), (Vec::new(), 0));
    let tokens =
        world.all.iter().filter(|(_, token)| world.registry.by_token(Moment::ZERO, *token).is_some());
    assert_eq!(tokens.count(), 0);
});
