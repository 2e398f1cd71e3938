//! Peers, leases, files, and who has what.
//!
//! Invariants: a peer whose lease has ended is named in no answer, also before [`Registry::expire`] has
//! removed it (until then it may be counted); a file without a holder is forgotten; a name is known as long as a holder uses it.

use super::Moment;
use crate::content::limits::{FILES_PER_PEER_MAX, FOUND_FILES_MAX, HOLDERS_MAX, PEERS_MAX};
use crate::content::{EntityName, FileId, FileName};
use crate::protocol::tracker::{FileSummary, FoundFile, Token};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

/// Live holders that are looked at for each that is wanted.
const SAMPLE_TRIES: usize = 8;

/// A registration. Never used twice, so that several peers behind one address are never mixed up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PeerId(pub u64);

/// Why the registry takes nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RegistryFull {
    /// Too many peers.
    #[error("{PEERS_MAX} peers are registered, no more are taken")]
    Peers,
    /// Too many files of one peer.
    #[error("{FILES_PER_PEER_MAX} files of one peer are known, no more are taken")]
    Files,
}

/// A peer that is alive.
#[derive(Debug, Clone)]
pub struct Peer {
    /// What people call it.
    pub name: EntityName,
    /// Where it serves.
    pub address: SocketAddr,
    token: Token,
    expires: Moment,
    files: Vec<FileId>,
}

#[derive(Debug, Clone)]
struct Holder {
    peer: PeerId,
    name: FileName,
    whole: bool,
}

/// The holders of a file: a list of those who have all of it and one of the others, to draw from at random, and
/// where each holder stands.
#[derive(Debug, Default)]
struct Holders {
    whole: Vec<Holder>,
    partial: Vec<Holder>,
    places: HashMap<PeerId, (bool, usize)>,
}

impl Holders {
    fn list(&self, whole: bool) -> &[Holder] {
        if whole { &self.whole } else { &self.partial }
    }

    fn list_mut(&mut self, whole: bool) -> &mut Vec<Holder> {
        if whole { &mut self.whole } else { &mut self.partial }
    }

    fn len(&self) -> usize {
        self.places.len()
    }

    fn get(&self, peer: PeerId) -> Option<&Holder> {
        let (whole, at) = *self.places.get(&peer)?;
        self.list(whole).get(at)
    }

    fn put(&mut self, holder: Holder) -> Option<Holder> {
        let before = self.remove(holder.peer);
        let list = self.list_mut(holder.whole);
        let place = (holder.whole, list.len());
        let peer = holder.peer;
        list.push(holder);
        self.places.insert(peer, place);
        before
    }

    fn remove(&mut self, peer: PeerId) -> Option<Holder> {
        let (whole, at) = self.places.remove(&peer)?;
        let list = self.list_mut(whole);
        let holder = list.swap_remove(at);
        if let Some(moved) = list.get(at).map(|moved| moved.peer) {
            self.places.insert(moved, (whole, at));
        }
        Some(holder)
    }
}

#[derive(Debug)]
struct File {
    size: u64,
    chunks: u32,
    holders: Holders,
    /// Each name that a holder gives the file, and how many do.
    names: BTreeMap<FileName, u32>,
}

impl File {
    /// What most of its holders call it.
    fn most_used_name(&self) -> Option<&FileName> {
        self.names.iter().max_by_key(|(_, count)| **count).map(|(name, _)| name)
    }
}

/// Who is alive and who has what.
#[derive(Debug)]
pub struct Registry {
    lease: Duration,
    next: u64,
    /// Rises with whatever changes who has what.
    changes: u64,
    peers: HashMap<PeerId, Peer>,
    tokens: HashMap<Token, PeerId>,
    files: HashMap<FileId, File>,
    names: HashMap<FileName, BTreeSet<FileId>>,
    /// When to look at a peer again. A heartbeat does not touch it.
    leases: BinaryHeap<Reverse<(Moment, PeerId)>>,
}

impl Registry {
    /// An empty registry whose peers live for `lease` after each heartbeat.
    pub fn new(lease: Duration) -> Self {
        Self {
            lease,
            next: 0,
            changes: 0,
            peers: HashMap::new(),
            tokens: HashMap::new(),
            files: HashMap::new(),
            names: HashMap::new(),
            leases: BinaryHeap::new(),
        }
    }

    /// How many peers are registered.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// A number that is the same only as long as nothing has changed in who has what.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether no peer is registered.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Takes a peer in. `token` must be unguessable and new.
    ///
    /// # Errors
    /// When [`PEERS_MAX`] are there.
    pub fn register(
        &mut self,
        now: Moment,
        token: Token,
        name: EntityName,
        address: SocketAddr,
    ) -> Result<PeerId, RegistryFull> {
        if self.peers.len() >= PEERS_MAX {
            return Err(RegistryFull::Peers);
        }
        let id = PeerId(self.next);
        self.next += 1;
        let expires = now + self.lease;
        self.peers.insert(id, Peer { name, address, token, expires, files: Vec::new() });
        self.tokens.insert(token, id);
        self.leases.push(Reverse((expires, id)));
        Ok(id)
    }

    /// The peer with a token, if its lease has not ended.
    pub fn by_token(&self, now: Moment, token: Token) -> Option<PeerId> {
        let id = *self.tokens.get(&token)?;
        self.peers.get(&id).filter(|peer| now < peer.expires).map(|_| id)
    }

    /// Renews a lease: whoever proves to be a peer is alive, whatever it asks for.
    pub fn heartbeat(&mut self, now: Moment, token: Token) -> Option<PeerId> {
        let id = self.by_token(now, token)?;
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.expires = now + self.lease;
        }
        Some(id)
    }

    /// What is known of a peer.
    pub fn peer(&self, id: PeerId) -> Option<&Peer> {
        self.peers.get(&id)
    }

    /// All peers, in no order.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    /// Forgets a peer and all that it had.
    pub fn remove(&mut self, id: PeerId) -> Option<Peer> {
        let peer = self.peers.remove(&id)?;
        self.tokens.remove(&peer.token);
        for file in &peer.files {
            self.remove_holder(*file, id);
        }
        Some(peer)
    }

    /// Removes the peers whose lease has ended and returns them.
    pub fn expire(&mut self, now: Moment) -> Vec<(PeerId, Peer)> {
        let mut gone = Vec::new();
        while let Some(&Reverse((due, id))) = self.leases.peek() {
            if due > now {
                break;
            }
            self.leases.pop();
            match self.peers.get(&id).map(|peer| peer.expires) {
                Some(expires) if expires > now => self.leases.push(Reverse((expires, id))),
                Some(_) => gone.extend(self.remove(id).map(|peer| (id, peer))),
                None => {}
            }
        }
        gone
    }

    /// When [`expire`](Self::expire) has something to look at next.
    pub fn next_expiry(&self) -> Option<Moment> {
        self.leases.peek().map(|Reverse((due, _))| *due)
    }

    /// Notes that a peer has a file, or `held` chunks of it. Returns whether that is news: the peer
    /// is new to the file, or has all of it now and had not.
    ///
    /// # Errors
    /// When the peer has announced [`FILES_PER_PEER_MAX`] files already.
    pub fn announce(&mut self, id: PeerId, file: &FileSummary, held: u32) -> Result<bool, RegistryFull> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(false) };
        let entry = self.files.get(&file.id);
        let known = entry.is_some_and(|entry| entry.holders.places.contains_key(&id));
        if !known {
            if peer.files.len() >= FILES_PER_PEER_MAX {
                return Err(RegistryFull::Files);
            }
            peer.files.push(file.id);
        }
        let entry = self.files.entry(file.id).or_insert_with(|| File {
            size: file.size,
            chunks: file.chunks,
            holders: Holders::default(),
            names: BTreeMap::new(),
        });
        let holder = Holder { peer: id, name: file.name.clone(), whole: held >= file.chunks };
        *entry.names.entry(file.name.clone()).or_default() += 1;
        let whole = holder.whole;
        let changed = (&holder.name, holder.whole);
        let same = |before: &Holder| (&before.name, before.whole) == changed;
        let known = entry.holders.get(id);
        self.changes += u64::from(!known.is_some_and(same));
        let before = entry.holders.put(holder);
        let news = before.as_ref().is_none_or(|before| whole && !before.whole);
        if let Some(before) = before {
            release_name(&mut self.names, entry, &before.name, file.id);
        }
        self.names.entry(file.name.clone()).or_default().insert(file.id);
        Ok(news)
    }

    /// Notes that a peer has nothing of a file any more.
    pub fn retract(&mut self, id: PeerId, file: FileId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.files.retain(|known| *known != file);
        }
        self.remove_holder(file, id);
    }

    fn remove_holder(&mut self, file: FileId, peer: PeerId) {
        let Some(entry) = self.files.get_mut(&file) else { return };
        let Some(holder) = entry.holders.remove(peer) else { return };
        self.changes += 1;
        release_name(&mut self.names, entry, &holder.name, file);
        if entry.holders.len() == 0 {
            self.files.remove(&file);
        }
    }

    /// The files of a name, of an id, or of both, each with at most `limit` live holders drawn at random,
    /// without `except`; and whether there are more files than are named.
    ///
    /// When very many files share a name some are drawn at random, and the more files, the fewer holders of each:
    /// an answer takes bounded time and space whatever has been announced.
    pub fn lookup(
        &self,
        now: Moment,
        name: Option<&FileName>,
        id: Option<FileId>,
        except: Option<PeerId>,
        limit: usize,
        random: &mut fastrand::Rng,
    ) -> (Vec<FoundFile>, bool) {
        let named = name.and_then(|name| self.names.get(name));
        let mut ids: Vec<FileId> = match (id, named) {
            (Some(id), _) => vec![id],
            (None, Some(named)) if named.len() <= FOUND_FILES_MAX => named.iter().copied().collect(),
            (None, Some(named)) => {
                // Ids are hashes, so that any place to begin is as likely as another.
                let mut start = [0; 32];
                random.fill(&mut start);
                let around = named.range(FileId(start)..).chain(named.range(..FileId(start)));
                around.take(FOUND_FILES_MAX).copied().collect()
            }
            (None, None) => Vec::new(),
        };
        ids.sort_unstable();
        let more = id.is_none() && named.is_some_and(|named| named.len() > ids.len());
        let limit = limit.min(HOLDERS_MAX / ids.len().max(1));
        let found = ids.into_iter().filter_map(|id| self.found(now, id, name, except, limit, random));
        (found.collect(), more)
    }

    /// Every file that somebody alive has, by name and id, each with at most `holders` of each kind drawn at random;
    /// at most `files` of them, and how many there are in all.
    pub fn list(
        &self,
        now: Moment,
        holders: usize,
        files: usize,
        random: &mut fastrand::Rng,
    ) -> (Vec<FoundFile>, usize) {
        let mut names: Vec<(&FileName, FileId)> =
            self.files.iter().filter_map(|(id, file)| Some((file.most_used_name()?, *id))).collect();
        // Of very many only those that are listed are sorted and looked at.
        let rest = names.len().saturating_sub(files);
        if rest > 0 && files > 0 {
            names.select_nth_unstable(files - 1);
        }
        names.truncate(files);
        names.sort_unstable();
        let found = names.into_iter().filter_map(|(_, id)| {
            let mut found = self.found(now, id, None, None, 2 * holders, random)?;
            found.whole.truncate(holders);
            found.partial.truncate(holders);
            Some(found)
        });
        let listed: Vec<FoundFile> = found.collect();
        let all = listed.len() + rest;
        (listed, all)
    }

    fn found(
        &self,
        now: Moment,
        id: FileId,
        name: Option<&FileName>,
        except: Option<PeerId>,
        limit: usize,
        random: &mut fastrand::Rng,
    ) -> Option<FoundFile> {
        let file = self.files.get(&id)?;
        let mut sample = |whole| self.sample(now, file.holders.list(whole), except, limit.max(1), random);
        let (mut whole, mut partial) = (sample(true), sample(false));
        if whole.is_empty() && partial.is_empty() {
            return None;
        }
        // Half of the places are for those who have it all, and each half takes what the other leaves.
        whole.truncate(limit.saturating_sub(partial.len().min(limit / 2)));
        partial.truncate(limit - whole.len());
        let asker = except.is_some_and(|peer| file.holders.get(peer).is_some());
        Some(FoundFile {
            file: FileSummary {
                id,
                name: name.filter(|name| file.names.contains_key(name)).or(file.most_used_name())?.clone(),
                size: file.size,
                chunks: file.chunks,
            },
            holders: (file.holders.len() - usize::from(asker)) as u32,
            whole,
            partial,
            md5: None,
        })
    }

    /// The addresses of at most `wanted` live holders, each once.
    fn sample(
        &self,
        now: Moment,
        list: &[Holder],
        except: Option<PeerId>,
        wanted: usize,
        random: &mut fastrand::Rng,
    ) -> Vec<SocketAddr> {
        // Start anywhere and go around until there are enough: a random choice without looking at the whole list.
        let start = random.usize(..list.len().max(1));
        let around = list[start..].iter().chain(&list[..start]).filter(|holder| Some(holder.peer) != except);
        let peers =
            around.filter_map(|holder| self.peers.get(&holder.peer)).filter(|peer| now < peer.expires);
        let mut seen = BTreeSet::new();
        // Many may share an address: who looks for others among them gives up at some point.
        let tries = peers.map(|peer| peer.address).take(SAMPLE_TRIES * wanted);
        tries.filter(|address| seen.insert(*address)).take(wanted).collect()
    }
}

/// One holder fewer uses a name.
fn release_name(
    names: &mut HashMap<FileName, BTreeSet<FileId>>,
    file: &mut File,
    name: &FileName,
    id: FileId,
) {
    let Some(count) = file.names.get_mut(name) else { return };
    *count -= 1;
    if *count > 0 {
        return;
    }
    file.names.remove(name);
    if let Some(ids) = names.get_mut(name) {
        ids.remove(&id);
        if ids.is_empty() {
            names.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEASE: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    fn registry() -> Registry {
        Registry::new(LEASE)
    }

    fn join(registry: &mut Registry, now: u64, number: u16) -> PeerId {
        let address = SocketAddr::from(([10, 0, 0, 1], number));
        let name = EntityName::new(format!("peer{number}")).unwrap();
        registry.register(at(now), Token(number.into()), name, address).unwrap()
    }

    fn file(number: u8, name: &str) -> FileSummary {
        FileSummary { id: FileId([number; 32]), name: FileName::new(name).unwrap(), size: 5, chunks: 10 }
    }

    fn ports(registry: &Registry, now: u64, name: &str) -> Vec<(Vec<u16>, Vec<u16>)> {
        let name = FileName::new(name).unwrap();
        let found =
            registry.lookup(at(now), Some(&name), None, None, 100, &mut fastrand::Rng::with_seed(1)).0;
        let sorted = |addresses: &[SocketAddr]| {
            let mut ports: Vec<u16> = addresses.iter().map(SocketAddr::port).collect();
            ports.sort_unstable();
            ports
        };
        found.iter().map(|found| (sorted(&found.whole), sorted(&found.partial))).collect()
    }

    #[test]
    fn a_silent_peer_is_in_no_answer_the_moment_its_lease_ends() {
        let mut registry = registry();
        let one = join(&mut registry, 0, 1);
        let two = join(&mut registry, 0, 2);
        for peer in [one, two] {
            registry.announce(peer, &file(1, "f"), 10).unwrap();
        }
        assert!(registry.heartbeat(at(9), Token(2)).is_some());
        assert_eq!(ports(&registry, 9, "f"), [(vec![1, 2], vec![])]);
        assert_eq!(ports(&registry, 10, "f"), [(vec![2], vec![])]);
        assert!(registry.heartbeat(at(10), Token(1)).is_none(), "an ended lease is not renewed");
        let gone: Vec<PeerId> = registry.expire(at(10)).into_iter().map(|(id, _)| id).collect();
        assert_eq!(gone, [one]);
        assert_eq!(registry.next_expiry(), Some(at(19)));
        assert_eq!(registry.expire(at(19)).len(), 1);
        assert!(registry.files.is_empty() && registry.names.is_empty() && registry.tokens.is_empty());
    }

    #[test]
    fn peers_behind_one_address_are_not_mixed_up() {
        let mut registry = registry();
        let address = SocketAddr::from(([10, 0, 0, 1], 1));
        let name = EntityName::new("x").unwrap();
        let first = registry.register(at(0), Token(1), name.clone(), address).unwrap();
        let second = registry.register(at(5), Token(2), name, address).unwrap();
        registry.announce(first, &file(1, "f"), 10).unwrap();
        registry.announce(second, &file(1, "f"), 10).unwrap();
        assert_eq!(ports(&registry, 6, "f"), [(vec![1], vec![])], "named once");
        assert_eq!(registry.expire(at(10)).len(), 1);
        assert_eq!(ports(&registry, 11, "f"), [(vec![1], vec![])]);
    }

    #[test]
    fn whole_and_partial_and_two_files_under_one_name() {
        let mut registry = registry();
        let (one, two, three) =
            (join(&mut registry, 0, 1), join(&mut registry, 0, 2), join(&mut registry, 0, 3));
        registry.announce(one, &file(1, "f"), 10).unwrap();
        registry.announce(two, &file(1, "f"), 3).unwrap();
        registry.announce(three, &file(2, "f"), 10).unwrap();
        assert_eq!(ports(&registry, 1, "f"), [(vec![1], vec![2]), (vec![3], vec![])]);
        registry.announce(two, &file(1, "f"), 10).unwrap();
        registry.announce(three, &file(2, "g"), 10).unwrap();
        assert_eq!(ports(&registry, 1, "f"), [(vec![1, 2], vec![])]);
        registry.retract(one, FileId([1; 32]));
        registry.remove(two);
        assert_eq!(ports(&registry, 1, "f"), []);
        assert_eq!(ports(&registry, 1, "g"), [(vec![3], vec![])]);
    }

    #[test]
    fn a_lookup_leaves_the_asker_out_and_keeps_to_its_limit() {
        let mut registry = registry();
        let peers: Vec<PeerId> = (1..=40).map(|number| join(&mut registry, 0, number)).collect();
        for (number, peer) in peers.iter().enumerate() {
            registry.announce(*peer, &file(1, "f"), if number < 30 { 10 } else { 1 }).unwrap();
        }
        let mut random = fastrand::Rng::with_seed(3);
        let mut look =
            |except, limit| registry.lookup(at(0), None, Some(FileId([1; 32])), except, limit, &mut random).0;
        let found = &look(Some(peers[0]), 8)[0];
        assert_eq!((found.holders, found.whole.len(), found.partial.len()), (39, 4, 4));
        let found = &look(None, 35)[0];
        assert_eq!((found.whole.len(), found.partial.len()), (25, 10));
        assert!(look(None, 0)[0].whole.is_empty());
    }

    #[test]
    fn an_answer_is_bounded_however_many_files_share_a_name() {
        let mut registry = registry();
        let peers: Vec<PeerId> = (1..=30).map(|number| join(&mut registry, 0, number)).collect();
        for number in 0..=200 {
            for peer in &peers {
                registry.announce(*peer, &file(number, "f"), 10).unwrap();
            }
        }
        let name = FileName::new("f").unwrap();
        let mut random = fastrand::Rng::with_seed(3);
        let mut seen = BTreeSet::new();
        for _ in 0..50 {
            let (found, more) = registry.lookup(at(1), Some(&name), None, None, 512, &mut random);
            assert!(more && found.len() == FOUND_FILES_MAX);
            assert!(found.iter().map(|found| found.whole.len()).sum::<usize>() <= HOLDERS_MAX);
            seen.extend(found.iter().map(|found| found.file.id));
        }
        assert!(seen.len() > FOUND_FILES_MAX, "not always the same");
        let one = registry.lookup(at(1), Some(&name), Some(FileId([7; 32])), None, 512, &mut random);
        assert!(!one.1 && one.0[0].whole.len() == 30);
    }

    #[test]
    fn the_dead_are_not_named_before_they_are_removed() {
        let mut registry = registry();
        let peers: Vec<PeerId> = (1..=9).map(|number| join(&mut registry, 0, number)).collect();
        for peer in &peers {
            registry.announce(*peer, &file(1, "f"), 10).unwrap();
        }
        registry.heartbeat(at(5), Token(4));
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..50 {
            let (found, _) = registry.lookup(at(10), None, Some(FileId([1; 32])), None, 1, &mut random);
            assert_eq!(found[0].whole, [registry.peer(peers[3]).unwrap().address]);
        }
    }

    #[test]
    fn the_list_names_every_file_that_is_alive() {
        let mut registry = registry();
        let peers: Vec<PeerId> = (1..=9).map(|number| join(&mut registry, 0, number)).collect();
        for (at, peer) in peers.iter().enumerate() {
            registry.announce(*peer, &file(2, "b"), if at < 5 { 10 } else { 1 }).unwrap();
        }
        registry.announce(peers[0], &file(1, "b"), 10).unwrap();
        registry.announce(peers[0], &file(3, "a"), 1).unwrap();
        let list = |registry: &Registry, now, files| {
            let (found, all) = registry.list(at(now), 3, files, &mut fastrand::Rng::with_seed(1));
            let shown = |found: &FoundFile| {
                let FoundFile { file, holders, whole, partial, .. } = found;
                (file.name.to_string(), file.id.0[0], *holders, whole.len(), partial.len())
            };
            (found.iter().map(shown).collect::<Vec<_>>(), all)
        };
        let (a, one, two) = (("a".into(), 3, 1, 0, 1), ("b".into(), 1, 1, 1, 0), ("b".into(), 2, 9, 3, 3));
        assert_eq!(list(&registry, 1, 9), (vec![a.clone(), one, two], 3));
        assert_eq!(list(&registry, 1, 1), (vec![a], 3));
        assert_eq!(list(&registry, 10, 9), (vec![], 0), "all leases have ended");
        let changes = registry.changes();
        registry.announce(peers[0], &file(3, "a"), 2).unwrap();
        assert_eq!(registry.changes(), changes, "one chunk more is nothing that the list shows");
        registry.announce(peers[0], &file(3, "a"), 10).unwrap();
        assert!(registry.changes() > changes);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Join,
        Announce(usize, u8, u8, u32),
        Heartbeat(usize),
        Remove(usize),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Join),
            (0usize..8, 0u8..3, 0u8..3, 0u32..12).prop_map(|(p, f, n, h)| Step::Announce(p, f, n, h)),
            (0usize..8).prop_map(Step::Heartbeat),
            (0usize..8).prop_map(Step::Remove),
            (0u64..7).prop_map(Step::Pass),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_only_the_living_are_named(steps in prop::collection::vec(step(), 0..60)) {
            let mut registry = registry();
            let mut peers = Vec::new();
            let mut now = 0;
            for step in steps {
                match step {
                    Step::Join => peers.push(join(&mut registry, now, peers.len() as u16)),
                    Step::Announce(peer, f, name, held) => {
                        if let Some(peer) = peers.get(peer) {
                            registry.announce(*peer, &file(f, ["a", "b", "c"][name as usize]), held).unwrap();
                        }
                    }
                    Step::Heartbeat(peer) => {
                        registry.heartbeat(at(now), Token(peer as u128));
                    }
                    Step::Remove(peer) => {
                        peers.get(peer).map(|peer| registry.remove(*peer));
                    }
                    Step::Pass(seconds) => {
                        now += seconds;
                        registry.expire(at(now));
                    }
                }
                for name in ["a", "b", "c"] {
                    let name = FileName::new(name).unwrap();
                    let mut random = fastrand::Rng::with_seed(now);
                    for found in registry.lookup(at(now), Some(&name), None, None, 100, &mut random).0 {
                        prop_assert_eq!(found.holders as usize, found.whole.len() + found.partial.len());
                        prop_assert_eq!(&found.file.name, &name);
                        for address in found.whole.iter().chain(&found.partial) {
                            let peer = peers.get(address.port() as usize).and_then(|id| registry.peer(*id));
                            prop_assert!(peer.is_some_and(|peer| peer.expires > at(now)));
                        }
                    }
                }
                prop_assert!(registry.files.values().all(|file| file.holders.len() > 0));
                prop_assert_eq!(registry.tokens.len(), registry.peers.len());
            }
        }
    }
}
