//! Peers, leases, files, and who has what.
//!
//! Invariants: a peer whose lease has ended is named in no answer, also before [`Registry::expire`] has
//! removed it (until then it may be counted); a file without a holder is forgotten; a name is known as long as a holder uses it.

mod holders;
mod leases;
mod peers;

pub use peers::{Gone, Peer, PeerId};

use super::Moment;
use crate::content::limits::{FILES_PER_PEER_MAX, FOUND_FILES_MAX, HOLDERS_MAX, PEERS_MAX};
use crate::content::{EntityName, FileId, FileName};
use crate::protocol::tracker::{FileSummary, FoundFile, Token};
use holders::{Holder, Holders, Spot};
use leases::Leases;
use peers::Peers;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Live holders that are looked at for each that is wanted.
const SAMPLE_TRIES: usize = 8;

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

#[derive(Debug)]
struct File {
    id: FileId,
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
    /// Rises with whatever changes who has what.
    changes: u64,
    /// Peers that are this program itself.
    enrolled: usize,
    peers: Peers,
    /// Files by number. Between them are numbers that wait to be used again.
    files: Vec<Option<File>>,
    free: Vec<u32>,
    numbers: HashMap<FileId, u32>,
    names: HashMap<FileName, BTreeSet<FileId>>,
    leases: Leases,
}

impl Registry {
    /// An empty registry whose peers live for `lease` after each heartbeat.
    pub fn new(lease: Duration) -> Self {
        Self {
            lease,
            changes: 0,
            enrolled: 0,
            peers: Peers::default(),
            files: Vec::new(),
            free: Vec::new(),
            numbers: HashMap::new(),
            names: HashMap::new(),
            leases: Leases::new(lease),
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

    /// Takes a peer in, and returns what it is known by from now on. `secret` must be unguessable in its lower 104 bits,
    /// and new: the token is made of those.
    ///
    /// # Errors
    /// When [`PEERS_MAX`] are there.
    pub fn register(
        &mut self,
        now: Moment,
        secret: u128,
        name: EntityName,
        address: SocketAddr,
    ) -> Result<(PeerId, Token), RegistryFull> {
        if self.peers.len() >= PEERS_MAX {
            return Err(RegistryFull::Peers);
        }
        let expires = now + self.lease;
        let (id, token) = self.peers.insert(secret, name, address, expires);
        self.leases.note(id, expires);
        Ok((id, token))
    }

    /// Takes in the tracker itself, which needs no lease. It is not counted among the peers.
    pub fn enroll(&mut self, name: EntityName, address: SocketAddr) -> PeerId {
        self.enrolled += 1;
        self.peers.enroll(name, address)
    }

    /// The peer with a token, if its lease has not ended.
    pub fn by_token(&self, now: Moment, token: Token) -> Option<PeerId> {
        self.peers.by_token(now, token)
    }

    /// Looks at the peer with a token, for the sake of looking: of many that are asked for soon the processor then fetches
    /// several at once, and waits for none of them alone.
    pub fn prefetch(&self, token: Token) {
        std::hint::black_box(self.by_token(Moment::ZERO, token));
    }

    /// Renews a lease: whoever proves to be a peer is alive, whatever it asks for.
    pub fn heartbeat(&mut self, now: Moment, token: Token) -> Option<PeerId> {
        let id = self.by_token(now, token)?;
        self.peers.renew(id, now + self.lease);
        Some(id)
    }

    /// What is known of a peer.
    pub fn peer(&self, id: PeerId) -> Option<&Peer> {
        self.peers.get(id)
    }

    /// All peers, in no order.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter()
    }

    /// Forgets a peer and all that it had.
    pub fn remove(&mut self, id: PeerId) -> Option<Gone> {
        let gone = self.peers.remove(id)?;
        for (file, spot) in gone.peer.held.iter() {
            self.remove_holder(file, spot);
        }
        Some(gone)
    }

    /// Removes the peers whose lease has ended and returns them.
    pub fn expire(&mut self, now: Moment) -> Vec<(PeerId, Gone)> {
        let mut all = Vec::new();
        while let Some(id) = self.leases.due(now, |id| self.peers.expires(id)) {
            all.extend(self.remove(id).map(|gone| (id, gone)));
        }
        all
    }

    /// When [`expire`](Self::expire) has something to look at next: no lease ends before.
    pub fn next_expiry(&self) -> Option<Moment> {
        self.leases.next()
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
        summary: &FileSummary,
        held: u32,
        files_max: usize,
    ) -> Result<bool, RegistryFull> {
        let Some(peer) = self.peers.get(id) else { return Ok(false) };
        let known = self.numbers.get(&summary.id).copied();
        let spot = known.and_then(|number| peer.held.get(number));
        if spot.is_none() && peer.held.len() >= files_max {
            return Err(RegistryFull::Files);
        }
        let whole = held >= summary.chunks;
        let number = known.unwrap_or_else(|| self.number(summary));
        let Some(file) = self.files[number as usize].as_mut() else { return Ok(false) };
        let before = spot.and_then(|spot| file.holders.get(spot));
        let was_whole = before.map(|(_, whole)| whole);
        if before.is_some_and(|(before, _)| before.name == summary.name) && was_whole == Some(whole) {
            return Ok(false);
        }
        self.changes += 1;
        // All who use a name share its bytes.
        let name = file.names.get_key_value(&summary.name).map_or(&summary.name, |(name, _)| name).clone();
        *file.names.entry(name.clone()).or_default() += 1;
        self.names.entry(name.clone()).or_default().insert(summary.id);
        let before = spot.and_then(|spot| self.take_out(number, spot));
        if let Some(file) = self.files[number as usize].as_mut() {
            let spot = file.holders.add(Holder { peer: id.place(), name }, whole);
            if let Some(held) = self.peers.held_at(id.place()) {
                held.put(number, spot);
            }
            if let Some(before) = before {
                release_name(&mut self.names, file, &before.name);
            }
        }
        Ok(was_whole.is_none_or(|was_whole| whole && !was_whole))
    }

    /// A number for a file that has none.
    fn number(&mut self, summary: &FileSummary) -> u32 {
        let FileSummary { id, size, chunks, .. } = *summary;
        let file = File { id, size, chunks, holders: Holders::default(), names: BTreeMap::new() };
        let number = self.free.pop().unwrap_or_else(|| {
            self.files.push(None);
            (self.files.len() - 1) as u32
        });
        self.files[number as usize] = Some(file);
        self.numbers.insert(id, number);
        number
    }

    /// Notes that a peer has nothing of a file any more.
    pub fn retract(&mut self, id: PeerId, file: FileId) {
        let (Some(number), Some(peer)) = (self.numbers.get(&file).copied(), self.peers.get_mut(id)) else {
            return;
        };
        if let Some(spot) = peer.held.remove(number) {
            self.remove_holder(number, spot);
        }
    }

    /// Takes a holder out of a file, and tells whoever takes its spot.
    fn take_out(&mut self, number: u32, spot: Spot) -> Option<Holder> {
        let (holder, moved) = self.files.get_mut(number as usize)?.as_mut()?.holders.remove(spot)?;
        if let Some(held) = moved.and_then(|peer| self.peers.held_at(peer)) {
            held.put(number, spot);
        }
        Some(holder)
    }

    fn remove_holder(&mut self, number: u32, spot: Spot) {
        let Some(holder) = self.take_out(number, spot) else { return };
        self.changes += 1;
        let Some(file) = self.files[number as usize].as_mut() else { return };
        release_name(&mut self.names, file, &holder.name);
        if file.holders.len() == 0 {
            self.numbers.remove(&file.id);
            self.files[number as usize] = None;
            self.free.push(number);
        }
    }

    fn file(&self, id: FileId) -> Option<(u32, &File)> {
        let number = *self.numbers.get(&id)?;
        Some((number, self.files.get(number as usize)?.as_ref()?))
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
            self.files.iter().flatten().filter_map(|file| Some((file.most_used_name()?, file.id))).collect();
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
        let (number, file) = self.file(id)?;
        let mut sample = |whole| self.sample(now, file.holders.list(whole), except, limit.max(1), random);
        let (mut whole, mut partial) = (sample(true), sample(false));
        if whole.is_empty() && partial.is_empty() {
            return None;
        }
        // Half of the places are for those who have it all, and each half takes what the other leaves.
        whole.truncate(limit.saturating_sub(partial.len().min(limit / 2)));
        partial.truncate(limit - whole.len());
        let asker = except.and_then(|peer| self.peers.get(peer)?.held.get(number)).is_some();
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
        // The place of one who has left may be another's by now.
        let except = except.filter(|peer| self.peers.get(*peer).is_some()).map(PeerId::place);
        // Start anywhere and go around until there are enough: a random choice without looking at the whole list.
        let start = random.usize(..list.len().max(1));
        let around = list[start..].iter().chain(&list[..start]).filter(|holder| Some(holder.peer) != except);
        let peers = around.filter_map(|holder| self.peers.live_at(now, holder.peer));
        let room = wanted.min(list.len());
        let (mut found, mut keys) = (Vec::with_capacity(room), Vec::with_capacity(room));
        // Many may share an address: who looks for others among them gives up at some point.
        for peer in peers.take(SAMPLE_TRIES * wanted) {
            let key = key_of(peer.address);
            // A few numbers in a row are looked through faster than any tree or table.
            if !(keys.contains(&key) && found.contains(&peer.address)) {
                found.push(peer.address);
                keys.push(key);
            }
            if found.len() >= wanted {
                break;
            }
        }
        found
    }
}

/// A number that is the same for the same address, and rarely for two.
fn key_of(address: SocketAddr) -> u64 {
    let ip = match address.ip() {
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64 ^ (ip.to_bits() as u64).rotate_left(7),
    };
    ip << 16 ^ ip >> 48 ^ u64::from(address.port())
}

/// One holder fewer uses a name.
fn release_name(names: &mut HashMap<FileName, BTreeSet<FileId>>, file: &mut File, name: &FileName) {
    let Some(count) = file.names.get_mut(name) else { return };
    *count -= 1;
    if *count > 0 {
        return;
    }
    file.names.remove(name);
    if let Some(ids) = names.get_mut(name) {
        ids.remove(&file.id);
        if ids.is_empty() {
            names.remove(name);
        }
    }
}

#[cfg(test)]
mod tests;
