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
    /// The tracker itself has none.
    token: Option<Token>,
    expires: Moment,
    files: Vec<FileId>,
}

impl Peer {
    /// When its lease ends, unless it is renewed.
    pub fn expires(&self) -> Moment {
        self.expires
    }
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
    /// Peers that are this program itself.
    enrolled: usize,
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
            enrolled: 0,
            peers: HashMap::new(),
            tokens: HashMap::new(),
            files: HashMap::new(),
            names: HashMap::new(),
            leases: BinaryHeap::new(),
        }
    }

    /// How many peers are registered.
    pub fn len(&self) -> usize {
        self.peers.len() - self.enrolled
    }

    /// A number that is the same only as long as nothing has changed in who has what.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether no peer is registered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
        self.peers.insert(id, Peer { name, address, token: Some(token), expires, files: Vec::new() });
        self.tokens.insert(token, id);
        self.leases.push(Reverse((expires, id)));
        Ok(id)
    }

    /// Takes in the tracker itself, which needs no lease. It is not counted among the peers.
    pub fn enroll(&mut self, name: EntityName, address: SocketAddr) -> PeerId {
        let id = PeerId(self.next);
        self.next += 1;
        let peer = Peer { name, address, token: None, expires: Moment::MAX, files: Vec::new() };
        self.peers.insert(id, peer);
        self.enrolled += 1;
        id
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
        if let Some(token) = peer.token {
            self.tokens.remove(&token);
        }
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
        self.put(id, file, held, FILES_PER_PEER_MAX)
    }

    /// The same for what the tracker itself has put there, which its own rules limit.
    pub fn vouch(&mut self, id: PeerId, file: &FileSummary, held: u32) {
        // Without a limit there is nothing to be full.
        let _ = self.put(id, file, held, usize::MAX);
    }

    fn put(
        &mut self,
        id: PeerId,
        file: &FileSummary,
        held: u32,
        files_max: usize,
    ) -> Result<bool, RegistryFull> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(false) };
        let entry = self.files.get(&file.id);
        let known = entry.is_some_and(|entry| entry.holders.places.contains_key(&id));
        if !known {
            if peer.files.len() >= files_max {
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
mod tests;
