//! Registry of a tracker: peers, their leases, files and their holders.
//!
//! Invariants: an expired peer is in no lookup result, even before [`Registry::expire`] has removed it (until
//! then it may be counted); a file without a holder is removed; a file name is known while a holder uses it.

mod aliases;
mod holders;
mod leases;
mod naming;
mod peers;

pub use peers::{Peer, PeerId, RemovedPeer};

use super::Moment;
use super::reach::Reaches;
use super::shares::{BudgetExceeded, BudgetKind, Budgets, Shares};
use crate::content::limits::{
    FILES_PER_PEER_MAX, FOUND_FILES_MAX, FRONT_PEERS_MAX, HOLDERS_MAX, PEERS_MAX, RERANKED_FILES_MAX,
};
use crate::content::{FileId, FileName, PeerName};
use crate::protocol::PeerAddress;
use crate::protocol::tracker::{FileSummary, FoundFile, Token};
use aliases::Aliases;
use holders::{Holder, Holders, Moved, Rank, Spot};
use leases::Leases;
use naming::SAMPLE_TRIES;
use peers::Peers;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Limit that rejects a registration or an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RegistryFull {
    /// Too many peers.
    #[error("peer limit reached ({PEERS_MAX})")]
    Peers,
    /// Too many files of one peer.
    #[error("file limit of this peer reached ({0}); raise it with tracker --files-per-peer")]
    Files(usize),
    /// Too many files or holders, of all peers or of one source address.
    #[error(transparent)]
    Budget(#[from] BudgetExceeded),
}

#[derive(Debug)]
struct File {
    id: FileId,
    size: u64,
    chunks: u32,
    /// The source address that announced it first; `None` for the tracker itself.
    charged: Option<IpAddr>,
    holders: Holders,
    /// Each name that holders give the file, with the number of holders that use it. A holder can use several.
    names: BTreeMap<FileName, u32>,
}

impl File {
    /// The name that most holders use.
    fn most_used_name(&self) -> Option<&FileName> {
        self.names.iter().max_by_key(|(_, count)| **count).map(|(name, _)| name)
    }
}

/// Rules for the entry of a holder.
#[derive(Clone, Copy)]
struct PutRules {
    /// Number of names of files that the peer may have.
    files_max: usize,
    /// Whether a new name of a file replaces the one before.
    replaces_name: bool,
}

/// Live peers, files and holders.
#[derive(Debug)]
pub struct Registry {
    lease: Duration,
    /// Increases with each change of files or holders.
    changes: u64,
    /// Number of entries for the tracker itself, which are not counted as peers.
    enrolled: usize,
    peers: Peers,
    /// Files by number. Freed numbers (`None`) are reused.
    files: Vec<Option<File>>,
    free: Vec<u32>,
    numbers: HashMap<FileId, u32>,
    names: HashMap<FileName, BTreeSet<FileId>>,
    aliases: Aliases,
    /// Use of the budgets by source addresses; the names of files that each holder uses are its entries.
    pub shares: Shares,
    /// Source IP addresses of the peers that are named by another address. A peer can choose the addresses that it
    /// registers, but not its source address.
    sources: HashMap<PeerId, IpAddr>,
    /// Number of files that each peer may announce; equal files count once for each name.
    pub files_max: usize,
    leases: Leases,
    /// Addresses of the peers and results of dialling them.
    pub reaches: Reaches,
    /// Peers at whose address another peer has registered since; they are not counted until their next heartbeat.
    displaced: HashSet<PeerId>,
}

impl Registry {
    /// An empty registry. A lease lasts `lease` after each heartbeat.
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
            aliases: Aliases::default(),
            shares: Shares::new(Budgets::default()),
            sources: HashMap::new(),
            files_max: FILES_PER_PEER_MAX,
            leases: Leases::new(lease),
            reaches: Reaches::default(),
            displaced: HashSet::new(),
        }
    }

    /// Number of registered peers.
    pub fn len(&self) -> usize {
        (self.peers.len() - self.enrolled).saturating_sub(self.displaced.len())
    }

    /// Version number: equal values mean that no file and no holder has changed.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether no peer is registered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Registers a peer and returns its id and token. The token contains the lower 104 bits of `secret`,
    /// which must be unguessable and new.
    ///
    /// # Errors
    /// Fails if [`PEERS_MAX`] peers are registered.
    pub fn register(
        &mut self,
        now: Moment,
        secret: u128,
        name: PeerName,
        address: SocketAddr,
    ) -> Result<(PeerId, Token), RegistryFull> {
        if self.peers.len() >= PEERS_MAX {
            return Err(RegistryFull::Peers);
        }
        let expires = now + self.lease;
        let (id, token) = self.peers.insert(secret, name, address, expires);
        self.leases.note(id, expires);
        self.shares.add_peer(address.ip());
        self.rank_new(id, address.ip());
        Ok((id, token))
    }

    /// Sets the rank of a new peer with this source address. No tracker has reached it yet.
    fn rank_new(&mut self, id: PeerId, source: IpAddr) {
        let is_crowded = self.shares.peers(source) > FRONT_PEERS_MAX;
        self.peers.set_rank(id, Rank { is_unreached: true, is_crowded });
    }

    /// Ranks a peer, and its first [`RERANKED_FILES_MAX`] files, again after a change of [`reaches`](Self::reaches).
    pub fn rank_again(&mut self, id: PeerId) {
        let before = self.peers.rank(id.slot());
        let rank = Rank { is_unreached: !self.reaches.is_reached(id), ..before };
        let Some(peer) = self.peers.get(id).filter(|_| rank != before) else { return };
        let files: Vec<u32> = peer.held.iter().take(RERANKED_FILES_MAX).map(|(file, _)| file).collect();
        self.peers.set_rank(id, rank);
        for file in files {
            let spot = self.peers.get(id).and_then(|peer| peer.held.get(file));
            if let Some(spot) = spot
                && let Some(holder) = self.take_out(file, spot)
            {
                self.put_in(file, holder, spot.is_whole());
            }
        }
    }

    /// Notes the source IP address of a new peer, if that is not the address by which it is named.
    pub fn set_source(&mut self, id: PeerId, source: IpAddr) {
        let Some(before) = self.source(id).filter(|before| *before != source) else { return };
        self.shares.remove_peer(before);
        self.shares.add_peer(source);
        self.sources.insert(id, source);
        self.rank_new(id, source);
    }

    /// The source IP address from which a peer registered.
    pub fn source(&self, id: PeerId) -> Option<IpAddr> {
        let named = || self.peers.get(id).map(|peer| peer.address.ip().to_canonical());
        self.sources.get(&id).copied().or_else(named)
    }

    /// The source address to which the entries of a peer are charged; `None` for the tracker itself.
    fn charged_source(&self, slot: u32) -> Option<IpAddr> {
        let id = self.peers.id_at(slot).filter(|_| !self.peers.is_enrolled(slot))?;
        self.source(id)
    }

    /// Adds the tracker itself as a holder. It needs no lease and is not counted as a peer.
    pub fn enroll(&mut self, name: PeerName, address: SocketAddr) -> PeerId {
        self.enrolled += 1;
        self.peers.enroll(name, address)
    }

    /// The peer with this token, if its lease has not expired.
    pub fn by_token(&self, now: Moment, token: Token) -> Option<PeerId> {
        self.peers.by_token(now, token)
    }

    /// Loads the entry of a peer into the processor cache. For a batch of requests the processor then loads
    /// several entries in parallel instead of waiting for each.
    pub fn prefetch(&self, token: Token) {
        std::hint::black_box(self.by_token(Moment::ZERO, token));
    }

    /// Renews the lease of the peer with this token. Each request with a valid token proves that the peer is
    /// alive.
    pub fn heartbeat(&mut self, now: Moment, token: Token) -> Option<PeerId> {
        let id = self.by_token(now, token)?;
        self.peers.renew(id, now + self.lease);
        if !self.displaced.is_empty() {
            self.displaced.remove(&id);
        }
        Some(id)
    }

    /// Changes the address by which a peer is named. Returns whether it differs from the one before.
    pub fn set_address(&mut self, id: PeerId, address: SocketAddr) -> bool {
        let source = self.source(id);
        let Some(peer) = self.peers.get_mut(id) else { return false };
        let changed = std::mem::replace(&mut peer.address, address) != address;
        if let Some(source) = source.filter(|source| *source != address.ip().to_canonical()) {
            self.sources.entry(id).or_insert(source);
        }
        self.changes += u64::from(changed);
        changed
    }

    /// Removes a peer from all counts, and ends its lease at `expires` at the latest, unless it sends a heartbeat before:
    /// another peer has registered at its address.
    pub fn displace(&mut self, id: PeerId, expires: Moment) {
        let Some(current) = self.peers.expires(id) else { return };
        let expires = expires.min(current);
        self.peers.renew(id, expires);
        self.leases.note(id, expires);
        self.displaced.insert(id);
        self.changes += 1;
    }

    /// Name, address and files of a peer.
    pub fn peer(&self, id: PeerId) -> Option<&Peer> {
        self.peers.get(id)
    }

    /// All peers, in no particular order.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter()
    }

    /// All peers with their ids, in no particular order.
    pub fn numbered_peers(&self) -> impl Iterator<Item = (PeerId, &Peer)> {
        self.peers.numbered()
    }

    /// Removes a peer and its files.
    pub fn remove(&mut self, id: PeerId) -> Option<RemovedPeer> {
        let charged = self.charged_source(id.slot());
        let source = self.source(id)?;
        let gone = self.peers.remove(id, source)?;
        self.reaches.remove(id);
        self.displaced.remove(&id);
        for (file, spot) in gone.peer.held.iter() {
            self.remove_holder(file, spot, charged);
        }
        if let Some(source) = charged {
            self.shares.remove_peer(source);
        }
        self.sources.remove(&id);
        Some(gone)
    }

    /// Removes the expired peers and returns them.
    pub fn expire(&mut self, now: Moment) -> Vec<(PeerId, RemovedPeer)> {
        let mut all = Vec::new();
        while let Some(id) = self.leases.due(now, |id| self.peers.expires(id)) {
            all.extend(self.remove(id).map(|gone| (id, gone)));
        }
        all
    }

    /// Time at which [`expire`](Self::expire) is due next: no lease expires earlier.
    pub fn next_expiry(&self) -> Option<Moment> {
        self.leases.next()
    }

    /// Registers a peer as holder of `held` chunks of a file, in addition to its other names of the file. Returns whether
    /// that is new: it had no chunk of the file before, has become complete, or uses a new name.
    ///
    /// # Errors
    /// Fails if the peer has announced [`files_max`](Self::files_max) files already, or if a budget is exceeded.
    pub fn announce(&mut self, id: PeerId, file: &FileSummary, held: u32) -> Result<bool, RegistryFull> {
        self.put(id, file, held, PutRules { files_max: self.files_max, replaces_name: false })
    }

    /// Like [`announce`](Self::announce) without the limit, for replicas that the tracker itself has placed. A new name
    /// replaces the one before.
    pub fn vouch(&mut self, id: PeerId, file: &FileSummary, held: u32) {
        // Without a limit it cannot fail.
        let _ = self.put(id, file, held, PutRules { files_max: usize::MAX, replaces_name: true });
    }

    /// Like [`vouch`](Self::vouch) for a further name of a file.
    pub fn vouch_also(&mut self, id: PeerId, file: &FileSummary, held: u32) {
        let _ = self.put(id, file, held, PutRules { files_max: usize::MAX, replaces_name: false });
    }

    fn put(
        &mut self,
        id: PeerId,
        summary: &FileSummary,
        held: u32,
        rules: PutRules,
    ) -> Result<bool, RegistryFull> {
        let Some(peer) = self.peers.get(id) else { return Ok(false) };
        let (slot, known) = (id.slot(), self.numbers.get(&summary.id).copied());
        let at = known.and_then(|number| Some((number, peer.held.get(number)?)));
        let before = at.and_then(|(number, spot)| {
            let (holder, whole) = self.files.get(number as usize)?.as_ref()?.holders.get(spot)?;
            let has_name = holder.name == summary.name || self.aliases.contains(slot, number, &summary.name);
            Some((holder.name.clone(), whole, has_name))
        });
        let has_name = before.as_ref().is_some_and(|(_, _, has_name)| *has_name);
        let adds_name = !has_name && (before.is_none() || !rules.replaces_name);
        if adds_name && peer.held.len() + self.aliases.count(slot) >= rules.files_max {
            return Err(RegistryFull::Files(rules.files_max));
        }
        let charged = self.charged_source(slot);
        let whole = held >= summary.chunks;
        let was_whole = before.as_ref().map(|(_, whole, _)| *whole);
        if has_name && was_whole == Some(whole) {
            return Ok(false);
        }
        if let Some(source) = charged.filter(|_| !has_name) {
            self.charge(source, adds_name && rules.files_max < usize::MAX, known.is_none())?;
        }
        self.changes += 1;
        let number = known.unwrap_or_else(|| self.number(summary, charged));
        let Some(name) = self.use_name(number, &summary.name, !has_name) else { return Ok(false) };
        let first = match before {
            Some((first, ..)) if has_name => first,
            Some((first, ..)) if rules.replaces_name => {
                self.release_name(number, &first, charged);
                name
            }
            Some((first, ..)) => {
                self.aliases.insert(slot, number, name);
                first
            }
            None => name,
        };
        at.and_then(|(number, spot)| self.take_out(number, spot));
        self.put_in(number, Holder { peer: slot, name: first }, whole);
        Ok(was_whole.is_none_or(|was_whole| whole && !was_whole) || adds_name)
    }

    /// Charges a source address for a name of a file, and for the file if it is new.
    fn charge(&mut self, source: IpAddr, is_limited: bool, is_new_file: bool) -> Result<(), BudgetExceeded> {
        if !is_limited {
            self.shares.charge_always(source, BudgetKind::Holders, 1);
            self.shares.charge_always(source, BudgetKind::Files, is_new_file.into());
            return Ok(());
        }
        self.shares.charge(source, BudgetKind::Holders, 1)?;
        let file = self.shares.charge(source, BudgetKind::Files, is_new_file.into());
        if file.is_err() {
            self.shares.refund(source, BudgetKind::Holders, 1);
        }
        file
    }

    /// The allocation of a name that all its holders share. A `new` user of the name is counted.
    fn use_name(&mut self, number: u32, name: &FileName, new: bool) -> Option<FileName> {
        let file = self.files.get_mut(number as usize)?.as_mut()?;
        let name = file.names.get_key_value(name).map_or(name, |(name, _)| name).clone();
        if new {
            *file.names.entry(name.clone()).or_default() += 1;
            self.names.entry(name.clone()).or_default().insert(file.id);
        }
        Some(name)
    }

    /// Assigns a number to a new file.
    fn number(&mut self, summary: &FileSummary, charged: Option<IpAddr>) -> u32 {
        let FileSummary { id, size, chunks, .. } = *summary;
        let (holders, names) = (Holders::default(), BTreeMap::new());
        let file = File { id, size, chunks, charged, holders, names };
        let number = self.free.pop().unwrap_or_else(|| {
            self.files.push(None);
            (self.files.len() - 1) as u32
        });
        self.files[number as usize] = Some(file);
        self.numbers.insert(id, number);
        number
    }

    /// Number of files that a peer has announced; equal files count once for each name.
    pub fn file_count(&self, id: PeerId) -> usize {
        self.peers.get(id).map_or(0, |peer| peer.held.len() + self.aliases.count(id.slot()))
    }

    /// Removes one name of a file of a peer. With its last name, or without a `name`, the peer no longer holds the file.
    pub fn retract(&mut self, id: PeerId, file: FileId, name: Option<&FileName>) {
        let charged = self.charged_source(id.slot());
        let (Some(number), Some(peer)) = (self.numbers.get(&file).copied(), self.peers.get_mut(id)) else {
            return;
        };
        let Some(spot) = peer.held.get(number) else { return };
        let Some(name) = name else {
            peer.held.remove(number);
            return self.remove_holder(number, spot, charged);
        };
        let slot = id.slot();
        if self.aliases.remove(slot, number, name) {
            self.changes += 1;
            return self.release_name(number, name, charged);
        }
        let Some(file) = self.files[number as usize].as_mut() else { return };
        let Some(holder) = file.holders.get_mut(spot).filter(|holder| holder.name == *name) else { return };
        match self.aliases.pop(slot, number) {
            Some(other) => {
                self.changes += 1;
                holder.name = other;
                self.release_name(number, name, charged);
            }
            None => {
                peer.held.remove(number);
                self.remove_holder(number, spot, charged);
            }
        }
    }

    /// Adds a holder to a file, at its rank.
    fn put_in(&mut self, number: u32, holder: Holder, whole: bool) {
        let (slot, rank) = (holder.peer, self.peers.rank(holder.peer));
        let Some(file) = self.files.get_mut(number as usize).and_then(Option::as_mut) else { return };
        let (spot, moved) = file.holders.add(holder, whole, rank);
        if let Some(held) = self.peers.held_at(slot) {
            held.put(number, spot);
        }
        self.note_moved(number, moved);
    }

    /// Removes a holder from a file.
    fn take_out(&mut self, number: u32, spot: Spot) -> Option<Holder> {
        let (holder, moved) = self.files.get_mut(number as usize)?.as_mut()?.holders.remove(spot)?;
        self.note_moved(number, moved);
        Some(holder)
    }

    /// Updates the positions of holders that have moved.
    fn note_moved(&mut self, number: u32, moved: Moved) {
        for (peer, spot) in moved.into_iter().flatten() {
            if let Some(held) = self.peers.held_at(peer) {
                held.put(number, spot);
            }
        }
    }

    fn remove_holder(&mut self, number: u32, spot: Spot, charged: Option<IpAddr>) {
        let Some(holder) = self.take_out(number, spot) else { return };
        self.changes += 1;
        self.release_name(number, &holder.name, charged);
        for name in self.aliases.take(holder.peer, number) {
            self.release_name(number, &name, charged);
        }
        let Some(file) = self.files[number as usize].as_mut() else { return };
        if file.holders.len() == 0 {
            self.numbers.remove(&file.id);
            if let Some(source) = file.charged {
                self.shares.refund(source, BudgetKind::Files, 1);
            }
            self.files[number as usize] = None;
            self.free.push(number);
        }
    }

    /// The name that most holders of a file use; `None` if the file is not known.
    pub fn name_of(&self, id: FileId) -> Option<&FileName> {
        self.file(id)?.1.most_used_name()
    }

    /// Decrements the number of users of a name, and refunds the source address of the user.
    fn release_name(&mut self, number: u32, name: &FileName, charged: Option<IpAddr>) {
        let Some(file) = self.files.get_mut(number as usize).and_then(Option::as_mut) else { return };
        let Some(count) = file.names.get_mut(name) else { return };
        *count -= 1;
        if let Some(source) = charged {
            self.shares.refund(source, BudgetKind::Holders, 1);
        }
        if *count > 0 {
            return;
        }
        file.names.remove(name);
        if let Some(ids) = self.names.get_mut(name) {
            ids.remove(&file.id);
            if ids.is_empty() {
                self.names.remove(name);
            }
        }
    }

    fn file(&self, id: FileId) -> Option<(u32, &File)> {
        let number = *self.numbers.get(&id)?;
        Some((number, self.files.get(number as usize)?.as_ref()?))
    }

    /// Finds the files with a name, an id, or both. Each has at most `limit` live holders drawn at random,
    /// without `except`, with the addresses that the requester can use. The flag is true if more files match than are
    /// returned.
    ///
    /// If more than [`FOUND_FILES_MAX`] files share a name, some are drawn at random; the more files, the
    /// fewer holders of each. So a response takes bounded time and space.
    #[expect(clippy::too_many_arguments, reason = "a query, its requester and the inputs of a pure decision")]
    pub fn lookup(
        &self,
        now: Moment,
        name: Option<&FileName>,
        id: Option<FileId>,
        except: Option<PeerId>,
        limit: usize,
        requester: IpAddr,
        random: &mut fastrand::Rng,
    ) -> (Vec<FoundFile>, bool) {
        let named = name.and_then(|name| self.names.get(name));
        let mut ids: Vec<FileId> = match (id, named) {
            (Some(id), _) => vec![id],
            (None, Some(named)) if named.len() <= FOUND_FILES_MAX => named.iter().copied().collect(),
            (None, Some(named)) => {
                // Ids are hashes: a random start is an unbiased choice.
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
        let found =
            ids.into_iter().filter_map(|id| self.found(now, id, name, except, limit, requester, random));
        (found.collect(), more)
    }

    /// Lists each name of the files with live holders, ordered by name and id: at most `files` files, each with at most
    /// `holders` complete and partial holders drawn at random. Also returns the total number of files.
    pub fn list(
        &self,
        now: Moment,
        holders: usize,
        files: usize,
        requester: IpAddr,
        random: &mut fastrand::Rng,
    ) -> (Vec<FoundFile>, usize) {
        let named =
            self.files.iter().flatten().flat_map(|file| file.names.keys().map(|name| (name, file.id)));
        let mut names: Vec<(&FileName, FileId)> = named.collect();
        // Only the files that will be listed are sorted and examined.
        let rest = names.len().saturating_sub(files);
        if rest > 0 && files > 0 {
            names.select_nth_unstable(files - 1);
        }
        names.truncate(files);
        names.sort_unstable();
        let found = names.into_iter().filter_map(|(name, id)| {
            let mut found = self.found(now, id, Some(name), None, 2 * holders, requester, random)?;
            found.whole.truncate(holders);
            found.partial.truncate(holders);
            // A list tells where a file is; a lookup follows before a download.
            for list in [&mut found.whole, &mut found.partial] {
                *list = std::mem::take(list).into_iter().map(|holder| holder.limited(1)).collect();
            }
            Some(found)
        });
        let listed: Vec<FoundFile> = found.collect();
        let all = listed.len() + rest;
        (listed, all)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one query, passed on by lookup and list")]
    fn found(
        &self,
        now: Moment,
        id: FileId,
        name: Option<&FileName>,
        except: Option<PeerId>,
        limit: usize,
        requester: IpAddr,
        random: &mut fastrand::Rng,
    ) -> Option<FoundFile> {
        let (number, file) = self.file(id)?;
        let mut sample =
            |whole| self.sample(now, file.holders.by_rank(whole), except, limit.max(1), requester, random);
        let (mut whole, mut partial) = (sample(true), sample(false));
        // Live holders that the requester cannot reach are counted, so that it can name the cause.
        let is_live = |holder: &Holder| self.peers.live_at(now, holder.peer).is_some();
        let holders = file.holders.list(true).iter().chain(file.holders.list(false));
        if whole.is_empty() && partial.is_empty() && !holders.take(SAMPLE_TRIES * limit.max(1)).any(is_live) {
            return None;
        }
        // Half of the places are for complete holders; each half uses the places that the other leaves free.
        whole.truncate(limit.saturating_sub(partial.len().min(limit / 2)));
        partial.truncate(limit - whole.len());
        let (mut holders, mut complete) = (file.holders.len(), file.holders.list(true).len());
        let displaced = self.displaced.iter().copied().filter(|peer| Some(*peer) != except);
        for spot in displaced.chain(except).filter_map(|peer| self.peers.get(peer)?.held.get(number)) {
            holders -= 1;
            complete -= usize::from(spot.is_whole());
        }
        Some(FoundFile {
            file: FileSummary {
                id,
                name: name.filter(|name| file.names.contains_key(name)).or(file.most_used_name())?.clone(),
                size: file.size,
                chunks: file.chunks,
            },
            holders: holders as u32,
            complete: complete as u32,
            whole,
            partial,
            md5: None,
        })
    }

    /// The addresses of the peer in a slot for a requester; `None` if the requester can use none.
    fn view(&self, slot: u32, peer: &Peer, requester: IpAddr) -> Option<PeerAddress> {
        self.reaches.view(self.peers.id_at(slot)?, peer.address, requester)
    }
}

#[cfg(test)]
mod tests;
